/* Generic instructions: written again with the same opcode, registers renamed, the memory operand checked.
 *
 * An instruction that names r9, r10, r11 or r15 gets a scratch register that is loaded before and stored
 * behind it; which one is decided when the body is written, because only then it is known what the operand
 * uses. Behind the instruction it holds that register still, and the next one need not load it again, as long
 * as no other code has been written in between (struct held): chains of arithmetic in r9 to r11 would wait
 * for each of their stores else. AH, CH, DH, BH cannot be named beside the registers of a checked operand (no
 * REX), so the two low bytes are exchanged around such an instruction. */
#include "engine/translator/masked.h"
#include "engine/translator/mmu.h"
#include "engine/translator/trans.h"
#include "engine/translator/x87_pointers.h"

static bool is_high_byte(ZydisRegister r)
{
    return r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH;
}

/* A register that lives in memory: the place in the plan, as a negative number until the body knows which
 * scratch registers are free (SLOT_REF). */
#define SLOT_REF(k) (-2 - (int)(k))

static int8_t slot_ref(const struct trans *t, struct plan *p, unsigned gpr, const ZydisDecodedOperand *op)
{
    bool partial = op->size < 32;
    /* BSF and BSR leave their destination alone if the source is 0 (AMD documents it, Intel does it) */
    bool scan = t->in->mnemonic == ZYDIS_MNEMONIC_BSF || t->in->mnemonic == ZYDIS_MNEMONIC_BSR;
    bool load = (op->actions & ACT_READ) || partial || scan || (op->actions & ZYDIS_OPERAND_ACTION_CONDWRITE);
    bool store = (op->actions & ACT_WRITE) != 0;
    for (unsigned i = 0; i < p->slot_count; i++) {
        if (p->slots[i].gpr == gpr) {
            p->slots[i].load |= load;
            p->slots[i].store |= store;
            return (int8_t)SLOT_REF(i);
        }
    }
    p->slots[p->slot_count] = (struct slot){ (uint8_t)gpr, H_NONE, load, store };
    return (int8_t)SLOT_REF(p->slot_count++);
}

/* Instructions whose officially undefined flags do not depend on the old flags: on any CPU that we know, or
 * on this one. */
static bool kills_all_flags(const struct trans *t)
{
    const ZydisDecodedOperand *count = &t->ops[1];
    switch (t->in->mnemonic) {
    case ZYDIS_MNEMONIC_AND:
    case ZYDIS_MNEMONIC_OR:
    case ZYDIS_MNEMONIC_XOR:
    case ZYDIS_MNEMONIC_TEST: return true;
    case ZYDIS_MNEMONIC_MUL:
    case ZYDIS_MNEMONIC_IMUL: return t->vm->flags.products;
    case ZYDIS_MNEMONIC_SHL:
    case ZYDIS_MNEMONIC_SHR:
    case ZYDIS_MNEMONIC_SAR:
        return t->vm->flags.shifts && count->type == ZYDIS_OPERAND_TYPE_IMMEDIATE &&
               (count->imm.value.u & (t->in->operand_width == 64 ? 63 : 31)) != 0;
    default: return false;
    }
}

void insn_flags(const struct trans *t, bool *reads, bool *writes)
{
    const ZydisAccessedFlags *f = t->in->cpu_flags;
    *reads = *writes = false;
    if (!f)
        return;
    uint32_t tested = f->tested & FL_STATUS, undefined = f->undefined & FL_STATUS;
    uint32_t written = (f->modified | f->set_0 | f->set_1 | f->undefined) & FL_STATUS;
    *writes = written != 0;
    *reads = tested || (written && !kills_all_flags(t) && (written != FL_STATUS || undefined));
}

bool insn_counts(const struct trans *t)
{
    switch (t->in->mnemonic) {
    case ZYDIS_MNEMONIC_SHL:
    case ZYDIS_MNEMONIC_SHR:
    case ZYDIS_MNEMONIC_SAR: return true;
    default: return false;
    }
}

