/* Local APIC of one vCPU: registers, priorities and timer. Sections are of Intel SDM volume 3 (2023-12).
 *
 * Theory of operation
 *
 * An interrupt vector makes three steps. Posting (any thread, lapic_post) sets a bit in one of two incoming
 * sets, edge or level, then the flag `came`, then asks the owner to look. Merging (owner) moves incoming bits
 * to IRR, and writes TMR. Taking (owner, lapic_ack) moves the highest one from IRR to ISR when it is above
 * the processor priority. EOI ends it. The incoming sets are apart for edge and level so that a second post
 * of a level vector can never meet a half-taken first one and lose its kind, which would lose its EOI
 * broadcast too.
 *
 * `best` holds the vector that lapic_pending would return. It is worked out again whenever IRR, ISR or TPR
 * change, so that lapic_pending costs two loads when nothing happened. When an act of the owner itself (EOI,
 * lower TPR, timer, IPI to itself) makes a vector deliverable, the owner is woken like by anyone else: it may
 * be in the middle of a translated block and has to poll.
 *
 * Registers are 32-bit atomics with relaxed order. Only the owner writes them. Others read base, LDR, DFR,
 * SVR and PPR to find out whether a message is for this APIC.
 *
 * The count-down timer runs at 1 GHz before the divider: one tick of divide-by-1 is one nanosecond, as under
 * KVM. It is not stored as a count but as the time when it ends and the length of a full count, so reading
 * the current count is a subtraction and a periodic timer does not drift. A deadline is a guest TSC value.
 * The host timer is only a hint to call lapic_timer_expired, which looks at the clock again; early, late or
 * lost calls do no harm but delay. A periodic timer that is late by several periods gives one interrupt, and
 * two host timers are at least PERIODIC_MIN_NS apart whatever the guest asks for.
 *
 * Not here, and told so by the version register: CMCI, suppressed EOI broadcast, extended LVT of AMD. SMI and
 * ExtINT messages are dropped: there is no SMM, and 8259s, where the board has them, are wired to LINT0.
 * LINT1, thermal and performance entries are registers without a source. */
#include "engine/translator/lapic_priv.h"

#define VERSION_VALUE 0x00050014u /* 6 LVT entries, integrated APIC; 11.4.8 */
#define PERIODIC_MIN_NS 50000u
#define ARM_MAX_NS 600000000000ull /* the host timer asks again after this */

#define ICR_BUSY (1u << 12)
#define ICR_LOW_VALID 0x000ccfffu   /* xAPIC; 11.6.1 */
#define X2_ICR_RESERVED 0xfff32000u /* 11.12.9 */

enum timer_mode { TIMER_ONE_SHOT, TIMER_PERIODIC, TIMER_DEADLINE, TIMER_RESERVED };

/* ---- priorities (11.8.3) ---- */

static int highest_bit(const struct lapic *l, unsigned base)
{
    for (int i = 7; i >= 0; i--) {
        uint32_t v = lapic_get(l, base + (unsigned)i);

        if (v)
            return i * 32 + 31 - __builtin_clz(v);
    }
    return -1;
}

static void set_bit(struct lapic *l, unsigned base, unsigned vector)
{
    lapic_put(l, base + vector / 32, lapic_get(l, base + vector / 32) | 1u << vector % 32);
}

static void clear_bit(struct lapic *l, unsigned base, unsigned vector)
{
    lapic_put(l, base + vector / 32, lapic_get(l, base + vector / 32) & ~(1u << vector % 32));
}

static bool test_bit(const struct lapic *l, unsigned base, unsigned vector)
{
    return (lapic_get(l, base + vector / 32) >> vector % 32) & 1;
}

