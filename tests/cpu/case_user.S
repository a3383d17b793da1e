/* 64-bit cases of ring 3, on one vCPU: what its memory is, its exceptions, and instructions that it shares with
 * ring 0. An engine may run ring 3 by other means than ring 0 (YADO_TEST_DIRECT). Sections are of Intel SDM volume 3
 * (2023-12) unless another is named. */
#include "case.h"
CASES(user)
#include "prelude.S"

    /* Entry of the page directory that `va`, below 512 GiB, belongs to. */
    .macro set_large va, value
    mov rax, [LG_TABLES]
    and rax, -4096
    mov rax, [rax + ((\va) >> 30) * 8]
    and rax, -4096
    mov rcx, \value
    mov [rax + (((\va) >> 21) & 511) * 8], rcx
    invlpg [\va]
    .endm
#define LARGE 0x40600000 /* free for that */
#define LARGE_RW 0xe7    /* P, W, U, A, D, PS */
#define LARGE_RO 0xe5

    /* Ring 3 at an address of its own, until INT 0x30 */
#define RUN_AT(address) lea r15, [rip + 77f]; mov back[rip], r15; mov r15, address; jmp enter_user; 77:
    /* As USER_FAULTS, and the exception is at the label `at`. */
#define USER_FAULTS_AT(vec, err, label, at) USER_FAULTS(vec, err, label); EQ(qword ptr got_rip[rip], USER_AT(at))
#define USER_PAGE_FAULTS(err, addr, label, at) USER_FAULTS_AT(14, err, label, at); EQ(qword ptr got_cr2[rip], addr)

    /* Copies code, of at most 64 bytes, to physical memory. */
    .macro put_code to, label
    mov edi, \to
    lea rsi, \label[rip]
    mov ecx, 64
    cld
    rep movsb
    .endm

/* ---- large pages ---- */

/* A large page that is a device, and one where nothing is. */
CASE(user_large_device, MODE_LONG)
    set_large LARGE, DEVICE_GPA + LARGE_RW
    RUN_USER(1f)
    EQ(eax, 0x11223344)
    mov ebx, DEVICE
    EQ(dword ptr [rbx + DEV_WRITES], 1)
    EQ(dword ptr [rbx + DEV_READS], 1)
    set_large LARGE, 0xc0000000 + LARGE_RW
    RUN_USER(2f)
    EQ(eax, -1)
    set_large LARGE, 0x600000 + LARGE_RW /* RAM up to the last byte, and behind it nothing */
    set_large LARGE + 0x200000, 0x800000 + LARGE_RW
    mov dword ptr [0x7ffffc], 0x55667788
    RUN_USER(3f)
    EQ64(rax, 0xffffffff55667788)
    PASS
1:  mov ebx, LARGE
    mov dword ptr [rbx + 0x10], 0x11223344
    mov eax, [rbx + 0x10]
    int 0x30
2:  mov ebx, LARGE
    mov eax, [rbx + 0x1234]
    int 0x30
3:  mov ebx, LARGE
    mov rcx, [rbx + 0x1ffff0]
    mov rax, [rbx + 0x1ffffc]
    int 0x30

/* 2.1.1: what a bit that is reserved does in the entry of a large page. */
CASE(user_large_reserved, MODE_LONG)
    set_large LARGE, CASE_DATA + LARGE_RW + 0x2000
    USER_PAGE_FAULTS(0xd, LARGE + 0x40, 1f, 1f)
    set_large LARGE, CASE_DATA + LARGE_RW + 0x1000 /* PAT */
    RUN_USER(1f)
    PASS
1:  mov eax, [LARGE + 0x40]
    int 0x30

/* Code of both kinds in 4 KiB pieces of a large page, among data. */
CASE(user_large_code, MODE_LONG)
    put_code CASE_DATA + 0x40000, 10f
    put_code CASE_DATA + 0x42000, 11f
    set_large LARGE, CASE_DATA + LARGE_RW
    mov r12d, 3
5:  RUN_USER(1f)
    EQ(eax, 7)
    EQ(ebx, 2)
    EQ(qword ptr [CASE_DATA + 0x102], LG_GDT)
    mov byte ptr [CASE_DATA + 0x40001], 0xc0 /* inc eax */
    mov qword ptr [CASE_DATA + 0x102], 0
    dec r12d
    jnz 5b
    PASS
1:  mov ebp, LARGE
    mov dword ptr [rbp + 0x1000], 5
    mov eax, [rbp + 0x1000]
    lea rdx, [rbp + 0x40000]
    lea rsi, [rbp + 0x42000]
    lea rdi, [rbp + 0x100]
    call rdx
    call rsi /* 7 */
    mov [rbp + 0x60000], eax
    mov [rbp + 0x40800], eax /* beside the code */
    mov byte ptr [rbp + 0x40001], 0xc8 /* and the code: dec eax */
    call rdx
    mov ebx, 8
    sub ebx, eax
    mov eax, [rbp + 0x60000]
    int 0x30
10: inc eax
    ret
11: sgdt [rdi]
    inc eax
    ret

/* What is taken away of a large page is gone in all of its pieces. */
CASE(user_large_code_taken, MODE_LONG)
    put_code CASE_DATA + 0x40000, 10b
    set_large LARGE, CASE_DATA + LARGE_RW
    RUN_USER(1f)
    mov eax, [CASE_DATA + 0x60000]
    EQ(eax, 0x77)
    set_large LARGE, CASE_DATA + LARGE_RO
    USER_PAGE_FAULTS(7, LARGE + 0x60000, 2f, 2f)
    USER_PAGE_FAULTS(7, LARGE + 0x61000, 3f, 3f)
    USER_PAGE_FAULTS(7, LARGE + 0x62000, 4f, 4f)
    set_large LARGE, 0
    USER_PAGE_FAULTS(4, LARGE + 0x62000, 5f, 5f)
    USER_FAULTS(14, 0x14, 6f)
    EQ(qword ptr got_rip[rip], LARGE + 0x40000)
    PASS
