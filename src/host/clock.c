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

static int64_t host_wall_sec(void *ctx)
{
    struct timespec ts;

    (void)ctx;
    clock_gettime(CLOCK_REALTIME, &ts);
    return ts.tv_sec;
}

struct clock clock_host(void)
{
    return (struct clock){ .now_ns = host_now_ns, .wall_sec = host_wall_sec, .ctx = NULL };
}