/* PPR and the vector to deliver, from TPR, ISR and IRR. */
static void update_best(struct lapic *l)
{
    int in_service = highest_bit(l, LR_ISR), requested = highest_bit(l, LR_IRR);
    uint32_t tpr = lapic_get(l, LR_TPR), isr_class = in_service < 0 ? 0 : (uint32_t)in_service & 0xf0;
    uint32_t ppr = (tpr & 0xf0) >= isr_class ? tpr : isr_class;

    lapic_put(l, LR_PPR, ppr);
    l->best = -1;
    if (requested >= 0 && ((uint32_t)requested & 0xf0) > (ppr & 0xf0) && lapic_is_enabled(l))
        l->best = requested;
}

/* As update_best, and asks the owner to poll if there is something to deliver. */
static void update_and_wake(struct lapic *l)
{
    update_best(l);
    if (l->best >= 0)
        l->env.wake(l->env.ctx, XR_INTR);
}

/* ---- acceptance ---- */

void lapic_post(struct lapic *l, uint8_t vector, bool level)
{
    uint64_t bit = 1ull << vector % 64;

    /* 11.4.7.2: while disabled by software nothing but NMI, INIT, SMI and SIPI is accepted. */
    if (!lapic_is_enabled(l) || !(lapic_get(l, LR_SVR) & LAPIC_SVR_ENABLE))
        return;
    if (vector < 16) /* 11.5.2, 11.5.3 */
        atomic_fetch_or(&l->in_errors, LAPIC_ESR_RECV_VECTOR);
    else if (level)
        atomic_fetch_or(&l->in_level[vector / 64], bit);
    else
        atomic_fetch_or(&l->in_edge[vector / 64], bit);
    atomic_store(&l->came, 1);
    l->env.wake(l->env.ctx, XR_INTR);
}

/* Owner: an interrupt of this APIC's own. */
static void accept_own(struct lapic *l, unsigned vector)
{
    set_bit(l, LR_IRR, vector);
    clear_bit(l, LR_TMR, vector);
}

static void note_error(struct lapic *l, uint32_t bits)
{
    uint32_t lvt = lapic_get(l, LR_LVT_ERROR);
    unsigned vector = lvt & 0xff;

    l->esr_errors |= bits;
    if (lvt & LAPIC_LVT_MASKED)
        return;
    if (vector < 16)
        l->esr_errors |= LAPIC_ESR_RECV_VECTOR;
    else
        accept_own(l, vector);
}

void lapic_merge(struct lapic *l)
{
    uint32_t errors;

    atomic_store(&l->came, 0);
    for (unsigned i = 0; i < 4; i++) {
        uint64_t edge = atomic_load_explicit(&l->in_edge[i], memory_order_relaxed);
        uint64_t level = atomic_load_explicit(&l->in_level[i], memory_order_relaxed);

        if (!(edge | level))
            continue;
        edge = atomic_exchange(&l->in_edge[i], 0);
        level = atomic_exchange(&l->in_level[i], 0);
        for (unsigned half = 0; half < 2; half++, edge >>= 32, level >>= 32) {
            unsigned n = i * 2 + half;

            lapic_put(l, LR_IRR + n, lapic_get(l, LR_IRR + n) | (uint32_t)(edge | level));
            lapic_put(l, LR_TMR + n, (lapic_get(l, LR_TMR + n) & ~(uint32_t)edge) | (uint32_t)level);
        }
    }
    errors = atomic_exchange(&l->in_errors, 0);
    if (errors)
        note_error(l, errors);
    update_best(l);
}

int lapic_pending(struct lapic *l)
{
    if (unlikely(atomic_load_explicit(&l->came, memory_order_acquire)))
        lapic_merge(l);
    return l->best;
}

int lapic_ack(struct lapic *l)
{
    int vector = lapic_pending(l);

    if (vector < 0)
        return -1;
    clear_bit(l, LR_IRR, (unsigned)vector);
    set_bit(l, LR_ISR, (unsigned)vector);
    update_best(l);
    return vector;
}

/* 11.5.1: LINT0 as ExtINT hands the 8259s' interrupt through; with the APIC switched off the pin is the
 * processor's INTR (11.4.3). */
