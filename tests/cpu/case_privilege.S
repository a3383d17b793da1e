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

/* ---- debug registers: 18.2, 18.3.1 ---- */

    /* The next exception goes to the label. Uses rax. */
    .macro arm label
    lea rax, [rip + \label]
    mov back[rip], rax
    mov back_rsp[rip], rsp
    mov byte ptr armed[rip], 1
    .endm
    .macro set_dr7 value
    mov eax, \value
    mov dr7, rax
    .endm
    /* A trap behind the next instruction. */
    .macro step_on
    pushfq
    or dword ptr [rsp], 0x100
    popfq
    .endm
    .macro clear_dr6
    mov eax, 0xffff0ff0
    mov dr6, rax
    .endm
#define TRAP_AT(label) EQ(qword ptr got_vector[rip], 1); lea rax, [rip + label]; EQ(rax, got_rip[rip])
#define DR6_IS(bits) mov rax, dr6; EQ(eax, 0xffff0ff0 + bits)

/* A data breakpoint is a trap behind the instruction that meets its bytes. */
CASE(data_breakpoint, MODE_LONG)
    clear_dr6
    mov ebx, CASE_DATA + 0x100
    mov dr0, rbx
    lea rax, [rbx + 8]
    mov dr3, rax
    set_dr7 0x000d0401 /* 0: 4 bytes, writes */
    mov eax, [rbx] /* reads are let through */
    mov [rbx + 4], eax
    mov [rbx - 4], eax
    arm 1f
    mov byte ptr [rbx + 3], 7
2:  FAIL
1:  TRAP_AT(2b)
    DR6_IS(1)
    EQ(byte ptr [rbx + 3], 7) /* it has been done */
    clear_dr6
    arm 1f
    mov [rbx - 2], eax /* touches two of its bytes */
2:  FAIL
1:  TRAP_AT(2b)
    DR6_IS(1)
    clear_dr6
    set_dr7 0xb0000480 /* 3: 8 bytes, reads and writes */
    arm 1f
    add cl, [rbx + 15]
2:  FAIL
1:  TRAP_AT(2b)
    DR6_IS(8)
    clear_dr6
    arm 1f
    movups xmm0, [rbx + 1]
2:  FAIL
1:  TRAP_AT(2b)
    DR6_IS(8)
    clear_dr6
    arm 1f
    lea rsp, [rbx + 16]
    push rcx
2:  FAIL
1:  TRAP_AT(2b)
    DR6_IS(8)
    clear_dr6
    set_dr7 0x400
    mov [rbx], rax
    mov [rbx + 8], rax
    DR6_IS(0)
    PASS

/* In REP after each iteration; with TF both causes come at once. */
CASE(breakpoint_rep_and_step, MODE_LONG)
    clear_dr6
    mov eax, CASE_DATA + 0x102
    mov dr1, rax
    set_dr7 0x00100404 /* 1: one byte, writes */
    mov edi, CASE_DATA + 0x100
    mov ecx, 5
    arm 1f
2:  rep stosb
    FAIL
1:  EQ(qword ptr got_vector[rip], 1)
    lea rax, [rip + 2b]
    EQ(rax, got_rip[rip])
    EQ(edi, CASE_DATA + 0x103)
    EQ(ecx, 2)
    DR6_IS(2)
    clear_dr6
    arm 1f
    step_on
    mov byte ptr [CASE_DATA + 0x102], 1
2:  FAIL
1:  TRAP_AT(2b)
    DR6_IS(0x4002)
    PASS

/* A code breakpoint is a fault; RF lets the instruction run. */
CASE(code_breakpoint, MODE_LONG)
    clear_dr6
    lea rax, [rip + 2f]
    mov dr2, rax
    set_dr7 0x00000420
    xor ebx, ebx
    arm 1f
    inc ebx
2:  inc ebx
    FAIL
