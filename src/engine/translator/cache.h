/* Translated code: blocks, where they are, which guest pages they came from, and how they die. Theory in
 * cache.c. */
#ifndef TRANSLATOR_CACHE_H
#define TRANSLATOR_CACHE_H

#include "engine/translator/cache_large.h"
#include "engine/translator/emit.h"
#include "engine/translator/tvm.h"

/* What a block was translated under. Two blocks of the same code under different modes are different blocks.
 */
#define MODE_IDX 0x3u /* enum mmu_index */
#define MODE_BITS_SHIFT                                                                                      \
    2 /* code: 0 64-bit, 1 32-bit with flat segments, 2 what only the interpreter runs                       \
       */
#define MODE_BITS 0xcu
#define MODE_HOST_FLAGS 0x10u  /* status flags are in EFLAGS at entry; else in tcpu.fl */
#define MODE_ONE 0x20u         /* one instruction only */
#define MODE_TS 0x40u          /* CR0.TS */
#define MODE_EM 0x80u          /* CR0.EM */
#define MODE_NO_SSE 0x100u     /* CR4.OSFXSR clear */
#define MODE_NO_AVX 0x200u     /* CR4.OSXSAVE clear or AVX not enabled in XCR0 */
#define MODE_NO_AVX512 0x8000u /* or AVX-512 not */
#define MODE_NO_XSAVE 0x400u   /* CR4.OSXSAVE clear */
#define MODE_SMAP 0x1000u      /* CR4.SMAP */
#define MODE_FIXED 0x2000u     /* the block knows its linear address (fixed.c) */
#define MODE_NATIVE 0x4000u    /* the operand's linear address is in tcpu.scratch[2] (native.c) */
#define MODE_NO_GROUP 0x800u   /* every access is checked by itself: where a group's check failed */

/* Why translated code came back. */
enum exit_reason {
    XIT_EXC,    /* c->exc is pending */
    XIT_LOOKUP, /* go on at c->rip */
    XIT_LINK, /* the same, and a jump can be patched: exit_arg = displacement's offset | guest offset << 32 |
                 MODE bits << 48 */
    XIT_EXCLUSIVE,  /* the instruction at c->rip must run alone */
    XIT_FIXED_LINK, /* as XIT_LINK, from a block of fixed address: exit_arg = displacement's offset | linear
                       address << 32; exit_bits = MODE bits */
    XIT_BRANCH,     /* as XIT_LOOKUP, from an indirect branch: exit_arg = BRANCH_DESC */
    XIT_POLL,       /* exit_request was seen */
    XIT_STEP,       /* an interpreted instruction changed the course */
    XIT_SHUTDOWN,
    XIT_SIGNAL,  /* a host signal at c->fault_rip */
    XIT_NOCODE,  /* the code at c->rip is not in RAM */
    XIT_ONE,     /* the instruction at c->rip in a block of its own (MODE_ONE): its store must be staged */
    XIT_SEGMENT, /* as XIT_ONE, through the general path: its operand is beyond what a block may reach */
    XIT_LOST,    /* DIRECT_LOST */
    XIT_STALE,   /* entered a block that is no more: exit_arg = address after its call */
};

/* Where an indirect branch stands in its page and what it has added to RSP. */
#define BRANCH_DESC(off, pop) ((uint32_t)(off) | (uint32_t)(pop) << 13)
#define BRANCH_DESC_OFF(d) ((d)&0x1fffu)
#define BRANCH_DESC_POP(d) ((d) >> 13)

/* Of a block: it is found, or not any more, or not now because it is about to be made again to be fast; or it
 * is dead and still in the lists of its pages (cache_evict.c). */
enum { TB_LIVES, TB_DEAD, TB_HIDDEN, TB_LEAVING };

/* Half a cache line, and there are hundreds of thousands: looking for a block costs a line of the hash table
 * and one for each block looked at. What the few need that cross into a second page stands in a second entry,
 * the next one of the table, which is in that page's list and in no other. Links are places in code_cache.tbs
 * plus 1; 0 ends a list. */
