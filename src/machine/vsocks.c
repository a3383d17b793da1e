/* The socket device of a board. Everything here runs on the loop thread, but for vsocks_answer and
 * vsocks_connect.
 *
 * An owner that cannot give a socket just now (BOARD_SOCKET_BUSY: the program's queue of connections is full,
 * or the process has no descriptor left) is asked again a little later, for a few seconds; meanwhile the
 * guest waits. A listener for which there is no descriptor stands still as long. */
#include "machine/vsocks.h"

#include <errno.h>
#include <stdlib.h>

#include "host/loop.h"
#include "host/socket.h"
#include "virtio/transport_pci.h"
#include "virtio/vsock.h"

#define RETRY_NS 10000000u /* between two tries ... */
#define RETRIES_MAX 400    /* ... and how many: about 4 s, twice what Linux waits for by itself */
#define WAITING_MAX 1024
#define ACCEPTS_MAX 64 /* in one turn */

_Static_assert(BOARD_SOCKET_REFUSED == (int)VSOCK_REFUSED && BOARD_SOCKET_LATER == (int)VSOCK_LATER,
               "answers go through as they are");

struct waiting {
    uint64_t id;
    uint32_t guest_port, host_port;
    unsigned tries;
};

struct listener {
    struct vsocks *all;
    int fd; /* borrowed */
    uint32_t guest_port;
    struct loop_fd *watch;
    bool is_paused;
};

struct vsocks {
    struct board_sockets owner; /* its functions */
    struct clock clock;
    struct vsock *vsock;
    struct virtio_pci *pci;
    struct loop_timer *timer;
    bool timer_armed;
    struct waiting waiting[WAITING_MAX];
    unsigned waiting_count;
    struct listener *listeners;
    unsigned listener_count;
};

static void timer_arm(struct vsocks *s)
{
    if (s->timer_armed)
        return;
    s->timer_armed = true;
    loop_timer_arm(s->timer, clock_now(&s->clock) + RETRY_NS);
}

/* ---- the guest asks ---- */

static int on_asked(void *ctx, uint64_t id, uint32_t guest_port, uint32_t host_port)
{
    struct vsocks *s = ctx;
    int fd = s->owner.asked(s->owner.ctx, id, guest_port, host_port);

    if (fd != BOARD_SOCKET_BUSY)
        return fd;
    if (s->waiting_count == WAITING_MAX)
        return VSOCK_REFUSED;
    s->waiting[s->waiting_count++] =
        (struct waiting){ .id = id, .guest_port = guest_port, .host_port = host_port };
    timer_arm(s);
    return VSOCK_LATER;
}

/* False: it goes on waiting. */
static bool waiting_try(struct vsocks *s, struct waiting *w)
{
    int fd;

    if (!vsock_waits(s->vsock, w->id))
        return true;
    fd = s->owner.asked(s->owner.ctx, w->id, w->guest_port, w->host_port);
    if (fd == BOARD_SOCKET_BUSY && ++w->tries < RETRIES_MAX)
        return false;
    if (fd != BOARD_SOCKET_LATER)
        vsock_answer(s->vsock, w->id, fd == BOARD_SOCKET_BUSY ? VSOCK_REFUSED : fd);
    return true;
}

static void on_timer(void *ctx)
{
    struct vsocks *s = ctx;
    unsigned kept = 0;

    s->timer_armed = false;
    for (unsigned i = 0; i < s->waiting_count; i++) {
        if (!waiting_try(s, &s->waiting[i]))
            s->waiting[kept++] = s->waiting[i];
    }
    s->waiting_count = kept;
    for (unsigned i = 0; i < s->listener_count; i++) {
        if (!s->listeners[i].is_paused)
            continue;
        s->listeners[i].is_paused = false;
        loop_fd_events(s->listeners[i].watch, LOOP_READ);
    }
    if (s->waiting_count)
        timer_arm(s);
}

static void on_connected(void *ctx, uint64_t tag, uint32_t host_port, const struct yado_error *why)
{
    struct vsocks *s = ctx;

    if (s->owner.connected)
        s->owner.connected(s->owner.ctx, tag, host_port, why);
}

/* ---- programs of the host come ---- */

static void on_listener(void *ctx, unsigned events)
{
    struct listener *l = ctx;
    int fd, error = 0;

    (void)events;
    for (unsigned i = 0; i < ACCEPTS_MAX && !error; i++) {
        error = socket_accept(l->fd, &fd);
        if (!error) /* if it cannot be, the program reads the end */
            vsock_connect(l->all->vsock, l->guest_port, fd, 0, NULL);
    }
    if (!error || error == EAGAIN)
        return;
    l->is_paused = true;
    loop_fd_events(l->watch, 0);
    timer_arm(l->all);
}

static bool listeners_watch(struct vsocks *s, const struct board_sockets *from, struct loop *loop,
                            struct yado_error *err)
{
    s->listeners = calloc(from->listener_count + 1, sizeof(*s->listeners));
    if (!s->listeners)
        return err_set(err, YADO_ERR_MEMORY, "out of memory");
    for (unsigned i = 0; i < from->listener_count; i++) {
        struct listener *l = &s->listeners[s->listener_count++];

        *l = (struct listener){ .all = s,
                                .fd = from->listeners[i].fd,
                                .guest_port = from->listeners[i].guest_port };
        l->watch = loop_fd_add(loop, l->fd, LOOP_READ, on_listener, l, err);
        if (!l->watch)
            return false;
    }
    return true;
}

/* ---- life ---- */

struct vsocks *vsocks_new(const struct vsocks_config *cfg, struct yado_error *err)
{
    struct vsocks *s = calloc(1, sizeof(*s));
    struct vsock_config vc = {
        .guest_cid = VSOCK_CID_GUEST,
        .asked = on_asked,
        .connected = on_connected,
        .ctx = s,
        .clock = cfg->clock,
        .log = cfg->log,
        .loop = cfg->loop,
    };

    if (s)
        s->timer = loop_timer_new(cfg->loop, on_timer, s);
    if (!s || !s->timer) {
        free(s);
        err_set(err, YADO_ERR_MEMORY, "out of memory");
        return NULL;
    }
    s->owner = *cfg->sockets;
    s->clock = cfg->clock;
    s->vsock = vsock_new(&vc, err);
    s->pci = s->vsock ? virtio_pci_attach(cfg->pci, vsock_vdev(s->vsock), cfg->mem, err) : NULL;
    if (!s->pci || !listeners_watch(s, cfg->sockets, cfg->loop, err)) {
        vsocks_free(s);
        return NULL;
    }
    return s;
}

void vsocks_reset(struct vsocks *s)
{
    virtio_pci_reset(s->pci);
}

void vsocks_free(struct vsocks *s)
{
    if (!s)
        return;
    for (unsigned i = 0; i < s->listener_count; i++)
        loop_fd_remove(s->listeners[i].watch);
    virtio_pci_free(s->pci);
    vsock_free(s->vsock);
    loop_timer_free(s->timer);
    free(s->listeners);
    free(s);
}

bool vsocks_answer(struct vsocks *s, uint64_t id, int fd)
{
    return vsock_answer(s->vsock, id, fd);
}

bool vsocks_connect(struct vsocks *s, uint32_t guest_port, int fd, uint64_t tag, struct yado_error *err)
{
    return vsock_connect(s->vsock, guest_port, fd, tag, err);
}
