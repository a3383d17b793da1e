/* I/O APIC by register scripts. Sections are those of the 82093AA data sheet; messages: Intel SDM volume
 * 3, 11.11. */
#include "chip_test.h"

#include "chip/ioapic.h"

#define LEVEL 0x8000u
#define MASK 0x10000u
#define LOGICAL 0x800u
#define REMOTE_IRR 0x4000u

struct fixture {
    struct ioapic *io;
    unsigned sent;
    uint64_t addr;
    uint32_t data;
};

static void on_msi(void *ctx, uint64_t addr, uint32_t data)
{
    struct fixture *f = ctx;

    f->sent++;
    f->addr = addr;
    f->data = data;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct ioapic_config cfg = { .msi = { .send = on_msi, .ctx = f }, .id = 3 };

    f->io = ioapic_new(&cfg, NULL);
    *state = f;
    return f->io ? 0 : -1;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    ioapic_free(f->io);
    free(f);
    return 0;
}

static uint32_t get(struct fixture *f, unsigned reg)
{
    reg_write(&ioapic_ops, f->io, 0x00, 4, reg);
    assert_int_equal(reg_read(&ioapic_ops, f->io, 0x00, 4), reg);
    return (uint32_t)reg_read(&ioapic_ops, f->io, 0x10, 4);
}

static void put(struct fixture *f, unsigned reg, uint32_t value)
{
    reg_write(&ioapic_ops, f->io, 0x00, 4, reg);
    reg_write(&ioapic_ops, f->io, 0x10, 4, value);
}

static void set_entry(struct fixture *f, unsigned pin, uint32_t low, uint32_t high)
{
    put(f, 0x10 + 2 * pin, low | MASK);
    put(f, 0x11 + 2 * pin, high);
    put(f, 0x10 + 2 * pin, low);
}

static void pin(struct fixture *f, unsigned n, bool level)
{
    line_set(ioapic_line(f->io, n), level);
}

static void registers_after_reset(void **state) /* 3.2 */
{
    struct fixture *f = *state;

    assert_int_equal(get(f, 0), 3u << 24);
    assert_int_equal(get(f, 1), 0x00170020);
    put(f, 1, 0xffffffff);
    assert_int_equal(get(f, 1), 0x00170020);
    put(f, 0, 0xffffffff);
    assert_int_equal(get(f, 0), 0x0f000000);
    for (unsigned i = 0; i < IOAPIC_PINS; i++) {
        assert_int_equal(get(f, 0x10 + 2 * i), MASK);
        assert_int_equal(get(f, 0x11 + 2 * i), 0);
    }
    assert_int_equal(get(f, 0x40), 0); /* beyond the last pin */
    put(f, 0x40, 0xffffffff);
}

static void read_only_bits(void **state) /* 3.2.4: delivery status, remote IRR */
{
    struct fixture *f = *state;

    put(f, 0x10, 0xffffffff);
    assert_int_equal(get(f, 0x10), 0x1afff);
    put(f, 0x11, 0xffffffff);
    assert_int_equal(get(f, 0x11), 0xfffe0000);
}

static void edge_sends_on_rise(void **state)
{
    struct fixture *f = *state;

    set_entry(f, 4, 0x34, 0x05000000);
    pin(f, 4, true);
    assert_int_equal(f->sent, 1);
    assert_int_equal(f->addr, 0xfee05000);
    assert_int_equal(f->data, 0x34);
    pin(f, 4, true);
    assert_int_equal(f->sent, 1);
    pin(f, 4, false);
    pin(f, 4, true);
    assert_int_equal(f->sent, 2);
    assert_int_equal(get(f, 0x18) & REMOTE_IRR, 0);
}

static void edge_while_masked_is_lost(void **state)
{
    struct fixture *f = *state;

    set_entry(f, 4, 0x34 | MASK, 0);
    pin(f, 4, true);
    put(f, 0x18, 0x34);
    assert_int_equal(f->sent, 0);
}

