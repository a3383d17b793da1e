/* What the sys_*.c files share: descriptors, stacks, mode. Sections are of the Intel SDM volume 3 (2023-12)
 * unless another book is named. */
#ifndef TRANSLATOR_SYS_PRIV_H
#define TRANSLATOR_SYS_PRIV_H

#include "engine/translator/lapic.h"
#include "engine/translator/mmu.h"
#include "engine/translator/sys.h"

/* Bits of error codes (6.13): the fault came while an external event or an exception was delivered; the index
 * is an IDT vector. */
#define ERR_EXT 1u
#define ERR_IDT 2u

/* System descriptor types (3.5, table 3-2), in SEG_TYPE; SEG_S is clear. In long mode 9, 11 and 12 mean the
 * 64-bit forms. */
enum {
    DT_TSS16 = 1,
    DT_LDT = 2,
    DT_TSS16_BUSY = 3,
    DT_CALL16 = 4,
    DT_TASK = 5,
    DT_INT16 = 6,
    DT_TRAP16 = 7,
    DT_TSS32 = 9,
    DT_TSS32_BUSY = 11,
    DT_CALL32 = 12,
    DT_INT32 = 14,
    DT_TRAP32 = 15,
};

/* ---- descriptors (sys_desc.c) ---- */

/* A GDT or LDT entry as it was read: once, so that a guest that writes it meanwhile changes nothing. */
struct sys_desc {
    uint64_t addr;     /* linear address of the entry */
    uint32_t lo, hi;   /* its 8 bytes */
    uint32_t lo2, hi2; /* the second 8 of a 16-byte entry (sys_desc_read_second) */
};

static inline unsigned sys_desc_type(const struct sys_desc *d)
{
    return (d->hi >> 8) & SEG_TYPE;
}
static inline unsigned sys_desc_dpl(const struct sys_desc *d)
{
    return (d->hi >> 13) & 3;
}
static inline bool sys_desc_present(const struct sys_desc *d)
{
    return (d->hi & 0x8000u) != 0;
}
static inline bool sys_desc_is_segment(const struct sys_desc *d) /* code or data, not system */
{
    return (d->hi & 0x1000u) != 0;
}
static inline bool sys_desc_is_code(const struct sys_desc *d)
{
    return (d->hi & 0x1800u) == 0x1800u;
}
static inline bool sys_desc_is_conforming(const struct sys_desc *d)
{
    return (d->hi & 0x1c00u) == 0x1c00u;
}
static inline bool sys_desc_is_writable_data(const struct sys_desc *d)
{
    return (d->hi & 0x1a00u) == 0x1200u;
}
static inline uint16_t sys_desc_attr(const struct sys_desc *d)
{
    return (uint16_t)((d->hi >> 8) & 0xf0ffu);
}
static inline uint32_t sys_desc_limit(const struct sys_desc *d)
{
    uint32_t limit = (d->lo & 0xffffu) | (d->hi & 0xf0000u);
    return d->hi & 0x800000u ? limit << 12 | 0xfffu : limit;
}
static inline uint32_t sys_desc_base(const struct sys_desc *d)
{
    return d->lo >> 16 | (d->hi & 0xffu) << 16 | (d->hi & 0xff000000u);
}
static inline bool sys_sel_null(uint16_t sel)
{
    return (sel & 0xfffcu) == 0;
}

/* Reads the entry that sel names. Outside its table: raises `vector` with the selector as error code, | ext.
 */
bool sys_desc_read(struct tcpu *c, uint16_t sel, struct sys_desc *d, unsigned vector, uint32_t ext);
/* Reads the second half of a 16-byte entry (TSS, LDT and call gates in long mode). #GP(sel | ext) if it is
 * not one. */
bool sys_desc_read_second(struct tcpu *c, uint16_t sel, struct sys_desc *d, uint32_t ext);
/* Sets bits in the type byte of the entry in memory, atomically: the accessed bit, a TSS's busy bit. */
bool sys_desc_set_type_bits(struct tcpu *c, const struct sys_desc *d, uint8_t set, uint8_t clear);
/* Sets the accessed bit in memory and in d unless it is set. */
bool sys_desc_mark_accessed(struct tcpu *c, struct sys_desc *d);
struct x86_segment sys_desc_segment(const struct sys_desc *d, uint16_t sel);

/* The checks of a code segment as the target of a transfer that does not return and has no gate (JMP,
 * CALL): 5.8.1. */
bool sys_check_code_direct(struct tcpu *c, uint16_t sel, const struct sys_desc *d);
/* That the offset can be executed in code segment d: limit, or canonical address for 64-bit code. #GP(ext).
 */
