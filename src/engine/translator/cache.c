/* The code cache.
 *
 * Theory of operation. One stretch of executable memory, mapped twice (writable and executable), is cut into
 * a hot part, where blocks follow each other in order of translation, and a cold part for their slow paths. A
 * block is guest code of one physical page translated under one mode (MODE_*): it does not know its linear
 * address (tcpu.vpage does), so that all processes share the translation of a library's page. Blocks are
 * found by physical page, offset and mode in a hash table that is read without lock; the jump cache of each
 * vCPU answers indirect branches by linear address before that.
 *
 * Blocks never move. Their memory is reused when the segment that they are in is emptied to make room
 * (cache_evict.c), inside an exclusive section, when no vCPU is in translated code. A block dies when its
 * guest bytes change: it leaves the hash table, its pages' lists are swept of the dead, and the five-byte NOP
 * at its entry is overwritten, with one aligned store, by a call of the stale stub. So nobody has to find the
 * jumps and jump-cache entries that lead to it: who follows one ends in the dispatcher, which patches the
 * entry once more into a jump to the new translation. Only where code itself goes must jumps be found, so
 * those from one segment into another are noted.
 *
 * code_lock covers everything that changes: hash, lists, side table, positions, patching. Stores to code
 * pages are made under it, and so is what is made of guest bytes: they are decoded before, but compared with
 * what is there under the lock (translate_is_current). So a block either saw the new bytes or is killed. */
#include "engine/translator/cache.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/translator/fixed.h"
#include "engine/translator/mmu.h"
#include "util/err.h"

