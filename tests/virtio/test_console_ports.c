/* virtio-console with several ports: the messages about them, data that does not mix, a slow reader that
 * holds back nobody else, bounded turns, drivers that know one port only, and hostile ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "driver.h"
#include "virtio/console.h"

#define F_SIZE 1u
#define F_MULTIPORT 2u
enum { CONTROL_RX = 2, CONTROL_TX = 3 };
enum { DEVICE_READY, PORT_ADD, PORT_REMOVE, PORT_READY, CONSOLE_PORT, RESIZE, PORT_OPEN, PORT_NAME };
#define PORTS 4 /* 0: a console; 1: named, nobody at the host's side; 2: absent; 3: named, open */
#define CONTROL_LEN 128u

struct rig {
    struct drv d;
    struct vconsole *c;
    uint64_t data, control;
    unsigned control_out; /* messages sent */
    struct {
        char got[200000];
        size_t len, max;
        unsigned rooms, opens, closes;
    } ports[PORTS];
};

static unsigned rx(unsigned port)
{
    return port ? 2 * port + 2 : 0;
}

static unsigned tx(unsigned port)
{
    return rx(port) + 1;
}

static size_t sink(void *ctx, unsigned port, const uint8_t *buf, size_t len)
{
    struct rig *r = ctx;
    size_t n;

    assert_true(port < PORTS);
    n = min_u64(len, r->ports[port].max - r->ports[port].len);
    memcpy(r->ports[port].got + r->ports[port].len, buf, n);
    r->ports[port].len += n;
    return n;
}

static void room(void *ctx, unsigned port)
{
    ((struct rig *)ctx)->ports[port].rooms++;
}

static void guest_open(void *ctx, unsigned port, bool is_open)
{
    struct rig *r = ctx;

    r->ports[port].opens += is_open;
    r->ports[port].closes += !is_open;
}

static int setup(void **state)
{
    static const struct vconsole_port_config ports[PORTS] = {
        { .is_present = true, .is_console = true, .columns = 80, .rows = 24 },
        { .is_present = true, .name = "org.yado.agent" },
        { .is_present = false },
        { .is_present = true, .name = "log", .is_host_open = true },
    };
    struct rig *r = test_calloc(1, sizeof(*r));
    struct yado_error err = YADO_ERROR_INIT;

    drv_init(&r->d);
    for (unsigned i = 0; i < PORTS; i++)
        r->ports[i].max = sizeof(r->ports[i].got);
    r->c = vconsole_new(&(struct vconsole_config){ .multiport = true,
                                                   .ports = ports,
                                                   .port_count = PORTS,
                                                   .sink = sink,
                                                   .room = room,
                                                   .guest_open = guest_open,
                                                   .ctx = r,
                                                   .log = &r->d.log },
                        &err);
    assert_non_null(r->c);
    drv_attach(&r->d, vconsole_vdev(r->c));
    r->data = drv_alloc(&r->d, 0x100000);
    r->control = drv_alloc(&r->d, 64 * CONTROL_LEN);
    *state = r;
    return 0;
}

static int teardown(void **state)
{
    struct rig *r = *state;

    vconsole_free(r->c);
    drv_free(&r->d);
    test_free(r);
    return 0;
}

/* ---- the driver ---- */

static void control_buffers(struct rig *r, unsigned first, unsigned count, uint32_t len)
{
    for (unsigned i = first; i < first + count; i++) {
        struct drv_seg seg = { r->control + i * CONTROL_LEN, len, true };

        drv_add(&r->d.queues[CONTROL_RX], i, &seg, 1);
    }
    vdev_kick(r->d.vd, CONTROL_RX);
}

