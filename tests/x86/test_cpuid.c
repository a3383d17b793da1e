/* The CPUID model on three hosts: an AMD Zen 4, an Intel Ice Lake (tables), and this one. Intel SDM volume 2
 * (2023-12), CPUID; AMD APM volume 3 appendix E. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <cpuid.h>

#include "x86/cpuid_model.h"
#include "x86/state.h"

struct leaf {
    uint32_t leaf, sub;
    struct cpuid_regs r;
};

static const struct leaf zen4[] = {
    { 0, 0, { 0x10, 0x68747541, 0x444d4163, 0x69746e65 } },
    { 1, 0, { 0xa10f11, 0x05020800, 0xfffa3203, 0x178bfbff } },
    { 7, 0, { 1, 0xf1bf07ab, 0x00405fc6, 0x00000010 } },
    { 7, 1, { 0x20, 0, 0, 0 } },
    { 0xd, 0, { 0xe7, 0x980, 0x980, 0 } },
    { 0xd, 1, { 0xf, 0x9a8, 0x1800, 0 } },
    { 0xd, 2, { 0x100, 0x240, 0, 0 } },
    { 0xd, 5, { 0x40, 0x340, 0, 0 } },
    { 0xd, 6, { 0x200, 0x380, 0, 0 } },
    { 0xd, 7, { 0x400, 0x580, 0, 0 } },
    { 0x80000000, 0, { 0x80000021, 0x68747541, 0x444d4163, 0x69746e65 } },
    { 0x80000001, 0, { 0xa10f11, 0x40000000, 0x004003f3, 0x2fd3fbff } },
    { 0x80000002, 0, { 0x20444d41, 0x43595045, 0, 0 } },
    { 0x80000005, 0, { 0xff48ff40, 0xff48ff40, 0x20080140, 0x20080140 } },
    { 0x80000007, 0, { 0, 0, 0, 0x1fb } },
    { 0x80000008, 0, { 0x00303934, 0x50020005, 0x7001, 0 } },
    { 0x8000001d, 0, { 0x121, 0x1c0003f, 0x3f, 0 } },
    { 0x8000001d, 1, { 0x122, 0x1c0003f, 0x3f, 0 } },
    { 0x8000001d, 2, { 0x4143, 0x1c0003f, 0x7ff, 2 } },
    { 0x8000001d, 3, { 0x1c163, 0x3c0003f, 0x7fff, 1 } },
};

static const struct leaf icelake[] = {
    { 0, 0, { 0x1b, 0x756e6547, 0x6c65746e, 0x49656e69 } },
    { 1, 0, { 0x606a6, 0x07400800, 0xfffeffff, 0xbfebfbff } },
    { 2, 0, { 0x00feff01, 0xf0, 0, 0 } },
    { 4, 0, { 0x7c004121, 0x2c0003f, 0x3f, 0 } },
    { 4, 1, { 0x7c004122, 0x1c0003f, 0x3f, 0 } },
    { 4, 2, { 0x7c004143, 0x4c0003f, 0x3ff, 0 } },
    { 4, 3, { 0x7c0fc163, 0x2c0003f, 0xbfff, 4 } },
    { 7, 0, { 0, 0xffffffff, 0xffffffff, 0xffffffff } },
    { 0xd, 0, { 0x2e7, 0xa88, 0xa88, 0 } },
    { 0xd, 1, { 0xf, 0xa08, 0x100, 0 } },
    { 0xd, 2, { 0x100, 0x240, 0, 0 } },
    { 0xd, 5, { 0x40, 0x440, 0, 0 } },
    { 0xd, 6, { 0x200, 0x480, 0, 0 } },
    { 0xd, 7, { 0x400, 0x680, 0, 0 } },
    { 0x80000000, 0, { 0x80000008, 0, 0, 0 } },
    { 0x80000001, 0, { 0, 0, 0x121, 0x2c100800 } },
    { 0x80000008, 0, { 0x3934, 0x200, 0, 0 } },
};

static void lookup(const struct leaf *t, unsigned n, uint32_t leaf, uint32_t sub, struct cpuid_regs *out)
{
    *out = (struct cpuid_regs){ 0 };
    for (unsigned i = 0; i < n; i++) {
        if (t[i].leaf == leaf && t[i].sub == sub)
            *out = t[i].r;
    }
}

static void host_zen4(uint32_t leaf, uint32_t sub, struct cpuid_regs *out)
{
    lookup(zen4, array_size(zen4), leaf, sub, out);
}

static void host_icelake(uint32_t leaf, uint32_t sub, struct cpuid_regs *out)
{
    lookup(icelake, array_size(icelake), leaf, sub, out);
}

/* As Zen 4, but without AVX and XSAVE. */
static void host_plain(uint32_t leaf, uint32_t sub, struct cpuid_regs *out)
{
    host_zen4(leaf, sub, out);
    if (leaf == 1)
        out->ecx &= ~(1u << 26 | 1u << 27 | 1u << 28);
    if (leaf == 0xd)
        *out = (struct cpuid_regs){ 0 };
}

