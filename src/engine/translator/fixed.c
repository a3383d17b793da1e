/* Blocks of fixed linear address: kernel code.
 *
 * Theory of operation. An ordinary block does not know where in the linear address space it runs, so
 * everything that leaves its page goes through the jump cache. Kernels have most of their code in the top 2
 * GiB, in global pages that are the same in all address spaces and change rarely. Code there is made into
 * blocks that know their linear page (MODE_FIXED, part of the block's key): RIP-relative addresses and return
 * addresses are constants, and direct jumps and calls lead straight to the other block, in whatever page it
 * is.
 *
 * Such a jump asserts that the target's linear page is mapped, for execution, to the physical page that the
 * target block was made from. What makes the assertion true for every vCPU that may follow the jump:
 *  - A vCPU runs fixed blocks only while entry 511 of its top-level page table has one certain value
 * (`root`): all of them then share the tables below it. It is looked at when CR3 or the paging mode changes
 * (fixed_check_space).
 *  - Jumps are made only to global pages. An entry of a page table may be cached by the CPU until INVLPG, or
 * a flush that takes global entries too (SDM volume 3, 4.10.2.4 and 4.10.4), so a changed mapping may be
 * ignored until then. At that instruction, on whichever vCPU, the pages concerned are walked again
 * (fixed_verify), and jumps into those that are mapped otherwise are put back to what they were before they
 * were made. Each page that is jumped into has a list of the places to put back. Jumps inside one page need
 * no assertion of their own: their page was reached by one.
 *
 * The tables are of limited size: when they are full no more jumps are made. What is in a segment of the
 * cache that is emptied leaves them. A root that no vCPU has used while the whole cache was filled is given
 * up, for that kernel is no more: then all jumps are undone.
 */
#include "engine/translator/fixed.h"
#include "engine/translator/mmu.h"

#define PTE_PRESENT 1ull
#define PTE_ACCESSED 0x20ull

static unsigned region_of(uint64_t lin)
{
    return (unsigned)((lin - FIXED_FIRST) >> 21);
}

void fixed_check_space(struct tcpu *c)
{
    struct fixed *f = c->vm->cache->fixed;
    c->fixed_ok = 0;
    if (!cpu_long_mode(c) || (c->cr4 & (CR4_PGE | CR4_LA57)) != CR4_PGE)
        return;
    const uint8_t *top = tvm_hva(c->vm, c->cr3 & 0x000ffffffffff000ull);
    if (!top)
        return;
    uint64_t entry = __atomic_load_n((const uint64_t *)(const void *)(top + 511 * 8), __ATOMIC_ACQUIRE);
    if (!(entry & PTE_PRESENT))
        return;
    entry |= PTE_ACCESSED;
    uint64_t none = 0;
    atomic_compare_exchange_strong(&f->root, &none, entry);
    c->fixed_ok = atomic_load(&f->root) == entry;
    if (c->fixed_ok && !atomic_load_explicit(&f->root_used, memory_order_relaxed))
        atomic_store(&f->root_used, 1);
}

bool fixed_wanted(struct tcpu *c, uint64_t vpage)
{
    return c->fixed_ok && vpage >= FIXED_FIRST && c->mmu_idx != MMU_U && c->code_bits == 64 &&
           mmu_code_global(c, vpage);
}

static struct fixed_page *find_page(struct fixed *f, uint64_t vpage)
{
    for (uint32_t i = f->regions[region_of(vpage)]; i; i = f->pages[i - 1].next) {
        if (f->pages[i - 1].vpage == (int32_t)vpage)
            return &f->pages[i - 1];
    }
    return NULL;
}

/* Takes the page's jumps back: all of them, or (segment) those into that segment; jumps that stand in it are
 * forgotten. */
#define ALL_SEGMENTS CACHE_SEGMENTS
static void unlink_jumps(struct code_cache *cc, struct fixed_page *p, unsigned segment)
{
    struct fixed *f = cc->fixed;
    for (uint32_t *at = &p->links; *at;) {
        uint32_t i = *at;
        struct fixed_link *l = &f->links[i - 1];
        bool gone = cache_segment_of(cc, l->site) == segment;
        bool wanted = segment == ALL_SEGMENTS || cache_segment_of(cc, l->target) == segment;
        if (!gone && !wanted) {
            at = &l->next;
            continue;
        }
        if (!gone)
            cache_patch_disp(cc, l->site, l->unlinked);
        *at = l->next;
        l->next = f->free_links;
        f->free_links = i;
    }
}

static void unlink_page(struct code_cache *cc, struct fixed_page *p)
{
    unlink_jumps(cc, p, ALL_SEGMENTS);
    p->gpage = ~0ull;
}

