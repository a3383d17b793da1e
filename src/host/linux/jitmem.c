/* Executable memory: see host/jitmem.h. */
#include "host/jitmem.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "host/linux/anonfile_impl.h"

/* Maps the file at a multiple of JITMEM_LARGE, which is where the host can use a large page. */
static void *map_file(int fd, size_t size, int prot)
{
    size_t room = size + JITMEM_LARGE;
    uint8_t *reserved = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (reserved == MAP_FAILED)
        return MAP_FAILED;
    uint8_t *at = (uint8_t *)align_up((uintptr_t)reserved, JITMEM_LARGE);
    void *p = mmap(at, size, prot, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, fd, 0);
    if (p == MAP_FAILED) {
        munmap(reserved, room);
        return MAP_FAILED;
    }
    if (at > reserved)
        munmap(reserved, (size_t)(at - reserved));
    munmap(at + size, room - size - (size_t)(at - reserved));
    return p;
}

static bool map_split(struct jitmem *m, size_t size)
{
    int fd = size >= JITMEM_LARGE ? anonfile_open_large("yado-jit", size) : -1;
    void *rw, *rx;

    if (fd < 0)
        fd = anonfile_open("yado-jit", size, true);
    if (fd < 0)
        return false;
    rw = map_file(fd, size, PROT_READ | PROT_WRITE);
    rx = map_file(fd, size, PROT_READ | PROT_EXEC);
    close(fd);
    if (rw != MAP_FAILED && rx != MAP_FAILED) {
        *m = (struct jitmem){ .rw = rw, .rx = rx, .size = size };
        return true;
    }
    if (rw != MAP_FAILED)
        munmap(rw, size);
    if (rx != MAP_FAILED)
        munmap(rx, size);
    return false;
}

static bool map_single(struct jitmem *m, size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE | PROT_EXEC,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (p == MAP_FAILED)
        return false;
    *m = (struct jitmem){ .rw = p, .rx = p, .size = size };
    return true;
}

bool jitmem_open(struct jitmem *m, size_t size, struct yado_error *err)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);

    memset(m, 0, sizeof(*m));
    if (!size || size > SIZE_MAX / 2)
        return err_set(err, YADO_ERR_INTERNAL, "code memory: cannot map %zu bytes", size);
    size = align_up(size, page);
    if (map_split(m, size) || map_single(m, size))
        return true;
    return err_set_errno(
        err, YADO_ERR_MEMORY, errno,
        "code memory: the host gives no %zu MiB of executable memory; allow it (memfd_create or "
        "writable-executable mappings)",
        (size_t)(size >> 20));
}

bool jitmem_can_large(const struct jitmem *m)
{
    return m->size >= JITMEM_LARGE && jitmem_is_split(m) && madvise(m->rx, 0, MADV_COLLAPSE) == 0;
}

bool jitmem_make_large(struct jitmem *m, size_t off)
{
    return anonfile_make_large(m->rx + off);
}

void jitmem_close(struct jitmem *m)
{
    if (m->rw)
        munmap(m->rw, m->size);
    if (jitmem_is_split(m))
        munmap(m->rx, m->size);
    memset(m, 0, sizeof(*m));
}
