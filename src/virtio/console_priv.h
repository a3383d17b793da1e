/* Between console.c (data) and console_control.c (messages about ports). */
#ifndef VIRTIO_CONSOLE_PRIV_H
#define VIRTIO_CONSOLE_PRIV_H

#include "virtio/console.h"

/* 5.3.2 */
enum { QUEUE_CONTROL_RECEIVE = 2, QUEUE_CONTROL_TRANSMIT = 3 };

/* 5.3.3 */
#define F_SIZE (1ull << 0)
#define F_MULTIPORT (1ull << 1)
#define F_EMERG_WRITE (1ull << 2)

/* 5.3.4 */
struct console_space {
    uint16_t cols, rows;
    uint32_t max_nr_ports;
    uint32_t emerg_wr;
};
_Static_assert(sizeof(struct console_space) == 12, "virtio 1.2, 5.3.4");

/* What the driver is still to be told of a port, in the order in which it is told. */
enum { TELL_ADD = 1, TELL_CONSOLE = 2, TELL_NAME = 4, TELL_SIZE = 8 };

struct vport {
    struct vconsole *console;
    unsigned id;
    char *name; /* owned; NULL: none */
    bool is_console;
    uint16_t columns, rows;
    bool is_host_open, is_guest_open;

    bool starved; /* vconsole_receive took less than it was given */
    bool held;    /* the chain below is not through yet ... */
    bool stalled; /* ... because the sink took less than it was given */
    uint16_t held_head;
    unsigned held_segs;
    uint64_t held_off; /* bytes of it that the sink has taken */
    struct virtq_seg segs[VIRTQ_CHAIN_MAX];
    size_t budget; /* bytes that may still go to the sink in this turn */

    /* control */
    unsigned tell; /* TELL_* */
    bool is_ready; /* the driver has made the port */
    bool told_open;
    bool has_blinked; /* the host closed and opened it since the driver was told */
};

struct vconsole {
    struct vdev vd;
    struct vconsole_config cfg; /* the callbacks */
    struct console_space space;
    unsigned port_count;
    struct vport *ports[VCONSOLE_PORTS_MAX]; /* NULL: absent */
};

/* All want the device's lock. */

/* A chain of a queue whose driver is to kick when there is none. */
bool vport_take(struct vdev *vd, unsigned queue, struct virtq_chain *chain);
/* The guest opens or closes it. */
void vport_guest_open(struct vport *p, bool is_open);

/* Work on the control queues. */
bool control_process(struct vconsole *c, unsigned queue);
/* Tells the driver what it is still to be told, as far as it gives buffers. */
void control_flush(struct vconsole *c);
void control_reset(struct vconsole *c);

#endif
