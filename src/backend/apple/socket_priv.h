/* The socket device of a run: connections between guest and host. */
#ifndef BACKEND_APPLE_SOCKET_PRIV_H
#define BACKEND_APPLE_SOCKET_PRIV_H

#include "backend/apple/run_priv.h"

struct socket_device;

/* Once the machine is made, before it starts: makes the Unix sockets of the spec and listens at the ports
 * that lead to Unix sockets. Control thread. Sets b->sockets, also on failure: what was made is freed as
 * below.
 */
bool socket_device_open(struct backend *b, struct yado_error *err);
/* The end, in three steps; NULL is fine. While the machine is there: nothing new comes in, and what is under
 * way ends and is told. */
void socket_device_quiet(struct socket_device *v);
/* On the queue, as the machine goes: completion handlers that still come find no `v`. */
void socket_device_orphan(struct socket_device *v);
void socket_device_free(struct socket_device *v);

/* Members of backend_apple, see backend.h. */
void apple_socket_listen(struct backend *b, uint32_t host_port, bool listens);
void apple_socket_answer(struct backend *b, uint64_t id, int fd);
bool apple_socket_connect(struct backend *b, uint32_t guest_port, int fd, uint64_t tag,
                          struct yado_error *err);

#endif
