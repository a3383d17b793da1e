/* Control and debug registers, MSRs, XCR0, I/O permission, KVM's interface, INIT. Sections are of the Intel
 * SDM volume 3 (2023-12) unless another is named. */
#include <stdlib.h>
#include <time.h>

#include "test_sys_fake.h"

static struct tcpu *c(void)
{
    return fake->c;
}

static void expect_gp(bool ok)
{
    assert_false(ok);
    expect_exception(EXC_GP, 0);
}

/* volume 2, MOV to control registers; 2.5 */
static void cr0_rules(void **state)
{
    (void)state;
    fake_protected(0);
    expect_gp(sys_write_cr(c(), 0, CR0_PG));          /* paging without protection */
    expect_gp(sys_write_cr(c(), 0, CR0_PE | CR0_NW)); /* NW without CD */
    expect_gp(sys_write_cr(c(), 0, CR0_PE | 1ull << 32));
    assert_true(sys_write_cr(c(), 0, CR0_PE | 0x40)); /* an undefined low bit is ignored, ET sticks */
    assert_int_equal(c()->cr0, CR0_PE | CR0_ET);
    assert_int_equal(fake->flush_all, 0);
    assert_true(sys_write_cr(c(), 0, CR0_PE | CR0_PG));
    assert_int_equal(fake->flush_all, 1);
    assert_true(sys_write_cr(c(), 0, CR0_PE | CR0_PG | CR0_WP));
    assert_int_equal(fake->flush_all, 2);
    assert_true(sys_write_cr(c(), 0, CR0_PE | CR0_PG | CR0_WP | CR0_TS));
    assert_int_equal(fake->flush_all, 2);
    assert_true(sys_clts(c()));
    assert_int_equal(c()->cr0 & CR0_TS, 0);
    assert_true(sys_lmsw(c(), 0)); /* cannot clear PE */
    assert_true(c()->cr0 & CR0_PE);
    assert_true(sys_lmsw(c(), 0xa));
    assert_true(c()->cr0 & CR0_TS);
    assert_false(sys_write_cr(c(), 1, 0));
    expect_exception(EXC_UD, -1);
}

/* 10.8.5: into long mode and out of it */
static void long_mode_switch(void **state)
{
    uint64_t efer;

    (void)state;
    fake_protected(0);
    assert_true(sys_wrmsr(c(), MSR_EFER, EFER_LME | EFER_NXE));
    expect_gp(sys_write_cr(c(), 0, CR0_PE | CR0_PG)); /* needs PAE */
    assert_true(sys_write_cr(c(), 4, CR4_PAE));
    assert_true(sys_write_cr(c(), 0, CR0_PE | CR0_PG));
    assert_true(sys_rdmsr(c(), MSR_EFER, &efer));
    assert_int_equal(efer, EFER_LME | EFER_LMA | EFER_NXE);
    assert_int_equal(c()->code_bits, 32);
    expect_gp(sys_wrmsr(c(), MSR_EFER, EFER_NXE)); /* LME with paging on */
    expect_gp(sys_write_cr(c(), 4, 0));            /* PAE in long mode */
    assert_int_equal(sys_far_jump(c(), SEL_CODE64, 0x100, 4), STEP_NEXT);
    assert_int_equal(c()->code_bits, 64);
    expect_gp(sys_write_cr(c(), 0, CR0_PE)); /* paging off in 64-bit code */
    assert_int_equal(sys_far_jump(c(), SEL_CODE32, 0x100, 4), STEP_NEXT);
    assert_true(sys_write_cr(c(), 0, CR0_PE));
    assert_int_equal(c()->efer, EFER_LME | EFER_NXE);
    c()->seg[S_CS].attr |= SEG_L;
    expect_gp(sys_write_cr(c(), 0, CR0_PE | CR0_PG)); /* CS.L set before */
}

