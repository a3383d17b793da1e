/* Runs one CPU case on one engine. */
#ifndef TESTS_CPU_CPU_CASE_H
#define TESTS_CPU_CPU_CASE_H

#include "case.h"
#include "engine/engine.h"

#define CPU_CASE_TIMEOUT_S 300 /* two spinning vCPUs on a busy host take their time */
#define CPU_CASE_LIMITED_S 3   /* a case that is known to fail, maybe by never coming back */

/* True: the case passed. Else `why` holds one line. `group` is the blob that the case belongs to. After
 * `seconds` it has failed. */
bool cpu_case_run(const struct engine_ops *engine, const struct cpu_group *group, const struct cpu_case *c,
                  unsigned seconds, char *why, size_t why_size);

extern const struct cpu_group cpu_group_long, cpu_group_system, cpu_group_privilege, cpu_group_user,
    cpu_group_smp, cpu_group_legacy;

#endif
