/* Sockets that never block, and the files of Unix sockets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/socket.h"

static char dir[64], path[80];

static ssize_t put(int fd, const char *text)
{
    struct iovec iov[2] = { { (void *)(uintptr_t)text, 1 },
                            { (void *)(uintptr_t)(text + 1), strlen(text) - 1 } };

    return socket_send(fd, iov, 2);
}

static ssize_t get(int fd, char *text, size_t len)
{
    struct iovec iov = { text, len };

    return socket_receive(fd, &iov, 1);
}

static void bytes_and_ends(void **state)
{
    char text[16] = "", block[65536] = "";
    struct iovec iov = { block, sizeof(block) };
    int fds[2];
    ssize_t n;

    (void)state;
    assert_int_equal(socket_pair(fds), 0);
    assert_int_equal(fcntl(fds[0], F_GETFD), FD_CLOEXEC);
    assert_int_equal(get(fds[1], text, 16), -EAGAIN);
    assert_int_equal(put(fds[0], "hello"), 5);
    assert_int_equal(get(fds[1], text, 16), 5);
    assert_string_equal(text, "hello");
    while ((n = socket_send(fds[0], &iov, 1)) > 0)
        ;
    assert_int_equal(n, -EAGAIN);
    assert_false(socket_is_over(fds[1]));
    socket_shutdown_send(fds[0]);
    assert_false(socket_is_over(fds[1]));
    while ((n = socket_receive(fds[1], &iov, 1)) > 0)
        ;
    assert_int_equal(n, 0);
    socket_shutdown_receive(fds[0]);
    assert_int_equal(put(fds[1], "xy"), -EPIPE); /* and no signal */
    assert_true(socket_is_over(fds[1]));
    close(fds[0]);
    close(fds[1]);
    assert_int_equal(socket_pair(fds), 0);
    close(fds[0]);
    assert_true(socket_is_over(fds[1]));
    close(fds[1]);
}

static void listening(void **state)
{
    struct socket_file file;
    int fd, client, served;
    char text[4];

    (void)state;
    assert_int_equal(socket_connect_unix(path, &client), ENOENT);
    assert_int_equal(socket_listen_unix(path, &fd, &file), 0);
    assert_int_equal(socket_accept(fd, &served), EAGAIN);
    assert_int_equal(socket_connect_unix(path, &client), 0);
    assert_int_equal(socket_accept(fd, &served), 0);
    assert_int_equal(put(client, "hi"), 2);
    assert_int_equal(get(served, text, 4), 2);
    close(client);
    close(served);
    close(fd);
    assert_int_equal(socket_connect_unix(path, &client), ECONNREFUSED);
    assert_int_equal(client, -1);
    socket_file_remove(path, &file);
    assert_int_equal(access(path, F_OK), -1);
}

static void files_that_are_there(void **state)
{
    struct socket_file file, other;
    int fd, fd2;
    char name[200];

    (void)state;
    assert_int_equal(socket_listen_unix(path, &fd, &file), 0);
    assert_int_equal(socket_listen_unix(path, &fd2, &other), EADDRINUSE); /* somebody listens */
    assert_int_equal(fd2, -1);
    close(fd);
    assert_int_equal(socket_listen_unix(path, &fd2, &other), 0); /* nobody does any more */
    socket_file_remove(path, &(struct socket_file){ .dev = other.dev, .ino = other.ino + 1 }); /* another's */
    assert_int_equal(access(path, F_OK), 0);
    socket_file_remove(path, &other);
    close(fd2);
    assert_int_equal(close(open(path, O_CREAT | O_WRONLY, 0600)), 0); /* no socket at all */
    assert_int_equal(socket_listen_unix(path, &fd, &file), EADDRINUSE);
    assert_int_equal(access(path, F_OK), 0);
    assert_int_equal(unlink(path), 0);
    memset(name, 'x', sizeof(name));
    name[SOCKET_PATH_MAX + 1] = '\0';
    assert_int_equal(socket_listen_unix(name, &fd, &file), ENAMETOOLONG);
    assert_int_equal(socket_connect_unix(name, &fd), ENAMETOOLONG);
    assert_int_equal(socket_listen_unix("", &fd, &file), ENOENT);
    assert_int_equal(socket_listen_unix("/no/such/folder/s", &fd, &file), ENOENT);
}

static void a_full_queue_is_no_error_for_ever(void **state)
{
    struct socket_file file;
    int fd, clients[4000], served, count = 0, error;

    (void)state;
    assert_int_equal(socket_listen_unix(path, &fd, &file), 0);
    assert_int_equal(listen(fd, 3), 0);
    while (!(error = socket_connect_unix(path, &clients[count])))
        assert_true(++count < 4000);
    assert_int_equal(error, EAGAIN);
    assert_int_equal(socket_accept(fd, &served), 0);
    assert_int_equal(socket_connect_unix(path, &clients[count++]), 0);
    while (count)
        close(clients[--count]);
    close(served);
    close(fd);
    socket_file_remove(path, &file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_and_ends),
        cmocka_unit_test(listening),
        cmocka_unit_test(files_that_are_there),
        cmocka_unit_test(a_full_queue_is_no_error_for_ever),
    };
    int failed;

    snprintf(dir, sizeof(dir), "/tmp/yado-test-socket-XXXXXX");
    if (!mkdtemp(dir))
        return 1;
    snprintf(path, sizeof(path), "%s/s", dir);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    rmdir(dir);
    return failed;
}
