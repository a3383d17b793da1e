/* The translator's view of one machine: RAM, pages that hold translated code, the code cache, exclusive
 * sections.
 *
 * Locks, in this order: excl_lock, then code_lock. code_lock is a spin lock that light code may take; its
 * holder never waits for another vCPU. run_state says whether a vCPU may be between a TLB check and the
 * access that it guards: RUN_IN from before the first guest-visible step until the vCPU halts, translates,
 * waits for an exclusive section or leaves run(). Who wants to change another vCPU's TLB or throw the code
 * cache away first makes everybody RUN_OUT (tvm_exclusive_begin). */
#ifndef TRANSLATOR_TVM_H
#define TRANSLATOR_TVM_H

#include <pthread.h>

#include "engine/translator/cpu.h"
#include "engine/translator/flags_probe.h"
#include "host/jitmem.h"

#define PAGE_SIZE 4096ull
#define PAGE_MASK (~(PAGE_SIZE - 1))
#define TVM_SLOTS 8
#define TVM_VCPUS_MAX 64
#define TVM_DIRECT_CHANGED 16
#define TVM_UNKNOWN 64

enum run_state { RUN_OUT, RUN_IN };

struct userproc_room; /* host/userproc.h */

#define PAGE_FAST 2
#define PAGE_MANY 0xffffffffu
#define PAGE_WRITERS 0xffu
enum { PAGE_IS_CODE = 1, PAGE_BECOMES_CODE }; /* the latter: write tags may still be there */
/* Of code: whether the host CPU may run it as it is, or with care or not at all (direct_scan.c). Kept as long
 * as nobody writes there. */
enum page_direct { DIRECT_UNKNOWN, DIRECT_FIT, DIRECT_CARE };
/* Of code: whether a program that is often there was worth running directly (direct_policy.c). */
enum page_pays { PAYS_UNKNOWN, PAYS_NOT, PAYS_YES, PAYS_BOTH };
struct page_info {
    _Atomic uint32_t tbs; /* blocks with guest code in this page (cache_first_in) */
    /* Under code_lock: samples that met small blocks in it, at PAGE_FAST all are made fast (vcpu_heavy.c);
     * enum page_direct and enum page_pays. */
    uint8_t samples : 2, direct : 2, pays : 2;
    _Atomic uint8_t code;     /* PAGE_*; never gets a write tag in any TLB unless 0 */
    _Atomic uint16_t w_owner; /* who may hold a write tag: 0 nobody, tvm_writer(), PAGE_WRITERS several */
    uint32_t w_page; /* the owner's business: for which linear page (low bits of its number), or PAGE_MANY */
};

struct tvm_slot {
    uint64_t gpa, len;
    uint8_t *hva;
    struct page_info *pages;
    _Atomic uint8_t *met; /* ram_large.c: RAM_*; NULL: not for this slot */
    bool in_file;         /* its pages are those of the memory file fd from `offset` on */
    int fd;
    uint64_t offset;
};

struct code_cache; /* cache.h */

struct tvm {
    struct engine_config cfg;
    struct cpuid_model cpuid;
    uint64_t host_tsc_khz;
    bool host_bmi2;           /* translated code may use BMI2 */
    struct flags_probe flags; /* of this host */
    uint64_t tsc_base;        /* host TSC when the VM was opened */
    uint64_t tsc_offset;      /* of all vCPUs, once one has been given a state */
    uint64_t tsc_first;       /* the TSC value that came with it */
    bool tsc_set;
    struct tvm_slot slots[TVM_SLOTS];
    unsigned slot_count;
    uint64_t gpa_reserved; /* bits of a page-table entry that must be clear (above MAXPHYADDR) */
    struct tcpu *cpus[TVM_VCPUS_MAX];
    unsigned cpu_count;
    struct large_worker *large_worker; /* NULL: the host gave no thread for it */
    _Atomic uint64_t large_ahead;      /* large pages of RAM that it has made */
    struct code_cache *cache;
    struct perf_map *perf_map; /* NULL: not wanted */
    struct {
        uint8_t len, bytes[15];
    } unknown[TVM_UNKNOWN]; /* instructions that were told of; under code_lock */
    unsigned unknown_count;
    /* Counts pages that may not run directly any more before somebody has looked at them again, and the last
     * ones; changed under code_lock. */
    _Atomic uint32_t direct_gen;
    uint64_t direct_changed[TVM_DIRECT_CHANGED];
    struct userproc_room *direct_room; /* where its vCPUs' seats are; NULL: no user code runs directly */
    bool direct_xsave_differs;         /* the host's XCR0 has more than the guest's can */
    _Atomic bool intr;                 /* output of the board's 8259s */
    _Atomic uint32_t code_lock, code_waiters;
    pthread_mutex_t excl_lock;
    _Atomic(struct tcpu *) excl_owner; /* not NULL: everybody else must be RUN_OUT */
    _Atomic uint32_t excl_seq;         /* futex: bumped when an exclusive section ends */
};

static inline struct tvm_slot *tvm_slot_of(struct tvm *vm, uint64_t gpa)
{
    for (unsigned i = 0; i < vm->slot_count; i++) {
        if (gpa - vm->slots[i].gpa < vm->slots[i].len)
            return &vm->slots[i];
    }
    return NULL;
}
static inline uint8_t *tvm_hva(struct tvm *vm, uint64_t gpa)
{
    struct tvm_slot *s = tvm_slot_of(vm, gpa);
    return s ? s->hva + (gpa - s->gpa) : NULL;
}
static inline struct page_info *tvm_page(struct tvm *vm, uint64_t gpa)
{
    struct tvm_slot *s = tvm_slot_of(vm, gpa);
    return s ? &s->pages[(gpa - s->gpa) >> 12] : NULL;
}

/* The vCPU in page_info.w_owner. It has lost all its write tags since its tag_gen was another. */
static inline uint16_t tvm_writer(const struct tcpu *c)
{
    return (uint16_t)((c->index + 1) | (unsigned)atomic_load(&c->tag_gen) << 8);
}
static inline bool tvm_has_writer(const struct tvm *vm, uint16_t owner)
{
    return owner == PAGE_WRITERS || (owner && owner == tvm_writer(vm->cpus[(owner & 0xff) - 1]));
}

/* hva is in a slot. */
static inline struct page_info *tvm_page_of_host(struct tvm *vm, uint64_t hva)
{
    for (unsigned i = 0;; i++) {
        struct tvm_slot *s = &vm->slots[i];
        if (hva - (uint64_t)(uintptr_t)s->hva < s->len)
            return &s->pages[(hva - (uint64_t)(uintptr_t)s->hva) >> 12];
    }
}

void tvm_code_lock(struct tvm *vm);   /* light */
void tvm_code_unlock(struct tvm *vm); /* light */
void tvm_code_give(struct tvm *vm);   /* light; held: lets others have it if they wait */

/* Heavy. Returns with every other vCPU RUN_OUT and held there. `c` is the calling vCPU, which must be RUN_OUT
 * itself. */
void tvm_exclusive_begin(struct tvm *vm, struct tcpu *c);
void tvm_exclusive_end(struct tvm *vm, struct tcpu *c);

void tvm_futex_wake_all(_Atomic uint32_t *word);

/* RUN_OUT to RUN_IN (waits while another has an exclusive section) and back. Light. */
void cpu_run_in(struct tcpu *c);
void cpu_run_out(struct tcpu *c);

#endif
