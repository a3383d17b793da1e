/* System instructions that are frequent enough to be translated in place: the interrupt flag, SMAP's AC flag,
 * SWAPGS, the time-stamp counter, PUSHF, bit tests in memory; and direct calls, without decoding again, for
 * system calls and returns. */
#include "engine/translator/mmu.h"
#include "engine/translator/trans.h"

static bool is_user(const struct trans *t)
{
    return t->idx == MMU_U;
}

static bool has_rex_w(const struct trans *t)
{
    return (t->in->attributes & ZYDIS_ATTRIB_HAS_REX) && t->in->raw.rex.W;
}

static bool is_bit_test(const struct trans *t)
{
    switch (t->in->mnemonic) {
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTS:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTC:
        return t->ops[0].type == ZYDIS_OPERAND_TYPE_MEMORY && t->ops[1].type == ZYDIS_OPERAND_TYPE_REGISTER &&
               t->in->operand_width >= 32;
    default: return false;
    }
}

/* REP MOVS and REP STOS with plain operands. Size of one element, 0 if it is something else. */
static unsigned string_size(const struct trans *t)
{
    if (!(t->in->attributes & ZYDIS_ATTRIB_HAS_REP) || (t->in->attributes & ZYDIS_ATTRIB_HAS_SEGMENT) ||
        t->in->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT)
        return 0;
    switch (t->in->opcode) {
    case 0xa4:
    case 0xaa: return 1;
    case 0xa5:
    case 0xab: return t->in->operand_width / 8;
    default: return 0;
    }
}

/* MOV from a segment register to a general one. */
static bool is_selector_read(const struct trans *t)
{
    return t->in->mnemonic == ZYDIS_MNEMONIC_MOV && t->in->opcode == 0x8c &&
           t->ops[0].type == ZYDIS_OPERAND_TYPE_REGISTER;
}

/* MOV from a control register that is a plain value. */
static bool is_control_read(const struct trans *t)
{
    return t->in->mnemonic == ZYDIS_MNEMONIC_MOV && t->in->opcode_map == ZYDIS_OPCODE_MAP_0F &&
           t->in->opcode == 0x20 && t->ops[1].reg.value >= ZYDIS_REGISTER_CR0 &&
           t->ops[1].reg.value <= ZYDIS_REGISTER_CR4 && t->ops[1].reg.value != ZYDIS_REGISTER_CR1 &&
           !(t->in->attributes & ZYDIS_ATTRIB_HAS_LOCK) && !is_user(t) && !(t->mode & MODE_ONE);
}

bool sysinsn_can(const struct trans *t)
{
    if (t->bits != 64 || t->in->address_width != 64)
        return false;
    switch (t->in->mnemonic) {
    case ZYDIS_MNEMONIC_CLI:
    case ZYDIS_MNEMONIC_STI:
    case ZYDIS_MNEMONIC_SWAPGS:
    case ZYDIS_MNEMONIC_CLAC:
    case ZYDIS_MNEMONIC_STAC: return !is_user(t) && !(t->mode & MODE_ONE);
    case ZYDIS_MNEMONIC_RDTSC:
    case ZYDIS_MNEMONIC_RDTSCP:
    case ZYDIS_MNEMONIC_SYSRET:
    case ZYDIS_MNEMONIC_IRETQ: return !(t->mode & MODE_ONE);
    case ZYDIS_MNEMONIC_SYSCALL: return !(t->mode & MODE_ONE) && t->in->length == 2;
    case ZYDIS_MNEMONIC_RDFSBASE:
    case ZYDIS_MNEMONIC_RDGSBASE:
    case ZYDIS_MNEMONIC_WRFSBASE:
    case ZYDIS_MNEMONIC_WRGSBASE: return has_rex_w(t) && !(t->mode & MODE_ONE);
    case ZYDIS_MNEMONIC_CLD: return true;
    case ZYDIS_MNEMONIC_MOV: return is_selector_read(t) || is_control_read(t);
    case ZYDIS_MNEMONIC_PUSHFQ: return t->in->operand_width == 64;
    default: return is_bit_test(t) || (string_size(t) && !(t->mode & MODE_ONE));
    }
}

