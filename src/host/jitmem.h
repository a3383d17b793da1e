/* Executable memory for generated code, never writable and executable at the same address if the host allows
 * it.
 *
 * One anonymous file is mapped twice: `rw` for the writer, `rx` for the CPU; both show the same bytes. Where
 * the host refuses executable mappings of such files (mount and security policies), one anonymous mapping
 * with all three rights serves as both and rw == rx. The memory is zeroed and takes host pages only as they
 * are touched. x86 keeps instruction fetch coherent with stores through the other mapping, but a thread that
 * runs bytes which another thread just wrote must be serialized first (Intel SDM volume 3A, section 8.1.3).
 *
 * A stretch of JITMEM_LARGE bytes can be made one large page of the host (2 MiB on x86), if both
 * mappings show one file.
 *
 * The struct is the caller's. Open and close on one thread; the memory itself may be used by any. */
#ifndef HOST_JITMEM_H
#define HOST_JITMEM_H

#include "util/err.h"

#define JITMEM_LARGE MIB(2)

struct jitmem {
    uint8_t *rw;
    uint8_t *rx;
    size_t size; /* bytes of each mapping, a multiple of the page size */
};

/* Maps at least `size` bytes. On failure m is all zero and err is YADO_ERR_MEMORY. */
bool jitmem_open(struct jitmem *m, size_t size, struct yado_error *err);
/* Whether it is worth trying to make large pages in it. */
bool jitmem_can_large(const struct jitmem *m);
/* Makes the JITMEM_LARGE bytes at off, a multiple of that, one large page, all of which is memory in use from
 * now on; what was there stays. Any thread, one at a time; others may use these very bytes meanwhile. The
 * host may take 100 ms and more for it. False and errno: EINVAL if it never will, EAGAIN if it may when asked
 * again; nothing has changed. */
bool jitmem_make_large(struct jitmem *m, size_t off);
/* Unmaps. Fine on a zeroed struct, and twice. */
void jitmem_close(struct jitmem *m);

static inline bool jitmem_is_split(const struct jitmem *m)
{
    return m->rw != m->rx;
}

#endif
