/* What the files of the general path share: registers, memory operands, the read-modify-write cycle, native
 * ALU primitives and the handlers that interp.c dispatches to. All light. */
#ifndef TRANSLATOR_INTERP_OPS_H
#define TRANSLATOR_INTERP_OPS_H

#include "engine/translator/interp_decode.h"
#include "engine/translator/interp.h"
#include "engine/translator/mmu.h"
#include "engine/translator/sys.h"

/* A handler runs one decoded instruction. On STEP_NEXT and STEP_HALT interp_step sets c->rip to i->next_rip,
 * unless the handler has set i->rip_done. On STEP_FAULT no register, flag or c->rip has changed (a repeated
 * string instruction excepted: it has finished the elements before the faulting one). STEP_FAULT without a
 * pending exception is mmu_cmpxchg's wish to run the instruction again alone (c->need_exclusive). */
enum step op_alu(struct tcpu *c, struct insn *i);
enum step op_group1(struct tcpu *c, struct insn *i);
enum step op_test(struct tcpu *c, struct insn *i);
enum step op_incdec_reg(struct tcpu *c, struct insn *i);
enum step op_group3(struct tcpu *c, struct insn *i);
enum step op_group4(struct tcpu *c, struct insn *i);
enum step op_group5(struct tcpu *c, struct insn *i);
enum step op_xadd(struct tcpu *c, struct insn *i);
enum step op_cmpxchg(struct tcpu *c, struct insn *i);
enum step op_cmpxchg8b(struct tcpu *c, struct insn *i);
enum step op_ascii(struct tcpu *c, struct insn *i);
enum step op_flag_bits(struct tcpu *c, struct insn *i);
enum step op_lahf_sahf(struct tcpu *c, struct insn *i);

enum step op_shift(struct tcpu *c, struct insn *i);
enum step op_shiftd(struct tcpu *c, struct insn *i);
enum step op_imul(struct tcpu *c, struct insn *i);
enum step op_bit_test(struct tcpu *c, struct insn *i);
enum step op_bit_scan(struct tcpu *c, struct insn *i);
enum step op_crc32_movbe(struct tcpu *c, struct insn *i);
enum step op_adx(struct tcpu *c, struct insn *i);
enum step op_bmi(struct tcpu *c, struct insn *i);
enum step op_rorx(struct tcpu *c, struct insn *i);
enum step op_muldiv(struct tcpu *c, struct insn *i); /* group 3, /4 to /7 */

enum step op_mov(struct tcpu *c, struct insn *i);
enum step op_mov_imm(struct tcpu *c, struct insn *i);
enum step op_mov_reg_imm(struct tcpu *c, struct insn *i);
enum step op_mov_moffs(struct tcpu *c, struct insn *i);
enum step op_mov_from_seg(struct tcpu *c, struct insn *i);
enum step op_mov_to_seg(struct tcpu *c, struct insn *i);
enum step op_load_far(struct tcpu *c, struct insn *i);
enum step op_lea(struct tcpu *c, struct insn *i);
enum step op_xchg(struct tcpu *c, struct insn *i);
enum step op_xchg_acc(struct tcpu *c, struct insn *i);
enum step op_extend(struct tcpu *c, struct insn *i);
enum step op_movsxd_arpl(struct tcpu *c, struct insn *i);
enum step op_convert(struct tcpu *c, struct insn *i);
enum step op_cmov(struct tcpu *c, struct insn *i);
enum step op_setcc(struct tcpu *c, struct insn *i);
enum step op_bswap(struct tcpu *c, struct insn *i);
enum step op_movnti(struct tcpu *c, struct insn *i);
enum step op_xlat(struct tcpu *c, struct insn *i);

enum step op_string(struct tcpu *c, struct insn *i);

