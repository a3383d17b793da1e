/* Stack and control transfers of the general path.
 * Source: Intel SDM volume 2 (2023-12), by mnemonic; volume 1 section 6.2 (stack width). AMD APM volume 3 for
 * near branches with an operand-size prefix in 64-bit mode.
 *
 * Order in each: read all, check all, store, and only then change registers. */
#include "engine/translator/interp_ops.h"

/* ---- stack ---- */

/* Bytes of the stack pointer that count. */
static unsigned stack_width(const struct tcpu *c)
{
    if (cpu_code64(c))
        return 8;
    return c->seg[S_SS].attr & SEG_DB ? 4 : 2;
}

static void stack_set(struct tcpu *c, uint64_t sp)
{
    gpr_set(c, R_SP, stack_width(c), sp);
}

/* The slot `delta` bytes from SP. */
static uint64_t stack_at(const struct tcpu *c, uint64_t delta)
{
    return cut(c->gpr[R_SP] + delta, stack_width(c));
}

static bool stack_read(struct tcpu *c, uint64_t delta, unsigned size, uint64_t *v)
{
    return mem_read(c, S_SS, stack_at(c, delta), size, v);
}

bool stack_push(struct tcpu *c, unsigned size, uint64_t v)
{
    uint64_t sp = stack_at(c, 0 - (uint64_t)size);
    if (!mem_write(c, S_SS, sp, size, v))
        return false;
    stack_set(c, sp);
    return true;
}

/* 50 to 57 */
enum step op_push_reg(struct tcpu *c, struct insn *i)
{
    unsigned n = (i->op & 7) | ((i->rex & 1u) << 3);
    return step_of(stack_push(c, i->opsize, c->gpr[n]));
}

/* 58 to 5f. POP SP: the value from the stack wins over the increment. */
enum step op_pop_reg(struct tcpu *c, struct insn *i)
{
    unsigned n = (i->op & 7) | ((i->rex & 1u) << 3);
    uint64_t v;
    if (!stack_read(c, 0, i->opsize, &v))
        return STEP_FAULT;
    stack_set(c, c->gpr[R_SP] + i->opsize);
    gpr_set(c, n, i->opsize, v);
    return STEP_NEXT;
}

enum step op_push_imm(struct tcpu *c, struct insn *i)
{
    return step_of(stack_push(c, i->opsize, i->imm));
}

/* 06 0e 16 1e, 0f a0, 0f a8 */
static unsigned seg_of_opcode(const struct insn *i)
{
    if (i->map == MAP_0F)
        return i->op & 8 ? S_GS : S_FS;
    return (i->op >> 3) & 3;
}

/* With a 32-bit operand Intel's write the selector's 16 bits and leave the rest of the word as it was (SDM
 * volume 2, PUSH); AMD's write zeros there. */
enum step op_push_seg(struct tcpu *c, struct insn *i)
{
    if (i->opsize == 4 && !cpu_model(c)->is_amd) {
        uint64_t sp = stack_at(c, 0 - 4ull);
        if (!mem_write(c, S_SS, sp, 2, c->seg[seg_of_opcode(i)].sel))
            return STEP_FAULT;
        stack_set(c, sp);
        return STEP_NEXT;
    }
    return step_of(stack_push(c, i->opsize, c->seg[seg_of_opcode(i)].sel));
}

enum step op_pop_seg(struct tcpu *c, struct insn *i)
{
    uint64_t v, sp = c->gpr[R_SP] + i->opsize;
    unsigned width = stack_width(c); /* of the old SS */
    if (!stack_read(c, 0, i->opsize, &v) || !sys_load_seg(c, seg_of_opcode(i), (uint16_t)v))
        return STEP_FAULT;
    gpr_set(c, R_SP, width, sp);
    return STEP_NEXT;
}

