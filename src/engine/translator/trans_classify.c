/* Which way an instruction goes: translated, in C, not allowed (translate.c). Decided by mnemonic and
 * category, and for x87, MMX, SSE, AVX and AVX-512 by what CR0, CR4 and XCR0 allow now (Intel SDM volume
 * 1, 9.6.6 and 14.3; volume 3, 2.5). */
#include "engine/translator/masked.h"
#include "engine/translator/mmu.h"
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

/* EVEX, and what works on mask registers, whose encoding is VEX. */
static bool uses_avx512(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *ops)
{
    return in->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX ||
           (in->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX && insn_uses_class(in, ops, ZYDIS_REGCLASS_MASK));
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
    if (uses_avx512(t->in, t->ops)) {
        *special = SPECIAL_FPU_AVX512;
        return m & (MODE_TS | MODE_NO_AVX512) ? WAY_SPECIAL : WAY_VECTOR;
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
    const ZydisDecodedOperand *m = t->mem;
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
    case ZYDIS_MNEMONIC_LEAVE:
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
        if ((t->in->attributes & ZYDIS_ATTRIB_HAS_REX) && t->in->raw.rex.B)
            return WAY_INTERP;
        return t->idx == MMU_U || (t->mode & MODE_ONE) ? WAY_NOTHING : WAY_SYS;
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
        return t->mem && t->ops[1].type == ZYDIS_OPERAND_TYPE_REGISTER ? WAY_INTERP : WAY_GENERIC;
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

#define BIT(n) (1u << (n))

/* ER, PF, 4FMAPS and 4VNNIW were Xeon Phi's. */
static bool avx512_offered(const struct cpuid_model *m, ZydisISASet set)
{
    uint32_t b7 = m->f7_ebx, c7 = m->f7_ecx, d7 = m->f7_edx;
    if (!m->has_avx512)
        return false;
    switch (set) {
    case ZYDIS_ISA_SET_AVX512F_128: /* VL, and CD, DQ, BW, are there wherever F is offered */
    case ZYDIS_ISA_SET_AVX512F_128N:
    case ZYDIS_ISA_SET_AVX512F_256:
    case ZYDIS_ISA_SET_AVX512F_512:
    case ZYDIS_ISA_SET_AVX512F_KOP:
    case ZYDIS_ISA_SET_AVX512F_SCALAR:
    case ZYDIS_ISA_SET_AVX512BW_128:
    case ZYDIS_ISA_SET_AVX512BW_128N:
    case ZYDIS_ISA_SET_AVX512BW_256:
    case ZYDIS_ISA_SET_AVX512BW_512:
    case ZYDIS_ISA_SET_AVX512BW_KOP:
    case ZYDIS_ISA_SET_AVX512CD_128:
    case ZYDIS_ISA_SET_AVX512CD_256:
    case ZYDIS_ISA_SET_AVX512CD_512:
    case ZYDIS_ISA_SET_AVX512DQ_128:
    case ZYDIS_ISA_SET_AVX512DQ_128N:
    case ZYDIS_ISA_SET_AVX512DQ_256:
    case ZYDIS_ISA_SET_AVX512DQ_512:
    case ZYDIS_ISA_SET_AVX512DQ_KOP:
    case ZYDIS_ISA_SET_AVX512DQ_SCALAR: return true;
    case ZYDIS_ISA_SET_AVX512_IFMA_128:
    case ZYDIS_ISA_SET_AVX512_IFMA_256:
    case ZYDIS_ISA_SET_AVX512_IFMA_512: return b7 & BIT(21);
    case ZYDIS_ISA_SET_AVX512_VBMI_128:
    case ZYDIS_ISA_SET_AVX512_VBMI_256:
    case ZYDIS_ISA_SET_AVX512_VBMI_512: return c7 & BIT(1);
    case ZYDIS_ISA_SET_AVX512_VBMI2_128:
    case ZYDIS_ISA_SET_AVX512_VBMI2_256:
    case ZYDIS_ISA_SET_AVX512_VBMI2_512: return c7 & BIT(6);
    case ZYDIS_ISA_SET_AVX512_GFNI_128:
    case ZYDIS_ISA_SET_AVX512_GFNI_256:
    case ZYDIS_ISA_SET_AVX512_GFNI_512: return c7 & BIT(8);
    case ZYDIS_ISA_SET_AVX512_VAES_128:
    case ZYDIS_ISA_SET_AVX512_VAES_256:
    case ZYDIS_ISA_SET_AVX512_VAES_512: return c7 & BIT(9);
    case ZYDIS_ISA_SET_AVX512_VPCLMULQDQ_128:
    case ZYDIS_ISA_SET_AVX512_VPCLMULQDQ_256:
    case ZYDIS_ISA_SET_AVX512_VPCLMULQDQ_512: return c7 & BIT(10);
    case ZYDIS_ISA_SET_AVX512_VNNI_128:
    case ZYDIS_ISA_SET_AVX512_VNNI_256:
    case ZYDIS_ISA_SET_AVX512_VNNI_512: return c7 & BIT(11);
    case ZYDIS_ISA_SET_AVX512_BITALG_128:
    case ZYDIS_ISA_SET_AVX512_BITALG_256:
    case ZYDIS_ISA_SET_AVX512_BITALG_512: return c7 & BIT(12);
    case ZYDIS_ISA_SET_AVX512_VPOPCNTDQ_128:
    case ZYDIS_ISA_SET_AVX512_VPOPCNTDQ_256:
    case ZYDIS_ISA_SET_AVX512_VPOPCNTDQ_512: return c7 & BIT(14);
    case ZYDIS_ISA_SET_AVX512_VP2INTERSECT_128:
    case ZYDIS_ISA_SET_AVX512_VP2INTERSECT_256:
    case ZYDIS_ISA_SET_AVX512_VP2INTERSECT_512: return d7 & BIT(8);
    case ZYDIS_ISA_SET_AVX512_FP16_128:
    case ZYDIS_ISA_SET_AVX512_FP16_128N:
    case ZYDIS_ISA_SET_AVX512_FP16_256:
    case ZYDIS_ISA_SET_AVX512_FP16_512:
    case ZYDIS_ISA_SET_AVX512_FP16_SCALAR: return d7 & BIT(23);
    case ZYDIS_ISA_SET_AVX512_BF16_128:
    case ZYDIS_ISA_SET_AVX512_BF16_256:
    case ZYDIS_ISA_SET_AVX512_BF16_512: return m->f71_eax & BIT(5);
    default: return false;
    }
}

/* Instruction sets beyond the basic ones, and the CPUID bits that offer them. */
static bool extension_offered(const struct cpuid_model *m, ZydisISASet set)
{
    uint32_t c1 = m->f1_ecx, b7 = m->f7_ebx, c7 = m->f7_ecx;
    bool avx = m->has_avx;
    switch (set) {
    case ZYDIS_ISA_SET_SSE3:
    case ZYDIS_ISA_SET_SSE3X87: return c1 & BIT(0);
    case ZYDIS_ISA_SET_PCLMULQDQ: return c1 & BIT(1);
    case ZYDIS_ISA_SET_SSSE3:
    case ZYDIS_ISA_SET_SSSE3MMX: return c1 & BIT(9);
    case ZYDIS_ISA_SET_FMA: return avx && (c1 & BIT(12));
    case ZYDIS_ISA_SET_CMPXCHG16B: return c1 & BIT(13);
    case ZYDIS_ISA_SET_SSE4: return c1 & BIT(19);
    case ZYDIS_ISA_SET_SSE42: return c1 & BIT(20);
    case ZYDIS_ISA_SET_MOVBE: return c1 & BIT(22);
    case ZYDIS_ISA_SET_POPCNT: return c1 & BIT(23);
    case ZYDIS_ISA_SET_AES: return c1 & BIT(25);
    case ZYDIS_ISA_SET_XSAVE: return c1 & BIT(26);
    case ZYDIS_ISA_SET_XSAVEOPT: return m->host_d1.eax & BIT(0);
    case ZYDIS_ISA_SET_AVX: return avx;
    case ZYDIS_ISA_SET_AVXAES: return avx && (c1 & BIT(25));
    case ZYDIS_ISA_SET_F16C: return avx && (c1 & BIT(29));
    case ZYDIS_ISA_SET_RDRAND: return c1 & BIT(30);
    case ZYDIS_ISA_SET_BMI1: return b7 & BIT(3);
    case ZYDIS_ISA_SET_AVX2:
    case ZYDIS_ISA_SET_AVX2GATHER: return avx && (b7 & BIT(5));
    case ZYDIS_ISA_SET_BMI2: return b7 & BIT(8);
    case ZYDIS_ISA_SET_RDSEED: return b7 & BIT(18);
    case ZYDIS_ISA_SET_ADOX_ADCX: return b7 & BIT(19);
    case ZYDIS_ISA_SET_CLFLUSHOPT: return b7 & BIT(23);
    case ZYDIS_ISA_SET_CLWB: return b7 & BIT(24);
    case ZYDIS_ISA_SET_SHA: return b7 & BIT(29);
    case ZYDIS_ISA_SET_GFNI: return c7 & BIT(8);
    case ZYDIS_ISA_SET_AVX_GFNI: return avx && (c7 & BIT(8));
    case ZYDIS_ISA_SET_VAES: return avx && (c7 & BIT(9));
    case ZYDIS_ISA_SET_VPCLMULQDQ: return avx && (c7 & BIT(10));
    default: return avx512_offered(m, set);
    }
}

/* The list of what may run: the host has more than the guest's CPUID offers, and some of that (stores through
 * a register that no check has seen, states that are not switched) must not get into the cache. What is not
 * on the list raises #UD. The general path has a list of its own, its table of handlers. */
static bool is_offered(const ZydisDecodedInstruction *in, const struct cpuid_model *m)
{
    switch (in->encoding) {
    case ZYDIS_INSTRUCTION_ENCODING_LEGACY:
    case ZYDIS_INSTRUCTION_ENCODING_VEX:
    case ZYDIS_INSTRUCTION_ENCODING_EVEX: break;
    default: return false;
    }
    switch (in->meta.isa_set) {
    case ZYDIS_ISA_SET_I86:
    case ZYDIS_ISA_SET_I186:
    case ZYDIS_ISA_SET_I286PROTECTED:
    case ZYDIS_ISA_SET_I286REAL:
    case ZYDIS_ISA_SET_I386:
    case ZYDIS_ISA_SET_I486:
    case ZYDIS_ISA_SET_I486REAL:
    case ZYDIS_ISA_SET_PENTIUMREAL:
    case ZYDIS_ISA_SET_PPRO:
    case ZYDIS_ISA_SET_CMOV:
    case ZYDIS_ISA_SET_LONGMODE:
    case ZYDIS_ISA_SET_LAHF:
    case ZYDIS_ISA_SET_FAT_NOP:
    case ZYDIS_ISA_SET_PAUSE:
    case ZYDIS_ISA_SET_X87:
    case ZYDIS_ISA_SET_FCMOV:
    case ZYDIS_ISA_SET_FXSAVE:
    case ZYDIS_ISA_SET_FXSAVE64:
    case ZYDIS_ISA_SET_PENTIUMMMX:
    case ZYDIS_ISA_SET_SSE:
    case ZYDIS_ISA_SET_SSE2:
    case ZYDIS_ISA_SET_SSE2MMX:
    case ZYDIS_ISA_SET_SSEMXCSR:
    case ZYDIS_ISA_SET_CLFSH:
    case ZYDIS_ISA_SET_LZCNT: /* without it the same bytes are BSR, on this host too */ return true;
    /* NOPs where the feature is not offered; and what the general path checks for itself */
    case ZYDIS_ISA_SET_PREFETCH_NOP:
    case ZYDIS_ISA_SET_PREFETCHWT1:
    case ZYDIS_ISA_SET_SSE_PREFETCH:
    case ZYDIS_ISA_SET_CLDEMOTE:
    case ZYDIS_ISA_SET_MPX:
    case ZYDIS_ISA_SET_AMD: /* SYSCALL and SYSRET outside 64-bit mode */
    case ZYDIS_ISA_SET_RDPMC:
    case ZYDIS_ISA_SET_RDPID:
    case ZYDIS_ISA_SET_RDTSCP:
    case ZYDIS_ISA_SET_RDWRFSGS:
    case ZYDIS_ISA_SET_INVPCID:
    case ZYDIS_ISA_SET_SMAP: return true;
    case ZYDIS_ISA_SET_VTX: /* hypercalls: SDM volume 3, 30.3; APM volume 3 */
    case ZYDIS_ISA_SET_SVM:
        return in->mnemonic == ZYDIS_MNEMONIC_VMCALL || in->mnemonic == ZYDIS_MNEMONIC_VMMCALL;
    case ZYDIS_ISA_SET_CET:
        return in->mnemonic == ZYDIS_MNEMONIC_ENDBR32 || in->mnemonic == ZYDIS_MNEMONIC_ENDBR64;
    default: return extension_offered(m, in->meta.isa_set);
    }
}

/* MPX's and CLDEMOTE's encodings are in the space of hints (SDM volume 2, NOP; appendix A, table A-3). */
static bool is_hint(const struct trans *t)
{
    return t->in->meta.isa_set == ZYDIS_ISA_SET_MPX || t->in->meta.isa_set == ZYDIS_ISA_SET_CLDEMOTE;
}

/* VEX.W of moves between vector and general registers outside 64-bit mode: SDM volume 2, PINSRD (ignored);
 * AMD's know no such instruction. */
static bool needs_64_bit_mode(const ZydisDecodedInstruction *in)
{
    return in->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX && in->raw.vex.W &&
           (in->mnemonic == ZYDIS_MNEMONIC_VPINSRD || in->mnemonic == ZYDIS_MNEMONIC_VPEXTRD);
}

/* SDM volume 2, table 2-3 and 2.2.1.2: a SIB byte's base of 101 without displacement by MOD means a
 * displacement alone, whatever REX.B says. Zydis 4.0 makes R13D of it if addresses have 32 bits. */
static void mend_base(const ZydisDecodedInstruction *in, ZydisDecodedOperand *ops)
{
    if (!(in->attributes & ZYDIS_ATTRIB_HAS_SIB) || in->raw.modrm.mod != 0 || in->raw.sib.base != 5)
        return;
    for (unsigned i = 0; i < in->operand_count; i++) {
        if (ops[i].type != ZYDIS_OPERAND_TYPE_MEMORY || ops[i].encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM)
            continue;
        ops[i].mem.base = ZYDIS_REGISTER_NONE;
        ops[i].mem.disp.has_displacement = true;
        ops[i].mem.disp.value = in->raw.disp.value;
    }
}

void insn_decoder_init(ZydisDecoder *decoder, unsigned code_bits)
{
    if (code_bits == 64)
        ZydisDecoderInit(decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    else if (code_bits == 32)
        ZydisDecoderInit(decoder, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
    else
        ZydisDecoderInit(decoder, ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16);
}

ZyanStatus insn_decode_zydis(const ZydisDecoder *decoder, const void *bytes, unsigned len,
                             ZydisDecodedInstruction *in, ZydisDecodedOperand *ops)
{
    ZyanStatus st = ZydisDecoderDecodeFull(decoder, bytes, len, in, ops);

    if (ZYAN_SUCCESS(st))
        mend_base(in, ops);
    return st;
}

bool insn_is_known(const ZydisDecodedInstruction *in, const struct cpuid_model *m, unsigned bits)
{
    return is_offered(in, m) && (bits == 64 || !m->is_amd || !needs_64_bit_mode(in));
}

bool insn_is_denied(const struct trans *t)
{
    const ZydisDecodedOperand *m = t->mem;
    unsigned acc;
    if (t->bits == 64 || !m || m->mem.segment != ZYDIS_REGISTER_CS)
        return false;
    if ((t->mode & MODE_NATIVE) &&
        (t->in->mnemonic != ZYDIS_MNEMONIC_VCVTPS2PH || masked_operand(t->in, t->ops)))
        return false; /* native.c has seen to it */
    generic_access(t, m, &acc);
    return acc != MMU_SLOW_R;
}

enum way classify_insn(const struct trans *t, unsigned *special)
{
    *special = SPECIAL_UD;
    if (t->in->mnemonic == ZYDIS_MNEMONIC_RDSSPD || t->in->mnemonic == ZYDIS_MNEMONIC_RDSSPQ)
        return WAY_NOTHING; /* without shadow stacks this encoding is a NOP */
    if (!insn_is_known(t->in, &t->vm->cpuid, t->bits))
        return WAY_SPECIAL;
    if (is_hint(t))
        return WAY_NOTHING;
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
    if ((way == WAY_GENERIC || (way == WAY_VECTOR && !insn_rehearses(t))) && insn_is_denied(t)) {
        *special = masked_operand(t->in, t->ops) ? SPECIAL_SEGMENT : SPECIAL_GP; /* elements by themselves */
        way = WAY_SPECIAL;
    }
    if ((way == WAY_GENERIC || way == WAY_VECTOR) && !generic_can(t))
        way = WAY_INTERP;
    return way;
}
