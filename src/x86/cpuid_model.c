/* The CPUID leaves that a guest sees. Intel SDM volume 2 (2023-12), CPUID; AMD APM volume 3 (rev 3.36),
 * appendix E; Linux Documentation/virt/kvm/x86/cpuid.rst for 0x40000000 up.
 *
 * Theory of operation. The guest is told the vendor, family, model, stepping and brand of the host, because
 * user-mode instructions run on the host's own units and their small differences follow the vendor. A feature
 * bit comes from one of two lists: "host" bits are instructions that run as they are, offered if the host has
 * them; "own" bits are system features that this project implements itself, offered always. All else is zero,
 * so that a CPU of tomorrow offers nothing that was not looked at. Both lists are in the tables below and
 * nowhere else.
 *
 * AVX-512 comes as a group, and only with all of F, DQ, CD, BW and VL, which the translator's own code uses
 * too, and if the host's system has switched its state on in XCR0.
 *
 * Left out on purpose: AMX, PKU, CET, LA57, TSX, MONITOR, SVM/VMX and performance counters (not implemented);
 * XSAVEC and XSAVES (the compacted format is not one that the engines exchange); VME.
 *
 * Speculation. The guest's instructions run in one host process, whose isolation from others is the host
 * kernel's business. Guards inside the guest (return thunks, retpolines, page-table isolation, buffer
 * clearing) cost the translator much more than a CPU and do not mean there what they mean on one, so the
 * model says what makes kernels leave them out: the "not affected" bits, and automatic or enhanced IBRS.
 * Bits: AMD APM volume 3 appendix E, leaves 0x80000008 and 0x80000021; Intel SDM volume 4,
 * IA32_ARCH_CAPABILITIES; bit 62 is set by monitors only (Linux, indirect-target-selection.rst).
 *
 * Topology: one package, one node, vcpu_count cores of one thread each; the last-level cache is shared by
 * all. */
#include "x86/cpuid_model.h"

#include <string.h>

#define BIT(n) (1u << (n))

/* Leaf 1 ECX */
#define F1C_FMA BIT(12)
#define F1C_PCID BIT(17)
#define F1C_X2APIC BIT(21)
#define F1C_TSC_DEADLINE BIT(24)
#define F1C_XSAVE BIT(26)
#define F1C_OSXSAVE BIT(27)
#define F1C_AVX BIT(28)
#define F1C_F16C BIT(29)
#define F1C_HYPERVISOR BIT(31)
/* Of the host: SSE3, PCLMULQDQ, SSSE3, FMA, CX16, SSE4.1, SSE4.2, MOVBE, POPCNT, AES, XSAVE, AVX, F16C,
 * RDRAND */
#define F1C_HOST                                                                                             \
    (BIT(0) | BIT(1) | BIT(9) | F1C_FMA | BIT(13) | BIT(19) | BIT(20) | BIT(22) | BIT(23) | BIT(25) |        \
     F1C_XSAVE | F1C_AVX | F1C_F16C | BIT(30))
#define F1C_OWN (F1C_PCID | F1C_X2APIC | F1C_TSC_DEADLINE | F1C_HYPERVISOR)

/* Leaf 1 EDX. Of the host: FPU, CX8, CMOV, CLFSH, MMX, FXSR, SSE, SSE2 */
#define F1D_HTT BIT(28)
#define F1D_HOST (BIT(0) | BIT(8) | BIT(15) | BIT(19) | BIT(23) | BIT(24) | BIT(25) | BIT(26))
/* Own: DE, PSE, TSC, MSR, PAE, MCE, APIC, SEP, MTRR, PGE, MCA, PAT, PSE-36 */
#define F1D_OWN                                                                                              \
    (BIT(2) | BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(7) | BIT(9) | BIT(11) | BIT(12) | BIT(13) | BIT(14) |  \
     BIT(16) | BIT(17))

/* Leaf 7 EBX. Of the host: BMI1, AVX2, FDP_EXCPTN_ONLY, BMI2, ERMS, FCS/FDS deprecation, RDSEED, ADX,
 * CLFLUSHOPT, CLWB, SHA */
