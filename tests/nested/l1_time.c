/* Times a monitor's start in the machine in the middle, by the kernel's own trace of KVM, so that every
 * monitor is measured alike and need not be asked.
 *
 * usage: l1_time [-f] FILE... -- PROGRAM ARGUMENT...
 *
 * Reads the files first, so that they are in the page cache. Runs the program until its guest asks for
 * CPUID's leaf L2_MARK_LEAF, or with -f until the first entry into guest code, then kills it. Prints "first
 * US init US cpu US": microseconds from just before exec to that entry (kvm_entry), to that CPUID
 * (kvm_cpuid), and the process's CPU time; 0 for what did not happen, within five minutes. Linux
 * Documentation/trace/ftrace.rst; timestamps are CLOCK_MONOTONIC ("trace_clock"). */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "l2_mark.h"

#define TEXT(x) #x
#define NUMBER_TEXT(x) TEXT(x)
#define TRACE "/sys/kernel/tracing/"
#define WAIT_S 300

static void fail(const char *what)
{
    fprintf(stderr, "l1_time: %s: %s\n", what, strerror(errno));
    exit(125);
}

static void put(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);

    if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
        fail(path);
    close(fd);
}

/* Two instances: the first entry is kept however many follow (no overwriting), and the mark comes
 * alone. */
static void trace_begin(void)
{
    mount("tracefs", TRACE, "tracefs", 0, NULL);
    if (mkdir(TRACE "instances/entry", 0755) && errno != EEXIST)
        fail(TRACE "instances");
    mkdir(TRACE "instances/mark", 0755);
    put(TRACE "instances/entry/trace_clock", "mono");
    put(TRACE "instances/mark/trace_clock", "mono");
    put(TRACE "instances/entry/options/overwrite", "0");
    put(TRACE "instances/entry/buffer_size_kb", "16");
    put(TRACE "instances/mark/events/kvm/kvm_cpuid/filter", "function == " NUMBER_TEXT(L2_MARK_LEAF));
    put(TRACE "instances/entry/events/kvm/kvm_entry/enable", "1");
    put(TRACE "instances/mark/events/kvm/kvm_cpuid/enable", "1");
}

/* The time of the first event of an instance, in microseconds; 0 if there is none yet. */
static uint64_t first_event(const char *path, const char *event)
{
    FILE *f = fopen(path, "re");
    uint64_t us = 0;
    char line[512];

    if (!f)
        fail(path);
    while (!us && fgets(line, sizeof(line), f)) {
        unsigned long long s, fraction;
        const char *at = strstr(line, event);

        while (at && at > line &&
               at[-1] != ']') /* "task-pid [cpu] flags  SECONDS.MICROSECONDS: event: ..." */
            at--;
        if (at && line[0] != '#' && sscanf(at, " %*s %llu.%6llu: ", &s, &fraction) == 2)
            us = s * 1000000 + fraction;
    }
    fclose(f);
    return us;
}

static void read_through(const char *path)
{
    static char buffer[1 << 16];
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    while (fd >= 0 && read(fd, buffer, sizeof(buffer)) > 0)
        continue;
    if (fd >= 0)
        close(fd);
}

static uint64_t now_us(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

static uint64_t since(uint64_t at, uint64_t began)
{
    return at ? at - began : 0;
}

int main(int argc, char **argv)
{
    uint64_t began, entry = 0, mark = 0;
    struct rusage usage;
    bool first_only = argc > 1 && !strcmp(argv[1], "-f");
    int status, i = first_only ? 2 : 1;
    pid_t child;

    for (; i < argc && strcmp(argv[i], "--"); i++)
        read_through(argv[i]);
    if (i + 1 >= argc)
        return 2;
    trace_begin();
    began = now_us();
    child = fork();
    if (child == 0) {
        setsid();
        execv(argv[i + 1], argv + i + 1);
        fail(argv[i + 1]);
    }
    while (!mark && !(first_only && entry) && now_us() - began < WAIT_S * 1000000ull &&
           waitpid(child, &status, WNOHANG) == 0) {
        usleep(50000);
        if (first_only)
            entry = first_event(TRACE "instances/entry/trace", "kvm_entry");
        mark = first_event(TRACE "instances/mark/trace", "kvm_cpuid");
    }
    mark = mark ? mark : first_event(TRACE "instances/mark/trace", "kvm_cpuid");
    entry = first_event(TRACE "instances/entry/trace", "kvm_entry");
    kill(child, SIGKILL);
    wait4(child, &status, 0, &usage);
    printf("first %llu init %llu cpu %llu\n", (unsigned long long)since(entry, began),
           (unsigned long long)since(mark, began),
           (unsigned long long)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000 +
               (unsigned long long)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec));
    return 0;
}
