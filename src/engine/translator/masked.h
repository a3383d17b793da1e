/* Memory operands of EVEX instructions under a write mask, of which elements that the mask leaves out do not
 * fault (Intel SDM volume 2, 2.7.9 and the exception types of 2.8). Theory in masked.c. */
#ifndef TRANSLATOR_MASKED_H
#define TRANSLATOR_MASKED_H

#include <Zydis/Zydis.h>

#include "util/base.h"

/* How the bits of the mask name the elements of the operand. */
enum masked_kind {
    MASKED_EACH = 1, /* bit i: element i */
    MASKED_AGAIN,    /* broadcasts: bit i: element i modulo their number */
    MASKED_PACKED,   /* compressed: as many from the first on as bits are set */
};

/* One word, so that translated code can hand it to C: bytes of an element, bits of the mask that count,
 * number of elements, enum masked_kind. 0: no such operand. */
#define MASKED_OPERAND(size, bits, count, kind)                                                              \
    ((uint32_t)(size) | (uint32_t)(bits) << 8 | (uint32_t)(count) << 16 | (uint32_t)(kind) << 24)
#define MASKED_SIZE(m) ((m)&0xffu)
#define MASKED_BITS(m) ((m) >> 8 & 0xffu)
#define MASKED_COUNT(m) ((m) >> 16 & 0xffu)
#define MASKED_KIND(m) ((enum masked_kind)((m) >> 24))

static inline uint64_t masked_low_bits(unsigned n)
{
    return n < 64 ? (1ull << n) - 1 : ~0ull;
}

/* A bit for each element of the operand that is accessed. */
static inline uint64_t masked_elements(uint32_t m, uint64_t mask)
{
    uint64_t all = masked_low_bits(MASKED_COUNT(m)), out = 0;
    unsigned set = 0;

    mask &= masked_low_bits(MASKED_BITS(m));
    if (MASKED_KIND(m) == MASKED_EACH)
        return mask & all;
    if (MASKED_KIND(m) == MASKED_AGAIN) {
        for (unsigned i = 0; i < MASKED_BITS(m); i += MASKED_COUNT(m))
            out |= mask >> i;
        return out & all;
    }
    for (; mask; mask &= mask - 1)
        set++;
    return masked_low_bits(set);
}

/* The next stretch of elements that are accessed, from *first on; returns how many, 0: none. */
static inline unsigned masked_stretch(uint64_t elements, unsigned *first)
{
    unsigned n = 0;

    while (*first < 64 && !(elements >> *first & 1))
        ++*first;
    while (*first + n < 64 && (elements >> (*first + n) & 1))
        n++;
    return n;
}

/* The operand as a word, 0 if it is accessed whole whatever the mask. */
uint32_t masked_operand(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *ops);
/* The same, but AMD's store what is compressed element by element even if all of it is (seen on Zen 4): the
 * mask is k0 then, which stands for all ones. */
uint32_t masked_by_element(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *ops, bool amd);

#endif
