/* The Unix sockets that stand for ports: the only place that knows their paths. */
#ifndef BACKEND_NATIVE_SOCKETS_H
#define BACKEND_NATIVE_SOCKETS_H

#include "backend/backend.h"
#include "machine/board.h"

struct native_sockets;

/* Makes the listening sockets and fills `out`, which is valid until the close. `spec` lives as long. NULL and
 * err on failure; nothing is left behind. */
struct native_sockets *native_sockets_open(const struct spec_socket *spec, const struct backend_host *host,
                                           struct board_sockets *out, struct yado_error *err);
void native_sockets_close(struct native_sockets *s); /* the machine has ended; NULL is fine */

#endif
