/* Forms: what decoding an instruction finds out, kept for others that are the same up to their numbers.
 *
 * Theory of operation. To decode an instruction and to find out what it means (struct insn_facts) costs
 * several times what writing it again does, and code consists of the same instructions over and over. So each
 * vCPU keeps a table of forms by the mode and the bytes in front of displacement and immediate: prefixes,
 * opcode, ModRM and SIB. These numbers themselves are the instruction's own (struct ginsn); where somebody
 * looks for them among the operands, they are written there while the instruction is the current one
 * (trans_set_current). What more there is to an instruction must not depend on them. Where it does (numbers
 * of registers or opcodes in immediates, EVEX's displacements in units of the operand) the form is not kept
 * (is_told_by_key); what the counts of shifts mean for the flags is looked at each time.
 *
 * What Zydis makes of an instruction is several times as long as all that writing a generic one takes, so of
 * those it is not kept; for the others there is a smaller table of its own (struct form_whole).
 *
 * The key may have more bytes than need be: then the same form is in the table twice. It must not have less.
 *
 * A form that the block in the making refers to stays what it is until that is done. */
#include "engine/translator/trans.h"

#include <string.h>

/* Modes that make no difference before code is written. */
#define MODES_APART (MODE_HOST_FLAGS | MODE_NO_GROUP | MODE_FIXED | MODE_SMAP)

#define KEY_MAX 8

/* ---- keys ---- */

#define BIT(n) (1ull << ((n)&63))

/* Prefixes; REX is one in 64-bit mode alone. */
static bool is_prefix(unsigned b, bool long_mode)
{
    static const uint64_t legacy[4] = { BIT(0x26) | BIT(0x2e) | BIT(0x36) | BIT(0x3e),
                                        BIT(0x64) | BIT(0x65) | BIT(0x66) | BIT(0x67), 0,
                                        BIT(0xf0) | BIT(0xf2) | BIT(0xf3) };
    return legacy[b >> 6] >> (b & 63) & 1 || (long_mode && (b & 0xf0) == 0x40);
}

/* Opcodes without ModRM, a bit for each: SDM volume 2, tables. */
static bool has_modrm(unsigned opcode, bool two_bytes)
{
    static const uint16_t one[16] = { 0xf0f0, 0xf0f0, 0xf0f0, 0xf0f0, 0xffff, 0xffff, 0xf5f3, 0xffff,
                                      0x0000, 0xffff, 0xffff, 0xffff, 0xff0c, 0x00f0, 0xffff, 0x3f3f };
    static const uint16_t two[16] = { 0x4be0, 0x0000, 0x0000, 0x00ff, 0x0000, 0x0000, 0x0000, 0x0080,
                                      0xffff, 0x0000, 0x0707, 0x0000, 0xff00, 0x0000, 0x0000, 0x0000 };
    return !((two_bytes ? two : one)[opcode >> 4] >> (opcode & 15) & 1);
}

/* How many bytes stand in front of displacement and immediate, or more. 0: no form of this is kept. */
static unsigned key_length(const uint8_t *b, bool long_mode)
{
    unsigned i = 0;
    bool modrm = true;
    while (i < KEY_MAX && is_prefix(b[i], long_mode))
        i++;
    if (i + 5 > KEY_MAX) /* room for the longest way on */
        return 0;
    switch (b[i]) {
    case 0x62: return 0;
    case 0xc5: i += 3; break; /* VEX; in other modes LDS and LES, which are shorter */
    case 0xc4:
        if (i + 6 > KEY_MAX)
            return 0;
        i += 4;
        break;
    case 0x0f:
        i++;
        if (b[i] == 0x38 || b[i] == 0x3a)
            i++;
        else
            modrm = has_modrm(b[i], true);
        i++;
        break;
    default: modrm = has_modrm(b[i++], false); break;
    }
    if (!modrm)
        return i;
    bool sib = b[i] < 0xc0 && (b[i] & 7) == 4;
    return i + 1 + sib;
}

