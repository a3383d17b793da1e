/* The state machine, completions and events, on a stand-in backend. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "api/machine_priv.h"
#include "api/state.h"

/* ---- the stand-in backend: does what the test says ---- */

struct backend {
    struct backend_host host;
};

static struct {
    pthread_mutex_t lock;
    struct backend *live;
    bool start_fails;
    struct backend_status next; /* what service says */
    unsigned starts, stops, buttons, pauses;
    uint16_t columns;
    uint64_t balloon;                           /* under lock */
} fake = { .lock = PTHREAD_MUTEX_INITIALIZER }; /* one machine at a time */

static bool fake_start(struct backend **out, const struct spec *spec, const struct backend_host *host,
                       struct yado_error *err)
{
    struct backend *b;

    (void)spec;
    if (fake.start_fails)
        return err_set(err, YADO_ERR_FILE, "vmlinuz: gone");
    b = calloc(1, sizeof(*b));
    b->host = *host;
    pthread_mutex_lock(&fake.lock);
    fake.live = b;
    fake.starts++;
    pthread_mutex_unlock(&fake.lock);
    *out = b;
    return true;
}

static void fake_stop(struct backend *b)
{
    pthread_mutex_lock(&fake.lock);
    fake.live = NULL;
    fake.stops++;
    pthread_mutex_unlock(&fake.lock);
    free(b);
}

static bool fake_pause(struct backend *b, struct yado_error *err)
{
    (void)b;
    (void)err;
    fake.pauses++;
    return true;
}

static bool fake_resume(struct backend *b, struct yado_error *err)
{
    (void)b;
    (void)err;
    return true;
}

static void fake_service(struct backend *b, struct backend_status *out)
{
    (void)b;
    pthread_mutex_lock(&fake.lock);
    *out = fake.next;
    fake.next = (struct backend_status){ .end = BACKEND_RUNS };
    pthread_mutex_unlock(&fake.lock);
}

static bool fake_request_stop(struct backend *b, struct yado_error *err)
{
    (void)b;
    (void)err;
    fake.buttons++;
    return true;
}

static void fake_console_size(struct backend *b, unsigned index, uint16_t columns, uint16_t rows)
{
    (void)b;
    (void)index;
    (void)rows;
    fake.columns = columns;
}

static void fake_balloon_target(struct backend *b, uint64_t size)
{
    (void)b;
    pthread_mutex_lock(&fake.lock);
    fake.balloon = size;
    pthread_mutex_unlock(&fake.lock);
}

static uint64_t fake_balloon(void)
{
    uint64_t size;

    pthread_mutex_lock(&fake.lock);
    size = fake.balloon;
    pthread_mutex_unlock(&fake.lock);
    return size;
}

static void fake_counters(struct backend *b, void (*fn)(void *ctx, const char *name, uint64_t value),
                          void *ctx)
{
    (void)b;
    fn(ctx, "blocks", 7);
}

static const struct backend_ops fake_backend = {
    .name = "fake",
    .start = fake_start,
    .stop = fake_stop,
    .pause = fake_pause,
    .resume = fake_resume,
    .service = fake_service,
    .request_stop = fake_request_stop,
    .console_size = fake_console_size,
    .balloon_target = fake_balloon_target,
    .counters = fake_counters,
};

/* The guest does something; called where the backend's own threads would be. */
static void guest_does(enum backend_end end, bool was_reset)
{
    pthread_mutex_lock(&fake.lock);
    fake.next.end = end;
    fake.next.was_reset = was_reset;
    if (end == BACKEND_PANIC)
        err_set(&fake.next.error, YADO_ERR_GUEST, "panicked");
    if (fake.live)
        fake.live->host.attention(fake.live->host.ctx);
    pthread_mutex_unlock(&fake.lock);
}

/* ---- what the caller hears ---- */

struct heard {
    char text[1024];
    pthread_t thread;
    unsigned completions;
    struct yado_error last;
};

static void hear(struct heard *h, const char *what)
{
    strncat(h->text, what, sizeof(h->text) - strlen(h->text) - 1);
    strncat(h->text, ";", sizeof(h->text) - strlen(h->text) - 1);
    h->thread = pthread_self();
}

