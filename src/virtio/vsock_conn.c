/* virtio-vsock: connections, their sockets and what waits in between. Theory of operation in vsock.c. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "virtio/vsock_priv.h"

/* ---- finding ---- */

static struct vsock_conn **bucket_of(struct vsock *v, uint32_t guest_port, uint32_t host_port)
{
    uint32_t h = guest_port * 0x9e3779b1u ^ host_port * 0x85ebca6bu;

    return &v->buckets[(h >> 16 ^ h) % BUCKETS];
}

struct vsock_conn *conn_find(struct vsock *v, uint32_t guest_port, uint32_t host_port)
{
    struct vsock_conn *c = *bucket_of(v, guest_port, host_port);

    while (c && (c->guest_port != guest_port || c->host_port != host_port))
        c = c->hash_next;
    return c;
}

struct vsock_conn *conn_by_id(struct vsock *v, uint64_t id)
{
    struct vsock_conn *c = v->slots[id % VSOCK_CONNECTIONS_MAX];

    return c && c->id == id && c->state != CONN_DEAD ? c : NULL;
}

static void conn_hide(struct vsock_conn *c)
{
    struct vsock_conn **at = bucket_of(c->v, c->guest_port, c->host_port);

    while (*at && *at != c)
        at = &(*at)->hash_next;
    if (*at)
        *at = c->hash_next;
    c->hash_next = NULL;
}

/* ---- life ---- */

static uint32_t window_take(struct vsock *v)
{
    if (v->windows + VSOCK_WINDOW > VSOCK_WINDOWS_LARGE)
        return VSOCK_WINDOW_SMALL;
    v->windows += VSOCK_WINDOW;
    return VSOCK_WINDOW;
}

struct vsock_conn *conn_new(struct vsock *v, uint32_t guest_port, uint32_t host_port, enum conn_state state)
{
    struct vsock_conn **bucket = bucket_of(v, guest_port, host_port);
    struct vsock_conn *c = v->free_count ? calloc(1, sizeof(*c)) : NULL;
    unsigned slot;

    if (!c)
        return NULL;
    slot = v->free_slots[--v->free_count];
    c->v = v;
    c->id = ++v->serial * VSOCK_CONNECTIONS_MAX + slot;
    c->guest_port = guest_port;
    c->host_port = host_port;
    c->state = state;
    c->fd = -1;
    c->window = window_take(v);
    c->hash_next = *bucket;
    *bucket = c;
    v->slots[slot] = c;
    v->counters.connections++;
    return c;
}

static void buffer_drop(struct vsock_conn *c)
{
    c->v->counters.buffered -= c->buffer_len;
    free(c->buffer);
    c->buffer = NULL;
    c->buffer_room = c->buffer_off = c->buffer_len = 0;
}

/* Loop thread, or no watch. */
static void socket_close(struct vsock_conn *c)
{
    loop_fd_remove(c->watch);
    c->watch = NULL;
    c->events = 0;
    c->readable = false;
    if (c->fd < 0)
        return;
    close(c->fd);
    c->fd = -1;
    c->v->counters.descriptors--;
}

void conn_answered(struct vsock_conn *c, enum yado_error_code code, const char *text)
{
    struct yado_error err = YADO_ERROR_INIT;
    struct vsock *v = c->v;
    uint64_t tag = c->tag;

    c->tag = 0;
    if (c->state == CONN_HOST_ASKS && code != YADO_OK)
        v->counters.refused++;
    if (!tag || !v->cfg.connected)
        return;
    if (code != YADO_OK)
        err_set(&err, code, "port %u of the guest: %s", c->guest_port, text);
    v->cfg.connected(v->cfg.ctx, tag, c->host_port, code != YADO_OK ? &err : NULL);
}

void conn_kill(struct vsock_conn *c)
{
    struct vsock *v = c->v;

    if (c->state == CONN_DEAD)
        return;
    pending_remove(c);
    conn_hide(c);
    if (c->window == VSOCK_WINDOW)
        v->windows -= VSOCK_WINDOW;
    c->state = CONN_DEAD;
    c->want = 0;
    c->hash_next = v->dead;
    v->dead = c;
}

