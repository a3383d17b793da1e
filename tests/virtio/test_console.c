/* virtio-console with one port: output and input, back-pressure both ways, resize, wrong buffers, reset. */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "driver.h"
#include "virtio/console.h"

#define F_SIZE 1u
#define F_EMERG_WRITE 4u
enum { RX, TX };

struct rig {
    struct drv d;
    struct vconsole *c;
    uint64_t data;
    char got[65536];
    size_t got_len, got_max; /* the sink takes bytes up to got_max */
    unsigned room_calls;     /* atomic */
};

static size_t sink(void *ctx, unsigned port, const uint8_t *buf, size_t len)
{
    struct rig *r = ctx;
    size_t n = min_u64(len, r->got_max - r->got_len);

    assert_int_equal(port, 0);

    memcpy(r->got + r->got_len, buf, n);
    r->got_len += n;
    return n;
}

static void room(void *ctx, unsigned port)
{
    assert_int_equal(port, 0);
    __atomic_add_fetch(&((struct rig *)ctx)->room_calls, 1, __ATOMIC_SEQ_CST);
}

static unsigned rooms(struct rig *r)
{
    return __atomic_load_n(&r->room_calls, __ATOMIC_SEQ_CST);
}

static int setup(void **state)
{
    struct rig *r = test_calloc(1, sizeof(*r));
    struct yado_error err = YADO_ERROR_INIT;

    drv_init(&r->d);
    r->got_max = sizeof(r->got);
    r->c =
        vconsole_new(&(struct vconsole_config){ .ports = &(struct vconsole_port_config){ .is_present = true,
                                                                                         .is_console = true,
                                                                                         .columns = 80,
                                                                                         .rows = 24 },
                                                .port_count = 1,
                                                .sink = sink,
                                                .room = room,
                                                .ctx = r,
                                                .log = &r->d.log },
                     &err);
    assert_non_null(r->c);
    drv_attach(&r->d, vconsole_vdev(r->c));
    r->data = drv_alloc(&r->d, 0x10000);
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

static void say(struct rig *r, unsigned desc, const char *text)
{
    struct drv_seg seg = { r->data + desc * 256, (uint32_t)strlen(text), false };

    memcpy(drv_at(&r->d, seg.gpa, seg.len), text, seg.len);
    drv_add(&r->d.queues[TX], desc, &seg, 1);
}

static void buffer(struct rig *r, unsigned desc, uint32_t len)
{
    struct drv_seg seg = { r->data + 0x8000 + desc * 256, len, true };

    drv_add(&r->d.queues[RX], desc, &seg, 1);
}

static void test_output(void **state)
{
    struct rig *r = *state;
    uint32_t id, len;

    drv_start(&r->d, F_SIZE, 0);
    say(r, 0, "hello ");
    say(r, 1, "world\r\n");
    vdev_kick(r->d.vd, TX);
    assert_int_equal(r->got_len, 13);
    assert_memory_equal(r->got, "hello world\r\n", 13);
    assert_true(drv_used(&r->d.queues[TX], &id, &len));
    assert_int_equal(id, 0);
    assert_int_equal(len, 0);
    assert_true(drv_used(&r->d.queues[TX], &id, &len));
    assert_int_equal(r->d.queue_interrupts[TX], 2);
    /* larger than the host's copy buffer, in pieces */
    struct drv_seg segs[] = { { r->data, 5000, false },
                              { r->data + 5000, 1, false },
                              { r->data + 5001, 9999, false } };
    uint8_t *p = drv_at(&r->d, r->data, 15000);
    for (unsigned i = 0; i < 15000; i++)
        p[i] = (uint8_t)(i * 31 + i / 256);
    r->got_len = 0;
    drv_add(&r->d.queues[TX], 4, segs, 3);
    vdev_kick(r->d.vd, TX);
    assert_int_equal(r->got_len, 15000);
    assert_memory_equal(r->got, p, 15000);
}

static void test_output_stalls(void **state)
{
    struct rig *r = *state;
    uint32_t id, len;

    drv_start(&r->d, F_SIZE, 0);
    r->got_max = 4;
    say(r, 0, "abcdef");
    say(r, 1, "ghi");
    vdev_kick(r->d.vd, TX);
    assert_int_equal(r->got_len, 4);
    assert_false(drv_used(&r->d.queues[TX], &id, &len));
    vdev_kick(r->d.vd, TX); /* changes nothing */
    assert_int_equal(r->got_len, 4);
    r->got_max = 5;
    vconsole_sink_ready(r->c, 0);
    assert_int_equal(r->got_len, 5);
    assert_false(drv_used(&r->d.queues[TX], &id, &len));
    assert_false(drv_kick_wanted(&r->d.queues[TX], 0));
    r->got_max = 1000;
    vconsole_sink_ready(r->c, 0);
    assert_memory_equal(r->got, "abcdefghi", 9);
    assert_int_equal(r->got_len, 9);
    assert_true(drv_used(&r->d.queues[TX], &id, &len));
    assert_true(drv_used(&r->d.queues[TX], &id, &len));
    assert_true(drv_kick_wanted(&r->d.queues[TX], 0));
    vconsole_sink_ready(r->c, 0);
    assert_int_equal(r->got_len, 9);
}

static void test_reset_while_stalled(void **state)
{
    struct rig *r = *state;

    drv_start(&r->d, F_SIZE, 0);
    r->got_max = 4;
    say(r, 0, "abcdef");
    vdev_kick(r->d.vd, TX);
    drv_reset(&r->d); /* must not wait for the sink */
    r->got_max = 100;
    vconsole_sink_ready(r->c, 0);
    assert_int_equal(r->got_len, 4);
    drv_start(&r->d, F_SIZE, 0);
    say(r, 0, "XY");
    vdev_kick(r->d.vd, TX);
    assert_memory_equal(r->got, "abcdXY", 6);
}

static void test_input(void **state)
{
    struct rig *r = *state;
    struct drv_queue *q = &r->d.queues[RX];
    uint32_t id, len;

    assert_int_equal(vconsole_receive(r->c, 0, "early", 5), 0); /* no driver yet */
    assert_int_equal(rooms(r), 0);
    drv_start(&r->d, F_SIZE, 0);
    assert_int_equal(rooms(r), 0);
    assert_true(drv_kick_wanted(q, 0));
    buffer(r, 0, 16);
    buffer(r, 1, 3);
    vdev_kick(r->d.vd, RX);
    assert_int_equal(rooms(r), 1);
    assert_false(drv_kick_wanted(q, 0)); /* nobody waits */
    assert_int_equal(vconsole_receive(r->c, 0, "early", 5), 5);
    assert_true(drv_used(q, &id, &len));
    assert_int_equal(id, 0);
    assert_int_equal(len, 5);
    assert_memory_equal(drv_at(&r->d, r->data + 0x8000, 5), "early", 5);
    assert_int_equal(vconsole_receive(r->c, 0, "lines", 5), 3);
    assert_true(drv_used(q, &id, &len));
    assert_int_equal(id, 1);
    assert_int_equal(len, 3);
    assert_memory_equal(drv_at(&r->d, r->data + 0x8100, 4), "lin\0", 4);
    assert_true(drv_kick_wanted(q, 0)); /* now somebody does */
    assert_int_equal(rooms(r), 1);
    buffer(r, 2, 100);
    vdev_kick(r->d.vd, RX);
    assert_int_equal(rooms(r), 2);
    assert_int_equal(vconsole_receive(r->c, 0, "es", 2), 2);
    assert_int_equal(vconsole_receive(r->c, 0, "", 0), 0);
    buffer(r, 3, 100);
    vdev_kick(r->d.vd, RX);
    assert_int_equal(rooms(r), 2);
    assert_true(r->d.queue_interrupts[RX] >= 3);
}

/* Room is reported at activation when the buffers were there before DRIVER_OK, and after a reset. */
static void test_input_over_reset(void **state)
{
    struct rig *r = *state;

    drv_start(&r->d, F_SIZE, 0);
    buffer(r, 0, 16);
    assert_int_equal(vconsole_receive(r->c, 0, "0123456789abcdefXYZ", 19), 16);
    drv_reset(&r->d);
    assert_int_equal(vconsole_receive(r->c, 0, "XYZ", 3), 0);
    drv_start(&r->d, F_SIZE, 0);
    buffer(r, 0, 16);
    assert_true(drv_kick_wanted(&r->d.queues[RX], 0));
    vdev_kick(r->d.vd, RX);
    assert_int_equal(rooms(r), 1);
    assert_int_equal(vconsole_receive(r->c, 0, "XYZ", 3), 3);
}

static void test_bad_receive_buffer(void **state)
{
    struct rig *r = *state;
    struct drv_seg seg = { r->data, 16, false };

    drv_start(&r->d, F_SIZE, 0);
    assert_int_equal(r->d.config_interrupts, 1); /* the size */
    drv_add(&r->d.queues[RX], 0, &seg, 1);
    assert_int_equal(vconsole_receive(r->c, 0, "x", 1), 0);
    assert_true(drv_status(&r->d) & VIRTIO_STATUS_NEEDS_RESET);
    assert_int_equal(r->d.config_interrupts, 2);
    assert_non_null(strstr(r->d.fault, "receive buffer"));
    drv_reset(&r->d);
    assert_int_equal(drv_status(&r->d), 0);
}

static void test_size(void **state)
{
    struct rig *r = *state;
    struct vdev *vd = r->d.vd;

    drv_start(&r->d, F_SIZE, 0);
    assert_int_equal(r->d.config_interrupts, 1); /* a driver that knows sizes is told to look */
    vdev_lock(vd);
    assert_int_equal(vdev_config_read(vd, 0, 2), 80);
    assert_int_equal(vdev_config_read(vd, 2, 2), 24);
    uint8_t generation = vd->config_generation;
    vdev_unlock(vd);
    vconsole_resize(r->c, 0, 132, 50);
    vconsole_resize(r->c, 0, 132, 50); /* no change */
    assert_int_equal(r->d.config_interrupts, 2);
    vdev_lock(vd);
    assert_int_equal(vdev_config_read(vd, 0, 4), 132 | 50 << 16);
    assert_int_not_equal(vd->config_generation, generation);
    vdev_unlock(vd);
}

static void test_emergency_write(void **state)
{
    struct rig *r = *state;
    struct vdev *vd = r->d.vd;

    assert_true(vd->offered & F_EMERG_WRITE);
    vdev_lock(vd);
    vdev_config_write(vd, 8, 4, 'P');
    vdev_config_write(vd, 0, 4, 1); /* not writable */
    vdev_config_write(vd, 12, 4, 'x');
    vdev_config_write(vd, 10, 4, 'x');
    assert_int_equal(vdev_config_read(vd, 0, 2), 80);
    vdev_unlock(vd);
    assert_int_equal(r->got_len, 1);
    assert_int_equal(r->got[0], 'P');
}

/* Another thread feeds while the driver takes buffers back and gives them again: no byte is lost or doubled.
 */
#define FEED_LEN 20000

static void *feeder(void *ctx)
{
    struct rig *r = ctx;
    uint8_t buf[64];
    unsigned sent = 0, seen = rooms(r);

    while (sent < FEED_LEN) {
        size_t n = min_u64(FEED_LEN - sent, 1 + sent % sizeof(buf));

        for (unsigned i = 0; i < n; i++)
            buf[i] = (uint8_t)((sent + i) * 13 + (sent + i) / 256);
        size_t taken = vconsole_receive(r->c, 0, buf, n);
        sent += (unsigned)taken;
        if (taken == n)
            continue;
        while (rooms(r) == seen) /* a forgotten `room` would hang here */
            sched_yield();
        seen++;
    }
    return NULL;
}

static void feed(struct rig *r, uint64_t features)
{
    struct drv_queue *q = &r->d.queues[RX];
    unsigned received = 0;
    pthread_t t;

    drv_start(&r->d, features, 8);
    for (unsigned i = 0; i < 8; i++)
        buffer(r, i, 1 + i * 5);
    assert_int_equal(pthread_create(&t, NULL, feeder, r), 0);
    while (received < FEED_LEN) {
        uint32_t id, len;

        drv_wait_used(q, &id, &len);
        uint8_t *p = drv_at(&r->d, r->data + 0x8000 + id * 256, 256);
        for (unsigned i = 0; i < len; i++, received++)
            assert_int_equal(p[i], (uint8_t)(received * 13 + received / 256));
        uint16_t old = q->avail_idx;
        buffer(r, id, 1 + id * 5);
        if (drv_kick_wanted(q, old))
            vdev_kick(r->d.vd, RX);
    }
    pthread_join(t, NULL);
    drv_reset(&r->d);
}

static void test_feed(void **state)
{
    feed(*state, 0);
    feed(*state, VIRTIO_F_EVENT_IDX);
}

#define T(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(output), T(output_stalls),    T(reset_while_stalled),
        T(input),  T(input_over_reset), T(bad_receive_buffer),
        T(size),   T(emergency_write),  T(feed),
    };

    return cmocka_run_group_tests_name("virtio console", tests, NULL, NULL);
}
