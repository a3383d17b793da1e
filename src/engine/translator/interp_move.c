/* Data movement of the general path. Source: Intel SDM volume 2 (2023-12), by mnemonic. */
#include "engine/translator/interp_ops.h"

/* 88 to 8b */
enum step op_mov(struct tcpu *c, struct insn *i)
{
    unsigned size = op_size(i);
    uint64_t v;
    if (!(i->op & 2))
        return step_of(rm_set(c, i, size, reg_get(c, i, i->reg, size)));
    if (!rm_get(c, i, size, &v))
        return STEP_FAULT;
    reg_set(c, i, i->reg, size, v);
    return STEP_NEXT;
}

/* c6 c7 */
enum step op_mov_imm(struct tcpu *c, struct insn *i)
{
    if (i->reg & 7) /* XABORT, XBEGIN: no transactional memory */
        return step_fault(c, EXC_UD);
    return step_of(rm_set(c, i, op_size(i), i->imm));
}

/* b0 to bf */
enum step op_mov_reg_imm(struct tcpu *c, struct insn *i)
{
    unsigned n = (i->op & 7) | ((i->rex & 1u) << 3);
    reg_set(c, i, n, i->op & 8 ? i->opsize : 1, i->imm);
    return STEP_NEXT;
}

/* a0 to a3 */
enum step op_mov_moffs(struct tcpu *c, struct insn *i)
{
    unsigned size = op_size(i);
    uint64_t v;
    if (i->op & 2)
        return step_of(rm_set(c, i, size, c->gpr[R_AX]));
    if (!rm_get(c, i, size, &v))
        return STEP_FAULT;
    gpr_set(c, R_AX, size, v);
    return STEP_NEXT;
}

/* 8c: memory gets 16 bits whatever the operand size */
enum step op_mov_from_seg(struct tcpu *c, struct insn *i)
{
    unsigned n = i->reg & 7;
    if (n > S_GS)
        return step_fault(c, EXC_UD);
    return step_of(rm_set(c, i, i->is_mem ? 2 : i->opsize, c->seg[n].sel));
}

/* 8e */
enum step op_mov_to_seg(struct tcpu *c, struct insn *i)
{
    unsigned n = i->reg & 7;
    uint64_t v;
    if (n > S_GS || n == S_CS)
        return step_fault(c, EXC_UD);
    return step_of(rm_get(c, i, 2, &v) && sys_load_seg(c, n, (uint16_t)v));
}

/* c4 LES, c5 LDS, 0f b2 LSS, b4 LFS, b5 LGS */
enum step op_load_far(struct tcpu *c, struct insn *i)
{
    unsigned seg = i->map == MAP_ONE ? (i->op == 0xc4 ? S_ES : S_DS) : (i->op & 7u);
    uint64_t off, sel;
    if (!i->is_mem)
        return step_fault(c, EXC_UD);
    if (!mem_read(c, i->seg, i->ea, i->opsize, &off) ||
        !mem_read(c, i->seg, cut(i->ea + i->opsize, i->adsize), 2, &sel) ||
        !sys_load_seg(c, seg, (uint16_t)sel))
        return STEP_FAULT;
    gpr_set(c, i->reg, i->opsize, off);
    return STEP_NEXT;
}

enum step op_lea(struct tcpu *c, struct insn *i)
{
    if (!i->is_mem)
        return step_fault(c, EXC_UD);
    gpr_set(c, i->reg, i->opsize, i->ea);
    return STEP_NEXT;
}

/* 86 87: locked with or without the prefix when an operand is in memory */
enum step op_xchg(struct tcpu *c, struct insn *i)
{
    struct rmw m;
    i->lock = true;
    if (!rmw_begin(c, i, op_size(i), &m))
        return STEP_FAULT;
    uint64_t v = reg_get(c, i, i->reg, m.size);
    if (!i->is_mem)
        reg_set(c, i, i->reg, m.size, m.old);
    while (rmw_end(c, i, &m, v)) {
    }
    if (m.fault)
        return STEP_FAULT;
    if (i->is_mem)
        reg_set(c, i, i->reg, m.size, m.old);
    return STEP_NEXT;
}

/* 90 to 97. 90 without REX.B is NOP (PAUSE): it does not clear the upper half of RAX. With F3 Intel's ignore
 * REX.B and pause, AMD's ignore F3 and exchange. */
