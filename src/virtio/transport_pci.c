/* virtio over PCI, modern interface only. virtio 1.2, section 4.1.
 *
 * Theory of operation
 *
 * A device is one PCI function with two memory BARs. BAR 0 (64 bit, 16 KiB) holds the four structures, a page
 * each so that an engine could map a doorbell page apart; BAR 4 belongs to the bridge and holds the MSI-X
 * table. Vendor capabilities tell the driver where each structure lies:
 *
 *   0x0000 common configuration   registers of status, features and the selected queue
 *   0x1000 ISR                    interrupt cause for drivers without MSI-X; reading clears it and drops INTx
 *   0x2000 device configuration   bytes that the device type defines
 *   0x3000 notify                 queue n's doorbell at n * 4; the value written is not looked at
 *
 * A fifth capability (PCI configuration access, 4.1.4.9) is a window of four bytes in configuration space
 * through which firmware can reach BAR 0 before it is mapped.
 *
 * Interrupts. Vector 0 .. queue_count of MSI-X, assigned by the driver per queue and for configuration
 * changes; a vector that does not exist reads back as NO_VECTOR. Without MSI-X the ISR bits and the level of
 * INTx are used.
 *
 * Doorbells. While the driver's DRIVER_OK stands, the notify registers are offered to the engine as doorbells
 * (bus/doorbell.h), each with a counter of the event loop behind it; not before, because a guest moves BARs
 * about when it looks for devices. An engine that takes them wakes the loop thread instead of ending
 * KVM_RUN; else, and for queues whose driver spins, a notify is a register write.
 *
 * All registers are guarded by the device's lock, which is taken per access; region callbacks come on vCPU
 * threads with no bus lock held. Reads build the whole register block and cut the asked bytes out of it: they
 * are rare. Writes are taken only with a register's own width, or as 32 bit halves of the 64 bit ring
 * addresses (4.1.3.1). */
#include "virtio/transport_pci.h"

#include <stdlib.h>
#include <string.h>

#define BAR_STRUCTURES 0
#define BAR_MSIX 4
#define BAR_LEN 0x4000
#define AREA_LEN 0x1000
#define NOTIFY_STRIDE 4
#define NO_VECTOR 0xffff

enum { AREA_COMMON, AREA_ISR, AREA_DEVICE, AREA_NOTIFY };

/* Capability types, 4.1.4. */
enum { CAP_COMMON = 1, CAP_NOTIFY = 2, CAP_ISR = 3, CAP_DEVICE = 4, CAP_PCI = 5 };

/* ISR bits, 4.1.4.5. */
enum { ISR_QUEUE = 1, ISR_CONFIG = 2 };

/* Common configuration registers, 4.1.4.3. */
struct common_regs {
    uint32_t device_feature_select;
    uint32_t device_feature;
    uint32_t driver_feature_select;
    uint32_t driver_feature;
    uint16_t config_msix_vector;
    uint16_t num_queues;
    uint8_t device_status;
    uint8_t config_generation;
    uint16_t queue_select;
    uint16_t queue_size;
    uint16_t queue_msix_vector;
    uint16_t queue_enable;
    uint16_t queue_notify_off;
    uint32_t queue_desc[2];
    uint32_t queue_driver[2];
    uint32_t queue_device[2];
    uint16_t queue_notify_data;
    uint16_t queue_reset;
};
_Static_assert(sizeof(struct common_regs) == 60, "virtio 1.2, 4.1.4.3");
#define REG(name) offsetof(struct common_regs, name)

/* The body of a capability after id, next and length; 4.1.4. */
struct cap_body {
    uint8_t type;
    uint8_t bar;
    uint8_t id;
    uint8_t padding[2];
    uint8_t off[4], len[4];
    uint8_t extra[4]; /* notify: multiplier; PCI access: data */
};
_Static_assert(sizeof(struct cap_body) == 17, "packed by its types");
#define CAP_HEADER 3 /* id, next, length */

struct queue_bell {
    struct virtio_pci *vp;
    unsigned queue;
    struct loop_event *event; /* made when first needed */
};

