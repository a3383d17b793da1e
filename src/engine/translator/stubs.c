/* Hand-made code at the start of the cache: the way in, the ways out, and calls of C from translated code.
 *
 * In translated code the guest's registers are in the host registers of the same number, except: guest RSP is
 * in r15; guest r9, r10, r11 and r15 are in their homes in struct tcpu (GS base); r9, r10, r11 are scratch.
 * RSP is the return stack (below). Guest x87/SSE/AVX/AVX-512 state is in the registers; the C functions
 * called here are light. DF is always clear.
 *
 *   slow          call, an MMU_DESC as data behind it; r9 = linear address XOR the entry's tag, r10 = index
 * into the TLB, as a check leaves them. Flags are saved. Back: r9 = offset in the page, r10 = host page or
 * delta. A store that must be staged leaves (XIT_ONE). slow_group    the same; back: ZF and r10 = delta, or
 * not ZF. mem_staged_h/d call; r9 = linear address, r10d = MMU_DESC. Flags are saved. Back: as slow, and
 * tcpu.staged says whether it is the staging buffer. mem_masked_h/d the same for an operand under a mask:
 * tcpu.scratch[3] = the mask register, scratch[4] = MASKED_OPERAND. commit        call; r10d = offset of the
 * next instruction | COMMIT_*. Keeps EFLAGS. Writes the staged bytes. interp        call; r10d = offset |
 * length
 * << 16. Flags are saved. One instruction in C. save_flags    call; stores EFLAGS' status flags in tcpu.fl
 * and keeps everything; save_flags_r10 keeps all but r10. special       call; r10d = offset | enum special
 * << 16. Flags are saved. exit_lookup jump; r9 = linear address to go on at. Flags are saved. exit_branch the
 * same, and r10d = BRANCH_DESC. exit_poll     jump; r10d = offset. Flags are saved. exit_link     jump; r10 =
 * exit_arg. Flags as the block exits with them. exit_fixed_link  the same, and r9d = exit_bits.
 *
 * check, check_group    call; r9 = linear address, and an MMU_DESC as the immediate of the instruction behind
 * the call. Flags are saved. Back: as slow; group: r10 = delta, or "above". lookup, lookup_branch    jump (or
 * lookup call); r9 = linear address (r11d = BRANCH_DESC): through the jump cache. away          the same as
 * lookup, r9 = linear address - tcpu.vpage, for code of 64 bits. save_lookup, save_away    jump; the same,
 * and flags are in EFLAGS.
 *
 * A block of fixed address (fixed.c) has bits 31:0 of its linear page in the upper half of r10 where r10d is
 * said above; others have 0 there, and the page is in tcpu.vpage.
 *
 * transfer, syscall, sysret64    jump; r10d = offset | enum special << 16, r9 = linear address behind the
 * instruction. Flags are saved. System calls and returns from them, of 64-bit code with the usual flags,
 * change the privilege level here; the others, IRET, and exceptions of translated code do so in C. In either
 * case the way goes on through the jump cache of the new mmu index (cross), and the dispatcher is asked only
 * when there is something for it to do (goes_straight_on in vcpu.c).
 *
 * The return stack. A guest CALL ends in a host CALL, a guest RET in a host RET, so that the host predicts
 * where returns go. RSP is the vCPU's return stack for that reason, not the thread's C stack, to which the
 * stubs change. Before the host CALL, blocks that do not know their linear address push the guest's return
 * address there, too. Behind the CALL stands a check that the guest really returns there (r9 = the address
 * that RET popped, r11 = BRANCH_DESC of the RET, as for r10); if not, or at the bottom of the stack, ret_miss
 * empties the return stack and looks in the jump cache. The stack is emptied whenever the dispatcher runs,
 * thus whenever translations or modes change, and when the privilege level does. A system call leaves what
 * the user's calls have there, to be used again by the return from it: tcpu.return_base is where the kernel's
 * part begins, with the old return_base above it. */
#include "engine/translator/cache.h"
#include "engine/translator/mmu.h"
#include "engine/translator/sys.h"
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

static const uint8_t *start(struct emit *e)
{
    e_align(e, 16, 0xcc);
    return e_rx(e);
}

