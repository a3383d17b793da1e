/* Guest memory: slots, range checks with wrap-around, copies, the write hook, sizes that the host cannot
 * give, pages given back, RAM in a file that other processes map. */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "host/anonfile.h"
#include "mem/gmem.h"

#define LOW_END GIB(3)

/* Most tests are run with private RAM and with RAM in a file: their state. */
static bool in_file(void **state)
{
    return *state != NULL;
}

static struct gmem *gmem_get(uint64_t size, uint64_t low_end, bool file)
{
    struct yado_error err = YADO_ERROR_INIT;
    struct gmem *mem = gmem_new(size, low_end, file, &err);

    if (!mem)
        fail_msg("%s", err.message);
    return mem;
}

static void small_ram_is_one_slot(void **state)
{
    struct gmem *mem = gmem_get(MIB(3), LOW_END, in_file(state));
    struct gmem_slot s;

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
    struct gmem *mem = gmem_get(MIB(5), MIB(2), in_file(state));
    struct gmem_slot low, high;

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
    struct gmem *mem = gmem_get(MIB(1), LOW_END, in_file(state));

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
    struct gmem *mem = gmem_get(MIB(1), LOW_END, in_file(state));
    struct hook_log h = { 0 };
    char buf[16] = "untouched";

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

static sigjmp_buf overrun;

static void on_segv(int number)
{
    (void)number;
    siglongjmp(overrun, 1);
}

/* Whether a store to p faults. In this process: a child has no guest memory at all. */
static bool store_faults(volatile uint8_t *p)
{
    struct sigaction action = { .sa_handler = on_segv }, before;
    bool faulted = true;

    sigaction(SIGSEGV, &action, &before);
    if (!sigsetjmp(overrun, 1)) {
        *p = 1;
        faulted = false;
    }
    sigaction(SIGSEGV, &before, NULL);
    return faulted;
}

static void overrun_stops_at_the_guard(void **state)
{
    struct gmem *mem = gmem_get(MIB(1), LOW_END, in_file(state));
    struct gmem_slot s = gmem_slot_at(mem, 0);

    assert_false(store_faults(s.hva));
    assert_false(store_faults(s.hva + s.len - 1));
    assert_true(store_faults(s.hva + s.len));
    assert_true(store_faults(s.hva - 1));
    gmem_free(mem);
}

static void children_do_not_inherit_ram(void **state)
{
    struct gmem *mem = gmem_get(MIB(1), LOW_END, in_file(state));
    struct gmem_slot s = gmem_slot_at(mem, 0);
    int status;
    pid_t pid;

    s.hva[0] = 1;
    pid = fork();
    if (pid == 0)
        _exit(store_faults(s.hva) ? 7 : 1);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 7);
    gmem_free(mem);
}

/* ---- giving memory back ---- */

/* How many of the pages in [at, at + len) the host holds. */
static unsigned resident(void *at, uint64_t len)
{
    unsigned char pages[MIB(8) / 4096];
    unsigned n = 0;

    assert_true(len <= MIB(8));
    assert_int_equal(mincore(at, len, pages), 0);
    for (uint64_t i = 0; i < len / 4096; i++)
        n += pages[i] & 1;
    return n;
}

static void discard_frees_whole_pages_only(void **state)
{
    struct gmem *mem = gmem_get(MIB(8), MIB(4), in_file(state));
    struct gmem_slot low = gmem_slot_at(mem, 0), high = gmem_slot_at(mem, 1);
    struct hook_log h = { 0 };

    memset(low.hva, 0x55, low.len);
    memset(high.hva, 0x55, high.len);
    assert_int_equal(resident(low.hva, MIB(8)), 2048);
    gmem_set_write_hook(mem, hook, &h);

    /* From the middle of page 1 to the middle of page 5: pages 2, 3 and 4 go. */
    assert_true(gmem_discard(mem, 4096 + 100, 4 * 4096));
    assert_int_equal(h.count, 1);
    assert_int_equal(h.gpa, 2 * 4096);
    assert_int_equal(h.len, 3 * 4096);
    assert_int_equal(resident(low.hva, MIB(8)), 2045);
    assert_int_equal(low.hva[2 * 4096 - 1], 0x55);
    assert_int_equal(low.hva[2 * 4096], 0);
    assert_int_equal(low.hva[5 * 4096 - 1], 0);
    assert_int_equal(low.hva[5 * 4096], 0x55);

    /* No whole page inside: nothing happens. */
    assert_true(gmem_discard(mem, 8 * 4096 + 1, 8190));
    assert_true(gmem_discard(mem, 8 * 4096 + 1, 1));
    assert_int_equal(h.count, 1);
    assert_int_equal(low.hva[8 * 4096 + 1], 0x55);

    /* The high slot, all of it, and it can be used again. */
    assert_true(gmem_discard(mem, GIB(4), MIB(4)));
    assert_int_equal(h.count, 2);
    assert_int_equal(resident(high.hva, MIB(4)), 0);
    assert_int_equal(low.hva[MIB(4) - 1], 0x55);
    high.hva[12345] = 7;
    assert_true(resident(high.hva, MIB(4)) > 0); /* one page, or a huge one */
    assert_int_equal(high.hva[12344], 0);
    gmem_free(mem);
}

