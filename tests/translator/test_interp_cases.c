/* Hand-made cases of the general path: what user code on a 64-bit host cannot show. 16-bit code,
 * segmentation, privilege, decoder limits, system instructions, ports. Expected values from the manuals. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "test_interp_fixture.h"

/* ---- 16-bit code ---- */

static void real_stack_is_16_bits_wide(void **state)
{
    struct fixture *f = fix(state, 16, 0);
    f->c->seg[S_SS].base = 0x4000;
    f->c->gpr[R_SP] = 0xabcd0000;
    f->c->gpr[R_AX] = 0x1234;
    assert_int_equal(STEP(f, 0x50), STEP_NEXT); /* push ax: SP wraps, upper half stays */
    assert_int_equal(f->c->gpr[R_SP], 0xabcdfffe);
    assert_int_equal(peek(f, 0x4000 + 0xfffe, 2), 0x1234);
    assert_int_equal(f->c->rip, 0x1001);
    assert_int_equal(STEP(f, 0x66, 0x5b), STEP_FAULT); /* pop ebx: 4 bytes from fffe leave the segment */
    faulted(f, STEP_FAULT, EXC_SS, 0x1001);
    assert_int_equal(f->c->gpr[R_SP], 0xabcdfffe);
    assert_int_equal(STEP(f, 0x5b), STEP_NEXT);
    assert_int_equal(f->c->gpr[R_SP], 0xabcd0000);
    assert_int_equal(f->c->gpr[R_BX], 0x1234);
    f->c->gpr[R_SP] = 1;
    FAULT(f, EXC_SS, 0x50);
}

static void real_addresses(void **state)
{
    struct fixture *f = fix(state, 16, 0);
    f->c->seg[S_DS].base = 0x2000;
    f->c->seg[S_SS].base = 0x3000;
    f->c->seg[S_ES].base = 0x5000;
    f->c->gpr[R_BX] = 0xff0;
    f->c->gpr[R_SI] = 0x20;
    f->c->gpr[R_BP] = 0x100;
    poke(f, 0x2000 + 0x1010, 0x1111, 2);
    poke(f, 0x3000 + 0xfe, 0x2222, 2);
    poke(f, 0x5000 + 0x1010, 0x3333, 2);
    assert_int_equal(STEP(f, 0x8b, 0x00), STEP_NEXT); /* mov ax,[bx+si] */
    assert_int_equal(f->c->gpr[R_AX], 0x1111);
    assert_int_equal(STEP(f, 0x8b, 0x46, 0xfe), STEP_NEXT); /* mov ax,[bp-2]: SS */
    assert_int_equal(f->c->gpr[R_AX], 0x2222);
    assert_int_equal(STEP(f, 0x26, 0x8b, 0x00), STEP_NEXT); /* es: */
    assert_int_equal(f->c->gpr[R_AX], 0x3333);
    f->c->gpr[R_SI] = 0xf020; /* offset wraps at 64 KiB: 0010 */
    poke(f, 0x2010, 0x4444, 2);
    assert_int_equal(STEP(f, 0x8b, 0x00), STEP_NEXT);
    assert_int_equal(f->c->gpr[R_AX], 0x4444);
    FAULT(f, EXC_GP, 0x8b, 0x0e, 0xff, 0xff); /* mov cx,[ffff] */
    f->c->gpr[R_CX] = 0x1010;
    assert_int_equal(STEP(f, 0x67, 0x8b, 0x01), STEP_NEXT); /* mov ax,[ecx] */
    assert_int_equal(f->c->gpr[R_AX], 0x1111);
    f->c->gpr[R_CX] = 0x11010;
    FAULT(f, EXC_GP, 0x67, 0x8b, 0x01); /* beyond the limit */
    f->c->seg[S_DS].limit = 0xffffffff; /* a limit left from protected mode counts */
    f->c->gpr[R_CX] = 0x12010;
    poke(f, 0x14010, 0x5555, 2);
    assert_int_equal(STEP(f, 0x67, 0x8b, 0x01), STEP_NEXT);
    assert_int_equal(f->c->gpr[R_AX], 0x5555);
    assert_int_equal(STEP(f, 0x2e, 0xc7, 0x06, 0x00, 0x60, 0x34, 0x12),
                     STEP_NEXT); /* mov word cs:[6000],1234 */
    assert_int_equal(peek(f, 0x6000, 2), 0x1234);
}

static void real_near_transfers(void **state)
{
    struct fixture *f = fix(state, 16, 0);
    assert_int_equal(STEP(f, 0xe8, 0x10, 0x00), STEP_NEXT); /* call 1013 */
    assert_int_equal(f->c->rip, 0x1013);
    assert_int_equal(peek(f, 0x7ffe, 2), 0x1003);
    assert_int_equal(STEP(f, 0xc2, 0x04, 0x00), STEP_NEXT); /* ret 4 */
    assert_int_equal(f->c->rip, 0x1003);
    assert_int_equal(f->c->gpr[R_SP], 0x8004);
    assert_int_equal(STEP(f, 0xe9, 0x00, 0xf0), STEP_NEXT); /* jmp 1006 + f000 = 10006: wraps to 6 */
    assert_int_equal(f->c->rip, 6);
    FAULT(f, EXC_GP, 0x66, 0xe9, 0x00, 0x00, 0x01,
          0x00); /* jmp 1000c with 32-bit operand: beyond the limit */
    f->c->gpr[R_CX] = 0xabcd0001;
    f->c->rip = 0x1000;
    assert_int_equal(STEP(f, 0xe2, 0xfe), STEP_NEXT); /* loop: CX 1 to 0, falls through */
    assert_int_equal(f->c->rip, 0x1002);
    assert_int_equal(f->c->gpr[R_CX], 0xabcd0000);
    assert_int_equal(STEP(f, 0xe3, 0x10), STEP_NEXT); /* jcxz */
    assert_int_equal(f->c->rip, 0x1014);
    assert_int_equal(STEP(f, 0x67, 0xe3, 0x10), STEP_NEXT); /* jecxz: not zero */
    assert_int_equal(f->c->rip, 0x1017);
    assert_int_equal(STEP(f, 0x67, 0xe2, 0x00), STEP_NEXT);
    assert_int_equal(f->c->gpr[R_CX], 0xabccffff);
}

