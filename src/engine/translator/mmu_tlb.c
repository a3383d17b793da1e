/* The software TLB: its entries, what empties it, and what address spaces have that are not loaded.
 *
 * Theory of operation. Entries of the TLB and of the jump caches have no address-space tags, so that a lookup
 * in translated code is one compare. What is not global is taken out when CR3 changes; logs of what was
 * filled keep that short. Where the guest uses PCIDs (SDM volume 3, 4.10.1) that would be a loss: a MOV CR3
 * with bit 63 set says that what the PCID had before is still right, and to find it again costs a page walk
 * in C for each entry and a search for each jump. So what is taken out goes to a record of the old PCID, and
 * what the record of the new one has is put back. The loaded space has no record.
 *
 * A record is dropped by all that would invalidate entries of its PCID: MOV CR3 without bit 63, INVPCID, and
 * mmu_flush_all. It holds no write tags: that an entry had one is noted, and it is asked for anew when it is
 * put back, so page_info.w_owner knows all tags there are. Jumps to code that was thrown away meanwhile
 * (flush_gen) are not put back; blocks that died lead on to their successors. Jumps are not kept once user
 * code ran in a global page, since INVLPG under any PCID must reach them. */
#include "engine/translator/mmu_tlb.h"

#include "engine/translator/cache.h"
#include "engine/translator/direct.h"
#include "engine/translator/fixed.h"
#include "engine/translator/light_sys.h"
#include "engine/translator/mmu.h"
#include "engine/translator/ram_large.h"

static inline uint64_t tlb_invalid_tag(unsigned i)
{
    return (uint64_t)(~i & (TLB_SIZE - 1)) << 12;
}
static inline void tlb_invalidate(struct tcpu *c, unsigned idx, unsigned i)
{
    c->tlb[idx][i].tag_r = c->tlb[idx][i].tag_w = tlb_invalid_tag(i);
}
static inline bool tlb_is_valid(const struct tcpu *c, unsigned idx, unsigned i)
{
    return c->tlb[idx][i].tag_r != tlb_invalid_tag(i) || c->tlb[idx][i].tag_w != tlb_invalid_tag(i);
}

void mmu_init(struct tcpu *c)
{
    for (unsigned idx = 0; idx < MMU_COUNT; idx++) {
        for (unsigned i = 0; i < TLB_SIZE; i++)
            tlb_invalidate(c, idx, i);
        c->tlb_log_len[idx] = 0;
        for (unsigned i = 0; i < JC_SIZE; i++)
            c->jc[idx][i].pc = JC_EMPTY;
        c->jc[idx][0] = (struct jc_entry){ JC_NOWHERE, (uint64_t)(uintptr_t)c->vm->cache->stubs.exit_lookup };
        c->jc_log_len[idx] = 0;
    }
    atomic_store(&c->jc_mask, JC_MASK);
    mmu_flush_jump_cache(c);
}

bool mmu_claim_write(struct tcpu *c, struct page_info *p, uint64_t lin)
{
    uint16_t me = tvm_writer(c), old = atomic_load(&p->w_owner);
    uint32_t page = (uint32_t)(lin >> 12);
    while (old != me && old != PAGE_WRITERS) {
        bool alone = !tvm_has_writer(c->vm, old);
        if (!atomic_compare_exchange_strong(&p->w_owner, &old, alone ? me : PAGE_WRITERS))
            continue;
        if (alone)
            p->w_page = page;
        break;
    }
    if (old == me && p->w_page != page)
        p->w_page = PAGE_MANY;
    return !atomic_load(&p->code); /* whether or not there was something to say: who marks it finds it said */
}

/* The entry is about to be filled: whether a CR3 load must find it. */
static void note_fill(struct tcpu *c, unsigned idx, unsigned i, bool global)
{
    uint64_t bit = 1ull << (i & 63);
    bool was_logged = tlb_is_valid(c, idx, i) && !(c->tlb_global[idx][i / 64] & bit);
    if (!global && !was_logged && c->tlb_log_len[idx] < TLB_SIZE)
        c->tlb_log[idx][c->tlb_log_len[idx]++] = (uint16_t)i;
    if (global)
        c->tlb_global[idx][i / 64] |= bit;
    else
        c->tlb_global[idx][i / 64] &= ~bit;
}