1:  TRAP_AT(2b)
    DR6_IS(4)
    EQ(ebx, 1)
    mov rax, got_rflags[rip]
    bt eax, 16
    EXPECT(nc) /* 18.3.1.1: the handler sets it */
    clear_dr6
    mov rcx, rsp
    push LG_DATA
    push rcx
    pushfq
    or dword ptr [rsp], 0x10000
    push LG_CODE64
    lea rax, [rip + 2b]
    push rax
    lea rax, [rip + 3f]
    mov fail_line[rip], rax
    /* what stands at 2 goes to FAIL: put a jump there */
    mov rdx, [rip + 2b]
    lea rax, [rip + 2b]
    mov word ptr [rax + 2], 0x27ff
    mov rdi, offset fail_line - blob + CASE_BASE
    iretq
3:  EQ(ebx, 2)
    DR6_IS(0)
    set_dr7 0x400
    PASS
    .p2align 3
fail_line: .quad 0

/* 6.8.3: MOV SS puts off breakpoints and the single step until the next instruction is done. */
CASE(breakpoint_mov_ss, MODE_LONG)
    clear_dr6
    mov ebx, CASE_DATA + 0x100
    mov word ptr [rbx], LG_DATA
    mov dr0, rbx
    set_dr7 0x00030401 /* 0: one byte, reads and writes */
    xor ecx, ecx
    arm 1f
    mov ss, [rbx]
    inc ecx
2:  inc ecx
    FAIL
1:  TRAP_AT(2b)
    DR6_IS(1)
    EQ(ecx, 1)
    clear_dr6
    mov rax, [0x2000 + 16] /* INT1 is one #DB with it */
    push rax
    lea rax, [rip + 4f]
    mov [0x2000 + 16], ax
    shr eax, 16
    mov [0x2000 + 16 + 6], ax
    xor ecx, ecx
    mov ss, [rbx]
    .byte 0xf1
2:  EQ(ecx, 1)
    DR6_IS(1)
    pop rax
    mov [0x2000 + 16], rax
    clear_dr6
    lea rax, [rip + 3f]
    mov dr0, rax
    set_dr7 0x00000401 /* 0: code */
    mov eax, LG_DATA
    mov ss, eax
3:  nop
    DR6_IS(0)
    set_dr7 0x400
    xor ecx, ecx
    arm 1f
    step_on
    mov ss, [rbx]
    inc ecx
    inc ecx
    FAIL
1:  EQ(qword ptr got_vector[rip], 1)
    EQ(ecx, 1)
    DR6_IS(0x4000)
    PASS
4:  inc ecx
    lea rax, [rip + 2b]
    cmp rax, [rsp]
    je 5f
    FAIL
5:  iretq

/* CR4.DE: I/O breakpoints. Without it the kind is undefined, so only with it. General detect; DR4 and DR5. */
CASE(debug_io_and_detect, MODE_LONG)
    clear_dr6
    mov rax, cr4
    bts rax, 3
    mov cr4, rax
    FAULTS(6, 0, mov rax, dr4)
    mov eax, ECHO_PORT
    mov dr1, rax
    set_dr7 0x00200404 /* 1: I/O, one byte */
    mov edx, COUNT_PORT
    in al, dx
    mov edx, ECHO_PORT
    arm 1f
    out dx, al
2:  FAIL
1:  TRAP_AT(2b)
    DR6_IS(2)
    clear_dr6
    set_dr7 0x2400 /* GD */
    FAULTS(1, 0, mov rax, dr0)
    mov rax, dr6
    EQ(eax, 0xffff2ff0)
    mov rax, dr7 /* GD is clear in the handler */
    EQ(eax, 0x400)
    mov rax, cr4
    btr rax, 3
    mov cr4, rax
    mov rcx, dr4 /* an alias of DR6 now */
    EQ(ecx, 0xffff2ff0)
    PASS

/* Single step: through REP one iteration at a time, none behind INT n, SYSCALL by the new TF. */
CASE(single_step_corners, MODE_LONG)
    clear_dr6
    mov esi, CASE_DATA
    mov edi, CASE_DATA + 0x100
    mov ecx, 3
    arm 1f
    step_on
2:  rep movsb
    FAIL
1:  TRAP_AT(2b)
    EQ(ecx, 2)
    DR6_IS(0x4000)
    /* STI's shadow holds interrupts back, not the trap */
    clear_dr6
    arm 1f
    step_on
    sti