static void real_frames_and_pusha(void **state)
{
    struct fixture *f = fix(state, 16, 0);
    f->c->gpr[R_BP] = 0x55550000 | 0x7000;
    poke(f, 0x6ffe, 0xbeef, 2);
    assert_int_equal(STEP(f, 0xc8, 0x10, 0x00, 0x02), STEP_NEXT); /* enter 10h,2 */
    assert_int_equal(peek(f, 0x7ffe, 2), 0x7000);
    assert_int_equal(peek(f, 0x7ffc, 2), 0xbeef);
    assert_int_equal(peek(f, 0x7ffa, 2), 0x7ffe);
    assert_int_equal(f->c->gpr[R_BP], 0x55557ffe);
    assert_int_equal(f->c->gpr[R_SP], 0x7fea);
    assert_int_equal(STEP(f, 0xc9), STEP_NEXT); /* leave */
    assert_int_equal(f->c->gpr[R_SP], 0x8000);
    assert_int_equal(f->c->gpr[R_BP], 0x55557000);
    for (unsigned n = 0; n < 8; n++)
        if (n != R_SP)
            f->c->gpr[n] = 0x11110000 * 1ull + n;
    assert_int_equal(STEP(f, 0x60), STEP_NEXT); /* pusha */
    assert_int_equal(f->c->gpr[R_SP], 0x7ff0);
    for (unsigned n = 0; n < 8; n++)
        assert_int_equal(peek(f, 0x7ffe - 2 * n, 2), n == R_SP ? 0x8000 : n);
    poke(f, 0x7ff0 + 2 * 3, 0x9999, 2); /* SP's slot: ignored */
    poke(f, 0x7ff0, 0xd1d1, 2);
    assert_int_equal(STEP(f, 0x61), STEP_NEXT); /* popa */
    assert_int_equal(f->c->gpr[R_SP], 0x8000);
    assert_int_equal(f->c->gpr[R_DI], 0x1111d1d1);
}

static void real_segments_and_far(void **state)
{
    struct fixture *f = fix(state, 16, 0);
    poke(f, 0x3000, 0x56781234, 4);
    assert_int_equal(STEP(f, 0xc4, 0x1e, 0x00, 0x30), STEP_NEXT); /* les bx,[3000] */
    assert_int_equal(f->c->gpr[R_BX], 0x1234);
    assert_int_equal(f->c->seg[S_ES].sel, 0x5678);
    called(f, "load_seg", S_ES, 0x5678, 0, 0);
    assert_int_equal(STEP(f, 0xea, 0x34, 0x12, 0x00, 0xf0), STEP_NEXT);
    called(f, "far_jump", 0xf000, 0x1234, 2, 0);
    assert_int_equal(f->c->rip, 0x1004); /* the system layer moves it */
    assert_int_equal(STEP(f, 0x66, 0x9a, 0x78, 0x56, 0x34, 0x12, 0x08, 0x00), STEP_NEXT);
    called(f, "far_call", 8, 0x12345678, 4, 0x100c);
    assert_int_equal(STEP(f, 0xff, 0x2e, 0x00, 0x30), STEP_NEXT);
    called(f, "far_jump", 0x5678, 0x1234, 2, 0);
    assert_int_equal(STEP(f, 0xca, 0x06, 0x00), STEP_NEXT);
    called(f, "far_ret", 2, 6, 0, 0);
    assert_int_equal(STEP(f, 0xcf), STEP_NEXT);
    called(f, "iret", 2, 0, 0, 0);
    assert_int_equal(STEP(f, 0x16), STEP_NEXT); /* push ss */
    assert_int_equal(f->c->gpr[R_SP], 0x7ffe);
    poke(f, 0x7ffe, 0x0100, 2);
    assert_int_equal(STEP(f, 0x17), STEP_NEXT); /* pop ss */
    assert_int_equal(f->c->seg[S_SS].sel, 0x100);
    assert_int_equal(f->c->int_shadow, 1);
    assert_int_equal(f->c->gpr[R_SP], 0x8000);
    FAULT(f, EXC_UD, 0x8e, 0xc8);       /* mov cs,ax */
    FAULT(f, EXC_UD, 0x8e, 0xf0);       /* no such register */
    FAULT(f, EXC_UD, 0xc5, 0xc0);       /* VEX form in real mode */
    FAULT(f, EXC_UD, 0x0f, 0x00, 0xc0); /* sldt */
    FAULT(f, EXC_UD, 0x63, 0xc0);       /* arpl */
}

/* ---- protected-mode segmentation ---- */

static void protected_checks(void **state)
{
    struct fixture *f = fix(state, 32, 0);
    f->c->gpr[R_BX] = 0x4000;
    f->c->gpr[R_BP] = 0x4000;
    f->c->seg[S_DS].attr &= (uint16_t)~SEG_P; /* null selector */
    FAULT(f, EXC_GP, 0x8b, 0x03);
    assert_int_equal(STEP(f, 0x8b, 0x45, 0x00), STEP_NEXT); /* SS is fine */
    assert_int_equal(STEP(f, 0x8d, 0x03), STEP_NEXT);       /* LEA does not look */
    f->c->seg[S_DS].attr |= SEG_P;
    f->c->seg[S_DS].attr &= (uint16_t)~SEG_RW;
    FAULT(f, EXC_GP, 0x89, 0x03); /* read only */
    FAULT(f, EXC_GP, 0x01, 0x03);
    assert_int_equal(STEP(f, 0x8b, 0x03), STEP_NEXT);
    FAULT(f, EXC_GP, 0x2e, 0x89, 0x03); /* code is never writable */
    assert_int_equal(STEP(f, 0x2e, 0x8b, 0x03), STEP_NEXT);
    f->c->seg[S_CS].attr &= (uint16_t)~SEG_RW; /* execute only */
    FAULT(f, EXC_GP, 0x2e, 0x8b, 0x03);
    f->c->seg[S_DS].attr |= SEG_RW;
    f->c->seg[S_DS].limit = 0x4003;
    assert_int_equal(STEP(f, 0x8b, 0x03), STEP_NEXT);
    FAULT(f, EXC_GP, 0x8b, 0x43, 0x01);
    f->c->seg[S_DS].attr |= SEG_CONFORM; /* expand down: valid above the limit */
    FAULT(f, EXC_GP, 0x8b, 0x03);
    assert_int_equal(STEP(f, 0x8b, 0x43, 0x04), STEP_NEXT);
    f->c->seg[S_SS].limit = 0x3fff;
    FAULT(f, EXC_SS, 0x8b, 0x45, 0x00);
    f->c->seg[S_CS].limit = 0x2000;
    f->c->rip = 0x1fff;
    FAULT(f, EXC_GP, 0xeb, 0x00); /* second byte is there, ... */
    f->c->seg[S_CS].limit = 0x1fff;
    FAULT(f, EXC_GP, 0xeb, 0x00); /* ... now beyond the limit */
    f->c->rip = 0x1000;
    FAULT(f, EXC_GP, 0xe9, 0x00, 0x10, 0x00, 0x00); /* target beyond the limit */
}

