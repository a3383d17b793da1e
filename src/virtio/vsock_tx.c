/* virtio-vsock: packets from the guest. Theory of operation in vsock.c. virtio 1.2, 5.10.6. */
#include <unistd.h>

#include "virtio/vsock_priv.h"

#define SHARE 64            /* packets in one go ... */
#define SHARE_BYTES 1048576 /* ... or bytes */

/* The guest broke a rule of this connection, and of none other. */
static void misbehaved(struct vsock_conn *c)
{
    c->v->counters.bad++;
    conn_answered(c, YADO_ERR_REFUSED, "the guest broke the rules of the connection");
    conn_reset(c);
}

static void reply_reset(struct vsock *v, const struct vsock_header *h)
{
    if (h->op != OP_RST)
        reply_add(v, h);
}

static void request(struct vsock *v, struct vsock_conn *c, const struct vsock_header *h)
{
    int fd;

    if (c) { /* ports that are in use */
        if (c->state != CONN_RESETS)
            misbehaved(c);
        return;
    }
    c = conn_new(v, h->src_port, h->dst_port, CONN_GUEST_ASKS);
    fd = c ? v->cfg.asked(v->cfg.ctx, c->id, h->src_port, h->dst_port) : VSOCK_REFUSED;
    if (fd == VSOCK_REFUSED) {
        v->counters.refused++;
        if (c)
            conn_kill(c);
        reply_reset(v, h);
        return;
    }
    c->peer_alloc = h->buf_alloc;
    c->peer_forwarded = h->fwd_cnt;
    if (fd == VSOCK_LATER)
        return;
    conn_open(c, fd);
    c->state = CONN_OPEN;
    v->counters.opened++;
    conn_want(c, WANT_RESPONSE);
    conn_settle(c);
}

static void response(struct vsock_conn *c)
{
    if (c->state != CONN_HOST_ASKS) {
        misbehaved(c);
        return;
    }
    conn_answered(c, YADO_OK, NULL);
    c->state = CONN_OPEN;
    c->v->counters.opened++;
    conn_settle(c);
}

static void reset(struct vsock_conn *c)
{
    conn_answered(c, YADO_ERR_REFUSED, "no program listens there");
    if (c->state == CONN_OPEN && c->guest_done)
        conn_linger(c); /* what it sent before its orderly end counts */
    else
        conn_kill(c);
}

static void shutdown_(struct vsock_conn *c, const struct vsock_header *h)
{
    if (c->state != CONN_OPEN || (h->flags & ~(uint32_t)NO_MORE) || !h->flags) {
        misbehaved(c);
        return;
    }
    if ((h->flags & NO_MORE_SEND) && !c->guest_done)
        conn_guest_done(c);
    if ((h->flags & NO_MORE_RECEIVE) && !c->guest_deaf) {
        c->guest_deaf = true;
        c->readable = false;
        if (c->fd >= 0)
            socket_shutdown_receive(c->fd);
    }
    if (c->guest_done && c->guest_deaf) {
        reply_reset(c->v, h); /* 5.10.6.5: the answer to the end of both directions */
        conn_linger(c);
        return;
    }
    conn_settle(c);
}

static void data(struct vsock_conn *c, const struct vsock_header *h, const struct virtq_chain *chain)
{
    if (c->state != CONN_OPEN || c->guest_done || h->len > c->window - (c->received - c->forwarded)) {
        misbehaved(c);
        return;
    }
    if (h->len)
        conn_receive(c, chain, sizeof(*h), h->len);
    conn_settle(c);
}

/* What a guest may send before its connection is open. */
static bool too_early(const struct vsock_conn *c, unsigned op)
{
    return c->state == CONN_GUEST_ASKS && op != OP_RST && op != OP_CREDIT_UPDATE && op != OP_CREDIT_REQUEST;
}

static void conn_packet(struct vsock_conn *c, const struct vsock_header *h, const struct virtq_chain *chain)
{
    if (c->state == CONN_RESETS) { /* it will hear that */
        if (h->op == OP_RST)
            conn_kill(c);
        return;
    }
    c->peer_alloc = h->buf_alloc;
    c->peer_forwarded = h->fwd_cnt;
    c->credit_asked = false;
    if (too_early(c, h->op)) {
        misbehaved(c);
        return;
    }
    switch (h->op) {
    case OP_RESPONSE: response(c); break;
    case OP_RST: reset(c); break;
    case OP_SHUTDOWN: shutdown_(c, h); break;
    case OP_RW: data(c, h, chain); break;
    case OP_CREDIT_UPDATE: conn_settle(c); break;
    case OP_CREDIT_REQUEST:
        conn_want(c, WANT_CREDIT_UPDATE);
        conn_settle(c);
        break;
    default: misbehaved(c); break;
    }
}

static void packet(struct vsock *v, const struct vsock_header *h, const struct virtq_chain *chain)
{
    struct vsock_conn *c;

    if (h->src_cid != v->space.guest_cid) { /* 5.10.6.4: nobody to answer to */
        v->counters.bad++;
        return;
    }
    if (h->dst_cid != VSOCK_CID_HOST || h->type != TYPE_STREAM) {
        reply_reset(v, h);
        return;
    }
    c = conn_find(v, h->src_port, h->dst_port);
    if (h->op == OP_REQUEST)
        request(v, c, h);
    else if (c)
        conn_packet(c, h, chain);
    else
        reply_reset(v, h);
}

/* False: the device is broken. */
static bool chain_see(struct vsock *v, const struct virtq_chain *chain)
{
    struct vsock_header h;

    if (chain->out_len < sizeof(h)) {
        vdev_broken(&v->vd, "queue %u: packet without a whole header", QUEUE_TX);
        return false;
    }
    virtq_segs_read(v->vd.segs, chain->out_count, 0, &h, sizeof(h));
    if (h.len > chain->out_len - sizeof(h)) {
        vdev_broken(&v->vd, "queue %u: packet of %u bytes in a buffer for %llu", QUEUE_TX, h.len,
                    (unsigned long long)(chain->out_len - sizeof(h)));
        return false;
    }
    packet(v, &h, chain);
    return true;
}

/* The share is over, or the guest broke the device, or there is no room for answers. */
static bool batch_take(struct vsock *v)
{
    struct virtq_chain chain;
    unsigned left = SHARE;
    uint64_t bytes = 0;

    while (reply_room(v) && vdev_take(&v->vd, QUEUE_TX, &chain)) {
        if (!chain_see(v, &chain)) {
            vdev_drop(&v->vd, QUEUE_TX, chain.head);
            return true;
        }
        vdev_stage(&v->vd, QUEUE_TX, chain.head, 0);
        bytes += chain.out_len;
        if (!--left || bytes > SHARE_BYTES)
            return true;
    }
    v->tx_stalled = !reply_room(v);
    return v->tx_stalled;
}

bool vsock_take_packets(struct vsock *v)
{
    struct virtq *q = &v->vd.queues[QUEUE_TX];
    bool more = false;

    if (!vdev_running(&v->vd) || !q->enabled)
        return false;
    v->tx_stalled = false;
    virtq_kicks_off(q);
    do {
        more = batch_take(v);
    } while (!more && virtq_kicks_on(q));
    vdev_publish(&v->vd, QUEUE_TX);
    return more && !v->tx_stalled;
}
