/* Delivery of exceptions and interrupts, and the return from them. Light. Sections are of the Intel SDM
 * volume 3 (2023-12).
 *
 * Theory of operation. An event is a vector with an error code, a return address and an image of RFLAGS. One
 * attempt to deliver it (event_try) takes one of three ways: the interrupt vector table of real mode, the IDT
 * of legacy protected mode (16 and 32-bit gates, task gates, v86), or the IDT of long mode. Each way first
 * reads the gate, the code segment and, for a change of privilege or an IST, the new stack pointer; makes all
 * checks; pushes the frame; and only then changes registers. So when something faults in between, the CPU's
 * state is still that of the interrupted instruction, and the fault in c->exc is the next event. Bytes below
 * the new stack pointer may have been written by then; the manual allows that and nobody can rely on them. A
 * task switch is the one exception: past its commit point a fault belongs to the new task (8.3).
 *
 * event_deliver repeats attempts with the double-fault rules of table 6-5: an exception during the delivery
 * of another replaces it, or makes #DF, or shuts the processor down. External interrupts and software
 * interrupts count as benign; a fault on their way is delivered in their place. A software interrupt is tried
 * once only, because a fault there is reported as a fault of the INT instruction, which the handler may start
 * again.
 *
 * RF in the pushed image is set for faults, so that an instruction breakpoint is not hit again on return
 * (18.3.1.1). A single-step or other #DB trap, #BP and #OF are traps; #DF and #MC are aborts.
 *
 * IRET is the same in reverse: pop everything, check everything, then load. The accessed bits of CS and SS
 * are written after the last check that can fail for another reason. */
#include "engine/translator/sys_priv.h"

#define DR6_B_MASK 0xfull
#define DR6_BD 0x2000ull
#define DR7_GD 0x2000ull

struct event {
    uint8_t vector;
    bool has_error;
    bool soft; /* INT n, INT3, INTO: the gate's DPL counts, EXT is clear */
    uint32_t error;
    uint32_t ext;   /* ERR_EXT or 0: for error codes of faults on the way */
    uint64_t ret;   /* return address */
    uint64_t flags; /* RFLAGS image for the stack */
};

/* ---- real mode: 21.1.4 ---- */

static bool event_real(struct tcpu *c, const struct event *ev)
{
    struct sys_stack s = sys_stack_now(c);
    uint16_t entry[2];

    if (ev->vector * 4u + 3 > c->idt.limit)
        return cpu_raise_gp(c, 0);
    if (!mmu_read(c, c->idt.base + ev->vector * 4u, entry, 4, MMU_AS_SYSTEM))
        return false;
    if (!sys_push(c, &s, ev->flags & 0xffff, 2) || !sys_push(c, &s, c->seg[S_CS].sel, 2) ||
        !sys_push(c, &s, ev->ret & 0xffff, 2))
        return false;
    sys_stack_commit(c, &s);
    c->rflags &= ~(FL_IF | FL_TF | FL_AC | FL_RF);
    c->seg[S_CS].sel = entry[1];
    c->seg[S_CS].base = (uint64_t)entry[1] << 4;
    c->rip = entry[0];
    return true;
}

/* ---- what protected and long mode share ---- */

/* The gate's own checks: 6.12, volume 2 INT n. `type` is all five bits, S included. */
static bool check_gate(struct tcpu *c, const struct event *ev, uint32_t gate_hi)
{
    uint32_t err = ev->vector * 8u | ERR_IDT | ev->ext;
    unsigned type = (gate_hi >> 8) & 0x1f;
    bool known = type == DT_INT32 || type == DT_TRAP32;

    if (!cpu_long_mode(c))
        known |= type == DT_TASK || type == DT_INT16 || type == DT_TRAP16;
    if (!known)
        return cpu_raise_gp(c, err);
    if (ev->soft && ((gate_hi >> 13) & 3) < c->cpl)
        return cpu_raise_gp(c, err);
    if (!(gate_hi & 0x8000u))
        return cpu_raise_error(c, EXC_NP, err);
    return true;
}

