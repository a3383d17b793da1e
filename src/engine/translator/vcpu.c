/* The dispatcher: one vCPU's life between translated blocks. Light.
 *
 * Theory of operation. vcpu_loop runs with the guest's vector state in the registers. Each turn: see to
 * requests (exit_request), deliver what is pending, find the block for rip (jump cache, hash table, else
 * translate) and enter it. Translated code comes back with an exit_reason; exceptions and changes of the
 * privilege level do not bring it back if nothing but entering the next block would follow. Instructions that
 * translated code cannot run in place (16-bit code, single-stepped code, the instruction after STI or MOV SS)
 * go through the interpreter one at a time.
 *
 * exit_request is the only thing that other threads set. XR_INTR means that the local APIC may have
 * something; if IF is clear the fact moves to intr_deferred, so that translated code is not made to leave at
 * every poll, and comes back when IF is set.
 *
 * A halted vCPU sleeps on a futex (wake_seq), and so does one that spins for long; cpu_request wakes it. The
 * local APIC's timer is a kernel timer whose signal goes to this thread (fault_linux.c), so a halted vCPU
 * needs no time-out. */
#include "engine/translator/vcpu.h"
#include "engine/translator/x87_pointers.h"

#include "engine/translator/cache.h"
#include "engine/translator/direct.h"
#include "engine/translator/fixed.h"
#include "engine/translator/interp.h"
#include "engine/translator/lapic.h"
#include "engine/translator/light_sys.h"
#include "engine/translator/masked.h"
#include "engine/translator/mmu.h"
#include "engine/translator/shadow.h"
#include "engine/translator/sys.h"
#include "engine/translator/tvm.h"
#include "host/userproc.h"

/* ---- locks and states ---- */

static bool code_lock_taken(struct tvm *vm)
{
    return !atomic_exchange_explicit(&vm->code_lock, 1, memory_order_acquire);
}

void tvm_code_lock(struct tvm *vm)
{
    if (code_lock_taken(vm))
        return;
    atomic_fetch_add(&vm->code_waiters, 1);
    for (unsigned spins = 1; !code_lock_taken(vm); spins++) {
        while (atomic_load_explicit(&vm->code_lock, memory_order_relaxed)) {
            __builtin_ia32_pause();
            if (++spins % 256 == 0)
                light_yield();
        }
    }
    atomic_fetch_sub(&vm->code_waiters, 1);
}

void tvm_code_unlock(struct tvm *vm)
{
    atomic_store_explicit(&vm->code_lock, 0, memory_order_release);
}

void tvm_code_give(struct tvm *vm)
{
    uint32_t waiters = atomic_load(&vm->code_waiters);
    if (!waiters)
        return;
    tvm_code_unlock(vm);
    for (unsigned spins = 0; spins < 64 && atomic_load(&vm->code_waiters) == waiters; spins++)
        __builtin_ia32_pause();
    tvm_code_lock(vm);
}

void cpu_run_out(struct tcpu *c)
{
    atomic_store(&c->run_state, RUN_OUT);
}

void cpu_run_in(struct tcpu *c)
{
    for (;;) {
        atomic_store(&c->run_state, RUN_IN);
        struct tcpu *owner = atomic_load(&c->vm->excl_owner);
        if (!owner || owner == c)
            return;
        uint32_t seq = atomic_load(&c->vm->excl_seq);
        atomic_store(&c->run_state, RUN_OUT);
        if (atomic_load(&c->vm->excl_owner))
            light_futex_wait(&c->vm->excl_seq, seq, NULL);
    }
}

void cpu_request(struct tcpu *c, uint32_t xr)
{
    atomic_fetch_or(&c->exit_request, xr);
    atomic_store(&c->jc_mask, 0);
    atomic_store(&c->return_bias, 1);
    struct userproc *proc = atomic_load(&c->direct_proc);
    if (proc)
        userproc_kick(proc);
    if (atomic_load(&c->sleeping)) {
        atomic_fetch_add(&c->wake_seq, 1);
        light_futex_wake(&c->wake_seq);
    }
}

struct tcpu *tvm_vcpu(struct tvm *vm, unsigned index)
{
    return index < vm->cpu_count ? vm->cpus[index] : NULL;
}
unsigned tvm_vcpu_count(const struct tvm *vm)
{
    return vm->cpu_count;
}
const struct cpuid_model *tvm_cpuid(const struct tvm *vm)
{
    return &vm->cpuid;
}
uint64_t tvm_tsc_khz(const struct tvm *vm)
{
    return vm->host_tsc_khz;
}
uint64_t cpu_host_tsc(void)
{
    uint32_t lo, hi;
    __asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
    return (uint64_t)hi << 32 | lo;
}

/* ---- called from translated code ---- */

static uint64_t code_address(const struct tcpu *c, unsigned off)
{
    uint64_t a = c->vpage + off;
    return c->code_bits == 64 ? a : a & 0xffffffffull;
}

/* Intel's store an 80-bit value in two pieces, and the first stays when the second one's page faults. */
static void keep_first_piece(struct tcpu *c, uint64_t lin, uint32_t desc)
{
    struct tcpu_exception exc = c->exc;
    uint64_t next = (lin & PAGE_MASK) + PAGE_SIZE;
    if (MMU_DESC_LEN(desc) == 10 && MMU_DESC_ACC(desc) != MMU_SLOW_R && !c->vm->cpuid.is_amd &&
        exc.vector == EXC_PF && exc.cr2 == next && lin + 8 <= next)
        mmu_write(c, lin, c->rehearsal, 8, MMU_AS_CPL);
    c->exc = exc;
}

/* The linear page of the block that called a stub, if it is of fixed address: such blocks do not keep vpage.
 */