/* 32-bit code on a 16-bit stack */
static void stack_width_is_of_ss(void **state)
{
    struct fixture *f = fix(state, 32, 0);
    f->c->seg[S_SS].attr &= (uint16_t)~SEG_DB;
    f->c->gpr[R_SP] = 0x77770002;
    f->c->gpr[R_AX] = 0x12345678;
    assert_int_equal(STEP(f, 0x50),
                     STEP_NEXT); /* SP wraps; the access itself, inside a big segment, does not */
    assert_int_equal(f->c->gpr[R_SP], 0x7777fffe);
    assert_int_equal(peek(f, 0xfffe, 4), 0x12345678);
    f->c->gpr[R_SP] = 0x77770008;
    assert_int_equal(STEP(f, 0x50), STEP_NEXT);
    assert_int_equal(f->c->gpr[R_SP], 0x77770004);
    assert_int_equal(peek(f, 4, 4), 0x12345678);
}

/* ---- 64-bit mode ---- */

static void canonical_addresses(void **state)
{
    struct fixture *f = fix(state, 64, 0);
    f->c->gpr[R_AX] = 0x800000000000;
    FAULT(f, EXC_GP, 0x8b, 0x00);
    f->c->gpr[R_AX] = 0x7ffffffffffd; /* its last byte is not canonical */
    FAULT(f, EXC_GP, 0x8b, 0x00);
    f->c->gpr[R_BP] = 0x800000000000;
    FAULT(f, EXC_SS, 0x8b, 0x45, 0x00);
    f->c->gpr[R_SP] = 0x800000000000;
    FAULT(f, EXC_SS, 0x5b);
    f->c->gpr[R_SP] = 0x8000;
    poke(f, 0x8000, 0x800000000000, 8);
    FAULT(f, EXC_GP, 0xc3);
    assert_int_equal(f->c->gpr[R_SP], 0x8000);
    FAULT(f, EXC_GP, 0xff, 0xe0 + R_BP);
    f->c->seg[S_FS].base = 0x4000;
    f->c->seg[S_DS].base = 0x9999; /* has no meaning */
    poke(f, 0x4010, 0x77, 1);
    f->c->gpr[R_BX] = 0x10;
    assert_int_equal(STEP(f, 0x64, 0x3e, 0x8b, 0x03), STEP_NEXT); /* the DS override changes nothing */
    assert_int_equal(f->c->gpr[R_AX], 0x77);
}

static void near_branch_with_66(void **state)
{
    struct fixture *f = fix(state, 64, 0);
    f->c->rip = 0x11000;
    f->c->vm->model.is_amd = true;
    assert_int_equal(STEP(f, 0x66, 0xe9, 0x10, 0x00, 0x00, 0x00), STEP_NEXT); /* AMD: rel16, IP */
    assert_int_equal(f->c->rip, 0x1014);
    f->c->vm->model.is_amd = false;
    assert_int_equal(STEP(f, 0x66, 0xe9, 0x10, 0x00, 0x00, 0x00), STEP_NEXT); /* Intel: rel32 */
    assert_int_equal(f->c->rip, 0x1014 + 6 + 0x10);
}

static void cmpxchg16b(void **state)
{
    struct fixture *f = fix(state, 64, 3);
    f->c->gpr[R_DI] = 0x4008;
    FAULT(f, EXC_GP, 0xf0, 0x48, 0x0f, 0xc7, 0x0f);
    f->c->gpr[R_DI] = 0x4010;
    poke(f, 0x4010, 1, 8);
    poke(f, 0x4018, 2, 8);
    f->c->gpr[R_BX] = 3;
    f->c->gpr[R_CX] = 4;
    assert_int_equal(STEP(f, 0xf0, 0x48, 0x0f, 0xc7, 0x0f), STEP_NEXT);
    assert_false(cpu_rflags(f->c) & FL_ZF);
    assert_int_equal(f->c->gpr[R_AX], 1);
    assert_int_equal(f->c->gpr[R_DX], 2);
    assert_int_equal(STEP(f, 0xf0, 0x48, 0x0f, 0xc7, 0x0f), STEP_NEXT);
    assert_true(cpu_rflags(f->c) & FL_ZF);
    assert_int_equal(peek(f, 0x4010, 8), 3);
    assert_int_equal(peek(f, 0x4018, 8), 4);
    FAULT(f, EXC_UD, 0x48, 0x0f, 0xc7, 0xcf); /* register form */
}

