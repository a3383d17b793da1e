/* 64-bit cases on one vCPU: exceptions, rings and system calls, x87/SSE/AVX state, model-specific registers, interrupts of the
 * own APIC, the other modes. Sections are of Intel SDM (2023-12). */
#include "case.h"
CASES(system)
#include "prelude.S"

/* ---- exceptions: volume 3, 6.15 ---- */
CASE(exceptions, MODE_LONG)
    xor ecx, ecx
    mov eax, 1
    xor edx, edx
    FAULTS(0, 0, div ecx)
    mov rax, 0x8000000000000000
    cqo
    mov rcx, -1
    FAULTS(0, 0, idiv rcx)
    EQ64(rax, 0x8000000000000000)
    FAULTS(6, 0, ud2)
    FAULTS(6, 0, .byte 0x06)
    FAULTS(6, 0, .byte 0xf0, 0x90) /* LOCK where it must not be */
    FAULTS(6, 0, .byte 0xf0, 0x01, 0xc0)
    mov rbx, CASE_DATA + 8
    FAULTS(13, 0, movaps xmm0, [rbx])
    FAULTS(13, 0, movdqa [rbx], xmm1)
    FAULTS(13, 0, pxor xmm0, [rbx])
    FAULTS(13, 0, cmpxchg16b [rbx])
    movups xmm0, [rbx]
    PASS

/* A trap's return address is after the instruction; error code of a bad selector names it. */
CASE(exceptions_traps, MODE_LONG)
    mov eax, 0x1000
    lea rcx, [rip + 1f]
    mov back[rip], rcx
    mov back_rsp[rip], rsp
    mov byte ptr armed[rip], 1
    mov ds, eax
    FAIL
1:  EQ(qword ptr got_vector[rip], 13)
    EQ(qword ptr got_error[rip], 0x1000)
    lea rcx, [rip + 2f]
    mov back[rip], rcx
    mov byte ptr armed[rip], 1
    int3
    FAIL
2:  EQ(qword ptr got_vector[rip], 3)
    lea rcx, [rip + 2b - 7 - 6] /* FAIL is mov r15d, imm32; jmp: what int3 returns to */
    mov rax, got_rip[rip]
    EQ(byte ptr [rax - 1], 0xcc)
    lea rcx, [rip + 3f]
    mov back[rip], rcx
    mov byte ptr armed[rip], 1
    int 0x28 /* no gate there */
    FAIL
3:  EQ(qword ptr got_vector[rip], 13) /* an entry of zeroes is not even a gate */
    EQ(qword ptr got_error[rip], 0x28 * 8 + 2)
    PASS

/* TF: a #DB after each instruction. Volume 3, 17.3.1.4. */
CASE(single_step, MODE_LONG)
    mov rax, dr6
    lea rcx, [rip + 2f]
    mov back[rip], rcx
    mov back_rsp[rip], rsp
    xor eax, eax
    pushfq
    or dword ptr [rsp], 0x100
    mov byte ptr armed[rip], 1
    popfq
    inc eax
1:  inc eax
    FAIL
2:  EQ(qword ptr got_vector[rip], 1)
    lea rcx, [rip + 1b]
    EQ(rcx, got_rip[rip])
    EQ(eax, 1)
    mov rax, dr6
    bt eax, 14
    EXPECT(c)
    bt dword ptr got_rflags[rip], 8
    EXPECT(c)
    pushfq
    pop rax
    bt eax, 8
    EXPECT(nc)
    PASS

/* Hardware breakpoint registers can be written and read. Volume 3, 17.2. */
CASE(debug_registers, MODE_LONG)
    mov rax, 0x12345000
    mov dr0, rax
    mov rcx, dr0
    EQ(rcx, rax)
    mov rax, dr7
    EQ(eax, 0x400)
    mov rax, 0x100000000
    FAULTS(13, 0, mov dr7, rax)
    PASS

/* ---- INT n, IRET, rings: volume 3, 6.12, 6.14 ---- */
CASE(int_and_iret, MODE_LONG)
    mov byte ptr no_eoi[rip], 1
    mov rbx, rsp
    stc
    int 0x41
    EXPECT(c)
    EQ(rbx, rsp)
    EQ(dword ptr irq_count[rip + 4], 1)
    RUN_USER(1f)
    EQ(dword ptr irq_count[rip + 8], 0)
    USER_FAULTS(13, 0x212, 2f) /* gate's DPL is 0 */
    /* IRET to ring 3 with a non-canonical address */
    push LG_USER_DATA
    push USER_STACK
    push 2
    push LG_USER_CODE64
    mov rax, 0x0000900000000000
    push rax
    mov back_rsp[rip], rsp
    lea rax, [rip + 3f]
    mov back[rip], rax
    mov byte ptr armed[rip], 1
    iretq
    FAIL
