/* 64-bit cases on one vCPU: I/O, paging, code that changes itself, control flow, string instructions. Sections are of Intel SDM (2023-12). */
#include "case.h"
CASES(long)
#include "prelude.S"

/* ---- ports: volume 2, IN, OUT, INS, OUTS ---- */
CASE(port_widths, MODE_LONG)
    mov edx, ECHO_PORT
    mov rax, 0x1122334455667788
    out dx, al
    mov rax, -1
    in al, dx
    EQ64(rax, 0xffffffffffffff77)
    mov eax, 0xa55a
    out dx, ax
    mov rax, -1
    in ax, dx
    EQ64(rax, 0xffffffffffff5aa5)
    mov eax, 0x12345678
    out dx, eax
    mov rax, -1
    in eax, dx /* 32-bit results clear the upper half: volume 1, 3.4.1.1 */
    EQ64(rax, 0xedcba987)
    PASS

CASE(port_strings, MODE_LONG)
    mov rsi, CASE_DATA
    mov dword ptr [rsi], 0x04030201
    mov dword ptr [rsi + 4], 0x08070605
    mov edx, SUM_PORT
    mov ecx, 4
    cld
    rep outsb
    EQ(rcx, 0)
    EQ(rsi, CASE_DATA + 4)
    outsw
    EQ(rsi, CASE_DATA + 6)
    std
    mov rsi, CASE_DATA
    outsd
    cld
    EQ(rsi, CASE_DATA - 4)
    in eax, dx
    mov ebx, eax
    /* the same by hand */
    xor eax, eax
    mov ecx, 1
1:  imul eax, eax, 31
    lea eax, [rax + rcx + 256]
    inc ecx
    cmp ecx, 5
    jne 1b
    imul eax, eax, 31
    add eax, 0x0605 + 512
    imul eax, eax, 31
    add eax, 0x04030201 + 1024
    EQ(ebx, eax)
    mov edx, COUNT_PORT
    mov rdi, CASE_DATA + 0x0ffe /* crosses a page */
    mov ecx, 5
    rep insb
    EQ(rdi, CASE_DATA + 0x1003)
    EQ(dword ptr [CASE_DATA + 0xffe], 0x04030201)
    EQ(byte ptr [CASE_DATA + 0x1002], 5)
    insd
    EQ(dword ptr [CASE_DATA + 0x1003], 0x04000006)
    PASS

/* INS into a page that cannot be written: the port may have been read, registers are as before. Volume 3, 6.5. */
CASE(port_string_fault, MODE_LONG)
    set_page 0, FRAME + RO_S
    mov edx, COUNT_PORT
    mov rdi, PAGES + 16
    mov ecx, 3
    PAGE_FAULTS(3, rdi, rep insb)
    EQ(rcx, 3)
    EQ(rdi, PAGES + 16)
    PASS

/* ---- memory-mapped devices ---- */
CASE(mmio_widths, MODE_LONG)
    mov rbx, DEVICE
    mov rax, 0x1122334455667788
    mov [rbx], al
    EQ(dword ptr [rbx + DEV_LAST_WIDTH], 1)
    mov [rbx + 2], ax
    EQ(dword ptr [rbx + DEV_LAST_WIDTH], 2)
    mov [rbx + 4], eax
    EQ(dword ptr [rbx + DEV_LAST_WIDTH], 4)
    mov [rbx + 8], rax
    EQ(dword ptr [rbx + DEV_LAST_WIDTH], 8)
    EQ(dword ptr [rbx + DEV_WRITES], 4)
    mov rcx, [rbx]
    EQ64(rcx, 0x5566778877880088)
    mov rcx, [rbx + 8]
    EQ(rcx, rax)
    movzx ecx, byte ptr [rbx + 9]
    EQ(ecx, 0x77)
    movsx rcx, word ptr [rbx + 12]
    EQ(rcx, 0x3344)
    mov cl, [rbx + 15]
    EQ(cl, 0x11)
    push qword ptr [rbx + 8]
    pop qword ptr [rbx + 16]
    EQ(rax, [rbx + 16])
    PASS

