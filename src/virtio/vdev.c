/* The common part of virtio devices. virtio 1.2, sections 2.1 to 2.5 and 3.1.
 *
 * Theory of operation
 *
 * One lock per device guards everything: transport registers, queues, configuration space, the device's own
 * state. A register access or kick takes it on the vCPU thread; completions take it on the back end's thread;
 * continuations take it on the loop thread. Interrupts are raised with the lock held (so that an INTx level
 * cannot be left behind its cause); the PCI function and the engine take their own locks inside and never
 * call back.
 *
 * Status. The driver adds bits: FEATURES_OK stays clear if it accepted what was not offered or not VERSION_1;
 * DRIVER_OK starts the device. Writing 0 resets. Bits are never cleared one by one.
 *
 * Work. A kick that comes as a register access runs the device's `process` on the kicking vCPU thread, which
 * is the cheapest place then (no wake-up). Where the engine has doorbells it does not come as one: the guest
 * goes on, and the loop thread takes the kick; but not for queues whose driver spins for the answer. As
 * another vCPU could feed a queue for ever, `process` does a bounded amount; if more is left, it is continued
 * on the loop thread, and the vCPU goes back to where it can be stopped.
 *
 * Reset. The driver may reuse ring and buffer memory once status reads 0, so reset first lets the device give
 * up what it holds for itself, then waits (lock dropped) until asynchronous requests have come back; those
 * are dropped, not published. Meanwhile `resetting` keeps everything else out, and status still reads the old
 * value to other vCPUs.
 *
 * Broken. A guest that breaks a rule gets DEVICE_NEEDS_RESET, a configuration interrupt and silence until it
 * resets. Requests in flight end and are dropped. The process and the other devices never notice. */
#include "virtio/vdev.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FAULT_LOG_MAX 10 /* lines per device: a guest can break and reset in a loop */

bool vdev_init(struct vdev *vd, const struct vdev_ops *ops, const struct vdev_params *p,
               struct yado_error *err)
{
    BUG_ON(p->queue_count == 0 || p->queue_count > VDEV_QUEUES_MAX);
    memset(vd, 0, sizeof(*vd));
    vd->queues = calloc(p->queue_count, sizeof(*vd->queues));
    if (!vd->queues)
        return err_set(err, YADO_ERR_MEMORY, "%s: no memory for its queues", ops->name);
    vd->ops = ops;
    snprintf(vd->name, sizeof(vd->name), "%s%s%s", ops->name, p->label ? " " : "", p->label ? p->label : "");
    pthread_mutex_init(&vd->lock, NULL);
    pthread_cond_init(&vd->settled, NULL);
    vd->log = p->log;
    vd->loop = p->loop;
    vd->offered = p->features | VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX;
    vd->config = p->config;
    vd->config_len = p->config_len;
    vd->queue_count = p->queue_count;
    vd->polled = p->polled;
    for (unsigned i = 0; i < p->queue_count; i++)
        virtq_init(&vd->queues[i], p->queue_size);
    return true;
}

static bool chains_held(const struct vdev *vd)
{
    for (unsigned i = 0; i < vd->queue_count; i++)
        if (vd->queues[i].held)
            return true;
    return false;
}

static void reset_locked(struct vdev *vd)
{
    if (vd->resetting) {
        while (vd->resetting)
            pthread_cond_wait(&vd->settled, &vd->lock);
        return;
    }
    vd->resetting = true;
    vd->counters.resets++;
    vd->deferred = 0;
    if (vd->ops->reset)
        vd->ops->reset(vd);
    while (chains_held(vd))
        pthread_cond_wait(&vd->settled, &vd->lock);
    for (unsigned i = 0; i < vd->queue_count; i++)
        virtq_reset(&vd->queues[i]);
    vd->accepted = 0;
    vd->status = 0;
    vd->broken = false;
    if (vd->transport)
        vd->transport->reset(vd->transport_ctx);
    vd->resetting = false;
    pthread_cond_broadcast(&vd->settled);
}

void vdev_reset(struct vdev *vd)
{
    vdev_lock(vd);
    reset_locked(vd);
    vdev_unlock(vd);
}

