/* Machines as the caller holds them.
 *
 * Theory of operation. A machine has a control thread, the only one that calls the backend's slow verbs, one
 * at a time. A verb of the caller checks the table in state.c, moves the state to the passing one (STARTING
 * ...), queues a command and returns; the control thread does the work, moves the state on and queues the
 * completion. The backend calls attention() from any of its threads when the guest did something that
 * concerns the whole machine; the control thread then asks it by service(), which also reboots the guest. So
 * starts, pauses, reboots and ends never overlap, and no callback ever runs on a thread of the guest.
 *
 * If the guest ends while a command waits, the end comes first: a waiting stop has then nothing left to do,
 * and a waiting pause or resume completes with YADO_ERR_STATE.
 *
 * Callbacks go through a queue (queue.c) to the program's thread or to the delivery thread.
 *
 * Locks: `lock` guards the state, the commands and the terminal sizes. `live_lock` keeps the backend from
 * being stopped while another thread calls one of its quick functions (power button, terminal size,
 * counters). Neither is held when the other is taken. The queue's lock is a leaf. */
#include "api/machine_priv.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "api/config_priv.h"
#include "api/ports.h"
#include "api/queue.h"
#include "api/sockets.h"
#include "api/state.h"
#include "host/clock.h"
#include "host/thread.h"
#include "util/log.h"

struct command {
    struct command *next;
    const struct state_move *move;
    struct callback *completion; /* NULL: the caller wants none */
    char *path;                  /* save and restore; owned */
};

#define COUNTERS_MAX 64

struct console_size {
    uint16_t columns, rows;
};

struct yado_machine {
    pthread_mutex_t lock;
    pthread_cond_t work; /* commands, attention or quit. With lock */
    enum yado_state state;
    enum yado_stop_reason reason;
    uint32_t exit_value;
    struct command *commands, **commands_tail;
    bool attention, quit;
    struct console_size sizes[SPEC_DEVICE_MAX];
    uint64_t balloon_target; /* bytes */

    pthread_mutex_t live_lock;
    struct backend *backend; /* written by the control thread with live_lock held */

    const struct backend_ops *ops;
    struct spec spec; /* the control thread's after yado_machine_new */
    struct log log;
    struct backend_host host;
    enum yado_engine engine;
    struct yado_machine_options options;
    struct {
        const char *name;
        uint64_t value;
    } last_counters[COUNTERS_MAX]; /* of the last run; with live_lock */
    unsigned last_counter_count;
    struct callback_queue queue;
    struct sockets *sockets;
    struct ports *ports;

    pthread_t control, delivery;
    bool control_runs, delivery_runs;
};

/* ---- state and events; lock held ---- */

static void event_push(struct yado_machine *m, enum yado_event_kind kind, enum yado_state old_state,
                       const struct yado_error *error)
{
    struct callback *c = m->queue.on_event ? calloc(1, sizeof(*c)) : NULL;

    if (!c) { /* nobody listens, or out of memory; the state can still be asked for */
        queue_wake(&m->queue);
        return;
    }
    c->event =
        (struct yado_event){ .kind = kind, .old_state = old_state, .state = m->state, .reason = m->reason };
    if (error)
        c->event.error = *error;
    queue_push(&m->queue, c);
}

static void state_set(struct yado_machine *m, enum yado_state state)
{
    enum yado_state old = m->state;

    if (old == state)
        return;
    m->state = state;
    event_push(m, YADO_EVENT_STATE_CHANGED, old, NULL);
}

static void completion_push(struct yado_machine *m, struct callback *completion,
                            const struct yado_error *error)
{
    if (!completion)
        return;
    completion->error = *error;
    queue_push(&m->queue, completion);
}

/* ---- the control thread ---- */

static void command_free(struct command *c)
{
    free(c->path);
    free(c);
}

static void attention(void *ctx)
{
    struct yado_machine *m = ctx;

    pthread_mutex_lock(&m->lock);
    m->attention = true;
    pthread_cond_signal(&m->work);
    pthread_mutex_unlock(&m->lock);
}