/* The handler's code segment: 6.12.1.1. *cpl is the privilege level that it will run at. */
static bool read_handler_cs(struct tcpu *c, const struct event *ev, uint16_t sel, struct sys_desc *d,
                            unsigned *cpl)
{
    uint32_t err = (sel & 0xfffcu) | ev->ext;

    if (sys_sel_null(sel))
        return cpu_raise_gp(c, ev->ext);
    if (!sys_desc_read(c, sel, d, EXC_GP, ev->ext))
        return false;
    if (!sys_desc_is_code(d) || sys_desc_dpl(d) > c->cpl)
        return cpu_raise_gp(c, err);
    if (!sys_desc_present(d))
        return cpu_raise_error(c, EXC_NP, err);
    if (cpu_long_mode(c) && (d->hi & 0x600000u) != 0x200000u) /* 6.14.1: handlers are 64-bit code */
        return cpu_raise_gp(c, err);
    *cpl = sys_desc_is_conforming(d) ? c->cpl : sys_desc_dpl(d);
    return true;
}

static void enter_handler(struct tcpu *c, unsigned gate_type)
{
    c->rflags &= ~(FL_TF | FL_NT | FL_RF | FL_VM);
    if (!(gate_type & 1)) /* interrupt gate: 6.12.1.2 */
        c->rflags &= ~FL_IF;
}

/* ---- long mode: 6.14 ---- */

static bool long_stack(struct tcpu *c, const struct event *ev, unsigned ist, unsigned cpl, uint64_t *rsp)
{
    *rsp = c->gpr[R_SP];
    if (ist && !sys_tss_pointer(c, 28 + 8 * ist, ev->ext, rsp))
        return false;
    if (!ist && cpl != c->cpl && !sys_tss_pointer(c, 4 + 8 * cpl, ev->ext, rsp))
        return false;
    *rsp &= ~15ull; /* 6.14.2 */
    return true;
}

/* In one piece; when that faults, the address is that of the push which faults first, from the top. */
static bool push_long(struct tcpu *c, uint64_t rsp, const uint64_t *frame, unsigned n, enum mmu_as as)
{
    bool ok = mmu_write(c, rsp, frame, 8 * n, as), pushed = !ok && c->exc.vector == EXC_PF;

    while (pushed && n-- > 0)
        pushed = mmu_probe(c, rsp + 8ull * n, 8, MMU_WRITE, as);
    return ok;
}

static bool event_long(struct tcpu *c, const struct event *ev)
{
    uint32_t gate[4];
    struct sys_desc cs;
    unsigned cpl, n = ev->has_error ? 6 : 5;
    uint64_t rip, rsp, frame[6];
    enum mmu_as as;

    if (ev->vector * 16u + 15 > c->idt.limit)
        return cpu_raise_gp(c, ev->vector * 8u | ERR_IDT | ev->ext);
    if (!mmu_read(c, c->idt.base + ev->vector * 16u, gate, 16, MMU_AS_SYSTEM))
        return false;
    if (!check_gate(c, ev, gate[1]) || !read_handler_cs(c, ev, (uint16_t)(gate[0] >> 16), &cs, &cpl))
        return false;
    if (!long_stack(c, ev, gate[1] & 7, cpl, &rsp))
        return false;
    frame[0] = ev->error;
    frame[n - 5] = ev->ret;
    frame[n - 4] = c->seg[S_CS].sel;
    frame[n - 3] = ev->flags;
    frame[n - 2] = c->gpr[R_SP];
    frame[n - 1] = c->seg[S_SS].sel;
    rsp -= 8 * n;
    if (!cpu_canonical(rsp) || !cpu_canonical(rsp + 8 * n - 1))
        return cpu_raise_error(c, EXC_SS, ev->ext);
    as = cpl == c->cpl ? MMU_AS_CPL : MMU_AS_SYSTEM;
    rip = (gate[0] & 0xffffu) | (gate[1] & 0xffff0000u) | (uint64_t)gate[2] << 32;
    if (!sys_check_rip(c, &cs, rip, ev->ext) || !push_long(c, rsp, frame, n, as))
        return false;
    if (!sys_desc_mark_accessed(c, &cs))
        return false;
    if (cpl != c->cpl)
        c->seg[S_SS] = sys_null_stack((uint16_t)cpl, cpl);
    sys_set_cs(c, &cs, (uint16_t)(gate[0] >> 16), cpl);
    c->gpr[R_SP] = rsp;
    c->rip = rip;
    enter_handler(c, (gate[1] >> 8) & 0xf);
    return true;
}

