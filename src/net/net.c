/* What all network back ends share: opening by kind, software for what one cannot do, frames that wait. */
#include "net/net.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "net/net_priv.h"
#include "net/offload.h"

static struct net_backend *fd_open(const struct net_config *cfg, struct loop *loop, struct yado_error *err)
{
    int type = 0, fd = fcntl(cfg->fd, F_DUPFD_CLOEXEC, 0);
    socklen_t len = sizeof(type);

    if (fd < 0) {
        err_set_errno(err, YADO_ERR_HOST, errno, "descriptor %d", cfg->fd);
        return NULL;
    }
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0)
        type = -1; /* refused as a datagram socket would be */
    return type == SOCK_STREAM ? stream_open(fd, (uint16_t)cfg->mtu, loop, err)
                               : dgram_open(fd, (uint16_t)cfg->mtu, loop, err);
}

struct net_backend *net_open(const struct net_config *cfg, struct loop *loop, struct yado_error *err)
{
    switch (cfg->kind) {
    case NET_NAT: return nat_open(cfg, loop, err);
    case NET_TAP: return tap_open(cfg, loop, err);
    case NET_FD: return fd_open(cfg, loop, err);
    case NET_BRIDGED: break;
    }
    err_set(err, YADO_ERR_INTERNAL, "there is no network attachment of kind %d", (int)cfg->kind);
    return NULL;
}

bool net_start(struct net_backend *b, const struct net_port *port, struct yado_error *err)
{
    b->port = *port;
    return b->ops->start(b, err);
}

/* Stands in for the device from the retirement of a back end to its end. */
static bool nobody_deliver(void *ctx, struct net_frame *f)
{
    (void)ctx;
    (void)f;
    return true;
}

static void nobody(void *ctx)
{
    (void)ctx;
}

static void nobody_lost(void *ctx, const struct yado_error *why)
{
    (void)ctx;
    (void)why;
}

static void retired_free(void *b)
{
    net_free(b);
}

void net_retire(struct net_backend *b)
{
    b->port = (struct net_port){
        .deliver = nobody_deliver, .flush = nobody, .writable = nobody, .lost = nobody_lost
    };
    b->ops->stop(b);
    loop_post(b->loop, retired_free, b); /* without memory for that it stays for ever, silent */
}

void net_free(struct net_backend *b)
{
    if (b)
        b->ops->free(b);
}

/* ---- sending ---- */

static unsigned gso_needs(uint8_t gso_type)
{
    switch (gso_type & ~NET_GSO_ECN) {
    case NET_GSO_TCPV4: return NET_CAN_TSO4;
    case NET_GSO_TCPV6: return NET_CAN_TSO6;
    case NET_GSO_UDP_L4: return NET_CAN_USO;
    default: return 0;
    }
}

/* Only the first piece can be refused. */
static bool piece_send(void *ctx, struct net_frame *piece)
{
    struct net_backend *b = ctx;

    if (!b->ops->send(b, piece))
        return false;
    b->must_take = true;
    return true;
}

bool net_send(struct net_backend *b, struct net_frame *f)
{
    unsigned needs = gso_needs(f->off.gso_type);

    if (!net_offload_valid(f))
        return true;
    if (needs & ~b->can) {
        uint8_t buf[NET_FRAME_MAX];
        bool taken;

        net_segment(f, buf, piece_send, b);
        taken = b->must_take;
        b->must_take = false;
        return taken;
    }
    if (!needs && !(b->can & NET_CAN_CSUM))
        net_csum_finish(f);
    return b->ops->send(b, f);
}

void net_sent(struct net_backend *b)
{
    if (b->ops->sent)
        b->ops->sent(b);
}

/* ---- frames that wait ---- */

void net_fifo_init(struct net_fifo *q)
{
    *q = (struct net_fifo){ .tail = &q->head };
}

bool net_fifo_push(struct net_fifo *q, const struct net_frame *f, size_t max_bytes)
{
    struct net_waiting *w = q->bytes + f->len <= max_bytes ? malloc(sizeof(*w) + f->len) : NULL;

    if (!w)
        return false;
    w->next = NULL;
    w->frame = (struct net_frame){ .data = (uint8_t *)(w + 1), .len = f->len, .off = f->off };
    memcpy(w->frame.data, f->data, f->len);
    *q->tail = w;
    q->tail = &w->next;
    q->bytes += f->len;
    return true;
}

struct net_frame *net_fifo_first(struct net_fifo *q)
{
    return q->head ? &q->head->frame : NULL;
}

void net_fifo_pop(struct net_fifo *q)
{
    struct net_waiting *w = q->head;

    q->bytes -= w->frame.len;
    q->head = w->next;
    if (!q->head)
        q->tail = &q->head;
    free(w);
}

void net_fifo_clear(struct net_fifo *q)
{
    while (q->head)
        net_fifo_pop(q);
}
