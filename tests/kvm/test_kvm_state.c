/* The state of vCPUs in and out of the KVM engine. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#include "engine/kvm/kvm_priv.h"
#include "kvm_codes.h"
#include "kvm_guest.h"

/* ---- state ---- */

static void state_fill(const struct guest *g, struct x86_state *s)
{
    x86_state_reset(s, 0);
    long_guest_state(&g->lg, s, 3, 0x40001234, 0x7000);
    s->cr4 = CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT;
    s->xcr0 = 1;
    for (unsigned i = 0; i < 16; i++)
        s->gpr[i] = 0x0123456789abcdefull * (i + 1);
    s->rflags = FL_1 | FL_CF | FL_IF | FL_DF | FL_OF;
    s->seg[S_FS].base = 0x7fff12345678;
    s->seg[S_GS].base = 0xffff800012345678;
    s->cr2 = 0xdeadbeef000;
    s->star = 0x0023001000000000;
    s->lstar = 0xffffffff81000000;
    s->cstar = 0xffffffff82000000;
    s->fmask = 0x47700;
    s->kernel_gs_base = 0xffff888000001000;
    s->sysenter_cs = 0x10;
    s->sysenter_esp = 0x83000000; /* 32 bits is what AMD's have */
    s->sysenter_eip = 0x84000000;
    s->pat = 0x0407010600070106;
    for (unsigned i = 0; i < 4; i++)
        s->dr[i] = 0x1000 * (i + 1);
    s->dr[7] = 0x455;
    s->lapic.regs[0x0f] = 0x1ff; /* enabled by software */
    s->lapic.regs[0x20 + 3] = 1; /* requested: vector 96 */
    s->lapic.regs[0x35] = 0x10721;
    s->nmi_masked = 1;
    /* x87: control word, and ST0's first bytes; SSE: MXCSR and XMM3 */
    s->xsave[0] = 0x7e;
    memset(s->xsave + 32, 0x5a, 10);
    s->xsave[24] = 0x81;
    memset(s->xsave + 160 + 3 * 16, 0xa5, 16);
    s->xsave[512] = 3;
}

/* Segments of which P is clear have nothing else to them. */
static void check_segments(const struct x86_state *a, const struct x86_state *b)
{
    for (unsigned i = 0; i < S_COUNT; i++) {
        assert_int_equal(a->seg[i].sel, b->seg[i].sel);
        assert_int_equal(a->seg[i].base, b->seg[i].base);
        assert_int_equal(a->seg[i].attr & SEG_P, b->seg[i].attr & SEG_P);
        if (!(a->seg[i].attr & SEG_P))
            continue;
        assert_int_equal(a->seg[i].attr, b->seg[i].attr);
        assert_int_equal(a->seg[i].limit, b->seg[i].limit);
    }
}

static void check_same(const struct x86_state *a, const struct x86_state *b)
{
    assert_memory_equal(a->gpr, b->gpr, sizeof(a->gpr));
    assert_int_equal(a->rip, b->rip);
    assert_int_equal(a->rflags, b->rflags);
    check_segments(a, b);
    assert_memory_equal(&a->gdt, &b->gdt, sizeof(a->gdt));
    assert_memory_equal(&a->idt, &b->idt, sizeof(a->idt));
    assert_int_equal(a->cr0, b->cr0);
    assert_int_equal(a->cr2, b->cr2);
    assert_int_equal(a->cr3, b->cr3);
    assert_int_equal(a->cr4, b->cr4);
    assert_int_equal(a->cr8, b->cr8);
    assert_int_equal(a->xcr0, b->xcr0);
    assert_int_equal(a->efer, b->efer);
    assert_memory_equal(a->dr, b->dr, sizeof(a->dr));
    assert_int_equal(a->star, b->star);
    assert_int_equal(a->lstar, b->lstar);
    assert_int_equal(a->cstar, b->cstar);
    assert_int_equal(a->fmask, b->fmask);
    assert_int_equal(a->kernel_gs_base, b->kernel_gs_base);
    assert_int_equal(a->sysenter_cs, b->sysenter_cs);
    assert_int_equal(a->sysenter_esp, b->sysenter_esp);
    assert_int_equal(a->sysenter_eip, b->sysenter_eip);
    assert_int_equal(a->pat, b->pat);
    assert_int_equal(a->misc_enable, b->misc_enable);
    assert_int_equal(a->misc_features, b->misc_features);
    assert_int_equal(a->debugctl, b->debugctl);
    assert_int_equal(a->spec_ctrl, b->spec_ctrl);
    assert_int_equal(a->tsc_aux, b->tsc_aux);
    assert_int_equal(a->tsc_adjust, b->tsc_adjust);
    assert_int_equal(a->kvm_system_time, b->kvm_system_time);
    assert_int_equal(a->kvm_wall_clock, b->kvm_wall_clock);
    assert_int_equal(a->kvm_pv_eoi, b->kvm_pv_eoi);
    assert_int_equal(a->mtrr_def_type, b->mtrr_def_type);
    assert_memory_equal(a->mtrr_fixed, b->mtrr_fixed, sizeof(a->mtrr_fixed));
    assert_memory_equal(a->mtrr_var, b->mtrr_var, sizeof(a->mtrr_var));
    assert_int_equal(a->mp_state, b->mp_state);
    assert_int_equal(a->nmi_pending, b->nmi_pending);
    assert_int_equal(a->nmi_masked, b->nmi_masked);
    assert_int_equal(a->int_shadow, b->int_shadow);
    assert_int_equal(a->exc_pending, b->exc_pending);
    assert_int_equal(a->exc_vector, b->exc_vector);
    assert_int_equal(a->exc_has_error, b->exc_has_error);
    assert_int_equal(a->exc_error, b->exc_error);
    assert_int_equal(a->lapic.apic_base, b->lapic.apic_base);
    assert_int_equal(a->lapic.tsc_deadline, b->lapic.tsc_deadline);
    for (unsigned i = 0; i < 64; i++) {
        if (i != 3 && i != 0x0a && i != 0x39 &&
            a->lapic.regs[i] != b->lapic.regs[i]) /* version, PPR, current count */
            fail_msg("local APIC register %#x: %#x, was %#x", i * 16, b->lapic.regs[i], a->lapic.regs[i]);
    }
    assert_memory_equal(a->xsave, b->xsave, 28);                 /* up to MXCSR */
    assert_memory_equal(a->xsave + 32, b->xsave + 32, 480 - 64); /* x87 and XMM registers */
}

