/* Segment loads, far transfers, system calls, tasks. Sections are of the Intel SDM volume 3 (2023-12) unless
 * volume 2 (an instruction's page) or the AMD APM is named. */
#include "test_sys_fake.h"

static struct tcpu *c(void)
{
    return fake->c;
}

/* ---- loads: volume 2, MOV; 5.6, 5.7 ---- */

static void load_faults(void **state)
{
    static const struct {
        unsigned cpl, seg;
        uint16_t sel;
        unsigned vector;
        uint32_t error;
    } cases[] = {
        { 3, S_SS, 0, EXC_GP, 0 },                     /* null stack at level 3 */
        { 0, S_SS, 1, EXC_GP, 0 },                     /* null with another RPL */
        { 0, S_SS, SEL_UDATA, EXC_GP, SEL_UDATA },     /* DPL is not CPL */
        { 0, S_SS, SEL_DATA0 | 3, EXC_GP, SEL_DATA0 }, /* RPL is not CPL */
        { 0, S_SS, SEL_ROM0, EXC_GP, SEL_ROM0 },       /* not writable */
        { 0, S_SS, SEL_CODE64, EXC_GP, SEL_CODE64 },
        { 0, S_SS, SEL_ABSENT, EXC_SS, SEL_ABSENT },
        { 0, S_DS, SEL_ABSENT, EXC_NP, SEL_ABSENT },
        { 0, S_DS, SEL_XONLY, EXC_GP, SEL_XONLY },     /* code that cannot be read */
        { 0, S_DS, SEL_TSS, EXC_GP, SEL_TSS },         /* a system descriptor */
        { 0, S_DS, 0x108, EXC_GP, 0x108 },             /* past the limit */
        { 0, S_ES, 0x0c, EXC_GP, 0x0c },               /* no LDT */
        { 3, S_ES, SEL_DATA0, EXC_GP, SEL_DATA0 },     /* CPL above DPL */
        { 0, S_FS, SEL_DATA0 | 3, EXC_GP, SEL_DATA0 }, /* RPL above DPL */
        { 0, S_CS, SEL_CODE64, EXC_UD, 0 },
    };

    (void)state;
    for (unsigned i = 0; i < array_size(cases); i++) {
        fake_long(cases[i].cpl);
        assert_false(sys_load_seg(c(), cases[i].seg, cases[i].sel));
        expect_exception(cases[i].vector, cases[i].vector == EXC_UD ? -1 : (int64_t)cases[i].error);
        assert_int_equal(c()->int_shadow, 0);
    }
}

static void load_good(void **state)
{
    (void)state;
    fake_long(3);
    fake->prot[A_GDT >> 12] = PAGE_SYSTEM; /* tables are read and written with the system's rights */
    assert_true(sys_load_seg(c(), S_DS, SEL_UDATA_BIG | 3));
    assert_int_equal(c()->seg[S_DS].limit, 0xffffffff);
    assert_int_equal(c()->seg[S_DS].attr, 0xc0f3);
    assert_int_equal(get32(A_GDT + SEL_UDATA_BIG + 4) >> 8 & 0xff, 0xf3); /* 3.4.5.1: accessed */
    assert_int_equal(c()->mmu_idx, MMU_U);
    assert_true(sys_load_seg(c(), S_ES, SEL_CONFORM)); /* conforming code at any level */
    assert_true(sys_load_seg(c(), S_GS, 3));
    assert_int_equal(c()->seg[S_GS].attr, 0);
    assert_int_equal(c()->seg[S_GS].sel, 3);
    assert_true(sys_load_seg(c(), S_SS, SEL_UDATA | 3));
    assert_int_equal(c()->int_shadow, 2); /* 6.8.3 */
    fake_long(0);
    assert_true(sys_load_seg(c(), S_SS, 0)); /* null in 64-bit mode at level 0 */
    assert_int_equal(c()->cpl, 0);
    fake_compat(0);
    assert_false(sys_load_seg(c(), S_SS, 0)); /* but not in compatibility mode */
    expect_exception(EXC_GP, 0);
}

