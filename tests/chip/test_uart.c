/* 16550A by register scripts. Section numbers are those of the PC16550D data sheet. */
#include "chip_test.h"

#include "chip/uart16550.h"

enum { DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR };
#define FCR IIR

struct fixture {
    struct uart *uart;
    struct fake_line irq;
    uint8_t out[64];
    size_t out_len;
    unsigned rooms;
};

static void on_output(void *ctx, const uint8_t *bytes, size_t len)
{
    struct fixture *f = ctx;

    assert_true(len <= sizeof(f->out) - f->out_len);
    memcpy(f->out + f->out_len, bytes, len);
    f->out_len += len;
}

static void on_room(void *ctx)
{
    ((struct fixture *)ctx)->rooms++;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct uart_config cfg = {
        .irq = fake_line_get(&f->irq), .output = on_output, .room = on_room, .ctx = f
    };

    f->uart = uart_new(&cfg, NULL);
    *state = f;
    return f->uart ? 0 : -1;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    uart_free(f->uart);
    free(f);
    return 0;
}

static uint8_t in(struct fixture *f, unsigned reg)
{
    return (uint8_t)reg_read(&uart_ops, f->uart, reg, 1);
}

static void out(struct fixture *f, unsigned reg, uint8_t value)
{
    reg_write(&uart_ops, f->uart, reg, 1, value);
}

static void registers_after_reset(void **state) /* table 8.1 */
{
    struct fixture *f = *state;

    assert_int_equal(in(f, IER), 0);
    assert_int_equal(in(f, IIR), 0x01);
    assert_int_equal(in(f, LCR), 0);
    assert_int_equal(in(f, MCR), 0);
    assert_int_equal(in(f, LSR), 0x60);
    assert_int_equal(in(f, MSR) & 0x0f, 0);
    assert_false(f->irq.level);
}

static void scratch_and_divisor(void **state)
{
    struct fixture *f = *state;

    out(f, SCR, 0xa5);
    out(f, LCR, 0x83);
    out(f, DATA, 0x01);
    out(f, IER, 0x02);
    assert_int_equal(in(f, DATA), 0x01);
    assert_int_equal(in(f, IER), 0x02);
    out(f, LCR, 0x03);
    assert_int_equal(in(f, IER), 0); /* the divisor did not go there */
    assert_int_equal(f->out_len, 0); /* nor out */
    assert_int_equal(in(f, SCR), 0xa5);
}

static void interrupt_enable_has_four_bits(void **state) /* 8.7: a probe for larger chips reads it back */
{
    struct fixture *f = *state;

    out(f, IER, 0xff);
    assert_int_equal(in(f, IER), 0x0f);
}

static void fifo_is_seen_in_iir(void **state) /* 8.6 */
{
    struct fixture *f = *state;

    assert_int_equal(in(f, IIR) & 0xc0, 0);
    out(f, FCR, 0x01);
    assert_int_equal(in(f, IIR) & 0xc0, 0xc0);
    out(f, FCR, 0x00);
    assert_int_equal(in(f, IIR) & 0xc0, 0);
}

static void output_goes_out_in_order(void **state)
{
    struct fixture *f = *state;

    for (const char *p = "login: "; *p; p++) {
        assert_int_equal(in(f, LSR) & 0x60, 0x60);
        out(f, DATA, (uint8_t)*p);
    }
    assert_int_equal(f->out_len, 7);
    assert_memory_equal(f->out, "login: ", 7);
}

static void thre_interrupt(void **state) /* 8.5, table 8.5: reading IIR or writing THR resets it */
{
    struct fixture *f = *state;

    out(f, IER, 0x02);
    assert_true(f->irq.level);
    assert_int_equal(in(f, IIR), 0x02);
    assert_false(f->irq.level);
    assert_int_equal(in(f, IIR), 0x01);
    out(f, DATA, 'x');
    assert_true(f->irq.level);
    assert_int_equal(in(f, IIR), 0x02);
    /* The test that drivers make for chips that do not raise it again: off and on again. */
    out(f, IER, 0);
    out(f, IER, 0x02);
    assert_int_equal(in(f, IIR), 0x02);
}

static void receive_and_trigger_levels(void **state) /* 8.4, 8.8 */
{
    struct fixture *f = *state;
    static const struct {
        uint8_t fcr;
        unsigned level;
    } cases[] = { { 0x01, 1 }, { 0x41, 4 }, { 0x81, 8 }, { 0xc1, 14 } };

    for (unsigned i = 0; i < array_size(cases); i++) {
        out(f, FCR, (uint8_t)(cases[i].fcr | 0x02));
        out(f, IER, 0x01);
        assert_false(f->irq.level);
        for (unsigned n = 1; n <= 16; n++) {
            assert_int_equal(uart_receive(f->uart, (const uint8_t *)"k", 1), 1);
            assert_true(f->irq.level);
            assert_int_equal(in(f, IIR), n >= cases[i].level ? 0xc4 : 0xcc);
        }
        for (unsigned n = 0; n < 16; n++) {
            assert_int_equal(in(f, LSR) & 0x01, 1);
            assert_int_equal(in(f, DATA), 'k');
        }
        assert_int_equal(in(f, LSR) & 0x03, 0);
        assert_false(f->irq.level);
    }
}

