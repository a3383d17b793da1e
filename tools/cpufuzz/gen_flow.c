/* Branches of random sequences: forward, to places that are known, and now and then to where no code is. */
#include <string.h>

#include "gen_priv.h"

static struct fuzz_insn *append_branch(struct fuzz_gen *g, const void *bytes, unsigned n, unsigned size,
                                       unsigned skip)
{
    struct fuzz_insn *i = gen_append(g);

    memcpy(i->bytes, bytes, n);
    i->len = (uint8_t)(n + size);
    i->fix_at = (uint8_t)n;
    i->fix_size = (uint8_t)size;
    i->to_insn = (int16_t)(g->s->count + skip);
    return i;
}

static void append_jcc(struct fuzz_gen *g)
{
    uint8_t b[3];
    unsigned skip = gen_below(g, 4), kind = gen_below(g, 10);

    if (kind < 6) {
        b[0] = (uint8_t)(0x70 | gen_below(g, 16));
        append_branch(g, b, 1, 1, skip);
    } else if (kind < 8) {
        b[0] = 0x0f;
        b[1] = (uint8_t)(0x80 | gen_below(g, 16));
        append_branch(g, b, 2, 4, skip);
    } else if (kind < 9) { /* LOOPNE, LOOPE, LOOP, JRCXZ; with 67: ECX */
        unsigned n = 0;

        if (gen_chance(g, 20))
            b[n++] = 0x67;
        b[n++] = (uint8_t)(0xe0 | gen_below(g, 4));
        append_branch(g, b, n, 1, skip);
        g->known[1] = false;
    } else {
        b[0] = 0xe9;
        append_branch(g, b, 1, 4, skip);
    }
}

/* A jump, call or return to what is in `reg`. */
static void append_use(struct fuzz_gen *g, unsigned reg, unsigned kind)
{
    unsigned rex = g->bits == 64;
    uint8_t b[3] = { (uint8_t)(0x40 | reg >> 3) };

    g->known[4] = false;
    switch (kind) {
    case 0:
    case 1: /* jmp reg, call reg */
        b[1] = 0xff;
        b[2] = (uint8_t)((kind ? 0xd0 : 0xe0) | (reg & 7));
        gen_append_bytes(g, b + !rex, 2 + rex);
        break;
    case 2: /* push reg; ret or ret n */
        b[1] = (uint8_t)(0x50 | (reg & 7));
        gen_append_bytes(g, b + !rex, 1 + rex);
        if (gen_chance(g, 70))
            gen_append_bytes(g, "\xc3", 1);
        else
            gen_append_bytes(g, "\xc2\x10\x00", 3);
        break;
    case 3: /* push reg; jmp or call [rsp]; pop */
        b[1] = (uint8_t)(0x50 | (reg & 7));
        gen_append_bytes(g, b + !rex, 1 + rex);
        gen_append_bytes(g, gen_chance(g, 50) ? "\xff\x24\x24" : "\xff\x14\x24", 3);
        gen_append_bytes(g, "\x58", 1);
        g->known[0] = false;
        break;
    default: /* the address itself, for whoever uses the register */ gen_append_bytes(g, "\x90", 1);
    }
}

/* lea reg, [rip + label]; then a jump, call or return to it */
static void append_indirect(struct fuzz_gen *g)
{
    unsigned reg = gen_below(g, g->regs), kind = gen_below(g, 5);
    uint8_t b[3] = { (uint8_t)(0x48 | (reg >> 3) << 2), 0x8d, (uint8_t)(5 | (reg & 7) << 3) };
    unsigned between = kind == 3 ? 3 : kind == 2 ? 2 : 1;

    if (reg == 4)
        return;
    if (g->bits == 64) {
        append_branch(g, b, 3, 4, between + gen_below(g, 3));
    } else { /* mov reg, label */
        b[0] = (uint8_t)(0xb8 | reg);
        append_branch(g, b, 1, 4, between + gen_below(g, 3))->fix_absolute = true;
    }
    append_use(g, reg, kind);
    g->known[reg] = false;
}

/* Jumps to where no code is: borders of the canonical halves, and values that an engine's tables might use
 * for what is not there. */
static void append_wild(struct fuzz_gen *g)
{
    static const uint64_t v[] = { 0x7ffffffff000,     0x800000000000,     0xffff7fffffffffff,
                                  0xffff800000000000, 0x8000000000000000, 0x7fffffffffffffff,
                                  0xfffffffffffff000, 0xffffffff80000000, 0 };
    unsigned reg = gen_below(g, g->regs);

    if (reg == 4)
        return;
    gen_append_mov(g, reg, v[gen_below(g, array_size(v))] + gen_below(g, 3) - 1);
    append_use(g, reg, gen_below(g, 4));
}

/* call f; jmp over; f: ...; ret; over: */
static void append_function(struct fuzz_gen *g)
{
    append_branch(g, "\xe8", 1, 4, 1);
    append_branch(g, "\xeb", 1, 1, 3);
    for (unsigned i = 0; i < 2; i++) {
        if (!gen_from_class(g, FC_INT))
            gen_append_bytes(g, "\x90", 1);
    }
    gen_append_bytes(g, "\xc3", 1);
}

bool gen_branch(struct fuzz_gen *g)
{
    unsigned kind = gen_below(g, 100);

    if (g->s->count + 8 > FUZZ_INSNS)
        return false;
    if (kind < 70) {
        append_jcc(g);
    } else if (kind < 85) {
        append_indirect(g);
    } else if (kind < 86) {
        append_wild(g);
    } else if (kind < 92) {
        append_function(g);
    } else if (kind < 98) { /* call forward: the return address stays on the stack */
        append_branch(g, "\xe8", 1, 4, gen_below(g, 3));
        g->known[4] = false;
    } else { /* return to whatever is there */
        gen_append_bytes(g, "\xc3", 1);
    }
    return true;
}