struct virtio_pci {
    struct vdev *vd;
    struct pci_function *fn;
    unsigned pci_cap; /* offset in configuration space of the PCI access capability */

    /* Under vd->lock. */
    uint32_t device_feature_select, driver_feature_select;
    uint16_t queue_select;
    uint16_t config_vector;
    uint16_t queue_vector[VDEV_QUEUES_MAX];
    uint8_t isr;
    bool bells_on;
    struct queue_bell queue_bells[VDEV_QUEUES_MAX];
    struct doorbell bells[VDEV_QUEUES_MAX];
};

/* ---- doorbells ---- */

static void bell_rung(void *ctx)
{
    struct queue_bell *b = ctx;

    vdev_kick(b->vp->vd, b->queue);
}

/* Under vd->lock. What has no counter for want of descriptors stays a register. */
static void bells_on(struct virtio_pci *vp)
{
    struct vdev *vd = vp->vd;
    unsigned n = 0;

    if (vp->bells_on || !vd->loop)
        return;
    vp->bells_on = true;
    for (unsigned i = 0; i < vd->queue_count; i++) {
        struct queue_bell *b = &vp->queue_bells[i];

        if (!vd->queues[i].enabled || vd->polled >> i & 1)
            continue;
        if (!b->event) { /* what its callback reads does not change any more */
            *b = (struct queue_bell){ .vp = vp, .queue = i };
            b->event = loop_event_new(vd->loop, bell_rung, b, NULL);
        }
        if (b->event)
            vp->bells[n++] = (struct doorbell){ .off = AREA_NOTIFY * AREA_LEN + (uint64_t)i * NOTIFY_STRIDE,
                                                .fd = loop_event_fd(b->event) };
    }
    pci_function_doorbells(vp->fn, BAR_STRUCTURES, vp->bells, n);
}

static void bells_off(struct virtio_pci *vp)
{
    if (vp->bells_on)
        pci_function_doorbells(vp->fn, BAR_STRUCTURES, NULL, 0);
    vp->bells_on = false;
}

/* ---- what the device core asks ---- */

static void transport_interrupt(void *ctx, int queue)
{
    struct virtio_pci *vp = ctx;

    if (pci_function_msix_enabled(vp->fn)) {
        uint16_t vector = queue < 0 ? vp->config_vector : vp->queue_vector[queue];
        if (vector != NO_VECTOR)
            pci_function_msix_raise(vp->fn, vector);
        return;
    }
    vp->isr |= queue < 0 ? ISR_CONFIG : ISR_QUEUE;
    pci_function_intx(vp->fn, true);
}

static void transport_reset(void *ctx)
{
    struct virtio_pci *vp = ctx;

    bells_off(vp);
    vp->device_feature_select = vp->driver_feature_select = 0;
    vp->queue_select = 0;
    vp->config_vector = NO_VECTOR;
    for (unsigned i = 0; i < VDEV_QUEUES_MAX; i++)
        vp->queue_vector[i] = NO_VECTOR;
    vp->isr = 0;
    pci_function_intx(vp->fn, false);
}

static bool transport_may_dma(void *ctx)
{
    struct virtio_pci *vp = ctx;

    return pci_function_bus_master(vp->fn);
}

static const struct vdev_transport_ops transport_ops = {
    .interrupt = transport_interrupt,
    .reset = transport_reset,
    .may_dma = transport_may_dma,
};

static struct virtq *selected_queue(struct virtio_pci *vp)
{
    return vp->queue_select < vp->vd->queue_count ? &vp->vd->queues[vp->queue_select] : NULL;
}

static uint32_t feature_half(uint64_t features, uint32_t select)
{
    return select > 1 ? 0 : (uint32_t)(features >> (select * 32));
}

static void split(uint32_t half[2], uint64_t v)
{
    half[0] = (uint32_t)v;
    half[1] = (uint32_t)(v >> 32);
}

