/* virtio over PCI as a driver sees it: through configuration space, BARs and interrupt messages of the real
 * host bridge. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "chip/pci_host.h"
#include "driver.h"
#include "virtio/console.h"
#include "virtio/rng.h"
#include "virtio/transport_pci.h"

#define MMIO_BASE 0xe0000000ull
#define MMIO64_BASE (1ull << 40)

enum { CAP_COMMON = 1, CAP_NOTIFY, CAP_ISR, CAP_DEVICE, CAP_PCI, CAP_END };

/* Common configuration, virtio 1.2, 4.1.4.3. */
enum {
    C_DEVICE_FEATURE_SELECT = 0,
    C_DEVICE_FEATURE = 4,
    C_DRIVER_FEATURE_SELECT = 8,
    C_DRIVER_FEATURE = 12,
    C_CONFIG_VECTOR = 16,
    C_NUM_QUEUES = 18,
    C_STATUS = 20,
    C_GENERATION = 21,
    C_QUEUE_SELECT = 22,
    C_QUEUE_SIZE = 24,
    C_QUEUE_VECTOR = 26,
    C_QUEUE_ENABLE = 28,
    C_QUEUE_NOTIFY_OFF = 30,
    C_QUEUE_DESC = 32,
    C_QUEUE_DRIVER = 40,
    C_QUEUE_DEVICE = 48,
};

struct cap {
    unsigned at; /* in configuration space; 0: absent */
    unsigned bar;
    uint32_t off, len, extra;
};

struct rig {
    struct drv d; /* memory and rings only; the device talks to the real transport */
    struct bus *mmio;
    struct pci_host *host;
    struct virtio_pci *vp;
    struct vrng *rng;
    struct vconsole *console;
    struct vdev *vd;
    struct cap caps[CAP_END];
    uint64_t bar0, msix_table;
    unsigned device, msix_cap;
    unsigned messages;
    uint32_t last_message;
    bool level;
};

static void on_msi(void *ctx, uint64_t addr, uint32_t data)
{
    struct rig *r = ctx;

    assert_int_equal(addr, 0xfee01000);
    r->messages++;
    r->last_message = data;
}

static void on_line(void *ctx, unsigned n, bool level)
{
    (void)n;
    ((struct rig *)ctx)->level = level;
}

static uint32_t config_read(struct rig *r, unsigned off, unsigned width)
{
    return (uint32_t)pci_host_ecam_ops.read(r->host, (uint64_t)r->device << 15 | off, width);
}

static void config_write(struct rig *r, unsigned off, unsigned width, uint32_t v)
{
    pci_host_ecam_ops.write(r->host, (uint64_t)r->device << 15 | off, width, v);
}

static uint64_t rd(struct rig *r, unsigned cap, unsigned off, unsigned width)
{
    uint64_t v = 0;

    assert_true(bus_read(r->mmio, r->bar0 + r->caps[cap].off + off, width, &v));
    return v;
}

static void wr(struct rig *r, unsigned cap, unsigned off, unsigned width, uint64_t v)
{
    assert_true(bus_write(r->mmio, r->bar0 + r->caps[cap].off + off, width, v));
}

static uint64_t bar_address(struct rig *r, unsigned bar)
{
    uint32_t low = config_read(r, 0x10 + 4 * bar, 4);
    uint64_t addr = low & ~15u;

    if (low & 4)
        addr |= (uint64_t)config_read(r, 0x14 + 4 * bar, 4) << 32;
    return addr;
}

static void caps_walk(struct rig *r)
{
    unsigned guard = 0;

    for (unsigned at = config_read(r, 0x34, 1); at; at = config_read(r, at + 1, 1)) {
        assert_true(++guard < 20);
        if (config_read(r, at, 1) == 0x11)
            r->msix_cap = at;
        if (config_read(r, at, 1) != 0x09)
            continue;
        unsigned len = config_read(r, at + 2, 1), type = config_read(r, at + 3, 1);
        assert_in_range(type, CAP_COMMON, CAP_PCI);
        assert_int_equal(len, type == CAP_NOTIFY || type == CAP_PCI ? 20 : 16);
        struct cap *c = &r->caps[type];
        assert_int_equal(c->at, 0);
        *c = (struct cap){ at, config_read(r, at + 4, 1), config_read(r, at + 8, 4),
                           config_read(r, at + 12, 4), 0 };
        if (len == 20)
            c->extra = config_read(r, at + 16, 4);
    }
}

