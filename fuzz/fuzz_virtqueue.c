/* Fuzz target: a split queue whose rings, descriptors and data are the input.
 *
 * Input: byte 0: features and size; byte 1: how taken chains are returned; byte 2: where the available index
 * jumps after each chain; the rest is guest memory from address 0: 16 descriptors at most, available ring,
 * used ring, then whatever indirect tables the input makes. What must hold for every input is checked with
 * BUG_ON. */
#include <stdlib.h>
#include <string.h>

#include "virtio/queue.h"

#define MEM_SIZE MIB(1)
#define CHAINS_MAX 64 /* per input */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* The segments of a chain lie in RAM, add up, and can be touched. */
static void chain_check(const struct gmem *mem, const struct virtq_chain *c, struct virtq_seg *segs)
{
    struct gmem_slot ram = gmem_slot_at(mem, 0);
    unsigned count = c->out_count + c->in_count;
    uint64_t out = 0, in = 0;

    BUG_ON(count == 0 || count > VIRTQ_CHAIN_MAX);
    for (unsigned i = 0; i < count; i++) {
        BUG_ON(segs[i].len == 0 || segs[i].gpa >= ram.len || segs[i].len > ram.len - segs[i].gpa);
        BUG_ON(segs[i].hva != ram.hva + segs[i].gpa);
        *(i < c->out_count ? &out : &in) += segs[i].len;
    }
    BUG_ON(out != c->out_len || in != c->in_len || out + in > UINT32_MAX);
    uint8_t buf[64];
    size_t n = virtq_segs_read(segs, c->out_count, c->out_len / 2, buf, sizeof(buf));
    BUG_ON(n != min_u64(sizeof(buf), c->out_len - c->out_len / 2));
    /* Writes back what is there, so that one input leaves nothing for the next. */
    n = virtq_segs_read(segs + c->out_count, c->in_count, c->in_len / 2, buf, sizeof(buf));
    BUG_ON(n != min_u64(sizeof(buf), c->in_len - c->in_len / 2));
    BUG_ON(virtq_segs_write(mem, segs + c->out_count, c->in_count, c->in_len / 2, buf, n) != n);
}

static void queue_run(const struct gmem *mem, struct virtq *q, unsigned returns, unsigned jump)
{
    static struct virtq_seg segs[VIRTQ_CHAIN_MAX];
    uint16_t held[CHAINS_MAX];
    unsigned held_count = 0;

    for (unsigned i = 0; i < CHAINS_MAX; i++) {
        struct virtq_chain c;
        enum virtq_got got = virtq_take(q, &c, segs);
        uint16_t idx;

        BUG_ON(q->held != held_count + (got == VIRTQ_GOT));
        if (got == VIRTQ_BAD) {
            BUG_ON(!q->fault || virtq_take(q, &c, segs) != VIRTQ_NONE || !virtq_empty(q));
            break;
        }
        if (got == VIRTQ_GOT) {
            BUG_ON(q->held > q->size);
            chain_check(mem, &c, segs);
            held[held_count++] = c.head;
        }
        if (held_count && (returns >> (i % 8) & 1)) {
            virtq_push(q, held[--held_count], (uint32_t)c.in_len);
            virtq_wants_interrupt(q);
        }
        virtq_kicks_off(q);
        if (!virtq_kicks_on(q)) {
            gmem_read(mem, q->avail_gpa + 2, &idx, 2);
            idx = (uint16_t)(idx + jump % 20);
            gmem_write(mem, q->avail_gpa + 2, &idx, 2);
        }
    }
    while (held_count)
        virtq_drop(q, held[--held_count]);
    virtq_reset(q);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static struct gmem *mem; /* made once: the mapping costs more than a run */
    struct virtq q;

    if (!mem)
        mem = gmem_new(MEM_SIZE, GIB(3), false, NULL);
    if (!mem || len < 3 || len - 3 > MEM_SIZE)
        return 0;
    struct gmem_slot ram = gmem_slot_at(mem, 0);
    memset(ram.hva, 0, 0x2000);
    memcpy(ram.hva, data + 3, len - 3);
    virtq_init(&q, 16);
    q.size = (uint16_t)(1u << (data[0] >> 2 & 7));
    if (data[0] & 0x20)
        q.size = data[0];
    q.desc_gpa = data[0] & 0x40 ? MEM_SIZE - 64 : 0;
    q.avail_gpa = 16u * 16;
    q.used_gpa = 16u * 16 + 40;
    uint64_t features = (data[0] & 1 ? VIRTIO_F_INDIRECT_DESC : 0) | (data[0] & 2 ? VIRTIO_F_EVENT_IDX : 0);
    if (virtq_enable(&q, mem, features))
        queue_run(mem, &q, data[1], data[2]);
    else
        BUG_ON(!q.fault);
    memset(ram.hva, 0, len);
    return 0;
}
