/* Private to loop.c and loop_timer.c. */
#ifndef HOST_LINUX_LOOP_IMPL_H
#define HOST_LINUX_LOOP_IMPL_H

#include <pthread.h>
#include <stdatomic.h>

#include "host/loop.h"

struct loop_post {
    void (*fn)(void *ctx);
    void *ctx;
    struct loop_post *next;
};

struct loop {
    int epoll_fd, wake_fd, timer_fd;
    pthread_t thread;
    bool started;                 /* between loop_start and loop_stop, which the owner calls in order */
    _Atomic(uintptr_t) thread_id; /* pthread_self of the running thread, 0: none; written by that thread */

    /* Guards all below. A leaf: no other lock is taken inside, no callback runs under it. */
    pthread_mutex_t lock;
    pthread_cond_t callback_done;
    const void *running; /* the watch or timer whose callback runs now */
    bool stop;
    struct loop_fd *watches; /* all that are not removed */
    struct loop_fd *removed; /* freed by the loop thread when no event can name them any more */
    unsigned always_ready;   /* watches that epoll refuses and that are not paused */
    struct loop_post *posts, **posts_tail;
    struct loop_timer **heap; /* armed timers, earliest first */
    size_t heap_count, heap_room;
    size_t timer_count; /* timers alive; heap_room is never less, so arming cannot fail */
};

/* Runs fn(ctx) marked as `running` without the lock; takes and leaves it held. */
void loop_call_locked(struct loop *loop, const void *owner, void (*fn)(void *ctx), void *ctx);
/* Returns when owner's callback is not running, or at once on the loop thread. */
void loop_wait_locked(struct loop *loop, const void *owner);

/* Runs the timers that were due when it was called. */
void loop_timers_run_locked(struct loop *loop);

#endif
