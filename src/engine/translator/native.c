/* x87, MMX, SSE, AVX and AVX-512 instructions where translated code does not go. Heavy.
 *
 * Theory of operation. The general path knows no vector state, so such an instruction always runs in a block
 * of its own. In 16-bit code, in segments that are not flat, and while accesses are watched (sys_debug.c),
 * the translator's idea of an address is not enough: here its operand's segment, limit, alignment and
 * breakpoints are seen to first. Outside of flat code the block then takes the linear address as given
 * (MODE_NATIVE, in tcpu.scratch[2]) and only does what is left, paging and the instruction itself. Gathers
 * and masked moves look at each element themselves (vec_mem.c). */
#include <string.h>

#include <Zydis/Zydis.h>

#include "engine/translator/interp.h"
#include "engine/translator/masked.h"
#include "engine/translator/mmu.h"
#include "engine/translator/sys.h"
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
    insn_decoder_init(&decoder, c->code_bits);
    if (ZYAN_SUCCESS(insn_decode_zydis(&decoder, bytes, got, &d->in, d->ops)))
        return true;
    return cpu_raise(c, EXC_UD);
}

unsigned operand_segment(const ZydisDecodedOperand *op)
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
    return insn_uses_class(&d->in, d->ops, ZYDIS_REGCLASS_MMX);
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

/* Whether an x87 exception is pending, which is reported before anything is asked of the operand. The x87
 * state is in xsave_area. */
static bool is_pending(const struct tcpu *c, const struct decoded *d)
{
    const uint8_t *status = c->xsave_area + 2;

    /* XSTATE_BV's bit clear: x87 is as after FNINIT */
    return (c->xsave_area[512] & 1) && insn_waits_for_fpu(&d->in, d->ops) && (status[0] & 0x80);
}

#define X87_STORE(opcode, reg) ((opcode) << 3 | (reg))
/* The exceptions of one x87 store, with the x87 state in xsave_area; 0 for others. Which registers it pops is
 * no matter. */
#define X87_TRY(insn)                                                                                        \
    __asm__ volatile("fxsave64 %2\n\tfxrstor64 %3\n\t" insn " %1\n\tfnstsw %0\n\tfxrstor64 %2"               \
                     : "=a"(status), "=m"(stored), "=m"(own)                                                 \
                     : "m"(guest))
static unsigned x87_store_exceptions(const struct tcpu *c, const ZydisDecodedInstruction *in)
{
    struct {
        _Alignas(16) uint8_t bytes[512];
    } own, guest;
    uint8_t stored[16];
    uint16_t status = 0;

    memcpy(guest.bytes, c->xsave_area, sizeof guest.bytes);
    switch (in->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY ? X87_STORE(in->opcode, in->raw.modrm.reg)
                                                              : 0) {
    case X87_STORE(0xd9, 2):
    case X87_STORE(0xd9, 3): X87_TRY("fsts"); break;
    case X87_STORE(0xdd, 2):
    case X87_STORE(0xdd, 3): X87_TRY("fstl"); break;
    case X87_STORE(0xdb, 7): X87_TRY("fstpt"); break;
    case X87_STORE(0xdf, 2):
    case X87_STORE(0xdf, 3): X87_TRY("fists"); break;
    case X87_STORE(0xdb, 2):
    case X87_STORE(0xdb, 3): X87_TRY("fistl"); break;
    case X87_STORE(0xdf, 7): X87_TRY("fistpll"); break;
    case X87_STORE(0xdf, 1): X87_TRY("fisttps"); break;
    case X87_STORE(0xdb, 1): X87_TRY("fisttpl"); break;
    case X87_STORE(0xdd, 1): X87_TRY("fisttpll"); break;
    case X87_STORE(0xdf, 6): X87_TRY("fbstp"); break;
    default: return 0;
    }
    return status & 0x1f & ~(unsigned)(guest.bytes[0]);
}

