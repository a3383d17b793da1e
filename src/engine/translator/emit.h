/* Machine-code emitter: typed functions that append one host instruction each.
 *
 * The buffer is the writable alias of executable memory; code addresses in relative operands are computed for
 * the executable alias (rx = rw + rx_off). On overflow `full` is set and bytes are dropped; the caller checks
 * it once per block. */
#ifndef TRANSLATOR_EMIT_H
#define TRANSLATOR_EMIT_H

#include "util/base.h"

struct emit {
    uint8_t *p, *end;
    ptrdiff_t rx_off;
    bool full;
};

/* Host registers by encoding. */
enum {
    H_AX,
    H_CX,
    H_DX,
    H_BX,
    H_SP,
    H_BP,
    H_SI,
    H_DI,
    H_8,
    H_9,
    H_10,
    H_11,
    H_12,
    H_13,
    H_14,
    H_15,
    H_NONE = -1
};

struct hmem {
    int8_t base, index; /* H_NONE: absent */
    uint8_t scale;      /* 1, 2, 4, 8 */
    bool gs;
    int32_t disp;
};

static inline struct hmem hm_gs_disp(int32_t disp)
{
    return (struct hmem){ H_NONE, H_NONE, 1, true, disp };
}
static inline struct hmem hm_base(int base, int32_t disp)
{
    return (struct hmem){ (int8_t)base, H_NONE, 1, false, disp };
}
static inline struct hmem hm_index(int base, int index, unsigned scale, int32_t disp)
{
    return (struct hmem){ (int8_t)base, (int8_t)index, (uint8_t)scale, false, disp };
}

static inline void e_byte(struct emit *e, unsigned b)
{
    if (likely(e->p < e->end))
        *e->p++ = (uint8_t)b;
    else
        e->full = true;
}
static inline void e_u32(struct emit *e, uint32_t v)
{
    if (unlikely(e->p + 4 > e->end)) {
        e->full = true;
        return;
    }
    __builtin_memcpy(e->p, &v, 4);
    e->p += 4;
}
static inline void e_u64(struct emit *e, uint64_t v)
{
    e_u32(e, (uint32_t)v);
    e_u32(e, (uint32_t)(v >> 32));
}
static inline uint8_t *e_rx(const struct emit *e)
{
    return e->p + e->rx_off;
}

/* ModRM, SIB and displacement for a memory operand. disp8: a displacement of one byte is in bytes (EVEX has
 * it in units of its operand). */
static inline void e_modrm_mem_disp(struct emit *e, unsigned reg, struct hmem m, bool disp8)
{
    unsigned r = (reg & 7) << 3;
    if (m.base == H_NONE && m.index == H_NONE) {
        e_byte(e, r | 4);
        e_byte(e, 0x25);
        e_u32(e, (uint32_t)m.disp);
        return;
    }
    unsigned ss = m.scale == 8 ? 3 : m.scale == 4 ? 2 : m.scale == 2 ? 1 : 0;
    if (m.base == H_NONE) {
        e_byte(e, r | 4);
        e_byte(e, ss << 6 | (unsigned)(m.index & 7) << 3 | 5);
        e_u32(e, (uint32_t)m.disp);
        return;
    }
    unsigned b = (unsigned)m.base & 7;
    unsigned mod = m.disp == 0 && b != 5 ? 0 : disp8 && m.disp == (int8_t)m.disp ? 1 : 2;
    if (m.index == H_NONE && b != 4) {
        e_byte(e, mod << 6 | r | b);
    } else {
        e_byte(e, mod << 6 | r | 4);
        e_byte(e, ss << 6 | (m.index == H_NONE ? 4u : (unsigned)(m.index & 7)) << 3 | b);
    }
    if (mod == 1)
        e_byte(e, (uint8_t)m.disp);
    else if (mod == 2)
        e_u32(e, (uint32_t)m.disp);
}
static inline void e_modrm_mem(struct emit *e, unsigned reg, struct hmem m)
{
    e_modrm_mem_disp(e, reg, m, true);
}

static inline unsigned e_rex_mem(unsigned w, unsigned reg, struct hmem m)
{
    return 0x40 | w << 3 | (reg >> 3 & 1) << 2 | (m.index != H_NONE && m.index > 7 ? 2u : 0) |
           (m.base != H_NONE && m.base > 7 ? 1u : 0);
}