/* The entry's page is known. p: NULL, or the page if it may be written. */
static void give_tags(struct tcpu *c, unsigned idx, uint64_t page, struct page_info *p)
{
    unsigned i = tlb_slot(page);
    struct tlb_entry *e = &c->tlb[idx][i];
    bool write = p && mmu_claim_write(c, p, page);
    e->tag_r = page;
    e->tag_w = write ? page : tlb_invalid_tag(i);
    if (write)
        c->tlb_written[idx][i] = (uint16_t)(e->hpage >> 12);
}

static uint64_t *large_seen(struct tcpu *c, uint64_t lin)
{
    return &c->large_seen[lin >> 63][(lin >> 27) % LARGE_WORDS];
}

void mmu_note_large(struct tcpu *c, uint64_t lin, unsigned shift, bool global)
{
    if (shift <= 12)
        return;
    *large_seen(c, lin) |= 1ull << ((lin >> 21) & 63);
    if (!(lin >> 63))
        c->large_user |= global ? LARGE_GLOBAL : 1;
    if (shift >= 30)
        c->huge_seen |= 1ull << ((lin >> 30) & 63);
}

/* Nothing of it is left in the TLB, unless it is global. */
static void leave_large(struct tcpu *c, struct space *to)
{
    if (to)
        to->large_user = c->large_user;
    if (!c->large_user)
        return;
    if (to)
        light_copy(to->large_seen, c->large_seen[0], sizeof to->large_seen);
    if (c->large_user & LARGE_GLOBAL)
        return;
    light_zero(c->large_seen[0], sizeof c->large_seen[0]);
    c->large_user = 0;
}

static void put_large(struct tcpu *c, const struct space *s)
{
    for (unsigned i = 0; s->large_user && i < LARGE_WORDS; i++)
        c->large_seen[0][i] |= s->large_seen[i];
    c->large_user |= s->large_user;
}

struct tlb_entry *tlb_fill(struct tcpu *c, unsigned idx, uint64_t lin, const struct walk *w,
                           struct tvm_slot *slot)
{
    unsigned i = tlb_slot(lin);
    struct tlb_entry *e = &c->tlb[idx][i];
    uint64_t page = lin & PAGE_MASK, gpage = w->gpa & PAGE_MASK;
    note_fill(c, idx, i, w->global);
    mmu_note_large(c, lin, w->shift, w->global);
    ram_large_meet(c, slot, gpage - slot->gpa);
    e->hpage = (uint64_t)(uintptr_t)slot->hva + (gpage - slot->gpa);
    e->delta = e->hpage - page;
    give_tags(c, idx, page, w->writable ? &slot->pages[(gpage - slot->gpa) >> 12] : NULL);
    c->counters[TC_TLB_FILL]++;
    return e;
}

static void drop_write_tag(struct tcpu *c, unsigned idx, unsigned i, uint64_t hpage)
{
    if (c->tlb[idx][i].hpage == hpage)
        c->tlb[idx][i].tag_w = tlb_invalid_tag(i);
}

void mmu_drop_write_tags(struct tcpu *c, uint64_t hpage, uint32_t page)
{
    const uint64_t ones = 0x0001000100010001ull, wanted = ones * (uint16_t)(hpage >> 12);
    direct_drop_writes(c, hpage);
    for (unsigned idx = 0; idx < MMU_COUNT; idx++) {
        if (page != PAGE_MANY) {
            drop_write_tag(c, idx, page & (TLB_SIZE - 1), hpage);
            continue;
        }
        for (unsigned i = 0; i < TLB_SIZE; i += 4) { /* four at once: is one of them 0? */
            uint64_t x;
            __builtin_memcpy(&x, &c->tlb_written[idx][i], sizeof x);
            x ^= wanted;
            if (!((x - ones) & ~x & ones << 15))
                continue;
            for (unsigned k = i; k < i + 4; k++)
                drop_write_tag(c, idx, k, hpage);
        }
    }
}

static void flush_jumps_of(struct tcpu *c, unsigned idx)
{
    for (unsigned k = 0; k < c->jc_log_len[idx]; k++)
        c->jc[idx][c->jc_log[idx][k]].pc = JC_EMPTY;
    c->jc_log_len[idx] = 0;
}

