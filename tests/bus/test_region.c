/* Address spaces: splitting and joining of widths against a plain byte model, overlap, changes while others
 * read. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "bus/region.h"

#define CELL_SIZE 32

/* A region of plain bytes that checks what the bus promised it. */
struct cells {
    struct region region;
    const struct region_ops *ops;
    uint8_t bytes[CELL_SIZE];
    unsigned reads, writes, violations;
    uint64_t last_off;
    unsigned last_width;
};

static void cells_check(struct cells *c, uint64_t off, unsigned width)
{
    if (width < c->ops->min_width || width > c->ops->max_width || off % width || off + width > c->region.len)
        c->violations++;
    c->last_off = off;
    c->last_width = width;
}

static uint64_t cells_read(void *ctx, uint64_t off, unsigned width)
{
    struct cells *c = ctx;
    uint64_t value = UINT64_MAX; /* rubbish above the width, which the bus drops */

    cells_check(c, off, width);
    c->reads++;
    memcpy(&value, c->bytes + off, width);
    return value;
}

static void cells_write(void *ctx, uint64_t off, unsigned width, uint64_t value)
{
    struct cells *c = ctx;

    cells_check(c, off, width);
    if (width < 8 && value >> 8 * width)
        c->violations++;
    c->writes++;
    memcpy(c->bytes + off, &value, width);
}

static const struct region_ops cells_1_1 = { "bytes", 1, 1, cells_read, cells_write };
static const struct region_ops cells_1_8 = { "any", 1, 8, cells_read, cells_write };
static const struct region_ops cells_4_4 = { "dwords", 4, 4, cells_read, cells_write };
static const struct region_ops cells_2_4 = { "words", 2, 4, cells_read, cells_write };
static const struct region_ops cells_8_8 = { "qwords", 8, 8, cells_read, cells_write };

static void cells_map(struct bus *bus, struct cells *c, const struct region_ops *ops, uint64_t base,
                      uint64_t len)
{
    struct yado_error err = YADO_ERROR_INIT;

    memset(c, 0, sizeof(*c));
    c->ops = ops;
    c->region = (struct region){ .ops = ops, .ctx = c };
    if (!region_map(bus, &c->region, base, len, &err))
        fail_msg("%s", err.message);
}

static void hole_reads_as_ones(void **state)
{
    struct bus *bus = bus_new("test");
    uint64_t v = 0;

    (void)state;
    assert_false(bus_read(bus, 0, 1, &v));
    assert_int_equal(v, 0xff);
    assert_false(bus_read(bus, 0x1234, 4, &v));
    assert_int_equal(v, 0xffffffff);
    assert_false(bus_read(bus, UINT64_MAX, 8, &v));
    assert_true(v == UINT64_MAX);
    assert_false(bus_read(bus, UINT64_MAX - 7, 8, &v));
    assert_true(v == UINT64_MAX);
    assert_false(bus_write(bus, 0x1234, 8, 1));
    assert_false(bus_write(bus, UINT64_MAX - 2, 8, 1));
    bus_free(bus);
    bus_free(NULL);
}

static void usual_access_is_one_call(void **state)
{
    struct bus *bus = bus_new("test");
    struct cells c;
    uint64_t v;

    (void)state;
    cells_map(bus, &c, &cells_1_8, 0x1000, CELL_SIZE);
    assert_true(bus_write(bus, 0x1008, 8, 0x1122334455667788));
    assert_int_equal(c.writes, 1);
    assert_true(bus_read(bus, 0x100c, 4, &v));
    assert_int_equal(c.reads, 1);
    assert_int_equal(c.last_off, 12);
    assert_int_equal(c.last_width, 4);
    assert_int_equal(v, 0x11223344);
    bus_free(bus);
    assert_false(c.region.mapped);
}

static void null_callbacks_are_dead_cells(void **state)
{
    static const struct region_ops none = { "none", 1, 4, NULL, NULL };
    struct bus *bus = bus_new("test");
    struct region r = { .ops = &none };
    uint64_t v;

    (void)state;
    assert_true(region_map(bus, &r, 0x60, 4, NULL));
    assert_true(bus_read(bus, 0x60, 2, &v));
    assert_int_equal(v, 0xffff);
    assert_true(bus_write(bus, 0x60, 4, 0));
    bus_free(bus);
}

