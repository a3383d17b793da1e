/* Parts of a seed from pipes by name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <yado/yado.h>

/* A program that opens the pipe after `before_ms` and writes the text, if there is one, after as much again.
 */
static pid_t writer_start(const char *pipe_name, unsigned before_ms, const char *text)
{
    pid_t pid = fork();
    int fd;

    if (pid)
        return pid;
    usleep(before_ms * 1000);
    fd = open(pipe_name, O_WRONLY);
    usleep(before_ms * 1000);
    _exit(fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text));
}

static void seed_pipe(const char *pipe_name, unsigned before_ms, const char *text)
{
    pid_t pid = writer_start(pipe_name, before_ms, text);
    struct yado_error err = YADO_ERROR_INIT;
    struct yado_seed *s = yado_seed_new();
    int status;

    if (!yado_seed_set_file(s, YADO_SEED_USER_DATA, pipe_name, &err))
        fail_msg("%s", err.message);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    yado_seed_free(s);
}

/* Slow writers are waited for, one that never comes is not. */
static void writers_are_waited_for(void **state)
{
    struct yado_error err = YADO_ERROR_INIT;
    struct yado_seed *s = yado_seed_new();
    char name[] = "/tmp/yado-test-fifo-XXXXXX";

    (void)state;
    assert_non_null(mkdtemp(name));
    assert_int_equal(rmdir(name), 0);
    assert_int_equal(mkfifo(name, 0600), 0);
    seed_pipe(name, 0, "#cloud-config\n");
    seed_pipe(name, 300, "#cloud-config\n");
    seed_pipe(name, 300, "");
    seed_pipe(name, 3000, "#cloud-config\n"); /* after 3 s it is there, and says nothing for 3 more */
    alarm(60);                                /* not to wait for ever: the end of the process */
    assert_false(yado_seed_set_file(s, YADO_SEED_USER_DATA, name, &err));
    alarm(0);
    assert_int_equal(err.code, YADO_ERR_FILE);
    assert_non_null(strstr(err.message, name));
    assert_non_null(strstr(err.message, "nobody writes to"));
    yado_seed_free(s);
    unlink(name);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(writers_are_waited_for) };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
