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

/* ---- ring 3 on one vCPU, and what others do to its code, its data and its tables meanwhile ---- */

#define USER_SHARED (USER_DATA + 0x4000) /* SHARED for ring 3 */

    .macro wait_for place, value
9:  pause
    cmp dword ptr [\place], \value
    jne 9b
    .endm
    .macro a_while /* so that a loop in ring 3 has begun to run */
    mov ecx, 3000
9:  pause
    dec ecx
    jnz 9b
    .endm
#define POKE_PLACE(gpa) mov eax, gpa; mov edx, POKE_PLACE_PORT; out dx, eax

    /* It runs as long as nobody changes the constant, which was ecx. */
    .p2align 6
user_code: /* ring 3, in a page */
    mov edi, USER_SHARED
    mov dword ptr [rdi], 1
    jmp user_loop
    .p2align 2
    nop
    nop
    nop
user_loop: /* its constant at a multiple of 4 */
    mov eax, 0
    cmp eax, ecx
    je user_loop
    int 0x30
#define USER_CONSTANT user_loop + 1

    /* vCPU 0: n times; each time the other makes the constant one more. */
    .macro run_user_code n
    xor ecx, ecx
    .rept \n
    mov dword ptr [SHARED], 0
    RUN_USER(user_code)
    inc ecx
    EQ(eax, ecx)
    .endr
    .endm

CASE_EXIT(user_code_stored, MODE_LONG, 2, EXIT_BY_PORT)
    other 1f
    run_user_code 20
    PASS
1:  xor ebp, ebp
2:  wait_for SHARED, 1
    mov dword ptr [SHARED], 0
    a_while
    inc ebp
    mov [AT(USER_CONSTANT)], ebp
    jmp 2b

CASE_EXIT(user_code_stored_by_device, MODE_LONG, 2, EXIT_BY_PORT)
    other 1f
    run_user_code 20
    PASS
1:  xor ebp, ebp
    POKE_PLACE(AT(USER_CONSTANT))
2:  wait_for SHARED, 1
    mov dword ptr [SHARED], 0
    a_while
    inc ebp
    mov eax, ebp
    mov edx, POKE_PORT
    out dx, eax
    jmp 2b

    /* Ring 3 on the second vCPU, for good, at the label. It has no way back. */
    .macro stay_in_user label
    mov rax, cr4
    or eax, 0x50000 /* FSGSBASE, OSXSAVE */
    mov cr4, rax
    mov eax, [CASE_PARAM + P_USER_XCR0]
    test eax, eax
    jz 9f
    xor ecx, ecx
    xor edx, edx
    xsetbv
9:  push LG_USER_DATA
    push USER_STACK - 0x1000
    push qword ptr [CASE_PARAM + P_USER_FLAGS]
    push LG_USER_CODE64
    push USER_AT(\label)
    iretq
    .endm

CASE_EXIT(user_code_stored_by_user, MODE_LONG, 2, EXIT_BY_PORT)
    other 1f
    run_user_code 20
    PASS
1:  stay_in_user 2f
2:  xor ebp, ebp
    mov edi, USER_SHARED
3:  wait_for rdi, 1
    mov dword ptr [rdi], 0
    a_while
    inc ebp
    mov eax, USER_AT(USER_CONSTANT)
    mov [rax], ebp
    jmp 3b

/* A device takes the page back: it reads as zero, and so it runs (ADD [RAX], AL). */
CASE_EXIT(user_code_discarded, MODE_LONG, 2, EXIT_BY_PORT)
    other 1f
    mov r12d, 10
5:  mov dword ptr [FRAME], 0xfeeb07ff /* inc dword ptr [rdi]; jmp to itself */
    set_page 20, FRAME + RW_U
    mov dword ptr [SHARED], 0
    USER_FAULTS(14, 7, 2f)
    EQ(qword ptr got_cr2[rip], LG_GDT)
    EQ(qword ptr got_rip[rip], PAGES + 20 * 4096 + 2)
    dec r12d
    jnz 5b
    PASS
1:  POKE_PLACE(FRAME)
3:  wait_for SHARED, 1
    mov dword ptr [SHARED], 0
    a_while
    mov edx, DISCARD_PORT
    out dx, eax
    jmp 3b
2:  mov edi, USER_SHARED
    mov edx, PAGES + 20 * 4096
    mov eax, LG_GDT
    jmp rdx

/* The same for data that is read, and for data that is written, too. */
CASE_EXIT(user_data_discarded, MODE_LONG, 2, EXIT_BY_PORT)
    other 1f
    mov r12d, 10
