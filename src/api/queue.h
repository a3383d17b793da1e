/* The queue of callbacks of one machine, from the threads that cause them to the one thread that runs them.
 */
#ifndef API_QUEUE_H
#define API_QUEUE_H

#include <pthread.h>

#include <yado/machine.h>

#include "host/wake.h"

/* One callback: an event, or the completion of a verb. */
struct callback {
    struct callback *next;
    /* Not NULL: the callback is part of something larger, and this runs it (or not: `deliver` false) and
     * frees it. */
    void (*run)(struct callback *c, bool deliver);
    yado_completion done; /* NULL: it is an event */
    void *done_ctx;
    struct yado_error error; /* of a completion */
    struct yado_event event;
};

struct callback_queue {
    pthread_mutex_t lock; /* a leaf: nothing is taken under it */
    struct callback *head, **tail;
    struct wake wake;     /* set while something waits, or after queue_wake. For the program's poll: whoever
                             dispatches clears it, so threads of this library wait for `moved` */
    pthread_cond_t moved; /* with lock; monotonic clock */
    uint64_t moves;       /* something was pushed, run, or told by queue_wake */
    bool dispatching;     /* some thread runs callbacks: one at a time, in order */
    bool awaited;         /* meanwhile another one came, or asked whether the queue is idle */
    void (*on_event)(void *ctx, const struct yado_event *event);
    void *event_ctx;
};

bool queue_init(struct callback_queue *q, struct yado_error *err);
void queue_destroy(struct callback_queue *q); /* drops what waits. Only after queue_init, success or not */

/* Takes c over. Any thread. */
void queue_push(struct callback_queue *q, struct callback *c);
/* Sets `wake` once, and ends waits. Any thread. */
void queue_wake(struct callback_queue *q);
/* Runs what waits, on this thread, and returns how many; 0 if another thread is at it. */
unsigned queue_dispatch(struct callback_queue *q);
bool queue_idle(struct callback_queue *q); /* nothing waits and nothing is being run */
/* Waits until something has moved since queue_moves gave `moves`, a change of queue_idle included. False: the
 * deadline (host/clock.h; UINT64_MAX: none) passed first. */
uint64_t queue_moves(struct callback_queue *q);
bool queue_await(struct callback_queue *q, uint64_t moves, uint64_t deadline_ns);

#endif