static void on_event(void *ctx, const struct yado_event *e)
{
    char line[1024];

    if (e->kind == YADO_EVENT_STATE_CHANGED)
        snprintf(line, sizeof(line), "%s>%s", yado_state_name(e->old_state), yado_state_name(e->state));
    else if (e->kind == YADO_EVENT_GUEST_STOPPED)
        snprintf(line, sizeof(line), "guest stopped: %s", yado_stop_reason_name(e->reason));
    else if (e->kind == YADO_EVENT_STOPPED_WITH_ERROR)
        snprintf(line, sizeof(line), "error: %s: %s", yado_stop_reason_name(e->reason), e->error.message);
    else
        snprintf(line, sizeof(line), "guest reset");
    hear(ctx, line);
}

static void on_done(void *ctx, const struct yado_error *err)
{
    struct heard *h = ctx;

    h->completions++;
    h->last = err ? *err : (struct yado_error)YADO_ERROR_INIT;
    hear(h, err ? "failed" : "done");
}

static struct yado_machine *machine_make(struct heard *h, enum yado_delivery delivery)
{
    struct yado_machine_options o = { .delivery = delivery, .on_event = on_event, .event_ctx = h };
    struct yado_config *c = yado_config_new();
    struct yado_error err = YADO_ERROR_INIT;
    struct yado_machine *m;

    memset(h, 0, sizeof(*h));
    fake.start_fails = false;
    fake.starts = fake.stops = fake.buttons = fake.pauses = 0;
    fake.next = (struct backend_status){ .end = BACKEND_RUNS };
    yado_config_set_boot_loader(c, yado_linux_boot_loader_new("vmlinuz", NULL, NULL));
    m = machine_new_on(c, &o, &fake_backend, &err);
    yado_config_free(c);
    if (!m)
        fail_msg("%s", err.message);
    return m;
}

static void sleep_ms(long ms)
{
    struct timespec t = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 };

    nanosleep(&t, NULL);
}

/* Dispatches until so many completions came, at most 10 s. */
static void completions_wait(struct yado_machine *m, struct heard *h, unsigned count)
{
    for (int i = 0; i < 10000 && h->completions < count; i++) {
        yado_machine_dispatch(m);
        if (h->completions < count)
            sleep_ms(1);
    }
    assert_int_equal(h->completions, count);
}

static void test_table(void **state)
{
    /* verb, and the states in which it is legal */
    static const struct {
        enum verb verb;
        unsigned legal;
    } rules[] = {
        { VERB_START, 1u << YADO_STATE_STOPPED | 1u << YADO_STATE_ERROR },
        { VERB_PAUSE, 1u << YADO_STATE_RUNNING },
        { VERB_RESUME, 1u << YADO_STATE_PAUSED },
        { VERB_STOP, 1u << YADO_STATE_RUNNING | 1u << YADO_STATE_PAUSED },
        { VERB_REQUEST_STOP, 1u << YADO_STATE_RUNNING },
        { VERB_SAVE, 1u << YADO_STATE_PAUSED },
        { VERB_RESTORE, 1u << YADO_STATE_STOPPED },
    };

    (void)state;
    for (size_t r = 0; r < array_size(rules); r++) {
        for (unsigned s = YADO_STATE_STOPPED; s <= YADO_STATE_RESTORING; s++)
            assert_true((state_move_find(rules[r].verb, (enum yado_state)s) != NULL) ==
                        (rules[r].legal >> s & 1));
    }
}

