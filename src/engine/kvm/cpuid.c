/* What a guest under KVM sees of the CPU. Linux Documentation/virt/kvm/api.rst, KVM_SET_CPUID2 and
 * KVM_GET_SUPPORTED_CPUID.
 *
 * The model (x86/cpuid_model.h) gives identity, topology, caches and the paravirtual leaves, as for every
 * engine. Feature words are another matter: the translator offers what it implements, here the hardware and
 * the kernel implement, so each word is what the kernel says it supports, cut to the list below. What the
 * lists leave out: what struct x86_state does not hold (supervisor states, tile registers, performance
 * counters, debug store, TSX), what the machine has no use for (nested virtualization, MONITOR, SGX, PT), and
 * 57-bit addresses. Speculation bits pass: mitigations mean on this engine what they mean on hardware. */
#include <cpuid.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "engine/kvm/kvm_priv.h"

#define ENTRIES_MAX 256

#define BIT(n) (1u << (n))

#define F1C_PASS                                                                                             \
    (BIT(0) | BIT(1) | BIT(9) | BIT(12) | BIT(13) | BIT(17) | BIT(19) | BIT(20) | BIT(21) | BIT(22) |        \
     BIT(23) | BIT(25) | BIT(26) | BIT(28) | BIT(29) | BIT(30) | BIT(31))
#define F1C_TSC_DEADLINE BIT(24)
#define F1C_HYPERVISOR BIT(31)
#define F1D_PASS 0x0f8bfbffu /* FPU to PSE-36, CLFSH, MMX, FXSR, SSE, SSE2, self-snoop */
#define F1D_HTT BIT(28)
/* FSGSBASE, TSC_ADJUST, BMI1, AVX2, FDP_EXCPTN_ONLY, SMEP, BMI2, ERMS, INVPCID, no FCS/FDS, AVX-512 F DQ,
 * RDSEED, ADX, SMAP, IFMA, CLFLUSHOPT, CLWB, AVX-512 PF ER CD, SHA, AVX-512 BW VL */
#define F7B_PASS                                                                                             \
    (BIT(0) | BIT(1) | BIT(3) | BIT(5) | BIT(6) | BIT(7) | BIT(8) | BIT(9) | BIT(10) | BIT(13) | BIT(16) |   \
     BIT(17) | BIT(18) | BIT(19) | BIT(20) | BIT(21) | BIT(23) | BIT(24) | BIT(26) | BIT(27) | BIT(28) |     \
     BIT(29) | BIT(30) | BIT(31))
/* VBMI, UMIP, PKU, VBMI2, GFNI, VAES, VPCLMULQDQ, VNNI, BITALG, VPOPCNTDQ, RDPID, CLDEMOTE, MOVDIRI,
 * MOVDIR64B */
#define F7C_PASS                                                                                             \
    (BIT(1) | BIT(2) | BIT(3) | BIT(6) | BIT(8) | BIT(9) | BIT(10) | BIT(11) | BIT(12) | BIT(14) | BIT(22) | \
     BIT(25) | BIT(27) | BIT(28))
/* 4VNNIW, 4FMAPS, FSRM, VP2INTERSECT, MD_CLEAR, SERIALIZE, AVX-512 FP16, IBRS, STIBP, L1D flush,
 * ARCH_CAPABILITIES, SSBD */
#define F7D_PASS                                                                                             \
    (BIT(2) | BIT(3) | BIT(4) | BIT(8) | BIT(10) | BIT(14) | BIT(23) | BIT(26) | BIT(27) | BIT(28) |         \
     BIT(29) | BIT(31))
#define F71A_PASS                                                                                            \
    (BIT(4) | BIT(5) | BIT(10) | BIT(11) | BIT(12) | BIT(23)) /* AVX-VNNI, BF16, fast strings, AVX-IFMA */
#define F72D_PASS 0x3fu                                       /* controls of speculation */
/* LAHF, CR8 by MOV, ABM, SSE4A, misaligned SSE, PREFETCHW, XOP, FMA4, TBM, topology */
#define FXC_PASS (BIT(0) | BIT(4) | BIT(5) | BIT(6) | BIT(7) | BIT(8) | BIT(11) | BIT(16) | BIT(21) | BIT(22))
#define FXC_CMP_LEGACY BIT(1)
#define FXD_PASS 0x2fd3fbffu /* as leaf 1, and SYSCALL, NX, MMXEXT, FFXSR, 1 GiB pages, RDTSCP, long mode */
/* CLZERO, FXRSTOR pointers, WBNOINVD, IBPB, IBRS, STIBP, always on, preferred IBRS, SSBD, SSB_NO, BTC_NO,
 * PSFD, IBPB_RET */