3:  EQ(qword ptr got_vector[rip], 13)
    PASS
1:  mov ax, cs
    cmp ax, LG_USER_CODE64
    jne 9f
    mov ax, ss
    cmp ax, LG_USER_DATA
    jne 9f
    int 0x30
9:  ud2
2:  int 0x42

/* The stack is aligned to 16 and holds SS:RSP also without a change of ring. Volume 3, 6.14.2. */
CASE(interrupt_frame, MODE_LONG)
    lea rsp, [rsp - 3]
    mov r12, rsp
    FAULTS(6, 0, ud2)
    EQ(r12, got_rsp[rip])
    mov rax, got_frame[rip]
    test al, 15
    EXPECT(z)
    PASS

CASE(ist, MODE_LONG)
    mov byte ptr [0x2000 + 6 * 16 + 4], 1 /* #UD on IST 1 */
    mov r12, rsp
    FAULTS(6, 0, ud2)
    EQ(r12, got_rsp[rip])
    EQ(qword ptr got_frame[rip], LG_IST1)
    USER_FAULTS(6, 0, 1f)
    EQ(qword ptr got_frame[rip], LG_IST1)
    PASS
1:  ud2

/* Ring 0 stacks come from the TSS. */
CASE(stack_switch, MODE_LONG)
    mov qword ptr [LG_TSS_AT + 4], CASE_DATA + 0x7000
    USER_FAULTS(6, 0, 1f)
    EQ(qword ptr got_frame[rip], CASE_DATA + 0x7000)
    EQ(qword ptr got_rsp[rip], USER_STACK - 64)
    PASS
1:  sub rsp, 64
    ud2

/* ---- double and triple fault: volume 3, 6.15 (#DF) ---- */
CASE(double_fault, MODE_LONG)
    mov byte ptr [0x2000 + 13 * 16 + 5], 0 /* #GP gate not present: contributory in contributory */
    lea rax, [rip + 1f]
    mov back[rip], rax
    mov back_rsp[rip], rsp
    mov byte ptr armed[rip], 1
    mov rbx, 0x8000000000000000
    mov eax, [rbx]
    FAIL
1:  EQ(qword ptr got_vector[rip], 8)
    EQ(qword ptr got_error[rip], 0)
    PASS

CASE_EXIT(triple_fault, MODE_LONG, 1, EXIT_BY_SHUTDOWN)
    lidt [rip + 1f]
    ud2
    FAIL
1:  .word 0
    .quad 0

/* ---- SYSCALL and SYSRET: volume 2 ---- */
    .macro setup_syscall target
    mov ecx, 0xc0000081
    xor eax, eax
    mov edx, LG_CODE64 | 0x23 << 16
    wrmsr
    mov ecx, 0xc0000082
    lea rax, [rip + \target]
    mov rdx, rax
    shr rdx, 32
    wrmsr
    mov ecx, 0xc0000084
    mov eax, 0x700 /* clears TF, IF, DF */
    xor edx, edx
    wrmsr
    .endm

CASE(syscall_sysret, MODE_LONG)
    setup_syscall 2f
    xor ebx, ebx
    RUN_USER(1f)
    EQ(ebx, 100)
    EQ(edi, 0)
    PASS
1:  mov r12d, 100
    std
    mov r13, rsp
3:  syscall
4:  lea rax, [rip + 4b]
    cmp rcx, rax
    jne 8f
    pushfq
    pop rax
    bt eax, 10
    jnc 8f
    cmp rsp, r13
    jne 8f
    mov ax, ss
    cmp ax, LG_USER_DATA
    jne 8f
    dec r12d
    jnz 3b
    cld
    int 0x30
8:  ud2
2:  inc ebx /* ring 0, interrupts and DF off, on ring 3's stack */
    pushfq
    pop rdi
    and edi, 0x700
    sysretq

/* Calls around system calls, calls and a return without a call inside of them; prefixes; flags go through R11. */
CASE(syscall_calls, MODE_LONG)
    setup_syscall 2f
    xor ebx, ebx
    RUN_USER(1f)
    EQ(ebx, 60)
    PASS
