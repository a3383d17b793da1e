/* Many machines in one process: twenty at once, each brought to a state drawn at random and freed there, in
 * any order and from several threads. What the program hears meanwhile is held against the state machine, and
 * what the process holds before and after is compared: descriptors, threads, memory.
 *
 * YADO_TEST_SEED=N repeats a run's draws; YADO_TEST_ROUNDS=N makes more of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <yado/yado.h>

#include "../machine/tiny_kernel.h"
#include "overlap.h"

#define MACHINES 20
#define PATIENCE_MS 30000

/* ---- draws ---- */

static uint64_t seed;

static uint64_t draw(void)
{
    seed ^= seed << 13; /* Marsaglia, Xorshift RNGs, 2003 */
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

static unsigned draw_below(unsigned n)
{
    return (unsigned)(draw() % n);
}

/* ---- guests ---- */

enum guest { GUEST_HALTS, GUEST_SPINS, GUEST_POWERS_OFF, GUEST_CRASHES, GUEST_REBOOTS, GUEST_COUNT };

static const uint8_t code_halts[] = { TINY_HALT };
static const uint8_t code_spins[] = { 0xeb, 0xfe };
static const uint8_t code_powers_off[] = { TINY_POWER_OFF, TINY_HALT };
static const uint8_t code_crashes[] = { TINY_TRIPLE_FAULT, TINY_HALT };
static const uint8_t code_reboots[] = { TINY_UNMASK, TINY_MASK, TINY_RESET, TINY_HALT };

static const struct {
    const uint8_t *code;
    size_t len;
} guests[GUEST_COUNT] = {
    { code_halts, sizeof(code_halts) },           { code_spins, sizeof(code_spins) },
    { code_powers_off, sizeof(code_powers_off) }, { code_crashes, sizeof(code_crashes) },
    { code_reboots, sizeof(code_reboots) },
};

static char kernels[GUEST_COUNT][64];
static enum yado_engine engine;

/* ---- one machine, and what is heard of it ---- */

enum goal {
    GOAL_CREATED,
    GOAL_STARTING,
    GOAL_RUNNING,
    GOAL_PAUSING,
    GOAL_PAUSED,
    GOAL_RESUMING,
    GOAL_STOPPING,
    GOAL_STOPPED,
    GOAL_POWERED_OFF,
    GOAL_ERROR,
    GOAL_REBOOTING,
    GOAL_COUNT
};

static const enum guest guest_for[GOAL_COUNT] = {
    [GOAL_POWERED_OFF] = GUEST_POWERS_OFF,
    [GOAL_ERROR] = GUEST_CRASHES,
    [GOAL_REBOOTING] = GUEST_REBOOTS,
};

struct subject {
    struct yado_machine *m;
    enum goal goal;
    bool own_thread; /* YADO_DELIVERY_THREAD */
    char disk[64];
    int peer; /* the other end of its network */

    /* Written in callbacks, which run one at a time; read when none can run any more, or atomically. */
    enum yado_state state; /* as the events told */
    pthread_t thread;
    bool heard;
    atomic_uint ends, lost, done, failed, asked;
    atomic_bool freed;
};

/* Whether there is a way from one state to the other, as machine.h draws it. */
static bool move_is_legal(enum yado_state from, enum yado_state to)
{
    static const struct {
        enum yado_state from, to;
    } moves[] = {
        { YADO_STATE_STOPPED, YADO_STATE_STARTING }, { YADO_STATE_ERROR, YADO_STATE_STARTING },
        { YADO_STATE_STARTING, YADO_STATE_RUNNING }, { YADO_STATE_STARTING, YADO_STATE_ERROR },
        { YADO_STATE_RUNNING, YADO_STATE_PAUSING },  { YADO_STATE_PAUSING, YADO_STATE_PAUSED },
        { YADO_STATE_PAUSED, YADO_STATE_RESUMING },  { YADO_STATE_RESUMING, YADO_STATE_RUNNING },
        { YADO_STATE_RUNNING, YADO_STATE_STOPPING }, { YADO_STATE_PAUSED, YADO_STATE_STOPPING },
        { YADO_STATE_STOPPING, YADO_STATE_STOPPED }, { YADO_STATE_RUNNING, YADO_STATE_STOPPED },
        { YADO_STATE_RUNNING, YADO_STATE_ERROR },    { YADO_STATE_PAUSING, YADO_STATE_STOPPED },
        { YADO_STATE_PAUSING, YADO_STATE_ERROR },    { YADO_STATE_STOPPING, YADO_STATE_ERROR },
        { YADO_STATE_RESUMING, YADO_STATE_STOPPED }, { YADO_STATE_RESUMING, YADO_STATE_ERROR },
    };

    for (size_t i = 0; i < sizeof(moves) / sizeof(moves[0]); i++) {
        if (moves[i].from == from && moves[i].to == to)
            return true;
    }
    return false;
}

/* A test fails on its own thread only: elsewhere the process ends. */
#define MUST(cond, ...)                                                                                      \
    do {                                                                                                     \
        if (!(cond)) {                                                                                       \
            fprintf(stderr, "%s:%d: " #cond ": ", __FILE__, __LINE__);                                       \
            fprintf(stderr, __VA_ARGS__);                                                                    \
            fputc('\n', stderr);                                                                             \
            abort();                                                                                         \
        }                                                                                                    \
    } while (0)

static _Thread_local bool dispatching;

static void heard(struct subject *s)
{
    MUST(s->own_thread || dispatching, "a callback where the program did not ask for any");
    MUST(!s->freed, "a callback after the machine was freed");
    if (!s->heard)
        s->thread = pthread_self();
    s->heard = true;
    MUST(!s->own_thread || pthread_equal(s->thread, pthread_self()), "callbacks on two threads");
}

static void on_event(void *ctx, const struct yado_event *e)
{
    struct subject *s = ctx;

    heard(s);
    if (e->kind == YADO_EVENT_STATE_CHANGED) {
        MUST(e->old_state == s->state, "from %s, which was %s", yado_state_name(e->old_state),
             yado_state_name(s->state));
        MUST(move_is_legal(e->old_state, e->state), "%s to %s", yado_state_name(e->old_state),
             yado_state_name(e->state));
        s->state = e->state;
    } else if (e->kind == YADO_EVENT_NETWORK_DISCONNECTED) {
        MUST(e->index == 0 && e->error.code != YADO_OK && e->error.message[0], "no reason");
        s->lost++;
    } else if (e->kind == YADO_EVENT_GUEST_STOPPED || e->kind == YADO_EVENT_STOPPED_WITH_ERROR) {
        MUST(s->state == (e->kind == YADO_EVENT_GUEST_STOPPED ? YADO_STATE_STOPPED : YADO_STATE_ERROR),
             "the end came in state %s", yado_state_name(s->state));
        s->ends++;
    }
}

static void on_done(void *ctx, const struct yado_error *err)
{
    struct subject *s = ctx;

    heard(s);
    if (err) {
        MUST(err->code == YADO_ERR_STATE, "%s", err->message); /* the guest was quicker */
        s->failed++;
    }
    s->done++;
}

/* ---- making and driving ---- */

static void disk_make(char path[64])
{
    int fd;

    strcpy(path, "/tmp/yado-test-disk-XXXXXX");
    fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, 1 << 20), 0);
    close(fd);
}

