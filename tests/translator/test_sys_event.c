/* Delivery of events and IRET. Sections are of the Intel SDM volume 3 (2023-12) unless volume 2 is named. */
#include "test_sys_fake.h"

#define HANDLER 0x12340u

static struct tcpu *c(void)
{
    return fake->c;
}

static void raise_error(unsigned vector, uint32_t error)
{
    cpu_raise_error(c(), vector, error);
}

/* ---- long mode ---- */

/* 6.14.2, 6.14.3: same level; stack aligned to 16, five words and the error code; RF set in a fault's image
 * (18.3.1.1) */
static void long_same_level(void **state)
{
    (void)state;
    fake_long(0);
    put_gate64(EXC_GP, SEL_CODE64, 0xffff800000012340ull, 0x8e, 0);
    c()->gpr[R_SP] = A_STACK - 3;
    raise_error(EXC_GP, 0x18);
    assert_int_equal(sys_deliver_exception(c()), STEP_NEXT);
    assert_true(c()->rip == 0xffff800000012340ull);
    uint32_t sp = ((A_STACK - 3) & ~15u) - 48;
    assert_int_equal(c()->gpr[R_SP], sp);
    assert_int_equal(get64(sp), 0x18);
    assert_int_equal(get64(sp + 8), A_CODE);
    assert_int_equal(get64(sp + 16), SEL_CODE64);
    assert_int_equal(get64(sp + 24), FL_1 | FL_IF | FL_RF);
    assert_int_equal(get64(sp + 32), A_STACK - 3);
    assert_int_equal(get64(sp + 40), SEL_DATA0);
    assert_int_equal(c()->rflags & (FL_IF | FL_RF), 0);
    assert_int_equal(c()->seg[S_SS].sel, SEL_DATA0); /* not changed without a change of level */
    assert_int_equal(c()->exc.pending, 0);
}

/* 6.14.2: from level 3 to RSP0, SS becomes null with the new RPL; an interrupt has no error code and no RF */
static void long_inner(void **state)
{
    (void)state;
    fake_long(3);
    fake->prot[A_GDT >> 12] = fake->prot[A_IDT >> 12] = fake->prot[A_TSS >> 12] = PAGE_SYSTEM;
    fake->prot[(A_STACK0 - 1) >> 12] = PAGE_SYSTEM;
    put_gate64(0x41, SEL_CODE64, HANDLER, 0x8e, 0);
    cpu_set_rflags(c(), FL_1 | FL_IF | FL_TF | FL_NT | FL_CF);
    c()->halted = 1;
    assert_int_equal(sys_deliver_interrupt(c(), 0x41), STEP_NEXT);
    assert_int_equal(c()->cpl, 0);
    assert_int_equal(c()->mmu_idx, MMU_S);
    assert_int_equal(c()->seg[S_SS].sel, 0);
    assert_int_equal(c()->seg[S_SS].attr & SEG_P, 0);
    assert_int_equal(c()->seg[S_CS].sel, SEL_CODE64);
    assert_int_equal(c()->gpr[R_SP], A_STACK0 - 40);
    assert_int_equal(get64(A_STACK0 - 40), A_CODE);
    assert_int_equal(get64(A_STACK0 - 32), SEL_UCODE64 | 3);
    assert_int_equal(get64(A_STACK0 - 24), FL_1 | FL_IF | FL_TF | FL_NT | FL_CF);
    assert_int_equal(get64(A_STACK0 - 16), A_USTACK);
    assert_int_equal(get64(A_STACK0 - 8), SEL_UDATA | 3);
    assert_int_equal(c()->rflags, FL_1);
    assert_int_equal(c()->fl >> 8 & 1, 1); /* status flags stay */
    assert_int_equal(c()->halted, 0);
}

/* 6.14.5: the interrupt stack table is used at every level */
static void long_ist(void **state)
{
    (void)state;
    fake_long(0);
    put_gate64(EXC_NMI, SEL_CODE64, HANDLER, 0x8e, 1);
    assert_int_equal(sys_deliver_nmi(c()), STEP_NEXT);
    assert_int_equal(c()->gpr[R_SP], A_STACK_IST - 40);
    assert_int_equal(get64(A_STACK_IST - 16), A_STACK);
    assert_int_equal(c()->nmi_masked, 1); /* 6.7.1 */
}

