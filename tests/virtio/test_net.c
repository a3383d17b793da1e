/* virtio-net against an attachment that the test controls, on a real event loop. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "driver.h"
#include "virtio/net_priv.h"

#define SENT_MAX 64

/* ---- an attachment ---- */

struct fake {
    struct net_backend base;
    bool refuse;
    unsigned sent_count, resumed, *freed;
    struct {
        size_t len;
        struct net_offload off;
        uint8_t data[NET_FRAME_MAX];
    } * sent;
};

static bool fake_start(struct net_backend *b, struct yado_error *err)
{
    (void)b;
    (void)err;
    return true;
}

static bool fake_send(struct net_backend *b, const struct net_frame *f)
{
    struct fake *k = container_of(b, struct fake, base);

    if (__atomic_load_n(&k->refuse, __ATOMIC_SEQ_CST) || k->sent_count == SENT_MAX)
        return false;
    k->sent[k->sent_count].len = f->len;
    k->sent[k->sent_count].off = f->off;
    memcpy(k->sent[k->sent_count].data, f->data, f->len);
    __atomic_add_fetch(&k->sent_count, 1, __ATOMIC_SEQ_CST);
    return true;
}

static void fake_resume(struct net_backend *b)
{
    __atomic_add_fetch(&container_of(b, struct fake, base)->resumed, 1, __ATOMIC_SEQ_CST);
}

static void fake_stop(struct net_backend *b)
{
    (void)b;
}

static void fake_free(struct net_backend *b)
{
    struct fake *k = container_of(b, struct fake, base);

    __atomic_add_fetch(k->freed, 1, __ATOMIC_SEQ_CST);
    free(k->sent);
    free(k);
}

static const struct net_backend_ops fake_ops = { .name = "fake",
                                                 .start = fake_start,
                                                 .send = fake_send,
                                                 .resume = fake_resume,
                                                 .stop = fake_stop,
                                                 .free = fake_free };

static struct fake *fake_new(struct loop *loop, unsigned can, unsigned *freed)
{
    struct fake *k = calloc(1, sizeof(*k));

    k->base = (struct net_backend){ .ops = &fake_ops, .loop = loop, .can = can, .mtu = NET_MTU_DEFAULT };
    k->sent = calloc(SENT_MAX, sizeof(*k->sent));
    k->freed = freed;
    return k;
}

/* ---- a device ---- */

struct bench {
    struct drv d;
    struct loop *loop;
    struct vnet *net;
    struct fake *fake;
    unsigned freed, lost;
};

static const uint8_t mac[6] = { 0x52, 0x54, 0, 1, 2, 3 };
#define ALL_FEATURES                                                                                         \
    (F_CSUM | GUEST_OFFLOADS | F_CTRL_GUEST_OFFLOADS | F_MAC | F_HOST_TSO4 | F_HOST_TSO6 | F_HOST_ECN |      \
     F_HOST_USO | F_MRG_RXBUF | F_STATUS | F_CTRL_VQ | F_CTRL_RX | F_CTRL_RX_EXTRA | F_GUEST_ANNOUNCE |      \
     F_CTRL_MAC_ADDR)

static void on_lost(void *ctx, const struct yado_error *why)
{
    (void)why;
    __atomic_add_fetch(&((struct bench *)ctx)->lost, 1, __ATOMIC_SEQ_CST);
}

static void bench_start_with(struct bench *b, uint64_t features, unsigned can, unsigned pairs)
{
    struct yado_error err = YADO_ERROR_INIT;

    memset(b, 0, sizeof(*b));
    drv_init(&b->d);
    b->loop = loop_new(&err);
    struct vnet_config cfg = { .mtu = NET_MTU_DEFAULT,
                               .queue_pairs = pairs,
                               .lost = on_lost,
                               .ctx = b,
                               .log = &b->d.log,
                               .loop = b->loop };
    memcpy(cfg.mac, mac, 6);
    b->net = vnet_new(&cfg, &err);
    assert_non_null(b->net);
    b->fake = fake_new(b->loop, can, &b->freed);
    assert_true(vnet_attach(b->net, &b->fake->base, &err));
    drv_attach(&b->d, vnet_vdev(b->net));
    assert_true(loop_start(b->loop, "test", &err));
    drv_start(&b->d, features, 64);
}

