/* The guest's status flags while its code is being translated.
 *
 * Theory of operation. Flags are in EFLAGS as long as nothing of ours destroys them. Each memory check does,
 * so before it they go to tcpu.fl (LAHF, SETO and moves around them), and an instruction that reads them
 * takes them back. Where the instruction that made the flags has left its operands in registers, neither is
 * needed: the flags can be made anew (struct flag_recipe), by CMP and TEST themselves, by TEST of the result
 * of a logical instruction, by undoing and repeating an addition or subtraction; and those of a register
 * XORed with itself are always the same. Such flags are lost without
 * having been saved (fl_lose), if the block either overwrites or reads them before a register of the recipe
 * changes; when something needs them in tcpu.fl after all, in hot code (fl_save) or in the cold code of a
 * check whose slow path may raise an exception (fl_cold), they are made anew and saved there. So flags are
 * exact at every fault.
 *
 * Flags that are in EFLAGS alone and soon read are carried over a check in RAX (fl_carries), since the way
 * through tcpu.fl and back takes longer than the check.
 *
 * At each point at least one holds: host_flags, saved_flags, or there is a recipe. Code that calls C needs
 * saved_flags; so do places where the host may raise a signal, unless host_flags. */
#include "engine/translator/trans.h"

/* tcpu.fl behind a result of 0 without a carry: ZF and PF, and the bit that LAHF always sets. */
#define FL_SAVED_ZERO 0x4600u

static bool only_recipe(const struct trans *t)
{
    return !t->host_flags && !t->saved_flags;
}

/* ---- recipes ---- */

static int gpr_operand(const ZydisDecodedOperand *op)
{
    if (op->type != ZYDIS_OPERAND_TYPE_REGISTER ||
        (op->reg.value >= ZYDIS_REGISTER_AH && op->reg.value <= ZYDIS_REGISTER_BH))
        return -1;
    return insn_gpr_id(op->reg.value);
}

/* How to make the current instruction's flags from what it leaves in registers. */
static bool learn_recipe(const struct trans *t, struct flag_recipe *r, bool *by_imm)
{
    const ZydisDecodedOperand *a = &t->ops[0], *b = &t->ops[1];
    bool imm = b->type == ZYDIS_OPERAND_TYPE_IMMEDIATE, logical = false;
    *r = (struct flag_recipe){ .a = (int8_t)gpr_operand(a), .b = -1, .size = (uint8_t)t->in->operand_width };
    if (r->a < 0 || t->in->operand_count_visible != 2)
        return false;
    if ((t->in->mnemonic == ZYDIS_MNEMONIC_XOR || t->in->mnemonic == ZYDIS_MNEMONIC_SUB) &&
        b->type == ZYDIS_OPERAND_TYPE_REGISTER && b->reg.value == a->reg.value) {
        r->kind = RECIPE_ZERO;
        return t->vm->flags.logic;
    }
    switch (t->in->mnemonic) {
    case ZYDIS_MNEMONIC_CMP: r->kind = RECIPE_CMP; break;
    case ZYDIS_MNEMONIC_TEST: r->kind = RECIPE_TEST; break;
    case ZYDIS_MNEMONIC_ADD: r->kind = RECIPE_ADD; break;
    case ZYDIS_MNEMONIC_SUB: r->kind = RECIPE_SUB; break;
    case ZYDIS_MNEMONIC_AND:
    case ZYDIS_MNEMONIC_OR:
    case ZYDIS_MNEMONIC_XOR: logical = true; break;
    default: return false;
    }
    if (r->size < 32 && (r->size != 8 || logical || r->kind > RECIPE_TEST))
        return false;
    r->regs = (uint16_t)(1u << r->a);
    if (logical) { /* TEST of the result with itself, or, in its home, with all ones */
        r->kind = RECIPE_TEST;
        r->b = is_slot((unsigned)r->a) ? -1 : r->a;
        r->imm = -1;
        return t->vm->flags.logic;
    }
    *by_imm = imm;
    if (imm)
        return true;
    r->b = (int8_t)gpr_operand(b);
    if (r->b < 0 || (is_slot((unsigned)r->a) && is_slot((unsigned)r->b)) ||
        (r->kind >= RECIPE_ADD && r->a == r->b))
        return false;
    r->regs |= (uint16_t)(1u << r->b);
    return true;
}

