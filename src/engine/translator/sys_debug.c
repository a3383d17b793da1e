/* Breakpoint registers and alignment checks. Intel SDM volume 3 (2023-12), 18.2, 18.3.1 and 6.15 (#AC).
 * Light.
 *
 * Theory of operation. Neither is looked for in translated code: while a breakpoint is enabled, or alignment
 * is checked, struct tcpu's `watch` is not 0, and the dispatcher runs one instruction at a time through the
 * general path, whose accesses ask here. A code breakpoint is a fault before its instruction, unless RF is
 * set or MOV SS went before. Data and I/O breakpoints are noted and become one trap behind the instruction,
 * together with the single step's; behind MOV SS, one instruction later. */
#include "engine/translator/sys_priv.h"

#define DR7_RW(dr7, n) (((dr7) >> (16 + 4 * (n))) & 3)
#define DR7_LEN(dr7, n) (((dr7) >> (18 + 4 * (n))) & 3)
#define DR7_ENABLED(dr7, n) (((dr7) >> (2 * (n))) & 3)

enum { RW_EXECUTE, RW_WRITE, RW_IO, RW_ACCESS };

void sys_watch_changed(struct tcpu *c)
{
    uint8_t watch = 0;
    for (unsigned n = 0; n < 4; n++) {
        static const uint8_t kind[4] = { WATCH_CODE, WATCH_DATA, WATCH_IO, WATCH_DATA };
        if (DR7_ENABLED(c->dr[7], n))
            watch |= kind[DR7_RW(c->dr[7], n)];
    }
    if ((c->cr0 & CR0_AM) && (c->rflags & FL_AC) && c->cpl == 3)
        watch |= WATCH_ALIGN;
    c->watch = watch;
}

/* 18.2.5: the range is aligned to its length. */
static bool hits(const struct tcpu *c, unsigned n, uint64_t at, unsigned size)
{
    static const uint8_t len[4] = { 1, 2, 8, 4 };
    uint64_t l = len[DR7_LEN(c->dr[7], n)], from = c->dr[n] & ~(l - 1);
    return from < at + size && at < from + l;
}

static void note(struct tcpu *c, uint64_t at, unsigned size, unsigned rw, unsigned or_rw)
{
    for (unsigned n = 0; n < 4; n++) {
        unsigned kind = DR7_RW(c->dr[7], n);
        if (DR7_ENABLED(c->dr[7], n) && (kind == rw || kind == or_rw) && hits(c, n, at, size))
            c->debug_hits |= (uint8_t)(1u << n);
    }
}

/* Table 6-7. By size: 14, 28, 94 and 108 bytes are x87 environments and states; 512 is FXSAVE's area, which
 * AMD's (APM volume 3, "FXSAVE") check too. Of vectors Intel's only know the alignment that raises #GP; AMD's
 * check any that need none of their own (APM volume 4, 1.2: exception types 2 to 4). */
static uint64_t alignment_mask(const struct tcpu *c, unsigned size)
{
    switch (size) {
    case 10: return 7;
    case 14:
    case 94: return 1;
    case 28:
    case 108: return 3;
    case 16:
    case 32:
    case 64: return sys_is_amd(c) ? 15 : 0;
    case 512: return sys_is_amd(c) ? 3 : 0;
    default: return size <= 8 ? size - 1 : 0;
    }
}

void sys_watch_data(struct tcpu *c, uint64_t lin, unsigned size, bool write)
{
    note(c, lin, size, RW_ACCESS, write ? RW_WRITE : RW_ACCESS);
}

bool sys_watch_access(struct tcpu *c, uint64_t lin, unsigned size, bool write)
{
    if ((c->watch & WATCH_ALIGN) && (lin & alignment_mask(c, size)))
        return cpu_raise_error(c, EXC_AC, 0);
    if (c->watch & WATCH_DATA)
        sys_watch_data(c, lin, size, write);
    return true;
}

void sys_raise_trap(struct tcpu *c, bool step)
{
    cpu_raise(c, EXC_DB);
    c->exc.dr6 = c->debug_hits | (step ? DR6_BS : 0);
    c->debug_hits = 0;
}

void sys_watch_io(struct tcpu *c, uint16_t port, unsigned size)
{
    if (c->cr4 & CR4_DE)
        note(c, port, size, RW_IO, RW_IO);
}

bool sys_watch_code(struct tcpu *c)
{
    uint64_t lin = c->seg[S_CS].base + c->rip, dr6 = 0;
    if (!cpu_code64(c))
        lin &= 0xffffffffu;
    for (unsigned n = 0; n < 4; n++) {
        if (DR7_ENABLED(c->dr[7], n) && DR7_RW(c->dr[7], n) == RW_EXECUTE && c->dr[n] == lin)
            dr6 |= 1u << n;
    }
    if (!dr6)
        return true;
    cpu_raise(c, EXC_DB);
    c->exc.dr6 = dr6;
    return false;
}

bool sys_branch_step(struct tcpu *c, uint64_t *next)
{
    struct tcpu_exception exc = c->exc;
    bool btf = (c->debugctl & DEBUGCTL_BTF) && sys_next_rip(c, next);
    c->exc = exc; /* what cannot be fetched faults when it is to run */
    return btf;
}
