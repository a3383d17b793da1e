/* The devices for the bench of hostile.h: how each is made, fed from its other side, and seen to work. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "disk/disk.h"
#include "host/anonfile.h"
#include "hostile.h"
#include "virtio/balloon.h"
#include "virtio/blk.h"
#include "virtio/console.h"
#include "virtio/net_priv.h"
#include "virtio/rng.h"
#include "virtio/vsock_priv.h"

/* Puts a chain on a queue of the subject and waits until it comes back. Returns the used length. */
static uint32_t done(struct hostile *h, unsigned queue, const struct drv_seg *segs, unsigned count)
{
    uint32_t id, len;

    drv_add(&h->subject.d.queues[queue], 0, segs, count);
    h_kick(h, &h->subject, queue);
    drv_wait_used(&h->subject.d.queues[queue], &id, &len);
    return len;
}

static uint64_t place(struct hostile *h, const void *data, uint32_t len)
{
    uint64_t gpa = drv_alloc(&h->subject.d, len);

    if (data)
        memcpy(drv_at(&h->subject.d, gpa, len), data, len);
    return gpa;
}

struct call {
    void (*fn)(struct hostile *h);
    struct hostile *h;
    bool done;
};

static void call_run(void *ctx)
{
    struct call *c = ctx;

    c->fn(c->h);
    __atomic_store_n(&c->done, true, __ATOMIC_SEQ_CST);
}

static void on_loop(struct hostile *h, void (*fn)(struct hostile *h))
{
    struct call c = { .fn = fn, .h = h };

    assert_true(loop_post(h->loop, call_run, &c));
    while (!__atomic_load_n(&c.done, __ATOMIC_SEQ_CST))
        usleep(20);
}

/* ---- entropy ---- */

static bool rng_fill(void *ctx, void *buf, size_t len)
{
    (void)ctx;
    memset(buf, 0x17, len);
    return true;
}

static struct vdev *rng_make(struct hostile *h)
{
    h->own =
        vrng_new(&(struct vrng_config){ .fill = rng_fill, .log = &h->subject.d.log, .loop = h->loop }, NULL);
    return h->own ? vrng_vdev(h->own) : NULL;
}

static void rng_free(struct hostile *h)
{
    vrng_free(h->own);
}

static void rng_works(struct hostile *h)
{
    struct drv_seg seg = { place(h, NULL, 100), 100, true };

    assert_int_equal(done(h, 0, &seg, 1), 100);
    assert_int_equal(*(uint8_t *)drv_at(&h->subject.d, seg.gpa + 99, 1), 0x17);
}

/* ---- disk ---- */

#define DISK_LEN MIB(1)

struct own_blk {
    struct vblk *blk;
    struct disk *disk;
    uint8_t round;
};

static struct vdev *blk_make(struct hostile *h)
{
    struct own_blk *o = calloc(1, sizeof(*o));
    struct disk_options opt = { .sync = DISK_SYNC_NONE };
    int fd = anonfile_open("hostile", DISK_LEN, false);

    o->disk = disk_open_raw(fd, "disk", &opt, NULL);
    assert_non_null(o->disk);
    o->blk =
        vblk_new(&(struct vblk_config){ .disk = o->disk, .log = &h->subject.d.log, .loop = h->loop }, NULL);
    h->own = o;
    return o->blk ? vblk_vdev(o->blk) : NULL;
}

static void blk_free(struct hostile *h)
{
    struct own_blk *o = h->own;

    vblk_free(o->blk);
    disk_close(o->disk);
    free(o);
}

/* virtio 1.2, 5.2.6: type 1 writes, type 0 reads; the status byte is 0. */
static void blk_transfer(struct hostile *h, uint32_t type, uint64_t data)
{
    struct {
        uint32_t type, reserved;
        uint64_t sector;
    } header = { .type = type, .sector = 7 };
    struct drv_seg segs[3] = { { place(h, &header, 16), 16, false },
                               { data, 512, type == 0 },
                               { place(h, "\xff", 1), 1, true } };

    assert_int_equal(done(h, 0, segs, 3), type ? 1 : 513);
    assert_int_equal(*(uint8_t *)drv_at(&h->subject.d, segs[2].gpa, 1), 0);
}

