/* Vector instructions whose memory operand is not one stretch of bytes: gathers, scatters, masked moves of
 * AVX and SSE. Heavy.
 *
 * They touch each element by itself: an element that the mask leaves out must not fault, and a gather or
 * scatter that faults keeps what it has done and the mask bits still to do (Intel SDM volume 2, VGATHERDPS,
 * VPSCATTERDD: elements go in order from the lowest). The guest's vector registers are in xsave_area in the
 * standard format while this runs. Moves under AVX-512's masks are not here (masked.c). */
#include <string.h>

#include <Zydis/Zydis.h>

#include "engine/translator/interp.h"
#include "engine/translator/mmu.h"
#include "engine/translator/sys.h"
#include "engine/translator/trans.h"
#include "engine/translator/vcpu.h"

#define XSAVE_XMM 160
#define XSAVE_ST 32
#define XSAVE_SSE 1 /* numbers of components */
#define XSAVE_YMM 2
#define XSAVE_MASKS 5
#define XSAVE_ZMM 6
#define XSAVE_HI16 7

struct vec {
    uint8_t b[64];
};

struct vec_insn {
    ZydisDecodedInstruction in;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
};

static uint64_t *xstate_bv(struct tcpu *c)
{
    return (uint64_t *)(void *)(c->xsave_area + XSAVE_HEADER);
}
static bool in_use(struct tcpu *c, unsigned component)
{
    return (*xstate_bv(c) & c->vm->cpuid.xcr0_mask) >> component & 1;
}
static uint8_t *component_at(struct tcpu *c, unsigned component)
{
    return c->xsave_area + (component == XSAVE_SSE ? XSAVE_XMM : c->vm->cpuid.host_d[component].ebx);
}
/* The same for writing: what is not in use is not what the area holds. */
static uint8_t *use_component(struct tcpu *c, unsigned component)
{
    if (!in_use(c, component))
        memset(component_at(c, component), 0,
               component == XSAVE_SSE ? 16 * 16 : c->vm->cpuid.host_d[component].eax);
    *xstate_bv(c) |= 1ull << component;
    return component_at(c, component);
}

static struct vec read_vec(struct tcpu *c, unsigned n)
{
    struct vec v = { { 0 } };
    if (n >= 16) {
        if (in_use(c, XSAVE_HI16))
            memcpy(v.b, component_at(c, XSAVE_HI16) + (n - 16) * 64, 64);
        return v;
    }
    if (in_use(c, XSAVE_SSE))
        memcpy(v.b, component_at(c, XSAVE_SSE) + n * 16, 16);
    if (in_use(c, XSAVE_YMM))
        memcpy(v.b + 16, component_at(c, XSAVE_YMM) + n * 16, 16);
    if (in_use(c, XSAVE_ZMM))
        memcpy(v.b + 32, component_at(c, XSAVE_ZMM) + n * 32, 32);
    return v;
}

/* Writes the whole register (VEX and EVEX semantics: what v does not name is zero). */
static void write_vec(struct tcpu *c, unsigned n, const struct vec *v)
{
    static const uint8_t zero[32];
    if (n >= 16) {
        memcpy(use_component(c, XSAVE_HI16) + (n - 16) * 64, v->b, 64);
        return;
    }
    memcpy(use_component(c, XSAVE_SSE) + n * 16, v->b, 16);
    memcpy(use_component(c, XSAVE_YMM) + n * 16, v->b + 16, 16);
    if (in_use(c, XSAVE_ZMM) || memcmp(v->b + 32, zero, 32) != 0)
        memcpy(use_component(c, XSAVE_ZMM) + n * 32, v->b + 32, 32);
}

static uint64_t read_mask(struct tcpu *c, unsigned n)
{
    uint64_t v = 0;
    if (in_use(c, XSAVE_MASKS))
        memcpy(&v, component_at(c, XSAVE_MASKS) + n * 8, 8);
    return v;
}