static void load_fs_ldt(void **state)
{
    (void)state;
    fake_long(0);
    assert_true(sys_lldt(c(), SEL_LDT));
    assert_int_equal(c()->seg[S_LDTR].base, A_LDT);
    assert_true(sys_load_seg(c(), S_FS, 0xc | 3));
    assert_int_equal(c()->seg[S_FS].base, 0x7000);
    assert_int_equal(c()->seg_base_fs, 0x7000);
    assert_int_equal(c()->seg[S_FS].limit, 0xfff);
    assert_false(sys_load_seg(c(), S_FS, 0x24)); /* past the LDT's limit */
    expect_exception(EXC_GP, 0x24);
}

static void load_real(void **state)
{
    (void)state;
    fake_real();
    c()->seg[S_DS].limit = 0xffffffff; /* 10.9.2: a limit from protected mode stays */
    assert_true(sys_load_seg(c(), S_DS, 0x1234));
    assert_int_equal(c()->seg[S_DS].base, 0x12340);
    assert_int_equal(c()->seg[S_DS].limit, 0xffffffff);
    fake_v86();
    assert_true(sys_load_seg(c(), S_DS, 0x1234));
    assert_int_equal(c()->seg[S_DS].base, 0x12340);
    assert_int_equal(c()->seg[S_DS].limit, 0xffff);
}

/* volume 2, LTR and LLDT; 8.2.3: 16 bytes in long mode */
static void system_segments(void **state)
{
    (void)state;
    fake_long(0);
    put32(A_GDT + SEL_TSS + 8, 0xffff8000);
    assert_true(sys_ltr(c(), SEL_TSS));
    assert_true(c()->seg[S_TR].base == (0xffff800000000000ull | A_TSS));
    assert_int_equal(get32(A_GDT + SEL_TSS + 4) >> 8 & 0xff, 0x8b); /* busy */
    assert_int_equal(c()->seg[S_TR].attr, 0x8b);
    assert_false(sys_ltr(c(), SEL_TSS)); /* busy already */
    expect_exception(EXC_GP, SEL_TSS);
    put_desc(A_GDT + SEL_TSS, A_TSS, 0xff, 0x89, 0);
    put32(A_GDT + SEL_TSS + 8, 0x8000);
    assert_false(sys_ltr(c(), SEL_TSS)); /* base not canonical */
    expect_exception(EXC_GP, SEL_TSS);
    put32(A_GDT + SEL_TSS + 8, 0);
    put32(A_GDT + SEL_TSS + 12, 0x100);
    assert_false(sys_ltr(c(), SEL_TSS)); /* type of the second half */
    expect_exception(EXC_GP, SEL_TSS);
    assert_false(sys_ltr(c(), 0));
    expect_exception(EXC_GP, 0);
    assert_false(sys_lldt(c(), SEL_TSS));
    expect_exception(EXC_GP, SEL_TSS);
    assert_true(sys_lldt(c(), 0));
    assert_int_equal(c()->seg[S_LDTR].attr & SEG_P, 0);
    put_desc(A_GDT + SEL_LDT, A_LDT, 0x1f, 0x02, 0);
    assert_false(sys_lldt(c(), SEL_LDT));
    expect_exception(EXC_NP, SEL_LDT);
    fake_long(3);
    assert_false(sys_lldt(c(), SEL_LDT));
    expect_exception(EXC_GP, 0);
    fake_real();
    assert_false(sys_ltr(c(), SEL_TSS));
    expect_exception(EXC_UD, -1);
}