/* Intel's do not look at the operand of an x87 store that an unmasked exception (other than precision, SDM
 * volume 1, 8.5) keeps from storing. */
static bool stores_nothing(const struct tcpu *c, const struct decoded *d)
{
    return !c->vm->cpuid.is_amd && (c->xsave_area[512] & 1) && insn_waits_for_fpu(&d->in, d->ops) &&
           !is_pending(c, d) && x87_store_exceptions(c, &d->in);
}

/* A vector whose alignment is not optional. */
static bool must_be_aligned(const struct tcpu *c, const struct decoded *d, unsigned size)
{
    enum mmu_align align = MMU_ALIGN_NONE;
    uint32_t mxcsr;

    if (size == 16 || size == 32 || size == 64)
        align = operand_align(&d->in, size, c->vm->cpuid.is_amd);
    memcpy(&mxcsr, c->xsave_area + 24, 4);
    return align != MMU_ALIGN_NONE && !(align == MMU_ALIGN_UNLESS_MM && (mxcsr & MXCSR_MM));
}

/* Such a vector that is not aligned: that is #GP. */
static bool is_misaligned(const struct tcpu *c, const struct decoded *d, unsigned size)
{
    return must_be_aligned(c, d, size) && (c->scratch[2] & mmu_align_mask(size));
}

/* Whether #AC is not for this vector: it raises #GP, or it is looked at by element (seen on both vendors'
 * processors), or Intel's never look (SDM volume 2, 2.4: exception type 11). */
static bool is_exempt(const struct tcpu *c, const struct decoded *d, unsigned size)
{
    switch (d->in.mnemonic) {
    case ZYDIS_MNEMONIC_VMASKMOVPS:
    case ZYDIS_MNEMONIC_VMASKMOVPD:
    case ZYDIS_MNEMONIC_VPMASKMOVD:
    case ZYDIS_MNEMONIC_VPMASKMOVQ: return true;
    case ZYDIS_MNEMONIC_VCVTPH2PS:
    case ZYDIS_MNEMONIC_VCVTPS2PH: return !c->vm->cpuid.is_amd;
    default: return is_misaligned(c, d, size);
    }
}

/* VCVTPS2PH through CS in 32-bit code: Intel's have set MXCSR's flags before #GP, which the block sees to. */
static bool denies_itself(const struct tcpu *c, const struct decoded *d, bool write)
{
    return write && !c->vm->cpuid.is_amd && d->in.mnemonic == ZYDIS_MNEMONIC_VCVTPS2PH &&
           d->ops[0].type == ZYDIS_OPERAND_TYPE_MEMORY && d->ops[0].mem.segment == ZYDIS_REGISTER_CS;
}

/* Whether what the operand's check has found is not what this instruction raises: then the block does, which
 * in 64-bit mode looks at all but the alignment itself. Intel's MMX stores have set TOP to 0 before anything
 * is checked. */
static bool is_excused(struct tcpu *c, const struct decoded *d, unsigned size, bool write)
{
    if (is_pending(c, d))
        return true;
    if (c->exc.vector == EXC_AC ? is_exempt(c, d, size) : cpu_code64(c) || denies_itself(c, d, write))
        return true;
    if (is_mmx(d) && write && !c->vm->cpuid.is_amd && (c->xsave_area[512] & 1))
        clear_top(c->xsave_area);
    return false;
}

/* Where whole_pieces counts from. */
static uint64_t place_of(const struct tcpu *c, unsigned seg, uint64_t off)
{
    return cpu_code64(c) && seg >= S_FS ? off + c->seg[seg].base : off;
}

/* An operand across the end of a segment of 4 GiB or of the lower canonical half, of which AMD's look at each
 * piece; but not if both halves of a vector of 512 bits that must be aligned meet at the end of the segment
 * (seen on Zen 4). */
