/* The event loop: descriptors, timers, posted calls, removal against running callbacks. */
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "host/clock.h"
#include "host/loop.h"

#define MS 1000000u

static uint64_t now_ns(void)
{
    const struct clock clock = clock_host();

    return clock_now(&clock);
}

static void nap(unsigned ms)
{
    const struct timespec ts = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * MS };

    nanosleep(&ts, NULL);
}

/* Waits up to 10 s until *value is at least `least`. */
static bool wait_for(atomic_uint *value, unsigned least)
{
    for (unsigned i = 0; i < 10000 && atomic_load(value) < least; i++)
        nap(1);
    return atomic_load(value) >= least;
}

static struct loop *loop_get(void)
{
    struct loop *loop = loop_new(NULL);

    assert_non_null(loop);
    return loop;
}

static void loop_go(struct loop *loop)
{
    assert_true(loop_start(loop, "test-loop", NULL));
}

static void loop_end(struct loop *loop)
{
    loop_stop(loop);
    loop_stop(loop);
    loop_free(loop);
}

struct post_log {
    struct loop *loop;
    unsigned count;
    unsigned order[100];
    bool was_on_thread;
};

struct post_arg {
    struct post_log *log;
    unsigned n;
};

static void note_post(void *ctx)
{
    struct post_arg *a = ctx;

    a->log->order[a->log->count++] = a->n;
    a->log->was_on_thread = loop_on_thread(a->log->loop);
}

static void posts_run_in_order_before_stop_returns(void **state)
{
    struct post_log log = { .loop = loop_get() };
    struct post_arg args[100];

    (void)state;
    for (unsigned i = 0; i < 100; i++) {
        args[i] = (struct post_arg){ &log, i };
        if (i == 50)
            loop_go(log.loop);
        assert_true(loop_post(log.loop, note_post, &args[i]));
    }
    assert_false(loop_on_thread(log.loop));
    loop_stop(log.loop);
    assert_int_equal(log.count, 100);
    for (unsigned i = 0; i < 100; i++)
        assert_int_equal(log.order[i], i);
    assert_true(log.was_on_thread);
    assert_true(loop_post(log.loop, note_post, &args[0])); /* never runs, and does not leak */
    loop_free(log.loop);
    assert_int_equal(log.count, 100);
    loop_free(NULL);
}

struct reader {
    int fd;
    atomic_uint bytes, calls, hangups, last_events;
    struct loop_fd *watch;
    struct loop_fd *victim; /* removed by the first call */
    atomic_bool slow;
};

static void reader_ready(void *ctx, unsigned events)
{
    struct reader *r = ctx;
    char buf[64];
    ssize_t n = 0;

    atomic_store(&r->last_events, events);
    if (events & LOOP_READ)
        n = read(r->fd, buf, sizeof(buf));
    if (n > 0)
        atomic_fetch_add(&r->bytes, (unsigned)n);
    if (r->victim)
        loop_fd_remove(r->victim);
    r->victim = NULL;
    if (events & LOOP_HANGUP && n <= 0) {
        atomic_fetch_add(&r->hangups, 1);
        loop_fd_events(r->watch, 0);
    }
    if (atomic_load(&r->slow))
        nap(50);
    atomic_fetch_add(&r->calls, 1);
}

static void readable_pipe_is_read_to_its_end(void **state)
{
    struct loop *loop = loop_get();
    struct reader r = { 0 };
    int ends[2];
    unsigned calls;

    (void)state;
    assert_int_equal(pipe(ends), 0);
    r.fd = ends[0];
    r.watch = loop_fd_add(loop, ends[0], LOOP_READ, reader_ready, &r, NULL);
    assert_non_null(r.watch);
    loop_go(loop);
    assert_int_equal(write(ends[1], "hello", 5), 5);
    assert_true(wait_for(&r.bytes, 5));
    loop_fd_events(r.watch, 0);
    calls = atomic_load(&r.calls);
    assert_int_equal(write(ends[1], "more", 4), 4);
    nap(30);
    assert_int_equal(atomic_load(&r.bytes), 5); /* paused */
    loop_fd_events(r.watch, LOOP_READ);
    assert_true(wait_for(&r.bytes, 9));
    close(ends[1]);
    assert_true(wait_for(&r.hangups, 1));
    nap(30);
    assert_int_equal(atomic_load(&r.hangups), 1); /* paused: a hang-up does not spin */
    assert_true(atomic_load(&r.calls) <= calls + 4);
    loop_fd_remove(r.watch);
    loop_end(loop);
    close(ends[0]);
}

