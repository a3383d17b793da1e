/* Instruction decoder of the general path.
 *
 * Source: Intel SDM volume 2 (2023-12), chapter 2 (prefixes, REX, VEX, ModRM) and appendix A (opcode maps);
 * AMD APM volume 3 (rev 3.36) where the vendors differ (operand size of near branches in 64-bit mode).
 *
 * Bytes come by insn_refill, at most up to the end of a page at once, so a page that the instruction does not
 * reach is never touched. An attribute word per opcode says what follows it; opcodes that are not the general
 * path's are marked AT_VEC (the caller's) or AT_UD. Everything that needs the value of ModRM is in
 * insn_group_rules. */
#include "engine/translator/interp_decode.h"
#include "engine/translator/mmu.h"

enum imm_kind { IMM_NONE, IMM_B, IMM_W, IMM_Z, IMM_V, IMM_OFF, IMM_FAR, IMM_ENTER, IMM_GRP3 };

#define AT_IMM 0x000fu
#define AT_M 0x0010u    /* ModRM follows */
#define AT_I64 0x0040u  /* #UD in 64-bit mode */
#define AT_D64 0x0080u  /* 64-bit mode: operand size 8, or 2 with prefix 66 */
#define AT_N64 0x0100u  /* near branch: 64-bit mode: operand size 8 (AMD: 2 with prefix 66) */
#define AT_LOCK 0x0200u /* LOCK is allowed with a memory destination */
#define AT_VEC 0x0400u  /* x87, MMX, SSE: not the general path's */
#define AT_UD 0x0800u
#define AT_PFX 0x1000u

/* clang-format off */
#define ALU_ROW(base, lock) \
    [(base) + 0] = AT_M | (lock), [(base) + 1] = AT_M | (lock), [(base) + 2] = AT_M, [(base) + 3] = AT_M, \
    [(base) + 4] = IMM_B, [(base) + 5] = IMM_Z

static const uint16_t map_one[256] = {
    ALU_ROW(0x00, AT_LOCK), [0x06 ... 0x07] = AT_I64,
    ALU_ROW(0x08, AT_LOCK), [0x0e] = AT_I64, /* 0f: escape */
    ALU_ROW(0x10, AT_LOCK), [0x16 ... 0x17] = AT_I64,
    ALU_ROW(0x18, AT_LOCK), [0x1e ... 0x1f] = AT_I64,
    ALU_ROW(0x20, AT_LOCK), [0x26] = AT_PFX, [0x27] = AT_I64,
    ALU_ROW(0x28, AT_LOCK), [0x2e] = AT_PFX, [0x2f] = AT_I64,
    ALU_ROW(0x30, AT_LOCK), [0x36] = AT_PFX, [0x37] = AT_I64,
    ALU_ROW(0x38, 0), [0x3e] = AT_PFX, [0x3f] = AT_I64,
    [0x40 ... 0x4f] = AT_PFX, /* REX; INC and DEC outside 64-bit mode */
    [0x50 ... 0x5f] = AT_D64,
    [0x60 ... 0x61] = AT_I64, [0x62] = AT_M, [0x63] = AT_M, [0x64 ... 0x67] = AT_PFX,
    [0x68] = IMM_Z | AT_D64, [0x69] = AT_M | IMM_Z, [0x6a] = IMM_B | AT_D64, [0x6b] = AT_M | IMM_B,
    [0x70 ... 0x7f] = IMM_B | AT_N64,
    [0x80] = AT_M | IMM_B | AT_LOCK, [0x81] = AT_M | IMM_Z | AT_LOCK,
    [0x82] = AT_M | IMM_B | AT_LOCK | AT_I64, [0x83] = AT_M | IMM_B | AT_LOCK,
    [0x84 ... 0x85] = AT_M, [0x86 ... 0x87] = AT_M | AT_LOCK, [0x88 ... 0x8e] = AT_M, [0x8f] = AT_M | AT_D64,
    [0x9a] = IMM_FAR | AT_I64, [0x9b] = AT_VEC, [0x9c ... 0x9d] = AT_D64,
    [0xa0 ... 0xa3] = IMM_OFF, [0xa8] = IMM_B, [0xa9] = IMM_Z,
    [0xb0 ... 0xb7] = IMM_B, [0xb8 ... 0xbf] = IMM_V,
    [0xc0 ... 0xc1] = AT_M | IMM_B, [0xc2] = IMM_W | AT_N64, [0xc3] = AT_N64, [0xc4 ... 0xc5] = AT_M,
    [0xc6] = AT_M | IMM_B, [0xc7] = AT_M | IMM_Z, [0xc8] = IMM_ENTER | AT_D64, [0xc9] = AT_D64,
    [0xca] = IMM_W, [0xcd] = IMM_B, [0xce] = AT_I64,
    [0xd0 ... 0xd3] = AT_M, [0xd4 ... 0xd5] = IMM_B | AT_I64, [0xd6] = AT_I64, [0xd8 ... 0xdf] = AT_VEC,
    [0xe0 ... 0xe3] = IMM_B | AT_N64, [0xe4 ... 0xe7] = IMM_B, [0xe8 ... 0xe9] = IMM_Z | AT_N64,
    [0xea] = IMM_FAR | AT_I64, [0xeb] = IMM_B | AT_N64,
    [0xf0] = AT_PFX, [0xf2 ... 0xf3] = AT_PFX, [0xf6 ... 0xf7] = AT_M | IMM_GRP3 | AT_LOCK,
    [0xfe ... 0xff] = AT_M | AT_LOCK,
};

