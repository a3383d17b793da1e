/* The vCPU of the translator: one struct, around the host's GS base while its thread runs translated code.
 *
 * Two kinds of C code touch it:
 *  - LIGHT code (mmu.c, interp*.c, sys*.c, lapic.c, vcpu.c) is called straight from translated code while the
 * guest's x87/SSE/AVX/AVX-512 state is live in the host's registers. It is built with -mgeneral-regs-only and
 * calls no libc function at all (libc's memcpy uses vector registers); light_copy() and light_zero() stand
 * in. It may take mutexes only through cpu_heavy_begin().
 *  - HEAVY code is everything else. A light function that must call heavy code brackets the call with
 * cpu_heavy_begin / cpu_heavy_end, which put the guest's vector state away and back.
 *
 * Conventions in C: gpr[], rip, rflags/fl, seg[] are current. A function that can raise a guest exception
 * returns bool (or enum step); false means that the exception is noted in cpu->exc and that no architectural
 * state was changed; the dispatcher delivers it. All linear addresses are uint64_t; in 32-bit and 16-bit
 * modes the caller has already wrapped them to 32 bits. */
#ifndef TRANSLATOR_CPU_H
#define TRANSLATOR_CPU_H

#include <stdatomic.h>

#include "engine/engine.h"
#include "host/anonmem.h"
#include "x86/cpuid_model.h"
#include "x86/regs.h"
#include "x86/state.h"

struct tvm;
struct translation;

/* ---- software TLB ---- */

/* One page. A tag is the page's linear address when the access is allowed without help, else a value that no
 * address with this index can match. */
struct tlb_entry {
    uint64_t tag_r;
    uint64_t tag_w;
    uint64_t delta; /* host address - linear address */
    uint64_t hpage; /* host address of the page */
};

enum mmu_index {
    MMU_S,
    MMU_U,
    MMU_SU,
    MMU_COUNT
}; /* supervisor; user; supervisor with EFLAGS.AC set (SMAP) */

/* 64 MiB of addresses: pages of a kernel's image (some 36 MiB) and of its direct map, hot ones among them,
 * would meet often in half of that. */
#define TLB_BITS 14
#define TLB_SIZE (1u << TLB_BITS)

/* Jump cache: linear address of an indirect branch's target to translated code. A compiler's hot code alone
 * has some ten thousand targets. */
struct jc_entry {
    uint64_t pc;
    uint64_t host;
};
#define JC_BITS 15
#define JC_SIZE (1u << JC_BITS)
#define JC_ROTATE 7 /* brings the low bits of an address to where they choose the entry (jc_hash) */
#define JC_MASK ((uint32_t)((JC_SIZE - 1) * sizeof(struct jc_entry)))

#define ITLB_SIZE 256u
#define EXEC_BLOOM 1024u
#define USER_BLOOM 128u

/* What an address space that is not loaded has in the TLB and the jump cache (mmu_tlb.c). */
#define SPACES 8
#define SPACE_TLB 1024
#define SPACE_JC 1024
#define SPACE_IDX 3u
#define SPACE_W 4u
#define LARGE_WORDS 64u
#define LARGE_GLOBAL 2u
struct space {
    uint16_t pcid;
    uint8_t used, large_user;
    uint32_t jc_mode, cache_gen;
    uint32_t tlb_count, jc_count;
    struct space_tlb {
        uint64_t tag; /* linear page | enum mmu_index | SPACE_W: had a write tag */
        uint64_t hpage;
    } tlb[SPACE_TLB];
    struct jc_entry jc[SPACE_JC];
    uint64_t large_seen[LARGE_WORDS];
};

/* Return addresses of translated code (stubs.c), a pair of words for each call: some 4,000 calls deep. A call
 * first touches RETURN_STACK_ROOM bytes below RSP, which C handlers of foreign signals may need. */
#define RETURN_STACK_ROOM 16384
#define RETURN_STACK_SIZE (4096 + RETURN_STACK_ROOM + 65536)
#define SIGNAL_STACK_SIZE 65536

#define SAMPLES_MAX 8u