static void swap_gs(struct trans *t)
{
    struct emit *h = &t->h;
    e_load(h, 1, T0, GS(seg_base_gs));
    e_load(h, 1, T1, GS(kernel_gs_base));
    e_store(h, 1, GS(kernel_gs_base), T0);
    e_store(h, 1, GS(seg_base_gs), T1);
    e_store(h, 1, GS(seg[S_GS].base), T1);
}

/* An interrupt that is there already is taken behind the next instruction: the dispatcher knows how. (The
 * next poll would be too late if CLI follows.) */
static void set_if(struct trans *t)
{
    struct emit *h = &t->h, *k = &t->k;
    fl_clobber(t, h);
    e_alu_mi(h, 0, ALU_OR, GS(rflags), FL_IF);
    e_load(h, 0, T0, GS(intr_deferred));
    e_alu_rm(h, 0, ALU_OR, T0, GS(exit_request));
    e_jcc(h, CC_NE, e_rx(k));
    e_rm(k, 0, 0xc6, 0, GS(int_shadow));
    e_byte(k, 1);
    e_desc(t, k, H_10, next_off(t));
    e_jmp(k, t->cc->stubs.exit_poll);
}

/* A loop that waits for another vCPU must not keep that one from its host CPU: see vcpu.c. */
static void pause_count(struct trans *t)
{
    struct emit *h = &t->h, *k = &t->k;
    fl_clobber(t, h);
    e_byte(h, 0xf3), e_byte(h, 0x90);
    e_alu_mi(h, 0, ALU_SUB, GS(pauses_left), 1);
    e_jcc(h, CC_S, e_rx(k));
    e_desc(t, k, H_10, next_off(t));
    e_jmp(k, t->cc->stubs.exit_poll);
}

static void read_selector(struct trans *t)
{
    struct emit *h = &t->h;
    unsigned dst = (unsigned)ZydisRegisterGetId(t->ops[0].reg.value);
    unsigned seg = (unsigned)ZydisRegisterGetId(t->ops[1].reg.value);
    bool narrow = t->in->operand_width == 16;
    int reg = is_slot(dst) || narrow ? T0 : host_reg(dst);
    e_rm0f(h, 0, 0xb7, reg,
           hm_cpu(offsetof(struct tcpu, seg) + seg * sizeof(struct x86_segment) +
                  offsetof(struct x86_segment, sel))); /* MOVZX */
    if (narrow)
        e_byte(h, 0x66);
    if (is_slot(dst))
        e_store(h, !narrow, gs_gpr(dst), T0);
    else if (narrow)
        e_mov_rr(h, 0, host_reg(dst), T0);
}

/* #GP for code at CPL 1 and 2, which has the index of the kernel's, is the interpreter's. */
static void read_control(struct trans *t)
{
    struct emit *h = &t->h, *k = &t->k;
    unsigned dst = (unsigned)ZydisRegisterGetId(t->ops[0].reg.value);
    unsigned cr = (unsigned)ZydisRegisterGetId(t->ops[1].reg.value);
    int reg = is_slot(dst) ? T0 : host_reg(dst);
    fl_clobber(t, h);
    e_rm(h, 0, 0x80, ALU_CMP, GS(cpl));
    e_byte(h, 0);
    e_jcc(h, CC_NE, e_rx(k));
    e_desc(t, k, H_10, t->off | (uint32_t)t->in->length << 16);
    e_call(k, t->cc->stubs.interp); /* does not come back */
    e_load(h, 1, reg, cr == 0 ? GS(cr0) : cr == 2 ? GS(cr2) : cr == 3 ? GS(cr3) : GS(cr4));
    if (is_slot(dst))
        e_store(h, 1, gs_gpr(dst), T0);
}

/* RDFSBASE and its kin with 64-bit operands. What faults (CR4.FSGSBASE clear, a base that is not canonical)
 * is the interpreter's. */