static void cr3_cr4_cr8(void **state)
{
    uint64_t v;

    (void)state;
    fake_long(0);
    expect_gp(sys_write_cr(c(), 3, 1ull << 48)); /* past MAXPHYADDR */
    expect_gp(sys_write_cr(c(), 3, 1ull << 63)); /* no PCIDs */
    assert_true(sys_write_cr(c(), 3, 0x123000));
    assert_int_equal(fake->flush_nonglobal, 1);
    assert_int_equal(fake->flush_all, 0);
    expect_gp(sys_write_cr(c(), 4, CR4_PAE | CR4_LA57));
    expect_gp(sys_write_cr(c(), 4, CR4_PAE | CR4_VME));

    assert_true(sys_write_cr(
        c(), 4, CR4_PAE | CR4_PGE | CR4_SMEP | CR4_SMAP | CR4_UMIP | CR4_FSGSBASE | CR4_OSXSAVE));
    assert_int_equal(fake->flush_all, 1);
    c()->rflags |= FL_AC;
    sys_mode_changed(c());
    assert_int_equal(c()->mmu_idx, MMU_SU); /* 4.6.1 */
    assert_true(sys_write_cr(c(), 8, 7));
    assert_int_equal(fake->cr8, 7);
    assert_true(sys_read_cr(c(), 8, &v));
    assert_int_equal(v, 7);
    expect_gp(sys_write_cr(c(), 8, 16));
    /* 4.10.1, if PCIDs are offered */
    fake->model.f1_ecx |= 1u << 17;
    c()->cr3 = 0x123001;
    expect_gp(sys_write_cr(c(), 4, CR4_PAE | CR4_PCIDE));
    c()->cr3 = 0x123000;
    assert_true(sys_write_cr(c(), 4, CR4_PAE | CR4_PCIDE));
    fake->flush_nonglobal = 0;
    assert_true(sys_write_cr(c(), 3, 1ull << 63 | 0x1005));
    assert_int_equal(c()->cr3, 0x1005);
    assert_int_equal(fake->space.old, 0);
    assert_int_equal(fake->space.pcid, 5);
    assert_true(fake->space.keep);
    assert_true(sys_write_cr(c(), 3, 0x2fff));
    assert_int_equal(fake->space.old, 5);
    assert_int_equal(fake->space.pcid, 0xfff);
    assert_false(fake->space.keep);
    assert_int_equal(fake->space.count, 2);
    assert_int_equal(fake->flush_nonglobal, 0);
}

/* 18.2 */
static void debug_registers(void **state)
{
    uint64_t v;

    (void)state;
    fake_long(0);
    assert_true(sys_write_dr(c(), 6, 0));
    assert_true(sys_read_dr(c(), 4, &v)); /* alias */
    assert_int_equal(v, 0xffff0ff0);
    assert_true(sys_write_dr(c(), 5, 0x1000 | 0xc000 | 0x400 | 1));
    assert_int_equal(c()->dr[7], 0x401);
    expect_gp(sys_write_dr(c(), 7, 1ull << 32));
    assert_true(sys_write_cr(c(), 4, CR4_PAE | CR4_DE));
    assert_false(sys_read_dr(c(), 4, &v));
    expect_exception(EXC_UD, -1);
    assert_true(sys_write_dr(c(), 0, 0x123456789abcull));
    assert_true(sys_write_dr(c(), 7, 0x2000));
    assert_false(sys_read_dr(c(), 0, &v)); /* general detect */
    assert_int_equal(c()->exc.dr6, 0x2000);
    expect_exception(EXC_DB, -1);
}

/* 2.6 */
static void xcr0(void **state)
{
    uint64_t v;

    (void)state;
    fake_long(0);
    assert_false(sys_xsetbv(c(), 0, 7));
    expect_exception(EXC_UD, -1);
    c()->cr4 |= CR4_OSXSAVE;
    assert_true(sys_xsetbv(c(), 0, 7));
    assert_true(sys_xgetbv(c(), 0, &v));
    assert_int_equal(v, 7);
    expect_gp(sys_xsetbv(c(), 0, 6));     /* without x87 */
    expect_gp(sys_xsetbv(c(), 0, 5));     /* AVX without SSE */
    expect_gp(sys_xsetbv(c(), 0, 0x207)); /* PKRU */
    expect_gp(sys_xsetbv(c(), 1, 1));
    expect_gp(sys_xgetbv(c(), 2, &v));
}

/* ---- MSRs ---- */