static void region_may_end_at_the_top(void **state)
{
    struct bus *bus = bus_new("test");
    struct cells c, port;
    uint64_t v;

    (void)state;
    cells_map(bus, &c, &cells_1_8, UINT64_MAX - 7, 8);
    cells_map(bus, &port, &cells_1_1, 0, 1);
    assert_true(bus_write(bus, UINT64_MAX - 7, 8, 0x8877665544332211));
    assert_true(bus_read(bus, UINT64_MAX - 1, 8, &v)); /* does not wrap to address 0 */
    assert_true(v == 0xffffffffffff8877);
    assert_int_equal(port.reads, 0);
    assert_false(region_map(bus, &(struct region){ .ops = &cells_1_1 }, UINT64_MAX - 100, 200, NULL));
    bus_free(bus);
}

static void overlap_is_refused(void **state)
{
    static const uint64_t bases[] = { 0x100, 0xf0, 0x11f, 0xe1, 0x110 };
    struct bus *bus = bus_new("test");
    struct yado_error err;
    struct cells a, b, c;

    (void)state;
    cells_map(bus, &a, &cells_1_1, 0x100, 0x20);
    for (size_t i = 0; i < array_size(bases); i++) {
        struct region r = { .ops = &cells_1_1, .ctx = &a };

        err = (struct yado_error)YADO_ERROR_INIT;
        assert_false(region_map(bus, &r, bases[i], 0x20, &err));
        assert_non_null(strstr(err.message, "overlaps"));
        assert_false(r.mapped);
    }
    cells_map(bus, &b, &cells_1_1, 0xe0, 0x20);
    cells_map(bus, &c, &cells_1_1, 0x120, 0x20);
    err = (struct yado_error)YADO_ERROR_INIT;
    assert_false(region_map(bus, &c.region, 0x1000, 0x20, &err));
    assert_non_null(strstr(err.message, "mapped already"));
    assert_false(region_map(bus, &(struct region){ .ops = &cells_1_1 }, 0x5000, 0, NULL));
    region_unmap(bus, &a.region);
    region_unmap(bus, &a.region);
    assert_true(region_map(bus, &a.region, 0x108, 0x18, NULL));
    bus_free(bus);
}

static void note_base(void *ctx, const struct region *r)
{
    uint64_t **next = ctx;

    *(*next)++ = r->base;
}

static void listing_is_in_address_order(void **state)
{
    struct bus *bus = bus_new("test");
    struct cells c[4];
    uint64_t bases[4], *next = bases;

    (void)state;
    cells_map(bus, &c[0], &cells_1_1, 0x300, 0x10);
    cells_map(bus, &c[1], &cells_1_1, 0x100, 0x10);
    cells_map(bus, &c[2], &cells_1_1, 0x200, 0x10);
    cells_map(bus, &c[3], &cells_1_1, 0x400, 0x10);
    region_unmap(bus, &c[2].region);
    bus_each(bus, note_base, &next);
    assert_int_equal(next - bases, 3);
    assert_int_equal(bases[0], 0x100);
    assert_int_equal(bases[1], 0x300);
    assert_int_equal(bases[2], 0x400);
    bus_free(bus);
}

/* Byte i of the model's address space: a cell, or a hole. */
static uint8_t *model_byte(struct cells *cells, size_t count, uint64_t addr)
{
    for (size_t i = 0; i < count; i++)
        if (addr - cells[i].region.base < cells[i].region.len && addr >= cells[i].region.base)
            return &cells[i].bytes[addr - cells[i].region.base];
    return NULL;
}