static void test_life(void **state)
{
    struct heard h;
    struct yado_machine *m = machine_make(&h, YADO_DELIVERY_DISPATCH);

    (void)state;
    assert_int_equal(yado_machine_state(m), YADO_STATE_STOPPED);
    assert_int_equal(yado_machine_stop_reason(m), YADO_STOP_NONE);
    assert_true(yado_machine_can_start(m) && !yado_machine_can_stop(m));
    assert_true(yado_machine_start(m, on_done, &h));
    completions_wait(m, &h, 1);
    assert_int_equal(yado_machine_state(m), YADO_STATE_RUNNING);
    assert_true(yado_machine_pause(m, on_done, &h));
    completions_wait(m, &h, 2);
    assert_true(yado_machine_can_resume(m) && yado_machine_can_stop(m) && !yado_machine_can_request_stop(m));
    assert_true(yado_machine_resume(m, on_done, &h));
    completions_wait(m, &h, 3);
    assert_true(yado_machine_request_stop(m, NULL));
    assert_int_equal(fake.buttons, 1);
    assert_true(yado_machine_stop(m, on_done, &h));
    assert_true(yado_machine_wait(m, 10000));
    assert_string_equal(h.text,
                        "stopped>starting;starting>running;done;running>pausing;pausing>paused;done;"
                        "paused>resuming;resuming>running;done;running>stopping;stopping>stopped;done;");
    assert_int_equal(yado_machine_stop_reason(m), YADO_STOP_HOST);
    assert_true(pthread_equal(h.thread, pthread_self()));
    assert_int_equal(fake.stops, 1);
    /* and again */
    assert_true(yado_machine_start(m, on_done, &h));
    completions_wait(m, &h, 5);
    assert_int_equal(fake.starts, 2);
    yado_machine_free(m); /* while it runs */
    assert_int_equal(fake.stops, 2);
}

static bool fake_save(struct backend *b, const char *path, struct yado_error *err)
{
    (void)b;
    return !strcmp(path, "good") || err_set(err, YADO_ERR_FILE, "%s: cannot write", path);
}

static bool fake_restore(struct backend **out, const struct spec *spec, const struct backend_host *host,
                         const char *path, struct yado_error *err)
{
    if (strcmp(path, "good"))
        return err_set(err, YADO_ERR_FILE, "%s: no such file", path);
    return fake_start(out, spec, host, err);
}

static struct yado_machine *saving_machine_make(struct heard *h)
{
    static struct backend_ops ops;
    struct yado_config *c = yado_config_new();
    struct yado_machine_options o = { .on_event = on_event, .event_ctx = h };
    struct yado_machine *m;

    yado_machine_free(machine_make(h, YADO_DELIVERY_DISPATCH)); /* resets the stand-in */
    ops = fake_backend;
    ops.save = fake_save;
    ops.restore = fake_restore;
    yado_config_set_boot_loader(c, yado_linux_boot_loader_new("vmlinuz", NULL, NULL));
    m = machine_new_on(c, &o, &ops, NULL);
    yado_config_free(c);
    assert_non_null(m);
    return m;
}

static void test_save(void **state)
{
    struct heard h;
    struct yado_machine *m = saving_machine_make(&h);

    (void)state;
    assert_true(yado_machine_save(m, "good", on_done, &h)); /* stopped: not legal */
    completions_wait(m, &h, 1);
    assert_int_equal(h.last.code, YADO_ERR_STATE);
    yado_machine_start(m, NULL, NULL);
    while (yado_machine_state(m) != YADO_STATE_RUNNING)
        sleep_ms(1);
    yado_machine_pause(m, on_done, &h);
    completions_wait(m, &h, 2);
    h.text[0] = '\0';
    yado_machine_save(m, "bad", on_done, &h);
    completions_wait(m, &h, 3);
    assert_string_equal(h.last.message, "bad: cannot write");
    yado_machine_save(m, "good", on_done, &h);
    completions_wait(m, &h, 4);
    assert_string_equal(h.text, "paused>saving;saving>paused;failed;paused>saving;saving>paused;done;");
    yado_machine_free(m);
}

static void test_restore(void **state)
{
    struct heard h;
    struct yado_machine *m = saving_machine_make(&h);

    (void)state;
    yado_machine_restore(m, "bad", on_done, &h);
    completions_wait(m, &h, 1);
    assert_int_equal(yado_machine_state(m), YADO_STATE_STOPPED);
    yado_machine_restore(m, "good", on_done, &h);
    completions_wait(m, &h, 2);
    yado_machine_resume(m, on_done, &h);
    completions_wait(m, &h, 3);
    assert_string_equal(h.text, "stopped>restoring;restoring>stopped;failed;stopped>restoring;"
                                "restoring>paused;done;paused>resuming;resuming>running;done;");
    yado_machine_free(m);
    assert_int_equal(fake.starts, fake.stops);
}

