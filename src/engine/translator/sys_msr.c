/* Model-specific registers. Intel SDM volume 4 (2023-12); AMD APM volume 2 (rev 3.40) appendix A. Light.
 *
 * What is not listed raises #GP: kernels probe with accesses that expect it. Of the vendor's own registers
 * only those are here that stock kernels touch without probing, with the values of a processor that has
 * nothing to offer there. */
#include "engine/translator/sys_priv.h"

#define MSR_PLATFORM_ID 0x17u
#define MSR_POWERON_CFG 0x2au
#define MSR_FEATURE_CONTROL 0x3au
#define MSR_MCG_CTL 0x17bu
#define MSR_LASTBRANCH_FROM 0x1dbu
#define MSR_LASTINT_TO 0x1deu

#define MSR_AMD_EVNTSEL0 0xc0010000u
#define MSR_AMD_PERFCTR3 0xc0010007u
#define MSR_AMD_SYSCFG 0xc0010010u
#define MSR_AMD_HWCR 0xc0010015u
#define MSR_AMD_TOP_MEM 0xc001001au
#define MSR_AMD_TOP_MEM2 0xc001001du
#define MSR_AMD_NB_CFG 0xc001001fu
#define MSR_AMD_PATCH_LOADER 0xc0010020u
#define MSR_AMD_INT_PENDING 0xc0010055u
#define MSR_AMD_MMIO_CONF_BASE 0xc0010058u
#define MSR_AMD_VM_CR 0xc0010114u
#define MSR_AMD_VM_HSAVE_PA 0xc0010117u
#define MSR_AMD_OSVW_LENGTH 0xc0010140u
#define MSR_AMD_OSVW_STATUS 0xc0010141u
#define MSR_AMD_DE_CFG 0xc0011029u

#define HWCR_TSC_FREQ_SEL (1ull << 24) /* the TSC counts at the P0 frequency */
#define DE_CFG_LFENCE_SERIALIZE 2ull
#define VM_CR_SVMDIS 0x10ull
#define FEATURE_CONTROL_LOCKED 1ull
#define MTRRCAP_VALUE 0x508ull /* 8 variable ranges, fixed ranges, write combining */
#define MCG_STATUS_BITS 7ull
#define DEBUGCTL_BITS (DEBUGCTL_LBR | DEBUGCTL_BTF) /* the first without effect */

/* ---- memory types: storage only, all guest RAM is write-back ---- */

static bool memory_type_valid(uint64_t type) /* SDM volume 3, table 12-8 */
{
    return type == 0 || type == 1 || (type >= 4 && type <= 6);
}

static bool eight_types_valid(uint64_t v, bool pat)
{
    for (unsigned i = 0; i < 64; i += 8) {
        uint64_t type = (v >> i) & 0xff;

        if (!memory_type_valid(type) && !(pat && type == 7))
            return false;
    }
    return true;
}

static uint64_t *mtrr_fixed(struct tcpu *c, uint32_t n)
{
    if (n == MSR_MTRR_FIX64K)
        return &c->mtrr_fixed[0];
    if (n == MSR_MTRR_FIX16K || n == MSR_MTRR_FIX16K + 1)
        return &c->mtrr_fixed[1 + n - MSR_MTRR_FIX16K];
    if (n >= MSR_MTRR_FIX4K && n < MSR_MTRR_FIX4K + 8)
        return &c->mtrr_fixed[3 + n - MSR_MTRR_FIX4K];
    return NULL;
}

static bool mtrr_var_valid(const struct tcpu *c, uint32_t n, uint64_t v) /* SDM volume 3, 12.11.2.3 */
{
    if (v >> tvm_cpuid(c->vm)->phys_bits)
        return false;
    return n & 1 ? !(v & 0x7ff) : !(v & 0xf00) && memory_type_valid(v & 0xff);
}

