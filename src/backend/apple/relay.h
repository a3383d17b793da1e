/* Joins connected stream sockets in pairs: what one of a pair reads the other writes, until both have ended.
 *
 * The framework gives a connection of the guest as a descriptor of its own, while src/api brings the
 * descriptor of the program; so the two are joined here. Any thread. */
#ifndef BACKEND_APPLE_RELAY_H
#define BACKEND_APPLE_RELAY_H

#include "util/err.h"

struct relays;

/* Starts the thread that moves the bytes. NULL and err on failure. */
struct relays *relays_new(struct yado_error *err);
/* Closes all pairs, moved or not, and ends the thread. NULL is fine. */
void relays_free(struct relays *r);

/* Takes both descriptors over, also on failure (out of memory), when they are closed. No flags of them are
 * changed. The end of one direction is passed on (shutdown) and does not end the other. */
bool relays_add(struct relays *r, int a, int b);

#endif
