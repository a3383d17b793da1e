/* Linear memory of a vCPU: page walks, TLB, checked access for C code. All light. */
#ifndef TRANSLATOR_MMU_H
#define TRANSLATOR_MMU_H

#include "engine/translator/cpu.h"

enum mmu_acc { MMU_READ, MMU_WRITE, MMU_EXEC };

/* Access as the current CPL would (c->mmu_idx), or as a system access (descriptor tables, TSS: always
 * supervisor). */
enum mmu_as { MMU_AS_CPL, MMU_AS_SYSTEM };

/* Copies n bytes (any n up to 4096, may cross pages and may touch MMIO). Atomic for naturally aligned n of 1,
 * 2, 4, 8 in RAM. False: #PF (or #GP for a non-canonical address; #SS if `stack`) is pending and nothing was
 * transferred. */
bool mmu_read(struct tcpu *c, uint64_t lin, void *buf, unsigned n, enum mmu_as as);
bool mmu_write(struct tcpu *c, uint64_t lin, const void *buf, unsigned n, enum mmu_as as);
/* Instruction bytes. Reads as many of n as can be read (at least 1), *got says how many; false: fault at lin
 * itself. */
bool mmu_fetch(struct tcpu *c, uint64_t lin, void *buf, unsigned n, unsigned *got);
/* Checks that [lin, lin+n) could be accessed, transferring nothing. */
bool mmu_probe(struct tcpu *c, uint64_t lin, unsigned n, enum mmu_acc acc, enum mmu_as as);

/* Host pointer for a plain RAM access that stays in one page and needs no care (not MMIO; for writes not a
 * page that holds translated code), else NULL (no exception is raised: fall back to mmu_read/mmu_write). */
void *mmu_fast_ptr(struct tcpu *c, uint64_t lin, unsigned n, enum mmu_acc acc, enum mmu_as as);

/* Atomic compare and exchange of n = 1, 2, 4, 8 bytes (16: *expected and *desired are 16-byte buffers).
 * Returns false on fault. *swapped says whether it stored; *expected gets the old value when it did not.
 * Always needs write access. Works atomically with respect to other vCPUs, page-crossing included. */
bool mmu_cmpxchg(struct tcpu *c, uint64_t lin, unsigned n, void *expected, const void *desired,
                 bool *swapped);

static inline bool mmu_read_u8(struct tcpu *c, uint64_t lin, uint8_t *v, enum mmu_as as)
{
    return mmu_read(c, lin, v, 1, as);
}
static inline bool mmu_read_u16(struct tcpu *c, uint64_t lin, uint16_t *v, enum mmu_as as)
{
    return mmu_read(c, lin, v, 2, as);
}
static inline bool mmu_read_u32(struct tcpu *c, uint64_t lin, uint32_t *v, enum mmu_as as)
{
    return mmu_read(c, lin, v, 4, as);
}
static inline bool mmu_read_u64(struct tcpu *c, uint64_t lin, uint64_t *v, enum mmu_as as)
{
    return mmu_read(c, lin, v, 8, as);
}

/* Guest physical access for KVM's paravirtual pages; false outside RAM. Code is invalidated. */
bool mmu_phys_read(struct tcpu *c, uint64_t gpa, void *buf, unsigned n);
bool mmu_phys_write(struct tcpu *c, uint64_t gpa, const void *buf, unsigned n);
uint8_t *mmu_phys_ptr(struct tcpu *c, uint64_t gpa, unsigned n); /* RAM in one page, or NULL */

/* ---- for the translator itself ---- */

/* Page walk for an access to `lin` through mmu index idx. True: *gpa is the guest physical address. False:
 * exception pending. */
bool mmu_translate(struct tcpu *c, uint64_t lin, enum mmu_acc acc, unsigned idx, uint64_t *gpa);
/* Guest physical page (4 KiB aligned) of the code at `vpage`, which must be RAM. False: exception pending, or
 * none pending if the page is not RAM. */
bool mmu_code_page(struct tcpu *c, uint64_t vpage, uint64_t *gpage);

/* Whether the page that mmu_code_page has just answered for is global. */
bool mmu_code_global(const struct tcpu *c, uint64_t vpage);
/* Walks for supervisor code at vpage. shift: log2 of the page's size. Raises nothing. */
struct mmu_mapping {
    uint64_t gpa;
    unsigned shift;
    bool global;
};
bool mmu_code_mapping(struct tcpu *c, uint64_t vpage, struct mmu_mapping *m);

/* What the tables of 64-bit mode say to user code of the page of lin, if all entries of the way have the
 * accessed bit. Changes nothing. */
struct mmu_peeked {
    uint64_t gpa;   /* of the 4 KiB at lin */
    unsigned shift; /* log2 of the page's size */
    bool writable;  /* and dirty */
    bool exec, global;
};
bool mmu_peek(const struct tcpu *c, uint64_t lin, struct mmu_peeked *p);

/* Whether the tables (IA-32e, four levels) map something there, for whomever. */
bool mmu_maps_any(const struct tcpu *c, uint64_t lin, uint64_t len);

/* Whether the page is the local APIC's: it hides RAM for data accesses of this vCPU (SDM 11.4.5). */
bool mmu_is_apic_page(const struct tcpu *c, uint64_t gpa);

/* What translated code asks when a TLB check failed (see trans_mem.c). desc is an mmu_desc. The answer says
 * where to go on. */
