/* When user code runs directly. Light.
 *
 * Theory of operation. To enter and leave a process costs some 10 us, and each page that it touches for the
 * first time about as much again; code that runs directly is several times as fast as translated. So programs
 * begin translated, and one that sampling (fault_linux.c) finds in user code often enough is tried. What is
 * won and lost is counted: CPU time inside, less what a run takes that does nothing, counts GAIN times,
 * everything else once against it. A program that loses on the whole goes back to translated code, and is
 * tried again later and later. Within that, stays that were too short are followed by more and more returns
 * from the kernel that go on translated: calls and faults come in bursts. Programs are told apart by the
 * address of their top page table. */
#include "engine/translator/direct_priv.h"
#include "engine/translator/sys.h"

#define SAMPLES_WANTED 4
#define SAMPLES_MOST 120
#define GAIN 3
#define SCORE_MOST 20000000    /* ns */
#define SCORE_LEAST (-6000000) /* the first pages are an investment */

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

void direct_sampled(struct tcpu *c)
{
    if (!c->direct || c->direct->failed || c->direct->always)
        return;
    struct direct_heat *h = heat_made(c);
    if (h->wish || ++h->samples < h->wanted)
        return;
    h->wish = true;
    h->score = 0;
    c->direct_wish = 1;
}

static void give_up(struct tcpu *c, struct direct_heat *h)
{
    h->wish = false;
    h->samples = 0;
    h->wanted = (uint8_t)min_u64(2u * h->wanted, SAMPLES_MOST);
    c->direct_wish = 0;
    c->counters[TC_DIRECT_LOST]++;
}

void direct_account(struct tcpu *c, uint64_t inside, uint64_t outside)
{
    struct direct_heat *h = c->direct->heat;
    if (!h)
        return;
    h->score += GAIN * (int64_t)inside - (int64_t)outside;
    if (h->score > SCORE_MOST) {
        h->score = SCORE_MOST;
        h->wanted = SAMPLES_WANTED;
    } else if (h->score < SCORE_LEAST) {
        give_up(c, h);
    }
}

#define STAY_WORTH 15000 /* ns */
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
