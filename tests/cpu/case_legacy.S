/* Real mode and 32-bit protected mode without paging, and the way from one to the other. Sections are of Intel SDM (2023-12). */
#include "case.h"
CASES(legacy)

#define PASS32 xor eax, eax; out DONE_PORT, eax; 96: hlt; jmp 96b
    /* The condition holds, else the line is reported. For 16- and 32-bit code. */
#define OK(cc) ok_cc __LINE__, cc
#define SAME(a, b) SAME_TEXT(a, b)
#define SAME_TEXT(a, b) same __LINE__, #a, #b
    .macro ok_cc line, cc
    j\cc 88f
    mov eax, \line
    out DONE_PORT, eax
88:
    .endm
    .macro same line, a, b
    cmp \a, \b
    je 88f
    mov eax, \line
    out DONE_PORT, eax
88:
    .endm

/* ---- real mode: volume 3, 21.1 ---- */
    .code16
CASE(real_basics, MODE_REAL)
    mov ax, 0x2000
    mov ds, ax
    mov es, ax
    mov word ptr ds:[0x10], 0x1234
    mov bx, 0x10
    mov si, 0
    SAME(word ptr [bx + si], 0x1234)
    mov ax, 0x2001
    mov ds, ax
    SAME(word ptr ds:[0], 0x1234)
    mov eax, -1
    add ax, 1
    OK(c)
    SAME(eax, 0xffff0000 - 0x100000000)
    PASS32

CASE(real_addressing, MODE_REAL)
    mov ax, 0x2000
    mov ds, ax
    mov word ptr ds:[0xfffe], 0x5678
    mov bx, 0xfff0
    mov si, 0x1e /* wraps at 64 KiB: 0xfff0 + 0x1e = 0x000e */
    mov word ptr ds:[0x0e], 0xaa55
    SAME(word ptr [bx + si], 0xaa55)
    mov ebx, 0x8000
    mov word ptr ds:[0x8004], 0x1111
    SAME(word ptr [ebx + 4], 0x1111)
    push ds
    pop fs
    SAME(word ptr fs:[0xfffe], 0x5678)
    mov ax, 0xffff /* 20 bits and the first 64 KiB above: A20 is on */
    mov es, ax
    mov word ptr es:[0x20], 0x4321 /* 0x100010 */
    xor ax, ax
    mov ds, ax
    mov word ptr ds:[0x10], 0
    SAME(word ptr es:[0x20], 0x4321)
    PASS32

CASE(real_stack_and_calls, MODE_REAL)
    mov ax, 0x3000
    mov ss, ax
    mov sp, 0x1000
    push 0x1234
    pushf
    popf
    pop bx
    SAME(bx, 0x1234)
    pushad
    popad
    call 1f
    SAME(bx, 0x99)
    .byte 0x9a /* far call to the same segment */
    .word 2f - blob, CASE_REAL_BASE >> 4
    SAME(bx, 0x77)
    SAME(sp, 0x1000)
    mov sp, 0
    push ax /* wraps to the top */
    SAME(sp, 0xfffe)
    enter 8, 0
    leave
    SAME(sp, 0xfffe)
    PASS32
1:  mov bx, 0x99
    ret
2:  mov bx, 0x77
    .byte 0xcb /* far return */

/* Interrupt vector table */
CASE(real_interrupts, MODE_REAL)
    xor ax, ax
    mov ds, ax
    mov word ptr ds:[0x60 * 4], 1f - blob
    mov word ptr ds:[0x60 * 4 + 2], CASE_REAL_BASE >> 4
    mov word ptr ds:[0], 2f - blob /* #DE */
    mov word ptr ds:[2], CASE_REAL_BASE >> 4
    mov word ptr ds:[6 * 4], 3f - blob /* #UD */
    mov word ptr ds:[6 * 4 + 2], CASE_REAL_BASE >> 4
    sti
    int 0x60
    SAME(cx, 0x60)
    pushf
    pop ax
    test ax, 0x200
    OK(nz)
    mov ax, 100
    xor bl, bl
    div bl
    SAME(cx, 0)
    .byte 0x0f, 0x0b
    nop
    SAME(cx, 6)
    PASS32
