/* Long TCP segments between a guest whose interface has an ordinary MTU and a TCP of ours that could send up
 * to 64 KiB at once. Theory of operation in mss.c. Pure. */
#ifndef NET_MSS_H
#define NET_MSS_H

#include "net/net.h"

#define MSS_FLOWS 1024 /* power of two */

struct mss_flow {
    uint8_t addr[2][16]; /* the guest's side first; IPv4 in the last four bytes */
    uint16_t port[2];
    uint16_t mss; /* what the guest asked for; 0: empty */
};

struct mss_table {
    struct mss_flow flows[MSS_FLOWS];
};

/* A frame of the guest, its checksum finished: if it opens a connection, notes the segment size that it
 * announces and puts `size` in its place. */
void mss_raise(struct mss_table *t, struct net_frame *f, uint16_t size);

/* A frame for the guest with whole checksums: marks it as several segments if it is longer than the guest's
 * size. */
void mss_mark(const struct mss_table *t, struct net_frame *f);

#endif
