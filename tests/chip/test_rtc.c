/* Real-time clock with a fake clock. The MC146818A data sheet is the reference. */
#include "chip_test.h"

#include <time.h>

#include "chip/rtc.h"

#define SEC 1000000000ull
/* 2024-02-29 23:59:58 UTC, a Thursday. */
#define LEAP_EVE 1709251198

struct fixture {
    struct rtc *rtc;
    struct fake_clock clock;
    struct fake_line irq;
    uint64_t deadline;
};

static void on_arm(void *ctx, uint64_t deadline_ns)
{
    ((struct fixture *)ctx)->deadline = deadline_ns;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct rtc_config cfg = { .irq = fake_line_get(&f->irq), .arm = on_arm, .ctx = f };

    f->clock = (struct fake_clock){ .ns = 5 * SEC, .wall = LEAP_EVE };
    f->deadline = RTC_NEVER;
    cfg.clock = fake_clock_get(&f->clock);
    f->rtc = rtc_new(&cfg, NULL);
    *state = f;
    return f->rtc ? 0 : -1;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    rtc_free(f->rtc);
    free(f);
    return 0;
}

static uint8_t get(struct fixture *f, unsigned index)
{
    reg_write(&rtc_ops, f->rtc, 0, 1, index);
    return (uint8_t)reg_read(&rtc_ops, f->rtc, 1, 1);
}

static void put(struct fixture *f, unsigned index, uint8_t value)
{
    reg_write(&rtc_ops, f->rtc, 0, 1, index);
    reg_write(&rtc_ops, f->rtc, 1, 1, value);
}

static void clock_forward(struct fake_clock *c, uint64_t ns)
{
    int64_t part = c->wall_part_ns + (int64_t)ns;

    c->ns += ns;
    c->wall += part / (int64_t)SEC;
    c->wall_part_ns = part % (int64_t)SEC;
}

/* Time goes on, and the timer fires if it was asked for. */
static void pass(struct fixture *f, uint64_t ns)
{
    uint64_t end = f->clock.ns + ns;

    while (f->deadline <= end) {
        if (f->deadline > f->clock.ns)
            clock_forward(&f->clock, f->deadline - f->clock.ns);
        f->deadline = RTC_NEVER;
        rtc_timer(f->rtc);
    }
    clock_forward(&f->clock, end - f->clock.ns);
}

static void expect_time(struct fixture *f, unsigned h, unsigned m, unsigned s)
{
    assert_int_equal(get(f, 4), h);
    assert_int_equal(get(f, 2), m);
    assert_int_equal(get(f, 0), s);
}

static void expect_date(struct fixture *f, unsigned century, unsigned year, unsigned month, unsigned day)
{
    assert_int_equal(get(f, 0x32), century);
    assert_int_equal(get(f, 9), year);
    assert_int_equal(get(f, 8), month);
    assert_int_equal(get(f, 7), day);
}

/* Its seconds begin when the host's do, also after a step: a guest that reads it is off by the fraction that
 * it has no register for, and by no more. */
static void seconds_begin_with_the_hosts(void **state)
{
    struct fixture *f = *state;
    struct rtc_config cfg = { .irq = fake_line_get(&f->irq), .arm = on_arm, .ctx = f };

    rtc_free(f->rtc);
    f->clock.wall_part_ns = 700000000;
    cfg.clock = fake_clock_get(&f->clock);
    f->rtc = rtc_new(&cfg, NULL);
    expect_time(f, 0x23, 0x59, 0x58);
    pass(f, 299999999);
    expect_time(f, 0x23, 0x59, 0x58);
    pass(f, 1);
    expect_time(f, 0x23, 0x59, 0x59);
    f->clock.wall += 3600; /* stepped, by some part of a second too */
    f->clock.wall_part_ns = 400000000;
    expect_time(f, 0x00, 0x59, 0x59);
    pass(f, 599999999);
    expect_time(f, 0x00, 0x59, 0x59);
    pass(f, 1);
    expect_time(f, 0x01, 0x00, 0x00);
}

static void shows_wall_time_in_bcd(void **state)
{
    struct fixture *f = *state;

    expect_time(f, 0x23, 0x59, 0x58);
    expect_date(f, 0x20, 0x24, 0x02, 0x29);
    assert_int_equal(get(f, 6), 5); /* Thursday, Sunday being 1 */
    assert_int_equal(get(f, 0x0d), 0x80);
    assert_int_equal(get(f, 0x0b), 0x02);
    pass(f, 2 * SEC);
    expect_time(f, 0x00, 0x00, 0x00);
    expect_date(f, 0x20, 0x24, 0x03, 0x01);
}

