/* objc_msgSend over GNU's runtime, and the one method that all classes of the stand-in have. Both keep every
 * argument register of the System V ABI (six of integers, eight of xmm, al) in a struct frame (rt.h). */

#define FRAME_SIZE 240
#define GPR 0
#define AL 48
#define STACK 56
#define CALLER 64
#define XMM 80
#define RET 208
#define FRET 224

.macro SAVE
    push %rbp
    .cfi_def_cfa_offset 16
    .cfi_offset %rbp, -16
    mov %rsp, %rbp
    .cfi_def_cfa_register %rbp
    sub $FRAME_SIZE, %rsp
    mov %rdi, GPR(%rsp)
    mov %rsi, GPR+8(%rsp)
    mov %rdx, GPR+16(%rsp)
    mov %rcx, GPR+24(%rsp)
    mov %r8, GPR+32(%rsp)
    mov %r9, GPR+40(%rsp)
    mov %rax, AL(%rsp)
    lea 16(%rbp), %r10
    mov %r10, STACK(%rsp)
    mov 8(%rbp), %r10
    mov %r10, CALLER(%rsp)
    movaps %xmm0, XMM(%rsp)
    movaps %xmm1, XMM+16(%rsp)
    movaps %xmm2, XMM+32(%rsp)
    movaps %xmm3, XMM+48(%rsp)
    movaps %xmm4, XMM+64(%rsp)
    movaps %xmm5, XMM+80(%rsp)
    movaps %xmm6, XMM+96(%rsp)
    movaps %xmm7, XMM+112(%rsp)
.endm

    .text
    .globl objc_msgSend
    .type objc_msgSend, @function
objc_msgSend:
    .cfi_startproc
    SAVE
    mov %rsp, %rdi
    call standin_message        /* checks; the method, or NULL for a message to nil */
    test %rax, %rax
    jz 1f
    mov %rax, %r11
    mov GPR(%rsp), %rdi
    mov GPR+8(%rsp), %rsi
    mov GPR+16(%rsp), %rdx
    mov GPR+24(%rsp), %rcx
    mov GPR+32(%rsp), %r8
    mov GPR+40(%rsp), %r9
    mov AL(%rsp), %rax
    movaps XMM(%rsp), %xmm0
    movaps XMM+16(%rsp), %xmm1
    movaps XMM+32(%rsp), %xmm2
    movaps XMM+48(%rsp), %xmm3
    movaps XMM+64(%rsp), %xmm4
    movaps XMM+80(%rsp), %xmm5
    movaps XMM+96(%rsp), %xmm6
    movaps XMM+112(%rsp), %xmm7
    leave
    .cfi_remember_state
    .cfi_def_cfa %rsp, 8
    jmp *%r11
1:
    .cfi_restore_state
    xor %eax, %eax
    xor %edx, %edx
    xorps %xmm0, %xmm0
    xorps %xmm1, %xmm1
    leave
    .cfi_def_cfa %rsp, 8
    ret
    .cfi_endproc
    .size objc_msgSend, . - objc_msgSend

    .globl standin_imp
    .type standin_imp, @function
standin_imp:
    .cfi_startproc
    SAVE
    mov %rsp, %rdi
    call standin_perform
    mov RET(%rsp), %rax
    mov RET+8(%rsp), %rdx
    movsd FRET(%rsp), %xmm0
    movsd FRET+8(%rsp), %xmm1
    leave
    .cfi_def_cfa %rsp, 8
    ret
    .cfi_endproc
    .size standin_imp, . - standin_imp

    .section .note.GNU-stack,"",@progbits
