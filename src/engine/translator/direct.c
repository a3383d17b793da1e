/* Direct execution: user code of the guest that the host CPU runs as it is. Heavy; its light parts are in
 * direct_mirror.c and direct_policy.c.
 *
 * Theory of operation. What a program does between two calls of its kernel needs no translation: the host CPU
 * does with it what the guest's would, if it finds the guest's memory at the guest's addresses and the
 * guest's registers in its own, and if whatever is not the program's business stops it. A process of the
 * host's is such a place (host/userproc.h): empty but for the pages of guest RAM that the guest's own tables
 * give to user code at these addresses, and held by the vCPU's thread, so that each system call and each
 * exception stops it before anything is done. The vCPU then goes on with what is at rip: a fault is not taken
 * over from the host, but the instruction is run again by the general path, which finds the same fault,
 * exactly. The guest's kernel is translated as ever.
 *
 * Which pages a process has is in direct_mirror.c and direct_bring.c: it begins with none and is given them
 * as it faults. Which code may not run like this, since it would not fault but see the host, is in
 * direct_scan.c; it is stopped at, or its page is translated. When it pays is in direct_policy.c. Conditions
 * on the vCPU's state (direct_may_run) keep out what would be another thing in the process: segments,
 * alignment checks, breakpoints, single steps.
 *
 * Each vCPU has its own processes, one for each of the last PCIDs that needed one, so what one vCPU's TLB
 * forgets concerns no other. A vCPU in a process is RUN_IN, and cpu_request calls it out.
 *
 * What remains of the host: a program that reads the code of its vDSO finds an INT3 where that has LSL;
 * where RDTSCP runs directly, what it leaves in ECX until that is overwritten (direct_scan.c) is the host's,
 * for who looks at a program that is interrupted there; instructions of extensions that the host CPU has and
 * the guest's CPUID does not tell of do not fault; a few pages at an address that is chosen at random hold
 * the process's stub (userproc_hole) instead of faulting. Where the guest's tables have something there, its
 * program is translated. A call of the vsyscall page's three entries has lost RAX, which is no argument of
 * theirs, when the guest's kernel sees it, on hosts that have that page. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "engine/translator/direct_priv.h"

#include "engine/translator/cache.h"
#include "engine/translator/mmu.h"
#include "engine/translator/sys.h"
#include "engine/translator/vcpu.h"
#include "engine/translator/x87_pointers.h"

#define EXCURSION_NS 40000    /* of a stay, for a short absence from it to be worth its while */
#define EXCURSION_EXITS 16    /* of it, from translated code */
#define EXCURSIONS_SKIPPED 64 /* at most, since the stays after them are too short */
#define PARTED_MOST 8         /* processes that could not be run, of a vCPU */
#define EMPTY_MORE_NS 2500
#define LONG_NS 200000        /* a run that it is worth looking at the process's clock for */
#define PAGES_MOST_NS 1000000 /* what pages take, and ... */
#define EXIT_MOST_NS 60000    /* ... an exit; what is more is others' */
#define CHANGE_LATER_NS                                                                                      \
    14000 /* what a mapping costs behind its making: it is touched, and taken away; with less,               \
           * found by trial, programs that go through new memory stay here to their loss */
#define SERIES_GAP_NS 2000000 /* between runs, for the CPU to be kept */
#define BREAKS_IDLE 256       /* stays */
#define FAULTS_MOST 32 /* of one instruction, which may take from the mirror what it has just been given */
#define USER32_CS 0x23
#define FLAGS_INSIDE (FL_STATUS | FL_DF | FL_ID)
#define FLAGS_BACK (FLAGS_INSIDE | FL_TF | FL_AC | FL_NT)

bool direct_open(struct tcpu *c)
{
    struct direct *d = calloc(1, sizeof *d);
    if (d && !c->vm->direct_room)
        c->vm->direct_room = calloc(1, sizeof *c->vm->direct_room);
    if (!d || !c->vm->direct_room) {
        free(d);
        return false;
    }
    d->seat.room = c->vm->direct_room;
    d->empty_ns = ~0ull;
    d->always = c->vm->cfg.options.direct == ENGINE_DIRECT_ALWAYS;
    c->direct = d;
    c->direct_wish = d->always;
    return true;
}

