/* virtio-vsock. virtio 1.2, section 5.10.
 *
 * Theory of operation
 *
 * A connection is a pair of ports and a stream socket of the host. Programs in the guest connect to ports of
 * the host: the owner is asked (vsock_config.asked) and gives a connected socket, now or later. Programs of
 * the host connect to ports of the guest by vsock_connect with a socket. From then on bytes move between the
 * socket and the queues, and nothing here knows what is at the socket's other end.
 *
 * Threads. All of it happens on the machine's loop thread: sockets are watched there, and a kick on a vCPU
 * thread only switches kicks off and leaves the queue to the loop thread. Answers, connects and a reset come
 * from other threads; they change a connection's state under the lock and post vsock_work. A socket is
 * closed, and its watch removed, on the loop thread alone (a removal elsewhere would wait for a callback that
 * waits for our lock), so a reset only marks connections dead; conns_bury frees them.
 *
 * Guest to host. Bytes are written from guest memory straight to the socket. What it does not take is kept in
 * the connection's buffer until it is writable. The guest may send no more than the window that it was told
 * (5.10.6.3), so that buffer is bounded; one that sends more loses the connection. The guest hears of new
 * room when half a window was written out.
 *
 * Host to guest. A socket is watched while the guest has told of room and nothing is known to be readable.
 * Connections with something to send, a packet of their own (`want`) or bytes, stand in one line and send one
 * packet in turn, bytes straight from the socket to the guest's buffers. No buffers: everything waits where
 * it is, and the next kick goes on. No room in the guest's program: only that connection waits. So the host
 * keeps no bytes for the guest.
 *
 * Ends. The end of the socket becomes SHUTDOWN (no more will be sent), and its closing SHUTDOWN of both
 * directions; the guest's SHUTDOWN of sending becomes one of the socket once the buffer is written out. When
 * the guest has shut both directions it gets its RST at once, and the connection lingers, without ports,
 * until the host's program has taken what the guest sent. What breaks (an error of the socket, a rule that
 * the guest broke) ends by RST; it waits in the connection until there is a buffer. Answers to packets of no
 * connection wait in a short ring, and while that is full the guest's packets are left in their queue
 * (5.10.6.1).
 *
 * Limits are in vsock.h. A flood of requests meets the number of connections, and REFUSED.
 *
 * Locks: vd.lock guards everything; the loop's lock and what `asked` and `connected` take are taken inside.
 */
#include "virtio/vsock.h"

#include <stdlib.h>
#include <unistd.h>

#include "virtio/vsock_priv.h"

#define QUEUE_SIZE 256
#define PORTS_FIRST                                                                                          \
    0x40000000u /* of the host's ends of our own connections: far from ports that people choose */
#define PORTS_LAST 0x7fffffffu

/* ---- work ---- */

static void on_posted(void *ctx)
{
    struct vsock *v = ctx;

    vdev_lock(&v->vd);
    v->work_posted = false;
    vsock_work(v);
    vdev_unlock(&v->vd);
}

void vsock_post(struct vsock *v)
{
    if (!v->work_posted)
        v->work_posted = loop_post(v->cfg.loop, on_posted, v);
}

void vsock_work(struct vsock *v)
{
    if (v->pending_first || v->reply_count)
        vsock_send(v);
    conns_bury(v);
    if (v->tx_stalled && reply_room(v))
        vdev_kick_locked(&v->vd, QUEUE_TX);
}

/* ---- the core's callbacks ---- */

static void device_activate(struct vdev *vd)
{
    virtq_kicks_off(&vd->queues[QUEUE_RX]);
}

/* 5.10.6.7; kept until the driver gives a buffer. */
static void event_send(struct vsock *v)
{
    struct vdev *vd = &v->vd;
    uint32_t id = EVENT_TRANSPORT_RESET;
    struct virtq_chain chain;

    while (v->event_pending && vdev_running(vd) && vd->queues[QUEUE_EVENT].enabled) {
        if (!vdev_take(vd, QUEUE_EVENT, &chain)) {
            if (virtq_kicks_on(&vd->queues[QUEUE_EVENT]))
                continue;
            return;
        }
        if (chain.in_len < sizeof(id)) {
            vdev_broken(vd, "queue %u: event buffer of %llu bytes", QUEUE_EVENT,
                        (unsigned long long)chain.in_len);
            vdev_drop(vd, QUEUE_EVENT, chain.head);
            return;
        }
        virtq_segs_write(vd->mem, vd->segs + chain.out_count, chain.in_count, 0, &id, sizeof(id));
        v->event_pending = false;
        vdev_complete(vd, QUEUE_EVENT, chain.head, sizeof(id));
    }
}

