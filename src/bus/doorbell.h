/* Doorbells: places in a region whose writes carry nothing but the news that there was one (a queue notify
 * register). An engine may take them aside, so that the guest goes on while a descriptor wakes the device;
 * without such an engine they are writes like any other. */
#ifndef BUS_DOORBELL_H
#define BUS_DOORBELL_H

#include "util/base.h"

struct doorbell {
    uint64_t off; /* in the region */
    int fd;       /* eventfd; its owner's, open until the doorbell is taken away */
    bool is_on;   /* the bus's: the engine has it */
};

/* The engine's side, through the machine. Called with the bus lock held, on any thread; takes no lock that
 * anybody holds around a change of regions. */
struct doorbell_sink {
    bool (*add)(void *ctx, uint64_t addr, int fd); /* false: it cannot; writes come through the region */
    void (*drop)(void *ctx, uint64_t addr, int fd);
    void *ctx;
};

#endif
