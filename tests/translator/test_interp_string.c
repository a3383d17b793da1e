/* Hand-made cases of string instructions: wraps, requests between chunks, overlap, faults in the middle. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "test_interp_fixture.h"

static void real_strings_wrap(void **state)
{
    struct fixture *f = fix(state, 16, 0);
    for (unsigned k = 0; k < 16; k++)
        f->mem[(0xfff8 + k) & 0xffff] = (uint8_t)(k + 1);
    f->c->gpr[R_SI] = 0xaaaafff8;
    f->c->gpr[R_DI] = 0xbbbb4000;
    f->c->gpr[R_CX] = 0xcccc0010;
    assert_int_equal(STEP(f, 0xf3, 0xa4), STEP_NEXT);
    for (unsigned k = 0; k < 16; k++)
        assert_int_equal(f->mem[0x4000 + k], k + 1);
    assert_int_equal(f->c->gpr[R_SI], 0xaaaa0008);
    assert_int_equal(f->c->gpr[R_DI], 0xbbbb4010);
    assert_int_equal(f->c->gpr[R_CX], 0xcccc0000);
    f->c->gpr[R_SI] = 0xffff; /* a word at ffff leaves the segment */
    f->c->gpr[R_CX] = 2;
    FAULT(f, EXC_GP, 0xf3, 0xa5);
}

static void real_strings_wrap_down(void **state)
{
    struct fixture *f = fix(state, 16, 0);
    f->c->rflags |= FL_DF;
    for (unsigned k = 0; k < 16; k++)
        f->mem[(0xfff8 + k) & 0xffff] = (uint8_t)(k + 1);
    f->c->gpr[R_SI] = 0xaaaa0007;
    f->c->gpr[R_DI] = 0xbbbb400f;
    f->c->gpr[R_CX] = 0xcccc0010;
    assert_int_equal(STEP(f, 0xf3, 0xa4), STEP_NEXT);
    for (unsigned k = 0; k < 16; k++)
        assert_int_equal(f->mem[0x4000 + k], k + 1);
    assert_int_equal(f->c->gpr[R_SI], 0xaaaafff7);
    assert_int_equal(f->c->gpr[R_DI], 0xbbbb3fff);
    f->c->gpr[R_SI] = 0x0003; /* the second word would lie at 0001, the third at ffff */
    f->c->gpr[R_CX] = 4;
    FAULT(f, EXC_GP, 0xf3, 0xa5);
    assert_int_equal(f->c->gpr[R_CX] & 0xffff, 2);
    assert_int_equal(f->c->gpr[R_SI] & 0xffff, 0xffff);
}

/* ---- string instructions between events ---- */

static void strings_stop_for_requests(void **state)
{
    struct fixture *f = fix(state, 64, 3);
    for (unsigned k = 0; k < 0x5000; k++)
        f->mem[0x2000 + k] = (uint8_t)(k * 7);
    f->c->gpr[R_SI] = 0x2000;
    f->c->gpr[R_DI] = 0xa123;
    f->c->gpr[R_CX] = 0x5000;
    f->c->exit_request = XR_INTR;
    enum step s = STEP(f, 0xf3, 0xa4);
    unsigned steps = 1;
    while (s == STEP_AGAIN) {
        assert_int_equal(f->c->rip, 0x1000);
        assert_int_equal(f->c->gpr[R_SI] - 0x2000 + f->c->gpr[R_CX], 0x5000);
        assert_int_equal(f->c->gpr[R_DI] - 0xa123 + f->c->gpr[R_CX], 0x5000);
        s = interp_step(f->c);
        steps++;
    }
    assert_int_equal(s, STEP_NEXT);
    assert_true(steps > 5);
    assert_memory_equal(f->mem + 0x2000, f->mem + 0xa123, 0x5000);
    f->c->exit_request = 0;
    f->c->rip = 0x1000;
    f->c->gpr[R_CX] = 5;
    f->c->rflags |= FL_TF;
    assert_int_equal(STEP(f, 0xf3, 0xaa), STEP_AGAIN); /* one element at a time */
    assert_int_equal(f->c->gpr[R_CX], 4);
}