/* The upper half of r10 is the linear page of a block of fixed address. Uses rax, and flags. */
static void take_vpage(struct emit *e)
{
    e_mov_rr(e, 1, H_AX, H_10);
    e_rr(e, 1, 0xc1, 7, H_AX); /* SAR */
    e_byte(e, 32);
    uint8_t *none = e_jcc_fwd(e, CC_E);
    e_store(e, 1, GS(vpage), H_AX);
    e_patch(none, e->p);
}

/* From the return stack to the C stack with n bytes on it (a multiple of 16), and back. */
static void to_c_stack(struct emit *e, int n)
{
    e_store(e, 1, GS(jit_rsp), H_SP);
    e_load(e, 1, H_SP, GS(host_rsp));
    e_lea(e, 1, H_SP, hm_base(H_SP, -8 - n));
}
static void from_c_stack(struct emit *e)
{
    e_load(e, 1, H_SP, GS(jit_rsp));
}

/* eax = exit reason, guest registers are in their homes. */
static void leave(struct emit *e)
{
    static const uint8_t pops[] = { H_15, H_14, H_13, H_12, H_BP, H_BX };
    e_store(e, 0, hm_cpu(offsetof(struct tcpu, exit_reason)), H_AX);
    e_load(e, 1, H_SP, hm_cpu(offsetof(struct tcpu, host_rsp)));
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
    e_store(e, 0, hm_cpu(offsetof(struct tcpu, exit_fl)), H_AX);
}

/* T0 = linear address to go to; out: the place of a jump for when that fails. */
static void look_up(struct emit *e, unsigned idx, uint8_t **out)
{
    struct hmem host = jump_cache_probe(e, idx, false, out);
    e_alu_ri(e, 1, ALU_AND, T0, -4096);
    e_store(e, 1, GS(vpage), T0);
    e_jmp_mem(e, host);
}

static void emit_lookup(struct emit *e, unsigned idx, const uint8_t *exit_lookup)
{
    uint8_t *out;
    look_up(e, idx, &out);
    e_patch(out, e->p);
    e_jmp(e, exit_lookup);
}

/* lookup and what goes before it. */
static void emit_lookups(struct emit *e, struct stubs *s, unsigned idx)
{
    s->save_away[idx] = start(e);
    e_save_flags(e);
    s->away[idx] = e_rx(e);
    e_alu_rm(e, 1, ALU_ADD, T0, GS(vpage));
    s->lookup[idx] = e_rx(e);
    emit_lookup(e, idx, s->exit_lookup);
    s->save_lookup[idx] = start(e);
    e_save_flags(e);
    e_jmp(e, s->lookup[idx]);
}

/* The same behind an indirect jump; r11 = BRANCH_DESC. */
static void emit_lookup_branch(struct emit *e, unsigned idx, const uint8_t *exit_branch)
{
    uint8_t *out;
    look_up(e, idx, &out);
    e_patch(out, e->p);
    e_mov_rr(e, 1, H_10, H_11);
    e_jmp(e, exit_branch);
}

/* T0 = where the guest returns to, r11 = BRANCH_DESC. */
static void emit_ret_miss(struct emit *e, unsigned idx, const uint8_t *exit_branch)
{
    e_load(e, 1, H_SP, GS(return_base));
    e_lea(e, 1, H_SP, hm_base(H_SP, -8)); /* where emit_enter's return address is */
    emit_lookup_branch(e, idx, exit_branch);
}

/* The lowest return address on the return stack is the one that this leaves there. Returns happen under MMU_U
 * and MMU_S only (trans_flow.c). */
static void emit_enter(struct emit *e, unsigned idx, const uint8_t *exit_branch)
{
    static const uint8_t pushes[] = { H_BX, H_BP, H_12, H_13, H_14, H_15 };
    for (unsigned i = 0; i < array_size(pushes); i++)
        e_push(e, pushes[i]);
    e_store(e, 1, GS(host_rsp), H_SP);
    e_load(e, 1, H_SP, GS(return_top));
    e_store(e, 1, GS(return_base), H_SP);
    e_mov_rr(e, 1, H_9, H_SI);
    e_rm0f(e, 0, 0xb7, H_AX, hm_cpu(offsetof(struct tcpu, fl))); /* movzx */
    e_add_al_7f(e);
    e_sahf(e);
    fill_caller(e);
    fill_callee(e);
    e_byte(e, 0x41), e_byte(e, 0xff), e_byte(e, 0xd1); /* call r9 */
    emit_ret_miss(e, idx == MMU_SU ? MMU_S : idx, exit_branch);
}