static uint64_t load64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static unsigned place_of(uint64_t key, uint32_t mode)
{
    return (unsigned)(((key ^ (uint64_t)mode << 40) * 0x9e3779b97f4a7c15u) >> (64 - FORM_BITS));
}

/* ---- numbers ---- */

static int64_t number_at(const uint8_t *p, unsigned bits, bool is_signed)
{
    uint64_t v = load64(p) << (64 - bits);
    return is_signed ? (int64_t)v >> (64 - bits) : (int64_t)(v >> (64 - bits));
}

static bool from_immediate(const ZydisDecodedOperand *op)
{
    return op->type == ZYDIS_OPERAND_TYPE_IMMEDIATE && op->encoding != ZYDIS_OPERAND_ENCODING_NONE;
}

static bool from_displacement(const ZydisDecodedOperand *op)
{
    switch (op->encoding) {
    case ZYDIS_OPERAND_ENCODING_MODRM_RM:
    case ZYDIS_OPERAND_ENCODING_DISP8:
    case ZYDIS_OPERAND_ENCODING_DISP16:
    case ZYDIS_OPERAND_ENCODING_DISP32:
    case ZYDIS_OPERAND_ENCODING_DISP64:
    case ZYDIS_OPERAND_ENCODING_DISP16_32_64:
    case ZYDIS_OPERAND_ENCODING_DISP32_32_64:
    case ZYDIS_OPERAND_ENCODING_DISP16_32_32: return op->type == ZYDIS_OPERAND_TYPE_MEMORY;
    default: return false;
    }
}

/* Finds the operands that get the numbers. */
static void find_numbers(struct form *f)
{
    f->disp_op = f->imm_op = -1;
    for (unsigned i = 0; i < f->in->operand_count; i++) {
        if (from_displacement(&f->ops[i]))
            f->disp_op = (int8_t)i;
        else if (from_immediate(&f->ops[i]) && f->imm_op < 0)
            f->imm_op = (int8_t)i;
    }
    f->disp_at = f->in->raw.disp.offset;
    f->disp_bits = f->in->raw.disp.size;
    f->imm_at = f->in->raw.imm[0].offset;
    f->imm_bits = f->in->raw.imm[0].size;
    f->imm_signed = f->in->raw.imm[0].is_signed;
}

static int64_t displacement(const struct form *f)
{
    return f->disp_op >= 0 ? f->ops[f->disp_op].mem.disp.value : f->in->raw.disp.value;
}

static int64_t immediate(const struct form *f)
{
    return f->imm_op >= 0 ? f->ops[f->imm_op].imm.value.s : f->in->raw.imm[0].value.s;
}

void form_set_numbers(struct form *f, const struct ginsn *g)
{
    if (!f->kept || !f->in ||
        f->facts.way == WAY_VECTOR) /* its own already, or nobody will look for them here */
        return;
    if (f->disp_bits)
        f->ops[f->disp_op].mem.disp.value = f->in->raw.disp.value = g->disp;
    if (f->imm_bits)
        f->ops[f->imm_op].imm.value.s = f->in->raw.imm[0].value.s = g->imm;
}

/* ---- keeping ---- */

/* Whether the instruction is another's twin if that has the same first n bytes, but for its numbers. */
static bool is_told_by_key(const struct form *f, unsigned n)
{
    const ZydisDecodedInstruction *in = f->in;
    if (in->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY && in->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX)
        return false;
    if (in->opcode_map == ZYDIS_OPCODE_MAP_0F0F || in->operand_count > FORM_OPERANDS || in->raw.imm[1].size)
        return false;
    for (unsigned i = 0; i < in->operand_count; i++) {
        if (f->ops[i].encoding == ZYDIS_OPERAND_ENCODING_IS4 || f->ops[i].type == ZYDIS_OPERAND_TYPE_POINTER)
            return false;
    }
    if (f->disp_bits && (f->disp_op < 0 || displacement(f) != in->raw.disp.value))
        return false;
    if (f->imm_bits && (f->imm_op < 0 || immediate(f) != in->raw.imm[0].value.s))
        return false;
    return n >= (f->disp_bits ? f->disp_at : f->imm_bits ? f->imm_at : in->length);
}