CASE(mmio_read_modify_write, MODE_LONG)
    mov rbx, DEVICE
    mov dword ptr [rbx], 40
    add dword ptr [rbx], 2
    EXPECT(nz)
    EQ(dword ptr [rbx], 42)
    lock inc dword ptr [rbx]
    EQ(dword ptr [rbx], 43)
    mov eax, 43
    mov ecx, 7
    lock cmpxchg [rbx], ecx
    EXPECT(z)
    EQ(dword ptr [rbx], 7)
    mov eax, 5
    xchg [rbx], eax
    EQ(eax, 7)
    bts dword ptr [rbx], 4
    EXPECT(nc)
    EQ(dword ptr [rbx], 21)
    cmp byte ptr [rbx], 22
    EXPECT(b)
    neg byte ptr [rbx]
    EQ(byte ptr [rbx], 0xeb)
    mov rsi, rbx
    mov rdi, CASE_DATA
    mov dword ptr [rbx + 4], 0x44332211
    mov ecx, 2
    rep movsd
    EQ(dword ptr [CASE_DATA + 4], 0x44332211)
    mov rdi, rbx
    mov eax, 0x77
    mov ecx, 16
    rep stosb
    EQ64(qword ptr [DEVICE + 8], 0x7777777777777777)
    PASS

/* SSE accesses to a device may come in pieces, but every byte comes. */
CASE(mmio_sse, MODE_LONG)
    mov rbx, DEVICE
    mov rax, 0x0706050403020100
    mov [CASE_DATA], rax
    mov rax, 0x0f0e0d0c0b0a0908
    mov [CASE_DATA + 8], rax
    movdqu xmm1, [CASE_DATA]
    movdqa [rbx + 32], xmm1
    EQ(rax, [rbx + 40])
    movdqa xmm2, [rbx + 32]
    pcmpeqb xmm2, xmm1
    pmovmskb eax, xmm2
    EQ(eax, 0xffff)
    pxor xmm3, xmm3
    paddb xmm3, [rbx + 32]
    pcmpeqb xmm3, xmm1
    pmovmskb eax, xmm3
    EQ(eax, 0xffff)
    movss xmm4, [rbx + 36]
    movd eax, xmm4
    EQ(eax, 0x07060504)
    PASS

/* ---- paging: volume 3, 4.6, 4.7 ---- */
CASE(fault_not_present, MODE_LONG)
    mov rbx, PAGES + 0x1230
    PAGE_FAULTS(0, rbx, mov rax, [rbx])
    PAGE_FAULTS(2, rbx, mov [rbx], rax)
    PAGE_FAULTS(2, rbx, inc qword ptr [rbx])
    FETCH_FAULTS(0x10, rbx, jmp rbx)
    PASS

CASE(fault_write_protect, MODE_LONG)
    set_page 1, FRAME + RO_S
    mov rbx, PAGES + 0x1008
    mov rax, [rbx]
    PAGE_FAULTS(3, rbx, mov [rbx], al)
    PAGE_FAULTS(3, rbx, lock add dword ptr [rbx], 0)
    xor ecx, ecx
    not ecx
    PAGE_FAULTS(3, rbx, lock cmpxchg [rbx], ecx)
    mov rax, cr0 /* without WP ring 0 may write: 4.6.1 */
    btr eax, 16
    mov cr0, rax
    mov dword ptr [rbx], 77
    bts eax, 16
    mov cr0, rax
    EQ(dword ptr [FRAME + 8], 77)
    PAGE_FAULTS(3, rbx, mov [rbx], al)
    PASS

CASE(fault_reserved_bit, MODE_LONG)
    set_page 2, FRAME + RW_S + 0x0008000000000000
    mov rbx, PAGES + 0x2000
    PAGE_FAULTS(9, rbx, mov rax, [rbx])
    PAGE_FAULTS(0xb, rbx, mov [rbx], rax)
    PASS

/* Bit 8 above the page directory: AMD APM volume 2, 5.3.3; ignored by Intel's. */
CASE(fault_reserved_bit_8, MODE_LONG)
    set_page 2, FRAME + RW_S
    mov rsi, PAGES + 0x2000
    mov rax, [LG_TABLES]
    and rax, -4096
    or dword ptr [rax + 8], 0x100
    mov rax, cr3
    mov cr3, rax
    xor eax, eax
    cpuid
    cmp ebx, 0x68747541 /* "Auth" */
    jne 1f
    PAGE_FAULTS(9, rsi, mov rax, [rsi])
    PASS
1:  mov rax, [rsi]
    PASS

CASE(fault_no_execute, MODE_LONG)
    mov byte ptr [FRAME], 0xc3
    set_page 3, FRAME + RW_S + NX
    mov rbx, PAGES + 0x3000
    FETCH_FAULTS(0x11, rbx, call rbx)
    set_page 3, FRAME + RW_S
    call rbx
    mov ecx, 0xc0000080 /* without EFER.NXE bit 63 is reserved */
    rdmsr
    btr eax, 11
    wrmsr
    set_page 3, FRAME + RW_S + NX
    PAGE_FAULTS(9, rbx, mov rax, [rbx])
    PASS

