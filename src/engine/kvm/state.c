/* The state of a virtual CPU between the kernel's many structures and our one. Linux
 * Documentation/virt/kvm/api.rst, KVM_GET_REGS, KVM_GET_SREGS, KVM_GET_MSRS, KVM_GET_LAPIC,
 * KVM_GET_VCPU_EVENTS, KVM_GET_DEBUGREGS, KVM_GET_XSAVE, KVM_GET_XCRS, KVM_GET_MP_STATE and their
 * counterparts.
 *
 * Two things that the kernel holds are turned into what struct x86_state has:
 * - an external interrupt that was taken from the local APIC but not yet delivered (its delivery ran into an
 * exit) is put back: its bit moves from the in-service to the request register, and it will be taken again;
 * - a software interrupt in that situation is forgotten: RIP is still at its instruction, which will run
 * again. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

#include "engine/kvm/kvm_priv.h"

/* Local APIC registers by offset / 0x10: Intel SDM volume 3 (2023-12), table 11-1. */
enum {
    LAPIC_ISR = 0x10,
    LAPIC_IRR = 0x20,
    LAPIC_LVT_TIMER = 0x32,
    LAPIC_INITIAL = 0x38,
    LAPIC_CURRENT = 0x39,
    LAPIC_DIVIDE = 0x3e
};
#define LVT_TIMER_MODE 0x60000u
#define LVT_TIMER_DEADLINE 0x40000u
#define LAPIC_REGS 64

_Static_assert(sizeof(struct kvm_lapic_state) == LAPIC_REGS * 16, "local APIC: 64 registers, 16 bytes apart");
_Static_assert(X86_XSAVE_MAX == sizeof(struct kvm_xsave), "room for the XSAVE area");

union msr_block {
    struct kvm_msrs msrs;
    uint8_t room[sizeof(struct kvm_msrs) + KVM_MSRS_MAX * sizeof(struct kvm_msr_entry)];
};

static uint64_t *mtrr_place(struct x86_state *s, uint32_t index)
{
    if (index >= MSR_MTRR_VAR0 && index < MSR_MTRR_VAR0 + 2 * X86_MTRR_VAR)
        return &s->mtrr_var[index - MSR_MTRR_VAR0];
    if (index >= MSR_MTRR_FIX4K && index < MSR_MTRR_FIX4K + 8)
        return &s->mtrr_fixed[3 + index - MSR_MTRR_FIX4K];
    if (index == MSR_MTRR_FIX16K || index == MSR_MTRR_FIX16K + 1)
        return &s->mtrr_fixed[1 + index - MSR_MTRR_FIX16K];
    return index == MSR_MTRR_FIX64K ? &s->mtrr_fixed[0] : NULL;
}

/* Where the state keeps an MSR; NULL if it does not. */
static uint64_t *msr_place(struct x86_state *s, uint32_t index)
{
    switch (index) {
    case MSR_TSC_ADJUST: return &s->tsc_adjust;
    case MSR_DEBUGCTL: return &s->debugctl;
    case MSR_MISC_FEATURES: return &s->misc_features;
    case MSR_SYSENTER_CS: return &s->sysenter_cs;
    case MSR_SYSENTER_ESP: return &s->sysenter_esp;
    case MSR_SYSENTER_EIP: return &s->sysenter_eip;
    case MSR_STAR: return &s->star;
    case MSR_LSTAR: return &s->lstar;
    case MSR_CSTAR: return &s->cstar;
    case MSR_FMASK: return &s->fmask;
    case MSR_KERNEL_GS_BASE: return &s->kernel_gs_base;
    case MSR_TSC: return &s->tsc;
    case MSR_TSC_AUX: return &s->tsc_aux;
    case MSR_PAT: return &s->pat;
    case MSR_MISC_ENABLE: return &s->misc_enable;
    case MSR_SPEC_CTRL: return &s->spec_ctrl;
    case MSR_MTRR_DEF_TYPE: return &s->mtrr_def_type;
    case MSR_KVM_SYSTEM_TIME: return &s->kvm_system_time;
    case MSR_KVM_WALL_CLOCK: return &s->kvm_wall_clock;
    case MSR_KVM_PV_EOI: return &s->kvm_pv_eoi;
    default: return mtrr_place(s, index);
    }
}

