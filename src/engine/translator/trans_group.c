/* Groups: one check for several accesses near the same address.
 *
 * Theory of operation. Within a block, accesses through the same values (trans_values.c; same base, index,
 * scale, segment) differ only by constants. When the first of them comes, the rest of the block is searched
 * for others; if there are any, one check covers the whole stretch [lo, hi) and the page's delta is kept, in
 * the DC register or in a slot of struct tcpu, for the later ones, which then cost nothing or one load, and
 * leave EFLAGS alone.
 *
 * The check must not fault early and must not touch the guest: if the stretch is not plain RAM of one page
 * with the right rights (it crosses a page, is MMIO, is write protected, holds code), the block is left
 * before the current instruction for one translated under MODE_NO_GROUP, where each access is checked by
 * itself and faults at its own place. A group that begins with a read may go on with writes: then the page
 * must be one that was written before, with a write tag or the dirty bit set, and it is never asked for
 * writing before it is written (MMU_SLOW_R_THEN_W). The write must be certain to come, except on the stack:
 * pages that are only read would fail the check each time.
 *
 * A delta stays right until the block ends: this vCPU changes its own translations only in instructions that
 * go to C (barriers drop all groups), and another that wants a write tag back first waits until this one has
 * left its block. */
#include "engine/translator/mmu.h"
#include "engine/translator/trans.h"

static struct gspot spot_of(const struct ginsn *g, const struct gaddr *a)
{
    struct gspot s = {
        .base = GSPOT_NONE, .index = GSPOT_NONE, .rip = a->rip, .width = (uint8_t)a->width, .disp = a->disp
    };
    if (a->seg_base)
        s.seg = a->seg_base == offsetof(struct tcpu, seg_base_fs) ? S_FS : S_GS;
    if (a->base >= 0) {
        s.base = g->before[a->base].id;
        s.disp += g->before[a->base].off;
    }
    if (a->index >= 0) {
        s.index = g->before[a->index].id;
        s.scale = (uint8_t)a->scale;
        s.disp += g->before[a->index].off * (int64_t)a->scale;
    }
    return s;
}

/* MOV with an absolute 64-bit address has displacements whose differences overflow; and nothing is worth
 * grouping there. Nor through a segment whose limit each access must respect, or where addresses wrap before
 * the base is added: what is near then need not be in the same page. */
static bool near_disp(const struct gaddr *a)
{
    return a->disp >= INT32_MIN + GROUP_SPAN_MAX && a->disp <= INT32_MAX - GROUP_SPAN_MAX && a->width > 16 &&
           (!a->seg_base || a->width == 64);
}

void group_note_access(struct trans *t, struct ginsn *g, const struct gaddr *a, unsigned len, bool write)
{
    struct gaccess *x = &t->accesses[t->access_count++];
    g->access_count++;
    *x = (struct gaccess){ .len = (uint16_t)len,
                           .write = write,
                           .groups = near_disp(a) && a->base != BASE_SCRATCH,
                           .insn = (uint8_t)(g - t->g),
                           .exits = (uint8_t)t->branches,
                           .calls = (uint8_t)t->barriers };
    if (x->groups)
        x->spot = spot_of(g, a);
}

struct scan {
    int64_t lo, hi;
    unsigned members, last;
    bool write; /* one of them is a write */
};

/* Looks for accesses behind the current one that can share its check. */
static void look_ahead(const struct trans *t, const struct gspot *at, struct scan *s)
{
    const struct ginsn *g = &t->g[t->cur];
    const struct gaccess *first = &t->accesses[g->access_first], *end = &t->accesses[t->access_count];
    const bool stack = at->base == g->before[R_SP].id;
    if (g->f.barrier)
        return;
    for (const struct gaccess *x = first; x < end && x->calls == first->calls; x++) {
        if (!group_comparable(at, &x->spot) || !x->groups ||
            (x->write && !s->write && !stack && x->exits != first->exits))
            continue;
        int64_t lo = x->spot.disp < s->lo ? x->spot.disp : s->lo,
                hi = x->spot.disp + x->len > s->hi ? x->spot.disp + x->len : s->hi;
        if (hi - lo > GROUP_SPAN_MAX)
            continue;
        s->lo = lo;
        s->hi = hi;
        s->last = x->insn;
        s->members += x->insn > t->cur;
        s->write |= x->write;
    }
}

