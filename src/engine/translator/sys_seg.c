/* Segment registers: loads, LDT and task register, access-rights queries, SWAPGS. Light.
 * Sections are of the Intel SDM volume 3 (2023-12) unless volume 2 is named. */
#include "engine/translator/sys_priv.h"

/* ---- loads of ES SS DS FS GS: volume 2, MOV; 3.4.3, 5.6 ---- */

/* Real and v86 mode: only selector and base change; in real mode a big limit stays (10.9.2). */
static bool load_seg_real(struct tcpu *c, unsigned seg, uint16_t sel)
{
    if (cpu_v86(c)) {
        c->seg[seg] = sys_v86_segment(sel);
    } else {
        c->seg[seg].sel = sel;
        c->seg[seg].base = (uint64_t)sel << 4;
        c->seg[seg].attr |= SEG_P | SEG_S;
    }
    return true;
}

static bool load_ss(struct tcpu *c, uint16_t sel)
{
    struct sys_desc d;

    if (sys_sel_null(sel)) { /* volume 2, MOV: only 64-bit code above level 3 */
        if (!cpu_code64(c) || c->cpl == 3 || (sel & 3u) != c->cpl)
            return cpu_raise_gp(c, 0);
        c->seg[S_SS] = sys_null_stack(sel, c->cpl);
        return true;
    }
    if (!sys_desc_read(c, sel, &d, EXC_GP, 0) || !sys_check_stack(c, sel, &d, c->cpl, EXC_GP, 0) ||
        !sys_desc_mark_accessed(c, &d))
        return false;
    c->seg[S_SS] = sys_desc_segment(&d, sel);
    return true;
}

static bool load_data(struct tcpu *c, unsigned seg, uint16_t sel)
{
    struct sys_desc d;
    uint32_t err = sel & 0xfffcu;
    unsigned dpl, rpl = sel & 3u;

    if (sys_sel_null(sel)) {
        /* The base goes too: CPUID says NullSelectorClearsBase to an AMD guest. */
        c->seg[seg] = (struct x86_segment){ .sel = sel };
        return true;
    }
    if (!sys_desc_read(c, sel, &d, EXC_GP, 0))
        return false;
    if (!sys_desc_is_segment(&d) || (sys_desc_is_code(&d) && !(d.hi & 0x200u))) /* code that cannot be read */
        return cpu_raise_gp(c, err);
    dpl = sys_desc_dpl(&d);
    if (!sys_desc_is_conforming(&d) && (rpl > dpl || c->cpl > dpl))
        return cpu_raise_gp(c, err);
    if (!sys_desc_present(&d))
        return cpu_raise_error(c, EXC_NP, err);
    if (!sys_desc_mark_accessed(c, &d))
        return false;
    c->seg[seg] = sys_desc_segment(&d, sel);
    return true;
}

bool sys_load_seg(struct tcpu *c, unsigned seg, uint16_t sel)
{
    bool ok;

    if (seg == S_CS || seg > S_GS)
        return cpu_raise(c, EXC_UD);
    if (cpu_real_mode(c) || cpu_v86(c))
        ok = load_seg_real(c, seg, sel);
    else
        ok = seg == S_SS ? load_ss(c, sel) : load_data(c, seg, sel);
    if (ok && seg == S_SS)
        c->int_shadow = 2; /* 6.8.3 */
    if (ok)
        sys_mode_changed(c);
    return ok;
}

/* ---- LDTR and TR: volume 2, LLDT and LTR ---- */

/* The descriptor of an LDT or TSS, whole: 16 bytes in long mode. */
static bool read_system_desc(struct tcpu *c, uint16_t sel, struct sys_desc *d)
{
    if (sel & 4)
        return cpu_raise_gp(c, sel & 0xfffcu);
    if (!sys_desc_read(c, sel, d, EXC_GP, 0))
        return false;
    return !cpu_long_mode(c) || sys_desc_read_second(c, sel, d, 0);
}

static bool set_system_segment(struct tcpu *c, unsigned seg, uint16_t sel, const struct sys_desc *d)
{
    struct x86_segment s = sys_desc_segment(d, sel);

    if (cpu_long_mode(c)) {
        s.base |= (uint64_t)d->lo2 << 32;
        if (!cpu_canonical(s.base))
            return cpu_raise_gp(c, sel & 0xfffcu);
    }
    c->seg[seg] = s;
    return true;
}

static bool no_protected_mode(const struct tcpu *c)
{
    return cpu_real_mode(c) || cpu_v86(c);
}

bool sys_lldt(struct tcpu *c, uint16_t sel)
{
    struct sys_desc d;

    if (no_protected_mode(c))
        return cpu_raise(c, EXC_UD);
    if (c->cpl)
        return cpu_raise_gp(c, 0);
    if (sys_sel_null(sel)) {
        c->seg[S_LDTR] = (struct x86_segment){ .sel = sel };
        return true;
    }
    if (!read_system_desc(c, sel, &d))
        return false;
    if (sys_desc_is_segment(&d) || sys_desc_type(&d) != DT_LDT)
        return cpu_raise_gp(c, sel & 0xfffcu);
    if (!sys_desc_present(&d))
        return cpu_raise_error(c, EXC_NP, sel & 0xfffcu);
    return set_system_segment(c, S_LDTR, sel, &d);
}

