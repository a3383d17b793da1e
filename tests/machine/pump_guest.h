/* The guest's side of a pump: takes at most `limit` bytes in all, counts what it is told. */
#ifndef TESTS_MACHINE_PUMP_GUEST_H
#define TESTS_MACHINE_PUMP_GUEST_H

#include <pthread.h>

#include "machine/pump.h"

struct guest {
    pthread_mutex_t lock;
    struct pump *p;
    char bytes[8192];
    size_t len, limit;
    unsigned ready, connects, disconnects;
    bool is_connected;
    unsigned columns, rows;
};

/* Makes a pump and starts it. */
void guest_begin(struct guest *g, struct pump_ends ends, bool guest_closed);
void guest_limit(struct guest *g, size_t limit);
/* For wait_for: takes the lock; lets it go and naps if there is nothing to be seen yet. Fails after 20 s. */
void guest_look(struct guest *g);
void guest_nap(struct guest *g, unsigned turn, const char *what);

/* Until `cond` holds, which is looked at with the lock. */
#define wait_for(g, cond)                                                                                    \
    do {                                                                                                     \
        guest_look(g);                                                                                       \
        for (unsigned turn_ = 0; !(cond); turn_++) {                                                         \
            guest_nap(g, turn_, #cond);                                                                      \
            guest_look(g);                                                                                   \
        }                                                                                                    \
        pthread_mutex_unlock(&(g)->lock);                                                                    \
    } while (0)

#endif
