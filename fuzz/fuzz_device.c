/* Fuzz target: one virtio device over PCI, its driver the input. The devices and their other sides are those
 * of the hostile tests (tests/virtio/hostile_devices.c); which one is set when it is compiled (FUZZ_KIND).
 *
 * Input: steps of one kind byte and what that kind takes: chains (plausible or not), what stands in their
 * buffers, kicks, registers, configuration space, the device's other side, resets. What must hold: after the
 * last step and a reset the device does its work, and so does the one beside it. The sanitizers say the rest.
 */
#include <stdlib.h>
#include <string.h>

#include "../tests/virtio/hostile.h"

#define STEPS_MAX 64
#define SIZE 16
#define BUFFERS_GPA MIB(2) /* behind the rings */
#define BUFFERS_LEN 0x4000u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

struct input {
    const uint8_t *at, *end;
};

static void bytes(struct input *in, void *to, size_t len)
{
    size_t n = min_u64(len, (size_t)(in->end - in->at));

    memset(to, 0, len);
    memcpy(to, in->at, n);
    in->at += n;
}

static uint64_t number(struct input *in, unsigned len)
{
    uint64_t v = 0;

    bytes(in, &v, len);
    return v;
}

/* ---- steps ---- */

/* How: bit 0 a wild address, bit 1 a wild length, bits 2 to 4 the flags; small ones otherwise. */
static void descriptor(struct input *in, struct virtio_desc *d)
{
    unsigned how = (unsigned)number(in, 1);

    d->addr = how & 1 ? number(in, 8) : BUFFERS_GPA + number(in, 2) % BUFFERS_LEN;
    d->len = (uint32_t)(how & 2 ? number(in, 4) : number(in, 1) * (how & 32 ? 64 : 1));
    d->flags = (uint16_t)(how >> 2 & 7);
    d->next = (uint16_t)(number(in, 1) % (SIZE + 1));
}

static void chain_step(struct hostile *h, struct input *in)
{
    struct hostile_function *s = &h->subject;
    struct drv_queue *q = &s->d.queues[number(in, 1) % s->d.vd->queue_count];
    unsigned first = (unsigned)number(in, 1) % SIZE, count = (unsigned)number(in, 1) % 5;
    bool inside = first & 8 && count; /* the descriptors in an indirect table */
    uint64_t table = inside ? BUFFERS_GPA + BUFFERS_LEN : q->desc_gpa;

    for (unsigned i = 0; i < count; i++) {
        struct virtio_desc d;

        descriptor(in, &d);
        gmem_write(s->d.mem, table + (inside ? i : (first + i) % q->size) * sizeof(d), &d, sizeof(d));
    }
    if (inside)
        drv_desc(q, first % q->size, table, (uint32_t)(count * sizeof(struct virtio_desc)),
                 VIRTIO_DESC_INDIRECT, 0);
    drv_publish(q, (uint16_t)(first % (q->size + 1u)));
    h_kick(h, s, (unsigned)(q - s->d.queues));
}

static void buffers_step(struct hostile *h, struct input *in)
{
    uint8_t data[64];
    uint64_t at = BUFFERS_GPA + number(in, 2) % (BUFFERS_LEN - sizeof(data));
    unsigned len = (unsigned)number(in, 1) % sizeof(data);

    bytes(in, data, len);
    gmem_write(h->subject.d.mem, at, data, len);
}

static void registers_step(struct hostile *h, struct input *in)
{
    static const unsigned areas[] = { H_COMMON, H_DEVICE, H_ISR, H_NOTIFY };
    unsigned area = areas[number(in, 1) % array_size(areas)], off = (unsigned)number(in, 1) % 80;
    unsigned width = 1u << number(in, 1) % 4;

    h_read(h, &h->subject, area + off, width);
    h_write(h, &h->subject, area + off, width, number(in, 4));
}

static void restart_step(struct hostile *h, struct input *in)
{
    unsigned how = (unsigned)number(in, 1);
    uint64_t features =
        h->kind->features | (how & 1 ? VIRTIO_F_INDIRECT_DESC : 0) | (how & 2 ? VIRTIO_F_EVENT_IDX : 0);

    if (how & 4) /* all that the device offers */
        features = h->subject.d.vd->offered;
    h_start(h, &h->subject, features, 1u << how % 5);
}

static void poke_step(struct hostile *h, struct input *in)
{
    const struct hostile_queue *q = &h->kind->queues[number(in, 1) % h->kind->queue_count];

    if (q->poke)
        q->poke(h);
}

static void step(struct hostile *h, struct input *in)
{
    switch (number(in, 1) % 8) {
    case 0:
    case 1:
    case 2: chain_step(h, in); break;
    case 3: buffers_step(h, in); break;
    case 4: registers_step(h, in); break;
    case 5: poke_step(h, in); break;
    case 6: h_kick(h, &h->subject, (unsigned)number(in, 1)); break;
    default: restart_step(h, in); break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static const uint8_t zeros[BUFFERS_LEN];
    static struct hostile h; /* made once: threads and memory cost more than a run */
    struct input in = { data, data + len };

    if (!h.kind) {
        for (unsigned i = 0; i < hostile_kind_count; i++) {
            if (!strcmp(hostile_kinds[i].name, FUZZ_KIND))
                hostile_open(&h, &hostile_kinds[i]);
        }
        BUG_ON(!h.kind);
    }
    gmem_write(h.subject.d.mem, BUFFERS_GPA, zeros, sizeof(zeros));
    h_start(&h, &h.subject, h.kind->features | VIRTIO_F_INDIRECT_DESC, SIZE);
    for (unsigned i = 0; i < STEPS_MAX && in.at < in.end; i++)
        step(&h, &in);
    h_all_works(&h);
    return 0;
}
