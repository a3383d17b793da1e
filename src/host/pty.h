/* Pseudo terminals. */
#ifndef HOST_PTY_H
#define HOST_PTY_H

#include "util/err.h"

struct pty {
    int master; /* non-blocking, closed on exec */
    int other;  /* the other side, held open where a reader of the master could not bear its being closed
                   (macOS); -1: not needed */
    char path[64];
};

/* A new pty in raw mode; `path` is the other side, for programs to open. False and err: HOST. */
bool pty_open(struct pty *p, struct yado_error *err);
void pty_close(struct pty *p);

#endif
