/* Large host pages under the code cache.
 *
 * Theory of operation. A guest's kernel and programs run all over the cache, so with pages of 4 KiB the host
 * misses its TLB for instructions much, and dearly where it is a virtual machine itself. Few hosts give
 * shared memory large pages by themselves, but they make one of a stretch when asked to (jitmem_make_large).
 *
 * Code is made in two places, each of which moves up through its part once; then segments in either part are
 * used again (cache_evict.c), with the pages as they are. A worker makes a stretch large before anything is
 * in it: who touches one that is being made waits until that is done, milliseconds, and with the code's lock
 * so would all vCPUs. Only the first stretch of each part is waited for like that, once some of it is in use:
 * so a small guest takes no memory for it, and any other less than two stretches in each part ahead of what
 * it uses.
 *
 * That a stretch stays small costs time only, so nothing is told of it. */
#include "engine/translator/cache_large.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

#define TRIES 3 /* for each stretch: pages that come into use in the same moment are in the way */

struct cache_large {
    struct large_worker *worker;
    struct jitmem *mem;
    size_t begin[LARGE_FRONTS], told[LARGE_FRONTS], end[LARGE_FRONTS]; /* multiples of JITMEM_LARGE */
    _Atomic bool never;                                                /* the host will not do it */
    _Atomic uint64_t count;
};

static void make(void *arg, size_t at)
{
    struct cache_large *l = arg;
    for (unsigned i = 0; i < TRIES && !atomic_load(&l->never); i++) {
        if (jitmem_make_large(l->mem, at)) {
            atomic_fetch_add(&l->count, 1);
            return;
        }
        if (errno != EAGAIN) {
            atomic_store(&l->never, errno == EINVAL);
            return;
        }
    }
}

struct cache_large *cache_large_open(struct large_worker *worker, struct jitmem *mem, size_t cold)
{
    if (!worker || !jitmem_can_large(mem))
        return NULL;
    struct cache_large *l = calloc(1, sizeof *l);
    if (!l)
        return NULL;
    l->worker = worker;
    l->mem = mem;
    l->end[LARGE_HOT] = align_down(cold, JITMEM_LARGE);
    l->end[LARGE_COLD] = align_down(mem->size, JITMEM_LARGE);
    l->begin[LARGE_COLD] = l->told[LARGE_COLD] = l->end[LARGE_HOT];
    return l;
}

void cache_large_close(struct cache_large *l)
{
    free(l);
}

/* Where a front is when the next stretch is due. */
static size_t due(const struct cache_large *l, enum large_front f)
{
    return l->told[f] == l->begin[f] ? l->told[f] + LARGE_AFTER : l->told[f] - LARGE_BEFORE;
}

void cache_large_reached(struct cache_large *l, enum large_front front, size_t pos)
{
    if (!l || atomic_load_explicit(&l->never, memory_order_relaxed))
        return;
    while (l->told[front] < l->end[front] && pos >= due(l, front) &&
           large_worker_ask(l->worker, make, l, l->told[front]))
        l->told[front] += JITMEM_LARGE;
}

uint64_t cache_large_count(const struct cache_large *l)
{
    return l ? atomic_load(&l->count) : 0;
}