1:  mov r12d, 20
3:  call 4f
    dec r12d
    jnz 3b
    int 0x30
4:  call 5f
    syscall
    ret
5:  mov al, 0x7f
    add al, 1
    stc
    .byte 0x48, 0x0f, 0x05 /* SYSCALL */
6:  pushfq
    pop rdx
    and edx, 0x8d5
    cmp edx, 0x891 /* OF, SF, AF, CF */
    jne 8f
    lea rax, [rip + 6b]
    cmp rcx, rax
    jne 8f
    xor eax, eax
    syscall
7:  jnz 8f
    lea rax, [rip + 7b]
    cmp rcx, rax
    jne 8f
    ret
8:  ud2
2:  inc ebx
    call 9f
    lea rax, [rip + 10f]
    push rax
    ret
9:  mov rax, cr3
    mov r9, cr0
    bt r9d, 31 /* PG */
    jnc 8b
    mov eax, -1
    mov r9, rax
    mov ax, cs
    .byte 0x66, 0x41, 0x8c, 0xc9 /* mov r9w, cs */
    cmp eax, LG_CODE64 | 0xffff0000
    jne 8b
    cmp r9, rax
    jne 8b
    ret
10: sysretq

/* SYSRET to a 32-bit program; SYSCALL faults without EFER.SCE. */
CASE(syscall_rules, MODE_LONG)
    mov ecx, 0xc0000080
    rdmsr
    btr eax, 0
    wrmsr
    FAULTS(6, 0, syscall)
    bts eax, 0
    wrmsr
    USER_FAULTS(13, 0, 1f)
    mov ecx, 0xc0000081
    xor eax, eax
    mov edx, LG_CODE64 | 0x20 << 16
    wrmsr
    mov ecx, USER_AT(2f)
    mov r11d, 2
    lea rax, [rip + 3f]
    mov back[rip], rax
    mov back_rsp[rip], rsp
    mov rsp, USER_STACK
    .byte 0x0f, 0x07 /* SYSRET to 32-bit code */
    FAIL
3:  EQ(ebx, 0x44332211)
    PASS
1:  sysretq
2:  .byte 0xb8, 0x10, 0x32, 0x33, 0x44 /* mov eax, 0x44333210 */
    .byte 0x48                         /* dec eax in 32-bit code, REX.W in 64-bit code */
    .byte 0x05, 2, 0xf0, 0xff, 0xff    /* add eax, -0xffe */
    .byte 0x89, 0xc3                   /* mov ebx, eax */
    .byte 0xcd, 0x30                   /* int 0x30 */

/* ---- segments in 64-bit mode ---- */
CASE(fs_gs_bases, MODE_LONG)
    mov ecx, 0xc0000100
    mov eax, CASE_DATA
    xor edx, edx
    wrmsr
    mov qword ptr [CASE_DATA + 8], 1234
    EQ(qword ptr fs:[8], 1234)
    mov ecx, 0xc0000102
    mov eax, CASE_DATA + 0x1000
    wrmsr
    mov qword ptr [CASE_DATA + 0x1008], 5678
    swapgs
    EQ(qword ptr gs:[8], 5678)
    rdgsbase rax
    EQ(rax, CASE_DATA + 0x1000)
    swapgs
    rdgsbase rax
    EQ(rax, 0)
    mov rax, CASE_DATA + 0x10
    wrfsbase rax
    EQ(qword ptr fs:[-8], 1234)
    mov ebx, 0
    mov rcx, -8
    EQ(qword ptr fs:[rbx + rcx], 1234)
    mov ecx, 0xc0000100
    rdmsr
    EQ(eax, CASE_DATA + 0x10)
    mov ax, LG_USER_DATA /* a load by selector takes the descriptor's base */
    mov fs, ax
    rdfsbase rax
    EQ(rax, 0)
    mov r9, CASE_DATA + 0x20
    wrgsbase r9
    mov r9, 1
    rdgsbase r9
    EQ(r9, CASE_DATA + 0x20)
    mov rax, 0x800000000000 /* not canonical (volume 2, WRFSBASE) */
    FAULTS(13, 0, wrfsbase rax)
    FAULTS(13, 0, wrgsbase rax)
    rdgsbase rbx
    EQ(rbx, CASE_DATA + 0x20)
    PASS