static void msr_unknown(void **state)
{
    static const uint32_t unknown[] = { 0x11,       0x12,       0xc1,       0x10b,      0x17b,
                                        0x400,      0xda0,      0x803,      0xc0000104, 0xc0010200,
                                        0x4b564d02, 0x4b564d03, 0x4b564d05, 0xdeadbeef };
    uint64_t v;

    (void)state;
    fake_long(0);
    for (unsigned i = 0; i < array_size(unknown); i++) {
        expect_gp(sys_rdmsr(c(), unknown[i], &v));
        expect_gp(sys_wrmsr(c(), unknown[i], 0));
    }
    expect_gp(sys_rdmsr(c(), MSR_PRED_CMD, &v)); /* write only */
}

static void msr_addresses(void **state)
{
    static const uint32_t msrs[] = { MSR_LSTAR,          MSR_CSTAR,        MSR_FS_BASE,     MSR_GS_BASE,
                                     MSR_KERNEL_GS_BASE, MSR_SYSENTER_ESP, MSR_SYSENTER_EIP };
    uint64_t v;

    (void)state;
    fake_long(0);
    for (unsigned i = 0; i < array_size(msrs); i++) {
        expect_gp(sys_wrmsr(c(), msrs[i], 0x800000000000ull));
        assert_true(sys_wrmsr(c(), msrs[i], 0xffff888000000000ull + i));
        assert_true(sys_rdmsr(c(), msrs[i], &v));
        assert_true(v == 0xffff888000000000ull + i);
    }
    assert_true(c()->seg_base_fs == 0xffff888000000002ull && c()->seg_base_gs == 0xffff888000000003ull);
}

static void msr_efer(void **state)
{
    (void)state;
    fake_long(0);
    expect_gp(sys_wrmsr(c(), MSR_EFER, EFER_LME | EFER_SVME));
    expect_gp(sys_wrmsr(c(), MSR_EFER, EFER_LME | EFER_FFXSR));
    fake->flush_all = 0;
    assert_true(
        sys_wrmsr(c(), MSR_EFER, EFER_LME | EFER_SCE | EFER_NXE | EFER_AIBRSE)); /* LMA as read or not */
    assert_true(c()->efer & EFER_LMA);
    assert_int_equal(fake->flush_all, 0);
    assert_true(sys_wrmsr(c(), MSR_EFER, EFER_LME | EFER_SCE));
    assert_int_equal(fake->flush_all, 1); /* NXE changed */
    fake->model.f21_eax = 0;
    expect_gp(sys_wrmsr(c(), MSR_EFER, EFER_LME | EFER_AIBRSE));
}

/* 12.11 and 12.12: types 2, 3 and over 7 do not exist, 7 only in PAT */
static void msr_memory_types(void **state)
{
    uint64_t v;

    (void)state;
    fake_long(0);
    assert_true(sys_wrmsr(c(), MSR_PAT, 0x0407050600070106ull));
    expect_gp(sys_wrmsr(c(), MSR_PAT, 0x0407050600070102ull));
    expect_gp(sys_wrmsr(c(), MSR_PAT, 0x0807050600070106ull));
    assert_true(sys_wrmsr(c(), MSR_MTRR_DEF_TYPE, 0xc06));
    expect_gp(sys_wrmsr(c(), MSR_MTRR_DEF_TYPE, 0xc07));
    expect_gp(sys_wrmsr(c(), MSR_MTRR_DEF_TYPE, 0x1c06));
    assert_true(sys_wrmsr(c(), 0x26f, 0x0606060606060606ull));
    assert_true(sys_rdmsr(c(), 0x26f, &v));
    assert_true(v == 0x0606060606060606ull);
    expect_gp(sys_wrmsr(c(), 0x250, 7));
    assert_true(sys_wrmsr(c(), 0x20e, 0xc0000000));
    assert_true(sys_wrmsr(c(), 0x20f, 0xffffc0000800ull));
    expect_gp(sys_wrmsr(c(), 0x20f, 0xffffffffc0000800ull));
    expect_gp(sys_rdmsr(c(), 0x210, &v));
    assert_true(sys_rdmsr(c(), MSR_MTRRCAP, &v));
    assert_int_equal(v & 0xff, 8);
    expect_gp(sys_wrmsr(c(), MSR_MTRRCAP, v));
}

