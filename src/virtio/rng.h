/* virtio-rng, the entropy device (virtio 1.2, section 5.4). */
#ifndef VIRTIO_RNG_H
#define VIRTIO_RNG_H

#include "virtio/vdev.h"

struct vrng;

struct vrng_config {
    /* Fills buf with random bytes without blocking for long; false if it cannot. vCPU or loop thread,
     * device's lock held. NULL: the host's getentropy. */
    bool (*fill)(void *ctx, void *buf, size_t len);
    void *ctx;
    const struct log *log;
    struct loop *loop; /* may be NULL in tests */
};

struct vrng *vrng_new(const struct vrng_config *cfg, struct yado_error *err);
void vrng_free(struct vrng *r); /* vCPUs and the loop are stopped; NULL is fine */
struct vdev *vrng_vdev(struct vrng *r);

#endif
