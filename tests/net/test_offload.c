/* Checksums, segmentation, and the segment size that is raised on the way. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "net/mss.h"
#include "net/offload.h"
#include "peer.h"

static uint8_t buf[NET_FRAME_MAX], work[NET_FRAME_MAX], data[60000];

static void data_fill(void)
{
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)(i * 31 >> 2);
}

static struct packet tcp_packet(size_t len)
{
    return (struct packet){ .src = { 10, 0, 2, 15 },
                            .dst = { 10, 0, 2, 2 },
                            .sport = 1234,
                            .dport = 80,
                            .seq = 0xffffff00,
                            .ack = 7,
                            .flags = 0x99,
                            .window = 1000,
                            .payload = data,
                            .len = len };
}

/* An IPv6 packet around the TCP or UDP part of an IPv4 one. */
static size_t to_v6(uint8_t *frame, size_t len)
{
    uint8_t proto = frame[23];
    size_t l4 = len - NET_ETH_LEN - 20;

    memmove(frame + NET_ETH_LEN + 40, frame + NET_ETH_LEN + 20, l4);
    put16(frame + 12, 0x86dd);
    memset(frame + NET_ETH_LEN, 0, 40);
    frame[NET_ETH_LEN] = 0x60;
    put16(frame + NET_ETH_LEN + 4, (unsigned)l4);
    frame[NET_ETH_LEN + 6] = proto;
    frame[NET_ETH_LEN + 7] = 64;
    for (unsigned i = 0; i < 32; i++)
        frame[NET_ETH_LEN + 8 + i] = (uint8_t)(i * 9 + 1);
    return len + 20;
}

static struct net_frame unfinished(size_t len, uint8_t gso, uint16_t size, bool v6, bool udp)
{
    unsigned start = NET_ETH_LEN + (v6 ? 40 : 20), at = udp ? 6 : 16;

    put16(buf + start + at, packet_pseudo(buf));
    return (struct net_frame){ .data = buf,
                               .len = len,
                               .off = { .flags = NET_NEEDS_CSUM,
                                        .gso_type = gso,
                                        .gso_size = size,
                                        .csum_start = (uint16_t)start,
                                        .csum_offset = (uint16_t)at } };
}

static void checksum_is_by_the_book(void **state)
{
    (void)state;
    data_fill();
    for (size_t len = 0; len < 300; len++) {
        struct packet p = tcp_packet(len);
        struct net_frame f;
        size_t n;

        p.udp = len % 3 == 0;
        n = packet_make(buf, &p);
        if (len % 2)
            n = to_v6(buf, n);
        f = unfinished(n, NET_GSO_NONE, 0, len % 2, p.udp);
        assert_true(net_offload_valid(&f));
        net_csum_finish(&f);
        assert_int_equal(f.off.flags, 0);
        assert_int_equal(packet_csum(buf, n), 0);
    }
}

static void udp_checksum_is_never_zero(void **state)
{
    uint8_t two[2];
    struct packet p = { .udp = true, .sport = 5, .dport = 6, .payload = two, .len = 2 };
    struct net_frame f;
    unsigned zeros = 0;

    (void)state;
    for (unsigned i = 0; i < 65536; i++) {
        size_t n;

        put16(two, i);
        n = packet_make(buf, &p);
        zeros += get16(buf + 40) == 0;
        f = unfinished(n, NET_GSO_NONE, 0, false, true);
        net_csum_finish(&f);
        assert_int_not_equal(get16(buf + 40), 0);
    }
    assert_int_equal(zeros, 1); /* the case was there */
}

/* ---- segmentation ---- */

struct pieces {
    unsigned count, stop_after;
    bool v6, udp;
    size_t header, size, done;
    uint16_t id;
};

