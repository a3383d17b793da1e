/* Connections between guest and host.
 *
 * Theory of operation. The framework has a listener object for each port of the host, whose delegate must say
 * at once, on the machine's queue, whether a connection is taken; and it connects to a port of the guest with
 * a completion handler. Either way a connection is an object with a descriptor; the descriptor is duplicated,
 * and the duplicate is what is used from then on. The other side's descriptor is the program's (src/api) or a
 * Unix socket's, and the two are joined by a relay (relay.h).
 *
 * From the guest. One listener object serves all ports; which ports it is set for follows the program
 * (socket_listen) and the paths of the spec. A connection for a path is joined at once. Another is taken if
 * the host says that somebody listens, waits in `arrivals` under a number, and is joined or closed by
 * socket_answer: the guest sees a refusal there as a connection that ends at once.
 *
 * To the guest. A connect is a struct in `connects` until its completion handler has run. The framework may
 * never call that one (its documentation says that nothing happens if nobody listens in the guest), so a
 * thread of this file, which also accepts at the Unix sockets, ends what takes too long. The struct stays
 * then, marked as over, because the handler may still come, even after the run (socket_device_orphan); it
 * frees it. A handler that never comes costs these few bytes.
 *
 * Lock: `lock` is a leaf, guards the lists, and is not held while the host or the framework is called. */
#include "backend/apple/socket_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/apple/relay.h"
#include "host/clock.h"
#include "host/socket.h"
#include "host/thread.h"
#include "host/wake.h"

#define CONNECT_TIMEOUT_NS 10000000000u /* as socket.h promises */
#define NO_TAG UINT64_MAX               /* a connect for a Unix socket: nobody is to be told */

/* A connection of the guest that waits for its answer. */
struct arrival {
    struct arrival *next;
    uint64_t number;
    int fd;
};

struct connect {
    struct connect *next;
    struct socket_device *v;
    uint32_t guest_port;
    int fd; /* the program's or the Unix socket's other end */
    uint64_t tag, deadline_ns;
    bool is_over; /* told; its handler may still come, also when `v` is NULL, which the queue alone sets */
};

struct path_listener {
    const char *path;
    struct socket_file file;
    int fd;
    uint32_t guest_port;
};

struct socket_device {
    struct backend *b;
    struct relays *relays;
    struct socket_events events;
    id listener, delegate; /* owned */

    struct path_listener *paths;
    unsigned path_count;
    struct wake wake;
    pthread_t thread;
    bool is_started;

    pthread_mutex_t lock;
    struct arrival *arrivals; /* all below with lock */
    struct connect *connects;
    uint64_t last_number;
    bool quit;
};

/* A duplicate of a connection's descriptor, -1 if there is none. */
static int connection_fd(id connection)
{
    int fd = VZVirtioSocketConnection_fileDescriptor(connection);

    return fd >= 0 ? fcntl(fd, F_DUPFD_CLOEXEC, 0) : -1;
}

static id device_of(struct backend *b)
{
    id devices = VZVirtualMachine_socketDevices(b->machine);

    return NSArray_count(devices) ? NSArray_objectAtIndex(devices, 0) : NULL;
}

/* ---- from the guest ---- */

static const char *path_of(const struct spec_socket *s, uint32_t host_port)
{
    for (unsigned i = 0; i < s->path_count; i++) {
        if (!s->paths[i].to_guest && s->paths[i].port == host_port)
            return s->paths[i].path;
    }
    return NULL;
}

static bool path_join(struct socket_device *v, id connection, const char *path)
{
    int there, here, error = socket_connect_unix(path, &there);

    if (error) {
        log_line(v->b->host.log, LOG_VIRTIO, "socket: %s: %s", path, strerror(error));
        return false;
    }
    here = connection_fd(connection);
    if (here < 0) {
        close(there);
        return false;
    }
    return relays_add(v->relays, here, there);
}

/* Takes one out of the list; NULL if it is not there. */
static struct arrival *arrival_take(struct socket_device *v, uint64_t number)
{
    struct arrival **at, *a;

    pthread_mutex_lock(&v->lock);
    for (at = &v->arrivals; *at && (*at)->number != number; at = &(*at)->next)
        ;
    a = *at;
    if (a)
        *at = a->next;
    pthread_mutex_unlock(&v->lock);
    return a;
}

static void arrival_free(struct arrival *a)
{
    if (!a)
        return;
    if (a->fd >= 0)
        close(a->fd);
    free(a);
}

