/* Inside of the generator (gen.c, gen_flow.c). */
#ifndef CPUFUZZ_GEN_PRIV_H
#define CPUFUZZ_GEN_PRIV_H

#include "templates.h"

struct fuzz_gen {
    ZydisDecoder decoder;
    struct template_list lists[FC_COUNT];
    uint32_t classes;
    unsigned bits, regs; /* of the code: 64 or 32; general registers: 16 or 8 */
    unsigned weight_sum;
    struct fuzz_vectors vectors;

    /* of the sequence that is being made */
    uint64_t random;
    struct fuzz_seq *s;
    bool known[16];
    bool wide_disp; /* displacements of four bytes: EVEX scales those of one */
    uint64_t value[16];
};

/* Random numbers of the sequence: any, one below n, true in so many of a hundred. */
uint64_t gen_rnd(struct fuzz_gen *g);
unsigned gen_below(struct fuzz_gen *g, unsigned n);
bool gen_chance(struct fuzz_gen *g, unsigned percent);

/* They add to the sequence: an empty instruction, bytes as they are, a known value for a register. */
struct fuzz_insn *gen_append(struct fuzz_gen *g);
void gen_append_bytes(struct fuzz_gen *g, const void *bytes, unsigned n);
void gen_append_mov(struct fuzz_gen *g, unsigned reg, uint64_t v);

/* One instruction by a template of the class. False: not this time. */
bool gen_from_class(struct fuzz_gen *g, unsigned fc);

/* One branch, or a few instructions with one among them. False: no room. */
bool gen_branch(struct fuzz_gen *g);

#endif