bool sys_ltr(struct tcpu *c, uint16_t sel)
{
    struct sys_desc d;
    struct x86_segment old = c->seg[S_TR];
    unsigned type;

    if (no_protected_mode(c))
        return cpu_raise(c, EXC_UD);
    if (c->cpl)
        return cpu_raise_gp(c, 0);
    if (sys_sel_null(sel))
        return cpu_raise_gp(c, 0);
    if (!read_system_desc(c, sel, &d))
        return false;
    type = sys_desc_type(&d);
    if (sys_desc_is_segment(&d) || !(type == DT_TSS32 || (type == DT_TSS16 && !cpu_long_mode(c))))
        return cpu_raise_gp(c, sel & 0xfffcu);
    if (!sys_desc_present(&d))
        return cpu_raise_error(c, EXC_NP, sel & 0xfffcu);
    if (!set_system_segment(c, S_TR, sel, &d))
        return false;
    if (!sys_desc_set_type_bits(c, &d, 2, 0)) {
        c->seg[S_TR] = old;
        return false;
    }
    c->seg[S_TR].attr |= 2; /* busy */
    return true;
}

/* ---- LAR, LSL, VERR, VERW: volume 2; 5.10 ---- */

enum query { QUERY_LAR, QUERY_LSL };

static bool system_type_visible(const struct tcpu *c, unsigned type, enum query q)
{
    /* volume 2, LAR table 3-53 and LSL table 3-58, bit per type: outside and in long mode */
    static const uint16_t lar[2] = { 0x1a3e, 0x1a04 }, lsl[2] = { 0x0a0e, 0x0a04 };
    const uint16_t *set = q == QUERY_LAR ? lar : lsl;

    return (set[cpu_long_mode(c)] >> type) & 1;
}

/* Reads the entry for a query. *found false: the instruction only clears ZF. */
static bool query_desc(struct tcpu *c, uint16_t sel, struct sys_desc *d, bool *found)
{
    *found = false;
    if (no_protected_mode(c))
        return cpu_raise(c, EXC_UD);
    if (sys_sel_null(sel))
        return true;
    if (!sys_desc_read(c, sel, d, EXC_GP, 0)) {
        if (c->exc.vector != EXC_GP)
            return false;
        c->exc.pending = 0; /* outside the table is an answer, not a fault */
        return true;
    }
    *found = true;
    return true;
}

static bool query_visible(const struct tcpu *c, uint16_t sel, const struct sys_desc *d)
{
    unsigned dpl = sys_desc_dpl(d);

    return sys_desc_is_conforming(d) || (c->cpl <= dpl && (sel & 3u) <= dpl);
}

static bool query_common(struct tcpu *c, uint16_t sel, struct sys_desc *d, enum query q, bool *zf)
{
    if (!query_desc(c, sel, d, zf))
        return false;
    if (*zf)
        *zf = (sys_desc_is_segment(d) || system_type_visible(c, sys_desc_type(d), q)) &&
              query_visible(c, sel, d);
    return true;
}

bool sys_lar(struct tcpu *c, uint16_t sel, uint32_t *value, bool *zf)
{
    struct sys_desc d;

    if (!query_common(c, sel, &d, QUERY_LAR, zf))
        return false;
    if (*zf)
        *value = d.hi & 0x00ffff00u;
    return true;
}

bool sys_lsl(struct tcpu *c, uint16_t sel, uint32_t *value, bool *zf)
{
    struct sys_desc d;

    if (!query_common(c, sel, &d, QUERY_LSL, zf))
        return false;
    if (*zf)
        *value = sys_desc_limit(&d);
    return true;
}

bool sys_verify(struct tcpu *c, uint16_t sel, bool write, bool *zf)
{
    struct sys_desc d;

    if (!query_desc(c, sel, &d, zf))
        return false;
    if (!*zf)
        return true;
    if (write)
        *zf = sys_desc_is_writable_data(&d) && query_visible(c, sel, &d);
    else
        *zf = sys_desc_is_segment(&d) && (!sys_desc_is_code(&d) || (d.hi & 0x200u)) &&
              query_visible(c, sel, &d);
    return true;
}

/* ---- SWAPGS: volume 2 ---- */

bool sys_swapgs(struct tcpu *c)
{
    uint64_t base = c->seg[S_GS].base;

    if (!cpu_code64(c))
        return cpu_raise(c, EXC_UD);
    if (c->cpl)
        return cpu_raise_gp(c, 0);
    c->seg[S_GS].base = c->kernel_gs_base;
    c->seg_base_gs = c->kernel_gs_base;
    c->kernel_gs_base = base;
    return true;
}