static void bench_start(struct bench *b, uint64_t features)
{
    bench_start_with(b, features, NET_CAN_CSUM | NET_CAN_TSO4 | NET_CAN_TSO6 | NET_CAN_USO, 1);
}

static void bench_end(struct bench *b)
{
    unsigned freed = b->freed;

    loop_stop(b->loop);
    vnet_free(b->net);
    assert_int_equal(b->freed, freed + 1);
    loop_free(b->loop);
    drv_free(&b->d);
}

/* ---- on the loop ---- */

struct call {
    void (*fn)(struct bench *b, void *arg);
    struct bench *b;
    void *arg;
    bool done;
};

static void call_run(void *ctx)
{
    struct call *c = ctx;

    c->fn(c->b, c->arg);
    __atomic_store_n(&c->done, true, __ATOMIC_SEQ_CST);
}

static void on_loop(struct bench *b, void (*fn)(struct bench *b, void *arg), void *arg)
{
    struct call c = { .fn = fn, .b = b, .arg = arg };

    assert_true(loop_post(b->loop, call_run, &c));
    while (!__atomic_load_n(&c.done, __ATOMIC_SEQ_CST))
        usleep(50);
}

static void nothing(struct bench *b, void *arg)
{
    (void)b;
    (void)arg;
}

/* What was posted before has run, and what that posted. */
static void settle(struct bench *b)
{
    for (unsigned i = 0; i < 3; i++)
        on_loop(b, nothing, NULL);
}

struct delivery {
    struct net_frame frame;
    bool taken, keep_back; /* keep_back: no flush */
};

static void deliver_run(struct bench *b, void *arg)
{
    struct delivery *v = arg;
    struct net_port *p = &b->fake->base.port;

    v->taken = p->deliver(p->ctx, &v->frame);
    if (!v->keep_back)
        p->flush(p->ctx);
}

static bool deliver(struct bench *b, const void *data, size_t len, struct net_offload off)
{
    static uint8_t copy[NET_FRAME_MAX];
    struct delivery v = { .frame = { .data = copy, .len = len, .off = off } };

    memcpy(copy, data, len);
    on_loop(b, deliver_run, &v);
    return v.taken;
}

/* ---- frames ---- */

static uint8_t frame[NET_FRAME_MAX];

static size_t frame_make(size_t len, unsigned number)
{
    for (size_t i = 0; i < len; i++)
        frame[i] = (uint8_t)(i * 7 + number);
    memcpy(frame, mac, 6);
    frame[12] = 0x88; /* of no protocol that anyone looks into */
    frame[13] = 0xb5;
    return len;
}

/* TCP over IPv4 with `payload` bytes, its checksum left undone. */
static size_t tcp_make(size_t payload, struct net_offload *off)
{
    size_t total = 40 + payload;

    frame_make(14 + total, 3);
    memset(frame + 12, 0, 42);
    frame[12] = 8;
    frame[14] = 0x45;
    frame[16] = (uint8_t)(total >> 8);
    frame[17] = (uint8_t)total;
    frame[22] = 64;
    frame[23] = 6;
    frame[46] = 5 << 4;
    *off = (struct net_offload){ .flags = NET_NEEDS_CSUM, .csum_start = 34, .csum_offset = 16 };
    return 14 + total;
}

/* Sends a frame as a driver does: a header and the frame, in two segments. Returns the used length. */
static void put_tx(struct bench *b, unsigned queue, unsigned first, const struct net_offload *off, size_t len)
{
    struct net_header h = { .off = *off };
    uint64_t head = drv_alloc(&b->d, sizeof(h)), body = drv_alloc(&b->d, len);
    struct drv_seg segs[2] = { { head, sizeof(h), false }, { body, (uint32_t)len, false } };

    memcpy(drv_at(&b->d, head, sizeof(h)), &h, sizeof(h));
    memcpy(drv_at(&b->d, body, len), frame, len);
    drv_add(&b->d.queues[queue], first, segs, 2);
}

