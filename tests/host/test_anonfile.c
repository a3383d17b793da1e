/* Memory files in large pages: what they take, and that making one leaves nothing behind. */
#include <dirent.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "host/anonfile.h"

#define LARGE MIB(2)
#define NOBODY 65534
#define NO_LARGE_PAGE 79 /* the host has none at hand, or its owner lets nobody have any */

static unsigned count_in(const char *path)
{
    DIR *dir = opendir(path);
    unsigned n = 0;

    if (!dir)
        return 0;
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

static uint64_t taken(int fd)
{
    struct stat st;

    return fstat(fd, &st) ? 0 : (uint64_t)st.st_blocks * 512;
}

/* Maps the file at a multiple of 2 MiB. */
static uint8_t *map_at_multiple(int fd, size_t size, int prot)
{
    uint8_t *p = mmap(NULL, size + LARGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (p == MAP_FAILED)
        return MAP_FAILED;
    p = (uint8_t *)align_up((uintptr_t)p, LARGE);
    return mmap(p, size, prot, MAP_SHARED | MAP_FIXED, fd, 0);
}

/* What has to hold where the host does that at all. 0, or which of it does not. */
static int check(int fd)
{
    uint8_t *rw = map_at_multiple(fd, 4 * LARGE, PROT_READ | PROT_WRITE),
            *rx = map_at_multiple(fd, 4 * LARGE, PROT_READ | PROT_EXEC);
    char link[100], path[40];
    ssize_t n;

    if (rw == MAP_FAILED || rx == MAP_FAILED)
        return 1;
    if (taken(fd))
        return 2;
    rw[LARGE + 5] = 0xc3; /* RET */
    if (taken(fd) < LARGE)
        return NO_LARGE_PAGE;
    if (taken(fd) != LARGE)
        return 3;
    ((void (*)(void))(uintptr_t)(rx + LARGE + 5))();
    if (madvise(rw + LARGE, LARGE, MADV_REMOVE) || taken(fd) || rw[LARGE + 5])
        return 4;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    n = readlink(path, link, sizeof(link) - 1);
    link[n < 0 ? 0 : n] = '\0';
    return strcmp(link, "/test (deleted)") ? 5 : 0;
}

static void comes_in_large_pages(void **state)
{
    const unsigned before = count_in("/proc/self/fd"), tasks = count_in("/proc/self/task");
    const int fd = anonfile_open_large("test", 4 * LARGE);
    int result;

    (void)state;
    if (fd < 0) {
        print_message("no such files here: %s\n", strerror(errno));
        skip();
    }
    result = check(fd);
    if (result == NO_LARGE_PAGE) {
        print_message("no large page to be had\n");
        skip();
    }
    assert_int_equal(result, 0);
    assert_int_equal(count_in("/proc/self/fd"), before + 1);
    assert_int_equal(count_in("/proc/self/task"), tasks);
    assert_int_equal(waitpid(-1, NULL, __WALL), -1);
    assert_int_equal(errno, ECHILD);
    close(fd);
}

/* By a user namespace, unless the host forbids that: then with errno and nothing left behind. */
static int as_nobody(void)
{
    const unsigned before = count_in("/proc/self/fd");
    int fd;

    if (setgid(NOBODY) || setuid(NOBODY) || prctl(PR_SET_DUMPABLE, 1)) /* as behind an exec */
        return 77;
    fd = anonfile_open_large("test", 4 * LARGE);
    if (waitpid(-1, NULL, __WALL) != -1 || errno != ECHILD)
        return 10;
    if (getuid() != NOBODY || geteuid() != NOBODY)
        return 11;
    if (fd < 0)
        return count_in("/proc/self/fd") == before ? 78 : 12;
    return check(fd);
}

static void in_an_ordinary_users_process(void **state)
{
    int status;
    pid_t pid = fork();

    (void)state;
    if (pid == 0)
        _exit(as_nobody());
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) >= 77 && WEXITSTATUS(status) <= NO_LARGE_PAGE) {
        print_message("%s\n", WEXITSTATUS(status) == 77 ? "only root can try this" : "no such files here");
        skip();
    }
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void too_large_is_told(void **state)
{
    const unsigned before = count_in("/proc/self/fd");
    struct rlimit limit, small;

    (void)state;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    small = (struct rlimit){ LARGE, limit.rlim_max };
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    assert_int_equal(anonfile_open_large("test", 4 * LARGE), -1);
    assert_int_equal(anonfile_open("test", 4 * LARGE, true), -1);
    assert_int_equal(errno, EFBIG);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    assert_int_equal(anonfile_open_large("test", UINT64_MAX), -1);
    assert_int_equal(count_in("/proc/self/fd"), before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(comes_in_large_pages),
        cmocka_unit_test(in_an_ordinary_users_process),
        cmocka_unit_test(too_large_is_told),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