/* ---- legacy protected mode: 6.12 ---- */

struct legacy_gate {
    uint32_t lo, hi;
    unsigned type, width; /* width of the pushes: 2 or 4 */
    uint16_t sel;
    uint32_t off;
};

static bool push_frame(struct tcpu *c, const struct event *ev, struct sys_stack *s, unsigned w)
{
    return sys_push(c, s, ev->flags, w) && sys_push(c, s, c->seg[S_CS].sel, w) &&
           sys_push(c, s, ev->ret, w) && (!ev->has_error || sys_push(c, s, ev->error, w));
}

/* 6.12.1, and 21.3.1.1 for a v86 task: to a stack of the TSS. */
static bool legacy_inner(struct tcpu *c, const struct event *ev, const struct legacy_gate *g,
                         struct sys_desc *cs, unsigned cpl)
{
    static const uint8_t v86_order[] = { S_GS, S_FS, S_DS, S_ES };
    struct sys_stack s;
    struct sys_desc ss;
    bool v86 = cpu_v86(c);

    if (!sys_tss_stack(c, cpl, ev->ext, &s, &ss))
        return false;
    if (g->off > sys_desc_limit(cs))
        return cpu_raise_gp(c, ev->ext);
    for (unsigned i = 0; v86 && i < 4; i++) {
        if (!sys_push(c, &s, c->seg[v86_order[i]].sel, g->width))
            return false;
    }
    if (!sys_push(c, &s, c->seg[S_SS].sel, g->width) || !sys_push(c, &s, c->gpr[R_SP], g->width) ||
        !push_frame(c, ev, &s, g->width))
        return false;
    if (!sys_desc_mark_accessed(c, cs) || !sys_desc_mark_accessed(c, &ss))
        return false;
    for (unsigned i = 0; v86 && i < 4; i++)
        c->seg[v86_order[i]] = (struct x86_segment){ 0 };
    c->seg[S_SS] = sys_desc_segment(&ss, s.ss.sel);
    sys_stack_commit(c, &s);
    return true;
}

static bool legacy_same(struct tcpu *c, const struct event *ev, const struct legacy_gate *g,
                        struct sys_desc *cs)
{
    struct sys_stack s = sys_stack_now(c);

    s.err = ev->ext;
    if (g->off > sys_desc_limit(cs))
        return cpu_raise_gp(c, ev->ext);
    if (!push_frame(c, ev, &s, g->width) || !sys_desc_mark_accessed(c, cs))
        return false;
    sys_stack_commit(c, &s);
    return true;
}

/* A task gate in the IDT: 6.12.2. */
static bool event_task(struct tcpu *c, const struct event *ev, const struct legacy_gate *g)
{
    struct sys_desc d = { .lo = g->lo, .hi = g->hi };

    return sys_task_gate(c, &d, TASK_EVENT, ev->ret, ev->has_error, ev->error, ev->ext) == STEP_NEXT;
}

