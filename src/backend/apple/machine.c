/* The backend over Apple's Virtualization.framework: a machine that the framework owns whole.
 *
 * Theory of operation. The framework wants everything about a running machine to happen on one serial
 * dispatch queue, which each machine has for itself; there it also calls completion handlers and the
 * delegate. The control thread of src/api sends a verb to that queue and sleeps until its completion handler
 * has run; quick questions go there synchronously. Nothing of ours ever runs the program's code on the queue,
 * so nothing on it can wait for itself.
 *
 *   control thread                    dispatch queue of the machine
 *   verb_do  ---- dispatch_async_f -> verb_send: [vm start...: block]
 *      |                              ... the framework works ...
 *      sleeps                         verb_done(error): notes it, wakes the control thread
 *   returns
 *                                     delegate: guest_stopped ...: notes the end, calls host->attention
 *
 * A run is one VZVirtualMachine: start makes the configuration, the queue, the delegate and the machine; stop
 * ends it in whatever state it is and lets go of all of them, so that a next start begins afresh. What the
 * guest itself does (power off, a failure of the framework) is noted under `lock` and asked for by service().
 * The guest's reboots are the framework's own business: it reports none.
 *
 * Ownership. Objects made on the way belong to the autorelease pool of the entry point; what a run keeps
 * (queue, machine, delegate) is retained by name in struct backend. The framework's delegate is weak: it is
 * taken away, on the queue, before ours dies, and no callback can follow.
 *
 * This file has a run's life and its verbs; what is asked of its devices is in devices.c.
 *
 * Lock: `lock` is a leaf; no message is sent and nothing of the host's is called while it is held. */
#include <pthread.h>
#include <stdlib.h>

#include "backend/apple/apple.h"
#include "backend/apple/run_priv.h"
#include "backend/apple/socket_priv.h"

/* ---- on the queue and back ---- */

/* A verb on its way: on the control thread's stack until its completion handler has run. */
struct verb_call {
    struct backend *b;
    void (*send)(struct verb_call *c, const struct block *done);
    const char *what;
    id url;           /* save and restore: in the pool of whoever calls verb_do */
    bool is_over, ok; /* with lock */
    struct yado_error error;
};

static void verb_done(void *ctx, id error)
{
    struct verb_call *c = ctx;
    struct backend *b = c->b;
    void *pool = objc_autoreleasePoolPush();
    struct yado_error e = YADO_ERROR_INIT;
    bool ok = !error || error_from(&e, error, c->what);

    objc_autoreleasePoolPop(pool);
    pthread_mutex_lock(&b->lock);
    c->ok = ok;
    c->error = e;
    c->is_over = true;
    pthread_cond_signal(&b->verb_over);
    pthread_mutex_unlock(&b->lock);
}

static void verb_send(void *ctx)
{
    struct verb_call *c = ctx;
    struct block done = block_error(verb_done, c);
    void *pool = objc_autoreleasePoolPush();

    c->send(c, &done);
    objc_autoreleasePoolPop(pool);
}

static bool verb_do(struct verb_call *c, struct yado_error *err)
{
    struct backend *b = c->b;

    dispatch_async_f(b->queue, c, verb_send);
    pthread_mutex_lock(&b->lock);
    while (!c->is_over)
        pthread_cond_wait(&b->verb_over, &b->lock);
    pthread_mutex_unlock(&b->lock);
    return c->ok || err_set(err, c->error.code, "%s", c->error.message);
}

static void start_send(struct verb_call *c, const struct block *done)
{
    VZVirtualMachine_start(c->b->machine, done);
}

static void stop_send(struct verb_call *c, const struct block *done)
{
    VZVirtualMachine_stop(c->b->machine, done);
}

static void pause_send(struct verb_call *c, const struct block *done)
{
    VZVirtualMachine_pause(c->b->machine, done);
}

static void resume_send(struct verb_call *c, const struct block *done)
{
    VZVirtualMachine_resume(c->b->machine, done);
}

static void save_send(struct verb_call *c, const struct block *done)
{
    VZVirtualMachine_save(c->b->machine, c->url, done);
}

static void restore_send(struct verb_call *c, const struct block *done)
{
    VZVirtualMachine_restore(c->b->machine, c->url, done);
}

static void quick_run(void *ctx)
{
    struct quick_call *q = ctx;
    void *pool = objc_autoreleasePoolPush();

    q->fn(q);
    objc_autoreleasePoolPop(pool);
}

bool quick_do(struct quick_call *q, struct yado_error *err)
{
    dispatch_sync_f(q->b->queue, q, quick_run);
    return q->error.code == YADO_OK || err_set(err, q->error.code, "%s", q->error.message);
}

/* ---- what the framework says ---- */

