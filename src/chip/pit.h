/* 8254 interval timer, with the system control port 0x61 that holds counter 2's gate and output. Source:
 * Intel 8254 data sheet (231164-005, 1993); port 0x61: Intel 82371FB data sheet (1997), 2.5.4. Counting in
 * BCD is not there: such a counter counts in binary. Counts follow a monotonic clock; interrupts that a busy
 * host misses are not made up for. */
#ifndef CHIP_PIT_H
#define CHIP_PIT_H

#include "bus/line.h"
#include "bus/region.h"
#include "host/clock.h"

#define PIT_HZ 1193182u
#define PIT_REGION_LEN 4
#define PIT_NEVER UINT64_MAX

struct pit;

struct pit_config {
    struct clock clock;
    struct line irq; /* output of counter 0. Set with the chip locked: must not call it back */
    /* As rtc_config.arm: a call of pit_timer() at deadline_ns; PIT_NEVER: none. Called with the chip locked.
     */
    void (*arm)(void *ctx, uint64_t deadline_ns);
    void *ctx;
};

/* Reset as firmware leaves it: counter 0 in mode 2 with the longest count, 18.2 Hz. */
struct pit *pit_new(const struct pit_config *cfg, struct yado_error *err);
void pit_free(struct pit *p); /* NULL is fine */
void pit_reset(struct pit *p);
void pit_timer(struct pit *p); /* the time asked for has come. Any thread, spurious calls are fine */

extern const struct region_ops pit_ops;         /* ctx: struct pit *. Port 0x40, PIT_REGION_LEN */
extern const struct region_ops pit_control_ops; /* ctx: struct pit *. Port 0x61, 1 byte */

#endif
