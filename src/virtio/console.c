/* virtio-console. virtio 1.2, section 5.3.
 *
 * Theory of operation
 *
 * Each port has two queues: one receives (input for the guest), one transmits (output of the guest). Port 0
 * has queues 0 and 1, two control queues follow, then come the other ports' pairs. Ports share the device's
 * lock and nothing else: one whose reader is slow holds back its own chains alone.
 *
 * Output is handed to the sink on the kicking vCPU thread where a console is concerned: Linux's hvc driver
 * spins until its buffer comes back, so a trip over another thread would cost the guest a wake-up per line.
 * Bytes go through a small host copy: a sink that looks at them must not see them change. When the sink takes
 * less than it is given, the chain stays held ("stalled"), kicks stay off, and vconsole_sink_ready goes on
 * where it stopped. A turn moves TURN_BYTES at most, however long the chains are; the rest is continued on
 * the loop thread, so that no kick holds a vCPU or the other ports for long.
 *
 * Input is pushed by vconsole_receive on any thread, straight to the guest's receive buffers; nothing is
 * buffered here. If they run out, or the guest has not opened the port, the rest stays with the caller and
 * the port is "starved": only then does it ask for kicks on the receive queue, and the first new buffer (or
 * the opening) calls `room`. A port that was never fed needs no kicks at all.
 *
 * With MULTIPORT negotiated the driver learns of ports by messages (console_control.c) and says which of them
 * programs have open. A driver without it has port 0, open while it runs.
 *
 * Reset gives up held chains and closes the ports for the guest. Input that was taken before is the old
 * driver's; the starved mark stays, so that the caller hears when a new driver gives buffers.
 *
 * Limits: a receive chain is filled from its start and returned at once, however short the input. */
#include "virtio/console.h"

#include <stdlib.h>
#include <string.h>

#include "virtio/console_priv.h"

#define QUEUE_SIZE 64 /* Linux gives a page of its memory per receive entry */
#define BOUNCE_LEN 4096
#define TURN_BYTES (64u << 10)

_Static_assert(2 * (VCONSOLE_PORTS_MAX + 1) <= VDEV_QUEUES_MAX, "virtio 1.2, 5.3.2");

static unsigned queue_receive(unsigned port)
{
    return port ? 2 * port + 2 : 0;
}

static unsigned queue_transmit(unsigned port)
{
    return queue_receive(port) + 1;
}

/* Whose queue it is; not for control queues. NULL: an absent port's. */
static struct vport *port_of_queue(const struct vconsole *c, unsigned queue)
{
    unsigned port = queue < 2 ? 0 : queue / 2 - 1;

    return port < c->port_count ? c->ports[port] : NULL;
}

/* ---- output ---- */

enum emitted { EMITTED_ALL, EMITTED_STALLED, EMITTED_TURN };

/* Gives segments to the sink from byte *off on; *off tells where it stopped. */
static enum emitted emit(struct vport *p, const struct virtq_seg *segs, unsigned count, uint64_t *off)
{
    const struct vconsole_config *cfg = &p->console->cfg;
    uint8_t buf[BOUNCE_LEN];

    while (p->budget) {
        size_t n = virtq_segs_read(segs, count, *off, buf, min_u64(sizeof(buf), p->budget)), taken;

        if (!n)
            return EMITTED_ALL;
        taken = cfg->sink(cfg->ctx, p->id, buf, n);
        BUG_ON(taken > n);
        *off += taken;
        p->budget -= taken;
        if (taken < n)
            return EMITTED_STALLED;
    }
    return EMITTED_TURN;
}

static bool transmit(struct vdev *vd, unsigned queue, const struct virtq_chain *chain)
{
    struct vport *p = port_of_queue(container_of(vd, struct vconsole, vd), queue);
    uint64_t off = 0;
    enum emitted e = emit(p, vd->segs, chain->out_count, &off);

    if (e == EMITTED_ALL) {
        vdev_complete(vd, queue, chain->head, 0);
        return true;
    }
    p->held = true;
    p->stalled = e == EMITTED_STALLED;
    p->held_head = chain->head;
    p->held_segs = chain->out_count;
    p->held_off = off;
    memcpy(p->segs, vd->segs, chain->out_count * sizeof(p->segs[0]));
    return false;
}

/* False: it is still not through. */
static bool held_go_on(struct vport *p, unsigned queue)
{
    enum emitted e = emit(p, p->segs, p->held_segs, &p->held_off);

    p->stalled = e == EMITTED_STALLED;
    if (e != EMITTED_ALL)
        return false;
    p->held = false;
    vdev_complete(&p->console->vd, queue, p->held_head, 0);
    return true;
}