bool insn_signals(const struct trans *t)
{
    return t->in->mnemonic == ZYDIS_MNEMONIC_DIV || t->in->mnemonic == ZYDIS_MNEMONIC_IDIV ||
           t->in->mnemonic == ZYDIS_MNEMONIC_CMPXCHG16B;
}

/* Maps the register operands. */
static void plan_regs(const struct trans *t, struct plan *p, bool has_mem)
{
    for (unsigned i = 0; i < t->in->operand_count_visible; i++) {
        const ZydisDecodedOperand *op = &t->ops[i];
        if (op->type != ZYDIS_OPERAND_TYPE_REGISTER || op->visibility != ZYDIS_OPERAND_VISIBILITY_EXPLICIT)
            continue;
        int id = insn_gpr_id(op->reg.value);
        if (id < 0)
            continue;
        int8_t host;
        if (is_high_byte(op->reg.value)) {
            if (!has_mem)
                continue; /* no REX in the original: every register is itself */
            p->swap = host = (int8_t)id;
        } else {
            host = is_slot((unsigned)id) ? slot_ref(t, p, (unsigned)id, op) : (int8_t)host_reg((unsigned)id);
        }
        switch (op->encoding) {
        case ZYDIS_OPERAND_ENCODING_MODRM_REG: p->r.reg = host; break;
        case ZYDIS_OPERAND_ENCODING_MODRM_RM: p->r.rm = host; break;
        case ZYDIS_OPERAND_ENCODING_NDSNDD: p->r.vvvv = host; break;
        case ZYDIS_OPERAND_ENCODING_OPCODE: p->r.opreg = host; break;
        default: break; /* AL, AX, EAX, RAX, CL, DX by opcode: the same in the host */
        }
    }
}

static void swap_bytes(struct emit *e, int reg)
{
    e_byte(e, 0x86);
    e_byte(e, 0xc0 | ((unsigned)reg + 4) << 3 | (unsigned)reg);
}

static void mask_begin(struct trans *t, struct emit *e)
{
    (void)t;
    e_store(e, 1, GS(scratch), H_AX);
    e_store(e, 1, GS(scratch[1]), H_DX);
    e_alu_rm(e, 0, ALU_AND, H_AX, GS(xcr0));
    e_mov_ri32(e, H_DX, 0);
}

static int8_t resolve(const struct plan *p, int8_t reg)
{
    return reg <= SLOT_REF(0) ? p->slots[SLOT_REF(0) - reg].tmp : reg;
}

/* Which of two scratch registers the first slot gets: the one that holds it, or that does not hold the
 * second, or that was not used last. */
static bool wants_t1_first(const struct trans *t, const struct emit *e, const struct plan *p)
{
    const struct slot *s = p->slots;
    if (!p->slot_count || !held_valid(t, e))
        return false;
    for (unsigned i = 0; i < 2; i++) {
        if (t->held.what[i] == (int)s[0].gpr)
            return i == 1;
        if (p->slot_count > 1 && t->held.what[i] == (int)s[1].gpr)
            return i == 0;
    }
    return t->held.last == 0;
}

/* Loads the slots into their scratch registers, but for those that hold them already. */
static void load_slots(struct trans *t, struct emit *e, const struct plan *p)
{
    bool has[4];
    for (unsigned i = 0; i < p->slot_count; i++) {
        unsigned tmp = (unsigned)p->slots[i].tmp;
        has[i] = (tmp == T0 || tmp == T1) && held_is(t, e, tmp == T1, (int)p->slots[i].gpr);
    }
    for (unsigned i = 0; i < p->slot_count; i++) {
        if (p->slots[i].load && !has[i])
            e_load(e, 1, p->slots[i].tmp, gs_gpr(p->slots[i].gpr));
    }
}

