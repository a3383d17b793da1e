/* Large pieces of memory that the host gives page by page, and takes back page by page. */
#ifndef HOST_ANONMEM_H
#define HOST_ANONMEM_H

#include "util/base.h"

#define ANONMEM_GUARD                                                                                        \
    MIB(2) /* unusable address space on either side, at least; its multiples are the alignment */

#define ANONMEM_LARGE MIB(2)

struct anonmem {
    uint8_t *at; /* NULL: nothing is mapped */
    uint64_t size;
    int fd;         /* the memory file that it is, from its beginning; -1: private memory */
    void *reserved; /* the mapping with its guards */
    uint64_t reserved_len;
};

/* Maps `size` zeroed bytes, a multiple of the page size, at a multiple of 2 MiB. No page is taken before it
 * is touched. A child process does not inherit it and a core file does not hold it. `name` (up to 79
 * characters) shows in /proc where the host's kernel can do that. With `in_file` it is a memory file whose
 * pages other processes may map, executable too; where that cannot be had as good as private memory, it is
 * private all the same. False and errno on failure, with nothing mapped. */
bool anonmem_map(struct anonmem *mem, const char *name, uint64_t size, bool in_file);
void anonmem_unmap(struct anonmem *mem); /* fine when nothing is mapped */

/* Memory in a file: makes large pages of [at, at + len), multiples of ANONMEM_LARGE, all of which is memory
 * in use from now on; what was there stays. Any thread, others may use these very bytes meanwhile. False, and
 * maybe not all of them are large, if the host cannot or not now. */
bool anonmem_make_large(void *at, uint64_t len);

/* Gives pages back to the host: [at, at + len), whole pages of it. They read as zero from now on and are
 * taken anew when they are touched, by other processes that have mapped them too. Any thread, also while
 * others use these very pages, the kernel's virtual machines and transfers in flight included: a store that
 * races is kept or lost. False and errno if the host cannot. */
bool anonmem_discard(const struct anonmem *mem, void *at, uint64_t len);

#endif