void fixed_evict(struct tvm *vm, unsigned segment)
{
    struct code_cache *cc = vm->cache;
    struct fixed *f = cc->fixed;
    bool round = cc->fillings % cc->segment_count == 0, forget = round && !atomic_load(&f->root_used);
    for (unsigned r = 0; r < FIXED_REGIONS; r++) {
        for (uint32_t *at = &f->regions[r]; *at;) {
            uint32_t i = *at;
            struct fixed_page *p = &f->pages[i - 1];
            unlink_jumps(cc, p, segment);
            if (forget)
                unlink_page(cc, p);
            if (p->links) {
                at = &p->next;
                continue;
            }
            *at = p->next;
            p->next = f->free_pages;
            f->free_pages = i;
        }
    }
    if (round)
        atomic_store(&f->root_used, 0);
    if (!forget)
        return;
    atomic_store(&f->root, 0);
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        vm->cpus[i]->fixed_ok = 0;
        mmu_flush_jump_cache(vm->cpus[i]);
    }
}

/* code_lock held. */
static void verify_region(struct tcpu *c, unsigned region)
{
    struct fixed *f = c->vm->cache->fixed;
    uint64_t gpa = 0;
    struct mmu_mapping m = { 0 };
    for (uint32_t i = f->regions[region]; i; i = f->pages[i - 1].next) {
        struct fixed_page *p = &f->pages[i - 1];
        uint64_t vpage = (uint64_t)(int64_t)p->vpage;
        if (!p->links)
            continue;
        if (m.shift < 21) { /* a large page holds the whole region: one walk is enough */
            if (!mmu_code_mapping(c, vpage, &m))
                m = (struct mmu_mapping){ 0 };
        }
        gpa = m.shift ? (m.gpa & ~((1ull << m.shift) - 1)) + (vpage & ((1ull << m.shift) - 1)) : ~0ull;
        if (!m.global || gpa != p->gpage)
            unlink_page(c->vm->cache, p);
    }
}

void fixed_verify(struct tcpu *c, uint64_t lin)
{
    struct fixed *f = c->vm->cache->fixed;
    if (lin < FIXED_FIRST || !f->regions[region_of(lin)])
        return;
    fixed_check_space(c);
    if (!c->fixed_ok)
        return;
    tvm_code_lock(c->vm);
    verify_region(c, region_of(lin));
    tvm_code_unlock(c->vm);
}

void fixed_verify_all(struct tcpu *c)
{
    struct fixed *f = c->vm->cache->fixed;
    fixed_check_space(c);
    if (!c->fixed_ok || !f->page_count)
        return;
    tvm_code_lock(c->vm);
    for (unsigned r = 0; r < FIXED_REGIONS; r++) {
        if (f->regions[r])
            verify_region(c, r);
    }
    tvm_code_unlock(c->vm);
}

/* The page's entry, made if it is not there; NULL: the table is full, or jumps that others made say
 * otherwise. */
static struct fixed_page *take_page(struct fixed *f, uint64_t vpage, uint64_t gpage)
{
    struct fixed_page *p = find_page(f, vpage);
    if (!p) {
        uint32_t i = f->free_pages, *head = &f->regions[region_of(vpage)];
        if (i)
            f->free_pages = f->pages[i - 1].next;
        else if (f->page_count < FIXED_PAGES)
            i = ++f->page_count;
        else
            return NULL;
        p = &f->pages[i - 1];
        *p = (struct fixed_page){ .vpage = (int32_t)vpage, .next = *head, .gpage = gpage };
        *head = i;
    }
    if (!p->links)
        p->gpage = gpage;
    return p->gpage == gpage ? p : NULL;
}

/* 0: none is left. */
static uint32_t take_link(struct fixed *f)
{
    uint32_t i = f->free_links;
    if (i)
        f->free_links = f->links[i - 1].next;
    else if (f->link_count < FIXED_LINKS)
        i = ++f->link_count;
    return i;
}

void fixed_link(struct tcpu *c, uint32_t site, struct tb *tb, uint32_t gen, bool same_page)
{
    struct code_cache *cc = c->vm->cache;
    struct fixed *f = cc->fixed;
    tvm_code_lock(c->vm);
    int32_t disp = __atomic_load_n((int32_t *)(void *)(cc->mem.rw + site), __ATOMIC_RELAXED);
    bool unlinked = site + 4 + (uint32_t)disp >= cc->hot_end; /* it leads to cold code still */
    struct fixed_page *p = NULL;
    bool good = gen == atomic_load(&cc->flush_gen) && (tb->mode & MODE_FIXED) && tb_is_local(tb) &&
                !atomic_load(&tb->dead) && unlinked && c->fixed_ok;
    if (good && same_page)
        c->counters[TC_LINKS] += cache_link_jump(cc, site, tb);
    else if (good)
        p = take_page(f, (uint64_t)(int64_t)tb->vpage, tb_gpage(tb));
    uint32_t link = p ? take_link(f) : 0;
    if (link) {
        f->links[link - 1] = (struct fixed_link){ site, disp, tb->hot, p->links };
        p->links = link;
        cache_patch_disp(cc, site, (int32_t)(tb->hot - (site + 4)));
        c->counters[TC_LINKS]++;
    }
    tvm_code_unlock(c->vm);
}
