/* The pump of a port.
 *
 * Theory of operation. One thread per port polls what is attached and an eventfd. It is not part of the
 * machine's event loop for two reasons: what the embedder gives may be anything (a regular file, which epoll
 * refuses; a terminal that someone has stopped), and a write that blocks here blocks nothing else.
 *
 * The library must not set O_NONBLOCK on the embedder's descriptors, because the flag belongs to the open
 * file and would be seen by whoever shares it (the shell). Where it can, the pump therefore opens the same
 * terminal or pipe again for itself; sockets have a flag per call; regular files do not block; otherwise it
 * writes little at a time and only when poll says that there is room.
 *
 * Output goes into a ring. Producers (CPU threads) append under the lock, the pump thread alone consumes, and
 * writes from the ring without the lock, since producers never touch bytes that are in use. A virtio console
 * holds bytes back when the ring is full; the UART cannot, and waits, unless the machine wants its CPUs
 * (pump_hurry).
 *
 * Input is read only when everything read before has been taken by the guest and its side is open, so
 * back-pressure reaches the writer.
 *
 * Somebody is at the host's side ("connected") whenever descriptors are attached. A listening socket's client
 * is there from accept until its connection is over in both directions: one that ends its own sending may go
 * on to read. A pty has no event for its being opened: a timer looks for the hang-up to go, and, while it is
 * open, at its window size. A hang-up is waited for separately where input is not read, lest a client that is
 * gone keeps the next one out; what it sent last is read first if the guest listens. What the ring holds when
 * somebody leaves is dropped, as is output while nobody is there.
 *
 * All of that is the pump thread's own (`here`); others see `connected` under the lock. */
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

#include "host/socket.h"
#include "host/thread.h"

#define RING_SIZE (256u << 10)   /* power of two */
#define RING_RESERVE (64u << 10) /* only for pump_write_all in a hurry */
#define INPUT_SIZE 4096u
#define BLOCKING_WRITE_MAX 256u /* bytes that a terminal ready for writing takes without blocking */
#define FLUSH_LIMIT_MS 1000
#define PTY_CLOSED_MS 200 /* between two looks at a pty that nobody has open ... */
#define PTY_OPEN_MS 500   /* ... and at the window size of one that somebody has */
#define ACCEPT_AGAIN_MS 100

struct port {
    int fd;         /* -1: none, or ended */
    bool own;       /* to be closed by us */
    bool may_block; /* its open file is somebody else's */
    bool is_socket;
};

/* What is attached and how it stands. */
struct here {
    struct pump_ends ends;
    struct port in, out; /* of a client they are one descriptor, `in` the owner */
    bool connected;
    bool input_over;   /* the client will send nothing more, and may still read */
    int64_t accept_ms; /* no earlier; 0: now */
    struct winsize window;
};

struct pump {
    struct pump_config cfg;
    int wake_fd;
    struct here here; /* the pump thread's while it runs */

    pthread_mutex_t lock;   /* taken under a device's lock; nothing is taken under it */
    pthread_cond_t drained; /* bytes left the ring, or hurry, or the output ended; or attached */
    uint8_t *ring;
    uint64_t put, got; /* bytes ever put in and taken out */
    bool starved;      /* pump_write took too little: call ready when half is free */
    bool room, hurry, stopping, stopped;
    bool connected, out_dead, guest_open;
    const struct pump_ends *attach; /* what pump_attach waits for; NULL: done */

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
    *p = (struct port){ .fd = -1 };
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

