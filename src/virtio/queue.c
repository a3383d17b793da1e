/* Split virtqueue, device side. virtio 1.2, section 2.7.
 *
 * Theory of operation
 *
 * A queue is three arrays in guest memory. The driver fills descriptors (address, length, flags), links them
 * to chains, and puts the head of each chain in the available ring; the device takes heads in that order,
 * does the work, and puts each head with a length in the used ring, in any order. Both rings count with
 * free-running 16 bit indexes.
 *
 * Trust. The rings' place is checked once, when the driver enables the queue, and turned to host pointers;
 * guest memory slots never move. Everything read through them later may change at any moment, so each
 * descriptor is copied once (desc_copy) and only the copy is checked and used. What a driver must not do is a
 * fault: a head or link outside the table, a head that is already held, an index that runs more than a
 * queue's length ahead, a segment that is empty or not wholly RAM, a readable segment after a writable one,
 * an indirect table inside another or of odd length, 2^32 bytes or more in a chain, a chain of more than
 * VIRTQ_CHAIN_MAX segments (which also ends loops). A faulted queue stays silent until reset; the device says
 * so to the driver with DEVICE_NEEDS_RESET.
 *
 * Returning. Every chain taken is held: a bit per head is set by virtq_take and cleared by virtq_push or
 * virtq_drop, and clearing a clear bit is a defect of ours (BUG_ON). virtq_reset demands that none is held.
 *
 * Ordering. The driver writes descriptors, then the available index; we load the index (acquire), then
 * descriptors. We write data and used element, then the used index (release). Two places need a full
 * store-load barrier against the driver's own: publish the used index, then read whether it wants an
 * interrupt; ask for kicks, then look whether chains came in. Both are made with a sequentially consistent
 * store followed by a sequentially consistent load.
 *
 * Event index (section 2.7.10). With it each side names the index at which it wants to be told; without it
 * each side has a flag. virtq_kicks_off does nothing with the event index: leaving the old index has the same
 * effect.
 */
#include "virtio/queue.h"

#include <string.h>

static bool fault_set(struct virtq *q, const char *why)
{
    if (!q->fault)
        q->fault = why;
    return false;
}

/* The only reads of a descriptor. The empty asm makes the compiler finish the copy: no field can be fetched
 * again from guest memory after it was checked. */
static void desc_copy(struct virtio_desc *d, const struct virtio_desc *table, unsigned i)
{
    memcpy(d, (const uint8_t *)table + (size_t)i * sizeof(*d), sizeof(*d));
    __asm__ __volatile__("" : "+m"(*d) : : "memory");
}

/* Places in the rings, in 16 bit units. */
static uint16_t avail_idx(const struct virtq *q)
{
    return __atomic_load_n(&q->avail[1], __ATOMIC_SEQ_CST);
}

static uint16_t *avail_event(const struct virtq *q)
{
    return q->used + 2 + 4u * q->size;
}

static uint64_t ring_gpa(const struct virtq *q, const uint16_t *at)
{
    return q->used_gpa + (uint64_t)((const uint8_t *)at - (const uint8_t *)q->used);
}

/* Stores that pair with the driver's loads, and with its full barrier before them. */
static void used_store(struct virtq *q, uint16_t *at, uint16_t v)
{
    __atomic_store_n(at, v, __ATOMIC_SEQ_CST);
    gmem_written(q->mem, ring_gpa(q, at), sizeof(*at));
}

void virtq_init(struct virtq *q, uint16_t size_max)
{
    BUG_ON(size_max == 0 || size_max > VIRTQ_SIZE_MAX || (size_max & (size_max - 1)));
    memset(q, 0, sizeof(*q));
    q->size = q->size_max = size_max;
}

void virtq_reset(struct virtq *q)
{
    BUG_ON(q->held != 0);
    virtq_init(q, q->size_max);
}

bool virtq_enable(struct virtq *q, const struct gmem *mem, uint64_t features)
{
    uint64_t n = q->size;

    BUG_ON(q->enabled);
    if (n == 0 || n > q->size_max || (n & (n - 1)))
        return fault_set(q, "queue size is not a power of two up to the device's limit");
    if (q->desc_gpa % 16 || q->avail_gpa % 2 || q->used_gpa % 4)
        return fault_set(q, "ring address is not aligned");
    q->desc = gmem_span(mem, q->desc_gpa, n * sizeof(struct virtio_desc), GMEM_READ);
    q->avail = gmem_span(mem, q->avail_gpa, 6 + 2 * n, GMEM_READ);
    q->used = gmem_span(mem, q->used_gpa, 6 + 8 * n, GMEM_WRITE);
    if (!q->desc || !q->avail || !q->used)
        return fault_set(q, "ring is not in RAM");
    q->mem = mem;
    q->indirect = (features & VIRTIO_F_INDIRECT_DESC) != 0;
    q->event_idx = (features & VIRTIO_F_EVENT_IDX) != 0;
    q->enabled = true;
    return true;
}

