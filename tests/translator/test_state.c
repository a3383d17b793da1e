/* The translator's CPU state in and out: what is set comes back, and what it cannot have is refused. */
#include <stdarg.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(debugctl, set_up, tear_down),
        cmocka_unit_test_setup_teardown(misc_features, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
