/* A small virtio driver for tests: makes rings in guest memory and talks to a device through vdev's transport
 * side, or (by its own functions only) to a bare queue. One thread. */
#ifndef TESTS_VIRTIO_DRIVER_H
#define TESTS_VIRTIO_DRIVER_H

#include "mem/gmem.h"
#include "virtio/vdev.h"

#define DRV_MEM_SIZE MIB(16)

struct drv_seg {
    uint64_t gpa;
    uint32_t len;
    bool device_writes;
};

struct drv_queue {
    struct gmem *mem;
    uint16_t size;
    uint64_t desc_gpa, avail_gpa, used_gpa;
    uint16_t avail_idx, used_idx;
    bool event_idx;
};

struct drv {
    struct gmem *mem;
    struct vdev *vd;
    uint64_t next_gpa;
    struct drv_queue queues[VDEV_QUEUES_MAX];
    unsigned queue_interrupts[VDEV_QUEUES_MAX], config_interrupts; /* atomic */
    bool no_bus_master;
    char fault[256]; /* the last LOG_GUEST_FAULT line, if `log` is given to the device */
    struct log log;
};

/* Guest memory and counters; make the device with d->log, then drv_attach. */
void drv_init(struct drv *d);
void drv_attach(struct drv *d, struct vdev *vd);
void drv_free(struct drv *d); /* after the device */

/* Zeroed guest memory, 16-byte aligned. */
uint64_t drv_alloc(struct drv *d, uint64_t len);
/* Host view of guest memory; fails the test if not RAM. */
void *drv_at(struct drv *d, uint64_t gpa, uint64_t len);

/* Places rings of a queue. */
void drv_rings(struct drv *d, struct drv_queue *q, uint16_t size);

/* The handshake of virtio 1.2, 3.1.1 with the features `want` (VERSION_1 added), queues of `size` entries (0:
 * the device's maximum). */
void drv_start(struct drv *d, uint64_t want, uint16_t size);
uint8_t drv_status(struct drv *d);
void drv_reset(struct drv *d);

/* Writes one descriptor. */
void drv_desc(struct drv_queue *q, unsigned i, uint64_t gpa, uint32_t len, unsigned flags, unsigned next);
/* Makes a head available. */
void drv_publish(struct drv_queue *q, uint16_t head);
/* Chains segs in descriptors first, first + 1 ... and makes the chain available. */
void drv_add(struct drv_queue *q, unsigned first, const struct drv_seg *segs, unsigned count);
/* True if the device asked to be kicked for chains made available since avail index `old`. */
bool drv_kick_wanted(struct drv_queue *q, uint16_t old);
/* Takes one used element. */
bool drv_used(struct drv_queue *q, uint32_t *id, uint32_t *len);
/* Waits up to 20 s for one; fails the test otherwise. */
void drv_wait_used(struct drv_queue *q, uint32_t *id, uint32_t *len);

#endif
