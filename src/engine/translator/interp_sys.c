/* System instructions of the general path: privilege checks here, behaviour in sys_*.c.
 * Source: Intel SDM volume 2 (2023-12), by mnemonic, and volume 3 section 5.9 (privileged instructions); AMD
 * APM volume 3 for VMMCALL, CLZERO and RDPMC. */
#include "engine/translator/interp_ops.h"

#define F1C_MONITOR (1u << 3)
#define F1C_RDRAND (1u << 30)
#define F7B_INVPCID (1u << 10)
#define F7B_RDSEED (1u << 18)
#define F7B_SMAP (1u << 20)
#define F7B_CLFLUSHOPT (1u << 23)
#define F7B_CLWB (1u << 24)
#define F7C_RDPID (1u << 22)
#define FEC_MONITORX (1u << 29)
#define FED_RDTSCP (1u << 27)

static inline bool protected_mode(const struct tcpu *c)
{
    return !cpu_real_mode(c) && !cpu_v86(c);
}

static inline bool umip_forbids(const struct tcpu *c)
{
    return c->cpl > 0 && (c->cr4 & CR4_UMIP);
}

/* ---- ports and interrupts ---- */

/* e4 to e7 by immediate, ec to ef by DX */
enum step op_in_out(struct tcpu *c, struct insn *i)
{
    uint16_t port = i->op & 8 ? (uint16_t)c->gpr[R_DX] : (uint8_t)i->imm;
    unsigned size = op_size(i) == 8 ? 4 : op_size(i);
    if (!sys_io_allowed(c, port, size))
        return STEP_FAULT;
    if (i->op & 2)
        cpu_io_write(c, true, port, size, cut(c->gpr[R_AX], size));
    else
        gpr_set(c, R_AX, size, cpu_io_read(c, true, port, size));
    return STEP_NEXT;
}

/* fa fb. VME and PVI are not offered to the guest. */
enum step op_cli_sti(struct tcpu *c, struct insn *i)
{
    if (!cpu_real_mode(c) && c->cpl > cpu_iopl(c))
        return step_gp(c);
    if (i->op == 0xfa) {
        c->rflags &= ~FL_IF;
    } else if (!(c->rflags & FL_IF)) {
        c->rflags |= FL_IF;
        c->int_shadow = 1;
    }
    return STEP_NEXT;
}

enum step op_hlt(struct tcpu *c, struct insn *i)
{
    (void)i;
    return c->cpl ? step_gp(c) : STEP_HALT;
}

/* ---- 0f 00 ---- */

enum step op_group6(struct tcpu *c, struct insn *i)
{
    unsigned n = i->reg & 7;
    uint64_t v;
    bool zf;
    if (!protected_mode(c) || n > 5)
        return step_fault(c, EXC_UD);
    if (n < 2) { /* SLDT STR */
        if (umip_forbids(c))
            return step_gp(c);
        return step_of(rm_set(c, i, i->is_mem ? 2 : i->opsize, c->seg[n ? S_TR : S_LDTR].sel));
    }
    if (n < 4 && c->cpl)
        return step_gp(c);
    if (!rm_get(c, i, 2, &v))
        return STEP_FAULT;
    if (n == 2)
        return step_of(sys_lldt(c, (uint16_t)v));
    if (n == 3)
        return step_of(sys_ltr(c, (uint16_t)v));
    if (!sys_verify(c, (uint16_t)v, n == 5, &zf))
        return STEP_FAULT;
    flag_put(c, F_ZF, zf);
    return STEP_NEXT;
}

/* 0f 02 LAR, 03 LSL */
enum step op_lar_lsl(struct tcpu *c, struct insn *i)
{
    uint64_t sel;
    uint32_t v = 0;
    bool zf = false;
    if (!protected_mode(c))
        return step_fault(c, EXC_UD);
    if (!rm_get(c, i, 2, &sel))
        return STEP_FAULT;
    if (!(i->op == 2 ? sys_lar(c, (uint16_t)sel, &v, &zf) : sys_lsl(c, (uint16_t)sel, &v, &zf)))
        return STEP_FAULT;
    if (zf)
        gpr_set(c, i->reg, i->opsize, v);
    flag_put(c, F_ZF, zf);
    return STEP_NEXT;
}

