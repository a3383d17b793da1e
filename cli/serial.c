/* See serial.h. */
#include "serial.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

static int keep(struct serial_files *s, int fd)
{
    s->fds[s->fd_count++] = fd;
    return fd;
}

/* Standard input goes through us, so that the keys for leaving are seen; the guest reads a pipe. */
static int stdio_open(struct serial_files *s, int *in, int *out)
{
    int ends[2];

    if (pipe(ends) < 0) {
        say("cannot make a pipe: %s", strerror(errno));
        return EXIT_FAILED;
    }
    fcntl(ends[0], F_SETFD, FD_CLOEXEC);
    fcntl(ends[1], F_SETFD, FD_CLOEXEC);
    *in = keep(s, ends[0]);
    s->keyboard = keep(s, ends[1]);
    fcntl(s->keyboard, F_SETFL, O_WRONLY | O_NONBLOCK);
    *out = STDOUT_FILENO;
    return EXIT_OK;
}

/* We keep the other side open too: without anyone there, reads would fail and output would be lost. */
static int pty_open(struct serial_files *s, unsigned index, int *in, int *out)
{
    int master = posix_openpt(O_RDWR | O_NOCTTY), slave;
    struct termios raw;
    char name[64];

    if (master < 0 || grantpt(master) < 0 || unlockpt(master) < 0 || ptsname_r(master, name, sizeof(name))) {
        say("--serial pty: cannot make a terminal: %s", strerror(errno));
        if (master >= 0)
            close(master);
        return EXIT_FAILED;
    }
    fcntl(master, F_SETFD, FD_CLOEXEC);
    keep(s, master);
    slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (slave < 0) {
        say("--serial pty: %s: %s", name, strerror(errno));
        return EXIT_FAILED;
    }
    keep(s, slave);
    if (tcgetattr(slave, &raw) == 0) {
        cfmakeraw(&raw);
        tcsetattr(slave, TCSANOW, &raw);
    }
    *in = *out = master;
    say("hvc%u is %s", index, name);
    return EXIT_OK;
}

static int file_open(struct serial_files *s, const char *path, int how, int *out)
{
    int fd = open(path, O_WRONLY | O_CREAT | how | O_CLOEXEC | O_NOCTTY, 0666);

    if (fd < 0) {
        say("--serial file: %s: %s", path, strerror(errno));
        return EXIT_FAILED;
    }
    *out = keep(s, fd);
    return EXIT_OK;
}

static int fd_check(int fd)
{
    if (fcntl(fd, F_GETFD) >= 0)
        return EXIT_OK;
    say("fd:%d: no descriptor of that number is open", fd);
    return EXIT_FAILED;
}

/* What is descriptors: both -1 for what is none. */
static int port_open(struct serial_files *s, const struct run_serial *r, unsigned index, int *in, int *out)
{
    *in = *out = -1;
    switch (r->kind) {
    case RUN_SERIAL_STDIO: return stdio_open(s, in, out);
    case RUN_SERIAL_PTY: return pty_open(s, index, in, out);
    case RUN_SERIAL_FILE: return file_open(s, r->path, O_TRUNC, out);
    case RUN_SERIAL_APPEND: return file_open(s, r->path, O_APPEND, out);
    case RUN_SERIAL_FD: *in = *out = r->fd; return fd_check(r->fd);
    case RUN_SERIAL_SOCKET:
    case RUN_SERIAL_NONE: break;
    }
    return EXIT_OK;
}

static int serial_add(struct serial_files *s, const struct run_options *o, unsigned i,
                      struct yado_config *cfg)
{
    const struct run_serial *r = &o->serial.serials[i];
    bool has_uart = i == 0 && (o->multiboot || run_uses_uart(o->cmdline));
    bool uart_reads = i == 0 && (o->multiboot || run_console_of(o->cmdline) == RUN_CONSOLE_UART);
    struct yado_serial *uart, *console;
    int in, out, status = port_open(s, r, i, &in, &out);

