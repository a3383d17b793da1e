/* What the rest of api/ sees of a machine; and for tests, a machine on a backend of their own. */
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

/* Makes `log` what the options ask for (trace.c); `options` must live as long. False and err: an unknown
 * category. */
bool trace_setup(struct log *log, struct yado_machine_options *options, struct yado_error *err);

struct sockets;
struct ports;
struct callback_queue;

struct sockets *machine_sockets(struct yado_machine *m);
struct ports *machine_ports(struct yado_machine *m);
struct callback_queue *machine_queue(struct yado_machine *m);
bool machine_has_socket_device(const struct yado_machine *m);
/* The backend of the machine's run, NULL if it has none. It is not stopped before machine_backend_leave,
 * which must follow in any case, soon. */
struct backend *machine_backend_enter(struct yado_machine *m, const struct backend_ops **ops);
void machine_backend_leave(struct yado_machine *m);

#endif