/* 18.17.3: writing one of TSC and TSC_ADJUST moves the other by as much; a deadline is armed again */
static void msr_tsc(void **state)
{
    uint64_t v;

    (void)state;
    fake_long(0);
    c()->tsc_offset = (uint64_t)-1000;
    assert_true(sys_rdmsr(c(), MSR_TSC, &v));
    assert_true(v == fake->host_tsc - 1000);
    assert_true(sys_wrmsr(c(), MSR_TSC, 5));
    assert_true(sys_tsc(c()) == 5);
    assert_true(sys_rdmsr(c(), MSR_TSC_ADJUST, &v));
    assert_true(v == 5 - (fake->host_tsc - 1000));
    assert_int_equal(fake->deadline_sets, 0);
    fake->tsc_deadline = 77;
    assert_true(sys_wrmsr(c(), MSR_TSC_ADJUST, 0));
    assert_true(sys_tsc(c()) == fake->host_tsc - 1000);
    assert_int_equal(fake->deadline_sets, 1);
    assert_int_equal(fake->tsc_deadline, 77);
    expect_gp(sys_wrmsr(c(), MSR_TSC_AUX, 1ull << 32));
}

static void msr_apic(void **state)
{
    uint64_t v;

    (void)state;
    fake_long(0);
    assert_true(sys_rdmsr(c(), MSR_APIC_BASE, &v));
    assert_int_equal(v, 0xfee00900);
    assert_true(sys_wrmsr(c(), MSR_APIC_BASE, 0xfee00d00));
    assert_int_equal(fake->lapic_base, 0xfee00d00);
    expect_gp(sys_wrmsr(c(), MSR_APIC_BASE, 1ull << 50));
    assert_true(sys_rdmsr(c(), 0x802, &v));
    assert_true(sys_wrmsr(c(), 0x80b, 0));
    expect_gp(sys_wrmsr(c(), 0x802, 0));
    assert_true(sys_wrmsr(c(), MSR_TSC_DEADLINE, 99));
    assert_int_equal(fake->tsc_deadline, 99);
}

/* What stock kernels touch without probing, per vendor (SDM volume 4; APM volume 2 appendix A) */
static void msr_vendors(void **state)
{
    static const uint32_t amd[] = { 0x8b,       0xc0010000, 0xc0010007, 0xc0010010,
                                    0xc0010015, 0xc001001f, 0xc0010114, 0xc0011029 };
    static const uint32_t intel[] = { 0x17, 0x2a, 0x3a, 0x8b, 0x10a, 0x1a0 };
    static const uint32_t both[] = { 0x179, 0x17a, 0x1d9, 0x1db, 0x48, 0x277, 0xfe };
    uint64_t v;

    (void)state;
    fake_long(0);
    for (unsigned is_amd = 0; is_amd < 2; is_amd++) {
        fake->model.is_amd = is_amd;
        fake->model.arch_capabilities = is_amd ? 0 : 0x23;
        for (unsigned i = 0; i < array_size(amd); i++) {
            bool ok = sys_rdmsr(c(), amd[i], &v);
            assert_int_equal(ok, is_amd || amd[i] == 0x8b);
        }
        for (unsigned i = 0; i < array_size(intel); i++) {
            bool ok = sys_rdmsr(c(), intel[i], &v);
            assert_int_equal(ok, !is_amd || intel[i] == 0x8b);
        }
        for (unsigned i = 0; i < array_size(both); i++)
            assert_true(sys_rdmsr(c(), both[i], &v));
        expect_gp(sys_wrmsr(c(), 0x10a, 0));
    }
    assert_true(sys_rdmsr(c(), 0xc0010015, &v));
    assert_true(v & 1u << 24); /* TSC at the P0 frequency: Linux warns without */
    assert_true(sys_rdmsr(c(), MSR_MCG_CAP, &v));
    assert_int_equal(v, 0);
}

static void msr_speculation(void **state)
{
    (void)state;
    fake_long(0);
    assert_true(sys_wrmsr(c(), MSR_SPEC_CTRL, 3));
    assert_int_equal(c()->spec_ctrl, 3);
    expect_gp(sys_wrmsr(c(), MSR_SPEC_CTRL, 4)); /* SSBD is not offered */
    assert_true(sys_wrmsr(c(), MSR_PRED_CMD, 1));
    expect_gp(sys_wrmsr(c(), MSR_PRED_CMD, 2));
    fake->model.f8_ebx = 0;
    expect_gp(sys_wrmsr(c(), MSR_SPEC_CTRL, 0));
}

