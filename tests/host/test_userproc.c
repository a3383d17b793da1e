/* Processes that run user code: registers, mappings, faults, kicks, and that nothing else can happen. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "host/anonfile.h"
#include "host/linux/userproc_stub.h"
#include "host/userproc.h"

#define PAGE 4096u
#define RAM_SIZE MIB(16)
#define CODE_VA 0x400000u
#define DATA_VA 0x7fff00000000u
#define DATA_OFFSET 0x10000u
#define FLAGS_ALL 0x40cd5u /* AC OF DF SF ZF AF PF CF; without IF */

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI };

struct fixture {
    int fd;
    uint8_t *ram; /* code at its beginning, data at DATA_OFFSET */
    struct userproc *p;
    struct userproc_regs regs;
    uint8_t *xsave;
    struct userproc_exit exit;
};

static bool map(struct fixture *f, uint64_t va, uint64_t len, uint64_t offset, unsigned prot)
{
    return userproc_set_maps(f->p, &(struct userproc_map){ va, len, offset, prot }, 1);
}

static int setup(void **state)
{
    struct yado_error err = YADO_ERROR_INIT;
    struct fixture *f = calloc(1, sizeof(*f));

    f->fd = anonfile_open("ram", RAM_SIZE, true);
    f->ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, f->fd, 0);
    assert_ptr_not_equal(f->ram, MAP_FAILED);
    if (!userproc_make(&f->p, f->fd, &err)) {
        print_message("%s\n", err.message);
        return -1;
    }
    f->xsave = calloc(1, userproc_xsave_size(f->p));
    assert_true(userproc_get_xsave(f->p, f->xsave));
    f->regs.rip = CODE_VA;
    f->regs.rflags = 0x202;
    assert_true(map(f, CODE_VA, PAGE, 0, USERPROC_X));
    assert_true(map(f, DATA_VA, PAGE, DATA_OFFSET, USERPROC_W));
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    userproc_free(f->p);
    munmap(f->ram, RAM_SIZE);
    close(f->fd);
    free(f->xsave);
    free(f);
    return 0;
}

/* Runs from where the registers say. */
static enum userproc_why go(struct fixture *f)
{
    assert_true(userproc_run(f->p, &f->regs, f->xsave, &f->exit));
    return f->exit.why;
}

/* Runs a piece of code from its beginning. */
#define run_code(f, ...)                                                                                     \
    ({                                                                                                       \
        const uint8_t code_[] = { __VA_ARGS__ };                                                             \
        memcpy((f)->ram, code_, sizeof(code_));                                                              \
        (f)->regs.rip = CODE_VA;                                                                             \
        go(f);                                                                                               \
    })

#define SYSCALL 0x0f, 0x05

/* ---- registers ---- */

static void registers_go_there_and_back(void **state)
{
    struct fixture *f = *state;
    uint64_t want[16];

    for (int i = 0; i < 16; i++)
        want[i] = f->regs.gpr[i] = 0x0123456789abcdefu * (unsigned)(i + 1);
    f->regs.fs_base = 0x7f1234567000;
    f->regs.gs_base = 0x12345;
    /* add $1, %rax; rol %r15; syscall */
    assert_int_equal(run_code(f, 0x48, 0x83, 0xc0, 0x01, 0x49, 0xd1, 0xc7, SYSCALL), USERPROC_SYSCALL);
    want[RAX] += 1;
    want[15] = want[15] << 1 | want[15] >> 63;
    want[RCX] = CODE_VA + 9;
    for (int i = 0; i < 16; i++)
        if (i != 11) /* the flags */
            assert_int_equal(f->regs.gpr[i], want[i]);
    assert_int_equal(f->regs.rip, CODE_VA + 9);
    assert_int_equal(f->regs.fs_base, 0x7f1234567000);
    assert_int_equal(f->regs.gs_base, 0x12345);
    assert_false(f->exit.selectors_changed);
}

/* What a trap was, and where it leaves RIP. */
static void traps_are_told_apart(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(run_code(f, 0xcc), USERPROC_TRAP); /* int3 */
    assert_true(f->exit.int3 && !f->exit.step);
    assert_int_equal(f->regs.rip, CODE_VA + 1);
    assert_int_equal(run_code(f, 0xcd, 0x03), USERPROC_TRAP); /* int $3 */
    assert_true(f->exit.int3 && !f->exit.step);
    assert_int_equal(f->regs.rip, CODE_VA + 2);
    assert_int_equal(run_code(f, 0xf1),
                     USERPROC_TRAP); /* icebp; where RIP is then is not the same everywhere */
    assert_false(f->exit.int3 || f->exit.step);
    f->regs.gpr[RSP] = DATA_VA + 64;
    memcpy(f->ram + DATA_OFFSET + 64, &(uint64_t[]){ 0x302, 0x202 }, 16);
    assert_int_equal(run_code(f, 0x9d, 0x9d, 0x0f, 0x0b), USERPROC_TRAP); /* popfq; popfq; ud2 */
    assert_true(f->exit.step && !f->exit.int3);
    assert_int_equal(f->regs.rip, CODE_VA + 2);
    assert_int_equal(f->regs.rflags & 0x100, 0);
    assert_int_equal(run_code(f, 0x0f, 0x0b), USERPROC_TRAP); /* ud2 */
    assert_false(f->exit.int3 || f->exit.step);
}

static void bases_are_used(void **state)
{
    struct fixture *f = *state;

    f->regs.fs_base = DATA_VA;
    f->regs.gs_base = DATA_VA + 8;
    memcpy(f->ram + DATA_OFFSET, "11111111", 8);
    memcpy(f->ram + DATA_OFFSET + 8, "22222222", 8);
    /* mov %fs:0, %rax; mov %gs:0, %rbx; ud2 */
    assert_int_equal(run_code(f, 0x64, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0, 0x65, 0x48, 0x8b, 0x1c, 0x25, 0, 0,
                              0, 0, 0x0f, 0x0b),
                     USERPROC_TRAP);
    assert_memory_equal(&f->regs.gpr[RAX], "11111111", 8);
    assert_memory_equal(&f->regs.gpr[RBX], "22222222", 8);
}

static void flags_go_there_and_back(void **state)
{
    static const uint64_t bits[] = { 1, 4, 0x10, 0x40, 0x80, 0x400, 0x800, 0x40000, 0x200000 };
    struct fixture *f = *state;

    f->regs.gpr[RSP] = DATA_VA + 64;
    for (size_t i = 0; i < array_size(bits); i++) {
        for (int all = 0; all < 2; all++) {
            const uint64_t flags = 0x202 | (all ? (FLAGS_ALL | 0x200000) & ~bits[i] : bits[i]);

            f->regs.rflags = flags;
            /* pushfq; pop %rbx; int3 */
            assert_int_equal(run_code(f, 0x9c, 0x5b, 0xcc), USERPROC_TRAP);
            assert_int_equal(f->regs.rip, CODE_VA + 3);
            assert_int_equal(f->regs.gpr[RBX], flags);
            assert_int_equal(f->regs.rflags, flags);
        }
    }
}

/* System flags in what is passed do not reach the process. */
static void other_flags_do_not_count(void **state)
{
    struct fixture *f = *state;

    f->regs.gpr[RSP] = DATA_VA + 64;
    f->regs.rflags = 0x1b7300; /* VIP VIF VM RF NT IOPL TF IF off */
    assert_int_equal(run_code(f, 0x9c, 0x5b, 0x90, 0xcc), USERPROC_TRAP);
    assert_int_equal(f->regs.rip, CODE_VA + 4);
    assert_int_equal(f->regs.gpr[RBX], 0x202);
}