static void test_state_round_trip(void **state)
{
    struct yado_error err = YADO_ERROR_INIT;
    struct x86_state a, b;
    struct guest g;

    (void)state;
    guest_open(&g, 1);
    guest_long(&g, code_spin, LEN(spin));
    state_fill(&g, &a);
    if (!g.ops->set_state(g.ops->vcpu(g.vm, 0), &a, &err))
        fail_msg("%s", err.message);
    assert_true(g.ops->get_state(g.ops->vcpu(g.vm, 0), &b, NULL));
    check_same(&a, &b);
    /* and with the other half of what there is */
    a.exc_pending = 1;
    a.exc_vector = EXC_PF;
    a.exc_has_error = 1;
    a.exc_error = 6;
    a.int_shadow = 1;
    a.nmi_masked = 0;
    a.nmi_pending = 1;
    a.mp_state = X86_MP_HALTED;
    a.cr8 = 5;
    a.lapic.regs[8] = 0x50;
    assert_true(g.ops->set_state(g.ops->vcpu(g.vm, 0), &a, &err));
    assert_true(g.ops->get_state(g.ops->vcpu(g.vm, 0), &b, NULL));
    check_same(&a, &b);
    /* what was read goes in again and comes out the same */
    assert_true(g.ops->set_state(g.ops->vcpu(g.vm, 0), &b, &err));
    assert_true(g.ops->get_state(g.ops->vcpu(g.vm, 0), &a, NULL));
    check_same(&b, &a);
    guest_close(&g);
}

/* Some that interpret list SPEC_CTRL and take its value, and read it as 0 (asked past the engine). */
static bool spec_ctrl_is_kept(const struct guest *g)
{
    union {
        struct kvm_msrs msrs;
        uint8_t room[sizeof(struct kvm_msrs) + sizeof(struct kvm_msr_entry)];
    } m = { .room = { 0 } };
    int fd = g->ops->vcpu(g->vm, 0)->fd;

    m.msrs.nmsrs = 1;
    m.msrs.entries[0] = (struct kvm_msr_entry){ .index = MSR_SPEC_CTRL, .data = 1 };
    return ioctl(fd, KVM_SET_MSRS, &m) == 1 && ioctl(fd, KVM_GET_MSRS, &m) == 1 &&
           m.msrs.entries[0].data == 1;
}

/* What depends on the host: every component of the XSAVE area that the guest can have, the MSRs that go with
 * a feature, the paravirtual ones, the memory type registers, and time. */
