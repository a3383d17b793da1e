/* Linear memory of a vCPU.
 *
 * Theory of operation. Guest RAM is mapped once into the process, so an access needs only a linear-to-host
 * translation. A direct-mapped software TLB per mmu index (supervisor, user, supervisor with EFLAGS.AC)
 * answers in line in translated code: it compares the page with tag_r or tag_w and adds `delta`. Everything
 * else comes here, to mmu_slow, which has three answers: the page is plain RAM (the entry was filled, go on),
 * or the access is staged: its bytes were copied to a buffer, the instruction runs on the buffer and
 * mmu_commit writes it back (MMIO, accesses that cross a page, pages that hold translated code), or it
 * faults.
 *
 * A page that holds translated code (page_info.code) never gets tag_w, so each store to it comes here and
 * invalidates the blocks that it hits. page_info.w_owner remembers which vCPU may hold a write tag, and has
 * held it since its TLB was last emptied (tcpu.tag_gen): what a kernel wrote when it began is not written any
 * more. Marking a page as code (cache.c) first takes those tags away. Filling a tag and marking a page race;
 * both sides write, fence, then read: fill: w_owner = me; fence; if (code) no tag        mark: code = 1;
 * fence; if (w_owner) take the tags away
 *
 * Invalid tags: the entry with index i holds a page whose index would be ~i, so no lookup can match it. Fills
 * of pages that are not global are logged, so that a CR3 load touches only those. Dirty and accessed bits are
 * set in guest page tables by compare and exchange at the time of the walk; tag_w is given only once the
 * dirty bit is set.
 *
 * Sources: Intel SDM volume 3 chapter 4 (2023-12); AMD APM volume 2 chapter 5. */
#include "engine/translator/mmu.h"
#include "engine/translator/shadow.h"

#include "engine/translator/cache.h"
#include "engine/translator/fixed.h"
#include "engine/translator/lapic.h"
#include "engine/translator/masked.h"
#include "engine/translator/mmu_tlb.h"
#include "engine/translator/tvm.h"

/* ---- page walk ---- */

#define PTE_P 0x1ull
#define PTE_W 0x2ull
#define PTE_U 0x4ull
#define PTE_A 0x20ull
#define PTE_D 0x40ull
#define PTE_PS 0x80ull
#define PTE_G 0x100ull
#define PTE_NX (1ull << 63)
#define PTE_ADDR 0x000ffffffffff000ull

static bool page_fault(struct tcpu *c, uint64_t lin, uint32_t error)
{
    cpu_raise_error(c, EXC_PF, error);
    c->exc.cr2 = lin;
    return false;
}

/* Rights of one translation: may this access go ahead, and could a write? */
static bool rights_ok(const struct tcpu *c, unsigned idx, enum mmu_acc acc, bool u, bool w, bool nx)
{
    if (idx == MMU_U) {
        if (!u)
            return false;
    } else if (u) {
        if (acc == MMU_EXEC && (c->cr4 & CR4_SMEP))
            return false;
        if (acc != MMU_EXEC && (c->cr4 & CR4_SMAP) && idx != MMU_SU)
            return false;
    }
    if (acc == MMU_EXEC)
        return !nx;
    if (acc == MMU_WRITE && !w)
        return idx != MMU_U && !(c->cr0 & CR0_WP);
    return true;
}

static uint32_t fault_code(const struct tcpu *c, unsigned idx, enum mmu_acc acc)
{
    uint32_t e = 0;
    if (acc == MMU_WRITE)
        e |= PF_W;
    if (idx == MMU_U)
        e |= PF_U;
    if (acc == MMU_EXEC && (((c->efer & EFER_NXE) && (c->cr4 & CR4_PAE)) || (c->cr4 & CR4_SMEP)))
        e |= PF_I;
    return e;
}

