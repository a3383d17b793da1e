/* virtio-net (virtio 1.2, section 5.1). Theory of operation in net.c. */
#ifndef VIRTIO_NET_H
#define VIRTIO_NET_H

#include "net/net.h"
#include "virtio/vdev.h"

#define VNET_PAIRS_MAX 8

struct vnet;

struct vnet_config {
    uint8_t mac[6];       /* unicast, not zero */
    uint16_t mtu;         /* NET_MTU_MIN to NET_MTU_MAX; told to the guest unless it is NET_MTU_DEFAULT */
    unsigned queue_pairs; /* 1 to VNET_PAIRS_MAX; 0 means 1 */
    /* The attachment is gone; the guest sees the link go down. Loop thread, no lock held. Optional. */
    void (*lost)(void *ctx, const struct yado_error *why);
    void *ctx;
    const char *label;     /* for messages; may be NULL */
    const struct log *log; /* may be NULL */
    struct loop *loop;     /* required */
};

struct vnet *vnet_new(const struct vnet_config *cfg, struct yado_error *err);
/* vCPUs and the loop are stopped. Frees the attachment too. NULL is fine. */
void vnet_free(struct vnet *n);
struct vdev *vnet_vdev(struct vnet *n);

/* Plugs an attachment in, in place of an earlier one, which is freed; takes `backend` over, also on failure.
 * NULL unplugs: the link is down. Before the loop runs, or on the loop thread. */
bool vnet_attach(struct vnet *n, struct net_backend *backend, struct yado_error *err);
struct net_backend *vnet_attachment(struct vnet *n); /* NULL: unplugged. Loop thread */

struct vnet_counters {
    uint64_t sent, received; /* frames between guest and attachment */
    uint64_t sent_bytes, received_bytes;
    uint64_t bad, filtered, unfit,
        waited; /* sent but malformed; not for this guest; too long for its buffers; no buffers */
};

struct vnet_counters vnet_counters_get(struct vnet *n); /* any thread */

#endif