/* 8f /0: an address by (E/R)SP counts with the incremented register */
enum step op_pop_rm(struct tcpu *c, struct insn *i)
{
    uint64_t v;
    if (i->reg & 7)
        return step_fault(c, EXC_UD);
    if (i->base_is_sp)
        i->ea = cut(i->ea + i->opsize, i->adsize);
    if (!stack_read(c, 0, i->opsize, &v))
        return STEP_FAULT;
    if (!i->is_mem) {
        stack_set(c, c->gpr[R_SP] + i->opsize);
        reg_set(c, i, i->rm, i->opsize, v);
        return STEP_NEXT;
    }
    if (!mem_write(c, i->seg, i->ea, i->opsize, v))
        return STEP_FAULT;
    stack_set(c, c->gpr[R_SP] + i->opsize);
    return STEP_NEXT;
}

enum step op_pusha(struct tcpu *c, struct insn *i)
{
    unsigned size = i->opsize;
    for (unsigned n = 0; n < 8;
         n++) { /* what comes before a fault is stored (seen on both vendors' processors) */
        if (!mem_write(c, S_SS, stack_at(c, 0 - (uint64_t)(n + 1) * size), size, c->gpr[n]))
            return STEP_FAULT;
    }
    stack_set(c, c->gpr[R_SP] - 8ull * size);
    return STEP_NEXT;
}

/* Registers that come before a fault have changed (seen on both vendors' processors). */
enum step op_popa(struct tcpu *c, struct insn *i)
{
    uint64_t v[8];
    unsigned n = 0;
    bool ok = true;
    while (n < 8 && (ok = stack_read(c, n * i->opsize, i->opsize, &v[n])))
        n++;
    for (unsigned k = 0; k < n; k++) {
        if (k != 7 - R_SP)
            gpr_set(c, 7 - k, i->opsize, v[k]);
    }
    if (!ok)
        return STEP_FAULT;
    stack_set(c, c->gpr[R_SP] + 8ull * i->opsize);
    return STEP_NEXT;
}

/* Without VME, virtual-8086 code below IOPL 3 may not touch the flags image. */
enum step op_pushf(struct tcpu *c, struct insn *i)
{
    if (cpu_v86(c) && cpu_iopl(c) < 3)
        return step_gp(c);
    return step_of(stack_push(c, i->opsize, cpu_rflags(c) & ~(uint64_t)(FL_VM | FL_RF)));
}

enum step op_popf(struct tcpu *c, struct insn *i)
{
    uint64_t v, old = cpu_rflags(c), mask = FL_STATUS | FL_TF | FL_DF | FL_NT;
    if (cpu_v86(c) && cpu_iopl(c) < 3)
        return step_gp(c);
    if (!stack_read(c, 0, i->opsize, &v))
        return STEP_FAULT;
    if (i->opsize > 2)
        mask |= FL_AC | FL_ID;
    if (c->cpl == 0)
        mask |= FL_IF | FL_IOPL;
    else if (c->cpl <= cpu_iopl(c))
        mask |= FL_IF;
    if (i->opsize > 2 && !cpu_v86(c))
        old &= ~(uint64_t)(FL_VIF | FL_VIP);
    uint64_t now = (old & ~mask) | (v & mask);
    stack_set(c, c->gpr[R_SP] + i->opsize);
    cpu_set_rflags(c, now);
    if ((old ^ now) & (FL_AC | FL_TF))
        sys_mode_changed(c);
    return STEP_NEXT;
}

/* c8. A fault in the middle may leave stores below the stack pointer, as on a CPU; no register has changed
 * then. */
