/* virtio-vsock: connections, credit, half-closes, ends. What hostile guests try is in test_vsock_hostile.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "vsock_bench.h"

static uint8_t bytes[1 << 20];

static void bytes_fill(void)
{
    uint32_t x = 12345;

    for (size_t i = 0; i < sizeof(bytes); i++) {
        x = x * 1664525 + 1013904223;
        bytes[i] = (uint8_t)(x >> 24);
    }
}

static void the_guest_learns_its_address(void **state)
{
    struct bench b;

    (void)state;
    bench_start(&b);
    vdev_lock(b.d.vd);
    assert_int_equal(vdev_config_read(b.d.vd, 0, 4), 3);
    assert_int_equal(vdev_config_read(b.d.vd, 4, 4), 0);
    assert_int_equal(b.d.vd->queue_count, 3);
    assert_int_equal(b.d.vd->ops->id, 19);
    vdev_unlock(b.d.vd);
    bench_end(&b);
}

static void a_guest_connects(void **state)
{
    struct bench b;
    struct got g;
    char text[8];
    int fd;

    (void)state;
    bench_start(&b);
    guest_give_all(&b);
    fd = guest_connect(&b, 1000, 7);
    guest_send(&b, OP_RW, 1000, 7, "hello", 5, 0);
    program_read(fd, text, 5);
    assert_memory_equal(text, "hello", 5);
    assert_int_equal(write(fd, "world!", 6), 6);
    guest_expect(&b, OP_RW, 1000, 7, &g);
    assert_int_equal(g.h.len, 6);
    assert_int_equal(g.h.fwd_cnt, 5);
    assert_memory_equal(g.data, "world!", 6);
    guest_send(&b, OP_SHUTDOWN, 1000, 7, NULL, 0, NO_MORE);
    guest_expect(&b, OP_RST, 1000, 7, NULL);
    assert_true(program_at_end(fd));
    counters_wait(&b, 0);
    close(fd);
    bench_end(&b);
}

static void a_guest_is_refused_or_answered_later(void **state)
{
    struct bench b;
    int fds[2];

    (void)state;
    bench_start(&b);
    guest_give_all(&b);
    guest_send(&b, OP_REQUEST, 1, 2, NULL, 0, 0); /* at once */
    guest_expect(&b, OP_RST, 1, 2, NULL);
    b.answer = VSOCK_LATER;
    guest_send(&b, OP_REQUEST, 1, 2, NULL, 0, 0); /* no, later */
    assert_true(vsock_waits(b.v, b.asked_id));
    guest_expect_none(&b, 20);
    assert_true(vsock_answer(b.v, b.asked_id, VSOCK_REFUSED));
    guest_expect(&b, OP_RST, 1, 2, NULL);
    guest_send(&b, OP_REQUEST, 1, 2, NULL, 0, 0); /* yes, later */
    assert_int_equal(socket_pair(fds), 0);
    assert_int_equal(write(fds[1], "early", 5), 5);
    assert_true(vsock_answer(b.v, b.asked_id, fds[0]));
    assert_false(vsock_waits(b.v, b.asked_id));
    guest_expect(&b, OP_RESPONSE, 1, 2, NULL);
    guest_expect(&b, OP_RW, 1, 2, NULL);
    close(fds[1]);
    guest_expect(&b, OP_SHUTDOWN, 1, 2, NULL);
    guest_send(&b, OP_RST, 1, 2, NULL, 0, 0);
    counters_wait(&b, 0);
    guest_send(&b, OP_REQUEST, 1, 2, NULL, 0, 0); /* too late */
    guest_send(&b, OP_RST, 1, 2, NULL, 0, 0);
    assert_int_equal(socket_pair(fds), 0);
    assert_false(vsock_answer(b.v, b.asked_id, fds[0]));
    assert_true(program_at_end(fds[1]));
    close(fds[1]);
    guest_expect_none(&b, 10);
    bench_end(&b);
}

static void answers_wait(struct bench *b, unsigned count)
{
    for (int i = 0; i < 20000 && __atomic_load_n(&b->answers, __ATOMIC_SEQ_CST) < count; i++)
        usleep(1000);
    assert_int_equal(b->answers, count);
}

