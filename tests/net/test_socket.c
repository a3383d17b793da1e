/* Datagram and stream sockets: frames pass whole in both directions, each side can make the other wait, and
 * the end of the other side is told. */
#include <arpa/inet.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "peer.h"

static uint8_t buf[4 + NET_FRAME_MAX];

static int pair_start(struct peer *p, int type)
{
    struct net_config cfg = { .kind = NET_FD, .mtu = NET_MTU_DEFAULT };
    struct yado_error err = YADO_ERROR_INIT;
    struct net_backend *b;
    int fds[2];

    assert_int_equal(socketpair(AF_UNIX, type, 0, fds), 0);
    peer_init(p);
    cfg.fd = fds[0];
    b = net_open(&cfg, p->loop, &err);
    if (!b)
        fail_msg("%s", err.message);
    close(fds[0]); /* it has its own */
    peer_start(p, b);
    return fds[1];
}

static void fill(uint8_t *frame, size_t len, unsigned number)
{
    for (size_t i = 0; i < len; i++)
        frame[i] = (uint8_t)(number * 17 + i * 3);
}

/* The outside sends a frame. */
static void outside_send(int fd, int type, size_t len, unsigned number)
{
    uint32_t length = htonl((uint32_t)len);
    size_t head = type == SOCK_STREAM ? 4 : 0;

    memcpy(buf, &length, 4);
    fill(buf + head, len, number);
    assert_int_equal(send(fd, buf, head + len, 0), (ssize_t)(head + len));
}

static void read_exactly(int fd, uint8_t *to, size_t len)
{
    for (size_t done = 0; done < len;) {
        struct pollfd p = { .fd = fd, .events = POLLIN };
        ssize_t n;

        if (poll(&p, 1, 10000) != 1)
            fail_msg("nothing came");
        n = recv(fd, to + done, len - done, 0);
        assert_true(n > 0);
        done += (size_t)n;
    }
}

/* The outside receives a frame, which must be number `number`. */
static void outside_expect(int fd, int type, size_t len, unsigned number)
{
    static uint8_t got[NET_FRAME_MAX], want[NET_FRAME_MAX];

    if (type == SOCK_STREAM) {
        uint32_t length;

        read_exactly(fd, (uint8_t *)&length, 4);
        assert_int_equal(ntohl(length), len);
        read_exactly(fd, got, len);
    } else {
        struct pollfd p = { .fd = fd, .events = POLLIN };

        if (poll(&p, 1, 10000) != 1)
            fail_msg("nothing came");
        assert_int_equal(recv(fd, got, sizeof(got), 0), (ssize_t)len);
    }
    fill(want, len, number);
    assert_memory_equal(got, want, len);
}

static void inside_expect(struct peer *p, size_t len, unsigned number)
{
    static uint8_t want[NET_FRAME_MAX];
    struct net_frame *f = peer_next(p);

    fill(want, len, number);
    assert_int_equal(f->len, len);
    assert_memory_equal(f->data, want, len);
    assert_int_equal(f->off.flags, 0);
}

static void pass(int type)
{
    static const size_t sizes[] = { 14, 60, 1514, 9014, 65549 };
    static uint8_t frame[NET_FRAME_MAX];
    struct peer p;
    int fd = pair_start(&p, type);

    for (unsigned i = 0; i < array_size(sizes); i++) {
        fill(frame, sizes[i], i);
        assert_true(peer_send_bytes(&p, frame, sizes[i]));
        outside_expect(fd, type, sizes[i], i);
        outside_send(fd, type, sizes[i], i + 100);
        inside_expect(&p, sizes[i], i + 100);
    }
    close(fd);
    peer_end(&p);
}

static void frames_pass(void **state)
{
    (void)state;
    pass(SOCK_DGRAM);
    pass(SOCK_STREAM);
    pass(SOCK_SEQPACKET);
}

/* The outside does not read: frames are refused at some point, none of those taken is lost, and the device is
 * told when it goes on. */
static void outside_is_slow(int type)
{
    static uint8_t frame[1514];
    struct peer p;
    int fd = pair_start(&p, type);
    unsigned taken = 0;

    for (;; taken++) {
        fill(frame, sizeof(frame), taken);
        if (!peer_send_bytes(&p, frame, sizeof(frame)))
            break;
        if (taken > 100000)
            fail_msg("it takes frames for ever");
    }
    assert_false(peer_is_writable(&p));
    for (unsigned i = 0; i < taken; i++)
        outside_expect(fd, type, sizeof(frame), i);
    peer_wait_writable(&p);
    fill(frame, sizeof(frame), taken);
    assert_true(peer_send_bytes(&p, frame, sizeof(frame)));
    outside_expect(fd, type, sizeof(frame), taken);
    close(fd);
    peer_end(&p);
}

static void a_slow_outside_loses_nothing(void **state)
{
    (void)state;
    outside_is_slow(SOCK_DGRAM);
    outside_is_slow(SOCK_STREAM);
}

