/* String instructions of the general path: MOVS CMPS STOS LODS SCAS INS OUTS, with and without REP.
 *
 * A repeated instruction works in chunks. When both operands are plain memory, a chunk is what fits both
 * pages and the host's own REP instruction with the same element size does it, so that overlap, the point
 * where a comparison stops and the flags come out right by themselves. Downward, MOVS and STOS have chunks
 * too; the host still goes up, in blocks that are too small for the direction to matter. When the destination
 * is memory that may only be written with care (it holds translated code), the chunk goes through mmu_write
 * in one piece. Everything else (devices, page-crossing elements, downward comparisons) is done element by
 * element.
 *
 * Registers are updated after each chunk, so a fault or an interrupt request between chunks leaves a
 * resumable state (Intel SDM volume 2, "REP"). A step does a bounded amount of work and then returns
 * STEP_AGAIN; with TF set, one element. */
#include "engine/translator/interp_ops.h"

#define MAX_CHUNKS 16u    /* per step; a chunk is at most a page */
#define MAX_ELEMENTS 256u /* per step, of those done one by one */
#define FILL_BYTES 256u   /* bounce buffer of STOS */
#define MIN_BLOCK 128u    /* bytes for which it pays to start the host's REP */

enum string_kind { STR_MOVS, STR_CMPS, STR_STOS, STR_LODS, STR_SCAS, STR_INS, STR_OUTS };

struct string_op {
    enum string_kind kind;
    unsigned size; /* of an element */
    unsigned seg;  /* of the source */
    unsigned adsize;
    bool down;
    bool repe;
    bool repne; /* CMPS, SCAS: repeat while not equal */
};

static enum string_kind string_which(const struct insn *i)
{
    switch (i->op & 0xfe) {
    case 0xa4: return STR_MOVS;
    case 0xa6: return STR_CMPS;
    case 0xaa: return STR_STOS;
    case 0xac: return STR_LODS;
    case 0xae: return STR_SCAS;
    case 0x6c: return STR_INS;
    default: return STR_OUTS;
    }
}

static void advance(struct tcpu *c, const struct string_op *s, unsigned reg, uint64_t n)
{
    uint64_t bytes = n * s->size;
    gpr_set(c, reg, s->adsize, s->down ? c->gpr[reg] - bytes : c->gpr[reg] + bytes);
}

/* ---- one element ---- */

static bool one_movs(struct tcpu *c, const struct string_op *s, uint64_t si, uint64_t di)
{
    uint64_t v;
    return mem_read(c, s->seg, si, s->size, &v) && mem_write(c, S_ES, di, s->size, v);
}

static bool one_cmps(struct tcpu *c, const struct string_op *s, uint64_t si, uint64_t di)
{
    uint64_t a, b;
    /* Which operand's fault comes first is the CPU's own affair: all look at rDI first, but for AMD's REPE
     * CMPSB, which has microcode of its own. */
    bool di_first = !(tvm_cpuid(c->vm)->is_amd && s->repe && s->size == 1);
    if (di_first && !mem_read(c, S_ES, di, s->size, &b))
        return false;
    if (!mem_read(c, s->seg, si, s->size, &a))
        return false;
    if (!di_first && !mem_read(c, S_ES, di, s->size, &b))
        return false;
    alu_binary(ALU_CMP, s->size, a, b, &c->fl);
    return true;
}

static bool one_lods(struct tcpu *c, const struct string_op *s, uint64_t si)
{
    uint64_t v;
    if (!mem_read(c, s->seg, si, s->size, &v))
        return false;
    gpr_set(c, R_AX, s->size, v);
    return true;
}

static bool one_scas(struct tcpu *c, const struct string_op *s, uint64_t di)
{
    uint64_t b;
    if (!mem_read(c, S_ES, di, s->size, &b))
        return false;
    alu_binary(ALU_CMP, s->size, c->gpr[R_AX], b, &c->fl);
    return true;
}

/* The destination is proved writable before the port is read: reading may have side effects. */
static bool one_ins(struct tcpu *c, const struct string_op *s, uint64_t di)
{
    uint16_t port = (uint16_t)c->gpr[R_DX];
    uint64_t lin;
    if (!sys_io_allowed(c, port, s->size) || !seg_linear(c, S_ES, di, s->size, MMU_WRITE, &lin) ||
        !mmu_probe(c, lin, s->size, MMU_WRITE, MMU_AS_CPL))
        return false;
    return mem_write(c, S_ES, di, s->size, cpu_io_read(c, true, port, s->size));
}

static bool one_outs(struct tcpu *c, const struct string_op *s, uint64_t si)
{
    uint16_t port = (uint16_t)c->gpr[R_DX];
    uint64_t v;
    if (!sys_io_allowed(c, port, s->size) || !mem_read(c, s->seg, si, s->size, &v))
        return false;
    cpu_io_write(c, true, port, s->size, v);
    return true;
}

