/* For tests: a machine on a backend of their own. */
#ifndef API_MACHINE_PRIV_H
#define API_MACHINE_PRIV_H

#include <yado/machine.h>

#include "backend/backend.h"

/* As yado_machine_new, with `ops` in place of the backend that the options lead to and no backend validation.
 */
struct yado_machine *machine_new_on(const struct yado_config *config,
                                    const struct yado_machine_options *options, const struct backend_ops *ops,
                                    struct yado_error *err);

/* Moves all clocks of a machine that is paused ahead, as if it had been paused for `ns` more: hours of pause
 * without the waiting. */
bool machine_time_skip_for_test(struct yado_machine *machine, uint64_t ns, struct yado_error *err);

#endif
