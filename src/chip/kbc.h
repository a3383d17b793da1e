/* The keyboard controller of a PC with nothing plugged into it: commands and their answers, gate A20 as a bit
 * without effect, and the two ways to reset the machine: its output port and port 0x92. Source: IBM PS/2
 * Hardware Interface Technical Reference (1990), "Keyboard and Auxiliary Device Controller"; port 0x92: Intel
 * 82371FB data sheet (1997), 2.5.5. */
#ifndef CHIP_KBC_H
#define CHIP_KBC_H

#include "bus/line.h"
#include "bus/region.h"

struct kbc;

struct kbc_config {
    struct line irq;          /* 1: a byte from the controller waits, and command byte bit 0 is set */
    void (*reset)(void *ctx); /* vCPU thread, no chip lock held */
    void *ctx;
};

struct kbc *kbc_new(const struct kbc_config *cfg, struct yado_error *err);
void kbc_free(struct kbc *k); /* NULL is fine */
void kbc_reset(struct kbc *k);

extern const struct region_ops kbc_data_ops;   /* ctx: struct kbc *. Port 0x60, 1 byte */
extern const struct region_ops kbc_status_ops; /* ctx: struct kbc *. Port 0x64, 1 byte */
extern const struct region_ops kbc_fast_ops;   /* ctx: struct kbc *. Port 0x92, 1 byte */

#endif