static bool uses_si(enum string_kind k)
{
    return k == STR_MOVS || k == STR_CMPS || k == STR_LODS || k == STR_OUTS;
}

static bool uses_di(enum string_kind k)
{
    return k != STR_LODS && k != STR_OUTS;
}

static void advance_both(struct tcpu *c, const struct string_op *s, uint64_t n)
{
    if (uses_si(s->kind))
        advance(c, s, R_SI, n);
    if (uses_di(s->kind))
        advance(c, s, R_DI, n);
}

static bool string_one(struct tcpu *c, const struct string_op *s)
{
    uint64_t si = cut(c->gpr[R_SI], s->adsize), di = cut(c->gpr[R_DI], s->adsize);
    bool ok;
    switch (s->kind) {
    case STR_MOVS: ok = one_movs(c, s, si, di); break;
    case STR_CMPS: ok = one_cmps(c, s, si, di); break;
    case STR_STOS: ok = mem_write(c, S_ES, di, s->size, c->gpr[R_AX]); break;
    case STR_LODS: ok = one_lods(c, s, si); break;
    case STR_SCAS: ok = one_scas(c, s, di); break;
    case STR_INS: ok = one_ins(c, s, di); break;
    default: ok = one_outs(c, s, si); break;
    }
    if (ok)
        advance_both(c, s, 1);
    return ok;
}

/* ---- chunks ---- */

/* How far the lowest of n elements lies below the first. */
static uint64_t below(const struct string_op *s, uint64_t n)
{
    return s->down ? (n - 1) * s->size : 0;
}

/* Linear address of the first of the next elements, at seg:off. Cuts *n to what stays in one page, in the
 * segment and within the address size; 0 when not even one element does. */
static uint64_t chunk_limit(struct tcpu *c, const struct string_op *s, unsigned seg, uint64_t off,
                            enum mmu_acc acc, uint64_t *n)
{
    uint64_t lin, lowest;
    uint64_t to_wrap = cut(~0ull, s->adsize) - off; /* bytes after this one */
    if (!seg_check(c, seg, off, s->size, acc, &lin)) {
        *n = 0;
        return 0;
    }
    unsigned room = (0x1000 - (unsigned)(lin & 0xfff)) / s->size;
    if (s->down && room)
        *n = min_u64(*n, min_u64(lin & 0xfff, off) / s->size + 1);
    else
        *n = min_u64(*n, room);
    if (*n && (s->down ? 1 : *n) * s->size - 1 > to_wrap)
        *n = 0;
    if (*n && !seg_check(c, seg, off - below(s, *n), (unsigned)*n * s->size, acc, &lowest))
        *n = 0;
    return lin;
}

static void host_movs(unsigned size, void *d, const void *s, uint64_t n)
{
    switch (size) {
    case 1: __asm__ volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(n) : : "memory"); break;
    case 2: __asm__ volatile("rep movsw" : "+D"(d), "+S"(s), "+c"(n) : : "memory"); break;
    case 4: __asm__ volatile("rep movsl" : "+D"(d), "+S"(s), "+c"(n) : : "memory"); break;
    default: __asm__ volatile("rep movsq" : "+D"(d), "+S"(s), "+c"(n) : : "memory"); break;
    }
}

static void host_move_one(unsigned size, uint8_t *d, const uint8_t *s)
{
    uint64_t v;
    switch (size) {
    case 1:
        __asm__ volatile("movb (%2), %b0\n\tmovb %b0, (%1)" : "=&r"(v) : "r"(d), "r"(s) : "memory");
        break;
    case 2:
        __asm__ volatile("movw (%2), %w0\n\tmovw %w0, (%1)" : "=&r"(v) : "r"(d), "r"(s) : "memory");
        break;
    case 4:
        __asm__ volatile("movl (%2), %k0\n\tmovl %k0, (%1)" : "=&r"(v) : "r"(d), "r"(s) : "memory");
        break;
    default: __asm__ volatile("movq (%2), %0\n\tmovq %0, (%1)" : "=&r"(v) : "r"(d), "r"(s) : "memory"); break;
    }
}

/* From the highest element down; d and s are the lowest. The host's own REP with DF set takes one element
 * after the other, in microcode. As many bytes as source and destination lie apart may go in any order: no
 * element is read where another was written. */
static void host_movs_down(unsigned size, uint8_t *d, const uint8_t *s, uint64_t n)
{
    uint64_t apart = (uint64_t)(d > s ? d - s : s - d);
    uint64_t block = apart < MIN_BLOCK ? 1 : apart / size;
    while (n > 0) {
        block = min_u64(block, n);
        n -= block;
        if (block == 1)
            host_move_one(size, d + n * size, s + n * size);
        else
            host_movs(size, d + n * size, s + n * size, block);
    }
}