void jc_put(struct tcpu *c, unsigned idx, uint64_t pc, uint64_t host)
{
    unsigned i = jc_hash(pc);
    struct jc_entry *e = &c->jc[idx][i];
    if (i == 0)
        return;
    if (e->pc == JC_EMPTY)
        c->jc_log[idx][c->jc_log_len[idx]++] = (uint16_t)i;
    *e = (struct jc_entry){ pc, host };
}

void mmu_flush_jump_cache(struct tcpu *c)
{
    for (unsigned idx = 0; idx < MMU_COUNT; idx++)
        flush_jumps_of(c, idx);
    for (unsigned i = 0; i < ITLB_SIZE; i++)
        c->itlb[i].idx_plus1 = 0;
    light_zero(c->itlb_nonglobal, sizeof c->itlb_nonglobal);
    light_zero(c->user_bloom, sizeof c->user_bloom);
    light_zero(c->exec_bloom, sizeof c->exec_bloom);
}

/* Empties the entry that is in the log at k, where the log's last then stands. */
static void drop_jump(struct tcpu *c, unsigned idx, unsigned k)
{
    unsigned i = c->jc_log[idx][k];
    c->jc[idx][i].pc = JC_EMPTY;
    c->jc_log[idx][k] = c->jc_log[idx][--c->jc_log_len[idx]];
}

void mmu_drop_jumps_into(struct tcpu *c, const uint8_t *host, uint64_t len)
{
    for (unsigned idx = 0; idx < MMU_COUNT; idx++) {
        for (unsigned k = 0; k < c->jc_log_len[idx];) {
            const struct jc_entry *e = &c->jc[idx][c->jc_log[idx][k]];
            if (e->host - (uint64_t)(uintptr_t)host < len) {
                drop_jump(c, idx, k);
            } else {
                k++;
            }
        }
    }
}

void mmu_follow_jumps(struct tcpu *c)
{
    for (unsigned idx = 0; idx < MMU_COUNT; idx++) {
        for (unsigned k = 0; k < c->jc_log_len[idx]; k++) {
            struct jc_entry *e = &c->jc[idx][c->jc_log[idx][k]];
            e->host = (uint64_t)(uintptr_t)cache_successor((const uint8_t *)(uintptr_t)e->host);
        }
    }
}

/* Takes out what is not global. to: NULL, or the record that it goes to. */
static void take_entries(struct tcpu *c, unsigned idx, struct space *to)
{
    bool all = c->tlb_log_len[idx] == TLB_SIZE; /* the log may have overflowed: look at every entry */
    for (unsigned k = 0; k < c->tlb_log_len[idx]; k++) {
        unsigned i = all ? k : c->tlb_log[idx][k];
        const struct tlb_entry *e = &c->tlb[idx][i];
        if (c->tlb_global[idx][i / 64] & (1ull << (i & 63)))
            continue;
        if (to && to->tlb_count < SPACE_TLB && e->tag_r != tlb_invalid_tag(i))
            to->tlb[to->tlb_count++] =
                (struct space_tlb){ e->tag_r | idx | (e->tag_w == e->tag_r ? SPACE_W : 0), e->hpage };
        tlb_invalidate(c, idx, i);
    }
    c->tlb_log_len[idx] = 0;
}

/* Takes out what is global: all that take_entries leaves. */
static void drop_global(struct tcpu *c, unsigned idx)
{
    for (unsigned w = 0; w < TLB_SIZE / 64; w++) {
        for (; c->tlb_global[idx][w]; c->tlb_global[idx][w] &= c->tlb_global[idx][w] - 1)
            tlb_invalidate(c, idx, w * 64 + (unsigned)__builtin_ctzll(c->tlb_global[idx][w]));
    }
}

void mmu_flush_all(struct tcpu *c)
{
    c->flush_gen++;
    for (unsigned idx = 0; idx < MMU_COUNT; idx++) {
        take_entries(c, idx, NULL);
        drop_global(c, idx);
    }
    light_zero(c->large_seen, sizeof c->large_seen);
    c->huge_seen = 0;
    c->large_user = 0;
    c->user_global_code = 0;
    atomic_fetch_add(&c->tag_gen, 1);
    direct_forget_all(c);
    mmu_flush_pcids(c);
    mmu_flush_jump_cache(c);
    fixed_verify_all(c);
    c->counters[TC_FLUSH_ALL]++;
}

/* ---- address spaces that are not loaded ---- */

