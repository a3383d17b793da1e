/* How long a CPU stands still while another one keeps making code that nobody has run before, as seen from
 * inside the guest: a thread that wants to run every millisecond on the last CPU, beside one on CPU 0 that
 * writes functions, each unlike every other, into fresh memory and calls them. A translator's cache of code
 * fills and overflows. Without the second thread the same is the machine's own unrest, to be told apart.
 *
 * usage: churn SECONDS BYTES-OF-CODE
 * First SECONDS of rest, then until as much code has been run, ten seconds at most. Root gives the
 * millisecond thread real-time priority. Prints "quiet LONGEST P99 busy LONGEST P99 code BYTES": ms late in
 * both phases, bytes of new code that ran. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { TICK_NS = 1000000, TICKS_MAX = 600000, FUNCTION = 64, CHUNK = 1 << 20 };
#define CHURN_NS 10000000000ll

struct ticks {
    uint32_t late_us[TICKS_MAX];
    int count;
};

struct clock_thread {
    struct ticks phase[2];
    atomic_int now; /* index of the phase; 2: end */
};

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void pin(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(0, sizeof set, &set);
}

static void *tick(void *arg)
{
    struct clock_thread *ct = arg;
    struct sched_param priority = { .sched_priority = 50 };
    pin((int)sysconf(_SC_NPROCESSORS_ONLN) - 1);
    pthread_setschedparam(pthread_self(), SCHED_FIFO, &priority); /* without leave: as any other thread */
    int64_t due = now_ns();
    for (int phase; (phase = atomic_load(&ct->now)) < 2;) {
        due += TICK_NS;
        struct timespec t = { .tv_sec = due / 1000000000, .tv_nsec = due % 1000000000 };
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
        int64_t late = now_ns() - due;
        struct ticks *into = &ct->phase[phase];
        if (into->count < TICKS_MAX)
            into->late_us[into->count++] = (uint32_t)(late / 1000);
        if (late > TICK_NS) /* one stop is one late tick, not a row of them */
            due += late;
    }
    return NULL;
}

/* mov eax, seed; then additions and exclusive-ors of numbers of its own; ret. Returns what eax will be. */
static uint32_t write_function(uint8_t *code, uint32_t seed)
{
    uint8_t *p = code;
    uint32_t eax = seed;
    *p++ = 0xb8;
    memcpy(p, &seed, 4);
    p += 4;
    for (int i = 0; i < 10; i++) {
        seed = seed * 1664525u + 1013904223u;
        *p++ = i & 1 ? 0x35 : 0x05; /* xor eax, imm32; add eax, imm32 */
        memcpy(p, &seed, 4);
        p += 4;
        eax = i & 1 ? eax ^ seed : eax + seed;
    }
    *p++ = 0xc3;
    return eax;
}

/* Bytes of new code that ran, or 0 if a function did not return what it should. */
static size_t churn(size_t want, int64_t deadline)
{
    static uint32_t expected[CHUNK / FUNCTION];
    size_t done = 0;
    while (done < want && now_ns() < deadline) {
        uint8_t *code = mmap(NULL, CHUNK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (code == MAP_FAILED)
            return 0;
        for (size_t i = 0; i < CHUNK / FUNCTION; i++)
            expected[i] = write_function(code + i * FUNCTION, (uint32_t)(done / FUNCTION + i));
        mprotect(code, CHUNK, PROT_READ | PROT_EXEC);
        for (size_t i = 0; i < CHUNK / FUNCTION; i++) {
            uint32_t (*function)(void);
            const uint8_t *at = code + i * FUNCTION;
            memcpy(&function, &at, sizeof function);
            if (function() != expected[i])
                return 0;
        }
        munmap(code, CHUNK);
        done += CHUNK;
    }
    return done;
}

static int by_size(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void print_ticks(const char *name, struct ticks *t)
{
    qsort(t->late_us, (size_t)t->count, sizeof *t->late_us, by_size);
    printf("%s %.3f %.3f ", name, t->count ? t->late_us[t->count - 1] / 1e3 : 0,
           t->count ? t->late_us[t->count - 1 - t->count / 100] / 1e3 : 0);
}

int main(int argc, char **argv)
{
    static struct clock_thread ct;
    double seconds = argc == 3 ? atof(argv[1]) : 0;
    long bytes = argc == 3 ? atol(argv[2]) : 0;
    pthread_t thread;
    if (seconds <= 0 || bytes <= 0) {
        fprintf(stderr, "usage: churn SECONDS BYTES-OF-CODE\n");
        return 2;
    }
    pin(0);
    if (pthread_create(&thread, NULL, tick, &ct))
        return 1;
    usleep((useconds_t)(seconds * 1e6));
    atomic_store(&ct.now, 1);
    size_t done = churn((size_t)bytes, now_ns() + CHURN_NS);
    atomic_store(&ct.now, 2);
    pthread_join(thread, NULL);
    print_ticks("quiet", &ct.phase[0]);
    print_ticks("busy", &ct.phase[1]);
    printf("code %zu\n", done);
    return done == 0;
}
