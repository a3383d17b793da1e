/* Large pieces of private memory that the host gives page by page, and takes back page by page. */
#ifndef HOST_ANONMEM_H
#define HOST_ANONMEM_H

#include "util/base.h"

#define ANONMEM_GUARD                                                                                        \
    MIB(2) /* unusable address space on either side, at least; its multiples are the alignment */

struct anonmem {
    uint8_t *at; /* NULL: nothing is mapped */
    uint64_t size;
    void *reserved; /* the mapping with its guards */
    uint64_t reserved_len;
};

/* Maps `size` zeroed bytes, a multiple of the page size, at a multiple of 2 MiB. No page is taken before it
 * is touched. A child process does not inherit it and a core file does not hold it. `name` (up to 79
 * characters) shows in /proc where the host's kernel can do that. False and errno on failure, with nothing
 * mapped. */
bool anonmem_map(struct anonmem *mem, const char *name, uint64_t size);
void anonmem_unmap(struct anonmem *mem); /* fine when nothing is mapped */

/* Gives pages back to the host: [at, at + len), whole pages of one mapping. They read as zero from now on and
 * are taken anew when they are touched. Any thread, also while others use these very pages, the kernel's
 * virtual machines and transfers in flight included: a store that races is kept or lost. False and errno if
 * the host cannot. */
bool anonmem_discard(void *at, uint64_t len);

#endif