static bool event_legacy(struct tcpu *c, const struct event *ev)
{
    struct legacy_gate g;
    struct sys_desc cs;
    unsigned cpl;
    uint32_t raw[2];

    if (ev->vector * 8u + 7 > c->idt.limit)
        return cpu_raise_gp(c, ev->vector * 8u | ERR_IDT | ev->ext);
    if (!mmu_read(c, c->idt.base + ev->vector * 8u, raw, 8, MMU_AS_SYSTEM) || !check_gate(c, ev, raw[1]))
        return false;
    g = (struct legacy_gate){
        .lo = raw[0], .hi = raw[1], .type = (raw[1] >> 8) & 0xf, .sel = (uint16_t)(raw[0] >> 16)
    };
    g.width = g.type & 8 ? 4 : 2;
    g.off = (raw[0] & 0xffffu) | (g.width == 4 ? raw[1] & 0xffff0000u : 0);
    if (g.type == DT_TASK)
        return event_task(c, ev, &g);
    if (!read_handler_cs(c, ev, g.sel, &cs, &cpl))
        return false;
    if (cpu_v86(c) && (sys_desc_is_conforming(&cs) || cpl != 0)) /* 21.3.1.1: only to level 0 */
        return cpu_raise_gp(c, (g.sel & 0xfffcu) | ev->ext);
    if (cpl < c->cpl ? !legacy_inner(c, ev, &g, &cs, cpl) : !legacy_same(c, ev, &g, &cs))
        return false;
    sys_set_cs(c, &cs, g.sel, cpl);
    c->rip = g.off;
    enter_handler(c, g.type);
    return true;
}

/* ---- one attempt, and what follows from a fault on the way ---- */

static bool event_try(struct tcpu *c, const struct event *ev)
{
    bool ok;

    if (cpu_real_mode(c))
        ok = event_real(c, ev);
    else if (cpu_long_mode(c))
        ok = event_long(c, ev);
    else
        ok = event_legacy(c, ev);
    if (ok) {
        c->int_shadow = 0;
        sys_mode_changed(c);
    }
    return ok;
}

enum event_class { CLASS_NONE, CLASS_BENIGN, CLASS_CONTRIBUTORY, CLASS_PAGE, CLASS_DOUBLE };

static enum event_class exception_class(unsigned vector) /* table 6-4 */
{
    switch (vector) {
    case EXC_DE:
    case EXC_TS:
    case EXC_NP:
    case EXC_SS:
    case EXC_GP: return CLASS_CONTRIBUTORY;
    case EXC_PF: return CLASS_PAGE;
    case EXC_DF: return CLASS_DOUBLE;
    default: return CLASS_BENIGN;
    }
}

/* Faults, whose image has RF set: 6.5, 18.3.1.1. */
static bool is_fault(const struct tcpu_exception *e)
{
    switch (e->vector) {
    case EXC_DB:
        return (e->dr6 & DR6_BD) != 0; /* general detect; the other causes are traps, but for code
                                          breakpoints, whose handler sets RF itself */
    case EXC_NMI:
    case EXC_BP:
    case EXC_OF:
    case EXC_DF:
    case EXC_MC: return false;
    default: return true;
    }
}

/* Takes c->exc as the next event, with what the exception itself changes: CR2, DR6, DR7 (4.7, 18.2.3). */
static struct event event_of_exception(struct tcpu *c)
{
    const struct tcpu_exception *e = &c->exc;
    struct event ev = {
        .vector = e->vector,
        .has_error = e->has_error && !cpu_real_mode(c),
        .soft = e->soft && e->vector != EXC_DB, /* INT1 ignores the gate's DPL and counts as external */
        .error = e->error,
        .ext = e->soft && e->vector != EXC_DB ? 0 : ERR_EXT,
        .ret = c->rip,
        .flags = cpu_rflags(c),
    };

    if (e->vector == EXC_PF)
        c->cr2 = e->cr2;
    if (e->vector == EXC_DB && !e->soft) {
        c->dr[6] = (c->dr[6] & ~DR6_B_MASK) | e->dr6;
        c->dr[7] &= ~DR7_GD;
        c->debugctl &= ~(DEBUGCTL_LBR | DEBUGCTL_BTF); /* 18.4.1, 18.4.3 */
    }
    if (!e->soft && is_fault(e))
        ev.flags |= FL_RF;
    c->exc.pending = 0;
    return ev;
}

