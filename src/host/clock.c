/* The host's clocks. */
#include "host/clock.h"

#include <time.h>

static uint64_t host_now_ns(void *ctx)
{
    struct timespec ts;

    (void)ctx;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static int64_t host_wall_ns(void *ctx)
{
    struct timespec ts;

    (void)ctx;
    clock_gettime(CLOCK_REALTIME, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

struct clock clock_host(void)
{
    return (struct clock){ .now_ns = host_now_ns, .wall_ns = host_wall_ns, .ctx = NULL };
}
