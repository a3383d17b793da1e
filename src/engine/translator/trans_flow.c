/* Control flow and the stack: how blocks end and how they reach each other.
 *
 * Inside one page, and between blocks of fixed address (fixed.c), a jump goes straight to the other block
 * (patched once that exists). Everything else has a linear address in T0 and goes through the vCPU's jump
 * cache. Calls and returns are calls and returns of the host too (stubs.c). Host interrupts, kicks and
 * requests of other vCPUs are seen by polls of tcpu.exit_request at backward jumps, and without one at every
 * jump-cache transfer and where returns come back to, which fail while there is a request (tcpu.jc_mask). */
#include "engine/translator/mmu.h"
#include "engine/translator/trans.h"

static unsigned word(const struct trans *t)
{
    return t->bits == 64 ? 8 : 4;
}
static unsigned wide(const struct trans *t)
{
    return t->bits == 64;
}

/* T0 = vpage + target */
static void load_target(struct trans *t, struct emit *e, int64_t target)
{
    if (is_fixed(t)) {
        e_mov_ri64(e, T0, t->vpage + (uint64_t)target);
        return;
    }
    e_load(e, 1, T0, GS(vpage));
    e_lea(e, wide(t), T0, hm_base(T0, (int32_t)target));
}

/* T0 = target; T0 and the answer say where it is in the jump cache. miss: where to go with T0 if it is not.
 */
static struct hmem probe(struct trans *t, struct emit *e, const uint8_t *miss)
{
    uint8_t *out;
    struct hmem host = jump_cache_probe(e, t->idx, t->vm->host_bmi2, &out);
    e_patch(out, miss - e->rx_off);
    return host;
}

/* T0 = target. miss: where to go with it when the jump cache does not know it. call: to come back to
 * return_site. */
static void exit_through_cache(struct trans *t, struct emit *e, const uint8_t *miss, bool call)
{
    if (t->mode & MODE_ONE) {
        e_jmp(e, miss);
        return;
    }
    if (t->small && call) {
        e_call(e, t->cc->stubs.lookup[t->idx]);
        return;
    }
    struct hmem host = probe(t, e, miss);
    e_alu_ri(e, 1, ALU_AND, T0, -4096);
    e_store(e, 1, GS(vpage), T0);
    e_rm(e, 0, 0xff, call ? 2 : 4, host); /* CALL or JMP */
}

/* Through the jump cache to a place that is known now, by shared code that saves the flags, if they are in
 * EFLAGS alone, and works the linear address out: such exits are many, and most are seldom taken. */
static void exit_away(struct trans *t, struct emit *e, int64_t target)
{
    const struct stubs *s = &t->cc->stubs;
    bool one = t->mode & MODE_ONE, unsaved = t->host_flags && !t->saved_flags && !one;
    if (!unsaved)
        fl_save(t, e);
    if (one) {
        load_target(t, e, target);
        e_jmp(e, s->exit_lookup);
    } else if (t->bits == 64 && !is_fixed(t)) {
        e_mov_ri64(e, T0, (uint64_t)target);
        e_jmp(e, unsaved ? s->save_away[t->idx] : s->away[t->idx]);
    } else {
        load_target(t, e, target);
        e_jmp(e, unsaved ? s->save_lookup[t->idx] : s->lookup[t->idx]);
    }
}

static const uint8_t *branch_miss(struct trans *t, unsigned popped)
{
    const uint8_t *miss = e_rx(&t->k);
    e_desc(t, &t->k, H_10, BRANCH_DESC(t->off, popped));
    e_jmp(&t->k, t->cc->stubs.exit_branch);
    return miss;
}

void flow_exit_indirect(struct trans *t, unsigned popped)
{
    if (t->small) {
        fl_save(t, &t->h);
        e_desc(t, &t->h, H_11, BRANCH_DESC(t->off, popped));
        e_jmp(&t->h, t->cc->stubs.lookup_branch[t->idx]);
        return;
    }
    const uint8_t *miss = branch_miss(t, popped);
    fl_save(t, &t->h);
    exit_through_cache(t, &t->h, miss, false);
}

