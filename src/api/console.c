/* Serial and console configuration objects, and what is checked of them. */
#include <stdlib.h>
#include <string.h>

#include "api/config_priv.h"
#include "host/pty.h"
#include "host/socket.h"

_Static_assert(YADO_CONSOLE_PORTS_MAX == SPEC_PORTS_MAX && YADO_PORT_NAME_MAX == SPEC_PORT_NAME_MAX,
               "one limit, two names");

/* ---- attachments ---- */

static struct yado_serial *serial_new(enum spec_attachment_kind kind)
{
    struct yado_serial *s = calloc(1, sizeof(*s));

    if (s)
        s->attachment =
            (struct spec_attachment){ .kind = kind, .read_fd = -1, .write_fd = -1, .hold_fd = -1 };
    return s;
}

struct yado_serial *yado_fd_serial_new(int read_fd, int write_fd)
{
    struct yado_serial *s = serial_new(SPEC_ATTACH_FDS);

    if (s && spec_fd_dup(read_fd, &s->attachment.read_fd) && spec_fd_dup(write_fd, &s->attachment.write_fd))
        return s;
    yado_serial_free(s);
    return NULL;
}

static struct yado_serial *path_serial_new(enum spec_attachment_kind kind, const char *path)
{
    struct yado_serial *s = serial_new(kind);

    if (s)
        s->attachment.path = strdup(path ? path : "");
    if (s && s->attachment.path)
        return s;
    yado_serial_free(s);
    return NULL;
}

struct yado_serial *yado_file_serial_new(const char *path, bool append)
{
    struct yado_serial *s = path_serial_new(SPEC_ATTACH_FILE, path);

    if (s)
        s->attachment.append = append;
    return s;
}

struct yado_serial *yado_socket_serial_new(const char *path)
{
    return path_serial_new(SPEC_ATTACH_SOCKET, path);
}

struct yado_serial *yado_pty_serial_new(void)
{
    struct yado_serial *s;
    struct pty pty;

    if (!pty_open(&pty, NULL))
        return NULL;
    s = path_serial_new(SPEC_ATTACH_PTY, pty.path);
    if (!s || !spec_fd_dup(pty.master, &s->attachment.write_fd)) {
        pty_close(&pty);
        yado_serial_free(s);
        return NULL;
    }
    s->attachment.read_fd = pty.master;
    s->attachment.hold_fd = pty.other;
    return s;
}

const char *yado_serial_path(const struct yado_serial *serial)
{
    return serial->attachment.path;
}

void yado_serial_free(struct yado_serial *serial)
{
    if (!serial)
        return;
    spec_attachment_clear(&serial->attachment);
    free(serial);
}

/* ---- devices with one port ---- */

static struct yado_serial_port *port_new(struct yado_serial *serial, enum spec_serial_kind kind)
{
    struct yado_serial_port *p = calloc(1, sizeof(*p));

    if (p && serial) {
        p->serial.attachment = serial->attachment; /* moved */
        p->serial.kind = kind;
        free(serial);
        return p;
    }
    yado_serial_free(serial);
    free(p);
    return NULL;
}

struct yado_serial_port *yado_virtio_console_port_new(struct yado_serial *serial)
{
    return port_new(serial, SPEC_SERIAL_VIRTIO_CONSOLE);
}

struct yado_serial_port *yado_uart_port_new(struct yado_serial *serial)
{
    return port_new(serial, SPEC_SERIAL_UART);
}

void yado_serial_port_free(struct yado_serial_port *port)
{
    if (!port)
        return;
    spec_serial_clear(&port->serial);
    free(port);
}

void yado_config_add_serial_port(struct yado_config *config, struct yado_serial_port *port)
{
    if (!port) {
        config_lacks_device(config, "serial_ports", config->spec.serial_count);
    } else if (!device_fits(config)) {
        yado_serial_port_free(port);
    } else {
        config->spec.serials[config->spec.serial_count++] = port->serial; /* moved */
        free(port);
    }
}

/* ---- devices with several ports ---- */

struct yado_console_port *yado_console_port_new(void)
{
    struct yado_console_port *p = calloc(1, sizeof(*p));

    if (p)
        p->port.is_present = true;
    return p;
}

void yado_console_port_set_name(struct yado_console_port *port, const char *name)
{
    if (!port)
        return;
    free(port->port.name);
    port->port.name = name ? strdup(name) : NULL;
    port->out_of_memory |= name && !port->port.name;
}

void yado_console_port_set_console(struct yado_console_port *port, bool is_console)
{
    if (port)
        port->port.is_console = is_console;
}

void yado_console_port_set_attachment(struct yado_console_port *port, struct yado_serial *serial)
{
    if (!port || !serial) {
        if (port)
            port->out_of_memory = true;
        yado_serial_free(serial);
        return;
    }
    spec_attachment_clear(&port->port.attachment);
    port->port.attachment = serial->attachment; /* moved */
    free(serial);
}

void yado_console_port_free(struct yado_console_port *port)
{
    if (!port)
        return;
    spec_port_clear(&port->port);
    free(port);
}

struct yado_console *yado_virtio_console_new(void)
{
    return calloc(1, sizeof(struct yado_console));
}

void yado_console_set_port(struct yado_console *console, unsigned index, struct yado_console_port *port)
{
    if (!console || !port || port->out_of_memory) {
        if (console)
            console->out_of_memory = true;
    } else if (index >= SPEC_PORTS_MAX) {
        console->console.index_over = index;
    } else if (spec_console_set(&console->console, index, &port->port)) {
        port->port = (struct spec_port){ .is_present = false }; /* moved */
    } else {
        console->out_of_memory = true;
    }
    yado_console_port_free(port);
}