enum step op_enter(struct tcpu *c, struct insn *i)
{
    unsigned size = i->opsize, width = stack_width(c), level = i->sel & 31;
    uint64_t v, down = size, bp = c->gpr[R_BP], lin;
    uint64_t frame = stack_at(c, 0 - down);
    if (!mem_write(c, S_SS, frame, size, bp))
        return STEP_FAULT;
    for (unsigned n = 1; n < level; n++) {
        bp -= size;
        down += size;
        if (!mem_read(c, S_SS, cut(bp, width), size, &v) ||
            !mem_write(c, S_SS, stack_at(c, 0 - down), size, v))
            return STEP_FAULT;
    }
    if (level) {
        down += size;
        if (!mem_write(c, S_SS, stack_at(c, 0 - down), size, frame))
            return STEP_FAULT;
    }
    down += i->imm;
    if (!seg_linear(c, S_SS, stack_at(c, 0 - down), size, MMU_WRITE, &lin))
        return STEP_FAULT;
    if ((c->watch & WATCH_ALIGN) && (lin & (size - 1)))
        return step_of(cpu_raise_error(c, EXC_AC, 0));
    if (!mmu_probe(c, lin, size, MMU_WRITE, MMU_AS_CPL))
        return STEP_FAULT;
    stack_set(c, c->gpr[R_SP] - down);
    gpr_set(c, R_BP, size < width ? size : width, frame);
    return STEP_NEXT;
}

enum step op_leave(struct tcpu *c, struct insn *i)
{
    unsigned width = stack_width(c);
    uint64_t v, bp = cut(c->gpr[R_BP], width);
    if (!mem_read(c, S_SS, bp, i->opsize, &v))
        return STEP_FAULT;
    stack_set(c, bp + i->opsize);
    gpr_set(c, R_BP, i->opsize, v);
    return STEP_NEXT;
}

/* ---- near transfers ---- */

/* Cuts *target to the operand size and checks it. */
static bool branch_ok(struct tcpu *c, const struct insn *i, uint64_t *target)
{
    *target = cut(*target, i->opsize);
    if (cpu_code64(c) ? cpu_canonical(*target) : *target <= c->seg[S_CS].limit)
        return true;
    return cpu_raise_gp(c, 0);
}

static enum step branch_to(struct tcpu *c, struct insn *i, uint64_t target)
{
    if (!branch_ok(c, i, &target))
        return STEP_FAULT;
    i->next_rip = target;
    return STEP_NEXT;
}

/* 70 to 7f, 0f 80 to 8f */
enum step op_jcc(struct tcpu *c, struct insn *i)
{
    if (!cond_holds(c, i->op & 15))
        return STEP_NEXT;
    return branch_to(c, i, i->next_rip + i->imm);
}

/* e9 eb */
enum step op_jmp(struct tcpu *c, struct insn *i)
{
    return branch_to(c, i, i->next_rip + i->imm);
}

/* Intel's 64-bit CALL has stored the return address, though not moved RSP, when it finds that the target is
 * not canonical; AMD's stores nothing, as the manuals have it, but has looked whether it could. */
static enum step call_to(struct tcpu *c, struct insn *i, uint64_t target)
{
    uint64_t sp = c->gpr[R_SP], lin;
    bool amd = tvm_cpuid(c->vm)->is_amd, push_first = cpu_code64(c) && !amd;
    if (cpu_code64(c) && amd &&
        (!interp_operand(c, S_SS, stack_at(c, 0 - (uint64_t)i->opsize), i->opsize, true, &lin) ||
         !mmu_probe(c, lin, i->opsize, MMU_WRITE, MMU_AS_CPL)))
        return STEP_FAULT;
    if (push_first && !stack_push(c, i->opsize, i->next_rip))
        return STEP_FAULT;
    if (!branch_ok(c, i, &target)) {
        c->gpr[R_SP] = sp;
        return STEP_FAULT;
    }
    if (!push_first && !stack_push(c, i->opsize, i->next_rip))
        return STEP_FAULT;
    i->next_rip = target;
    return STEP_NEXT;
}

enum step op_call(struct tcpu *c, struct insn *i)
{
    return call_to(c, i, i->next_rip + i->imm);
}

/* c2 c3 */
enum step op_ret(struct tcpu *c, struct insn *i)
{
    uint64_t target;
    if (!stack_read(c, 0, i->opsize, &target) || !branch_ok(c, i, &target))
        return STEP_FAULT;
    stack_set(c, c->gpr[R_SP] + i->opsize + i->imm);
    i->next_rip = target;
    return STEP_NEXT;
}

