/* Large host pages under the code cache.
 *
 * Theory of operation. A guest's kernel and programs run all over the cache, so with pages of 4 KiB the host
 * misses its TLB for instructions much, and dearly where it is a virtual machine itself. Few hosts give
 * shared memory large pages by themselves, but they make one of a stretch of small ones when asked to
 * (jitmem_make_large).
 *
 * Code is made in two places, each of which moves up through its part once; then segments in either part are
 * used again (cache_evict.c), with the pages as they are. When one has come LARGE_AFTER far into a stretch, a
 * thread is told to make the stretch large: so a small guest takes no memory for it, and any other less than
 * a stretch in each part ahead of what it uses. vCPUs go on in the meantime: the host waits for all its CPUs
 * before it begins, which takes long where they are busy; while it moves the bytes, who touches them waits
 * for the blink of an eye.
 *
 * That a stretch stays small costs time only, so nothing is told of it. */
#include "engine/translator/cache_large.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "host/thread.h"

#define TRIES 3 /* for each stretch: pages that come into use in the same moment are in the way */

struct cache_large {
    struct jitmem *mem;
    /* Of each front, multiples of JITMEM_LARGE: */
    size_t told[LARGE_FRONTS], end[LARGE_FRONTS]; /* the caller's */
    size_t done[LARGE_FRONTS];                    /* the thread's */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    size_t wanted[LARGE_FRONTS]; /* these two under the lock */
    bool stop;
    _Atomic uint64_t count;
};

/* False: the host will never do it. */
static bool make(struct cache_large *l, size_t at)
{
    for (unsigned i = 0; i < TRIES; i++) {
        if (jitmem_make_large(l->mem, at)) {
            atomic_fetch_add(&l->count, 1);
            return true;
        }
        if (errno != EAGAIN)
            return errno != EINVAL;
    }
    return true;
}

/* A front with something to do, or LARGE_FRONTS when it is time to end. */
static enum large_front next(struct cache_large *l)
{
    enum large_front f = LARGE_FRONTS;
    pthread_mutex_lock(&l->lock);
    while (!l->stop) {
        for (f = 0; f < LARGE_FRONTS && l->done[f] == l->wanted[f]; f++)
            ;
        if (f < LARGE_FRONTS)
            break;
        pthread_cond_wait(&l->changed, &l->lock);
    }
    pthread_mutex_unlock(&l->lock);
    return f;
}

static void *large_main(void *arg)
{
    struct cache_large *l = arg;
    for (;;) {
        enum large_front f = next(l);
        if (f == LARGE_FRONTS || !make(l, l->done[f]))
            return NULL;
        l->done[f] += JITMEM_LARGE;
    }
}

struct cache_large *cache_large_start(struct jitmem *mem, size_t cold)
{
    if (!jitmem_can_large(mem))
        return NULL;
    struct cache_large *l = calloc(1, sizeof *l);
    if (!l)
        return NULL;
    l->mem = mem;
    l->end[LARGE_HOT] = align_down(cold, JITMEM_LARGE);
    l->end[LARGE_COLD] = align_down(mem->size, JITMEM_LARGE);
    l->told[LARGE_COLD] = l->done[LARGE_COLD] = l->wanted[LARGE_COLD] = l->end[LARGE_HOT];
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->changed, NULL);
    if (thread_start(&l->thread, "yado-large", large_main, l, NULL))
        return l;
    pthread_cond_destroy(&l->changed);
    pthread_mutex_destroy(&l->lock);
    free(l);
    return NULL;
}

void cache_large_stop(struct cache_large *l)
{
    if (!l)
        return;
    pthread_mutex_lock(&l->lock);
    l->stop = true;
    pthread_cond_signal(&l->changed);
    pthread_mutex_unlock(&l->lock);
    pthread_join(l->thread, NULL);
    pthread_cond_destroy(&l->changed);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

void cache_large_reached(struct cache_large *l, enum large_front front, size_t pos)
{
    if (!l || pos < l->told[front] + LARGE_AFTER || l->told[front] == l->end[front])
        return;
    size_t to = align_down(pos - LARGE_AFTER, JITMEM_LARGE) + JITMEM_LARGE;
    l->told[front] = (size_t)min_u64(to, l->end[front]);
    pthread_mutex_lock(&l->lock);
    l->wanted[front] = l->told[front];
    pthread_cond_signal(&l->changed);
    pthread_mutex_unlock(&l->lock);
}

uint64_t cache_large_count(const struct cache_large *l)
{
    return l ? atomic_load(&l->count) : 0;
}
