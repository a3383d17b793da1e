/* The instruction forms that test_interp.c draws from. */
#ifndef TEST_INTERP_FORMS_H
#define TEST_INTERP_FORMS_H

#include "x86/cpuid_model.h"

#define F_M 0x1u /* ModRM */
#define F_REGONLY 0x2u
#define F_MEMONLY 0x4u
#define F_LOCK 0x8u /* try LOCK often */
#define F_NO66 0x10u
#define F_OPREG 0x20u /* register in the opcode's low bits */
#define F_VEX 0x40u
#define F_NOVVVV 0x80u
#define F_BITOFF 0x100u /* the register operand is a bit offset into memory */
#define F_STACK 0x200u
#define F_STRING 0x400u
#define F_BRANCH 0x800u /* immediate or register operand is the target */
#define F_RET 0x1000u
#define F_DIV 0x2000u
#define F_COUNT 0x4000u /* RCX is a loop count */
#define F_POPF 0x8000u
#define F_FILL 0x10000u
#define F_SAME 0x20000u
#define F_XLAT 0x40000u
#define F_A67 0x80000u
#define F_NOLOCK 0x100000u
#define F_NOREXB 0x200000u
/* Which of several faults comes first, or what is changed before it, is the model's own: AMD family 19h reads
 * the operands of CMPS in another order with REP than without; PUSHA has stored and POPA has loaded something
 * when it faults. */
#define F_ANYFAULT 0x400000u

/* BCD adjustments: their undefined flags are those of AMD processors */
#define F_BCD 0x800000u
/* Shift by an immediate: OF is undefined unless the count is 1, and Intel's give another one than for a shift
 * by CL, which is what the general path uses */
#define F_SHIFT 0x1000000u

struct form {
    char name[16];
    uint32_t flags;
    uint8_t map; /* 0, 1: 0f, 2: 0f 38, 3: 0f 3a; VEX's map with F_VEX */
    uint8_t op;
    uint8_t prefix; /* mandatory */
    int8_t digit;   /* ModRM.reg, or -1: any register */
    char imm;       /* 0, 'b', 'w', 'z', 'v', 'e' (ENTER) */
};

struct form_list {
    struct form form[640];
    unsigned n;
};

/* Forms of 64-bit or 32-bit code that the host (and so the guest of the test) has. */
void forms_fill(struct form_list *l, bool code32, const struct cpuid_model *m);

static inline uint64_t cut32(bool code32, uint64_t v)
{
    return code32 ? (uint32_t)v : v;
}

#endif
