/* Socket devices, listeners and connections.
 *
 * Theory of operation. The backend asks sockets_asked on its own thread for each connection of the guest. If
 * there is a listener, a callback is queued and the backend told to wait. When it runs, on the program's
 * queue, a socket pair is made; the program gets one end, and if it accepts, the backend the other by
 * socket_answer. The listener is looked up anew at that moment, so that one that was removed is never called.
 * A backend's ids are good for one run of the machine: callbacks of an earlier run refuse. How many may wait
 * is bounded (YADO_SOCKET_BACKLOG): a guest cannot make the queue grow.
 *
 * A connect makes its pair and its callback first, gives the backend one end with a tag, and keeps the other
 * in the list until sockets_connected comes with the tag, from any thread and maybe before socket_connect
 * returns.
 *
 * Locks: `lock` guards all of it; the queue's is taken inside, a backend is never called with it. */
#include "api/sockets.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/config_priv.h"
#include "api/machine_priv.h"
#include "api/queue.h"
#include "host/socket.h"

struct listener {
    uint32_t port;
    yado_socket_accept accept;
    void *ctx;
};

/* A connection of the guest that waits for its callback. */
struct arrival {
    struct callback callback;
    struct sockets *sockets;
    uint64_t id, run;
    uint32_t guest_port, host_port;
};

/* One of ours. */
struct departure {
    struct callback callback;
    struct departure *next;
    uint64_t tag;
    int fd; /* the program's end */
    uint32_t port;
    uint32_t host_port;
    struct yado_error error;
    yado_socket_connected done;
    void *ctx;
};

struct sockets {
    struct yado_machine *machine;
    pthread_mutex_t lock;
    struct listener *listeners;
    unsigned listener_count;
    unsigned arrival_count;
    uint64_t run; /* of the machine */
    uint64_t last_tag;
    struct departure *departures;
};

struct sockets *sockets_new(struct yado_machine *machine)
{
    struct sockets *s = calloc(1, sizeof(*s));

    if (!s)
        return NULL;
    s->machine = machine;
    pthread_mutex_init(&s->lock, NULL);
    return s;
}

void sockets_free(struct sockets *s)
{
    if (!s)
        return;
    pthread_mutex_destroy(&s->lock);
    free(s->listeners);
    free(s);
}

/* ---- listeners ---- */

/* Lock held. */
static struct listener *listener_find(struct sockets *s, uint32_t port)
{
    for (unsigned i = 0; i < s->listener_count; i++) {
        if (s->listeners[i].port == port)
            return &s->listeners[i];
    }
    return NULL;
}

static bool listener_set(struct sockets *s, const struct listener *l)
{
    struct listener *at, *more;

    pthread_mutex_lock(&s->lock);
    at = listener_find(s, l->port);
    if (!at) {
        more = realloc(s->listeners, (s->listener_count + 1) * sizeof(*more));
        if (more) {
            s->listeners = more;
            at = &more[s->listener_count++];
        }
    }
    if (at)
        *at = *l;
    pthread_mutex_unlock(&s->lock);
    return at != NULL;
}

static bool port_check(struct yado_machine *m, uint32_t port, struct yado_error *err)
{
    if (!machine_has_socket_device(m))
        return err_set(err, YADO_ERR_INVALID_CONFIG,
                       "sockets: the machine was configured without a socket device");
    if (port > YADO_SOCKET_PORT_MAX)
        return err_set(err, YADO_ERR_INVALID_CONFIG, "sockets: %u is not a port", port);
    return true;
}

static void listen_tell(struct yado_machine *m, uint32_t port, bool listens)
{
    const struct backend_ops *ops;
    struct backend *b = machine_backend_enter(m, &ops);

    if (b && ops->socket_listen)
        ops->socket_listen(b, port, listens);
    machine_backend_leave(m);
}

void sockets_run_began(struct sockets *s)
{
    for (unsigned i = 0;; i++) {
        uint32_t port = 0;
        bool is_there;

        pthread_mutex_lock(&s->lock);
        is_there = i < s->listener_count;
        if (is_there)
            port = s->listeners[i].port;
        pthread_mutex_unlock(&s->lock);
        if (!is_there)
            return;
        listen_tell(s->machine, port, true);
    }
}

bool yado_machine_set_socket_listener(struct yado_machine *machine, uint32_t port, yado_socket_accept accept,
                                      void *ctx, struct yado_error *err)
{
    struct listener l = { .port = port, .accept = accept, .ctx = ctx };

    if (!port_check(machine, port, err))
        return false;
    if (!listener_set(machine_sockets(machine), &l))
        return err_set(err, YADO_ERR_MEMORY, "out of memory");
    listen_tell(machine, port, true);
    return true;
}