bool lapic_takes_extint(const struct lapic *l)
{
    uint32_t lint0 = lapic_get(l, LR_LVT_LINT0);

    if (!lapic_is_enabled(l))
        return lapic_base_get(l) & LAPIC_BASE_BSP;
    return !(lint0 & LAPIC_LVT_MASKED) && (lint0 >> 8 & 7) == LM_EXTINT;
}

void lapic_lint0_rise(struct lapic *l)
{
    uint32_t lint0 = lapic_get(l, LR_LVT_LINT0);

    if (lapic_takes_extint(l))
        l->env.wake(l->env.ctx, XR_INTR);
    else if (!lapic_is_enabled(l) || (lint0 & LAPIC_LVT_MASKED))
        return;
    else if ((lint0 >> 8 & 7) == LM_FIXED)
        lapic_post(l, (uint8_t)lint0, (lint0 & 0x8000) != 0);
    else if ((lint0 >> 8 & 7) == LM_NMI)
        l->env.wake(l->env.ctx, XR_NMI);
}

/* 11.8.5 */
static void end_of_interrupt(struct lapic *l)
{
    int vector;

    if (atomic_load_explicit(&l->came, memory_order_acquire))
        lapic_merge(l);
    vector = highest_bit(l, LR_ISR);
    if (vector < 0)
        return;
    clear_bit(l, LR_ISR, (unsigned)vector);
    if (test_bit(l, LR_TMR, (unsigned)vector))
        l->env.eoi(l->env.ctx, (unsigned)vector);
    update_and_wake(l);
}

uint8_t lapic_cr8(const struct lapic *l)
{
    return (uint8_t)(lapic_get(l, LR_TPR) >> 4 & 0xf);
}

void lapic_set_cr8(struct lapic *l, uint8_t v) /* 11.8.6 */
{
    lapic_put(l, LR_TPR, (uint32_t)(v & 0xf) << 4);
    update_and_wake(l);
}

/* ---- timer (11.5.4) ---- */

static enum timer_mode timer_mode(const struct lapic *l)
{
    return (enum timer_mode)(lapic_get(l, LR_LVT_TIMER) >> 17 & 3);
}

/* log2 of the divider */
static unsigned timer_shift(const struct lapic *l)
{
    uint32_t d = lapic_get(l, LR_TIMER_DIV);

    return (((d & 3) | (d >> 1 & 4)) + 1) & 7;
}

uint32_t lapic_timer_count(const struct lapic *l)
{
    uint64_t now, left;

    if (!l->timer_period_ns || timer_mode(l) >= TIMER_DEADLINE)
        return 0;
    now = l->env.now_ns(l->env.ctx);
    if (now < l->timer_due_ns) {
        left = l->timer_due_ns - now;
    } else {
        if (timer_mode(l) == TIMER_ONE_SHOT)
            return 0;
        left = l->timer_period_ns - (now - l->timer_due_ns) % l->timer_period_ns;
    }
    /* A tick counts until it is over. */
    return (uint32_t)((left + (1ull << timer_shift(l)) - 1) >> timer_shift(l));
}

static void timer_fire(struct lapic *l)
{
    uint32_t lvt = lapic_get(l, LR_LVT_TIMER);

    if (lvt & LAPIC_LVT_MASKED)
        return;
    if ((lvt & 0xff) < 16)
        note_error(l, LAPIC_ESR_RECV_VECTOR);
    else
        accept_own(l, lvt & 0xff);
    update_and_wake(l);
}

/* Gives the interrupts that are due. */
static void timer_check(struct lapic *l)
{
    enum timer_mode mode = timer_mode(l);
    uint64_t now;

    if (mode == TIMER_DEADLINE) {
        if (l->tsc_deadline && l->env.guest_tsc(l->env.ctx) >= l->tsc_deadline) {
            l->tsc_deadline = 0;
            timer_fire(l);
        }
        return;
    }
    if (!l->timer_period_ns || mode == TIMER_RESERVED)
        return;
    now = l->env.now_ns(l->env.ctx);
    if (now < l->timer_due_ns)
        return;
    if (mode == TIMER_ONE_SHOT) {
        l->timer_period_ns = 0;
    } else {
        l->timer_due_ns += ((now - l->timer_due_ns) / l->timer_period_ns + 1) * l->timer_period_ns;
        l->timer_last_ns = now;
    }
    timer_fire(l);
}

