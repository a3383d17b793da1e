/* The first and only program of the machine in the middle: a small Linux under QEMU's emulation that has a
 * /dev/kvm of its own.
 *
 * It loads the modules named in /modules, then runs the lines of /job one after another, arguments separated
 * by tabs, with the virtio port "job" as standard input, output and error. On the port "control" it reports
 * "start", "exit STATUS" for each line (128 + n for signal n) and "done"; a byte T that comes in there is
 * passed to the running program as SIGTERM. Then it switches the machine off. Whatever goes wrong is said on
 * the kernel's console. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define JOB_PORT "/dev/vport0p1"
#define CONTROL_PORT "/dev/vport0p2"
#define ARGS_MAX 64

static void end(const char *what)
{
    if (what)
        printf("l1: %s: %s\n", what, strerror(errno));
    fflush(stdout);
    sync();
    reboot(RB_POWER_OFF);
    for (;;)
        pause();
}

static void mount_all(void)
{
    mkdir("/proc", 0755);
    mkdir("/sys", 0755);
    mkdir("/tmp", 0755);
    mkdir("/dev", 0755);
    if (mount("dev", "/dev", "devtmpfs", 0, NULL) && errno != EBUSY)
        end("/dev");
    if (mount("proc", "/proc", "proc", 0, NULL) || mount("sys", "/sys", "sysfs", 0, NULL) ||
        mount("tmp", "/tmp", "tmpfs", 0, NULL))
        end("mount");
    mkdir("/dev/shm", 0755);
}

static void modules_load(void)
{
    FILE *list = fopen("/modules", "re");
    char name[256];

    while (list && fgets(name, sizeof(name), list)) {
        int fd;

        name[strcspn(name, "\n")] = 0;
        fd = open(name, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) && errno != EEXIST))
            printf("l1: %s: %s\n", name, strerror(errno));
        if (fd >= 0)
            close(fd);
    }
    if (list)
        fclose(list);
}

static int port_open(const char *path)
{
    for (unsigned i = 0; i < 500; i++) {
        int fd = open(path, O_RDWR | O_CLOEXEC);

        if (fd >= 0)
            return fd;
        usleep(10000);
    }
    end(path);
    return -1;
}

static pid_t start(char *line, int job)
{
    char *args[ARGS_MAX] = { NULL };
    sigset_t none;
    unsigned n = 0;
    pid_t child;

    for (char *p = strtok(line, "\t"); p && n < ARGS_MAX - 1; p = strtok(NULL, "\t"))
        args[n++] = p;
    child = fork();
    if (child)
        return child;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    dup2(job, 0);
    dup2(job, 1);
    dup2(job, 2);
    setsid();
    execv(args[0], args);
    dprintf(2, "l1: %s: %s\n", args[0], strerror(errno));
    _exit(127);
}

/* Says on the console where the threads of the child are: for a test that hangs. */
static void show(pid_t child)
{
    static const char *const files[] = { "comm", "status", "wchan", "syscall", "stack" };
    char path[300], text[2000];
    struct dirent *d;
    DIR *tasks;

    snprintf(path, sizeof(path), "/proc/%d/task", child);
    tasks = opendir(path);
    while (tasks && (d = readdir(tasks))) {
        for (unsigned i = 0; d->d_name[0] != '.' && i < sizeof(files) / sizeof(files[0]); i++) {
            int fd;
            ssize_t n;

            snprintf(path, sizeof(path), "/proc/%d/task/%.20s/%s", child, d->d_name, files[i]);
            fd = open(path, O_RDONLY | O_CLOEXEC);
            n = fd >= 0 ? read(fd, text, i == 1 ? 60 : sizeof(text)) : 0;
            printf("l1: thread %s %s: %.*s\n", d->d_name, files[i], (int)(n > 0 ? n : 0), text);
            if (fd >= 0)
                close(fd);
        }
    }
    if (tasks)
        closedir(tasks);
    fflush(stdout);
}

/* Until the child ends. */
static int wait_for(pid_t child, int control, int signals)
{
    struct pollfd fds[2] = { { .fd = control, .events = POLLIN }, { .fd = signals, .events = POLLIN } };
    int status;

    for (;;) {
        char byte;

        poll(fds, 2, -1);
        if (fds[0].revents & POLLIN && read(control, &byte, 1) == 1) {
            if (byte == 'T')
                kill(child, SIGTERM);
            else if (byte == 'S')
                show(child);
        }
        if (fds[1].revents & POLLIN) {
            struct signalfd_siginfo info;

            if (read(signals, &info, sizeof(info)) < 0)
                end("signalfd");
            if (waitpid(child, &status, WNOHANG) == child)
                return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
        }
    }
}

int main(void)
{
    static char line[8192];
    int job, control, signals;
    sigset_t child;
    FILE *jobs;

    mount_all();
    modules_load();
    control = port_open(CONTROL_PORT);
    job = port_open(JOB_PORT);
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    sigprocmask(SIG_BLOCK, &child, NULL);
    signals = signalfd(-1, &child, SFD_CLOEXEC);
    setenv("PATH", "/", 1);
    setenv("YADO_KVM_NESTED", "1", 1);
    setenv("YADO_TEST_ENGINE", "kvm", 1);
    jobs = fopen("/job", "re");
    if (!jobs)
        end("/job");
    while (fgets(line, sizeof(line), jobs)) {
        line[strcspn(line, "\n")] = 0;
        dprintf(control, "start\n");
        dprintf(control, "exit %d\n", wait_for(start(line, job), control, signals));
    }
    dprintf(control, "done\n");
    end(NULL);
    return 0;
}
