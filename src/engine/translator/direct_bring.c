/* Mirrors of direct execution: giving them pages, and looking whether they still are the guest's. Heavy.
 *
 * Theory of operation. A page may be written in a mirror only if the vCPU could have a write tag for it: the
 * claim is the same (mmu_claim_write), and who takes write tags away takes it away here as well
 * (direct_drop_writes). A page may run only while it is marked as code, and so that somebody looked at it
 * (page_info.direct): then nobody has a write tag for it, and a store to it by whomever takes the mark away,
 * counts tvm.direct_gen on and calls all vCPUs out of their processes.
 *
 * What one page's fault asks for, pages around it are given too, as far as the guest has used them; of code
 * only those that need no breakpoints, which the page that is wanted may need. Global
 * pages are not mirrored: INVLPG under any PCID would have to reach them. Large pages that hold no code are
 * one mapping. */
#include <stdlib.h>
#include <string.h>

#include "engine/translator/direct_priv.h"

#include "engine/translator/cache.h"
#include "engine/translator/mmu.h"
#include "engine/translator/mmu_tlb.h"

#define USER_END 0x7ffffffff000ull
#define USER_BEGIN 0x10000ull /* vm.mmap_min_addr */

/* Claims it for writing by this vCPU. */
static bool claim(struct tcpu *c, struct tvm_slot *slot, uint64_t gpage, uint64_t lin)
{
    if (!mmu_claim_write(c, &slot->pages[(gpage - slot->gpa) >> 12], lin))
        return false;
    *direct_written(c->direct, gpage) |= 1ull << ((gpage >> 12) & 63);
    return true;
}

static unsigned allowances(const struct tcpu *c)
{
    return (c->direct->cpuid_faults ? DIRECT_MAY_CPUID : 0) | (c->direct->tsc_can_trap ? DIRECT_MAY_TSC : 0) |
           (c->vm->direct_xsave_differs ? 0 : DIRECT_MAY_XSAVE);
}

/* Most breakpoints are in what runs once, at a program's start. And once a process has had any, each of its
 * stays takes a tenth longer, as the host keeps them for later. So they are for pages that are come to again
 * and again. */
#define BREAKS_AFTER 24 /* visits */

/* Has the process stop at these places of the page. Pages that have had theirs for longest do not run any
 * more where there are not enough for all: the one that is wanted now is worth more. */
static void put_breaks(struct direct_space *s, uint64_t page, const struct direct_sites *sites)
{
    for (unsigned i = 0; i < sites->count; i++) {
        unsigned slot = (s->break_next + i) % USERPROC_BREAKS;
        struct mirror_page *p = s->breaks[slot] ? mirror_find(s, s->breaks[slot] & PAGE_MASK) : NULL;
        if (p && mirror_va(p) != page)
            mirror_take_page(s, p); /* which may wipe everything, so before any is put */
    }
    for (unsigned i = 0; i < sites->count; i++, s->break_next++, s->breaks_changed = true) {
        s->breaks[s->break_next % USERPROC_BREAKS] = page + sites->at[i];
        s->breaks_last[s->break_next % USERPROC_BREAKS] = page + sites->last[i];
    }
}

/* The same for a vDSO's, of which nobody reads the code: there the process has a copy of the page with traps
 * in it. They are in each program that asks for the time, and breakpoints would cost it a tenth of each stay.
 */
static bool put_traps(struct direct_space *s, uint64_t page, const struct direct_sites *sites)
{
    if (s->traps_changed && s->trap_page != page)
        return false; /* another page is to have its own first */
    s->trap_page = page;
    for (unsigned i = 0; i < sites->count; i++)
        s->traps[i] = page + sites->at[i];
    s->trap_count = (uint8_t)sites->count;
    s->traps_changed = true;
    return true;
}

/* What a page is given for. */
enum bring {
    BRING_DATA,
    BRING_CODE,
    BRING_CODE_AROUND, /* code, next to a page that is wanted */
};

/* What of the page is code, if it is of a vDSO. Its pages are in the kernel's own data, one behind the other;
 * the program need not have touched them all. */