/* A backend without them says so, and the state is as it was. */
static void test_cannot_save(void **state)
{
    struct heard h;
    struct yado_machine *m = machine_make(&h, YADO_DELIVERY_DISPATCH);

    (void)state;
    yado_machine_restore(m, "x", on_done, &h);
    completions_wait(m, &h, 1);
    assert_int_equal(h.last.code, YADO_ERR_UNSUPPORTED);
    assert_int_equal(yado_machine_state(m), YADO_STATE_STOPPED);
    yado_machine_start(m, on_done, &h);
    completions_wait(m, &h, 2);
    assert_false(yado_machine_set_share(m, 0, yado_multiple_share_new(), &h.last));
    assert_int_equal(h.last.code, YADO_ERR_UNSUPPORTED);
    yado_machine_pause(m, on_done, &h);
    completions_wait(m, &h, 3);
    yado_machine_save(m, "x", on_done, &h);
    completions_wait(m, &h, 4);
    assert_int_equal(h.last.code, YADO_ERR_UNSUPPORTED);
    assert_int_equal(yado_machine_state(m), YADO_STATE_PAUSED);
    yado_machine_free(m);
}

static void test_illegal(void **state)
{
    struct heard h;
    struct yado_machine *m = machine_make(&h, YADO_DELIVERY_DISPATCH);
    struct yado_error err = YADO_ERROR_INIT;

    (void)state;
    assert_true(yado_machine_pause(m, on_done, &h));
    completions_wait(m, &h, 1);
    assert_int_equal(h.last.code, YADO_ERR_STATE);
    assert_non_null(strstr(h.last.message, "\"stopped\""));
    assert_false(yado_machine_request_stop(m, &err));
    assert_int_equal(err.code, YADO_ERR_STATE);
    /* the second of two starts is too late, whatever the first one does */
    assert_true(yado_machine_start(m, NULL, NULL));
    assert_true(yado_machine_start(m, on_done, &h));
    completions_wait(m, &h, 2);
    assert_int_equal(h.last.code, YADO_ERR_STATE);
    yado_machine_free(m);
    assert_int_equal(fake.starts, fake.stops);
}

static void test_start_fails(void **state)
{
    struct heard h;
    struct yado_machine *m = machine_make(&h, YADO_DELIVERY_DISPATCH);

    (void)state;
    fake.start_fails = true;
    assert_true(yado_machine_start(m, on_done, &h));
    assert_true(yado_machine_wait(m, 10000));
    assert_string_equal(h.text, "stopped>starting;starting>error;failed;");
    assert_string_equal(h.last.message, "vmlinuz: gone");
    assert_int_equal(yado_machine_stop_reason(m), YADO_STOP_FAILURE);
    fake.start_fails = false;
    assert_true(yado_machine_start(m, on_done, &h));
    completions_wait(m, &h, 2);
    assert_int_equal(yado_machine_state(m), YADO_STATE_RUNNING);
    yado_machine_free(m);
}

static void test_guest_ends(void **state)
{
    static const struct {
        enum backend_end end;
        const char *text;
        enum yado_state state;
    } cases[] = {
        { BACKEND_POWER_OFF, "running>stopped;guest stopped: power off;", YADO_STATE_STOPPED },
        { BACKEND_RESET, "running>stopped;guest stopped: reset;", YADO_STATE_STOPPED },
        { BACKEND_PANIC, "running>error;error: panic: panicked;", YADO_STATE_ERROR },
        { BACKEND_TRIPLE_FAULT, "running>error;error: triple fault: ;", YADO_STATE_ERROR },
    };

    (void)state;
    for (size_t i = 0; i < array_size(cases); i++) {
        struct heard h;
        struct yado_machine *m = machine_make(&h, YADO_DELIVERY_DISPATCH);

        assert_true(yado_machine_start(m, on_done, &h));
        completions_wait(m, &h, 1);
        guest_does(BACKEND_RUNS, true);
        while (!strstr(h.text, "guest reset;")) {
            yado_machine_dispatch(m);
            sleep_ms(1);
        }
        h.text[0] = 0;
        guest_does(cases[i].end, false);
        assert_true(yado_machine_wait(m, 10000));
        assert_string_equal(h.text, cases[i].text);
        assert_int_equal(yado_machine_state(m), cases[i].state);
        assert_int_equal(fake.stops, 1);
        yado_machine_free(m);
    }
}

/* The guest's end races with the caller's stop: whoever wins, there is one end and each completion comes
 * once. */