static void net_lost(void *ctx, unsigned index, const struct yado_error *why)
{
    struct yado_machine *m = ctx;
    struct callback *c = m->queue.on_event ? calloc(1, sizeof(*c)) : NULL;

    if (!c)
        return;
    pthread_mutex_lock(&m->lock);
    c->event = (struct yado_event){ .kind = YADO_EVENT_NETWORK_DISCONNECTED,
                                    .old_state = m->state,
                                    .state = m->state,
                                    .reason = m->reason,
                                    .error = *why,
                                    .index = index };
    queue_push(&m->queue, c);
    pthread_mutex_unlock(&m->lock);
}

static bool socket_asked(void *ctx, uint64_t id, uint32_t guest_port, uint32_t host_port)
{
    struct yado_machine *m = ctx;

    return sockets_asked(m->sockets, id, guest_port, host_port);
}

static void socket_connected(void *ctx, uint64_t tag, uint32_t host_port, const struct yado_error *why)
{
    struct yado_machine *m = ctx;

    sockets_connected(m->sockets, tag, host_port, why);
}

static void port_open(void *ctx, unsigned device, unsigned port, bool is_open)
{
    struct yado_machine *m = ctx;

    ports_opened(m->ports, device, port, is_open);
}

static void backend_publish(struct yado_machine *m, struct backend *b)
{
    pthread_mutex_lock(&m->live_lock);
    m->backend = b;
    pthread_mutex_unlock(&m->live_lock);
}

static void counter_keep(void *ctx, const char *name, uint64_t value)
{
    struct yado_machine *m = ctx;

    if (m->last_counter_count == COUNTERS_MAX)
        return;
    m->last_counters[m->last_counter_count].name = name;
    m->last_counters[m->last_counter_count++].value = value;
}

static void counters_keep(struct yado_machine *m)
{
    pthread_mutex_lock(&m->live_lock);
    m->last_counter_count = 0;
    if (m->ops->counters)
        m->ops->counters(m->backend, counter_keep, m);
    pthread_mutex_unlock(&m->live_lock);
}

static void backend_end_run(struct yado_machine *m)
{
    struct backend *b = m->backend;

    if (b)
        counters_keep(m);
    backend_publish(m, NULL);
    if (b)
        m->ops->stop(b);
    sockets_run_ended(m->sockets);
    ports_run_ended(m->ports);
    pthread_mutex_lock(&m->lock);
    m->attention = false;
    pthread_mutex_unlock(&m->lock);
}

static void sizes_to_spec(struct yado_machine *m)
{
    pthread_mutex_lock(&m->lock);
    for (unsigned i = 0, console = 0; i < m->spec.serial_count; i++) {
        if (m->spec.serials[i].kind != SPEC_SERIAL_VIRTIO_CONSOLE)
            continue;
        m->spec.serials[i].columns = m->sizes[console].columns;
        m->spec.serials[i].rows = m->sizes[console].rows;
        console++;
    }
    pthread_mutex_unlock(&m->lock);
    ports_to_spec(m->ports, &m->spec);
}

/* A size may have changed between sizes_to_spec and the backend's being there to be told. */
static void sizes_to_backend(struct yado_machine *m)
{
    for (unsigned i = 0; i < SPEC_DEVICE_MAX; i++) {
        struct console_size size;

        pthread_mutex_lock(&m->lock);
        size = m->sizes[i];
        pthread_mutex_unlock(&m->lock);
        if (size.columns && size.rows)
            m->ops->console_size(m->backend, i, size.columns, size.rows);
    }
    ports_run_began(m->ports);
}

/* The target may be set by others meanwhile: live_lock keeps the order. */
static void balloon_to_backend(struct yado_machine *m)
{
    uint64_t size;

    pthread_mutex_lock(&m->live_lock);
    pthread_mutex_lock(&m->lock);
    size = m->balloon_target;
    pthread_mutex_unlock(&m->lock);
    m->ops->balloon_target(m->backend, size);
    pthread_mutex_unlock(&m->live_lock);
}

static bool command_start(struct yado_machine *m, struct yado_error *err)
{
    struct backend *b = NULL;

    sizes_to_spec(m);
    if (!m->ops->start(&b, &m->spec, &m->host, err))
        return false;
    backend_publish(m, b);
    sizes_to_backend(m);
    sockets_run_began(m->sockets);
    balloon_to_backend(m);
    return true;
}

static bool command_save(struct yado_machine *m, const char *path, struct yado_error *err)
{
    if (!m->ops->save)
        return err_set(err, YADO_ERR_UNSUPPORTED, "this backend cannot save a machine");
    return m->ops->save(m->backend, path, err);
}

