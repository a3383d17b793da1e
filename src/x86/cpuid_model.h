/* The CPUID leaves that a guest sees, computed once per machine from what the host has. Pure. */
#ifndef X86_CPUID_MODEL_H
#define X86_CPUID_MODEL_H

#include "util/base.h"

struct cpuid_regs {
    uint32_t eax, ebx, ecx, edx;
};

/* What one CPUID call depends on besides the model. */
struct cpuid_dynamic {
    uint32_t apic_id;
    uint64_t xcr0, cr4;
    bool apic_off; /* by MSR_APIC_BASE: its feature bit goes (SDM volume 3, 11.4.3) */
};

/* KVM_FEATURE_* bits of leaf 0x40000001 (Linux Documentation/virt/kvm/x86/cpuid.rst). Both engines offer
 * these; the translator implements them in sys_kvm.c. One line each: whoever takes a bit out changes nothing
 * else. Bit 7 (paravirtual spin locks) waits for a dispatcher whose HLT looks at tcpu.pv_unhalted. */
#define CPUID_KVM_FEATURES                                                                                   \
    (1u << 1     /* no delay after port I/O */                                                               \
     | 1u << 3   /* kvmclock at MSRs 0x4b564d00 and 01 */                                                    \
     | 1u << 11  /* IPIs by hypercall */                                                                     \
     | 1u << 13  /* yield by hypercall */                                                                    \
     | 1u << 24) /* kvmclock is one line for all vCPUs */

/* What the local APIC's count-down timer counts, told in leaf 0x40000010. */
#define CPUID_APIC_BUS_KHZ 1000000u

struct cpuid_model {
    unsigned vcpu_count;
    uint64_t tsc_khz;
    uint64_t host_xcr0;
    bool is_amd;     /* vendor of the host, which the guest is told too */
    bool has_avx;    /* the AVX group is offered; see cpuid_model_set_avx */
    bool has_avx512; /* and the AVX-512 group */
    struct cpuid_regs host_0, host_1, host_7, host_71, host_d1, host_80000000, host_80000001, host_80000008;
    struct cpuid_regs host_brand[3];
    struct cpuid_regs host_d[16]; /* leaf 0xd sub-leaves, filtered to the components we offer */
    struct cpuid_regs host_2, host_80000005, host_80000006, host_80000007;
    struct cpuid_regs cache[4]; /* leaf 4 or 0x8000001d: with our sharing, up to the first empty one */
    uint64_t xcr0_mask;         /* XCR0 bits a guest may set: x87, SSE, AVX, AVX-512 as the host has them */
    uint32_t xsave_size;        /* bytes for xcr0_mask, standard format */
    uint8_t phys_bits;          /* MAXPHYADDR told to the guest */
    bool has_x2apic, has_tsc_deadline;
    /* feature bits as told to the guest (static part): */
    uint32_t f1_ecx, f1_edx, f7_ebx, f7_ecx, f7_edx, fext_ecx, fext_edx;
    uint32_t f71_eax;           /* leaf 7, sub-leaf 1 EAX */
    uint32_t f72_edx;           /* leaf 7, sub-leaf 2 EDX (Intel) */
    uint32_t f8_ebx;            /* leaf 0x80000008 EBX (AMD) */
    uint32_t f21_eax, f21_ecx;  /* leaf 0x80000021 (AMD) */
    uint64_t arch_capabilities; /* MSR 0x10a (Intel), 0: no such MSR */
};

/* host_cpuid runs CPUID on the host (or a fake in tests); host_xcr0: what the host's system lets be used. The
 * AVX groups are on if the host has them. */
void cpuid_model_init(struct cpuid_model *m, unsigned vcpu_count, uint64_t tsc_khz, uint64_t host_xcr0,
                      void (*host_cpuid)(uint32_t leaf, uint32_t sub, struct cpuid_regs *out));
/* Takes the AVX group (AVX, AVX2, FMA, F16C, VAES, VPCLMULQDQ, XCR0 bit 2) and AVX-512 (XCR0 bits 5 to 7) out
 * or, if the host has them, back in. Before any vCPU runs. */
void cpuid_model_set_avx(struct cpuid_model *m, bool on);
void cpuid_model_get(const struct cpuid_model *m, uint32_t leaf, uint32_t sub,
                     const struct cpuid_dynamic *dyn, struct cpuid_regs *out);

/* Bytes up to the end of the last of these components in XSAVE's standard format (SDM volume 1, 13.4); those
 * that the guest cannot have do not count. */
#define XSAVE_LEGACY 576u /* legacy region and header */
static inline uint32_t cpuid_model_xsave_size(const struct cpuid_model *m, uint64_t components)
{
    uint32_t size = XSAVE_LEGACY;

    for (unsigned i = 2; i < array_size(m->host_d); i++) {
        if ((components & m->xcr0_mask & 1ull << i) && m->host_d[i].ebx + m->host_d[i].eax > size)
            size = m->host_d[i].ebx + m->host_d[i].eax;
    }
    return size;
}

#endif
