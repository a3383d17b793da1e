/* Processes that run user code against code that knows where the process's own page is, and writes all over
 * what lies behind it. Whatever it does there: its mappings stay what they were asked to be, kicks end its
 * runs, nothing but the process itself comes to harm. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "host/anonfile.h"
#include "host/linux/userproc_stub.h"
#include "host/userproc.h"

#define PAGE 4096u
#define RAM_SIZE MIB(1)
#define CODE_VA 0x400000u
#define DATA_VA 0x7fff00000000u
#define DATA_OFFSET 0x10000u
#define DATA_LEN 0x800u
#define ROUNDS 20000
#define TRIES 100

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI };

struct fixture {
    int fd;
    uint8_t *ram;
    struct userproc *p;
    uint64_t hole, len;
    struct userproc_regs regs;
    uint8_t *xsave;
    struct userproc_exit exit;
    unsigned seed;
    pthread_t nudger;
    atomic_bool enough;
};

static uint64_t number(struct fixture *f)
{
    return (uint64_t)rand_r(&f->seed) << 40 ^ (uint64_t)rand_r(&f->seed) << 20 ^ (uint64_t)rand_r(&f->seed);
}

/* What may be of use there: addresses in the hole, small numbers, single bits, anything. */
static uint64_t word(struct fixture *f)
{
    switch (number(f) % 5) {
    case 0:
    case 1: return f->hole + number(f) % f->len;
    case 2: return number(f) % 64;
    case 3: return UINT64_C(1) << number(f) % 64;
    default: return number(f);
    }
}

static bool map(struct fixture *f, uint64_t va, uint64_t offset, unsigned prot)
{
    return userproc_set_maps(f->p, &(struct userproc_map){ va, PAGE, offset, prot }, 1);
}

static void *nudger_main(void *arg)
{
    struct fixture *f = arg;

    while (!atomic_load(&f->enough)) {
        userproc_kick(f->p);
        usleep(1000);
    }
    return NULL;
}

static void begin(struct fixture *f)
{
    struct yado_error err = YADO_ERROR_INIT;

    if (!userproc_make(&f->p, f->fd, &err))
        fail_msg("%s", err.message);
    userproc_hole(f->p, &f->hole, &f->len);
    if (!f->xsave)
        f->xsave = malloc(userproc_xsave_size(f->p));
    assert_true(userproc_get_xsave(f->p, f->xsave));
    assert_true(map(f, CODE_VA, 0, USERPROC_X));
    atomic_store(&f->enough, false);
    assert_int_equal(pthread_create(&f->nudger, NULL, nudger_main, f), 0);
}

static void end(struct fixture *f)
{
    atomic_store(&f->enough, true);
    pthread_join(f->nudger, NULL);
    userproc_free(f->p);
}

/* As an owner does who goes on with them: a processor faults at what none has left. */
static void load_vectors(const struct fixture *f)
{
    static uint8_t own[16384] __attribute__((aligned(64))), theirs[16384] __attribute__((aligned(64)));

    assert_in_range(userproc_xsave_size(f->p), 1, sizeof(theirs));
    memcpy(theirs, f->xsave, userproc_xsave_size(f->p));
    __asm__ volatile("xsave64 %0; xrstor64 %1; xrstor64 %0"
                     : "+m"(own)
                     : "m"(theirs), "a"(0xe7), "d"(0)
                     : "memory");
}

/* rep movsb; jmp *%rax: writes somewhere behind the page, and goes to one of the page's bytes. */
static void scribble(struct fixture *f)
{
    uint64_t *g = f->regs.gpr;

    assert_true(map(f, DATA_VA, DATA_OFFSET, USERPROC_W));
    for (size_t i = 0; i < DATA_LEN; i += 8)
        memcpy(f->ram + DATA_OFFSET + i, &(uint64_t){ word(f) }, 8);
    for (size_t i = 0; i < 16; i++)
        g[i] = word(f);
    g[RSI] = g[RBX] = DATA_VA;
    g[RCX] = number(f) % DATA_LEN;
    g[RDI] = f->hole + STUB_PAGE + (number(f) % 2 ? 0 : number(f) % (STUB_DATA_LEN - DATA_LEN));
    g[RAX] = f->hole + STUB_OFFSET + number(f) % (uint64_t)(userproc_stub_end - userproc_stub);
    if (number(f) % 2)
        g[RSP] = DATA_VA + DATA_LEN;
    f->regs.rflags = 0x202 | (number(f) % 4 ? 0 : 0x40000); /* AC */
    f->regs.rip = CODE_VA;
    memcpy(f->ram, (uint8_t[]){ 0xf3, 0xa4, 0xff, 0xe0 }, 4);
    if (userproc_run(f->p, &f->regs, f->xsave, &f->exit))
        load_vectors(f);
}

/* mov (%rdi), %rax; int3: faults, since the page is taken away. False: the process is gone. */
static bool is_taken_away(struct fixture *f)
{
    assert_true(userproc_get_xsave(f->p, f->xsave));
    if (!map(f, DATA_VA, 0, 0))
        return false;
    memcpy(f->ram, (uint8_t[]){ 0x48, 0x8b, 0x07, 0xcc }, 4);
    for (unsigned i = 0; i < TRIES; i++) {
        f->regs = (struct userproc_regs){ .rip = CODE_VA, .rflags = 0x202 };
        f->regs.gpr[RDI] = DATA_VA;
        userproc_run(f->p, &f->regs, NULL, &f->exit);
        if (f->exit.why != USERPROC_KICKED && f->exit.why != USERPROC_REFUSED)
            break;
    }
    if (f->exit.why == USERPROC_GONE)
        return false;
    assert_int_equal(f->exit.why, USERPROC_FAULT);
    assert_int_equal(f->exit.addr, DATA_VA);
    return true;
}

static void scribbled_data(void **state)
{
    struct fixture f = { .seed = 7 };
    unsigned gone = 0;

    (void)state;
    f.fd = anonfile_open("ram", RAM_SIZE, true);
    f.ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, f.fd, 0);
    assert_ptr_not_equal(f.ram, MAP_FAILED);
    begin(&f);
    for (unsigned i = 0; i < ROUNDS; i++) {
        scribble(&f);
        if (f.exit.why != USERPROC_GONE && is_taken_away(&f))
            continue;
        assert_false(f.exit.lost); /* which would end the machine */
        gone++;
        end(&f);
        begin(&f);
    }
    end(&f);
    print_message("%u of %u ended the process\n", gone, ROUNDS);
    free(f.xsave);
    munmap(f.ram, RAM_SIZE);
    close(f.fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(scribbled_data) };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
