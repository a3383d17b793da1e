/* The comparison of translated code with the general path, over fakes of both: a "block" adds 1 to RAX and
 * stores RAX at `ram`, and what either does wrong is the test's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/translator/cache.h"
#include "engine/translator/interp.h"
#include "engine/translator/shadow.h"
#include "engine/translator/sys_priv.h"

#define START 0x1000
#define INSN_LEN 4

static struct tcpu cpu;
static struct shadow shadow;
static struct tb_facts block;
static uint64_t ram;
static unsigned steps, reports;
static int translated_wrong, translated_store_wrong;
static uint32_t translated_flags;
static bool meets_device;
static struct shadow_regs said_general, said_translated;

bool sys_next_rip(struct tcpu *c, uint64_t *next)
{
    *next = c->rip + INSN_LEN;
    return true;
}

enum step interp_step(struct tcpu *c)
{
    steps++;
    if (meets_device) {
        c->shadow->stopped = true;
        return STEP_FAULT;
    }
    c->gpr[R_AX] += 1;
    if (!shadow_note(c->shadow, &ram, sizeof(ram)))
        return STEP_FAULT;
    ram += c->gpr[R_AX];
    c->rip += INSN_LEN;
    return STEP_NEXT;
}

enum exit_reason vcpu_run_block(struct tcpu *c, uint32_t mode)
{
    (void)mode;
    for (unsigned i = 0; i < block.insns; i++) {
        c->gpr[R_AX] += 1 + (uint64_t)translated_wrong;
        ram += c->gpr[R_AX] + (uint64_t)translated_store_wrong;
        c->rip += INSN_LEN;
    }
    cpu_set_rflags(c, cpu_rflags(c) ^ translated_flags);
    return XIT_LOOKUP;
}

void cpu_heavy_begin(struct tcpu *c)
{
    (void)c;
}

void cpu_heavy_end(struct tcpu *c)
{
    (void)c;
}

void heavy_shadow_differs(struct tcpu *c, const struct shadow_regs *start, const struct shadow_regs *general,
                          const struct shadow_regs *translated, const struct shadow_write *store,
                          uint64_t flags)
{
    (void)c;
    (void)store;
    (void)flags;
    assert_int_equal(start->rip, START);
    said_general = *general;
    said_translated = *translated;
    reports++;
}

static int setup(void **state)
{
    (void)state;
    memset(&shadow, 0, sizeof(shadow));
    memset(&cpu, 0, sizeof(cpu));
    cpu.shadow = &shadow;
    cpu.rip = START;
    cpu.gpr[R_AX] = 10;
    cpu_set_rflags(&cpu, 2);
    block = (struct tb_facts){ .insns = 3, .plain = true };
    ram = 1000;
    steps = reports = 0;
    translated_wrong = translated_store_wrong = 0;
    translated_flags = 0;
    meets_device = false;
    return 0;
}

static void run(void)
{
    assert_int_equal(shadow_run_block(&cpu, 0, &block), XIT_LOOKUP);
}

static void expect_counts(unsigned compared, unsigned skipped, unsigned different)
{
    assert_int_equal(cpu.counters[TC_SHADOW_COMPARED], compared);
    assert_int_equal(cpu.counters[TC_SHADOW_SKIPPED], skipped);
    assert_int_equal(cpu.counters[TC_SHADOW_DIFFERENT], different);
}

static void alike(void **state)
{
    (void)state;
    run();
    assert_int_equal(steps, 3);
    assert_int_equal(cpu.gpr[R_AX], 13);
    assert_int_equal(ram, 1000 + 11 + 12 + 13); /* once, not twice */
    expect_counts(1, 0, 0);
    assert_int_equal(reports, 0);
}

static void a_register_differs(void **state)
{
    (void)state;
    translated_wrong = 5;
    run();
    expect_counts(1, 0, 1);
    assert_int_equal(reports, 1);
    assert_int_equal(said_general.gpr[R_AX], 13);
    assert_int_equal(said_translated.gpr[R_AX], 28);
    assert_int_equal(cpu.gpr[R_AX], 13); /* the guest goes on with the general path's */
    assert_int_equal(ram, 1000 + 11 + 12 + 13);
    cpu.rip = START;
    run();
    expect_counts(2, 0, 2);
    assert_int_equal(reports, 1); /* the first alone is told */
}

static void a_store_differs(void **state)
{
    (void)state;
    translated_store_wrong = 1;
    run();
    expect_counts(1, 0, 1);
    assert_int_equal(reports, 1);
    assert_int_equal(ram, 1000 + 11 + 12 + 13);
}

static void flags_differ(void **state)
{
    (void)state;
    translated_flags = FL_ZF;
    run();
    expect_counts(1, 0, 1);
    setup(NULL);
    translated_flags = FL_ZF;
    block.undefined_flags = FL_ZF;
    run();
    expect_counts(1, 0, 0);
}

static void a_device_cannot_be_rehearsed(void **state)
{
    (void)state;
    meets_device = true;
    run();
    assert_int_equal(cpu.gpr[R_AX], 13);
    assert_int_equal(ram, 1000 + 11 + 12 + 13);
    expect_counts(0, 1, 0);
}

static void blocks_that_are_not_plain(void **state)
{
    (void)state;
    block.plain = false;
    run();
    assert_int_equal(steps, 0);
    expect_counts(0, 1, 0);
}

/* More stores than there is room for. */
static void a_long_block(void **state)
{
    (void)state;
    block.insns = SHADOW_WRITES + 1;
    run();
    expect_counts(0, 1, 0);
    assert_int_equal(cpu.gpr[R_AX], 10 + SHADOW_WRITES + 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(alike, setup),
        cmocka_unit_test_setup(a_register_differs, setup),
        cmocka_unit_test_setup(a_store_differs, setup),
        cmocka_unit_test_setup(flags_differ, setup),
        cmocka_unit_test_setup(a_device_cannot_be_rehearsed, setup),
        cmocka_unit_test_setup(blocks_that_are_not_plain, setup),
        cmocka_unit_test_setup(a_long_block, setup),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