static struct event double_fault(const struct tcpu *c)
{
    return (struct event){
        .vector = EXC_DF,
        .has_error = !cpu_real_mode(c),
        .ext = ERR_EXT,
        .ret = c->rip,
        .flags = cpu_rflags(c),
    };
}

static enum step event_deliver(struct tcpu *c, struct event ev, enum event_class first)
{
    for (;;) {
        c->delivering = (uint8_t)first;
        if (event_try(c, &ev)) {
            c->delivering = CLASS_NONE;
            return STEP_NEXT;
        }
        enum event_class second = exception_class(c->exc.vector);
        bool bad = second == CLASS_CONTRIBUTORY || second == CLASS_PAGE;

        if (first == CLASS_DOUBLE && bad) {
            c->delivering = CLASS_NONE;
            c->exc.pending = 0;
            return STEP_SHUTDOWN;
        }
        if ((first == CLASS_CONTRIBUTORY && second == CLASS_CONTRIBUTORY) || (first == CLASS_PAGE && bad)) {
            if (c->exc.vector == EXC_PF)
                c->cr2 = c->exc.cr2;
            c->exc.pending = 0;
            ev = double_fault(c);
            first = CLASS_DOUBLE;
        } else {
            ev = event_of_exception(c);
            first = second;
        }
    }
}

enum step sys_deliver_exception(struct tcpu *c)
{
    enum event_class class = c->exc.soft ? CLASS_BENIGN : exception_class(c->exc.vector);
    struct event ev = event_of_exception(c);

    if (class == CLASS_DOUBLE)
        ev.error = 0;
    return event_deliver(c, ev, class);
}

enum step sys_deliver_interrupt(struct tcpu *c, unsigned vector)
{
    struct event ev = { .vector = (uint8_t)vector, .ext = ERR_EXT, .ret = c->rip, .flags = cpu_rflags(c) };

    c->halted = 0;
    return event_deliver(c, ev, CLASS_BENIGN);
}

enum step sys_deliver_nmi(struct tcpu *c)
{
    struct event ev = { .vector = EXC_NMI, .ext = ERR_EXT, .ret = c->rip, .flags = cpu_rflags(c) };

    c->halted = 0;
    c->nmi_masked = 1; /* 6.7.1: until IRET */
    return event_deliver(c, ev, CLASS_BENIGN);
}

enum step sys_soft_interrupt(struct tcpu *c, unsigned vector, unsigned insn_len, bool is_int_n)
{
    bool icebp = !is_int_n && vector == EXC_DB; /* INT1: no DPL check, counts as external (volume 2, INT n) */
    struct event ev = {
        .vector = (uint8_t)vector,
        .soft = !icebp,
        .ext = icebp ? ERR_EXT : 0,
        .ret = c->rip + insn_len,
        .flags = cpu_rflags(c) & ~(uint64_t)FL_RF,
    };

    if (!cpu_code64(c))
        ev.ret &= c->code_bits == 16 ? 0xffff : 0xffffffffu;
    if (cpu_v86(c) && is_int_n && cpu_iopl(c) < 3) /* 21.3.3, method 1 and 4 */
        return cpu_raise_gp(c, 0), STEP_FAULT;
    c->no_step = 1; /* 18.3.1.4: INT n, INT3 and INTO clear TF, and none is stepped over */
    if (!event_try(c, &ev))
        return STEP_FAULT;
    if (icebp && c->debug_hits) { /* breakpoints that MOV SS has put off are part of this #DB */
        c->dr[6] = (c->dr[6] & ~DR6_B_MASK) | c->debug_hits;
        c->debug_hits = 0;
    }
    return STEP_NEXT;
}

/* ---- IRET: volume 2, IRET/IRETD/IRETQ ---- */

