/* The general path of the translator: one guest instruction in C.
 *
 * Theory of operation. Whatever the translator does not emit code for, it hands to interp_step: real-mode and
 * 16-bit code, privileged and rare instructions, and every instruction that must run once under closer watch.
 * So this path alone can run any integer code in any mode, and being right matters more here than being fast.
 *
 *  - decode: interp_decode.c turns the bytes at c->rip into a struct insn; one pass, no state changed.
 *  - dispatch: two tables below name a handler by opcode; the three-byte maps are a switch.
 *  - operands: interp_mem.c checks segments and reaches memory, in one host access when aligned.
 *  - compute: interp_alu.c and interp_bits.c run the host's own instruction with the guest's flags loaded, so
 *    that results and flags are the host's by construction, the officially undefined ones included.
 *  - commit: only after the last check that could fault; then interp_step moves rip on.
 *
 * The rest by topic: interp_move.c data movement, interp_string.c strings, interp_flow.c stack and branches,
 * interp_sys.c system instructions (privilege checks; behaviour is in sys_*.c). x87, MMX, SSE and AVX are not
 * here: their state is live in the host's registers, so the translator runs them natively (STEP_UNKNOWN).
 *
 * Threads: a vCPU's own thread only. Not done: alignment checks (#AC) and the virtual-8086 extensions (VME,
 * PVI), which no CPUID of ours offers. TF is the caller's: it looks at RFLAGS before the step and raises #DB
 * after it (also after STEP_AGAIN: a repeated string instruction does one element per step then). */
#include "engine/translator/interp.h"
#include "engine/translator/interp_ops.h"

typedef enum step insn_fn(struct tcpu *c, struct insn *i);

/* clang-format off */
static insn_fn *const one_byte[256] = {
    [0x00 ... 0x05] = op_alu, [0x06] = op_push_seg, [0x07] = op_pop_seg,
    [0x08 ... 0x0d] = op_alu, [0x0e] = op_push_seg,
    [0x10 ... 0x15] = op_alu, [0x16] = op_push_seg, [0x17] = op_pop_seg,
    [0x18 ... 0x1d] = op_alu, [0x1e] = op_push_seg, [0x1f] = op_pop_seg,
    [0x20 ... 0x25] = op_alu, [0x27] = op_ascii,
    [0x28 ... 0x2d] = op_alu, [0x2f] = op_ascii,
    [0x30 ... 0x35] = op_alu, [0x37] = op_ascii,
    [0x38 ... 0x3d] = op_alu, [0x3f] = op_ascii,
    [0x40 ... 0x4f] = op_incdec_reg, [0x50 ... 0x57] = op_push_reg, [0x58 ... 0x5f] = op_pop_reg,
    [0x60] = op_pusha, [0x61] = op_popa, [0x62] = op_bound, [0x63] = op_movsxd_arpl,
    [0x68] = op_push_imm, [0x69] = op_imul, [0x6a] = op_push_imm, [0x6b] = op_imul,
    [0x6c ... 0x6f] = op_string, [0x70 ... 0x7f] = op_jcc,
    [0x80 ... 0x83] = op_group1, [0x84 ... 0x85] = op_test, [0x86 ... 0x87] = op_xchg,
    [0x88 ... 0x8b] = op_mov, [0x8c] = op_mov_from_seg, [0x8d] = op_lea, [0x8e] = op_mov_to_seg,
    [0x8f] = op_pop_rm,
    [0x90 ... 0x97] = op_xchg_acc, [0x98 ... 0x99] = op_convert, [0x9a] = op_far_imm,
    [0x9c] = op_pushf, [0x9d] = op_popf, [0x9e ... 0x9f] = op_lahf_sahf,
    [0xa0 ... 0xa3] = op_mov_moffs, [0xa4 ... 0xa7] = op_string, [0xa8 ... 0xa9] = op_test,
    [0xaa ... 0xaf] = op_string, [0xb0 ... 0xbf] = op_mov_reg_imm,
    [0xc0 ... 0xc1] = op_shift, [0xc2 ... 0xc3] = op_ret, [0xc4 ... 0xc5] = op_load_far,
    [0xc6 ... 0xc7] = op_mov_imm,
    [0xc8] = op_enter, [0xc9] = op_leave, [0xca ... 0xcb] = op_far_ret, [0xcc ... 0xce] = op_int,
    [0xcf] = op_iret,
    [0xd0 ... 0xd3] = op_shift, [0xd4 ... 0xd5] = op_ascii, [0xd6] = op_flag_bits, [0xd7] = op_xlat,
    [0xe0 ... 0xe3] = op_loop, [0xe4 ... 0xe7] = op_in_out, [0xe8] = op_call, [0xe9] = op_jmp,
    [0xea] = op_far_imm,
    [0xeb] = op_jmp, [0xec ... 0xef] = op_in_out,
    [0xf1] = op_int, [0xf4] = op_hlt, [0xf5] = op_flag_bits, [0xf6 ... 0xf7] = op_group3,
    [0xf8 ... 0xf9] = op_flag_bits, [0xfa ... 0xfb] = op_cli_sti, [0xfc ... 0xfd] = op_flag_bits,
    [0xfe] = op_group4, [0xff] = op_group5,
};

