/* Keyboard controller (IBM PS/2 Hardware Interface Technical Reference), fw_cfg (QEMU docs/specs/fw_cfg.rst),
 * test device. */
#include "chip_test.h"

#include "chip/fw_cfg.h"
#include "chip/kbc.h"
#include "chip/test_device.h"

static unsigned resets;

static void on_reset(void *ctx)
{
    (void)ctx;
    resets++;
}

static uint8_t kbc_status(struct kbc *k)
{
    return (uint8_t)reg_read(&kbc_status_ops, k, 0, 1);
}

static void kbc_command(struct kbc *k, uint8_t v)
{
    reg_write(&kbc_status_ops, k, 0, 1, v);
}

static void keyboard_controller(void **state)
{
    struct fake_line irq = { 0 };
    struct kbc *k = kbc_new(&(struct kbc_config){ .irq = fake_line_get(&irq), .reset = on_reset }, NULL);

    (void)state;
    assert_int_equal(kbc_status(k), 0x1c);
    kbc_command(k, 0xaa);
    assert_int_equal(kbc_status(k), 0x1d);
    assert_true(irq.level);
    assert_int_equal(reg_read(&kbc_data_ops, k, 0, 1), 0x55);
    assert_false(irq.level);
    assert_int_equal(kbc_status(k) & 1, 0);
    kbc_command(k, 0x60);
    reg_write(&kbc_data_ops, k, 0, 1, 0x30); /* no interrupt */
    assert_int_equal(kbc_status(k) & 8, 0);
    kbc_command(k, 0x20);
    assert_false(irq.level);
    assert_int_equal(reg_read(&kbc_data_ops, k, 0, 1), 0x30);
    reg_write(&kbc_data_ops, k, 0, 1, 0xff); /* to no keyboard */
    assert_int_equal(kbc_status(k) & 1, 0);
    kbc_command(k, 0xd0);
    assert_int_equal(reg_read(&kbc_data_ops, k, 0, 1), 3);
    kbc_command(k, 0xdd);
    assert_int_equal(reg_read(&kbc_fast_ops, k, 0, 1), 0);
    reg_write(&kbc_fast_ops, k, 0, 1, 2);
    assert_int_equal(reg_read(&kbc_fast_ops, k, 0, 1), 2);
    assert_int_equal(resets, 0);
    kbc_command(k, 0xfe);
    kbc_command(k, 0xff); /* pulses nothing */
    assert_int_equal(resets, 1);
    kbc_command(k, 0xd1);
    reg_write(&kbc_data_ops, k, 0, 1, 0xfe);
    reg_write(&kbc_fast_ops, k, 0, 1, 3);
    assert_int_equal(resets, 3);
    kbc_free(k);
}

static uint64_t fw_bytes(struct fw_cfg *f, uint16_t key, unsigned skip, unsigned n)
{
    uint64_t v = 0;

    reg_write(&fw_cfg_ops, f, 0, 2, key);
    while (skip--)
        reg_read(&fw_cfg_ops, f, 1, 1);
    for (unsigned i = 0; i < n; i++)
        v |= reg_read(&fw_cfg_ops, f, 1, 1) << (8 * i);
    return v;
}

static void firmware_configuration(void **state)
{
    const struct fw_cfg_config cfg = { .vcpu_count = 5,
                                       .ram = { { 0, MIB(64) }, { GIB(4), MIB(32) } },
                                       .ram_count = 2 };
    struct fw_cfg *f = fw_cfg_new(&cfg, NULL);

    (void)state;
    assert_int_equal(fw_bytes(f, 0, 0, 4), 0x554d4551);
    assert_int_equal(fw_bytes(f, 1, 0, 4), 1);
    assert_int_equal(fw_bytes(f, 3, 0, 8), MIB(96));
    assert_int_equal(fw_bytes(f, 5, 0, 2), 5);
    assert_int_equal(fw_bytes(f, 0xf, 0, 4), 5);                    /* past its end: zeros */
    assert_int_equal(fw_bytes(f, 0x19, 0, 8), 0x2800000001000000);  /* big endian: 1 file of 40 bytes */
    assert_int_equal(fw_bytes(f, 0x19, 12, 8), 0x303238652f637465); /* "etc/e820" */
    assert_int_equal(fw_bytes(f, 0x20, 20, 8), GIB(4));
    assert_int_equal(fw_bytes(f, 0x20, 28, 8), MIB(32));
    assert_int_equal(fw_bytes(f, 0x20, 36, 4), 1);
    assert_int_equal(fw_bytes(f, 0x1234, 0, 8), 0);
    fw_cfg_free(f);
}

static void test_device(void **state)
{
    struct fake_line line = { 0 };
    struct test_device_config cfg = { .lines[14] = fake_line_get(&line) };
    struct test_device *t = test_device_new(&cfg, NULL);

    (void)state;
    reg_write(&test_device_port_ops, t, 0, 4, 0x12345678);
    assert_int_equal(reg_read(&test_device_port_ops, t, 1, 1), 0x56);
    reg_write(&test_device_port_ops, t, 2, 2, 0xabcd);
    assert_int_equal(reg_read(&test_device_port_ops, t, 0, 4), 0xabcd5678);
    reg_write(&test_device_port_ops, t, 4, 4, 0x1000);
    assert_int_equal(reg_read(&test_device_port_ops, t, 4, 4), 0);
    reg_write(&test_device_port_ops, t, 8, 1, 0x5a);
    assert_int_equal(reg_read(&test_device_port_ops, t, 8, 1), 0x5a);
    reg_write(&test_device_line_ops, t, 14, 1, 1);
    assert_true(line.level);
    reg_write(&test_device_line_ops, t, 14, 1, 0);
    assert_false(line.level);
    reg_write(&test_device_line_ops, t, 2, 1, 1); /* a line that leads nowhere */
    reg_write(&test_device_memory_ops, t, TEST_DEVICE_MEMORY_LEN - 8, 8, 0x1122334455667788);
    assert_int_equal(reg_read(&test_device_memory_ops, t, TEST_DEVICE_MEMORY_LEN - 4, 4), 0x11223344);
    test_device_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keyboard_controller),
        cmocka_unit_test(firmware_configuration),
        cmocka_unit_test(test_device),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