/* The MTRRs and PAT. False: not one of them. */
static bool read_memory_type(struct tcpu *c, uint32_t n, uint64_t *v)
{
    const uint64_t *fixed = mtrr_fixed(c, n);

    if (fixed)
        *v = *fixed;
    else if (n >= MSR_MTRR_VAR0 && n < MSR_MTRR_VAR0 + 16)
        *v = c->mtrr_var[n - MSR_MTRR_VAR0];
    else if (n == MSR_MTRR_DEF_TYPE)
        *v = c->mtrr_def_type;
    else if (n == MSR_MTRRCAP)
        *v = MTRRCAP_VALUE;
    else if (n == MSR_PAT)
        *v = c->pat;
    else
        return false;
    return true;
}

static bool write_memory_type(struct tcpu *c, uint32_t n, uint64_t v)
{
    uint64_t *fixed = mtrr_fixed(c, n), *slot = NULL;

    if (fixed)
        slot = eight_types_valid(v, false) ? fixed : NULL;
    else if (n >= MSR_MTRR_VAR0 && n < MSR_MTRR_VAR0 + 16)
        slot = mtrr_var_valid(c, n, v) ? &c->mtrr_var[n - MSR_MTRR_VAR0] : NULL;
    else if (n == MSR_MTRR_DEF_TYPE)
        slot = !(v & ~0xcffull) && memory_type_valid(v & 0xff) ? &c->mtrr_def_type : NULL;
    else if (n == MSR_PAT)
        slot = eight_types_valid(v, true) ? &c->pat : NULL;
    if (slot)
        *slot = v;
    return slot != NULL;
}

/* ---- time ---- */

static void write_tsc_offset(struct tcpu *c, uint64_t offset)
{
    c->tsc_offset = offset;
    sys_tsc_moved(c);
}

/* SDM volume 3, 18.17.3: the two MSRs move together. */
static void write_tsc(struct tcpu *c, uint64_t v)
{
    uint64_t delta = v - sys_tsc(c);

    c->tsc_adjust += delta;
    write_tsc_offset(c, c->tsc_offset + delta);
}

static void write_tsc_adjust(struct tcpu *c, uint64_t v)
{
    uint64_t delta = v - c->tsc_adjust;

    c->tsc_adjust = v;
    write_tsc_offset(c, c->tsc_offset + delta);
}

/* ---- EFER and speculation control ---- */

uint64_t sys_efer_allowed(const struct cpuid_model *m)
{
    return EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE | (m->f21_eax & 1u << 8 ? EFER_AIBRSE : 0);
}

static bool write_efer(struct tcpu *c, uint64_t v) /* SDM volume 3, 2.2.1; APM volume 2, 3.1.7 */
{
    uint64_t changed = c->efer ^ v;

    if (v & ~sys_efer_allowed(tvm_cpuid(c->vm)))
        return false;
    if ((changed & EFER_LME) && (c->cr0 & CR0_PG))
        return false;
    c->efer = (v & ~(uint64_t)EFER_LMA) | (c->efer & EFER_LMA);
    if (changed & EFER_NXE)
        mmu_flush_all(c);
    sys_mode_changed(c);
    return true;
}

static uint64_t spec_ctrl_allowed(const struct cpuid_model *m)
{
    uint64_t v = 0;

    if ((m->f7_edx & 1u << 26) || (m->f8_ebx & 1u << 14))
        v |= 1; /* IBRS */
    if ((m->f7_edx & 1u << 27) || (m->f8_ebx & 1u << 15))
        v |= 2; /* STIBP */
    if ((m->f7_edx & 1u << 31) || (m->f8_ebx & 1u << 24))
        v |= 4; /* SSBD */
    if (m->f72_edx & 1u << 4)
        v |= 1u << 10; /* BHI_DIS_S */
    return v;
}

/* ---- registers of system calls and bases ---- */