/* 6.12.1.2: a trap gate leaves IF; #DB is a trap and pushes no RF; DR6 collects, DR7.GD goes (18.2.3, 18.2.4)
 */
static void long_trap_gate(void **state)
{
    (void)state;
    fake_long(0);
    put_gate64(EXC_DB, SEL_CODE64, HANDLER, 0x8f, 0);
    cpu_raise(c(), EXC_DB);
    c()->exc.dr6 = 0x4000;
    c()->dr[6] |= 1;
    c()->dr[7] |= 0x2000;
    assert_int_equal(sys_deliver_exception(c()), STEP_NEXT);
    assert_true(c()->rflags & FL_IF);
    assert_int_equal(get64((uint32_t)c()->gpr[R_SP] + 16), FL_1 | FL_IF);
    assert_int_equal(c()->dr[6], 0xffff4ff0);
    assert_int_equal(c()->dr[7], 0x400);
}

/* 4.7: CR2 is set when #PF is delivered */
static void long_page_fault(void **state)
{
    (void)state;
    fake_long(3);
    put_gate64(EXC_PF, SEL_CODE64, HANDLER, 0x8e, 0);
    raise_error(EXC_PF, 6);
    c()->exc.cr2 = 0x7fff12345678;
    assert_int_equal(sys_deliver_exception(c()), STEP_NEXT);
    assert_true(c()->cr2 == 0x7fff12345678);
    assert_int_equal(get64(A_STACK0 - 48), 6);
}

/* 6.13: error codes of faults on the way: vector * 8 + 2, EXT for external events, and what the handlers get
 */
static void long_gate_faults(void **state)
{
    static const struct {
        uint16_t sel;
        uint8_t type;
        unsigned vector;
        uint32_t error;
    } cases[] = {
        { SEL_CODE64, 0x0e, EXC_NP, 0x41 * 8 + 3 },   /* gate not present */
        { SEL_CODE64, 0x85, EXC_GP, 0x41 * 8 + 3 },   /* a task gate: not in long mode */
        { 0, 0x8e, EXC_GP, 1 },                       /* null code selector */
        { SEL_CODE32, 0x8e, EXC_GP, SEL_CODE32 | 1 }, /* not 64-bit code: 6.14.1 */
        { SEL_DATA0, 0x8e, EXC_GP, SEL_DATA0 | 1 },
        { SEL_UCODE64, 0x8e, EXC_GP, SEL_UCODE64 | 1 }, /* outer level */
        { 0x108, 0x8e, EXC_GP, 0x108 | 1 },             /* outside the GDT */
    };

    (void)state;
    for (unsigned i = 0; i < array_size(cases); i++) {
        fake_long(0);
        put_gate64(EXC_NP, SEL_CODE64, HANDLER, 0x8e, 0);
        put_gate64(EXC_GP, SEL_CODE64, HANDLER, 0x8e, 0);
        put_gate64(0x41, cases[i].sel, HANDLER + 8, cases[i].type, 0);
        assert_int_equal(sys_deliver_interrupt(c(), 0x41), STEP_NEXT);
        assert_int_equal(c()->rip, HANDLER);
        assert_int_equal(get64((uint32_t)c()->gpr[R_SP]), cases[i].error);
        assert_int_equal(get64((uint32_t)c()->gpr[R_SP] + 8), A_CODE);
    }
}

/* volume 2, INT n: the gate's DPL counts, EXT is clear, the return address is after the instruction */
static void long_soft(void **state)
{
    (void)state;
    fake_long(3);
    put_gate64(0x80, SEL_CODE64, HANDLER, 0xee, 0);
    put_gate64(0x81, SEL_CODE64, HANDLER, 0x8e, 0);
    put_gate64(EXC_DB, SEL_CODE64, HANDLER, 0x8e, 0);
    assert_int_equal(sys_soft_interrupt(c(), 0x81, 2, true), STEP_FAULT);
    expect_exception(EXC_GP, 0x81 * 8 + 2);
    assert_int_equal(c()->rip, A_CODE);
    assert_int_equal(sys_soft_interrupt(c(), 0x80, 2, true), STEP_NEXT);
    assert_int_equal(get64(A_STACK0 - 40), A_CODE + 2);
    assert_int_equal(get64(A_STACK0 - 24), FL_1 | FL_IF);
    fake_long(3);
    put_gate64(EXC_DB, SEL_CODE64, HANDLER, 0x8e, 0);
    assert_int_equal(sys_soft_interrupt(c(), EXC_DB, 1, false), STEP_NEXT); /* INT1 asks no DPL */
}

