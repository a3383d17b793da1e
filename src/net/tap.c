/* A tap interface of the host: frames of the guest appear as received by it, and the other way round.
 *
 * Theory of operation. The interface is opened with a virtio-net header before each frame (IFF_VNET_HDR), so
 * that unfinished checksums and packets of 64 KiB go to and from the host's kernel as they are, and are
 * finished only when they leave through hardware that cannot do it, or never. What the kernel may leave
 * undone in frames for the guest is asked for with TUNSETOFFLOAD; the device finishes it in software if the
 * guest cannot take it. A kernel without the header works with whole frames.
 *
 * The interface exists, or the process may make it (CAP_NET_ADMIN). It is closed, not deleted, at the end. */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "net/net_priv.h"

#define BATCH 64

/* Since Linux 6.2; newer than the headers of some distributions. */
#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

struct tap {
    struct net_backend base;
    int fd;
    bool has_header, is_lost;
    struct loop_fd *watch;
    unsigned events;
    struct yado_error why;
    struct net_frame held; /* refused by the device; len 0: none */
    uint8_t buf[NET_FRAME_MAX + 1];
};

static struct tap *tap_of(struct net_backend *b)
{
    return container_of(b, struct tap, base);
}

static void watch_set(struct tap *t)
{
    unsigned events = t->is_lost || t->held.len ? 0 : LOOP_READ;

    if (t->watch && events != t->events)
        loop_fd_events(t->watch, events);
    t->events = events;
}

static void lost_tell(void *ctx)
{
    struct tap *t = ctx;

    t->base.port.lost(t->base.port.ctx, &t->why);
}

/* Posted: the device's lock may be held here. */
static void lose(struct tap *t, int error)
{
    if (t->is_lost)
        return;
    t->is_lost = true;
    err_set_errno(&t->why, YADO_ERR_HOST, error, "the tap interface is gone");
    watch_set(t);
    loop_post(t->base.loop, lost_tell, t);
}

/* EBADFD: the interface was deleted. EIO: it is down, which passes. */
static bool is_end(int error)
{
    return error == EBADFD || error == ENODEV;
}

/* A write never waits: the kernel drops what it has no room for. */
static bool tap_send(struct net_backend *b, const struct net_frame *f)
{
    struct tap *t = tap_of(b);
    struct net_offload off = f->off;
    struct iovec iov[2] = { { .iov_base = &off, .iov_len = sizeof(off) },
                            { .iov_base = f->data, .iov_len = f->len } };
    ssize_t n;

    if (t->is_lost)
        return true;
    do {
        n = t->has_header ? writev(t->fd, iov, 2) : write(t->fd, f->data, f->len);
    } while (n < 0 && errno == EINTR);
    if (n < 0 && is_end(errno))
        lose(t, errno);
    return true;
}

/* Reads one frame into held. False: there is none. */
static bool frame_read(struct tap *t)
{
    struct net_offload off = { 0 };
    size_t header = t->has_header ? sizeof(off) : 0;
    struct iovec iov[2] = { { .iov_base = &off, .iov_len = header },
                            { .iov_base = t->buf, .iov_len = sizeof(t->buf) } };
    ssize_t n = readv(t->fd, iov, 2);

    if (n < 0 && is_end(errno))
        lose(t, errno);
    if (n < 0)
        return false;
    t->held =
        (struct net_frame){ .data = t->buf, .len = (size_t)n > header ? (size_t)n - header : 0, .off = off };
    if (t->held.len < NET_ETH_LEN || t->held.len > NET_FRAME_MAX)
        t->held.len = 0;
    return true;
}

static void in_go_on(struct tap *t)
{
    for (unsigned i = 0; i < BATCH && !t->is_lost; i++) {
        if (!t->held.len && !frame_read(t))
            break;
        if (t->held.len && !t->base.port.deliver(t->base.port.ctx, &t->held))
            break;
        t->held.len = 0;
    }
    t->base.port.flush(t->base.port.ctx);
    watch_set(t);
}

static void on_event(void *ctx, unsigned events)
{
    struct tap *t = ctx;

    (void)events; /* a deleted interface hangs up; reading says why */
    if (t->events)
        in_go_on(t);
}

static void tap_resume(struct net_backend *b)
{
    in_go_on(tap_of(b));
}

