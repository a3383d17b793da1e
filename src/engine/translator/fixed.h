/* Blocks of fixed linear address, and jumps between pages. Theory in fixed.c. */
#ifndef TRANSLATOR_FIXED_H
#define TRANSLATOR_FIXED_H

#include "engine/translator/cache.h"

#define FIXED_FIRST                                                                                          \
    0xffffffff80000000ull /* the top 2 GiB, where code is compiled for 32-bit signed addresses */
#define FIXED_PAGES 8192u
#define FIXED_LINKS 262144u
#define FIXED_REGIONS 1024u /* of 2 MiB */

/* A page that jumps from other pages rely on. */
struct fixed_page {
    int32_t vpage;  /* sign-extended; 0: none (page 0 is not in the range) */
    uint32_t next;  /* in its region: index + 1 */
    uint64_t gpage; /* what it was mapped to when the jumps were made */
    uint32_t links; /* first: index + 1 */
};
struct fixed_link {
    uint32_t site;    /* offset of the displacement in the code cache */
    int32_t unlinked; /* its value before */
    uint32_t target;  /* offset of the block's entry */
    uint32_t next;    /* index + 1 */
};

/* code_lock covers all of it but `root`. */
struct fixed {
    _Atomic uint64_t root;     /* entry 511 of the top table, of all address spaces that count; 0: none yet */
    _Atomic uint8_t root_used; /* since fixed_evict last looked */
    uint32_t page_count, link_count;
    uint32_t free_pages, free_links; /* lists of those before the counts: index + 1 */
    uint32_t regions[FIXED_REGIONS]; /* first page: index + 1 */
    struct fixed_page pages[FIXED_PAGES];
    struct fixed_link links[FIXED_LINKS];
};

/* All light. */

/* After a change of CR0, CR3, CR4 or EFER: whether c's address space is one where blocks of fixed address may
 * run. */
void fixed_check_space(struct tcpu *c);
/* After INVLPG of lin, or (fixed_verify_all) a flush of global translations: jumps into pages that are mapped
 * otherwise now are undone. */
void fixed_verify(struct tcpu *c, uint64_t lin);
void fixed_verify_all(struct tcpu *c);
/* Whether code of this page is made into blocks of fixed address now. Its translation is in the fetch TLB. */
bool fixed_wanted(struct tcpu *c, uint64_t vpage);
/* Patches the jump at `site` to lead to tb, which stands at linear page vpage. */
void fixed_link(struct tcpu *c, uint32_t site, struct tb *tb, uint32_t gen, bool same_page);

/* Before a segment of the cache is emptied: jumps into it are undone, and those in it forgotten. Inside an
 * exclusive section, code_lock held. */
void fixed_evict(struct tvm *vm, unsigned segment);

#define FIXED_SAME_PAGE 0x10000u /* in exit_bits: the jump stays in its page */

#endif