static bool transmit_process(struct vport *p, unsigned queue)
{
    if (p->stalled)
        return false;
    p->budget = TURN_BYTES;
    if (p->held && !held_go_on(p, queue))
        return !p->stalled;
    return vdev_drain(&p->console->vd, queue, transmit) || (p->held && !p->stalled);
}

void vconsole_sink_ready(struct vconsole *c, unsigned port)
{
    struct vport *p = c->ports[port];

    vdev_lock(&c->vd);
    if (p->stalled) {
        p->stalled = false;
        vdev_kick_locked(&c->vd, queue_transmit(port));
    }
    vdev_unlock(&c->vd);
}

/* ---- input ---- */

bool vport_take(struct vdev *vd, unsigned queue, struct virtq_chain *chain)
{
    if (vdev_take(vd, queue, chain))
        return true;
    return vdev_running(vd) && virtq_kicks_on(&vd->queues[queue]) && vdev_take(vd, queue, chain);
}

/* New receive buffers, or the port's opening, matter only to somebody who waits for them. */
static void receive_process(struct vport *p)
{
    struct vconsole *c = p->console;
    struct virtq *q = &c->vd.queues[queue_receive(p->id)];

    if (!p->starved || !p->is_guest_open || (virtq_empty(q) && !virtq_kicks_on(q)))
        return;
    p->starved = false;
    virtq_kicks_off(q);
    if (c->cfg.room)
        c->cfg.room(c->cfg.ctx, p->id);
}

void vport_guest_open(struct vport *p, bool is_open)
{
    const struct vconsole_config *cfg = &p->console->cfg;

    if (p->is_guest_open == is_open)
        return;
    p->is_guest_open = is_open;
    if (cfg->guest_open)
        cfg->guest_open(cfg->ctx, p->id, is_open);
    if (is_open)
        receive_process(p);
}

static size_t receive(struct vport *p, const uint8_t *buf, size_t len)
{
    struct vdev *vd = &p->console->vd;
    const unsigned queue = queue_receive(p->id);
    struct virtq_chain chain;
    size_t done = 0;

    while (done < len) {
        if (!p->is_guest_open || !vport_take(vd, queue, &chain)) {
            p->starved = true;
            return done;
        }
        if (chain.in_len == 0) {
            vdev_broken(vd, "receive buffer that the device cannot write");
            vdev_drop(vd, queue, chain.head);
            continue;
        }
        size_t n =
            virtq_segs_write(vd->mem, vd->segs + chain.out_count, chain.in_count, 0, buf + done, len - done);
        done += n;
        vdev_complete(vd, queue, chain.head, (uint32_t)n);
    }
    return done;
}

size_t vconsole_receive(struct vconsole *c, unsigned port, const void *buf, size_t len)
{
    size_t n;

    vdev_lock(&c->vd);
    n = receive(c->ports[port], buf, len);
    vdev_unlock(&c->vd);
    return n;
}

/* ---- the host's side ---- */

void vconsole_host_open(struct vconsole *c, unsigned port, bool is_open)
{
    struct vport *p = c->ports[port];

    vdev_lock(&c->vd);
    p->has_blinked |= p->told_open && !is_open;
    p->is_host_open = is_open;
    control_flush(c);
    vdev_unlock(&c->vd);
}

void vconsole_resize(struct vconsole *c, unsigned port, uint16_t columns, uint16_t rows)
{
    struct vport *p = c->ports[port];

    vdev_lock(&c->vd);
    if (p->columns != columns || p->rows != rows) {
        p->columns = columns;
        p->rows = rows;
        if (port == 0 && (c->vd.offered & F_SIZE)) {
            c->space.cols = columns;
            c->space.rows = rows;
            vdev_config_changed(&c->vd);
        }
        if (p->is_ready && p->is_console)
            p->tell |= TELL_SIZE;
        control_flush(c);
    }
    vdev_unlock(&c->vd);
}

/* ---- the device ---- */

static bool console_process(struct vdev *vd, unsigned queue)
{
    struct vconsole *c = container_of(vd, struct vconsole, vd);
    struct vport *p;

    if (queue == QUEUE_CONTROL_RECEIVE || queue == QUEUE_CONTROL_TRANSMIT)
        return control_process(c, queue);
    p = port_of_queue(c, queue);
    if (!p || (p->id && !vdev_has(vd, F_MULTIPORT)))
        return false;
    if (queue & 1)
        return transmit_process(p, queue);
    receive_process(p);
    return false;
}

/* The core processes the queues next, which asks for kicks again if somebody waits. Linux looks at the size
 * only when told that it changed, so it is told at once. */
static void console_activate(struct vdev *vd)
{
    struct vconsole *c = container_of(vd, struct vconsole, vd);

    for (unsigned i = 0; i < c->port_count; i++)
        virtq_kicks_off(&vd->queues[queue_receive(i)]);
    if (vdev_has(vd, F_MULTIPORT))
        return;
    if (c->ports[0])
        vport_guest_open(c->ports[0], true);
    if (vdev_has(vd, F_SIZE) && c->space.cols && c->space.rows)
        vdev_config_changed(vd);
}

