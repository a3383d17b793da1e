/* NAT: a guest made of frames by hand, against servers on this host's loopback. */
#include <arpa/inet.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "peer.h"

enum { FIN = 1, SYN = 2, PSH = 8, ACK = 16 };

static const uint8_t guest_ip[4] = { 10, 0, 2, 15 }, host_ip[4] = { 10, 0, 2, 2 };

static void nat_start(struct peer *p, struct net_forward *forwards, unsigned count)
{
    struct net_config cfg = { .kind = NET_NAT, .fd = -1, .forwards = forwards, .forward_count = count };
    struct yado_error err = YADO_ERROR_INIT;
    struct net_backend *b;

    peer_init(p);
    b = net_open(&cfg, p->loop, &err);
    if (!b)
        fail_msg("%s", err.message);
    peer_start(p, b);
}

/* ---- frames ---- */

static size_t arp_make(uint8_t *buf, unsigned op, const uint8_t target_mac[6], const uint8_t target[4])
{
    memset(buf, 0, 60);
    memset(buf, 0xff, 6);
    memcpy(buf + 6, guest_mac, 6);
    put16(buf + 12, 0x0806);
    put16(buf + 14, 1);
    put16(buf + 16, 0x0800);
    buf[18] = 6;
    buf[19] = 4;
    put16(buf + 20, op);
    memcpy(buf + 22, guest_mac, 6);
    memcpy(buf + 28, guest_ip, 4);
    memcpy(buf + 32, target_mac, 6);
    memcpy(buf + 38, target, 4);
    return 60;
}

/* The next frame that is no router advertisement or neighbour's question; answers questions about the guest's
 * address. */
static struct net_frame *next(struct peer *p)
{
    for (;;) {
        struct net_frame *f = peer_next(p);
        uint8_t buf[60];

        if (get16(f->data + 12) == 0x86dd)
            continue;
        if (get16(f->data + 12) != 0x0806 || get16(f->data + 20) != 1)
            return f;
        if (!memcmp(f->data + 38, guest_ip, 4))
            peer_send_bytes(p, buf, arp_make(buf, 2, f->data + 6, f->data + 28));
    }
}

static void answers_arp(void **state)
{
    static const uint8_t nobody[6];
    struct net_frame *f;
    struct peer p;
    uint8_t buf[60];

    (void)state;
    nat_start(&p, NULL, 0);
    peer_send_bytes(&p, buf, arp_make(buf, 1, nobody, host_ip));
    f = next(&p);
    assert_int_equal(get16(f->data + 12), 0x0806);
    assert_int_equal(get16(f->data + 20), 2);
    assert_memory_equal(f->data + 28, host_ip, 4);
    assert_memory_equal(f->data, guest_mac, 6);
    peer_end(&p);
}

/* ---- DHCP (RFC 2131) ---- */

static size_t dhcp_make(uint8_t *buf, uint8_t type)
{
    uint8_t m[300] = { 1, 1, 6, 0, 0x12, 0x34, 0x56, 0x78 };
    static const uint8_t any[4], all[4] = { 255, 255, 255, 255 };
    struct packet p = { .udp = true, .sport = 68, .dport = 67, .payload = m, .len = sizeof(m) };
    uint8_t *o = m + 236;

    memcpy(m + 28, guest_mac, 6);
    put32(o, 0x63825363);
    o[4] = 53;
    o[5] = 1;
    o[6] = type;
    o += 7;
    if (type == 3) {
        o[0] = 50;
        o[1] = 4;
        memcpy(o + 2, guest_ip, 4);
        o += 6;
    }
    *o = 255;
    memcpy(p.src, any, 4);
    memcpy(p.dst, all, 4);
    return packet_make(buf, &p);
}

static const uint8_t *dhcp_option(const uint8_t *o, uint8_t code)
{
    while (*o != 255) {
        if (*o == code)
            return o + 1;
        o += *o ? 2 + o[1] : 1;
    }
    return NULL;
}