/* ---- 0f 01, memory forms ---- */

/* SGDT SIDT: 2 + 4 bytes, in 64-bit mode 2 + 8 */
static enum step store_table(struct tcpu *c, struct insn *i, const struct x86_table *t)
{
    unsigned size = cpu_code64(c) ? 8 : 4;
    uint64_t lin;
    if (umip_forbids(c))
        return step_gp(c);
    if (!seg_linear(c, i->seg, i->ea, size + 2, MMU_WRITE, &lin) ||
        !mmu_probe(c, lin, size + 2, MMU_WRITE, MMU_AS_CPL))
        return STEP_FAULT;
    return step_of(mem_write(c, i->seg, i->ea, 2, t->limit) &&
                   mem_write(c, i->seg, cut(i->ea + 2, i->adsize), size, t->base));
}

/* LGDT LIDT: a 16-bit operand size takes 24 bits of the base */
static enum step load_table(struct tcpu *c, struct insn *i, struct x86_table *t)
{
    bool code64 = cpu_code64(c);
    uint64_t limit, base;
    if (c->cpl)
        return step_gp(c);
    if (!mem_read(c, i->seg, i->ea, 2, &limit) ||
        !mem_read(c, i->seg, cut(i->ea + 2, i->adsize), code64 ? 8 : 4, &base))
        return STEP_FAULT;
    if (code64 && !cpu_canonical(base))
        return step_gp(c);
    if (!code64 && i->opsize == 2)
        base &= 0xffffff;
    t->limit = (uint16_t)limit;
    t->base = base;
    return STEP_NEXT;
}

static enum step op_invlpg(struct tcpu *c, struct insn *i)
{
    uint64_t lin;
    if (c->cpl)
        return step_gp(c);
    seg_check(c, i->seg, i->ea, 1, MMU_READ, &lin); /* no limit or type check: the address alone */
    if (!cpu_canonical(lin))
        return STEP_NEXT;
    return step_of(sys_invlpg(c, lin));
}

static enum step smsw_lmsw(struct tcpu *c, struct insn *i)
{
    uint64_t v;
    if ((i->reg & 7) == 4) {
        if (umip_forbids(c))
            return step_gp(c);
        return step_of(rm_set(c, i, i->is_mem ? 2 : i->opsize, c->cr0));
    }
    if (c->cpl)
        return step_gp(c);
    return step_of(rm_get(c, i, 2, &v) && sys_lmsw(c, (uint16_t)v));
}

/* ---- 0f 01, register forms ---- */

static enum step monitor_mwait(struct tcpu *c, struct insn *i, bool monitor, bool x)
{
    const struct cpuid_model *m = cpu_model(c);
    uint64_t v;
    unsigned seg = i->seg_over == SEG_NONE ? S_DS : i->seg_over;
    if (x ? !(m->fext_ecx & FEC_MONITORX) : !(m->f1_ecx & F1C_MONITOR) || c->cpl)
        return step_fault(c, EXC_UD);
    if (monitor && c->gpr[R_CX] != 0)
        return step_gp(c);
    /* Waking at once is allowed (SDM volume 2, "MWAIT"); the guest's loop looks again. */
    if (monitor && !mem_read(c, seg, cut(c->gpr[R_AX], i->adsize), 1, &v))
        return STEP_FAULT;
    return STEP_NEXT;
}

/* CLAC STAC */
static enum step clac_stac(struct tcpu *c, bool set)
{
    uint32_t old = c->rflags;
    if (c->cpl || !(cpu_model(c)->f7_ebx & F7B_SMAP))
        return step_fault(c, EXC_UD);
    c->rflags = set ? old | FL_AC : old & ~FL_AC;
    if (old != c->rflags)
        sys_mode_changed(c);
    return STEP_NEXT;
}

static enum step xgetbv_xsetbv(struct tcpu *c, bool set)
{
    uint32_t n = (uint32_t)c->gpr[R_CX];
    uint64_t v;
    if (!(c->cr4 & CR4_OSXSAVE))
        return step_fault(c, EXC_UD);
    if (set) {
        v = (uint32_t)c->gpr[R_AX] | c->gpr[R_DX] << 32;
        return c->cpl ? step_gp(c) : step_of(sys_xsetbv(c, n, v));
    }
    if (!sys_xgetbv(c, n, &v))
        return STEP_FAULT;
    gpr_set(c, R_AX, 4, v);
    gpr_set(c, R_DX, 4, v >> 32);
    return STEP_NEXT;
}

