/* File services, memory files, memory facts, thread start. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "host/anonfile.h"
#include "host/file.h"
#include "host/thread.h"

static int temp_file(char *path, size_t size, uint64_t bytes)
{
    const char *dir = getenv("TMPDIR");
    int fd;

    snprintf(path, size, "%s/yado-test-XXXXXX", dir ? dir : "/tmp");
    fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
    return fd;
}

static void facts_tell_kind_size_and_rights(void **state)
{
    char path[200];
    int fd = temp_file(path, sizeof(path), 12345), ro = open(path, O_RDONLY), ends[2];
    struct file_facts facts;

    (void)state;
    assert_int_equal(file_facts_get(fd, &facts), 0);
    assert_int_equal(facts.kind, FILE_KIND_REGULAR);
    assert_int_equal(facts.size, 12345);
    assert_true(facts.can_read && facts.can_write);
    assert_int_equal(file_facts_get(ro, &facts), 0);
    assert_true(facts.can_read && !facts.can_write);
    close(ro);
    ro = open("/", O_RDONLY | O_DIRECTORY);
    assert_int_equal(file_facts_get(ro, &facts), 0);
    assert_int_equal(facts.kind, FILE_KIND_DIRECTORY);
    close(ro);
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(file_facts_get(ends[1], &facts), 0);
    assert_int_equal(facts.kind, FILE_KIND_OTHER);
    close(ends[0]);
    close(ends[1]);
    assert_int_equal(file_facts_get(987654, &facts), EBADF);
    close(fd);
    unlink(path);
}

static void paths_are_found_again(void **state)
{
    char path[200], found[200], tiny[4];
    int fd = temp_file(path, sizeof(path), 0);
    struct stat st;

    (void)state;
    assert_int_equal(file_path_get(fd, found, sizeof(found)), 0);
    assert_string_equal(found, path);
    assert_int_equal(file_path_get(fd, tiny, sizeof(tiny)), ENAMETOOLONG);
    unlink(path);
    assert_true(file_path_get(fd, found, sizeof(found)) || stat(found, &st));
    close(fd);
    assert_true(file_path_get(fd, found, sizeof(found)) > 0);
}

static void locks_are_between_descriptions(void **state)
{
    char path[200];
    int a = temp_file(path, sizeof(path), 512), b = open(path, O_RDWR), c = open(path, O_RDONLY);

    (void)state;
    assert_int_equal(file_lock(a, true), 0);
    assert_int_equal(file_lock(a, true), 0);
    assert_int_equal(file_lock(b, true), EAGAIN);
    assert_int_equal(file_lock(c, false), EAGAIN);
    close(a);
    assert_int_equal(file_lock(c, false), 0);
    assert_int_equal(file_lock(b, true), EAGAIN);
    assert_int_equal(file_lock(b, false), 0);
    close(b);
    close(c);
    unlink(path);
}

static void ranges_become_zero(void **state)
{
    char path[200];
    int fd = temp_file(path, sizeof(path), 0);
    char data[16384], back[16384];
    int error;
    struct stat st;

    (void)state;
    memset(data, 'a', sizeof(data));
    assert_int_equal(write(fd, data, sizeof(data)), sizeof(data));
    error = file_punch_hole(fd, 4096, 4096);
    assert_true(!error || error == ENOTSUP);
    if (!error)
        memset(data + 4096, 0, 4096);
    error = file_zero_range(fd, 12288, 4096);
    assert_true(!error || error == ENOTSUP);
    if (!error)
        memset(data + 12288, 0, 4096);
    assert_int_equal(file_punch_hole(fd, 0, 0), 0);
    /* Never longer than it was. */
    error = file_zero_range(fd, 16384, 4096);
    assert_true(!error || error == ENOTSUP);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_size, sizeof(data));
    assert_int_equal(pread(fd, back, sizeof(back), 0), sizeof(back));
    assert_memory_equal(back, data, sizeof(data));
    assert_int_equal(file_sync_data(fd), 0);
    close(fd);
    assert_int_equal(file_sync_data(fd), EBADF);
    unlink(path);
}

static void memory_files_are_sized_and_private(void **state)
{
    int fd = anonfile_open("test", 70000, false);
    struct stat st;

    (void)state;
    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_size, 70000);
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    close(fd);
    errno = 0;
    assert_int_equal(anonfile_open("test", UINT64_MAX, false), -1);
    assert_int_equal(errno, EFBIG);
}

static void memory_facts_are_plausible(void **state)
{
    const struct memory_facts facts = memory_facts_get();

    (void)state;
    assert_true(facts.total >= MIB(64));
    assert_true(facts.total >= (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE));
    assert_true(facts.available <= facts.total);
}

struct thread_seen {
    sigset_t mask;
    char name[16];
};

static void *thread_look(void *arg)
{
    struct thread_seen *seen = arg;

    pthread_sigmask(SIG_SETMASK, NULL, &seen->mask);
    /* The starter sets the name. */
    for (int i = 0; i < 10000 && !strstr(seen->name, "a-name"); i++) {
        usleep(1000);
        prctl(PR_GET_NAME, seen->name);
    }
    return NULL;
}

static void threads_leave_signals_to_the_embedder(void **state)
{
    struct thread_seen seen = { 0 };
    sigset_t before, after;
    pthread_t thread;

    (void)state;
    pthread_sigmask(SIG_SETMASK, NULL, &before);
    assert_true(thread_start(&thread, "a-name-that-is-too-long", thread_look, &seen, NULL));
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    pthread_join(thread, NULL);
    assert_int_equal(sigismember(&before, SIGINT), sigismember(&after, SIGINT));
    assert_true(sigismember(&seen.mask, SIGINT) && sigismember(&seen.mask, SIGTERM) &&
                sigismember(&seen.mask, SIGCHLD) && sigismember(&seen.mask, SIGWINCH));
    assert_false(sigismember(&seen.mask, SIGSEGV) || sigismember(&seen.mask, SIGBUS));
    assert_string_equal(seen.name, "a-name-that-is-");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(facts_tell_kind_size_and_rights),       cmocka_unit_test(paths_are_found_again),
        cmocka_unit_test(locks_are_between_descriptions),        cmocka_unit_test(ranges_become_zero),
        cmocka_unit_test(memory_files_are_sized_and_private),    cmocka_unit_test(memory_facts_are_plausible),
        cmocka_unit_test(threads_leave_signals_to_the_embedder),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