static void locked_operations_retry(void **state)
{
    struct fixture *f = fix(state, 64, 3);
    f->c->gpr[R_DI] = 0x4000;
    f->c->gpr[R_AX] = 0x10;
    poke(f, 0x4000, 0x20, 4);
    f->c->vm->lost_races = 3; /* 20, 21, 20, 21 */
    assert_int_equal(STEP(f, 0xf0, 0x01, 0x07), STEP_NEXT);
    assert_int_equal(peek(f, 0x4000, 4), 0x31);
    f->c->vm->lost_races = 1;
    assert_int_equal(STEP(f, 0x87, 0x07), STEP_NEXT); /* xchg is always locked */
    assert_int_equal(peek(f, 0x4000, 4), 0x10);
    assert_int_equal(f->c->gpr[R_AX], 0x30);
    f->c->vm->lost_races = 1;
    assert_int_equal(STEP(f, 0xf0, 0x0f, 0xc1, 0x07), STEP_NEXT); /* xadd: what it added to */
    assert_int_equal(peek(f, 0x4000, 4), 0x41);
    assert_int_equal(f->c->gpr[R_AX], 0x11);
    f->c->gpr[R_AX] = 0x41;
    f->c->vm->lost_races = 1; /* 40 now: the comparison fails */
    assert_int_equal(STEP(f, 0xf0, 0x0f, 0xb1, 0x37), STEP_NEXT);
    assert_false(cpu_rflags(f->c) & FL_ZF);
    assert_int_equal(f->c->gpr[R_AX], 0x40);
    f->c->gpr[R_DI] = READONLY;
    f->c->gpr[R_AX] = 5;
    FAULT(f, EXC_PF, 0xf0, 0x0f, 0xb1, 0x37); /* write access even when it does not store */
    assert_int_equal(f->c->exc.error, PF_P | PF_W | PF_U);
    f->c->gpr[R_DI] = HOLE;
    FAULT(f, EXC_PF, 0xf0, 0x01, 0x07);
    assert_int_equal(f->c->exc.error, PF_W | PF_U); /* a write, although it reads first */
}

/* ---- decoder ---- */

static void length_limit(void **state)
{
    struct fixture *f = fix(state, 64, 3);
    uint8_t code[16];
    memset(code, 0x66, sizeof(code));
    code[14] = 0x90;
    assert_int_equal(step_bytes(f, code, 15), STEP_NEXT);
    assert_int_equal(f->c->rip, 0x100f);
    code[14] = 0x66;
    code[15] = 0x90;
    uint64_t rip = f->c->rip;
    faulted(f, step_bytes(f, code, 16), EXC_GP, rip);
}

static void fetch_touches_no_page_beyond(void **state)
{
    struct fixture *f = fix(state, 64, 3);
    f->c->rip = HOLE - 1 - 0x1000; /* end of the careful page; the next is not executable */
    f->mem[f->c->rip] = 0x90;
    assert_int_equal(interp_step(f->c), STEP_NEXT);
    assert_int_equal(f->c->rip, READONLY);
    faulted(f, interp_step(f->c), EXC_PF, READONLY);
    f->c->rip = READONLY - 2;
    f->mem[READONLY - 2] = 0x05; /* add eax,imm32: runs into it */
    faulted(f, interp_step(f->c), EXC_PF, READONLY - 2);
    assert_int_equal(f->c->exc.cr2, READONLY);
    assert_int_equal(f->c->exc.error, PF_P | PF_U | PF_I);
    f->c->rip = 0x800000000000;
    faulted(f, interp_step(f->c), EXC_GP, 0x800000000000);
}

static void not_in_64_bit_mode(void **state)
{
    static const uint8_t bad[] = { 0x06, 0x07, 0x0e, 0x16, 0x17, 0x1e, 0x1f, 0x27, 0x2f, 0x37,
                                   0x3f, 0x60, 0x61, 0x82, 0x9a, 0xce, 0xd4, 0xd5, 0xd6, 0xea };
    struct fixture *f = fix(state, 64, 3);
    for (unsigned k = 0; k < sizeof(bad); k++)
        FAULT(f, EXC_UD, bad[k], 0, 0, 0, 0, 0, 0, 0);
}

static void invalid_opcodes(void **state)
{
    struct fixture *f = fix(state, 64, 0);
    FAULT(f, EXC_UD, 0x0f, 0x0b);
    FAULT(f, EXC_UD, 0x0f, 0xff, 0xc0);
    FAULT(f, EXC_UD, 0x0f, 0x04);
    FAULT(f, EXC_UD, 0x0f, 0x24, 0xc0);
    FAULT(f, EXC_UD, 0x0f, 0xaa); /* RSM */
    FAULT(f, EXC_UD, 0x0f, 0x37); /* GETSEC */
    FAULT(f, EXC_UD, 0xfe, 0xd0);
    FAULT(f, EXC_UD, 0xff, 0xf8);
    FAULT(f, EXC_UD, 0xff, 0xd8); /* far call of a register */
    FAULT(f, EXC_UD, 0xc6, 0xc8, 0);
    FAULT(f, EXC_UD, 0xc7, 0xf8, 0, 0, 0, 0); /* XBEGIN */
    FAULT(f, EXC_UD, 0x8f, 0xc8);
    FAULT(f, EXC_UD, 0x8d, 0xc0);
    FAULT(f, EXC_UD, 0x0f, 0xb8, 0xc0);             /* JMPE */
    FAULT(f, EXC_UD, 0x0f, 0x01, 0xc2);             /* VMLAUNCH */
    FAULT(f, EXC_UD, 0x66, 0x0f, 0x38, 0x80, 0x00); /* INVEPT */
    FAULT(f, EXC_UD, 0xf0, 0x01, 0xc0);             /* LOCK of a register */
    FAULT(f, EXC_UD, 0xf0, 0x8b, 0x00);
    FAULT(f, EXC_UD, 0xf0, 0x39, 0x00);          /* LOCK CMP */
    FAULT(f, EXC_UD, 0xf0, 0x03, 0x00);          /* memory is the source */
    FAULT(f, EXC_UD, 0xf0, 0x0f, 0xba, 0x20, 0); /* LOCK BT */
    FAULT(f, EXC_UD, 0xf0, 0x0f, 0x10, 0x00);    /* LOCK MOVUPS */
    FAULT(f, EXC_UD, 0xf0, 0x90);
    FAULT(f, EXC_UD, 0x66, 0xc4, 0xe2, 0x78, 0xf2, 0xc0); /* prefix before VEX */
    FAULT(f, EXC_UD, 0xc4, 0xe2, 0x78, 0xf2, 0xc0);       /* ANDN without the feature */
    f->c->vm->model.f7_ebx = 1u << 3;
    assert_int_equal(STEP(f, 0xc4, 0xe2, 0x78, 0xf2, 0xc0), STEP_NEXT);
    FAULT(f, EXC_UD, 0xc4, 0xe2, 0x7c, 0xf2, 0xc0); /* VEX.L */
}