/* ---- volume 1, 19.5.2 ---- */

static void io_permission(void **state)
{
    (void)state;
    fake_long(3);
    put16(A_TSS + 102, 0x68);
    put32(A_TSS + 0x68, 0xffffffff);
    put32(A_TSS + 0x6c, 0xffffffff);
    expect_gp(sys_io_allowed(c(), 0x20, 1));
    fake->ram[A_TSS + 0x68 + 4] = 0x7f; /* port 0x27 */
    assert_true(sys_io_allowed(c(), 0x27, 1));
    expect_gp(sys_io_allowed(c(), 0x27, 2)); /* 0x28 too */
    fake->ram[A_TSS + 0x68 + 5] = 0xf8;
    assert_true(sys_io_allowed(c(), 0x27, 4)); /* across the byte */
    expect_gp(sys_io_allowed(c(), 0x8000, 1)); /* past the TSS's limit */
    c()->rflags |= FL_IOPL;
    assert_true(sys_io_allowed(c(), 0x8000, 1));
    fake_v86(); /* v86 mode always asks the map */
    put16(A_TSS + 102, 0xffff);
    expect_gp(sys_io_allowed(c(), 0x27, 1));
    fake_long(0);
    assert_true(sys_io_allowed(c(), 0x27, 1));
    fake_real();
    assert_true(sys_io_allowed(c(), 0x27, 1));
}

/* volume 2, INVPCID */
static void tlb_instructions(void **state)
{
    (void)state;
    fake_long(0);
    assert_false(sys_invpcid(c(), 0, 0, 0));
    expect_exception(EXC_UD, -1); /* not offered */
    fake->model.f7_ebx |= 1u << 10;
    expect_gp(sys_invpcid(c(), 4, 0, 0));
    expect_gp(sys_invpcid(c(), 0, 0, 0x800000000000ull));
    expect_gp(sys_invpcid(c(), 1, 5, 0)); /* a PCID with PCIDs off */
    assert_true(sys_invpcid(c(), 0, 0, 0x1000));
    assert_true(sys_invpcid(c(), 2, 0, 0));
    assert_true(sys_invpcid(c(), 3, 0, 0));
    assert_int_equal(fake->flush_page, 1);
    assert_int_equal(fake->flush_all, 1);
    assert_int_equal(fake->flush_nonglobal, 1);
    assert_int_equal(fake->flush_pcids, 1);
    c()->cr4 |= CR4_PCIDE;
    c()->cr3 = 0x1007;
    assert_true(sys_invpcid(c(), 0, 7, 0x1000));
    assert_true(sys_invpcid(c(), 1, 7, 0));
    assert_int_equal(fake->flush_page, 2);
    assert_int_equal(fake->flush_nonglobal, 2);
    assert_int_equal(fake->flushed_pcid, 0);
    assert_true(sys_invpcid(c(), 0, 8, 0x1000)); /* not the loaded one */
    assert_int_equal(fake->flushed_pcid, 8);
    assert_true(sys_invpcid(c(), 1, 9, 0));
    assert_int_equal(fake->flushed_pcid, 9);
    assert_int_equal(fake->flush_page, 2);
    assert_int_equal(fake->flush_nonglobal, 2);
    assert_true(sys_invlpg(c(), 0x2000));
    assert_true(sys_invlpg(c(), 0x800000000000ull)); /* no fault, nothing to do */
    assert_int_equal(fake->flush_page, 3);
}

static void cpuid_call(void **state)
{
    (void)state;
    fake_long(0);
    c()->xcr0 = 7;
    c()->gpr[R_AX] = 0xffffffff00000007ull;
    c()->gpr[R_CX] = 0xffffffff00000001ull;
    sys_cpuid(c());
    assert_int_equal(c()->gpr[R_AX], 7);
    assert_int_equal(c()->gpr[R_BX], 1);
    assert_int_equal(c()->gpr[R_CX], 7);
    assert_int_equal(c()->gpr[R_DX], 1); /* inside the bracket for everyday code */
    assert_int_equal(fake->heavy, 0);
}