static void dhcp_step(struct peer *p, uint8_t ask, uint8_t answer)
{
    uint8_t buf[512];
    const uint8_t *m, *o;
    struct net_frame *f;

    peer_send_bytes(p, buf, dhcp_make(buf, ask));
    do {
        f = next(p);
    } while (f->data[23] != 17);
    m = f->data + 42;
    o = m + 240;
    assert_int_equal(packet_csum(f->data, f->len), 0);
    assert_memory_equal(m + 16, guest_ip, 4);
    assert_int_equal(dhcp_option(o, 53)[1], answer);
    assert_memory_equal(dhcp_option(o, 3) + 1, host_ip, 4);
    assert_memory_equal(dhcp_option(o, 6) + 1, ((uint8_t[]){ 10, 0, 2, 3 }), 4);
}

static void gives_an_address(void **state)
{
    struct peer p;

    (void)state;
    nat_start(&p, NULL, 0);
    dhcp_step(&p, 1, 2); /* discover, offer */
    dhcp_step(&p, 3, 5); /* request, acknowledge */
    peer_end(&p);
}

/* ---- TCP ---- */

struct tcp {
    struct peer *peer;
    uint8_t remote[4];
    uint16_t port, local;
    uint32_t seq, ack; /* next to send; next expected */
};

static void tcp_send(struct tcp *t, uint8_t flags, const void *data, size_t len, unsigned mss)
{
    static uint8_t buf[NET_FRAME_MAX];
    struct packet p = { .sport = t->local,
                        .dport = t->port,
                        .seq = t->seq,
                        .ack = t->ack,
                        .flags = flags,
                        .window = 65535,
                        .mss = mss,
                        .payload = data,
                        .len = len };

    memcpy(p.src, guest_ip, 4);
    memcpy(p.dst, t->remote, 4);
    peer_send_bytes(t->peer, buf, packet_make(buf, &p));
    t->seq += (uint32_t)len + (flags & (SYN | FIN) ? 1 : 0);
}

static size_t tcp_header(const struct net_frame *f)
{
    return NET_ETH_LEN + 20 + (size_t)(f->data[NET_ETH_LEN + 20 + 12] >> 4) * 4;
}

/* The next segment of the connection. Its checksum must be right, or left undone in the agreed way. */
static struct net_frame *tcp_next(struct tcp *t)
{
    for (;;) {
        struct net_frame *f = next(t->peer);
        const uint8_t *tcp = f->data + NET_ETH_LEN + 20;

        if (f->data[NET_ETH_LEN + 9] != 6 || get16(tcp + 2) != t->local)
            continue;
        if (f->off.flags & NET_NEEDS_CSUM) {
            assert_int_equal(f->off.csum_start, NET_ETH_LEN + 20);
            assert_int_equal(f->off.csum_offset, 16);
        } else {
            assert_int_equal(packet_csum(f->data, f->len), 0);
        }
        return f;
    }
}

static int listener_make(uint16_t *port)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t len = sizeof(a);
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(listen(fd, 8), 0);
    getsockname(fd, (struct sockaddr *)&a, &len);
    *port = ntohs(a.sin_port);
    return fd;
}

/* Opens a connection from the guest; returns the server's end. */
static int tcp_open(struct tcp *t, struct peer *p, unsigned mss)
{
    struct net_frame *f;
    int server = listener_make(&t->port), fd;

    t->peer = p;
    memcpy(t->remote, host_ip, 4);
    t->local = 40000;
    t->seq = 1000;
    tcp_send(t, SYN, NULL, 0, mss);
    f = tcp_next(t);
    assert_int_equal(f->data[NET_ETH_LEN + 20 + 13] & (SYN | ACK), SYN | ACK);
    assert_int_equal(get32(f->data + NET_ETH_LEN + 20 + 8), t->seq);
    t->ack = get32(f->data + NET_ETH_LEN + 20 + 4) + 1;
    tcp_send(t, ACK, NULL, 0, 0);
    fd = accept(server, NULL, NULL);
    assert_true(fd >= 0);
    close(server);
    return fd;
}

