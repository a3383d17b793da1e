/* netvm: a machine whose network is changed from outside while it runs, for the guest cases. The command has
 * no way to do that; this is a user of the public API that has one, with the command's own --net syntax.
 *
 *   netvm KERNEL INITRD CMDLINE CPUS MEMORY_MIB CONTROL_FD DISK [DISK...] -- [NET...]
 *
 * The guest's console is standard input and output; MEMORY_MIB is its memory in MiB. CONTROL_FD is a stream
 * socket that takes one command a line and answers each with a line, "ok" or "error MESSAGE": forward INDEX
 * FORWARD     adds a forward (as in --net nat,forward=FORWARD) to network INDEX unforward INDEX FORWARD
 * removes it attach INDEX NET          plugs network INDEX in elsewhere; "none" unplugs it pause, resume
 * answered when it is done Between answers come lines about events: "event INDEX MESSAGE" for a network that
 * is disconnected. */
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "net_options.h"

#define LINE_MAX_LEN 512

struct netvm {
    struct yado_machine *machine;
    int control;
    char line[LINE_MAX_LEN];
    size_t len;
};

/* ---- what the command's files ask of theirs ---- */

int usage_error(const char *fmt, ...)
{
    va_list ap;

    fputs("netvm: ", stderr);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    return EXIT_USAGE;
}

/* ---- steering ---- */

static void tell(struct netvm *vm, const char *what, const char *message)
{
    dprintf(vm->control, "%s%s%s\n", what, message ? " " : "", message ? message : "");
}

static void on_done(void *ctx, const struct yado_error *err)
{
    tell(ctx, err ? "error" : "ok", err ? err->message : NULL);
}

static void on_event(void *ctx, const struct yado_event *event)
{
    struct netvm *vm = ctx;

    if (event->kind == YADO_EVENT_NETWORK_DISCONNECTED)
        dprintf(vm->control, "event %u %s\n", event->index, event->error.message);
    if (event->kind == YADO_EVENT_STOPPED_WITH_ERROR)
        usage_error("%s", event->error.message);
}

/* Takes the network apart that a --net value describes. */
static bool net_read(struct net_options *o, const char *value)
{
    *o = (struct net_options){ 0 };
    return net_options_add(o, value) == EXIT_OK && (o->count == 1 || o->none);
}

static bool forward_change(struct netvm *vm, unsigned index, const char *text, bool add,
                           struct yado_error *err)
{
    char value[LINE_MAX_LEN + 16];
    struct net_options o;
    struct yado_forward f;

    snprintf(value, sizeof(value), "nat,forward=%s", text);
    if (!net_read(&o, value)) {
        snprintf(err->message, sizeof(err->message), "not a forward: %.300s", text);
        return false;
    }
    f = net_options_forward(&o.nets[0].forwards[0]);
    return add ? yado_machine_add_forward(vm->machine, index, &f, err)
               : yado_machine_remove_forward(vm->machine, index, &f, err);
}

static bool attach(struct netvm *vm, unsigned index, const char *text, struct yado_error *err)
{
    struct net_options o;
    bool ok;

    if (!net_read(&o, text)) {
        snprintf(err->message, sizeof(err->message), "not a network: %.300s", text);
        return false;
    }
    ok = yado_machine_set_network_attachment(vm->machine, index,
                                             o.none ? NULL : net_options_attachment(&o.nets[0]), err);
    net_options_free(&o);
    return ok;
}

static void command(struct netvm *vm, char *line)
{
    struct yado_error err = YADO_ERROR_INIT;
    char text[LINE_MAX_LEN] = "";
    unsigned index = 0;
    bool ok;

    if (!strcmp(line, "pause")) {
        yado_machine_pause(vm->machine, on_done, vm);
        return;
    }
    if (!strcmp(line, "resume")) {
        yado_machine_resume(vm->machine, on_done, vm);
        return;
    }
    if (sscanf(line, "forward %u %511s", &index, text) == 2)
        ok = forward_change(vm, index, text, true, &err);
    else if (sscanf(line, "unforward %u %511s", &index, text) == 2)
        ok = forward_change(vm, index, text, false, &err);
    else if (sscanf(line, "attach %u %511s", &index, text) == 2)
        ok = attach(vm, index, text, &err);
    else {
        snprintf(err.message, sizeof(err.message), "no such command: %.300s", line);
        ok = false;
    }
    tell(vm, ok ? "ok" : "error", ok ? NULL : err.message);
}

/* False at the end of the commands. */
static bool commands_read(struct netvm *vm)
{
    ssize_t n = read(vm->control, vm->line + vm->len, sizeof(vm->line) - 1 - vm->len);
    char *end;

    if (n <= 0)
        return n < 0 && errno == EINTR;
    vm->len += (size_t)n;
    vm->line[vm->len] = '\0';
    while ((end = strchr(vm->line, '\n'))) {
        *end = '\0';
        command(vm, vm->line);
        vm->len -= (size_t)(end + 1 - vm->line);
        memmove(vm->line, end + 1, vm->len + 1);
    }
    return vm->len < sizeof(vm->line) - 1;
}

static int machine_run(struct netvm *vm)
{
    enum yado_state state;

    if (!yado_machine_start(vm->machine, on_done, vm))
        return EXIT_FAILED;
    while (!yado_machine_wait(vm->machine, 0)) {
        struct pollfd fds[2] = { { .fd = vm->control, .events = POLLIN },
                                 { .fd = yado_machine_event_fd(vm->machine), .events = POLLIN } };

        poll(fds, count_of(fds), -1);
        if (fds[0].revents && !commands_read(vm))
            break; /* whoever steers it is gone */
        yado_machine_dispatch(vm->machine);
    }
    state = yado_machine_state(vm->machine);
    return state == YADO_STATE_STOPPED ? EXIT_OK : EXIT_FAILED;
}

int main(int argc, char **argv)
{
    struct netvm vm = { .control = -1 };
    struct yado_machine_options how = { .size = sizeof(how), .on_event = on_event, .event_ctx = &vm };
    struct yado_config *cfg = yado_config_new();
    struct yado_error err = YADO_ERROR_INIT;
    struct net_options nets = { .none = false };
    int status, i;

    if (argc < 8)
        return usage_error("netvm: see the top of netvm.c");
    vm.control = atoi(argv[6]);
    yado_config_set_cpu_count(cfg, (unsigned)atoi(argv[4]));
    yado_config_set_memory_size(cfg, (uint64_t)atoi(argv[5]) << 20);
    yado_config_set_boot_loader(cfg, yado_linux_boot_loader_new(argv[1], argv[2], argv[3]));
    for (i = 7; i < argc && strcmp(argv[i], "--"); i++)
        yado_config_add_storage(cfg, yado_virtio_block_new(yado_disk_image_new(argv[i], YADO_DISK_RAW, 0)));
    for (i++; i < argc; i++) {
        if (net_options_add(&nets, argv[i]) != EXIT_OK)
            return EXIT_USAGE;
    }
    net_options_apply(&nets, cfg);
    net_options_free(&nets);
    yado_config_add_serial_port(
        cfg, yado_virtio_console_port_new(yado_fd_serial_new(STDIN_FILENO, STDOUT_FILENO)));
    yado_config_add_entropy(cfg, yado_virtio_entropy_new());
    vm.machine = yado_machine_new(cfg, &how, &err);
    yado_config_free(cfg);
    if (!vm.machine)
        return usage_error("%s", err.message);
    status = machine_run(&vm);
    yado_machine_free(vm.machine);
    return status;
}