static struct space *space_of(struct tcpu *c, uint64_t pcid)
{
    for (unsigned k = 0; k < SPACES; k++) {
        if (c->spaces[k].used && c->spaces[k].pcid == pcid)
            return &c->spaces[k];
    }
    return NULL;
}

/* A free record, or the one that has been there longest. */
static struct space *space_new(struct tcpu *c, uint64_t pcid)
{
    struct space *s = NULL;
    for (unsigned k = 0; k < SPACES && !s; k++)
        s = c->spaces[k].used ? NULL : &c->spaces[k];
    if (!s)
        s = &c->spaces[c->space_next++ % SPACES];
    s->used = 1;
    s->pcid = (uint16_t)pcid;
    s->tlb_count = s->jc_count = 0;
    return s;
}

static void take_jumps(struct tcpu *c, struct space *to)
{
    unsigned n = c->user_global_code ? 0 : c->jc_log_len[MMU_U];
    for (unsigned k = 0; k < n && to->jc_count < SPACE_JC; k++)
        to->jc[to->jc_count++] = c->jc[MMU_U][c->jc_log[MMU_U][k]];
    to->jc_mode = c->jc_mode[MMU_U];
    to->cache_gen = atomic_load(&c->vm->cache->flush_gen);
}

static void put_entries(struct tcpu *c, const struct space *s)
{
    for (unsigned k = 0; k < s->tlb_count; k++) {
        uint64_t page = s->tlb[k].tag & PAGE_MASK, hpage = s->tlb[k].hpage;
        unsigned idx = s->tlb[k].tag & SPACE_IDX, i = tlb_slot(page);
        struct tlb_entry *e = &c->tlb[idx][i];
        note_fill(c, idx, i, false);
        e->hpage = hpage;
        e->delta = hpage - page;
        give_tags(c, idx, page, s->tlb[k].tag & SPACE_W ? tvm_page_of_host(c->vm, hpage) : NULL);
    }
}

/* The last page that an instruction at pc can reach: a block of one that runs into the next page is found by
 * its address too, and goes when either page does. */
static uint64_t page_reached(uint64_t pc)
{
    return (pc + 14) >> 12;
}

static void put_jumps(struct tcpu *c, const struct space *s)
{
    if (s->jc_mode != c->jc_mode[MMU_U] || s->cache_gen != atomic_load(&c->vm->cache->flush_gen))
        return;
    for (unsigned k = 0; k < s->jc_count; k++) {
        jc_put(c, MMU_U, s->jc[k].pc, s->jc[k].host);
        note_exec(c, MMU_U, s->jc[k].pc >> 12);
        note_exec(c, MMU_U, page_reached(s->jc[k].pc));
    }
}

/* Takes itlb entries out that are not global. Whether there was supervisor code among them. */
static bool take_code_pages(struct tcpu *c)
{
    bool super = false;
    for (unsigned w = 0; w < ITLB_SIZE / 64; w++) {
        for (; c->itlb_nonglobal[w]; c->itlb_nonglobal[w] &= c->itlb_nonglobal[w] - 1) {
            struct itlb_entry *e = &c->itlb[w * 64 + (unsigned)__builtin_ctzll(c->itlb_nonglobal[w])];
            if (!e->idx_plus1 || (e->pad & 1))
                continue;
            super |= e->idx_plus1 - 1 != MMU_U;
            e->idx_plus1 = 0;
        }
    }
    return super;
}

/* Drops what is not global, or moves it to a record. */
static void leave_space(struct tcpu *c, struct space *to)
{
    c->flush_gen++;
    for (unsigned idx = 0; idx < MMU_COUNT; idx++)
        take_entries(c, idx, to);
    leave_large(c, to);
    if (to)
        take_jumps(c, to);
    /* Kernel text is global; user code is not. Jump caches have no global bit, but the index separates the
     * two except for supervisor code in pages that are not global, which itlb entries tell apart. */
    if (take_code_pages(c) || c->nonglobal_super_code) {
        mmu_flush_jump_cache(c);
        c->nonglobal_super_code = 0;
    } else {
        flush_jumps_of(c, MMU_U);
        if (!c->user_global_code) /* nothing of MMU_U is left */
            light_zero(c->user_bloom, sizeof c->user_bloom);
    }
    c->counters[TC_FLUSH_NONGLOBAL]++;
}