/* volume 2, LAR LSL VERR VERW; 5.10 */
static void queries(void **state)
{
    uint32_t v = 0;
    bool zf;

    (void)state;
    fake_long(3);
    assert_true(sys_lar(c(), SEL_UDATA | 3, &v, &zf));
    assert_true(zf);
    assert_int_equal(v, 0x00cff300);
    assert_true(sys_lsl(c(), SEL_UDATA | 3, &v, &zf));
    assert_true(zf);
    assert_int_equal(v, 0xffffffff);
    assert_true(sys_lar(c(), SEL_DATA0, &v, &zf)); /* not visible from level 3 */
    assert_false(zf);
    assert_true(sys_lar(c(), 0, &v, &zf));
    assert_false(zf);
    assert_true(sys_lar(c(), 0x108, &v, &zf)); /* outside the table is no fault */
    assert_false(zf);
    assert_int_equal(c()->exc.pending, 0);
    assert_true(sys_verify(c(), SEL_UCODE64 | 3, false, &zf));
    assert_true(zf);
    assert_true(sys_verify(c(), SEL_UCODE64 | 3, true, &zf));
    assert_false(zf);
    assert_true(sys_verify(c(), SEL_UDATA | 3, true, &zf));
    assert_true(zf);
    fake_long(0);
    assert_true(sys_verify(c(), SEL_XONLY, false, &zf));
    assert_false(zf);
    assert_true(sys_lsl(c(), SEL_TSS, &v, &zf));
    assert_true(zf);
    assert_int_equal(v, 0xff);
    put_desc(A_GDT + SEL_GATE, 0, 0, 0x8e, 0); /* an interrupt gate has neither */
    assert_true(sys_lar(c(), SEL_GATE, &v, &zf));
    assert_false(zf);
    fake_real();
    assert_false(sys_lar(c(), SEL_UDATA, &v, &zf));
    expect_exception(EXC_UD, -1);
}

/* ---- far transfers ---- */

/* volume 2, JMP and CALL; 5.8.1 */
static void far_jump_checks(void **state)
{
    static const struct {
        unsigned cpl;
        uint16_t sel;
        uint64_t off;
        unsigned vector;
        uint32_t error;
    } cases[] = {
        { 0, 0, 0, EXC_GP, 0 },
        { 0, SEL_DATA0, 0, EXC_GP, SEL_DATA0 },
        { 0, SEL_UCODE64, 0, EXC_GP, SEL_UCODE64 },
        { 3, SEL_CODE64, 0, EXC_GP, SEL_CODE64 },
        { 0, SEL_CODE64 | 3, 0, EXC_GP, SEL_CODE64 }, /* RPL above CPL */
        { 0, SEL_CODE64, 0x800000000000ull, EXC_GP, 0 },
        { 0, SEL_TSS, 0, EXC_GP, SEL_TSS }, /* no task switches in long mode */
        { 0, SEL_CODE16, 0x10000, EXC_GP, 0 },
    };

    (void)state;
    for (unsigned i = 0; i < array_size(cases); i++) {
        fake_long(cases[i].cpl);
        assert_int_equal(sys_far_jump(c(), cases[i].sel, cases[i].off, 8), STEP_FAULT);
        expect_exception(cases[i].vector, cases[i].error);
        assert_int_equal(c()->rip, A_CODE);
    }
    fake_long(3);
    assert_int_equal(sys_far_jump(c(), SEL_CONFORM, 0x1000, 8), STEP_NEXT); /* conforming: level stays 3 */
    assert_int_equal(c()->cpl, 3);
    assert_int_equal(c()->seg[S_CS].sel, SEL_CONFORM | 3);
    fake_long(0);
    put_desc(A_GDT + SEL_CODE32, 0, 0xfffff, 0x1b, 0xc);
    assert_int_equal(sys_far_jump(c(), SEL_CODE32, 0, 4), STEP_FAULT);
    expect_exception(EXC_NP, SEL_CODE32);
    put_desc(A_GDT + SEL_CODE32, 0, 0xfffff, 0x9b, 0xe); /* L and D */
    assert_int_equal(sys_far_jump(c(), SEL_CODE32, 0, 4), STEP_FAULT);
    expect_exception(EXC_GP, SEL_CODE32);
}

static void far_call_and_back(void **state)
{
    (void)state;
    fake_long(0);
    assert_int_equal(sys_far_call(c(), SEL_CODE32, 0xffffffff00002000ull, 4, A_CODE + 7), STEP_NEXT);
    assert_int_equal(c()->code_bits, 32);
    assert_int_equal(c()->rip, 0x2000);
    assert_int_equal(c()->gpr[R_SP], A_STACK - 8);
    assert_int_equal(get32(A_STACK - 8), A_CODE + 7);
    assert_int_equal(get32(A_STACK - 4), SEL_CODE64);
    assert_int_equal(sys_far_ret(c(), 4, 0), STEP_NEXT);
    assert_int_equal(c()->code_bits, 64);
    assert_int_equal(c()->rip, A_CODE + 7);
    assert_int_equal(c()->gpr[R_SP], A_STACK);
    c()->gpr[R_SP] = A_STACK - 16;
    put64(A_STACK - 16, 0x1000);
    put64(A_STACK - 8, SEL_DATA0);
    assert_int_equal(sys_far_ret(c(), 8, 0), STEP_FAULT);
    expect_exception(EXC_GP, SEL_DATA0);
}

