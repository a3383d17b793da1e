/* Arithmetic and logic of the general path.
 *
 * The host's own instruction computes each result with the guest's flags loaded, so that result and flags are
 * the host CPU's by construction, flags that the manuals leave undefined included. BCD adjustments do not
 * exist in 64-bit mode; they follow the pseudo-code of Intel SDM volume 2 (2023-12). */
#include "engine/translator/interp_ops.h"

/* ---- native primitives ---- */

#define BINARY_AT(T, insn)                                                                                   \
    do {                                                                                                     \
        T d_ = (T)a;                                                                                         \
        __asm__(FLAGS_LOAD insn " %[s], %[d]" FLAGS_SAVE : "+a"(f), [d] "+r"(d_) : [s] "r"((T)b) : "cc");    \
        r = d_;                                                                                              \
    } while (0)
#define BINARY(insn)                                                                                         \
    do {                                                                                                     \
        if (size == 8)                                                                                       \
            BINARY_AT(uint64_t, insn);                                                                       \
        else if (size == 4)                                                                                  \
            BINARY_AT(uint32_t, insn);                                                                       \
        else if (size == 2)                                                                                  \
            BINARY_AT(uint16_t, insn);                                                                       \
        else                                                                                                 \
            BINARY_AT(uint8_t, insn);                                                                        \
    } while (0)

uint64_t alu_binary(enum alu_op op, unsigned size, uint64_t a, uint64_t b, uint16_t *fl)
{
    uint16_t f = *fl;
    uint64_t r = 0;
    switch (op) {
    case ALU_ADD: BINARY("add"); break;
    case ALU_OR: BINARY("or"); break;
    case ALU_ADC: BINARY("adc"); break;
    case ALU_SBB: BINARY("sbb"); break;
    case ALU_AND: BINARY("and"); break;
    case ALU_SUB: BINARY("sub"); break;
    case ALU_XOR: BINARY("xor"); break;
    case ALU_CMP: BINARY("cmp"); break;
    case ALU_TEST: BINARY("test"); break;
    }
    *fl = f;
    return r;
}

#define UNARY_AT(T, insn)                                                                                    \
    do {                                                                                                     \
        T d_ = (T)a;                                                                                         \
        __asm__(FLAGS_LOAD insn " %[d]" FLAGS_SAVE : "+a"(f), [d] "+r"(d_) : : "cc");                        \
        r = d_;                                                                                              \
    } while (0)
#define UNARY(insn)                                                                                          \
    do {                                                                                                     \
        if (size == 8)                                                                                       \
            UNARY_AT(uint64_t, insn);                                                                        \
        else if (size == 4)                                                                                  \
            UNARY_AT(uint32_t, insn);                                                                        \
        else if (size == 2)                                                                                  \
            UNARY_AT(uint16_t, insn);                                                                        \
        else                                                                                                 \
            UNARY_AT(uint8_t, insn);                                                                         \
    } while (0)

uint64_t alu_unary(enum alu_unary op, unsigned size, uint64_t a, uint16_t *fl)
{
    uint16_t f = *fl;
    uint64_t r = 0;
    switch (op) {
    case ALU_INC: UNARY("inc"); break;
    case ALU_DEC: UNARY("dec"); break;
    case ALU_NOT: UNARY("not"); break;
    case ALU_NEG: UNARY("neg"); break;
    }
    *fl = f;
    return r;
}

bool cond_holds(const struct tcpu *c, unsigned n)
{
    unsigned fl = c->fl;
    bool less = ((fl >> 15) ^ fl) & 1; /* SF != OF */
    bool r;
    switch ((n >> 1) & 7) {
    case 0: r = fl & F_OF; break;
    case 1: r = fl & F_CF; break;
    case 2: r = fl & F_ZF; break;
    case 3: r = fl & (F_CF | F_ZF); break;
    case 4: r = fl & F_SF; break;
    case 5: r = fl & F_PF; break;
    case 6: r = less; break;
    default: r = less || (fl & F_ZF); break;
    }
    return r != (n & 1);
}