static void vector_registers_go_there_and_back(void **state)
{
    struct fixture *f = *state;
    uint8_t *xmm = f->xsave + 160, *ymm = f->xsave + 576;
    const bool avx = __builtin_cpu_supports("avx");

    memset(xmm, 0x5a, 32);
    memset(ymm, 0xa5, 32);
    f->xsave[512] |= (uint8_t)(avx ? 7 : 3);
    f->xsave[24] = 0x80; /* MXCSR: 0x1f80 becomes 0x3f80 */
    f->xsave[25] = 0x3f;
    f->regs.gpr[RDI] = DATA_VA;
    if (avx) /* vmovdqu %ymm0, (%rdi); stmxcsr 32(%rdi); vpcmpeqb %xmm1, %xmm1, %xmm1; syscall */
        run_code(f, 0xc5, 0xfe, 0x7f, 0x07, 0x0f, 0xae, 0x5f, 0x20, 0xc5, 0xf1, 0x74, 0xc9, SYSCALL);
    else /* movdqu %xmm0, (%rdi); stmxcsr 32(%rdi); pcmpeqb %xmm1, %xmm1; syscall */
        run_code(f, 0xf3, 0x0f, 0x7f, 0x07, 0x0f, 0xae, 0x5f, 0x20, 0x66, 0x0f, 0x74, 0xc9, SYSCALL);
    for (int i = 0; i < 16; i++) {
        assert_int_equal(f->ram[DATA_OFFSET + i], 0x5a);
        assert_int_equal(f->ram[DATA_OFFSET + 16 + i], avx ? 0xa5 : 0);
        assert_int_equal(xmm[i], 0x5a);
        assert_int_equal(xmm[16 + i], 0xff);
        assert_int_equal(ymm[i], 0xa5);
        if (avx)
            assert_int_equal(ymm[16 + i], 0);
    }
    assert_memory_equal(f->ram + DATA_OFFSET + 32, "\x80\x3f\0\0", 4);
    /* Without them they stay: movdqu %xmm1, (%rdi); pxor %xmm1, %xmm1; syscall */
    memcpy(f->ram, (uint8_t[]){ 0xf3, 0x0f, 0x7f, 0x0f, 0x66, 0x0f, 0xef, 0xc9, SYSCALL }, 10);
    f->regs.rip = CODE_VA;
    assert_true(userproc_run(f->p, &f->regs, NULL, &f->exit));
    assert_int_equal(f->ram[DATA_OFFSET], 0xff);
    assert_int_equal(xmm[16], 0xff);
    assert_true(userproc_get_xsave(f->p, f->xsave));
    assert_int_equal(xmm[16], 0);
}

static void bad_registers_are_refused(void **state)
{
    struct fixture *f = *state;

    f->regs.fs_base = UINT64_C(1) << 63;
    assert_false(userproc_run(f->p, &f->regs, f->xsave, &f->exit));
    assert_int_equal(f->exit.why, USERPROC_REFUSED);
    f->regs.fs_base = 0;
    f->xsave[25] = f->xsave[26] = 0xff; /* bits of MXCSR that do not exist */
    f->xsave[512] |= 3;
    assert_false(userproc_run(f->p, &f->regs, f->xsave, &f->exit));
    assert_int_equal(f->exit.why, USERPROC_REFUSED);
    assert_true(userproc_get_xsave(f->p, f->xsave));
    assert_int_equal(run_code(f, 0xcc), USERPROC_TRAP);
}

static void loaded_selectors_are_told_and_undone(void **state)
{
    struct fixture *f = *state;

    f->regs.gpr[RAX] = 0x2b;
    assert_int_equal(run_code(f, 0x8e, 0xd8, SYSCALL), USERPROC_SYSCALL); /* mov %eax, %ds */
    assert_true(f->exit.selectors_changed);
    assert_int_equal(run_code(f, 0x8c, 0xd8, 0x8c, 0xcb, 0x8c, 0xd2, SYSCALL), USERPROC_SYSCALL);
    assert_int_equal((uint32_t)f->regs.gpr[RAX], 0); /* %ds */
    assert_int_equal(f->regs.gpr[RBX], 0x33);
    assert_int_equal(f->regs.gpr[RDX], 0x2b);
    assert_false(f->exit.selectors_changed);
}

/* Code may give itself bases that the owner could not. */
static void bases_of_the_upper_half(void **state)
{
    struct fixture *f = *state;

    if (!(getauxval(AT_HWCAP2) & 2))
        skip(); /* no WRGSBASE */
    f->regs.gpr[RAX] = 0xffff888000000000;
    /* wrgsbase %rax; wrfsbase %rax; int3 */
    assert_int_equal(run_code(f, 0xf3, 0x48, 0x0f, 0xae, 0xd8, 0xf3, 0x48, 0x0f, 0xae, 0xd0, 0xcc),
                     USERPROC_TRAP);
    assert_int_equal(f->regs.gs_base, 0xffff888000000000);
    assert_int_equal(f->regs.fs_base, 0xffff888000000000);
    assert_true(map(f, 0x10000, PAGE, 0, USERPROC_R));
    f->regs.fs_base = f->regs.gs_base = 0;
    assert_int_equal(run_code(f, 0x90, 0xcc), USERPROC_TRAP);
}

/* 32-bit code of the host is at hand by a far jump; the next run is 64-bit code again. */
static void compatibility_mode_is_told_and_undone(void **state)
{
    struct fixture *f = *state;

    f->regs.gpr[RSP] = DATA_VA;
    assert_true(map(f, 0x50000, PAGE, DATA_OFFSET, USERPROC_R));
    memcpy(f->ram + DATA_OFFSET, &(uint32_t[]){ CODE_VA + 16, 0x23 }, 8);
    memcpy(f->ram + 16, (uint8_t[]){ 0x40, 0x40, 0xcc }, 3); /* inc %eax twice: REX prefixes in 64-bit code */
    f->regs.gpr[RAX] = 1;
    run_code(f, 0xff, 0x2c, 0x25, 0, 0, 5, 0); /* ljmp *0x50000 */
    if (f->exit.why == USERPROC_FAULT)
        skip(); /* a host without 32-bit programs */
    assert_int_equal(f->exit.why, USERPROC_TRAP);
    assert_true(f->exit.selectors_changed);
    assert_int_equal(f->regs.gpr[RAX], 3);
    assert_true(map(f, 0x10000, PAGE, 0, USERPROC_R));
    assert_int_equal(run_code(f, 0x48, 0xff, 0xc0, 0xcc), USERPROC_TRAP);
    assert_false(f->exit.selectors_changed);
    assert_int_equal(f->regs.rip, CODE_VA + 4);
    assert_int_equal(f->regs.gpr[RAX], 4);
}

/* ---- mappings ---- */

static void loads_and_stores_reach_the_file(void **state)
{
    struct fixture *f = *state;

    f->regs.gpr[RDI] = DATA_VA;
    f->regs.gpr[RAX] = 0x1122334455667788;
    memcpy(f->ram + DATA_OFFSET + 8, "\1\2\3\4\5\6\7\10", 8);
    /* mov %rax, (%rdi); mov 8(%rdi), %rbx; syscall */
    assert_int_equal(run_code(f, 0x48, 0x89, 0x07, 0x48, 0x8b, 0x5f, 0x08, SYSCALL), USERPROC_SYSCALL);
    assert_memory_equal(f->ram + DATA_OFFSET, "\x88\x77\x66\x55\x44\x33\x22\x11", 8);
    assert_int_equal(f->regs.gpr[RBX], 0x0807060504030201);
}

