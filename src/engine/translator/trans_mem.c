/* Memory: what stands between a guest memory operand and the host access.
 *
 * The check. T0 = linear address; T1 = offset of its TLB entry; T0 ^= tag: if the page matches, T0 is now the
 * offset in the page, else something large. One unsigned compare against 4096 - n then answers both whether
 * the page is there and whether the access stays inside it. Behind it, either T1 = delta and the operand
 * keeps its form base + disp + T1, or T1 = host page and the operand is T0 + T1. */
#include "engine/translator/masked.h"
#include "engine/translator/mmu.h"
#include "engine/translator/trans.h"

/* Accesses whose slow path is their own, in cold code. */
#define MEM_ALONE (MEM_FPU_WAIT | MEM_REHEARSE | MEM_MASKED)

void side_note(struct trans *t, struct emit *e)
{
    if (t->side_count == TRANS_MAX_SIDE) {
        t->h.full = true; /* cannot be noted: give the block up (it is retried shorter) */
        return;
    }
    t->side[t->side_count++] = (struct tb_side){ .host = (uint32_t)(e->p - (uint8_t *)t->cc->mem.rw),
                                                 .off = (uint16_t)t->off,
                                                 .host_flags = t->host_flags };
}

void gaddr_learn(const struct trans *t, struct form *f)
{
    const ZydisDecodedOperand *op = f->disp_op >= 0 ? &f->ops[f->disp_op] : f->mem;
    struct gaddr *a = &f->addr;
    *a = (struct gaddr){ .base = -1, .index = -1, .scale = 1, .width = t->in->address_width };
    if (!op)
        return;
    if (op->mem.base == ZYDIS_REGISTER_RIP || op->mem.base == ZYDIS_REGISTER_EIP)
        a->rip = true;
    else
        a->base = (int8_t)insn_gpr_id(op->mem.base);
    a->index = (int8_t)insn_gpr_id(op->mem.index);
    if (a->index >= 0)
        a->scale = op->mem.scale ? op->mem.scale : 1;
    bool fs = op->mem.segment == ZYDIS_REGISTER_FS;
    if (!fs && op->mem.segment != ZYDIS_REGISTER_GS)
        return;
    a->seg_base = (uint32_t)(fs ? offsetof(struct tcpu, seg_base_fs) : offsetof(struct tcpu, seg_base_gs));
    if (t->bits == 32)
        a->seg_room =
            (uint32_t)(fs ? offsetof(struct tcpu, seg_room_fs) : offsetof(struct tcpu, seg_room_gs));
}

struct gaddr gaddr_of(const struct trans *t)
{
    const struct ginsn *g = &t->g[t->cur];
    if (t->mode & MODE_NATIVE)
        return (struct gaddr){ .base = BASE_SCRATCH, .index = -1, .scale = 1, .width = 64 };
    struct gaddr a = g->form->addr;
    a.disp = g->disp + (a.rip ? next_off(t) : 0);
    return a;
}

/* A guest register as a host register, loading a slot into `tmp`. */
static int take_reg(struct emit *e, int gpr, int tmp)
{
    if (gpr == BASE_SCRATCH) {
        e_load(e, 1, tmp, GS(scratch[2]));
        return tmp;
    }
    if (!is_slot((unsigned)gpr))
        return host_reg((unsigned)gpr);
    e_load(e, 1, tmp, gs_gpr((unsigned)gpr));
    return tmp;
}

/* Adds a displacement of any size to dst (64-bit, flag-free). */
static void add_disp(struct emit *e, int dst, int64_t disp)
{
    while (disp) {
        int32_t part = disp > INT32_MAX ? INT32_MAX : disp < INT32_MIN ? INT32_MIN : (int32_t)disp;
        e_lea(e, 1, dst, hm_base(dst, part));
        disp -= part;
    }
}

