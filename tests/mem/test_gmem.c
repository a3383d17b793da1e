/* Guest memory: slots, range checks with wrap-around, copies, the write hook, sizes that the host cannot
 * give. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "host/anonfile.h"
#include "mem/gmem.h"

#define LOW_END GIB(3)

static struct gmem *gmem_get(uint64_t size, uint64_t low_end)
{
    struct yado_error err = YADO_ERROR_INIT;
    struct gmem *mem = gmem_new(size, low_end, &err);

    if (!mem)
        fail_msg("%s", err.message);
    return mem;
}

static void small_ram_is_one_slot(void **state)
{
    struct gmem *mem = gmem_get(MIB(3), LOW_END);
    struct gmem_slot s;

    (void)state;
    assert_int_equal(gmem_slot_count(mem), 1);
    s = gmem_slot_at(mem, 0);
    assert_int_equal(s.gpa, 0);
    assert_int_equal(s.len, MIB(3));
    assert_int_equal(gmem_size(mem), MIB(3));
    assert_int_equal((uintptr_t)s.hva % MIB(2), 0);
    for (uint64_t i = 0; i < MIB(3); i += 4096)
        assert_int_equal(s.hva[i], 0);
    gmem_free(mem);
    gmem_free(NULL);
}

static void hole_splits_ram(void **state)
{
    struct gmem *mem = gmem_get(MIB(5), MIB(2));
    struct gmem_slot low, high;

    (void)state;
    assert_int_equal(gmem_slot_count(mem), 2);
    low = gmem_slot_at(mem, 0);
    high = gmem_slot_at(mem, 1);
    assert_int_equal(low.gpa, 0);
    assert_int_equal(low.len, MIB(2));
    assert_int_equal(high.gpa, GIB(4));
    assert_int_equal(high.len, MIB(3));
    /* Different bytes behind the two. */
    low.hva[0] = 1;
    assert_int_equal(high.hva[0], 0);
    assert_ptr_equal(gmem_span(mem, GIB(4) + 5, 1, GMEM_READ), high.hva + 5);
    assert_null(gmem_span(mem, MIB(2) - 1, 2, GMEM_READ));
    assert_null(gmem_span(mem, MIB(2), 1, GMEM_READ));
    assert_null(gmem_span(mem, GIB(4) - 1, 2, GMEM_READ));
    assert_non_null(gmem_span(mem, GIB(4), MIB(3), GMEM_WRITE));
    assert_null(gmem_span(mem, GIB(4), MIB(3) + 1, GMEM_WRITE));
    gmem_free(mem);
}

static void span_refuses_what_wraps(void **state)
{
    struct gmem *mem = gmem_get(MIB(1), LOW_END);

    (void)state;
    assert_non_null(gmem_span(mem, 0, MIB(1), GMEM_READ));
    assert_non_null(gmem_span(mem, MIB(1) - 1, 1, GMEM_READ));
    assert_null(gmem_span(mem, 0, 0, GMEM_READ));
    assert_null(gmem_span(mem, MIB(1), 1, GMEM_READ));
    assert_null(gmem_span(mem, 1, UINT64_MAX, GMEM_READ));
    assert_null(gmem_span(mem, UINT64_MAX, 1, GMEM_READ));
    assert_null(gmem_span(mem, UINT64_MAX, 2, GMEM_READ));
    assert_null(gmem_span(mem, UINT64_MAX - 4095, 8192, GMEM_READ));
    assert_null(gmem_span(mem, 4096, UINT64_MAX - 4095, GMEM_READ));
    gmem_free(mem);
}

struct hook_log {
    unsigned count;
    uint64_t gpa, len;
};

static void hook(void *ctx, uint64_t gpa, uint64_t len)
{
    struct hook_log *h = ctx;

    h->count++;
    h->gpa = gpa;
    h->len = len;
}

static void copies_are_all_or_nothing(void **state)
{
    struct gmem *mem = gmem_get(MIB(1), LOW_END);
    struct hook_log h = { 0 };
    char buf[16] = "untouched";

    (void)state;
    gmem_set_write_hook(mem, hook, &h);
    assert_true(gmem_write(mem, MIB(1) - 4, "abcd", 4));
    assert_int_equal(h.count, 1);
    assert_int_equal(h.gpa, MIB(1) - 4);
    assert_int_equal(h.len, 4);
    assert_true(gmem_read(mem, MIB(1) - 4, buf, 4));
    assert_memory_equal(buf, "abcduched", 9);
    assert_false(gmem_read(mem, MIB(1) - 4, buf, 5));
    assert_memory_equal(buf, "abcduched", 9);
    assert_false(gmem_write(mem, MIB(1) - 4, "ABCDE", 5));
    assert_int_equal(h.count, 1);
    assert_true(gmem_read(mem, MIB(1) - 4, buf, 4));
    assert_memory_equal(buf, "abcd", 4);
    gmem_free(mem);
}

static void overrun_stops_at_the_guard(void **state)
{
    struct gmem *mem = gmem_get(MIB(1), LOW_END);
    struct gmem_slot s = gmem_slot_at(mem, 0);

    (void)state;
    for (int i = 0; i < 2; i++) {
        int status;
        pid_t pid = fork();

        if (pid == 0) {
            volatile uint8_t *p = i ? s.hva + s.len : s.hva - 1;

            signal(SIGSEGV, SIG_DFL);
            *p = 1;
            _exit(0);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    }
    gmem_free(mem);
}

static void bad_sizes_are_told(void **state)
{
    struct yado_error err = YADO_ERROR_INIT;
    const uint64_t total = memory_facts_get().total;

    (void)state;
    assert_null(gmem_new(0, LOW_END, &err));
    assert_int_equal(err.code, YADO_ERR_INVALID_CONFIG);
    err = (struct yado_error)YADO_ERROR_INIT;
    assert_null(gmem_new(MIB(1) + 4096, LOW_END, &err));
    assert_int_equal(err.code, YADO_ERR_INVALID_CONFIG);
    assert_non_null(strstr(err.message, "memory size"));
    assert_true(total > MIB(64));
    err = (struct yado_error)YADO_ERROR_INIT;
    assert_null(gmem_new(align_up(total + 1, MIB(1)), LOW_END, &err));
    assert_int_equal(err.code, YADO_ERR_MEMORY);
    assert_non_null(strstr(err.message, "more than this host has"));
    err = (struct yado_error)YADO_ERROR_INIT;
    assert_null(gmem_new(UINT64_MAX & ~(MIB(1) - 1), LOW_END, &err));
    assert_int_equal(err.code, YADO_ERR_MEMORY);
}

/* A file size limit must be an error, not a signal that kills the embedder. Exit status 7: as it should be.
 */
static void file_size_limit_is_an_error(void **state)
{
    int status;
    pid_t pid;

    (void)state;
    pid = fork();
    if (pid == 0) {
        const struct rlimit limit = { MIB(1), MIB(1) };
        struct yado_error err = YADO_ERROR_INIT;

        setrlimit(RLIMIT_FSIZE, &limit);
        _exit(!gmem_new(MIB(2), LOW_END, &err) && err.code == YADO_ERR_MEMORY ? 7 : 1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_ram_is_one_slot),       cmocka_unit_test(hole_splits_ram),
        cmocka_unit_test(span_refuses_what_wraps),     cmocka_unit_test(copies_are_all_or_nothing),
        cmocka_unit_test(overrun_stops_at_the_guard),  cmocka_unit_test(bad_sizes_are_told),
        cmocka_unit_test(file_size_limit_is_an_error),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