static void any_access_equals_its_bytes(void **state)
{
    struct bus *bus = bus_new("test");
    struct cells cells[6];
    unsigned seed = 20240611;

    (void)state;
    cells_map(bus, &cells[0], &cells_1_1, 0x11, 5);
    cells_map(bus, &cells[1], &cells_1_8, 0x16, 17); /* touches the one before, odd base and length */
    cells_map(bus, &cells[2], &cells_4_4, 0x30, 16);
    cells_map(bus, &cells[3], &cells_2_4, 0x40, 6); /* touches */
    cells_map(bus, &cells[4], &cells_8_8, 0x49, 24);
    cells_map(bus, &cells[5], &cells_1_8, 0x80, 1);
    for (unsigned n = 0; n < 200000; n++) {
        const unsigned width = 1u << rand_r(&seed) % 4;
        const uint64_t addr = (uint64_t)(rand_r(&seed) % 0x90);
        uint64_t value =
            (uint64_t)rand_r(&seed) << 40 ^ (uint64_t)rand_r(&seed) << 16 ^ (uint64_t)rand_r(&seed);
        bool is_claimed = false;

        if (rand_r(&seed) % 2) {
            uint8_t want[sizeof(cells) / sizeof(cells[0])][CELL_SIZE];

            for (unsigned i = 0; i < width; i++)
                is_claimed |= model_byte(cells, array_size(cells), addr + i) != NULL;
            for (size_t i = 0; i < array_size(cells); i++)
                memcpy(want[i], cells[i].bytes, CELL_SIZE);
            for (unsigned i = 0; i < width; i++) {
                uint8_t *at = model_byte(cells, array_size(cells), addr + i);

                for (size_t k = 0; at && k < array_size(cells); k++)
                    if (at >= cells[k].bytes && at < cells[k].bytes + CELL_SIZE)
                        want[k][at - cells[k].bytes] = (uint8_t)(value >> 8 * i);
            }
            assert_int_equal(bus_write(bus, addr, width, value), is_claimed);
            for (size_t i = 0; i < array_size(cells); i++)
                assert_memory_equal(cells[i].bytes, want[i], CELL_SIZE);
        } else {
            uint64_t want = 0;

            for (unsigned i = 0; i < width; i++) {
                const uint8_t *at = model_byte(cells, array_size(cells), addr + i);

                is_claimed |= at != NULL;
                want |= (uint64_t)(at ? *at : 0xff) << 8 * i;
            }
            assert_int_equal(bus_read(bus, addr, width, &value), is_claimed);
            assert_true(value == want);
        }
    }
    for (size_t i = 0; i < array_size(cells); i++)
        assert_int_equal(cells[i].violations, 0);
    bus_free(bus);
}

/* ---- changes while others read ---- */

struct hammer {
    struct bus *bus;
    struct region moving;
    atomic_bool stop, is_valid;
    atomic_uint in_callback, late_calls;
    atomic_ulong hits;
};

static uint64_t moving_read(void *ctx, uint64_t off, unsigned width)
{
    struct hammer *h = ctx;

    atomic_fetch_add(&h->in_callback, 1);
    if (!atomic_load(&h->is_valid))
        atomic_fetch_add(&h->late_calls, 1);
    atomic_fetch_sub(&h->in_callback, 1);
    return off + width;
}

static const struct region_ops moving_ops = { "moving", 1, 8, moving_read, NULL };

static void *hammer_main(void *arg)
{
    struct hammer *h = arg;
    uint64_t v;

    while (!atomic_load(&h->stop))
        for (uint64_t addr = 0x1000; addr < 0x1000 + 64 * 16; addr += 16)
            if (bus_read(h->bus, addr, 8, &v) && v == 8)
                atomic_fetch_add(&h->hits, 1);
    return NULL;
}

