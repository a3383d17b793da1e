/* Threads and conditions of macOS: see host/thread.h. */
#include "host/thread.h"

#include <errno.h>
#include <signal.h>
#include <time.h>

#include "host/clock.h"

struct start {
    void *(*fn)(void *arg);
    void *arg;
    const char *name;
    pthread_mutex_t lock;
    pthread_cond_t taken;
    bool is_taken;
};

/* A thread of macOS can only name itself, so the name is told to it, and the starter waits until it has it.
 */
static void *named_main(void *arg)
{
    struct start *s = arg;
    void *(*fn)(void *) = s->fn;
    void *fn_arg = s->arg;

    pthread_setname_np(s->name);
    pthread_mutex_lock(&s->lock);
    s->is_taken = true;
    pthread_cond_signal(&s->taken);
    pthread_mutex_unlock(&s->lock);
    return fn(fn_arg);
}

static void library_signal_mask(sigset_t *set)
{
    static const int own[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS };

    sigfillset(set);
    for (size_t i = 0; i < array_size(own); i++)
        sigdelset(set, own[i]);
}

bool thread_start(pthread_t *out, const char *name, void *(*fn)(void *arg), void *arg, struct yado_error *err)
{
    struct start s = { fn, arg, name, PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false };
    sigset_t ours, callers;
    int error;

    /* The mask is inherited, so the new thread never runs with the caller's. */
    library_signal_mask(&ours);
    pthread_sigmask(SIG_SETMASK, &ours, &callers);
    error = pthread_create(out, NULL, named_main, &s);
    pthread_sigmask(SIG_SETMASK, &callers, NULL);
    if (error)
        return err_set_errno(err, YADO_ERR_HOST, error, "cannot start thread %s", name);
    pthread_mutex_lock(&s.lock);
    while (!s.is_taken)
        pthread_cond_wait(&s.taken, &s.lock);
    pthread_mutex_unlock(&s.lock);
    return true;
}

void thread_cond_init(pthread_cond_t *cond)
{
    pthread_cond_init(cond, NULL);
}

bool thread_cond_wait_until(pthread_cond_t *cond, pthread_mutex_t *lock, uint64_t deadline_ns)
{
    const struct clock clock = clock_host();
    const uint64_t now = clock_now(&clock), left = deadline_ns > now ? deadline_ns - now : 0;
    struct timespec t = { .tv_sec = (time_t)(left / 1000000000u), .tv_nsec = (long)(left % 1000000000u) };

    return pthread_cond_timedwait_relative_np(cond, lock, &t) != ETIMEDOUT;
}