static void free_space(struct direct_space *s)
{
    userproc_free(s->proc);
    free(s->pages);
    *s = (struct direct_space){ 0 };
}

void direct_close(struct tcpu *c)
{
    struct direct *d = c->direct;
    if (!d)
        return;
    for (unsigned i = 0; i < DIRECT_SPACES; i++)
        free_space(&d->spaces[i]);
    free(d->xstate);
    free(d);
    c->direct = NULL;
    c->direct_wish = 0;
}

static void fail(struct tcpu *c, const char *why)
{
    log_line(c->vm->cfg.log, LOG_CPU, "vCPU %u: user code does not run directly any more: %s", c->index, why);
    c->direct->failed = true;
    for (unsigned i = 0; i < HEATS; i++)
        c->direct->heats[i].wish = false;
    c->direct_wish = 0;
}

/* What the guest's program did in the run is in its memory, so it cannot go on from where it was before. */
static enum direct_end lose(struct tcpu *c)
{
    c->direct->lost = true;
    fail(c, "its process was killed");
    return DIRECT_LOST;
}

/* Guest code can end its process, by what it does to the page's code, and the host may refuse it something:
 * that program is translated from now on. */
static enum direct_end part_with(struct tcpu *c, struct direct_space *s)
{
    struct direct *d = c->direct;
    if (++d->parted > PARTED_MOST) {
        fail(c, "its processes cannot be run");
        return DIRECT_REQUEST;
    }
    free_space(s);
    d->loaded = NULL;
    direct_give_up(c);
    return DIRECT_TRANSLATE;
}

bool direct_is_lost(const struct tcpu *c)
{
    return c->direct && c->direct->lost;
}

static int ram_fd(const struct tvm *vm)
{
    for (unsigned i = 0; i < vm->slot_count; i++) {
        if (vm->slots[i].in_file)
            return vm->slots[i].fd;
    }
    return -1;
}

/* ---- spaces ---- */

static bool have_xstate(struct direct *d, const struct userproc *proc)
{
    d->xstate_size = userproc_xsave_size(proc);
    if (!d->xstate)
        d->xstate = aligned_alloc(64, align_up(d->xstate_size, 64));
    return d->xstate;
}

static bool make_space(struct tcpu *c, struct direct_space *s)
{
    struct yado_error err;
    if (s->proc)
        return true;
    if (ram_fd(c->vm) < 0) {
        fail(c, "the host gives guest RAM no memory file");
        return false;
    }
    s->gen = 1;
    if (mirror_make_table(s, MIRROR_BITS) && userproc_make(&s->proc, ram_fd(c->vm), &err) &&
        have_xstate(c->direct, s->proc)) {
        c->direct->cpuid_faults = userproc_trap(s->proc, USERPROC_TRAP_CPUID, true);
        c->direct->tsc_can_trap = s->tsc_traps = userproc_trap(s->proc, USERPROC_TRAP_TSC, true);
        userproc_hole(s->proc, &s->hole, &s->hole_len);
        userproc_sit(s->proc, &c->direct->seat);
        return true;
    }
    fail(c, s->pages && !s->proc ? err.message : "out of memory");
    free_space(s);
    return false;
}

/* The mirror of the loaded space; of the one that has not run for longest if it has none yet. */
static struct direct_space *space_for(struct tcpu *c)
{
    struct direct *d = c->direct;
    struct direct_space *s = d->loaded;
    if (!s) {
        s = &d->spaces[0];
        for (unsigned i = 1; i < DIRECT_SPACES; i++) {
            if (d->spaces[i].used < s->used)
                s = &d->spaces[i];
        }
        if (!make_space(c, s))
            return NULL;
        mirror_wipe(s);
        s->taken = true;
        s->pcid = (uint16_t)direct_pcid(c);
        d->loaded = s;
        d->last_cr2 = 0;
    }
    s->used = ++d->clock;
    return s;
}

/* Code that was written to since it was found fit to run directly does not, anywhere; also if another vCPU
 * has found it fit again, for that one may have found other places to stop at. */
