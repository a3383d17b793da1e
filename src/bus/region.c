/* Address spaces and their regions: see bus/region.h.
 *
 * Theory of operation
 *
 * A lookup is on the path of every device access of every vCPU, a change (a BAR moves) happens a few dozen
 * times in the life of a guest. So the regions of a bus are an immutable array sorted by address, reached
 * through one atomic pointer; a change builds a new array under the bus lock and swaps the pointer. A reader
 * takes no lock. It claims one of SLOT_COUNT slots of the bus, chosen by its stack address so that two
 * threads rarely meet on a cache line, and the slot tells writers what the reader may still touch:
 *
 *   SLOT_FREE      nobody
 *   SLOT_LOOKING   the owner searches an array; it may be any array that was current since
 *   struct region* the owner is in a callback of that region, and uses no array any more
 *
 * Claiming is an atomic read-modify-write, thus a full barrier before the load of the array pointer; the
 * writer swaps the pointer with a sequentially consistent exchange and then reads all slots. Either the
 * writer sees the claim and waits, or the reader's later load sees the new array. The old array is out of use
 * when no slot is LOOKING, a matter of nanoseconds unless a reader is descheduled; it is kept as the spare
 * that the next change fills, so that unmapping needs no memory and cannot fail. region_unmap then waits
 * until no slot names its region.
 *
 * That last wait is left out inside callbacks, of whatever bus: a write to a configuration register may unmap
 * a BAR while another vCPU sits in that BAR's callback and waits for the lock which the first one holds. A
 * thread-local count tells; it is zero outside callbacks, so no state of it outlives a call. Entries hold
 * copies of what a callback needs, so a region may be mapped elsewhere while a late callback at its old place
 * still runs.
 *
 * A guest access is cut into naturally aligned pieces of widths that the region takes, in ascending order.
 * One cost for the usual access (aligned, accepted width): a compare-and-swap, a binary search, a release
 * store. */
#include "bus/region.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* More than threads can be in callbacks at once: vCPUs, and nested accesses. Readers spin if it ever is too
 * few. */
#define SLOT_COUNT 128
#define CACHE_LINE 64

#define SLOT_FREE ((uintptr_t)0)
#define SLOT_LOOKING ((uintptr_t)1)

struct slot {
    _Alignas(CACHE_LINE) _Atomic(uintptr_t) state;
};

struct entry {
    uint64_t base, last; /* inclusive, so that a region may end at the top of the address space */
    const struct region_ops *ops;
    void *ctx;
    struct region *region;
};

struct map {
    size_t count, room;
    struct entry entries[];
};

struct bus {
    _Atomic(struct map *) map; /* never NULL */
    /* Serializes changes; taken inside device locks. The doorbell sink is all that is called under it. */
    pthread_mutex_t lock;
    struct doorbell_sink sink;
    struct map *spare; /* the array before, room for at least count - 1; guarded by lock */
    const char *name;
    struct slot slots[SLOT_COUNT];
};

static _Thread_local unsigned callback_depth;

/* ---- readers ---- */

static struct slot *slot_claim(struct bus *bus)
{
    /* Stacks of different threads differ in the page at least; nested accesses of one thread probe on. */
    size_t i = (uintptr_t)__builtin_frame_address(0) >> 12;

    i ^= i >> 7;
    for (unsigned tries = 1;; i++, tries++) {
        struct slot *s = &bus->slots[i % SLOT_COUNT];
        uintptr_t expected = SLOT_FREE;

        if (atomic_compare_exchange_strong(&s->state, &expected, SLOT_LOOKING))
            return s;
        if (tries % SLOT_COUNT == 0)
            sched_yield();
    }
}

/* The entry that holds addr, or NULL and in *next_base the base of the first one above (UINT64_MAX: none). */
static const struct entry *map_find(const struct map *map, uint64_t addr, uint64_t *next_base)
{
    size_t low = 0, high = map->count;

    while (low < high) {
        const size_t mid = (low + high) / 2;

        if (map->entries[mid].last < addr)
            low = mid + 1;
        else
            high = mid;
    }
    if (low < map->count && map->entries[low].base <= addr)
        return &map->entries[low];
    *next_base = low < map->count ? map->entries[low].base : UINT64_MAX;
    return NULL;
}