static void transmit(struct bench *b, const struct net_offload *off, size_t len)
{
    uint32_t id, used;

    put_tx(b, 1, 0, off, len);
    vdev_kick(vnet_vdev(b->net), 1);
    drv_wait_used(&b->d.queues[1], &id, &used);
    assert_int_equal(used, 0);
}

/* Gives `count` receive buffers of `len` bytes, in descriptors from `first` on. */
static uint64_t buffers_give(struct bench *b, unsigned queue, unsigned first, unsigned count, uint32_t len)
{
    uint64_t gpa = drv_alloc(&b->d, (uint64_t)count * len);

    for (unsigned i = 0; i < count; i++) {
        struct drv_seg s = { gpa + (uint64_t)i * len, len, true };

        drv_add(&b->d.queues[queue], first + i, &s, 1);
    }
    return gpa;
}

static const struct net_offload plain;

/* ---- tests ---- */

static void frames_go_out(void **state)
{
    struct bench b;

    (void)state;
    bench_start(&b, ALL_FEATURES);
    transmit(&b, &plain, frame_make(60, 1));
    assert_int_equal(b.fake->sent_count, 1);
    assert_int_equal(b.fake->sent[0].len, 60);
    assert_memory_equal(b.fake->sent[0].data, frame, 60);
    transmit(&b, &plain, frame_make(NET_FRAME_MAX, 2));
    assert_memory_equal(b.fake->sent[1].data, frame, NET_FRAME_MAX);
    bench_end(&b);
}

static void what_an_attachment_can_is_left_to_it(void **state)
{
    struct net_offload off;
    struct bench b;
    size_t len;

    (void)state;
    bench_start(&b, ALL_FEATURES);
    len = tcp_make(10000, &off);
    off.gso_type = NET_GSO_TCPV4;
    off.gso_size = 1000;
    transmit(&b, &off, len);
    assert_int_equal(b.fake->sent_count, 1);
    assert_memory_equal(&b.fake->sent[0].off, &off, sizeof(off));
    bench_end(&b);
}

static void what_it_cannot_is_done_here(void **state)
{
    struct net_offload off;
    struct bench b;
    size_t len;

    (void)state;
    bench_start_with(&b, ALL_FEATURES, 0, 1);
    len = tcp_make(10000, &off);
    off.gso_type = NET_GSO_TCPV4;
    off.gso_size = 1000;
    transmit(&b, &off, len);
    assert_int_equal(b.fake->sent_count, 10);
    for (unsigned i = 0; i < 10; i++) {
        assert_int_equal(b.fake->sent[i].len, 54 + 1000);
        assert_int_equal(b.fake->sent[i].off.flags, 0);
        assert_memory_equal(b.fake->sent[i].data + 54, frame + 54 + 1000 * i, 1000);
    }
    bench_end(&b);
}

/* A frame that lies about itself is dropped, returned, and counted; the device goes on. */
static void lies_are_dropped(void **state)
{
    struct net_offload off[6];
    struct bench b;
    size_t len = tcp_make(500, &off[0]);

    (void)state;
    for (unsigned i = 1; i < 6; i++)
        off[i] = off[0];
    off[0].csum_start = 60000;
    off[1].gso_type = NET_GSO_TCPV6, off[1].gso_size = 100;
    off[2].gso_type = NET_GSO_TCPV4, off[2].gso_size = 0;
    off[3].gso_type = 77;
    off[4].flags = 0x40;
    off[5].gso_type = NET_GSO_TCPV4, off[5].gso_size = 100, off[5].flags = 0;
    bench_start(&b, ALL_FEATURES);
    for (unsigned i = 0; i < 6; i++)
        transmit(&b, &off[i], len);
    transmit(&b, &plain, 13); /* less than an Ethernet header */
    assert_int_equal(b.fake->sent_count, 0);
    assert_int_equal(vnet_counters_get(b.net).bad, 7);
    transmit(&b, &plain, frame_make(60, 1));
    assert_int_equal(b.fake->sent_count, 1);
    bench_end(&b);
}