static const uint16_t map_0f[256] = {
    [0x00 ... 0x03] = AT_M, [0x04] = AT_UD, [0x0a ... 0x0c] = AT_UD, [0x0d] = AT_M, [0x0e ... 0x0f] = AT_UD,
    [0x10 ... 0x17] = AT_VEC, [0x18 ... 0x1f] = AT_M, [0x20 ... 0x23] = AT_M, [0x24 ... 0x27] = AT_UD,
    [0x28 ... 0x2f] = AT_VEC, [0x36 ... 0x37] = AT_UD, [0x39] = AT_UD, [0x3b ... 0x3f] = AT_UD,
    [0x40 ... 0x4f] = AT_M, [0x50 ... 0x77] = AT_VEC, [0x78 ... 0x7b] = AT_UD, [0x7c ... 0x7f] = AT_VEC,
    [0x80 ... 0x8f] = IMM_Z | AT_N64, [0x90 ... 0x9f] = AT_M,
    [0xa0 ... 0xa1] = AT_D64, [0xa3] = AT_M, [0xa4] = AT_M | IMM_B, [0xa5] = AT_M, [0xa6 ... 0xa7] = AT_UD,
    [0xa8 ... 0xa9] = AT_D64, [0xaa] = AT_UD, [0xab] = AT_M | AT_LOCK, [0xac] = AT_M | IMM_B,
    [0xad ... 0xaf] = AT_M,
    [0xb0 ... 0xb1] = AT_M | AT_LOCK, [0xb2] = AT_M, [0xb3] = AT_M | AT_LOCK, [0xb4 ... 0xb9] = AT_M,
    [0xba] = AT_M | IMM_B | AT_LOCK, [0xbb] = AT_M | AT_LOCK, [0xbc ... 0xbf] = AT_M,
    [0xc0 ... 0xc1] = AT_M | AT_LOCK, [0xc2] = AT_VEC, [0xc3] = AT_M, [0xc4 ... 0xc6] = AT_VEC,
    [0xc7] = AT_M | AT_LOCK, [0xd0 ... 0xfe] = AT_VEC, [0xff] = AT_M,
};
/* clang-format on */

/* Opcodes of the three-byte maps and of VEX that are integer instructions; the rest is vector. */
static uint16_t attr_0f38(uint8_t op, bool vex)
{
    if (vex)
        return op == 0xf2 || op == 0xf3 || (op >= 0xf5 && op <= 0xf7) ? AT_M : AT_VEC;
    if (op >= 0x80 && op <= 0x82)
        return AT_M;
    if (op >= 0xf0)
        return op == 0xf0 || op == 0xf1 || op == 0xf6 ? AT_M : AT_UD;
    return AT_VEC;
}