static void the_host_connects(void **state)
{
    struct yado_error err = YADO_ERROR_INIT;
    uint32_t port, port2;
    struct bench b;
    struct got g;
    int fds[2], fd;

    (void)state;
    bench_start(&b);
    guest_give_all(&b);
    assert_int_equal(socket_pair(fds), 0);
    assert_true(vsock_connect(b.v, 22, fds[0], 77, &err));
    assert_true(guest_got(&b, &g, 20000) && g.h.op == OP_REQUEST);
    port = g.h.src_port;
    assert_int_equal(b.answers, 0);
    guest_send(&b, OP_RESPONSE, 22, port, NULL, 0, 0);
    answers_wait(&b, 1);
    assert_int_equal(b.tag, 77);
    assert_int_equal(b.host_port, port);
    assert_int_equal(b.why.code, YADO_OK);
    fd = host_connect(&b, 22, &port2); /* a second, without a tag */
    assert_true(port2 != port);
    assert_int_equal(write(fd, "b", 1), 1);
    guest_expect(&b, OP_RW, 22, port2, NULL);
    assert_int_equal(write(fds[1], "a", 1), 1);
    guest_expect(&b, OP_RW, 22, port, NULL);
    guest_send(&b, OP_RST, 22, port, NULL, 0, 0);
    assert_true(program_at_end(fds[1]));
    assert_int_equal(b.answers, 1);
    close(fds[1]);
    close(fd);
    bench_end(&b);
}

static void the_host_is_refused_or_not_answered(void **state)
{
    struct yado_error err = YADO_ERROR_INIT;
    struct bench b;
    struct got g;
    int fds[2];

    (void)state;
    bench_start(&b);
    guest_give_all(&b);
    /* No answer: the device's clock is set back, and right again, when the time is over, once the guest was
     * asked. */
    b.clock_behind_ns = VSOCK_CONNECT_TIMEOUT_MS * 1000000ull;
    assert_int_equal(socket_pair(fds), 0);
    assert_true(vsock_connect(b.v, 23, fds[0], 2, &err));
    guest_expect(&b, OP_REQUEST, 23, b.v->next_port, NULL);
    assert_int_equal(b.answers, 0);
    __atomic_store_n(&b.clock_behind_ns, 0, __ATOMIC_SEQ_CST);
    answers_wait(&b, 1);
    assert_int_equal(b.why.code, YADO_ERR_TIMEOUT);
    guest_expect(&b, OP_RST, 23, b.v->next_port, NULL);
    assert_true(program_at_end(fds[1]));
    close(fds[1]);
    assert_int_equal(socket_pair(fds), 0);
    assert_true(vsock_connect(b.v, 22, fds[0], 1, &err));
    assert_true(guest_got(&b, &g, 20000));
    guest_send(&b, OP_RST, 22, g.h.src_port, NULL, 0, 0);
    answers_wait(&b, 2);
    assert_int_equal(b.why.code, YADO_ERR_REFUSED);
    assert_non_null(strstr(b.why.message, "22"));
    assert_true(program_at_end(fds[1]));
    close(fds[1]);
    counters_wait(&b, 0);
    /* No driver. */
    drv_reset(&b.d);
    assert_int_equal(socket_pair(fds), 0);
    assert_false(vsock_connect(b.v, 22, fds[0], 3, &err));
    assert_int_equal(err.code, YADO_ERR_STATE);
    assert_true(program_at_end(fds[1]));
    assert_int_equal(b.answers, 2);
    close(fds[1]);
    bench_end(&b);
}