/* volume 2, RET: to an outer level with parameters on both stacks */
static void far_ret_outer(void **state)
{
    (void)state;
    fake_protected(0);
    put32(A_STACK - 32, 0x4000);
    put32(A_STACK - 28, SEL_UCODE32 | 3);
    put32(A_STACK - 16, A_USTACK - 0x20); /* behind 8 bytes of parameters */
    put32(A_STACK - 12, SEL_UDATA | 3);
    c()->gpr[R_SP] = A_STACK - 32;
    assert_int_equal(sys_far_ret(c(), 4, 8), STEP_NEXT);
    assert_int_equal(c()->cpl, 3);
    assert_int_equal(c()->rip, 0x4000);
    assert_int_equal(c()->gpr[R_SP], A_USTACK - 0x18);
    assert_int_equal(c()->seg[S_DS].attr, 0);
}

/* 5.8.3.1, 5.8.5.1: a call gate of long mode, from level 3 to 0 and back */
static void call_gate64(void **state)
{
    (void)state;
    fake_long(3);
    put32(A_GDT + SEL_GATE, 0x5000 | (uint32_t)SEL_CODE64 << 16);
    put32(A_GDT + SEL_GATE + 4, 0x0001ec00);
    put64(A_GDT + SEL_GATE + 8, 0xffff8000);
    assert_int_equal(sys_far_call(c(), SEL_GATE | 3, 0x9999, 4, A_CODE + 7), STEP_NEXT);
    assert_true(c()->rip == 0xffff800000015000ull);
    assert_int_equal(c()->cpl, 0);
    assert_int_equal(c()->seg[S_SS].sel, 0);
    assert_int_equal(c()->gpr[R_SP], A_STACK0 - 32);
    assert_int_equal(get64(A_STACK0 - 32), A_CODE + 7);
    assert_int_equal(get64(A_STACK0 - 24), SEL_UCODE64 | 3);
    assert_int_equal(get64(A_STACK0 - 16), A_USTACK);
    assert_int_equal(get64(A_STACK0 - 8), SEL_UDATA | 3);
    assert_int_equal(sys_far_ret(c(), 8, 0), STEP_NEXT);
    assert_int_equal(c()->cpl, 3);
    assert_int_equal(c()->rip, A_CODE + 7);
    assert_int_equal(c()->gpr[R_SP], A_USTACK);
    put32(A_GDT + SEL_GATE + 4, 0x00018c00); /* gate's DPL 0 */
    assert_int_equal(sys_far_call(c(), SEL_GATE | 3, 0, 4, 0), STEP_FAULT);
    expect_exception(EXC_GP, SEL_GATE);
    put32(A_GDT + SEL_GATE + 4, 0x00016c00); /* not present */
    assert_int_equal(sys_far_call(c(), SEL_GATE | 3, 0, 4, 0), STEP_FAULT);
    expect_exception(EXC_NP, SEL_GATE);
    put32(A_GDT + SEL_GATE + 4, 0x0001ec00);
    put_desc(A_GDT + SEL_CODE64, 0, 0xfffff, 0x9b, 0xc); /* the target must be 64-bit code */
    assert_int_equal(sys_far_call(c(), SEL_GATE | 3, 0, 4, 0), STEP_FAULT);
    expect_exception(EXC_GP, SEL_CODE64);
}