void fl_learn(const struct trans *t, struct form *f)
{
    f->recipe_imm = false;
    if (f->facts.way != WAY_GENERIC || !learn_recipe(t, &f->recipe, &f->recipe_imm))
        f->recipe.kind = RECIPE_NONE;
}

static bool recipe_of(const struct ginsn *g, struct flag_recipe *r)
{
    *r = g->form->recipe;
    if (!g->form->recipe_imm)
        return r->kind != RECIPE_NONE;
    r->imm = (int32_t)g->imm;
    return r->imm != INT32_MIN && (r->size < 64 || r->imm == g->imm);
}

/* One instruction of the form op r/m, r or op r, r/m on two guest registers, `op` being the opcode of the
 * first form for 32 bits. `a` may be a host register that stands in for the guest's. */
static void two_operands(struct emit *e, unsigned op, unsigned size, int a, int b_gpr)
{
    unsigned w = size == 64;
    if (is_slot((unsigned)b_gpr))
        e_rm(e, w, op | 2, (unsigned)a, gs_gpr((unsigned)b_gpr));
    else
        e_rr(e, w, op, (unsigned)host_reg((unsigned)b_gpr), (unsigned)a);
}

/* A byte register beside a home: the REX prefix makes it SIL and not DH. */
static void byte_and_home(struct emit *e, unsigned op, int reg, unsigned gpr)
{
    struct hmem m = gs_gpr(gpr);
    e_byte(e, 0x65);
    e_byte(e, 0x40 | (unsigned)(reg >> 3) << 2);
    e_byte(e, op);
    e_modrm_mem(e, (unsigned)reg, m);
}

static void compare_bytes(struct emit *e, const struct flag_recipe *r)
{
    bool cmp = r->kind == RECIPE_CMP;
    int a = is_slot((unsigned)r->a) ? -1 : host_reg((unsigned)r->a);
    int b = r->b < 0 || is_slot((unsigned)r->b) ? -1 : host_reg((unsigned)r->b);
    if (r->b < 0) { /* 80 /7 ib, F6 /0 ib */
        if (a >= 0) {
            e_byte(e, 0x40 | (unsigned)a >> 3);
            e_byte(e, cmp ? 0x80 : 0xf6);
            e_byte(e, 0xc0 | (cmp ? 7u : 0) << 3 | (unsigned)(a & 7));
        } else {
            e_rm(e, 0, cmp ? 0x80 : 0xf6, cmp ? 7 : 0, gs_gpr((unsigned)r->a));
        }
        e_byte(e, (uint8_t)r->imm);
    } else if (a >= 0 && b >= 0) { /* 38 /r, 84 /r */
        e_byte(e, 0x40 | ((unsigned)b >> 3) << 2 | (unsigned)a >> 3);
        e_byte(e, cmp ? 0x38 : 0x84);
        e_byte(e, 0xc0 | (unsigned)(b & 7) << 3 | (unsigned)(a & 7));
    } else if (a < 0) {
        byte_and_home(e, cmp ? 0x38 : 0x84, b, (unsigned)r->a);
    } else {
        byte_and_home(e, cmp ? 0x3a : 0x84, a, (unsigned)r->b);
    }
}

static void compare(struct emit *e, const struct flag_recipe *r)
{
    unsigned w = r->size == 64, a = (unsigned)r->a;
    bool cmp = r->kind == RECIPE_CMP;
    if (r->size == 8) {
        compare_bytes(e, r);
    } else if (r->b >= 0 && is_slot(a)) {
        e_rm(e, w, cmp ? 0x39 : 0x85, (unsigned)host_reg((unsigned)r->b), gs_gpr(a));
    } else if (r->b >= 0) {
        if (cmp || !is_slot((unsigned)r->b))
            two_operands(e, cmp ? 0x39 : 0x85, r->size, host_reg(a), r->b);
        else
            e_rm(e, w, 0x85, (unsigned)host_reg(a), gs_gpr((unsigned)r->b));
    } else if (cmp) {
        if (is_slot(a))
            e_alu_mi(e, w, ALU_CMP, gs_gpr(a), r->imm);
        else
            e_alu_ri(e, w, ALU_CMP, host_reg(a), r->imm);
    } else {
        if (is_slot(a))
            e_rm(e, w, 0xf7, 0, gs_gpr(a));
        else
            e_rr(e, w, 0xf7, 0, (unsigned)host_reg(a));
        e_u32(e, (uint32_t)r->imm);
    }
}