/* Those that hold a linear address; NULL if n is none. */
static uint64_t *address_msr(struct tcpu *c, uint32_t n)
{
    switch (n) {
    case MSR_LSTAR: return &c->lstar;
    case MSR_CSTAR: return &c->cstar;
    case MSR_FS_BASE: return &c->seg[S_FS].base;
    case MSR_GS_BASE: return &c->seg[S_GS].base;
    case MSR_KERNEL_GS_BASE: return &c->kernel_gs_base;
    case MSR_SYSENTER_ESP: return &c->sysenter_esp;
    case MSR_SYSENTER_EIP: return &c->sysenter_eip;
    default: return NULL;
    }
}

static bool write_address(struct tcpu *c, uint64_t *slot, uint64_t v)
{
    if (!cpu_canonical(v))
        return false;
    *slot = v;
    c->seg_base_fs = c->seg[S_FS].base;
    c->seg_base_gs = c->seg[S_GS].base;
    return true;
}

/* ---- what only one vendor has ---- */

static bool read_amd(uint32_t n, uint64_t *v)
{
    *v = 0;
    if (n >= MSR_AMD_EVNTSEL0 && n <= MSR_AMD_PERFCTR3)
        return true; /* every AMD64 processor has these four counters: here they do not count */
    switch (n) {
    case MSR_BIOS_SIGN_ID: *v = 0x01000065; return true;
    case MSR_AMD_HWCR: *v = HWCR_TSC_FREQ_SEL; return true;
    case MSR_AMD_DE_CFG: *v = DE_CFG_LFENCE_SERIALIZE; return true;
    case MSR_AMD_VM_CR: *v = VM_CR_SVMDIS; return true;
    case MSR_AMD_SYSCFG:
    case MSR_AMD_TOP_MEM:
    case MSR_AMD_TOP_MEM2:
    case MSR_AMD_NB_CFG:
    case MSR_AMD_INT_PENDING:
    case MSR_AMD_MMIO_CONF_BASE:
    case MSR_AMD_VM_HSAVE_PA:
    case MSR_AMD_OSVW_LENGTH:
    case MSR_AMD_OSVW_STATUS: return true;
    default: return false;
    }
}

static bool write_amd(uint32_t n)
{
    if (n >= MSR_AMD_EVNTSEL0 && n <= MSR_AMD_PERFCTR3)
        return true;
    switch (n) {
    case MSR_BIOS_SIGN_ID:
    case MSR_AMD_HWCR:
    case MSR_AMD_DE_CFG:
    case MSR_AMD_SYSCFG:
    case MSR_AMD_NB_CFG:
    case MSR_AMD_PATCH_LOADER:
    case MSR_AMD_INT_PENDING: return true;
    default: return false;
    }
}

static bool read_intel(const struct tcpu *c, uint32_t n, uint64_t *v)
{
    *v = 0;
    switch (n) {
    case MSR_BIOS_SIGN_ID: *v = 1ull << 32; return true;
    case MSR_FEATURE_CONTROL: *v = FEATURE_CONTROL_LOCKED; return true;
    case MSR_MISC_ENABLE: *v = c->misc_enable; return true;
    case MSR_ARCH_CAPABILITIES: *v = tvm_cpuid(c->vm)->arch_capabilities; return *v != 0;
    case MSR_PLATFORM_ID:
    case MSR_POWERON_CFG: return true;
    default: return false;
    }
}

static bool write_intel(struct tcpu *c, uint32_t n, uint64_t v)
{
    switch (n) {
    case MSR_BIOS_SIGN_ID: return true; /* cleared before CPUID, to learn the revision */
    case MSR_MISC_ENABLE: c->misc_enable = v; return true;
    default: return false;
    }
}

/* ---- RDMSR ---- */