static uint64_t deadline_left_ns(const struct lapic *l)
{
    uint64_t tsc = l->env.guest_tsc(l->env.ctx), left;

    if (tsc >= l->tsc_deadline)
        return 0;
    left = l->tsc_deadline - tsc;
    if (left / l->env.tsc_khz > ARM_MAX_NS / 1000000)
        return ARM_MAX_NS;
    return left * 1000000 / l->env.tsc_khz + 1; /* fits: under 600 s at 10 GHz */
}

uint64_t lapic_next_timer_ns(struct lapic *l)
{
    enum timer_mode mode = timer_mode(l);
    uint64_t now, due;

    if (lapic_get(l, LR_LVT_TIMER) & LAPIC_LVT_MASKED || !lapic_is_enabled(l))
        return ~0ull;
    if (mode == TIMER_DEADLINE)
        return l->tsc_deadline ? deadline_left_ns(l) : ~0ull;
    if (mode == TIMER_RESERVED || !l->timer_period_ns)
        return ~0ull;
    now = l->env.now_ns(l->env.ctx);
    due = l->timer_due_ns;
    if (mode == TIMER_PERIODIC && l->timer_last_ns)
        due = max_u64(due, l->timer_last_ns + PERIODIC_MIN_NS);
    return due > now ? min_u64(due - now, ARM_MAX_NS) : 0;
}

void lapic_timer_rearm(struct lapic *l)
{
    uint64_t delta = lapic_next_timer_ns(l);

    if (delta == ~0ull && !l->armed)
        return;
    l->armed = delta != ~0ull;
    l->env.arm(l->env.ctx, delta);
}

void lapic_timer_expired(struct lapic *l)
{
    l->armed = false;
    timer_check(l);
    lapic_timer_rearm(l);
}

static void timer_start(struct lapic *l, uint32_t count)
{
    if (timer_mode(l) == TIMER_DEADLINE)
        return; /* 11.5.4.1: the initial count is of no effect */
    lapic_put(l, LR_TIMER_INIT, count);
    l->timer_period_ns = (uint64_t)count << timer_shift(l);
    l->timer_due_ns = l->env.now_ns(l->env.ctx) + l->timer_period_ns;
    l->timer_last_ns = 0;
    lapic_timer_rearm(l);
}

/* A running count goes on from where it is, at the new speed. */
static void timer_set_divider(struct lapic *l, uint32_t v)
{
    uint32_t count;

    timer_check(l);
    count = lapic_timer_count(l);
    lapic_put(l, LR_TIMER_DIV, v & 0xb);
    if (!l->timer_period_ns)
        return;
    l->timer_period_ns = (uint64_t)lapic_get(l, LR_TIMER_INIT) << timer_shift(l);
    l->timer_due_ns = l->env.now_ns(l->env.ctx) + ((uint64_t)count << timer_shift(l));
    lapic_timer_rearm(l);
}

uint64_t lapic_tsc_deadline(const struct lapic *l)
{
    return timer_mode(l) == TIMER_DEADLINE ? l->tsc_deadline : 0;
}

void lapic_set_tsc_deadline(struct lapic *l, uint64_t v)
{
    if (timer_mode(l) != TIMER_DEADLINE)
        return;
    l->tsc_deadline = v;
    timer_check(l); /* in the past: due at once, no need of a host timer */
    lapic_timer_rearm(l);
}

