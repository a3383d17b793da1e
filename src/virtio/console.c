/* virtio-console. virtio 1.2, section 5.3.
 *
 * Theory of operation
 *
 * One port, two queues: 0 receives (input for the guest), 1 transmits (output of the guest). The first device
 * is hvc0.
 *
 * Output is handed to the sink on the kicking vCPU thread. Linux's hvc driver spins until its output buffer
 * comes back, so a trip over another thread would cost the guest a wake-up per line. Bytes go through a small
 * host copy: a sink that looks at them must not see them change. When the sink takes less than it is given,
 * the chain stays held
 * ("stalled"), kicks stay off, and vconsole_sink_ready goes on where it stopped.
 *
 * Input is pushed by vconsole_receive on any thread, straight to the guest's receive buffers; nothing is
 * buffered here. If they run out, the rest stays with the caller and the device is "starved": only then does
 * it ask for kicks on the receive queue, and the first new buffer calls `room`. A console that was never fed
 * needs no kicks at all.
 *
 * Reset gives up a stalled chain. Input that was taken before is the old driver's; the starved mark stays, so
 * that the caller hears when a new driver gives buffers.
 *
 * Limits: a receive chain is filled from its start and returned at once, however short the input; output per
 * kick is bounded by vdev_drain in chains, and a chain by 2^32 bytes: the sink's back-pressure bounds the
 * time. */
#include "virtio/console.h"

#include <stdlib.h>
#include <string.h>

enum { QUEUE_RECEIVE, QUEUE_TRANSMIT, QUEUE_COUNT };
#define QUEUE_SIZE 64 /* Linux gives a page of its memory per receive entry */
#define BOUNCE_LEN 4096

/* 5.3.3 */
#define F_SIZE (1ull << 0)
#define F_EMERG_WRITE (1ull << 2)

/* 5.3.4 */
struct console_space {
    uint16_t cols, rows;
    uint32_t max_nr_ports;
    uint32_t emerg_wr;
};
_Static_assert(sizeof(struct console_space) == 12, "virtio 1.2, 5.3.4");

struct vconsole {
    struct vdev vd;
    size_t (*sink)(void *ctx, const uint8_t *buf, size_t len);
    void (*room)(void *ctx);
    void *ctx;
    struct console_space space;

    bool starved; /* vconsole_receive took less than it was given */
    bool stalled; /* the sink took less than it was given; the chain below is held */
    uint16_t stalled_head;
    unsigned stalled_segs;
    uint64_t stalled_off; /* bytes of it that the sink has taken */
    struct virtq_seg segs[VIRTQ_CHAIN_MAX];
};

/* Gives segments to the sink from byte *off on. False if it stopped; *off tells where. */
static bool emit(struct vconsole *c, const struct virtq_seg *segs, unsigned count, uint64_t *off)
{
    uint8_t buf[BOUNCE_LEN];
    size_t n;

    while ((n = virtq_segs_read(segs, count, *off, buf, sizeof(buf))) != 0) {
        size_t taken = c->sink(c->ctx, buf, n);

        BUG_ON(taken > n);
        *off += taken;
        if (taken < n)
            return false;
    }
    return true;
}

static bool transmit(struct vdev *vd, unsigned queue, const struct virtq_chain *chain)
{
    struct vconsole *c = container_of(vd, struct vconsole, vd);
    uint64_t off = 0;

    if (emit(c, vd->segs, chain->out_count, &off)) {
        vdev_complete(vd, queue, chain->head, 0);
        return true;
    }
    c->stalled = true;
    c->stalled_head = chain->head;
    c->stalled_segs = chain->out_count;
    c->stalled_off = off;
    memcpy(c->segs, vd->segs, chain->out_count * sizeof(c->segs[0]));
    return false;
}

/* New receive buffers matter only to somebody who waits for them. */
static void receive_kicked(struct vconsole *c)
{
    struct virtq *q = &c->vd.queues[QUEUE_RECEIVE];

    if (!c->starved || (virtq_empty(q) && !virtq_kicks_on(q)))
        return;
    c->starved = false;
    virtq_kicks_off(q);
    if (c->room)
        c->room(c->ctx);
}

static bool console_process(struct vdev *vd, unsigned queue)
{
    struct vconsole *c = container_of(vd, struct vconsole, vd);

    if (queue == QUEUE_RECEIVE)
        receive_kicked(c);
    else if (!c->stalled)
        return vdev_drain(vd, queue, transmit);
    return false;
}

/* The core processes the queues next, which asks for kicks again if somebody waits. Linux looks at the size
 * only when told that it changed, so it is told at once. */
