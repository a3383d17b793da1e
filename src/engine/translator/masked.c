/* Which memory operands a write mask thins out.
 *
 * Theory of operation. The exception type of an instruction says whether elements that the mask leaves out
 * may fault (Intel SDM volume 2, 2.8: the types with NF in their names do not suppress faults). In translated
 * code such an operand is checked whole, as any other, and if all of it is in a page that is there, the
 * instruction runs as it is. If not, translated code hands the mask to C (helper_masked in vcpu.c), which
 * looks at the elements that are accessed, from the lowest on, and stages them: the instruction then runs on
 * the staging buffer under the same mask, and what it has stored there is written to the guest element by
 * element. Gathers and scatters are not of this kind (vec_mem.c). */
#include "engine/translator/masked.h"

static bool suppresses(const ZydisDecodedInstruction *in)
{
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_VCVTNE2PS2BF16:
    case ZYDIS_MNEMONIC_VDBPSADBW:
    case ZYDIS_MNEMONIC_VGF2P8AFFINEQB:
    case ZYDIS_MNEMONIC_VGF2P8AFFINEINVQB: return false; /* E4NF, which Zydis 4.0 has as E4 */
    default: break;
    }
    switch (in->meta.exception_class) {
    case ZYDIS_EXCEPTION_CLASS_E1:
    case ZYDIS_EXCEPTION_CLASS_E2:
    case ZYDIS_EXCEPTION_CLASS_E3:
    case ZYDIS_EXCEPTION_CLASS_E4:
    case ZYDIS_EXCEPTION_CLASS_E5:
    case ZYDIS_EXCEPTION_CLASS_E6:
    case ZYDIS_EXCEPTION_CLASS_E10:
    case ZYDIS_EXCEPTION_CLASS_E11: return true;
    default: return false;
    }
}

static bool is_packed(ZydisMnemonic m)
{
    switch (m) {
    case ZYDIS_MNEMONIC_VCOMPRESSPS:
    case ZYDIS_MNEMONIC_VCOMPRESSPD:
    case ZYDIS_MNEMONIC_VPCOMPRESSB:
    case ZYDIS_MNEMONIC_VPCOMPRESSW:
    case ZYDIS_MNEMONIC_VPCOMPRESSD:
    case ZYDIS_MNEMONIC_VPCOMPRESSQ:
    case ZYDIS_MNEMONIC_VEXPANDPS:
    case ZYDIS_MNEMONIC_VEXPANDPD:
    case ZYDIS_MNEMONIC_VPEXPANDB:
    case ZYDIS_MNEMONIC_VPEXPANDW:
    case ZYDIS_MNEMONIC_VPEXPANDD:
    case ZYDIS_MNEMONIC_VPEXPANDQ: return true;
    default: return false;
    }
}

/* The widest element among the vectors: the mask has a bit for each of those. */
static unsigned widest_element(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *ops)
{
    unsigned size = 0;

    for (unsigned i = 0; i < in->operand_count_visible; i++) {
        bool counts = ops[i].type == ZYDIS_OPERAND_TYPE_MEMORY ||
                      (ops[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
                       ZydisRegisterGetClass(ops[i].reg.value) != ZYDIS_REGCLASS_MASK);

        if (counts && ops[i].element_size > size)
            size = ops[i].element_size;
    }
    return size;
}

uint32_t masked_operand(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *ops)
{
    const ZydisDecodedOperand *mem = NULL;
    unsigned bits;

    if (in->encoding != ZYDIS_INSTRUCTION_ENCODING_EVEX || !in->avx.mask.reg ||
        in->avx.mask.reg == ZYDIS_REGISTER_K0 || !suppresses(in))
        return 0;
    for (unsigned i = 0; i < in->operand_count_visible && !mem; i++) {
        if (ops[i].type == ZYDIS_OPERAND_TYPE_MEMORY)
            mem = &ops[i];
    }
    if (!mem || !mem->element_count || !in->avx.vector_length)
        return 0;
    if (in->avx.broadcast.mode != ZYDIS_BROADCAST_MODE_INVALID)
        return MASKED_OPERAND(mem->element_size / 8, in->avx.vector_length / widest_element(in, ops),
                              mem->element_count, MASKED_AGAIN);
    bits = mem->element_count;
    if (ops[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
        ZydisRegisterGetClass(ops[0].reg.value) != ZYDIS_REGCLASS_MASK && ops[0].element_count < bits)
        bits = ops[0].element_count;
    return MASKED_OPERAND(mem->size / 8 / bits, bits, bits,
                          is_packed(in->mnemonic) ? MASKED_PACKED : MASKED_EACH);
}

uint32_t masked_by_element(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *ops, bool amd)
{
    uint32_t masked = masked_operand(in, ops);
    unsigned n = ops[0].element_count;

    if (masked || !amd || ops[0].type != ZYDIS_OPERAND_TYPE_MEMORY || !is_packed(in->mnemonic))
        return masked;
    return MASKED_OPERAND(ops[0].element_size / 8, n, n, MASKED_EACH);
}
