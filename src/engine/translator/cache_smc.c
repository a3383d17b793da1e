/* The light half of the code cache: finding blocks, and killing those whose guest bytes change. */
#include "engine/translator/cache.h"
#include "engine/translator/mmu.h"

struct tb *cache_find(struct code_cache *cc, uint64_t gpage, unsigned off, uint32_t mode, uint64_t vpage)
{
    int32_t fixed = mode & MODE_FIXED ? (int32_t)vpage : 0;
    uint64_t key = cache_key(gpage, off, mode);
    if (!(atomic_load(&cc->known[cache_known_bit(key) / 64]) & 1ull << cache_known_bit(key) % 64))
        return NULL;
    uint32_t link = atomic_load_explicit(&cc->hash[cache_hash(key)], memory_order_acquire);
    for (; link; link = atomic_load_explicit(&cc->tbs[link - 1].hash_next, memory_order_acquire)) {
        struct tb *tb = &cc->tbs[link - 1];
        if (tb->off == off && tb_gpage(tb) == gpage && tb->mode == mode && tb->vpage == fixed &&
            !atomic_load(&tb->dead))
            return tb;
    }
    return NULL;
}

/* Blocks stand in their segment's slice in order of their places, hot and cold alike, so both can be searched
 * by halving. */
struct tb *cache_by_host(struct code_cache *cc, uint32_t off)
{
    bool cold = off >= cc->hot_end;
    unsigned seg = cache_segment_of(cc, off);
    if (off < cc->stub_len || seg >= cc->segment_count)
        return NULL;
    uint32_t first = seg * cc->segment_tbs, lo = first, hi = first + cc->segments[seg].tb_count;
    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;
        uint32_t start = cold ? cc->tbs[mid].cold : cc->tbs[mid].hot;
        if (start <= off)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo == first ? NULL : tb_first(&cc->tbs[lo - 1]);
}

/* Whether what the side table says there is of a block before this one. */
static bool side_is_before(const struct code_cache *cc, const struct tb_side *s, const struct tb *tb)
{
    return s->host < (s->host >= cc->hot_end ? tb->cold : tb->hot);
}

/* The side table has the places of one block after those of another, in the order of the blocks; those of one
 * stand in the order in which they were written, now hot, now cold. */
const struct tb_side *cache_side_of(struct code_cache *cc, const struct tb *tb, uint32_t off)
{
    unsigned seg = cache_segment_of(cc, tb->hot);
    uint32_t lo = seg * cc->segment_sides, hi = lo + cc->segments[seg].side_count, end = hi;
    const struct tb *next = tb + (tb->crosses ? 2 : 1);
    const struct tb_side *best = NULL;
    if (next == &cc->tbs[seg * cc->segment_tbs + cc->segments[seg].tb_count])
        next = NULL;
    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;
        if (side_is_before(cc, &cc->side[mid], tb))
            lo = mid + 1;
        else
            hi = mid;
    }
    for (; lo < end && (!next || side_is_before(cc, &cc->side[lo], next)); lo++) {
        const struct tb_side *s = &cc->side[lo];
        if ((s->host >= cc->hot_end) == (off >= cc->hot_end) && s->host <= off &&
            (!best || s->host > best->host))
            best = s;
    }
    return best;
}

void cache_patch_disp(struct code_cache *cc, uint32_t off, int32_t disp)
{
    cc->patches++;
    __atomic_store_n((int32_t *)(void *)(cc->mem.rw + off), disp, __ATOMIC_SEQ_CST);
}

void cache_patch_entry(struct code_cache *cc, uint32_t off, uint64_t word)
{
    cc->patches++;
    __atomic_store_n((uint64_t *)(void *)(cc->mem.rw + off), word, __ATOMIC_SEQ_CST);
}

uint64_t cache_jump_word(struct code_cache *cc, uint32_t from, uint32_t to)
{
    uint64_t now = *(const uint64_t *)(const void *)(cc->mem.rw + from);
    return (now & ~0xffffffffffull) | 0xe9 | (uint64_t)(uint32_t)(to - (from + 5)) << 8;
}