/* 5.8.5: a 32-bit gate copies its parameters */
static void call_gate32(void **state)
{
    (void)state;
    fake_protected(3);
    put32(A_GDT + SEL_GATE, 0x5000 | (uint32_t)SEL_CODE32 << 16);
    put32(A_GDT + SEL_GATE + 4, 0x0001ec02);
    c()->gpr[R_SP] = A_USTACK - 8;
    put32(A_USTACK - 8, 0x11111111);
    put32(A_USTACK - 4, 0x22222222);
    assert_int_equal(sys_far_call(c(), SEL_GATE | 3, 0, 4, A_CODE + 7), STEP_NEXT);
    assert_int_equal(c()->rip, 0x15000);
    assert_int_equal(c()->gpr[R_SP], A_STACK0 - 24);
    assert_int_equal(get32(A_STACK0 - 24), A_CODE + 7);
    assert_int_equal(get32(A_STACK0 - 20), SEL_UCODE32 | 3);
    assert_int_equal(get32(A_STACK0 - 16), 0x11111111);
    assert_int_equal(get32(A_STACK0 - 12), 0x22222222);
    assert_int_equal(get32(A_STACK0 - 8), A_USTACK - 8);
    assert_int_equal(get32(A_STACK0 - 4), SEL_UDATA | 3);
    assert_int_equal(sys_far_ret(c(), 4, 8), STEP_NEXT);
    assert_int_equal(c()->gpr[R_SP], A_USTACK);
    assert_int_equal(c()->cpl, 3);
}

static void far_real(void **state)
{
    (void)state;
    fake_real();
    assert_int_equal(sys_far_call(c(), 0x200, 0x10, 2, 0x1239), STEP_NEXT);
    assert_int_equal(c()->seg[S_CS].base, 0x2000);
    assert_int_equal(c()->rip, 0x10);
    assert_int_equal(get16(0x7ffc), 0x1239);
    assert_int_equal(get16(0x7ffe), 0);
    assert_int_equal(sys_far_ret(c(), 2, 2), STEP_NEXT);
    assert_int_equal(c()->rip, 0x1239);
    assert_int_equal(c()->gpr[R_SP], 0x8002);
    assert_int_equal(sys_far_jump(c(), 0x100, 0x12345, 4), STEP_FAULT); /* past the 64 KiB limit */
    expect_exception(EXC_GP, 0);
    /* 10.9.1: into protected mode by a far jump */
    fake_protected(0);
    assert_int_equal(sys_far_jump(c(), SEL_CODE16, 0x100, 2), STEP_NEXT);
    assert_int_equal(c()->code_bits, 16);
    assert_true(sys_write_cr(c(), 0, CR0_ET));
    assert_int_equal(sys_far_jump(c(), 0x700, 0x20, 2), STEP_NEXT);
    assert_int_equal(c()->seg[S_CS].base, 0x7000);
}

/* ---- SYSCALL and the like ---- */

#define STAR ((uint64_t)(SEL_UCODE32 | 3) << 48 | (uint64_t)SEL_CODE64 << 32)

/* volume 2, SYSCALL and SYSRET, with the selectors that Linux lays out */
static void syscall64(void **state)
{
    (void)state;
    fake_long(3);
    c()->star = STAR;
    c()->lstar = 0xffffffff81000000ull;
    c()->fmask = FL_TF | FL_IF | FL_DF | FL_AC;
    cpu_set_rflags(c(), FL_1 | FL_IF | FL_AC | FL_DF | FL_CF | FL_RF);
    assert_int_equal(sys_syscall(c(), A_CODE + 2), STEP_NEXT);
    assert_true(c()->rip == 0xffffffff81000000ull);
    assert_int_equal(c()->gpr[R_CX], A_CODE + 2);
    assert_int_equal(c()->gpr[R_11], FL_1 | FL_IF | FL_AC | FL_DF | FL_CF);
    assert_int_equal(cpu_rflags(c()), FL_1 | FL_CF);
    assert_int_equal(c()->cpl, 0);
    assert_int_equal(c()->seg[S_CS].sel, SEL_CODE64);
    assert_int_equal(c()->seg[S_SS].sel, SEL_DATA0);
    assert_int_equal(c()->code_bits, 64);
    assert_int_equal(sys_sysret(c(), 8), STEP_NEXT);
    assert_int_equal(c()->rip, A_CODE + 2);
    assert_int_equal(c()->cpl, 3);
    assert_int_equal(c()->seg[S_CS].sel, SEL_UCODE64 | 3);
    assert_int_equal(c()->seg[S_SS].sel, SEL_UDATA | 3);
    assert_int_equal(cpu_rflags(c()), FL_1 | FL_IF | FL_AC | FL_DF | FL_CF);
    assert_int_equal(sys_sysret(c(), 8), STEP_FAULT); /* not at level 3 */
    expect_exception(EXC_GP, 0);
    fake_long(0);
    c()->star = STAR;
    c()->gpr[R_CX] = 0x1122334455667788;
    assert_int_equal(sys_sysret(c(), 4), STEP_NEXT); /* to compatibility mode */
    assert_int_equal(c()->code_bits, 32);
    assert_int_equal(c()->rip, 0x55667788);
    assert_int_equal(c()->seg[S_CS].sel, SEL_UCODE32 | 3);
    c()->efer &= ~(uint64_t)EFER_SCE;
    assert_int_equal(sys_syscall(c(), 0), STEP_FAULT);
    expect_exception(EXC_UD, -1);
}