void conns_bury(struct vsock *v)
{
    struct vsock_conn *c;

    while ((c = v->dead)) {
        unsigned slot = (unsigned)(c->id % VSOCK_CONNECTIONS_MAX);

        v->dead = c->hash_next;
        socket_close(c);
        buffer_drop(c);
        v->slots[slot] = NULL;
        v->free_slots[v->free_count++] = (uint16_t)slot;
        v->counters.connections--;
        free(c);
    }
}

void conn_reset(struct vsock_conn *c)
{
    socket_close(c);
    buffer_drop(c);
    c->state = CONN_RESETS;
    c->want = 0;
    conn_want(c, WANT_RST);
}

void conn_linger(struct vsock_conn *c)
{
    conn_hide(c);
    pending_remove(c);
    c->state = CONN_LINGERS;
    c->want = 0;
    c->guest_done = c->guest_deaf = true;
    if (c->fd < 0 || !c->buffer_len) {
        conn_kill(c);
        return;
    }
    socket_shutdown_receive(c->fd);
    conn_settle(c);
}

/* ---- from the guest to the socket ---- */

static void credit_tell(struct vsock_conn *c)
{
    if (c->forwarded - c->told >= c->window / 2)
        conn_want(c, WANT_CREDIT_UPDATE);
}

void conn_host_deaf(struct vsock_conn *c)
{
    buffer_drop(c);
    c->forwarded = c->received;
    c->host_deaf = true;
    credit_tell(c);
    conn_want(c, WANT_SHUTDOWN);
}

/* Bytes that went out, 0 if it has no room; errors are dealt with. */
static uint32_t socket_write(struct vsock_conn *c, const struct iovec *iov, unsigned count)
{
    ssize_t n = socket_send(c->fd, iov, count);

    if (n >= 0) {
        c->forwarded += (uint32_t)n;
        c->v->counters.sent_bytes += (uint64_t)n;
        credit_tell(c);
        return (uint32_t)n;
    }
    if (n == -EAGAIN)
        return 0;
    /* EPIPE: it reads no more. ECONNRESET: it was closed with bytes unread, and the kernel says so once. What
     * it wrote before can still be read. */
    c->host_broke |= n != -EPIPE;
    conn_host_deaf(c);
    return 0;
}

/* Room for `more` bytes at the end of the buffer. Never more than the window: what is in it was checked. */
static bool buffer_grow(struct vsock_conn *c, uint32_t more)
{
    uint32_t room = c->buffer_room ? c->buffer_room : 4096;
    uint8_t *bytes;

    if (c->buffer_off + c->buffer_len + more <= c->buffer_room)
        return true;
    while (room < c->buffer_len + more)
        room *= 2;
    if (room == c->buffer_room) {
        memmove(c->buffer, c->buffer + c->buffer_off, c->buffer_len);
    } else {
        bytes = malloc(room);
        if (!bytes)
            return false;
        if (c->buffer_len)
            memcpy(bytes, c->buffer + c->buffer_off, c->buffer_len);
        free(c->buffer);
        c->buffer = bytes;
        c->buffer_room = room;
    }
    c->buffer_off = 0;
    return true;
}

static unsigned iov_fill(struct vsock *v, const struct virtq_chain *chain, uint32_t off, uint32_t len)
{
    unsigned count = 0;

    for (unsigned i = 0; i < chain->out_count && len; i++) {
        const struct virtq_seg *s = &v->vd.segs[i];
        uint32_t n;

        if (off >= s->len) {
            off -= s->len;
            continue;
        }
        n = (uint32_t)min_u64(s->len - off, len);
        v->iov[count++] = (struct iovec){ .iov_base = s->hva + off, .iov_len = n };
        len -= n;
        off = 0;
    }
    return count;
}