static void read_all(int fd, uint8_t *buf, size_t len)
{
    for (size_t done = 0; done < len;) {
        struct pollfd p = { .fd = fd, .events = POLLIN };
        ssize_t n;

        if (poll(&p, 1, 10000) != 1)
            fail_msg("only %zu of %zu bytes came", done, len);
        n = read(fd, buf + done, len - done);
        assert_true(n > 0);
        done += (size_t)n;
    }
}

static void connects_and_talks(void **state)
{
    struct peer p;
    struct tcp t = { 0 };
    struct net_frame *f;
    uint8_t buf[16];
    int fd;

    (void)state;
    nat_start(&p, NULL, 0);
    fd = tcp_open(&t, &p, 1460);
    tcp_send(&t, PSH | ACK, "hello", 5, 0);
    read_all(fd, buf, 5);
    assert_memory_equal(buf, "hello", 5);
    assert_int_equal(write(fd, "welcome", 7), 7);
    do {
        f = tcp_next(&t);
    } while (f->len == tcp_header(f));
    assert_int_equal(f->len - tcp_header(f), 7);
    assert_memory_equal(f->data + tcp_header(f), "welcome", 7);
    t.ack += 7;
    tcp_send(&t, ACK, NULL, 0, 0);
    close(fd);
    do {
        f = tcp_next(&t);
    } while (!(f->data[NET_ETH_LEN + 20 + 13] & FIN));
    peer_end(&p);
}

/* What a guest with checksum and segmentation offload sends: one frame of 40,000 bytes, its checksum left
 * undone. */
static void takes_long_unfinished_segments(void **state)
{
    static uint8_t data[40000], got[40000], buf[NET_FRAME_MAX];
    struct packet k = { .flags = PSH | ACK, .window = 65535, .payload = data, .len = sizeof(data) };
    struct net_frame f = { .data = buf };
    struct peer p;
    struct tcp t = { 0 };
    int fd;

    (void)state;
    nat_start(&p, NULL, 0);
    fd = tcp_open(&t, &p, 1460);
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)(i * 7 >> 3);
    memcpy(k.src, guest_ip, 4);
    memcpy(k.dst, t.remote, 4);
    k.sport = t.local;
    k.dport = t.port;
    k.seq = t.seq;
    k.ack = t.ack;
    f.len = packet_make(buf, &k);
    put16(buf + NET_ETH_LEN + 36, packet_pseudo(buf));
    f.off = (struct net_offload){ .flags = NET_NEEDS_CSUM,
                                  .gso_type = NET_GSO_TCPV4,
                                  .hdr_len = 54,
                                  .gso_size = 1460,
                                  .csum_start = 34,
                                  .csum_offset = 16 };
    peer_send(&p, &f);
    read_all(fd, got, sizeof(got));
    assert_memory_equal(got, data, sizeof(data));
    close(fd);
    peer_end(&p);
}

/* The other way round: a stream of the host comes in frames that are longer than the guest's segments and
 * marked so. */
static void gives_long_marked_segments(void **state)
{
    static uint8_t data[200000], got[200000];
    struct peer p;
    struct tcp t = { 0 };
    size_t done = 0, longest = 0;
    int fd;

    (void)state;
    nat_start(&p, NULL, 0);
    fd = tcp_open(&t, &p, 1400);
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)(i * 5 >> 2);
    assert_int_equal(write(fd, data, sizeof(data)), sizeof(data));
    while (done < sizeof(data)) {
        struct net_frame *f = tcp_next(&t);
        size_t n = f->len - tcp_header(f);

        if (n > 1400) {
            assert_int_equal(f->off.gso_type, NET_GSO_TCPV4);
            assert_int_equal(f->off.gso_size, 1400);
            assert_int_equal(get16(f->data + NET_ETH_LEN + 36), packet_pseudo(f->data));
        } else {
            assert_int_equal(f->off.gso_type, NET_GSO_NONE);
        }
        if (n && get32(f->data + NET_ETH_LEN + 24) == t.ack) {
            memcpy(got + done, f->data + tcp_header(f), n);
            done += n;
            t.ack += (uint32_t)n;
            tcp_send(&t, ACK, NULL, 0, 0);
        }
        longest = n > longest ? n : longest;
    }
    assert_memory_equal(got, data, sizeof(data));
    assert_true(longest > 16000);
    close(fd);
    peer_end(&p);
}