#define F7B_AVX2 BIT(5)
/* AVX-512: what the group needs, F, DQ, CD, BW, VL; and IFMA. ECX: VBMI, VBMI2, VNNI, BITALG, VPOPCNTDQ. EDX:
 * VP2INTERSECT, FP16. Leaf 7.1 EAX: BF16 */
#define F7B_AVX512_NEEDED (BIT(16) | BIT(17) | BIT(28) | BIT(30) | BIT(31))
#define F7B_AVX512 (F7B_AVX512_NEEDED | BIT(21))
#define F7C_AVX512 (BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14))
#define F7D_AVX512 (BIT(8) | BIT(23))
#define F71A_AVX512 BIT(5)
#define F7B_HOST                                                                                             \
    (BIT(3) | F7B_AVX2 | BIT(6) | BIT(8) | BIT(9) | BIT(13) | BIT(18) | BIT(19) | BIT(23) | BIT(24) | BIT(29))
/* Own: FSGSBASE, TSC_ADJUST, SMEP, INVPCID, SMAP */
#define F7B_OWN (BIT(0) | BIT(1) | BIT(7) | BIT(10) | BIT(20))

/* Leaf 7 ECX. Of the host: GFNI, VAES, VPCLMULQDQ. Own: UMIP, RDPID */
#define F7C_AVX (BIT(9) | BIT(10))
#define F7C_HOST (BIT(8) | F7C_AVX)
#define F7C_OWN (BIT(2) | BIT(22))

/* Leaf 7 EDX. Of the host: FSRM. Own, Intel only: IBRS and IBPB, STIBP, IA32_ARCH_CAPABILITIES */
#define F7D_HOST BIT(4)
#define F7D_INTEL (BIT(26) | BIT(27) | BIT(29))

/* Leaf 7.2 EDX. Own, Intel only: BHI_CTRL, and not affected by MXCSR dependent timing. Some kernels do not
 * heed BHI_NO; told that SPEC_CTRL can keep branch history apart, they need no loop at every system call. */
#define F72D_INTEL (BIT(4) | BIT(5))

/* Leaf 0x80000001 ECX. Of the host: LAHF in 64-bit mode, LZCNT, misaligned SSE mode (whose bit of MXCSR is
 * the host's own), PREFETCHW */
#define FXC_CMP_LEGACY BIT(1)
#define FXC_TOPOEXT BIT(22)
#define FXC_HOST (BIT(0) | BIT(5) | BIT(7) | BIT(8))

/* Leaf 0x80000001 EDX. Own: SYSCALL, NX, 1 GiB pages, RDTSCP, long mode. Of the host, AMD only: MMXEXT */
#define FXD_OWN (BIT(11) | BIT(20) | BIT(26) | BIT(27) | BIT(29))
#define FXD_HOST_AMD BIT(22)
#define FXD_MIRROR 0x0183f3ffu /* AMD repeats these bits of leaf 1 EDX here */

/* Leaf 0x80000008 EBX. Of the host: FXRSTOR restores error pointers. Own: IBPB, IBRS, STIBP, not affected by
 * speculative store bypass (26) and branch type confusion (29) */
#define F8B_HOST BIT(2)
#define F8B_OWN (BIT(12) | BIT(14) | BIT(15) | BIT(26) | BIT(29))

/* Leaf 0x80000021 EAX: LFENCE serializes, null selector clears base, automatic IBRS, not affected by SRSO.
 * ECX: not affected by the two transient scheduler attacks. */
#define F21A_OWN (BIT(2) | BIT(6) | BIT(8) | BIT(29))
#define F21C_OWN (BIT(1) | BIT(2))

/* IA32_ARCH_CAPABILITIES: RDCL_NO, IBRS_ALL, SKIP_L1DFL, SSB_NO, MDS_NO, PSCHANGE_MC_NO, TAA_NO,
 * SBDR_SSDP_NO, FBSDP_NO, PSDP_NO, BHI_NO, PBRSB_NO, GDS_NO, RFDS_NO, ITS_NO */
#define ARCH_CAPS                                                                                            \
    (BIT(0) | BIT(1) | BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(8) | BIT(13) | BIT(14) | BIT(15) | BIT(20) |  \
     BIT(24) | BIT(26) | BIT(27) | 1ull << 62)

