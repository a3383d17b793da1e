/* Guests of test_kvm.c. Each is position independent and is copied to GUEST_CODE (or GUEST_AP). Integer instructions alone:
 * an interpreting KVM knows few others. */
    .intel_syntax noprefix
    .section .rodata, "a"

#define GUEST(name) .globl code_##name; code_##name:
#define GUEST_END_OF(name) .globl code_##name##_end; code_##name##_end:
#define TELL_EAX out 0xf4, eax
#define END out 0xf5, al
/* In an interrupt handler, behind a push of RAX: tells EAX, and the local APIC (x2APIC) of the interrupt's end. */
#define BEGIN_HANDLER push rcx; push rdx; TELL_EAX; mov ecx, 0x80b; xor eax, eax; xor edx, edx; wrmsr
#define END_HANDLER pop rdx; pop rcx; pop rax; iretq

    .code16
GUEST(ports)
    mov al, 0x5a
    out 0xf4, al
    in ax, 0x10
    TELL_EAX
    mov dx, 0x510
    mov eax, 0x12345678
    out dx, eax
    push cs
    pop ds
    mov si, offset ports_text - code_ports
    mov cx, 3
    cld
    rep outsb
    END
ports_text:
    .ascii "abc"
GUEST_END_OF(ports)

GUEST(hlt)
    mov eax, 1
    TELL_EAX
1:  sti
    hlt
    jmp 1b
GUEST_END_OF(hlt)

GUEST(spin)
    mov eax, 1
    TELL_EAX
1:  jmp 1b
GUEST_END_OF(spin)

GUEST(read)
    in eax, 0x20
    mov ebx, eax
    TELL_EAX
    END
1:  jmp 1b
GUEST_END_OF(read)

/* Tells what it reads. */
GUEST(echo)
1:  in eax, 0x20
    TELL_EAX
    jmp 1b
GUEST_END_OF(echo)

/* Writes each page from 0x10000 up, CX of them, then ends. */
GUEST(touch)
    mov ax, 0x1000
1:  mov ds, ax
    mov byte ptr [0x123], 7
    add ax, 0x100
    loop 1b
    END
GUEST_END_OF(touch)

    .code64
GUEST(mmio)
    mov rsi, 0xd0000000
    mov byte ptr [rsi + 1], 0x11
    mov word ptr [rsi + 2], 0x2222
    mov dword ptr [rsi + 4], 0x33333333
    mov rax, 0x4444444455555555
    mov [rsi + 8], rax
    movzx eax, byte ptr [rsi + 0x10]
    TELL_EAX
    mov rax, [rsi + 0x20]
    TELL_EAX
    shr rax, 32
    TELL_EAX
    mov dword ptr [rsi + 0xffd], 0x0a0b0c0d
    END
GUEST_END_OF(mmio)

/* Local APIC on, x2APIC mode, an IDT gate for vector 0x60 is there: waits for interrupts and tells each. */
GUEST(interrupts)
    mov ecx, 0x1b
    rdmsr
    or eax, 0xc00
    wrmsr
    mov ecx, 0x80f
    mov eax, 0x1ff
    xor edx, edx
    wrmsr
    mov eax, 0x1000
    TELL_EAX
1:  sti
    hlt
    cli
    jmp 1b
GUEST_END_OF(interrupts)

/* Handlers, 16 bytes apart, vectors 0x60 up: tells the vector, ends the interrupt. */
    .p2align 4
    .set vector, 0x60
GUEST(handlers)
    .rept 64
    .p2align 4
    push rax
    mov eax, vector
    .set vector, vector + 1
    jmp handler_tail
    .endr
    .p2align 4
handler_tail:
    BEGIN_HANDLER
    END_HANDLER
GUEST_END_OF(handlers)

/* TSC deadline timer of vector 0x60, then waits. */
/* Has a paravirtual clock, at CLOCK_PAGE; tells its flags and clears GUEST_STOPPED, again and again. Linux
 * Documentation/virt/kvm/x86/msr.rst, MSR_KVM_SYSTEM_TIME_NEW. */
GUEST(clock)
    mov ecx, 0x4b564d01
    mov eax, 0x60001
    xor edx, edx
    wrmsr
