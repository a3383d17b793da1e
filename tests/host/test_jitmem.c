/* Executable memory: split mapping, and the fallback where the host refuses memory files. */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "host/jitmem.h"

/* mov eax, imm32; ret */
static int code_run(struct jitmem *m, size_t off, uint32_t value)
{
    const uint8_t code[] = {
        0xb8, (uint8_t)value, (uint8_t)(value >> 8), (uint8_t)(value >> 16), (uint8_t)(value >> 24), 0xc3
    };
    int (*fn)(void);

    memcpy(m->rw + off, code, sizeof(code));
    *(void **)&fn = m->rx + off;
    return fn();
}

static void code_runs_at_the_other_address(void **state)
{
    struct jitmem m;

    (void)state;
    assert_true(jitmem_open(&m, 100000, NULL));
    assert_int_equal(m.size % 4096, 0);
    assert_true(m.size >= 100000);
    assert_true(jitmem_is_split(&m));
    assert_int_equal(m.rx[m.size - 1], 0);
    assert_int_equal(code_run(&m, 0, 0x12345678), 0x12345678);
    assert_int_equal(code_run(&m, m.size - 6, 77), 77);
    assert_int_equal(code_run(&m, 0, 5), 5);
    jitmem_close(&m);
    assert_null(m.rw);
    jitmem_close(&m);
}

static void each_side_lacks_a_right(void **state)
{
    struct jitmem m;

    (void)state;
    assert_true(jitmem_open(&m, 4096, NULL));
    m.rw[0] = 0xc3;
    for (int i = 0; i < 2; i++) {
        int status;
        pid_t pid = fork();

        if (pid == 0) {
            void (*fn)(void);

            signal(SIGSEGV, SIG_DFL);
            *(void **)&fn = m.rw;
            if (i)
                fn();
            else
                *(volatile uint8_t *)m.rx = 1;
            _exit(0);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    }
    jitmem_close(&m);
}

/* KiB that large pages map at an address of this process. */
static unsigned long large_at(const void *at)
{
    unsigned long start, end, kib, sum = 0;
    bool inside = false;
    char line[300];
    FILE *f = fopen("/proc/self/smaps", "r");

    assert_non_null(f);
    while (fgets(line, sizeof(line), f)) {
        if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
            inside = (uintptr_t)at >= start && (uintptr_t)at < end;
        else if (inside && sscanf(line, "ShmemPmdMapped: %lu", &kib) == 1)
            sum += kib;
    }
    fclose(f);
    return sum;
}

static void a_stretch_becomes_large(void **state)
{
    struct jitmem m;

    (void)state;
    assert_true(jitmem_open(&m, 3 * JITMEM_LARGE, NULL));
    assert_int_equal((uintptr_t)m.rw % JITMEM_LARGE, 0);
    assert_int_equal((uintptr_t)m.rx % JITMEM_LARGE, 0);
    assert_int_equal(code_run(&m, 2 * JITMEM_LARGE - 6, 99), 99);
    if (!jitmem_can_large(&m) || !jitmem_make_large(&m, JITMEM_LARGE)) {
        print_message("no large pages for shared memory here: %s\n", strerror(errno));
        jitmem_close(&m);
        skip();
    }
    assert_int_equal(m.rx[2 * JITMEM_LARGE - 5], 99);
    assert_int_equal(code_run(&m, 2 * JITMEM_LARGE - 6, 98), 98);
    assert_int_equal(large_at(m.rx), JITMEM_LARGE >> 10);
    assert_true(jitmem_make_large(&m, JITMEM_LARGE)); /* again */
    assert_true(jitmem_make_large(&m, 0));            /* nothing has been there */
    assert_int_equal(m.rx[0], 0);
    assert_int_equal(code_run(&m, 0, 97), 97);
    assert_int_equal(large_at(m.rx), 2 * JITMEM_LARGE >> 10);
    jitmem_close(&m);
}

static void impossible_size_is_told(void **state)
{
    struct yado_error err = YADO_ERROR_INIT;
    struct jitmem m;

    (void)state;
    assert_false(jitmem_open(&m, (size_t)1 << 60, &err));
    assert_int_equal(err.code, YADO_ERR_MEMORY);
    assert_null(m.rw);
    assert_false(jitmem_open(&m, 0, NULL));
    assert_false(jitmem_open(&m, SIZE_MAX, NULL));
}

/* Makes memfd_create fail with EPERM in this process from now on. */
static bool memfd_forbid(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_memfd_create, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog prog = { .len = array_size(filter), .filter = filter };

    return !prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) && !prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog);
}

static void falls_back_to_one_mapping(void **state)
{
    int status;
    pid_t pid;

    (void)state;
    pid = fork();
    if (pid == 0) {
        struct jitmem m;

        if (!memfd_forbid())
            _exit(77);
        if (!jitmem_open(&m, 8192, NULL) || jitmem_is_split(&m) || m.size != 8192)
            _exit(1);
        if (code_run(&m, 4096, 42) != 42)
            _exit(2);
        jitmem_close(&m);
        _exit(7);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77) {
        print_message("seccomp filters are not to be had here\n");
        skip();
    }
    assert_int_equal(WEXITSTATUS(status), 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(code_runs_at_the_other_address), cmocka_unit_test(each_side_lacks_a_right),
        cmocka_unit_test(a_stretch_becomes_large),        cmocka_unit_test(impossible_size_is_told),
        cmocka_unit_test(falls_back_to_one_mapping),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
