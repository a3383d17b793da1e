/* 8254: Intel 8254 data sheet (231164-005). */
#include "chip_test.h"

#include "chip/pit.h"

struct fixture {
    struct pit *pit;
    struct fake_clock clock;
    struct fake_line irq;
    uint64_t armed;
};

static void on_arm(void *ctx, uint64_t deadline)
{
    struct fixture *f = ctx;

    f->armed = deadline;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    f->clock.ns = 1000;
    f->pit = pit_new(
        &(struct pit_config){
            .clock = fake_clock_get(&f->clock), .irq = fake_line_get(&f->irq), .arm = on_arm, .ctx = f },
        NULL);
    *state = f;
    return !f->pit;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    pit_free(f->pit);
    free(f);
    return 0;
}

static void out(struct fixture *f, unsigned off, uint8_t v)
{
    reg_write(&pit_ops, f->pit, off, 1, v);
}

static uint8_t in(struct fixture *f, unsigned off)
{
    return (uint8_t)reg_read(&pit_ops, f->pit, off, 1);
}

static void load(struct fixture *f, unsigned counter, unsigned mode, uint16_t count)
{
    out(f, 3, (uint8_t)(counter << 6 | 0x30 | mode << 1));
    out(f, counter, (uint8_t)count);
    out(f, counter, (uint8_t)(count >> 8));
}

/* So many ticks later, and a few nanoseconds. */
static void pass(struct fixture *f, uint64_t ticks)
{
    f->clock.ns += ticks * 1000000000ull / PIT_HZ + 10;
}

static uint16_t count_of(struct fixture *f, unsigned counter)
{
    uint16_t low;

    out(f, 3, (uint8_t)(counter << 6));
    low = in(f, counter);
    return (uint16_t)(low | in(f, counter) << 8);
}

static uint8_t status_of(struct fixture *f, unsigned counter)
{
    out(f, 3, (uint8_t)(0xe0 | 2u << counter));
    return in(f, counter);
}

static void gate2(struct fixture *f, bool on)
{
    reg_write(&pit_control_ops, f->pit, 0, 1, on);
}

static bool out2(struct fixture *f)
{
    return reg_read(&pit_control_ops, f->pit, 0, 1) & 0x20;
}

/* Timer calls until `ns`, as the loop would make them. */
static void run_until(struct fixture *f, uint64_t ns)
{
    while (f->armed <= ns) {
        f->clock.ns = max_u64(f->clock.ns, f->armed);
        pit_timer(f->pit);
    }
    f->clock.ns = ns;
}

static void firmware_rate(void **state)
{
    struct fixture *f = *state;
    unsigned before = f->irq.rises;

    assert_int_equal(status_of(f, 0) & 0x7f, 0x34);
    run_until(f, 10000001000ull);
    assert_in_range(f->irq.rises - before, 181, 183); /* 18.2 Hz */
}

static void mode_2_counts_and_interrupts(void **state)
{
    struct fixture *f = *state;
    unsigned before;

    load(f, 0, 2, 1193); /* 1 kHz */
    before = f->irq.rises;
    assert_int_equal(count_of(f, 0), 1193);
    pass(f, 100);
    assert_int_equal(count_of(f, 0), 1093);
    pass(f, 1193);
    assert_int_equal(count_of(f, 0), 1093);
    run_until(f, f->clock.ns + 1000000000ull);
    assert_in_range(f->irq.rises - before, 999, 1003);
}

static void mode_3_is_a_square_wave(void **state)
{
    struct fixture *f = *state;

    gate2(f, true);
    load(f, 2, 3, 1000);
    assert_true(out2(f));
    pass(f, 400);
    assert_true(out2(f));
    assert_int_equal(count_of(f, 2), 200); /* by twos */
    pass(f, 200);
    assert_false(out2(f));
    pass(f, 500);
    assert_true(out2(f));
}

static void mode_0_interrupts_once(void **state)
{
    struct fixture *f = *state;
    unsigned before;

    out(f, 3, 0x30);
    assert_false(f->irq.level); /* OUT falls with the mode */
    before = f->irq.rises;
    out(f, 0, 0xe8);
    out(f, 0, 0x03);
    run_until(f, f->clock.ns + 500000);
    assert_int_equal(f->irq.rises, before);
    run_until(f, f->clock.ns + 500000);
    assert_int_equal(f->irq.rises, before + 1);
    run_until(f, f->clock.ns + 1000000000);
    assert_int_equal(f->irq.rises, before + 1);
    assert_true(f->armed == PIT_NEVER);
}