static void emit_exit(struct emit *e, enum exit_reason why)
{
    spill_caller(e);
    spill_callee(e);
    if (why == XIT_LINK || why == XIT_FIXED_LINK || why == XIT_STALE || why == XIT_SIGNAL)
        capture_flags(e);
    if (why == XIT_LINK || why == XIT_FIXED_LINK || why == XIT_STALE || why == XIT_BRANCH)
        e_store(e, 1, hm_cpu(offsetof(struct tcpu, exit_arg)), H_10);
    if (why == XIT_FIXED_LINK)
        e_store(e, 0, GS(exit_bits), H_9);
    if (why == XIT_BRANCH || why == XIT_POLL)
        take_vpage(e);
    if (why == XIT_LOOKUP || why == XIT_BRANCH)
        e_store(e, 1, hm_cpu(offsetof(struct tcpu, rip)), H_9);
    if (why == XIT_POLL) {
        e_mov_rr(e, 0, H_10, H_10);
        e_alu_rm(e, 1, ALU_ADD, H_10, hm_cpu(offsetof(struct tcpu, vpage)));
        e_store(e, 1, hm_cpu(offsetof(struct tcpu, rip)), H_10);
    }
    e_mov_ri32(e, H_AX, why);
    leave(e);
}

static void call_helper_mem(struct emit *e, void *fn)
{
    e_load(e, 1, H_DI, hm_cpu(offsetof(struct tcpu, self)));
    e_mov_rr(e, 1, H_SI, H_9);
    e_mov_rr(e, 1, H_CX, H_SP);
    call_c(e, fn);
}

static void load_answer(struct emit *e, bool delta)
{
    e_load(e, 1, H_9, hm_base(H_SP, offsetof(struct mmu_slow, offset)));
    e_load(e, 1, H_10,
           hm_base(H_SP, delta ? offsetof(struct mmu_slow, delta) : offsetof(struct mmu_slow, hpage)));
    e_load(e, 1, DC, GS(dc_home));
    fill_caller(e);
    from_c_stack(e);
}

/* eax = MMU_ANS_FAULT or MMU_ANS_EXCLUSIVE, which equal their exit reasons. */
static void leave_access(struct emit *e, const struct stubs *s)
{
    spill_callee(e);
    e_rr(e, 0, 0x85, H_AX, H_AX);
    e_jcc(e, CC_E, s->exception);
    leave(e);
}

static void emit_mem_staged(struct emit *e, const struct stubs *s, bool delta, void *helper)
{
    spill_caller(e);
    take_vpage(e);
    e_store(e, 1, GS(dc_home), DC);
    to_c_stack(e, 32);
    e_mov_rr(e, 0, H_DX, H_10);
    call_helper_mem(e, helper);
    e_mov_rr(e, 0, H_CX, H_AX);
    e_alu_ri(e, 0, ALU_SUB, H_CX, MMU_ANS_DIRECT); /* 0 direct, 1 staged; below or above: out */
    e_store(e, 0, GS(staged), H_CX);
    e_alu_ri(e, 0, ALU_CMP, H_CX, 1);
    uint8_t *out = e_jcc_fwd(e, CC_A);
    load_answer(e, delta);
    e_ret(e);
    e_patch(out, e->p);
    leave_access(e, s);
}

/* ---- across privilege levels ---- */

/* The lowest return address for code under mmu index idx, as emit_enter leaves it. Uses r10. */
static void push_bottom(struct emit *e, const struct stubs *s, unsigned idx)
{
    e_mov_ri64(e, T1, (uint64_t)(uintptr_t)s->ret_miss[idx == MMU_SU ? MMU_S : idx]);
    e_push(e, T1);
}

/* Guest registers are in their homes, eax is what a helper answered: 0, or 1 + exit reason. On the C stack.
 */
