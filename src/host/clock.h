/* Time for devices: monotonic nanoseconds, and wall time. Replaced by a fake in chip tests. */
#ifndef HOST_CLOCK_H
#define HOST_CLOCK_H

#include "util/base.h"

struct clock {
    uint64_t (*now_ns)(void *ctx); /* monotonic, never goes back */
    int64_t (*wall_ns)(void *ctx); /* since 1970-01-01 UTC */
    void *ctx;
};

static inline uint64_t clock_now(const struct clock *c)
{
    return c->now_ns(c->ctx);
}
static inline int64_t clock_wall_ns(const struct clock *c)
{
    return c->wall_ns(c->ctx);
}

struct clock clock_host(void); /* CLOCK_MONOTONIC and CLOCK_REALTIME */

#endif
