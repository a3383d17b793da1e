/* Instructions that do not fault in user mode, but would tell of the host instead of the guest. Heavy.
 *
 * Theory of operation. Where they are in a page that runs directly, the process is made to stop
 * (userproc_break); there are only so many breakpoints, so a page with more of them is translated. All are
 * known by two bytes or three, which displacements and constants may have, too; so bytes that look like one
 * count only if reading instructions from some way before ends up at them, as it does where code is meant to
 * be read in one way only. One may begin at the end of a page and end in the next: two pages that make one do
 * not both run. SYSCALL and INT n are not looked for: the host stops at them (host/userproc.h), but for INT
 * 4, of which it tells no more than of a fault of the instruction behind it. RDTSC need not be, since the
 * guest's TSC is the host's, or else the host is told to stop there, which makes each run twice as long on
 * some. RDTSCP tells TSC_AUX as well, but Linux' vDSO and others that use it for its order only do not look:
 * it may run if on all ways from it ECX is overwritten before it is read.
 *
 * Sources: Intel SDM volume 2 (2023-12), appendix A, tables. */
#include <string.h>

#include "engine/translator/direct_priv.h"

#include "engine/translator/trans.h"

#define MODRM_REG(m) (((m) >> 3) & 7)
#define MODRM_IS_MEM(m) ((m) < 0xc0)
#define NO_MODRM 0x38   /* with which nothing tells whose ModRM counts */
#define RUN_UP 160u     /* bytes before: some forty instructions to fall in step */
#define FORGET_STEPS 48 /* instructions behind RDTSCP, of all ways together */

/* 0F 01: SGDT, SIDT, SMSW, and all that have no operand but XEND, XTEST and ENCLU, which finds no enclave
 * and faults: XGETBV, RDTSCP, RDPRU, RDPKRU...; a monitor of the host's would answer VMCALL and VMMCALL. */
static bool group7_tells(uint8_t m)
{
    return MODRM_IS_MEM(m) ? MODRM_REG(m) < 2 || MODRM_REG(m) == 4 : m < 0xd5 || m > 0xd7;
}

/* Of 0F, this opcode and ModRM. */
static bool tells(uint8_t opcode, uint8_t m, unsigned may)
{
    switch (opcode) {
    case 0x00: return MODRM_REG(m) < 2 || (MODRM_REG(m) & 6) == 4; /* SLDT, STR, VERR, VERW */
    case 0x01: return group7_tells(m);
    case 0x02: /* LAR */
    case 0x03: /* LSL */
    case 0x33: /* RDPMC */
    case 0x34: /* SYSENTER, of which the host does not know the way back */ return true;
    case 0x31: return !(may & DIRECT_MAY_TSC); /* RDTSC */
    case 0xa2: return !(may & DIRECT_MAY_CPUID);
    case 0xae: /* XSAVE, XSAVEOPT */
        return !(may & DIRECT_MAY_XSAVE) && MODRM_IS_MEM(m) && (MODRM_REG(m) & 5) == 4;
    case 0xc7: /* RDPID, and RDSEED, which differs in a prefix; XSAVEC */
        return m >= 0xf8 || (!(may & DIRECT_MAY_XSAVE) && MODRM_IS_MEM(m) && MODRM_REG(m) == 4);
    default: return false;
    }
}

/* Whether these bytes look like one. */
static bool is_site(uint8_t a, uint8_t b, uint8_t c, unsigned may)
{
    return (a == 0x0f && tells(b, c, may)) || (a == 0xcd && b == 4);
}

/* Where the instruction begins whose opcode stands at `at`, if who reads instructions from some way before
 * comes to it; else ~0. */
static unsigned start_of(const ZydisDecoder *decoder, const uint8_t *code, unsigned at, unsigned len)
{
    ZydisDecoderContext context;
    ZydisDecodedInstruction in;
    unsigned i = at > RUN_UP ? at - RUN_UP : 0;
    while (i < at) {
        if (ZYAN_FAILED(ZydisDecoderDecodeInstruction(decoder, &context, code + i, len - i, &in)))
            i++;
        else if (i + in.length > at)
            return i + in.raw.prefix_count >= at ? i : ~0u;
        else
            i += in.length;
    }
    return at;
}

static bool is_in_rcx(ZydisRegister r)
{
    return ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, r) == ZYDIS_REGISTER_RCX;
}

enum use { USE_NONE, USE_READ, USE_OVERWRITTEN };

/* Some write only if something is so; of those that always do, these are what follows RDTSCP. */
static bool always_writes(ZydisMnemonic m)
{
    return m == ZYDIS_MNEMONIC_MOV || m == ZYDIS_MNEMONIC_MOVZX || m == ZYDIS_MNEMONIC_MOVSX ||
           m == ZYDIS_MNEMONIC_MOVSXD || m == ZYDIS_MNEMONIC_LEA || m == ZYDIS_MNEMONIC_POP ||
           m == ZYDIS_MNEMONIC_RDTSCP || m == ZYDIS_MNEMONIC_CPUID || m == ZYDIS_MNEMONIC_SYSCALL;
}

