/* Mirrors: what the processes of direct execution have of the guest's memory. Light.
 *
 * Theory of operation. A mirror is a TLB that host mappings stand for entries of: it has a page only if the
 * guest's tables gave it to user code and nothing since would have made a CPU forget it. So each function
 * that empties the software TLB (mmu_tlb.c) comes here too. Mirrors are kept for PCIDs that are not loaded,
 * as TLB entries are. What is forgotten is noted in `changes` and done before the process runs again, since
 * it does not run meanwhile.
 *
 * To give a page takes far longer than to look it up in the guest's tables. So when a whole PCID is
 * forgotten, which guests do when they take more than a few pages from a program, its mirror is only in
 * doubt: before it runs again, what the tables do not say any more is taken away (mirror_check), and the rest
 * is as if it had been asked for again.
 *
 * Giving and checking pages is in direct_bring.c. */
#include "engine/translator/direct_priv.h"

#include "engine/translator/cache.h"
#include "engine/translator/mmu.h"
#include "engine/translator/mmu_tlb.h"

uint64_t direct_pcid(const struct tcpu *c)
{
    return c->cr4 & CR4_PCIDE ? c->cr3 & 0xfff : 0;
}

struct direct_space *direct_space_of(struct direct *d, uint64_t pcid)
{
    for (unsigned i = 0; i < DIRECT_SPACES; i++) {
        if (d->spaces[i].taken && d->spaces[i].pcid == pcid)
            return &d->spaces[i];
    }
    return NULL;
}

/* ---- the table ---- */

static unsigned hash(uint64_t n, unsigned bits)
{
    return (unsigned)(n * 0x9e3779b1u >> (32 - bits)) & ((1u << bits) - 1);
}

struct mirror_page *mirror_slot(struct direct_space *s, uint64_t page)
{
    unsigned i = hash(page >> 12, s->bits);
    while (s->pages[i].gen == s->gen && mirror_va(&s->pages[i]) != page)
        i = (i + 1) & (mirror_slots(s) - 1);
    return &s->pages[i];
}

static uint32_t *chain(struct direct_space *s, uint64_t gpage)
{
    return &s->chains[hash(gpage >> 12, s->bits - CHAINS_BITS_LESS)];
}

void mirror_put(struct direct_space *s, uint64_t page, uint64_t gpage, unsigned prot)
{
    struct mirror_page *p = mirror_slot(s, page);
    uint32_t self = (uint32_t)(p - s->pages) + 1, *link;
    if (p->gen == s->gen) {
        link = chain(s, mirror_gpa(p));
        while (*link != self)
            link = &s->pages[*link - 1].next;
        *link = p->next;
    } else {
        s->count++;
    }
    link = chain(s, gpage);
    *p = (struct mirror_page){ .number = (uint32_t)(page >> 12),
                               .number_high = (uint8_t)(page >> 44),
                               .prot = (uint8_t)prot,
                               .gen = s->gen,
                               .frame = (uint32_t)(gpage >> 12),
                               .next = *link };
    *link = self;
}

struct mirror_page *mirror_find(struct direct_space *s, uint64_t page)
{
    struct mirror_page *p = mirror_slot(s, page);
    return p->gen == s->gen ? p : NULL;
}

void mirror_wipe(struct direct_space *s)
{
    s->pieces = s->huge = s->doubt = false;
    if (s->count == 0 && s->change_count == 0)
        return;
    s->wipe = true;
    s->count = s->change_count = 0;
    if (++s->gen == 0) {
        light_zero(s->pages, mirror_slots(s) * sizeof *s->pages);
        s->gen = 1;
    }
    light_zero(s->chains, mirror_chains(s) * sizeof *s->chains);
    for (unsigned i = 0; i < MIRROR_LARGE; i++)
        s->large[i].prot = 0;
    for (unsigned i = 0; i < USERPROC_BREAKS; i++) {
        s->breaks_changed |= s->breaks[i] != 0;
        s->breaks[i] = 0;
    }
    light_zero(s->unfit, sizeof s->unfit);
}

bool mirror_change(struct direct_space *s, uint64_t va, uint64_t len, uint64_t offset, unsigned prot)
{
    if (s->change_count == MIRROR_CHANGES) {
        mirror_wipe(s);
        return false;
    }
    s->changes[s->change_count++] = (struct userproc_map){ va, len, offset, prot };
    return true;
}

/* Of a page that does not run any more. */
static void take_breaks(struct direct_space *s, uint64_t page)
{
    for (unsigned i = 0; i < USERPROC_BREAKS; i++) {
        if (s->breaks[i] && (s->breaks[i] & PAGE_MASK) == page) {
            s->breaks[i] = 0;
            s->breaks_changed = true;
        }
    }
}

