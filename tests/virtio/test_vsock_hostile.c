/* virtio-vsock against guests that break rules, flood, and reset in flight. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "vsock_bench.h"

static uint8_t zeros[TX_LEN];

/* Ends the device: the driver gives a chain that cannot be. */
static void broken_by(struct bench *b, unsigned queue, const struct drv_seg *segs, unsigned count,
                      const char *why)
{
    drv_add(&b->d.queues[queue], 0, segs, count);
    vdev_kick(b->d.vd, queue);
    for (int i = 0; i < 20000 && !(drv_status(&b->d) & VIRTIO_STATUS_NEEDS_RESET); i++)
        usleep(1000);
    assert_true(drv_status(&b->d) & VIRTIO_STATUS_NEEDS_RESET);
    if (!strstr(b->d.fault, why))
        fail_msg("\"%s\" does not say \"%s\"", b->d.fault, why);
    drv_reset(&b->d);
    guest_start(b);
}

static void bad_chains_break_the_device_alone(void **state)
{
    struct vsock_header h = {
        .src_cid = 3, .dst_cid = 2, .src_port = 1, .dst_port = 2, .len = 100, .type = TYPE_STREAM, .op = OP_RW
    };
    struct drv_seg tx[2] = { { 0, 43, false }, { 0, 100, false } }, rx = { 0, 44, true };
    struct bench b;
    int fd;

    (void)state;
    bench_start(&b);
    guest_give_all(&b);
    fd = guest_connect(&b, 9, 9);
    tx[0].gpa = b.tx_gpa[0];
    broken_by(&b, QUEUE_TX, tx, 1, "whole header");
    assert_true(program_at_end(fd)); /* its connections went with the reset */
    close(fd);
    memcpy(drv_at(&b.d, b.tx_gpa[0], 44), &h, 44);
    tx[0].len = 44;
    tx[1].gpa = b.tx_gpa[1];
    tx[1].len = 99; /* one byte less than the header says */
    broken_by(&b, QUEUE_TX, tx, 2, "packet of 100 bytes");
    h.len = UINT32_MAX;
    memcpy(drv_at(&b.d, b.tx_gpa[0], 44), &h, 44);
    broken_by(&b, QUEUE_TX, tx, 2, "packet of 4294967295 bytes");
    rx.gpa = b.rx_gpa[0];
    guest_send(&b, OP_RW, 1, 2, NULL, 0, 0); /* something to answer */
    broken_by(&b, QUEUE_RX, &rx, 1, "without room");
    tx[0].device_writes = true; /* nothing readable in it */
    broken_by(&b, QUEUE_TX, tx, 1, "whole header");
    tx[0].gpa = 1ull << 40;
    broken_by(&b, QUEUE_TX, tx, 1, "not in RAM");
    vsock_transport_reset(b.v);
    rx.len = 3;
    broken_by(&b, QUEUE_EVENT, &rx, 1, "event buffer");
    guest_give_all(&b); /* and it still works */
    fd = guest_connect(&b, 9, 9);
    close(fd);
    bench_end(&b);
}

static void forged_headers_hurt_nobody_else(void **state)
{
    struct vsock_header h = {
        .src_cid = 3, .dst_cid = 2, .src_port = 50, .dst_port = 60, .type = TYPE_STREAM
    };
    struct bench b;
    struct got g;
    int other;

    (void)state;
    bench_start(&b);
    guest_give_all(&b);
    other = guest_connect(&b, 9, 9);
    h.op = OP_REQUEST;
    h.src_cid = 4; /* somebody else's name: no answer */
    guest_send_header(&b, &h, NULL, 0);
    h.src_cid = 3ull | 1ull << 32;
    guest_send_header(&b, &h, NULL, 0);
    guest_expect_none(&b, 10);
    assert_int_equal(b.asks, 1);
    h.src_cid = 3;
    h.dst_cid = 5; /* no such peer */
    guest_send_header(&b, &h, NULL, 0);
    guest_expect(&b, OP_RST, 50, 60, &g);
    assert_int_equal(g.h.src_cid, 5);
    h.dst_cid = 2;
    h.type = 2; /* seqpacket was not agreed on */
    guest_send_header(&b, &h, NULL, 0);
    guest_expect(&b, OP_RST, 50, 60, &g);
    assert_int_equal(g.h.type, 2);
    h.type = TYPE_STREAM;
    for (unsigned op = OP_RESPONSE; op < 12; op++) { /* of no connection */
        h.op = (uint16_t)op;
        guest_send_header(&b, &h, NULL, 0);
        if (op != OP_RST)
            guest_expect(&b, OP_RST, 50, 60, NULL);
    }
    guest_expect_none(&b, 10);
    assert_int_equal(write(other, "x", 1), 1); /* unharmed */
    guest_expect(&b, OP_RW, 9, 9, NULL);
    close(other);
    bench_end(&b);
}

