/* The split queue against drivers good and bad. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "driver.h"
#include "virtio/queue.h"

#define SIZE 8

struct rig {
    struct drv d;
    struct drv_queue dq;
    struct virtq q;
    struct virtq_chain chain;
    struct virtq_seg segs[VIRTQ_CHAIN_MAX];
    uint64_t data;
};

static void place(struct rig *r)
{
    r->q.size = r->dq.size;
    r->q.desc_gpa = r->dq.desc_gpa;
    r->q.avail_gpa = r->dq.avail_gpa;
    r->q.used_gpa = r->dq.used_gpa;
}

static int setup(void **state)
{
    struct rig *r = test_calloc(1, sizeof(*r));

    drv_init(&r->d);
    drv_rings(&r->d, &r->dq, SIZE);
    r->data = drv_alloc(&r->d, 0x10000);
    virtq_init(&r->q, 256);
    place(r);
    *state = r;
    return 0;
}

static int teardown(void **state)
{
    struct rig *r = *state;

    drv_free(&r->d);
    test_free(r);
    return 0;
}

static enum virtq_got take(struct rig *r)
{
    return virtq_take(&r->q, &r->chain, r->segs);
}

static void enable(struct rig *r, uint64_t features)
{
    r->dq.event_idx = (features & VIRTIO_F_EVENT_IDX) != 0;
    assert_true(virtq_enable(&r->q, r->d.mem, features));
}

static void assert_fault(struct rig *r, const char *part)
{
    assert_int_equal(take(r), VIRTQ_BAD);
    assert_non_null(r->q.fault);
    if (!strstr(r->q.fault, part))
        fail_msg("fault is \"%s\", wanted \"%s\"", r->q.fault, part);
    assert_int_equal(r->q.held, 0);
    assert_int_equal(take(r), VIRTQ_NONE); /* silent from now on */
    assert_true(virtq_empty(&r->q));
}

static void test_round_trip(void **state)
{
    struct rig *r = *state;
    struct drv_seg segs[] = { { r->data, 10, false },
                              { r->data + 100, 20, false },
                              { r->data + 200, 30, true } };
    uint32_t id, len;

    enable(r, 0);
    assert_int_equal(take(r), VIRTQ_NONE);
    for (unsigned round = 0; round < 3 * 65536; round++) { /* indexes wrap */
        drv_add(&r->dq, round % 5, segs, 3);
        assert_false(virtq_empty(&r->q));
        assert_int_equal(take(r), VIRTQ_GOT);
        assert_int_equal(r->chain.head, round % 5);
        assert_int_equal(r->chain.out_count, 2);
        assert_int_equal(r->chain.in_count, 1);
        assert_int_equal(r->chain.out_len, 30);
        assert_int_equal(r->chain.in_len, 30);
        assert_ptr_equal(r->segs[2].hva, drv_at(&r->d, r->data + 200, 30));
        assert_int_equal(take(r), VIRTQ_NONE);
        virtq_push(&r->q, r->chain.head, round);
        assert_true(drv_used(&r->dq, &id, &len));
        assert_int_equal(id, round % 5);
        assert_int_equal(len, round);
        assert_false(drv_used(&r->dq, &id, &len));
    }
}

static void test_out_of_order(void **state)
{
    struct rig *r = *state;
    struct drv_seg seg = { r->data, 10, true };
    uint32_t id, len;

    enable(r, 0);
    for (unsigned i = 0; i < SIZE; i++)
        drv_add(&r->dq, i, &seg, 1);
    for (unsigned i = 0; i < SIZE; i++)
        assert_int_equal(take(r), VIRTQ_GOT);
    assert_int_equal(r->q.held, SIZE);
    for (unsigned i = SIZE; i-- > 0;)
        virtq_push(&r->q, (uint16_t)i, i);
    for (unsigned i = SIZE; i-- > 0;) {
        assert_true(drv_used(&r->dq, &id, &len));
        assert_int_equal(id, i);
        assert_int_equal(len, i);
    }
    assert_int_equal(r->q.held, 0);
    virtq_reset(&r->q);
    assert_false(r->q.enabled);
}