/* ---- two operands ---- */

/* rm = rm op src, or flags alone for CMP. */
static enum step alu_to_rm(struct tcpu *c, struct insn *i, enum alu_op op, unsigned size, uint64_t src)
{
    struct rmw m;
    uint64_t r;
    uint16_t fl = c->fl;
    if (op == ALU_CMP || op == ALU_TEST) {
        if (!rm_get(c, i, size, &r))
            return STEP_FAULT;
        alu_binary(op, size, r, src, &c->fl);
        return STEP_NEXT;
    }
    if (!rmw_begin(c, i, size, &m))
        return STEP_FAULT;
    do {
        fl = c->fl;
        r = alu_binary(op, size, m.old, src, &fl);
    } while (rmw_end(c, i, &m, r));
    if (m.fault)
        return STEP_FAULT;
    c->fl = fl;
    return STEP_NEXT;
}

/* 00 to 3d: the eight operations in six forms. */
enum step op_alu(struct tcpu *c, struct insn *i)
{
    enum alu_op op = (enum alu_op)((i->op >> 3) & 7);
    unsigned size = op_size(i), dst = i->reg;
    uint64_t src;
    if ((i->op & 6) == 0)
        return alu_to_rm(c, i, op, size, reg_get(c, i, i->reg, size));
    if ((i->op & 6) == 4) {
        dst = R_AX;
        src = i->imm;
    } else if (!rm_get(c, i, size, &src)) {
        return STEP_FAULT;
    }
    uint64_t r = alu_binary(op, size, reg_get(c, i, dst, size), src, &c->fl);
    if (op != ALU_CMP)
        reg_set(c, i, dst, size, r);
    return STEP_NEXT;
}

enum step op_group1(struct tcpu *c, struct insn *i)
{
    return alu_to_rm(c, i, (enum alu_op)(i->reg & 7), op_size(i), i->imm);
}

/* 84, 85, a8, a9 */
enum step op_test(struct tcpu *c, struct insn *i)
{
    unsigned size = op_size(i);
    if (i->op < 0xa8)
        return alu_to_rm(c, i, ALU_TEST, size, reg_get(c, i, i->reg, size));
    alu_binary(ALU_TEST, size, reg_get(c, i, R_AX, size), i->imm, &c->fl);
    return STEP_NEXT;
}

/* ---- one operand ---- */

static enum step unary_rm(struct tcpu *c, struct insn *i, enum alu_unary op)
{
    struct rmw m;
    uint64_t r;
    uint16_t fl;
    if (!rmw_begin(c, i, op_size(i), &m))
        return STEP_FAULT;
    do {
        fl = c->fl;
        r = alu_unary(op, m.size, m.old, &fl);
    } while (rmw_end(c, i, &m, r));
    if (m.fault)
        return STEP_FAULT;
    c->fl = fl;
    return STEP_NEXT;
}

/* 40 to 4f outside 64-bit mode */
enum step op_incdec_reg(struct tcpu *c, struct insn *i)
{
    unsigned n = i->op & 7;
    uint64_t r = alu_unary(i->op & 8 ? ALU_DEC : ALU_INC, i->opsize, c->gpr[n], &c->fl);
    gpr_set(c, n, i->opsize, r);
    return STEP_NEXT;
}

enum step op_group3(struct tcpu *c, struct insn *i)
{
    switch (i->reg & 7) {
    case 0:
    case 1: return alu_to_rm(c, i, ALU_TEST, op_size(i), i->imm);
    case 2: return unary_rm(c, i, ALU_NOT);
    case 3: return unary_rm(c, i, ALU_NEG);
    default: return op_muldiv(c, i);
    }
}

enum step op_group4(struct tcpu *c, struct insn *i)
{
    if ((i->reg & 7) > 1)
        return step_fault(c, EXC_UD);
    return unary_rm(c, i, i->reg & 1 ? ALU_DEC : ALU_INC);
}

