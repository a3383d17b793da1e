/* An interrupt line as a value: a function, a context and a pin number. Callable from any thread. */
#ifndef BUS_LINE_H
#define BUS_LINE_H

#include "util/base.h"

struct line {
    void (*set)(void *ctx, unsigned n, bool level);
    void *ctx;
    unsigned n;
};

static inline void line_set(struct line l, bool level)
{
    if (l.set)
        l.set(l.ctx, l.n, level);
}

/* Where message-signalled interrupts go: the engine, through the machine. Any thread. */
struct msi_sink {
    void (*send)(void *ctx, uint64_t addr, uint32_t data);
    void *ctx;
};

static inline void msi_send(struct msi_sink s, uint64_t addr, uint32_t data)
{
    if (s.send)
        s.send(s.ctx, addr, data);
}

#endif
