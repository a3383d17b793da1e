/* Forms (trans_form.c): what is found for an instruction whose like was decoded before is what decoding
 * finds. */
#include <stdarg.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/translator/trans.h"

#define TRIES 400000

struct fixture {
    struct trans t;
    struct ginsn g[1];
    uint64_t random;
    unsigned found;
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    assert_non_null(f);
    f->t.forms = calloc(1, sizeof(*f->t.forms));
    assert_non_null(f->t.forms);
    f->t.g = f->g;
    f->random = 1;
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    free(f->t.forms);
    free(f);
    return 0;
}

static unsigned random_below(struct fixture *f, unsigned n)
{
    f->random = f->random * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(f->random >> 33) % n;
}

/* Prefixes, an opcode of any map, and bytes from a small choice, so that many begin alike. */
static void make_bytes(struct fixture *f, uint8_t *b)
{
    static const uint8_t begins[] = { 0x66, 0xf2, 0xf3, 0x48, 0x41, 0x67, 0x64, 0x0f, 0x0f,
                                      0x0f, 0xc4, 0xc5, 0x62, 0xd9, 0x81, 0x83, 0x8d, 0xa1,
                                      0xc1, 0xc8, 0xe8, 0x9a, 0xea, 0xc7, 0x68, 0x70, 0xf7 };
    static const uint8_t opcodes[] = {
        0x38, 0x3a, 0x0f, 0x10, 0x20, 0x70, 0x80, 0xae, 0xba, 0xc7, 0x22, 0xe1
    };
    static const uint8_t modrms[] = { 0x00, 0x04, 0x05, 0x44, 0x45, 0x84, 0x85, 0xc0, 0xc8, 0x0c, 0x14 };

    b[0] = begins[random_below(f, sizeof begins)];
    b[1] = random_below(f, 2) ? begins[random_below(f, sizeof begins)]
                              : opcodes[random_below(f, sizeof opcodes)];
    for (unsigned i = 2; i < 6; i++)
        b[i] = random_below(f, 3) ? modrms[random_below(f, sizeof modrms)]
                                  : opcodes[random_below(f, sizeof opcodes)];
    for (unsigned i = 6; i < 15; i++)
        b[i] = (uint8_t)random_below(f, 256);
}

static void is_as_decoded(struct fixture *f, unsigned room)
{
    struct trans *t = &f->t;
    struct ginsn *g = f->g;
    ZydisDecodedInstruction in;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];

    assert_true(ZYAN_SUCCESS(insn_decode_zydis(&t->decoder, g->bytes, room, &in, ops)));
    form_set_numbers(g->form, g);
    assert_memory_equal(g->form->in, &in, sizeof(in));
    assert_memory_equal(g->form->ops, ops, in.operand_count * sizeof(ops[0]));
    assert_int_equal(g->form->mem ? g->form->mem - g->form->ops : -1,
                     insn_find_mem(&in, ops) ? insn_find_mem(&in, ops) - ops : -1);
}

static void check_mode(struct fixture *f, unsigned code_bits, uint32_t mode)
{
    struct trans *t = &f->t;

    t->mode = mode;
    t->bits = code_bits == 64 ? 64 : 32;
    insn_decoder_init(&t->decoder, code_bits);
    f->found = 0;
    for (unsigned i = 0; i < TRIES; i++) {
        unsigned room = random_below(f, 8) ? 15 : 1 + random_below(f, 15);

        t->forms->block++;
        make_bytes(f, f->g->bytes);
        if (form_find(t, f->g, room)) {
            f->found++;
            is_as_decoded(f, room);
            continue;
        }
        form_decode(t, f->g, room);
        f->g->form->facts.way = WAY_FLOW; /* numbers are looked for in the form */
        form_keep(t, f->g);
    }
    assert_true(f->found > TRIES / 20);
}

static void random_bytes(void **state)
{
    check_mode(*state, 64, 0);
    check_mode(*state, 32, 1u << MODE_BITS_SHIFT);
    check_mode(*state, 16, 2u << MODE_BITS_SHIFT);
}

static void put(struct fixture *f, const char *bytes, unsigned n)
{
    f->t.forms->block++;
    memset(f->g->bytes, 0, sizeof f->g->bytes);
    memcpy(f->g->bytes, bytes, n);
}

static bool is_found(struct fixture *f, const char *bytes, unsigned n)
{
    put(f, bytes, n);
    return form_find(&f->t, f->g, n);
}

static void keep(struct fixture *f, const char *bytes, unsigned n)
{
    put(f, bytes, n);
    assert_false(form_find(&f->t, f->g, n));
    form_decode(&f->t, f->g, n);
    f->g->form->facts.way = WAY_FLOW;
    form_keep(&f->t, f->g);
}

/* add dword [rbx+disp8], imm32 with other numbers, other registers, and cut off. */
static void numbers(void **state)
{
    struct fixture *f = *state;

    f->t.bits = 64;
    insn_decoder_init(&f->t.decoder, 64);
    keep(f, "\x81\x43\x7f\x01\x02\x03\x04", 7);
    assert_false(is_found(f, "\x81\x42\x7f\x01\x02\x03\x04", 7));
    assert_false(is_found(f, "\x81\x43\x7f\x01\x02\x03\x04", 6));
    assert_true(is_found(f, "\x81\x43\x80\xfe\xff\xff\xff", 7));
    assert_int_equal(f->g->disp, -128);
    assert_int_equal(f->g->imm, -2);
    is_as_decoded(f, 7);
    f->t.mode = MODE_TS; /* may be of another way there */
    assert_false(is_found(f, "\x81\x43\x80\xfe\xff\xff\xff", 7));
}

/* What the block in the making refers to is not replaced by the form of another instruction. */
static void in_use(void **state)
{
    struct fixture *f = *state;
    struct form *kept;

    f->t.bits = 64;
    insn_decoder_init(&f->t.decoder, 64);
    keep(f, "\x90", 1);
    assert_true(is_found(f, "\x90", 1));
    kept = f->g->form;
    for (unsigned i = 0; i < 0x2000; i++) { /* ADD, OR ... of any registers: some fall on the same place */
        const uint8_t other[3] = { (uint8_t)(0x40 | i >> 9), (uint8_t)((i & 7) << 3 | 1),
                                   (uint8_t)(0xc0 | (i >> 3 & 63)) };
        memcpy(f->g->bytes, other, sizeof other);
        if (!form_find(&f->t, f->g, sizeof other)) {
            form_decode(&f->t, f->g, sizeof other);
            form_keep(&f->t, f->g);
        }
        assert_int_equal(kept->in->mnemonic, ZYDIS_MNEMONIC_NOP);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(random_bytes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(numbers, set_up, tear_down),
        cmocka_unit_test_setup_teardown(in_use, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
