/* Hardware task switch: Intel SDM volume 3 (2023-12), chapter 8. Legacy protected mode only. Light.
 *
 * Everything that can fail about the two TSSs is read, written and checked first. Then the switch is
 * committed: from there on the new task's selectors are loaded one by one, and a fault belongs to the new
 * task, with its EIP (8.3, steps 13 to 15). Linux uses this only for the double fault of 32-bit kernels. */
#include "engine/translator/interp_decode.h"
#include "engine/translator/sys_priv.h"

#define DR6_BT 0x8000ull

/* What a TSS of either size holds of a task's registers. */
struct task {
    uint32_t cr3, eip, eflags;
    uint32_t gpr[8];
    uint16_t seg[6]; /* ES CS SS DS FS GS, the numbers of S_* */
    uint16_t ldt;
    bool trap;
};

/* Figure 8-2 */
struct tss32 {
    uint16_t link, pad0;
    uint32_t stack[6];
    uint32_t cr3, eip, eflags, gpr[8];
    uint32_t seg[6];
    uint32_t ldt;
    uint16_t trap, iomap;
};
_Static_assert(sizeof(struct tss32) == 104, "size of a 32-bit TSS");

/* Figure 8-10 */
struct tss16 {
    uint16_t link, stack[6];
    uint16_t ip, flags, gpr[8];
    uint16_t seg[4];
    uint16_t ldt;
};
_Static_assert(sizeof(struct tss16) == 44, "size of a 16-bit TSS");

/* One switch: where from, where to, why. */
struct sys_switch {
    enum sys_task_reason reason;
    uint16_t sel;
    struct sys_desc desc;
    bool is32;
    uint64_t base;
    uint64_t next_rip;
    bool has_error;
    uint32_t error, ext;
};

bool sys_next_rip(struct tcpu *c, uint64_t *next)
{
    struct insn i;

    if (insn_decode(c, &i) != STEP_NEXT)
        return c->exc.pending ? false : cpu_raise(c, EXC_UD);
    *next = i.next_rip;
    return true;
}

/* ---- the two TSSs ---- */

static bool find_tss(struct tcpu *c, struct sys_switch *sw)
{
    unsigned vector = sw->reason == TASK_IRET ? EXC_TS : EXC_GP, type;
    uint32_t err = (sw->sel & 0xfffcu) | sw->ext;
    bool want_busy = sw->reason == TASK_IRET;

    if (sys_sel_null(sw->sel) || (sw->sel & 4))
        return cpu_raise_error(c, vector, err);
    if (!sys_desc_read(c, sw->sel, &sw->desc, vector, sw->ext))
        return false;
    type = sys_desc_type(&sw->desc);
    if (sys_desc_is_segment(&sw->desc) || (type & 5) != 1 || ((type & 2) != 0) != want_busy)
        return cpu_raise_error(c, vector, err);
    if (!sys_desc_present(&sw->desc))
        return cpu_raise_error(c, EXC_NP, err);
    sw->is32 = type & 8;
    sw->base = sys_desc_base(&sw->desc);
    if (sys_desc_limit(&sw->desc) < (sw->is32 ? sizeof(struct tss32) : sizeof(struct tss16)) - 1)
        return cpu_raise_error(c, EXC_TS, err);
    return true;
}

static bool read_task(struct tcpu *c, const struct sys_switch *sw, struct task *t)
{
    union {
        struct tss32 w;
        struct tss16 h;
    } u;

    if (!mmu_read(c, sw->base, &u, sw->is32 ? sizeof(u.w) : sizeof(u.h), MMU_AS_SYSTEM))
        return false;
    *t = (struct task){ .cr3 = (uint32_t)c->cr3 };
    if (sw->is32) {
        t->cr3 = u.w.cr3;
        t->eip = u.w.eip;
        t->eflags = u.w.eflags;
        t->ldt = (uint16_t)u.w.ldt;
        t->trap = u.w.trap & 1;
    } else {
        t->eip = u.h.ip;
        t->eflags = u.h.flags;
        t->ldt = u.h.ldt;
    }
    for (unsigned i = 0; i < 8; i++)
        t->gpr[i] = sw->is32 ? u.w.gpr[i] : 0xffff0000u | u.h.gpr[i];
    for (unsigned i = 0; i < (sw->is32 ? 6u : 4u); i++)
        t->seg[i] = sw->is32 ? (uint16_t)u.w.seg[i] : u.h.seg[i];
    return true;
}

