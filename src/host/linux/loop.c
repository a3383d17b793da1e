/* The event loop on epoll, eventfd and timerfd.
 *
 * Theory of operation
 *
 * One thread sleeps in epoll_wait. What can wake it: watched descriptors, the wake eventfd (posted calls,
 * stop) and the timerfd, which holds the earliest deadline of all timers. Each pass runs due timers, then
 * posted calls, then the descriptors of this batch. One mutex guards all lists. It is dropped around every
 * callback, and `running` names the watch or timer whose callback is out, so that removal from another thread
 * can wait for exactly that one. Nothing waits for a callback on the loop thread itself, where removal from
 * inside a callback is legal and usual.
 *
 * Removal against events in flight: epoll hands out pointers, and a batch that was collected just before a
 * watch was taken out of epoll may still name it. A removed watch therefore goes to the `removed` list,
 * marked, and is freed by the loop thread at the end of a pass: all of that list left epoll before the next
 * epoll_wait begins, so no later batch can hold them.
 *
 * Pausing (events 0) takes the descriptor out of epoll, since epoll reports hang-up and errors whatever was
 * asked for and would spin. Regular files and devices such as /dev/null are refused by epoll with EPERM; they
 * never block, so such a watch counts as ready on every pass, and epoll_wait does not sleep while one of them
 * is not paused. On hang-up the callback gets LOOP_HANGUP together with the READ and WRITE bits it watches,
 * so that code that only knows "readable" reads and sees the end of file.
 *
 * Stop: calls posted before loop_stop still run. Later posts run never and are freed with the loop. */
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "host/linux/loop_impl.h"
#include "host/thread.h"

#define LOOP_BATCH 16

struct loop_fd {
    struct loop *loop;
    int fd;
    unsigned events;
    bool in_epoll;      /* registered now */
    bool epoll_refuses; /* always ready */
    bool is_removed;
    void (*fn)(void *ctx, unsigned events);
    void *ctx;
    struct loop_fd *next, **link; /* in watches; next also in removed */
};

static void loop_wake(struct loop *loop)
{
    const uint64_t one = 1;

    /* Fails only when the counter is full, and then the loop is awake already. */
    if (write(loop->wake_fd, &one, sizeof(one)) < 0)
        return;
}

static void counter_drain(int fd)
{
    uint64_t count;

    if (read(fd, &count, sizeof(count)) < 0)
        return; /* drained already: level triggered, nothing to do */
}

bool loop_on_thread(const struct loop *loop)
{
    return atomic_load_explicit(&loop->thread_id, memory_order_relaxed) == (uintptr_t)pthread_self();
}

void loop_call_locked(struct loop *loop, const void *owner, void (*fn)(void *ctx), void *ctx)
{
    loop->running = owner;
    pthread_mutex_unlock(&loop->lock);
    fn(ctx);
    pthread_mutex_lock(&loop->lock);
    loop->running = NULL; /* owner may be freed by now: compared, never followed */
    pthread_cond_broadcast(&loop->callback_done);
}

void loop_wait_locked(struct loop *loop, const void *owner)
{
    if (loop_on_thread(loop))
        return;
    while (loop->running == owner)
        pthread_cond_wait(&loop->callback_done, &loop->lock);
}

static void watch_call_locked(struct loop *loop, struct loop_fd *w, unsigned events)
{
    void (*fn)(void *ctx, unsigned events) = w->fn;
    void *ctx = w->ctx;

    loop->running = w;
    pthread_mutex_unlock(&loop->lock);
    fn(ctx, events);
    pthread_mutex_lock(&loop->lock);
    loop->running = NULL;
    pthread_cond_broadcast(&loop->callback_done);
}

static void watch_event_locked(struct loop *loop, struct loop_fd *w, uint32_t got)
{
    unsigned events = 0;

    if (w->is_removed || !w->events)
        return; /* removed or paused by an earlier callback of this batch */
    if (got & (EPOLLHUP | EPOLLERR))
        events = LOOP_HANGUP | (w->events & (LOOP_READ | LOOP_WRITE));
    if (got & EPOLLIN)
        events |= w->events & LOOP_READ;
    if (got & EPOLLOUT)
        events |= w->events & LOOP_WRITE;
    if (events)
        watch_call_locked(loop, w, events);
}

/* Serves the watches that epoll refuses, each at most once. A callback may remove any watch, so the list is
 * started afresh after each call; `removed` keeps the memory of the others valid meanwhile. */