CASE(fault_user, MODE_LONG)
    set_page 4, FRAME + RW_S
    set_page 5, FRAME + RO_U
    RUN_USER(1f)
    USER_FAULTS(14, 5, 2f)
    EQ(qword ptr got_cr2[rip], PAGES + 0x4010)
    USER_FAULTS(14, 7, 3f)
    EQ(qword ptr got_cr2[rip], PAGES + 0x5010)
    USER_FAULTS(14, 4, 4f)
    USER_FAULTS(14, 0x15, 5f)
    EQ(qword ptr got_cr2[rip], CASE_BASE)
    mov rax, cr0 /* WP has no say for ring 3 */
    btr eax, 16
    mov cr0, rax
    USER_FAULTS(14, 7, 3f)
    PASS
1:  mov eax, [PAGES + 0x5010]
    int 0x30
2:  mov eax, [PAGES + 0x4010]
    int 0x30
3:  mov [PAGES + 0x5010], eax
    int 0x30
4:  mov eax, [PAGES + 0x6000]
    int 0x30
5:  mov eax, CASE_BASE
    jmp rax

/* 4.6.1: SMEP, SMAP */
CASE(smep_smap, MODE_LONG)
    mov byte ptr [FRAME], 0xc3
    set_page 6, FRAME + RW_U
    mov rbx, PAGES + 0x6000
    mov eax, 7
    xor ecx, ecx
    push rbx
    cpuid
    mov r12d, ebx
    pop rbx
    call rbx
    bt r12d, 7
    jnc 1f
    mov rax, cr4
    bts eax, 20
    mov cr4, rax
    FETCH_FAULTS(0x11, rbx, call rbx)
1:  bt r12d, 20
    jnc 2f
    mov eax, [rbx]
    mov rax, cr4
    bts eax, 21
    mov cr4, rax
    PAGE_FAULTS(1, rbx, mov eax, [rbx])
    PAGE_FAULTS(3, rbx, mov [rbx], eax)
    stac
    mov eax, [rbx]
    mov [rbx + 8], eax
    clac
    PAGE_FAULTS(1, rbx, mov eax, [rbx])
    stac
    pushfq
    pop rax
    bt eax, 18
    EXPECT(c)
    clac
    RUN_USER(3f)
2:  PASS
3:  mov eax, [PAGES + 0x6000]
    int 0x30

/* 4.8: accessed and dirty */
CASE(accessed_dirty, MODE_LONG)
    set_page 7, FRAME + 0x003
    mov rbx, [CASE_PARAM + P_PAGES_PT]
    EQ(qword ptr [rbx + 56], FRAME + 0x003)
    mov eax, [PAGES + 0x7000]
    EQ(qword ptr [rbx + 56], FRAME + 0x023)
    mov [PAGES + 0x7000], eax
    EQ(qword ptr [rbx + 56], FRAME + 0x063)
    PASS

/* 4.10: a present entry that changed needs INVLPG; global entries outlive a CR3 load */
CASE(tlb_flush, MODE_LONG)
    mov dword ptr [FRAME], 1
    mov dword ptr [FRAME + 0x1000], 2
    set_page 8, FRAME + RW_S
    EQ(dword ptr [PAGES + 0x8000], 1)
    set_page 8, FRAME + 0x1000 + RW_S
    EQ(dword ptr [PAGES + 0x8000], 2)
    mov rax, [CASE_PARAM + P_PAGES_PT]
    mov qword ptr [rax + 64], FRAME + RW_S
    mov rax, cr3
    mov cr3, rax
    EQ(dword ptr [PAGES + 0x8000], 1)
    set_page 9, FRAME + RW_S + 0x100
    EQ(dword ptr [PAGES + 0x9000], 1)
    mov rax, [CASE_PARAM + P_PAGES_PT]
    mov qword ptr [rax + 72], FRAME + 0x1000 + RW_S + 0x100
    mov rax, cr4 /* turning PGE off and on drops everything */
    btr eax, 7
    mov cr4, rax
    bts eax, 7
    mov cr4, rax
    EQ(dword ptr [PAGES + 0x9000], 2)
    set_page 8, 0
    mov rbx, PAGES + 0x8000
    PAGE_FAULTS(0, rbx, mov eax, [rbx])
    PASS