static uint32_t common_read(struct virtio_pci *vp, unsigned off, unsigned width)
{
    const struct vdev *vd = vp->vd;
    const struct virtq *q = selected_queue(vp);
    struct common_regs r = {
        .device_feature_select = vp->device_feature_select,
        .device_feature = feature_half(vd->offered, vp->device_feature_select),
        .driver_feature_select = vp->driver_feature_select,
        .driver_feature = feature_half(vd->accepted, vp->driver_feature_select),
        .config_msix_vector = vp->config_vector,
        .num_queues = (uint16_t)vd->queue_count,
        .device_status = vd->status,
        .config_generation = vd->config_generation,
        .queue_select = vp->queue_select,
    };
    uint32_t v = 0;

    if (q) { /* a queue that does not exist has size 0 */
        r.queue_size = q->size;
        r.queue_msix_vector = vp->queue_vector[vp->queue_select];
        r.queue_enable = q->enabled;
        r.queue_notify_off = vp->queue_select;
        split(r.queue_desc, q->desc_gpa);
        split(r.queue_driver, q->avail_gpa);
        split(r.queue_device, q->used_gpa);
    }
    if (off < sizeof(r))
        memcpy(&v, (const uint8_t *)&r + off, min_u64(width, sizeof(r) - off));
    return v;
}

static uint16_t vector_checked(const struct virtio_pci *vp, uint32_t v)
{
    return v <= vp->vd->queue_count ? (uint16_t)v : NO_VECTOR; /* queue_count + 1 vectors */
}

static void half_set(uint64_t *v, unsigned half, uint32_t value)
{
    *v = half ? (*v & 0xffffffffu) | (uint64_t)value << 32 : (*v & ~0xffffffffull) | value;
}

/* Registers of the selected queue. Size and addresses are fixed once it is enabled (4.1.4.3.2). */
static void queue_write(struct virtio_pci *vp, unsigned off, unsigned width, uint32_t v)
{
    struct virtq *q = selected_queue(vp);

    if (!q || vp->vd->resetting)
        return;
    if (off == REG(queue_msix_vector) && width == 2)
        vp->queue_vector[vp->queue_select] = vector_checked(vp, v);
    if (q->enabled)
        return;
    if (off == REG(queue_size) && width == 2)
        q->size = (uint16_t)v; /* checked by virtq_enable */
    else if (off == REG(queue_enable) && width == 2 && v == 1)
        vdev_enable_queue(vp->vd, vp->queue_select);
    else if (off >= REG(queue_desc) && off < REG(queue_notify_data) && off % 4 == 0 && width == 4) {
        uint64_t *const at[] = { &q->desc_gpa, &q->avail_gpa, &q->used_gpa };
        half_set(at[(off - REG(queue_desc)) / 8], off / 4 % 2, v);
    }
}

static void common_write(struct virtio_pci *vp, unsigned off, unsigned width, uint32_t v)
{
    if (off == REG(device_feature_select) && width == 4)
        vp->device_feature_select = v;
    else if (off == REG(driver_feature_select) && width == 4)
        vp->driver_feature_select = v;
    else if (off == REG(driver_feature) && width == 4)
        vdev_set_features(vp->vd, vp->driver_feature_select, v);
    else if (off == REG(config_msix_vector) && width == 2)
        vp->config_vector = vector_checked(vp, v);
    else if (off == REG(device_status) && width == 1) {
        vdev_set_status(vp->vd, (uint8_t)v);
        if (vdev_running(vp->vd))
            bells_on(vp);
    } else if (off == REG(queue_select) && width == 2)
        vp->queue_select = (uint16_t)v;
    else
        queue_write(vp, off, width, v);
}

static uint32_t isr_read(struct virtio_pci *vp)
{
    uint32_t v = vp->isr;

    vp->isr = 0;
    pci_function_intx(vp->fn, false);
    return v;
}

