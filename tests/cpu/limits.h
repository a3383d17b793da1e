/* Cases that an engine cannot do for a reason that is not ours: the host's. */
#ifndef TESTS_CPU_LIMITS_H
#define TESTS_CPU_LIMITS_H

#include "engine/engine.h"

/* The reason why this case may fail on this engine on this host, NULL if there is none. A listed case is run
 * all the same. */
const char *cpu_limit(const struct engine_ops *engine, const char *case_name);
/* A case for a host of its own: run only if it is named. */
bool cpu_case_alone(const struct engine_ops *engine, const char *case_name);
/* A case whose ring 3 is nothing that may run directly. */
bool cpu_case_indirect(const char *case_name);

#endif