5:  mov dword ptr [FRAME], 1
    set_page 20, FRAME + RO_U
    mov dword ptr [SHARED], 0
    RUN_USER(2f)
    EQ(eax, 0)
    mov dword ptr [FRAME], 1
    set_page 20, FRAME + RW_U
    mov dword ptr [SHARED], 0
    RUN_USER(4f)
    EQ(eax, 0)
    dec r12d
    jnz 5b
    PASS
1:  POKE_PLACE(FRAME)
3:  wait_for SHARED, 1
    mov dword ptr [SHARED], 0
    a_while
    mov edx, DISCARD_PORT
    out dx, eax
    jmp 3b
4:  mov eax, PAGES + 20 * 4096
    mov dword ptr [rax], 2
2:  mov edi, USER_SHARED
    mov ebx, PAGES + 20 * 4096
    mov eax, [rbx]
    mov dword ptr [rdi], 1
6:  mov eax, [rbx]
    test eax, eax
    jnz 6b
    int 0x30

/* Ring 3 is taken off its CPU again and again, and loses nothing. */
CASE_EXIT(user_kicked, MODE_LONG, 2, EXIT_BY_PORT)
    other 1f
    mov dword ptr [SHARED + 8], 0
    RUN_USER(2f)
    EQ(rax, [SHARED + 16])
    EQ(rbx, rax)
    PASS
1:  wait_for SHARED, 1
    mov ebp, 300
    mov edx, KICK_PORT
3:  out dx, eax
    mov rcx, [SHARED + 16] /* it goes on */
4:  pause
    cmp rcx, [SHARED + 16]
    je 4b
    dec ebp
    jnz 3b
    mov dword ptr [SHARED + 8], 1
    hlt
2:  mov edi, USER_SHARED
    mov dword ptr [rdi], 1
    xor eax, eax
    movq xmm7, rax
    mov ecx, 1
    movq xmm6, rcx
5:  inc rax
    paddq xmm7, xmm6
    mov [rdi + 16], rax
    cmp dword ptr [rdi + 8], 0
    je 5b
    movq rbx, xmm7
    int 0x30

/* 4.10.5: the other vCPU changes an entry of tables that ring 3 uses and asks for a flush, which is INVLPG, a new
 * CR3, INVPCID or a change of CR4.PGE. */
#define SHOT 20 /* of PAGES */
#define SHOT_AT (PAGES + SHOT * 4096)
#define FLUSH_KIND (SHARED + 0x40)
#define FLUSHED (SHARED + 0x44)
#define SHOT_ENTRY (SHARED + 0x48)
#define COUNTED (SHARED + 0x50)
flush: /* vector 0x45 on vCPU 0 */
    push rax
    push rcx
    push rdx
    mov eax, [FLUSH_KIND]
    cmp eax, 1
    je 1f
    cmp eax, 2
    je 2f
    cmp eax, 3
    je 3f
    invlpg [SHOT_AT]
    jmp 4f
1:  mov rax, cr3
    mov cr3, rax
    jmp 4f
2:  push SHOT_AT
    push 0
    xor eax, eax
    invpcid rax, [rsp]
    add rsp, 16
    jmp 4f
3:  mov rax, cr4
    btc eax, 7
    mov cr4, rax
    btc eax, 7
    mov cr4, rax
4:  inc dword ptr [FLUSHED]
    mov ecx, 0x80b
    xor eax, eax
    xor edx, edx
    wrmsr
    pop rdx
    pop rcx
    pop rax
    iretq

shoot: /* vCPU 1: gives the page the entry rax while ring 3 runs, and has it flushed */
    mov dword ptr [SHARED], 0
    mov r8d, [FLUSHED]
    inc r8d
    a_while
    mov rbx, [CASE_PARAM + P_PAGES_PT]
    mov [rbx + SHOT * 8], rax
    mov ecx, 0x830
    xor edx, edx
    mov eax, 0x4045
    wrmsr
    wait_for FLUSHED, r8d
    ret
#define SHOOT(entry) movabs rax, entry; call shoot

    /* vCPU 0: with each kind of flush */
flush_kinds_mask: /* r13d */
    push rbx
    mov eax, 7
    xor ecx, ecx
    cpuid
    mov r13d, 1
    bt ebx, 10 /* INVPCID */
    jnc 1f
    mov r13d, 3
1:  pop rbx
    ret
    .macro flush_kinds
    lea rax, flush[rip]
    mov [0x2000 + 0x45 * 16], ax
    shr eax, 16
    mov [0x2000 + 0x45 * 16 + 6], ax
    or qword ptr [CASE_PARAM + P_USER_FLAGS], 0x200 /* IF */
    mov dword ptr [FLUSHED], 0
    mov r14d, 11
    call flush_kinds_mask
    .endm
    .macro next_kind again
    mov eax, r14d
    and eax, r13d
    mov [FLUSH_KIND], eax
    dec r14d
    jns \again
    .endm

    /* Ring 3 counts in a page, loses it, and after the flush there is no more counting. */