static void test_end_race(void **state)
{
    (void)state;
    for (int i = 0; i < 300; i++) {
        struct heard h;
        struct yado_machine *m = machine_make(&h, YADO_DELIVERY_DISPATCH);

        assert_true(yado_machine_start(m, on_done, &h));
        completions_wait(m, &h, 1);
        if (i % 2) {
            guest_does(BACKEND_POWER_OFF, false);
            assert_true(yado_machine_stop(m, on_done, &h));
        } else {
            assert_true(yado_machine_pause(m, on_done, &h));
            guest_does(BACKEND_POWER_OFF, false);
        }
        completions_wait(m, &h, 2);
        assert_true(yado_machine_wait(m, 10000));
        assert_int_equal(yado_machine_state(m), YADO_STATE_STOPPED);
        assert_int_equal(fake.stops, 1);
        yado_machine_free(m);
    }
}

static void test_delivery_thread(void **state)
{
    struct heard h;
    struct yado_machine *m = machine_make(&h, YADO_DELIVERY_THREAD);

    (void)state;
    assert_int_equal(yado_machine_event_fd(m), -1);
    assert_int_equal(yado_machine_dispatch(m), 0);
    assert_true(yado_machine_start(m, on_done, &h));
    assert_false(yado_machine_wait(m, 50));
    while (yado_machine_state(m) != YADO_STATE_RUNNING) /* only then may it be stopped */
        sleep_ms(1);
    assert_true(yado_machine_stop(m, on_done, &h));
    assert_true(yado_machine_wait(m, 10000));
    assert_int_equal(h.completions, 2);
    assert_false(pthread_equal(h.thread, pthread_self()));
    yado_machine_free(m);
}

static void *wait_for_end(void *arg)
{
    return (void *)(uintptr_t)yado_machine_wait(arg, 20000);
}

static void *dispatch_for_a_while(void *arg)
{
    for (int i = 0; i < 2000; i++)
        yado_machine_dispatch(arg);
    return NULL;
}

/* Several threads wait for the same machine while another one takes the callbacks from under them: each hears
 * of the end. */
static void test_many_waiters(void **state)
{
    (void)state;
    for (int i = 0; i < 30; i++) {
        struct heard h;
        struct yado_machine *m = machine_make(&h, YADO_DELIVERY_DISPATCH);
        pthread_t waiters[4], other;
        void *ended;

        assert_true(yado_machine_start(m, on_done, &h));
        for (int k = 0; k < 4; k++)
            assert_int_equal(pthread_create(&waiters[k], NULL, wait_for_end, m), 0);
        assert_int_equal(pthread_create(&other, NULL, dispatch_for_a_while, m), 0);
        while (yado_machine_state(m) != YADO_STATE_RUNNING)
            sleep_ms(1);
        guest_does(BACKEND_POWER_OFF, false);
        for (int k = 0; k < 4; k++) {
            assert_int_equal(pthread_join(waiters[k], &ended), 0);
            assert_non_null(ended);
        }
        assert_int_equal(pthread_join(other, NULL), 0);
        assert_int_equal(h.completions, 1);
        assert_non_null(strstr(h.text, "running>stopped;guest stopped: power off;"));
        yado_machine_free(m);
    }
}

static void test_wait_times_out(void **state)
{
    struct heard h;
    struct yado_machine *m = machine_make(&h, YADO_DELIVERY_DISPATCH);

    (void)state;
    assert_true(yado_machine_wait(m, 0)); /* it has not begun */
    assert_true(yado_machine_start(m, NULL, NULL));
    assert_false(yado_machine_wait(m, 30));
    yado_machine_free(m);
}

static void count_counter(void *ctx, const char *name, uint64_t value)
{
    assert_string_equal(name, "blocks");
    *(uint64_t *)ctx += value;
}

