/* The request engine of every disk: a queue and a few worker threads.
 *
 * Theory of operation
 *
 * disk_submit puts a request at the end of one FIFO and returns. WORKER_COUNT threads take requests from its
 * head, carry them out with blocking calls of the format, and call `done`. Blocking calls on threads, not an
 * asynchronous kernel interface: they work on every host, file system and seccomp policy that containers
 * have, and data in the page cache takes one copy either way. Several workers keep a device busy that needs
 * depth.
 *
 * Order: requests may end in any order, as on real hardware; a driver that needs order waits for completion.
 * A flush covers every write whose `done` was called before the flush was submitted, because the file's data
 * is synced after that. It need not wait for writes still in flight, which the driver has no answer for yet
 * (virtio 1.2, 5.2.6.2, says the same).
 *
 * in_flight counts from submit until `done` has returned, so that disk_drain and disk_close promise that no
 * callback runs any more. `done` may submit further requests and may free its request: nothing touches the
 * request after it. */
#include "disk/disk.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "disk/format.h"
#include "host/thread.h"

#define WORKER_COUNT 4

struct disk {
    const struct disk_format_ops *ops;
    void *format;
    uint64_t size;
    struct disk_options opt;

    pthread_mutex_t lock; /* guards all below; a leaf: no format call and no callback runs under it */
    pthread_cond_t work;  /* a request was queued, or stop was set */
    pthread_cond_t idle;  /* in_flight became 0 */
    struct disk_request *head, **tail;
    unsigned in_flight;
    unsigned sleepers; /* workers that wait for `work` */
    bool stop;

    unsigned worker_count; /* owner's thread only */
    pthread_t workers[WORKER_COUNT];
};

static int request_execute(struct disk *d, const struct disk_request *req)
{
    if (d->opt.read_only && req->op != DISK_READ && req->op != DISK_FLUSH)
        return EROFS;
    switch (req->op) {
    case DISK_READ: return d->ops->read(d->format, req);
    case DISK_WRITE: return d->ops->write(d->format, req);
    case DISK_DISCARD: return d->ops->discard(d->format, req->off, req->len);
    case DISK_WRITE_ZEROES: return d->ops->write_zeroes(d->format, req->off, req->len, req->unmap);
    case DISK_FLUSH: return d->opt.read_only || d->opt.sync == DISK_SYNC_NONE ? 0 : d->ops->flush(d->format);
    }
    return EINVAL;
}

static void *worker_main(void *arg)
{
    struct disk *d = arg;

    pthread_mutex_lock(&d->lock);
    for (;;) {
        struct disk_request *req = d->head;

        if (!req) {
            if (d->stop)
                break;
            d->sleepers++;
            pthread_cond_wait(&d->work, &d->lock);
            d->sleepers--;
            continue;
        }
        d->head = req->next;
        if (!d->head)
            d->tail = &d->head;
        pthread_mutex_unlock(&d->lock);
        req->done(req, request_execute(d, req));
        pthread_mutex_lock(&d->lock);
        if (!--d->in_flight)
            pthread_cond_broadcast(&d->idle);
    }
    pthread_mutex_unlock(&d->lock);
    return NULL;
}

struct disk *disk_new(const struct disk_format_ops *ops, void *format, const char *name, uint64_t size,
                      const struct disk_options *opt, struct yado_error *err)
{
    struct disk *d = calloc(1, sizeof(*d));

    if (!d) {
        ops->close(format);
        err_set(err, YADO_ERR_HOST, "%s: out of memory", name);
        return NULL;
    }
    *d = (struct disk){ .ops = ops, .format = format, .size = size, .opt = *opt };
    d->tail = &d->head;
    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->work, NULL);
    pthread_cond_init(&d->idle, NULL);
    while (d->worker_count < WORKER_COUNT) {
        char thread_name[16];

        snprintf(thread_name, sizeof(thread_name), "yado-disk%u", d->worker_count);
        if (!thread_start(&d->workers[d->worker_count], thread_name, worker_main, d, err)) {
            err_prepend(err, "%s", name);
            disk_close(d);
            return NULL;
        }
        d->worker_count++;
    }
    return d;
}

void disk_close(struct disk *d)
{
    if (!d)
        return;
    disk_drain(d);
    pthread_mutex_lock(&d->lock);
    d->stop = true;
    pthread_cond_broadcast(&d->work);
    pthread_mutex_unlock(&d->lock);
    for (unsigned i = 0; i < d->worker_count; i++)
        pthread_join(d->workers[i], NULL);
    d->ops->close(d->format);
    pthread_cond_destroy(&d->idle);
    pthread_cond_destroy(&d->work);
    pthread_mutex_destroy(&d->lock);
    free(d);
}

uint64_t disk_size(const struct disk *d)
{
    return d->size;
}

bool disk_read_only(const struct disk *d)
{
    return d->opt.read_only;
}

void disk_submit(struct disk *d, struct disk_request *req)
{
    bool must_wake;

    req->next = NULL;
    pthread_mutex_lock(&d->lock);
    BUG_ON(d->stop);
    *d->tail = req;
    d->tail = &req->next;
    d->in_flight++;
    must_wake = d->sleepers != 0;
    pthread_mutex_unlock(&d->lock);
    if (must_wake)
        pthread_cond_signal(&d->work);
}

void disk_drain(struct disk *d)
{
    pthread_mutex_lock(&d->lock);
    while (d->in_flight)
        pthread_cond_wait(&d->idle, &d->lock);
    pthread_mutex_unlock(&d->lock);
}