/* Each of these ends its connection by RST, and the program sees its end. */
static void broken_rules_end_the_connection(void **state)
{
    static const struct {
        unsigned op, flags, len;
    } wrong[] = {
        { OP_REQUEST, 0, 0 },  /* again */
        { OP_RESPONSE, 0, 0 }, /* not asked for */
        { OP_SHUTDOWN, 0, 0 },
        { OP_SHUTDOWN, 4, 0 },
        { OP_SHUTDOWN, 0x80000003, 0 }, /* flags that are none */
        { 0, 0, 0 },
        { 8, 0, 0 },
        { 0xffff, 0, 0 }, /* no operation */
    };
    struct bench b;
    int fd;

    (void)state;
    bench_start(&b);
    guest_give_all(&b);
    for (size_t i = 0; i < array_size(wrong); i++) {
        fd = guest_connect(&b, 5, 6);
        guest_send(&b, wrong[i].op, 5, 6, NULL, 0, wrong[i].flags);
        guest_expect(&b, OP_RST, 5, 6, NULL);
        assert_true(program_at_end(fd));
        close(fd);
        counters_wait(&b, 0);
    }
    fd = guest_connect(&b, 5, 6); /* more than the window */
    for (unsigned i = 0; i < VSOCK_WINDOW / TX_LEN; i++)
        guest_send(&b, OP_RW, 5, 6, zeros, TX_LEN, 0);
    while (vsock_counters_get(b.v)
               .connections) /* what the socket took has made room: at most twice as much again */
        guest_send(&b, OP_RW, 5, 6, zeros, TX_LEN, 0);
    assert_int_equal(vsock_counters_get(b.v).buffered, 0);
    guest_expect(&b, OP_RST, 5, 6, NULL);
    close(fd);
    for (struct got g; guest_got(&b, &g, 10);)
        ;                         /* answers to what came after */
    fd = guest_connect(&b, 5, 6); /* more after the end */
    guest_send(&b, OP_SHUTDOWN, 5, 6, NULL, 0, NO_MORE_SEND);
    guest_send(&b, OP_RW, 5, 6, zeros, 1, 0);
    guest_expect(&b, OP_RST, 5, 6, NULL);
    close(fd);
    b.answer = VSOCK_LATER; /* data before the answer */
    guest_send(&b, OP_REQUEST, 5, 6, NULL, 0, 0);
    guest_send(&b, OP_RW, 5, 6, zeros, 1, 0);
    guest_expect(&b, OP_RST, 5, 6, NULL);
    assert_false(vsock_answer(b.v, b.asked_id, VSOCK_REFUSED));
    assert_int_equal(drv_status(&b.d) & VIRTIO_STATUS_NEEDS_RESET, 0);
    bench_end(&b);
}

/* The RST waits for a buffer in the connection; what comes meanwhile is not looked at. */
static void packets_after_the_end(void **state)
{
    struct bench b;
    int fds[2];

    (void)state;
    bench_start(&b);
    guest_give(&b, 0, 1);
    b.keep_rx = true;
    assert_int_equal(socket_pair(fds), 0);
    b.answer = fds[0];
    guest_send(&b, OP_REQUEST, 5, 6, NULL, 0, 0);
    guest_expect(&b, OP_RESPONSE, 5, 6, NULL);
    guest_send(&b, OP_RESPONSE, 5, 6, NULL, 0, 0);
    assert_true(program_at_end(fds[1]));
    for (unsigned op = OP_REQUEST; op <= OP_CREDIT_REQUEST; op++) {
        if (op != OP_RST)
            guest_send(&b, op, 5, 6, zeros, op == OP_RW ? 10 : 0, 0);
    }
    assert_int_equal(vsock_counters_get(b.v).connections, 1);
    assert_int_equal(vsock_counters_get(b.v).descriptors, 0);
    guest_give(&b, 1, 4);
    guest_expect(&b, OP_RST, 5, 6, NULL);
    guest_expect_none(&b, 10);
    counters_wait(&b, 0);
    close(fds[1]);
    bench_end(&b);
}