static void vector_code_is_not_ours(void **state)
{
    static const uint8_t code[][6] = {
        { 0x0f, 0x10, 0xc0 },
        { 0x66, 0x0f, 0xef, 0xc0 },
        { 0xd9, 0xe8 },
        { 0x9b },
        { 0x0f, 0x77 },
        { 0xc5, 0xf8, 0x77 },
        { 0x62, 0xf1, 0x7c, 0x48, 0x28, 0xc0 },
        { 0x0f, 0xae, 0x10 },
        { 0x0f, 0xae, 0x00 },
        { 0x48, 0x0f, 0xae, 0x20 },
        { 0x0f, 0xc7, 0x20 },
        { 0x66, 0x0f, 0x38, 0x00, 0xc0 },
        { 0x66, 0x0f, 0x3a, 0x0f, 0xc0, 1 },
        { 0xc4, 0xe2, 0x79, 0x00, 0xc0 },
        { 0xf2, 0x0f, 0x79, 0xc0 },
    };
    struct fixture *f = fix(state, 64, 3);
    for (unsigned k = 0; k < array_size(code); k++) {
        assert_int_equal(step_bytes(f, code[k], sizeof(code[k])), STEP_UNKNOWN);
        assert_int_equal(f->c->rip, 0x1000);
        assert_false(f->c->exc.pending);
    }
}

/* ---- flags and privilege ---- */

static void resume_flag(void **state)
{
    struct fixture *f = fix(state, 64, 3);
    f->c->rflags |= FL_RF;
    f->c->gpr[R_AX] = HOLE;
    FAULT(f, EXC_PF, 0x8b, 0x00);
    assert_true(f->c->rflags & FL_RF);
    assert_int_equal(STEP(f, 0x0f, 0x10, 0xc0), STEP_UNKNOWN);
    assert_true(f->c->rflags & FL_RF);
    assert_int_equal(STEP(f, 0x90), STEP_NEXT);
    assert_false(f->c->rflags & FL_RF);
}

static void popf_and_pushf(void **state)
{
    struct fixture *f = fix(state, 64, 3);
    const uint64_t all = FL_IF | FL_IOPL | FL_NT | FL_AC | FL_ID | FL_STATUS | FL_DF | FL_VM | FL_RF | FL_VIF;
    poke(f, 0x8000, all, 8);
    assert_int_equal(STEP(f, 0x9d), STEP_NEXT);
    assert_int_equal(cpu_rflags(f->c), FL_1 | FL_NT | FL_AC | FL_ID | FL_STATUS | FL_DF);
    assert_int_equal(f->c->vm->mode_changes, 1); /* AC */
    f->c->gpr[R_SP] = 0x8000;
    cpu_set_rflags(f->c, FL_1 | FL_IOPL);
    assert_int_equal(STEP(f, 0x66, 0x9d), STEP_NEXT); /* CPL = IOPL: IF too; 16 bits */
    assert_int_equal(cpu_rflags(f->c), FL_1 | FL_IOPL | FL_NT | FL_IF | FL_STATUS | FL_DF);
    assert_int_equal(f->c->gpr[R_SP], 0x8002);
    f->c->cpl = 0;
    f->c->gpr[R_SP] = 0x8000;
    cpu_set_rflags(f->c, FL_1);
    assert_int_equal(STEP(f, 0x9d), STEP_NEXT);
    assert_int_equal(cpu_rflags(f->c), FL_1 | (all & ~(uint64_t)(FL_VM | FL_RF | FL_VIF)));
    f->c->rflags |= FL_RF;
    assert_int_equal(STEP(f, 0x9c), STEP_NEXT);
    assert_int_equal(peek(f, 0x8000, 8), FL_1 | (all & ~(uint64_t)(FL_VM | FL_RF | FL_VIF)));
    f = fix(state, 16, 3); /* virtual 8086 */
    f->c->cr0 = CR0_PE;
    f->c->rflags |= FL_VM;
    FAULT(f, EXC_GP, 0x9c);
    FAULT(f, EXC_GP, 0x9d);
    FAULT(f, EXC_GP, 0xfa);
    f->c->rflags |= FL_IOPL;
    assert_int_equal(STEP(f, 0x9c), STEP_NEXT);
    assert_int_equal(peek(f, 0x7ffe, 2), FL_1 | FL_IOPL);
    assert_int_equal(STEP(f, 0xfb), STEP_NEXT);
    assert_true(f->c->rflags & FL_IF);
}

static void interrupt_flag(void **state)
{
    struct fixture *f = fix(state, 64, 0);
    assert_int_equal(STEP(f, 0xfb), STEP_NEXT);
    assert_int_equal(f->c->int_shadow, 1);
    assert_true(f->c->rflags & FL_IF);
    f->c->int_shadow = 0;
    assert_int_equal(STEP(f, 0xfb), STEP_NEXT); /* was set: no shadow */
    assert_int_equal(f->c->int_shadow, 0);
    assert_int_equal(STEP(f, 0xfa), STEP_NEXT);
    assert_false(f->c->rflags & FL_IF);
    f->c->cpl = 3;
    FAULT(f, EXC_GP, 0xfa);
    FAULT(f, EXC_GP, 0xfb);
}