/* op reg, [m] with a one-byte opcode; w: 1 for 64-bit. */
static inline void e_rm(struct emit *e, unsigned w, unsigned op, unsigned reg, struct hmem m)
{
    if (m.gs)
        e_byte(e, 0x65);
    unsigned rex = e_rex_mem(w, reg, m);
    if (rex != 0x40)
        e_byte(e, rex);
    e_byte(e, op);
    e_modrm_mem(e, reg, m);
}
/* The same with a two-byte (0f) opcode. */
static inline void e_rm0f(struct emit *e, unsigned w, unsigned op, unsigned reg, struct hmem m)
{
    if (m.gs)
        e_byte(e, 0x65);
    unsigned rex = e_rex_mem(w, reg, m);
    if (rex != 0x40)
        e_byte(e, rex);
    e_byte(e, 0x0f);
    e_byte(e, op);
    e_modrm_mem(e, reg, m);
}
/* op with register operands in ModRM: reg field and rm field. */
static inline void e_rr(struct emit *e, unsigned w, unsigned op, unsigned reg, unsigned rm)
{
    unsigned rex = 0x40 | w << 3 | (reg >> 3 & 1) << 2 | (rm >> 3 & 1);
    if (rex != 0x40)
        e_byte(e, rex);
    e_byte(e, op);
    e_byte(e, 0xc0 | (reg & 7) << 3 | (rm & 7));
}

static inline void e_mov_rr(struct emit *e, unsigned w, int dst, int src)
{
    e_rr(e, w, 0x89, (unsigned)src, (unsigned)dst);
}
static inline void e_movzx16(struct emit *e, int dst, int src)
{
    if (dst > 7 || src > 7)
        e_byte(e, 0x40 | (dst > 7) << 2 | (src > 7));
    e_byte(e, 0x0f);
    e_byte(e, 0xb7);
    e_byte(e, 0xc0 | (unsigned)(dst & 7) << 3 | (src & 7));
}
static inline void e_load(struct emit *e, unsigned w, int dst, struct hmem m)
{
    e_rm(e, w, 0x8b, (unsigned)dst, m);
}
static inline void e_store(struct emit *e, unsigned w, struct hmem m, int src)
{
    e_rm(e, w, 0x89, (unsigned)src, m);
}
static inline void e_lea(struct emit *e, unsigned w, int dst, struct hmem m)
{
    e_rm(e, w, 0x8d, (unsigned)dst, m);
}
static inline void e_mov_ri32(struct emit *e, int dst, uint32_t imm) /* zero-extends */
{
    if (dst > 7)
        e_byte(e, 0x41);
    e_byte(e, 0xb8 | (unsigned)(dst & 7));
    e_u32(e, imm);
}
static inline void e_mov_ri64(struct emit *e, int dst, uint64_t imm)
{
    if (imm == (uint32_t)imm) {
        e_mov_ri32(e, dst, (uint32_t)imm);
    } else if ((int64_t)imm == (int32_t)imm) {
        e_rr(e, 1, 0xc7, 0, (unsigned)dst);
        e_u32(e, (uint32_t)imm);
    } else {
        e_byte(e, 0x48 | (dst > 7));
        e_byte(e, 0xb8 | (unsigned)(dst & 7));
        e_u64(e, imm);
    }
}
static inline void e_store_imm32(struct emit *e, unsigned w, struct hmem m, uint32_t imm)
{
    e_rm(e, w, 0xc7, 0, m);
    e_u32(e, imm);
}
enum { ALU_ADD, ALU_OR, ALU_ADC, ALU_SBB, ALU_AND, ALU_SUB, ALU_XOR, ALU_CMP };
static inline void e_alu_ri(struct emit *e, unsigned w, unsigned op, int dst, int32_t imm)
{
    bool small = imm == (int8_t)imm;
    e_rr(e, w, small ? 0x83 : 0x81, op, (unsigned)dst);
    if (small)
        e_byte(e, (uint8_t)imm);
    else
        e_u32(e, (uint32_t)imm);
}
static inline void e_alu_rr(struct emit *e, unsigned w, unsigned op, int dst, int src)
{
    e_rr(e, w, op << 3 | 1, (unsigned)src, (unsigned)dst);
}
static inline void e_alu_rm(struct emit *e, unsigned w, unsigned op, int dst, struct hmem m)
{
    e_rm(e, w, op << 3 | 3, (unsigned)dst, m);
}
static inline void e_alu_mi(struct emit *e, unsigned w, unsigned op, struct hmem m, int32_t imm)
{
    bool small = imm == (int8_t)imm;
    e_rm(e, w, small ? 0x83 : 0x81, op, m);
    if (small)
        e_byte(e, (uint8_t)imm);
    else
        e_u32(e, (uint32_t)imm);
}
static inline void e_rol_ri(struct emit *e, unsigned w, int dst, unsigned n)
{
    e_rr(e, w, 0xc1, 0, (unsigned)dst);
    e_byte(e, n);
}
static inline void e_shr_ri(struct emit *e, unsigned w, int dst, unsigned n)
{
    e_rr(e, w, 0xc1, 5, (unsigned)dst);
    e_byte(e, n);
}
/* RORX, VEX.LZ.F2.0F3A F0 /r ib (BMI2): no flags. */
static inline void e_rorx(struct emit *e, unsigned w, int dst, int src, unsigned n)
{
    e_byte(e, 0xc4);
    e_byte(e, (dst > 7 ? 0u : 0x80u) | 0x40u | (src > 7 ? 0u : 0x20u) | 3u);
    e_byte(e, w << 7 | 0x7b);
    e_byte(e, 0xf0);
    e_byte(e, 0xc0u | (unsigned)(dst & 7) << 3 | (unsigned)(src & 7));
    e_byte(e, n);
}
/* KMOVQ m64, k: VEX.L0.0F.W1 91 /r (AVX512BW) */
static inline void e_kmovq_store(struct emit *e, struct hmem m, unsigned k)
{
    if (m.gs)
        e_byte(e, 0x65);
    e_byte(e, 0xc4);
    e_byte(e, (m.index != H_NONE && m.index > 7 ? 0u : 0x40u) |
                  (m.base != H_NONE && m.base > 7 ? 0u : 0x20u) | 0x81u);
    e_byte(e, 0xf8);
    e_byte(e, 0x91);
    e_modrm_mem(e, k, m);
}
static inline void e_shl_ri(struct emit *e, unsigned w, int dst, unsigned n)
{
    e_rr(e, w, 0xc1, 4, (unsigned)dst);
    e_byte(e, n);
}