static void write_mask(struct tcpu *c, unsigned n, uint64_t v)
{
    memcpy(use_component(c, XSAVE_MASKS) + n * 8, &v, 8);
}

static uint64_t gpr_value(const struct tcpu *c, ZydisRegister r)
{
    return r == ZYDIS_REGISTER_NONE ? 0 : c->gpr[ZydisRegisterGetId(r) & 15];
}

/* Base and displacement of a memory operand; the index (general register) is added if it is one. */
static uint64_t operand_offset(const struct tcpu *c, const struct vec_insn *v, const ZydisDecodedOperand *op,
                               int64_t add)
{
    uint64_t a = (uint64_t)op->mem.disp.value + (uint64_t)add;
    if (op->mem.base == ZYDIS_REGISTER_RIP)
        a += c->rip + v->in.length;
    else
        a += gpr_value(c, op->mem.base);
    if (op->mem.type != ZYDIS_MEMOP_TYPE_VSIB && op->mem.index != ZYDIS_REGISTER_NONE)
        a += gpr_value(c, op->mem.index) * (op->mem.scale ? op->mem.scale : 1);
    return v->in.address_width == 64 ? a : a & ((1ull << v->in.address_width) - 1);
}

static uint64_t operand_address(const struct tcpu *c, const struct vec_insn *v, const ZydisDecodedOperand *op,
                                int64_t add)
{
    uint64_t a = operand_offset(c, v, op, add);
    if (op->mem.segment == ZYDIS_REGISTER_FS)
        a += c->seg_base_fs;
    else if (op->mem.segment == ZYDIS_REGISTER_GS)
        a += c->seg_base_gs;
    return c->code_bits == 64 ? a : (uint32_t)a;
}

/* The linear address of n bytes of the operand, which its segment has. False: an exception is pending. */
static bool element_address(struct tcpu *c, const struct vec_insn *v, const ZydisDecodedOperand *op,
                            int64_t add, unsigned n, enum mmu_acc acc, uint64_t *lin)
{
    return seg_linear(c, operand_segment(op), operand_offset(c, v, op, add), n, acc, lin);
}

/* Moves one element of n bytes. False: an exception is pending. */
static bool move_element(struct tcpu *c, const struct vec_insn *v, const ZydisDecodedOperand *op, int64_t add,
                         void *p, unsigned n, bool write)
{
    uint64_t at;

    if (!element_address(c, v, op, add, n, write ? MMU_WRITE : MMU_READ, &at) ||
        !(write ? mmu_write(c, at, p, n, MMU_AS_CPL) : mmu_read(c, at, p, n, MMU_AS_CPL)))
        return false;
    if (c->watch & WATCH_DATA)
        sys_watch_data(c, at, n, write);
    return true;
}

static bool mask_bit(const struct vec *m, unsigned i, unsigned size)
{
    return m->b[(i + 1) * size - 1] & 0x80;
}

/* What element i's index adds to the base. */
static int64_t index_part(const ZydisDecodedOperand *mem, const struct vec *idx, unsigned i,
                          unsigned idx_size)
{
    int32_t narrow;
    int64_t x;
    if (idx_size == 4) {
        memcpy(&narrow, idx->b + i * 4, 4);
        x = narrow;
    } else {
        memcpy(&x, idx->b + i * 8, 8);
    }
    return (int64_t)((uint64_t)x * (mem->mem.scale ? mem->mem.scale : 1u));
}

/* A gather or scatter that is half done when an element faults: traps of what it has done go before the
 * fault, with RF set in what is pushed (SDM volume 2, VPGATHERDD). `any`: it has done an element. Returns ok.
 */
static bool half_done(struct tcpu *c, bool ok, bool any)
{
    bool step = (c->rflags & FL_TF) && !(c->debugctl & DEBUGCTL_BTF);
    if (ok || !any || !(step || c->debug_hits))
        return ok;
    c->exc.pending = 0;
    sys_raise_trap(c, step);
    c->rflags |= FL_RF;
    return false;
}