static void control_bytes(struct rig *r, const void *bytes, uint32_t len)
{
    struct drv_queue *q = &r->d.queues[CONTROL_TX];
    unsigned desc = r->control_out++ % 64;
    struct drv_seg seg = { r->control + desc * CONTROL_LEN, len, false };
    uint32_t id, used;

    memcpy(drv_at(&r->d, seg.gpa, len), bytes, len);
    drv_add(q, desc, &seg, 1);
    vdev_kick(r->d.vd, CONTROL_TX);
    drv_used(q, &id, &used);
}

static void say(struct rig *r, uint32_t port, uint16_t event, uint16_t value)
{
    struct {
        uint32_t id;
        uint16_t event, value;
    } m = { port, event, value };

    control_bytes(r, &m, sizeof(m));
}

/* The next message from the device is this one. */
static void hear(struct rig *r, uint32_t port, uint16_t event, uint16_t value, const void *tail,
                 size_t tail_len)
{
    uint32_t id, len;
    const uint8_t *p;

    assert_true(drv_used(&r->d.queues[CONTROL_RX], &id, &len));
    p = drv_at(&r->d, r->control + id * CONTROL_LEN, CONTROL_LEN);
    assert_int_equal(len, 8 + tail_len);
    assert_memory_equal(p, &port, 4);
    assert_memory_equal(p + 4, &event, 2);
    assert_memory_equal(p + 6, &value, 2);
    if (tail_len)
        assert_memory_equal(p + 8, tail, tail_len);
}

static void hear_nothing(struct rig *r)
{
    uint32_t id, len;

    assert_false(drv_used(&r->d.queues[CONTROL_RX], &id, &len));
}

static void output(struct rig *r, unsigned port, unsigned desc, const void *bytes, uint32_t len)
{
    struct drv_seg seg = { r->data + desc * 0x10000 + port * 0x1000, len, false };

    memcpy(drv_at(&r->d, seg.gpa, len), bytes, len);
    drv_add(&r->d.queues[tx(port)], desc, &seg, 1);
    vdev_kick(r->d.vd, tx(port));
}

static void buffer(struct rig *r, unsigned port, unsigned desc, uint32_t len)
{
    struct drv_seg seg = { r->data + 0x80000 + port * 0x1000 + desc * 64, len, true };

    drv_add(&r->d.queues[rx(port)], desc, &seg, 1);
    vdev_kick(r->d.vd, rx(port));
}

/* All ports made, with everything heard. */
static void bring_up(struct rig *r)
{
    const uint16_t size[2] = { 80, 24 };

    drv_start(&r->d, F_MULTIPORT | F_SIZE, 0);
    control_buffers(r, 32, 32, CONTROL_LEN);
    hear_nothing(r);
    say(r, UINT32_MAX, DEVICE_READY, 1);
    hear(r, 0, PORT_ADD, 1, NULL, 0);
    hear(r, 1, PORT_ADD, 1, NULL, 0);
    hear(r, 3, PORT_ADD, 1, NULL, 0);
    say(r, 0, PORT_READY, 1);
    hear(r, 0, CONSOLE_PORT, 1, NULL, 0);
    hear(r, 0, PORT_OPEN, 1, NULL, 0);
    hear(r, 0, RESIZE, 0, size, sizeof(size));
    say(r, 1, PORT_READY, 1);
    hear(r, 1, PORT_NAME, 1, "org.yado.agent", 14);
    say(r, 3, PORT_READY, 1);
    hear(r, 3, PORT_NAME, 1, "log", 3);
    hear(r, 3, PORT_OPEN, 1, NULL, 0);
    hear_nothing(r);
}

/* ---- messages ---- */