/* volume 2, RDFSBASE: #UD without CR4.FSGSBASE */
CASE(fs_gs_base_denied, MODE_LONG)
    mov rax, CASE_DATA + 0x20
    wrgsbase rax
    mov rax, cr4
    mov rbx, rax
    btr rbx, 16 /* FSGSBASE */
    mov cr4, rbx
    FAULTS(6, 0, rdfsbase rcx)
    FAULTS(6, 0, wrgsbase rcx)
    mov cr4, rax
    rdgsbase rcx
    EQ(rcx, CASE_DATA + 0x20)
    PASS

/* ---- privilege: volume 3, 5.9, 13.3 ---- */
CASE(ring3_privileged, MODE_LONG)
    USER_FAULTS(13, 0, 1f)
    USER_FAULTS(13, 0, 2f)
    USER_FAULTS(13, 0, 3f)
    USER_FAULTS(13, 0, 4f)
    USER_FAULTS(13, 0, 5f)
    USER_FAULTS(13, 0, 6f)
    /* I/O with a permission map in the TSS: volume 1, 19.5.2 */
    mov word ptr [LG_TSS_AT + 102], 0x68
    mov rax, [0x1000 + LG_TSS]
    USER_FAULTS(13, 0, 4f)
    PASS
1:  hlt
2:  cli
3:  mov rax, cr0
4:  mov edx, ECHO_PORT
    in al, dx
5:  rdmsr
6:  invlpg [rax]

CASE(ring3_io_map, MODE_LONG)
    /* TSS limit grows to hold a map; the busy TSS is loaded anew */
    mov word ptr [LG_GDT + LG_TSS], 0x67 + 0x100
    and byte ptr [LG_GDT + LG_TSS + 5], 0xfd
    mov word ptr [LG_TSS_AT + 102], 0x68
    mov rdi, LG_TSS_AT + 0x68
    mov ecx, 0xff
    mov al, 0xff
    rep stosb
    and byte ptr [LG_TSS_AT + 0x68 + ECHO_PORT / 8], 0xfc /* two ports from ECHO_PORT */
    mov ax, LG_TSS
    ltr ax
    RUN_USER(1f)
    USER_FAULTS(13, 0, 2f)
    RUN_USER(3f) /* beyond the map? no: IOPL 3 */
    PASS
1:  mov edx, ECHO_PORT
    out dx, ax
    in al, dx
    int 0x30
2:  mov edx, ECHO_PORT
    in eax, dx
    int 0x30
3:  int 0x30

/* ---- state: volume 1, chapters 8, 10, 13 ---- */
CASE(x87_and_mmx, MODE_LONG)
    fninit
    fld1
    fldpi
    faddp
    fistp qword ptr [CASE_DATA]
    EQ(qword ptr [CASE_DATA], 4)
    fnstsw ax
    and eax, 0x3800
    EQ(eax, 0)
    mov dword ptr [CASE_DATA], 0x01020304
    movd mm0, [CASE_DATA]
    paddb mm0, mm0
    movd [CASE_DATA + 4], mm0
    EQ(dword ptr [CASE_DATA + 4], 0x02040608)
    emms
    fnstcw [CASE_DATA]
    EQ(word ptr [CASE_DATA], 0x37f)
    /* an unmasked error is reported by the next waiting instruction: volume 1, 8.7 */
    mov word ptr [CASE_DATA], 0x37b /* zero divide */
    fldcw [CASE_DATA]
    fld1
    fldz
    fdivp
    FAULTS(16, 0, fwait)
    fninit
    /* CR0.TS and EM: volume 3, 13.1 */
    mov rax, cr0
    or eax, 8
    mov cr0, rax
    FAULTS(7, 0, fld1)
    FAULTS(7, 0, addps xmm0, xmm1)
    FAULTS(7, 0, fwait)
    clts
    fld1
    mov rax, cr0
    or eax, 4
    and eax, ~2
    mov cr0, rax
    FAULTS(7, 0, fld1)
    FAULTS(6, 0, addps xmm0, xmm1)
    PASS

