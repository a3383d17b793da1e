/* A board's console with several ports under attack: a guest that writes as fast as it can while readers
 * stop, close and change. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "host/socket.h"
#include "machine/consoles.h"
#include "pci_bench.h"

#define F_MULTIPORT 2u
#define PORTS 3
#define QUEUES (2 * (PORTS + 1))
#define CHUNK 4096u
enum { CONTROL_TX = 3, PORT_READY = 3, PORT_OPEN = 6 };

struct rig {
    struct pci_bench b;
    struct consoles *c;
    struct board_port ports[PORTS];
    uint64_t out_gpa, quiet_gpa, control_gpa;
    int quiet[2];           /* the pipe behind port 2 */
    unsigned opens, closes; /* atomic; of port 1 */
    bool stop;              /* atomic */
    bool toggles;           /* the guest opens, closes and resets as well */
    uint32_t sent;          /* words that port 1 was given */
    unsigned pings;         /* lines that port 2 was given */
};

static void on_port_open(void *ctx, unsigned device, unsigned port, bool is_open)
{
    struct rig *r = ctx;

    if (device == 0 && port == 1)
        __atomic_add_fetch(is_open ? &r->opens : &r->closes, 1, __ATOMIC_SEQ_CST);
}

/* ---- the driver ---- */

static void driver_start(struct rig *r)
{
    r->b.d.next_gpa = r->control_gpa + 0x1000;
    pci_bench_drive(&r->b, F_MULTIPORT, QUEUES);
}

static bool used(struct rig *r, unsigned queue)
{
    uint32_t id, len;

    return drv_used(&r->b.d.queues[queue], &id, &len);
}

static void say(struct rig *r, unsigned event, bool value)
{
    const uint32_t m[2] = { 1, event | (value ? 1u << 16 : 0) };

    memcpy(drv_at(&r->b.d, r->control_gpa, sizeof(m)), m, sizeof(m));
    drv_add(&r->b.d.queues[CONTROL_TX], 0, &(struct drv_seg){ r->control_gpa, sizeof(m), false }, 1);
    pci_bench_kick(&r->b, CONTROL_TX);
    while (!used(r, CONTROL_TX)) /* as Linux does */
        sched_yield();
}

static bool must_stop(struct rig *r)
{
    return __atomic_load_n(&r->stop, __ATOMIC_SEQ_CST);
}

/* A chunk of numbers for port 1, in descriptor `desc`. */
static void numbers_add(struct rig *r, unsigned desc)
{
    uint32_t *p = drv_at(&r->b.d, r->out_gpa + desc * CHUNK, CHUNK);

    for (unsigned i = 0; i < CHUNK / 4; i++)
        p[i] = r->sent++;
    drv_add(&r->b.d.queues[5], desc, &(struct drv_seg){ r->out_gpa + desc * CHUNK, CHUNK, false }, 1);
    pci_bench_kick(&r->b, 5);
}

static void quiet_say(struct rig *r)
{
    memcpy(drv_at(&r->b.d, r->quiet_gpa, 8), "quiet...", 8);
    drv_add(&r->b.d.queues[7], 0, &(struct drv_seg){ r->quiet_gpa, 8, false }, 1);
    pci_bench_kick(&r->b, 7);
    while (!used(r, 7)) /* which takes no longer because port 1 is stuck */
        sched_yield();
    r->pings++;
}

static void *guest_main(void *arg)
{
    struct rig *r = arg;
    unsigned held = 0, next = 0;

    for (unsigned round = 0; !must_stop(r); round++) {
        while (held < 16) {
            numbers_add(r, next++ % 16);
            held++;
        }
        while (held && used(r, 5))
            held--;
        if (round % 64 == 0 && r->pings < 4000)
            quiet_say(r);
        if (r->toggles && round % 50 == 7)
            say(r, PORT_OPEN, round / 50 % 2);
        if (r->toggles && round % 5000 == 4999) {
            pci_bench_reset(&r->b);
            driver_start(r);
            held = 0;
        }
        if (held == 16)
            sched_yield();
    }
    return NULL;
}

/* ---- the rig ---- */

static void rig_open(struct rig *r)
{
    struct yado_error err = YADO_ERROR_INIT;
    struct board_devices *devices = test_calloc(1, sizeof(*devices));

    memset(r, 0, sizeof(*r));
    pci_bench_open(&r->b);
    r->out_gpa = drv_alloc(&r->b.d, 16 * CHUNK);
    r->quiet_gpa = drv_alloc(&r->b.d, 16);
    r->control_gpa = drv_alloc(&r->b.d, 0x1000);
    assert_int_equal(pipe(r->quiet), 0);
    for (unsigned i = 0; i < PORTS; i++)
        r->ports[i] = (struct board_port){ .is_present = i > 0, .ends = pump_ends_none() };
    r->ports[2].ends.write_fd = r->quiet[1];
    devices->consoles[0] = (struct board_console){ .ports = r->ports, .port_count = PORTS };
    devices->console_count = 1;
    struct consoles_config cfg = { .devices = devices,
                                   .pci = r->b.host,
                                   .mem = r->b.d.mem,
                                   .loop = r->b.loop,
                                   .log = &r->b.d.log,
                                   .port_open = on_port_open,
                                   .ctx = r };
    r->c = consoles_new(&cfg, &err);
    if (!r->c)
        fail_msg("%s", err.message);
    test_free(devices);
    pci_bench_start(&r->b);
    assert_true(consoles_start(r->c, &err));
    driver_start(r);
}