static size_t sink(void *ctx, unsigned port, const uint8_t *buf, size_t len)
{
    (void)ctx;
    (void)port;
    (void)buf;
    return len;
}

static bool fill(void *ctx, void *buf, size_t len)
{
    (void)ctx;
    memset(buf, 0x42, len);
    return true;
}

static void open_rig(struct rig *r, bool console)
{
    struct yado_error err = YADO_ERROR_INIT;

    drv_init(&r->d);
    r->mmio = bus_new("mmio");
    struct pci_host_config cfg = { .mmio = r->mmio, .msi = { .send = on_msi, .ctx = r } };
    for (unsigned i = 0; i < 4; i++)
        cfg.intx[i] = (struct line){ on_line, r, i };
    r->host = pci_host_new(&cfg, &err);
    assert_non_null(r->host);
    if (console)
        r->console = vconsole_new(
            &(struct vconsole_config){
                .ports = &(struct vconsole_port_config){ .is_present = true, .columns = 80, .rows = 24 },
                .port_count = 1,
                .sink = sink,
                .log = &r->d.log },
            &err);
    else
        r->rng = vrng_new(&(struct vrng_config){ .fill = fill, .log = &r->d.log }, &err);
    r->vd = console ? vconsole_vdev(r->console) : vrng_vdev(r->rng);
    r->vp = virtio_pci_attach(r->host, r->vd, r->d.mem, &err);
    assert_non_null(r->vp);
    pci_host_reset(r->host);
    if (!pci_host_assign_bars(r->host, MMIO_BASE, MIB(16), MMIO64_BASE, MIB(64), &err))
        fail_msg("%s", err.message);
    r->device = 1;
    config_write(r, 4, 2, 6); /* memory, bus master */
    caps_walk(r);
    r->bar0 = bar_address(r, 0);
    r->msix_table = bar_address(r, 4);
}

static int setup(void **state)
{
    struct rig *r = test_calloc(1, sizeof(*r));

    open_rig(r, false);
    *state = r;
    return 0;
}

static int setup_console(void **state)
{
    struct rig *r = test_calloc(1, sizeof(*r));

    open_rig(r, true);
    *state = r;
    return 0;
}

static int teardown(void **state)
{
    struct rig *r = *state;

    virtio_pci_free(r->vp);
    vrng_free(r->rng);
    vconsole_free(r->console);
    pci_host_free(r->host);
    bus_free(r->mmio);
    drv_free(&r->d);
    test_free(r);
    return 0;
}

static uint8_t status(struct rig *r)
{
    return (uint8_t)rd(r, CAP_COMMON, C_STATUS, 1);
}

static uint64_t features_offered(struct rig *r)
{
    uint64_t f;

    wr(r, CAP_COMMON, C_DEVICE_FEATURE_SELECT, 4, 1);
    f = rd(r, CAP_COMMON, C_DEVICE_FEATURE, 4) << 32;
    wr(r, CAP_COMMON, C_DEVICE_FEATURE_SELECT, 4, 0);
    return f | rd(r, CAP_COMMON, C_DEVICE_FEATURE, 4);
}

static void features_accept(struct rig *r, uint64_t f)
{
    wr(r, CAP_COMMON, C_DRIVER_FEATURE_SELECT, 4, 0);
    wr(r, CAP_COMMON, C_DRIVER_FEATURE, 4, (uint32_t)f);
    wr(r, CAP_COMMON, C_DRIVER_FEATURE_SELECT, 4, 1);
    wr(r, CAP_COMMON, C_DRIVER_FEATURE, 4, f >> 32);
}

static void msix_set(struct rig *r, unsigned vector, uint32_t data)
{
    uint64_t at = r->msix_table + 16 * vector;

    assert_true(bus_write(r->mmio, at, 4, 0xfee01000));
    assert_true(bus_write(r->mmio, at + 4, 4, 0));
    assert_true(bus_write(r->mmio, at + 8, 4, data));
    assert_true(bus_write(r->mmio, at + 12, 4, 0));
}

