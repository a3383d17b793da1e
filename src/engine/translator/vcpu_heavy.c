/* The heavy side of a vCPU: what calls libc or the machine while a guest runs. Light code calls these
 * functions inside cpu_heavy_begin and cpu_heavy_end (light_host.c). */
#include "engine/translator/direct.h"
#include "engine/translator/mmu.h"
#include "engine/translator/perf_map.h"
#include "engine/translator/shadow.h"
#include "engine/translator/sys.h"
#include "engine/translator/vcpu.h"

void heavy_io(struct tcpu *c, bool port, bool write, uint64_t addr, unsigned width, uint64_t *value)
{
    struct exit x = { .kind = port ? EXIT_PORT : EXIT_MMIO,
                      .addr = addr,
                      .data = write ? *value : 0,
                      .width = (uint8_t)width,
                      .is_write = write,
                      .rip = c->rip };
    c->counters[TC_IO]++;
    c->vm->cfg.host.io(c->vm->cfg.host.ctx, c->index, &x);
    *value = width < 8 ? x.data & ((1ull << (width * 8)) - 1) : x.data;
}

uint8_t heavy_acknowledge(struct tcpu *c)
{
    return c->vm->cfg.host.acknowledge(c->vm->cfg.host.ctx);
}

void tvm_eoi(struct tvm *vm, unsigned vector)
{
    if (vm->cfg.host.eoi)
        vm->cfg.host.eoi(vm->cfg.host.ctx, vector);
}

void tvm_exclusive_begin(struct tvm *vm, struct tcpu *c)
{
    BUG_ON(c && atomic_load(&c->run_state) != RUN_OUT);
    pthread_mutex_lock(&vm->excl_lock);
    atomic_store(&vm->excl_owner, c);
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        struct tcpu *o = vm->cpus[i];
        if (o == c)
            continue;
        for (unsigned spins = 0; atomic_load(&o->run_state) == RUN_IN; spins++) {
            if (spins == 0)
                cpu_request(o, XR_WORK);
            __builtin_ia32_pause();
            if ((spins & 127) == 127)
                sched_yield();
        }
    }
}

void tvm_exclusive_end(struct tvm *vm, struct tcpu *c)
{
    if (c)
        c->counters[TC_EXCLUSIVE]++;
    atomic_store(&vm->excl_owner, NULL);
    atomic_fetch_add(&vm->excl_seq, 1);
    tvm_futex_wake_all(&vm->excl_seq);
    pthread_mutex_unlock(&vm->excl_lock);
}

/* Says where the two ways first differed. */
void heavy_shadow_differs(struct tcpu *c, const struct shadow_regs *start, const struct shadow_regs *general,
                          const struct shadow_regs *translated, const struct shadow_write *store,
                          uint64_t flags)
{
    static const char *const names[16] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                           "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15" };
    const struct log *log = c->vm->cfg.log;

    log_line(log, LOG_CPU, "shadow: the block at %#llx differs from the general path",
             (unsigned long long)start->rip);
    for (unsigned i = 0; i < 16; i++) {
        if (general->gpr[i] != translated->gpr[i])
            log_line(log, LOG_CPU, "shadow: %s: general path %#llx, translated %#llx, before %#llx", names[i],
                     (unsigned long long)general->gpr[i], (unsigned long long)translated->gpr[i],
                     (unsigned long long)start->gpr[i]);
    }
    if (general->rip != translated->rip)
        log_line(log, LOG_CPU, "shadow: rip: general path %#llx, translated %#llx",
                 (unsigned long long)general->rip, (unsigned long long)translated->rip);
    if ((general->rflags ^ translated->rflags) & flags)
        log_line(log, LOG_CPU, "shadow: rflags: general path %#llx, translated %#llx",
                 (unsigned long long)general->rflags, (unsigned long long)translated->rflags);
    for (unsigned k = 0; k < store->len; k++)
        if (store->at[k] != store->after[k])
            log_line(log, LOG_CPU, "shadow: stored byte %u of %u: general path %#x, translated %#x", k,
                     store->len, store->at[k], store->after[k]);
}

/* A hidden block made again to be fast. Whoever enters the old one is sent on. False: no room; the next block
 * that is made finds that out. */
static bool make_fast(struct tcpu *c, struct tb *old)
{
    struct tvm *vm = c->vm;
    struct code_cache *cc = vm->cache;
    uint64_t gpage = tb_gpage(old), vpage = old->mode & MODE_FIXED ? (uint64_t)(int64_t)old->vpage : 0;
    struct tb *tb = cache_find(cc, gpage, old->off, old->mode, vpage); /* another vCPU may have been here */

    if (!tb) {
        translate_look(c, gpage, old->off, ~0ull, old->mode, vpage, false);
        tb = translate_finish(c);
        if (!tb)
            return false;
        c->counters[TC_BLOCKS_FAST]++;
        if (vm->perf_map)
            perf_map_add(vm->perf_map, cache_rx(cc, tb->hot), cache_hot_len(cc, tb), vpage | tb->off);
    }
    cache_retire(vm, old);
    cache_lead_on(cc, old, tb);
    return true;
}