/* As Zen 4, but of AVX-512 F and CD alone, as Xeon Phi. */
static void host_knights(uint32_t leaf, uint32_t sub, struct cpuid_regs *out)
{
    host_zen4(leaf, sub, out);
    if (leaf == 7 && !sub)
        out->ebx &= ~0xc0220000u;
}

static void host_real(uint32_t leaf, uint32_t sub, struct cpuid_regs *out)
{
    __cpuid_count(leaf, sub, out->eax, out->ebx, out->ecx, out->edx);
}

static uint64_t host_xcr0(void)
{
    struct cpuid_regs r;
    uint32_t lo, hi;

    host_real(1, 0, &r);
    if (!(r.ecx & 1u << 27))
        return 0;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (uint64_t)hi << 32 | lo;
}

static struct cpuid_regs get_for(const struct cpuid_model *m, uint32_t leaf, uint32_t sub, uint32_t apic_id,
                                 uint64_t xcr0, uint64_t cr4)
{
    struct cpuid_dynamic dyn = { .apic_id = apic_id, .xcr0 = xcr0, .cr4 = cr4 };
    struct cpuid_regs r;

    cpuid_model_get(m, leaf, sub, &dyn, &r);
    return r;
}

static struct cpuid_regs get(const struct cpuid_model *m, uint32_t leaf, uint32_t sub)
{
    return get_for(m, leaf, sub, 0, 1, 0);
}

#define BIT(n) (1u << (n))

/* ---- features ---- */

