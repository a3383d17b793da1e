/* virtio-net: what its three files share. All fields are guarded by vd.lock. */
#ifndef VIRTIO_NET_PRIV_H
#define VIRTIO_NET_PRIV_H

#include "virtio/net.h"

/* 5.1.3; the bits of 54 and 55 (receiving USO) belong to a later version and are not offered. */
#define F_CSUM (1ull << 0)
#define F_GUEST_CSUM (1ull << 1)
#define F_CTRL_GUEST_OFFLOADS (1ull << 2)
#define F_MTU (1ull << 3)
#define F_MAC (1ull << 5)
#define F_GUEST_TSO4 (1ull << 7)
#define F_GUEST_TSO6 (1ull << 8)
#define F_GUEST_ECN (1ull << 9)
#define F_HOST_TSO4 (1ull << 11)
#define F_HOST_TSO6 (1ull << 12)
#define F_HOST_ECN (1ull << 13)
#define F_MRG_RXBUF (1ull << 15)
#define F_STATUS (1ull << 16)
#define F_CTRL_VQ (1ull << 17)
#define F_CTRL_RX (1ull << 18)
#define F_CTRL_RX_EXTRA (1ull << 20)
#define F_GUEST_ANNOUNCE (1ull << 21)
#define F_MQ (1ull << 22)
#define F_CTRL_MAC_ADDR (1ull << 23)
#define F_HOST_USO (1ull << 56)

#define GUEST_OFFLOADS (F_GUEST_CSUM | F_GUEST_TSO4 | F_GUEST_TSO6 | F_GUEST_ECN)

enum { LINK_UP = 1, ANNOUNCE = 2 }; /* 5.1.4, status */

/* 5.1.4 */
struct net_space {
    uint8_t mac[6];
    uint16_t status;
    uint16_t max_pairs;
    uint16_t mtu;
} __attribute__((packed));
_Static_assert(sizeof(struct net_space) == 12, "virtio 1.2, 5.1.4");

/* 5.1.6, as it is with VERSION_1 */
struct net_header {
    struct net_offload off;
    uint16_t num_buffers;
};
_Static_assert(sizeof(struct net_header) == 12, "virtio 1.2, 5.1.6");

#define FILTER_MAX 64 /* addresses of each kind; with more the guest hears all of that kind */
#define STEER_SLOTS 256

/* 5.1.6.5.1 and .2 */
struct net_filter {
    bool promiscuous, all_multicast, all_unicast, no_multicast, no_unicast, no_broadcast;
    bool many_unicast, many_multicast; /* more than FILTER_MAX */
    unsigned unicast_count, multicast_count;
    uint8_t unicast[FILTER_MAX][6], multicast[FILTER_MAX][6];
};

struct vnet {
    struct vdev vd;
    struct loop *loop;
    void (*lost)(void *ctx, const struct yado_error *why);
    void *ctx;
    struct net_backend *backend;
    bool unplugged_by_loss; /* the back end is still there and does nothing */
    uint8_t mac[6];         /* the configured one; space.mac may be the guest's */
    struct net_space space;
    unsigned pairs;          /* that exist */
    unsigned pairs_active;   /* that the guest uses */
    uint64_t guest_offloads; /* of GUEST_OFFLOADS, in force now */
    struct net_filter filter;

    uint32_t tx_stalled; /* bit per pair: the attachment refused */
    uint32_t rx_starved; /* bit per pair: a frame was refused for lack of buffers */
    bool resume_posted;
    uint8_t steer[STEER_SLOTS]; /* pair by flow, 5.1.6.5.6.1 */
    struct vnet_counters counters;

    struct virtq_seg rx_segs[VIRTQ_CHAIN_MAX];
    struct {
        uint16_t head;
        uint32_t len;
    } rx_chains[VIRTQ_CHAIN_MAX];
    uint8_t frame[NET_FRAME_MAX];   /* the frame that is being sent. Used on the loop thread alone */
    uint8_t segment[NET_FRAME_MAX]; /* a piece of one that is being received */
};

static inline struct vnet *vnet_of(struct vdev *vd)
{
    return container_of(vd, struct vnet, vd);
}

/* The queues: receive and transmit of each pair, then control (5.1.2); without MQ the control queue is the
 * third. */
static inline unsigned queue_rx(unsigned pair)
{
    return 2 * pair;
}
static inline unsigned queue_tx(unsigned pair)
{
    return 2 * pair + 1;
}
static inline unsigned queue_control(const struct vnet *n)
{
    return vdev_has(&n->vd, F_MQ) ? 2 * n->pairs : 2;
}

bool net_transmit(struct vnet *n, unsigned pair);       /* `process` of a transmit queue */
void net_receive_kicked(struct vnet *n, unsigned pair); /* `process` of a receive queue */
bool net_deliver(void *ctx, struct net_frame *f);       /* of struct net_port */
void net_flush(void *ctx);
void net_writable(void *ctx);

/* What of these a guest can be given: the others need a checksum left undone (5.1.3.1). */
static inline uint64_t net_offloads_usable(uint64_t on)
{
    return on & F_GUEST_CSUM ? on : 0;
}

void net_io_reset(struct vnet *n);

void net_control_reset(struct vnet *n);
bool net_control(struct vnet *n, unsigned queue); /* `process` of the control queue */
bool net_wanted(const struct vnet *n, const uint8_t *frame);

#endif