static void test_small_things(void **state)
{
    struct heard h;
    struct yado_machine *m = machine_make(&h, YADO_DELIVERY_DISPATCH);
    uint64_t sum = 0;

    (void)state;
    yado_machine_each_counter(m, count_counter, &sum);
    assert_int_equal(sum, 0);
    yado_machine_set_console_size(m, 0, 132, 43); /* before the start: remembered */
    yado_machine_set_console_size(m, 12345, 1, 1);
    assert_true(yado_machine_start(m, on_done, &h));
    completions_wait(m, &h, 1);
    assert_int_equal(fake.columns, 132);
    yado_machine_each_counter(m, count_counter, &sum);
    assert_int_equal(sum, 7);
    assert_true(yado_machine_stop(m, on_done, &h));
    completions_wait(m, &h, 2);
    sum = 0;
    yado_machine_each_counter(m, count_counter, &sum); /* those of the run that has ended */
    assert_int_equal(sum, 7);
    yado_machine_free(m);
    yado_machine_free(NULL);
}

/* Apple's rules: whole MiB downwards, then into the range. Kept over a stop. */
static void test_balloon_target(void **state)
{
    struct heard h;
    struct yado_machine *m = machine_make(&h, YADO_DELIVERY_DISPATCH);

    (void)state;
    fake.balloon = 0;
    assert_int_equal(yado_machine_balloon_target(m), GIB(1));
    assert_int_equal(yado_machine_set_balloon_target(m, MIB(300) + MIB(1) - 1), MIB(300));
    assert_int_equal(yado_machine_balloon_target(m), MIB(300));
    assert_int_equal(fake_balloon(), 0);
    assert_true(yado_machine_start(m, on_done, &h));
    completions_wait(m, &h, 1);
    assert_int_equal(fake_balloon(), MIB(300));
    assert_int_equal(yado_machine_set_balloon_target(m, UINT64_MAX), GIB(1));
    assert_int_equal(fake_balloon(), GIB(1));
    assert_int_equal(yado_machine_set_balloon_target(m, 0), YADO_MEMORY_SIZE_MIN);
    assert_int_equal(fake_balloon(), YADO_MEMORY_SIZE_MIN);
    assert_true(yado_machine_stop(m, on_done, &h));
    completions_wait(m, &h, 2);
    yado_machine_set_balloon_target(m, MIB(400));
    assert_int_equal(fake_balloon(), YADO_MEMORY_SIZE_MIN);
    assert_true(yado_machine_start(m, on_done, &h));
    completions_wait(m, &h, 3);
    assert_int_equal(fake_balloon(), MIB(400));
    yado_machine_free(m);
}

static void test_trace_names(void **state)
{
    struct yado_machine_options o = { .trace_categories = "disk,nonsense" };
    struct yado_config *c = yado_config_new();
    struct yado_error err = YADO_ERROR_INIT;

    (void)state;
    yado_config_set_boot_loader(c, yado_linux_boot_loader_new("vmlinuz", NULL, NULL));
    assert_null(machine_new_on(c, &o, &fake_backend, &err));
    assert_string_equal(err.message, "trace_categories: there is no category \"nonsense\"");
    yado_config_free(c);
}

static void test_engine_options(void **state)
{
    struct yado_engine_options e = { .code_cache_size = 1 << 20 };
    struct yado_machine_options o = { .engine_options = &e };
    struct yado_config *c = yado_config_new();
    struct yado_error err = YADO_ERROR_INIT;
    struct yado_machine *m;

    (void)state;
    yado_config_set_boot_loader(c, yado_linux_boot_loader_new("vmlinuz", NULL, NULL));
    assert_null(machine_new_on(c, &o, &fake_backend, &err));
    assert_string_equal(err.message,
                        "engine_options.code_cache_size: 1048576 bytes; it is from 2 MiB to 1024 MiB");
    e.code_cache_size = YADO_CODE_CACHE_MIN;
    err = (struct yado_error)YADO_ERROR_INIT;
    m = machine_new_on(c, &o, &fake_backend, &err);
    assert_non_null(m);
    yado_machine_free(m);
    yado_config_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_balloon_target),
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_life),
        cmocka_unit_test(test_save),
        cmocka_unit_test(test_restore),
        cmocka_unit_test(test_cannot_save),
        cmocka_unit_test(test_illegal),
        cmocka_unit_test(test_start_fails),
        cmocka_unit_test(test_guest_ends),
        cmocka_unit_test(test_end_race),
        cmocka_unit_test(test_delivery_thread),
        cmocka_unit_test(test_many_waiters),
        cmocka_unit_test(test_wait_times_out),
        cmocka_unit_test(test_small_things),
        cmocka_unit_test(test_engine_options),
        cmocka_unit_test(test_trace_names),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
