/* See relay.h.
 *
 * Theory of operation. One thread for all pairs of a machine. It polls what can go on: a direction with an
 * empty buffer waits for its source to be readable, one with bytes waits for its sink to take them; a
 * descriptor that nobody waits for is left out, so that a hang-up there cannot make it spin. Reads and writes
 * are non-blocking by flag of the call, since flags of the descriptors are shared with whoever else holds
 * them. A sink that is gone raises no signal: macOS would send it to the process, whatever this thread
 * blocks. End of file on a source, once the buffer is empty, shuts the sink for writing; a sink that takes no
 * more shuts the source for reading. When both directions have ended the pair is closed. New pairs wait in a
 * list that the thread takes over when it is woken: the pairs themselves are the thread's alone. */
#include "backend/apple/relay.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/socket.h"
#include "host/thread.h"
#include "host/wake.h"

#define BUFFER_SIZE (16 << 10)

struct direction {
    uint8_t bytes[BUFFER_SIZE];
    size_t off, len; /* what is read and not yet written */
    bool has_ended;
};

struct pair {
    struct pair *next;
    int fds[2];
    struct direction from[2]; /* from[i]: read from fds[i], written to fds[1 - i] */
};

struct relays {
    struct wake wake;
    pthread_t thread;
    bool is_started;

    pthread_mutex_t lock; /* a leaf */
    struct pair *fresh;   /* with lock */
    bool quit;            /* with lock */

    /* the thread's */
    struct pair *pairs;
    unsigned count;
    struct pollfd *polls;
    size_t poll_room;
};

static void pair_free(struct pair *p)
{
    close(p->fds[0]);
    close(p->fds[1]);
    free(p);
}

/* ---- moving bytes ---- */

static bool is_later(ssize_t result)
{
    return result == -EAGAIN || result == -EWOULDBLOCK;
}

static void direction_end(struct pair *p, unsigned i)
{
    p->from[i].has_ended = true;
    socket_shutdown_send(p->fds[1 - i]);
    socket_shutdown_receive(p->fds[i]);
}

static void direction_read(struct pair *p, unsigned i)
{
    struct direction *d = &p->from[i];
    ssize_t got = socket_receive(p->fds[i], &(struct iovec){ d->bytes, sizeof(d->bytes) }, 1);

    if (got > 0) {
        d->off = 0;
        d->len = (size_t)got;
    } else if (!is_later(got)) {
        direction_end(p, i);
    }
}

static void direction_write(struct pair *p, unsigned i)
{
    struct direction *d = &p->from[i];
    ssize_t put = socket_send(p->fds[1 - i], &(struct iovec){ d->bytes + d->off, d->len }, 1);

    if (put >= 0) {
        d->off += (size_t)put;
        d->len -= (size_t)put;
    } else if (!is_later(put)) {
        d->len = 0;
        direction_end(p, i);
    }
}

/* ---- the thread ---- */

static short wanted(const struct pair *p, unsigned i)
{
    const struct direction *in = &p->from[i], *out = &p->from[1 - i];
    short events = 0;

    if (!in->has_ended && !in->len)
        events |= POLLIN;
    if (!out->has_ended && out->len)
        events |= POLLOUT;
    return events;
}

/* After poll: the sinks first, so that what was read goes on in the next pass. */
static void pair_serve(struct pair *p, const struct pollfd *polls)
{
    for (unsigned i = 0; i < 2; i++) {
        if (!p->from[i].has_ended && p->from[i].len && polls[1 - i].revents)
            direction_write(p, i);
        else if (!p->from[i].has_ended && !p->from[i].len && polls[i].revents)
            direction_read(p, i);
    }
}

static bool polls_fit(struct relays *r)
{
    const size_t want = 1 + 2 * (size_t)r->count;
    struct pollfd *more;

    if (want <= r->poll_room)
        return true;
    more = realloc(r->polls, 2 * want * sizeof(*more));
    if (!more)
        return false;
    r->polls = more;
    r->poll_room = 2 * want;
    return true;
}

/* Takes new pairs over. False: it is time to end. */
static bool fresh_take(struct relays *r)
{
    bool goes_on;

    pthread_mutex_lock(&r->lock);
    while (r->fresh) {
        struct pair *p = r->fresh;

        r->fresh = p->next;
        p->next = r->pairs;
        r->pairs = p;
        r->count++;
    }
    goes_on = !r->quit;
    pthread_mutex_unlock(&r->lock);
    return goes_on;
}

static void pairs_serve(struct relays *r)
{
    struct pair **link = &r->pairs, *p;
    size_t n = 1;

    while ((p = *link)) {
        pair_serve(p, &r->polls[n]);
        n += 2;
        if (p->from[0].has_ended && p->from[1].has_ended) {
            *link = p->next;
            r->count--;
            pair_free(p);
        } else {
            link = &p->next;
        }
    }
}

static void *relays_main(void *arg)
{
    struct relays *r = arg;
    size_t n;

    while (fresh_take(r)) {
        if (!polls_fit(r)) { /* without memory the pairs wait for some to be had */
            struct pollfd only = { .fd = r->wake.read_fd, .events = POLLIN };

            poll(&only, 1, 100);
            wake_clear(&r->wake);
            continue;
        }
        r->polls[0] = (struct pollfd){ .fd = r->wake.read_fd, .events = POLLIN };
        n = 1;
        for (const struct pair *p = r->pairs; p; p = p->next) {
            for (unsigned i = 0; i < 2; i++) {
                short events = wanted(p, i);

                r->polls[n++] = (struct pollfd){ .fd = events ? p->fds[i] : -1, .events = events };
            }
        }
        if (poll(r->polls, (nfds_t)n, -1) < 0)
            continue; /* interrupted */
        if (r->polls[0].revents)
            wake_clear(&r->wake);
        pairs_serve(r);
    }
    return NULL;
}

/* ---- from outside ---- */

struct relays *relays_new(struct yado_error *err)
{
    struct relays *r = calloc(1, sizeof(*r));

    if (!r) {
        err_set(err, YADO_ERR_HOST, "out of memory");
        return NULL;
    }
    pthread_mutex_init(&r->lock, NULL);
    if (wake_open(&r->wake, err))
        r->is_started = thread_start(&r->thread, "yado-relay", relays_main, r, err);
    if (r->is_started)
        return r;
    relays_free(r);
    return NULL;
}

static void list_free(struct pair *p)
{
    while (p) {
        struct pair *next = p->next;

        pair_free(p);
        p = next;
    }
}

void relays_free(struct relays *r)
{
    if (!r)
        return;
    if (r->is_started) {
        pthread_mutex_lock(&r->lock);
        r->quit = true;
        pthread_mutex_unlock(&r->lock);
        wake_set(&r->wake);
        pthread_join(r->thread, NULL);
    }
    list_free(r->pairs);
    list_free(r->fresh);
    free(r->polls);
    wake_close(&r->wake);
    pthread_mutex_destroy(&r->lock);
    free(r);
}

bool relays_add(struct relays *r, int a, int b)
{
    struct pair *p = malloc(sizeof(*p));

    if (!p) {
        close(a);
        close(b);
        return false;
    }
    socket_adopt(a);
    socket_adopt(b);
    p->fds[0] = a;
    p->fds[1] = b;
    for (unsigned i = 0; i < 2; i++) {
        p->from[i].off = p->from[i].len = 0;
        p->from[i].has_ended = false;
    }
    pthread_mutex_lock(&r->lock);
    p->next = r->fresh;
    r->fresh = p;
    pthread_mutex_unlock(&r->lock);
    wake_set(&r->wake);
    return true;
}
