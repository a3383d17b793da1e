/* Memory order between CPUs: the examples of Intel SDM volume 3 (2023-12), 9.2.3.2 to 9.2.3.9 (AMD APM volume
 * 2, 7.2). Each test is run over arrays of locations, by several CPUs at once without a barrier in between,
 * as litmus tools do; the outcomes that the model forbids must never come. How often the one that it allows
 * came (store buffering) is printed: zero would say that the CPUs never overlapped. */
#include "trap64.h"

#define SLOTS 256
#define STRIDE 128 /* bytes: a pair of cache lines each */
#define PAIR_ROUNDS 40
#define QUAD_ROUNDS 4
#define CPUS 4

static uint8_t x[SLOTS * STRIDE] __attribute__((aligned(4096)));
static uint8_t y[SLOTS * STRIDE] __attribute__((aligned(4096)));
static uint64_t out[CPUS][SLOTS][2];
static volatile uint64_t total;

static volatile uint32_t cpus_up, generation, done_count;
static void (*volatile job)(unsigned cpu);
static volatile unsigned job_cpus;

static inline void store(uint8_t *a, unsigned i, uint64_t v)
{
    __asm__ volatile("movq %1, (%0)" : : "r"(a + i * STRIDE), "r"(v) : "memory");
}
static inline uint64_t load(uint8_t *a, unsigned i)
{
    uint64_t v;

    __asm__ volatile("movq (%1), %0" : "=r"(v) : "r"(a + i * STRIDE) : "memory");
    return v;
}
static inline void exchange(uint8_t *a, unsigned i, uint64_t v)
{
    __asm__ volatile("xchgq %0, (%1)" : "+r"(v) : "r"(a + i * STRIDE) : "memory");
}

static void part(uint32_t id)
{
    uint32_t seen = 0;

    for (;;) {
        while (generation == seen)
            __asm__ volatile("pause");
        seen = generation;
        if (id < job_cpus) {
            job(id);
            __atomic_fetch_add(&done_count, 1, __ATOMIC_SEQ_CST);
        }
    }
}

void ap_main(uint32_t id)
{
    traps_load();
    __atomic_fetch_add(&cpus_up, 1, __ATOMIC_SEQ_CST);
    part(id);
}

static void run(void (*fn)(unsigned cpu), unsigned cpus)
{
    for (unsigned i = 0; i < sizeof(x); i++)
        x[i] = y[i] = 0;
    done_count = 0;
    job = fn;
    job_cpus = cpus;
    generation = generation + 1;
    fn(0);
    __atomic_fetch_add(&done_count, 1, __ATOMIC_SEQ_CST);
    while (done_count < cpus)
        __asm__ volatile("pause");
}