#define F8B_PASS                                                                                             \
    (BIT(0) | BIT(2) | BIT(9) | BIT(12) | BIT(14) | BIT(15) | BIT(16) | BIT(17) | BIT(24) | BIT(26) |        \
     BIT(28) | BIT(29) | BIT(30))
#define F21A_PASS (BIT(0) | BIT(2) | BIT(5) | BIT(6) | BIT(8) | BIT(27) | BIT(28) | BIT(29))
#define F21C_PASS (BIT(1) | BIT(2))
/* x87, SSE, AVX, the three of AVX-512, protection keys. Their sum is 2,696 bytes: x86_state.xsave has room.
 */
#define XCR0_PASS 0x2e7u
#define XSAVE1_PASS 7u /* XSAVEOPT, XSAVEC, XGETBV with ECX 1 */
/* More of leaf 0x40000001 than the translator does: PV EOI (6), halted spin locks (7). */
#define KVM_FEATURES (CPUID_KVM_FEATURES | BIT(6) | BIT(7))

static struct kvm_cpuid2 *table_new(struct yado_error *err)
{
    struct kvm_cpuid2 *t = calloc(1, sizeof(*t) + ENTRIES_MAX * sizeof(t->entries[0]));

    if (!t)
        err_set(err, YADO_ERR_HOST, "out of memory");
    return t;
}

static void host_cpuid(uint32_t leaf, uint32_t sub, struct cpuid_regs *r)
{
    __cpuid_count(leaf, sub, r->eax, r->ebx, r->ecx, r->edx);
}