/* Fetches more bytes at i->len. */
static cold_path bool insn_refill(struct tcpu *c, struct insn *i)
{
    uint64_t off = c->rip + i->len;
    uint64_t room = INSN_MAX - i->len;
    if (i->len >= INSN_MAX)
        return cpu_raise_gp(c, 0);
    uint64_t lin = off;
    if (!cpu_code64(c)) {
        if (off > c->seg[S_CS].limit)
            return cpu_raise_gp(c, 0);
        room = min_u64(room, c->seg[S_CS].limit - off + 1);
        lin = (c->seg[S_CS].base + off) & 0xffffffffu;
    }
    unsigned n = (unsigned)min_u64(room, 0x1000 - (lin & 0xfff)), got = 0;
    if (!mmu_fetch(c, lin, i->bytes + i->len, n, &got))
        return false;
    i->avail = (uint8_t)(i->len + min_u64(got, n));
    return true;
}

/* First fetch: the common case is a page that is in the TLB and 16 bytes that leave neither it nor the
 * segment. */
static bool insn_fetch(struct tcpu *c, struct insn *i)
{
    uint64_t lin = c->rip;
    if (!cpu_code64(c)) {
        if (unlikely(lin + 16 > c->seg[S_CS].limit))
            return insn_refill(c, i);
        lin = (lin + c->seg[S_CS].base) & 0xffffffffu;
    }
    if (likely((lin & 0xfff) <= 0x1000 - 16)) {
        const uint8_t *p = mmu_fast_ptr(c, lin, 16, MMU_EXEC, MMU_AS_CPL);
        if (likely(p != NULL)) {
            __builtin_memcpy(i->bytes, p, 8);
            __builtin_memcpy(i->bytes + 8, p + 8, 8);
            i->avail = INSN_MAX;
            return true;
        }
    }
    return insn_refill(c, i);
}

static inline bool take_u8(struct tcpu *c, struct insn *i, uint8_t *v)
{
    if (unlikely(i->len >= i->avail) && !insn_refill(c, i))
        return false;
    *v = i->bytes[i->len++];
    return true;
}

/* n little-endian bytes, sign-extended. */
static bool take_signed(struct tcpu *c, struct insn *i, unsigned n, uint64_t *v)
{
    uint64_t r = 0;
    uint8_t b = 0;
    for (unsigned k = 0; k < n; k++) {
        if (!take_u8(c, i, &b))
            return false;
        r |= (uint64_t)b << (8 * k);
    }
    unsigned up = 64 - 8 * n;
    *v = n ? (uint64_t)((int64_t)(r << up) >> up) : 0;
    return true;
}

static uint64_t size_mask(unsigned size)
{
    return size == 8 ? ~0ull : (1ull << (8 * size)) - 1;
}

/* ---- prefixes ---- */

static bool take_prefixes(struct tcpu *c, struct insn *i, uint8_t *op)
{
    bool code64 = cpu_code64(c);
    for (;;) {
        uint8_t b;
        if (!take_u8(c, i, &b))
            return false;
        *op = b;
        if (!(map_one[b] & AT_PFX))
            return true;
        if ((b & 0xf0) == 0x40) {
            if (!code64)
                return true;
            i->rex = b;
            continue;
        }
        i->rex = 0; /* REX counts only right before the opcode */
        switch (b) {
        case 0x66: i->p66 = true; break;
        case 0x67: i->adsize = 0; break;
        case 0xf0: i->lock = true; break;
        case 0xf2:
        case 0xf3: i->rep = b; break;
        case 0x64: i->seg_over = S_FS; break;
        case 0x65: i->seg_over = S_GS; break;
        default: /* ES CS SS DS: no effect in 64-bit mode */
            if (!code64)
                i->seg_over = (b >> 3) & 3;
            break;
        }
    }
}

static void set_sizes(const struct tcpu *c, struct insn *i)
{
    bool a67 = i->adsize == 0;
    switch (c->code_bits) {
    case 64:
        i->adsize = a67 ? 4 : 8;
        i->opsize = (i->rex & 8) ? 8 : i->p66 ? 2 : 4;
        break;
    case 32:
        i->adsize = a67 ? 2 : 4;
        i->opsize = i->p66 ? 2 : 4;
        break;
    default:
        i->adsize = a67 ? 4 : 2;
        i->opsize = i->p66 ? 4 : 2;
        break;
    }
}