static void emit_go_on(struct emit *e, const struct stubs *s)
{
    e_rr(e, 0, 0x85, H_AX, H_AX);
    uint8_t *out = e_jcc_fwd(e, CC_NE);
    fill_caller(e);
    fill_callee(e);
    e_load(e, 1, T0, GS(rip));
    e_rm0f(e, 0, 0xb6, T1, GS(mmu_idx)); /* MOVZX */
    e_alu_ri(e, 0, ALU_CMP, T1, MMU_U);
    e_jcc(e, CC_B, s->cross[MMU_S]);
    e_jcc(e, CC_E, s->cross[MMU_U]);
    e_jmp(e, s->cross[MMU_SU]);
    e_patch(out, e->p);
    e_alu_ri(e, 0, ALU_SUB, H_AX, 1);
    leave(e);
}

/* eax = 1 + exit reason. On the C stack. */
static void emit_left(struct emit *e, const struct stubs *s)
{
    e_alu_ri(e, 0, ALU_SUB, H_AX, 1);
    e_jcc(e, CC_E, s->exception);
    leave(e);
}

/* An exception is pending, guest registers are in their homes. On the C stack. */
static void emit_exception(struct emit *e, const struct stubs *s)
{
    e_load(e, 1, H_DI, GS(self));
    call_c(e, (void *)(uintptr_t)helper_exception);
    e_jmp(e, s->go_on);
}

static void emit_transfer(struct emit *e, const struct stubs *s)
{
    spill_caller(e);
    spill_callee(e);
    take_vpage(e);
    to_c_stack(e, 0);
    e_load(e, 1, H_DI, GS(self));
    e_mov_rr(e, 0, H_SI, H_10);
    call_c(e, (void *)(uintptr_t)helper_transfer);
    e_jmp(e, s->go_on);
}

/* RFLAGS = r9d, as cpu_set_rflags. Uses r9, r10. */
static void store_rflags(struct emit *e)
{
    e_mov_rr(e, 0, T1, T0);
    e_alu_ri(e, 0, ALU_AND, T1, 0x3fffff & ~(int32_t)FL_STATUS);
    e_alu_ri(e, 0, ALU_OR, T1, FL_1);
    e_store(e, 0, GS(rflags), T1);
    e_mov_rr(e, 0, T1, T0);
    e_alu_ri(e, 0, ALU_AND, T1, 0xd5);
    e_shl_ri(e, 0, T1, 8);
    e_shr_ri(e, 0, T0, 11);
    e_alu_ri(e, 0, ALU_AND, T0, 1);
    e_alu_rr(e, 0, ALU_OR, T1, T0);
    e_alu_ri(e, 0, ALU_OR, T1, 0x200);
    e_byte(e, 0x66);
    e_store(e, 0, GS(fl), T1);
}

/* CS = r10w and SS = r11w, the flat segments of 64-bit code at cpl: set_flat in sys_call.c. Uses r9. */
static void store_flat(struct emit *e, unsigned cpl)
{
    const uint64_t limit = 0xffffffffu;
    e_shl_ri(e, 1, H_10, 48);
    e_shr_ri(e, 1, H_10, 16);
    e_mov_ri64(e, T0, limit | (uint64_t)SYS_FLAT_CODE(cpl, SEG_L) << 48);
    e_alu_rr(e, 1, ALU_OR, H_10, T0);
    e_store(e, 1, GS(seg[S_CS].limit), H_10);
    e_shl_ri(e, 1, H_11, 48);
    e_shr_ri(e, 1, H_11, 16);
    e_mov_ri64(e, T0, limit | (uint64_t)SYS_FLAT_DATA(cpl) << 48);
    e_alu_rr(e, 1, ALU_OR, H_11, T0);
    e_store(e, 1, GS(seg[S_SS].limit), H_11);
    e_store_imm32(e, 1, GS(seg[S_CS].base), 0);
    e_store_imm32(e, 1, GS(seg[S_SS].base), 0);
    e_rm(e, 0, 0xc6, 0, GS(cpl));
    e_byte(e, cpl);
    e_rm(e, 0, 0xc6, 0, GS(mmu_idx));
    e_byte(e, cpl ? MMU_U : MMU_S);
}

/* sys_syscall, from 64-bit code at CPL 3 and into code without TF and AC; the rest goes to C. What the user's
 * calls have on the return stack stays there below what the kernel may use. */