/* CLZERO: the 64-byte line that RAX is in */
static enum step op_clzero(struct tcpu *c, struct insn *i)
{
    uint64_t line[8] = { 0 }, lin, off = cut(c->gpr[R_AX], i->adsize) & ~63ull;
    unsigned seg = i->seg_over == SEG_NONE ? S_DS : i->seg_over;
    if (!cpu_model(c)->is_amd)
        return step_fault(c, EXC_UD);
    return step_of(seg_linear(c, seg, off, 64, MMU_WRITE, &lin) && mmu_write(c, lin, line, 64, MMU_AS_CPL));
}

static enum step read_tsc(struct tcpu *c, bool with_aux)
{
    if ((c->cr4 & CR4_TSD) && c->cpl)
        return step_gp(c);
    uint64_t t = sys_tsc(c);
    gpr_set(c, R_AX, 4, t);
    gpr_set(c, R_DX, 4, t >> 32);
    if (with_aux)
        gpr_set(c, R_CX, 4, c->tsc_aux);
    return STEP_NEXT;
}

enum step op_rdtsc(struct tcpu *c, struct insn *i)
{
    (void)i;
    return read_tsc(c, false);
}

static enum step group7_reg(struct tcpu *c, struct insn *i)
{
    if (i->p66 || i->rep)
        return step_fault(c, EXC_UD);
    switch (i->modrm) {
    case 0xc1:
    case 0xd9: return sys_hypercall(c);
    case 0xc8: return monitor_mwait(c, i, true, false);
    case 0xc9: return monitor_mwait(c, i, false, false);
    case 0xca: return clac_stac(c, false);
    case 0xcb: return clac_stac(c, true);
    case 0xd0: return xgetbv_xsetbv(c, false);
    case 0xd1: return xgetbv_xsetbv(c, true);
    case 0xf8:
        if (!cpu_code64(c))
            return step_fault(c, EXC_UD);
        return c->cpl ? step_gp(c) : step_of(sys_swapgs(c));
    case 0xf9: return cpu_model(c)->fext_edx & FED_RDTSCP ? read_tsc(c, true) : step_fault(c, EXC_UD);
    case 0xfa: return monitor_mwait(c, i, true, true);
    case 0xfb: return monitor_mwait(c, i, false, true);
    case 0xfc: return op_clzero(c, i);
    default: return step_fault(c, EXC_UD);
    }
}

enum step op_group7(struct tcpu *c, struct insn *i)
{
    unsigned n = i->reg & 7;
    if (n == 4 || n == 6)
        return smsw_lmsw(c, i);
    if (!i->is_mem)
        return group7_reg(c, i);
    switch (n) {
    case 0: return store_table(c, i, &c->gdt);
    case 1: return store_table(c, i, &c->idt);
    case 2: return load_table(c, i, &c->gdt);
    case 3: return load_table(c, i, &c->idt);
    case 7: return op_invlpg(c, i);
    default: return step_fault(c, EXC_UD);
    }
}

/* ---- system calls ---- */

/* 0f 05 SYSCALL, 07 SYSRET, 34 SYSENTER, 35 SYSEXIT */
enum step op_syscall(struct tcpu *c, struct insn *i)
{
    unsigned size = i->rex & 8 ? 8 : 4;
    hand_over(c, i);
    switch (i->op) {
    case 0x05: return sys_syscall(c, i->next_rip);
    case 0x07: return c->cpl ? step_gp(c) : sys_sysret(c, size);
    case 0x34: return sys_sysenter(c);
    default: return c->cpl ? step_gp(c) : sys_sysexit(c, size);
    }
}

enum step op_clts(struct tcpu *c, struct insn *i)
{
    (void)i;
    return c->cpl ? step_gp(c) : step_of(sys_clts(c));
}

/* 08 INVD, 09 WBINVD and WBNOINVD: memory is always coherent here */
enum step op_cache(struct tcpu *c, struct insn *i)
{
    (void)i;
    return c->cpl ? step_gp(c) : STEP_NEXT;
}