static bool gather(struct tcpu *c, const struct vec_insn *v, unsigned elem, unsigned idx_size)
{
    unsigned rd = (unsigned)ZydisRegisterGetId(v->ops[0].reg.value),
             rm = (unsigned)ZydisRegisterGetId(v->ops[2].reg.value);
    unsigned ri = (unsigned)ZydisRegisterGetId(v->ops[1].mem.index), vl = v->in.avx.vector_length / 8u;
    if (rd == rm || rd == ri || rm == ri)
        return cpu_raise(c, EXC_UD);
    unsigned n = vl / (elem > idx_size ? elem : idx_size);
    struct vec dst = read_vec(c, rd), mask = read_vec(c, rm), idx = read_vec(c, ri);
    unsigned done = 0;
    bool ok = true, any = false;
    for (unsigned i = 0; i < n && ok; i++) {
        if (mask_bit(&mask, i, elem)) {
            ok = move_element(c, v, &v->ops[1], index_part(&v->ops[1], &idx, i, idx_size), dst.b + i * elem,
                              elem, false);
            any |= ok;
        }
        if (ok)
            memset(mask.b + i * elem, 0, elem);
        done += ok;
    }
    /* AMD's leave what remains as it was (seen on Zen 4); else it is all ones or all zeros per element. */
    for (unsigned i = done; i < n && !c->vm->cpuid.is_amd; i++)
        memset(mask.b + i * elem, mask_bit(&mask, i, elem) ? 0xff : 0, elem);
    if (ok || !c->vm->cpuid.is_amd) {
        memset(dst.b + n * elem, 0, sizeof dst.b - n * elem);
        memset(mask.b + n * elem, 0, sizeof mask.b - n * elem);
    }
    write_vec(c, rd, &dst);
    write_vec(c, rm, &mask);
    return half_done(c, ok, any);
}

/* Both ways, under a mask register that loses the bits of elements that are done. */
static bool move_by_index(struct tcpu *c, const struct vec_insn *v, unsigned elem, unsigned idx_size)
{
    bool store = v->ops[0].type == ZYDIS_OPERAND_TYPE_MEMORY;
    const ZydisDecodedOperand *mem = &v->ops[store ? 0 : 2], *reg = &v->ops[store ? 2 : 0];
    unsigned rv = (unsigned)ZydisRegisterGetId(reg->reg.value), k = v->in.avx.mask.reg - ZYDIS_REGISTER_K0,
             ri = (unsigned)ZydisRegisterGetId(mem->mem.index), vl = v->in.avx.vector_length / 8u;
    unsigned n = vl / (elem > idx_size ? elem : idx_size);
    if (k == 0 || (!store && rv == ri))
        return cpu_raise(c, EXC_UD);
    struct vec data = read_vec(c, rv), idx = read_vec(c, ri);
    uint64_t mask = read_mask(c, k);
    bool ok = true, any = false;
    for (unsigned i = 0; i < n && ok; i++) {
        if (!(mask >> i & 1))
            continue;
        ok = move_element(c, v, mem, index_part(mem, &idx, i, idx_size), data.b + i * elem, elem, store);
        if (ok)
            mask &= ~(1ull << i);
        any |= ok;
    }
    /* What is above the vector goes with the first element that is loaded, the upper half of one that the
     * elements do not fill with the last. */
    unsigned end = ok ? n * elem : any ? vl : (unsigned)sizeof data.b;
    memset(data.b + end, 0, sizeof data.b - end);
    if (!store)
        write_vec(c, rv, &data);
    write_mask(c, k, ok ? 0 : mask);
    return half_done(c, ok, any);
}

static bool by_index(struct tcpu *c, const struct vec_insn *v, unsigned elem, unsigned idx_size)
{
    return v->in.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX ? move_by_index(c, v, elem, idx_size)
                                                             : gather(c, v, elem, idx_size);
}