enum step op_push_reg(struct tcpu *c, struct insn *i);
enum step op_pop_reg(struct tcpu *c, struct insn *i);
enum step op_push_imm(struct tcpu *c, struct insn *i);
enum step op_push_seg(struct tcpu *c, struct insn *i);
enum step op_pop_seg(struct tcpu *c, struct insn *i);
enum step op_pop_rm(struct tcpu *c, struct insn *i);
enum step op_pusha(struct tcpu *c, struct insn *i);
enum step op_popa(struct tcpu *c, struct insn *i);
enum step op_pushf(struct tcpu *c, struct insn *i);
enum step op_popf(struct tcpu *c, struct insn *i);
enum step op_enter(struct tcpu *c, struct insn *i);
enum step op_leave(struct tcpu *c, struct insn *i);
enum step op_jcc(struct tcpu *c, struct insn *i);
enum step op_jmp(struct tcpu *c, struct insn *i);
enum step op_call(struct tcpu *c, struct insn *i);
enum step op_ret(struct tcpu *c, struct insn *i);
enum step op_loop(struct tcpu *c, struct insn *i);
enum step op_branch_rm(struct tcpu *c, struct insn *i); /* group 5, /2 to /6 */
enum step op_far_imm(struct tcpu *c, struct insn *i);
enum step op_far_ret(struct tcpu *c, struct insn *i);
enum step op_int(struct tcpu *c, struct insn *i);
enum step op_iret(struct tcpu *c, struct insn *i);
enum step op_bound(struct tcpu *c, struct insn *i);

enum step op_in_out(struct tcpu *c, struct insn *i);
enum step op_cli_sti(struct tcpu *c, struct insn *i);
enum step op_hlt(struct tcpu *c, struct insn *i);
enum step op_group6(struct tcpu *c, struct insn *i);
enum step op_group7(struct tcpu *c, struct insn *i);
enum step op_lar_lsl(struct tcpu *c, struct insn *i);
enum step op_syscall(struct tcpu *c, struct insn *i);
enum step op_clts(struct tcpu *c, struct insn *i);
enum step op_cache(struct tcpu *c, struct insn *i);
enum step op_mov_cr(struct tcpu *c, struct insn *i);
enum step op_mov_dr(struct tcpu *c, struct insn *i);
enum step op_msr(struct tcpu *c, struct insn *i);
enum step op_rdtsc(struct tcpu *c, struct insn *i);
enum step op_rdpmc(struct tcpu *c, struct insn *i);
enum step op_cpuid(struct tcpu *c, struct insn *i);
enum step op_group15(struct tcpu *c, struct insn *i);
enum step op_group9(struct tcpu *c, struct insn *i);
enum step op_invpcid(struct tcpu *c, struct insn *i);
enum step op_nop(struct tcpu *c, struct insn *i);
enum step op_nop_rm(struct tcpu *c, struct insn *i);

static inline bool watch_ok(struct tcpu *c, uint64_t lin, unsigned size, bool write)
{
    return likely(!c->watch) || sys_watch_access(c, lin, size, write);
}

/* ---- results ---- */
static inline enum step step_fault(struct tcpu *c, unsigned vector)
{
    cpu_raise(c, vector);
    return STEP_FAULT;
}
static inline enum step step_gp(struct tcpu *c)
{
    cpu_raise_gp(c, 0);
    return STEP_FAULT;
}
static inline enum step step_of(bool ok)
{
    return ok ? STEP_NEXT : STEP_FAULT;
}

/* The handler's sys_* call sets c->rip. RF goes now: a fault's saved image gets it back, IRET loads it
 * itself. */
static inline void hand_over(struct tcpu *c, struct insn *i)
{
    i->rip_done = true;
    c->rflags &= ~FL_RF;
}

/* ---- registers ---- */
static inline uint64_t cut(uint64_t v, unsigned size)
{
    return size == 8 ? v : size == 4 ? (uint32_t)v : size == 2 ? (uint16_t)v : (uint8_t)v;
}
static inline int64_t sext(uint64_t v, unsigned size)
{
    return size == 8 ? (int64_t)v : size == 4 ? (int32_t)v : size == 2 ? (int16_t)v : (int8_t)v;
}
/* Value v in the low `size` bytes of register n: 4 clears the upper half, 1 and 2 keep the rest. */
static inline void gpr_set(struct tcpu *c, unsigned n, unsigned size, uint64_t v)
{
    if (size == 8)
        c->gpr[n] = v;
    else if (size == 4)
        c->gpr[n] = (uint32_t)v;
    else if (size == 2)
        c->gpr[n] = (c->gpr[n] & ~0xffffull) | (uint16_t)v;
    else
        c->gpr[n] = (c->gpr[n] & ~0xffull) | (uint8_t)v;
}
/* AH CH DH BH: byte registers 4 to 7 without REX. */
static inline bool reg_is_high(const struct insn *i, unsigned n, unsigned size)
{
    return size == 1 && !i->rex && (n & ~3u) == 4;
}
static inline uint64_t reg_get(const struct tcpu *c, const struct insn *i, unsigned n, unsigned size)
{
    if (unlikely(reg_is_high(i, n, size)))
        return (uint8_t)(c->gpr[n & 3] >> 8);
    return cut(c->gpr[n], size);
}
static inline void reg_set(struct tcpu *c, const struct insn *i, unsigned n, unsigned size, uint64_t v)
{
    if (unlikely(reg_is_high(i, n, size)))
        c->gpr[n & 3] = (c->gpr[n & 3] & ~0xff00ull) | ((v & 0xff) << 8);
    else
        gpr_set(c, n, size, v);
}
/* Operand size of the opcodes whose bit 0 tells byte from word. */
static inline unsigned op_size(const struct insn *i)
{
    return i->op & 1 ? i->opsize : 1;
}