static bool device_process(struct vdev *vd, unsigned queue)
{
    struct vsock *v = vsock_of(vd);
    bool more = false;

    if (queue == QUEUE_EVENT) {
        event_send(v);
        return false;
    }
    if (!loop_on_thread(v->cfg.loop)) {
        if (queue == QUEUE_RX && !v->rx_starved)
            return false;
        virtq_kicks_off(&vd->queues[queue]);
        return true; /* the core goes on there */
    }
    if (queue == QUEUE_TX)
        more = vsock_take_packets(v);
    vsock_send(v);
    conns_bury(v);
    if (queue == QUEUE_RX && v->tx_stalled && reply_room(v))
        vdev_kick_locked(vd, QUEUE_TX);
    return more || (queue == QUEUE_TX && v->tx_stalled && reply_room(v));
}

static void conns_end(struct vsock *v, const char *why)
{
    for (unsigned i = 0; i < VSOCK_CONNECTIONS_MAX; i++) {
        struct vsock_conn *c = v->slots[i];

        if (!c || c->state == CONN_DEAD)
            continue;
        conn_answered(c, YADO_ERR_STATE, why);
        conn_kill(c);
    }
    v->reply_first = v->reply_count = 0;
    v->tx_stalled = v->rx_starved = false;
    vsock_post(v);
}

static void device_reset(struct vdev *vd)
{
    struct vsock *v = vsock_of(vd);

    v->event_pending = false;
    conns_end(v, "the guest's driver was reset");
}

static const struct vdev_ops vsock_ops = {
    .name = "virtio-vsock",
    .id = VIRTIO_ID_VSOCK,
    .activate = device_activate,
    .process = device_process,
    .reset = device_reset,
};

/* ---- the owner's side ---- */

bool vsock_answer(struct vsock *v, uint64_t id, int fd)
{
    struct vsock_conn *c;
    bool waits;

    vdev_lock(&v->vd);
    c = conn_by_id(v, id);
    waits = c && c->state == CONN_GUEST_ASKS;
    if (waits && fd >= 0) {
        conn_open(c, fd);
        c->state = CONN_OPEN;
        v->counters.opened++;
        conn_want(c, WANT_RESPONSE);
        conn_settle(c);
    } else if (waits) {
        v->counters.refused++;
        conn_reset(c);
    }
    vsock_post(v);
    vdev_unlock(&v->vd);
    if (!waits && fd >= 0)
        close(fd);
    return waits;
}

bool vsock_waits(struct vsock *v, uint64_t id)
{
    struct vsock_conn *c;
    bool waits;

    vdev_lock(&v->vd);
    c = conn_by_id(v, id);
    waits = c && c->state == CONN_GUEST_ASKS;
    vdev_unlock(&v->vd);
    return waits;
}

static uint32_t port_choose(struct vsock *v, uint32_t guest_port)
{
    do {
        if (v->next_port++ == PORTS_LAST)
            v->next_port = PORTS_FIRST;
    } while (conn_find(v, guest_port, v->next_port));
    return v->next_port;
}

static uint64_t timeout_at(const struct vsock *v)
{
    return clock_now(&v->cfg.clock) + VSOCK_CONNECT_TIMEOUT_MS * 1000000ull;
}