static void emit_syscall(struct emit *e, const struct stubs *s)
{
    e_rm(e, 0, 0xf7, 0, GS(efer)); /* TEST */
    e_u32(e, EFER_SCE);
    e_jcc(e, CC_E, s->transfer);
    e_store(e, 1, GS(scratch), T0);
    e_stored_rflags(e, H_11, T0);
    e_load(e, 0, T0, GS(fmask));
    e_rr(e, 0, 0xf7, 2, T0); /* NOT */
    e_alu_rr(e, 0, ALU_AND, T0, H_11);
    e_rr(e, 0, 0xf7, 0, T0); /* TEST */
    e_u32(e, FL_TF | FL_AC);
    e_jcc(e, CC_NE, s->transfer);
    e_store(e, 1, gs_gpr(R_11), H_11);
    e_load(e, 1, H_CX, GS(scratch));
    store_rflags(e);
    e_rm0f(e, 0, 0xb7, H_10, hm_cpu(offsetof(struct tcpu, star) + 4)); /* MOVZX */
    e_alu_ri(e, 0, ALU_AND, H_10, 0xfffc);
    e_lea(e, 0, H_11, hm_base(H_10, 8));
    store_flat(e, 0);
    e_load(e, 1, T1, GS(return_base));
    e_push(e, T1);
    e_store(e, 1, GS(return_base), H_SP);
    push_bottom(e, s, MMU_S);
    e_load(e, 1, T0, GS(lstar));
    e_jmp(e, s->lookup[MMU_S]);
}

/* sys_sysret to 64-bit code, without TF and AC, if no interrupt has waited for it and
 * that code is not to run directly. */
static void emit_sysret64(struct emit *e, const struct stubs *s)
{
    e_rm(e, 0, 0xf7, 0, GS(efer)); /* TEST */
    e_u32(e, EFER_SCE);
    e_jcc(e, CC_E, s->transfer);
    e_load(e, 0, T0, GS(intr_deferred));
    e_alu_rm(e, 0, ALU_OR, T0, GS(direct_wish));
    e_rm0f(e, 0, 0xb6, H_11, GS(cpl)); /* MOVZX */
    e_alu_rr(e, 0, ALU_OR, T0, H_11);
    e_jcc(e, CC_NE, s->transfer);
    e_mov_rr(e, 1, T0, H_CX);
    e_shl_ri(e, 1, T0, 16);
    e_rr(e, 1, 0xc1, 7, T0); /* SAR: canonical? */
    e_byte(e, 16);
    e_alu_rr(e, 1, ALU_CMP, T0, H_CX);
    e_jcc(e, CC_NE, s->transfer);
    e_load(e, 0, T0, gs_gpr(R_11));
    e_alu_ri(e, 0, ALU_AND, T0, SYS_SYSRET_FLAGS);
    e_rr(e, 0, 0xf7, 0, T0); /* TEST */
    e_u32(e, FL_TF | FL_AC);
    e_jcc(e, CC_NE, s->transfer);
    store_rflags(e);
    e_rm0f(e, 0, 0xb7, H_10, hm_cpu(offsetof(struct tcpu, star) + 6)); /* MOVZX */
    e_lea(e, 0, H_11, hm_base(H_10, 8));
    e_alu_ri(e, 0, ALU_ADD, H_10, 16);
    e_alu_ri(e, 0, ALU_OR, H_10, 3);
    e_alu_ri(e, 0, ALU_OR, H_11, 3);
    store_flat(e, 3);
    e_mov_rr(e, 1, T0, H_CX);
    e_load(e, 1, H_SP, GS(return_base));
    e_alu_rm(e, 1, ALU_CMP, H_SP, GS(return_top));
    e_jcc(e, CC_E, s->cross[MMU_U]);
    e_pop(e, T1);
    e_store(e, 1, GS(return_base), T1);
    e_jmp(e, s->lookup[MMU_U]);
}

static void emit_crossings(struct emit *e, struct stubs *s)
{
    for (unsigned idx = 0; idx < MMU_COUNT; idx++) {
        s->cross[idx] = start(e);
        e_load(e, 1, H_SP, GS(return_top));
        e_store(e, 1, GS(return_base), H_SP);
        push_bottom(e, s, idx);
        e_jmp(e, s->lookup[idx]);
    }
    s->go_on = start(e);
    emit_go_on(e, s);
    s->exception = start(e);
    emit_exception(e, s);
    s->left = start(e);
    emit_left(e, s);
    s->transfer = start(e);
    emit_transfer(e, s);
    s->syscall = start(e);
    emit_syscall(e, s);
    s->sysret64 = start(e);
    emit_sysret64(e, s);
}