static void binary_and_12_hours(void **state)
{
    struct fixture *f = *state;

    put(f, 0x0b, 0x06);
    expect_time(f, 23, 59, 58);
    put(f, 0x0b, 0x04);
    expect_time(f, 0x80 | 11, 59, 58);
    put(f, 0x0b, 0x00);
    expect_time(f, 0x91, 0x59, 0x58);
    pass(f, 2 * SEC);
    assert_int_equal(get(f, 4), 0x12); /* midnight is 12 AM */
    pass(f, 12 * 3600 * SEC);
    assert_int_equal(get(f, 4), 0x92); /* noon is 12 PM */
}

/* Every day that the host's clock can show, until 2262, against the C library. */
static void calendar_is_gregorian(void **state)
{
    struct fixture *f = *state;

    put(f, 0x0b, 0x06);
    for (int64_t day = 0; day <= (INT64_MAX / (int64_t)SEC - 3600) / 86400; day += 1) {
        time_t t;
        struct tm tm;

        f->clock.wall = day * 86400 + 3600;
        t = f->clock.wall;
        gmtime_r(&t, &tm);
        expect_date(f, (unsigned)(tm.tm_year + 1900) / 100, (unsigned)(tm.tm_year + 1900) % 100,
                    (unsigned)tm.tm_mon + 1, (unsigned)tm.tm_mday);
        assert_int_equal(get(f, 6), tm.tm_wday + 1);
    }
}

static void update_in_progress(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(get(f, 0x0a), 0x26);
    pass(f, SEC - 245000);
    assert_int_equal(get(f, 0x0a), 0x26);
    pass(f, 2000);
    assert_int_equal(get(f, 0x0a), 0xa6);
    pass(f, 243000);
    assert_int_equal(get(f, 0x0a), 0x26);
    assert_int_equal(get(f, 0), 0x59);
}

/* The sequence that Linux uses to set it: hold, divider in reset, write, let go. */
static void set_by_the_guest(void **state)
{
    struct fixture *f = *state;

    put(f, 0x0b, 0x82);
    put(f, 0x0a, 0x76);
    put(f, 9, 0x30);
    put(f, 8, 0x12);
    put(f, 7, 0x31);
    put(f, 4, 0x23);
    put(f, 2, 0x59);
    put(f, 0, 0x50);
    put(f, 0x32, 0x20);
    pass(f, 7 * SEC); /* held: time stands */
    expect_time(f, 0x23, 0x59, 0x50);
    put(f, 0x0b, 0x02);
    put(f, 0x0a, 0x26);
    pass(f, SEC / 2 - 1000);
    expect_time(f, 0x23, 0x59, 0x50);
    pass(f, 2000); /* first update half a second after the divider was let go */
    expect_time(f, 0x23, 0x59, 0x51);
    pass(f, 9 * SEC);
    expect_time(f, 0, 0, 0);
    expect_date(f, 0x20, 0x31, 0x01, 0x01);
    rtc_reset(f->rtc); /* has a battery */
    expect_date(f, 0x20, 0x31, 0x01, 0x01);
}

static void set_to(struct fixture *f, uint8_t century, uint8_t year, uint8_t month, uint8_t day, uint8_t hour)
{
    put(f, 0x0b, 0x82);
    put(f, 0x32, century);
    put(f, 9, year);
    put(f, 8, month);
    put(f, 7, day);
    put(f, 4, hour);
    put(f, 2, 0x59);
    put(f, 0, 0x59);
    put(f, 0x0b, 0x02);
}

/* Years that no clock of the host's can show. */
static void years_far_away(void **state)
{
    struct fixture *f = *state;

    set_to(f, 0x99, 0x99, 0x12, 0x31, 0x22);
    expect_date(f, 0x99, 0x99, 0x12, 0x31);
    pass(f, SEC);
    expect_time(f, 0x23, 0, 0);
    f->clock.wall += 3600;
    expect_time(f, 0, 0, 0);
    expect_date(f, 0x00, 0x00, 0x01, 0x01);
    set_to(f, 0x15, 0x99, 0x12, 0x31, 0x23);
    pass(f, 2 * SEC);
    expect_time(f, 0, 0, 1);
    expect_date(f, 0x16, 0x00, 0x01, 0x01);
    f->clock.wall -= 7200;
    expect_time(f, 0x22, 0, 1);
    expect_date(f, 0x15, 0x99, 0x12, 0x31);
}

static void nonsense_time_is_harmless(void **state)
{
    struct fixture *f = *state;

    for (unsigned v = 0; v < 256; v++) {
        put(f, 0x0b, v & 1 ? 0x82 : 0x86);
        for (unsigned i = 0; i < 10; i++)
            put(f, i, (uint8_t)(v + i * 37));
        put(f, 0x32, (uint8_t)~v);
        put(f, 0x0b, 0x72);
        pass(f, 3 * SEC);
        get(f, 0);
        get(f, 9);
        get(f, 0x0c);
    }
}

static void follows_the_host(void **state)
{
    struct fixture *f = *state;

    f->clock.wall += 3600; /* the host's clock was stepped; no monotonic time went by */
    expect_time(f, 0x00, 0x59, 0x58);
    put(f, 0x0b, 0x82);
    put(f, 4, 0x12);
    put(f, 0x0b, 0x02);
    f->clock.wall -= 3600; /* the guest's own offset stays */
    expect_time(f, 0x11, 0x59, 0x58);
}

