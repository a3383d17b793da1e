/* Groups: one check for several accesses near the same address.
 *
 * Theory of operation. Within a block, accesses through the same registers (same base, index, scale, segment)
 * differ only in their displacement as long as none of the registers changes; for RSP, changes by known
 * constants (PUSH, POP, ADD RSP) are followed. When the first of them comes, the rest of the block is
 * searched for others; if there are any, one check covers the whole stretch [lo, hi) and the page's delta is
 * kept, in the DC register or in a slot of struct tcpu, for the later ones, which then cost nothing or one
 * load, and leave EFLAGS alone.
 *
 * The check must not fault early and must not touch the guest: if the stretch is not plain RAM of one page
 * with the right rights (it crosses a page, is MMIO, is write protected, holds code), the block is left
 * before the current instruction for one translated under MODE_NO_GROUP, where each access is checked by
 * itself and faults at its own place. A read group ends before the first write, which begins a group of its
 * own, so a page is never asked for writing before it is written.
 *
 * A delta stays right until the block ends: this vCPU changes its own translations only in instructions that
 * go to C (barriers drop all groups), and another that wants a write tag back first waits until this one has
 * left its block. */
#include "engine/translator/mmu.h"
#include "engine/translator/trans.h"

#define GROUP_SPAN_MAX 512 /* the longer, the oftener it crosses a page */

static bool same_key(const struct gaddr *a, const struct gaddr *b)
{
    return a->base == b->base && a->index == b->index && (a->index < 0 || a->scale == b->scale) &&
           a->rip == b->rip && a->seg_base == b->seg_base && a->width == b->width;
}

static int64_t sym_disp(const struct ginsn *g, const struct gaddr *a)
{
    return a->disp + (a->base == R_SP ? g->sp_before : 0);
}

/* MOV with an absolute 64-bit address has displacements whose differences overflow; and nothing is worth
 * grouping there. Nor through a segment whose limit each access must respect, or where addresses wrap before
 * the base is added: what is near then need not be in the same page. */
static bool near_disp(const struct gaddr *a)
{
    return a->disp == (int32_t)a->disp && a->width > 16 && (!a->seg_base || a->width == 64);
}

static uint16_t key_regs(const struct gaddr *a)
{
    return (uint16_t)((a->base >= 0 ? 1u << a->base : 0) | (a->index >= 0 ? 1u << a->index : 0));
}

struct scan {
    int64_t lo, hi;
    unsigned members, last;
};

/* Looks for accesses behind the current one that can share its check. */
static void look_ahead(struct trans *t, const struct gaddr *a, bool write, struct scan *s)
{
    uint16_t epoch = t->g[t->cur].sp_epoch;
    for (unsigned j = t->cur; j < t->count; j++) {
        const struct ginsn *g = &t->g[j];
        if (g->barrier)
            return;
        for (unsigned i = 0; i < g->access_count; i++) {
            const struct gaccess *x = &g->access[i];
            if (!near_disp(&x->a) || !same_key(a, &x->a) || (a->base == R_SP && g->sp_epoch != epoch))
                continue;
            if (x->write && !write)
                return;
            int64_t d = sym_disp(g, &x->a), lo = d < s->lo ? d : s->lo,
                    hi = d + x->len > s->hi ? d + x->len : s->hi;
            if (hi - lo > GROUP_SPAN_MAX)
                continue;
            s->lo = lo;
            s->hi = hi;
            s->last = j;
            s->members += j > t->cur;
        }
        if (g->writes & key_regs(a))
            return;
    }
}

/* The check in shared code: T0 = linear address; back: T1 = delta, or above. The description stands behind
 * the call, in an instruction that leaves flags and T1 alone. */
static void call_check(struct trans *t, const struct group *g, unsigned span, uint32_t desc)
{
    struct emit *h = &t->h;
    unsigned i = 0;
    while (CHECK_SPAN(i) < span)
        i++;
    e_call(h, t->cc->stubs.check_group[i][g->write][t->idx]);
    e_mov_ri32(h, T0, desc);
    e_jcc(h, CC_A, e_rx(&t->k));
    if (g->slot < 0)
        e_mov_rr(h, 1, DC, T1);
    else
        e_store(h, 1, GS(group_delta[g->slot]), T1);
    flow_no_group(t);
}

