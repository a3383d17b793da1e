/* See native_ports.h. */
#include "backend/native_ports.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/socket.h"

_Static_assert(SPEC_PORTS_MAX == BOARD_PORTS_MAX, "one limit, two names");

struct opened {
    struct spec_attachment spec; /* with descriptors of our own */
    int fd;                      /* FILE, SOCKET. -1: none */
    struct socket_file file;     /* SOCKET */
};

struct console {
    struct opened opened[SPEC_PORTS_MAX];
    struct board_port ports[SPEC_PORTS_MAX];
};

struct native_ports {
    const struct spec *spec;
    struct opened serials[SPEC_DEVICE_MAX];
    struct console *consoles; /* as many as the spec has */
};

/* ---- one attachment ---- */

static bool file_open(struct opened *o, struct yado_error *err)
{
    /* A pipe by name without a reader must not hold us up. */
    const int flags = O_WRONLY | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;

    o->fd = open(o->spec.path, flags | (o->spec.append ? O_APPEND : O_TRUNC), 0666);
    return o->fd >= 0 || err_set_errno(err, YADO_ERR_FILE, errno, "%s: cannot open", o->spec.path);
}

static bool socket_open(struct opened *o, struct yado_error *err)
{
    int error = socket_listen_unix(o->spec.path, &o->fd, &o->file);

    if (error == EADDRINUSE)
        return err_set(err, YADO_ERR_IN_USE,
                       "%s: exists already, and is in use or no socket; give another name or remove it",
                       o->spec.path);
    return !error || err_set_errno(err, YADO_ERR_FILE, error, "%s: cannot make the socket", o->spec.path);
}

static void opened_close(struct opened *o)
{
    if (o->spec.kind == SPEC_ATTACH_SOCKET && o->fd >= 0)
        socket_file_remove(o->spec.path, &o->file);
    if (o->fd >= 0)
        close(o->fd);
    o->fd = -1;
    spec_attachment_clear(&o->spec);
}

/* After a failure it is closed. */
static bool opened_make(struct opened *o, const struct spec_attachment *from, struct yado_error *err)
{
    bool ok = true;

    o->fd = -1;
    if (!spec_attachment_copy(&o->spec, from))
        ok = err_set(err, YADO_ERR_HOST, "out of memory or descriptors");
    else if (from->kind == SPEC_ATTACH_FILE)
        ok = file_open(o, err);
    else if (from->kind == SPEC_ATTACH_SOCKET)
        ok = socket_open(o, err);
    if (!ok)
        opened_close(o);
    return ok;
}

static struct pump_ends ends_of(const struct opened *o)
{
    struct pump_ends ends = pump_ends_none();

    switch (o->spec.kind) {
    case SPEC_ATTACH_NONE: break;
    case SPEC_ATTACH_FDS:
    case SPEC_ATTACH_PTY:
        ends.read_fd = o->spec.read_fd;
        ends.write_fd = o->spec.write_fd;
        ends.is_pty = o->spec.kind == SPEC_ATTACH_PTY;
        break;
    case SPEC_ATTACH_FILE: ends.write_fd = o->fd; break;
    case SPEC_ATTACH_SOCKET: ends.listen_fd = o->fd; break;
    }
    return ends;
}

/* ---- all ---- */

static bool serials_open(struct native_ports *p, struct board_devices *out, struct yado_error *err)
{
    for (unsigned i = 0; i < p->spec->serial_count; i++) {
        const struct spec_serial *from = &p->spec->serials[i];

        if (!opened_make(&p->serials[i], &from->attachment, err))
            return err_prepend(err, "serial_ports[%u].attachment", i);
        out->serials[i] = (struct board_serial){
            .kind = from->kind == SPEC_SERIAL_UART ? BOARD_UART : BOARD_VIRTIO_CONSOLE,
            .ends = ends_of(&p->serials[i]),
            .columns = from->columns,
            .rows = from->rows,
        };
    }
    out->serial_count = p->spec->serial_count;
    return true;
}

static bool console_open(struct native_ports *p, unsigned index, struct yado_error *err)
{
    const struct spec_console *from = &p->spec->consoles[index];
    struct console *c = &p->consoles[index];

    for (unsigned i = 0; i < from->port_count; i++) {
        const struct spec_port *port = &from->ports[i];

        if (!opened_make(&c->opened[i], &port->attachment, err))
            return err_prepend(err, "consoles[%u].ports[%u].attachment", index, i);
        c->ports[i] = (struct board_port){
            .is_present = port->is_present,
            .name = port->name,
            .is_console = port->is_console,
            .ends = ends_of(&c->opened[i]),
            .columns = port->columns,
            .rows = port->rows,
        };
    }
    return true;
}

static bool consoles_open(struct native_ports *p, struct board_devices *out, struct yado_error *err)
{
    for (unsigned i = 0; i < p->spec->console_count; i++) {
        if (!console_open(p, i, err))
            return false;
        out->consoles[i] = (struct board_console){ .ports = p->consoles[i].ports,
                                                   .port_count = p->spec->consoles[i].port_count };
    }
    out->console_count = p->spec->console_count;
    return true;
}

static struct native_ports *ports_alloc(const struct spec *spec)
{
    struct native_ports *p = calloc(1, sizeof(*p));

    if (!p)
        return NULL;
    p->spec = spec;
    p->consoles = calloc(spec->console_count + 1, sizeof(*p->consoles));
    if (!p->consoles) {
        free(p);
        return NULL;
    }
    for (unsigned i = 0; i < SPEC_DEVICE_MAX; i++)
        p->serials[i].fd = -1;
    for (unsigned i = 0; i < spec->console_count; i++) {
        for (unsigned j = 0; j < SPEC_PORTS_MAX; j++)
            p->consoles[i].opened[j].fd = -1;
    }
    return p;
}

struct native_ports *native_ports_open(const struct spec *spec, struct board_devices *out,
                                       struct yado_error *err)
{
    struct native_ports *p = ports_alloc(spec);

    if (!p) {
        err_set(err, YADO_ERR_MEMORY, "out of memory");
        return NULL;
    }
    if (serials_open(p, out, err) && consoles_open(p, out, err))
        return p;
    native_ports_close(p);
    return NULL;
}

void native_ports_close(struct native_ports *p)
{
    if (!p)
        return;
    for (unsigned i = 0; i < SPEC_DEVICE_MAX; i++)
        opened_close(&p->serials[i]);
    for (unsigned i = 0; i < p->spec->console_count; i++) {
        for (unsigned j = 0; j < SPEC_PORTS_MAX; j++)
            opened_close(&p->consoles[i].opened[j]);
    }
    free(p->consoles);
    free(p);
}

bool native_ports_attach(struct native_ports *p, struct machine *m, unsigned device, unsigned port,
                         const struct spec_attachment *to, struct yado_error *err)
{
    struct opened opened, *place = &p->consoles[device].opened[port];
    struct pump_ends ends;

    if (!opened_make(&opened, to, err))
        return err_prepend(err, "consoles[%u].ports[%u].attachment", device, port);
    ends = ends_of(&opened);
    if (!machine_port_attach(m, device, port, &ends, err)) {
        opened_close(&opened);
        return false;
    }
    opened_close(place); /* the pump has let go of it */
    *place = opened;
    return true;
}
