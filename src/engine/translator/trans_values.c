/* What is known of the general registers' values.
 *
 * Theory of operation. At the start of a block each register holds a value of its own; each instruction gives
 * the registers that it writes new values, of which nothing is known. But some results differ from a value by
 * a known constant: PUSH, POP, ADD, SUB, INC and DEC by constants, LEA of a register and a displacement,
 * copies. So a register is a value's number and an offset from it, as before each instruction; two registers
 * with the same number differ by the difference of their offsets, whatever the value is. Groups of accesses
 * (trans_group.c) are found by that. Only results of the full width count: others are cut off. */
#include "engine/translator/trans.h"

#include <string.h>

#define OFFSET_MAX 0x4000 /* more is not near enough for anything */

static uint16_t written_regs(const struct trans *t)
{
    unsigned mask = 0;
    for (unsigned i = 0; i < t->in->operand_count; i++) {
        int id = t->ops[i].type == ZYDIS_OPERAND_TYPE_REGISTER ? insn_gpr_id(t->ops[i].reg.value) : -1;
        if (id >= 0 && (t->ops[i].actions & ACT_WRITE))
            mask |= 1u << id;
    }
    return (uint16_t)mask;
}

void values_begin(struct trans *t)
{
    static const struct gvalue own[16] = { { 0, 0 },  { 1, 0 },  { 2, 0 },  { 3, 0 }, { 4, 0 },  { 5, 0 },
                                           { 6, 0 },  { 7, 0 },  { 8, 0 },  { 9, 0 }, { 10, 0 }, { 11, 0 },
                                           { 12, 0 }, { 13, 0 }, { 14, 0 }, { 15, 0 } };
    memcpy(t->values, own, sizeof own);
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

/* What the first operand becomes, if that is a register. */
static void learn_result(const struct trans *t, struct insn_facts *x)
{
    const ZydisDecodedOperand *o = t->ops;
    int dst = full_reg(t, &o[0]);
    if (dst < 0)
        return;
    x->to = (int8_t)dst;
    switch (t->in->mnemonic) {
    case ZYDIS_MNEMONIC_INC:
    case ZYDIS_MNEMONIC_DEC:
        x->from = (int8_t)dst;
        x->addend = t->in->mnemonic == ZYDIS_MNEMONIC_INC ? ADD_ONE : ADD_MINUS_ONE;
        break;
    case ZYDIS_MNEMONIC_ADD:
    case ZYDIS_MNEMONIC_SUB:
        x->from = o[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE ? (int8_t)dst : -1;
        x->addend = t->in->mnemonic == ZYDIS_MNEMONIC_SUB ? ADD_MINUS_IMM : ADD_IMM;
        break;
    case ZYDIS_MNEMONIC_MOV: x->from = (int8_t)full_reg(t, &o[1]); break;
    case ZYDIS_MNEMONIC_LEA:
        if (o[1].mem.index == ZYDIS_REGISTER_NONE && t->in->address_width == t->bits)
            x->from = (int8_t)insn_gpr_id(o[1].mem.base);
        x->addend = ADD_DISP;
        break;
    default: break;
    }
}

void values_learn(const struct trans *t, struct insn_facts *x)
{
    x->writes = written_regs(t);
    x->to = x->from = -1;
    learn_result(t, x);
    switch (t->in->mnemonic) {
    case ZYDIS_MNEMONIC_PUSH: x->stack = STACK_PUSH; break;
    case ZYDIS_MNEMONIC_POP: x->stack = STACK_POP; break;
    case ZYDIS_MNEMONIC_LEAVE: x->stack = STACK_LEAVE; break;
    default: x->stack = STACK_NONE; break;
    }
}

static bool known_result(struct trans *t, const struct ginsn *g, struct gvalue *v)
{
    int64_t by = 0;
    if (g->f.from < 0)
        return false;
    switch ((enum addend)g->f.addend) {
    case ADD_NOTHING: *v = t->values[g->f.from]; return true;
    case ADD_ONE: by = 1; break;
    case ADD_MINUS_ONE: by = -1; break;
    case ADD_IMM:
    case ADD_MINUS_IMM:
        if (g->imm != (int16_t)g->imm)
            return false;
        by = g->f.addend == ADD_IMM ? g->imm : -g->imm;
        break;
    case ADD_DISP: by = g->disp; break;
    }
    *v = moved_by(t, t->values[g->f.from], by);
    return true;
}

void values_after(struct trans *t, const struct ginsn *g)
{
    struct gvalue sp = t->values[R_SP], bp = t->values[R_BP], first;
    int32_t w = (int32_t)(t->bits / 8);
    bool known = known_result(t, g, &first);

    for (unsigned mask = g->f.barrier ? 0xffff : g->f.writes; mask; mask &= mask - 1)
        t->values[__builtin_ctz(mask)] = (struct gvalue){ t->value_count++, 0 };
    if (g->f.barrier)
        return;
    if (known)
        t->values[g->f.to] = first;
    if (g->f.stack == STACK_PUSH)
        t->values[R_SP] = moved_by(t, sp, -w);
    else if (g->f.stack == STACK_POP && g->f.to != R_SP)
        t->values[R_SP] = moved_by(t, sp, w);
    else if (g->f.stack == STACK_LEAVE)
        t->values[R_SP] = moved_by(t, bp, w);
}