enum tcounter {
    TC_BLOCKS,
    TC_BLOCK_INSNS,
    TC_LOOKUPS,
    TC_LINKS,
    TC_INTERP,
    TC_TLB_FILL,
    TC_STAGED,
    TC_MMIO,
    TC_CODE_WRITES,
    TC_INVALIDATED,
    TC_EVICTIONS,
    TC_FLUSH_ALL,
    TC_FLUSH_NONGLOBAL,
    TC_FLUSH_PAGE,
    TC_EXCEPTIONS,
    TC_INTERRUPTS,
    TC_HALTS,
    TC_SIGNALS,
    TC_EXCLUSIVE,
    TC_POLL_EXITS,
    TC_MISS_READ, /* checks of translated code that failed, by kind of access ... */
    TC_MISS_WRITE,
    TC_MISS_GROUP,      /* ... for several accesses at once */
    TC_MISS_CODE,       /* code pages that had to be looked up */
    TC_MISS_C,          /* accesses of the general path that had to be */
    TC_SPECIAL,         /* calls of helper_special */
    TC_IO,              /* port and memory accesses that went to the board */
    TC_SHADOW_COMPARED, /* blocks run twice, and alike ... */
    TC_SHADOW_SKIPPED,
    TC_SHADOW_DIFFERENT,
    TC_UNKNOWN,     /* instructions that the translator does not know, translated */
    TC_BLOCKS_FAST, /* blocks made again to be fast */
    TC_SAMPLES,
    TC_DIRECT_RUNS,  /* of user code that is not translated ... */
    TC_DIRECT_US,    /* ... and microseconds in them */
    TC_DIRECT_LOST,  /* programs that went back to translated code */
    TC_DIRECT_UNFIT, /* times that code was to run that may not */
    TC_SPINS,        /* times that a vCPU slept because it had spun for long */
    TC_RAM_LARGE,
    TC_COUNTER_END,
    TCOUNTER_COUNT = 44,
};

/* ---- pending exception ---- */
struct tcpu_exception {
    uint8_t pending;
    uint8_t vector;
    uint8_t has_error;
    uint8_t soft; /* INT n, INT3, INTO, ICEBP: return address is after the instruction */
    uint32_t error;
    uint64_t cr2; /* for #PF */
    uint64_t dr6; /* for #DB: bits to set */
};

/* What happened to one instruction or one stretch of code. */
enum step {
    STEP_NEXT,     /* done; rip is updated */
    STEP_FAULT,    /* cpu->exc is pending, nothing else changed */
    STEP_HALT,     /* HLT executed; rip is after it */
    STEP_AGAIN,    /* a repeated string instruction stopped half way; rip is still at it */
    STEP_SHUTDOWN, /* triple fault */
    STEP_UNKNOWN,  /* interp only: not an integer or system instruction (x87, MMX, SSE, AVX): the translator
                      runs it */
};

/* Reasons in cpu->exit_request (any nonzero value makes translated code leave at the next poll). */
#define XR_INTR 1u  /* the local APIC may have something to deliver */
#define XR_KICK 2u  /* engine_kick */
#define XR_WORK 4u  /* another vCPU or a device asks for something (exclusive section, TLB or code flush) */
#define XR_TIMER 8u /* the local APIC timer's host timer expired */
#define XR_NMI 16u
#define XR_INIT 32u
#define XR_SIPI 64u

/* tcpu.watch */
#define WATCH_DATA 1u  /* a data breakpoint is enabled */
#define WATCH_CODE 2u  /* a code breakpoint is */
#define WATCH_IO 4u    /* an I/O breakpoint is */
#define WATCH_ALIGN 8u /* alignment is checked */

struct lapic;    /* lapic.h */
struct direct;   /* direct.h */
struct userproc; /* host/userproc.h */