2:  FAIL
1:  TRAP_AT(2b)
    cli
    mov byte ptr no_eoi[rip], 1
    clear_dr6
    xor ebx, ebx
    arm 1f
    step_on
    int 0x41 /* its handler is not stepped through, nor the call itself; IRET brings TF back */
    inc ebx
2:  FAIL
1:  TRAP_AT(2b)
    EQ(ebx, 1)
    EQ(dword ptr irq_count[rip + 4], 1)
    PASS

/* Volume 2, VPGATHERQQ: a trap goes before the fault of a gather that is half done, at the gather itself. */
CASE(gather_step, MODE_LONG)
    set_page 2, 0
    mov ebx, FRAME
    movabs rax, 0x1122334455667788
    mov [rbx], rax
    xor eax, eax
    vmovq xmm1, rax
    mov rax, PAGES + 0x2000 - FRAME
    vpinsrq xmm1, xmm1, rax, 1
    vpcmpeqd xmm2, xmm2, xmm2
    vpxor xmm0, xmm0, xmm0
    clear_dr6
    arm 1f
    step_on
2:  vpgatherqq xmm0, [rbx + xmm1], xmm2
    FAIL
1:  TRAP_AT(2b)
    DR6_IS(0x4000)
    vmovq rcx, xmm0
    movabs rax, 0x1122334455667788
    EQ(rcx, rax)
    vpextrq rax, xmm2, 0
    EQ(rax, 0)
    vpextrq rax, xmm2, 1
    EQ(rax, -1)
    bt dword ptr got_rflags[rip], 16
    EXPECT(c)
    mov r8, PAGES + 0x2000
    PAGE_FAULTS(0, r8, vpgatherqq xmm0, [rbx + xmm1], xmm2)
    /* and so does a breakpoint on what is gathered; without the fault it is met behind */
    mov dr0, rbx
    vpcmpeqd xmm2, xmm2, xmm2
    clear_dr6
    set_dr7 0x000f0401
    arm 1f
2:  vpgatherqq xmm0, [rbx + xmm1], xmm2
    FAIL
1:  TRAP_AT(2b)
    DR6_IS(1)
    vpxor xmm1, xmm1, xmm1
    vpcmpeqd xmm2, xmm2, xmm2
    clear_dr6
    arm 1f
    vpgatherqq xmm0, [rbx + xmm1], xmm2
2:  FAIL
1:  TRAP_AT(2b)
    DR6_IS(1)
    set_dr7 0x400
    PASS

/* A debug exception ends HLT: volume 2, HLT. */
CASE(hlt_step, MODE_LONG)
    clear_dr6
    arm 1f
    step_on
    hlt
2:  FAIL
1:  TRAP_AT(2b)
    DR6_IS(0x4000)
    PASS

/* 18.4.3: with DEBUGCTL.BTF only branches that are taken are steps; the trap clears it. */
CASE(branch_step, MODE_LONG)
    mov ecx, 0x1d9
    mov eax, 2
    xor edx, edx
    wrmsr
    rdmsr
    EQ(eax, 2)
    clear_dr6
    xor ebx, ebx
    arm 1f
    step_on
    inc ebx
    test ebx, ebx
    jz 2f /* not taken */
    pxor xmm0, xmm0
    inc ebx
    jmp 2f
    FAIL
2:  FAIL
1:  TRAP_AT(2b)
    EQ(ebx, 2)
    DR6_IS(0x4000)
    mov ecx, 0x1d9
    rdmsr
    EQ(eax, 0)
    PASS

/* ---- alignment checks: 6.15, #AC ---- */
CASE(alignment_check, MODE_LONG)
    RUN_USER(1f)
    mov eax, CASE_DATA + 1 /* ring 0: none */
    pushfq
    or dword ptr [rsp], 0x40000
    popfq
    mov ecx, [rax]
    pushfq
    and dword ptr [rsp], ~0x40000
    popfq
    USER_FAULTS(17, 0, 2f)
    USER_FAULTS(17, 0, 3f)
    USER_FAULTS(17, 0, 4f)
    mov rax, cr0
    btr rax, 18
    mov cr0, rax
    RUN_USER(5f)
    PASS
1:  mov ecx, [r15 + 1] /* AC is clear */
    int 0x30
