/* The driver of both worlds, and the guest's kernel. Copied to its address, so everything refers to itself RIP-relative. */
#include "layout.h"

    .intel_syntax noprefix
    .text

    .globl fuzz_driver_start, fuzz_driver_exit, fuzz_driver_guest_done, fuzz_driver_end
    .p2align 6
fuzz_driver_start:
    movabs rbx, FUZZ_DATA_PAGE_VA
    mov qword ptr [rbx + FUZZ_P_INDEX], 0
    rdfsbase rax
    mov [rbx + FUZZ_P_HOST_FS], rax
next:
    movabs rbx, FUZZ_DATA_PAGE_VA
    lea rsp, [rbx + 4096]
    mov rax, [rbx + FUZZ_P_INDEX]
    cmp rax, [rbx + FUZZ_P_COUNT]
    jb 1f
    jmp [rbx + FUZZ_P_DONE]
1:
    mov ecx, 0x2b /* 32-bit code needs them, and a sequence that strayed may have left others */
    mov ds, ecx
    mov es, ecx
    mov fs, ecx
    mov gs, ecx
    imul rax, rax, FUZZ_INPUT_SIZE
    movabs rbp, FUZZ_INPUT_VA
    add rbp, rax
    mov qword ptr [rbx + FUZZ_R_VECTOR], FUZZ_NO_FAULT
    mov qword ptr [rbx + FUZZ_R_ERROR], 0
    mov qword ptr [rbx + FUZZ_R_CR2], 0
    mov qword ptr [rbx + FUZZ_R_RIP], 0
    /* memory as it was */
    movabs rsi, FUZZ_INIT_VA
    mov edi, FUZZ_DATA_VA
    mov ecx, FUZZ_DATA_SIZE / 8
    rep movsq
    mov edi, FUZZ_STACK_VA
    mov ecx, FUZZ_STACK_SIZE / 8
    rep movsq
    /* registers */
    mov eax, [rbx + FUZZ_P_STATE]
    xor edx, edx
    xrstor64 [rbp + FUZZ_XSAVE_OFF]
    mov rax, [rbp + FUZZ_R_FS]
    wrfsbase rax
    mov rax, [rbp + FUZZ_R_GS]
    wrgsbase rax
    push 0x2b
    push qword ptr [rbp + 8 * 4]
    push qword ptr [rbp + FUZZ_R_RFLAGS]
    push qword ptr [rbp + FUZZ_R_CS]
    push qword ptr [rbp + FUZZ_R_TARGET]
    mov rax, rbp
    mov rcx, [rax + 8 * 1]
    mov rdx, [rax + 8 * 2]
    mov rbx, [rax + 8 * 3]
    mov rbp, [rax + 8 * 5]
    mov rsi, [rax + 8 * 6]
    mov rdi, [rax + 8 * 7]
    mov r8, [rax + 8 * 8]
    mov r9, [rax + 8 * 9]
    mov r10, [rax + 8 * 10]
    mov r11, [rax + 8 * 11]
    mov r12, [rax + 8 * 12]
    mov r13, [rax + 8 * 13]
    mov r14, [rax + 8 * 14]
    mov r15, [rax + 8 * 15]
    mov rax, [rax]
    iretq

    /* The way out of 32-bit code */
    .globl fuzz_driver_exit32
fuzz_driver_exit32:
    .byte 0xea
    .long FUZZ_DRIVER_VA + fuzz_driver_exit - fuzz_driver_start
    .word 0x33

    /* Where every sequence ends, with all registers as they came out. */
    .p2align 6
fuzz_driver_exit:
    movabs [FUZZ_DATA_PAGE_VA], rax
    movabs rax, FUZZ_DATA_PAGE_VA
    mov [rax + 8 * 1], rcx
    mov [rax + 8 * 2], rdx
    mov [rax + 8 * 3], rbx
    mov [rax + 8 * 4], rsp
    mov [rax + 8 * 5], rbp
    mov [rax + 8 * 6], rsi
    mov [rax + 8 * 7], rdi
    mov [rax + 8 * 8], r8
    mov [rax + 8 * 9], r9
    mov [rax + 8 * 10], r10
    mov [rax + 8 * 11], r11
    mov [rax + 8 * 12], r12
    mov [rax + 8 * 13], r13
    mov [rax + 8 * 14], r14
    mov [rax + 8 * 15], r15
    lea rsp, [rax + 4096]
    pushfq
    pop qword ptr [rax + FUZZ_R_RFLAGS]
    push 2
    popfq
    mov rbx, rax
    rdfsbase rax
    mov [rbx + FUZZ_R_FS], rax
    rdgsbase rax
    mov [rbx + FUZZ_R_GS], rax
    mov [rbx + FUZZ_R_TARGET], ds
    mov [rbx + FUZZ_R_TARGET + 2], es
    mov rax, [rbx + FUZZ_P_HOST_FS]
    wrfsbase rax
    /* the output record */
    imul rax, [rbx + FUZZ_P_INDEX], FUZZ_OUTPUT_SIZE
    movabs rdi, FUZZ_OUTPUT_VA
    add rdi, rax
    mov rbp, rdi
    mov rsi, rbx
    mov ecx, FUZZ_R_SIZE / 8
    rep movsq
    lea rdi, [rbp + FUZZ_XSAVE_OFF + 512]
    xor eax, eax
    mov ecx, 8
    rep stosq
    mov eax, [rbx + FUZZ_P_STATE]
    xor edx, edx
    xsave64 [rbp + FUZZ_XSAVE_OFF]
    lea rdi, [rbp + FUZZ_XSAVE_OFF + FUZZ_XSAVE]
    mov esi, FUZZ_DATA_VA
    mov ecx, FUZZ_DATA_SIZE / 8
    rep movsq
    mov esi, FUZZ_STACK_VA
    mov ecx, FUZZ_STACK_SIZE / 8
    rep movsq
    inc qword ptr [rbx + FUZZ_P_INDEX]
    jmp next
    /* Guest: tells the host, which prepares the next batch. */
