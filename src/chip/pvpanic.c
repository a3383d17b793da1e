/* See chip/pvpanic.h. No state, so no lock and nothing to reset. */
#include "chip/pvpanic.h"

#define EVENT_PANICKED 0x01     /* it will not go on */
#define EVENT_CRASH_LOADED 0x02 /* it panicked and will run a crash kernel: its own business */

/* What we understand. A guest with a crash kernel then says so instead of reporting a plain panic. */
static uint64_t pvpanic_read(void *ctx, uint64_t off, unsigned width)
{
    (void)ctx;
    (void)off;
    (void)width;
    return EVENT_PANICKED | EVENT_CRASH_LOADED;
}

static void pvpanic_write(void *ctx, uint64_t off, unsigned width, uint64_t value)
{
    struct pvpanic *p = ctx;

    (void)off;
    (void)width;
    if ((value & EVENT_PANICKED) && !(value & EVENT_CRASH_LOADED) && p->panicked)
        p->panicked(p->ctx);
}

const struct region_ops pvpanic_ops = {
    .name = "pvpanic",
    .min_width = 1,
    .max_width = 1,
    .read = pvpanic_read,
    .write = pvpanic_write,
};