static void privileged_instructions(void **state)
{
    static const uint8_t code[][5] = {
        { 0xf4 },
        { 0x0f, 0x01, 0x10 },
        { 0x0f, 0x01, 0x18 },
        { 0x0f, 0x20, 0xc0 },
        { 0x0f, 0x22, 0xc0 },
        { 0x0f, 0x21, 0xc0 },
        { 0x0f, 0x23, 0xc0 },
        { 0x0f, 0x30 },
        { 0x0f, 0x32 },
        { 0x0f, 0x06 },
        { 0x0f, 0x08 },
        { 0x0f, 0x09 },
        { 0x0f, 0x01, 0x38 },
        { 0x0f, 0x01, 0xf0 },
        { 0x0f, 0x00, 0xd0 },
        { 0x0f, 0x00, 0xd8 },
        { 0x0f, 0x07 },
        { 0x0f, 0x35 },
        { 0x0f, 0x01, 0xf8 },
        { 0x0f, 0x01, 0xd1 },
        { 0x66, 0x0f, 0x38, 0x82, 0x00 },
        { 0x0f, 0x33 },
    };
    struct fixture *f = fix(state, 64, 3);
    f->c->cr4 = CR4_OSXSAVE;
    f->c->vm->model.f7_ebx = 1u << 10;
    for (unsigned k = 0; k < array_size(code); k++) {
        faulted(f, step_bytes(f, code[k], sizeof(code[k])), EXC_GP, 0x1000);
        assert_null(f->c->vm->call.name);
    }
}

static void umip(void **state)
{
    struct fixture *f = fix(state, 64, 3);
    f->c->gpr[R_DI] = 0x4000;
    f->c->gdt = (struct x86_table){ .base = 0xffff888000001000, .limit = 0x7f };
    f->c->cr0 = 0x80050033;
    assert_int_equal(STEP(f, 0x0f, 0x01, 0x07), STEP_NEXT); /* sgdt */
    assert_int_equal(peek(f, 0x4000, 2), 0x7f);
    assert_int_equal(peek(f, 0x4002, 8), 0xffff888000001000);
    assert_int_equal(STEP(f, 0x0f, 0x01, 0xe0), STEP_NEXT); /* smsw eax */
    assert_int_equal(f->c->gpr[R_AX], 0x80050033);
    f->c->cr4 = CR4_UMIP;
    FAULT(f, EXC_GP, 0x0f, 0x01, 0x07);
    FAULT(f, EXC_GP, 0x0f, 0x01, 0x0f);
    FAULT(f, EXC_GP, 0x0f, 0x01, 0xe0);
    FAULT(f, EXC_GP, 0x0f, 0x00, 0xc0);
    FAULT(f, EXC_GP, 0x0f, 0x00, 0xc8);
    f->c->cpl = 0;
    assert_int_equal(STEP(f, 0x0f, 0x01, 0x07), STEP_NEXT);
}

/* ---- system instructions ---- */

static void descriptor_tables(void **state)
{
    struct fixture *f = fix(state, 16, 0);
    poke(f, 0x4000, 0x3f, 2);
    poke(f, 0x4002, 0x12345678, 4);
    assert_int_equal(STEP(f, 0x0f, 0x01, 0x16, 0x00, 0x40), STEP_NEXT); /* lgdt: 24 bits */
    assert_int_equal(f->c->gdt.limit, 0x3f);
    assert_int_equal(f->c->gdt.base, 0x345678);
    assert_int_equal(STEP(f, 0x66, 0x0f, 0x01, 0x1e, 0x00, 0x40), STEP_NEXT); /* lidt, 32 bits */
    assert_int_equal(f->c->idt.base, 0x12345678);
    f = fix(state, 64, 0);
    f->c->gpr[R_DI] = 0x4000;
    poke(f, 0x4002, 0x800000000000, 8);
    FAULT(f, EXC_GP, 0x0f, 0x01, 0x17);
    f->c->seg[S_TR].sel = 0x40;
    assert_int_equal(STEP(f, 0x0f, 0x00, 0xc8), STEP_NEXT); /* str eax */
    assert_int_equal(f->c->gpr[R_AX], 0x40);
    poke(f, 0x4000, ~0ull, 8);
    assert_int_equal(STEP(f, 0x48, 0x0f, 0x00, 0x0f), STEP_NEXT); /* str [rdi]: 16 bits */
    assert_int_equal(peek(f, 0x4000, 8), 0xffffffffffff0040);
    f->c->gpr[R_AX] = 8;
    assert_int_equal(STEP(f, 0x0f, 0x02, 0xd8), STEP_NEXT); /* lar ebx,eax */
    assert_int_equal(f->c->gpr[R_BX], 0xcf9b00);
    assert_true(cpu_rflags(f->c) & FL_ZF);
    f->c->gpr[R_AX] = 0x10;
    assert_int_equal(STEP(f, 0x0f, 0x03, 0xd8), STEP_NEXT); /* lsl: refused */
    assert_int_equal(f->c->gpr[R_BX], 0xcf9b00);
    assert_false(cpu_rflags(f->c) & FL_ZF);
    assert_int_equal(STEP(f, 0x0f, 0x00, 0xe8), STEP_NEXT); /* verw */
    called(f, "verify", 0x10, 1, 0, 0);
    assert_int_equal(STEP(f, 0x0f, 0x00, 0xd8), STEP_NEXT); /* ltr */
    called(f, "ltr", 0x10, 0, 0, 0);
}

