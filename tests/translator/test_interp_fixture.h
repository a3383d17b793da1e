/* A vCPU before hand-made instructions, with memory in which one page is missing, one may only be read and
 * one takes no fast writes. */
#ifndef TEST_INTERP_FIXTURE_H
#define TEST_INTERP_FIXTURE_H

#include "test_interp_fake.h"

#define MEM_LEN 0x20000u
#define HOLE 0x1e000u    /* a page that is not there */
#define CAREFUL 0x1c000u /* a page that takes no fast writes */
#define READONLY 0x1d000u

struct fixture {
    struct tcpu *c;
    uint8_t mem[MEM_LEN];
};

int fix_setup(void **state);
int fix_teardown(void **state);

/* As new, in code of so many bits. */
struct fixture *fix(void **state, unsigned bits, uint8_t cpl);

enum step step_bytes(struct fixture *f, const void *code, unsigned len);
#define STEP(f, ...) step_bytes(f, (const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ }))

uint64_t peek(struct fixture *f, uint64_t lin, unsigned n);
void poke(struct fixture *f, uint64_t lin, uint64_t v, unsigned n);

/* The step faulted with this vector, left no trace, and the next case may start. */
void faulted(struct fixture *f, enum step s, unsigned vector, uint64_t rip);
#define FAULT(f, vector, ...)                                                                                \
    do {                                                                                                     \
        uint64_t rip_ = (f)->c->rip;                                                                         \
        enum step s_ = STEP(f, __VA_ARGS__);                                                                 \
        faulted(f, s_, vector, rip_);                                                                        \
    } while (0)

/* The system layer was called so. */
void called(struct fixture *f, const char *name, uint64_t a, uint64_t b, uint64_t c, uint64_t d);

#endif