static bool find_text(struct tvm *vm, uint64_t gpage, struct direct_text *text)
{
    uint8_t image[DIRECT_IMAGE];
    for (unsigned before = 0; before < DIRECT_IMAGE && before <= gpage; before += PAGE_SIZE) {
        const struct tvm_slot *slot = tvm_slot_of(vm, gpage - before);
        if (!slot || slot != tvm_slot_of(vm, gpage - before + DIRECT_IMAGE - 1))
            continue;
        const uint8_t *at = tvm_hva(vm, gpage - before);
        if (*at != 0x7f) /* no image begins here, as a rule: not worth the copy */
            continue;
        memcpy(image, at, DIRECT_IMAGE);
        if (direct_find_text(image, text)) {
            text->to = text->to > before ? text->to - before : 0;
            text->from = text->from > before ? text->from - before : 0;
            return true;
        }
    }
    return false;
}

/* Marks the page as code that runs directly; the rights that the process needs for it. 0: it may not, or as
 * one of those around not now. The vCPU's own write tags for it go, and while others lose theirs this one
 * stands still. */
static unsigned mark_runnable(struct tcpu *c, struct direct_space *s, uint64_t page, uint64_t gpage,
                              enum bring why)
{
    enum page_direct known = cache_direct(c->vm, gpage);
    struct mmu_peeked m;
    struct direct_sites sites;
    if (known == DIRECT_FIT)
        return USERPROC_X;
    if (known == DIRECT_UNKNOWN) {
        cpu_run_out(c);
        cache_mark_code(c->vm, c, gpage);
        cpu_run_in(c);
    }
    const uint8_t *before = mmu_peek(c, page - PAGE_SIZE, &m) ? tvm_hva(c->vm, m.gpa) : NULL;
    struct direct_text text;
    const struct direct_text *limits = find_text(c->vm, gpage, &text) ? &text : NULL;
    bool few = direct_scan(before, tvm_hva(c->vm, gpage), allowances(c), limits, &sites);
    if (!cache_mark_direct(c->vm, gpage, few && sites.count == 0 ? DIRECT_FIT : DIRECT_CARE))
        return 0;
    if (!few)
        mirror_set_unfit(s, page, 0);
    if (!few || (why == BRING_CODE_AROUND && sites.count))
        return 0;
    if (limits && sites.count)
        return put_traps(s, page, &sites) ? USERPROC_X | USERPROC_OWN : 0;
    if (sites.count && !c->direct->always && *mirror_unfit(s, page) != (page | MIRROR_UNFIT_WAS)) {
        mirror_set_unfit(s, page, BREAKS_AFTER);
        return 0;
    }
    put_breaks(s, page, &sites);
    return USERPROC_X;
}

/* Whether it may run next to the pages that do. */
static bool seams_are_fit(struct tcpu *c, struct direct_space *s, uint64_t page, uint64_t gpage)
{
    const struct mirror_page *before = mirror_find(s, page - PAGE_SIZE),
                             *behind = mirror_find(s, page + PAGE_SIZE);
    const uint8_t *at = tvm_hva(c->vm, gpage);
    return !(before && (before->prot & USERPROC_X) &&
             !direct_scan_seam(tvm_hva(c->vm, mirror_gpa(before)), at, allowances(c))) &&
           !(behind && (behind->prot & USERPROC_X) &&
             !direct_scan_seam(at, tvm_hva(c->vm, mirror_gpa(behind)), allowances(c)));
}

static bool seams_fit(struct tcpu *c, struct direct_space *s, uint64_t page, uint64_t gpage)
{
    bool fit = seams_are_fit(c, s, page, gpage);
    if (!fit)
        mirror_set_unfit(s, page, 0);
    return fit;
}

