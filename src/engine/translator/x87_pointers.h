/* What x87 tells of its last instruction: where it was (FIP), what it was (FOP) and where its operand was
 * (FDP). Theory in x87_pointers.c. */
#ifndef TRANSLATOR_X87_POINTERS_H
#define TRANSLATOR_X87_POINTERS_H

#include "engine/translator/cpu.h"

/* tcpu.x87_page while the host's pointers are what the guest may see. */
#define X87_SHOWN 1ull

/* Makes the pointers in the host's x87 registers the guest's. Light; the guest's x87 state is in them. */
void x87_show(struct tcpu *c);
/* The same for a copy of the area (FXSAVE64's form) that they were saved to; tcpu.x87_page stays. */
void x87_show_in(struct tcpu *c, uint8_t *area);

#endif