1:  mov ebp, LARGE
    lea rdx, [rbp + 0x40000]
    call rdx
    mov dword ptr [rbp + 0x60000], 0x66
    mov eax, [rbp + 0x62000]
    mov dword ptr [rbp + 0x61000], 0x77
    mov dword ptr [rbp + 0x60000], 0x77
    int 0x30
2:  mov [LARGE + 0x60000], eax
    int 0x30
3:  mov [LARGE + 0x61000], eax
    int 0x30
4:  mov [LARGE + 0x62000], eax
    int 0x30
5:  mov eax, [LARGE + 0x62000]
    int 0x30
6:  mov edx, LARGE + 0x40000
    jmp rdx

/* 4.10.4.1: INVLPG anywhere in a large page, of which nothing was read or written, only run. */
CASE(user_large_code_only, MODE_LONG)
    mov dword ptr [CASE_DATA + 0x40000], 0x30cd /* int 0x30 */
    set_large LARGE, CASE_DATA + LARGE_RW
    RUN_AT(LARGE + 0x40000)
    set_large LARGE, 0
    USER_FAULTS(14, 0x14, 6b)
    EQ(qword ptr got_rip[rip], LARGE + 0x40000)
    PASS

/* A large page that was read gets written, and then runs. */
CASE(user_large_grows, MODE_LONG)
    put_code CASE_DATA + 0x40000, 10b
    set_large LARGE, CASE_DATA + 0xa7 /* not D */
    mov r12d, 100
5:  RUN_USER(1f)
    dec r12d
    jnz 5b
    EQ(dword ptr [CASE_DATA + 0x60000], 100)
    PASS
1:  mov ebp, LARGE
    mov eax, [rbp + 0x60000]
    inc dword ptr [rbp + 0x60000]
    lea rdx, [rbp + 0x40000]
    call rdx
    int 0x30

/* ---- stores to code, by who does not run it ---- */

CASE(user_stores_kernel_code, MODE_LONG)
    mov dword ptr [FRAME], 0x00c301b0 /* mov al, 1; ret */
    set_page 40, FRAME + RW_U
    mov r12d, 5
5:  RUN_USER(1f)
    mov edx, FRAME
    xor eax, eax
    call rdx
    EQ(eax, r12d)
    mov eax, 77
    call rdx
    EQ(eax, r12d)
    dec r12d
    jnz 5b
    PASS
1:  mov ebx, PAGES + 40 * 4096
    mov [rbx + 1], r12b
    int 0x30

/* What ring 3 has run before has an instruction afterwards that was none there. */
CASE(user_code_gets_site, MODE_LONG)
    set_page 40, FRAME + RO_U
    mov edi, USER_DATA
    mov r12d, 3
5:  mov dword ptr [FRAME], 0x90909090
    mov word ptr [FRAME + 4], 0x30cd
    mov qword ptr [CASE_DATA + 2], 0
    RUN_AT(PAGES + 40 * 4096)
    EQ(qword ptr [CASE_DATA + 2], 0)
    mov dword ptr [FRAME], 0x9007010f /* sgdt [rdi]; nop */
    RUN_AT(PAGES + 40 * 4096)
    EQ(qword ptr [CASE_DATA + 2], LG_GDT)
    dec r12d
    jnz 5b
    PASS

/* ---- instructions that an engine has to keep from the host's ---- */

#define SITE sgdt [rdi]
    /* All answers of the instructions in ring 3 are the guest's: r13d counts those that are not. */
    .macro look_gdt
    mov qword ptr [rdi + 2], 0
    sgdt [rdi]
    cmp qword ptr [rdi + 2], LG_GDT
    setne cl
    movzx ecx, cl
    add r13d, ecx
    .endm

/* More of them in pages beside each other, and in an instruction across two, than an engine may have
 * breakpoints for. */
CASE(user_sites, MODE_LONG)
    mov r12d, 3
    xor r13d, r13d
5:  RUN_USER(1f)
    dec r12d
    jnz 5b
    EQ(r13d, 0)
    PASS
1:  mov edi, USER_DATA
    jmp 2f
    .p2align 12
2:  look_gdt
    look_gdt
    look_gdt
    jmp 3f
    .p2align 12
3:  look_gdt
    look_gdt
    mov r11d, 5
6:  look_gdt
    jmp 4f
7:  dec r11d
    jnz 6b
    int 0x30
    .p2align 12
    SITE
    SITE
    SITE
    .fill 4096 - 3 - 9, 1, 0x90
4:  cmp qword ptr [rdi + 2], LG_GDT /* across pages */
    jne 8f
    look_gdt
    look_gdt
    look_gdt
    jmp 7b
8:  ud2

    .p2align 12
four_sites: /* in a page with what else has some */
    SITE
    SITE
    SITE
    SITE
    int 0x30
    .p2align 6
one_site:
    SITE
    int 0x30
    .p2align 12

/* Sites in many pages, while the kernel takes as many other pages away as an engine may note at once. */
CASE(user_sites_and_changes, MODE_LONG)
    put_code FRAME, four_sites
    put_code FRAME + 0x1000, one_site
    mov r14d, 378