/* A fault on the inner stack leaves everything as it was, and is the next event: 6.15 serially */
static void long_stack_fault(void **state)
{
    (void)state;
    fake_long(3);
    fake->prot[(A_STACK0 - 1) >> 12] = PAGE_ABSENT;
    put_gate64(0x80, SEL_CODE64, HANDLER, 0xee, 0);
    assert_int_equal(sys_soft_interrupt(c(), 0x80, 2, true), STEP_FAULT);
    assert_int_equal(c()->cpl, 3);
    assert_int_equal(c()->gpr[R_SP], A_USTACK);
    assert_int_equal(c()->rip, A_CODE);
    assert_int_equal(c()->exc.cr2, A_STACK0 - 8);
    expect_exception(EXC_PF, PF_W);
    put64(A_TSS + 4, 0x8000000000000000ull);
    assert_int_equal(sys_soft_interrupt(c(), 0x80, 2, true), STEP_FAULT);
    expect_exception(EXC_SS, 0);
}

/* table 6-5 */
static void double_fault_classes(void **state)
{
    static const struct {
        uint8_t first; /* its gate is absent: #NP, contributory */
        uint8_t page;  /* instead the IDT page is absent */
        unsigned last; /* vector that arrives */
    } cases[] = {
        { EXC_GP, 0, EXC_DF }, { EXC_DE, 0, EXC_DF }, { EXC_SS, 0, EXC_DF }, { EXC_TS, 0, EXC_DF },
        { EXC_PF, 0, EXC_DF }, { EXC_UD, 0, EXC_NP }, { EXC_DB, 0, EXC_NP }, { EXC_AC, 0, EXC_NP },
    };

    (void)state;
    for (unsigned i = 0; i < array_size(cases); i++) {
        fake_long(0);
        put_gate64(EXC_NP, SEL_CODE64, HANDLER + EXC_NP, 0x8e, 0);
        put_gate64(EXC_DF, SEL_CODE64, HANDLER + EXC_DF, 0x8e, 1);
        put_gate64(cases[i].first, SEL_CODE64, HANDLER, 0x0e, 0);
        raise_error(cases[i].first, 0);
        assert_int_equal(sys_deliver_exception(c()), STEP_NEXT);
        assert_int_equal(c()->rip, HANDLER + cases[i].last);
        if (cases[i].last == EXC_DF)
            assert_int_equal(get64(A_STACK_IST - 48), 0); /* error code 0 */
    }
}

/* table 6-5: page fault in a contributory's delivery comes serially; page fault in a page fault's is double
 */
static void double_fault_page(void **state)
{
    (void)state;
    for (unsigned first_is_pf = 0; first_is_pf < 2; first_is_pf++) {
        fake_long(3);
        put_gate64(EXC_GP, SEL_CODE64, HANDLER, 0x8e, 0);
        put_gate64(EXC_PF, SEL_CODE64, HANDLER + EXC_PF, 0x8e, first_is_pf ? 0 : 1);
        put_gate64(EXC_DF, SEL_CODE64, HANDLER + EXC_DF, 0x8e, 1);
        fake->prot[(A_STACK0 - 1) >> 12] = PAGE_ABSENT;
        raise_error(first_is_pf ? EXC_PF : EXC_GP, 0);
        c()->exc.cr2 = 0x1000;
        assert_int_equal(sys_deliver_exception(c()), STEP_NEXT);
        assert_int_equal(c()->rip, HANDLER + (first_is_pf ? EXC_DF : EXC_PF));
        assert_int_equal(c()->cr2, A_STACK0 - 8);
    }
}

