/* Every virtio device against drivers that break each rule there is: the device says that it needs a reset,
 * by status and by interrupt, and is silent; the process and the device beside it go on; after the reset it
 * works again. What breaks no rule must leave it working.
 *
 * YADO_TEST_SEED=N repeats a run's draws. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "hostile.h"

#define SIZE 16 /* of the attacked queues */
#define RAM_END DRV_MEM_SIZE
#define TABLE_MAX 65537u

static const struct hostile_kind *kind;

/* ---- draws ---- */

static uint64_t draw(uint64_t *s)
{
    *s ^= *s << 13; /* Marsaglia, Xorshift RNGs, 2003 */
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

/* ---- chains that cannot be ---- */

/* The queue under attack, with its descriptors' direction. */
struct attack {
    struct hostile *h;
    struct drv_queue *q;
    unsigned write; /* VIRTIO_DESC_WRITE, or 0 */
    uint64_t buffer;
};

static void desc(struct attack *a, unsigned i, uint64_t gpa, uint32_t len, unsigned flags, unsigned next)
{
    drv_desc(a->q, i, gpa, len, flags | a->write, next);
}

static void head_past_table(struct attack *a)
{
    drv_publish(a->q, SIZE);
}

static void head_far_past_table(struct attack *a)
{
    drv_publish(a->q, 0xffff);
}

static void next_past_table(struct attack *a)
{
    desc(a, 0, a->buffer, 16, VIRTIO_DESC_NEXT, SIZE);
    drv_publish(a->q, 0);
}

static void loop_of_one(struct attack *a)
{
    desc(a, 0, a->buffer, 16, VIRTIO_DESC_NEXT, 0);
    drv_publish(a->q, 0);
}

static void loop_of_all(struct attack *a)
{
    for (unsigned i = 0; i < SIZE; i++)
        desc(a, i, a->buffer, 16, VIRTIO_DESC_NEXT, (i + 1) % SIZE);
    drv_publish(a->q, 3);
}

static void one(struct attack *a, uint64_t gpa, uint32_t len)
{
    desc(a, 0, gpa, len, 0, 0);
    drv_publish(a->q, 0);
}

static void past_the_end(struct attack *a)
{
    one(a, RAM_END - 16, 17);
}

static void wraps_around(struct attack *a)
{
    one(a, UINT64_MAX - 15, 32);
}

static void ends_at_the_top(struct attack *a)
{
    one(a, UINT64_MAX - 15, 16);
}

static void device_memory(struct attack *a)
{
    one(a, 0xe0000000, 16);
}

static void far_away(struct attack *a)
{
    one(a, 1ull << 52, 16);
}

static void no_length(struct attack *a)
{
    one(a, a->buffer, 0);
}

static void all_ones_length(struct attack *a)
{
    one(a, a->buffer, UINT32_MAX);
}

static void second_is_bad(struct attack *a)
{
    desc(a, 0, a->buffer, 64, VIRTIO_DESC_NEXT, 1);
    desc(a, 1, RAM_END, 64, 0, 0);
    drv_publish(a->q, 0);
}

static void readable_after_writable(struct attack *a)
{
    drv_desc(a->q, 0, a->buffer, 64, VIRTIO_DESC_NEXT | VIRTIO_DESC_WRITE, 1);
    drv_desc(a->q, 1, a->buffer, 64, 0, 0);
    drv_publish(a->q, 0);
}

static void index_jumps(struct attack *a)
{
    one(a, a->buffer, 16);
    a->q->avail_idx += SIZE;
    drv_publish(a->q, 0);
}

/* ---- the same in indirect tables ---- */

static struct virtio_desc *table(struct attack *a, unsigned count, uint64_t *gpa)
{
    *gpa = drv_alloc(&a->h->subject.d, count * sizeof(struct virtio_desc));
    return drv_at(&a->h->subject.d, *gpa, count * sizeof(struct virtio_desc));
}

static void indirect(struct attack *a, uint64_t gpa, uint32_t len, unsigned flags)
{
    drv_desc(a->q, 0, gpa, len, VIRTIO_DESC_INDIRECT | flags, 1);
    drv_desc(a->q, 1, a->buffer, 16, a->write, 0);
    drv_publish(a->q, 0);
}

static void indirect_nested(struct attack *a)
{
    uint64_t gpa;
    struct virtio_desc *t = table(a, 1, &gpa);

    *t = (struct virtio_desc){ .addr = gpa, .len = 16, .flags = VIRTIO_DESC_INDIRECT };
    indirect(a, gpa, 16, 0);
}

static void indirect_and_more(struct attack *a)
{
    uint64_t gpa;
    struct virtio_desc *t = table(a, 1, &gpa);

    *t = (struct virtio_desc){ .addr = a->buffer, .len = 16, .flags = (uint16_t)a->write };
    indirect(a, gpa, 16, VIRTIO_DESC_NEXT);
}

static void indirect_empty(struct attack *a)
{
    indirect(a, a->buffer, 0, 0);
}

static void indirect_odd(struct attack *a)
{
    indirect(a, a->buffer, 17, 0);
}

static void indirect_over_length(struct attack *a)
{
    indirect(a, MIB(1), TABLE_MAX * 16, 0);
}

static void indirect_off_ram(struct attack *a)
{
    indirect(a, RAM_END - 16, 32, 0);
}

static void indirect_wraps(struct attack *a)
{
    indirect(a, UINT64_MAX - 15, 32, 0);
}

static void indirect_loop(struct attack *a)
{
    uint64_t gpa;
    struct virtio_desc *t = table(a, 1, &gpa);

    *t = (struct virtio_desc){ .addr = a->buffer,
                               .len = 16,
                               .flags = (uint16_t)(VIRTIO_DESC_NEXT | a->write) };
    indirect(a, gpa, 16, 0);
}

static void indirect_next_past(struct attack *a)
{
    uint64_t gpa;
    struct virtio_desc *t = table(a, 1, &gpa);

    *t = (struct virtio_desc){
        .addr = a->buffer, .len = 16, .flags = (uint16_t)(VIRTIO_DESC_NEXT | a->write), .next = 1
    };
    indirect(a, gpa, 16, 0);
}

static void four_gigabytes(struct attack *a)
{
    const unsigned count = 300;
    uint64_t gpa;
    struct virtio_desc *t = table(a, count, &gpa);

    for (unsigned i = 0; i < count; i++)
        t[i] = (struct virtio_desc){ .addr = 0,
                                     .len = RAM_END,
                                     .flags = (uint16_t)(a->write | (i + 1 < count ? VIRTIO_DESC_NEXT : 0)),
                                     .next = (uint16_t)(i + 1) };
    indirect(a, gpa, count * 16, 0);
}

static void indirect_too_many(struct attack *a)
{
    const unsigned count = 513;
    uint64_t gpa;
    struct virtio_desc *t = table(a, count, &gpa);

    for (unsigned i = 0; i < count; i++)
        t[i] = (struct virtio_desc){ .addr = a->buffer,
                                     .len = 1,
                                     .flags = (uint16_t)(a->write | (i + 1 < count ? VIRTIO_DESC_NEXT : 0)),
                                     .next = (uint16_t)(i + 1) };
    indirect(a, gpa, count * 16, 0);
}

static const struct bad_chain {
    void (*make)(struct attack *a);
    const char *why;
    bool with_indirect; /* negotiated */
} bad_chains[] = {
    { head_past_table, "head in the available ring is past the table", false },
    { head_far_past_table, "head in the available ring is past the table", false },
    { next_past_table, "descriptor index is past the table", false },
    { loop_of_one, "too long or a loop", false },
    { loop_of_all, "too long or a loop", false },
    { past_the_end, "descriptor is not in RAM", false },
    { wraps_around, "descriptor is not in RAM", false },
    { ends_at_the_top, "descriptor is not in RAM", false },
    { device_memory, "descriptor is not in RAM", false },
    { far_away, "descriptor is not in RAM", false },
    { no_length, "descriptor of no length", false },
    { all_ones_length, "", false },
    { second_is_bad, "descriptor is not in RAM", false },
    { readable_after_writable, "readable descriptor after a writable one", false },
    { index_jumps, "jumped further than the queue is long", false },
    { indirect_nested, "indirect table inside an indirect table", true },
    { indirect_and_more, "not the last of its chain", true },
    { indirect_empty, "indirect table of bad length", true },
    { indirect_odd, "indirect table of bad length", true },
    { indirect_over_length, "indirect table of bad length", true },
    { indirect_off_ram, "indirect table is not in RAM", true },
    { indirect_wraps, "indirect table is not in RAM", true },
    { indirect_loop, "too long or a loop", true },
    { indirect_next_past, "descriptor index is past the table", true },
    { indirect_too_many, "too long or a loop", true },
    { four_gigabytes, "4 GiB or more", true },
    { indirect_next_past, "indirect descriptor without the feature", false },
};

/* Gives the chain; the device breaks, returns nothing, and touches nothing any more. */
static void chain_breaks(struct hostile *h, const struct hostile_queue *target, const struct bad_chain *bad,
                         uint64_t features)
{
    struct hostile_function *s = &h->subject;
    struct attack a = { .h = h,
                        .q = &s->d.queues[target->index],
                        .write = target->device_writes ? VIRTIO_DESC_WRITE : 0 };
    unsigned messages;
    uint32_t id, len;

    h_start(h, s, kind->features | features | (bad->with_indirect ? VIRTIO_F_INDIRECT_DESC : 0), SIZE);
    a.buffer = drv_alloc(&s->d, 4096);
    messages = h_messages(s, 0);
    bad->make(&a);
    h_kick(h, s, target->index);
    if (target->poke)
        target->poke(h);
    h_expect_broken(h, messages, bad->why);
    h_kick(h, s, target->index);
    assert_false(drv_used(a.q, &id, &len));
}

static void test_bad_chains(void **state)
{
    struct hostile h;

    (void)state;
    hostile_open(&h, kind);
    for (unsigned q = 0; q < kind->queue_count; q++) {
        for (size_t i = 0; i < array_size(bad_chains); i++) {
            chain_breaks(&h, &kind->queues[q], &bad_chains[i], i % 2 ? VIRTIO_F_EVENT_IDX : 0);
            h_all_works(&h);
        }
    }
    hostile_close(&h);
}

/* ---- queues that cannot be ---- */

static void test_bad_queues(void **state)
{
    static const struct {
        unsigned size;
        uint64_t desc, avail, used;
        const char *why;
    } bad[] = {
        { 0, 0x1000, 0x2000, 0x3000, "size" },
        { 3, 0x1000, 0x2000, 0x3000, "size" },
        { 0x8000, 0x1000, 0x2000, 0x3000, "size" },
        { 0xffff, 0x1000, 0x2000, 0x3000, "size" },
        { SIZE, 0x1008, 0x2000, 0x3000, "aligned" },
        { SIZE, 0x1000, 0x2001, 0x3000, "aligned" },
        { SIZE, 0x1000, 0x2000, 0x3002, "aligned" },
        { SIZE, RAM_END, 0x2000, 0x3000, "not in RAM" },
        { SIZE, 0x1000, RAM_END - 16, 0x3000, "not in RAM" },
        { SIZE, 0x1000, 0x2000, RAM_END - 16, "not in RAM" },
        { SIZE, UINT64_MAX - 15, 0x2000, 0x3000, "not in RAM" },
        { SIZE, 0x1000, UINT64_MAX - 1, 0x3000, "not in RAM" },
        { SIZE, 0x1000, 0x2000, UINT64_MAX - 3, "not in RAM" },
        { SIZE, 0xe0000000, 0x2000, 0x3000, "not in RAM" },
    };
    struct hostile h;

    (void)state;
    hostile_open(&h, kind);
    for (unsigned q = 0; q < kind->queue_count; q++) {
        for (size_t i = 0; i < array_size(bad); i++) {
            unsigned messages = h_messages(&h.subject, 0);

            h_negotiate(&h, &h.subject, kind->features);
            h_queue(&h, &h.subject, kind->queues[q].index, bad[i].size, bad[i].desc, bad[i].avail,
                    bad[i].used);
            assert_true(h_status(&h, &h.subject) & VIRTIO_STATUS_NEEDS_RESET);
            h_write(&h, &h.subject, H_COMMON + H_STATUS, 1, 15); /* the interrupt comes with DRIVER_OK */
            h_expect_broken(&h, messages, bad[i].why);
            h_all_works(&h);
        }
    }
    hostile_close(&h);
}

/* Steps of the handshake left out or in the wrong order. */
static void test_wrong_order(void **state)
{
    struct hostile h;
    struct hostile_function *s = &h.subject;

    (void)state;
    hostile_open(&h, kind);
    h_reset(&h, s);
    h_write(&h, s, H_COMMON + H_STATUS, 1, 15); /* started, and no features agreed on */
    assert_true(h_status(&h, s) & VIRTIO_STATUS_NEEDS_RESET);
    h_all_works(&h);
    h_reset(&h, s);
    h_queue(&h, s, 0, SIZE, 0x1000, 0x2000, 0x3000); /* likewise */
    assert_true(h_status(&h, s) & VIRTIO_STATUS_NEEDS_RESET);
    h_all_works(&h);
    h_reset(&h, s);
    h_write(&h, s, H_COMMON + H_STATUS, 1, 3);
    h_write(&h, s, H_COMMON + H_STATUS, 1, 11); /* without VERSION_1: refused, and nothing broken */
    assert_int_equal(h_status(&h, s), 3);
    h_write(&h, s, H_COMMON + H_DRIVER_FEATURE_SELECT, 4, 1);
    h_write(&h, s, H_COMMON + H_DRIVER_FEATURE, 4, UINT32_MAX); /* more than was offered */
    h_write(&h, s, H_COMMON + H_STATUS, 1, 11);
    assert_int_equal(h_status(&h, s), 3);
    h_all_works(&h);
    h_negotiate(&h, s, kind->features);
    h_write(&h, s, H_COMMON + H_STATUS, 1, 15); /* no queue enabled, then kicked */
    for (unsigned q = 0; q < 70; q++)
        h_kick(&h, s, q);
    assert_int_equal(h_status(&h, s), 15);
    h_all_works(&h);
    hostile_close(&h);
}

/* ---- what breaks no rule ---- */

/* Every width at every offset of every structure, read and written, while it runs. */
static void test_odd_widths(void **state)
{
    struct hostile h;
    struct hostile_function *s = &h.subject;
    uint64_t seed = 0x9e3779b97f4a7c15ull;

    (void)state;
    hostile_open(&h, kind);
    h_start(&h, s, kind->features, SIZE);
    for (unsigned width = 1; width <= 8; width *= 2) {
        for (unsigned off = 0; off < 0x140; off++) {
            h_read(&h, s, H_DEVICE + off, width);
            h_write(&h, s, H_DEVICE + off, width, draw(&seed));
            h_read(&h, s, H_ISR + off, width);
            h_write(&h, s, H_ISR + off, width, draw(&seed));
            h_read(&h, s, H_COMMON + off, width);
            h_read(&h, s, H_NOTIFY + off, width);
            h_write(&h, s, H_NOTIFY + off, width, draw(&seed));
        }
        h_read(&h, s, H_BAR_LEN - 1, width); /* over the end */
        h_write(&h, s, H_BAR_LEN - 1, width, 0);
    }
    assert_int_equal(h_status(&h, s), 15);
    h_all_works(&h);
    hostile_close(&h);
}

/* Sizes and addresses of a queue that is enabled are fixed: writes are ignored, and it goes on. */
static void test_queue_registers_while_it_runs(void **state)
{
    static const unsigned regs[] = { H_QUEUE_DESC,       H_QUEUE_DESC + 4, H_QUEUE_DRIVER,
                                     H_QUEUE_DRIVER + 4, H_QUEUE_DEVICE,   H_QUEUE_DEVICE + 4 };
    struct hostile h;
    struct hostile_function *s = &h.subject;

    (void)state;
    hostile_open(&h, kind);
    h_start(&h, s, kind->features, SIZE);
    for (unsigned q = 0; q < s->d.vd->queue_count + 3u; q++) {
        h_write(&h, s, H_COMMON + H_QUEUE_SELECT, 2, q < s->d.vd->queue_count ? q : 0xfffd + q % 3);
        h_write(&h, s, H_COMMON + H_QUEUE_SIZE, 2, 2 * SIZE);
        for (size_t i = 0; i < array_size(regs); i++)
            h_write(&h, s, H_COMMON + regs[i], 4, UINT32_MAX);
        h_write(&h, s, H_COMMON + H_QUEUE_ENABLE, 2, 0);
        h_write(&h, s, H_COMMON + H_QUEUE_ENABLE, 2, 1);
    }
    h_write(&h, s, H_COMMON + H_DRIVER_FEATURE_SELECT, 4, 0);
    h_write(&h, s, H_COMMON + H_DRIVER_FEATURE, 4, 0);
    h_write(&h, s, H_COMMON + H_STATUS, 1, 11); /* bits are never taken away one by one */
    assert_int_equal(h_status(&h, s), 15);
    kind->works(&h);
    h_all_works(&h);
    hostile_close(&h);
}

/* Every size that a queue can have, with no feature but VERSION_1 and with all that is common. */
static void test_sizes_and_features(void **state)
{
    static const uint64_t features[] = { 0, VIRTIO_F_EVENT_IDX, VIRTIO_F_EVENT_IDX | VIRTIO_F_INDIRECT_DESC };
    struct hostile h;

    (void)state;
    hostile_open(&h, kind);
    for (size_t f = 0; f < array_size(features); f++) {
        for (unsigned size = 4; size <= 1024; size *= 2) {
            h_start(&h, &h.subject, kind->features | features[f], size);
            kind->works(&h);
        }
    }
    h_start(&h, &h.subject, 0, SIZE); /* all off, its own too: it starts, and takes kicks */
    for (unsigned q = 0; q < h.subject.d.vd->queue_count; q++)
        h_kick(&h, &h.subject, q);
    assert_int_equal(h_status(&h, &h.subject), 15);
    h_all_works(&h);
    hostile_close(&h);
}

static unsigned all_messages(struct hostile_function *f)
{
    unsigned sum = 0;

    for (unsigned i = 0; i <= VDEV_QUEUES_MAX; i++)
        sum += h_messages(f, i);
    return sum;
}

/* Masked: the work is done and nobody is interrupted; what was masked comes when it is unmasked. */
static void test_interrupts_masked(void **state)
{
    struct hostile h;
    struct hostile_function *s = &h.subject;
    unsigned before;

    (void)state;
    hostile_open(&h, kind);
    h_start(&h, s, kind->features, SIZE);
    h_config_write(&h, s, h_msix_cap(&h, s) + 2, 2, 0xc000); /* the function's mask */
    before = all_messages(s);
    kind->works(&h);
    assert_int_equal(all_messages(s), before);
    h_config_write(&h, s, h_msix_cap(&h, s) + 2, 2, 0x8000);
    for (int i = 0; i < 20000 && all_messages(s) == before; i++)
        usleep(1000);
    assert_true(all_messages(s) > before);
    h_start(&h, s, kind->features, SIZE); /* no vector at all */
    for (unsigned q = 0; q < s->d.vd->queue_count; q++) {
        h_write(&h, s, H_COMMON + H_QUEUE_SELECT, 2, q);
        h_write(&h, s, H_COMMON + H_QUEUE_VECTOR, 2, 0xffff - q);
    }
    h_write(&h, s, H_COMMON + H_CONFIG_VECTOR, 2, 0x7fff);
    before = all_messages(s);
    kind->works(&h);
    assert_int_equal(all_messages(s), before);
    h_start(&h, s, kind->features, SIZE); /* neither MSI-X nor INTx */
    h_config_write(&h, s, h_msix_cap(&h, s) + 2, 2, 0);
    h_config_write(&h, s, 4, 2, 0x406);
    kind->works(&h);
    h_read(&h, s, H_ISR, 1);
    h_all_works(&h);
    hostile_close(&h);
}

/* Without bus mastering kicks are not heard; memory decoding off takes the registers away. */
static void test_command_register(void **state)
{
    struct hostile h;
    struct hostile_function *s = &h.subject;
    uint32_t id, len;

    (void)state;
    hostile_open(&h, kind);
    h_start(&h, s, kind->features, SIZE);
    h_config_write(&h, s, 4, 2, 2);
    for (unsigned q = 0; q < s->d.vd->queue_count; q++) {
        drv_publish(&s->d.queues[q], SIZE); /* would break it */
        h_kick(&h, s, q);
    }
    assert_int_equal(h_status(&h, s), 15);
    assert_false(drv_used(&s->d.queues[0], &id, &len));
    h_config_write(&h, s, 4, 2, 0);
    assert_int_equal(h_read(&h, s, H_COMMON + H_STATUS, 1), 0xff);
    h_all_works(&h);
    hostile_close(&h);
}

/* ---- everything at once ---- */

/* Threads that act as vCPUs, while the event loop and the back ends do what they do. */
struct storm {
    struct hostile *h;
    uint64_t seed;
    bool resets; /* of the device; else accesses of every kind */
    atomic_bool *stop;
};

__attribute__((noinline)) static void ring_scribble(struct hostile *h, uint64_t *seed)
{
    struct hostile_function *s = &h->subject;
    struct drv_queue *q = &s->d.queues[draw(seed) % s->d.vd->queue_count];
    uint64_t v = draw(seed);
    uint64_t gpa = v & 1 ? q->desc_gpa + (v >> 8) % (16u * SIZE) / 8 * 8
                         : q->avail_gpa + (v >> 8) % (6 + 2 * SIZE) / 2 * 2;

    if (v & 1) { /* plausible: short, in memory */
        uint64_t d[2] = { (v >> 20) % RAM_END & ~15ull, (draw(seed) & 0x0007000700000fffull) };

        gmem_write(h->subject.d.mem, gpa & ~15ull, d, sizeof(d));
    } else {
        uint16_t w = (uint16_t)((v >> 40) % (SIZE + 2));

        gmem_write(h->subject.d.mem, gpa, &w, sizeof(w));
    }
}

static void *storm_run(void *arg)
{
    struct storm *t = arg;
    struct hostile_function *s = &t->h->subject;

    while (!atomic_load(t->stop)) {
        uint64_t v = draw(&t->seed);
        unsigned off = (unsigned)(v >> 8) % 64;

        if (t->resets) {
            h_write(t->h, s, H_COMMON + H_STATUS, 1, v % 8 ? 0 : 15);
            usleep((unsigned)(v >> 8) % 200);
            continue;
        }
        switch (v % 8) {
        case 0:
        case 1:
        case 2: h_kick(t->h, s, (unsigned)(v >> 8) % (s->d.vd->queue_count + 1)); break;
        case 3: h_write(t->h, s, H_COMMON + off, 1u << (v >> 16) % 3, v >> 32); break;
        case 4: h_write(t->h, s, H_DEVICE + off, 1u << (v >> 16) % 3, v >> 32); break;
        case 5: h_read(t->h, s, (unsigned)(v >> 16) % 3 * 0x1000 + off, 1u << (v >> 24) % 3); break;
        case 6: ring_scribble(t->h, &t->seed); break;
        default: h_config_write(t->h, s, h_msix_cap(t->h, s) + 2, 2, v >> 32 & 1 ? 0xc000 : 0x8000); break;
        }
    }
    return NULL;
}

static unsigned number_of(const char *name, unsigned otherwise)
{
    const char *text = getenv(name);

    return text ? (unsigned)strtoul(text, NULL, 0) : otherwise;
}

__attribute__((noinline)) static void pokes(struct hostile *h)
{
    for (unsigned q = 0; q < kind->queue_count; q++) {
        if (kind->queues[q].poke)
            kind->queues[q].poke(h);
    }
}

/* Rings and registers scribbled upon, kicks, resets and changes of queues, from three threads at once. */
static void test_storm(void **state)
{
    uint64_t seed = number_of("YADO_TEST_SEED", (unsigned)time(NULL));
    struct hostile h;

    (void)state;
    printf("# %s: seed %llu\n", kind->name, (unsigned long long)seed);
    seed = seed * 0x9e3779b97f4a7c15ull + 1;
    hostile_open(&h, kind);
    for (unsigned round = 0; round < 12; round++) {
        struct storm storms[3];
        pthread_t threads[3];
        atomic_bool stop = false;

        h_start(&h, &h.subject,
                kind->features | (round % 2 ? VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX : 0), SIZE);
        for (unsigned i = 0; i < 3; i++) {
            storms[i] = (struct storm){ &h, draw(&seed), i == 2 && round % 3 == 0, &stop };
            assert_int_equal(pthread_create(&threads[i], NULL, storm_run, &storms[i]), 0);
        }
        for (unsigned i = 0; i < 10; i++) {
            usleep(2000);
            pokes(&h);
        }
        atomic_store(&stop, true);
        for (unsigned i = 0; i < 3; i++)
            pthread_join(threads[i], NULL);
        h_all_works(&h);
    }
    hostile_close(&h);
}

/* Once status reads 0 the device has let go: what the driver puts in the buffers then stays there. */
static void test_reset_in_flight(void **state)
{
    struct hostile h;
    struct hostile_function *s = &h.subject;
    uint64_t seed = 0x12345;

    (void)state;
    hostile_open(&h, kind);
    for (unsigned round = 0; round < 50; round++) {
        uint64_t buffer;
        uint8_t *at;

        h_start(&h, s, kind->features, SIZE);
        buffer = drv_alloc(&s->d, SIZE * 4096);
        at = drv_at(&s->d, buffer, SIZE * 4096);
        for (unsigned q = 0; q < kind->queue_count; q++) {
            for (unsigned i = 0; i < SIZE;
                 i++) /* a write of the disk, a frame, a page number: all are zero */
                drv_add(&s->d.queues[kind->queues[q].index], i,
                        &(struct drv_seg){ buffer + i * 4096, 4096, kind->queues[q].device_writes }, 1);
            h_kick(&h, s, kind->queues[q].index);
        }
        if (round % 2)
            pokes(&h);
        usleep((unsigned)(draw(&seed) % 300));
        h_reset(&h, s);
        memset(at, 0xa5, SIZE * 4096);
        usleep(500);
        for (unsigned i = 0; i < SIZE * 4096; i++)
            assert_int_equal(at[i], 0xa5);
    }
    h_all_works(&h);
    hostile_close(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_chains),
        cmocka_unit_test(test_bad_queues),
        cmocka_unit_test(test_wrong_order),
        cmocka_unit_test(test_odd_widths),
        cmocka_unit_test(test_queue_registers_while_it_runs),
        cmocka_unit_test(test_sizes_and_features),
        cmocka_unit_test(test_interrupts_masked),
        cmocka_unit_test(test_command_register),
        cmocka_unit_test(test_reset_in_flight),
        cmocka_unit_test(test_storm),
    };
    int failed = 0;

    for (unsigned i = 0; i < hostile_kind_count; i++) {
        kind = &hostile_kinds[i];
        failed += cmocka_run_group_tests_name(kind->name, tests, NULL, NULL);
    }
    return failed;
}