void conn_receive(struct vsock_conn *c, const struct virtq_chain *chain, uint32_t off, uint32_t len)
{
    uint32_t done = 0;

    c->received += len;
    if (!c->host_deaf && !c->buffer_len)
        done = socket_write(c, c->v->iov, iov_fill(c->v, chain, off, len));
    if (c->host_deaf) {
        c->forwarded = c->received;
        credit_tell(c);
        return;
    }
    if (done == len)
        return;
    len -= done;
    if (!buffer_grow(c, len)) {
        conn_reset(c);
        return;
    }
    virtq_segs_read(c->v->vd.segs, chain->out_count, off + done, c->buffer + c->buffer_off + c->buffer_len,
                    len);
    c->buffer_len += len;
    c->v->counters.buffered += len;
}

static void buffer_flush(struct vsock_conn *c)
{
    while (c->buffer_len) {
        struct iovec iov = { .iov_base = c->buffer + c->buffer_off, .iov_len = c->buffer_len };
        uint32_t n = socket_write(c, &iov, 1);

        if (!n)
            break;
        c->buffer_off += n;
        c->buffer_len -= n;
        c->v->counters.buffered -= n;
    }
    if (c->buffer_len)
        return;
    buffer_drop(c);
    if (c->guest_done && c->fd >= 0)
        socket_shutdown_send(c->fd);
}

void conn_guest_done(struct vsock_conn *c)
{
    c->guest_done = true;
    if (!c->buffer_len && c->fd >= 0)
        socket_shutdown_send(c->fd);
}

/* ---- the socket ---- */

uint32_t conn_credit(const struct vsock_conn *c)
{
    uint32_t flying = c->sent - c->peer_forwarded;

    return flying < c->peer_alloc ? c->peer_alloc - flying : 0;
}

static bool wants_to_read(const struct vsock_conn *c)
{
    return c->state == CONN_OPEN && c->fd >= 0 && !c->host_done && !c->guest_deaf && conn_credit(c);
}

static void on_socket(void *ctx, unsigned events)
{
    struct vsock_conn *c = ctx;
    struct vsock *v = c->v;

    vdev_lock(&v->vd);
    if (c->state == CONN_OPEN || c->state == CONN_LINGERS) {
        if (events & LOOP_WRITE)
            buffer_flush(c);
        if ((events & LOOP_READ) && wants_to_read(c)) {
            c->readable = true;
            pending_add(c);
            vsock_send(v); /* before it is settled: mostly what it is watched for stays as it is */
        }
        if (c->state == CONN_LINGERS && !c->buffer_len)
            conn_kill(c);
        conn_settle(c);
    }
    vsock_work(v);
    vdev_unlock(&v->vd);
}

void conn_open(struct vsock_conn *c, int fd)
{
    c->fd = fd;
    c->v->counters.descriptors++;
}

void conn_want(struct vsock_conn *c, unsigned want)
{
    if (c->state == CONN_DEAD || c->state == CONN_LINGERS)
        return;
    c->want |= want;
    pending_add(c);
}

/* What may be watched for on a socket that is over would be reported for ever: it is closed instead. */
static void watch_set(struct vsock_conn *c)
{
    unsigned events = (wants_to_read(c) && !c->readable ? LOOP_READ : 0) | (c->buffer_len ? LOOP_WRITE : 0);

    if (events == c->events)
        return;
    if (!c->watch)
        c->watch = loop_fd_add(c->v->cfg.loop, c->fd, events, on_socket, c, NULL);
    else
        loop_fd_events(c->watch, events);
    c->events = events;
    if (c->watch)
        return;
    if (c->state == CONN_LINGERS)
        conn_kill(c);
    else
        conn_reset(c);
}

void conn_settle(struct vsock_conn *c)
{
    if (c->state == CONN_OPEN && c->fd >= 0 && c->host_done && c->host_deaf)
        socket_close(c);
    if (c->readable && wants_to_read(c))
        pending_add(c);
    if (c->fd >= 0 && (c->state == CONN_OPEN || c->state == CONN_LINGERS))
        watch_set(c);
}