static void queue_set(struct rig *r, unsigned i, uint16_t size, unsigned vector)
{
    struct drv_queue *q = &r->d.queues[i];

    drv_rings(&r->d, q, size);
    wr(r, CAP_COMMON, C_QUEUE_SELECT, 2, i);
    wr(r, CAP_COMMON, C_QUEUE_SIZE, 2, size);
    wr(r, CAP_COMMON, C_QUEUE_VECTOR, 2, vector);
    wr(r, CAP_COMMON, C_QUEUE_DESC, 4, q->desc_gpa);
    wr(r, CAP_COMMON, C_QUEUE_DESC + 4, 4, 0);
    wr(r, CAP_COMMON, C_QUEUE_DRIVER, 8, q->avail_gpa); /* the bus cuts it in halves */
    wr(r, CAP_COMMON, C_QUEUE_DEVICE, 4, q->used_gpa);
    wr(r, CAP_COMMON, C_QUEUE_DEVICE + 4, 4, 0);
    wr(r, CAP_COMMON, C_QUEUE_ENABLE, 2, 1);
}

static void start(struct rig *r, bool msix)
{
    unsigned none = 0xffff;

    wr(r, CAP_COMMON, C_STATUS, 1, 0);
    wr(r, CAP_COMMON, C_STATUS, 1, 1);
    wr(r, CAP_COMMON, C_STATUS, 1, 3);
    features_accept(r, VIRTIO_F_VERSION_1 | (r->console ? 1 : 0));
    wr(r, CAP_COMMON, C_STATUS, 1, 11);
    assert_int_equal(status(r), 11);
    if (msix) {
        config_write(r, r->msix_cap + 2, 2, 0x8000);
        for (unsigned i = 0; i <= r->vd->queue_count; i++)
            msix_set(r, i, 100 + i);
        wr(r, CAP_COMMON, C_CONFIG_VECTOR, 2, 0);
        assert_int_equal(rd(r, CAP_COMMON, C_CONFIG_VECTOR, 2), 0);
    }
    for (unsigned i = 0; i < r->vd->queue_count; i++)
        queue_set(r, i, 8, msix ? i + 1 : none);
    wr(r, CAP_COMMON, C_STATUS, 1, 15);
    assert_int_equal(status(r), 15);
}

static void kick(struct rig *r, unsigned queue)
{
    wr(r, CAP_COMMON, C_QUEUE_SELECT, 2, queue);
    unsigned off = (unsigned)rd(r, CAP_COMMON, C_QUEUE_NOTIFY_OFF, 2) * r->caps[CAP_NOTIFY].extra;
    assert_true(off + 2 <= r->caps[CAP_NOTIFY].len);
    wr(r, CAP_NOTIFY, off, 2, queue);
}

static void one_request(struct rig *r)
{
    struct drv_seg seg = { drv_alloc(&r->d, 64), 64, true };
    uint32_t id, len;

    drv_add(&r->d.queues[0], 0, &seg, 1);
    kick(r, 0);
    assert_true(drv_used(&r->d.queues[0], &id, &len));
    assert_int_equal(len, 64);
    assert_int_equal(*(uint8_t *)drv_at(&r->d, seg.gpa + 63, 1), 0x42);
}

static void test_identity(void **state)
{
    struct rig *r = *state;

    assert_int_equal(config_read(r, 0, 4), 0x10441af4);
    assert_true(config_read(r, 8, 1) >= 1);
    assert_true(r->bar0 >= MMIO64_BASE);
    for (unsigned i = CAP_COMMON; i < CAP_END; i++) {
        if (i == CAP_DEVICE) { /* an entropy device has no configuration */
            assert_int_equal(r->caps[i].at, 0);
            continue;
        }
        assert_int_not_equal(r->caps[i].at, 0);
        assert_int_equal(r->caps[i].bar, 0);
        assert_true(r->caps[i].off + r->caps[i].len <= 0x4000);
    }
    assert_true(r->caps[CAP_COMMON].len >= 56);
    assert_int_equal(r->caps[CAP_NOTIFY].extra, 4);
    assert_int_not_equal(r->msix_cap, 0);
    assert_int_equal((config_read(r, r->msix_cap + 2, 2) & 0x7ff) + 1, 2);
    assert_int_equal(rd(r, CAP_COMMON, C_NUM_QUEUES, 2), 1);
    assert_int_equal(features_offered(r), VIRTIO_F_VERSION_1 | VIRTIO_F_EVENT_IDX | VIRTIO_F_INDIRECT_DESC);
    wr(r, CAP_COMMON, C_DEVICE_FEATURE_SELECT, 4, 2);
    assert_int_equal(rd(r, CAP_COMMON, C_DEVICE_FEATURE, 4), 0);
}