/* ---- general and segment registers ---- */

static void gprs_from(struct x86_state *s, const struct kvm_regs *r)
{
    const uint64_t in_order[16] = { r->rax, r->rcx, r->rdx, r->rbx, r->rsp, r->rbp, r->rsi, r->rdi,
                                    r->r8,  r->r9,  r->r10, r->r11, r->r12, r->r13, r->r14, r->r15 };

    memcpy(s->gpr, in_order, sizeof(in_order));
    s->rip = r->rip;
    s->rflags = r->rflags;
}

static struct kvm_regs gprs_to(const struct x86_state *s)
{
    const uint64_t *g = s->gpr;

    return (struct kvm_regs){
        .rax = g[R_AX],
        .rcx = g[R_CX],
        .rdx = g[R_DX],
        .rbx = g[R_BX],
        .rsp = g[R_SP],
        .rbp = g[R_BP],
        .rsi = g[R_SI],
        .rdi = g[R_DI],
        .r8 = g[R_8],
        .r9 = g[R_9],
        .r10 = g[R_10],
        .r11 = g[R_11],
        .r12 = g[R_12],
        .r13 = g[R_13],
        .r14 = g[R_14],
        .r15 = g[R_15],
        .rip = s->rip,
        .rflags = s->rflags | FL_1,
    };
}

static struct x86_segment segment_from(const struct kvm_segment *k)
{
    struct x86_segment s = { .base = k->base, .limit = k->limit, .sel = k->selector };
    unsigned attr = (k->type & SEG_TYPE) | (k->s ? SEG_S : 0) | (k->dpl & 3u) << SEG_DPL_SHIFT |
                    (k->present && !k->unusable ? SEG_P : 0) | (k->avl ? SEG_AVL : 0) | (k->l ? SEG_L : 0) |
                    (k->db ? SEG_DB : 0) | (k->g ? SEG_G : 0);

    s.attr = (uint16_t)attr;
    return s;
}

static struct kvm_segment segment_to(const struct x86_segment *s)
{
    unsigned attr = s->attr;

    return (struct kvm_segment){
        .base = s->base,
        .limit = s->limit,
        .selector = s->sel,
        .type = attr & SEG_TYPE,
        .s = !!(attr & SEG_S),
        .dpl = (uint8_t)((attr & SEG_DPL) >> SEG_DPL_SHIFT),
        .present = !!(attr & SEG_P),
        .unusable = !(attr & SEG_P),
        .avl = !!(attr & SEG_AVL),
        .l = !!(attr & SEG_L),
        .db = !!(attr & SEG_DB),
        .g = !!(attr & SEG_G),
    };
}

static void sregs_from(struct x86_state *s, const struct kvm_sregs *k)
{
    s->seg[S_ES] = segment_from(&k->es);
    s->seg[S_CS] = segment_from(&k->cs);
    s->seg[S_SS] = segment_from(&k->ss);
    s->seg[S_DS] = segment_from(&k->ds);
    s->seg[S_FS] = segment_from(&k->fs);
    s->seg[S_GS] = segment_from(&k->gs);
    s->seg[S_LDTR] = segment_from(&k->ldt);
    s->seg[S_TR] = segment_from(&k->tr);
    s->gdt = (struct x86_table){ k->gdt.base, k->gdt.limit };
    s->idt = (struct x86_table){ k->idt.base, k->idt.limit };
    s->cr0 = k->cr0;
    s->cr2 = k->cr2;
    s->cr3 = k->cr3;
    s->cr4 = k->cr4;
    s->cr8 = k->cr8;
    s->efer = k->efer;
    s->lapic.apic_base = k->apic_base;
}

