/* A stream socket with each Ethernet frame behind its length, four bytes, most significant first: the framing
 * of QEMU's stream and socket back ends, of passt, and of vde and switch programs that followed them.
 *
 * Theory of operation. As dgram.c in flags, refusal and hold. Output goes out by sendmsg, length and frame at
 * once; what the socket takes only in part waits in the queue with `out_done` bytes of the first frame (its
 * length included) sent. Input is read in large pieces into `in`; frames are delivered from there in place,
 * and what remains (part of a frame, or frames that the device refused) moves to the front before the next
 * read. A length that no frame has means that the two sides do not speak the same language: the attachment is
 * lost, as it is at the end of the stream. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "net/net_priv.h"

#define OUT_HOLD (64u << 10)
#define OUT_MAX (512u << 10)
#define LENGTH 4
#define IN_SIZE (256u << 10)

struct stream {
    struct net_backend base;
    int fd;
    bool stalled, is_lost, is_full; /* full: the device refused a frame */
    struct loop_fd *watch;
    unsigned events;
    struct net_fifo out;
    size_t out_done;
    struct yado_error why;
    size_t in_start, in_end; /* of the bytes in `in` that were not delivered */
    uint8_t in[IN_SIZE];
};
_Static_assert(IN_SIZE >= 2 * (LENGTH + NET_FRAME_MAX), "a whole frame fits, whatever was before it");

static struct stream *stream_of(struct net_backend *b)
{
    return container_of(b, struct stream, base);
}

static void watch_set(struct stream *s)
{
    unsigned events = s->is_lost ? 0 : (s->is_full ? 0 : LOOP_READ) | (s->out.head ? LOOP_WRITE : 0);

    if (s->watch && events != s->events)
        loop_fd_events(s->watch, events);
    s->events = events;
}

static void lost_tell(void *ctx)
{
    struct stream *s = ctx;

    s->base.port.lost(s->base.port.ctx, &s->why);
}

/* Posted: the device's lock may be held here. s->why is set. */
static void lose(struct stream *s)
{
    if (s->is_lost)
        return;
    s->is_lost = true;
    net_fifo_clear(&s->out);
    watch_set(s);
    loop_post(s->base.loop, lost_tell, s);
}

/* Sends a frame's bytes from `done` on. Returns how many of them are sent afterwards; LENGTH + len when it is
 * all. */