/* Cold: the current instruction, which is a branch, on the general path. Flags are saved. */
static const uint8_t *general_branch(struct trans *t)
{
    const uint8_t *way = e_rx(&t->k);
    e_desc(t, &t->k, H_10, t->off | (uint32_t)SPECIAL_INTERP << 16);
    e_call(&t->k, t->cc->stubs.special);
    return way;
}

/* A call whose target is not canonical faults, on Intel's behind the push: the general path knows. T0 =
 * target, flags are saved. */
static void check_canonical(struct trans *t)
{
    struct emit *h = &t->h;
    if (t->bits != 64)
        return;
    fl_clobber(t, h);
    e_mov_rr(h, 1, T1, T0);
    e_shl_ri(h, 1, T1, 16);
    e_rr(h, 1, 0xc1, 7, T1); /* SAR */
    e_byte(h, 16);
    e_alu_rr(h, 1, ALU_CMP, T1, T0);
    e_jcc(h, CC_NE, general_branch(t));
}

static bool is_local(const struct trans *t, int64_t target)
{
    return target >= 0 && target < (int64_t)PAGE_SIZE && !(t->mode & MODE_ONE);
}

/* Whether a jump there need not go through the jump cache. */
static bool is_direct(const struct trans *t, int64_t target)
{
    return is_local(t, target) || (is_fixed(t) && t->vpage + (uint64_t)target >= FIXED_FIRST);
}

/* Cold: to the dispatcher, which patches the displacement at `disp`. */
static void link_way(struct trans *t, struct emit *k, int64_t target, const uint8_t *disp, uint32_t bits)
{
    uint64_t site = (uint64_t)(disp - (uint8_t *)t->cc->mem.rw);
    if (is_fixed(t)) {
        e_mov_ri32(k, H_9, bits | (is_local(t, target) ? FIXED_SAME_PAGE : 0));
        e_mov_ri64(k, H_10, site | (t->vpage + (uint64_t)target) << 32);
        e_jmp(k, t->cc->stubs.exit_fixed_link);
    } else {
        e_mov_ri64(k, H_10, site | (uint64_t)target << 32 | (uint64_t)bits << 48);
        e_jmp(k, t->cc->stubs.exit_link);
    }
}

/* The host address for a direct jump, and in cold code, if the target is not known yet, the way to it.
 * `disp` is where the displacement will stand. */
static const uint8_t *direct_target(struct trans *t, int64_t target, const uint8_t *disp)
{
    bool host_only = t->host_flags && !t->saved_flags;
    uint32_t bits = host_only ? MODE_HOST_FLAGS : 0;
    uint32_t mode = (t->mode & ~(MODE_HOST_FLAGS | MODE_NO_GROUP)) | bits;
    struct tb *tb = is_local(t, target) && !t->c->shadow
                        ? cache_find(t->cc, t->gpage, (unsigned)target, mode, t->vpage)
                        : NULL;
    tb = tb && tb_is_local(tb) ? tb : NULL;
    if (tb && cache_segment_of(t->cc, tb->hot) == t->cc->now)
        return cache_rx(t->cc, tb->hot);
    uint32_t site = (uint32_t)(disp - (uint8_t *)t->cc->mem.rw), off = (uint32_t)(t->k.p - t->cc->mem.rw);
    const uint8_t *way = e_rx(&t->k);
    link_way(t, &t->k, target, disp, bits);
    return tb && cache_note_jump(t->cc, site, (int32_t)(off - (site + 4)), tb) ? cache_rx(t->cc, tb->hot)
                                                                               : way;
}

/* A displacement that is patched while other vCPUs run must not cross a cache line. */
static void pad_for_patch(struct emit *e, unsigned opcode_len)
{
    while ((((uintptr_t)e->p + opcode_len) & 63) > 60)
        e_byte(e, 0x90);
}

void flow_exit_far(struct trans *t, int64_t target)
{
    exit_away(t, &t->h, target);
    t->done = true;
}