static void write_readiness_comes_and_goes(void **state)
{
    struct loop *loop = loop_get();
    struct reader r = { 0 };
    int ends[2];

    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    loop_go(loop);
    r.fd = ends[0];
    r.watch = loop_fd_add(loop, ends[0], LOOP_READ, reader_ready, &r, NULL);
    nap(20);
    assert_int_equal(atomic_load(&r.calls), 0);
    loop_fd_events(r.watch, LOOP_WRITE);
    assert_true(wait_for(&r.calls, 3));
    assert_int_equal(atomic_load(&r.last_events), LOOP_WRITE);
    loop_fd_remove(r.watch);
    loop_end(loop);
    close(ends[0]);
    close(ends[1]);
}

/* epoll refuses regular files; a console fed from one must work all the same. */
static void count_up(void *ctx)
{
    atomic_fetch_add((atomic_uint *)ctx, 1);
}

/* Returns once the loop has done all that was under way. */
static void loop_pass(struct loop *loop)
{
    atomic_uint passes = 0;

    assert_true(loop_post(loop, count_up, &passes));
    assert_true(wait_for(&passes, 1));
}

static void regular_file_is_always_ready(void **state)
{
    struct loop *loop = loop_get();
    struct reader r = { 0 };
    struct post_log log = { .loop = loop };
    struct post_arg arg = { &log, 7 };
    unsigned calls;

    (void)state;
    r.fd = memfd_create("input", MFD_CLOEXEC);
    assert_int_equal(write(r.fd, "0123456789", 10), 10);
    assert_int_equal(lseek(r.fd, 0, SEEK_SET), 0);
    loop_go(loop);
    r.watch = loop_fd_add(loop, r.fd, LOOP_READ, reader_ready, &r, NULL);
    assert_non_null(r.watch);
    assert_true(wait_for(&r.bytes, 10));
    assert_true(wait_for(&r.calls, 5)); /* at the end of file it still is "readable" */
    loop_fd_events(r.watch, 0);
    loop_pass(loop); /* a callback may have been under way */
    calls = atomic_load(&r.calls);
    loop_pass(loop);
    nap(20);
    assert_int_equal(atomic_load(&r.calls), calls);
    loop_fd_events(r.watch, LOOP_READ);
    assert_true(wait_for(&r.calls, calls + 1));
    assert_true(loop_post(loop, note_post, &arg));
    loop_fd_remove(r.watch);
    loop_end(loop);
    assert_int_equal(log.count, 1);
    close(r.fd);
}

static void bad_descriptor_is_told(void **state)
{
    struct loop *loop = loop_get();
    struct yado_error err = YADO_ERROR_INIT;

    (void)state;
    assert_null(loop_fd_add(loop, 987654, LOOP_READ, reader_ready, NULL, &err));
    assert_int_equal(err.code, YADO_ERR_HOST);
    assert_non_null(strstr(err.message, "987654"));
    loop_fd_remove(NULL);
    loop_end(loop);
}

static void remove_waits_for_the_callback(void **state)
{
    struct loop *loop = loop_get();
    struct reader r = { .slow = true };
    int ends[2];
    unsigned calls;

    (void)state;
    assert_int_equal(pipe(ends), 0);
    loop_go(loop);
    for (int round = 0; round < 3; round++) {
        r.fd = ends[0];
        atomic_store(&r.bytes, 0);
        r.watch = loop_fd_add(loop, ends[0], LOOP_READ, reader_ready, &r, NULL);
        assert_int_equal(write(ends[1], "x", 1), 1);
        assert_true(wait_for(&r.bytes, 1)); /* the callback now sleeps */
        calls = atomic_load(&r.calls);
        loop_fd_remove(r.watch);
        assert_int_equal(atomic_load(&r.calls), calls + 1);
    }
    loop_end(loop);
    close(ends[0]);
    close(ends[1]);
}

/* Both are ready in one batch; whichever runs first removes the other, which must not run after that. */
static void removal_in_a_batch_holds(void **state)
{
    (void)state;
    for (int round = 0; round < 20; round++) {
        struct loop *loop = loop_get();
        struct reader r[2] = { { 0 }, { 0 } };
        int ends[2][2];

        for (int i = 0; i < 2; i++) {
            assert_int_equal(pipe(ends[i]), 0);
            assert_int_equal(write(ends[i][1], "x", 1), 1);
            r[i].fd = ends[i][0];
            r[i].watch = loop_fd_add(loop, r[i].fd, LOOP_READ, reader_ready, &r[i], NULL);
        }
        r[0].victim = r[1].watch;
        r[1].victim = r[0].watch;
        loop_go(loop);
        for (int i = 0; i < 10000 && !atomic_load(&r[0].calls) && !atomic_load(&r[1].calls); i++)
            nap(1);
        loop_stop(loop);
        assert_int_equal(atomic_load(&r[0].bytes) + atomic_load(&r[1].bytes), 1);
        loop_fd_remove(atomic_load(&r[0].bytes) ? r[0].watch : r[1].watch);
        loop_free(loop);
        for (int i = 0; i < 2; i++) {
            close(ends[i][0]);
            close(ends[i][1]);
        }
    }
}

