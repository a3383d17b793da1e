/* Stand-ins for the MMU, the system layer and the ports, for tests of the general path alone. */
#ifndef TEST_INTERP_FAKE_H
#define TEST_INTERP_FAKE_H

#include "engine/translator/interp.h"
#include "engine/translator/mmu.h"
#include "engine/translator/sys.h"

#define FAKE_R 1u
#define FAKE_W 2u
#define FAKE_X 4u

/* Linear memory [lin, lin + len) at host; rights as FAKE_*. A write of a careful region never goes through a
 * fast pointer, like a page that holds translated code. */
struct fake_region {
    uint64_t lin, len;
    uint8_t *host;
    unsigned rights;
    bool careful;
};

/* The last call of a sys_* function that leaves the general path. */
struct fake_call {
    const char *name;
    uint64_t arg[4];
};

struct tvm {
    struct fake_region region[8];
    unsigned regions;
    struct cpuid_model model;
    uint64_t rng;        /* drives slow_of_4 */
    unsigned slow_of_4;  /* so many of four mmu_fast_ptr calls say NULL */
    unsigned lost_races; /* so many mmu_cmpxchg calls find another value first */
    struct fake_call call;
    unsigned mode_changes;
    uint64_t cr[16], dr[8], msr_value;
    bool io_denied;
    uint8_t io_log[64]; /* bytes written to ports, in order */
    unsigned io_len;
    uint16_t io_port;
};

/* Zeroed vCPU on a zeroed machine. */
struct tcpu *fake_cpu_new(void);
void fake_cpu_free(struct tcpu *c);
void fake_map(struct tcpu *c, uint64_t lin, uint64_t len, void *host, unsigned rights, bool careful);
/* Flat 64-bit, flat 32-bit (bits 64, 32) at cpl, or real mode with zero bases (bits 16). */
void fake_mode(struct tcpu *c, unsigned bits, uint8_t cpl);
uint64_t fake_random(uint64_t *state);

#endif
