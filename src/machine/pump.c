/* The pump of a serial port.
 *
 * Theory of operation. One thread per port polls the two descriptors and an eventfd. It is not part of the
 * machine's event loop for two reasons: what the embedder gives may be anything (a regular file, which epoll
 * refuses; a terminal that someone has stopped), and a write that blocks here blocks nothing else.
 *
 * The library must not set O_NONBLOCK on the embedder's descriptors, because the flag belongs to the open
 * file and would be seen by whoever shares it (the shell). Where it can, the pump therefore opens the same
 * terminal or pipe again for itself; sockets have a flag per call; otherwise it writes little at a time and
 * only when poll says that there is room.
 *
 * Output goes into a ring. Producers (CPU threads) append under the lock, the pump thread alone consumes, and
 * writes from the ring without the lock, since producers never touch bytes that are in use. A virtio console
 * holds bytes back when the ring is full; the UART cannot, and waits, unless the machine wants its CPUs
 * (pump_hurry).
 *
 * Input is read only when everything read before has been taken by the guest, so back-pressure reaches the
 * writer. */
#include "machine/pump.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "host/thread.h"

#define RING_SIZE (256u << 10)   /* power of two */
#define RING_RESERVE (64u << 10) /* only for pump_write_all in a hurry */
#define INPUT_SIZE 4096u
#define BLOCKING_WRITE_MAX 256u /* bytes that a terminal ready for writing takes without blocking */
#define FLUSH_LIMIT_MS 1000

struct port {
    int fd;   /* -1: none, or ended */
    bool own; /* opened by us, without blocking */
    bool is_socket;
};

struct pump {
    struct pump_config cfg;
    struct port in, out;
    int wake_fd;

    pthread_mutex_t lock;   /* taken under a device's lock; nothing is taken under it */
    pthread_cond_t drained; /* bytes left the ring, or hurry, or the output ended */
    uint8_t *ring;
    uint64_t put, got; /* bytes ever put in and taken out */
    bool starved;      /* pump_write took too little: call ready when half is free */
    bool room, hurry, stopping, stopped, out_dead;

    uint8_t input[INPUT_SIZE]; /* the pump thread's */
    size_t input_off, input_len;
    pthread_t thread;
    bool running;
};

/* ---- descriptors ---- */

static void port_close(struct port *p)
{
    if (p->own && p->fd >= 0)
        close(p->fd);
    p->fd = -1;
}

/* A pty's master cannot be opened again: that would make a new pty. */
static bool can_reopen(int fd, mode_t mode)
{
    int number;

    return S_ISFIFO(mode) || (S_ISCHR(mode) && isatty(fd) && ioctl(fd, TIOCGPTN, &number) < 0);
}