static void timer_write_lvt(struct lapic *l, uint32_t v)
{
    enum timer_mode old = timer_mode(l);

    timer_check(l); /* what came due before is judged by the old entry */
    lapic_put(l, LR_LVT_TIMER, v);
    /* 11.5.4.1: going to or from deadline mode disarms the timer. */
    if ((old == TIMER_DEADLINE) != (timer_mode(l) == TIMER_DEADLINE)) {
        l->tsc_deadline = 0;
        l->timer_period_ns = 0;
        lapic_put(l, LR_TIMER_INIT, 0);
    }
    lapic_timer_rearm(l);
}

/* ---- registers ---- */

/* Bits of the LVT entries that can be written, from LR_LVT_TIMER on. 11.5.1, figure 11-8. */
static uint32_t lvt_writable(unsigned reg)
{
    switch (reg) {
    case LR_LVT_TIMER: return 0x000700ff;
    case LR_LVT_THERMAL:
    case LR_LVT_PERF: return 0x000107ff;
    case LR_LVT_LINT0:
    case LR_LVT_LINT1: return 0x0001a7ff;
    default: return 0x000100ff; /* error */
    }
}

static void write_lvt(struct lapic *l, unsigned reg, uint32_t v)
{
    v &= lvt_writable(reg);
    if (!(lapic_get(l, LR_SVR) & LAPIC_SVR_ENABLE))
        v |= LAPIC_LVT_MASKED; /* 11.4.7.2 */
    if (reg == LR_LVT_TIMER)
        timer_write_lvt(l, v);
    else
        lapic_put(l, reg, v);
    if (reg == LR_LVT_LINT0) /* its input may be active */
        l->env.wake(l->env.ctx, XR_INTR);
}

static void write_svr(struct lapic *l, uint32_t v) /* 11.9 */
{
    lapic_put(l, LR_SVR, v & 0x3ff);
    if (v & LAPIC_SVR_ENABLE)
        return;
    for (unsigned reg = LR_LVT_TIMER; reg <= LR_LVT_ERROR; reg++)
        write_lvt(l, reg, lapic_get(l, reg));
}

/* 11.6.1. `icr` has the destination where the mode puts it: bits 63:56 or 63:32. */
static void send_ipi(struct lapic *l, uint64_t icr)
{
    unsigned mode = icr >> 8 & 7, shorthand = icr >> 18 & 3, vector = icr & 0xff;

    if ((mode == LM_FIXED || mode == LM_LOWEST) && vector < 16) {
        note_error(l, LAPIC_ESR_SEND_VECTOR);
        update_and_wake(l);
        return;
    }
    if (shorthand == 1) { /* self: fixed delivery only, table 11-3 */
        if (mode == LM_FIXED)
            lapic_post(l, (uint8_t)vector, false);
        return;
    }
    l->env.ipi(l->env.ctx, icr);
}

static void write_esr(struct lapic *l) /* 11.5.3: a write shows what was collected, and collects anew */
{
    lapic_put(l, LR_ESR, l->esr_errors);
    l->esr_errors = 0;
}

/* The writes that xAPIC and x2APIC have in common. False: no such register to write. */
static bool write_common(struct lapic *l, unsigned reg, uint32_t v)
{
    switch (reg) {
    case LR_TPR:
        lapic_put(l, LR_TPR, v & 0xff);
        update_and_wake(l);
        return true;
    case LR_EOI: end_of_interrupt(l); return true;
    case LR_SVR: write_svr(l, v); return true;
    case LR_ESR: write_esr(l); return true;
    case LR_LVT_TIMER:
    case LR_LVT_THERMAL:
    case LR_LVT_PERF:
    case LR_LVT_LINT0:
    case LR_LVT_LINT1:
    case LR_LVT_ERROR: write_lvt(l, reg, v); return true;
    case LR_TIMER_INIT:
        timer_check(l); /* a count that ran out before this write has its interrupt */
        timer_start(l, v);
        return true;
    case LR_TIMER_DIV: timer_set_divider(l, v); return true;
    default: return false;
    }
}

