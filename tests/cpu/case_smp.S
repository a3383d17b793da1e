/* 64-bit cases on two vCPUs. Sections are of Intel SDM (2023-12). */
#include "case.h"
CASES(smp)
#include "prelude.S"

    /* The second vCPU's start: real mode at CASE_TRAMPOLINE, protected, long mode. Copied there by start_other.
     * Volume 3, 9.8.5 and 9.9. */
#define T(label) CASE_TRAMPOLINE + label - trampoline
    .code16
trampoline:
    cli
    xor ax, ax
    mov ax, cs
    mov ds, ax
    data32 lgdt ds:[t_gdt - trampoline]
    mov eax, cr0
    or eax, 1
    mov cr0, eax
    .byte 0x66, 0xea
    .long T(t32)
    .word LG_CODE32
    .code32
t32:
    mov eax, LG_DATA
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov eax, 0x6a0 /* PAE, PGE, OSFXSR, OSXMMEXCPT */
    mov cr4, eax
    mov eax, LG_TABLES
    mov cr3, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x901 /* SCE, LME, NXE */
    wrmsr
    mov eax, 0x80010033 /* PG, WP, NE, ET, MP, PE */
    mov cr0, eax
    .byte 0xea
    .long T(t64)
    .word LG_CODE64
    .code64
t64:
    mov esp, CASE_STACK + 0x10000
    lidt [T(t_idt)]
    mov ecx, 0x1b
    rdmsr
    or eax, 0xc00
    wrmsr
    mov ecx, 0x80f
    mov eax, 0x1ff
    xor edx, edx
    wrmsr
    jmp qword ptr [T(t_entry)]
    .p2align 3
t_gdt:
    .word 0xfff
    .long 0x1000
    .p2align 3
t_idt:
    .word 0xfff
    .quad 0x2000
    .p2align 3
t_entry:
    .quad 0
trampoline_end:

    /* rax: where the other vCPU is to go in long mode. Clobbers registers. Volume 3, 9.4.4.1. */
start_other:
    mov r14, rax
    lea rsi, trampoline[rip]
    mov edi, CASE_TRAMPOLINE
    mov ecx, trampoline_end - trampoline
    cld
    rep movsb
    mov [T(t_entry)], r14
    mov ecx, 0x1b
    rdmsr
    or eax, 0xc00
    wrmsr
    mov ecx, 0x80f
    mov eax, 0x1ff
    xor edx, edx
    wrmsr
    mov ecx, 0x830
    mov edx, 1
    mov eax, 0x4500 /* INIT */
    wrmsr
    mov eax, 0x4609 /* SIPI, vector 9 */
    wrmsr
    wrmsr /* a second one changes nothing */
    ret
    .macro other label
    lea rax, \label[rip]
    call start_other
    .endm

    .p2align 6
flag_a: .quad 0
    .p2align 6
flag_b: .quad 0
/* Data that both work on, away from code: stores beside code take an engine's slow way. */
#define SHARED (CASE_DATA + 0x4000)
    .p2align 4

CASE_EXIT(init_sipi, MODE_LONG, 2, EXIT_BY_PORT)
    other 1f
2:  pause
    cmp qword ptr flag_a[rip], 0
    je 2b
    EQ(qword ptr flag_a[rip], 1)
    PASS
1:  mov ecx, 0x802 /* APIC id */
    rdmsr
    mov r12d, eax
    mov eax, 1
    cpuid
    shr ebx, 24
    EQ(ebx, r12d)
    mov flag_a[rip], rbx
3:  hlt
    jmp 3b

/* INIT brings a running vCPU back to the start. */
CASE_EXIT(init_again, MODE_LONG, 2, EXIT_BY_PORT)
    other 1f
2:  pause
    cmp qword ptr flag_a[rip], 1
    jne 2b
    other 3f
4:  pause
    cmp qword ptr flag_b[rip], 1
    jne 4b
    PASS
1:  mov byte ptr flag_a[rip], 1
5:  jmp 5b
3:  mov byte ptr flag_b[rip], 1
    cli
    hlt
    FAIL

/* IPIs wake a halted vCPU; none is lost. */
CASE_EXIT(ipi_ping_pong, MODE_LONG, 2, EXIT_BY_PORT)
    other 1f
6:  pause /* until its APIC is on: before that it would drop the IPI */
    cmp qword ptr flag_b[rip], 1
    jne 6b
    mov r12d, 500
2:  mov ecx, 0x830
    mov edx, 1
    mov eax, 0x4041
    wrmsr
3:  cli
    cmp qword ptr flag_a[rip], 0
    jne 4f
    sti
    hlt
    jmp 3b
4:  sti
    mov qword ptr flag_a[rip], 0
    dec r12d
    jnz 2b
    PASS