/* ---- VEX (SDM 2.3.5). op is c4 or c5; the byte after it is still to be taken. ---- */
static enum step take_vex(struct tcpu *c, struct insn *i, uint8_t op)
{
    uint8_t b1, b2;
    if (i->lock || i->rep || i->p66 || i->rex)
        return cpu_raise(c, EXC_UD), STEP_FAULT;
    if (!take_u8(c, i, &b1))
        return STEP_FAULT;
    unsigned map = MAP_0F, rxb = (~b1 >> 5) & 4; /* R X B as in REX */
    b2 = b1;
    if (op == 0xc4) {
        map = b1 & 0x1f;
        rxb = (~b1 >> 5) & 7;
        if (!take_u8(c, i, &b2))
            return STEP_FAULT;
        i->vex_w = (b2 & 0x80) != 0;
    }
    bool code64 = cpu_code64(c);
    if (!code64) {
        rxb = 0;
        i->vex_w = false; /* for the integer instructions; the vector ones are not decoded here */
    }
    i->vex = true;
    i->rex = (uint8_t)(0x40 | rxb | (i->vex_w ? 8 : 0));
    i->vex_reg = (uint8_t)((~b2 >> 3) & (code64 ? 15 : 7));
    i->vex_l = (b2 & 4) != 0;
    i->p66 = (b2 & 3) == 1;
    i->rep = (b2 & 3) == 2 ? 0xf3 : (b2 & 3) == 3 ? 0xf2 : 0;
    i->opsize = i->vex_w ? 8 : 4;
    if (!take_u8(c, i, &i->op))
        return STEP_FAULT;
    i->map = (uint8_t)map;
    return STEP_NEXT;
}

/* C4, C5, 62: VEX or EVEX in 64-bit mode, or when the next byte has the form of a register operand. */
static bool is_vex_form(struct tcpu *c, struct insn *i, enum step *fault)
{
    *fault = STEP_NEXT;
    if (cpu_code64(c))
        return true;
    if (unlikely(i->len >= i->avail) && !insn_refill(c, i)) {
        *fault = STEP_FAULT;
        return false;
    }
    if (i->bytes[i->len] < 0xc0)
        return false;
    if (cpu_real_mode(c) || cpu_v86(c)) {
        cpu_raise(c, EXC_UD);
        *fault = STEP_FAULT;
        return false;
    }
    return true;
}

/* ---- opcode ---- */

static enum step take_opcode(struct tcpu *c, struct insn *i, uint8_t op, uint16_t *attr)
{
    enum step s = STEP_NEXT;
    if (op == 0xc4 || op == 0xc5 || op == 0x62) {
        bool vex = is_vex_form(c, i, &s);
        if (s != STEP_NEXT)
            return s;
        if (vex && op == 0x62)
            return i->lock ? (cpu_raise(c, EXC_UD), STEP_FAULT) : STEP_UNKNOWN;
        if (vex) {
            s = take_vex(c, i, op);
            if (s == STEP_NEXT)
                *attr = i->map == MAP_0F38                    ? attr_0f38(i->op, true)
                        : i->map == MAP_0F3A && i->op == 0xf0 ? (uint16_t)(AT_M | IMM_B)
                                                              : (uint16_t)AT_VEC;
            return s;
        }
    }
    i->op = op;
    *attr = map_one[op];
    if ((op & 0xf0) == 0x40)
        *attr = 0; /* INC, DEC */
    if (op != 0x0f)
        return s;
    if (!take_u8(c, i, &i->op))
        return STEP_FAULT;
    i->map = MAP_0F;
    *attr = map_0f[i->op];
    /* SSE4A's EXTRQ and INSERTQ share 0F 78 and 79 with VMX (which no guest has) */
    if ((i->op & 0xfe) == 0x78 && (i->p66 || i->rep == 0xf2))
        *attr = AT_VEC;
    if (i->op != 0x38 && i->op != 0x3a)
        return s;
    i->map = i->op == 0x38 ? MAP_0F38 : MAP_0F3A;
    if (!take_u8(c, i, &i->op))
        return STEP_FAULT;
    *attr = i->map == MAP_0F38 ? attr_0f38(i->op, false) : (uint16_t)AT_VEC;
    return s;
}

/* ---- ModRM, SIB, displacement ---- */