static bool is_readable(unsigned reg)
{
    switch (reg) {
    case LR_ID:
    case LR_VERSION:
    case LR_TPR:
    case LR_PPR:
    case LR_LDR:
    case LR_SVR:
    case LR_ESR:
    case LR_ICR:
    case LR_TIMER_INIT:
    case LR_TIMER_COUNT:
    case LR_TIMER_DIV: return true;
    default: return (reg >= LR_ISR && reg < LR_ESR) || (reg >= LR_LVT_TIMER && reg <= LR_LVT_ERROR);
    }
}

static uint32_t read_common(struct lapic *l, unsigned reg)
{
    if (atomic_load_explicit(&l->came, memory_order_acquire))
        lapic_merge(l);
    return reg == LR_TIMER_COUNT ? lapic_timer_count(l) : lapic_get(l, reg);
}

uint32_t lapic_mmio_read(struct lapic *l, unsigned off)
{
    unsigned reg = off >> 4;

    if (!lapic_is_enabled(l) || lapic_is_x2apic(l) || reg >= LR_COUNT)
        return 0xffffffff;
    if (off & 0xf)
        return 0; /* 11.4.1: undefined */
    if (!is_readable(reg) && reg != LR_APR && reg != LR_DFR && reg != LR_ICR2 && reg != LR_RRD &&
        reg != LR_EOI) {
        note_error(l, LAPIC_ESR_REGISTER);
        update_and_wake(l);
        return 0;
    }
    return read_common(l, reg);
}

void lapic_mmio_write(struct lapic *l, unsigned off, uint32_t v)
{
    unsigned reg = off >> 4;

    if (!lapic_is_enabled(l) || lapic_is_x2apic(l) || reg >= LR_COUNT || (off & 0xf))
        return;
    if (write_common(l, reg, v))
        return;
    switch (reg) {
    case LR_LDR: lapic_put(l, LR_LDR, v & 0xff000000); break;
    case LR_DFR: lapic_put(l, LR_DFR, v | 0x0fffffff); break;
    case LR_ICR2: lapic_put(l, LR_ICR2, v & 0xff000000); break;
    case LR_ICR:
        lapic_put(l, LR_ICR, v & ICR_LOW_VALID & ~ICR_BUSY);
        send_ipi(l, (uint64_t)lapic_get(l, LR_ICR2) << 32 | lapic_get(l, LR_ICR));
        break;
    default:
        if (is_readable(reg))
            break; /* read only: nothing happens */
        note_error(l, LAPIC_ESR_REGISTER);
        update_and_wake(l);
    }
}

bool lapic_msr_read(struct lapic *l, uint32_t msr, uint64_t *v) /* 11.12.1.3, table 11-6 */
{
    unsigned reg = msr - MSR_X2APIC_BASE;

    if (!lapic_is_x2apic(l) || reg >= LR_COUNT || !is_readable(reg))
        return false;
    *v = reg == LR_ICR ? (uint64_t)lapic_get(l, LR_ICR2) << 32 | lapic_get(l, LR_ICR) : read_common(l, reg);
    return true;
}

/* Bits that must be zero in a write to an x2APIC register, or ~0 for those that cannot be written. */
static uint64_t x2_reserved(unsigned reg)
{
    switch (reg) {
    case LR_TPR:
    case LR_SELF_IPI: return ~0xffull;
    case LR_SVR: return ~0x3ffull; /* bit 9, focus checking, is let through as older software sets it */
    case LR_EOI:
    case LR_ESR: return ~0ull;
    case LR_ICR: return X2_ICR_RESERVED;
    case LR_TIMER_INIT: return ~0xffffffffull;
    case LR_TIMER_DIV: return ~0xbull;
    default: return ~(uint64_t)(lvt_writable(reg) | 0x5000); /* delivery status and remote IRR: read only */
    }
}

