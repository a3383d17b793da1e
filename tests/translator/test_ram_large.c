/* Large host pages under guest RAM in a file: asked for where a guest comes first, once, and again for what
 * was given back whole; and ahead of a guest that takes its RAM in order. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/engine.h"
#include "host/anonmem.h"
#include "mem/gmem.h"
#include "x86/regs.h"

#define RAM MIB(17)
#define STRETCHES (RAM / ANONMEM_LARGE) /* and half of one */
#define CODE 0x1000

/* Stores XMM0 and adds 1 to a byte in each page from EDI up to ESI, and says so. */
static const uint8_t guest[] = {
    0x0f, 0x11, 0x47, 0x10,             /* movups [edi + 16], xmm0 */
    0xfe, 0x07,                         /* inc byte [edi] */
    0x81, 0xc7, 0x00, 0x10, 0x00, 0x00, /* add edi, 4096 */
    0x39, 0xf7,                         /* cmp edi, esi */
    0x72, 0xf0,                         /* jb */
    0xe6, 0x10,                         /* out 0x10, al */
};

struct fixture {
    struct gmem *mem;
    struct engine_vm *vm;
    struct x86_state *s;
};

static void on_io(void *ctx, unsigned vcpu, struct exit *access)
{
    struct fixture *f = ctx;

    (void)access;
    engine_translator.kick(engine_translator.vcpu(f->vm, vcpu));
}

static void on_written(void *ctx, uint64_t gpa, uint64_t len)
{
    engine_translator.memory_written(ctx, gpa, len);
}

static int set_up(void **state, bool in_file)
{
    struct yado_error err = YADO_ERROR_INIT;
    struct fixture *f = calloc(1, sizeof(*f));
    struct engine_config cfg = { .vcpu_count = 1, .host = { .io = on_io, .ctx = f } };
    struct engine_memslot slot = { .len = RAM };

    assert_non_null(f);
    f->s = aligned_alloc(64, sizeof(*f->s));
    f->mem = gmem_new(RAM, GIB(3), in_file, &err);
    assert_true(f->s && f->mem && engine_translator.open(&f->vm, &cfg, &err));
    slot.hva = gmem_slot_at(f->mem, 0).hva;
    slot.fd = gmem_fd(f->mem);
    slot.in_file = slot.fd >= 0;
    assert_true(engine_translator.map(f->vm, &slot, &err));
    gmem_set_write_hook(f->mem, on_written, f->vm);
    assert_true(gmem_write(f->mem, CODE, guest, sizeof(guest)));
    *state = f;
    return 0;
}

static int set_up_file(void **state)
{
    return set_up(state, true);
}

static int set_up_private(void **state)
{
    return set_up(state, false);
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    engine_translator.close(f->vm);
    gmem_free(f->mem);
    free(f->s);
    free(f);
    return 0;
}

/* XMM0 of a vCPU's state; the header says that it is in use. */
static uint8_t *xmm0(struct x86_state *s)
{
    s->xsave[512] |= 2;
    return s->xsave + 160;
}

/* Asking the host takes nothing from the guest's vector registers, which are in the host's meanwhile. */
static void check_vectors(struct fixture *f, struct engine_vcpu *cpu, uint32_t from, uint32_t to)
{
    struct yado_error err = YADO_ERROR_INIT;

    for (uint32_t at = from; at < to; at += 4096)
        assert_memory_equal(gmem_slot_at(f->mem, 0).hva + at + 16, xmm0(f->s), 16);
    memset(xmm0(f->s), 0, 16);
    assert_true(engine_translator.get_state(cpu, f->s, &err));
    for (unsigned i = 0; i < 16; i++)
        assert_int_equal(xmm0(f->s)[i], 0x80 + i);
}

static void touch(struct fixture *f, uint32_t from, uint32_t to)
{
    struct engine_vcpu *cpu = engine_translator.vcpu(f->vm, 0);
    struct yado_error err = YADO_ERROR_INIT;
    struct exit out;

    x86_state_reset(f->s, 0);
    f->s->cr0 = CR0_PE | CR0_ET | CR0_NE;
    f->s->cr4 = CR4_OSFXSR;
    for (unsigned i = 0; i < 16; i++)
        xmm0(f->s)[i] = (uint8_t)(0x80 + i);
    for (unsigned i = S_ES; i <= S_GS; i++)
        f->s->seg[i] = (struct x86_segment){ .limit = ~0u, .sel = 16, .attr = i == S_CS ? 0xc09b : 0xc093 };
    f->s->rip = CODE;
    f->s->gpr[R_DI] = from;
    f->s->gpr[R_SI] = to;
    assert_true(engine_translator.set_state(cpu, f->s, &err));
    engine_translator.run(cpu, &out, &err);
    assert_int_equal(out.kind, EXIT_KICKED);
    check_vectors(f, cpu, from, to);
}

