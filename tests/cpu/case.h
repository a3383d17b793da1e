/* Shared by the case files (assembler) and the runner (C): where things are in the guest, and the macros that
 * a case is written with.
 *
 * Each case_*.S is one blob. It begins with CASES(group) and is copied to CASE_BASE. In long mode all RAM is
 * mapped one to one for ring 0; the blob and a data area appear a second time for ring 3 at USER_BASE and
 * USER_DATA. A case ends with PASS or FAIL, which write to DONE_PORT. Most checks are in the guest: a failing
 * one reports its source line. */
/* Most of it is assembler. */
/* clang-format off */
#ifndef TESTS_CPU_CASE_H
#define TESTS_CPU_CASE_H

#define CASE_RAM 0x800000
#define CASE_PARAM 0x8000      /* what the runner tells: see below */
#define CASE_TRAMPOLINE 0x9000 /* start of a second vCPU, by SIPI vector 9 */
#define CASE_BASE 0x100000
#define CASE_BASE_SIZE 0x10000
#define CASE_DATA 0x200000     /* scratch; zero at start */
#define CASE_DATA_SIZE 0x80000
#define CASE_STACK 0x300000    /* top of vCPU 0's ring 0 stack; vCPU n: n * 0x10000 higher */
#define CASE_STACK_DEEP 0x800000
#define USER_BASE 0x40000000   /* blob for ring 3 */
#define USER_DATA 0x50000000   /* CASE_DATA for ring 3 */
#define USER_STACK 0x50080000  /* its top */
#define PAGES 0x60000000       /* 512 pages whose entries a case may set; at first none is present */
#define DEVICE 0x70000000      /* MMIO: the device below, physical 0xd0000000 */
#define DEVICE_GPA 0xd0000000

/* parameters */
#define P_PAGES_PT 0           /* physical address of the page table of PAGES */
#define P_TSC_KHZ 8
#define P_DEVICE32 16
/* Ring 3 by enter_user: bits to set in its RFLAGS, and XCR0 (0: as it is), for where it is to run directly; and
 * that it ran */
#define P_USER_FLAGS 24
#define P_USER_XCR0 32
#define P_USER_ENTERED 40

#define DONE_PORT 0xf4         /* 0: passed, else the line that failed; bits 31:24 an unexpected vector + 1 */
#define ECHO_PORT 0x510        /* remembers what is written; reads give its complement */
#define SUM_PORT 0x520         /* writes (any width) are mixed into a sum: sum = sum * 31 + width * 256 + value */
#define COUNT_PORT 0x530       /* reads give 1, 2, 3 ... plus the width << 24 for 4-byte reads */

#define POKE_PLACE_PORT 0x540  /* where in RAM the next two work, as a device would */
#define POKE_PORT 0x548        /* 4 bytes are stored there */
#define DISCARD_PORT 0x550     /* its page is given back, and is zero from then on */
#define KICK_PORT 0x558        /* all vCPUs leave engine->run() and come again, as at a pause */

/* device: 0x000..0x7ff memory; then 32-bit registers */
#define DEV_LAST_WIDTH 0x800
#define DEV_READS 0x808
#define DEV_WRITES 0x810

/* modes */
#define MODE_LONG 0  /* ring 0, 64-bit, paging, interrupts off */
#define MODE_PROT 1  /* ring 0, 32-bit flat, no paging */
#define MODE_REAL 2  /* real mode at CASE_REAL_BASE (the blob is there too) */
#define CASE_REAL_BASE 0x50000

#ifndef __ASSEMBLER__
#include <stdint.h>
struct cpu_case {
    const char *name;
    uint64_t entry;  /* offset in the blob */
    uint32_t mode, cpus;
    uint64_t exit;   /* enum exit_kind that ends it: EXIT_KICKED by DONE_PORT, or EXIT_SHUTDOWN */
};
struct cpu_group {
    const uint8_t *start, *end;
    const struct cpu_case *cases;
    uint64_t count;
};
#else

/* Opens the file: the blob begins. */
#define CASES(group)                                                                                                   \
    .intel_syntax noprefix;                                                                                           \
    .pushsection .data.rel.ro, "aw";                                                                                  \
    .p2align 4;                                                                                                       \
case_table:                                                                                                           \
    .popsection;                                                                                                      \
    .pushsection .guest, "ax";                                                                                        \
    .p2align 12;                                                                                                      \
blob:

/* Closes it. */
#define CASES_END(group)                                                                                               \
blob_end:                                                                                                             \
    .popsection;                                                                                                      \
    .pushsection .data.rel.ro, "aw";                                                                                  \
case_table_end:                                                                                                       \
    .globl cpu_group_##group;                                                                                         \
cpu_group_##group:                                                                                                    \
    .quad blob, blob_end, case_table, (case_table_end - case_table) / 32;                                             \
    .popsection;                                                                                                      \
    .section .note.GNU-stack, "", @progbits

#define EXIT_BY_PORT 2
#define EXIT_BY_SHUTDOWN 3

#define CASE_EXIT(name, mode, cpus, how)                                                                               \
    .pushsection .rodata.str1.1, "aMS", @progbits, 1;                                                                 \
