/* Memory operands of the general path: segmentation, plain accesses, read-modify-write.
 * Source: Intel SDM volume 3 (2023-12), 5.3 to 5.5 (limit and type checks), 3.3.7.1 (canonical
 * addresses), 9.1 (atomicity). */
#include "engine/translator/interp.h"
#include "engine/translator/interp_ops.h"

/* ---- segmentation ---- */

/* Outside 64-bit mode. Limits are those of the hidden part in every mode; types and null selectors count in
 * protected mode alone. */
static bool seg_check_legacy(const struct tcpu *c, unsigned seg, uint64_t off, unsigned size,
                             enum mmu_acc acc)
{
    const struct x86_segment *s = &c->seg[seg];
    uint64_t last = off + size - 1;
    bool expand_down = !(s->attr & SEG_CODE) && (s->attr & SEG_CONFORM);

    if (!cpu_real_mode(c) && !cpu_v86(c)) {
        if (!(s->attr & SEG_P))
            return false;
        if (acc == MMU_WRITE && (s->attr & (SEG_CODE | SEG_RW)) != SEG_RW)
            return false;
        if (acc == MMU_READ && (s->attr & (SEG_CODE | SEG_RW)) == SEG_CODE)
            return false;
    }
    if (unlikely(expand_down))
        return off > s->limit && last <= (s->attr & SEG_DB ? 0xffffffffu : 0xffffu);
    return last <= s->limit;
}

bool seg_check(const struct tcpu *c, unsigned seg, uint64_t off, unsigned size, enum mmu_acc acc,
               uint64_t *lin)
{
    if (likely(cpu_code64(c))) {
        uint64_t a = off;
        if (seg >= S_FS)
            a += c->seg[seg].base;
        *lin = a;
        return cpu_canonical(a) && cpu_canonical(a + size - 1);
    }
    *lin = (c->seg[seg].base + off) & 0xffffffffu;
    /* 5.3: an access that wraps at the end of a flat segment of 4 GiB may fault or not: Intel's do not */
    if (off + size - 1 > 0xffffffffu && off <= 0xffffffffu && c->seg[seg].limit == 0xffffffffu &&
        !c->seg[seg].base && !tvm_cpuid(c->vm)->is_amd)
        size = 1;
    return seg_check_legacy(c, seg, off, size, acc);
}

static unsigned piece(bool code64, unsigned size, bool write, unsigned at)
{
    unsigned field = size == 14 || size == 94 ? 2 : 4, environment = size == 10 ? 0 : 7 * field;

    switch (size) {
    case 10:
    case 14:
    case 28:
    case 94:
    case 108: return at < environment ? field : (at - environment) % 10 ? 2 : 8;
    case 64: return write ? 32 : size;      /* vectors of 512 bits (seen on Zen 4) */
    case 512: return code64 ? size : 16;    /* FXSAVE */
    default: return size > 512 ? 64 : size; /* XSAVE */
    }
}

unsigned whole_pieces(bool code64, uint64_t at, unsigned size, bool write)
{
    uint64_t end = code64 ? 1ull << 47 : 1ull << 32, mask = code64 ? ~0ull : 0xffffffffu;
    unsigned n = 0;

    while (n < size && ((at + n) & mask) + piece(code64, size, write, n) <= end)
        n += piece(code64, size, write, n);
    return n;
}

bool seg_linear(struct tcpu *c, unsigned seg, uint64_t off, unsigned size, enum mmu_acc acc, uint64_t *lin)
{
    if (likely(seg_check(c, seg, off, size, acc, lin)))
        return true;
    return cpu_raise_error(c, seg == S_SS ? EXC_SS : EXC_GP, 0);
}

bool interp_operand(struct tcpu *c, unsigned seg, uint64_t off, unsigned size, bool write, uint64_t *lin)
{
    return seg_linear(c, seg, off, size, write ? MMU_WRITE : MMU_READ, lin) &&
           (size > 512 || watch_ok(c, *lin, size, write));
}

/* ---- host accesses: exactly one load or store each, which the C language does not promise for unaligned
 * pointers ---- */

