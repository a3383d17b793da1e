#include "driver.h"

#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

static void on_interrupt(void *ctx, int queue)
{
    struct drv *d = ctx;

    __atomic_add_fetch(queue < 0 ? &d->config_interrupts : &d->queue_interrupts[queue], 1, __ATOMIC_SEQ_CST);
}

static void on_reset(void *ctx)
{
    (void)ctx;
}

static bool on_may_dma(void *ctx)
{
    return !((struct drv *)ctx)->no_bus_master;
}

static const struct vdev_transport_ops transport_ops = { on_interrupt, on_reset, on_may_dma };

static void on_log(void *ctx, enum log_category cat, const char *line)
{
    struct drv *d = ctx;

    if (cat == LOG_GUEST_FAULT)
        snprintf(d->fault, sizeof(d->fault), "%s", line);
}

void drv_init(struct drv *d)
{
    struct yado_error err = YADO_ERROR_INIT;

    memset(d, 0, sizeof(*d));
    d->mem = gmem_new(DRV_MEM_SIZE, GIB(3), false, &err);
    if (!d->mem)
        fail_msg("%s", err.message);
    d->next_gpa = 0x1000;
    d->log = (struct log){ .sink = on_log, .ctx = d, .enabled = 1u << LOG_GUEST_FAULT };
}

void drv_attach(struct drv *d, struct vdev *vd)
{
    d->vd = vd;
    vdev_attach(vd, d->mem, &transport_ops, d);
}

void drv_free(struct drv *d)
{
    gmem_free(d->mem);
    d->mem = NULL;
}

uint64_t drv_alloc(struct drv *d, uint64_t len)
{
    uint64_t gpa = d->next_gpa;

    d->next_gpa = align_up(gpa + len, 16);
    memset(drv_at(d, gpa, len), 0, len);
    return gpa;
}

void *drv_at(struct drv *d, uint64_t gpa, uint64_t len)
{
    void *p = gmem_span(d->mem, gpa, len, GMEM_WRITE);

    assert_non_null(p);
    return p;
}

void drv_rings(struct drv *d, struct drv_queue *q, uint16_t size)
{
    memset(q, 0, sizeof(*q));
    q->mem = d->mem;
    q->size = size;
    q->desc_gpa = drv_alloc(d, 16u * size);
    q->avail_gpa = drv_alloc(d, 6 + 2u * size);
    q->used_gpa = drv_alloc(d, 6 + 8u * size);
}

static void features_accept(struct drv *d, uint64_t features)
{
    vdev_set_features(d->vd, 0, (uint32_t)features);
    vdev_set_features(d->vd, 1, (uint32_t)(features >> 32));
}

void drv_start(struct drv *d, uint64_t want, uint16_t size)
{
    struct vdev *vd = d->vd;
    uint8_t status = VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER;

    vdev_lock(vd);
    vdev_set_status(vd, status);
    features_accept(d, want | VIRTIO_F_VERSION_1);
    vdev_set_status(vd, status |= VIRTIO_STATUS_FEATURES_OK);
    assert_int_equal(vd->status, status);
    for (unsigned i = 0; i < vd->queue_count; i++) {
        struct drv_queue *q = &d->queues[i];

        drv_rings(d, q, size ? size : vd->queues[i].size_max);
        q->event_idx = (want & VIRTIO_F_EVENT_IDX) != 0;
        vd->queues[i].size = q->size;
        vd->queues[i].desc_gpa = q->desc_gpa;
        vd->queues[i].avail_gpa = q->avail_gpa;
        vd->queues[i].used_gpa = q->used_gpa;
        vdev_enable_queue(vd, i);
    }
    vdev_set_status(vd, status |= VIRTIO_STATUS_DRIVER_OK);
    assert_int_equal(vd->status, status);
    vdev_unlock(vd);
}

uint8_t drv_status(struct drv *d)
{
    vdev_lock(d->vd);
    uint8_t s = d->vd->status;
    vdev_unlock(d->vd);
    return s;
}

void drv_reset(struct drv *d)
{
    vdev_lock(d->vd);
    vdev_set_status(d->vd, 0);
    assert_int_equal(d->vd->status, 0);
    vdev_unlock(d->vd);
}

static void *at(struct drv_queue *q, uint64_t gpa, uint64_t len)
{
    void *p = gmem_span(q->mem, gpa, len, GMEM_WRITE);

    assert_non_null(p);
    return p;
}

void drv_desc(struct drv_queue *q, unsigned i, uint64_t gpa, uint32_t len, unsigned flags, unsigned next)
{
    struct virtio_desc d = { .addr = gpa, .len = len, .flags = (uint16_t)flags, .next = (uint16_t)next };

    memcpy(at(q, q->desc_gpa + 16u * i, 16), &d, 16);
}

void drv_publish(struct drv_queue *q, uint16_t head)
{
    uint16_t *avail = at(q, q->avail_gpa, 6 + 2u * q->size);

    __atomic_store_n(&avail[2 + q->avail_idx % q->size], head, __ATOMIC_RELAXED);
    q->avail_idx++;
    __atomic_store_n(&avail[1], q->avail_idx, __ATOMIC_SEQ_CST);
}

void drv_add(struct drv_queue *q, unsigned first, const struct drv_seg *segs, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        unsigned flags =
            (segs[i].device_writes ? VIRTIO_DESC_WRITE : 0) | (i + 1 < count ? VIRTIO_DESC_NEXT : 0);

        drv_desc(q, first + i, segs[i].gpa, segs[i].len, flags, first + i + 1);
    }
    drv_publish(q, (uint16_t)first);
}

bool drv_kick_wanted(struct drv_queue *q, uint16_t old)
{
    uint16_t *used = at(q, q->used_gpa, 6 + 8u * q->size);

    if (!q->event_idx)
        return !(__atomic_load_n(&used[0], __ATOMIC_SEQ_CST) & VIRTIO_USED_NO_NOTIFY);
    uint16_t event = __atomic_load_n(&used[2 + 4u * q->size], __ATOMIC_SEQ_CST);
    return (uint16_t)(q->avail_idx - event - 1) < (uint16_t)(q->avail_idx - old);
}

bool drv_used(struct drv_queue *q, uint32_t *id, uint32_t *len)
{
    uint16_t *used = at(q, q->used_gpa, 6 + 8u * q->size);
    struct virtio_used_elem e;

    if (__atomic_load_n(&used[1], __ATOMIC_SEQ_CST) == q->used_idx)
        return false;
    memcpy(&e, used + 2 + 4u * (q->used_idx % q->size), sizeof(e));
    q->used_idx++;
    *id = e.id;
    *len = e.len;
    if (q->event_idx) { /* ask for an interrupt at the next one */
        uint16_t *avail = at(q, q->avail_gpa, 6 + 2u * q->size);
        __atomic_store_n(&avail[2 + q->size], q->used_idx, __ATOMIC_SEQ_CST);
    }
    return true;
}

void drv_wait_used(struct drv_queue *q, uint32_t *id, uint32_t *len)
{
    time_t end = time(NULL) + 20;

    while (!drv_used(q, id, len)) {
        if (time(NULL) > end)
            fail_msg("the device did not return a buffer");
        sched_yield();
    }
}