/* The check in shared code: T0 = linear address; back: T1 = delta, or above. The description stands behind
 * the call, in an instruction that leaves flags and T1 alone. */
static void call_check(struct trans *t, const struct group *g, enum group_kind kind, unsigned span,
                       uint32_t desc)
{
    struct emit *h = &t->h;
    unsigned i = 0;
    while (CHECK_SPAN(i) < span)
        i++;
    e_call(h, t->cc->stubs.check_group[i][kind][t->idx]);
    e_mov_ri32(h, T0, desc);
    e_jcc(h, CC_A, e_rx(&t->k));
    if (g->slot < 0)
        e_mov_rr(h, 1, DC, T1);
    else
        e_store(h, 1, GS(group_delta[g->slot]), T1);
    flow_no_group(t);
}

static void emit_check(struct trans *t, const struct group *g, const struct gaddr *at, enum group_kind kind)
{
    static const uint8_t acc[GROUP_KINDS] = { MMU_SLOW_R, MMU_SLOW_W, MMU_SLOW_R_THEN_W };
    struct emit *h = &t->h, *k = &t->k;
    unsigned span = (unsigned)(g->hi - g->lo);
    int dst = g->slot < 0 ? DC : T1;
    bool poll = t->goes_back && !t->accessed && !t->polled, carry = !poll && fl_carries(t);
    if (!carry)
        fl_lose(t, h);
    if (poll)
        flow_poll(t); /* costs least where EFLAGS are lost anyway */
    lea_guest(t, h, T0, at);
    uint32_t desc = MMU_DESC(t->off, span, acc[kind], 0, 0);
    if (t->small && t->saved_flags) {
        call_check(t, g, kind, span, desc);
        return;
    }
    if (carry)
        fl_carry(h);
    emit_tlb_check(t, span, g->write);
    e_load(h, 1, dst, hm_tlb(t->idx, offsetof(struct tlb_entry, delta)));
    uint8_t *hit = h->p;
    if (g->slot >= 0)
        e_store(h, 1, GS(group_delta[g->slot]), T1);
    if (carry)
        fl_carried(h);

    fl_cold_call(t, k, carry, t->cc->stubs.slow_group[kind][t->idx], desc);
    uint8_t *fail = e_jcc_fwd(k, CC_NE);
    if (dst != T1)
        e_mov_rr(k, 1, dst, T1);
    if (carry)
        fl_carry_back(k);
    e_jmp(k, hit + h->rx_off);
    e_patch(fail, k->p);
    flow_no_group(t);
}

void group_check_early(struct trans *t, const struct group *g)
{
    const struct gspot *s = &g->spot;
    struct gaddr at = { .base = s->base == GSPOT_NONE ? -1 : (int8_t)s->base,
                        .index = s->index == GSPOT_NONE ? -1 : (int8_t)s->index,
                        .scale = s->index == GSPOT_NONE ? 1 : s->scale,
                        .disp = g->lo,
                        .rip = s->rip,
                        .width = s->width };
    t->accessed = true; /* a look at exit_request belongs into the loop */
    emit_check(t, g, &at, GROUP_R);
    t->accessed = false;
}