static void amd_features(void **state)
{
    struct cpuid_model m;
    struct cpuid_regs r;

    (void)state;
    cpuid_model_init(&m, 2, 2596125, 0xe7, host_zen4);
    assert_true(m.is_amd);
    r = get(&m, 0, 0);
    assert_int_equal(r.eax, 0x10);
    assert_int_equal(r.ebx, 0x68747541);
    r = get(&m, 1, 0);
    assert_int_equal(r.eax, 0xa10f11);
    assert_true(r.ecx & BIT(31));                                       /* hypervisor */
    assert_true(r.ecx & BIT(21) && r.ecx & BIT(24));                    /* x2APIC, TSC deadline */
    assert_int_equal(r.ecx & (BIT(3) | BIT(5) | BIT(15) | BIT(27)), 0); /* MONITOR VMX PDCM OSXSAVE */
    assert_int_equal(r.ecx & BIT(17), BIT(17));                         /* PCID */
    assert_int_equal(r.edx & (BIT(1) | BIT(17)), BIT(17));              /* PSE-36, no VME */
    assert_true(r.edx & BIT(28));                                       /* two logical processors */
    assert_true(get_for(&m, 1, 0, 0, 1, 1u << 18).ecx & BIT(27));       /* OSXSAVE follows CR4 */
    r = get(&m, 7, 0);
    assert_int_equal(r.eax, 1);
    assert_int_equal(r.ebx, BIT(0) | BIT(1) | BIT(3) | BIT(5) | BIT(7) | BIT(8) | BIT(9) | BIT(10) | BIT(18) |
                                BIT(19) | BIT(20) | BIT(23) | BIT(24) | BIT(29) |
                                0xd0230000u); /* AVX-512 F DQ IFMA CD BW VL */
    assert_int_equal(r.ecx, BIT(2) | BIT(8) | BIT(9) | BIT(10) | BIT(22) | BIT(1) | BIT(6) | BIT(11) |
                                BIT(12) | BIT(14)); /* VBMI VBMI2 VNNI BITALG VPOPCNTDQ */
    assert_int_equal(r.edx, BIT(4));
    assert_int_equal(get(&m, 7, 1).eax, BIT(5)); /* BF16 */
    r = get(&m, 0x80000001, 0);
    assert_int_equal(r.ecx, BIT(0) | BIT(1) | BIT(5) | BIT(7) | BIT(8) | BIT(22));
    assert_int_equal(r.edx, BIT(11) | BIT(20) | BIT(22) | BIT(26) | BIT(27) | BIT(29) | 0x0183f3fdu);
    r = get(&m, 0x80000007, 0);
    assert_int_equal(r.edx, BIT(8));
    assert_int_equal(get(&m, 6, 0).eax, BIT(2)); /* ARAT */
    assert_int_equal(get(&m, 5, 0).eax | get(&m, 0xa, 0).eax, 0);
    r = get(&m, 0x80000008, 0);
    assert_int_equal(r.eax, 0x3030); /* 52 bits at the host, 48 here */
    assert_int_equal(r.ebx, BIT(2) | BIT(12) | BIT(14) | BIT(15) | BIT(26) | BIT(29));
    assert_int_equal(m.phys_bits, 48);
    r = get(&m, 0x80000021, 0);
    assert_int_equal(r.eax, BIT(2) | BIT(6) | BIT(8) | BIT(29));
    assert_int_equal(r.ecx, BIT(1) | BIT(2));
    assert_int_equal(m.arch_capabilities, 0);
    r = get(&m, 0x80000002, 0);
    assert_int_equal(r.eax, 0x20444d41);
    assert_int_equal(get(&m, 0x80000022, 0).eax, 0);
}

static void intel_features(void **state)
{
    struct cpuid_model m;
    struct cpuid_regs r;

    (void)state;
    cpuid_model_init(&m, 4, 2900000, 7, host_icelake);
    assert_false(m.is_amd);
    r = get(&m, 7, 0); /* of a host that claims everything, what we know remains */
    assert_int_equal(r.ebx, BIT(0) | BIT(1) | BIT(3) | BIT(5) | BIT(6) | BIT(7) | BIT(8) | BIT(9) | BIT(10) |
                                BIT(13) | BIT(18) | BIT(19) | BIT(20) | BIT(23) | BIT(24) | BIT(29));
    assert_int_equal(r.ecx, BIT(2) | BIT(8) | BIT(9) | BIT(10) | BIT(22));
    assert_int_equal(r.edx, BIT(4) | BIT(26) | BIT(27) | BIT(29));
    assert_int_equal(r.eax, 2);
    r = get(&m, 7, 2);
    assert_int_equal(r.edx, BIT(4) | BIT(5));
    assert_int_equal(r.eax | r.ebx | r.ecx, 0);
    assert_int_equal(get(&m, 7, 1).eax, 0);
    r = get(&m, 0x80000001, 0);
    assert_int_equal(r.ecx, BIT(0) | BIT(5) | BIT(8));
    assert_int_equal(r.edx, BIT(11) | BIT(20) | BIT(26) | BIT(27) | BIT(29));
    r = get(&m, 0x80000008, 0);
    assert_int_equal(r.eax, 0x3030);
    assert_int_equal(r.ebx | r.ecx, 0);
    assert_int_equal(get(&m, 0x80000000, 0).eax, 0x80000008);
    assert_int_equal(get(&m, 0x80000021, 0).eax, 0);
    /* RDCL_NO IBRS_ALL SKIP_L1DFL SSB_NO MDS_NO PSCHANGE_MC_NO TAA_NO ... ITS_NO; not RSBA, TSX_CTRL,
     * FB_CLEAR, RRSBA */
    assert_true(m.arch_capabilities == (0x0d10e17bull | 1ull << 62));
    assert_int_equal(get(&m, 0x16, 0).eax, 2900);
    assert_int_equal(get(&m, 0x15, 0).eax, 0);
    assert_int_equal(get(&m, 2, 0).eax, 0x00feff01);
}