/* ---- KVM's interface: Linux Documentation/virt/kvm/x86/msr.rst, hypercalls.rst ---- */

/* The guest's side of the clock page */
static uint64_t guest_clock(uint32_t at, uint64_t tsc)
{
    uint64_t delta = tsc - get64(at + 8);
    int8_t shift = (int8_t)fake->ram[at + 28];

    assert_int_equal(get32(at) & 1, 0);
    delta = shift < 0 ? delta >> -shift : delta << shift;
    return get64(at + 16) + (uint64_t)(((unsigned __int128)delta * get32(at + 24)) >> 32);
}

static void kvm_clock(void **state)
{
    static const uint64_t khz[] = { 100000, 999999, 1000000, 1000001, 2596125, 4999999 };

    (void)state;
    fake_long(0);
    for (unsigned i = 0; i < array_size(khz); i++) {
        fake->model.tsc_khz = khz[i];
        fake->vm.tsc_offset = 5 - fake->host_tsc;                     /* the machine's TSC was 5 then */
        fake->host_tsc += khz[i] * 1000 * 86400 * 30;                 /* up for 30 days */
        c()->tsc_offset = fake->vm.tsc_offset + (i & 1 ? 777777 : 0); /* with a TSC of its own, or not */
        put32(0x20000, 7); /* whatever was there: the version ends even and new */
        assert_true(sys_wrmsr(c(), MSR_KVM_SYSTEM_TIME, 0x20001));
        assert_int_equal(get32(0x20000), 10);
        assert_int_equal(fake->ram[0x2001d], 1); /* one line for all */
        uint64_t now = guest_clock(0x20000, sys_tsc(c()));
        uint64_t then = now;
        assert_in_range(now, 2592000000000000ull - 2000000, 2592000000000000ull + 2000000);
        fake->host_tsc += khz[i] * 1000; /* a second */
        now = guest_clock(0x20000, sys_tsc(c()));
        assert_in_range(now - then, 999999990, 1000000010);
        assert_true(sys_wrmsr(c(), MSR_TSC, 0)); /* the guest moves its TSC: the clock does not notice */
        assert_in_range(guest_clock(0x20000, sys_tsc(c())) - now, 0, 20);
    }
    assert_true(sys_wrmsr(c(), MSR_KVM_SYSTEM_TIME, 0));
    put32(0x20000, 0);
    sys_kvmclock_update(c());
    assert_int_equal(get32(0x20000), 0);                          /* off */
    expect_gp(sys_wrmsr(c(), MSR_KVM_SYSTEM_TIME, FAKE_RAM | 1)); /* outside RAM */
    expect_gp(sys_wrmsr(c(), MSR_KVM_SYSTEM_TIME, 0x20ff1));      /* across pages */
}

static void kvm_wall_clock(void **state)
{
    uint64_t v;

    (void)state;
    fake_long(0);
    assert_true(sys_wrmsr(c(), MSR_KVM_SYSTEM_TIME, 0x20001));
    assert_true(sys_wrmsr(c(), MSR_KVM_WALL_CLOCK, 0x21000));
    assert_int_equal(get32(0x21000), 2);
    uint64_t wall = get32(0x21004) * 1000000000ull + get32(0x21008) + guest_clock(0x20000, sys_tsc(c()));
    assert_in_range(wall / 1000000000u, time(NULL) - 2, time(NULL) + 2);
    assert_true(sys_rdmsr(c(), MSR_KVM_WALL_CLOCK, &v));
    assert_int_equal(v, 0x21000);
    expect_gp(sys_wrmsr(c(), MSR_KVM_WALL_CLOCK, FAKE_RAM));
}

static int64_t hypercall(uint64_t nr, uint64_t a, uint64_t b, uint64_t d, uint64_t s)
{
    c()->gpr[R_AX] = nr;
    c()->gpr[R_BX] = a;
    c()->gpr[R_CX] = b;
    c()->gpr[R_DX] = d;
    c()->gpr[R_SI] = s;
    assert_int_equal(sys_hypercall(c()), STEP_NEXT);
    return (int64_t)c()->gpr[R_AX];
}

