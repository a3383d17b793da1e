/* What all virtio devices share, whatever the transport: status machine, feature negotiation, configuration
 * space, reset, the broken state, the lock (virtio 1.2, sections 2.1 to 2.5 and 3.1). Theory of operation in
 * vdev.c. */
#ifndef VIRTIO_VDEV_H
#define VIRTIO_VDEV_H

#include <pthread.h>

#include "host/loop.h"
#include "mem/gmem.h"
#include "util/err.h"
#include "util/log.h"
#include "virtio/queue.h"

#define VDEV_QUEUES_MAX 64

struct vdev;

/* A device type. Every callback is called with the device's lock held. */
struct vdev_ops {
    const char *name; /* for messages: "virtio-blk" */
    uint16_t id;      /* VIRTIO_ID_... */

    /* The driver set DRIVER_OK. Every enabled queue is processed once right after. Optional. */
    void (*activate)(struct vdev *vd);

    /* Work on a queue: after a kick (vCPU thread), after activation (vCPU thread), or as a continuation (loop
     * thread). Does a bounded amount and returns true if there may be more to do. Mostly vdev_drain. */
    bool (*process)(struct vdev *vd, unsigned queue);

    /* The device is being reset: give up (vdev_drop) chains that nothing else will return. Chains of
     * asynchronous requests may stay; the core waits for them. Optional. */
    void (*reset)(struct vdev *vd);

    /* The driver wrote inside the config space; width 1, 2 or 4. Absent: writes are ignored. */
    void (*config_write)(struct vdev *vd, unsigned off, unsigned width, uint32_t value);
};

/* What the transport gives the core. Called with the device's lock held. */
struct vdev_transport_ops {
    void (*interrupt)(void *ctx,
                      int queue); /* used buffers of queue >= 0; -1: configuration or status changed */
    void (*reset)(void *ctx);     /* forget vectors, selectors, pending interrupts */
    bool (*may_dma)(void *ctx);   /* PCI bus master */
};

struct vdev_counters {
    uint64_t kicks, chains, interrupts, resets, faults;
};

struct vdev {
    const struct vdev_ops *ops;
    char name[32]; /* "virtio-blk vda" */

    /* Taken first of all locks here; order: vdev.lock, then disk's, PCI function's and engine's own. Never
     * taken by code that holds one of those. */
    pthread_mutex_t lock;
    pthread_cond_t settled; /* held chains went down, or resetting ended */

    const struct log *log; /* may be NULL */
    struct loop *loop;     /* for continuations; NULL: they run in place */
    struct gmem *mem;      /* NULL until attached to a transport */
    const struct vdev_transport_ops *transport;
    void *transport_ctx;

    uint64_t offered, accepted; /* features; accepted is final once FEATURES_OK is set */
    uint8_t status;
    uint8_t config_generation;
    bool broken, resetting;
    uint8_t *config; /* device configuration space, the device's memory, little-endian */
    unsigned config_len;

    struct virtq *queues;
    unsigned queue_count;
    uint64_t polled;   /* queues whose driver spins for the answer: see vdev_params */
    uint64_t deferred; /* queues whose continuation waits for the loop */
    bool deferred_posted;
    struct virtq_seg segs[VIRTQ_CHAIN_MAX]; /* of the chain that vdev_take gave last */
    struct vdev_counters counters;
};

struct vdev_params {
    const char *label; /* tells devices of one type apart in messages; may be NULL */
    uint64_t
        features; /* device type's own plus ring features; VERSION_1, INDIRECT_DESC and EVENT_IDX are added */
    unsigned queue_count;
    uint16_t queue_size;
    /* Bit per queue whose driver waits for the answer in a loop instead of for an interrupt: their kicks are
     * best served on the vCPU's thread, whatever doorbells the engine has. */
    uint64_t polled;
    void *config;
    unsigned config_len;
    const struct log *log;
    struct loop *loop;
};

/* For device types. */

bool vdev_init(struct vdev *vd, const struct vdev_ops *ops, const struct vdev_params *p,
               struct yado_error *err);
/* Resets (waits for requests in flight) and frees what vdev_init made. No vCPU and no loop thread may run any
 * more. A zeroed struct is fine. */
void vdev_destroy(struct vdev *vd);

static inline void vdev_lock(struct vdev *vd)
{
    pthread_mutex_lock(&vd->lock);
}
static inline void vdev_unlock(struct vdev *vd)
{
    pthread_mutex_unlock(&vd->lock);
}

/* The functions below want the lock held. */

/* DRIVER_OK is set, and neither broken nor in reset. */
bool vdev_running(const struct vdev *vd);
static inline bool vdev_has(const struct vdev *vd, uint64_t feature)
{
    return (vd->accepted & feature) != 0;
}
/* Next chain of a queue; its segments are in vd->segs until the next call. False if there is none, or if the
 * guest broke a rule (the device is broken then). */
bool vdev_take(struct vdev *vd, unsigned queue, struct virtq_chain *chain);
/* Takes chains until there is none (kicks are off meanwhile), at most the queue's size of them. fn returns
 * false to stop early: kicks stay off, and whoever removes the obstacle calls vdev_kick_locked. Returns what
 * `process` shall return. */
bool vdev_drain(struct vdev *vd, unsigned queue,
                bool (*fn)(struct vdev *vd, unsigned queue, const struct virtq_chain *chain));
/* Returns a chain to the driver and interrupts it if it wants that. */
void vdev_complete(struct vdev *vd, unsigned queue, uint16_t head, uint32_t len);
void vdev_drop(struct vdev *vd, unsigned queue, uint16_t head);
/* vdev_complete in two steps, for many chains or such as the driver must see at once. */
void vdev_stage(struct vdev *vd, unsigned queue, uint16_t head, uint32_t len);
void vdev_publish(struct vdev *vd, unsigned queue);
/* Puts the chain that was taken last back. */
void vdev_untake(struct vdev *vd, unsigned queue, uint16_t head);
/* The guest broke a rule: DEVICE_NEEDS_RESET, a configuration interrupt, one log line, no more work until
 * reset. */
void vdev_broken(struct vdev *vd, const char *fmt, ...) printf_like(2, 3);
/* The config bytes were changed by the device: new generation, interrupt. */
void vdev_config_changed(struct vdev *vd);
/* Processes a queue as after a kick. */
void vdev_kick_locked(struct vdev *vd, unsigned queue);

/* For transports; lock held unless it says otherwise. */

void vdev_attach(struct vdev *vd, struct gmem *mem, const struct vdev_transport_ops *ops, void *ctx);
/* Writes of the driver. A status of 0 resets, which drops and retakes the lock while requests finish. */
void vdev_set_status(struct vdev *vd, uint8_t status);
void vdev_set_features(struct vdev *vd, unsigned half,
                       uint32_t value); /* half 0: bits 0 to 31; ignored above 1 */
void vdev_enable_queue(struct vdev *vd, unsigned queue);
uint32_t vdev_config_read(struct vdev *vd, unsigned off, unsigned width); /* zeros past the end */
void vdev_config_write(struct vdev *vd, unsigned off, unsigned width, uint32_t value);
/* A kick. Takes the lock itself. queue may be any number. */
void vdev_kick(struct vdev *vd, unsigned queue);
/* Machine reset. Takes the lock itself. */
void vdev_reset(struct vdev *vd);

#endif