1:  mov qword ptr flag_b[rip], 1
7:  cli
    mov eax, irq_count[rip + 4]
    cmp eax, r13d
    jne 5f
    sti
    hlt
    jmp 7b
5:  inc r13d
    sti
    mov qword ptr flag_a[rip], 1
    mov ecx, 0x830
    xor edx, edx
    mov eax, 0x4042
    wrmsr
    jmp 7b

CASE_EXIT(nmi, MODE_LONG, 2, EXIT_BY_PORT)
    lea rax, [rip + 5f] /* NMI gate of its own: counts */
    mov [0x2000 + 2 * 16], ax
    shr eax, 16
    mov [0x2000 + 2 * 16 + 6], ax
    other 1f
2:  pause
    cmp qword ptr flag_a[rip], 1
    jne 2b
    mov ecx, 0x830
    mov edx, 1
    mov eax, 0x4400
    wrmsr
3:  pause
    cmp qword ptr flag_b[rip], 1
    jne 3b
    PASS
1:  cli
    mov qword ptr flag_a[rip], 1
4:  hlt
    jmp 4b
5:  inc qword ptr flag_b[rip]
    iretq

/* Both vCPUs run the same loop. rbx: shared, r12: rounds */
    .macro both body
    lea rax, \body[rip]
    call start_other
    call \body
9:  pause
    cmp qword ptr flag_a[rip], 2
    jne 9b
    .endm
    .macro done_here
    lock inc qword ptr flag_a[rip]
    cmp rsp, CASE_STACK
    jbe 9f
8:  hlt
    jmp 8b
9:  ret
    .endm

/* LOCKed instructions are atomic: volume 3, 8.1.2 */
CASE_EXIT(lock_counters, MODE_LONG, 2, EXIT_BY_PORT)
    both 1f
    mov rbx, 200000
    EQ(rbx, qword ptr [SHARED])
    EQ(ebx, [SHARED + 8])
    EQ(ebx, [SHARED + 16])
    EQ(ebx, [SHARED + 24])
    EQ(dword ptr [SHARED + 32], 0)
    PASS
1:  mov ecx, 100000
    mov ebx, SHARED
2:  lock inc qword ptr [rbx]
    mov edx, 1
    lock xadd [rbx + 8], edx
    lock add dword ptr [rbx + 16], 1
    mov eax, [rbx + 24]
3:  lea edx, [rax + 1]
    lock cmpxchg [rbx + 24], edx
    jne 3b
    lock xor dword ptr [rbx + 32], 1
    dec ecx
    jnz 2b
    done_here

/* volume 3, 8.1.2.2: atomic whatever the alignment */
CASE_EXIT(lock_across_pages, MODE_LONG, 2, EXIT_BY_PORT)
    both 1f
    EQ(qword ptr [CASE_DATA + 0x1000 - 3], 2 * 16 * 400)
    PASS
1:  mov ecx, 400
2:  mov eax, 16
    lock xadd [CASE_DATA + 0x1000 - 3], rax
    mov edx, 20
3:  dec edx
    jnz 3b
    dec ecx
    jnz 2b
    done_here

CASE_EXIT(lock_cmpxchg16b, MODE_LONG, 2, EXIT_BY_PORT)
    both 1f
    EQ(qword ptr [SHARED + 16], 40000)
    EQ(qword ptr [SHARED + 24], -40000)
    PASS
1:  mov r12d, 20000
    mov edi, SHARED + 16
2:  mov rax, [rdi]
    mov rdx, [rdi + 8]
3:  lea rbx, [rax + 1]
    lea rcx, [rdx - 1]
    lock cmpxchg16b [rdi]
    jne 3b
    dec r12d
    jnz 2b
    done_here

/* The same on the page that the code is on. */
CASE_EXIT(lock_beside_code, MODE_LONG, 2, EXIT_BY_PORT)
    both 1f
    EQ(qword ptr beside_code[rip], 2000)
    PASS
    .p2align 3
beside_code: .quad 0
1:  mov ecx, 1000
2:  lock inc qword ptr beside_code[rip]
    dec ecx
    jnz 2b
    done_here

/* A ticket lock around plain code */
CASE_EXIT(spin_lock, MODE_LONG, 2, EXIT_BY_PORT)
    both 1f
    EQ(qword ptr [SHARED + 16], 20000)
    PASS
1:  mov ecx, 10000
2:  mov eax, 1
    lock xadd [SHARED], eax
3:  cmp eax, [SHARED + 8]
    je 4f
    pause
    jmp 3b
4:  mov rdx, [SHARED + 16]
    inc rdx
    mov [SHARED + 16], rdx
    inc dword ptr [SHARED + 8]
    dec ecx
    jnz 2b
    done_here