struct tb {
    uint32_t frame;     /* guest physical page, by its number */
    int32_t vpage;      /* MODE_FIXED: linear page address, sign-extended */
    uint32_t hot, cold; /* offsets in the cache; a second entry has its block's */
    _Atomic uint32_t hash_next;
    uint32_t page_next; /* list of the page */
    uint16_t off,
        len; /* guest bytes: [off, off + len); len of a first entry counts those of the second too */
    uint16_t mode;
    _Atomic uint8_t dead; /* TB_*; of a first entry */
    /* These never change, so that they may be read without lock: */
    bool small : 1;   /* made to be small, not fast (translate.c) */
    bool loops : 1;   /* runs on without passing its entry (trans_loop.c) */
    bool crosses : 1; /* it is one of two entries */
    bool second : 1;  /* and the second one */
};
_Static_assert(sizeof(struct tb) == 32, "half a cache line");
#define TB_GPA_END (1ull << 44) /* RAM ends there at most: a page's number has 32 bits */

/* What only the shadow asks of a block (shadow.c). */
struct tb_facts {
    uint16_t undefined_flags; /* status flags that one of its instructions leaves undefined */
    uint16_t insns;
    bool plain; /* nothing in it that the general path could not run first */
};

/* Where host instructions that may raise a host signal stand. */
struct tb_side {
    uint32_t host;       /* offset in the cache of the instruction's body */
    uint16_t off;        /* guest offset in the page */
    uint16_t host_flags; /* flags were in EFLAGS */
};

/* Whether the block may be reached without asking the dispatcher. Not one that crosses into a second page,
 * whose mapping may change, nor one of no bytes: the page that its instruction runs into was not there yet.
 */
static inline bool tb_is_local(const struct tb *tb)
{
    return !tb->crosses && tb->len != 0;
}
static inline uint64_t tb_gpage(const struct tb *tb)
{
    return (uint64_t)tb->frame << 12;
}
/* The page that the block's one instruction crosses into; ~0: none. */
static inline uint64_t tb_gpage2(const struct tb *tb)
{
    return tb->crosses ? tb_gpage(tb + 1) : ~0ull;
}
/* The block of an entry. */
static inline struct tb *tb_first(struct tb *entry)
{
    return entry - entry->second;
}

#define CACHE_HASH_BITS 19
#define CACHE_HASH_SIZE (1u << CACHE_HASH_BITS)
#define CACHE_KNOWN_BITS (1u << 20)

#define CHECK_SIZES 7 /* 1 to 64 bytes */
#define CHECK_SPANS 7 /* 8 to 512 bytes: GROUP_SPAN_MAX */
#define CHECK_SPAN(i) (8u << (i))

/* What the accesses of a group are (trans_group.c): the first is a read and writes follow, for the last. */
enum group_kind { GROUP_R, GROUP_W, GROUP_R_THEN_W, GROUP_KINDS };

/* Code that every block may jump to or call (stubs.c), addresses in the executable alias. */
struct stubs {
    void (*enter[MMU_COUNT])(struct tcpu *c, const void *host);
    const uint8_t *slow[2][MMU_COUNT][2], *slow_group[GROUP_KINDS][MMU_COUNT]; /* [write][idx][delta] */
    /* checks of blocks that are small rather than fast: of 1 << i bytes; of groups of up to CHECK_SPAN(i) */
    const uint8_t *check[CHECK_SIZES][2][MMU_COUNT][2], *check_group[CHECK_SPANS][GROUP_KINDS][MMU_COUNT];
    const uint8_t *mem_staged_h, *mem_staged_d, *mem_masked_h, *mem_masked_d, *commit, *interp, *special,
        *save_flags, *save_flags_r10;
    const uint8_t *checks_end; /* checks stand from check[0] up to here */
    const uint8_t *lookup[MMU_COUNT], *lookup_branch[MMU_COUNT];
    const uint8_t *away[MMU_COUNT], *save_away[MMU_COUNT], *save_lookup[MMU_COUNT];
    const uint8_t *exit_lookup, *exit_branch, *exit_link, *exit_fixed_link, *exit_poll, *stale, *signal;
    const uint8_t *ret_miss[MMU_COUNT];
    const uint8_t *cross[MMU_COUNT], *go_on, *exception, *left, *transfer, *syscall, *sysret64;
};