5:  call 20f /* maps */
    mov edi, USER_DATA
    mov qword ptr [CASE_DATA + 2], 0
    RUN_USER(1f)
    EQ(qword ptr [CASE_DATA + 2], LG_GDT)
    mov edi, USER_DATA + 0x40
    mov qword ptr [CASE_DATA + 0x42], 0
    mov r13d, r14d
    shl r13d, 12
    add r13d, PAGES + 60 * 4096 /* another page each time */
    USER_FAULTS(14, 0x14, 2f)
    mov qword ptr [rsi + r14 * 8 + 60 * 8], FRAME + 0x1000 + RO_U
    mov r12d, r14d
    mov ebx, PAGES
6:  invlpg [rbx]
    add ebx, 0x1000
    dec r12d
    jnz 6b
    RUN_AT(r13)
    EQ(qword ptr [CASE_DATA + 0x42], LG_GDT)
    inc r14d
    cmp r14d, 390
    jne 5b
    PASS
1:  mov ebx, PAGES
    mov ecx, 430
3:  mov eax, [rbx]
    add ebx, 0x1000
    dec ecx
    jnz 3b
    mov eax, PAGES + 500 * 4096
    jmp rax
2:  jmp r13
20: mov rsi, [CASE_PARAM + P_PAGES_PT] /* 430 of data, and one of code */
    mov ecx, 430
    xor edx, edx
21: mov qword ptr [rsi + rdx * 8], FRAME + 0x2000 + RW_U
    inc edx
    dec ecx
    jnz 21b
    mov qword ptr [rsi + 500 * 8], FRAME + RO_U
    mov rax, cr3
    mov cr3, rax
    ret

    .p2align 12
/* ---- accessed and dirty bits: 4.8 ---- */

#define FRESH_U 0x007 /* P, W, U */
CASE(user_accessed_dirty, MODE_LONG)
    mov rsi, [CASE_PARAM + P_PAGES_PT]
    mov r12d, 3
    set_page 33, FRAME + 0x1000 + FRESH_U
5:  set_page 32, FRAME + FRESH_U
    RUN_USER(1f)
    EQ(qword ptr [rsi + 32 * 8], FRAME + FRESH_U + 0x20)
    EQ(qword ptr [rsi + 33 * 8], FRAME + 0x1000 + FRESH_U) /* its neighbour was not touched */
    RUN_USER(2f)
    EQ(qword ptr [rsi + 32 * 8], FRAME + FRESH_U + 0x60)
    and qword ptr [rsi + 32 * 8], -0x41 /* D goes */
    invlpg [PAGES + 32 * 4096]
    RUN_USER(1f)
    EQ(qword ptr [rsi + 32 * 8], FRAME + FRESH_U + 0x20)
    RUN_USER(2f)
    EQ(qword ptr [rsi + 32 * 8], FRAME + FRESH_U + 0x60)
    and qword ptr [rsi + 32 * 8], -0x61 /* both go */
    mov rax, cr3
    mov cr3, rax
    RUN_USER(2f)
    EQ(qword ptr [rsi + 32 * 8], FRAME + FRESH_U + 0x60)
    dec r12d
    jnz 5b
    EQ(qword ptr [rsi + 33 * 8], FRAME + 0x1000 + FRESH_U)
    set_page 34, FRAME + 0x2000 + FRESH_U
    mov dword ptr [FRAME + 0x2000], 0x30cd /* int 0x30 */
    and qword ptr [rsi + 34 * 8], -0x21
    invlpg [PAGES + 34 * 4096]
    RUN_AT(PAGES + 34 * 4096)
    EQ(qword ptr [rsi + 34 * 8], FRAME + 0x2000 + FRESH_U + 0x20)
    PASS
1:  mov eax, [PAGES + 32 * 4096 + 8]
    int 0x30
2:  mov [PAGES + 32 * 4096 + 8], eax
    int 0x30

/* ---- the TLB: 4.10.4.1 ---- */

/* All of an address space is forgotten, while most of it stays as it was. */
CASE(user_flush, MODE_LONG)
    mov rsi, [CASE_PARAM + P_PAGES_PT]
    mov r12d, 3
5:  mov dword ptr [FRAME], 1
    mov dword ptr [FRAME + 0x1000], 2
    mov dword ptr [FRAME + 0x2000], 0x30cd /* int 0x30 */
    xor edx, edx
6:  mov qword ptr [rsi + rdx * 8], FRAME + RW_U
    inc edx
    cmp edx, 64
    jb 6b
    mov qword ptr [rsi + 70 * 8], FRAME + 0x1000 + RW_U
    mov qword ptr [rsi + 80 * 8], FRAME + 0x2000 + RO_U
    mov rax, cr3
    mov cr3, rax
    RUN_USER(1f)
    EQ(eax, 64 + 2)
    RUN_USER(2f)
    RUN_AT(PAGES + 80 * 4096)
    mov qword ptr [rsi + 20 * 8], FRAME + 0x1000 + RW_U /* other memory */
    mov qword ptr [rsi + 30 * 8], FRAME + RO_U
    mov qword ptr [rsi + 40 * 8], 0
    mov rcx, FRAME + 0x2000 + RO_U + NX
    mov [rsi + 80 * 8], rcx
    mov rax, cr3
    mov cr3, rax
    USER_PAGE_FAULTS(4, PAGES + 40 * 4096, 1f, 3f)
    EQ(eax, 40 + 1)
    mov qword ptr [rsi + 40 * 8], FRAME + RW_U
    RUN_USER(1f)
    EQ(eax, 64 + 1 + 2)
    USER_PAGE_FAULTS(7, PAGES + 30 * 4096 + 8, 2f, 4f)
    USER_FAULTS(14, 0x15, 7f)
    EQ(qword ptr got_cr2[rip], PAGES + 80 * 4096)
    dec r12d
    jnz 5b
    PASS