static void learn_vpage(struct tcpu *c)
{
    struct code_cache *cc = c->vm->cache;
    if (c->mmu_idx == MMU_U || !c->fixed_ok)
        return;
    uint64_t back = *(const uint64_t *)(uintptr_t)c->jit_rsp;
    tvm_code_lock(c->vm);
    const struct tb *tb = cache_by_host(cc, (uint32_t)(back - 1 - (uint64_t)(uintptr_t)cc->mem.rx));
    tvm_code_unlock(c->vm);
    if (tb && (tb->mode & MODE_FIXED))
        c->vpage = (uint64_t)(int64_t)tb->vpage;
}

/* Past the end of a flat segment (5.3; Intel's do not look there if the base is 0) or of the lower canonical
 * half (3.3.7.1): looked at before the pages, but for x87's stores of ten bytes, whose significand goes first
 * (seen on Sapphire Rapids). AMD's look at the alignment of vectors first. False: an exception is pending. */
static bool inside_segment(struct tcpu *c, uint64_t lin, uint32_t desc)
{
    unsigned n = MMU_DESC_LEN(desc), fit = n;
    bool amd = c->vm->cpuid.is_amd, code64 = cpu_code64(c), write = MMU_DESC_ACC(desc) != MMU_SLOW_R;
    if (code64 ? cpu_canonical(lin) && !cpu_canonical(lin + n - 1)
               : amd && !(desc & MMU_DESC_LIMITED) && lin + n - 1 > 0xffffffffu)
        fit = amd || (n == 10 && write) ? whole_pieces(code64, lin, n, write) : 0;
    if (fit == n)
        return true;
    return mmu_probe(c, lin, fit, write ? MMU_WRITE : MMU_READ, MMU_AS_CPL) &&
           cpu_raise_error(c, MMU_DESC_STACK(desc) && !mmu_is_misaligned(lin, desc) ? EXC_SS : EXC_GP, 0);
}

/* XSAVE's area ends behind the last component that is asked for (SDM volume 1, 13.4). AMD's look at an area's
 * last byte first, and XRSTOR at the header before (seen on Zen 4). False: an exception is pending. */
static bool state_area(struct tcpu *c, uint64_t lin, uint32_t *desc)
{
    unsigned n = MMU_DESC_LEN(*desc);
    uint64_t mask = cpu_code64(c) ? ~0ull : 0xffffffffu;
    enum mmu_acc acc = MMU_DESC_ACC(*desc) == MMU_SLOW_R ? MMU_READ : MMU_WRITE;
    unsigned wanted = cpuid_model_xsave_size(&c->vm->cpuid, c->gpr[R_AX] & c->xcr0);
    if (n > wanted) {
        *desc = MMU_DESC_SHORTER(*desc, n - wanted);
        n = wanted;
    }
    if (!c->vm->cpuid.is_amd || mmu_is_misaligned(lin, *desc))
        return true;
    if (n > XSAVE_HEADER && acc == MMU_READ &&
        !mmu_probe(c, (lin + XSAVE_HEADER) & mask, 8, MMU_READ, MMU_AS_CPL))
        return false;
    return mmu_probe(c, (lin + n - 1) & mask, 1, acc, MMU_AS_CPL);
}

unsigned helper_mem(struct tcpu *c, uint64_t lin, uint32_t desc, void *out)
{
    enum mmu_answer a = MMU_ANS_FAULT;
    if (inside_segment(c, lin, desc) &&
        (likely(MMU_DESC_LEN(desc) < XSAVE_HEADER) || state_area(c, lin, &desc)))
        a = mmu_slow(c, lin, desc, out);
    if (a == MMU_ANS_DIRECT || (a == MMU_ANS_STAGED && MMU_DESC_ACC(desc) == MMU_SLOW_R))
        return a;
    learn_vpage(c);
    c->rip = code_address(c, MMU_DESC_OFF(desc));
    if (a == MMU_ANS_FAULT)
        keep_first_piece(c, lin, desc);
    return a;
}

/* When only the second page of what is stored faults, Intel's report the last byte that would be stored. */
static void blame_last_byte(struct tcpu *c, uint64_t lin, unsigned size, uint64_t elements)
{
    unsigned first = 0, last = 63;
    masked_stretch(elements, &first);
    while (!(elements >> last & 1))
        last--;
    uint64_t from = lin + first * size, to = lin + last * size + size - 1;
    if (!c->vm->cpuid.is_amd && ((from ^ to) & PAGE_MASK) && !((c->exc.cr2 ^ to) & PAGE_MASK))
        c->exc.cr2 = to;
}

/* n bytes of an operand at lin, the first of them at `at`, which may be past the end of what may be
 * addressed. */
static bool is_past_end(const struct tcpu *c, uint64_t lin, uint64_t at, unsigned n)
{
    return cpu_code64(c) ? cpu_canonical(lin) && !cpu_canonical(at + n - 1) : at + n - 1 > 0xffffffffu;
}

/* The n bytes at `at`, which belong to the operand at lin, as mmu_slow would see to them by themselves. Those
 * past the end of a flat segment do not wrap with AMD's. */
static bool masked_part(struct tcpu *c, uint64_t lin, uint64_t at, unsigned n, uint32_t desc)
{
    bool gone = c->vm->cpuid.is_amd && !(desc & MMU_DESC_LIMITED) && is_past_end(c, lin, at, n);
    if (gone)
        return cpu_raise_gp(c, 0);
    return inside_segment(c, cpu_code64(c) ? at : (uint32_t)at,
                          MMU_DESC_SHORTER(desc, MMU_DESC_LEN(desc) - n)) &&
           mmu_stage_part(c, lin, (unsigned)(at - lin), n,
                          MMU_DESC_ACC(desc) == MMU_SLOW_R ? MMU_READ : MMU_WRITE);
}