#define XCR0_SSE_AVX 6ull
#define XCR0_AVX512 0xe0ull

/* The highest leaves that the model answers. */
#define MAX_BASIC_INTEL 0x1fu
#define MAX_BASIC_AMD 0x10u
#define MAX_EXT_INTEL 0x80000008u
#define MAX_EXT_AMD 0x80000021u
#define MAX_KVM 0x40000010u

/* ---- setting up ---- */

static unsigned bits_for(unsigned n) /* so that 1 << bits >= n */
{
    unsigned bits = 0;

    while (1u << bits < n)
        bits++;
    return bits;
}

static bool vendor_is(const struct cpuid_regs *r, const char *name)
{
    uint32_t text[3] = { r->ebx, r->edx, r->ecx };

    return memcmp(text, name, 12) == 0;
}

static void init_features(struct cpuid_model *m)
{
    bool amd = m->is_amd;
    uint32_t ext = m->host_80000001.ecx;

    m->f1_ecx = (m->host_1.ecx & F1C_HOST) | F1C_OWN;
    m->f1_edx = (m->host_1.edx & F1D_HOST) | F1D_OWN | (m->vcpu_count > 1 ? F1D_HTT : 0);
    m->f7_ebx = (m->host_7.ebx & F7B_HOST) | F7B_OWN;
    m->f7_ecx = (m->host_7.ecx & F7C_HOST) | F7C_OWN;
    m->f7_edx = (m->host_7.edx & F7D_HOST) | (amd ? 0 : F7D_INTEL);
    m->fext_ecx = ext & FXC_HOST;
    m->fext_edx = FXD_OWN;
    if (amd) {
        m->fext_ecx |= (ext & FXC_TOPOEXT) | (m->vcpu_count > 1 ? FXC_CMP_LEGACY : 0);
        m->fext_edx |= (m->f1_edx & FXD_MIRROR) | (m->host_80000001.edx & FXD_HOST_AMD);
        m->f8_ebx = (m->host_80000008.ebx & F8B_HOST) | F8B_OWN;
        m->f21_eax = F21A_OWN;
        m->f21_ecx = F21C_OWN;
    } else {
        m->arch_capabilities = ARCH_CAPS;
        m->f72_edx = F72D_INTEL;
    }
    m->has_x2apic = true;
    m->has_tsc_deadline = true;
}

static void init_caches(struct cpuid_model *m, void (*host_cpuid)(uint32_t, uint32_t, struct cpuid_regs *))
{
    uint32_t leaf = m->is_amd ? 0x8000001du : 4;
    unsigned ids = m->is_amd ? m->vcpu_count : 1u << bits_for(m->vcpu_count);
    uint32_t top = m->is_amd ? m->host_80000000.eax : m->host_0.eax;

    if (top < leaf || (m->is_amd && !(m->fext_ecx & FXC_TOPOEXT)))
        return;
    for (unsigned i = 0; i < array_size(m->cache); i++) {
        struct cpuid_regs *r = &m->cache[i];
        unsigned level, sharing;

        host_cpuid(leaf, i, r);
        if (!(r->eax & 31)) {
            *r = (struct cpuid_regs){ 0 };
            return;
        }
        level = (r->eax >> 5) & 7;
        sharing = level >= 3 ? ids : 1;
        r->eax = (r->eax & 0x3fffu) | ((sharing - 1) & 0xfffu) << 14;
        if (!m->is_amd)
            r->eax |= (uint32_t)min_u64(ids - 1, 63) << 26;
    }
}

static void init_xsave(struct cpuid_model *m, void (*host_cpuid)(uint32_t, uint32_t, struct cpuid_regs *))
{
    struct cpuid_regs d = { 0 };

    if (!(m->f1_ecx & F1C_XSAVE) || m->host_0.eax < 0xd) {
        m->f1_ecx &= ~F1C_XSAVE;
        m->xcr0_mask = 1;
        return;
    }
    host_cpuid(0xd, 1, &d);
    m->host_d1 = (struct cpuid_regs){ .eax = d.eax & 5 }; /* XSAVEOPT and XGETBV with ECX 1 */
    host_cpuid(0xd, 0, &d);
    m->xcr0_mask = d.eax & 7;
    for (unsigned i = 2; i < 8; i++) {
        if (!((XCR0_SSE_AVX | XCR0_AVX512) & d.eax & 1u << i))
            continue;
        host_cpuid(0xd, i, &m->host_d[i]);
        m->host_d[i].ecx = m->host_d[i].edx = 0;
    }
}