static bool mask_load(struct tcpu *c, const struct vec_insn *v, unsigned elem)
{
    struct vec mask = read_vec(c, (unsigned)ZydisRegisterGetId(v->ops[1].reg.value)), out = { { 0 } };
    unsigned vl = v->in.avx.vector_length / 8u;
    for (unsigned i = 0; i < vl / elem; i++) {
        if (mask_bit(&mask, i, elem) &&
            !move_element(c, v, &v->ops[2], i * elem, out.b + i * elem, elem, false))
            return false;
    }
    write_vec(c, (unsigned)ZydisRegisterGetId(v->ops[0].reg.value), &out);
    return true;
}

static bool mask_store(struct tcpu *c, const struct vec_insn *v, const ZydisDecodedOperand *mem,
                       const struct vec *mask, uint8_t *src, unsigned elem, unsigned bytes)
{
    for (unsigned pass = 0; pass < 2; pass++) {
        for (unsigned i = 0; i < bytes / elem; i++) {
            uint64_t a;
            if (!mask_bit(mask, i, elem))
                continue;
            if (pass ? !move_element(c, v, mem, i * elem, src + i * elem, elem, true)
                     : !element_address(c, v, mem, i * elem, elem, MMU_WRITE, &a) ||
                           !mmu_probe(c, a, elem, MMU_WRITE, MMU_AS_CPL))
                return false;
        }
    }
    return true;
}

/* When only the second page of what is stored faults, Intel's report the last byte that would be stored. */
static void blame_last_byte(struct tcpu *c, const struct vec_insn *v, const struct vec *mask, unsigned elem)
{
    uint64_t first = 0, last = 0;
    bool any = false;
    if (c->vm->cpuid.is_amd || c->exc.vector != EXC_PF)
        return;
    for (unsigned i = 0; i < v->in.avx.vector_length / 8u / elem; i++) {
        if (!mask_bit(mask, i, elem))
            continue;
        if (!any)
            first = operand_address(c, v, &v->ops[0], i * elem);
        last = operand_address(c, v, &v->ops[0], (i + 1) * elem - 1);
        any = true;
    }
    if ((first ^ last) & PAGE_MASK && !((c->exc.cr2 ^ last) & PAGE_MASK))
        c->exc.cr2 = last;
}

static bool mask_store_vex(struct tcpu *c, const struct vec_insn *v, unsigned elem)
{
    struct vec mask = read_vec(c, (unsigned)ZydisRegisterGetId(v->ops[1].reg.value));
    struct vec src = read_vec(c, (unsigned)ZydisRegisterGetId(v->ops[2].reg.value));
    if (mask_store(c, v, &v->ops[0], &mask, src.b, elem, v->in.avx.vector_length / 8u))
        return true;
    blame_last_byte(c, v, &mask, elem);
    return false;
}