static void level_until_end_of_interrupt(void **state)
{
    struct fixture *f = *state;

    set_entry(f, 17, 0x51 | LEVEL | LOGICAL, 0x81000000);
    pin(f, 17, true);
    assert_int_equal(f->sent, 1);
    assert_int_equal(f->addr, 0xfee81004); /* destination 0x81, logical */
    assert_int_equal(f->data, 0xc051);     /* level, assert */
    assert_int_equal(get(f, 0x32) & REMOTE_IRR, REMOTE_IRR);
    pin(f, 17, false);
    pin(f, 17, true);
    assert_int_equal(f->sent, 1); /* in service */
    ioapic_eoi(f->io, 0x50);
    assert_int_equal(f->sent, 1); /* another vector */
    ioapic_eoi(f->io, 0x51);
    assert_int_equal(f->sent, 2); /* still asserted */
    pin(f, 17, false);
    ioapic_eoi(f->io, 0x51);
    assert_int_equal(f->sent, 2);
    assert_int_equal(get(f, 0x32) & REMOTE_IRR, 0);
}

static void level_waits_behind_mask(void **state)
{
    struct fixture *f = *state;

    set_entry(f, 17, 0x51 | LEVEL | MASK, 0);
    pin(f, 17, true);
    assert_int_equal(f->sent, 0);
    put(f, 0x32, 0x51 | LEVEL);
    assert_int_equal(f->sent, 1);
}

static void eoi_register(void **state) /* version 0x20 */
{
    struct fixture *f = *state;

    set_entry(f, 9, 0x39 | LEVEL, 0);
    pin(f, 9, true);
    reg_write(&ioapic_ops, f->io, 0x40, 4, 0x39);
    assert_int_equal(f->sent, 2);
}

static void to_edge_and_back_forgets(void **state) /* how drivers clear a stuck remote IRR on version 0x1x */
{
    struct fixture *f = *state;

    set_entry(f, 9, 0x39 | LEVEL, 0);
    pin(f, 9, true);
    put(f, 0x22, 0x39 | MASK);
    assert_int_equal(get(f, 0x22) & REMOTE_IRR, 0);
    put(f, 0x22, 0x39 | LEVEL);
    assert_int_equal(f->sent, 2);
}

static void delivery_modes(void **state)
{
    struct fixture *f = *state;

    set_entry(f, 1, 0x41 | 1u << 8 | LOGICAL, 0xff000000); /* lowest priority: redirection hint */
    pin(f, 1, true);
    assert_int_equal(f->addr, 0xfeeff00c);
    assert_int_equal(f->data, 0x141);
    set_entry(f, 2, 4u << 8 | LEVEL, 0); /* NMI never has remote IRR */
    pin(f, 2, true);
    assert_int_equal(f->sent, 2);
    assert_int_equal(f->data & 0x700, 0x400);
    assert_int_equal(get(f, 0x14) & REMOTE_IRR, 0);
}

static void extended_destination(void **state) /* APIC id 0x1234 in 15 bits */
{
    struct fixture *f = *state;

    set_entry(f, 4, 0x34, 0x34000000 | 0x12 << 17);
    pin(f, 4, true);
    assert_int_equal(f->addr, 0xfee34000 | 0x12 << 5);
}

static void reset_keeps_pin_levels(void **state)
{
    struct fixture *f = *state;

    set_entry(f, 9, 0x39 | LEVEL, 0);
    pin(f, 9, true);
    ioapic_reset(f->io);
    assert_int_equal(get(f, 0x22), MASK);
    set_entry(f, 9, 0x3a | LEVEL, 0);
    assert_int_equal(f->sent, 2);
    assert_int_equal(f->data & 0xff, 0x3a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(registers_after_reset, setup, teardown),
        cmocka_unit_test_setup_teardown(read_only_bits, setup, teardown),
        cmocka_unit_test_setup_teardown(edge_sends_on_rise, setup, teardown),
        cmocka_unit_test_setup_teardown(edge_while_masked_is_lost, setup, teardown),
        cmocka_unit_test_setup_teardown(level_until_end_of_interrupt, setup, teardown),
        cmocka_unit_test_setup_teardown(level_waits_behind_mask, setup, teardown),
        cmocka_unit_test_setup_teardown(eoi_register, setup, teardown),
        cmocka_unit_test_setup_teardown(to_edge_and_back_forgets, setup, teardown),
        cmocka_unit_test_setup_teardown(delivery_modes, setup, teardown),
        cmocka_unit_test_setup_teardown(extended_destination, setup, teardown),
        cmocka_unit_test_setup_teardown(reset_keeps_pin_levels, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
