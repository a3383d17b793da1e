/* virtio-console (virtio 1.2, section 5.3): ports between the guest and the host, byte streams both ways. A
 * port is a console for the guest (hvc0 ...) or a character device of its own. Theory of operation in
 * console.c. */
#ifndef VIRTIO_CONSOLE_H
#define VIRTIO_CONSOLE_H

#include "virtio/vdev.h"

#define VCONSOLE_PORTS_MAX 31 /* two queues for each and two for control, of VDEV_QUEUES_MAX */

struct vconsole;

struct vconsole_port_config {
    bool is_present;
    const char *name;       /* for the guest; copied; NULL: none */
    bool is_console;        /* the guest makes a terminal of it, and does not ask whether anyone listens */
    bool is_host_open;      /* see vconsole_host_open */
    uint16_t columns, rows; /* of the terminal; 0: not known */
};

struct vconsole_config {
    /* Without multiport there is one port, present and a console for the guest. Its size must be known now or
     * never: that decides a feature. With it, a driver that knows nothing of several ports gets port 0. */
    bool multiport;
    const struct vconsole_port_config *ports; /* read by vconsole_new only */
    unsigned port_count;                      /* 1 to VCONSOLE_PORTS_MAX, absent ones included */

    /* Guest output. vCPU threads, the loop thread or the one that calls vconsole_sink_ready, the device's
     * lock held: must not call the console. Returns the bytes that it took. Fewer than len stops output of
     * this port until vconsole_sink_ready; a guest waits for a console's output by spinning, so take all that
     * can be taken. Required. */
    size_t (*sink)(void *ctx, unsigned port, const uint8_t *buf, size_t len);
    /* The guest has room for input again after vconsole_receive took less than it was given. Threads and lock
     * as for sink. Optional. */
    void (*room)(void *ctx, unsigned port);
    /* The guest has opened or closed the port; after a reset all are closed. Threads and lock as for sink.
     * Optional. */
    void (*guest_open)(void *ctx, unsigned port, bool is_open);
    void *ctx;
    const char *label; /* for messages; may be NULL */
    const struct log *log;
    struct loop *loop; /* may be NULL in tests */
};

struct vconsole *vconsole_new(const struct vconsole_config *cfg, struct yado_error *err);
void vconsole_free(struct vconsole *c); /* vCPUs and the loop are stopped; NULL is fine */
struct vdev *vconsole_vdev(struct vconsole *c);

/* In the functions below `port` is one that is present. Any thread, but not from inside a callback. */

/* Input for the guest; never blocks on the guest. Returns the bytes taken, fewer than len (0 too) when the
 * guest has given no more buffers or has not opened the port: keep the rest until `room` is called. */
size_t vconsole_receive(struct vconsole *c, unsigned port, const void *buf, size_t len);

/* The sink can take bytes again. */
void vconsole_sink_ready(struct vconsole *c, unsigned port);

/* Whether somebody is at the host's side. The guest's programs see it, except on consoles, which are always
 * open for the guest. What the sink gets while nobody is there is the sink's to throw away. */
void vconsole_host_open(struct vconsole *c, unsigned port, bool is_open);

/* The terminal's size changed, in characters. */
void vconsole_resize(struct vconsole *c, unsigned port, uint16_t columns, uint16_t rows);

#endif