static void receiver_back_pressure(void **state)
{
    struct fixture *f = *state;
    uint8_t bytes[20];

    for (unsigned i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)i;
    out(f, FCR, 0x01);
    assert_int_equal(uart_receive(f->uart, bytes, sizeof(bytes)), 16);
    assert_int_equal(uart_receive(f->uart, bytes + 16, 4), 0);
    assert_int_equal(in(f, LSR) & 0x02, 0); /* the outside was told to wait: no overrun */
    assert_int_equal(f->rooms, 0);
    assert_int_equal(in(f, DATA), 0);
    assert_int_equal(f->rooms, 1);
    assert_int_equal(in(f, DATA), 1);
    assert_int_equal(f->rooms, 1); /* told once */
    assert_int_equal(uart_receive(f->uart, bytes + 16, 2), 2);
    for (unsigned i = 2; i < 18; i++)
        assert_int_equal(in(f, DATA), i);
}

static void one_byte_without_fifo(void **state)
{
    struct fixture *f = *state;

    out(f, IER, 0x01);
    assert_int_equal(uart_receive(f->uart, (const uint8_t *)"ab", 2), 1);
    assert_int_equal(in(f, IIR), 0x04);
    assert_int_equal(in(f, DATA), 'a');
    assert_int_equal(f->rooms, 1);
}

static void loopback(void **state) /* 8.6.5 MCR bit 4 */
{
    struct fixture *f = *state;

    out(f, FCR, 0x01);
    out(f, MCR, 0x1a); /* the pattern that Linux probes with: RTS and OUT2 */
    assert_int_equal(in(f, MSR) & 0xf0, 0x90);
    out(f, MCR, 0x15);
    assert_int_equal(in(f, MSR) & 0xf0, 0x60);
    in(f, MSR);
    out(f, DATA, 'L');
    assert_int_equal(f->out_len, 0);
    assert_int_equal(in(f, DATA), 'L');
    for (unsigned i = 0; i < 17; i++)
        out(f, DATA, (uint8_t)i);
    assert_int_equal(in(f, LSR) & 0x03, 0x03); /* data, and the 17th was too many */
    assert_int_equal(in(f, LSR) & 0x02, 0);    /* told once */
    assert_int_equal(uart_receive(f->uart, (const uint8_t *)"z", 1), 0);
    out(f, FCR, 0x03);
    out(f, MCR, 0x00);
    assert_int_equal(f->rooms, 1);
    assert_int_equal(uart_receive(f->uart, (const uint8_t *)"z", 1), 1);
}

static void modem_and_line_interrupts(void **state) /* priorities of table 8.5 */
{
    struct fixture *f = *state;

    out(f, MCR, 0x10);
    in(f, MSR);
    out(f, IER, 0x0f);
    in(f, IIR);        /* takes THRE away */
    out(f, MCR, 0x12); /* RTS: CTS changes */
    assert_int_equal(in(f, IIR), 0x00);
    assert_int_equal(in(f, MSR), 0x11);
    assert_int_equal(in(f, IIR), 0x01);
    out(f, DATA, 'a');
    out(f, DATA, 'b'); /* no FIFO: overrun */
    assert_int_equal(in(f, IIR), 0x06);
    in(f, LSR);
    assert_int_equal(in(f, IIR), 0x04);
    assert_int_equal(in(f, DATA), 'a');
    assert_int_equal(in(f, IIR), 0x02);
    assert_int_equal(in(f, IIR), 0x01);
    assert_false(f->irq.level);
}

static void reset_drops_all(void **state)
{
    struct fixture *f = *state;

    out(f, FCR, 0x01);
    out(f, IER, 0x0f);
    uart_receive(f->uart, (const uint8_t *)"0123456789abcdefgh", 18);
    assert_true(f->irq.level);
    uart_reset(f->uart);
    assert_false(f->irq.level);
    assert_int_equal(f->rooms, 1);
    registers_after_reset(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(registers_after_reset, setup, teardown),
        cmocka_unit_test_setup_teardown(scratch_and_divisor, setup, teardown),
        cmocka_unit_test_setup_teardown(interrupt_enable_has_four_bits, setup, teardown),
        cmocka_unit_test_setup_teardown(fifo_is_seen_in_iir, setup, teardown),
        cmocka_unit_test_setup_teardown(output_goes_out_in_order, setup, teardown),
        cmocka_unit_test_setup_teardown(thre_interrupt, setup, teardown),
        cmocka_unit_test_setup_teardown(receive_and_trigger_levels, setup, teardown),
        cmocka_unit_test_setup_teardown(receiver_back_pressure, setup, teardown),
        cmocka_unit_test_setup_teardown(one_byte_without_fifo, setup, teardown),
        cmocka_unit_test_setup_teardown(loopback, setup, teardown),
        cmocka_unit_test_setup_teardown(modem_and_line_interrupts, setup, teardown),
        cmocka_unit_test_setup_teardown(reset_drops_all, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
