/* Callbacks wait here until their thread comes for them. See api/queue.h. */
#include "api/queue.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "util/err.h"

bool queue_init(struct callback_queue *q, struct yado_error *err)
{
    *q = (struct callback_queue){ 0 };
    pthread_mutex_init(&q->lock, NULL);
    q->tail = &q->head;
    q->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (q->event_fd < 0)
        return err_set_errno(err, YADO_ERR_HOST, errno, "cannot make an event descriptor");
    return true;
}

void queue_destroy(struct callback_queue *q)
{
    while (q->head) {
        struct callback *c = q->head;

        q->head = c->next;
        free(c);
    }
    if (q->event_fd >= 0)
        close(q->event_fd);
    pthread_mutex_destroy(&q->lock);
}

void queue_wake(struct callback_queue *q)
{
    uint64_t one = 1;

    /* Fails only when the counter is full, and then the descriptor is readable anyway. */
    if (write(q->event_fd, &one, sizeof(one)) < 0)
        return;
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
    pthread_mutex_unlock(&q->lock);
    return mine;
}

unsigned queue_dispatch(struct callback_queue *q)
{
    unsigned count = 0;
    struct callback *c;
    uint64_t ignored;

    if (!queue_claim(q))
        return 0;
    /* Cleared first: what is pushed from now on makes it readable again. */
    if (read(q->event_fd, &ignored, sizeof(ignored)) < 0 && errno != EAGAIN)
        count = 0;
    while ((c = queue_pop(q))) {
        if (c->done)
            c->done(c->done_ctx, c->error.code == YADO_OK ? NULL : &c->error);
        else if (q->on_event)
            q->on_event(q->event_ctx, &c->event);
        free(c);
        count++;
    }
    pthread_mutex_lock(&q->lock);
    q->dispatching = false;
    pthread_mutex_unlock(&q->lock);
    if (count)
        queue_wake(
            q); /* for a thread in yado_machine_wait that found the queue busy; costs one empty dispatch */
    return count;
}

bool queue_idle(struct callback_queue *q)
{
    bool idle;

    pthread_mutex_lock(&q->lock);
    idle = !q->head && !q->dispatching;
    pthread_mutex_unlock(&q->lock);
    return idle;
}
