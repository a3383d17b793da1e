/* A port whose writes end a test guest: the machine gets the value written. Reads give zero. */
#ifndef CHIP_DEBUG_EXIT_H
#define CHIP_DEBUG_EXIT_H

#include "bus/region.h"

#define DEBUG_EXIT_PORT 0xf4 /* where it is by custom */
#define DEBUG_EXIT_REGION_LEN 4

struct debug_exit;

struct debug_exit_config {
    void (*ended)(void *ctx, uint32_t value); /* vCPU thread; for every write */
    void *ctx;
};

struct debug_exit *debug_exit_new(const struct debug_exit_config *cfg, struct yado_error *err);
void debug_exit_free(struct debug_exit *d); /* NULL is fine */

extern const struct region_ops debug_exit_ops; /* ctx: struct debug_exit * */

#endif