static void end_note(struct backend *b, enum backend_end end, const struct yado_error *error)
{
    bool is_first;

    pthread_mutex_lock(&b->lock);
    is_first = b->status.end == BACKEND_RUNS;
    if (is_first) {
        b->status.end = end;
        b->status.error = *error;
    }
    pthread_mutex_unlock(&b->lock);
    if (is_first)
        b->host.attention(b->host.ctx);
}

static void guest_stopped(void *ctx)
{
    static const struct yado_error none = YADO_ERROR_INIT;

    end_note(ctx, BACKEND_POWER_OFF, &none);
}

static void stopped_with_error(void *ctx, id error)
{
    struct yado_error e = YADO_ERROR_INIT;

    error_from(&e, error, "the machine stopped");
    end_note(ctx, BACKEND_FAILURE, &e);
}

static void net_disconnected(void *ctx, id machine, id device, id error)
{
    struct backend *b = ctx;
    id devices = VZVirtualMachine_networkDevices(machine);
    unsigned long count = NSArray_count(devices), index = 0;
    struct yado_error e = YADO_ERROR_INIT;

    while (index < count && NSArray_objectAtIndex(devices, index) != device)
        index++;
    if (index == count || !b->host.net_lost)
        return;
    error_from(&e, error, "the attachment is gone");
    b->host.net_lost(b->host.ctx, (unsigned)index, &e);
}

/* ---- making and ending a run ---- */

static void machine_take_away(struct quick_call *q)
{
    struct backend *b = q->b;

    VZVirtualMachine_setDelegate(b->machine, NULL);
    consoles_forget(b);
    objc_release(b->machine);
    b->machine = NULL;
    socket_device_orphan(b->sockets);
}

static void run_free(struct backend *b)
{
    struct quick_call q = { .b = b, .fn = machine_take_away };

    socket_device_quiet(b->sockets);
    if (b->machine)
        quick_do(&q, NULL);
    socket_device_free(b->sockets);
    if (b->delegate)
        objc_release(b->delegate);
    if (b->console_delegate)
        objc_release(b->console_delegate);
    if (b->queue)
        dispatch_release(b->queue);
    scratch_clear(&b->scratch);
    pthread_cond_destroy(&b->verb_over);
    pthread_mutex_destroy(&b->lock);
    free(b);
}

static struct backend *run_alloc(const struct spec *spec, const struct backend_host *host,
                                 struct yado_error *err)
{
    struct backend *b = calloc(1, sizeof(*b));

    if (!b) {
        err_set(err, YADO_ERR_HOST, "out of memory");
        return NULL;
    }
    b->spec = spec;
    b->host = *host;
    b->events = (struct machine_events){ .guest_stopped = guest_stopped,
                                         .stopped_with_error = stopped_with_error,
                                         .net_disconnected = net_disconnected,
                                         .ctx = b };
    pthread_mutex_init(&b->lock, NULL);
    pthread_cond_init(&b->verb_over, NULL);
    return b;
}

static void delegate_set(struct quick_call *q)
{
    VZVirtualMachine_setDelegate(q->b->machine, q->b->delegate);
}

/* Everything up to the verb that makes the guest run. */
static bool run_make(struct backend *b, struct yado_error *err)
{
    id config = configuration_make(b->spec, TO_RUN, &b->scratch, err);
    struct quick_call q = { .b = b, .fn = delegate_set };

    if (!config)
        return false;
    b->delegate = delegate_new(&b->events, err);
    b->queue = dispatch_queue_create("yado.machine", NULL);
    if (!b->delegate || !b->queue)
        return err_set(err, YADO_ERR_HOST, "cannot make a dispatch queue");
    b->machine = VZVirtualMachine_initWithConfiguration(ALLOC(VZVirtualMachine), config, b->queue);
    if (!b->machine)
        return err_set(err, YADO_ERR_ENGINE, "the framework made no machine");
    return quick_do(&q, err) && consoles_watch(b, err) &&
           (!b->spec->socket_count || socket_device_open(b, err));
}

static bool run_begin(struct backend **out, const struct spec *spec, const struct backend_host *host,
                      struct verb_call *c, struct yado_error *err)
{
    struct backend *b = run_alloc(spec, host, err);
    void *pool;
    bool ok;

    if (!b)
        return false;
    pool = objc_autoreleasePoolPush();
    c->b = b;
    ok = run_make(b, err) && verb_do(c, err);
    if (ok)
        *out = b;
    else
        run_free(b);
    objc_autoreleasePoolPop(pool);
    return ok;
}

static bool apple_start(struct backend **out, const struct spec *spec, const struct backend_host *host,
                        struct yado_error *err)
{
    struct verb_call c = { .send = start_send, .what = "start" };

