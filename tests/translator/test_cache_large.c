/* Large host pages under the code cache: when they are made, by whom, and hosts that make none. */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/translator/cache.h"

#define COLD_AT (3 * JITMEM_LARGE)
#define MEMORY (2 * COLD_AT)
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif

static bool host_can(void)
{
    struct jitmem m;
    bool can;

    assert_true(jitmem_open(&m, JITMEM_LARGE, NULL));
    can = jitmem_can_large(&m) && jitmem_make_large(&m, 0);
    if (!can)
        print_message("no large pages for shared memory here: %s\n", strerror(errno));
    jitmem_close(&m);
    return can;
}

struct fixture {
    struct jitmem m;
    struct large_worker *w;
    struct cache_large *l;
};

static bool open_all(struct fixture *f)
{
    if (!jitmem_open(&f->m, MEMORY, NULL))
        return false;
    f->w = large_worker_start();
    f->l = cache_large_open(f->w, &f->m, COLD_AT);
    return f->l != NULL;
}

static void close_all(struct fixture *f)
{
    large_worker_stop(f->w);
    cache_large_close(f->l);
    jitmem_close(&f->m);
}

static bool count_becomes(const struct cache_large *l, uint64_t want)
{
    for (unsigned i = 0; i < 2000 && cache_large_count(l) < want; i++)
        usleep(10000);
    return cache_large_count(l) == want;
}

static void ahead_of_the_front(void **state)
{
    struct fixture f;

    (void)state;
    if (!host_can())
        skip();
    assert_true(open_all(&f));
    cache_large_reached(f.l, LARGE_COLD, COLD_AT + LARGE_AFTER - 1);
    cache_large_reached(f.l, LARGE_HOT, LARGE_AFTER);
    assert_true(count_becomes(f.l, 1));
    cache_large_reached(f.l, LARGE_HOT, JITMEM_LARGE - LARGE_BEFORE - 1);
    f.m.rw[JITMEM_LARGE] = 42;
    cache_large_reached(f.l, LARGE_HOT, JITMEM_LARGE - LARGE_BEFORE);
    assert_true(count_becomes(f.l, 2));
    cache_large_reached(f.l, LARGE_HOT, LARGE_AFTER); /* a segment is used again */
    cache_large_reached(f.l, LARGE_COLD, COLD_AT + LARGE_AFTER);
    assert_true(count_becomes(f.l, 3));
    cache_large_reached(f.l, LARGE_HOT, COLD_AT); /* to the end of each part, and no further */
    cache_large_reached(f.l, LARGE_COLD, MEMORY);
    assert_true(count_becomes(f.l, MEMORY / JITMEM_LARGE));
    assert_int_equal(f.m.rx[JITMEM_LARGE], 42);
    close_all(&f);
}

static void small_fry(void **state)
{
    struct large_worker *w = large_worker_start();
    struct code_cache *cc = cache_new(MIB(4), w, NULL);

    (void)state;
    assert_non_null(cc);
    assert_null(cc->large);
    large_worker_stop(w);
    cache_free(cc);
}

static void the_cache_tells(void **state)
{
    struct large_worker *w;
    struct code_cache *cc;

    (void)state;
    if (!host_can())
        skip();
    w = large_worker_start();
    cc = cache_new(MIB(16), w, NULL);
    assert_non_null(cc);
    cache_advance(cc, cc->segments[0].hot + LARGE_AFTER, cc->segments[0].cold);
    assert_true(count_becomes(cc->large, 1));
    cache_advance(cc, cc->segments[0].hot + LARGE_AFTER, cc->segments[0].cold + LARGE_AFTER);
    assert_true(count_becomes(cc->large, 2));
    large_worker_stop(w);
    cache_free(cc);
}

/* From now on the host gives no large pages by itself, and fails to make them, or (asked about no bytes at
 * all) does not know of them. */
static bool host_refuses(int error, bool at_once)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_fsopen, 5, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_madvise, 0, 5),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, MADV_COLLAPSE, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, at_once ? 0 : 1, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (uint32_t)error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog prog = { .len = array_size(filter), .filter = filter };

    return !prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) && !prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog);
}

static int without(int error, bool at_once)
{
    struct fixture f;

    if (!host_refuses(error, at_once))
        return 77;
    if (!open_all(&f))
        return at_once ? 0 : 1;
    if (at_once)
        return 2;
    cache_large_reached(f.l, LARGE_HOT, COLD_AT);
    usleep(50000);
    cache_large_reached(f.l, LARGE_COLD, MEMORY);
    usleep(50000);
    if (cache_large_count(f.l))
        return 3;
    close_all(&f);
    return 0;
}

static void hosts_without(void **state)
{
    static const struct {
        int error;
        bool at_once;
    } hosts[] = { { EINVAL, true }, { EINVAL, false }, { ENOMEM, false }, { EAGAIN, false } };

    (void)state;
    for (size_t i = 0; i < array_size(hosts); i++) {
        int status;
        pid_t pid = fork();

        if (pid == 0)
            _exit(without(hosts[i].error, hosts[i].at_once));
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFEXITED(status));
        if (WEXITSTATUS(status) == 77) {
            print_message("seccomp filters are not to be had here\n");
            skip();
        }
        assert_int_equal(WEXITSTATUS(status), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ahead_of_the_front),
        cmocka_unit_test(small_fry),
        cmocka_unit_test(the_cache_tells),
        cmocka_unit_test(hosts_without),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