static void always_ready_run_locked(struct loop *loop)
{
    unsigned left = loop->always_ready;
    struct loop_fd *w = loop->watches;

    while (w && left) {
        struct loop_fd *next = w->next;

        if (w->epoll_refuses && w->events & (LOOP_READ | LOOP_WRITE)) {
            left--;
            watch_call_locked(loop, w, w->events & (LOOP_READ | LOOP_WRITE));
            if (w->is_removed)
                return; /* its `next` is another list now; the others are served on the next pass */
            next = w->next;
        }
        w = next;
    }
}

static void posts_run_locked(struct loop *loop)
{
    struct loop_post *p = loop->posts;

    loop->posts = NULL;
    loop->posts_tail = &loop->posts;
    while (p) {
        struct loop_post *next = p->next;

        loop_call_locked(loop, NULL, p->fn, p->ctx);
        free(p);
        p = next;
    }
}

static void removed_free_locked(struct loop *loop)
{
    while (loop->removed) {
        struct loop_fd *w = loop->removed;

        loop->removed = w->next;
        free(w);
    }
}

/* One batch of epoll events. What the two counters announce is served by the caller on every pass. */
static void batch_run_locked(struct loop *loop, const struct epoll_event *batch, int count)
{
    for (int i = 0; i < count; i++) {
        if (batch[i].data.ptr == &loop->wake_fd)
            counter_drain(loop->wake_fd);
        else if (batch[i].data.ptr == &loop->timer_fd)
            counter_drain(loop->timer_fd);
    }
    loop_timers_run_locked(loop);
    posts_run_locked(loop);
    for (int i = 0; i < count; i++)
        if (batch[i].data.ptr != &loop->wake_fd && batch[i].data.ptr != &loop->timer_fd)
            watch_event_locked(loop, batch[i].data.ptr, batch[i].events);
    always_ready_run_locked(loop);
}

static void *loop_main(void *arg)
{
    struct loop *loop = arg;
    struct epoll_event batch[LOOP_BATCH];

    atomic_store_explicit(&loop->thread_id, (uintptr_t)pthread_self(), memory_order_relaxed);
    pthread_mutex_lock(&loop->lock);
    while (!loop->stop) {
        const int timeout = loop->always_ready ? 0 : -1;
        int count;

        pthread_mutex_unlock(&loop->lock);
        count = epoll_wait(loop->epoll_fd, batch, LOOP_BATCH, timeout);
        BUG_ON(count < 0 && errno != EINTR);
        pthread_mutex_lock(&loop->lock);
        batch_run_locked(loop, batch, count);
        removed_free_locked(loop);
    }
    posts_run_locked(loop);
    atomic_store_explicit(&loop->thread_id, 0, memory_order_relaxed);
    pthread_mutex_unlock(&loop->lock);
    return NULL;
}

static bool counter_watch(struct loop *loop, int *fd)
{
    struct epoll_event ev = { .events = EPOLLIN, .data.ptr = fd };

    return !epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, *fd, &ev);
}

struct loop *loop_new(struct yado_error *err)
{
    struct loop *loop = calloc(1, sizeof(*loop));

    if (!loop) {
        err_set(err, YADO_ERR_HOST, "event loop: out of memory");
        return NULL;
    }
    pthread_mutex_init(&loop->lock, NULL);
    pthread_cond_init(&loop->callback_done, NULL);
    loop->posts_tail = &loop->posts;
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    loop->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (loop->epoll_fd >= 0 && loop->wake_fd >= 0 && loop->timer_fd >= 0 &&
        counter_watch(loop, &loop->wake_fd) && counter_watch(loop, &loop->timer_fd))
        return loop;
    err_set_errno(err, YADO_ERR_HOST, errno, "event loop: cannot make its descriptors");
    loop_free(loop);
    return NULL;
}

bool loop_start(struct loop *loop, const char *thread_name, struct yado_error *err)
{
    BUG_ON(loop->started || loop->stop);
    loop->started = thread_start(&loop->thread, thread_name, loop_main, loop, err);
    return loop->started;
}

void loop_stop(struct loop *loop)
{
    if (!loop->started)
        return;
    BUG_ON(loop_on_thread(loop));
    pthread_mutex_lock(&loop->lock);
    loop->stop = true;
    pthread_mutex_unlock(&loop->lock);
    loop_wake(loop);
    pthread_join(loop->thread, NULL);
    loop->started = false;
}