#define CACHE_SEGMENTS 32u

/* A part of the cache that is emptied as one: a stretch of the hot part and one of the cold part, and slices
 * of the tables (cache_evict.c). Offsets in the cache; places in the tables count from the slices' starts. */
struct cache_segment {
    uint32_t hot, hot_pos, cold, cold_pos;
    uint32_t tb_count, side_count;
    uint32_t filled; /* number of the filling, of all segments */
};

/* A jump from one segment into another, to be taken back when the latter is emptied. */
struct cache_jump {
    uint32_t site;    /* offset of the displacement, or of the entry of a dead block */
    int32_t unlinked; /* the displacement before; JUMP_OF_DEAD: it was the entry of a dead block */
    uint32_t target;  /* offset of the block's entry */
};
#define JUMP_OF_DEAD INT32_MIN

struct code_cache {
    struct jitmem mem;
    size_t stub_len, hot_end;
    struct stubs stubs;
    struct cache_segment segments[CACHE_SEGMENTS];
    unsigned segment_count, now;                                    /* in use; the one that is being filled */
    uint32_t segment_hot, segment_cold, segment_tbs, segment_sides; /* sizes of each one's parts */
    uint32_t fillings;
    uint64_t segment_begun; /* when the one that is being filled was begun: cpu_now_ns */
    struct tb *tbs;
    struct tb_facts *facts; /* as many; not touched unless there is a shadow */
    struct tb_side *side;
    struct cache_jump *jumps;
    uint32_t jump_count, jump_max;
    struct cache_large *large;  /* NULL: none */
    uint32_t patches;           /* since the writable alias was last given back */
    _Atomic uint32_t flush_gen; /* counts segments emptied */
    struct fixed *fixed;
    _Atomic uint32_t hash[CACHE_HASH_SIZE];
    /* A bit for what was ever put into the hash table. It stays in the host's cache, which the table does
     * not, and half of what is looked for is not there: targets of jumps in new blocks. */
    _Atomic uint64_t known[CACHE_KNOWN_BITS / 64];
};

static inline struct tb *cache_tb(const struct code_cache *cc, uint32_t link)
{
    return link ? &cc->tbs[link - 1] : NULL;
}
static inline uint32_t cache_link(const struct code_cache *cc, const struct tb *tb)
{
    return tb ? (uint32_t)(tb - cc->tbs) + 1 : 0;
}
static inline struct cache_segment *cache_now(struct code_cache *cc)
{
    return &cc->segments[cc->now];
}
/* The segment of a place in the cache behind the stubs; may be past the last one: a rest that is not used. */
static inline unsigned cache_segment_of(const struct code_cache *cc, uint32_t off)
{
    return off >= cc->hot_end ? (off - (uint32_t)cc->hot_end) / cc->segment_cold
                              : (off - (uint32_t)cc->stub_len) / cc->segment_hot;
}
/* The entries in the list of a page. */
static inline struct tb *cache_first_in(const struct code_cache *cc, const struct page_info *p)
{
    return cache_tb(cc, atomic_load(&p->tbs));
}
static inline struct tb *cache_next_in(const struct code_cache *cc, const struct tb *entry)
{
    return cache_tb(cc, entry->page_next);
}
static inline struct tb_facts *cache_facts(const struct code_cache *cc, const struct tb *tb)
{
    return &cc->facts[tb - cc->tbs];
}

/* worker: makes its large pages, and is stopped before it is freed; NULL: it gets none. */
struct code_cache *cache_new(size_t size, struct large_worker *worker, struct yado_error *err);
void cache_free(struct code_cache *cc);