static void blk_works(struct hostile *h)
{
    struct own_blk *o = h->own;
    uint64_t out = place(h, NULL, 512), in = place(h, NULL, 512);

    memset(drv_at(&h->subject.d, out, 512), ++o->round, 512);
    blk_transfer(h, 1, out);
    blk_transfer(h, 0, in);
    assert_memory_equal(drv_at(&h->subject.d, in, 512), drv_at(&h->subject.d, out, 512), 512);
}

/* ---- network ---- */

struct own_net {
    struct vnet *net;
    struct net_backend *backend;
    unsigned sent; /* atomic */
};

struct sink {
    struct net_backend base;
    struct own_net *o;
};

static bool sink_start(struct net_backend *b, struct yado_error *err)
{
    (void)b;
    (void)err;
    return true;
}

static bool sink_send(struct net_backend *b, const struct net_frame *f)
{
    (void)f;
    __atomic_add_fetch(&container_of(b, struct sink, base)->o->sent, 1, __ATOMIC_SEQ_CST);
    return true;
}

static void sink_ignore(struct net_backend *b)
{
    (void)b;
}

static void sink_free(struct net_backend *b)
{
    free(container_of(b, struct sink, base));
}

static const struct net_backend_ops sink_ops = { .name = "sink",
                                                 .start = sink_start,
                                                 .send = sink_send,
                                                 .resume = sink_ignore,
                                                 .stop = sink_ignore,
                                                 .free = sink_free };

static const uint8_t mac[6] = { 0x52, 0x54, 0, 1, 2, 3 };

static struct vdev *net_make(struct hostile *h)
{
    struct own_net *o = calloc(1, sizeof(*o));
    struct sink *s = calloc(1, sizeof(*s));
    struct vnet_config cfg = { .mtu = NET_MTU_DEFAULT, .log = &h->subject.d.log, .loop = h->loop };

    memcpy(cfg.mac, mac, 6);
    s->base = (struct net_backend){ .ops = &sink_ops, .loop = h->loop, .mtu = NET_MTU_DEFAULT };
    s->o = o;
    o->backend = &s->base;
    o->net = vnet_new(&cfg, NULL);
    h->own = o;
    assert_true(vnet_attach(o->net, &s->base, NULL));
    return vnet_vdev(o->net);
}

static void net_free_device(struct hostile *h)
{
    struct own_net *o = h->own;

    vnet_free(o->net);
    free(o);
}

static void net_frame_in(struct hostile *h)
{
    struct own_net *o = h->own;
    struct net_port *p = &o->backend->port;
    uint8_t data[100] = { 0 };
    struct net_frame f = { .data = data, .len = sizeof(data) };

    memcpy(data, mac, 6);
    data[12] = 0x88;
    data[13] = 0xb5;
    p->deliver(p->ctx, &f);
    p->flush(p->ctx);
}

static void net_poke(struct hostile *h)
{
    on_loop(h, net_frame_in);
}

static void net_works(struct hostile *h)
{
    struct own_net *o = h->own;
    struct drv_seg rx = { place(h, NULL, 2048), 2048, true };
    struct drv_seg tx = { place(h, NULL, 112), 112, false };
    unsigned before = __atomic_load_n(&o->sent, __ATOMIC_SEQ_CST);
    uint32_t id, len;

    drv_add(&h->subject.d.queues[0], 0, &rx, 1);
    h_kick(h, &h->subject, 0);
    done(h, 1, &tx, 1);
    assert_int_equal(__atomic_load_n(&o->sent, __ATOMIC_SEQ_CST), before + 1);
    net_poke(h);
    drv_wait_used(&h->subject.d.queues[0], &id, &len);
    assert_int_equal(len, sizeof(struct net_header) + 100);
}

/* ---- sockets ---- */

static int refuse(void *ctx, uint64_t id, uint32_t guest_port, uint32_t host_port)
{
    (void)ctx;
    (void)id;
    (void)guest_port;
    (void)host_port;
    return VSOCK_REFUSED;
}

static void connected(void *ctx, uint64_t tag, uint32_t host_port, const struct yado_error *why)
{
    (void)ctx;
    (void)tag;
    (void)host_port;
    (void)why;
}

static struct vdev *vsock_make(struct hostile *h)
{
    h->own = vsock_new(&(struct vsock_config){ .guest_cid = 3,
                                               .asked = refuse,
                                               .connected = connected,
                                               .clock = clock_host(),
                                               .log = &h->subject.d.log,
                                               .loop = h->loop },
                       NULL);
    return h->own ? vsock_vdev(h->own) : NULL;
}

static void vsock_free_device(struct hostile *h)
{
    vsock_free(h->own);
}

