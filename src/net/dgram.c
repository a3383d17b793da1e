/* A datagram socket that carries one Ethernet frame in each datagram, as virtual switches on Unix sockets do.
 *
 * Theory of operation. The descriptor is the caller's: its flags stay as they are, and every call says
 * MSG_DONTWAIT. Output that the socket does not take waits in a short queue; while there is more than
 * OUT_HOLD bytes of it, the device is refused and told by `writable` when the queue is empty. Input that the
 * device does not take stays in `buf`, and the socket is not read on until `resume`. So a slow guest makes
 * the peer wait, and a slow peer the guest, and nothing is lost that the socket itself does not lose.
 *
 * The attachment is lost when the peer of a Unix socket is gone. What a network socket (UDP) says about its
 * peer may be different a moment later and costs a frame only. */
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/net_priv.h"

#define OUT_HOLD (64u << 10)
#define OUT_MAX (512u << 10)
#define BATCH 64 /* frames read before others get their turn */

struct dgram {
    struct net_backend base;
    int fd;
    bool is_unix, stalled, is_lost;
    struct loop_fd *watch;
    unsigned events;
    struct net_fifo out;
    struct yado_error why;
    size_t held;                    /* length of the frame in buf that the device refused; 0: none */
    uint8_t buf[NET_FRAME_MAX + 1]; /* one more: a longer datagram shows */
};

static struct dgram *dgram_of(struct net_backend *b)
{
    return container_of(b, struct dgram, base);
}

static void watch_set(struct dgram *d)
{
    unsigned events = d->is_lost ? 0 : (d->held ? 0 : LOOP_READ) | (d->out.head ? LOOP_WRITE : 0);

    if (d->watch && events != d->events)
        loop_fd_events(d->watch, events);
    d->events = events;
}

static void lost_tell(void *ctx)
{
    struct dgram *d = ctx;

    d->base.port.lost(d->base.port.ctx, &d->why);
}

/* Posted: the device's lock may be held here. */
static void lose(struct dgram *d, int error)
{
    if (d->is_lost)
        return;
    d->is_lost = true;
    err_set_errno(&d->why, YADO_ERR_HOST, error, "the other side of the socket is gone");
    net_fifo_clear(&d->out);
    watch_set(d);
    loop_post(d->base.loop, lost_tell, d);
}

static bool is_end(const struct dgram *d, int error)
{
    return error == EPIPE || error == ENOTCONN ||
           (d->is_unix && (error == ECONNREFUSED || error == ECONNRESET));
}

/* False: the socket has no room. */
static bool frame_out(struct dgram *d, const struct net_frame *f)
{
    ssize_t n;

    do {
        n = send(d->fd, f->data, f->len, MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (n < 0 && errno == EINTR);
    if (n >= 0)
        return true;
    if (errno == EAGAIN || errno == EWOULDBLOCK)
        return false;
    if (is_end(d, errno))
        lose(d, errno);
    return true; /* dropped */
}

static bool dgram_send(struct net_backend *b, const struct net_frame *f)
{
    struct dgram *d = dgram_of(b);

    if (d->is_lost || (!d->out.head && frame_out(d, f)))
        return true;
    if (d->out.bytes >= OUT_HOLD && !b->must_take) {
        d->stalled = true;
        return false;
    }
    net_fifo_push(&d->out, f, OUT_MAX);
    watch_set(d);
    return true;
}

static void out_go_on(struct dgram *d)
{
    struct net_frame *f;

    while ((f = net_fifo_first(&d->out)) && frame_out(d, f)) {
        if (!d->is_lost)
            net_fifo_pop(&d->out);
    }
    if (!d->out.head && d->stalled) {
        d->stalled = false;
        d->base.port.writable(d->base.port.ctx);
    }
}

/* True if the device took it. */
static bool frame_in(struct dgram *d, size_t len)
{
    struct net_frame f = { .data = d->buf, .len = len };

    d->held = d->base.port.deliver(d->base.port.ctx, &f) ? 0 : len;
    return !d->held;
}

static void in_go_on(struct dgram *d)
{
    for (unsigned i = 0; i < BATCH && !d->is_lost; i++) {
        ssize_t n = recv(d->fd, d->buf, sizeof(d->buf), MSG_DONTWAIT);

        if (n < 0 && is_end(d, errno))
            lose(d, errno);
        if (n < 0)
            break;
        if (n >= NET_ETH_LEN && n <= NET_FRAME_MAX && !frame_in(d, (size_t)n))
            break;
    }
    d->base.port.flush(d->base.port.ctx);
}

static void on_event(void *ctx, unsigned events)
{
    struct dgram *d = ctx;

    if (events & LOOP_WRITE)
        out_go_on(d);
    if ((events & LOOP_READ) && !d->held)
        in_go_on(d);
    if (events & LOOP_HANGUP)
        lose(d, ECONNRESET);
    watch_set(d);
}

static void dgram_resume(struct net_backend *b)
{
    struct dgram *d = dgram_of(b);

    if (!d->held || frame_in(d, d->held))
        in_go_on(d);
    watch_set(d);
}

static bool dgram_start(struct net_backend *b, struct yado_error *err)
{
    struct dgram *d = dgram_of(b);

    d->events = LOOP_READ;
    d->watch = loop_fd_add(b->loop, d->fd, d->events, on_event, d, err);
    return d->watch != NULL;
}

static void dgram_stop(struct net_backend *b)
{
    struct dgram *d = dgram_of(b);

    d->is_lost = true;
    watch_set(d);
}

static void dgram_free(struct net_backend *b)
{
    struct dgram *d = dgram_of(b);

    loop_fd_remove(d->watch);
    net_fifo_clear(&d->out);
    close(d->fd);
    free(d);
}

static const struct net_backend_ops dgram_ops = {
    .name = "datagram socket",
    .start = dgram_start,
    .send = dgram_send,
    .resume = dgram_resume,
    .stop = dgram_stop,
    .free = dgram_free,
};

struct net_backend *dgram_open(int fd, uint16_t mtu, struct loop *loop, struct yado_error *err)
{
    struct dgram *d = calloc(1, sizeof(*d));
    struct sockaddr_storage peer;
    socklen_t len = sizeof(peer);

    if (!d) {
        err_set(err, YADO_ERR_MEMORY, "no memory for the attachment");
        close(fd);
        return NULL;
    }
    net_fifo_init(&d->out);
    d->base = (struct net_backend){ .ops = &dgram_ops, .loop = loop, .mtu = mtu };
    d->fd = fd;
    if (getpeername(fd, (struct sockaddr *)&peer, &len) < 0) {
        err_set_errno(err, YADO_ERR_INVALID_CONFIG, errno, "the descriptor is not a connected socket");
        dgram_free(&d->base);
        return NULL;
    }
    d->is_unix = peer.ss_family == AF_UNIX;
    return &d->base;
}
