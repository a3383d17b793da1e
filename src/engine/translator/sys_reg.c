/* Modes, control and debug registers, XCR0, TLB instructions, I/O permission, INIT and SIPI. MSRs are in
 * sys_msr.c. Light. Sections are of the Intel SDM volume 3 (2023-12) unless another is named. Callers have
 * checked the CPL. */
#include "engine/translator/sys_priv.h"

#define CR0_BITS                                                                                             \
    (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG)

#define DR6_ONES 0xffff0ff0ull /* 18.2.3: always read as 1 (no TSX, no bus-lock detection) */
#define DR6_WRITABLE 0xe00full
#define DR6_BD 0x2000ull
#define DR7_ONES 0x400ull /* 18.2.4 */
#define DR7_WRITABLE 0xffff23ffull
#define DR7_GD 0x2000ull

/* ---- mode ---- */

/* 3.4.5.1: plain data is there, writable and does not expand down. */
static uint64_t room(const struct x86_segment *s)
{
    bool plain = (s->attr & (SEG_P | SEG_CODE | SEG_CONFORM | SEG_RW)) == (SEG_P | SEG_RW);

    return plain ? (uint64_t)s->limit + 1 : 0;
}

void sys_mode_changed(struct tcpu *c)
{
    const struct x86_segment *cs = &c->seg[S_CS];

    if (cpu_real_mode(c))
        c->cpl = 0;
    else if (cpu_v86(c))
        c->cpl = 3;
    else
        c->cpl = (uint8_t)((c->seg[S_SS].attr & SEG_DPL) >> SEG_DPL_SHIFT);

    if (cpu_long_mode(c) && (cs->attr & SEG_L))
        c->code_bits = 64;
    else
        c->code_bits = cs->attr & SEG_DB ? 32 : 16;

    if (c->cpl == 3)
        c->mmu_idx = MMU_U;
    else
        c->mmu_idx = (c->cr4 & CR4_SMAP) && (c->rflags & FL_AC) ? MMU_SU : MMU_S; /* 4.6.1 */
    c->seg_base_fs = c->seg[S_FS].base;
    c->seg_base_gs = c->seg[S_GS].base;
    c->seg_room_fs = room(&c->seg[S_FS]);
    c->seg_room_gs = room(&c->seg[S_GS]);
    c->user_tsc_denied = (c->cr4 & CR4_TSD) != 0;
    sys_watch_changed(c);
}

/* ---- control registers: 2.5 ---- */

/* Whether CR0 may go from old to v: volume 2, MOV to control registers. */
static bool cr0_legal(const struct tcpu *c, uint64_t old, uint64_t v)
{
    if (v >> 32 || ((v & CR0_PG) && !(v & CR0_PE)) || ((v & CR0_NW) && !(v & CR0_CD)))
        return false;
    if ((v & CR0_PG) && !(old & CR0_PG) && (c->efer & EFER_LME)) /* 10.8.5 */
        return (c->cr4 & CR4_PAE) && !(c->seg[S_CS].attr & SEG_L);
    if (!(v & CR0_PG) && (old & CR0_PG))
        return !cpu_code64(c) && !(c->cr4 & CR4_PCIDE);
    return true;
}

/* 4.4.1: Intel's load the four page-directory-pointer-table entries with the register, and refuse reserved
 * bits then; AMD's find them in a walk (APM volume 2, 5.2.3). */
#define PDPTE_RESERVED 0x1e6ull

static bool pdptes_legal(struct tcpu *c, uint64_t cr0, uint64_t cr3, uint64_t cr4)
{
    uint64_t reserved = PDPTE_RESERVED | ~((1ull << tvm_cpuid(c->vm)->phys_bits) - 1), entry;

    if (sys_is_amd(c) || !(cr0 & CR0_PG) || !(cr4 & CR4_PAE) || (c->efer & EFER_LME))
        return true;
    for (unsigned i = 0; i < 4; i++) {
        if (mmu_phys_read(c, (cr3 & 0xffffffe0u) + 8 * i, &entry, 8) && (entry & 1) && (entry & reserved))
            return false;
    }
    return true;
}

static bool write_cr0(struct tcpu *c, uint64_t v)
{
    uint64_t old = c->cr0, changed;

    if (!cr0_legal(c, old, v))
        return cpu_raise_gp(c, 0);
    if (((old ^ v) & (CR0_PG | CR0_CD | CR0_NW)) && !pdptes_legal(c, v, c->cr3, c->cr4))
        return cpu_raise_gp(c, 0);
    c->cr0 = (v & CR0_BITS) | CR0_ET;
    changed = old ^ c->cr0;
    if (changed & CR0_PG) {
        if ((c->cr0 & CR0_PG) && (c->efer & EFER_LME))
            c->efer |= EFER_LMA;
        else
            c->efer &= ~(uint64_t)EFER_LMA;
    }
    if (changed & (CR0_PG | CR0_WP | CR0_PE)) /* 4.10.4.1 */
        mmu_flush_all(c);
    sys_mode_changed(c);
    return true;
}