static bool tap_start(struct net_backend *b, struct yado_error *err)
{
    struct tap *t = tap_of(b);

    t->events = LOOP_READ;
    t->watch = loop_fd_add(b->loop, t->fd, t->events, on_event, t, err);
    return t->watch != NULL;
}

static void tap_stop(struct net_backend *b)
{
    struct tap *t = tap_of(b);

    t->is_lost = true;
    watch_set(t);
}

static void tap_free(struct net_backend *b)
{
    struct tap *t = tap_of(b);

    loop_fd_remove(t->watch);
    if (t->fd >= 0)
        close(t->fd);
    free(t);
}

static const struct net_backend_ops tap_ops = {
    .name = "tap",
    .start = tap_start,
    .send = tap_send,
    .resume = tap_resume,
    .stop = tap_stop,
    .free = tap_free,
};

/* A persistent interface that was made for several queues insists on being told so, and one made without a
 * header on that. */
static bool flags_try(struct tap *t, struct ifreq *ifr)
{
    static const short ways[] = { IFF_VNET_HDR, IFF_VNET_HDR | IFF_MULTI_QUEUE, 0, IFF_MULTI_QUEUE };

    for (size_t i = 0; i < array_size(ways); i++) {
        ifr->ifr_flags = (short)(IFF_TAP | IFF_NO_PI | ways[i]);
        t->has_header = (ways[i] & IFF_VNET_HDR) != 0;
        if (ioctl(t->fd, TUNSETIFF, ifr) == 0)
            return true;
        if (errno != EINVAL)
            return false;
    }
    return false;
}

static bool interface_attach(struct tap *t, const char *name, struct yado_error *err)
{
    struct ifreq ifr = { 0 };
    int on = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;

    if (!name[0] || strlen(name) >= sizeof(ifr.ifr_name))
        return err_set(err, YADO_ERR_INVALID_CONFIG, "tap: \"%s\" is not the name of an interface", name);
    memcpy(ifr.ifr_name, name, strlen(name));
    if (!flags_try(t, &ifr)) {
        int e = errno;

        if (e == EPERM)
            return err_set_errno(
                err, YADO_ERR_HOST, e,
                "tap: %s cannot be opened; make it first, for this user (ip tuntap add dev %s "
                "mode tap user ...)",
                name, name);
        return err_set_errno(err, e == EBUSY ? YADO_ERR_IN_USE : YADO_ERR_HOST, e, "tap: %s cannot be opened",
                             name);
    }
    if (!t->has_header)
        return true;
    t->base.can = NET_CAN_CSUM | NET_CAN_TSO4 | NET_CAN_TSO6;
    if (ioctl(t->fd, TUNSETOFFLOAD, on | TUN_F_USO4 | TUN_F_USO6) == 0)
        t->base.can |= NET_CAN_USO;
    else if (ioctl(t->fd, TUNSETOFFLOAD, on) < 0)
        return true; /* frames for the guest come whole then */
    return true;
}

/* The interface's own MTU: frames longer than that do not pass it. */
static uint16_t interface_mtu(const char *name)
{
    struct ifreq ifr = { 0 };
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), mtu = NET_MTU_DEFAULT;

    memcpy(ifr.ifr_name, name, strlen(name));
    if (fd >= 0 && ioctl(fd, SIOCGIFMTU, &ifr) == 0)
        mtu = ifr.ifr_mtu;
    if (fd >= 0)
        close(fd);
    return mtu >= NET_MTU_MIN && mtu <= NET_MTU_MAX ? (uint16_t)mtu : NET_MTU_DEFAULT;
}

struct net_backend *tap_open(const struct net_config *cfg, struct loop *loop, struct yado_error *err)
{
    struct tap *t = calloc(1, sizeof(*t));

    if (!t) {
        err_set(err, YADO_ERR_MEMORY, "no memory for the attachment");
        return NULL;
    }
    t->base = (struct net_backend){ .ops = &tap_ops, .loop = loop };
    t->fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (t->fd < 0) {
        err_set_errno(err, YADO_ERR_HOST, errno, "tap: /dev/net/tun cannot be opened");
        tap_free(&t->base);
        return NULL;
    }
    if (!interface_attach(t, cfg->name, err)) {
        tap_free(&t->base);
        return NULL;
    }
    t->base.mtu = interface_mtu(cfg->name);
    return &t->base;
}
