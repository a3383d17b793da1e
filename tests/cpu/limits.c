#include "limits.h"

#include <stdlib.h>
#include <string.h>

struct limit {
    const char *name, *reason;
};

/* ---- any KVM ---- */

static const struct limit kvm_limits[] = {
    { "hlt_step", "some kernels leave a vCPU halted whose HLT was stepped over" },
    { "mmio_sse",
      "the kernel's emulator, which does accesses outside RAM, knows moves of SSE but no arithmetic" },
    { "x2apic_rules", "the kernel's APIC takes any value for an end of interrupt" },
};

/* ---- a /dev/kvm that interprets guest code (engine_kvm.good says so) ---- */

/* Each reason is where the case ends there, which is known; what the case has behind it is not reached. An
 * instruction that "it has not" ends KVM_RUN with an emulation failure in ring 0, and is #UD in ring 3. */

static const struct limit interpreting_limits[] = {
    { "branch_step", "it keeps nothing in DEBUGCTL" },
    { "fault_reserved_bit_8", "an AMD CPU for CPUID, it takes bit 8 of a PML4E" },
    { "fault_user", "it has no INT n, which ends ring 3 code" },
    { "smep_smap", "it has no STAC and CLAC" },
    { "page_crossing", "it has no SSE compares" },
    { "page_crossing_vector", "it has no MOVQ" },
    { "page_crossing_vector_operand", "it has no MOVQ" },
    { "rep_movs_fault", "REP MOVS stores a part of an element that faults" },
    { "exceptions", "it has no PXOR" },
    { "exceptions_traps", "it has no INT3" },
    { "int_and_iret", "it has no INT n" },
    { "syscall_sysret", "after SYSCALL it still fetches as ring 3" },
    { "syscall_calls", "after SYSCALL it still fetches as ring 3" },
    { "syscall_rules", "it has no INT n" },
    { "fs_gs_base_denied", "it does not obey CR4.FSGSBASE" },
    { "ring3_io_map", "it has no INT n" },
    { "x87_and_mmx", "it has no FLD1" },
    { "x87_pointers", "it has no FLD" },
    { "x87_pointers_calls", "it has no FLDCW" },
    { "sse_exceptions", "it has no LDMXCSR" },
    { "sse_alignment", "it has no ADDPS" },
    { "fxsave_xsave", "it has no FLDPI" },
    { "xcr0", "it has no XGETBV" },
    { "msr_access", "it has no TSC_AUX" },
    { "rdtsc_monotonic", "it does not obey CR4.TSD" },
    { "self_ipi", "it delivers an IPI to itself some instructions late" },
    { "xapic_page", "it delivers an IPI to itself some instructions late" },
    { "nmi_and_iret", "it delivers an IPI to itself some instructions late" },
    { "data_breakpoint", "it has no data breakpoints" },
    { "breakpoint_rep_and_step", "it has no data breakpoints" },
    { "breakpoint_mov_ss", "it has no data breakpoints" },
    { "debug_io_and_detect", "it has no I/O breakpoints" },
    { "single_step_corners", "REP with all its rounds is one step for it" },
    { "gather_step", "it has no VMOVQ" },
    { "gather_rest", "it has no VMOVQ" },
    { "alignment_cmpxchg16b", "it has no CMPXCHG16B" },
    { "alignment_amd", "it has no KMOVW" },
    { "call_gate_rings", "it has no far CALL from ring 3" },
    { "iret_forms", "it refuses IRETD in 64-bit code" },
    { "task_register", "its LTR takes selectors of the LDT" },
    { "alignment_check", "it has no INT n" },
    { "real_x87_and_sse", "it has no FLD1" },
    { "compatibility_mode", "it has no AAA, AAS, DAA and DAS" },
    { "lock_cmpxchg16b", "it has no CMPXCHG16B" },
    { "lock_across_pages", "it is not atomic across pages (some runs do not show it)" },
    { "cross_modifying_loop", "of two bytes of code that another CPU stores at once it may see one" },
    { "real_interrupts", "it has no UD2" },
    { "prot_x87_pointers", "it has no FLD1" },
    { "prot_decimal", "it has no AAA, AAS, DAA and DAS" },
    { "prot_exceptions", "it has no IRET in 32-bit protected mode" },
    { "prot_limits", "it has no IRET in 32-bit protected mode" },
    { "prot_fs_gs", "it has no IRET in 32-bit protected mode" },
    { "prot_ring3", "it has no IRET in 32-bit protected mode" },
    { "prot_paging", "32-bit code that switches paging on ends in a triple fault" },
    { "prot_pae", "32-bit code that switches paging on ends in a triple fault" },
    { "hypercalls", "VMCALL and VMMCALL never end" },
    { "hypercall_ipi", "VMCALL and VMMCALL never end" },
    { "prot_hypercall", "VMCALL and VMMCALL never end" },
};

