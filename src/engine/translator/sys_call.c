/* SYSCALL, SYSRET, SYSENTER, SYSEXIT: volume 2 of the Intel SDM (2023-12) and volumes 2 and 3 of the AMD APM.
 * Light.
 *
 * The vendors differ, and the guest is told the host's vendor, so that both sides agree:
 *   SYSCALL/SYSRET outside 64-bit mode: #UD on Intel; on AMD they work in compatibility and legacy mode.
 *   SYSENTER/SYSEXIT in long mode: #UD on AMD; on Intel they work.
 *   SYSRET to an address that is not canonical: #GP(0) in the kernel on Intel; on AMD the fault comes in user
 * mode. */
#include "engine/translator/sys_priv.h"

/* These instructions load fixed descriptors without reading a table. */
static void set_flat(struct tcpu *c, uint16_t cs, uint16_t ss, unsigned cpl, bool is64)
{
    unsigned code = SYS_FLAT_CODE(cpl, is64 ? SEG_L : SEG_DB), data = SYS_FLAT_DATA(cpl);

    c->seg[S_CS] = (struct x86_segment){ .limit = ~0u, .sel = cs, .attr = (uint16_t)code };
    c->seg[S_SS] = (struct x86_segment){ .limit = ~0u, .sel = ss, .attr = (uint16_t)data };
    sys_mode_changed(c);
}

/* Here TF counts as the instruction leaves it: so a kernel that has FMASK clear TF is not trapped at its
 * entry, and the trap for the call comes when SYSRET is done (APM volume 2, 13.1.4; processors of both
 * vendors). */
static void trap_by_new_tf(struct tcpu *c)
{
    c->no_step = 1;
    if (!(c->rflags & FL_TF))
        return;
    cpu_raise(c, EXC_DB);
    c->exc.dr6 = DR6_BS;
}

static enum step fault(bool raised_false)
{
    (void)raised_false;
    return STEP_FAULT;
}

enum step sys_syscall(struct tcpu *c, uint64_t next_rip)
{
    uint16_t cs = (uint16_t)((c->star >> 32) & 0xfffc), ss = (uint16_t)(cs + 8);
    uint64_t flags = cpu_rflags(c) & ~(uint64_t)FL_RF;
    bool from64 = cpu_code64(c);

    if (!(c->efer & EFER_SCE) || cpu_real_mode(c) || (!from64 && !sys_is_amd(c)))
        return fault(cpu_raise(c, EXC_UD));
    c->gpr[R_CX] = next_rip;
    if (cpu_long_mode(c)) {
        c->gpr[R_11] = flags;
        c->rip = from64 ? c->lstar : c->cstar;
        cpu_set_rflags(c, flags & ~c->fmask);
        set_flat(c, cs, ss, 0, true);
        trap_by_new_tf(c);
        return STEP_NEXT;
    }
    /* Legacy mode of AMD: APM volume 3, SYSCALL */
    c->rip = c->star & 0xffffffffu;
    cpu_set_rflags(c, flags & ~(uint64_t)(FL_IF | FL_VM));
    set_flat(c, cs, ss, 0, false);
    trap_by_new_tf(c);
    return STEP_NEXT;
}

enum step sys_sysret(struct tcpu *c, unsigned opsize)
{
    uint16_t base = (uint16_t)(c->star >> 48);
    bool to64 = opsize == 8, amd = sys_is_amd(c);

    if (!(c->efer & EFER_SCE) || (!cpu_code64(c) && !amd))
        return fault(cpu_raise(c, EXC_UD));
    if (cpu_real_mode(c) || c->cpl)
        return fault(cpu_raise_gp(c, 0));
    if (to64 && !amd && !cpu_canonical(c->gpr[R_CX]))
        return fault(cpu_raise_gp(c, 0));
    if (cpu_long_mode(c)) {
        cpu_set_rflags(c, c->gpr[R_11] & SYS_SYSRET_FLAGS);
    } else {
        c->rflags |= FL_IF;
        to64 = false;
    }
    c->rip = to64 ? c->gpr[R_CX] : c->gpr[R_CX] & 0xffffffffu;
    /* AMD keeps SS's hidden part; a kernel that reloads SS for that reason may do so, and a flat one is what
     * it wants. */
    set_flat(c, (uint16_t)((to64 ? base + 16 : base) | 3), (uint16_t)((base + 8) | 3), 3, to64);
    trap_by_new_tf(c);
    return STEP_NEXT;
}

static bool sysenter_available(const struct tcpu *c)
{
    return !(cpu_long_mode(c) && sys_is_amd(c));
}

enum step sys_sysenter(struct tcpu *c)
{
    uint16_t cs = (uint16_t)(c->sysenter_cs & 0xfffc);
    bool is_long = cpu_long_mode(c);

    if (!sysenter_available(c))
        return fault(cpu_raise(c, EXC_UD));
    if (cpu_real_mode(c) || !cs)
        return fault(cpu_raise_gp(c, 0));
    c->rflags &= ~(FL_VM | FL_IF | FL_RF);
    c->gpr[R_SP] = is_long ? c->sysenter_esp : c->sysenter_esp & 0xffffffffu;
    c->rip = is_long ? c->sysenter_eip : c->sysenter_eip & 0xffffffffu;
    set_flat(c, cs, (uint16_t)(cs + 8), 0, is_long);
    return STEP_NEXT;
}

enum step sys_sysexit(struct tcpu *c, unsigned opsize)
{
    uint16_t cs = (uint16_t)(c->sysenter_cs & 0xfffc);
    bool to64 = opsize == 8;
    uint64_t rip = c->gpr[R_DX], rsp = c->gpr[R_CX];

    if (!sysenter_available(c))
        return fault(cpu_raise(c, EXC_UD));
    if (cpu_real_mode(c) || !cs || c->cpl || cpu_v86(c))
        return fault(cpu_raise_gp(c, 0));
    if (to64 && (!cpu_canonical(rip) || !cpu_canonical(rsp)))
        return fault(cpu_raise_gp(c, 0));
    c->rip = to64 ? rip : rip & 0xffffffffu;
    c->gpr[R_SP] = to64 ? rsp : rsp & 0xffffffffu;
    cs = (uint16_t)(cs + (to64 ? 32 : 16));
    set_flat(c, (uint16_t)(cs | 3), (uint16_t)((cs + 8) | 3), 3, to64);
    return STEP_NEXT;
}