static void inside_is_slow(int type)
{
    struct peer p;
    int fd = pair_start(&p, type);

    peer_refuse(&p);
    for (unsigned i = 0; i < 8; i++)
        outside_send(fd, type, 1000 + i, i);
    assert_false(peer_has(&p, 100));
    assert_int_equal(peer_refused(&p), 1); /* it asks once and then waits to be told */
    peer_resume(&p);
    for (unsigned i = 0; i < 8; i++)
        inside_expect(&p, 1000 + i, i);
    close(fd);
    peer_end(&p);
}

static void a_slow_guest_loses_nothing(void **state)
{
    (void)state;
    inside_is_slow(SOCK_DGRAM);
    inside_is_slow(SOCK_STREAM);
}

static void the_end_is_told(void **state)
{
    static const int types[] = { SOCK_STREAM, SOCK_SEQPACKET, SOCK_DGRAM };

    (void)state;
    for (unsigned i = 0; i < array_size(types); i++) {
        uint8_t frame[60] = { 0 };
        struct peer p;

        close(pair_start(&p, types[i]));
        if (types[i] == SOCK_DGRAM) /* nobody says so before something is sent */
            assert_true(peer_send_bytes(&p, frame, sizeof(frame)));
        peer_wait_lost(&p);
        assert_true(p.why.message[0]);
        assert_true(peer_send_bytes(&p, frame, sizeof(frame))); /* goes nowhere, harms nobody */
        peer_end(&p);
    }
}

static void a_length_that_no_frame_has_is_the_end(void **state)
{
    struct peer p;
    int fd = pair_start(&p, SOCK_STREAM);
    uint32_t length = htonl(1 << 30);

    (void)state;
    assert_int_equal(write(fd, &length, 4), 4);
    peer_wait_lost(&p);
    assert_non_null(strstr(p.why.message, "1073741824"));
    close(fd);
    peer_end(&p);
}

/* A stream has no borders: frames may come in pieces of any size. */
static void pieces_make_frames(void **state)
{
    struct peer p;
    int fd = pair_start(&p, SOCK_STREAM);
    uint8_t bytes[2 * (4 + 100)];

    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        put32(bytes + i * 104, 100);
        fill(bytes + i * 104 + 4, 100, i);
    }
    for (size_t i = 0; i < sizeof(bytes); i++)
        assert_int_equal(write(fd, bytes + i, 1), 1);
    inside_expect(&p, 100, 0);
    inside_expect(&p, 100, 1);
    close(fd);
    peer_end(&p);
}

/* A long packet of the guest leaves as ordinary ones with whole checksums. */
static void long_packets_are_cut(void **state)
{
    static uint8_t data[20000], frame[NET_FRAME_MAX], got[NET_FRAME_MAX];
    struct packet k = { .src = { 10, 0, 0, 1 },
                        .dst = { 10, 0, 0, 2 },
                        .sport = 1,
                        .dport = 2,
                        .flags = 16,
                        .payload = data,
                        .len = sizeof(data) };
    struct net_frame f = { .data = frame };
    struct peer p;
    int fd = pair_start(&p, SOCK_DGRAM);
    size_t done = 0;

    (void)state;
    fill(data, sizeof(data), 5);
    f.len = packet_make(frame, &k);
    put16(frame + 50, packet_pseudo(frame));
    f.off = (struct net_offload){ .flags = NET_NEEDS_CSUM,
                                  .gso_type = NET_GSO_TCPV4,
                                  .gso_size = 1460,
                                  .csum_start = 34,
                                  .csum_offset = 16 };
    assert_true(peer_send(&p, &f));
    while (done < sizeof(data)) {
        struct pollfd w = { .fd = fd, .events = POLLIN };
        ssize_t n;

        assert_int_equal(poll(&w, 1, 10000), 1);
        n = recv(fd, got, sizeof(got), 0);
        assert_true(n > 54 && n <= 1514);
        assert_int_equal(packet_csum(got, (size_t)n), 0);
        assert_memory_equal(got + 54, data + done, (size_t)n - 54);
        done += (size_t)n - 54;
    }
    close(fd);
    peer_end(&p);
}

static void what_is_no_socket_is_refused(void **state)
{
    struct net_config cfg = { .kind = NET_FD, .mtu = NET_MTU_DEFAULT };
    int fds[2], lone = socket(AF_UNIX, SOCK_DGRAM, 0);
    struct peer p;

    (void)state;
    peer_init(&p);
    assert_int_equal(pipe(fds), 0);
    for (unsigned i = 0; i < 2; i++) {
        struct yado_error err = YADO_ERROR_INIT;

        cfg.fd = i ? lone : fds[0];
        assert_null(net_open(&cfg, p.loop, &err));
        assert_int_equal(err.code, YADO_ERR_INVALID_CONFIG);
        assert_non_null(strstr(err.message, "socket"));
    }
    close(fds[0]);
    close(fds[1]);
    close(lone);
    peer_end(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_pass),
        cmocka_unit_test(a_slow_outside_loses_nothing),
        cmocka_unit_test(a_slow_guest_loses_nothing),
        cmocka_unit_test(the_end_is_told),
        cmocka_unit_test(a_length_that_no_frame_has_is_the_end),
        cmocka_unit_test(pieces_make_frames),
        cmocka_unit_test(long_packets_are_cut),
        cmocka_unit_test(what_is_no_socket_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
