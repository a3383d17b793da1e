#include "vsock_bench.h"

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

static int on_asked(void *ctx, uint64_t id, uint32_t guest_port, uint32_t host_port)
{
    struct bench *b = ctx;
    int answer = b->answer;

    (void)guest_port;
    (void)host_port;
    __atomic_store_n(&b->asked_id, id, __ATOMIC_SEQ_CST);
    if (answer >= 0)
        b->answer = VSOCK_REFUSED;
    __atomic_add_fetch(&b->asks, 1, __ATOMIC_SEQ_CST);
    return answer;
}

static void on_connected(void *ctx, uint64_t tag, uint32_t host_port, const struct yado_error *why)
{
    struct bench *b = ctx;

    b->tag = tag;
    b->host_port = host_port;
    b->why = why ? *why : (struct yado_error)YADO_ERROR_INIT;
    __atomic_add_fetch(&b->answers, 1, __ATOMIC_SEQ_CST);
}

static uint64_t clock_behind(void *ctx)
{
    const struct bench *b = ctx;
    struct clock real = clock_host();

    return clock_now(&real) - __atomic_load_n(&b->clock_behind_ns, __ATOMIC_SEQ_CST);
}

uint64_t bench_features;

void guest_start(struct bench *b)
{
    drv_start(&b->d, bench_features, BENCH_QUEUE);
    b->tx_next = 0;
}

void bench_start(struct bench *b)
{
    struct yado_error err = YADO_ERROR_INIT;

    memset(b, 0, sizeof(*b));
    b->answer = VSOCK_REFUSED;
    drv_init(&b->d);
    b->loop = loop_new(&err);
    struct vsock_config cfg = { .guest_cid = 3,
                                .asked = on_asked,
                                .connected = on_connected,
                                .ctx = b,
                                .clock = { .now_ns = clock_behind, .ctx = b },
                                .log = &b->d.log,
                                .loop = b->loop };
    b->v = vsock_new(&cfg, &err);
    assert_non_null(b->v);
    drv_attach(&b->d, vsock_vdev(b->v));
    assert_true(loop_start(b->loop, "test", &err));
    for (unsigned i = 0; i < BENCH_QUEUE; i++) {
        b->rx_gpa[i] = drv_alloc(&b->d, sizeof(struct vsock_header) + RX_LEN);
        b->tx_gpa[i] = drv_alloc(&b->d, sizeof(struct vsock_header) + TX_LEN);
    }
    guest_start(b);
}

void bench_end(struct bench *b)
{
    loop_stop(b->loop);
    vsock_free(b->v);
    loop_free(b->loop);
    drv_free(&b->d);
}

void guest_give(struct bench *b, unsigned first, unsigned count)
{
    uint16_t old = b->d.queues[QUEUE_RX].avail_idx;

    for (unsigned i = first; i < first + count; i++) {
        struct drv_seg s = { b->rx_gpa[i], sizeof(struct vsock_header) + RX_LEN, true };

        drv_add(&b->d.queues[QUEUE_RX], i, &s, 1);
    }
    if (drv_kick_wanted(&b->d.queues[QUEUE_RX], old))
        vdev_kick(b->d.vd, QUEUE_RX);
}

void guest_give_all(struct bench *b)
{
    guest_give(b, 0, BENCH_QUEUE);
}

void guest_send_header(struct bench *b, const struct vsock_header *h, const void *data, uint32_t len)
{
    unsigned i = b->tx_next++ % (BENCH_QUEUE / 2);
    struct drv_seg s[2] = { { b->tx_gpa[i], sizeof(*h), false }, { b->tx_gpa[i] + sizeof(*h), len, false } };
    uint16_t old = b->d.queues[QUEUE_TX].avail_idx;
    uint32_t id, used;

    memcpy(drv_at(&b->d, b->tx_gpa[i], sizeof(*h)), h, sizeof(*h));
    if (len)
        memcpy(drv_at(&b->d, b->tx_gpa[i] + sizeof(*h), len), data, len);
    drv_add(&b->d.queues[QUEUE_TX], 2 * i, s, len ? 2 : 1);
    if (drv_kick_wanted(&b->d.queues[QUEUE_TX], old))
        vdev_kick(b->d.vd, QUEUE_TX);
    drv_wait_used(&b->d.queues[QUEUE_TX], &id, &used);
    assert_int_equal(id, 2 * i);
    assert_int_equal(used, 0);
}

