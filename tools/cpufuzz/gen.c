/* Making random sequences.
 *
 * A sequence is made from its seed alone, so that the seed is enough to see it again. The generator keeps
 * track of which general registers still hold a value that it knows; from those it forms addresses that lie
 * in the data window most of the time, on page borders and outside of it some of the time. When too few known
 * registers are left it loads one anew. Control flow only goes forward. */
#include <stdlib.h>
#include <string.h>

#include "gen_priv.h"

static const struct {
    const char *name;
    unsigned weight;
} classes[FC_COUNT] = {
    [FC_INT] = { "int", 40 },    [FC_STRING] = { "string", 4 }, [FC_BRANCH] = { "branch", 10 },
    [FC_STACK] = { "stack", 6 }, [FC_X87] = { "x87", 8 },       [FC_MMX] = { "mmx", 4 },
    [FC_SSE] = { "sse", 14 },    [FC_AVX] = { "avx", 12 },      [FC_AVX512] = { "avx512", 14 },
    [FC_PRIV] = { "priv", 1 },   [FC_RAW] = { "raw", 2 },
};

uint64_t gen_rnd(struct fuzz_gen *g)
{
    uint64_t x = g->random;

    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    g->random = x;
    return x * 0x2545f4914f6cdd1dull >> 8;
}

unsigned gen_below(struct fuzz_gen *g, unsigned n)
{
    return (unsigned)(gen_rnd(g) % n);
}

bool gen_chance(struct fuzz_gen *g, unsigned percent)
{
    return gen_below(g, 100) < percent;
}

struct fuzz_gen *fuzz_gen_new(uint32_t class_bits, unsigned bits, const struct fuzz_vectors *v)
{
    struct fuzz_gen *g = calloc(1, sizeof(*g));