/* Cross-modifying code: vCPU 0 writes new code, tells, vCPU 1 serialises and runs it. Volume 3, 8.1.3. */
CASE_EXIT(cross_modifying, MODE_LONG, 2, EXIT_BY_PORT)
    mov dword ptr [CASE_DATA], 0x000000b8 /* mov eax, imm32; ret */
    mov byte ptr [CASE_DATA + 5], 0xc3
    other 1f
    mov r12d, 300
2:  mov [CASE_DATA + 1], r12d
    mov flag_a[rip], r12
3:  pause
    cmp flag_b[rip], r12
    jne 3b
    EQ(dword ptr [SHARED], r12d)
    dec r12d
    jnz 2b
    PASS
1:  xor r13d, r13d
4:  mov rax, flag_a[rip]
    cmp rax, r13
    je 4b
    mov r13, rax
    xor eax, eax
    cpuid
    mov ebx, CASE_DATA
    call rbx
    mov [SHARED], eax
    mov flag_b[rip], r13
    jmp 4b

/* The same; both write the page, and TLBs are emptied before or after it, often enough for counts of that to wrap. */
    .macro empty_tlb
    mov rax, cr4
    xor rax, 0x80 /* PGE */
    mov cr4, rax
    .endm
CASE_EXIT(cross_modifying_flush, MODE_LONG, 2, EXIT_BY_PORT)
    mov dword ptr [CASE_DATA], 0x000000b8 /* mov eax, imm32; ret */
    mov byte ptr [CASE_DATA + 5], 0xc3
    other 1f
    mov r12d, 1200
2:  mov dword ptr [CASE_DATA + 1], 0 /* it is code no more, and has its place in the TLB again */
    test r12d, 1
    jz 5f
    empty_tlb
5:  mov [CASE_DATA + 1], r12d
    test r12d, 2
    jz 6f
    empty_tlb
6:  mov flag_a[rip], r12
3:  pause
    cmp flag_b[rip], r12
    jne 3b
    EQ(dword ptr [SHARED], r12d)
    dec r12d
    jnz 2b
    PASS
1:  xor r13d, r13d
4:  mov rax, flag_a[rip]
    cmp rax, r13
    je 4b
    mov r13, rax
    test r13d, 4
    jz 7f
    mov [CASE_DATA + 64], r13
    test r13d, 8
    jz 7f
    empty_tlb
7:  xor eax, eax
    cpuid
    mov ebx, CASE_DATA
    call rbx
    mov [SHARED], eax
    mov flag_b[rip], r13
    jmp 4b

/* The same without a word: the other vCPU runs the code all the time and must come to see the new one, which is
 * written in one aligned piece. */
CASE_EXIT(cross_modifying_loop, MODE_LONG, 2, EXIT_BY_PORT)
    movzx r13d, word ptr 5f[rip]
    other 1f
    mov r12d, 30
2:  mov rax, [SHARED]
3:  pause
    cmp rax, [SHARED]
    je 3b
    mov word ptr 5f[rip], 0x9090 /* the jump becomes two NOPs */
    mov rax, [SHARED + 8]
4:  pause
    cmp rax, [SHARED + 8]
    je 4b
    mov 5f[rip], r13w
    dec r12d
    jnz 2b
    PASS
    .p2align 4
1:  inc qword ptr [SHARED]
    .p2align 3
5:  jmp 6f
    inc qword ptr [SHARED + 8]
6:  jmp 1b

/* The same of a loop that does nothing but read what never changes, and spins for so long that an engine may have
 * made it as fast as it can. */
CASE_EXIT(cross_modifying_spin, MODE_LONG, 2, EXIT_BY_PORT)
    movzx r13d, word ptr 6f[rip]
    other 1f
    mov r14d, [CASE_PARAM + P_TSC_KHZ]
    imul r14, r14, 10 /* ms */
    mov r12d, 12
2:  pause
    mov rbx, [SHARED]
    test rbx, rbx
    jz 2b
    rdtsc
    shl rdx, 32
    lea rsi, [rdx + rax]
3:  pause
    rdtsc
    shl rdx, 32
    or rax, rdx
    sub rax, rsi
    cmp rax, r14
    jb 3b
    cmp rbx, [SHARED] /* it stays in the loop, or had not come to see yet that the jump is there again */
    jne 2b
    mov word ptr 6f[rip], 0x9090 /* the jump becomes two NOPs */
4:  pause
    cmp rbx, [SHARED]
    je 4b
    mov 6f[rip], r13w
    dec r12d
    jnz 2b
    PASS
    .p2align 4
1:  inc qword ptr [SHARED]
    mov edi, CASE_DATA
    .p2align 3
5:  inc ecx
    cmp ecx, [rdi]
    nop
    .p2align 1