/* A connection to a port where nobody listens: the answer is a packet for the guest. What becomes of the
 * request's own buffer is not awaited: the answer may break the device. */
static void vsock_request(struct hostile *h)
{
    struct vsock_header header = {
        .src_cid = 3, .dst_cid = 2, .src_port = 5, .dst_port = 6, .type = TYPE_STREAM, .op = OP_REQUEST
    };
    struct drv_seg tx = { place(h, &header, sizeof(header)), sizeof(header), false };

    drv_add(&h->subject.d.queues[QUEUE_TX], 0, &tx, 1);
    h_kick(h, &h->subject, QUEUE_TX);
}

static void vsock_event(struct hostile *h)
{
    vsock_transport_reset(h->own);
}

static void vsock_works(struct hostile *h)
{
    struct drv_seg rx = { place(h, NULL, 4096), 4096, true };
    struct vsock_header got;
    uint32_t id, len;

    drv_add(&h->subject.d.queues[QUEUE_RX], 0, &rx, 1);
    h_kick(h, &h->subject, QUEUE_RX);
    vsock_request(h);
    drv_wait_used(&h->subject.d.queues[QUEUE_RX], &id, &len);
    memcpy(&got, drv_at(&h->subject.d, rx.gpa, sizeof(got)), sizeof(got));
    assert_int_equal(got.op, OP_RST);
    assert_int_equal(got.dst_port, 5);
}

/* ---- memory balloon ---- */

#define BALLOON_REPORTING (1ull << 5)

static struct vdev *balloon_make(struct hostile *h)
{
    h->own = vballoon_new(&(struct vballoon_config){ .log = &h->subject.d.log, .loop = h->loop }, NULL);
    return h->own ? vballoon_vdev(h->own) : NULL;
}

static void balloon_free(struct hostile *h)
{
    vballoon_free(h->own);
}

static void balloon_works(struct hostile *h)
{
    const uint32_t page = MIB(8) / VBALLOON_PAGE;
    struct drv_seg pages = { place(h, &page, 4), 4, false }, report = { MIB(9), VBALLOON_PAGE, true };

    memset(drv_at(&h->subject.d, MIB(8), VBALLOON_PAGE), 1, VBALLOON_PAGE);
    done(h, 0, &pages, 1);
    assert_int_equal(*(uint8_t *)drv_at(&h->subject.d, MIB(8), 1), 0);
    done(h, 1, &pages, 1);
    done(h, 2, &report, 1);
}

/* ---- console ---- */

struct own_console {
    struct vconsole *console;
    unsigned got; /* bytes; atomic */
};

static size_t console_sink(void *ctx, unsigned port, const uint8_t *buf, size_t len)
{
    struct own_console *o = ((struct hostile *)ctx)->own;

    (void)port;
    (void)buf;
    __atomic_add_fetch(&o->got, (unsigned)len, __ATOMIC_SEQ_CST);
    return len;
}

static struct vdev *console_make_ports(struct hostile *h, bool multiport, unsigned count)
{
    static const struct vconsole_port_config ports[2] = {
        { .is_present = true, .is_console = true, .columns = 80, .rows = 24 },
        { .is_present = true, .name = "port", .is_host_open = true },
    };
    struct own_console *o = calloc(1, sizeof(*o));

    o->console = vconsole_new(&(struct vconsole_config){ .multiport = multiport,
                                                         .ports = ports,
                                                         .port_count = count,
                                                         .sink = console_sink,
                                                         .ctx = h,
                                                         .log = &h->subject.d.log,
                                                         .loop = h->loop },
                              NULL);
    h->own = o;
    return o->console ? vconsole_vdev(o->console) : NULL;
}

static struct vdev *console_make(struct hostile *h)
{
    return console_make_ports(h, false, 1);
}

static struct vdev *ports_make(struct hostile *h)
{
    return console_make_ports(h, true, 2);
}

static void console_free(struct hostile *h)
{
    struct own_console *o = h->own;

    vconsole_free(o->console);
    free(o);
}

static void console_poke(struct hostile *h)
{
    struct own_console *o = h->own;

    vconsole_receive(o->console, 0, "typed", 5);
}