void flow_exit_direct(struct trans *t, int64_t target)
{
    struct emit *h = &t->h;
    if (!is_direct(t, target)) {
        flow_exit_far(t, target);
        return;
    }
    t->done = true;
    if (loop_closes(t, target)) {
        e_jmp(h, loop_again(t));
        return;
    }
    if (!t->saved_flags)
        fl_need(t, h, T1);
    pad_for_patch(h, 1);
    const uint8_t *to = direct_target(t, target, h->p + 1);
    e_jmp(h, to);
}

/* Cold: goes on at the current instruction in a block that checks each access by itself. Flags are saved. */
void flow_no_group(struct trans *t)
{
    struct emit *k = &t->k;
    uint32_t mode = (t->mode & ~MODE_HOST_FLAGS) | MODE_NO_GROUP;
    struct tb *tb = cache_find(t->cc, t->gpage, t->off, mode, t->vpage);
    pad_for_patch(k, 1);
    uint8_t *disp = k->p + 1;
    uint32_t site = (uint32_t)(disp - (uint8_t *)t->cc->mem.rw);
    bool known = tb && tb_is_local(tb) && cache_note_jump(t->cc, site, 0, tb);
    e_jmp(k, known ? cache_rx(t->cc, tb->hot) : k->p + 5 + k->rx_off);
    link_way(t, k, t->off, disp, MODE_NO_GROUP);
}

bool flow_goes_back(const struct trans *t)
{
    ZydisInstructionCategory kind = t->in->meta.category;
    if (t->ops[0].type != ZYDIS_OPERAND_TYPE_IMMEDIATE ||
        (kind != ZYDIS_CATEGORY_COND_BR && kind != ZYDIS_CATEGORY_UNCOND_BR))
        return false;
    int64_t target = (int64_t)next_off(t) + t->in->raw.imm[0].value.s;
    return is_direct(t, target) && target <= (int64_t)t->off;
}

void flow_poll(struct trans *t)
{
    if (t->polled || (t->mode & MODE_ONE))
        return;
    fl_lose(t, &t->h);
    e_alu_mi(&t->h, 0, ALU_CMP, GS(exit_request), 0);
    e_jcc(&t->h, CC_NE, e_rx(&t->k));
    fl_cold(t, &t->k);
    e_desc(t, &t->k, H_10, t->off);
    e_jmp(&t->k, t->cc->stubs.exit_poll);
    t->polled = true;
}

void flow_interp(struct trans *t)
{
    fl_clobber(t, &t->h);
    e_desc(t, &t->h, H_10, t->off | (uint32_t)t->in->length << 16);
    e_call(&t->h, t->cc->stubs.interp);
}

void flow_special(struct trans *t, unsigned what)
{
    fl_clobber(t, &t->h);
    e_desc(t, &t->h, H_10, t->off | (uint32_t)what << 16);
    e_call(&t->h, t->cc->stubs.special);
}

void flow_transfer(struct trans *t, unsigned what, const uint8_t *stub)
{
    fl_clobber(t, &t->h);
    e_desc(t, &t->h, H_10, t->off | (uint32_t)what << 16);
    load_target(t, &t->h, next_off(t));
    e_jmp(&t->h, stub);
    t->done = true;
}

/* Before a jump back to the target, if nothing earlier in the block did it: a look at exit_request. Flags that
 * can be made anew are, behind it; to save them takes longer, and the next round seldom looks at them. */
static void poll_back(struct trans *t, int64_t target)
{
    struct emit *h = &t->h, *k = &t->k;
    bool anew = !t->saved_flags && t->recipe.kind != RECIPE_NONE;
    if (anew)
        t->host_flags = false;
    else
        fl_clobber(t, h);
    e_alu_mi(h, 0, ALU_CMP, GS(exit_request), 0);
    e_jcc(h, CC_NE, e_rx(k));
    fl_cold(t, k);
    load_target(t, k, target);
    e_jmp(k, t->cc->stubs.exit_lookup);
    if (anew)
        fl_need(t, h, T1);
}

