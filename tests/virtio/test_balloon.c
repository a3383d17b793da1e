/* virtio-balloon: pages that go to the host and come back, reports, the target, and drivers that break rules.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "driver.h"
#include "virtio/balloon.h"

#define F_DEFLATE_ON_OOM (1ull << 2)
#define F_PAGE_POISON (1ull << 4)
#define F_REPORTING (1ull << 5)
#define ALL (F_DEFLATE_ON_OOM | F_PAGE_POISON | F_REPORTING)
#define PAGES MIB(4) /* guest memory that is touched and given up begins here */

enum { INFLATE, DEFLATE, REPORT = 4, REPORT_OLD = 2 };
enum { NUM_PAGES = 0, ACTUAL = 4, HINT = 8, POISON = 12 };

struct rig {
    struct drv d;
    struct vballoon *b;
    uint64_t list;
    unsigned written; /* calls of the write hook */
    uint64_t written_len;
};

static void on_written(void *ctx, uint64_t gpa, uint64_t len)
{
    struct rig *r = ctx;

    if (gpa >= PAGES) {
        r->written++;
        r->written_len += len;
    }
}

static void open_rig(struct rig *r, uint64_t features)
{
    struct yado_error err = YADO_ERROR_INIT;

    memset(r, 0, sizeof(*r));
    drv_init(&r->d);
    r->b = vballoon_new(&(struct vballoon_config){ .log = &r->d.log }, &err);
    assert_non_null(r->b);
    drv_attach(&r->d, vballoon_vdev(r->b));
    gmem_set_write_hook(r->d.mem, on_written, r);
    r->list = drv_alloc(&r->d, 0x8000);
    drv_start(&r->d, features, 0);
    memset(drv_at(&r->d, PAGES, MIB(4)), 0x55, MIB(4));
}

static void close_rig(struct rig *r)
{
    vballoon_free(r->b);
    drv_free(&r->d);
}

static unsigned resident(struct rig *r, uint64_t gpa, uint64_t len)
{
    unsigned char pages[MIB(4) / 4096];
    unsigned n = 0;

    assert_true(len <= MIB(4));
    assert_int_equal(mincore(drv_at(&r->d, gpa, len), len, pages), 0);
    for (uint64_t i = 0; i < len / 4096; i++)
        n += pages[i] & 1;
    return n;
}

/* Sends page numbers; true if they came back. */
static bool send_list(struct rig *r, unsigned queue, const uint32_t *pfns, uint32_t bytes)
{
    struct drv_seg seg = { r->list, bytes, false };
    uint32_t id, len;

    memcpy(drv_at(&r->d, r->list, bytes), pfns, bytes);
    drv_add(&r->d.queues[queue], 0, &seg, 1);
    vdev_kick(r->d.vd, queue);
    if (!drv_used(&r->d.queues[queue], &id, &len))
        return false;
    assert_int_equal(len, 0);
    return true;
}

static bool is_broken(struct rig *r)
{
    return (drv_status(&r->d) & VIRTIO_STATUS_NEEDS_RESET) != 0;
}

static uint32_t config_get(struct rig *r, unsigned off)
{
    uint32_t v;

    vdev_lock(r->d.vd);
    v = vdev_config_read(r->d.vd, off, 4);
    vdev_unlock(r->d.vd);
    return v;
}

static void config_put(struct rig *r, unsigned off, unsigned width, uint32_t value)
{
    vdev_lock(r->d.vd);
    vdev_config_write(r->d.vd, off, width, value);
    vdev_unlock(r->d.vd);
}

