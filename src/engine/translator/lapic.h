/* Local APIC of one vCPU: xAPIC at its memory page and x2APIC by MSR, with timer (one shot, periodic, TSC
 * deadline). Intel SDM volume 3 (2023-12) chapter 11.
 *
 * Locking: vectors arrive from any thread by atomic bits (an incoming set per APIC that the owner merges), so
 * sending an interrupt takes no lock. Everything else is for the owning vCPU's thread. All light. */
#ifndef TRANSLATOR_LAPIC_H
#define TRANSLATOR_LAPIC_H

#include "engine/translator/cpu.h"

/* Calls that the APIC makes; a table so that tests can stand in. */
struct lapic_env {
    void *ctx;
    uint64_t (*now_ns)(void *ctx); /* count-down timer's clock */
    uint64_t (*guest_tsc)(void *ctx);
    void (*arm)(void *ctx,
                uint64_t delta_ns);       /* host timer: call lapic_timer_expired after delta; ~0 disarms */
    void (*wake)(void *ctx, uint32_t xr); /* any thread: cpu_request on the owner */
    void (*eoi)(void *ctx, unsigned vector); /* level-triggered EOI broadcast */
    /* Sends an IPI that the guest wrote to ICR to the other APICs (lapic_route). */
    void (*ipi)(void *ctx, uint64_t icr);
    uint64_t tsc_khz;
};

struct lapic *lapic_new(uint32_t apic_id, const struct lapic_env *env);
void lapic_free(struct lapic *l);
void lapic_reset(struct lapic *l, bool keep_id_and_base); /* power-on or INIT */

/* Register access, offset in the 4 KiB page (32-bit, aligned) or MSR number 0x800 up. False: #GP is due (MSR)
 */
uint32_t lapic_mmio_read(struct lapic *l, unsigned off);
void lapic_mmio_write(struct lapic *l, unsigned off, uint32_t v);
bool lapic_msr_read(struct lapic *l, uint32_t msr, uint64_t *v);
bool lapic_msr_write(struct lapic *l, uint32_t msr, uint64_t v);
uint64_t lapic_base(const struct lapic *l);       /* MSR_APIC_BASE */
bool lapic_set_base(struct lapic *l, uint64_t v); /* false: #GP */
uint64_t lapic_tsc_deadline(const struct lapic *l);
void lapic_set_tsc_deadline(struct lapic *l, uint64_t v);
uint8_t lapic_cr8(const struct lapic *l);
void lapic_set_cr8(struct lapic *l, uint8_t v);

/* Any thread: vector becomes pending (fixed delivery). */
void lapic_post(struct lapic *l, uint8_t vector, bool level);

/* Owner: highest deliverable vector (above PPR), or -1. lapic_ack takes it (IRR to ISR) and returns it. */
int lapic_pending(struct lapic *l);
int lapic_ack(struct lapic *l);
/* Whether an interrupt of the board's 8259s is for this processor. Any thread. */
bool lapic_takes_extint(const struct lapic *l);
void lapic_lint0_rise(struct lapic *l);        /* any thread: the 8259s' output rose */
void lapic_timer_expired(struct lapic *l);     /* owner: check the timer and post its vector if due; rearm */
uint64_t lapic_next_timer_ns(struct lapic *l); /* owner: ns until the timer is due, ~0 if none (for HLT) */

/* KVM PV EOI: guest physical address of the flag word, 0 off. The owner sets the flag at ack when no other
 * interrupt is pending or in service and looks at it before each decision. `word` reads/writes guest memory
 * through env.ctx. */

/* Any thread. Interprets an MSI (Intel SDM 11.11) or an ICR value and delivers to every matching APIC of the
 * VM. `source` is the index of the sending vCPU or -1. */
void lapic_route_msi(struct tvm *vm, uint64_t addr, uint32_t data);
void lapic_route_icr(struct tvm *vm, int source, uint64_t icr, bool x2apic);

void lapic_save(struct lapic *l, struct x86_lapic_state *out);
void lapic_load(struct lapic *l, const struct x86_lapic_state *in);

#endif
