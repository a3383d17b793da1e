/* Pieces of one vCPU's dispatcher that stand in different files: vcpu.c (light), vcpu_heavy.c, fault_linux.c.
 */
#ifndef TRANSLATOR_VCPU_H
#define TRANSLATOR_VCPU_H

#include "engine/translator/cache.h"
#include "engine/translator/lapic.h"

/* Runs until run() must return to its caller. Light; the guest's vector state is in the registers. */
enum exit_kind vcpu_loop(struct tcpu *c);
enum exit_reason vcpu_run_block(struct tcpu *c, uint32_t mode);
enum exit_reason vcpu_single_step(struct tcpu *c);
uint32_t vcpu_mode(const struct tcpu *c);

/* light_host.c; called from light code, they bracket themselves. */
struct tb *vcpu_translate(struct tcpu *c, uint64_t gpage, uint64_t gpage2, uint32_t mode);
enum exit_reason vcpu_step_exclusive(struct tcpu *c); /* one instruction while everybody else stands still */
bool vcpu_vec_mem(struct tcpu *c);
/* Before a vector instruction that runs outside of flat code or while accesses are watched (native.c). False:
 * an exception is pending. */
bool vcpu_native_prepare(struct tcpu *c, unsigned *len);
uint64_t
vcpu_linear_ip(const struct tcpu *c); /* x87/SSE instruction of 16-bit or segmented code; false: #UD is due */

struct lapic_env vcpu_lapic_env(struct tcpu *c);

/* vcpu_heavy.c, inside the brackets */
uint8_t vcpu_acknowledge(struct tcpu *c); /* the vector of the 8259s' interrupt */
uint8_t heavy_acknowledge(struct tcpu *c);
void heavy_io(struct tcpu *c, bool port, bool write, uint64_t addr, unsigned width, uint64_t *value);
/* The block for the code at c->rip, in physical page gpage (gpage2: the next one, or ~0). */
struct tb *heavy_translate(struct tcpu *c, uint64_t gpage, uint64_t gpage2, uint32_t mode);

/* Looks at what the sampling timer noted since the last time. Whether blocks were made again. */
bool heavy_samples(struct tcpu *c);
void vcpu_samples(struct tcpu *c); /* light_host.c: from light code */

/* vec_mem.c: gathers and masked moves at c->rip; false: an exception is pending. Heavy */
bool heavy_vec_mem(struct tcpu *c);
bool heavy_native(struct tcpu *c, unsigned *len);

/* fault_linux.c */
bool fault_install(struct yado_error *err); /* process-wide handlers, chained; counted */
void fault_uninstall(void);
void fault_thread_begin(struct tcpu *c); /* this thread runs c: GS base, alternate stack, timer */
void fault_thread_end(struct tcpu *c);
void fault_timer_arm(struct tcpu *c, uint64_t delta_ns); /* light; ~0 disarms */

#endif
