/* Large host pages under guest RAM that is in a file. */
#ifndef TRANSLATOR_RAM_LARGE_H
#define TRANSLATOR_RAM_LARGE_H

#include "engine/translator/tvm.h"
#include "host/anonmem.h"

/* tvm_slot.met of a stretch: no vCPU has been there, the same but it is being made large, or one has. */
enum { RAM_NOT_MET, RAM_AHEAD, RAM_MET };

/* Heavy. Without memory for it the slot does without large pages. */
void ram_large_open(struct tvm_slot *s);
void ram_large_close(struct tvm_slot *s);
/* Any thread. Someone else than a vCPU has written this, or given it back to the host. */
void ram_large_forget(struct tvm *vm, uint64_t gpa, uint64_t len);

void ram_large_make(struct tcpu *c, struct tvm_slot *s, uint64_t stretch); /* inside the brackets */
void cpu_ram_large(struct tcpu *c, struct tvm_slot *s, uint64_t stretch);  /* light: with them */

/* Light. A vCPU is about to access the page at `off` of the slot. */
static inline void ram_large_meet(struct tcpu *c, struct tvm_slot *s, uint64_t off)
{
    if (s->met &&
        unlikely(atomic_load_explicit(&s->met[off / ANONMEM_LARGE], memory_order_relaxed) != RAM_MET))
        cpu_ram_large(c, s, off / ANONMEM_LARGE);
}

#endif