/* 6.15: any fault in the delivery of #DF shuts the processor down */
static void triple_fault(void **state)
{
    (void)state;
    fake_long(0);
    raise_error(EXC_GP, 0);
    assert_int_equal(sys_deliver_exception(c()), STEP_SHUTDOWN);
    assert_int_equal(c()->exc.pending, 0);
    assert_int_equal(c()->rip, A_CODE);
    c()->idt.limit = 0;
    assert_int_equal(sys_deliver_interrupt(c(), 0x30), STEP_SHUTDOWN);
}

/* ---- IRET in long mode: volume 2, IRET; 6.14.3 ---- */

static void push_iret(uint64_t rip, uint64_t cs, uint64_t flags, uint64_t rsp, uint64_t ss)
{
    put64(A_STACK - 40, rip);
    put64(A_STACK - 32, cs);
    put64(A_STACK - 24, flags);
    put64(A_STACK - 16, rsp);
    put64(A_STACK - 8, ss);
    c()->gpr[R_SP] = A_STACK - 40;
}

static void iret_to_user(void **state)
{
    (void)state;
    fake_long(0);
    c()->nmi_masked = 1;
    c()->seg[S_FS] = (struct x86_segment){ .base = 0x7f0012345000 }; /* null with a base */
    push_iret(0x7fff00001000, SEL_UCODE64 | 3, FL_IF | FL_ZF | FL_AC | FL_RF | FL_VM, A_USTACK - 5,
              SEL_UDATA | 3);
    assert_int_equal(sys_iret(c(), 8), STEP_NEXT);
    assert_true(c()->rip == 0x7fff00001000);
    assert_int_equal(c()->cpl, 3);
    assert_int_equal(c()->code_bits, 64);
    assert_int_equal(c()->mmu_idx, MMU_U);
    assert_int_equal(c()->gpr[R_SP], A_USTACK - 5);
    assert_int_equal(cpu_rflags(c()), FL_1 | FL_IF | FL_ZF | FL_AC | FL_RF); /* VM cannot be set here */
    assert_int_equal(c()->nmi_masked, 0);
    assert_int_equal(c()->seg[S_DS].sel, 0); /* level 0 data is gone */
    assert_int_equal(c()->seg[S_DS].attr, 0);
    assert_true(c()->seg[S_FS].base == 0x7f0012345000);
}

static void iret_same_level(void **state)
{
    (void)state;
    fake_long(0);
    push_iret(A_CODE + 8, SEL_CODE64, FL_IOPL, A_STACK - 0x100, 0); /* null SS at level 0 is legal */
    assert_int_equal(sys_iret(c(), 8), STEP_NEXT);
    assert_int_equal(c()->gpr[R_SP], A_STACK - 0x100);
    assert_int_equal(c()->cpl, 0);
    assert_int_equal(c()->seg[S_SS].attr & SEG_P, 0);
    assert_int_equal(cpu_rflags(c()), FL_1 | FL_IOPL);
    assert_int_equal(c()->seg[S_DS].sel, SEL_DATA0);
}

/* To compatibility code: 32-bit stack pointer */
static void iret_to_compat(void **state)
{
    (void)state;
    fake_long(0);
    push_iret(0x1000, SEL_UCODE32 | 3, 0, 0x1234567800002000ull, SEL_UDATA | 3);
    assert_int_equal(sys_iret(c(), 8), STEP_NEXT);
    assert_int_equal(c()->code_bits, 32);
    assert_int_equal(c()->gpr[R_SP], 0x2000);
}

