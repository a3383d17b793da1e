/* I/O APIC with 24 pins. It turns pins into interrupt messages, so it needs no knowledge of the local APICs.
 * Source: Intel 82093AA data sheet (1996), section 3; version 0x20 with its EOI register as in the Intel 500
 * Series PCH data sheet, volume 2, "I/O APIC". Message format: Intel SDM (2023-12) volume 3, 11.11. */
#ifndef CHIP_IOAPIC_H
#define CHIP_IOAPIC_H

#include "bus/line.h"
#include "bus/region.h"

#define IOAPIC_PINS 24
#define IOAPIC_REGION_LEN 0x1000 /* bytes of memory space */

struct ioapic;

struct ioapic_config {
    struct msi_sink
        msi;    /* called with no chip lock held, from whichever thread moved a pin or wrote a register */
    uint8_t id; /* value of the ID register after reset, 0 .. 15 */
};

struct ioapic *ioapic_new(const struct ioapic_config *cfg, struct yado_error *err); /* reset already done */
void ioapic_free(struct ioapic *io);                                                /* NULL is fine */
void ioapic_reset(struct ioapic *io); /* all pins masked; pin levels are kept: they belong to the devices */

/* The line of pin (0 .. IOAPIC_PINS - 1). A line carries "asserted": true is the active level, whatever
 * polarity the redirection entry states. Several sources must not share the value; join them before. Any
 * thread. */
struct line ioapic_line(struct ioapic *io, unsigned pin);

/* A processor ended level-triggered interrupt `vector`: remote IRR of the matching pins falls, and pins that
 * are still asserted send again. Any thread. */
void ioapic_eoi(struct ioapic *io, unsigned vector);

extern const struct region_ops ioapic_ops; /* ctx: struct ioapic *. Memory space, IOAPIC_REGION_LEN */

#endif