/* What the scratch registers hold behind the instruction. kept: before it, when they had it still. */
static void hold_slots(struct trans *t, const struct emit *e, const struct plan *p, bool kept)
{
    if (e != &t->h)
        return;
    held_keep(t, e, kept && (!p->r.has_mem || !p->slot_count));
    for (unsigned i = 0; i < p->slot_count && !p->r.has_mem; i++) {
        if (p->slots[i].tmp == T0 || p->slots[i].tmp == T1)
            held_note(t, p->slots[i].tmp == T1, (int)p->slots[i].gpr);
    }
}

/* Gives each slot a scratch register that the memory operand does not use. */
static void assign_slots(struct trans *t, struct emit *e, struct plan *p)
{
    int free[3] = { T0, T0, T0 };
    unsigned n = 0, need = p->slot_count;
    bool flags = p->reads_flags && !t->host_flags;
    if (!p->r.has_mem) {
        bool other = wants_t1_first(t, e, p);
        free[n++] = other ? T1 : T0;
        free[n++] = other ? T0 : T1;
    } else if (need || flags) {
        free[n++] = body_tmp(e, &p->r.mem);
        if (p->r.mem.base != T0 && p->r.mem.index != T0 && free[0] != T0)
            free[n++] = T0;
        else if (p->r.mem.base != T1 && p->r.mem.index != T1 && free[0] != T1)
            free[n++] = T1;
        if (n < need) { /* reduce the operand to one register */
            e_lea(e, 1, T0, p->r.mem);
            p->r.mem = hm_base(T0, 0);
            n = 0;
            free[n++] = T1;
        }
    }
    if (n < need) { /* the operand does not use DC any more, or there is none */
        group_take_dc(t);
        free[n++] = DC;
    }
    BUG_ON(n < need);
    if (flags)
        fl_need(t, e, free[0]);
    for (unsigned i = 0; i < need; i++)
        p->slots[i].tmp = (int8_t)free[i];
}

/* The host's XCR0 may hold more than the guest's, so the host would not refuse what the guest's CPU must:
 * bits of XSTATE_BV outside XCR0, and the compacted form, which CPUID denies (SDM volume 1, 13.8.1). Uses
 * RDX, which is put away. */
static void check_restore(struct trans *t, struct emit *e, struct hmem m)
{
    struct emit *k = &t->k;
    m.disp += 512;
    e_load(e, 1, H_DX, m);
    e_alu_rm(e, 1, ALU_OR, H_DX, GS(xcr0));
    e_alu_rm(e, 1, ALU_XOR, H_DX, GS(xcr0));
    m.disp += 8;
    e_alu_rm(e, 1, ALU_OR, H_DX, m);
    e_jcc(e, CC_NE, e_rx(k));
    e_load(k, 1, H_AX, GS(scratch));
    e_load(k, 1, H_DX, GS(scratch[1]));
    e_desc(t, k, H_10, t->off | (uint32_t)SPECIAL_GP << 16);
    e_call(k, t->cc->stubs.special);
}

/* Whether x87's pointers are this instruction's afterwards: SDM volume 1, 8.1.8. */
static bool sets_pointers(const struct trans *t)
{
    switch (t->in->mnemonic) {
    case ZYDIS_MNEMONIC_FNINIT:
    case ZYDIS_MNEMONIC_FNCLEX:
    case ZYDIS_MNEMONIC_FLDCW:
    case ZYDIS_MNEMONIC_FNSTCW:
    case ZYDIS_MNEMONIC_FNSTSW:
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FLDENV:
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_FRSTOR:
    case ZYDIS_MNEMONIC_FWAIT: return false;
    default: return insn_is_x87(t);
    }
}

static bool moves_pointers(const struct trans *t)
{
    switch (t->in->mnemonic) {
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FLDENV:
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_FRSTOR:
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64:
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64:
    case ZYDIS_MNEMONIC_XSAVEOPT:
    case ZYDIS_MNEMONIC_XSAVEOPT64:
    case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_XRSTOR64: return true;
    default: return false;
    }
}

