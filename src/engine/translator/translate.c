/* The block translator.
 *
 * Theory of operation. A block is a stretch of guest code inside one page: straight code, and on past conditional branches
 * that are not taken (each taken branch is a side exit), until an unconditional transfer, the end of the page or a limit. Zydis
 * decodes; each instruction goes one of four ways:
 *
 *   - generic (nearly all): the instruction is written again with the same opcode, registers renamed (trans_encode.c), its
 *     memory operand replaced by a checked one (trans_mem.c). The host executes it, so results and flags are the CPU's own.
 *   - stack and branches (trans_flow.c);
 *   - in C: system and string instructions call the interpreter (flow_interp);
 *   - not allowed now (x87/SSE/AVX switched off by CR0, CR4, XCR0; instructions that CPUID denies): a call that raises the
 *     right exception (flow_special).
 *
 * Register map: see stubs.c. An instruction that names r9, r10, r11 or r15 gets a scratch register that is loaded before and
 * stored behind it. AH, CH, DH, BH cannot be named beside the registers of a checked operand (no REX), so the two
 * low bytes are exchanged around such an instruction.
 *
 * Precise exceptions: an instruction changes nothing before its last check, flags included (trans_mem.c), so a fault in a check
 * needs only the instruction's offset. Host signals (divide error, SSE alignment, unmasked SIMD exceptions, opcodes that the host
 * lacks) are mapped back by a side table of the places where they can come from.
 *
 * An instruction that runs into the next page is a block of its own, found only through the dispatcher and the jump
 * cache, because the second page's mapping can change. */
#include "engine/translator/mmu.h"
#include "engine/translator/trans.h"

#include <string.h>

/* ---- generic instructions ---- */

struct slot {
    unsigned gpr;
    int tmp;
    bool load, store;
};

struct plan {
    struct recode r;
    struct slot slots[4];
    unsigned slot_count;
    bool reads_flags, writes_flags;
    int swap;  /* register whose two low bytes are exchanged around the instruction, or -1 */
    bool mask; /* XSAVE family: EDX:EAX is limited to the guest's XCR0 */
    bool restore; /* XRSTOR: the header must name no more than that either */
};

#define ACT_READ ZYDIS_OPERAND_ACTION_MASK_READ
#define ACT_WRITE ZYDIS_OPERAND_ACTION_MASK_WRITE

static bool is_high_byte(ZydisRegister r)
{
    return r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH;
}

/* Number of a general register, or -1 for others. */
static int gpr_id(ZydisRegister r)
{
    switch (ZydisRegisterGetClass(r)) {
    case ZYDIS_REGCLASS_GPR8:
        if (r >= ZYDIS_REGISTER_SPL)
            return r - ZYDIS_REGISTER_SPL + 4;
        return (r - ZYDIS_REGISTER_AL) & 3;
    case ZYDIS_REGCLASS_GPR16:
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64: return ZydisRegisterGetId(r);
    default: return -1;
    }
}

/* A register that lives in memory: the place in the plan, as a negative number until the body knows which scratch registers are
 * free (SLOT_REF). */
#define SLOT_REF(k) (-2 - (int)(k))

static int slot_ref(const struct trans *t, struct plan *p, unsigned gpr, const ZydisDecodedOperand *op)
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
            return SLOT_REF(i);
        }
    }
    p->slots[p->slot_count] = (struct slot){ gpr, H_NONE, load, store };
    return SLOT_REF(p->slot_count++);
}

/* Instructions whose officially undefined flags do not depend on the old flags on any CPU that we know. */
static bool kills_all_flags(const struct trans *t)
{
    switch (t->in->mnemonic) {
    case ZYDIS_MNEMONIC_AND:
    case ZYDIS_MNEMONIC_OR:
    case ZYDIS_MNEMONIC_XOR:
    case ZYDIS_MNEMONIC_TEST: return true;
    default: return false;
    }
}

static void plan_flags(const struct trans *t, struct plan *p)
{
    const ZydisAccessedFlags *f = t->in->cpu_flags;
    if (!f)
        return;
    uint32_t reads = f->tested & FL_STATUS, undefined = f->undefined & FL_STATUS;
    uint32_t writes = (f->modified | f->set_0 | f->set_1 | f->undefined) & FL_STATUS;
    p->writes_flags = writes != 0;
    p->reads_flags = reads || (writes && !kills_all_flags(t) && (writes != FL_STATUS || undefined));
}