static void kvm_leaves(void **state)
{
    struct cpuid_model m;
    struct cpuid_regs r;
    char name[13] = "";

    (void)state;
    cpuid_model_init(&m, 1, 2596125, 0xe7, host_zen4);
    r = get(&m, 0x40000000, 0);
    memcpy(name, &r.ebx, 4);
    memcpy(name + 4, &r.ecx, 4);
    memcpy(name + 8, &r.edx, 4);
    assert_string_equal(name, "KVMKVMKVM");
    assert_true(r.eax >= 0x40000001);
    r = get(&m, 0x40000001, 0);
    assert_true(r.eax & BIT(3) && r.eax & BIT(24) && r.eax & BIT(11));
    assert_int_equal(r.eax & (BIT(0) | BIT(4) | BIT(5) | BIT(6) | BIT(9) | BIT(14)),
                     0); /* what is not there */
    r = get(&m, 0x40000010, 0);
    assert_int_equal(r.eax, 2596125);
    assert_int_equal(get(&m, 0x40000100, 0).eax, 0);
}

/* ---- XSAVE: SDM volume 1, 13.2 ---- */

static void xsave_leaf(void **state)
{
    struct cpuid_model m;
    struct cpuid_regs r;

    (void)state;
    cpuid_model_init(&m, 1, 2596125, 0xe7, host_zen4);
    assert_int_equal(m.xcr0_mask, 0xe7);
    assert_int_equal(m.xsave_size, 0x980);
    assert_true(m.xsave_size <= X86_XSAVE_MAX);
    r = get(&m, 0xd, 0);
    assert_int_equal(r.eax, 0xe7);
    assert_int_equal(r.ebx, 576); /* for XCR0 = 1 */
    assert_int_equal(r.ecx, 0x980);
    assert_int_equal(get_for(&m, 0xd, 0, 0, 7, 0).ebx, 832);
    assert_int_equal(get_for(&m, 0xd, 0, 0, 0xe7, 0).ebx, 0x980);
    r = get(&m, 0xd, 1);
    assert_int_equal(r.eax, 5); /* XSAVEOPT, XGETBV 1; no XSAVEC, XSAVES */
    assert_int_equal(r.ebx | r.ecx | r.edx, 0);
    r = get(&m, 0xd, 2);
    assert_int_equal(r.eax, 256);
    assert_int_equal(r.ebx, 576);
    assert_int_equal(get(&m, 0xd, 5).ebx, 0x340);
    assert_int_equal(get(&m, 0xd, 7).ebx + get(&m, 0xd, 7).eax, 0x980);
    for (unsigned i = 3; i < 64; i++)
        assert_true((get(&m, 0xd, i).eax != 0) == (i >= 5 && i <= 7));
}

/* Only as a whole, and only if the host's system has switched it on. */
static void avx512_group(void **state)
{
    struct cpuid_model m;

    (void)state;
    cpuid_model_init(&m, 1, 2596125, 0xe7, host_zen4);
    assert_true(m.has_avx512);
    cpuid_model_init(&m, 1, 2596125, 7, host_zen4);
    assert_true(m.has_avx);
    assert_false(m.has_avx512);
    assert_int_equal(get(&m, 7, 0).ebx & 0xd0230000u, 0);
    assert_int_equal(get(&m, 7, 0).ecx & (BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14)), 0);
    assert_int_equal(get(&m, 7, 1).eax, 0);
    assert_int_equal(m.xcr0_mask, 7);
    assert_int_equal(get(&m, 0xd, 0).ecx, 832);
    assert_int_equal(get(&m, 0xd, 5).eax | get(&m, 0xd, 6).eax | get(&m, 0xd, 7).eax, 0);
    cpuid_model_init(&m, 1, 2596125, 3, host_zen4);
    assert_false(m.has_avx);
    cpuid_model_init(&m, 1, 2596125, 0xe7, host_knights);
    assert_true(m.has_avx);
    assert_false(m.has_avx512);
}