static struct kvm_sregs sregs_to(const struct x86_state *s)
{
    struct kvm_sregs k = {
        .es = segment_to(&s->seg[S_ES]),
        .cs = segment_to(&s->seg[S_CS]),
        .ss = segment_to(&s->seg[S_SS]),
        .ds = segment_to(&s->seg[S_DS]),
        .fs = segment_to(&s->seg[S_FS]),
        .gs = segment_to(&s->seg[S_GS]),
        .ldt = segment_to(&s->seg[S_LDTR]),
        .tr = segment_to(&s->seg[S_TR]),
        .gdt = { .base = s->gdt.base, .limit = s->gdt.limit },
        .idt = { .base = s->idt.base, .limit = s->idt.limit },
        .cr0 = s->cr0,
        .cr2 = s->cr2,
        .cr3 = s->cr3,
        .cr4 = s->cr4,
        .cr8 = s->cr8,
        .efer = s->efer,
        .apic_base = s->lapic.apic_base,
    };

    return k; /* interrupt_bitmap stays empty: state.c's head tells where such an interrupt went */
}

/* ---- events ---- */

static void move_back_to_request(struct x86_lapic_state *l, unsigned vector)
{
    l->regs[LAPIC_ISR + vector / 32] &= ~(1u << vector % 32);
    l->regs[LAPIC_IRR + vector / 32] |= 1u << vector % 32;
}

static void events_from(struct x86_state *s, const struct kvm_vcpu_events *e)
{
    bool soft = e->exception.nr == EXC_BP || e->exception.nr == EXC_OF;

    if (e->exception.injected && !soft) {
        s->exc_pending = 1;
        s->exc_vector = e->exception.nr;
        s->exc_has_error = e->exception.has_error_code;
        s->exc_error = e->exception.error_code;
    }
    if (e->interrupt.injected && !e->interrupt.soft)
        move_back_to_request(&s->lapic, e->interrupt.nr);
    s->int_shadow = e->interrupt.shadow != 0;
    s->nmi_pending = e->nmi.pending || e->nmi.injected;
    s->nmi_masked = e->nmi.masked && !e->nmi.injected;
}

static struct kvm_vcpu_events events_to(const struct x86_state *s)
{
    struct kvm_vcpu_events e = { .flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW };

    if (s->exc_pending) {
        e.exception.injected = 1;
        e.exception.nr = s->exc_vector;
        e.exception.has_error_code = s->exc_has_error;
        e.exception.error_code = s->exc_error;
    }
    /* VMX refuses an STI shadow with interrupts off: SDM volume 3, 27.3.1.5. */
    if (s->int_shadow)
        e.interrupt.shadow = s->rflags & FL_IF ? KVM_X86_SHADOW_INT_STI : KVM_X86_SHADOW_INT_MOV_SS;
    e.nmi.pending = s->nmi_pending != 0;
    e.nmi.masked = s->nmi_masked != 0;
    return e;
}

static uint32_t mp_from(uint32_t mp)
{
    switch (mp) {
    case KVM_MP_STATE_UNINITIALIZED: return X86_MP_WAIT_INIT;
    case KVM_MP_STATE_INIT_RECEIVED: return X86_MP_WAIT_SIPI;
    case KVM_MP_STATE_HALTED: return X86_MP_HALTED;
    default: return X86_MP_RUNNING;
    }
}

static uint32_t mp_to(uint32_t mp)
{
    switch (mp) {
    case X86_MP_WAIT_INIT: return KVM_MP_STATE_UNINITIALIZED;
    case X86_MP_WAIT_SIPI: return KVM_MP_STATE_INIT_RECEIVED;
    case X86_MP_HALTED: return KVM_MP_STATE_HALTED;
    default: return KVM_MP_STATE_RUNNABLE;
    }
}

/* ---- local APIC ---- */

