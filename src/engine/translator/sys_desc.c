/* Descriptors and stacks: what segment loads, far transfers, events and task switches have in common. Light.
 * Sections are of the Intel SDM volume 3 (2023-12). */
#include "engine/translator/sys_priv.h"

/* ---- descriptors ---- */

bool sys_desc_read(struct tcpu *c, uint16_t sel, struct sys_desc *d, unsigned vector, uint32_t ext)
{
    uint64_t base = c->gdt.base;
    uint32_t limit = c->gdt.limit;
    uint32_t raw[2];

    if (sel & 4) {
        base = c->seg[S_LDTR].base;
        limit = c->seg[S_LDTR].limit;
        if (!(c->seg[S_LDTR].attr & SEG_P))
            return cpu_raise_error(c, vector, (sel & 0xfffcu) | ext);
    }
    if ((sel | 7u) > limit)
        return cpu_raise_error(c, vector, (sel & 0xfffcu) | ext);
    *d = (struct sys_desc){ .addr = base + (sel & 0xfff8u) };
    if (!mmu_read(c, d->addr, raw, 8, MMU_AS_SYSTEM))
        return false;
    d->lo = raw[0];
    d->hi = raw[1];
    return true;
}

bool sys_desc_read_second(struct tcpu *c, uint16_t sel, struct sys_desc *d, uint32_t ext)
{
    uint32_t limit = sel & 4 ? c->seg[S_LDTR].limit : c->gdt.limit;
    uint32_t raw[2];

    if ((sel & 0xfff8u) + 15 > limit)
        return cpu_raise_gp(c, (sel & 0xfffcu) | ext);
    if (!mmu_read(c, d->addr + 8, raw, 8, MMU_AS_SYSTEM))
        return false;
    d->lo2 = raw[0];
    d->hi2 = raw[1];
    if (d->hi2 & 0x1f00u) /* 8.2.3: the type field of the second half must be zero */
        return cpu_raise_gp(c, (sel & 0xfffcu) | ext);
    return true;
}

/* mmu_cmpxchg works with the rights of the present CPL; descriptor tables are the system's. */
static bool system_cmpxchg_byte(struct tcpu *c, uint64_t lin, uint8_t *expected, uint8_t desired,
                                bool *swapped)
{
    uint8_t idx = c->mmu_idx;
    bool ok;

    c->mmu_idx = MMU_S;
    ok = mmu_cmpxchg(c, lin, 1, expected, &desired, swapped);
    if (!ok && c->need_exclusive) {
        /* The table shares its page with translated code, where the MMU stops all other vCPUs and starts the
         * instruction again; an event has no instruction to start again. One vCPU's loss of an accessed bit
         * to another's plain store is what the manual lets software see without LOCK anyway. */
        c->need_exclusive = 0;
        *swapped = true;
        ok = mmu_write(c, lin, &desired, 1, MMU_AS_SYSTEM);
    }
    c->mmu_idx = idx;
    return ok;
}

bool sys_desc_set_type_bits(struct tcpu *c, const struct sys_desc *d, uint8_t set, uint8_t clear)
{
    uint8_t old = (uint8_t)(d->hi >> 8);
    bool swapped = false;

    while (!swapped) {
        if (!system_cmpxchg_byte(c, d->addr + 5, &old, (uint8_t)((old | set) & ~clear), &swapped))
            return false;
    }
    return true;
}

bool sys_desc_mark_accessed(struct tcpu *c, struct sys_desc *d)
{
    if (d->hi & 0x100u)
        return true;
    if (!sys_desc_set_type_bits(c, d, SEG_ACCESSED, 0))
        return false;
    d->hi |= 0x100u;
    return true;
}

struct x86_segment sys_desc_segment(const struct sys_desc *d, uint16_t sel)
{
    return (struct x86_segment){
        .base = sys_desc_base(d),
        .limit = sys_desc_limit(d),
        .sel = sel,
        .attr = sys_desc_attr(d),
    };
}

bool sys_check_code_direct(struct tcpu *c, uint16_t sel, const struct sys_desc *d)
{
    uint32_t err = sel & 0xfffcu;
    unsigned dpl = sys_desc_dpl(d);

    if (!sys_desc_is_code(d))
        return cpu_raise_gp(c, err);
    if (sys_desc_is_conforming(d))
        return dpl <= c->cpl || cpu_raise_gp(c, err);
    return ((sel & 3u) <= c->cpl && dpl == c->cpl) || cpu_raise_gp(c, err);
}

