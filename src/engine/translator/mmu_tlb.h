/* The software TLB's entries: filling them. Inside of mmu.c and mmu_tlb.c. */
#ifndef TRANSLATOR_MMU_TLB_H
#define TRANSLATOR_MMU_TLB_H

#include "engine/translator/tvm.h"

/* What a page walk found. */
struct walk {
    uint64_t gpa;  /* of the byte */
    bool writable; /* may be written through this index and the dirty bit is set */
    bool global;
    unsigned shift; /* log2 of the page size */
};

static inline unsigned tlb_slot(uint64_t lin)
{
    return (unsigned)(lin >> 12) & (TLB_SIZE - 1);
}
/* There may be jump cache or itlb entries for page number n: INVLPG must look. */
static inline void note_exec(struct tcpu *c, unsigned idx, uint64_t n)
{
    uint64_t *word =
        idx == MMU_U ? &c->user_bloom[(n >> 6) % USER_BLOOM] : &c->exec_bloom[(n >> 6) % EXEC_BLOOM];
    *word |= 1ull << (n & 63);
}
static inline uint64_t noted_exec(const struct tcpu *c, uint64_t n) /* of the 64 pages around n, a bit each */
{
    return c->user_bloom[(n >> 6) % USER_BLOOM] | c->exec_bloom[(n >> 6) % EXEC_BLOOM];
}
/* Says that c may hold a write tag for page p of RAM, under linear page `lin`, then whether it may have one
 * (the page holds no code). */
bool mmu_claim_write(struct tcpu *c, struct page_info *p, uint64_t lin);
/* There may be something of a page of this size, around lin, in the TLB: INVLPG must look. */
void mmu_note_large(struct tcpu *c, uint64_t lin, unsigned shift, bool global);
struct tlb_entry *tlb_fill(struct tcpu *c, unsigned idx, uint64_t lin, const struct walk *w,
                           struct tvm_slot *slot);

#endif