/* Maps the register operands. */
static void plan_regs(struct trans *t, struct plan *p, bool has_mem)
{
    for (unsigned i = 0; i < t->in->operand_count_visible; i++) {
        const ZydisDecodedOperand *op = &t->ops[i];
        if (op->type != ZYDIS_OPERAND_TYPE_REGISTER || op->visibility != ZYDIS_OPERAND_VISIBILITY_EXPLICIT)
            continue;
        int id = gpr_id(op->reg.value);
        if (id < 0)
            continue;
        int host;
        if (is_high_byte(op->reg.value)) {
            if (!has_mem)
                continue; /* no REX in the original: every register is itself */
            p->swap = host = id;
        } else {
            host = is_slot((unsigned)id) ? slot_ref(t, p, (unsigned)id, op) : host_reg((unsigned)id);
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

static int resolve(const struct plan *p, int reg)
{
    return reg <= SLOT_REF(0) ? p->slots[SLOT_REF(0) - reg].tmp : reg;
}

/* Gives each slot a scratch register that the memory operand does not use. */
static void assign_slots(struct trans *t, struct emit *e, struct plan *p)
{
    int free[3];
    unsigned n = 0, need = p->slot_count;
    bool flags = p->reads_flags && !t->host_flags;
    if (!p->r.has_mem) {
        free[n++] = T0;
        free[n++] = T1;
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
        p->slots[i].tmp = free[i];
}

/* The host's XCR0 may hold more than the guest's, so the host would not refuse what the guest's CPU must: bits of XSTATE_BV
 * outside XCR0, and the compacted form, which CPUID denies (SDM volume 1, 13.8.1). Uses RDX, which is put away. */
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
    e_mov_ri32(k, H_10, t->off | (uint32_t)SPECIAL_GP << 16);
    e_call(k, t->cc->stubs.special);
}

static void generic_body(struct trans *t, struct emit *e, struct hmem ref, void *arg)
{
    struct plan p = *(struct plan *)arg;
    p.r.mem = ref;
    assign_slots(t, e, &p);
    p.r.reg = resolve(&p, p.r.reg);
    p.r.rm = resolve(&p, p.r.rm);
    p.r.vvvv = resolve(&p, p.r.vvvv);
    p.r.opreg = resolve(&p, p.r.opreg);
    for (unsigned i = 0; i < p.slot_count; i++) {
        if (p.slots[i].load)
            e_load(e, 1, p.slots[i].tmp, gs_gpr(p.slots[i].gpr));
    }
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
    if (p.writes_flags)
        fl_written(t);
}

static unsigned access_kind(const ZydisDecodedOperand *op)
{
    bool r = (op->actions & ACT_READ) != 0, w = (op->actions & ACT_WRITE) != 0;
    bool cond = (op->actions & ZYDIS_OPERAND_ACTION_CONDWRITE) != 0;
    return !w ? MMU_SLOW_R : r || cond ? MMU_SLOW_RMW : MMU_SLOW_W;
}

static const ZydisDecodedOperand *mem_operand(const struct trans *t)
{
    for (unsigned i = 0; i < t->in->operand_count; i++) {
        const ZydisDecodedOperand *op = &t->ops[i];
        if (op->type == ZYDIS_OPERAND_TYPE_MEMORY && op->mem.type != ZYDIS_MEMOP_TYPE_AGEN)
            return op;
    }
    return NULL;
}

static void lea_insn(struct trans *t)
{
    struct emit *h = &t->h;
    struct gaddr a = gaddr_of(t, &t->ops[1]);
    a.seg_base = 0;
    unsigned dst = (unsigned)gpr_id(t->ops[0].reg.value), size = t->in->operand_width;
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
    return t->in->mnemonic == ZYDIS_MNEMONIC_MOV && t->in->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && t->in->opcode >= 0xa0 &&
           t->in->opcode <= 0xa3;
}

static bool has_class(const struct trans *t, ZydisRegisterClass cls)
{
    for (unsigned i = 0; i < t->in->operand_count; i++) {
        if (t->ops[i].type == ZYDIS_OPERAND_TYPE_REGISTER && ZydisRegisterGetClass(t->ops[i].reg.value) == cls)
            return true;
    }
    return false;
}

static bool is_x87(const struct trans *t) /* FISTTP counts as SSE3 elsewhere */
{
    return t->in->meta.isa_ext == ZYDIS_ISA_EXT_X87 || t->in->meta.category == ZYDIS_CATEGORY_X87_ALU;
}

/* x87 and MMX instructions that report a pending x87 exception first (SDM volume 1, 8.6). */
static bool waits_for_fpu(const struct trans *t)
{
    switch (t->in->mnemonic) {
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_FNSTCW:
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FNSTSW: return false;
    default: return is_x87(t) || has_class(t, ZYDIS_REGCLASS_MMX);
    }
}

/* Length and kind of the memory access of a generic instruction. */
static unsigned generic_access(const struct trans *t, const ZydisDecodedOperand *mem, unsigned *acc)
{
    *acc = access_kind(mem);
    switch (t->in->mnemonic) {
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64:
    case ZYDIS_MNEMONIC_XSAVEOPT:
    case ZYDIS_MNEMONIC_XSAVEOPT64: *acc = MMU_SLOW_RMW; return t->vm->cpuid.xsave_size;
    case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_XRSTOR64: return t->vm->cpuid.xsave_size;
    case ZYDIS_MNEMONIC_CLFLUSH:
    case ZYDIS_MNEMONIC_CLFLUSHOPT:
    case ZYDIS_MNEMONIC_CLWB: *acc = MMU_SLOW_R; return 1; /* faults as a load of the one byte does */
    default:
        /* with an unmasked exception an x87 store stores nothing: a staged one must find the old bytes */
        if (is_x87(t) && *acc == MMU_SLOW_W)
            *acc = MMU_SLOW_RMW;
        return mem->size / 8u;
    }
}

/* The alignment that the memory operand must have, as MMU_DESC_ALIGN wants it (SDM volume 2, 2.4 and table 2-21). */
static unsigned operand_align(const struct trans *t, unsigned n)
{
    bool vex = t->in->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
    switch (t->in->mnemonic) {
    case ZYDIS_MNEMONIC_MOVUPS:
    case ZYDIS_MNEMONIC_MOVUPD:
    case ZYDIS_MNEMONIC_MOVDQU:
    case ZYDIS_MNEMONIC_LDDQU:
    case ZYDIS_MNEMONIC_PCMPESTRI:
    case ZYDIS_MNEMONIC_PCMPESTRM:
    case ZYDIS_MNEMONIC_PCMPISTRI:
    case ZYDIS_MNEMONIC_PCMPISTRM: return 0;
    case ZYDIS_MNEMONIC_VMOVAPS:
    case ZYDIS_MNEMONIC_VMOVAPD:
    case ZYDIS_MNEMONIC_VMOVDQA:
    case ZYDIS_MNEMONIC_VMOVNTPS:
    case ZYDIS_MNEMONIC_VMOVNTPD:
    case ZYDIS_MNEMONIC_VMOVNTDQ:
    case ZYDIS_MNEMONIC_VMOVNTDQA: return n == 32 ? 2 : 1;
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64:
    case ZYDIS_MNEMONIC_CMPXCHG16B: return 1;
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64:
    case ZYDIS_MNEMONIC_XSAVEOPT:
    case ZYDIS_MNEMONIC_XSAVEOPT64:
    case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_XRSTOR64: return 3;
    case ZYDIS_MNEMONIC_SHA1RNDS4:
    case ZYDIS_MNEMONIC_SHA1NEXTE:
    case ZYDIS_MNEMONIC_SHA1MSG1:
    case ZYDIS_MNEMONIC_SHA1MSG2:
    case ZYDIS_MNEMONIC_SHA256RNDS2:
    case ZYDIS_MNEMONIC_SHA256MSG1:
    case ZYDIS_MNEMONIC_SHA256MSG2: return 0; /* these look at the page first */
    default: return !vex && n == 16 ? 1 : 0;
    }
}

/* Whether generic() can do it; else the interpreter. */
static bool generic_can(const struct trans *t)
{
    const ZydisDecodedOperand *mem = mem_operand(t);
    unsigned acc, high = 0, slots = 0, sp = 0;
    if (t->in->mnemonic == ZYDIS_MNEMONIC_LEA)
        return t->in->address_width >= 32;
    for (unsigned i = 0; i < t->in->operand_count_visible; i++) {
        if (t->ops[i].type != ZYDIS_OPERAND_TYPE_REGISTER)
            continue;
        int id = gpr_id(t->ops[i].reg.value);
        high += id >= 0 && is_high_byte(t->ops[i].reg.value);
        slots += id >= 0 && is_slot((unsigned)id);
        sp += id == R_SP && !is_high_byte(t->ops[i].reg.value);
    }
    if (high && sp) /* RSP is r15 here, which needs a REX prefix, which AH to BH exclude */
        return false;
    if (!mem)
        return true;
    if (mem->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN || t->in->address_width == 16 ||
        (high && t->in->mnemonic == ZYDIS_MNEMONIC_CMPXCHG) || slots > 2)
        return false;
    unsigned n = generic_access(t, mem, &acc);
    return n > 0 && n <= PAGE_SIZE;
}

static void generic(struct trans *t, bool vector)
{
    struct plan p = { .r = { .reg = -1, .rm = -1, .vvvv = -1, .opreg = -1, .subst_reg = 0xff }, .swap = -1 };
    const ZydisDecodedOperand *mem = mem_operand(t);
    unsigned flags = 0;
    p.r.has_mem = mem != NULL;
    plan_regs(t, &p, mem != NULL);
    plan_flags(t, &p);
    switch (t->in->mnemonic) {
    case ZYDIS_MNEMONIC_XSAVEOPT:
    case ZYDIS_MNEMONIC_XSAVEOPT64:
        p.r.subst_reg = 4; /* XSAVE: the modified optimization must not see our buffers' addresses */
        /* fall through */
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64:
    case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_XRSTOR64:
        p.mask = true;
        p.restore = t->in->mnemonic == ZYDIS_MNEMONIC_XRSTOR || t->in->mnemonic == ZYDIS_MNEMONIC_XRSTOR64;
        break;
    default: break;
    }
    bool side = vector || t->in->mnemonic == ZYDIS_MNEMONIC_DIV || t->in->mnemonic == ZYDIS_MNEMONIC_IDIV ||
                t->in->mnemonic == ZYDIS_MNEMONIC_CMPXCHG16B;
    if (!mem) {
        if (side)
            side_note(t, &t->h);
        generic_body(t, &t->h, (struct hmem){ 0 }, &p);
        return;
    }
    unsigned acc, n = generic_access(t, mem, &acc);
    if (is_moffs(t)) {
        t->in->opcode = (uint8_t)(t->in->opcode < 0xa2 ? 0x8a + (t->in->opcode & 1) : 0x88 + (t->in->opcode & 1));
        t->in->raw.imm[0].size = t->in->raw.imm[1].size = 0;
        p.r.reg = 0;
    }
    if ((t->in->attributes & ZYDIS_ATTRIB_HAS_LOCK) || t->in->mnemonic == ZYDIS_MNEMONIC_XCHG)
        flags |= MEM_LOCKED;
    if (mem->mem.segment == ZYDIS_REGISTER_SS)
        flags |= MEM_STACK;
    if (p.swap >= 0 || p.mask)
        flags |= MEM_NO_DELTA | MEM_NO_GROUP;
    if (side)
        flags |= MEM_SIDE;
    if (waits_for_fpu(t))
        flags |= MEM_FPU_WAIT;
    flags |= operand_align(t, n) << MEM_ALIGN_SHIFT;
    struct gaddr a = gaddr_of(t, mem);
    mem_access(t, &a, n, acc, flags, generic_body, &p);
}

/* ---- which way ---- */

/* SSE conversions name no vector register if their source is in memory. */
static bool converts_from_memory(const struct trans *t)
{
    switch (t->in->mnemonic) {
    case ZYDIS_MNEMONIC_CVTSS2SI:
    case ZYDIS_MNEMONIC_CVTTSS2SI:
    case ZYDIS_MNEMONIC_CVTSD2SI:
    case ZYDIS_MNEMONIC_CVTTSD2SI:
    case ZYDIS_MNEMONIC_VCVTSS2SI:
    case ZYDIS_MNEMONIC_VCVTTSS2SI:
    case ZYDIS_MNEMONIC_VCVTSD2SI:
    case ZYDIS_MNEMONIC_VCVTTSD2SI: return true;
    default: return false;
    }
}

/* x87, MMX, SSE, AVX: whether the mode lets it run. */
static enum way fpu_way(const struct trans *t, unsigned *special)
{
    uint32_t m = t->mode;
    switch (t->in->meta.category) {
    case ZYDIS_CATEGORY_XSAVE:
    case ZYDIS_CATEGORY_XSAVEOPT:
        *special = SPECIAL_FPU_XSAVE;
        return m & (MODE_TS | MODE_NO_XSAVE) ? WAY_SPECIAL : WAY_VECTOR;
    default: break;
    }
    switch (t->in->mnemonic) {
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64:
    case ZYDIS_MNEMONIC_FWAIT:
        *special = SPECIAL_FPU_X87;
        return m & (MODE_TS | MODE_EM) ? WAY_SPECIAL : WAY_VECTOR;
    case ZYDIS_MNEMONIC_LDMXCSR:
    case ZYDIS_MNEMONIC_STMXCSR:
        *special = SPECIAL_FPU_SSE;
        return m & (MODE_TS | MODE_EM | MODE_NO_SSE) ? WAY_SPECIAL : WAY_VECTOR;
    default: break;
    }
    bool vec = has_class(t, ZYDIS_REGCLASS_XMM) || has_class(t, ZYDIS_REGCLASS_YMM) || converts_from_memory(t);
    if (t->in->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) {
        bool other = t->in->mnemonic == ZYDIS_MNEMONIC_VZEROALL || t->in->mnemonic == ZYDIS_MNEMONIC_VZEROUPPER ||
                     t->in->mnemonic == ZYDIS_MNEMONIC_VLDMXCSR || t->in->mnemonic == ZYDIS_MNEMONIC_VSTMXCSR;
        if (!vec && !other)
            return WAY_GENERIC; /* BMI */
        *special = SPECIAL_FPU_AVX;
        return m & (MODE_TS | MODE_NO_AVX) ? WAY_SPECIAL : WAY_VECTOR;
    }
    if (vec) {
        *special = SPECIAL_FPU_SSE;
        return m & (MODE_TS | MODE_EM | MODE_NO_SSE) ? WAY_SPECIAL : WAY_VECTOR;
    }
    if (is_x87(t)) {
        *special = SPECIAL_FPU_X87;
        return m & (MODE_TS | MODE_EM) ? WAY_SPECIAL : WAY_VECTOR;
    }
    if (has_class(t, ZYDIS_REGCLASS_MMX) || t->in->mnemonic == ZYDIS_MNEMONIC_EMMS) {
        *special = SPECIAL_FPU_MMX;
        return m & (MODE_TS | MODE_EM) ? WAY_SPECIAL : WAY_VECTOR;
    }
    return WAY_GENERIC;
}

static bool vsib_or_masked(const struct trans *t)
{
    switch (t->in->mnemonic) {
    case ZYDIS_MNEMONIC_MASKMOVQ:
    case ZYDIS_MNEMONIC_MASKMOVDQU:
    case ZYDIS_MNEMONIC_VMASKMOVDQU:
    case ZYDIS_MNEMONIC_VMASKMOVPS:
    case ZYDIS_MNEMONIC_VMASKMOVPD:
    case ZYDIS_MNEMONIC_VPMASKMOVD:
    case ZYDIS_MNEMONIC_VPMASKMOVQ: return true;
    default: break;
    }
    const ZydisDecodedOperand *m = mem_operand(t);
    return m && m->mem.type == ZYDIS_MEMOP_TYPE_VSIB;
}

static enum way system_way(const struct trans *t)
{
    switch (t->in->mnemonic) {
    case ZYDIS_MNEMONIC_CPUID:
    case ZYDIS_MNEMONIC_RDTSC:
    case ZYDIS_MNEMONIC_RDTSCP:
    case ZYDIS_MNEMONIC_RDPID:
    case ZYDIS_MNEMONIC_RDPMC:
    case ZYDIS_MNEMONIC_XGETBV:
    case ZYDIS_MNEMONIC_XSETBV:
    case ZYDIS_MNEMONIC_CLD:
    case ZYDIS_MNEMONIC_STD:
    case ZYDIS_MNEMONIC_CLI:
    case ZYDIS_MNEMONIC_STI:
    case ZYDIS_MNEMONIC_CLAC:
    case ZYDIS_MNEMONIC_STAC:
    case ZYDIS_MNEMONIC_XLAT:
    case ZYDIS_MNEMONIC_ENTER:
    case ZYDIS_MNEMONIC_BOUND:
    case ZYDIS_MNEMONIC_ARPL:
    case ZYDIS_MNEMONIC_SALC:
    case ZYDIS_MNEMONIC_MONITOR:
    case ZYDIS_MNEMONIC_MWAIT:
    case ZYDIS_MNEMONIC_MONITORX:
    case ZYDIS_MNEMONIC_MWAITX:
    case ZYDIS_MNEMONIC_INVLPG:
    case ZYDIS_MNEMONIC_INVPCID:
    case ZYDIS_MNEMONIC_WBINVD:
    case ZYDIS_MNEMONIC_INVD:
    case ZYDIS_MNEMONIC_PUSHF:
    case ZYDIS_MNEMONIC_PUSHFD:
    case ZYDIS_MNEMONIC_PUSHFQ:
    case ZYDIS_MNEMONIC_POPF:
    case ZYDIS_MNEMONIC_POPFD:
    case ZYDIS_MNEMONIC_POPFQ:
    case ZYDIS_MNEMONIC_PUSHA:
    case ZYDIS_MNEMONIC_PUSHAD:
    case ZYDIS_MNEMONIC_POPA:
    case ZYDIS_MNEMONIC_POPAD:
    case ZYDIS_MNEMONIC_DAA:
    case ZYDIS_MNEMONIC_DAS:
    case ZYDIS_MNEMONIC_AAA:
    case ZYDIS_MNEMONIC_AAS:
    case ZYDIS_MNEMONIC_AAM:
    case ZYDIS_MNEMONIC_AAD:
    case ZYDIS_MNEMONIC_UD0:
    case ZYDIS_MNEMONIC_UD1:
    case ZYDIS_MNEMONIC_UD2: return WAY_INTERP;
    case ZYDIS_MNEMONIC_ENDBR32:
    case ZYDIS_MNEMONIC_ENDBR64:
        return WAY_NOTHING;
    case ZYDIS_MNEMONIC_PAUSE: /* F3 41 90 is XCHG r8, rAX with a prefix that means nothing */
        return (t->in->attributes & ZYDIS_ATTRIB_HAS_REX) && t->in->raw.rex.B ? WAY_INTERP : WAY_NOTHING;
    case ZYDIS_MNEMONIC_MOV: /* control, debug and segment registers */
        return has_class(t, ZYDIS_REGCLASS_CONTROL) || has_class(t, ZYDIS_REGCLASS_DEBUG) ||
                       has_class(t, ZYDIS_REGCLASS_SEGMENT)
                   ? WAY_INTERP
                   : WAY_GENERIC;
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTS:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTC: /* a register offset reaches beyond the operand */
        return mem_operand(t) && t->ops[1].type == ZYDIS_OPERAND_TYPE_REGISTER ? WAY_INTERP : WAY_GENERIC;
    default: break;
    }
    switch (t->in->meta.category) {
    case ZYDIS_CATEGORY_NOP:
    case ZYDIS_CATEGORY_WIDENOP:
    case ZYDIS_CATEGORY_PREFETCH: return WAY_NOTHING;
    case ZYDIS_CATEGORY_SYSTEM:
    case ZYDIS_CATEGORY_STRINGOP:
    case ZYDIS_CATEGORY_IOSTRINGOP:
    case ZYDIS_CATEGORY_IO:
    case ZYDIS_CATEGORY_INTERRUPT:
    case ZYDIS_CATEGORY_SYSCALL:
    case ZYDIS_CATEGORY_SYSRET:
    case ZYDIS_CATEGORY_SEGOP:
    case ZYDIS_CATEGORY_RDWRFSGS:
    case ZYDIS_CATEGORY_COND_BR:
    case ZYDIS_CATEGORY_UNCOND_BR:
    case ZYDIS_CATEGORY_CALL:
    case ZYDIS_CATEGORY_RET:
    case ZYDIS_CATEGORY_PUSH:
    case ZYDIS_CATEGORY_POP:
    case ZYDIS_CATEGORY_VTX: return WAY_INTERP;
    default: return WAY_GENERIC;
    }
}

/* Encodings that CPUID denies to every guest. */
static bool denied(const struct trans *t)
{
    switch (t->in->encoding) {
    case ZYDIS_INSTRUCTION_ENCODING_EVEX:
    case ZYDIS_INSTRUCTION_ENCODING_MVEX:
    case ZYDIS_INSTRUCTION_ENCODING_XOP:
    case ZYDIS_INSTRUCTION_ENCODING_3DNOW: return true;
    default: break;
    }
    switch (t->in->mnemonic) {
    case ZYDIS_MNEMONIC_XSAVEC:
    case ZYDIS_MNEMONIC_XSAVEC64:
    case ZYDIS_MNEMONIC_XSAVES:
    case ZYDIS_MNEMONIC_XSAVES64:
    case ZYDIS_MNEMONIC_XRSTORS:
    case ZYDIS_MNEMONIC_XRSTORS64:
    case ZYDIS_MNEMONIC_XBEGIN:
    case ZYDIS_MNEMONIC_XEND:
    case ZYDIS_MNEMONIC_XABORT:
    case ZYDIS_MNEMONIC_XTEST:
    case ZYDIS_MNEMONIC_RDPKRU:
    case ZYDIS_MNEMONIC_WRPKRU:
    case ZYDIS_MNEMONIC_RDPRU:
    case ZYDIS_MNEMONIC_RDSSPD:
    case ZYDIS_MNEMONIC_RDSSPQ:
    case ZYDIS_MNEMONIC_UMONITOR:
    case ZYDIS_MNEMONIC_UMWAIT:
    case ZYDIS_MNEMONIC_TPAUSE:
    case ZYDIS_MNEMONIC_CLZERO: return true;
    default: return false;
    }
}

static enum way classify(struct trans *t, unsigned *special)
{
    *special = SPECIAL_UD;
    if (t->in->mnemonic == ZYDIS_MNEMONIC_RDSSPD || t->in->mnemonic == ZYDIS_MNEMONIC_RDSSPQ)
        return WAY_NOTHING; /* without shadow stacks this encoding is a NOP */
    if (denied(t))
        return WAY_SPECIAL;
    enum way way = system_way(t);
    if (way == WAY_GENERIC)
        way = fpu_way(t, special);
    if (way == WAY_VECTOR && vsib_or_masked(t)) {
        *special = t->in->mnemonic == ZYDIS_MNEMONIC_MASKMOVQ ? SPECIAL_MMX_MEM : SPECIAL_VEC_MEM;
        way = WAY_SPECIAL;
    }
    if (way == WAY_INTERP && flow_can(t))
        way = WAY_FLOW;
    if (way == WAY_INTERP && sysinsn_can(t))
        way = WAY_SYS;
    /* one-byte INC and DEC of 32-bit code have no 64-bit encoding */
    if (t->bits == 32 && (t->in->opcode & 0xf0) == 0x40 && t->in->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT)
        way = WAY_INTERP;
    if ((way == WAY_GENERIC || way == WAY_VECTOR) && !generic_can(t))
        way = WAY_INTERP;
    return way;
}

static void translate_insn(struct trans *t)
{
    const struct ginsn *g = &t->g[t->cur];
    switch ((enum way)g->way) {
    case WAY_NOTHING: break;
    case WAY_SPECIAL:
        if (g->special == SPECIAL_MMX_MEM) { /* as every MMX instruction: #MF if one is pending, TOP 0, all tags valid */
            side_note(t, &t->h);
            e_rm0f(&t->h, 0, 0x7f, 0, GS(scratch)); /* movq [], mm0 */
        }
        flow_special(t, g->special);
        break;
    case WAY_GENERIC:
    case WAY_VECTOR:
        if (t->in->mnemonic == ZYDIS_MNEMONIC_LEA)
            lea_insn(t);
        else
            generic(t, g->way == WAY_VECTOR);
        break;
    case WAY_FLOW: flow_translate(t); break;
    case WAY_SYS: sysinsn_translate(t); break;
    case WAY_INTERP:
        flow_interp(t);
        if (t->in->meta.category != ZYDIS_CATEGORY_COND_BR && t->in->meta.branch_type != ZYDIS_BRANCH_TYPE_NONE)
            flow_exit_direct(t, next_off(t));
        break;
    }
}

/* ---- looking at the block before writing it ---- */

/* Decodes at off. Not decoded: the bytes are no instruction (length 1), or they run out of the page and the second page is
 * not there (length 0). */
static void decode(struct trans *t, struct ginsn *g, unsigned off)
{
    unsigned room = (unsigned)PAGE_SIZE - off, n = room < 15 ? room : 15;
    g->off = (uint16_t)off;
    memcpy(g->bytes, t->page + off, n);
    if (n < 15 && t->gpage2 != ~0ull && t->count == 0) {
        memcpy(g->bytes + n, tvm_hva(t->vm, t->gpage2), 15 - n);
        n = 15;
    }
    ZyanStatus st = ZydisDecoderDecodeFull(&t->decoder, g->bytes, n, &g->in, g->ops);
    g->decoded = ZYAN_SUCCESS(st);
    if (!g->decoded) {
        memset(&g->in, 0, sizeof g->in);
        g->in.length = st == ZYDIS_STATUS_NO_MORE_DATA && n < 15 ? 0 : 1;
    }
}

static void set_current(struct trans *t, unsigned i)
{
    struct ginsn *g = &t->g[i];
    t->cur = i;
    t->off = g->off;
    t->in = &g->in;
    t->ops = g->ops;
    t->bytes = g->bytes;
}

static uint16_t written_regs(const struct ginsn *g)
{
    unsigned mask = 0;
    for (unsigned i = 0; i < g->in.operand_count; i++) {
        int id = g->ops[i].type == ZYDIS_OPERAND_TYPE_REGISTER ? gpr_id(g->ops[i].reg.value) : -1;
        if (id >= 0 && (g->ops[i].actions & ACT_WRITE))
            mask |= 1u << id;
    }
    return (uint16_t)mask;
}

/* The change of RSP if it is a constant. */
static bool sp_change(const struct trans *t, const struct ginsn *g, int32_t *by)
{
    const ZydisDecodedOperand *o = g->ops;
    int32_t w = (int32_t)(t->bits / 8);
    bool sp0 = o[0].type == ZYDIS_OPERAND_TYPE_REGISTER && o[0].reg.value == ZYDIS_REGISTER_RSP;
    switch (g->in.mnemonic) {
    case ZYDIS_MNEMONIC_PUSH: *by = -w; return true;
    case ZYDIS_MNEMONIC_POP: *by = w; return !sp0;
    case ZYDIS_MNEMONIC_ADD:
    case ZYDIS_MNEMONIC_SUB:
        *by = (int32_t)o[1].imm.value.s * (g->in.mnemonic == ZYDIS_MNEMONIC_SUB ? -1 : 1);
        return sp0 && o[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE && o[1].imm.value.s == (int16_t)o[1].imm.value.s;
    case ZYDIS_MNEMONIC_LEA:
        *by = (int32_t)o[1].mem.disp.value;
        return sp0 && o[1].mem.base == ZYDIS_REGISTER_RSP && o[1].mem.index == ZYDIS_REGISTER_NONE &&
               o[1].mem.disp.value == (int16_t)o[1].mem.disp.value;
    default: return false;
    }
}

static void add_access(struct ginsn *g, struct gaddr a, unsigned len, bool write)
{
    g->access[g->access_count++] = (struct gaccess){ a, len, write };
}

/* The accesses that translating g will make, in their order. */
static void find_accesses(const struct trans *t, struct ginsn *g)
{
    unsigned w = t->bits / 8, acc;
    const ZydisDecodedOperand *mem = mem_operand(t);
    struct gaddr sp = { .base = R_SP, .index = -1, .scale = 1, .width = t->bits };
    if (g->way == WAY_GENERIC || g->way == WAY_VECTOR) {
        if (mem && g->in.mnemonic != ZYDIS_MNEMONIC_LEA) {
            unsigned n = generic_access(t, mem, &acc);
            add_access(g, gaddr_of(t, mem), n, acc != MMU_SLOW_R);
        }
        return;
    }
    if (g->way != WAY_FLOW)
        return;
    if (mem && mem->visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT)
        add_access(g, gaddr_of(t, mem), w, false);
    switch (g->in.mnemonic) {
    case ZYDIS_MNEMONIC_PUSH:
    case ZYDIS_MNEMONIC_CALL:
        sp.disp = -(int64_t)w;
        add_access(g, sp, w, true);
        break;
    case ZYDIS_MNEMONIC_LEAVE: sp.base = R_BP; /* fall through */
    case ZYDIS_MNEMONIC_POP:
    case ZYDIS_MNEMONIC_RET: add_access(g, sp, w, false); break;
    default: break;
    }
}

/* Fills what looking ahead needs. Returns whether the block goes on behind g. */
static bool survey(struct trans *t, struct ginsn *g, int32_t *sp, uint16_t *epoch)
{
    unsigned special = SPECIAL_UD;
    g->access_count = 0;
    g->sp_before = *sp;
    g->sp_epoch = *epoch;
    if (!g->decoded) {
        g->way = WAY_INTERP;
        g->barrier = true;
        return false;
    }
    g->way = (uint8_t)classify(t, &special);
    g->special = (uint8_t)special;
    g->barrier = g->way == WAY_INTERP || g->way == WAY_SPECIAL || g->way == WAY_SYS;
    g->writes = written_regs(g);
    find_accesses(t, g);
    int32_t by;
    if (sp_change(t, g, &by)) {
        *sp += by;
        g->writes &= (uint16_t)~(1u << R_SP);
    } else if (g->writes & 1u << R_SP) {
        *sp = 0;
        (*epoch)++;
    }
    if (g->in.meta.category == ZYDIS_CATEGORY_COND_BR && g->way == WAY_FLOW)
        return ++t->branches < TRANS_MAX_BRANCHES;
    return g->in.meta.branch_type == ZYDIS_BRANCH_TYPE_NONE || g->in.meta.category == ZYDIS_CATEGORY_COND_BR;
}

static void look_at_block(struct trans *t)
{
    unsigned max = t->mode & MODE_ONE ? 1 : TRANS_MAX_INSNS, off = t->start;
    int32_t sp = 0;
    uint16_t epoch = 0;
    bool more = true;
    while (more && t->count < max && off < PAGE_SIZE) {
        struct ginsn *g = &t->g[t->count];
        decode(t, g, off);
        if (!g->decoded && g->in.length == 0 && t->count > 0)
            break; /* runs into the next page: a block of its own */
        set_current(t, t->count);
        more = survey(t, g, &sp, &epoch);
        t->count++;
        off += g->in.length;
    }
    t->end = off;
}

/* ---- the block ---- */

static void translate_one(struct trans *t)
{
    t->polled = false;
    if (!t->g[t->cur].decoded) {
        flow_interp(t); /* raises what is due: #UD, #GP, or the page fault of the second page */
        flow_exit_direct(t, next_off(t));
    } else {
        translate_insn(t);
    }
    group_after_insn(t);
    t->insns++;
}

static void translate_loop(struct trans *t)
{
    look_at_block(t);
    for (unsigned i = 0; i < t->count && !t->done && t->side_count + 4 <= TRANS_MAX_SIDE; i++) {
        set_current(t, i);
        translate_one(t);
    }
    if (t->done)
        return;
    unsigned next = next_off(t);
    t->end = next;
    struct ginsn *g = &t->g[t->count];
    if (next < PAGE_SIZE && next + 15 > PAGE_SIZE && t->count < TRANS_MAX_INSNS && !g->decoded && g->in.length == 0)
        flow_exit_far(t, next); /* the next instruction crosses the page: only the dispatcher finds it */
    else
        flow_exit_direct(t, next);
}

size_t translate_scratch_size(void)
{
    return (TRANS_MAX_INSNS + 1) * sizeof(struct ginsn);
}

struct tb *translate_block(struct tvm *vm, struct tcpu *c, uint64_t gpage, unsigned off, uint64_t gpage2, uint32_t mode)
{
    struct code_cache *cc = vm->cache;
    struct tb *tb = cache_alloc(cc);
    if (!tb || cc->side_count + TRANS_MAX_SIDE > cc->side_max)
        return NULL;
    uint8_t *rw = cc->mem.rw;
    ptrdiff_t rx = (uint8_t *)cc->mem.rx - rw;
    struct trans t = { .vm = vm, .c = c, .cc = cc, .gpage = gpage, .gpage2 = gpage2, .start = off, .off = off, .end = off,
                       .mode = mode, .idx = mode & MODE_IDX, .bits = mode & MODE_BITS ? 32 : 64 };
    t.page = tvm_hva(vm, gpage);
    t.g = cc->scratch;
    size_t hot = align_up(cc->hot_pos, 16);
    t.h = (struct emit){ rw + hot, rw + cc->hot_end, rx, false };
    t.k = (struct emit){ rw + cc->cold_pos, rw + cc->mem.size, rx, false };
    t.host_flags = (mode & MODE_HOST_FLAGS) != 0;
    t.saved_flags = !t.host_flags;
    bool m32 = t.bits == 32;
    ZydisDecoderInit(&t.decoder, m32 ? ZYDIS_MACHINE_MODE_LEGACY_32 : ZYDIS_MACHINE_MODE_LONG_64,
                     m32 ? ZYDIS_STACK_WIDTH_32 : ZYDIS_STACK_WIDTH_64);
    e_nop5(&t.h);
    translate_loop(&t);
    if (t.h.full || t.k.full)
        return NULL;
    memset(tb, 0, sizeof *tb);
    tb->gpage = gpage;
    tb->gpage2 = t.end > PAGE_SIZE ? gpage2 : ~0ull;
    tb->hot = (uint32_t)hot;
    tb->cold = (uint32_t)cc->cold_pos;
    tb->hot_len = (uint32_t)(t.h.p - (rw + hot));
    tb->cold_len = (uint32_t)(t.k.p - (rw + cc->cold_pos));
    tb->mode = mode;
    tb->off = (uint16_t)off;
    tb->len = (uint16_t)(t.end - off);
    tb->insns = (uint16_t)t.insns;
    tb->side = cc->side_count;
    tb->side_count = (uint16_t)t.side_count;
    memcpy(&cc->side[cc->side_count], t.side, t.side_count * sizeof t.side[0]);
    cc->side_count += t.side_count;
    cache_advance(cc, (size_t)(t.h.p - rw), (size_t)(t.k.p - rw));
    cache_insert(vm, tb);
    return tb;
}