/* ---- flags (layout of tcpu.fl) ---- */
#define F_OF 0x0001u
#define F_CF 0x0100u
#define F_PF 0x0400u
#define F_AF 0x1000u
#define F_ZF 0x4000u
#define F_SF 0x8000u

static inline void flag_put(struct tcpu *c, uint16_t mask, bool on)
{
    c->fl = (uint16_t)(on ? c->fl | mask : c->fl & ~mask);
}
/* Condition n of Jcc, SETcc and CMOVcc. */
bool cond_holds(const struct tcpu *c, unsigned n);

/* ---- memory (interp_mem.c) ---- */
/* size 1, 2, 4 or 8; one access when aligned. *v is zero-extended. */
bool mem_read(struct tcpu *c, unsigned seg, uint64_t off, unsigned size, uint64_t *v);
bool mem_write(struct tcpu *c, unsigned seg, uint64_t off, unsigned size, uint64_t v);
/* The ModRM operand. */
static inline bool rm_get(struct tcpu *c, const struct insn *i, unsigned size, uint64_t *v)
{
    if (i->is_mem)
        return mem_read(c, i->seg, i->ea, size, v);
    *v = reg_get(c, i, i->rm, size);
    return true;
}
static inline bool rm_set(struct tcpu *c, const struct insn *i, unsigned size, uint64_t v)
{
    if (i->is_mem)
        return mem_write(c, i->seg, i->ea, size, v);
    reg_set(c, i, i->rm, size, v);
    return true;
}

/* Read-modify-write of the ModRM operand:
 *     if (!rmw_begin(c, i, size, &m)) return STEP_FAULT;
 *     do { new = f(m.old) } while (rmw_end(c, i, &m, new));
 * rmw_begin proves write access, so that rmw_end cannot fail later for another reason than a page that
 * vanished: it returns true when a LOCKed exchange lost a race (m.old is fresh), and sets m.fault when it
 * faulted. */
struct rmw {
    uint64_t lin, old;
    void *ptr;
    unsigned size;
    bool fault;
};
bool rmw_begin(struct tcpu *c, const struct insn *i, unsigned size, struct rmw *m);
bool rmw_end(struct tcpu *c, const struct insn *i, struct rmw *m, uint64_t v);

/* ---- stack (interp_flow.c) ---- */
bool stack_push(struct tcpu *c, unsigned size, uint64_t v);

/* ---- native ALU primitives (interp_alu.c, interp_bits.c): the host computes result and flags, undefined
 * ones too ---- */
enum alu_op { ALU_ADD, ALU_OR, ALU_ADC, ALU_SBB, ALU_AND, ALU_SUB, ALU_XOR, ALU_CMP, ALU_TEST };
enum alu_unary { ALU_INC, ALU_DEC, ALU_NOT, ALU_NEG };
uint64_t alu_binary(enum alu_op op, unsigned size, uint64_t a, uint64_t b, uint16_t *fl);
uint64_t alu_unary(enum alu_unary op, unsigned size, uint64_t a, uint16_t *fl);

/* Around one native instruction: the guest's flags in AX (layout of tcpu.fl) to the host's flags and back. */
#define FLAGS_LOAD "addb $0x7f, %%al\n\tsahf\n\t"
#define FLAGS_SAVE "\n\tlahf\n\tseto %%al"

static inline const struct cpuid_model *cpu_model(const struct tcpu *c)
{
    return tvm_cpuid(c->vm);
}

#endif