1:  mov ebx, PAGES
    mov ecx, 64
    xor eax, eax
3:  add eax, [rbx]
    add rbx, 0x1000
    dec ecx
    jnz 3b
    add eax, [PAGES + 70 * 4096]
    int 0x30
2:  mov ebx, PAGES + 30 * 4096
4:  mov [rbx + 8], eax
    int 0x30
7:  mov eax, PAGES + 80 * 4096
    jmp rax

/* ---- memory ---- */

/* More pages, in more pieces, than an engine may keep for ring 3 at once: large stretches with the same 512 entries,
 * whose frames do not follow each other. */
#define STRETCHES 66
CASE(user_many_pages, MODE_LONG)
    mov rsi, [CASE_PARAM + P_PAGES_PT]
    xor edx, edx
5:  mov eax, edx
    and eax, 7
    shl eax, 13
    lea rcx, [rax + FRAME]
    mov ebx, edx
    and ebx, 7
    inc ebx
    mov [rcx], ebx
    or rcx, RW_U
    mov [rsi + rdx * 8], rcx
    inc edx
    cmp edx, 512
    jb 5b
    mov rbx, [LG_TABLES] /* the directory */
    and rbx, -4096
    mov rbx, [rbx + 8]
    and rbx, -4096
    or rsi, 0x67
    mov edx, STRETCHES
6:  mov [rbx + rdx * 8 + 8 * 8], rsi
    dec edx
    jnz 6b
    mov rax, cr3
    mov cr3, rax
    mov r12d, 2
7:  RUN_USER(1f)
    EQ(eax, STRETCHES * 512 / 8 * 36)
    dec r12d
    jnz 7b
    PASS
1:  mov ebx, USER_BASE + 9 * 0x200000
    mov ecx, STRETCHES * 512
    xor eax, eax
2:  add eax, [rbx]
    mov [rbx + 4], eax
    add rbx, 0x1000
    dec ecx
    jnz 2b
    int 0x30

/* 11.4.5: the local APIC's page, where RAM is, for data; code is RAM's. */
CASE(user_apic_page, MODE_LONG)
    mov dword ptr [FRAME + 0x30], 0x9090c3f1
    mov dword ptr [FRAME + 0x800], 0x30cd /* int 0x30 */
    set_page 40, FRAME + RW_U
    set_page 41, FRAME + 0x1000 + RW_U
    set_large LARGE, CASE_DATA + LARGE_RW
    RUN_USER(1f)
    EQ(eax, 0x9090c3f1)
    EQ(edx, 0x9090c3f1)
    mov ecx, 0x1b
    rdmsr
    and eax, 0xfff
    or eax, FRAME
    wrmsr
    mov ebx, [FRAME + 0x30] /* version */
    and ebx, 0xffff
    RUN_USER(1f)
    movzx eax, ax
    movzx edx, dx
    EQ(eax, ebx)
    EQ(edx, ebx)
    RUN_AT(PAGES + 40 * 4096 + 0x800)
    PASS
1:  mov eax, [PAGES + 41 * 4096] /* brings what is around */
    mov eax, [PAGES + 40 * 4096 + 0x30]
    mov edx, [LARGE]
    mov edx, [LARGE + FRAME - CASE_DATA + 0x30]
    int 0x30

/* ---- accesses across pages, and at their edges ---- */

CASE(user_crossing, MODE_LONG)
    mov r12d, 3
5:  set_page 40, FRAME + RW_U
    set_page 41, 0
    mov rax, -1
    mov [FRAME + 0xff8], rax
    USER_PAGE_FAULTS(6, PAGES + 41 * 4096, 1f, 11f)
    EQ(qword ptr [FRAME + 0xff8], -1) /* nothing of it is stored */
    USER_PAGE_FAULTS(4, PAGES + 41 * 4096, 2f, 12f)
    EQ(rax, 0x77)
    set_page 41, FRAME + 0x1000 + RO_U
    USER_PAGE_FAULTS(7, PAGES + 41 * 4096, 1f, 11f)
    EQ(qword ptr [FRAME + 0xff8], -1)
    RUN_USER(2f)
    set_page 40, 0
    USER_PAGE_FAULTS(6, PAGES + 40 * 4096 + 0xffc, 1f, 11f) /* the lower one first */
    USER_PAGE_FAULTS(6, PAGES + 40 * 4096 + 0xff8, 3f, 13f) /* a stack that ends */
    EQ(qword ptr got_rsp[rip], PAGES + 41 * 4096)
    USER_PAGE_FAULTS(6, PAGES + 40 * 4096 + 0xff8, 4f, 14f)
    EQ(qword ptr got_rsp[rip], PAGES + 41 * 4096)
    set_page 41, FRAME + 0x1000 + RW_U
    dec r12d
    jnz 5b
    PASS
1:  mov rax, 0x1122334455667788
11: mov [PAGES + 40 * 4096 + 0xffc], rax
    int 0x30
2:  mov eax, 0x77
12: mov rax, [PAGES + 40 * 4096 + 0xffc]
    int 0x30
3:  mov esp, PAGES + 41 * 4096
13: push rax
    int 0x30
4:  mov esp, PAGES + 41 * 4096
14: call 3b
    int 0x30

/* Code that runs into a page which is not there, which must not run, and which is stored to. */
CASE(user_code_edge, MODE_LONG)
    mov r12d, 3
    mov rax, 0x9090909090909090
    mov [FRAME + 0xff8], rax
    mov byte ptr [FRAME + 0xfff], 0xb8 /* mov eax, 0x11223344 */
    mov dword ptr [FRAME + 0x1000], 0x11223344
    mov word ptr [FRAME + 0x1004], 0x30cd