static bool on_piece(void *ctx, struct net_frame *f)
{
    struct pieces *p = ctx;
    size_t n = f->len - p->header;
    const uint8_t *ip = f->data + NET_ETH_LEN, *l4 = ip + (p->v6 ? 40 : 20);

    assert_int_equal(packet_csum(f->data, f->len), 0);
    assert_true(n == p->size || p->done + n == sizeof(data));
    assert_memory_equal(f->data + p->header, data + p->done, n);
    if (!p->v6) {
        uint16_t sum = (uint16_t)~net_sum_fold(net_sum(0, ip, 20));

        assert_int_equal(sum, 0);
        assert_int_equal(get16(ip + 4), p->id + p->count);
        assert_int_equal(get16(ip + 2), f->len - NET_ETH_LEN);
    }
    if (p->udp) {
        assert_int_equal(get16(l4 + 4), n + 8);
    } else {
        bool last = p->done + n == sizeof(data);

        assert_int_equal(get32(l4 + 4), 0xffffff00 + (uint32_t)p->done);
        assert_int_equal(l4[13],
                         0x10 | (last ? 0x09 : 0) | (p->count ? 0 : 0x80)); /* FIN, PSH last; CWR first */
    }
    p->done += n;
    p->count++;
    return p->count != p->stop_after;
}

static void segment(bool v6, bool udp, uint16_t size)
{
    struct packet k = tcp_packet(sizeof(data));
    struct pieces p = { .v6 = v6, .udp = udp, .size = size, .id = 0 };
    struct net_frame f;
    size_t n;

    k.udp = udp;
    n = packet_make(buf, &k);
    if (v6)
        n = to_v6(buf, n);
    p.header = n - sizeof(data);
    f = unfinished(n, udp ? NET_GSO_UDP_L4 : v6 ? NET_GSO_TCPV6 : NET_GSO_TCPV4, size, v6, udp);
    assert_true(net_offload_valid(&f));
    net_segment(&f, work, on_piece, &p);
    assert_int_equal(p.done, sizeof(data));
    assert_int_equal(p.count, (sizeof(data) + size - 1) / size);
}

static void segments_are_whole_packets(void **state)
{
    (void)state;
    data_fill();
    for (unsigned i = 0; i < 4; i++) {
        segment(i & 1, i & 2, 1448);
        segment(i & 1, i & 2, 1);
        segment(i & 1, i & 2, 65535);
    }
}

static void segmentation_stops(void **state)
{
    struct packet k = tcp_packet(sizeof(data));
    struct pieces p = { .size = 1000, .header = 54, .stop_after = 3 };
    struct net_frame f = unfinished(packet_make(buf, &k), NET_GSO_TCPV4, 1000, false, false);

    (void)state;
    net_segment(&f, work, on_piece, &p);
    assert_int_equal(p.count, 3);
}

/* ---- frames that lie ---- */

static void lies_are_seen(void **state)
{
    struct packet k = tcp_packet(5000);
    size_t n = packet_make(buf, &k);
    struct net_frame good = unfinished(n, NET_GSO_TCPV4, 1000, false, false), f;

    (void)state;
    assert_true(net_offload_valid(&good));
    f = good, f.off.gso_size = 0;
    assert_false(net_offload_valid(&f));
    f = good, f.off.gso_type = NET_GSO_TCPV6;
    assert_false(net_offload_valid(&f));
    f = good, f.off.gso_type = NET_GSO_UDP_L4;
    assert_false(net_offload_valid(&f));
    f = good, f.off.gso_type = 3; /* UFO, which nobody agreed on */
    assert_false(net_offload_valid(&f));
    f = good, f.off.flags = 0;
    assert_false(net_offload_valid(&f));
    f = good, f.off.csum_start = 65535;
    assert_false(net_offload_valid(&f));
    f = good, f.off.csum_offset = (uint16_t)(n - 35);
    assert_false(net_offload_valid(&f));
    f = good, f.len = 40;
    assert_false(net_offload_valid(&f));
}

static bool on_any_piece(void *ctx, struct net_frame *f)
{
    (void)ctx;
    assert_int_equal(packet_csum(f->data, f->len), 0);
    return true;
}

/* Any bytes at all: nothing is read or written outside (for the sanitizers), and what is found lies inside.
 */