/* Element by element what the mask leaves of an access that is not plain RAM in one page. A stretch of them
 * is one part, but past the end of what may be addressed: there AMD's look at segment and page of one element
 * before the next. */
static enum mmu_answer masked_access(struct tcpu *c, uint64_t lin, uint32_t desc, struct mmu_slow *out)
{
    uint32_t m = (uint32_t)c->scratch[4];
    uint64_t elements = masked_elements(m, c->scratch[3]);
    unsigned size = MASKED_SIZE(m), first = 0, n;
    if (mmu_group(c, lin, desc, out))
        return MMU_ANS_DIRECT;
    for (; (n = masked_stretch(elements, &first)) > 0; first += n) {
        uint64_t at = lin + first * size;
        if (c->vm->cpuid.is_amd && is_past_end(c, lin, at, n * size))
            n = 1;
        if (masked_part(c, lin, at, n * size, desc))
            continue;
        if (MMU_DESC_ACC(desc) != MMU_SLOW_R && c->exc.vector == EXC_PF && MASKED_COUNT(m) > 1)
            blame_last_byte(c, lin, size, elements);
        if (mmu_is_misaligned(lin, desc))
            cpu_raise_gp(c, 0);
        else if (c->exc.vector == EXC_GP && MMU_DESC_STACK(desc))
            c->exc.vector = EXC_SS;
        return MMU_ANS_FAULT;
    }
    mmu_stage_elements(c, lin, size, elements, out);
    return MMU_ANS_STAGED;
}

unsigned helper_masked(struct tcpu *c, uint64_t lin, uint32_t desc, void *out)
{
    enum mmu_answer a = masked_access(c, lin, desc, out);
    if (a == MMU_ANS_FAULT) {
        learn_vpage(c);
        c->rip = code_address(c, MMU_DESC_OFF(desc));
    }
    return a;
}

/* One check for a group of accesses: all or nothing, and never an exception. */
unsigned helper_group(struct tcpu *c, uint64_t lin, uint32_t desc, void *out)
{
    return !mmu_group(c, lin, desc, out);
}

/* What an instruction in C asked of its own vCPU, as an IPI to itself, is seen to at once. */
static bool is_asked(const struct tcpu *c)
{
    return unlikely(atomic_load_explicit(&c->exit_request, memory_order_relaxed));
}

unsigned helper_commit(struct tcpu *c, uint32_t desc)
{
    bool changed = mmu_commit(c);
    if ((!changed && !is_asked(c)) || (desc & COMMIT_NO_EXIT))
        return 0;
    if (desc & COMMIT_HOST_FLAGS)
        c->fl = c->exit_fl;
    c->rip = code_address(c, desc & 0x1fff);
    return 1 + XIT_STEP;
}

static bool flat_segment(const struct x86_segment *s)
{
    return s->base == 0 && s->limit == 0xffffffffu && (s->attr & SEG_P);
}

/* Writable too, and not expanding down. */
static bool flat_data(const struct x86_segment *s)
{
    return flat_segment(s) && (s->attr & (SEG_CODE | SEG_CONFORM | SEG_RW)) == SEG_RW;
}

/* Whether blocks can be made for the present code: 64-bit, or 32-bit with flat segments. */
static bool translatable(const struct tcpu *c)
{
    if (c->code_bits == 64)
        return true;
    if (c->code_bits != 32 || cpu_v86(c))
        return false;
    const struct x86_segment *ss = &c->seg[S_SS];
    return flat_segment(&c->seg[S_CS]) && flat_data(&c->seg[S_DS]) && flat_data(&c->seg[S_ES]) &&
           flat_data(ss) && (ss->attr & SEG_DB);
}

/* Whether CR4 and XCR0 have switched all of these on. */
static bool has_state(const struct tcpu *c, uint64_t components)
{
    return (c->cr4 & CR4_OSXSAVE) && (c->xcr0 & components) == components;
}

uint32_t vcpu_mode(const struct tcpu *c)
{
    uint32_t m = c->mmu_idx | (c->code_bits == 64   ? 0u
                               : translatable(c)    ? 1u << MODE_BITS_SHIFT
                               : c->code_bits == 16 ? 2u << MODE_BITS_SHIFT
                                                    : 3u << MODE_BITS_SHIFT);
    if (c->cr0 & CR0_TS)
        m |= MODE_TS;
    if (c->cr0 & CR0_EM)
        m |= MODE_EM;
    if (c->cr4 & CR4_SMAP)
        m |= MODE_SMAP;
    if (!(c->cr4 & CR4_OSFXSR))
        m |= MODE_NO_SSE;
    if (!(c->cr4 & CR4_OSXSAVE))
        m |= MODE_NO_XSAVE | MODE_NO_AVX | MODE_NO_AVX512;
    else if (!has_state(c, XSTATE_SSE | XSTATE_AVX))
        m |= MODE_NO_AVX | MODE_NO_AVX512;
    else if (!has_state(c, XSTATE_AVX512))
        m |= MODE_NO_AVX512;
    return m;
}

static enum exit_reason reason_of(struct tcpu *c, enum step st)
{
    switch (st) {
    case STEP_FAULT: return c->need_exclusive ? XIT_EXCLUSIVE : XIT_EXC;
    case STEP_HALT: c->halted = !c->exc.pending; return XIT_STEP;
    case STEP_SHUTDOWN: return XIT_SHUTDOWN;
    case STEP_UNKNOWN: cpu_raise(c, EXC_UD); return XIT_EXC;
    default: return XIT_STEP;
    }
}