static bool take_ea16(struct tcpu *c, struct insn *i)
{
    static const uint8_t base[8] = { R_BX, R_BX, R_BP, R_BP, R_SI, R_DI, R_BP, R_BX };
    unsigned rm = i->modrm & 7;
    uint64_t a = 0, disp = 0;
    unsigned n = i->mod == 1 ? 1 : i->mod == 2 ? 2 : 0;
    if (i->mod == 0 && rm == 6) {
        n = 2;
    } else {
        a = c->gpr[base[rm]];
        if (rm < 4)
            a += c->gpr[rm & 1 ? R_DI : R_SI];
        if (base[rm] == R_BP)
            i->seg = S_SS;
    }
    if (n && !take_signed(c, i, n, &disp))
        return false;
    i->ea = (a + disp) & 0xffff;
    return true;
}

static bool take_ea32(struct tcpu *c, struct insn *i)
{
    unsigned base = i->modrm & 7;
    uint64_t a = 0, disp = 0;
    unsigned n = i->mod == 1 ? 1 : i->mod == 2 ? 4 : 0;
    bool has_base = true;
    if (base == 4) {
        uint8_t sib;
        if (!take_u8(c, i, &sib))
            return false;
        unsigned index = ((sib >> 3) & 7) | ((i->rex & 2) << 2);
        if (index != 4)
            a = c->gpr[index] << (sib >> 6);
        base = sib & 7;
        if (i->mod == 0 && base == 5) {
            has_base = false;
            n = 4;
        }
    } else if (i->mod == 0 && base == 5) {
        has_base = false;
        n = 4;
        i->rip_relative = cpu_code64(c);
    }
    if (has_base) {
        base |= (i->rex & 1u) << 3;
        a += c->gpr[base];
        if (base == R_SP || base == R_BP)
            i->seg = S_SS;
        i->base_is_sp = base == R_SP;
    }
    if (n && !take_signed(c, i, n, &disp))
        return false;
    i->ea = (a + disp) & size_mask(i->adsize);
    return true;
}

static bool take_modrm(struct tcpu *c, struct insn *i)
{
    if (!take_u8(c, i, &i->modrm))
        return false;
    i->mod = i->modrm >> 6;
    i->reg = (uint8_t)(((i->modrm >> 3) & 7) | ((i->rex & 4) << 1));
    i->rm = (uint8_t)((i->modrm & 7) | ((i->rex & 1) << 3));
    i->is_mem = i->mod != 3;
    /* MOV CR and MOV DR ignore mod */
    if (i->map == MAP_0F && i->op >= 0x20 && i->op <= 0x23)
        i->is_mem = false;
    if (!i->is_mem)
        return true;
    return i->adsize == 2 ? take_ea16(c, i) : take_ea32(c, i);
}

/* ---- rules that depend on the whole opcode ---- */

/* REX.W outdoes prefix 66 here as everywhere. */
static void set_opsize64(const struct tcpu *c, struct insn *i, uint16_t attr)
{
    bool small = i->p66 && !(i->rex & 8);
    if (attr & AT_D64)
        i->opsize = small ? 2 : 8;
    /* APM volume 3, "JMP (near)": AMD honours 66 in 64-bit mode; SDM volume 2: Intel ignores it */
    else if (attr & AT_N64)
        i->opsize = small && tvm_cpuid(c->vm)->is_amd ? 2 : 8;
}

/* Attributes that ModRM.reg decides. */
static uint16_t insn_group_rules(const struct insn *i, uint16_t attr)
{
    unsigned r = i->modrm & 0x38u;
    if (i->map == MAP_ONE) {
        switch (i->op) {
        case 0x80 ... 0x83: return r == 0x38 ? attr & (uint16_t)~AT_LOCK : attr;
        case 0xf6 ... 0xf7:
            if (r >= 0x10)
                attr &= (uint16_t)~AT_IMM;
            return r == 0x10 || r == 0x18 ? attr : attr & (uint16_t)~AT_LOCK;
        case 0xff:
            if (r == 0x10 || r == 0x20)
                return AT_M | AT_N64;
            if (r == 0x30)
                return AT_M | AT_D64;
            return r <= 8 ? attr : AT_M;
        case 0xfe: return r <= 8 ? attr : AT_M;
        default: return attr;
        }
    }
    if (i->map == MAP_0F && i->op == 0xba && r <= 0x20)
        return attr & (uint16_t)~AT_LOCK;
    if (i->map == MAP_0F && i->op == 0xc7 && r != 8)
        return AT_M;
    return attr;
}

