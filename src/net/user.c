/* NAT without privileges: a network of the guest's own whose router is libslirp in this process. The guest's
 * connections become sockets of the process; nothing of the host's network is touched.
 *
 *   10.0.2.0/24     fd79:6164:6f::/64
 *   10.0.2.2        fd79:6164:6f::2      the router, and the host itself (its loopback)
 *   10.0.2.3        fd79:6164:6f::3      name server: asks the host's (/etc/resolv.conf, read again as it
 * changes) 10.0.2.15       by advertisement     the guest: DHCP; where forwards lead
 *
 * Theory of operation. libslirp is single-threaded and driven by its user: frames go in by slirp_input,
 * frames come out by send_packet from within any call, and before sleeping it must be asked which descriptors
 * and how much time to wait for. Everything is done on the loop thread, so there is no lock. `service` is the
 * one place that runs its sockets; it is posted, once however often it is asked for, when descriptors are
 * ready, time is up, or frames went in. It
 *   1. lets libslirp look at the descriptors that were reported since (and at its timers),
 *   2. gives the device the frames that wait,
 *   3. asks for descriptors and time again, and changes what the loop watches accordingly.
 * Watches are kept by descriptor number; libslirp says before it closes one (unregister_poll_fd), so that a
 * number that is used again is never taken for its predecessor.
 *
 * Frames that libslirp makes while the device sends to it (acknowledgements, mostly) wait in a queue, as the
 * device's lock is held then; others are delivered at once if none waits. What finds no room in the guest
 * waits as well, up to OUT_MAX, and is dropped beyond: TCP windows (64 KiB a connection) keep that rare, and
 * TCP repairs it.
 *
 * Speed. libslirp has no offloads, but it does not mind long packets: a TCP packet of 64 KiB costs it about
 * what one of 1500 bytes does. So the guest may send such (the checksum is finished here, at memory speed),
 * and mss.c makes libslirp send them.
 *
 * Limits. libslirp has no window scaling. It keeps a little state for the whole process (the clock in
 * milliseconds, the name server's address), which several instances share without harm. Urgent data that
 * comes alone waits for other data. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <slirp/libslirp.h>
#include <stdlib.h>
#include <string.h>

#include "host/clock.h"
#include "net/mss.h"
#include "net/net_priv.h"
#include "net/offload.h"

#define OUT_MAX (4u << 20)
#define OUT_BURST 256 /* frames delivered before others get their turn */
/* The largest that libslirp allows is 65521. Two such segments in a window of 65535 would not fit, and one
 * end would wait for the other with each; with half of it both work at the same time. */
#define STACK_MTU 32768
#define MSS4 (STACK_MTU - 40)
#define SLEEP_MAX_MS 1000

struct user_watch {
    struct loop_fd *w;
    struct user *user;
    int fd;
    unsigned events; /* LOOP_*, as set */
    bool is_ready;   /* reported by the loop, not yet by us */
    unsigned round;  /* of the last fill that named it */
};

struct user {
    struct net_backend base;
    Slirp *slirp;
    struct clock clock;
    struct user_watch **watches; /* by descriptor; NULL: none */
    unsigned watch_room;
    unsigned round;
    struct loop_timer *timer;
    uint64_t timer_due;          /* ns; 0: not armed */
    bool posted, in_send, stuck; /* stuck: the device has no room */
    bool is_stopped;
    struct net_fifo out;
    struct mss_table mss;
    uint8_t buf[NET_FRAME_MAX];
};

struct user_timer {
    struct loop_timer *t;
    struct user *user;
    SlirpTimerId id;
    void *arg;
};

static struct user *user_of(struct net_backend *b)
{
    return container_of(b, struct user, base);
}

static void service(void *ctx);

static void service_ask(struct user *u)
{
    if (!u->posted && !u->is_stopped)
        u->posted = loop_post(u->base.loop, service, u);
}

/* ---- frames to the guest ---- */

static void out_go_on(struct user *u)
{
    const struct net_port *p = &u->base.port;
    struct net_frame *f;

    for (unsigned i = 0; !u->stuck && (f = net_fifo_first(&u->out)); i++) {
        if (i == OUT_BURST) {
            service_ask(u);
            break;
        }
        u->stuck = !p->deliver(p->ctx, f);
        if (!u->stuck)
            net_fifo_pop(&u->out);
    }
}

