/* virtio-net. virtio 1.2, section 5.1.
 *
 * Theory of operation
 *
 * The device is what the guest sees; where frames go is an attachment (net/net.h), which lives on the
 * machine's loop thread. So does the work here: a kick of a transmit queue on a vCPU thread switches kicks
 * off and leaves the queue to the loop thread (net_transmit), so that the guest goes on while its frames are
 * sent. While it has work the loop thread asks for no kicks; a guest that sends much hardly leaves to tell
 * us.
 *
 * Out. Each chain is a header and a frame; both are copied out of guest memory once, checked
 * (net_offload_valid) and given to net_send. Used elements are published in batches. When the attachment
 * refuses a frame its chain is put back, the pair is marked in tx_stalled, and net_writable goes on.
 *
 * In. The attachment calls net_deliver with a frame and net_flush after a number of them. A frame longer than
 * a receive buffer takes several (MRG_RXBUF); they become visible at once, at the flush. If there are not
 * enough, none is taken, the attachment keeps the frame, kicks are asked for beyond those that are there, and
 * the first kick lets it resume. Receive queues have kicks off otherwise.
 *
 * Offloads. All that net/ can do in software is offered whatever the attachment, so that it can be changed
 * under a running guest, and because cutting and summing here is faster than in a translated guest. What a
 * guest did not agree to take is finished before it gets it.
 *
 * Several pairs of queues: a frame comes in by the pair that its flow last went out by.
 *
 * Locks: vd.lock guards everything. The attachment is called with it held for send and sent, and without it
 * for resume and its end; it calls in without any. `backend` changes on the loop thread alone, with the lock
 * held, so the loop thread reads it without. */
#include <stdlib.h>
#include <string.h>

#include "virtio/net_priv.h"

#define QUEUE_SIZE 512

/* ---- the core's callbacks ---- */

static void device_activate(struct vdev *vd)
{
    struct vnet *n = vnet_of(vd);

    n->guest_offloads = net_offloads_usable(vd->accepted & GUEST_OFFLOADS);
    for (unsigned i = 0; i < n->pairs; i++)
        virtq_kicks_off(&vd->queues[queue_rx(i)]);
}

static bool device_process(struct vdev *vd, unsigned queue)
{
    struct vnet *n = vnet_of(vd);

    if (queue == queue_control(n) && vdev_has(vd, F_CTRL_VQ))
        return net_control(n, queue);
    if (queue / 2 >= n->pairs)
        return false;
    if (queue % 2)
        return net_transmit(n, queue / 2);
    net_receive_kicked(n, queue / 2);
    return false;
}

static void device_reset(struct vdev *vd)
{
    struct vnet *n = vnet_of(vd);

    net_io_reset(n);
    net_control_reset(n);
    n->guest_offloads = 0;
    n->space.status &= (uint16_t)~ANNOUNCE;
}

static const struct vdev_ops net_ops = {
    .name = "virtio-net",
    .id = VIRTIO_ID_NET,
    .activate = device_activate,
    .process = device_process,
    .reset = device_reset,
};

/* ---- the attachment ---- */

static void status_set(struct vnet *n, uint16_t status)
{
    if (n->space.status == status)
        return;
    n->space.status = status;
    vdev_config_changed(&n->vd);
}

static void backend_lost(void *ctx, const struct yado_error *why)
{
    struct vnet *n = ctx;

    vdev_lock(&n->vd);
    n->unplugged_by_loss = true;
    status_set(n, 0);
    vdev_unlock(&n->vd);
    log_line(n->vd.log, LOG_VIRTIO, "%s: attachment lost: %s", n->vd.name, why->message);
    net_writable(n); /* what waits is dropped */
    if (n->lost)
        n->lost(n->ctx, why);
}

bool vnet_attach(struct vnet *n, struct net_backend *backend, struct yado_error *err)
{
    bool ok = true;
    struct net_port port = {
        .deliver = net_deliver, .flush = net_flush, .writable = net_writable, .lost = backend_lost, .ctx = n
    };
    struct net_backend *old = n->backend;

    vdev_lock(&n->vd);
    n->backend = NULL;
    vdev_unlock(&n->vd);
    if (old)
        net_retire(old);
    if (backend && !net_start(backend, &port, err)) {
        net_free(backend);
        backend = NULL;
        ok = false;
    }
    vdev_lock(&n->vd);
    n->backend = backend;
    n->unplugged_by_loss = false;
    n->rx_starved = 0;
    /* The guest tells the new network where it is (5.1.6.5.4). At the start there is nobody to be told. */
    status_set(n, !backend ? 0 : vdev_has(&n->vd, F_GUEST_ANNOUNCE) ? LINK_UP | ANNOUNCE : LINK_UP);
    vdev_unlock(&n->vd);
    net_writable(n);
    return ok;
}

struct net_backend *vnet_attachment(struct vnet *n)
{
    return n->backend;
}

/* ---- life ---- */

struct vnet *vnet_new(const struct vnet_config *cfg, struct yado_error *err)
{
    unsigned pairs = cfg->queue_pairs ? cfg->queue_pairs : 1;
    struct vdev_params p = {
        .label = cfg->label,
        .features = F_CSUM | GUEST_OFFLOADS | F_CTRL_GUEST_OFFLOADS | F_MAC | F_HOST_TSO4 | F_HOST_TSO6 |
                    F_HOST_ECN | F_HOST_USO | F_MRG_RXBUF | F_STATUS | F_CTRL_VQ | F_CTRL_RX |
                    F_CTRL_RX_EXTRA | F_GUEST_ANNOUNCE | F_CTRL_MAC_ADDR | (pairs > 1 ? F_MQ : 0) |
                    (cfg->mtu != NET_MTU_DEFAULT ? F_MTU : 0),
        .queue_count = 2 * pairs + 1,
        .queue_size = QUEUE_SIZE,
        /* Control, which is queue 2 for a driver without MQ (5.1.2): Linux waits for it in a loop. */
        .polled = 1ull << 2 | 1ull << 2 * pairs,
        .config_len = sizeof(struct net_space),
        .log = cfg->log,
        .loop = cfg->loop,
    };
    struct vnet *n;

    BUG_ON(pairs > VNET_PAIRS_MAX || !cfg->loop);
    n = calloc(1, sizeof(*n));
    if (!n) {
        err_set(err, YADO_ERR_MEMORY, "virtio-net: no memory for the device");
        return NULL;
    }
    n->loop = cfg->loop;
    n->lost = cfg->lost;
    n->ctx = cfg->ctx;
    n->pairs = pairs;
    memcpy(n->mac, cfg->mac, sizeof(n->mac));
    n->space.max_pairs = (uint16_t)pairs;
    n->space.mtu = cfg->mtu;
    net_control_reset(n);
    p.config = (uint8_t *)&n->space;
    if (!vdev_init(&n->vd, &net_ops, &p, err)) {
        vnet_free(n);
        return NULL;
    }
    return n;
}

void vnet_free(struct vnet *n)
{
    if (!n)
        return;
    net_free(n->backend);
    n->backend = NULL;
    vdev_destroy(&n->vd);
    free(n);
}

struct vdev *vnet_vdev(struct vnet *n)
{
    return &n->vd;
}

struct vnet_counters vnet_counters_get(struct vnet *n)
{
    struct vnet_counters c;

    vdev_lock(&n->vd);
    c = n->counters;
    vdev_unlock(&n->vd);
    return c;
}