static bool write_cr3(struct tcpu *c, uint64_t v)
{
    bool pcide = (c->cr4 & CR4_PCIDE) != 0, keep = pcide && v >> 63; /* 4.10.4.1 */
    uint64_t old = c->cr3;

    if (pcide)
        v &= ~(1ull << 63);
    if (cpu_long_mode(c) && v >> tvm_cpuid(c->vm)->phys_bits)
        return cpu_raise_gp(c, 0);
    if (!pdptes_legal(c, c->cr0, v, c->cr4))
        return cpu_raise_gp(c, 0);
    c->cr3 = cpu_long_mode(c) ? v : v & 0xffffffffu;
    if (pcide)
        mmu_change_space(c, old & 0xfff, v & 0xfff, keep);
    else if (c->cr0 & CR0_PG)
        mmu_flush_nonglobal(c);
    return true;
}

uint64_t sys_cr4_allowed(const struct cpuid_model *m)
{
    uint64_t v = CR4_TSD | CR4_PCE | CR4_PAE;

    v |= m->f1_edx & 1u << 2 ? CR4_DE : 0;
    v |= m->f1_edx & 1u << 3 ? CR4_PSE : 0;
    v |= m->f1_edx & 1u << 7 ? CR4_MCE : 0;
    v |= m->f1_edx & 1u << 13 ? CR4_PGE : 0;
    v |= m->f1_edx & 1u << 24 ? CR4_OSFXSR : 0;
    v |= m->f1_edx & 1u << 25 ? CR4_OSXMMEXCPT : 0;
    v |= m->f1_ecx & 1u << 17 ? CR4_PCIDE : 0;
    v |= m->f1_ecx & 1u << 26 ? CR4_OSXSAVE : 0;
    v |= m->f7_ebx & 1u << 0 ? CR4_FSGSBASE : 0;
    v |= m->f7_ebx & 1u << 7 ? CR4_SMEP : 0;
    v |= m->f7_ebx & 1u << 20 ? CR4_SMAP : 0;
    v |= m->f7_ecx & 1u << 2 ? CR4_UMIP : 0;
    return v;
}

static bool write_cr4(struct tcpu *c, uint64_t v)
{
    uint64_t changed = c->cr4 ^ v;

    if (v & ~sys_cr4_allowed(tvm_cpuid(c->vm)))
        return cpu_raise_gp(c, 0);
    if (cpu_long_mode(c) && !(v & CR4_PAE))
        return cpu_raise_gp(c, 0);
    if ((changed & v & CR4_PCIDE) && (!cpu_long_mode(c) || (c->cr3 & 0xfff))) /* 4.10.1 */
        return cpu_raise_gp(c, 0);
    if ((changed & (CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP)) && !pdptes_legal(c, c->cr0, c->cr3, v))
        return cpu_raise_gp(c, 0);
    c->cr4 = v;
    if (changed & (CR4_PSE | CR4_PAE | CR4_PGE | CR4_PCIDE | CR4_SMEP | CR4_SMAP)) /* 4.10.4.1 */
        mmu_flush_all(c);
    sys_mode_changed(c);
    return true;
}

bool sys_read_cr(struct tcpu *c, unsigned n, uint64_t *v)
{
    switch (n) {
    case 0: *v = c->cr0; return true;
    case 2: *v = c->cr2; return true;
    case 3: *v = c->cr3; return true;
    case 4: *v = c->cr4; return true;
    case 8: *v = lapic_cr8(c->lapic); return true;
    default: return cpu_raise(c, EXC_UD);
    }
}

bool sys_write_cr(struct tcpu *c, unsigned n, uint64_t v)
{
    switch (n) {
    case 0: return write_cr0(c, v);
    case 2: c->cr2 = v; return true;
    case 3: return write_cr3(c, v);
    case 4: return write_cr4(c, v);
    case 8:
        if (v > 15) /* 11.8.6 */
            return cpu_raise_gp(c, 0);
        c->cr8 = v;
        lapic_set_cr8(c->lapic, (uint8_t)v);
        return true;
    default: return cpu_raise(c, EXC_UD);
    }
}

