/* Private anonymous mappings. */
#include "host/anonmem.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#endif

bool anonmem_map(struct anonmem *mem, const char *name, uint64_t size)
{
    uint8_t *reserved, *at;

    *mem = (struct anonmem){ 0 };
    if (size > INT64_MAX - 2 * ANONMEM_GUARD) {
        errno = ENOMEM;
        return false;
    }
    mem->reserved_len = size + 2 * ANONMEM_GUARD;
    reserved = mmap(NULL, mem->reserved_len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (reserved == MAP_FAILED)
        return false;
    at = (uint8_t *)align_up((uintptr_t)reserved + 1, ANONMEM_GUARD);
    if (mprotect(at, size, PROT_READ | PROT_WRITE)) {
        int saved = errno;

        munmap(reserved, mem->reserved_len);
        errno = saved;
        return false;
    }
    mem->reserved = reserved;
    mem->at = at;
    mem->size = size;
    /* Each of these may fail on some kernel, which costs time, disk or a name and nothing else. */
    madvise(at, size, MADV_DONTDUMP);
    madvise(at, size, MADV_DONTFORK);
    /* A hypervisor's second page walk is a level shorter for huge pages. The translator gains nothing that
     * could be measured, and a booted guest takes some 2 % more memory. */
    madvise(at, size, MADV_HUGEPAGE);
    prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, at, size, name);
    return true;
}

void anonmem_unmap(struct anonmem *mem)
{
    if (mem->reserved)
        munmap(mem->reserved, mem->reserved_len);
    *mem = (struct anonmem){ 0 };
}

bool anonmem_discard(void *at, uint64_t len)
{
    return madvise(at, len, MADV_DONTNEED) == 0;
}