/* The host's program sends; the guest takes as it likes. */
static void the_guest_says_how_much_it_takes(void **state)
{
    struct vsock_header h = { .src_cid = 3, .dst_cid = 2, .src_port = 5, .dst_port = 6, .type = TYPE_STREAM };
    struct bench b;
    struct got g;
    size_t at = 0;
    int fd;

    (void)state;
    bytes_fill();
    bench_start(&b);
    guest_give_all(&b);
    fd = guest_connect(&b, 5, 6);
    h.op = OP_CREDIT_UPDATE;
    h.buf_alloc = 100;
    guest_send_header(&b, &h, NULL, 0);
    assert_int_equal(write(fd, bytes, 20000), 20000);
    guest_expect(&b, OP_RW, 5, 6, &g);
    assert_int_equal(g.h.len, 100);
    at += g.h.len;
    guest_expect(&b, OP_CREDIT_REQUEST, 5, 6, NULL);
    guest_expect_none(&b, 20);
    h.fwd_cnt = 60; /* 60 of the 100 are read */
    guest_send_header(&b, &h, NULL, 0);
    guest_expect(&b, OP_RW, 5, 6, &g);
    assert_int_equal(g.h.len, 60);
    at += g.h.len;
    h.fwd_cnt = 1000; /* more than was ever sent: nonsense, and no room */
    guest_send_header(&b, &h, NULL, 0);
    for (struct got other; guest_got(&b, &other, 20);)
        assert_int_equal(other.h.op, OP_CREDIT_REQUEST);
    h.fwd_cnt = 160;
    h.buf_alloc = 1 << 20;
    guest_send_header(&b, &h, NULL, 0);
    while (at < 20000) {
        guest_expect(&b, OP_RW, 5, 6, &g);
        assert_true(g.h.len <= RX_LEN && at + g.h.len <= 20000);
        assert_memory_equal(g.data, bytes + at, g.h.len);
        at += g.h.len;
    }
    h.op = OP_CREDIT_REQUEST;
    guest_send_header(&b, &h, NULL, 0);
    guest_expect(&b, OP_CREDIT_UPDATE, 5, 6, &g);
    assert_int_equal(g.h.buf_alloc, VSOCK_WINDOW);
    close(fd);
    bench_end(&b);
}

/* The guest sends its whole window to a program that does not read, then the program reads. */
static void a_slow_program_holds_the_guest_back(void **state)
{
    static uint8_t back[VSOCK_WINDOW];
    struct vsock_counters c;
    struct bench b;
    struct got g;
    int fd;

    (void)state;
    bytes_fill();
    bench_start(&b);
    guest_give_all(&b);
    fd = guest_connect(&b, 5, 6);
    for (uint32_t at = 0; at < VSOCK_WINDOW; at += TX_LEN)
        guest_send(&b, OP_RW, 5, 6, bytes + at, TX_LEN, 0);
    c = vsock_counters_get(b.v);
    assert_true(c.buffered > 0 && c.buffered + c.sent_bytes == VSOCK_WINDOW);
    program_read(fd, back, VSOCK_WINDOW);
    assert_memory_equal(back, bytes, VSOCK_WINDOW);
    do { /* the guest hears of the room */
        guest_expect(&b, OP_CREDIT_UPDATE, 5, 6, &g);
    } while (g.h.fwd_cnt < VSOCK_WINDOW / 2);
    c = vsock_counters_get(b.v);
    assert_int_equal(c.buffered, 0);
    assert_int_equal(c.sent_bytes, VSOCK_WINDOW);
    close(fd);
    bench_end(&b);
}

/* One program that does not read holds up no other. */
static void connections_do_not_wait_for_each_other(void **state)
{
    struct bench b;
    char text[4];
    int slow, fast;

    (void)state;
    bench_start(&b);
    guest_give_all(&b);
    slow = guest_connect(&b, 5, 6);
    fast = guest_connect(&b, 7, 6);
    for (uint32_t at = 0; at < VSOCK_WINDOW; at += TX_LEN)
        guest_send(&b, OP_RW, 5, 6, bytes, TX_LEN, 0);
    guest_send(&b, OP_RW, 7, 6, "fast", 4, 0);
    program_read(fast, text, 4);
    assert_memory_equal(text, "fast", 4);
    close(slow);
    close(fast);
    bench_end(&b);
}