5:  set_page 40, FRAME + RW_U
    set_page 41, 0
    USER_FAULTS(14, 0x14, 1f)
    EQ(qword ptr got_rip[rip], PAGES + 40 * 4096 + 0xfff)
    EQ(qword ptr got_cr2[rip], PAGES + 41 * 4096)
    set_page 41, FRAME + 0x1000 + RW_U + NX
    USER_FAULTS(14, 0x15, 1f)
    EQ(qword ptr got_rip[rip], PAGES + 40 * 4096 + 0xfff)
    EQ(qword ptr got_cr2[rip], PAGES + 41 * 4096)
    set_page 41, FRAME + 0x1000 + RW_U
    RUN_USER(1f)
    EQ(eax, 0x11223344)
    mov byte ptr [FRAME + 0x1000], 0x55
    RUN_USER(1f)
    EQ(eax, 0x11223355)
    RUN_USER(2f)
    EQ(eax, 0x11226655)
    mov dword ptr [FRAME + 0x1000], 0x11223344
    dec r12d
    jnz 5b
    set_page 40, FRAME + RW_U + NX
    USER_FAULTS(14, 0x15, 1f)
    EQ(qword ptr got_rip[rip], PAGES + 40 * 4096 + 0xff8)
    PASS
1:  mov ebx, PAGES + 40 * 4096 + 0xff8
    jmp rbx
2:  mov ebx, PAGES + 40 * 4096 + 0xff8
    mov byte ptr [rbx + 9], 0x66
    jmp rbx

/* ---- exceptions ---- */

/* Traps, of which ring 3 stands behind the instruction, and INT n without a gate for it. */
    .p2align 12
CASE(user_traps, MODE_LONG)
    USER_FAULTS_AT(3, 0, 1f, 11f)
    USER_FAULTS_AT(3, 0, 2f, 12f)
    USER_FAULTS_AT(4, 0, 3f, 13f)
    USER_FAULTS_AT(1, 0, 4f, 14f)
    USER_FAULTS_AT(13, 0x402, 5f, 5f)
    USER_FAULTS_AT(13, 0x212, 6f, 6f)
    lea r15, [rip + 77f] /* SYSENTER: #UD or, as SYSENTER_CS is 0, #GP, as the vendor has it */
    mov back[rip], r15
    mov byte ptr armed[rip], 1
    mov r15, USER_AT(7f)
    jmp enter_user
77: EQ(qword ptr got_rip[rip], USER_AT(7f))
    USER_FAULTS_AT(3, 0, 8f, 18f)
    EQ(eax, 0x33)
    PASS
1:  .byte 0xcc
11: ud2
2:  .byte 0xcd, 3
12: ud2
3:  .byte 0xcd, 4
13: ud2
4:  .byte 0xf1
14: ud2
5:  int 0x80
    ud2
6:  int 0x42
    ud2
7:  sysenter
    ud2
8:  mov eax, 0x33
    .byte 0x66, 0xcc
18: ud2

/* Faults of which a host tells nothing but that there was one. */
CASE(user_faults, MODE_LONG)
    mov r12d, 3
5:  USER_FAULTS_AT(0, 0, 1f, 11f)
    USER_FAULTS_AT(6, 0, 2f, 12f)
    USER_FAULTS_AT(13, 0, 3f, 13f)
    USER_FAULTS_AT(12, 0, 4f, 14f)
    USER_FAULTS_AT(13, 0, 6f, 6f)
    USER_FAULTS_AT(13, 0, 7f, 7f)
    USER_FAULTS_AT(13, 0, 8f, 8f)
    USER_FAULTS_AT(13, 0, 9f, 9f)
    USER_FAULTS_AT(13, 0, 10f, 10f)
    USER_FAULTS_AT(13, 0, 16f, 17f)
    dec r12d
    jnz 5b
    PASS
1:  xor ecx, ecx
    mov eax, 5
11: div ecx
    ud2
2:  mov eax, 0x77
12: .byte 0x0f, 0xff /* UD0 */
    .byte 0xc0
3:  mov rbx, 0x800000000000
13: mov eax, [rbx]
    ud2
4:  mov rbp, 0x800000000000
14: mov eax, [rbp]
    ud2
6:  hlt
7:  cli
8:  sti
9:  in al, 0x80
10: mov rax, cr3
16: mov rsi, 0x800000000000
17: jmp rsi

    .p2align 12
/* The single step begins and ends with POPF: volume 1, 3.4.3.3. */
    .macro flags_tf
    pushfq
    or dword ptr [rsp], 0x100
    popfq
    .endm
CASE(user_single_step, MODE_LONG)
    mov edi, USER_DATA
    mov r12d, 3
5:  mov qword ptr [CASE_DATA + 2], 0
    USER_FAULTS_AT(1, 0, 1f, 11f)
    test dword ptr got_rflags[rip], 0x100
    EXPECT(nz)
    mov rax, dr6
    and eax, 0x400f
    EQ(eax, 0x4000)
    mov rax, dr6
    and rax, -0x4001
    mov dr6, rax
    USER_FAULTS_AT(1, 0, 2f, 12f)
    test dword ptr got_rflags[rip], 0x100
    EXPECT(z)
    USER_FAULTS_AT(1, 0, 3f, 13f) /* before an instruction that an engine may stop at */
    EQ(qword ptr [CASE_DATA + 2], 0)
    USER_FAULTS_AT(1, 0, 4f, 14f) /* behind it */
    EQ(qword ptr [CASE_DATA + 2], LG_GDT)
    USER_FAULTS_AT(3, 0, 6f, 16f)
    test dword ptr got_rflags[rip], 0x100
    EXPECT(nz)
    USER_PAGE_FAULTS(4, PAGES + 8, 7f, 17f)
    test dword ptr got_rflags[rip], 0x100
    EXPECT(nz)
    USER_FAULTS_AT(1, 0, 8f, 18f)
    dec r12d
    jnz 5b
    PASS