static bool command_restore(struct yado_machine *m, const char *path, struct yado_error *err)
{
    struct backend *b = NULL;

    if (!m->ops->restore)
        return err_set(err, YADO_ERR_UNSUPPORTED, "this backend cannot restore a machine");
    sizes_to_spec(m);
    if (!m->ops->restore(&b, &m->spec, &m->host, path, err))
        return false;
    backend_publish(m, b);
    sizes_to_backend(m);
    sockets_run_began(m->sockets);
    balloon_to_backend(m);
    return true;
}

static bool command_do(struct yado_machine *m, const struct command *c, struct yado_error *err)
{
    enum verb verb = c->move->verb;

    switch (verb) {
    case VERB_START: return command_start(m, err);
    case VERB_PAUSE: return m->ops->pause(m->backend, err);
    case VERB_RESUME: return m->ops->resume(m->backend, err);
    case VERB_STOP: backend_end_run(m); return true;
    case VERB_SAVE: return command_save(m, c->path, err);
    case VERB_RESTORE: return command_restore(m, c->path, err);
    case VERB_REQUEST_STOP:
    case VERB_COUNT: break;
    }
    return err_set(err, YADO_ERR_INTERNAL, "%s is not a command", verb_name(verb));
}

static void command_run(struct yado_machine *m, struct command *c)
{
    const struct state_move *move = c->move;
    struct yado_error err = YADO_ERROR_INIT;
    bool gone = !m->backend && move->verb != VERB_START && move->verb != VERB_RESTORE;
    bool ok = !gone && command_do(m, c, &err);

    pthread_mutex_lock(&m->lock);
    if (!gone) {
        if (move->verb == VERB_STOP)
            m->reason = YADO_STOP_HOST;
        else if (move->verb == VERB_START && !ok)
            m->reason = YADO_STOP_FAILURE;
        state_set(m, ok ? move->to : move->failed);
    } else if (move->verb != VERB_STOP) {
        err_set(&err, YADO_ERR_STATE, "cannot %s the machine: the guest ended first", verb_name(move->verb));
    }
    completion_push(m, c->completion, &err);
    pthread_mutex_unlock(&m->lock);
    command_free(c);
}

static enum yado_stop_reason reason_of(enum backend_end end)
{
    switch (end) {
    case BACKEND_POWER_OFF: return YADO_STOP_POWER_OFF;
    case BACKEND_RESET: return YADO_STOP_RESET;
    case BACKEND_PANIC: return YADO_STOP_PANIC;
    case BACKEND_TRIPLE_FAULT: return YADO_STOP_TRIPLE_FAULT;
    case BACKEND_DEBUG_EXIT: return YADO_STOP_DEBUG_EXIT;
    case BACKEND_FAILURE:
    case BACKEND_RUNS: break;
    }
    return YADO_STOP_FAILURE;
}

static void control_service(struct yado_machine *m)
{
    struct backend_status st = { .end = BACKEND_RUNS };
    bool orderly;

    m->ops->service(m->backend, &st);
    if (st.end != BACKEND_RUNS)
        backend_end_run(m);
    pthread_mutex_lock(&m->lock);
    if (st.was_reset)
        event_push(m, YADO_EVENT_GUEST_RESET, m->state, NULL);
    if (st.end != BACKEND_RUNS) {
        orderly = st.end == BACKEND_POWER_OFF || st.end == BACKEND_RESET || st.end == BACKEND_DEBUG_EXIT;
        if (st.end == BACKEND_DEBUG_EXIT)
            m->exit_value = st.exit_value;
        m->reason = reason_of(st.end);
        state_set(m, orderly ? YADO_STATE_STOPPED : YADO_STATE_ERROR);
        event_push(m, orderly ? YADO_EVENT_GUEST_STOPPED : YADO_EVENT_STOPPED_WITH_ERROR, m->state,
                   &st.error);
    }
    pthread_mutex_unlock(&m->lock);
}

static struct command *command_take(struct yado_machine *m)
{
    struct command *c = m->commands;

    if (c) {
        m->commands = c->next;
        if (!m->commands)
            m->commands_tail = &m->commands;
    }
    return c;
}