/* The way to the target, behind a test for a branch not taken; what follows has the flags of before. */
static void taken_edge(struct trans *t, int64_t target)
{
    struct emit *h = &t->h;
    bool host = t->host_flags, saved = t->saved_flags;
    if (is_direct(t, target)) {
        if (target <= (int64_t)t->off && !t->polled)
            poll_back(t, target);
        if (loop_closes(t, target)) {
            e_jmp(h, loop_again(t));
        } else {
            pad_for_patch(h, 1);
            const uint8_t *to = direct_target(t, target, h->p + 1);
            e_jmp(h, to);
        }
    } else {
        exit_away(t, h, target);
    }
    t->host_flags = host;
    t->saved_flags = saved;
}

/* LOOP and JRCXZ: neither looks at flags nor changes them. */
static void count_branch(struct trans *t)
{
    struct emit *h = &t->h;
    int64_t target = (int64_t)next_off(t) + t->in->raw.imm[0].value.s;
    bool loop = t->in->mnemonic == ZYDIS_MNEMONIC_LOOP, narrow = t->in->address_width == 32;
    uint8_t *over = NULL;
    if (!t->saved_flags)
        fl_need(t, h, T1);
    if (loop)
        e_lea(h, !narrow, H_CX, hm_base(H_CX, -1));
    if (narrow)
        e_byte(h, 0x67);
    e_byte(h, 0xe3);         /* JRCXZ: */
    e_byte(h, loop ? 2 : 5); /* LOOP goes on at 0; else over the jump that goes on */
    if (loop) {
        e_byte(h, 0xeb);
        e_byte(h, 5);
    }
    over = e_jmp_fwd(h);
    taken_edge(t, target);
    e_patch(over, h->p);
}

static void jcc(struct trans *t)
{
    unsigned cc = t->in->opcode & 15u;
    int64_t target = (int64_t)next_off(t) + t->in->raw.imm[0].value.s;
    struct emit *h = &t->h;
    if (is_direct(t, target) && target <= (int64_t)t->off && !t->polled) {
        fl_need(t, h, T1);
        uint8_t *over = e_jcc_fwd(h, cc ^ 1);
        taken_edge(t, target);
        e_patch(over, h->p);
    } else if (loop_closes(t, target)) {
        fl_need(t, h, T1);
        e_jcc(h, cc, loop_again(t));
    } else if (is_direct(t, target)) {
        fl_need(t, h, T1);
        pad_for_patch(h, 2);
        const uint8_t *to = direct_target(t, target, h->p + 2);
        e_jcc(h, cc, to);
    } else {
        fl_need(t, h, T1);
        e_jcc(h, cc, e_rx(&t->k));
        bool saved = t->saved_flags;
        exit_away(t, &t->k, target);
        t->saved_flags = saved;
    }
}

/* ---- stack ---- */

static struct gaddr sp_addr(const struct trans *t, int64_t disp)
{
    return (struct gaddr){ .base = R_SP, .index = -1, .scale = 1, .disp = disp, .width = t->bits };
}

static void sp_add(struct trans *t, int32_t n)
{
    e_lea(&t->h, wide(t), H_GUEST_SP, hm_base(H_GUEST_SP, n));
}

/* Calls and returns that use the return stack. Code with SMAP suspended does not: which of its two mmu
 * indices a function returns under is not known when it is called. */
static bool pairs(const struct trans *t)
{
    return !(t->mode & MODE_ONE) && t->idx != MMU_SU;
}

struct push_arg {
    int gpr;      /* >= 0: a register */
    bool imm, ra; /* an immediate; the return address */
    int32_t value;
};

static void push_body(struct trans *t, struct emit *e, struct hmem ref, void *arg)
{
    const struct push_arg *p = arg;
    if (p->imm) {
        e_store_imm32(e, wide(t), ref, (uint32_t)p->value);
        return;
    }
    int reg = p->gpr >= 0 && !is_slot((unsigned)p->gpr) ? host_reg((unsigned)p->gpr) : body_tmp(e, &ref);
    if (p->ra && is_fixed(t)) {
        e_store_imm32(e, 1, ref, (uint32_t)(t->vpage + next_off(t)));
        return;
    }
    if (p->ra) {
        e_load(e, 1, reg, GS(vpage));
        e_lea(e, wide(t), reg, hm_base(reg, (int32_t)next_off(t)));
        if (pairs(t))
            e_push(e, reg); /* for return_site */
    } else if (p->gpr < 0) {
        e_load(e, 1, reg, GS(scratch));
    } else if (is_slot((unsigned)p->gpr)) {
        e_load(e, 1, reg, gs_gpr((unsigned)p->gpr));
    }
    e_store(e, wide(t), ref, reg);
}

