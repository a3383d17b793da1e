/* Whole machines through the public API, with guests of a few instructions, on each engine that the host has.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <yado/yado.h>

#include "../machine/tiny_kernel.h"
#include "overlap.h"

#define PATIENCE_MS 20000

struct heard {
    enum yado_stop_reason reason;
    unsigned resets, ends;
    struct yado_error error, start_error;
};

static void on_event(void *ctx, const struct yado_event *e)
{
    struct heard *h = ctx;

    h->resets += e->kind == YADO_EVENT_GUEST_RESET;
    if (e->kind == YADO_EVENT_GUEST_STOPPED || e->kind == YADO_EVENT_STOPPED_WITH_ERROR) {
        h->ends++;
        h->reason = e->reason;
        h->error = e->error;
    }
}

static void on_started(void *ctx, const struct yado_error *err)
{
    struct heard *h = ctx;

    if (err)
        h->start_error = *err;
}

/* The guest's UART goes to out_fd and comes from in_fd. */
static struct yado_machine *guest_start(struct heard *h, enum yado_engine engine, const uint8_t *code,
                                        size_t len, int in_fd, int out_fd, const char *disk)
{
    struct yado_machine_options o = { .engine = engine, .on_event = on_event, .event_ctx = h };
    struct yado_config *c = yado_config_new();
    struct yado_error err = YADO_ERROR_INIT;
    struct yado_machine *m;
    char kernel[64];

    memset(h, 0, sizeof(*h));
    tiny_kernel_write(kernel, code, len);
    yado_config_set_cpu_count(c, 2);
    yado_config_set_memory_size(c, 32 << 20);
    yado_config_set_boot_loader(c, yado_linux_boot_loader_new(kernel, NULL, NULL));
    /* Under Apple's engine the tests' guest has its UART behind the only kind of port there is. */
    yado_config_add_serial_port(c, on_apple()
                                       ? yado_virtio_console_port_new(yado_fd_serial_new(in_fd, out_fd))
                                       : yado_uart_port_new(yado_fd_serial_new(in_fd, out_fd)));
    if (disk)
        yado_config_add_storage(c, yado_virtio_block_new(yado_disk_image_new(disk, YADO_DISK_RAW, 0)));
    m = yado_machine_new(c, &o, &err);
    yado_config_free(c);
    if (!m)
        fail_msg("%s", err.message);
    assert_int_equal(yado_machine_engine(m), engine);
    assert_true(yado_machine_start(m, on_started, h));
    while (yado_machine_state(m) == YADO_STATE_STARTING)
        usleep(1000);
    unlink(kernel); /* it is open, also for reboots */
    return m;
}

static enum yado_engine engine;

static void expect_end(const uint8_t *code, size_t len, enum yado_stop_reason reason, unsigned resets)
{
    struct heard h;
    struct yado_machine *m = guest_start(&h, engine, code, len, -1, -1, NULL);

    if (!yado_machine_wait(m, PATIENCE_MS))
        fail_msg("it still runs");
    assert_string_equal(h.start_error.message, "");
    assert_int_equal(h.reason, reason);
    assert_int_equal(h.ends, 1);
    assert_true(h.resets >= (on_apple() ? 0 : resets)); /* which tells nobody of them */
    assert_int_equal(yado_machine_stop_reason(m), reason);
    yado_machine_free(m);
}

static void test_power_off(void **state)
{
    static const uint8_t code[] = { TINY_POWER_OFF, TINY_HALT };

    (void)state;
    expect_end(code, sizeof(code), YADO_STOP_POWER_OFF, 0);
}

static void test_triple_fault(void **state)
{
    static const uint8_t code[] = { TINY_TRIPLE_FAULT, TINY_HALT };

    (void)state;
    expect_end(code, sizeof(code), on_apple() ? YADO_STOP_FAILURE : YADO_STOP_TRIPLE_FAULT, 0);
}

static void test_panic(void **state)
{
    static const uint8_t code[] = { TINY_UNMASK, TINY_RESET, TINY_HALT };

    (void)state;
    expect_end(code, sizeof(code), on_apple() ? YADO_STOP_FAILURE : YADO_STOP_PANIC, 0);
}

