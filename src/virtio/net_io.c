/* virtio-net: frames out and in. Theory of operation in net.c. virtio 1.2, 5.1.6. */
#include <string.h>

#include "net/offload.h"
#include "virtio/net_priv.h"

#define TX_BATCH 64           /* chains per turn ... */
#define TX_BATCH_BYTES 524288 /* ... or bytes */
#define RX_TRIES 4

/* ---- steering: a flow comes in where it goes out ---- */

static unsigned flow_slot(const struct net_frame *f, bool from_guest)
{
    struct net_layers l;
    uint32_t h = 0, w[8];
    unsigned len, src;

    if (!net_layers_find(f->data, f->len, &l))
        return 0;
    len = l.v6 ? 16 : 4;
    src = l.l3 + (l.v6 ? 8 : 12);
    memcpy(w, f->data + src, 2 * (size_t)len);
    for (unsigned i = 0; i < len / 2; i++) /* addresses, the same in both directions */
        h += w[i] * 0x9e3779b1u;
    memcpy(w, f->data + l.l4, 4);
    if (!from_guest)
        w[0] = w[0] << 16 | w[0] >> 16;
    h = (h ^ w[0]) * 0x85ebca6bu;
    return h >> 24;
}

static unsigned pair_of(const struct vnet *n, const struct net_frame *f)
{
    unsigned pair = n->pairs_active > 1 ? n->steer[flow_slot(f, false)] : 0;

    return pair < n->pairs_active && n->vd.queues[queue_rx(pair)].enabled ? pair : 0;
}

/* ---- out ---- */

static uint64_t gso_feature(uint8_t gso_type)
{
    switch (gso_type & ~NET_GSO_ECN) {
    case NET_GSO_TCPV4: return F_HOST_TSO4;
    case NET_GSO_TCPV6: return F_HOST_TSO6;
    case NET_GSO_UDP_L4: return F_HOST_USO;
    default: return 0;
    }
}

/* Whether the header asks only for what was agreed on. */
static bool header_allowed(const struct vnet *n, const struct net_offload *o)
{
    uint8_t known = NET_NEEDS_CSUM | NET_DATA_VALID;

    if ((o->flags & ~known) || ((o->flags & NET_NEEDS_CSUM) && !vdev_has(&n->vd, F_CSUM)))
        return false;
    if (o->gso_type == NET_GSO_NONE)
        return true;
    return vdev_has(&n->vd, gso_feature(o->gso_type)) &&
           (!(o->gso_type & NET_GSO_ECN) || vdev_has(&n->vd, F_HOST_ECN));
}

/* False: the attachment has no room. */
static bool frame_out(struct vnet *n, unsigned pair, const struct virtq_chain *c)
{
    struct net_frame f = { .data = n->frame, .len = c->out_len - sizeof(struct net_header) };
    struct net_header h;

    if (f.len < NET_ETH_LEN || f.len > NET_FRAME_MAX) {
        n->counters.bad++;
        return true;
    }
    virtq_segs_read(n->vd.segs, c->out_count, 0, &h, sizeof(h));
    virtq_segs_read(n->vd.segs, c->out_count, sizeof(h), f.data, f.len);
    f.off = h.off;
    if (!header_allowed(n, &f.off) || !net_offload_valid(&f)) {
        n->counters.bad++;
        return true;
    }
    if (n->pairs_active > 1)
        n->steer[flow_slot(&f, true)] = (uint8_t)pair;
    if (!n->backend || n->unplugged_by_loss)
        return true;
    n->counters.sent++;
    n->counters.sent_bytes += f.len;
    if (net_send(n->backend, &f))
        return true;
    n->counters.sent--;
    n->counters.sent_bytes -= c->out_len - sizeof(h);
    return false;
}

/* True: there may be more. */
static bool transmit_batch(struct vnet *n, unsigned pair)
{
    struct vdev *vd = &n->vd;
    unsigned queue = queue_tx(pair), left = TX_BATCH;
    struct virtq *q = &vd->queues[queue];
    struct virtq_chain c;
    uint64_t bytes = 0;

    virtq_kicks_off(q);
    do {
        while (vdev_take(vd, queue, &c)) {
            if (c.out_len < sizeof(struct net_header)) {
                vdev_broken(vd, "queue %u: frame without a whole header", queue);
                vdev_drop(vd, queue, c.head);
                return false;
            }
            if (!frame_out(n, pair, &c)) {
                n->tx_stalled |= 1u << pair;
                vdev_untake(vd, queue, c.head);
                return false;
            }
            vdev_stage(vd, queue, c.head, 0);
            bytes += c.out_len;
            if (!--left || bytes > TX_BATCH_BYTES)
                return true;
        }
    } while (virtq_kicks_on(q));
    return false;
}

