/* x87, MMX, SSE and AVX instructions where translated code does not go. Heavy.
 *
 * Theory of operation. The general path knows no vector state, so such an instruction always runs in a block
 * of its own. In 16-bit code, in segments that are not flat, and while accesses are watched (sys_debug.c),
 * the translator's idea of an address is not enough: here its operand's segment, limit, alignment and
 * breakpoints are seen to first. Outside of flat code the block then takes the linear address as given
 * (MODE_NATIVE, in tcpu.scratch[2]) and only does what is left, paging and the instruction itself. Gathers
 * and masked moves are not done there: they raise #UD. */
#include <string.h>

#include <Zydis/Zydis.h>

#include "engine/translator/interp.h"
#include "engine/translator/mmu.h"
#include "engine/translator/trans.h"
#include "engine/translator/vcpu.h"

struct decoded {
    ZydisDecodedInstruction in;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
};

static bool decode(struct tcpu *c, struct decoded *d)
{
    ZydisDecoder decoder;
    uint8_t bytes[15];
    unsigned got;
    uint64_t lin = vcpu_linear_ip(c);

    if (!mmu_fetch(c, lin, bytes, sizeof bytes, &got))
        return false;
    if (c->code_bits == 64)
        ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    else if (c->code_bits == 32)
        ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
    else
        ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16);
    if (ZYAN_SUCCESS(insn_decode_zydis(&decoder, bytes, got, &d->in, d->ops)))
        return true;
    return cpu_raise(c, EXC_UD);
}

static unsigned segment_of(const ZydisDecodedOperand *op)
{
    switch (op->mem.segment) {
    case ZYDIS_REGISTER_ES: return S_ES;
    case ZYDIS_REGISTER_CS: return S_CS;
    case ZYDIS_REGISTER_SS: return S_SS;
    case ZYDIS_REGISTER_FS: return S_FS;
    case ZYDIS_REGISTER_GS: return S_GS;
    default: return S_DS;
    }
}

static uint64_t offset_of(const struct tcpu *c, const struct decoded *d, const ZydisDecodedOperand *op)
{
    uint64_t a = (uint64_t)op->mem.disp.value;

    if (op->mem.base == ZYDIS_REGISTER_RIP || op->mem.base == ZYDIS_REGISTER_EIP)
        a += c->rip + d->in.length;
    else if (op->mem.base != ZYDIS_REGISTER_NONE)
        a += c->gpr[ZydisRegisterGetId(op->mem.base) & 15];
    if (op->mem.index != ZYDIS_REGISTER_NONE)
        a += c->gpr[ZydisRegisterGetId(op->mem.index) & 15] * (op->mem.scale ? op->mem.scale : 1);
    return d->in.address_width == 64 ? a : a & ((1ull << d->in.address_width) - 1);
}

static bool is_mmx(const struct decoded *d)
{
    for (unsigned i = 0; i < d->in.operand_count; i++) {
        if (d->ops[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
            ZydisRegisterGetClass(d->ops[i].reg.value) == ZYDIS_REGCLASS_MMX)
            return true;
    }
    return false;
}

/* The registers stand there in the order of the stack, so they turn. */
static void clear_top(uint8_t *xsave)
{
    uint8_t old[8 * 16];
    unsigned top = xsave[3] >> 3 & 7;

    memcpy(old, xsave + 32, sizeof old);
    for (unsigned i = 0; i < 8; i++)
        memcpy(xsave + 32 + i * 16, old + ((i - top) & 7) * 16, 16);
    xsave[3] &= (uint8_t)~0x38u;
}

/* An alignment check comes behind the report of a pending x87 exception; and Intel's MMX stores have set TOP
 * to 0 by then. The x87 state is in xsave_area. False: #MF goes first. */
static bool check_is_due(struct tcpu *c, const struct decoded *d, bool write)
{
    bool mmx = is_mmx(d),
         x87 = d->in.meta.isa_ext == ZYDIS_ISA_EXT_X87 || d->in.meta.category == ZYDIS_CATEGORY_X87_ALU;
    uint8_t *status = c->xsave_area + 2;

    if (!(c->xsave_area[512] & 1)) /* XSTATE_BV: x87 is as after FNINIT */
        return true;
    if ((mmx || x87) && (status[0] & 0x80))
        return false;
    if (mmx && write && !c->vm->cpuid.is_amd)
        clear_top(c->xsave_area);
    return true;
}

/* A vector whose alignment is not optional, and is not there: that is #GP. */
static bool is_misaligned(const struct tcpu *c, const struct decoded *d, unsigned size)
{
    unsigned align = size == 16 || size == 32 ? operand_align(&d->in, size, c->vm->cpuid.is_amd) : 0;

    return align && (c->scratch[2] & ((8u << align) - 1));
}

/* Whether #AC is not for this vector: it raises #GP, or it is looked at by element (seen on both vendors'
 * processors), or it is Intel's VCVTPS2PH. */
static bool is_exempt(const struct tcpu *c, const struct decoded *d, unsigned size)
{
    switch (d->in.mnemonic) {
    case ZYDIS_MNEMONIC_VMASKMOVPS:
    case ZYDIS_MNEMONIC_VMASKMOVPD:
    case ZYDIS_MNEMONIC_VPMASKMOVD:
    case ZYDIS_MNEMONIC_VPMASKMOVQ: return true;
    case ZYDIS_MNEMONIC_VCVTPS2PH: return !c->vm->cpuid.is_amd;
    default: return is_misaligned(c, d, size);
    }
}

static bool see_to_operand(struct tcpu *c, const struct decoded *d, const ZydisDecodedOperand *op)
{
    bool write = (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
    unsigned size = op->size / 8u;

    if (op->mem.type == ZYDIS_MEMOP_TYPE_VSIB || op->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN)
        return (vcpu_mode(c) & MODE_BITS) < 2u << MODE_BITS_SHIFT || cpu_raise(c, EXC_UD);
    if (d->in.meta.category == ZYDIS_CATEGORY_XSAVE || d->in.meta.category == ZYDIS_CATEGORY_XSAVEOPT)
        size = c->vm->cpuid.xsave_size;
    if (interp_operand(c, segment_of(op), offset_of(c, d, op), size ? size : 1, write, &c->scratch[2]))
        return true;
    if (c->exc.vector == EXC_SS && c->vm->cpuid.is_amd && is_misaligned(c, d, size))
        c->exc.vector = EXC_GP;
    if (c->exc.vector != EXC_AC || (!is_exempt(c, d, size) && check_is_due(c, d, write)))
        return false;
    c->exc.pending = 0;
    return true;
}

bool heavy_native(struct tcpu *c, unsigned *len)
{
    struct decoded d;

    if (!decode(c, &d))
        return false;
    *len = d.in.length;
    if (!insn_is_known(&d.in, &c->vm->cpuid, c->code_bits))
        return true; /* the block raises #UD */
    for (unsigned i = 0; i < d.in.operand_count; i++) {
        const ZydisDecodedOperand *op = &d.ops[i];

        if (op->type == ZYDIS_OPERAND_TYPE_MEMORY && op->mem.type != ZYDIS_MEMOP_TYPE_AGEN &&
            !see_to_operand(c, &d, op))
            return false;
    }
    return true;
}