    if (status != EXIT_OK)
        return status;
    if (r->kind == RUN_SERIAL_SOCKET) { /* for one device only: that of the kernel's console */
        uart = uart_reads ? yado_socket_serial_new(r->path) : yado_fd_serial_new(-1, -1);
        console = uart_reads ? yado_fd_serial_new(-1, -1) : yado_socket_serial_new(r->path);
    } else {
        uart = yado_fd_serial_new(uart_reads ? in : -1, out);
        console = yado_fd_serial_new(uart_reads ? -1 : in, out);
    }
    if (has_uart)
        yado_config_add_serial_port(cfg, yado_uart_port_new(uart));
    else
        yado_serial_free(uart);
    yado_config_add_serial_port(cfg, yado_virtio_console_port_new(console));
    return EXIT_OK;
}

static struct yado_serial *pty_make(const struct run_port *p, unsigned index)
{
    struct yado_serial *serial = yado_pty_serial_new();

    if (serial && p->name)
        say("port %s is %s", p->name, yado_serial_path(serial));
    else if (serial)
        say("port %u is %s", index, yado_serial_path(serial));
    return serial;
}

/* EXIT_OK: *out is what is attached, which may be nothing. */
static int attachment_make(struct serial_files *s, const struct run_port *p, unsigned index,
                           struct yado_serial **out)
{
    const struct run_serial *r = &p->serial;
    int in = -1, to = -1, status = EXIT_OK;

    switch (r->kind) {
    case RUN_SERIAL_NONE: return EXIT_OK;
    case RUN_SERIAL_PTY: *out = pty_make(p, index); return EXIT_OK;
    case RUN_SERIAL_FILE:
    case RUN_SERIAL_APPEND:
        *out = yado_file_serial_new(r->path, r->kind == RUN_SERIAL_APPEND);
        return EXIT_OK;
    case RUN_SERIAL_SOCKET: *out = yado_socket_serial_new(r->path); return EXIT_OK;
    case RUN_SERIAL_STDIO:
    case RUN_SERIAL_FD: status = port_open(s, r, index, &in, &to); break;
    }
    *out = status == EXIT_OK ? yado_fd_serial_new(in, to) : NULL;
    return status;
}

static int console_add(struct serial_files *s, const struct serial_options *o, struct yado_config *cfg)
{
    struct yado_console *console;
    int status = EXIT_OK;

    if (!o->port_count)
        return EXIT_OK;
    console = yado_virtio_console_new();
    for (unsigned i = 0; i < o->port_count && status == EXIT_OK; i++) {
        struct yado_console_port *port = yado_console_port_new();
        struct yado_serial *serial = NULL;

        status = attachment_make(s, &o->ports[i], i, &serial);
        if (o->ports[i].name)
            yado_console_port_set_name(port, o->ports[i].name);
        yado_console_port_set_console(port, o->ports[i].is_hvc);
        if (o->ports[i].serial.kind != RUN_SERIAL_NONE)
            yado_console_port_set_attachment(port, serial);
        yado_console_set_port(console, i, port);
    }
    yado_config_add_console(cfg, console);
    return status;
}

int serial_open(struct serial_files *s, const struct run_options *o, struct yado_config *cfg)
{
    int status = EXIT_OK;

    *s = (struct serial_files){ .keyboard = -1 };
    for (unsigned i = 0; i < o->serial.serial_count && status == EXIT_OK; i++)
        status = serial_add(s, o, i, cfg);
    return status == EXIT_OK ? console_add(s, &o->serial, cfg) : status;
}

void serial_size(const struct serial_options *o, struct yado_machine *machine, uint16_t columns,
                 uint16_t rows)
{
    for (unsigned i = 0; i < o->serial_count; i++) {
        if (o->serials[i].kind == RUN_SERIAL_STDIO)
            yado_machine_set_console_size(machine, i, columns, rows);
    }
    for (unsigned i = 0; i < o->port_count; i++) {
        if (o->ports[i].serial.kind == RUN_SERIAL_STDIO)
            yado_machine_set_console_port_size(machine, 0, i, columns, rows);
    }
}

void serial_close(struct serial_files *s)
{
    for (unsigned i = 0; i < s->fd_count; i++)
        close(s->fds[i]);
    s->fd_count = 0;
    s->keyboard = -1;
}