static void take_count(void *ctx, const char *name, uint64_t value)
{
    if (!strcmp(name, "ram_large_pages") || !strcmp(name, "ram_large_ahead"))
        *(uint64_t *)ctx += value;
}

static uint64_t count(struct fixture *f)
{
    uint64_t n = 0;

    engine_translator.counters(f->vm, take_count, &n);
    return n;
}

/* Bytes that the host has given the file. */
static uint64_t taken(struct fixture *f)
{
    struct stat st;

    assert_int_equal(fstat(gmem_fd(f->mem), &st), 0);
    return (uint64_t)st.st_blocks * 512;
}

static void check_bytes(struct fixture *f, uint32_t from, uint32_t to, uint8_t want)
{
    const uint8_t *ram = gmem_slot_at(f->mem, 0).hva;

    for (uint32_t at = from; at < to; at += 4096)
        assert_int_equal(ram[at], want);
}

static bool host_can(void)
{
    struct anonmem m;
    bool can = anonmem_map(&m, "test", ANONMEM_LARGE, true) && m.fd >= 0 && anonmem_make_large(m.at, m.size);

    anonmem_unmap(&m);
    return can;
}

static void where_a_guest_comes(void **state)
{
    struct fixture *f = *state;

    if (!host_can()) {
        print_message("no large pages for shared memory here\n");
        touch(f, MIB(2), RAM);
        check_bytes(f, MIB(2), RAM, 1);
        assert_int_equal(count(f), 0);
        skip();
    }
    touch(f, MIB(2), MIB(2) + 4096);
    assert_int_equal(count(f), 1); /* not the code's: that was only fetched */
    assert_true(taken(f) >= ANONMEM_LARGE);
    touch(f, MIB(2), RAM);
    check_bytes(f, MIB(2) + 4096, RAM, 1);
    assert_int_equal(count(f), STRETCHES - 1); /* without the half one at the end */
    touch(f, MIB(2), RAM);
    check_bytes(f, MIB(2) + 4096, RAM, 2);
    assert_int_equal(count(f), STRETCHES - 1);
}

static void what_was_given_back(void **state)
{
    struct fixture *f = *state;

    if (!host_can()) {
        print_message("no large pages for shared memory here\n");
        skip();
    }
    touch(f, MIB(2), RAM);
    assert_true(gmem_discard(f->mem, MIB(2) + 4096, MIB(2))); /* a part of each of two */
    assert_true(gmem_discard(f->mem, RAM - MIB(3), MIB(3)));  /* a whole one, and all of the half one */
    touch(f, MIB(2), RAM);
    assert_int_equal(count(f), STRETCHES - 1 + 1);
    check_bytes(f, MIB(2) + 4096, MIB(4) + 4096, 1);
    check_bytes(f, MIB(4) + 4096, RAM - MIB(3), 2);
    check_bytes(f, RAM - MIB(3), RAM, 1);
}

static bool count_becomes(struct fixture *f, uint64_t want)
{
    for (unsigned i = 0; i < 2000 && count(f) < want; i++)
        usleep(10000);
    return count(f) == want;
}

static void ahead_of_a_guest(void **state)
{
    struct fixture *f = *state;

    if (!host_can()) {
        print_message("no large pages for shared memory here\n");
        skip();
    }
    touch(f, MIB(2), MIB(6));
    assert_int_equal(count(f), 2);
    touch(f, MIB(6), MIB(6) + 4096); /* the third in a row */
    assert_true(count_becomes(f, 4));
    assert_true(taken(f) >= 4 * ANONMEM_LARGE);
    check_bytes(f, MIB(8), MIB(10), 0);
    touch(f, MIB(8), MIB(8) + 4096);
    assert_true(count_becomes(f, 5));
    touch(f, MIB(6) + 4096, RAM);
    assert_int_equal(count(f), STRETCHES - 1); /* each once, by whomever */
    check_bytes(f, MIB(8) + 4096, RAM, 1);
}

static void not_for_private_ram(void **state)
{
    struct fixture *f = *state;

    touch(f, MIB(2), RAM);
    check_bytes(f, MIB(2), RAM, 1);
    assert_int_equal(count(f), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(where_a_guest_comes, set_up_file, tear_down),
        cmocka_unit_test_setup_teardown(what_was_given_back, set_up_file, tear_down),
        cmocka_unit_test_setup_teardown(ahead_of_a_guest, set_up_file, tear_down),
        cmocka_unit_test_setup_teardown(not_for_private_ram, set_up_private, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