1:  mov cx, 0x60
    pushf
    pop ax
    test ax, 0x200 /* off in the handler */
    OK(z)
    iret
2:  mov cx, 0
    mov bp, sp
    add word ptr [bp], 2 /* past DIV BL */
    iret
3:  mov cx, 6
    mov bp, sp
    add word ptr [bp], 2
    iret

CASE(real_strings_and_ports, MODE_REAL)
    mov ax, 0x2000
    mov ds, ax
    mov es, ax
    cld
    mov di, 0xfffc
    mov ax, 0x4141
    mov cx, 4 /* di wraps */
    rep stosw
    SAME(di, 4)
    SAME(word ptr ds:[0xfffe], 0x4141)
    SAME(word ptr ds:[2], 0x4141)
    mov si, 0
    mov dx, SUM_PORT
    mov cx, 2
    rep outsb
    SAME(si, 2)
    in eax, dx
    SAME(eax, (0x141 * 31) + 0x141)
    PASS32

/* Unreal mode: a limit loaded in protected mode stays after the way back. Volume 3, 9.9.2 */
CASE(real_to_protected_and_back, MODE_REAL)
    xor ax, ax
    mov ds, ax
    cli
    mov dword ptr ds:[LG_GDT + LG_FREE], 0xffff
    mov dword ptr ds:[LG_GDT + LG_FREE + 4], 0x9b00 | (CASE_REAL_BASE >> 16)
    mov word ptr ds:[0x7000], 0xfff
    mov dword ptr ds:[0x7002], 0x1000
    data32 lgdt ds:[0x7000]
    mov eax, cr0
    or eax, 1
    mov cr0, eax
    .byte 0x66, 0xea
    .long REAL_AT(1f)
    .word LG_CODE32
    .code32
1:  mov eax, LG_DATA
    mov ds, eax
    mov es, eax
    mov fs, eax
    mov ss, eax
    mov esp, CASE_STACK
    push 0x12345678
    pop ebx
    mov dword ptr ds:[0x400000], 0xcafe
    .byte 0xea /* to a 16-bit code segment */
    .long 2f - blob
    .word LG_FREE
    .code16
2:  mov eax, cr0
    and eax, ~1
    mov cr0, eax
    .byte 0xea
    .word 3f - blob, CASE_REAL_BASE >> 4
3:  xor ax, ax
    mov ds, ax
    mov ecx, 0x400000
    SAME(dword ptr [ecx], 0xcafe)
    SAME(ebx, 0x12345678)
    PASS32

/* ---- 32-bit protected mode ---- */
    .code32
    /* 32-bit interrupt gate in the IDT at CASE_DATA. Volume 3, 6.11 */
    .macro gate32 vector, label
    mov eax, CASE_BASE + \label - blob
    mov ds:[CASE_DATA + \vector * 8], ax
    shr eax, 16
    mov ds:[CASE_DATA + \vector * 8 + 6], ax
    mov dword ptr ds:[CASE_DATA + \vector * 8 + 2], (LG_CODE32 | 0xee000000) - 0x100000000
    .endm
    .macro idt32
    mov word ptr ds:[CASE_DATA + 0x1000], 0x7ff
    mov dword ptr ds:[CASE_DATA + 0x1002], CASE_DATA
    lidt ds:[CASE_DATA + 0x1000]
    .endm

CASE(prot_short_forms, MODE_PROT)
    mov ecx, 0x7fffffff
    .byte 0x41 /* inc ecx */
    OK(o)
    .byte 0x49 /* dec ecx */
    SAME(ecx, 0x7fffffff)
    push 0x11223344
    push 0x55667788
    pop eax
    pop edx
    SAME(edx, 0x11223344)
    mov ebx, esp
    pushad
    sub ebx, esp
    SAME(ebx, 32)
    popad
    mov ax, 0x0905
    .byte 0x66, 0x50 /* push ax */
    .byte 0x66, 0x5b /* pop bx */
    SAME(bx, 0x0905)
    push ds
    pop es
    SAME(esp, CASE_STACK)
    PASS32

/* Where the last x87 instruction was, with its selector if the processor keeps it: volume 1, 8.1.8. 0: it was lost at an
 * exit to the host, as AMD's do. */
CASE(prot_x87_pointers, MODE_PROT)
    fninit
