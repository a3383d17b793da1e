/* Private anonymous mappings, and shared ones of memory files. */
#include "host/anonmem.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "host/linux/anonfile_impl.h"

#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#endif

/* Whether the host promises no more memory than it has (vm.overcommit_memory). Private memory is promised
 * when it is mapped, a page of a file when it is touched: too late for an error. */
static bool host_is_strict(void)
{
    int fd = open("/proc/sys/vm/overcommit_memory", O_RDONLY | O_CLOEXEC);
    char mode = 0;

    if (fd < 0)
        return false;
    if (read(fd, &mode, 1) != 1)
        mode = 0;
    close(fd);
    return mode == '2';
}

/* Puts a memory file at `at`, of large pages if the host has such. -1 where it cannot be had, or could not
 * give pages back. */
static int map_file(void *at, const char *name, uint64_t size)
{
    int fd;

    if (host_is_strict())
        return -1;
    fd = anonfile_open_large(name, size);
    if (fd < 0)
        fd = anonfile_open(name, size, true);
    if (fd < 0)
        return -1;
    if (mmap(at, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, fd, 0) != MAP_FAILED &&
        !madvise(at, size, MADV_REMOVE))
        return fd;
    close(fd);
    return -1;
}

static bool map_private(void *at, uint64_t size)
{
    return mmap(at, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1,
                0) != MAP_FAILED;
}

bool anonmem_map(struct anonmem *mem, const char *name, uint64_t size, bool in_file)
{
    uint8_t *reserved, *at;

    *mem = (struct anonmem){ .fd = -1 };
    if (size > INT64_MAX - 2 * ANONMEM_GUARD) {
        errno = ENOMEM;
        return false;
    }
    mem->reserved_len = size + 2 * ANONMEM_GUARD;
    reserved = mmap(NULL, mem->reserved_len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (reserved == MAP_FAILED)
        return false;
    at = (uint8_t *)align_up((uintptr_t)reserved + 1, ANONMEM_GUARD);
    mem->fd = in_file ? map_file(at, name, size) : -1;
    if (mem->fd < 0 && !map_private(at, size)) {
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
    if (mem->reserved && mem->fd >= 0)
        close(mem->fd);
    *mem = (struct anonmem){ .fd = -1 };
}

bool anonmem_make_large(void *at, uint64_t len)
{
    bool ok = true;

    for (uint64_t off = 0; off < len; off += ANONMEM_LARGE)
        ok &= anonfile_make_large((uint8_t *)at + off);
    return ok;
}

bool anonmem_discard(const struct anonmem *mem, void *at, uint64_t len)
{
    return madvise(at, len, mem->fd < 0 ? MADV_DONTNEED : MADV_REMOVE) == 0;
}
