/* Moves bytes between a guest's port and what is attached to it on the host, on a thread of its own. */
#ifndef MACHINE_PUMP_H
#define MACHINE_PUMP_H

#include "util/err.h"

/* What is attached. Descriptors are borrowed and must live until the pump ends or has other ends; flags of
 * their open files are not changed. */
struct pump_ends {
    int read_fd, write_fd; /* -1: none */
    int listen_fd; /* a listening socket, non-blocking; its clients, one at a time, are who is read and
                      written. -1: none, else the two above are */
    bool is_pty;   /* both are the master of a pty, non-blocking: who opens its other side is followed,
                      and its window size */
};

static inline struct pump_ends pump_ends_none(void)
{
    return (struct pump_ends){ .read_fd = -1, .write_fd = -1, .listen_fd = -1 };
}

struct pump;

struct pump_config {
    const char *name; /* of the thread */
    struct pump_ends ends;
    bool guest_closed; /* the guest takes no input before pump_guest_open */
    /* Input for the guest. Returns the bytes taken; when fewer than len, the rest is offered again after
     * pump_room. Pump thread, no lock held. */
    size_t (*receive)(void *ctx, const uint8_t *bytes, size_t len);
    /* pump_write can take bytes again after it took fewer than it was offered. Pump thread, no lock held. May
     * be NULL. */
    void (*ready)(void *ctx);
    /* Somebody is at the host's side now, or nobody is any more. At first: pump_is_connected. As ready. */
    void (*connected)(void *ctx, bool is_connected);
    /* The window of a pty has this size now. As ready. */
    void (*resized)(void *ctx, uint16_t columns, uint16_t rows);
    void *ctx;
};

struct pump *pump_new(const struct pump_config *cfg, struct yado_error *err);
bool pump_start(struct pump *p, struct yado_error *err); /* a pump without ends waits for some */
/* Writes out what is buffered, for at most a second if the reader does not take it, and ends the thread.
 * After it, no callback runs; pump_write, pump_room and pump_guest_open are still safe. Idempotent. */
void pump_stop(struct pump *p);
/* Begins that, for several at once. */
void pump_ask_stop(struct pump *p);
void pump_free(struct pump *p); /* stops; NULL is fine */

/* Whether somebody is there: a client of the socket, somebody who has the pty open; always with descriptors.
 */
bool pump_is_connected(struct pump *p);

/* Other ends from now on. Waits until those before are let go of; output that they have not taken goes to the
 * new ones, or with nobody there is dropped. After pump_start, not from a callback, one thread at a time.
 * False and err: HOST, nothing has changed. */
bool pump_attach(struct pump *p, const struct pump_ends *ends, struct yado_error *err);

/* Output of the guest. Any thread; does not block. Returns the bytes taken. With nobody at the host's side it
 * takes and drops all. */
size_t pump_write(struct pump *p, const uint8_t *bytes, size_t len);
/* As above for a chip that cannot hold bytes back: waits while the buffer is full, but gives way when the
 * machine is in a hurry, and then keeps a reserve full of bytes and drops the rest. */
void pump_write_all(struct pump *p, const uint8_t *bytes, size_t len);
/* The machine wants its CPU threads: nobody may wait in pump_write_all. Any thread. */
void pump_hurry(struct pump *p, bool hurry);
/* The guest can take input again. Any thread. */
void pump_room(struct pump *p);
/* The guest has opened or closed its side: while it is closed nothing is read for it. Any thread. */
void pump_guest_open(struct pump *p, bool is_open);

#endif
