/* The event loop of one machine: file descriptors, timers and posted calls, all served on its own thread.
 *
 * Every function may be called from any thread unless it says otherwise. Callbacks run on the loop thread
 * with no loop lock held and may call every function here. After loop_fd_remove / loop_timer_free returns on
 * another thread, the callback is not running and will not run again: hold no lock there that the callback
 * takes. */
#ifndef HOST_LOOP_H
#define HOST_LOOP_H

#include "util/err.h"

struct loop;
struct loop_fd;
struct loop_event;
struct loop_timer;

enum { LOOP_READ = 1, LOOP_WRITE = 2, LOOP_HANGUP = 4 };

struct loop *loop_new(struct yado_error *err);
bool loop_start(struct loop *loop, const char *thread_name, struct yado_error *err); /* starts the thread */
void loop_stop(struct loop *loop); /* joins the thread; not from the loop thread. Idempotent */
void loop_free(struct loop *loop); /* stopped; NULL is fine */
bool loop_on_thread(const struct loop *loop);

/* Watches fd for `events` (0 pauses, hang-up included). The fd stays the caller's, who removes the watch
 * before closing it. On hang-up or error fn gets LOOP_HANGUP together with those of READ and WRITE that are
 * watched, so that read() and write() tell what happened. Files that never block (regular files, /dev/null)
 * are always ready. */
struct loop_fd *loop_fd_add(struct loop *loop, int fd, unsigned events,
                            void (*fn)(void *ctx, unsigned events), void *ctx, struct yado_error *err);
void loop_fd_events(struct loop_fd *w, unsigned events);
void loop_fd_remove(struct loop_fd *w); /* NULL is fine */

/* A counter that somebody else raises through its descriptor, as the kernel does for a guest's write: writing
 * 8 bytes adds, never blocks. fn runs soon after; one call may stand for many. NULL and err: HOST. */
struct loop_event *loop_event_new(struct loop *loop, void (*fn)(void *ctx), void *ctx,
                                  struct yado_error *err);
int loop_event_fd(const struct loop_event *e);
void loop_event_free(struct loop_event *e); /* as loop_fd_remove; NULL is fine */

/* A one-shot timer on CLOCK_MONOTONIC. NULL if out of memory. */
struct loop_timer *loop_timer_new(struct loop *loop, void (*fn)(void *ctx), void *ctx);
void loop_timer_arm(struct loop_timer *t, uint64_t deadline_ns);
void loop_timer_disarm(
    struct loop_timer *t); /* does not wait: the callback may be running on the loop thread */
void loop_timer_free(struct loop_timer *t); /* NULL is fine */

/* Runs fn(ctx) on the loop thread soon, in the order of posting. False only if out of memory. Calls posted
 * before loop_start run once it has started, those posted before loop_stop run before it returns, later ones
 * never. */
bool loop_post(struct loop *loop, void (*fn)(void *ctx), void *ctx);

#endif