static void segment_base(struct trans *t)
{
    struct emit *h = &t->h, *k = &t->k;
    bool gs = t->in->mnemonic == ZYDIS_MNEMONIC_RDGSBASE || t->in->mnemonic == ZYDIS_MNEMONIC_WRGSBASE;
    bool write = t->in->mnemonic == ZYDIS_MNEMONIC_WRFSBASE || t->in->mnemonic == ZYDIS_MNEMONIC_WRGSBASE;
    struct hmem copy = gs ? GS(seg_base_gs) : GS(seg_base_fs);
    unsigned gpr = (unsigned)ZydisRegisterGetId(t->ops[0].reg.value);
    int reg = is_slot(gpr) ? T0 : host_reg(gpr);
    fl_clobber(t, h);
    const uint8_t *general = e_rx(k);
    e_rm(h, 0, 0xf7, 0, GS(cr4)); /* TEST */
    e_u32(h, CR4_FSGSBASE);
    e_jcc(h, CC_E, general);
    if (write) {
        if (is_slot(gpr))
            e_load(h, 1, T0, gs_gpr(gpr));
        e_mov_rr(h, 1, T1, reg);
        e_shl_ri(h, 1, T1, 16);
        e_rr(h, 1, 0xc1, 7, T1); /* SAR */
        e_byte(h, 16);
        e_alu_rr(h, 1, ALU_CMP, T1, reg);
        e_jcc(h, CC_NE, general);
        e_store(h, 1, copy, reg);
        e_store(h, 1, gs ? GS(seg[S_GS].base) : GS(seg[S_FS].base), reg);
    } else {
        e_load(h, 1, reg, copy);
        if (is_slot(gpr))
            e_store(h, 1, gs_gpr(gpr), reg);
    }
    e_desc(t, k, H_10, t->off | (uint32_t)t->in->length << 16);
    e_call(k, t->cc->stubs.interp);
    e_jmp(k, h->p + h->rx_off);
}

static void set_ac(struct trans *t, bool on)
{
    struct emit *h = &t->h;
    fl_clobber(t, h);
    if (on)
        e_alu_mi(h, 0, ALU_OR, GS(rflags), FL_AC);
    else
        e_alu_mi(h, 0, ALU_AND, GS(rflags), ~(int32_t)FL_AC);
    if (!(t->mode & MODE_SMAP))
        return;
    t->idx = on ? MMU_SU : MMU_S;
    t->mode = (t->mode & ~MODE_IDX) | t->idx;
    e_rm(h, 0, 0xc6, 0, GS(mmu_idx));
    e_byte(h, t->idx);
}

static void read_tsc(struct trans *t, bool with_aux)
{
    struct emit *h = &t->h, *k = &t->k;
    uint8_t *back = NULL;
    fl_clobber(t, h);
    if (is_user(t)) { /* CR4.TSD */
        e_alu_mi(h, 0, ALU_CMP, GS(user_tsc_denied), 0);
        e_jcc(h, CC_NE, e_rx(k));
        e_desc(t, k, H_10, t->off | (uint32_t)t->in->length << 16);
        e_call(k, t->cc->stubs.interp);
        back = e_jmp_fwd(k);
    }
    e_byte(h, 0x0f);
    if (with_aux)
        e_byte(h, 0x01), e_byte(h, 0xf9);
    else
        e_byte(h, 0x31);
    e_shl_ri(h, 1, H_DX, 32);
    e_alu_rr(h, 1, ALU_OR, H_AX, H_DX);
    e_alu_rm(h, 1, ALU_ADD, H_AX, GS(tsc_offset));
    e_mov_rr(h, 1, H_DX, H_AX);
    e_shr_ri(h, 1, H_DX, 32);
    e_mov_rr(h, 0, H_AX, H_AX);
    if (with_aux)
        e_load(h, 0, H_CX, GS(tsc_aux));
    if (back)
        e_patch(back, h->p);
}

static void store_scratch(struct trans *t, struct emit *e, struct hmem ref, void *arg)
{
    (void)t;
    (void)arg;
    int tmp = body_tmp(e, &ref);
    e_load(e, 1, tmp, GS(scratch));
    e_store(e, 1, ref, tmp);
}