/* Copies the entry that holds addr and pins its region until slot_release. False: none, nothing pinned. */
static bool slot_find(struct bus *bus, uint64_t addr, struct slot **slot, struct entry *out,
                      uint64_t *next_base)
{
    struct slot *s = slot_claim(bus);
    const struct entry *e = map_find(atomic_load(&bus->map), addr, next_base);

    if (!e) {
        atomic_store_explicit(&s->state, SLOT_FREE, memory_order_release);
        return false;
    }
    *out = *e;
    atomic_store_explicit(&s->state, (uintptr_t)e->region, memory_order_release);
    *slot = s;
    return true;
}

static void slot_release(struct slot *s)
{
    atomic_store_explicit(&s->state, SLOT_FREE, memory_order_release);
}

static uint64_t width_mask(unsigned width)
{
    return width >= 8 ? UINT64_MAX : ((uint64_t)1 << 8 * width) - 1;
}

/* Widest power of two that is at most `left` and to which off is aligned. */
static unsigned piece_width(uint64_t off, unsigned left, unsigned max_width)
{
    unsigned width = max_width;

    while (width > left || off & (width - 1))
        width /= 2;
    return width;
}

static uint64_t entry_read_unit(const struct entry *e, uint64_t off, unsigned width)
{
    return e->ops->read ? e->ops->read(e->ctx, off, width) & width_mask(width) : width_mask(width);
}

static void entry_write_unit(const struct entry *e, uint64_t off, unsigned width, uint64_t value)
{
    if (e->ops->write)
        e->ops->write(e->ctx, off, width, value & width_mask(width));
}

/* Reads `left` bytes, or fewer if the region ends before; returns how many. */
static unsigned entry_read(const struct entry *e, uint64_t off, unsigned left, uint64_t *value)
{
    const unsigned min_width = e->ops->min_width;
    unsigned width;

    left = (unsigned)min_u64(left, e->last - e->base - off + 1);
    width = piece_width(off, left, e->ops->max_width);
    if (width >= min_width) {
        *value = entry_read_unit(e, off, width);
    } else {
        const uint64_t start = align_down(off, min_width);

        width = (unsigned)min_u64(left, start + min_width - off);
        *value = entry_read_unit(e, start, min_width) >> 8 * (off - start) & width_mask(width);
    }
    return width;
}

static unsigned entry_write(const struct entry *e, uint64_t off, unsigned left, uint64_t value)
{
    const unsigned min_width = e->ops->min_width;
    unsigned width;

    left = (unsigned)min_u64(left, e->last - e->base - off + 1);
    width = piece_width(off, left, e->ops->max_width);
    if (width >= min_width) {
        entry_write_unit(e, off, width, value);
    } else {
        const uint64_t start = align_down(off, min_width);
        const unsigned shift = 8 * (unsigned)(off - start);
        uint64_t mask, old;

        width = (unsigned)min_u64(left, start + min_width - off);
        mask = width_mask(width) << shift;
        old = entry_read_unit(e, start, min_width);
        entry_write_unit(e, start, min_width, (old & ~mask) | (value << shift & mask));
    }
    return width;
}

/* How many of `left` bytes from addr on come before next_base. */
static unsigned hole_width(uint64_t addr, unsigned left, uint64_t next_base)
{
    return (unsigned)min_u64(left, next_base - addr);
}

bool bus_read(struct bus *bus, uint64_t addr, unsigned width, uint64_t *value)
{
    bool is_claimed = false;
    uint64_t result = 0;
    unsigned done = 0;

    while (done < width && addr + done >= addr) {
        uint64_t part = UINT64_MAX, next_base = UINT64_MAX;
        struct entry e;
        struct slot *slot;
        unsigned n;

        if (slot_find(bus, addr + done, &slot, &e, &next_base)) {
            callback_depth++;
            n = entry_read(&e, addr + done - e.base, width - done, &part);
            callback_depth--;
            slot_release(slot);
            is_claimed = true;
        } else {
            n = hole_width(addr + done, width - done, next_base);
        }
        if (!n)
            break; /* a hole up to the last address: its one byte reads as ones below */
        result |= (part & width_mask(n)) << 8 * done;
        done += n;
    }
    if (done < width)
        result |= UINT64_MAX << 8 * done;
    *value = result & width_mask(width);
    return is_claimed;
}