/* What the divide register divides by. SDM volume 3, figure 11-10. */
static unsigned timer_divider(uint32_t reg)
{
    unsigned code = (reg & 3) | (reg & 8) >> 1;

    return code == 7 ? 1 : 2u << code;
}

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* The kernel's APIC timer counts nanoseconds before the divider (KVM_CAP_X86_APIC_BUS_CYCLES_NS has that
 * default). */
static void lapic_from(struct x86_lapic_state *l, const struct kvm_lapic_state *k)
{
    uint64_t period, left;

    for (unsigned i = 0; i < LAPIC_REGS; i++)
        memcpy(&l->regs[i], k->regs + 16 * i, 4);
    if ((l->regs[LAPIC_LVT_TIMER] & LVT_TIMER_MODE) == LVT_TIMER_DEADLINE || !l->regs[LAPIC_CURRENT])
        return;
    period = (uint64_t)l->regs[LAPIC_INITIAL] * timer_divider(l->regs[LAPIC_DIVIDE]);
    left = (uint64_t)l->regs[LAPIC_CURRENT] * timer_divider(l->regs[LAPIC_DIVIDE]);
    l->timer_period_ns = period;
    l->timer_start_ns = now_ns() - (period - left);
}

static void lapic_to(const struct x86_lapic_state *l, struct kvm_lapic_state *k)
{
    memset(k, 0, sizeof(*k));
    for (unsigned i = 0; i < LAPIC_REGS; i++)
        memcpy(k->regs + 16 * i, &l->regs[i], 4);
}

/* ---- get ---- */

static bool part_get(struct engine_vcpu *cpu, unsigned long request, void *arg, const char *what,
                     struct yado_error *err)
{
    if (ioctl(cpu->fd, request, arg) == 0)
        return true;
    return err_set_errno(err, YADO_ERR_HOST, errno, "kvm: vCPU %u: the kernel does not tell its %s",
                         cpu->index, what);
}

/* All at once; the kernel stops at the first that it does not have for this CPU model, and is asked for the
 * rest. */
static bool msrs_get(struct engine_vcpu *cpu, struct x86_state *s, struct yado_error *err)
{
    const struct kvm_caps *caps = &cpu->vm->caps;
    union msr_block b;

    for (unsigned at = 0; at < caps->msr_count;) {
        unsigned n = caps->msr_count - at;
        int got;

        memset(&b, 0, sizeof(b));
        b.msrs.nmsrs = n;
        for (unsigned i = 0; i < n; i++)
            b.msrs.entries[i].index = caps->msrs[at + i];
        got = ioctl(cpu->fd, KVM_GET_MSRS, &b);
        if (got < 0)
            return err_set_errno(err, YADO_ERR_HOST, errno, "kvm: vCPU %u: KVM_GET_MSRS", cpu->index);
        for (int i = 0; i < got; i++)
            *msr_place(s, b.msrs.entries[i].index) = b.msrs.entries[i].data;
        at += (unsigned)got + 1;
    }
    return true;
}

/* 0, not armed, where the kernel has none. */
static bool deadline_get(struct engine_vcpu *cpu, uint64_t *deadline, struct yado_error *err)
{
    union msr_block b = { .room = { 0 } };
    int n;

    b.msrs.nmsrs = 1;
    b.msrs.entries[0].index = MSR_TSC_DEADLINE;
    n = ioctl(cpu->fd, KVM_GET_MSRS, &b);
    if (n < 0)
        return err_set_errno(err, YADO_ERR_HOST, errno, "kvm: vCPU %u: KVM_GET_MSRS", cpu->index);
    *deadline = n == 1 ? b.msrs.entries[0].data : 0;
    return true;
}

static bool xcr0_get(struct engine_vcpu *cpu, uint64_t *xcr0, struct yado_error *err)
{
    struct kvm_xcrs xcrs = { 0 };

    *xcr0 = 1;
    if (!cpu->vm->caps.has_xcrs)
        return true;
    if (!part_get(cpu, KVM_GET_XCRS, &xcrs, "XCR0", err))
        return false;
    for (unsigned i = 0; i < xcrs.nr_xcrs && i < KVM_MAX_XCRS; i++) {
        if (xcrs.xcrs[i].xcr == 0)
            *xcr0 = xcrs.xcrs[i].value;
    }
    return true;
}

