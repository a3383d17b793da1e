/* Asking the decoder which instructions there are. */
#include <stdlib.h>
#include <string.h>

#include "templates.h"

/* Not those that only Xeon Phi had. */
static bool is_avx512(ZydisISASet set)
{
    if (set >= ZYDIS_ISA_SET_AVX512ER_512 && set <= ZYDIS_ISA_SET_AVX512ER_SCALAR)
        return false;
    if (set >= ZYDIS_ISA_SET_AVX512PF_512 && set <= ZYDIS_ISA_SET_AVX512_4VNNIW_512)
        return false;
    return set >= ZYDIS_ISA_SET_AVX512BW_128 && set <= ZYDIS_ISA_SET_AVX512_VPOPCNTDQ_512;
}

static unsigned isa_class(ZydisISASet set)
{
    switch (set) {
    case ZYDIS_ISA_SET_I86:
    case ZYDIS_ISA_SET_I186:
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
    case ZYDIS_ISA_SET_BMI1:
    case ZYDIS_ISA_SET_BMI2:
    case ZYDIS_ISA_SET_LZCNT:
    case ZYDIS_ISA_SET_POPCNT:
    case ZYDIS_ISA_SET_MOVBE:
    case ZYDIS_ISA_SET_ADOX_ADCX:
    case ZYDIS_ISA_SET_CMPXCHG16B:
    case ZYDIS_ISA_SET_RDWRFSGS:
    case ZYDIS_ISA_SET_PREFETCH_NOP:
    case ZYDIS_ISA_SET_SSE_PREFETCH:
    case ZYDIS_ISA_SET_CLFSH:
    case ZYDIS_ISA_SET_CLFLUSHOPT:
    case ZYDIS_ISA_SET_CLWB: return FC_INT;
    case ZYDIS_ISA_SET_X87:
    case ZYDIS_ISA_SET_FCMOV:
    case ZYDIS_ISA_SET_SSE3X87: return FC_X87;
    case ZYDIS_ISA_SET_PENTIUMMMX:
    case ZYDIS_ISA_SET_SSE2MMX:
    case ZYDIS_ISA_SET_SSSE3MMX: return FC_MMX;
    case ZYDIS_ISA_SET_SSE:
    case ZYDIS_ISA_SET_SSE2:
    case ZYDIS_ISA_SET_SSE3:
    case ZYDIS_ISA_SET_SSSE3:
    case ZYDIS_ISA_SET_SSE4:
    case ZYDIS_ISA_SET_SSE42:
    case ZYDIS_ISA_SET_SSEMXCSR:
    case ZYDIS_ISA_SET_AES:
    case ZYDIS_ISA_SET_PCLMULQDQ:
    case ZYDIS_ISA_SET_SHA: return FC_SSE;
    case ZYDIS_ISA_SET_AVX:
    case ZYDIS_ISA_SET_AVX2:
    case ZYDIS_ISA_SET_AVX2GATHER:
    case ZYDIS_ISA_SET_AVXAES:
    case ZYDIS_ISA_SET_F16C:
    case ZYDIS_ISA_SET_FMA: return FC_AVX;
    default: return is_avx512(set) ? FC_AVX512 : FC_COUNT;
    }
}