static void host_stos(unsigned size, void *d, uint64_t v, uint64_t n)
{
    switch (size) {
    case 1: __asm__ volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(v) : "memory"); break;
    case 2: __asm__ volatile("rep stosw" : "+D"(d), "+c"(n) : "a"(v) : "memory"); break;
    case 4: __asm__ volatile("rep stosl" : "+D"(d), "+c"(n) : "a"(v) : "memory"); break;
    default: __asm__ volatile("rep stosq" : "+D"(d), "+c"(n) : "a"(v) : "memory"); break;
    }
}

#define HOST_COMPARE(insn, sfx)                                                                              \
    __asm__ volatile(insn sfx FLAGS_SAVE : "+a"(ax), "+D"(d), "+S"(s), "+c"(n) : : "memory", "cc")
#define HOST_COMPARE_ALL(insn)                                                                               \
    do {                                                                                                     \
        if (size == 1)                                                                                       \
            HOST_COMPARE(insn, "b");                                                                         \
        else if (size == 2)                                                                                  \
            HOST_COMPARE(insn, "w");                                                                         \
        else if (size == 4)                                                                                  \
            HOST_COMPARE(insn, "l");                                                                         \
        else                                                                                                 \
            HOST_COMPARE(insn, "q");                                                                         \
    } while (0)

/* n > 0 elements; returns how many were compared, sets *fl to the flags of the last. scan: ax against d. */
static uint64_t host_compare(unsigned size, bool scan, bool repne, const void *s, const void *d, uint64_t ax,
                             uint64_t n, uint16_t *fl)
{
    uint64_t all = n;
    if (scan && repne)
        HOST_COMPARE_ALL("repne scas");
    else if (scan)
        HOST_COMPARE_ALL("repe scas");
    else if (repne)
        HOST_COMPARE_ALL("repne cmps");
    else
        HOST_COMPARE_ALL("repe cmps");
    *fl = (uint16_t)ax;
    return all - n;
}

/* Where mmu_write alone may write. A fault names the first element, which need not be the lowest. */
static bool write_chunk(struct tcpu *c, const struct string_op *s, uint64_t first, const void *from,
                        uint64_t n)
{
    return mmu_probe(c, first, s->size, MMU_WRITE, MMU_AS_CPL) &&
           mmu_write(c, first - below(s, n), from, (unsigned)n * s->size, MMU_AS_CPL);
}

/* Each chunk_* does up to n elements and returns how many; 0: do one element the slow way; sets *fault. */
static uint64_t chunk_movs(struct tcpu *c, const struct string_op *s, uint64_t si, uint64_t di, uint64_t n,
                           bool *fault)
{
    uint64_t src = chunk_limit(c, s, s->seg, si, MMU_READ, &n);
    uint64_t dst = n ? chunk_limit(c, s, S_ES, di, MMU_WRITE, &n) : 0;
    unsigned len = (unsigned)n * s->size;
    if (!n)
        return 0;
    const uint8_t *ps = mmu_fast_ptr(c, src - below(s, n), len, MMU_READ, MMU_AS_CPL);
    if (!ps)
        return 0;
    uint8_t *pd = mmu_fast_ptr(c, dst - below(s, n), len, MMU_WRITE, MMU_AS_CPL);
    if (likely(pd != NULL)) {
        s->down ? host_movs_down(s->size, pd, ps, n) : host_movs(s->size, pd, ps, n);
        return n;
    }
    pd = mmu_fast_ptr(c, dst - below(s, n), len, MMU_READ, MMU_AS_CPL);
    if (!pd || (pd < ps + len && ps < pd + len))
        return 0;
    *fault = !write_chunk(c, s, dst, ps, n);
    return *fault ? 0 : n;
}

static uint64_t chunk_stos(struct tcpu *c, const struct string_op *s, uint64_t di, uint64_t n, bool *fault)
{
    uint64_t fill[FILL_BYTES / 8];
    uint64_t dst = chunk_limit(c, s, S_ES, di, MMU_WRITE, &n);
    if (!n)
        return 0;
    void *pd = mmu_fast_ptr(c, dst - below(s, n), (unsigned)n * s->size, MMU_WRITE, MMU_AS_CPL);
    if (likely(pd != NULL)) {
        host_stos(s->size, pd, c->gpr[R_AX], n);
        return n;
    }
    n = min_u64(n, FILL_BYTES / s->size);
    if (!mmu_fast_ptr(c, dst - below(s, n), (unsigned)n * s->size, MMU_READ, MMU_AS_CPL))
        return 0;
    host_stos(s->size, fill, c->gpr[R_AX], n);
    *fault = !write_chunk(c, s, dst, fill, n);
    return *fault ? 0 : n;
}