static void push(struct trans *t, struct push_arg p, unsigned flags)
{
    struct gaddr a = sp_addr(t, -(int64_t)word(t));
    mem_access(t, &a, word(t), MMU_SLOW_W, MEM_STACK | flags, push_body, &p);
    sp_add(t, -(int32_t)word(t));
}

static void load_body(struct trans *t, struct emit *e, struct hmem ref, void *arg)
{
    e_load(e, wide(t), *(int *)arg, ref);
}

/* Loads a word of guest memory into a scratch register or a live one. */
static void load_word(struct trans *t, const struct gaddr *a, int dst, unsigned flags)
{
    mem_access(t, a, word(t), MMU_SLOW_R, flags, load_body, &dst);
}

static void translate_push(struct trans *t)
{
    const ZydisDecodedOperand *op = &t->ops[0];
    struct push_arg p = { .gpr = -1 };
    if (op->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
        p.imm = true;
        p.value = (int32_t)op->imm.value.s;
    } else if (op->type == ZYDIS_OPERAND_TYPE_MEMORY) {
        struct gaddr a = gaddr_of(t);
        load_word(t, &a, T0, op->mem.segment == ZYDIS_REGISTER_SS ? MEM_STACK : 0);
        e_store(&t->h, 1, GS(scratch), T0);
    } else {
        p.gpr = ZydisRegisterGetId(op->reg.value);
    }
    push(t, p, 0);
}

static void translate_pop(struct trans *t)
{
    const ZydisDecodedOperand *op = &t->ops[0];
    unsigned gpr = (unsigned)ZydisRegisterGetId(op->reg.value);
    struct gaddr a = sp_addr(t, 0);
    load_word(t, &a, is_slot(gpr) ? T0 : host_reg(gpr), MEM_STACK);
    if (is_slot(gpr))
        e_store(&t->h, 1, gs_gpr(gpr), T0);
    if (gpr != R_SP)
        sp_add(t, (int32_t)word(t));
}

/* Before anything of a CALL is done: is there room? (If not, a host signal ends the block here.) */
static void touch_return_stack(struct trans *t)
{
    if (!pairs(t))
        return;
    fl_save(t, &t->h);
    side_note(t, &t->h);
    e_load(&t->h, 0, T0, hm_base(H_SP, -RETURN_STACK_ROOM));
}

/* Behind the host's CALL: T0 = where the guest's RET goes. Flags are saved. */
static void return_site(struct trans *t)
{
    struct emit *h = &t->h;
    t->host_flags = false;
    t->saved_flags = true;
    if (is_fixed(t)) {
        e_alu_ri(h, 1, ALU_CMP, T0, (int32_t)(uint32_t)(t->vpage + next_off(t)));
    } else {
        e_pop(h, T1);
        e_alu_rm(h, 1, ALU_ADD, T1, GS(return_bias));
        e_alu_rr(h, 1, ALU_CMP, T0, T1);
    }
    e_jcc(h, CC_NE, t->cc->stubs.ret_miss[t->idx]);
    if (!is_fixed(t)) {
        e_lea(h, wide(t), T1, hm_base(T1, -(int32_t)next_off(t)));
        e_store(h, 1, GS(vpage), T1);
    }
    flow_exit_direct(t, next_off(t));
}

static void call_away(struct trans *t, int64_t target)
{
    struct emit *h = &t->h;
    if (t->small && t->bits == 64 && !is_fixed(t)) {
        e_mov_ri64(h, T0, (uint64_t)target);
        e_call(h, t->cc->stubs.away[t->idx]);
        return;
    }
    if (is_fixed(t)) {
        load_target(t, h, target);
    } else {
        e_load(h, 1, T0, hm_base(H_SP, 0)); /* the return address */
        e_lea(h, wide(t), T0, hm_base(T0, (int32_t)(target - next_off(t))));
    }
    exit_through_cache(t, h, t->cc->stubs.exit_lookup, true);
}