/* Another address space: the same linear page, another frame, and back. */
CASE(cr3_switch, MODE_LONG)
    mov rsi, LG_TABLES
    mov rdi, CASE_DATA + 0x20000
    mov ecx, 512
    rep movsq
    /* new PML4 with its own chain for PAGES (entry 0 of the PML4, entry 1 of the PDPT) */
    mov rsi, [LG_TABLES]
    and rsi, -4096
    mov rdi, CASE_DATA + 0x21000
    mov ecx, 512
    rep movsq
    mov rsi, [CASE_DATA + 0x21000 + 8]
    and rsi, -4096
    mov rdi, CASE_DATA + 0x22000
    mov ecx, 512
    rep movsq
    mov qword ptr [CASE_DATA + 0x20000], CASE_DATA + 0x21000 + 0x27
    mov qword ptr [CASE_DATA + 0x21000 + 8], CASE_DATA + 0x22000 + 0x27
    mov qword ptr [CASE_DATA + 0x22000 + 256 * 8], CASE_DATA + 0x23000 + 0x27
    mov qword ptr [CASE_DATA + 0x23000], FRAME + 0x1000 + RW_S
    set_page 0, FRAME + RW_S
    mov byte ptr [FRAME], 0xb0       /* mov al, 1; ret */
    mov word ptr [FRAME + 1], 0xc301
    mov byte ptr [FRAME + 0x1000], 0xb0 /* mov al, 2; ret */
    mov word ptr [FRAME + 0x1001], 0xc302
    mov rbx, PAGES
    mov ecx, 10
1:  call rbx
    EQ(al, 1)
    EQ(byte ptr [rbx + 1], 1)
    mov rax, CASE_DATA + 0x20000
    mov cr3, rax
    call rbx
    EQ(al, 2)
    EQ(byte ptr [rbx + 1], 2)
    mov rax, LG_TABLES
    mov cr3, rax
    dec ecx
    jnz 1b
    PASS

/* 4.5.4: 2 MiB pages */
CASE(large_page, MODE_LONG)
    mov rax, [LG_TABLES]
    and rax, -4096
    mov rax, [rax + 8]
    and rax, -4096 /* page directory of 0x40000000 .. 0x7fffffff */
    mov qword ptr [rax + 0x101 * 8], 0x200000 + 0xe3 /* 0x60200000 */
    mov dword ptr [CASE_DATA + 0x54320], 0x600d
    mov rbx, PAGES + 0x200000
    EQ(dword ptr [rbx + 0x54320], 0x600d)
    mov qword ptr [rax + 0x101 * 8], 0x200000 + 0x2000 + 0xe3 /* reserved bit 13 */
    invlpg [rbx]
    PAGE_FAULTS(9, rbx, mov eax, [rbx])
    PASS

/* ---- canonical addresses: volume 1, 3.3.7.1 ---- */
CASE(non_canonical, MODE_LONG)
    mov rbx, 0x0000800000000000
    FAULTS(13, 0, mov rax, [rbx])
    FAULTS(13, 0, mov [rbx], rax)
    mov rbx, 0x00007ffffffffffc /* partly */
    PAGE_FAULTS(0, rbx, mov eax, [rbx])
    mov r14, rsp
    mov rbp, 0x8000000000000000
    FAULTS(12, 0, mov rax, [rbp])
    mov ecx, 0xc0000100
    mov edx, 0x80000000 /* not canonical for 57 bits either: CPUs that have 5-level paging check MSRs for that */
    xor eax, eax
    FAULTS(13, 0, wrmsr)
    PASS

/* Volume 2, JMP and CALL: #GP(0). The two next to the middle of the range of addresses differ from all others in
 * nothing but these bits; a table of branch targets may use such addresses for itself. */
CASE(non_canonical_target, MODE_LONG)
    mov r12d, 3 /* engines that make code fast when it has run some time have time to */
1:  mov rbx, 0x8000000000000000
    mov r13d, 4
2:  FAULTS(13, 0, jmp rbx)
    mov [CASE_DATA], rbx
    FAULTS(13, 0, jmp [CASE_DATA])
    FAULTS(13, 0, call rbx)
    inc rbx
    dec r13d
    jnz 2b
    dec r12d
    jnz 1b
    PASS