/* e0 LOOPNE, e1 LOOPE, e2 LOOP, e3 JCXZ */
enum step op_loop(struct tcpu *c, struct insn *i)
{
    uint64_t count = cut(c->gpr[R_CX], i->adsize);
    if (i->op == 0xe3)
        return count ? STEP_NEXT : branch_to(c, i, i->next_rip + i->imm);
    count = cut(count - 1, i->adsize);
    bool zf = (c->fl & F_ZF) != 0;
    if (count && !(i->op == 0xe0 && zf) && !(i->op == 0xe1 && !zf) &&
        branch_to(c, i, i->next_rip + i->imm) != STEP_NEXT)
        return STEP_FAULT;
    gpr_set(c, R_CX, i->adsize, count);
    return STEP_NEXT;
}

/* ---- far transfers ---- */

static enum step far_to(struct tcpu *c, struct insn *i, bool call, uint16_t sel, uint64_t off)
{
    hand_over(c, i);
    return call ? sys_far_call(c, sel, off, i->opsize, i->next_rip) : sys_far_jump(c, sel, off, i->opsize);
}

/* 9a CALL, ea JMP */
enum step op_far_imm(struct tcpu *c, struct insn *i)
{
    return far_to(c, i, i->op == 0x9a, i->sel, i->imm);
}

/* ff /2 to /6 */
enum step op_branch_rm(struct tcpu *c, struct insn *i)
{
    unsigned kind = i->reg & 7;
    uint64_t v, sel;
    if (kind == 7 || ((kind == 3 || kind == 5) && !i->is_mem))
        return step_fault(c, EXC_UD);
    if (!rm_get(c, i, i->opsize, &v))
        return STEP_FAULT;
    switch (kind) {
    case 2: return call_to(c, i, v);
    case 4: return branch_to(c, i, v);
    case 6: return step_of(stack_push(c, i->opsize, v));
    default:
        if (!mem_read(c, i->seg, cut(i->ea + i->opsize, i->adsize), 2, &sel))
            return STEP_FAULT;
        return far_to(c, i, kind == 3, (uint16_t)sel, v);
    }
}

/* ca cb */
enum step op_far_ret(struct tcpu *c, struct insn *i)
{
    hand_over(c, i);
    return sys_far_ret(c, i->opsize, (unsigned)i->imm);
}

/* cc INT3, cd INT n, ce INTO, f1 ICEBP */
enum step op_int(struct tcpu *c, struct insn *i)
{
    unsigned vector = i->op == 0xcc   ? EXC_BP
                      : i->op == 0xce ? EXC_OF
                      : i->op == 0xf1 ? EXC_DB
                                      : (uint8_t)i->imm;
    if (i->op == 0xce && !(c->fl & F_OF))
        return STEP_NEXT;
    hand_over(c, i);
    return sys_soft_interrupt(c, vector, i->len, i->op == 0xcd);
}

enum step op_iret(struct tcpu *c, struct insn *i)
{
    hand_over(c, i);
    return sys_iret(c, i->opsize);
}

/* 62: signed index against a pair of bounds. Intel's judge the lower one before they read the upper one. */
enum step op_bound(struct tcpu *c, struct insn *i)
{
    unsigned size = i->opsize;
    uint64_t lo, hi;
    int64_t v = sext(c->gpr[i->reg], size);
    if (!mem_read(c, i->seg, i->ea, size, &lo))
        return STEP_FAULT;
    if (v < sext(lo, size) && !cpu_model(c)->is_amd)
        return step_fault(c, EXC_BR);
    if (!mem_read(c, i->seg, cut(i->ea + size, i->adsize), size, &hi))
        return STEP_FAULT;
    if (v < sext(lo, size) || v > sext(hi, size))
        return step_fault(c, EXC_BR);
    return STEP_NEXT;
}
