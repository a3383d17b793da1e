/* Executable memory for generated code, never writable and executable at the same address if the host allows
 * it.
 *
 * One anonymous file is mapped twice: `rw` for the writer, `rx` for the CPU; both show the same bytes. Where
 * the host refuses executable mappings of such files (mount and security policies), one anonymous mapping
 * with all three rights serves as both and rw == rx. The memory is zeroed and takes host pages only as they
 * are touched. x86 keeps instruction fetch coherent with stores through the other mapping, but a thread that
 * runs bytes which another thread just wrote must be serialized first (Intel SDM volume 3A, section 8.1.3).
 *
 * The struct is the caller's. Open and close on one thread; the memory itself may be used by any. */
#ifndef HOST_JITMEM_H
#define HOST_JITMEM_H

#include "util/err.h"

struct jitmem {
    uint8_t *rw;
    uint8_t *rx;
    size_t size; /* bytes of each mapping, a multiple of the page size */
};

/* Maps at least `size` bytes. On failure m is all zero and err is YADO_ERR_MEMORY. */
bool jitmem_open(struct jitmem *m, size_t size, struct yado_error *err);
/* Unmaps. Fine on a zeroed struct, and twice. */
void jitmem_close(struct jitmem *m);

static inline bool jitmem_is_split(const struct jitmem *m)
{
    return m->rw != m->rx;
}

#endif
