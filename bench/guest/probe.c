/* Rates of single kernel paths, and of whole commands, for bench/bench.py. Static, so that the same program
 * runs in every guest and on the host itself.
 *
 * usage: probe pipe|syscall|fault SECONDS          round trips, calls, page faults per second
 *        probe runs SECONDS FILE COMMAND [ARG]...  runs of a command per second, its input from FILE, its
 * output to /dev/null
 *
 * `runs` does not count a first run, which brings programs and data into memory (and, in a guest, into the
 * engine's caches), and ends after the run during which the time is over: at least one is counted. Prints
 * "rate NUMBER". */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int fail(const char *what)
{
    perror(what);
    return 1;
}

static int report(double count, double seconds)
{
    printf("rate %.3f\n", count / seconds);
    return 0;
}

/* One byte to a child and back. Both on one CPU: how fast two CPUs wake each other is the host's affair too.
 */
static int pipe_rate(double seconds)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(0, &one);
    int there[2], back[2];
    char byte = 0;
    if (sched_setaffinity(0, sizeof one, &one) || pipe(there) || pipe(back))
        return fail("pipe");
    pid_t child = fork();
    if (child < 0)
        return fail("fork");
    if (child == 0) {
        close(there[1]);
        while (read(there[0], &byte, 1) == 1)
            if (write(back[1], &byte, 1) != 1)
                _exit(1);
        _exit(0);
    }
    close(there[0]);
    double start = now(), end = start;
    long count = 0;
    for (; end - start < seconds; end = now())
        for (int i = 0; i < 100; i++, count++)
            if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1)
                return fail("pipe");
    close(there[1]);
    waitpid(child, NULL, 0);
    return report((double)count, end - start);
}

static int syscall_rate(double seconds)
{
    double start = now(), end = start;
    long count = 0;
    for (; end - start < seconds; end = now())
        for (int i = 0; i < 1000; i++, count++)
            syscall(SYS_getppid);
    return report((double)count, end - start);
}

/* First touches of anonymous memory, given back each time: a fault, a cleared page and its way into the page
 * table. */
static int fault_rate(double seconds)
{
    enum { PAGES = 1024, PAGE = 4096 };
    double start = now(), end = start;
    long count = 0;
    for (; end - start < seconds; end = now()) {
        char *memory = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED || madvise(memory, PAGES * PAGE, MADV_NOHUGEPAGE))
            return fail("mmap");
        for (int i = 0; i < PAGES; i++, count++)
            *(volatile char *)(memory + i * PAGE) = 1;
        munmap(memory, PAGES * PAGE);
    }
    return report((double)count, end - start);
}

static int run_once(const char *input, char **argv)
{
    posix_spawn_file_actions_t actions;
    pid_t child;
    int status = 0;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, input, O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
    int error = posix_spawnp(&child, argv[0], &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    if (error) {
        fprintf(stderr, "%s: %s\n", argv[0], strerror(error));
        return 1;
    }
    if (waitpid(child, &status, 0) != child)
        return fail("waitpid");
    if (status)
        fprintf(stderr, "%s: status 0x%x\n", argv[0], (unsigned)status);
    return status != 0;
}

static int run_rate(double seconds, const char *input, char **argv)
{
    if (run_once(input, argv))
        return 1;
    double start = now(), end = start;
    long count = 0;
    for (; count == 0 || end - start < seconds; end = now(), count++)
        if (run_once(input, argv))
            return 1;
    return report((double)count, end - start);
}

int main(int argc, char **argv)
{
    double seconds = argc > 2 ? atof(argv[2]) : 0;
    if (seconds > 0 && argc > 4 && !strcmp(argv[1], "runs"))
        return run_rate(seconds, argv[3], argv + 4);
    if (seconds > 0 && argc == 3 && !strcmp(argv[1], "pipe"))
        return pipe_rate(seconds);
    if (seconds > 0 && argc == 3 && !strcmp(argv[1], "syscall"))
        return syscall_rate(seconds);
    if (seconds > 0 && argc == 3 && !strcmp(argv[1], "fault"))
        return fault_rate(seconds);
    fprintf(stderr, "usage: probe pipe|syscall|fault SECONDS | runs SECONDS FILE COMMAND [ARG]...\n");
    return 2;
}