#define SHOT_WHILE_COUNTING(entry, error)                                                                              \
    other 1f; flush_kinds; movabs rax, entry; mov [SHOT_ENTRY], rax; shot_while_counting error
    .macro shot_while_counting error
5:  mov dword ptr [SHARED], 0
    set_page SHOT, FRAME + RW_U
    USER_FAULTS(14, \error, 2f)
    EQ(qword ptr got_cr2[rip], SHOT_AT)
    sti /* the fault may have come before the interrupt */
    wait_for COUNTED, 1
    cli
    mov dword ptr [COUNTED], 0
    next_kind 5b
    PASS
1:  wait_for SHARED, 1
    mov rax, [SHOT_ENTRY]
    call shoot
    mov r9d, [FRAME]
    a_while
    EQ(r9d, [FRAME])
    mov dword ptr [COUNTED], 1
    jmp 1b
2:  mov edi, USER_SHARED
    mov dword ptr [rdi], 1
    mov ebx, SHOT_AT
3:  inc dword ptr [rbx]
    jmp 3b
    .endm
CASE_EXIT(user_shot_writable, MODE_LONG, 2, EXIT_BY_PORT)
    SHOT_WHILE_COUNTING(FRAME + RO_U, 7)
CASE_EXIT(user_shot_present, MODE_LONG, 2, EXIT_BY_PORT)
    SHOT_WHILE_COUNTING(0, 6)
CASE_EXIT(user_shot_user, MODE_LONG, 2, EXIT_BY_PORT)
    SHOT_WHILE_COUNTING(FRAME + RW_S, 7)

/* Another frame */
CASE_EXIT(user_shot_frame, MODE_LONG, 2, EXIT_BY_PORT)
    other 1f
    flush_kinds
    mov dword ptr [FRAME], 0
    mov dword ptr [FRAME + 0x1000], 7
5:  mov dword ptr [SHARED], 0
    set_page SHOT, FRAME + RW_U
    RUN_USER(2f)
    EQ(eax, 7)
    next_kind 5b
    PASS
1:  wait_for SHARED, 1
    SHOOT(FRAME + 0x1000 + RW_U)
    jmp 1b
2:  mov edi, USER_SHARED
    mov dword ptr [rdi], 1
    mov ebx, SHOT_AT
3:  mov eax, [rbx]
    test eax, eax
    jz 3b
    int 0x30

/* Code loses its page, and gets another. */
CASE_EXIT(user_shot_code, MODE_LONG, 2, EXIT_BY_PORT)
    other 1f
    flush_kinds
    mov dword ptr [FRAME], 0xfeeb07ff /* inc dword ptr [rdi]; jmp to itself */
    mov dword ptr [FRAME + 0x1000], 0x30cd30cd /* int 0x30 */
5:  mov dword ptr [SHARED], 0
    set_page SHOT, FRAME + RW_U
    USER_FAULTS(14, 0x15, 2f)
    EQ(qword ptr got_rip[rip], SHOT_AT + 2)
    mov dword ptr [SHARED], 0
    set_page SHOT, FRAME + RW_U
    RUN_USER(2f)
    next_kind 5b
    PASS
1:  wait_for SHARED, 1
    SHOOT(FRAME + RW_U + NX)
    wait_for SHARED, 1
    SHOOT(FRAME + 0x1000 + RW_U)
    jmp 1b
2:  mov edi, USER_SHARED
    mov edx, SHOT_AT
    jmp rdx

/* What both have run gets, from the other in ring 3, an instruction that an engine has to stop at; that one has
 * run it already. */
CASE_EXIT(user_code_gets_site_elsewhere, MODE_LONG, 2, EXIT_BY_PORT)
    other 1f
    set_page SHOT, FRAME + RW_U
    mov byte ptr [FRAME + 4], 0xc3
    mov edi, USER_DATA
    mov r12d, 10
5:  mov dword ptr [FRAME], 0x90909090
    mov qword ptr [CASE_DATA + 2], 0
    RUN_USER(2f)
    EQ(qword ptr [CASE_DATA + 2], 0)
    mov dword ptr [SHARED], 1
    wait_for SHARED, 2
    RUN_USER(2f)
    EQ(qword ptr [CASE_DATA + 2], LG_GDT)
    dec r12d
    jnz 5b
    PASS
2:  mov edx, SHOT_AT
    call rdx
    int 0x30
1:  stay_in_user 3f
3:  mov edi, USER_DATA + 0x100
    mov ebx, USER_SHARED
4:  wait_for rbx, 1
    mov edx, SHOT_AT
    mov dword ptr [rdx], 0x9007010f /* sgdt [rdi]; nop */
    call rdx
    mov dword ptr [rbx], 2
    jmp 4b
CASES_END(smp)