/* Needs AVX. */
static bool host_has_avx512(const struct cpuid_model *m)
{
    return (m->host_7.ebx & F7B_AVX512_NEEDED) == F7B_AVX512_NEEDED &&
           (m->host_xcr0 & XCR0_AVX512) == XCR0_AVX512 && m->host_d[5].eax && m->host_d[6].eax &&
           m->host_d[7].eax;
}

void cpuid_model_set_avx(struct cpuid_model *m, bool on)
{
    bool host = (m->host_1.ecx & F1C_AVX) && (m->host_1.ecx & F1C_OSXSAVE) && m->host_d[2].eax &&
                (m->host_xcr0 & XCR0_SSE_AVX) == XCR0_SSE_AVX;

    m->has_avx = on && host && (m->f1_ecx & F1C_XSAVE);
    m->has_avx512 = m->has_avx && host_has_avx512(m);
    m->f1_ecx &= ~(F1C_AVX | F1C_FMA | F1C_F16C);
    m->f7_ebx &= ~(F7B_AVX2 | F7B_AVX512);
    m->f7_ecx &= ~(F7C_AVX | F7C_AVX512);
    m->f7_edx &= ~F7D_AVX512;
    m->f71_eax = 0;
    m->xcr0_mask &= ~(4 | XCR0_AVX512);
    if (m->has_avx) {
        m->f1_ecx |= m->host_1.ecx & (F1C_AVX | F1C_FMA | F1C_F16C);
        m->f7_ebx |= m->host_7.ebx & F7B_AVX2;
        m->f7_ecx |= m->host_7.ecx & F7C_AVX;
        m->xcr0_mask |= 4;
    }
    if (m->has_avx512) {
        m->f7_ebx |= m->host_7.ebx & F7B_AVX512;
        m->f7_ecx |= m->host_7.ecx & F7C_AVX512;
        m->f7_edx |= m->host_7.edx & F7D_AVX512;
        m->f71_eax = m->host_71.eax & F71A_AVX512;
        m->xcr0_mask |= XCR0_AVX512;
    }
    m->xsave_size = cpuid_model_xsave_size(m, m->xcr0_mask);
}

static void read_host(struct cpuid_model *m, void (*host_cpuid)(uint32_t, uint32_t, struct cpuid_regs *))
{
    uint32_t top;

    host_cpuid(0, 0, &m->host_0);
    host_cpuid(1, 0, &m->host_1);
    if (m->host_0.eax >= 2)
        host_cpuid(2, 0, &m->host_2);
    if (m->host_0.eax >= 7)
        host_cpuid(7, 0, &m->host_7);
    if (m->host_7.eax >= 1)
        host_cpuid(7, 1, &m->host_71);
    host_cpuid(0x80000000u, 0, &m->host_80000000);
    top = m->host_80000000.eax;
    if (top >= 0x80000001u)
        host_cpuid(0x80000001u, 0, &m->host_80000001);
    for (uint32_t i = 0; i < 3 && top >= 0x80000004u; i++)
        host_cpuid(0x80000002u + i, 0, &m->host_brand[i]);
    if (top >= 0x80000006u) {
        host_cpuid(0x80000005u, 0, &m->host_80000005);
        host_cpuid(0x80000006u, 0, &m->host_80000006);
    }
    if (top >= 0x80000007u)
        host_cpuid(0x80000007u, 0, &m->host_80000007);
    if (top >= 0x80000008u)
        host_cpuid(0x80000008u, 0, &m->host_80000008);
}

