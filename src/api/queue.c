/* Callbacks wait here until their thread comes for them. See api/queue.h. */
#include "api/queue.h"

#include <stdlib.h>

#include "util/err.h"

bool queue_init(struct callback_queue *q, struct yado_error *err)
{
    *q = (struct callback_queue){ 0 };
    pthread_mutex_init(&q->lock, NULL);
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
    pthread_mutex_destroy(&q->lock);
}

void queue_wake(struct callback_queue *q)
{
    wake_set(&q->wake);
}

void queue_push(struct callback_queue *q, struct callback *c)
{
    c->next = NULL;
    pthread_mutex_lock(&q->lock);
    *q->tail = c;
    q->tail = &c->next;
    pthread_mutex_unlock(&q->lock);
    queue_wake(q);
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

unsigned queue_dispatch(struct callback_queue *q)
{
    unsigned count = 0;
    struct callback *c;
    bool awaited;

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
    pthread_mutex_lock(&q->lock);
    q->dispatching = false;
    awaited = q->awaited;
    q->awaited = false;
    pthread_mutex_unlock(&q->lock);
    /* Others in yado_machine_wait slept while the callbacks ran, or found the queue busy. Costs an empty
     * dispatch. */
    if (count || awaited)
        queue_wake(q);
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