    if (!g)
        return NULL;
    if (!(v->state & FUZZ_AVX512))
        class_bits &= ~(1u << FC_AVX512);
    g->vectors = *v;
    g->classes = class_bits;
    g->bits = bits;
    g->regs = bits / 4;
    if (bits == 32)
        ZydisDecoderInit(&g->decoder, ZYDIS_MACHINE_MODE_LONG_COMPAT_32, ZYDIS_STACK_WIDTH_32);
    else
        ZydisDecoderInit(&g->decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    for (unsigned i = 0; i < FC_COUNT; i++)
        g->weight_sum += class_bits & 1u << i ? classes[i].weight : 0;
    if (!g->weight_sum || !templates_find(&g->decoder, g->lists)) {
        fuzz_gen_free(g);
        return NULL;
    }
    return g;
}

void fuzz_gen_free(struct fuzz_gen *g)
{
    for (unsigned i = 0; g && i < FC_COUNT; i++)
        free(g->lists[i].v);
    free(g);
}

const char *fuzz_class_name(unsigned fc)
{
    return fc < FC_COUNT ? classes[fc].name : NULL;
}

unsigned fuzz_gen_templates(const struct fuzz_gen *g, unsigned fc)
{
    return g->lists[fc].count;
}

/* ---- values ---- */

static uint64_t interesting(struct fuzz_gen *g)
{
    static const uint64_t v[] = {
        0,
        1,
        2,
        ~0ull,
        0x7f,
        0x80,
        0xff,
        0x7fff,
        0x8000,
        0xffff,
        0x7fffffff,
        0x80000000,
        0xffffffff,
        0x7fffffffffffffff,
        0x8000000000000000,
        0x5555555555555555,
        0xaaaaaaaaaaaaaaaa,
        31,
        32,
        63,
        64,
    };

    return v[gen_below(g, array_size(v))];
}

/* A place for an access of `size` bytes: address in or near the window. */
static uint64_t place(struct fuzz_gen *g, unsigned size, bool aligned)
{
    unsigned kind = gen_below(g, 100);
    uint64_t a;

    if (size == 0 || size > 64)
        size = 8;
    if (kind < 84) {
        a = FUZZ_DATA_VA + gen_below(g, FUZZ_DATA_SIZE - 64);
        return aligned || gen_chance(g, 60) ? align_down(a, size >= 16 ? size : 8) : a;
    }
    if (aligned) /* at the borders, but not across */
        return FUZZ_DATA_VA + FUZZ_PAGE * (kind & 3) - size * (kind >> 2 & 1);
    if (kind < 92) /* across the border of two good pages */
        return FUZZ_DATA_VA + FUZZ_PAGE - gen_below(g, size + 1);
    if (kind < 95) /* into the read-only page */
        return FUZZ_DATA_VA + FUZZ_DATA_SIZE - gen_below(g, size + 1);
    if (kind < 97) /* out at the end */
        return FUZZ_DATA_VA + FUZZ_DATA_SIZE + FUZZ_PAGE - gen_below(g, size + 1);
    if (kind < 98) /* in from before the start */
        return FUZZ_DATA_VA - gen_below(g, size + 1);
    return FUZZ_DATA_VA + FUZZ_DATA_SIZE + gen_below(g, FUZZ_PAGE - 64); /* read-only page */
}

static uint64_t start_value(struct fuzz_gen *g, unsigned reg)
{
    unsigned kind = gen_below(g, 100);

    if (reg == 4)
        return FUZZ_STACK_VA + FUZZ_STACK_SIZE / 2 + (gen_chance(g, 90) ? 0 : gen_below(g, 16));
    if (kind < 45)
        return align_down(FUZZ_DATA_VA + gen_below(g, FUZZ_DATA_SIZE), gen_chance(g, 70) ? 64 : 1);
    if (kind < 65)
        return gen_below(g, 128);
    if (kind < 80)
        return interesting(g);
    return gen_rnd(g) << 8 ^ gen_rnd(g);
}

static uint64_t lane(struct fuzz_gen *g)
{
    static const uint64_t doubles[] = {
        0,
        0x8000000000000000,
        0x3ff0000000000000,
        0xbff0000000000000,
        0x7ff0000000000000,
        0xfff0000000000000,
        0x7ff8000000000000,
        0x7ff0000000000001,
        1,
        0x000fffffffffffff,
        0x0010000000000000,
        0x7fefffffffffffff,
        0x4330000000000000,
        0x41dfffffffc00000,
        0xc1e0000000000000,
        0x43e0000000000000,
        0x3ca0000000000000,
    };
    static const uint32_t floats[] = { 0,          0x80000000, 0x3f800000, 0xbf800000, 0x7f800000,
                                       0xff800000, 0x7fc00000, 0x7f800001, 1,          0x007fffff,
                                       0x00800000, 0x7f7fffff, 0x4b000000, 0x4f000000 };
    unsigned kind = gen_below(g, 10);

    if (kind < 3)
        return doubles[gen_below(g, array_size(doubles))];
    if (kind < 6)
        return (uint64_t)floats[gen_below(g, array_size(floats))] << 32 |
               floats[gen_below(g, array_size(floats))];
    if (kind < 7)
        return interesting(g);
    if (kind < 8) /* a number of middling size */
        return (uint64_t)(0x3f0 + gen_below(g, 0x20)) << 52 | (gen_rnd(g) & 0xfffffffffffff);
    return gen_rnd(g) << 8 ^ gen_rnd(g);
}

static void put(uint8_t *p, uint64_t v, unsigned n)
{
    memcpy(p, &v, n);
}

/* Standard format of XSAVE with x87, SSE and AVX. Intel SDM volume 1 (2023-12), 13.4. */
static uint64_t mask_value(struct fuzz_gen *g)
{
    unsigned kind = gen_below(g, 10);

    if (kind < 2)
        return 0;
    if (kind < 4)
        return ~0ull;
    if (kind < 7)
        return gen_rnd(g) & gen_rnd(g) & 0xffffff;
    return gen_rnd(g) << 8 ^ gen_rnd(g);
}

/* Some registers hold small numbers in all lanes, for indices of gathers and scatters. */
static void start_avx512(struct fuzz_gen *g, uint8_t *x)
{
    for (unsigned i = 0; i < 8; i++)
        put(x + g->vectors.at[5] + i * 8, mask_value(g), 8);
    for (unsigned i = 0; i < 64; i++)
        put(x + g->vectors.at[6] + i * 8, lane(g), 8);
    for (unsigned r = 0; r < 16; r++) {
        bool small = gen_chance(g, 40);

        for (unsigned i = 0; i < 8; i++)
            put(x + g->vectors.at[7] + r * 64 + i * 8,
                small ? gen_below(g, 96) | (uint64_t)(gen_chance(g, 50) ? gen_below(g, 96) : 0) << 32
                      : lane(g),
                8);
    }
}

static void start_vectors(struct fuzz_gen *g, uint8_t *x)
{
    memset(x, 0, FUZZ_XSAVE);
    put(x, gen_chance(g, 85) ? 0x37f : 0x040u | (gen_rnd(g) & 0xf3f), 2);
    put(x + 2, (uint64_t)gen_below(g, 8) << 11, 2);                         /* TOP */
    put(x + 4, gen_chance(g, 50) ? gen_rnd(g) : gen_below(g, 2) * 0xff, 1); /* tags, a bit each */
    put(x + 24,
        gen_chance(g, 85) ? 0x1f80 : 0x1f80 ^ (gen_rnd(g) & 0xffc0 & ~(gen_chance(g, 50) ? 0x1f80u : 0u)), 4);
    for (unsigned i = 0; i < 8; i++) {
        put(x + 32 + i * 16, gen_chance(g, 80) ? gen_rnd(g) | 1ull << 63 : lane(g), 8);
        put(x + 40 + i * 16,
            gen_chance(g, 80) ? (0x3ff0 + gen_below(g, 32)) | (gen_rnd(g) & 0x8000) : gen_rnd(g), 2);
    }
    for (unsigned i = 0; i < 32; i++)
        put(x + 160 + i * 8, lane(g), 8);
    for (unsigned i = 0; i < 32; i++)
        put(x + 576 + i * 8, lane(g), 8);
    put(x + 512, g->vectors.state, 8);
    if (g->vectors.state & FUZZ_AVX512)
        start_avx512(g, x);
}

void fuzz_gen_memory(struct fuzz_gen *g, uint8_t *mem, unsigned len)
{
    g->random = fuzz_mix(len) | 1;
    for (unsigned i = 0; i + 8 <= len; i += 8)
        put(mem + i, gen_chance(g, 30) ? place(g, 8, true) : lane(g), 8);
}

/* ---- building instructions ---- */

struct fuzz_insn *gen_append(struct fuzz_gen *g)
{
    struct fuzz_insn *i = &g->s->insn[g->s->count++];

