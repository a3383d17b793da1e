/* The general path: one guest instruction in C, every mode. Light.
 *
 * Covers all integer, string, control-transfer and system instructions of 16, 32 and 64-bit code. For x87,
 * MMX, SSE, AVX and the like it returns STEP_UNKNOWN (nothing changed) and the translator runs them natively.
 */
#ifndef TRANSLATOR_INTERP_H
#define TRANSLATOR_INTERP_H

#include "engine/translator/mmu.h"

/* Executes the instruction at c->rip. Does not look at interrupts; leaves c->int_shadow for its caller to
 * clear: STI (IF 0 to 1) and MOV/POP SS set it to 1. A repeated string instruction does at most a bounded
 * amount of work, polls c->exit_request between chunks and returns STEP_AGAIN if not finished (registers are
 * updated, rip not moved). */
enum step interp_step(struct tcpu *c);

/* Linear address of [seg:off, size bytes). seg_check returns false without an exception; seg_linear notes
 * #GP(0) or, for the stack segment, #SS(0). acc: MMU_READ or MMU_WRITE. size 1 to 4096. */
bool seg_check(const struct tcpu *c, unsigned seg, uint64_t off, unsigned size, enum mmu_acc acc,
               uint64_t *lin);
bool seg_linear(struct tcpu *c, unsigned seg, uint64_t off, unsigned size, enum mmu_acc acc, uint64_t *lin);

/* Linear address of an operand that another will access: segment, limit, alignment and breakpoints are seen
 * to. False: an exception is pending. */
bool interp_operand(struct tcpu *c, unsigned seg, uint64_t off, unsigned size, bool write, uint64_t *lin);
/* AMD's look at x87 environments, 80-bit values and state areas in pieces (seen on Zen 4): only a piece that
 * lies across the end of what may be addressed is refused. How many of size bytes come before one that does:
 * at a linear address of 64-bit code (whose end is that of the lower canonical half; at is below it), or at
 * an offset in a segment of 4 GiB, behind which the next piece is at 0. */
unsigned whole_pieces(bool code64, uint64_t at, unsigned size, bool write);

#endif