6:  jne 5b
    jmp 1b

/* KVM's hypercalls (Linux Documentation/virt/kvm/x86/hypercalls.rst): number in RAX, arguments in RBX, RCX, RDX and RSI,
 * answer in RAX, nothing else changes. The answers are those of include/uapi/linux/kvm_para.h. */
#define KVM_EPERM 1
#define KVM_EINVAL 22
#define KVM_ENOSYS 1000
    .p2align 4
hypercall_intel:
    vmcall
    ret
    .p2align 4
hypercall_amd:
    vmmcall
    ret

    /* r12: this CPU's way and RET; r13: the same for ring 3; r14: the other vendor's. */
hypercall_find:
    lea r12, hypercall_intel[rip]
    lea r14, hypercall_amd[rip]
    xor eax, eax
    cpuid
    cmp ecx, 0x444d4163 /* AuthenticAMD */
    je 1f
    cmp ecx, 0x656e6975 /* HygonGenuine */
    jne 2f
1:  xchg r12, r14
2:  lea r13, [r12 + USER_BASE - CASE_BASE]
    ret
    .macro hypercall number, rbx, rcx, rdx, rsi
    mov eax, \number
    mov ebx, \rbx
    mov ecx, \rcx
    mov edx, \rdx
    mov esi, \rsi
    call r12
    .endm
#define ANSWERS(value, number, args...) hypercall number, args; EQ64(rax, value)

CASE_EXIT(hypercalls, MODE_LONG, 2, EXIT_BY_PORT)
    call hypercall_find
    movabs rax, 0xaaaa00012345 /* there is none */
    movabs rbx, 0xbbbb0000bbbb
    movabs rcx, 0xcccc0000cccc
    movabs rdx, 0xdddd0000dddd
    movabs rsi, 0x511100005111
    stc
    call r12
    EXPECT(c)
    EQ64(rax, -KVM_ENOSYS)
    EQ64(rbx, 0xbbbb0000bbbb)
    EQ64(rcx, 0xcccc0000cccc)
    EQ64(rdx, 0xdddd0000dddd)
    EQ64(rsi, 0x511100005111)
    movabs rax, 0x10000000b /* all 64 bits count */
    call r12
    EQ64(rax, -KVM_ENOSYS)
    ANSWERS(0, 1, 0, 0, 0, 0) /* look for interrupts */
    ANSWERS(0, 11, 0, 0, 0, 0) /* yield to a vCPU, this one; to none */
    ANSWERS(0, 11, 77, 0, 0, 0)
    ANSWERS(0, 5, 0, 77, 0, 0) /* wake a vCPU: none */
    mov eax, 0x12345 /* a monitor takes the other vendor's instruction too */
    call r14
    EQ64(rax, -KVM_ENOSYS)
    RUN_USER(1f)
    EQ64(rax, -KVM_EPERM)
    PASS
1:  mov eax, 11
    call r13
    int 0x30

/* IPIs by hypercall: two words of a bit map that begins at APIC id RDX, and the ICR's low half. */
CASE_EXIT(hypercall_ipi, MODE_LONG, 2, EXIT_BY_PORT)
    other 1f
    call hypercall_find
2:  pause
    cmp qword ptr flag_a[rip], 1
    jne 2b
    ANSWERS(1, 10, 2, 0, 0, 0x46) /* the other, by its bit */
3:  pause
    cmp dword ptr irq_count[rip + 6 * 4], 1
    jne 3b
    ANSWERS(1, 10, 1, 0, 1, 0x47) /* and by where the map begins */
3:  pause
    cmp dword ptr irq_count[rip + 7 * 4], 1
    jne 3b
    ANSWERS(2, 10, 3, 0, 0, 0x45) /* both, of which this one has interrupts off */
3:  pause
    cmp dword ptr irq_count[rip + 5 * 4], 1
    jne 3b
    sti
3:  pause
    cmp dword ptr irq_count[rip + 5 * 4], 2
    jne 3b
    cli
    ANSWERS(0, 10, 0, 0, 0, 0x48) /* nobody, and those that are not there */
    ANSWERS(0, 10, 0x20, 0, 0, 0x48)
    ANSWERS(0, 10, 0, 1, 0, 0x48)
    ANSWERS(0, 10, 1, 1, 200, 0x48)
    ANSWERS(-KVM_EINVAL, 10, 3, 0, 0, 0x40048) /* a shorthand, a logical destination */
    ANSWERS(-KVM_EINVAL, 10, 3, 0, 0, 0x848)
    EQ(dword ptr irq_count[rip + 8 * 4], 0)
    PASS
1:  sti
    mov byte ptr flag_a[rip], 1
4:  hlt
    jmp 4b
CASES_END(smp)