bool sys_check_code_usable(struct tcpu *c, uint16_t sel, const struct sys_desc *d, uint32_t ext)
{
    if (!sys_desc_present(d))
        return cpu_raise_error(c, EXC_NP, (sel & 0xfffcu) | ext);
    if (cpu_long_mode(c) && (d->hi & 0x600000u) == 0x600000u) /* 5.2.1: L and D */
        return cpu_raise_gp(c, (sel & 0xfffcu) | ext);
    return true;
}

bool sys_check_rip(struct tcpu *c, const struct sys_desc *d, uint64_t off, uint32_t ext)
{
    bool ok = sys_target_is64(c, d) ? cpu_canonical(off) : off <= sys_desc_limit(d);

    return ok || cpu_raise_gp(c, ext);
}

bool sys_check_stack(struct tcpu *c, uint16_t sel, const struct sys_desc *d, unsigned cpl, unsigned vector,
                     uint32_t ext)
{
    if ((sel & 3u) != cpl || sys_desc_dpl(d) != cpl || !sys_desc_is_writable_data(d))
        return cpu_raise_error(c, vector, (sel & 0xfffcu) | ext);
    if (!sys_desc_present(d))
        return cpu_raise_error(c, EXC_SS, (sel & 0xfffcu) | ext);
    return true;
}

void sys_set_cs(struct tcpu *c, const struct sys_desc *d, uint16_t sel, unsigned cpl)
{
    c->seg[S_CS] = sys_desc_segment(d, (uint16_t)((sel & 0xfffcu) | cpl));
}

struct x86_segment sys_null_stack(uint16_t sel, unsigned cpl)
{
    /* The CPL lives in SS.DPL, present or not. */
    return (struct x86_segment){ .sel = sel, .attr = (uint16_t)(cpl << SEG_DPL_SHIFT) };
}

struct x86_segment sys_v86_segment(uint16_t sel)
{
    return (struct x86_segment){
        .base = (uint64_t)sel << 4,
        .limit = 0xffff,
        .sel = sel,
        .attr = SEG_P | SEG_DPL | SEG_S | SEG_RW | SEG_ACCESSED,
    };
}

void sys_drop_inner_segments(struct tcpu *c, unsigned cpl)
{
    static const uint8_t segs[] = { S_ES, S_DS, S_FS, S_GS };

    for (unsigned i = 0; i < sizeof(segs); i++) {
        struct x86_segment *s = &c->seg[segs[i]];
        unsigned dpl = (s->attr & SEG_DPL) >> SEG_DPL_SHIFT;
        bool conforming = (s->attr & (SEG_CODE | SEG_CONFORM)) == (SEG_CODE | SEG_CONFORM);

        /* A null register stays as it is: its base may have been set by MSR. */
        if ((s->attr & SEG_P) && dpl < cpl && !conforming)
            *s = (struct x86_segment){ 0 };
    }
}

/* ---- stacks ---- */

struct sys_stack sys_stack_make(const struct tcpu *c, const struct x86_segment *ss, uint64_t sp, bool is64,
                                unsigned cpl, uint32_t err)
{
    struct sys_stack s = { .ss = *ss, .sp = sp, .err = err };

    s.mask = is64 ? ~0ull : ss->attr & SEG_DB ? 0xffffffffull : 0xffffull;
    s.as = cpl == c->cpl ? MMU_AS_CPL : MMU_AS_SYSTEM;
    return s;
}

struct sys_stack sys_stack_now(const struct tcpu *c)
{
    return sys_stack_make(c, &c->seg[S_SS], c->gpr[R_SP], cpu_code64(c), c->cpl, 0);
}

static bool in_limit(const struct x86_segment *s, uint64_t off, unsigned n)
{
    uint64_t last = off + n - 1;

    if (!(s->attr & SEG_P))
        return false;
    if ((s->attr & (SEG_CODE | SEG_CONFORM)) == SEG_CONFORM) /* 5.3: expand down */
        return off > s->limit && last <= (s->attr & SEG_DB ? 0xffffffffu : 0xffffu);
    return last <= s->limit;
}

