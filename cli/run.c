/* yado run: boots a guest on this terminal.
 *
 * Everything happens in one loop on the main thread, which polls standard input, the machine's event
 * descriptor and a descriptor of signals. Signals that would end the process are turned into requests there:
 *   TERM, INT, HUP   press the power button; the second one, or 30 s later, pulls the plug
 *   QUIT             pulls the plug
 *   TSTP, CONT       puts the terminal back and stops; takes it again when continued in the foreground
 *   WINCH            tells the guest the new size
 * The keys for leaving pull the plug: they are for guests that do not listen. */
#include "cli.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "input.h"
#include "run_options.h"
#include "serial.h"
#include "signals.h"
#include "terminal.h"

#define GRACE_MS 30000 /* from the power button to the plug */
#define NEVER INT64_MAX

struct run {
    const struct run_options *o;
    struct serial_files serial;
    struct yado_machine *machine;
    struct input input;
    bool is_raw;
    FILE *trace;

    bool ended, timed_out, left;
    int signo;           /* that asked for the end, 0: none */
    int64_t deadline_ms; /* of --timeout */
    int64_t plug_ms;     /* when the guest has had its time to power off */
    struct yado_error start_error, end_error;
};

static int64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* ---- configuration ---- */

static int disks_add(const struct run_options *o, struct yado_config *cfg)
{
    struct yado_error err = YADO_ERROR_INIT;

    for (unsigned i = 0; i < o->disk_count; i++) {
        const struct run_disk *d = &o->disks[i];
        struct yado_disk *disk =
            yado_disk_image_new(d->path, YADO_DISK_RAW, d->read_only ? YADO_DISK_READ_ONLY : 0);

        yado_disk_set_sync(disk, d->sync);
        yado_config_add_storage(cfg, yado_virtio_block_new(disk));
    }
    if (o->has_seed) {
        struct yado_seed *seed = seed_make(&o->seed, &err);
        struct yado_disk *disk = seed ? yado_seed_disk_new(seed, &err) : NULL;

        yado_seed_free(seed);
        if (!disk)
            return report(&err);
        yado_config_add_storage(cfg, yado_virtio_block_new(disk));
    }
    return EXIT_OK;
}

static int config_make(struct run *r, struct yado_config *cfg)
{
    const struct run_options *o = r->o;
    int status;

    yado_config_set_cpu_count(cfg, o->cpus);
    yado_config_set_memory_size(cfg, o->memory);
    yado_config_set_debug_exit(cfg, o->debug_exit);
    yado_config_set_boot_loader(cfg, yado_linux_boot_loader_new(o->kernel, o->initrd, o->cmdline));
    status = disks_add(o, cfg);
    if (status == EXIT_OK)
        status = serial_open(&r->serial, o, cfg);
    net_options_apply(&o->net, cfg);
    vsock_options_apply(&o->vsock, cfg);
    yado_config_add_entropy(cfg, yado_virtio_entropy_new());
    yado_config_add_balloon(cfg, yado_virtio_balloon_new());
    return status;
}

/* ---- events, on the main thread ---- */

static void on_started(void *ctx, const struct yado_error *err)
{
    struct run *r = ctx;

    if (err) {
        r->start_error = *err;
        r->ended = true;
    }
}

/* If it fails, the guest ended by itself meanwhile, and that is an event. */
static void on_stopped(void *ctx, const struct yado_error *err)
{
    struct run *r = ctx;

    r->ended |= err == NULL;
}

static void on_event(void *ctx, const struct yado_event *event)
{
    struct run *r = ctx;

    if (event->kind == YADO_EVENT_NETWORK_DISCONNECTED)
        say("network %u is disconnected: %s", event->index, event->error.message);
    if (event->kind == YADO_EVENT_STOPPED_WITH_ERROR)
        r->end_error = event->error;
    if (event->kind == YADO_EVENT_STOPPED_WITH_ERROR || event->kind == YADO_EVENT_GUEST_STOPPED)
        r->ended = true;
}

static void on_trace(void *ctx, const char *category, const char *line)
{
    const struct run *r = ctx;

    fprintf(r->trace, "[%s] %s%s\n", category, line, r->is_raw && r->trace == stderr ? "\r" : "");
}

/* ---- signals ---- */

static void plug_pull(struct run *r)
{
    /* Not legal while it starts: the loop comes here again. */
    r->plug_ms = now_ms() + 100;
    if (yado_machine_can_stop(r->machine)) {
        yado_machine_stop(r->machine, on_stopped, r);
        r->plug_ms = NEVER;
    }
}

static void end_ask(struct run *r, int signo)
{
    struct yado_error err = YADO_ERROR_INIT;

    if (r->signo || signo == SIGQUIT || !yado_machine_request_stop(r->machine, &err))
        plug_pull(r);
    else
        r->plug_ms = now_ms() + GRACE_MS;
    if (!r->signo)
        r->signo = signo;
}

static void size_tell(struct run *r)
{
    uint16_t columns, rows;

    if (terminal_size(&columns, &rows))
        serial_size(&r->o->serial, r->machine, columns, rows);
}

static void terminal_take(struct run *r)
{
    r->is_raw = r->serial.keyboard >= 0 && terminal_raw();
    r->input.is_terminal = r->is_raw;
    size_tell(r);
}

static void suspend(void)
{
    terminal_restore();
    raise(SIGSTOP);
}

static void signals_see(struct run *r)
{
    int signo;

    while ((signo = signals_next())) {
        switch (signo) {
        case SIGWINCH: size_tell(r); break;
        case SIGTSTP: suspend(); break;
        case SIGCONT: terminal_take(r); break;
        default: end_ask(r, signo); break;
        }
    }
}