struct tcpu {
    /* -- touched by translated code -- */
    struct tcpu *self;
    uint64_t gpr[16]; /* homes; current when in C */
    uint64_t vpage;   /* linear page address of the code that runs */
    uint64_t rip;     /* current when in C */
    uint32_t rflags;  /* everything but the status flags; bit 1 set */
    uint16_t fl;      /* status flags: high byte as LAHF gives (SF ZF AF PF CF), low byte 1 if OF */
    uint16_t fl_pad;
    _Atomic uint32_t exit_request; /* XR_*, set by any thread */
    /* exit_request where translated code has no time to look at it: with a request the mask is 0, so that the
     * jump cache knows no address, and the bias is 1, so that no return comes back where it should
     * (cpu_request, vcpu_loop). */
    _Atomic uint32_t jc_mask;
    _Atomic uint64_t return_bias;
    _Atomic uint32_t intr_deferred; /* XR_INTR arrived while IF was clear: look again when IF is set */
    uint32_t direct_wish;           /* user code of the loaded space is to run directly */
    uint32_t exit_reason;           /* enum exit_reason: why translated code came back */
    int32_t pauses_left; /* PAUSEs of code at CPL 0 until the dispatcher looks whether this vCPU spins */
    uint64_t exit_arg;
    uint64_t scratch[8];
    uint64_t group_delta[8];  /* deltas of access groups (trans_group.c) */
    uint64_t x87_page;        /* X87_SHOWN, or the page of the last x87 instruction (x87_pointers.c) */
    uint64_t dc_home;         /* DC while C runs */
    uint32_t staged;          /* the last slow access was staged */
    uint32_t user_tsc_denied; /* CR4.TSD, kept by sys_mode_changed */
    uint64_t host_rsp;
    uint64_t return_top;  /* of the return stack (stubs.c) ... */
    uint64_t return_base; /* ... and of the part of it that the present privilege level may use */
    uint64_t jit_rsp;     /* RSP of translated code while C runs */
    uint64_t seg_base_fs, seg_base_gs; /* copies of seg[].base, kept by sys_mode_changed */
    /* What 32-bit blocks may reach through FS and GS: offsets below this, 0 if the segment is not plain data
     */
    uint64_t seg_room_fs, seg_room_gs;
    struct x86_segment seg[S_COUNT];

    /* -- C only -- */
    uint8_t cpl;        /* 0 or 3 mostly; equals SS.DPL */
    uint8_t mmu_idx;    /* enum mmu_index for the present cpl and AC; kept by sys_mode_changed */
    uint8_t code_bits;  /* 16, 32, 64: kept by sys_mode_changed */
    uint8_t watch;      /* WATCH_*: the general path must look at every access (sys_debug.c) */
    uint8_t debug_hits; /* data and I/O breakpoints met, as in DR6 */
    uint8_t no_step;    /* the instruction has seen to its own single-step trap */
    uint8_t int_shadow; /* no interrupts before the next instruction ends: 1 after STI, 2 after MOV SS, which
                           puts debug traps off too */
    uint8_t nmi_masked, nmi_pending;
    uint8_t halted;
    uint8_t wait_sipi; /* 1: parked after INIT (or never started) */
    uint8_t sipi_vector;
    _Atomic uint8_t
        pv_unhalted; /* KVM_HC_KICK_CPU came: the next or present HLT ends, whatever IF is; HLT clears it */
    uint8_t heavy_depth; /* > 0: guest vector state is in xsave_area, not in the registers */
    uint8_t delivering; /* an event is being delivered (double-fault logic): 0 none, 1 benign, 2 contributory,
                           3 #PF, 4 #DF */
    uint8_t exc_in_helper;
    uint8_t one_block; /* translated code runs one instruction and comes back, whatever becomes of it */
    struct tcpu_exception exc;
    uint64_t stage_gva; /* staged access (mmu.c) */
    uint32_t stage_len;
    uint32_t stage_size; /* 0, or the size of stage_elements' elements, which are all that is written back */
    uint64_t stage_elements;
    struct x86_table gdt, idt;
    uint64_t cr0, cr2, cr3, cr4, cr8, xcr0, efer;
    uint64_t dr[8];
    uint64_t star, lstar, cstar, fmask, kernel_gs_base;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
    uint64_t tsc_offset; /* guest TSC = host TSC + tsc_offset */
    uint64_t tsc_aux, pat, misc_enable, spec_ctrl, tsc_adjust;
    uint64_t debugctl; /* DEBUGCTL_BITS: LBR, without effect, and BTF */
    uint64_t mtrr_def_type, mtrr_fixed[X86_MTRR_FIXED], mtrr_var[2 * X86_MTRR_VAR];
    uint64_t kvm_system_time, kvm_wall_clock, kvm_pv_eoi;
    unsigned index; /* = APIC id */
    struct tvm *vm;
    struct anonmem memory; /* that this is in */
    struct lapic *lapic;
    struct translation *translation; /* the block that is being made (translate.c) */
    struct shadow *shadow;           /* NULL: blocks run once */