static uint64_t chunk_compare(struct tcpu *c, const struct string_op *s, uint64_t si, uint64_t di, uint64_t n)
{
    bool scan = s->kind == STR_SCAS;
    const void *ps = NULL, *pd;
    uint64_t dst = chunk_limit(c, s, S_ES, di, MMU_READ, &n), src = 0;
    if (!scan && n)
        src = chunk_limit(c, s, s->seg, si, MMU_READ, &n);
    if (!n)
        return 0;
    pd = mmu_fast_ptr(c, dst, (unsigned)n * s->size, MMU_READ, MMU_AS_CPL);
    if (!scan)
        ps = mmu_fast_ptr(c, src, (unsigned)n * s->size, MMU_READ, MMU_AS_CPL);
    if (!pd || (!scan && !ps))
        return 0;
    return host_compare(s->size, scan, s->repne, ps, pd, c->gpr[R_AX], n, &c->fl);
}

static uint64_t string_chunk(struct tcpu *c, const struct string_op *s, uint64_t count, bool *fault)
{
    uint64_t si = cut(c->gpr[R_SI], s->adsize), di = cut(c->gpr[R_DI], s->adsize), n = min_u64(count, 0x1000);
    if ((c->rflags & FL_TF) || c->watch)
        return 0;
    switch (s->kind) {
    case STR_MOVS: n = chunk_movs(c, s, si, di, n, fault); break;
    case STR_STOS: n = chunk_stos(c, s, di, n, fault); break;
    case STR_CMPS:
    case STR_SCAS: n = s->down ? 0 : chunk_compare(c, s, si, di, n); break;
    default: return 0;
    }
    if (n) /* moving by nothing would still cut the registers to the address size */
        advance_both(c, s, n);
    return n;
}

/* ---- repetition ---- */

static bool compare_ends(const struct tcpu *c, const struct string_op *s)
{
    return (s->kind == STR_CMPS || s->kind == STR_SCAS) && ((c->fl & F_ZF) != 0) == s->repne;
}

/* A fault in the middle of REPE or REPNE gives the flags back that the instruction began with (SDM volume 2,
 * "REP"); AMD's keep those of the last comparison. A stop half way is not the end either, and going on does
 * not depend on them. */
static enum step repeat_break(struct tcpu *c, uint16_t flags_before, enum step how)
{
    if (!tvm_cpuid(c->vm)->is_amd)
        c->fl = flags_before;
    return how;
}

/* With 32-bit addresses in 64-bit mode Intel's cut the registers that they count with before they begin, also
 * when there is nothing to do or the first element faults; MOVS and STOS their pointers too. */
static void cut_registers(struct tcpu *c, const struct string_op *s)
{
    if (s->adsize != 4 || !cpu_code64(c) || tvm_cpuid(c->vm)->is_amd)
        return;
    gpr_set(c, R_CX, 4, c->gpr[R_CX]);
    if (s->kind == STR_MOVS || s->kind == STR_STOS)
        advance_both(c, s, 0);
}

static enum step string_repeat(struct tcpu *c, const struct string_op *s)
{
    cut_registers(c, s);
    uint64_t count = cut(c->gpr[R_CX], s->adsize);
    unsigned chunks = 0, elements = 0;
    uint16_t flags_before = c->fl;
    while (count) {
        bool fault = false;
        uint64_t n = string_chunk(c, s, count, &fault);
        if (!n) {
            if (fault || !string_one(c, s))
                return repeat_break(c, flags_before, STEP_FAULT);
            n = 1;
            elements++;
        } else {
            chunks++;
        }
        count -= n;
        gpr_set(c, R_CX, s->adsize, count);
        if (!count || compare_ends(c, s))
            break;
        if ((c->rflags & FL_TF) || c->debug_hits || chunks >= MAX_CHUNKS || elements >= MAX_ELEMENTS ||
            atomic_load_explicit(&c->exit_request, memory_order_relaxed))
            return repeat_break(c, flags_before, STEP_AGAIN);
    }
    return STEP_NEXT;
}

enum step op_string(struct tcpu *c, struct insn *i)
{
    struct string_op s = {
        .kind = string_which(i),
        .size = op_size(i),
        .seg = i->seg_over == SEG_NONE ? S_DS : i->seg_over,
        .adsize = i->adsize,
        .down = (c->rflags & FL_DF) != 0,
        .repe = i->rep == 0xf3,
        .repne = i->rep == 0xf2,
    };
    if ((s.kind == STR_INS || s.kind == STR_OUTS) && s.size == 8)
        s.size = 4;
    if (i->rep)
        return string_repeat(c, &s);
    return step_of(string_one(c, &s));
}
