/* virtio-rng, and what vdev does with a device that always has more work. */
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "driver.h"
#include "virtio/rng.h"

struct rig {
    struct drv d;
    struct vrng *v;
    struct loop *loop;
    uint64_t data;
    bool fail;
    unsigned feeds_left, filled; /* under the device's lock */
    unsigned on_loop;
};

/* Known bytes; while feeds_left, makes another buffer available first, as a second vCPU could. */
static bool fill(void *ctx, void *buf, size_t len)
{
    struct rig *r = ctx;

    if (r->fail)
        return false;
    memset(buf, 0x42, len);
    r->filled++;
    if (r->loop && loop_on_thread(r->loop))
        r->on_loop++;
    if (r->feeds_left) {
        struct drv_seg seg = { r->data, 64, true };

        r->feeds_left--;
        drv_add(&r->d.queues[0], r->filled % 2, &seg, 1);
    }
    return true;
}

static void open_with(struct rig *r, struct vrng_config cfg)
{
    struct yado_error err = YADO_ERROR_INIT;

    drv_init(&r->d);
    cfg.log = &r->d.log;
    r->v = vrng_new(&cfg, &err);
    assert_non_null(r->v);
    drv_attach(&r->d, vrng_vdev(r->v));
    r->data = drv_alloc(&r->d, 0x10000);
    drv_start(&r->d, 0, 0);
}

static void close_rig(struct rig *r)
{
    vrng_free(r->v);
    drv_free(&r->d);
}

static void test_fills(void **state)
{
    struct rig r = { 0 };
    uint32_t id, len;
    uint8_t *p;

    (void)state;
    open_with(&r, (struct vrng_config){ .fill = fill, .ctx = &r });
    struct drv_seg segs[] = { { r.data, 7, true }, { r.data + 10, 100, true } };
    drv_add(&r.d.queues[0], 0, segs, 2);
    vdev_kick(r.d.vd, 0);
    assert_true(drv_used(&r.d.queues[0], &id, &len));
    assert_int_equal(len, 107);
    p = drv_at(&r.d, r.data, 200);
    assert_int_equal(p[6], 0x42);
    assert_int_equal(p[7], 0);
    assert_int_equal(p[109], 0x42);
    assert_int_equal(p[110], 0);
    assert_int_equal(r.d.queue_interrupts[0], 1);
    /* a huge buffer gets a bounded part */
    struct drv_seg huge = { 0x100000, MIB(8), true };
    drv_add(&r.d.queues[0], 0, &huge, 1);
    vdev_kick(r.d.vd, 0);
    assert_true(drv_used(&r.d.queues[0], &id, &len));
    assert_int_equal(len, 4096);
    close_rig(&r);
}

static void test_host_source(void **state)
{
    struct rig r = { 0 };
    struct drv_seg segs[2];
    uint32_t id, len;
    unsigned ones = 0;

    (void)state;
    open_with(&r, (struct vrng_config){ 0 });
    segs[0] = (struct drv_seg){ r.data, 1000, true };
    segs[1] = (struct drv_seg){ r.data + 1000, 1000, true };
    drv_add(&r.d.queues[0], 0, &segs[0], 1);
    drv_add(&r.d.queues[0], 1, &segs[1], 1);
    vdev_kick(r.d.vd, 0);
    assert_true(drv_used(&r.d.queues[0], &id, &len) && len == 1000);
    assert_true(drv_used(&r.d.queues[0], &id, &len) && len == 1000);
    uint8_t *p = drv_at(&r.d, r.data, 2000);
    for (unsigned i = 0; i < 2000; i++)
        ones += (unsigned)__builtin_popcount(p[i]);
    assert_in_range(ones, 7500, 8500); /* of 16000; 8 standard deviations */
    assert_memory_not_equal(p, p + 1000, 1000);
    close_rig(&r);
}

static void test_bad(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        struct rig r = { 0 };
        uint32_t id, len;

        open_with(&r, (struct vrng_config){ .fill = fill, .ctx = &r });
        r.fail = i == 1;
        struct drv_seg seg = { r.data, 16, r.fail };
        drv_add(&r.d.queues[0], 0, &seg, 1);
        vdev_kick(r.d.vd, 0);
        assert_true(drv_status(&r.d) & VIRTIO_STATUS_NEEDS_RESET);
        assert_non_null(strstr(r.d.fault, r.fail ? "no random bytes" : "cannot write"));
        assert_false(drv_used(&r.d.queues[0], &id, &len));
        close_rig(&r);
    }
}

/* A guest that feeds the queue without end does not hold the kicking thread: the rest is done on the loop. */
static void test_bounded_kick(void **state)
{
    struct rig r = { 0 };
    struct yado_error err = YADO_ERROR_INIT;
    time_t end = time(NULL) + 20;
    unsigned filled;

    (void)state;
    r.loop = loop_new(&err);
    assert_non_null(r.loop);
    open_with(&r, (struct vrng_config){ .fill = fill, .ctx = &r, .loop = r.loop });
    r.feeds_left = 1000;
    struct drv_seg seg = { r.data, 64, true };
    drv_add(&r.d.queues[0], 0, &seg, 1);
    vdev_kick(r.d.vd, 0);
    assert_int_equal(r.filled, r.d.vd->queues[0].size);
    assert_true(loop_start(r.loop, "test", &err));
    do {
        sched_yield();
        vdev_lock(r.d.vd);
        filled = r.filled;
        vdev_unlock(r.d.vd);
    } while (filled < 1001 && time(NULL) < end);
    assert_int_equal(filled, 1001);
    loop_stop(r.loop);
    assert_int_equal(r.on_loop, 1001 - r.d.vd->queues[0].size);
    close_rig(&r);
    loop_free(r.loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fills),
        cmocka_unit_test(test_host_source),
        cmocka_unit_test(test_bad),
        cmocka_unit_test(test_bounded_kick),
    };

    return cmocka_run_group_tests_name("virtio rng", tests, NULL, NULL);
}
