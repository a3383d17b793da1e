/* Timers of the event loop: a binary heap whose earliest deadline is set in the loop's one timerfd. Arming
 * from another thread sets the timerfd directly, so it needs no wake-up of the loop. */
#include <stdlib.h>
#include <sys/timerfd.h>
#include <time.h>

#include "host/clock.h"
#include "host/linux/loop_impl.h"

#define NOT_ARMED SIZE_MAX
#define NS_PER_SEC 1000000000u

struct loop_timer {
    struct loop *loop;
    void (*fn)(void *ctx);
    void *ctx;
    uint64_t deadline_ns;
    size_t index;  /* in the heap, or NOT_ARMED */
    bool is_dying; /* loop_timer_free waits for the callback, which may not arm it any more */
};

static void heap_put(struct loop *loop, size_t i, struct loop_timer *t)
{
    loop->heap[i] = t;
    t->index = i;
}

/* Moves the entry at i to where its deadline belongs. */
static void heap_settle(struct loop *loop, size_t i)
{
    struct loop_timer *t = loop->heap[i];

    while (i > 0 && loop->heap[(i - 1) / 2]->deadline_ns > t->deadline_ns) {
        heap_put(loop, i, loop->heap[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
    for (;;) {
        size_t child = 2 * i + 1;

        if (child + 1 < loop->heap_count &&
            loop->heap[child + 1]->deadline_ns < loop->heap[child]->deadline_ns)
            child++;
        if (child >= loop->heap_count || loop->heap[child]->deadline_ns >= t->deadline_ns)
            break;
        heap_put(loop, i, loop->heap[child]);
        i = child;
    }
    heap_put(loop, i, t);
}

static void heap_remove(struct loop *loop, struct loop_timer *t)
{
    const size_t i = t->index;
    struct loop_timer *last = loop->heap[--loop->heap_count];

    t->index = NOT_ARMED;
    if (last == t)
        return;
    heap_put(loop, i, last);
    heap_settle(loop, i);
}

static void timerfd_update_locked(struct loop *loop)
{
    struct itimerspec spec = { 0 };

    if (loop->heap_count) {
        /* All zero would mean "off", and far deadlines must not wrap the seconds. */
        const uint64_t at = min_u64(max_u64(loop->heap[0]->deadline_ns, 1), INT64_MAX);

        spec.it_value.tv_sec = (time_t)(at / NS_PER_SEC);
        spec.it_value.tv_nsec = (long)(at % NS_PER_SEC);
    }
    timerfd_settime(loop->timer_fd, TFD_TIMER_ABSTIME, &spec, NULL);
}

/* Takes the timer out of the heap; the timerfd is set anew if it was the first. */
static void timer_disarm_locked(struct loop_timer *t)
{
    const bool was_first = t->index == 0;

    if (t->index == NOT_ARMED)
        return;
    heap_remove(t->loop, t);
    if (was_first)
        timerfd_update_locked(t->loop);
}

void loop_timers_run_locked(struct loop *loop)
{
    const struct clock clock = clock_host();
    const uint64_t now = clock_now(&clock);

    /* A callback may arm its timer in the past: bounded, so that descriptors get their turn. */
    for (size_t left = loop->heap_count; left && loop->heap_count && loop->heap[0]->deadline_ns <= now;
         left--) {
        struct loop_timer *t = loop->heap[0];

        heap_remove(loop, t);
        loop_call_locked(loop, t, t->fn, t->ctx);
    }
    timerfd_update_locked(loop);
}

struct loop_timer *loop_timer_new(struct loop *loop, void (*fn)(void *ctx), void *ctx)
{
    struct loop_timer *t = calloc(1, sizeof(*t));

    if (!t)
        return NULL;
    *t = (struct loop_timer){ .loop = loop, .fn = fn, .ctx = ctx, .index = NOT_ARMED };
    pthread_mutex_lock(&loop->lock);
    if (loop->timer_count == loop->heap_room) {
        const size_t room = loop->heap_room ? 2 * loop->heap_room : 8;
        struct loop_timer **heap = reallocarray(loop->heap, room, sizeof(*heap));

        if (!heap) {
            pthread_mutex_unlock(&loop->lock);
            free(t);
            return NULL;
        }
        loop->heap = heap;
        loop->heap_room = room;
    }
    loop->timer_count++;
    pthread_mutex_unlock(&loop->lock);
    return t;
}

void loop_timer_arm(struct loop_timer *t, uint64_t deadline_ns)
{
    struct loop *loop = t->loop;
    bool was_first;

    pthread_mutex_lock(&loop->lock);
    if (t->is_dying) {
        pthread_mutex_unlock(&loop->lock);
        return;
    }
    was_first = t->index == 0;
    t->deadline_ns = deadline_ns;
    if (t->index == NOT_ARMED)
        heap_put(loop, loop->heap_count++, t);
    heap_settle(loop, t->index);
    if (was_first || t->index == 0)
        timerfd_update_locked(loop);
    pthread_mutex_unlock(&loop->lock);
}

void loop_timer_disarm(struct loop_timer *t)
{
    pthread_mutex_lock(&t->loop->lock);
    timer_disarm_locked(t);
    pthread_mutex_unlock(&t->loop->lock);
}

void loop_timer_free(struct loop_timer *t)
{
    struct loop *loop;

    if (!t)
        return;
    loop = t->loop;
    pthread_mutex_lock(&loop->lock);
    t->is_dying = true;
    timer_disarm_locked(t);
    loop_wait_locked(loop, t);
    loop->timer_count--;
    pthread_mutex_unlock(&loop->lock);
    free(t);
}