static void iret_faults(void **state)
{
    static const struct {
        uint64_t rip, cs, ss;
        unsigned vector;
        uint32_t error;
    } cases[] = {
        { 0x8000000000000000ull, SEL_UCODE64 | 3, SEL_UDATA | 3, EXC_GP, 0 },
        { 0, 0, SEL_UDATA | 3, EXC_GP, 0 },
        { 0, SEL_UCODE64 | 3, 3, EXC_GP, 0 },                     /* null SS for level 3 */
        { 0, SEL_UCODE64, SEL_DATA0, EXC_GP, SEL_UCODE64 },       /* RPL is not DPL */
        { 0, SEL_UDATA | 3, SEL_UDATA | 3, EXC_GP, SEL_UDATA },   /* not code */
        { 0, SEL_UCODE64 | 3, SEL_DATA0 | 3, EXC_GP, SEL_DATA0 }, /* SS of another level */
        { 0, SEL_UCODE64 | 3, SEL_UDATA, EXC_GP, SEL_UDATA },     /* SS's RPL */
        { 0, SEL_CODE64, SEL_ABSENT, EXC_SS, SEL_ABSENT },
        { 0, SEL_CODE64, SEL_ROM0, EXC_GP, SEL_ROM0 },
        { 0, 0x108, SEL_DATA0, EXC_GP, 0x108 },
        { 0x100000000ull, SEL_UCODE32 | 3, SEL_UDATA | 3, EXC_GP, 0 }, /* past the limit */
    };

    (void)state;
    for (unsigned i = 0; i < array_size(cases); i++) {
        fake_long(0);
        push_iret(cases[i].rip, cases[i].cs, 0, A_USTACK, cases[i].ss);
        assert_int_equal(sys_iret(c(), 8), STEP_FAULT);
        expect_exception(cases[i].vector, cases[i].error);
        assert_int_equal(c()->gpr[R_SP], A_STACK - 40);
        assert_int_equal(c()->rip, A_CODE);
        assert_int_equal(c()->cpl, 0);
        assert_true(c()->rflags & FL_IF);
    }
    fake_long(0);
    c()->rflags |= FL_NT;
    assert_int_equal(sys_iret(c(), 8), STEP_FAULT); /* no tasks in long mode */
    expect_exception(EXC_GP, 0);
    fake_long(3);
    c()->gpr[R_SP] = 0x8000000000000000ull;
    assert_int_equal(sys_iret(c(), 8), STEP_FAULT);
    expect_exception(EXC_SS, 0);
}

/* volume 2, IRET: at level 3 with IOPL 0 neither IF nor IOPL change; opsize 2 leaves the upper flags */
static void iret_flags_level3(void **state)
{
    (void)state;
    fake_long(3);
    put64(A_USTACK - 40, A_CODE + 4);
    put64(A_USTACK - 32, SEL_UCODE64 | 3);
    put64(A_USTACK - 24, FL_IOPL | FL_DF | FL_OF);
    put64(A_USTACK - 16, A_USTACK);
    put64(A_USTACK - 8, SEL_UDATA | 3);
    c()->gpr[R_SP] = A_USTACK - 40;
    assert_int_equal(sys_iret(c(), 8), STEP_NEXT);
    assert_int_equal(cpu_rflags(c()), FL_1 | FL_IF | FL_DF | FL_OF);
}

/* ---- legacy protected mode: 6.12 ---- */

static void legacy_inner_and_back(void **state)
{
    (void)state;
    fake_protected(3);
    put_gate(0x30, SEL_CODE32, HANDLER, 0x8e);
    put_gate(EXC_GP, SEL_CODE32, HANDLER, 0x8e);
    assert_int_equal(sys_deliver_interrupt(c(), 0x30), STEP_NEXT);
    assert_int_equal(c()->cpl, 0);
    assert_int_equal(c()->rip, HANDLER);
    assert_int_equal(c()->seg[S_SS].sel, SEL_DATA0);
    assert_int_equal(c()->gpr[R_SP], A_STACK0 - 20);
    assert_int_equal(get32(A_STACK0 - 20), A_CODE);
    assert_int_equal(get32(A_STACK0 - 16), SEL_UCODE32 | 3);
    assert_int_equal(get32(A_STACK0 - 12), FL_1 | FL_IF);
    assert_int_equal(get32(A_STACK0 - 8), A_USTACK);
    assert_int_equal(get32(A_STACK0 - 4), SEL_UDATA | 3);
    assert_int_equal(c()->seg[S_DS].sel, SEL_UDATA | 3); /* data segments stay */
    assert_int_equal(sys_iret(c(), 4), STEP_NEXT);
    assert_int_equal(c()->cpl, 3);
    assert_int_equal(c()->rip, A_CODE);
    assert_int_equal(c()->gpr[R_SP], A_USTACK);
    assert_int_equal(cpu_rflags(c()), FL_1 | FL_IF);
    raise_error(EXC_GP, 0x55);
    assert_int_equal(sys_deliver_exception(c()), STEP_NEXT);
    assert_int_equal(c()->gpr[R_SP], A_STACK0 - 24);
    assert_int_equal(get32(A_STACK0 - 24), 0x55);
}

