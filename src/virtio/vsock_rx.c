/* virtio-vsock: packets to the guest. Theory of operation in vsock.c. virtio 1.2, 5.10.6. */
#include <errno.h>

#include "virtio/vsock_priv.h"

#define SHARE 64          /* packets in one go; then others have their turn on the loop thread */
#define PACKET_MAX 65536u /* bytes of data in one */

/* ---- whose turn it is ---- */

void pending_add(struct vsock_conn *c)
{
    struct vsock *v = c->v;

    if (c->is_pending)
        return;
    c->is_pending = true;
    c->pending_next = NULL;
    c->pending_prev = v->pending_last;
    if (v->pending_last)
        v->pending_last->pending_next = c;
    else
        v->pending_first = c;
    v->pending_last = c;
}

void pending_remove(struct vsock_conn *c)
{
    struct vsock *v = c->v;

    if (!c->is_pending)
        return;
    c->is_pending = false;
    if (c->pending_prev)
        c->pending_prev->pending_next = c->pending_next;
    else
        v->pending_first = c->pending_next;
    if (c->pending_next)
        c->pending_next->pending_prev = c->pending_prev;
    else
        v->pending_last = c->pending_prev;
}

void reply_add(struct vsock *v, const struct vsock_header *to)
{
    struct vsock_reply *r = &v->replies[(v->reply_first + v->reply_count++) % REPLIES_MAX];

    *r = (struct vsock_reply){
        .host_cid = to->dst_cid, .guest_port = to->src_port, .host_port = to->dst_port, .type = to->type
    };
}

/* ---- one packet; each returns the bytes written to the buffers, 0 if there was nothing to send ---- */

static uint32_t header_put(struct vsock *v, const struct virtq_chain *chain, const struct vsock_header *h)
{
    virtq_segs_write(v->vd.mem, v->vd.segs + chain->out_count, chain->in_count, 0, h, sizeof(*h));
    return (uint32_t)sizeof(*h) + h->len;
}

static uint32_t reply_put(struct vsock *v, const struct virtq_chain *chain)
{
    const struct vsock_reply *r = &v->replies[v->reply_first];
    struct vsock_header h = { .src_cid = r->host_cid,
                              .dst_cid = v->space.guest_cid,
                              .src_port = r->host_port,
                              .dst_port = r->guest_port,
                              .type = r->type,
                              .op = OP_RST };

    v->reply_first = (v->reply_first + 1) % REPLIES_MAX;
    v->reply_count--;
    v->counters.resets++;
    return header_put(v, chain, &h);
}

/* Each packet of a connection tells how much room we have (5.10.6.3). */
static uint32_t packet_put(struct vsock_conn *c, const struct virtq_chain *chain, unsigned op, uint32_t len,
                           uint32_t flags)
{
    struct vsock_header h = { .src_cid = VSOCK_CID_HOST,
                              .dst_cid = c->v->space.guest_cid,
                              .src_port = c->host_port,
                              .dst_port = c->guest_port,
                              .len = len,
                              .type = TYPE_STREAM,
                              .op = (uint16_t)op,
                              .flags = flags,
                              .buf_alloc = c->window,
                              .fwd_cnt = c->forwarded };

    c->told = c->forwarded;
    c->want &= ~(unsigned)WANT_CREDIT_UPDATE;
    return header_put(c->v, chain, &h);
}

static unsigned iov_fill(struct vsock *v, const struct virtq_chain *chain, uint32_t room)
{
    uint32_t off = sizeof(struct vsock_header);
    unsigned count = 0;

    for (unsigned i = 0; i < chain->in_count && room; i++) {
        const struct virtq_seg *s = &v->vd.segs[chain->out_count + i];
        uint32_t n;

        if (off >= s->len) {
            off -= s->len;
            continue;
        }
        n = (uint32_t)min_u64(s->len - off, room);
        v->iov[count++] = (struct iovec){ .iov_base = s->hva + off, .iov_len = n };
        room -= n;
        off = 0;
    }
    return count;
}

/* Tells the engine what was written past the header. */
static void data_written(struct vsock *v, const struct virtq_chain *chain, uint32_t len)
{
    uint32_t off = sizeof(struct vsock_header);

    for (unsigned i = 0; i < chain->in_count && len; i++) {
        const struct virtq_seg *s = &v->vd.segs[chain->out_count + i];
        uint32_t n;

        if (off >= s->len) {
            off -= s->len;
            continue;
        }
        n = (uint32_t)min_u64(s->len - off, len);
        gmem_written(v->vd.mem, s->gpa + off, n);
        len -= n;
        off = 0;
    }
}

static void socket_ended(struct vsock_conn *c)
{
    c->readable = false;
    if (c->host_broke) {
        conn_reset(c);
        return;
    }
    c->host_done = true;
    conn_want(c, WANT_SHUTDOWN);
    if (socket_is_over(c->fd))
        conn_host_deaf(c);
}