/* ---- page crossing ---- */
/* Volume 2, 2.2.1.2: REX.B makes no R13 of a SIB byte without a base, whatever the address size. */
CASE(sib_without_base, MODE_LONG)
    mov r13d, 0x1000
    mov eax, 0x20
    mov dword ptr [CASE_DATA + 0x20], 0x1234567
    mov dword ptr [CASE_DATA + 0x24], 0x89abcdef
    .byte 0x67, 0x41, 0x8b, 0x0c, 0x05 /* mov ecx, [disp32 + eax] */
    .long CASE_DATA
    EQ(ecx, 0x1234567)
    .byte 0x41, 0x8b, 0x0c, 0x05 /* mov ecx, [disp32 + rax] */
    .long CASE_DATA + 4
    mov edx, 0x89abcdef
    EQ(ecx, edx)
    .byte 0x67, 0x41, 0x8b, 0x0c, 0x25 /* mov ecx, [disp32], 32-bit addresses */
    .long CASE_DATA + 0x20
    EQ(ecx, 0x1234567)
    PASS

CASE(page_crossing, MODE_LONG)
    set_page 10, FRAME + RW_S
    set_page 11, FRAME + 0x3000 + RW_S /* not neighbours */
    set_page 13, FRAME + 0x5000 + RW_S
    mov rbx, PAGES + 0xaffb
    mov rax, 0x1122334455667788
    mov [rbx], rax
    EQ(dword ptr [FRAME + 0xffb], 0x55667788)
    EQ(byte ptr [FRAME + 0xfff], 0x44)
    EQ(word ptr [FRAME + 0x3000], 0x2233)
    EQ(byte ptr [FRAME + 0x3002], 0x11)
    EQ(rax, [rbx])
    add qword ptr [rbx], 1
    inc rax
    EQ(rax, [rbx])
    lock inc qword ptr [rbx] /* split lock */
    inc rax
    EQ(rax, [rbx])
    xchg [rbx], rcx
    EQ(rax, rcx)
    movdqu xmm1, [rbx]
    movdqu [rbx - 4], xmm1
    movdqu xmm2, [rbx - 4]
    pcmpeqb xmm2, xmm1
    pmovmskb eax, xmm2
    EQ(eax, 0xffff)
    /* second page missing: nothing is written, CR2 names the second page */
    mov rbx, PAGES + 0xbffd
    mov r12, PAGES + 0xc000
    mov qword ptr [FRAME + 0x3ff8], 0
    mov rax, -1
    PAGE_FAULTS(2, r12, mov [rbx], rax)
    EQ(qword ptr [FRAME + 0x3ff8], 0)
    PAGE_FAULTS(0, r12, mov rax, [rbx])
    PAGE_FAULTS(2, r12, xadd [rbx], rcx)
    EQ(qword ptr [FRAME + 0x3ff8], 0)
    /* first page missing */
    mov rbx, PAGES + 0xcffd
    PAGE_FAULTS(2, rbx, mov [rbx], rax)
    EQ(dword ptr [PAGES + 0xd000], 0)
    PASS

/* An instruction that crosses into another frame, then into nothing. */
CASE(page_crossing_code, MODE_LONG)
    set_page 14, FRAME + RW_S
    set_page 15, FRAME + 0x4000 + RW_S
    mov dword ptr [FRAME + 0xffd], 0x66b890 /* nop; mov eax, 0x55667788; ret */
    mov byte ptr [FRAME + 0xffe], 0xb8
    mov byte ptr [FRAME + 0xfff], 0x88
    mov dword ptr [FRAME + 0x4000], 0xc3556677
    mov rbx, PAGES + 0xeffd
    call rbx
    EQ(eax, 0x55667788)
    mov byte ptr [FRAME + 0x4001], 0x99 /* its second half changes */
    call rbx
    EQ(eax, 0x55997788)
    set_page 15, 0
    lea r12, [rbx + 3]
    lea r13, [rbx + 1]
    mov r14, rsp
    lea rax, [rip + 1f]
    mov back[rip], rax
    mov back_rsp[rip], rsp
    mov byte ptr armed[rip], 1
    call rbx
    FAIL
1:  EQ(qword ptr got_vector[rip], 14)
    EQ(qword ptr got_error[rip], 0x10)
    EQ(r12, got_cr2[rip])
    EQ(r13, got_rip[rip])
    PASS

