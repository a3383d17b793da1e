/* Writing a decoded guest instruction again with other registers and another memory operand. */
#include "engine/translator/trans.h"

/* An immediate whose upper half is a register number (outside 64-bit mode its top bit is ignored). */
static bool names_by_imm(const struct trans *t)
{
    for (unsigned i = 0; i < t->in->operand_count_visible; i++) {
        if (t->ops[i].encoding == ZYDIS_OPERAND_ENCODING_IS4)
            return true;
    }
    return false;
}

static void tail(struct trans *t, struct emit *e, const struct recode *r, unsigned reg, unsigned rm)
{
    if (r->has_mem)
        e_modrm_mem_disp(e, reg, r->mem, t->in->encoding != ZYDIS_INSTRUCTION_ENCODING_EVEX);
    else if (t->in->attributes & ZYDIS_ATTRIB_HAS_MODRM)
        e_byte(e, 0xc0 | (reg & 7) << 3 | (rm & 7));
    for (unsigned i = 0; i < 2; i++) {
        const uint8_t *imm = t->bytes + t->in->raw.imm[i].offset;
        for (unsigned k = 0; k < t->in->raw.imm[i].size / 8u; k++)
            e_byte(e, imm[k] & (names_by_imm(t) && t->bits == 32 ? 0x7f : 0xff));
    }
}

static unsigned mem_xb(const struct recode *r)
{
    return (r->mem.index != H_NONE && r->mem.index > 7 ? 2u : 0u) |
           (r->mem.base != H_NONE && r->mem.base > 7 ? 1u : 0u);
}

static bool names_gpr(const struct trans *t)
{
    switch (t->in->mnemonic) { /* also with a memory operand instead */
    case ZYDIS_MNEMONIC_VMOVD:
    case ZYDIS_MNEMONIC_VPCMPESTRI: /* lengths in EAX and EDX */
    case ZYDIS_MNEMONIC_VPCMPESTRM:
    case ZYDIS_MNEMONIC_VPINSRD:
    case ZYDIS_MNEMONIC_VPEXTRD:
    case ZYDIS_MNEMONIC_VCVTSI2SS:
    case ZYDIS_MNEMONIC_VCVTSI2SD:
    case ZYDIS_MNEMONIC_VCVTSI2SH:
    case ZYDIS_MNEMONIC_VCVTUSI2SS:
    case ZYDIS_MNEMONIC_VCVTUSI2SD:
    case ZYDIS_MNEMONIC_VCVTUSI2SH: return true;
    default: break;
    }
    for (unsigned i = 0; i < t->in->operand_count_visible; i++) {
        if (t->ops[i].type == ZYDIS_OPERAND_TYPE_REGISTER && insn_gpr_id(t->ops[i].reg.value) >= 0)
            return true;
    }
    return false;
}

/* VZEROUPPER and VZEROALL know eight registers outside 64-bit mode: VMOVAPS xmm, xmm or VPXOR on each. */
static void zero_eight(struct emit *e, bool all)
{
    for (unsigned r = 0; r < 8; r++) {
        e_byte(e, 0xc5);
        e_byte(e, all ? (~r & 15) << 3 | 0x81 : 0xf8);
        e_byte(e, all ? 0xef : 0x28);
        e_byte(e, 0xc0 | r << 3 | r);
    }
}

static void recode_vex(struct trans *t, struct emit *e, const struct recode *r)
{
    const uint8_t *v = t->bytes + t->in->raw.vex.offset;
    bool three = v[0] == 0xc4;
    unsigned b1 = three ? v[1] : (v[1] & 0x80u) | 0x61u; /* R from C5's byte, X = B = 1 (inverted), map 0f */
    unsigned b2 = three ? v[2] : v[1] & 0x7fu;
    unsigned reg = t->in->raw.modrm.reg & 7u, rm = t->in->raw.modrm.rm & 7u;
    unsigned rbit = b1 & 0x80u ? 0 : 1, xbit = b1 & 0x40u ? 0 : 1, bbit = b1 & 0x20u ? 0 : 1;
    if (t->bits == 32) {
        rbit = xbit = bbit = 0;
        b2 |= 0x40; /* nor is there an eighth register and up in VEX.vvvv */
        if (names_gpr(t))
            b2 &= ~0x80u; /* there VEX.W does not make a general register 64 bits wide (SDM volume 2, 2.3.5.5)
                           */
    }
    if (r->reg >= 0)
        reg = (unsigned)r->reg & 7, rbit = (unsigned)r->reg >> 3;
    if (r->has_mem)
        xbit = mem_xb(r) >> 1, bbit = mem_xb(r) & 1;
    else if (r->rm >= 0)
        rm = (unsigned)r->rm & 7, bbit = (unsigned)r->rm >> 3;
    if (r->vvvv >= 0)
        b2 = (b2 & ~0x78u) | (~(unsigned)r->vvvv & 15u) << 3;
    if (r->has_mem && r->mem.gs)
        e_byte(e, 0x65);
    e_byte(e, 0xc4);
    e_byte(e, (rbit ? 0 : 0x80u) | (xbit ? 0 : 0x40u) | (bbit ? 0 : 0x20u) | (b1 & 0x1fu));
    e_byte(e, b2);
    e_byte(e, t->in->opcode);
    tail(t, e, r, reg, rm);
}