name_##name:                                                                                                          \
    .asciz #name;                                                                                                     \
    .popsection;                                                                                                      \
    .pushsection .data.rel.ro, "aw";                                                                                  \
    .quad name_##name, name - blob;                                                                                   \
    .long mode, cpus;                                                                                                 \
    .quad how;                                                                                                        \
    .popsection;                                                                                                      \
    .p2align 4;                                                                                                       \
name:
#define CASE(name, mode) CASE_EXIT(name, mode, 1, EXIT_BY_PORT)

/* Addresses of labels of the blob */
#define AT(label) CASE_BASE + label - blob
#define USER_AT(label) USER_BASE + label - blob
#define REAL_AT(label) CASE_REAL_BASE + label - blob

/* Selectors: long_guest.h */
#define LG_CODE32 0x08
#define LG_CODE64 0x10
#define LG_DATA 0x18
#define LG_USER_CODE32 0x23
#define LG_USER_DATA 0x2b
#define LG_USER_CODE64 0x33
#define LG_CODE16 0x38
#define LG_TSS 0x40
#define LG_FREE 0x58
#define LG_GDT 0x1000
#define LG_TSS_AT 0x3000
#define LG_IST1 0x6000
#define LG_TABLES 0x10000

/* ---- 64-bit ring 0. r15 is the macros' own. ---- */
#define PASS xor eax, eax; out DONE_PORT, eax; 96: hlt; jmp 96b
#define FAIL mov r15d, __LINE__; jmp fail64
/* the two are equal: operands as for CMP */
#define EQ(a, b) EQ_TEXT(a, b)
#define EQ_TEXT(a, b) expect __LINE__, #a, #b
#define EQ64(a, value) EQ64_TEXT(a, value)
#define EQ64_TEXT(a, value) expect64 __LINE__, #a, value
/* a condition holds: EXPECT(z), EXPECT(nc) */
#define EXPECT(cc) expect_cc __LINE__, cc
/* The instruction gives this exception with this error code (0 if it has none). Goes on after it, in ring 0. */
#define FAULTS(vec, err, insn...) FAULTS_TEXT(vec, err, insn)
#define FAULTS_TEXT(vec, err, insn...) expect_fault __LINE__, vec, err, #insn
/* As FAULTS for a #PF at this address (a register or immediate that fits CMP r64). */
#define PAGE_FAULTS(err, addr, insn...) FAULTS_TEXT(14, err, insn); EQ(got_cr2[rip], addr)
/* As PAGE_FAULTS, for a jump or call that arrives at addr, where the fetch fails. rsp is put back. */
#define FETCH_FAULTS(err, addr, insn...)                                                                               \
    lea r15, [rip + 77f]; mov back[rip], r15; mov back_rsp[rip], rsp; mov byte ptr armed[rip], 1; insn;               \
    mov r15d, __LINE__; jmp fail64; 77: EQ(dword ptr got_vector[rip], 14); EQ(dword ptr got_error[rip], err);         \
    EQ(got_cr2[rip], addr); EQ(got_rip[rip], addr)
/* As FAULTS, for a jump to ring 3 code at a label: the exception comes from there. */
#define USER_FAULTS(vec, err, label) expect_user_fault __LINE__, vec, err, label
/* Runs ring 3 code at the label until it does INT 0x30, and comes back in ring 0. All registers but rsp, r15 are kept. */
#define RUN_USER(label) lea r15, [rip + 77f]; mov back[rip], r15; mov r15, USER_AT(label); jmp enter_user; 77:

    .macro expect line, a, b
    cmp \a, \b
    je 88f
    mov r15d, \line
    jmp fail64
88:
    .endm
    .macro expect64 line, a, value
    movabs r15, \value
    cmp \a, r15
    je 88f
    mov r15d, \line
    jmp fail64
88:
    .endm
    .macro expect_cc line, cc
    j\cc 88f
    mov r15d, \line
    jmp fail64
88:
    .endm
    .macro expect_fault line, vec, err, insn
    lea r15, [rip + 77f]
    mov back[rip], r15
    mov back_rsp[rip], rsp
    lea r15, [rip + 66f]
    mov byte ptr armed[rip], 1
66:
    \insn
    mov r15d, \line
    jmp fail64
77:
    cmp dword ptr got_vector[rip], \vec
    jne 99f
    cmp dword ptr got_error[rip], \err
    jne 99f
    cmp r15, got_rip[rip]
    je 88f
99:
    mov r15d, \line
    jmp fail64
88:
    .endm
    .macro expect_user_fault line, vec, err, label
    lea r15, [rip + 77f]
    mov back[rip], r15
    mov byte ptr armed[rip], 1
    mov r15, USER_BASE + \label - blob
    jmp enter_user
77:
    cmp dword ptr got_vector[rip], \vec
    jne 99f
    cmp dword ptr got_error[rip], \err
    jne 99f
    test byte ptr got_cs[rip], 3
    jnz 88f
99:
    mov r15d, \line
    jmp fail64
88:
    .endm
#endif

#endif