/* Behind an x87 instruction. Uses T1. */
static void note_pointers(struct trans *t, struct emit *e)
{
    if (is_fixed(t)) {
        e_store_imm32(e, 1, GS(x87_page), (uint32_t)t->vpage);
        return;
    }
    e_load(e, 1, T1, GS(vpage));
    e_store(e, 1, GS(x87_page), T1);
}

static void show_pointers(struct trans *t)
{
    struct emit *h = &t->h, *k = &t->k;
    fl_clobber(t, h);
    e_alu_mi(h, 1, ALU_CMP, GS(x87_page), (int32_t)X87_SHOWN);
    e_jcc(h, CC_NE, e_rx(k));
    e_desc(t, k, H_10, t->off | (uint32_t)SPECIAL_X87_POINTERS << 16);
    e_call(k, t->cc->stubs.special);
    e_jmp(k, e_rx(h));
    t->x87_noted = false;
}

static void generic_body(struct trans *t, struct emit *e, struct hmem ref, void *arg)
{
    struct plan p = *(struct plan *)arg;
    p.r.mem = ref;
    const uint8_t *start = e->p;
    bool kept = held_valid(t, e);
    assign_slots(t, e, &p);
    kept = kept && e->p == start;
    p.r.reg = resolve(&p, p.r.reg);
    p.r.rm = resolve(&p, p.r.rm);
    p.r.vvvv = resolve(&p, p.r.vvvv);
    p.r.opreg = resolve(&p, p.r.opreg);
    load_slots(t, e, &p);
    if (p.mask)
        mask_begin(t, e);
    if (p.restore) {
        check_restore(t, e, p.r.mem);
        e_mov_ri32(e, H_DX, 0);
    }
    if (p.swap >= 0)
        swap_bytes(e, p.swap);
    recode(t, e, &p.r);
    if (p.swap >= 0)
        swap_bytes(e, p.swap);
    if (p.mask) {
        e_load(e, 1, H_AX, GS(scratch));
        e_load(e, 1, H_DX, GS(scratch[1]));
    }
    for (unsigned i = 0; i < p.slot_count; i++) {
        if (p.slots[i].store)
            e_store(e, 1, gs_gpr(p.slots[i].gpr), p.slots[i].tmp);
    }
    hold_slots(t, e, &p, kept);
    if (!t->x87_noted && !t->rehearses && p.sets_pointers)
        note_pointers(t, e);
    if (p.writes_flags)
        fl_written(t);
}

static unsigned access_kind(const ZydisDecodedOperand *op)
{
    bool r = (op->actions & ACT_READ) != 0, w = (op->actions & ACT_WRITE) != 0;
    bool cond = (op->actions & ZYDIS_OPERAND_ACTION_CONDWRITE) != 0;
    return !w ? MMU_SLOW_R : r || cond ? MMU_SLOW_RMW : MMU_SLOW_W;
}

const ZydisDecodedOperand *insn_find_mem(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *ops)
{
    for (unsigned i = 0; i < in->operand_count; i++) {
        const ZydisDecodedOperand *op = &ops[i];
        if (op->type == ZYDIS_OPERAND_TYPE_MEMORY && op->mem.type != ZYDIS_MEMOP_TYPE_AGEN)
            return op;
    }
    return NULL;
}

void generic_lea(struct trans *t)
{
    struct emit *h = &t->h;
    const struct form *f = t->g[t->cur].form;
    struct gaddr a = gaddr_of(t);
    a.seg_base = 0;
    unsigned dst = (unsigned)f->lea, size = f->operand_width;
    bool direct = !is_slot(dst) && size >= 32 && a.base != (int)dst && a.index != (int)dst;
    if (direct && (a.width == 64 || size == 32)) {
        /* the usual case in one go, unless the displacement needs several steps */
        if (size == 32)
            a.width = 32;
        lea_guest(t, h, host_reg(dst), &a);
        return;
    }
    lea_guest(t, h, T0, &a);
    if (size == 16) {
        if (is_slot(dst)) {
            e_byte(h, 0x65), e_byte(h, 0x66);
            e_store(h, 0, (struct hmem){ H_NONE, H_NONE, 1, false, gs_gpr(dst).disp }, T0);
        } else {
            e_byte(h, 0x66);
            e_mov_rr(h, 0, host_reg(dst), T0);
        }
        return;
    }
    if (is_slot(dst)) {
        if (size == 32)
            e_mov_rr(h, 0, T0, T0);
        e_store(h, 1, gs_gpr(dst), T0);
    } else {
        e_mov_rr(h, size == 64, host_reg(dst), T0);
    }
}