/* Requests without end, never answered: a bounded number is kept. */
static void a_flood_of_requests(void **state)
{
    struct bench b;
    struct vsock_counters c;

    (void)state;
    bench_start(&b);
    guest_give_all(&b);
    b.answer = VSOCK_LATER;
    for (uint32_t i = 0; i < VSOCK_CONNECTIONS_MAX; i++)
        guest_send(&b, OP_REQUEST, i, 6, NULL, 0, 0);
    assert_int_equal(b.asks, VSOCK_CONNECTIONS_MAX);
    guest_expect_none(&b, 5);
    for (uint32_t i = 0; i < 1000; i++) {
        guest_send(&b, OP_REQUEST, 100000 + i, 6, NULL, 0, 0);
        guest_expect(&b, OP_RST, 100000 + i, 6, NULL);
    }
    c = vsock_counters_get(b.v);
    assert_int_equal(b.asks, VSOCK_CONNECTIONS_MAX);
    assert_int_equal(c.connections, VSOCK_CONNECTIONS_MAX);
    assert_int_equal(c.refused, 1000);
    guest_send(&b, OP_RST, 17, 6, NULL, 0, 0);
    guest_send(&b, OP_REQUEST, 17, 6, NULL, 0, 0);
    assert_int_equal(b.asks, VSOCK_CONNECTIONS_MAX + 1);
    drv_reset(&b.d);
    counters_wait(&b, 0);
    assert_int_equal(b.v->windows, 0);
    bench_end(&b);
}

/* Windows of many connections together are bounded. */
static void windows_shrink(void **state)
{
    struct bench b;
    struct got g;
    uint64_t sum = 0;

    (void)state;
    bench_start(&b);
    guest_give_all(&b);
    for (uint32_t i = 0; i < 400; i++) {
        int fds[2];

        assert_int_equal(socket_pair(fds), 0);
        b.answer = fds[0];
        close(fds[1]);
        guest_send(&b, OP_REQUEST, i, 6, NULL, 0, 0);
        guest_expect(&b, OP_RESPONSE, i, 6, &g);
        guest_expect(&b, OP_SHUTDOWN, i, 6, NULL); /* its program is gone; the guest keeps its end */
        sum += g.h.buf_alloc;
    }
    assert_true(sum == VSOCK_WINDOWS_LARGE + (400 - VSOCK_WINDOWS_LARGE / VSOCK_WINDOW) * VSOCK_WINDOW_SMALL);
    assert_int_equal(vsock_counters_get(b.v).descriptors, 0);
    bench_end(&b);
}

/* Packets that want answers, and no buffers for these: the guest's queue stands still, and goes on later. */
static void a_flood_without_buffers(void **state)
{
    struct bench b;
    uint32_t id, len;
    unsigned taken = 0, answers = 0;
    struct got g;

    (void)state;
    bench_start(&b);
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < BENCH_QUEUE; i++) {
            struct vsock_header h = {
                .src_cid = 3, .dst_cid = 2, .src_port = i, .type = TYPE_STREAM, .op = OP_RW
            };
            struct drv_seg s = { b.tx_gpa[i], sizeof(h), false };

            memcpy(drv_at(&b.d, b.tx_gpa[i], sizeof(h)), &h, sizeof(h));
            drv_add(&b.d.queues[QUEUE_TX], i, &s, 1);
        }
        vdev_kick(b.d.vd, QUEUE_TX);
        if (round == 0) { /* all fit in */
            for (unsigned i = 0; i < REPLIES_MAX; i++)
                drv_wait_used(&b.d.queues[QUEUE_TX], &id, &len);
            taken += REPLIES_MAX;
            continue;
        }
        usleep(20000);
        assert_false(drv_used(&b.d.queues[QUEUE_TX], &id, &len));
        guest_give_all(&b);
        while (answers < REPLIES_MAX * (round + 1)) {
            assert_true(guest_got(&b, &g, 20000));
            assert_int_equal(g.h.op, OP_RST);
            answers++;
        }
        while (taken < REPLIES_MAX * (round + 1)) {
            drv_wait_used(&b.d.queues[QUEUE_TX], &id, &len);
            taken++;
        }
        break;
    }
    assert_int_equal(b.v->reply_count, 0);
    bench_end(&b);
}