/* The fields from EIP to the last selector: 8.2.1. */
static bool save_task(struct tcpu *c, const struct sys_switch *sw)
{
    uint32_t flags = (uint32_t)cpu_rflags(c);
    uint64_t base = c->seg[S_TR].base;
    struct tss32 w = { 0 };
    struct tss16 h = { 0 };

    if (sw->reason == TASK_IRET)
        flags &= ~FL_NT;
    if (sys_tss_is32(c)) {
        w.eip = (uint32_t)sw->next_rip;
        w.eflags = flags;
        for (unsigned i = 0; i < 8; i++)
            w.gpr[i] = (uint32_t)c->gpr[i];
        for (unsigned i = 0; i < 6; i++)
            w.seg[i] = c->seg[i].sel;
        return mmu_write(c, base + offsetof(struct tss32, eip), &w.eip,
                         offsetof(struct tss32, ldt) - offsetof(struct tss32, eip), MMU_AS_SYSTEM);
    }
    h.ip = (uint16_t)sw->next_rip;
    h.flags = (uint16_t)flags;
    for (unsigned i = 0; i < 8; i++)
        h.gpr[i] = (uint16_t)c->gpr[i];
    for (unsigned i = 0; i < 4; i++)
        h.seg[i] = c->seg[i].sel;
    return mmu_write(c, base + offsetof(struct tss16, ip), &h.ip,
                     offsetof(struct tss16, ldt) - offsetof(struct tss16, ip), MMU_AS_SYSTEM);
}

/* Busy bits and the link to the old task: table 8-2. */
static bool link_tasks(struct tcpu *c, const struct sys_switch *sw)
{
    uint16_t old = c->seg[S_TR].sel;
    struct sys_desc d;

    if (sw->reason == TASK_CALL || sw->reason == TASK_EVENT) {
        if (!mmu_write(c, sw->base, &old, 2, MMU_AS_SYSTEM))
            return false;
    } else {
        if (!sys_desc_read(c, old, &d, EXC_TS, sw->ext) || !sys_desc_set_type_bits(c, &d, 0, 2))
            return false;
    }
    return sw->reason == TASK_IRET || sys_desc_set_type_bits(c, &sw->desc, 2, 0);
}

/* ---- the new task's segments: step 13 up; faults are #TS, of the new task ---- */

static bool load_task_ldt(struct tcpu *c, uint16_t sel)
{
    struct sys_desc d;

    if (sys_sel_null(sel))
        return true;
    if (sel & 4)
        return cpu_raise_error(c, EXC_TS, sel & 0xfffcu);
    if (!sys_desc_read(c, sel, &d, EXC_TS, 0))
        return false;
    if (sys_desc_is_segment(&d) || sys_desc_type(&d) != DT_LDT || !sys_desc_present(&d))
        return cpu_raise_error(c, EXC_TS, sel & 0xfffcu);
    c->seg[S_LDTR] = sys_desc_segment(&d, sel);
    return true;
}

/* Table 8-1: comes before SS; the rest of CS behind it. */
static bool task_cs_level_ok(struct tcpu *c, uint16_t sel)
{
    struct sys_desc d;

    if (sys_sel_null(sel))
        return true;
    if (!sys_desc_read(c, sel, &d, EXC_TS, 0))
        return false;
    if (!sys_desc_is_code(&d) || sys_desc_is_conforming(&d) || sys_desc_dpl(&d) == (sel & 3u))
        return true;
    return cpu_raise_error(c, EXC_TS, sel & 0xfffcu);
}

static bool load_task_cs(struct tcpu *c, uint16_t sel, unsigned cpl)
{
    struct sys_desc d;
    uint32_t err = sel & 0xfffcu;

    if (sys_sel_null(sel))
        return cpu_raise_error(c, EXC_TS, err);
    if (!sys_desc_read(c, sel, &d, EXC_TS, 0))
        return false;
    if (!sys_desc_is_code(&d) ||
        (sys_desc_is_conforming(&d) ? sys_desc_dpl(&d) > cpl : sys_desc_dpl(&d) != cpl))
        return cpu_raise_error(c, EXC_TS, err);
    if (!sys_desc_present(&d))
        return cpu_raise_error(c, EXC_NP, err);
    if (!sys_desc_mark_accessed(c, &d))
        return false;
    sys_set_cs(c, &d, sel, cpl);
    return true;
}

static bool load_task_ss(struct tcpu *c, uint16_t sel, unsigned cpl)
{
    struct sys_desc d;

    if (sys_sel_null(sel))
        return cpu_raise_error(c, EXC_TS, sel & 0xfffcu);
    if (!sys_desc_read(c, sel, &d, EXC_TS, 0) || !sys_check_stack(c, sel, &d, cpl, EXC_TS, 0) ||
        !sys_desc_mark_accessed(c, &d))
        return false;
    c->seg[S_SS] = sys_desc_segment(&d, sel);
    return true;
}

