/* simplevm: a small virtual machine monitor on libyado's public API.
 *
 *   simplevm --kernel vmlinuz [--initrd initrd.img] [--command-line TEXT] [--disk FILE]... [--cpu N]
 * [--memory-size BYTES]
 *
 * The guest's console hvc0 is standard input and output. Each disk is read-write. Returns when the guest has
 * stopped; Ctrl-C on the terminal cuts it off. */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

#include <yado/yado.h>

struct settings {
    const char *kernel, *initrd, *command_line;
    unsigned cpus;
    uint64_t memory_size; /* bytes */
};

static const struct option options[] = {
    { "kernel", required_argument, NULL, 'k' },
    { "initrd", required_argument, NULL, 'i' },
    { "command-line", required_argument, NULL, 'c' },
    { "disk", required_argument, NULL, 'd' },
    { "cpu", required_argument, NULL, 'n' },
    { "memory-size", required_argument, NULL, 'm' },
    { NULL, 0, NULL, 0 },
};

/* A whole decimal number, or an end of the program. */
static uint64_t number(const char *what, const char *text, uint64_t max)
{
    unsigned long long value;
    char *end;

    errno = 0;
    value = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || errno || value > max) {
        fprintf(stderr, "simplevm: %s: \"%s\" is not a number that can be used\n", what, text);
        exit(2);
    }
    return value;
}

/* Reads the command line; disks go into the configuration at once. */
static void read_options(struct settings *s, struct yado_config *config, int argc, char **argv)
{
    int c;

    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (c) {
        case 'k': s->kernel = optarg; break;
        case 'i': s->initrd = optarg; break;
        case 'c': s->command_line = optarg; break;
        case 'n': s->cpus = (unsigned)number("--cpu", optarg, YADO_CPU_COUNT_MAX); break;
        case 'm': s->memory_size = number("--memory-size", optarg, YADO_MEMORY_SIZE_MAX); break;
        case 'd':
            yado_config_add_storage(config,
                                    yado_virtio_block_new(yado_disk_image_new(optarg, YADO_DISK_RAW, 0)));
            break;
        default: exit(2);
        }
    }
    if (optind < argc || !s->kernel) {
        fprintf(stderr,
                "usage: simplevm --kernel FILE [--initrd FILE] [--command-line TEXT] [--disk FILE]...\n"
                "                [--cpu N] [--memory-size BYTES]\n");
        exit(2);
    }
}

/* ---- the terminal: each key goes to the guest as it is, and it is the guest that echoes ---- */

static struct termios terminal_before;

static void terminal_restore(void)
{
    tcsetattr(STDIN_FILENO, TCSANOW, &terminal_before);
}

static void on_signal(int number)
{
    terminal_restore();
    signal(number, SIG_DFL);
    raise(number);
}

static void terminal_take(void)
{
    static const int ends[] = { SIGINT, SIGQUIT, SIGTERM, SIGHUP };
    struct termios t;

    if (tcgetattr(STDIN_FILENO, &terminal_before) < 0)
        return; /* it is a file or a pipe */
    atexit(terminal_restore);
    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++)
        signal(ends[i], on_signal);
    t = terminal_before;
    t.c_iflag &= ~(tcflag_t)ICRNL;
    t.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
    tcsetattr(STDIN_FILENO, TCSANOW, &t);
}

static void started(void *ctx, const struct yado_error *err)
{
    (void)ctx;
    if (err)
        fprintf(stderr, "simplevm: cannot start: %s\n", err->message);
}

static void happened(void *ctx, const struct yado_event *event)
{
    (void)ctx;
    if (event->kind == YADO_EVENT_STOPPED_WITH_ERROR)
        fprintf(stderr, "simplevm: %s\n", event->error.message);
}

int main(int argc, char **argv)
{
    struct settings s = { .command_line = "console=hvc0", .cpus = 4, .memory_size = 2147483648u };
    struct yado_machine_options how = { .size = sizeof(how),
                                        .engine = YADO_ENGINE_AUTO,
                                        .on_event = happened };
    struct yado_config *config = yado_config_new();
    struct yado_error err = YADO_ERROR_INIT;
    struct yado_machine *machine;
    enum yado_state state;

    if (!config)
        return 1;
    read_options(&s, config, argc, argv);
    yado_config_set_cpu_count(config, s.cpus);
    yado_config_set_memory_size(config, s.memory_size);
    yado_config_set_boot_loader(config, yado_linux_boot_loader_new(s.kernel, s.initrd, s.command_line));
    yado_config_add_serial_port(
        config, yado_virtio_console_port_new(yado_fd_serial_new(STDIN_FILENO, STDOUT_FILENO)));
    yado_config_add_entropy(config, yado_virtio_entropy_new());
    yado_config_add_balloon(config, yado_virtio_balloon_new());
    yado_config_add_network(config, yado_virtio_net_new(yado_nat_new())); /* with a random MAC address */

    machine = yado_machine_new(config, &how, &err);
    yado_config_free(config);
    if (!machine) {
        fprintf(stderr, "simplevm: %s\n", err.message);
        return err.code == YADO_ERR_INVALID_CONFIG ? 2 : 1;
    }
    terminal_take();
    if (!yado_machine_start(machine, started, NULL))
        return 1;
    yado_machine_wait(machine, -1);
    state = yado_machine_state(machine);
    yado_machine_free(machine);
    return state == YADO_STATE_STOPPED ? 0 : 1;
}