CASE(sse_exceptions, MODE_LONG)
    mov dword ptr [CASE_DATA], 0x1f80 & ~0x200 /* zero divide */
    ldmxcsr [CASE_DATA]
    mov eax, 0x3f800000
    movd xmm0, eax
    xorps xmm1, xmm1
    FAULTS(19, 0, divss xmm0, xmm1)
    stmxcsr [CASE_DATA]
    bt dword ptr [CASE_DATA], 2
    EXPECT(c)
    mov dword ptr [CASE_DATA], 0x1f80
    ldmxcsr [CASE_DATA]
    divss xmm0, xmm1
    movd eax, xmm0
    EQ(eax, 0x7f800000)
    mov dword ptr [CASE_DATA], 0x10000
    FAULTS(13, 0, ldmxcsr [CASE_DATA])
    mov rax, cr4 /* without OSXMMEXCPT it is #UD; without OSFXSR SSE is none */
    btr eax, 9
    mov cr4, rax
    FAULTS(6, 0, addps xmm0, xmm1)
    PASS

/* What is not aligned is #GP before its page is asked for; but where MXCSR.MM is, and set, not what is no move: AMD APM
 * volume 1, 4.2.2. */
CASE(sse_alignment, MODE_LONG)
    mov esi, PAGES + 1
    FAULTS(13, 0, movaps xmm0, [rsi])
    FAULTS(13, 0, addps xmm0, [rsi])
    PAGE_FAULTS(0, rsi, movups xmm0, [rsi])
    mov eax, 0x80000001
    cpuid
    bt ecx, 7
    jnc 1f
    mov dword ptr [CASE_DATA], 0x21f80
    ldmxcsr [CASE_DATA]
    FAULTS(13, 0, movaps xmm0, [rsi])
    PAGE_FAULTS(0, rsi, addps xmm0, [rsi])
    addps xmm0, [CASE_DATA + 1]
1:  PASS

CASE(fxsave_xsave, MODE_LONG)
    mov rbx, CASE_DATA
    fninit
    fldpi
    mov rax, 0x123456789abcdef0
    movq xmm7, rax
    vpbroadcastq ymm8, xmm7
    fxsave64 [rbx]
    mov eax, 7
    xor edx, edx
    xsave64 [rbx + 0x400]
    EQ(qword ptr [rbx + 0x400 + 512], 7)
    xorps xmm7, xmm7
    vzeroall
    fninit
    fxrstor64 [rbx]
    movq rax, xmm7
    EQ64(rax, 0x123456789abcdef0)
    fld st(0)
    fistp dword ptr [rbx + 0x800]
    EQ(dword ptr [rbx + 0x800], 3)
    fninit
    vzeroall
    mov eax, 7
    xrstor64 [rbx + 0x400]
    vextracti128 xmm1, ymm8, 1
    movq rax, xmm1
    EQ64(rax, 0x123456789abcdef0)
    mov eax, 4 /* only the upper halves, to their initial state */
    mov qword ptr [rbx + 0x400 + 512], 3
    xrstor64 [rbx + 0x400]
    vextracti128 xmm1, ymm8, 1
    movq rax, xmm1
    EQ(rax, 0)
    movq rax, xmm8
    EQ64(rax, 0x123456789abcdef0)
    mov eax, 7
    mov qword ptr [rbx + 0x400 + 512], 0x80 /* a component that is not enabled: 13.8.1 */
    FAULTS(13, 0, xrstor64 [rbx + 0x400])
    lea rcx, [rbx + 0x408]
    FAULTS(13, 0, xsave64 [rcx])
    PASS

/* XCR0: volume 3, 2.6. Without it, or without CR4.OSXSAVE, AVX is #UD. */
CASE(xcr0, MODE_LONG)
    xor ecx, ecx
    xgetbv
    EQ(eax, 7)
    vpxor ymm0, ymm0, ymm0
    mov eax, 3
    xor edx, edx
    xsetbv
    FAULTS(6, 0, vpxor ymm0, ymm0, ymm0)
    mov eax, 5 /* AVX without SSE */
    FAULTS(13, 0, xsetbv)
    mov eax, 6
    FAULTS(13, 0, xsetbv)
    mov eax, 7
    xsetbv
    vpxor ymm0, ymm0, ymm0
    mov rax, cr4
    btr eax, 18
    mov cr4, rax
    FAULTS(6, 0, vpxor ymm0, ymm0, ymm0)
    FAULTS(6, 0, xgetbv)
    mov eax, 1
    cpuid
    bt ecx, 27
    EXPECT(nc)
    PASS

