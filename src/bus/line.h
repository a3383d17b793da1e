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

/* An origin of messages that may send one and the same again and again: an MSI-X vector. Zeroed at first;
 * what it holds then is the sink's. */
struct msi_source {
    _Atomic(void *) route;
};

/* Where message-signalled interrupts go: the engine, through the machine. Any thread. */
struct msi_sink {
    void (*send)(void *ctx, uint64_t addr, uint32_t data);
    /* The same, for an origin that the sink may prepare a shorter way for. NULL: send is all there is. */
    void (*send_from)(void *ctx, struct msi_source *src, uint64_t addr, uint32_t data);
    void (*forget)(void *ctx, struct msi_source *src); /* it goes away: nobody sends from it any more */
    void *ctx;
};

static inline void msi_send(struct msi_sink s, uint64_t addr, uint32_t data)
{
    if (s.send)
        s.send(s.ctx, addr, data);
}

static inline void msi_send_from(struct msi_sink s, struct msi_source *src, uint64_t addr, uint32_t data)
{
    if (s.send_from)
        s.send_from(s.ctx, src, addr, data);
    else
        msi_send(s, addr, data);
}

static inline void msi_forget(struct msi_sink s, struct msi_source *src)
{
    if (s.forget)
        s.forget(s.ctx, src);
}

#endif
