/* The listeners of a machine, and its connections on their way to the program. */
#ifndef API_SOCKETS_H
#define API_SOCKETS_H

#include <yado/socket.h>

#include "util/base.h"

struct sockets;

struct sockets *sockets_new(struct yado_machine *machine); /* NULL: out of memory */
void sockets_free(struct sockets *s);                      /* after the last callback; NULL is fine */

/* What the backend tells, see backend.h. */
bool sockets_asked(struct sockets *s, uint64_t id, uint32_t guest_port, uint32_t host_port);
void sockets_connected(struct sockets *s, uint64_t tag, uint32_t host_port, const struct yado_error *why);
/* A run of the machine has begun: backends that must be told where to listen are told. */
void sockets_run_began(struct sockets *s);
/* A run of the machine is over: what waits from it is void. */
void sockets_run_ended(struct sockets *s);

#endif