static void each_side_closes_its_half(void **state)
{
    struct bench b;
    struct got g;
    char text[8];
    int fd;

    (void)state;
    bench_start(&b);
    guest_give_all(&b);
    fd = guest_connect(&b, 5, 6); /* the guest first */
    guest_send(&b, OP_RW, 5, 6, "ask", 3, 0);
    guest_send(&b, OP_SHUTDOWN, 5, 6, NULL, 0, NO_MORE_SEND);
    program_read(fd, text, 3);
    assert_true(program_at_end(fd));
    assert_int_equal(write(fd, "answer", 6), 6);
    guest_expect(&b, OP_RW, 5, 6, &g);
    assert_int_equal(g.h.len, 6);
    close(fd);
    guest_expect(&b, OP_SHUTDOWN, 5, 6, &g);
    assert_int_equal(g.h.flags, NO_MORE);
    guest_send(&b, OP_RST, 5, 6, NULL, 0, 0);
    counters_wait(&b, 0);

    fd = guest_connect(&b, 5, 6); /* the host first */
    assert_int_equal(write(fd, "last", 4), 4);
    shutdown(fd, SHUT_WR);
    guest_expect(&b, OP_RW, 5, 6, &g);
    guest_expect(&b, OP_SHUTDOWN, 5, 6, &g);
    assert_int_equal(g.h.flags, NO_MORE_SEND);
    guest_send(&b, OP_RW, 5, 6, "more", 4, 0);
    program_read(fd, text, 4);
    guest_send(&b, OP_SHUTDOWN, 5, 6, NULL, 0, NO_MORE);
    guest_expect(&b, OP_RST, 5, 6, NULL);
    assert_true(program_at_end(fd));
    close(fd);
    counters_wait(&b, 0);

    fd = guest_connect(&b, 5, 6); /* the host stops listening, and goes on talking */
    shutdown(fd, SHUT_RD);
    guest_send(&b, OP_RW, 5, 6, "lost", 4, 0);
    guest_expect(&b, OP_SHUTDOWN, 5, 6, &g);
    assert_int_equal(g.h.flags, NO_MORE_RECEIVE);
    assert_int_equal(write(fd, "still", 5), 5);
    guest_expect(&b, OP_RW, 5, 6, &g);
    close(fd);
    guest_expect(&b, OP_SHUTDOWN, 5, 6, &g);
    assert_int_equal(g.h.flags, NO_MORE);
    bench_end(&b);

    bench_start(&b); /* the guest stops listening */
    guest_give_all(&b);
    fd = guest_connect(&b, 5, 6);
    guest_send(&b, OP_SHUTDOWN, 5, 6, NULL, 0, NO_MORE_RECEIVE);
    assert_int_equal(send(fd, "x", 1, MSG_NOSIGNAL), -1);
    guest_send(&b, OP_RW, 5, 6, "bye", 3, 0);
    program_read(fd, text, 3);
    close(fd);
    bench_end(&b);
}

/* What the guest sent before it closed comes out, however late it is read; its ports are free at once. */
static void what_was_sent_arrives(void **state)
{
    static uint8_t back[VSOCK_WINDOW];
    struct bench b;
    int fd, fd2;

    (void)state;
    bytes_fill();
    bench_start(&b);
    guest_give_all(&b);
    fd = guest_connect(&b, 5, 6);
    for (uint32_t at = 0; at < VSOCK_WINDOW; at += TX_LEN)
        guest_send(&b, OP_RW, 5, 6, bytes + at, TX_LEN, 0);
    guest_send(&b, OP_SHUTDOWN, 5, 6, NULL, 0, NO_MORE);
    guest_expect(&b, OP_RST, 5, 6, NULL);
    fd2 = guest_connect(&b, 5, 6);
    assert_int_equal(vsock_counters_get(b.v).connections, 2);
    program_read(fd, back, VSOCK_WINDOW);
    assert_memory_equal(back, bytes, VSOCK_WINDOW);
    assert_true(program_at_end(fd));
    counters_wait(&b, 1);
    close(fd);
    fd = fd2; /* by halves, with an RST as the last word */
    for (uint32_t at = 0; at < VSOCK_WINDOW; at += TX_LEN)
        guest_send(&b, OP_RW, 5, 6, bytes + at, TX_LEN, 0);
    guest_send(&b, OP_SHUTDOWN, 5, 6, NULL, 0, NO_MORE_SEND);
    guest_send(&b, OP_RST, 5, 6, NULL, 0, 0);
    program_read(fd, back, VSOCK_WINDOW);
    assert_memory_equal(back, bytes, VSOCK_WINDOW);
    assert_true(program_at_end(fd));
    close(fd);
    bench_end(&b);
}

