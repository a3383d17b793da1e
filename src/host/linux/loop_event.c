/* Counters that wake the event loop: eventfds. */
#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "host/loop.h"

struct loop_event {
    int fd;
    struct loop_fd *watch;
    void (*fn)(void *ctx);
    void *ctx;
};

static void raised(void *ctx, unsigned events)
{
    struct loop_event *e = ctx;
    eventfd_t count;

    (void)events;
    if (eventfd_read(e->fd, &count) == 0) /* taken first: what is raised during fn calls it again */
        e->fn(e->ctx);
}

struct loop_event *loop_event_new(struct loop *loop, void (*fn)(void *ctx), void *ctx, struct yado_error *err)
{
    struct loop_event *e = malloc(sizeof(*e));

    if (!e) {
        err_set(err, YADO_ERR_HOST, "out of memory");
        return NULL;
    }
    *e = (struct loop_event){ .fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .fn = fn, .ctx = ctx };
    if (e->fd < 0)
        err_set_errno(err, YADO_ERR_HOST, errno, "event loop: no descriptor for a counter");
    else
        e->watch = loop_fd_add(loop, e->fd, LOOP_READ, raised, e, err);
    if (e->watch)
        return e;
    if (e->fd >= 0)
        close(e->fd);
    free(e);
    return NULL;
}

int loop_event_fd(const struct loop_event *e)
{
    return e->fd;
}

void loop_event_free(struct loop_event *e)
{
    if (!e)
        return;
    loop_fd_remove(e->watch);
    close(e->fd);
    free(e);
}