/* EFLAGS = the recipe's flags. tmp is for additions and subtractions. */
static void make(const struct trans *t, struct emit *e, int tmp)
{
    const struct flag_recipe *r = &t->recipe;
    unsigned w = r->size == 64, a = (unsigned)r->a;
    bool add = r->kind == RECIPE_ADD;
    if (r->kind == RECIPE_ZERO) {
        e_alu_rr(e, 0, ALU_CMP, H_AX, H_AX);
    } else if (r->kind <= RECIPE_TEST) {
        compare(e, r);
    } else {
        if (is_slot(a))
            e_load(e, w, tmp, gs_gpr(a));
        else
            e_mov_rr(e, w, tmp, host_reg(a));
        if (r->b >= 0) {
            two_operands(e, (add ? ALU_SUB : ALU_ADD) << 3 | 1, r->size, tmp, r->b);
            two_operands(e, (add ? ALU_ADD : ALU_SUB) << 3 | 1, r->size, tmp, r->b);
        } else {
            e_lea(e, w, tmp, hm_base(tmp, add ? -r->imm : r->imm));
            e_alu_ri(e, w, add ? ALU_ADD : ALU_SUB, tmp, r->imm);
        }
    }
}

/* ---- what the translator asks for ---- */

void fl_save(struct trans *t, struct emit *e)
{
    if (t->saved_flags)
        return;
    t->saved_flags = true;
    if (t->recipe.kind == RECIPE_ZERO) {
        e_byte(e, 0x66);
        e_rm(e, 0, 0xc7, 0, GS(fl));
        e_byte(e, FL_SAVED_ZERO & 0xff);
        e_byte(e, FL_SAVED_ZERO >> 8);
        return;
    }
    if (!t->host_flags)
        make(t, e, T1);
    t->host_flags = true;
    if (t->small || e == &t->k) {
        e_call(e, t->cc->stubs.save_flags_r10);
        return;
    }
    e_save_flags(e);
}

void fl_clobber(struct trans *t, struct emit *e)
{
    fl_save(t, e);
    t->host_flags = false;
}

static bool spoils_recipe(const struct trans *t, unsigned i)
{
    return t->g[i].f.writes & t->recipe.regs;
}

static bool needs_saved(const struct ginsn *g)
{
    return g->f.barrier || g->f.signals || g->f.way == WAY_VECTOR;
}

/* Whether nobody can see the flags from instruction i on: they are overwritten before anything reads them,
 * may fault or ends the block. */
static bool forgotten(const struct trans *t, unsigned i)
{
    for (; i < t->count; i++) {
        const struct ginsn *g = &t->g[i];
        if (needs_saved(g) || g->f.reads_flags || g->access_count || g->f.way == WAY_FLOW)
            return false;
        if (g->f.kills_flags)
            return true;
    }
    return false;
}

bool fl_forgotten(const struct trans *t)
{
    return forgotten(t, t->cur);
}

bool fl_passed_on(const struct trans *t)
{
    return !forgotten(t, t->cur + 1);
}

/* Whether the flags are overwritten or read, from the current instruction on, before the recipe is spoilt or
 * they must be in tcpu.fl anyway. */
static bool recipe_lasts(const struct trans *t)
{
    for (unsigned i = t->cur; i < t->count; i++) {
        const struct ginsn *g = &t->g[i];
        if (needs_saved(g))
            return false;
        if (g->f.reads_flags || g->f.kills_flags)
            return true;
        if (spoils_recipe(t, i))
            return forgotten(t, i + 1);
        if (g->f.way == WAY_FLOW && g->f.transfers)
            return false;
    }
    return false;
}