/* After region_unmap no callback runs: the flag that the callback looks at is withdrawn at once. */
static void unmap_waits_for_callbacks(void **state)
{
    struct hammer h = { .bus = bus_new("test") };
    struct cells fixed;
    pthread_t threads[3];
    unsigned rounds;

    (void)state;
    h.moving = (struct region){ .ops = &moving_ops, .ctx = &h };
    cells_map(h.bus, &fixed, &cells_1_8, 0x2000, 16);
    for (size_t i = 0; i < array_size(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, hammer_main, &h), 0);
    for (rounds = 0; rounds < 2000 || (atomic_load(&h.hits) < 1000 && rounds < 200000); rounds++) {
        atomic_store(&h.is_valid, true);
        assert_true(region_map(h.bus, &h.moving, 0x1000 + rounds % 64 * 16, 16, NULL));
        region_unmap(h.bus, &h.moving);
        atomic_store(&h.is_valid, false);
        assert_int_equal(atomic_load(&h.in_callback), 0);
    }
    atomic_store(&h.stop, true);
    for (size_t i = 0; i < array_size(threads); i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(atomic_load(&h.late_calls), 0);
    assert_true(atomic_load(&h.hits) > 0);
    bus_free(h.bus);
}

struct slow_scene {
    struct bus *bus;
    struct region region;
    atomic_bool is_entered, may_leave, has_left;
};

static uint64_t slow_read(void *ctx, uint64_t off, unsigned width)
{
    struct slow_scene *s = ctx;

    (void)width;
    atomic_store(&s->is_entered, true);
    while (!atomic_load(&s->may_leave))
        usleep(1000);
    usleep(50000); /* time for a wrong unmap to return */
    atomic_store(&s->has_left, true);
    return off;
}

static void *slow_thread(void *arg)
{
    struct slow_scene *s = arg;
    uint64_t v;

    bus_read(s->bus, 0x100, 4, &v);
    return NULL;
}

static void unmap_waits_for_a_long_callback(void **state)
{
    static const struct region_ops slow_ops = { "slow", 1, 8, slow_read, NULL };
    struct slow_scene s = { .bus = bus_new("test") };
    pthread_t thread;

    (void)state;
    s.region = (struct region){ .ops = &slow_ops, .ctx = &s };
    assert_true(region_map(s.bus, &s.region, 0x100, 16, NULL));
    assert_int_equal(pthread_create(&thread, NULL, slow_thread, &s), 0);
    while (!atomic_load(&s.is_entered))
        usleep(1000);
    atomic_store(&s.may_leave, true);
    region_unmap(s.bus, &s.region);
    assert_true(atomic_load(&s.has_left));
    pthread_join(thread, NULL);
    bus_free(s.bus);
}

/* Two vCPUs: one sits in the BAR's callback and waits for the device lock, the other holds that lock inside a
 * configuration write on another bus and unmaps the BAR. Nobody may wait for ever. */
struct bar_scene {
    struct bus *ports, *mem;
    struct region config, bar;
    pthread_mutex_t lock;
    atomic_bool bar_entered, config_entered;
    atomic_uint finished;
};

static void bar_write(void *ctx, uint64_t off, unsigned width, uint64_t value)
{
    struct bar_scene *s = ctx;

    (void)off;
    (void)width;
    (void)value;
    while (!atomic_load(&s->config_entered)) {
    }
    atomic_store(&s->bar_entered, true);
    pthread_mutex_lock(&s->lock);
    pthread_mutex_unlock(&s->lock);
    atomic_fetch_add(&s->finished, 1);
}

static void config_write(void *ctx, uint64_t off, unsigned width, uint64_t value)
{
    struct bar_scene *s = ctx;

    (void)off;
    (void)width;
    pthread_mutex_lock(&s->lock);
    atomic_store(&s->config_entered, true);
    while (!atomic_load(&s->bar_entered)) {
    }
    region_unmap(s->mem, &s->bar);
    /* And back at another place, with the old callback still out. */
    if (region_map(s->mem, &s->bar, value, 16, NULL))
        atomic_fetch_add(&s->finished, 1);
    pthread_mutex_unlock(&s->lock);
}

static void *bar_thread(void *arg)
{
    struct bar_scene *s = arg;

    bus_write(s->mem, 0x8000, 4, 1);
    return NULL;
}

static void unmap_in_a_callback_does_not_wait(void **state)
{
    static const struct region_ops bar_ops = { "bar", 1, 4, NULL, bar_write };
    static const struct region_ops config_ops = { "config", 1, 4, NULL, config_write };
    struct bar_scene s = { .ports = bus_new("port"),
                           .mem = bus_new("memory"),
                           .lock = PTHREAD_MUTEX_INITIALIZER };
    pthread_t thread;

    (void)state;
    s.bar = (struct region){ .ops = &bar_ops, .ctx = &s };
    s.config = (struct region){ .ops = &config_ops, .ctx = &s };
    assert_true(region_map(s.mem, &s.bar, 0x8000, 16, NULL));
    assert_true(region_map(s.ports, &s.config, 0xcfc, 4, NULL));
    assert_int_equal(pthread_create(&thread, NULL, bar_thread, &s), 0);
    assert_true(bus_write(s.ports, 0xcfc, 4, 0x9000));
    pthread_join(thread, NULL);
    assert_int_equal(atomic_load(&s.finished), 2);
    assert_int_equal(s.bar.base, 0x9000);
    assert_false(bus_write(s.mem, 0x8000, 4, 1));
    bus_free(s.ports);
    bus_free(s.mem);
}

/* An engine that takes doorbells, but none at an address that ends in `refuses`. */
struct bell_log {
    uint64_t at[16];
    int fd[16];
    unsigned count, adds, drops;
    uint64_t refuses;
};

static bool bell_add(void *ctx, uint64_t addr, int fd)
{
    struct bell_log *l = ctx;

    l->adds++;
    if (l->refuses && (addr & 0xfff) == l->refuses)
        return false;
    assert_true(l->count < 16);
    l->at[l->count] = addr;
    l->fd[l->count++] = fd;
    return true;
}

static void bell_drop(void *ctx, uint64_t addr, int fd)
{
    struct bell_log *l = ctx;

    l->drops++;
    for (unsigned i = 0; i < l->count; i++) {
        if (l->at[i] != addr || l->fd[i] != fd)
            continue;
        l->at[i] = l->at[--l->count];
        l->fd[i] = l->fd[l->count];
        return;
    }
    fail_msg("no doorbell at %#llx", (unsigned long long)addr);
}

static bool bell_at(const struct bell_log *l, uint64_t addr, int fd)
{
    for (unsigned i = 0; i < l->count; i++) {
        if (l->at[i] == addr && l->fd[i] == fd)
            return true;
    }
    return false;
}

static void doorbells_follow_their_region(void **state)
{
    struct bus *bus = bus_new("test");
    struct doorbell bells[2] = { { .off = 0, .fd = 70 }, { .off = 8, .fd = 71 } };
    struct doorbell others[1] = { { .off = 4, .fd = 72 } };
    struct bell_log log = { .refuses = 0 };
    struct cells c;

    (void)state;
    cells_map(bus, &c, &cells_1_8, 0x1000, 16);
    region_set_doorbells(bus, &c.region, bells, 2);
    bus_set_doorbell_sink(bus, (struct doorbell_sink){ bell_add, bell_drop, &log });
    assert_int_equal(log.count, 2); /* those that were there before the sink */
    assert_true(bell_at(&log, 0x1000, 70) && bell_at(&log, 0x1008, 71));
    region_unmap(bus, &c.region);
    assert_int_equal(log.count, 0);
    assert_true(region_map(bus, &c.region, 0x5000, 16, NULL));
    assert_true(bell_at(&log, 0x5000, 70) && bell_at(&log, 0x5008, 71));
    region_set_doorbells(bus, &c.region, others, 1);
    assert_int_equal(log.count, 1);
    assert_true(bell_at(&log, 0x5004, 72));
    region_set_doorbells(bus, &c.region, NULL, 0);
    assert_int_equal(log.count, 0);
    region_unmap(bus, &c.region);
    region_set_doorbells(bus, &c.region, bells, 2); /* not mapped: nowhere */
    assert_int_equal(log.count, 0);
    /* One that was refused is neither dropped nor asked for twice in one place. */
    log = (struct bell_log){ .refuses = 8 };
    assert_true(region_map(bus, &c.region, 0x7000, 16, NULL));
    assert_int_equal(log.adds, 2);
    assert_int_equal(log.count, 1);
    bus_write(bus, 0x7008, 2, 1); /* and comes as a write */
    assert_int_equal(c.writes, 1);
    region_unmap(bus, &c.region);
    assert_int_equal(log.drops, 1);
    bus_free(bus);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hole_reads_as_ones),
        cmocka_unit_test(usual_access_is_one_call),
        cmocka_unit_test(null_callbacks_are_dead_cells),
        cmocka_unit_test(region_may_end_at_the_top),
        cmocka_unit_test(overlap_is_refused),
        cmocka_unit_test(listing_is_in_address_order),
        cmocka_unit_test(any_access_equals_its_bytes),
        cmocka_unit_test(unmap_waits_for_callbacks),
        cmocka_unit_test(unmap_waits_for_a_long_callback),
        cmocka_unit_test(unmap_in_a_callback_does_not_wait),
        cmocka_unit_test(doorbells_follow_their_region),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