static void port_open(struct port *p, int fd, int access)
{
    char path[40];
    struct stat st;
    int again;

    *p = (struct port){ .fd = fd };
    if (fd < 0 || fstat(fd, &st) < 0)
        return;
    p->is_socket = S_ISSOCK(st.st_mode);
    if (!can_reopen(fd, st.st_mode))
        return;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    again = open(path, access | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (again < 0)
        return;
    p->fd = again;
    p->own = true;
}

static ssize_t port_read(const struct port *p, void *buf, size_t len)
{
    return p->is_socket ? recv(p->fd, buf, len, MSG_DONTWAIT) : read(p->fd, buf, len);
}

static ssize_t port_write(const struct port *p, const void *buf, size_t len)
{
    if (p->is_socket)
        return send(p->fd, buf, len, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (!p->own && len > BLOCKING_WRITE_MAX)
        len = BLOCKING_WRITE_MAX;
    return write(p->fd, buf, len);
}

static bool is_transient(int error)
{
    return error == EINTR || error == EAGAIN || error == EWOULDBLOCK;
}

static void wake(struct pump *p)
{
    uint64_t one = 1;

    if (write(p->wake_fd, &one, sizeof(one)) < 0)
        return; /* only when the counter is full: it is readable then */
}

/* ---- output ---- */

static size_t ring_append(struct pump *p, const uint8_t *bytes, size_t len, size_t limit)
{
    size_t used = (size_t)(p->put - p->got), room = used < limit ? limit - used : 0;
    size_t n = len < room ? len : room, at = (size_t)(p->put & (RING_SIZE - 1));
    size_t first = n < RING_SIZE - at ? n : RING_SIZE - at;

    memcpy(p->ring + at, bytes, first);
    memcpy(p->ring, bytes + first, n - first);
    p->put += n;
    return n;
}

size_t pump_write(struct pump *p, const uint8_t *bytes, size_t len)
{
    size_t n = len;
    bool was_empty;

    pthread_mutex_lock(&p->lock);
    was_empty = p->put == p->got;
    if (!p->out_dead) {
        n = ring_append(p, bytes, len, RING_SIZE - RING_RESERVE);
        p->starved |= n < len;
    }
    pthread_mutex_unlock(&p->lock);
    if (was_empty)
        wake(p);
    return n;
}

void pump_write_all(struct pump *p, const uint8_t *bytes, size_t len)
{
    size_t done = 0;
    bool give_way;

    while (done < len) {
        done += pump_write(p, bytes + done, len - done);
        if (done == len)
            return;
        pthread_mutex_lock(&p->lock);
        while (p->put - p->got >= RING_SIZE - RING_RESERVE && !p->hurry && !p->out_dead && !p->stopped)
            pthread_cond_wait(&p->drained, &p->lock);
        give_way = p->hurry || p->stopped;
        if (give_way)
            ring_append(p, bytes + done, len - done, RING_SIZE);
        pthread_mutex_unlock(&p->lock);
        if (give_way)
            return;
    }
}

void pump_hurry(struct pump *p, bool hurry)
{
    pthread_mutex_lock(&p->lock);
    p->hurry = hurry;
    pthread_cond_broadcast(&p->drained);
    pthread_mutex_unlock(&p->lock);
}

static void output_consumed(struct pump *p, size_t n, bool dead)
{
    bool ready;

    pthread_mutex_lock(&p->lock);
    p->got += n;
    p->out_dead |= dead;
    if (p->out_dead)
        p->got = p->put;
    ready = p->starved && p->put - p->got <= RING_SIZE / 2;
    if (ready)
        p->starved = false;
    pthread_cond_broadcast(&p->drained);
    pthread_mutex_unlock(&p->lock);
    if (ready && p->cfg.ready)
        p->cfg.ready(p->cfg.ctx);
}

static void output_step(struct pump *p)
{
    size_t at, len;
    ssize_t n;

    pthread_mutex_lock(&p->lock);
    at = (size_t)(p->got & (RING_SIZE - 1));
    len = (size_t)(p->put - p->got);
    pthread_mutex_unlock(&p->lock);
    if (len > RING_SIZE - at)
        len = RING_SIZE - at;
    if (!len)
        return;
    n = port_write(&p->out, p->ring + at, len);
    if (n < 0 && is_transient(errno))
        return;
    output_consumed(p, n < 0 ? 0 : (size_t)n, n < 0);
}

/* ---- input ---- */

void pump_room(struct pump *p)
{
    pthread_mutex_lock(&p->lock);
    p->room = true;
    pthread_mutex_unlock(&p->lock);
    wake(p);
}

static void input_offer(struct pump *p)
{
    size_t n;

    /* Cleared first: a call of pump_room during receive must count. */
    pthread_mutex_lock(&p->lock);
    p->room = false;
    pthread_mutex_unlock(&p->lock);
    n = p->cfg.receive(p->cfg.ctx, p->input + p->input_off, p->input_len);
    p->input_off += n;
    p->input_len -= n;
}

static void input_step(struct pump *p)
{
    ssize_t n = port_read(&p->in, p->input, sizeof(p->input));

    if (n < 0 && is_transient(errno))
        return;
    if (n <= 0) {
        port_close(&p->in);
        return;
    }
    p->input_off = 0;
    p->input_len = (size_t)n;
    input_offer(p);
}

/* ---- the thread ---- */

enum { SLOT_WAKE, SLOT_IN, SLOT_OUT, SLOT_COUNT };

struct wants {
    bool in, out, offer, stop;
};

static struct wants pump_wants(struct pump *p)
{
    struct wants w;

    pthread_mutex_lock(&p->lock);
    w.stop = p->stopping;
    w.out = p->put != p->got;
    w.offer = p->input_len && p->room && !w.stop;
    pthread_mutex_unlock(&p->lock);
    w.in = p->in.fd >= 0 && !p->input_len && !w.stop;
    return w;
}

static int64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void pump_poll(struct pump *p, const struct wants *w, int timeout_ms)
{
    struct pollfd fds[SLOT_COUNT] = {
        [SLOT_WAKE] = { .fd = p->wake_fd, .events = POLLIN },
        [SLOT_IN] = { .fd = w->in ? p->in.fd : -1, .events = POLLIN },
        [SLOT_OUT] = { .fd = w->out ? p->out.fd : -1, .events = POLLOUT },
    };
    uint64_t ignored;

    if (poll(fds, SLOT_COUNT, timeout_ms) < 0)
        return;
    if (fds[SLOT_WAKE].revents && read(p->wake_fd, &ignored, sizeof(ignored)) < 0 && errno != EAGAIN)
        return;
    if (fds[SLOT_OUT].revents)
        output_step(p);
    if (fds[SLOT_IN].revents)
        input_step(p);
}

static void *pump_main(void *arg)
{
    struct pump *p = arg;
    int64_t stop_at = -1;

    for (;;) {
        struct wants w = pump_wants(p);

        if (w.stop && stop_at < 0)
            stop_at = now_ms() + FLUSH_LIMIT_MS;
        if (w.stop && (!w.out || now_ms() >= stop_at))
            return NULL;
        if (w.offer)
            input_offer(p);
        else
            pump_poll(p, &w, w.stop ? (int)(stop_at - now_ms()) + 1 : -1);
    }
}

/* ---- life ---- */

struct pump *pump_new(const struct pump_config *cfg, struct yado_error *err)
{
    struct pump *p = calloc(1, sizeof(*p));

    if (!p) {
        err_set(err, YADO_ERR_HOST, "out of memory");
        return NULL;
    }
    p->cfg = *cfg;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->drained, NULL);
    port_open(&p->in, cfg->read_fd, O_RDONLY);
    port_open(&p->out, cfg->write_fd, O_WRONLY);
    p->out_dead = p->out.fd < 0;
    p->ring = malloc(RING_SIZE);
    p->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (!p->ring || p->wake_fd < 0) {
        err_set_errno(err, YADO_ERR_HOST, errno, "serial port");
        pump_free(p);
        return NULL;
    }
    return p;
}

bool pump_start(struct pump *p, struct yado_error *err)
{
    p->running = thread_start(&p->thread, p->cfg.name, pump_main, p, err);
    return p->running;
}

void pump_stop(struct pump *p)
{
    pthread_mutex_lock(&p->lock);
    p->stopping = true;
    pthread_mutex_unlock(&p->lock);
    wake(p);
    if (p->running)
        pthread_join(p->thread, NULL);
    p->running = false;
    pthread_mutex_lock(&p->lock);
    p->stopped = true;
    pthread_cond_broadcast(&p->drained);
    pthread_mutex_unlock(&p->lock);
}

void pump_free(struct pump *p)
{
    if (!p)
        return;
    if (p->wake_fd >= 0)
        pump_stop(p);
    port_close(&p->in);
    port_close(&p->out);
    if (p->wake_fd >= 0)
        close(p->wake_fd);
    pthread_cond_destroy(&p->drained);
    pthread_mutex_destroy(&p->lock);
    free(p->ring);
    free(p);
}