/* A vector instruction whose second page comes only after it has faulted: it must run then, not be refused. */
CASE(page_crossing_vector, MODE_LONG)
    set_page 14, FRAME + RW_S
    set_page 15, 0
    mov word ptr [FRAME + 0xffe], 0x0f66 /* pxor xmm0, xmm0; ret */
    mov dword ptr [FRAME + 0x4000], 0xc3c0ef
    mov rbx, PAGES + 0xeffe
    mov eax, 5
    movq xmm0, rax
    lea rax, [rip + 1f]
    mov back[rip], rax
    mov back_rsp[rip], rsp
    mov byte ptr armed[rip], 1
    call rbx
    FAIL
1:  EQ(qword ptr got_vector[rip], 14)
    lea r12, [rbx + 2]
    EQ(r12, got_cr2[rip])
    EQ(rbx, got_rip[rip])
    set_page 15, FRAME + 0x4000 + RW_S
    call rbx
    movq rax, xmm0
    EQ(rax, 0)
    call rbx
    PASS

/* The same with the opcode whole in the first page and the displacement in the second. */
CASE(page_crossing_vector_operand, MODE_LONG)
    set_page 14, FRAME + RW_S
    set_page 15, 0
    mov dword ptr [FRAME + 0xffc], 0xff80280f /* movaps xmm0, [rax - 1]; ret */
    mov dword ptr [FRAME + 0x4000], 0xc3ffffff
    mov rbx, PAGES + 0xeffc
    lea rax, [rip + 1f]
    mov back[rip], rax
    mov back_rsp[rip], rsp
    mov byte ptr armed[rip], 1
    call rbx
    FAIL
1:  EQ(qword ptr got_vector[rip], 14)
    lea r12, [rbx + 4]
    EQ(r12, got_cr2[rip])
    EQ(rbx, got_rip[rip])
    set_page 15, FRAME + 0x4000 + RW_S
    mov eax, 5
    movq xmm0, rax
    mov qword ptr [FRAME + 0x100], 7
    mov qword ptr [FRAME + 0x108], 0
    mov rax, FRAME + 0x101
    call rbx
    movq rax, xmm0
    EQ(rax, 7)
    PASS

/* ---- code that changes itself: volume 3, 8.1.3 ---- */
CASE(smc_next_instruction, MODE_LONG)
    mov ecx, 3
1:  mov eax, ecx
    add eax, 0x10
    mov 2f[rip + 1], al
2:  mov bl, 0
    EQ(bl, al)
    dec ecx
    jnz 1b
    PASS

CASE(smc_patched_jump, MODE_LONG)
    mov ecx, 40
1:  xor esi, esi
2:  jmp 3f
3:  inc esi
4:  inc esi
    mov eax, ecx
    and eax, 1 /* even rounds came by the first target */
    xor eax, 1
    inc eax
    EQ(esi, eax)
    mov al, 3b - 3b
    test ecx, 1
    jnz 5f
    mov al, 4b - 3b
5:  mov 2b[rip + 1], al
    dec ecx
    jnz 1b
    PASS

CASE(smc_other_page, MODE_LONG)
    mov rbx, FRAME + 0x100
    mov word ptr [rbx], 0xc030      /* placeholder */
    mov dword ptr [rbx], 0x000000b8 /* mov eax, imm32 */
    mov byte ptr [rbx + 5], 0xc3
    mov ecx, 1000
1:  mov [rbx + 1], ecx
    call rbx
    EQ(eax, ecx)
    dec ecx
    jnz 1b
    /* by another mapping of the same frame */
    set_page 16, FRAME + RW_S
    mov ecx, 1000
2:  mov [PAGES + 0x10101], ecx
    call rbx
    EQ(eax, ecx)
    dec ecx
    jnz 2b
    /* by a string instruction and by SSE */
    mov dword ptr [CASE_DATA], 0x112233b8
    mov word ptr [CASE_DATA + 4], 0xc300
    mov rsi, CASE_DATA
    mov rdi, rbx
    mov ecx, 6
    rep movsb
    call rbx
    EQ(eax, 0x00112233)
    mov byte ptr [CASE_DATA + 1], 0x44
    movdqu xmm0, [CASE_DATA]
    movdqu [rbx], xmm0
    call rbx
    EQ(eax, 0x00112244)
    /* data beside code on one page does not disturb */
    mov ecx, 1000
3:  mov [rbx + 0x80], ecx
    call rbx
    dec ecx
    jnz 3b
    EQ(eax, 0x00112244)
    EQ(dword ptr [rbx + 0x80], 1)
    PASS

/* ---- control flow ---- */
CASE(return_mismatch, MODE_LONG)
    mov ecx, 100
1:  call 2f
    FAIL
2:  lea rax, [rip + 3f] /* returns elsewhere than the call came from */
    mov [rsp], rax
    ret
    FAIL
