/* Hand-made code at the start of the cache: the way in, the ways out, and calls of C from translated code.
 *
 * In translated code the guest's registers are in the host registers of the same number, except: guest RSP is
 * in r15; guest r9, r10, r11 and r15 are in their homes in struct tcpu (GS base); r9, r10, r11 are scratch.
 * RSP is the thread's C stack, 16-byte aligned between instructions. Guest x87/SSE/AVX state is in the
 * registers; the C functions called here are light. DF is always clear.
 *
 *   mem_slow_h/d  call; r9 = linear address, r10d = MMU_DESC. Flags are saved. Back: r9 = offset, r10 = host
 * page (_h) or r10 = delta (_d); tcpu.staged says whether it is the staging buffer. group         call; r9 =
 * address, r10d = MMU_DESC. Flags are saved. Back: ZF and r10 = delta, or not ZF. commit        call; r10d =
 * offset of the next instruction | COMMIT_*. Keeps EFLAGS. Writes the staged bytes. interp        call; r10d
 * = offset | length << 16. Flags are saved. One instruction in C. special       call; r10d = offset | enum
 * special << 16. Flags are saved. exit_lookup   jump; r9 = linear address to go on at. Flags are saved.
 *   exit_branch   the same, and r10d = BRANCH_DESC.
 *   exit_poll     jump; r10d = offset. Flags are saved.
 *   exit_link     jump; r10 = exit_arg. Flags as the block exits with them. */
#include "engine/translator/cache.h"
#include "engine/translator/mmu.h"
#include "engine/translator/trans.h"

static const uint8_t caller_saved[] = { H_AX, H_CX, H_DX, H_SI, H_DI, H_8 };
static const uint8_t callee_saved[] = { H_BX, H_BP, H_12, H_13, H_14 };

static void spill_caller(struct emit *e)
{
    for (unsigned i = 0; i < array_size(caller_saved); i++)
        e_store(e, 1, gs_gpr(caller_saved[i]), caller_saved[i]);
}
static void fill_caller(struct emit *e)
{
    for (unsigned i = 0; i < array_size(caller_saved); i++)
        e_load(e, 1, caller_saved[i], gs_gpr(caller_saved[i]));
}
static void spill_callee(struct emit *e)
{
    for (unsigned i = 0; i < array_size(callee_saved); i++)
        e_store(e, 1, gs_gpr(callee_saved[i]), callee_saved[i]);
    e_store(e, 1, gs_gpr(R_SP), H_15);
}
static void fill_callee(struct emit *e)
{
    for (unsigned i = 0; i < array_size(callee_saved); i++)
        e_load(e, 1, callee_saved[i], gs_gpr(callee_saved[i]));
    e_load(e, 1, H_15, gs_gpr(R_SP));
}

static void call_c(struct emit *e, void *fn)
{
    e_mov_ri64(e, H_AX, (uint64_t)(uintptr_t)fn);
    e_byte(e, 0xff), e_byte(e, 0xd0);
}

/* eax = exit reason, guest registers are in their homes. */
static void leave(struct emit *e)
{
    static const uint8_t pops[] = { H_15, H_14, H_13, H_12, H_BP, H_BX };
    e_store(e, 0, hm_gs(offsetof(struct tcpu, exit_reason)), H_AX);
    e_load(e, 1, H_SP, hm_gs(offsetof(struct tcpu, host_rsp)));
    for (unsigned i = 0; i < array_size(pops); i++)
        e_pop(e, pops[i]);
    e_ret(e);
}

/* Stores the host's status flags in the form of tcpu.fl; rax must be spilled. */
static void capture_flags(struct emit *e)
{
    e_lahf(e);
    e_seto_al(e);
    e_byte(e, 0x66);
    e_store(e, 0, hm_gs(offsetof(struct tcpu, exit_fl)), H_AX);
}

static void emit_enter(struct emit *e)
{
    static const uint8_t pushes[] = { H_BX, H_BP, H_12, H_13, H_14, H_15 };
    for (unsigned i = 0; i < array_size(pushes); i++)
        e_push(e, pushes[i]);
    e_store(e, 1, hm_gs(offsetof(struct tcpu, host_rsp)), H_SP);
    e_alu_ri(e, 1, ALU_SUB, H_SP, 8);
    e_mov_rr(e, 1, H_9, H_SI);
    e_rm0f(e, 0, 0xb7, H_AX, hm_gs(offsetof(struct tcpu, fl))); /* movzx */
    e_add_al_7f(e);
    e_sahf(e);
    fill_caller(e);
    fill_callee(e);
    e_jmp_reg(e, H_9);
}

static void emit_exit(struct emit *e, enum exit_reason why)
{
    spill_caller(e);
    spill_callee(e);
    if (why == XIT_LINK || why == XIT_STALE || why == XIT_SIGNAL)
        capture_flags(e);
    if (why == XIT_LINK || why == XIT_STALE || why == XIT_BRANCH)
        e_store(e, 1, hm_gs(offsetof(struct tcpu, exit_arg)), H_10);
    if (why == XIT_LOOKUP || why == XIT_BRANCH)
        e_store(e, 1, hm_gs(offsetof(struct tcpu, rip)), H_9);
    if (why == XIT_POLL) {
        e_alu_rm(e, 1, ALU_ADD, H_10, hm_gs(offsetof(struct tcpu, vpage)));
        e_store(e, 1, hm_gs(offsetof(struct tcpu, rip)), H_10);
    }
    e_mov_ri32(e, H_AX, why);
    leave(e);
}