static void forget_changed_code(struct tcpu *c)
{
    struct direct *d = c->direct;
    uint64_t changed[TVM_DIRECT_CHANGED];
    if (atomic_load(&c->vm->direct_gen) == d->code_gen)
        return;
    tvm_code_lock(c->vm);
    uint32_t gen = atomic_load(&c->vm->direct_gen), n = gen - d->code_gen;
    for (unsigned i = 0; i < n && i < TVM_DIRECT_CHANGED; i++)
        changed[i] = c->vm->direct_changed[(d->code_gen + i) % TVM_DIRECT_CHANGED];
    tvm_code_unlock(c->vm);
    d->code_gen = gen;
    bool all = n > TVM_DIRECT_CHANGED;
    for (unsigned k = 0; k < DIRECT_SPACES; k++) {
        struct direct_space *s = &d->spaces[k];
        for (unsigned i = 0; !all && i < n && s->count; i++)
            mirror_take_frame(s, changed[i], USERPROC_X);
        for (unsigned i = 0; all && s->count && i < mirror_slots(s); i++) {
            struct mirror_page *p = &s->pages[i];
            if (p->gen == s->gen && (p->prot & USERPROC_X))
                mirror_take_page(s, p);
        }
    }
}

/* Into the copy of a page that the process has by now, if it still is to have one. */
static bool settle_traps(struct direct_space *s)
{
    const struct mirror_page *p = mirror_find(s, s->trap_page);
    return !p || !(p->prot & USERPROC_OWN) || userproc_put_traps(s->proc, s->traps, s->trap_count);
}

static bool settle(struct direct_space *s)
{
    bool ok = true;
    if (s->wipe)
        ok = userproc_clear(s->proc);
    s->wipe = false;
    if (ok && s->change_count)
        ok = userproc_set_maps(s->proc, s->changes, s->change_count);
    s->change_count = 0;
    if (ok && s->breaks_changed)
        ok = userproc_set_breaks(s->proc, s->breaks);
    s->breaks_changed = false;
    if (ok && s->traps_changed)
        ok = settle_traps(s);
    s->traps_changed = false;
    return ok;
}

/* The guest's TSC is read directly while it is the host's, which it begins as (engine.c). */
static bool settle_tsc(const struct tcpu *c, struct direct_space *s)
{
    bool own = c->tsc_offset != 0;
    if (!c->direct->tsc_can_trap || s->tsc_traps == own)
        return true;
    s->tsc_traps = own;
    return userproc_trap(s->proc, USERPROC_TRAP_TSC, own);
}

/* ---- state ---- */

/* Bytes of the XSAVE area that both the vCPU and the process have. */
static size_t shared_state(const struct tcpu *c)
{
    return min_u64(c->direct->xstate_size, sizeof c->xsave_area);
}

static void load(struct tcpu *c, struct userproc_regs *r)
{
    struct direct *d = c->direct;
    memcpy(r->gpr, c->gpr, sizeof r->gpr);
    r->rip = c->rip;
    r->rflags = (cpu_rflags(c) & FLAGS_INSIDE) | FL_IF | FL_1;
    r->fs_base = c->seg[S_FS].base;
    r->gs_base = c->seg[S_GS].base;
    memcpy(d->xstate, c->xsave_area, shared_state(c));
}

static void store(struct tcpu *c, const struct userproc_regs *r)
{
    struct direct *d = c->direct;
    uint64_t mask = c->vm->cpuid.xcr0_mask, in_use;
    memcpy(c->gpr, r->gpr, sizeof c->gpr);
    c->rip = r->rip;
    cpu_set_rflags(c, (cpu_rflags(c) & ~(uint64_t)FLAGS_BACK) | (r->rflags & FLAGS_BACK));
    c->seg[S_FS].base = r->fs_base;
    c->seg[S_GS].base = r->gs_base;
    memcpy(c->xsave_area, d->xstate, shared_state(c));
    memcpy(&in_use, c->xsave_area + XSAVE_HEADER, sizeof in_use);
    in_use &= mask;
    memcpy(c->xsave_area + XSAVE_HEADER, &in_use, sizeof in_use);
    sys_mode_changed(c);
}

/* The code has loaded segment registers. What a selector stands for is in the host's table what it is in
 * every Linux guest's; but the guest's own is asked, and a process whose code does that is one to be
 * translated (direct_may_run). */