/* Counts in CMOS, which outlives a reset: reboots twice, then powers off. */
static void test_reboot(void **state)
{
    static const uint8_t code[] = {
        TINY_OUTB(0x70, 0x40), /* CMOS byte 0x40 */
        0x66,
        0xba,
        0x71,
        0x00, /* mov dx, 0x71 */
        0xec, /* in al, dx */
        0x40, /* inc eax */
        0xee, /* out dx, al */
        0x3c,
        0x03, /* cmp al, 3 */
        0x72,
        0x0d, /* jb over the power off */
        TINY_POWER_OFF,
        TINY_HALT, /* 9 + 4 bytes */
        TINY_UNMASK,
        TINY_MASK,
        TINY_RESET,
        TINY_HALT,
    };

    (void)state;
    expect_end(code, sizeof(code), YADO_STOP_POWER_OFF, 2);
}

/* Enables the power button's event, waits for its status bit, powers off. */
static void test_request_stop(void **state)
{
    static const uint8_t code[] = {
        TINY_OUTW(0x602, 0x0100), /* PM1 enable: PWRBTN_EN */
        TINY_OUTB(0x3f8, 'r'),    /* ready */
        0x66,
        0xba,
        0x00,
        0x06, /* mov dx, 0x600 */
        0x66,
        0xed, /* in ax, dx */
        0xf6,
        0xc4,
        0x01, /* test ah, 1: PWRBTN_STS */
        0x74,
        0xf9, /* jz back to the in */
        TINY_POWER_OFF,
        TINY_HALT,
    };
    struct heard h;
    struct yado_machine *m;
    int out[2];
    char c;

    (void)state;
    assert_int_equal(pipe(out), 0);
    m = guest_start(&h, engine, code, sizeof(code), -1, out[1], NULL);
    assert_int_equal(read(out[0], &c, 1), 1);
    assert_int_equal(c, 'r');
    assert_false(yado_machine_wait(m, 50));
    assert_true(yado_machine_request_stop(m, NULL));
    assert_true(yado_machine_wait(m, PATIENCE_MS));
    assert_int_equal(h.reason, YADO_STOP_POWER_OFF);
    yado_machine_free(m);
    close(out[0]);
    close(out[1]);
}

/* Sends back each byte plus one. */
static const uint8_t echo_code[] = {
    0x66, 0xba, 0xfd, 0x03,       /* mov dx, 0x3fd: line status */
    0xec, 0xa8, 0x01, 0x74, 0xfb, /* in al, dx; test al, 1; jz back */
    0x66, 0xba, 0xf8, 0x03,       /* mov dx, 0x3f8 */
    0xec, 0x40, 0xee,             /* in al, dx; inc eax; out dx, al */
    0xeb, 0xee,                   /* jmp to the start */
};

/* Two machines in one process, and each with its own. Then both are stopped. */
static void test_two_machines(void **state)
{
    struct heard h[2];
    struct yado_machine *m[2];
    int in[2][2], out[2][2];
    char c;

    (void)state;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(pipe(in[i]), 0);
        assert_int_equal(pipe(out[i]), 0);
        m[i] = guest_start(&h[i], engine, echo_code, sizeof(echo_code), in[i][0], out[i][1], NULL);
    }
    for (int round = 0; round < 100; round++) {
        for (int i = 0; i < 2; i++) {
            c = (char)('A' + round % 20 + i * 32);
            assert_int_equal(write(in[i][1], &c, 1), 1);
        }
        for (int i = 0; i < 2; i++) {
            assert_int_equal(read(out[i][0], &c, 1), 1);
            assert_int_equal(c, 'B' + round % 20 + i * 32);
        }
    }
    for (int i = 0; i < 2; i++) {
        assert_true(yado_machine_stop(m[i], NULL, NULL));
        assert_true(yado_machine_wait(m[i], PATIENCE_MS));
        assert_int_equal(yado_machine_stop_reason(m[i]), YADO_STOP_HOST);
        yado_machine_free(m[i]);
        for (int k = 0; k < 2; k++) {
            close(in[i][k]);
            close(out[i][k]);
        }
    }
}

static void done(void *ctx, const struct yado_error *err)
{
    *(int *)ctx = err ? -1 : 1;
}

