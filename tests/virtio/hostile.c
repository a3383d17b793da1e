#include "hostile.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "chip/pci_host.h"
#include "virtio/rng.h"
#include "virtio/transport_pci.h"

#define MSI_ADDRESS 0xfee01000u
#define COMMAND_MEMORY_AND_MASTER 6u

static struct hostile_function *function_of(struct hostile *h, unsigned device)
{
    return device == h->beside.device ? &h->beside : &h->subject;
}

/* Data: device times 256 and vector. */
static void on_msi(void *ctx, uint64_t addr, uint32_t data)
{
    (void)addr;
    __atomic_add_fetch(&function_of(ctx, data >> 8)->messages[(data & 0xff) % (VDEV_QUEUES_MAX + 1)], 1,
                       __ATOMIC_SEQ_CST);
}

static void on_line(void *ctx, unsigned n, bool level)
{
    (void)ctx;
    (void)n;
    (void)level;
}

/* ---- accesses ---- */

uint32_t h_config_read(struct hostile *h, struct hostile_function *f, unsigned off, unsigned width)
{
    return (uint32_t)pci_host_ecam_ops.read(h->host, (uint64_t)f->device << 15 | off, width);
}

void h_config_write(struct hostile *h, struct hostile_function *f, unsigned off, unsigned width, uint32_t v)
{
    pci_host_ecam_ops.write(h->host, (uint64_t)f->device << 15 | off, width, v);
}

uint64_t h_read(struct hostile *h, struct hostile_function *f, unsigned off, unsigned width)
{
    uint64_t v = 0;

    bus_read(h->mmio, f->bar0 + off, width, &v);
    return v;
}

void h_write(struct hostile *h, struct hostile_function *f, unsigned off, unsigned width, uint64_t v)
{
    bus_write(h->mmio, f->bar0 + off, width, v);
}

uint8_t h_status(struct hostile *h, struct hostile_function *f)
{
    return (uint8_t)h_read(h, f, H_COMMON + H_STATUS, 1);
}

void h_kick(struct hostile *h, struct hostile_function *f, unsigned queue)
{
    h_write(h, f, H_NOTIFY + 4 * queue, 2, queue);
}

unsigned h_messages(struct hostile_function *f, unsigned vector)
{
    return __atomic_load_n(&f->messages[vector], __ATOMIC_SEQ_CST);
}

unsigned h_msix_cap(struct hostile *h, struct hostile_function *f)
{
    unsigned at = h_config_read(h, f, 0x34, 1);

    while (at && h_config_read(h, f, at, 1) != 0x11)
        at = h_config_read(h, f, at + 1, 1);
    assert_true(at != 0);
    return at;
}

/* ---- making ---- */

static uint64_t bar_address(struct hostile *h, struct hostile_function *f, unsigned bar)
{
    uint32_t low = h_config_read(h, f, 0x10 + 4 * bar, 4);
    uint64_t addr = low & ~15u;

    if (low & 4)
        addr |= (uint64_t)h_config_read(h, f, 0x14 + 4 * bar, 4) << 32;
    return addr;
}

static void function_find(struct hostile *h, struct hostile_function *f)
{
    h_config_write(h, f, 4, 2, COMMAND_MEMORY_AND_MASTER);
    f->bar0 = bar_address(h, f, 0);
    f->msix_table = bar_address(h, f, 4);
}

static bool fill(void *ctx, void *buf, size_t len)
{
    (void)ctx;
    memset(buf, 0x42, len);
    return true;
}

void hostile_open(struct hostile *h, const struct hostile_kind *kind)
{
    struct yado_error err = YADO_ERROR_INIT;
    struct pci_host_config cfg = { .msi = { .send = on_msi, .ctx = h } };

    memset(h, 0, sizeof(*h));
    h->kind = kind;
    drv_init(&h->subject.d);
    h->beside.d.mem = h->subject.d.mem;
    h->beside.device = 1;
    h->subject.device = 2;
    h->subject.first_gpa = 0x1000;
    h->beside.first_gpa = DRV_MEM_SIZE - MIB(1);
    h->mmio = bus_new("mmio");
    cfg.mmio = h->mmio;
    for (unsigned i = 0; i < 4; i++)
        cfg.intx[i] = (struct line){ on_line, h, i };
    h->host = pci_host_new(&cfg, &err);
    h->loop = loop_new(&err);
    assert_true(h->host && h->loop);
    h->rng = vrng_new(&(struct vrng_config){ .fill = fill, .loop = h->loop }, &err);
    h->beside.d.vd = vrng_vdev(h->rng);
    h->subject.d.vd = kind->make(h);
    assert_non_null(h->subject.d.vd);
    h->beside.vp = virtio_pci_attach(h->host, h->beside.d.vd, h->subject.d.mem, &err);
    h->subject.vp = virtio_pci_attach(h->host, h->subject.d.vd, h->subject.d.mem, &err);
    assert_true(h->beside.vp && h->subject.vp);
    pci_host_reset(h->host);
    if (!pci_host_assign_bars(h->host, 0xe0000000, MIB(16), 1ull << 40, MIB(64), &err))
        fail_msg("%s", err.message);
    function_find(h, &h->beside);
    function_find(h, &h->subject);
    assert_int_equal(h_config_read(h, &h->subject, 2, 2), 0x1040 + h->subject.d.vd->ops->id);
    assert_true(loop_start(h->loop, "test", &err));
    h_start(h, &h->beside, 0, 8);
}

