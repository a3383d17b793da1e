/* Memory files in large pages.
 *
 * Theory of operation. What memfd_create makes is in a file system of the kernel's own, whose pages are small
 * unless the host's owner has set it otherwise (transparent_hugepage/shmem_enabled), and few have. But in a
 * tmpfs of one's own they are as its mount says (huge=always), and that takes no place in the tree of files:
 * a mount that is attached nowhere has all that it needs, and lives as long as the file does. To make one
 * takes the right to mount. Who does not have it may have it in a user namespace: so a child process that
 * shares our memory and descriptors makes one for itself, where the host allows that, and opens the file.
 *
 * Documentation/filesystems/tmpfs.rst; fsopen(2), fsmount(2), user_namespaces(7). */
#include "host/linux/anonfile_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHILD_STACK (64u << 10)
#define LARGE MIB(2)

struct request {
    const char *name;
    unsigned uid, gid;
    int fd; /* -1: error says why */
    int error;
};

static bool option(int fs, const char *key, const char *value)
{
    return syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, key, value, 0) == 0;
}

/* Also in the child, so system calls only. */
static int open_in_own_mount(const char *name)
{
    int fs = (int)syscall(SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC), mount = -1, fd = -1;

    if (fs < 0)
        return -1;
    if (option(fs, "huge", "always") && option(fs, "size", "0") && option(fs, "mode", "0700") &&
        syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0)
        mount = (int)syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
    if (mount >= 0)
        fd = (int)syscall(SYS_openat, mount, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd >= 0)
        syscall(SYS_unlinkat, mount, name, 0);
    const int saved = errno;
    if (mount >= 0)
        syscall(SYS_close, mount);
    syscall(SYS_close, fs);
    errno = saved;
    return fd;
}

/* Writes a file of /proc that says whom our users and groups are in the namespace: themselves. */
static bool write_text(const char *path, const char *text)
{
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CLOEXEC);
    const size_t len = strlen(text);
    const bool ok = fd >= 0 && syscall(SYS_write, fd, text, len) == (long)len;

    if (fd >= 0)
        syscall(SYS_close, fd);
    return ok;
}

static bool map_ids(const struct request *r)
{
    char user[40], group[40];

    snprintf(user, sizeof(user), "%u %u 1", r->uid, r->uid);
    snprintf(group, sizeof(group), "%u %u 1", r->gid, r->gid);
    return write_text("/proc/self/uid_map", user) && write_text("/proc/self/setgroups", "deny") &&
           write_text("/proc/self/gid_map", group);
}

static int child_main(void *arg)
{
    struct request *r = arg;

    r->fd = map_ids(r) ? open_in_own_mount(r->name) : -1;
    r->error = errno;
    syscall(SYS_exit, 0);
    return 0;
}

/* No signal handler of ours may run in the child, and none is to tell of its end. */
static void open_in_namespace(struct request *r)
{
    uint8_t *stack = malloc(CHILD_STACK);
    sigset_t all, callers;
    int pid = -1;

    r->error = ENOMEM;
    if (!stack)
        return;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &callers);
    pid = clone(child_main, stack + CHILD_STACK,
                CLONE_VM | CLONE_VFORK | CLONE_FILES | CLONE_NEWUSER | CLONE_NEWNS, r);
    if (pid < 0)
        r->error = errno;
    while (pid >= 0 && waitpid(pid, NULL, __WALL) < 0 && errno == EINTR)
        ;
    pthread_sigmask(SIG_SETMASK, &callers, NULL);
    free(stack);
}

int anonfile_open_large(const char *name, uint64_t size)
{
    struct request r = { .name = name, .uid = geteuid(), .gid = getegid(), .fd = open_in_own_mount(name) };

    r.error = errno;
    if (r.fd < 0)
        open_in_namespace(&r);
    if (r.fd >= 0)
        return anonfile_give_size(r.fd, size);
    errno = r.error;
    return -1;
}

/* Whether the host has given all of it, which is what it does where it gives large pages by itself. */
static bool is_whole(void *at)
{
    unsigned char given[LARGE >> 12];
    const size_t pages = LARGE / (size_t)sysconf(_SC_PAGESIZE);

    if (mincore(at, LARGE, given))
        return false;
    for (size_t i = 0; i < pages; i++)
        if (!(given[i] & 1))
            return false;
    return true;
}

/* The host waits for work on all its CPUs before it makes a large page of small ones, so it is not asked to
 * for nothing. */
bool anonfile_make_large(void *at)
{
    (void)*(volatile uint8_t *)at; /* the host refuses one of which there is nothing */
    return is_whole(at) || madvise(at, LARGE, MADV_COLLAPSE) == 0;
}