/* Straight from the socket to the guest's buffers. */
static uint32_t data_put(struct vsock_conn *c, const struct virtq_chain *chain)
{
    struct vsock *v = c->v;
    uint32_t room =
        (uint32_t)min_u64(min_u64(conn_credit(c), PACKET_MAX), chain->in_len - sizeof(struct vsock_header));
    ssize_t n = socket_receive(c->fd, v->iov, iov_fill(v, chain, room));

    if (n == -EAGAIN) {
        c->readable = false;
        return 0;
    }
    if (n < 0) { /* ECONNRESET: it was closed with bytes unread */
        conn_reset(c);
        return 0;
    }
    if (n == 0) {
        socket_ended(c);
        return 0;
    }
    c->readable = (uint32_t)n == room;
    c->sent += (uint32_t)n;
    v->counters.received_bytes += (uint64_t)n;
    data_written(v, chain, (uint32_t)n);
    if (!conn_credit(c) && !c->credit_asked) {
        c->credit_asked = true;
        conn_want(c, WANT_CREDIT_REQUEST);
    }
    return packet_put(c, chain, OP_RW, (uint32_t)n, 0);
}

static bool has_data(const struct vsock_conn *c)
{
    return c->state == CONN_OPEN && c->readable && !c->host_done && !c->guest_deaf && c->fd >= 0 &&
           conn_credit(c);
}

static bool wants(struct vsock_conn *c, unsigned want)
{
    bool yes = (c->want & want) != 0;

    c->want &= ~want;
    return yes;
}

static uint32_t shutdown_put(struct vsock_conn *c, const struct virtq_chain *chain)
{
    return packet_put(c, chain, OP_SHUTDOWN, 0,
                      (c->host_done ? NO_MORE_SEND : 0u) | (c->host_deaf ? NO_MORE_RECEIVE : 0u));
}

static uint32_t reset_put(struct vsock_conn *c, const struct virtq_chain *chain)
{
    uint32_t len = packet_put(c, chain, OP_RST, 0, 0);

    c->v->counters.resets++;
    conn_kill(c);
    return len;
}

/* The next packet of a connection. */
static uint32_t conn_put(struct vsock_conn *c, const struct virtq_chain *chain)
{
    uint32_t len = 0;

    if (wants(c, WANT_RST))
        return reset_put(c, chain);
    if (wants(c, WANT_REQUEST))
        return packet_put(c, chain, OP_REQUEST, 0, 0);
    if (wants(c, WANT_RESPONSE))
        return packet_put(c, chain, OP_RESPONSE, 0, 0);
    if (has_data(c))
        len = data_put(c, chain);
    if (len || c->state == CONN_RESETS)
        return len;
    if (wants(c, WANT_SHUTDOWN))
        return shutdown_put(c, chain);
    if (wants(c, WANT_CREDIT_UPDATE))
        return packet_put(c, chain, OP_CREDIT_UPDATE, 0, 0);
    if (wants(c, WANT_CREDIT_REQUEST))
        return packet_put(c, chain, OP_CREDIT_REQUEST, 0, 0);
    return 0;
}

static uint32_t anything_put(struct vsock *v, const struct virtq_chain *chain)
{
    struct vsock_conn *c = v->pending_first;
    uint32_t len;

    if (v->reply_count)
        return reply_put(v, chain);
    pending_remove(c);
    len = conn_put(c, chain);
    if (c->state == CONN_DEAD)
        return len;
    if (c->want)
        pending_add(c);
    conn_settle(c);
    return len;
}

/* ---- the queue ---- */

static bool has_something(const struct vsock *v)
{
    return v->reply_count || v->pending_first;
}

/* True: a chain is held. */
static bool chain_take(struct vsock *v, struct virtq_chain *chain)
{
    struct virtq *q = &v->vd.queues[QUEUE_RX];

    while (!vdev_take(&v->vd, QUEUE_RX, chain)) {
        vdev_publish(&v->vd, QUEUE_RX); /* the guest must see those that it has, to give new ones */
        if (!vdev_running(&v->vd) || !virtq_kicks_on(q)) {
            v->rx_starved = true;
            return false;
        }
        virtq_kicks_off(q);
    }
    if (chain->in_len > sizeof(struct vsock_header))
        return true;
    vdev_broken(&v->vd, "queue %u: receive buffer without room for data", QUEUE_RX);
    vdev_drop(&v->vd, QUEUE_RX, chain->head);
    return false;
}

void vsock_send(struct vsock *v)
{
    struct virtq_chain chain;
    unsigned left = SHARE;

    if (!vdev_running(&v->vd) || !v->vd.queues[QUEUE_RX].enabled)
        return;
    v->rx_starved = false;
    while (has_something(v) && left-- && chain_take(v, &chain)) {
        uint32_t len = anything_put(v, &chain);

        if (len)
            vdev_stage(&v->vd, QUEUE_RX, chain.head, len);
        else
            vdev_untake(&v->vd, QUEUE_RX, chain.head);
    }
    vdev_publish(&v->vd, QUEUE_RX);
    if (has_something(v) && !v->rx_starved)
        vsock_post(v);
}