bool bus_write(struct bus *bus, uint64_t addr, unsigned width, uint64_t value)
{
    bool is_claimed = false;
    unsigned done = 0;

    while (done < width && addr + done >= addr) {
        uint64_t next_base = UINT64_MAX;
        struct entry e;
        struct slot *slot;
        unsigned n;

        if (slot_find(bus, addr + done, &slot, &e, &next_base)) {
            callback_depth++;
            n = entry_write(&e, addr + done - e.base, width - done, value >> 8 * done);
            callback_depth--;
            slot_release(slot);
            is_claimed = true;
        } else {
            n = hole_width(addr + done, width - done, next_base);
        }
        if (!n)
            break;
        done += n;
    }
    return is_claimed;
}

/* ---- changes ---- */

static struct map *map_new(size_t room)
{
    struct map *map = malloc(sizeof(*map) + room * sizeof(map->entries[0]));

    if (map)
        *map = (struct map){ .count = 0, .room = room };
    return map;
}

/* An array for `count` entries that no reader sees yet: the spare if it is large enough. NULL if out of
 * memory. */
static struct map *map_take_locked(struct bus *bus, size_t count)
{
    if (!bus->spare || bus->spare->room < count) {
        struct map *map = map_new(count);

        if (!map)
            return NULL;
        free(bus->spare);
        bus->spare = map;
    }
    bus->spare->count = count;
    return bus->spare;
}

/* Makes the spare current, and the current one the spare once no reader can be in it. */
static void map_swap_locked(struct bus *bus)
{
    struct map *old = atomic_exchange(&bus->map, bus->spare);

    for (unsigned i = 0; i < SLOT_COUNT; i++)
        while (atomic_load(&bus->slots[i].state) == SLOT_LOOKING)
            sched_yield();
    bus->spare = old;
}

static bool width_is_legal(unsigned width)
{
    return width == 1 || width == 2 || width == 4 || width == 8;
}

struct bus *bus_new(const char *name)
{
    struct bus *bus = aligned_alloc(CACHE_LINE, align_up(sizeof(*bus), CACHE_LINE));
    struct map *map = map_new(0);

    if (!bus || !map) {
        free(bus);
        free(map);
        return NULL;
    }
    memset(bus, 0, sizeof(*bus));
    bus->name = name;
    atomic_init(&bus->map, map);
    pthread_mutex_init(&bus->lock, NULL);
    return bus;
}

void bus_free(struct bus *bus)
{
    struct map *map;

    if (!bus)
        return;
    map = atomic_load(&bus->map);
    for (size_t i = 0; i < map->count; i++)
        map->entries[i].region->mapped = false;
    free(map);
    free(bus->spare);
    pthread_mutex_destroy(&bus->lock);
    free(bus);
}

/* ---- doorbells ---- */

static void bells_on_locked(struct bus *bus, struct region *r)
{
    for (unsigned i = 0; r->mapped && bus->sink.add && i < r->bell_count; i++) {
        struct doorbell *b = &r->bells[i];

        if (!b->is_on)
            b->is_on = bus->sink.add(bus->sink.ctx, r->base + b->off, b->fd);
    }
}

static void bells_off_locked(struct bus *bus, struct region *r)
{
    for (unsigned i = 0; i < r->bell_count; i++) {
        struct doorbell *b = &r->bells[i];

        if (b->is_on)
            bus->sink.drop(bus->sink.ctx, r->base + b->off, b->fd);
        b->is_on = false;
    }
}

void region_set_doorbells(struct bus *bus, struct region *r, struct doorbell *bells, unsigned count)
{
    pthread_mutex_lock(&bus->lock);
    bells_off_locked(bus, r);
    r->bells = bells;
    r->bell_count = count;
    bells_on_locked(bus, r);
    pthread_mutex_unlock(&bus->lock);
}