/* ---- identification and model-specific registers ---- */
CASE(cpuid_leaves, MODE_LONG)
    xor eax, eax
    cpuid
    cmp eax, 7
    EXPECT(ae)
    mov eax, 1
    xor ecx, ecx
    cpuid
    bt edx, 9 /* APIC */
    EXPECT(c)
    bt ecx, 21 /* x2APIC */
    EXPECT(c)
    bt ecx, 31 /* hypervisor */
    EXPECT(c)
    bt ecx, 27 /* OSXSAVE follows CR4 */
    EXPECT(c)
    shr ebx, 24
    EQ(ebx, 0)
    mov eax, 0x80000001
    cpuid
    bt edx, 29 /* long mode */
    EXPECT(c)
    mov eax, 0x40000000
    cpuid
    EQ(ebx, 0x4b4d564b) /* KVMK */
    mov eax, 0xd
    xor ecx, ecx
    cpuid
    and eax, 7 /* an engine may have more */
    EQ(eax, 7)
    EQ(ebx, 832)
    PASS

CASE(msr_access, MODE_LONG)
    mov ecx, 0xc0000103
    mov eax, 0x12345678
    xor edx, edx
    wrmsr
    xor eax, eax
    rdmsr
    EQ(eax, 0x12345678)
    rdtscp
    EQ(ecx, 0x12345678)
    mov ecx, 0x277 /* PAT: reserved type */
    mov eax, 2
    FAULTS(13, 0, wrmsr)
    mov ecx, 0xc0000080 /* EFER: reserved bit; LME while paging is on */
    rdmsr
    bts eax, 1
    FAULTS(13, 0, wrmsr)
    btr eax, 1
    btr eax, 8
    FAULTS(13, 0, wrmsr)
    mov ecx, 0x1b
    rdmsr
    EQ(eax, 0xfee00900)
    mov rax, 0x100000000
    FAULTS(13, 0, mov cr0, rax)
    mov rax, cr4
    bts rax, 50
    FAULTS(13, 0, mov cr4, rax)
    mov rax, cr4
    btr eax, 5 /* PAE in long mode */
    FAULTS(13, 0, mov cr4, rax)
    mov rax, cr0
    btr eax, 0 /* PG without PE */
    FAULTS(13, 0, mov cr0, rax)
    PASS

CASE(rdtsc_monotonic, MODE_LONG)
    xor ebx, ebx
    mov r12d, 20000
1:  rdtsc
    shl rdx, 32
    or rax, rdx
    cmp rax, rbx
    EXPECT(ae)
    mov rbx, rax
    dec r12d
    jnz 1b
    mov rax, cr4 /* CR4.TSD: volume 3, 2.5 */
    bts eax, 2
    mov cr4, rax
    rdtsc
    USER_FAULTS(13, 0, 2f)
    PASS
2:  rdtsc
    int 0x30

/* ---- interrupts of the own APIC: volume 3, chapter 11 ---- */
    .macro x2apic_on
    mov ecx, 0x1b
    rdmsr
    or eax, 0xc00
    wrmsr
    mov ecx, 0x80f
    mov eax, 0x1ff
    xor edx, edx
    wrmsr
    .endm
    .macro x2write reg, value
    mov ecx, \reg
    mov eax, \value
    xor edx, edx
    wrmsr
    .endm

CASE(self_ipi, MODE_LONG)
    x2apic_on
    x2write 0x83f, 0x45
    EQ(dword ptr irq_count[rip + 20], 0) /* interrupts are off */
    sti
    nop /* the shadow of STI */
    nop
    EQ(dword ptr irq_count[rip + 20], 1)
    x2write 0x83f, 0x43 /* how soon is up to the processor */
    mov ecx, 10000000
1:  cmp dword ptr irq_count[rip + 12], 1
    loopne 1b
    EQ(dword ptr irq_count[rip + 12], 1)
    mov eax, 15
    mov cr8, rax
    x2write 0x83f, 0x44
    nop
    EQ(dword ptr irq_count[rip + 16], 0)
    xor eax, eax
    mov cr8, rax
    mov ecx, 10000000
1:  cmp dword ptr irq_count[rip + 16], 1
    loopne 1b
    EQ(dword ptr irq_count[rip + 16], 1)
    cli
    PASS

    .macro nmi_to_self
    mov ecx, 0x830
    xor edx, edx
    mov eax, 0x4400
    wrmsr
    .endm

/* An NMI waits while another is handled: volume 3, 6.7.1. An IRET that faults lets it in on Intel's (volume 2, IRET), before the
 * fault's handler. */
