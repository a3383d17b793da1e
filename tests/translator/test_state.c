/* The translator's CPU state in and out: what is set comes back, and what it cannot have is refused. */
#include <stdarg.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <cpuid.h>

#include "engine/engine.h"
#include "x86/regs.h"
#include "x86/state.h"

#define LBR 1u
#define BTF 2u
#define BTS 0x80u /* branch trace store, which the guest's CPUID does not offer */

struct fixture {
    struct engine_vm *vm;
    struct engine_vcpu *cpu;
    struct x86_state *s;
};

static int set_up(void **state)
{
    struct engine_config cfg = { .vcpu_count = 1 };
    struct yado_error err = YADO_ERROR_INIT;
    struct fixture *f = calloc(1, sizeof(*f));

    assert_non_null(f);
    f->s = aligned_alloc(64, sizeof(*f->s));
    assert_non_null(f->s);
    assert_true(engine_translator.open(&f->vm, &cfg, &err));
    f->cpu = engine_translator.vcpu(f->vm, 0);
    x86_state_reset(f->s, 0);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    engine_translator.close(f->vm);
    free(f->s);
    free(f);
    return 0;
}

static void debugctl(void **state)
{
    struct fixture *f = *state;
    struct yado_error err = YADO_ERROR_INIT;

    f->s->debugctl = LBR | BTF;
    assert_true(engine_translator.set_state(f->cpu, f->s, &err));
    memset(f->s, 0, sizeof(*f->s));
    assert_true(engine_translator.get_state(f->cpu, f->s, &err));
    assert_int_equal(f->s->debugctl, LBR | BTF);
    f->s->debugctl |= BTS;
    assert_false(engine_translator.set_state(f->cpu, f->s, &err));
    assert_non_null(strstr(err.message, "0x1d9"));
    assert_true(engine_translator.get_state(f->cpu, f->s, &err));
    assert_int_equal(f->s->debugctl, LBR | BTF);
}

static void misc_features(void **state)
{
    struct fixture *f = *state;
    struct yado_error err = YADO_ERROR_INIT;

    f->s->misc_features = 1;
    assert_false(engine_translator.set_state(f->cpu, f->s, &err));
    assert_non_null(strstr(err.message, "0x140"));
}

/* Of what this host has: mask registers and zmm16 to 31 among it. XCR0 with more is refused. */
static void vectors(void **state)
{
    struct fixture *f = *state;
    struct yado_error err = YADO_ERROR_INIT;
    uint32_t lo, hi, size, at, c, d;
    uint8_t want[X86_XSAVE_MAX];

    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    f->s->xcr0 = (lo & 0xe0) == 0xe0 ? 0xe7 : lo & 7;
    memcpy(f->s->xsave + 512, &f->s->xcr0, 8);
    for (unsigned i = 2; i < 8; i++) {
        __cpuid_count(0xd, i, size, at, c, d);
        if (f->s->xcr0 >> i & 1)
            memset(f->s->xsave + at, (int)(0xa0 + i), size);
    }
    memcpy(want, f->s->xsave, sizeof(want));
    memset(want + 28, 0, 4); /* MXCSR_MASK is not state */
    assert_true(engine_translator.set_state(f->cpu, f->s, &err));
    memset(f->s, 0, sizeof(*f->s));
    assert_true(engine_translator.get_state(f->cpu, f->s, &err));
    assert_memory_equal(f->s->xsave, want, sizeof(want));
    f->s->xcr0 |= 1u << 18; /* AMX's tiles */
    assert_false(engine_translator.set_state(f->cpu, f->s, &err));
    assert_non_null(strstr(err.message, "XCR0"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(debugctl, set_up, tear_down),
        cmocka_unit_test_setup_teardown(misc_features, set_up, tear_down),
        cmocka_unit_test_setup_teardown(vectors, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