static bool is_in_pieces(const struct tcpu *c, const struct decoded *d, unsigned seg, uint64_t off,
                         unsigned size, bool write)
{
    uint64_t at = place_of(c, seg, off);
    bool across = cpu_code64(c) ? cpu_canonical(at) && !cpu_canonical(at + size - 1)
                                : c->seg[seg].limit == 0xffffffffu && off + size - 1 > 0xffffffffu;

    if (size == 64 && off + 32 == 1ull << 32 && !cpu_code64(c) && must_be_aligned(c, d, size))
        return false;
    return across && c->vm->cpuid.is_amd && whole_pieces(cpu_code64(c), at, size, write) > 0;
}

static bool pieces_fit(struct tcpu *c, unsigned seg, uint64_t off, unsigned size, bool write)
{
    unsigned fit = whole_pieces(cpu_code64(c), place_of(c, seg, off), size, write);

    if (!interp_operand(c, seg, off, 1, write, &c->scratch[2]))
        return false;
    if (size == 64 && c->watch && !sys_watch_access(c, c->scratch[2], size, write)) /* as if in one piece */
        return false;
    if (fit == size)
        return true;
    return mmu_probe(c, c->scratch[2], fit, write ? MMU_WRITE : MMU_READ, MMU_AS_CPL) &&
           cpu_raise_error(c, seg == S_SS ? EXC_SS : EXC_GP, 0);
}

static uint64_t mask_register(const struct tcpu *c, ZydisRegister k)
{
    uint64_t v = 0;

    if (k == ZYDIS_REGISTER_NONE || k == ZYDIS_REGISTER_K0)
        return ~0ull;
    if (c->xsave_area[XSAVE_HEADER] & 0x20)
        memcpy(&v, c->xsave_area + c->vm->cpuid.host_d[5].ebx + 8u * (unsigned)(k - ZYDIS_REGISTER_K0), 8);
    return v;
}

/* What the linear address of an operand under a mask must be a multiple of, less 1. Intel's check operands of
 * up to eight bytes, as a whole; AMD's any, for their elements (seen on Zen 4). */
static unsigned masked_alignment(const struct tcpu *c, unsigned element, unsigned whole)
{
    if (c->vm->cpuid.is_amd)
        return element - 1;
    return whole <= 8 ? whole - 1 : 0;
}

/* True: an exception is pending. */
static bool is_unaligned(struct tcpu *c, const struct decoded *d, unsigned element, unsigned whole)
{
    return (c->watch & WATCH_ALIGN) && (c->scratch[2] & masked_alignment(c, element, whole)) &&
           !is_exempt(c, d, whole) && !cpu_raise_error(c, EXC_AC, 0);
}

/* Whether the pages of these elements, which their segment has, let them be accessed. */
static bool are_there(struct tcpu *c, unsigned seg, uint64_t off, unsigned size, uint64_t elements,
                      enum mmu_acc acc)
{
    for (unsigned i = 0; masked_stretch(elements, &i) > 0; i++) {
        uint64_t lin;

        seg_check(c, seg, off + i * size, size, acc, &lin);
        if (!mmu_probe(c, lin, size, acc, MMU_AS_CPL))
            return false;
    }
    return true;
}

/* What AMD's raise when an element is outside its segment: they look at the alignment of all first, and then
 * at the elements in order, segment and page. False: the fault of a page is pending. */