/* Settings that virtq_enable must refuse, and nearby ones that it must take. */
static void test_enable(void **state)
{
    struct rig *r = *state;
    uint64_t end = DRV_MEM_SIZE;
    static const uint16_t bad_sizes[] = { 0, 3, 12, 255, 257, 512, 1024, 32768, 65535 };

    for (unsigned i = 0; i < array_size(bad_sizes); i++) {
        virtq_reset(&r->q);
        place(r);
        r->q.size = bad_sizes[i];
        assert_false(virtq_enable(&r->q, r->d.mem, 0));
        assert_non_null(strstr(r->q.fault, "power of two"));
        assert_int_equal(take(r), VIRTQ_NONE);
    }
    const struct {
        uint64_t desc, avail, used;
        bool ok;
        const char *why;
    } cases[] = {
        { end - 16 * SIZE, end / 2, end / 4, true, NULL },
        { 0, end - 6 - 2 * SIZE, end / 4, true, NULL },
        { 0, end / 2, end - 8 * SIZE - 8, true, NULL },
        { end - 16 * SIZE + 16, end / 2, end / 4, false, "RAM" },
        { 0, end - 4 - 2 * SIZE, end / 4, false, "RAM" },
        { 0, end / 2, end - 8 * SIZE - 4, false, "RAM" },
        { end, end / 2, end / 4, false, "RAM" },
        { ~15ull, end / 2, end / 4, false, "RAM" }, /* would wrap */
        { 0, ~1ull, end / 4, false, "RAM" },
        { 0, end / 2, ~3ull, false, "RAM" },
        { 8, end / 2, end / 4, false, "aligned" },
        { 0, end / 2 + 1, end / 4, false, "aligned" },
        { 0, end / 2, end / 4 + 2, false, "aligned" },
    };
    for (unsigned i = 0; i < array_size(cases); i++) {
        virtq_reset(&r->q);
        r->q.size = SIZE;
        r->q.desc_gpa = cases[i].desc;
        r->q.avail_gpa = cases[i].avail;
        r->q.used_gpa = cases[i].used;
        assert_int_equal(virtq_enable(&r->q, r->d.mem, 0), cases[i].ok);
        if (!cases[i].ok)
            assert_non_null(strstr(r->q.fault, cases[i].why));
    }
}

static void test_loop(void **state)
{
    struct rig *r = *state;

    enable(r, 0);
    drv_desc(&r->dq, 0, r->data, 1, VIRTIO_DESC_NEXT, 1);
    drv_desc(&r->dq, 1, r->data, 1, VIRTIO_DESC_NEXT, 0);
    drv_publish(&r->dq, 0);
    assert_fault(r, "loop");
}

static void test_next_past_table(void **state)
{
    struct rig *r = *state;

    enable(r, 0);
    drv_desc(&r->dq, 0, r->data, 1, VIRTIO_DESC_NEXT, SIZE);
    drv_publish(&r->dq, 0);
    assert_fault(r, "past the table");
}

static void test_head_past_table(void **state)
{
    struct rig *r = *state;

    for (unsigned i = 0; i < 2; i++) {
        virtq_reset(&r->q);
        drv_rings(&r->d, &r->dq, SIZE);
        place(r);
        enable(r, 0);
        drv_publish(&r->dq, i ? 65535 : SIZE);
        assert_fault(r, "head in the available ring");
    }
}

static void test_head_twice(void **state)
{
    struct rig *r = *state;
    struct drv_seg seg = { r->data, 10, true };

    enable(r, 0);
    drv_add(&r->dq, 2, &seg, 1);
    drv_publish(&r->dq, 2);
    assert_int_equal(take(r), VIRTQ_GOT);
    assert_int_equal(take(r), VIRTQ_BAD);
    assert_non_null(strstr(r->q.fault, "again"));
    virtq_push(&r->q, 2, 0); /* the held one still comes back, unseen by the driver */
    uint32_t id, len;
    assert_false(drv_used(&r->dq, &id, &len));
    virtq_reset(&r->q);
}

static void test_avail_jump(void **state)
{
    struct rig *r = *state;
    uint16_t *avail = drv_at(&r->d, r->dq.avail_gpa, 4);

    enable(r, 0);
    avail[1] = SIZE + 1;
    assert_fault(r, "jumped");
}

static void test_avail_back(void **state)
{
    struct rig *r = *state;
    uint16_t *avail = drv_at(&r->d, r->dq.avail_gpa, 4);

    enable(r, 0);
    avail[1] = 65535;
    assert_fault(r, "jumped");
}