/* A paused guest does not answer; resumed, it does. */
static void test_pause(void **state)
{
    struct heard h;
    struct yado_machine *m;
    int in[2], out[2], is_done = 0;
    char c = 'x';

    (void)state;
    assert_int_equal(pipe(in), 0);
    assert_int_equal(pipe2(out, 04000 /* O_NONBLOCK */), 0);
    m = guest_start(&h, engine, echo_code, sizeof(echo_code), in[0], out[1], NULL);
    assert_true(yado_machine_pause(m, done, &is_done));
    for (int ms = 0; ms < PATIENCE_MS && !is_done; ms += 10)
        assert_false(yado_machine_wait(m, 10));
    assert_int_equal(is_done, 1);
    assert_int_equal(yado_machine_state(m), YADO_STATE_PAUSED);
    assert_int_equal(write(in[1], &c, 1), 1);
    usleep(50000);
    assert_int_equal(read(out[0], &c, 1), -1);
    assert_true(yado_machine_resume(m, done, &is_done));
    for (int i = 0; i < PATIENCE_MS && read(out[0], &c, 1) != 1; i++)
        usleep(1000);
    assert_int_equal(c, 'y');
    yado_machine_free(m);
    for (int k = 0; k < 2; k++) {
        close(in[k]);
        close(out[k]);
    }
}

/* One disk, two machines: the second cannot start, and can once the first has stopped. */
static void test_disk_is_locked(void **state)
{
    static const uint8_t code[] = { TINY_HALT };
    char disk[] = "/tmp/yado-test-disk-XXXXXX";
    struct heard a, b;
    struct yado_machine *first, *second;
    int fd = mkstemp(disk);

    (void)state;
    if (on_apple()) { /* how the framework says it is not known */
        close(fd);
        unlink(disk);
        skip();
    }
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, 1 << 20), 0);
    close(fd);
    first = guest_start(&a, engine, code, sizeof(code), -1, -1, disk);
    second = guest_start(&b, engine, code, sizeof(code), -1, -1, disk);
    assert_true(yado_machine_wait(second, PATIENCE_MS));
    assert_int_equal(yado_machine_state(second), YADO_STATE_ERROR);
    assert_int_equal(b.start_error.code, YADO_ERR_IN_USE);
    assert_non_null(strstr(b.start_error.message, disk));
    yado_machine_free(second);
    yado_machine_free(first);
    second = guest_start(&b, engine, code, sizeof(code), -1, -1, disk);
    assert_int_equal(yado_machine_state(second), YADO_STATE_RUNNING);
    yado_machine_free(second);
    unlink(disk);
}

/* FADD from a place without memory: the CPU cannot do that access, and KVM's emulator has no such
 * instruction. The machine ends in an error that says where and at what; the process and its other machines
 * go on. */
static void test_engine_failure(void **state)
{
    static const uint8_t code[] = { 0xd8, 0x05, TINY_BYTES32(0xd0000000u), TINY_HALT };
    static const uint8_t other[] = { TINY_HALT };
    static const char bytes[] = "(bytes d8 05 00 00 00 d0";
    struct yado_machine *m, *bystander;
    struct heard h, hb;

    (void)state;
    if (engine != YADO_ENGINE_KVM) {
        skip(); /* the translator does it */
        return;
    }
    bystander = guest_start(&hb, engine, other, sizeof(other), -1, -1, NULL);
    m = guest_start(&h, engine, code, sizeof(code), -1, -1, NULL);
    assert_true(yado_machine_wait(m, PATIENCE_MS));
    assert_int_equal(yado_machine_state(m), YADO_STATE_ERROR);
    assert_int_equal(yado_machine_stop_reason(m), YADO_STOP_FAILURE);
    assert_int_equal(h.ends, 1);
    assert_int_equal(h.error.code, YADO_ERR_ENGINE);
    if (!strstr(h.error.message, "at 0x100000") || !strstr(h.error.message, bytes))
        fail_msg("%s", h.error.message);
    assert_int_equal(yado_machine_state(bystander), YADO_STATE_RUNNING);
    yado_machine_free(m);
    yado_machine_free(bystander);
    assert_int_equal(hb.ends, 0);
    test_power_off(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_power_off),      cmocka_unit_test(test_triple_fault),
        cmocka_unit_test(test_panic),          cmocka_unit_test(test_reboot),
        cmocka_unit_test(test_request_stop),   cmocka_unit_test(test_two_machines),
        cmocka_unit_test(test_pause),          cmocka_unit_test(test_disk_is_locked),
        cmocka_unit_test(test_engine_failure),
    };
    int failed = 0;

    for (unsigned i = 0; i < yado_engine_count(); i++) {
        struct yado_error why = YADO_ERROR_INIT;

        engine = yado_engine_at(i);
        if (yado_engine_usable(engine, &why))
            failed += cmocka_run_group_tests_name(yado_engine_name(engine), tests, NULL, NULL);
        else
            printf("# %s: skipped: %s\n", yado_engine_name(engine), why.message);
    }
    return failed;
}
