/* Where a board's socket device gets its sockets: an owner that is busy, listening sockets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/socket.h"
#include "machine/vsocks.h"
#include "pci_bench.h"

#define PACKET_LEN 44

struct packet { /* virtio 1.2, 5.10.6 */
    uint64_t src_cid, dst_cid;
    uint32_t src_port, dst_port, len;
    uint16_t type, op;
    uint32_t flags, buf_alloc, fwd_cnt;
} __attribute__((packed));
enum { REQUEST = 1, RESPONSE, RST, SHUTDOWN };

struct rig {
    struct pci_bench b;
    struct vsocks *s;
    struct board_socket_listener listener;
    struct socket_file file;
    uint64_t rx_gpa, tx_gpa;
    unsigned busy; /* atomic: so often the owner says BUSY */
    int then;      /* and then this */
    unsigned asks; /* atomic */
};

static char dir[64], path[80];

static int on_asked(void *ctx, uint64_t id, uint32_t guest_port, uint32_t host_port)
{
    struct rig *r = ctx;

    (void)id;
    assert_int_equal(guest_port, 5);
    assert_int_equal(host_port, 6);
    if (__atomic_fetch_add(&r->asks, 1, __ATOMIC_SEQ_CST) < r->busy)
        return BOARD_SOCKET_BUSY;
    return r->then;
}

/* One receive buffer for each descriptor. */
static void driver_start(struct rig *r)
{
    pci_bench_drive(&r->b, 0, 3);
    for (unsigned i = 0; i < 16; i++)
        drv_add(&r->b.d.queues[0], i, &(struct drv_seg){ r->rx_gpa + i * 128, 128, true }, 1);
    pci_bench_kick(&r->b, 0);
}

static void rig_open(struct rig *r, unsigned busy, int then)
{
    struct yado_error err = YADO_ERROR_INIT;

    memset(r, 0, sizeof(*r));
    r->busy = busy;
    r->then = then;
    pci_bench_open(&r->b);
    r->rx_gpa = drv_alloc(&r->b.d, 16 * 128);
    r->tx_gpa = drv_alloc(&r->b.d, 16 * 128);
    assert_int_equal(socket_listen_unix(path, &r->listener.fd, &r->file), 0);
    r->listener.guest_port = 22;
    struct board_sockets sockets = {
        .present = true, .listeners = &r->listener, .listener_count = 1, .asked = on_asked, .ctx = r
    };
    struct vsocks_config cfg = { .sockets = &sockets,
                                 .pci = r->b.host,
                                 .mem = r->b.d.mem,
                                 .loop = r->b.loop,
                                 .clock = clock_host(),
                                 .log = &r->b.d.log };
    r->s = vsocks_new(&cfg, &err);
    if (!r->s)
        fail_msg("%s", err.message);
    pci_bench_start(&r->b);
}

static void rig_close(struct rig *r)
{
    pci_bench_stop(&r->b);
    vsocks_free(r->s);
    pci_bench_close(&r->b);
    close(r->listener.fd);
    socket_file_remove(path, &r->file);
}

static void packet_send(struct rig *r, unsigned op, uint32_t guest_port, uint32_t host_port)
{
    struct packet p = { .src_cid = 3,
                        .dst_cid = 2,
                        .src_port = guest_port,
                        .dst_port = host_port,
                        .type = 1,
                        .op = (uint16_t)op,
                        .buf_alloc = 4096 };
    uint32_t id, len;

    memcpy(drv_at(&r->b.d, r->tx_gpa, sizeof(p)), &p, sizeof(p));
    drv_add(&r->b.d.queues[1], 0, &(struct drv_seg){ r->tx_gpa, PACKET_LEN, false }, 1);
    pci_bench_kick(&r->b, 1);
    drv_wait_used(&r->b.d.queues[1], &id, &len);
}

static struct packet packet_wait(struct rig *r)
{
    struct packet p;
    uint32_t id, len;

    drv_wait_used(&r->b.d.queues[0], &id, &len);
    assert_true(len >= PACKET_LEN);
    memcpy(&p, drv_at(&r->b.d, r->rx_gpa + id * 128, sizeof(p)), sizeof(p));
    return p;
}

static void a_busy_owner_is_asked_again(void **state)
{
    struct rig r;
    int fds[2];

    (void)state;
    assert_int_equal(socket_pair(fds), 0);
    rig_open(&r, 5, fds[0]);
    driver_start(&r);
    packet_send(&r, REQUEST, 5, 6);
    assert_int_equal(packet_wait(&r).op, RESPONSE);
    assert_int_equal(r.asks, 6);
    close(fds[1]);
    assert_int_equal(packet_wait(&r).op, SHUTDOWN);
    rig_close(&r);
    rig_open(&r, 3, BOARD_SOCKET_REFUSED);
    driver_start(&r);
    packet_send(&r, REQUEST, 5, 6);
    assert_int_equal(packet_wait(&r).op, RST);
    assert_int_equal(r.asks, 4);
    rig_close(&r);
}

/* Waits until nobody has been asked for five times as long as there is between two tries. */
static void asking_ends(struct rig *r)
{
    unsigned asks, now = __atomic_load_n(&r->asks, __ATOMIC_SEQ_CST);
    unsigned tries = 0;

    do {
        asks = now;
        usleep(50000);
        now = __atomic_load_n(&r->asks, __ATOMIC_SEQ_CST);
    } while (now != asks && ++tries < 200);
    assert_int_equal(now, asks);
}

/* A guest that does not wait any longer is not connected for. */
static void nobody_is_asked_for_who_left(void **state)
{
    struct rig r;

    (void)state;
    rig_open(&r, UINT32_MAX, BOARD_SOCKET_REFUSED);
    driver_start(&r);
    packet_send(&r, REQUEST, 5, 6);
    packet_send(&r, RST, 5, 6);
    asking_ends(&r);
    packet_send(&r, REQUEST, 5, 6); /* and a reset forgets the rest */
    vsocks_reset(r.s);
    asking_ends(&r);
    rig_close(&r);
}

static bool ends(int fd)
{
    struct pollfd p = { .fd = fd, .events = POLLIN };
    struct iovec iov = { (char[1]){ 0 }, 1 };

    assert_int_equal(poll(&p, 1, 20000), 1);
    return socket_receive(fd, &iov, 1) <= 0;
}

static void programs_of_the_host_come(void **state)
{
    struct rig r;
    struct packet p;
    int fd;

    (void)state;
    rig_open(&r, 0, BOARD_SOCKET_REFUSED);
    assert_int_equal(socket_connect_unix(path, &fd), 0); /* before there is a driver */
    assert_true(ends(fd));
    close(fd);
    driver_start(&r);
    assert_int_equal(socket_connect_unix(path, &fd), 0);
    p = packet_wait(&r);
    assert_int_equal(p.op, REQUEST);
    assert_int_equal(p.dst_port, 22);
    packet_send(&r, RST, 22, p.src_port);
    assert_true(ends(fd));
    close(fd);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_busy_owner_is_asked_again),
        cmocka_unit_test(nobody_is_asked_for_who_left),
        cmocka_unit_test(programs_of_the_host_come),
    };
    int failed;

    snprintf(dir, sizeof(dir), "/tmp/yado-test-vsocks-XXXXXX");
    if (!mkdtemp(dir))
        return 1;
    snprintf(path, sizeof(path), "%s/s", dir);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    rmdir(dir);
    return failed;
}