/* Branches. Relative targets are addresses in the executable alias; the _fwd forms return the place of a
 * 32-bit displacement to be given to e_patch when the target is known. */
static inline void e_rel32(struct emit *e, const void *target_rx)
{
    ptrdiff_t d = (const uint8_t *)target_rx - (e_rx(e) + 4);
    e_u32(e, (uint32_t)(int32_t)d);
}
static inline void e_jmp(struct emit *e, const void *target_rx)
{
    e_byte(e, 0xe9);
    e_rel32(e, target_rx);
}
static inline void e_call(struct emit *e, const void *target_rx)
{
    e_byte(e, 0xe8);
    e_rel32(e, target_rx);
}
static inline uint8_t *e_jmp_fwd(struct emit *e)
{
    e_byte(e, 0xe9);
    e_u32(e, 0);
    return e->p - 4;
}
enum {
    CC_O,
    CC_NO,
    CC_B,
    CC_AE,
    CC_E,
    CC_NE,
    CC_BE,
    CC_A,
    CC_S,
    CC_NS,
    CC_P,
    CC_NP,
    CC_L,
    CC_GE,
    CC_LE,
    CC_G
};
static inline uint8_t *e_jcc_fwd(struct emit *e, unsigned cc)
{
    e_byte(e, 0x0f);
    e_byte(e, 0x80 | cc);
    e_u32(e, 0);
    return e->p - 4;
}
static inline void e_jcc(struct emit *e, unsigned cc, const void *target_rx)
{
    e_byte(e, 0x0f);
    e_byte(e, 0x80 | cc);
    e_rel32(e, target_rx);
}
/* Both are in the writable alias. */
static inline void e_patch(uint8_t *disp, const uint8_t *target_rw)
{
    int32_t d = (int32_t)(target_rw - (disp + 4));
    __builtin_memcpy(disp, &d, 4);
}
static inline void e_jmp_mem(struct emit *e, struct hmem m)
{
    e_rm(e, 0, 0xff, 4, m);
}
static inline void e_jmp_reg(struct emit *e, int r)
{
    if (r > 7)
        e_byte(e, 0x41);
    e_byte(e, 0xff);
    e_byte(e, 0xe0 | (r & 7));
}
static inline void e_push(struct emit *e, int r)
{
    if (r > 7)
        e_byte(e, 0x41);
    e_byte(e, 0x50 | (unsigned)(r & 7));
}
static inline void e_pop(struct emit *e, int r)
{
    if (r > 7)
        e_byte(e, 0x41);
    e_byte(e, 0x58 | (unsigned)(r & 7));
}
static inline void e_ret(struct emit *e)
{
    e_byte(e, 0xc3);
}
static inline void e_lahf(struct emit *e)
{
    e_byte(e, 0x9f);
}
static inline void e_sahf(struct emit *e)
{
    e_byte(e, 0x9e);
}
static inline void e_seto_al(struct emit *e)
{
    e_byte(e, 0x0f), e_byte(e, 0x90), e_byte(e, 0xc0);
}
static inline void e_add_al_7f(struct emit *e)
{
    e_byte(e, 0x04), e_byte(e, 0x7f);
}
static inline void e_nop5(struct emit *e)
{
    e_byte(e, 0x0f), e_byte(e, 0x1f), e_byte(e, 0x44), e_byte(e, 0), e_byte(e, 0);
}
static inline void e_align(struct emit *e, unsigned a, unsigned fill)
{
    while ((uintptr_t)e->p & (a - 1)) {
        e_byte(e, fill);
        if (e->full)
            return;
    }
}

#endif
