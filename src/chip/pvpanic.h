/* The paravirtual panic port: a guest kernel with the driver says here that it panicked.
 * Source: QEMU docs/specs/pvpanic.rst (7.2), which defines the interface that guests' drivers follow. */
#ifndef CHIP_PVPANIC_H
#define CHIP_PVPANIC_H

#include "bus/region.h"

#define PVPANIC_REGION_LEN 1

/* Caller-owned; set once before the region is mapped. */
struct pvpanic {
    void (*panicked)(void *ctx); /* vCPU thread; once per report */
    void *ctx;
};

extern const struct region_ops pvpanic_ops; /* ctx: struct pvpanic *. Port space, PVPANIC_REGION_LEN */

#endif