static bool read_common(struct tcpu *c, uint32_t n, uint64_t *v)
{
    switch (n) {
    case MSR_TSC: *v = sys_tsc(c); return true;
    case MSR_TSC_ADJUST: *v = c->tsc_adjust; return true;
    case MSR_TSC_AUX: *v = c->tsc_aux; return true;
    case MSR_TSC_DEADLINE: *v = lapic_tsc_deadline(c->lapic); return true;
    case MSR_APIC_BASE: *v = lapic_base(c->lapic); return true;
    case MSR_EFER: *v = c->efer; return true;
    case MSR_STAR: *v = c->star; return true;
    case MSR_FMASK: *v = c->fmask; return true;
    case MSR_SYSENTER_CS: *v = c->sysenter_cs; return true;
    case MSR_SPEC_CTRL: *v = c->spec_ctrl; return spec_ctrl_allowed(tvm_cpuid(c->vm)) != 0;
    case MSR_MCG_CAP: /* no banks */
    case MSR_MCG_STATUS: *v = 0; return true;
    case MSR_DEBUGCTL: *v = c->debugctl; return true;
    default: break;
    }
    *v = 0;
    return n >= MSR_LASTBRANCH_FROM && n <= MSR_LASTINT_TO;
}

bool sys_rdmsr(struct tcpu *c, uint32_t n, uint64_t *v)
{
    const uint64_t *address = address_msr(c, n);
    bool ok;

    if (address) {
        *v = *address;
        return true;
    }
    if (n >= MSR_X2APIC_BASE && n < MSR_X2APIC_BASE + 0x100)
        ok = lapic_msr_read(c->lapic, n, v);
    else
        ok = read_common(c, n, v) || read_memory_type(c, n, v) || sys_kvm_rdmsr(c, n, v) ||
             (sys_is_amd(c) ? read_amd(n, v) : read_intel(c, n, v));
    return ok || cpu_raise_gp(c, 0);
}

/* ---- WRMSR ---- */

static bool write_limited(uint64_t *slot, uint64_t v, uint64_t allowed)
{
    if (v & ~allowed)
        return false;
    *slot = v;
    return true;
}

/* *known false: not one of these; else the answer is whether the value was legal. */
static bool write_common(struct tcpu *c, uint32_t n, uint64_t v, bool *known)
{
    const struct cpuid_model *m = tvm_cpuid(c->vm);

    *known = true;
    switch (n) {
    case MSR_TSC: write_tsc(c, v); return true;
    case MSR_TSC_ADJUST: write_tsc_adjust(c, v); return true;
    case MSR_TSC_AUX: return write_limited(&c->tsc_aux, v, 0xffffffffu);
    case MSR_TSC_DEADLINE: lapic_set_tsc_deadline(c->lapic, v); return true;
    case MSR_APIC_BASE:
        if ((v >> m->phys_bits) || !lapic_set_base(c->lapic, v))
            return false;
        mmu_flush_all(c); /* the page may have moved from or to RAM */
        return true;
    case MSR_EFER: return write_efer(c, v);
    case MSR_STAR: c->star = v; return true;
    case MSR_FMASK: c->fmask = v & 0xffffffffu; return true;
    case MSR_SYSENTER_CS: c->sysenter_cs = v & 0xffffffffu; return true;
    case MSR_SPEC_CTRL: return spec_ctrl_allowed(m) && write_limited(&c->spec_ctrl, v, spec_ctrl_allowed(m));
    case MSR_PRED_CMD: return !(v & ~1ull); /* a barrier between predictions: nothing to do */
    case MSR_MCG_STATUS: return !(v & ~MCG_STATUS_BITS);
    case MSR_DEBUGCTL: return write_limited(&c->debugctl, v, DEBUGCTL_BITS);
    default: *known = false; return false;
    }
}

bool sys_wrmsr(struct tcpu *c, uint32_t n, uint64_t v)
{
    uint64_t *address = address_msr(c, n);
    bool known, ok;

    if (address)
        return write_address(c, address, v) || cpu_raise_gp(c, 0);
    if (n >= MSR_X2APIC_BASE && n < MSR_X2APIC_BASE + 0x100)
        return lapic_msr_write(c->lapic, n, v) || cpu_raise_gp(c, 0);
    ok = write_common(c, n, v, &known);
    if (!known)
        ok = write_memory_type(c, n, v) || sys_kvm_wrmsr(c, n, v) ||
             (sys_is_amd(c) ? write_amd(n) : write_intel(c, n, v));
    return ok || cpu_raise_gp(c, 0);
}
