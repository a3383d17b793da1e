/* A driver that means harm, over PCI, against any of the virtio devices: one bench for all of them.
 *
 * Two functions on one bridge and one guest memory: the subject, of the kind under test, and an entropy
 * device beside it, which has to go on whatever happens to the subject. Both run on a real event loop. */
#ifndef TESTS_VIRTIO_HOSTILE_H
#define TESTS_VIRTIO_HOSTILE_H

#include "driver.h"
#include "host/loop.h"

struct hostile;

/* A queue that can be attacked: which way its buffers go, and what beside a kick makes the device take one.
 */
struct hostile_queue {
    unsigned index;
    bool device_writes;
    void (*poke)(struct hostile *h); /* may be NULL */
};

struct hostile_kind {
    const char *name;
    uint64_t features; /* that `works` needs, the common ones not */
    struct hostile_queue queues[4];
    unsigned queue_count;
    struct vdev *(*make)(struct hostile *h);
    void (*free)(struct hostile *h);
    /* Does the device's work once, on a driver that has just started, and fails the test if it goes wrong. */
    void (*works)(struct hostile *h);
};

extern const struct hostile_kind hostile_kinds[];
extern const unsigned hostile_kind_count;

/* One function as its driver sees it. */
struct hostile_function {
    struct drv d; /* rings and buffers; `mem` is the subject's for both */
    unsigned device;
    uint64_t bar0, msix_table;
    struct virtio_pci *vp;
    uint64_t first_gpa;                     /* where its buffers begin after each start */
    unsigned messages[VDEV_QUEUES_MAX + 1]; /* by vector; atomic */
};

struct hostile {
    const struct hostile_kind *kind;
    struct bus *mmio;
    struct pci_host *host;
    struct loop *loop;
    struct hostile_function subject, beside;
    struct vrng *rng;
    void *own; /* the kind's */
};

/* Registers of the common configuration, virtio 1.2, 4.1.4.3. */
enum {
    H_DEVICE_FEATURE_SELECT = 0,
    H_DEVICE_FEATURE = 4,
    H_DRIVER_FEATURE_SELECT = 8,
    H_DRIVER_FEATURE = 12,
    H_CONFIG_VECTOR = 16,
    H_STATUS = 20,
    H_QUEUE_SELECT = 22,
    H_QUEUE_SIZE = 24,
    H_QUEUE_VECTOR = 26,
    H_QUEUE_ENABLE = 28,
    H_QUEUE_DESC = 32,
    H_QUEUE_DRIVER = 40,
    H_QUEUE_DEVICE = 48,
};
/* Structures in BAR 0. */
#define H_COMMON 0x0000u
#define H_ISR 0x1000u
#define H_DEVICE 0x2000u
#define H_NOTIFY 0x3000u
#define H_BAR_LEN 0x4000u

void hostile_open(struct hostile *h, const struct hostile_kind *kind);
void hostile_close(struct hostile *h);

uint64_t h_read(struct hostile *h, struct hostile_function *f, unsigned off, unsigned width);
void h_write(struct hostile *h, struct hostile_function *f, unsigned off, unsigned width, uint64_t v);
uint32_t h_config_read(struct hostile *h, struct hostile_function *f, unsigned off, unsigned width);
void h_config_write(struct hostile *h, struct hostile_function *f, unsigned off, unsigned width, uint32_t v);
uint8_t h_status(struct hostile *h, struct hostile_function *f);
void h_kick(struct hostile *h, struct hostile_function *f, unsigned queue);
/* The vector's message count. */
unsigned h_messages(struct hostile_function *f, unsigned vector);
unsigned h_msix_cap(struct hostile *h, struct hostile_function *f);

/* Reset, then up to FEATURES_OK with these features (VERSION_1 added), MSI-X on and a vector for everything.
 */
void h_reset(struct hostile *h, struct hostile_function *f);
void h_negotiate(struct hostile *h, struct hostile_function *f, uint64_t features);
/* Writes a queue's registers and enables it. */
void h_queue(struct hostile *h, struct hostile_function *f, unsigned index, unsigned size, uint64_t desc,
             uint64_t avail, uint64_t used);
/* The whole of it: queues of `size` entries (0: the device's maximum), DRIVER_OK. */
void h_start(struct hostile *h, struct hostile_function *f, uint64_t features, unsigned size);

/* The subject is broken, and said so by an interrupt; waits for it. `why`: part of the log line, or NULL. */
void h_expect_broken(struct hostile *h, unsigned config_messages, const char *why);
/* The device beside the subject works, and after a reset the subject does. */
void h_all_works(struct hostile *h);

#endif