static inline uint64_t host_load(const void *p, unsigned size)
{
    uint64_t v;
    switch (size) {
    case 1: __asm__ volatile("movzbl (%1), %k0" : "=r"(v) : "r"(p) : "memory"); break;
    case 2: __asm__ volatile("movzwl (%1), %k0" : "=r"(v) : "r"(p) : "memory"); break;
    case 4: __asm__ volatile("movl (%1), %k0" : "=r"(v) : "r"(p) : "memory"); break;
    default: __asm__ volatile("movq (%1), %0" : "=r"(v) : "r"(p) : "memory"); break;
    }
    return v;
}

static inline void host_store(void *p, unsigned size, uint64_t v)
{
    switch (size) {
    case 1: __asm__ volatile("movb %b0, (%1)" : : "r"(v), "r"(p) : "memory"); break;
    case 2: __asm__ volatile("movw %w0, (%1)" : : "r"(v), "r"(p) : "memory"); break;
    case 4: __asm__ volatile("movl %k0, (%1)" : : "r"(v), "r"(p) : "memory"); break;
    default: __asm__ volatile("movq %0, (%1)" : : "r"(v), "r"(p) : "memory"); break;
    }
}

static bool lin_read(struct tcpu *c, uint64_t lin, unsigned size, uint64_t *v)
{
    const void *p = mmu_fast_ptr(c, lin, size, MMU_READ, MMU_AS_CPL);
    if (likely(p != NULL)) {
        *v = host_load(p, size);
        return true;
    }
    uint64_t t = 0;
    if (!mmu_read(c, lin, &t, size, MMU_AS_CPL))
        return false;
    *v = t;
    return true;
}

bool mem_read(struct tcpu *c, unsigned seg, uint64_t off, unsigned size, uint64_t *v)
{
    uint64_t lin;
    return seg_linear(c, seg, off, size, MMU_READ, &lin) && watch_ok(c, lin, size, false) &&
           lin_read(c, lin, size, v);
}

bool mem_write(struct tcpu *c, unsigned seg, uint64_t off, unsigned size, uint64_t v)
{
    uint64_t lin;
    if (!seg_linear(c, seg, off, size, MMU_WRITE, &lin) || !watch_ok(c, lin, size, true))
        return false;
    void *p = mmu_fast_ptr(c, lin, size, MMU_WRITE, MMU_AS_CPL);
    if (unlikely(!p))
        return mmu_write(c, lin, &v, size, MMU_AS_CPL);
    host_store(p, size, v);
    return true;
}

/* ---- read-modify-write ---- */

bool rmw_begin(struct tcpu *c, const struct insn *i, unsigned size, struct rmw *m)
{
    *m = (struct rmw){ .size = size };
    if (!i->is_mem) {
        m->old = reg_get(c, i, i->rm, size);
        return true;
    }
    if (!seg_linear(c, i->seg, i->ea, size, MMU_WRITE, &m->lin) || !watch_ok(c, m->lin, size, true))
        return false;
    m->ptr = mmu_fast_ptr(c, m->lin, size, MMU_WRITE, MMU_AS_CPL);
    if (likely(m->ptr != NULL)) {
        m->old = host_load(m->ptr, size);
        return true;
    }
    /* the probe first: a page that is not there is reported as a write, as the CPU does */
    return mmu_probe(c, m->lin, size, MMU_WRITE, MMU_AS_CPL) && lin_read(c, m->lin, size, &m->old);
}

bool rmw_end(struct tcpu *c, const struct insn *i, struct rmw *m, uint64_t v)
{
    if (!i->is_mem) {
        reg_set(c, i, i->rm, m->size, v);
    } else if (i->lock) {
        bool swapped = false;
        if (mmu_cmpxchg(c, m->lin, m->size, &m->old, &v, &swapped))
            return !swapped;
        m->fault = true;
    } else if (likely(m->ptr != NULL)) {
        host_store(m->ptr, m->size, v);
    } else if (!mmu_write(c, m->lin, &v, m->size, MMU_AS_CPL)) {
        m->fault = true;
    }
    return false;
}