void yado_machine_remove_socket_listener(struct yado_machine *machine, uint32_t port)
{
    struct sockets *s = machine_sockets(machine);
    struct listener *l;

    pthread_mutex_lock(&s->lock);
    l = listener_find(s, port);
    if (l)
        *l = s->listeners[--s->listener_count];
    pthread_mutex_unlock(&s->lock);
    if (l)
        listen_tell(machine, port, false);
}

/* ---- the guest connects ---- */

/* -1 refuses. Takes fd over. */
static void arrival_answer(struct arrival *a, int fd)
{
    struct sockets *s = a->sockets;
    const struct backend_ops *ops;
    struct backend *b = machine_backend_enter(s->machine, &ops);
    bool same_run;

    pthread_mutex_lock(&s->lock);
    same_run = s->run == a->run;
    pthread_mutex_unlock(&s->lock);
    if (b && same_run)
        ops->socket_answer(b, a->id, fd);
    else if (fd >= 0)
        close(fd);
    machine_backend_leave(s->machine);
}

static void arrival_offer(struct arrival *a)
{
    struct sockets *s = a->sockets;
    struct yado_socket_connection c = { .source_port = a->guest_port, .destination_port = a->host_port };
    struct listener l = { .accept = NULL }, *found;
    int fds[2];

    pthread_mutex_lock(&s->lock);
    found = listener_find(s, a->host_port);
    if (found)
        l = *found;
    pthread_mutex_unlock(&s->lock);
    if (!l.accept || socket_pair(fds)) {
        arrival_answer(a, -1);
        return;
    }
    c.fd = fds[1];
    if (l.accept(l.ctx, &c)) {
        arrival_answer(a, fds[0]);
        return;
    }
    close(fds[0]);
    close(fds[1]);
    arrival_answer(a, -1);
}

static void arrival_run(struct callback *callback, bool deliver)
{
    struct arrival *a = container_of(callback, struct arrival, callback);
    struct sockets *s = a->sockets;

    pthread_mutex_lock(&s->lock);
    s->arrival_count--;
    pthread_mutex_unlock(&s->lock);
    if (deliver)
        arrival_offer(a);
    free(a);
}

bool sockets_asked(struct sockets *s, uint64_t id, uint32_t guest_port, uint32_t host_port)
{
    struct arrival *a = NULL;

    pthread_mutex_lock(&s->lock);
    if (listener_find(s, host_port) && s->arrival_count < YADO_SOCKET_BACKLOG)
        a = calloc(1, sizeof(*a));
    if (a) {
        a->callback.run = arrival_run;
        a->sockets = s;
        a->id = id;
        a->run = s->run;
        a->guest_port = guest_port;
        a->host_port = host_port;
        s->arrival_count++;
        queue_push(machine_queue(s->machine), &a->callback);
    }
    pthread_mutex_unlock(&s->lock);
    return a != NULL;
}

void sockets_run_ended(struct sockets *s)
{
    pthread_mutex_lock(&s->lock);
    s->run++;
    pthread_mutex_unlock(&s->lock);
}

/* ---- the host connects ---- */

static void departure_run(struct callback *callback, bool deliver)
{
    struct departure *d = container_of(callback, struct departure, callback);
    struct yado_socket_connection c = { .fd = d->fd,
                                        .source_port = d->host_port,
                                        .destination_port = d->port };
    bool ok = d->error.code == YADO_OK;

    if ((!deliver || !ok) && d->fd >= 0)
        close(d->fd);
    if (deliver)
        d->done(d->ctx, ok ? &c : NULL, ok ? NULL : &d->error);
    free(d);
}

/* Takes one out of the list. */
static struct departure *departure_take(struct sockets *s, uint64_t tag)
{
    struct departure **at, *d;

    pthread_mutex_lock(&s->lock);
    for (at = &s->departures; *at && (*at)->tag != tag; at = &(*at)->next)
        ;
    d = *at;
    if (d)
        *at = d->next;
    pthread_mutex_unlock(&s->lock);
    return d;
}

void sockets_connected(struct sockets *s, uint64_t tag, uint32_t host_port, const struct yado_error *why)
{
    struct departure *d = departure_take(s, tag);

    if (!d)
        return;
    d->host_port = host_port;
    if (why)
        d->error = *why;
    queue_push(machine_queue(s->machine), &d->callback);
}

/* Takes fd over. */
static bool backend_connect(struct yado_machine *m, uint32_t port, int fd, uint64_t tag,
                            struct yado_error *err)
{
    const struct backend_ops *ops;
    struct backend *b = machine_backend_enter(m, &ops);
    bool ok;

