/* The state of one virtual CPU as plain data, the same for every engine, so that a saved machine can cross
 * engines. */
#ifndef X86_STATE_H
#define X86_STATE_H

#include "util/base.h"
#include "x86/regs.h"

/* A segment register with its hidden part. attr has the bits of the descriptor's bytes 5 and 6:
 * type 0-3, S 4, DPL 5-6, P 7, AVL 12, L 13, D/B 14, G 15. limit is in bytes, already scaled by G.
 * An unusable segment (null selector in protected mode) has P clear. */
struct x86_segment {
    uint64_t base;
    uint32_t limit;
    uint16_t sel;
    uint16_t attr;
};

#define SEG_TYPE 0x000fu
#define SEG_CODE 0x0008u    /* with S: code */
#define SEG_CONFORM 0x0004u /* code: conforming; data: expand down */
#define SEG_RW 0x0002u      /* code: readable; data: writable */
#define SEG_ACCESSED 0x0001u
#define SEG_S 0x0010u
#define SEG_DPL_SHIFT 5
#define SEG_DPL 0x0060u
#define SEG_P 0x0080u
#define SEG_AVL 0x1000u
#define SEG_L 0x2000u
#define SEG_DB 0x4000u
#define SEG_G 0x8000u

struct x86_table {
    uint64_t base;
    uint16_t limit;
};

#define X86_XSAVE_MAX 4096
#define X86_MTRR_FIXED 11 /* MSRs 0x250, 0x258, 0x259, 0x268 to 0x26f */
#define X86_MTRR_VAR 8    /* pairs of base and mask from MSR 0x200 */

struct x86_lapic_state {
    uint64_t apic_base;                       /* MSR_APIC_BASE */
    uint32_t regs[64];                        /* register at offset n * 0x10 */
    uint64_t tsc_deadline;                    /* 0: not armed */
    uint64_t timer_start_ns, timer_period_ns; /* count-down timer, machine clock */
};

enum x86_mp_state { X86_MP_RUNNING, X86_MP_HALTED, X86_MP_WAIT_INIT, X86_MP_WAIT_SIPI };

struct x86_state {
    uint64_t gpr[16]; /* R_AX ... R_15 */
    uint64_t rip, rflags;
    struct x86_segment seg[S_COUNT];
    struct x86_table gdt, idt;
    uint64_t cr0, cr2, cr3, cr4, cr8, xcr0, efer;
    uint64_t dr[8];
    uint64_t star, lstar, cstar, fmask, kernel_gs_base;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
    uint64_t tsc, tsc_aux, pat, misc_enable, spec_ctrl;
    uint64_t tsc_adjust;    /* tsc has it in already */
    bool tsc_any;           /* set only: any value is as good as tsc, as after firmware that has taken its time */
    uint64_t debugctl;      /* of it the translator has LBR, without effect, and BTF */
    uint64_t misc_features; /* Intel's MSR_MISC_FEATURES_ENABLES: CPUID faulting */
    uint64_t mtrr_def_type;
    uint64_t mtrr_fixed[X86_MTRR_FIXED], mtrr_var[2 * X86_MTRR_VAR]; /* base, mask, base ... */
    uint64_t kvm_system_time, kvm_wall_clock, kvm_pv_eoi;
    uint32_t mp_state; /* enum x86_mp_state */
    uint8_t sipi_vector;
    uint8_t nmi_pending, nmi_masked, int_shadow; /* int_shadow: after STI or MOV SS */
    uint8_t exc_pending, exc_vector,
        exc_has_error; /* an exception that is to be delivered at the next entry */
    uint32_t exc_error;
    struct x86_lapic_state lapic;
    _Alignas(64) uint8_t xsave[X86_XSAVE_MAX]; /* standard (non-compacted) format */
};

/* Power-on / INIT state of vCPU `apic_id` (Intel SDM volume 3, 10.1.1): real mode at f000:fff0. */
void x86_state_reset(struct x86_state *s, uint32_t apic_id);

#endif