static void avx_switch(void **state)
{
    struct cpuid_model m, before;

    (void)state;
    cpuid_model_init(&m, 1, 2596125, 0xe7, host_zen4);
    before = m;
    assert_true(m.has_avx);
    cpuid_model_set_avx(&m, false);
    assert_int_equal(get(&m, 1, 0).ecx & (BIT(12) | BIT(28) | BIT(29)), 0);
    assert_int_equal(get(&m, 7, 0).ebx & (BIT(5) | 0xd0230000u), 0);
    assert_int_equal(get(&m, 7, 1).eax, 0);
    assert_int_equal(get(&m, 7, 0).ecx & (BIT(9) | BIT(10)), 0);
    assert_true(get(&m, 1, 0).ecx & BIT(26)); /* XSAVE stays */
    assert_int_equal(m.xcr0_mask, 3);
    assert_int_equal(get(&m, 0xd, 0).ecx, 576);
    assert_int_equal(get(&m, 0xd, 2).eax, 0);
    cpuid_model_set_avx(&m, true);
    assert_memory_equal(&m, &before, sizeof(m));
    cpuid_model_init(&m, 1, 2596125, 0, host_plain);
    assert_false(m.has_avx);
    assert_int_equal(get(&m, 1, 0).ecx & (BIT(12) | BIT(26) | BIT(28)), 0);
    assert_int_equal(get(&m, 0xd, 0).eax, 0);
    cpuid_model_set_avx(&m, true); /* what the host has not cannot be switched on */
    assert_false(m.has_avx);
}

/* ---- topology ---- */

static void amd_topology(void **state)
{
    static const unsigned counts[] = { 1, 2, 3, 4, 8, 64 };

    (void)state;
    for (unsigned i = 0; i < array_size(counts); i++) {
        unsigned n = counts[i];
        struct cpuid_model m;
        struct cpuid_regs r;

        cpuid_model_init(&m, n, 2596125, 0xe7, host_zen4);
        for (uint32_t id = 0; id < n; id++) {
            r = get_for(&m, 1, 0, id, 1, 0);
            assert_int_equal(r.ebx >> 24, id);
            assert_int_equal(r.ebx >> 16 & 0xff, n);
            assert_int_equal(r.ebx >> 8 & 0xff, 8); /* CLFLUSH line */
            assert_int_equal((r.edx & BIT(28)) != 0, n > 1);
            r = get_for(&m, 0xb, 0, id, 1, 0);
            assert_int_equal(r.eax, 0);
            assert_int_equal(r.ebx, 1);
            assert_int_equal(r.ecx, 0x100);
            assert_int_equal(r.edx, id);
            r = get_for(&m, 0xb, 1, id, 1, 0);
            assert_int_equal(id >> r.eax, 0); /* all in package 0 */
            assert_int_equal(r.ebx, n);
            assert_int_equal(r.ecx, 0x201);
            assert_int_equal(get_for(&m, 0xb, 2, id, 1, 0).ebx, 0);
            assert_int_equal(get_for(&m, 0xb, 2, id, 1, 0).ecx, 2);
            r = get_for(&m, 0x8000001e, 0, id, 1, 0);
            assert_int_equal(r.eax, id);
            assert_int_equal(r.ebx, id); /* a core each, one thread */
            assert_int_equal(r.ecx, 0);
        }
        r = get(&m, 0x80000008, 0);
        assert_int_equal((r.ecx & 0xff) + 1, n);
        assert_true(1u << (r.ecx >> 12 & 15) >= n);
        assert_int_equal(get(&m, 0x8000001d, 0).eax >> 14 & 0xfff, 0);
        assert_int_equal(get(&m, 0x8000001d, 2).eax >> 14 & 0xfff, 0);
        assert_int_equal((get(&m, 0x8000001d, 3).eax >> 14 & 0xfff) + 1,
                         n); /* the last level is everybody's */
        assert_int_equal(get(&m, 0x8000001d, 3).ecx, 0x7fff);
        assert_int_equal(get(&m, 0x8000001d, 4).eax, 0);
        assert_int_equal(get(&m, 4, 0).eax, 0);
    }
}

