/* Where a board's socket device gets its sockets: an owner that is busy, listening sockets. The guest is a
 * driver on the PCI bus that knows where the device's registers are (src/virtio/transport_pci.c). */
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

#include "../virtio/driver.h"
#include "bus/region.h"
#include "host/socket.h"
#include "machine/vsocks.h"

#define BAR 0xe0000000ull
#define NOTIFY 0x3000
#define PACKET_LEN 44

struct packet { /* virtio 1.2, 5.10.6 */
    uint64_t src_cid, dst_cid;
    uint32_t src_port, dst_port, len;
    uint16_t type, op;
    uint32_t flags, buf_alloc, fwd_cnt;
} __attribute__((packed));
enum { REQUEST = 1, RESPONSE, RST, SHUTDOWN };

struct rig {
    struct drv d;
    struct bus *mmio;
    struct pci_host *host;
    struct loop *loop;
    struct vsocks *s;
    struct board_socket_listener listener;
    struct socket_file file;
    uint64_t bar, rx_gpa, tx_gpa;
    unsigned busy; /* atomic: so often the owner says BUSY */
    int then;      /* and then this */
    unsigned asks; /* atomic */
};

static char dir[64], path[80];

static void on_msi(void *ctx, uint64_t addr, uint32_t data)
{
    (void)ctx;
    (void)addr;
    (void)data;
}

static void on_line(void *ctx, unsigned n, bool level)
{
    (void)ctx;
    (void)n;
    (void)level;
}

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

static void wr(struct rig *r, unsigned off, unsigned width, uint64_t v)
{
    assert_true(bus_write(r->mmio, r->bar + off, width, v));
}

static void kick(struct rig *r, unsigned queue)
{
    wr(r, NOTIFY + 4 * queue, 2, queue);
}

/* One receive buffer for each descriptor, and all queues of 16. */
static void driver_start(struct rig *r)
{
    wr(r, 20, 1, 3);
    wr(r, 8, 4, 1);
    wr(r, 12, 4, 1); /* VERSION_1 */
    wr(r, 20, 1, 11);
    for (unsigned i = 0; i < 3; i++) {
        struct drv_queue *q = &r->d.queues[i];

        drv_rings(&r->d, q, 16);
        wr(r, 22, 2, i);
        wr(r, 24, 2, 16);
        wr(r, 32, 8, q->desc_gpa);
        wr(r, 40, 8, q->avail_gpa);
        wr(r, 48, 8, q->used_gpa);
        wr(r, 28, 2, 1);
    }
    wr(r, 20, 1, 15);
    for (unsigned i = 0; i < 16; i++)
        drv_add(&r->d.queues[0], i, &(struct drv_seg){ r->rx_gpa + i * 128, 128, true }, 1);
    kick(r, 0);
}

static void rig_open(struct rig *r, unsigned busy, int then)
{
    struct yado_error err = YADO_ERROR_INIT;

    memset(r, 0, sizeof(*r));
    r->busy = busy;
    r->then = then;
    drv_init(&r->d);
    r->rx_gpa = drv_alloc(&r->d, 16 * 128);
    r->tx_gpa = drv_alloc(&r->d, 16 * 128);
    r->mmio = bus_new("memory");
    r->loop = loop_new(&err);
    assert_int_equal(socket_listen_unix(path, &r->listener.fd, &r->file), 0);
    r->listener.guest_port = 22;
    struct pci_host_config pc = { .mmio = r->mmio, .msi = { .send = on_msi, .ctx = r } };
    for (unsigned i = 0; i < 4; i++)
        pc.intx[i] = (struct line){ on_line, r, i };
    r->host = pci_host_new(&pc, &err);
    struct board_sockets sockets = {
        .present = true, .listeners = &r->listener, .listener_count = 1, .asked = on_asked, .ctx = r
    };
    struct vsocks_config cfg = { .sockets = &sockets,
                                 .pci = r->host,
                                 .mem = r->d.mem,
                                 .loop = r->loop,
                                 .clock = clock_host(),
                                 .log = &r->d.log };
    r->s = vsocks_new(&cfg, &err);
    if (!r->s)
        fail_msg("%s", err.message);
    pci_host_reset(r->host);
    assert_true(pci_host_assign_bars(r->host, BAR, MIB(16), 1ull << 40, MIB(64), &err));
    pci_host_ecam_ops.write(r->host, 1 << 15 | 4, 2, 6); /* memory, bus master */
    r->bar = pci_host_ecam_ops.read(r->host, 1 << 15 | 0x10, 4) & ~15ull;
    r->bar |= pci_host_ecam_ops.read(r->host, 1 << 15 | 0x14, 4) << 32;
    assert_true(loop_start(r->loop, "test", &err));
}

static void rig_close(struct rig *r)
{
    loop_stop(r->loop);
    vsocks_free(r->s);
    pci_host_free(r->host);
    loop_free(r->loop);
    bus_free(r->mmio);
    close(r->listener.fd);
    socket_file_remove(path, &r->file);
    drv_free(&r->d);
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

    memcpy(drv_at(&r->d, r->tx_gpa, sizeof(p)), &p, sizeof(p));
    drv_add(&r->d.queues[1], 0, &(struct drv_seg){ r->tx_gpa, PACKET_LEN, false }, 1);
    kick(r, 1);
    drv_wait_used(&r->d.queues[1], &id, &len);
}

static struct packet packet_wait(struct rig *r)
{
    struct packet p;
    uint32_t id, len;

    drv_wait_used(&r->d.queues[0], &id, &len);
    assert_true(len >= PACKET_LEN);
    memcpy(&p, drv_at(&r->d, r->rx_gpa + id * 128, sizeof(p)), sizeof(p));
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
