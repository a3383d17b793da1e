/* When user code runs directly. Light.
 *
 * Theory of operation. To enter and leave a process costs some 8 us, and each page that it touches for the
 * first time twice that; code that runs directly is two to five times as fast as translated. So
 * programs begin translated, and one that sampling (fault_linux.c) finds in user code often enough is tried.
 * Two things are counted. What is won: time inside, of which translated code takes some two and a half times
 * more, less what the exit costs; a program that loses so is interrupted too often, and goes back to
 * translated code at once. And what is invested, in pages that are given: that may be the more, the longer
 * the program has run translated before. Who loses is tried again later and later. How it ended is noted at
 * the program's pages of code: its next process is tried sooner, and trusted, or later.
 *
 * Within that, stays that were too short are followed by more and more returns from the kernel that go on
 * translated: calls and faults come in bursts. Programs are told apart by the address of their top page
 * table. */
#include "engine/translator/direct_priv.h"
#include "engine/translator/sys.h"

#define GAIN_PERCENT 250
#define SAMPLES_WANTED 4
#define SAMPLES_MOST 120
#define SAMPLES_PAID 1      /* if the code has paid before ... */
#define SAMPLES_LOST 32     /* ... or has not */
#define EXPLORE_EACH 3      /* of those is trusted all the same: it may not have had time enough */
#define SCORE_MOST 12000000 /* ns */
#define SCORE_LEAST (-4000000)
#define SCORE_LEAST_TRUSTED (-12000000)
#define BALANCE_MOST 40000000
#define TOTAL_MOST 100000000
#define TOTAL_PAID 8000000
#define DEBT_LEAST 3000000 /* that it may have, whatever it has shown to need */
#define DEBT_PER_SAMPLE 250000
#define DEBT_TRUSTED 60000000

void direct_find_heat(struct tcpu *c)
{
    struct direct *d = c->direct;
    uint64_t root = c->cr3 & PAGE_MASK;
    if (d->always)
        return; /* the wish is what it was at first, until direct execution fails */
    d->heat = NULL;
    for (unsigned i = 0; i < HEATS && !d->heat; i++)
        d->heat = d->heats[i].cr3 == root ? &d->heats[i] : NULL;
    c->direct_wish = d->heat && d->heat->wish;
}

static struct direct_heat *heat_made(struct tcpu *c)
{
    struct direct *d = c->direct;
    struct direct_heat *h = d->heat;
    if (h)
        return h;
    h = &d->heats[d->heat_next++ % HEATS];
    *h = (struct direct_heat){ .cr3 = c->cr3 & PAGE_MASK, .wanted = SAMPLES_WANTED };
    return d->heat = h;
}

/* What the program has come to is noted at all its code, for who runs that later. What is said both of is in
 * a library, as a rule. */
static void judge(struct tcpu *c, enum page_pays pays)
{
    const struct direct_space *s = c->direct->loaded;
    tvm_code_lock(c->vm);
    for (unsigned i = 0; s && s->count && i < mirror_slots(s); i++) {
        const struct mirror_page *m = &s->pages[i];
        if (m->gen != s->gen || !(m->prot & USERPROC_X))
            continue;
        struct page_info *p = tvm_page(c->vm, mirror_gpa(m));
        if (pays == PAYS_YES && p->pays < PAYS_YES)
            p->pays = PAYS_YES;
        else if (pays == PAYS_NOT && p->pays != PAYS_NOT)
            p->pays = p->pays == PAYS_UNKNOWN ? PAYS_NOT : PAYS_BOTH;
    }
    tvm_code_unlock(c->vm);
}

static void try_it(struct tcpu *c, struct direct_heat *h, bool trusted)
{
    h->wish = true;
    h->trusted = trusted;
    h->score = h->balance = 0;
    c->direct_wish = 1;
}

void direct_sampled(struct tcpu *c, uint64_t gpage)
{
    if (!c->direct || c->direct->failed || c->direct->always)
        return;
    struct direct_heat *h = heat_made(c);
    enum page_pays pays = tvm_page(c->vm, gpage)->pays;
    if (h->wish)
        return;
    if (!h->tried)
        h->wanted = pays == PAYS_YES ? SAMPLES_PAID : pays == PAYS_NOT ? SAMPLES_LOST : SAMPLES_WANTED;
    if (++h->samples < h->wanted)
        return;
    bool explore = !h->tried && pays == PAYS_NOT && ++c->direct->lost_programs % EXPLORE_EACH == 0;
    h->tried = true;
    try_it(c, h, pays == PAYS_YES || h->praised || explore);
}

