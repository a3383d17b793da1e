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

#include <stdatomic.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define WATCH_NS UINT64_C(4000000)
#define JUDGE_NS UINT64_C(20000000)
#define PART_NS UINT64_C(1000000) /* at least from one move to the next */
#define ROUND_NS UINT64_C(20000000)
#define COUNT_NS UINT64_C(1000000000)

uint64_t userproc_clock_ns(clockid_t clock)
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
    return userproc_clock_ns(CLOCK_THREAD_CPUTIME_ID) + userproc_clock_ns(clock);
}

static void watch(struct userproc_seat *s, const struct seat_child *c, uint64_t now)
{
    s->watched = c;
    s->mixed = false;
    s->watched_since = now;
    s->used = used_ns(c);
}

/* Whether it is time for another CPU. */
static bool is_crowded(struct userproc_seat *s, const struct seat_child *c, uint64_t now)
{
    const uint64_t passed = now - s->watched_since;
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

/* ---- the room ---- */

static unsigned others_on(const struct userproc_seat *s, int cpu)
{
    if (!s->room)
        return 0;
    return atomic_load(&s->room->seats[cpu]) - (s->taken && cpu == s->cpu ? 1u : 0);
}

/* Another CPU than `cpu`, where the fewest others are, and at most so many. -1: there is none. */
static int other_cpu(const struct userproc_seat *s, int cpu, unsigned most)
{
    int best = -1;

    for (int i = 0; i < CPU_SETSIZE; i++) {
        if (i == cpu || !CPU_ISSET(i, &s->usable) || others_on(s, i) > most)
            continue;
        best = i;
        if (others_on(s, i) == 0)
            break;
        most = others_on(s, i) - 1;
    }
    return best;
}

/* False: meanwhile another seat was taken there. */
static bool room_enter(struct userproc_seat *s, int cpu, unsigned expected)
{
    if (!s->room || atomic_fetch_add(&s->room->seats[cpu], 1) <= expected)
        return true;
    atomic_fetch_sub(&s->room->seats[cpu], 1);
    return false;
}

static void room_leave(struct userproc_seat *s, int cpu)
{
    if (s->room)
        atomic_fetch_sub(&s->room->seats[cpu], 1);
}

/* ---- the thread ---- */

static bool keep_to(pid_t pid, int cpu)
{
    cpu_set_t one;

    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    return sched_setaffinity(pid, sizeof(one), &one) == 0;
}

/* Whether the thread's CPUs are what the seat has made them. */
static bool is_kept(const struct userproc_seat *s)
{
    cpu_set_t now;

    return sched_getaffinity(0, sizeof(now), &now) == 0 && CPU_COUNT(&now) == 1 && CPU_ISSET(s->cpu, &now);
}

void seat_take(struct userproc_seat *s)
{
    const uint64_t now = userproc_clock_ns(CLOCK_MONOTONIC);
    int here = sched_getcpu(), there = -1;

    if (here < 0 || here >= CPU_SETSIZE || sched_getaffinity(0, sizeof(s->usable), &s->usable)) {
        s->useless = true;
        return;
    }
    s->free = s->usable;
    if (now - s->counted_at > COUNT_NS) { /* which reads a file */
        s->online = sysconf(_SC_NPROCESSORS_ONLN);
        s->counted_at = now;
    }
    /* Whoever has all CPUs has those that are added later, too. */
    if (CPU_COUNT(&s->free) >= s->online)
        memset(&s->free, 0xff, sizeof(s->free));
    if (others_on(s, here))
        there = other_cpu(s, here, others_on(s, here) - 1);
    if (there >= 0 && keep_to(0, there)) {
        s->cpu = there;
    } else if (keep_to(0, here)) {
        s->cpu = here;
    } else {
        s->useless = true;
        return;
    }
    room_enter(s, s->cpu, UINT16_MAX);
    s->taken = true;
}

void userproc_rest(struct userproc_seat *s)
{
    if (!s->taken)
        return;
    s->taken = false;
    room_leave(s, s->cpu);
    /* Something else than what it was made means that somebody has decided otherwise. */
    if (is_kept(s))
        sched_setaffinity(0, sizeof(s->free), &s->free);
}

/* To a CPU that has no other seat; round: or no more of them than this one. */
static bool move_away(struct userproc_seat *s, bool round, uint64_t now)
{
    const int to = other_cpu(s, s->cpu, round ? others_on(s, s->cpu) : 0);
    const unsigned there = to < 0 ? 0 : others_on(s, to);

    if (to < 0 || now - s->moved_at < (there ? ROUND_NS : PART_NS) || !is_kept(s) ||
        !room_enter(s, to, there))
        return false;
    if (!keep_to(0, to)) {
        room_leave(s, to);
        return false;
    }
    room_leave(s, s->cpu);
    s->cpu = to;
    s->moved_at = now;
    return true;
}

/* The process goes where the thread is. */
static void child_move(struct userproc_seat *s, struct seat_child *c)
{
    if (c->cpu == s->cpu)
        return;
    if (!keep_to(c->pid, s->cpu)) {
        userproc_rest(s);
        s->useless = true;
        return;
    }
    c->cpu = s->cpu;
}

/* A seat that shares its CPU leaves it if another has none, or if it has got little of it and would share
 * with no more elsewhere, so that the one that it has shared with gets more for a while. */
static void look_around(struct userproc_seat *s, const struct seat_child *c, uint64_t now)
{
    const bool crowded = is_crowded(s, c, now);
    bool moved = false;

    if (others_on(s, s->cpu))
        moved = move_away(s, crowded, now);
    if (moved)
        watch(s, c, now);
    else if (crowded)
        userproc_rest(s);
}

void seat_begin(struct userproc_seat *s, struct seat_child *c)
{
    uint64_t now;

    if (!s || s->useless)
        return;
    now = userproc_clock_ns(CLOCK_MONOTONIC);
    if (s->taken) {
        look_around(s, c, now);
    } else {
        seat_take(s);
        if (s->useless)
            return;
        s->judged_at = now;
        watch(s, c, now);
    }
    child_move(s, c);
}