static void console_activate(struct vdev *vd)
{
    virtq_kicks_off(&vd->queues[QUEUE_RECEIVE]);
    if (vd->accepted & F_SIZE)
        vdev_config_changed(vd);
}

static void console_reset(struct vdev *vd)
{
    struct vconsole *c = container_of(vd, struct vconsole, vd);

    if (c->stalled)
        vdev_drop(vd, QUEUE_TRANSMIT, c->stalled_head);
    c->stalled = false;
}

/* Emergency write, 5.3.6.1: one character before (or without) any queue. Lost if the sink is full. */
static void console_config_write(struct vdev *vd, unsigned off, unsigned width, uint32_t value)
{
    struct vconsole *c = container_of(vd, struct vconsole, vd);
    uint8_t ch = (uint8_t)value;

    (void)width;
    if (off == offsetof(struct console_space, emerg_wr))
        c->sink(c->ctx, &ch, 1);
}

static const struct vdev_ops console_ops = {
    .name = "virtio-console",
    .id = VIRTIO_ID_CONSOLE,
    .activate = console_activate,
    .process = console_process,
    .reset = console_reset,
    .config_write = console_config_write,
};

size_t vconsole_receive(struct vconsole *c, const void *buf, size_t len)
{
    struct vdev *vd = &c->vd;
    struct virtq *q = &vd->queues[QUEUE_RECEIVE];
    struct virtq_chain chain;
    size_t done = 0;

    vdev_lock(vd);
    while (done < len) {
        if (!vdev_take(vd, QUEUE_RECEIVE, &chain)) {
            if (vdev_running(vd) && virtq_kicks_on(q))
                continue;
            c->starved = true;
            break;
        }
        if (chain.in_len == 0) {
            vdev_broken(vd, "receive buffer that the device cannot write");
            vdev_drop(vd, QUEUE_RECEIVE, chain.head);
            continue;
        }
        size_t n = virtq_segs_write(vd->mem, vd->segs + chain.out_count, chain.in_count, 0,
                                    (const uint8_t *)buf + done, len - done);
        done += n;
        vdev_complete(vd, QUEUE_RECEIVE, chain.head, (uint32_t)n);
    }
    vdev_unlock(vd);
    return done;
}

void vconsole_sink_ready(struct vconsole *c)
{
    struct vdev *vd = &c->vd;

    vdev_lock(vd);
    if (c->stalled && !vd->resetting && emit(c, c->segs, c->stalled_segs, &c->stalled_off)) {
        c->stalled = false;
        vdev_complete(vd, QUEUE_TRANSMIT, c->stalled_head, 0);
        vdev_kick_locked(vd, QUEUE_TRANSMIT);
    }
    vdev_unlock(vd);
}

void vconsole_resize(struct vconsole *c, uint16_t cols, uint16_t rows)
{
    vdev_lock(&c->vd);
    if ((c->vd.offered & F_SIZE) && (c->space.cols != cols || c->space.rows != rows)) {
        c->space.cols = cols;
        c->space.rows = rows;
        vdev_config_changed(&c->vd);
    }
    vdev_unlock(&c->vd);
}

struct vconsole *vconsole_new(const struct vconsole_config *cfg, struct yado_error *err)
{
    struct vconsole *c = calloc(1, sizeof(*c));

    if (!c) {
        err_set(err, YADO_ERR_MEMORY, "virtio-console: no memory for the device");
        return NULL;
    }
    c->sink = cfg->sink;
    c->room = cfg->room;
    c->ctx = cfg->ctx;
    c->space = (struct console_space){ .cols = cfg->cols, .rows = cfg->rows, .max_nr_ports = 1 };
    struct vdev_params p = {
        .label = cfg->label,
        .features = F_EMERG_WRITE | (cfg->cols && cfg->rows ? F_SIZE : 0),
        .queue_count = QUEUE_COUNT,
        .queue_size = QUEUE_SIZE,
        .polled = 1u << QUEUE_TRANSMIT, /* Linux's hvc driver */
        .config = &c->space,
        .config_len = sizeof(c->space),
        .log = cfg->log,
        .loop = cfg->loop,
    };
    if (!vdev_init(&c->vd, &console_ops, &p, err)) {
        vconsole_free(c);
        return NULL;
    }
    return c;
}

void vconsole_free(struct vconsole *c)
{
    if (!c)
        return;
    vdev_destroy(&c->vd);
    free(c);
}

struct vdev *vconsole_vdev(struct vconsole *c)
{
    return &c->vd;
}
