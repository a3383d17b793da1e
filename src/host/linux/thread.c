/* Thread start with a name and a signal mask. */
#include "host/thread.h"

#include <signal.h>
#include <stdio.h>

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
