/* What is known of the general registers' values.
 *
 * Theory of operation. At the start of a block each register holds a value of its own; each instruction gives
 * the registers that it writes new values, of which nothing is known. But some results differ from a value by
 * a known constant: PUSH, POP, ADD, SUB, INC and DEC by constants, LEA of a register and a displacement,
 * copies. So a register is a value's number and an offset from it, as before each instruction; two registers
 * with the same number differ by the difference of their offsets, whatever the value is. Groups of accesses
 * (trans_group.c) are found by that. Only results of the full width count: others are cut off. */
#include "engine/translator/trans.h"

#define OFFSET_MAX 0x4000 /* more is not near enough for anything */

static uint16_t written_regs(const struct ginsn *g)
{
    unsigned mask = 0;
    for (unsigned i = 0; i < g->in.operand_count; i++) {
        int id = g->ops[i].type == ZYDIS_OPERAND_TYPE_REGISTER ? insn_gpr_id(g->ops[i].reg.value) : -1;
        if (id >= 0 && (g->ops[i].actions & ACT_WRITE))
            mask |= 1u << id;
    }
    return (uint16_t)mask;
}

void values_begin(struct trans *t)
{
    for (unsigned r = 0; r < 16; r++)
        t->values[r] = (struct gvalue){ (uint16_t)r, 0 };
    t->value_count = 16;
}

/* The register is the whole operand, as wide as addresses are. */
static int full_reg(const struct trans *t, const ZydisDecodedOperand *op)
{
    return op->type == ZYDIS_OPERAND_TYPE_REGISTER && op->size == t->bits ? insn_gpr_id(op->reg.value) : -1;
}

static struct gvalue moved_by(struct trans *t, struct gvalue v, int64_t by)
{
    int64_t off = v.off + by;
    if (by != (int16_t)by || off > OFFSET_MAX || off < -OFFSET_MAX)
        return (struct gvalue){ t->value_count++, 0 };
    return (struct gvalue){ v.id, (int16_t)off };
}

/* What the first operand becomes, if that is a register and the result is known. */
static bool known_result(struct trans *t, const struct ginsn *g, struct gvalue *v)
{
    const ZydisDecodedOperand *o = g->ops;
    int dst = full_reg(t, &o[0]), src = full_reg(t, &o[1]);
    if (dst < 0)
        return false;
    switch (g->in.mnemonic) {
    case ZYDIS_MNEMONIC_INC: *v = moved_by(t, t->values[dst], 1); return true;
    case ZYDIS_MNEMONIC_DEC: *v = moved_by(t, t->values[dst], -1); return true;
    case ZYDIS_MNEMONIC_ADD:
    case ZYDIS_MNEMONIC_SUB:
        if (o[1].type != ZYDIS_OPERAND_TYPE_IMMEDIATE || o[1].imm.value.s != (int16_t)o[1].imm.value.s)
            return false;
        *v = moved_by(t, t->values[dst],
                      g->in.mnemonic == ZYDIS_MNEMONIC_SUB ? -o[1].imm.value.s : o[1].imm.value.s);
        return true;
    case ZYDIS_MNEMONIC_MOV:
        if (src >= 0)
            *v = t->values[src];
        return src >= 0;
    case ZYDIS_MNEMONIC_LEA:
        src = insn_gpr_id(o[1].mem.base);
        if (src < 0 || o[1].mem.index != ZYDIS_REGISTER_NONE || g->in.address_width != t->bits)
            return false;
        *v = moved_by(t, t->values[src], o[1].mem.disp.value);
        return true;
    default: return false;
    }
}

void values_after(struct trans *t, struct ginsn *g)
{
    struct gvalue sp = t->values[R_SP], bp = t->values[R_BP], first;
    int32_t w = (int32_t)(t->bits / 8);
    bool known = known_result(t, g, &first);

    g->writes = written_regs(g);
    for (unsigned r = 0, mask = g->barrier ? 0xffff : g->writes; mask; r++, mask >>= 1) {
        if (mask & 1)
            t->values[r] = (struct gvalue){ t->value_count++, 0 };
    }
    if (g->barrier)
        return;
    if (known)
        t->values[insn_gpr_id(g->ops[0].reg.value)] = first;
    if (g->in.mnemonic == ZYDIS_MNEMONIC_PUSH)
        t->values[R_SP] = moved_by(t, sp, -w);
    else if (g->in.mnemonic == ZYDIS_MNEMONIC_POP && full_reg(t, &g->ops[0]) != R_SP)
        t->values[R_SP] = moved_by(t, sp, w);
    else if (g->in.mnemonic == ZYDIS_MNEMONIC_LEAVE)
        t->values[R_SP] = moved_by(t, bp, w);
}