CASE(nmi_and_iret, MODE_LONG)
    x2apic_on
    xor eax, eax
    cpuid
    mov r12d, ebx
    lea rax, [rip + 5f]
    mov [0x2000 + 2 * 16], ax
    shr eax, 16
    mov [0x2000 + 2 * 16 + 6], ax
    mov byte ptr [0x2000 + 2 * 16 + 4], 0 /* no IST: they nest */
    xor ebx, ebx
    nmi_to_self
    mov ecx, 10000000 /* how soon is up to the processor */
1:  cmp ebx, 2
    loopne 1b
    EQ(ebx, 2)
    PASS
5:  inc ebx
    cmp ebx, 1
    jne 6f
    nmi_to_self
    nop
    EQ(ebx, 1)
    sub rsp, 40
    mov qword ptr [rsp + 8], 0 /* CS */
    FAULTS(13, 0, iretq)
    cmp r12d, 0x756e6547 /* "Genu" */
    jne 7f
    EQ(ebx, 2)
7:  add rsp, 40
6:  iretq

/* STI; HLT: no interrupt comes between, so that HLT is woken. Volume 2, STI. */
CASE(timer_one_shot, MODE_LONG)
    x2apic_on
    x2write 0x83e, 0xb
    x2write 0x832, 0x46
    mov r12d, 5
1:  x2write 0x838, 1000000
    sti
    hlt
    cli
    dec r12d
    jnz 1b
    EQ(dword ptr irq_count[rip + 24], 5)
    x2write 0x838, 300000 /* while running */
    sti
2:  cmp dword ptr irq_count[rip + 24], 6
    jne 2b
    PASS

CASE(timer_periodic, MODE_LONG)
    x2apic_on
    x2write 0x83e, 0xb
    x2write 0x832, 0x20047
    x2write 0x838, 500000
    sti
1:  cmp dword ptr irq_count[rip + 28], 3
    jb 1b
2:  hlt
    cmp dword ptr irq_count[rip + 28], 8
    jb 2b
    cli
    x2write 0x838, 0
    PASS

/* Interrupts reach code that never jumps backward to a place of its own page that is written in the jump. */
CASE(timer_ends_loops, MODE_LONG)
    x2apic_on
    x2write 0x83e, 0xb
    x2write 0x832, 0x4a
    sti
    mov r12d, 20
again_timed:
    mov ebx, irq_count[rip + 40]
    x2write 0x838, 30000
    lea rax, [rip + 1f] /* indirect jumps */
1:  cmp irq_count[rip + 40], ebx
    jne 2f
    jmp rax
2:  mov ebx, irq_count[rip + 40]
    x2write 0x838, 30000
    lea rax, [rip + 3f] /* returns without calls */
3:  cmp irq_count[rip + 40], ebx
    jne 4f
    push rax
    ret
4:  mov ebx, irq_count[rip + 40]
    x2write 0x838, 30000
back_timed:             /* jumps to another page and back */
    cmp irq_count[rip + 40], ebx
    je away_timed
    mov ebx, irq_count[rip + 40]
    x2write 0x838, 30000
    lea rax, [rip + called_timed] /* indirect calls that return */
    mov rbp, rsp
    lea rdx, [rip + 6f]
6:  call rax
    cmp irq_count[rip + 40], ebx
    jne 7f
    jmp rdx
7:  EQ(rsp, rbp)
    mov ebx, irq_count[rip + 40]
    x2write 0x838, 30000
    mov esi, 50 /* direct calls that return, 2 to the 50th */
    call tree_timed
    EQ(rsp, rbp)
    dec r12d
    jnz again_timed
    cli
    PASS
tree_timed:
    cmp irq_count[rip + 40], ebx
    jne 8f
    test esi, esi
    jz 8f
    dec esi
    call tree_timed
    call tree_timed
    inc esi
8:  ret
    .p2align 12
away_timed:
    jmp back_timed
called_timed:
    ret

CASE(timer_deadline, MODE_LONG)
    mov eax, 1
    cpuid
    bt ecx, 24
    EXPECT(c)
    x2apic_on
    x2write 0x832, 0x40048
    mov r12d, 10
1:  mfence
    rdtsc
    shl rdx, 32
    or rax, rdx
    mov rbx, [CASE_PARAM + P_TSC_KHZ]
    shr rbx, 1
    add rbx, rax /* half a millisecond */
    mov rax, rbx
    mov rdx, rax
    shr rdx, 32
    mov ecx, 0x6e0
    wrmsr
    sti
    hlt
    cli
    rdtsc
    shl rdx, 32
    or rax, rdx
    cmp rax, rbx
    EXPECT(ae)
    dec r12d
    jnz 1b
    EQ(dword ptr irq_count[rip + 32], 10)
    mov ecx, 0x6e0
    rdmsr
    EQ(eax, 0)
    PASS

