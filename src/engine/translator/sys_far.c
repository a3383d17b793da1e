/* Far transfers: JMP, CALL and RET between segments, call gates, transfers to tasks. Light.
 * Sections are of the Intel SDM volume 3 (2023-12); the checks' order is that of volume 2's instruction
 * pages.
 *
 * As in sys_event.c, everything is read, checked and pushed before a register changes. The target may be 16,
 * 32 or 64-bit code whatever the present code is; the operand size gives the width of offsets and stack
 * slots. */
#include "engine/translator/sys_priv.h"

static enum step fault(bool raised_false)
{
    (void)raised_false; /* cpu_raise and its kin, for one-line returns */
    return STEP_FAULT;
}

static uint64_t mask_off(uint64_t off, unsigned opsize)
{
    return opsize == 2 ? off & 0xffff : opsize == 4 ? off & 0xffffffffu : off;
}

/* Commit of a transfer that stays at its privilege level. */
static enum step enter(struct tcpu *c, const struct sys_desc *cs, uint16_t sel, uint64_t off)
{
    sys_set_cs(c, cs, sel, c->cpl);
    c->rip = off;
    sys_mode_changed(c);
    return STEP_NEXT;
}

/* ---- real and v86 mode ---- */

static void set_cs_real(struct tcpu *c, uint16_t sel, uint64_t off)
{
    c->seg[S_CS].sel = sel;
    c->seg[S_CS].base = (uint64_t)sel << 4;
    c->rip = off;
    sys_mode_changed(c);
}

static enum step real_jump(struct tcpu *c, uint16_t sel, uint64_t off)
{
    if (off > c->seg[S_CS].limit)
        return fault(cpu_raise_gp(c, 0));
    set_cs_real(c, sel, off);
    return STEP_NEXT;
}

static enum step real_call(struct tcpu *c, uint16_t sel, uint64_t off, unsigned opsize, uint64_t next_rip)
{
    struct sys_stack s = sys_stack_now(c);

    if (!sys_push(c, &s, c->seg[S_CS].sel, opsize) || !sys_push(c, &s, next_rip, opsize))
        return STEP_FAULT;
    if (off > c->seg[S_CS].limit)
        return fault(cpu_raise_gp(c, 0));
    sys_stack_commit(c, &s);
    set_cs_real(c, sel, off);
    return STEP_NEXT;
}

static enum step real_ret(struct tcpu *c, unsigned opsize, unsigned pop_bytes)
{
    struct sys_stack s = sys_stack_now(c);
    uint64_t v[2];

    if (!sys_pop_n(c, &s, v, 2, opsize))
        return STEP_FAULT;
    if (v[0] > c->seg[S_CS].limit)
        return fault(cpu_raise_gp(c, 0));
    s.sp = (s.sp + pop_bytes) & s.mask;
    sys_stack_commit(c, &s);
    set_cs_real(c, (uint16_t)v[1], v[0]);
    return STEP_NEXT;
}

/* ---- call gates: 5.8.3 to 5.8.5 ---- */

struct call_gate {
    uint16_t sel;
    uint64_t off;
    unsigned width; /* of the pushes: 2, 4, 8 */
    unsigned params;
    struct sys_desc cs;
};

/* Checks the gate d that `gate_sel` named, and the code segment behind it. */
static bool read_call_gate(struct tcpu *c, uint16_t gate_sel, struct sys_desc *d, bool is_call,
                           struct call_gate *g)
{
    uint32_t err = gate_sel & 0xfffcu;
    unsigned dpl = sys_desc_dpl(d), cs_dpl;
    bool is_long = cpu_long_mode(c);