/* Every kind of device that both this engine and the tests' guests can have. */
static void devices_add(struct yado_config *c, struct subject *s)
{
    int fds[2];

    yado_config_add_storage(c, yado_virtio_block_new(yado_disk_image_new(s->disk, YADO_DISK_RAW, 0)));
    yado_config_add_serial_port(c, yado_virtio_console_port_new(yado_fd_serial_new(-1, -1)));
    yado_config_add_entropy(c, yado_virtio_entropy_new());
    yado_config_add_balloon(c, yado_virtio_balloon_new());
    yado_config_add_socket(c, yado_virtio_socket_new());
    s->peer = -1;
    if (draw_below(2)) {
        yado_config_add_network(c, yado_virtio_net_new(yado_nat_new()));
        return;
    }
    assert_int_equal(socketpair(AF_UNIX, (on_apple() ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0, fds), 0);
    yado_config_add_network(c, yado_virtio_net_new(yado_fd_network_new(fds[0])));
    close(fds[0]);
    s->peer = fds[1];
}

static void subject_make(struct subject *s)
{
    struct yado_machine_options o = { .engine = engine, .on_event = on_event, .event_ctx = s };
    struct yado_config *c = yado_config_new();
    struct yado_error err = YADO_ERROR_INIT;
    enum guest guest;

    memset(s, 0, sizeof(*s));
    s->goal = (enum goal)draw_below(GOAL_COUNT);
    s->own_thread = draw_below(2);
    o.delivery = s->own_thread ? YADO_DELIVERY_THREAD : YADO_DELIVERY_DISPATCH;
    guest = guest_for[s->goal];
    if (guest == GUEST_HALTS && draw_below(4) == 0)
        guest = GUEST_SPINS;
    disk_make(s->disk);
    yado_config_set_cpu_count(c, 1 + draw_below(2));
    yado_config_set_memory_size(c, 32 << 20);
    yado_config_set_boot_loader(c, yado_linux_boot_loader_new(kernels[guest], NULL, NULL));
    devices_add(c, s);
    s->m = yado_machine_new(c, &o, &err);
    yado_config_free(c);
    if (!s->m)
        fail_msg("%s", err.message);
}

static void pass(struct subject *s)
{
    dispatching = true;
    if (!s->own_thread)
        yado_machine_dispatch(s->m);
    dispatching = false;
    usleep(500);
}

static void state_await(struct subject *s, enum yado_state state)
{
    for (int i = 0; i < PATIENCE_MS * 2 && yado_machine_state(s->m) != state; i++)
        pass(s);
    MUST(yado_machine_state(s->m) == state, "%s, not %s", yado_state_name(yado_machine_state(s->m)),
         yado_state_name(state));
}

static void ask(struct subject *s, bool (*verb)(struct yado_machine *, yado_completion, void *))
{
    s->asked++;
    assert_true(verb(s->m, on_done, s));
}

static void start(struct subject *s)
{
    assert_true(yado_machine_can_start(s->m));
    ask(s, yado_machine_start);
    assert_false(yado_machine_can_start(s->m));
}

/* Begins; what takes time is awaited in subject_arrive, when all machines have begun. */
static void subject_begin(struct subject *s)
{
    if (s->goal != GOAL_CREATED && s->goal != GOAL_STARTING)
        start(s);
}

static void pause_now(struct subject *s)
{
    assert_true(yado_machine_can_pause(s->m) && !yado_machine_can_resume(s->m));
    ask(s, yado_machine_pause);
}

static void subject_arrive(struct subject *s)
{
    if (s->goal == GOAL_CREATED)
        return;
    if (s->goal == GOAL_STARTING) {
        start(s);
        return;
    }
    if (s->goal == GOAL_POWERED_OFF || s->goal == GOAL_ERROR) {
        state_await(s, s->goal == GOAL_ERROR ? YADO_STATE_ERROR : YADO_STATE_STOPPED);
        return;
    }
    state_await(s, YADO_STATE_RUNNING);
    if (s->goal == GOAL_PAUSING || s->goal == GOAL_PAUSED || s->goal == GOAL_RESUMING)
        pause_now(s);
    if (s->goal == GOAL_PAUSED || s->goal == GOAL_RESUMING) {
        state_await(s, YADO_STATE_PAUSED);
        assert_true(yado_machine_can_stop(s->m) && !yado_machine_can_request_stop(s->m));
    }
    if (s->goal == GOAL_RESUMING)
        ask(s, yado_machine_resume);
    if (s->goal == GOAL_STOPPING || s->goal == GOAL_STOPPED) {
        assert_true(yado_machine_request_stop(s->m, NULL));
        ask(s, yado_machine_stop);
    }
    if (s->goal == GOAL_STOPPED)
        state_await(s, YADO_STATE_STOPPED);
}

/* The network's other end goes away under half of those that run by a socket of which that can be told. */
static void attachments_lose(struct subject *all)
{
    for (unsigned i = 0; i < MACHINES; i++) {
        struct subject *s = &all[i];

        if (s->peer < 0 || on_apple() || (s->goal != GOAL_RUNNING && s->goal != GOAL_PAUSED) || draw_below(2))
            continue;
        close(s->peer);
        s->peer = -1;
        for (int k = 0; k < PATIENCE_MS * 2 && !s->lost; k++)
            pass(s);
        MUST(s->lost == 1, "its attachment's loss was told %u times", s->lost);
    }
}

static void subject_free(struct subject *s)
{
    enum goal goal = s->goal;

    if (goal == GOAL_STARTING || goal == GOAL_STOPPING || goal == GOAL_REBOOTING)
        usleep(s->disk[20] % 8 * 300u); /* some way into it */
    if (goal == GOAL_STOPPED || goal == GOAL_POWERED_OFF || goal == GOAL_ERROR) {
        dispatching = true;
        MUST(yado_machine_wait(s->m, PATIENCE_MS), "it has not ended");
        dispatching = false;
        MUST(s->ends == (goal == GOAL_STOPPED ? 0 : 1), "%u ends", s->ends);
        MUST(s->done == s->asked && s->failed == 0, "%u of %u completions", s->done, s->asked);
        MUST(s->state == yado_machine_state(s->m), "told %s", yado_state_name(s->state));
    }
    yado_machine_free(s->m);
    s->freed = true;
    MUST(s->done <= s->asked, "%u completions of %u", s->done, s->asked);
    if (s->peer >= 0)
        close(s->peer);
    unlink(s->disk);
}

struct freeing {
    struct subject *all;
    const unsigned *order;
    atomic_uint next;
};

static void *free_some(void *arg)
{
    struct freeing *f = arg;
    unsigned i;

    while ((i = atomic_fetch_add(&f->next, 1)) < MACHINES)
        subject_free(&f->all[f->order[i]]);
    return NULL;
}

/* In a drawn order, by one thread or by four. */
static void all_free(struct subject *all)
{
    unsigned order[MACHINES], threads = draw_below(2) ? 4 : 1;
    struct freeing f = { .all = all, .order = order };
    pthread_t t[4];

    for (unsigned i = 0; i < MACHINES; i++) {
        unsigned k = draw_below(i + 1);

        order[i] = order[k];
        order[k] = i;
    }
    for (unsigned i = 0; i < threads; i++)
        assert_int_equal(pthread_create(&t[i], NULL, free_some, &f), 0);
    for (unsigned i = 0; i < threads; i++)
        assert_int_equal(pthread_join(t[i], NULL), 0);
}

static void round_run(void)
{
    static struct subject all[MACHINES];

    for (unsigned i = 0; i < MACHINES; i++)
        subject_make(&all[i]);
    for (unsigned i = 0; i < MACHINES; i++)
        subject_begin(&all[i]);
    for (unsigned i = 0; i < MACHINES; i++)
        subject_arrive(&all[i]);
    attachments_lose(all);
    all_free(all);
}

/* ---- what the process holds ---- */

struct holdings {
    unsigned descriptors, threads;
    uint64_t mapped_kib; /* without the heap, which keeps what it once had */
};

static unsigned entries(const char *path)
{
    DIR *d = opendir(path);
    unsigned n = 0;

    assert_non_null(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static uint64_t mapped_kib(void)
{
    FILE *f = fopen("/proc/self/maps", "re");
    uint64_t sum = 0;
    char line[512];

    assert_non_null(f);
    while (fgets(line, sizeof(line), f)) {
        unsigned long long from, to;

        if (sscanf(line, "%llx-%llx", &from, &to) == 2 && !strstr(line, "[heap]"))
            sum += (to - from) >> 10;
    }
    fclose(f);
    return sum;
}

static struct holdings holdings_get(void)
{
    return (struct holdings){ .descriptors = entries("/proc/self/fd"),
                              .threads = entries("/proc/self/task"),
                              .mapped_kib = mapped_kib() };
}

/* A joined thread is seen for some moments more, and the framework's own end when they like: what there is
 * when nothing has changed for a while. */
static struct holdings holdings_settled(void)
{
    struct holdings h = holdings_get(), now;

    for (int same = 0, i = 0; same < 50 && i < 5000; i++) {
        usleep(1000);
        now = holdings_get();
        same = memcmp(&h, &now, sizeof(h)) ? 0 : same + 1;
        h = now;
    }
    return h;
}

/* libc keeps a few stacks of 8 MiB for later; the memory of one guest is more than that. */
#define SLACK_KIB (24u << 10)

/* `before` may have counted something that was just about to go. */
static void expect_no_more(struct holdings before)
{
    struct holdings now = holdings_settled();

    for (int i = 0; i < PATIENCE_MS && (now.descriptors > before.descriptors || now.threads > before.threads);
         i++) {
        usleep(1000);
        now = holdings_get();
    }
    printf("# descriptors %u, threads %u, mapped %llu KiB; before %u, %u, %llu\n", now.descriptors,
           now.threads, (unsigned long long)now.mapped_kib, before.descriptors, before.threads,
           (unsigned long long)before.mapped_kib);
    assert_in_range(now.descriptors, 0, before.descriptors);
    assert_in_range(now.threads, 0, before.threads);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) /* they map shadows, keep what is freed  \
                                                                     */
    assert_in_range(now.mapped_kib, 0, before.mapped_kib + SLACK_KIB);
#endif
}

static unsigned number_of(const char *name, unsigned otherwise)
{
    const char *text = getenv(name);

    return text ? (unsigned)strtoul(text, NULL, 0) : otherwise;
}

static void test_any_order_any_state(void **state)
{
    unsigned rounds = number_of("YADO_TEST_ROUNDS", 4);
    struct holdings before;

    (void)state;
    seed = number_of("YADO_TEST_SEED", (unsigned)time(NULL) ^ (unsigned)getpid() << 16);
    printf("# seed %llu\n", (unsigned long long)seed);
    seed = seed * 0x9e3779b97f4a7c15ull + 1;
    round_run(); /* libraries load, and libc keeps some memory for later */
    before = holdings_settled();
    for (unsigned i = 0; i < rounds; i++)
        round_run();
    expect_no_more(before);
}

/* ---- ---- */

static int kernels_write(void **state)
{
    (void)state;
    for (unsigned i = 0; i < GUEST_COUNT; i++)
        tiny_kernel_write(kernels[i], guests[i].code, guests[i].len);
    return 0;
}

static int kernels_unlink(void **state)
{
    (void)state;
    for (unsigned i = 0; i < GUEST_COUNT; i++)
        unlink(kernels[i]);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_any_order_any_state) };
    int failed = 0;

#ifdef __GLIBC__
    mallopt(M_ARENA_MAX, 2); /* each new one maps much, whenever threads meet in malloc */
#endif
    for (unsigned i = 0; i < yado_engine_count(); i++) {
        struct yado_error why = YADO_ERROR_INIT;

        engine = yado_engine_at(i);
        if (yado_engine_usable(engine, &why))
            failed +=
                cmocka_run_group_tests_name(yado_engine_name(engine), tests, kernels_write, kernels_unlink);
        else
            printf("# %s: skipped: %s\n", yado_engine_name(engine), why.message);
    }
    return failed;
}