static void load_selectors(struct tcpu *c, const struct userproc_regs *r, const struct userproc_exit *x)
{
    const uint16_t sel[S_COUNT] = {
        [S_ES] = x->es, [S_SS] = x->ss, [S_DS] = x->ds, [S_FS] = x->fs, [S_GS] = x->gs
    };
    struct tcpu_exception before = c->exc;
    if (x->cs == USER32_CS) {
        c->seg[S_CS].sel = x->cs;
        c->seg[S_CS].attr = (uint16_t)((c->seg[S_CS].attr & ~SEG_L) | SEG_DB);
        sys_mode_changed(c);
    }
    for (unsigned i = 0; i < S_COUNT; i++) {
        if (i != S_CS && sel[i] != c->seg[i].sel)
            sys_load_seg(c, i, sel[i]);
    }
    c->exc = before;
    c->seg[S_FS].base = r->fs_base;
    c->seg[S_GS].base = r->gs_base;
    sys_mode_changed(c);
}

/* ---- runs ---- */

static enum direct_end take_fault(struct tcpu *c, struct direct_space *s, const struct userproc_exit *x,
                                  bool *again)
{
    if (!x->has_addr)
        return DIRECT_STEP;
    bool fetch = x->addr - c->rip < 15;
    struct mirror_page *p = mirror_find(s, x->addr & PAGE_MASK);
    if (fetch && p && (p->prot & USERPROC_X))
        fetch = false; /* the instruction's own bytes as data */
    /* What is known to be unfit is not looked at again: that takes longer than the run. */
    *again = !(fetch && mirror_is_unfit(s, x->addr)) && mirror_bring(c, s, x->addr, fetch);
    if (fetch && !*again && mirror_is_unfit(s, x->addr)) {
        c->counters[TC_DIRECT_UNFIT]++;
        mirror_visit_unfit(s, x->addr);
        return DIRECT_TRANSLATE;
    }
    return DIRECT_STEP;
}

static bool is_break(const struct direct_space *s, uint64_t rip)
{
    for (unsigned i = 0; i < USERPROC_BREAKS; i++) {
        if (s->breaks[i] && s->breaks[i] == rip)
            return true;
    }
    return false;
}

/* Behind the place where the process was stopped for a group of them. */
static bool is_in_group(const struct direct_space *s, uint64_t rip)
{
    for (unsigned i = 0; i < USERPROC_BREAKS; i++) {
        if (s->breaks[i] && rip > s->breaks[i] && rip <= s->breaks_last[i])
            return true;
    }
    return false;
}

/* The host sets breakpoints at each switch to the process, which is a fifth of what a short stay takes: those
 * not met for a while go, and with them their pages, until what runs there has been met often again. */
static void rest_breaks(struct direct_space *s)
{
    if (++s->unbroken < BREAKS_IDLE)
        return;
    s->unbroken = 0;
    for (unsigned i = 0; i < USERPROC_BREAKS; i++) {
        struct mirror_page *p = s->breaks[i] ? mirror_find(s, s->breaks[i] & PAGE_MASK) : NULL;
        if (p) {
            *mirror_unfit(s, mirror_va(p)) = 0;
            mirror_take_page(s, p);
        }
    }
}

/* How far behind the beginning of an INT3, INT 3 or ICEBP rip is. At ICEBP some virtual machines leave it. */
static unsigned trap_len(const struct tcpu *c, struct direct_space *s, bool int3)
{
    uint64_t last = c->rip - 1;
    const struct mirror_page *p = mirror_find(s, last & PAGE_MASK);
    const uint8_t *code = p ? tvm_hva(c->vm, mirror_gpa(p) + (last & ~PAGE_MASK)) : NULL;
    if (int3)
        return code && *code == 3 ? 2 : 1;
    return code && *code == 0xf1 ? 1 : 0;
}

static enum direct_end take_trap(struct tcpu *c, struct direct_space *s, const struct userproc_exit *x)
{
    if (x->step) /* behind an instruction, so before a breakpoint at the next */
        return DIRECT_DEBUG;
    if (x->signal != SIGTRAP)
        return DIRECT_STEP;
    if (is_break(s, c->rip)) {
        s->unbroken = 0;
        return DIRECT_STEP;
    }
    c->rip -= trap_len(c, s, x->int3);
    return DIRECT_STEP;
}