static insn_fn *const two_byte[256] = {
    [0x00] = op_group6, [0x01] = op_group7, [0x02 ... 0x03] = op_lar_lsl, [0x05] = op_syscall,
    [0x06] = op_clts,
    [0x07] = op_syscall, [0x08 ... 0x09] = op_cache, [0x0d] = op_nop_rm, [0x18 ... 0x1f] = op_nop_rm,
    [0x20] = op_mov_cr, [0x21] = op_mov_dr, [0x22] = op_mov_cr, [0x23] = op_mov_dr,
    [0x30] = op_msr, [0x31] = op_rdtsc, [0x32] = op_msr, [0x33] = op_rdpmc, [0x34 ... 0x35] = op_syscall,
    [0x40 ... 0x4f] = op_cmov, [0x80 ... 0x8f] = op_jcc, [0x90 ... 0x9f] = op_setcc,
    [0xa0] = op_push_seg, [0xa1] = op_pop_seg, [0xa2] = op_cpuid, [0xa3] = op_bit_test,
    [0xa4 ... 0xa5] = op_shiftd,
    [0xa8] = op_push_seg, [0xa9] = op_pop_seg, [0xab] = op_bit_test, [0xac ... 0xad] = op_shiftd,
    [0xae] = op_group15, [0xaf] = op_imul,
    [0xb0 ... 0xb1] = op_cmpxchg, [0xb2] = op_load_far, [0xb3] = op_bit_test, [0xb4 ... 0xb5] = op_load_far,
    [0xb6 ... 0xb7] = op_extend, [0xb8] = op_bit_scan, [0xba ... 0xbb] = op_bit_test,
    [0xbc ... 0xbd] = op_bit_scan,
    [0xbe ... 0xbf] = op_extend, [0xc0 ... 0xc1] = op_xadd, [0xc3] = op_movnti, [0xc7] = op_group9,
    [0xc8 ... 0xcf] = op_bswap,
};
/* clang-format on */

/* 0f 38: what the decoder lets through */
static insn_fn *three_byte(const struct insn *i)
{
    if (i->vex)
        return i->map == MAP_0F38 ? op_bmi : op_rorx;
    switch (i->op) {
    case 0x80 ... 0x82: return op_invpcid;
    case 0xf0:
    case 0xf1: return op_crc32_movbe;
    case 0xf6: return op_adx;
    default: return NULL;
    }
}

enum step interp_step(struct tcpu *c)
{
    struct insn i;
    enum step s = insn_decode(c, &i);
    if (s != STEP_NEXT)
        return s;
    insn_fn *fn = i.map == MAP_ONE ? one_byte[i.op] : i.map == MAP_0F ? two_byte[i.op] : three_byte(&i);
    if (unlikely(!fn)) {
        cpu_raise(c, EXC_UD);
        return STEP_FAULT;
    }
    s = fn(c, &i);
    if ((s == STEP_NEXT || s == STEP_HALT) && !i.rip_done) {
        c->rip = i.next_rip;
        c->rflags &= ~FL_RF;
    }
    return s;
}
