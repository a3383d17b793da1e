/* Callbacks wait here until their thread comes for them. See api/queue.h. */
#include "api/queue.h"

#include <stdlib.h>

#include "host/thread.h"
#include "util/err.h"

bool queue_init(struct callback_queue *q, struct yado_error *err)
{
    *q = (struct callback_queue){ 0 };
    pthread_mutex_init(&q->lock, NULL);
    thread_cond_init(&q->moved);
    q->tail = &q->head;
    return wake_open(&q->wake, err);
}

void queue_destroy(struct callback_queue *q)
{
    while (q->head) {
        struct callback *c = q->head;

        q->head = c->next;
        if (c->run)
            c->run(c, false);
        else
            free(c);
    }
    wake_close(&q->wake);
    pthread_cond_destroy(&q->moved);
    pthread_mutex_destroy(&q->lock);
}

static void moved_locked(struct callback_queue *q)
{
    q->moves++;
    pthread_cond_broadcast(&q->moved);
}

void queue_wake(struct callback_queue *q)
{
    pthread_mutex_lock(&q->lock);
    moved_locked(q);
    pthread_mutex_unlock(&q->lock);
    wake_set(&q->wake);
}

void queue_push(struct callback_queue *q, struct callback *c)
{
    c->next = NULL;
    pthread_mutex_lock(&q->lock);
    *q->tail = c;
    q->tail = &c->next;
    moved_locked(q);
    pthread_mutex_unlock(&q->lock);
    wake_set(&q->wake);
}

static struct callback *queue_pop(struct callback_queue *q)
{
    struct callback *c;

    pthread_mutex_lock(&q->lock);
    c = q->head;
    if (c) {
        q->head = c->next;
        if (!q->head)
            q->tail = &q->head;
    }
    pthread_mutex_unlock(&q->lock);
    return c;
}

static bool queue_claim(struct callback_queue *q)
{
    bool mine;

    pthread_mutex_lock(&q->lock);
    mine = !q->dispatching;
    q->dispatching = true;
    q->awaited |= !mine;
    pthread_mutex_unlock(&q->lock);
    return mine;
}

static void queue_release(struct callback_queue *q, bool ran_some)
{
    pthread_mutex_lock(&q->lock);
    q->dispatching = false;
    if (ran_some || q->awaited)
        moved_locked(q);
    q->awaited = false;
    pthread_mutex_unlock(&q->lock);
}

unsigned queue_dispatch(struct callback_queue *q)
{
    unsigned count = 0;
    struct callback *c;

    if (!queue_claim(q))
        return 0;
    /* Cleared first: what is pushed from now on sets it again. */
    wake_clear(&q->wake);
    while ((c = queue_pop(q))) {
        count++;
        if (c->run) {
            c->run(c, true);
            continue;
        }
        if (c->done)
            c->done(c->done_ctx, c->error.code == YADO_OK ? NULL : &c->error);
        else if (q->on_event)
            q->on_event(q->event_ctx, &c->event);
        free(c);
    }
    queue_release(q, count > 0);
    return count;
}

bool queue_idle(struct callback_queue *q)
{
    bool idle;

    pthread_mutex_lock(&q->lock);
    idle = !q->head && !q->dispatching;
    q->awaited |= q->dispatching;
    pthread_mutex_unlock(&q->lock);
    return idle;
}

uint64_t queue_moves(struct callback_queue *q)
{
    uint64_t moves;

    pthread_mutex_lock(&q->lock);
    moves = q->moves;
    pthread_mutex_unlock(&q->lock);
    return moves;
}

bool queue_await(struct callback_queue *q, uint64_t moves, uint64_t deadline_ns)
{
    bool late = false;

    pthread_mutex_lock(&q->lock);
    while (q->moves == moves && !late) {
        if (deadline_ns == UINT64_MAX)
            pthread_cond_wait(&q->moved, &q->lock);
        else
            late = !thread_cond_wait_until(&q->moved, &q->lock, deadline_ns);
    }
    pthread_mutex_unlock(&q->lock);
    return !late;
}