static ssize_t on_packet(const void *data, size_t len, void *ctx)
{
    struct user *u = ctx;
    struct net_frame f = { .data = u->buf, .len = len };

    if (len < NET_ETH_LEN || len > NET_FRAME_MAX || !u->base.port.deliver)
        return (ssize_t)len;
    memcpy(u->buf, data, len);
    mss_mark(&u->mss, &f);
    if (u->in_send || u->stuck || u->out.head) {
        net_fifo_push(&u->out, &f, OUT_MAX);
    } else if (!u->base.port.deliver(u->base.port.ctx, &f)) {
        u->stuck = true;
        net_fifo_push(&u->out, &f, OUT_MAX);
    }
    return (ssize_t)len;
}

/* ---- what libslirp asks of its user ---- */

static void on_guest_error(const char *msg, void *ctx)
{
    (void)msg;
    (void)ctx;
}

static int64_t on_clock(void *ctx)
{
    struct user *u = ctx;

    return (int64_t)clock_now(&u->clock);
}

static void timer_due(void *ctx)
{
    struct user_timer *t = ctx;

    slirp_handle_timer(t->user->slirp, t->id, t->arg);
    service_ask(t->user);
}

static void *on_timer_new(SlirpTimerId id, void *arg, void *ctx)
{
    struct user *u = ctx;
    struct user_timer *t = calloc(1, sizeof(*t));

    if (!t)
        return NULL;
    *t = (struct user_timer){ .user = u, .id = id, .arg = arg };
    t->t = loop_timer_new(u->base.loop, timer_due, t);
    return t;
}

static void on_timer_free(void *timer, void *ctx)
{
    struct user_timer *t = timer;

    (void)ctx;
    if (t && t->t)
        loop_timer_free(t->t);
    free(t);
}

static void on_timer_mod(void *timer, int64_t expire_ms, void *ctx)
{
    struct user_timer *t = timer;

    (void)ctx;
    if (t && t->t)
        loop_timer_arm(t->t, (uint64_t)expire_ms * 1000000);
}

/* They are found by slirp_pollfds_fill. */
static void on_fd_made(int fd, void *ctx)
{
    (void)fd;
    (void)ctx;
}

static void on_fd_ends(int fd, void *ctx)
{
    struct user *u = ctx;
    struct user_watch *w = fd >= 0 && (unsigned)fd < u->watch_room ? u->watches[fd] : NULL;

    if (!w)
        return;
    loop_fd_remove(w->w);
    free(w);
    u->watches[fd] = NULL;
}

static void on_notify(void *ctx)
{
    service_ask(ctx);
}

static const SlirpCb callbacks = {
    .send_packet = on_packet,
    .guest_error = on_guest_error,
    .clock_get_ns = on_clock,
    .timer_new_opaque = on_timer_new,
    .timer_free = on_timer_free,
    .timer_mod = on_timer_mod,
    .register_poll_fd = on_fd_made,
    .unregister_poll_fd = on_fd_ends,
    .notify = on_notify,
};

/* ---- descriptors and time ---- */

static void fd_ready(void *ctx, unsigned events)
{
    struct user_watch *w = ctx;

    (void)events;
    w->is_ready = true;
    service_ask(w->user);
}

static struct user_watch *watch_at(struct user *u, int fd)
{
    if ((unsigned)fd >= u->watch_room) {
        unsigned room = ((unsigned)fd + 64) & ~63u;
        struct user_watch **more = realloc(u->watches, room * sizeof(struct user_watch *));

        if (!more)
            return NULL;
        memset(more + u->watch_room, 0, (room - u->watch_room) * sizeof(struct user_watch *));
        u->watches = more;
        u->watch_room = room;
    }
    if (!u->watches[fd]) {
        u->watches[fd] = calloc(1, sizeof(struct user_watch));
        if (!u->watches[fd])
            return NULL;
        *u->watches[fd] = (struct user_watch){ .user = u, .fd = fd };
        /* libslirp's own descriptor; it leaves listeners blocking, and a connection may be gone before
         * accept(). */
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    }
    return u->watches[fd];
}

/* libslirp keeps what we return and asks for it by slirp_pollfds_poll; the descriptor itself serves. A watch
 * that cannot be had is tried again at the next service. */
static int on_add_poll(int fd, int events, void *ctx)
{
    struct user *u = ctx;
    struct user_watch *w = watch_at(u, fd);
    unsigned want = (events & SLIRP_POLL_IN ? LOOP_READ : 0) | (events & SLIRP_POLL_OUT ? LOOP_WRITE : 0);

    if (!w)
        return -1;
    w->round = u->round;
    if (!w->w)
        w->w = loop_fd_add(u->base.loop, fd, want, fd_ready, w, NULL);
    else if (w->events != want)
        loop_fd_events(w->w, want);
    w->events = want;
    return fd;
}