static struct cpuid_regs supported(const struct kvm_cpuid2 *t, uint32_t leaf, uint32_t sub)
{
    for (uint32_t i = 0; i < t->nent; i++) {
        const struct kvm_cpuid_entry2 *e = &t->entries[i];

        if (e->function == leaf && (!(e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || e->index == sub))
            return (struct cpuid_regs){ e->eax, e->ebx, e->ecx, e->edx };
    }
    return (struct cpuid_regs){ 0 };
}

/* ---- the model, with this kernel's features ---- */

static void shape_xsave(struct cpuid_model *m, const struct kvm_cpuid2 *t)
{
    struct cpuid_regs d = supported(t, 0xd, 0);

    memset(m->host_d, 0, sizeof(m->host_d));
    m->xcr0_mask = d.eax & XCR0_PASS;
    m->host_d1 = (struct cpuid_regs){ .eax = supported(t, 0xd, 1).eax & XSAVE1_PASS };
    m->xsave_size = XSAVE_LEGACY;
    if (!(m->f1_ecx & BIT(26)) || !(m->xcr0_mask & 1)) {
        m->f1_ecx &= ~BIT(26);
        m->xcr0_mask = 1;
        return;
    }
    for (unsigned i = 2; i < array_size(m->host_d); i++) {
        if (!(m->xcr0_mask >> i & 1))
            continue;
        m->host_d[i] = supported(t, 0xd, i);
        m->xsave_size = (uint32_t)max_u64(m->xsave_size, m->host_d[i].ebx + m->host_d[i].eax);
    }
}

static void shape(struct engine_vm *vm, const struct kvm_cpuid2 *t)
{
    struct cpuid_model *m = &vm->cpuid;
    struct cpuid_regs r = supported(t, 1, 0);

    m->f1_ecx = (r.ecx & F1C_PASS) | F1C_HYPERVISOR | (vm->caps.has_tsc_deadline ? F1C_TSC_DEADLINE : 0);
    m->f1_edx = (r.edx & F1D_PASS) | (m->f1_edx & F1D_HTT);
    r = supported(t, 7, 0);
    m->f7_ebx = r.ebx & F7B_PASS;
    m->f7_ecx = r.ecx & F7C_PASS;
    m->f7_edx = r.edx & F7D_PASS;
    r = supported(t, 0x80000001u, 0);
    m->fext_ecx = (r.ecx & FXC_PASS) | (m->fext_ecx & FXC_CMP_LEGACY);
    m->fext_edx = r.edx & FXD_PASS;
    r = supported(t, 0x80000008u, 0);
    m->f8_ebx = r.ebx & F8B_PASS;
    if (r.eax & 0xff)
        m->phys_bits = (uint8_t)min_u64(r.eax & 0xff, 52);
    r = supported(t, 0x80000021u, 0);
    m->f21_eax = r.eax & F21A_PASS;
    m->f21_ecx = r.ecx & F21C_PASS;
    shape_xsave(m, t);
}

bool kvm_cpuid_init(struct engine_vm *vm, struct yado_error *err)
{
    struct kvm_cpuid2 *t = table_new(err);
    int rc;

    if (!t)
        return false;
    t->nent = ENTRIES_MAX;
    rc = ioctl(vm->device_fd, KVM_GET_SUPPORTED_CPUID, t);
    if (rc < 0) {
        err_set_errno(err, YADO_ERR_HOST, errno, "kvm: KVM_GET_SUPPORTED_CPUID");
    } else {
        struct cpuid_regs r;

        cpuid_model_init(&vm->cpuid, vm->cfg.vcpu_count, vm->tsc_khz, 0, host_cpuid);
        shape(vm, t);
        /* Leaves that the model has no place for. */
        r = supported(t, 7, 0);
        vm->cpuid_7_subs = r.eax < 2 ? r.eax : 2;
        vm->cpuid_71_eax = supported(t, 7, 1).eax & F71A_PASS;
        vm->cpuid_72_edx = supported(t, 7, 2).edx & F72D_PASS;
        vm->kvm_features = supported(t, 0x40000001u, 0).eax & KVM_FEATURES;
    }
    free(t);
    return rc >= 0;
}

/* ---- one vCPU's table ---- */

static void override(const struct engine_vm *vm, uint32_t leaf, uint32_t sub, struct cpuid_regs *r)
{
    if (leaf == 7 && sub == 0)
        r->eax = vm->cpuid_7_subs;
    else if (leaf == 7 && sub == 1)
        r->eax = vm->cpuid_71_eax;
    else if (leaf == 7 && sub == 2)
        r->edx = vm->cpuid_72_edx;
    else if (leaf == 0x40000001u)
        r->eax = vm->kvm_features;
}

static void add(struct kvm_cpuid2 *t, const struct engine_vcpu *cpu, uint32_t leaf, uint32_t sub,
                bool indexed)
{
    struct cpuid_dynamic dyn = { .apic_id = cpu->index, .xcr0 = 1 };
    struct cpuid_regs r;

    if (t->nent == ENTRIES_MAX)
        return;
    cpuid_model_get(&cpu->vm->cpuid, leaf, sub, &dyn, &r);
    override(cpu->vm, leaf, sub, &r);
    t->entries[t->nent++] = (struct kvm_cpuid_entry2){
        .function = leaf,
        .index = sub,
        .flags = indexed ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
        .eax = r.eax,
        .ebx = r.ebx,
        .ecx = r.ecx,
        .edx = r.edx,
    };
}

/* How many sub-leaves a leaf has; 1 for one without. */
static unsigned sub_count(const struct engine_vm *vm, uint32_t leaf, bool *indexed)
{
    *indexed = true;
    switch (leaf) {
    case 4:
    case 0x8000001du: return array_size(vm->cpuid.cache) + 1; /* the last is empty: the end */
    case 7: return vm->cpuid_7_subs + 1;
    case 0xb:
    case 0x1f: return 3;
    case 0xd: return array_size(vm->cpuid.host_d);
    default: *indexed = false; return 1;
    }
}

static void add_range(struct kvm_cpuid2 *t, const struct engine_vcpu *cpu, uint32_t first)
{
    struct cpuid_dynamic dyn = { .apic_id = cpu->index, .xcr0 = 1 };
    struct cpuid_regs top;

    cpuid_model_get(&cpu->vm->cpuid, first, 0, &dyn, &top);
    for (uint32_t leaf = first; leaf <= top.eax && leaf - first < 0x100; leaf++) {
        bool indexed;
        unsigned n = sub_count(cpu->vm, leaf, &indexed);

        for (unsigned sub = 0; sub < n; sub++)
            add(t, cpu, leaf, sub, indexed);
    }
}

bool kvm_cpuid_set(struct engine_vcpu *cpu, struct yado_error *err)
{
    struct kvm_cpuid2 *t = table_new(err);
    int rc;

    if (!t)
        return false;
    add_range(t, cpu, 0);
    add_range(t, cpu, 0x40000000u);
    add_range(t, cpu, 0x80000000u);
    rc = ioctl(cpu->fd, KVM_SET_CPUID2, t);
    if (rc < 0)
        err_set_errno(err, YADO_ERR_HOST, errno, "kvm: vCPU %u: the kernel refuses its CPU model",
                      cpu->index);
    free(t);
    return rc == 0;
}