void yado_console_free(struct yado_console *console)
{
    if (!console)
        return;
    spec_console_clear(&console->console);
    free(console);
}

void yado_config_add_console(struct yado_config *config, struct yado_console *console)
{
    if (!console || console->out_of_memory) {
        config_lacks_device(config, "consoles", config->spec.console_count);
    } else if (device_fits(config)) {
        config->spec.consoles[config->spec.console_count++] = console->console; /* moved */
        console->console = (struct spec_console){ .ports = NULL };
    }
    yado_console_free(console);
}

/* ---- checks ---- */

bool serial_attachment_check(const struct spec_attachment *a, struct yado_error *err)
{
    if (a->kind != SPEC_ATTACH_FILE && a->kind != SPEC_ATTACH_SOCKET)
        return true;
    if (!a->path[0])
        return err_set(err, YADO_ERR_INVALID_CONFIG, "the path is empty");
    if (a->kind == SPEC_ATTACH_SOCKET && strlen(a->path) > SOCKET_PATH_MAX)
        return err_set(err, YADO_ERR_INVALID_CONFIG, "%s: longer than the %u bytes of a socket's path",
                       a->path, SOCKET_PATH_MAX);
    return true;
}

static bool serials_check(const struct spec *s, struct yado_error *err)
{
    unsigned uarts = 0;

    for (unsigned i = 0; i < s->serial_count; i++) {
        if (s->serials[i].kind == SPEC_SERIAL_UART && uarts++)
            return err_set(err, YADO_ERR_INVALID_CONFIG, "serial_ports[%u]: there is only one UART", i);
        if (!serial_attachment_check(&s->serials[i].attachment, err))
            return err_prepend(err, "serial_ports[%u].attachment", i);
    }
    return true;
}

static bool name_check(const char *name, struct yado_error *err)
{
    if (!name[0])
        return err_set(err, YADO_ERR_INVALID_CONFIG, "it is empty");
    if (strlen(name) > SPEC_PORT_NAME_MAX)
        return err_set(err, YADO_ERR_INVALID_CONFIG, "\"%.70s\" has more than %d bytes", name,
                       SPEC_PORT_NAME_MAX);
    for (const char *p = name; *p; p++) {
        if (*p <= ' ' || *p > '~' || *p == '/')
            return err_set(err, YADO_ERR_INVALID_CONFIG,
                           "it has a byte that is not printable ASCII, or a \"/\"");
    }
    return true;
}

/* Whether an earlier port of the machine has that name. */
static bool name_is_free(const struct spec *s, unsigned console, unsigned port, struct yado_error *err)
{
    const char *name = s->consoles[console].ports[port].name;

    for (unsigned i = 0; i <= console; i++) {
        const struct spec_console *c = &s->consoles[i];

        for (unsigned j = 0; j < (i == console ? port : c->port_count); j++) {
            if (c->ports[j].name && !strcmp(c->ports[j].name, name))
                return err_set(err, YADO_ERR_INVALID_CONFIG, "\"%s\" is that of consoles[%u].ports[%u]", name,
                               i, j);
        }
    }
    return true;
}

/* Two ports at one socket, or in one file that each empties, would find out at the start or never. */
static const struct spec_attachment *attachment_at(const struct spec *s, unsigned n)
{
    if (n < s->serial_count)
        return &s->serials[n].attachment;
    n -= s->serial_count;
    for (unsigned i = 0; i < s->console_count; i++) {
        if (n < s->consoles[i].port_count)
            return &s->consoles[i].ports[n].attachment;
        n -= s->consoles[i].port_count;
    }
    return NULL;
}

static bool paths_check(const struct spec *s, struct yado_error *err)
{
    const struct spec_attachment *a, *b;

    for (unsigned i = 0; (a = attachment_at(s, i)); i++) {
        if (a->kind != SPEC_ATTACH_FILE && a->kind != SPEC_ATTACH_SOCKET)
            continue;
        for (unsigned j = 0; j < i; j++) {
            b = attachment_at(s, j);
            if (b->kind == a->kind && !(a->append && b->append) && !strcmp(a->path, b->path))
                return err_set(err, YADO_ERR_INVALID_CONFIG,
                               "serial_ports and consoles: two ports are attached to %s", a->path);
        }
    }
    return true;
}

static bool console_check(const struct spec *s, unsigned index, struct yado_error *err)
{
    const struct spec_console *c = &s->consoles[index];

    if (c->index_over)
        return err_set(err, YADO_ERR_INVALID_CONFIG, "consoles[%u].ports[%u]: a console has ports 0 to %d",
                       index, c->index_over, SPEC_PORTS_MAX - 1);
    if (!c->port_count)
        return err_set(err, YADO_ERR_INVALID_CONFIG, "consoles[%u].ports: there is none", index);
    for (unsigned i = 0; i < c->port_count; i++) {
        const struct spec_port *p = &c->ports[i];

        if (p->name && (!name_check(p->name, err) || !name_is_free(s, index, i, err)))
            return err_prepend(err, "consoles[%u].ports[%u].name", index, i);
        if (!serial_attachment_check(&p->attachment, err))
            return err_prepend(err, "consoles[%u].ports[%u].attachment", index, i);
    }
    return true;
}

bool consoles_check(const struct spec *s, struct yado_error *err)
{
    if (!serials_check(s, err))
        return false;
    for (unsigned i = 0; i < s->console_count; i++) {
        if (!console_check(s, i, err))
            return false;
    }
    return paths_check(s, err);
}