/* All of a large page, as one mapping. */
static bool bring_large(struct tcpu *c, struct direct_space *s, uint64_t lin, const struct mmu_peeked *m)
{
    uint64_t base = lin & ~(LARGE_PAGE - 1), gpa = m->gpa & ~(LARGE_PAGE - 1);
    struct tvm_slot *slot = tvm_slot_of(c->vm, gpa);
    struct mirror_large *l = NULL;
    bool write = m->writable;
    for (unsigned i = 0; i < MIRROR_LARGE && !l; i++)
        l = s->large[i].prot ? NULL : &s->large[i];
    if (!l || !slot || !slot->in_file || slot != tvm_slot_of(c->vm, gpa + LARGE_PAGE - 1) ||
        base + LARGE_PAGE > USER_END || (s->hole < base + LARGE_PAGE && base < s->hole + s->hole_len))
        return false;
    for (uint64_t at = 0; at < LARGE_PAGE; at += PAGE_SIZE) {
        if (atomic_load(&slot->pages[(gpa + at - slot->gpa) >> 12].code) || mmu_is_apic_page(c, gpa + at))
            return false;
    }
    for (uint64_t at = 0; at < LARGE_PAGE; at += PAGE_SIZE) {
        struct mirror_page *p = mirror_find(s, base + at);
        if (p)
            p->prot = 0; /* the mapping covers it */
    }
    for (uint64_t at = 0; write && at < LARGE_PAGE; at += PAGE_SIZE)
        write = claim(c, slot, gpa + at, base + at);
    s->huge |= m->shift > 21;
    *l = (struct mirror_large){ base, gpa, (uint8_t)(USERPROC_R | (write ? USERPROC_W : 0)) };
    s->count++;
    return mirror_change(s, base, LARGE_PAGE, slot->offset + (gpa - slot->gpa), l->prot);
}

/* The page that m is of. False: no more than there was. */
static bool bring_page(struct tcpu *c, struct direct_space *s, uint64_t page, const struct mmu_peeked *m,
                       enum bring why)
{
    bool exec = why != BRING_DATA;
    uint64_t gpage = m->gpa & PAGE_MASK;
    struct tvm_slot *slot = tvm_slot_of(c->vm, gpage);
    if (!slot || !slot->in_file || m->global || mmu_is_apic_page(c, gpage))
        return false;
    const struct mirror_page *p = mirror_find(s, page);
    unsigned had = p && mirror_gpa(p) == gpage ? p->prot : 0, prot = USERPROC_R;
    if ((exec || (had & USERPROC_X)) && m->exec) {
        unsigned run = had & (USERPROC_X | USERPROC_OWN);
        if (!run && (run = mark_runnable(c, s, page, gpage, why)) && !seams_fit(c, s, page, gpage))
            run = 0;
        prot |= run;
    }
    if (!(prot & USERPROC_X) && m->writable && claim(c, slot, gpage, page))
        prot |= USERPROC_W;
    if (!(prot & ~had) || (exec && !(prot & USERPROC_X)))
        return false;
    s->pieces |= m->shift > 12;
    s->huge |= m->shift > 21;
    mirror_put(s, page, gpage, prot);
    return mirror_change(s, page, PAGE_SIZE, slot->offset + (gpage - slot->gpa), prot);
}

static bool is_mirrored(const struct direct_space *s, uint64_t lin)
{
    return lin >= USER_BEGIN && lin < USER_END && lin - s->hole >= s->hole_len;
}

/* Looks lin up as the access that faulted would, so that its accessed bits are set. */
static bool look(struct tcpu *c, uint64_t lin, bool exec, struct mmu_peeked *m)
{
    struct tcpu_exception before = c->exc;
    uint64_t gpa;
    bool ok = mmu_peek(c, lin, m) ||
              (mmu_translate(c, lin, exec ? MMU_EXEC : MMU_READ, MMU_U, &gpa) && mmu_peek(c, lin, m));
    c->exc = before;
    return ok && (m->exec || !exec);
}

bool mirror_make_table(struct direct_space *s, unsigned bits)
{
    size_t slots = (size_t)1 << bits, chains = slots >> CHAINS_BITS_LESS;
    struct mirror_page *pages = calloc(1, slots * sizeof *pages + chains * sizeof *s->chains);
    if (!pages)
        return false;
    s->bits = (uint8_t)bits;
    s->pages = pages;
    s->chains = (uint32_t *)(void *)(pages + slots);
    s->count = 0;
    return true;
}

