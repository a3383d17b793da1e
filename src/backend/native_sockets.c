/* See native_sockets.h. */
#include "backend/native_sockets.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/socket.h"

struct opened {
    const char *path;
    struct socket_file file;
};

struct native_sockets {
    const struct spec_socket *spec;
    struct backend_host host; /* a copy */
    struct board_socket_listener *listeners;
    struct opened *opened; /* of the same index */
    unsigned count;
};

static const struct spec_socket_path *path_of(const struct spec_socket *spec, uint32_t host_port)
{
    for (unsigned i = 0; i < spec->path_count; i++) {
        if (!spec->paths[i].to_guest && spec->paths[i].port == host_port)
            return &spec->paths[i];
    }
    return NULL;
}

static int path_connect(struct native_sockets *s, const struct spec_socket_path *p)
{
    int fd, error = socket_connect_unix(p->path, &fd);

    if (!error)
        return fd;
    if (error == EAGAIN || error == EMFILE || error == ENFILE || error == ENOMEM || error == ENOBUFS)
        return BOARD_SOCKET_BUSY;
    log_line(s->host.log, LOG_VIRTIO, "socket port %u: %s: %s", p->port, p->path, strerror(error));
    return BOARD_SOCKET_REFUSED;
}

static int on_asked(void *ctx, uint64_t id, uint32_t guest_port, uint32_t host_port)
{
    struct native_sockets *s = ctx;
    const struct spec_socket_path *p = path_of(s->spec, host_port);

    if (p)
        return path_connect(s, p);
    return s->host.socket_asked && s->host.socket_asked(s->host.ctx, id, guest_port, host_port)
               ? BOARD_SOCKET_LATER
               : BOARD_SOCKET_REFUSED;
}

static void on_connected(void *ctx, uint64_t tag, uint32_t host_port, const struct yado_error *why)
{
    struct native_sockets *s = ctx;

    if (s->host.socket_connected)
        s->host.socket_connected(s->host.ctx, tag, host_port, why);
}

static bool listener_open(struct native_sockets *s, const struct spec_socket_path *p, struct yado_error *err)
{
    struct board_socket_listener *l = &s->listeners[s->count];
    struct opened *o = &s->opened[s->count];
    int error = socket_listen_unix(p->path, &l->fd, &o->file);

    if (error == EADDRINUSE)
        return err_set(err, YADO_ERR_IN_USE,
                       "%s: exists already, and is in use or no socket; give another name or remove it",
                       p->path);
    if (error)
        return err_set_errno(err, YADO_ERR_FILE, error, "%s: cannot make the socket", p->path);
    l->guest_port = p->port;
    o->path = p->path;
    s->count++;
    return true;
}

struct native_sockets *native_sockets_open(const struct spec_socket *spec, const struct backend_host *host,
                                           struct board_sockets *out, struct yado_error *err)
{
    struct native_sockets *s = calloc(1, sizeof(*s));

    if (s) {
        s->spec = spec;
        s->host = *host;
        s->listeners = calloc(spec->path_count + 1, sizeof(*s->listeners));
        s->opened = calloc(spec->path_count + 1, sizeof(*s->opened));
    }
    if (!s || !s->listeners || !s->opened) {
        native_sockets_close(s);
        err_set(err, YADO_ERR_MEMORY, "out of memory");
        return NULL;
    }
    for (unsigned i = 0; i < spec->path_count; i++) {
        if (!spec->paths[i].to_guest || listener_open(s, &spec->paths[i], err))
            continue;
        err_prepend(err, "sockets[0]");
        native_sockets_close(s);
        return NULL;
    }
    *out = (struct board_sockets){
        .present = true,
        .listeners = s->listeners,
        .listener_count = s->count,
        .asked = on_asked,
        .connected = on_connected,
        .ctx = s,
    };
    return s;
}

void native_sockets_close(struct native_sockets *s)
{
    if (!s)
        return;
    for (unsigned i = 0; i < s->count; i++) {
        socket_file_remove(s->opened[i].path, &s->opened[i].file);
        close(s->listeners[i].fd);
    }
    free(s->listeners);
    free(s->opened);
    free(s);
}