/* Linear address of `width` bytes at stack offset off. */
static bool stack_linear(struct tcpu *c, const struct sys_stack *s, uint64_t off, unsigned width,
                         uint64_t *lin)
{
    if (s->mask == ~0ull) {
        *lin = off;
        return (cpu_canonical(off) && cpu_canonical(off + width - 1)) || cpu_raise_error(c, EXC_SS, s->err);
    }
    *lin = (s->ss.base + off) & 0xffffffffu;
    return in_limit(&s->ss, off, width) || cpu_raise_error(c, EXC_SS, s->err);
}

bool sys_push(struct tcpu *c, struct sys_stack *s, uint64_t v, unsigned width)
{
    uint64_t sp = (s->sp - width) & s->mask, lin;

    if (!stack_linear(c, s, sp, width, &lin) || !mmu_write(c, lin, &v, width, s->as))
        return false;
    s->sp = sp;
    return true;
}

bool sys_pop(struct tcpu *c, struct sys_stack *s, uint64_t *v, unsigned width)
{
    uint64_t sp = s->sp & s->mask, lin;

    *v = 0;
    if (!stack_linear(c, s, sp, width, &lin) || !mmu_read(c, lin, v, width, s->as))
        return false;
    s->sp = (sp + width) & s->mask;
    return true;
}

bool sys_pop_n(struct tcpu *c, struct sys_stack *s, uint64_t *v, unsigned n, unsigned width)
{
    uint64_t lin;

    if (s->mask == ~0ull && width == 8) { /* the usual case in one access */
        if (!stack_linear(c, s, s->sp, n * 8, &lin) || !mmu_read(c, lin, v, n * 8, s->as))
            return false;
        s->sp += n * 8;
        return true;
    }
    for (unsigned i = 0; i < n; i++) {
        if (!sys_pop(c, s, &v[i], width))
            return false;
    }
    return true;
}

void sys_stack_commit(struct tcpu *c, const struct sys_stack *s)
{
    if (s->mask == 0xffff)
        c->gpr[R_SP] = (c->gpr[R_SP] & ~0xffffull) | (s->sp & 0xffff);
    else
        c->gpr[R_SP] = s->sp & s->mask;
}

uint64_t sys_merge_sp(uint64_t old, uint64_t v, const struct x86_segment *ss, bool is64)
{
    if (is64)
        return v;
    return ss->attr & SEG_DB ? v & 0xffffffffu : (old & ~0xffffull) | (v & 0xffff);
}

bool sys_tss_pointer(struct tcpu *c, unsigned off, uint32_t ext, uint64_t *v)
{
    const struct x86_segment *tr = &c->seg[S_TR];

    if (off + 7 > tr->limit)
        return cpu_raise_error(c, EXC_TS, (tr->sel & 0xfffcu) | ext);
    return mmu_read(c, tr->base + off, v, 8, MMU_AS_SYSTEM);
}

bool sys_tss_stack(struct tcpu *c, unsigned dpl, uint32_t ext, struct sys_stack *s, struct sys_desc *desc)
{
    const struct x86_segment *tr = &c->seg[S_TR];
    bool is32 = sys_tss_is32(c);
    unsigned off = is32 ? 4 + 8 * dpl : 2 + 4 * dpl, n = is32 ? 6 : 4;
    uint16_t raw[3], sel;
    struct x86_segment ss;

    if (off + n - 1 > tr->limit)
        return cpu_raise_error(c, EXC_TS, (tr->sel & 0xfffcu) | ext);
    if (!mmu_read(c, tr->base + off, raw, n, MMU_AS_SYSTEM))
        return false;
    sel = is32 ? raw[2] : raw[1];
    if (sys_sel_null(sel))
        return cpu_raise_error(c, EXC_TS, ext);
    if (!sys_desc_read(c, sel, desc, EXC_TS, ext) || !sys_check_stack(c, sel, desc, dpl, EXC_TS, ext))
        return false;
    ss = sys_desc_segment(desc, sel);
    *s = sys_stack_make(c, &ss, is32 ? raw[0] | (uint32_t)raw[1] << 16 : raw[0], false, dpl,
                        (sel & 0xfffcu) | ext);
    return true;
}