static void test_segment_outside(void **state)
{
    struct rig *r = *state;
    const struct drv_seg bad[] = {
        { DRV_MEM_SIZE, 1, true },
        { DRV_MEM_SIZE - 1, 2, true },
        { ~0ull, 1, true },
        { ~0ull - 10, 100, false },
        { 0, UINT32_MAX, false },
        { DRV_MEM_SIZE - 4096, 4097, false },
        { 0x8000000000000000ull, 16, true },
    };

    for (unsigned i = 0; i < array_size(bad); i++) {
        virtq_reset(&r->q);
        drv_rings(&r->d, &r->dq, SIZE);
        place(r);
        enable(r, 0);
        drv_add(&r->dq, 0, &bad[i], 1);
        assert_fault(r, "not in RAM");
    }
    struct drv_seg good = { DRV_MEM_SIZE - 1, 1, true };
    virtq_reset(&r->q);
    drv_rings(&r->d, &r->dq, SIZE);
    place(r);
    enable(r, 0);
    drv_add(&r->dq, 0, &good, 1);
    assert_int_equal(take(r), VIRTQ_GOT);
    virtq_drop(&r->q, r->chain.head);
}

static void test_empty_segment(void **state)
{
    struct rig *r = *state;
    struct drv_seg seg = { r->data, 0, true };

    enable(r, 0);
    drv_add(&r->dq, 0, &seg, 1);
    assert_fault(r, "no length");
}

static void test_readable_after_writable(void **state)
{
    struct rig *r = *state;
    struct drv_seg segs[] = { { r->data, 1, true }, { r->data, 1, false } };

    enable(r, 0);
    drv_add(&r->dq, 0, segs, 2);
    assert_fault(r, "after a writable");
}

/* A table of `count` descriptors of `len` bytes each at data + 0x1000; descriptor 0 of the queue refers to
 * it. */
static void indirect_table(struct rig *r, unsigned count, uint32_t len, unsigned flags)
{
    struct virtio_desc *t = drv_at(&r->d, r->data + 0x1000, 16u * count);

    for (unsigned i = 0; i < count; i++)
        t[i] = (struct virtio_desc){ .addr = r->data,
                                     .len = len,
                                     .flags = (uint16_t)(flags | (i + 1 < count ? VIRTIO_DESC_NEXT : 0)),
                                     .next = (uint16_t)(i + 1) };
    drv_desc(&r->dq, 0, r->data + 0x1000, 16u * count, VIRTIO_DESC_INDIRECT, 0);
    drv_publish(&r->dq, 0);
}

static void test_indirect(void **state)
{
    struct rig *r = *state;

    enable(r, VIRTIO_F_INDIRECT_DESC);
    indirect_table(r, VIRTQ_CHAIN_MAX, 7, VIRTIO_DESC_WRITE);
    assert_int_equal(take(r), VIRTQ_GOT);
    assert_int_equal(r->chain.in_count, VIRTQ_CHAIN_MAX);
    assert_int_equal(r->chain.in_len, 7 * VIRTQ_CHAIN_MAX);
    virtq_push(&r->q, r->chain.head, 0);
    /* 2.7.5.3.2: direct ones may come before; the WRITE flag of the referring one means nothing */
    drv_desc(&r->dq, 1, r->data, 5, VIRTIO_DESC_NEXT, 2);
    drv_desc(&r->dq, 2, r->data + 0x1000, 16, VIRTIO_DESC_INDIRECT | VIRTIO_DESC_WRITE, 0);
    indirect_table(r, 1, 9, 0);
    assert_int_equal(take(r), VIRTQ_GOT);
    virtq_push(&r->q, r->chain.head, 0);
    drv_publish(&r->dq, 1);
    assert_int_equal(take(r), VIRTQ_GOT);
    assert_int_equal(r->chain.out_len, 14);
    virtq_push(&r->q, r->chain.head, 0);
    /* a table at an odd address is legal */
    struct virtio_desc d = { .addr = r->data, .len = 3 };
    assert_true(gmem_write(r->d.mem, r->data + 0x1001, &d, 16));
    drv_desc(&r->dq, 3, r->data + 0x1001, 16, VIRTIO_DESC_INDIRECT, 0);
    drv_publish(&r->dq, 3);
    assert_int_equal(take(r), VIRTQ_GOT);
    assert_int_equal(r->chain.out_len, 3);
    virtq_push(&r->q, r->chain.head, 0);
}