static void discard_outside_ram_does_nothing(void **state)
{
    struct gmem *mem = gmem_get(MIB(8), MIB(4), in_file(state));
    struct gmem_slot low = gmem_slot_at(mem, 0);
    struct hook_log h = { 0 };

    gmem_set_write_hook(mem, hook, &h);
    memset(low.hva, 0x55, low.len);
    assert_false(gmem_discard(mem, 0, 0));
    assert_false(gmem_discard(mem, 0, MIB(4) + 1));
    assert_false(gmem_discard(mem, MIB(4) - 4096, 8192));
    assert_false(gmem_discard(mem, MIB(4), 4096));
    assert_false(gmem_discard(mem, GIB(4) - 4096, 8192));
    assert_false(gmem_discard(mem, 4096, UINT64_MAX - 4095));
    assert_false(gmem_discard(mem, UINT64_MAX - 4095, 4096));
    assert_int_equal(h.count, 0);
    assert_int_equal(resident(low.hva, MIB(4)), 1024);
    gmem_free(mem);
}

struct user {
    uint8_t *at;
    _Atomic bool stop;
    _Atomic uint64_t rounds;
    bool strange; /* a value that nobody wrote */
};

/* Writes and reads back pages that are discarded meanwhile: each byte is what was written, or zero. */
static void *use_pages(void *ctx)
{
    struct user *u = ctx;

    for (uint8_t mark = 1; !atomic_load(&u->stop); mark = (uint8_t)(mark % 255 + 1), u->rounds++) {
        for (unsigned i = 0; i < 64; i++)
            __atomic_store_n(u->at + i * 4096 + i, mark, __ATOMIC_RELAXED);
        for (unsigned i = 0; i < 64; i++) {
            uint8_t seen = __atomic_load_n(u->at + i * 4096 + i, __ATOMIC_RELAXED);

            u->strange |= seen && seen != mark;
        }
    }
    return NULL;
}

static void discard_while_in_use(void **state)
{
    struct gmem *mem = gmem_get(MIB(1), LOW_END, in_file(state));
    struct user u = { .at = gmem_slot_at(mem, 0).hva };
    pthread_t thread;

    assert_int_equal(pthread_create(&thread, NULL, use_pages, &u), 0);
    while (atomic_load(&u.rounds) < 500)
        assert_true(gmem_discard(mem, 0, 64 * 4096));
    atomic_store(&u.stop, true);
    pthread_join(thread, NULL);
    assert_false(u.strange);
    assert_true(gmem_discard(mem, 0, MIB(1)));
    assert_int_equal(resident(u.at, MIB(1)), 0);
    gmem_free(mem);
}

/* ---- RAM in a file ---- */

static struct gmem *file_get(uint64_t size, uint64_t low_end)
{
    struct gmem *mem = gmem_get(size, low_end, true);

    if (gmem_fd(mem) < 0) {
        print_message("RAM cannot be a memory file here\n");
        gmem_free(mem);
        skip();
    }
    return mem;
}

static uint64_t file_taken(const struct gmem *mem)
{
    struct stat st;

    assert_int_equal(fstat(gmem_fd(mem), &st), 0);
    return (uint64_t)st.st_blocks * 512;
}

/* Exit status 7: as it should be. */
static int child_maps(const struct gmem *mem, struct gmem_slot high)
{
    uint8_t *p = mmap(NULL, high.len, PROT_READ | PROT_WRITE, MAP_SHARED, gmem_fd(mem), (off_t)high.offset);

    if (p == MAP_FAILED || p[5000] != 0x55)
        return 1;
    p[5001] = 0x66;
    return 7;
}

