/* The older chips of a PC, for kernels that are started by multiboot: 8259s, interval timer, keyboard
 * controller, firmware configuration port; and, for test kernels, QEMU's test device. Linux guests do without
 * all of it (DSDT and MADT do not name them), so other machines have none. */
#ifndef MACHINE_LEGACY_H
#define MACHINE_LEGACY_H

#include "bus/line.h"
#include "bus/region.h"
#include "chip/ioapic.h"
#include "host/clock.h"
#include "host/loop.h"
#include "mem/gmem.h"

struct legacy;

struct legacy_config {
    struct bus *ports, *mmio;
    struct loop *loop;
    struct clock clock;
    struct ioapic *ioapic;
    const struct gmem *mem;
    unsigned vcpu_count;
    struct line intr; /* the 8259s' output. Called with a chip's lock held */
    bool test_device;
    void (*reset)(void *ctx);
    void *ctx;
};

struct legacy *legacy_new(const struct legacy_config *cfg, struct yado_error *err); /* reset already done */
void legacy_free(struct legacy *l);                                                 /* NULL is fine */
void legacy_reset(struct legacy *l);

/* ISA interrupt n (0 .. 15, not 2): input n of the 8259s, and the I/O APIC's pin n, or 2 for interrupt 0. */
struct line legacy_line(struct legacy *l, unsigned n);
uint8_t legacy_acknowledge(struct legacy *l); /* as pic_acknowledge */

#endif