    /* -- dispatcher and MMU (vcpu.c, mmu.c) -- */
    _Atomic uint32_t run_state; /* enum run_state */
    _Atomic uint32_t wake_seq;  /* futex word for halted vCPUs */
    int tid;                    /* host thread, for the timer signal */
    int timer;                  /* kernel timer id */
    uint8_t timer_made;
    _Atomic uint8_t sleeping;        /* in a futex wait on wake_seq */
    uint64_t pause_seen, pause_spun; /* TSC at the last look, and ticks of PAUSE loops up to then (vcpu.c) */
    uint64_t halt_spin;              /* TSC ticks that the next HLT spins before it sleeps (vcpu.c) */
    uint32_t jc_mode[MMU_COUNT];     /* the mode that the jump cache's entries were made under */
    struct direct *direct;           /* NULL: all code is translated (direct.c) */
    struct userproc *_Atomic direct_proc; /* runs guest code for this vCPU at the moment, or NULL */
    uint32_t flush_gen;                   /* counts changes of this vCPU's translations */
    _Atomic uint8_t tag_gen;              /* counts how often its TLB lost everything (page_info.w_owner) */
    uint32_t translate_gen;               /* the code cache's flush_gen when the last block was made */
    uint32_t direct_skip;   /* that many returns to user code are not worth another try (direct_policy.c) */
    uint8_t direct_seated;  /* its thread keeps to one CPU (host/userproc.h) */
    uint8_t need_exclusive; /* the instruction must run while all other vCPUs stand still (split LOCK) */
    uint8_t fixed_ok;       /* blocks of fixed address may run (fixed.c) */
    uint32_t exit_bits;     /* XIT_FIXED_LINK */
    uint8_t *return_stack;  /* its lowest page cannot be touched; the signal stack follows it */
    uint64_t old_signal_stack[4]; /* stack_t of this thread, while it runs the vCPU (fault_linux.c) */
    uint8_t nonglobal_super_code;
    uint8_t user_global_code; /* user code ran in a global page */
    uint8_t large_user;       /* some of large_seen's lower half; LARGE_GLOBAL: for global pages, too */
    uint64_t huge_seen;       /* which stretches of 1 GiB (hashed) are of one page in the TLB ... */
    /* ... and which of 2 MiB are of a large one; by half of the address space */
    uint64_t large_seen[2][LARGE_WORDS];
    /* Pages with jump cache or itlb entries, hashed by page number: of MMU_U, and all others */
    uint64_t user_bloom[USER_BLOOM], exec_bloom[EXEC_BLOOM];
    struct itlb_entry {
        uint64_t vpage, gpage;
        uint32_t idx_plus1, pad; /* pad bit 0: global */
    } itlb[ITLB_SIZE];
    uint64_t itlb_nonglobal[ITLB_SIZE / 64]; /* where a CR3 load must look */
    uint32_t jc_log_len[MMU_COUNT];
    uint16_t jc_log[MMU_COUNT][JC_SIZE]; /* entries in use */
    uint64_t tlb_global[MMU_COUNT][TLB_SIZE / 64];
    /* Bits 27:12 of hpage, set with a write tag and never taken back: where mmu_drop_write_tags must look. */
    _Alignas(8) uint16_t tlb_written[MMU_COUNT][TLB_SIZE];
    uint32_t tlb_log_len[MMU_COUNT];
    uint16_t tlb_log[MMU_COUNT][TLB_SIZE]; /* indices that were filled with pages that are not global */
    uint64_t fault_rip;                    /* host signal inside translated code (fault_linux.c) */
    uint64_t fault_eflags;
    uint64_t fault_address;
    uint16_t exit_fl, exit_fl_pad[3]; /* flags in the form of fl, as the host had them at the last raw exit */
    uint32_t fault_trap, fault_error;
    /* Where translated code was when the sampling timer fired (fault_linux.c; places in the code cache), and
     * the cache's flush_gen that they belong to. */
    _Atomic uint32_t sample_count;
    uint32_t sample_gen;
    uint32_t samples[SAMPLES_MAX];
    int sample_timer;
    uint8_t sample_timer_made;
    uint8_t jumps_behind; /* blocks in the jump cache were made again to be fast */
    uint64_t counters[TCOUNTER_COUNT];

    _Alignas(64) uint8_t xsave_area[X86_XSAVE_MAX];
    uint8_t rehearsal[16 + 112]; /* what a store would store; FNSAVE's image (trans_mem.c) */
    _Alignas(64) uint8_t stage[X86_XSAVE_MAX + 64]; /* bounce buffer for accesses that are not plain RAM */
    _Alignas(4096) struct tlb_entry tlb[MMU_COUNT][TLB_SIZE];
    struct jc_entry jc[MMU_COUNT][JC_SIZE];
    uint32_t space_next;
    struct space spaces[SPACES];
};

