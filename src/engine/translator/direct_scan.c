/* Instructions that do not fault in user mode, but would tell of the host instead of the guest. Heavy.
 *
 * Theory of operation. Where they are in a page that runs directly, the process is made to stop
 * (userproc_set_breaks, or in a vDSO userproc_put_traps). There are only so many breakpoints, but where a
 * program asks what the CPU can do, it asks in one go: sites that a function comes to one after the other,
 * without a call, and that nothing else branches to are a group, which is stopped at once, at its first, and
 * translated to behind its last. Pages with too many of them are translated. All are known by two bytes or
 * three, which displacements and constants may have, too; so bytes that look like one count only if reading
 * instructions from some way before ends up at them, as it does where code is meant to be read in one way
 * only. One may begin at the end of a page and end in the next: two pages that make one do not both run.
 * SYSCALL and INT n are not looked for: the host stops at them (host/userproc.h), but for INT 4, of which it
 * tells no more than of a fault of the instruction behind it. RDTSC need not be, since the guest's TSC is the
 * host's, or else the host is told to stop there, which makes each run twice as long on some. RDTSCP tells
 * TSC_AUX as well, but Linux' vDSO and others that use it for its order only do not look: it may run if on
 * all ways from it ECX is overwritten before it is read.
 *
 * Sources: Intel SDM volume 2 (2023-12), appendix A, tables. */
#include <string.h>

#include "engine/translator/direct_priv.h"

#include "engine/translator/trans.h"

#define MODRM_REG(m) (((m) >> 3) & 7)
#define MODRM_IS_MEM(m) ((m) < 0xc0)
#define NO_MODRM 0x38 /* with which nothing tells whose ModRM counts */
#define RUN_UP 160u   /* bytes before: some forty instructions to fall in step */
#define TAIL 8u       /* bytes, that are not known */
#define SITES_MOST 64
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

/* What is looked at: a page, and what of the one before it there is. */
struct code {
    ZydisDecoder decoder;
    uint8_t bytes[RUN_UP + PAGE_SIZE + TAIL];
    unsigned first, len; /* of the page */
};

/* ---- RDTSCP ---- */

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
    const struct code *code;
    unsigned steps; /* that it may take yet */
    bool c_returns; /* functions return as C functions do: nothing in RCX (System V psABI for AMD64, 3.2.3) */
};

/* Whether on all ways from byte i ECX is overwritten before it is read. Ways that leave the page are not
 * followed, nor returns: some languages give back values in RCX. */
static bool forgets_ecx(struct ecx_walk *w, uint64_t i)
{
    const struct code *c = w->code;
    ZydisDecodedInstruction in;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
    while (i >= c->first && i < c->len && w->steps > 0) {
        w->steps--;
        if (ZYAN_FAILED(ZydisDecoderDecodeFull(&c->decoder, c->bytes + i, c->len - i, &in, ops)))
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

static bool is_harmless_rdtscp(const struct code *c, unsigned i, unsigned may, bool c_returns)
{
    const uint8_t *at = c->bytes + i;
    struct ecx_walk walk = { c, FORGET_STEPS, c_returns };
    return (may & DIRECT_MAY_TSC) && at[0] == 0x0f && at[1] == 0x01 && at[2] == 0xf9 &&
           forgets_ecx(&walk, i + 3);
}

/* ---- groups of sites ---- */

static bool is_straight(const ZydisDecodedInstruction *in)
{
    switch (in->meta.category) {
    case ZYDIS_CATEGORY_CALL:
    case ZYDIS_CATEGORY_RET:
    case ZYDIS_CATEGORY_INTERRUPT:
    case ZYDIS_CATEGORY_SYSCALL:
    case ZYDIS_CATEGORY_SYSRET: return false;
    case ZYDIS_CATEGORY_UNCOND_BR: return in->raw.imm[0].size > 0;
    default: return in->mnemonic != ZYDIS_MNEMONIC_ENDBR64 && in->mnemonic != ZYDIS_MNEMONIC_UD2;
    }
}

/* Whether who reads instructions from one site comes to the next within one function, which calls none. */
static bool leads_to(const struct code *c, unsigned from, unsigned to)
{
    ZydisDecoderContext context;
    ZydisDecodedInstruction in;
    for (unsigned i = from; i < to; i += in.length) {
        if (ZYAN_FAILED(
                ZydisDecoderDecodeInstruction(&c->decoder, &context, c->bytes + i, c->len - i, &in)) ||
            !is_straight(&in) || i + in.length > to)
            return false;
    }
    return true;
}

/* Where the bytes at i would branch to if they were a direct branch; else 0. */
static unsigned branch_target(const uint8_t *at, unsigned i)
{
    int32_t far;
    bool two = at[0] == 0x0f;
    if ((at[0] & 0xf0) == 0x70 || at[0] == 0xeb || (at[0] & 0xfc) == 0xe0)
        return i + 2 + (unsigned)(int8_t)at[1];
    if (at[0] != 0xe8 && at[0] != 0xe9 && !(two && (at[1] & 0xf0) == 0x80))
        return 0;
    memcpy(&far, at + 1 + two, sizeof far);
    return i + 5 + two + (unsigned)far;
}

/* Whether something else of the page branches to behind the first site of a group, up to its last. */
static bool is_entered(const struct code *c, unsigned from, unsigned to)
{
    for (unsigned i = c->first; i + 1 < c->len; i++) {
        if (i >= from && i <= to)
            continue;
        unsigned target = branch_target(c->bytes + i, i);
        if (target > from && target <= to && start_of(&c->decoder, c->bytes, i, c->len) != ~0u)
            return true;
    }
    return false;
}

/* Each site is a group, unless there are more than the process can stop at. */
static bool group(const struct code *c, const uint16_t *found, unsigned n, struct direct_sites *sites)
{
    for (unsigned i = 0, last; i < n; i = last + 1) {
        for (last = i; n > USERPROC_BREAKS && last + 1 < n && leads_to(c, found[last], found[last + 1]);)
            last++;
        if (sites->count == USERPROC_BREAKS || (last > i && is_entered(c, found[i], found[last])))
            return false;
        sites->last[sites->count] = (uint16_t)(found[last] - c->first);
        sites->at[sites->count++] = (uint16_t)(found[i] - c->first);
    }
    return true;
}

/* ---- pages ---- */

bool direct_scan(const uint8_t *before, const uint8_t *page, unsigned may, const struct direct_text *text,
                 struct direct_sites *sites)
{
    struct code c;
    uint16_t found[SITES_MOST];
    unsigned n = 0;
    c.first = before ? RUN_UP : 0, c.len = c.first + (unsigned)PAGE_SIZE;
    insn_decoder_init(&c.decoder, 64);
    sites->count = 0;
    if (before)
        memcpy(c.bytes, before + PAGE_SIZE - RUN_UP, RUN_UP);
    memcpy(c.bytes + c.first, page, PAGE_SIZE);
    /* whether one of three bytes ends in the page behind is direct_scan_seam's to tell */
    memset(c.bytes + c.len, NO_MODRM, TAIL);
    for (unsigned i = c.first; i + 1 < c.len; i++) {
        const uint8_t *at = c.bytes + i;
        if (!is_site(at[0], at[1], at[2], may) ||
            (text && (i - c.first < text->from || i - c.first >= text->to)))
            continue;
        unsigned start = start_of(&c.decoder, c.bytes, i, c.len);
        if (start == ~0u || is_harmless_rdtscp(&c, i, may, text != NULL))
            continue;
        if (start < c.first || n == SITES_MOST)
            return false;
        found[n++] = (uint16_t)start;
    }
    return group(&c, found, n, sites);
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