bool kvm_state_get(struct engine_vcpu *cpu, struct x86_state *s, struct yado_error *err)
{
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    struct kvm_lapic_state lapic;
    struct kvm_vcpu_events events = { 0 };
    struct kvm_debugregs dr;
    struct kvm_mp_state mp;

    memset(s, 0, sizeof(*s));
    /* The activity first, because asking makes the kernel act on an INIT or SIPI that has come in. The
     * deadline before the local APIC: should the timer fire between the two, there is one interrupt too many
     * and not one too few. */
    if (!part_get(cpu, KVM_GET_MP_STATE, &mp, "activity", err) ||
        !part_get(cpu, KVM_GET_REGS, &regs, "general registers", err) ||
        !part_get(cpu, KVM_GET_SREGS, &sregs, "control and segment registers", err) ||
        !deadline_get(cpu, &s->lapic.tsc_deadline, err) ||
        !part_get(cpu, KVM_GET_LAPIC, &lapic, "local APIC", err) ||
        !part_get(cpu, KVM_GET_VCPU_EVENTS, &events, "pending events", err) ||
        !part_get(cpu, KVM_GET_DEBUGREGS, &dr, "debug registers", err) ||
        !part_get(cpu, KVM_GET_XSAVE, s->xsave, "FPU and vector registers", err) ||
        !xcr0_get(cpu, &s->xcr0, err) || !msrs_get(cpu, s, err))
        return false;
    gprs_from(s, &regs);
    sregs_from(s, &sregs);
    lapic_from(&s->lapic, &lapic);
    events_from(s, &events);
    memcpy(s->dr, dr.db, sizeof(dr.db));
    s->dr[6] = dr.dr6;
    s->dr[7] = dr.dr7;
    s->mp_state = mp_from(mp.mp_state);
    return true;
}

/* ---- set ---- */

static bool part_set(struct engine_vcpu *cpu, unsigned long request, const void *arg, const char *what,
                     struct yado_error *err)
{
    if (ioctl(cpu->fd, request, arg) == 0)
        return true;
    return err_set_errno(err, YADO_ERR_UNSUPPORTED, errno, "kvm: vCPU %u: the kernel refuses the state's %s",
                         cpu->index, what);
}

static bool msr_set(struct engine_vcpu *cpu, uint32_t index, uint64_t value)
{
    union msr_block b = { .room = { 0 } };

    b.msrs.nmsrs = 1;
    b.msrs.entries[0] = (struct kvm_msr_entry){ .index = index, .data = value };
    return ioctl(cpu->fd, KVM_SET_MSRS, &b) == 1;
}

/* An MSR that this CPU model lacks may be zero: then there is nothing to lose. */
static bool msrs_set(struct engine_vcpu *cpu, const struct x86_state *in, struct yado_error *err)
{
    const struct kvm_caps *caps = &cpu->vm->caps;
    struct x86_state *s = (struct x86_state *)(uintptr_t)in; /* read only: msr_place serves both ways */
    union msr_block b;

    for (unsigned at = 0; at < caps->msr_count;) {
        unsigned n = caps->msr_count - at;
        int done;

        memset(&b, 0, sizeof(b));
        b.msrs.nmsrs = n;
        for (unsigned i = 0; i < n; i++) {
            b.msrs.entries[i].index = caps->msrs[at + i];
            b.msrs.entries[i].data = *msr_place(s, caps->msrs[at + i]);
        }
        done = ioctl(cpu->fd, KVM_SET_MSRS, &b);
        if (done < 0)
            return err_set_errno(err, YADO_ERR_HOST, errno, "kvm: KVM_SET_MSRS");
        if ((unsigned)done < n && b.msrs.entries[done].data)
            return err_set(err, YADO_ERR_UNSUPPORTED,
                           "kvm: vCPU %u: the kernel refuses the state's MSR %#x with %#llx", cpu->index,
                           b.msrs.entries[done].index, (unsigned long long)b.msrs.entries[done].data);
        at += (unsigned)done + 1;
    }
    return true;
}