1:  fld1
    fnstenv [CASE_DATA]
    mov eax, [CASE_DATA + 12]
    test eax, eax
    jz 2f
    SAME(eax, AT(1b))
    movzx ecx, word ptr [CASE_DATA + 16]
    jecxz 2f
    mov eax, cs
    SAME(ecx, eax)
2:  fninit
    PASS32

/* Decimal instructions: volume 2, AAA, AAS, AAM, AAD, DAA, DAS */
CASE(prot_decimal, MODE_PROT)
    mov eax, 0x79
    add al, 0x35
    .byte 0x27 /* daa */
    SAME(al, 0x14)
    mov al, 0x79
    add al, 0x35
    .byte 0x27
    OK(c)
    mov al, 0x35
    sub al, 0x47
    .byte 0x2f /* das */
    OK(c)
    SAME(al, 0x88)
    mov ax, 0x0035
    add al, 0x39
    .byte 0x37 /* aaa */
    SAME(ax, 0x0104)
    mov ax, 0x0232
    sub al, 0x38
    .byte 0x3f /* aas */
    SAME(ax, 0x0104)
    mov eax, 63
    .byte 0xd4, 0x0a /* aam */
    SAME(ax, 0x0603)
    .byte 0xd5, 0x0a /* aad */
    SAME(ax, 63)
    stc
    .byte 0xd6 /* salc */
    SAME(al, 0xff)
    PASS32

/* KVM's hypercalls are 32 bits wide here: case_smp.S. */
CASE(prot_hypercall, MODE_PROT)
    xor eax, eax
    cpuid
    mov edi, CASE_BASE + 1f - blob
    cmp ecx, 0x444d4163 /* AuthenticAMD */
    je 3f
    cmp ecx, 0x656e6975 /* HygonGenuine */
    jne 4f
3:  mov edi, CASE_BASE + 2f - blob
4:  mov ebx, 0x12345678
    mov eax, 0x12345
    call edi
    SAME(eax, 0xfffffc18) /* -KVM_ENOSYS */
    SAME(ebx, 0x12345678)
    xor ebx, ebx
    mov eax, 11 /* yield */
    call edi
    SAME(eax, 0)
    PASS32
1:  vmcall
    ret
2:  vmmcall
    ret
CASE(prot_exceptions, MODE_PROT)
    idt32
    gate32 0, 10f
    gate32 3, 11f
    gate32 4, 11f
    gate32 5, 12f
    gate32 6, 13f
    gate32 13, 14f
    xor ecx, ecx
    xor edx, edx
    mov eax, 5
    div ecx
    SAME(ebx, 0x100)
    int3
    SAME(ebx, 0x103)
    mov eax, 0x7fffffff
    inc eax
    mov ebx, 0 /* OF stays */
    .byte 0xce /* into */
    SAME(ebx, 0x103)
    mov dword ptr ds:[CASE_DATA + 0x2000], 10
    mov dword ptr ds:[CASE_DATA + 0x2004], 20
    mov eax, 15
    .byte 0x62, 0x05 /* bound eax, [mem]: inside */
    .long CASE_DATA + 0x2000
    SAME(ebx, 0x103)
    mov eax, 21
    .byte 0x62, 0x05
    .long CASE_DATA + 0x2000
    SAME(ebx, 0x105)
    ud2
    SAME(ebx, 0x106)
    mov eax, 0x1000
    mov fs, eax /* past the GDT */
    SAME(ebx, 0x113)
    SAME(esi, 0x1000)
    PASS32
10: mov ebx, 0x100
    add dword ptr [esp], 2
    iret
11: mov ebx, 0x103
    iret
12: mov ebx, 0x105
    add dword ptr [esp], 6
    iret
13: mov ebx, 0x106
    add dword ptr [esp], 2
    iret
14: mov ebx, 0x113
    pop esi
    add dword ptr [esp], 2
    iret

