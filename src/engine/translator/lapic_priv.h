/* Insides of the local APIC, shared by lapic.c, lapic_route.c, lapic_setup.c and their test. Light. */
#ifndef TRANSLATOR_LAPIC_PRIV_H
#define TRANSLATOR_LAPIC_PRIV_H

#include "engine/translator/lapic.h"

/* Register numbers: page offset / 0x10, which is the x2APIC MSR number - 0x800 too. SDM 11.4.1, table 11-1.
 */
enum lapic_reg {
    LR_ID = 0x02,
    LR_VERSION = 0x03,
    LR_TPR = 0x08,
    LR_APR = 0x09,
    LR_PPR = 0x0a,
    LR_EOI = 0x0b,
    LR_RRD = 0x0c,
    LR_LDR = 0x0d,
    LR_DFR = 0x0e,
    LR_SVR = 0x0f,
    LR_ISR = 0x10, /* 8 registers each */
    LR_TMR = 0x18,
    LR_IRR = 0x20,
    LR_ESR = 0x28,
    LR_CMCI = 0x2f,
    LR_ICR = 0x30,
    LR_ICR2 = 0x31,
    LR_LVT_TIMER = 0x32,
    LR_LVT_THERMAL = 0x33,
    LR_LVT_PERF = 0x34,
    LR_LVT_LINT0 = 0x35,
    LR_LVT_LINT1 = 0x36,
    LR_LVT_ERROR = 0x37,
    LR_TIMER_INIT = 0x38,
    LR_TIMER_COUNT = 0x39,
    LR_TIMER_DIV = 0x3e,
    LR_SELF_IPI = 0x3f,
    LR_COUNT = 0x40,
};

#define LAPIC_BASE_BSP (1u << 8)
#define LAPIC_BASE_EXTD (1u << 10)
#define LAPIC_BASE_EN (1u << 11)
#define LAPIC_BASE_ADDR 0xffffffffff000ull /* bits 12 to 51 */
#define LAPIC_BASE_DEFAULT 0xfee00000u

#define LAPIC_SVR_ENABLE (1u << 8)
#define LAPIC_LVT_MASKED (1u << 16)

#define LAPIC_ESR_SEND_VECTOR (1u << 5)
#define LAPIC_ESR_RECV_VECTOR (1u << 6)
#define LAPIC_ESR_REGISTER (1u << 7)

/* Delivery modes of ICR, MSI data and LVT entries. SDM 11.6.1. */
enum lapic_mode { LM_FIXED, LM_LOWEST, LM_SMI, LM_RESERVED, LM_NMI, LM_INIT, LM_SIPI, LM_EXTINT };

struct lapic {
    /* Written by the owner, read by any thread that routes an interrupt. No ordering is needed: a guest that
     * changes its APIC while interrupts are under way gets either the old or the new behaviour. */
    _Atomic uint64_t base;
    _Atomic uint32_t regs[LR_COUNT];
    uint32_t id; /* x2APIC id, fixed */

    /* Owner only. */
    int best;            /* highest vector above PPR, -1: none; current when nothing is incoming */
    uint32_t esr_errors; /* collected since the last write to ESR */
    uint64_t tsc_deadline;
    uint64_t timer_due_ns, timer_period_ns; /* count-down timer; period 0: stopped */
    uint64_t timer_last_ns; /* last expiry of the periodic timer: the next host timer keeps a distance */
    bool armed;             /* env.arm was last called with a real delay */
    struct lapic_env env;

    /* Posted by any thread, taken by the owner. `came` is stored after the bits and cleared before they are
     * taken, so a set bit is never left with `came` clear. */
    _Alignas(64) _Atomic uint32_t came;
    _Atomic uint32_t in_errors;
    _Atomic uint64_t in_edge[4], in_level[4];
};

static inline uint32_t lapic_get(const struct lapic *l, unsigned reg)
{
    return atomic_load_explicit(&l->regs[reg], memory_order_relaxed);
}
static inline void lapic_put(struct lapic *l, unsigned reg, uint32_t v)
{
    atomic_store_explicit(&l->regs[reg], v, memory_order_relaxed);
}
static inline uint64_t lapic_base_get(const struct lapic *l)
{
    return atomic_load_explicit(&l->base, memory_order_relaxed);
}
static inline bool lapic_is_enabled(const struct lapic *l)
{
    return (lapic_base_get(l) & LAPIC_BASE_EN) != 0;
}
static inline bool lapic_is_x2apic(const struct lapic *l)
{
    return (lapic_base_get(l) & LAPIC_BASE_EXTD) != 0;
}

/* Where an interrupt goes: an ICR or an MSI in one form. */
struct lapic_dest {
    uint32_t dest;
    bool logical;
    bool broadcast; /* all ones in the sender's form */
};
/* Whether the APIC is addressed (SDM 11.6.2, 11.12.10). Any thread. */
bool lapic_matches(const struct lapic *l, const struct lapic_dest *d);

/* Owner: takes what other threads posted into IRR, TMR and ESR, and works out `best` again. */
void lapic_merge(struct lapic *l);
/* Owner: sets the host timer as the registers say. */
void lapic_timer_rearm(struct lapic *l);
/* Current count of the count-down timer. */
uint32_t lapic_timer_count(const struct lapic *l);
/* Owner: all registers but id, base and what follows from them. */
void lapic_reset_registers(struct lapic *l);

#endif