static void test_ports_are_told(void **state)
{
    struct rig *r = *state;
    struct vdev *vd = r->d.vd;
    const uint16_t size[2] = { 132, 50 };

    assert_int_equal(vd->queue_count, 2 * (PORTS + 1));
    vdev_lock(vd);
    assert_int_equal(vdev_config_read(vd, 4, 4), PORTS);
    vdev_unlock(vd);
    bring_up(r);
    vconsole_resize(r->c, 0, 132, 50);
    hear(r, 0, RESIZE, 0, size, sizeof(size));
    vconsole_resize(r->c, 0, 132, 50); /* no change */
    vconsole_resize(r->c, 3, 10, 10);  /* no terminal */
    hear_nothing(r);
    vconsole_host_open(r->c, 1, true);
    hear(r, 1, PORT_OPEN, 1, NULL, 0);
    vconsole_host_open(r->c, 1, true);
    hear_nothing(r);
    vconsole_host_open(r->c, 1, false);
    hear(r, 1, PORT_OPEN, 0, NULL, 0);
    vconsole_host_open(r->c, 0, false); /* a console is open for the guest whoever is there */
    vconsole_host_open(r->c, 0, true);
    hear_nothing(r);
}

/* Without buffers nothing is lost and nothing piles up: the driver hears how things are, and of a change of
 * hands that somebody new is there. */
static void test_no_control_buffers(void **state)
{
    struct rig *r = *state;

    drv_start(&r->d, F_MULTIPORT, 0);
    say(r, UINT32_MAX, DEVICE_READY, 1);
    say(r, 3, PORT_READY, 1);
    control_buffers(r, 32, 5, CONTROL_LEN);
    hear(r, 0, PORT_ADD, 1, NULL, 0);
    hear(r, 1, PORT_ADD, 1, NULL, 0);
    hear(r, 3, PORT_ADD, 1, NULL, 0);
    hear(r, 3, PORT_NAME, 1, "log", 3);
    hear(r, 3, PORT_OPEN, 1, NULL, 0);
    for (unsigned i = 0; i < 1000; i++) {
        vconsole_host_open(r->c, 3, false);
        vconsole_host_open(r->c, 3, true);
    }
    control_buffers(r, 40, 8, CONTROL_LEN);
    hear(r, 3, PORT_OPEN, 0, NULL, 0);
    hear(r, 3, PORT_OPEN, 1, NULL, 0);
    hear_nothing(r);
}

static void test_guest_opens(void **state)
{
    struct rig *r = *state;

    bring_up(r);
    assert_int_equal(vconsole_receive(r->c, 1, "abc", 3), 0);
    buffer(r, 1, 0, 64);
    assert_int_equal(r->ports[1].rooms, 0); /* nobody has opened it */
    say(r, 1, PORT_OPEN, 1);
    say(r, 1, PORT_OPEN, 1);
    assert_int_equal(r->ports[1].opens, 1);
    assert_int_equal(r->ports[1].rooms, 1);
    assert_int_equal(vconsole_receive(r->c, 1, "abc", 3), 3);
    say(r, 1, PORT_OPEN, 0);
    assert_int_equal(r->ports[1].closes, 1);
    buffer(r, 1, 1, 64);
    assert_int_equal(vconsole_receive(r->c, 1, "def", 3), 0);
    say(r, 3, PORT_OPEN, 1);
    drv_reset(&r->d);
    assert_int_equal(r->ports[1].closes, 1);
    assert_int_equal(r->ports[3].closes, 1);
    bring_up(r); /* all is told again */
}

/* The size of a terminal may become known later: Linux wants the feature for that from the start. */
static void test_size_comes_later(void **state)
{
    struct rig *r = *state;
    struct vconsole_port_config ports[2] = { { .is_present = true }, { .is_present = true } };
    struct vconsole_config cfg = {
        .multiport = true, .ports = ports, .port_count = 2, .sink = sink, .ctx = r, .log = &r->d.log
    };
    const uint16_t size[2] = { 100, 30 };
    struct vconsole *c = vconsole_new(&cfg, NULL);

    assert_false(vconsole_vdev(c)->offered & F_SIZE);
    vconsole_free(c);
    vconsole_free(r->c);
    ports[1].is_console = true;
    r->c = vconsole_new(&cfg, NULL);
    drv_attach(&r->d, vconsole_vdev(r->c));
    drv_start(&r->d, F_MULTIPORT | F_SIZE, 0);
    assert_int_equal(r->d.config_interrupts, 0);
    control_buffers(r, 32, 8, CONTROL_LEN);
    say(r, 1, PORT_READY, 1);
    hear(r, 1, CONSOLE_PORT, 1, NULL, 0);
    hear(r, 1, PORT_OPEN, 1, NULL, 0);
    hear_nothing(r);
    vconsole_resize(r->c, 1, 100, 30);
    hear(r, 1, RESIZE, 0, size, sizeof(size));
}

