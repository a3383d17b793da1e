/* The general path: one guest instruction in C, every mode. Light.
 *
 * Covers all integer, string, control-transfer and system instructions of 16, 32 and 64-bit code. For x87,
 * MMX, SSE, AVX and the like it returns STEP_UNKNOWN (nothing changed) and the translator runs them natively.
 */
#ifndef TRANSLATOR_INTERP_H
#define TRANSLATOR_INTERP_H

#include "engine/translator/cpu.h"

/* Executes the instruction at c->rip. Does not look at interrupts; leaves c->int_shadow for its caller to
 * clear: STI (IF 0 to 1) and MOV/POP SS set it to 1. A repeated string instruction does at most a bounded
 * amount of work, polls c->exit_request between chunks and returns STEP_AGAIN if not finished (registers are
 * updated, rip not moved). */
enum step interp_step(struct tcpu *c);

/* Linear address of an operand that another will access: segment, limit, alignment and breakpoints are seen
 * to. False: an exception is pending. */
bool interp_operand(struct tcpu *c, unsigned seg, uint64_t off, unsigned size, bool write, uint64_t *lin);

#endif
