/* Inside of direct execution (direct*.c). */
#ifndef TRANSLATOR_DIRECT_PRIV_H
#define TRANSLATOR_DIRECT_PRIV_H

#include "engine/translator/direct.h"
#include "engine/translator/direct_text.h"
#include "host/userproc.h"

#define DIRECT_SPACES 6
#define MIRROR_BITS 12     /* of a table's size at first ... */
#define MIRROR_BITS_STEP 2 /* ... when it becomes larger ... */
#define MIRROR_BITS_MOST                                                                                     \
    16 /* ... and at last; half is used, each a mapping of the process (vm.max_map_count) */
#define CHAINS_BITS_LESS 2 /* than slots have */
#define MIRROR_LARGE 64
#define MIRROR_CHANGES 384
#define MIRROR_UNFIT 16
#define LARGE_PAGE MIB(2)
#define HEATS 16

/* A page that the process has, or (prot 0) had. */
struct mirror_page {
    uint32_t number; /* of the linear page, its lower part ... */
    uint8_t number_high;
    uint8_t prot; /* USERPROC_* */
    uint16_t gen; /* another than the space's: this one is free */
    uint32_t frame;
    uint32_t next; /* slot of the next that has this frame or one of the same hash, + 1; 0: there is none */
};

static inline uint64_t mirror_va(const struct mirror_page *p)
{
    return ((uint64_t)p->number_high << 32 | p->number) << 12;
}

static inline uint64_t mirror_gpa(const struct mirror_page *p)
{
    return (uint64_t)p->frame << 12;
}

/* 2 MiB of them at once. */
struct mirror_large {
    uint64_t base; /* linear */
    uint64_t gpa;
    uint8_t prot; /* 0: free */
};

/* The mirror of an address space: a process, and what it has of the guest's pages. All of it is right by the
 * guest's tables and what it has told the TLB; `changes` have been decided on, but are not done yet. */
struct direct_space {
    struct userproc *proc;   /* NULL: this one has never been used */
    uint64_t hole, hole_len; /* where it has something of its own */
    uint64_t cpu_ns;         /* of its process, if the last run was long; else 0 */
    uint64_t used;           /* when, for the choice of the one to give up */
    uint64_t root;           /* top page table of the program that ran last */
    uint16_t pcid;
    bool taken;
    bool pieces;    /* of large pages of the guest's are among `pages` */
    bool huge;      /* and of 1 GiB */
    bool tsc_traps; /* in the process, RDTSC and RDTSCP */
    bool wipe;      /* before anything else, take all away */
    bool doubt;     /* the PCID was forgotten: mirror_check before it runs */
    uint16_t gen;
    uint32_t count; /* entries of `pages` in use */
    uint32_t change_count;
    uint8_t bits;              /* of how many slots `pages` has */
    struct mirror_page *pages; /* hashed by linear page */
    uint32_t *chains;          /* behind them: the same by frame, slot + 1 */
    struct mirror_large large[MIRROR_LARGE];
    struct userproc_map changes[MIRROR_CHANGES];
    uint64_t breaks[USERPROC_BREAKS];      /* where it is to stop; 0: nowhere */
    uint64_t breaks_last[USERPROC_BREAKS]; /* up to there it does not run from behind them */
    bool breaks_changed;
    uint32_t unbroken; /* stays since it stopped at one */
    uint8_t break_next;
    uint64_t trap_page; /* linear, of its own for traps in it */
    uint64_t traps[USERPROC_BREAKS];
    uint8_t trap_count;
    bool traps_changed;              /* they are not in it yet */
    uint64_t unfit[MIRROR_UNFIT];    /* linear pages of code that may not run, hashed */
    uint8_t unfit_for[MIRROR_UNFIT]; /* as many visits of it, if not for good */
};

/* What is known of an address space's program. */
struct direct_heat {
    uint64_t cr3; /* where its top table is */
    bool wish;
    uint8_t samples, wanted; /* that many more, and it is tried */
    bool tried;
    bool trusted;    /* its code has paid before */
    bool praised;    /* and does */
    int64_t score;   /* nanoseconds won, the pages not counted, as far as can be told */
    int64_t balance; /* and with them */
    int64_t total;   /* the same since it was first tried */
};

struct direct {
    bool failed; /* the host lets it not be after all */
    bool lost;
    uint8_t parted;
    bool always; /* ENGINE_DIRECT_ALWAYS: whether it pays is nobody's question */
    uint32_t heat_next;
    struct direct_space spaces[DIRECT_SPACES];
    struct direct_space *loaded; /* of the PCID that is loaded; NULL: it has none */
    struct direct_heat heats[HEATS];
    struct direct_heat *heat; /* of the loaded space */
    uint64_t clock;
    uint32_t skip; /* what tcpu.direct_skip began with last */
    uint8_t away;  /* that many exits more of translated code, and an excursion is none any more */
    bool returned; /* the stay began with the end of one */
    uint8_t away_skip, away_skipped; /* so many of them are not worth it, so many were not made */
    uint32_t lost_programs;          /* that were tried although their code had not paid */
    struct userproc_seat seat;
    uint64_t ran_at;   /* when the last run ended */
    bool cpuid_faults; /* in the processes */
    bool tsc_can_trap;
    uint32_t code_gen; /* tvm.direct_gen that was seen to */
    uint64_t last_cr2;
    uint64_t empty_ns;                 /* what a run takes that does nothing */
    uint64_t written[(1u << 19) / 64]; /* RAM pages that some space may write, hashed */
    uint8_t *xstate;
    size_t xstate_size;
};