/* Uses T1 besides dst; dst may be T0 or T2. */
static void lea_effective(struct trans *t, struct emit *e, int dst, const struct gaddr *a)
{
    unsigned w = a->width == 64;
    int tmp = dst == T1 ? T0 : dst;
    if (a->rip && is_fixed(t)) {
        uint64_t at = t->vpage + (uint64_t)a->disp;
        e_mov_ri64(e, dst, w ? at : (uint32_t)at);
    } else if (a->rip) {
        e_load(e, 1, dst, GS(vpage));
        add_disp(e, dst, a->disp);
        if (!w)
            e_mov_rr(e, 0, dst, dst);
    } else if (a->base < 0 && a->index < 0) {
        e_mov_ri64(e, dst, w ? (uint64_t)a->disp : a->width == 32 ? (uint32_t)a->disp : (uint16_t)a->disp);
    } else {
        struct hmem m = { H_NONE, H_NONE, (uint8_t)a->scale, false, (int32_t)a->disp };
        if (a->base >= 0)
            m.base = (int8_t)take_reg(e, a->base, tmp);
        if (a->index >= 0)
            m.index = (int8_t)take_reg(e, a->index, T1);
        if (w && m.index == H_NONE && m.disp == 0)
            m.base != dst ? e_mov_rr(e, 1, dst, m.base) : (void)0;
        else
            e_lea(e, w, dst, m);
        if (a->width == 16)
            e_movzx16(e, dst, dst);
    }
}

static void add_segment(struct trans *t, struct emit *e, int dst, const struct gaddr *a)
{
    if (a->seg_base) {
        e_load(e, 1, T1, hm_cpu(a->seg_base));
        e_lea(e, t->bits == 64, dst, hm_index(dst, T1, 1, 0)); /* 32-bit linear addresses wrap */
    }
}

void lea_guest(struct trans *t, struct emit *e, int dst, const struct gaddr *a)
{
    lea_effective(t, e, dst, a);
    add_segment(t, e, dst, a);
}

/* 32-bit blocks are for flat segments, but FS and GS are what they are: beyond their limit, which an access
 * that wraps at 4 GiB is too, the general path knows (SDM volume 3, 5.3). T0 = effective address. */
static void check_limit(struct trans *t, const struct gaddr *a, unsigned n, bool carry)
{
    struct emit *h = &t->h, *k = &t->k;
    e_lea(h, 1, T1, hm_base(T0, (int32_t)n));
    e_alu_rm(h, 1, ALU_CMP, T1, hm_cpu(a->seg_room));
    e_jcc(h, CC_A, e_rx(k));
    fl_cold_save(t, k, carry);
    e_desc(t, k, H_10, t->off | (uint32_t)SPECIAL_SEGMENT << 16);
    e_call(k, t->cc->stubs.special);
}

void emit_tlb_index(struct trans *t)
{
    if (t->vm->host_bmi2) {
        e_rorx(&t->h, 1, T1, T0, 12 - 5);
    } else {
        e_mov_rr(&t->h, 1, T1, T0);
        e_shr_ri(&t->h, 1, T1, 12 - 5);
    }
    e_alu_ri(&t->h, 0, ALU_AND, T1, (TLB_SIZE - 1) << 5);
}

int body_tmp(struct emit *e, struct hmem *ref)
{
    bool t0 = ref->base == T0 || ref->index == T0, t1 = ref->base == T1 || ref->index == T1;
    if (!t0 || !t1)
        return t0 ? T1 : T0;
    e_lea(e, 1, T0, *ref);
    *ref = hm_base(T0, 0);
    return T1;
}

/* The staged copy of a writing instruction: it works on the buffer, then the buffer is written to the guest.
 */
static void staged_body(struct trans *t, struct hmem ref, unsigned flags, body_fn *body, void *arg,
                        const uint8_t *hit)
{
    struct emit *k = &t->k;
    e_alu_mi(k, 0, ALU_CMP, GS(staged), 0);
    e_jcc(k, CC_E, hit + k->rx_off);
    bool host = t->host_flags, saved = t->saved_flags;
    if (flags & MEM_SIDE)
        side_note(t, k);
    body(t, k, ref, arg);
    e_desc(t, k, T1,
           next_off(t) | (t->saved_flags ? 0 : COMMIT_HOST_FLAGS) |
               (flags & MEM_NO_EXIT ? COMMIT_NO_EXIT : 0));
    e_call(k, t->cc->stubs.commit);
    t->host_flags = host;
    t->saved_flags = saved;
}

static void rehearse(struct trans *t, struct emit *k, body_fn *body, void *arg)
{
    t->rehearses = true;
    body(t, k, GS(rehearsal), arg);
    t->rehearses = false;
}

/* What an instruction does before its operand's page is looked at. Intel's go on for some stores: VCVTPS2PH
 * raises its SIMD exceptions, MMX stores have set TOP to 0, and an x87 store with an unmasked exception
 * (other than precision, SDM volume 1, 8.5) is over without touching memory. The last run once into a buffer
 * of ours, then what x87 did is taken back. Returns NULL, or the place of a jump for when there is no access.
 * Flags and T1 are free. */