/* What the loop reported may be over by now (it reports what was so before the last service), and libslirp
 * acts on it without looking. So the descriptor is asked once more. */
static int on_get_ready(int fd, void *ctx)
{
    struct user *u = ctx;
    struct user_watch *w = fd >= 0 && (unsigned)fd < u->watch_room ? u->watches[fd] : NULL;
    struct pollfd p = { .fd = fd };

    if (!w || !w->is_ready)
        return 0;
    w->is_ready = false;
    p.events =
        (short)((w->events & LOOP_READ ? POLLIN | POLLPRI : 0) | (w->events & LOOP_WRITE ? POLLOUT : 0));
    if (poll(&p, 1, 0) <= 0)
        return 0;
    return (p.revents & POLLIN ? SLIRP_POLL_IN : 0) | (p.revents & POLLOUT ? SLIRP_POLL_OUT : 0) |
           (p.revents & POLLPRI ? SLIRP_POLL_PRI : 0) | (p.revents & POLLERR ? SLIRP_POLL_ERR : 0) |
           (p.revents & POLLHUP ? SLIRP_POLL_HUP : 0);
}

static void timer_set(struct user *u, uint32_t ms)
{
    uint64_t now = clock_now(&u->clock), due = now + (uint64_t)ms * 1000000;

    /* An earlier one that is under way will bring us here again: most changes cost no system call. */
    if (u->timer_due > now && u->timer_due <= due)
        return;
    u->timer_due = due;
    loop_timer_arm(u->timer, due);
}

static void on_time(void *ctx)
{
    struct user *u = ctx;

    u->timer_due = 0;
    service_ask(u);
}

static void watches_set(struct user *u)
{
    uint32_t ms = SLEEP_MAX_MS;

    u->round++;
    slirp_pollfds_fill(u->slirp, &ms, on_add_poll, u);
    for (unsigned fd = 0; fd < u->watch_room; fd++) {
        struct user_watch *w = u->watches[fd];

        if (!w || w->round == u->round)
            continue;
        w->is_ready = false;
        if (w->w && w->events)
            loop_fd_events(w->w, 0);
        w->events = 0;
    }
    timer_set(u, ms);
}

static void service(void *ctx)
{
    struct user *u = ctx;
    const struct net_port *p = &u->base.port;

    u->posted = false;
    if (u->is_stopped)
        return;
    slirp_pollfds_poll(u->slirp, 0, on_get_ready, u);
    out_go_on(u);
    p->flush(p->ctx);
    watches_set(u);
}

/* ---- the back end ---- */

static bool user_start(struct net_backend *b, struct yado_error *err)
{
    struct user *u = user_of(b);

    service_ask(u);
    return u->posted || err_set(err, YADO_ERR_MEMORY, "no memory for the attachment");
}

static bool user_send(struct net_backend *b, const struct net_frame *f)
{
    struct user *u = user_of(b);
    struct net_frame whole = *f;

    /* A long packet stays one, but libslirp looks at checksums. */
    net_csum_finish(&whole);
    mss_raise(&u->mss, &whole, MSS4);
    u->in_send = true;
    slirp_input(u->slirp, whole.data, (int)whole.len);
    u->in_send = false;
    return true;
}

static void user_sent(struct net_backend *b)
{
    service_ask(user_of(b));
}

static void user_resume(struct net_backend *b)
{
    struct user *u = user_of(b);

    u->stuck = false;
    out_go_on(u);
    u->base.port.flush(u->base.port.ctx);
}

static bool address_read(const struct net_forward *f, struct sockaddr_storage *host,
                         struct sockaddr_storage *guest, socklen_t *len)
{
    struct sockaddr_in *h4 = (struct sockaddr_in *)host, *g4 = (struct sockaddr_in *)guest;
    struct sockaddr_in6 *h6 = (struct sockaddr_in6 *)host, *g6 = (struct sockaddr_in6 *)guest;

    memset(host, 0, sizeof(*host));
    memset(guest, 0, sizeof(*guest)); /* no address: the guest's own, whatever it is */
    if (inet_pton(AF_INET, f->host, &h4->sin_addr) == 1) {
        host->ss_family = guest->ss_family = AF_INET;
        h4->sin_port = htons(f->host_port);
        g4->sin_port = htons(f->guest_port);
        *len = sizeof(*h4);
        return true;
    }
    if (inet_pton(AF_INET6, f->host, &h6->sin6_addr) != 1)
        return false;
    host->ss_family = guest->ss_family = AF_INET6;
    h6->sin6_port = htons(f->host_port);
    g6->sin6_port = htons(f->guest_port);
    *len = sizeof(*h6);
    return true;
}