/* A driver that could not make a port hears no more of it. */
static void test_port_not_ready(void **state)
{
    struct rig *r = *state;

    bring_up(r);
    say(r, 3, PORT_READY, 0);
    vconsole_host_open(r->c, 3, false);
    vconsole_host_open(r->c, 3, true);
    hear_nothing(r);
}

static void test_one_port_driver(void **state)
{
    struct rig *r = *state;

    drv_start(&r->d, F_SIZE, 0);
    assert_int_equal(r->d.config_interrupts, 1);
    assert_int_equal(r->ports[0].opens, 1);
    output(r, 0, 0, "hello", 5);
    assert_int_equal(r->ports[0].len, 5);
    buffer(r, 0, 0, 64);
    assert_int_equal(vconsole_receive(r->c, 0, "abc", 3), 3);
    output(r, 1, 0, "hello", 5); /* queues that it does not know */
    assert_int_equal(r->ports[1].len, 0);
    control_buffers(r, 0, 4, CONTROL_LEN);
    say(r, 0, PORT_READY, 1);
    vconsole_host_open(r->c, 1, true);
    hear_nothing(r);
    assert_false(drv_status(&r->d) & VIRTIO_STATUS_NEEDS_RESET);
    drv_reset(&r->d);
    assert_int_equal(r->ports[0].closes, 1);
}

/* ---- data ---- */

static void test_ports_do_not_mix(void **state)
{
    struct rig *r = *state;

    bring_up(r);
    for (unsigned port = 0; port < PORTS; port++) {
        char text[16];

        if (port == 2)
            continue;
        snprintf(text, sizeof(text), "port %u", port);
        say(r, port, PORT_OPEN, 1);
        output(r, port, 0, text, 6);
        assert_int_equal(r->ports[port].len, 6);
        assert_memory_equal(r->ports[port].got, text, 6);
        buffer(r, port, 0, 64);
        assert_int_equal(vconsole_receive(r->c, port, text, 6), 6);
        assert_memory_equal(drv_at(&r->d, r->data + 0x80000 + port * 0x1000, 6), text, 6);
    }
    assert_int_equal(r->ports[2].len, 0);
}

static void test_slow_reader_alone(void **state)
{
    struct rig *r = *state;
    uint32_t id, len;

    bring_up(r);
    r->ports[1].max = 4;
    output(r, 1, 0, "abcdef", 6);
    output(r, 1, 1, "ghi", 3);
    assert_int_equal(r->ports[1].len, 4);
    assert_false(drv_used(&r->d.queues[tx(1)], &id, &len));
    for (unsigned i = 0; i < 20; i++)
        output(r, 3, i % 4, "other", 5);
    assert_int_equal(r->ports[3].len, 100);
    say(r, 1, PORT_OPEN, 1); /* control works too */
    assert_int_equal(r->ports[1].opens, 1);
    r->ports[1].max = 100;
    vconsole_sink_ready(r->c, 1);
    assert_int_equal(r->ports[1].len, 9);
    assert_memory_equal(r->ports[1].got, "abcdefghi", 9);
    assert_true(drv_used(&r->d.queues[tx(1)], &id, &len));
    assert_true(drv_used(&r->d.queues[tx(1)], &id, &len));
    r->ports[3].max = 101; /* stalled at reset */
    output(r, 3, 0, "xyz", 3);
    drv_reset(&r->d);
    vconsole_sink_ready(r->c, 3);
    assert_int_equal(r->ports[3].len, 101);
}