static void other_processes_map_it(void **state)
{
    struct gmem *mem = file_get(MIB(5), MIB(2));
    struct gmem_slot low = gmem_slot_at(mem, 0), high = gmem_slot_at(mem, 1);
    int status, fd = gmem_fd(mem);
    uint8_t *again;
    pid_t pid;

    (void)state;
    assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
    assert_int_equal(low.offset, 0);
    assert_int_equal(high.offset, MIB(2));
    high.hva[5000] = 0x55;
    pid = fork();
    if (pid == 0)
        _exit(child_maps(mem, high));
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 7);
    assert_int_equal(high.hva[5001], 0x66);

    /* As code; and what is given back is zero there too. */
    again = mmap(NULL, MIB(3), PROT_READ | PROT_EXEC, MAP_SHARED, fd, (off_t)high.offset);
    assert_ptr_not_equal(again, MAP_FAILED);
    assert_int_equal(again[5001], 0x66);
    assert_true(gmem_discard(mem, GIB(4), 8192));
    assert_int_equal(again[5001], 0);
    high.hva[5001] = 1;
    assert_int_equal(again[5001], 1);
    munmap(again, MIB(3));
    gmem_free(mem);
    assert_int_equal(fcntl(fd, F_GETFD), -1);
}

static void private_ram_has_no_file(void **state)
{
    struct gmem *mem = gmem_get(MIB(1), LOW_END, false);

    (void)state;
    assert_int_equal(gmem_fd(mem), -1);
    gmem_free(mem);
}

/* Large pages are asked for where much is filled at once, hold what was there, and go back like others. */
static void large_pages_of_a_file(void **state)
{
    struct gmem *mem = file_get(MIB(9), MIB(4));
    struct gmem_slot low = gmem_slot_at(mem, 0), high = gmem_slot_at(mem, 1);

    (void)state;
    gmem_will_fill(mem, 0, MIB(2) - 1);  /* too little for one */
    gmem_will_fill(mem, MIB(3), MIB(2)); /* not RAM of one slot */
    gmem_will_fill(mem, GIB(4) + MIB(5), UINT64_MAX);
    assert_int_equal(file_taken(mem), 0);
    high.hva[MIB(2) + 77] = 0x55;
    gmem_will_fill(mem, GIB(4) + 4096, MIB(5) - 4096);
    assert_int_equal(high.hva[MIB(2) + 77], 0x55);
    if (file_taken(mem) != MIB(4)) /* the last MiB is no whole one */
        print_message("no large pages for shared memory here\n");
    memset(high.hva, 0x55, high.len);
    assert_int_equal(file_taken(mem), MIB(5));
    assert_true(gmem_discard(mem, GIB(4) + 4096, 4096));
    assert_true(file_taken(mem) <= MIB(5)); /* the host may need to keep a part of a large page */
    assert_int_equal(high.hva[4095], 0x55);
    assert_int_equal(high.hva[8192], 0x55);
    assert_true(gmem_discard(mem, GIB(4), MIB(5)));
    assert_int_equal(file_taken(mem), 0);
    assert_int_equal(high.hva[MIB(2) + 77], 0);
    assert_int_equal(low.hva[MIB(4) - 1], 0);
    gmem_free(mem);
}

static void bad_sizes_are_told(void **state)
{
    struct yado_error err = YADO_ERROR_INIT;
    const uint64_t total = memory_facts_get().total;

    (void)state;
    assert_null(gmem_new(0, LOW_END, false, &err));
    assert_int_equal(err.code, YADO_ERR_INVALID_CONFIG);
    err = (struct yado_error)YADO_ERROR_INIT;
    assert_null(gmem_new(MIB(1) + 4096, LOW_END, true, &err));
    assert_int_equal(err.code, YADO_ERR_INVALID_CONFIG);
    assert_non_null(strstr(err.message, "memory size"));
    assert_true(total > MIB(64));
    err = (struct yado_error)YADO_ERROR_INIT;
    assert_null(gmem_new(align_up(total + 1, MIB(1)), LOW_END, true, &err));
    assert_int_equal(err.code, YADO_ERR_MEMORY);
    assert_non_null(strstr(err.message, "more than this host has"));
    err = (struct yado_error)YADO_ERROR_INIT;
    assert_null(gmem_new(UINT64_MAX & ~(MIB(1) - 1), LOW_END, false, &err));
    assert_int_equal(err.code, YADO_ERR_MEMORY);
}