/* Features that were not agreed on cannot be used. */
static void offloads_need_agreement(void **state)
{
    struct net_offload off;
    struct bench b;
    size_t len = tcp_make(3000, &off);

    (void)state;
    bench_start(&b, F_MAC);
    transmit(&b, &off, len);
    assert_int_equal(vnet_counters_get(b.net).bad, 1);
    bench_end(&b);
    bench_start(&b, F_CSUM);
    transmit(&b, &off, len);
    assert_int_equal(b.fake->sent_count, 1);
    off.gso_type = NET_GSO_TCPV4;
    off.gso_size = 1000;
    transmit(&b, &off, len);
    assert_int_equal(vnet_counters_get(b.net).bad, 1);
    bench_end(&b);
}

static void a_frame_without_a_header_breaks_it(void **state)
{
    struct bench b;
    struct drv_seg s;

    (void)state;
    bench_start(&b, ALL_FEATURES);
    s = (struct drv_seg){ drv_alloc(&b.d, 16), 11, false };
    drv_add(&b.d.queues[1], 0, &s, 1);
    vdev_kick(vnet_vdev(b.net), 1);
    settle(&b);
    assert_true(drv_status(&b.d) & VIRTIO_STATUS_NEEDS_RESET);
    assert_non_null(strstr(b.d.fault, "header"));
    assert_true(deliver(&b, frame, frame_make(60, 1), plain)); /* frames for it are dropped */
    drv_reset(&b.d);
    drv_start(&b.d, ALL_FEATURES, 64);
    transmit(&b, &plain, frame_make(60, 2));
    assert_int_equal(b.fake->sent_count, 1);
    bench_end(&b);
}

static void an_attachment_can_refuse(void **state)
{
    struct bench b;
    uint32_t id, used;

    (void)state;
    bench_start(&b, ALL_FEATURES | VIRTIO_F_EVENT_IDX);
    b.fake->refuse = true;
    frame_make(100, 1);
    for (unsigned i = 0; i < 3; i++)
        put_tx(&b, 1, 2 * i, &plain, 100 + i);
    vdev_kick(vnet_vdev(b.net), 1);
    settle(&b);
    assert_false(drv_used(&b.d.queues[1], &id, &used));
    __atomic_store_n(&b.fake->refuse, false, __ATOMIC_SEQ_CST);
    b.fake->base.port.writable(b.fake->base.port.ctx);
    for (unsigned i = 0; i < 3; i++) {
        drv_wait_used(&b.d.queues[1], &id, &used);
        assert_int_equal(id, 2 * i);
        assert_int_equal(b.fake->sent[i].len, 100 + i);
    }
    assert_int_equal(vnet_counters_get(b.net).sent, 3);
    /* Refused and reset: nothing stays held. */
    b.fake->refuse = true;
    put_tx(&b, 1, 0, &plain, 100);
    vdev_kick(vnet_vdev(b.net), 1);
    settle(&b);
    drv_reset(&b.d);
    b.fake->base.port.writable(b.fake->base.port.ctx);
    bench_end(&b);
}

/* A long frame takes several buffers, which the driver sees at the flush and not before. */
static void frames_come_in_pieces(void **state)
{
    struct bench b;
    struct net_header h;
    uint64_t gpa;
    uint32_t id, used;
    struct delivery v = { .frame = { .data = frame }, .keep_back = true };

    (void)state;
    bench_start(&b, ALL_FEATURES);
    gpa = buffers_give(&b, 0, 0, 8, 2000);
    v.frame.len = frame_make(5000, 9);
    on_loop(&b, deliver_run, &v);
    assert_true(v.taken);
    assert_false(drv_used(&b.d.queues[0], &id, &used));
    b.fake->base.port.flush(b.fake->base.port.ctx);
    for (unsigned i = 0; i < 3; i++) {
        assert_true(drv_used(&b.d.queues[0], &id, &used));
        assert_int_equal(id, i);
        assert_int_equal(used, i < 2 ? 2000 : 5000 + 12 - 4000);
    }
    assert_false(drv_used(&b.d.queues[0], &id, &used));
    memcpy(&h, drv_at(&b.d, gpa, 12), 12);
    assert_int_equal(h.num_buffers, 3);
    assert_memory_equal(drv_at(&b.d, gpa + 12, 5000), frame, 5000); /* buffers lie side by side */
    assert_true(__atomic_load_n(&b.d.queue_interrupts[0], __ATOMIC_SEQ_CST) >= 1);
    bench_end(&b);
}