static void test_device_config(void **state)
{
    struct rig *r = *state;

    assert_int_equal(config_read(r, 0, 4), 0x10431af4);
    assert_int_equal(r->caps[CAP_DEVICE].len, 12);
    assert_int_equal(rd(r, CAP_DEVICE, 0, 2), 80);
    assert_int_equal(rd(r, CAP_DEVICE, 0, 8), 80 | 24 << 16 | 1ull << 32);
    start(r, true);
    unsigned messages = r->messages;
    uint64_t generation = rd(r, CAP_COMMON, C_GENERATION, 1);
    vconsole_resize(r->console, 0, 100, 40);
    assert_int_equal(r->messages, messages + 1);
    assert_int_equal(r->last_message, 100);
    assert_int_not_equal(rd(r, CAP_COMMON, C_GENERATION, 1), generation);
    assert_int_equal(rd(r, CAP_DEVICE, 2, 1), 40);
}

static void test_msix(void **state)
{
    struct rig *r = *state;

    start(r, true);
    one_request(r);
    assert_int_equal(r->messages, 1);
    assert_int_equal(r->last_message, 101);
    assert_false(r->level);
    assert_int_equal(rd(r, CAP_ISR, 0, 1), 0);
    /* vectors that do not exist */
    wr(r, CAP_COMMON, C_QUEUE_VECTOR, 2, 2);
    assert_int_equal(rd(r, CAP_COMMON, C_QUEUE_VECTOR, 2), 0xffff);
    wr(r, CAP_COMMON, C_CONFIG_VECTOR, 2, 0x7ff);
    assert_int_equal(rd(r, CAP_COMMON, C_CONFIG_VECTOR, 2), 0xffff);
    one_request(r);
    assert_int_equal(r->messages, 1);
    wr(r, CAP_COMMON, C_QUEUE_VECTOR, 2, 0);
    one_request(r);
    assert_int_equal(r->last_message, 100);
}

static void test_intx(void **state)
{
    struct rig *r = *state;

    start(r, false);
    one_request(r);
    assert_int_equal(r->messages, 0);
    assert_true(r->level);
    assert_int_equal(rd(r, CAP_ISR, 0, 1), 1);
    assert_false(r->level);
    assert_int_equal(rd(r, CAP_ISR, 0, 1), 0);
    one_request(r);
    assert_true(r->level);
    wr(r, CAP_COMMON, C_STATUS, 1, 0);
    assert_false(r->level);
    assert_int_equal(rd(r, CAP_ISR, 0, 1), 0);
}

static void test_bus_master(void **state)
{
    struct rig *r = *state;
    struct drv_seg seg = { drv_alloc(&r->d, 64), 64, true };
    uint32_t id, len;

    start(r, true);
    config_write(r, 4, 2, 2);
    drv_add(&r->d.queues[0], 0, &seg, 1);
    kick(r, 0);
    assert_false(drv_used(&r->d.queues[0], &id, &len));
    config_write(r, 4, 2, 6);
    kick(r, 0);
    assert_true(drv_used(&r->d.queues[0], &id, &len));
}

static void test_features(void **state)
{
    struct rig *r = *state;

    wr(r, CAP_COMMON, C_STATUS, 1, 3);
    features_accept(r, VIRTIO_F_EVENT_IDX); /* not VERSION_1 */
    wr(r, CAP_COMMON, C_STATUS, 1, 11);
    assert_int_equal(status(r), 3);
    features_accept(r, VIRTIO_F_VERSION_1 | 1ull << 35); /* not offered */
    wr(r, CAP_COMMON, C_STATUS, 1, 11);
    assert_int_equal(status(r), 3);
    features_accept(r, VIRTIO_F_VERSION_1);
    wr(r, CAP_COMMON, C_STATUS, 1, 11);
    assert_int_equal(status(r), 11);
    features_accept(r, 0); /* too late */
    assert_int_equal(r->vd->accepted, VIRTIO_F_VERSION_1);
    wr(r, CAP_COMMON, C_STATUS, 1, 1); /* bits are not cleared one by one */
    assert_int_equal(status(r), 11);
    wr(r, CAP_COMMON, C_STATUS, 1, 0x80 | 11);
    assert_int_equal(status(r), 0x80 | 11);
    wr(r, CAP_COMMON, C_STATUS, 1, 0);
    assert_int_equal(status(r), 0);
    assert_int_equal(r->vd->accepted, 0);
}