static void assert_fault(struct fixture *f, uint64_t addr, uint64_t rip)
{
    assert_int_equal(f->exit.why, USERPROC_FAULT);
    assert_int_equal(f->exit.signal, SIGSEGV);
    assert_true(f->exit.has_addr);
    assert_int_equal(f->exit.addr, addr);
    assert_int_equal(f->regs.rip, rip);
}

#define STORE 0x48, 0x89, 0x07 /* mov %rax, (%rdi) */
#define LOAD 0x48, 0x8b, 0x07

static void rights_are_as_asked_for(void **state)
{
    struct fixture *f = *state;
    const uint64_t va = 0x10000;

    for (unsigned prot = 0; prot < 8; prot++) {
        assert_true(map(f, va, PAGE, 0x20000, prot));
        f->ram[0x20000] = 0xcc;
        f->regs.gpr[RDI] = va + 16;
        run_code(f, STORE, SYSCALL);
        if (prot & USERPROC_W)
            assert_int_equal(f->exit.why, USERPROC_SYSCALL);
        else
            assert_fault(f, va + 16, CODE_VA);
        run_code(f, LOAD, SYSCALL);
        if (prot)
            assert_int_equal(f->exit.why, USERPROC_SYSCALL);
        else
            assert_fault(f, va + 16, CODE_VA);
        f->regs.rip = va;
        go(f);
        if (prot & USERPROC_X)
            assert_int_equal(f->exit.why, USERPROC_TRAP);
        else
            assert_fault(f, va, va);
    }
}

static void mappings_are_taken_away(void **state)
{
    struct fixture *f = *state;
    const uint64_t va = 0x20000000;

    assert_true(map(f, va, 4 * PAGE, 0x40000, USERPROC_W));
    assert_true(map(f, va + PAGE, PAGE, 0, 0));
    for (unsigned i = 0; i < 4; i++) {
        f->regs.gpr[RDI] = va + i * PAGE;
        assert_int_equal(run_code(f, STORE, SYSCALL), i == 1 ? USERPROC_FAULT : USERPROC_SYSCALL);
    }
    assert_true(userproc_clear(f->p));
    f->regs.rip = CODE_VA;
    go(f);
    assert_fault(f, CODE_VA, CODE_VA);
    assert_true(userproc_clear(f->p));
    assert_true(map(f, CODE_VA, PAGE, 0, USERPROC_X));
    assert_int_equal(run_code(f, STORE, SYSCALL), USERPROC_FAULT);
}

static void many_scattered_pages(void **state)
{
    enum { N = 3000 };
    struct fixture *f = *state;
    struct userproc_map *maps = calloc(N, sizeof(*maps));

    for (unsigned i = 0; i < N; i++) {
        maps[i] = (struct userproc_map){ 0x40000000 + (uint64_t)i * PAGE, PAGE,
                                         (16 + (uint64_t)i * 7919 % (N + 13)) * PAGE, USERPROC_R };
        memcpy(f->ram + maps[i].offset, &i, sizeof(i));
    }
    assert_true(userproc_set_maps(f->p, maps, N));
    /* 1: cmp (%rdi), %eax; jne 2f; add $4096, %rdi; inc %eax; cmp $N, %eax; jne 1b; 2: syscall */
    f->regs.gpr[RDI] = 0x40000000;
    f->regs.gpr[RAX] = 0;
    assert_int_equal(run_code(f, 0x3b, 0x07, 0x75, 0x10, 0x48, 0x81, 0xc7, 0, 0x10, 0, 0, 0xff, 0xc0, 0x3d,
                              (uint8_t)N, (uint8_t)(N >> 8), 0, 0, 0x75, 0xec, SYSCALL),
                     USERPROC_SYSCALL);
    assert_int_equal(f->regs.gpr[RAX], N);
    for (unsigned i = 0; i < N; i++)
        maps[i].prot = 0;
    assert_true(userproc_set_maps(f->p, maps, N));
    f->regs.gpr[RDI] = 0x40000000 + PAGE;
    assert_int_equal(run_code(f, LOAD), USERPROC_FAULT);
    free(maps);
}

static unsigned count_maps(const struct userproc *p)
{
    char path[64], line[400];
    unsigned n = 0;
    FILE *file;

    snprintf(path, sizeof(path), "/proc/%d/maps", userproc_pid(p));
    file = fopen(path, "r");
    assert_non_null(file);
    while (fgets(line, sizeof(line), file))
        n += strstr(line, "[vsyscall]") == NULL;
    fclose(file);
    return n;
}

static void nothing_else_is_mapped(void **state)
{
    struct fixture *f = *state;
    struct userproc_map row[64];

    assert_int_equal(run_code(f, 0xcc), USERPROC_TRAP);
    assert_int_equal(count_maps(f->p), 4);
    for (unsigned i = 0; i < 64; i++)
        row[i] = (struct userproc_map){ 0x800000 + i * PAGE, PAGE, 0x80000 + i * PAGE, USERPROC_W };
    assert_true(userproc_set_maps(f->p, row, 64));
    assert_int_equal(run_code(f, 0xcc), USERPROC_TRAP);
    assert_int_equal(count_maps(f->p), 5);
    assert_true(userproc_clear(f->p));
    assert_int_equal(run_code(f, 0xcc), USERPROC_FAULT);
    assert_int_equal(count_maps(f->p), 2);
}

static void wrong_mappings_are_refused(void **state)
{
    struct fixture *f = *state;
    uint64_t hole, len;

    userproc_hole(f->p, &hole, &len);
    assert_false(map(f, hole, PAGE, 0, USERPROC_W));
    assert_false(map(f, hole + len - PAGE, PAGE, 0, 0));
    assert_false(map(f, hole - PAGE, 2 * PAGE, 0, 0));
    assert_false(map(f, 0x10000, hole, 0, USERPROC_R));
    assert_false(map(f, 0x10000, UINT64_MAX - PAGE + 1, 0, USERPROC_R));
    assert_false(map(f, 0x7ffffffff000, PAGE, 0, USERPROC_R));
    assert_false(map(f, 0xffff800000000000, PAGE, 0, USERPROC_R));
    assert_false(map(f, 0x10001, PAGE, 0, USERPROC_R));
    assert_false(map(f, 0x10000, 1, 0, USERPROC_R));
    assert_false(map(f, 0x10000, 0, 0, USERPROC_R));
    assert_true(map(f, hole - PAGE, PAGE, 0, USERPROC_R));
    assert_true(map(f, hole + len, PAGE, 0, USERPROC_R));
    assert_int_equal(run_code(f, 0xcc), USERPROC_TRAP);
}

/* ---- what code can do ---- */