bool sys_clts(struct tcpu *c)
{
    c->cr0 &= ~(uint64_t)CR0_TS;
    sys_mode_changed(c);
    return true;
}

bool sys_lmsw(struct tcpu *c, uint16_t v)
{
    /* volume 2, LMSW: sets PE but cannot clear it */
    return write_cr0(c, (c->cr0 & ~(uint64_t)(CR0_MP | CR0_EM | CR0_TS)) | (v & 0xfu));
}

/* ---- debug registers: 18.2; what they do is in sys_debug.c ---- */

static bool debug_access(struct tcpu *c, unsigned *n)
{
    if (*n > 7)
        return cpu_raise(c, EXC_UD);
    if (*n == 4 || *n == 5) { /* 18.2.2 */
        if (c->cr4 & CR4_DE)
            return cpu_raise(c, EXC_UD);
        *n += 2;
    }
    if (c->dr[7] & DR7_GD) {
        cpu_raise(c, EXC_DB);
        c->exc.dr6 = DR6_BD;
        return false;
    }
    return true;
}

bool sys_read_dr(struct tcpu *c, unsigned n, uint64_t *v)
{
    if (!debug_access(c, &n))
        return false;
    *v = c->dr[n];
    return true;
}

bool sys_write_dr(struct tcpu *c, unsigned n, uint64_t v)
{
    if (!debug_access(c, &n))
        return false;
    if (n >= 6 && v >> 32)
        return cpu_raise_gp(c, 0);
    if (n == 6)
        v = (v & DR6_WRITABLE) | DR6_ONES;
    else if (n == 7)
        v = (v & DR7_WRITABLE) | DR7_ONES;
    c->dr[n] = v;
    sys_watch_changed(c);
    return true;
}

/* ---- XCR0: 2.6 ---- */

bool sys_xsetbv(struct tcpu *c, uint32_t n, uint64_t v)
{
    if (!(c->cr4 & CR4_OSXSAVE))
        return cpu_raise(c, EXC_UD);
    if (c->cpl || n != 0 || !(v & 1) || (v & ~tvm_cpuid(c->vm)->xcr0_mask) || (v & 6) == 4 ||
        ((v & XSTATE_AVX512) && (v & (XSTATE_AVX512 | XSTATE_AVX)) != (XSTATE_AVX512 | XSTATE_AVX)))
        return cpu_raise_gp(c, 0);
    c->xcr0 = v;
    sys_mode_changed(c);
    return true;
}

bool sys_xgetbv(struct tcpu *c, uint32_t n, uint64_t *v)
{
    uint32_t lo, hi;

    if (!(c->cr4 & CR4_OSXSAVE))
        return cpu_raise(c, EXC_UD);
    if (n == 0) {
        *v = c->xcr0;
        return true;
    }
    if (n != 1 || !(tvm_cpuid(c->vm)->host_d1.eax & 4)) /* volume 1, 13.2: XGETBV with ECX 1 */
        return cpu_raise_gp(c, 0);
    /* The guest's state is in the host's registers, so the host's answer is the guest's. */
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(1));
    *v = lo & c->xcr0;
    return true;
}

/* ---- TLB instructions: 4.10.4.1 ---- */

bool sys_invlpg(struct tcpu *c, uint64_t lin)
{
    if (!cpu_code64(c) ||
        cpu_canonical(lin)) /* volume 2, INVLPG: nothing for an address that is not canonical */
        mmu_flush_page(c, lin);
    return true;
}

bool sys_invpcid(struct tcpu *c, uint64_t type, uint64_t pcid, uint64_t lin)
{
    bool loaded = !(c->cr4 & CR4_PCIDE) || pcid == (c->cr3 & 0xfff);

    if (!(tvm_cpuid(c->vm)->f7_ebx & 1u << 10))
        return cpu_raise(c, EXC_UD);
    if (type > 3 || pcid >> 12 || (type < 2 && pcid && !(c->cr4 & CR4_PCIDE)))
        return cpu_raise_gp(c, 0);
    if (type == 0 && !cpu_canonical(lin))
        return cpu_raise_gp(c, 0);
    switch (type) {
    case 0: loaded ? mmu_flush_page(c, lin) : mmu_flush_pcid(c, pcid); break;
    case 1: loaded ? mmu_flush_nonglobal(c) : mmu_flush_pcid(c, pcid); break;
    case 2: mmu_flush_all(c); break;
    default: mmu_flush_pcids(c), mmu_flush_nonglobal(c); break;
    }
    return true;
}

/* ---- I/O permission: volume 1, 19.5 ---- */