static void push_flags(struct trans *t)
{
    struct emit *h = &t->h;
    struct gaddr a = { .base = R_SP, .index = -1, .scale = 1, .disp = -8, .width = 64 };
    fl_clobber(t, h);
    e_stored_rflags(h, T0, T1);
    e_store(h, 1, GS(scratch), T0);
    mem_access(t, &a, 8, MMU_SLOW_W, MEM_STACK, store_scratch, NULL);
    e_lea(h, 1, H_GUEST_SP, hm_base(H_GUEST_SP, -8));
}

/* The bit's place inside its word is in scratch[3]. */
static void bit_body(struct trans *t, struct emit *e, struct hmem ref, void *arg)
{
    (void)arg;
    int tmp = body_tmp(e, &ref);
    fl_need(t, e, tmp);
    e_load(e, 1, tmp, GS(scratch[3]));
    struct recode r = {
        .reg = (int8_t)tmp, .rm = -1, .vvvv = -1, .opreg = -1, .has_mem = true, .mem = ref, .subst_reg = 0xff
    };
    recode(t, e, &r);
    fl_written(t);
}

/* BT and the like with a register: the bit string goes on beyond the operand in both directions (SDM volume
 * 2, BT). */
static void bit_test(struct trans *t)
{
    struct emit *h = &t->h;
    unsigned w = t->in->operand_width == 64, reg = (unsigned)ZydisRegisterGetId(t->ops[1].reg.value),
             flags = 0;
    struct gaddr a = gaddr_of(t);
    fl_clobber(t, h);
    lea_guest(t, h, T0, &a);
    if (is_slot(reg))
        e_load(h, w, T1, gs_gpr(reg));
    else
        e_mov_rr(h, w, T1, host_reg(reg));
    e_store(h, 1, GS(scratch[2]), T0);
    e_mov_rr(h, 0, T0, T1);
    e_alu_ri(h, 0, ALU_AND, T0, w ? 63 : 31);
    e_store(h, 1, GS(scratch[3]), T0);
    if (!w) { /* MOVSXD */
        e_rr(h, 1, 0x63, T1, T1);
    }
    e_rr(h, 1, 0xc1, 7, T1); /* SAR: which word */
    e_byte(h, w ? 6 : 5);
    e_load(h, 1, T0, GS(scratch[2]));
    e_lea(h, 1, T0, hm_index(T0, T1, w ? 8 : 4, 0));
    e_store(h, 1, GS(scratch[2]), T0);
    if (t->in->attributes & ZYDIS_ATTRIB_HAS_LOCK)
        flags |= MEM_LOCKED;
    if (t->ops[0].mem.segment == ZYDIS_REGISTER_SS)
        flags |= MEM_STACK;
    struct gaddr at = { .base = BASE_SCRATCH, .index = -1, .scale = 1, .width = 64 };
    unsigned acc = t->in->mnemonic == ZYDIS_MNEMONIC_BT ? MMU_SLOW_R : MMU_SLOW_RMW;
    mem_access(t, &at, w ? 8 : 4, acc, flags | MEM_NO_GROUP | MEM_NO_DELTA, bit_body, NULL);
}

/* dst = delta of the page at the guest register, if all of RCX elements are in it; else to the cold path. */
static void string_page(struct trans *t, int gpr, bool write, unsigned size, int dst)
{
    struct emit *h = &t->h;
    struct gaddr a = { .base = (int8_t)gpr, .index = -1, .scale = 1, .width = 64 };
    size_t tag = write ? offsetof(struct tlb_entry, tag_w) : offsetof(struct tlb_entry, tag_r);
    lea_guest(t, &t->h, T0, &a);
    emit_tlb_index(t);
    e_alu_rm(h, 1, ALU_XOR, T0, hm_tlb(t->idx, tag));
    e_alu_ri(h, 1, ALU_CMP, T0, (int32_t)PAGE_SIZE - 1);
    e_jcc(h, CC_A, e_rx(&t->k));
    e_lea(h, 1, T0, hm_index(T0, H_CX, size, 0));
    e_alu_ri(h, 1, ALU_CMP, T0, (int32_t)PAGE_SIZE);
    e_jcc(h, CC_A, e_rx(&t->k));
    e_load(h, 1, dst, hm_tlb(t->idx, offsetof(struct tlb_entry, delta)));
}