void hostile_close(struct hostile *h)
{
    loop_stop(h->loop);
    virtio_pci_free(h->subject.vp);
    virtio_pci_free(h->beside.vp);
    h->kind->free(h);
    vrng_free(h->rng);
    pci_host_free(h->host);
    loop_free(h->loop);
    bus_free(h->mmio);
    drv_free(&h->subject.d);
}

/* ---- the driver ---- */

void h_reset(struct hostile *h, struct hostile_function *f)
{
    h_write(h, f, H_COMMON + H_STATUS, 1, 0);
    assert_int_equal(h_status(h, f), 0);
}

static void vectors_set(struct hostile *h, struct hostile_function *f)
{
    h_config_write(h, f, h_msix_cap(h, f) + 2, 2, 0x8000); /* enabled, not masked */
    for (unsigned i = 0; i <= f->d.vd->queue_count; i++) {
        uint64_t at = f->msix_table + 16 * i;

        bus_write(h->mmio, at, 4, MSI_ADDRESS);
        bus_write(h->mmio, at + 4, 4, 0);
        bus_write(h->mmio, at + 8, 4, f->device << 8 | i);
        bus_write(h->mmio, at + 12, 4, 0);
    }
    h_write(h, f, H_COMMON + H_CONFIG_VECTOR, 2, 0);
}

void h_negotiate(struct hostile *h, struct hostile_function *f, uint64_t features)
{
    h_config_write(h, f, 4, 2, COMMAND_MEMORY_AND_MASTER);
    h_reset(h, f);
    vdev_lock(f->d.vd); /* only so many faults are logged: each one here shall be */
    f->d.vd->counters.faults = 0;
    f->d.fault[0] = 0;
    vdev_unlock(f->d.vd);
    vectors_set(h, f);
    features |= VIRTIO_F_VERSION_1;
    h_write(h, f, H_COMMON + H_STATUS, 1, 1);
    h_write(h, f, H_COMMON + H_STATUS, 1, 3);
    for (unsigned half = 0; half < 2; half++) {
        h_write(h, f, H_COMMON + H_DRIVER_FEATURE_SELECT, 4, half);
        h_write(h, f, H_COMMON + H_DRIVER_FEATURE, 4, (uint32_t)(features >> 32 * half));
    }
    h_write(h, f, H_COMMON + H_STATUS, 1, 11);
    assert_int_equal(h_status(h, f), 11);
}

static void address_write(struct hostile *h, struct hostile_function *f, unsigned off, uint64_t v)
{
    h_write(h, f, H_COMMON + off, 4, (uint32_t)v);
    h_write(h, f, H_COMMON + off + 4, 4, v >> 32);
}

void h_queue(struct hostile *h, struct hostile_function *f, unsigned index, unsigned size, uint64_t desc,
             uint64_t avail, uint64_t used)
{
    h_write(h, f, H_COMMON + H_QUEUE_SELECT, 2, index);
    h_write(h, f, H_COMMON + H_QUEUE_SIZE, 2, size);
    h_write(h, f, H_COMMON + H_QUEUE_VECTOR, 2, index + 1);
    address_write(h, f, H_QUEUE_DESC, desc);
    address_write(h, f, H_QUEUE_DRIVER, avail);
    address_write(h, f, H_QUEUE_DEVICE, used);
    h_write(h, f, H_COMMON + H_QUEUE_ENABLE, 2, 1);
}

void h_start(struct hostile *h, struct hostile_function *f, uint64_t features, unsigned size)
{
    h_negotiate(h, f, features);
    f->d.next_gpa = f->first_gpa;
    for (unsigned i = 0; i < f->d.vd->queue_count; i++) {
        struct drv_queue *q = &f->d.queues[i];
        unsigned max = f->d.vd->queues[i].size_max;

        drv_rings(&f->d, q, (uint16_t)(size && size < max ? size : max));
        q->event_idx = (features & VIRTIO_F_EVENT_IDX) != 0;
        h_queue(h, f, i, q->size, q->desc_gpa, q->avail_gpa, q->used_gpa);
    }
    h_write(h, f, H_COMMON + H_STATUS, 1, 15);
    assert_int_equal(h_status(h, f), 15);
}

void h_expect_broken(struct hostile *h, unsigned config_messages, const char *why)
{
    struct hostile_function *s = &h->subject;

    for (int i = 0; i < 20000 && !(h_status(h, s) & VIRTIO_STATUS_NEEDS_RESET); i++)
        usleep(1000);
    if (!(h_status(h, s) & VIRTIO_STATUS_NEEDS_RESET))
        fail_msg("%s: it should be broken: %s", h->kind->name, why ? why : "");
    assert_true(h_messages(s, 0) > config_messages);
    vdev_lock(s->d.vd); /* the log line is written under it */
    if (why && !strstr(s->d.fault, why))
        fail_msg("%s: \"%s\" does not say \"%s\"", h->kind->name, s->d.fault, why);
    vdev_unlock(s->d.vd);
}

void h_all_works(struct hostile *h)
{
    struct hostile_function *b = &h->beside;
    uint32_t id, len;

    b->d.next_gpa = align_up(b->first_gpa + 0x1000, 16); /* behind its rings */
    drv_add(&b->d.queues[0], 0, &(struct drv_seg){ drv_alloc(&b->d, 64), 64, true }, 1);
    h_kick(h, b, 0);
    drv_wait_used(&b->d.queues[0], &id, &len);
    assert_int_equal(len, 64);
    assert_int_equal(h_status(h, b), 15);
    h_start(h, &h->subject, h->kind->features, 16);
    h->kind->works(h);
    assert_int_equal(h_status(h, &h->subject), 15);
}