/* ---- back-pressure ---- */

static void waits_for_a_slow_guest(void **state)
{
    static const uint8_t nobody[6];
    struct peer p;
    uint8_t buf[60];

    (void)state;
    nat_start(&p, NULL, 0);
    peer_refuse(&p);
    for (unsigned i = 0; i < 5; i++)
        peer_send_bytes(&p, buf, arp_make(buf, 1, nobody, host_ip));
    assert_false(peer_has(&p, 100));
    assert_true(peer_refused(&p) >= 1);
    peer_resume(&p);
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(get16(next(&p)->data + 12), 0x0806);
    peer_end(&p);
}

/* ---- UDP ---- */

static void datagrams_go_and_come(void **state)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t len = sizeof(a);
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    struct packet k = { .udp = true, .sport = 5000, .payload = "ping", .len = 4 };
    struct net_frame *f;
    struct peer p;
    uint8_t buf[100], got[10];

    (void)state;
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    getsockname(fd, (struct sockaddr *)&a, &len);
    nat_start(&p, NULL, 0);
    memcpy(k.src, guest_ip, 4);
    memcpy(k.dst, host_ip, 4);
    k.dport = ntohs(a.sin_port);
    peer_send_bytes(&p, buf, packet_make(buf, &k));
    assert_int_equal(recvfrom(fd, got, sizeof(got), 0, (struct sockaddr *)&a, &len), 4);
    assert_memory_equal(got, "ping", 4);
    assert_int_equal(sendto(fd, "pong!", 5, 0, (struct sockaddr *)&a, len), 5);
    do {
        f = next(&p);
    } while (f->data[23] != 17);
    assert_int_equal(packet_csum(f->data, f->len), 0);
    assert_int_equal(get16(f->data + 36), 5000);
    assert_memory_equal(f->data + 42, "pong!", 5);
    close(fd);
    peer_end(&p);
}

/* ---- forwards ---- */

static uint16_t free_port(void)
{
    uint16_t port;

    close(listener_make(&port));
    return port;
}

static int connect_to(uint16_t port)
{
    struct sockaddr_in a = { .sin_family = AF_INET,
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                             .sin_port = htons(port) };
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    if (connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0)
        return fd;
    close(fd);
    return -1;
}

/* A connection to `port` of the host arrives at the guest's port 22, is answered, and carries bytes. */
static void expect_forwarded(struct peer *p, uint16_t port)
{
    struct tcp t = { .peer = p, .local = 22, .seq = 5000 };
    int fd = connect_to(port);
    struct net_frame *f;
    uint8_t got[4];

    assert_true(fd >= 0);
    do {
        f = tcp_next(&t);
    } while ((f->data[47] & (SYN | ACK)) != SYN);
    memcpy(t.remote, f->data + 26, 4);
    t.port = (uint16_t)get16(f->data + 34);
    t.ack = get32(f->data + 38) + 1;
    tcp_send(&t, SYN | ACK, NULL, 0, 1460);
    tcp_send(&t, PSH | ACK, "hey", 3, 0);
    read_all(fd, got, 3);
    assert_memory_equal(got, "hey", 3);
    close(fd);
}

struct forward_call {
    struct peer *peer;
    struct net_forward forward;
    bool add, ok;
    struct yado_error err;
};

static void forward_run(void *ctx)
{
    struct forward_call *c = ctx;

    c->ok = c->peer->backend->ops->forward(c->peer->backend, &c->forward, c->add, &c->err);
}