    if (dpl < c->cpl || dpl < (gate_sel & 3u))
        return cpu_raise_gp(c, err);
    if (!sys_desc_present(d))
        return cpu_raise_error(c, EXC_NP, err);
    if (is_long && !sys_desc_read_second(c, gate_sel, d, 0))
        return false;
    g->sel = (uint16_t)(d->lo >> 16);
    g->width = is_long ? 8 : sys_desc_type(d) == DT_CALL32 ? 4 : 2;
    g->params = is_long ? 0 : d->hi & 31;
    g->off = d->lo & 0xffffu;
    if (g->width > 2)
        g->off |= d->hi & 0xffff0000u;
    if (is_long)
        g->off |= (uint64_t)d->lo2 << 32;
    if (sys_sel_null(g->sel))
        return cpu_raise_gp(c, 0);
    if (!sys_desc_read(c, g->sel, &g->cs, EXC_GP, 0))
        return false;
    cs_dpl = sys_desc_dpl(&g->cs);
    if (!sys_desc_is_code(&g->cs) || cs_dpl > c->cpl)
        return cpu_raise_gp(c, g->sel & 0xfffcu);
    if (!is_call && !sys_desc_is_conforming(&g->cs) && cs_dpl != c->cpl)
        return cpu_raise_gp(c, g->sel & 0xfffcu);
    if (is_long && (g->cs.hi & 0x600000u) != 0x200000u) /* 5.8.3.1: the target is 64-bit code */
        return cpu_raise_gp(c, g->sel & 0xfffcu);
    if (!sys_desc_present(&g->cs))
        return cpu_raise_error(c, EXC_NP, g->sel & 0xfffcu);
    return sys_check_rip(c, &g->cs, g->off, 0);
}

/* New stack of a gate to an inner level, with the parameters of the old one on it: 5.8.5. */
static bool gate_inner_stack(struct tcpu *c, const struct call_gate *g, unsigned cpl, struct sys_stack *s,
                             struct sys_desc *ss)
{
    struct sys_stack old = sys_stack_now(c);
    uint64_t param[31];

    if (g->width == 8) {
        struct x86_segment null = sys_null_stack((uint16_t)cpl, cpl);
        uint64_t rsp;

        if (!sys_tss_pointer(c, 4 + 8 * cpl, 0, &rsp))
            return false;
        *s = sys_stack_make(c, &null, rsp, true, cpl, 0);
    } else {
        if (!sys_tss_stack(c, cpl, 0, s, ss))
            return false;
        if (!sys_pop_n(c, &old, param, g->params, g->width))
            return false;
    }
    if (!sys_push(c, s, c->seg[S_SS].sel, g->width) || !sys_push(c, s, c->gpr[R_SP], g->width))
        return false;
    for (unsigned i = g->params; i > 0; i--) {
        if (!sys_push(c, s, param[i - 1], g->width))
            return false;
    }
    return true;
}

static enum step call_gate(struct tcpu *c, struct call_gate *g, uint64_t next_rip)
{
    unsigned cpl = sys_desc_is_conforming(&g->cs) ? c->cpl : sys_desc_dpl(&g->cs);
    bool inner = cpl < c->cpl;
    /* The target of a long-mode gate is 64-bit code, so the stack is one too, also when compatibility mode
     * calls. */
    struct sys_stack s = sys_stack_make(c, &c->seg[S_SS], c->gpr[R_SP], g->width == 8, c->cpl, 0);
    struct sys_desc ss = { 0 };

    if (inner && !gate_inner_stack(c, g, cpl, &s, &ss))
        return STEP_FAULT;
    if (!sys_push(c, &s, c->seg[S_CS].sel, g->width) || !sys_push(c, &s, next_rip, g->width))
        return STEP_FAULT;
    if (!sys_desc_mark_accessed(c, &g->cs) || (inner && g->width != 8 && !sys_desc_mark_accessed(c, &ss)))
        return STEP_FAULT;
    if (inner)
        c->seg[S_SS] = g->width == 8 ? sys_null_stack((uint16_t)cpl, cpl) : sys_desc_segment(&ss, s.ss.sel);
    sys_stack_commit(c, &s);
    sys_set_cs(c, &g->cs, g->sel, cpl);
    c->rip = g->off;
    sys_mode_changed(c);
    return STEP_NEXT;
}

