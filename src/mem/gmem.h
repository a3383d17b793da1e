/* Guest physical memory: the only code that turns a guest physical address into a host pointer.
 *
 * RAM is one mapping that shows at up to two guest ranges (below and above the PCI hole). Slots
 * are fixed after gmem_new, so lookups take no lock and may run on any thread. Bytes may change under the
 * reader at any time: copy once, then check the copy. */
#ifndef MEM_GMEM_H
#define MEM_GMEM_H

#include "util/err.h"

struct gmem;

struct gmem_slot {
    uint64_t gpa;
    uint64_t len;
    uint8_t *hva;
    uint64_t offset; /* where it begins in the file gmem_fd() */
};

enum gmem_access { GMEM_READ, GMEM_WRITE };

/* Makes `size` bytes of zeroed RAM: [0, min(size, low_end)) and the rest from 4 GiB up. `size` is a multiple
 * of 1 MiB. With in_file it is a memory file if the host allows. NULL and err on failure. */
struct gmem *gmem_new(uint64_t size, uint64_t low_end, bool in_file, struct yado_error *err);
void gmem_free(struct gmem *mem); /* NULL is fine */

unsigned gmem_slot_count(const struct gmem *mem);
struct gmem_slot gmem_slot_at(const struct gmem *mem, unsigned i);
uint64_t gmem_size(const struct gmem *mem);
/* The memory file, for processes that map pages of RAM; the descriptor stays gmem's. -1: RAM is private. */
int gmem_fd(const struct gmem *mem);

/* Pointer to [gpa, gpa + len) if the whole range is RAM of one slot, else NULL. len 0 gives NULL. With
 * GMEM_WRITE the caller promises to call gmem_written() for the same range after writing. */
void *gmem_span(const struct gmem *mem, uint64_t gpa, uint64_t len, enum gmem_access access);

/* Copies. False (and nothing copied) if any byte is outside RAM. gmem_write calls gmem_written itself. */
bool gmem_read(const struct gmem *mem, uint64_t gpa, void *buf, uint64_t len);
bool gmem_write(const struct gmem *mem, uint64_t gpa, const void *buf, uint64_t len);

/* Device code wrote [gpa, gpa+len): engines that cache translated guest code hear of it. */
void gmem_written(const struct gmem *mem, uint64_t gpa, uint64_t len);

/* All of [gpa, gpa + len) is about to be written: the host is asked for it in large pages where it gives none
 * by itself. It may take a little more than that. A range that is not RAM of one slot is left alone. */
void gmem_will_fill(const struct gmem *mem, uint64_t gpa, uint64_t len);

/* Gives the whole 4 KiB pages inside [gpa, gpa + len) back to the host. They read as zero from now on and are
 * taken anew when they are touched; to the engine this is a write (gmem_written is called). Any thread, also
 * while vCPUs and devices use these pages: a store that races is kept or lost. False, and nothing has
 * changed, if the range is not RAM of one slot or the host cannot. */
bool gmem_discard(const struct gmem *mem, uint64_t gpa, uint64_t len);

/* Who hears of gmem_written. Set once, before any device runs. */
void gmem_set_write_hook(struct gmem *mem, void (*hook)(void *ctx, uint64_t gpa, uint64_t len), void *ctx);

#endif