/* again: the process may go on. */
static enum direct_end take_exit(struct tcpu *c, struct direct_space *s, const struct userproc_exit *x,
                                 bool *again)
{
    switch (x->why) {
    case USERPROC_SYSCALL: c->rip -= 2; return DIRECT_SYSCALL;
    case USERPROC_FAULT: return take_fault(c, s, x, again);
    case USERPROC_TRAP: return take_trap(c, s, x);
    default: return DIRECT_REQUEST;
    }
}

static bool is_called(const struct tcpu *c)
{
    return atomic_load(&c->exit_request) || (atomic_load(&c->intr_deferred) && (c->rflags & FL_IF));
}

/* What a stay has come to so far, in nanoseconds. */
struct stay {
    uint64_t begin;       /* of tsc_ns */
    uint64_t paged;       /* when it had the last of the pages that it was given; 0: it was given none */
    uint64_t away;        /* that others had the CPU, as far as is known */
    uint64_t inside;      /* in guest code */
    uint64_t known_paged; /* of both, at that time */
    uint64_t changes;     /* of mappings */
};

/* CPU time would be it, but each look at its clocks takes a twentieth of a short stay. What is short was
 * hardly interrupted; see weigh for what is not. */
static uint64_t tsc_ns(const struct tcpu *c)
{
    return (uint64_t)((unsigned __int128)cpu_host_tsc() * 1000000 / c->vm->host_tsc_khz);
}

/* What the run since `begin` came to: all but what it takes in any case, which is mostly some more than the
 * least that was seen. Of one that was long others may have had a part. The process's clock tells, of the
 * second of several: so whether a first one was longer than that is not believed. */
static void weigh(struct tcpu *c, struct direct_space *s, const struct userproc_exit *x, struct stay *stay,
                  uint64_t begin)
{
    struct direct *d = c->direct;
    uint64_t now = tsc_ns(c), ns = now - min_u64(now, begin), inside;
    if (x->why != USERPROC_KICKED && !x->changes && ns < d->empty_ns)
        d->empty_ns = ns; /* none is shorter than one that does nothing */
    inside = ns - min_u64(ns, d->empty_ns + EMPTY_MORE_NS);
    if (ns > LONG_NS) {
        uint64_t used = userproc_cpu_ns(s->proc);
        uint64_t most = s->cpu_ns ? used - min_u64(used, s->cpu_ns) : LONG_NS;
        stay->away += inside - min_u64(inside, most);
        inside = min_u64(inside, most);
        s->cpu_ns = used;
    } else {
        s->cpu_ns = 0;
    }
    stay->inside += inside;
}

/* One run. Between the store to direct_proc and its end every request is either seen here or calls the
 * process out. */
static bool run_once(struct tcpu *c, struct direct_space *s, struct userproc_exit *x, struct stay *stay)
{
    struct userproc_regs r;
    *x = (struct userproc_exit){ .why = USERPROC_GONE };
    load(c, &r);
    atomic_store(&c->direct_proc, s->proc);
    forget_changed_code(c);
    bool paged = s->change_count > 0;
    bool ok = !is_called(c) && settle(s) && settle_tsc(c, s);
    uint64_t begin = tsc_ns(c);
    ok = ok && userproc_run(s->proc, &r, c->direct->xstate, x);
    atomic_store(&c->direct_proc, NULL);
    if (ok && paged) {
        begin += (uint64_t)x->changes * USERPROC_CHANGE_NS;
        stay->paged = begin;
        stay->known_paged = stay->inside + stay->away;
        stay->changes += x->changes;
    }
    if (ok)
        weigh(c, s, x, stay, begin);
    if (ok)
        store(c, &r);
    if (ok && x->selectors_changed)
        load_selectors(c, &r, x);
    return ok;
}

/* The page whose fault the guest's kernel has just seen to is wanted next. */
static void bring_last_fault(struct tcpu *c, struct direct_space *s)
{
    if (c->cr2 == c->direct->last_cr2)
        return;
    c->direct->last_cr2 = c->cr2;
    mirror_bring(c, s, c->cr2, c->cr2 - c->rip < 15);
}

