/* Serial queues of libdispatch: a thread each, which runs what it is given, in order. No pool is open around
 * a piece of work: libdispatch drains its own at times that nobody may count on. */
#include <stdlib.h>
#include <string.h>

#include "rt.h"

struct work {
    struct work *next;
    void (*fn)(void *ctx);
    void *ctx;
    bool *is_done; /* of a synchronous caller; with lock */
};

struct queue {
    id obj;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct work *first, **last;
    bool ends;
};

static _Thread_local struct queue *current;

static void work_run(struct queue *q, struct work *w)
{
    w->fn(w->ctx);
    pthread_mutex_lock(&q->lock);
    if (w->is_done) {
        *w->is_done = true;
        pthread_cond_broadcast(&q->changed);
    }
    pthread_mutex_unlock(&q->lock);
    free(w);
}

static void *queue_main(void *arg)
{
    struct queue *q = arg;
    struct work *w;

    current = q;
    pthread_mutex_lock(&q->lock);
    while (q->first || !q->ends) {
        w = q->first;
        if (!w) {
            pthread_cond_wait(&q->changed, &q->lock);
            continue;
        }
        q->first = w->next;
        if (!q->first)
            q->last = &q->first;
        pthread_mutex_unlock(&q->lock);
        work_run(q, w);
        pthread_mutex_lock(&q->lock);
    }
    pthread_mutex_unlock(&q->lock);
    pthread_mutex_destroy(&q->lock);
    pthread_cond_destroy(&q->changed);
    free(q);
    return NULL;
}

static struct queue *queue_of(id obj, const void *caller, const char *what)
{
    object_check(obj, caller, what);
    if (!is_kind(obj, "OS_dispatch_queue_serial"))
        standin_fail(caller, "%s: a %s is no queue", what, object_class_name(object_find(obj)));
    return (struct queue *)(uintptr_t)property_number(obj, "queue");
}

/* The last owner is gone, perhaps on the queue itself. */
static void queue_died(id obj, void *ctx)
{
    struct queue *q = ctx;

    (void)obj;
    pthread_mutex_lock(&q->lock);
    q->ends = true;
    pthread_cond_broadcast(&q->changed);
    pthread_mutex_unlock(&q->lock);
}

id dispatch_queue_create(const char *label, id attributes)
{
    const void *caller = __builtin_return_address(0);
    struct queue *q = calloc(1, sizeof(*q));
    pthread_attr_t detached;

    if (!label || attributes)
        standin_fail(caller, "dispatch_queue_create: only serial queues with a label are played");
    q->obj = object_make_named("OS_dispatch_queue_serial", caller);
    q->last = &q->first;
    pthread_mutex_init(&q->lock, NULL);
    pthread_cond_init(&q->changed, NULL);
    property_set_number(q->obj, "queue", (int64_t)(uintptr_t)q);
    object_on_death(q->obj, queue_died, q);
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    if (pthread_create(&q->thread, &detached, queue_main, q))
        standin_fail(caller, "dispatch_queue_create: no thread");
    pthread_attr_destroy(&detached);
    return q->obj;
}

void dispatch_release(id queue)
{
    const void *caller = __builtin_return_address(0);

    queue_of(queue, caller, "dispatch_release");
    object_release(queue, caller);
}

/* A queue lives while it has work: it is retained for each piece. */
struct retained_work {
    id queue;
    void (*fn)(void *ctx);
    void *ctx;
};

static void retained_run(void *arg)
{
    struct retained_work r = *(struct retained_work *)arg;

    free(arg);
    r.fn(r.ctx);
    object_release(r.queue, NULL);
}

static void push(struct queue *q, struct work w)
{
    struct work *mine = malloc(sizeof(*mine));

    *mine = w;
    pthread_mutex_lock(&q->lock);
    *q->last = mine;
    q->last = &mine->next;
    pthread_cond_broadcast(&q->changed);
    pthread_mutex_unlock(&q->lock);
}

static void async(id queue, void *ctx, void (*fn)(void *ctx), const void *caller)
{
    struct queue *q = queue_of(queue, caller, "dispatch_async_f");
    struct retained_work *r = malloc(sizeof(*r));

    *r = (struct retained_work){ queue, fn, ctx };
    object_retain(queue, caller);
    push(q, (struct work){ .fn = retained_run, .ctx = r });
}

static void sync(id queue, void *ctx, void (*fn)(void *ctx), const void *caller)
{
    struct queue *q = queue_of(queue, caller, "dispatch_sync_f");
    bool is_done = false;

    if (current == q)
        standin_fail(caller, "dispatch_sync_f to the queue that it is called on: a deadlock");
    object_retain(queue, caller);
    push(q, (struct work){ .fn = fn, .ctx = ctx, .is_done = &is_done });
    pthread_mutex_lock(&q->lock);
    while (!is_done)
        pthread_cond_wait(&q->changed, &q->lock);
    pthread_mutex_unlock(&q->lock);
    object_release(queue, caller);
}

void dispatch_async_f(id queue, void *ctx, void (*fn)(void *ctx))
{
    async(queue, ctx, fn, __builtin_return_address(0));
}

void dispatch_sync_f(id queue, void *ctx, void (*fn)(void *ctx))
{
    sync(queue, ctx, fn, __builtin_return_address(0));
}

void queue_async(id queue, void (*fn)(void *ctx), void *ctx)
{
    async(queue, ctx, fn, NULL);
}

void queue_sync(id queue, void (*fn)(void *ctx), void *ctx)
{
    sync(queue, ctx, fn, NULL);
}

bool queue_is_current(id queue)
{
    return current && current == queue_of(queue, NULL, "queue");
}
