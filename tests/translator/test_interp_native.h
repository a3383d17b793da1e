/* Runs one instruction on the host CPU in a small arena in the low 2 GiB, with every general register and the
 * status flags given, and tells what came out or how it faulted. 64-bit code, or 32-bit code in a
 * compatibility segment. One arena per process (it takes over SIGSEGV, SIGBUS, SIGFPE and SIGILL). */
#ifndef TEST_INTERP_NATIVE_H
#define TEST_INTERP_NATIVE_H

#include "util/base.h"

#define ARENA_CODE 0x1000u /* two pages: stubs, then the instruction */
#define ARENA_CODE_LEN 0x2000u
#define ARENA_DATA 0x4000u /* three pages, read and write */
#define ARENA_DATA_LEN 0x3000u
#define ARENA_RO 0x7000u  /* one page, read only */
#define ARENA_LEN 0x9000u /* pages 3 and 8: no access */

struct native_regs {
    uint64_t gpr[16];
    uint64_t flags;
};

/* First in the arena, reached from the stubs by RIP. */
struct native_ctx {
    struct native_regs in, out;
    uint64_t host_rsp;
    uint32_t taken; /* out: 1 fell through, 2 went to the branch target, 0 faulted */
    uint32_t pad;
    uint32_t far_off; /* far pointer to the instruction */
    uint16_t far_sel, pad2;
    /* fault, when vector is not -1 */
    int64_t vector;
    uint64_t error, cr2;
};

struct native {
    uint8_t *arena;
    struct native_ctx *ctx;
    uint32_t exit_at; /* arena offset of the way out */
};

#define NATIVE_TARGET_AFTER                                                                                  \
    15u /* the target stub's distance behind the end of the instruction, 64-bit code */
#define NATIVE_TARGET_BEFORE 40u /* ... and before its start */

bool native_open(struct native *n);
/* Leaves nothing where the next arena's instructions may reach: a stack pointer may point anywhere below 4
 * GiB. */
void native_close(struct native *n);
/* Puts code at arena offset `at` with landing places around it. */
void native_place(struct native *n, uint32_t at, const uint8_t *code, unsigned len, bool code32);
/* Runs it. ctx->in to ctx->out, taken, vector, error, cr2. */
void native_run(struct native *n, uint32_t at, bool code32);

#endif