unsigned insn_class(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *op)
{
    switch (insn->meta.category) {
    case ZYDIS_CATEGORY_IO:
    case ZYDIS_CATEGORY_IOSTRINGOP:
    case ZYDIS_CATEGORY_INTERRUPT:
    case ZYDIS_CATEGORY_SYSCALL:
    case ZYDIS_CATEGORY_SYSRET:
    case ZYDIS_CATEGORY_SYSTEM:
    case ZYDIS_CATEGORY_SEGOP:
    case ZYDIS_CATEGORY_COND_BR:
    case ZYDIS_CATEGORY_UNCOND_BR:
    case ZYDIS_CATEGORY_CALL:
    case ZYDIS_CATEGORY_RET: return FC_COUNT;
    default: break;
    }
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_CPUID:
    case ZYDIS_MNEMONIC_RDTSC:
    case ZYDIS_MNEMONIC_RDPMC:
    /* These show where the last x87 instruction's operand was, which is not kept. */
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_FLDENV:
    case ZYDIS_MNEMONIC_FRSTOR:
    /* Made with a chosen value by the generator only: TF and AC would end a sequence. */
    case ZYDIS_MNEMONIC_POPF:
    case ZYDIS_MNEMONIC_POPFQ: return FC_COUNT;
    default: break;
    }
    /* 0F 0D with a register: #UD for AMD, NOP for Intel. */
    if (insn->meta.isa_set == ZYDIS_ISA_SET_PREFETCH_NOP && insn->raw.modrm.mod == 3)
        return FC_COUNT;
    for (unsigned i = 0; i < insn->operand_count; i++) {
        ZydisRegisterClass rc;

        if (op[i].type != ZYDIS_OPERAND_TYPE_REGISTER)
            continue;
        rc = ZydisRegisterGetClass(op[i].reg.value);
        if (rc == ZYDIS_REGCLASS_CONTROL || rc == ZYDIS_REGCLASS_DEBUG || rc == ZYDIS_REGCLASS_TEST)
            return FC_COUNT;
        if (rc == ZYDIS_REGCLASS_SEGMENT && (op[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
            return FC_COUNT;
    }
    if (insn->meta.category == ZYDIS_CATEGORY_STRINGOP)
        return FC_STRING;
    if (insn->meta.category == ZYDIS_CATEGORY_PUSH || insn->meta.category == ZYDIS_CATEGORY_POP)
        return FC_STACK;
    return isa_class(insn->meta.isa_set);
}

struct probe {
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
    unsigned fc;
};

static bool probe(const ZydisDecoder *decoder, const struct template *t, uint8_t modrm, struct probe *out)
{
    static const uint8_t prefix[] = { 0, 0x66, 0xf3, 0xf2 };
    uint8_t b[24] = { 0 };
    unsigned n = 0;

    if (t->vex == 2) {
        b[n++] = 0x62;
        b[n++] = (uint8_t)(0xf0 | t->map);
        b[n++] = (uint8_t)(t->w << 7 | 0x7c | t->pp);
        b[n++] = (uint8_t)(t->l << 5 | 0x08 | t->masked);
    } else if (t->vex) {
        b[n++] = 0xc4;
        b[n++] = (uint8_t)(0xe0 | t->map);
        b[n++] = (uint8_t)(t->w << 7 | 0x78 | t->l << 2 | t->pp);
    } else {
        if (t->pp)
            b[n++] = prefix[t->pp];
        if (t->map)
            b[n++] = 0x0f;
        if (t->map >= 2)
            b[n++] = t->map == 2 ? 0x38 : 0x3a;
    }
    b[n++] = t->opcode;
    b[n++] = modrm;
    if ((modrm & 0xc7) == 4)
        b[n++] = 0x10; /* xmm2 as VSIB's index: gathers want three different registers */
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(decoder, b, sizeof(b), &out->insn, out->op)))
        return false;
    out->fc = insn_class(&out->insn, out->op);
    return out->fc < FC_COUNT;
}

static bool add(struct template_list *list, const struct template *t)
{
    if (!(list->count & (list->count - 1))) {
        unsigned room = list->count ? list->count * 2 : 1;
        struct template *v = realloc(list->v, room * sizeof(*v));

        if (!v)
            return false;
        list->v = v;
    }
    list->v[list->count++] = *t;
    return true;
}

/* A legacy opcode whose prefix changes nothing but the operand size is not an instruction of its own. */
static bool is_duplicate(const ZydisDecoder *decoder, const struct template *t, uint8_t modrm,
                         const struct probe *p)
{
    struct template plain = *t;
    struct probe q;

    if (t->vex || !t->pp)
        return false;
    plain.pp = 0;
    return probe(decoder, &plain, modrm, &q) && q.insn.mnemonic == p->insn.mnemonic;
}

/* One template per value of the reg field: for opcodes that are groups this tells the members apart, for
 * others it costs nothing but memory. The reg field of a non-group is drawn by the generator. */