    if (b && ops->socket_connect) {
        ok = ops->socket_connect(b, port, fd, tag, err);
    } else {
        close(fd);
        ok = b ? err_set(err, YADO_ERR_UNSUPPORTED, "sockets: this backend has none")
               : err_set(err, YADO_ERR_STATE, "port %u of the guest: the machine does not run", port);
    }
    machine_backend_leave(m);
    return ok;
}

bool yado_machine_connect_socket(struct yado_machine *machine, uint32_t port, yado_socket_connected done,
                                 void *ctx)
{
    struct sockets *s = machine_sockets(machine);
    struct departure *d = calloc(1, sizeof(*d));
    struct yado_error err = YADO_ERROR_INIT;
    int fds[2] = { -1, -1 }, error;
    uint64_t tag;
    bool ok;

    if (!d)
        return false;
    ok = port_check(machine, port, &err);
    error = ok ? socket_pair(fds) : 0;
    if (error)
        ok = err_set_errno(&err, YADO_ERR_HOST, error, "sockets: cannot make a socket");
    d->callback.run = departure_run;
    d->fd = fds[1];
    d->port = port;
    d->done = done;
    d->ctx = ctx;
    pthread_mutex_lock(&s->lock);
    tag = d->tag = ++s->last_tag;
    d->next = s->departures;
    s->departures = d;
    pthread_mutex_unlock(&s->lock);
    if (!ok || !backend_connect(machine, port, fds[0], tag, &err))
        sockets_connected(s, tag, 0, &err);
    return true;
}

/* ---- the device ---- */

struct yado_socket *yado_virtio_socket_new(void)
{
    return calloc(1, sizeof(struct yado_socket));
}

static void path_add(struct yado_socket *socket, uint32_t port, const char *path, bool to_guest)
{
    struct spec_socket_path p = { .port = port, .path = (char *)(uintptr_t)path, .to_guest = to_guest };

    if (socket && !spec_socket_path_add(&socket->socket, &p))
        socket->out_of_memory = true;
}

void yado_socket_add_path_to_host(struct yado_socket *socket, uint32_t port, const char *path)
{
    path_add(socket, port, path, false);
}

void yado_socket_add_path_to_guest(struct yado_socket *socket, const char *path, uint32_t port)
{
    path_add(socket, port, path, true);
}

void yado_socket_free(struct yado_socket *socket)
{
    if (!socket)
        return;
    spec_socket_clear(&socket->socket);
    free(socket);
}

void yado_config_add_socket(struct yado_config *config, struct yado_socket *socket)
{
    if (!socket || socket->out_of_memory) {
        config_lacks_device(config, "sockets", config->spec.socket_count);
    } else if (device_fits(config) && config->spec.socket_count++ == 0) {
        config->spec.socket = socket->socket; /* moved */
        socket->socket = (struct spec_socket){ 0 };
    }
    yado_socket_free(socket);
}

static bool path_check(const struct spec_socket *s, unsigned index, struct yado_error *err)
{
    const struct spec_socket_path *p = &s->paths[index];

    if (p->port > YADO_SOCKET_PORT_MAX)
        return err_set(err, YADO_ERR_INVALID_CONFIG, "sockets[0]: %u is not a port", p->port);
    if (!p->path[0])
        return err_set(err, YADO_ERR_INVALID_CONFIG, "sockets[0]: the path for port %u is empty", p->port);
    if (strlen(p->path) > SOCKET_PATH_MAX)
        return err_set(err, YADO_ERR_INVALID_CONFIG,
                       "sockets[0]: %s: longer than the %u bytes of a socket's path", p->path,
                       SOCKET_PATH_MAX);
    for (unsigned i = 0; i < index; i++) {
        const struct spec_socket_path *q = &s->paths[i];

        if (!p->to_guest && !q->to_guest && p->port == q->port)
            return err_set(err, YADO_ERR_INVALID_CONFIG, "sockets[0]: port %u of the host is given twice",
                           p->port);
        if (p->to_guest && q->to_guest && !strcmp(p->path, q->path))
            return err_set(err, YADO_ERR_INVALID_CONFIG, "sockets[0]: %s is given twice", p->path);
    }
    return true;
}

bool sockets_check(const struct spec *s, struct yado_error *err)
{
    if (s->socket_count > 1)
        return err_set(err, YADO_ERR_INVALID_CONFIG, "sockets[1]: a machine has one socket device at most");
    for (unsigned i = 0; i < s->socket.path_count; i++) {
        if (!path_check(&s->socket, i, err))
            return false;
    }
    return true;
}