static inline uint64_t cache_key(uint64_t gpage, unsigned off, uint32_t mode)
{
    return ((gpage | off) ^ (uint64_t)mode << 44) * 0x9e3779b97f4a7c15ull;
}
static inline unsigned cache_hash(uint64_t key)
{
    return (unsigned)(key >> (64 - CACHE_HASH_BITS));
}
static inline unsigned cache_known_bit(uint64_t key)
{
    return (unsigned)(key >> 40) % CACHE_KNOWN_BITS;
}

/* Light, no lock needed. vpage counts for MODE_FIXED only. */
struct tb *cache_find(struct code_cache *cc, uint64_t gpage, unsigned off, uint32_t mode, uint64_t vpage);
static inline const uint8_t *cache_rx(const struct code_cache *cc, uint32_t off)
{
    return (const uint8_t *)cc->mem.rx + off;
}
static inline bool cache_contains(const struct code_cache *cc, uint64_t rip)
{
    return rip - (uint64_t)(uintptr_t)cc->mem.rx < cc->mem.size;
}

/* code_lock held. */
struct tb *cache_alloc(struct code_cache *cc); /* room for two entries; NULL: the segment is full */
void cache_insert(struct tvm *vm, struct tb *tb);
/* Moves the segment's positions up. Pages of the writable alias that are full are given back (the code stays:
 * it is one file), so that translated code counts once in the process's resident memory; where there are
 * large pages a patch brings one in, so that RSS counts much of it twice, and PSS and cgroups once. */
void cache_advance(struct code_cache *cc, size_t hot_pos, size_t cold_pos);
struct tb *cache_by_host(struct code_cache *cc, uint32_t off);
/* What is noted of the last place at or before off in that block, in the same part of the cache. NULL:
 * nothing. */
const struct tb_side *cache_side_of(struct code_cache *cc, const struct tb *tb, uint32_t off);
/* Bytes of hot code of the block that was made last. */
static inline uint32_t cache_hot_len(const struct code_cache *cc, const struct tb *tb)
{
    return cc->segments[cc->now].hot_pos - tb->hot;
}

/* Marks the page as holding code and takes write tags for it away. Heavy, no lock held, c is RUN_OUT. */
/* Notes of a page that cache_mark_code has marked whether its code may run directly, and keeps the mark until
 * somebody writes there. False: it is no code any more. Light. */
bool cache_mark_direct(struct tvm *vm, uint64_t gpage, enum page_direct answer);
enum page_direct cache_direct(struct tvm *vm, uint64_t gpage); /* light */
void cache_mark_code(struct tvm *vm, struct tcpu *c, uint64_t gpage);
/* Stores n bytes inside one RAM page that may hold code, and kills the blocks that it hits. Light. c may be
 * NULL. */
void cache_write_code_page(struct tvm *vm, struct tcpu *c, uint64_t gpa, const void *buf, unsigned n);
/* Change a displacement, or the eight bytes at a block's entry, of code that may be running. code_lock held.
 * Light. */
void cache_patch_disp(struct code_cache *cc, uint32_t off, int32_t disp);
void cache_patch_entry(struct code_cache *cc, uint32_t off, uint64_t word);
/* The eight bytes at the entry of the block at `from`, with a jump to `to` in them. */
uint64_t cache_jump_word(struct code_cache *cc, uint32_t from, uint32_t to);
/* Makes the jump whose displacement is at `site` lead to tb, unless it does to a block already or there is no
 * room to note it. code_lock held. Light. */
bool cache_link_jump(struct code_cache *cc, uint32_t site, const struct tb *tb);
/* Notes a jump that leads, or is about to, to tb; not needed inside of one segment. False: no room. The same.
 */