/* A program that is killed with bytes unread: the guest is told that they are lost. */
static void a_program_that_breaks_off(void **state)
{
    struct bench b;
    struct got g;
    int fd;

    (void)state;
    bench_start(&b);
    guest_give_all(&b);
    fd = guest_connect(&b, 5, 6);
    guest_send(&b, OP_RW, 5, 6, "unread", 6, 0);
    close(fd);
    guest_expect(&b, OP_RST, 5, 6, &g);
    counters_wait(&b, 0);
    bench_end(&b);
}

/* Everything waits for receive buffers and comes in order. */
static void without_buffers_all_waits(void **state)
{
    struct bench b;
    struct got g;
    int fds[2];

    (void)state;
    bench_start(&b);
    b.keep_rx = true;
    assert_int_equal(socket_pair(fds), 0);
    b.answer = fds[0];
    guest_send(&b, OP_REQUEST, 5, 6, NULL, 0, 0);
    assert_int_equal(write(fds[1], "abc", 3), 3);
    shutdown(fds[1], SHUT_WR);
    guest_expect_none(&b, 20);
    guest_give(&b, 0, 1);
    guest_expect(&b, OP_RESPONSE, 5, 6, NULL);
    guest_expect_none(&b, 20);
    guest_give(&b, 1, 1);
    guest_expect(&b, OP_RW, 5, 6, &g);
    assert_int_equal(g.h.len, 3);
    guest_give(&b, 2, 1);
    guest_expect(&b, OP_SHUTDOWN, 5, 6, &g);
    close(fds[1]);
    bench_end(&b);
}

static void the_transport_is_reset(void **state)
{
    struct bench b;
    uint64_t gpa;
    uint32_t id, len;
    int fd;

    (void)state;
    bench_start(&b);
    guest_give_all(&b);
    gpa = drv_alloc(&b.d, 16);
    struct drv_seg s = { gpa, 8, true };
    fd = guest_connect(&b, 5, 6);
    vsock_transport_reset(b.v); /* no buffer for the event yet */
    assert_true(program_at_end(fd));
    close(fd);
    assert_false(drv_used(&b.d.queues[QUEUE_EVENT], &id, &len));
    memset(drv_at(&b.d, gpa, 8), 0xff, 8);
    drv_add(&b.d.queues[QUEUE_EVENT], 0, &s, 1);
    vdev_kick(b.d.vd, QUEUE_EVENT);
    drv_wait_used(&b.d.queues[QUEUE_EVENT], &id, &len);
    assert_int_equal(len, 4);
    assert_int_equal(*(uint32_t *)drv_at(&b.d, gpa, 4), 0);
    drv_add(&b.d.queues[QUEUE_EVENT], 0, &s, 1);
    vdev_kick(b.d.vd, QUEUE_EVENT);
    assert_false(drv_used(&b.d.queues[QUEUE_EVENT], &id, &len));
    vsock_transport_reset(b.v);
    drv_wait_used(&b.d.queues[QUEUE_EVENT], &id, &len);
    counters_wait(&b, 0);
    bench_end(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_guest_learns_its_address),
        cmocka_unit_test(a_guest_connects),
        cmocka_unit_test(a_guest_is_refused_or_answered_later),
        cmocka_unit_test(the_host_connects),
        cmocka_unit_test(the_host_is_refused_or_not_answered),
        cmocka_unit_test(the_guest_says_how_much_it_takes),
        cmocka_unit_test(a_slow_program_holds_the_guest_back),
        cmocka_unit_test(connections_do_not_wait_for_each_other),
        cmocka_unit_test(each_side_closes_its_half),
        cmocka_unit_test(what_was_sent_arrives),
        cmocka_unit_test(a_program_that_breaks_off),
        cmocka_unit_test(without_buffers_all_waits),
        cmocka_unit_test(the_transport_is_reset),
    };

    int failed = cmocka_run_group_tests_name("flags", tests, NULL, NULL);

    bench_features = VIRTIO_F_EVENT_IDX | VIRTIO_F_INDIRECT_DESC;
    return failed + cmocka_run_group_tests_name("event index", tests, NULL, NULL);
}