/* From now on the host refuses a system call, or, with `third` not -1, only calls with that third argument;
 * and a tmpfs of one's own. */
static bool host_refuses(uint32_t call, int third, int error)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_fsopen, 3, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)third, 0, third < 0 ? 0 : 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (uint32_t)error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog prog = { .len = array_size(filter), .filter = filter };

    return !prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) && !prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog);
}

/* Exit status 7: RAM is private, and does all that it should; 77: nothing can be refused here. */
static int without_file(uint32_t call, int third, int error)
{
    struct gmem *mem;
    uint8_t *p;

    if (!host_refuses(call, third, error))
        return 77;
    mem = gmem_new(MIB(4), LOW_END, true, NULL);
    if (!mem || gmem_fd(mem) != -1)
        return 1;
    p = gmem_slot_at(mem, 0).hva;
    gmem_will_fill(mem, 0, MIB(4));
    memset(p, 0x55, MIB(4));
    if (!gmem_discard(mem, MIB(1), MIB(2)) || p[MIB(1)] || p[MIB(3) - 1] || p[MIB(3)] != 0x55)
        return 2;
    gmem_free(mem);
    return 7;
}

/* A host without memory files, one that allows none with code, and one that takes no pages of them back. */
static void hosts_without_files(void **state)
{
    const struct {
        uint32_t call;
        int third, error;
    } refused[] = {
        { SYS_memfd_create, -1, ENOSYS },
        { SYS_memfd_create, -1, EACCES },
        { SYS_madvise, MADV_REMOVE, EINVAL },
    };

    (void)state;
    for (unsigned i = 0; i < array_size(refused); i++) {
        int status;
        pid_t pid = fork();

        if (pid == 0)
            _exit(without_file(refused[i].call, refused[i].third, refused[i].error));
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFEXITED(status));
        if (WEXITSTATUS(status) == 77)
            skip();
        assert_int_equal(WEXITSTATUS(status), 7);
    }
}

/* Limits of the process are errors. Exit status 7: as it should be. */
static void limits_are_errors(void **state)
{
    int status;
    pid_t pid;

    (void)state;
    pid = fork();
    if (pid == 0) {
        const struct rlimit file = { MIB(1), MIB(1) };
        struct yado_error err = YADO_ERROR_INIT;
        struct gmem *mem;

        setrlimit(RLIMIT_FSIZE, &file); /* has nothing to do with RAM */
        mem = gmem_new(MIB(2), LOW_END, false, &err);
        if (!mem)
            _exit(1);
        gmem_free(mem);
        mem = gmem_new(MIB(2), LOW_END, true, &err); /* no file as large: private */
        if (!mem || gmem_fd(mem) != -1)
            _exit(3);
        gmem_slot_at(mem, 0).hva[4096] = 1;
        if (!gmem_discard(mem, 0, MIB(1)) || gmem_slot_at(mem, 0).hva[4096])
            _exit(4);
        gmem_free(mem);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
        const struct rlimit space = { MIB(512), MIB(512) };
        setrlimit(RLIMIT_AS, &space);
        if (gmem_new(MIB(600), LOW_END, true, &err) || err.code != YADO_ERR_MEMORY)
            _exit(2);
#endif
        _exit(7);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 7);
}

#define BOTH(test) cmocka_unit_test_prestate(test, NULL), cmocka_unit_test_prestate(test, (void *)1)

int main(void)
{
    const struct CMUnitTest tests[] = {
        BOTH(small_ram_is_one_slot),
        BOTH(hole_splits_ram),
        BOTH(span_refuses_what_wraps),
        BOTH(copies_are_all_or_nothing),
        BOTH(overrun_stops_at_the_guard),
        BOTH(children_do_not_inherit_ram),
        BOTH(discard_frees_whole_pages_only),
        BOTH(discard_outside_ram_does_nothing),
        BOTH(discard_while_in_use),
        cmocka_unit_test(other_processes_map_it),
        cmocka_unit_test(private_ram_has_no_file),
        cmocka_unit_test(large_pages_of_a_file),
        cmocka_unit_test(hosts_without_files),
        cmocka_unit_test(bad_sizes_are_told),
        cmocka_unit_test(limits_are_errors),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