/* In the board's order, with the guest at rest. */
static void rig_close(struct rig *r)
{
    consoles_stop(r->c);
    pci_bench_stop(&r->b);
    consoles_free(r->c);
    pci_bench_close(&r->b);
    close(r->quiet[0]);
    close(r->quiet[1]);
}

static struct pump_ends output_to(int fd)
{
    struct pump_ends ends = pump_ends_none();

    ends.write_fd = fd;
    return ends;
}

static void attach(struct rig *r, struct pump_ends ends)
{
    struct yado_error err = YADO_ERROR_INIT;

    if (!consoles_attach(r->c, 0, 1, &ends, &err))
        fail_msg("%s", err.message);
}

/* Reads what a pipe has, at most `limit` bytes; with its writers gone, to the end. */
static void numbers_read(int fd, uint64_t *seen, size_t limit)
{
    static uint8_t buf[65536];
    ssize_t n;

    while (limit && (n = read(fd, buf, limit < sizeof(buf) ? limit : sizeof(buf))) > 0) {
        for (ssize_t i = 0; i < n; i++, ++*seen) {
            const uint32_t word = (uint32_t)(*seen / 4);

            if (buf[i] != ((const uint8_t *)&word)[*seen % 4])
                fail_msg("byte %llu is wrong", (unsigned long long)*seen);
        }
        limit -= (size_t)n;
    }
}

static void quiet_check(struct rig *r)
{
    char line[8];
    struct pollfd in = { .fd = r->quiet[0], .events = POLLIN };

    for (unsigned i = 0; i < r->pings; i++) {
        assert_int_equal(poll(&in, 1, 20000), 1); /* the pump's thread may be late on a busy host */
        assert_int_equal(read(r->quiet[0], line, 8), 8);
        assert_memory_equal(line, "quiet...", 8);
    }
}

/* ---- tests ---- */

/* Readers that stop and are replaced: every byte comes, once, in order, to the one or the other. */
static void nothing_is_lost_in_swaps(void **state)
{
    static struct rig r;
    uint64_t seen = 0;
    pthread_t guest;
    int now[2], next[2];

    (void)state;
    rig_open(&r);
    assert_int_equal(pipe(now), 0);
    attach(&r, output_to(now[1]));
    assert_int_equal(pthread_create(&guest, NULL, guest_main, &r), 0);
    for (unsigned round = 0; round < 40; round++) {
        numbers_read(now[0], &seen, 50000 + round * 1000);
        if (round % 4 == 0)
            usleep(3000); /* everything is full and stands still */
        assert_int_equal(pipe(next), 0);
        attach(&r, output_to(next[1]));
        close(now[1]);
        numbers_read(now[0], &seen, SIZE_MAX); /* to its end: the pump has let go of it */
        close(now[0]);
        memcpy(now, next, sizeof(now));
    }
    __atomic_store_n(&r.stop, true, __ATOMIC_SEQ_CST);
    pthread_join(guest, NULL);
    assert_true(seen > 2000000);
    quiet_check(&r);
    rig_close(&r);
    close(now[0]);
    close(now[1]);
}

/* Everything at once: floods, openings, closings and resets by the guest; pipes and sockets that come, read a
 * little or nothing, and go. The other port never waits. */
static void everything_at_once(void **state)
{
    static struct rig r;
    char path[64], buf[5000];
    struct pump_ends socket = pump_ends_none();
    struct socket_file file;
    pthread_t guest;
    int listener;

    (void)state;
    rig_open(&r);
    r.toggles = true;
    snprintf(path, sizeof(path), "/tmp/yado-test-consoles-%d.sock", (int)getpid());
    assert_int_equal(socket_listen_unix(path, &listener, &file), 0);
    socket.listen_fd = listener;
    assert_int_equal(pthread_create(&guest, NULL, guest_main, &r), 0);
    for (unsigned round = 0; round < 150; round++) {
        int out[2], fd = -1;

        assert_int_equal(pipe(out), 0);
        if (round % 3 == 0) {
            attach(&r, socket);
            assert_int_equal(socket_connect_unix(path, &fd), 0);
            assert_true(write(fd, "input for nobody or somebody", 28) > 0);
        } else {
            attach(&r, output_to(out[1]));
        }
        if (round % 5 < 3)
            usleep(1000);
        for (unsigned i = 0; i < round % 4 && fd < 0 && round % 2; i++)
            assert_true(read(out[0], buf, sizeof(buf)) > 0);
        if (round % 2)
            close(out[0]); /* the reader goes first */
        if (fd >= 0)
            close(fd);
        if (round % 7 == 0)
            attach(&r, socket);
        attach(&r, pump_ends_none());
        if (round % 2 == 0)
            close(out[0]);
        close(out[1]);
    }
    __atomic_store_n(&r.stop, true, __ATOMIC_SEQ_CST);
    pthread_join(guest, NULL);
    assert_true(r.sent > 100000);
    assert_true(__atomic_load_n(&r.opens, __ATOMIC_SEQ_CST) > 0);
    quiet_check(&r);
    rig_close(&r);
    assert_int_equal(r.opens, r.closes); /* whatever was open is closed at the end */
    close(listener);
    socket_file_remove(path, &file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_lost_in_swaps),
        cmocka_unit_test(everything_at_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