/* A 16-bit interrupt gate pushes words: 6.12.1 */
static void legacy_gate16(void **state)
{
    (void)state;
    fake_protected(0);
    put_gate(0x30, SEL_CODE32, 0xffff5678, 0x86);
    assert_int_equal(sys_deliver_interrupt(c(), 0x30), STEP_NEXT);
    assert_int_equal(c()->rip, 0x5678);
    assert_int_equal(c()->gpr[R_SP], A_STACK - 6);
    assert_int_equal(get16(A_STACK - 6), A_CODE & 0xffff);
    assert_int_equal(get16(A_STACK - 4), SEL_CODE32);
    assert_int_equal(get16(A_STACK - 2), FL_1 | FL_IF);
}

/* 6.12.1, 5.8.5: defects of the TSS's stack are #TS with the stack selector, absence and overflow #SS */
static void legacy_stack_faults(void **state)
{
    static const struct {
        uint16_t ss;
        uint32_t esp;
        unsigned vector;
        uint32_t error;
    } cases[] = {
        { 0, A_STACK0, EXC_TS, 0 },
        { SEL_DATA1, A_STACK0, EXC_TS, SEL_DATA1 },
        { SEL_UDATA, A_STACK0, EXC_TS, SEL_UDATA },
        { SEL_ROM0, A_STACK0, EXC_TS, SEL_ROM0 },
        { 0x108, A_STACK0, EXC_TS, 0x108 },
        { SEL_ABSENT, A_STACK0, EXC_SS, SEL_ABSENT },
    };

    (void)state;
    for (unsigned i = 0; i < array_size(cases); i++) {
        fake_protected(3);
        put_gate(0x30, SEL_CODE32, HANDLER, 0xee);
        put16(A_TSS + 8, cases[i].ss);
        assert_int_equal(sys_soft_interrupt(c(), 0x30, 2, true), STEP_FAULT);
        expect_exception(cases[i].vector, cases[i].error);
        assert_int_equal(c()->gpr[R_SP], A_USTACK);
    }
    fake_protected(3);
    put_gate(0x30, SEL_CODE32, HANDLER, 0xee);
    c()->seg[S_TR].limit = 8; /* SS0 is not all inside */
    assert_int_equal(sys_soft_interrupt(c(), 0x30, 2, true), STEP_FAULT);
    expect_exception(EXC_TS, SEL_TSS);
    fake_protected(3);
    put_gate(0x30, SEL_CODE32, HANDLER, 0xee);
    put_desc(A_GDT + SEL_DATA0, 0, 0xfff, 0x93, 0x4);
    put32(A_TSS + 4, 0x1008); /* the frame does not fit below the limit */
    assert_int_equal(sys_soft_interrupt(c(), 0x30, 2, true), STEP_FAULT);
    expect_exception(EXC_SS, SEL_DATA0);
}