bool fl_free(const struct trans *t)
{
    return t->saved_flags || (t->recipe.kind != RECIPE_NONE && recipe_lasts(t));
}

void fl_lose(struct trans *t, struct emit *e)
{
    if (!fl_free(t))
        fl_save(t, e);
    t->host_flags = false;
}

/* Whether a check carries the flags over in RAX, its own value being put away meanwhile: they are in EFLAGS
 * alone and soon read. Through tcpu.fl they would take three times as long. */
bool fl_carries(const struct trans *t)
{
    if (!t->host_flags || t->saved_flags || (t->recipe.kind != RECIPE_NONE && recipe_lasts(t)))
        return false;
    for (unsigned i = t->cur; i < t->count && !needs_saved(&t->g[i]); i++) {
        if (t->g[i].f.reads_flags)
            return true;
        if (t->g[i].f.kills_flags || (i > t->cur && t->g[i].access_count))
            return false;
    }
    return false;
}

void fl_carry(struct emit *e)
{
    e_store(e, 1, GS(scratch[5]), H_AX);
    e_lahf(e);
    e_seto_al(e);
}

void fl_carried(struct emit *e)
{
    e_add_al_7f(e);
    e_sahf(e);
    e_load(e, 1, H_AX, GS(scratch[5]));
}

void fl_carry_back(struct emit *k)
{
    e_rm0f(k, 0, 0xb7, H_AX, GS(fl));
}

void fl_cold(struct trans *t, struct emit *k)
{
    int tmp = t->recipe.regs & 1u << R_AX ? H_CX : H_AX;
    if (t->recipe.regs & 1u << R_AX && t->recipe.regs & 1u << R_CX)
        tmp = H_DX;
    bool add = t->recipe.kind >= RECIPE_ADD;
    if (t->saved_flags)
        return;
    if (add)
        e_push(k, tmp);
    make(t, k, tmp);
    if (add)
        e_pop(k, tmp);
    e_call(k, t->cc->stubs.save_flags);
}

void fl_cold_save(struct trans *t, struct emit *k, bool carry)
{
    if (!carry) {
        fl_cold(t, k);
        return;
    }
    e_byte(k, 0x66);
    e_store(k, 0, GS(fl), H_AX);
    e_load(k, 1, H_AX, GS(scratch[5]));
}

void fl_cold_call(struct trans *t, struct emit *k, bool carry, const uint8_t *slow, uint32_t desc)
{
    fl_cold_save(t, k, carry);
    e_call(k, slow);
    e_u32(k, desc);
}

void fl_need(struct trans *t, struct emit *e, int tmp)
{
    if (t->host_flags)
        return;
    if (t->recipe.kind != RECIPE_NONE) {
        make(t, e, tmp);
    } else {
        e_mov_rr(e, 1, tmp, H_AX);
        e_rm0f(e, 0, 0xb7, H_AX, GS(fl));
        e_add_al_7f(e);
        e_sahf(e);
        e_mov_rr(e, 1, H_AX, tmp);
    }
    t->host_flags = true;
}

void fl_written(struct trans *t)
{
    t->host_flags = true;
    t->saved_flags = false;
    t->recipe.kind = RECIPE_NONE;
}

void fl_before_insn(struct trans *t)
{
    const struct ginsn *g = &t->g[t->cur];
    bool spoils =
        spoils_recipe(t, t->cur) && !g->f.kills_flags && !g->f.reads_flags && !forgotten(t, t->cur + 1);
    if (only_recipe(t) && (needs_saved(g) || spoils))
        fl_save(t, &t->h);
}

void fl_after_insn(struct trans *t)
{
    const struct ginsn *g = &t->g[t->cur];
    struct flag_recipe r;
    if (g->f.kills_flags && g->f.way == WAY_GENERIC && t->host_flags && !(t->mode & MODE_ONE) &&
        recipe_of(g, &r))
        t->recipe = r;
    else if (t->recipe.kind != RECIPE_NONE && (g->f.barrier || spoils_recipe(t, t->cur))) {
        t->saved_flags |= only_recipe(t); /* forgotten: what is there is as good */
        t->recipe.kind = RECIPE_NONE;
    }
}