static void inflate_and_deflate(void **state)
{
    struct rig r;
    const uint32_t first = PAGES >> 12;
    /* A rising run, a falling run, one alone, one twice. */
    uint32_t pfns[] = { first,      first + 1,  first + 2,  first + 20, first + 19,
                        first + 18, first + 40, first + 60, first + 60 };
    struct vballoon_facts f;

    (void)state;
    open_rig(&r, ALL);
    assert_int_equal(resident(&r, PAGES, MIB(1)), 256);
    assert_true(send_list(&r, INFLATE, pfns, sizeof(pfns)));
    assert_int_equal(r.d.queue_interrupts[INFLATE], 1);
    assert_int_equal(resident(&r, PAGES, MIB(1)), 256 - 8);
    for (unsigned i = 0; i < array_size(pfns); i++)
        assert_int_equal(resident(&r, (uint64_t)pfns[i] << 12, 4096), 0);
    /* To the engine each run is one write. */
    assert_int_equal(r.written, 5);
    assert_int_equal(r.written_len, 9 * 4096);
    assert_int_equal(*(uint8_t *)drv_at(&r.d, PAGES + 3 * 4096 - 1, 1), 0);
    assert_int_equal(*(uint8_t *)drv_at(&r.d, PAGES + 3 * 4096, 1), 0x55);
    assert_int_equal(*(uint8_t *)drv_at(&r.d, PAGES + 17 * 4096 + 4095, 1), 0x55);

    assert_true(send_list(&r, DEFLATE, pfns, sizeof(pfns)));
    assert_int_equal(r.written, 5);
    f = vballoon_facts_get(r.b);
    assert_int_equal(f.inflated, 9 * 4096);
    assert_int_equal(f.deflated, 9 * 4096);
    assert_int_equal(f.reported, 0);
    assert_false(is_broken(&r));
    close_rig(&r);
}

/* A list in several pieces that cut page numbers apart is a list all the same. */
static void list_in_pieces(void **state)
{
    struct rig r;
    uint32_t pfns[2] = { PAGES >> 12, (PAGES >> 12) + 9 }, id, len;

    (void)state;
    open_rig(&r, ALL);
    memcpy(drv_at(&r.d, r.list, 8), pfns, 8);
    struct drv_seg segs[] = { { r.list, 3, false }, { r.list + 3, 4, false }, { r.list + 7, 1, false } };
    drv_add(&r.d.queues[INFLATE], 0, segs, 3);
    vdev_kick(r.d.vd, INFLATE);
    assert_true(drv_used(&r.d.queues[INFLATE], &id, &len));
    assert_int_equal(resident(&r, PAGES, MIB(1)), 254);
    close_rig(&r);
}

/* Reports on the queue that the specification names and on the one that older Linux kernels use. */
static void reports(void **state)
{
    struct rig r;
    uint32_t id, len;

    (void)state;
    open_rig(&r, ALL);
    for (unsigned i = 0; i < 2; i++) {
        unsigned queue = i ? REPORT_OLD : REPORT;
        uint64_t at = PAGES + i * MIB(2);
        struct drv_seg segs[] = { { at, MIB(1), true }, { at + MIB(1) + 4096, 8192, true } };

        drv_add(&r.d.queues[queue], 0, segs, 2);
        vdev_kick(r.d.vd, queue);
        assert_true(drv_used(&r.d.queues[queue], &id, &len));
        assert_int_equal(len, 0);
        assert_int_equal(resident(&r, at, MIB(2)), 512 - 256 - 2);
        assert_int_equal(r.d.queue_interrupts[queue], 1);
    }
    assert_int_equal(r.written_len, 2 * (MIB(1) + 8192));
    assert_int_equal(vballoon_facts_get(r.b).reported, 2 * (MIB(1) + 8192));
    close_rig(&r);
}

/* A guest that fills free pages with zeros may have them zero; with any other pattern it keeps its pages. */
static void poison(void **state)
{
    struct rig r;
    uint32_t id, len;

    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        struct drv_seg seg = { PAGES, MIB(1), true };

        open_rig(&r, i == 2 ? F_REPORTING : ALL);
        config_put(&r, POISON, 4, i ? 0xaaaaaaaa : 0);
        drv_add(&r.d.queues[REPORT], 0, &seg, 1);
        vdev_kick(r.d.vd, REPORT);
        assert_true(drv_used(&r.d.queues[REPORT], &id, &len));
        assert_int_equal(resident(&r, PAGES, MIB(1)), i == 1 ? 256 : 0); /* 2: not agreed on, so no pattern */
        close_rig(&r);
    }
}

