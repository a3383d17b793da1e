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

static int file_open(struct serial_files *s, const char *path, int *out)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY, 0666);

    if (fd < 0) {
        say("--serial file: %s: %s", path, strerror(errno));
        return EXIT_FAILED;
    }
    *out = keep(s, fd);
    return EXIT_OK;
}

static int port_open(struct serial_files *s, const struct run_serial *r, unsigned index, int *in, int *out)
{
    *in = *out = -1;
    switch (r->kind) {
    case RUN_SERIAL_STDIO: return stdio_open(s, in, out);
    case RUN_SERIAL_PTY: return pty_open(s, index, in, out);
    case RUN_SERIAL_FILE: return file_open(s, r->path, out);
    case RUN_SERIAL_NONE: break;
    }
    return EXIT_OK;
}

int serial_open(struct serial_files *s, const struct run_options *o, struct yado_config *cfg)
{
    bool uart_reads = o->multiboot || run_console_of(o->cmdline) == RUN_CONSOLE_UART;
    bool uart = o->multiboot || run_uses_uart(o->cmdline);

    *s = (struct serial_files){ .keyboard = -1 };
    for (unsigned i = 0; i < o->serial_count; i++) {
        int in, out, status = port_open(s, &o->serials[i], i, &in, &out);

        if (status != EXIT_OK)
            return status;
        if (i == 0 && uart)
            yado_config_add_serial_port(cfg,
                                        yado_uart_port_new(yado_fd_serial_new(uart_reads ? in : -1, out)));
        if (i == 0 && uart_reads)
            in = -1;
        yado_config_add_serial_port(cfg, yado_virtio_console_port_new(yado_fd_serial_new(in, out)));
    }
    return EXIT_OK;
}

void serial_close(struct serial_files *s)
{
    for (unsigned i = 0; i < s->fd_count; i++)
        close(s->fds[i]);
    s->fd_count = 0;
    s->keyboard = -1;
}
