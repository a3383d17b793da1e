/* Much more code than the translator's cache holds (run.py gives it a small one): functions that run once
 * each, and between them always again the steps of one page, which jump to each other and are changed now and
 * then. Steps are first run at different times, so that they are made in different parts of the cache, some
 * jumping to others that are there already, some to others that are not; then parts of the cache go. */
#include "lib.h"

#define FUNCTIONS ((volatile uint8_t *)0x2000000)
#define PAGE ((volatile uint8_t *)0x1fff000)
enum { SIZE = 64, COUNT = 60000, STEPS = 32, ROUNDS = 240 };

static uint32_t amount[STEPS];

static volatile uint8_t *put32(volatile uint8_t *p, uint32_t v)
{
    for (unsigned i = 0; i < 4; i++)
        *p++ = (uint8_t)(v >> 8 * i);
    return p;
}

static unsigned next_of(unsigned k)
{
    return (k * 5 + 3) % STEPS;
}

/* ADD $amount, %eax; DEC %ecx; JNZ the next step; RET. */
static void write_step(unsigned k, uint32_t v)
{
    volatile uint8_t *p = PAGE + k * SIZE;

    amount[k] = v;
    *p++ = 0x05;
    p = put32(p, v);
    *p++ = 0xff;
    *p++ = 0xc9;
    *p++ = 0x0f;
    *p++ = 0x85;
    p = put32(p, (uint32_t)(PAGE + next_of(k) * SIZE - (p + 4)));
    *p = 0xc3;
}

/* MOV $seed, %eax; ten times ADD or XOR of a number of its own; RET. Returns what EAX will be. */
static uint32_t write_function(volatile uint8_t *p, uint32_t seed)
{
    uint32_t eax = seed;

    *p++ = 0xb8;
    p = put32(p, seed);
    for (unsigned i = 0; i < 10; i++) {
        seed = seed * 1664525u + 1013904223u;
        eax = i & 1 ? eax ^ seed : eax + seed;
        *p++ = i & 1 ? 0x35 : 0x05;
        p = put32(p, seed);
    }
    *p = 0xc3;
    return eax;
}

static uint32_t call(volatile uint8_t *at, uint32_t ecx)
{
    uint32_t eax = 0;

    __asm__ volatile("call *%2" : "+a"(eax), "+c"(ecx) : "r"(at) : "memory", "cc");
    return eax;
}

static uint32_t sum(unsigned k, unsigned steps)
{
    uint32_t v = 0;

    for (unsigned i = 0; i < steps; i++, k = next_of(k))
        v += amount[k];
    return v;
}

uint32_t kernel_main(void)
{
    unsigned wrong_once = 0, wrong_steps = 0, done = 0;

    for (unsigned k = 0; k < STEPS; k++)
        write_step(k, k * 977 + 1);
    for (unsigned round = 0; round < ROUNDS; round++) {
        for (unsigned i = 0; i < COUNT / ROUNDS; i++, done++) {
            volatile uint8_t *at = FUNCTIONS + done * SIZE;

            wrong_once += write_function(at, done * 31) != call(at, 0);
        }
        if (round % 7 == 6)
            write_step(round * 11 % STEPS, round * 7919);
        for (unsigned i = 0; i < 4; i++) { /* short ways first, so that steps are made one after the other */
            unsigned k = (round + i * 13) % STEPS, steps = 1 + (round + i) % (round < 64 ? 3 : 100);

            wrong_steps += call(PAGE + k * SIZE, steps) != sum(k, steps);
        }
    }
    check(!wrong_once, "%d functions that run once: %d wrong", done, wrong_once);
    check(!wrong_steps, "steps of a page, changed now and then: %d wrong", wrong_steps);
    return failures ? 0x20 : 0x10;
}