static void exceptions_are_told(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(run_code(f, 0xcc), USERPROC_TRAP);
    assert_int_equal(f->exit.signal, SIGTRAP);
    assert_int_equal(run_code(f, 0x0f, 0x0b), USERPROC_TRAP); /* ud2 */
    assert_int_equal(f->exit.signal, SIGILL);
    assert_int_equal(f->regs.rip, CODE_VA);
    f->regs.gpr[RBX] = 0;
    assert_int_equal(run_code(f, 0x48, 0xf7, 0xf3), USERPROC_TRAP); /* div %rbx */
    assert_int_equal(f->exit.signal, SIGFPE);
    assert_int_equal(f->regs.rip, CODE_VA);
    assert_int_equal(run_code(f, 0xf4), USERPROC_FAULT); /* hlt */
    assert_false(f->exit.has_addr);
    assert_int_equal(f->regs.rip, CODE_VA);
    f->regs.gpr[RDI] = 0x8000000000000000;
    assert_int_equal(run_code(f, LOAD), USERPROC_FAULT);
    assert_false(f->exit.has_addr);
    f->regs.gpr[RDI] = 0xffff800000000000;
    assert_int_equal(run_code(f, LOAD), USERPROC_FAULT);
    assert_int_equal(f->exit.addr, 0xffff800000000000);
    /* A page that the file does not have. */
    assert_true(map(f, 0x30000000, PAGE, RAM_SIZE, USERPROC_W));
    f->regs.gpr[RDI] = 0x30000008;
    assert_int_equal(run_code(f, LOAD), USERPROC_FAULT);
    assert_int_equal(f->exit.signal, SIGBUS);
    assert_int_equal(f->exit.addr, 0x30000008);
    /* One instruction step by TF: pushfq; orl $0x100, (%rsp); popfq; nop */
    f->regs.gpr[RSP] = DATA_VA + 64;
    assert_int_equal(run_code(f, 0x9c, 0x81, 0x0c, 0x24, 0, 1, 0, 0, 0x9d, 0x90), USERPROC_TRAP);
    assert_int_equal(f->exit.signal, SIGTRAP);
    assert_int_equal(f->regs.rip, CODE_VA + 10);
    assert_int_equal(run_code(f, 0x90, 0x90, SYSCALL), USERPROC_SYSCALL);
}

static void set_call(struct fixture *f, uint64_t nr, uint64_t a, uint64_t b, uint64_t c, uint64_t d,
                     uint64_t e, uint64_t g)
{
    f->regs.gpr[RAX] = nr;
    f->regs.gpr[RDI] = a;
    f->regs.gpr[RSI] = b;
    f->regs.gpr[RDX] = c;
    f->regs.gpr[10] = d;
    f->regs.gpr[8] = e;
    f->regs.gpr[9] = g;
}

/* Where in the hole a system call is. */
static uint64_t call_in_hole(const struct userproc *p)
{
    const uint8_t *page;
    uint8_t bytes[PAGE];
    uint64_t hole, len;
    char path[64];
    int fd;

    userproc_hole(p, &hole, &len);
    snprintf(path, sizeof(path), "/proc/%d/mem", userproc_pid(p));
    fd = open(path, O_RDONLY);
    assert_int_equal(pread(fd, bytes, PAGE, (off_t)hole), PAGE);
    close(fd);
    page = memmem(bytes, PAGE, "\x0f\x05", 2);
    assert_non_null(page);
    return hole + (uint64_t)(page - bytes);
}

static void system_calls_do_nothing(void **state)
{
    struct fixture *f = *state;
    uint64_t hole, len;

    userproc_hole(f->p, &hole, &len);
    assert_int_equal(run_code(f, 0xcc), USERPROC_TRAP);
    const unsigned maps = count_maps(f->p);
    const uint64_t call = call_in_hole(f->p);
    for (int from_hole = 0; from_hole < 2; from_hole++) {
        for (int i = 0; i < 6; i++) {
            switch (i) {
            case 0: set_call(f, 231, 1, 0, 0, 0, 0, 0); break;                             /* exit_group */
            case 1: set_call(f, 11, hole, len, 0, 0, 0, 0); break;                         /* munmap */
            case 2: set_call(f, 9, 0x50000, PAGE, 3, MAP_SHARED | MAP_FIXED, 0, 0); break; /* mmap */
            case 3: set_call(f, 10, hole, len, 7, 0, 0, 0); break;                         /* mprotect */
            case 4: set_call(f, 18, 0, DATA_VA, 8, 0x3000, 0, 0); break;                   /* pwrite64 */
            case 5: set_call(f, 0xfffffffffffffe00, 0, 0, 0, 0, 0, 0); break;              /* none */
            }
            const struct userproc_regs before = f->regs;
            if (from_hole) { /* what is there is told as no call at all */
                f->regs.rip = call;
                assert_int_equal(go(f), USERPROC_TRAP);
                assert_int_equal(f->exit.signal, 0);
                assert_int_equal(f->regs.rip, call);
            } else {
                assert_int_equal(run_code(f, SYSCALL), USERPROC_SYSCALL);
                assert_int_equal(f->regs.rip, CODE_VA + 2);
            }
            assert_int_equal(f->regs.gpr[RAX], before.gpr[RAX]);
            assert_int_equal(f->regs.gpr[RDI], before.gpr[RDI]);
            assert_int_equal(count_maps(f->p), maps);
            assert_int_equal(run_code(f, 0x90, 0xcc), USERPROC_TRAP);
        }
    }
    assert_int_equal(f->ram[0x3000], 0);
}

/* int $0x80 with the number of exit. Hosts without 32-bit programs raise an exception. */
static void old_system_calls_do_nothing(void **state)
{
    struct fixture *f = *state;

    f->regs.gpr[RAX] = 1;
    run_code(f, 0xcd, 0x80, 0xcc);
    if (f->exit.why == USERPROC_SYSCALL)
        assert_int_equal(f->regs.rip, CODE_VA + 2);
    else
        assert_int_equal(f->exit.why, USERPROC_FAULT);
    assert_int_equal(f->regs.gpr[RAX], 1);
    f->regs.gpr[RSP] = f->regs.gpr[RBP] = DATA_VA + 64;
    run_code(f, 0x0f, 0x34, 0xcc); /* sysenter: #UD on AMD's processors */
    assert_true(f->exit.why == USERPROC_TRAP || f->exit.why == USERPROC_SYSCALL ||
                f->exit.why == USERPROC_FAULT);
    assert_int_equal(run_code(f, 0xcc), USERPROC_TRAP);
}

/* What old programs call at a fixed address, which the host's kernel answers by itself, if it has that. */
static void vsyscalls_do_nothing(void **state)
{
    struct fixture *f = *state;

    f->regs.gpr[RDI] = DATA_VA;
    f->regs.gpr[RSI] = 0;
    f->regs.gpr[RSP] = DATA_VA + 64;
    for (unsigned i = 0; i < 3; i++) {
        const uint64_t to = 0xffffffffff600000 + i * 0x400;

        f->regs.gpr[RBX] = to;
        run_code(f, 0xff, 0xd3, 0xcc); /* call *%rbx */
        assert_int_equal(f->exit.why, USERPROC_FAULT);
        assert_true(f->exit.has_addr);
        assert_int_equal(f->exit.addr, to);
        assert_int_equal(f->regs.rip, to);
        assert_int_equal(f->regs.gpr[RSP], DATA_VA + 56);
        assert_memory_equal(f->ram + DATA_OFFSET, "\0\0\0\0\0\0\0\0", 8);
        f->regs.gpr[RSP] += 8;
    }
    assert_int_equal(run_code(f, 0xcc), USERPROC_TRAP);
}

static void breakpoints_stop_before_instructions(void **state)
{
    struct fixture *f = *state;
    uint64_t at[USERPROC_BREAKS] = { [1] = CODE_VA + 2, [3] = CODE_VA + 4 };

    for (int i = 0; i < 2; i++) { /* once more after changes of mappings */
        assert_true(userproc_set_breaks(f->p, at));
        assert_int_equal(run_code(f, 0x90, 0x90, 0x90, 0x90, 0x90, 0xcc), USERPROC_TRAP);
        assert_int_equal(f->exit.signal, SIGTRAP);
        assert_false(f->exit.int3 || f->exit.step);
        assert_int_equal(f->regs.rip, CODE_VA + 2);
        f->regs.rip = CODE_VA + 3;
        assert_int_equal(go(f), USERPROC_TRAP);
        assert_int_equal(f->regs.rip, CODE_VA + 4);
        assert_true(map(f, 0x10000, PAGE, 0, USERPROC_R));
    }
    at[1] = 0;
    assert_true(userproc_set_breaks(f->p, at));
    assert_int_equal(run_code(f, 0x90, 0x90, 0x90, 0x90, 0x90, 0xcc), USERPROC_TRAP);
    assert_int_equal(f->regs.rip, CODE_VA + 4);
    at[3] = 0;
    assert_true(userproc_set_breaks(f->p, at));
    assert_int_equal(run_code(f, 0x90, 0x90, 0x90, 0x90, 0x90, 0xcc), USERPROC_TRAP);
    assert_true(f->exit.int3);
    assert_int_equal(f->regs.rip, CODE_VA + 6);
}

