/* virtio-console's control queues: messages about ports. virtio 1.2, 5.3.6.2 to 5.3.6.4.
 *
 * What the driver is still to be told is kept as bits of each port, not as a list of messages: a driver that
 * gives no buffers makes nothing grow, and hears the state of things when it does. An end of the host's side
 * that is followed by a new beginning is told as both, so that programs of the guest see the one they spoke
 * with go. The order is the one that Linux wants: PORT_ADD; after the driver's PORT_READY whether it is a
 * console, its name, whether the host has it open, and the size of its terminal. */
#include "virtio/console_priv.h"

#include <string.h>

/* 5.3.6.2 */
enum {
    DEVICE_READY = 0,
    PORT_ADD = 1,
    PORT_READY = 3,
    CONSOLE_PORT = 4,
    RESIZE = 5,
    PORT_OPEN = 6,
    PORT_NAME = 7,
};

struct message {
    uint32_t id;
    uint16_t event, value;
};
_Static_assert(sizeof(struct message) == 8, "virtio 1.2, 5.3.6.2");

#define TAIL_MAX 256 /* what may follow a message: a name, a size */

/* ---- to the driver ---- */

/* False: it has given no buffer for it (or broke a rule). */
static bool message_send(struct vconsole *c, const struct message *m, const void *tail, size_t tail_len)
{
    struct vdev *vd = &c->vd;
    uint8_t bytes[sizeof(*m) + TAIL_MAX];
    size_t len = sizeof(*m) + min_u64(tail_len, TAIL_MAX);
    struct virtq_chain chain;

    if (!vport_take(vd, QUEUE_CONTROL_RECEIVE, &chain))
        return false;
    if (chain.in_len < len) {
        vdev_broken(vd, "control receive buffer of %llu bytes for a message of %zu",
                    (unsigned long long)chain.in_len, len);
        vdev_drop(vd, QUEUE_CONTROL_RECEIVE, chain.head);
        return false;
    }
    memcpy(bytes, m, sizeof(*m));
    if (tail_len)
        memcpy(bytes + sizeof(*m), tail, len - sizeof(*m));
    virtq_segs_write(vd->mem, vd->segs + chain.out_count, chain.in_count, 0, bytes, len);
    vdev_complete(vd, QUEUE_CONTROL_RECEIVE, chain.head, (uint32_t)len);
    return true;
}

static bool port_send(struct vport *p, uint16_t event, uint16_t value, const void *tail, size_t tail_len)
{
    struct message m = { .id = p->id, .event = event, .value = value };

    return message_send(p->console, &m, tail, tail_len);
}

static bool bit_send(struct vport *p, unsigned bit)
{
    /* As 5.3.6.2 has it. Linux took rows first until its commit 5326ab737a47 (2025, in stable series too):
     * such a guest sees them exchanged. */
    const uint16_t size[2] = { p->columns, p->rows };

    switch (bit) {
    case TELL_ADD: return port_send(p, PORT_ADD, 1, NULL, 0);
    case TELL_CONSOLE: return port_send(p, CONSOLE_PORT, 1, NULL, 0);
    case TELL_NAME: return port_send(p, PORT_NAME, 1, p->name, strlen(p->name));
    case TELL_SIZE: return port_send(p, RESIZE, 0, size, sizeof(size));
    default: return true;
    }
}

static bool bits_flush(struct vport *p, unsigned bits)
{
    for (unsigned bit = 1; bit <= TELL_SIZE; bit <<= 1) {
        if (!(p->tell & bits & bit))
            continue;
        if (!bit_send(p, bit))
            return false;
        p->tell &= ~bit;
    }
    return true;
}

static bool open_flush(struct vport *p)
{
    bool is_open = p->is_host_open || p->is_console;

    if (!p->is_ready)
        return true;
    if (p->told_open && (!is_open || (p->has_blinked && !p->is_console))) {
        if (!port_send(p, PORT_OPEN, 0, NULL, 0))
            return false;
        p->told_open = false;
    }
    p->has_blinked = false;
    if (!p->told_open && is_open) {
        if (!port_send(p, PORT_OPEN, 1, NULL, 0))
            return false;
        p->told_open = true;
    }
    return true;
}

void control_flush(struct vconsole *c)
{
    if (!vdev_running(&c->vd) || !vdev_has(&c->vd, F_MULTIPORT))
        return;
    for (unsigned i = 0; i < c->port_count; i++) {
        struct vport *p = c->ports[i];

        if (p && !(bits_flush(p, TELL_ADD | TELL_CONSOLE | TELL_NAME) && open_flush(p) &&
                   bits_flush(p, TELL_SIZE)))
            return;
    }
}

/* ---- from the driver ---- */

static void device_ready(struct vconsole *c)
{
    for (unsigned i = 0; i < c->port_count; i++) {
        if (c->ports[i])
            c->ports[i]->tell |= TELL_ADD;
    }
}

static void port_ready(struct vport *p)
{
    p->is_ready = true;
    if (p->is_console)
        p->tell |= TELL_CONSOLE | (p->columns && p->rows ? TELL_SIZE : 0);
    if (p->name)
        p->tell |= TELL_NAME;
}

/* Messages that we do not know are the business of later versions. */
static void message_see(struct vconsole *c, const struct message *m)
{
    struct vport *p = m->id < c->port_count ? c->ports[m->id] : NULL;

    if (m->event == DEVICE_READY) {
        if (m->value)
            device_ready(c);
        return;
    }
    if (m->event != PORT_READY && m->event != PORT_OPEN)
        return;
    if (!p)
        vdev_broken(&c->vd, "control message for port %u, which is not there", m->id);
    else if (m->event == PORT_OPEN)
        vport_guest_open(p, m->value != 0);
    else if (m->value)
        port_ready(p);
    else /* its driver could not make it */
        p->is_ready = false;
}

static bool message_take(struct vdev *vd, unsigned queue, const struct virtq_chain *chain)
{
    struct message m;

    if (virtq_segs_read(vd->segs, chain->out_count, 0, &m, sizeof(m)) < sizeof(m)) {
        vdev_broken(vd, "control message of %llu bytes", (unsigned long long)chain->out_len);
        vdev_drop(vd, queue, chain->head);
        return false;
    }
    vdev_complete(vd, queue, chain->head, 0); /* the driver spins for it */
    message_see(container_of(vd, struct vconsole, vd), &m);
    return true;
}

bool control_process(struct vconsole *c, unsigned queue)
{
    bool more = false;

    if (!vdev_has(&c->vd, F_MULTIPORT))
        return false;
    if (queue == QUEUE_CONTROL_TRANSMIT)
        more = vdev_drain(&c->vd, queue, message_take);
    control_flush(c);
    return more;
}

void control_reset(struct vconsole *c)
{
    for (unsigned i = 0; i < c->port_count; i++) {
        struct vport *p = c->ports[i];

        if (!p)
            continue;
        p->tell = 0;
        p->is_ready = p->told_open = p->has_blinked = false;
    }
}