2:  pushfq
    or dword ptr [rsp], 0x40000
    popfq
    mov cl, [r15 + 1]
    mov rcx, [r15 + 8]
    mov cx, [r15 + 1]
    ud2
3:  pushfq
    or dword ptr [rsp], 0x40000
    popfq
    mov [r15 + 4], rcx
    ud2
4:  pushfq
    or dword ptr [rsp], 0x40000
    popfq
    lea rsp, [rsp - 4]
    push rax
    ud2
5:  pushfq
    or dword ptr [rsp], 0x40000
    popfq
    mov ecx, [r15 + 1] /* CR0.AM is clear */
    pushfq
    and dword ptr [rsp], ~0x40000
    popfq
    int 0x30

    .macro check_alignment
    pushfq
    or dword ptr [rsp], 0x40000
    popfq
    .endm
    .macro skip_unless_amd otherwise
    xor eax, eax
    cpuid
    cmp ebx, 0x68747541 /* Auth */
    jne \otherwise
    .endm

/* AMD's leave what a VEX gather has not come to as it was when an element faults, mask and upper half (seen on Zen 4). */
CASE(gather_rest, MODE_LONG)
    skip_unless_amd 9f
    set_page 2, 0
    mov ebx, FRAME
    xor eax, eax
    vmovq xmm1, rax
    mov rax, PAGES + 0x2000 - FRAME
    vpinsrq xmm1, xmm1, rax, 1
    movabs rax, 0x8000000012345678
    vmovq xmm2, rax
    vpbroadcastq ymm2, xmm2
    mov r8, PAGES + 0x2000
    PAGE_FAULTS(0, r8, vpgatherqq xmm0, [rbx + xmm1], xmm2)
    vmovq rax, xmm2
    EQ(rax, 0)
    vpextrq rax, xmm2, 1
    EQ64(rax, 0x8000000012345678)
    vextracti128 xmm2, ymm2, 1
    vmovq rax, xmm2
    EQ64(rax, 0x8000000012345678)
9:  PASS

/* The alignment that CMPXCHG16B must have comes before the one that AC asks for; with AMD's before all else. */
CASE(alignment_cmpxchg16b, MODE_LONG)
    USER_FAULTS(12, 0, 1f)
    USER_FAULTS(13, 0, 2f)
    skip_unless_amd 9f
    USER_FAULTS(13, 0, 3f)
9:  PASS
1:  check_alignment
    movabs rbp, 0x7800000000000000
    lock cmpxchg16b [rbp]
2:  check_alignment
    lock cmpxchg16b [r15 + 8]
    ud2
3:  check_alignment
    movabs rbp, 0x7800000000000004
    lock cmpxchg16b [rbp]

/* The alignment that AMD's check of EVEX operands: of 16 bytes, under a mask of an element (seen on Zen 4). And CALL, whose
 * stack they look at before they store: its alignment first. */
CASE(alignment_amd, MODE_LONG)
    skip_unless_amd 9f
    USER_FAULTS(17, 0, 1f)
    mov eax, 7
    xor ecx, ecx
    cpuid
    bt ebx, 16
    jnc 9f
    mov eax, 0xe7
    xor edx, edx
    xor ecx, ecx
    xsetbv
    mov eax, 1
    kmovw k1, eax
    kxorw k2, k2, k2
    USER_FAULTS(17, 0, 2f)
    USER_FAULTS(17, 0, 3f)
    RUN_USER(4f)
    USER_FAULTS(13, 0, 5f)
    USER_FAULTS(17, 0, 6f)
9:  PASS
1:  check_alignment
    mov rsp, PAGES + 5
    call 1b
2:  check_alignment
    vpaddd zmm0, zmm0, [r15 + 16]
    vpaddd zmm0, zmm0, [r15 + 8]
    ud2
3:  check_alignment
    vpaddd zmm0 {k1}, zmm0, [r15 + 4]
    vpaddd zmm0 {k1}, zmm0, [r15 + 2]
    ud2
4:  check_alignment
    vpaddd zmm0 {k1}, zmm0, [r15 + 4]
    vpaddd zmm0 {k2}, zmm0, [r15 + 2]
    pushfq
    and dword ptr [rsp], ~0x40000
    popfq
    int 0x30