/* SDM volume 2, 2.7.1: 62 P0 P1 P2. P0: R X B R' 0 map, P1: W vvvv 1 pp, P2: z L'L b V' mask; R X B R' vvvv
 * V' inverted. Of a vector register in ModRM.rm bit 4 is X. Outside 64-bit mode there are eight registers, so
 * what would name others must not mean anything here. */
static void recode_evex(struct trans *t, struct emit *e, const struct recode *r)
{
    const uint8_t *v = t->bytes + t->in->raw.evex.offset;
    unsigned p0 = v[1], p1 = v[2], p2 = v[3];
    unsigned reg = t->in->raw.modrm.reg & 7u, rm = t->in->raw.modrm.rm & 7u;
    if (t->bits == 32) {
        p0 |= 0xf0;
        p1 |= 0x40;
        p2 |= 0x08;
        if (names_gpr(t))
            p1 &= ~0x80u; /* as VEX.W */
    }
    if (r->reg >= 0) {
        reg = (unsigned)r->reg & 7;
        p0 = (p0 & ~0x80u) | 0x10 | (r->reg > 7 ? 0 : 0x80u);
    }
    if (r->has_mem) {
        p0 = (p0 & ~0x60u) | (mem_xb(r) ^ 3) << 5;
    } else if (r->rm >= 0) {
        rm = (unsigned)r->rm & 7;
        p0 = (p0 & ~0x20u) | 0x40 | (r->rm > 7 ? 0 : 0x20u);
    }
    if (r->has_mem && r->mem.gs)
        e_byte(e, 0x65);
    e_byte(e, 0x62);
    e_byte(e, p0);
    e_byte(e, p1);
    e_byte(e, p2);
    e_byte(e, t->in->opcode);
    tail(t, e, r, reg, rm);
}

/* x87 environments have a form for 16-bit operands, which 16-bit code takes without a prefix. */
static bool has_small_form(const struct trans *t)
{
    switch (t->in->mnemonic) {
    case ZYDIS_MNEMONIC_FLDENV:
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FRSTOR:
    case ZYDIS_MNEMONIC_FNSAVE: return true;
    default: return false;
    }
}

static void learn_prefixes(const struct trans *t, struct encoding *c)
{
    bool small = has_small_form(t);
    if (small && t->in->operand_width == 16)
        c->prefixes[c->prefix_count++] = 0x66;
    for (unsigned i = 0; i < t->in->raw.prefix_count; i++) {
        uint8_t p = t->in->raw.prefixes[i].value;
        if ((p == 0x66 && !small) || p == 0xf2 || p == 0xf3 || p == 0xf0)
            c->prefixes[c->prefix_count++] = p;
    }
}

