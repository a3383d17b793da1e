/* Address spaces of the machine (memory-mapped and port) and the regions in them.
 *
 * A region sees offsets from its own start, never addresses, and only widths between min_width and max_width
 * at offsets that are multiples of the width: the bus splits and joins others (little endian, ascending; a
 * write narrower than min_width reads the unit and writes it back changed). Accesses no region claims read as
 * all ones and swallow writes. Callbacks run on vCPU threads without any bus lock held, several at once, so
 * each device takes its own lock. Lookups take no lock at all (region.c tells how). A region may be added,
 * moved and removed while vCPUs run (PCI BARs), also from inside a callback. */
#ifndef BUS_REGION_H
#define BUS_REGION_H

#include "bus/doorbell.h"
#include "util/err.h"

struct bus;

struct region_ops {
    const char *name;
    uint8_t min_width, max_width; /* bytes: 1, 2, 4, 8 */
    /* Either may be NULL: all ones, swallowed. Bits of a value above the width are ignored and zero. */
    uint64_t (*read)(void *ctx, uint64_t off, unsigned width);
    void (*write)(void *ctx, uint64_t off, unsigned width, uint64_t value);
};

struct region {
    const struct region_ops *ops;
    void *ctx;
    uint64_t base, len;
    bool mapped;            /* this and the rest are owned by the bus */
    struct doorbell *bells; /* see region_set_doorbells */
    unsigned bell_count;
};

struct bus *bus_new(const char *name); /* name outlives the bus; NULL if out of memory */
void bus_free(struct bus *bus);        /* nobody uses it any more; NULL is fine */

/* Maps r at [base, base + len). Fails if it would overlap another region or is mapped already. len is a
 * multiple of min_width. The struct stays the caller's and must live until region_unmap or bus_free, or, if
 * unmapped inside a callback, until no vCPU runs. Any thread. */
bool region_map(struct bus *bus, struct region *r, uint64_t base, uint64_t len, struct yado_error *err);
void region_unmap(struct bus *bus, struct region *r); /* fine if not mapped; waits for callbacks in flight to
                                                         end unless called from one */

/* Gives r the doorbells bells[0 .. count - 1] in place of those it had. They follow it wherever it is mapped.
 * A write that the engine does not take (odd widths, addresses in between) still comes to ops->write. The
 * array stays the caller's, untouched until it is replaced; count 0 takes the last ones away. Any thread. */
void region_set_doorbells(struct bus *bus, struct region *r, struct doorbell *bells, unsigned count);
/* From now on the regions' doorbells, those there are included, go to the sink. Once, before vCPUs run. */
void bus_set_doorbell_sink(struct bus *bus, struct doorbell_sink sink);

/* vCPU threads. width is 1, 2, 4 or 8. Returns false if no region claimed the address (value is all ones). */
bool bus_read(struct bus *bus, uint64_t addr, unsigned width, uint64_t *value);
bool bus_write(struct bus *bus, uint64_t addr, unsigned width, uint64_t value);

/* Calls fn for every mapped region in address order (the machine listing). fn may not map or unmap. */
void bus_each(struct bus *bus, void (*fn)(void *ctx, const struct region *r), void *ctx);

#endif