bool cache_note_jump(struct code_cache *cc, uint32_t site, int32_t unlinked, const struct tb *tb);
/* Makes the entry of a dead block lead to tb: on, as far as there is room to note it. The same. */
void cache_lead_on(struct code_cache *cc, const struct tb *dead, const struct tb *tb);
/* The entry of a dead block calls the stale stub. The same. */
void cache_make_stale(struct code_cache *cc, uint32_t entry);
/* Where the block at this entry leads, if cache_jump_word was put there. */
static inline const uint8_t *cache_successor(const uint8_t *entry)
{
    uint64_t word = __atomic_load_n((const uint64_t *)(const void *)entry, __ATOMIC_RELAXED);
    return (uint8_t)word == 0xe9 ? entry + 5 + (int32_t)(word >> 8) : entry;
}
/* Kills one block. code_lock held. */
void cache_kill(struct tvm *vm, struct tb *tb);
/* Takes it out of the hash table. code_lock held. */
void cache_unhash(struct code_cache *cc, struct tb *tb);
/* The same, but it stays in the lists of its pages until they are swept. code_lock held. */
void cache_retire(struct tvm *vm, struct tb *tb);
/* Takes dead blocks out of a page's list; a page without blocks holds no code. code_lock held. */
void cache_sweep(struct tvm *vm, uint64_t gpage);
/* Kills blocks in a range that was written already. Any thread. */
void cache_invalidate(struct tvm *vm, struct tcpu *c, uint64_t gpa, uint64_t len);

static inline void cache_know(struct code_cache *cc, uint64_t key)
{
    atomic_fetch_or(&cc->known[cache_known_bit(key) / 64], 1ull << cache_known_bit(key) % 64);
}

/* cache_evict.c. Goes on with a segment that is empty, if there is one. code_lock held. */
bool cache_next_segment(struct code_cache *cc);
/* Empties a segment and goes on with it. Inside an exclusive section. Heavy. */
void cache_evict(struct tvm *vm);

/* stubs.c: writes the stubs at the start of the cache. */
void stubs_emit(struct code_cache *cc);

/* translate.c. A block for the code at gpage + off is made in two parts, so that vCPUs keep code_lock from
 * each other for the second one only. First look: decodes. gpage2 is the next code page or ~0 if it is not
 * known to be there. Heavy. */
void translate_look(struct tcpu *c, uint64_t gpage, unsigned off, uint64_t gpage2, uint32_t mode,
                    uint64_t vpage, bool small);
/* Whether the guest's bytes are as they were at that look. code_lock held; the pages are marked. */
bool translate_is_current(const struct tcpu *c);
/* Then, with the lock not given away in between: the block. NULL: the segment is full. */
struct tb *translate_finish(struct tcpu *c);
unsigned translate_insns(const struct tcpu *c); /* in that block */
size_t translation_size(void);                  /* of tcpu.translation */

/* Called from stubs (vcpu.c). */
unsigned helper_mem(struct tcpu *c, uint64_t lin, uint32_t desc, void *out);
unsigned helper_masked(struct tcpu *c, uint64_t lin, uint32_t desc, void *out);
unsigned helper_group(struct tcpu *c, uint64_t lin, uint32_t desc, void *out);
unsigned helper_commit(struct tcpu *c, uint32_t desc);
unsigned helper_interp(struct tcpu *c, uint32_t desc);
unsigned helper_special(struct tcpu *c, uint32_t desc);
unsigned helper_transfer(struct tcpu *c, uint32_t desc);
unsigned helper_exception(struct tcpu *c);
#define COMMIT_HOST_FLAGS 0x2000u
#define COMMIT_NO_EXIT 0x4000u
enum special {
    SPECIAL_FPU_X87,
    SPECIAL_FPU_MMX,
    SPECIAL_FPU_SSE,
    SPECIAL_FPU_AVX,
    SPECIAL_FPU_AVX512,
    SPECIAL_FPU_XSAVE,
    SPECIAL_UD,
    SPECIAL_VEC_MEM,
    SPECIAL_MMX_MEM,
    SPECIAL_GP,
    SPECIAL_INTERP, /* the general path raises what is due */
    SPECIAL_SEGMENT,
    SPECIAL_X87_POINTERS, /* nothing but that: the guest is about to see them, or load some */
    SPECIAL_SYSCALL,      /* these of the stub `transfer` */
    SPECIAL_SYSRET64,
    SPECIAL_SYSRET32,
    SPECIAL_IRETQ
};

#endif