static void emit_check(struct trans *t, const struct group *g, const struct gaddr *at)
{
    struct emit *h = &t->h, *k = &t->k;
    unsigned span = (unsigned)(g->hi - g->lo);
    int dst = g->slot < 0 ? DC : T1;
    bool poll = t->goes_back && !t->accessed && !t->polled, carry = !poll && fl_carries(t);
    if (!carry)
        fl_lose(t, h);
    if (poll)
        flow_poll(t); /* costs least where EFLAGS are lost anyway */
    lea_guest(t, h, T0, at);
    uint32_t desc = MMU_DESC(t->off, span, g->write ? MMU_SLOW_W : MMU_SLOW_R, 0, 0);
    if (t->small && t->saved_flags) {
        call_check(t, g, span, desc);
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

    fl_cold_call(t, k, carry, t->cc->stubs.slow_group[g->write][t->idx], desc);
    uint8_t *fail = e_jcc_fwd(k, CC_NE);
    if (dst != T1)
        e_mov_rr(k, 1, dst, T1);
    if (carry)
        fl_carry_back(k);
    e_jmp(k, hit + h->rx_off);
    e_patch(fail, k->p);
    flow_no_group(t);
}

static struct group *begin(struct trans *t, const struct gaddr *a, unsigned n, bool write)
{
    const struct ginsn *gi = &t->g[t->cur];
    int64_t d = sym_disp(gi, a);
    struct scan s = { .lo = d, .hi = d + n, .members = 1, .last = t->cur };
    look_ahead(t, a, write, &s);
    if (s.members < (t->small ? 4 : 2))
        return NULL;
    struct group *g = NULL;
    bool dc_free = true;
    for (unsigned i = 0; i < TRANS_GROUPS; i++) {
        if (!t->groups[i].live)
            g = &t->groups[i];
        else if (t->groups[i].slot < 0)
            dc_free = false;
    }
    if (!g)
        return NULL;
    *g = (struct group){ .live = true,
                         .write = write,
                         .key = *a,
                         .sp_epoch = gi->sp_epoch,
                         .lo = s.lo,
                         .hi = s.hi,
                         .last = s.last,
                         .slot = dc_free ? -1 : (int)(g - t->groups) };
    g->key.disp = 0;
    struct gaddr at = *a;
    at.disp = s.lo - (a->base == R_SP ? gi->sp_before : 0);
    emit_check(t, g, &at);
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
    const struct ginsn *gi = &t->g[t->cur];
    int64_t d = sym_disp(gi, a);
    struct group *g = NULL;
    for (unsigned i = 0; i < TRANS_GROUPS && !g; i++) {
        struct group *x = &t->groups[i];
        if (x->live && same_key(&x->key, a) && (a->base != R_SP || x->sp_epoch == gi->sp_epoch) &&
            x->lo <= d && d + n <= x->hi && (!write || x->write))
            g = x;
    }
    bool begun = !g;
    if (!g)
        g = begin(t, a, n, write);
    if (!g)
        return false;
    struct emit *h = &t->h;
    int delta = DC;
    bool plain = plain_base(a);
    if (!plain)
        lea_guest(t, h, T0, a);
    if (g->slot >= 0) {
        if (!begun || !plain) /* T1 holds it still */
            e_load(h, 1, T1, GS(group_delta[g->slot]));
        delta = T1;
    }
    if (!plain) {
        *ref = hm_index(T0, delta, 1, 0);
    } else if (is_slot((unsigned)a->base)) {
        e_load(h, 1, T0, gs_gpr((unsigned)a->base));
        *ref = hm_index(T0, delta, 1, (int32_t)a->disp);
    } else {
        *ref = hm_index(host_reg((unsigned)a->base), delta, 1, (int32_t)a->disp);
    }
    return true;
}

void group_after_insn(struct trans *t)
{
    const struct ginsn *gi = &t->g[t->cur];
    for (unsigned i = 0; i < TRANS_GROUPS; i++) {
        struct group *g = &t->groups[i];
        if (gi->barrier || g->last <= t->cur || (gi->writes & key_regs(&g->key)))
            g->live = false;
    }
}

void group_drop_all(struct trans *t)
{
    for (unsigned i = 0; i < TRANS_GROUPS; i++)
        t->groups[i].live = false;
}

void group_take_dc(struct trans *t)
{
    for (unsigned i = 0; i < TRANS_GROUPS; i++) {
        if (t->groups[i].slot < 0)
            t->groups[i].live = false;
    }
}