/* They are in the process's copy: neither in the file nor in other mappings of the same page, and gone when
 * the mapping is. */
static void traps_are_in_its_own_copy(void **state)
{
    struct fixture *f = *state;
    const uint64_t own = 0x20000, at[] = { own + 1, own + 11 };
    static const uint8_t code[] = { 0x90, 0x0f, 0x03, 0xc0, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0xf4, 0x90, 0xcc };

    memcpy(f->ram, code, sizeof(code));
    assert_false(map(f, own, PAGE, 0, USERPROC_R | USERPROC_W | USERPROC_OWN));
    for (int i = 0; i < 2; i++) {
        assert_true(map(f, own, PAGE, 0, USERPROC_R | USERPROC_X | USERPROC_OWN));
        assert_true(userproc_put_traps(f->p, at, 2));
        for (int k = 0; k < 2; k++) {
            f->regs.rip = own;
            assert_int_equal(go(f), USERPROC_TRAP);
            assert_true(f->exit.int3);
            assert_int_equal(f->regs.rip, at[0] + 1);
        }
        f->regs.rip = own + 4;
        assert_int_equal(go(f), USERPROC_TRAP);
        assert_int_equal(f->regs.rip, at[1] + 1);
        f->regs.rip = own + 12;
        assert_int_equal(go(f), USERPROC_TRAP);
        assert_int_equal(f->regs.rip, own + 14);
        assert_memory_equal(f->ram, code, sizeof(code));
        f->regs.rip = CODE_VA + 11; /* HLT, in the other mapping */
        assert_int_equal(go(f), USERPROC_FAULT);
        assert_int_equal(f->regs.rip, CODE_VA + 11);
        assert_true(map(f, own, PAGE, 0, 0));
    }
    assert_false(userproc_put_traps(f->p, at, 1)); /* there is nothing */
    assert_true(map(f, own, PAGE, 0, USERPROC_R | USERPROC_X));
    f->regs.rip = own + 11;
    assert_int_equal(go(f), USERPROC_FAULT);
    assert_int_equal(f->regs.rip, own + 11);
}

static void instructions_trap_on_request(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(run_code(f, 0x0f, 0x31, 0x0f, 0xa2, 0xcc), USERPROC_TRAP); /* rdtsc; cpuid; int3 */
    assert_true(userproc_trap(f->p, USERPROC_TRAP_TSC, true));
    assert_int_equal(run_code(f, 0x0f, 0x31, 0xcc), USERPROC_FAULT);
    assert_false(f->exit.has_addr);
    assert_int_equal(f->regs.rip, CODE_VA);
    assert_true(userproc_trap(f->p, USERPROC_TRAP_TSC, false));
    assert_int_equal(run_code(f, 0x0f, 0x31, 0xcc), USERPROC_TRAP);
    if (userproc_trap(f->p, USERPROC_TRAP_CPUID, true)) {
        assert_int_equal(run_code(f, 0x0f, 0xa2, 0xcc), USERPROC_FAULT);
        assert_false(f->exit.has_addr);
        assert_true(userproc_trap(f->p, USERPROC_TRAP_CPUID, false));
        assert_int_equal(run_code(f, 0x0f, 0xa2, 0xcc), USERPROC_TRAP);
    }
    assert_true(map(f, 0x10000, PAGE, 0, USERPROC_R));
    assert_int_equal(run_code(f, 0x90, 0xcc), USERPROC_TRAP);
}

struct kicker {
    struct userproc *p;
    atomic_uint seen; /* kicks that the other side has taken note of; not 0: enough */
    unsigned rounds;
};

static void *nudger_main(void *arg)
{
    struct kicker *k = arg;

    while (!atomic_load(&k->seen)) {
        userproc_kick(k->p);
        usleep(1000);
    }
    return NULL;
}

/* The code in the hole with a list of the guest's own, from each of its bytes. Some of that is an endless
 * loop. */
static void the_code_in_the_hole_is_of_no_use(void **state)
{
    struct fixture *f = *state;
    struct kicker k = { .p = f->p };
    const uint64_t list[8] = { 231 };
    uint64_t hole, len;
    unsigned maps;
    pthread_t t;

    userproc_hole(f->p, &hole, &len);
    assert_int_equal(run_code(f, 0xcc), USERPROC_TRAP);
    maps = count_maps(f->p);
    memcpy(f->ram + DATA_OFFSET, list, sizeof(list));
    assert_int_equal(pthread_create(&t, NULL, nudger_main, &k), 0);
    for (uint64_t rip = hole; rip < hole + PAGE; rip++) {
        memset(f->regs.gpr, 0, sizeof(f->regs.gpr));
        f->regs.gpr[RBX] = DATA_VA;
        f->regs.gpr[RSP] = DATA_VA + 0x800;
        f->regs.gpr[RBP] = 1;
        f->regs.rip = rip;
        if (!userproc_run(f->p, &f->regs, f->xsave, &f->exit)) {
            assert_int_equal(f->exit.why, USERPROC_REFUSED);
            assert_true(userproc_get_xsave(f->p, f->xsave));
        }
    }
    atomic_store(&k.seen, 1);
    pthread_join(t, NULL);
    while (run_code(f, 0xcc) == USERPROC_KICKED)
        ;
    assert_int_equal(f->exit.why, USERPROC_TRAP);
    f->regs.gpr[RDI] = hole;
    assert_int_equal(run_code(f, STORE), USERPROC_FAULT);
    assert_int_equal(count_maps(f->p), maps);
}

/* Guest code puts a call of its own on the list, while one is due, and stops as if that had failed. */
static void what_guest_code_lists_is_not_done(void **state)
{
    struct fixture *f = *state;
    const uint64_t theirs[8] = { 9 /* mmap */, 0x70000, PAGE, 3, MAP_SHARED | MAP_FIXED, 0, 0 };
    const uint64_t stop = STUB_OFFSET + (uint64_t)(userproc_stub_stopped - userproc_stub) - 2;
    uint64_t hole, len;

    userproc_hole(f->p, &hole, &len);
    memcpy(f->ram + DATA_OFFSET, theirs, sizeof(theirs));
    assert_int_equal(run_code(f, 0xcc), USERPROC_TRAP);
    for (unsigned i = 0; i < 20; i++) {
        assert_true(map(f, 0x60000, PAGE, 0x5000, USERPROC_R));
        f->regs.gpr[RSI] = DATA_VA;
        f->regs.gpr[RDI] = hole + STUB_PAGE + STUB_LIST;
        f->regs.gpr[RCX] = sizeof(theirs);
        f->regs.gpr[RAX] = STUB_STOP;
        f->regs.gpr[RBX] = hole + stop;
        run_code(f, 0xf3, 0xa4, 0xff, 0xe3); /* rep movsb; jmp *%rbx */
        f->regs.gpr[RDI] = 0x70000;
        assert_int_equal(run_code(f, LOAD), USERPROC_FAULT);
        assert_int_equal(f->exit.addr, 0x70000);
    }
}

/* ---- kicks ---- */