static bool user_forward(struct net_backend *b, const struct net_forward *f, bool add, struct yado_error *err)
{
    struct user *u = user_of(b);
    struct sockaddr_storage host, guest;
    int flags = (f->udp ? SLIRP_HOSTFWD_UDP : 0) | SLIRP_HOSTFWD_V6ONLY, result;
    socklen_t len;

    if (!address_read(f, &host, &guest, &len))
        return err_set(err, YADO_ERR_INVALID_CONFIG, "forward: \"%s\" is not an IP address", f->host);
    errno = 0;
    result = add ? slirp_add_hostxfwd(u->slirp, (struct sockaddr *)&host, len, (struct sockaddr *)&guest, len,
                                      flags)
                 : slirp_remove_hostxfwd(u->slirp, (struct sockaddr *)&host, len, flags);
    if (result == 0) {
        service_ask(u);
        return true;
    }
    if (!add)
        return err_set(err, YADO_ERR_INVALID_CONFIG, "forward: there is none from %s port %u at %s",
                       f->udp ? "udp" : "tcp", f->host_port, f->host);
    return err_set_errno(err, errno == EADDRINUSE ? YADO_ERR_IN_USE : YADO_ERR_HOST, errno,
                         "forward: cannot listen on %s port %u at %s", f->udp ? "udp" : "tcp", f->host_port,
                         f->host);
}

static void user_stop(struct net_backend *b)
{
    user_of(b)->is_stopped = true;
}

static void user_free(struct net_backend *b)
{
    struct user *u = user_of(b);

    u->base.port = (struct net_port){ 0 };
    if (u->slirp)
        slirp_cleanup(u->slirp);
    for (unsigned fd = 0; fd < u->watch_room; fd++)
        on_fd_ends((int)fd, u);
    free(u->watches);
    if (u->timer)
        loop_timer_free(u->timer);
    net_fifo_clear(&u->out);
    free(u);
}

static const struct net_backend_ops user_ops = {
    .name = "nat",
    .start = user_start,
    .send = user_send,
    .sent = user_sent,
    .resume = user_resume,
    .stop = user_stop,
    .free = user_free,
    .forward = user_forward,
};

static bool stack_make(struct user *u, struct yado_error *err)
{
    SlirpConfig cfg = {
        .version = 4,
        .in_enabled = true,
        .in6_enabled = true,
        .vprefix_len = 64,
        .if_mtu = STACK_MTU,
        .if_mru = STACK_MTU,
    };

    inet_pton(AF_INET, "10.0.2.0", &cfg.vnetwork);
    inet_pton(AF_INET, "255.255.255.0", &cfg.vnetmask);
    inet_pton(AF_INET, "10.0.2.2", &cfg.vhost);
    inet_pton(AF_INET, "10.0.2.3", &cfg.vnameserver);
    inet_pton(AF_INET, "10.0.2.15", &cfg.vdhcp_start);
    inet_pton(AF_INET6, "fd79:6164:6f::", &cfg.vprefix_addr6);
    inet_pton(AF_INET6, "fd79:6164:6f::2", &cfg.vhost6);
    inet_pton(AF_INET6, "fd79:6164:6f::3", &cfg.vnameserver6);
    u->slirp = slirp_new(&cfg, &callbacks, u);
    return u->slirp || err_set(err, YADO_ERR_HOST, "nat: the network stack cannot be made");
}

struct net_backend *nat_open(const struct net_config *cfg, struct loop *loop, struct yado_error *err)
{
    struct user *u = calloc(1, sizeof(*u));

    if (!u) {
        err_set(err, YADO_ERR_MEMORY, "no memory for the attachment");
        return NULL;
    }
    net_fifo_init(&u->out);
    u->clock = clock_host();
    u->base = (struct net_backend){ .ops = &user_ops,
                                    .loop = loop,
                                    .can = NET_CAN_CSUM | NET_CAN_TSO4 | NET_CAN_TSO6,
                                    .mtu = NET_MTU_DEFAULT };
    u->timer = loop_timer_new(loop, on_time, u);
    if (!u->timer) {
        err_set(err, YADO_ERR_MEMORY, "no memory for the attachment");
        user_free(&u->base);
        return NULL;
    }
    if (!stack_make(u, err)) {
        user_free(&u->base);
        return NULL;
    }
    for (unsigned i = 0; i < cfg->forward_count; i++) {
        if (!user_forward(&u->base, &cfg->forwards[i], true, err)) {
            user_free(&u->base);
            return NULL;
        }
    }
    return &u->base;
}