    *i = (struct fuzz_insn){ .to_insn = -1 };
    return i;
}

void gen_append_bytes(struct fuzz_gen *g, const void *bytes, unsigned n)
{
    struct fuzz_insn *i;

    if (g->s->count >= FUZZ_INSNS)
        return;
    i = gen_append(g);
    memcpy(i->bytes, bytes, n);
    i->len = (uint8_t)n;
}

void gen_append_mov(struct fuzz_gen *g, unsigned reg, uint64_t v)
{
    uint8_t b[10] = { (uint8_t)(0x48 | reg >> 3), (uint8_t)(0xb8 | (reg & 7)) };

    if (g->bits == 32)
        v = (uint32_t)v;
    put(b + 2, v, 8);
    gen_append_bytes(g, b + (g->bits == 32), g->bits == 32 ? 5 : 10);
    g->known[reg] = true;
    g->value[reg] = v;
}

/* A memory operand: ModRM, SIB, displacement and what REX or VEX need. */
struct operand {
    uint8_t bytes[6];
    uint8_t len, rex; /* rex: X and B bits */
    uint8_t prefixes[2], prefix_count;
    bool rip; /* displacement is relative: bytes[1..4] */
    uint64_t target;
};

static void encode_sib(const struct fuzz_gen *g, struct operand *o, int base, int index, unsigned scale,
                       int64_t disp)
{
    unsigned mod = 2;

    if (base < 0)
        mod = 0;
    else if (!disp && (base & 7) != 5)
        mod = 0;
    else if (disp == (int8_t)disp && !g->wide_disp)
        mod = 1;
    o->rex = (uint8_t)((index >= 8 ? 2 : 0) | (base >= 8 ? 1 : 0));
    if (base >= 0 && index < 0 && (base & 7) != 4) {
        o->bytes[0] = (uint8_t)(mod << 6 | (base & 7));
        o->len = 1;
    } else {
        o->bytes[0] = (uint8_t)(mod << 6 | 4);
        o->bytes[1] = (uint8_t)(scale << 6 | (index < 0 ? 4 : index & 7) << 3 | (base < 0 ? 5 : base & 7));
        o->len = 2;
    }
    if (mod == 1) {
        put(o->bytes + o->len, (uint64_t)disp, 1);
        o->len++;
    } else if (mod == 2 || base < 0) {
        put(o->bytes + o->len, (uint64_t)disp, 4);
        o->len = (uint8_t)(o->len + 4);
    }
}

static int known_reg(struct fuzz_gen *g, bool index)
{
    for (unsigned tries = 0; tries < 8; tries++) {
        unsigned r = gen_below(g, g->regs);

        if (g->known[r] && !(index && r == 4))
            return (int)r;
    }
    return -1;
}

/* base + index * scale + disp = target, from registers whose value is known. */
static bool based_operand(struct fuzz_gen *g, struct operand *o, uint64_t target, bool addr32)
{
    int base = gen_chance(g, 92) ? known_reg(g, false) : -1,
        index = gen_chance(g, 35) ? known_reg(g, true) : -1;
    unsigned scale = gen_below(g, 4);
    uint64_t sum = (base < 0 ? 0 : g->value[base]) + (index < 0 ? 0 : g->value[index] << scale);
    int64_t disp = (int64_t)(target - sum);

    if (addr32 || g->bits == 32)
        disp = (int32_t)disp;
    if (disp != (int32_t)disp || (base < 0 && index < 0 && gen_chance(g, 70)))
        return false;
    encode_sib(g, o, base, index, scale, disp);
    return true;
}

/* Through FS or GS. In 32-bit code now and then across 4 GiB, in the segment or behind its base. */
static void segment_operand(struct fuzz_gen *g, struct operand *o, unsigned size, uint64_t target)
{
    bool gs = gen_chance(g, 50), addr32 = g->bits == 32 || gen_chance(g, 20);
    uint64_t base = gs ? g->s->in.r.gs_base : g->s->in.r.fs_base;

    o->prefixes[o->prefix_count++] = gs ? 0x65 : 0x64;
    if (g->bits == 32 && gen_chance(g, 8))
        target = (gen_chance(g, 60) ? base : 0) - gen_below(g, size + 1);
    /* SDM volume 3, 5.3: what wraps at the end of a segment of 4 GiB may fault or not. AMD's always do. */
    if (g->bits == 32 && !__builtin_cpu_is("amd") && (uint32_t)(target - base) > 0xffffff80u)
        target = base;
    if (!gen_chance(g, 40) && based_operand(g, o, target - base, addr32)) {
        if (addr32 && g->bits == 64)
            o->prefixes[o->prefix_count++] = 0x67;
        return;
    }
    encode_sib(g, o, -1, -1, 0, (int64_t)(target - base));
}

static void memory_operand(struct fuzz_gen *g, struct operand *o, unsigned size, bool aligned, bool vsib)
{
    unsigned kind = gen_below(g, 100);
    uint64_t target = place(g, size, aligned);

    *o = (struct operand){ 0 };
    if (vsib) { /* the index is a vector; its value is what it is */
        int base = known_reg(g, false);

        encode_sib(g, o, base, (int)(1 + gen_below(g, g->regs - 1)), gen_below(g, 4),
                   base < 0 ? FUZZ_DATA_VA : (int8_t)gen_rnd(g));
        if ((o->bytes[0] & 7) != 4)
            encode_sib(g, o, 0, 1, 0, 0);
        return;
    }
    if (kind < 6) {
        segment_operand(g, o, size, target);
        return;
    }
    if (kind < 16) {
        if (g->bits == 32) {
            encode_sib(g, o, -1, -1, 0, (int64_t)target);
            return;
        }
        o->rip = true;
        o->target = target;
        o->bytes[0] = 5;
        o->len = 5;
        return;
    }
    if (kind < 19) { /* anything */
        encode_sib(g, o, (int)gen_below(g, g->regs), gen_chance(g, 50) ? -1 : 5, gen_below(g, 4),
                   (int32_t)gen_rnd(g) >> gen_below(g, 24));
        return;
    }
    if (kind < 22) { /* stack */
        encode_sib(g, o, 4, -1, 0, ((int64_t)gen_below(g, 128) - 64) & (aligned ? -16 : -1));
        return;
    }
    for (unsigned tries = 0; tries < 6; tries++) {
        bool addr32 = kind >= 95;

        if (!based_operand(g, o, target, addr32))
            continue;
        if (addr32 && g->bits == 64)
            o->prefixes[o->prefix_count++] = 0x67;
        return;
    }
    encode_sib(g, o, -1, -1, 0, (int64_t)target);
}

/* What the rest of the instruction is made of, besides the operand. */
struct shape {
    const struct template *t;
    uint8_t pre[4], pre_count; /* 66, F0 */
    uint8_t rex;               /* W and R, 0x40 if a bare REX is wanted */
    uint8_t vvvv;
    uint8_t reg;    /* 3 bits */
    uint8_t p0, p2; /* EVEX: X and R' (as bits 6 and 4); z, L'L, b, V', mask. Not inverted */
};

static unsigned encode(const struct shape *s, const struct operand *o, uint8_t *b, unsigned *modrm_at)
{
    static const uint8_t prefix[] = { 0, 0x66, 0xf3, 0xf2 };
    const struct template *t = s->t;
    unsigned n = 0;
    uint8_t rex = s->rex | o->rex;

    for (unsigned i = 0; i < o->prefix_count; i++)
        b[n++] = o->prefixes[i];
    if (t->vex == 2) {
        b[n++] = 0x62;
        b[n++] = (uint8_t)(((~rex & 7) << 5 & ~(s->p0 & 0x40)) | (~s->p0 & 0x10) | t->map);
        b[n++] = (uint8_t)(t->w << 7 | (~s->vvvv & 0xf) << 3 | 4 | t->pp);
        b[n++] = s->p2 ^ 8;
    } else if (t->vex) {
        b[n++] = 0xc4;
        b[n++] = (uint8_t)((~rex & 7) << 5 | t->map);
        b[n++] = (uint8_t)(t->w << 7 | (~s->vvvv & 0xf) << 3 | t->l << 2 | t->pp);
    } else {
        for (unsigned i = 0; i < s->pre_count; i++)
            b[n++] = s->pre[i];
        if (t->pp)
            b[n++] = prefix[t->pp];
        if (rex)
            b[n++] = (uint8_t)(rex | 0x40);
        if (t->map)
            b[n++] = 0x0f;
        if (t->map >= 2)
            b[n++] = t->map == 2 ? 0x38 : 0x3a;
    }
    b[n++] = t->opcode;
    *modrm_at = n;
    if (t->has_modrm) {
        memcpy(b + n, o->bytes, o->len);
        b[n] |= (uint8_t)(s->reg << 3);
        n += o->len;
    }
    return n;
}

static bool decode(struct fuzz_gen *g, const uint8_t *b, unsigned len, ZydisDecodedInstruction *insn,
                   ZydisDecodedOperand *op)
{
    return ZYAN_SUCCESS(ZydisDecoderDecodeFull(&g->decoder, b, len, insn, op));
}

/* Forgets the registers that the instruction writes. False: it spoils RSP, which is allowed but rarely. */
static bool track(struct fuzz_gen *g, const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *op)
{
    for (unsigned i = 0; i < insn->operand_count; i++) {
        ZydisRegister big;
        unsigned r;

        if (op[i].type != ZYDIS_OPERAND_TYPE_REGISTER || !(op[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
            continue;
        big = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, op[i].reg.value);
        if (big < ZYDIS_REGISTER_RAX || big > ZYDIS_REGISTER_R15)
            continue;
        r = (unsigned)(big - ZYDIS_REGISTER_RAX);
        if (r == 4 && op[i].visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT && gen_chance(g, 95))
            return false;
        g->known[r] = false;
    }
    return true;
}

/* Zen 4 takes an old value of RSP for an instruction under EVEX that reads it as a register, right behind one
 * that pushed or popped. */
static bool meets_erratum(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *op)
{
    if (insn->encoding != ZYDIS_INSTRUCTION_ENCODING_EVEX || !__builtin_cpu_is("amd"))
        return false;
    for (unsigned i = 0; i < insn->operand_count; i++) {
        if (op[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
            ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, op[i].reg.value) ==
                ZYDIS_REGISTER_RSP)
            return true;
    }
    return false;
}

static void choose_evex(struct fuzz_gen *g, const struct template *t, struct shape *s)
{
    s->p2 = (uint8_t)(t->l << 5 | (t->masked ? 1 + gen_below(g, 7) : 0) | (gen_chance(g, 25) ? 0x10 : 0) |
                      (t->masked && gen_chance(g, 25) ? 0x80 : 0));
    if (gen_chance(g, 3))
        s->p2 |= 0x60;
    if (g->bits == 32)
        return;
    s->p0 = gen_chance(g, 50) ? 0x10 : 0;
    s->p2 |= s->vvvv && gen_chance(g, 50) ? 8 : 0;
}

/* What of the choices the instruction has not: no broadcast, no rounding, no zeroing. In 64-bit mode VSIB's
 * index takes V'. */
static void reduce_evex(struct shape *s, unsigned step)
{
    s->p2 &= (uint8_t)(step == 0 ? ~0x10 : step == 1 ? ~0x90 : ~0x80);
    if (step == 3) {
        s->vvvv = 0;
        s->p2 &= (uint8_t)~0x98;
        s->p0 &= (uint8_t)~0x10;
    }
}

static void choose_shape(struct fuzz_gen *g, const struct template *t, struct shape *s)
{
    *s = (struct shape){ .t = t,
                         .reg =
                             t->fixed_reg || t->fixed_modrm ? t->modrm >> 3 & 7 : (uint8_t)gen_below(g, 8) };
    if (t->vex) {
        s->vvvv = gen_chance(g, 70) ? (uint8_t)gen_below(g, g->regs) : 0;
        s->rex = g->bits == 64 ? (uint8_t)(gen_below(g, 2) << 2) : 0;
        if (t->vex == 2)
            choose_evex(g, t, s);
        return;
    }
    if (t->fc == FC_INT && gen_chance(g, 20))
        s->pre[s->pre_count++] = 0x66;
    if (g->bits == 64 && gen_chance(g, t->fc == FC_INT ? 55 : 25))
        s->rex = (uint8_t)(0x40 | (gen_below(g, 2) << 3) | (gen_below(g, 2) << 2));
}

static unsigned memory_size(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *op, bool *vsib)
{
    unsigned size = 0;

    *vsib = false;
    for (unsigned i = 0; i < insn->operand_count; i++) {
        if (op[i].type != ZYDIS_OPERAND_TYPE_MEMORY)
            continue;
        size = op[i].size / 8u;
        *vsib |= op[i].mem.type == ZYDIS_MEMOP_TYPE_VSIB;
    }
    return size;
}

/* Fills immediates; moffs forms get an address. */
static void fill_immediates(struct fuzz_gen *g, const ZydisDecodedInstruction *insn, uint8_t *b)
{
    for (unsigned i = 0; i < 2; i++) {
        if (!insn->raw.imm[i].size)
            continue;
        put(b + insn->raw.imm[i].offset, gen_chance(g, 40) ? interesting(g) : gen_rnd(g),
            insn->raw.imm[i].size / 8u);
    }
    if (insn->raw.disp.size && !(insn->attributes & ZYDIS_ATTRIB_HAS_MODRM))
        put(b + insn->raw.disp.offset, place(g, 8, false), insn->raw.disp.size / 8u);
}

/* Whether it decodes, of EVEX if need be with less. */
static bool try_shape(struct fuzz_gen *g, struct shape *s, const struct operand *o,
                      ZydisDecodedInstruction *insn, ZydisDecodedOperand *op)
{
    for (unsigned step = 0;; step++) {
        uint8_t b[40] = { 0 };
        unsigned modrm_at;

        encode(s, o, b, &modrm_at);
        if (decode(g, b, sizeof(b), insn, op))
            return true;
        if (s->t->vex != 2 || step == 4)
            return false;
        reduce_evex(s, step);
    }
}

/* One instruction from a template; false if this draw made nothing valid. */
static bool gen_template(struct fuzz_gen *g, const struct template *t)
{
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
    struct shape s;
    struct operand o = { .len = 1 };
    uint8_t b[40] = { 0 };
    unsigned modrm_at, n;
    bool mem = t->mem_form && (!t->reg_form || gen_chance(g, 50)), vsib = false;
    struct fuzz_insn *out;

    choose_shape(g, t, &s);
    if (t->fixed_modrm) {
        o.bytes[0] = t->modrm;
    } else if (mem) {
        o.bytes[0] = 3;
        if (!try_shape(g, &s, &o, &insn, op)) {
            /* VSIB needs a SIB byte to decode. */
            memory_operand(g, &o, 0, false, true);
            if (t->vex == 2) {
                s.vvvv = 0;
                s.p2 = (uint8_t)((s.p2 & 0x6f) | (g->bits == 64 && gen_chance(g, 70) ? 8 : 0));
            }
            vsib = true;
        } else {
            unsigned size = memory_size(&insn, op, &vsib);
            bool aligned = size >= 16 && (!t->vex || (t->vex == 2 && gen_chance(g, 30))) && gen_chance(g, 94);

            if ((insn.attributes & ZYDIS_ATTRIB_ACCEPTS_LOCK) && gen_chance(g, 35)) {
                memmove(s.pre + 1, s.pre, s.pre_count);
                s.pre[0] = 0xf0;
                s.pre_count++;
            }
            g->wide_disp = t->vex == 2 && gen_chance(g, 80);
            memory_operand(g, &o, size, aligned, vsib);
            g->wide_disp = false;
            if (!o.prefix_count && gen_chance(g, 2)) /* ES, CS, SS or DS */
                o.prefixes[o.prefix_count++] = (uint8_t)(0x26 | gen_below(g, 4) << 3);
        }
    } else {
        o.bytes[0] = (uint8_t)(0xc0 | gen_below(g, 8));
        o.rex = g->bits == 64 && (s.rex || t->vex) ? (uint8_t)gen_below(g, 2) : 0;
        if (t->vex == 2) {
            s.p0 |= g->bits == 64 && gen_chance(g, 50) ? 0x40 : 0;
            try_shape(g, &s, &o, &insn, op);
        }
    }
    memset(b, 0, sizeof(b));
    n = encode(&s, &o, b, &modrm_at);
    if (!decode(g, b, sizeof(b), &insn, op) || insn.length < n || insn.length > 15)
        return false;
    fill_immediates(g, &insn, b);
    if (!decode(g, b, insn.length, &insn, op) || insn_class(&insn, op) == FC_COUNT ||
        meets_erratum(&insn, op) || !track(g, &insn, op))
        return false;
    out = gen_append(g);
    memcpy(out->bytes, b, insn.length);
    out->len = insn.length;
    if (mem && o.rip) {
        out->fix_at = (uint8_t)(modrm_at + 1);
        out->fix_size = 4;
        out->fix_target = o.target;
    }
    return true;
}

bool gen_from_class(struct fuzz_gen *g, unsigned fc)
{
    const struct template_list *l = &g->lists[fc];

    return l->count && gen_template(g, &l->v[gen_below(g, l->count)]);
}

/* ---- things that templates do not make ---- */

static bool gen_string(struct fuzz_gen *g)
{
    static const uint8_t ops[] = { 0xa4, 0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf };
    uint8_t b[4];
    unsigned n = 0;
    bool down = gen_chance(g, 30);

    if (g->s->count + 6 > FUZZ_INSNS)
        return false;
    if (gen_chance(g, 20))
        return gen_from_class(g, FC_STRING);
    uint64_t source = place(g, 8, false);
    bool near = gen_chance(g, 30); /* they overlap */
    gen_append_mov(g, 6, source);
    gen_append_mov(g, 7, near ? source + gen_below(g, 600) - 300 : place(g, 8, false));
    gen_append_mov(g, 1,
                   gen_chance(g, 80)   ? gen_below(g, 40)
                   : gen_chance(g, 50) ? gen_below(g, 3000)
                                       : interesting(g));
    if (down)
        gen_append_bytes(g, "\xfd", 1);
    if (gen_chance(g, 5))
        b[n++] = 0x67;
    if (gen_chance(g, 75))
        b[n++] = gen_chance(g, 70) ? 0xf3 : 0xf2;
    if (gen_chance(g, 50))
        b[n++] = gen_chance(g, 60) && g->bits == 64 ? 0x48 : 0x66;
    if (n >= 2 && b[n - 1] == 0x66) { /* keep the order 66 F3 op legal either way */
        b[n - 1] = b[n - 2];
        b[n - 2] = 0x66;
    }
    b[n++] = ops[gen_below(g, array_size(ops))];
    gen_append_bytes(g, b, n);
    g->known[0] = g->known[1] = g->known[6] = g->known[7] = false;
    if (down)
        gen_append_bytes(g, "\xfc", 1);
    return true;
}

static bool gen_stack(struct fuzz_gen *g)
{
    uint8_t b[6] = { 0x68 };

    if (gen_chance(g, 85))
        return gen_from_class(g, FC_STACK);
    if (g->s->count + 2 > FUZZ_INSNS)
        return false;
    /* push imm; popf: status flags, DF and AC; IF is on in both worlds */
    put(b + 1, (gen_rnd(g) & 0xcd5) | 0x202 | (gen_chance(g, 25) ? 0x40000 : 0), 4);
    gen_append_bytes(g, b, 5);
    if (gen_chance(g, 80))
        gen_append_bytes(g, "\x9d", 1);
    else
        gen_append_bytes(g, "\x66\x9d", 2);
    g->known[4] = false;
    return true;
}

static bool gen_int(struct fuzz_gen *g)
{
    unsigned kind = gen_below(g, 100);

    if (kind < 2 && g->s->count + 2 <= FUZZ_INSNS) { /* a division that can go well */
        static const uint8_t div[][3] = {
            { 0x48, 0xf7, 0xf1 }, { 0x48, 0xf7, 0xf9 }, { 0x40, 0xf7, 0xf1 }, { 0x40, 0xf6, 0xf1 }
        };

        gen_append_bytes(g, "\x31\xd2", 2);
        gen_append_bytes(g, div[gen_below(g, 4)] + (g->bits == 32), g->bits == 32 ? 2 : 3);
        g->known[0] = g->known[2] = false;
        return true;
    }
    return gen_from_class(g, FC_INT);
}

/* Instructions that ring 3 may not run: #GP(0). */
static bool gen_priv(struct fuzz_gen *g)
{
    static const struct {
        uint8_t n, b[4];
    } v[] = {
        { 1, { 0xf4 } },
        { 1, { 0xfa } },
        { 1, { 0xfb } },
        { 1, { 0xec } },
        { 1, { 0xef } },
        { 2, { 0xe4, 0x80 } },
        { 2, { 0x0f, 0x06 } },
        { 2, { 0x0f, 0x30 } },
        { 2, { 0x0f, 0x32 } },
        { 2, { 0x0f, 0x09 } },
        { 3, { 0x0f, 0x20, 0xc0 } },
        { 3, { 0x0f, 0x22, 0xd8 } },
        { 3, { 0x0f, 0x23, 0xc0 } },
        { 3, { 0x0f, 0x01, 0xf8 } },
        { 3, { 0x0f, 0x01, 0x10 } },
        { 3, { 0x0f, 0x01, 0x38 } },
        { 1, { 0x6c } },
        { 2, { 0x0f, 0x0b } },
        { 1, { 0x06 } },
        { 1, { 0x27 } },
        { 1, { 0xcc } },
    };
    unsigned i = gen_below(g, array_size(v));

    gen_append_bytes(g, v[i].b, v[i].n);
    return true;
}

static bool gen_raw(struct fuzz_gen *g)
{
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
    uint8_t b[16];
    unsigned fc;

    put(b, gen_rnd(g), 8);
    put(b + 8, gen_rnd(g), 8);
    if (gen_chance(g, 30))
        b[0] = "\x66\xf2\xf3\x0f"[gen_below(g, 4)];
    if (!decode(g, b, 15, &insn, op))
        return false;
    fc = insn_class(&insn, op);
    if (fc == FC_COUNT || meets_erratum(&insn, op) || !track(g, &insn, op))
        return false;
    gen_append_bytes(g, b, insn.length);
    return true;
}

static bool gen_one(struct fuzz_gen *g)
{
    unsigned pick = gen_below(g, g->weight_sum), fc = 0;

    for (;; fc++) {
        unsigned w = g->classes & 1u << fc ? classes[fc].weight : 0;

        if (pick < w)
            break;
        pick -= w;
    }
    switch (fc) {
    case FC_INT: return gen_int(g);
    case FC_STRING: return gen_string(g);
    case FC_BRANCH: return gen_branch(g);
    case FC_STACK: return gen_stack(g);
    case FC_PRIV: return gen_priv(g);
    case FC_RAW: return gen_raw(g);
    default: return gen_from_class(g, fc);
    }
}

/* Keeps some registers good for addresses; now and then one is at the end of the canonical half. */
static void refresh(struct fuzz_gen *g)
{
    unsigned known = 0, reg = gen_below(g, g->regs);

    for (unsigned i = 0; i < g->regs; i++)
        known += g->known[i];
    if (!g->known[4] && gen_chance(g, 20))
        gen_append_mov(g, 4,
                       FUZZ_STACK_VA + FUZZ_STACK_SIZE / 2 +
                           32 * g->s->count); /* upwards: no old return address */
    else if (gen_chance(g, 1))                /* near an end of the stack's page */
        gen_append_mov(g, 4,
                       FUZZ_STACK_VA + (gen_chance(g, 50) ? 0 : FUZZ_STACK_SIZE) + gen_below(g, 96) - 48);
    else if (g->bits == 64 && reg != 4 && gen_chance(g, 2))
        gen_append_mov(g, reg, (1ull << 47) - gen_below(g, 48));
    else if (known < (g->bits == 32 ? 4u : 6u) && reg != 4 && gen_chance(g, 60))
        gen_append_mov(g, reg, gen_chance(g, 70) ? place(g, 64, true) : gen_below(g, 64));
}

void fuzz_gen_sequence(struct fuzz_gen *g, struct fuzz_seq *s, uint64_t seed)
{
    unsigned length;

    memset(s, 0, sizeof(*s));
    s->seed = seed;
    g->s = s;
    g->random = fuzz_mix(seed) | 1;
    for (unsigned i = 0; i < 16; i++) {
        s->in.r.gpr[i] = g->value[i] = start_value(g, i) & (g->bits == 32 && i < 8 ? 0xffffffff : ~0ull);
        g->known[i] = i < g->regs;
    }
    s->bits = g->bits;
    s->in.r.error = g->bits == 32 ? 0x23 : 0x33; /* CS: FUZZ_R_CS */
    s->in.r.rflags = 0x202 | (gen_rnd(g) & 0x8d5);
    s->in.r.fs_base = FUZZ_DATA_VA + gen_below(g, FUZZ_DATA_SIZE);
    s->in.r.gs_base = FUZZ_DATA_VA - gen_below(g, FUZZ_DATA_SIZE);
    start_vectors(g, s->in.xsave);
    length = 1 + gen_below(g, gen_chance(g, 70) ? 14 : FUZZ_INSNS - 12);
    while (s->count < length) {
        gen_one(g);
        if (s->count < length)
            refresh(g);
    }
    for (unsigned i = 0; i < s->count; i++) {
        if (s->insn[i].to_insn > (int)s->count)
            s->insn[i].to_insn = (int16_t)s->count;
    }
}