static void *control_main(void *arg)
{
    struct yado_machine *m = arg;
    struct command *c;

    pthread_mutex_lock(&m->lock);
    while (!m->quit) {
        if (m->attention && m->backend) {
            m->attention = false;
            pthread_mutex_unlock(&m->lock);
            control_service(m);
            pthread_mutex_lock(&m->lock);
        } else if ((c = command_take(m))) {
            pthread_mutex_unlock(&m->lock);
            command_run(m, c);
            pthread_mutex_lock(&m->lock);
        } else {
            pthread_cond_wait(&m->work, &m->lock);
        }
    }
    pthread_mutex_unlock(&m->lock);
    backend_end_run(m);
    return NULL;
}

/* ---- delivery ---- */

static void *delivery_main(void *arg)
{
    struct yado_machine *m = arg;
    struct pollfd p = { .fd = m->queue.wake.read_fd, .events = POLLIN };
    bool quit = false;

    while (!quit) {
        if (poll(&p, 1, -1) < 0 && errno != EINTR)
            break;
        queue_dispatch(&m->queue);
        pthread_mutex_lock(&m->lock);
        quit = m->quit;
        pthread_mutex_unlock(&m->lock);
    }
    return NULL;
}

/* ---- making and freeing ---- */

static void options_read(struct yado_machine_options *to, const struct yado_machine_options *from)
{
    size_t size = from && from->size && from->size < sizeof(*to) ? from->size : sizeof(*to);

    memset(to, 0, sizeof(*to));
    if (from)
        memcpy(to, from, size);
}

static bool engine_options_read(struct yado_machine *m, struct yado_error *err)
{
    const struct yado_engine_options *from = m->options.engine_options;
    struct yado_engine_options o = { 0 };
    size_t size = from && from->size && from->size < sizeof(o) ? from->size : sizeof(o);

    if (from)
        memcpy(&o, from, size);
    m->options.engine_options = NULL; /* the caller's */
    if (o.code_cache_size &&
        (o.code_cache_size < YADO_CODE_CACHE_MIN || o.code_cache_size > YADO_CODE_CACHE_MAX))
        return err_set(err, YADO_ERR_INVALID_CONFIG,
                       "engine_options.code_cache_size: %llu bytes; it is from %llu MiB to %llu MiB",
                       (unsigned long long)o.code_cache_size, YADO_CODE_CACHE_MIN >> 20,
                       YADO_CODE_CACHE_MAX >> 20);
    m->spec.engine_options.code_cache_size = o.code_cache_size;
    m->spec.engine_options.perf_map = o.perf_map;
    m->spec.engine_options.shadow = o.shadow;
    m->spec.engine_options.direct = o.direct;
    if (o.shadow && o.direct)
        return err_set(err, YADO_ERR_INVALID_CONFIG,
                       "engine_options: shadow and direct; code that is not translated cannot be compared");
    if (o.shadow && m->spec.cpu_count != 1)
        return err_set(err, YADO_ERR_INVALID_CONFIG,
                       "engine_options.shadow: %u CPUs; blocks can be compared with one CPU only",
                       m->spec.cpu_count);
    return true;
}

static bool engine_resolve(struct yado_machine *m, struct yado_error *err)
{
    m->engine = m->options.engine;
    if (m->engine == YADO_ENGINE_AUTO)
        m->engine = yado_engine_choose(err);
    else if (!yado_engine_usable(m->engine, err))
        return false;
    m->spec.engine = yado_engine_name(m->engine);
    return m->engine != YADO_ENGINE_AUTO;
}

static struct yado_machine *machine_alloc(const struct backend_ops *ops,
                                          const struct yado_machine_options *options, struct yado_error *err)
{
    struct yado_machine *m = calloc(1, sizeof(*m));

    if (!m) {
        err_set(err, YADO_ERR_HOST, "out of memory");
        return NULL;
    }
    options_read(&m->options, options);
    m->ops = ops;
    m->commands_tail = &m->commands;
    spec_init(&m->spec);
    m->host = (struct backend_host){ .attention = attention,
                                     .net_lost = net_lost,
                                     .port_open = port_open,
                                     .socket_asked = socket_asked,
                                     .socket_connected = socket_connected,
                                     .ctx = m,
                                     .log = &m->log,
                                     .stop_on_reset = m->options.stop_on_reset };
    pthread_mutex_init(&m->lock, NULL);
    pthread_mutex_init(&m->live_lock, NULL);
    pthread_cond_init(&m->work, NULL);
    m->sockets = sockets_new(m);
    if (!m->sockets)
        err_set(err, YADO_ERR_HOST, "out of memory");
    if (!queue_init(&m->queue, err) || !m->sockets) {
        yado_machine_free(m);
        return NULL;
    }
    m->queue.on_event = m->options.on_event;
    m->queue.event_ctx = m->options.event_ctx;
    return m;
}

