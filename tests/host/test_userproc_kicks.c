/* Kicks that come at any moment of a run, of a stop and of a change of mappings: each instruction of the user
 * code is done once all the same, with its own registers, and never before the changes that were asked for.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "host/anonfile.h"
#include "host/linux/userproc_priv.h"

#define PAGES 64u
#define RAM_SIZE ((PAGES + 1) * PAGE)
#define CODE_VA 0x400000u
#define DATA_VA 0x7f0000000000u
#define WINDOWS 16u /* pages of user code's, each of which shows some page of the file */
#define ROUNDS 60000u

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI };

/* Reads two of the windows, counts in RBX and XMM0, writes the count to a third window, and calls. */
static const uint8_t code[] = {
    0x48, 0x8b, 0x07,       /* mov (%rdi), %rax */
    0x48, 0x8b, 0x2e,       /* mov (%rsi), %rbp */
    0x48, 0xff, 0xc3,       /* inc %rbx */
    0x66, 0x0f, 0xd4, 0xc1, /* paddq %xmm1, %xmm0 */
    0x49, 0x89, 0x58, 0x08, /* mov %rbx, 8(%r8) */
    0x0f, 0x05,             /* syscall */
    0xeb, 0xeb,             /* jmp to the beginning */
};

struct fixture {
    int fd;
    uint8_t *ram;
    struct userproc *p;
    struct userproc_regs regs;
    uint8_t *xsave;
    pthread_t nudger;
    atomic_bool enough;
    unsigned nap_us;
    uint32_t random;
};

static uint32_t number(struct fixture *f)
{
    f->random = f->random * 1664525 + 1013904223;
    return f->random >> 8;
}

static void *nudger_main(void *arg)
{
    struct fixture *f = arg;

    while (!atomic_load(&f->enough)) {
        struct timespec nap = { 0, f->nap_us * 1000 };

        userproc_kick(f->p);
        nanosleep(&nap, NULL);
    }
    return NULL;
}

static uint64_t *page_at(struct fixture *f, unsigned page)
{
    return (uint64_t *)(void *)(f->ram + page * PAGE);
}

static void set_up(struct fixture *f)
{
    struct yado_error err = YADO_ERROR_INIT;

    f->fd = anonfile_open("ram", RAM_SIZE, true);
    f->ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, f->fd, 0);
    assert_ptr_not_equal(f->ram, MAP_FAILED);
    for (unsigned i = 0; i < PAGES; i++)
        *page_at(f, i) = 0x1000000 + i;
    memcpy(f->ram + PAGES * PAGE, code, sizeof(code));
    if (!userproc_make(&f->p, f->fd, &err))
        fail_msg("%s", err.message);
    f->xsave = malloc(userproc_xsave_size(f->p));
    assert_true(userproc_get_xsave(f->p, f->xsave));
    f->xsave[512] |= 2; /* XMM registers: 0 and 1 */
    memcpy(f->xsave + 160, (uint64_t[]){ 0, 0, 1, 3 }, 32);
    assert_true(
        userproc_set_maps(f->p, &(struct userproc_map){ CODE_VA, PAGE, PAGES * PAGE, USERPROC_X }, 1));
    f->regs = (struct userproc_regs){ .rip = CODE_VA, .rflags = 0x202 };
}

/* What lets the page's code change mappings is nowhere where user code could find it: not as the owner's
 * answer has it, nor as the code's registers do. */
static bool is_pass_hidden(const struct fixture *f)
{
    const uint64_t *word = (const uint64_t *)(const void *)&f->p->image->data, pass = f->p->pass;

    for (size_t i = 0; i < sizeof(f->p->image->data) / sizeof(*word); i++)
        if (word[i] == pass || word[i] >> STUB_PASS_SHIFT == pass || word[i] >> 32 == (uint32_t)pass)
            return false;
    return true;
}

/* Has windows show other pages, and user code look at three of them. */
static void change(struct fixture *f, unsigned shown[WINDOWS])
{
    struct userproc_map maps[WINDOWS];
    unsigned n = 1 + number(f) % WINDOWS, first = number(f) % WINDOWS;

    for (unsigned i = 0; i < n; i++) {
        unsigned w = (first + i) % WINDOWS;

        shown[w] = number(f) % PAGES;
        maps[i] =
            (struct userproc_map){ DATA_VA + 2 * w * PAGE, PAGE, shown[w] * PAGE, USERPROC_R | USERPROC_W };
    }
    assert_true(userproc_set_maps(f->p, maps, n));
}

static void kicked_all_the_time(void **state)
{
    static const unsigned naps[] = { 1, 5, 20, 100 };
    struct fixture f = { .random = 1 };
    unsigned shown[WINDOWS] = { 0 }, kicked = 0;
    struct userproc_exit x;
    uint64_t xmm[2];

    (void)state;
    set_up(&f);
    for (unsigned i = 0; i < WINDOWS; i++) {
        shown[i] = i;
        assert_true(userproc_set_maps(
            f.p, &(struct userproc_map){ DATA_VA + 2 * i * PAGE, PAGE, i * PAGE, USERPROC_R | USERPROC_W },
            1));
    }
    for (uint64_t round = 0; round < ROUNDS; round++) {
        unsigned a, b, c;

        if (round % (ROUNDS / array_size(naps)) == 0) {
            f.nap_us = naps[round / (ROUNDS / array_size(naps))];
            if (!round)
                assert_int_equal(pthread_create(&f.nudger, NULL, nudger_main, &f), 0);
        }
        if (number(&f) % 2)
            change(&f, shown);
        a = number(&f) % WINDOWS, b = number(&f) % WINDOWS, c = number(&f) % WINDOWS;
        f.regs.gpr[RDI] = DATA_VA + 2 * a * PAGE;
        f.regs.gpr[RSI] = DATA_VA + 2 * b * PAGE;
        f.regs.gpr[8] = DATA_VA + 2 * c * PAGE;
        for (;;) {
            if (!userproc_run(f.p, &f.regs, f.xsave, &x))
                fail_msg("round %u: the run came to %u", (unsigned)round, (unsigned)x.why);
            if (x.why != USERPROC_KICKED)
                break;
            kicked++;
            assert_true(is_pass_hidden(&f));
        }
        assert_int_equal(x.why, USERPROC_SYSCALL);
        assert_int_equal(f.regs.gpr[RAX], 0x1000000 + shown[a]);
        assert_int_equal(f.regs.gpr[RBP], 0x1000000 + shown[b]);
        assert_int_equal(f.regs.gpr[RBX], round + 1);
        assert_int_equal(page_at(&f, shown[c])[1], round + 1);
        memcpy(xmm, f.xsave + 160, sizeof(xmm));
        assert_int_equal(xmm[0], round + 1);
        assert_int_equal(xmm[1], 3 * (round + 1));
    }
    atomic_store(&f.enough, true);
    pthread_join(f.nudger, NULL);
    print_message("%u runs, and %u kicked ones\n", ROUNDS, kicked);
    userproc_free(f.p);
    free(f.xsave);
    munmap(f.ram, RAM_SIZE);
    close(f.fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(kicked_all_the_time) };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
