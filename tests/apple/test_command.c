/* The command and the example on the stand-in: what a user on a Mac sees. Programs are given by YADO_COMMAND
 * and YADO_SIMPLEVM. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../machine/tiny_kernel.h"

static char kernel[64];
static char said[8192]; /* by the last program, on both streams */

/* Runs a program with "KERNEL" in its arguments replaced; its exit status, or -1. */
static int run(const char *program, const char *const *args)
{
    const char *argv[24] = { getenv(program) };
    int fds[2], status = -1;
    size_t len = 0;
    ssize_t got;
    pid_t pid;

    assert_non_null(argv[0]);
    for (unsigned i = 0; args[i]; i++)
        argv[i + 1] = strcmp(args[i], "KERNEL") ? args[i] : kernel;
    assert_int_equal(pipe(fds), 0);
    pid = fork();
    if (!pid) {
        int null = open("/dev/null", O_RDONLY);

        dup2(null, STDIN_FILENO);
        dup2(fds[1], STDOUT_FILENO);
        dup2(fds[1], STDERR_FILENO);
        close(fds[0]);
        close(fds[1]);
        alarm(60);
        execv(argv[0], (char *const *)argv);
        _exit(127);
    }
    close(fds[1]);
    while ((got = read(fds[0], said + len, sizeof(said) - 1 - len)) > 0)
        len += (size_t)got;
    said[len] = '\0';
    close(fds[0]);
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

#define RUN(program, ...) run(program, (const char *const[]){ __VA_ARGS__, NULL })

static void expect(int have, int want, const char *text)
{
    if (have != want || !strstr(said, text))
        fail_msg("status %d, not %d; \"%s\" not in: %s", have, want, text, said);
    if (strstr(said, "standin:"))
        fail_msg("%s", said);
}

static void guest(const uint8_t *code, size_t len)
{
    if (kernel[0])
        unlink(kernel);
    tiny_kernel_write(kernel, code, len);
}

static const uint8_t hello[] = { TINY_OUTB(0x3f8, 'h'), TINY_OUTB(0x3f8, 'i'), TINY_OUTB(0x3f8, '\n'),
                                 TINY_POWER_OFF, TINY_HALT };
static const uint8_t crash[] = { TINY_TRIPLE_FAULT, TINY_HALT };
static const uint8_t idle[] = { TINY_HALT };

static int begin(void **state)
{
    (void)state;
    setenv("YADO_STANDIN_GUEST", "1", 1);
    unsetenv("YADO_STANDIN_LACKS");
    guest(hello, sizeof(hello));
    return 0;
}

static int end(void **state)
{
    (void)state;
    unlink(kernel);
    kernel[0] = '\0';
    return 0;
}

static void the_command_runs_a_guest(void **state)
{
    (void)state;
    expect(RUN("YADO_COMMAND", "run", "--kernel", "KERNEL"), 0, "hi");
    expect(
        RUN("YADO_COMMAND", "run", "--engine", "apple", "--cpus", "2", "--kernel", "KERNEL", "--net", "none"),
        0, "hi");
    guest(crash, sizeof(crash));
    expect(RUN("YADO_COMMAND", "run", "--kernel", "KERNEL"), 1, "VZErrorDomain 1");
    guest(idle, sizeof(idle));
    expect(RUN("YADO_COMMAND", "run", "--kernel", "KERNEL", "--timeout", "1"), 4, "");
}

static void the_command_says_what_is_missing(void **state)
{
    (void)state;
    expect(RUN("YADO_COMMAND", "doctor"), 0, "engine apple: usable");
    expect(RUN("YADO_COMMAND", "doctor"), 0,
           "a guest may have: 1 to 64 CPUs, 16 MiB to 131072 MiB of memory");
    expect(RUN("YADO_COMMAND", "run", "--engine", "kvm", "--kernel", "KERNEL"), 1, "kvm");
    expect(RUN("YADO_COMMAND", "run", "--kernel", "KERNEL", "--net", "nat,forward=tcp:8022:22"), 1,
           "forward");
    expect(RUN("YADO_COMMAND", "run", "--kernel", "/nonexistent/kernel"), 1, "/nonexistent/kernel");
    setenv("YADO_STANDIN_LACKS", "entitlement", 1);
    expect(RUN("YADO_COMMAND", "doctor"), 1, "com.apple.security.virtualization");
    expect(RUN("YADO_COMMAND", "run", "--kernel", "KERNEL"), 1, "make sign");
    setenv("YADO_STANDIN_LACKS", "support", 1);
    expect(RUN("YADO_COMMAND", "run", "--kernel", "KERNEL"), 1, "this Mac cannot run virtual machines");
}

/* The crate's example never notices that its guest has stopped; ours ends then, and says by its status how.
 */
static void the_example_ends_with_its_guest(void **state)
{
    (void)state;
    expect(RUN("YADO_SIMPLEVM", "--kernel", "KERNEL", "--cpu", "2"), 0, "hi");
    guest(crash, sizeof(crash));
    expect(RUN("YADO_SIMPLEVM", "--kernel", "KERNEL"), 1, "VZErrorDomain 1");
    setenv("YADO_STANDIN_LACKS", "entitlement", 1);
    expect(RUN("YADO_SIMPLEVM", "--kernel", "KERNEL"), 1, "com.apple.security.virtualization");
}

#define T(f) cmocka_unit_test_setup_teardown(f, begin, end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(the_command_runs_a_guest),
        T(the_command_says_what_is_missing),
        T(the_example_ends_with_its_guest),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