1:  flags_tf
    nop
11: ud2
2:  pushfq
    flags_tf
    popfq
12: ud2
3:  flags_tf
    nop
13: sgdt [rdi]
    ud2
4:  flags_tf
    sgdt [rdi]
14: ud2
6:  flags_tf
    int3
16: ud2
7:  flags_tf
17: mov eax, [PAGES + 8]
    ud2
8:  flags_tf
    jmp 18f
    ud2
18: ud2

/* Alignment checks and NT, which ring 3 gives itself. */
CASE(user_flags, MODE_LONG)
    mov r12d, 3
5:  USER_FAULTS_AT(17, 0, 1f, 11f)
    mov rax, cr0
    btr eax, 18 /* AM */
    mov cr0, rax
    RUN_USER(2f)
    EQ(eax, 0x55)
    mov rax, cr0
    bts eax, 18
    mov cr0, rax
    RUN_USER(3f)
    and ebx, 0x244cd7
    EQ(ebx, 0x2044c7) /* NT, ID, DF, SF, ZF, PF, CF */
    dec r12d
    jnz 5b
    PASS
    .p2align 4
1:  pushfq
    or dword ptr [rsp], 0x40000
    popfq
11: mov eax, [rip + 1b + 1]
    ud2
2:  pushfq
    or dword ptr [rsp], 0x40000
    popfq
    mov eax, [rip + 1b + 1]
    pushfq
    and dword ptr [rsp], ~0x40000
    popfq
    mov eax, 0x55
    int 0x30
3:  push 0x2044c7
    popfq
    nop
    pushfq
    pop rbx
    push 2
    popfq
    int 0x30

/* ---- segments and bases ---- */

CASE(user_segments, MODE_LONG)
    mov r12d, 3
5:  USER_FAULTS_AT(13, LG_DATA, 1f, 11f)
    USER_FAULTS_AT(13, LG_FREE, 2f, 12f)
    RUN_USER(3f)
    EQ(eax, LG_USER_DATA)
    EQ(ecx, LG_USER_DATA)
    EQ(edx, LG_USER_CODE64)
    EQ(ebx, 0)
    mov eax, ds
    EQ(eax, LG_USER_DATA)
    xor eax, eax
    mov ds, eax
    mov es, eax
    mov fs, eax
    RUN_USER(4f)
    EQ(ebx, 0x44332211)
    dec r12d
    jnz 5b
    PASS
1:  mov eax, LG_DATA
11: mov ds, eax
    ud2
2:  mov eax, LG_FREE
12: mov es, eax
    ud2
3:  mov eax, LG_USER_DATA
    mov ds, eax
    mov es, eax
    mov eax, LG_USER_CODE64
    mov fs, eax
    xor eax, eax
    mov gs, eax
    mov eax, ds
    mov ecx, es
    mov edx, fs
    mov ebx, gs
    int 0x30
4:  push LG_USER_CODE32
    mov eax, USER_AT(6f)
    push rax
    .byte 0x48, 0xcb /* RETF */
6:  .byte 0xb8, 0x10, 0x32, 0x33, 0x44 /* mov eax, 0x44333210 */
    .byte 0x48                         /* dec eax in 32-bit code, REX.W in 64-bit code */
    .byte 0x05, 2, 0xf0, 0xff, 0xff    /* add eax, -0xffe */
    .byte 0x89, 0xc3                   /* mov ebx, eax */
    .byte 0xea                         /* far jump */
    .long USER_AT(7f)
    .word LG_USER_CODE64
7:  .byte 0x48, 0x89, 0xd8 /* mov rax, rbx */
    int 0x30

/* Bases that a host may not let a program of its own have. */
CASE(user_bases, MODE_LONG)
    mov r12d, 3
5:  RUN_USER(1f)
    EQ(eax, 0x1122)
    EQ64(rbx, 0xffff900000000000)
    EQ64(rcx, 0x7ffffffff000)
    USER_FAULTS_AT(13, 0, 2f, 12f)
    dec r12d
    jnz 5b
    PASS
1:  mov dword ptr [USER_DATA + 0x40], 0x1122
    mov rax, 0xffff900000000000
    wrfsbase rax
    mov rax, 0x7ffffffff000
    wrgsbase rax
    mov eax, [USER_DATA + 0x50000] /* of a page that was not touched yet */
    rdfsbase rbx
    rdgsbase rcx
    mov eax, USER_DATA
    wrfsbase rax
    mov eax, 0x40
    wrgsbase rax
    mov eax, fs:[0x40]
    mov eax, gs:[USER_DATA]
    int 0x30
2:  mov rax, 0x800000000000
12: wrfsbase rax
    ud2

    .p2align 12
/* ---- registers of the vector unit and the FPU ---- */

#define XSAVE_A 0x20000 /* in the data area */
#define XSAVE_B 0x22000
#define XSAVE_LEN 0x1000
    /* Fills an image with what r8 makes, that XRSTOR takes. */
make_image:
    lea rdi, [rbx]
    mov ecx, XSAVE_LEN / 8