/* The same APIC through its page. */
CASE(xapic_page, MODE_LONG)
    mov byte ptr no_eoi[rip], 1
    mov ebx, 0xfee00000
    mov eax, [rbx + 0x30]
    btr eax, 24 /* an engine may have directed EOI */
    EQ(eax, 0x50014)
    mov dword ptr [rbx + 0xf0], 0x1ff
    mov dword ptr [rbx + 0x300], 0x40049
    sti
    nop
    nop
    cli
    EQ(dword ptr irq_count[rip + 36], 1)
    EQ(dword ptr [rbx + 0x120], 1 << 9) /* in service */
    mov dword ptr [rbx + 0xb0], 0
    EQ(dword ptr [rbx + 0x120], 0)
    PASS

/* ---- leaving 64-bit code: volume 3, 5.8.1 ---- */
CASE(compatibility_mode, MODE_LONG)
    mov byte ptr no_eoi[rip], 1
    push LG_CODE32
    lea rax, [rip + 1f]
    push rax
    mov r14, 0x7777777777777777
    retfq
    .code32
1:  mov eax, 0x7fffffff
    inc eax /* 40: INC in 32-bit code */
    jno 9f
    push 0x1234
    pop ecx
    pusha
    popa
    mov edx, esp
    push ecx
    sub edx, esp
    pop ecx
    cmp edx, 4
    jne 9f
    mov ax, LG_DATA
    mov ds, eax
    mov ebx, 0x12345678
    mov dword ptr ds:[CASE_DATA], ebx
    xor ebx, ebx
    .byte 0x8b, 0x1d
    .long CASE_DATA /* mov ebx, [disp32]: absolute here, RIP-relative in 64-bit code */
    cmp ebx, 0x12345678
    jne 9f
    mov esi, 0x1234
    mov al, 0x15
    aaa
    das
    int 0x41 /* through a 64-bit gate and back */
    ljmp LG_CODE64, AT(2f)
9:  mov eax, 1
    out DONE_PORT, eax
    .code64
2:  EQ(ecx, 0x1234)
    EQ(dword ptr irq_count[rip + 4], 1)
    EQ64(r14, 0x7777777777777777)
    PASS

/* 16-bit code under long mode: prefix sense is turned round. */
CASE(code_segment_16, MODE_LONG)
    mov byte ptr no_eoi[rip], 1
    mov rsi, AT(1f)
    mov rdi, 0x51000
    mov ecx, 3f - 1f
    rep movsb
    mov dword ptr [LG_GDT + LG_CODE16 + 2], 0x9b051000 /* base 0x51000 */
    push LG_CODE16
    push 0
    retfq
    .code16
1:  mov ax, 0x1234
    mov ecx, 0x56789abc
    mov bx, ax
    add bx, cx
    .byte 0x66, 0xea /* jmp far ptr16:32 */
    .long AT(2f)
    .word LG_CODE64
3:  .code64
2:  EQ(ax, 0x1234)
    EQ(ecx, 0x56789abc)
    EQ(bx, 0xacf0)
    PASS

/* Whether SYSCALL in compatibility mode goes to CSTAR depends on the vendor: AMD has it, Intel gives #UD. */
CASE(compat_syscall, MODE_LONG)
    mov byte ptr no_eoi[rip], 1
    setup_syscall 8f
    mov ecx, 0xc0000083
    lea rax, [rip + 2f]
    xor edx, edx
    wrmsr
    xor eax, eax
    cpuid
    mov r12d, ecx
    lea rax, [rip + 3f]
    mov back[rip], rax
    mov back_rsp[rip], rsp
    mov byte ptr armed[rip], 1
    push LG_USER_DATA
    push USER_STACK
    push 2
    push LG_USER_CODE32
    push USER_AT(1f)
    iretq
1:  .byte 0x0f, 0x05
8:  ud2
2:  EQ(r12d, 0x444d4163) /* cAMD */
    EQ(ecx, USER_AT(8b))
    PASS
3:  EQ(qword ptr got_vector[rip], 6)
    cmp r12d, 0x444d4163
    EXPECT(ne)
    PASS
CASES_END(system)