static size_t frame_out(struct stream *s, const struct net_frame *f, size_t done)
{
    uint32_t length = htonl((uint32_t)f->len);
    struct iovec iov[2] = {
        { .iov_base = (uint8_t *)&length + min_u64(done, LENGTH), .iov_len = LENGTH - min_u64(done, LENGTH) },
        { .iov_base = f->data, .iov_len = f->len },
    };
    struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 2 };
    ssize_t n;

    if (done > LENGTH) {
        iov[1].iov_base = f->data + (done - LENGTH);
        iov[1].iov_len = f->len - (done - LENGTH);
    }
    do {
        n = sendmsg(s->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (n < 0 && errno == EINTR);
    if (n >= 0)
        return done + (size_t)n;
    if (errno != EAGAIN && errno != EWOULDBLOCK) {
        err_set_errno(&s->why, YADO_ERR_HOST, errno, "the other side of the socket is gone");
        lose(s);
    }
    return done;
}

static bool stream_send(struct net_backend *b, const struct net_frame *f)
{
    struct stream *s = stream_of(b);

    if (s->is_lost)
        return true;
    if (!s->out.head) {
        size_t done = frame_out(s, f, 0);

        if (s->is_lost || done == LENGTH + f->len)
            return true;
        if (net_fifo_push(&s->out, f, OUT_MAX)) {
            s->out_done = done;
        } else if (done) { /* out of memory in the middle of a frame: the stream cannot be mended */
            err_set(&s->why, YADO_ERR_MEMORY, "no memory for a frame");
            lose(s);
        }
    } else if (s->out.bytes >= OUT_HOLD && !b->must_take) {
        s->stalled = true;
        return false;
    } else {
        net_fifo_push(&s->out, f, OUT_MAX);
    }
    watch_set(s);
    return true;
}

static void out_go_on(struct stream *s)
{
    struct net_frame *f;

    while ((f = net_fifo_first(&s->out))) {
        s->out_done = frame_out(s, f, s->out_done);
        if (s->is_lost || s->out_done < LENGTH + f->len)
            return;
        net_fifo_pop(&s->out);
        s->out_done = 0;
    }
    if (s->stalled) {
        s->stalled = false;
        s->base.port.writable(s->base.port.ctx);
    }
}

/* Delivers the whole frames that are there. */
static void frames_in(struct stream *s)
{
    s->is_full = false;
    while (s->in_end - s->in_start >= LENGTH && !s->is_lost) {
        struct net_frame f = { .data = s->in + s->in_start + LENGTH };
        uint32_t length;

        memcpy(&length, s->in + s->in_start, LENGTH);
        f.len = ntohl(length);
        if (f.len > NET_FRAME_MAX) {
            err_set(&s->why, YADO_ERR_HOST,
                    "the other side of the socket announces a frame of %zu bytes, which none has", f.len);
            lose(s);
            return;
        }
        if (s->in_end - s->in_start < LENGTH + f.len)
            break;
        if (f.len >= NET_ETH_LEN && !s->base.port.deliver(s->base.port.ctx, &f)) {
            s->is_full = true;
            break;
        }
        s->in_start += LENGTH + f.len;
    }
    s->base.port.flush(s->base.port.ctx);
}

static void in_go_on(struct stream *s)
{
    ssize_t n;

    memmove(s->in, s->in + s->in_start, s->in_end - s->in_start);
    s->in_end -= s->in_start;
    s->in_start = 0;
    n = recv(s->fd, s->in + s->in_end, IN_SIZE - s->in_end, MSG_DONTWAIT);
    if (n > 0) {
        s->in_end += (size_t)n;
        frames_in(s);
    } else if (n == 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)) {
        err_set_errno(&s->why, YADO_ERR_HOST, n ? errno : ECONNRESET, "the other side of the socket is gone");
        lose(s);
    }
}

static void on_event(void *ctx, unsigned events)
{
    struct stream *s = ctx;

    if (events & LOOP_WRITE)
        out_go_on(s);
    if ((events & LOOP_READ) && !s->is_full && !s->is_lost)
        in_go_on(s);
    watch_set(s);
}

static void stream_resume(struct net_backend *b)
{
    struct stream *s = stream_of(b);

    if (s->is_full)
        frames_in(s);
    watch_set(s);
}

static bool stream_start(struct net_backend *b, struct yado_error *err)
{
    struct stream *s = stream_of(b);

    s->events = LOOP_READ;
    s->watch = loop_fd_add(b->loop, s->fd, s->events, on_event, s, err);
    return s->watch != NULL;
}

static void stream_stop(struct net_backend *b)
{
    struct stream *s = stream_of(b);

    s->is_lost = true;
    watch_set(s);
}

static void stream_free(struct net_backend *b)
{
    struct stream *s = stream_of(b);

    loop_fd_remove(s->watch);
    net_fifo_clear(&s->out);
    close(s->fd);
    free(s);
}

static const struct net_backend_ops stream_ops = {
    .name = "stream socket",
    .start = stream_start,
    .send = stream_send,
    .resume = stream_resume,
    .stop = stream_stop,
    .free = stream_free,
};

struct net_backend *stream_open(int fd, uint16_t mtu, struct loop *loop, struct yado_error *err)
{
    struct stream *s = calloc(1, sizeof(*s));
    struct sockaddr_storage peer;
    socklen_t len = sizeof(peer);

    if (!s) {
        err_set(err, YADO_ERR_MEMORY, "no memory for the attachment");
        close(fd);
        return NULL;
    }
    net_fifo_init(&s->out);
    s->base = (struct net_backend){ .ops = &stream_ops, .loop = loop, .mtu = mtu };
    s->fd = fd;
    if (getpeername(fd, (struct sockaddr *)&peer, &len) < 0) {
        err_set_errno(err, YADO_ERR_INVALID_CONFIG, errno, "the descriptor is not a connected socket");
        stream_free(&s->base);
        return NULL;
    }
    return &s->base;
}