/* MOV between accumulator and an absolute address: written again in the ModRM form. */
static bool is_moffs(const struct trans *t)
{
    return t->in->mnemonic == ZYDIS_MNEMONIC_MOV && t->in->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT &&
           t->in->opcode >= 0xa0 && t->in->opcode <= 0xa3;
}

bool insn_uses_class(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *ops,
                     ZydisRegisterClass cls)
{
    for (unsigned i = 0; i < in->operand_count; i++) {
        if (ops[i].type == ZYDIS_OPERAND_TYPE_REGISTER && ZydisRegisterGetClass(ops[i].reg.value) == cls)
            return true;
    }
    return false;
}

bool insn_has_class(const struct trans *t, ZydisRegisterClass cls)
{
    return insn_uses_class(t->in, t->ops, cls);
}

static bool is_x87(const ZydisDecodedInstruction *in) /* FISTTP counts as SSE3 elsewhere */
{
    return in->meta.isa_ext == ZYDIS_ISA_EXT_X87 || in->meta.category == ZYDIS_CATEGORY_X87_ALU;
}

bool insn_is_x87(const struct trans *t)
{
    return is_x87(t->in);
}

bool insn_waits_for_fpu(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *ops)
{
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_FNSTCW:
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FNSTSW: return false;
    default: return is_x87(in) || insn_uses_class(in, ops, ZYDIS_REGCLASS_MMX);
    }
}

bool insn_rehearses(const struct trans *t)
{
    return !t->vm->cpuid.is_amd &&
           (t->in->mnemonic == ZYDIS_MNEMONIC_VCVTPS2PH || insn_waits_for_fpu(t->in, t->ops));
}

/* Of XSAVE's area, for what XCR0 has. */
static unsigned xsave_size(const struct trans *t)
{
    uint64_t components =
        (t->mode & MODE_NO_AVX ? 0 : XSTATE_AVX) | (t->mode & MODE_NO_AVX512 ? 0 : XSTATE_AVX512);
    return cpuid_model_xsave_size(&t->vm->cpuid, components);
}

/* Length and kind of the memory access of a generic instruction. */
unsigned generic_access(const struct trans *t, const ZydisDecodedOperand *mem, unsigned *acc)
{
    *acc = access_kind(mem);
    switch (t->in->mnemonic) {
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64:
    case ZYDIS_MNEMONIC_XSAVEOPT:
    case ZYDIS_MNEMONIC_XSAVEOPT64: *acc = MMU_SLOW_RMW; __attribute__((fallthrough));
    case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_XRSTOR64: return xsave_size(t);
    case ZYDIS_MNEMONIC_CLFLUSH:
    case ZYDIS_MNEMONIC_CLFLUSHOPT:
    case ZYDIS_MNEMONIC_CLWB: *acc = MMU_SLOW_R; return 1; /* faults as a load of the one byte does */
    default:
        /* with an unmasked exception an x87 store stores nothing: a staged one must find the old bytes */
        if (insn_is_x87(t) && *acc == MMU_SLOW_W)
            *acc = MMU_SLOW_RMW;
        if (*acc == MMU_SLOW_RMW &&
            masked_operand(t->in, t->ops)) /* what is not stored is not written back */
            *acc = MMU_SLOW_W;
        return mem->size / 8u;
    }
}