static void test_driver_ok_too_early(void **state)
{
    struct rig *r = *state;

    wr(r, CAP_COMMON, C_STATUS, 1, 7);
    assert_int_equal(status(r), 64);
    wr(r, CAP_COMMON, C_STATUS, 1, 0);
    start(r, true);
    one_request(r);
}

static void test_queue_registers(void **state)
{
    struct rig *r = *state;

    assert_int_equal(rd(r, CAP_COMMON, C_QUEUE_SIZE, 2), 16);
    wr(r, CAP_COMMON, C_QUEUE_SELECT, 2, 1);
    assert_int_equal(rd(r, CAP_COMMON, C_QUEUE_SIZE, 2), 0);
    wr(r, CAP_COMMON, C_QUEUE_SIZE, 2, 8);
    wr(r, CAP_COMMON, C_QUEUE_ENABLE, 2, 1);
    wr(r, CAP_COMMON, C_QUEUE_SELECT, 2, 0xffff);
    wr(r, CAP_COMMON, C_QUEUE_VECTOR, 2, 0);
    wr(r, CAP_COMMON, C_QUEUE_SELECT, 2, 0);
    wr(r, CAP_COMMON, C_QUEUE_DESC, 8, 0x1122334455667780);
    assert_int_equal(rd(r, CAP_COMMON, C_QUEUE_DESC, 8), 0x1122334455667780);
    wr(r, CAP_COMMON, C_QUEUE_DESC + 4, 4, 0);
    assert_int_equal(rd(r, CAP_COMMON, C_QUEUE_DESC, 8), 0x55667780);
    wr(r, CAP_COMMON, C_QUEUE_DESC, 1, 0xff); /* not the register's width */
    wr(r, CAP_COMMON, C_QUEUE_SIZE, 1, 4);
    wr(r, CAP_COMMON, C_NUM_QUEUES, 2, 4);
    assert_int_equal(rd(r, CAP_COMMON, C_QUEUE_DESC, 8), 0x55667780);
    assert_int_equal(rd(r, CAP_COMMON, C_QUEUE_SIZE, 2), 16);
    start(r, true);
    wr(r, CAP_COMMON, C_QUEUE_SIZE, 2, 4); /* fixed now */
    wr(r, CAP_COMMON, C_QUEUE_DESC, 4, 0);
    wr(r, CAP_COMMON, C_QUEUE_ENABLE, 2, 0);
    assert_int_equal(rd(r, CAP_COMMON, C_QUEUE_SIZE, 2), 8);
    assert_int_equal(rd(r, CAP_COMMON, C_QUEUE_DESC, 4), r->d.queues[0].desc_gpa);
    assert_int_equal(rd(r, CAP_COMMON, C_QUEUE_ENABLE, 2), 1);
    one_request(r);
    virtio_pci_reset(r->vp);
    assert_int_equal(rd(r, CAP_COMMON, C_QUEUE_SIZE, 2), 16);
    assert_int_equal(rd(r, CAP_COMMON, C_QUEUE_DESC, 8), 0);
    assert_int_equal(rd(r, CAP_COMMON, C_QUEUE_ENABLE, 2), 0);
    assert_int_equal(rd(r, CAP_COMMON, C_QUEUE_VECTOR, 2), 0xffff);
    assert_int_equal(rd(r, CAP_COMMON, C_CONFIG_VECTOR, 2), 0xffff);
}