static void mode_0_gate_holds_the_count(void **state)
{
    struct fixture *f = *state;

    gate2(f, true);
    load(f, 2, 0, 1000);
    assert_false(out2(f));
    pass(f, 300);
    gate2(f, false);
    pass(f, 5000);
    assert_false(out2(f));
    assert_int_equal(count_of(f, 2), 700);
    gate2(f, true);
    pass(f, 600);
    assert_false(out2(f));
    pass(f, 101);
    assert_true(out2(f));
}

static void mode_1_waits_for_its_trigger(void **state)
{
    struct fixture *f = *state;

    gate2(f, false);
    load(f, 2, 1, 1000);
    pass(f, 2000);
    assert_true(out2(f));
    gate2(f, true);
    assert_false(out2(f));
    gate2(f, false); /* does not stop it */
    pass(f, 999);
    assert_false(out2(f));
    pass(f, 2);
    assert_true(out2(f));
}

static void mode_2_gate_reloads(void **state)
{
    struct fixture *f = *state;

    gate2(f, true);
    load(f, 2, 2, 1000);
    pass(f, 400);
    gate2(f, false);
    assert_true(out2(f));
    pass(f, 50);
    gate2(f, true);
    assert_int_equal(count_of(f, 2), 1000);
}

static void mode_4_strobes(void **state)
{
    struct fixture *f = *state;

    load(f, 0, 4, 1000);
    assert_true(status_of(f, 0) & 0x80);
    f->clock.ns += 1000ull * 1000000000 / PIT_HZ + 300;
    assert_false(status_of(f, 0) & 0x80);
    pass(f, 1);
    assert_true(status_of(f, 0) & 0x80);
}

static void latches(void **state)
{
    struct fixture *f = *state;
    uint8_t low;

    load(f, 0, 2, 0x8000);
    out(f, 3, 0x00);
    pass(f, 0x123);
    out(f, 3, 0x00); /* the first one holds */
    low = in(f, 0);
    assert_int_equal(low | in(f, 0) << 8, 0x8000);
    out(f, 3, 0xc2); /* read-back: status and count of counter 0 */
    assert_int_equal(in(f, 0) & 0x3f, 0x34);
    low = in(f, 0);
    assert_int_equal(low | in(f, 0) << 8, 0x8000 - 0x123);
}

static void single_bytes(void **state)
{
    struct fixture *f = *state;

    out(f, 3, 0x14);                     /* counter 0, low byte, mode 2 */
    assert_true(status_of(f, 0) & 0x40); /* null count */
    out(f, 0, 100);
    assert_int_equal(status_of(f, 0) & 0x7f, 0x14);
    assert_int_equal(in(f, 0), 100);
    out(f, 3, 0x24); /* high byte */
    out(f, 0, 2);
    assert_int_equal(in(f, 0), 2);
}

static void a_count_of_one_does_not_hang(void **state)
{
    struct fixture *f = *state;
    unsigned calls = 0;

    load(f, 0, 2, 1);
    for (uint64_t end = f->clock.ns + 1000000; f->armed <= end; calls++) {
        f->clock.ns = max_u64(f->clock.ns, f->armed);
        pit_timer(f->pit);
    }
    assert_in_range(calls, 1, 25);
    load(f, 0, 3, 1);
    count_of(f, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(firmware_rate, setup, teardown),
        cmocka_unit_test_setup_teardown(mode_2_counts_and_interrupts, setup, teardown),
        cmocka_unit_test_setup_teardown(mode_3_is_a_square_wave, setup, teardown),
        cmocka_unit_test_setup_teardown(mode_0_interrupts_once, setup, teardown),
        cmocka_unit_test_setup_teardown(mode_0_gate_holds_the_count, setup, teardown),
        cmocka_unit_test_setup_teardown(mode_1_waits_for_its_trigger, setup, teardown),
        cmocka_unit_test_setup_teardown(mode_2_gate_reloads, setup, teardown),
        cmocka_unit_test_setup_teardown(mode_4_strobes, setup, teardown),
        cmocka_unit_test_setup_teardown(latches, setup, teardown),
        cmocka_unit_test_setup_teardown(single_bytes, setup, teardown),
        cmocka_unit_test_setup_teardown(a_count_of_one_does_not_hang, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