3:  push rax
    lea rax, [rip + 4f]
    mov [rsp], rax
    ret 0
    FAIL
4:  call 5f /* call to get the address, never returned from */
5:  pop rax
    lea rbx, [rip + 5b]
    EQ(rax, rbx)
    dec ecx
    jnz 1b
    EQ(rsp, CASE_STACK)
    PASS

CASE(deep_calls, MODE_LONG)
    mov rsp, CASE_STACK_DEEP
    mov ecx, 100000
    xor eax, eax
    call 1f
    EQ(eax, 100000)
    EQ(rsp, CASE_STACK_DEEP)
    PASS
1:  dec ecx
    jz 2f
    call 1b
2:  inc eax
    ret

/* Threads of the guest: each call returns on another stack. */
CASE(stack_switches, MODE_LONG)
    mov rbx, CASE_DATA + 0x8000
    lea rax, [rip + 3f]
    mov [rbx - 8], rax
    sub rbx, 8
    mov ecx, 10000
    xor esi, esi
    xor edi, edi
1:  call 2f
    inc esi
    dec ecx
    jnz 1b
    EQ(esi, 10000)
    EQ(edi, 10000)
    EQ(rsp, CASE_STACK)
    PASS
2:  xchg rsp, rbx
    ret
3:  inc edi
    call 2b
    jmp 3b

CASE(jump_table, MODE_LONG)
    mov rdi, CASE_DATA
    lea rax, [rip + 2f]
    mov ecx, 256
1:  mov [rdi], rax
    add rdi, 8
    add rax, 8
    loop 1b
    xor esi, esi
    mov r12d, 20
4:  mov ecx, 255
3:  jmp [rcx * 8 + CASE_DATA]
    .p2align 3
2:  .rept 256 /* 8 bytes each */
    jmp 5f
    .p2align 3
    .endr
5:  add esi, ecx
    sub ecx, 1
    jnc 3b
    dec r12d
    jnz 4b
    EQ(esi, 255 * 128 * 20)
    PASS

/* ---- string instructions: volume 2, REP; volume 3, 6.5 ---- */
CASE(rep_movs_fault, MODE_LONG)
    set_page 20, FRAME + RW_S
    set_page 21, FRAME + 0x2000 + RW_S
    set_page 24, FRAME + 0x4000 + RW_S
    mov rdi, FRAME
    mov ecx, 0x1000 / 8
    mov rax, 0x0101010101010101
    rep stosq
    mov rdi, FRAME + 0x2000
    mov ecx, 0x1000 / 8
    mov rax, 0x0202020202020202
    rep stosq
    /* source ends after page 21 */
    mov rsi, PAGES + 0x14800
    mov rdi, CASE_DATA
    mov ecx, 0x3000
    mov rbx, PAGES + 0x16000
    PAGE_FAULTS(0, rbx, rep movsb)
    EQ(rsi, PAGES + 0x16000)
    EQ(rdi, CASE_DATA + 0x1800)
    EQ(ecx, 0x3000 - 0x1800)
    EQ(byte ptr [CASE_DATA + 0x7ff], 1)
    EQ(byte ptr [CASE_DATA + 0x800], 2)
    EQ(byte ptr [CASE_DATA + 0x17ff], 2)
    EQ(byte ptr [CASE_DATA + 0x1800], 0)
    /* destination page missing, an element straddles: it is not stored in part */
    mov rsi, CASE_DATA
    mov rdi, PAGES + 0x18ffc - 16
    mov ecx, 10
    mov rbx, PAGES + 0x19000
    PAGE_FAULTS(2, rbx, rep movsq)
    EQ(ecx, 8)
    EQ(rsi, CASE_DATA + 16)
    EQ(rdi, PAGES + 0x18ffc)
    EQ(dword ptr [FRAME + 0x4ffc], 0)
    EQ(dword ptr [FRAME + 0x4ff8], 0x01010101)
    /* downwards, and goes on after the page appears */
    mov rdi, PAGES + 0x15010
    mov rsi, CASE_DATA + 0x100
    mov ecx, 40
    set_page 20, 0
    mov ecx, 40
    std
    mov ebx, PAGES + 0x14fff
    PAGE_FAULTS(2, rbx, rep movsb)
    EQ(ecx, 40 - 17)
    cld
    set_page 20, FRAME + RW_S
    mov ecx, 40 - 17
    std
    rep movsb
    cld
    EQ(rdi, PAGES + 0x15010 - 40)
    PASS