enum step op_xchg_acc(struct tcpu *c, struct insn *i)
{
    unsigned n = (i->op & 7) | ((i->rex & 1u) << 3);
    if (n == R_AX || (i->op == 0x90 && i->rep == 0xf3 && !cpu_model(c)->is_amd)) {
        if (i->rep == 0xf3)
            __builtin_ia32_pause();
        return STEP_NEXT;
    }
    uint64_t v = c->gpr[n];
    gpr_set(c, n, i->opsize, c->gpr[R_AX]);
    gpr_set(c, R_AX, i->opsize, v);
    return STEP_NEXT;
}

/* 0f b6 b7 MOVZX, be bf MOVSX */
enum step op_extend(struct tcpu *c, struct insn *i)
{
    unsigned from = i->op & 1 ? 2 : 1;
    uint64_t v;
    if (!rm_get(c, i, from, &v))
        return STEP_FAULT;
    gpr_set(c, i->reg, i->opsize, i->op & 8 ? (uint64_t)sext(v, from) : v);
    return STEP_NEXT;
}

/* 63: ARPL, in 64-bit mode MOVSXD. With a 16-bit operand size MOVSXD reads 16 bits on Intel, 32 on AMD. */
enum step op_movsxd_arpl(struct tcpu *c, struct insn *i)
{
    uint64_t v;
    if (cpu_code64(c)) {
        if (!rm_get(c, i, i->opsize == 2 && !cpu_model(c)->is_amd ? 2 : 4, &v))
            return STEP_FAULT;
        gpr_set(c, i->reg, i->opsize, (uint64_t)sext(v, 4));
        return STEP_NEXT;
    }
    if (cpu_real_mode(c) || cpu_v86(c))
        return step_fault(c, EXC_UD);
    if (!rm_get(c, i, 2, &v))
        return STEP_FAULT;
    uint64_t rpl = c->gpr[i->reg] & 3;
    bool lower = (v & 3) < rpl;
    if (lower && !rm_set(c, i, 2, (v & ~3ull) | rpl))
        return STEP_FAULT;
    flag_put(c, F_ZF, lower);
    return STEP_NEXT;
}

/* 98 CBW CWDE CDQE, 99 CWD CDQ CQO */
enum step op_convert(struct tcpu *c, struct insn *i)
{
    unsigned size = i->opsize;
    if (i->op == 0x98)
        gpr_set(c, R_AX, size, (uint64_t)sext(c->gpr[R_AX], size / 2));
    else
        gpr_set(c, R_DX, size, sext(c->gpr[R_AX], size) < 0 ? ~0ull : 0);
    return STEP_NEXT;
}

/* 0f 40 to 4f: the source is read, and the upper half cleared, whatever the condition */
enum step op_cmov(struct tcpu *c, struct insn *i)
{
    uint64_t v;
    if (!rm_get(c, i, i->opsize, &v))
        return STEP_FAULT;
    gpr_set(c, i->reg, i->opsize, cond_holds(c, i->op & 15) ? v : c->gpr[i->reg]);
    return STEP_NEXT;
}

enum step op_setcc(struct tcpu *c, struct insn *i)
{
    return step_of(rm_set(c, i, 1, cond_holds(c, i->op & 15)));
}

/* 0f c8 to cf. A 16-bit operand gives 0 on every CPU known, though undefined. */
enum step op_bswap(struct tcpu *c, struct insn *i)
{
    unsigned n = (i->op & 7) | ((i->rex & 1u) << 3);
    uint64_t v = __builtin_bswap64(c->gpr[n]);
    gpr_set(c, n, i->opsize, i->opsize == 8 ? v : i->opsize == 4 ? v >> 32 : 0);
    return STEP_NEXT;
}

/* 0f c3: a store; the weaker ordering is no obligation */
enum step op_movnti(struct tcpu *c, struct insn *i)
{
    if (!i->is_mem || i->rep || i->p66)
        return step_fault(c, EXC_UD);
    return step_of(mem_write(c, i->seg, i->ea, i->opsize, reg_get(c, i, i->reg, i->opsize)));
}

enum step op_xlat(struct tcpu *c, struct insn *i)
{
    uint64_t v;
    unsigned seg = i->seg_over == SEG_NONE ? S_DS : i->seg_over;
    if (!mem_read(c, seg, cut(c->gpr[R_BX] + (uint8_t)c->gpr[R_AX], i->adsize), 1, &v))
        return STEP_FAULT;
    gpr_set(c, R_AX, 1, v);
    return STEP_NEXT;
}