static uint64_t structures_read(void *ctx, uint64_t off, unsigned width)
{
    struct virtio_pci *vp = ctx;
    unsigned at = off % AREA_LEN;
    uint32_t v = 0;

    vdev_lock(vp->vd);
    switch (off / AREA_LEN) {
    case AREA_COMMON: v = common_read(vp, at, width); break;
    case AREA_ISR: v = at == 0 ? isr_read(vp) : 0; break;
    case AREA_DEVICE: v = vdev_config_read(vp->vd, at, width); break;
    default: break;
    }
    vdev_unlock(vp->vd);
    return v;
}

static void structures_write(void *ctx, uint64_t off, unsigned width, uint64_t value)
{
    struct virtio_pci *vp = ctx;
    unsigned at = off % AREA_LEN;

    if (off / AREA_LEN == AREA_NOTIFY) {
        if (at % NOTIFY_STRIDE == 0)
            vdev_kick(vp->vd, at / NOTIFY_STRIDE);
        return;
    }
    vdev_lock(vp->vd);
    if (off / AREA_LEN == AREA_COMMON)
        common_write(vp, at, width, (uint32_t)value);
    else if (off / AREA_LEN == AREA_DEVICE)
        vdev_config_write(vp->vd, at, width, (uint32_t)value);
    vdev_unlock(vp->vd);
}

static const struct region_ops structures_ops = {
    .name = "virtio",
    .min_width = 1,
    .max_width = 4,
    .read = structures_read,
    .write = structures_write,
};

/* The PCI access capability: where the driver's window points to. False if it points nowhere legal
 * (4.1.4.9.1). */
static bool window_get(struct virtio_pci *vp, uint64_t *off, unsigned *width)
{
    unsigned at = vp->pci_cap + CAP_HEADER;
    uint32_t bar = pci_function_config_read(vp->fn, at + offsetof(struct cap_body, bar), 1);
    uint32_t len = pci_function_config_read(vp->fn, at + offsetof(struct cap_body, len), 4);

    *off = pci_function_config_read(vp->fn, at + offsetof(struct cap_body, off), 4);
    *width = len;
    return bar == BAR_STRUCTURES && (len == 1 || len == 2 || len == 4) && *off % len == 0 &&
           *off <= BAR_LEN - len;
}

/* True if a configuration access touches the window's data. */
static bool window_hit(const struct virtio_pci *vp, unsigned off, unsigned width)
{
    unsigned data = vp->pci_cap + CAP_HEADER + offsetof(struct cap_body, extra);

    return vp->pci_cap && off < data + 4 && off + width > data;
}

static void config_written(void *ctx, unsigned off, unsigned width)
{
    struct virtio_pci *vp = ctx;
    unsigned data = vp->pci_cap + CAP_HEADER + offsetof(struct cap_body, extra);
    uint64_t at;
    unsigned len;

    if (window_hit(vp, off, width) && window_get(vp, &at, &len))
        pci_function_bar_write(vp->fn, BAR_STRUCTURES, at, len, pci_function_config_read(vp->fn, data, len));
}

static void config_reading(void *ctx, unsigned off, unsigned width)
{
    struct virtio_pci *vp = ctx;
    unsigned data = vp->pci_cap + CAP_HEADER + offsetof(struct cap_body, extra);
    uint64_t at;
    unsigned len;

    if (window_hit(vp, off, width) && window_get(vp, &at, &len))
        pci_function_config_write(vp->fn, data, len,
                                  (uint32_t)pci_function_bar_read(vp->fn, BAR_STRUCTURES, at, len));
}

static const struct pci_function_ops function_ops = {
    .config_written = config_written,
    .config_reading = config_reading,
};

static unsigned cap_add(struct virtio_pci *vp, unsigned type, unsigned area, uint32_t len, uint32_t extra)
{
    uint32_t off = area * AREA_LEN;
    struct cap_body body = { .type = (uint8_t)type, .bar = BAR_STRUCTURES };
    struct cap_body writable = { 0 };
    bool with_extra = type == CAP_NOTIFY || type == CAP_PCI;

    memcpy(body.off, &off, 4);
    memcpy(body.len, &len, 4);
    memcpy(body.extra, &extra, 4);
    if (type == CAP_PCI) {
        writable.bar = 0xff;
        memset(writable.off, 0xff, 4);
        memset(writable.len, 0xff, 4);
        memset(writable.extra, 0xff, 4);
    }
    return pci_function_add_vendor_cap(vp->fn, &body, (unsigned)sizeof(body) - (with_extra ? 0 : 4),
                                       &writable);
}