1:  imul r8, r8, 0x5851f42d
    lea r8, [r8 + r8 * 4 + 12345]
    rol r8, 23
    mov [rdi], r8
    add rdi, 8
    dec ecx
    jnz 1b
    mov dword ptr [rbx], 0x037f /* FCW, FSW */
    mov word ptr [rbx + 4], 0xff /* FTW */
    xor eax, eax
    mov [rbx + 8], rax
    mov [rbx + 16], rax
    mov word ptr [rbx + 6], ax
    mov dword ptr [rbx + 24], 0x1f80 + 0x6025 /* all masked; rounding, flags, flush to zero */
    mov dword ptr [rbx + 28], 0xffff
    lea rdi, [rbx + 512]
    mov ecx, 8
    rep stosq
    lea rdi, [rbx + 32]
    mov ecx, 8
2:  mov [rdi + 10], eax /* an x87 register is ten bytes */
    mov [rdi + 14], ax
    add rdi, 16
    dec ecx
    jnz 2b
    xgetbv
    mov [rbx + 512], eax
    ret

CASE(user_vector_state, MODE_LONG)
    RUN_USER(1f) /* XCR0 is as it is to be from now on */
    mov r8d, 0x12345
    mov r12d, 4
5:  mov ebx, CASE_DATA + XSAVE_A
    call make_image
    mov esi, CASE_DATA + XSAVE_A /* B begins as a copy: what XSAVE leaves out is the same */
    mov edi, CASE_DATA + XSAVE_B
    mov ecx, XSAVE_LEN / 8
    rep movsq
    mov ebp, -1
    mov eax, ebp
    mov edx, ebp
    xrstor64 [CASE_DATA + XSAVE_A]
    RUN_USER(1f)
    mov eax, ebp
    mov edx, ebp
    xsave64 [CASE_DATA + XSAVE_B]
    call 20f
    RUN_USER(2f) /* ring 3 saves them */
    call 20f
    mov ebx, CASE_DATA + XSAVE_A
    call make_image
    RUN_USER(3f) /* and loads others */
    mov eax, ebp
    mov edx, ebp
    mov esi, CASE_DATA + XSAVE_A
    mov edi, CASE_DATA + XSAVE_B
    mov ecx, XSAVE_LEN / 8
    rep movsq
    xsave64 [CASE_DATA + XSAVE_B]
    call 20f
    fninit
    dec r12d
    jnz 5b
    PASS
1:  mov eax, [USER_DATA + XSAVE_A]
    int 0x30
2:  mov eax, ebp
    mov edx, ebp
    xsave64 [USER_DATA + XSAVE_B]
    int 0x30
3:  mov eax, ebp
    mov edx, ebp
    xrstor64 [USER_DATA + XSAVE_A]
    int 0x30
20: mov esi, CASE_DATA + XSAVE_A /* both are the same but for the mask of MXCSR and the header */
    mov edi, CASE_DATA + XSAVE_B
    mov dword ptr [rdi + 28], 0xffff
    mov ecx, 512 / 8
    repe cmpsq
    EXPECT(e)
    mov esi, CASE_DATA + XSAVE_A + 576
    mov edi, CASE_DATA + XSAVE_B + 576
    mov ecx, (XSAVE_LEN - 576) / 8
    repe cmpsq
    EXPECT(e)
    ret

/* ---- instructions whose answers are the guest's, not the host's, four in a page ---- */

#define ANSWERS 0x6000 /* in the data area: of ring 0, and 0x400 behind it of ring 3. rdi */
    .p2align 12
answers_a:
    xor ecx, ecx
    xgetbv
    mov [rdi], rax
    test r14d, r14d
    jz 1f
    rdpid rax
1:  mov [rdi + 8], rax
    rdtscp
    mov [rdi + 16], rcx
    shl rdx, 32
    shr rdx, 56 /* what the case has set */
    mov [rdi + 24], rdx
    rdtsc
    shr edx, 24
    mov [rdi + 32], rdx
    ret
    .p2align 12
answers_b:
    sidt [rdi + 0x48]
    smsw rax
    mov [rdi + 0x50], rax
    str eax
    mov [rdi + 0x60], rax
    sldt eax
    mov [rdi + 0x68], rax
    ret
    .p2align 12
answers_c:
    mov ebx, LG_USER_CODE64
    xor eax, eax
    lar eax, ebx
    mov [rdi + 0x70], rax
    mov ebx, LG_USER_CODE32
    lsl rax, rbx
    mov [rdi + 0x78], rax
    mov ebx, 0x7b /* a segment of Linux' own, which tells the CPU's number */
    xor eax, eax
    lsl eax, ebx
    setz al
    mov [rdi + 0x80], rax
    verr bx
    setz al
    mov [rdi + 0x88], rax
    ret
    .p2align 12
answers_d:
    mov eax, 0x40000000
    xor ecx, ecx
    cpuid
    mov [rdi + 0x90], rbx
    mov [rdi + 0x98], rcx
    mov eax, 7
    xor ecx, ecx
    cpuid
    mov [rdi + 0xa0], rbx
    mov [rdi + 0xa8], rcx
    mov eax, 1
    cpuid
    mov [rdi + 0xb0], rbx
    mov [rdi + 0xb8], rcx
    ret
    .p2align 12

#define SAME_ANSWERS(label)                                                                                            \
    mov ebp, AT(label); mov edi, CASE_DATA + ANSWERS; call rbp; mov ebp, USER_AT(label);                              \
    mov edi, USER_DATA + ANSWERS + 0x400; RUN_USER(2f)
