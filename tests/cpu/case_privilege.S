/* 64-bit cases on one vCPU, second part: PCIDs, far transfers, task register, debug registers, alignment checks. Sections are of
 * Intel SDM volume 3 (2023-12) unless another is named. */
#include "case.h"
CASES(privilege)
#include "prelude.S"

    .macro has_pcid otherwise
    push rbx
    mov eax, 1
    cpuid
    pop rbx
    bt ecx, 17
    jnc \otherwise
    .endm

/* ---- process-context identifiers: 4.10.1, 4.10.4.1 ---- */

/* When CR4.PCIDE may be set, and what CR3 and CR0 are then. */
CASE(pcid_rules, MODE_LONG)
    has_pcid 9f
    mov rax, cr4
    mov r12, rax
    bts rax, 17
    mov r13, rax
    mov eax, LG_TABLES + 0x18
    mov cr3, rax
    FAULTS(13, 0, mov cr4, r13) /* CR3[11:0] must be 0 */
    mov eax, LG_TABLES
    mov cr3, rax
    mov rcx, 0x8000000000000000 + LG_TABLES
    FAULTS(13, 0, mov cr3, rcx) /* without PCIDs bit 63 is reserved */
    mov cr4, r13
    mov rax, cr4
    EQ(rax, r13)
    mov cr3, rcx
    mov rax, cr3
    EQ(rax, LG_TABLES) /* bit 63 is not kept */
    mov rcx, 0x8000000000000fff + LG_TABLES
    mov cr3, rcx
    mov rax, cr3
    EQ(rax, LG_TABLES + 0xfff)
    mov rcx, 0x4000000000000000 + LG_TABLES
    FAULTS(13, 0, mov cr3, rcx)
    mov rax, cr0
    btr rax, 31
    FAULTS(13, 0, mov cr0, rax) /* 4.1.2: paging cannot be left with PCIDs on */
    mov cr4, r12
    mov rax, cr3
    EQ(rax, LG_TABLES + 0xfff)
    mov eax, LG_TABLES
    mov cr3, rax
    PASS
9:  mov rax, cr4
    bts rax, 17
    FAULTS(13, 0, mov cr4, rax)
    PASS

    /* The page's contents are read through the TLB: first frame says 1, second 2. */
    .macro pcid_frames
    mov dword ptr [FRAME], 1
    mov dword ptr [FRAME + 0x1000], 2
    mov rbx, PAGES + 20 * 4096
    mov rsi, [CASE_PARAM + P_PAGES_PT]
    .endm
    .macro pcid_map frame, bits
    mov qword ptr [rsi + 20 * 8], FRAME + \frame * 0x1000 + \bits
    .endm
    .macro load_cr3 value
    mov rax, \value
    mov cr3, rax
    .endm
#define KEEP 0x8000000000000000

/* What a CR3 load must not leave in the TLB, and what INVLPG and clearing PCIDE take out. */
CASE(pcid_flush, MODE_LONG)
    has_pcid 9f
    mov rax, cr4
    mov r12, rax
    bts rax, 17
    mov cr4, rax
    pcid_frames
    load_cr3 LG_TABLES + 1
    pcid_map 0, RW_S
    invlpg [rbx]
    EQ(dword ptr [rbx], 1)
    load_cr3 LG_TABLES + 2
    EQ(dword ptr [rbx], 1)
    pcid_map 1, RW_S
    load_cr3 LG_TABLES + 2 /* of PCID 2 nothing stays */
    EQ(dword ptr [rbx], 2)
    load_cr3 LG_TABLES + 1 /* nor of PCID 1 now */
    EQ(dword ptr [rbx], 2)
    load_cr3 KEEP + LG_TABLES + 2
    EQ(dword ptr [rbx], 2)
    pcid_map 0, RW_S
    invlpg [rbx] /* of the current PCID */
    EQ(dword ptr [rbx], 1)
    load_cr3 KEEP + LG_TABLES + 1
    invlpg [rbx]
    EQ(dword ptr [rbx], 1)
    pcid_map 1, RW_S
    load_cr3 LG_TABLES
    mov cr4, r12
    EQ(dword ptr [rbx], 2) /* 4.10.4.1: changing PCIDE empties all */
    /* global pages survive a CR3 load, or not; but not INVLPG under another PCID */
    bts r12, 17
    mov cr4, r12
    load_cr3 LG_TABLES + 3
    pcid_map 0, RW_S + 0x100
    invlpg [rbx]
    EQ(dword ptr [rbx], 1)
    pcid_map 1, RW_S
    load_cr3 KEEP + LG_TABLES + 4
    invlpg [rbx]
    EQ(dword ptr [rbx], 2)
    load_cr3 LG_TABLES
9:  PASS

/* Volume 2, INVPCID */
CASE(invpcid, MODE_LONG)
    mov eax, 7
    xor ecx, ecx
    cpuid
    bt ebx, 10
    jnc 9f
    mov edi, CASE_DATA + 0x100 /* the descriptor: PCID, linear address */
    mov qword ptr [rdi], 0
    mov rbx, PAGES + 20 * 4096
    mov [rdi + 8], rbx
    mov eax, 4
    FAULTS(13, 0, invpcid rax, [rdi])
    mov qword ptr [rdi], 0x1000
    mov eax, 1
    FAULTS(13, 0, invpcid rax, [rdi])
    mov qword ptr [rdi], 5 /* PCIDE is clear */
    FAULTS(13, 0, invpcid rax, [rdi])
    mov qword ptr [rdi], 0
    mov rax, 0x8000000000000000
    mov [rdi + 8], rax
    xor eax, eax
    FAULTS(13, 0, invpcid rax, [rdi])
    mov rax, 0x100000000 + 2 /* all 64 bits are the type */
    FAULTS(13, 0, invpcid rax, [rdi])
    mov r8, PAGES + 40 * 4096 - 8
    PAGE_FAULTS(0, r8, invpcid rax, [r8])
    USER_FAULTS(13, 0, 5f)
    pcid_frames
    /* PCIDs off: each type takes the page out */
    .set type, 0
    .rept 4
    mov qword ptr [rdi], 0
    mov [rdi + 8], rbx
    pcid_map 0, RW_S
    invlpg [rbx]
    EQ(dword ptr [rbx], 1)
    pcid_map 1, RW_S
    mov eax, type
    invpcid rax, [rdi]
    EQ(dword ptr [rbx], 2)
    .set type, type + 1
    .endr
    /* type 2: global pages too */
    pcid_map 0, RW_S + 0x100
    mov eax, 2
    invpcid rax, [rdi]
    EQ(dword ptr [rbx], 1)
    pcid_map 1, RW_S
    invpcid rax, [rdi]
    EQ(dword ptr [rbx], 2)
    has_pcid 9f
    /* on: entries of PCID 1 go while PCID 2 runs */
    mov rax, cr4
    bts rax, 17
    mov cr4, rax
    .set type, 0
    .rept 4
    load_cr3 LG_TABLES + 1
    pcid_map 0, RW_S
    load_cr3 LG_TABLES + 1
    EQ(dword ptr [rbx], 1)
    load_cr3 LG_TABLES + 2
    EQ(dword ptr [rbx], 1)
    pcid_map 1, RW_S
    mov qword ptr [rdi], 1
    mov eax, type
    invpcid rax, [rdi]
    load_cr3 KEEP + LG_TABLES + 1
    EQ(dword ptr [rbx], 2)
    .set type, type + 1
    .endr
    load_cr3 LG_TABLES
9:  PASS
5:  invpcid rax, [rsp]

CASES_END(privilege)
