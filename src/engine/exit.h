/* Why a vCPU needs its owner: plain data. */
#ifndef ENGINE_EXIT_H
#define ENGINE_EXIT_H

#include "util/base.h"

enum exit_kind {
    EXIT_PORT,     /* IN / OUT; handled in place by engine_host.io */
    EXIT_MMIO,     /* access outside RAM; handled in place by engine_host.io */
    EXIT_KICKED,   /* engine_kick was called: see to what the caller wants, then run again */
    EXIT_SHUTDOWN, /* triple fault */
    EXIT_FAULT,    /* the engine cannot go on; err holds why */
};

struct exit {
    enum exit_kind kind;
    uint64_t addr; /* PORT: port number. MMIO: guest physical address */
    uint64_t data; /* value written, or read (filled by the handler) */
    uint8_t width; /* bytes: PORT 1, 2, 4; MMIO 1, 2, 4, 8 */
    bool is_write;
    uint64_t
        rip; /* SHUTDOWN and FAULT: where the guest was (AMD's hardware does not tell it of a SHUTDOWN) */
};

#endif
