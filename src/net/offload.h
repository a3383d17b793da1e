/* Checksums and segmentation in software: what network hardware would do. Pure: bytes in, bytes out. */
#ifndef NET_OFFLOAD_H
#define NET_OFFLOAD_H

#include "net/net.h"

/* Where the layers of a TCP or UDP frame begin, all checked to lie inside it. */
struct net_layers {
    unsigned l3, l4, payload; /* byte offsets */
    bool v6, udp;
    size_t end; /* of the IP packet: padding of the frame is beyond */
};

/* False if it is not an unfragmented TCP or UDP packet over IPv4, or IPv6 without extension headers, with
 * whole headers. */
bool net_layers_find(const uint8_t *data, size_t len, struct net_layers *l);

/* Sum of 16 bit words for the Internet checksum (RFC 1071), added to `sum` and not folded. An odd last byte
 * counts as the first of a word, so only the last piece may be of odd length. */
uint64_t net_sum(uint64_t sum, const void *data, size_t len);
uint16_t net_sum_fold(uint64_t sum); /* 16 bits, not complemented; in memory order */

/* The sum of the pseudo header (RFC 9293, 3.1; RFC 8200, 8.1) of the packet that data holds, for l4_len
 * bytes. */
uint64_t net_pseudo_sum(const uint8_t *data, const struct net_layers *l, size_t l4_len);

/* Whether the offload state fits the frame. */
bool net_offload_valid(const struct net_frame *f);

/* Computes the checksum that the frame asks for and clears the mark. The offload state is valid. */
void net_csum_finish(struct net_frame *f);

/* Gives out the packets that a valid GSO frame stands for, whole, each in `buf` of NET_FRAME_MAX bytes. Stops
 * when emit says false. */
void net_segment(const struct net_frame *f, uint8_t *buf, bool (*emit)(void *ctx, struct net_frame *f),
                 void *ctx);

#endif
