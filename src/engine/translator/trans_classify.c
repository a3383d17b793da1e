/* Which way an instruction goes: translated, in C, not allowed (translate.c). Decided by mnemonic and
 * category, and for x87, MMX, SSE and AVX by what CR0, CR4 and XCR0 allow now (Intel SDM volume 1, 9.6.6
 * and 14.3; volume 3, 2.5). */
#include "engine/translator/trans.h"

/* SSE conversions name no vector register if their source is in memory. */
static bool converts_from_memory(const struct trans *t)
{
    switch (t->in->mnemonic) {
    case ZYDIS_MNEMONIC_CVTSS2SI:
    case ZYDIS_MNEMONIC_CVTTSS2SI:
    case ZYDIS_MNEMONIC_CVTSD2SI:
    case ZYDIS_MNEMONIC_CVTTSD2SI:
    case ZYDIS_MNEMONIC_VCVTSS2SI:
    case ZYDIS_MNEMONIC_VCVTTSS2SI:
    case ZYDIS_MNEMONIC_VCVTSD2SI:
    case ZYDIS_MNEMONIC_VCVTTSD2SI: return true;
    default: return false;
    }
}

/* x87, MMX, SSE, AVX: whether the mode lets it run. */
static enum way fpu_way(const struct trans *t, unsigned *special)
{
    uint32_t m = t->mode;
    switch (t->in->meta.category) {
    case ZYDIS_CATEGORY_XSAVE:
    case ZYDIS_CATEGORY_XSAVEOPT:
        *special = SPECIAL_FPU_XSAVE;
        return m & (MODE_TS | MODE_NO_XSAVE) ? WAY_SPECIAL : WAY_VECTOR;
    default: break;
    }
    switch (t->in->mnemonic) {
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64:
    case ZYDIS_MNEMONIC_FWAIT:
        *special = SPECIAL_FPU_X87;
        return m & (MODE_TS | MODE_EM) ? WAY_SPECIAL : WAY_VECTOR;
    case ZYDIS_MNEMONIC_LDMXCSR:
    case ZYDIS_MNEMONIC_STMXCSR:
        *special = SPECIAL_FPU_SSE;
        return m & (MODE_TS | MODE_EM | MODE_NO_SSE) ? WAY_SPECIAL : WAY_VECTOR;
    default: break;
    }
    bool vec = insn_has_class(t, ZYDIS_REGCLASS_XMM) || insn_has_class(t, ZYDIS_REGCLASS_YMM) ||
               converts_from_memory(t);
    if (t->in->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) {
        bool other = t->in->mnemonic == ZYDIS_MNEMONIC_VZEROALL ||
                     t->in->mnemonic == ZYDIS_MNEMONIC_VZEROUPPER ||
                     t->in->mnemonic == ZYDIS_MNEMONIC_VLDMXCSR || t->in->mnemonic == ZYDIS_MNEMONIC_VSTMXCSR;
        if (!vec && !other)
            return WAY_GENERIC; /* BMI */
        *special = SPECIAL_FPU_AVX;
        return m & (MODE_TS | MODE_NO_AVX) ? WAY_SPECIAL : WAY_VECTOR;
    }
    if (vec) {
        *special = SPECIAL_FPU_SSE;
        return m & (MODE_TS | MODE_EM | MODE_NO_SSE) ? WAY_SPECIAL : WAY_VECTOR;
    }
    if (insn_is_x87(t)) {
        *special = SPECIAL_FPU_X87;
        return m & (MODE_TS | MODE_EM) ? WAY_SPECIAL : WAY_VECTOR;
    }
    if (insn_has_class(t, ZYDIS_REGCLASS_MMX) || t->in->mnemonic == ZYDIS_MNEMONIC_EMMS) {
        *special = SPECIAL_FPU_MMX;
        return m & (MODE_TS | MODE_EM) ? WAY_SPECIAL : WAY_VECTOR;
    }
    return WAY_GENERIC;
}

static bool vsib_or_masked(const struct trans *t)
{
    switch (t->in->mnemonic) {
    case ZYDIS_MNEMONIC_MASKMOVQ:
    case ZYDIS_MNEMONIC_MASKMOVDQU:
    case ZYDIS_MNEMONIC_VMASKMOVDQU:
    case ZYDIS_MNEMONIC_VMASKMOVPS:
    case ZYDIS_MNEMONIC_VMASKMOVPD:
    case ZYDIS_MNEMONIC_VPMASKMOVD:
    case ZYDIS_MNEMONIC_VPMASKMOVQ: return true;
    default: break;
    }
    const ZydisDecodedOperand *m = insn_mem_operand(t);
    return m && m->mem.type == ZYDIS_MEMOP_TYPE_VSIB;
}

