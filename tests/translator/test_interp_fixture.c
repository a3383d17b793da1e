/* See test_interp_fixture.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "test_interp_fixture.h"

struct fixture *fix(void **state, unsigned bits, uint8_t cpl)
{
    struct fixture *f = *state;
    memset(f->mem, 0, sizeof(f->mem));
    memset(f->c->gpr, 0, sizeof(f->c->gpr));
    *f->c->vm = (struct tvm){ .rng = 7 };
    f->c->exc.pending = 0;
    f->c->cr4 = 0;
    f->c->int_shadow = 0;
    f->c->exit_request = 0;
    cpu_set_rflags(f->c, FL_1);
    fake_map(f->c, 0, CAREFUL, f->mem, FAKE_R | FAKE_W | FAKE_X, false);
    fake_map(f->c, CAREFUL, 0x1000, f->mem + CAREFUL, FAKE_R | FAKE_W | FAKE_X, true);
    fake_map(f->c, READONLY, 0x1000, f->mem + READONLY, FAKE_R, false);
    fake_map(f->c, HOLE, 0x1000, f->mem + HOLE, 0, false);
    fake_map(f->c, HOLE + 0x1000, 0x1000, f->mem + HOLE + 0x1000, FAKE_R | FAKE_W | FAKE_X, false);
    fake_mode(f->c, bits, cpl);
    f->c->rip = 0x1000;
    f->c->gpr[R_SP] = 0x8000;
    return f;
}

enum step step_bytes(struct fixture *f, const void *code, unsigned len)
{
    uint64_t lin = f->c->rip + (cpu_code64(f->c) ? 0 : f->c->seg[S_CS].base);
    memcpy(f->mem + lin, code, len);
    return interp_step(f->c);
}

uint64_t peek(struct fixture *f, uint64_t lin, unsigned n)
{
    uint64_t v = 0;
    memcpy(&v, f->mem + lin, n);
    return v;
}
void poke(struct fixture *f, uint64_t lin, uint64_t v, unsigned n)
{
    memcpy(f->mem + lin, &v, n);
}

/* The step faulted with this vector, left no trace, and the next case may start. */
void faulted(struct fixture *f, enum step s, unsigned vector, uint64_t rip)
{
    assert_int_equal(s, STEP_FAULT);
    assert_true(f->c->exc.pending);
    assert_int_equal(f->c->exc.vector, vector);
    if (vector == EXC_GP || vector == EXC_SS)
        assert_int_equal(f->c->exc.error, 0);
    assert_int_equal(f->c->rip, rip);
    f->c->exc.pending = 0;
}

void called(struct fixture *f, const char *name, uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
    assert_non_null(f->c->vm->call.name);
    assert_string_equal(f->c->vm->call.name, name);
    assert_int_equal(f->c->vm->call.arg[0], a);
    assert_int_equal(f->c->vm->call.arg[1], b);
    assert_int_equal(f->c->vm->call.arg[2], c);
    assert_int_equal(f->c->vm->call.arg[3], d);
    f->c->vm->call = (struct fake_call){ 0 };
}

int fix_setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    if (!f)
        return -1;
    f->c = fake_cpu_new();
    *state = f;
    return 0;
}

int fix_teardown(void **state)
{
    struct fixture *f = *state;
    fake_cpu_free(f->c);
    free(f);
    return 0;
}
