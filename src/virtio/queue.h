/* One split virtqueue, device side (virtio 1.2, section 2.7). Knows guest memory and nothing else: no device
 * type, no transport, no thread. Theory of operation in queue.c.
 *
 * The caller serialises all calls on one queue (the device's lock). Errors are the guest's: they set `fault`
 * to a fixed sentence, and from then on the queue gives no chains and publishes nothing until virtq_reset. */
#ifndef VIRTIO_QUEUE_H
#define VIRTIO_QUEUE_H

#include "mem/gmem.h"
#include "virtio/virtio_spec.h"

#define VIRTQ_SIZE_MAX 1024 /* entries; the specification allows 32768 */
#define VIRTQ_CHAIN_MAX 512 /* segments in one chain, indirect ones included; the host's own bound */

/* A checked host copy of one descriptor. hva stays valid for the life of the guest memory. */
struct virtq_seg {
    uint64_t gpa;
    uint8_t *hva;
    uint32_t len; /* never 0 */
};

/* A chain that the device holds. Segments: `out_count` that the device reads, then `in_count` that it writes.
 */
struct virtq_chain {
    uint16_t head;
    unsigned out_count, in_count;
    uint64_t out_len, in_len; /* bytes; each below 2^32 */
};

struct virtq {
    /* The driver's settings, written by the transport while not enabled. */
    uint64_t desc_gpa, avail_gpa, used_gpa;
    uint16_t size, size_max;

    /* The rest belongs to queue.c. */
    bool enabled;
    bool indirect, event_idx; /* negotiated */
    const char *fault;        /* NULL, or the rule that the guest broke */
    const struct gmem *mem;
    const struct virtio_desc *desc;
    const uint16_t *avail; /* flags, idx, ring[size], used_event */
    uint16_t *used;        /* flags, idx, ring[size] of two u32, avail_event */
    uint16_t next_avail, next_used;
    uint16_t staged;    /* used elements written and not published */
    uint16_t signalled; /* next_used when the driver was last interrupted */
    bool signalled_valid;
    unsigned held;                       /* chains taken and not returned */
    uint64_t heads[VIRTQ_SIZE_MAX / 64]; /* bit per head that is held */
};

enum virtq_got { VIRTQ_NONE, VIRTQ_GOT, VIRTQ_BAD };

/* size_max: power of two, at most VIRTQ_SIZE_MAX. */
void virtq_init(struct virtq *q, uint16_t size_max);

/* Back to the state after virtq_init. No chain may be held. */
void virtq_reset(struct virtq *q);

/* Checks size and ring addresses and maps the rings. `features`: what was negotiated. False and `fault` set
 * if the settings are not legal. */
bool virtq_enable(struct virtq *q, const struct gmem *mem, uint64_t features);

/* Takes the next available chain: copies and checks every descriptor into segs (VIRTQ_CHAIN_MAX of them).
 * VIRTQ_GOT: the chain is held and must be given to virtq_push or virtq_drop exactly once. VIRTQ_BAD: `fault`
 * is set, nothing is held. */
enum virtq_got virtq_take(struct virtq *q, struct virtq_chain *chain, struct virtq_seg *segs);

/* True if the driver has made no further chain available (or the queue is not working). */
bool virtq_empty(const struct virtq *q);

/* Returns a held chain to the driver; `len` bytes from the start of its writable part were written. */
void virtq_push(struct virtq *q, uint16_t head, uint32_t len);

/* The same in two steps, for chains that the driver must see at once or that are many: virtq_stage for each,
 * then virtq_publish. Nothing may be pushed between. */
void virtq_stage(struct virtq *q, uint16_t head, uint32_t len);
void virtq_publish(struct virtq *q);

/* Puts the chain that was taken last back, as if it had not been taken. Several: the last one first. */
void virtq_untake(struct virtq *q, uint16_t head);

/* Forgets a held chain without telling the driver (reset, broken device). */
void virtq_drop(struct virtq *q, uint16_t head);

/* Says whether the driver wants an interrupt for what was pushed since the last call. */
bool virtq_wants_interrupt(struct virtq *q);

/* Asks the driver not to kick. Advisory. */
void virtq_kicks_off(struct virtq *q);

/* Asks for kicks again. True if chains came in meanwhile: the driver will not kick for those, so look again.
 */
bool virtq_kicks_on(struct virtq *q);

/* As virtq_kicks_on for a device to which the chains that are available are not enough: asks for a kick when
 * there are more than now. True if there are already. */
bool virtq_kicks_on_more(struct virtq *q);

/* Copies `len` bytes at byte offset `off` of the segments' concatenation to or from buf. Returns the bytes
 * copied, fewer if the segments end. The second form reports to gmem_written. */
size_t virtq_segs_read(const struct virtq_seg *segs, unsigned count, uint64_t off, void *buf, size_t len);
size_t virtq_segs_write(const struct gmem *mem, const struct virtq_seg *segs, unsigned count, uint64_t off,
                        const void *buf, size_t len);

#endif
