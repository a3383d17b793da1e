/* A tap interface in a network namespace of its own. Skipped, with the reason, where such cannot be made. */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "peer.h"

#define NAME "yado-test0"

static const uint8_t outside_ip[4] = { 192, 0, 2, 1 }, inside_ip[4] = { 192, 0, 2, 2 };

static struct net_backend *open_tap(struct peer *p, struct yado_error *err)
{
    static char name[] = NAME;
    struct net_config cfg = { .kind = NET_TAP, .name = name, .fd = -1 };

    return net_open(&cfg, p->loop, err);
}

/* Gives the outside an address and takes the interface up. */
static void interface_up(void)
{
    struct ifreq r = { .ifr_name = NAME };
    struct sockaddr_in *a = (struct sockaddr_in *)&r.ifr_addr;
    int fd = socket(AF_INET, SOCK_DGRAM, 0);

    a->sin_family = AF_INET;
    memcpy(&a->sin_addr, outside_ip, 4);
    assert_int_equal(ioctl(fd, SIOCSIFADDR, &r), 0);
    inet_pton(AF_INET, "255.255.255.0", &a->sin_addr);
    assert_int_equal(ioctl(fd, SIOCSIFNETMASK, &r), 0);
    assert_int_equal(ioctl(fd, SIOCGIFFLAGS, &r), 0);
    r.ifr_flags |= IFF_UP;
    assert_int_equal(ioctl(fd, SIOCSIFFLAGS, &r), 0);
    close(fd);
}

static void arp_ask(struct peer *p)
{
    uint8_t a[60];

    memset(a, 0, sizeof(a));
    memset(a, 0xff, 6);
    memcpy(a + 6, guest_mac, 6);
    put16(a + 12, 0x0806);
    put16(a + 14, 1);
    put16(a + 16, 0x0800);
    a[18] = 6;
    a[19] = 4;
    put16(a + 20, 1);
    memcpy(a + 22, guest_mac, 6);
    memcpy(a + 28, inside_ip, 4);
    memcpy(a + 38, outside_ip, 4);
    assert_true(peer_send_bytes(p, a, sizeof(a)));
}

static struct net_frame *next_of(struct peer *p, unsigned type)
{
    struct net_frame *f;

    do {
        f = peer_next(p);
    } while (get16(f->data + 12) != type);
    return f;
}

static void frames_pass(void **state)
{
    struct yado_error err = YADO_ERROR_INIT;
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(99) };
    struct packet k = { .udp = true, .sport = 99, .dport = 98, .payload = "inside", .len = 6 };
    struct net_frame *arp, *udp, send = { 0 };
    struct net_backend *b;
    uint8_t buf[100], got[10];
    struct peer p;
    int fd;

    peer_init(&p);
    b = open_tap(&p, &err);
    if (!b) {
        printf("skipped: %s\n", err.message);
        peer_end(&p);
        skip();
    }
    (void)state;
    peer_start(&p, b);
    interface_up();
    arp_ask(&p);
    arp = next_of(&p, 0x0806);
    while (get16(arp->data + 20) != 2)
        arp = next_of(&p, 0x0806);
    assert_memory_equal(arp->data + 28, outside_ip, 4);

    /* Out of the host's kernel: its checksum may be left undone, and then says so. */
    fd = socket(AF_INET, SOCK_DGRAM, 0);
    memcpy(&to.sin_addr, inside_ip, 4);
    assert_int_equal(sendto(fd, "outside", 7, 0, (struct sockaddr *)&to, sizeof(to)), 7);
    do {
        udp = next_of(&p, 0x0800);
    } while (udp->data[23] != 17 || get16(udp->data + 36) != 99);
    assert_memory_equal(udp->data + 42, "outside", 7);
    if (udp->off.flags & NET_NEEDS_CSUM)
        assert_int_equal(get16(udp->data + 40), packet_pseudo(udp->data));
    else
        assert_int_equal(packet_csum(udp->data, udp->len), 0);

    /* Into it, with the checksum left undone. */
    to.sin_port = htons(98);
    to.sin_addr.s_addr = htonl(INADDR_ANY);
    close(fd);
    fd = socket(AF_INET, SOCK_DGRAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&to, sizeof(to)), 0);
    memcpy(k.src, inside_ip, 4);
    memcpy(k.dst, outside_ip, 4);
    send.data = buf;
    send.len = packet_make(buf, &k);
    memcpy(buf, arp->data + 6, 6);
    put16(buf + 40, packet_pseudo(buf));
    send.off = (struct net_offload){ .flags = NET_NEEDS_CSUM, .csum_start = 34, .csum_offset = 6 };
    assert_true(peer_send(&p, &send));
    struct pollfd w = { .fd = fd, .events = POLLIN };
    assert_int_equal(poll(&w, 1, 10000), 1);
    assert_int_equal(recv(fd, got, sizeof(got), 0), 6);
    assert_memory_equal(got, "inside", 6);
    close(fd);

    /* The same interface twice is an error that names it. */
    struct yado_error again = YADO_ERROR_INIT;
    assert_null(open_tap(&p, &again));
    assert_int_equal(again.code, YADO_ERR_IN_USE);
    assert_non_null(strstr(again.message, NAME));
    peer_end(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(frames_pass) };

    if (unshare(CLONE_NEWNET) < 0 && unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0) {
        printf("skipped: no network namespace can be made: %s\n", strerror(errno));
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