void encoding_learn(const struct trans *t, struct form *f)
{
    const ZydisDecodedInstruction *in = t->in;
    struct encoding *c = &f->encoding;
    *c = (struct encoding){ .legacy = in->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY };
    if (!c->legacy)
        return;
    learn_prefixes(t, c);
    c->reg = in->raw.modrm.reg & 7u;
    c->rm = in->raw.modrm.rm & 7u;
    c->modrm = (in->attributes & ZYDIS_ATTRIB_HAS_MODRM) != 0;
    c->opcode = in->opcode;
    if (c->opcode == 0x82 && in->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT)
        c->opcode = 0x80; /* the same in 32-bit code, nothing in 64-bit code */
    if (in->attributes & ZYDIS_ATTRIB_HAS_REX)
        c->rex = (uint8_t)(0x40u | in->raw.rex.W << 3 | in->raw.rex.R << 2 | in->raw.rex.B);
    if (in->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT)
        c->escapes[c->escape_count++] = 0x0f;
    if (in->opcode_map == ZYDIS_OPCODE_MAP_0F38 || in->opcode_map == ZYDIS_OPCODE_MAP_0F3A)
        c->escapes[c->escape_count++] = in->opcode_map == ZYDIS_OPCODE_MAP_0F38 ? 0x38 : 0x3a;
    c->imm_at = in->raw.imm[0].offset;
    c->imm_bytes = (uint8_t)((in->raw.imm[0].size + in->raw.imm[1].size) / 8u);
}

static void recode_legacy(struct trans *t, struct emit *e, const struct recode *r, const struct encoding *c)
{
    if (r->has_mem && r->mem.gs)
        e_byte(e, 0x65);
    for (unsigned i = 0; i < c->prefix_count; i++)
        e_byte(e, c->prefixes[i]);
    unsigned reg = r->subst_reg != 0xff ? r->subst_reg : c->reg, rm = c->rm, rex = c->rex;
    unsigned opcode = r->opcode ? r->opcode : c->opcode;
    if (r->reg >= 0) {
        reg = (unsigned)r->reg & 7;
        rex = (rex & ~4u) | ((unsigned)r->reg > 7 ? 0x44u : 0);
    }
    if (r->has_mem) {
        unsigned xb = mem_xb(r);
        rex = (rex & ~3u) | xb | (xb ? 0x40u : 0);
    } else if (r->rm >= 0) {
        rm = (unsigned)r->rm & 7;
        rex = (rex & ~1u) | ((unsigned)r->rm > 7 ? 0x41u : 0);
    } else if (r->opreg >= 0) {
        opcode = (opcode & ~7u) | ((unsigned)r->opreg & 7);
        rex = (rex & ~1u) | ((unsigned)r->opreg > 7 ? 0x41u : 0);
    }
    if (rex)
        e_byte(e, rex | 0x40u);
    for (unsigned i = 0; i < c->escape_count; i++)
        e_byte(e, c->escapes[i]);
    e_byte(e, opcode);
    if (r->has_mem)
        e_modrm_mem(e, reg, r->mem);
    else if (c->modrm)
        e_byte(e, 0xc0 | reg << 3 | rm);
    for (unsigned i = 0; i < c->imm_bytes; i++)
        e_byte(e, t->bytes[c->imm_at + i]);
}

void recode(struct trans *t, struct emit *e, const struct recode *r)
{
    const struct encoding *c = &t->g[t->cur].form->encoding;
    if (c->legacy)
        recode_legacy(t, e, r, c);
    else if (t->bits == 32 &&
             (t->in->mnemonic == ZYDIS_MNEMONIC_VZEROALL || t->in->mnemonic == ZYDIS_MNEMONIC_VZEROUPPER))
        zero_eight(e, t->in->mnemonic == ZYDIS_MNEMONIC_VZEROALL);
    else if (t->in->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
        recode_vex(t, e, r);
    else
        recode_evex(t, e, r);
}

void e_stored_rflags(struct emit *e, int dst, int tmp)
{
    e_rm0f(e, 0, 0xb7, (unsigned)dst, GS(fl)); /* MOVZX */
    e_mov_rr(e, 0, tmp, dst);
    e_alu_ri(e, 0, ALU_AND, tmp, 1);
    e_shl_ri(e, 0, tmp, 11);
    e_shr_ri(e, 0, dst, 8);
    e_alu_ri(e, 0, ALU_AND, dst, 0xd5);
    e_alu_rr(e, 0, ALU_OR, dst, tmp);
    e_load(e, 0, tmp, GS(rflags));
    e_alu_ri(e, 0, ALU_AND, tmp, ~(int32_t)(FL_RF | FL_VM));
    e_alu_rr(e, 0, ALU_OR, dst, tmp);
}

void e_save_flags(struct emit *e)
{
    e_mov_rr(e, 1, T1, H_AX);
    e_lahf(e);
    e_seto_al(e);
    e_byte(e, 0x66);
    e_store(e, 0, GS(fl), H_AX);
    e_mov_rr(e, 1, H_AX, T1);
}