static void state_fill_more(const struct guest *g, struct x86_state *s)
{
    const struct cpuid_model *m = &g->vm->cpuid;
    const uint64_t in_use = m->xcr0_mask | 3;

    s->xcr0 = m->xcr0_mask;
    memcpy(s->xsave + 512, &in_use, 8);
    for (unsigned i = 2; i < array_size(m->host_d); i++) {
        if (m->xcr0_mask >> i & 1) /* of 9, the protection keys, only 4 bytes mean something */
            memset(s->xsave + m->host_d[i].ebx, (int)(0xa0 + i), i == 9 ? 4 : m->host_d[i].eax);
    }
    if (m->fext_edx & 1u << 27)
        s->tsc_aux = 0x1003;
    if ((m->f7_edx & 1u << 26 || m->f8_ebx & 1u << 14) && spec_ctrl_is_kept(g))
        s->spec_ctrl = 1;
    if (m->f7_ebx & 1u << 1)
        s->tsc_adjust = (uint64_t)-123456789;
    s->tsc = 0x123456789ab;
    s->lapic.regs[0x32] = 0x40060; /* timer: TSC deadline, vector 0x60 */
    s->lapic.tsc_deadline = s->tsc + 3600000ull * g->vm->tsc_khz;
    s->kvm_system_time = 0x3000 | 1;
    s->kvm_wall_clock = 0x3100;
    if (g->vm->kvm_features & 1u << 6)
        s->kvm_pv_eoi = 0x3200 | 1;
    s->mtrr_def_type = 0xc06;
    for (unsigned i = 0; i < X86_MTRR_FIXED; i++)
        s->mtrr_fixed[i] = i % 2 ? 0x0606060606060606 : 0x0500050005000500;
    for (unsigned i = 0; i < X86_MTRR_VAR; i++) {
        s->mtrr_var[2 * i] = i << 20 | 6;
        s->mtrr_var[2 * i + 1] = 0xffff00000ull | 0x800;
    }
}

/* The TSC has gone on from what was set, no further than the host's has since `before`; the kernel takes what
 * is within a second of another TSC for the same. A KVM that interprets has the host's and no other. */
static void check_tsc(const struct guest *g, uint64_t set, uint64_t got, uint64_t before)
{
    uint64_t passed = __builtin_ia32_rdtsc() - before;

    if (got - before <= passed && !g->ops->good(NULL))
        return;
    assert_in_range(got - set, 0, passed + 1000 * g->vm->tsc_khz);
}

static void test_state_whole(void **state)
{
    struct yado_error err = YADO_ERROR_INIT;
    struct x86_state a, b;
    struct guest g;

    (void)state;
    guest_open(&g, 1);
    guest_long(&g, code_spin, LEN(spin));
    state_fill(&g, &a);
    state_fill_more(&g, &a);
    for (unsigned i = 0; i < 2; i++) { /* as filled, then as read */
        uint64_t before = __builtin_ia32_rdtsc();

        if (!g.ops->set_state(g.ops->vcpu(g.vm, 0), &a, &err))
            fail_msg("%s", err.message);
        assert_true(g.ops->get_state(g.ops->vcpu(g.vm, 0), &b, NULL));
        check_same(&a, &b);
        assert_memory_equal(a.xsave + 512, b.xsave + 512, X86_XSAVE_MAX - 512);
        check_tsc(&g, a.tsc, b.tsc, before);
        a = b;
    }
    printf("# state: XCR0 %#llx, %u MSRs\n", (unsigned long long)a.xcr0, g.vm->caps.msr_count);
    guest_close(&g);
}

static void test_state_after_reset(void **state)
{
    struct x86_state want, got;
    struct guest g;

    (void)state;
    guest_open(&g, 2);
    for (unsigned i = 0; i < 2; i++) {
        x86_state_reset(&want, i);
        assert_true(g.ops->get_state(g.ops->vcpu(g.vm, i), &got, NULL));
        check_same(&want, &got);
    }
    guest_close(&g);
}

/* A guest goes on where it was, in a new machine. */
static void test_state_moves(void **state)
{
    struct yado_error err = YADO_ERROR_INIT;
    struct x86_state s;
    struct guest a, b;

    (void)state;
    guest_open(&a, 1);
    guest_open(&b, 1);
    REAL(&a, ports);
    a.read_value = 0x77;
    /* stopped before its first instruction, moved, run */
    a.ops->kick(a.ops->vcpu(a.vm, 0));
    assert_int_equal(guest_run(&a).kind, EXIT_KICKED);
    assert_true(a.ops->get_state(a.ops->vcpu(a.vm, 0), &s, NULL));
    guest_put(&b, 0, a.ram, GUEST_RAM);
    assert_true(b.ops->set_state(b.ops->vcpu(b.vm, 0), &s, &err));
    b.read_value = 0x77;
    assert_int_equal(guest_run(&b).kind, EXIT_KICKED);
    assert_int_equal(a.log_count, 0);
    assert_int_equal(b.log_count, 8);
    guest_close(&a);
    guest_close(&b);
}

static void test_state_refused(void **state)
{
    struct yado_error err = YADO_ERROR_INIT;
    struct x86_state s;
    struct guest g;

    (void)state;
    guest_open(&g, 1);
    x86_state_reset(&s, 0);
    s.xcr0 = 1ull << 40;
    assert_false(g.ops->set_state(g.ops->vcpu(g.vm, 0), &s, &err));
    assert_int_equal(err.code, YADO_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "XCR0"));
    guest_close(&g);
}

int kvm_state_tests(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_state_round_trip),  cmocka_unit_test(test_state_whole),
        cmocka_unit_test(test_state_after_reset), cmocka_unit_test(test_state_moves),
        cmocka_unit_test(test_state_refused),
    };

    return cmocka_run_group_tests_name("kvm state", tests, NULL, NULL);
}