struct tick {
    struct loop *loop;
    struct loop_timer *timer;
    uint64_t deadline, late_by;
    atomic_uint count;
    atomic_uint *sequence;
    unsigned place; /* in the order of firing */
    bool rearm, free_self, slow;
};

static void tick_fire(void *ctx)
{
    struct tick *t = ctx;
    const uint64_t now = now_ns();

    t->late_by = now - t->deadline; /* huge if it fired early */
    if (t->sequence)
        t->place = atomic_fetch_add(t->sequence, 1);
    if (t->rearm)
        loop_timer_arm(t->timer, 0);
    if (t->slow)
        nap(50);
    if (t->free_self)
        loop_timer_free(t->timer);
    atomic_fetch_add(&t->count, 1);
}

static void timers_fire_in_order_and_not_early(void **state)
{
    enum { COUNT = 50 };
    struct loop *loop = loop_get();
    struct tick t[COUNT];
    atomic_uint sequence = 0;
    unsigned seed = 7, fired = 0;
    const uint64_t start = now_ns();

    (void)state;
    memset(t, 0, sizeof(t));
    for (int i = 0; i < COUNT; i++) {
        t[i].timer = loop_timer_new(loop, tick_fire, &t[i]);
        t[i].sequence = &sequence;
        t[i].deadline = start + 20 * MS + (uint64_t)(rand_r(&seed) % 1000) * 50000;
        loop_timer_arm(t[i].timer, start + (uint64_t)(rand_r(&seed) % 100) * MS);
        loop_timer_arm(t[i].timer, t[i].deadline); /* the later word counts */
    }
    for (int i = 0; i < COUNT; i += 5)
        loop_timer_disarm(t[i].timer);
    loop_go(loop);
    assert_true(wait_for(&sequence, COUNT * 4 / 5));
    nap(10);
    for (int i = 0; i < COUNT; i++) {
        assert_int_equal(atomic_load(&t[i].count), i % 5 ? 1 : 0);
        if (i % 5 == 0)
            continue;
        fired++;
        assert_true(t[i].late_by < 5000ull * MS);
        for (int j = 0; j < COUNT; j++)
            if (j % 5 && t[j].deadline < t[i].deadline)
                assert_true(t[j].place < t[i].place);
    }
    assert_int_equal(fired, COUNT * 4 / 5);
    for (int i = 0; i < COUNT; i++)
        loop_timer_free(t[i].timer);
    loop_timer_free(NULL);
    loop_end(loop);
}

static void timer_may_free_itself_and_spare_others(void **state)
{
    struct loop *loop = loop_get();
    struct tick self = { .free_self = true }, eager = { .rearm = true }, far = { 0 };
    struct reader r = { 0 };
    int ends[2];

    (void)state;
    assert_int_equal(pipe(ends), 0);
    r.fd = ends[0];
    r.watch = loop_fd_add(loop, ends[0], LOOP_READ, reader_ready, &r, NULL);
    self.timer = loop_timer_new(loop, tick_fire, &self);
    eager.timer = loop_timer_new(loop, tick_fire, &eager);
    far.timer = loop_timer_new(loop, tick_fire, &far);
    loop_go(loop);
    loop_timer_arm(far.timer, UINT64_MAX);
    loop_timer_arm(self.timer, 0);
    loop_timer_arm(eager.timer, 0); /* arms itself for the past without end */
    assert_true(wait_for(&self.count, 1));
    assert_true(wait_for(&eager.count, 100));
    assert_int_equal(write(ends[1], "abc", 3), 3);
    assert_true(wait_for(&r.bytes, 3)); /* and descriptors still get their turn */
    loop_timer_free(eager.timer);
    assert_int_equal(atomic_load(&far.count), 0);
    assert_int_equal(atomic_load(&self.count), 1);
    loop_timer_free(far.timer);
    loop_fd_remove(r.watch);
    loop_end(loop);
    close(ends[0]);
    close(ends[1]);
}

static void timer_free_waits_for_the_callback(void **state)
{
    struct loop *loop = loop_get();
    struct tick t = { .slow = true, .rearm = true };
    atomic_uint sequence = 0;

    (void)state;
    t.sequence = &sequence;
    t.timer = loop_timer_new(loop, tick_fire, &t);
    loop_go(loop);
    loop_timer_arm(t.timer, now_ns());
    assert_true(wait_for(&sequence, 1)); /* sleeps in the callback, armed again */
    loop_timer_free(t.timer);
    assert_int_equal(atomic_load(&t.count), atomic_load(&sequence));
    nap(60);
    assert_int_equal(atomic_load(&t.count), atomic_load(&sequence));
    loop_end(loop);
}