void mmu_flush_nonglobal(struct tcpu *c)
{
    if (!(c->cr4 & CR4_PGE)) {
        mmu_flush_all(c);
        direct_change_space(c);
        return;
    }
    leave_space(c, NULL);
    direct_forget_pcid(c, direct_pcid(c));
    direct_change_space(c);
    fixed_check_space(c);
}

void mmu_flush_pcid(struct tcpu *c, uint64_t pcid)
{
    struct space *s = space_of(c, pcid);
    if (s)
        s->used = 0;
    direct_forget_pcid(c, pcid);
}

void mmu_flush_pcids(struct tcpu *c)
{
    direct_forget_others(c);
    for (unsigned k = 0; k < SPACES; k++)
        c->spaces[k].used = 0;
}

void mmu_change_space(struct tcpu *c, uint64_t old_pcid, uint64_t pcid, bool keep)
{
    if (!(c->cr4 & CR4_PGE)) {
        mmu_flush_all(c);
        direct_change_space(c);
        return;
    }
    if (!keep)
        mmu_flush_pcid(c, pcid);
    if (pcid != old_pcid || !keep)
        leave_space(c, pcid == old_pcid ? NULL : space_new(c, old_pcid));
    struct space *s = space_of(c, pcid);
    if (s) {
        put_entries(c, s);
        put_large(c, s);
        put_jumps(c, s);
        s->used = 0;
    }
    direct_change_space(c);
    fixed_check_space(c);
}

/* Takes out what is in pages [first, first + count), a power of two and so aligned. */
static void drop_pages(struct tcpu *c, unsigned idx, unsigned i, uint64_t first, uint64_t count)
{
    const struct tlb_entry *e = &c->tlb[idx][i];
    if (((e->tag_r >> 12) & ~(count - 1)) == first || ((e->tag_w >> 12) & ~(count - 1)) == first)
        tlb_invalidate(c, idx, i);
}

static void drop_jumps(struct tcpu *c, unsigned idx, uint64_t first, uint64_t count)
{
    for (unsigned k = 0; k < c->jc_log_len[idx];) {
        struct jc_entry *e = &c->jc[idx][c->jc_log[idx][k]];
        if (((e->pc >> 12) & ~(count - 1)) == first || (page_reached(e->pc) & ~(count - 1)) == first) {
            drop_jump(c, idx, k);
        } else {
            k++;
        }
    }
}

static void drop_code(struct tcpu *c, uint64_t first, uint64_t count)
{
    for (unsigned idx = 0; idx < MMU_COUNT; idx++)
        drop_jumps(c, idx, first, count);
    for (unsigned i = 0; i < ITLB_SIZE; i++) {
        if (((c->itlb[i].vpage >> 12) & ~(count - 1)) == first)
            c->itlb[i].idx_plus1 = 0;
    }
}

/* A large page sits in the TLB as fragments of 4 KiB, but INVLPG anywhere in it drops it whole
 * (SDM 4.10.4.1). */
static void flush_large_page(struct tcpu *c, uint64_t lin)
{
    uint64_t first = (lin >> 12) & ~511ull;
    for (unsigned idx = 0; idx < MMU_COUNT; idx++) {
        for (unsigned i = 0; i < 512; i++)
            drop_pages(c, idx, (unsigned)(first + i) & (TLB_SIZE - 1), first, 512);
    }
    uint64_t any = 0;
    for (unsigned k = 0; k < 8; k++)
        any |= noted_exec(c, first + 64 * k);
    if (any)
        drop_code(c, first, 512);
    fixed_verify(c, lin);
}

void mmu_flush_page(struct tcpu *c, uint64_t lin)
{
    uint64_t n = lin >> 12;
    c->flush_gen++;
    c->counters[TC_FLUSH_PAGE]++;
    direct_forget_page(c, lin);
    if (c->huge_seen & (1ull << ((lin >> 30) & 63))) {
        mmu_flush_all(c);
        return;
    }
    if (*large_seen(c, lin) & (1ull << ((lin >> 21) & 63))) {
        flush_large_page(c, lin);
        return;
    }
    for (unsigned idx = 0; idx < MMU_COUNT; idx++)
        drop_pages(c, idx, tlb_slot(lin), n, 1);
    if (noted_exec(c, n) & (1ull << (n & 63)))
        drop_code(c, n, 1);
    fixed_verify(c, lin);
}
