/* Threads of the library. They keep the embedder's signals away: all are blocked but those that a thread
 * raises by its own instructions (SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS). */
#ifndef HOST_THREAD_H
#define HOST_THREAD_H

#include <pthread.h>

#include "util/err.h"

/* Starts fn(arg). The name shows in ps and gdb and is cut at 15 bytes. The caller joins the thread. Error:
 * HOST. */
bool thread_start(pthread_t *out, const char *name, void *(*fn)(void *arg), void *arg,
                  struct yado_error *err);

/* A condition whose waits end by the monotonic clock (host/clock.h). */
void thread_cond_init(pthread_cond_t *cond);
/* Waits, `lock` held, as pthread_cond_wait does, but not beyond the deadline. False: it has passed. */
bool thread_cond_wait_until(pthread_cond_t *cond, pthread_mutex_t *lock, uint64_t deadline_ns);

#endif