static void forwards_come_and_go(void **state)
{
    uint16_t one = free_port(), two = free_port();
    struct net_forward first = { .host = "127.0.0.1", .host_port = one, .guest_port = 22 };
    struct forward_call c = { .forward = { .host = "127.0.0.1", .host_port = two, .guest_port = 22 },
                              .add = true };
    struct peer p;

    (void)state;
    nat_start(&p, &first, 1);
    dhcp_step(&p, 1, 2);
    expect_forwarded(&p, one);

    c.peer = &p;
    assert_int_equal(connect_to(two), -1);
    peer_call(&p, forward_run, &c);
    assert_true(c.ok);
    expect_forwarded(&p, two);

    c.add = false;
    peer_call(&p, forward_run, &c);
    assert_true(c.ok);
    assert_int_equal(connect_to(two), -1);
    peer_call(&p, forward_run, &c); /* there is none any more */
    assert_false(c.ok);
    assert_int_equal(c.err.code, YADO_ERR_INVALID_CONFIG);
    expect_forwarded(&p, one);
    peer_end(&p);
}

static void a_port_that_is_taken_is_named(void **state)
{
    struct net_forward f = { .host = "127.0.0.1", .guest_port = 22 };
    struct net_config cfg = { .kind = NET_NAT, .fd = -1, .forwards = &f, .forward_count = 1 };
    struct yado_error err = YADO_ERROR_INIT;
    int server = listener_make(&f.host_port);
    char port[16];
    struct peer p;

    (void)state;
    peer_init(&p);
    assert_null(net_open(&cfg, p.loop, &err));
    assert_int_equal(err.code, YADO_ERR_IN_USE);
    snprintf(port, sizeof(port), "port %u", f.host_port);
    assert_non_null(strstr(err.message, port));
    close(server);
    peer_end(&p);
}

/* Frames of any bytes, and of good ones with some changed: whatever the guest sends, the process lives and
 * goes on. */
static void any_frame_is_survived(void **state)
{
    static uint8_t buf[NET_FRAME_MAX];
    uint8_t data[400] = { 0 };
    struct packet k = { .sport = 1, .dport = 2, .payload = data, .len = sizeof(data), .mss = 100 };
    struct peer p;
    unsigned seed = 7;

    (void)state;
    nat_start(&p, NULL, 0);
    peer_refuse(&p);
    memcpy(k.src, guest_ip, 4);
    memcpy(k.dst, host_ip, 4);
    for (unsigned i = 0; i < 3000; i++) {
        struct net_frame f = { .data = buf };

        k.udp = i & 1;
        k.flags = (uint8_t)rand_r(&seed);
        f.len = packet_make(buf, &k);
        for (unsigned j = 0; j < i % 5; j++)
            buf[(unsigned)rand_r(&seed) % (i % 3 ? 60 : f.len)] = (uint8_t)rand_r(&seed);
        if (i % 7 == 0)
            f.len = NET_ETH_LEN + (unsigned)rand_r(&seed) % (f.len - NET_ETH_LEN);
        f.off = (struct net_offload){ .flags = i % 4 == 0,
                                      .gso_type = (uint8_t)(i % 11 ? 0 : (unsigned)rand_r(&seed) % 8),
                                      .gso_size = (uint16_t)((unsigned)rand_r(&seed) % 200),
                                      .csum_start = 34,
                                      .csum_offset = 16 };
        peer_send(&p, &f);
    }
    peer_end(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_arp),
        cmocka_unit_test(gives_an_address),
        cmocka_unit_test(connects_and_talks),
        cmocka_unit_test(takes_long_unfinished_segments),
        cmocka_unit_test(gives_long_marked_segments),
        cmocka_unit_test(waits_for_a_slow_guest),
        cmocka_unit_test(datagrams_go_and_come),
        cmocka_unit_test(forwards_come_and_go),
        cmocka_unit_test(a_port_that_is_taken_is_named),
        cmocka_unit_test(any_frame_is_survived),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