static void call_direct(struct trans *t, int64_t target)
{
    struct emit *h = &t->h;
    touch_return_stack(t);
    push(t, (struct push_arg){ .gpr = -1, .ra = true }, MEM_NO_EXIT);
    if (!pairs(t)) {
        flow_exit_direct(t, target);
        return;
    }
    fl_clobber(t, h);
    if (is_direct(t, target)) {
        pad_for_patch(h, 1);
        const uint8_t *to = direct_target(t, target, h->p + 1);
        e_call(h, to);
    } else {
        call_away(t, target);
    }
    return_site(t);
}

/* T0 = target. What the jump cache knows is canonical, so it is asked before the push. */
static void call_found(struct trans *t)
{
    struct emit *h = &t->h;
    fl_clobber(t, h);
    struct hmem host = probe(t, h, general_branch(t));
    e_load(h, 1, T1, host);
    e_store(h, 1, GS(scratch[1]), T1);
    e_alu_ri(h, 1, ALU_AND, T0, -4096);
    e_store(h, 1, GS(scratch), T0);
    push(t, (struct push_arg){ .gpr = -1, .ra = true }, MEM_NO_EXIT);
    fl_clobber(t, h);
    e_load(h, 1, T0, GS(scratch));
    e_store(h, 1, GS(vpage), T0);
    e_rm(h, 0, 0xff, 2, GS(scratch[1])); /* CALL */
    return_site(t);
}

static void translate_call(struct trans *t)
{
    const ZydisDecodedOperand *op = &t->ops[0];
    if (op->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
        call_direct(t, (int64_t)next_off(t) + t->in->raw.imm[0].value.s);
        return;
    }
    touch_return_stack(t);
    if (op->type == ZYDIS_OPERAND_TYPE_MEMORY) {
        struct gaddr a = gaddr_of(t);
        load_word(t, &a, T0, op->mem.segment == ZYDIS_REGISTER_SS ? MEM_STACK : 0);
    } else {
        unsigned gpr = (unsigned)ZydisRegisterGetId(op->reg.value);
        fl_clobber(t, &t->h);
        if (is_slot(gpr))
            e_load(&t->h, wide(t), T0, gs_gpr(gpr));
        else
            e_mov_rr(&t->h, wide(t), T0, host_reg(gpr));
    }
    if (pairs(t) && !t->small) {
        call_found(t);
        return;
    }
    check_canonical(t);
    e_store(&t->h, 1, GS(scratch), T0);
    push(t, (struct push_arg){ .gpr = -1, .ra = true }, MEM_NO_EXIT);
    e_load(&t->h, wide(t), T0, GS(scratch));
    if (!pairs(t)) {
        flow_exit_indirect(t, 0);
        t->done = true;
        return;
    }
    fl_clobber(t, &t->h);
    exit_through_cache(t, &t->h, branch_miss(t, 0), true);
    return_site(t);
}

static void translate_jmp(struct trans *t)
{
    const ZydisDecodedOperand *op = &t->ops[0];
    if (op->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
        int64_t target = (int64_t)next_off(t) + t->in->raw.imm[0].value.s;
        if (is_direct(t, target) && target <= (int64_t)t->off && !t->polled && !(t->mode & MODE_ONE))
            poll_back(t, target);
        flow_exit_direct(t, target);
        return;
    }
    if (op->type == ZYDIS_OPERAND_TYPE_MEMORY) {
        struct gaddr a = gaddr_of(t);
        load_word(t, &a, T0, op->mem.segment == ZYDIS_REGISTER_SS ? MEM_STACK : 0);
    } else {
        unsigned gpr = (unsigned)ZydisRegisterGetId(op->reg.value);
        fl_clobber(t, &t->h);
        if (is_slot(gpr))
            e_load(&t->h, wide(t), T0, gs_gpr(gpr));
        else
            e_mov_rr(&t->h, wide(t), T0, host_reg(gpr));
    }
    flow_exit_indirect(t, 0);
    t->done = true;
}