    *p = (struct port){ .fd = fd, .may_block = true };
    if (fd < 0 || fstat(fd, &st) < 0)
        return;
    p->is_socket = S_ISSOCK(st.st_mode);
    p->may_block = !p->is_socket && !S_ISREG(st.st_mode);
    if (!can_reopen(fd, st.st_mode))
        return;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    again = open(path, access | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (again < 0)
        return;
    *p = (struct port){ .fd = again, .own = true };
}

static ssize_t port_read(const struct port *p, void *buf, size_t len)
{
    return p->is_socket ? recv(p->fd, buf, len, MSG_DONTWAIT) : read(p->fd, buf, len);
}

static ssize_t port_write(const struct port *p, const void *buf, size_t len)
{
    if (p->is_socket)
        return send(p->fd, buf, len, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (p->may_block && len > BLOCKING_WRITE_MAX)
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

static int64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
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
    bool is_first = false;

    pthread_mutex_lock(&p->lock);
    if (p->connected && !p->out_dead) {
        is_first = p->put == p->got;
        n = ring_append(p, bytes, len, RING_SIZE - RING_RESERVE);
        p->starved |= n < len;
    }
    pthread_mutex_unlock(&p->lock);
    if (is_first)
        wake(p);
    return n;
}

static bool must_wait(const struct pump *p)
{
    return p->put - p->got >= RING_SIZE - RING_RESERVE && !p->hurry && p->connected && !p->out_dead &&
           !p->stopped;
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
        while (must_wait(p))
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

/* Bytes went out, or how the output stands has changed. */
static void output_changed(struct pump *p, size_t n, bool connected, bool dead)
{
    bool ready;

    pthread_mutex_lock(&p->lock);
    p->got += n;
    p->connected = connected;
    p->out_dead = dead;
    if (dead || !connected)
        p->got = p->put;
    ready = p->starved && p->put - p->got <= RING_SIZE / 2;
    if (ready)
        p->starved = false;
    pthread_cond_broadcast(&p->drained);
    pthread_mutex_unlock(&p->lock);
    if (ready && p->cfg.ready)
        p->cfg.ready(p->cfg.ctx);
}

/* ---- who is there ---- */

/* The one place where `connected` changes. */
static void connected_set(struct pump *p, bool connected)
{
    struct here *h = &p->here;
    bool was = h->connected;

    h->connected = connected;
    output_changed(p, 0, connected, h->out.fd < 0);
    if (connected != was && p->cfg.connected)
        p->cfg.connected(p->cfg.ctx, connected);
}

static void leave(struct pump *p)
{
    struct here *h = &p->here;

    if (h->ends.listen_fd >= 0) {
        h->out = (struct port){ .fd = -1 };
        port_close(&h->in);
        h->input_over = false;
    }
    connected_set(p, false);
}

static bool guest_is_open(struct pump *p)
{
    bool is_open;

    pthread_mutex_lock(&p->lock);
    is_open = p->guest_open;
    pthread_mutex_unlock(&p->lock);
    return is_open;
}

/* Whether somebody has the pty's other side open, or has left something there that the guest will read. */
static bool pty_is_open(struct pump *p)
{
    struct pollfd f = { .fd = p->here.ends.read_fd, .events = POLLIN };

    if (poll(&f, 1, 0) < 0 || !(f.revents & (POLLHUP | POLLERR)))
        return true;
    return (f.revents & POLLIN) && guest_is_open(p);
}

static void pty_look(struct pump *p)
{
    struct here *h = &p->here;
    struct winsize w;

    if (pty_is_open(p) != h->connected)
        connected_set(p, !h->connected);
    if (!h->connected || ioctl(h->ends.read_fd, TIOCGWINSZ, &w) < 0 || !w.ws_col || !w.ws_row ||
        (w.ws_col == h->window.ws_col && w.ws_row == h->window.ws_row))
        return;
    h->window = w;
    if (p->cfg.resized)
        p->cfg.resized(p->cfg.ctx, w.ws_col, w.ws_row);
}

static void client_accept(struct pump *p)
{
    struct here *h = &p->here;
    int fd, error = socket_accept(h->ends.listen_fd, &fd);

    h->accept_ms =
        error && error != EAGAIN ? now_ms() + ACCEPT_AGAIN_MS : 0; /* no descriptors: do not spin */
    if (error)
        return;
    h->in = (struct port){ .fd = fd, .own = true, .is_socket = true };
    h->out = (struct port){ .fd = fd, .is_socket = true };
    connected_set(p, true);
}

static void ends_open(struct here *h, const struct pump_ends *ends)
{
    *h = (struct here){ .ends = *ends, .in = { .fd = -1 }, .out = { .fd = -1 } };
    if (ends->listen_fd >= 0)
        return;
    port_open(&h->in, ends->read_fd, O_RDONLY);
    port_open(&h->out, ends->write_fd, O_WRONLY);
    if (ends->is_pty)
        h->out.may_block = false;
    else
        h->connected = ends->read_fd >= 0 || ends->write_fd >= 0;
}

static void ends_close(struct here *h)
{
    if (h->ends.listen_fd >= 0)
        h->out.fd = -1;
    port_close(&h->in);
    port_close(&h->out);
}

/* Between two pieces of work of the pump thread, or before there is one. */
static void ends_change(struct pump *p, const struct pump_ends *ends)
{
    struct here *h = &p->here;
    bool was = h->connected, is;

    ends_close(h);
    ends_open(h, ends);
    is = h->connected;
    h->connected = was; /* so that the change is seen */
    connected_set(p, is);
}

bool pump_is_connected(struct pump *p)
{
    bool connected;

    pthread_mutex_lock(&p->lock);
    connected = p->connected;
    pthread_mutex_unlock(&p->lock);
    return connected;
}

static void output_step(struct pump *p)
{
    struct here *h = &p->here;
    size_t at, len;
    ssize_t n;

    pthread_mutex_lock(&p->lock);
    at = (size_t)(p->got & (RING_SIZE - 1));
    len = (size_t)(p->put - p->got);
    pthread_mutex_unlock(&p->lock);
    if (len > RING_SIZE - at)
        len = RING_SIZE - at;
    if (!len || h->out.fd < 0)
        return;
    n = port_write(&h->out, p->ring + at, len);
    if (n < 0 && is_transient(errno))
        return;
    if (n >= 0)
        output_changed(p, (size_t)n, true, false);
    else if (h->ends.listen_fd >= 0 || h->ends.is_pty)
        leave(p);
    else
        output_changed(p, 0, true, true);
}

/* ---- input ---- */

void pump_room(struct pump *p)
{
    pthread_mutex_lock(&p->lock);
    p->room = true;
    pthread_mutex_unlock(&p->lock);
    wake(p);
}

void pump_guest_open(struct pump *p, bool is_open)
{
    pthread_mutex_lock(&p->lock);
    p->guest_open = is_open;
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

static void input_end(struct pump *p)
{
    struct here *h = &p->here;

    if (h->ends.is_pty)
        leave(p);
    else if (h->ends.listen_fd >= 0)
        h->input_over = true;
    else
        port_close(&h->in);
}

static void input_step(struct pump *p)
{
    ssize_t n = port_read(&p->here.in, p->input, sizeof(p->input));

    if (n < 0 && is_transient(errno))
        return;
    if (n <= 0) {
        input_end(p);
        return;
    }
    p->input_off = 0;
    p->input_len = (size_t)n;
    input_offer(p);
}

/* ---- the thread ---- */

enum { SLOT_WAKE, SLOT_IN, SLOT_OUT, SLOT_LISTEN, SLOT_HANGUP, SLOT_COUNT };

struct wants {
    bool in, out, offer, stop, listen, hangup;
    const struct pump_ends *attach;
    int timeout_ms; /* -1: none */
};

static struct wants pump_wants(struct pump *p)
{
    const struct here *h = &p->here;
    struct wants w = { .timeout_ms = -1 };
    bool guest_open;

    pthread_mutex_lock(&p->lock);
    w.stop = p->stopping;
    w.attach = p->attach;
    w.out = p->put != p->got;
    guest_open = p->guest_open;
    w.offer = p->input_len && p->room && guest_open && !w.stop;
    pthread_mutex_unlock(&p->lock);
    w.in = h->in.fd >= 0 && h->connected && !p->input_len && guest_open && !w.stop && !h->input_over;
    w.listen = h->ends.listen_fd >= 0 && !h->connected && !w.stop;
    if (w.listen && h->accept_ms) {
        w.listen = now_ms() >= h->accept_ms;
        w.timeout_ms = ACCEPT_AGAIN_MS;
    }
    w.hangup = h->connected && (h->ends.listen_fd >= 0 || h->ends.is_pty) && !w.in &&
               (!guest_open || (h->input_over && !p->input_len));
    if (h->ends.is_pty)
        w.timeout_ms = h->connected ? PTY_OPEN_MS : PTY_CLOSED_MS;
    return w;
}

static void pump_poll(struct pump *p, const struct wants *w)
{
    const struct here *h = &p->here;
    struct pollfd fds[SLOT_COUNT] = {
        [SLOT_WAKE] = { .fd = p->wake_fd, .events = POLLIN },
        [SLOT_IN] = { .fd = w->in ? h->in.fd : -1, .events = POLLIN },
        [SLOT_OUT] = { .fd = w->out ? h->out.fd : -1, .events = POLLOUT },
        [SLOT_LISTEN] = { .fd = w->listen ? h->ends.listen_fd : -1, .events = POLLIN },
        [SLOT_HANGUP] = { .fd = w->hangup ? h->in.fd : -1 },
    };
    uint64_t ignored;

    if (poll(fds, SLOT_COUNT, w->timeout_ms) < 0)
        return;
    if (fds[SLOT_WAKE].revents && read(p->wake_fd, &ignored, sizeof(ignored)) < 0 && errno != EAGAIN)
        return;
    if (fds[SLOT_OUT].revents)
        output_step(p);
    if (fds[SLOT_IN].revents && h->in.fd >= 0)
        input_step(p);
    if (fds[SLOT_LISTEN].revents)
        client_accept(p);
    if ((fds[SLOT_HANGUP].revents & (POLLHUP | POLLERR)) && h->connected) {
        p->input_len = 0; /* nobody wants it */
        leave(p);
    }
    if (h->ends.is_pty && !w->stop)
        pty_look(p);
}

static void attach_do(struct pump *p, const struct pump_ends *ends)
{
    ends_change(p, ends);
    pthread_mutex_lock(&p->lock);
    p->attach = NULL;
    pthread_cond_broadcast(&p->drained);
    pthread_mutex_unlock(&p->lock);
}

static void *pump_main(void *arg)
{
    struct pump *p = arg;
    int64_t stop_at = -1;

    for (;;) {
        struct wants w = pump_wants(p);

        if (w.attach)
            attach_do(p, w.attach);
        if (w.stop && stop_at < 0)
            stop_at = now_ms() + FLUSH_LIMIT_MS;
        if (w.stop && (!w.out || now_ms() >= stop_at))
            return NULL;
        if (w.stop)
            w.timeout_ms = (int)(stop_at - now_ms()) + 1;
        if (w.offer)
            input_offer(p);
        else if (!w.attach)
            pump_poll(p, &w);
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
    p->guest_open = !cfg->guest_closed;
    ends_open(&p->here, &cfg->ends);
    p->connected = p->here.connected;
    p->out_dead = p->here.out.fd < 0;
    p->ring = malloc(RING_SIZE);
    p->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (!p->ring || p->wake_fd < 0) {
        err_set_errno(err, YADO_ERR_HOST, errno, "serial port");
        pump_free(p);
        return NULL;
    }
    return p;
}

static bool thread_run(struct pump *p, struct yado_error *err)
{
    p->running = thread_start(&p->thread, p->cfg.name, pump_main, p, err);
    return p->running;
}

bool pump_start(struct pump *p, struct yado_error *err)
{
    const struct pump_ends *e = &p->here.ends;

    return (e->read_fd < 0 && e->write_fd < 0 && e->listen_fd < 0) || thread_run(p, err);
}

bool pump_attach(struct pump *p, const struct pump_ends *ends, struct yado_error *err)
{
    if (!p->running && !thread_run(p, err))
        return false;
    pthread_mutex_lock(&p->lock);
    p->attach = ends;
    wake(p);
    while (p->attach)
        pthread_cond_wait(&p->drained, &p->lock);
    pthread_mutex_unlock(&p->lock);
    return true;
}

void pump_ask_stop(struct pump *p)
{
    pthread_mutex_lock(&p->lock);
    p->stopping = true;
    pthread_mutex_unlock(&p->lock);
    wake(p);
}

void pump_stop(struct pump *p)
{
    pump_ask_stop(p);
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
    ends_close(&p->here);
    if (p->wake_fd >= 0)
        close(p->wake_fd);
    pthread_cond_destroy(&p->drained);
    pthread_mutex_destroy(&p->lock);
    free(p->ring);
    free(p);
}
