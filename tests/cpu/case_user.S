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
    mov r14d, 250
5:  call 20f /* maps */
    mov edi, USER_DATA
    mov qword ptr [CASE_DATA + 2], 0
    RUN_USER(1f)
    EQ(qword ptr [CASE_DATA + 2], LG_GDT)
    mov edi, USER_DATA + 0x40
    mov qword ptr [CASE_DATA + 0x42], 0
    mov r13d, r14d
    shl r13d, 12
    add r13d, PAGES + 200 * 4096 /* another page each time */
    USER_FAULTS(14, 0x14, 2f)
    mov qword ptr [rsi + r14 * 8 + 200 * 8], FRAME + 0x1000 + RO_U
    mov r12d, r14d
    mov ebx, PAGES
6:  invlpg [rbx]
    add ebx, 0x1000
    dec r12d
    jnz 6b
    RUN_AT(r13)
    EQ(qword ptr [CASE_DATA + 0x42], LG_GDT)
    inc r14d
    cmp r14d, 262
    jne 5b
    PASS
1:  mov ebx, PAGES
    mov ecx, 300
3:  mov eax, [rbx]
    add ebx, 0x1000
    dec ecx
    jnz 3b
    mov eax, PAGES + 400 * 4096
    jmp rax
2:  jmp r13
20: mov rsi, [CASE_PARAM + P_PAGES_PT] /* 300 of data, and one of code */
    mov ecx, 300
    xor edx, edx
21: mov qword ptr [rsi + rdx * 8], FRAME + 0x2000 + RW_U
    inc edx
    dec ecx
    jnz 21b
    mov qword ptr [rsi + 400 * 8], FRAME + RO_U
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
CASES_END(user)