/* Sets bits in a page-table entry. False: it changed under us, walk again. */
static bool pte_set(struct tcpu *c, uint8_t *slot, uint64_t old, uint64_t set, bool wide)
{
    (void)c;
    if (wide)
        return __atomic_compare_exchange_n((uint64_t *)(void *)slot, &old, old | set, false, __ATOMIC_SEQ_CST,
                                           __ATOMIC_SEQ_CST);
    uint32_t old32 = (uint32_t)old;
    return __atomic_compare_exchange_n((uint32_t *)(void *)slot, &old32, old32 | (uint32_t)set, false,
                                       __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

struct level {
    uint8_t *slot;
    uint64_t pte;
};

/* Walks tables of 8-byte entries from `top` (4: IA-32e, 2: PAE below its pointer table). */
enum walk_result { WALK_OK, WALK_FAULT, WALK_AGAIN };

static enum walk_result walk_finish(struct tcpu *c, const struct level *lv, unsigned count, enum mmu_acc acc,
                                    bool w_ok, bool wide, struct walk *out)
{
    for (unsigned i = 0; i + 1 < count; i++) {
        if (!(lv[i].pte & PTE_A) && !pte_set(c, lv[i].slot, lv[i].pte, PTE_A, wide))
            return WALK_AGAIN;
    }
    const struct level *leaf = &lv[count - 1];
    uint64_t want = PTE_A | (acc == MMU_WRITE ? PTE_D : 0);
    if ((leaf->pte & want) != want && !pte_set(c, leaf->slot, leaf->pte, want, wide))
        return WALK_AGAIN;
    out->writable = w_ok && ((leaf->pte | want) & PTE_D);
    out->global = (leaf->pte & PTE_G) && (c->cr4 & CR4_PGE);
    return WALK_OK;
}

/* Of an entry of 8 bytes. */
static uint64_t reserved_bits(const struct tcpu *c, unsigned shift, bool ia32e, bool large)
{
    uint64_t rsvd = c->vm->gpa_reserved & (ia32e ? PTE_ADDR : ~PTE_NX); /* 4.4.2: bits 62:52 too */
    if (!(c->efer & EFER_NXE))
        rsvd |= PTE_NX;
    if (!ia32e && shift == 30)
        rsvd |= PTE_NX | 0x1e6ull;
    if (large && shift == 39)
        rsvd |= PTE_PS;
    if (ia32e && !large && shift >= 30 && c->vm->cpuid.is_amd)
        rsvd |= PTE_G; /* APM volume 2, 5.3.3; ignored by Intel's: table 4-15 */
    if (large)
        rsvd |= ((1ull << shift) - 1) & PTE_ADDR & ~0x1000ull; /* bit 12 is PAT */
    return rsvd;
}

static enum walk_result walk_wide(struct tcpu *c, uint64_t lin, enum mmu_acc acc, unsigned idx,
                                  struct walk *out)
{
    struct tvm *vm = c->vm;
    bool ia32e = cpu_long_mode(c);
    uint64_t table = ia32e ? c->cr3 & PTE_ADDR : c->cr3 & 0xffffffe0ull;
    unsigned shift = ia32e ? 39 : 30, count = 0;
    bool u = true, w = true, nx = false;
    uint32_t err = fault_code(c, idx, acc);
    struct level lv[4];
    for (;; shift -= 9) {
        unsigned n = !ia32e && shift == 30 ? 3 : 511;
        uint8_t *slot = tvm_hva(vm, table + ((lin >> shift) & n) * 8);
        uint64_t pte = slot ? __atomic_load_n((uint64_t *)(void *)slot, __ATOMIC_ACQUIRE) : 0;
        if (!(pte & PTE_P))
            return page_fault(c, lin, err), WALK_FAULT;
        bool pdpte = !ia32e && shift == 30;
        bool large = !pdpte && shift > 12 && (pte & PTE_PS);
        if (pte & reserved_bits(c, shift, ia32e, large))
            return page_fault(c, lin, err | PF_P | PF_RSVD), WALK_FAULT;
        if (!pdpte) {
            u = u && (pte & PTE_U);
            w = w && (pte & PTE_W);
            nx = nx || (pte & PTE_NX);
            lv[count++] = (struct level){ slot, pte };
        }
        if (shift == 12 || large) {
            if (!rights_ok(c, idx, acc, u, w, nx))
                return page_fault(c, lin, err | PF_P), WALK_FAULT;
            uint64_t mask = (1ull << shift) - 1;
            out->shift = shift;
            out->gpa = (pte & PTE_ADDR & ~mask) | (lin & mask);
            return walk_finish(c, lv, count, acc, rights_ok(c, idx, MMU_WRITE, u, w, nx), true, out);
        }
        table = pte & PTE_ADDR;
    }
}

static enum walk_result walk_narrow(struct tcpu *c, uint64_t lin, enum mmu_acc acc, unsigned idx,
                                    struct walk *out)
{
    struct tvm *vm = c->vm;
    uint32_t err = fault_code(c, idx, acc);
    uint64_t table = c->cr3 & 0xfffff000ull;
    bool u = true, w = true;
    struct level lv[2];
    for (unsigned count = 0, shift = 22;; shift -= 10) {
        uint8_t *slot = tvm_hva(vm, table + ((lin >> shift) & 1023) * 4);
        uint64_t pte = slot ? __atomic_load_n((uint32_t *)(void *)slot, __ATOMIC_ACQUIRE) : 0;
        if (!(pte & PTE_P))
            return page_fault(c, lin, err), WALK_FAULT;
        bool large = shift == 22 && (pte & PTE_PS) && (c->cr4 & CR4_PSE);
        uint64_t high = large ? (pte & 0x1fe000ull) << 19 : 0; /* PSE-36: address bits 32 to 39 (4.3) */
        if (large && ((pte & 0x200000) || high >> vm->cpuid.phys_bits))
            return page_fault(c, lin, err | PF_P | PF_RSVD), WALK_FAULT;
        u = u && (pte & PTE_U);
        w = w && (pte & PTE_W);
        lv[count++] = (struct level){ slot, pte };
        if (large || shift == 12) {
            if (!rights_ok(c, idx, acc, u, w, false))
                return page_fault(c, lin, err | PF_P), WALK_FAULT;
            out->shift = shift;
            if (large)
                out->gpa = (pte & 0xffc00000ull) | high | (lin & 0x3fffff);
            else
                out->gpa = (pte & 0xfffff000ull) | (lin & 0xfff);
            return walk_finish(c, lv, count, acc, rights_ok(c, idx, MMU_WRITE, u, w, false), false, out);
        }
        table = pte & 0xfffff000ull;
    }
}

static bool walk(struct tcpu *c, uint64_t lin, enum mmu_acc acc, unsigned idx, struct walk *out)
{
    if (!(c->cr0 & CR0_PG)) {
        *out = (struct walk){ .gpa = lin & 0xffffffffull, .writable = true, .global = false, .shift = 12 };
        return true;
    }
    if (cpu_long_mode(c) && !cpu_canonical(lin))
        return cpu_raise_gp(c, 0);
    for (;;) {
        enum walk_result r =
            c->cr4 & CR4_PAE ? walk_wide(c, lin, acc, idx, out) : walk_narrow(c, lin, acc, idx, out);
        if (r != WALK_AGAIN)
            return r == WALK_OK;
    }
}

bool mmu_translate(struct tcpu *c, uint64_t lin, enum mmu_acc acc, unsigned idx, uint64_t *gpa)
{
    struct walk w;
    if (!walk(c, lin, acc, idx, &w))
        return false;
    *gpa = w.gpa;
    return true;
}

bool mmu_peek(const struct tcpu *c, uint64_t lin, struct mmu_peeked *p)
{
    const uint64_t needed = PTE_P | PTE_U | PTE_A;
    uint64_t table = c->cr3 & PTE_ADDR, pte, w = PTE_W, nx = 0;
    for (unsigned shift = 39;; shift -= 9) {
        const uint8_t *slot = tvm_hva(c->vm, table + ((lin >> shift) & 511) * 8);
        pte = slot ? __atomic_load_n((const uint64_t *)(const void *)slot, __ATOMIC_ACQUIRE) : 0;
        bool large = shift > 12 && (pte & PTE_PS);
        if ((pte & needed) != needed || (pte & reserved_bits(c, shift, true, large)))
            return false;
        w &= pte;
        nx |= pte & PTE_NX;
        table = pte & PTE_ADDR;
        if (shift > 12 && !large)
            continue;
        uint64_t mask = (1ull << shift) - 1;
        *p = (struct mmu_peeked){ .gpa = (table & ~mask) | (lin & mask & PAGE_MASK),
                                  .shift = shift,
                                  .writable = w && (pte & PTE_D),
                                  .exec = !nx,
                                  .global = (pte & PTE_G) && (c->cr4 & CR4_PGE) };
        return true;
    }
}

bool mmu_maps_any(const struct tcpu *c, uint64_t lin, uint64_t len)
{
    for (uint64_t end = lin + len; lin < end;) {
        uint64_t table = c->cr3 & PTE_ADDR;
        for (unsigned shift = 39;; shift -= 9) {
            const uint8_t *slot = tvm_hva(c->vm, table + ((lin >> shift) & 511) * 8);
            uint64_t pte = slot ? __atomic_load_n((const uint64_t *)(const void *)slot, __ATOMIC_ACQUIRE) : 0;
            if (!(pte & PTE_P)) {
                lin = (lin | ((1ull << shift) - 1)) + 1;
                break;
            }
            if (shift == 12 || (pte & PTE_PS))
                return true;
            table = pte & PTE_ADDR;
        }
    }
    return false;
}

/* ---- code fetch ---- */

bool mmu_code_page(struct tcpu *c, uint64_t vpage, uint64_t *gpage)
{
    unsigned idx = c->mmu_idx;
    struct itlb_entry *e = &c->itlb[(vpage >> 12) & (ITLB_SIZE - 1)];
    if (e->idx_plus1 == idx + 1 && e->vpage == vpage) {
        *gpage = e->gpage;
        return true;
    }
    struct walk w;
    c->counters[TC_MISS_CODE]++;
    if (!walk(c, vpage, MMU_EXEC, idx, &w))
        return false;
    if (!tvm_slot_of(c->vm, w.gpa))
        return false;
    if (e->idx_plus1 && e->idx_plus1 - 1 != MMU_U && !(e->pad & 1))
        c->nonglobal_super_code = 1; /* its jump cache entries outlive the itlb entry */
    c->user_global_code |= idx == MMU_U && w.global;
    mmu_note_large(c, vpage, w.shift, w.global);
    *e = (struct itlb_entry){ vpage, w.gpa & PAGE_MASK, idx + 1, w.global };
    unsigned slot = (unsigned)(e - c->itlb);
    if (!w.global)
        c->itlb_nonglobal[slot / 64] |= 1ull << (slot & 63);
    note_exec(c, idx, vpage >> 12);
    *gpage = w.gpa & PAGE_MASK;
    return true;
}

bool mmu_code_global(const struct tcpu *c, uint64_t vpage)
{
    const struct itlb_entry *e = &c->itlb[(vpage >> 12) & (ITLB_SIZE - 1)];
    return e->vpage == vpage && (e->pad & 1);
}

bool mmu_code_mapping(struct tcpu *c, uint64_t vpage, struct mmu_mapping *m)
{
    struct tcpu_exception before = c->exc;
    struct walk w;
    bool ok = walk(c, vpage, MMU_EXEC, MMU_S, &w);
    c->exc = before;
    if (ok)
        *m = (struct mmu_mapping){ w.gpa, w.shift, w.global };
    return ok;
}

/* ---- access for C ---- */

bool mmu_is_apic_page(const struct tcpu *c, uint64_t gpa)
{
    uint64_t base = lapic_base(c->lapic);
    return (gpa & PAGE_MASK) == (base & PTE_ADDR) && (base & 0xc00) == 0x800;
}

static struct tvm_slot *ram_slot(const struct tcpu *c, uint64_t gpa)
{
    return unlikely(mmu_is_apic_page(c, gpa)) ? NULL : tvm_slot_of(c->vm, gpa);
}

static inline unsigned as_index(const struct tcpu *c, enum mmu_as as)
{
    /* System accesses are never subject to SMAP's EFLAGS.AC override (SDM 4.6.1): AC is taken as clear. */
    return as == MMU_AS_CPL ? c->mmu_idx : MMU_S;
}

/* A rehearsal (shadow.c) must not do what cannot be taken back. */
static bool shadow_stops(struct tcpu *c)
{
    if (likely(!c->shadow || !c->shadow->active))
        return false;
    return c->shadow->stopped = true;
}

/* Before a store of a rehearsal. */
static bool shadow_lets(struct tcpu *c, void *at, unsigned n)
{
    return likely(!c->shadow || !c->shadow->active) || shadow_note(c->shadow, at, n);
}

/* Host pointer for [lin, lin+n) inside one page, filling the TLB. NULL with *gpa set: not RAM, or a write to
 * a code page. */
static uint8_t *page_ptr(struct tcpu *c, uint64_t lin, unsigned idx, enum mmu_acc acc, bool *fault,
                         uint64_t *gpa)
{
    struct tlb_entry *e = &c->tlb[idx][tlb_slot(lin)];
    uint64_t page = lin & PAGE_MASK;
    *fault = false;
    if ((acc == MMU_WRITE ? e->tag_w : e->tag_r) == page)
        return (uint8_t *)(uintptr_t)(lin + e->delta);
    struct walk w;
    c->counters[TC_MISS_C]++;
    if (!walk(c, lin, acc, idx, &w)) {
        *fault = true;
        return NULL;
    }
    *gpa = w.gpa;
    struct tvm_slot *s = ram_slot(c, w.gpa);
    if (!s)
        return *fault = shadow_stops(c), NULL;
    e = tlb_fill(c, idx, lin, &w, s);
    if (acc == MMU_WRITE && e->tag_w != page)
        return *fault = shadow_stops(c), NULL;
    return (uint8_t *)(uintptr_t)(lin + e->delta);
}

static void copy_in(void *dst, const void *src, unsigned n)
{
    switch (n) {
    case 1: *(uint8_t *)dst = __atomic_load_n((const uint8_t *)src, __ATOMIC_RELAXED); return;
    case 2: __builtin_memcpy(dst, src, 2); return;
    case 4: __builtin_memcpy(dst, src, 4); return;
    case 8: __builtin_memcpy(dst, src, 8); return;
    default: light_copy(dst, src, n);
    }
}

static uint64_t io_read(struct tcpu *c, uint64_t gpa, unsigned n)
{
    c->counters[TC_MMIO]++;
    if (mmu_is_apic_page(c, gpa)) {
        uint32_t v = lapic_mmio_read(c->lapic, (unsigned)gpa & 0xff0);
        return (uint64_t)v >> ((gpa & 3) * 8);
    }
    return cpu_io_read(c, false, gpa, n);
}

static void io_write(struct tcpu *c, uint64_t gpa, unsigned n, uint64_t v)
{
    c->counters[TC_MMIO]++;
    if (mmu_is_apic_page(c, gpa))
        lapic_mmio_write(c->lapic, (unsigned)gpa & 0xff0, (uint32_t)v);
    else
        cpu_io_write(c, false, gpa, n, v);
}

/* MMIO in naturally aligned pieces of 1, 2, 4 or 8 bytes. */
static void mmio_copy(struct tcpu *c, uint64_t gpa, uint8_t *buf, unsigned n, bool write)
{
    while (n > 0) {
        unsigned w = 8;
        while (w > n || (gpa & (w - 1)))
            w /= 2;
        uint64_t v = 0;
        if (write) {
            light_copy(&v, buf, w);
            io_write(c, gpa, w, v);
        } else {
            v = io_read(c, gpa, w);
            light_copy(buf, &v, w);
        }
        gpa += w, buf += w, n -= w;
    }
}

static unsigned page_part(uint64_t lin, unsigned n)
{
    unsigned room = (unsigned)(PAGE_SIZE - (lin & (PAGE_SIZE - 1)));
    return n < room ? n : room;
}
/* `by` bytes behind lin, which 64-bit mode alone has above 4 GiB (SDM volume 3, 3.3.7); but IA-32e mode's
 * tables and the stacks of its handlers lie anywhere. */
static inline uint64_t behind(const struct tcpu *c, uint64_t lin, unsigned by, enum mmu_as as)
{
    bool wide = cpu_code64(c) || lin >> 32 || (as == MMU_AS_SYSTEM && cpu_long_mode(c));
    return wide ? lin + by : (lin + by) & 0xffffffffull;
}

bool mmu_probe(struct tcpu *c, uint64_t lin, unsigned n, enum mmu_acc acc, enum mmu_as as)
{
    unsigned idx = as_index(c, as);
    for (unsigned part; n > 0; n -= part, lin = behind(c, lin, part, as)) {
        part = page_part(lin, n);
        struct tlb_entry *e = &c->tlb[idx][tlb_slot(lin)];
        struct walk w;
        if (acc != MMU_EXEC && (acc == MMU_WRITE ? e->tag_w : e->tag_r) == (lin & PAGE_MASK))
            continue;
        if (!walk(c, lin, acc, idx, &w))
            return false;
    }
    return true;
}

static bool read_part(struct tcpu *c, uint64_t lin, void *buf, unsigned n, unsigned idx)
{
    bool fault;
    uint64_t gpa = 0;
    uint8_t *p = page_ptr(c, lin, idx, MMU_READ, &fault, &gpa);
    if (fault)
        return false;
    if (p)
        copy_in(buf, p, n);
    else
        mmio_copy(c, gpa, buf, n, false);
    return true;
}

bool mmu_read(struct tcpu *c, uint64_t lin, void *buf, unsigned n, enum mmu_as as)
{
    unsigned idx = as_index(c, as), part = page_part(lin, n);
    if (part == n)
        return read_part(c, lin, buf, n, idx);
    if (!mmu_probe(c, lin, n, MMU_READ, as))
        return false;
    uint8_t *b = buf;
    for (; n > 0; n -= part, b += part, lin = behind(c, lin, part, as)) {
        part = page_part(lin, n);
        if (!read_part(c, lin, b, part, idx))
            return false;
    }
    return true;
}

static bool write_part(struct tcpu *c, uint64_t lin, const void *buf, unsigned n, unsigned idx)
{
    bool fault;
    uint64_t gpa = 0;
    uint8_t *p = page_ptr(c, lin, idx, MMU_WRITE, &fault, &gpa);
    if (fault)
        return false;
    if (p && !shadow_lets(c, p, n))
        return false;
    if (p) {
        copy_in(p, buf, n);
        return true;
    }
    struct tvm_slot *s = ram_slot(c, gpa);
    if (!s)
        mmio_copy(c, gpa, (uint8_t *)(uintptr_t)buf, n, true);
    else
        cache_write_code_page(c->vm, c, gpa, buf, n);
    return true;
}

bool mmu_write(struct tcpu *c, uint64_t lin, const void *buf, unsigned n, enum mmu_as as)
{
    unsigned idx = as_index(c, as), part = page_part(lin, n);
    if (part == n)
        return write_part(c, lin, buf, n, idx);
    if (!mmu_probe(c, lin, n, MMU_WRITE, as))
        return false;
    const uint8_t *b = buf;
    for (; n > 0; n -= part, b += part, lin = behind(c, lin, part, as)) {
        part = page_part(lin, n);
        if (!write_part(c, lin, b, part, idx))
            return false;
    }
    return true;
}

bool mmu_fetch(struct tcpu *c, uint64_t lin, void *buf, unsigned n, unsigned *got)
{
    uint64_t gpage;
    unsigned part = page_part(lin, n);
    *got = 0;
    for (unsigned done = 0; done < n; done += part, part = n - done) {
        uint64_t at = behind(c, lin, done, MMU_AS_CPL);
        if (mmu_code_page(c, at & PAGE_MASK, &gpage)) {
            light_copy((uint8_t *)buf + done, tvm_hva(c->vm, gpage) + (at & ~PAGE_MASK), part);
        } else if (c->exc.pending) {
            if (done == 0) {
                c->exc.cr2 = lin; /* not the page */
                return false;
            }
            c->exc.pending = 0;
            return true;
        } else { /* code outside RAM: bytes of all ones, as an empty bus gives */
            for (unsigned i = 0; i < part; i++)
                ((uint8_t *)buf)[done + i] = 0xff;
        }
        *got = done + part;
    }
    return true;
}

void *mmu_fast_ptr(struct tcpu *c, uint64_t lin, unsigned n, enum mmu_acc acc, enum mmu_as as)
{
    if (page_part(lin, n) != n)
        return NULL;
    if (acc == MMU_EXEC) {
        uint64_t gpage;
        if (mmu_code_page(c, lin & PAGE_MASK, &gpage))
            return tvm_hva(c->vm, gpage) + (lin & ~PAGE_MASK);
        c->exc.pending = 0;
        return NULL;
    }
    bool fault;
    uint64_t gpa;
    void *p = page_ptr(c, lin, as_index(c, as), acc, &fault, &gpa);
    if (fault)
        c->exc.pending = 0;
    if (p && acc == MMU_WRITE && !shadow_lets(c, p, n))
        return NULL;
    return p;
}

static bool cas_16(void *p, void *expected, const void *desired)
{
    uint64_t lo, hi, elo = ((uint64_t *)expected)[0], ehi = ((uint64_t *)expected)[1];
    uint64_t dlo = ((const uint64_t *)desired)[0], dhi = ((const uint64_t *)desired)[1];
    bool ok;
    __asm__ volatile("lock cmpxchg16b %1"
                     : "=@ccz"(ok), "+m"(*(unsigned __int128 *)p), "=a"(lo), "=d"(hi)
                     : "a"(elo), "d"(ehi), "b"(dlo), "c"(dhi)
                     : "memory");
    ((uint64_t *)expected)[0] = lo;
    ((uint64_t *)expected)[1] = hi;
    return ok;
}

static bool cas_host(void *p, unsigned n, void *expected, const void *desired)
{
    switch (n) {
    case 1:
        return __atomic_compare_exchange_n((uint8_t *)p, (uint8_t *)expected, *(const uint8_t *)desired,
                                           false, 5, 5);
    case 2:
        return __atomic_compare_exchange_n((uint16_t *)p, (uint16_t *)expected, *(const uint16_t *)desired,
                                           false, 5, 5);
    case 4:
        return __atomic_compare_exchange_n((uint32_t *)p, (uint32_t *)expected, *(const uint32_t *)desired,
                                           false, 5, 5);
    case 8:
        return __atomic_compare_exchange_n((uint64_t *)p, (uint64_t *)expected, *(const uint64_t *)desired,
                                           false, 5, 5);
    default: return cas_16(p, expected, desired);
    }
}

bool mmu_cmpxchg(struct tcpu *c, uint64_t lin, unsigned n, void *expected, const void *desired, bool *swapped)
{
    bool fault;
    uint64_t gpa = 0;
    if (page_part(lin, n) == n) {
        uint8_t *p = page_ptr(c, lin, c->mmu_idx, MMU_WRITE, &fault, &gpa);
        if (fault)
            return false;
        if (p && !shadow_lets(c, p, n))
            return false;
        if (p) {
            *swapped = cas_host(p, n, expected, desired);
            return true;
        }
    } else if (!mmu_probe(c, lin, n, MMU_WRITE, MMU_AS_CPL)) {
        return false;
    }
    /* Across pages, in a code page or in MMIO: alone in the machine, then it is a read and a write. */
    if (atomic_load(&c->vm->excl_owner) != c && c->vm->cpu_count > 1) {
        c->need_exclusive = 1;
        return false;
    }
    uint64_t old[2];
    if (!mmu_read(c, lin, old, n, MMU_AS_CPL))
        return false;
    bool same = true;
    for (unsigned i = 0; i < n; i++)
        same &= ((uint8_t *)old)[i] == ((uint8_t *)expected)[i];
    *swapped = same;
    if (same)
        return mmu_write(c, lin, desired, n, MMU_AS_CPL);
    light_copy(expected, old, n);
    return true;
}

/* ---- guest physical access ---- */

uint8_t *mmu_phys_ptr(struct tcpu *c, uint64_t gpa, unsigned n)
{
    return page_part(gpa, n) == n ? tvm_hva(c->vm, gpa) : NULL;
}

bool mmu_phys_read(struct tcpu *c, uint64_t gpa, void *buf, unsigned n)
{
    uint8_t *p = mmu_phys_ptr(c, gpa, n);
    if (p)
        copy_in(buf, p, n);
    return p != NULL;
}

bool mmu_phys_write(struct tcpu *c, uint64_t gpa, const void *buf, unsigned n)
{
    uint8_t *p = mmu_phys_ptr(c, gpa, n);
    if (!p)
        return false;
    if (atomic_load(&tvm_page(c->vm, gpa)->code))
        cache_write_code_page(c->vm, c, gpa, buf, n);
    else
        copy_in(p, buf, n);
    return true;
}

/* ---- slow path of translated code ---- */

static uint8_t *stage_buffer(struct tcpu *c, uint64_t lin)
{
    return c->stage + (lin & 63);
}

static void staged_at(struct tcpu *c, uint64_t lin, struct mmu_slow *out)
{
    out->offset = 0;
    out->hpage = (uint64_t)(uintptr_t)stage_buffer(c, lin);
    out->delta = out->hpage - lin;
    c->counters[TC_STAGED]++;
}

static enum mmu_answer stage(struct tcpu *c, uint64_t lin, uint32_t desc, struct mmu_slow *out)
{
    unsigned n = MMU_DESC_LEN(desc), acc = MMU_DESC_ACC(desc);
    /* LOCK across pages or in a code page is not atomic when staged: it runs alone. */
    if (MMU_DESC_LOCKED(desc))
        return MMU_ANS_EXCLUSIVE;
    uint8_t *buf = stage_buffer(c, lin);
    if (acc != MMU_SLOW_R && !mmu_probe(c, lin, n, MMU_WRITE, MMU_AS_CPL))
        return MMU_ANS_FAULT;
    if (acc != MMU_SLOW_W && !mmu_read(c, lin, buf, n, MMU_AS_CPL))
        return MMU_ANS_FAULT;
    c->stage_gva = lin;
    c->stage_len = n;
    c->stage_size = 0;
    staged_at(c, lin, out);
    return MMU_ANS_STAGED;
}

bool mmu_stage_part(struct tcpu *c, uint64_t lin, unsigned off, unsigned n, enum mmu_acc acc)
{
    uint64_t at = behind(c, lin, off, MMU_AS_CPL);
    return acc == MMU_WRITE ? mmu_probe(c, at, n, acc, MMU_AS_CPL)
                            : mmu_read(c, at, stage_buffer(c, lin) + off, n, MMU_AS_CPL);
}

void mmu_stage_elements(struct tcpu *c, uint64_t lin, unsigned size, uint64_t elements, struct mmu_slow *out)
{
    c->stage_gva = lin;
    c->stage_size = size;
    c->stage_elements = elements;
    staged_at(c, lin, out);
}

/* The TLB's entry of a page that is plain RAM and may be accessed so. NULL: it is not; raises nothing. */
static const struct tlb_entry *plain_page(struct tcpu *c, uint64_t lin, bool write)
{
    const struct tlb_entry *e = &c->tlb[c->mmu_idx][tlb_slot(lin)];
    uint64_t page = lin & PAGE_MASK;
    struct walk w;
    if ((write ? e->tag_w : e->tag_r) == page)
        return e;
    if (!walk(c, lin, write ? MMU_WRITE : MMU_READ, c->mmu_idx, &w)) {
        c->exc.pending = 0;
        return NULL;
    }
    struct tvm_slot *s = ram_slot(c, w.gpa);
    e = s ? tlb_fill(c, c->mmu_idx, lin, &w, s) : NULL;
    return e && (!write || e->tag_w == page) ? e : NULL;
}

/* Whether what crosses into the next page does so in the host's memory too, as most of what a kernel
 * allocates: states of XSAVE, half of which lie across two pages, are at stake. LOCK is not, which must not
 * be split. */
static bool neighbours(struct tcpu *c, uint64_t lin, uint32_t desc, struct mmu_slow *out)
{
    bool write = MMU_DESC_ACC(desc) != MMU_SLOW_R;
    uint64_t last = behind(c, lin, MMU_DESC_LEN(desc) - 1, MMU_AS_CPL);
    const struct tlb_entry *a, *b;
    if (MMU_DESC_LOCKED(desc) || !(a = plain_page(c, lin, write)) || !(b = plain_page(c, last, write)) ||
        a->delta != b->delta)
        return false;
    out->offset = lin & ~PAGE_MASK;
    out->hpage = a->hpage;
    out->delta = a->delta;
    return true;
}

bool mmu_is_misaligned(uint64_t lin, uint32_t desc)
{
    uint32_t mxcsr = 0;
    if (MMU_DESC_ALIGN(desc) == MMU_ALIGN_UNLESS_MM)
        __asm__("stmxcsr %0" : "=m"(mxcsr));
    return MMU_DESC_ALIGN(desc) && !(mxcsr & MXCSR_MM) && (lin & mmu_align_mask(MMU_DESC_LEN(desc)));
}

enum mmu_answer mmu_slow(struct tcpu *c, uint64_t lin, uint32_t desc, struct mmu_slow *out)
{
    unsigned n = MMU_DESC_LEN(desc);
    bool write = MMU_DESC_ACC(desc) != MMU_SLOW_R;
    enum mmu_answer ans;
    c->counters[write ? TC_MISS_WRITE : TC_MISS_READ]++;
    if (page_part(lin, n) != n) {
        ans = neighbours(c, lin, desc, out) ? MMU_ANS_DIRECT : stage(c, lin, desc, out);
    } else {
        struct walk w;
        if (!walk(c, lin, write ? MMU_WRITE : MMU_READ, c->mmu_idx, &w)) {
            ans = MMU_ANS_FAULT;
        } else {
            struct tvm_slot *s = ram_slot(c, w.gpa);
            struct tlb_entry *e = s ? tlb_fill(c, c->mmu_idx, lin, &w, s) : NULL;
            if (!e || (write && e->tag_w != (lin & PAGE_MASK))) {
                ans = stage(c, lin, desc, out);
            } else {
                out->offset = lin & ~PAGE_MASK;
                out->hpage = e->hpage;
                out->delta = e->delta;
                ans = MMU_ANS_DIRECT;
            }
        }
    }
    if (ans == MMU_ANS_FAULT && c->exc.vector == EXC_GP && MMU_DESC_STACK(desc))
        c->exc.vector = EXC_SS;
    if (ans == MMU_ANS_FAULT && mmu_is_misaligned(lin, desc))
        cpu_raise_gp(c, 0);
    return ans;
}

bool mmu_group(struct tcpu *c, uint64_t lin, uint32_t desc, struct mmu_slow *out)
{
    struct walk w;
    unsigned n = MMU_DESC_LEN(desc), acc = MMU_DESC_ACC(desc);
    c->counters[TC_MISS_GROUP]++;
    if (page_part(lin, n) != n)
        return false;
    /* MMU_SLOW_R_THEN_W is a read now: it sets no dirty bit, and does without the page if there is none. */
    if (!walk(c, lin, acc == MMU_SLOW_W ? MMU_WRITE : MMU_READ, c->mmu_idx, &w)) {
        c->exc.pending = 0;
        return false;
    }
    struct tvm_slot *s = ram_slot(c, w.gpa);
    struct tlb_entry *e = s ? tlb_fill(c, c->mmu_idx, lin, &w, s) : NULL;
    if (!e || (acc != MMU_SLOW_R && e->tag_w != (lin & PAGE_MASK)))
        return false;
    out->offset = lin & ~PAGE_MASK;
    out->hpage = e->hpage;
    out->delta = e->delta;
    return true;
}

/* False: an exception is pending. */
static bool commit_elements(struct tcpu *c)
{
    unsigned first = 0, n, size = c->stage_size;
    for (; (n = masked_stretch(c->stage_elements, &first)) > 0; first += n) {
        if (!mmu_write(c, behind(c, c->stage_gva, first * size, MMU_AS_CPL),
                       stage_buffer(c, c->stage_gva) + first * size, n * size, MMU_AS_CPL))
            return false;
    }
    return true;
}

bool mmu_commit(struct tcpu *c)
{
    uint64_t before = c->counters[TC_INVALIDATED];
    /* The probe in stage() succeeded and only this vCPU changes its own translation state, so this cannot
     * fault unless another vCPU changed the page tables in between; then the store is to the old page or
     * lost, as on hardware. */
    bool ok = c->stage_size
                  ? commit_elements(c)
                  : mmu_write(c, c->stage_gva, stage_buffer(c, c->stage_gva), c->stage_len, MMU_AS_CPL);
    if (!ok)
        c->exc.pending = 0;
    return c->counters[TC_INVALIDATED] != before;
}
