/* Guest memory: see mem/gmem.h.
 *
 * One mapping (host/anonmem.h) with inaccessible address space on either side, so that a device that
 * runs over the end of RAM stops at once. Nothing is reserved: the host gives pages as the guest touches
 * them, and gets back what the guest does without (gmem_discard). The mapping itself stays as it is all the
 * time, so that pointers into it, an engine's TLBs among them, never go stale: only contents change. */
#include "mem/gmem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "host/anonfile.h"
#include "host/anonmem.h"

#define GMEM_SLOTS_MAX 2
#define GMEM_PAGE KIB(4)

struct gmem {
    struct gmem_slot slots[GMEM_SLOTS_MAX];
    unsigned slot_count;
    struct anonmem ram;
    void (*hook)(void *ctx, uint64_t gpa, uint64_t len);
    void *hook_ctx;
};

static bool size_check(uint64_t size, struct yado_error *err)
{
    const struct memory_facts host = memory_facts_get();

    if (!size || size % MIB(1))
        return err_set(err, YADO_ERR_INVALID_CONFIG,
                       "memory size: %llu bytes is not a multiple of 1 MiB; give whole MiB, at least 1",
                       (unsigned long long)size);
    if (host.total && size > host.total)
        return err_set(err, YADO_ERR_MEMORY,
                       "memory size: %llu MiB is more than this host has (%llu MiB of RAM and swap, %llu MiB "
                       "available now); ask for less",
                       (unsigned long long)(size >> 20), (unsigned long long)(host.total >> 20),
                       (unsigned long long)(host.available >> 20));
    return true;
}

struct gmem *gmem_new(uint64_t size, uint64_t low_end, bool in_file, struct yado_error *err)
{
    struct gmem *mem;
    uint8_t *ram;

    BUG_ON(low_end % KIB(4) || !low_end || low_end > GIB(4));
    if (!size_check(size, err))
        return NULL;
    mem = calloc(1, sizeof(*mem));
    if (!mem) {
        err_set(err, YADO_ERR_HOST, "guest memory: out of memory");
        return NULL;
    }
    if (!anonmem_map(&mem->ram, "yado-ram", size, in_file)) {
        err_set_errno(err, YADO_ERR_MEMORY, errno, "memory size: the host gives no %llu MiB; ask for less",
                      (unsigned long long)(size >> 20));
        gmem_free(mem);
        return NULL;
    }
    ram = mem->ram.at;
    if (size <= low_end || low_end == GIB(4)) {
        mem->slots[mem->slot_count++] = (struct gmem_slot){ .gpa = 0, .len = size, .hva = ram };
    } else {
        mem->slots[mem->slot_count++] = (struct gmem_slot){ .gpa = 0, .len = low_end, .hva = ram };
        mem->slots[mem->slot_count++] = (struct gmem_slot){
            .gpa = GIB(4), .len = size - low_end, .hva = ram + low_end, .offset = low_end
        };
    }
    return mem;
}

void gmem_free(struct gmem *mem)
{
    if (!mem)
        return;
    anonmem_unmap(&mem->ram);
    free(mem);
}

unsigned gmem_slot_count(const struct gmem *mem)
{
    return mem->slot_count;
}

struct gmem_slot gmem_slot_at(const struct gmem *mem, unsigned i)
{
    BUG_ON(i >= mem->slot_count);
    return mem->slots[i];
}

uint64_t gmem_size(const struct gmem *mem)
{
    return mem->ram.size;
}

int gmem_fd(const struct gmem *mem)
{
    return mem->ram.fd;
}

void *gmem_span(const struct gmem *mem, uint64_t gpa, uint64_t len, enum gmem_access access)
{
    (void)access; /* all of RAM is writable; a caller that lies about it misses only gmem_written */
    if (!len)
        return NULL;
    for (unsigned i = 0; i < mem->slot_count; i++) {
        const struct gmem_slot *s = &mem->slots[i];

        /* In this order nothing can wrap. */
        if (gpa >= s->gpa && gpa - s->gpa < s->len && len <= s->len - (gpa - s->gpa))
            return s->hva + (gpa - s->gpa);
    }
    return NULL;
}

bool gmem_read(const struct gmem *mem, uint64_t gpa, void *buf, uint64_t len)
{
    const void *p = gmem_span(mem, gpa, len, GMEM_READ);

    if (p)
        memcpy(buf, p, len);
    return p || !len;
}

bool gmem_write(const struct gmem *mem, uint64_t gpa, const void *buf, uint64_t len)
{
    void *p = gmem_span(mem, gpa, len, GMEM_WRITE);

    if (!p)
        return !len;
    memcpy(p, buf, len);
    gmem_written(mem, gpa, len);
    return true;
}

void gmem_written(const struct gmem *mem, uint64_t gpa, uint64_t len)
{
    if (mem->hook && len)
        mem->hook(mem->hook_ctx, gpa, len);
}

void gmem_will_fill(const struct gmem *mem, uint64_t gpa, uint64_t len)
{
    const uint8_t *p = gmem_span(mem, gpa, len, GMEM_WRITE);
    uint64_t from, to;

    if (!p || len < ANONMEM_LARGE || mem->ram.fd < 0)
        return;
    from = align_down((uint64_t)(p - mem->ram.at), ANONMEM_LARGE);
    to = min_u64(align_up((uint64_t)(p - mem->ram.at) + len, ANONMEM_LARGE),
                 align_down(mem->ram.size, ANONMEM_LARGE));
    anonmem_make_large(mem->ram.at + from, to - from);
}

bool gmem_discard(const struct gmem *mem, uint64_t gpa, uint64_t len)
{
    uint8_t *p = gmem_span(mem, gpa, len, GMEM_WRITE);
    const uint64_t before = align_up(gpa, GMEM_PAGE) - gpa;
    uint64_t whole;

    if (!p)
        return false;
    whole = len > before ? align_down(len - before, GMEM_PAGE) : 0;
    if (!whole)
        return true;
    if (!anonmem_discard(&mem->ram, p + before, whole))
        return false;
    gmem_written(mem, gpa + before, whole);
    return true;
}

void gmem_set_write_hook(struct gmem *mem, void (*hook)(void *ctx, uint64_t gpa, uint64_t len), void *ctx)
{
    mem->hook = hook;
    mem->hook_ctx = ctx;
}
