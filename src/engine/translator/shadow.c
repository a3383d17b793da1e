/* The mode that runs every block twice (engine_options.shadow).
 *
 * Theory of operation. Translated code and the general path (interp.c) are two implementations of the same
 * instructions. In this mode a block of instructions that both know, and that touch nothing but general
 * registers, flags and RAM (tb_facts.plain), is first rehearsed: the general path runs it, while the MMU
 * notes what each store overwrites. Then the stores are taken back, the registers too, and the translated
 * block runs, which is kept from jumping on to other blocks. Registers, defined flags and the bytes that were
 * stored to must be the same.
 *
 * The rehearsal ends as the block does: after as many instructions, or at the first branch that is taken. An
 * access to a device, or a store to code, cannot be taken back: the MMU refuses it, and the block runs
 * unchecked. So it does when the general path meets an exception. Vector instructions, privileged ones and
 * string instructions are not compared.
 *
 * Devices store to RAM meanwhile, on threads of their own. A difference counts only if the general path,
 * asked again from the same start, says the same again; that second answer is also what the guest goes on
 * with. One vCPU only: another would see, and make, stores between the two runs. */
#include "engine/translator/shadow.h"

#include "engine/translator/cache.h"
#include "engine/translator/interp.h"
#include "engine/translator/sys_priv.h"

#define STEPS_MORE 64 /* a block that ran on without its groups may end later */

bool shadow_note(struct shadow *s, void *at, unsigned len)
{
    struct shadow_write *w = &s->writes[s->count];

    if (s->count == SHADOW_WRITES || len > SHADOW_WRITE_MAX) {
        s->stopped = true;
        return false;
    }
    w->at = at;
    w->len = (uint8_t)len;
    light_copy(w->before, at, len);
    s->count++;
    return true;
}

static struct shadow_regs regs_get(const struct tcpu *c)
{
    struct shadow_regs r;

    for (unsigned i = 0; i < 16; i++)
        r.gpr[i] = c->gpr[i];
    r.rip = c->rip;
    r.rflags = cpu_rflags(c);
    return r;
}

static void regs_set(struct tcpu *c, const struct shadow_regs *r)
{
    for (unsigned i = 0; i < 16; i++)
        c->gpr[i] = r->gpr[i];
    c->rip = r->rip;
    cpu_set_rflags(c, r->rflags);
}

/* With what is there now as the value after. Backwards: two stores may overlap. */
static void stores_take_back(struct shadow *s)
{
    for (unsigned i = s->count; i-- > 0;) {
        struct shadow_write *w = &s->writes[i];

        light_copy(w->after, w->at, w->len);
        light_copy(w->at, w->before, w->len);
    }
}

/* Runs the general path from rip. `until`: goes on to this address if it is not there after `steps`. False:
 * it cannot be rehearsed; nothing is taken back yet in either case. */
static bool rehearse(struct tcpu *c, unsigned steps, const uint64_t *until)
{
    struct shadow *s = c->shadow;
    bool ok = true, over = false;

    s->active = true;
    s->stopped = false;
    s->count = 0;
    for (unsigned i = 0; ok && !over; i++) {
        uint64_t next;

        ok = sys_next_rip(c, &next) && interp_step(c) == STEP_NEXT && !s->stopped && !c->exc.pending &&
             !c->need_exclusive;
        over = i + 1 >= steps || c->rip != next;
        if (over && until && c->rip != *until)
            over = i >= steps + STEPS_MORE;
    }
    s->active = false;
    c->exc.pending = 0;
    c->need_exclusive = 0;
    return ok;
}

/* The first store whose bytes are not what the general path left. */
static const struct shadow_write *stores_compare(const struct shadow *s)
{
    for (unsigned i = 0; i < s->count; i++) {
        const struct shadow_write *w = &s->writes[i];

        for (unsigned k = 0; k < w->len; k++) {
            bool later = false; /* the last store to a byte counts */

            for (unsigned j = i + 1; j < s->count && !later; j++)
                later = w->at + k >= s->writes[j].at && w->at + k < s->writes[j].at + s->writes[j].len;
            if (!later && w->at[k] != w->after[k])
                return w;
        }
    }
    return NULL;
}

static bool regs_same(const struct shadow_regs *a, const struct shadow_regs *b, uint64_t flags)
{
    for (unsigned i = 0; i < 16; i++) {
        if (a->gpr[i] != b->gpr[i])
            return false;
    }
    return a->rip == b->rip && ((a->rflags ^ b->rflags) & flags) == 0;
}

/* Whether the bytes that translated code stored are there after the general path's turn. */
static bool store_same(const struct shadow_write *translated)
{
    for (unsigned k = 0; k < translated->len; k++) {
        if (translated->at[k] != translated->after[k])
            return false;
    }
    return true;
}

/* The two do not agree: asks the general path again, with whose results the guest goes on. `w`: the store
 * that differs, or NULL. */
static void look_again(struct tcpu *c, const struct tb_facts *facts, const struct shadow_regs *start,
                       const struct shadow_write *w, uint64_t flags)
{
    struct shadow *s = c->shadow;
    struct shadow_regs translated = regs_get(c), again;
    struct shadow_write store = { 0 };

    if (w) {
        store = *w;
        light_copy(store.after, w->at, w->len);
    }
    for (unsigned i = s->count; i-- > 0;)
        light_copy(s->writes[i].at, s->writes[i].before, s->writes[i].len);
    regs_set(c, start);
    if (!rehearse(c, facts->insns, &translated.rip)) { /* not this time: the block runs again */
        stores_take_back(s);
        regs_set(c, start);
        return;
    }
    again = regs_get(c);
    if (regs_same(&again, &translated, flags) && store_same(&store))
        return; /* a device's store in between, or the block had ended later */
    c->counters[TC_SHADOW_DIFFERENT]++;
    if (s->told)
        return;
    s->told = true;
    cpu_heavy_begin(c);
    heavy_shadow_differs(c, start, &again, &translated, &store, flags);
    cpu_heavy_end(c);
}

enum exit_reason shadow_run_block(struct tcpu *c, uint32_t mode, const struct tb_facts *facts)
{
    struct shadow *s = c->shadow;
    struct shadow_regs start = regs_get(c), general, now;
    uint64_t flags = ~(uint64_t)facts->undefined_flags;
    const struct shadow_write *w;
    enum exit_reason why;
    bool ok = facts->plain && !atomic_load(&c->exit_request) && rehearse(c, facts->insns, NULL);

    general = regs_get(c);
    if (facts->plain) {
        stores_take_back(s);
        regs_set(c, &start);
    }
    why = vcpu_run_block(c, mode);
    if (!ok || why == XIT_POLL) {
        c->counters[TC_SHADOW_SKIPPED]++;
        return why;
    }
    c->counters[TC_SHADOW_COMPARED]++;
    now = regs_get(c);
    w = stores_compare(s);
    if (why == XIT_LOOKUP && (w || !regs_same(&general, &now, flags)))
        look_again(c, facts, &start, w, flags);
    return why;
}