static bool caps_add(struct virtio_pci *vp)
{
    struct vdev *vd = vp->vd;

    if (!cap_add(vp, CAP_COMMON, AREA_COMMON, sizeof(struct common_regs), 0) ||
        !cap_add(vp, CAP_ISR, AREA_ISR, 1, 0) ||
        !cap_add(vp, CAP_NOTIFY, AREA_NOTIFY, vd->queue_count * NOTIFY_STRIDE, NOTIFY_STRIDE))
        return false;
    if (vd->config_len && !cap_add(vp, CAP_DEVICE, AREA_DEVICE, vd->config_len, 0))
        return false;
    vp->pci_cap = cap_add(vp, CAP_PCI, 0, 0, 0);
    return vp->pci_cap != 0;
}

static uint32_t class_code(uint16_t id)
{
    switch (id) {
    case VIRTIO_ID_NET: return 0x020000;     /* Ethernet */
    case VIRTIO_ID_BLOCK: return 0x018000;   /* other mass storage */
    case VIRTIO_ID_CONSOLE: return 0x078000; /* other communication */
    default: return 0xff0000;                /* fits no class */
    }
}

struct virtio_pci *virtio_pci_attach(struct pci_host *host, struct vdev *vd, struct gmem *mem,
                                     struct yado_error *err)
{
    struct virtio_pci *vp = calloc(1, sizeof(*vp));

    if (!vp) {
        err_set(err, YADO_ERR_MEMORY, "%s: no memory for its PCI function", vd->name);
        return NULL;
    }
    struct pci_function_desc desc = {
        .name = vd->name,
        /* 4.1.2: vendor 0x1af4, device 0x1040 + id, revision 1 or more. */
        .ident = { .vendor = 0x1af4,
                   .device = (uint16_t)(0x1040 + vd->ops->id),
                   .subsystem_vendor = 0x1af4,
                   .subsystem = (uint16_t)(0x1040 + vd->ops->id),
                   .class_code = class_code(vd->ops->id),
                   .revision = 1 },
        .msix_vectors = vd->queue_count + 1,
        .msix_bar = BAR_MSIX,
        .ops = &function_ops,
        .ctx = vp,
    };
    desc.bars[BAR_STRUCTURES] =
        (struct pci_bar){ .len = BAR_LEN, .is_64bit = true, .ops = &structures_ops, .ctx = vp };
    vp->vd = vd;
    vp->fn = pci_host_add(host, &desc, err);
    if (!vp->fn)
        goto fail;
    if (!caps_add(vp)) {
        err_set(err, YADO_ERR_INTERNAL, "%s: no room for its capabilities in PCI configuration space",
                vd->name);
        goto fail;
    }
    transport_reset(vp);
    vdev_lock(vd);
    vdev_attach(vd, mem, &transport_ops, vp);
    vdev_unlock(vd);
    return vp;
fail:
    free(vp); /* a function that was added stays on the bridge, which is given up with the machine */
    return NULL;
}

void virtio_pci_reset(struct virtio_pci *vp)
{
    vdev_reset(vp->vd);
}

void virtio_pci_free(struct virtio_pci *vp)
{
    if (!vp)
        return;
    vdev_lock(vp->vd);
    bells_off(vp);
    vdev_attach(vp->vd, NULL, NULL, NULL);
    vdev_unlock(vp->vd);
    for (unsigned i = 0; i < vp->vd->queue_count; i++)
        loop_event_free(vp->queue_bells[i].event); /* waits for its callback, which takes the lock */
    free(vp);
}

struct pci_function *virtio_pci_function(struct virtio_pci *vp)
{
    return vp->fn;
}