enum mmu_align operand_align(const ZydisDecodedInstruction *in, unsigned n, bool amd)
{
    bool legacy = in->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY;
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_MOVUPS:
    case ZYDIS_MNEMONIC_MOVUPD:
    case ZYDIS_MNEMONIC_MOVDQU:
    case ZYDIS_MNEMONIC_LDDQU:
    case ZYDIS_MNEMONIC_PCMPESTRI:
    case ZYDIS_MNEMONIC_PCMPESTRM:
    case ZYDIS_MNEMONIC_PCMPISTRI:
    case ZYDIS_MNEMONIC_PCMPISTRM: return MMU_ALIGN_NONE;
    case ZYDIS_MNEMONIC_VMOVAPS:
    case ZYDIS_MNEMONIC_VMOVAPD:
    case ZYDIS_MNEMONIC_VMOVDQA:
    case ZYDIS_MNEMONIC_VMOVDQA32:
    case ZYDIS_MNEMONIC_VMOVDQA64:
    case ZYDIS_MNEMONIC_VMOVNTPS:
    case ZYDIS_MNEMONIC_VMOVNTPD:
    case ZYDIS_MNEMONIC_VMOVNTDQ:
    case ZYDIS_MNEMONIC_VMOVNTDQA:
    case ZYDIS_MNEMONIC_MOVAPS:
    case ZYDIS_MNEMONIC_MOVAPD:
    case ZYDIS_MNEMONIC_MOVDQA:
    case ZYDIS_MNEMONIC_MOVNTPS:
    case ZYDIS_MNEMONIC_MOVNTPD:
    case ZYDIS_MNEMONIC_MOVNTDQ:
    case ZYDIS_MNEMONIC_MOVNTDQA:
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64:
    case ZYDIS_MNEMONIC_CMPXCHG16B:
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64:
    case ZYDIS_MNEMONIC_XSAVEOPT:
    case ZYDIS_MNEMONIC_XSAVEOPT64:
    case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_XRSTOR64: return MMU_ALIGN;
    case ZYDIS_MNEMONIC_SHA1RNDS4:
    case ZYDIS_MNEMONIC_SHA1NEXTE:
    case ZYDIS_MNEMONIC_SHA1MSG1:
    case ZYDIS_MNEMONIC_SHA1MSG2:
    case ZYDIS_MNEMONIC_SHA256RNDS2:
    case ZYDIS_MNEMONIC_SHA256MSG1:
    case ZYDIS_MNEMONIC_SHA256MSG2:
        return amd ? MMU_ALIGN_NONE : MMU_ALIGN; /* AMD's look at the page first */
    default: return legacy && n == 16 ? MMU_ALIGN_UNLESS_MM : MMU_ALIGN_NONE;
    }
}

/* Whether generic() can do it; else the interpreter. */
bool generic_can(const struct trans *t)
{
    const ZydisDecodedOperand *mem = t->mem;
    unsigned acc, high = 0, slots = 0, sp = 0;
    if (t->in->mnemonic == ZYDIS_MNEMONIC_LEA)
        return t->in->address_width >= 32;
    for (unsigned i = 0; i < t->in->operand_count_visible; i++) {
        if (t->ops[i].type != ZYDIS_OPERAND_TYPE_REGISTER)
            continue;
        int id = insn_gpr_id(t->ops[i].reg.value);
        high += id >= 0 && is_high_byte(t->ops[i].reg.value);
        slots += id >= 0 && is_slot((unsigned)id);
        sp += id == R_SP && !is_high_byte(t->ops[i].reg.value);
    }
    if (high && sp) /* RSP is r15 here, which needs a REX prefix, which AH to BH exclude */
        return false;
    if (!mem)
        return true;
    if (mem->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN || (t->in->address_width == 16 && t->bits == 64) ||
        (high && t->in->mnemonic == ZYDIS_MNEMONIC_CMPXCHG) || slots > 2)
        return false;
    unsigned n = generic_access(t, mem, &acc);
    return n > 0 && n <= PAGE_SIZE;
}