/* One chain of more than a turn's bytes, made of one piece of memory used again and again: the kick returns
 * after a turn, and the rest follows on the loop thread. */
static void test_turns_are_bounded(void **state)
{
    struct rig *r = *state;
    struct drv_seg segs[8];
    struct loop *loop;
    struct yado_error err = YADO_ERROR_INIT;
    uint32_t id, len;
    uint8_t *p = drv_at(&r->d, r->data + 0x50000, 20000);

    for (unsigned i = 0; i < 20000; i++)
        p[i] = (uint8_t)(i * 7 + i / 256);
    loop = loop_new(&err);
    assert_non_null(loop);
    r->d.vd->loop = loop; /* not running yet */
    bring_up(r);
    for (unsigned i = 0; i < 8; i++)
        segs[i] = (struct drv_seg){ r->data + 0x50000, 20000, false };
    drv_add(&r->d.queues[tx(3)], 0, segs, 8);
    vdev_kick(r->d.vd, tx(3));
    assert_int_equal(r->ports[3].len, 65536);
    assert_false(drv_used(&r->d.queues[tx(3)], &id, &len));
    output(r, 0, 0, "console", 7); /* others go between */
    assert_int_equal(r->ports[0].len, 7);
    assert_true(loop_start(loop, "test", &err));
    drv_wait_used(&r->d.queues[tx(3)], &id, &len);
    vdev_lock(r->d.vd);
    assert_int_equal(r->ports[3].len, 160000);
    vdev_unlock(r->d.vd);
    for (unsigned i = 0; i < 160000; i++)
        assert_int_equal((uint8_t)r->ports[3].got[i], p[i % 20000]);
    loop_stop(loop);
    r->d.vd->loop = NULL;
    loop_free(loop);
}

/* ---- hostile drivers ---- */

static void broken(struct rig *r, const char *why)
{
    assert_true(drv_status(&r->d) & VIRTIO_STATUS_NEEDS_RESET);
    if (!strstr(r->d.fault, why))
        fail_msg("\"%s\" is not in \"%s\"", why, r->d.fault);
    /* Everything is harmless now. */
    assert_int_equal(vconsole_receive(r->c, 3, "x", 1), 0);
    vconsole_host_open(r->c, 3, false);
    vconsole_host_open(r->c, 3, true);
    vconsole_resize(r->c, 0, 1, 1);
    vconsole_resize(r->c, 0, 80, 24);
    vconsole_sink_ready(r->c, 3);
    drv_reset(&r->d);
    assert_int_equal(drv_status(&r->d), 0);
    r->d.config_interrupts = 0;
}

static void test_bad_messages(void **state)
{
    struct rig *r = *state;
    static const uint32_t ports[] = { 2, PORTS, 31, 0x7fffffff, UINT32_MAX };
    struct drv_seg seg = { r->control, 8, true };

    for (size_t i = 0; i < array_size(ports); i++) {
        bring_up(r);
        say(r, ports[i], i & 1 ? PORT_OPEN : PORT_READY, 1);
        broken(r, "which is not there");
    }
    bring_up(r);
    control_bytes(r, "1234567", 7);
    broken(r, "control message of 7 bytes");
    bring_up(r);
    drv_add(&r->d.queues[CONTROL_TX], 0, &seg, 1); /* nothing to read */
    vdev_kick(r->d.vd, CONTROL_TX);
    broken(r, "control message of 0 bytes");
    drv_start(&r->d, F_MULTIPORT, 0);
    control_buffers(r, 0, 1, 7);
    say(r, 0, DEVICE_READY, 1);
    broken(r, "control receive buffer of 7 bytes");
    bring_up(r);
    say(r, 77, 99, 1); /* of a later version */
    say(r, 77, PORT_ADD, 1);
    assert_false(drv_status(&r->d) & VIRTIO_STATUS_NEEDS_RESET);
}