static int32_t disp_at(const struct code_cache *cc, uint32_t site)
{
    return __atomic_load_n((const int32_t *)(const void *)(cc->mem.rw + site), __ATOMIC_RELAXED);
}

bool cache_note_jump(struct code_cache *cc, uint32_t site, int32_t unlinked, const struct tb *tb)
{
    if (cache_segment_of(cc, site) == cache_segment_of(cc, tb->hot))
        return true;
    if (cc->jump_count == cc->jump_max)
        return false;
    cc->jumps[cc->jump_count++] = (struct cache_jump){ site, unlinked, tb->hot };
    return true;
}

bool cache_link_jump(struct code_cache *cc, uint32_t site, const struct tb *tb)
{
    int32_t disp = disp_at(cc, site);
    if (site + 4 + (uint32_t)disp < cc->hot_end || !cache_note_jump(cc, site, disp, tb))
        return false; /* as long as it leads to no block, it does to cold code */
    cache_patch_disp(cc, site, (int32_t)(tb->hot - (site + 4)));
    return true;
}

void cache_lead_on(struct code_cache *cc, const struct tb *dead, const struct tb *tb)
{
    if (cache_note_jump(cc, dead->hot, JUMP_OF_DEAD, tb))
        cache_patch_entry(cc, dead->hot, cache_jump_word(cc, dead->hot, tb->hot));
}

void cache_make_stale(struct code_cache *cc, uint32_t entry)
{
    /* One aligned store turns the NOP at the entry into a call. */
    uint64_t now = *(const uint64_t *)(const void *)(cc->mem.rw + entry);
    int32_t rel = (int32_t)(cc->stubs.stale - (cache_rx(cc, entry) + 5));
    cache_patch_entry(cc, entry, (now & ~0xffffffffffull) | 0xe8 | (uint64_t)(uint32_t)rel << 8);
}

void cache_sweep(struct tvm *vm, uint64_t gpage)
{
    struct code_cache *cc = vm->cache;
    struct page_info *p = tvm_page(vm, gpage);
    struct tb *last = NULL;
    for (struct tb *cur = cache_first_in(cc, p); cur; cur = cache_next_in(cc, cur)) {
        uint8_t dead = atomic_load(&tb_first(cur)->dead);
        if (dead != TB_DEAD && dead != TB_LEAVING) {
            last = cur;
            continue;
        }
        if (!cur->second)
            atomic_store(&cur->dead, TB_DEAD);
        if (last)
            last->page_next = cur->page_next;
        else
            atomic_store(&p->tbs, cur->page_next);
    }
    if (!last && p->direct == DIRECT_UNKNOWN) {
        atomic_store(&p->code, 0);
        p->samples = p->pays = 0;
    }
}

void cache_unhash(struct code_cache *cc, struct tb *tb)
{
    uint32_t own = cache_link(cc, tb);
    _Atomic uint32_t *link = &cc->hash[cache_hash(cache_key(tb_gpage(tb), tb->off, tb->mode))];
    while (atomic_load(link) && atomic_load(link) != own)
        link = &cc->tbs[atomic_load(link) - 1].hash_next;
    if (atomic_load(link) == own)
        atomic_store(link,
                     atomic_load(&tb->hash_next)); /* tb keeps its own link for readers that stand on it */
}

/* A vCPU in a block that loops does not pass its entry, where it would find it dead. */
static void call_out(struct tvm *vm, const struct tb *tb)
{
    for (unsigned i = 0; tb->loops && i < tvm_vcpu_count(vm); i++)
        cpu_request(tvm_vcpu(vm, i), XR_WORK);
}

void cache_retire(struct tvm *vm, struct tb *tb)
{
    atomic_store(&tb->dead, TB_DEAD);
    cache_unhash(vm->cache, tb);
    cache_make_stale(vm->cache, tb->hot);
    call_out(vm, tb);
}

void cache_kill(struct tvm *vm, struct tb *tb)
{
    cache_retire(vm, tb);
    cache_sweep(vm, tb_gpage(tb));
    if (tb->crosses)
        cache_sweep(vm, tb_gpage2(tb));
}

static bool overlap(uint64_t a, uint64_t a_len, uint64_t b, uint64_t b_len)
{
    return a < b + b_len && b < a + a_len;
}