void cpuid_model_init(struct cpuid_model *m, unsigned vcpu_count, uint64_t tsc_khz, uint64_t host_xcr0,
                      void (*host_cpuid)(uint32_t leaf, uint32_t sub, struct cpuid_regs *out))
{
    uint32_t phys;

    *m = (struct cpuid_model){ .vcpu_count = vcpu_count, .tsc_khz = tsc_khz, .host_xcr0 = host_xcr0 };
    read_host(m, host_cpuid);
    m->is_amd = vendor_is(&m->host_0, "AuthenticAMD") || vendor_is(&m->host_0, "HygonGenuine");
    init_features(m);
    init_caches(m, host_cpuid);
    init_xsave(m, host_cpuid);
    cpuid_model_set_avx(m, true);
    phys = m->host_80000008.eax & 0xff;
    if (!phys)
        phys = 36; /* SDM volume 3, 4.1.4 */
    m->phys_bits = (uint8_t)min_u64(phys, 48);
}

/* ---- leaves ---- */

static void leaf_1(const struct cpuid_model *m, const struct cpuid_dynamic *dyn, struct cpuid_regs *r)
{
    unsigned ids = m->is_amd ? m->vcpu_count : 1u << bits_for(m->vcpu_count);

    r->eax = m->host_1.eax;
    r->ebx = (dyn->apic_id & 0xff) << 24 | (uint32_t)min_u64(ids, 255) << 16 | (m->host_1.ebx & 0xff00u);
    r->ecx = m->f1_ecx;
    if ((m->f1_ecx & F1C_XSAVE) && (dyn->cr4 & 1u << 18))
        r->ecx |= F1C_OSXSAVE;
    r->edx = m->f1_edx & ~(dyn->apic_off ? BIT(9) : 0);
}

/* Extended topology: leaves 0xb and 0x1f */
static void leaf_topology(const struct cpuid_model *m, uint32_t sub, const struct cpuid_dynamic *dyn,
                          struct cpuid_regs *r)
{
    r->ecx = sub & 0xff;
    r->edx = dyn->apic_id;
    if (sub == 0) { /* threads of a core */
        r->ebx = 1;
        r->ecx |= 1u << 8;
    } else if (sub == 1) { /* cores of the package */
        r->eax = bits_for(m->vcpu_count);
        r->ebx = m->vcpu_count;
        r->ecx |= 2u << 8;
    }
}

static void leaf_xsave(const struct cpuid_model *m, uint32_t sub, const struct cpuid_dynamic *dyn,
                       struct cpuid_regs *r)
{
    if (!(m->f1_ecx & F1C_XSAVE))
        return;
    if (sub == 0) {
        r->eax = (uint32_t)m->xcr0_mask;
        r->ebx = cpuid_model_xsave_size(m, dyn->xcr0);
        r->ecx = m->xsave_size;
    } else if (sub == 1) {
        *r = m->host_d1;
    } else if (sub < array_size(m->host_d) && (m->xcr0_mask >> sub & 1)) {
        *r = m->host_d[sub];
    }
}

static uint32_t max_basic(const struct cpuid_model *m)
{
    uint64_t top = min_u64(m->host_0.eax, m->is_amd ? MAX_BASIC_AMD : MAX_BASIC_INTEL);

    return (uint32_t)max_u64(top, 0xd);
}

static void leaf_basic(const struct cpuid_model *m, uint32_t leaf, uint32_t sub,
                       const struct cpuid_dynamic *dyn, struct cpuid_regs *r)
{
    if (leaf > max_basic(m))
        return;
    switch (leaf) {
    case 0:
        *r = m->host_0;
        r->eax = max_basic(m);
        break;
    case 1: leaf_1(m, dyn, r); break;
    case 2:
        if (!m->is_amd)
            *r = m->host_2;
        break;
    case 4:
        if (!m->is_amd && sub < array_size(m->cache))
            *r = m->cache[sub];
        break;
    case 6: r->eax = BIT(2); break; /* the APIC timer never stops */
    case 7:
        if (sub == 0)
            *r = (struct cpuid_regs){ m->f72_edx ? 2 : m->f71_eax ? 1 : 0, m->f7_ebx, m->f7_ecx, m->f7_edx };
        else if (sub == 1)
            r->eax = m->f71_eax;
        else if (sub == 2)
            r->edx = m->f72_edx;
        break;
    case 0xb: leaf_topology(m, sub, dyn, r); break;
    case 0xd: leaf_xsave(m, sub, dyn, r); break;
    case 0x16: /* MHz: base, maximum, bus. 0x15 stays empty: Linux multiplies its parts in 32 bits */
        if (!m->is_amd)
            *r = (struct cpuid_regs){ (uint32_t)(m->tsc_khz / 1000), (uint32_t)(m->tsc_khz / 1000), 100, 0 };
        break;
    case 0x1f:
        if (!m->is_amd)
            leaf_topology(m, sub, dyn, r);
        break;
    default: break;
    }
}

