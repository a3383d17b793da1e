/* Thread start with a name and a signal mask. */
#include "host/thread.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <time.h>

static void library_signal_mask(sigset_t *set)
{
    static const int own[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS };

    sigfillset(set);
    for (size_t i = 0; i < array_size(own); i++)
        sigdelset(set, own[i]);
}

bool thread_start(pthread_t *out, const char *name, void *(*fn)(void *arg), void *arg, struct yado_error *err)
{
    sigset_t ours, callers;
    char short_name[16]; /* the kernel's limit, with the end mark */
    int error;

    /* The mask is inherited, so the new thread never runs with the caller's. */
    library_signal_mask(&ours);
    pthread_sigmask(SIG_SETMASK, &ours, &callers);
    error = pthread_create(out, NULL, fn, arg);
    pthread_sigmask(SIG_SETMASK, &callers, NULL);
    if (error)
        return err_set_errno(err, YADO_ERR_HOST, error, "cannot start thread %s", name);
    snprintf(short_name, sizeof(short_name), "%.15s", name);
    pthread_setname_np(*out, short_name);
    return true;
}

void thread_cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attr;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
}

bool thread_cond_wait_until(pthread_cond_t *cond, pthread_mutex_t *lock, uint64_t deadline_ns)
{
    struct timespec t = { .tv_sec = (time_t)(deadline_ns / 1000000000u),
                          .tv_nsec = (long)(deadline_ns % 1000000000u) };

    return pthread_cond_timedwait(cond, lock, &t) != ETIMEDOUT;
}