static void no_buffers_make_it_wait(void **state)
{
    struct bench b;
    uint32_t id, used;

    (void)state;
    for (unsigned event = 0; event < 2; event++) {
        bench_start(&b, ALL_FEATURES | (event ? VIRTIO_F_EVENT_IDX : 0));
        frame_make(5000, 1);
        buffers_give(&b, 0, 0, 2, 2000); /* some, but not enough */
        assert_false(deliver(&b, frame, 5000, plain));
        assert_false(drv_used(&b.d.queues[0], &id, &used));
        uint16_t old = b.d.queues[0].avail_idx;
        buffers_give(&b, 0, 2, 1, 2000);
        assert_true(drv_kick_wanted(&b.d.queues[0], old));
        vdev_kick(vnet_vdev(b.net), 0);
        settle(&b);
        assert_int_equal(b.fake->resumed, 1);
        assert_true(deliver(&b, frame, 5000, plain));
        for (unsigned i = 0; i < 3; i++)
            assert_true(drv_used(&b.d.queues[0], &id, &used));
        bench_end(&b);
    }
}

/* Without MRG_RXBUF a frame is in one buffer or is lost. */
static void what_does_not_fit_is_lost(void **state)
{
    struct bench b;
    uint32_t id, used;

    (void)state;
    bench_start(&b, F_MAC | F_STATUS);
    buffers_give(&b, 0, 0, 2, 1526);
    assert_true(deliver(&b, frame, frame_make(1515, 1), plain));
    assert_int_equal(vnet_counters_get(b.net).unfit, 1);
    assert_true(deliver(&b, frame, frame_make(1514, 1), plain));
    assert_true(drv_used(&b.d.queues[0], &id, &used));
    assert_int_equal(used, 1526);
    bench_end(&b);
}

/* A guest that takes no offloads gets whole packets. */
static void simple_guests_get_simple_frames(void **state)
{
    struct net_offload off;
    struct net_header h;
    struct bench b;
    uint32_t id, used;
    uint64_t gpa;
    size_t len;

    (void)state;
    bench_start(&b, F_MAC);
    gpa = buffers_give(&b, 0, 0, 16, 2000);
    len = tcp_make(3000, &off);
    off.gso_type = NET_GSO_TCPV4;
    off.gso_size = 1000;
    assert_true(deliver(&b, frame, len, off));
    for (unsigned i = 0; i < 3; i++) {
        assert_true(drv_used(&b.d.queues[0], &id, &used));
        assert_int_equal(used, 12 + 54 + 1000);
        memcpy(&h, drv_at(&b.d, gpa + 2000 * i, 12), 12);
        assert_int_equal(h.off.flags, 0);
        assert_int_equal(h.off.gso_type, 0);
        assert_int_equal(h.num_buffers, 1);
        assert_memory_equal(drv_at(&b.d, gpa + 2000 * i + 12 + 54, 1000), frame + 54 + 1000 * i, 1000);
    }
    off.gso_type = NET_GSO_NONE;
    assert_true(deliver(&b, frame, tcp_make(100, &off), off));
    assert_true(drv_used(&b.d.queues[0], &id, &used));
    memcpy(&h, drv_at(&b.d, gpa + 6000, 12), 12);
    assert_int_equal(h.off.flags, 0);
    bench_end(&b);

    bench_start(&b, ALL_FEATURES); /* and one that takes them gets the frame as it is */
    gpa = buffers_give(&b, 0, 0, 4, 2000);
    len = tcp_make(3000, &off);
    off.gso_type = NET_GSO_TCPV4;
    off.gso_size = 1000;
    assert_true(deliver(&b, frame, len, off));
    memcpy(&h, drv_at(&b.d, gpa, 12), 12);
    assert_memory_equal(&h.off, &off, sizeof(off));
    assert_int_equal(h.num_buffers, 2);
    bench_end(&b);
}

