/* Room in the code cache: segments are emptied, one at a time.
 *
 * Theory of operation. The memory for code and the tables of blocks are cut into segments. Blocks are made in
 * one of them until it is full; then in an empty one, or one is emptied for it: inside an exclusive section,
 * so that no vCPU is in translated code and none has a return address of it, with code_lock held, since
 * others may be about to make blocks. What leads into a segment and is taken back then:
 *
 *  - hash table and lists of pages: its blocks leave them, as if they had died;
 *  - jumps of blocks in other segments, and the entries of dead ones that lead on to its blocks: each was
 *    noted when it was made (cache_jump), with what stood there before. Jumps inside of one segment need no
 *    note, and cost no way out in cold code if the target is known when they are made. Jumps between pages
 * are noted in fixed.c;
 *  - the jump caches; those of address spaces that are not loaded, places that samples noted and jumps that
 *    are about to be patched are all good for one flush_gen only.
 *
 * And what is noted of jumps in the segment itself is forgotten, for other code will stand there.
 *
 * Which one: the oldest. So what goes is what start-up code there was, and small blocks that have been made
 * again to be fast since; what is wanted still is made again, at the side of what is new. To go by where
 * samples met the vCPUs was tried: code that had run much then kept too much of the cache from new code,
 * which was made half as often again (ten runs of a compiler behind a boot, in 64 MiB).
 */
#include "engine/translator/cache.h"
#include "engine/translator/fixed.h"
#include "engine/translator/mmu.h"

#include <string.h>
#include <sys/mman.h>

#define KNOWN_EVERY 16u /* emptyings until `known` is made anew */

static void begin_segment(struct code_cache *cc, unsigned i)
{
    cc->now = i;
    cc->segments[i].filled = ++cc->fillings;
    cc->segment_begun = cpu_now_ns();
}

bool cache_next_segment(struct code_cache *cc)
{
    for (unsigned i = 0; i < cc->segment_count; i++) {
        if (i != cc->now && !cc->segments[i].tb_count) {
            begin_segment(cc, i);
            return true;
        }
    }
    return false;
}

static unsigned oldest(const struct code_cache *cc)
{
    unsigned best = 0;
    for (unsigned i = 1; i < cc->segment_count; i++) {
        if (cc->segments[i].filled < cc->segments[best].filled)
            best = i;
    }
    return best;
}

static void kill_blocks(struct tvm *vm, struct tb *tbs, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (tbs[i].second || atomic_load(&tbs[i].dead) == TB_DEAD)
            continue;
        cache_unhash(vm->cache, &tbs[i]);
        atomic_store(&tbs[i].dead, TB_LEAVING);
    }
    for (uint32_t i = 0; i < count; i++) { /* one sweep takes all that begin in that page */
        if (tbs[i].second || atomic_load(&tbs[i].dead) == TB_LEAVING)
            cache_sweep(vm, tb_gpage(&tbs[i]));
    }
}

static void take_jumps_back(struct code_cache *cc, unsigned segment)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < cc->jump_count; i++) {
        const struct cache_jump *j = &cc->jumps[i];
        if (cache_segment_of(cc, j->site) == segment)
            continue;
        if (cache_segment_of(cc, j->target) != segment)
            cc->jumps[kept++] = *j;
        else if (j->unlinked == JUMP_OF_DEAD)
            cache_make_stale(cc, j->site);
        else
            cache_patch_disp(cc, j->site, j->unlinked);
    }
    cc->jump_count = kept;
}

static void learn_known(struct code_cache *cc)
{
    memset(cc->known, 0, sizeof cc->known);
    for (unsigned i = 0; i < cc->segment_count; i++) {
        const struct tb *tbs = &cc->tbs[i * cc->segment_tbs];
        for (uint32_t k = 0; k < cc->segments[i].tb_count; k++) {
            if (!tbs[k].second && atomic_load(&tbs[k].dead) != TB_DEAD)
                cache_know(cc, cache_key(tb_gpage(&tbs[k]), tbs[k].off, tbs[k].mode));
        }
    }
}

void cache_evict(struct tvm *vm)
{
    struct code_cache *cc = vm->cache;
    tvm_code_lock(vm);
    unsigned i = oldest(cc);
    struct cache_segment *s = &cc->segments[i];
    kill_blocks(vm, &cc->tbs[i * cc->segment_tbs], s->tb_count);
    take_jumps_back(cc, i);
    fixed_evict(vm, i);
    for (unsigned k = 0; k < vm->cpu_count; k++)
        mmu_drop_jumps_into(vm->cpus[k], cache_rx(cc, s->hot), cc->segment_hot);
    s->hot_pos = s->hot;
    s->cold_pos = s->cold;
    s->tb_count = s->side_count = 0;
    if (cc->fillings % KNOWN_EVERY == 0)
        learn_known(cc);
    begin_segment(cc, i);
    atomic_fetch_add(&cc->flush_gen, 1);
    tvm_code_unlock(vm);
}
