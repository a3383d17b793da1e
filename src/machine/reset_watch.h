/* Tells a guest's reboot from its crash. Theory of operation in reset_watch.c. */
#ifndef MACHINE_RESET_WATCH_H
#define MACHINE_RESET_WATCH_H

#include <stdatomic.h>

#include "bus/region.h"
#include "chip/ioapic.h"

struct reset_watch {
    struct ioapic *ioapic;
    _Atomic uint32_t selected; /* the I/O APIC's register select, as the guest wrote it */
    _Atomic bool unmasked;     /* the guest has opened a pin since the last reset */
};

/* Stands where the I/O APIC does and passes everything on. ctx: struct reset_watch *. Memory,
 * IOAPIC_REGION_LEN */
extern const struct region_ops reset_watch_ops;

void reset_watch_init(struct reset_watch *w, struct ioapic *ioapic);
void reset_watch_reset(struct reset_watch *w);

/* Whether the guest, which has just asked for a reset, shut its interrupts down before. No vCPU runs. Changes
 * the I/O APIC's register select, so a reset must follow. */
bool reset_watch_orderly(struct reset_watch *w);

#endif
