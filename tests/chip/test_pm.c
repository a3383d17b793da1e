/* Power management, keyboard controller reset, debug exit. ACPI 6.4, section 4.8. */
#include "chip_test.h"

#include "chip/debug_exit.h"
#include "chip/i8042.h"
#include "chip/pm.h"

#define SEC 1000000000ull

struct fixture {
    struct pm *pm;
    struct fake_clock clock;
    struct fake_line sci;
    unsigned power_offs, resets;
    uint32_t exit_value;
};

static void on_power_off(void *ctx)
{
    ((struct fixture *)ctx)->power_offs++;
}

static void on_reset(void *ctx)
{
    ((struct fixture *)ctx)->resets++;
}

static void on_exit_value(void *ctx, uint32_t value)
{
    ((struct fixture *)ctx)->exit_value = value;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct pm_config cfg = {
        .sci = fake_line_get(&f->sci), .power_off = on_power_off, .reset = on_reset, .ctx = f
    };

    f->clock.ns = 77 * SEC;
    cfg.clock = fake_clock_get(&f->clock);
    f->pm = pm_new(&cfg, NULL);
    *state = f;
    return f->pm ? 0 : -1;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    pm_free(f->pm);
    free(f);
    return 0;
}

static uint32_t get(struct fixture *f, unsigned off, unsigned width)
{
    return (uint32_t)reg_read(&pm_ops, f->pm, off, width);
}

static void put(struct fixture *f, unsigned off, unsigned width, uint32_t value)
{
    reg_write(&pm_ops, f->pm, off, width, value);
}

static void timer_rate_and_wrap(void **state) /* 4.8.2.1: 3.579545 MHz, 32 bits */
{
    struct fixture *f = *state;

    assert_int_equal(get(f, PM_TMR_OFF, 4), 0);
    f->clock.ns += SEC;
    assert_int_equal(get(f, PM_TMR_OFF, 4), 3579545);
    f->clock.ns += SEC / 2;
    assert_int_equal(get(f, PM_TMR_OFF, 4), 3579545 + 3579545 / 2);
    assert_int_equal(get(f, 0, 2) & 1, 0);
    f->clock.ns += 600 * SEC; /* bit 31 changes after 599.9 s */
    assert_int_equal(get(f, 0, 2) & 1, 1);
    put(f, 0, 2, 1);
    assert_int_equal(get(f, 0, 2) & 1, 0);
    f->clock.ns = 77 * SEC + 1200 * SEC;
    assert_int_equal(get(f, PM_TMR_OFF, 4), (uint32_t)(1200ull * 3579545));
    assert_int_equal(get(f, PM_TMR_OFF + 3, 1), (uint32_t)(1200ull * 3579545) >> 24);
    put(f, PM_TMR_OFF, 4, 0);
    assert_int_equal(get(f, PM_TMR_OFF, 4), (uint32_t)(1200ull * 3579545));
}

static void power_button(void **state) /* 4.8.3.1 */
{
    struct fixture *f = *state;

    pm_press_power_button(f->pm);
    assert_false(f->sci.level);
    assert_int_equal(get(f, 0, 2), 0x0100);
    put(f, 2, 2, 0xffff);
    assert_true(f->sci.level);
    put(f, 0, 1, 0xff); /* the other byte */
    assert_true(f->sci.level);
    put(f, 0, 2, 0x0100);
    assert_false(f->sci.level);
    assert_int_equal(get(f, 0, 2), 0);
    pm_press_power_button(f->pm);
    assert_true(f->sci.level);
    put(f, 3, 1, 0);
    assert_false(f->sci.level);
    assert_int_equal(get(f, 2, 2), 0x0020);
}

static void always_acpi_mode(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(get(f, PM1_CNT_OFF, 2), 1);
    put(f, PM1_CNT_OFF, 2, 0);
    assert_int_equal(get(f, PM1_CNT_OFF, 2), 1);
}

static void soft_off(void **state) /* 4.8.3.2.1 */
{
    struct fixture *f = *state;

    put(f, PM1_CNT_OFF, 2, PM_SLP_TYP_S5 << 10); /* the type alone does nothing */
    assert_int_equal(f->power_offs, 0);
    put(f, PM1_CNT_OFF, 2, PM_SLP_TYP_S5 << 10 | 1 << 13);
    assert_int_equal(f->power_offs, 1);
    assert_int_equal(get(f, PM1_CNT_OFF, 2) & 1 << 13, 0);
    put(f, PM1_CNT_OFF + 1, 1, (PM_SLP_TYP_S5 << 10 | 1 << 13) >> 8);
    assert_int_equal(f->power_offs, 2);
}

static void other_sleep_wakes_at_once(void **state)
{
    struct fixture *f = *state;

    put(f, PM1_CNT_OFF, 2, 3 << 10 | 1 << 13);
    assert_int_equal(f->power_offs, 0);
    assert_int_equal(get(f, 0, 2) & 0x8000, 0x8000);
}

static void reset_register(void **state)
{
    struct fixture *f = *state;

    reg_write(&pm_reset_ops, f->pm, 0, 1, 0x02); /* hard, but not yet */
    assert_int_equal(f->resets, 0);
    assert_int_equal(reg_read(&pm_reset_ops, f->pm, 0, 1), 0x02);
    reg_write(&pm_reset_ops, f->pm, 0, 1, PM_RESET_VALUE);
    assert_int_equal(f->resets, 1);
}

static void reset_of_the_chip(void **state)
{
    struct fixture *f = *state;

    put(f, 2, 2, 0x0100);
    pm_press_power_button(f->pm);
    f->clock.ns += SEC;
    pm_reset(f->pm);
    assert_false(f->sci.level);
    assert_int_equal(get(f, 0, 4), 0);
    assert_int_equal(get(f, PM_TMR_OFF, 4), 0);
}

static void keyboard_controller(void **state)
{
    struct fixture *f = *state;
    struct i8042 *k = i8042_new(&(struct i8042_config){ .reset = on_reset, .ctx = f }, NULL);

    assert_int_equal(reg_read(&i8042_ops, k, 0, 1), 0xff);
    reg_write(&i8042_ops, k, 0, 1, 0xd1);
    assert_int_equal(f->resets, 0);
    reg_write(&i8042_ops, k, 0, 1, 0xfe);
    assert_int_equal(f->resets, 1);
    i8042_free(k);
}

static void debug_exit_port(void **state)
{
    struct fixture *f = *state;
    struct debug_exit *d =
        debug_exit_new(&(struct debug_exit_config){ .ended = on_exit_value, .ctx = f }, NULL);

    assert_int_equal(reg_read(&debug_exit_ops, d, 0, 4), 0);
    reg_write(&debug_exit_ops, d, 0, 4, 0xdeadbeef);
    assert_int_equal(f->exit_value, 0xdeadbeef);
    debug_exit_free(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(timer_rate_and_wrap, setup, teardown),
        cmocka_unit_test_setup_teardown(power_button, setup, teardown),
        cmocka_unit_test_setup_teardown(always_acpi_mode, setup, teardown),
        cmocka_unit_test_setup_teardown(soft_off, setup, teardown),
        cmocka_unit_test_setup_teardown(other_sleep_wakes_at_once, setup, teardown),
        cmocka_unit_test_setup_teardown(reset_register, setup, teardown),
        cmocka_unit_test_setup_teardown(reset_of_the_chip, setup, teardown),
        cmocka_unit_test_setup_teardown(keyboard_controller, setup, teardown),
        cmocka_unit_test_setup_teardown(debug_exit_port, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
