/* A thread that asks the host for large pages, so that vCPUs need not wait for them: the host waits for all
 * its CPUs before it makes one and zeroes it then, and where it is a virtual machine itself it may have to
 * get the memory from its own host first. All that takes milliseconds. */
#ifndef TRANSLATOR_LARGE_WORKER_H
#define TRANSLATOR_LARGE_WORKER_H

#include "util/base.h"

struct large_worker;

/* NULL: no thread is to be had. */
struct large_worker *large_worker_start(void);
/* What has not been begun is not done. Fine on NULL. */
void large_worker_stop(struct large_worker *w);
/* Has the thread call make(arg, at), after what was asked for before. Any thread; does not wait for the
 * host. arg lives until the worker is stopped. False: there is too much to do already, or w is NULL. */
bool large_worker_ask(struct large_worker *w, void (*make)(void *arg, size_t at), void *arg, size_t at);
/* The caller needs what it has asked for. True: it was not begun, and will not be. False: it is done, which
 * was waited for if it had been begun. */
bool large_worker_take_back(struct large_worker *w, void (*make)(void *arg, size_t at), void *arg, size_t at);

#endif