enum step op_group5(struct tcpu *c, struct insn *i)
{
    if ((i->reg & 7) <= 1)
        return op_group4(c, i);
    return op_branch_rm(c, i);
}

/* ---- exchange forms ---- */

enum step op_xadd(struct tcpu *c, struct insn *i)
{
    struct rmw m;
    uint16_t fl;
    uint64_t r;
    if (!rmw_begin(c, i, op_size(i), &m))
        return STEP_FAULT;
    uint64_t src = reg_get(c, i, i->reg, m.size);
    do {
        fl = c->fl;
        r = alu_binary(ALU_ADD, m.size, m.old, src, &fl);
        if (!i->is_mem) /* the destination is written last: it wins when both are one register */
            reg_set(c, i, i->reg, m.size, m.old);
    } while (rmw_end(c, i, &m, r));
    if (m.fault)
        return STEP_FAULT;
    if (i->is_mem)
        reg_set(c, i, i->reg, m.size, m.old);
    c->fl = fl;
    return STEP_NEXT;
}

enum step op_cmpxchg(struct tcpu *c, struct insn *i)
{
    struct rmw m;
    uint16_t fl;
    bool equal;
    if (!rmw_begin(c, i, op_size(i), &m))
        return STEP_FAULT;
    uint64_t src = reg_get(c, i, i->reg, m.size), acc = reg_get(c, i, R_AX, m.size), old;
    do {
        fl = c->fl;
        old = m.old;
        alu_binary(ALU_CMP, m.size, acc, old, &fl);
        equal = (fl & F_ZF) != 0;
        /* rmw_begin has proved write access; writing the old value back would only widen a race of unlocked
         * code */
        if (!equal && !i->lock)
            break;
    } while (rmw_end(c, i, &m, equal ? src : old));
    if (m.fault)
        return STEP_FAULT;
    if (!equal)
        reg_set(c, i, R_AX, m.size, old);
    c->fl = fl;
    return STEP_NEXT;
}

/* 0f c7 /1: CMPXCHG8B, CMPXCHG16B. Atomic with or without LOCK. */
enum step op_cmpxchg8b(struct tcpu *c, struct insn *i)
{
    unsigned half = i->opsize == 8 ? 8 : 4;
    uint64_t lin, expect[2] = { c->gpr[R_AX], c->gpr[R_DX] }, want[2] = { c->gpr[R_BX], c->gpr[R_CX] };
    bool swapped = false;
    bool fits = seg_linear(c, i->seg, i->ea, 2 * half, MMU_WRITE, &lin);
    /* The alignment that it must have comes before the one that AC asks for; to AMD's before all else. */
    if (half == 8 && (lin & 15) && (fits || cpu_model(c)->is_amd))
        return step_gp(c);
    if (!fits || !watch_ok(c, lin, 2 * half, true))
        return STEP_FAULT;
    if (half == 4) {
        expect[0] = (uint32_t)expect[0] | expect[1] << 32;
        want[0] = (uint32_t)want[0] | want[1] << 32;
    }
    if (!mmu_cmpxchg(c, lin, 2 * half, expect, want, &swapped))
        return STEP_FAULT;
    if (!swapped) {
        gpr_set(c, R_AX, half, expect[0]);
        gpr_set(c, R_DX, half, half == 8 ? expect[1] : expect[0] >> 32);
    }
    flag_put(c, F_ZF, swapped);
    return STEP_NEXT;
}

/* ---- BCD: not in 64-bit mode ---- */

/* The manuals leave some flags undefined here. Where they do, the flags are those that processors were seen
 * to give: AMD's of family 19h as if the adjustment were one addition or subtraction, Intel's (Sapphire
 * Rapids) those of the result in AL, OF clear. */
static uint16_t bcd_result_flags(const struct tcpu *c, uint16_t fl)
{
    if (!tvm_cpuid(c->vm)->is_amd)
        alu_binary(ALU_OR, 1, c->gpr[R_AX], 0, &fl);
    return fl;
}