/* volume 2, SYSRET; APM volume 3, SYSCALL and SYSENTER: where the vendors differ */
static void syscall_vendors(void **state)
{
    (void)state;
    for (unsigned amd = 0; amd < 2; amd++) {
        fake->model.is_amd = amd;
        fake_long(0);
        c()->star = STAR;
        c()->gpr[R_CX] = 0x800000000000ull;
        assert_int_equal(sys_sysret(c(), 8), amd ? STEP_NEXT : STEP_FAULT);
        if (!amd)
            expect_exception(EXC_GP, 0);
        fake_compat(3);
        c()->star = STAR;
        c()->cstar = 0x4444;
        assert_int_equal(sys_syscall(c(), 0x1002), amd ? STEP_NEXT : STEP_FAULT);
        if (amd)
            assert_int_equal(c()->rip, 0x4444);
        else
            expect_exception(EXC_UD, -1);
        fake_compat(3);
        c()->sysenter_cs = SEL_CODE64;
        c()->sysenter_eip = 0xffffffff82000000ull;
        c()->sysenter_esp = 0xffffc90000000000ull;
        assert_int_equal(sys_sysenter(c()), amd ? STEP_FAULT : STEP_NEXT);
        if (amd) {
            expect_exception(EXC_UD, -1);
            continue;
        }
        assert_true(c()->rip == 0xffffffff82000000ull);
        assert_true(c()->gpr[R_SP] == 0xffffc90000000000ull);
        assert_int_equal(c()->code_bits, 64);
        assert_int_equal(c()->cpl, 0);
        assert_int_equal(c()->rflags & FL_IF, 0);
        c()->gpr[R_DX] = 0x1000;
        c()->gpr[R_CX] = 0x2000;
        assert_int_equal(sys_sysexit(c(), 4), STEP_NEXT);
        assert_int_equal(c()->code_bits, 32);
        assert_int_equal(c()->cpl, 3);
        assert_int_equal(c()->seg[S_CS].sel, (SEL_CODE64 + 16) | 3);
        assert_int_equal(c()->gpr[R_SP], 0x2000);
    }
}

/* volume 2, SYSENTER in legacy mode: both vendors */
static void sysenter_legacy(void **state)
{
    (void)state;
    fake_protected(3);
    assert_int_equal(sys_sysenter(c()), STEP_FAULT); /* IA32_SYSENTER_CS is null */
    expect_exception(EXC_GP, 0);
    c()->sysenter_cs = SEL_CODE32;
    c()->sysenter_eip = 0x3000;
    c()->sysenter_esp = 0x4000;
    assert_int_equal(sys_sysenter(c()), STEP_NEXT);
    assert_int_equal(c()->rip, 0x3000);
    assert_int_equal(c()->code_bits, 32);
    assert_int_equal(sys_sysexit(c(), 4), STEP_NEXT);
    assert_int_equal(sys_sysexit(c(), 4), STEP_FAULT); /* only at level 0 */
    expect_exception(EXC_GP, 0);
}

static void swapgs(void **state)
{
    (void)state;
    fake_long(0);
    c()->seg[S_GS].base = 1;
    c()->kernel_gs_base = 0xffff888000000000ull;
    assert_true(sys_swapgs(c()));
    assert_true(c()->seg[S_GS].base == 0xffff888000000000ull && c()->seg_base_gs == c()->seg[S_GS].base);
    assert_int_equal(c()->kernel_gs_base, 1);
    fake_long(3);
    assert_false(sys_swapgs(c()));
    expect_exception(EXC_GP, 0);
}

/* ---- task switches: chapter 8 ---- */