bool lapic_msr_write(struct lapic *l, uint32_t msr, uint64_t v)
{
    unsigned reg = msr - MSR_X2APIC_BASE;
    bool known = reg == LR_TPR || reg == LR_SVR || reg == LR_EOI || reg == LR_ESR || reg == LR_ICR ||
                 reg == LR_SELF_IPI || reg == LR_TIMER_INIT || reg == LR_TIMER_DIV ||
                 (reg >= LR_LVT_TIMER && reg <= LR_LVT_ERROR);

    if (!lapic_is_x2apic(l) || !known || (v & x2_reserved(reg)))
        return false;
    if (reg == LR_ICR) {
        lapic_put(l, LR_ICR, (uint32_t)v & ~ICR_BUSY);
        lapic_put(l, LR_ICR2, (uint32_t)(v >> 32));
        send_ipi(l, v & ~(uint64_t)ICR_BUSY);
        return true;
    }
    if (reg == LR_SELF_IPI) { /* 11.12.11 */
        send_ipi(l, v | 1u << 18);
        return true;
    }
    return write_common(l, reg, (uint32_t)v);
}

/* ---- modes and reset ---- */

/* What the mode and the id fix: 11.12.5.1 and, for LDR, 11.12.10.2. */
static void set_id_registers(struct lapic *l)
{
    if (lapic_is_x2apic(l)) {
        lapic_put(l, LR_ID, l->id);
        lapic_put(l, LR_LDR, (l->id >> 4) << 16 | 1u << (l->id & 15));
    } else {
        lapic_put(l, LR_ID, l->id << 24);
        lapic_put(l, LR_LDR, 0);
    }
}

void lapic_reset_registers(struct lapic *l) /* 11.4.7.1 */
{
    atomic_store(&l->came, 0);
    for (unsigned i = 0; i < 4; i++) {
        atomic_store(&l->in_edge[i], 0);
        atomic_store(&l->in_level[i], 0);
    }
    atomic_store(&l->in_errors, 0);
    for (unsigned i = 0; i < LR_COUNT; i++)
        lapic_put(l, i, 0);
    lapic_put(l, LR_VERSION, VERSION_VALUE);
    lapic_put(l, LR_DFR, 0xffffffff);
    lapic_put(l, LR_SVR, 0xff);
    for (unsigned reg = LR_LVT_TIMER; reg <= LR_LVT_ERROR; reg++)
        lapic_put(l, reg, LAPIC_LVT_MASKED);
    set_id_registers(l);
    l->esr_errors = 0;
    l->tsc_deadline = 0;
    l->timer_period_ns = 0;
    l->timer_last_ns = 0;
    update_best(l);
    lapic_timer_rearm(l);
}

void lapic_reset(struct lapic *l, bool keep_id_and_base)
{
    if (!keep_id_and_base)
        atomic_store(&l->base, LAPIC_BASE_DEFAULT | LAPIC_BASE_EN | (l->id ? 0 : LAPIC_BASE_BSP));
    lapic_reset_registers(l);
}

uint64_t lapic_base(const struct lapic *l)
{
    return lapic_base_get(l);
}

bool lapic_set_base(struct lapic *l, uint64_t v) /* 11.4.3, 11.4.4, 11.12.5 */
{
    const uint64_t mode = LAPIC_BASE_EN | LAPIC_BASE_EXTD;
    uint64_t old = lapic_base_get(l) & mode, new = v &mode;

    if (v & ~(LAPIC_BASE_ADDR | mode | LAPIC_BASE_BSP))
        return false;
    if (new == LAPIC_BASE_EXTD)
        return false; /* no such state */
    if ((old == mode && new == LAPIC_BASE_EN) || (!old && new == mode))
        return false; /* from x2APIC only to disabled, from disabled only to xAPIC */
    atomic_store(&l->base, v);
    if (old == new)
        return true;
    if (!new) {
        lapic_reset_registers(l); /* 11.4.3: a disabled APIC comes back as after power-on */
        return true;
    }
    set_id_registers(l);
    lapic_put(l, LR_ICR2, 0); /* 11.12.5.1: not preserved */
    update_and_wake(l);
    return true;
}