/* Watches, timers and posts come and go from several threads at once. */
struct storm {
    struct loop *loop;
    atomic_uint calls;
    unsigned seed;
};

static void storm_fd(void *ctx, unsigned events)
{
    (void)events;
    atomic_fetch_add((atomic_uint *)ctx, 1);
}

static void storm_call(void *ctx)
{
    atomic_fetch_add((atomic_uint *)ctx, 1);
}

static void *storm_main(void *arg)
{
    struct storm *s = arg;
    int ends[2];

    if (pipe(ends) || write(ends[1], "x", 1) != 1)
        return NULL;
    for (int i = 0; i < 2000; i++) {
        /* On the heap, freed right after removal: a late call is a use after free. */
        atomic_uint *count = calloc(1, sizeof(*count));
        struct loop_fd *w = loop_fd_add(s->loop, ends[0], LOOP_READ, storm_fd, count, NULL);
        struct loop_timer *t = loop_timer_new(s->loop, storm_call, count);

        loop_timer_arm(t, now_ns() + rand_r(&s->seed) % 50000);
        loop_post(s->loop, storm_call, &s->calls);
        if (i % 3 == 0)
            loop_fd_events(w, i % 2 ? 0 : LOOP_READ);
        loop_timer_free(t);
        loop_fd_remove(w);
        free(count);
    }
    close(ends[0]);
    close(ends[1]);
    return arg;
}

static void storm_from_three_threads(void **state)
{
    struct storm s[3];
    pthread_t threads[3];
    struct loop *loop = loop_get();

    (void)state;
    loop_go(loop);
    for (unsigned i = 0; i < 3; i++) {
        s[i] = (struct storm){ .loop = loop, .seed = i + 1 };
        assert_int_equal(pthread_create(&threads[i], NULL, storm_main, &s[i]), 0);
    }
    for (unsigned i = 0; i < 3; i++) {
        void *result;

        pthread_join(threads[i], &result);
        assert_ptr_equal(result, &s[i]);
    }
    loop_end(loop);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(atomic_load(&s[i].calls), 2000);
}

static void host_clock_goes(void **state)
{
    const struct clock clock = clock_host();
    const uint64_t first = clock_now(&clock);

    (void)state;
    nap(5);
    assert_true(clock_now(&clock) - first >= 5 * MS);
    assert_true(llabs((long long)(clock_wall_ns(&clock) / 1000000000) - (long long)time(NULL)) <= 1);
}

static void event_count(void *ctx)
{
    atomic_fetch_add((atomic_uint *)ctx, 1);
}

static void event_raise(struct loop_event *e)
{
    const uint64_t one = 1;

    assert_int_equal(write(loop_event_fd(e), &one, sizeof(one)), sizeof(one));
}

static void events_are_told_and_joined(void **state)
{
    struct loop *loop = loop_get();
    atomic_uint calls = 0, others = 0;
    struct loop_event *e = loop_event_new(loop, event_count, &calls, NULL);
    struct loop_event *other = loop_event_new(loop, event_count, &others, NULL);

    (void)state;
    assert_non_null(e);
    assert_non_null(other);
    for (unsigned i = 0; i < 1000; i++) /* before the loop runs: not lost, and one call */
        event_raise(e);
    loop_go(loop);
    assert_true(wait_for(&calls, 1));
    nap(5);
    assert_int_equal(atomic_load(&calls), 1);
    for (unsigned i = 0; i < 100; i++) {
        event_raise(e);
        assert_true(wait_for(&calls, 2 + i));
    }
    assert_int_equal(atomic_load(&others), 0);
    event_raise(other);
    loop_event_free(other); /* rung or not: not called any more */
    others = 0;
    nap(5);
    assert_int_equal(atomic_load(&others), 0);
    loop_event_free(NULL);
    loop_event_free(e);
    loop_end(loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(posts_run_in_order_before_stop_returns),
        cmocka_unit_test(readable_pipe_is_read_to_its_end),
        cmocka_unit_test(write_readiness_comes_and_goes),
        cmocka_unit_test(regular_file_is_always_ready),
        cmocka_unit_test(bad_descriptor_is_told),
        cmocka_unit_test(remove_waits_for_the_callback),
        cmocka_unit_test(removal_in_a_batch_holds),
        cmocka_unit_test(events_are_told_and_joined),
        cmocka_unit_test(timers_fire_in_order_and_not_early),
        cmocka_unit_test(timer_may_free_itself_and_spare_others),
        cmocka_unit_test(timer_free_waits_for_the_callback),
        cmocka_unit_test(storm_from_three_threads),
        cmocka_unit_test(host_clock_goes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