/* Where in struct tcpu the GS base points while translated code runs: at the TLB that user code looks at all
 * the time, so that most of its checks get by without a displacement of four bytes. */
#define TCPU_GS offsetof(struct tcpu, tlb[MMU_U])

/* ---- XSAVE's area: SDM volume 1, 13.4 ---- */
#define XSAVE_HEADER 512u
#define XSTATE_SSE 2u
#define XSTATE_AVX 4u
#define XSTATE_AVX512 0xe0u /* mask registers, upper halves of zmm0 to 15, zmm16 to 31 */

/* ---- flags ---- */
static inline uint64_t cpu_rflags(const struct tcpu *c)
{
    return c->rflags | ((c->fl >> 8) & 0xd5u) | ((uint32_t)(c->fl & 1u) << 11);
}
static inline void cpu_set_status_flags(struct tcpu *c, uint64_t v)
{
    c->fl = (uint16_t)(((v & 0xd5u) << 8) | 0x200u | ((v >> 11) & 1u));
}
/* Sets all of RFLAGS. The caller calls sys_mode_changed if AC, VM or TF may have changed. */
static inline void cpu_set_rflags(struct tcpu *c, uint64_t v)
{
    c->rflags = ((uint32_t)v & ~FL_STATUS & 0x3fffffu) | FL_1;
    cpu_set_status_flags(c, v);
}

/* ---- exceptions: note one and return false ---- */
static inline bool cpu_raise(struct tcpu *c, unsigned vector)
{
    c->exc = (struct tcpu_exception){ .pending = 1, .vector = (uint8_t)vector };
    return false;
}
static inline bool cpu_raise_error(struct tcpu *c, unsigned vector, uint32_t error)
{
    c->exc =
        (struct tcpu_exception){ .pending = 1, .vector = (uint8_t)vector, .has_error = 1, .error = error };
    return false;
}
static inline bool cpu_raise_gp(struct tcpu *c, uint32_t error)
{
    return cpu_raise_error(c, EXC_GP, error);
}

static inline bool cpu_long_mode(const struct tcpu *c) /* IA-32e active */
{
    return (c->efer & EFER_LMA) != 0;
}
static inline bool cpu_code64(const struct tcpu *c)
{
    return c->code_bits == 64;
}
static inline bool cpu_real_mode(const struct tcpu *c)
{
    return !(c->cr0 & CR0_PE);
}
static inline bool cpu_v86(const struct tcpu *c)
{
    return (c->rflags & FL_VM) != 0;
}
static inline unsigned cpu_iopl(const struct tcpu *c)
{
    return (c->rflags >> 12) & 3;
}
static inline bool cpu_canonical(uint64_t a)
{
    return (uint64_t)((int64_t)(a << 16) >> 16) == a;
}

/* ---- light stand-ins for libc ---- */
static inline void light_copy(void *dst, const void *src, uint64_t n)
{
    __asm__ volatile("rep movsb" : "+D"(dst), "+S"(src), "+c"(n) : : "memory");
}
static inline void light_zero(void *dst, uint64_t n)
{
    __asm__ volatile("rep stosb" : "+D"(dst), "+c"(n) : "a"(0) : "memory");
}

/* ---- bracket for calling heavy code from light code (vcpu.c). Nest. ---- */
void cpu_heavy_begin(struct tcpu *c);
void cpu_heavy_end(struct tcpu *c);

/* Port or memory-mapped access through the machine; heavy inside. Reads return the value zero-extended. */
uint64_t cpu_io_read(struct tcpu *c, bool port, uint64_t addr, unsigned width);
void cpu_io_write(struct tcpu *c, bool port, uint64_t addr, unsigned width, uint64_t value);

/* Asks vCPU c to look at its exit_request soon; wakes it if halted. Any thread, also light code. */
void cpu_request(struct tcpu *c, uint32_t xr);

struct tcpu *tvm_vcpu(struct tvm *vm, unsigned index); /* NULL past the end */
unsigned tvm_vcpu_count(const struct tvm *vm);
const struct cpuid_model *tvm_cpuid(const struct tvm *vm);
uint64_t tvm_tsc_khz(const struct tvm *vm);
void tvm_eoi(struct tvm *vm,
             unsigned vector); /* level-triggered EOI to the IO-APIC; heavy, called under cpu_heavy */
uint64_t cpu_host_tsc(void);
uint64_t cpu_now_ns(void); /* CLOCK_MONOTONIC from the TSC or the vDSO; light */

#endif
