/* Waking a poll loop: a descriptor that is readable after it was woken, until it is cleared. */
#ifndef HOST_WAKE_H
#define HOST_WAKE_H

#include "util/err.h"

struct wake {
    int read_fd; /* for poll. Read nothing from it */
    int write_fd;
};

/* On failure, and after wake_close, both are -1. */
bool wake_open(struct wake *w, struct yado_error *err);
void wake_close(struct wake *w);

/* Any thread; async-signal safe. Waking twice is waking once. */
void wake_set(const struct wake *w);
/* What was woken before is forgotten; what is woken from now on counts. */
void wake_clear(const struct wake *w);

#endif