static void string_work_is_bounded(void **state)
{
    struct fixture *f = fix(state, 64, 3);
    f->c->gpr[R_SI] = 0x4000;
    f->c->gpr[R_CX] = ~0ull;
    unsigned steps = 0;
    while (STEP(f, 0xf3, 0xac) == STEP_AGAIN && steps < 4) /* rep lodsb */
        steps++;
    assert_int_equal(steps, 4);
    assert_int_equal(f->c->gpr[R_SI] - 0x4000, ~f->c->gpr[R_CX]);
}

/* What REP MOVS does, one element after the other. */
static void model_movs(uint8_t *mem, uint64_t si, uint64_t di, unsigned size, unsigned count, bool down)
{
    for (uint64_t at = 0; count-- > 0; at += down ? 0 - (uint64_t)size : size) {
        uint64_t v = 0;
        memcpy(&v, mem + si + at, size);
        memcpy(mem + di + at, &v, size);
    }
}

static void one_overlap(struct fixture *f, unsigned size, uint64_t apart, bool down)
{
    enum { LEN = 0x1800 };
    static uint8_t want[0x10000];
    uint64_t si = 0x5003 + (down ? LEN - size : 0), di = si + apart;
    for (unsigned k = 0x4000; k < 0x8000; k++)
        f->mem[k] = (uint8_t)(k * 7 + (k >> 8));
    memcpy(want, f->mem, sizeof(want));
    model_movs(want, si, di, size, LEN / size, down);
    f->c->gpr[R_SI] = si;
    f->c->gpr[R_DI] = di;
    f->c->gpr[R_CX] = LEN / size;
    cpu_set_rflags(f->c, down ? FL_1 | FL_DF : FL_1);
    enum step s = size == 8   ? STEP(f, 0xf3, 0x48, 0xa5)
                  : size == 4 ? STEP(f, 0xf3, 0xa5)
                  : size == 2 ? STEP(f, 0x66, 0xf3, 0xa5)
                              : STEP(f, 0xf3, 0xa4);
    assert_int_equal(s, STEP_NEXT); /* in chunks, or it would not be done yet */
    assert_int_equal(f->c->gpr[R_CX], 0);
    assert_int_equal(f->c->gpr[R_SI], down ? si - LEN : si + LEN);
    assert_int_equal(f->c->gpr[R_DI], down ? di - LEN : di + LEN);
    assert_memory_equal(f->mem + 0x4000, want + 0x4000, 0x4000);
}

static void strings_overlap(void **state)
{
    static const unsigned apart[] = { 0, 1, 2, 3, 4, 7, 8, 9, 16, 63, 127, 128, 129, 131, 200, 256, 1000 };
    struct fixture *f = fix(state, 64, 3);
    for (unsigned k = 0; k < array_size(apart) * 16; k++) {
        uint64_t by = apart[k / 16];
        one_overlap(f, 1u << (k & 3), k & 4 ? by : 0 - by, k & 8);
    }
}