void vdev_destroy(struct vdev *vd)
{
    if (!vd->queues)
        return;
    vd->transport = NULL;
    vdev_reset(vd);
    pthread_cond_destroy(&vd->settled);
    pthread_mutex_destroy(&vd->lock);
    free(vd->queues);
    vd->queues = NULL;
}

void vdev_attach(struct vdev *vd, struct gmem *mem, const struct vdev_transport_ops *ops, void *ctx)
{
    vd->mem = mem;
    vd->transport = ops;
    vd->transport_ctx = ctx;
}

bool vdev_running(const struct vdev *vd)
{
    return (vd->status & VIRTIO_STATUS_DRIVER_OK) && !vd->broken && !vd->resetting;
}

static void interrupt(struct vdev *vd, int queue)
{
    vd->counters.interrupts++;
    if (vd->transport)
        vd->transport->interrupt(vd->transport_ctx, queue);
}

void vdev_broken(struct vdev *vd, const char *fmt, ...)
{
    char why[200];
    va_list ap;

    if (vd->broken)
        return;
    va_start(ap, fmt);
    vsnprintf(why, sizeof(why), fmt, ap);
    va_end(ap);
    vd->counters.faults++;
    if (vd->counters.faults <= FAULT_LOG_MAX)
        log_line(vd->log, LOG_GUEST_FAULT, "%s: %s; the device is stopped until the guest resets it%s",
                 vd->name, why, vd->counters.faults == FAULT_LOG_MAX ? " (last such line)" : "");
    vd->broken = true;
    vd->status |= VIRTIO_STATUS_NEEDS_RESET;
    if (vd->status & VIRTIO_STATUS_DRIVER_OK)
        interrupt(vd, -1);
}

static void deferred_run(void *ctx)
{
    struct vdev *vd = ctx;

    vdev_lock(vd);
    uint64_t queues = vd->deferred;
    vd->deferred = 0;
    vd->deferred_posted = false;
    for (unsigned i = 0; i < vd->queue_count; i++)
        if (queues >> i & 1)
            vdev_kick_locked(vd, i);
    vdev_unlock(vd);
}

void vdev_kick_locked(struct vdev *vd, unsigned queue)
{
    while (vdev_running(vd) && vd->queues[queue].enabled) {
        if (!vd->ops->process(vd, queue))
            return;
        if (!vd->loop)
            continue;
        vd->deferred |= 1ull << queue;
        if (!vd->deferred_posted)
            vd->deferred_posted = loop_post(vd->loop, deferred_run, vd);
        if (!vd->deferred_posted)
            vdev_broken(vd, "the host has no memory to continue its work");
        return;
    }
}

void vdev_kick(struct vdev *vd, unsigned queue)
{
    vdev_lock(vd);
    vd->counters.kicks++;
    if (queue < vd->queue_count && vd->transport && vd->transport->may_dma(vd->transport_ctx))
        vdev_kick_locked(vd, queue);
    vdev_unlock(vd);
}

void vdev_set_status(struct vdev *vd, uint8_t status)
{
    uint8_t add = status & (uint8_t) ~(vd->status | VIRTIO_STATUS_NEEDS_RESET);

    if (status == 0) {
        reset_locked(vd);
        return;
    }
    if (vd->resetting)
        return;
    if ((add & VIRTIO_STATUS_FEATURES_OK) &&
        (!(vd->accepted & VIRTIO_F_VERSION_1) || (vd->accepted & ~vd->offered))) {
        log_line(vd->log, LOG_VIRTIO, "%s: refused features %#llx of offered %#llx", vd->name,
                 (unsigned long long)vd->accepted, (unsigned long long)vd->offered);
        add &= (uint8_t)~VIRTIO_STATUS_FEATURES_OK;
    }
    if ((add & VIRTIO_STATUS_DRIVER_OK) && !((vd->status | add) & VIRTIO_STATUS_FEATURES_OK)) {
        vdev_broken(vd, "driver started it before features were agreed");
        return;
    }
    vd->status |= add;
    if (!(add & VIRTIO_STATUS_DRIVER_OK))
        return;
    log_line(vd->log, LOG_VIRTIO, "%s: started with features %#llx", vd->name,
             (unsigned long long)vd->accepted);
    if (vd->broken) {
        interrupt(vd, -1); /* broken while it was set up: now the driver can hear of it */
        return;
    }
    if (vd->ops->activate)
        vd->ops->activate(vd);
    for (unsigned i = 0; i < vd->queue_count; i++)
        vdev_kick_locked(vd, i);
}