static void any_bytes_are_safe(void **state)
{
    struct packet k = tcp_packet(200);
    unsigned seed = 1, found = 0;

    (void)state;
    for (unsigned i = 0; i < 20000; i++) {
        size_t n = packet_make(buf, &k), len;
        uint8_t *exact;
        struct net_layers l;
        struct net_frame f;

        if (i % 2)
            n = to_v6(buf, n);
        for (unsigned j = 0; j < 1 + i % 6; j++)
            buf[(unsigned)rand_r(&seed) % 80] = (uint8_t)rand_r(&seed);
        len = i % 5 ? n : (unsigned)rand_r(&seed) % n;
        exact = malloc(len + !len);
        memcpy(exact, buf, len);
        if (net_layers_find(exact, len, &l)) {
            assert_true(l.l3 < l.l4 && l.l4 < l.payload && l.payload <= l.end && l.end <= len);
            found++;
        }
        f = (struct net_frame){ .data = exact,
                                .len = len,
                                .off = { .flags = 1,
                                         .gso_type = (uint8_t)(i % 6),
                                         .gso_size = 50,
                                         .csum_start = (uint16_t)((unsigned)rand_r(&seed) % 300),
                                         .csum_offset = (uint16_t)((unsigned)rand_r(&seed) % 300) } };
        if (len >= NET_ETH_LEN && net_offload_valid(&f)) {
            if (f.off.gso_type)
                net_segment(&f, work, on_any_piece, &found);
            net_csum_finish(&f);
        }
        free(exact);
    }
    assert_true(found > 1000);
}

/* ---- segment size ---- */

static void segment_size_is_raised_and_remembered(void **state)
{
    static struct mss_table table;
    struct packet syn = tcp_packet(0), back;
    struct net_frame f = { .data = buf };
    size_t n;

    (void)state;
    data_fill();
    syn.flags = 2;
    syn.mss = 1400;
    f.len = packet_make(buf, &syn);
    mss_raise(&table, &f, 32000);
    assert_int_equal(get16(buf + 56), 32000);
    assert_int_equal(packet_csum(buf, f.len), 0);

    back = tcp_packet(5000);
    memcpy(back.src, syn.dst, 4);
    memcpy(back.dst, syn.src, 4);
    back.sport = syn.dport;
    back.dport = syn.sport;
    f.len = n = packet_make(buf, &back);
    mss_mark(&table, &f);
    assert_int_equal(f.off.gso_type, NET_GSO_TCPV4);
    assert_int_equal(f.off.gso_size, 1400);
    assert_int_equal(f.off.flags, NET_NEEDS_CSUM);
    assert_true(net_offload_valid(&f));
    net_csum_finish(&f);
    assert_int_equal(packet_csum(buf, n), 0);

    back.len = 1400; /* one segment is none to be cut */
    f.len = packet_make(buf, &back);
    mss_mark(&table, &f);
    assert_int_equal(f.off.gso_type, NET_GSO_NONE);
    assert_int_equal(f.off.flags, NET_DATA_VALID);

    back.len = 1000; /* a flow that nobody knows: the size that everybody takes */
    back.dport++;
    f.len = packet_make(buf, &back);
    mss_mark(&table, &f);
    assert_int_equal(f.off.gso_size, 536);
}

/* An option at an odd place changes two words of the checksum. */
static void odd_options_keep_the_checksum(void **state)
{
    static struct mss_table table;
    struct packet syn = tcp_packet(0);
    struct net_frame f = { .data = buf };

    (void)state;
    syn.flags = 2;
    syn.mss = 1400;
    f.len = packet_make(buf, &syn);
    memmove(buf + 55, buf + 54, 4); /* no-operation, option, three bytes of end */
    buf[54] = 1;
    memset(buf + 59, 0, 3);
    buf[46] = 7 << 4;
    put16(buf + 16, 20 + 28);
    put16(buf + 24, 0);
    put16(buf + 24, (unsigned)(uint16_t)~net_sum_fold(net_sum(0, buf + 14, 20)));
    f.len += 4;
    put16(buf + 50, 0);
    put16(buf + 50, packet_csum(buf, f.len));
    assert_int_equal(packet_csum(buf, f.len), 0);
    mss_raise(&table, &f, 32001);
    assert_int_equal(get16(buf + 57), 32001);
    assert_int_equal(packet_csum(buf, f.len), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(checksum_is_by_the_book),
        cmocka_unit_test(udp_checksum_is_never_zero),
        cmocka_unit_test(segments_are_whole_packets),
        cmocka_unit_test(segmentation_stops),
        cmocka_unit_test(lies_are_seen),
        cmocka_unit_test(any_bytes_are_safe),
        cmocka_unit_test(segment_size_is_raised_and_remembered),
        cmocka_unit_test(odd_options_keep_the_checksum),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