/* What another program has left under the PCID is nobody's cost. */
static bool make_ours(struct tcpu *c, struct direct_space *s)
{
    uint64_t root = c->cr3 & PAGE_MASK;
    if (s->root == root)
        return true;
    s->root = root;
    mirror_renew(s);
    if (!settle(s)) {
        fail(c, "its process cannot be emptied");
        return false;
    }
    s->cpu_ns = 0;
    return true;
}

bool heavy_direct_is_over(const struct tcpu *c)
{
    return !c->direct_wish || tsc_ns(c) - c->direct->ran_at > SERIES_GAP_NS;
}

void heavy_direct_rest(struct tcpu *c)
{
    userproc_rest(&c->direct->seat);
    c->direct_seated = 0;
}

/* Whether to come back soon. Programs ask for the time more than once in a row, too. */
static enum direct_end judge_excursion(struct direct *d, uint64_t inside)
{
    bool worth = inside > EXCURSION_NS;
    if (d->returned)
        d->away_skip = worth ? 0 : (uint8_t)min_u64(2u * d->away_skip + 1, EXCURSIONS_SKIPPED);
    d->returned = false;
    if (!worth)
        return DIRECT_TRANSLATE;
    if (d->away_skipped < d->away_skip) {
        d->away_skipped++;
        return DIRECT_TRANSLATE;
    }
    d->away_skipped = 0;
    d->away = EXCURSION_EXITS;
    return DIRECT_EXCURSION;
}

/* The run has ended: what it was, and whether it paid. */
static void settle_up(struct tcpu *c, enum direct_end end, const struct stay *stay)
{
    uint64_t now = tsc_ns(c), paged = min_u64(max_u64(stay->paged, stay->begin), now);
    uint64_t pages = paged - stay->begin, rest = now - paged;
    uint64_t known_rest = stay->inside + stay->away - stay->known_paged;
    struct direct_cost cost = {
        .inside = stay->inside,
        .pages = min_u64(pages - min_u64(pages, stay->known_paged), PAGES_MOST_NS) +
                 stay->changes * CHANGE_LATER_NS,
        .exit = min_u64(rest - min_u64(rest, known_rest), EXIT_MOST_NS),
    };
    c->counters[TC_DIRECT_US] += stay->inside / 1000;
    c->direct->ran_at = now;
    direct_account(c, &cost);
    direct_pace(c, end, stay->inside);
}

enum direct_end heavy_direct(struct tcpu *c)
{
    struct direct *d = c->direct;
    struct direct_space *s = space_for(c);
    enum direct_end end = DIRECT_REQUEST;
    uint64_t faulted_at = ~0ull;
    unsigned faults = 0;
    struct userproc_exit x;
    if (!s || !make_ours(c, s))
        return DIRECT_REQUEST;
    struct stay stay = { .begin = tsc_ns(c) };
    if (s->doubt) {
        mirror_check(c, s);
        stay.paged = tsc_ns(c);
    }
    if (is_in_group(s, c->rip)) {
        c->counters[TC_DIRECT_UNFIT]++;
        return DIRECT_EXCURSION;
    }
    if (mirror_is_unfit(s, c->rip) || mmu_maps_any(c, s->hole, s->hole_len)) {
        c->counters[TC_DIRECT_UNFIT]++;
        mirror_visit_unfit(s, c->rip);
        return d->away && d->away-- ? DIRECT_EXCURSION : DIRECT_TRANSLATE;
    }
    d->returned = d->away > 0;
    d->away = 0;
    rest_breaks(s);
    bring_last_fault(c, s);
    for (bool again = true; again;) {
        again = false;
        if (!run_once(c, s, &x, &stay)) {
            if (x.why == USERPROC_REFUSED)
                end = DIRECT_TRANSLATE;
            else if (x.lost)
                end = lose(c);
            else if (!is_called(c))
                return part_with(c, s);
            break;
        }
        c->counters[TC_DIRECT_RUNS]++;
        end = take_exit(c, s, &x, &again);
        faults = c->rip == faulted_at ? faults + 1 : 0;
        faulted_at = c->rip;
        again = again && faults < FAULTS_MOST;
    }
    c->direct_seated = d->seat.taken;
    settle_up(c, end, &stay);
    return end == DIRECT_TRANSLATE ? judge_excursion(d, stay.inside) : end;
}