static void translate_ret(struct trans *t)
{
    struct gaddr a = sp_addr(t, 0);
    load_word(t, &a, T0, MEM_STACK);
    int32_t extra = t->in->raw.imm[0].size ? (int32_t)(uint16_t)t->in->raw.imm[0].value.u : 0;
    sp_add(t, (int32_t)word(t) + extra);
    unsigned popped = word(t) + (unsigned)extra;
    t->done = true;
    if (!pairs(t)) {
        flow_exit_indirect(t, popped);
        return;
    }
    fl_clobber(t, &t->h);
    if (is_fixed(t)) { /* others look where they come back to: return_bias */
        const uint8_t *miss = branch_miss(t, popped);
        e_alu_mi(&t->h, 0, ALU_CMP, GS(exit_request), 0);
        e_jcc(&t->h, CC_NE, miss);
    }
    e_desc(t, &t->h, H_11, BRANCH_DESC(t->off, popped));
    e_ret(&t->h);
}

static void translate_leave(struct trans *t)
{
    struct gaddr a = { .base = R_BP, .index = -1, .scale = 1, .width = t->bits };
    load_word(t, &a, T0, MEM_STACK);
    e_lea(&t->h, wide(t), H_GUEST_SP, hm_base(H_BP, (int32_t)word(t)));
    e_mov_rr(&t->h, wide(t), H_BP, T0);
}

bool flow_can(const struct trans *t)
{
    const ZydisDecodedOperand *op = &t->ops[0];
    bool word_size = t->in->operand_width == t->bits && t->in->address_width >= 32;
    bool near = t->in->meta.branch_type != ZYDIS_BRANCH_TYPE_FAR;
    bool segment = op->type == ZYDIS_OPERAND_TYPE_REGISTER &&
                   ZydisRegisterGetClass(op->reg.value) == ZYDIS_REGCLASS_SEGMENT;
    switch (t->in->mnemonic) {
    case ZYDIS_MNEMONIC_PUSH: return word_size && !segment;
    case ZYDIS_MNEMONIC_POP: return word_size && !segment && op->type == ZYDIS_OPERAND_TYPE_REGISTER;
    case ZYDIS_MNEMONIC_CALL:
    case ZYDIS_MNEMONIC_RET: return word_size && near;
    case ZYDIS_MNEMONIC_JMP:
        return near && t->in->address_width >= 32 && (t->bits == 64 || t->in->operand_width == 32);
    case ZYDIS_MNEMONIC_LEAVE: return word_size;
    case ZYDIS_MNEMONIC_JECXZ:
    case ZYDIS_MNEMONIC_JRCXZ:
    case ZYDIS_MNEMONIC_LOOP:
        return t->in->address_width >= 32 && (t->bits == 64 || t->in->operand_width == 32);
    case ZYDIS_MNEMONIC_JCXZ:
    case ZYDIS_MNEMONIC_LOOPE:
    case ZYDIS_MNEMONIC_LOOPNE: return false;
    default:
        return t->in->meta.category == ZYDIS_CATEGORY_COND_BR &&
               (t->bits == 64 || t->in->operand_width == 32);
    }
}

void flow_translate(struct trans *t)
{
    switch (t->in->mnemonic) {
    case ZYDIS_MNEMONIC_PUSH: translate_push(t); break;
    case ZYDIS_MNEMONIC_POP: translate_pop(t); break;
    case ZYDIS_MNEMONIC_CALL: translate_call(t); break;
    case ZYDIS_MNEMONIC_JMP: translate_jmp(t); break;
    case ZYDIS_MNEMONIC_RET: translate_ret(t); break;
    case ZYDIS_MNEMONIC_LEAVE: translate_leave(t); break;
    case ZYDIS_MNEMONIC_JECXZ:
    case ZYDIS_MNEMONIC_JRCXZ:
    case ZYDIS_MNEMONIC_LOOP: count_branch(t); break;
    default: jcc(t);
    }
}