/* The instruction at rip runs into a second page that was not there when its block was made (`decode` in
 * translate.c says so by length 0), and is not the interpreter's: that page's fault, or if it has come
 * meanwhile, another look for a block. */
static enum exit_reason second_page(struct tcpu *c)
{
    uint64_t gpage;
    bool there = mmu_code_page(c, (c->rip & PAGE_MASK) + PAGE_SIZE, &gpage);

    if (!there && !c->exc.pending)
        cpu_raise(c, EXC_UD); /* outside RAM */
    return there ? XIT_LOOKUP : XIT_EXC;
}

unsigned helper_interp(struct tcpu *c, uint32_t desc)
{
    unsigned off = desc & 0xffff, len = desc >> 16;
    uint32_t mode = vcpu_mode(c), gen = c->flush_gen;
    uint64_t invalidated = c->counters[TC_INVALIDATED];
    c->rip = code_address(c, off);
    c->counters[TC_INTERP]++;
    enum step st = interp_step(c);
    if (st == STEP_UNKNOWN && len == 0)
        return 1 + (unsigned)second_page(c);
    if (st == STEP_NEXT && c->rip == code_address(c, off + len) && mode == vcpu_mode(c) &&
        gen == c->flush_gen && !c->int_shadow && !c->watch && !(c->rflags & FL_TF) &&
        invalidated == c->counters[TC_INVALIDATED] && !(c->intr_deferred && (c->rflags & FL_IF)) &&
        !is_asked(c))
        return 0;
    return 1 + (unsigned)reason_of(c, st);
}

/* An NMI that had to wait: its request is gone, and nobody asks again when it may come. */
static bool nmi_due(const struct tcpu *c)
{
    return unlikely(c->nmi_pending) && !c->nmi_masked && !c->int_shadow && !c->wait_sipi && !c->exc.pending;
}

/* RF keeps code breakpoints from being met again, and means nothing while there are none: the instruction
 * that an exception's handler returns to need not be run by itself. */
static void forget_rf(struct tcpu *c)
{
    if (!c->watch)
        c->rflags &= ~FL_RF;
}

/* What the dispatcher would do for 64-bit code that another such has just passed control to: nothing but to
 * enter a block. (exit_request is for who looks into the jump cache.) */
static bool goes_straight_on(struct tcpu *c)
{
    forget_rf(c);
    return c->code_bits == 64 && !(c->direct_wish && c->cpl == 3) && !c->watch && !(c->rflags & (FL_TF | FL_RF)) && !c->int_shadow &&
           !c->exc.pending && !c->one_block && !c->shadow && !nmi_due(c) &&
           !((c->rflags & FL_IF) && atomic_load_explicit(&c->intr_deferred, memory_order_relaxed));
}

/* Transfers between privilege levels, without decoding again. 0: to rip through the jump cache. */
unsigned helper_transfer(struct tcpu *c, uint32_t desc)
{
    enum step st;
    c->rip = code_address(c, desc & 0xffff);
    c->counters[TC_SPECIAL]++;
    switch ((enum special)(desc >> 16)) {
    case SPECIAL_SYSCALL: st = sys_syscall(c, c->rip + 2); break;
    case SPECIAL_IRETQ: st = sys_iret(c, 8); break;
    default:
        if (c->cpl) {
            cpu_raise_gp(c, 0);
            return 1 + XIT_EXC;
        }
        st = sys_sysret(c, desc >> 16 == SPECIAL_SYSRET64 ? 8 : 4);
    }
    return st == STEP_NEXT && goes_straight_on(c) ? 0 : 1 + (unsigned)reason_of(c, st);
}

/* c->exc is pending. 0: to its handler at rip through the jump cache. */
unsigned helper_exception(struct tcpu *c)
{
    if (c->code_bits != 64 || c->one_block || c->shadow)
        return 1 + XIT_EXC;
    c->counters[TC_EXCEPTIONS]++;
    if (sys_deliver_exception(c) == STEP_SHUTDOWN)
        return 1 + XIT_SHUTDOWN;
    return goes_straight_on(c) ? 0 : 1 + XIT_STEP;
}

/* x87, SSE or AVX that the present mode does not allow (SDM volume 3, 2.5 and 13.1; volume 2, 2.4 and 2.8),
 * or #UD. */
unsigned helper_special(struct tcpu *c, uint32_t desc)
{
    enum special what = desc >> 16;
    bool ts = c->cr0 & CR0_TS, em = c->cr0 & CR0_EM, ud;
    c->rip = code_address(c, desc & 0xffff);
    c->counters[TC_SPECIAL]++;
    if (what == SPECIAL_VEC_MEM || what == SPECIAL_MMX_MEM)
        return vcpu_vec_mem(c) ? 0 : 1 + XIT_EXC;
    if (what == SPECIAL_X87_POINTERS)
        return x87_show(c), 0;
    if (what == SPECIAL_GP) {
        cpu_raise_gp(c, 0);
        return 1 + XIT_EXC;
    }
    if (what == SPECIAL_SEGMENT)
        return 1 + XIT_SEGMENT;
    if (what == SPECIAL_INTERP)
        return 1 + (unsigned)reason_of(c, interp_step(c));
    switch (what) {
    case SPECIAL_FPU_X87:
        ud = false;
        ts = ts || em;
        break;
    case SPECIAL_FPU_MMX: ud = em; break;
    case SPECIAL_FPU_SSE: ud = em || !(c->cr4 & CR4_OSFXSR); break;
    case SPECIAL_FPU_AVX: ud = !has_state(c, XSTATE_SSE | XSTATE_AVX); break;
    case SPECIAL_FPU_AVX512: ud = !has_state(c, XSTATE_SSE | XSTATE_AVX | XSTATE_AVX512); break;
    case SPECIAL_FPU_XSAVE: ud = !(c->cr4 & CR4_OSXSAVE); break;
    default: ud = true;
    }
    cpu_raise(c, ud || !ts ? EXC_UD : EXC_NM);
    return 1 + XIT_EXC;
}

