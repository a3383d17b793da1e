/* A machine for whole-guest tests that does as it is told while it runs: pause, resume, balloon target.
 *
 *   vmctl CONTROL KERNEL INITRD CMDLINE CPUS MEMORY_MIB FORWARD_PORT DISK...
 *
 * The guest's console hvc0 is standard input and output (the terminal is made raw). NAT, with 127.0.0.1:
 * FORWARD_PORT (0: none) leading to the guest's port 5001. CONTROL is a Unix socket to listen on; one client,
 * one command a line, one answer a line ("ok", or "error: why"):
 *
 *   pause | resume | skip SECONDS (while paused: all clocks of the guest ahead) | balloon MIB | stop
 *
 * Ends with status 0 when the guest has powered off or was stopped. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#include <yado/yado.h>

#include "api/machine_priv.h"

struct ctl {
    struct yado_machine *machine;
    int client;
    char line[256];
    size_t len;
};

static void end(const char *what, const char *why)
{
    fprintf(stderr, "vmctl: %s: %s\r\n", what, why);
    exit(1);
}

static void answer(struct ctl *c, const struct yado_error *err)
{
    char text[400];
    int n = err ? snprintf(text, sizeof(text), "error: %s\n", err->message)
                : snprintf(text, sizeof(text), "ok\n");

    if (send(c->client, text, (size_t)n, MSG_NOSIGNAL) < 0)
        end("control socket", strerror(errno));
}

static void done(void *ctx, const struct yado_error *err)
{
    answer(ctx, err);
}

static void started(void *ctx, const struct yado_error *err)
{
    (void)ctx;
    if (err)
        end("start", err->message);
}

static void command(struct ctl *c, const char *line)
{
    struct yado_error err = YADO_ERROR_INIT;

    if (!strcmp(line, "pause")) {
        yado_machine_pause(c->machine, done, c);
    } else if (!strcmp(line, "resume")) {
        yado_machine_resume(c->machine, done, c);
    } else if (!strcmp(line, "stop")) {
        yado_machine_stop(c->machine, NULL, NULL);
    } else if (!strncmp(line, "skip ", 5)) {
        bool ok = machine_time_skip_for_test(c->machine, strtoull(line + 5, NULL, 10) * 1000000000u, &err);

        answer(c, ok ? NULL : &err);
    } else if (!strncmp(line, "balloon ", 8)) {
        yado_machine_set_balloon_target(c->machine, strtoull(line + 8, NULL, 10) << 20);
        answer(c, NULL);
    } else {
        end("unknown command", line);
    }
}

static void client_read(struct ctl *c)
{
    ssize_t n = read(c->client, c->line + c->len, sizeof(c->line) - 1 - c->len);
    char *nl;

    if (n <= 0) {
        close(c->client);
        c->client = -1;
        return;
    }
    c->len += (size_t)n;
    c->line[c->len] = '\0';
    while ((nl = strchr(c->line, '\n'))) {
        *nl = '\0';
        command(c, c->line);
        c->len -= (size_t)(nl + 1 - c->line);
        memmove(c->line, nl + 1, c->len + 1);
    }
}

static int listen_at(const char *path)
{
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (strlen(path) >= sizeof(a.sun_path))
        end(path, "too long");
    strcpy(a.sun_path, path);
    if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, 1) < 0)
        end(path, strerror(errno));
    return fd;
}

static struct yado_config *configure(char **argv)
{
    struct yado_config *config = yado_config_new();
    struct yado_network_attachment *nat = yado_nat_new();
    struct yado_forward forward = { .protocol = YADO_TCP,
                                    .host_port = (uint16_t)atoi(argv[7]),
                                    .guest_port = 5001 };

    if (forward.host_port)
        yado_nat_add_forward(nat, &forward);
    yado_config_set_cpu_count(config, (unsigned)atoi(argv[5]));
    yado_config_set_memory_size(config, strtoull(argv[6], NULL, 10) << 20);
    yado_config_set_boot_loader(config, yado_linux_boot_loader_new(argv[2], argv[3], argv[4]));
    yado_config_add_serial_port(
        config, yado_virtio_console_port_new(yado_fd_serial_new(STDIN_FILENO, STDOUT_FILENO)));
    for (char **disk = argv + 8; *disk; disk++)
        yado_config_add_storage(config, yado_virtio_block_new(yado_disk_image_new(*disk, YADO_DISK_RAW, 0)));
    yado_config_add_entropy(config, yado_virtio_entropy_new());
    yado_config_add_balloon(config, yado_virtio_balloon_new());
    yado_config_add_network(config, yado_virtio_net_new(nat));
    return config;
}

int main(int argc, char **argv)
{
    struct yado_error err = YADO_ERROR_INIT;
    struct ctl c = { .client = -1 };
    struct yado_config *config;
    enum yado_state state;
    struct termios before, raw;
    bool is_terminal = tcgetattr(STDIN_FILENO, &before) == 0;
    int listener;

    if (argc < 9)
        end("usage", "vmctl CONTROL KERNEL INITRD CMDLINE CPUS MEMORY_MIB FORWARD_PORT DISK...");
    listener = listen_at(argv[1]);
    config = configure(argv);
    c.machine = yado_machine_new(config, NULL, &err);
    yado_config_free(config);
    if (!c.machine)
        end("machine", err.message);
    if (is_terminal) {
        raw = before;
        cfmakeraw(&raw);
        tcsetattr(STDIN_FILENO, TCSANOW, &raw);
    }
    yado_machine_start(c.machine, started, NULL);
    do {
        struct pollfd p[] = { { .fd = yado_machine_event_fd(c.machine), .events = POLLIN },
                              { .fd = c.client < 0 ? listener : c.client, .events = POLLIN } };

        if (poll(p, 2, -1) < 0 && errno != EINTR)
            end("poll", strerror(errno));
        if (p[1].revents && c.client < 0)
            c.client = accept(listener, NULL, NULL);
        else if (p[1].revents)
            client_read(&c);
        yado_machine_dispatch(c.machine);
        state = yado_machine_state(c.machine);
    } while (state != YADO_STATE_STOPPED && state != YADO_STATE_ERROR);
    yado_machine_free(c.machine);
    if (is_terminal)
        tcsetattr(STDIN_FILENO, TCSANOW, &before);
    return state == YADO_STATE_STOPPED ? 0 : 1;
}