/* It is in the list before the host hears of it: the answer may come from another thread at once. */
static bool host_takes(struct socket_device *v, id connection, uint32_t host_port)
{
    struct arrival *a = calloc(1, sizeof(*a));
    const struct backend_host *host = &v->b->host;
    uint64_t number;

    if (!a)
        return false;
    a->fd = connection_fd(connection);
    if (a->fd < 0 || !host->socket_asked) {
        arrival_free(a);
        return false;
    }
    pthread_mutex_lock(&v->lock);
    number = a->number = ++v->last_number;
    a->next = v->arrivals;
    v->arrivals = a;
    pthread_mutex_unlock(&v->lock);
    if (host->socket_asked(host->ctx, number, VZVirtioSocketConnection_sourcePort(connection), host_port))
        return true;
    arrival_free(arrival_take(v, number));
    return false;
}

/* On the machine's queue, in a pool. */
static bool should_accept(void *ctx, id connection)
{
    struct socket_device *v = ctx;
    uint32_t host_port = VZVirtioSocketConnection_destinationPort(connection);
    const char *path = path_of(&v->b->spec->socket, host_port);

    return path ? path_join(v, connection, path) : host_takes(v, connection, host_port);
}

void apple_socket_answer(struct backend *b, uint64_t number, int fd)
{
    struct arrival *a = b->sockets ? arrival_take(b->sockets, number) : NULL;

    if (a && fd >= 0) {
        relays_add(b->sockets->relays, a->fd, fd);
        a->fd = fd = -1;
    }
    if (fd >= 0)
        close(fd);
    arrival_free(a);
}

static void listen_run(struct quick_call *q)
{
    struct socket_device *v = q->b->sockets;
    id device = device_of(q->b);

    if (q->flag)
        VZVirtioSocketDevice_setSocketListener(device, v->listener, q->index);
    else
        VZVirtioSocketDevice_removeSocketListener(device, q->index);
}

void apple_socket_listen(struct backend *b, uint32_t host_port, bool listens)
{
    struct quick_call q = { .b = b, .fn = listen_run, .index = host_port, .flag = listens };

    if (b->sockets && !path_of(&b->spec->socket, host_port))
        quick_do(&q, NULL);
}

/* ---- to the guest ---- */

/* Not in the list, or marked as over. */
static void connect_tell(struct socket_device *v, uint64_t tag, uint32_t host_port,
                         const struct yado_error *why)
{
    const struct backend_host *host = &v->b->host;

    if (tag != NO_TAG && host->socket_connected)
        host->socket_connected(host->ctx, tag, host_port, why);
}

static void connect_unlink(struct connect *c)
{
    struct connect **at;

    for (at = &c->v->connects; *at != c; at = &(*at)->next)
        ;
    *at = c->next;
}

/* The completion handler, on the machine's queue. */
static void connect_done(void *ctx, id connection, id error)
{
    struct connect *c = ctx;
    struct socket_device *v = c->v;
    struct yado_error e = YADO_ERROR_INIT;
    void *pool = objc_autoreleasePoolPush();
    int fd = connection ? connection_fd(connection) : -1;
    uint32_t host_port = connection ? VZVirtioSocketConnection_sourcePort(connection) : 0;
    bool was_over = true;
    char what[40];

    if (error) {
        snprintf(what, sizeof(what), "port %u of the guest", c->guest_port);
        error_from(&e, error, what);
        e.code = YADO_ERR_REFUSED;
    } else if (fd < 0) {
        err_set(&e, YADO_ERR_REFUSED, "port %u of the guest: the connection ended at once", c->guest_port);
    }
    objc_autoreleasePoolPop(pool);
    if (v) {
        pthread_mutex_lock(&v->lock);
        connect_unlink(c);
        was_over = c->is_over;
        pthread_mutex_unlock(&v->lock);
    }
    if (!was_over) {
        if (fd >= 0) {
            relays_add(v->relays, fd, c->fd);
            fd = -1;
        } else {
            close(c->fd);
        }
        connect_tell(v, c->tag, host_port, e.code == YADO_OK ? NULL : &e);
    }
    if (fd >= 0)
        close(fd);
    free(c);
}

static void connect_run(void *ctx)
{
    struct connect *c = ctx;
    struct block done = block_connection(connect_done, c);
    void *pool = objc_autoreleasePoolPush();

    VZVirtioSocketDevice_connectToPort(device_of(c->v->b), c->guest_port, &done);
    objc_autoreleasePoolPop(pool);
}