static uint8_t *before_access(struct trans *t, struct emit *k, unsigned flags, body_fn *body, void *arg)
{
    struct hmem env = hm_cpu(offsetof(struct tcpu, rehearsal) + 16);
    if (flags & (MEM_FPU_WAIT | MEM_REHEARSE))
        side_note(t, k);
    if (!(flags & MEM_REHEARSE)) {
        if (flags & MEM_FPU_WAIT)
            e_byte(k, 0x9b); /* FWAIT */
        return NULL;
    }
    if (!(flags & MEM_FPU_WAIT)) {
        rehearse(t, k, body, arg);
        return NULL;
    }
    e_byte(k, 0x9b);
    if (insn_has_class(t, ZYDIS_REGCLASS_MMX)) {
        struct hmem status = hm_cpu(offsetof(struct tcpu, rehearsal) + 16 + 4);
        e_rm(k, 0, 0xd9, 6, env); /* FNSTENV */
        e_alu_mi(k, 0, ALU_AND, status, ~0x3800);
        e_rm(k, 0, 0xd9, 4, env); /* FLDENV */
        return NULL;
    }
    e_rm(k, 0, 0xdd, 6, env); /* FNSAVE */
    e_rm(k, 0, 0xdd, 4, env); /* FRSTOR */
    rehearse(t, k, body, arg);
    e_rm(k, 0, 0xdd, 7, GS(scratch)); /* FNSTSW */
    e_load(k, 0, T1, env);            /* control word */
    e_rr(k, 0, 0xf7, 2, T1);          /* NOT */
    e_alu_rm(k, 0, ALU_AND, T1, GS(scratch));
    e_alu_ri(k, 0, ALU_AND, T1, 0x1f);
    uint8_t *over = e_jcc_fwd(k, CC_NE);
    e_byte(k, 0xdb), e_byte(k, 0xe2); /* FNCLEX: FRSTOR waits */
    e_rm(k, 0, 0xdd, 4, env);
    return over;
}

void mem_denied(struct trans *t, unsigned flags, body_fn *body, void *arg)
{
    fl_clobber(t, &t->h);
    uint8_t *over = before_access(t, &t->h, flags, body, arg);
    flow_special(t, flags & MEM_MASKED ? SPECIAL_SEGMENT : SPECIAL_GP); /* elements by themselves */
    if (over)
        e_patch(over, t->h.p);
}

/* The check of n bytes in shared code, if the block is of the small kind and there is one; its description
 * stands behind the call in an instruction that does nothing. T0 = linear address. Flags are lost, and
 * saved. */
static bool call_check(struct trans *t, unsigned n, unsigned acc, unsigned flags, bool delta, uint32_t desc)
{
    unsigned size = 0;
    while (1u << size < n)
        size++;
    if (!t->small || !t->saved_flags || (flags & MEM_ALONE) || size >= CHECK_SIZES || 1u << size != n)
        return false;
    e_call(&t->h, t->cc->stubs.check[size][acc != MMU_SLOW_R][t->idx][delta]);
    e_byte(&t->h, 0xa9); /* TEST EAX, desc */
    e_u32(&t->h, desc);
    return true;
}

void emit_tlb_check(struct trans *t, unsigned n, bool write)
{
    struct emit *h = &t->h;
    size_t tag = write ? offsetof(struct tlb_entry, tag_w) : offsetof(struct tlb_entry, tag_r);
    emit_tlb_index(t);
    e_alu_rm(h, 1, ALU_XOR, T0, hm_tlb(t->idx, tag));
    e_alu_ri(h, 1, ALU_CMP, T0, (int32_t)(PAGE_SIZE - n));
    e_jcc(h, CC_A, e_rx(&t->k));
}

static uint32_t describe(const struct trans *t, const struct gaddr *a, unsigned n, unsigned acc,
                         unsigned flags)
{
    bool limited = a->seg_room || (t->mode & MODE_NATIVE);
    return MMU_DESC(t->off, n, acc, (flags & MEM_LOCKED) != 0, (flags & MEM_STACK) != 0) |
           flags >> MEM_ALIGN_SHIFT << 30 | (limited ? MMU_DESC_LIMITED : 0);
}

struct access {
    struct hmem ref;
    unsigned acc, flags;
    bool delta;
    uint32_t desc;
    body_fn *body;
    void *arg;
};

/* Cold: the slow path of an access that may have to be staged, or comes behind something else. past: places
 * of jumps to behind the access. */