/* Segment limits: volume 3, 5.3 */
CASE(prot_limits, MODE_PROT)
    idt32
    gate32 13, 1f
    mov dword ptr ds:[LG_GDT + LG_FREE], (0x00000fff | ((CASE_DATA & 0xffff) << 16))
    mov dword ptr ds:[LG_GDT + LG_FREE + 4], (0x00409300 | ((CASE_DATA >> 16) & 0xff))
    mov eax, LG_FREE
    mov es, eax
    mov dword ptr ds:[CASE_DATA + 0xffc], 0x600d
    xor ebx, ebx
    SAME(dword ptr es:[0xffc], 0x600d)
    mov ecx, es:[ebx + 0xffd] /* one byte past the limit */
    SAME(edi, 13)
    mov ecx, 0
    mov es, ecx
    xor edi, edi
    mov ecx, es:[ebx + 0x10000] /* null selector */
    SAME(edi, 13)
    PASS32
1:  mov edi, 13
    pop eax
    add dword ptr [esp], 7
    iret

    /* GDT entry LG_FREE + off: a 32-bit segment with limit \limit (20 bits and the granularity in bit 23 of \high) */
    .macro segment32 off, base, limit, high
    mov dword ptr ds:[LG_GDT + LG_FREE + \off], ((\limit & 0xffff) | ((\base & 0xffff) << 16))
    mov dword ptr ds:[LG_GDT + LG_FREE + \off + 4], (\high | (\limit & 0xf0000) | ((\base >> 16) & 0xff) | (\base & 0xff000000))
    .endm

/* FS and GS while the other segments are flat: limits and types (volume 3, 5.3 and 5.5), null selectors (5.4.1), addresses of 32 bits
   that wrap behind the base (3.3.7) */
CASE(prot_fs_gs, MODE_PROT)
    idt32
    gate32 13, 1f
    segment32 0, CASE_DATA, 0xfff, 0x00409300
    mov dword ptr ds:[CASE_DATA + 0xffc], 0x600d
    mov dword ptr ds:[CASE_DATA + 0x1000], 0xbad
    mov eax, LG_FREE
    mov fs, eax
    mov ebx, 0xffc
    mov ecx, fs:[ebx]
    SAME(ecx, 0x600d)
    SAME(edi, 0)
    mov ecx, fs:[ebx + 1] /* one byte past the limit */
    nop
    nop
    nop
    SAME(edi, 13)
    xor edi, edi
    add fs:[ebx + 2], ecx
    nop
    nop
    nop
    SAME(edi, 13)
    SAME(dword ptr ds:[CASE_DATA + 0x1000], 0xbad)
    xor edi, edi
    mov eax, fs:[0xffd] /* 64 a1 */
    nop
    SAME(edi, 13)
    xor edi, edi
    fld tbyte ptr fs:[ebx - 8]
    nop
    nop
    nop
    SAME(edi, 0)
    fld tbyte ptr fs:[ebx - 4] /* two bytes stick out */
    nop
    nop
    nop
    SAME(edi, 13)
    xor edi, edi
    xor ecx, ecx
    mov gs, ecx
    mov ecx, gs:[ebx] /* null selector */
    nop
    nop
    nop
    nop
    SAME(edi, 13)
    segment32 0, CASE_DATA, 0xfff, 0x00409100 /* not writable */
    mov eax, LG_FREE
    mov gs, eax
    xor edi, edi
    mov ecx, gs:[ebx]
    SAME(ecx, 0x600d)
    mov gs:[ebx], ecx
    nop
    nop
    nop
    nop
    SAME(edi, 13)
    segment32 0, 0xffff0800, 0xfffff, 0x00c09300
    mov eax, LG_FREE
    mov gs, eax
    xor edi, edi
    mov ebx, 0x107f8 /* the sum is 0xff8 behind 4 GiB */
    mov eax, ds:[0xff8]
    mov gs:[ebx], eax
    SAME(edi, 0)
    mov ebx, CASE_DATA + 0xf800
    SAME(dword ptr gs:[ebx + 0xffc], 0x600d)
    mov ecx, CASE_DATA + 0x10000
    SAME(word ptr gs:[ecx + 0x7fc], 0x600d)
    SAME(edi, 0)
    PASS32
1:  mov edi, 13
    pop eax
    add dword ptr [esp], 7
    iret