/* A 32-bit TSS for a task at level 0 at 0x7777 with its own stack. */
static void make_tss2(uint32_t flags)
{
    put32(A_TSS2 + 28, 0);
    put32(A_TSS2 + 32, 0x7777);
    put32(A_TSS2 + 36, FL_1 | flags);
    for (unsigned i = 0; i < 8; i++)
        put32(A_TSS2 + 40 + 4 * i, 0x100 + i);
    put32(A_TSS2 + 40 + 4 * R_SP, 0xc000);
    put32(A_TSS2 + 72, SEL_DATA0);
    put32(A_TSS2 + 76, SEL_CODE32);
    put32(A_TSS2 + 80, SEL_DATA0);
    put32(A_TSS2 + 84, SEL_DATA0);
    put32(A_TSS2 + 88, 0);
    put32(A_TSS2 + 92, 0);
    put32(A_TSS2 + 96, SEL_LDT);
    put16(A_TSS2 + 100, 0);
}

static void task_state_checks(void)
{
    assert_int_equal(c()->rip, 0x7777);
    assert_int_equal(c()->gpr[R_BX], 0x100 + R_BX);
    assert_int_equal(c()->gpr[R_SP], 0xc000);
    assert_int_equal(c()->seg[S_TR].sel, SEL_TSS2);
    assert_int_equal(c()->seg[S_TR].base, A_TSS2);
    assert_int_equal(c()->seg[S_LDTR].base, A_LDT);
    assert_int_equal(c()->seg[S_FS].attr, 0);
    assert_true(c()->cr0 & CR0_TS);
}

/* table 8-2: CALL nests, IRET comes back */
static void task_call(void **state)
{
    (void)state;
    fake_protected(0);
    put_desc(A_GDT + SEL_TSS, A_TSS, 0xff, 0x8b, 0);
    make_tss2(0);
    c()->gpr[R_SI] = 0xabcd;
    assert_int_equal(sys_far_call(c(), SEL_TSS2, 0, 4, A_CODE + 7), STEP_NEXT);
    task_state_checks();
    assert_true(c()->rflags & FL_NT);
    assert_int_equal(get16(A_TSS2), SEL_TSS); /* link */
    assert_int_equal(get32(A_TSS + 32), A_CODE + 7);
    assert_int_equal(get32(A_TSS + 40 + 4 * R_SI), 0xabcd);
    assert_int_equal(get32(A_TSS + 76), SEL_CODE32);
    assert_int_equal(get32(A_GDT + SEL_TSS + 4) >> 8 & 0xff, 0x8b); /* both busy */
    assert_int_equal(get32(A_GDT + SEL_TSS2 + 4) >> 8 & 0xff, 0x8b);
    put16(0x7777, 0xcf66); /* 66 cf: IRET, two bytes long */
    assert_int_equal(sys_iret(c(), 2), STEP_NEXT);
    assert_int_equal(c()->rip, A_CODE + 7);
    assert_int_equal(c()->gpr[R_SI], 0xabcd);
    assert_int_equal(c()->gpr[R_SP], A_STACK);
    assert_int_equal(c()->rflags & FL_NT, 0);
    assert_int_equal(get32(A_TSS2 + 32), 0x7779);
    assert_int_equal(get32(A_TSS2 + 36) & FL_NT, 0);
    assert_int_equal(get32(A_GDT + SEL_TSS2 + 4) >> 8 & 0xff, 0x89);
    assert_int_equal(c()->seg[S_TR].sel, SEL_TSS);
}

/* JMP does not nest; the old task's EIP is behind the JMP */
static void task_jump(void **state)
{
    (void)state;
    fake_protected(0);
    put_desc(A_GDT + SEL_TSS, A_TSS, 0xff, 0x8b, 0);
    make_tss2(0);
    fake->ram[A_CODE] = 0xea; /* JMP ptr16:32, seven bytes */
    assert_int_equal(sys_far_jump(c(), SEL_TSS2, 0, 4), STEP_NEXT);
    task_state_checks();
    assert_int_equal(c()->rflags & FL_NT, 0);
    assert_int_equal(get32(A_TSS + 32), A_CODE + 7);
    assert_int_equal(get32(A_GDT + SEL_TSS + 4) >> 8 & 0xff, 0x89);
    assert_int_equal(sys_far_jump(c(), SEL_TSS2, 0, 4), STEP_FAULT); /* busy */
    expect_exception(EXC_GP, SEL_TSS2);
}