static void unwritable_buffers_break_it(void **state)
{
    struct bench b;
    struct drv_seg s;

    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        bench_start(&b, ALL_FEATURES);
        s = (struct drv_seg){ drv_alloc(&b.d, 2000), i ? 11 : 2000, i };
        drv_add(&b.d.queues[0], 0, &s, 1);
        assert_true(deliver(&b, frame, frame_make(60, 1), plain));
        assert_true(drv_status(&b.d) & VIRTIO_STATUS_NEEDS_RESET);
        drv_reset(&b.d);
        bench_end(&b);
    }
}

/* ---- control ---- */

static uint8_t control(struct bench *b, unsigned queue, uint8_t class, uint8_t code, const void *data,
                       size_t len)
{
    uint64_t out = drv_alloc(&b->d, 2 + len + 1), in = drv_alloc(&b->d, 1);
    struct drv_seg segs[2] = { { out, (uint32_t)(2 + len), false }, { in, 1, true } };
    uint8_t *p = drv_at(&b->d, out, 2 + len);
    uint32_t id, used;

    p[0] = class;
    p[1] = code;
    if (len)
        memcpy(p + 2, data, len);
    *(uint8_t *)drv_at(&b->d, in, 1) = 0x55;
    drv_add(&b->d.queues[queue], 0, segs, 2);
    vdev_kick(vnet_vdev(b->net), queue);
    drv_wait_used(&b->d.queues[queue], &id, &used);
    assert_int_equal(used, 1);
    return *(uint8_t *)drv_at(&b->d, in, 1);
}

static bool hears(struct bench *b, const uint8_t to[6])
{
    uint64_t before = vnet_counters_get(b->net).filtered;

    frame_make(60, 1);
    memcpy(frame, to, 6);
    assert_true(deliver(b, frame, 60, plain));
    return vnet_counters_get(b->net).filtered == before;
}

static void the_filter_is_the_drivers(void **state)
{
    static const uint8_t all[6] = { 255, 255, 255, 255, 255, 255 }, group[6] = { 1, 0, 94, 0, 0, 1 },
                         other[6] = { 2, 0, 0, 0, 0, 9 }, off, on = 1;
    uint8_t table[4 + 6 + 4 + 6] = { 1, 0, 0, 0, 2, 0, 0, 0, 0, 9, 1, 0, 0, 0, 1, 0, 94, 0, 0, 1 };
    struct bench b;

    (void)state;
    bench_start(&b, ALL_FEATURES);
    buffers_give(&b, 0, 0, 32, 2000);
    assert_true(hears(&b, other)); /* everything, until it is told */
    assert_int_equal(control(&b, 2, 0, 0, &off, 1), 0);
    assert_true(hears(&b, mac));
    assert_true(hears(&b, all));
    assert_false(hears(&b, other));
    assert_false(hears(&b, group));
    assert_int_equal(control(&b, 2, 1, 0, table, sizeof(table)), 0);
    assert_true(hears(&b, other));
    assert_true(hears(&b, group));
    memset(table, 0, 8);
    assert_int_equal(control(&b, 2, 1, 0, table, 8), 0);
    assert_false(hears(&b, group));
    assert_int_equal(control(&b, 2, 0, 1, &on, 1), 0); /* all groups */
    assert_true(hears(&b, group));
    assert_int_equal(control(&b, 2, 0, 5, &on, 1), 0); /* no broadcasts */
    assert_false(hears(&b, all));
    assert_int_equal(control(&b, 2, 1, 1, other, 6), 0); /* another address */
    assert_true(hears(&b, other));
    assert_false(hears(&b, mac));
    bench_end(&b);
}