/* ---- one instruction at a time ---- */

/* The traps behind an instruction: a single step's if TF was set before it, and what breakpoints it met (SDM
 * volume 3, 18.3.1). Behind MOV SS they wait. One behind HLT ends it (volume 2, HLT). */
static void after_step(struct tcpu *c, bool tf, enum step st)
{
    bool step = tf && !c->no_step;
    if (st == STEP_FAULT || st == STEP_SHUTDOWN || st == STEP_UNKNOWN || c->exc.pending ||
        c->int_shadow == 2 || (!step && !c->debug_hits))
        return;
    sys_raise_trap(c, step);
}

uint64_t vcpu_linear_ip(const struct tcpu *c)
{
    return c->code_bits == 64 ? c->rip : (c->seg[S_CS].base + c->rip) & 0xffffffffu;
}

static bool is_done(enum exit_reason r)
{
    return r == XIT_LOOKUP || r == XIT_STEP;
}

/* native: the operand's segment is seen to here (native.c), the block takes the linear address. */
static enum exit_reason vector_block(struct tcpu *c, bool native)
{
    uint64_t rip = c->rip;
    uint32_t mode = vcpu_mode(c) | MODE_ONE | (native ? MODE_NATIVE : 0);
    unsigned len = 0;
    if ((native || c->watch) && !vcpu_native_prepare(c, &len))
        return XIT_EXC;
    if (native)
        c->rip = vcpu_linear_ip(c);
    enum exit_reason r = vcpu_run_block(c, mode);
    if (native)
        c->rip = is_done(r) ? (rip + len) & (c->code_bits == 16 ? 0xffffu : 0xffffffffu) : rip;
    return r;
}

/* x87, SSE and the like, which the general path does not know: one instruction in a block of its own. */
static enum exit_reason vector_step(struct tcpu *c, bool tf)
{
    enum exit_reason r = vector_block(c, !translatable(c));
    if (r == XIT_SEGMENT)
        r = vector_block(c, true);
    if (is_done(r)) {
        c->rflags &= ~FL_RF;
        after_step(c, tf, STEP_NEXT);
    }
    return r;
}

static enum exit_reason single_step(struct tcpu *c)
{
    bool tf = c->rflags & FL_TF;
    uint64_t rip = c->rip, next = 0;
    if (unlikely(c->watch & WATCH_CODE) && c->int_shadow != 2 && !(c->rflags & FL_RF) && !sys_watch_code(c))
        return XIT_EXC;
    if (c->int_shadow != 2)
        c->debug_hits = 0;
    c->int_shadow = c->no_step = 0;
    c->counters[TC_INTERP]++;
    bool btf = unlikely(tf && c->debugctl) && sys_branch_step(c, &next);
    enum step st = interp_step(c);
    if (st == STEP_UNKNOWN)
        return vector_step(c, tf && !(c->debugctl & DEBUGCTL_BTF)); /* none of them branches */
    if (btf && (c->rip == next || c->rip == rip))
        tf = false;
    after_step(c, tf, st);
    return reason_of(c, st);
}

/* ---- blocks ---- */

/* The block for rip. NULL: an exception is pending, or (none pending) the code is not in RAM. */
static struct tb *find_block(struct tcpu *c, uint32_t mode)
{
    uint64_t gpage, gpage2 = ~0ull, vpage = c->rip & PAGE_MASK;
    unsigned off = (unsigned)(c->rip & ~PAGE_MASK);
    if (c->code_bits == 64 && !cpu_canonical(c->rip))
        return cpu_raise_gp(c, 0), NULL;
    if (!mmu_code_page(c, vpage, &gpage)) {
        if (c->exc.pending && c->exc.vector == EXC_PF)
            c->exc.cr2 = c->rip;
        return NULL;
    }
    if (!(mode & MODE_ONE) && fixed_wanted(c, vpage))
        mode |= MODE_FIXED;
    struct tb *tb = cache_find(c->vm->cache, gpage, off, mode, vpage);
    c->counters[TC_LOOKUPS]++;
    if (tb && tb_is_local(tb))
        return tb;
    if (off > PAGE_SIZE - 15) {
        if (!mmu_code_page(c, vpage + PAGE_SIZE, &gpage2))
            c->exc.pending = 0;
        if (tb && tb_gpage2(tb) == gpage2) /* also: the second page is still not there */
            return tb;
    }
    tb = vcpu_translate(c, gpage, gpage2, mode);
    if ((mode & MODE_FIXED) && !c->fixed_ok) /* the root was given up meanwhile */
        return find_block(c, mode & ~MODE_FIXED);
    return tb;
}

/* Jumps of translated code that can be patched to the block they want. */
static void patch_link(struct tcpu *c, uint64_t arg, struct tb *tb, uint32_t gen)
{
    struct code_cache *cc = c->vm->cache;
    tvm_code_lock(c->vm);
    if (gen == atomic_load(&cc->flush_gen) && tb_is_local(tb) && !atomic_load(&tb->dead) &&
        cache_link_jump(cc, (uint32_t)arg, tb))
        c->counters[TC_LINKS]++;
    tvm_code_unlock(c->vm);
}