CASE(user_answers, MODE_LONG)
    RUN_USER(1f)
    mov ecx, 0xc0000103 /* TSC_AUX */
    mov eax, 0x12345
    xor edx, edx
    wrmsr
    mov ecx, 0x10 /* TSC */
    mov edx, 0x5a000000
    wrmsr
    mov eax, 7
    xor ecx, ecx
    cpuid
    mov r14d, ecx
    and r14d, 1 << 22 /* RDPID */
    mov r12d, 3
5:  SAME_ANSWERS(answers_a)
    SAME_ANSWERS(answers_b)
    SAME_ANSWERS(answers_c)
    SAME_ANSWERS(answers_d)
    mov esi, CASE_DATA + ANSWERS
    mov edi, CASE_DATA + ANSWERS + 0x400
    mov ecx, 0x400 / 8
    repe cmpsq
    EXPECT(e)
    EQ(qword ptr [CASE_DATA + ANSWERS + 32], 0x5a)
    dec r12d
    jnz 5b
    PASS
2:  call rbp
1:  int 0x30

/* The TSC is one for all privileges, and TSC_ADJUST moves it: volume 3, 18.17. */
#define READ_TSC(to, how) how; shl rdx, 32; or rax, rdx; mov to, rax; mov ecx, 5
CASE(user_tsc, MODE_LONG)
    xor ebp, ebp
    call 6f
    mov ebp, 1 << 28
    call 6f
    xor ebp, ebp
    call 6f
    PASS
6:  mov ecx, 0x3b /* TSC_ADJUST, of which ebp is the upper half */
    xor eax, eax
    mov edx, ebp
    wrmsr
    mov r12d, 4
5:  READ_TSC(rbx, rdtsc)
    RUN_USER(1f)
    READ_TSC(r10, rdtsc)
    cmp rbx, r8
    EXPECT(be)
    cmp r8, r9
    EXPECT(be)
    cmp r9, r10
    EXPECT(be)
    mov rcx, r8
    shr rcx, 32 + 28
    mov edx, ebp
    shr edx, 28
    cmp ecx, edx
    EXPECT(e)
    dec r12d
    jnz 5b
    ret
1:  READ_TSC(r8, rdtsc)
    READ_TSC(r9, rdtscp)
    int 0x30

/* ---- the end of the user half ---- */

/* Code in its last page, which ends where addresses are not canonical any more. */
CASE(user_last_page, MODE_LONG)
    mov qword ptr [LG_TABLES + 255 * 8], FRAME + 0x4000 + 0x67
    mov qword ptr [FRAME + 0x4000 + 511 * 8], FRAME + 0x5000 + 0x67
    mov qword ptr [FRAME + 0x5000 + 511 * 8], FRAME + 0x6000 + 0x67
    mov qword ptr [FRAME + 0x6000 + 511 * 8], FRAME + 0x1000 + RW_U
    mov qword ptr [FRAME + 0x6000 + 510 * 8], FRAME + RW_U
    mov rax, 0x9090909090909090
    mov edi, FRAME + 0xff0
    mov ecx, 0x1010 / 8
    rep stosq
    mov r12d, 3
5:  mov rbx, 0x7fffffffeff8
    USER_FAULTS(13, 0, 1f)
    mov rcx, 0x800000000000
    EQ(rcx, got_rip[rip])
    mov word ptr [FRAME + 0x1ffe], 0x30cd
    RUN_USER(1f)
    mov rbx, 0x7ffffffff800
    mov dword ptr [FRAME + 0x1ffc], 0x07010f90 /* sgdt [rdi] */
    mov edi, USER_DATA
    mov qword ptr [CASE_DATA + 2], 0
    USER_FAULTS(13, 0, 1f)
    EQ(rcx, got_rip[rip])
    EQ(qword ptr [CASE_DATA + 2], LG_GDT)
    mov dword ptr [FRAME + 0x1ffc], 0x90909090
    dec r12d
    jnz 5b
    PASS
1:  jmp rbx

/* Linux has its vsyscall page there: a host may see to it by itself. */
CASE(user_vsyscall, MODE_LONG)
    mov r12d, 3
5:  mov rbx, -0xa00000
    call 6f
    add rbx, 0x400
    call 6f
    add rbx, 0x400
    call 6f
    sub rbx, 0x7ff
    call 6f
    mov rbp, -0xa00000
    USER_FAULTS_AT(14, 4, 2f, 12f)
    EQ(rbp, got_cr2[rip])
    dec r12d
    jnz 5b
    PASS
6:  USER_FAULTS(14, 0x14, 1f)
    EQ(rbx, got_cr2[rip])
    EQ(rbx, got_rip[rip])
    EQ(qword ptr got_rsp[rip], USER_STACK - 8)
    ret
1:  call rbx
    ud2
2:  mov ecx, 1
12: mov eax, [rbp]
    ud2

/* All of the addresses at which a process of a host may have something of its own are the guest's: then it may
 * not run there. Tables of which all entries are the same. */
CASE(user_hole_taken, MODE_LONG)
    cld
    mov ebx, 3
    mov edi, FRAME + 0x4000
5:  lea rax, [rdi + 0x1067] /* the next table */
    cmp ebx, 1
    jne 6f
    mov eax, FRAME + RO_U
6:  mov ecx, 512
    rep stosq
    dec ebx
    jnz 5b
    mov edi, LG_TABLES + 32 * 8
    mov eax, FRAME + 0x4067
    mov ecx, 128
    rep stosq
    mov dword ptr [FRAME + 8], 0x12345
    RUN_USER(1f)
    EQ(eax, 0x12345)
    EQ(edx, 0x12345)
    PASS
1:  mov rbx, 0x100000000008
    mov eax, [rbx]
    mov rbx, 0x4ffffffff008
    mov edx, [rbx]
    int 0x30
CASES_END(user)