/* ---- resets in flight ---- */

struct talker {
    int fd;
    pthread_t thread;
    uint64_t moved;
};

/* Writes and reads until the socket ends. */
static void *talk(void *arg)
{
    struct talker *t = arg;
    struct pollfd p = { .fd = t->fd, .events = POLLIN };
    char block[3000] = { 1 };
    ssize_t n;

    for (;;) {
        n = send(t->fd, block, sizeof(block), MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0)
            t->moved += (uint64_t)n;
        else
            poll(&p, 1, 1);
        n = recv(t->fd, block, sizeof(block), MSG_DONTWAIT);
        if (n == 0 || (n < 0 && errno == ECONNRESET))
            break;
        if (n > 0)
            t->moved += (uint64_t)n;
    }
    close(t->fd);
    return NULL;
}

/* Bytes flow on several connections both ways when the driver resets the device. */
static void resets_in_flight(void **state)
{
    struct talker t[4];
    struct bench b;
    uint64_t moved = 0;

    (void)state;
    bench_start(&b);
    for (unsigned round = 0; round < 50; round++) {
        guest_give_all(&b);
        for (uint32_t i = 0; i < array_size(t); i++)
            t[i] = (struct talker){ .fd = guest_connect(&b, i, 6) };
        for (uint32_t i = 0; i < array_size(t); i++)
            pthread_create(&t[i].thread, NULL, talk, &t[i]);
        for (unsigned k = 0; k < round; k++) {
            struct got g;

            guest_got(&b, &g, 5);
            guest_send(&b, OP_RW, k % array_size(t), 6, zeros, 5000, 0);
        }
        drv_reset(&b.d);
        for (uint32_t i = 0; i < array_size(t); i++) {
            pthread_join(t[i].thread, NULL);
            moved += t[i].moved;
        }
        guest_start(&b);
    }
    assert_true(moved > 0);
    counters_wait(&b, 0);
    assert_int_equal(vsock_counters_get(b.v).descriptors, 0);
    assert_int_equal(vsock_counters_get(b.v).buffered, 0);
    bench_end(&b);
}

static void *answer_all(void *arg)
{
    struct bench *b = arg;
    uint64_t last = 0;

    while (!__atomic_load_n(&b->keep_rx, __ATOMIC_SEQ_CST)) {
        unsigned asks = __atomic_load_n(&b->asks, __ATOMIC_SEQ_CST);
        struct yado_error err = YADO_ERROR_INIT;
        int fds[2];

        if (asks == last)
            continue;
        last = asks;
        if (socket_pair(fds))
            continue;
        vsock_answer(b->v, __atomic_load_n(&b->asked_id, __ATOMIC_SEQ_CST), fds[0]);
        close(fds[1]);
        if (!socket_pair(fds)) {
            vsock_connect(b->v, 1, fds[0], 5, &err);
            close(fds[1]);
        }
    }
    return NULL;
}

/* Answers and connects from another thread while the guest resets. Each connect is answered once. */
static void answers_against_resets(void **state)
{
    struct bench b;
    pthread_t thread;

    (void)state;
    bench_start(&b);
    b.answer = VSOCK_LATER;
    pthread_create(&thread, NULL, answer_all, &b);
    for (unsigned round = 0; round < 200; round++) {
        guest_give_all(&b);
        guest_send(&b, OP_REQUEST, round, 6, NULL, 0, 0);
        if (round % 3)
            usleep(100 * (round % 7));
        drv_reset(&b.d);
        guest_start(&b);
    }
    __atomic_store_n(&b.keep_rx, true, __ATOMIC_SEQ_CST);
    pthread_join(thread, NULL);
    drv_reset(&b.d);
    counters_wait(&b, 0);
    assert_int_equal(vsock_counters_get(b.v).descriptors, 0);
    bench_end(&b);
}