/* A message that is longer than it must be, in pieces, is read by its first bytes. */
static void test_message_in_pieces(void **state)
{
    struct rig *r = *state;
    struct drv_seg segs[] = { { r->data, 3, false },
                              { r->data + 3, 1, false },
                              { r->data + 4, 5000, false } };
    const uint8_t open[] = { 1, 0, 0, 0, PORT_OPEN, 0, 1, 0 };

    bring_up(r);
    memcpy(drv_at(&r->d, r->data, 8), open, 8);
    drv_add(&r->d.queues[CONTROL_TX], 10, segs, 3);
    vdev_kick(r->d.vd, CONTROL_TX);
    assert_int_equal(r->ports[1].opens, 1);
}

/* Random control messages, chains of random shape on random queues, resets at random: the device may break,
 * the process not, and after a reset it works. */
static void test_scribble(void **state)
{
    struct rig *r = *state;
    uint64_t seed = 12345;
    unsigned faults = 0;

    bring_up(r);
    for (unsigned round = 0; round < 20000; round++) {
        struct drv_seg segs[4];
        unsigned n, queue;
        uint32_t id, len;

        seed = seed * 6364136223846793005u + 1442695040888963407u;
        n = 1 + (unsigned)(seed >> 33) % 4;
        queue = (unsigned)(seed >> 40) % (2 * (PORTS + 1));
        for (unsigned i = 0; i < n; i++)
            segs[i] =
                (struct drv_seg){ r->data + (seed >> (20 + i)) % 0xf0000,
                                  1 + (uint32_t)((seed >> (24 + i)) % 300), (seed >> (50 - i) & 3) == 0 };
        for (unsigned i = 1; i < n; i++) /* in order, mostly */
            segs[i].device_writes |= segs[i - 1].device_writes && seed >> 60 != 0;
        if (queue == CONTROL_TX) {
            uint32_t m[2] = { (uint32_t)(seed >> 45) % (PORTS + (round % 64 == 0)),
                              (uint32_t)(seed >> 12) % 9 | (uint32_t)(seed >> 13 & 1) << 16 };

            memcpy(drv_at(&r->d, segs[0].gpa, 8), m, 8);
        }
        drv_add(&r->d.queues[queue], (unsigned)(seed >> 55) % 60, segs, n);
        vdev_kick(r->d.vd, queue);
        while (drv_used(&r->d.queues[queue], &id, &len))
            ;
        for (unsigned i = 0; i < PORTS; i++)
            r->ports[i].len = 0;
        vconsole_receive(r->c, (seed >> 30) % 2 ? 3 : 1, "input", 5);
        vconsole_host_open(r->c, 1, seed >> 31 & 1);
        vconsole_resize(r->c, 0, (uint16_t)(seed >> 20), (uint16_t)(seed >> 30));
        if (!(drv_status(&r->d) & VIRTIO_STATUS_NEEDS_RESET) && round % 100)
            continue;
        faults += (drv_status(&r->d) & VIRTIO_STATUS_NEEDS_RESET) != 0;
        drv_reset(&r->d);
        r->d.next_gpa = align_up(r->control + 64 * CONTROL_LEN, 4096);
        drv_start(&r->d, F_MULTIPORT, 0);
    }
    assert_true(faults > 100);
    drv_reset(&r->d);
    vconsole_resize(r->c, 0, 80, 24);
    vconsole_host_open(r->c, 1, false);
    bring_up(r);
}

#define T(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(ports_are_told),    T(no_control_buffers), T(guest_opens),       T(port_not_ready),
        T(size_comes_later),  T(one_port_driver),    T(ports_do_not_mix),  T(slow_reader_alone),
        T(turns_are_bounded), T(bad_messages),       T(message_in_pieces), T(scribble),
    };

    return cmocka_run_group_tests_name("virtio console ports", tests, NULL, NULL);
}
