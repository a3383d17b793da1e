/* virtio-console (virtio 1.2, section 5.3), one port: hvc0 of the first such device. Theory of operation in
 * console.c. */
#ifndef VIRTIO_CONSOLE_H
#define VIRTIO_CONSOLE_H

#include "virtio/vdev.h"

struct vconsole;

struct vconsole_config {
    /* Guest output. vCPU threads (or the thread that calls vconsole_sink_ready), the device's lock held: must
     * not call the console. Returns the bytes that it took. Fewer than len stops output until
     * vconsole_sink_ready; a guest waits for its output by spinning, so take all that can be taken. Required.
     */
    size_t (*sink)(void *ctx, const uint8_t *buf, size_t len);
    /* The guest has room for input again after vconsole_receive took less than it was given. Threads and lock
     * as for sink: typically starts to watch the input descriptor again, or posts to the loop. Optional. */
    void (*room)(void *ctx);
    void *ctx;
    const char *label; /* for messages; may be NULL */
    uint16_t cols,
        rows; /* 0, 0: size not known, the feature is not offered and vconsole_resize does nothing */
    const struct log *log;
    struct loop *loop; /* may be NULL in tests */
};

struct vconsole *vconsole_new(const struct vconsole_config *cfg, struct yado_error *err);
void vconsole_free(struct vconsole *c); /* vCPUs and the loop are stopped; NULL is fine */
struct vdev *vconsole_vdev(struct vconsole *c);

/* Input for the guest. Any thread, never blocks on the guest. Returns the bytes taken, fewer than len (0 too)
 * when the guest has given no more buffers: keep the rest until `room` is called. */
size_t vconsole_receive(struct vconsole *c, const void *buf, size_t len);

/* The sink can take bytes again. Any thread; not from inside sink or room. */
void vconsole_sink_ready(struct vconsole *c);

/* The terminal's size changed, in characters. Any thread. */
void vconsole_resize(struct vconsole *c, uint16_t cols, uint16_t rows);

#endif