/* How a call of a slow path describes itself: in data behind the call, or in the immediate operand of the
 * instruction there. The values are how many bytes behind the call that is. */
enum desc_place { DESC_DATA = 0, DESC_TEST_EAX = 1, DESC_MOV_R9D = 2 };

/* edx = the MMU_DESC behind the call. */
static void load_inline_desc(struct emit *e, enum desc_place where)
{
    e_load(e, 1, H_DX, GS(jit_rsp));
    e_load(e, 1, H_DX, hm_base(H_DX, 0));
    e_load(e, 0, H_DX, hm_base(H_DX, where));
}

static void emit_slow(struct emit *e, const struct stubs *s, bool write, bool delta, enum desc_place where)
{
    spill_caller(e);
    e_store(e, 1, GS(dc_home), DC);
    to_c_stack(e, 32);
    load_inline_desc(e, where);
    call_helper_mem(e, (void *)(uintptr_t)helper_mem);
    e_alu_ri(e, 0, ALU_CMP, H_AX, MMU_ANS_DIRECT);
    uint8_t *out = e_jcc_fwd(e, CC_NE);
    const uint8_t *good = e->p;
    load_answer(e, delta);
    if (where == DESC_DATA)
        e_alu_mi(e, 1, ALU_ADD, hm_base(H_SP, 0), 4);
    e_ret(e);
    e_patch(out, e->p);
    e_alu_ri(e, 0, ALU_CMP, H_AX, MMU_ANS_STAGED);
    if (write) {
        uint8_t *other = e_jcc_fwd(e, CC_NE);
        e_mov_ri32(e, H_AX, XIT_ONE);
        e_patch(other, e->p);
    } else {
        e_jcc(e, CC_E, good + e->rx_off);
    }
    leave_access(e, s);
}

/* Behind the call of a group's stub stands its description, which is skipped without touching ZF. */
static void leave_group(struct emit *e, enum desc_place where)
{
    if (where == DESC_DATA) {
        e_load(e, 1, H_9, hm_base(H_SP, 0));
        e_lea(e, 1, H_9, hm_base(H_9, 4));
        e_store(e, 1, hm_base(H_SP, 0), H_9);
    }
    e_ret(e);
}

/* ZF: r10 is the delta; else (and then it is "above") the group cannot be made. */
static void emit_group(struct emit *e, enum desc_place where)
{
    /* A stretch that crosses a page is no matter for C: stacks do it often. "Above" if it does. */
    e_store(e, 1, GS(scratch[6]), H_9);
    e_load(e, 1, H_10, hm_base(H_SP, 0));
    e_load(e, 0, H_10, hm_base(H_10, where));
    e_shr_ri(e, 0, H_10, 13);
    e_alu_ri(e, 0, ALU_AND, H_10, 0x1fff); /* MMU_DESC_LEN */
    e_alu_ri(e, 0, ALU_AND, H_9, PAGE_SIZE - 1);
    e_alu_rr(e, 0, ALU_ADD, H_9, H_10);
    e_alu_ri(e, 0, ALU_CMP, H_9, PAGE_SIZE);
    uint8_t *crosses = e_jcc_fwd(e, CC_A);
    e_load(e, 1, H_9, GS(scratch[6]));
    spill_caller(e);
    e_store(e, 1, GS(dc_home), DC);
    to_c_stack(e, 32);
    load_inline_desc(e, where);
    call_helper_mem(e, (void *)(uintptr_t)helper_group);
    e_rr(e, 0, 0x85, H_AX, H_AX);
    load_answer(e, true);
    e_patch(crosses, e->p);
    leave_group(e, where);
}

/* r9 = the linear address again: the tag is where the check found it. */
static void emit_slow_front(struct emit *e, bool write, unsigned idx, const uint8_t *common)
{
    size_t tag = write ? offsetof(struct tlb_entry, tag_w) : offsetof(struct tlb_entry, tag_r);
    e_alu_rm(e, 1, ALU_XOR, T0, hm_tlb(idx, tag));
    e_jmp(e, common);
}

/* The same for groups. Those that begin with a read and go on with writes often meet a page that is there for
 * reading only, as after a fork, and C would find no more. */
