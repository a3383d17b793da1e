/* System behaviour of the CPU: modes, segments, control transfers, exceptions, MSRs. All light. Implemented
 * in sys_event.c (exception and interrupt delivery, IRET), sys_seg.c (segment loads, far transfers,
 * system-call instructions), sys_reg.c (control and debug registers, MSRs, CPUID, XCR0). Sources: Intel SDM
 * volumes 2 and 3; AMD APM volumes 2 and 3 where the vendor told to the guest is AMD. */
#ifndef TRANSLATOR_SYS_H
#define TRANSLATOR_SYS_H

#include "engine/translator/cpu.h"

/* Attributes of the flat segments that SYSCALL and its kin load; size: SEG_L or SEG_DB. */
#define SYS_FLAT_CODE(cpl, size)                                                                             \
    (SEG_P | SEG_S | SEG_CODE | SEG_RW | SEG_ACCESSED | SEG_G | (size) | (unsigned)(cpl) << SEG_DPL_SHIFT)
#define SYS_FLAT_DATA(cpl)                                                                                   \
    (SEG_P | SEG_S | SEG_RW | SEG_ACCESSED | SEG_G | SEG_DB | (unsigned)(cpl) << SEG_DPL_SHIFT)
/* What SYSRET loads from R11: volume 2, SYSRET: RF, VM and reserved bits are clear */
#define SYS_SYSRET_FLAGS 0x3c7fd7

/* MSR 0x1d9 */
#define DEBUGCTL_LBR 1ull
#define DR6_BS (1u << 14) /* a single step */
#define DEBUGCTL_BTF 2ull

/* Recomputes cpl, mmu_idx, code_bits and the copies of FS/GS base after seg[], cr0, efer or rflags changed.
 */
void sys_mode_changed(struct tcpu *c);
/* Recomputes tcpu.watch; sys_mode_changed does, and writing DR7. */
void sys_watch_changed(struct tcpu *c);
void sys_watch_data(struct tcpu *c, uint64_t lin, unsigned size, bool write); /* notes breakpoints met */
/* For an access of the general path while tcpu.watch is not 0: #AC, or notes breakpoints that it meets.
 * False: an exception is pending. */
bool sys_watch_access(struct tcpu *c, uint64_t lin, unsigned size, bool write);
/* Raises #DB for the breakpoints noted, and for a single step. */
void sys_raise_trap(struct tcpu *c, bool step);
void sys_watch_io(struct tcpu *c, uint16_t port, unsigned size);
bool sys_watch_code(struct tcpu *c); /* false: #DB for a code breakpoint at rip is pending */
/* 18.4.3: whether with TF only branches that are taken are steps, and where the next instruction is
 * otherwise. A branch to there passes for none. */
bool sys_branch_step(struct tcpu *c, uint64_t *next);

/* -- events (sys_event.c) -- */
/* Delivers c->exc (which must be pending) through the IDT, with double- and triple-fault logic. STEP_NEXT or
 * STEP_SHUTDOWN. RF, CR2, DR6 handled here. */
enum step sys_deliver_exception(struct tcpu *c);
/* Delivers an external interrupt or NMI. Faults during delivery are followed up as above. */
enum step sys_deliver_interrupt(struct tcpu *c, unsigned vector);
enum step sys_deliver_nmi(struct tcpu *c);
/* INT n / INT3 / INTO / ICEBP: length is the instruction's; vm86 and DPL rules inside. */
enum step sys_soft_interrupt(struct tcpu *c, unsigned vector, unsigned insn_len, bool is_int_n);
enum step sys_iret(struct tcpu *c, unsigned opsize); /* opsize 2, 4, 8 */

/* -- segments and transfers (sys_seg.c). next_rip is the address after the instruction. -- */
bool sys_load_seg(struct tcpu *c, unsigned seg,
                  uint16_t sel); /* MOV/POP/LxS to ES SS DS FS GS; sets int_shadow for SS */
enum step sys_far_jump(struct tcpu *c, uint16_t sel, uint64_t off, unsigned opsize);
enum step sys_far_call(struct tcpu *c, uint16_t sel, uint64_t off, unsigned opsize, uint64_t next_rip);
enum step sys_far_ret(struct tcpu *c, unsigned opsize, unsigned pop_bytes);
enum step sys_syscall(struct tcpu *c, uint64_t next_rip);
enum step sys_sysret(struct tcpu *c, unsigned opsize);
enum step sys_sysenter(struct tcpu *c);
enum step sys_sysexit(struct tcpu *c, unsigned opsize);
bool sys_lldt(struct tcpu *c, uint16_t sel);
bool sys_ltr(struct tcpu *c, uint16_t sel);
/* LAR/LSL/VERR/VERW: true with *zf; *value valid if *zf. False on fault. */
bool sys_lar(struct tcpu *c, uint16_t sel, uint32_t *value, bool *zf);
bool sys_lsl(struct tcpu *c, uint16_t sel, uint32_t *value, bool *zf);
bool sys_verify(struct tcpu *c, uint16_t sel, bool write, bool *zf);
bool sys_swapgs(struct tcpu *c);
/* Task switch through a TSS or task gate (32-bit protected mode). */
enum step sys_task_switch(struct tcpu *c, uint16_t tss_sel, int reason, uint64_t next_rip, bool has_error,
                          uint32_t error);

/* -- registers (sys_reg.c) -- */
bool sys_read_cr(struct tcpu *c, unsigned n, uint64_t *v);
bool sys_write_cr(struct tcpu *c, unsigned n, uint64_t v);
bool sys_clts(struct tcpu *c);
bool sys_lmsw(struct tcpu *c, uint16_t v);
bool sys_read_dr(struct tcpu *c, unsigned n, uint64_t *v);
bool sys_write_dr(struct tcpu *c, unsigned n, uint64_t v);
bool sys_rdmsr(struct tcpu *c, uint32_t n, uint64_t *v); /* raises #GP; no CPL check */
bool sys_wrmsr(struct tcpu *c, uint32_t n, uint64_t v);
void sys_cpuid(struct tcpu *c); /* EAX/ECX in gpr to EAX..EDX */
bool sys_xsetbv(struct tcpu *c, uint32_t n, uint64_t v);
bool sys_xgetbv(struct tcpu *c, uint32_t n, uint64_t *v);
uint64_t sys_tsc(struct tcpu *c); /* guest TSC now */
bool sys_invlpg(struct tcpu *c, uint64_t lin);
bool sys_invpcid(struct tcpu *c, uint64_t type, uint64_t pcid, uint64_t lin);
/* Whether the current task may access `width` ports from `port`; raises #GP(0) if not. */
bool sys_io_allowed(struct tcpu *c, uint16_t port, unsigned width);
/* VMCALL / VMMCALL: KVM's hypercalls (kick, send IPI, sched yield). */
enum step sys_hypercall(struct tcpu *c);
/* Full INIT (keeps what INIT keeps) and SIPI. */
void sys_init(struct tcpu *c);
void sys_sipi(struct tcpu *c, uint8_t vector);
/* Updates KVM's clock page of this vCPU (on write of the MSR and after a pause). */
void sys_kvmclock_update(struct tcpu *c);
/* Tells the guest in the same page that it did not run for a while. The vCPU's thread, or no vCPU runs. */
void sys_kvmclock_stopped(struct tcpu *c);
/* The same if the timer of the local APIC, which is due, has been so for long. */
void sys_late_look(struct tcpu *c);

#endif
