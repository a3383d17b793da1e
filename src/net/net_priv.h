/* What the back ends share among themselves. */
#ifndef NET_NET_PRIV_H
#define NET_NET_PRIV_H

#include "net/net.h"

struct net_backend *nat_open(const struct net_config *cfg, struct loop *loop, struct yado_error *err);
struct net_backend *tap_open(const struct net_config *cfg, struct loop *loop, struct yado_error *err);
/* These take fd over, also on failure. */
struct net_backend *dgram_open(int fd, uint16_t mtu, struct loop *loop, struct yado_error *err);
struct net_backend *stream_open(int fd, uint16_t mtu, struct loop *loop, struct yado_error *err);

/* Frames that wait, in order, as copies. */
struct net_waiting {
    struct net_waiting *next;
    struct net_frame frame; /* data points behind this struct */
};

struct net_fifo {
    struct net_waiting *head, **tail;
    size_t bytes; /* of frame data */
};

void net_fifo_init(struct net_fifo *q);
/* Copies f in. False: more than max_bytes would wait, or out of memory. */
bool net_fifo_push(struct net_fifo *q, const struct net_frame *f, size_t max_bytes);
struct net_frame *net_fifo_first(struct net_fifo *q); /* NULL: empty. Stays in */
void net_fifo_pop(struct net_fifo *q);
void net_fifo_clear(struct net_fifo *q);

#endif