void vdev_set_features(struct vdev *vd, unsigned half, uint32_t value)
{
    if (half > 1 || vd->resetting || (vd->status & VIRTIO_STATUS_FEATURES_OK))
        return;
    vd->accepted &= half ? 0xffffffffull : ~0xffffffffull;
    vd->accepted |= (uint64_t)value << (half * 32);
}

void vdev_enable_queue(struct vdev *vd, unsigned queue)
{
    if (queue >= vd->queue_count || vd->broken || vd->resetting || vd->queues[queue].enabled)
        return;
    if (!(vd->status & VIRTIO_STATUS_FEATURES_OK))
        vdev_broken(vd, "queue %u: enabled before features were agreed", queue);
    else if (!virtq_enable(&vd->queues[queue], vd->mem, vd->accepted))
        vdev_broken(vd, "queue %u: %s", queue, vd->queues[queue].fault);
}

uint32_t vdev_config_read(struct vdev *vd, unsigned off, unsigned width)
{
    uint32_t v = 0;

    if (off < vd->config_len)
        memcpy(&v, vd->config + off, min_u64(min_u64(width, sizeof(v)), vd->config_len - off));
    return v;
}

void vdev_config_write(struct vdev *vd, unsigned off, unsigned width, uint32_t value)
{
    if (vd->resetting || off >= vd->config_len || width > vd->config_len - off || !vd->ops->config_write)
        return;
    vd->ops->config_write(vd, off, width, value);
}

void vdev_config_changed(struct vdev *vd)
{
    vd->config_generation++;
    if (vdev_running(vd))
        interrupt(vd, -1);
}

bool vdev_take(struct vdev *vd, unsigned queue, struct virtq_chain *chain)
{
    struct virtq *q = &vd->queues[queue];

    if (!vdev_running(vd))
        return false;
    switch (virtq_take(q, chain, vd->segs)) {
    case VIRTQ_NONE: return false;
    case VIRTQ_GOT: vd->counters.chains++; return true;
    case VIRTQ_BAD: break;
    }
    vdev_broken(vd, "queue %u: %s", queue, q->fault);
    return false;
}

bool vdev_drain(struct vdev *vd, unsigned queue,
                bool (*fn)(struct vdev *vd, unsigned queue, const struct virtq_chain *chain))
{
    struct virtq *q = &vd->queues[queue];
    unsigned budget = q->size;

    virtq_kicks_off(q);
    while (vdev_running(vd)) { /* fn may have broken the device, with chains left */
        struct virtq_chain chain;

        while (budget && vdev_take(vd, queue, &chain)) {
            budget--;
            if (!fn(vd, queue, &chain))
                return false;
        }
        if (!budget)
            return true;
        budget--; /* an index that goes to and fro gives no chains, and must not hold the thread either */
        if (!virtq_kicks_on(q))
            return false;
    }
    return false;
}

void vdev_drop(struct vdev *vd, unsigned queue, uint16_t head)
{
    virtq_drop(&vd->queues[queue], head);
    if (vd->resetting)
        pthread_cond_broadcast(&vd->settled);
}

void vdev_untake(struct vdev *vd, unsigned queue, uint16_t head)
{
    virtq_untake(&vd->queues[queue], head);
}

void vdev_stage(struct vdev *vd, unsigned queue, uint16_t head, uint32_t len)
{
    if (vd->broken || vd->resetting)
        vdev_drop(vd, queue, head);
    else
        virtq_stage(&vd->queues[queue], head, len);
}

void vdev_publish(struct vdev *vd, unsigned queue)
{
    struct virtq *q = &vd->queues[queue];

    if (vd->broken || vd->resetting || !q->staged)
        return;
    virtq_publish(q);
    if (virtq_wants_interrupt(q))
        interrupt(vd, (int)queue);
}

void vdev_complete(struct vdev *vd, unsigned queue, uint16_t head, uint32_t len)
{
    vdev_stage(vd, queue, head, len);
    vdev_publish(vd, queue);
}