5:  check_alignment /* across the end of the lower half: that goes first */
    movabs rsi, 0x7fffffffffff
    vpaddd zmm0 {k1}, zmm0, dword ptr [rsi]{1to16}
    ud2
6:  check_alignment /* but not of a store of which half is below */
    movabs rsi, 0x7fffffffffc9
    vmovups [rsi], zmm0
    ud2

/* ---- far transfers: 5.8.3, 5.8.5; volume 2, CALL, RET, IRET ---- */

    /* A 64-bit call gate in the free place of the GDT. Uses rax. */
    .macro call_gate label, access
    lea rax, [rip + \label]
    mov word ptr [LG_GDT + LG_FREE], ax
    mov word ptr [LG_GDT + LG_FREE + 2], LG_CODE64
    mov word ptr [LG_GDT + LG_FREE + 4], \access << 8
    shr rax, 16
    mov word ptr [LG_GDT + LG_FREE + 6], ax
    mov qword ptr [LG_GDT + LG_FREE + 8], 0
    .endm

/* From ring 3 through a gate to ring 0: new stack from the TSS, four quadwords on it; and back. */
CASE(call_gate_rings, MODE_LONG)
    mov qword ptr [LG_TSS_AT + 4], CASE_DATA + 0x7000
    call_gate 2f, 0xec
    xor ebx, ebx
    RUN_USER(1f)
    EQ(ebx, 2)
    EQ(rbp, USER_STACK - 8)
    EQ(r12, CASE_DATA + 0x7000 - 32)
    call_gate 2f, 0x8c /* DPL 0 */
    USER_FAULTS(13, LG_FREE, 1f)
    call_gate 2f, 0x6c /* not present */
    USER_FAULTS(11, LG_FREE, 1f)
    call_gate 2f, 0xec
    mov word ptr [LG_GDT + LG_FREE + 2], LG_DATA
    USER_FAULTS(13, LG_DATA, 1f)
    mov word ptr [LG_GDT + LG_FREE + 2], LG_CODE32 /* 5.8.3.1: must be 64-bit code */
    USER_FAULTS(13, LG_CODE32, 1f)
    mov word ptr [LG_GDT + LG_FREE + 2], 0
    USER_FAULTS(13, 0, 1f)
    call_gate 2f, 0xec
    mov byte ptr [LG_GDT + LG_FREE + 13], 1 /* the type field of the upper half must be 0 */
    USER_FAULTS(13, LG_FREE, 1f)
    call_gate 2f, 0xec
    mov dword ptr [LG_GDT + LG_FREE + 8], 0x8000 /* not canonical */
    USER_FAULTS(13, 0, 1f)
    PASS
1:  push rax
    call fword ptr [rip + 3f]
    inc ebx
    lea rbp, [rsp] /* RET has given the stack back */
    mov ax, ss
    cmp ax, LG_USER_DATA
    jne 4f
    int 0x30
4:  ud2
3:  .long 0
    .word LG_FREE + 3
2:  inc ebx
    mov r12, rsp
    cmp word ptr [rsp + 8], LG_USER_CODE64
    jne 5f
    cmp word ptr [rsp + 24], LG_USER_DATA
    jne 5f
    mov rax, USER_STACK - 8
    cmp [rsp + 16], rax
    jne 5f
    mov ax, cs
    cmp ax, LG_CODE64
    jne 5f
    mov ax, ss /* null with the new CPL as RPL */
    test ax, ax
    jne 5f
    retfq
5:  mov ebx, 99
    retfq

/* IRET's forms, and what it refuses. */
CASE(iret_forms, MODE_LONG)
    mov r12, rsp
    sub rsp, 20 /* IRETD: five doublewords, to 64-bit code below 4 GiB */
    lea rax, [rip + 1f]
    mov [rsp], eax
    mov dword ptr [rsp + 4], LG_CODE64
    mov dword ptr [rsp + 8], 0x3
    mov eax, CASE_STACK - 0x100
    mov [rsp + 12], eax
    mov dword ptr [rsp + 16], LG_DATA
    iret
    FAIL
1:  EXPECT(c)
    EQ(rsp, CASE_STACK - 0x100)
    mov rsp, r12
    push 0 /* to ring 0 of 64-bit code SS may be null */
    push r12
    push 2
    push LG_CODE64
    lea rax, [rip + 2f]
    push rax
    iretq
    FAIL