/* Takes fd over. */
static bool connect_begin(struct socket_device *v, uint32_t guest_port, int fd, uint64_t tag,
                          struct yado_error *err)
{
    const struct clock clock = clock_host();
    struct connect *c = calloc(1, sizeof(*c));

    if (!c) {
        close(fd);
        return err_set(err, YADO_ERR_MEMORY, "out of memory");
    }
    *c = (struct connect){ .v = v,
                           .guest_port = guest_port,
                           .fd = fd,
                           .tag = tag,
                           .deadline_ns = clock_now(&clock) + CONNECT_TIMEOUT_NS };
    pthread_mutex_lock(&v->lock);
    c->next = v->connects;
    v->connects = c;
    pthread_mutex_unlock(&v->lock);
    dispatch_async_f(v->b->queue, c, connect_run);
    wake_set(&v->wake); /* there is a deadline now */
    return true;
}

bool apple_socket_connect(struct backend *b, uint32_t guest_port, int fd, uint64_t tag,
                          struct yado_error *err)
{
    if (b->sockets)
        return connect_begin(b->sockets, guest_port, fd, tag, err);
    close(fd);
    return err_set(err, YADO_ERR_INVALID_CONFIG, "sockets: the machine has no socket device");
}

/* ---- the thread: Unix sockets that lead to the guest, and deadlines ---- */

/* Marks one that is late at `now` as over; NULL if there is none. Lock held. */
static struct connect *late_find(struct socket_device *v, uint64_t now)
{
    for (struct connect *c = v->connects; c; c = c->next) {
        if (!c->is_over && now >= c->deadline_ns) {
            c->is_over = true;
            return c;
        }
    }
    return NULL;
}

/* Milliseconds to the next deadline, -1 if there is none. Lock held. */
static int next_ms(const struct socket_device *v, uint64_t now)
{
    uint64_t next = UINT64_MAX;

    for (const struct connect *c = v->connects; c; c = c->next) {
        if (!c->is_over)
            next = min_u64(next, c->deadline_ns);
    }
    return next == UINT64_MAX ? -1 : (int)((next > now ? next - now : 0) / 1000000u) + 1;
}

/* Ends what is late at `now`, with the reason given. */
static void connects_expire(struct socket_device *v, uint64_t now, enum yado_error_code code, const char *why)
{
    struct connect *c;

    for (;;) {
        struct yado_error e = YADO_ERROR_INIT;
        uint64_t tag;
        int fd;

        pthread_mutex_lock(&v->lock);
        c = late_find(v, now);
        if (c) {
            err_set(&e, code, "port %u of the guest: %s", c->guest_port, why);
            tag = c->tag;
            fd = c->fd;
        }
        pthread_mutex_unlock(&v->lock); /* its handler may free it from now on */
        if (!c)
            return;
        close(fd);
        connect_tell(v, tag, 0, &e);
    }
}

static void path_accept(struct socket_device *v, const struct path_listener *l)
{
    int fd;

    while (!socket_accept(l->fd, &fd))
        connect_begin(v, l->guest_port, fd, NO_TAG, NULL);
}

static void *socket_device_main(void *arg)
{
    struct socket_device *v = arg;
    const struct clock clock = clock_host();
    struct pollfd *polls = calloc(v->path_count + 1, sizeof(*polls)), only = { .fd = v->wake.read_fd };
    unsigned count = polls ? v->path_count + 1 : 1; /* without memory Unix sockets are not served */
    bool quit = false;

    if (!polls)
        polls = &only;
    polls[0].fd = v->wake.read_fd;
    for (unsigned i = 1; i < count; i++)
        polls[i].fd = v->paths[i - 1].fd;
    while (!quit) {
        int timeout;

        pthread_mutex_lock(&v->lock);
        timeout = next_ms(v, clock_now(&clock));
        quit = v->quit;
        pthread_mutex_unlock(&v->lock);
        for (unsigned i = 0; i < count; i++)
            polls[i].events = POLLIN;
        if (quit || poll(polls, count, timeout) < 0)
            continue;
        if (polls[0].revents)
            wake_clear(&v->wake);
        for (unsigned i = 1; i < count; i++) {
            if (polls[i].revents)
                path_accept(v, &v->paths[i - 1]);
        }
        connects_expire(v, clock_now(&clock), YADO_ERR_TIMEOUT, "no answer within 10 s");
    }
    if (polls != &only)
        free(polls);
    return NULL;
}