static bool threads_start(struct yado_machine *m, struct yado_error *err)
{
    m->control_runs = thread_start(&m->control, "yado-control", control_main, m, err);
    if (!m->control_runs)
        return false;
    if (m->options.delivery != YADO_DELIVERY_THREAD)
        return true;
    m->delivery_runs = thread_start(&m->delivery, "yado-events", delivery_main, m, err);
    return m->delivery_runs;
}

static bool ports_make(struct yado_machine *m, struct yado_error *err)
{
    m->ports = ports_new(m, &m->spec);
    return m->ports || err_set(err, YADO_ERR_HOST, "out of memory");
}

struct yado_machine *machine_new_on(const struct yado_config *config,
                                    const struct yado_machine_options *options, const struct backend_ops *ops,
                                    struct yado_error *err)
{
    struct yado_machine *m;

    if (!config_check(config, err))
        return NULL;
    m = machine_alloc(ops, options, err);
    if (!m)
        return NULL;
    if (ops->cannot_stop_on_reset && m->options.stop_on_reset) {
        err_set(err, YADO_ERR_UNSUPPORTED, "stop_on_reset: this engine does not see the guest reboot");
        yado_machine_free(m);
        return NULL;
    }
    m->balloon_target = config->spec.memory_size;
    if (!trace_setup(&m->log, &m->options, err) || !spec_copy(&m->spec, &config->spec, err) ||
        !engine_options_read(m, err) || !ports_make(m, err) || !threads_start(m, err)) {
        yado_machine_free(m);
        return NULL;
    }
    platform_identify(&m->spec.platform, ops);
    return m;
}

struct yado_machine *yado_machine_new(const struct yado_config *config,
                                      const struct yado_machine_options *options, struct yado_error *err)
{
    struct yado_machine *m =
        yado_config_validate(config, err) ? machine_new_on(config, options, backend_here(), err) : NULL;

    if (m && !engine_resolve(m, err)) {
        yado_machine_free(m);
        return NULL;
    }
    return m;
}