static void emit_mem_slow(struct emit *e, bool delta)
{
    spill_caller(e);
    e_store(e, 1, GS(dc_home), DC);
    e_alu_ri(e, 1, ALU_SUB, H_SP, 40);
    e_load(e, 1, H_DI, hm_gs(offsetof(struct tcpu, self)));
    e_mov_rr(e, 1, H_SI, H_9);
    e_mov_rr(e, 0, H_DX, H_10);
    e_mov_rr(e, 1, H_CX, H_SP);
    call_c(e, (void *)(uintptr_t)helper_mem);
    e_mov_rr(e, 0, H_CX, H_AX);
    e_alu_ri(e, 0, ALU_SUB, H_CX, MMU_ANS_DIRECT); /* 0 direct, 1 staged; below or above: out */
    e_store(e, 0, GS(staged), H_CX);
    e_alu_ri(e, 0, ALU_CMP, H_CX, 1);
    uint8_t *out = e_jcc_fwd(e, CC_A);
    e_load(e, 1, H_9, hm_base(H_SP, offsetof(struct mmu_slow, offset)));
    e_load(e, 1, H_10,
           hm_base(H_SP, delta ? offsetof(struct mmu_slow, delta) : offsetof(struct mmu_slow, hpage)));
    e_load(e, 1, DC, GS(dc_home));
    fill_caller(e);
    e_alu_ri(e, 1, ALU_ADD, H_SP, 40);
    e_ret(e);
    e_patch(out, e->p);
    spill_callee(e);
    leave(e); /* MMU_ANS_FAULT and MMU_ANS_EXCLUSIVE equal their exit reasons */
}

/* ZF: r10 is the delta; else the group cannot be made. */
static void emit_group(struct emit *e)
{
    spill_caller(e);
    e_store(e, 1, GS(dc_home), DC);
    e_alu_ri(e, 1, ALU_SUB, H_SP, 40);
    e_load(e, 1, H_DI, hm_gs(offsetof(struct tcpu, self)));
    e_mov_rr(e, 1, H_SI, H_9);
    e_mov_rr(e, 0, H_DX, H_10);
    e_mov_rr(e, 1, H_CX, H_SP);
    call_c(e, (void *)(uintptr_t)helper_group);
    e_load(e, 1, H_10, hm_base(H_SP, offsetof(struct mmu_slow, delta)));
    e_rr(e, 0, 0x85, H_AX, H_AX);
    e_load(e, 1, DC, GS(dc_home));
    fill_caller(e);
    e_lea(e, 1, H_SP, hm_base(H_SP, 40));
    e_ret(e);
}

static void emit_call(struct emit *e, void *fn, bool keep_flags)
{
    spill_caller(e);
    spill_callee(e);
    if (keep_flags)
        capture_flags(e);
    e_store(e, 1, GS(dc_home), DC);
    e_alu_ri(e, 1, ALU_SUB, H_SP, 8);
    e_load(e, 1, H_DI, hm_gs(offsetof(struct tcpu, self)));
    e_mov_rr(e, 0, H_SI, H_10);
    call_c(e, fn);
    e_alu_ri(e, 1, ALU_ADD, H_SP, 8);
    e_rr(e, 0, 0x85, H_AX, H_AX);
    uint8_t *out = e_jcc_fwd(e, CC_NE);
    if (keep_flags) {
        e_rm0f(e, 0, 0xb7, H_AX, hm_gs(offsetof(struct tcpu, exit_fl)));
        e_add_al_7f(e);
        e_sahf(e);
    }
    e_load(e, 1, DC, GS(dc_home));
    fill_caller(e);
    fill_callee(e);
    e_ret(e);
    e_patch(out, e->p);
    e_alu_ri(e, 0, ALU_SUB, H_AX, 1); /* helpers answer 0 to go on, or 1 + exit reason */
    leave(e);
}

static const uint8_t *start(struct emit *e)
{
    e_align(e, 16, 0xcc);
    return e_rx(e);
}

void stubs_emit(struct code_cache *cc)
{
    struct emit em = { .p = cc->mem.rw,
                       .end = (uint8_t *)cc->mem.rw + PAGE_SIZE,
                       .rx_off = (uint8_t *)cc->mem.rx - (uint8_t *)cc->mem.rw };
    struct emit *e = &em;
    struct stubs *s = &cc->stubs;
    s->enter = (void (*)(struct tcpu *, const void *))(uintptr_t)start(e);
    emit_enter(e);
    s->exit_lookup = start(e);
    emit_exit(e, XIT_LOOKUP);
    s->exit_branch = start(e);
    emit_exit(e, XIT_BRANCH);
    s->exit_link = start(e);
    emit_exit(e, XIT_LINK);
    s->exit_poll = start(e);
    emit_exit(e, XIT_POLL);
    s->signal = start(e);
    emit_exit(e, XIT_SIGNAL);
    s->stale = start(e);
    e_pop(e, H_10);
    emit_exit(e, XIT_STALE);
    s->mem_slow_h = start(e);
    emit_mem_slow(e, false);
    s->mem_slow_d = start(e);
    emit_mem_slow(e, true);
    s->group = start(e);
    emit_group(e);
    s->commit = start(e);
    emit_call(e, (void *)(uintptr_t)helper_commit, true);
    s->interp = start(e);
    emit_call(e, (void *)(uintptr_t)helper_interp, false);
    s->special = start(e);
    emit_call(e, (void *)(uintptr_t)helper_special, false);
    BUG_ON(em.full);
    cc->stub_len = align_up((size_t)(em.p - (uint8_t *)cc->mem.rw), 64);
}