static void strings_go_down_to_a_fault(void **state)
{
    struct fixture *f = fix(state, 64, 3);
    f->c->rflags |= FL_DF;
    for (unsigned k = 0; k < 0x1000; k++)
        f->mem[0x2000 + k] = (uint8_t)(k * 7);
    f->c->gpr[R_DI] = HOLE + 0x17fd; /* elements do not meet the page's start */
    f->c->gpr[R_AX] = 0x1122334455667788;
    f->c->gpr[R_CX] = 0x300;
    faulted(f, STEP(f, 0xf3, 0x48, 0xab), EXC_PF, 0x1000);
    assert_int_equal(f->c->gpr[R_DI], (uint64_t)HOLE + 0xffd);
    assert_int_equal(f->c->gpr[R_CX], 0x300 - 0x100);
    assert_int_equal(f->c->exc.cr2, (uint64_t)HOLE + 0xffd);
    for (unsigned k = 0; k < 0x100; k++)
        assert_int_equal(peek(f, HOLE + 0x1000 + 5 + 8 * k, 8), 0x1122334455667788);
    assert_int_equal(peek(f, HOLE + 0x1000, 5), 0);
    f->c->gpr[R_SI] = 0x2fff;
    f->c->gpr[R_DI] = HOLE + 0x17ff;
    f->c->gpr[R_CX] = 0x1000;
    faulted(f, STEP(f, 0xf3, 0xa4), EXC_PF, 0x1000);
    assert_int_equal(f->c->gpr[R_DI], HOLE + 0xfff);
    assert_int_equal(f->c->gpr[R_SI], 0x27ff);
    assert_int_equal(f->c->gpr[R_CX], 0x800);
    assert_memory_equal(f->mem + HOLE + 0x1000, f->mem + 0x2800, 0x800);
    f->c->gpr[R_DI] = READONLY + 0xff0; /* not the lowest element, though there is a chunk */
    FAULT(f, EXC_PF, 0xf3, 0x48, 0xab);
    assert_int_equal(f->c->exc.cr2, READONLY + 0xff0);
    FAULT(f, EXC_PF, 0xf3, 0x48, 0xa5);
    assert_int_equal(f->c->exc.cr2, READONLY + 0xff0);
    assert_int_equal(f->c->gpr[R_CX], 0x800);
    /* the careful page */
    f->c->gpr[R_SI] = 0x2ff7;
    f->c->gpr[R_DI] = CAREFUL + 0xff3;
    f->c->gpr[R_CX] = 0x1000 / 8;
    assert_int_equal(STEP(f, 0xf3, 0x48, 0xa5), STEP_NEXT);
    assert_memory_equal(f->mem + CAREFUL - 5, f->mem + 0x1fff, 0x1000);
}

static void strings_into_code_pages_and_faults(void **state)
{
    struct fixture *f = fix(state, 64, 3);
    f->c->gpr[R_DI] = CAREFUL - 3; /* into the careful page and on into the read-only one */
    f->c->gpr[R_AX] = 0x1122334455667788;
    f->c->gpr[R_CX] = 0x400;
    enum step s = STEP(f, 0xf3, 0x48, 0xab);
    while (s == STEP_AGAIN)
        s = interp_step(f->c);
    faulted(f, s, EXC_PF, 0x1000);
    assert_int_equal(f->c->exc.cr2, READONLY); /* the element that crosses */
    assert_int_equal(f->c->gpr[R_DI], READONLY - 3);
    assert_int_equal(f->c->gpr[R_CX], 0x400 - 0x200);
    for (unsigned k = 0; k < 0x200; k++)
        assert_int_equal(peek(f, CAREFUL - 3 + 8 * k, 8), 0x1122334455667788);
    assert_int_equal(peek(f, READONLY - 3, 3), 0);
    f->c->gpr[R_SI] = CAREFUL - 3;
    f->c->gpr[R_DI] = CAREFUL + 0x100;
    f->c->gpr[R_CX] = 0x20;
    poke(f, CAREFUL - 3, 0xabcdef, 3);
    assert_int_equal(STEP(f, 0xf3, 0xa4), STEP_NEXT);
    assert_int_equal(peek(f, CAREFUL + 0x100, 4), 0x55abcdef);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(real_strings_wrap),
        cmocka_unit_test(real_strings_wrap_down),
        cmocka_unit_test(strings_stop_for_requests),
        cmocka_unit_test(string_work_is_bounded),
        cmocka_unit_test(strings_overlap),
        cmocka_unit_test(strings_go_down_to_a_fault),
        cmocka_unit_test(strings_into_code_pages_and_faults),
    };
    return cmocka_run_group_tests(tests, fix_setup, fix_teardown);
}