static void *reserve(size_t len)
{
    void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

#define SEGMENT_MIN (256u << 10)
#define SIZE_FOR_LARGE MIB(8) /* less gets no large pages; in more none is in both parts */

/* The memory behind the stubs, and the tables, into segments. */
static bool divide(struct code_cache *cc)
{
    size_t size = cc->mem.size;
    cc->hot_end = align_down(size * 3 / 4, size < SIZE_FOR_LARGE ? PAGE_SIZE : JITMEM_LARGE);
    cc->segment_count = (unsigned)min_u64(size / SEGMENT_MIN, CACHE_SEGMENTS);
    cc->segment_hot = (uint32_t)align_down((cc->hot_end - cc->stub_len) / cc->segment_count, 64);
    cc->segment_cold = (uint32_t)align_down((size - cc->hot_end) / cc->segment_count, 64);
    cc->segment_tbs = (uint32_t)(size / 160 / cc->segment_count);
    cc->segment_sides = (uint32_t)(size / 64 / cc->segment_count);
    cc->jump_max = (uint32_t)(size / 128);
    cc->segment_begun = cpu_now_ns();
    for (unsigned i = 0; i < cc->segment_count; i++) {
        struct cache_segment *s = &cc->segments[i];
        s->hot = s->hot_pos = (uint32_t)cc->stub_len + i * cc->segment_hot;
        s->cold = s->cold_pos = (uint32_t)cc->hot_end + i * cc->segment_cold;
    }
    cc->tbs = reserve((size_t)cc->segment_count * cc->segment_tbs * sizeof *cc->tbs);
    cc->facts = reserve((size_t)cc->segment_count * cc->segment_tbs * sizeof *cc->facts);
    cc->side = reserve((size_t)cc->segment_count * cc->segment_sides * sizeof *cc->side);
    cc->jumps = reserve(cc->jump_max * sizeof *cc->jumps);
    cc->fixed = reserve(sizeof *cc->fixed);
    return cc->tbs && cc->facts && cc->side && cc->jumps && cc->fixed;
}

struct code_cache *cache_new(size_t size, struct large_worker *worker, struct yado_error *err)
{
    struct code_cache *cc = reserve(sizeof *cc);
    if (!cc) {
        err_set(err, YADO_ERR_MEMORY, "translator: no memory for the code cache");
        return NULL;
    }
    if (!jitmem_open(&cc->mem, size, err)) {
        munmap(cc, sizeof *cc);
        return NULL;
    }
    stubs_emit(cc);
    if (!divide(cc)) {
        err_set(err, YADO_ERR_MEMORY, "translator: no memory for the code cache's tables");
        cache_free(cc);
        return NULL;
    }
    if (cc->mem.size >= SIZE_FOR_LARGE)
        cc->large = cache_large_open(worker, &cc->mem, cc->hot_end);
    return cc;
}

void cache_free(struct code_cache *cc)
{
    if (!cc)
        return;
    cache_large_close(cc->large);
    if (cc->tbs)
        munmap(cc->tbs, (size_t)cc->segment_count * cc->segment_tbs * sizeof *cc->tbs);
    if (cc->facts)
        munmap(cc->facts, (size_t)cc->segment_count * cc->segment_tbs * sizeof *cc->facts);
    if (cc->side)
        munmap(cc->side, (size_t)cc->segment_count * cc->segment_sides * sizeof *cc->side);
    if (cc->jumps)
        munmap(cc->jumps, cc->jump_max * sizeof *cc->jumps);
    if (cc->fixed)
        munmap(cc->fixed, sizeof *cc->fixed);
    jitmem_close(&cc->mem);
    munmap(cc, sizeof *cc);
}

struct tb *cache_alloc(struct code_cache *cc)
{
    const struct cache_segment *s = cache_now(cc);
    return s->tb_count + 2 <= cc->segment_tbs ? &cc->tbs[cc->now * cc->segment_tbs + s->tb_count] : NULL;
}

static void enlist(struct tvm *vm, struct tb *entry)
{
    struct page_info *p = tvm_page(vm, tb_gpage(entry));
    entry->page_next = atomic_load(&p->tbs);
    atomic_store(&p->tbs, cache_link(vm->cache, entry));
}

void cache_insert(struct tvm *vm, struct tb *tb)
{
    struct code_cache *cc = vm->cache;
    enlist(vm, tb);
    if (tb->crosses)
        enlist(vm, tb + 1);
    uint64_t key = cache_key(tb_gpage(tb), tb->off, tb->mode);
    _Atomic uint32_t *h = &cc->hash[cache_hash(key)];
    atomic_store_explicit(&tb->hash_next, atomic_load(h), memory_order_relaxed);
    atomic_store_explicit(h, cache_link(cc, tb), memory_order_release);
    cache_know(cc, key);
    cache_now(cc)->tb_count += tb->crosses ? 2 : 1;
}

static void drop_alias(struct code_cache *cc, size_t from, size_t to)
{
    from = align_down(from, MIB(1));
    to = align_down(to, MIB(1));
    if (to > from && jitmem_is_split(&cc->mem))
        madvise(cc->mem.rw + from, to - from, MADV_DONTNEED);
}

#define PATCHES_MAX 1024 /* each may bring in a page, small or large, of the writable alias */

void cache_advance(struct code_cache *cc, size_t hot_pos, size_t cold_pos)
{
    struct cache_segment *s = cache_now(cc);
    if (cc->patches > PATCHES_MAX) {
        drop_alias(cc, 0, cc->mem.size);
        cc->patches = 0;
    }
    drop_alias(cc, s->hot_pos, hot_pos);
    drop_alias(cc, s->cold_pos, cold_pos);
    s->hot_pos = (uint32_t)hot_pos;
    s->cold_pos = (uint32_t)cold_pos;
    cache_large_reached(cc->large, LARGE_HOT, hot_pos);
    cache_large_reached(cc->large, LARGE_COLD, cold_pos);
}

void cache_mark_code(struct tvm *vm, struct tcpu *c, uint64_t gpage)
{
    struct page_info *p = tvm_page(vm, gpage);
    if (atomic_load(&p->code) == PAGE_IS_CODE)
        return;
    /* Another vCPU may be at it and wait for its exclusive section: then both do it, since neither may read
     * code while a third can still store there unseen. */
    atomic_store(&p->code, PAGE_BECOMES_CODE);
    uint16_t owner = atomic_load(&p->w_owner);
    uint64_t hpage = (uint64_t)(uintptr_t)tvm_hva(vm, gpage);
    if (owner == tvm_writer(c)) {
        mmu_drop_write_tags(c, hpage, p->w_page);
    } else if (tvm_has_writer(vm, owner)) {
        tvm_exclusive_begin(vm, c);
        owner = atomic_load(&p->w_owner); /* others by now, or none */
        for (unsigned i = 0; i < vm->cpu_count; i++) {
            if (owner == PAGE_WRITERS || owner == tvm_writer(vm->cpus[i]))
                mmu_drop_write_tags(vm->cpus[i], hpage, owner == PAGE_WRITERS ? PAGE_MANY : p->w_page);
        }
        tvm_exclusive_end(vm, c);
    }
    /* Unless the other was faster, and the page has been something else since. */
    atomic_compare_exchange_strong(&p->w_owner, &owner, 0);
    uint8_t becomes = PAGE_BECOMES_CODE;
    atomic_compare_exchange_strong(&p->code, &becomes, PAGE_IS_CODE);
}