static bool find_opcode(const ZydisDecoder *decoder, struct template t, struct template_list lists[FC_COUNT])
{
    ZydisMnemonic first = ZYDIS_MNEMONIC_INVALID;
    struct template byreg[8];
    unsigned fc[8], valid = 0;
    bool same = true;

    for (unsigned reg = 0; reg < 8; reg++) {
        struct probe p;
        bool r = probe(decoder, &t, (uint8_t)(0xc1 | reg << 3), &p) &&
                 !is_duplicate(decoder, &t, (uint8_t)(0xc1 | reg << 3), &p);
        bool m = false;
        unsigned c = r ? p.fc : FC_COUNT;
        bool has = r && (p.insn.attributes & ZYDIS_ATTRIB_HAS_MODRM);
        ZydisMnemonic mn = r ? p.insn.mnemonic : ZYDIS_MNEMONIC_INVALID;

        if (!r || has) {
            m = (probe(decoder, &t, (uint8_t)(0x03 | reg << 3), &p) &&
                 !is_duplicate(decoder, &t, (uint8_t)(0x03 | reg << 3), &p)) ||
                (t.vex && probe(decoder, &t, (uint8_t)(0x04 | reg << 3), &p)); /* VSIB */
            if (m) {
                c = p.fc;
                has = true;
                if (mn != ZYDIS_MNEMONIC_INVALID && mn != p.insn.mnemonic)
                    same = false;
                mn = p.insn.mnemonic;
            }
        }
        if (!r && !m) {
            same = false;
            continue;
        }
        byreg[valid] = t;
        byreg[valid].has_modrm = has;
        byreg[valid].reg_form = r;
        byreg[valid].mem_form = m;
        byreg[valid].fixed_reg = true;
        byreg[valid].modrm = (uint8_t)(reg << 3);
        fc[valid] = c;
        if (valid && (mn != first || r != byreg[0].reg_form || m != byreg[0].mem_form || c != fc[0]))
            same = false;
        first = valid ? first : mn;
        valid++;
        if (!has)
            break;
    }
    if (valid == 8 && same) {
        byreg[0].fixed_reg = false;
        valid = 1;
    }
    for (unsigned i = 0; i < valid; i++) {
        byreg[i].fc = (uint8_t)fc[i];
        if (!add(&lists[fc[i]], &byreg[i]))
            return false;
    }
    return true;
}

/* x87 register forms differ by the whole ModRM byte. */
static bool find_x87(const ZydisDecoder *decoder, struct template_list lists[FC_COUNT])
{
    for (unsigned op = 0xd8; op <= 0xdf; op++) {
        for (unsigned modrm = 0; modrm < 0x100; modrm++) {
            struct template t = {
                .opcode = (uint8_t)op, .has_modrm = true, .modrm = (uint8_t)modrm, .fc = FC_X87
            };
            struct probe p;

            if (modrm < 0xc0 && (modrm & 0xc7) != 3)
                continue;
            if (!probe(decoder, &t, (uint8_t)modrm, &p))
                continue;
            t.reg_form = t.fixed_modrm = modrm >= 0xc0;
            t.mem_form = t.fixed_reg = modrm < 0xc0;
            t.modrm = modrm < 0xc0 ? (uint8_t)(modrm & 0x38) : (uint8_t)modrm;
            /* memory forms are 1 in 8 of the register forms: give them more weight */
            for (unsigned i = 0; i < (t.mem_form ? 6u : 1u); i++) {
                if (!add(&lists[FC_X87], &t))
                    return false;
            }
        }
    }
    return true;
}

static bool is_prefix(const ZydisDecoder *decoder, unsigned map, unsigned op)
{
    bool rex = decoder->machine_mode == ZYDIS_MACHINE_MODE_LONG_64 && (op & 0xf0) == 0x40;

    if (map)
        return map == 1 && (op == 0x38 || op == 0x3a);
    return op == 0x0f || (op & 0xe7) == 0x26 || rex || (op >= 0x62 && op <= 0x67 && op != 0x63) ||
           op == 0xc4 || op == 0xc5 || op == 0xf0 || op == 0xf2 || op == 0xf3 || (op & 0xf8) == 0xd8;
}

bool templates_find(const ZydisDecoder *decoder, struct template_list lists[FC_COUNT])
{
    for (unsigned map = 0; map < 4; map++) {
        for (unsigned n = 0; n < 4 * 256; n++) {
            struct template t = { .map = (uint8_t)map, .pp = (uint8_t)(n >> 8), .opcode = (uint8_t)n };

            if (!is_prefix(decoder, map, n & 0xff) && !find_opcode(decoder, t, lists))
                return false;
        }
    }
    for (unsigned map = 1; map < 4; map++) {
        for (unsigned n = 0; n < 16 * 256; n++) {
            struct template t = { .vex = 1,
                                  .map = (uint8_t)map,
                                  .pp = n >> 8 & 3,
                                  .opcode = (uint8_t)n,
                                  .w = n >> 10 & 1,
                                  .l = n >> 11 & 1 };

            if (!find_opcode(decoder, t, lists))
                return false;
        }
    }
    for (unsigned map = 1; map < 7; map++) {
        for (unsigned n = 0; n < 48 * 256; n++) {
            struct template t = { .vex = 2,
                                  .map = (uint8_t)map,
                                  .pp = n >> 8 & 3,
                                  .opcode = (uint8_t)n,
                                  .w = n >> 10 & 1,
                                  .l = (uint8_t)(n / (8 * 256) % 3),
                                  .masked = n >= 24 * 256 };

            if (map != 4 && !find_opcode(decoder, t, lists))
                return false;
        }
    }
    return find_x87(decoder, lists);
}