/* MASKMOVQ, MASKMOVDQU: bytes of the first operand, chosen by the second, to (segment) rDI. */
static bool mask_bytes(struct tcpu *c, const struct vec_insn *v, bool mmx)
{
    struct vec src = { { 0 } }, mask = { { 0 } };
    const ZydisDecodedOperand *mem = NULL, *reg[2] = { NULL, NULL };
    unsigned regs = 0;
    for (unsigned i = 0; i < v->in.operand_count; i++) {
        if (v->ops[i].type == ZYDIS_OPERAND_TYPE_MEMORY)
            mem = &v->ops[i];
        else if (regs < 2 && v->ops[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
                 v->ops[i].visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT)
            reg[regs++] = &v->ops[i];
    }
    if (!mem || regs < 2)
        return cpu_raise(c, EXC_UD);
    unsigned a = (unsigned)ZydisRegisterGetId(reg[0]->reg.value),
             b = (unsigned)ZydisRegisterGetId(reg[1]->reg.value);
    if (mmx) {
        memcpy(src.b, c->xsave_area + XSAVE_ST + (a & 7) * 16, 8);
        memcpy(mask.b, c->xsave_area + XSAVE_ST + (b & 7) * 16, 8);
    } else {
        src = read_vec(c, a);
        mask = read_vec(c, b);
    }
    /* All check the whole operand whatever the mask, 8 bytes at a time: Intel's the upper ones first. */
    for (unsigned i = 0, n = mmx ? 1 : 2; i < n; i++) {
        unsigned part = c->vm->cpuid.is_amd ? i : n - 1 - i;
        uint64_t lin;
        if (!element_address(c, v, mem, part * 8, 8, MMU_WRITE, &lin))
            return false;
        if (i == 0 && (c->watch & WATCH_ALIGN) && (lin & 7))
            return cpu_raise_error(c, EXC_AC, 0);
        if (!mmu_probe(c, lin, 8, MMU_WRITE, MMU_AS_CPL))
            return false;
    }
    return mask_store(c, v, mem, &mask, src.b, 1, mmx ? 8 : 16);
}

static bool execute(struct tcpu *c, const struct vec_insn *v)
{
    bool store = v->ops[0].type == ZYDIS_OPERAND_TYPE_MEMORY;
    switch (v->in.mnemonic) {
    case ZYDIS_MNEMONIC_VGATHERDPS:
    case ZYDIS_MNEMONIC_VPGATHERDD:
    case ZYDIS_MNEMONIC_VSCATTERDPS:
    case ZYDIS_MNEMONIC_VPSCATTERDD: return by_index(c, v, 4, 4);
    case ZYDIS_MNEMONIC_VGATHERDPD:
    case ZYDIS_MNEMONIC_VPGATHERDQ:
    case ZYDIS_MNEMONIC_VSCATTERDPD:
    case ZYDIS_MNEMONIC_VPSCATTERDQ: return by_index(c, v, 8, 4);
    case ZYDIS_MNEMONIC_VGATHERQPS:
    case ZYDIS_MNEMONIC_VPGATHERQD:
    case ZYDIS_MNEMONIC_VSCATTERQPS:
    case ZYDIS_MNEMONIC_VPSCATTERQD: return by_index(c, v, 4, 8);
    case ZYDIS_MNEMONIC_VGATHERQPD:
    case ZYDIS_MNEMONIC_VPGATHERQQ:
    case ZYDIS_MNEMONIC_VSCATTERQPD:
    case ZYDIS_MNEMONIC_VPSCATTERQQ: return by_index(c, v, 8, 8);
    case ZYDIS_MNEMONIC_VMASKMOVPS:
    case ZYDIS_MNEMONIC_VPMASKMOVD: return store ? mask_store_vex(c, v, 4) : mask_load(c, v, 4);
    case ZYDIS_MNEMONIC_VMASKMOVPD:
    case ZYDIS_MNEMONIC_VPMASKMOVQ: return store ? mask_store_vex(c, v, 8) : mask_load(c, v, 8);
    case ZYDIS_MNEMONIC_MASKMOVQ: return mask_bytes(c, v, true);
    case ZYDIS_MNEMONIC_MASKMOVDQU:
    case ZYDIS_MNEMONIC_VMASKMOVDQU: return mask_bytes(c, v, false);
    default: return cpu_raise(c, EXC_UD);
    }
}

bool heavy_vec_mem(struct tcpu *c)
{
    struct vec_insn v;
    ZydisDecoder d;
    uint8_t bytes[15];
    unsigned got;
    if (!mmu_fetch(c, c->rip, bytes, sizeof bytes, &got))
        return false;
    insn_decoder_init(&d, c->code_bits);
    if (!ZYAN_SUCCESS(insn_decode_zydis(&d, bytes, got, &v.in, v.ops)))
        return cpu_raise(c, EXC_UD);
    if (execute(c, &v))
        return true;
    for (unsigned i = 0; i < v.in.operand_count; i++) {
        if (v.ops[i].type == ZYDIS_OPERAND_TYPE_MEMORY && v.ops[i].mem.segment == ZYDIS_REGISTER_SS &&
            c->exc.vector == EXC_GP)
            c->exc.vector = EXC_SS;
    }
    return false;
}