bool sys_check_rip(struct tcpu *c, const struct sys_desc *d, uint64_t off, uint32_t ext);
/* Present, and not both L and D in long mode: #NP(sel | ext), #GP(sel | ext). */
bool sys_check_code_usable(struct tcpu *c, uint16_t sel, const struct sys_desc *d, uint32_t ext);
/* A stack segment for privilege level cpl; every defect raises `vector`(sel | ext), absence #SS(sel | ext).
 */
bool sys_check_stack(struct tcpu *c, uint16_t sel, const struct sys_desc *d, unsigned cpl, unsigned vector,
                     uint32_t ext);
/* Makes CS of a checked descriptor, with the given privilege level in the selector. */
void sys_set_cs(struct tcpu *c, const struct sys_desc *d, uint16_t sel, unsigned cpl);
/* A null SS, as 64-bit code has it above CPL 3. */
struct x86_segment sys_null_stack(uint16_t sel, unsigned cpl);
/* A data or stack segment of v86 mode: the selector gives the base (21.1.1). */
struct x86_segment sys_v86_segment(uint16_t sel);
/* After a return to an outer level: data segments that it may not see become null (volume 2, IRET). */
void sys_drop_inner_segments(struct tcpu *c, unsigned cpl);

/* ---- stacks (sys_desc.c) ---- */

/* A stack that is being pushed to or popped from, before anything of it is architectural. */
struct sys_stack {
    struct x86_segment ss;
    uint64_t sp;
    uint64_t mask; /* 0xffff, 0xffffffff or all ones (64-bit) */
    enum mmu_as as;
    uint32_t err; /* error code of the #SS when it overflows */
};

/* The stack that SS:RSP is now. */
struct sys_stack sys_stack_now(const struct tcpu *c);
/* A stack with another segment; in 64-bit mode ss is ignored. */
struct sys_stack sys_stack_make(const struct tcpu *c, const struct x86_segment *ss, uint64_t sp, bool is64,
                                unsigned cpl, uint32_t err);
bool sys_push(struct tcpu *c, struct sys_stack *s, uint64_t v, unsigned width);
bool sys_pop(struct tcpu *c, struct sys_stack *s, uint64_t *v, unsigned width);
/* Pops n values of one width. */
bool sys_pop_n(struct tcpu *c, struct sys_stack *s, uint64_t *v, unsigned n, unsigned width);
/* Makes s.sp the stack pointer, as wide as the stack is. */
void sys_stack_commit(struct tcpu *c, const struct sys_stack *s);
/* Stack pointer that results from loading v into a stack of segment ss. */
uint64_t sys_merge_sp(uint64_t old, uint64_t v, const struct x86_segment *ss, bool is64);

/* SS:ESP (or RSP) for level dpl of the current TSS, checked as 5.8.5 and 6.12.1 say; #TS and #SS get `ext`.
 * *desc is the stack segment's entry (legacy only). */
bool sys_tss_stack(struct tcpu *c, unsigned dpl, uint32_t ext, struct sys_stack *s, struct sys_desc *desc);
/* 64-bit TSS: the pointer at byte `off`, 16 aligned or as it is. */
bool sys_tss_pointer(struct tcpu *c, unsigned off, uint32_t ext, uint64_t *v);

/* ---- mode ---- */

static inline bool sys_tss_is32(const struct tcpu *c)
{
    return (c->seg[S_TR].attr & 8) != 0;
}
static inline bool sys_target_is64(const struct tcpu *c, const struct sys_desc *d)
{
    return cpu_long_mode(c) && (d->hi & 0x200000u);
}
static inline bool sys_is_amd(const struct tcpu *c)
{
    return tvm_cpuid(c->vm)->is_amd;
}

/* ---- task switch (sys_task.c) ---- */
enum sys_task_reason { TASK_JUMP, TASK_CALL, TASK_IRET, TASK_EVENT };

/* Address after the instruction at rip, which the task that it leaves goes on with (8.3): JMP and IRET do not
 * pass it. */
bool sys_next_rip(struct tcpu *c, uint64_t *next);
/* Through the task gate d (already checked for type; sel names it in error codes). */
enum step sys_task_gate(struct tcpu *c, const struct sys_desc *d, enum sys_task_reason reason,
                        uint64_t next_rip, bool has_error, uint32_t error, uint32_t ext);

/* ---- MSRs of KVM (sys_kvm.c) ---- */
bool sys_kvm_rdmsr(struct tcpu *c, uint32_t n, uint64_t *v); /* false: no such MSR */
bool sys_kvm_wrmsr(struct tcpu *c, uint32_t n, uint64_t v);  /* false: #GP is due */
/* The guest TSC was moved: what depends on it follows. */
void sys_tsc_moved(struct tcpu *c);

/* The features that CR4 may switch on, as CPUID told them. */
uint64_t sys_cr4_allowed(const struct cpuid_model *m);
uint64_t sys_efer_allowed(const struct cpuid_model *m);

#endif
