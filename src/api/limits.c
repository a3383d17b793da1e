/* What a configuration may ask for: the library's own ranges, as far as this host's backend has them too. */
#include "api/config_priv.h"

#include "backend/backend.h"

static struct backend_limits limits_get(void)
{
    struct backend_limits l = { .cpu_min = YADO_CPU_COUNT_MIN,
                                .cpu_max = YADO_CPU_COUNT_MAX,
                                .memory_min = YADO_MEMORY_SIZE_MIN,
                                .memory_max = YADO_MEMORY_SIZE_MAX };
    struct backend_limits host;

    if (!backend_here()->limits(&host))
        return l;
    l.cpu_min = max_u64(l.cpu_min, host.cpu_min);
    l.cpu_max = min_u64(l.cpu_max, host.cpu_max);
    l.memory_min = align_up(max_u64(l.memory_min, host.memory_min), YADO_MEMORY_SIZE_STEP);
    l.memory_max = align_down(min_u64(l.memory_max, host.memory_max), YADO_MEMORY_SIZE_STEP);
    return l;
}

unsigned yado_config_minimum_allowed_cpu_count(void)
{
    return (unsigned)limits_get().cpu_min;
}

unsigned yado_config_maximum_allowed_cpu_count(void)
{
    return (unsigned)limits_get().cpu_max;
}

uint64_t yado_config_minimum_allowed_memory_size(void)
{
    return limits_get().memory_min;
}

uint64_t yado_config_maximum_allowed_memory_size(void)
{
    return limits_get().memory_max;
}