void yado_machine_free(struct yado_machine *machine)
{
    struct yado_machine *m = machine;
    struct command *c;

    if (!m)
        return;
    pthread_mutex_lock(&m->lock);
    m->quit = true;
    pthread_cond_broadcast(&m->work);
    pthread_mutex_unlock(&m->lock);
    queue_wake(&m->queue);
    if (m->control_runs)
        pthread_join(m->control, NULL);
    if (m->delivery_runs)
        pthread_join(m->delivery, NULL);
    while ((c = command_take(m))) {
        free(c->completion);
        command_free(c);
    }
    queue_destroy(&m->queue);
    sockets_free(m->sockets);
    ports_free(m->ports);
    spec_clear(&m->spec);
    pthread_cond_destroy(&m->work);
    pthread_mutex_destroy(&m->live_lock);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

/* ---- verbs ---- */

static bool verb_submit_path(struct yado_machine *m, enum verb verb, const char *path, yado_completion done,
                             void *ctx)
{
    struct command *c = calloc(1, sizeof(*c));
    struct callback *completion = done ? calloc(1, sizeof(*completion)) : NULL;
    struct yado_error err = YADO_ERROR_INIT;

    if (c && path)
        c->path = strdup(path);
    if (!c || (done && !completion) || (path && !c->path)) {
        if (c)
            command_free(c);
        free(completion);
        return false;
    }
    if (completion) {
        completion->done = done;
        completion->done_ctx = ctx;
    }
    pthread_mutex_lock(&m->lock);
    c->move = state_move_find(verb, m->state);
    c->completion = completion;
    if (c->move) {
        *m->commands_tail = c;
        m->commands_tail = &c->next;
        state_set(m, c->move->via);
        pthread_cond_signal(&m->work);
    } else {
        err_set(&err, YADO_ERR_STATE, "cannot %s the machine while its state is \"%s\"", verb_name(verb),
                yado_state_name(m->state));
        completion_push(m, completion, &err);
        command_free(c);
    }
    pthread_mutex_unlock(&m->lock);
    return true;
}

static bool verb_submit(struct yado_machine *m, enum verb verb, yado_completion done, void *ctx)
{
    return verb_submit_path(m, verb, NULL, done, ctx);
}

bool yado_machine_start(struct yado_machine *machine, yado_completion done, void *ctx)
{
    return verb_submit(machine, VERB_START, done, ctx);
}

bool yado_machine_pause(struct yado_machine *machine, yado_completion done, void *ctx)
{
    return verb_submit(machine, VERB_PAUSE, done, ctx);
}

bool yado_machine_resume(struct yado_machine *machine, yado_completion done, void *ctx)
{
    return verb_submit(machine, VERB_RESUME, done, ctx);
}

bool yado_machine_stop(struct yado_machine *machine, yado_completion done, void *ctx)
{
    return verb_submit(machine, VERB_STOP, done, ctx);
}

bool yado_machine_save(struct yado_machine *machine, const char *path, yado_completion done, void *ctx)
{
    return verb_submit_path(machine, VERB_SAVE, path ? path : "", done, ctx);
}

bool yado_machine_restore(struct yado_machine *machine, const char *path, yado_completion done, void *ctx)
{
    return verb_submit_path(machine, VERB_RESTORE, path ? path : "", done, ctx);
}

bool yado_machine_request_stop(struct yado_machine *machine, struct yado_error *err)
{
    enum yado_state state = yado_machine_state(machine);
    bool ok;

    if (!state_move_find(VERB_REQUEST_STOP, state))
        return err_set(err, YADO_ERR_STATE,
                       "cannot ask the guest to stop while the machine's state is \"%s\"",
                       yado_state_name(state));
    pthread_mutex_lock(&machine->live_lock);
    ok = machine->backend ? machine->ops->request_stop(machine->backend, err)
                          : err_set(err, YADO_ERR_STATE, "cannot ask the guest to stop: it ended first");
    pthread_mutex_unlock(&machine->live_lock);
    return ok;
}

/* ---- for the rest of api/ ---- */

struct sockets *machine_sockets(struct yado_machine *m)
{
    return m->sockets;
}

struct ports *machine_ports(struct yado_machine *m)
{
    return m->ports;
}

struct callback_queue *machine_queue(struct yado_machine *m)
{
    return &m->queue;
}

bool machine_has_socket_device(const struct yado_machine *m)
{
    return m->spec.socket_count > 0;
}

struct backend *machine_backend_enter(struct yado_machine *m, const struct backend_ops **ops)
{
    pthread_mutex_lock(&m->live_lock);
    *ops = m->ops;
    return m->backend;
}

void machine_backend_leave(struct yado_machine *m)
{
    pthread_mutex_unlock(&m->live_lock);
}

/* ---- questions ---- */

/* The lock is no part of a machine's value. */
static struct yado_machine *unconst(const struct yado_machine *m)
{
    return (struct yado_machine *)(uintptr_t)m;
}

enum yado_state yado_machine_state(const struct yado_machine *machine)
{
    struct yado_machine *m = unconst(machine);
    enum yado_state s;

    pthread_mutex_lock(&m->lock);
    s = m->state;
    pthread_mutex_unlock(&m->lock);
    return s;
}

enum yado_stop_reason yado_machine_stop_reason(const struct yado_machine *machine)
{
    struct yado_machine *m = unconst(machine);
    enum yado_stop_reason r;

    pthread_mutex_lock(&m->lock);
    r = m->reason;
    pthread_mutex_unlock(&m->lock);
    return r;
}

uint32_t yado_machine_exit_value(const struct yado_machine *machine)
{
    struct yado_machine *m = unconst(machine);
    uint32_t v;

    pthread_mutex_lock(&m->lock);
    v = m->exit_value;
    pthread_mutex_unlock(&m->lock);
    return v;
}

enum yado_engine yado_machine_engine(const struct yado_machine *machine)
{
    return machine->engine;
}

bool yado_machine_can_start(const struct yado_machine *machine)
{
    return state_move_find(VERB_START, yado_machine_state(machine)) != NULL;
}

bool yado_machine_can_stop(const struct yado_machine *machine)
{
    return state_move_find(VERB_STOP, yado_machine_state(machine)) != NULL;
}

bool yado_machine_can_pause(const struct yado_machine *machine)
{
    return state_move_find(VERB_PAUSE, yado_machine_state(machine)) != NULL;
}

bool yado_machine_can_resume(const struct yado_machine *machine)
{
    return state_move_find(VERB_RESUME, yado_machine_state(machine)) != NULL;
}

bool yado_machine_can_request_stop(const struct yado_machine *machine)
{
    return state_move_find(VERB_REQUEST_STOP, yado_machine_state(machine)) != NULL;
}

void yado_machine_set_console_size(struct yado_machine *machine, unsigned index, uint16_t columns,
                                   uint16_t rows)
{
    if (index >= SPEC_DEVICE_MAX)
        return;
    pthread_mutex_lock(&machine->lock);
    machine->sizes[index] = (struct console_size){ columns, rows };
    pthread_mutex_unlock(&machine->lock);
    pthread_mutex_lock(&machine->live_lock);
    if (machine->backend)
        machine->ops->console_size(machine->backend, index, columns, rows);
    pthread_mutex_unlock(&machine->live_lock);
}

uint64_t yado_machine_set_balloon_target(struct yado_machine *machine, uint64_t size)
{
    size -= size % YADO_MEMORY_SIZE_STEP;
    size = min_u64(max_u64(size, YADO_MEMORY_SIZE_MIN), machine->spec.memory_size);
    /* Both locks together, so that the backend hears the targets in the order in which they were set. */
    pthread_mutex_lock(&machine->live_lock);
    pthread_mutex_lock(&machine->lock);
    machine->balloon_target = size;
    pthread_mutex_unlock(&machine->lock);
    if (machine->backend)
        machine->ops->balloon_target(machine->backend, size);
    pthread_mutex_unlock(&machine->live_lock);
    return size;
}

uint64_t yado_machine_balloon_target(const struct yado_machine *machine)
{
    struct yado_machine *m = unconst(machine);
    uint64_t size;

    pthread_mutex_lock(&m->lock);
    size = m->balloon_target;
    pthread_mutex_unlock(&m->lock);
    return size;
}

bool machine_time_skip_for_test(struct yado_machine *m, uint64_t ns, struct yado_error *err)
{
    bool ok;

    pthread_mutex_lock(&m->live_lock);
    ok = m->backend && yado_machine_state(m) == YADO_STATE_PAUSED && m->ops->time_skip
             ? m->ops->time_skip(m->backend, ns, err)
             : err_set(err, YADO_ERR_STATE, "time skips on paused machines of our own only");
    pthread_mutex_unlock(&m->live_lock);
    return ok;
}

void yado_machine_each_counter(struct yado_machine *machine,
                               void (*fn)(void *ctx, const char *name, uint64_t value), void *ctx)
{
    pthread_mutex_lock(&machine->live_lock);
    if (machine->backend)
        machine->ops->counters(machine->backend, fn, ctx);
    else
        for (unsigned i = 0; i < machine->last_counter_count; i++)
            fn(ctx, machine->last_counters[i].name, machine->last_counters[i].value);
    pthread_mutex_unlock(&machine->live_lock);
}

/* ---- callbacks ---- */

int yado_machine_event_fd(const struct yado_machine *machine)
{
    return machine->options.delivery == YADO_DELIVERY_THREAD ? -1 : machine->queue.wake.read_fd;
}

unsigned yado_machine_dispatch(struct yado_machine *machine)
{
    return machine->options.delivery == YADO_DELIVERY_THREAD ? 0 : queue_dispatch(&machine->queue);
}

static uint64_t deadline_of(int timeout_ms)
{
    struct clock clock = clock_host();

    return timeout_ms < 0 ? UINT64_MAX : clock_now(&clock) + (uint64_t)timeout_ms * 1000000;
}

/* What moves after the dispatch has begun ends the wait at once: state changes are told to the queue, whether
 * anyone listens or not. */
bool yado_machine_wait(struct yado_machine *machine, int timeout_ms)
{
    struct callback_queue *q = &machine->queue;
    uint64_t deadline = deadline_of(timeout_ms), moves;
    bool in_time = true;

    for (;;) {
        moves = queue_moves(q);         /* first: what is pushed behind the dispatch counts */
        yado_machine_dispatch(machine); /* nothing, if a thread of ours does it */
        if (state_is_end(yado_machine_state(machine)) && queue_idle(q))
            return true;
        if (!in_time)
            return false;
        in_time = queue_await(q, moves, deadline);
    }
}
