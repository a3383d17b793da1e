/* Making, saving and loading a local APIC: the parts that are not called from translated code. */
#include <stdlib.h>

#include "engine/translator/lapic_priv.h"

struct lapic *lapic_new(uint32_t apic_id, const struct lapic_env *env)
{
    struct lapic *l = aligned_alloc(_Alignof(struct lapic), sizeof(*l));

    if (!l)
        return NULL;
    *l = (struct lapic){ .id = apic_id, .best = -1, .env = *env };
    lapic_reset(l, false);
    return l;
}

void lapic_free(struct lapic *l)
{
    free(l);
}

void lapic_save(struct lapic *l, struct x86_lapic_state *out)
{
    lapic_timer_expired(l);
    lapic_merge(l);
    *out = (struct x86_lapic_state){
        .apic_base = lapic_base_get(l),
        .tsc_deadline = l->tsc_deadline,
        .timer_start_ns = l->timer_due_ns - l->timer_period_ns,
        .timer_period_ns = l->timer_period_ns,
    };
    for (unsigned i = 0; i < LR_COUNT; i++)
        out->regs[i] = lapic_get(l, i);
    out->regs[LR_TIMER_COUNT] = lapic_timer_count(l);
}

void lapic_load(struct lapic *l, const struct x86_lapic_state *in)
{
    atomic_store(&l->base, in->apic_base);
    for (unsigned i = 0; i < LR_COUNT; i++)
        lapic_put(l, i, in->regs[i]);
    for (unsigned i = 0; i < 4; i++) {
        atomic_store(&l->in_edge[i], 0);
        atomic_store(&l->in_level[i], 0);
    }
    atomic_store(&l->in_errors, 0);
    l->esr_errors = 0;
    l->tsc_deadline = in->tsc_deadline;
    l->timer_period_ns = in->timer_period_ns;
    l->timer_due_ns = in->timer_start_ns + in->timer_period_ns;
    l->timer_last_ns = 0;
    atomic_store(&l->came, 1);
    lapic_merge(l);
    if (l->best >= 0)
        l->env.wake(l->env.ctx, XR_INTR);
    lapic_timer_rearm(l);
}