/* 6.12.2: a task gate in the IDT, error code on the new task's stack */
static void task_gate_event(void **state)
{
    (void)state;
    fake_protected(3);
    make_tss2(0);
    put_gate(EXC_DF, SEL_TSS2, 0, 0x85);
    cpu_raise_error(c(), EXC_DF, 0);
    assert_int_equal(sys_deliver_exception(c()), STEP_NEXT);
    assert_int_equal(c()->rip, 0x7777);
    assert_int_equal(c()->gpr[R_SP], 0xc000 - 4);
    assert_int_equal(get32(0xc000 - 4), 0);
    assert_int_equal(get32(A_TSS + 32), A_CODE);
    assert_int_equal(c()->cpl, 0);
}

/* 8.3: before the commit point the old task faults, after it the new one */
static void task_faults(void **state)
{
    (void)state;
    fake_protected(0);
    make_tss2(0);
    put_desc(A_GDT + SEL_TSS2, A_TSS2, 0x66, 0x89, 0); /* too short */
    assert_int_equal(sys_far_call(c(), SEL_TSS2, 0, 4, 0), STEP_FAULT);
    expect_exception(EXC_TS, SEL_TSS2);
    assert_int_equal(c()->rip, A_CODE);
    put_desc(A_GDT + SEL_TSS2, A_TSS2, 0xff, 0x09, 0);
    assert_int_equal(sys_far_call(c(), SEL_TSS2, 0, 4, 0), STEP_FAULT);
    expect_exception(EXC_NP, SEL_TSS2);
    put_desc(A_GDT + SEL_TSS2, A_TSS2, 0xff, 0x89, 0);
    put32(A_TSS2 + 80, SEL_UDATA); /* stack of another level */
    assert_int_equal(sys_far_call(c(), SEL_TSS2, 0, 4, 0), STEP_FAULT);
    expect_exception(EXC_TS, SEL_UDATA);
    assert_int_equal(c()->rip, 0x7777);
    assert_int_equal(c()->seg[S_TR].sel, SEL_TSS2);
    fake_protected(0);
    make_tss2(0);
    put16(A_TSS2 + 100, 1); /* the T flag: #DB in the new task, 18.3.1.5 */
    assert_int_equal(sys_far_call(c(), SEL_TSS2, 0, 4, 0), STEP_FAULT);
    assert_int_equal(c()->exc.dr6, 0x8000);
    expect_exception(EXC_DB, -1);
    task_state_checks();
}

/* 8.6: from a 32-bit task to a 16-bit one */
static void task_16(void **state)
{
    (void)state;
    fake_protected(0);
    put_desc(A_GDT + SEL_TSS2, A_TSS2, 0x2b, 0x81, 0);
    put16(A_TSS2 + 14, 0x4321);
    put16(A_TSS2 + 16, FL_1 | FL_IF);
    put16(A_TSS2 + 18 + 2 * R_SP, 0xc000);
    put16(A_TSS2 + 34, SEL_DATA0);
    put16(A_TSS2 + 36, SEL_CODE16);
    put16(A_TSS2 + 38, SEL_DATA0);
    put16(A_TSS2 + 40, SEL_DATA0);
    put16(A_TSS2 + 42, 0);
    assert_int_equal(sys_far_call(c(), SEL_TSS2, 0, 4, A_CODE + 7), STEP_NEXT);
    assert_int_equal(c()->rip, 0x4321);
    assert_int_equal(c()->code_bits, 16);
    assert_int_equal(c()->gpr[R_SP] & 0xffff, 0xc000);
    assert_true(c()->rflags & FL_IF);
}

#define T(f) cmocka_unit_test_setup_teardown(f, fake_setup, fake_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(load_faults), T(load_good),       T(load_fs_ldt),       T(load_real),       T(system_segments),
        T(queries),     T(far_jump_checks), T(far_call_and_back), T(far_ret_outer),   T(call_gate64),
        T(call_gate32), T(far_real),        T(syscall64),         T(syscall_vendors), T(sysenter_legacy),
        T(swapgs),      T(task_call),       T(task_jump),         T(task_gate_event), T(task_faults),
        T(task_16),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
