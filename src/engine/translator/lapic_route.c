/* Finding the local APICs that a message is for: MSIs from devices, IPIs from the guest. Any thread, no lock.
 * Sections are of Intel SDM volume 3 (2023-12). */
#include "engine/translator/lapic_priv.h"

#define MSI_ADDR 0xfee00000u

/* One message in the form that ICR and MSI share. */
struct message {
    struct lapic_dest to;
    uint8_t vector;
    uint8_t mode; /* enum lapic_mode */
    bool level;
    bool lowest; /* one of the addressed, the least busy */
};

static bool matches_logical(const struct lapic *l, uint32_t dest)
{
    uint32_t ldr = lapic_get(l, LR_LDR);

    if (lapic_is_x2apic(l)) /* 11.12.10.2: cluster and a bit each */
        return dest >> 16 == ldr >> 16 && (dest & ldr & 0xffff);
    if (dest > 0xff)
        return false;
    ldr >>= 24;
    if (lapic_get(l, LR_DFR) >> 28 == 0xf) /* 11.6.2.2: flat model */
        return (dest & ldr) != 0;
    return (dest >> 4 == ldr >> 4 || dest >> 4 == 0xf) && (dest & ldr & 0xf); /* cluster model */
}

bool lapic_matches(const struct lapic *l, const struct lapic_dest *d)
{
    if (!lapic_is_enabled(l))
        return false;
    if (d->broadcast)
        return true;
    if (d->logical)
        return matches_logical(l, d->dest);
    return lapic_is_x2apic(l) ? d->dest == l->id : d->dest == (l->id & 0xff); /* 11.6.2.1 */
}

static bool accepts_fixed(const struct lapic *l)
{
    return (lapic_get(l, LR_SVR) & LAPIC_SVR_ENABLE) != 0;
}

static void deliver(struct tcpu *c, const struct message *m)
{
    switch (m->mode) {
    case LM_FIXED:
    case LM_LOWEST: lapic_post(c->lapic, m->vector, m->level); break;
    case LM_NMI: cpu_request(c, XR_NMI); break;
    case LM_INIT: cpu_request(c, XR_INIT); break;
    case LM_SIPI:
        /* Pairs with the owner's read after it saw XR_SIPI. */
        __atomic_store_n(&c->sipi_vector, m->vector, __ATOMIC_RELEASE);
        cpu_request(c, XR_SIPI);
        break;
    default: break; /* SMI, ExtINT: nothing in this machine has a use for them */
    }
}

/* 11.6.2.4: the one with the lowest processor priority; among equals the vector decides, so that different
 * interrupts go to different vCPUs. */
static void deliver_lowest(struct tvm *vm, const struct message *m)
{
    unsigned count = tvm_vcpu_count(vm), ties = 0, nth;
    uint32_t lowest = ~0u;

    for (unsigned i = 0; i < count; i++) {
        const struct lapic *l = tvm_vcpu(vm, i)->lapic;
        uint32_t priority = lapic_get(l, LR_PPR) >> 4;

        if (!lapic_matches(l, &m->to) || !accepts_fixed(l) || priority > lowest)
            continue;
        ties = priority < lowest ? 1 : ties + 1;
        lowest = priority;
    }
    if (!ties)
        return;
    nth = m->vector % ties;
    for (unsigned i = 0; i < count; i++) {
        struct tcpu *c = tvm_vcpu(vm, i);

        /* A PPR may have changed since: then the last that can take it does. */
        if (!lapic_matches(c->lapic, &m->to) || !accepts_fixed(c->lapic))
            continue;
        if (lapic_get(c->lapic, LR_PPR) >> 4 == lowest && nth-- == 0) {
            deliver(c, m);
            return;
        }
    }
    for (unsigned i = 0; i < count; i++) {
        struct tcpu *c = tvm_vcpu(vm, i);

        if (lapic_matches(c->lapic, &m->to) && accepts_fixed(c->lapic)) {
            deliver(c, m);
            return;
        }
    }
}

/* skip: index of a vCPU that is left out, or -1 */
static void deliver_all(struct tvm *vm, const struct message *m, int skip)
{
    unsigned count = tvm_vcpu_count(vm);

    for (unsigned i = 0; i < count; i++) {
        struct tcpu *c = tvm_vcpu(vm, i);

        if ((int)i != skip && lapic_matches(c->lapic, &m->to))
            deliver(c, m);
    }
}

void lapic_route_msi(struct tvm *vm, uint64_t addr, uint32_t data) /* 11.11 */
{
    struct message m = {
        /* Bits 11:5 are the high part of the destination for guests with more than 255 APICs, as KVM defines.
         */
        .to = { .dest = (uint32_t)(addr >> 12 & 0xff) | (uint32_t)(addr >> 5 & 0x7f) << 8,
                .logical = (addr >> 2 & 1) != 0 },
        .vector = (uint8_t)data,
        .mode = data >> 8 & 7,
        .level = (data >> 15 & 1) != 0,
    };

    if ((addr & ~0xfffffull) != MSI_ADDR)
        return;
    if (m.mode == LM_SIPI || m.mode == LM_RESERVED)
        return; /* reserved in MSI data */
    m.to.broadcast = m.to.dest == 0xff;
    m.lowest = m.mode == LM_LOWEST || ((addr >> 3 & 1) && m.to.logical && m.mode == LM_FIXED);
    if (m.lowest)
        deliver_lowest(vm, &m);
    else
        deliver_all(vm, &m, -1);
}

void lapic_route_icr(struct tvm *vm, int source, uint64_t icr, bool x2apic) /* 11.6.1, 11.12.9 */
{
    unsigned shorthand = icr >> 18 & 3;
    bool trigger_level = (icr >> 15 & 1) != 0, asserted = (icr >> 14 & 1) != 0;
    struct message m = {
        .to = { .dest = x2apic ? (uint32_t)(icr >> 32) : (uint32_t)(icr >> 56),
                .logical = (icr >> 11 & 1) != 0 },
        .vector = (uint8_t)icr,
        .mode = icr >> 8 & 7,
        /* 11.6.1: the trigger mode of an IPI counts only for INIT level de-assert; all others are edges */
    };

    if (m.mode == LM_INIT && trigger_level && !asserted)
        return; /* INIT level de-assert: only set arbitration ids of old processors */
    m.to.broadcast = m.to.dest == (x2apic ? 0xffffffffu : 0xffu);
    m.lowest = m.mode == LM_LOWEST;
    if (shorthand == 1) {
        if (source >= 0 && m.mode == LM_FIXED)
            deliver(tvm_vcpu(vm, (unsigned)source), &m);
        return;
    }
    if (shorthand)
        m.to = (struct lapic_dest){ .broadcast = true };
    if (m.lowest)
        deliver_lowest(vm, &m);
    else
        deliver_all(vm, &m, shorthand == 3 ? source : -1);
}
