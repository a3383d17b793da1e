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

#endif