static void intel_topology(void **state)
{
    struct cpuid_model m;
    struct cpuid_regs r;

    (void)state;
    cpuid_model_init(&m, 6, 2900000, 7, host_icelake);
    r = get(&m, 4, 0);
    assert_int_equal(r.eax & 0x3fff, 0x121);
    assert_int_equal(r.eax >> 14 & 0xfff, 0);
    assert_int_equal(r.eax >> 26, 7); /* ids, a power of two */
    assert_int_equal(get(&m, 4, 3).eax >> 14 & 0xfff, 7);
    assert_int_equal(get(&m, 4, 4).eax, 0);
    assert_int_equal(get(&m, 1, 0).ebx >> 16 & 0xff, 8);
    assert_int_equal(get_for(&m, 0xb, 1, 5, 1, 0).ebx, 6);
    assert_int_equal(get_for(&m, 0xb, 1, 5, 1, 0).edx, 5);
    assert_int_equal(get(&m, 0x8000001d, 0).eax, 0);
}

/* ---- this host: nothing is offered that runs as it is and the host lacks ---- */

static void real_host(void **state)
{
    const uint32_t own1 = BIT(21) | BIT(24) | BIT(31), own7b = BIT(0) | BIT(1) | BIT(7) | BIT(20),
                   own7c = BIT(2) | BIT(22);
    struct cpuid_regs h, r;
    struct cpuid_model m;

    (void)state;
    cpuid_model_init(&m, 2, 2596125, host_xcr0(), host_real);
    host_real(0, 0, &h);
    assert_int_equal(get(&m, 0, 0).ebx, h.ebx);
    host_real(1, 0, &h);
    r = get(&m, 1, 0);
    assert_int_equal(r.eax, h.eax);
    assert_int_equal(r.ecx & ~own1 & ~h.ecx, 0);
    host_real(7, 0, &h);
    r = get(&m, 7, 0);
    assert_int_equal(r.ebx & ~own7b & ~h.ebx, 0);
    assert_int_equal(r.ecx & ~own7c & ~h.ecx, 0);
    assert_in_range(m.phys_bits, 36, 48);
    assert_true(m.xsave_size >= 576 && m.xsave_size <= X86_XSAVE_MAX);
    assert_true(!m.has_avx512 || (host_xcr0() & 0xe0) == 0xe0);
}

/* SDM volume 3, table 10-1 */
static void state_reset(void **state)
{
    struct x86_state s;

    (void)state;
    memset(&s, 0xff, sizeof(s));
    x86_state_reset(&s, 0);
    assert_int_equal(s.rip, 0xfff0);
    assert_int_equal(s.seg[S_CS].base, 0xffff0000u);
    assert_int_equal(s.seg[S_CS].sel, 0xf000);
    assert_int_equal(s.cr0, 0x60000010);
    assert_int_equal(s.rflags, 2);
    assert_int_equal(s.dr[6], 0xffff0ff0);
    assert_int_equal(s.dr[7], 0x400);
    assert_true(s.pat == 0x0007040600070406ull);
    assert_int_equal(s.mp_state, X86_MP_RUNNING);
    assert_int_equal(s.lapic.apic_base, 0xfee00900);
    assert_int_equal(s.xsave[0] | s.xsave[1] << 8, 0x37f);
    assert_int_equal(s.xsave[24] | s.xsave[25] << 8, 0x1f80);
    x86_state_reset(&s, 3);
    assert_int_equal(s.mp_state, X86_MP_WAIT_SIPI);
    assert_int_equal(s.lapic.apic_base, 0xfee00800);
    assert_int_equal(s.lapic.regs[2], 3u << 24);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(amd_features), cmocka_unit_test(intel_features), cmocka_unit_test(kvm_leaves),
        cmocka_unit_test(xsave_leaf),   cmocka_unit_test(avx_switch),     cmocka_unit_test(avx512_group),
        cmocka_unit_test(amd_topology), cmocka_unit_test(intel_topology), cmocka_unit_test(real_host),
        cmocka_unit_test(state_reset),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