/* Lock held. False: fd is still the caller's. */
static bool connect_begin(struct vsock *v, uint32_t guest_port, int fd, uint64_t tag, struct yado_error *err)
{
    struct vsock_conn *c;

    if (!vdev_running(&v->vd))
        return err_set(err, YADO_ERR_STATE,
                       "port %u of the guest: the guest runs no driver for the socket device (yet)",
                       guest_port);
    if (!v->free_count)
        return err_set(err, YADO_ERR_IN_USE, "port %u of the guest: all %u connections are in use",
                       guest_port, VSOCK_CONNECTIONS_MAX);
    c = conn_new(v, guest_port, port_choose(v, guest_port), CONN_HOST_ASKS);
    if (!c)
        return err_set(err, YADO_ERR_MEMORY, "out of memory");
    c->tag = tag;
    c->deadline_ns = timeout_at(v);
    conn_open(c, fd);
    conn_want(c, WANT_REQUEST);
    if (!v->timer_armed)
        loop_timer_arm(v->timer, c->deadline_ns);
    v->timer_armed = true;
    vsock_post(v);
    return true;
}

bool vsock_connect(struct vsock *v, uint32_t guest_port, int fd, uint64_t tag, struct yado_error *err)
{
    bool ok;

    vdev_lock(&v->vd);
    ok = connect_begin(v, guest_port, fd, tag, err);
    vdev_unlock(&v->vd);
    if (!ok)
        close(fd);
    return ok;
}

/* Connections that the guest did not answer. */
static void on_timer(void *ctx)
{
    struct vsock *v = ctx;
    uint64_t now = clock_now(&v->cfg.clock), next = UINT64_MAX;

    vdev_lock(&v->vd);
    for (unsigned i = 0; i < VSOCK_CONNECTIONS_MAX; i++) {
        struct vsock_conn *c = v->slots[i];

        if (!c || c->state != CONN_HOST_ASKS)
            continue;
        if (c->deadline_ns > now) {
            next = min_u64(next, c->deadline_ns);
            continue;
        }
        conn_answered(c, YADO_ERR_TIMEOUT, "the guest did not answer");
        conn_reset(c);
    }
    v->timer_armed = next != UINT64_MAX;
    if (v->timer_armed)
        loop_timer_arm(v->timer, next);
    vsock_work(v);
    vdev_unlock(&v->vd);
}

void vsock_transport_reset(struct vsock *v)
{
    vdev_lock(&v->vd);
    if (vdev_running(&v->vd)) {
        conns_end(v, "the guest's transport was reset");
        v->event_pending = true;
        event_send(v);
    }
    vdev_unlock(&v->vd);
}

struct vsock_counters vsock_counters_get(struct vsock *v)
{
    struct vsock_counters c;

    vdev_lock(&v->vd);
    c = v->counters;
    vdev_unlock(&v->vd);
    return c;
}

/* ---- life ---- */

struct vsock *vsock_new(const struct vsock_config *cfg, struct yado_error *err)
{
    struct vdev_params p = {
        .features = F_STREAM,
        .queue_count = QUEUE_COUNT,
        .queue_size = QUEUE_SIZE,
        .config_len = sizeof(((struct vsock *)NULL)->space),
        .log = cfg->log,
        .loop = cfg->loop,
    };
    struct vsock *v = calloc(1, sizeof(*v));

    BUG_ON(!cfg->loop || cfg->guest_cid < VSOCK_CID_GUEST);
    if (v)
        v->timer = loop_timer_new(cfg->loop, on_timer, v);
    if (!v || !v->timer) {
        free(v);
        err_set(err, YADO_ERR_MEMORY, "virtio-vsock: no memory for the device");
        return NULL;
    }
    v->cfg = *cfg;
    v->space.guest_cid = cfg->guest_cid;
    v->next_port = PORTS_FIRST;
    while (v->free_count < VSOCK_CONNECTIONS_MAX) {
        v->free_slots[v->free_count] = (uint16_t)(VSOCK_CONNECTIONS_MAX - 1 - v->free_count);
        v->free_count++;
    }
    p.config = &v->space;
    if (!vdev_init(&v->vd, &vsock_ops, &p, err)) {
        vsock_free(v);
        return NULL;
    }
    return v;
}

void vsock_free(struct vsock *v)
{
    if (!v)
        return;
    vdev_destroy(&v->vd);
    conns_bury(v);
    loop_timer_free(v->timer);
    free(v);
}

struct vdev *vsock_vdev(struct vsock *v)
{
    return &v->vd;
}