static enum step jump_gate(struct tcpu *c, struct call_gate *g)
{
    if (!sys_desc_mark_accessed(c, &g->cs))
        return STEP_FAULT;
    return enter(c, &g->cs, g->sel, g->off);
}

/* ---- system descriptors as targets of JMP and CALL ---- */

/* A TSS or a task gate: 8.3. */
static enum step to_task(struct tcpu *c, uint16_t sel, const struct sys_desc *d, bool is_call,
                         uint64_t next_rip)
{
    enum sys_task_reason reason = is_call ? TASK_CALL : TASK_JUMP;
    unsigned dpl = sys_desc_dpl(d);
    bool is_tss = sys_desc_type(d) != DT_TASK;

    if (dpl < c->cpl || dpl < (sel & 3u) || (is_tss && (sel & 4)))
        return fault(cpu_raise_gp(c, sel & 0xfffcu));
    if (!sys_desc_present(d))
        return fault(cpu_raise_error(c, EXC_NP, sel & 0xfffcu));
    if (!is_call && !sys_next_rip(c, &next_rip))
        return STEP_FAULT;
    if (is_tss)
        return sys_task_switch(c, sel, (int)reason, next_rip, false, 0);
    return sys_task_gate(c, d, reason, next_rip, false, 0, 0);
}

static enum step to_system(struct tcpu *c, uint16_t sel, struct sys_desc *d, bool is_call, uint64_t next_rip)
{
    unsigned type = sys_desc_type(d);
    bool is_long = cpu_long_mode(c);
    struct call_gate g;

    if (type == DT_CALL32 || (type == DT_CALL16 && !is_long)) {
        if (!read_call_gate(c, sel, d, is_call, &g))
            return STEP_FAULT;
        return is_call ? call_gate(c, &g, next_rip) : jump_gate(c, &g);
    }
    if (!is_long && (type == DT_TSS32 || type == DT_TSS16 || type == DT_TASK))
        return to_task(c, sel, d, is_call, next_rip);
    return fault(cpu_raise_gp(c, sel & 0xfffcu));
}

/* ---- JMP and CALL ---- */

static bool is_real_or_v86(const struct tcpu *c)
{
    return cpu_real_mode(c) || cpu_v86(c);
}

enum step sys_far_jump(struct tcpu *c, uint16_t sel, uint64_t off, unsigned opsize)
{
    struct sys_desc d;

    off = mask_off(off, opsize);
    if (is_real_or_v86(c))
        return real_jump(c, sel, off);
    if (sys_sel_null(sel))
        return fault(cpu_raise_gp(c, 0));
    if (!sys_desc_read(c, sel, &d, EXC_GP, 0))
        return STEP_FAULT;
    if (!sys_desc_is_segment(&d))
        return to_system(c, sel, &d, false, 0);
    if (!sys_check_code_direct(c, sel, &d) || !sys_check_code_usable(c, sel, &d, 0) ||
        !sys_check_rip(c, &d, off, 0) || !sys_desc_mark_accessed(c, &d))
        return STEP_FAULT;
    return enter(c, &d, sel, off);
}

enum step sys_far_call(struct tcpu *c, uint16_t sel, uint64_t off, unsigned opsize, uint64_t next_rip)
{
    struct sys_desc d;
    struct sys_stack s;

    off = mask_off(off, opsize);
    if (is_real_or_v86(c))
        return real_call(c, sel, off, opsize, next_rip);
    if (sys_sel_null(sel))
        return fault(cpu_raise_gp(c, 0));
    if (!sys_desc_read(c, sel, &d, EXC_GP, 0))
        return STEP_FAULT;
    if (!sys_desc_is_segment(&d))
        return to_system(c, sel, &d, true, next_rip);
    if (!sys_check_code_direct(c, sel, &d) || !sys_check_code_usable(c, sel, &d, 0))
        return STEP_FAULT;
    s = sys_stack_now(c);
    if (!sys_push(c, &s, c->seg[S_CS].sel, opsize) || !sys_push(c, &s, next_rip, opsize))
        return STEP_FAULT;
    if (!sys_check_rip(c, &d, off, 0) || !sys_desc_mark_accessed(c, &d))
        return STEP_FAULT;
    sys_stack_commit(c, &s);
    return enter(c, &d, sel, off);
}