/* Whether one of n bytes at gpa, which are in the entry's page, is of the block. */
static bool is_hit(const struct tb *entry, uint64_t gpa, unsigned n)
{
    unsigned len = entry->len ? entry->len
                              : (unsigned)PAGE_SIZE - entry->off; /* it runs into a page that is not there */
    return overlap(tb_gpage(entry) + entry->off, len, gpa, n);
}

bool cache_mark_direct(struct tvm *vm, uint64_t gpage, enum page_direct answer)
{
    struct page_info *p = tvm_page(vm, gpage);
    tvm_code_lock(vm);
    bool marked = atomic_load(&p->code) == PAGE_IS_CODE;
    if (marked)
        p->direct = answer & 3;
    tvm_code_unlock(vm);
    return marked;
}

enum page_direct cache_direct(struct tvm *vm, uint64_t gpage)
{
    tvm_code_lock(vm);
    enum page_direct direct = tvm_page(vm, gpage)->direct;
    tvm_code_unlock(vm);
    return direct;
}

/* Code that runs directly was changed: nobody runs what is in this page before it was looked at again. */
static void call_back(struct tvm *vm, struct page_info *p, uint64_t gpage)
{
    p->direct = DIRECT_UNKNOWN;
    vm->direct_changed[atomic_load(&vm->direct_gen) % TVM_DIRECT_CHANGED] = gpage;
    atomic_fetch_add(&vm->direct_gen, 1);
    for (unsigned i = 0; i < tvm_vcpu_count(vm); i++) {
        struct tcpu *c = tvm_vcpu(vm, i);
        if (atomic_load(&c->direct_proc))
            cpu_request(c, XR_WORK);
    }
}

/* code_lock held. Returns how many died. */
static unsigned kill_range(struct tvm *vm, uint64_t gpa, unsigned n)
{
    uint64_t gpage = gpa & PAGE_MASK;
    struct page_info *p = tvm_page(vm, gpage);
    unsigned killed = 0;
    bool direct = p->direct != DIRECT_UNKNOWN;
    if (direct)
        call_back(vm, p, gpage);
    for (struct tb *e = cache_first_in(vm->cache, p); e; e = cache_next_in(vm->cache, e)) {
        struct tb *tb = tb_first(e);
        if (atomic_load(&tb->dead) == TB_DEAD || !is_hit(e, gpa, n))
            continue;
        cache_retire(vm, tb);
        killed++;
        if (tb->crosses)
            cache_sweep(vm, e->second ? tb_gpage(tb) : tb_gpage2(tb));
    }
    if (killed || direct)
        cache_sweep(vm, gpage);
    return killed;
}

static void store(uint8_t *p, const void *buf, unsigned n)
{
    switch (n) {
    case 1: *p = *(const uint8_t *)buf; break;
    case 2: __builtin_memcpy(p, buf, 2); break;
    case 4: __builtin_memcpy(p, buf, 4); break;
    case 8: __builtin_memcpy(p, buf, 8); break;
    default: light_copy(p, buf, n);
    }
}

void cache_write_code_page(struct tvm *vm, struct tcpu *c, uint64_t gpa, const void *buf, unsigned n)
{
    tvm_code_lock(vm);
    store(tvm_hva(vm, gpa), buf, n);
    unsigned killed = kill_range(vm, gpa, n);
    tvm_code_unlock(vm);
    if (c) {
        c->counters[TC_CODE_WRITES]++;
        c->counters[TC_INVALIDATED] += killed;
    }
}

void cache_invalidate(struct tvm *vm, struct tcpu *c, uint64_t gpa, uint64_t len)
{
    uint64_t end = gpa + len;
    while (gpa < end) {
        uint64_t part = min_u64(end - gpa, PAGE_SIZE - (gpa & (PAGE_SIZE - 1)));
        struct page_info *p = tvm_page(vm, gpa);
        if (p && atomic_load(&p->code)) {
            tvm_code_lock(vm);
            unsigned killed = kill_range(vm, gpa, (unsigned)part);
            tvm_code_unlock(vm);
            if (c)
                c->counters[TC_INVALIDATED] += killed;
        }
        gpa += part;
    }
}
