/* Loops that are one block: checks whose result holds in every round are made once, in front of the loop.
 *
 * Theory of operation. A block that jumps to its own start, with nothing before the jump that goes to C for
 * more than memory, is a loop. A read in it whose address is made of registers that no round changes finds
 * the same page each time. Such reads become groups (trans_group.c) that are checked where the block is
 * entered; the jump back leads behind the checks. Where one of them fails, the block is left for the one
 * without groups before the guest has seen anything, and comes round again through the block's entry.
 *
 * What makes a delta stay right over the jump back is what makes it stay right within a block: others that
 * want something of this vCPU's translations wait until it looks at exit_request, and there is such a look in
 * each round. Only the block's death is noticed at its entry, which a round does not pass: whoever kills a
 * block that loops asks all vCPUs to look (cache_smc.c).
 *
 * A round begins with the flags in EFLAGS, as the jump back has them, whatever the block was entered with; if
 * nobody looks at them, with any. Writes stay where they are: a page is not to be asked for writing before it
 * is written. */
#include "engine/translator/mmu.h"
#include "engine/translator/trans.h"

#define LOOP_GROUPS 4 /* the others are for what changes */

/* Conditional and plain jumps; LOOP and JRCXZ must not touch the flags on their way. */
static bool jumps_to_start(const struct trans *t, const struct ginsn *g)
{
    return g->f.jumps && (int64_t)g->off + g->length + g->imm == (int64_t)t->start;
}

/* Index of the jump back, or t->count. */
static unsigned find_jump(const struct trans *t)
{
    for (unsigned i = 0; i < t->count && !t->g[i].f.barrier; i++) {
        if (jumps_to_start(t, &t->g[i]))
            return i;
    }
    return t->count;
}

static bool value_lasts(const struct trans *t, unsigned id, unsigned at)
{
    return id == GSPOT_NONE || (id < 16 && t->g[at].before[id].id == id && t->g[at].before[id].off == 0);
}

static bool spot_lasts(const struct trans *t, const struct gaccess *x, unsigned at)
{
    return x->groups && !x->spot.seg && value_lasts(t, x->spot.base, at) && value_lasts(t, x->spot.index, at);
}

/* Adds the access to a group that has room, or makes one. */
static void collect(struct trans *t, const struct gaccess *x, unsigned at, unsigned *count)
{
    int64_t lo = x->spot.disp, hi = lo + x->len;
    for (unsigned i = 0; i < *count; i++) {
        struct group *g = &t->groups[i];
        int64_t all_lo = lo < g->lo ? lo : g->lo, all_hi = hi > g->hi ? hi : g->hi;
        if (group_comparable(&g->spot, &x->spot) && all_hi - all_lo <= GROUP_SPAN_MAX) {
            g->lo = all_lo;
            g->hi = all_hi;
            return;
        }
    }
    if (*count == LOOP_GROUPS)
        return;
    struct group *g = &t->groups[(*count)++];
    *g = (struct group){ .spot = x->spot, .lo = lo, .hi = hi, .last = at };
    g->slot = (int)(g - t->groups); /* not DC, which others may take on the way */
    t->live_groups |= 1u << g->slot;
    g->spot.disp = 0;
}

/* Writes near a read have a check in each round anyway, which the read shares. */
static bool is_written(const struct trans *t, const struct gspot *spot, unsigned at)
{
    for (const struct gaccess *x = t->accesses; x < &t->accesses[t->access_count] && x->insn <= at; x++) {
        if (x->write && x->groups && group_comparable(&x->spot, spot))
            return true;
    }
    return false;
}

static unsigned find_groups(struct trans *t, unsigned at)
{
    unsigned count = 0;
    for (const struct gaccess *x = t->accesses; x < &t->accesses[t->access_count] && x->insn <= at; x++) {
        if (!x->write && spot_lasts(t, x, at) && !is_written(t, &x->spot, at))
            collect(t, x, at, &count);
    }
    return count;
}

void loop_begin(struct trans *t)
{
    if (t->small || (t->mode & (MODE_ONE | MODE_NO_GROUP | MODE_NATIVE)) || t->c->shadow || t->count == 0)
        return;
    unsigned at = find_jump(t), count = at < t->count ? find_groups(t, at) : 0;
    if (!count)
        return;
    trans_set_current(t, 0);
    fl_clobber(t, &t->h);
    for (unsigned i = 0; i < count; i++)
        group_check_early(t, &t->groups[i]);
    t->loop.flags_dead = fl_forgotten(t);
    if (!t->loop.flags_dead)
        fl_need(t, &t->h, T1);
    t->host_flags = true;
    t->saved_flags = t->loop.flags_dead; /* what is there is as good */
    t->held.at = NULL;
    t->loop.at = at;
    t->loop.again = e_rx(&t->h);
}

bool loop_closes(const struct trans *t, int64_t target)
{
    return t->loop.again && t->cur == t->loop.at && target == (int64_t)t->start;
}

const uint8_t *loop_again(struct trans *t)
{
    if (!t->loop.flags_dead)
        fl_need(t, &t->h, T1);
    return t->loop.again;
}