/* ---- RET ---- */

static bool check_ret_cs(struct tcpu *c, uint16_t sel, struct sys_desc *d)
{
    unsigned rpl = sel & 3u;

    if (sys_sel_null(sel))
        return cpu_raise_gp(c, 0);
    if (!sys_desc_read(c, sel, d, EXC_GP, 0))
        return false;
    if (!sys_desc_is_code(d) || rpl < c->cpl)
        return cpu_raise_gp(c, sel & 0xfffcu);
    if (sys_desc_is_conforming(d) ? sys_desc_dpl(d) > rpl : sys_desc_dpl(d) != rpl)
        return cpu_raise_gp(c, sel & 0xfffcu);
    return sys_check_code_usable(c, sel, d, 0);
}

/* To an outer level: the caller's stack is on this one, behind the parameters. */
static enum step ret_outer(struct tcpu *c, struct sys_stack *s, struct sys_desc *cs, const uint64_t *v,
                           unsigned opsize, unsigned pop_bytes)
{
    uint16_t cs_sel = (uint16_t)v[1], ss_sel;
    unsigned cpl = cs_sel & 3u;
    bool is64 = sys_target_is64(c, cs);
    struct x86_segment seg;
    struct sys_desc ss;
    uint64_t out[2];

    s->sp = (s->sp + pop_bytes) & s->mask;
    if (!sys_pop_n(c, s, out, 2, opsize))
        return STEP_FAULT;
    ss_sel = (uint16_t)out[1];
    if (sys_sel_null(ss_sel)) {
        if (!is64 || cpl == 3 || (ss_sel & 3u) != cpl)
            return fault(cpu_raise_gp(c, 0));
        seg = sys_null_stack(ss_sel, cpl);
    } else {
        if (!sys_desc_read(c, ss_sel, &ss, EXC_GP, 0) || !sys_check_stack(c, ss_sel, &ss, cpl, EXC_GP, 0) ||
            !sys_desc_mark_accessed(c, &ss))
            return STEP_FAULT;
        seg = sys_desc_segment(&ss, ss_sel);
    }
    if (!sys_check_rip(c, cs, v[0], 0) || !sys_desc_mark_accessed(c, cs))
        return STEP_FAULT;
    c->seg[S_SS] = seg;
    sys_set_cs(c, cs, cs_sel, cpl);
    c->rip = v[0];
    c->gpr[R_SP] = sys_merge_sp(c->gpr[R_SP], out[0], &seg, is64);
    c->gpr[R_SP] = sys_merge_sp(c->gpr[R_SP], c->gpr[R_SP] + pop_bytes, &seg, is64);
    sys_drop_inner_segments(c, cpl);
    sys_mode_changed(c);
    return STEP_NEXT;
}

enum step sys_far_ret(struct tcpu *c, unsigned opsize, unsigned pop_bytes)
{
    struct sys_stack s;
    struct sys_desc cs;
    uint64_t v[2];

    if (is_real_or_v86(c))
        return real_ret(c, opsize, pop_bytes);
    s = sys_stack_now(c);
    if (!sys_pop_n(c, &s, v, 2, opsize) || !check_ret_cs(c, (uint16_t)v[1], &cs))
        return STEP_FAULT;
    if ((v[1] & 3) > c->cpl)
        return ret_outer(c, &s, &cs, v, opsize, pop_bytes);
    if (!sys_check_rip(c, &cs, v[0], 0) || !sys_desc_mark_accessed(c, &cs))
        return STEP_FAULT;
    s.sp = (s.sp + pop_bytes) & s.mask;
    sys_stack_commit(c, &s);
    return enter(c, &cs, (uint16_t)v[1], v[0]);
}
