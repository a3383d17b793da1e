/* Descriptors for interrupt messages.
 *
 * Theory of operation. An engine that has irqfd_set can be given an eventfd that stands for a message. To set
 * one costs the kernel a new routing table and a wait for all that read the old one, while most vectors are
 * set up and masked and set up anew several times while a guest boots, and many never send much. So an origin
 * begins by sending its messages one by one, and gets its descriptor when the same message has gone out
 * PROMOTE_AFTER times in a row. Another message (the guest has moved the interrupt to another CPU) goes back
 * to the beginning; the descriptor stays and is told the new message in its turn.
 *
 * The lock of an origin is held over the write, so that a message never goes out by a descriptor that
 * another thread is about to change. */
#include "machine/msi_route.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define PROMOTE_AFTER 32

struct msi_route {
    pthread_mutex_t lock; /* taken inside device locks; the engine takes its own inside */
    uint64_t addr;        /* the message that was sent last */
    uint32_t data;
    unsigned sent; /* in a row, up to PROMOTE_AFTER */
    int fd;        /* -1: none yet */
    bool by_fd;    /* the engine knows fd as this message */
    bool refused;  /* no descriptors to be had */
};

static struct msi_route *route_of(struct msi_source *src)
{
    void *there = atomic_load(&src->route);
    struct msi_route *r;

    if (there)
        return there;
    r = calloc(1, sizeof(*r));
    if (!r)
        return NULL;
    pthread_mutex_init(&r->lock, NULL);
    r->fd = -1;
    if (atomic_compare_exchange_strong(&src->route, &there, r))
        return r;
    pthread_mutex_destroy(&r->lock);
    free(r);
    return there;
}

static void promote(const struct engine_ops *ops, struct engine_vm *vm, struct msi_route *r)
{
    if (r->fd < 0)
        r->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    r->by_fd = r->fd >= 0 && ops->irqfd_set(vm, r->fd, r->addr, r->data, NULL);
    r->refused = !r->by_fd;
}

void msi_route_send(const struct engine_ops *ops, struct engine_vm *vm, struct msi_source *src, uint64_t addr,
                    uint32_t data)
{
    struct msi_route *r = ops->irqfd_set ? route_of(src) : NULL;

    if (!r) {
        ops->msi(vm, addr, data);
        return;
    }
    pthread_mutex_lock(&r->lock);
    if (r->addr != addr || r->data != data) {
        r->addr = addr;
        r->data = data;
        r->sent = 0;
        r->by_fd = false;
    }
    if (!r->by_fd && !r->refused && ++r->sent >= PROMOTE_AFTER)
        promote(ops, vm, r);
    if (!r->by_fd || eventfd_write(r->fd, 1) < 0)
        ops->msi(vm, addr, data);
    pthread_mutex_unlock(&r->lock);
}

void msi_route_forget(const struct engine_ops *ops, struct engine_vm *vm, struct msi_source *src)
{
    struct msi_route *r = atomic_exchange(&src->route, NULL);

    if (!r)
        return;
    if (r->fd >= 0) {
        ops->irqfd_drop(vm, r->fd);
        close(r->fd);
    }
    pthread_mutex_destroy(&r->lock);
    free(r);
}