/* Ring 3 and back through a gate with a 32-bit TSS: volume 3, 6.12.1 */
CASE(prot_ring3, MODE_PROT)
    idt32
    gate32 0x30, 2f
    mov dword ptr ds:[CASE_DATA + 0x3004], CASE_STACK - 0x100 /* ESP0 */
    mov dword ptr ds:[CASE_DATA + 0x3008], LG_DATA
    mov dword ptr ds:[LG_GDT + LG_FREE], (0x00000067 | (((CASE_DATA + 0x3000) & 0xffff) << 16))
    mov dword ptr ds:[LG_GDT + LG_FREE + 4], (0x00008900 | ((CASE_DATA >> 16) & 0xff))
    mov eax, LG_FREE
    ltr ax
    test byte ptr ds:[LG_GDT + LG_FREE + 5], 2 /* busy */
    OK(nz)
    push LG_USER_DATA
    push CASE_DATA + 0x8000
    push 2
    push LG_USER_CODE32
    push AT(1f)
    iret
1:  mov eax, cs
    mov ecx, 0x1234
    push ecx
    int 0x30
2:  SAME(eax, LG_USER_CODE32)
    SAME(esp, CASE_STACK - 0x100 - 20)
    SAME(dword ptr [esp + 12], CASE_DATA + 0x7ffc)
    SAME(dword ptr [esp + 16], LG_USER_DATA)
    PASS32

/* 32-bit paging with 4 MiB pages: volume 3, 4.3 */
CASE(prot_paging, MODE_PROT)
    idt32
    gate32 14, 1f
    mov edi, CASE_DATA + 0x10000
    mov eax, 0xe3
    mov ecx, 2
2:  mov [edi], eax
    add edi, 4
    add eax, 0x400000
    loop 2b
    mov dword ptr ds:[CASE_DATA + 0x10000 + 0x200 * 4], CASE_DATA + 0x11000 + 0x23 /* 0x80000000 */
    mov dword ptr ds:[CASE_DATA + 0x11000 + 5 * 4], CASE_DATA + 0x12000 + 0x63
    mov eax, cr4
    or eax, 0x10
    mov cr4, eax
    mov eax, CASE_DATA + 0x10000
    mov cr3, eax
    mov eax, cr0
    or eax, 0x80010000
    mov cr0, eax
    mov dword ptr ds:[CASE_DATA + 0x12010], 0xbeef
    xor ebx, ebx
    SAME(dword ptr [ebx + 0x80005010 - 0x100000000], 0xbeef)
    mov ecx, [ebx + 0x80006000 - 0x100000000]
    SAME(edi, 14)
    mov eax, cr2
    SAME(eax, 0x80006000 - 0x100000000)
    /* table 4-4: bit 21 of a 4 MiB page is reserved; those below are more of the address with PSE-36, else reserved too */
    mov dword ptr ds:[CASE_DATA + 0x10000 + 0x201 * 4], 0x2000e3
    xor edi, edi
    mov ecx, [ebx + 0x80400000 - 0x100000000]
    SAME(edi, 14)
    SAME(eax, 9)
    mov eax, 1
    cpuid
    xor ebx, ebx
    xor edi, edi
    bt edx, 17
    jc 3f
    mov dword ptr ds:[CASE_DATA + 0x10000 + 0x202 * 4], 0x20e3
    mov ecx, [ebx + 0x80800000 - 0x100000000]
    SAME(edi, 14)
    SAME(eax, 9)
3:
    PASS32
1:  mov edi, 14
    pop eax
    add dword ptr [esp], 6
    iret

/* PAE paging: volume 3, 4.4 */
CASE(prot_pae, MODE_PROT)
    mov dword ptr ds:[CASE_DATA + 0x10000], CASE_DATA + 0x11001 /* PDPTE 0 */
    mov dword ptr ds:[CASE_DATA + 0x10008], CASE_DATA + 0x12001 /* PDPTE 1 */
    mov edi, CASE_DATA + 0x11000
    mov eax, 0xe3
    mov ecx, 4
