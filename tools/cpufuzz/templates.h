/* The instructions that cpufuzz knows: found by asking the decoder about every opcode of every map and
 * prefix. */
#ifndef CPUFUZZ_TEMPLATES_H
#define CPUFUZZ_TEMPLATES_H

#include <Zydis/Zydis.h>

#include "fuzz.h"

struct template
{
    uint8_t vex; /* 0: legacy encoding, 1: VEX, 2: EVEX */
    uint8_t map; /* 0: one byte, 1: 0F, 2: 0F38, 3: 0F3A, 5 and 6 with EVEX */
    uint8_t pp;  /* mandatory prefix: 0 none, 1 66, 2 F3, 3 F2 */
    uint8_t opcode;
    uint8_t w, l;  /* VEX and EVEX only */
    bool masked;   /* EVEX: needs a mask register */
    uint8_t modrm; /* for fixed_modrm; else only the reg field, for fixed_reg */
    bool has_modrm, fixed_modrm, fixed_reg, reg_form, mem_form;
    uint8_t fc; /* enum fuzz_class */
};

struct template_list {
    struct template *v;
    unsigned count;
};

/* False: out of memory. */
bool templates_find(const ZydisDecoder *decoder, struct template_list lists[FC_COUNT]);
/* The class of an instruction, or FC_COUNT if it must not be run (privileged, or its result depends on more
 * than the registers and memory that we compare). */
unsigned insn_class(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *op);

#endif