static void target_is_told(void **state)
{
    struct rig r;

    (void)state;
    open_rig(&r, ALL);
    assert_int_equal(config_get(&r, NUM_PAGES), 0);
    assert_int_equal(config_get(&r, HINT), 0);
    vballoon_set_target(r.b, 1000);
    assert_int_equal(config_get(&r, NUM_PAGES), 1000);
    assert_int_equal(r.d.config_interrupts, 1);
    vballoon_set_target(r.b, 1000);
    assert_int_equal(r.d.config_interrupts, 1);
    /* The driver's own fields, whole and in pieces; not those of the device. */
    config_put(&r, ACTUAL, 4, 0x11223344);
    config_put(&r, ACTUAL + 1, 1, 0xff);
    config_put(&r, ACTUAL + 2, 2, 0xabcd);
    config_put(&r, NUM_PAGES, 4, 7);
    config_put(&r, HINT, 4, 7);
    config_put(&r, 16, 4, 7);
    assert_int_equal(config_get(&r, ACTUAL), 0xabcdff44);
    assert_int_equal(vballoon_facts_get(r.b).actual, 0xabcdff44);
    assert_int_equal(config_get(&r, NUM_PAGES), 1000);
    assert_int_equal(config_get(&r, HINT), 0);
    assert_int_equal(config_get(&r, POISON), 0);
    /* A reboot: the target stays. */
    drv_reset(&r.d);
    assert_int_equal(config_get(&r, ACTUAL), 0);
    assert_int_equal(vballoon_facts_get(r.b).target, 1000);
    vballoon_set_target(r.b, 5); /* nobody to tell */
    assert_int_equal(r.d.config_interrupts, 1);
    close_rig(&r);
}

struct bad {
    const char *name, *says;
    unsigned queue;
    uint64_t features;
    struct drv_seg segs[3];
    unsigned count;
    uint32_t word; /* the first page number */
};

static void broken_rules(void **state)
{
    const uint32_t ram_end = DRV_MEM_SIZE >> 12;
    const struct bad cases[] = {
        { "page behind RAM", "not RAM", INFLATE, ALL, { { 0, 4, false } }, 1, ram_end },
        { "last page number", "not RAM", INFLATE, ALL, { { 0, 4, false } }, 1, UINT32_MAX },
        { "deflated page behind RAM", "not RAM", DEFLATE, ALL, { { 0, 4, false } }, 1, ram_end },
        { "half a page number", "whole page numbers", INFLATE, ALL, { { 0, 6, false } }, 1, 1 },
        { "list too long", "more than", INFLATE, ALL, { { 0, 4 * 4097, false } }, 1, 1 },
        { "list to be written", "shall write", INFLATE, ALL, { { 0, 4, true } }, 1, 1 },
        { "list with an end to be written",
          "shall write",
          DEFLATE,
          ALL,
          { { 0, 4, false }, { 0, 4, true } },
          2,
          1 },
        { "report to be read", "shall read", REPORT, ALL, { { 0, 4096, false } }, 1, 0 },
        { "report with a head to be read",
          "shall read",
          REPORT_OLD,
          ALL,
          { { 0, 4, false }, { 0, 4096, true } },
          2,
          0 },
        { "report not agreed on", "not agreed", REPORT, 0, { { 0, 4096, true } }, 1, 0 },
        { "report not agreed on, old queue", "not agreed", REPORT_OLD, 0, { { 0, 4096, true } }, 1, 0 },
        { "report behind RAM", "", REPORT, ALL, { { DRV_MEM_SIZE - 4096, 8192, true } }, 1, 0 },
    };

    (void)state;
    for (size_t i = 0; i < array_size(cases); i++) {
        const struct bad *c = &cases[i];
        struct drv_seg segs[3];
        uint32_t pfn = PAGES >> 12, id, len;
        struct rig r;

        open_rig(&r, c->features);
        for (unsigned j = 0; j < c->count; j++) {
            segs[j] = c->segs[j];
            segs[j].gpa = segs[j].gpa ? segs[j].gpa : r.list;
        }
        memcpy(drv_at(&r.d, r.list, 4), &c->word, 4);
        drv_add(&r.d.queues[c->queue], 0, segs, c->count);
        vdev_kick(r.d.vd, c->queue);
        if (!is_broken(&r) || !strstr(r.d.fault, c->says))
            fail_msg("%s: \"%s\"", c->name, r.d.fault);
        assert_false(drv_used(&r.d.queues[c->queue], &id, &len));
        assert_int_equal(r.written, 0);
        /* Nothing more is done until the reset; after it all is well. */
        assert_false(send_list(&r, INFLATE, &pfn, 4));
        assert_int_equal(resident(&r, PAGES, MIB(4)), 1024);
        drv_reset(&r.d);
        r.d.next_gpa = r.list + 0x8000;
        drv_start(&r.d, ALL, 0);
        assert_true(send_list(&r, INFLATE, &pfn, 4));
        assert_int_equal(resident(&r, PAGES, MIB(4)), 1023);
        close_rig(&r);
    }
}