/* Rings that are not in RAM: the driver hears of it by status when it starts the device. */
static void test_bad_rings(void **state)
{
    struct rig *r = *state;

    wr(r, CAP_COMMON, C_STATUS, 1, 3);
    wr(r, CAP_COMMON, C_QUEUE_ENABLE, 2, 1); /* before FEATURES_OK */
    assert_int_equal(status(r), 64 | 3);
    wr(r, CAP_COMMON, C_STATUS, 1, 0);
    wr(r, CAP_COMMON, C_STATUS, 1, 3);
    features_accept(r, VIRTIO_F_VERSION_1);
    wr(r, CAP_COMMON, C_STATUS, 1, 11);
    config_write(r, r->msix_cap + 2, 2, 0x8000);
    msix_set(r, 0, 100);
    wr(r, CAP_COMMON, C_CONFIG_VECTOR, 2, 0);
    wr(r, CAP_COMMON, C_QUEUE_DESC, 8, DRV_MEM_SIZE);
    wr(r, CAP_COMMON, C_QUEUE_ENABLE, 2, 1);
    assert_int_equal(status(r), 64 | 11);
    assert_int_equal(r->messages, 0);
    wr(r, CAP_COMMON, C_STATUS, 1, 15);
    assert_int_equal(status(r), 64 | 15);
    assert_int_equal(r->messages, 1);
    assert_non_null(strstr(r->d.fault, "not in RAM"));
    kick(r, 0);
    start(r, true);
    one_request(r);
}

/* 4.1.4.9: BAR 0 through configuration space, with memory decoding off. */
static void test_pci_window(void **state)
{
    struct rig *r = *state;
    unsigned at = r->caps[CAP_PCI].at;

    config_write(r, 4, 2, 4);
    config_write(r, at + 4, 1, 0);
    config_write(r, at + 8, 4, r->caps[CAP_COMMON].off + C_STATUS);
    config_write(r, at + 12, 4, 1);
    config_write(r, at + 16, 1, 3);
    assert_int_equal(r->vd->status, 3);
    assert_int_equal(config_read(r, at + 16, 1), 3);
    config_write(r, at + 8, 4, r->caps[CAP_COMMON].off + C_NUM_QUEUES);
    config_write(r, at + 12, 4, 2);
    assert_int_equal(config_read(r, at + 16, 2), 1);
    config_write(r, at + 8, 4, r->caps[CAP_COMMON].off + C_DRIVER_FEATURE);
    config_write(r, at + 12, 4, 4);
    config_write(r, at + 16, 4, 0x12345678);
    assert_int_equal(r->vd->accepted, 0x12345678);
    /* windows to nowhere do nothing */
    static const uint32_t bad[][3] = { { 1, 0, 4 },  { 0, 0x4000, 4 }, { 0, 0x3ffe, 4 }, { 0, 1, 4 },
                                       { 0, 12, 0 }, { 0, 12, 3 },     { 0, 12, 8 },     { 0, 0xfffffffc, 4 },
                                       { 4, 0, 4 },  { 255, 12, 4 } };
    for (unsigned i = 0; i < array_size(bad); i++) {
        config_write(r, at + 4, 1, bad[i][0]);
        config_write(r, at + 8, 4, bad[i][1]);
        config_write(r, at + 12, 4, bad[i][2]);
        config_write(r, at + 16, 4, 0xffffffff);
        config_read(r, at + 16, 4);
        assert_int_equal(r->vd->accepted, 0x12345678);
    }
    assert_int_equal(config_read(r, at + 3, 1), CAP_PCI);
    config_write(r, at + 3, 1, 0);
    assert_int_equal(config_read(r, at + 3, 1), CAP_PCI);
    config_write(r, r->caps[CAP_COMMON].at + 8, 4, 0xffffffff);
    assert_int_equal(config_read(r, r->caps[CAP_COMMON].at + 8, 4), r->caps[CAP_COMMON].off);
}

/* Any access sequence is survived, and after a reset the device works. */
static void test_random_registers(void **state)
{
    struct rig *r = *state;

    srandom(7);
    print_message("seed 7\n");
    for (unsigned i = 0; i < 200000; i++) {
        unsigned width = 1u << random() % 4;
        uint64_t off =
            (uint64_t)(random() % 4 << 12 | (random() % (random() % 8 ? 64 : 4096))) & ~(uint64_t)(width - 1);
        uint64_t v = (uint64_t)random() << 33 ^ (uint64_t)random();

        if (random() % 2)
            v &= 0xf;
        else if (random() % 4 == 0)
            v &= 0xfffff0;
        if (random() % 3)
            bus_write(r->mmio, r->bar0 + off, width, v);
        else
            bus_read(r->mmio, r->bar0 + off, width, &v);
        if (i % 64 == 0) { /* sometimes a sane start, or nothing would ever run */
            start(r, i % 128 == 0);
            drv_publish(&r->d.queues[0], (uint16_t)(random() % 9));
            r->d.next_gpa = 0x1000;
        }
    }
    start(r, true);
    r->messages = 0;
    one_request(r);
    assert_int_equal(r->messages, 1);
}

