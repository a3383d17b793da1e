/* virtio-rng. virtio 1.2, section 5.4. One queue of writable buffers, filled on the kicking thread. A buffer
 * gets at most FILL_MAX bytes (5.4.6.2 lets the device fill less), so that with vdev_drain's bound one kick
 * makes at most 64 KiB. */
#include "virtio/rng.h"

#include <stdlib.h>
#include <sys/random.h>
#include <unistd.h>

#define QUEUE_SIZE 16
#define FILL_MAX 4096
#define GETENTROPY_MAX 256 /* per call */

struct vrng {
    struct vdev vd;
    bool (*fill)(void *ctx, void *buf, size_t len);
    void *ctx;
};

static bool host_fill(void *ctx, void *buf, size_t len)
{
    (void)ctx;
    for (size_t off = 0; off < len; off += GETENTROPY_MAX)
        if (getentropy((uint8_t *)buf + off, min_u64(len - off, GETENTROPY_MAX)) < 0)
            return false;
    return true;
}

static bool handle(struct vdev *vd, unsigned queue, const struct virtq_chain *c)
{
    struct vrng *r = container_of(vd, struct vrng, vd);
    uint8_t buf[FILL_MAX];
    size_t len = min_u64(c->in_len, sizeof(buf));

    if (len == 0 || !r->fill(r->ctx, buf, len)) {
        vdev_broken(vd, "%s", len ? "the host gives no random bytes" : "buffer that the device cannot write");
        vdev_drop(vd, queue, c->head);
        return false;
    }
    virtq_segs_write(vd->mem, vd->segs + c->out_count, c->in_count, 0, buf, len);
    vdev_complete(vd, queue, c->head, (uint32_t)len);
    return true;
}

static bool rng_process(struct vdev *vd, unsigned queue)
{
    return vdev_drain(vd, queue, handle);
}

static const struct vdev_ops rng_ops = {
    .name = "virtio-rng",
    .id = VIRTIO_ID_RNG,
    .process = rng_process,
};

struct vrng *vrng_new(const struct vrng_config *cfg, struct yado_error *err)
{
    struct vdev_params p = {
        .queue_count = 1,
        .queue_size = QUEUE_SIZE,
        .log = cfg->log,
        .loop = cfg->loop,
    };
    struct vrng *r = calloc(1, sizeof(*r));

    if (!r) {
        err_set(err, YADO_ERR_MEMORY, "virtio-rng: no memory for the device");
        return NULL;
    }
    r->fill = cfg->fill ? cfg->fill : host_fill;
    r->ctx = cfg->ctx;
    if (!vdev_init(&r->vd, &rng_ops, &p, err)) {
        vrng_free(r);
        return NULL;
    }
    return r;
}

void vrng_free(struct vrng *r)
{
    if (!r)
        return;
    vdev_destroy(&r->vd);
    free(r);
}

struct vdev *vrng_vdev(struct vrng *r)
{
    return &r->vd;
}