static bool take_imm(struct tcpu *c, struct insn *i, unsigned kind)
{
    unsigned z = i->opsize == 2 ? 2 : 4;
    uint64_t v = 0;
    switch (kind) {
    case IMM_NONE: return true;
    case IMM_B: return take_signed(c, i, 1, &i->imm);
    case IMM_Z: return take_signed(c, i, z, &i->imm);
    case IMM_V: return take_signed(c, i, i->opsize, &i->imm);
    case IMM_GRP3: return take_signed(c, i, i->op & 1 ? z : 1, &i->imm);
    case IMM_OFF:
        i->is_mem = true;
        if (!take_signed(c, i, i->adsize, &v))
            return false;
        i->ea = v & size_mask(i->adsize);
        return true;
    case IMM_FAR:
        if (!take_signed(c, i, z, &i->imm) || !take_signed(c, i, 2, &v))
            return false;
        i->imm &= size_mask(z);
        i->sel = (uint16_t)v;
        return true;
    default: /* IMM_W, IMM_ENTER */
        if (!take_signed(c, i, 2, &i->imm))
            return false;
        i->imm &= 0xffff;
        if (kind == IMM_ENTER) {
            if (!take_signed(c, i, 1, &v))
                return false;
            i->sel = (uint8_t)v;
        }
        return true;
    }
}

/* LOCK with anything but the listed read-modify-write forms raises #UD (SDM volume 2, "LOCK"). The exception
 * is AMD's LOCK MOV CR0, which stands for CR8 (APM volume 3, "MOV CRn"). */
static bool lock_is_wrong(const struct insn *i, uint16_t attr)
{
    if (!i->lock)
        return false;
    if (i->map == MAP_0F && (i->op == 0x20 || i->op == 0x22))
        return i->reg != 0;
    return !(attr & AT_LOCK) || !i->is_mem;
}

static enum step insn_operands(struct tcpu *c, struct insn *i, uint16_t attr)
{
    bool code64 = cpu_code64(c);
    i->seg = S_DS;
    if (attr & AT_M) {
        if (!take_modrm(c, i))
            return STEP_FAULT;
        attr = insn_group_rules(i, attr);
    }
    if (code64)
        set_opsize64(c, i, attr);
    if (!take_imm(c, i, attr & AT_IMM))
        return STEP_FAULT;
    i->next_rip = c->rip + i->len;
    if (!code64)
        i->next_rip &= c->code_bits == 16 ? 0xffffu : 0xffffffffu;
    if (i->rip_relative)
        i->ea = (i->ea + i->next_rip) & size_mask(i->adsize);
    if (i->seg_over != SEG_NONE)
        i->seg = i->seg_over;
    if (lock_is_wrong(i, attr))
        return cpu_raise(c, EXC_UD), STEP_FAULT;
    return STEP_NEXT;
}

/* Everything but the bytes. By words: the initializer of so large a struct becomes REP STOS, which takes as
 * long as all the rest of a simple instruction. */
static inline void insn_clear(struct insn *i)
{
    char *p = (char *)i;
    _Static_assert(offsetof(struct insn, ea) % 8 == 0 && sizeof(*i) % 8 == 0, "cleared by words");
    for (unsigned k = offsetof(struct insn, ea); k < sizeof(*i); k += 8)
        __builtin_memset(p + k, 0, 8);
    i->adsize = 1;
    i->seg_over = SEG_NONE;
}

enum step insn_decode(struct tcpu *c, struct insn *i)
{
    uint8_t op;
    uint16_t attr = 0;
    insn_clear(i);
    if (!insn_fetch(c, i) || !take_prefixes(c, i, &op))
        return STEP_FAULT;
    set_sizes(c, i);
    enum step s = take_opcode(c, i, op, &attr);
    if (s != STEP_NEXT)
        return s;
    if ((attr & AT_VEC) && !i->lock)
        return STEP_UNKNOWN;
    if ((attr & (AT_UD | AT_VEC)) || ((attr & AT_I64) && cpu_code64(c)))
        return cpu_raise(c, EXC_UD), STEP_FAULT;
    return insn_operands(c, i, attr);
}