static void kvm_hypercalls(void **state)
{
    struct tcpu *other = aligned_alloc(4096, (sizeof(*other) + 4095) & ~4095ul);

    (void)state;
    assert_non_null(other);
    memset(other, 0, sizeof(*other));
    other->index = 1;
    fake->other = other;
    fake_long(0);
    assert_int_equal(hypercall(99, 0, 0, 0, 0), -1000);
    assert_int_equal(hypercall(5, 0, 1, 0, 0), 0);
    assert_int_equal(other->pv_unhalted, 1);
    assert_int_equal(fake->requests[1], XR_INTR);
    assert_int_equal(hypercall(5, 0, 2, 0, 0), 0);      /* nobody */
    assert_int_equal(hypercall(10, 3, 1, 0, 0x4fd), 2); /* APIC ids 0 and 1, and 64, which is nobody */
    assert_int_equal(fake->icr_count, 2);
    assert_true(fake->icr[0] == 0x44fdull);
    assert_true(fake->icr[1] == (1ull << 32 | 0x44fd));
    assert_int_equal(hypercall(10, 1, 0, 1, 0xfd), 1); /* the bit map starts at id 1 */
    assert_int_equal(fake->icr[2] >> 32, 1);
    assert_int_equal(hypercall(10, 1, 0, 0, 0x800fd), -22); /* a shorthand */
    assert_int_equal(hypercall(11, 1, 0, 0, 0), 0);
    fake_long(3);
    assert_int_equal(hypercall(11, 0, 0, 0, 0), -1);
    fake_compat(0);
    assert_int_equal(hypercall(99, 0, 0, 0, 0), (uint32_t)-1000); /* 32 bits outside 64-bit code */
    free(other);
}

/* ---- 10.1.1, table 10-1; 9.4 ---- */

static void init_and_sipi(void **state)
{
    (void)state;
    fake_long(3);
    fake->lapic_base = 0xfee00800; /* an application processor */
    fake->model.host_1.eax = 0xa10f11;
    c()->pat = 0x1234;
    c()->tsc_offset = 55;
    c()->cr0 |= CR0_CD;
    c()->exc.pending = 1;
    sys_init(c());
    assert_int_equal(c()->cr0, CR0_CD | CR0_ET); /* INIT keeps CD and NW */
    assert_int_equal(c()->efer | c()->cr3 | c()->cr4, 0);
    assert_int_equal(c()->gpr[R_DX], 0xa10f11);
    assert_int_equal(c()->rip, 0xfff0);
    assert_int_equal(c()->seg[S_CS].base, 0xffff0000u);
    assert_int_equal(c()->cpl, 0);
    assert_int_equal(c()->code_bits, 16);
    assert_int_equal(c()->mmu_idx, MMU_S);
    assert_int_equal(c()->pat, 0x1234);
    assert_int_equal(c()->tsc_offset, 55);
    assert_int_equal(c()->wait_sipi, 1);
    assert_int_equal(c()->exc.pending, 0);
    assert_int_equal(fake->lapic_resets, 1);
    assert_true(fake->flush_all > 0);
    sys_sipi(c(), 0x9a);
    assert_int_equal(c()->wait_sipi, 0);
    assert_int_equal(c()->seg[S_CS].sel, 0x9a00);
    assert_int_equal(c()->seg[S_CS].base, 0x9a000);
    assert_int_equal(c()->rip, 0);
    fake->lapic_base = 0xfee00900; /* the boot processor starts at the reset vector */
    sys_init(c());
    assert_int_equal(c()->wait_sipi, 0);
}

#define T(f) cmocka_unit_test_setup_teardown(f, fake_setup, fake_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(cr0_rules),   T(long_mode_switch), T(cr3_cr4_cr8),     T(debug_registers),  T(xcr0),
        T(msr_unknown), T(msr_addresses),    T(msr_efer),        T(msr_memory_types), T(msr_tsc),
        T(msr_apic),    T(msr_vendors),      T(msr_speculation), T(io_permission),    T(tlb_instructions),
        T(cpuid_call),  T(kvm_clock),        T(kvm_wall_clock),  T(kvm_hypercalls),   T(init_and_sipi),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