void loop_free(struct loop *loop)
{
    if (!loop)
        return;
    BUG_ON(loop->started);
    removed_free_locked(loop); /* nobody else is left */
    while (loop->posts) {
        struct loop_post *p = loop->posts;

        loop->posts = p->next;
        free(p);
    }
    free(loop->heap);
    if (loop->epoll_fd >= 0)
        close(loop->epoll_fd);
    if (loop->wake_fd >= 0)
        close(loop->wake_fd);
    if (loop->timer_fd >= 0)
        close(loop->timer_fd);
    pthread_cond_destroy(&loop->callback_done);
    pthread_mutex_destroy(&loop->lock);
    free(loop);
}

static unsigned always_weight(const struct loop_fd *w)
{
    return w->epoll_refuses && w->events & (LOOP_READ | LOOP_WRITE) ? 1 : 0;
}

/* Makes epoll watch w for `events`. 0 or errno. */
static int watch_apply_locked(struct loop_fd *w, unsigned events)
{
    struct loop *loop = w->loop;
    struct epoll_event ev = { .data.ptr = w };

    loop->always_ready -= always_weight(w);
    w->events = events;
    if (!w->epoll_refuses) {
        if (events & LOOP_READ)
            ev.events |= EPOLLIN;
        if (events & LOOP_WRITE)
            ev.events |= EPOLLOUT;
        if (!events) {
            if (w->in_epoll)
                epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, w->fd, NULL);
            w->in_epoll = false;
        } else if (!epoll_ctl(loop->epoll_fd, w->in_epoll ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, w->fd, &ev)) {
            w->in_epoll = true;
        } else if (errno == EPERM) {
            w->epoll_refuses = true;
        } else {
            return errno;
        }
    }
    loop->always_ready += always_weight(w);
    return 0;
}

struct loop_fd *loop_fd_add(struct loop *loop, int fd, unsigned events,
                            void (*fn)(void *ctx, unsigned events), void *ctx, struct yado_error *err)
{
    struct loop_fd *w = calloc(1, sizeof(*w));
    bool must_wake;
    int error;

    if (!w) {
        err_set(err, YADO_ERR_HOST, "event loop: out of memory");
        return NULL;
    }
    *w = (struct loop_fd){ .loop = loop, .fd = fd, .fn = fn, .ctx = ctx };
    pthread_mutex_lock(&loop->lock);
    error = watch_apply_locked(w, events);
    if (error) {
        pthread_mutex_unlock(&loop->lock);
        free(w);
        err_set_errno(err, YADO_ERR_HOST, error, "cannot watch file descriptor %d", fd);
        return NULL;
    }
    w->next = loop->watches;
    w->link = &loop->watches;
    if (w->next)
        w->next->link = &w->next;
    loop->watches = w;
    must_wake = always_weight(w) != 0;
    pthread_mutex_unlock(&loop->lock);
    if (must_wake)
        loop_wake(loop);
    return w;
}

void loop_fd_events(struct loop_fd *w, unsigned events)
{
    struct loop *loop = w->loop;
    bool must_wake;

    pthread_mutex_lock(&loop->lock);
    /* Registration can fail anew only for lack of kernel memory or of watches; the descriptor stays paused
     * then. */
    if (watch_apply_locked(w, events))
        w->events = 0;
    must_wake = always_weight(w) != 0;
    pthread_mutex_unlock(&loop->lock);
    if (must_wake)
        loop_wake(loop);
}

void loop_fd_remove(struct loop_fd *w)
{
    struct loop *loop;

    if (!w)
        return;
    loop = w->loop;
    pthread_mutex_lock(&loop->lock);
    watch_apply_locked(w, 0);
    w->is_removed = true;
    *w->link = w->next;
    if (w->next)
        w->next->link = w->link;
    w->next = loop->removed;
    loop->removed = w;
    /* After this w may be freed at any time: the wait below compares its address only. */
    loop_wait_locked(loop, w);
    pthread_mutex_unlock(&loop->lock);
}

bool loop_post(struct loop *loop, void (*fn)(void *ctx), void *ctx)
{
    struct loop_post *p = malloc(sizeof(*p));

    if (!p)
        return false;
    *p = (struct loop_post){ .fn = fn, .ctx = ctx };
    pthread_mutex_lock(&loop->lock);
    *loop->posts_tail = p;
    loop->posts_tail = &p->next;
    pthread_mutex_unlock(&loop->lock);
    loop_wake(loop);
    return true;
}
