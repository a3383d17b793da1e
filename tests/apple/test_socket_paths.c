/* Listeners that come and go, and Unix sockets that stand for ports, on the backend over Apple's framework.
 */
#include "api.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

static struct {
    bool accepts;
    int fd; /* the program's end of the last connection; -1: none */
    unsigned calls;
} program;

static char in_path[64], out_path[64]; /* Unix sockets: to the guest, to the host */

static bool on_accept(void *ctx, const struct yado_socket_connection *c)
{
    (void)ctx;
    program.calls++;
    program.fd = program.accepts ? c->fd : -1;
    return program.accepts;
}

static struct yado_machine *machine_start(struct heard *h)
{
    struct yado_socket *s = yado_virtio_socket_new();
    struct yado_config *c = api_config();
    struct yado_machine *m;

    snprintf(in_path, sizeof(in_path), "/tmp/yado-in-%d", (int)getpid());
    snprintf(out_path, sizeof(out_path), "/tmp/yado-out-%d", (int)getpid());
    memset(&program, 0, sizeof(program));
    program.accepts = true;
    program.fd = -1;
    yado_socket_add_path_to_host(s, 77, out_path);
    yado_socket_add_path_to_guest(s, in_path, 88);
    yado_config_add_socket(c, s);
    m = api_machine(c, h);
    assert_true(yado_machine_set_socket_listener(m, 1000, on_accept, NULL, NULL));
    api_do(m, h, yado_machine_start);
    return m;
}

static void calls_wait(struct yado_machine *m, unsigned count)
{
    for (int i = 0; i < 5000 && program.calls < count; i++) {
        struct timespec ms = { .tv_nsec = 1000000 };

        yado_machine_dispatch(m);
        nanosleep(&ms, NULL);
    }
    assert_int_equal(program.calls, count);
}

static void readable_wait(int fd)
{
    struct pollfd p = { .fd = fd, .events = POLLIN };

    assert_int_equal(poll(&p, 1, 5000), 1);
}

static void talk(int from, int to)
{
    char buf[8] = { 0 };

    assert_int_equal(write(from, "hello", 5), 5);
    readable_wait(to);
    assert_int_equal(read(to, buf, sizeof(buf)), 5);
    assert_string_equal(buf, "hello");
}

static void expect_end(int fd)
{
    char c;

    readable_wait(fd);
    assert_int_equal(read(fd, &c, 1), 0);
}

static void listeners_come_and_go(void **state)
{
    struct heard h;
    struct yado_machine *m = machine_start(&h);
    int guest = -1;

    (void)state;
    assert_true(yado_machine_set_socket_listener(m, 1001, on_accept, NULL, NULL)); /* while it runs */
    program.accepts = false;
    assert_true(standin_guest_connects(0, 1001, &guest));
    calls_wait(m, 1);
    expect_end(guest); /* refused by the program: ends at once */
    close(guest);
    yado_machine_remove_socket_listener(m, 1001);
    assert_false(standin_guest_connects(0, 1001, &guest));
    expect_end(guest);
    close(guest);
    program.accepts = true;
    api_do(m, &h, yado_machine_stop); /* those that are left are there in the next run */
    api_do(m, &h, yado_machine_start);
    assert_true(standin_guest_connects(0, 1000, &guest));
    calls_wait(m, 2);
    talk(guest, program.fd);
    close(program.fd);
    close(guest);
    yado_machine_free(m);
}

/* Taken by the listener, and the machine ends before the program was asked. */
static void an_answer_comes_too_late(void **state)
{
    struct heard h;
    struct yado_machine *m = machine_start(&h);
    int guest = -1;

    (void)state;
    assert_true(standin_guest_connects(0, 1000, &guest));
    yado_machine_free(m);
    expect_end(guest);
    close(guest);
    assert_int_equal(program.calls, 0);
}

static void address_of(struct sockaddr_un *a, const char *path)
{
    *a = (struct sockaddr_un){ .sun_family = AF_UNIX };
    memcpy(a->sun_path, path, strlen(path));
}

static void paths_stand_for_ports(void **state)
{
    int here = socket(AF_UNIX, SOCK_STREAM, 0), there = socket(AF_UNIX, SOCK_STREAM, 0), guest = -1, fd;
    struct sockaddr_un a;
    struct heard h;
    struct yado_machine *m = machine_start(&h);

    (void)state;
    standin_guest_listens(0, 88);
    address_of(&a, in_path);
    assert_int_equal(connect(here, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(write(here, "x", 1), 1);
    for (int i = 0; i < 5000 && (guest = standin_guest_accepts(0, 88)) < 0; i++) {
        struct timespec ms = { .tv_nsec = 1000000 };

        nanosleep(&ms, NULL);
    }
    assert_true(guest >= 0);
    readable_wait(guest);
    assert_int_equal(read(guest, &(char){ 0 }, 1), 1);
    talk(guest, here);
    close(here);
    expect_end(guest);
    close(guest);

    assert_false(standin_guest_connects(0, 77, &guest)); /* nobody at the Unix socket */
    expect_end(guest);
    close(guest);
    address_of(&a, out_path);
    assert_int_equal(bind(there, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(listen(there, 1), 0);
    assert_true(standin_guest_connects(0, 77, &guest));
    fd = accept(there, NULL, NULL);
    talk(guest, fd);
    talk(fd, guest);
    close(fd);
    close(guest);
    close(there);
    unlink(out_path);
    yado_machine_free(m);
    assert_int_equal(access(in_path, F_OK), -1); /* removed with the machine */
}

/* A Unix socket that cannot be made fails the start, with nothing left behind. */
static void a_path_is_taken(void **state)
{
    struct yado_socket *s = yado_virtio_socket_new();
    struct yado_config *c = api_config();
    struct yado_machine *m;
    struct heard h;

    (void)state;
    yado_socket_add_path_to_guest(s, api_disk, 88); /* a file that is no socket */
    yado_config_add_socket(c, s);
    m = api_machine(c, &h);
    api_do(m, &h, yado_machine_start);
    assert_int_equal(h.last.code, YADO_ERR_IN_USE);
    assert_non_null(strstr(h.last.message, "sockets[0]"));
    assert_int_equal(access(api_disk, F_OK), 0);
    assert_int_equal(standin_machine_count(), 0);
    yado_machine_free(m);
}

#define T(f) cmocka_unit_test_setup_teardown(f, api_begin, api_end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(listeners_come_and_go),
        T(an_answer_comes_too_late),
        T(paths_stand_for_ports),
        T(a_path_is_taken),
    };

    standin_init();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