/* ---- KVM on the CPU that QEMU 7.2 emulates (YADO_KVM_NESTED) ---- */

static const struct limit nested_limits[] = {
    { "branch_step", "QEMU 7.2 keeps nothing in DEBUGCTL" },
    { "fault_not_present", "it reads before it writes: INC of an absent page faults as a read" },
    { "fault_reserved_bit", "it does not look at reserved bits of page tables" },
    { "fault_reserved_bit_8", "it does not look at reserved bits of page tables" },
    { "fault_no_execute", "it does not look at reserved bits of page tables" },
    { "large_page", "it does not look at reserved bits of page tables" },
    { "non_canonical", "it does not tell #SS from #GP for addresses that are not canonical" },
    { "page_crossing", "it reads before it writes: XADD of an absent page faults as a read" },
    { "exceptions_traps", "the error code for a vector without a gate is 16 * vector + 2 in 64-bit mode" },
    { "int_and_iret", "the error code for a gate that is not for ring 3 is 16 * vector + 2 in 64-bit mode" },
    { "x87_pointers", "FXSAVE stores no pointers" },
    { "x87_pointers_calls", "FXSAVE stores no pointers" },
    { "sse_exceptions", "it raises no SIMD exceptions" },
    { "xcr0", "AVX stays usable when XCR0 takes it away" },
    { "msr_access", "it lets reserved bits of CR0 be set" },
    { "prot_pae", "it does not look at reserved bits of page tables" },
    { "user_large_reserved", "it does not look at reserved bits of page tables" },
    { "user_traps", "INT1 is a fault of its own for it" },
    { "user_faults", "it does not tell #SS from #GP for addresses that are not canonical" },
    { "user_flags", "it makes no alignment check" },
    { "user_bases", "it lets WRFSBASE take an address that is not canonical" },
    { "user_code_discarded", "what reads and writes faults as a read" },
    { "user_shot_present", "what reads and writes faults as a read" },
    { "user_shot_user", "what reads and writes faults as a read" },
    { "prot_limits", "it does not check segment limits" },
    { "prot_fs_gs", "it does not check segment limits" },
    { "debug_io_and_detect", "OUT to a watched port does not trap" },
    { "single_step_corners", "the trap of a step over STI comes elsewhere" },
    { "gather_step", "a step of a gather that faults half done is the fault alone" },
    { "alignment_check", "it makes no alignment check" },
    { "alignment_cmpxchg16b", "it does not tell #SS from #GP for addresses that are not canonical" },
    { "alignment_amd", "it makes no alignment check" },
    { "call_gate_rings", "it does not refuse a call gate to an address that is not canonical" },
    { "iret_forms", "it does not refuse IRET to an address that is not canonical" },
    { "task_register", "it takes LTR of the null selector" },
    { "breakpoint_mov_ss",
      "the trap of MOV SS from a watched place comes elsewhere than one instruction later" },
    { "fs_gs_bases", "it lets WRFSBASE take an address that is not canonical" },
};

/* This emulated CPU keeps a guest's breakpoints after the exit from it. The kernel that runs the guest
 * survives one such case; of these four in a row it died in the last, without a word, each time of three. */
static const char *const nested_alone[] = {
    "data_breakpoint",
    "breakpoint_rep_and_step",
    "code_breakpoint",
    "breakpoint_mov_ss",
};

static const char *find(const struct limit *limits, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++) {
        if (!strcmp(limits[i].name, name))
            return limits[i].reason;
    }
    return NULL;
}

const char *cpu_limit(const struct engine_ops *engine, const char *case_name)
{
    const char *reason;

    if (engine != &engine_kvm)
        return NULL;
    reason = find(kvm_limits, array_size(kvm_limits), case_name);
    if (!reason && getenv("YADO_KVM_NESTED"))
        reason = find(nested_limits, array_size(nested_limits), case_name);
    else if (!reason && !engine->good(NULL))
        reason = find(interpreting_limits, array_size(interpreting_limits), case_name);
    return reason;
}

bool cpu_case_alone(const struct engine_ops *engine, const char *case_name)
{
    if (engine != &engine_kvm)
        return false;
    if (!getenv("YADO_KVM_NESTED")) /* an interpreting one: no INT n, with which all of these end */
        return !strncmp(case_name, "user_", 5) && !engine->good(NULL);
    for (size_t i = 0; i < array_size(nested_alone); i++) {
        if (!strcmp(nested_alone[i], case_name))
            return true;
    }
    return false;
}

bool cpu_case_indirect(const char *case_name)
{
    static const char *const names[] = { "rdtsc_monotonic" /* CR4.TSD */, "user_hole_taken" };

    for (size_t i = 0; i < array_size(names); i++) {
        if (!strcmp(names[i], case_name))
            return true;
    }
    return false;
}