/* ---- the loop ---- */

static void times_see(struct run *r)
{
    int64_t now = now_ms();

    if (now >= r->deadline_ms) {
        r->deadline_ms = NEVER;
        r->timed_out = true;
        plug_pull(r);
    }
    if (now >= r->plug_ms)
        plug_pull(r);
}

static int poll_timeout(const struct run *r)
{
    int64_t next = r->deadline_ms < r->plug_ms ? r->deadline_ms : r->plug_ms, left;

    if (next == NEVER)
        return -1;
    left = next - now_ms();
    return left < 0 ? 0 : left > 3600000 ? 3600000 : (int)left;
}

static void loop(struct run *r)
{
    while (!r->ended) {
        struct pollfd fds[4] = {
            [2] = { .fd = yado_machine_event_fd(r->machine), .events = POLLIN },
            [3] = { .fd = signals_fd(), .events = POLLIN },
        };

        input_poll(&r->input, fds);
        if (poll(fds, count_of(fds), poll_timeout(r)) < 0 && errno != EINTR)
            return;
        signals_see(r);
        if (input_step(&r->input, fds)) {
            r->left = true;
            plug_pull(r);
        }
        times_see(r);
        yado_machine_dispatch(r->machine);
    }
}

/* What is to be said, and the status. */
static int run_result(struct run *r)
{
    enum yado_stop_reason reason = yado_machine_stop_reason(r->machine);

    terminal_restore();
    if (r->start_error.code != YADO_OK)
        return report(&r->start_error);
    if (r->timed_out) {
        say("time limit of %llu s reached", (unsigned long long)r->o->timeout);
        return EXIT_TIME_OUT;
    }
    switch (reason) {
    case YADO_STOP_PANIC:
    case YADO_STOP_TRIPLE_FAULT: say("%s", r->end_error.message); return EXIT_CRASHED;
    case YADO_STOP_FAILURE: say("%s", r->end_error.message); return EXIT_FAILED;
    case YADO_STOP_HOST:
        if (r->left) {
            if (isatty(STDOUT_FILENO))
                putchar('\n'); /* the guest's last line is seldom a whole one */
            return EXIT_OK;
        }
        say("stopped by signal %d; the guest was cut off", r->signo);
        return 128 + r->signo;
    case YADO_STOP_DEBUG_EXIT: return (int)((yado_machine_exit_value(r->machine) << 1 | 1) & 0xff);
    case YADO_STOP_POWER_OFF:
    case YADO_STOP_RESET:
    case YADO_STOP_NONE: break;
    }
    return EXIT_OK;
}

static void counter_print(void *ctx, const char *name, uint64_t value)
{
    (void)ctx;
    fprintf(stderr, "%-18s %llu\n", name, (unsigned long long)value);
}

static int machine_run(struct run *r)
{
    if (!signals_take()) {
        say("cannot watch for signals");
        return EXIT_FAILED;
    }
    input_init(&r->input, r->serial.keyboard);
    terminal_take(r);
    r->plug_ms = NEVER;
    r->deadline_ms = r->o->timeout ? now_ms() + (int64_t)r->o->timeout * 1000 : NEVER;
    if (r->o->balloon)
        yado_machine_set_balloon_target(r->machine, r->o->balloon);
    if (!yado_machine_start(r->machine, on_started, r)) {
        say("out of memory");
        return EXIT_FAILED;
    }
    loop(r);
    terminal_restore();
    if (r->o->counters)
        yado_machine_each_counter(r->machine, counter_print, NULL);
    return run_result(r);
}

static int trace_help(void)
{
    const char *name;

    for (unsigned i = 0; (name = yado_trace_category(i)); i++)
        printf("%s\n", name);
    printf("all\n");
    return EXIT_OK;
}

static int trace_open(struct run *r)
{
    r->trace = r->o->trace_file ? fopen(r->o->trace_file, "we") : stderr;
    if (r->trace)
        return EXIT_OK;
    say("--trace-file: %s: %s", r->o->trace_file, strerror(errno));
    return EXIT_FAILED;
}

int cli_run(int argc, char **argv)
{
    struct run_options o;
    struct run r = { .o = &o };
    struct yado_machine_options mo = {
        .on_event = on_event, .event_ctx = &r, .trace = on_trace, .trace_ctx = &r
    };
    struct yado_engine_options eo = { .size = sizeof(eo) };
    struct yado_error err = YADO_ERROR_INIT;
    struct yado_config *cfg = yado_config_new();
    int status = run_options_read(&o, argc, argv);

    if (status == EXIT_OK && o.trace && !strcmp(o.trace, "help")) {
        yado_config_free(cfg);
        run_options_free(&o);
        return trace_help();
    }
    if (status == EXIT_OK)
        status = trace_open(&r);
    if (status == EXIT_OK)
        status = config_make(&r, cfg);
    if (status == EXIT_OK) {
        mo.engine = o.engine;
        mo.trace_categories = o.trace;
        mo.engine_options = &eo;
        eo.code_cache_size = o.code_cache;
        eo.perf_map = o.perf_map;
        eo.shadow = o.shadow;
        eo.direct = !o.no_direct && !o.shadow;
        r.machine = yado_machine_new(cfg, &mo, &err);
        status = r.machine ? machine_run(&r) : report(&err);
    }
    yado_machine_free(r.machine);
    yado_config_free(cfg);
    serial_close(&r.serial);
    if (r.trace && r.trace != stderr)
        fclose(r.trace);
    run_options_free(&o);
    return status;
}