/* Whether Zydis's part will be asked for when the instruction comes again. */
static bool is_wanted_whole(const struct form *f)
{
    bool generic = f->facts.way == WAY_GENERIC && f->encoding.legacy && !f->counts;
    return !generic && f->facts.way != WAY_NOTHING;
}

static struct form_whole *whole_of(const struct trans *t, unsigned place)
{
    return &t->forms->wholes[place & ((1u << FORM_WHOLE_BITS) - 1)];
}

static bool is_in_use(const struct trans *t, const struct form *f)
{
    return f->kept && f->block == t->forms->block;
}

bool form_find(const struct trans *t, struct ginsn *g, unsigned room)
{
    unsigned n = g->key_len = (uint8_t)key_length(g->bytes, t->bits == 64);
    uint32_t mode = t->mode & ~MODES_APART;
    uint64_t key = load64(g->bytes) & (~0ull >> (64 - 8 * n) % 64);
    unsigned place = place_of(key, mode);
    const struct form_key *k = &t->forms->keys[place];
    struct form *f = &t->forms->kept[place];
    g->key = key;
    if (!n || k->len != n || k->bytes != key || k->mode != mode || f->length > room || n > room)
        return false;
    if (f->in && whole_of(t, place)->of != f)
        return false;
    f->block = t->forms->block;
    g->form = f;
    g->disp = f->disp_bits ? number_at(g->bytes + f->disp_at, f->disp_bits, true) : 0;
    g->imm = f->imm_bits ? number_at(g->bytes + f->imm_at, f->imm_bits, f->imm_signed) : 0;
    return true;
}

void form_decode(struct trans *t, struct ginsn *g, unsigned room)
{
    unsigned i = (unsigned)(g - t->g);
    struct form *f = &t->forms->own[i];
    f->in = &t->forms->own_in[i];
    f->ops = t->forms->own_ops[i];
    f->kept = false;
    g->form = f;
    ZyanStatus st = insn_decode_zydis(&t->decoder, g->bytes, room, f->in, f->ops);
    f->decoded = ZYAN_SUCCESS(st);
    if (!f->decoded) {
        memset(f->in, 0, sizeof *f->in);
        f->in->length = st == ZYDIS_STATUS_NO_MORE_DATA && room < 15 ? 0 : 1;
    }
    f->length = f->in->length;
    f->mem = f->decoded ? insn_find_mem(f->in, f->ops) : NULL;
    find_numbers(f);
    g->disp = displacement(f);
    g->imm = immediate(f);
}

void form_keep(struct trans *t, const struct ginsn *g)
{
    const struct form *own = g->form;
    uint32_t mode = t->mode & ~MODES_APART;
    unsigned place = place_of(g->key, mode);
    struct form_key *k = &t->forms->keys[place];
    struct form *f = &t->forms->kept[place];
    struct form_whole *w = is_wanted_whole(own) ? whole_of(t, place) : NULL;
    if (!g->key_len || !own->decoded || !is_told_by_key(own, g->key_len) || is_in_use(t, f) ||
        (w && w->of && is_in_use(t, w->of)))
        return;
    *k = (struct form_key){ g->key, mode, g->key_len };
    *f = *own;
    f->kept = true;
    f->block = 0; /* this block has its own */
    f->in = w ? &w->in : NULL;
    f->ops = w ? w->ops : NULL;
    f->mem = w && own->mem ? w->ops + (own->mem - own->ops) : NULL;
    if (w) {
        w->of = f;
        w->in = *own->in;
        memcpy(w->ops, own->ops, own->in->operand_count * sizeof *w->ops);
    }
}