bool net_transmit(struct vnet *n, unsigned pair)
{
    struct vdev *vd = &n->vd;
    bool more;

    if (n->tx_stalled & 1u << pair)
        return false;
    if (!loop_on_thread(n->loop)) {
        virtq_kicks_off(&vd->queues[queue_tx(pair)]);
        return true; /* the core goes on there */
    }
    more = transmit_batch(n, pair);
    vdev_publish(vd, queue_tx(pair));
    if (n->backend)
        net_sent(n->backend);
    return more;
}

void net_writable(void *ctx)
{
    struct vnet *n = ctx;
    uint32_t stalled;

    vdev_lock(&n->vd);
    stalled = n->tx_stalled;
    n->tx_stalled = 0;
    for (unsigned i = 0; i < n->pairs; i++)
        if (stalled >> i & 1)
            vdev_kick_locked(&n->vd, queue_tx(i));
    vdev_unlock(&n->vd);
}

/* ---- in ---- */

enum put { PUT_DONE, PUT_NO_ROOM, PUT_NEVER };

static void chains_untake(struct vnet *n, unsigned queue, unsigned count)
{
    while (count-- > 0)
        vdev_untake(&n->vd, queue, n->rx_chains[count].head);
}

/* Takes chains for `need` bytes; their segments go to rx_segs. Nothing is held unless the result is PUT_DONE.
 */
static enum put chains_take(struct vnet *n, unsigned queue, uint64_t need, unsigned *chains, unsigned *segs)
{
    struct vdev *vd = &n->vd;
    uint64_t room = 0;

    *chains = *segs = 0;
    while (room < need) {
        struct virtq_chain c;
        bool fits;

        if (*chains && !vdev_has(vd, F_MRG_RXBUF))
            break;
        if (!vdev_take(vd, queue, &c)) {
            chains_untake(n, queue, *chains);
            return PUT_NO_ROOM;
        }
        fits = *segs + c.in_count <= VIRTQ_CHAIN_MAX;
        if (c.in_len == 0 || (*chains == 0 && c.in_len < sizeof(struct net_header))) {
            vdev_broken(vd, "queue %u: receive buffer that holds no frame", queue);
            fits = false;
        }
        n->rx_chains[*chains].head = c.head;
        n->rx_chains[*chains].len = (uint32_t)c.in_len;
        ++*chains;
        if (!fits)
            break;
        memcpy(n->rx_segs + *segs, vd->segs + c.out_count, c.in_count * sizeof(n->rx_segs[0]));
        *segs += c.in_count;
        room += c.in_len;
    }
    if (room >= need)
        return PUT_DONE;
    chains_untake(n, queue, *chains);
    return PUT_NEVER;
}

/* One frame to the guest's buffers. Staged, not published. */
static enum put frame_put(struct vnet *n, unsigned queue, const struct net_frame *f)
{
    struct net_header h = { .off = f->off };
    unsigned chains, segs;
    uint64_t left = sizeof(h) + f->len;
    enum put got = chains_take(n, queue, left, &chains, &segs);

    if (got != PUT_DONE)
        return got;
    h.num_buffers = (uint16_t)chains;
    virtq_segs_write(n->vd.mem, n->rx_segs, segs, 0, &h, sizeof(h));
    virtq_segs_write(n->vd.mem, n->rx_segs, segs, sizeof(h), f->data, f->len);
    for (unsigned i = 0; i < chains; i++) {
        uint32_t len = (uint32_t)min_u64(left, n->rx_chains[i].len);

        vdev_stage(&n->vd, queue, n->rx_chains[i].head, len);
        left -= len;
    }
    n->counters.received++;
    n->counters.received_bytes += f->len;
    return PUT_DONE;
}

struct rx_pieces {
    struct vnet *n;
    unsigned queue;
    enum put first; /* what became of the first piece */
    bool any;
};