/* ---- making and ending ---- */

static bool paths_open(struct socket_device *v, struct yado_error *err)
{
    const struct spec_socket *s = &v->b->spec->socket;

    v->paths = calloc(s->path_count + 1, sizeof(*v->paths));
    if (!v->paths)
        return err_set(err, YADO_ERR_MEMORY, "out of memory");
    for (unsigned i = 0; i < s->path_count; i++) {
        struct path_listener *l = &v->paths[v->path_count];
        int error;

        if (!s->paths[i].to_guest)
            continue;
        l->path = s->paths[i].path;
        l->guest_port = s->paths[i].port;
        error = socket_listen_unix(l->path, &l->fd, &l->file);
        if (error == EADDRINUSE)
            return err_set(err, YADO_ERR_IN_USE,
                           "%s: exists already, and is in use or no socket; give another name or remove it",
                           l->path);
        if (error)
            return err_set_errno(err, YADO_ERR_FILE, error, "%s: cannot make the socket", l->path);
        v->path_count++;
    }
    return true;
}

static void paths_close(struct socket_device *v)
{
    for (unsigned i = 0; i < v->path_count; i++) {
        socket_file_remove(v->paths[i].path, &v->paths[i].file);
        close(v->paths[i].fd);
    }
    free(v->paths);
}

/* The listener object and the ports that it has from the start. */
static void listeners_set(struct quick_call *q)
{
    struct socket_device *v = q->b->sockets;
    const struct spec_socket *s = &q->b->spec->socket;
    id device = device_of(q->b);

    VZVirtioSocketListener_setDelegate(v->listener, v->delegate);
    for (unsigned i = 0; i < s->path_count; i++) {
        if (!s->paths[i].to_guest)
            VZVirtioSocketDevice_setSocketListener(device, v->listener, s->paths[i].port);
    }
}

static void listener_silence(struct quick_call *q)
{
    VZVirtioSocketListener_setDelegate(q->b->sockets->listener, NULL);
}

static bool objects_make(struct socket_device *v, struct yado_error *err)
{
    v->events = (struct socket_events){ .should_accept = should_accept, .ctx = v };
    v->delegate = socket_delegate_new(&v->events, err);
    if (!v->delegate)
        return false;
    v->listener = NSObject_init(ALLOC(VZVirtioSocketListener));
    return v->listener || err_set(err, YADO_ERR_ENGINE, "the framework made no socket listener");
}

bool socket_device_open(struct backend *b, struct yado_error *err)
{
    struct socket_device *v = calloc(1, sizeof(*v));
    struct quick_call q = { .b = b, .fn = listeners_set };

    if (!v)
        return err_set(err, YADO_ERR_MEMORY, "out of memory");
    v->b = b;
    v->wake.read_fd = v->wake.write_fd = -1;
    pthread_mutex_init(&v->lock, NULL);
    b->sockets = v;
    if (!paths_open(v, err) || !objects_make(v, err) || !wake_open(&v->wake, err))
        return err_prepend(err, "sockets[0]");
    v->relays = relays_new(err);
    v->is_started = v->relays && thread_start(&v->thread, "yado-vsock", socket_device_main, v, err);
    return v->is_started && quick_do(&q, err);
}

void socket_device_quiet(struct socket_device *v)
{
    struct quick_call q = { .fn = listener_silence };

    if (!v)
        return;
    q.b = v->b;
    if (v->is_started) {
        pthread_mutex_lock(&v->lock);
        v->quit = true;
        pthread_mutex_unlock(&v->lock);
        wake_set(&v->wake);
        pthread_join(v->thread, NULL);
        v->is_started = false;
    }
    if (v->listener)
        quick_do(&q, NULL);
    connects_expire(v, UINT64_MAX, YADO_ERR_STATE, "the machine was stopped");
}

void socket_device_orphan(struct socket_device *v)
{
    for (struct connect *c = v ? v->connects : NULL; c; c = c->next)
        c->v = NULL;
    if (v)
        v->connects = NULL;
}

void socket_device_free(struct socket_device *v)
{
    if (!v)
        return;
    relays_free(v->relays);
    while (v->arrivals)
        arrival_free(arrival_take(v, v->arrivals->number));
    paths_close(v);
    if (v->listener)
        objc_release(v->listener);
    if (v->delegate)
        objc_release(v->delegate);
    wake_close(&v->wake);
    pthread_mutex_destroy(&v->lock);
    free(v);
}