static bool queue_works(const struct virtq *q)
{
    return q->enabled && !q->fault;
}

bool virtq_empty(const struct virtq *q)
{
    return !queue_works(q) || avail_idx(q) == q->next_avail;
}

/* Adds one checked descriptor to the chain. */
static bool seg_add(struct virtq *q, struct virtq_chain *c, struct virtq_seg *segs,
                    const struct virtio_desc *d)
{
    bool writes = (d->flags & VIRTIO_DESC_WRITE) != 0;
    unsigned count = c->out_count + c->in_count;

    if (count == VIRTQ_CHAIN_MAX)
        return fault_set(q, "descriptor chain is too long or a loop");
    if (d->len == 0)
        return fault_set(q, "descriptor of no length");
    if (!writes && c->in_count)
        return fault_set(q, "readable descriptor after a writable one");
    if (c->out_len + c->in_len + d->len > UINT32_MAX)
        return fault_set(q, "descriptor chain of 4 GiB or more");
    struct virtq_seg *s = &segs[count];
    s->gpa = d->addr;
    s->len = d->len;
    s->hva = gmem_span(q->mem, d->addr, d->len, writes ? GMEM_WRITE : GMEM_READ);
    if (!s->hva)
        return fault_set(q, "descriptor is not in RAM");
    if (writes) {
        c->in_count++;
        c->in_len += d->len;
    } else {
        c->out_count++;
        c->out_len += d->len;
    }
    return true;
}

/* Checks a descriptor that refers to an indirect table (section 2.7.5.3) and moves the walk there. Its WRITE
 * flag has no meaning. */
static bool indirect_enter(struct virtq *q, const struct virtio_desc *d, const struct virtio_desc **table,
                           unsigned *table_len)
{
    if (!q->indirect)
        return fault_set(q, "indirect descriptor without the feature");
    if (d->flags & VIRTIO_DESC_NEXT)
        return fault_set(q, "indirect descriptor that is not the last of its chain");
    if (d->len == 0 || d->len % sizeof(*d) || d->len > 65536 * sizeof(*d))
        return fault_set(q, "indirect table of bad length");
    *table = gmem_span(q->mem, d->addr, d->len, GMEM_READ);
    *table_len = d->len / (unsigned)sizeof(*d);
    if (!*table)
        return fault_set(q, "indirect table is not in RAM");
    return true;
}

static bool chain_walk(struct virtq *q, struct virtq_chain *c, struct virtq_seg *segs)
{
    const struct virtio_desc *table = q->desc;
    unsigned table_len = q->size, i = c->head;
    bool inside = false;

    for (;;) {
        struct virtio_desc d;

        if (i >= table_len)
            return fault_set(q, "descriptor index is past the table");
        desc_copy(&d, table, i);
        if (d.flags & VIRTIO_DESC_INDIRECT) {
            if (inside)
                return fault_set(q, "indirect table inside an indirect table");
            if (!indirect_enter(q, &d, &table, &table_len))
                return false;
            inside = true;
            i = 0;
            continue;
        }
        if (!seg_add(q, c, segs, &d))
            return false;
        if (!(d.flags & VIRTIO_DESC_NEXT))
            return true;
        i = d.next;
    }
}

enum virtq_got virtq_take(struct virtq *q, struct virtq_chain *chain, struct virtq_seg *segs)
{
    if (!queue_works(q))
        return VIRTQ_NONE;
    uint16_t ahead = (uint16_t)(avail_idx(q) - q->next_avail);
    if (ahead == 0)
        return VIRTQ_NONE;
    memset(chain, 0, sizeof(*chain));
    if (ahead > q->size) {
        fault_set(q, "available index jumped further than the queue is long");
        return VIRTQ_BAD;
    }
    uint16_t head = __atomic_load_n(&q->avail[2 + q->next_avail % q->size], __ATOMIC_RELAXED);
    if (head >= q->size) {
        fault_set(q, "head in the available ring is past the table");
        return VIRTQ_BAD;
    }
    if (q->heads[head / 64] >> (head % 64) & 1) {
        fault_set(q, "head made available again before it was returned");
        return VIRTQ_BAD;
    }
    chain->head = head;
    if (!chain_walk(q, chain, segs))
        return VIRTQ_BAD;
    q->next_avail++;
    q->heads[head / 64] |= 1ull << (head % 64);
    q->held++;
    return VIRTQ_GOT;
}