/* ---- control, debug and model-specific registers ---- */

/* 20 22. LOCK stands for CR8 (APM volume 3, "MOV CRn"): the decoder lets it pass for CR0 alone. */
enum step op_mov_cr(struct tcpu *c, struct insn *i)
{
    unsigned size = cpu_code64(c) ? 8 : 4, n = i->reg;
    uint64_t v;
    if (i->lock) {
        if (!cpu_model(c)->is_amd)
            return step_fault(c, EXC_UD);
        n = 8;
    }
    if (c->cpl)
        return step_gp(c);
    if (i->op == 0x22)
        return step_of(sys_write_cr(c, n, cut(c->gpr[i->rm], size)));
    if (!sys_read_cr(c, n, &v))
        return STEP_FAULT;
    gpr_set(c, i->rm, size, v);
    return STEP_NEXT;
}

/* 21 23 */
enum step op_mov_dr(struct tcpu *c, struct insn *i)
{
    unsigned size = cpu_code64(c) ? 8 : 4;
    uint64_t v;
    if (i->reg > 7)
        return step_fault(c, EXC_UD);
    if (c->cpl)
        return step_gp(c);
    if (i->op == 0x23)
        return step_of(sys_write_dr(c, i->reg, cut(c->gpr[i->rm], size)));
    if (!sys_read_dr(c, i->reg, &v))
        return STEP_FAULT;
    gpr_set(c, i->rm, size, v);
    return STEP_NEXT;
}

/* 30 WRMSR, 32 RDMSR */
enum step op_msr(struct tcpu *c, struct insn *i)
{
    uint32_t n = (uint32_t)c->gpr[R_CX];
    uint64_t v = (uint32_t)c->gpr[R_AX] | c->gpr[R_DX] << 32;
    if (c->cpl)
        return step_gp(c);
    if (i->op == 0x30)
        return step_of(sys_wrmsr(c, n, v));
    if (!sys_rdmsr(c, n, &v))
        return STEP_FAULT;
    gpr_set(c, R_AX, 4, v);
    gpr_set(c, R_DX, 4, v >> 32);
    return STEP_NEXT;
}

/* AMD has four counters that no CPUID bit tells of; they stand still. Elsewhere no counter exists. */
enum step op_rdpmc(struct tcpu *c, struct insn *i)
{
    (void)i;
    if (c->cpl && !(c->cr4 & CR4_PCE))
        return step_gp(c);
    if (!cpu_model(c)->is_amd || (uint32_t)c->gpr[R_CX] > 3)
        return step_gp(c);
    gpr_set(c, R_AX, 4, 0);
    gpr_set(c, R_DX, 4, 0);
    return STEP_NEXT;
}

enum step op_cpuid(struct tcpu *c, struct insn *i)
{
    (void)i;
    sys_cpuid(c);
    return STEP_NEXT;
}

/* 0f 38 80 to 82: INVEPT, INVVPID, INVPCID. The type is the register, the descriptor 16 bytes of memory. */
enum step op_invpcid(struct tcpu *c, struct insn *i)
{
    uint64_t pcid, lin;
    if (i->op != 0x82 || !i->p66 || i->rep || !i->is_mem || !(cpu_model(c)->f7_ebx & F7B_INVPCID))
        return step_fault(c, EXC_UD);
    if (c->cpl)
        return step_gp(c);
    if (!mem_read(c, i->seg, i->ea, 8, &pcid) || !mem_read(c, i->seg, cut(i->ea + 8, i->adsize), 8, &lin))
        return STEP_FAULT;
    return step_of(sys_invpcid(c, cut(c->gpr[i->reg], cpu_code64(c) ? 8 : 4), pcid, lin));
}

/* ---- 0f ae ---- */

/* f3 0f ae /0 to /3, register form */
static enum step fs_gs_base(struct tcpu *c, struct insn *i)
{
    unsigned seg = i->reg & 1 ? S_GS : S_FS, size = i->opsize == 8 ? 8 : 4;
    if (!cpu_code64(c) || !(c->cr4 & CR4_FSGSBASE))
        return step_fault(c, EXC_UD);
    if (!(i->reg & 2)) {
        gpr_set(c, i->rm, size, c->seg[seg].base);
        return STEP_NEXT;
    }
    uint64_t v = cut(c->gpr[i->rm], size);
    if (!cpu_canonical(v))
        return step_gp(c);
    c->seg[seg].base = v;
    if (seg == S_FS)
        c->seg_base_fs = v;
    else
        c->seg_base_gs = v;
    return STEP_NEXT;
}