/* direct_mirror.c */
struct direct_space *direct_space_of(struct direct *d, uint64_t pcid);
struct mirror_page *mirror_slot(struct direct_space *s, uint64_t page); /* where it is or would be */
struct mirror_page *mirror_find(struct direct_space *s, uint64_t page);
static inline unsigned mirror_slots(const struct direct_space *s)
{
    return 1u << s->bits;
}
static inline unsigned mirror_chains(const struct direct_space *s)
{
    return mirror_slots(s) >> CHAINS_BITS_LESS;
}
/* Gives it an empty table of this size; the old one is the caller's then. False: no memory, nothing has
 * changed. */
bool mirror_make_table(struct direct_space *s, unsigned bits);
void mirror_put(struct direct_space *s, uint64_t page, uint64_t gpage, unsigned prot);
struct mirror_large *mirror_large_at(struct direct_space *s, uint64_t lin);
/* Notes what the process is to do before it runs again. False: everything was wiped instead. */
bool mirror_change(struct direct_space *s, uint64_t va, uint64_t len, uint64_t offset, unsigned prot);
uint64_t *direct_written(struct direct *d, uint64_t gpage); /* the word of `written` that it is in */
void mirror_take_large(struct direct_space *s, struct mirror_large *l);
void mirror_take_page(struct direct_space *s, struct mirror_page *p);
/* Those that have any of these rights to this page of RAM. */
void mirror_take_frame(struct direct_space *s, uint64_t gpage, unsigned prot);
void mirror_wipe(struct direct_space *s);
static inline uint64_t *mirror_unfit(struct direct_space *s, uint64_t lin)
{
    return &s->unfit[(lin >> 12) % MIRROR_UNFIT];
}
#define MIRROR_UNFIT_IS 1u
#define MIRROR_UNFIT_WAS 2u /* and now has breakpoints */
static inline bool mirror_is_unfit(struct direct_space *s, uint64_t lin)
{
    return *mirror_unfit(s, lin) == ((lin & PAGE_MASK) | MIRROR_UNFIT_IS);
}
/* For good, or for so many visits. */
static inline void mirror_set_unfit(struct direct_space *s, uint64_t lin, uint8_t visits)
{
    s->unfit_for[(lin >> 12) % MIRROR_UNFIT] = visits;
    *mirror_unfit(s, lin) = (lin & PAGE_MASK) | MIRROR_UNFIT_IS;
}
/* It was to run there, where it may be unfit. */
static inline void mirror_visit_unfit(struct direct_space *s, uint64_t lin)
{
    uint8_t *left = &s->unfit_for[(lin >> 12) % MIRROR_UNFIT];
    if (mirror_is_unfit(s, lin) && *left && --*left == 0)
        *mirror_unfit(s, lin) = (lin & PAGE_MASK) | MIRROR_UNFIT_WAS;
}

/* direct_bring.c. Makes the space have the page of lin, and some around it. False: there is nothing more to
 * give. */
bool mirror_bring(struct tcpu *c, struct direct_space *s, uint64_t lin, bool exec);
/* Empties it for another program. */
void mirror_renew(struct direct_space *s);
/* Takes away what the guest's tables do not give any more. The space is the loaded one. */
void mirror_check(struct tcpu *c, struct direct_space *s);

/* direct_scan.c. Where in this page of code the host CPU must not go on. before: the page before it, or NULL.
 * text: what of the page is code, of a vDSO; NULL: all may be. False: in too many places. */
#define DIRECT_MAY_CPUID 1u /* it faults */
#define DIRECT_MAY_XSAVE 2u
#define DIRECT_MAY_TSC 4u /* RDTSC, and RDTSCP where TSC_AUX is not looked at */
struct direct_sites {
    unsigned count;
    uint16_t at[USERPROC_BREAKS];
    uint16_t last[USERPROC_BREAKS]; /* of the group that begins there */
};
bool direct_scan(const uint8_t *before, const uint8_t *page, unsigned may, const struct direct_text *text,
                 struct direct_sites *sites);
/* False: one begins in this page and ends in the one behind. */
bool direct_scan_seam(const uint8_t *page, const uint8_t *behind, unsigned may);

/* direct_policy.c */
/* What a stay has come to, in nanoseconds. */
struct direct_cost {
    uint64_t inside; /* in guest code */
    uint64_t pages;  /* to give pages, with the faults that ask for them */
    uint64_t exit;   /* otherwise */
};
void direct_account(struct tcpu *c, const struct direct_cost *cost);
/* What a stay has come to, for how soon the next may begin. */
void direct_pace(struct tcpu *c, enum direct_end end, uint64_t inside);
void direct_find_heat(struct tcpu *c);
/* The loaded space's program is not to run directly for long. */
void direct_give_up(struct tcpu *c);

#endif
