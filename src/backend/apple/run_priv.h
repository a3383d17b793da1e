/* A run of a machine: between machine.c and the files that ask things of its devices. */
#ifndef BACKEND_APPLE_RUN_PRIV_H
#define BACKEND_APPLE_RUN_PRIV_H

#include <pthread.h>

#include "backend/apple/apple_priv.h"

struct backend {
    const struct spec *spec;
    struct backend_host host;
    struct machine_events events;
    struct scratch scratch;
    struct console_events console_events;
    id queue, machine, delegate;   /* owned */
    id console_delegate;           /* owned; NULL without consoles */
    struct socket_device *sockets; /* NULL without a socket device */

    pthread_mutex_t lock;
    pthread_cond_t verb_over;
    struct backend_status status; /* what service() will say. With lock */
};

/* A quick call of the control thread or any other but the queue itself: fn runs on the queue, in a pool,
 * while the caller waits. */
struct quick_call {
    struct backend *b;
    void (*fn)(struct quick_call *q);
    unsigned index, port;
    uint64_t size;
    const struct net_config *net;
    const struct spec_share *share;
    const struct spec_attachment *attachment;
    bool flag;
    struct yado_error error;
};

/* False and err: q->error. */
bool quick_do(struct quick_call *q, struct yado_error *err);

/* Members of backend_apple (devices.c). */
bool apple_net_attach(struct backend *b, unsigned index, const struct net_config *cfg,
                      struct yado_error *err);
bool apple_share_set(struct backend *b, unsigned index, const struct spec_share *share,
                     struct yado_error *err);
bool apple_port_attach(struct backend *b, unsigned device, unsigned port, const struct spec_attachment *to,
                       struct yado_error *err);

/* Hears of the ports of the consoles, if there are any; until consoles_forget, on the queue. */
bool consoles_watch(struct backend *b, struct yado_error *err);
void consoles_forget(struct backend *b);

void apple_balloon_target(struct backend *b, uint64_t size);

#endif