static void registers_of_the_system(void **state)
{
    struct fixture *f = fix(state, 64, 0);
    f->c->gpr[R_AX] = 0xffffffff80050033;
    assert_int_equal(STEP(f, 0x0f, 0x22, 0xd8), STEP_NEXT); /* mov cr3,rax */
    assert_int_equal(f->c->vm->cr[3], 0xffffffff80050033);
    assert_int_equal(STEP(f, 0x44, 0x0f, 0x22, 0xc0), STEP_NEXT); /* mov cr8,rax */
    assert_int_equal(f->c->vm->cr[8], 0xffffffff80050033);
    FAULT(f, EXC_UD, 0xf0, 0x0f, 0x20, 0xc3); /* Intel: no LOCK */
    f->c->vm->model.is_amd = true;
    assert_int_equal(STEP(f, 0xf0, 0x0f, 0x20, 0xc3), STEP_NEXT); /* AMD: cr8 */
    assert_int_equal(f->c->gpr[R_BX], 0xffffffff80050033);
    assert_int_equal(STEP(f, 0x0f, 0x23, 0xf8), STEP_NEXT); /* mov dr7,rax; mod is ignored */
    assert_int_equal(f->c->vm->dr[7], 0xffffffff80050033);
    f->c->gpr[R_CX] = 0xc0000080;
    f->c->gpr[R_DX] = 0xffffffff00000001;
    f->c->gpr[R_AX] = 0xffffffff00000002;
    assert_int_equal(STEP(f, 0x0f, 0x30), STEP_NEXT);
    called(f, "wrmsr", 0xc0000080, 0x100000002, 0, 0);
    f->c->vm->msr_value = 0x1122334455667788;
    assert_int_equal(STEP(f, 0x0f, 0x32), STEP_NEXT);
    assert_int_equal(f->c->gpr[R_AX], 0x55667788);
    assert_int_equal(f->c->gpr[R_DX], 0x11223344);
    FAULT(f, EXC_UD, 0x0f, 0x01, 0xd0); /* xgetbv without OSXSAVE */
    f->c->cr4 = CR4_OSXSAVE | CR4_FSGSBASE;
    f->c->gpr[R_CX] = 0;
    assert_int_equal(STEP(f, 0x0f, 0x01, 0xd0), STEP_NEXT);
    assert_int_equal(f->c->gpr[R_AX], 7);
    assert_int_equal(f->c->gpr[R_DX], 1);
    assert_int_equal(STEP(f, 0x0f, 0x01, 0xd1), STEP_NEXT);
    called(f, "xsetbv", 0, 0x100000007, 0, 0);
    f->c->gpr[R_BX] = 0xffff888000000000;
    assert_int_equal(STEP(f, 0xf3, 0x48, 0x0f, 0xae, 0xdb), STEP_NEXT); /* wrgsbase rbx */
    assert_int_equal(f->c->seg[S_GS].base, 0xffff888000000000);
    assert_int_equal(f->c->seg_base_gs, 0xffff888000000000);
    assert_int_equal(STEP(f, 0xf3, 0x0f, 0xae, 0xca), STEP_NEXT); /* rdgsbase edx */
    assert_int_equal(f->c->gpr[R_DX], 0);
    f->c->gpr[R_BX] = 0x800000000000;
    FAULT(f, EXC_GP, 0xf3, 0x48, 0x0f, 0xae, 0xd3);
    f->c->cr4 = 0;
    FAULT(f, EXC_UD, 0xf3, 0x48, 0x0f, 0xae, 0xd3);
}

static void time_and_random(void **state)
{
    struct fixture *f = fix(state, 64, 3);
    f->c->gpr[R_AX] = f->c->gpr[R_DX] = ~0ull;
    assert_int_equal(STEP(f, 0x0f, 0x31), STEP_NEXT);
    assert_int_equal(f->c->gpr[R_AX], 0x55667788);
    assert_int_equal(f->c->gpr[R_DX], 0x11223344);
    FAULT(f, EXC_UD, 0x0f, 0x01, 0xf9);
    f->c->vm->model.fext_edx = 1u << 27;
    f->c->vm->model.f7_ecx = 1u << 22;
    f->c->tsc_aux = 0x1001;
    assert_int_equal(STEP(f, 0x0f, 0x01, 0xf9), STEP_NEXT);
    assert_int_equal(f->c->gpr[R_CX], 0x1001);
    assert_int_equal(STEP(f, 0xf3, 0x0f, 0xc7, 0xfb), STEP_NEXT); /* rdpid rbx */
    assert_int_equal(f->c->gpr[R_BX], 0x1001);
    f->c->cr4 = CR4_TSD;
    FAULT(f, EXC_GP, 0x0f, 0x31);
    FAULT(f, EXC_GP, 0x0f, 0x01, 0xf9);
    FAULT(f, EXC_UD, 0x0f, 0xc7, 0xf0); /* rdrand without the feature */
    FAULT(f, EXC_UD, 0x0f, 0x01, 0xc8); /* monitor likewise */
}

static void transfers_to_the_system_layer(void **state)
{
    struct fixture *f = fix(state, 64, 0);
    uint64_t rip = 0x1000;
    assert_int_equal(STEP(f, 0x0f, 0x05), STEP_NEXT);
    called(f, "syscall", rip + 2, 0, 0, 0);
    assert_int_equal(STEP(f, 0x48, 0x0f, 0x07), STEP_NEXT);
    called(f, "sysret", 8, 0, 0, 0);
    assert_int_equal(STEP(f, 0x0f, 0x07), STEP_NEXT);
    called(f, "sysret", 4, 0, 0, 0);
    assert_int_equal(STEP(f, 0x48, 0xcf), STEP_NEXT);
    called(f, "iret", 8, 0, 0, 0);
    assert_int_equal(STEP(f, 0xcd, 0x80), STEP_NEXT);
    called(f, "soft_interrupt", 0x80, 2, 1, 0);
    assert_int_equal(STEP(f, 0xcc), STEP_NEXT);
    called(f, "soft_interrupt", 3, 1, 0, 0);
    assert_int_equal(STEP(f, 0xf1), STEP_NEXT);
    called(f, "soft_interrupt", 1, 1, 0, 0);
    assert_int_equal(f->c->rip, rip);
    assert_int_equal(STEP(f, 0x0f, 0x01, 0xf8), STEP_NEXT);
    called(f, "swapgs", 0, 0, 0, 0);
    assert_int_equal(f->c->rip, rip + 3);
    assert_int_equal(STEP(f, 0x0f, 0x01, 0xd9), STEP_NEXT);
    called(f, "hypercall", 0, 0, 0, 0);
    assert_int_equal(f->c->rip, rip + 6);
    f->c->gpr[R_DI] = 0x123456;
    assert_int_equal(STEP(f, 0x0f, 0x01, 0x3f), STEP_NEXT);
    called(f, "invlpg", 0x123456, 0, 0, 0);
    assert_int_equal(STEP(f, 0xf4), STEP_HALT);
    assert_int_equal(f->c->rip, rip + 10);
    f = fix(state, 32, 0);
    assert_int_equal(STEP(f, 0xce), STEP_NEXT); /* into, no overflow */
    assert_null(f->c->vm->call.name);
    f->c->fl |= 1;
    assert_int_equal(STEP(f, 0xce), STEP_NEXT);
    called(f, "soft_interrupt", 4, 1, 0, 0);
    f->c->gpr[R_AX] = (uint32_t)-5;
    f->c->gpr[R_BX] = 0x4000;
    poke(f, 0x4000, 0xfffffffc, 4); /* -4 */
    poke(f, 0x4004, 10, 4);
    FAULT(f, EXC_BR, 0x62, 0x03);
    f->c->gpr[R_AX] = (uint32_t)-4;
    assert_int_equal(STEP(f, 0x62, 0x03), STEP_NEXT);
}