static void emit_group_front(struct emit *e, enum group_kind kind, unsigned idx, enum desc_place where,
                             const uint8_t *common)
{
    if (kind == GROUP_R_THEN_W) {
        e_alu_rm(e, 1, ALU_XOR, T0, hm_tlb(idx, offsetof(struct tlb_entry, tag_w)));
        e_alu_rm(e, 1, ALU_XOR, T0, hm_tlb(idx, offsetof(struct tlb_entry, tag_r)));
        e_alu_ri(e, 1, ALU_CMP, T0, PAGE_SIZE);
        uint8_t *elsewhere = e_jcc_fwd(e, CC_AE);
        e_mov_ri32(e, H_9, 1);
        e_alu_ri(e, 0, ALU_CMP, H_9, 0);
        leave_group(e, where);
        e_patch(elsewhere, e->p);
        e_alu_rm(e, 1, ALU_XOR, T0, hm_tlb(idx, offsetof(struct tlb_entry, tag_r)));
        e_jmp(e, common);
    } else {
        emit_slow_front(e, kind == GROUP_W, idx, common);
    }
}

static void emit_call(struct emit *e, const struct stubs *s, void *fn, bool keep_flags)
{
    spill_caller(e);
    spill_callee(e);
    if (keep_flags)
        capture_flags(e);
    take_vpage(e);
    e_store(e, 1, GS(dc_home), DC);
    to_c_stack(e, 0);
    e_load(e, 1, H_DI, hm_cpu(offsetof(struct tcpu, self)));
    e_mov_rr(e, 0, H_SI, H_10);
    call_c(e, fn);
    from_c_stack(e);
    e_rr(e, 0, 0x85, H_AX, H_AX);
    uint8_t *out = e_jcc_fwd(e, CC_NE);
    if (keep_flags) {
        e_rm0f(e, 0, 0xb7, H_AX, hm_cpu(offsetof(struct tcpu, exit_fl)));
        e_add_al_7f(e);
        e_sahf(e);
    }
    e_load(e, 1, DC, GS(dc_home));
    fill_caller(e);
    fill_callee(e);
    e_ret(e);
    e_patch(out, e->p);
    to_c_stack(e, 0);
    e_jmp(e, s->left);
}

static void emit_save_flags(struct emit *e, struct stubs *s)
{
    s->save_flags = start(e);
    e_store(e, 1, GS(scratch[7]), H_AX);
    e_lahf(e);
    e_seto_al(e);
    e_byte(e, 0x66);
    e_store(e, 0, GS(fl), H_AX);
    e_load(e, 1, H_AX, GS(scratch[7]));
    e_ret(e);
    s->save_flags_r10 = start(e);
    e_save_flags(e);
    e_ret(e);
}

static void emit_slow_paths(struct emit *e, struct stubs *s)
{
    for (unsigned write = 0; write < 2; write++) {
        for (unsigned delta = 0; delta < 2; delta++) {
            const uint8_t *common = start(e);
            emit_slow(e, s, write, delta, DESC_DATA);
            for (unsigned idx = 0; idx < MMU_COUNT; idx++) {
                s->slow[write][idx][delta] = start(e);
                emit_slow_front(e, write, idx, common);
            }
        }
    }
    const uint8_t *common = start(e);
    emit_group(e, DESC_DATA);
    for (unsigned kind = 0; kind < GROUP_KINDS; kind++) {
        for (unsigned idx = 0; idx < MMU_COUNT; idx++) {
            s->slow_group[kind][idx] = start(e);
            emit_group_front(e, kind, idx, DESC_DATA, common);
        }
    }
}

/* A check that many places share: as trans_mem.c and trans_group.c have it in line. A miss goes on behind it.
 */
static void emit_check(struct emit *e, unsigned n, bool write, unsigned idx, bool delta)
{
    size_t tag = write ? offsetof(struct tlb_entry, tag_w) : offsetof(struct tlb_entry, tag_r);
    e_mov_rr(e, 1, T1, T0);
    e_shr_ri(e, 1, T1, 12 - 5);
    e_alu_ri(e, 0, ALU_AND, T1, (TLB_SIZE - 1) << 5);
    e_alu_rm(e, 1, ALU_XOR, T0, hm_tlb(idx, tag));
    e_alu_ri(e, 1, ALU_CMP, T0, (int32_t)(PAGE_SIZE - n));
    uint8_t *miss = e_jcc_fwd(e, CC_A);
    e_load(e, 1, T1,
           hm_tlb(idx, delta ? offsetof(struct tlb_entry, delta) : offsetof(struct tlb_entry, hpage)));
    e_ret(e);
    e_patch(miss, e->p);
}

