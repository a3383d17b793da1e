/* The code cache.
 *
 * Theory of operation. One stretch of executable memory, mapped twice (writable and executable), is cut into
 * a hot part, where blocks follow each other in order of translation, and a cold part for their slow paths. A
 * block is guest code of one physical page translated under one mode (MODE_*): it does not know its linear
 * address (tcpu.vpage does), so that all processes share the translation of a library's page. Blocks are
 * found by physical page, offset and mode in a hash table that is read without lock; the jump cache of each
 * vCPU answers indirect branches by linear address before that.
 *
 * Blocks never move and their memory is reused only when everything is thrown away (cache_flush) inside an
 * exclusive section, when no vCPU is in translated code. A block dies when its guest bytes change: it leaves
 * the hash table, its pages' lists are swept of the dead, and the five-byte NOP at its entry is overwritten,
 * with one aligned store, by a call of the stale stub. So nobody has to find the jumps and jump-cache entries
 * that lead to it: who follows one ends in the dispatcher, which patches the entry once more into a jump to
 * the new translation.
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

struct code_cache *cache_new(size_t size, struct yado_error *err)
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
    cc->tb_max = (uint32_t)(size / 160);
    cc->side_max = (uint32_t)(size / 64);
    cc->tbs = reserve(cc->tb_max * sizeof *cc->tbs);
    cc->side = reserve(cc->side_max * sizeof *cc->side);
    cc->fixed = reserve(sizeof *cc->fixed);
    if (!cc->tbs || !cc->side || !cc->fixed) {
        err_set(err, YADO_ERR_MEMORY, "translator: no memory for the code cache's tables");
        cache_free(cc);
        return NULL;
    }
    stubs_emit(cc);
    cc->hot_end = align_down(cc->mem.size * 3 / 4, PAGE_SIZE);
    cc->hot_pos = cc->stub_len;
    cc->cold_pos = cc->hot_end;
    return cc;
}

void cache_free(struct code_cache *cc)
{
    if (!cc)
        return;
    if (cc->tbs)
        munmap(cc->tbs, cc->tb_max * sizeof *cc->tbs);
    if (cc->side)
        munmap(cc->side, cc->side_max * sizeof *cc->side);
    if (cc->fixed)
        munmap(cc->fixed, sizeof *cc->fixed);
    jitmem_close(&cc->mem);
    munmap(cc, sizeof *cc);
}

struct tb *cache_alloc(struct code_cache *cc)
{
    return cc->tb_count < cc->tb_max ? &cc->tbs[cc->tb_count] : NULL;
}

void cache_insert(struct tvm *vm, struct tb *tb)
{
    struct code_cache *cc = vm->cache;
    uint64_t pages[2] = { tb->gpage, tb->gpage2 };
    for (unsigned k = 0; k < 2 && pages[k] != ~0ull; k++) {
        struct page_info *p = tvm_page(vm, pages[k]);
        tb->page_next[k] = cache_link(cc, atomic_load(&p->tbs));
        atomic_store(&p->tbs, tb);
    }
    uint64_t key = cache_key(tb->gpage, tb->off, tb->mode);
    _Atomic uint32_t *h = &cc->hash[cache_hash(key)];
    atomic_store_explicit(&tb->hash_next, atomic_load(h), memory_order_relaxed);
    atomic_store_explicit(h, cache_link(cc, tb), memory_order_release);
    atomic_fetch_or(&cc->known[cache_known_bit(key) / 64], 1ull << cache_known_bit(key) % 64);
    cc->tb_count++;
}

static void drop_alias(struct code_cache *cc, size_t from, size_t to)
{
    from = align_down(from, MIB(1));
    to = align_down(to, MIB(1));
    if (to > from && jitmem_is_split(&cc->mem))
        madvise(cc->mem.rw + from, to - from, MADV_DONTNEED);
}

#define PATCHES_MAX 1024 /* each may bring in a page of the writable alias */

void cache_advance(struct code_cache *cc, size_t hot_pos, size_t cold_pos)
{
    if (cc->patches > PATCHES_MAX) {
        drop_alias(cc, 0, hot_pos);
        drop_alias(cc, cc->hot_end, cold_pos);
        cc->patches = 0;
    }
    drop_alias(cc, cc->hot_pos, hot_pos);
    drop_alias(cc, cc->cold_pos, cold_pos);
    cc->hot_pos = hot_pos;
    cc->cold_pos = cold_pos;
}

void cache_mark_code(struct tvm *vm, struct tcpu *c, uint64_t gpage)
{
    struct page_info *p = tvm_page(vm, gpage);
    if (atomic_load(&p->code) == PAGE_IS_CODE)
        return;
    /* Another vCPU may be at it and wait for its exclusive section: then both do it, since neither may read
     * code while a third can still store there unseen. */
    atomic_store(&p->code, PAGE_BECOMES_CODE);
    uint8_t owner = atomic_load(&p->w_owner);
    uint64_t hpage = (uint64_t)(uintptr_t)tvm_hva(vm, gpage);
    if (owner == c->index + 1) {
        mmu_drop_write_tags(c, hpage, p->w_page);
    } else if (owner != 0) {
        tvm_exclusive_begin(vm, c);
        for (unsigned i = 0; i < vm->cpu_count; i++)
            mmu_drop_write_tags(vm->cpus[i], hpage, PAGE_MANY);
        tvm_exclusive_end(vm, c);
    }
    atomic_store(&p->w_owner, 0);
    atomic_store(&p->code, PAGE_IS_CODE);
}

void cache_flush(struct tvm *vm)
{
    struct code_cache *cc = vm->cache;
    for (uint32_t i = 0; i < cc->tb_count; i++) {
        struct tb *tb = &cc->tbs[i];
        uint64_t pages[2] = { tb->gpage, tb->gpage2 };
        for (unsigned k = 0; k < 2 && pages[k] != ~0ull && !atomic_load(&tb->dead); k++) {
            struct page_info *p = tvm_page(vm, pages[k]);
            atomic_store(&p->tbs, NULL);
            atomic_store(&p->code, 0);
        }
    }
    memset(cc->hash, 0, sizeof cc->hash);
    memset(cc->known, 0, sizeof cc->known);
    madvise(cc->tbs, cc->tb_count * sizeof *cc->tbs, MADV_DONTNEED);
    atomic_fetch_add(&cc->flush_gen, 1);
    cc->tb_count = 0;
    cc->side_count = 0;
    cc->hot_pos = cc->stub_len;
    cc->cold_pos = cc->hot_end;
    madvise(cc->fixed, sizeof *cc->fixed, MADV_DONTNEED);
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        vm->cpus[i]->fixed_ok = 0;
        mmu_flush_jump_cache(vm->cpus[i]);
    }
}