/* A dead block was entered: from now on its entry leads to its successor. */
static void patch_stale(struct tcpu *c, struct tb *dead, struct tb *tb, uint32_t gen)
{
    struct code_cache *cc = c->vm->cache;
    tvm_code_lock(c->vm);
    if (gen == atomic_load(&cc->flush_gen) && tb->frame == dead->frame && tb->vpage == dead->vpage &&
        tb_is_local(tb) && !atomic_load(&tb->dead))
        cache_lead_on(cc, dead, tb);
    tvm_code_unlock(c->vm);
}

/* Host signal inside a block (SDM volume 3, chapter 6 for the vectors; the host's trap number is the guest's
 * vector). */
static enum exit_reason take_signal(struct tcpu *c)
{
    struct code_cache *cc = c->vm->cache;
    const struct tb_side *side = NULL;
    uint32_t off = (uint32_t)(c->fault_rip - (uint64_t)(uintptr_t)cc->mem.rx);
    c->counters[TC_SIGNALS]++;
    tvm_code_lock(c->vm);
    struct tb *tb = cache_by_host(cc, off);
    if (tb)
        side = cache_side_of(cc, tb, off);
    tvm_code_unlock(c->vm);
    if (!tb || !side)
        return XIT_SIGNAL;
    if (tb->mode & MODE_FIXED)
        c->vpage = (uint64_t)(int64_t)tb->vpage;
    c->rip = code_address(c, side->off);
    if (side->host_flags)
        c->fl = c->exit_fl;
    if (c->fault_trap == EXC_PF && c->fault_address - (uint64_t)(uintptr_t)c->return_stack < PAGE_SIZE)
        return XIT_POLL; /* the return stack is full: a new one begins */
    switch (c->fault_trap) {
    case EXC_DE:
    case EXC_UD:
    case EXC_MF:
    case EXC_XM: cpu_raise(c, c->fault_trap); return XIT_EXC;
    case EXC_GP: cpu_raise_gp(c, 0); return XIT_EXC;
    default: return XIT_SIGNAL;
    }
}

/* An indirect branch that the jump cache does not know. One to an address that is not canonical faults at the
 * branch itself, which has changed nothing but RSP so far. */
static enum exit_reason take_branch(struct tcpu *c, uint32_t desc)
{
    if (c->code_bits != 64 || cpu_canonical(c->rip))
        return XIT_LOOKUP;
    c->rip = code_address(c, BRANCH_DESC_OFF(desc));
    c->gpr[R_SP] -= BRANCH_DESC_POP(desc);
    cpu_raise_gp(c, 0);
    return XIT_EXC;
}

/* Runs blocks from rip until something other than finding the next block is to be done. */
enum exit_reason vcpu_run_block(struct tcpu *c, uint32_t mode)
{
    struct code_cache *cc = c->vm->cache;
    uint32_t key =
        (mode & ~(uint32_t)(MODE_IDX | MODE_HOST_FLAGS | MODE_ONE)) | (c->fixed_ok ? MODE_FIXED : 0);
    if (c->jc_mode[c->mmu_idx] != key) {
        mmu_flush_jump_cache(c);
        for (unsigned i = 0; i < MMU_COUNT; i++)
            c->jc_mode[i] = key;
    }
    c->one_block = (mode & MODE_ONE) != 0;
    struct jc_entry *known = &c->jc[c->mmu_idx][jc_hash(c->rip)];
    const void *host = (const void *)(uintptr_t)known->host;
    struct tb *tb;
    if (known->pc != c->rip || (mode & MODE_ONE)) {
        tb = find_block(c, mode);
        if (!tb)
            return c->exc.pending ? XIT_EXC : XIT_NOCODE;
        if (!(mode & MODE_ONE) && tb->len && !c->shadow)
            jc_put(c, c->mmu_idx, c->rip, (uint64_t)(uintptr_t)cache_rx(cc, tb->hot));
        host = cache_rx(cc, tb->hot);
    }
    for (;;) {
        uint32_t gen = atomic_load(&cc->flush_gen);
        c->vpage = c->rip & PAGE_MASK;
        cc->stubs.enter[c->mmu_idx](c, host);
        enum exit_reason why = c->exit_reason;
        struct tb *dead = NULL;
        uint64_t arg = c->exit_arg;
        if (why == XIT_SIGNAL)
            return take_signal(c);
        if (why == XIT_BRANCH)
            return take_branch(c, (uint32_t)arg);
        if (why != XIT_LINK && why != XIT_FIXED_LINK && why != XIT_STALE)
            return why;
        uint32_t bits = why == XIT_FIXED_LINK ? c->exit_bits : (uint32_t)(arg >> 48);
        if (why == XIT_STALE) {
            tvm_code_lock(c->vm);
            dead = cache_by_host(cc, (uint32_t)(arg - 5 - (uint64_t)(uintptr_t)cc->mem.rx));
            tvm_code_unlock(c->vm);
            bits = dead->mode & (MODE_HOST_FLAGS | MODE_NO_GROUP);
            arg = (uint64_t)dead->off << 32;
            if (dead->mode & MODE_FIXED)
                c->vpage = (uint64_t)(int64_t)dead->vpage;
        }
        c->rip = why == XIT_FIXED_LINK ? (uint64_t)((int64_t)arg >> 32)
                                       : code_address(c, (unsigned)(arg >> 32) & 0xffff);
        if (bits & MODE_HOST_FLAGS)
            c->fl = c->exit_fl;
        if (atomic_load(&c->exit_request))
            return XIT_LOOKUP;
        if (unlikely(c->shadow != NULL) &&
            !(bits & MODE_NO_GROUP)) /* one at a time; that bit: the rest of one */
            return XIT_LOOKUP;
        mode = (mode & ~MODE_IDX) | c->mmu_idx; /* translated code changes it */
        tb = find_block(c, mode | (bits & ~FIXED_SAME_PAGE));
        if (!tb)
            return c->exc.pending ? XIT_EXC : XIT_NOCODE;
        if (dead)
            patch_stale(c, dead, tb, gen);
        else if (why == XIT_FIXED_LINK)
            fixed_link(c, (uint32_t)arg, tb, gen, (bits & FIXED_SAME_PAGE) != 0);
        else
            patch_link(c, arg, tb, gen);
        host = cache_rx(cc, tb->hot);
    }
}

