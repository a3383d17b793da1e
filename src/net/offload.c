/* Checksums and segmentation in software.
 *
 * Theory of operation. A frame's offload state (net.h) can leave two things undone: the TCP or UDP checksum
 * (NEEDS_CSUM: sum from csum_start to the end and store at csum_offset; the field holds the pseudo header's
 * sum already), and the cutting of a long packet into ones of gso_size bytes of payload. The state comes from
 * the guest and is not trusted: net_offload_valid checks that the checksum lies in the frame and that a GSO
 * type agrees with the headers that are really there. hdr_len is not looked at.
 *
 * Cutting copies the headers before each piece and sets what differs: lengths, the IPv4 identification
 * (counted up, as hardware does) and header checksum, the TCP sequence number; FIN and PSH go with the last
 * piece, CWR with the first (RFC 3168, 6.1.2). */
#include "net/offload.h"

#include <string.h>

enum { ETH_IPV4 = 0x0800, ETH_IPV6 = 0x86dd, ETH_VLAN = 0x8100 };
enum { IP_TCP = 6, IP_UDP = 17 };
enum { TCP_FIN = 1, TCP_PSH = 8, TCP_CWR = 0x80 };
enum { TCP_SEQ = 4, TCP_OFF = 12, TCP_FLAGS = 13, TCP_CSUM = 16, TCP_LEN = 20 };
enum { UDP_LENGTH = 4, UDP_CSUM = 6, UDP_LEN = 8 };
enum { IP4_TOTAL = 2, IP4_ID = 4, IP4_FRAG = 6, IP4_PROTO = 9, IP4_CSUM = 10, IP4_LEN = 20 };
enum { IP6_PAYLOAD = 4, IP6_NEXT = 6, IP6_LEN = 40 };

static uint16_t get16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

