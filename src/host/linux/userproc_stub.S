/* The code in a process for user code. Theory in userproc.c. It knows of memory only struct stub_data, which lies
 * behind its page wherever that is, and all registers are its own: those of the user code are in the context of
 * the signal, or in the data. */
#include "host/linux/userproc_stub.h"

#define DATA(offset) (userproc_stub - STUB_OFFSET + STUB_PAGE + (offset))(%rip)
#define SYS_MMAP 9
#define FLAGS_CLEAN 0x202

    .section .rodata
    .globl userproc_stub, userproc_stub_end, userproc_stub_signal, userproc_stub_stopped, userproc_stub_resume
    .hidden userproc_stub, userproc_stub_end, userproc_stub_signal, userproc_stub_stopped, userproc_stub_resume
    .balign 16

/* Where the program begins: its data, readable, writable and shared. */
userproc_stub:
    movl $SYS_MMAP, %eax
    leaq DATA(0), %rdi
    movl $STUB_DATA_LEN, %esi
    movl $3, %edx
    movl $0x11, %r10d
    movl $STUB_OWN_FD, %r8d
    movl $STUB_PAGE, %r9d
    syscall
    jmp listed

/* RDI: the signal, RSI: its siginfo, RDX: the context. These stay until it has stopped, as arguments of the call
 * that stops it: if another signal comes before, they are found in the context of that one. The flags may have AC or NT, with which what follows would
 * fault. */
userproc_stub_signal:
    pushq $FLAGS_CLEAN
    popfq
    rdfsbase %rax
    movq %rax, DATA(STUB_SEEN_FS_BASE)
    rdgsbase %rax
    movq %rax, DATA(STUB_SEEN_GS_BASE)
    movw %ds, DATA(STUB_SEEN_SELECTORS)
    movw %es, DATA(STUB_SEEN_SELECTORS + 2)
    movw %fs, DATA(STUB_SEEN_SELECTORS + 4)
    movw %gs, DATA(STUB_SEEN_SELECTORS + 6)
stop:
    xorl %ecx, %ecx /* a pass is here if a signal has interrupted the list */
    xorl %r8d, %r8d
    xorl %r10d, %r10d
    xorl %r12d, %r12d
    xorl %r13d, %r13d
    movl $STUB_STOP, %eax
    syscall
userproc_stub_stopped:
    leaq DATA(STUB_IRET), %rsp /* off the stack for signals: what is there has been seen */
    testq %rax, %rax
    js stop

    /* The list: EBP entries at RBX. R13: the pass, or 0. */
    movl %eax, %r12d
    andl $(STUB_COUNT_MASK | 1 << STUB_RESUME_BIT), %r12d
    movl %eax, %ebp
    andl $STUB_COUNT_MASK, %ebp
    movq %rax, %r13
    shrq $STUB_PASS_SHIFT, %r13
    leaq DATA(STUB_LIST), %rbx
    testl %ebp, %ebp
    jz 2f
1:  movq (%rbx), %rax
    movq 0x8(%rbx), %rdi
    movq 0x10(%rbx), %rsi
    movq 0x18(%rbx), %rdx
    movq 0x20(%rbx), %r10
    movq 0x28(%rbx), %r8
    movq 0x30(%rbx), %r9
    movq %r13, %rcx
    shlq $32, %rcx
    orq %rcx, %r8
    movq %r13, %rcx
    shrq $32, %rcx
    shlq $32, %rcx
    orq %rcx, %r10
    syscall
    movq %rax, DATA(STUB_RESULT)
    cmpq $-4095, %rax
    jae listed
    addq $0x40, %rbx
    decl %ebp
    jnz 1b
2:  btl $STUB_RESUME_BIT, %r12d
    jc 3f
listed: /* up to here and to the end of 3, a signal finds a pass in registers */
    xorl %edi, %edi /* no signal */
    xorl %eax, %eax
    xorl %ecx, %ecx
    xorl %r8d, %r8d
    xorl %r10d, %r10d
    xorl %r13d, %r13d
    jmp stop
3:  xorl %eax, %eax
    xorl %ecx, %ecx
    xorl %r8d, %r8d
    xorl %r10d, %r10d
    xorl %r13d, %r13d

userproc_stub_resume:
    cmpl $0, DATA(STUB_SELECTORS)
    je 1f
    xorl %eax, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %fs
    movl %eax, %gs
1:  movq DATA(STUB_FS_BASE), %rax
    wrfsbase %rax
    movq DATA(STUB_GS_BASE), %rax
    wrgsbase %rax
    leaq DATA(STUB_XSAVE), %rdi
    movl DATA(STUB_XSAVE_MASK), %eax
    movl DATA(STUB_XSAVE_MASK + 4), %edx
    xrstor64 (%rdi)
    movq DATA(STUB_GPR), %rax
    movq DATA(STUB_GPR + 8), %rcx
    movq DATA(STUB_GPR + 16), %rdx
    movq DATA(STUB_GPR + 24), %rbx
    movq DATA(STUB_GPR + 40), %rbp
    movq DATA(STUB_GPR + 48), %rsi
    movq DATA(STUB_GPR + 56), %rdi
    movq DATA(STUB_GPR + 64), %r8
    movq DATA(STUB_GPR + 72), %r9
    movq DATA(STUB_GPR + 80), %r10
    movq DATA(STUB_GPR + 88), %r11
    movq DATA(STUB_GPR + 96), %r12
    movq DATA(STUB_GPR + 104), %r13
    movq DATA(STUB_GPR + 112), %r14
    movq DATA(STUB_GPR + 120), %r15
    iretq
userproc_stub_end:
    .byte 0

    .section .note.GNU-stack, "", @progbits