/* ---- requests ---- */

static bool interruptible(const struct tcpu *c)
{
    return (c->rflags & FL_IF) && !c->int_shadow;
}

static enum step take_interrupt(struct tcpu *c)
{
    int v = lapic_pending(c->lapic);
    bool external = v < 0 && unlikely(atomic_load_explicit(&c->vm->intr, memory_order_relaxed)) &&
                    lapic_takes_extint(c->lapic);
    if (v < 0 && !external)
        return STEP_NEXT;
    if (!interruptible(c)) {
        atomic_store(&c->intr_deferred, XR_INTR);
        return STEP_NEXT;
    }
    v = external ? vcpu_acknowledge(c) : lapic_ack(c->lapic);
    if (v < 0)
        return STEP_NEXT;
    c->halted = 0;
    c->counters[TC_INTERRUPTS]++;
    atomic_store(&c->intr_deferred, XR_INTR); /* look for the next one when this one's handler allows it */
    return sys_deliver_interrupt(c, (unsigned)v);
}

/* Sees to exit_request. Returns false if run() must return; *kind says why. */
static bool service(struct tcpu *c, enum exit_kind *kind)
{
    uint32_t req = atomic_exchange(&c->exit_request, 0);
    enum step st = STEP_NEXT;
    if (req & XR_WORK) { /* let an exclusive section have its turn */
        cpu_run_out(c);
        cpu_run_in(c);
    }
    if (req & XR_INIT)
        sys_init(c);
    if ((req & XR_SIPI) && c->wait_sipi) {
        c->wait_sipi = 0;
        sys_sipi(c, c->sipi_vector);
    }
    if (req & XR_TIMER) {
        sys_late_look(c);
        lapic_timer_expired(c->lapic);
    }
    if (req & XR_NMI)
        c->nmi_pending = 1;
    if (!c->wait_sipi) {
        if (c->nmi_pending && !c->nmi_masked && !c->int_shadow && !c->exc.pending) {
            c->nmi_pending = 0;
            c->halted = 0;
            if (req & (XR_INTR | XR_TIMER)) /* its turn comes */
                atomic_store(&c->intr_deferred, XR_INTR);
            st = sys_deliver_nmi(c);
        } else if ((req & (XR_INTR | XR_TIMER)) && !c->exc.pending) {
            st = take_interrupt(c);
        } else if (req & (XR_INTR | XR_TIMER)) {
            atomic_store(&c->intr_deferred, XR_INTR);
        }
    }
    if (st == STEP_SHUTDOWN) {
        *kind = EXIT_SHUTDOWN;
        return false;
    }
    if (req & XR_KICK) {
        *kind = EXIT_KICKED;
        return false;
    }
    return true;
}

/* A halted vCPU looks for requests for a while before it sleeps, since waking a thread costs the host more
 * than most guests wait when their vCPUs talk to each other. How long is learned as KVM does
 * (Documentation/virt/kvm/ halt-polling.rst): short halts that outlasted the spinning double it, a long one
 * ends it, so that an idle guest does not spin. */
#define HALT_SPIN_START_US 10
#define HALT_SPIN_MAX_US 200

static bool spin_for_request(struct tcpu *c, uint64_t since)
{
    for (unsigned turns = 1; cpu_host_tsc() - since < c->halt_spin; turns++) {
        if (atomic_load_explicit(&c->exit_request, memory_order_relaxed))
            return true;
        if (turns % 64 == 0)
            light_yield(); /* the thread that will end the halt may want this CPU */
        __builtin_ia32_pause();
    }
    return false;
}

static void learn_halt_spin(struct tcpu *c, uint64_t halted)
{
    uint64_t us = c->vm->host_tsc_khz / 1000, most = HALT_SPIN_MAX_US * us;
    if (halted > 2 * most) /* twice, for the time that waking took is part of it */
        c->halt_spin = 0;
    else if (halted > c->halt_spin)
        c->halt_spin = min_u64(c->halt_spin ? 2 * c->halt_spin : HALT_SPIN_START_US * us, most);
}

/* Sleeps until cpu_request has counted wake_seq on from `seq`; `most` may be NULL. RUN_OUT. */
static void sleep_for_request(struct tcpu *c, uint32_t seq, const struct timespec *most)
{
    atomic_store(&c->sleeping, 1);
    if (!atomic_load(&c->exit_request))
        light_futex_wait(&c->wake_seq, seq, most);
    atomic_store(&c->sleeping, 0);
}

static void sleep_until_request(struct tcpu *c)
{
    uint64_t since = cpu_host_tsc();
    c->counters[TC_HALTS]++;
    uint32_t seq = atomic_load(&c->wake_seq);
    if (c->direct_seated)
        vcpu_direct_rest(c);
    cpu_run_out(c);
    if (spin_for_request(c, since)) {
        cpu_run_in(c);
        return;
    }
    sleep_for_request(c, seq, NULL);
    learn_halt_spin(c, cpu_host_tsc() - since);
    cpu_run_in(c);
}

