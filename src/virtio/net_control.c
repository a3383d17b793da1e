/* virtio-net: the control queue and the receive filter. virtio 1.2, 5.1.6.5.
 *
 * A command is a class, a code and data in the readable part of a chain, and one byte of answer in the
 * writable part. What is not understood, of the wrong length, or not agreed on is answered with ERR and
 * changes nothing. */
#include <string.h>

#include "virtio/net_priv.h"

enum { CLASS_RX = 0, CLASS_MAC = 1, CLASS_ANNOUNCE = 3, CLASS_MQ = 4, CLASS_OFFLOADS = 5 };
enum { RX_PROMISC, RX_ALLMULTI, RX_ALLUNI, RX_NOMULTI, RX_NOUNI, RX_NOBCAST };
enum { MAC_TABLE_SET = 0, MAC_ADDR_SET = 1 };
enum { ANSWER_OK = 0, ANSWER_ERR = 1 };
enum { HEADER_LEN = 2, TABLE_LEN = 4 };

struct control {
    const struct virtq_seg *segs;
    unsigned seg_count;
    uint64_t len; /* of the data */
    uint8_t class, code;
};

/* Copies data from `off` on; the caller knows that it is there. */
static void data_read(const struct control *c, uint64_t off, void *to, size_t len)
{
    virtq_segs_read(c->segs, c->seg_count, HEADER_LEN + off, to, len);
}

/* Before the driver has said anything the device hears everything, as hardware without a filter does. */
void net_control_reset(struct vnet *n)
{
    memset(&n->filter, 0, sizeof(n->filter));
    n->filter.promiscuous = true;
    memcpy(n->space.mac, n->mac, sizeof(n->space.mac));
    n->pairs_active = 1;
}

static bool rx_set(struct vnet *n, const struct control *c)
{
    struct net_filter *f = &n->filter;
    bool *const modes[] = { &f->promiscuous,  &f->all_multicast, &f->all_unicast,
                            &f->no_multicast, &f->no_unicast,    &f->no_broadcast };
    uint8_t on;

    if (c->len != 1 || c->code >= array_size(modes) ||
        !vdev_has(&n->vd, c->code <= RX_ALLMULTI ? F_CTRL_RX : F_CTRL_RX_EXTRA))
        return false;
    data_read(c, 0, &on, 1);
    *modes[c->code] = on & 1;
    return true;
}

/* One table: a count and so many addresses. Moves *off past it. */
static bool table_read(const struct control *c, uint64_t *off, uint8_t (*table)[6], unsigned *count,
                       bool *all)
{
    uint32_t n;

    if (c->len < *off + TABLE_LEN)
        return false;
    data_read(c, *off, &n, sizeof(n));
    *off += TABLE_LEN;
    if (n > (c->len - *off) / 6)
        return false;
    *all = n > FILTER_MAX;
    *count = *all ? 0 : n;
    data_read(c, *off, table, (size_t)*count * 6);
    *off += (uint64_t)n * 6;
    return true;
}

static bool mac_set(struct vnet *n, const struct control *c)
{
    struct net_filter f = n->filter;
    bool many_unicast, many_multicast;
    uint64_t off = 0;

    if (c->code == MAC_ADDR_SET) {
        if (c->len != sizeof(n->space.mac) || !vdev_has(&n->vd, F_CTRL_MAC_ADDR))
            return false;
        data_read(c, 0, n->space.mac, sizeof(n->space.mac));
        return true;
    }
    if (c->code != MAC_TABLE_SET || !vdev_has(&n->vd, F_CTRL_RX))
        return false;
    if (!table_read(c, &off, f.unicast, &f.unicast_count, &many_unicast) ||
        !table_read(c, &off, f.multicast, &f.multicast_count, &many_multicast) || off != c->len)
        return false;
    f.many_unicast = many_unicast;
    f.many_multicast = many_multicast;
    n->filter = f;
    return true;
}

static bool pairs_set(struct vnet *n, const struct control *c)
{
    uint16_t pairs;

    if (c->code != 0 || c->len != sizeof(pairs) || !vdev_has(&n->vd, F_MQ))
        return false;
    data_read(c, 0, &pairs, sizeof(pairs));
    if (pairs == 0 || pairs > n->pairs)
        return false;
    for (unsigned i = 0; i < n->pairs_active; i++)
        vdev_publish(&n->vd, queue_rx(i));
    n->pairs_active = pairs;
    return true;
}

static bool offloads_set(struct vnet *n, const struct control *c)
{
    uint64_t on;

    if (c->code != 0 || c->len != sizeof(on) || !vdev_has(&n->vd, F_CTRL_GUEST_OFFLOADS))
        return false;
    data_read(c, 0, &on, sizeof(on));
    if (on & ~(n->vd.accepted & GUEST_OFFLOADS))
        return false;
    n->guest_offloads = net_offloads_usable(on);
    return true;
}

static bool announced(struct vnet *n, const struct control *c)
{
    if (c->code != 0 || !vdev_has(&n->vd, F_GUEST_ANNOUNCE))
        return false;
    n->space.status &= (uint16_t)~ANNOUNCE;
    return true;
}

static bool command(struct vnet *n, const struct control *c)
{
    switch (c->class) {
    case CLASS_RX: return rx_set(n, c);
    case CLASS_MAC: return mac_set(n, c);
    case CLASS_ANNOUNCE: return announced(n, c);
    case CLASS_MQ: return pairs_set(n, c);
    case CLASS_OFFLOADS: return offloads_set(n, c);
    default: return false;
    }
}

static bool handle(struct vdev *vd, unsigned queue, const struct virtq_chain *chain)
{
    struct control c = { .segs = vd->segs, .seg_count = chain->out_count };
    uint8_t header[HEADER_LEN], answer;

    if (chain->out_len < sizeof(header) || chain->in_len < 1) {
        vdev_broken(vd, "queue %u: command without a header or without room for the answer", queue);
        vdev_drop(vd, queue, chain->head);
        return false;
    }
    virtq_segs_read(vd->segs, chain->out_count, 0, header, sizeof(header));
    c.class = header[0];
    c.code = header[1];
    c.len = chain->out_len - sizeof(header);
    answer = command(vnet_of(vd), &c) ? ANSWER_OK : ANSWER_ERR;
    virtq_segs_write(vd->mem, vd->segs + chain->out_count, chain->in_count, 0, &answer, 1);
    vdev_complete(vd, queue, chain->head, 1);
    return true;
}

bool net_control(struct vnet *n, unsigned queue)
{
    return vdev_drain(&n->vd, queue, handle);
}

/* ---- the filter ---- */

static bool in_table(const uint8_t *table, unsigned count, const uint8_t *mac)
{
    for (unsigned i = 0; i < count; i++)
        if (!memcmp(table + 6 * i, mac, 6))
            return true;
    return false;
}

bool net_wanted(const struct vnet *n, const uint8_t *frame)
{
    static const uint8_t broadcast[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
    const struct net_filter *f = &n->filter;

    if (f->promiscuous)
        return true;
    if (!memcmp(frame, broadcast, 6))
        return !f->no_broadcast;
    if (frame[0] & 1)
        return !f->no_multicast && (f->all_multicast || f->many_multicast ||
                                    in_table(f->multicast[0], f->multicast_count, frame));
    return !f->no_unicast && (f->all_unicast || f->many_unicast || !memcmp(frame, n->space.mac, 6) ||
                              in_table(f->unicast[0], f->unicast_count, frame));
}
