/* Theory in large_worker.h. */
#include "engine/translator/large_worker.h"

#include <stdlib.h>

#include "host/thread.h"

#define JOBS 16

struct job {
    void (*make)(void *arg, size_t at);
    void *arg;
    size_t at;
};

struct large_worker {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    /* Under the lock: */
    struct job jobs[JOBS], now;
    unsigned first, count;
    bool busy; /* with now */
    bool stop;
};

/* False: it is time to end. */
static bool next(struct large_worker *w, struct job *job)
{
    pthread_mutex_lock(&w->lock);
    if (w->busy)
        pthread_cond_broadcast(&w->changed); /* that is done */
    w->busy = false;
    while (!w->stop && !w->count)
        pthread_cond_wait(&w->changed, &w->lock);
    const bool more = !w->stop;
    if (more) {
        *job = w->now = w->jobs[w->first];
        w->busy = true;
        w->first = (w->first + 1) % JOBS;
        w->count--;
    }
    pthread_mutex_unlock(&w->lock);
    return more;
}

static void *worker_main(void *arg)
{
    struct job job;

    while (next(arg, &job))
        job.make(job.arg, job.at);
    return NULL;
}

static void free_worker(struct large_worker *w)
{
    pthread_cond_destroy(&w->changed);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

struct large_worker *large_worker_start(void)
{
    struct large_worker *w = calloc(1, sizeof(*w));

    if (!w)
        return NULL;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->changed, NULL);
    if (thread_start(&w->thread, "yado-large", worker_main, w, NULL))
        return w;
    free_worker(w);
    return NULL;
}

void large_worker_stop(struct large_worker *w)
{
    if (!w)
        return;
    pthread_mutex_lock(&w->lock);
    w->stop = true;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    free_worker(w);
}

bool large_worker_ask(struct large_worker *w, void (*make)(void *arg, size_t at), void *arg, size_t at)
{
    if (!w)
        return false;
    pthread_mutex_lock(&w->lock);
    const bool room = w->count < JOBS;
    if (room) {
        w->jobs[(w->first + w->count++) % JOBS] = (struct job){ make, arg, at };
        pthread_cond_broadcast(&w->changed);
    }
    pthread_mutex_unlock(&w->lock);
    return room;
}

static bool is_same(const struct job *a, const struct job *b)
{
    return a->make == b->make && a->arg == b->arg && a->at == b->at;
}

bool large_worker_take_back(struct large_worker *w, void (*make)(void *arg, size_t at), void *arg, size_t at)
{
    const struct job job = { make, arg, at };
    bool found = false;

    pthread_mutex_lock(&w->lock);
    for (unsigned i = 0; i < w->count; i++) {
        struct job *j = &w->jobs[(w->first + i) % JOBS];

        found |= is_same(j, &job);
        if (found && i + 1 < w->count) /* those behind it move up */
            *j = w->jobs[(w->first + i + 1) % JOBS];
    }
    w->count -= found;
    while (!found && w->busy && is_same(&w->now, &job))
        pthread_cond_wait(&w->changed, &w->lock);
    pthread_mutex_unlock(&w->lock);
    return found;
}