static void test_indirect_too_long(void **state)
{
    struct rig *r = *state;

    enable(r, VIRTIO_F_INDIRECT_DESC);
    indirect_table(r, VIRTQ_CHAIN_MAX + 1, 7, VIRTIO_DESC_WRITE);
    assert_fault(r, "too long");
}

static void test_indirect_not_negotiated(void **state)
{
    struct rig *r = *state;

    enable(r, 0);
    indirect_table(r, 1, 7, 0);
    assert_fault(r, "without the feature");
}

static void test_indirect_nested(void **state)
{
    struct rig *r = *state;

    enable(r, VIRTIO_F_INDIRECT_DESC);
    indirect_table(r, 2, 16, VIRTIO_DESC_INDIRECT);
    assert_fault(r, "inside an indirect");
}

/* The queue's own table as its indirect table: must not walk for ever. */
static void test_indirect_self(void **state)
{
    struct rig *r = *state;

    enable(r, VIRTIO_F_INDIRECT_DESC);
    drv_desc(&r->dq, 0, r->dq.desc_gpa, 16 * SIZE, VIRTIO_DESC_INDIRECT, 0);
    drv_publish(&r->dq, 0);
    assert_fault(r, "inside an indirect");
}

static void test_indirect_bad(void **state)
{
    struct rig *r = *state;
    const struct {
        uint64_t gpa;
        uint32_t len;
        unsigned flags;
        const char *why;
    } cases[] = {
        { r->data, 0, 0, "bad length" },       { r->data, 8, 0, "bad length" },
        { r->data, 17, 0, "bad length" },      { r->data, 0xfffffff0, 0, "bad length" },
        { DRV_MEM_SIZE, 16, 0, "not in RAM" }, { DRV_MEM_SIZE - 16, 32, 0, "not in RAM" },
        { ~0ull - 15, 32, 0, "not in RAM" },   { r->data, 16, VIRTIO_DESC_NEXT, "not the last" },
    };

    for (unsigned i = 0; i < array_size(cases); i++) {
        virtq_reset(&r->q);
        drv_rings(&r->d, &r->dq, SIZE);
        place(r);
        enable(r, VIRTIO_F_INDIRECT_DESC);
        drv_desc(&r->dq, 0, cases[i].gpa, cases[i].len, VIRTIO_DESC_INDIRECT | cases[i].flags, 1);
        drv_publish(&r->dq, 0);
        assert_fault(r, cases[i].why);
    }
}

/* 256 times the whole RAM is 4 GiB: one byte less is legal. */
static void test_chain_4g(void **state)
{
    struct rig *r = *state;
    struct virtio_desc *t = drv_at(&r->d, r->data + 0x1000, 16 * 256);

    enable(r, VIRTIO_F_INDIRECT_DESC);
    for (unsigned i = 0; i < 256; i++)
        t[i] = (struct virtio_desc){ .len = DRV_MEM_SIZE,
                                     .flags = i < 255 ? VIRTIO_DESC_NEXT : 0,
                                     .next = (uint16_t)(i + 1) };
    t[255].len--;
    drv_desc(&r->dq, 0, r->data + 0x1000, 16 * 256, VIRTIO_DESC_INDIRECT, 0);
    drv_publish(&r->dq, 0);
    assert_int_equal(take(r), VIRTQ_GOT);
    assert_int_equal(r->chain.out_len, UINT32_MAX);
    virtq_push(&r->q, r->chain.head, 0);
    t[255].len++;
    drv_publish(&r->dq, 0);
    assert_fault(r, "4 GiB");
}

static void test_kick_flag(void **state)
{
    struct rig *r = *state;
    struct drv_seg seg = { r->data, 10, true };

    enable(r, 0);
    assert_true(drv_kick_wanted(&r->dq, 0));
    virtq_kicks_off(&r->q);
    assert_false(drv_kick_wanted(&r->dq, 0));
    assert_false(virtq_kicks_on(&r->q));
    assert_true(drv_kick_wanted(&r->dq, 0));
    virtq_kicks_off(&r->q);
    drv_add(&r->dq, 0, &seg, 1);
    assert_true(virtq_kicks_on(&r->q)); /* came in meanwhile */
}