/* The table is half full: it becomes a larger one, up to a limit, at which all that is in it goes. Most
 * programs need little, and there are many tables. */
static void make_room(struct direct_space *s)
{
    struct mirror_page *old = s->pages;
    unsigned slots = mirror_slots(s);
    if (s->bits == MIRROR_BITS_MOST || !mirror_make_table(s, s->bits + MIRROR_BITS_STEP)) {
        mirror_wipe(s);
        return;
    }
    for (unsigned i = 0; i < slots; i++) {
        if (old[i].gen == s->gen && old[i].prot)
            mirror_put(s, mirror_va(&old[i]), mirror_gpa(&old[i]), old[i].prot);
    }
    free(old);
}

void mirror_renew(struct direct_space *s)
{
    struct mirror_page *old = s->pages;
    mirror_wipe(s);
    if (s->bits > MIRROR_BITS && mirror_make_table(s, MIRROR_BITS))
        free(old);
}

#define AROUND 16 /* pages, aligned */

bool mirror_bring(struct tcpu *c, struct direct_space *s, uint64_t lin, bool exec)
{
    struct mmu_peeked m;
    uint64_t page = lin & PAGE_MASK, first = page & ~(AROUND * PAGE_SIZE - 1);
    if (!is_mirrored(s, lin) || !look(c, lin, exec, &m))
        return false;
    if (s->count > mirror_slots(s) / 2)
        make_room(s);
    struct mirror_large *l = mirror_large_at(s, lin);
    if (l && !exec && (!m.writable || (l->prot & USERPROC_W)))
        return false;
    if (l)
        mirror_take_large(s, l); /* it runs, in pieces, or may be written by now */
    if (m.shift > 12 && !exec && !m.global && bring_large(c, s, lin, &m))
        return true;
    if (!bring_page(c, s, page, &m, exec ? BRING_CODE : BRING_DATA))
        return false;
    for (uint64_t at = first; at < first + AROUND * PAGE_SIZE; at += PAGE_SIZE) {
        struct mirror_page *p = mirror_find(s, at);
        if (at != page && !(p && p->prot) && is_mirrored(s, at) && mmu_peek(c, at, &m))
            bring_page(c, s, at, &m, exec && m.exec ? BRING_CODE_AROUND : BRING_DATA);
    }
    return true;
}

/* ---- checking ---- */

/* Whether a page that the program is given now would be this one, with these rights at least. A page whose
 * accessed or dirty bit the guest has taken back is not: the next access is to set it again. */
static bool still_given(const struct tcpu *c, const struct mmu_peeked *m, uint64_t gpa, unsigned prot)
{
    return m->gpa == gpa && !m->global && (m->writable || !(prot & USERPROC_W)) &&
           (m->exec || !(prot & USERPROC_X)) && !mmu_is_apic_page(c, gpa);
}

void mirror_check(struct tcpu *c, struct direct_space *s)
{
    struct mmu_peeked m;
    unsigned gone = 0, before = s->count;
    s->doubt = s->pieces = s->huge = false;
    for (unsigned i = 0; i < MIRROR_LARGE; i++) {
        struct mirror_large *l = &s->large[i];
        if (!l->prot)
            continue;
        if (mmu_peek(c, l->base, &m) && m.shift > 12 && still_given(c, &m, l->gpa, l->prot))
            s->huge |= m.shift > 21;
        else
            mirror_take_large(s, l);
    }
    for (unsigned i = 0; s->count && i < mirror_slots(s); i++) {
        struct mirror_page *p = &s->pages[i];
        if (p->gen != s->gen || !p->prot)
            continue;
        if (mmu_peek(c, mirror_va(p), &m) && still_given(c, &m, mirror_gpa(p), p->prot)) {
            s->pieces |= m.shift > 12;
            s->huge |= m.shift > 21;
        } else {
            mirror_take_page(s, p);
            gone++;
        }
    }
    if (gone > before / 4) /* another program's */
        memset(s->unfit, 0, sizeof s->unfit);
}