static void put16(uint8_t *p, uint64_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static uint32_t get32(const uint8_t *p)
{
    return (uint32_t)get16(p) << 16 | get16(p + 2);
}

static void put32(uint8_t *p, uint32_t v)
{
    put16(p, v >> 16);
    put16(p + 2, v);
}

/* ---- headers ---- */

static bool ip4_find(const uint8_t *ip, size_t len, struct net_layers *l, uint8_t *proto)
{
    size_t header, total;

    if (len < IP4_LEN || ip[0] >> 4 != 4)
        return false;
    header = (size_t)(ip[0] & 15) * 4;
    total = get16(ip + IP4_TOTAL);
    if (header < IP4_LEN || total < header || total > len || (get16(ip + IP4_FRAG) & 0x3fff))
        return false;
    l->l4 = l->l3 + (unsigned)header;
    l->end = l->l3 + total;
    *proto = ip[IP4_PROTO];
    return true;
}

static bool ip6_find(const uint8_t *ip, size_t len, struct net_layers *l, uint8_t *proto)
{
    if (len < IP6_LEN || ip[0] >> 4 != 6 || (size_t)IP6_LEN + get16(ip + IP6_PAYLOAD) > len)
        return false;
    l->v6 = true;
    l->l4 = l->l3 + IP6_LEN;
    l->end = (size_t)l->l4 + get16(ip + IP6_PAYLOAD);
    *proto = ip[IP6_NEXT];
    return true;
}

bool net_layers_find(const uint8_t *data, size_t len, struct net_layers *l)
{
    uint8_t proto = 0;
    uint16_t type;
    size_t header;

    *l = (struct net_layers){ .l3 = NET_ETH_LEN };
    if (len < NET_ETH_LEN)
        return false;
    type = get16(data + 12);
    if (type == ETH_VLAN && len >= NET_ETH_LEN + 4) {
        l->l3 += 4;
        type = get16(data + 16);
    }
    if (!(type == ETH_IPV4 && ip4_find(data + l->l3, len - l->l3, l, &proto)) &&
        !(type == ETH_IPV6 && ip6_find(data + l->l3, len - l->l3, l, &proto)))
        return false;
    l->udp = proto == IP_UDP;
    header = l->udp ? UDP_LEN : TCP_LEN;
    if ((proto != IP_TCP && proto != IP_UDP) || l->end - l->l4 < header)
        return false;
    if (!l->udp)
        header = (size_t)(data[l->l4 + TCP_OFF] >> 4) * 4;
    l->payload = l->l4 + (unsigned)header;
    return header >= (l->udp ? UDP_LEN : TCP_LEN) && l->payload <= l->end;
}

/* ---- checksums ---- */

uint64_t net_sum(uint64_t sum, const void *data, size_t len)
{
    const uint8_t *p = data;
    uint64_t lanes[4] = { 0 };
    uint16_t last = 0;

    /* 2^32 words can be added to a lane before it overflows; the loop has a shape that compilers make vectors
     * of. */
    for (; len >= 16; p += 16, len -= 16) {
        uint32_t w[4];

        memcpy(w, p, sizeof(w));
        for (unsigned i = 0; i < 4; i++)
            lanes[i] += w[i];
    }
    for (; len >= 2; p += 2, len -= 2) {
        memcpy(&last, p, 2);
        lanes[0] += last;
    }
    if (len) {
        last = *p; /* first byte of a word in memory order */
        lanes[1] += last;
    }
    for (unsigned i = 0; i < 4; i++)
        sum += (lanes[i] & 0xffffffff) + (lanes[i] >> 32);
    return sum;
}

uint16_t net_sum_fold(uint64_t sum)
{
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}

/* Stores in memory order, as the sum was made. */
static void csum_store(uint8_t *at, uint16_t csum)
{
    memcpy(at, &csum, sizeof(csum));
}

uint64_t net_pseudo_sum(const uint8_t *data, const struct net_layers *l, size_t l4_len)
{
    const uint8_t *ip = data + l->l3;
    uint8_t tail[8] = { 0, 0, 0, 0, 0, 0, 0, l->udp ? IP_UDP : IP_TCP };

    put32(tail, (uint32_t)l4_len);
    return net_sum(net_sum(0, tail, sizeof(tail)), ip + (l->v6 ? 8 : 12), l->v6 ? 32 : 8);
}

static bool gso_valid(const struct net_frame *f)
{
    struct net_layers l;
    uint8_t type = f->off.gso_type & (uint8_t)~NET_GSO_ECN;

    if (!f->off.gso_size || !(f->off.flags & NET_NEEDS_CSUM) || !net_layers_find(f->data, f->len, &l))
        return false;
    switch (type) {
    case NET_GSO_TCPV4: return !l.udp && !l.v6;
    case NET_GSO_TCPV6: return !l.udp && l.v6;
    case NET_GSO_UDP_L4: return l.udp;
    default: return false;
    }
}

bool net_offload_valid(const struct net_frame *f)
{
    const struct net_offload *o = &f->off;

    if ((o->flags & NET_NEEDS_CSUM) && (size_t)o->csum_start + o->csum_offset + 2 > f->len)
        return false;
    return o->gso_type == NET_GSO_NONE || gso_valid(f);
}

void net_csum_finish(struct net_frame *f)
{
    const struct net_offload *o = &f->off;

    if (o->flags & NET_NEEDS_CSUM) {
        uint16_t csum = (uint16_t)~net_sum_fold(net_sum(0, f->data + o->csum_start, f->len - o->csum_start));

        /* All ones stands for zero in both protocols, and zero means "none" in UDP (RFC 768). */
        csum_store(f->data + o->csum_start + o->csum_offset, csum ? csum : 0xffff);
    }
    f->off.flags &= (uint8_t)~NET_NEEDS_CSUM;
}

/* ---- segmentation ---- */

static void l3_set(uint8_t *ip, const struct net_layers *l, size_t len, unsigned index)
{
    if (l->v6) {
        put16(ip + IP6_PAYLOAD, len - IP6_LEN);
        return;
    }
    put16(ip + IP4_TOTAL, len);
    put16(ip + IP4_ID, get16(ip + IP4_ID) + index);
    put16(ip + IP4_CSUM, 0);
    csum_store(ip + IP4_CSUM, (uint16_t)~net_sum_fold(net_sum(0, ip, l->l4 - l->l3)));
}

static void l4_set(uint8_t *data, const struct net_layers *l, size_t len, size_t done, bool first, bool last)
{
    uint8_t *l4 = data + l->l4;
    size_t l4_len = len - l->l4;
    unsigned at = l->udp ? UDP_CSUM : TCP_CSUM;
    uint16_t csum;

    if (l->udp) {
        put16(l4 + UDP_LENGTH, l4_len);
    } else {
        put32(l4 + TCP_SEQ, get32(l4 + TCP_SEQ) + (uint32_t)done);
        if (!last)
            l4[TCP_FLAGS] &= (uint8_t) ~(TCP_FIN | TCP_PSH);
        if (!first)
            l4[TCP_FLAGS] &= (uint8_t)~TCP_CWR;
    }
    put16(l4 + at, 0);
    csum = (uint16_t)~net_sum_fold(net_sum(net_pseudo_sum(data, l, l4_len), l4, l4_len));
    csum_store(l4 + at, csum ? csum : 0xffff);
}

void net_segment(const struct net_frame *f, uint8_t *buf, bool (*emit)(void *ctx, struct net_frame *f),
                 void *ctx)
{
    struct net_layers l;
    size_t payload, done = 0;

    if (!net_layers_find(f->data, f->len, &l))
        return;
    payload = l.end - l.payload;
    for (unsigned i = 0; done < payload || i == 0; i++) {
        size_t n = min_u64(payload - done, f->off.gso_size), len = l.payload + n;
        struct net_frame piece = { .data = buf, .len = len };

        memcpy(buf, f->data, l.payload);
        memcpy(buf + l.payload, f->data + l.payload + done, n);
        l3_set(buf + l.l3, &l, len - l.l3, i);
        l4_set(buf, &l, len, done, i == 0, done + n == payload);
        if (!emit(ctx, &piece))
            return;
        done += n;
    }
}
