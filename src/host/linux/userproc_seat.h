/* What a process for user code has to do with its seat. */
#ifndef HOST_LINUX_USERPROC_SEAT_H
#define HOST_LINUX_USERPROC_SEAT_H

#include <time.h>

#include "host/userproc.h"

struct seat_child {
    pid_t pid;
    int cpu; /* the only one that it may use; -1: not known */
};

uint64_t userproc_clock_ns(clockid_t clock);

void seat_child_init(struct seat_child *c, pid_t pid);
/* Keeps the calling thread on its CPU until userproc_rest. */
void seat_take(struct userproc_seat *s);
/* Before each run of a process: has both on the CPU of the seat. s may be NULL. */
void seat_begin(struct userproc_seat *s, struct seat_child *c);

#endif
