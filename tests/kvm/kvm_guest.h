/* A tiny guest on the KVM engine: RAM, one or more vCPUs with a thread each, and a log of what it told. */
#ifndef TESTS_KVM_GUEST_H
#define TESTS_KVM_GUEST_H

#include <pthread.h>

#include "engine/engine.h"
#include "long_guest.h"

#define GUEST_RAM 0x200000u
#define GUEST_CODE 0x80000u /* real mode: segment 0x8000; long mode: flat */
#define GUEST_AP 0x90000u   /* start of further vCPUs: SIPI vector 0x90 */
#define GUEST_STACK 0x70000u
#define GUEST_MMIO 0xd0000000u
#define GUEST_TELL 0xf4 /* port: a value for the log */
#define GUEST_END 0xf5  /* port: the writing vCPU is kicked out */
#define GUEST_LOG 512

struct guest;
struct guest_thread {
    struct guest *guest;
    unsigned cpu;
    pthread_t thread;
};

struct guest {
    const struct engine_ops *ops;
    struct engine_vm *vm;
    uint8_t *ram;
    struct long_guest lg;
    unsigned cpus;
    struct guest_thread threads[4];
    struct exit exits[4];
    struct yado_error errors[4];

    pthread_mutex_t lock;
    pthread_cond_t told_more;
    struct exit log[GUEST_LOG]; /* every access */
    unsigned log_count;
    unsigned eois[64], eoi_count;
    uint64_t read_value; /* what reads give */
    bool reads_count;    /* and one more each time; every third access is kicked from inside */
};

void guest_open(struct guest *g, unsigned cpus);
void guest_close(struct guest *g);
void guest_put(struct guest *g, uint32_t gpa, const void *bytes, size_t len);
/* vCPU 0 starts in real mode at GUEST_CODE with this code. */
void guest_real(struct guest *g, const uint8_t *code, size_t len);
/* The same in 64-bit mode, ring 0, RAM mapped one to one, also GUEST_MMIO and the local APIC's page. */
void guest_long(struct guest *g, const uint8_t *code, size_t len);

struct exit guest_run(struct guest *g);          /* vCPU 0, on this thread */
void guest_start(struct guest *g, unsigned cpu); /* in a thread, until its run() returns */
struct exit guest_join(struct guest *g, unsigned cpu);
/* Waits up to 10 s for n accesses (or EOIs) in the log. False: they did not come. */
bool guest_wait_log(struct guest *g, unsigned n);
bool guest_wait_eoi(struct guest *g, unsigned n);
/* The n-th value told at GUEST_TELL; ~0 if there is none. */
uint64_t guest_told(struct guest *g, unsigned n);
uint64_t guest_counter(struct guest *g, const char *name);

#endif