/* CLFLUSH, CLFLUSHOPT, CLWB: a read that may fault, and nothing else */
static enum step cache_line(struct tcpu *c, struct insn *i)
{
    uint64_t lin;
    return step_of(seg_linear(c, i->seg, i->ea, 1, MMU_READ, &lin) &&
                   mmu_probe(c, lin, 1, MMU_READ, MMU_AS_CPL));
}

static enum step group15_reg(struct tcpu *c, struct insn *i)
{
    unsigned n = i->reg & 7;
    if (i->rep == 0xf3 && n < 4) /* a 66 prefix beside it means nothing */
        return fs_gs_base(c, i);
    if (i->rep || i->p66 || n < 5)
        return step_fault(c, EXC_UD);
    if (n == 5)
        __asm__ volatile("lfence" : : : "memory");
    else if (n == 6)
        __asm__ volatile("mfence" : : : "memory");
    else
        __asm__ volatile("sfence" : : : "memory");
    return STEP_NEXT;
}

enum step op_group15(struct tcpu *c, struct insn *i)
{
    unsigned n = i->reg & 7;
    uint32_t f7b = cpu_model(c)->f7_ebx;
    if (!i->is_mem)
        return group15_reg(c, i);
    if (i->rep)
        return step_fault(c, EXC_UD);
    if (n < 6 || (n == 6 && !i->p66)) /* FXSAVE FXRSTOR LDMXCSR STMXCSR XSAVE XRSTOR XSAVEOPT */
        return i->p66 ? step_fault(c, EXC_UD) : STEP_UNKNOWN;
    if (i->p66 && !(f7b & (n == 6 ? F7B_CLWB : F7B_CLFLUSHOPT)))
        return step_fault(c, EXC_UD);
    return cache_line(c, i);
}

/* ---- 0f c7 ---- */

static enum step random_number(struct tcpu *c, struct insn *i, bool seed)
{
    const struct cpuid_model *m = cpu_model(c);
    uint64_t v;
    uint8_t ok;
    if (seed ? !(m->f7_ebx & F7B_RDSEED) : !(m->f1_ecx & F1C_RDRAND))
        return step_fault(c, EXC_UD);
    if (seed)
        __asm__ volatile("rdseed %0\n\tsetc %1" : "=r"(v), "=qm"(ok) : : "cc");
    else
        __asm__ volatile("rdrand %0\n\tsetc %1" : "=r"(v), "=qm"(ok) : : "cc");
    gpr_set(c, i->rm, i->opsize, ok ? v : 0);
    c->fl = (uint16_t)(0x200u | (ok ? F_CF : 0));
    return STEP_NEXT;
}

enum step op_group9(struct tcpu *c, struct insn *i)
{
    unsigned n = i->reg & 7;
    if (i->is_mem) {
        if (n == 1)
            return op_cmpxchg8b(c, i);
        if (n >= 3 && n <= 5) /* XRSTORS XSAVEC XSAVES */
            return i->p66 || i->rep ? step_fault(c, EXC_UD) : STEP_UNKNOWN;
        return step_fault(c, EXC_UD);
    }
    if (n == 7 && i->rep == 0xf3) {
        if (!(cpu_model(c)->f7_ecx & F7C_RDPID))
            return step_fault(c, EXC_UD);
        gpr_set(c, i->rm, cpu_code64(c) ? 8 : 4, c->tsc_aux);
        return STEP_NEXT;
    }
    if (n < 6 || i->rep)
        return step_fault(c, EXC_UD);
    return random_number(c, i, n == 7);
}

/* ---- nothing ---- */

enum step op_nop(struct tcpu *c, struct insn *i)
{
    (void)c;
    (void)i;
    return STEP_NEXT;
}

/* 0f 0d, 18 to 1f: prefetches, hints and ENDBR, all without effect, whatever they address */
enum step op_nop_rm(struct tcpu *c, struct insn *i)
{
    return op_nop(c, i);
}