static bool comes_first(struct tcpu *c, const struct decoded *d, const ZydisDecodedOperand *op, unsigned size,
                        uint64_t before, struct tcpu_exception *fault)
{
    bool write = (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;

    if (is_misaligned(c, d, op->size / 8u)) {
        fault->vector = EXC_GP;
        return true;
    }
    return are_there(c, operand_segment(op), offset_of(c, d, op), size, before, write ? MMU_WRITE : MMU_READ);
}

/* Of an operand under a mask only what is accessed. AMD's look at its alignment first, if their first element
 * is in the segment. */
static bool see_to_elements(struct tcpu *c, const struct decoded *d, const ZydisDecodedOperand *op,
                            uint32_t m)
{
    bool write = (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0, amd = c->vm->cpuid.is_amd;
    uint64_t elements = masked_elements(m, mask_register(c, d->in.avx.mask.reg)), lin;
    unsigned seg = operand_segment(op), size = MASKED_SIZE(m), whole = op->size / 8u, first = 0;
    uint64_t off = offset_of(c, d, op);

    enum mmu_acc acc = write ? MMU_WRITE : MMU_READ;

    seg_check(c, seg, off, 1, acc, &c->scratch[2]);
    masked_stretch(elements, &first);
    if (amd && elements && seg_check(c, seg, off + first * size, size, acc, &lin) &&
        is_unaligned(c, d, size, whole))
        return false;
    for (; masked_stretch(elements, &first) > 0; first++) {
        if (interp_operand(c, seg, off + first * size, size, write, &lin))
            continue;
        struct tcpu_exception fault = c->exc;
        c->exc.pending = 0;
        if (fault.vector == EXC_AC)
            continue;
        if (!amd || comes_first(c, d, op, size, elements & masked_low_bits(first), &fault))
            c->exc = fault;
        return false;
    }
    return amd || !elements || !is_unaligned(c, d, size, whole);
}

static bool see_to_operand(struct tcpu *c, const struct decoded *d, const ZydisDecodedOperand *op)
{
    bool write = (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
    unsigned size = op->size / 8u, seg = operand_segment(op);
    uint64_t off = offset_of(c, d, op);
    uint32_t masked = masked_by_element(&d->in, d->ops, c->vm->cpuid.is_amd);

    if (masked)
        return see_to_elements(c, d, op, masked);
    if (d->in.meta.category == ZYDIS_CATEGORY_XSAVE || d->in.meta.category == ZYDIS_CATEGORY_XSAVEOPT)
        size = cpuid_model_xsave_size(&c->vm->cpuid, c->gpr[R_AX] & c->xcr0);
    size = size ? size : 1;
    if (write && stores_nothing(c, d)) {
        seg_check(c, seg, off, size, MMU_WRITE, &c->scratch[2]);
        return true;
    }
    seg_check(c, seg, off, 1, write ? MMU_WRITE : MMU_READ, &c->scratch[2]);
    if (!is_misaligned(c, d, size) && is_in_pieces(c, d, seg, off, size, write)
            ? pieces_fit(c, seg, off, size, write)
            : interp_operand(c, seg, off, size, write, &c->scratch[2]))
        return true;
    if (c->exc.vector == EXC_SS && c->vm->cpuid.is_amd && is_misaligned(c, d, size))
        c->exc.vector = EXC_GP;
    if (!is_excused(c, d, size, write))
        return false;
    c->exc.pending = 0;
    return true;
}

/* Whether nothing is to be asked of the operand here: the block raises #UD or #NM, or goes to vec_mem.c. */
static bool is_elsewhere(struct tcpu *c, struct decoded *d)
{
    struct trans t = { .vm = c->vm,
                       .c = c,
                       .mode = vcpu_mode(c) | MODE_NATIVE,
                       .bits = c->code_bits == 64 ? 64 : 32,
                       .in = &d->in,
                       .ops = d->ops,
                       .mem = insn_find_mem(&d->in, d->ops) };
    unsigned special;

    return classify_insn(&t, &special) == WAY_SPECIAL;
}

bool heavy_native(struct tcpu *c, unsigned *len)
{
    struct decoded d;

    if (!decode(c, &d))
        return false;
    *len = d.in.length;
    if (is_elsewhere(c, &d))
        return true;
    for (unsigned i = 0; i < d.in.operand_count; i++) {
        const ZydisDecodedOperand *op = &d.ops[i];

        if (op->type == ZYDIS_OPERAND_TYPE_MEMORY && op->mem.type != ZYDIS_MEMOP_TYPE_AGEN &&
            !see_to_operand(c, &d, op))
            return false;
    }
    return true;
}
