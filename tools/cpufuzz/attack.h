/* Inside of the attack (attack.c, attack_gen.c). */
#ifndef CPUFUZZ_ATTACK_H
#define CPUFUZZ_ATTACK_H

#include "fuzz.h"

/* Memory of this process that no guest may reach; guests get its address in their registers. */
#define ATTACK_CANARY 0x6f0000000000ull
#define ATTACK_CANARY_SIZE 0x10000u

struct attack_gen {
    uint64_t random; /* any; the bytes follow from it */
    uint8_t *out;
    unsigned room, len;
};

/* Fills `room` bytes. */
void attack_gen_code(struct attack_gen *g, uint8_t *out, unsigned room);
/* A value for a general register. */
uint64_t attack_gen_register(struct attack_gen *g);

#endif