/* A string that stays in one page (two for MOVS) and goes upwards is the host's own; everything else the
 * interpreter's. */
static void rep_string(struct trans *t)
{
    struct emit *h = &t->h, *k = &t->k;
    unsigned size = string_size(t);
    bool movs = t->in->opcode < 0xa8;
    fl_clobber(t, h);
    e_rm(h, 0, 0xf7, 0, GS(rflags)); /* TEST */
    e_u32(h, FL_DF);
    e_jcc(h, CC_NE, e_rx(k));
    e_alu_ri(h, 1, ALU_CMP, H_CX, (int32_t)PAGE_SIZE);
    e_jcc(h, CC_A, e_rx(k));
    group_take_dc(t);
    string_page(t, R_DI, true, size, DC);
    if (movs) {
        string_page(t, R_SI, false, size, T1);
        e_alu_rr(h, 1, ALU_ADD, H_SI, T1);
    }
    e_alu_rr(h, 1, ALU_ADD, H_DI, DC);
    if (size == 2)
        e_byte(h, 0x66);
    e_byte(h, 0xf3);
    if (size == 8)
        e_byte(h, 0x48);
    e_byte(h, t->in->opcode);
    e_alu_rr(h, 1, ALU_SUB, H_DI, DC);
    if (movs)
        e_alu_rr(h, 1, ALU_SUB, H_SI, T1);
    e_desc(t, k, H_10, t->off | (uint32_t)t->in->length << 16);
    e_call(k, t->cc->stubs.interp);
    e_jmp(k, h->p + h->rx_off);
}

void sysinsn_translate(struct trans *t)
{
    struct emit *h = &t->h;
    switch (t->in->mnemonic) {
    case ZYDIS_MNEMONIC_CLI:
        fl_clobber(t, h);
        e_alu_mi(h, 0, ALU_AND, GS(rflags), ~(int32_t)FL_IF);
        break;
    case ZYDIS_MNEMONIC_CLD:
        fl_clobber(t, h);
        e_alu_mi(h, 0, ALU_AND, GS(rflags), ~(int32_t)FL_DF);
        break;
    case ZYDIS_MNEMONIC_MOV: is_selector_read(t) ? read_selector(t) : read_control(t); break;
    case ZYDIS_MNEMONIC_RDFSBASE:
    case ZYDIS_MNEMONIC_RDGSBASE:
    case ZYDIS_MNEMONIC_WRFSBASE:
    case ZYDIS_MNEMONIC_WRGSBASE: segment_base(t); break;
    case ZYDIS_MNEMONIC_STI: set_if(t); break;
    case ZYDIS_MNEMONIC_PAUSE: pause_count(t); break;
    case ZYDIS_MNEMONIC_SWAPGS: swap_gs(t); break;
    case ZYDIS_MNEMONIC_CLAC: set_ac(t, false); break;
    case ZYDIS_MNEMONIC_STAC: set_ac(t, true); break;
    case ZYDIS_MNEMONIC_RDTSC: read_tsc(t, false); break;
    case ZYDIS_MNEMONIC_RDTSCP: read_tsc(t, true); break;
    case ZYDIS_MNEMONIC_PUSHFQ: push_flags(t); break;
    case ZYDIS_MNEMONIC_SYSCALL:
        flow_transfer(t, SPECIAL_SYSCALL, is_user(t) ? t->cc->stubs.syscall : t->cc->stubs.transfer);
        break;
    case ZYDIS_MNEMONIC_SYSRET:
        if (has_rex_w(t))
            flow_transfer(t, SPECIAL_SYSRET64, t->cc->stubs.sysret64);
        else
            flow_transfer(t, SPECIAL_SYSRET32, t->cc->stubs.transfer);
        break;
    case ZYDIS_MNEMONIC_IRETQ: flow_transfer(t, SPECIAL_IRETQ, t->cc->stubs.transfer); break;
    default:
        if (string_size(t))
            rep_string(t);
        else
            bit_test(t);
    }
}