void guest_send(struct bench *b, unsigned op, uint32_t guest_port, uint32_t host_port, const void *data,
                uint32_t len, uint32_t flags)
{
    struct vsock_header h = { .src_cid = 3,
                              .dst_cid = VSOCK_CID_HOST,
                              .src_port = guest_port,
                              .dst_port = host_port,
                              .len = len,
                              .type = TYPE_STREAM,
                              .op = (uint16_t)op,
                              .flags = flags,
                              .buf_alloc = 0x7fffffff };

    guest_send_header(b, &h, data, len);
}

static int64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

bool guest_got(struct bench *b, struct got *g, unsigned ms)
{
    int64_t end = now_ms() + ms;
    uint32_t id, len;

    while (!drv_used(&b->d.queues[QUEUE_RX], &id, &len)) {
        if (now_ms() >= end)
            return false;
        usleep(50);
    }
    assert_true(len >= sizeof(g->h) && len <= sizeof(*g));
    memcpy(g, drv_at(&b->d, b->rx_gpa[id], len), len);
    assert_int_equal(len, sizeof(g->h) + g->h.len);
    assert_int_equal(g->h.dst_cid, 3);
    if (!b->keep_rx)
        guest_give(b, id, 1);
    return true;
}

void guest_expect(struct bench *b, unsigned op, uint32_t guest_port, uint32_t host_port, struct got *g)
{
    struct got here;

    if (!g)
        g = &here;
    do {
        if (!guest_got(b, g, 20000))
            fail_msg("no packet came; waited for operation %u", op);
    } while (g->h.op == OP_CREDIT_UPDATE && op != OP_CREDIT_UPDATE);
    assert_int_equal(g->h.op, op);
    assert_int_equal(g->h.dst_port, guest_port);
    assert_int_equal(g->h.src_port, host_port);
}

void guest_expect_none(struct bench *b, unsigned ms)
{
    struct got g;

    if (guest_got(b, &g, ms))
        fail_msg("operation %u for port %u came, and none should", g.h.op, g.h.dst_port);
}

int guest_connect(struct bench *b, uint32_t guest_port, uint32_t host_port)
{
    int fds[2];
    struct got g;

    assert_int_equal(socket_pair(fds), 0);
    b->answer = fds[0];
    guest_send(b, OP_REQUEST, guest_port, host_port, NULL, 0, 0);
    guest_expect(b, OP_RESPONSE, guest_port, host_port, &g);
    assert_true(g.h.buf_alloc == VSOCK_WINDOW || g.h.buf_alloc == VSOCK_WINDOW_SMALL);
    return fds[1];
}

int host_connect(struct bench *b, uint32_t guest_port, uint32_t *host_port)
{
    struct yado_error err = YADO_ERROR_INIT;
    int fds[2];
    struct got g;

    assert_int_equal(socket_pair(fds), 0);
    if (!vsock_connect(b->v, guest_port, fds[0], 0, &err))
        fail_msg("%s", err.message);
    assert_true(guest_got(b, &g, 20000));
    assert_int_equal(g.h.op, OP_REQUEST);
    assert_int_equal(g.h.dst_port, guest_port);
    *host_port = g.h.src_port;
    guest_send(b, OP_RESPONSE, guest_port, *host_port, NULL, 0, 0);
    return fds[1];
}

static void readable_wait(int fd)
{
    struct pollfd p = { .fd = fd, .events = POLLIN };

    if (poll(&p, 1, 20000) != 1)
        fail_msg("nothing came out of the socket");
}

void program_read(int fd, void *data, size_t len)
{
    for (size_t done = 0; done < len;) {
        ssize_t n;

        readable_wait(fd);
        n = read(fd, (uint8_t *)data + done, len - done);
        if (n <= 0)
            fail_msg("the socket ended after %zu of %zu bytes: %s", done, len, n ? strerror(errno) : "end");
        done += (size_t)n;
    }
}

bool program_at_end(int fd)
{
    char c;

    readable_wait(fd);
    return read(fd, &c, 1) <= 0;
}

struct vsock_counters counters_wait(struct bench *b, unsigned connections)
{
    struct vsock_counters c;
    int64_t end = now_ms() + 20000;

    while ((c = vsock_counters_get(b->v)).connections != connections) {
        if (now_ms() >= end)
            fail_msg("%u connections, not %u", c.connections, connections);
        usleep(200);
    }
    return c;
}