/* What runs long enough to be met by a sample is in a page worth being fast, all that ever ran of it: code
 * that belongs together stands together. First all are hidden, so that new blocks do not find old ones to
 * jump to; those that cannot be made come back. A page has hundreds of blocks, so others get the lock in
 * between; what they kill meanwhile is not hidden any more, and a page that lost all its blocks is no code
 * page. */
static void make_page_fast(struct tcpu *c, uint64_t gpage)
{
    struct page_info *p = tvm_page(c->vm, gpage);
    struct code_cache *cc = c->vm->cache;
    bool room = true;

    for (struct tb *tb = cache_first_in(cc, p); tb; tb = cache_next_in(cc, tb)) {
        if (tb->small && tb_is_local(tb) && !atomic_load(&tb->dead))
            atomic_store(&tb->dead, TB_HIDDEN);
    }
    for (struct tb *tb = cache_first_in(cc, p), *next; tb; tb = next) {
        next = cache_next_in(cc, tb);
        if (atomic_load(&tb->dead) != TB_HIDDEN)
            continue;
        room = room && make_fast(c, tb);
        if (!room)
            atomic_store(&tb->dead, TB_LIVES);
        else
            tvm_code_give(c->vm);
        if (!atomic_load(&p->code))
            return;
    }
    cache_sweep(c->vm, gpage);
}

#define MUCH_NEW_CODE_NS 1000000000ull

/* While new code fills the cache, once is chance: a program with much code, none of it hot, would crowd it
 * with fast blocks. */
static bool is_met_enough(const struct code_cache *cc, struct page_info *p)
{
    bool once = cpu_now_ns() - cc->segment_begun > MUCH_NEW_CODE_NS;

    unsigned samples = p->samples;
    if (samples < PAGE_FAST)
        p->samples = once ? PAGE_FAST : (samples + 1) & 3;
    return p->samples == PAGE_FAST;
}

bool heavy_samples(struct tcpu *c)
{
    struct code_cache *cc = c->vm->cache;
    uint64_t made = c->counters[TC_BLOCKS_FAST];
    if (c->direct_seated && heavy_direct_is_over(c))
        heavy_direct_rest(c);
    tvm_code_lock(c->vm);
    uint32_t n = atomic_load(&c->sample_count);
    for (uint32_t i = 0; i < n && c->sample_gen == atomic_load(&cc->flush_gen); i++) {
        const struct tb *tb = cache_by_host(cc, c->samples[i]);
        if (tb && (tb->mode & MODE_IDX) == MMU_U)
            direct_sampled(c, tb_gpage(tb));
        if (tb && tb->small && !atomic_load(&tb->dead) && is_met_enough(cc, tvm_page(c->vm, tb_gpage(tb))))
            make_page_fast(c, tb_gpage(tb));
    }
    c->sample_gen = atomic_load(&cc->flush_gen);
    atomic_store(&c->sample_count, 0);
    tvm_code_unlock(c->vm);
    return made != c->counters[TC_BLOCKS_FAST];
}

/* Makes the block, and room for it if there is none. */
struct tb *heavy_translate(struct tcpu *c, uint64_t gpage, uint64_t gpage2, uint32_t mode)
{
    uint64_t vpage = c->rip & PAGE_MASK;
    unsigned off = (unsigned)(c->rip & ~PAGE_MASK);
    struct tvm *vm = c->vm;
    struct tb *tb = NULL;
    while (!tb) {
        cache_mark_code(vm, c, gpage);
        if (gpage2 != ~0ull)
            cache_mark_code(vm, c, gpage2);
        translate_look(c, gpage, off, gpage2, mode, vpage,
                       !vm->cfg.options.fast_blocks && tvm_page(vm, gpage)->samples < PAGE_FAST);
        tvm_code_lock(vm);
        tb = cache_find(vm->cache, gpage, off, mode, vpage);
        if (tb && !tb_is_local(tb) && tb_gpage2(tb) != gpage2) { /* its second page is another now */
            cache_kill(vm, tb);
            tb = NULL;
        }
        /* A kill between marking and locking may have taken the mark away again. */
        bool marked = atomic_load(&tvm_page(vm, gpage)->code) == PAGE_IS_CODE &&
                      (gpage2 == ~0ull || atomic_load(&tvm_page(vm, gpage2)->code) == PAGE_IS_CODE);
        uint32_t gen = atomic_load(&vm->cache->flush_gen);
        c->translate_gen = gen;
        bool full = false;
        const void *made = NULL;
        uint32_t made_len = 0;
        if (!tb && marked && translate_is_current(c)) {
            tb = translate_finish(c);
            full = !tb && !cache_next_segment(vm->cache);
            if (tb) {
                c->counters[TC_BLOCKS]++;
                c->counters[TC_BLOCK_INSNS] += translate_insns(c);
                made = cache_rx(vm->cache, tb->hot);
                made_len = cache_hot_len(vm->cache, tb);
            }
        }
        tvm_code_unlock(vm);
        if (made && vm->perf_map)
            perf_map_add(vm->perf_map, made, made_len, c->rip);
        if (full) {
            tvm_exclusive_begin(vm, c);
            if (gen == atomic_load(&vm->cache->flush_gen)) {
                cache_evict(vm);
                c->counters[TC_EVICTIONS]++;
            }
            tvm_exclusive_end(vm, c);
        }
    }
    return tb;
}
