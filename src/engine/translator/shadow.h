/* Checking translated code against the general path. Light. */
#ifndef TRANSLATOR_SHADOW_H
#define TRANSLATOR_SHADOW_H

#include "engine/translator/vcpu.h"

#define SHADOW_WRITES 256
#define SHADOW_WRITE_MAX 16

/* What a rehearsal stored: where, and what was there and then. */
struct shadow_write {
    uint8_t *at;
    uint8_t len, before[SHADOW_WRITE_MAX], after[SHADOW_WRITE_MAX];
};

struct shadow_regs {
    uint64_t gpr[16], rip;
    uint64_t rflags;
};

struct shadow {
    bool active; /* a rehearsal is under way: the MMU notes stores, and does none that cannot be taken back */
    bool stopped; /* ... and has met such an access */
    bool told;    /* the first difference has been reported */
    unsigned count;
    struct shadow_write writes[SHADOW_WRITES];
};

/* For the MMU, while c->shadow is active: [at, at + len) of guest RAM is about to be stored to. False: no. */
bool shadow_note(struct shadow *s, void *at, unsigned len);

/* As vcpu_run_block for one block, which the general path runs first; its stores are taken back, and the
 * results of both are compared. */
enum exit_reason shadow_run_block(struct tcpu *c, uint32_t mode, const struct tb_facts *facts);

/* Heavy: reports. store->after has what translated code stored; len 0: no store differs. */
void heavy_shadow_differs(struct tcpu *c, const struct shadow_regs *start, const struct shadow_regs *general,
                          const struct shadow_regs *translated, const struct shadow_write *store,
                          uint64_t flags);

#endif