/* ---- doorbells ---- */

struct bell_board {
    unsigned count;
    uint64_t at;
    int fd;
};

static bool bell_add(void *ctx, uint64_t addr, int fd)
{
    struct bell_board *b = ctx;

    b->count++;
    b->at = addr;
    b->fd = fd;
    return true;
}

static void bell_drop(void *ctx, uint64_t addr, int fd)
{
    struct bell_board *b = ctx;

    assert_int_equal(addr, b->at);
    assert_int_equal(fd, b->fd);
    b->count--;
}

/* There while DRIVER_OK stands, wherever the BAR is; ringing works as a kick does. */
static void test_doorbells(void **state)
{
    struct rig *r = *state;
    struct loop *loop = loop_new(NULL);
    struct bell_board board = { 0 };
    const uint64_t one = 1;
    uint32_t id, len;

    assert_true(loop_start(loop, "test-loop", NULL));
    r->vd->loop = loop;
    bus_set_doorbell_sink(r->mmio, (struct doorbell_sink){ bell_add, bell_drop, &board });
    for (unsigned round = 0; round < 3; round++) {
        uint64_t buffer;

        assert_int_equal(board.count, 0);
        start(r, true);
        assert_int_equal(board.count, 1);
        assert_int_equal(board.at, r->bar0 + r->caps[CAP_NOTIFY].off);
        buffer = drv_alloc(&r->d, 64);
        drv_add(&r->d.queues[0], 0, &(struct drv_seg){ buffer, 64, true }, 1);
        assert_int_equal(write(board.fd, &one, sizeof(one)), sizeof(one));
        drv_wait_used(&r->d.queues[0], &id, &len);
        assert_int_equal(len, 64);
        /* moved, and decoding off and on */
        config_write(r, 0x10, 4, (uint32_t)r->bar0 + 0x10000);
        assert_int_equal(board.count, 1);
        assert_int_equal(board.at, r->bar0 + 0x10000 + r->caps[CAP_NOTIFY].off);
        config_write(r, 4, 2, 4);
        assert_int_equal(board.count, 0);
        config_write(r, 0x10, 4, (uint32_t)r->bar0);
        config_write(r, 4, 2, 6);
        assert_int_equal(board.at, r->bar0 + r->caps[CAP_NOTIFY].off);
        if (round == 0)
            wr(r, CAP_COMMON, C_STATUS, 1, 0);
        else if (round == 1)
            virtio_pci_reset(r->vp);
        assert_int_equal(board.count, round == 2);
        assert_int_equal(write(board.fd, &one, sizeof(one)), sizeof(one)); /* too late: nothing happens */
    }
    virtio_pci_free(r->vp);
    r->vp = NULL;
    assert_int_equal(board.count, 0);
    loop_stop(loop);
    r->vd->loop = NULL;
    loop_free(loop);
}

/* A queue whose driver waits for the answer in a loop has none. */
static void test_no_doorbell_for_polled(void **state)
{
    struct rig *r = *state;
    struct loop *loop = loop_new(NULL);
    struct bell_board board = { 0 };

    r->vd->loop = loop;
    bus_set_doorbell_sink(r->mmio, (struct doorbell_sink){ bell_add, bell_drop, &board });
    start(r, true);
    assert_int_equal(board.count, 1);
    assert_int_equal(board.at, r->bar0 + r->caps[CAP_NOTIFY].off); /* queue 0 receives, queue 1 transmits */
    virtio_pci_free(r->vp);
    r->vp = NULL;
    r->vd->loop = NULL;
    loop_free(loop);
}

#define T(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(identity),
        cmocka_unit_test_setup_teardown(test_device_config, setup_console, teardown),
        T(msix),
        T(intx),
        T(bus_master),
        T(features),
        T(driver_ok_too_early),
        T(queue_registers),
        T(bad_rings),
        T(pci_window),
        T(doorbells),
        cmocka_unit_test_setup_teardown(test_no_doorbell_for_polled, setup_console, teardown),
        T(random_registers),
    };

    return cmocka_run_group_tests_name("virtio over PCI", tests, NULL, NULL);
}