void bus_set_doorbell_sink(struct bus *bus, struct doorbell_sink sink)
{
    const struct map *map;

    pthread_mutex_lock(&bus->lock);
    BUG_ON(bus->sink.add);
    bus->sink = sink;
    map = atomic_load(&bus->map);
    for (size_t i = 0; i < map->count; i++)
        bells_on_locked(bus, map->entries[i].region);
    pthread_mutex_unlock(&bus->lock);
}

/* ---- mapping ---- */

static bool region_map_locked(struct bus *bus, struct region *r, uint64_t base, uint64_t last,
                              struct yado_error *err)
{
    const struct map *old = atomic_load(&bus->map);
    struct map *map;
    size_t at = 0;

    while (at < old->count && old->entries[at].last < base)
        at++;
    if (at < old->count && old->entries[at].base <= last)
        return err_set(err, YADO_ERR_INTERNAL, "%s bus: %s at %#llx overlaps %s", bus->name, r->ops->name,
                       (unsigned long long)base, old->entries[at].ops->name);
    map = map_take_locked(bus, old->count + 1);
    if (!map)
        return err_set(err, YADO_ERR_HOST, "%s bus: out of memory", bus->name);
    r->base = base;
    r->len = last - base + 1;
    r->mapped = true;
    memcpy(map->entries, old->entries, at * sizeof(old->entries[0]));
    map->entries[at] =
        (struct entry){ .base = base, .last = last, .ops = r->ops, .ctx = r->ctx, .region = r };
    memcpy(map->entries + at + 1, old->entries + at, (old->count - at) * sizeof(old->entries[0]));
    map_swap_locked(bus);
    bells_on_locked(bus, r);
    return true;
}

bool region_map(struct bus *bus, struct region *r, uint64_t base, uint64_t len, struct yado_error *err)
{
    const struct region_ops *ops = r->ops;
    bool ok;

    BUG_ON(!width_is_legal(ops->min_width) || !width_is_legal(ops->max_width) ||
           ops->min_width > ops->max_width);
    BUG_ON(len % ops->min_width);
    if (!len || base + (len - 1) < base)
        return err_set(err, YADO_ERR_INTERNAL, "%s bus: %s has no legal range", bus->name, ops->name);
    pthread_mutex_lock(&bus->lock);
    if (r->mapped)
        ok = err_set(err, YADO_ERR_INTERNAL, "%s bus: %s is mapped already", bus->name, ops->name);
    else
        ok = region_map_locked(bus, r, base, base + (len - 1), err);
    pthread_mutex_unlock(&bus->lock);
    return ok;
}

void region_unmap(struct bus *bus, struct region *r)
{
    const struct map *old;
    struct map *map;
    size_t at = 0;

    pthread_mutex_lock(&bus->lock);
    if (!r->mapped) {
        pthread_mutex_unlock(&bus->lock);
        return;
    }
    bells_off_locked(bus, r);
    old = atomic_load(&bus->map);
    while (at < old->count && old->entries[at].region != r)
        at++;
    BUG_ON(at == old->count); /* mapped on another bus */
    map = map_take_locked(bus, old->count - 1);
    BUG_ON(!map); /* the spare always has this room */
    memcpy(map->entries, old->entries, at * sizeof(old->entries[0]));
    memcpy(map->entries + at, old->entries + at + 1, (old->count - at - 1) * sizeof(old->entries[0]));
    r->mapped = false;
    map_swap_locked(bus);
    pthread_mutex_unlock(&bus->lock);
    if (callback_depth)
        return;
    for (unsigned i = 0; i < SLOT_COUNT; i++)
        while (atomic_load(&bus->slots[i].state) == (uintptr_t)r)
            sched_yield();
}

void bus_each(struct bus *bus, void (*fn)(void *ctx, const struct region *r), void *ctx)
{
    const struct map *map;

    pthread_mutex_lock(&bus->lock);
    map = atomic_load(&bus->map);
    for (size_t i = 0; i < map->count; i++)
        fn(ctx, map->entries[i].region);
    pthread_mutex_unlock(&bus->lock);
}