static void miss_alone(struct trans *t, const struct access *x, const uint8_t *hit, uint8_t *past[2])
{
    struct emit *k = &t->k;
    size_t tag = x->acc == MMU_SLOW_R ? offsetof(struct tlb_entry, tag_r) : offsetof(struct tlb_entry, tag_w);
    /* the tag is still where it was, so the same XOR gives the address back */
    e_alu_rm(k, 1, ALU_XOR, T0, hm_tlb(t->idx, tag));
    past[0] = before_access(t, k, x->flags, x->body, x->arg);
    if (x->flags & MEM_MASKED) {
        unsigned mask = (unsigned)(t->in->avx.mask.reg - ZYDIS_REGISTER_K0);
        if (mask)
            e_kmovq_store(k, GS(scratch[3]), mask);
        else
            e_store_imm32(k, 1, GS(scratch[3]), 0xffffffffu); /* sign-extended */
        e_store_imm32(k, 1, GS(scratch[4]), masked_by_element(t->in, t->ops, t->vm->cpuid.is_amd));
    }
    e_desc(t, k, T1, x->desc);
    if (x->flags & MEM_MASKED)
        e_call(k, x->delta ? t->cc->stubs.mem_masked_d : t->cc->stubs.mem_masked_h);
    else
        e_call(k, x->delta ? t->cc->stubs.mem_staged_d : t->cc->stubs.mem_staged_h);
    if (x->acc == MMU_SLOW_R || (x->flags & MEM_LOCKED)) {
        e_jmp(k, hit + t->h.rx_off);
    } else {
        staged_body(t, x->ref, x->flags, x->body, x->arg, hit);
        past[1] = e_jmp_fwd(k);
    }
}

void mem_access(struct trans *t, const struct gaddr *a, unsigned n, unsigned acc, unsigned flags,
                body_fn *body, void *arg)
{
    struct emit *h = &t->h, *k = &t->k;
    struct hmem ref;
    if (!(flags & MEM_NO_GROUP) && group_access(t, a, n, acc != MMU_SLOW_R, &ref)) {
        t->accessed = true;
        if (flags & MEM_SIDE)
            side_note(t, h);
        body(t, h, ref, arg);
        return;
    }
    bool delta = !(flags & MEM_NO_DELTA) && a->base >= 0 && a->index < 0 && !a->rip && !a->seg_base &&
                 a->width == 64 && a->base != BASE_SCRATCH && !is_slot((unsigned)a->base);
    uint32_t desc = describe(t, a, n, acc, flags);
    bool poll = t->goes_back && !t->accessed && !t->polled;
    bool carry = !poll && !(t->mode & MODE_ONE) && !(flags & MEM_ALONE) && fl_carries(t);
    if (!carry)
        fl_lose(t, h);
    if (poll)
        flow_poll(t);
    t->accessed = true;
    lea_effective(t, h, T0, a);
    if (carry)
        fl_carry(h);
    if (a->seg_room)
        check_limit(t, a, n, carry);
    add_segment(t, h, T0, a);
    ref = delta ? hm_index(host_reg((unsigned)a->base), T1, 1, (int32_t)a->disp) : hm_index(T0, T1, 1, 0);
    if (call_check(t, n, acc, flags, delta, desc)) {
        if (flags & MEM_SIDE)
            side_note(t, h);
        body(t, h, ref, arg);
        return;
    }
    emit_tlb_check(t, n, acc != MMU_SLOW_R);
    e_load(h, 1, T1,
           hm_tlb(t->idx, delta ? offsetof(struct tlb_entry, delta) : offsetof(struct tlb_entry, hpage)));
    uint8_t *hit = h->p;
    if (carry)
        fl_carried(h);
    uint8_t *past[2] = { NULL, NULL };
    if (!(t->mode & MODE_ONE) && !(flags & MEM_ALONE)) {
        fl_cold_call(t, k, carry, t->cc->stubs.slow[acc != MMU_SLOW_R][t->idx][delta], desc);
        if (carry)
            fl_carry_back(k);
        e_jmp(k, hit + h->rx_off);
    } else {
        struct access x = { ref, acc, flags, delta, desc, body, arg };
        miss_alone(t, &x, hit, past);
    }
    if (flags & MEM_SIDE)
        side_note(t, h);
    body(t, h, ref, arg);
    for (unsigned i = 0; i < 2; i++) {
        if (past[i])
            e_patch(past[i], h->p);
    }
}