/* A kernel that waits for another vCPU in a loop of PAUSEs (for a lock, or for an interrupt to be
 * acknowledged) waits long only if that one's thread is not running, and the host CPU that it lacks may be
 * the one that this loop keeps. So a vCPU that has spun for SPIN_LONG_US sleeps for SPIN_SLEEP_NS between any
 * two looks, unless there is something to do. It does not yield: sched_yield gives up the rest of the
 * thread's share, and the vCPU would then be the one that others wait for. Code at CPL 0 alone, as with
 * Intel's pause-loop exiting: programs that spin want to answer at once. */
#define PAUSES 64        /* from look to look */
#define PAUSE_GAP_NS 200 /* most from one to the next, on average, in a loop that does nothing else */
#define SPIN_LONG_US 50
#define SPIN_SLEEP_NS 50000

static void pause_look(struct tcpu *c)
{
    static const struct timespec most = { .tv_nsec = SPIN_SLEEP_NS };
    uint64_t khz = c->vm->host_tsc_khz, now = cpu_host_tsc(), since = now - c->pause_seen;
    uint32_t seq = atomic_load(&c->wake_seq);
    c->pauses_left = PAUSES;
    c->pause_seen = now;
    c->pause_spun = since <= PAUSES * PAUSE_GAP_NS * khz / 1000000 ? c->pause_spun + since : 0;
    if (c->pause_spun < SPIN_LONG_US * khz / 1000)
        return;
    c->counters[TC_SPINS]++;
    cpu_run_out(c);
    sleep_for_request(c, seq, &most);
    cpu_run_in(c);
    c->pause_seen = cpu_host_tsc();
}

static enum exit_reason run_shadowed(struct tcpu *c)
{
    uint32_t mode = vcpu_mode(c);
    struct tb *tb = find_block(c, mode);

    if (!tb)
        return c->exc.pending ? XIT_EXC : XIT_NOCODE;
    return shadow_run_block(c, mode, cache_facts(c->vm->cache, tb));
}

/* ---- the loop ---- */

static bool handle(struct tcpu *c, enum exit_reason why, enum exit_kind *kind)
{
    switch (why) {
    case XIT_SHUTDOWN: *kind = EXIT_SHUTDOWN; return false;
    case XIT_SIGNAL:
    case XIT_LOST: *kind = EXIT_FAULT; return false;
    case XIT_EXCLUSIVE: c->need_exclusive = 0; return handle(c, vcpu_step_exclusive(c), kind);
    case XIT_POLL:
        c->counters[TC_POLL_EXITS]++;
        if (c->pauses_left < 0)
            pause_look(c);
        return true;
    default: return true;
    }
}

enum exit_reason vcpu_single_step(struct tcpu *c)
{
    return single_step(c);
}

/* Before exit_request is looked at: a request that comes behind that look ends what this begins. One that has
 * been seen to already may still end it; then translated code leaves for nothing, once. */
static void let_jump(struct tcpu *c)
{
    if (atomic_load_explicit(&c->jc_mask, memory_order_relaxed) == 0 ||
        atomic_load_explicit(&c->return_bias, memory_order_relaxed)) {
        atomic_store(&c->jc_mask, JC_MASK);
        atomic_store(&c->return_bias, 0);
    }
}

/* User code that may run directly. False: it is the translated code's turn. */
static bool run_direct(struct tcpu *c, enum exit_reason *why)
{
    *why = XIT_LOOKUP;
    if (c->direct_skip) {
        c->direct_skip--;
        return false;
    }
    switch (vcpu_direct(c)) {
    case DIRECT_REQUEST: return true;
    case DIRECT_SYSCALL:
    case DIRECT_STEP: *why = single_step(c); return true;
    case DIRECT_DEBUG: sys_raise_trap(c, true); return true;
    case DIRECT_LOST: *why = XIT_LOST; return true;
    case DIRECT_TRANSLATE: return false;
    case DIRECT_EXCURSION: break;
    }
    atomic_store(&c->jc_mask, 0); /* translated code leaves soon, as if it were asked to (cpu_request) */
    atomic_store(&c->return_bias, 1);
    return false;
}

enum exit_kind vcpu_loop(struct tcpu *c)
{
    enum exit_kind kind = EXIT_KICKED;
    for (;;) {
        let_jump(c);
        if (atomic_load(&c->intr_deferred) && interruptible(c)) {
            atomic_store(&c->intr_deferred, 0);
            atomic_fetch_or(&c->exit_request, XR_INTR);
        }
        if ((atomic_load(&c->exit_request) || nmi_due(c)) && !service(c, &kind))
            return kind;
        if (unlikely(atomic_load_explicit(&c->sample_count, memory_order_relaxed)))
            vcpu_samples(c);
        if (c->exc.pending) {
            c->counters[TC_EXCEPTIONS]++;
            if (sys_deliver_exception(c) == STEP_SHUTDOWN)
                return EXIT_SHUTDOWN;
            continue;
        }
        if (c->halted || c->wait_sipi) {
            if (!atomic_load(&c->exit_request))
                sleep_until_request(c);
            continue;
        }
        enum exit_reason why;
        forget_rf(c);
        if (c->int_shadow || c->watch || (c->rflags & (FL_TF | FL_RF)) || !translatable(c)) {
            why = single_step(c);
        } else if (!c->direct_wish || !direct_may_run(c) || !run_direct(c, &why)) {
            why = c->shadow ? run_shadowed(c) : vcpu_run_block(c, vcpu_mode(c));
            if (why == XIT_ONE)
                why = vcpu_run_block(c, vcpu_mode(c) | MODE_ONE);
            if (why == XIT_NOCODE || why == XIT_SEGMENT)
                why = single_step(c);
        }
        if (!handle(c, why, &kind))
            return kind;
    }
}