static enum way system_way(const struct trans *t)
{
    switch (t->in->mnemonic) {
    case ZYDIS_MNEMONIC_CPUID:
    case ZYDIS_MNEMONIC_RDTSC:
    case ZYDIS_MNEMONIC_RDTSCP:
    case ZYDIS_MNEMONIC_RDPID:
    case ZYDIS_MNEMONIC_RDPMC:
    case ZYDIS_MNEMONIC_XGETBV:
    case ZYDIS_MNEMONIC_XSETBV:
    case ZYDIS_MNEMONIC_CLD:
    case ZYDIS_MNEMONIC_STD:
    case ZYDIS_MNEMONIC_CLI:
    case ZYDIS_MNEMONIC_STI:
    case ZYDIS_MNEMONIC_CLAC:
    case ZYDIS_MNEMONIC_STAC:
    case ZYDIS_MNEMONIC_XLAT:
    case ZYDIS_MNEMONIC_ENTER:
    case ZYDIS_MNEMONIC_BOUND:
    case ZYDIS_MNEMONIC_ARPL:
    case ZYDIS_MNEMONIC_SALC:
    case ZYDIS_MNEMONIC_MONITOR:
    case ZYDIS_MNEMONIC_MWAIT:
    case ZYDIS_MNEMONIC_MONITORX:
    case ZYDIS_MNEMONIC_MWAITX:
    case ZYDIS_MNEMONIC_INVLPG:
    case ZYDIS_MNEMONIC_INVPCID:
    case ZYDIS_MNEMONIC_WBINVD:
    case ZYDIS_MNEMONIC_INVD:
    case ZYDIS_MNEMONIC_PUSHF:
    case ZYDIS_MNEMONIC_PUSHFD:
    case ZYDIS_MNEMONIC_PUSHFQ:
    case ZYDIS_MNEMONIC_POPF:
    case ZYDIS_MNEMONIC_POPFD:
    case ZYDIS_MNEMONIC_POPFQ:
    case ZYDIS_MNEMONIC_PUSHA:
    case ZYDIS_MNEMONIC_PUSHAD:
    case ZYDIS_MNEMONIC_POPA:
    case ZYDIS_MNEMONIC_POPAD:
    case ZYDIS_MNEMONIC_DAA:
    case ZYDIS_MNEMONIC_DAS:
    case ZYDIS_MNEMONIC_AAA:
    case ZYDIS_MNEMONIC_AAS:
    case ZYDIS_MNEMONIC_AAM:
    case ZYDIS_MNEMONIC_AAD:
    case ZYDIS_MNEMONIC_UD0:
    case ZYDIS_MNEMONIC_UD1:
    case ZYDIS_MNEMONIC_UD2: return WAY_INTERP;
    case ZYDIS_MNEMONIC_ENDBR32:
    case ZYDIS_MNEMONIC_ENDBR64: return WAY_NOTHING;
    case ZYDIS_MNEMONIC_PAUSE: /* F3 41 90: on AMD XCHG r8, rAX with a prefix that means nothing, else PAUSE
                                */
        return (t->in->attributes & ZYDIS_ATTRIB_HAS_REX) && t->in->raw.rex.B ? WAY_INTERP : WAY_NOTHING;
    case ZYDIS_MNEMONIC_MOV: /* control, debug and segment registers */
        return insn_has_class(t, ZYDIS_REGCLASS_CONTROL) || insn_has_class(t, ZYDIS_REGCLASS_DEBUG) ||
                       insn_has_class(t, ZYDIS_REGCLASS_SEGMENT)
                   ? WAY_INTERP
                   : WAY_GENERIC;
    case ZYDIS_MNEMONIC_MOVSXD: /* the decoder's operand is AMD's; Intel's reads 16 bits */
        return t->in->operand_width == 16 && !t->vm->cpuid.is_amd ? WAY_INTERP : WAY_GENERIC;
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTS:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTC: /* a register offset reaches beyond the operand */
        return insn_mem_operand(t) && t->ops[1].type == ZYDIS_OPERAND_TYPE_REGISTER ? WAY_INTERP
                                                                                    : WAY_GENERIC;
    default: break;
    }
    switch (t->in->meta.category) {
    case ZYDIS_CATEGORY_NOP:
    case ZYDIS_CATEGORY_WIDENOP:
    case ZYDIS_CATEGORY_PREFETCH: return WAY_NOTHING;
    case ZYDIS_CATEGORY_SYSTEM:
    case ZYDIS_CATEGORY_STRINGOP:
    case ZYDIS_CATEGORY_IOSTRINGOP:
    case ZYDIS_CATEGORY_IO:
    case ZYDIS_CATEGORY_INTERRUPT:
    case ZYDIS_CATEGORY_SYSCALL:
    case ZYDIS_CATEGORY_SYSRET:
    case ZYDIS_CATEGORY_SEGOP:
    case ZYDIS_CATEGORY_RDWRFSGS:
    case ZYDIS_CATEGORY_COND_BR:
    case ZYDIS_CATEGORY_UNCOND_BR:
    case ZYDIS_CATEGORY_CALL:
    case ZYDIS_CATEGORY_RET:
    case ZYDIS_CATEGORY_PUSH:
    case ZYDIS_CATEGORY_POP:
    case ZYDIS_CATEGORY_VTX: return WAY_INTERP;
    default: return WAY_GENERIC;
    }
}