static bool io_allowed(struct tcpu *c, uint16_t port, unsigned width)
{
    const struct x86_segment *tr = &c->seg[S_TR];
    uint16_t map, bits;

    if (cpu_real_mode(c) || (!cpu_v86(c) && c->cpl <= cpu_iopl(c)))
        return true;
    if (!(tr->attr & SEG_P) || !sys_tss_is32(c) || tr->limit < 103)
        return cpu_raise_gp(c, 0);
    if (!mmu_read_u16(c, tr->base + 102, &map, MMU_AS_SYSTEM))
        return false;
    if ((uint32_t)map + port / 8 + 1 > tr->limit)
        return cpu_raise_gp(c, 0);
    if (!mmu_read_u16(c, tr->base + map + port / 8, &bits, MMU_AS_SYSTEM))
        return false;
    if ((bits >> (port & 7)) & ((1u << width) - 1))
        return cpu_raise_gp(c, 0);
    return true;
}

bool sys_io_allowed(struct tcpu *c, uint16_t port, unsigned width)
{
    if (!io_allowed(c, port, width))
        return false;
    if (unlikely(c->watch & WATCH_IO))
        sys_watch_io(c, port, width);
    return true;
}

/* ---- CPUID and time ---- */

void sys_cpuid(struct tcpu *c)
{
    struct cpuid_dynamic dyn = {
        .apic_id = c->index, .xcr0 = c->xcr0, .cr4 = c->cr4, .apic_off = !(lapic_base(c->lapic) & 0x800)
    };
    struct cpuid_regs r;

    cpu_heavy_begin(c); /* the model is everyday code */
    cpuid_model_get(tvm_cpuid(c->vm), (uint32_t)c->gpr[R_AX], (uint32_t)c->gpr[R_CX], &dyn, &r);
    cpu_heavy_end(c);
    c->gpr[R_AX] = r.eax;
    c->gpr[R_BX] = r.ebx;
    c->gpr[R_CX] = r.ecx;
    c->gpr[R_DX] = r.edx;
}

uint64_t sys_tsc(struct tcpu *c)
{
    return cpu_host_tsc() + c->tsc_offset;
}

/* ---- INIT and SIPI: 10.1.1 table 10-1, 9.4 ---- */

void sys_init(struct tcpu *c)
{
    struct x86_segment data = { .limit = 0xffff, .attr = SEG_P | SEG_S | SEG_RW | SEG_ACCESSED };
    bool bsp;

    lapic_reset(c->lapic, true);
    bsp = (lapic_base(c->lapic) & 0x100) != 0;
    for (unsigned i = 0; i < 16; i++)
        c->gpr[i] = 0;
    c->gpr[R_DX] = tvm_cpuid(c->vm)->host_1.eax;
    c->rip = 0xfff0;
    cpu_set_rflags(c, FL_1);
    for (unsigned i = 0; i <= S_GS; i++)
        c->seg[i] = data;
    c->seg[S_CS] = (struct x86_segment){ .base = 0xffff0000u,
                                         .limit = 0xffff,
                                         .sel = 0xf000,
                                         .attr = SEG_P | SEG_S | SEG_CODE | SEG_RW | SEG_ACCESSED };
    c->seg[S_LDTR] = (struct x86_segment){ .limit = 0xffff, .attr = SEG_P | DT_LDT };
    c->seg[S_TR] = (struct x86_segment){ .limit = 0xffff, .attr = SEG_P | DT_TSS32_BUSY };
    c->gdt = c->idt = (struct x86_table){ .limit = 0xffff };
    c->cr0 = (c->cr0 & (CR0_CD | CR0_NW)) | CR0_ET; /* INIT keeps CD and NW */
    c->cr2 = c->cr3 = c->cr4 = c->cr8 = c->efer = 0;
    for (unsigned i = 0; i < 6; i++)
        c->dr[i] = 0;
    c->dr[6] = DR6_ONES;
    c->dr[7] = DR7_ONES;
    c->debugctl = 0;
    c->exc.pending = 0;
    c->int_shadow = c->nmi_masked = c->nmi_pending = c->halted = 0;
    c->wait_sipi = !bsp;
    mmu_flush_all(c);
    sys_mode_changed(c);
}

/* The caller has seen to it that the vCPU waits for one. */
void sys_sipi(struct tcpu *c, uint8_t vector)
{
    c->seg[S_CS].sel = (uint16_t)(vector << 8);
    c->seg[S_CS].base = (uint64_t)vector << 12;
    c->rip = 0;
    c->wait_sipi = 0;
    c->halted = 0;
    sys_mode_changed(c);
}