void mirror_take_page(struct direct_space *s, struct mirror_page *p)
{
    if (!p->prot)
        return;
    if (p->prot & USERPROC_X)
        take_breaks(s, mirror_va(p));
    p->prot = 0;
    mirror_change(s, mirror_va(p), PAGE_SIZE, 0, 0);
}

void mirror_take_large(struct direct_space *s, struct mirror_large *l)
{
    l->prot = 0;
    mirror_change(s, l->base, LARGE_PAGE, 0, 0);
}

void mirror_take_frame(struct direct_space *s, uint64_t gpage, unsigned prot)
{
    for (unsigned i = 0; i < MIRROR_LARGE; i++) {
        if ((s->large[i].prot & prot) && gpage - s->large[i].gpa < LARGE_PAGE)
            mirror_take_large(s, &s->large[i]);
    }
    /* Each may be one change too many, and then there is nothing left to take. */
    for (uint32_t n = s->count ? *chain(s, gpage) : 0; n && s->count;) {
        struct mirror_page *p = &s->pages[n - 1];
        n = p->next;
        if (p->gen == s->gen && (p->prot & prot) && mirror_gpa(p) == gpage)
            mirror_take_page(s, p);
    }
}

struct mirror_large *mirror_large_at(struct direct_space *s, uint64_t lin)
{
    for (unsigned i = 0; i < MIRROR_LARGE; i++) {
        if (s->large[i].prot && lin - s->large[i].base < LARGE_PAGE)
            return &s->large[i];
    }
    return NULL;
}

/* ---- what the MMU tells ---- */

void direct_forget_all(struct tcpu *c)
{
    struct direct *d = c->direct;
    if (!d)
        return;
    for (unsigned i = 0; i < DIRECT_SPACES; i++)
        mirror_wipe(&d->spaces[i]);
    light_zero(d->written, sizeof d->written);
}

void direct_forget_pcid(struct tcpu *c, uint64_t pcid)
{
    struct direct_space *s = c->direct ? direct_space_of(c->direct, pcid) : NULL;
    if (s)
        s->doubt = s->count > 0;
}

void direct_forget_others(struct tcpu *c)
{
    for (unsigned i = 0; c->direct && i < DIRECT_SPACES; i++) {
        struct direct_space *s = &c->direct->spaces[i];
        if (s != c->direct->loaded)
            s->doubt = s->count > 0;
    }
}

/* Pages of 4 KiB that may be of a larger one of the guest's: INVLPG anywhere in that means all of it (SDM
 * volume 3, 4.10.4.1). */
static void take_pieces(struct direct_space *s, uint64_t base)
{
    for (uint64_t at = 0; at < LARGE_PAGE; at += PAGE_SIZE) {
        struct mirror_page *p = mirror_find(s, base + at);
        if (p)
            mirror_take_page(s, p);
    }
}

void direct_forget_page(struct tcpu *c, uint64_t lin)
{
    struct direct_space *s = c->direct ? c->direct->loaded : NULL;
    if (!s || s->count == 0)
        return;
    if (s->huge) {
        mirror_wipe(s);
        return;
    }
    struct mirror_large *l = mirror_large_at(s, lin);
    struct mirror_page *p = mirror_find(s, lin & PAGE_MASK);
    if (l)
        mirror_take_large(s, l);
    if (p)
        mirror_take_page(s, p);
    if (s->pieces)
        take_pieces(s, lin & ~(LARGE_PAGE - 1));
    *mirror_unfit(s, lin) = 0;
}

void direct_change_space(struct tcpu *c)
{
    struct direct *d = c->direct;
    if (!d)
        return;
    d->loaded = direct_space_of(d, direct_pcid(c));
    direct_find_heat(c);
}

uint64_t *direct_written(struct direct *d, uint64_t gpage)
{
    return &d->written[(gpage >> 18) % array_size(d->written)];
}

static uint64_t gpage_of_host(const struct tvm *vm, uint64_t hpage)
{
    for (unsigned i = 0; i < vm->slot_count; i++) {
        const struct tvm_slot *s = &vm->slots[i];
        if (hpage - (uint64_t)(uintptr_t)s->hva < s->len)
            return s->gpa + (hpage - (uint64_t)(uintptr_t)s->hva);
    }
    return ~0ull;
}

void direct_drop_writes(struct tcpu *c, uint64_t hpage)
{
    struct direct *d = c->direct;
    if (!d)
        return;
    uint64_t gpage = gpage_of_host(c->vm, hpage), bit = 1ull << ((gpage >> 12) & 63);
    if (!(*direct_written(d, gpage) & bit))
        return;
    for (unsigned i = 0; i < DIRECT_SPACES; i++) {
        if (d->spaces[i].taken)
            mirror_take_frame(&d->spaces[i], gpage, USERPROC_W);
    }
}