static void emit_checks(struct emit *e, struct stubs *s)
{
    for (unsigned write = 0; write < 2; write++) {
        for (unsigned delta = 0; delta < 2; delta++) {
            const uint8_t *slow = start(e);
            emit_slow(e, s, write, delta, DESC_TEST_EAX);
            for (unsigned i = 0; i < CHECK_SIZES * MMU_COUNT; i++) {
                unsigned size = i / MMU_COUNT, idx = i % MMU_COUNT;
                s->check[size][write][idx][delta] = start(e);
                emit_check(e, 1u << size, write, idx, delta);
                emit_slow_front(e, write, idx, slow);
            }
        }
    }
    const uint8_t *slow = start(e);
    emit_group(e, DESC_MOV_R9D);
    for (unsigned i = 0; i < CHECK_SPANS * GROUP_KINDS * MMU_COUNT; i++) {
        unsigned span = i / (GROUP_KINDS * MMU_COUNT), kind = i / MMU_COUNT % GROUP_KINDS,
                 idx = i % MMU_COUNT;
        s->check_group[span][kind][idx] = start(e);
        emit_check(e, CHECK_SPAN(span), kind != GROUP_R, idx, true);
        emit_group_front(e, kind, idx, DESC_MOV_R9D, slow);
    }
    s->checks_end = start(e);
}

void stubs_emit(struct code_cache *cc)
{
    struct emit em = { .p = cc->mem.rw,
                       .end = (uint8_t *)cc->mem.rw + 6 * PAGE_SIZE,
                       .rx_off = (uint8_t *)cc->mem.rx - (uint8_t *)cc->mem.rw };
    struct emit *e = &em;
    struct stubs *s = &cc->stubs;
    s->exit_lookup = start(e);
    emit_exit(e, XIT_LOOKUP);
    s->exit_branch = start(e);
    emit_exit(e, XIT_BRANCH);
    s->exit_link = start(e);
    emit_exit(e, XIT_LINK);
    s->exit_fixed_link = start(e);
    emit_exit(e, XIT_FIXED_LINK);
    for (unsigned idx = 0; idx < MMU_COUNT; idx++) {
        emit_lookups(e, s, idx);
        s->lookup_branch[idx] = start(e);
        emit_lookup_branch(e, idx, s->exit_branch);
        s->ret_miss[idx] = start(e);
        emit_ret_miss(e, idx, s->exit_branch);
        s->enter[idx] = (void (*)(struct tcpu *, const void *))(uintptr_t)start(e);
        emit_enter(e, idx, s->exit_branch);
    }
    emit_crossings(e, s);
    s->exit_poll = start(e);
    emit_exit(e, XIT_POLL);
    s->signal = start(e);
    emit_exit(e, XIT_SIGNAL);
    s->stale = start(e);
    e_pop(e, H_10);
    emit_exit(e, XIT_STALE);
    s->mem_staged_h = start(e);
    emit_mem_staged(e, s, false, (void *)(uintptr_t)helper_mem);
    s->mem_staged_d = start(e);
    emit_mem_staged(e, s, true, (void *)(uintptr_t)helper_mem);
    s->mem_masked_h = start(e);
    emit_mem_staged(e, s, false, (void *)(uintptr_t)helper_masked);
    s->mem_masked_d = start(e);
    emit_mem_staged(e, s, true, (void *)(uintptr_t)helper_masked);
    emit_slow_paths(e, s);
    emit_checks(e, s);
    emit_save_flags(e, s);
    s->commit = start(e);
    emit_call(e, s, (void *)(uintptr_t)helper_commit, true);
    s->interp = start(e);
    emit_call(e, s, (void *)(uintptr_t)helper_interp, false);
    s->special = start(e);
    emit_call(e, s, (void *)(uintptr_t)helper_special, false);
    BUG_ON(em.full);
    cc->stub_len = align_up((size_t)(em.p - (uint8_t *)cc->mem.rw), 64);
}