/* Pieces that find no room after the first are lost, as on a wire. */
static bool piece_put(void *ctx, struct net_frame *piece)
{
    struct rx_pieces *p = ctx;
    enum put got = frame_put(p->n, p->queue, piece);

    if (!p->any)
        p->first = got;
    p->any = true;
    return got == PUT_DONE;
}

static bool gso_accepted(const struct vnet *n, uint8_t gso_type)
{
    uint64_t on = n->guest_offloads;

    if ((gso_type & NET_GSO_ECN) && !(on & F_GUEST_ECN))
        return false;
    switch (gso_type & ~NET_GSO_ECN) {
    case NET_GSO_NONE: return true;
    case NET_GSO_TCPV4: return (on & F_GUEST_TSO4) != 0;
    case NET_GSO_TCPV6: return (on & F_GUEST_TSO6) != 0;
    default: return false;
    }
}

/* Gives the guest the frame in the shape that it agreed to take. */
static enum put frame_in(struct vnet *n, unsigned queue, struct net_frame *f)
{
    if (f->len > NET_FRAME_MAX || !net_offload_valid(f))
        return PUT_NEVER;
    if (!gso_accepted(n, f->off.gso_type)) {
        struct rx_pieces p = { .n = n, .queue = queue, .first = PUT_NEVER };

        net_segment(f, n->segment, piece_put, &p);
        return p.first;
    }
    if (!(n->guest_offloads & F_GUEST_CSUM)) {
        net_csum_finish(f);
        f->off = (struct net_offload){ 0 };
    }
    f->off.flags &= NET_NEEDS_CSUM | NET_DATA_VALID;
    return frame_put(n, queue, f);
}

static void resume(void *ctx)
{
    struct vnet *n = ctx;

    vdev_lock(&n->vd);
    n->resume_posted = false;
    vdev_unlock(&n->vd);
    if (n->backend && !n->unplugged_by_loss)
        n->backend->ops->resume(n->backend);
}

static void resume_ask(struct vnet *n)
{
    n->rx_starved = 0;
    if (!n->resume_posted)
        n->resume_posted = loop_post(n->loop, resume, n);
}

static bool receive_locked(struct vnet *n, struct net_frame *f)
{
    struct vdev *vd = &n->vd;
    unsigned pair = pair_of(n, f), queue = queue_rx(pair);

    for (unsigned i = 0; i < RX_TRIES; i++) {
        switch (frame_in(n, queue, f)) {
        case PUT_DONE: return true;
        case PUT_NEVER: n->counters.unfit++; return true;
        case PUT_NO_ROOM: break;
        }
        if (!vdev_running(vd) || !vd->queues[queue].enabled)
            return true;         /* it broke over this */
        vdev_publish(vd, queue); /* the guest must see those that it has, to give new ones */
        if (!virtq_kicks_on_more(&vd->queues[queue])) {
            n->rx_starved |= 1u << pair;
            n->counters.waited++;
            return false;
        }
    }
    resume_ask(n); /* a driver that adds buffers one by one just now: let others have their turn */
    return false;
}

bool net_deliver(void *ctx, struct net_frame *f)
{
    struct vnet *n = ctx;
    bool taken = true;

    vdev_lock(&n->vd);
    if (vdev_running(&n->vd) && f->len >= NET_ETH_LEN) {
        if (net_wanted(n, f->data))
            taken = receive_locked(n, f);
        else
            n->counters.filtered++;
    }
    vdev_unlock(&n->vd);
    return taken;
}

void net_flush(void *ctx)
{
    struct vnet *n = ctx;

    vdev_lock(&n->vd);
    if (vdev_running(&n->vd))
        for (unsigned i = 0; i < n->pairs_active; i++)
            vdev_publish(&n->vd, queue_rx(i));
    vdev_unlock(&n->vd);
}

/* New buffers matter only to somebody who waits for them. */
void net_receive_kicked(struct vnet *n, unsigned pair)
{
    if (!(n->rx_starved >> pair & 1))
        return;
    virtq_kicks_off(&n->vd.queues[queue_rx(pair)]);
    resume_ask(n);
}

void net_io_reset(struct vnet *n)
{
    n->tx_stalled = 0;
    memset(n->steer, 0, sizeof(n->steer));
    if (n->rx_starved)
        resume_ask(n);
}
