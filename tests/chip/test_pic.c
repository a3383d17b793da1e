/* 8259A pair: Intel 8259A data sheet (231468-003); names of commands are the sheet's. */
#include "chip_test.h"

#include "chip/pic.h"

struct fixture {
    struct pic *pic;
    struct fake_line out;
};

static void unit_write(struct fixture *f, unsigned unit, uint64_t off, uint8_t v)
{
    reg_write(&pic_unit_ops, pic_unit(f->pic, unit), off, 1, v);
}

static uint8_t unit_read(struct fixture *f, unsigned unit, uint64_t off)
{
    return (uint8_t)reg_read(&pic_unit_ops, pic_unit(f->pic, unit), off, 1);
}

/* ICW1 to ICW4 as every PC's system does it; all inputs open. */
static void program(struct fixture *f, uint8_t icw4)
{
    for (unsigned i = 0; i < 2; i++) {
        unit_write(f, i, 0, 0x11);
        unit_write(f, i, 1, i ? 0x28 : 0x20);
        unit_write(f, i, 1, i ? 2 : 4);
        unit_write(f, i, 1, icw4);
        unit_write(f, i, 1, 0);
    }
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    f->pic = pic_new(&(struct pic_config){ .out = fake_line_get(&f->out) }, NULL);
    *state = f;
    return !f->pic;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    pic_free(f->pic);
    free(f);
    return 0;
}

static uint8_t isr_of(struct fixture *f, unsigned unit)
{
    unit_write(f, unit, 0, 0x0b); /* OCW3: read ISR */
    return unit_read(f, unit, 0);
}

static uint8_t irr_of(struct fixture *f, unsigned unit)
{
    unit_write(f, unit, 0, 0x0a);
    return unit_read(f, unit, 0);
}

static void after_reset(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(unit_read(f, 0, 1), 0xb8);
    assert_int_equal(unit_read(f, 1, 1), 0x8e);
    assert_false(f->out.level);
    line_set(pic_line(f->pic, 0), true);
    assert_true(f->out.level);
    assert_int_equal(pic_acknowledge(f->pic), 8);
}

static void edge_is_latched_until_acknowledged(void **state)
{
    struct fixture *f = *state;

    program(f, 1);
    line_set(pic_line(f->pic, 3), true);
    assert_true(f->out.level);
    assert_int_equal(irr_of(f, 0), 8);
    line_set(pic_line(f->pic, 3), false);
    assert_true(f->out.level);
    assert_int_equal(pic_acknowledge(f->pic), 0x23);
    assert_false(f->out.level);
    assert_int_equal(irr_of(f, 0), 0);
    assert_int_equal(isr_of(f, 0), 8);
    unit_write(f, 0, 0, 0x20); /* nonspecific EOI */
    assert_int_equal(isr_of(f, 0), 0);
    line_set(pic_line(f->pic, 3), true); /* another edge */
    line_set(pic_line(f->pic, 3), true); /* and none */
    assert_int_equal(pic_acknowledge(f->pic), 0x23);
    unit_write(f, 0, 0, 0x63); /* specific EOI */
    assert_int_equal(isr_of(f, 0), 0);
    assert_false(f->out.level);
}

static void priorities_nest(void **state)
{
    struct fixture *f = *state;

    program(f, 1);
    line_set(pic_line(f->pic, 4), true);
    line_set(pic_line(f->pic, 6), true);
    assert_int_equal(pic_acknowledge(f->pic), 0x24);
    assert_false(f->out.level); /* 6 waits for 4's end */
    line_set(pic_line(f->pic, 1), true);
    assert_true(f->out.level); /* 1 does not */
    assert_int_equal(pic_acknowledge(f->pic), 0x21);
    unit_write(f, 0, 0, 0x20);
    assert_int_equal(isr_of(f, 0), 0x10);
    unit_write(f, 0, 0, 0x20);
    assert_int_equal(pic_acknowledge(f->pic), 0x26);
}

static void masked_input_waits(void **state)
{
    struct fixture *f = *state;

    program(f, 1);
    unit_write(f, 0, 1, 0x10);
    line_set(pic_line(f->pic, 4), true);
    assert_false(f->out.level);
    unit_write(f, 0, 1, 0);
    assert_true(f->out.level);
    unit_write(f, 0, 1, 0x10);
    assert_false(f->out.level);
    assert_int_equal(pic_acknowledge(f->pic), 0x27); /* spurious */
    assert_int_equal(isr_of(f, 0), 0);
}

static void second_chip_comes_by_input_2(void **state)
{
    struct fixture *f = *state;

    program(f, 1);
    line_set(pic_line(f->pic, 12), true);
    assert_int_equal(irr_of(f, 0), 4);
    assert_int_equal(pic_acknowledge(f->pic), 0x2c);
    assert_int_equal(isr_of(f, 0), 4);
    assert_int_equal(isr_of(f, 1), 0x10);
    line_set(pic_line(f->pic, 8), true); /* higher, but the first chip's input 2 is in service */
    assert_false(f->out.level);
    unit_write(f, 0, 0, 0x62);
    assert_int_equal(pic_acknowledge(f->pic), 0x28);
}