static void memory_keeps_bytes(void **state)
{
    struct fixture *f = *state;

    for (unsigned i = 0x0e; i < 128; i++)
        if (i != RTC_CENTURY_INDEX)
            put(f, i, (uint8_t)(i * 7));
    for (unsigned i = 0x0e; i < 128; i++)
        if (i != RTC_CENTURY_INDEX)
            assert_int_equal(get(f, i), (uint8_t)(i * 7));
    reg_write(&rtc_ops, f->rtc, 0, 1, 0x80 | 0x40); /* NMI mask bit is not part of the index */
    assert_int_equal(reg_read(&rtc_ops, f->rtc, 1, 1), (uint8_t)(0x40 * 7));
    put(f, 0x0d, 0);
    assert_int_equal(get(f, 0x0d), 0x80);
}

static void alarm(void **state)
{
    struct fixture *f = *state;

    get(f, 0x0c);
    put(f, 5, 0x00);
    put(f, 3, 0x01);
    put(f, 1, 0x30);
    assert_true(f->deadline == RTC_NEVER);
    put(f, 0x0b, 0x22);
    assert_int_equal(f->deadline, (5 + 92) * SEC); /* at 00:01:30 */
    pass(f, 92 * SEC - 1);
    assert_false(f->irq.level);
    pass(f, 1);
    assert_true(f->irq.level);
    assert_true(f->deadline == RTC_NEVER); /* nothing new until it is acknowledged */
    assert_int_equal(get(f, 0x0c), 0xf0);  /* IRQF and AF; PF and UF come whether enabled or not */
    assert_false(f->irq.level);
    assert_int_equal(get(f, 0x0c), 0);
    assert_int_equal(f->deadline, (5 + 92 + 86400) * SEC); /* tomorrow */
}

static void alarm_with_wildcards(void **state)
{
    struct fixture *f = *state;

    put(f, 5, 0xff);
    put(f, 3, 0xc0);
    put(f, 1, 0x15);
    put(f, 0x0b, 0x22);
    pass(f, 17 * SEC);
    assert_int_equal(f->irq.rises, 1);
    get(f, 0x0c);
    pass(f, 60 * SEC);
    assert_int_equal(f->irq.rises, 2);
}

static void update_and_periodic(void **state)
{
    struct fixture *f = *state;

    get(f, 0x0c);
    put(f, 0x0b, 0x12);
    for (unsigned i = 0; i < 3; i++) {
        pass(f, SEC);
        assert_int_equal(f->irq.rises, i + 1);
        assert_int_equal(get(f, 0x0c) & 0x90, 0x90);
    }
    put(f, 0x0b, 0x42); /* rate 6: 1024 a second */
    f->irq.rises = 0;
    for (unsigned i = 0; i < 1024; i++) {
        pass(f, SEC / 1024 + (i % 2)); /* 976562.5 */
        get(f, 0x0c);
    }
    assert_in_range(f->irq.rises, 1023, 1025);
    rtc_reset(f->rtc);
    assert_true(f->deadline == RTC_NEVER);
    assert_int_equal(get(f, 0x0b) & 0x70, 0);
}

/* The flags come also when nobody enabled interrupts (polled use). */
static void flags_without_interrupts(void **state)
{
    struct fixture *f = *state;

    get(f, 0x0c);
    assert_int_equal(get(f, 0x0c), 0);
    pass(f, SEC);
    assert_int_equal(get(f, 0x0c) & 0x90, 0x10);
    assert_int_equal(f->irq.rises, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(shows_wall_time_in_bcd, setup, teardown),
        cmocka_unit_test_setup_teardown(seconds_begin_with_the_hosts, setup, teardown),
        cmocka_unit_test_setup_teardown(binary_and_12_hours, setup, teardown),
        cmocka_unit_test_setup_teardown(calendar_is_gregorian, setup, teardown),
        cmocka_unit_test_setup_teardown(update_in_progress, setup, teardown),
        cmocka_unit_test_setup_teardown(set_by_the_guest, setup, teardown),
        cmocka_unit_test_setup_teardown(years_far_away, setup, teardown),
        cmocka_unit_test_setup_teardown(nonsense_time_is_harmless, setup, teardown),
        cmocka_unit_test_setup_teardown(follows_the_host, setup, teardown),
        cmocka_unit_test_setup_teardown(memory_keeps_bytes, setup, teardown),
        cmocka_unit_test_setup_teardown(alarm, setup, teardown),
        cmocka_unit_test_setup_teardown(alarm_with_wildcards, setup, teardown),
        cmocka_unit_test_setup_teardown(update_and_periodic, setup, teardown),
        cmocka_unit_test_setup_teardown(flags_without_interrupts, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