static void console_reset(struct vdev *vd)
{
    struct vconsole *c = container_of(vd, struct vconsole, vd);

    for (unsigned i = 0; i < c->port_count; i++) {
        struct vport *p = c->ports[i];

        if (!p)
            continue;
        if (p->held)
            vdev_drop(vd, queue_transmit(i), p->held_head);
        p->held = p->stalled = false;
        vport_guest_open(p, false);
    }
    control_reset(c);
}

/* Emergency write, 5.3.6.1: one character before (or without) any queue. Lost if the sink is full. */
static void console_config_write(struct vdev *vd, unsigned off, unsigned width, uint32_t value)
{
    struct vconsole *c = container_of(vd, struct vconsole, vd);
    uint8_t ch = (uint8_t)value;

    (void)width;
    if (off == offsetof(struct console_space, emerg_wr) && c->ports[0])
        c->cfg.sink(c->cfg.ctx, 0, &ch, 1);
}

static const struct vdev_ops console_ops = {
    .name = "virtio-console",
    .id = VIRTIO_ID_CONSOLE,
    .activate = console_activate,
    .process = console_process,
    .reset = console_reset,
    .config_write = console_config_write,
};

/* ---- life ---- */

static bool ports_make(struct vconsole *c, const struct vconsole_config *cfg)
{
    for (unsigned i = 0; i < cfg->port_count; i++) {
        const struct vconsole_port_config *from = &cfg->ports[i];
        struct vport *p = from->is_present ? calloc(1, sizeof(*p)) : NULL;

        c->ports[i] = p;
        c->port_count++;
        if (!p && from->is_present)
            return false;
        if (!p)
            continue;
        *p = (struct vport){ .console = c,
                             .id = i,
                             .is_console = from->is_console,
                             .columns = from->columns,
                             .rows = from->rows,
                             .is_host_open = from->is_host_open,
                             .name = from->name ? strdup(from->name) : NULL };
        if (from->name && !p->name)
            return false;
    }
    return true;
}

/* Queues whose driver spins: those of consoles, of port 0 (one to a driver without MULTIPORT), and control's.
 */
static uint64_t polled_queues(const struct vconsole *c, bool multiport)
{
    uint64_t polled = 1ull << queue_transmit(0) | (multiport ? 1ull << QUEUE_CONTROL_TRANSMIT : 0);

    for (unsigned i = 0; i < c->port_count; i++) {
        if (c->ports[i] && c->ports[i]->is_console)
            polled |= 1ull << queue_transmit(i);
    }
    return polled;
}

/* Linux ignores messages of a size unless the feature was negotiated, so it is there for all sizes that may
 * come; of one port, whose size would have to be in the configuration space from the start, only if it is. */
static bool has_sizes(const struct vconsole *c, bool multiport)
{
    for (unsigned i = 0; i < c->port_count; i++) {
        const struct vport *p = c->ports[i];

        if (p && (multiport ? p->is_console : p->columns && p->rows))
            return true;
    }
    return false;
}

struct vconsole *vconsole_new(const struct vconsole_config *cfg, struct yado_error *err)
{
    struct vconsole *c = calloc(1, sizeof(*c));

    BUG_ON(cfg->port_count < 1 || cfg->port_count > (cfg->multiport ? VCONSOLE_PORTS_MAX : 1));
    if (!c || !ports_make(c, cfg)) {
        err_set(err, YADO_ERR_MEMORY, "virtio-console: no memory for the device");
        vconsole_free(c);
        return NULL;
    }
    c->cfg = *cfg;
    c->cfg.ports = NULL; /* the caller's */
    c->space = (struct console_space){ .max_nr_ports = cfg->port_count };
    if (c->ports[0]) {
        c->space.cols = c->ports[0]->columns;
        c->space.rows = c->ports[0]->rows;
    }
    struct vdev_params p = {
        .label = cfg->label,
        .features =
            F_EMERG_WRITE | (has_sizes(c, cfg->multiport) ? F_SIZE : 0) | (cfg->multiport ? F_MULTIPORT : 0),
        .queue_count = cfg->multiport ? 2 * (cfg->port_count + 1) : 2,
        .queue_size = QUEUE_SIZE,
        .polled = polled_queues(c, cfg->multiport),
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
    for (unsigned i = 0; i < c->port_count; i++) {
        if (c->ports[i])
            free(c->ports[i]->name);
        free(c->ports[i]);
    }
    free(c);
}

struct vdev *vconsole_vdev(struct vconsole *c)
{
    return &c->vd;
}