2:  mov [edi], eax
    add edi, 8
    add eax, 0x200000
    loop 2b
    mov dword ptr ds:[CASE_DATA + 0x12000], 0x2000e3 /* 0x40000000 to CASE_DATA */
    mov eax, cr4
    or eax, 0x20
    mov cr4, eax
    mov eax, CASE_DATA + 0x10000
    mov cr3, eax
    mov eax, cr0
    or eax, 0x80000000
    mov cr0, eax
    mov dword ptr ds:[CASE_DATA + 0x100], 0x7a7a
    SAME(dword ptr ds:[0x40000100], 0x7a7a)
    idt32
    gate32 14, 1f
    gate32 13, 1f
    mov dword ptr ds:[CASE_DATA + 0x12008], 0x2000e3 /* 0x40200000: bit 52 is reserved */
    mov dword ptr ds:[CASE_DATA + 0x1200c], 0x00100000
    xor edi, edi
    mov edx, 0x40200000
    mov ecx, [edx]
    nop
    nop
    nop
    nop
    SAME(edi, 9)
    xor eax, eax
    cpuid
    cmp ebx, 0x756e6547 /* "Genu": 4.4.1, those of the pointer table are refused when they are loaded */
    jne 3f
    mov dword ptr ds:[CASE_DATA + 0x10010], CASE_DATA + 0x12003
    mov eax, CASE_DATA + 0x10000
    mov edi, -1
    mov cr3, eax
    nop
    nop
    nop
    SAME(edi, 0)
    mov dword ptr ds:[CASE_DATA + 0x10010], CASE_DATA + 0x12001
    mov edi, -1
    mov cr3, eax
    SAME(edi, -1)
3:  PASS32
1:  pop edi
    add dword ptr [esp], 6
    iret

/* From here to long mode and back: volume 3, 9.8.5 */
CASE(prot_long_prot, MODE_PROT)
    mov eax, cr4
    or eax, 0x20
    mov cr4, eax
    mov eax, LG_TABLES
    mov cr3, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x100
    wrmsr
    mov eax, cr0
    or eax, 0x80000000
    mov cr0, eax
    rdmsr
    bt eax, 10 /* LMA */
    OK(c)
    mov ebx, 5
    inc ebx /* still 32-bit code */
    SAME(ebx, 6)
    .byte 0xea
    .long AT(1f)
    .word LG_CODE64
    .code64
1:  movabs r12, 0x123456789abcdef0
    mov rbx, r12
    shr rbx, 32
    SAME(ebx, 0x12345678)
    push LG_CODE32
    lea rax, 2f[rip]
    push rax
    retfq
    .code32
2:  mov eax, cr0
    and eax, 0x7fffffff
    mov cr0, eax
    mov ecx, 0xc0000080
    rdmsr
    bt eax, 10
    OK(nc)
    SAME(ebx, 0x12345678)
    PASS32
/* x87 and SSE in real mode, with segments that begin anywhere: volume 1, 8.1; volume 3, 20.1 */
    .code16
CASE(real_x87_and_sse, MODE_REAL)
    mov ax, 0x6000
    mov ds, ax
    mov ax, 0x6100
    mov es, ax
    fninit
    fnstcw word ptr ds:[0x10]
    SAME(word ptr ds:[0x10], 0x37f)
    fld1
    fldpi
    fstp dword ptr es:[0x20]
    SAME(dword ptr ds:[0x1020], 0x40490fdb)
    mov bx, 2
    fistp word ptr [bx + 0x1020]
    SAME(dword ptr ds:[0x1020], 0x10fdb)
    fnstsw ax
    SAME(ax, 0x20)
    mov word ptr ds:[0x20e], 0x5a5a
    fnstenv ds:[0x200] /* 14 bytes */
    SAME(word ptr ds:[0x200], 0x37f)
    SAME(word ptr ds:[0x204], 0xffff) /* all are empty */
    SAME(word ptr ds:[0x20e], 0x5a5a)
    mov eax, cr4
    or ax, 0x200
    mov cr4, eax
    mov dword ptr ds:[0x30], 0x12345678
    movd xmm1, dword ptr ds:[0x30]
    pshufd xmm2, xmm1, 0
    movups es:[0x41], xmm2
    SAME(dword ptr ds:[0x104d], 0x12345678)
    movd edx, xmm2
    SAME(edx, 0x12345678)
    fldpi /* here CS is a segment like others */
    fstp dword ptr cs:[1f - blob]
    SAME(dword ptr cs:[1f - blob], 0x40490fdb)
    movss dword ptr cs:[1f - blob], xmm2
    SAME(dword ptr cs:[1f - blob], 0x12345678)
    PASS32
1:  .long 0

CASES_END(legacy)
