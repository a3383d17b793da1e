/* Why both use one CPU: the thread sleeps while the process runs and the other way round, so the one that
 * wakes the other can leave the CPU to it at once. Left alone, the kernel wakes it on an idle CPU, which
 * takes an interrupt there and some 40 us.
 *
 * Why the thread is set free now and then: the kernel balances its CPUs by moving those that wait, and
 * neither of the two can be moved. A thread that wakes and may use several CPUs is put on an idle one, if
 * there is any. So when the two got clearly less than a whole CPU, because others wanted it, one run goes on
 * with the thread free, and the series continues where it comes to. If no other CPU is idle, that is where it
 * was. */
#include "host/linux/userproc_seat.h"

#include <string.h>
#include <time.h>
#include <unistd.h>

#define WATCH_NS UINT64_C(4000000)
#define JUDGE_NS UINT64_C(20000000)

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec t = { 0 };

    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* CPU time of the calling thread and of the process. */
static uint64_t used_ns(const struct seat_child *c)
{
    clockid_t clock;

    if (clock_getcpuclockid(c->pid, &clock))
        return 0;
    return clock_ns(CLOCK_THREAD_CPUTIME_ID) + clock_ns(clock);
}

static void watch(struct userproc_seat *s, const struct seat_child *c, uint64_t now)
{
    s->watched = c;
    s->mixed = false;
    s->watched_since = now;
    s->used = used_ns(c);
}

/* Whether it is time that the host chooses a CPU. */
static bool is_crowded(struct userproc_seat *s, const struct seat_child *c)
{
    const uint64_t now = clock_ns(CLOCK_MONOTONIC), passed = now - s->watched_since;
    uint64_t used = s->used;
    bool clean = !s->mixed && c == s->watched;

    s->mixed = !clean;
    if (passed < WATCH_NS)
        return false;
    watch(s, c, now);
    if (!clean && now - s->judged_at < JUDGE_NS)
        return false;
    s->judged_at = now;
    /* Where several processes take turns nobody knows. */
    return !clean || s->used - used < passed - passed / 4;
}

void seat_child_init(struct seat_child *c, pid_t pid)
{
    c->pid = pid;
    c->cpu = -1;
}

void seat_take(struct userproc_seat *s)
{
    cpu_set_t one;

    s->cpu = sched_getcpu();
    if (s->cpu < 0 || s->cpu >= CPU_SETSIZE || sched_getaffinity(0, sizeof(s->free), &s->free)) {
        s->useless = true;
        return;
    }
    /* Whoever has all CPUs has those that are added later, too. */
    if (CPU_COUNT(&s->free) >= sysconf(_SC_NPROCESSORS_ONLN))
        memset(&s->free, 0xff, sizeof(s->free));
    CPU_ZERO(&one);
    CPU_SET(s->cpu, &one);
    if (sched_setaffinity(0, sizeof(one), &one)) {
        s->useless = true;
        return;
    }
    s->taken = true;
}

void userproc_rest(struct userproc_seat *s)
{
    cpu_set_t now;

    if (!s->taken)
        return;
    s->taken = false;
    /* Something else than what it was made means that somebody has decided otherwise. */
    if (sched_getaffinity(0, sizeof(now), &now) || CPU_COUNT(&now) != 1 || !CPU_ISSET(s->cpu, &now))
        return;
    sched_setaffinity(0, sizeof(s->free), &s->free);
}

/* The process goes where the thread is. */
static void child_move(struct userproc_seat *s, struct seat_child *c)
{
    cpu_set_t one;

    if (c->cpu == s->cpu)
        return;
    CPU_ZERO(&one);
    CPU_SET(s->cpu, &one);
    if (sched_setaffinity(c->pid, sizeof(one), &one)) {
        userproc_rest(s);
        s->useless = true;
        return;
    }
    c->cpu = s->cpu;
}

void seat_begin(struct userproc_seat *s, struct seat_child *c)
{
    if (!s || s->useless)
        return;
    if (!s->taken) {
        seat_take(s);
        if (s->useless)
            return;
        s->judged_at = clock_ns(CLOCK_MONOTONIC);
        watch(s, c, s->judged_at);
    } else if (is_crowded(s, c)) {
        userproc_rest(s);
    }
    child_move(s, c);
}
