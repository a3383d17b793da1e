/* Included by each file with 64-bit cases after CASES(): exception entries and what the macros of case.h need.
 * Entries 0 to 31 of the IDT lead here, 16 bytes apart; then 0x30 (back from ring 3), 0x40 to 0x4f (interrupts). */
    /* Page table entry of page n of PAGES = physical frame | bits */
    .macro set_page n, value
    mov rax, [CASE_PARAM + P_PAGES_PT]
    movabs rcx, \value
    mov [rax + \n * 8], rcx
    invlpg [PAGES + \n * 4096]
    .endm
#define RW_S 0x063
#define RO_S 0x061
#define RW_U 0x067
#define RO_U 0x065
#define NX 0x8000000000000000
#define FRAME (CASE_DATA + 0x10000)

    .set vector, 0
    .rept 32
    .p2align 4
    .if vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21
    .else
    push 0
    .endif
    push vector
    jmp exception
    .set vector, vector + 1
    .endr
    .p2align 4
gate_0x30: /* offset 0x200: from ring 3 */
    mov rsp, back_rsp[rip]
    jmp back[rip]
    .p2align 4
    .rept 16   /* offset 0x210: vectors 0x40 up */
    .p2align 4
    push vector - 32 + 0x40
    jmp interrupt
    .set vector, vector + 1
    .endr

exception:
    cmp byte ptr armed[rip], 0
    je 2f
    mov byte ptr armed[rip], 0
    push rax
    mov rax, [rsp + 8]
    mov got_vector[rip], rax
    mov rax, [rsp + 16]
    mov got_error[rip], rax
    mov rax, [rsp + 24]
    mov got_rip[rip], rax
    mov rax, [rsp + 32]
    mov got_cs[rip], rax
    mov rax, [rsp + 40]
    mov got_rflags[rip], rax
    mov rax, [rsp + 48]
    mov got_rsp[rip], rax
    lea rax, [rsp + 64]
    mov got_frame[rip], rax
    mov rax, cr2
    mov got_cr2[rip], rax
    pop rax
    mov rsp, back_rsp[rip]
    jmp back[rip]
2:  /* unexpected: vector + 1 in the top byte, low bits of the place below */
    mov eax, [rsp]
    inc eax
    shl eax, 24
    mov ecx, [rsp + 16]
    and ecx, 0xffffff
    or eax, ecx
    out DONE_PORT, eax
    hlt

interrupt: /* counts, in irq_count[vector & 15]; ends it at the APIC if x2APIC is on */
    push rax
    push rcx
    push rdx
    mov ecx, [rsp + 24]
    mov irq_last[rip], ecx
    and ecx, 15
    lea rax, irq_count[rip]
    lock inc dword ptr [rax + rcx * 4]
    cmp byte ptr no_eoi[rip], 0
    jne 1f
    mov ecx, 0x80b
    xor eax, eax
    xor edx, edx
    wrmsr
1:
    pop rdx
    pop rcx
    pop rax
    add rsp, 8
    iretq

fail64:
    mov eax, r15d
    out DONE_PORT, eax
1:  hlt
    jmp 1b

    /* r15: where in ring 3 */
enter_user:
    mov back_rsp[rip], rsp
    pushfq
    push rax
    push rcx
    push rdx
    mov rax, cr4
    bt eax, 18 /* OSXSAVE */
    mov eax, [CASE_PARAM + P_USER_XCR0]
    jnc 1f
    test eax, eax
    jz 1f
    xor ecx, ecx
    xor edx, edx
    xsetbv
1:  pop rdx
    pop rcx
    pop rax
    popfq
    push LG_USER_DATA
    push USER_STACK
    pushfq
    push LG_USER_CODE64
    push r15
    mov r15, [CASE_PARAM + P_USER_FLAGS]
    or [rsp + 16], r15
    mov byte ptr [CASE_PARAM + P_USER_ENTERED], 1
    mov r15, USER_DATA
    iretq

    .p2align 3
back: .quad 0
back_rsp: .quad 0
got_vector: .quad 0
got_error: .quad 0
got_rip: .quad 0
got_cs: .quad 0
got_rflags: .quad 0
got_rsp: .quad 0
got_cr2: .quad 0
got_frame: .quad 0 /* address above the frame that the CPU pushed */
irq_count: .fill 16, 4, 0
irq_last: .long 0
armed: .byte 0
no_eoi: .byte 0
    .p2align 4
