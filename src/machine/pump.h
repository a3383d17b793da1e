/* Moves bytes between a guest's serial port and two descriptors of the host, on a thread of its own. */
#ifndef MACHINE_PUMP_H
#define MACHINE_PUMP_H

#include "util/err.h"

struct pump;

struct pump_config {
    const char *name;      /* of the thread */
    int read_fd, write_fd; /* borrowed, must outlive the pump; -1: none. Their flags are not changed */
    /* Input for the guest. Returns the bytes taken; when fewer than len, the rest is offered again after
     * pump_room. Pump thread, no lock held. */
    size_t (*receive)(void *ctx, const uint8_t *bytes, size_t len);
    /* pump_write can take bytes again after it took fewer than it was offered. Pump thread, no lock held. May
     * be NULL. */
    void (*ready)(void *ctx);
    void *ctx;
};

struct pump *pump_new(const struct pump_config *cfg, struct yado_error *err);
bool pump_start(struct pump *p, struct yado_error *err);
/* Writes out what is buffered, for at most a second if the reader does not take it, and ends the thread.
 * After it, no callback runs; pump_write and pump_room are still safe. Idempotent. */
void pump_stop(struct pump *p);
void pump_free(struct pump *p); /* stops; NULL is fine */

/* Output of the guest. Any thread; does not block. Returns the bytes taken. */
size_t pump_write(struct pump *p, const uint8_t *bytes, size_t len);
/* As above for a chip that cannot hold bytes back: waits while the buffer is full, but gives way when the
 * machine is in a hurry, and then keeps a reserve full of bytes and drops the rest. */
void pump_write_all(struct pump *p, const uint8_t *bytes, size_t len);
/* The machine wants its CPU threads: nobody may wait in pump_write_all. Any thread. */
void pump_hurry(struct pump *p, bool hurry);
/* The guest can take input again. Any thread. */
void pump_room(struct pump *p);

#endif