/* The registers with which guest code stops at a call in the hole, or the flag for single steps, keep no
 * change of mappings from being done. */
static void changes_are_done_after_calls_in_the_hole(void **state)
{
    struct fixture *f = *state;
    uint64_t hole, len;
    uint8_t page[PAGE];
    char path[64];
    int fd;

    userproc_hole(f->p, &hole, &len);
    snprintf(path, sizeof(path), "/proc/%d/mem", userproc_pid(f->p));
    fd = open(path, O_RDONLY);
    assert_int_equal(pread(fd, page, PAGE, (off_t)hole), PAGE);
    close(fd);
    for (unsigned i = 0; i + 1 < 3 * PAGE; i++) {
        const uint64_t frame[5] = { hole + i / 3, 0x33, i % 3 == 1 ? 0x302 : 0x202, DATA_VA + 0x800, 0x2b };

        if (i / 3 + 1 >= PAGE || page[i / 3] != 0x0f || page[i / 3 + 1] != 0x05)
            continue;
        assert_true(map(f, DATA_VA, PAGE, DATA_OFFSET, USERPROC_W));
        assert_int_equal(run_code(f, 0xcc), USERPROC_TRAP);
        memcpy(f->ram + DATA_OFFSET, frame, sizeof(frame));
        memset(f->regs.gpr, 0, sizeof(f->regs.gpr));
        f->regs.gpr[RSP] = f->regs.gpr[RBX] = DATA_VA;
        f->regs.gpr[RBP] = 1;
        f->regs.gpr[12] = UINT64_C(1) << 32;
        assert_int_equal(run_code(f, 0x48, 0xcf), USERPROC_TRAP); /* iretq */
        assert_true(map(f, DATA_VA, PAGE, 0, 0));
        if (i % 3 == 2)
            assert_true(userproc_clear(f->p) && map(f, CODE_VA, PAGE, 0, USERPROC_X));
        f->regs.gpr[RDI] = DATA_VA;
        assert_int_equal(run_code(f, 0x48, 0x8b, 0x07, 0xcc), USERPROC_FAULT); /* mov (%rdi), %rax */
        assert_int_equal(f->exit.addr, DATA_VA);
    }
}

/* With the stack pointer where signals have theirs, code may end its process, but that is no loss. */
static void the_stack_for_signals_is_of_no_use(void **state)
{
    struct fixture *f = *state;
    struct yado_error err = YADO_ERROR_INIT;
    uint64_t hole, len;

    for (uint64_t below_end = 0; below_end <= 0x11000; below_end += 0x400) {
        userproc_hole(f->p, &hole, &len);
        f->regs.gpr[RSP] = hole + len - below_end;
        f->regs.rip = CODE_VA;
        f->ram[0] = 0xcc;
        if (userproc_run(f->p, &f->regs, f->xsave, &f->exit)) {
            assert_int_equal(f->exit.why, USERPROC_TRAP);
            assert_int_equal(f->exit.signal, SIGTRAP);
            continue;
        }
        assert_int_equal(f->exit.why, USERPROC_GONE);
        assert_false(f->exit.lost);
        assert_int_equal(f->regs.rip, CODE_VA);
        userproc_free(f->p);
        assert_true(userproc_make(&f->p, f->fd, &err));
        assert_true(map(f, CODE_VA, PAGE, 0, USERPROC_X));
    }
}

static void kick_before_a_run(void **state)
{
    struct fixture *f = *state;

    userproc_kick(f->p);
    userproc_kick(f->p);
    assert_int_equal(run_code(f, 0xcc), USERPROC_KICKED);
    assert_int_equal(f->regs.rip, CODE_VA);
    assert_int_equal(go(f), USERPROC_TRAP);
    /* Changes of mappings do not take it. */
    userproc_kick(f->p);
    assert_true(map(f, 0x10000, PAGE, 0, USERPROC_R));
    assert_int_equal(run_code(f, 0xcc), USERPROC_KICKED);
    assert_int_equal(go(f), USERPROC_TRAP);
}

static void *kicker_main(void *arg)
{
    struct kicker *k = arg;

    for (unsigned i = 1; i <= k->rounds; i++) {
        userproc_kick(k->p);
        while (atomic_load(&k->seen) < i)
            ;
    }
    return NULL;
}

/* Each of them ends an endless loop, or none would be seen after the first that is lost. */
static void kicks_end_a_loop(void **state)
{
    struct fixture *f = *state;
    struct kicker k = { .p = f->p, .rounds = 1000 };
    uint64_t count = 0;
    pthread_t t;

    f->regs.gpr[RAX] = f->regs.gpr[RBX] = 0;
    memcpy(f->ram, (uint8_t[]){ 0x48, 0xff, 0xc0, 0x48, 0xff, 0xc3, 0xeb, 0xf8 }, 8); /* inc, inc, jmp */
    f->regs.rip = CODE_VA;
    assert_int_equal(pthread_create(&t, NULL, kicker_main, &k), 0);
    for (unsigned i = 0; i < k.rounds; i++) {
        assert_int_equal(go(f), USERPROC_KICKED);
        assert_in_range(f->regs.rip, CODE_VA, CODE_VA + 6);
        assert_true(f->regs.gpr[RAX] >= count);
        assert_int_equal(f->regs.gpr[RAX] - f->regs.gpr[RBX], f->regs.rip == CODE_VA + 3);
        count = f->regs.gpr[RAX];
        atomic_fetch_add(&k.seen, 1);
    }
    pthread_join(t, NULL);
}

/* Against runs that end by themselves. */
static void kicks_meet_other_stops(void **state)
{
    struct fixture *f = *state;
    struct kicker k = { .p = f->p, .rounds = 1000 };
    unsigned kicked = 0;
    pthread_t t;

    assert_int_equal(pthread_create(&t, NULL, kicker_main, &k), 0);
    while (kicked < k.rounds) {
        f->regs.gpr[RAX] = 39;
        f->regs.gpr[RBX] = 0;
        run_code(f, 0x48, 0xff, 0xc3, SYSCALL);
        while (f->exit.why == USERPROC_KICKED) {
            kicked++;
            atomic_fetch_add(&k.seen, 1);
            go(f);
        }
        assert_int_equal(f->exit.why, USERPROC_SYSCALL);
        assert_int_equal(f->regs.rip, CODE_VA + 5);
        assert_int_equal(f->regs.gpr[RAX], 39);
        assert_int_equal(f->regs.gpr[RBX], 1);
        assert_true(map(f, 0x10000, PAGE, 0, USERPROC_R));
    }
    pthread_join(t, NULL);
    assert_int_equal(run_code(f, 0xcc), USERPROC_TRAP);
}

/* ---- the seat ---- */

static int count_cpus(pid_t pid)
{
    cpu_set_t set;

    assert_int_equal(sched_getaffinity(pid, sizeof(set), &set), 0);
    return CPU_COUNT(&set);
}

static void both_use_one_cpu_until_rest(void **state)
{
    struct fixture *f = *state;
    struct userproc_seat seat = { 0 };
    cpu_set_t before, now;

    sched_getaffinity(0, sizeof(before), &before);
    userproc_sit(f->p, &seat);
    for (int i = 0; i < 3; i++) { /* a longer series may have runs for which the thread is free */
        assert_int_equal(run_code(f, 0xcc), USERPROC_TRAP);
        assert_int_equal(count_cpus(0), 1);
        sched_getaffinity(userproc_pid(f->p), sizeof(now), &now);
        assert_true(CPU_ISSET(sched_getcpu(), &now));
        assert_int_equal(CPU_COUNT(&now), 1);
        userproc_rest(&seat);
        sched_getaffinity(0, sizeof(now), &now);
        assert_true(CPU_EQUAL(&before, &now));
    }
    userproc_rest(&seat);
    sched_getaffinity(0, sizeof(now), &now);
    assert_true(CPU_EQUAL(&before, &now));
}