enum mmu_answer { MMU_ANS_FAULT, MMU_ANS_DIRECT, MMU_ANS_STAGED, MMU_ANS_EXCLUSIVE };
struct mmu_slow {
    uint64_t offset; /* in the page, or 0 when staged */
    uint64_t hpage;  /* host page, or the staging buffer */
    uint64_t delta;
};
/* Whether an operand must be aligned, by its size (mmu_align_mask): then #GP goes before #PF. Not at all;
 * always; or unless MXCSR.MM, which Intel's do not have, says that legacy SSE's loads need not (APM volume 1,
 * 4.2.2; volume 4, 1.2: not moves that are called aligned). */
enum mmu_align { MMU_ALIGN_NONE, MMU_ALIGN, MMU_ALIGN_UNLESS_MM };
#define MMU_DESC_ALIGN(d) ((d) >> 30)
#define MMU_DESC(off, n, acc, locked, stack)                                                                 \
    ((uint32_t)(off) | (uint32_t)(n) << 13 | (uint32_t)(acc) << 26 | (uint32_t)(locked) << 28 |              \
     (uint32_t)(stack) << 29)
#define MMU_DESC_LIMITED (1u << 12) /* the segment's limit has been looked at */
#define MMU_DESC_OFF(d) ((d)&0xfffu)
#define MMU_DESC_LEN(d) (((d) >> 13) & 0x1fffu)
#define MMU_DESC_SHORTER(d, by) ((d) - ((uint32_t)(by) << 13))
#define MMU_DESC_ACC(d) (((d) >> 26) & 3u)
#define MMU_DESC_LOCKED(d) (((d) >> 28) & 1u)
#define MMU_DESC_STACK(d) (((d) >> 29) & 1u)
#define MXCSR_MM (1u << 17)
/* Vectors, FXSAVE's area, XSAVE's. */
static inline uint64_t mmu_align_mask(unsigned n)
{
    return n > 512 || n == 64 ? 63 : n == 32 ? 31 : 15;
}
bool mmu_is_misaligned(uint64_t lin, uint32_t desc); /* the guest's MXCSR is in the register */
enum { MMU_SLOW_R, MMU_SLOW_W, MMU_SLOW_RMW, MMU_SLOW_R_THEN_W /* of groups only */ };
enum mmu_answer mmu_slow(struct tcpu *c, uint64_t lin, uint32_t desc, struct mmu_slow *out);
/* The same for a group of accesses, or one under a mask: true if the whole range is plain RAM of one page
 * with the right rights. Raises nothing. */
bool mmu_group(struct tcpu *c, uint64_t lin, uint32_t desc, struct mmu_slow *out);
/* The parts of an access under a mask (masked.h): `n` bytes at `off` of what is at lin. Into the staging
 * buffer, or looked at for writing. False: an exception is pending. */
bool mmu_stage_part(struct tcpu *c, uint64_t lin, unsigned off, unsigned n, enum mmu_acc acc);
/* When all are there: of the buffer only these elements of `size` bytes will be written back. */
void mmu_stage_elements(struct tcpu *c, uint64_t lin, unsigned size, uint64_t elements, struct mmu_slow *out);
/* Writes the staging buffer back. True: translated code of the page that now runs may have changed. */
bool mmu_commit(struct tcpu *c);

/* Takes every write tag for the RAM page at host address `hpage` out of c's TLB. c is the caller or stands
 * still. page: the low bits of the only linear page number that it can be under, or PAGE_MANY. */
void mmu_drop_write_tags(struct tcpu *c, uint64_t hpage, uint32_t page);
void mmu_init(struct tcpu *c);
void mmu_flush_jump_cache(struct tcpu *c);
/* Takes out of the jump cache what leads to host code in [host, host + len). */
void mmu_drop_jumps_into(struct tcpu *c, const uint8_t *host, uint64_t len);
/* Jumps to blocks that were made again lead to the new ones. */
void mmu_follow_jumps(struct tcpu *c);

/* TLB maintenance of this vCPU (jump caches and fetch state included). */
void mmu_flush_all(struct tcpu *c);                 /* with global pages */
void mmu_flush_nonglobal(struct tcpu *c);           /* of the loaded PCID */
void mmu_flush_pcid(struct tcpu *c, uint64_t pcid); /* one that is not loaded */
void mmu_flush_pcids(struct tcpu *c);               /* all that are not loaded */
/* CR3 was loaded under CR4.PCIDE. keep: bit 63 was set. */
void mmu_change_space(struct tcpu *c, uint64_t old_pcid, uint64_t pcid, bool keep);
static inline unsigned jc_hash(uint64_t pc)
{
    uint32_t x = (uint32_t)pc;
    return ((x ^ (x << JC_ROTATE | x >> (32 - JC_ROTATE))) / sizeof(struct jc_entry)) & (JC_SIZE - 1);
}

/* What stands in an entry that is empty: an address whose place is the first entry, so that a branch to it,
 * which is not canonical and must fault, does not find it either. */
#define JC_EMPTY (1ull << 63)
/* The first entry is where every look goes while exit_request is set (tcpu.jc_mask), and always empty: of an
 * address that no program has, and should one have it all the same, of code that leaves. */
#define JC_NOWHERE 0x93d1b7a46ec258f5ull
void jc_put(struct tcpu *c, unsigned idx, uint64_t pc, uint64_t host);
void mmu_flush_page(struct tcpu *c, uint64_t lin);

#endif