static void bcd_carries(struct tcpu *c, uint16_t fl, bool cf, bool af)
{
    c->fl = (uint16_t)((fl & ~(F_CF | F_AF)) | (cf ? F_CF : 0) | (af ? F_AF : 0));
}

static void bcd_daa_das(struct tcpu *c, bool sub)
{
    uint8_t al = (uint8_t)c->gpr[R_AX], adjust = 0;
    bool cf = c->fl & F_CF, af = c->fl & F_AF, new_cf = false;
    uint16_t fl = 0;
    if ((al & 15) > 9 || af) {
        new_cf = cf || (sub ? al < 6 : al > 0xf9);
        adjust = 6;
        af = true;
    }
    if (al > 0x99 || cf) {
        adjust = (uint8_t)(adjust + 0x60);
        new_cf = true;
    }
    gpr_set(c, R_AX, 1, alu_binary(sub ? ALU_SUB : ALU_ADD, 1, al, adjust, &fl));
    bcd_carries(c, bcd_result_flags(c, fl), new_cf, af);
}

static void bcd_aaa_aas(struct tcpu *c, bool sub)
{
    uint16_t ax = (uint16_t)c->gpr[R_AX], fl = 0;
    bool adjust = (ax & 15) > 9 || (c->fl & F_AF);
    uint64_t r = alu_binary(sub ? ALU_SUB : ALU_ADD, 2, ax, adjust ? 0x106 : 0, &fl);
    gpr_set(c, R_AX, 2, r & 0xff0fu);
    bcd_carries(c, bcd_result_flags(c, fl), adjust, adjust);
}

/* 27 2f 37 3f d4 d5 */
enum step op_ascii(struct tcpu *c, struct insn *i)
{
    uint8_t base = (uint8_t)i->imm, al = (uint8_t)c->gpr[R_AX], ah = (uint8_t)(c->gpr[R_AX] >> 8);
    uint16_t fl = 0;
    switch (i->op) {
    case 0x27:
    case 0x2f: bcd_daa_das(c, i->op == 0x2f); break;
    case 0x37:
    case 0x3f: bcd_aaa_aas(c, i->op == 0x3f); break;
    case 0xd4:
        if (!base)
            return step_fault(c, EXC_DE);
        gpr_set(c, R_AX, 2, (uint64_t)((al / base) << 8 | al % base));
        alu_binary(ALU_TEST, 1, c->gpr[R_AX], 0xff, &fl);
        bcd_carries(c, fl, false, false);
        break;
    default: gpr_set(c, R_AX, 2, alu_binary(ALU_ADD, 1, al, (uint8_t)(ah * base), &c->fl)); break;
    }
    return STEP_NEXT;
}

/* ---- single flags ---- */

/* f5 CMC, f8 CLC, f9 STC, fc CLD, fd STD, d6 SALC */
enum step op_flag_bits(struct tcpu *c, struct insn *i)
{
    switch (i->op) {
    case 0xf5: c->fl ^= F_CF; break;
    case 0xf8: c->fl &= (uint16_t)~F_CF; break;
    case 0xf9: c->fl |= F_CF; break;
    case 0xfc: c->rflags &= ~FL_DF; break;
    case 0xfd: c->rflags |= FL_DF; break;
    default: gpr_set(c, R_AX, 1, c->fl & F_CF ? 0xff : 0); break;
    }
    return STEP_NEXT;
}

enum step op_lahf_sahf(struct tcpu *c, struct insn *i)
{
    uint64_t ax = c->gpr[R_AX];
    if (i->op == 0x9e)
        c->fl = (uint16_t)((ax & 0xd500) | 0x200 | (c->fl & F_OF));
    else
        gpr_set(c, R_AX, 2, (ax & 0xff) | (c->fl & 0xd700u));
    return STEP_NEXT;
}