static void bad_commands_change_nothing(void **state)
{
    uint8_t many[4] = { 0xff, 0xff, 0xff, 0xff }, data[64] = { 1 };
    uint64_t offloads = ~0ull;
    struct bench b;

    (void)state;
    bench_start(&b, ALL_FEATURES);
    assert_int_equal(control(&b, 2, 99, 0, data, 4), 1);
    assert_int_equal(control(&b, 2, 0, 99, data, 1), 1);
    assert_int_equal(control(&b, 2, 0, 0, NULL, 0), 1);
    assert_int_equal(control(&b, 2, 0, 0, data, 2), 1);
    assert_int_equal(control(&b, 2, 1, 0, many, 4), 1);
    assert_int_equal(control(&b, 2, 1, 0, data, 3), 1);
    assert_int_equal(control(&b, 2, 1, 0, data, 60), 1);
    assert_int_equal(control(&b, 2, 1, 1, data, 5), 1);
    assert_int_equal(control(&b, 2, 3, 1, NULL, 0), 1);
    assert_int_equal(control(&b, 2, 4, 0, data, 2), 1); /* no MQ */
    assert_int_equal(control(&b, 2, 5, 0, &offloads, 8), 1);
    offloads = F_GUEST_CSUM;
    assert_int_equal(control(&b, 2, 5, 0, &offloads, 8), 0);
    assert_false(drv_status(&b.d) & VIRTIO_STATUS_NEEDS_RESET);
    struct drv_seg s = { drv_alloc(&b.d, 16), 2, false };
    drv_add(&b.d.queues[2], 0, &s, 1); /* no room for an answer */
    vdev_kick(vnet_vdev(b.net), 2);
    assert_true(drv_status(&b.d) & VIRTIO_STATUS_NEEDS_RESET);
    bench_end(&b);
}

/* ---- link ---- */

static uint16_t link_status(struct bench *b)
{
    uint16_t s;

    vdev_lock(vnet_vdev(b->net));
    s = (uint16_t)vdev_config_read(vnet_vdev(b->net), 6, 2);
    vdev_unlock(vnet_vdev(b->net));
    return s;
}

static void lose_run(struct bench *b, void *arg)
{
    struct net_port *p = &b->fake->base.port;
    struct yado_error why = { .message = "gone" };

    (void)arg;
    p->lost(p->ctx, &why);
}

static void attach_run(struct bench *b, void *arg)
{
    struct yado_error err = YADO_ERROR_INIT;

    assert_true(vnet_attach(b->net, arg, &err));
}

static void attachments_come_and_go(void **state)
{
    struct bench b;
    struct fake *second;

    (void)state;
    bench_start(&b, ALL_FEATURES);
    assert_int_equal(link_status(&b), LINK_UP);
    on_loop(&b, lose_run, NULL);
    assert_int_equal(link_status(&b), 0);
    assert_int_equal(b.lost, 1);
    assert_int_equal(b.d.config_interrupts, 1);
    transmit(&b, &plain, frame_make(60, 1)); /* goes nowhere */
    assert_int_equal(b.fake->sent_count, 0);

    second = fake_new(b.loop, 0, &b.freed);
    on_loop(&b, attach_run, &second->base);
    b.fake = second;
    settle(&b);
    assert_int_equal(b.freed, 1);
    assert_int_equal(link_status(&b), LINK_UP | ANNOUNCE);
    assert_int_equal(control(&b, 2, 3, 0, NULL, 0), 0);
    assert_int_equal(link_status(&b), LINK_UP);
    transmit(&b, &plain, frame_make(60, 2));
    assert_int_equal(second->sent_count, 1);

    on_loop(&b, attach_run, NULL);
    settle(&b);
    assert_int_equal(b.freed, 2);
    assert_int_equal(link_status(&b), 0);
    transmit(&b, &plain, frame_make(60, 3));
    b.fake = fake_new(b.loop, 0, &b.freed);
    on_loop(&b, attach_run, &b.fake->base);
    bench_end(&b);
}