/* Encodings that CPUID denies to every guest. */
static bool denied(const struct trans *t)
{
    switch (t->in->encoding) {
    case ZYDIS_INSTRUCTION_ENCODING_EVEX:
    case ZYDIS_INSTRUCTION_ENCODING_MVEX:
    case ZYDIS_INSTRUCTION_ENCODING_XOP:
    case ZYDIS_INSTRUCTION_ENCODING_3DNOW: return true;
    default: break;
    }
    switch (t->in->mnemonic) {
    case ZYDIS_MNEMONIC_XSAVEC:
    case ZYDIS_MNEMONIC_XSAVEC64:
    case ZYDIS_MNEMONIC_XSAVES:
    case ZYDIS_MNEMONIC_XSAVES64:
    case ZYDIS_MNEMONIC_XRSTORS:
    case ZYDIS_MNEMONIC_XRSTORS64:
    case ZYDIS_MNEMONIC_XBEGIN:
    case ZYDIS_MNEMONIC_XEND:
    case ZYDIS_MNEMONIC_XABORT:
    case ZYDIS_MNEMONIC_XTEST:
    case ZYDIS_MNEMONIC_RDPKRU:
    case ZYDIS_MNEMONIC_WRPKRU:
    case ZYDIS_MNEMONIC_RDPRU:
    case ZYDIS_MNEMONIC_RDSSPD:
    case ZYDIS_MNEMONIC_RDSSPQ:
    case ZYDIS_MNEMONIC_UMONITOR:
    case ZYDIS_MNEMONIC_UMWAIT:
    case ZYDIS_MNEMONIC_TPAUSE:
    case ZYDIS_MNEMONIC_CLZERO: return true;
    default: return false;
    }
}

enum way classify_insn(struct trans *t, unsigned *special)
{
    *special = SPECIAL_UD;
    if (t->in->mnemonic == ZYDIS_MNEMONIC_RDSSPD || t->in->mnemonic == ZYDIS_MNEMONIC_RDSSPQ)
        return WAY_NOTHING; /* without shadow stacks this encoding is a NOP */
    if (denied(t))
        return WAY_SPECIAL;
    enum way way = system_way(t);
    if (way == WAY_GENERIC)
        way = fpu_way(t, special);
    if (way == WAY_VECTOR && vsib_or_masked(t)) {
        *special = t->in->mnemonic == ZYDIS_MNEMONIC_MASKMOVQ ? SPECIAL_MMX_MEM : SPECIAL_VEC_MEM;
        way = WAY_SPECIAL;
    }
    if (way == WAY_INTERP && flow_can(t))
        way = WAY_FLOW;
    if (way == WAY_INTERP && sysinsn_can(t))
        way = WAY_SYS;
    /* one-byte INC and DEC of 32-bit code have no 64-bit encoding */
    if (t->bits == 32 && (t->in->opcode & 0xf0) == 0x40 && t->in->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT)
        way = WAY_INTERP;
    if ((way == WAY_GENERIC || way == WAY_VECTOR) && !generic_can(t))
        way = WAY_INTERP;
    return way;
}