static void test_kick_event(void **state)
{
    struct rig *r = *state;
    struct drv_seg seg = { r->data, 10, true };

    enable(r, VIRTIO_F_EVENT_IDX);
    drv_add(&r->dq, 0, &seg, 1);
    assert_true(drv_kick_wanted(&r->dq, 0));
    assert_int_equal(take(r), VIRTQ_GOT);
    virtq_kicks_off(&r->q);
    drv_add(&r->dq, 1, &seg, 1);
    assert_false(drv_kick_wanted(&r->dq, 1)); /* the event index is behind */
    assert_true(virtq_kicks_on(&r->q));
    assert_int_equal(take(r), VIRTQ_GOT);
    assert_false(virtq_kicks_on(&r->q));
    drv_add(&r->dq, 2, &seg, 1);
    assert_true(drv_kick_wanted(&r->dq, 2));
}

static void test_interrupt_flag(void **state)
{
    struct rig *r = *state;
    struct drv_seg seg = { r->data, 10, true };
    uint16_t *avail = drv_at(&r->d, r->dq.avail_gpa, 4);

    enable(r, 0);
    drv_add(&r->dq, 0, &seg, 1);
    assert_int_equal(take(r), VIRTQ_GOT);
    virtq_push(&r->q, 0, 0);
    assert_true(virtq_wants_interrupt(&r->q));
    avail[0] = VIRTIO_AVAIL_NO_INTERRUPT;
    assert_false(virtq_wants_interrupt(&r->q));
}

static void test_interrupt_event(void **state)
{
    struct rig *r = *state;
    struct drv_seg seg = { r->data, 10, true };
    uint16_t *event = drv_at(&r->d, r->dq.avail_gpa + 4 + 2 * SIZE, 2);

    enable(r, VIRTIO_F_EVENT_IDX);
    for (unsigned i = 0; i < 6; i++) {
        drv_add(&r->dq, i, &seg, 1);
        assert_int_equal(take(r), VIRTQ_GOT);
    }
    *event = 3; /* tell me when index 4 is reached */
    virtq_push(&r->q, 0, 0);
    assert_true(virtq_wants_interrupt(&r->q)); /* the first time nothing is known yet */
    virtq_push(&r->q, 1, 0);
    assert_false(virtq_wants_interrupt(&r->q));
    virtq_push(&r->q, 2, 0);
    assert_false(virtq_wants_interrupt(&r->q));
    virtq_push(&r->q, 3, 0);
    assert_true(virtq_wants_interrupt(&r->q));
    virtq_push(&r->q, 4, 0);
    assert_false(virtq_wants_interrupt(&r->q));
    *event = 5;
    virtq_push(&r->q, 5, 0);
    assert_true(virtq_wants_interrupt(&r->q));
}

static void test_segs_copy(void **state)
{
    struct rig *r = *state;
    struct drv_seg segs[] = { { r->data, 3, true }, { r->data + 100, 1, true }, { r->data + 200, 4, true } };
    char buf[16] = { 0 };

    enable(r, 0);
    drv_add(&r->dq, 0, segs, 3);
    assert_int_equal(take(r), VIRTQ_GOT);
    assert_int_equal(virtq_segs_write(r->d.mem, r->segs, 3, 2, "xyz12345", 8), 6);
    assert_memory_equal(drv_at(&r->d, r->data, 3), "\0\0x", 3);
    assert_memory_equal(drv_at(&r->d, r->data + 100, 2), "y\0", 2);
    assert_memory_equal(drv_at(&r->d, r->data + 200, 5), "z123\0", 5);
    assert_int_equal(virtq_segs_read(r->segs, 3, 3, buf, sizeof(buf)), 5);
    assert_memory_equal(buf, "yz123", 6);
    assert_int_equal(virtq_segs_read(r->segs, 3, 8, buf, sizeof(buf)), 0);
    assert_int_equal(virtq_segs_read(r->segs, 3, UINT64_MAX, buf, sizeof(buf)), 0);
    virtq_drop(&r->q, 0);
}

#define T(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(round_trip),
        T(out_of_order),
        T(enable),
        T(loop),
        T(next_past_table),
        T(head_past_table),
        T(head_twice),
        T(avail_jump),
        T(avail_back),
        T(segment_outside),
        T(empty_segment),
        T(readable_after_writable),
        T(indirect),
        T(indirect_too_long),
        T(indirect_not_negotiated),
        T(indirect_nested),
        T(indirect_self),
        T(indirect_bad),
        T(chain_4g),
        T(kick_flag),
        T(kick_event),
        T(interrupt_flag),
        T(interrupt_event),
        T(segs_copy),
    };

    return cmocka_run_group_tests_name("virtio queue", tests, NULL, NULL);
}