1:  movzx eax, byte ptr [0x60000 + 29]
    TELL_EAX
    and byte ptr [0x60000 + 29], 0xfd
    END
    jmp 1b
GUEST_END_OF(clock)

GUEST(deadline)
    mov ecx, 0x1b
    rdmsr
    or eax, 0xc00
    wrmsr
    mov ecx, 0x80f
    mov eax, 0x1ff
    xor edx, edx
    wrmsr
    mov ecx, 0x832
    mov eax, 0x40060
    wrmsr
    rdtsc
    add eax, 1000000
    adc edx, 0
    mov ecx, 0x6e0
    wrmsr
1:  sti
    hlt
    cli
    jmp 1b
GUEST_END_OF(deadline)

/* INIT and SIPI to APIC id 1 (xAPIC mode), vector 0x90. */
GUEST(sipi)
    mov rsi, 0xfee00000
    mov dword ptr [rsi + 0xf0], 0x1ff
    mov dword ptr [rsi + 0x310], 0x01000000
    mov dword ptr [rsi + 0x300], 0x4500
    mov dword ptr [rsi + 0x310], 0x01000000
    mov dword ptr [rsi + 0x300], 0x4690
    mov eax, 0x1000
    TELL_EAX
1:  hlt
    jmp 1b
GUEST_END_OF(sipi)

    .code16
GUEST(ap)
    mov ax, cs
    movzx eax, ax
    TELL_EAX
1:  hlt
    jmp 1b
GUEST_END_OF(ap)

    .code64
/* Goes where there is no memory. */
GUEST(lost)
    mov rax, 0xd0000000
    jmp rax
GUEST_END_OF(lost)

/* No IDT: the first exception ends in a triple fault. */
GUEST(triple)
    lidt [rip + triple_idt]
    ud2
triple_idt:
    .quad 0, 0
GUEST_END_OF(triple)

/* Doorbells: a port, then memory, each with a value that is listened for and one that is not. */
GUEST(doorbells)
    mov dx, 0x600
    mov eax, 5
    out dx, ax
    mov eax, 6
    out dx, ax
    mov rsi, 0xd0001000
    mov dword ptr [rsi], 1
    mov word ptr [rsi], 1
    END
GUEST_END_OF(doorbells)

/* RSI is a doorbell: rings it and waits. It is the handlers that ring again (vectors 0x60 and 0x61, 16 bytes apart; each tells
 * its vector first), and not the code behind HLT: QEMU 7.2's VMRUN forgets the shadow of STI, which its VMCB holds, so in the
 * nested test bed an interrupt may come before the HLT that waits for it. */
    .p2align 4
GUEST(ringers)
    push rax
    mov eax, 0x60
    jmp ringer_tail
    .p2align 4
    push rax
    mov eax, 0x61
ringer_tail:
    BEGIN_HANDLER
    mov word ptr [rsi], 0
    END_HANDLER
GUEST_END_OF(ringers)

GUEST(driver)
    mov ecx, 0x1b
    rdmsr
    or eax, 0xc00
    wrmsr
    mov ecx, 0x80f
    mov eax, 0x1ff
    xor edx, edx
    wrmsr
    mov word ptr [rsi], 0
    sti
1:  hlt
    jmp 1b
GUEST_END_OF(driver)

/* Rings it in every way there is, then ends. */
GUEST(odd_rings)
    xor eax, eax
    mov byte ptr [rsi], 0
    mov word ptr [rsi], 0
    mov dword ptr [rsi], 0
    mov qword ptr [rsi], rax
    mov byte ptr [rsi + 1], 1
    mov word ptr [rsi + 1], 1
    mov word ptr [rsi + 2], 1
    mov dword ptr [rsi + 2], -1
    mov qword ptr [rsi + 4], -1
    mov dword ptr [rsi - 2], -1
    mov word ptr [rsi + 0xffe], -1
    mov dword ptr [rsi + 0xffe], -1
    mov eax, [rsi + 4]
    TELL_EAX
    END
GUEST_END_OF(odd_rings)

/* Rings without end. */
GUEST(storm)
1:  mov word ptr [rsi], 0
    mov word ptr [rsi + 4], 0
    jmp 1b
GUEST_END_OF(storm)

    .section .note.GNU-stack, "", @progbits