/* A list is checked whole before anything is given back. */
static void bad_list_gives_nothing_back(void **state)
{
    const uint32_t pfns[] = { PAGES >> 12, DRV_MEM_SIZE >> 12 };
    struct rig r;

    (void)state;
    open_rig(&r, ALL);
    assert_false(send_list(&r, INFLATE, pfns, sizeof(pfns)));
    assert_true(is_broken(&r));
    assert_int_equal(resident(&r, PAGES, MIB(4)), 1024);
    close_rig(&r);
}

static void longest_list(void **state)
{
    uint32_t pfns[4096];
    struct rig r;

    (void)state;
    open_rig(&r, ALL);
    for (unsigned i = 0; i < 4096; i++)
        pfns[i] = (PAGES >> 12) + (i * 7 & 1023);
    assert_true(send_list(&r, INFLATE, pfns, sizeof(pfns)));
    assert_int_equal(resident(&r, PAGES, MIB(4)), 0);
    close_rig(&r);
}

/* The device may give up the very memory that its rings and lists are in: strange, and the guest's loss. */
static void rings_given_up(void **state)
{
    struct rig r;
    uint32_t id, len;

    (void)state;
    open_rig(&r, ALL);
    struct drv_seg seg = { 0, MIB(1), true };
    drv_add(&r.d.queues[REPORT], 0, &seg, 1);
    vdev_kick(r.d.vd, REPORT);
    drv_used(&r.d.queues[REPORT], &id, &len);
    vdev_kick(r.d.vd, INFLATE);
    drv_reset(&r.d);
    r.d.next_gpa = r.list + 0x8000;
    drv_start(&r.d, ALL, 0);
    uint32_t pfn = PAGES >> 12;
    assert_true(send_list(&r, INFLATE, &pfn, 4));
    close_rig(&r);
}

struct teller {
    struct rig *r;
    _Atomic bool stop;
};

static void *tell(void *ctx)
{
    struct teller *t = ctx;

    for (uint32_t i = 0; !atomic_load(&t->stop); i++) {
        vballoon_set_target(t->r->b, i);
        vballoon_facts_get(t->r->b);
    }
    return NULL;
}

/* The target is set, and the device reset, while the driver works. */
static void target_from_another_thread(void **state)
{
    struct rig r;
    struct teller t = { .r = &r };
    pthread_t thread;

    (void)state;
    open_rig(&r, ALL);
    assert_int_equal(pthread_create(&thread, NULL, tell, &t), 0);
    for (unsigned i = 0; i < 200; i++) {
        uint32_t pfn = (uint32_t)(PAGES >> 12) + i;

        assert_true(send_list(&r, INFLATE, &pfn, 4));
        config_put(&r, ACTUAL, 4, i);
        if (i % 50 == 49) {
            drv_reset(&r.d);
            r.d.next_gpa = r.list + 0x8000;
            drv_start(&r.d, ALL, 0);
        }
    }
    atomic_store(&t.stop, true);
    pthread_join(thread, NULL);
    assert_int_equal(vballoon_facts_get(r.b).inflated, 200 * 4096);
    close_rig(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(inflate_and_deflate),
        cmocka_unit_test(list_in_pieces),
        cmocka_unit_test(reports),
        cmocka_unit_test(poison),
        cmocka_unit_test(target_is_told),
        cmocka_unit_test(broken_rules),
        cmocka_unit_test(bad_list_gives_nothing_back),
        cmocka_unit_test(longest_list),
        cmocka_unit_test(rings_given_up),
        cmocka_unit_test(target_from_another_thread),
    };

    return cmocka_run_group_tests_name("virtio balloon", tests, NULL, NULL);
}