static void console_works(struct hostile *h)
{
    struct own_console *o = h->own;
    struct drv_seg rx = { place(h, NULL, 64), 64, true }, tx = { place(h, "says", 4), 4, false };
    unsigned before = __atomic_load_n(&o->got, __ATOMIC_SEQ_CST);
    uint32_t id, len;

    done(h, 1, &tx, 1);
    assert_int_equal(__atomic_load_n(&o->got, __ATOMIC_SEQ_CST), before + 4);
    drv_add(&h->subject.d.queues[0], 0, &rx, 1);
    h_kick(h, &h->subject, 0);
    console_poke(h);
    drv_wait_used(&h->subject.d.queues[0], &id, &len);
    assert_int_equal(len, 5);
}

enum { CONSOLE_F_MULTIPORT = 2, CONSOLE_DEVICE_READY = 0, CONSOLE_PORT_ADD = 1, CONSOLE_PORT_OPEN = 6 };

static void ports_say(struct hostile *h, uint32_t port, uint32_t event)
{
    const uint32_t message[2] = { port, event | 1u << 16 };
    struct drv_seg seg = { place(h, message, sizeof(message)), sizeof(message), false };

    done(h, 3, &seg, 1);
}

static void ports_work(struct hostile *h)
{
    struct own_console *o = h->own;
    struct drv_queue *control = &h->subject.d.queues[2], *input = &h->subject.d.queues[4];
    struct drv_seg tx = { place(h, "says", 4), 4, false }, rx = { place(h, NULL, 64), 64, true };
    unsigned before = __atomic_load_n(&o->got, __ATOMIC_SEQ_CST);
    uint64_t messages = place(h, NULL, 128);
    uint32_t id, len;

    for (unsigned i = 0; i < 2; i++) {
        drv_add(control, i, &(struct drv_seg){ messages + i * 64, 64, true }, 1);
        h_kick(h, &h->subject, 2);
    }
    ports_say(h, UINT32_MAX, CONSOLE_DEVICE_READY);
    for (unsigned i = 0; i < 2; i++) {
        const uint32_t add[2] = { i, CONSOLE_PORT_ADD | 1u << 16 };

        drv_wait_used(control, &id, &len);
        assert_int_equal(len, 8);
        assert_memory_equal(drv_at(&h->subject.d, messages + id * 64, 8), add, 8);
    }
    ports_say(h, 1, CONSOLE_PORT_OPEN);
    done(h, 5, &tx, 1);
    assert_int_equal(__atomic_load_n(&o->got, __ATOMIC_SEQ_CST), before + 4);
    drv_add(input, 0, &rx, 1);
    h_kick(h, &h->subject, 4);
    assert_int_equal(vconsole_receive(o->console, 1, "typed", 5), 5);
    drv_wait_used(input, &id, &len);
    assert_int_equal(len, 5);
}

/* ---- all of them ---- */

const struct hostile_kind hostile_kinds[] = {
    { .name = "blk",
      .make = blk_make,
      .free = blk_free,
      .works = blk_works,
      .queues = { { 0, false, NULL } },
      .queue_count = 1 },
    { .name = "net",
      .features = F_CTRL_VQ,
      .make = net_make,
      .free = net_free_device,
      .works = net_works,
      .queues = { { 0, true, net_poke }, { 1, false, NULL }, { 2, false, NULL } },
      .queue_count = 3 },
    { .name = "rng",
      .make = rng_make,
      .free = rng_free,
      .works = rng_works,
      .queues = { { 0, true, NULL } },
      .queue_count = 1 },
    { .name = "vsock",
      .make = vsock_make,
      .free = vsock_free_device,
      .works = vsock_works,
      .queues = { { QUEUE_RX, true, vsock_request },
                  { QUEUE_TX, false, NULL },
                  { QUEUE_EVENT, true, vsock_event } },
      .queue_count = 3 },
    { .name = "balloon",
      .features = BALLOON_REPORTING,
      .make = balloon_make,
      .free = balloon_free,
      .works = balloon_works,
      .queues = { { 0, false, NULL }, { 1, false, NULL }, { 2, true, NULL } },
      .queue_count = 3 },
    { .name = "console",
      .make = console_make,
      .free = console_free,
      .works = console_works,
      .queues = { { 0, true, console_poke }, { 1, false, NULL } },
      .queue_count = 2 },
    { .name = "ports",
      .features = CONSOLE_F_MULTIPORT,
      .make = ports_make,
      .free = console_free,
      .works = ports_work,
      .queues = { { 1, false, NULL }, { 3, false, NULL }, { 5, false, NULL } },
      .queue_count = 3 },
};
const unsigned hostile_kind_count = array_size(hostile_kinds);