static void plan_xsave(const struct trans *t, struct plan *p)
{
    switch (t->in->mnemonic) {
    case ZYDIS_MNEMONIC_XSAVEOPT:
    case ZYDIS_MNEMONIC_XSAVEOPT64:
        p->r.subst_reg = 4; /* XSAVE: the modified optimization must not see our buffers' addresses */
        p->mask = true;
        break;
    case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_XRSTOR64: p->restore = true; __attribute__((fallthrough));
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64: p->mask = true; break;
    default: break;
    }
}

/* MEM_* of the operand. */
static unsigned plan_access(const struct trans *t, const struct form *f)
{
    bool amd = t->vm->cpuid.is_amd;
    unsigned flags = (unsigned)operand_align(t->in, f->access_len, amd) << MEM_ALIGN_SHIFT;
    if ((t->in->attributes & ZYDIS_ATTRIB_HAS_LOCK) || t->in->mnemonic == ZYDIS_MNEMONIC_XCHG)
        flags |= MEM_LOCKED;
    if (t->mem->mem.segment == ZYDIS_REGISTER_SS)
        flags |= MEM_STACK;
    if (f->plan.swap >= 0 || f->plan.mask)
        flags |= MEM_NO_DELTA | MEM_NO_GROUP;
    if (f->facts.way == WAY_VECTOR || f->facts.signals)
        flags |= MEM_SIDE;
    if (insn_waits_for_fpu(t->in, t->ops))
        flags |= MEM_FPU_WAIT;
    if (f->access != MMU_SLOW_R && insn_rehearses(t))
        flags |= MEM_REHEARSE;
    if (masked_by_element(t->in, t->ops, amd))
        flags |= MEM_MASKED;
    return flags;
}

void generic_learn(const struct trans *t, struct form *f)
{
    struct plan *p = &f->plan;
    unsigned access;
    f->access_len = 0;
    f->lea = -1;
    f->operand_width = t->in->operand_width;
    if (t->in->mnemonic == ZYDIS_MNEMONIC_LEA)
        f->lea = (int8_t)insn_gpr_id(t->ops[0].reg.value);
    if (f->facts.way != WAY_GENERIC && f->facts.way != WAY_VECTOR)
        return;
    *p =
        (struct plan){ .r = { .reg = -1, .rm = -1, .vvvv = -1, .opreg = -1, .subst_reg = 0xff }, .swap = -1 };
    p->r.has_mem = t->mem != NULL;
    plan_regs(t, p, t->mem != NULL);
    plan_xsave(t, p);
    p->moves_pointers = moves_pointers(t);
    p->sets_pointers = sets_pointers(t);
    if (is_moffs(t)) {
        p->r.opcode = (uint8_t)((t->in->opcode < 0xa2 ? 0x8a : 0x88) + (t->in->opcode & 1));
        p->r.reg = 0;
    }
    if (!t->mem || f->lea >= 0)
        return;
    f->access_len = (uint16_t)generic_access(t, t->mem, &access);
    f->access = (uint8_t)access;
    p->denied = insn_is_denied(t);
    p->flags = (uint16_t)plan_access(t, f);
}

void generic_translate(struct trans *t, bool vector)
{
    const struct ginsn *g = &t->g[t->cur];
    struct plan p = g->form->plan;
    p.reads_flags = g->f.tests_flags || (g->f.reads_flags && fl_passed_on(t));
    p.writes_flags = g->f.writes_flags;
    if (p.moves_pointers)
        show_pointers(t);
    if (!p.r.has_mem) {
        if (vector || g->f.signals)
            side_note(t, &t->h);
        generic_body(t, &t->h, (struct hmem){ 0 }, &p);
    } else if (p.denied) {
        mem_denied(t, p.flags, generic_body, &p);
        return;
    } else {
        struct gaddr a = gaddr_of(t);
        mem_access(t, &a, g->form->access_len, g->form->access, p.flags, generic_body, &p);
    }
    t->x87_noted |= p.sets_pointers;
}