void virtq_drop(struct virtq *q, uint16_t head)
{
    BUG_ON(head >= q->size || !(q->heads[head / 64] >> (head % 64) & 1) || q->held == 0);
    q->heads[head / 64] &= ~(1ull << (head % 64));
    q->held--;
}

void virtq_untake(struct virtq *q, uint16_t head)
{
    virtq_drop(q, head);
    q->next_avail--;
}

void virtq_stage(struct virtq *q, uint16_t head, uint32_t len)
{
    virtq_drop(q, head);
    if (!queue_works(q))
        return;
    uint16_t *at = q->used + 2 + 4u * ((uint16_t)(q->next_used + q->staged) % q->size);
    struct virtio_used_elem e = { .id = head, .len = len };

    memcpy(at, &e, sizeof(e));
    gmem_written(q->mem, ring_gpa(q, at), sizeof(e));
    q->staged++;
}

void virtq_publish(struct virtq *q)
{
    if (!queue_works(q) || !q->staged)
        return;
    q->next_used += q->staged;
    q->staged = 0;
    used_store(q, &q->used[1], q->next_used);
}

void virtq_push(struct virtq *q, uint16_t head, uint32_t len)
{
    virtq_stage(q, head, len);
    virtq_publish(q);
}

bool virtq_wants_interrupt(struct virtq *q)
{
    if (!queue_works(q))
        return false;
    if (!q->event_idx)
        return !(__atomic_load_n(&q->avail[0], __ATOMIC_SEQ_CST) & VIRTIO_AVAIL_NO_INTERRUPT);
    uint16_t event = __atomic_load_n(&q->avail[2 + q->size], __ATOMIC_SEQ_CST);
    uint16_t pushed = (uint16_t)(q->next_used - q->signalled);
    bool valid = q->signalled_valid;

    q->signalled = q->next_used;
    q->signalled_valid = true;
    return !valid || (uint16_t)(q->next_used - event - 1) < pushed;
}

void virtq_kicks_off(struct virtq *q)
{
    if (queue_works(q) && !q->event_idx)
        used_store(q, &q->used[0], VIRTIO_USED_NO_NOTIFY);
}

bool virtq_kicks_on(struct virtq *q)
{
    if (!queue_works(q))
        return false;
    if (q->event_idx)
        used_store(q, avail_event(q), q->next_avail);
    else
        used_store(q, &q->used[0], 0);
    return !virtq_empty(q);
}

bool virtq_kicks_on_more(struct virtq *q)
{
    if (!queue_works(q))
        return false;
    uint16_t now = avail_idx(q);

    if (q->event_idx)
        used_store(q, avail_event(q), now);
    else
        used_store(q, &q->used[0], 0);
    return avail_idx(q) != now;
}

size_t virtq_segs_read(const struct virtq_seg *segs, unsigned count, uint64_t off, void *buf, size_t len)
{
    size_t done = 0;

    for (unsigned i = 0; i < count && done < len; i++) {
        if (off >= segs[i].len) {
            off -= segs[i].len;
            continue;
        }
        size_t n = min_u64(segs[i].len - off, len - done);
        memcpy((uint8_t *)buf + done, segs[i].hva + off, n);
        done += n;
        off = 0;
    }
    /* As in desc_copy: checks that follow must see this copy. */
    __asm__ __volatile__("" : : "r"(buf) : "memory");
    return done;
}

size_t virtq_segs_write(const struct gmem *mem, const struct virtq_seg *segs, unsigned count, uint64_t off,
                        const void *buf, size_t len)
{
    size_t done = 0;

    for (unsigned i = 0; i < count && done < len; i++) {
        if (off >= segs[i].len) {
            off -= segs[i].len;
            continue;
        }
        size_t n = min_u64(segs[i].len - off, len - done);
        memcpy(segs[i].hva + off, (const uint8_t *)buf + done, n);
        gmem_written(mem, segs[i].gpa + off, n);
        done += n;
        off = 0;
    }
    return done;
}