/* ---- several queues ---- */

static void flows_come_back_where_they_went_out(void **state)
{
    uint8_t pairs[2] = { 3, 0 }, none[2] = { 0, 0 }, many[2] = { 5, 0 };
    struct net_offload off;
    struct bench b;
    uint32_t id, used;
    size_t len;

    (void)state;
    bench_start_with(&b, ALL_FEATURES | F_MQ, NET_CAN_CSUM, 4);
    assert_int_equal(control(&b, 8, 4, 0, none, 2), 1);
    assert_int_equal(control(&b, 8, 4, 0, many, 2), 1);
    assert_int_equal(control(&b, 8, 4, 0, pairs, 2), 0);
    for (unsigned i = 0; i < 3; i++)
        buffers_give(&b, 2 * i, 0, 8, 2000);
    len = tcp_make(10, &off);
    memcpy(frame + 26, "\x0a\x00\x02\x0f\x0a\x00\x02\x02\x11\x22\x33\x44", 12);
    put_tx(&b, 5, 0, &off, len);
    vdev_kick(vnet_vdev(b.net), 5);
    drv_wait_used(&b.d.queues[5], &id, &used);
    memcpy(frame + 26, "\x0a\x00\x02\x02\x0a\x00\x02\x0f\x33\x44\x11\x22", 12); /* the answer */
    assert_true(deliver(&b, frame, len, off));
    assert_true(drv_used(&b.d.queues[4], &id, &used));
    assert_false(drv_used(&b.d.queues[0], &id, &used));
    bench_end(&b);
}

/* ---- all at once ---- */

static void *kick_on(void *arg)
{
    struct bench *b = arg;

    for (unsigned i = 0; i < 3000; i++)
        vdev_kick(vnet_vdev(b->net), i % 4);
    return NULL;
}

/* Kicks, frames, resets and changes of the attachment on three threads: for the sanitizers, and nothing is
 * lost or held. */
static void everything_at_once(void **state)
{
    struct bench b;
    pthread_t kicker;

    (void)state;
    bench_start(&b, ALL_FEATURES);
    assert_int_equal(pthread_create(&kicker, NULL, kick_on, &b), 0);
    for (unsigned i = 0; i < 60; i++) {
        buffers_give(&b, 0, 0, 8, 2000);
        frame_make(3000, i);
        for (unsigned j = 0; j < 4; j++)
            put_tx(&b, 1, 2 * j, &plain, 60);
        deliver(&b, frame, 3000, plain);
        if (i % 3 == 0) {
            b.fake = fake_new(b.loop, 0, &b.freed);
            on_loop(&b, attach_run, &b.fake->base);
        }
        drv_reset(&b.d);
        b.d.next_gpa = 0x1000;
        drv_start(&b.d, ALL_FEATURES, 64);
    }
    pthread_join(kicker, NULL);
    settle(&b);
    transmit(&b, &plain, frame_make(60, 1));
    bench_end(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_go_out),
        cmocka_unit_test(what_an_attachment_can_is_left_to_it),
        cmocka_unit_test(what_it_cannot_is_done_here),
        cmocka_unit_test(lies_are_dropped),
        cmocka_unit_test(offloads_need_agreement),
        cmocka_unit_test(a_frame_without_a_header_breaks_it),
        cmocka_unit_test(an_attachment_can_refuse),
        cmocka_unit_test(frames_come_in_pieces),
        cmocka_unit_test(no_buffers_make_it_wait),
        cmocka_unit_test(what_does_not_fit_is_lost),
        cmocka_unit_test(simple_guests_get_simple_frames),
        cmocka_unit_test(unwritable_buffers_break_it),
        cmocka_unit_test(the_filter_is_the_drivers),
        cmocka_unit_test(bad_commands_change_nothing),
        cmocka_unit_test(attachments_come_and_go),
        cmocka_unit_test(flows_come_back_where_they_went_out),
        cmocka_unit_test(everything_at_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