/* 9.2.3.4: a load may pass an earlier store to another location. */
static void store_buffer(unsigned cpu)
{
    for (unsigned i = 0; i < SLOTS; i++) {
        store(cpu ? y : x, i, 1);
        out[cpu][i][0] = load(cpu ? x : y, i);
    }
}
static void store_buffer_fence(unsigned cpu)
{
    for (unsigned i = 0; i < SLOTS; i++) {
        store(cpu ? y : x, i, 1);
        __asm__ volatile("mfence" : : : "memory");
        out[cpu][i][0] = load(cpu ? x : y, i);
    }
}
/* 9.2.3.8, 9.2.3.9: neither loads nor stores pass LOCKed instructions. */
static void store_buffer_locked(unsigned cpu)
{
    for (unsigned i = 0; i < SLOTS; i++) {
        exchange(cpu ? y : x, i, 1);
        out[cpu][i][0] = load(cpu ? x : y, i);
    }
}
/* 9.2.3.2: stores are seen in order, loads are done in order. */
static void message(unsigned cpu)
{
    for (unsigned i = 0; i < SLOTS; i++) {
        if (cpu) {
            out[1][i][0] = load(y, i);
            out[1][i][1] = load(x, i);
        } else {
            store(x, i, 1);
            store(y, i, 1);
        }
    }
}
/* 9.2.3.3: stores do not pass earlier loads. */
static void load_buffer(unsigned cpu)
{
    for (unsigned i = 0; i < SLOTS; i++) {
        out[cpu][i][0] = load(cpu ? y : x, i);
        store(cpu ? x : y, i, 1);
    }
}
/* 9.2.3.7: all see two CPUs' stores in one order. */
static void independent_reads(unsigned cpu)
{
    for (unsigned i = 0; i < SLOTS; i++) {
        if (cpu < 2) {
            store(cpu ? y : x, i, 1);
        } else {
            out[cpu][i][0] = load(cpu == 2 ? x : y, i);
            out[cpu][i][1] = load(cpu == 2 ? y : x, i);
        }
    }
}
/* 9.2.3.6: stores are transitively visible. */
static void causality(unsigned cpu)
{
    for (unsigned i = 0; i < SLOTS; i++) {
        if (cpu == 0) {
            store(x, i, 1);
        } else if (cpu == 1) {
            out[1][i][0] = load(x, i);
            store(y, i, out[1][i][0]);
        } else {
            out[2][i][0] = load(y, i);
            out[2][i][1] = load(x, i);
        }
    }
}
/* 9.2.3.5: a CPU sees its own stores at once. */
static void own_store(unsigned cpu)
{
    for (unsigned i = 0; i < SLOTS; i++) {
        store(cpu ? y : x, i, 7);
        out[cpu][i][0] = load(cpu ? y : x, i);
    }
}
static void counters(unsigned cpu)
{
    uint64_t v;

    for (unsigned i = 0; i < SLOTS; i++) {
        switch ((i + cpu) % 4) {
        case 0: __asm__ volatile("lock incq %0" : "+m"(total) : : "memory"); break;
        case 1: __asm__ volatile("lock xaddq %0, %1" : "=r"(v), "+m"(total) : "0"(1ull) : "memory"); break;
        case 2: __asm__ volatile("lock addq $1, %0" : "+m"(total) : : "memory"); break;
        default:
            v = total;
            while (!__atomic_compare_exchange_n(&total, &v, v + 1, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
                ;
        }
    }
}

static unsigned count(bool (*is)(unsigned i))
{
    unsigned n = 0;

    for (unsigned i = 0; i < SLOTS; i++)
        n += is(i);
    return n;
}
static bool both_zero(unsigned i)
{
    return !out[0][i][0] && !out[1][i][0];
}
static bool both_one(unsigned i)
{
    return out[0][i][0] && out[1][i][0];
}
static bool torn(unsigned i)
{
    return out[1][i][0] && !out[1][i][1];
}
static bool two_orders(unsigned i)
{
    return out[2][i][0] && !out[2][i][1] && out[3][i][0] && !out[3][i][1];
}
static bool cause_lost(unsigned i)
{
    return out[2][i][0] && !out[2][i][1];
}
static bool not_own(unsigned i)
{
    return out[0][i][0] != 7 || out[1][i][0] != 7;
}

static unsigned test(void (*fn)(unsigned cpu), unsigned cpus, bool (*is)(unsigned i))
{
    unsigned n = 0;

    for (unsigned round = 0; round < (cpus > 2 ? QUAD_ROUNDS : PAIR_ROUNDS); round++) {
        run(fn, cpus);
        n += count(is);
    }
    return n;
}

static void start_cpus(void)
{
    wr32(0xfee000f0, 0x1ff);
    wr32(0xfee00300, 0xc4500);
    for (volatile unsigned i = 0; i < 1000000; i++)
        ;
    wr32(0xfee00300, 0xc4608);
    while (cpus_up < CPUS - 1)
        __asm__ volatile("pause");
}

uint32_t kernel_main(void)
{
    unsigned n;

    traps_init();
    start_cpus();
    n = test(store_buffer, 2, both_zero);
    print("store buffering: seen %u\n", n);
    check(test(store_buffer_fence, 2, both_zero) == 0, "store buffering with MFENCE");
    check(test(store_buffer_locked, 2, both_zero) == 0, "store buffering with XCHG");
    check(test(message, 2, torn) == 0, "message passing");
    check(test(load_buffer, 2, both_one) == 0, "load buffering");
    check(test(own_store, 2, not_own) == 0, "own stores");
    check(test(independent_reads, 4, two_orders) == 0, "independent reads of independent writes");
    check(test(causality, 3, cause_lost) == 0, "causality");
    for (unsigned round = 0; round < QUAD_ROUNDS; round++)
        run(counters, 4);
    check(total == QUAD_ROUNDS * SLOTS * 4ull, "LOCKed counters (%X)", total);
    return failures ? 0x20 : 0x10;
}