static void leaf_kvm(const struct cpuid_model *m, uint32_t leaf, struct cpuid_regs *r)
{
    static const char signature[12] = { 'K', 'V', 'M', 'K', 'V', 'M', 'K', 'V', 'M' };

    switch (leaf) {
    case 0x40000000u:
        r->eax = MAX_KVM;
        memcpy(&r->ebx, signature, 4);
        memcpy(&r->ecx, signature + 4, 4);
        memcpy(&r->edx, signature + 8, 4);
        break;
    case 0x40000001u: r->eax = CPUID_KVM_FEATURES; break;
    case 0x40000010u: /* timing, as several monitors give it: TSC and APIC timer in kHz */
        r->eax = (uint32_t)m->tsc_khz;
        r->ebx = CPUID_APIC_BUS_KHZ;
        break;
    default: break;
    }
}

static uint32_t max_ext(const struct cpuid_model *m)
{
    return m->is_amd ? MAX_EXT_AMD : MAX_EXT_INTEL;
}

/* AMD's leaves past 0x80000008 */
static void leaf_ext_amd(const struct cpuid_model *m, uint32_t leaf, uint32_t sub,
                         const struct cpuid_dynamic *dyn, struct cpuid_regs *r)
{
    switch (leaf) {
    case 0x8000001du:
        if (sub < array_size(m->cache))
            *r = m->cache[sub];
        break;
    case 0x8000001eu: /* one thread per core, one node */
        if (m->fext_ecx & FXC_TOPOEXT)
            *r = (struct cpuid_regs){ dyn->apic_id, dyn->apic_id & 0xff, 0, 0 };
        break;
    case 0x80000021u:
        r->eax = m->f21_eax;
        r->ecx = m->f21_ecx;
        break;
    default: break;
    }
}

static void leaf_ext(const struct cpuid_model *m, uint32_t leaf, uint32_t sub,
                     const struct cpuid_dynamic *dyn, struct cpuid_regs *r)
{
    if (leaf > max_ext(m))
        return;
    switch (leaf) {
    case 0x80000000u:
        r->eax = max_ext(m);
        if (m->is_amd)
            *r = (struct cpuid_regs){ max_ext(m), m->host_0.ebx, m->host_0.ecx, m->host_0.edx };
        break;
    case 0x80000001u:
        *r = (struct cpuid_regs){ m->host_80000001.eax, m->host_80000001.ebx, m->fext_ecx, m->fext_edx };
        if (dyn->apic_off && m->is_amd)
            r->edx &= ~BIT(9);
        break;
    case 0x80000002u:
    case 0x80000003u:
    case 0x80000004u: *r = m->host_brand[leaf - 0x80000002u]; break;
    case 0x80000005u: *r = m->host_80000005; break;
    case 0x80000006u: *r = m->host_80000006; break;
    case 0x80000007u: r->edx = m->host_80000007.edx & BIT(8); break; /* TSC never stops or changes its rate */
    case 0x80000008u:
        r->eax = m->phys_bits | 48u << 8;
        r->ebx = m->f8_ebx;
        if (m->is_amd)
            r->ecx = (m->vcpu_count - 1) | bits_for(m->vcpu_count) << 12;
        break;
    default: leaf_ext_amd(m, leaf, sub, dyn, r); break;
    }
}

void cpuid_model_get(const struct cpuid_model *m, uint32_t leaf, uint32_t sub,
                     const struct cpuid_dynamic *dyn, struct cpuid_regs *out)
{
    *out = (struct cpuid_regs){ 0 };
    if (leaf >= 0x80000000u)
        leaf_ext(m, leaf, sub, dyn, out);
    else if (leaf >= 0x40000000u)
        leaf_kvm(m, leaf, out);
    else
        leaf_basic(m, leaf, sub, dyn, out);
}