/* ---- nonsense ---- */

static uint32_t random_next(uint32_t *x)
{
    *x = *x * 1664525 + 1013904223;
    return *x >> 8;
}

static void nonsense(void **state)
{
    uint32_t x = 4711, port;
    struct bench b;
    int programs[8] = { -1, -1, -1, -1, -1, -1, -1, -1 };

    (void)state;
    bench_start(&b);
    guest_give_all(&b);
    for (unsigned i = 0; i < 20000; i++) {
        unsigned which = random_next(&x) % array_size(programs);
        struct vsock_header h = { .src_cid = random_next(&x) % 32 ? 3 : random_next(&x),
                                  .dst_cid = random_next(&x) % 32 ? 2 : random_next(&x),
                                  .src_port = random_next(&x) % 8,
                                  .dst_port = random_next(&x) % 2,
                                  .len = random_next(&x) % 4 ? 0 : random_next(&x) % 3000,
                                  .type = random_next(&x) % 32 ? TYPE_STREAM : 7,
                                  .op = (uint16_t)(random_next(&x) % 9),
                                  .flags = random_next(&x) % 5,
                                  .buf_alloc = random_next(&x) << (random_next(&x) % 16),
                                  .fwd_cnt = random_next(&x) % 4 ? 0 : random_next(&x) };
        int fds[2];
        char text[500];
        struct got g;

        if (random_next(&x) % 2 && socket_pair(fds) == 0) {
            int fd = programs[which];

            if (b.answer >= 0)
                close(b.answer);
            b.answer = fds[0];
            programs[which] = fds[1];
            if (fd >= 0)
                close(fd);
        }
        guest_send_header(&b, &h, zeros, h.len);
        if (programs[which] >= 0) {
            if (random_next(&x) % 2)
                send(programs[which], zeros, random_next(&x) % 9000, MSG_DONTWAIT | MSG_NOSIGNAL);
            else
                recv(programs[which], text, sizeof(text), MSG_DONTWAIT);
        }
        if (i % 50 == 0 && socket_pair(fds) == 0) {
            struct yado_error err = YADO_ERROR_INIT;

            vsock_connect(b.v, i % 8, fds[0], i, &err);
            close(fds[1]);
        }
        while (guest_got(&b, &g, 0))
            ;
    }
    assert_int_equal(drv_status(&b.d) & VIRTIO_STATUS_NEEDS_RESET, 0);
    for (unsigned i = 0; i < array_size(programs); i++)
        close(programs[i]);
    if (b.answer >= 0)
        close(b.answer);
    for (port = 0; port < 8; port++) { /* what is left can be ended */
        guest_send(&b, OP_RST, port, 0, NULL, 0, 0);
        guest_send(&b, OP_RST, port, 1, NULL, 0, 0);
    }
    drv_reset(&b.d);
    counters_wait(&b, 0);
    assert_int_equal(vsock_counters_get(b.v).descriptors, 0);
    assert_int_equal(vsock_counters_get(b.v).buffered, 0);
    assert_int_equal(b.v->windows, 0);
    bench_end(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_chains_break_the_device_alone),
        cmocka_unit_test(forged_headers_hurt_nobody_else),
        cmocka_unit_test(broken_rules_end_the_connection),
        cmocka_unit_test(packets_after_the_end),
        cmocka_unit_test(a_flood_of_requests),
        cmocka_unit_test(windows_shrink),
        cmocka_unit_test(a_flood_without_buffers),
        cmocka_unit_test(resets_in_flight),
        cmocka_unit_test(answers_against_resets),
        cmocka_unit_test(nonsense),
    };

    int failed = cmocka_run_group_tests_name("flags", tests, NULL, NULL);

    bench_features = VIRTIO_F_EVENT_IDX | VIRTIO_F_INDIRECT_DESC;
    return failed + cmocka_run_group_tests_name("event index", tests, NULL, NULL);
}