fuzz_driver_guest_done:
    int 0x30
    jmp fuzz_driver_start
fuzz_driver_end:

    /* void fuzz_native_enter(uint64_t driver_va) */
    .globl fuzz_native_enter, fuzz_native_done
    .type fuzz_native_enter, @function
fuzz_native_enter:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    movabs rax, FUZZ_DATA_PAGE_VA
    mov [rax + FUZZ_P_HOST_RSP], rsp
    jmp rdi
    .type fuzz_native_done, @function
fuzz_native_done:
    movabs rax, FUZZ_DATA_PAGE_VA
    mov rsp, [rax + FUZZ_P_HOST_RSP]
    fninit
    vzeroupper
    push 0x1f80
    ldmxcsr [rsp]
    pop rax
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret

    /* The guest's kernel: 32 exception entries of 16 bytes, then the end-of-batch gate. An exception is written to the save
     * area and the interrupted code goes on at the driver's exit with all its registers. */
    .globl fuzz_kernel_start, fuzz_kernel_done, fuzz_kernel_end
    .p2align 6
fuzz_kernel_start:
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
fuzz_kernel_done:
    mov eax, 1
    out 0xf4, eax /* the host stops us here */
    iretq
exception:
    push rax
    push rbx
    movabs rax, FUZZ_DATA_PAGE_VA
    mov rbx, [rsp + 16]
    mov [rax + FUZZ_R_VECTOR], rbx
    cmp rbx, 14
    jne 1f
    mov rbx, cr2
    mov [rax + FUZZ_R_CR2], rbx
1:
    mov rbx, [rsp + 24]
    mov [rax + FUZZ_R_ERROR], rbx
    mov rbx, [rsp + 32]
    mov [rax + FUZZ_R_RIP], rbx
    test byte ptr [rsp + 40], 3
    jz bug
    mov ebx, FUZZ_DRIVER_VA + fuzz_driver_exit - fuzz_driver_start
    mov [rsp + 32], rbx
    mov qword ptr [rsp + 40], 0x33
    and dword ptr [rsp + 48], ~0x50100 /* RF, AC, TF */
    pop rbx
    pop rax
    add rsp, 16
    iretq
bug: /* an exception of the kernel itself */
    mov eax, 2
    out 0xf4, eax
    hlt
fuzz_kernel_end:

/* ---- the attack's kernel (attack.c): counts an exception and goes on one byte further, or, from outside the code, at some place
 * in it. Position-independent; everything comes on IST 1. ---- */
    .globl fuzz_attack_start, fuzz_attack_end
    .p2align 6
fuzz_attack_start:
    .set vector, 0
    .rept 256
    .p2align 4
    .if vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21
    .else
    push 0
    .endif
    push rax
    jmp attacked
    .set vector, vector + 1
    .endr
    .p2align 4
attacked: /* rax, error code, rip, cs, rflags, rsp, ss */
    inc dword ptr attack_count[rip]
    cmp dword ptr attack_count[rip], FUZZ_ATTACK_FAULTS
    jae 3f
    mov rax, [rsp + 16]
    sub rax, FUZZ_CODE_VA
    cmp rax, FUZZ_CODE_SIZE
    jb 1f
    imul eax, attack_count[rip], 0x1f35
    and eax, FUZZ_CODE_SIZE - 1
1:  add rax, FUZZ_CODE_VA + 1
    mov [rsp + 16], rax
    test byte ptr attack_count[rip], 7 /* its stack has a chance to be one again */
    jnz 2f
    mov qword ptr [rsp + 40], FUZZ_STACK_VA + FUZZ_STACK_SIZE / 2
2:  and dword ptr [rsp + 32], ~0x100
    pop rax
    add rsp, 8
    iretq
3:  mov eax, 1
    out 0xf4, eax
4:  hlt
    jmp 4b
    .p2align 3
attack_count: .long 0
fuzz_attack_end:

    .section .note.GNU-stack, "", @progbits