/* What an instruction does with ECX. */
static enum use use_of_ecx(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *ops)
{
    enum use use = USE_NONE;
    for (unsigned i = 0; i < in->operand_count; i++) {
        const ZydisDecodedOperand *o = &ops[i];
        ZydisRegister reg = o->type == ZYDIS_OPERAND_TYPE_REGISTER ? o->reg.value : ZYDIS_REGISTER_NONE;
        if (o->type == ZYDIS_OPERAND_TYPE_MEMORY && (is_in_rcx(o->mem.base) || is_in_rcx(o->mem.index)))
            return USE_READ;
        if (is_in_rcx(reg) && (o->actions & ZYDIS_OPERAND_ACTION_MASK_READ))
            return USE_READ;
        if (reg == ZYDIS_REGISTER_RCX || reg == ZYDIS_REGISTER_ECX)
            use = always_writes(in->mnemonic) ? USE_OVERWRITTEN : USE_READ;
    }
    return use;
}

/* A look at what becomes of ECX. */
struct ecx_walk {
    const ZydisDecoder *decoder;
    const uint8_t *code;
    unsigned first, len; /* of the page, in code */
    unsigned steps;      /* that it may take yet */
    bool c_returns; /* functions return as C functions do: nothing in RCX (System V psABI for AMD64, 3.2.3) */
};

/* Whether on all ways from code[i] ECX is overwritten before it is read. Ways that leave the page are not
 * followed, nor returns: some languages give back values in RCX. */
static bool forgets_ecx(struct ecx_walk *w, uint64_t i)
{
    ZydisDecodedInstruction in;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
    while (i >= w->first && i < w->len && w->steps > 0) {
        w->steps--;
        if (ZYAN_FAILED(ZydisDecoderDecodeFull(w->decoder, w->code + i, w->len - i, &in, ops)))
            return false;
        enum use use = use_of_ecx(&in, ops);
        if (use != USE_NONE)
            return use == USE_OVERWRITTEN;
        i += in.length;
        switch (in.meta.category) {
        case ZYDIS_CATEGORY_RET: return w->c_returns;
        case ZYDIS_CATEGORY_CALL:
        case ZYDIS_CATEGORY_INTERRUPT: return false;
        case ZYDIS_CATEGORY_UNCOND_BR:
        case ZYDIS_CATEGORY_COND_BR:
            if (ops[0].type != ZYDIS_OPERAND_TYPE_IMMEDIATE)
                return false;
            if (in.meta.category == ZYDIS_CATEGORY_UNCOND_BR)
                i += ops[0].imm.value.u;
            else if (!forgets_ecx(w, i + ops[0].imm.value.u))
                return false;
            break;
        default: break;
        }
    }
    return false;
}

static bool is_rdtscp(const uint8_t *code)
{
    return code[0] == 0x0f && code[1] == 0x01 && code[2] == 0xf9;
}

bool direct_scan(const uint8_t *before, const uint8_t *page, unsigned may, const struct direct_text *text,
                 struct direct_sites *sites)
{
    uint8_t code[RUN_UP + PAGE_SIZE + 1];
    unsigned first = before ? RUN_UP : 0, len = first + (unsigned)PAGE_SIZE;
    ZydisDecoder decoder;
    insn_decoder_init(&decoder, 64);
    sites->count = 0;
    if (before)
        memcpy(code, before + PAGE_SIZE - RUN_UP, RUN_UP);
    memcpy(code + first, page, PAGE_SIZE);
    code[len] =
        NO_MODRM; /* whether one of three bytes ends in the page behind is direct_scan_seam's to tell */
    for (unsigned i = first; i + 1 < len; i++) {
        if (!is_site(code[i], code[i + 1], code[i + 2], may))
            continue;
        if (text && (i - first < text->from || i - first >= text->to))
            continue;
        unsigned start = start_of(&decoder, code, i, len);
        struct ecx_walk walk = { &decoder, code, first, len, FORGET_STEPS, text != NULL };
        if (start == ~0u || (is_rdtscp(code + i) && (may & DIRECT_MAY_TSC) && forgets_ecx(&walk, i + 3)))
            continue;
        if (start < first || sites->count == USERPROC_BREAKS)
            return false;
        sites->at[sites->count++] = (uint16_t)(start - first);
    }
    return true;
}

bool direct_scan_seam(const uint8_t *page, const uint8_t *behind, unsigned may)
{
    enum { BEHIND = 16, SEAM = RUN_UP + 2 };
    uint8_t code[SEAM + BEHIND];
    ZydisDecoder decoder;
    insn_decoder_init(&decoder, 64);
    memcpy(code, page + PAGE_SIZE - SEAM, SEAM);
    memcpy(code + SEAM, behind, BEHIND);
    for (unsigned i = SEAM - 2; i < SEAM; i++) {
        bool whole = i + 2 == SEAM && is_site(code[i], code[i + 1], NO_MODRM, may); /* found in its page */
        if (!whole && is_site(code[i], code[i + 1], code[i + 2], may) &&
            start_of(&decoder, code, i, sizeof code) != ~0u)
            return false;
    }
    return true;
}