    return run_begin(out, spec, host, &c, err);
}

static bool apple_restore(struct backend **out, const struct spec *spec, const struct backend_host *host,
                          const char *path, struct yado_error *err)
{
    struct verb_call c = { .send = restore_send, .what = path };
    void *pool = objc_autoreleasePoolPush();
    bool ok = NEEDED(VZVirtualMachine, restore, err, "restoring a machine") &&
              (c.url = file_url(path, err)) && run_begin(out, spec, host, &c, err);

    objc_autoreleasePoolPop(pool);
    return ok;
}

static void stop_ask(struct quick_call *q)
{
    q->flag = VZVirtualMachine_canStop(q->b->machine);
}

/* macOS 11 has no hard stop. Letting go of the machine is all that is left there, and ends it with its last
 * owner. */
static void apple_stop(struct backend *b)
{
    struct quick_call q = { .b = b, .fn = stop_ask };
    struct verb_call c = { .b = b, .send = stop_send, .what = "stop" };

    /* It may end by itself between the two: the error says so, and nobody needs to know. */
    if (NEEDED(VZVirtualMachine, stop, NULL, "stop") && quick_do(&q, NULL) && q.flag)
        verb_do(&c, NULL);
    run_free(b);
}

/* ---- verbs and questions ---- */

static bool apple_pause(struct backend *b, struct yado_error *err)
{
    struct verb_call c = { .b = b, .send = pause_send, .what = "pause" };

    return verb_do(&c, err);
}

static bool apple_resume(struct backend *b, struct yado_error *err)
{
    struct verb_call c = { .b = b, .send = resume_send, .what = "resume" };

    return verb_do(&c, err);
}

static bool apple_save(struct backend *b, const char *path, struct yado_error *err)
{
    struct verb_call c = { .b = b, .send = save_send, .what = path };
    void *pool = objc_autoreleasePoolPush();
    bool ok = NEEDED(VZVirtualMachine, save, err, "saving a machine") && (c.url = file_url(path, err)) &&
              verb_do(&c, err);

    objc_autoreleasePoolPop(pool);
    return ok;
}

static void apple_service(struct backend *b, struct backend_status *out)
{
    pthread_mutex_lock(&b->lock);
    *out = b->status;
    pthread_mutex_unlock(&b->lock);
}

static void request_stop(struct quick_call *q)
{
    id error = NULL;

    if (!VZVirtualMachine_canRequestStop(q->b->machine))
        err_set(&q->error, YADO_ERR_STATE, "the guest cannot be asked to stop now");
    else if (!VZVirtualMachine_requestStop(q->b->machine, &error))
        error_from(&q->error, error, "request to stop");
}

static bool apple_request_stop(struct backend *b, struct yado_error *err)
{
    struct quick_call q = { .b = b, .fn = request_stop };

    return quick_do(&q, err);
}

/* A terminal's size does not reach the guest: the framework has no such property. */
static void apple_console_size(struct backend *b, unsigned index, uint16_t columns, uint16_t rows)
{
    (void)b;
    (void)index;
    (void)columns;
    (void)rows;
}

static void apple_port_size(struct backend *b, unsigned device, unsigned port, uint16_t columns,
                            uint16_t rows)
{
    (void)port;
    apple_console_size(b, device, columns, rows);
}

/* The framework counts nothing that it would tell. */
static void apple_counters(struct backend *b, void (*fn)(void *ctx, const char *name, uint64_t value),
                           void *ctx)
{
    (void)b;
    (void)fn;
    (void)ctx;
}

const struct backend_ops backend_apple = {
    .name = "apple",
    .cannot_stop_on_reset = true,
    .limits = apple_limits,
    .validate = apple_validate,
    .start = apple_start,
    .stop = apple_stop,
    .pause = apple_pause,
    .resume = apple_resume,
    .service = apple_service,
    .request_stop = apple_request_stop,
    .console_size = apple_console_size,
    .port_size = apple_port_size,
    .port_attach = apple_port_attach,
    .balloon_target = apple_balloon_target,
    .net_attach = apple_net_attach,
    .counters = apple_counters,
    .socket_listen = apple_socket_listen,
    .socket_answer = apple_socket_answer,
    .socket_connect = apple_socket_connect,
    .share_set = apple_share_set,
    .save = apple_save,
    .restore = apple_restore,
    .validate_save_restore = apple_validate_save_restore,
    .variable_store_create = apple_variable_store_create,
    .identifier_new = apple_identifier_new,
    .identifier_check = apple_identifier_check,
    .rosetta_availability = apple_rosetta_availability,
    .rosetta_install = apple_rosetta_install,
    .each_bridged_interface = apple_each_bridged_interface,
};