static struct group *begin(struct trans *t, const struct gaddr *a, unsigned n, bool write)
{
    struct gspot spot = spot_of(&t->g[t->cur], a);
    struct scan s = { .lo = spot.disp, .hi = spot.disp + n, .members = 1, .last = t->cur, .write = write };
    look_ahead(t, &spot, &s);
    if (s.members < (t->small ? 4 : 2))
        return NULL;
    bool dc_free = true;
    for (unsigned m = t->live_groups; m; m &= m - 1)
        dc_free &= t->groups[__builtin_ctz(m)].slot >= 0;
    unsigned free = ~t->live_groups & ((1u << TRANS_GROUPS) - 1);
    if (!free)
        return NULL;
    unsigned slot = 31u - (unsigned)__builtin_clz(free);
    struct group *g = &t->groups[slot];
    struct gaddr at = *a;
    at.disp += s.lo - spot.disp;
    spot.disp = 0;
    *g = (struct group){ .write = s.write,
                         .spot = spot,
                         .lo = s.lo,
                         .hi = s.hi,
                         .last = s.last,
                         .slot = dc_free ? -1 : (int)slot };
    t->live_groups |= 1u << slot;
    emit_check(t, g, &at, write ? GROUP_W : s.write ? GROUP_R_THEN_W : GROUP_R);
    return g;
}

/* base + disp + delta without computing the address, where the encoding allows it. */
static bool plain_base(const struct gaddr *a)
{
    return a->base >= 0 && a->index < 0 && !a->rip && !a->seg_base && a->width == 64 &&
           a->disp == (int32_t)a->disp;
}

bool group_access(struct trans *t, const struct gaddr *a, unsigned n, bool write, struct hmem *ref)
{
    if ((t->mode & (MODE_NO_GROUP | MODE_ONE)) || !near_disp(a))
        return false;
    struct gspot spot = spot_of(&t->g[t->cur], a);
    struct group *g = NULL;
    for (unsigned m = t->live_groups; m && !g; m &= m - 1) {
        struct group *x = &t->groups[__builtin_ctz(m)];
        if (group_comparable(&x->spot, &spot) && x->lo <= spot.disp && spot.disp + n <= x->hi &&
            (!write || x->write))
            g = x;
    }
    bool begun = !g, valid;
    if (g && t->goes_back && !t->accessed && fl_free(t))
        flow_poll(t);
    if (!g)
        g = begin(t, a, n, write);
    if (!g)
        return false;
    struct emit *h = &t->h;
    int delta = DC;
    bool plain = plain_base(a);
    if (!plain)
        lea_guest(t, h, T0, a);
    valid = held_valid(t, h);
    bool has_base = valid && plain && t->held.what[0] == a->base;
    if (g->slot >= 0) {
        if ((!begun || !plain) && !held_is(t, h, 1, HELD_DELTA + g->slot)) /* else T1 holds it still */
            e_load(h, 1, T1, GS(group_delta[g->slot]));
        delta = T1;
        held_keep(t, h, valid);
        held_note(t, 1, HELD_DELTA + g->slot);
    }
    if (!plain) {
        *ref = hm_index(T0, delta, 1, 0);
    } else if (is_slot((unsigned)a->base)) {
        if (!has_base)
            e_load(h, 1, T0, gs_gpr((unsigned)a->base));
        held_keep(t, h, valid || g->slot >= 0);
        held_note(t, 0, a->base);
        *ref = hm_index(T0, delta, 1, (int32_t)a->disp);
    } else {
        *ref = hm_index(host_reg((unsigned)a->base), delta, 1, (int32_t)a->disp);
    }
    return true;
}

void group_after_insn(struct trans *t)
{
    for (unsigned m = t->live_groups; m; m &= m - 1) {
        if (t->g[t->cur].f.barrier || t->groups[__builtin_ctz(m)].last <= t->cur)
            t->live_groups &= ~(m & -m);
    }
}

void group_take_dc(struct trans *t)
{
    for (unsigned m = t->live_groups; m; m &= m - 1) {
        if (t->groups[__builtin_ctz(m)].slot < 0)
            t->live_groups &= ~(m & -m);
    }
}