static bool load_task_data(struct tcpu *c, unsigned seg, uint16_t sel)
{
    if (sys_sel_null(sel) || sys_load_seg(c, seg, sel))
        return true;
    if (c->exc.vector == EXC_GP) /* the same defects have another name here */
        c->exc.vector = EXC_TS;
    return false;
}

static bool load_task_segments(struct tcpu *c, const struct task *t)
{
    static const uint8_t data[] = { S_ES, S_DS, S_FS, S_GS };
    unsigned cpl = t->seg[S_CS] & 3u;

    if (!load_task_ldt(c, t->ldt))
        return false;
    if (t->eflags & FL_VM) {
        for (unsigned i = 0; i < 6; i++)
            c->seg[i] = sys_v86_segment(t->seg[i]);
        sys_mode_changed(c);
        return true;
    }
    if (!task_cs_level_ok(c, t->seg[S_CS]) || !load_task_ss(c, t->seg[S_SS], cpl) ||
        !load_task_cs(c, t->seg[S_CS], cpl))
        return false;
    sys_mode_changed(c);
    for (unsigned i = 0; i < sizeof(data); i++) {
        if (!load_task_data(c, data[i], t->seg[data[i]]))
            return false;
    }
    return true;
}

/* ---- the switch ---- */

static void commit_task(struct tcpu *c, const struct sys_switch *sw, const struct task *t)
{
    uint32_t flags = t->eflags;

    if (sw->reason == TASK_CALL || sw->reason == TASK_EVENT)
        flags |= FL_NT;
    c->seg[S_TR] = sys_desc_segment(&sw->desc, sw->sel);
    c->seg[S_TR].attr |= 2;
    c->cr0 |= CR0_TS;
    if (sw->is32 && (c->cr0 & CR0_PG)) {
        c->cr3 = t->cr3;
        mmu_flush_nonglobal(c);
    }
    for (unsigned i = 0; i < 8; i++)
        c->gpr[i] = t->gpr[i];
    /* Until they are loaded the segments hold selectors only. */
    for (unsigned i = 0; i < 6; i++)
        c->seg[i] = (struct x86_segment){ .sel = t->seg[i] };
    c->seg[S_SS] = sys_null_stack(t->seg[S_SS], t->seg[S_CS] & 3u);
    c->seg[S_LDTR] = (struct x86_segment){ .sel = t->ldt };
    c->rip = t->eip;
    cpu_set_rflags(c, flags);
    c->dr[7] &= ~0x55ull; /* local breakpoints: 18.2.4 */
    c->int_shadow = 0;
    sys_mode_changed(c);
}

static bool push_task_error(struct tcpu *c, const struct sys_switch *sw)
{
    struct sys_stack s = sys_stack_now(c);

    if (!sys_push(c, &s, sw->error, sw->is32 ? 4 : 2))
        return false;
    sys_stack_commit(c, &s);
    return true;
}

static enum step task_switch(struct tcpu *c, struct sys_switch *sw)
{
    struct task t;

    if (cpu_long_mode(c)) {
        cpu_raise_gp(c, (sw->sel & 0xfffcu) | sw->ext);
        return STEP_FAULT;
    }
    if (!find_tss(c, sw) || !read_task(c, sw, &t) || !save_task(c, sw) || !link_tasks(c, sw))
        return STEP_FAULT;
    commit_task(c, sw, &t);
    if (!load_task_segments(c, &t))
        return STEP_FAULT;
    c->int_shadow = 0; /* a load of SS here is no MOV SS */
    if (c->rip > c->seg[S_CS].limit) {
        cpu_raise_gp(c, 0);
        return STEP_FAULT;
    }
    if (sw->has_error && !push_task_error(c, sw))
        return STEP_FAULT;
    if (t.trap) { /* 18.3.1.5 */
        cpu_raise(c, EXC_DB);
        c->exc.dr6 = DR6_BT;
        return STEP_FAULT;
    }
    return STEP_NEXT;
}

enum step sys_task_switch(struct tcpu *c, uint16_t tss_sel, int reason, uint64_t next_rip, bool has_error,
                          uint32_t error)
{
    struct sys_switch sw = {
        .reason = (enum sys_task_reason)reason,
        .sel = tss_sel,
        .next_rip = next_rip,
        .has_error = has_error,
        .error = error,
    };

    return task_switch(c, &sw);
}

enum step sys_task_gate(struct tcpu *c, const struct sys_desc *d, enum sys_task_reason reason,
                        uint64_t next_rip, bool has_error, uint32_t error, uint32_t ext)
{
    struct sys_switch sw = {
        .reason = reason,
        .sel = (uint16_t)(d->lo >> 16),
        .next_rip = next_rip,
        .has_error = has_error,
        .error = error,
        .ext = ext,
    };

    return task_switch(c, &sw);
}
