/* Decoder of the general path: the bytes at c->rip to a struct insn. Light. */
#ifndef TRANSLATOR_INTERP_DECODE_H
#define TRANSLATOR_INTERP_DECODE_H

#include "engine/translator/cpu.h"

enum insn_map { MAP_ONE, MAP_0F, MAP_0F38, MAP_0F3A };

#define INSN_MAX 15    /* bytes; a longer one raises #GP(0) */
#define SEG_NONE 0xffu /* no segment override */

/* One decoded instruction. Register numbers have their REX or VEX extension in. */
struct insn {
    uint8_t bytes[24];  /* copied once from the guest; only the first `avail` are valid */
    uint64_t ea;        /* memory operand: offset in its segment, cut to the address size */
    uint64_t imm;       /* sign-extended to 64 bits (imm16 of RET and ENTER: zero-extended) */
    uint64_t next_rip;  /* a near branch replaces it */
    uint16_t sel;       /* selector of a far pointer; nesting level of ENTER */
    uint8_t avail, len; /* bytes fetched; bytes used */
    uint8_t map, op;    /* enum insn_map, opcode byte */
    uint8_t rex;        /* the REX byte or 0 */
    uint8_t rep;        /* 0, 0xf2 or 0xf3: the last of them */
    uint8_t opsize;     /* 2, 4 or 8 */
    uint8_t adsize;     /* 2, 4 or 8 */
    uint8_t modrm, mod, reg, rm;
    uint8_t seg;      /* segment of the memory operand */
    uint8_t seg_over; /* override, or SEG_NONE */
    uint8_t vex_reg;  /* VEX.vvvv */
    bool vex_l, vex_w;
    bool vex;
    bool lock, p66;
    bool is_mem; /* the ModRM (or moffs) operand is in memory */
    bool rip_relative;
    bool base_is_sp; /* base register of the memory operand is (E/R)SP: POP m adds to ea */
    bool rip_done;   /* the handler has set c->rip itself */
};

/* STEP_NEXT: decoded. STEP_FAULT: an exception is noted (#GP length or limit, #PF fetch, #UD). STEP_UNKNOWN:
 * x87, MMX, SSE, AVX or the like. Changes nothing of c but c->exc. */
enum step insn_decode(struct tcpu *c, struct insn *i);

#endif