/* Flags that IRET may change at the present privilege level. */
static uint64_t iret_flag_mask(const struct tcpu *c, unsigned opsize)
{
    uint64_t mask = FL_STATUS | FL_TF | FL_DF | FL_NT;

    if (opsize > 2)
        mask |= FL_RF | FL_AC | FL_ID;
    if (c->cpl <= cpu_iopl(c))
        mask |= FL_IF;
    if (c->cpl == 0) {
        mask |= FL_IOPL;
        if (opsize > 2)
            mask |= FL_VIF | FL_VIP;
    }
    return mask;
}

static void iret_flags(struct tcpu *c, uint64_t v, uint64_t mask)
{
    cpu_set_rflags(c, (v & mask) | (cpu_rflags(c) & ~mask));
}

static enum step iret_done(struct tcpu *c)
{
    c->nmi_masked = 0; /* 6.7.1 */
    sys_mode_changed(c);
    return STEP_NEXT;
}

/* Real mode, and v86 mode with IOPL 3. */
static enum step iret_real(struct tcpu *c, unsigned opsize)
{
    struct sys_stack s = sys_stack_now(c);
    uint64_t v[3], mask = FL_STATUS | FL_TF | FL_IF | FL_DF | FL_NT;

    if (!sys_pop_n(c, &s, v, 3, opsize))
        return STEP_FAULT;
    if (v[0] > c->seg[S_CS].limit)
        return cpu_raise_gp(c, 0), STEP_FAULT;
    if (opsize > 2)
        mask |= FL_RF | FL_AC | FL_ID;
    if (!cpu_v86(c))
        mask |= FL_IOPL;
    sys_stack_commit(c, &s);
    c->seg[S_CS].sel = (uint16_t)v[1];
    c->seg[S_CS].base = (v[1] & 0xffff) << 4;
    c->rip = v[0];
    iret_flags(c, v[2], mask);
    return iret_done(c);
}

/* From level 0 to a v86 task: EIP, CS and EFLAGS are popped already. */
static enum step iret_to_v86(struct tcpu *c, struct sys_stack *s, const uint64_t *head)
{
    static const uint8_t order[] = { S_SS, S_ES, S_DS, S_FS, S_GS };
    uint64_t v[6]; /* ESP SS ES DS FS GS */

    if (!sys_pop_n(c, s, v, 6, 4))
        return STEP_FAULT;
    if (head[0] > 0xffff)
        return cpu_raise_gp(c, 0), STEP_FAULT;
    for (unsigned i = 0; i < sizeof(order); i++)
        c->seg[order[i]] = sys_v86_segment((uint16_t)v[1 + i]);
    c->seg[S_CS] = sys_v86_segment((uint16_t)head[1]);
    c->gpr[R_SP] = v[0] & 0xffffffffu;
    c->rip = head[0];
    cpu_set_rflags(c, head[2]);
    return iret_done(c);
}

/* What a return pops. */
struct iret_frame {
    uint64_t rip, flags, rsp;
    uint16_t cs, ss;
    bool has_stack; /* rsp and ss were popped */
};

/* SS for a return: may be null only for 64-bit code above level 3 (6.14.3). */
static bool iret_check_ss(struct tcpu *c, const struct iret_frame *f, bool is64, struct sys_desc *ss)
{
    unsigned rpl = f->cs & 3u;

    if (sys_sel_null(f->ss))
        return (is64 && rpl != 3 && (f->ss & 3u) == rpl) || cpu_raise_gp(c, 0);
    return sys_desc_read(c, f->ss, ss, EXC_GP, 0) && sys_check_stack(c, f->ss, ss, rpl, EXC_GP, 0);
}

static bool iret_check_cs(struct tcpu *c, const struct iret_frame *f, struct sys_desc *cs)
{
    uint32_t err = f->cs & 0xfffcu;
    unsigned rpl = f->cs & 3u;

    if (sys_sel_null(f->cs))
        return cpu_raise_gp(c, 0);
    if (!sys_desc_read(c, f->cs, cs, EXC_GP, 0))
        return false;
    if (!sys_desc_is_code(cs) || rpl < c->cpl)
        return cpu_raise_gp(c, err);
    if (sys_desc_is_conforming(cs) ? sys_desc_dpl(cs) > rpl : sys_desc_dpl(cs) != rpl)
        return cpu_raise_gp(c, err);
    return sys_check_code_usable(c, f->cs, cs, 0);
}