static void smap_flag(void **state)
{
    struct fixture *f = fix(state, 64, 0);
    FAULT(f, EXC_UD, 0x0f, 0x01, 0xcb);
    f->c->vm->model.f7_ebx = 1u << 20;
    assert_int_equal(STEP(f, 0x0f, 0x01, 0xcb), STEP_NEXT);
    assert_true(f->c->rflags & FL_AC);
    assert_int_equal(STEP(f, 0x0f, 0x01, 0xcb), STEP_NEXT);
    assert_int_equal(f->c->vm->mode_changes, 1); /* nothing changed the second time */
    assert_int_equal(STEP(f, 0x0f, 0x01, 0xca), STEP_NEXT);
    assert_false(f->c->rflags & FL_AC);
    assert_int_equal(f->c->vm->mode_changes, 2);
    f->c->cpl = 3;
    FAULT(f, EXC_UD, 0x0f, 0x01, 0xcb);
}

/* ---- ports ---- */

static void ports(void **state)
{
    struct fixture *f = fix(state, 64, 0);
    f->c->gpr[R_AX] = ~0ull;
    assert_int_equal(STEP(f, 0xe4, 0x80), STEP_NEXT); /* in al,80h */
    assert_int_equal(f->c->vm->io_port, 0x80);
    assert_int_equal(f->c->gpr[R_AX], 0xffffffffffffff11);
    f->c->gpr[R_DX] = 0xffff0cf8;
    assert_int_equal(STEP(f, 0xed), STEP_NEXT); /* in eax,dx */
    assert_int_equal(f->c->vm->io_port, 0xcf8);
    assert_int_equal(f->c->gpr[R_AX], 0x44332212);
    f->c->vm->io_len = 0;
    assert_int_equal(STEP(f, 0x66, 0xef), STEP_NEXT); /* out dx,ax */
    assert_int_equal(f->c->vm->io_len, 2);
    assert_int_equal(f->c->vm->io_log[0], 0x12);
    f->c->vm->io_denied = true;
    FAULT(f, EXC_GP, 0xed);
    FAULT(f, EXC_GP, 0xee);
    f->c->gpr[R_CX] = 3;
    FAULT(f, EXC_GP, 0xf3, 0x6e);
    assert_int_equal(f->c->gpr[R_CX], 3);
}

static void string_ports(void **state)
{
    struct fixture *f = fix(state, 16, 0);
    f->c->gpr[R_DX] = 0x3f8;
    f->c->gpr[R_SI] = 0x4000;
    f->c->gpr[R_CX] = 3;
    memcpy(f->mem + 0x4000, "abc", 3);
    assert_int_equal(STEP(f, 0xf3, 0x6e), STEP_NEXT); /* rep outsb keeps the port */
    assert_int_equal(f->c->vm->io_len, 3);
    assert_memory_equal(f->c->vm->io_log, "abc", 3);
    assert_int_equal(f->c->vm->io_port, 0x3f8);
    assert_int_equal(f->c->gpr[R_SI], 0x4003);
    assert_int_equal(f->c->gpr[R_CX], 0);
    f->c->vm->io_len = 0;
    f->c->gpr[R_DI] = 0x5000;
    f->c->gpr[R_CX] = 2;
    assert_int_equal(STEP(f, 0xf3, 0x6d), STEP_NEXT); /* rep insw */
    assert_int_equal(peek(f, 0x5000, 4), 0x22122211);
    f = fix(state, 64, 0);
    f->c->gpr[R_DI] = READONLY;
    FAULT(f, EXC_PF, 0x6c);
    assert_int_equal(f->c->vm->io_len, 0); /* the port was not read */
    f->c->gpr[R_DI] = 0x4000;
    assert_int_equal(STEP(f, 0x48, 0x6d), STEP_NEXT); /* REX.W: still 4 bytes */
    assert_int_equal(f->c->gpr[R_DI], 0x4004);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(real_stack_is_16_bits_wide),
        cmocka_unit_test(real_addresses),
        cmocka_unit_test(real_near_transfers),
        cmocka_unit_test(real_frames_and_pusha),
        cmocka_unit_test(real_segments_and_far),
        cmocka_unit_test(protected_checks),
        cmocka_unit_test(stack_width_is_of_ss),
        cmocka_unit_test(canonical_addresses),
        cmocka_unit_test(near_branch_with_66),
        cmocka_unit_test(cmpxchg16b),
        cmocka_unit_test(locked_operations_retry),
        cmocka_unit_test(length_limit),
        cmocka_unit_test(fetch_touches_no_page_beyond),
        cmocka_unit_test(not_in_64_bit_mode),
        cmocka_unit_test(invalid_opcodes),
        cmocka_unit_test(vector_code_is_not_ours),
        cmocka_unit_test(resume_flag),
        cmocka_unit_test(popf_and_pushf),
        cmocka_unit_test(interrupt_flag),
        cmocka_unit_test(privileged_instructions),
        cmocka_unit_test(umip),
        cmocka_unit_test(descriptor_tables),
        cmocka_unit_test(registers_of_the_system),
        cmocka_unit_test(time_and_random),
        cmocka_unit_test(transfers_to_the_system_layer),
        cmocka_unit_test(smap_flag),
        cmocka_unit_test(ports),
        cmocka_unit_test(string_ports),
    };
    return cmocka_run_group_tests(tests, fix_setup, fix_teardown);
}