static void give_up(struct tcpu *c, struct direct_heat *h)
{
    h->wish = false;
    h->samples = 0;
    h->wanted = h->total > 0 ? 2 * SAMPLES_WANTED : (uint8_t)min_u64(2u * h->wanted, SAMPLES_MOST);
    c->direct_wish = 0;
    c->counters[TC_DIRECT_LOST]++;
    if (h->praised && h->balance > -DEBT_LEAST)
        return; /* many short stays in a row, which is no verdict on all of it */
    h->praised = false;
    judge(c, PAYS_NOT);
}

void direct_give_up(struct tcpu *c)
{
    struct direct_heat *h = c->direct->heat;
    if (!h)
        return;
    h->wish = h->praised = false;
    h->samples = 0;
    h->wanted = SAMPLES_MOST;
    c->direct_wish = 0;
}

static int64_t clamp_i64(int64_t v, int64_t least, int64_t most)
{
    return v < least ? least : v > most ? most : v;
}

static bool is_trusted(const struct direct_heat *h)
{
    return h->trusted || h->praised;
}

static int64_t debt_allowed(const struct direct_heat *h)
{
    return is_trusted(h) ? DEBT_TRUSTED : DEBT_LEAST + h->wanted * DEBT_PER_SAMPLE;
}

static void praise(struct tcpu *c, struct direct_heat *h)
{
    h->praised = true;
    h->wanted = SAMPLES_WANTED;
    judge(c, PAYS_YES);
}

void direct_account(struct tcpu *c, const struct direct_cost *cost)
{
    struct direct_heat *h = c->direct->heat;
    if (!h)
        return;
    int64_t won = (int64_t)cost->inside * GAIN_PERCENT / 100 - (int64_t)cost->exit;
    h->score += won;
    h->balance += won - (int64_t)cost->pages;
    h->total = clamp_i64(h->total + won - (int64_t)cost->pages, -TOTAL_MOST, TOTAL_MOST);
    if (h->score > SCORE_MOST)
        h->score = SCORE_MOST;
    if (h->balance > BALANCE_MOST)
        h->balance = BALANCE_MOST;
    if (h->total > TOTAL_PAID && !h->praised)
        praise(c, h);
    if (h->score < (is_trusted(h) ? SCORE_LEAST_TRUSTED : SCORE_LEAST) || h->balance < -debt_allowed(h))
        give_up(c, h);
}

#define STAY_WORTH                                                                                           \
    3000 /* ns; less than what entering and leaving costs, as one in translated code has a price too */
#define SKIP_MOST 64

void direct_pace(struct tcpu *c, enum direct_end end, uint64_t inside)
{
    if (c->direct->always)
        return;
    if (inside > STAY_WORTH)
        c->direct_skip = c->direct->skip = 0;
    else if (end != DIRECT_REQUEST)
        c->direct_skip = c->direct->skip = (uint32_t)min_u64(2u * c->direct->skip + 1, SKIP_MOST);
}

#define USER_CS 0x33 /* what the host's user code has, and Linux guests' */
#define USER_SS 0x2b

bool direct_may_run(const struct tcpu *c)
{
    const uint64_t cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXSAVE | CR4_FSGSBASE;
    const uint32_t flags = FL_TF | FL_IOPL | FL_NT | FL_RF | FL_VM | FL_AC;
    return c->cpl == 3 && c->code_bits == 64 && c->seg[S_CS].sel == USER_CS && c->seg[S_SS].sel == USER_SS &&
           !(c->seg[S_DS].sel | c->seg[S_ES].sel | c->seg[S_FS].sel | c->seg[S_GS].sel) &&
           (c->rflags & (flags | FL_IF)) == FL_IF && !(c->cr0 & (CR0_TS | CR0_EM)) && (c->cr0 & CR0_PG) &&
           (c->cr4 & (cr4 | CR4_TSD | CR4_LA57)) == cr4 &&
           (c->efer & (EFER_NXE | EFER_SCE)) == (EFER_NXE | EFER_SCE) && c->xcr0 == c->vm->cpuid.xcr0_mask &&
           !c->watch && !c->int_shadow && !c->exc.pending && !c->debugctl;
}