CASE(rep_compare, MODE_LONG)
    mov rdi, CASE_DATA
    mov ecx, 0x2000
    mov al, 'x'
    rep stosb
    mov byte ptr [CASE_DATA + 0x1234], 'y'
    mov rdi, CASE_DATA
    mov ecx, 0x2000
    mov al, 'y'
    repne scasb
    EXPECT(e)
    EQ(rdi, CASE_DATA + 0x1235)
    EQ(ecx, 0x2000 - 0x1235)
    mov rsi, CASE_DATA
    mov rdi, CASE_DATA + 8
    mov rcx, 0x1800 / 4
    repe cmpsd
    EXPECT(ne)
    EQ(rsi, CASE_DATA + 0x1230)
    xor ecx, ecx
    cmp ecx, ecx
    repne scasb /* no round: flags stay */
    EXPECT(z)
    mov rdi, 0x100000000 + CASE_DATA /* 67: ECX, EDI; upper halves are cleared */
    mov rcx, 0x300000004
    mov eax, 0
    addr32 rep stosb
    EQ(rcx, 0)
    EQ(rdi, CASE_DATA + 4)
    PASS

/* ---- x87: SDM volume 1, 8.1.8 ---- */

/* Pointers: where the last x87 instruction was, and its operand. AMD's lose both at a context switch (of the host, too)
 * while no exception is pending, and newer Intel's keep the second for exceptions only; nothing else is seen there. */
    .macro pointer_is field, value
    mov ecx, \field
    test ecx, ecx
    jz 88f
    EQ(rcx, \value)
88:
    .endm
CASE(x87_pointers, MODE_LONG)
    mov ebx, CASE_DATA
    mov dword ptr [rbx + 0x80], 0x40000000
    lea rdx, [rbx + 0x80]
    fninit
    lea rsi, [rip + 1f]
1:  fld dword ptr [rdx]
    fnstenv [rbx]
    pointer_is [rbx+12], rsi
    pointer_is [rbx+20], rdx
    fldenv [rbx]
    /* a pending exception keeps them */
    mov word ptr [rbx + 0x90], 0x37b /* zero divide */
    fldcw [rbx + 0x90]
    lea rsi, [rip + 1f]
    nop
1:  fdiv dword ptr [rbx + 0x84]
    nop
    fxsave64 [rbx + 0x200]
    EQ(qword ptr [rbx + 0x208], rsi)
    pointer_is [rbx+0x210], 0x200084
    EQ(dword ptr [rbx + 0x214], 0)
    movzx eax, byte ptr [rsi]
    and eax, 7
    shl eax, 8
    mov al, [rsi + 1]
    movzx ecx, word ptr [rbx + 0x206]
    jecxz 2f
    EQ(ecx, eax)
2:  mov eax, 7
    xor edx, edx
    xsave64 [rbx + 0x400]
    EQ(qword ptr [rbx + 0x408], rsi)
    EQ(dword ptr [rbx + 0x414], 0)
    fnstenv [rbx]
    EQ([rbx + 12], esi)
    /* what is loaded comes back */
    mov rax, 0x123456789abc
    mov [rbx + 0x208], rax
    fxrstor64 [rbx + 0x200]
    fxsave64 [rbx]
    EQ([rbx + 8], rax)
    mov eax, 7
    xrstor64 [rbx + 0x400]
    fxsave64 [rbx]
    EQ([rbx + 8], rsi)
    /* XRSTOR of other components leaves them */
    fninit
    lea rsi, [rip + 1f]
    mov eax, 6
1:  fld1
    xrstor64 [rbx + 0x400]
    fnstenv [rbx]
    pointer_is [rbx+12], rsi
    fninit
    fnstenv [rbx]
    EQ(dword ptr [rbx + 12], 0)
    PASS

/* The same from code that other blocks lead to and from, so often that it is made again. */
CASE(x87_pointers_calls, MODE_LONG)
    mov ebx, CASE_DATA
    mov word ptr [rbx + 0x90], 0x37b
    mov ebp, 3000
    lea rsi, [rip + 3f]
2:  fninit
    fldcw [rbx + 0x90]
    fld1
    fldz
    call 4f
3:  fdivp
    fxsave64 [rbx + 0x200]
    EQ(qword ptr [rbx + 0x208], rsi)
    fnclex
    dec ebp
    jnz 2b
    PASS
4:  fxch
    fnstenv [rbx]
    fldenv [rbx]
    fxch
    ret

CASES_END(long)