static void two_share_a_seat(void **state)
{
    struct fixture *f = *state;
    struct userproc_seat seat = { 0 };
    struct userproc *first = f->p, *second;
    const int before = count_cpus(0);

    assert_true(userproc_make(&second, f->fd, NULL));
    assert_int_equal(count_cpus(0), before);
    userproc_sit(first, &seat);
    userproc_sit(second, &seat);
    f->p = second;
    assert_true(map(f, CODE_VA, PAGE, 0, USERPROC_X));
    for (int i = 0; i < 4; i++) {
        f->p = i & 1 ? first : second;
        assert_int_equal(run_code(f, 0xcc), USERPROC_TRAP);
    }
    f->p = first;
    userproc_free(second);
    userproc_rest(&seat);
    assert_int_equal(count_cpus(0), before);
}

/* What others do to a thread's CPUs stays. */
static void cpus_set_meanwhile_stay(void **state)
{
    struct fixture *f = *state;
    struct userproc_seat seat = { 0 };
    cpu_set_t before, other, now;

    sched_getaffinity(0, sizeof(before), &before);
    userproc_sit(f->p, &seat);
    assert_int_equal(run_code(f, 0xcc), USERPROC_TRAP);
    other = before;
    CPU_CLR(sched_getcpu(), &other);
    if (!CPU_COUNT(&other))
        skip();
    sched_setaffinity(0, sizeof(other), &other);
    assert_int_equal(run_code(f, 0xcc), USERPROC_TRAP);
    userproc_rest(&seat);
    sched_getaffinity(0, sizeof(now), &now);
    assert_true(CPU_EQUAL(&other, &now));
    assert_int_equal(run_code(f, 0xcc), USERPROC_TRAP);
    assert_true(CPU_ISSET(sched_getcpu(), &other));
    userproc_rest(&seat);
    sched_setaffinity(0, sizeof(before), &before);
}

/* A thread that is on a busy CPU leaves it if there is an idle one, which no test can count on; but it goes
 * on whatever becomes of that. */
static void a_long_series_goes_on(void **state)
{
    struct fixture *f = *state;
    struct userproc_seat seat = { 0 };
    const int before = count_cpus(0);

    userproc_sit(f->p, &seat);
    for (int i = 0; i < 3000; i++) {
        f->regs.gpr[RBX] = 50000;
        /* 1: dec %rbx; jnz 1b; int3 */
        assert_int_equal(run_code(f, 0x48, 0xff, 0xcb, 0x75, 0xfb, 0xcc), USERPROC_TRAP);
        assert_int_equal(f->regs.gpr[RBX], 0);
    }
    userproc_rest(&seat);
    assert_int_equal(count_cpus(0), before);
}

/* The first two of the thread's CPUs. */
static void two_cpus(int cpu[2])
{
    cpu_set_t set;
    int n = 0;

    sched_getaffinity(0, sizeof(set), &set);
    for (int i = 0; i < CPU_SETSIZE && n < 2; i++) {
        if (CPU_ISSET(i, &set))
            cpu[n++] = i;
    }
    if (n < 2)
        skip();
}

/* Others' seats are told by their number alone. */
static void others_on_all_but(struct userproc_room *room, int cpu)
{
    for (int i = 0; i < CPU_SETSIZE; i++)
        atomic_store(&room->seats[i], i != cpu);
}

static void seats_keep_away_from_each_other(void **state)
{
    struct fixture *f = *state;
    struct userproc_room room;
    struct userproc_seat seat = { .room = &room };
    const int before = count_cpus(0);
    int cpu[2];

    two_cpus(cpu);
    userproc_sit(f->p, &seat);
    for (int i = 0; i < 6; i++) {
        const int free = cpu[i & 1];

        others_on_all_but(&room, free);
        assert_int_equal(run_code(f, 0xcc), USERPROC_TRAP);
        assert_int_equal(sched_getcpu(), free);
        assert_int_equal(room.seats[free], 1);
        userproc_rest(&seat);
        assert_int_equal(room.seats[free], 0);
    }
    assert_int_equal(count_cpus(0), before);
}

static void a_seat_leaves_for_a_free_cpu(void **state)
{
    struct fixture *f = *state;
    struct userproc_room room;
    struct userproc_seat seat = { .room = &room };
    const int before = count_cpus(0);
    int cpu[2];

    two_cpus(cpu);
    others_on_all_but(&room, cpu[0]);
    userproc_sit(f->p, &seat);
    assert_int_equal(run_code(f, 0xcc), USERPROC_TRAP);
    assert_int_equal(sched_getcpu(), cpu[0]);
    atomic_fetch_add(&room.seats[cpu[0]], 1);
    atomic_store(&room.seats[cpu[1]], 0);
    assert_int_equal(run_code(f, 0xcc), USERPROC_TRAP);
    assert_int_equal(sched_getcpu(), cpu[1]);
    assert_int_equal(room.seats[cpu[0]], 1);
    assert_int_equal(room.seats[cpu[1]], 1);
    userproc_rest(&seat);
    assert_int_equal(room.seats[cpu[1]], 0);
    assert_int_equal(count_cpus(0), before);
}

/* More seats than CPUs: the one that shares goes where it would share with no more. */
static void seats_go_round(void **state)
{
    struct fixture *f = *state;
    struct userproc_room room;
    struct userproc_seat seat = { .room = &room };
    int cpu[2];

    two_cpus(cpu);
    others_on_all_but(&room, cpu[0]);
    userproc_sit(f->p, &seat);
    assert_int_equal(run_code(f, 0xcc), USERPROC_TRAP);
    atomic_fetch_add(&room.seats[cpu[0]], 1);
    while (sched_getcpu() == cpu[0]) { /* which is how long it gets little of the CPU */
        usleep(1000);
        assert_int_equal(run_code(f, 0xcc), USERPROC_TRAP);
        assert_true(seat.taken);
    }
    assert_int_equal(room.seats[cpu[0]], 1);
    assert_int_equal(room.seats[seat.cpu], 2);
    userproc_rest(&seat);
}

/* Wherever the others are. */
static void a_seat_is_on_one_of_the_threads_cpus(void **state)
{
    struct fixture *f = *state;
    struct userproc_room room;
    struct userproc_seat seat = { .room = &room };
    cpu_set_t before, one;
    int cpu[2];

    two_cpus(cpu);
    sched_getaffinity(0, sizeof(before), &before);
    CPU_ZERO(&one);
    CPU_SET(cpu[1], &one);
    sched_setaffinity(0, sizeof(one), &one);
    memset(&room, 0, sizeof(room));
    atomic_store(&room.seats[cpu[1]], 1);
    userproc_sit(f->p, &seat);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(run_code(f, 0xcc), USERPROC_TRAP);
        assert_int_equal(sched_getcpu(), cpu[1]);
    }
    userproc_rest(&seat);
    sched_setaffinity(0, sizeof(before), &before);
}

/* ---- its life ---- */