static bool xcr0_set(struct engine_vcpu *cpu, uint64_t xcr0, struct yado_error *err)
{
    struct kvm_xcrs xcrs = { .nr_xcrs = 1, .xcrs = { { .xcr = 0, .value = xcr0 } } };

    if (!cpu->vm->caps.has_xcrs)
        return xcr0 == 1 ||
               err_set(err, YADO_ERR_UNSUPPORTED, "kvm: state has XCR0 %#llx, this host offers none",
                       (unsigned long long)xcr0);
    if (ioctl(cpu->fd, KVM_SET_XCRS, &xcrs) == 0)
        return true;
    return err_set_errno(err, YADO_ERR_UNSUPPORTED, errno,
                         "kvm: state has XCR0 %#llx, this host offers %#llx", (unsigned long long)xcr0,
                         (unsigned long long)cpu->vm->cpuid.xcr0_mask);
}

/* The kernel refuses components that the guest cannot have and reserved bits of the header. */
static bool xsave_set(struct engine_vcpu *cpu, const struct x86_state *s, struct yado_error *err)
{
    struct kvm_xsave area;
    uint64_t header;
    uint8_t *bytes = (uint8_t *)&area;

    memcpy(bytes, s->xsave, X86_XSAVE_MAX);
    memcpy(&header, bytes + 512, sizeof(header));
    /* A bit that is clear means "as after reset": the legacy parts are taken from the area whatever it says.
     */
    header = (header | 3) & (cpu->vm->cpuid.xcr0_mask | 3);
    memset(bytes + 512, 0, 64);
    memcpy(bytes + 512, &header, sizeof(header));
    return part_set(cpu, KVM_SET_XSAVE, &area, "FPU and vector registers", err);
}

/* Order: the base of the local APIC (in sregs) before its registers, its timer's mode before the deadline,
 * the TSC before that; events after what clears them. */
bool kvm_state_set(struct engine_vcpu *cpu, const struct x86_state *s, struct yado_error *err)
{
    struct kvm_regs regs = gprs_to(s);
    struct kvm_sregs sregs = sregs_to(s);
    struct kvm_vcpu_events events = events_to(s);
    struct kvm_debugregs dr = { .dr6 = s->dr[6], .dr7 = s->dr[7] };
    struct kvm_mp_state mp = { .mp_state = mp_to(s->mp_state) };
    struct kvm_lapic_state lapic;

    memcpy(dr.db, s->dr, sizeof(dr.db));
    lapic_to(&s->lapic, &lapic);
    if (!part_set(cpu, KVM_SET_SREGS, &sregs, "control and segment registers", err) ||
        !part_set(cpu, KVM_SET_REGS, &regs, "general registers", err) || !xcr0_set(cpu, s->xcr0, err) ||
        !xsave_set(cpu, s, err) || !msrs_set(cpu, s, err) ||
        !part_set(cpu, KVM_SET_LAPIC, &lapic, "local APIC", err) ||
        !part_set(cpu, KVM_SET_DEBUGREGS, &dr, "debug registers", err) ||
        !part_set(cpu, KVM_SET_MP_STATE, &mp, "activity", err) ||
        !part_set(cpu, KVM_SET_VCPU_EVENTS, &events, "pending events", err))
        return false;
    if (!msr_set(cpu, MSR_TSC_DEADLINE, s->lapic.tsc_deadline) && s->lapic.tsc_deadline)
        return err_set(err, YADO_ERR_UNSUPPORTED,
                       "kvm: vCPU %u: the kernel refuses the state's timer deadline", cpu->index);
    return true;
}
