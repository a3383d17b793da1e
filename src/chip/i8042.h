/* What is left of the keyboard controller: resetting the machine by command 0xfe. Status reads as 0xff, which
 * is what a PC without the controller answers, so that a probe ends at the first read. */
#ifndef CHIP_I8042_H
#define CHIP_I8042_H

#include "bus/region.h"

#define I8042_REGION_LEN 1 /* command and status port 0x64; the data port 0x60 is left unclaimed */

struct i8042;

struct i8042_config {
    void (*reset)(void *ctx); /* vCPU thread */
    void *ctx;
};

struct i8042 *i8042_new(const struct i8042_config *cfg, struct yado_error *err);
void i8042_free(struct i8042 *k); /* NULL is fine */

extern const struct region_ops i8042_ops; /* ctx: struct i8042 *. Port 0x64, I8042_REGION_LEN */

#endif