/* 21.3.1.1 and back: a v86 task is interrupted with all its segments on the stack */
static void v86_interrupt(void **state)
{
    (void)state;
    fake_v86();
    put_gate(0x30, SEL_CODE32, HANDLER, 0x8e);
    assert_int_equal(sys_deliver_interrupt(c(), 0x30), STEP_NEXT);
    assert_int_equal(c()->cpl, 0);
    assert_int_equal(c()->code_bits, 32);
    assert_int_equal(c()->gpr[R_SP], A_STACK0 - 36);
    assert_int_equal(get32(A_STACK0 - 36), 0x1234);
    assert_int_equal(get32(A_STACK0 - 32), 0x10 * S_CS);
    assert_true(get32(A_STACK0 - 28) & FL_VM);
    assert_int_equal(get32(A_STACK0 - 24), 0x8000);
    assert_int_equal(get32(A_STACK0 - 20), 0x10 * S_SS);
    assert_int_equal(get32(A_STACK0 - 16), 0x10 * S_ES);
    assert_int_equal(get32(A_STACK0 - 12), 0x10 * S_DS);
    assert_int_equal(get32(A_STACK0 - 8), 0x10 * S_FS);
    assert_int_equal(get32(A_STACK0 - 4), 0x10 * S_GS);
    assert_int_equal(c()->seg[S_GS].attr, 0);
    assert_int_equal(sys_iret(c(), 4), STEP_NEXT);
    assert_true(cpu_v86(c()));
    assert_int_equal(c()->cpl, 3);
    assert_int_equal(c()->code_bits, 16);
    assert_int_equal(c()->rip, 0x1234);
    assert_int_equal(c()->gpr[R_SP], 0x8000);
    for (unsigned i = 0; i <= S_GS; i++) {
        assert_int_equal(c()->seg[i].sel, 0x10 * i);
        assert_int_equal(c()->seg[i].base, 0x100 * i);
    }
    put_desc(A_GDT + SEL_CODE32, 0, 0xfffff, 0xfb, 0xc);
    put_gate(0x30, SEL_CODE32, HANDLER, 0xee);
    assert_int_equal(sys_soft_interrupt(c(), 0x30, 2, true), STEP_FAULT); /* only to level 0 */
    expect_exception(EXC_GP, SEL_CODE32);
    c()->rflags &= ~FL_IOPL; /* 21.2.7: INT n and IRET are sensitive to IOPL */
    assert_int_equal(sys_soft_interrupt(c(), 0x30, 2, true), STEP_FAULT);
    expect_exception(EXC_GP, 0);
    assert_int_equal(sys_iret(c(), 2), STEP_FAULT);
    expect_exception(EXC_GP, 0);
}

/* ---- real mode: 21.1.4 ---- */

static void real_mode(void **state)
{
    (void)state;
    fake_real();
    put16(0x21 * 4, 0x5678);
    put16(0x21 * 4 + 2, 0x0900);
    c()->rflags |= FL_TF | FL_AC;
    assert_int_equal(sys_soft_interrupt(c(), 0x21, 2, true), STEP_NEXT);
    assert_int_equal(c()->rip, 0x5678);
    assert_int_equal(c()->seg[S_CS].base, 0x9000);
    assert_int_equal(c()->gpr[R_SP], 0x7ffa);
    assert_int_equal(get16(0x7ffa), 0x1236);
    assert_int_equal(get16(0x7ffc), 0);
    assert_int_equal(get16(0x7ffe), FL_1 | FL_IF | FL_TF);
    assert_int_equal(c()->rflags, FL_1);
    assert_int_equal(sys_iret(c(), 2), STEP_NEXT);
    assert_int_equal(c()->rip, 0x1236);
    assert_int_equal(c()->seg[S_CS].base, 0);
    assert_int_equal(c()->rflags, FL_1 | FL_IF | FL_TF);
    assert_int_equal(c()->gpr[R_SP], 0x8000);
    /* an exception pushes no error code */
    put16(EXC_GP * 4, 0x100);
    raise_error(EXC_GP, 0);
    assert_int_equal(sys_deliver_exception(c()), STEP_NEXT);
    assert_int_equal(c()->gpr[R_SP], 0x7ffa);
    /* the vector table's limit */
    c()->idt.limit = 0x1f;
    cpu_raise(c(), EXC_UD);
    c()->rip = 0;
    assert_int_equal(sys_deliver_exception(c()), STEP_NEXT);
    c()->gpr[R_SP] = 1; /* a push across the segment's end */
    assert_int_equal(sys_soft_interrupt(c(), 2, 2, true), STEP_FAULT);
    assert_int_equal(c()->exc.vector, EXC_SS);
}

#define T(f) cmocka_unit_test_setup_teardown(f, fake_setup, fake_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(long_same_level),
        T(long_inner),
        T(long_ist),
        T(long_trap_gate),
        T(long_page_fault),
        T(long_gate_faults),
        T(long_soft),
        T(long_stack_fault),
        T(double_fault_classes),
        T(double_fault_page),
        T(triple_fault),
        T(iret_to_user),
        T(iret_same_level),
        T(iret_to_compat),
        T(iret_faults),
        T(iret_flags_level3),
        T(legacy_inner_and_back),
        T(legacy_gate16),
        T(legacy_stack_faults),
        T(v86_interrupt),
        T(real_mode),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