static enum step iret_load(struct tcpu *c, const struct iret_frame *f, struct sys_stack *s, unsigned opsize)
{
    struct sys_desc cs, ss = { 0 };
    unsigned cpl = f->cs & 3u;
    bool is64, outer = cpl > c->cpl;

    if (!iret_check_cs(c, f, &cs))
        return STEP_FAULT;
    is64 = sys_target_is64(c, &cs);
    if (f->has_stack && !iret_check_ss(c, f, is64, &ss))
        return STEP_FAULT;
    if (!sys_check_rip(c, &cs, f->rip, 0) || !sys_desc_mark_accessed(c, &cs))
        return STEP_FAULT;
    if (f->has_stack && !sys_sel_null(f->ss) && !sys_desc_mark_accessed(c, &ss))
        return STEP_FAULT;

    uint64_t mask = iret_flag_mask(c, opsize); /* by the old CPL */
    sys_set_cs(c, &cs, f->cs, cpl);
    if (f->has_stack) {
        c->seg[S_SS] = sys_sel_null(f->ss) ? sys_null_stack(f->ss, cpl) : sys_desc_segment(&ss, f->ss);
        c->gpr[R_SP] = sys_merge_sp(c->gpr[R_SP], f->rsp, &c->seg[S_SS], is64);
    } else {
        sys_stack_commit(c, s);
    }
    c->rip = f->rip;
    iret_flags(c, f->flags, mask);
    if (outer)
        sys_drop_inner_segments(c, cpl);
    return iret_done(c);
}

static enum step iret_protected(struct tcpu *c, unsigned opsize)
{
    struct sys_stack s = sys_stack_now(c);
    uint64_t v[5];
    bool has_stack = cpu_code64(c); /* 6.14.3: always five in 64-bit mode */

    if (!sys_pop_n(c, &s, v, has_stack ? 5 : 3, opsize))
        return STEP_FAULT;
    if (!cpu_long_mode(c) && opsize == 4 && (v[2] & FL_VM) && c->cpl == 0)
        return iret_to_v86(c, &s, v);
    if (!has_stack && (v[1] & 3) > c->cpl) {
        if (!sys_pop_n(c, &s, &v[3], 2, opsize))
            return STEP_FAULT;
        has_stack = true;
    }
    struct iret_frame f = {
        .rip = v[0],
        .cs = (uint16_t)v[1],
        .flags = v[2],
        .has_stack = has_stack,
    };
    if (has_stack) {
        f.rsp = v[3];
        f.ss = (uint16_t)v[4];
    }
    return iret_load(c, &f, &s, opsize);
}

/* 8.4: with NT set IRET goes back to the task that the TSS's link field names. */
static enum step iret_task(struct tcpu *c)
{
    uint16_t back;
    uint64_t next_rip;

    if (cpu_long_mode(c))
        return cpu_raise_gp(c, 0), STEP_FAULT;
    if (!mmu_read_u16(c, c->seg[S_TR].base, &back, MMU_AS_SYSTEM) || !sys_next_rip(c, &next_rip))
        return STEP_FAULT;
    c->nmi_masked = 0; /* 6.7.1, also when the other task faults */
    return sys_task_switch(c, back, TASK_IRET, next_rip, false, 0);
}

enum step sys_iret(struct tcpu *c, unsigned opsize)
{
    if (!sys_is_amd(c)) /* volume 2, IRET: unblocks NMIs also when it faults */
        c->nmi_masked = 0;
    if (cpu_real_mode(c))
        return iret_real(c, opsize);
    if (cpu_v86(c)) {
        if (cpu_iopl(c) < 3)
            return cpu_raise_gp(c, 0), STEP_FAULT;
        return iret_real(c, opsize);
    }
    if (c->rflags & FL_NT)
        return iret_task(c);
    return iret_protected(c, opsize);
}