static void special_fully_nested_mode(void **state)
{
    struct fixture *f = *state;

    program(f, 0x11);
    line_set(pic_line(f->pic, 12), true);
    assert_int_equal(pic_acknowledge(f->pic), 0x2c);
    line_set(pic_line(f->pic, 8), true);
    assert_true(f->out.level);
    assert_int_equal(pic_acknowledge(f->pic), 0x28);
}

static void automatic_end(void **state)
{
    struct fixture *f = *state;

    program(f, 3);
    line_set(pic_line(f->pic, 5), true);
    assert_int_equal(pic_acknowledge(f->pic), 0x25);
    assert_int_equal(isr_of(f, 0), 0);
}

static void rotation(void **state)
{
    struct fixture *f = *state;

    program(f, 1);
    unit_write(f, 0, 0, 0xc3); /* set priority: 3 is the lowest, 4 the highest */
    line_set(pic_line(f->pic, 1), true);
    line_set(pic_line(f->pic, 5), true);
    assert_int_equal(pic_acknowledge(f->pic), 0x25);
    unit_write(f, 0, 0, 0xa0); /* rotate on nonspecific EOI: 5 is the lowest */
    line_set(pic_line(f->pic, 5), false);
    line_set(pic_line(f->pic, 5), true);
    line_set(pic_line(f->pic, 6), true);
    assert_int_equal(pic_acknowledge(f->pic), 0x26);
    unit_write(f, 0, 0, 0x20);
    assert_int_equal(pic_acknowledge(f->pic), 0x21);
}

static void special_mask_mode(void **state)
{
    struct fixture *f = *state;

    program(f, 1);
    line_set(pic_line(f->pic, 1), true);
    assert_int_equal(pic_acknowledge(f->pic), 0x21);
    line_set(pic_line(f->pic, 4), true);
    assert_false(f->out.level);
    unit_write(f, 0, 1, 2);
    unit_write(f, 0, 0, 0x68);
    assert_true(f->out.level);
    unit_write(f, 0, 0, 0x48);
    assert_false(f->out.level);
}

static void poll_command(void **state)
{
    struct fixture *f = *state;

    program(f, 1);
    unit_write(f, 0, 0, 0x0c);
    assert_int_equal(unit_read(f, 0, 0), 0);
    line_set(pic_line(f->pic, 5), true);
    unit_write(f, 0, 0, 0x0c);
    assert_int_equal(unit_read(f, 0, 0), 0x85);
    assert_int_equal(isr_of(f, 0), 0x20);
    assert_false(f->out.level);
}

static void level_triggered(void **state)
{
    struct fixture *f = *state;

    program(f, 1);
    reg_write(&pic_elcr_ops, f->pic, 1, 1, 0xff);
    assert_int_equal(reg_read(&pic_elcr_ops, f->pic, 1, 1), 0xde); /* 8 and 13 cannot be */
    line_set(pic_line(f->pic, 10), true);
    assert_int_equal(pic_acknowledge(f->pic), 0x2a);
    unit_write(f, 1, 0, 0x20);
    unit_write(f, 0, 0, 0x20);
    assert_true(f->out.level); /* still asserted */
    line_set(pic_line(f->pic, 10), false);
    assert_false(f->out.level);
}

static void a_level_from_before_icw1_is_no_edge(void **state)
{
    struct fixture *f = *state;

    line_set(pic_line(f->pic, 4), true);
    program(f, 1);
    assert_false(f->out.level);
    line_set(pic_line(f->pic, 4), false);
    line_set(pic_line(f->pic, 4), true);
    assert_true(f->out.level);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(after_reset, setup, teardown),
        cmocka_unit_test_setup_teardown(edge_is_latched_until_acknowledged, setup, teardown),
        cmocka_unit_test_setup_teardown(priorities_nest, setup, teardown),
        cmocka_unit_test_setup_teardown(masked_input_waits, setup, teardown),
        cmocka_unit_test_setup_teardown(second_chip_comes_by_input_2, setup, teardown),
        cmocka_unit_test_setup_teardown(special_fully_nested_mode, setup, teardown),
        cmocka_unit_test_setup_teardown(automatic_end, setup, teardown),
        cmocka_unit_test_setup_teardown(rotation, setup, teardown),
        cmocka_unit_test_setup_teardown(special_mask_mode, setup, teardown),
        cmocka_unit_test_setup_teardown(poll_command, setup, teardown),
        cmocka_unit_test_setup_teardown(level_triggered, setup, teardown),
        cmocka_unit_test_setup_teardown(a_level_from_before_icw1_is_no_edge, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