static void signals_from_outside_change_nothing(void **state)
{
    static const int signals[] = { SIGTERM, SIGINT,  SIGSTOP, SIGCONT, SIGURG,
                                   SIGSEGV, SIGTRAP, SIGALRM, SIGCHLD };
    struct fixture *f = *state;

    struct kicker k = { .p = f->p };
    pthread_t t;

    assert_int_equal(pthread_create(&t, NULL, nudger_main, &k), 0); /* a kick makes a stopped one go on */
    for (size_t i = 0; i < array_size(signals); i++) {
        kill(userproc_pid(f->p), signals[i]);
        do
            f->regs.gpr[RAX] = 5;
        while (run_code(f, 0x48, 0xff, 0xc0, SYSCALL) == USERPROC_KICKED);
        assert_int_equal(f->exit.why, USERPROC_SYSCALL);
        assert_int_equal(f->regs.gpr[RAX], 6);
        kill(userproc_pid(f->p), signals[i]);
        assert_true(map(f, 0x10000, PAGE, 0, USERPROC_R));
    }
    atomic_store(&k.seen, 1);
    pthread_join(t, NULL);
}

static void a_killed_one_is_gone(void **state)
{
    struct fixture *f = *state;

    kill(userproc_pid(f->p), SIGKILL);
    assert_false(userproc_run(f->p, &f->regs, f->xsave, &f->exit));
    assert_int_equal(f->exit.why, USERPROC_GONE);
    assert_false(map(f, 0x10000, PAGE, 0, USERPROC_R));
    assert_false(userproc_clear(f->p));
    assert_false(userproc_run(f->p, &f->regs, f->xsave, &f->exit));
}

static unsigned count_fds(const char *who)
{
    char path[64];
    unsigned n = 0;
    DIR *dir;

    snprintf(path, sizeof(path), "/proc/%s/fd", who);
    dir = opendir(path);
    assert_non_null(dir);
    while (readdir(dir))
        n++;
    closedir(dir);
    return n - 2;
}

static void it_has_one_descriptor(void **state)
{
    struct fixture *f = *state;
    char pid[16];

    snprintf(pid, sizeof(pid), "%d", userproc_pid(f->p));
    assert_int_equal(count_fds(pid), 1);
}

static void nothing_is_left(void **state)
{
    struct fixture *f = *state;
    const unsigned fds = count_fds("self");
    struct userproc *p;

    for (int i = 0; i < 200; i++) {
        pid_t pid;

        assert_true(userproc_make(&p, f->fd, NULL));
        pid = userproc_pid(p);
        userproc_free(p);
        assert_int_equal(kill(pid, 0), -1);
        assert_int_equal(errno, ESRCH);
    }
    userproc_free(NULL);
    assert_int_equal(count_fds("self"), fds);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), 0); /* f->p alone is there */
}

static void *maker_main(void *arg)
{
    struct fixture *f = arg;
    struct userproc *p = NULL;

    userproc_make(&p, f->fd, NULL);
    return p;
}

static void it_ends_with_its_thread(void **state)
{
    struct fixture *f = *state;
    siginfo_t info = { 0 };
    struct userproc *p;
    void *made;
    pthread_t t;

    assert_int_equal(pthread_create(&t, NULL, maker_main, f), 0);
    pthread_join(t, &made);
    assert_non_null(made);
    p = made;
    assert_int_equal(waitid(P_PID, (id_t)userproc_pid(p), &info, WEXITED | WNOWAIT | __WALL), 0);
    assert_int_equal(info.si_code, CLD_KILLED);
    userproc_free(p);
    assert_int_equal(kill(info.si_pid, 0), -1);
}

static void a_file_that_cannot_be_had(void **state)
{
    struct yado_error err = YADO_ERROR_INIT;
    struct userproc *p = (void *)state;

    assert_false(userproc_make(&p, -1, &err));
    assert_null(p);
    assert_int_equal(err.code, YADO_ERR_HOST);
    assert_non_null(strstr(err.message, "descriptors"));
}

static void on_child(int sig)
{
    (void)sig;
}

/* A program that waits for all children would take our reports. */
static void not_where_children_are_waited_for(void **state)
{
    struct yado_error err = YADO_ERROR_INIT;
    struct sigaction ours = { .sa_handler = on_child }, before, now;
    struct fixture *f = *state;
    struct userproc *p;

    sigaction(SIGCHLD, &ours, &before);
    assert_false(userproc_make(&p, f->fd, &err));
    assert_null(p);
    assert_non_null(strstr(err.message, "SIGCHLD"));
    sigaction(SIGCHLD, NULL, &now);
    assert_ptr_equal(now.sa_handler, ours.sa_handler);
    ours.sa_handler = SIG_IGN;
    sigaction(SIGCHLD, &ours, NULL);
    assert_true(userproc_make(&p, f->fd, NULL));
    assert_int_equal(run_code(f, 0xcc), USERPROC_TRAP);
    userproc_free(p);
    sigaction(SIGCHLD, &before, NULL);
}

/* Not even where it is blocked, and would wait for some other thread. */
static void stops_send_no_signal(void **state)
{
    const struct sigaction fresh = { .sa_handler = SIG_DFL };
    struct fixture *f = *state;
    struct userproc *first = f->p;
    sigset_t child, before, pending;

    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    sigprocmask(SIG_BLOCK, &child, &before);
    sigaction(SIGCHLD, &fresh, NULL);
    assert_true(userproc_make(&f->p, f->fd, NULL));
    assert_true(map(f, CODE_VA, PAGE, 0, USERPROC_X));
    assert_int_equal(run_code(f, 0xcc), USERPROC_TRAP);
    assert_int_equal(run_code(f, SYSCALL), USERPROC_SYSCALL);
    sigpending(&pending);
    assert_false(sigismember(&pending, SIGCHLD));
    sigprocmask(SIG_SETMASK, &before, NULL);
    userproc_free(f->p);
    f->p = first;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(registers_go_there_and_back),
        TEST(traps_are_told_apart),
        TEST(bases_are_used),
        TEST(flags_go_there_and_back),
        TEST(other_flags_do_not_count),
        TEST(vector_registers_go_there_and_back),
        TEST(bad_registers_are_refused),
        TEST(loaded_selectors_are_told_and_undone),
        TEST(bases_of_the_upper_half),
        TEST(compatibility_mode_is_told_and_undone),
        TEST(loads_and_stores_reach_the_file),
        TEST(rights_are_as_asked_for),
        TEST(mappings_are_taken_away),
        TEST(many_scattered_pages),
        TEST(nothing_else_is_mapped),
        TEST(wrong_mappings_are_refused),
        TEST(exceptions_are_told),
        TEST(system_calls_do_nothing),
        TEST(old_system_calls_do_nothing),
        TEST(vsyscalls_do_nothing),
        TEST(breakpoints_stop_before_instructions),
        TEST(traps_are_in_its_own_copy),
        TEST(instructions_trap_on_request),
        TEST(the_code_in_the_hole_is_of_no_use),
        TEST(what_guest_code_lists_is_not_done),
        TEST(changes_are_done_after_calls_in_the_hole),
        TEST(the_stack_for_signals_is_of_no_use),
        TEST(kick_before_a_run),
        TEST(kicks_end_a_loop),
        TEST(kicks_meet_other_stops),
        TEST(both_use_one_cpu_until_rest),
        TEST(two_share_a_seat),
        TEST(seats_keep_away_from_each_other),
        TEST(a_seat_leaves_for_a_free_cpu),
        TEST(seats_go_round),
        TEST(a_seat_is_on_one_of_the_threads_cpus),
        TEST(cpus_set_meanwhile_stay),
        TEST(a_long_series_goes_on),
        TEST(signals_from_outside_change_nothing),
        TEST(a_killed_one_is_gone),
        TEST(it_has_one_descriptor),
        TEST(nothing_is_left),
        TEST(it_ends_with_its_thread),
        TEST(not_where_children_are_waited_for),
        TEST(stops_send_no_signal),
        cmocka_unit_test(a_file_that_cannot_be_had),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