2:  EQ(rsp, r12)
    mov ax, ss
    EQ(ax, 0)
    mov eax, LG_DATA
    mov ss, eax
    pushfq
    or dword ptr [rsp], 0x4000 /* NT: no task returns in IA-32e mode */
    popfq
    FAULTS(13, 0, iretq)
    pushfq
    and dword ptr [rsp], ~0x4000
    popfq
    .macro iret_refused vector, error, cs, ss
    mov rsp, r12
    push \ss
    push r12
    push 2
    push \cs
    lea rax, [rip + 9f]
    push rax
    FAULTS(\vector, \error, iretq)
    .endm
    iret_refused 13, 0, 0, LG_DATA
    iret_refused 13, LG_DATA, LG_DATA, LG_DATA
    iret_refused 13, LG_DATA, LG_USER_CODE32, LG_DATA /* SS with RPL 0 for ring 3 */
    iret_refused 13, LG_TSS, LG_TSS, LG_DATA
    iret_refused 13, 0x1000, 0x1000, LG_DATA
    mov byte ptr [LG_GDT + LG_CODE16 + 5], 0x1b /* not present */
    iret_refused 11, LG_CODE16, LG_CODE16, LG_DATA
    mov rsp, r12
    push LG_DATA
    push r12
    push 2
    push LG_CODE64
    mov rax, 0x8000000000000000
    push rax
    FAULTS(13, 0, iretq)
9:  PASS

/* ---- task register: 8.2.4; volume 2, LTR, STR ---- */
CASE(task_register, MODE_LONG)
    str cx
    EQ(cx, LG_TSS)
    mov eax, LG_TSS
    FAULTS(13, LG_TSS, ltr ax) /* busy */
    mov byte ptr [LG_GDT + LG_TSS + 5], 0x09
    FAULTS(11, LG_TSS, ltr ax)
    mov byte ptr [LG_GDT + LG_TSS + 5], 0x89
    ltr ax
    EQ(byte ptr [LG_GDT + LG_TSS + 5], 0x8b)
    xor eax, eax
    FAULTS(13, 0, ltr ax)
    mov eax, LG_DATA
    FAULTS(13, LG_DATA, ltr ax)
    mov eax, LG_TSS | 4 /* not in the LDT */
    FAULTS(13, LG_TSS | 4, ltr ax)
    mov eax, 0x1000
    FAULTS(13, 0x1000, ltr ax)
    USER_FAULTS(13, 0, 1f)
    PASS
1:  ltr ax

/* ---- x2APIC: 11.12 ---- */
CASE(x2apic_rules, MODE_LONG)
    mov ecx, 0x1b
    rdmsr
    mov r12d, eax
    or eax, 0xc00
    mov r13d, eax
    wrmsr
    and eax, ~0x800 /* 11.12.5: EN off alone; then back to xAPIC: both refused */
    FAULTS(13, 0, wrmsr)
    mov eax, r13d
    and eax, ~0x400
    FAULTS(13, 0, wrmsr)
    mov ecx, 0x802 /* ID: read only */
    rdmsr
    EQ(eax, 0)
    FAULTS(13, 0, wrmsr)
    mov ecx, 0x80b /* EOI: write only, 0 only */
    FAULTS(13, 0, rdmsr)
    mov eax, 1
    FAULTS(13, 0, wrmsr)
    mov ecx, 0x80e /* DFR is not there */
    FAULTS(13, 0, rdmsr)
    mov ecx, 0x831 /* nor is the upper half of ICR */
    FAULTS(13, 0, rdmsr)
    mov ecx, 0x80d
    rdmsr
    EQ(eax, 1) /* 11.12.10.2: logical ID from the ID */
    FAULTS(13, 0, wrmsr)
    mov ecx, 0x808
    mov eax, 0x100 /* reserved bits */
    xor edx, edx
    FAULTS(13, 0, wrmsr)
    mov eax, 0x20
    wrmsr
    mov rax, cr8
    EQ(eax, 2)
    xor eax, eax
    mov cr8, rax
    rdmsr
    EQ(eax, 0)
    PASS

CASES_END(privilege)
