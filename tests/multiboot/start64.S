/* A multiboot kernel that goes to 64-bit mode: 32-bit entry, identity map of 4 GiB in 2 MiB pages; and the way there for
 * other processors, from real mode at AP_BASE. */
#define AP_BASE 0x8000
    .section .multiboot, "a"
    .align 4
    .long 0x1badb002, 3, -(0x1badb002 + 3)
    .text
    .code32
    .globl start
start:
    mov $stack_end, %esp
    mov %eax, boot_eax
    mov %ebx, boot_ebx
    lgdt gdtr32
    mov $pd, %edi /* four page directories of 2 MiB pages */
    mov $0xe7, %eax
    xor %edx, %edx
1:  mov %eax, (%edi)
    mov %edx, 4(%edi)
    add $0x200000, %eax
    adc $0, %edx
    add $8, %edi
    cmp $pd + 4 * 4096, %edi
    jb 1b
    mov $pd + 7, %eax
    mov $pdpt, %edi
2:  mov %eax, (%edi)
    add $4096, %eax
    add $8, %edi
    cmp $pdpt + 32, %edi
    jb 2b
    movl $pdpt + 7, pml4
    cld
    mov $ap_begin, %esi
    mov $AP_BASE, %edi
    mov $ap_end - ap_begin, %ecx
    rep movsb
    call to_long
    ljmp $8, $1f
to_long:
    mov %cr4, %eax
    or $0x20, %eax
    mov %eax, %cr4
    mov $pml4, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx
    rdmsr
    or $0x100, %eax
    wrmsr
    mov $0x80000011, %eax
    mov %eax, %cr0
    ret
    .code64
1:  call segments
    mov $stack_end, %rsp
    call kernel_main
    mov %eax, %edi
    call finish
segments:
    mov $16, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    xor %eax, %eax
    mov %eax, %fs
    mov %eax, %gs
    ret

    .code16
ap_begin:
    cli
    xor %ax, %ax
    mov %ax, %ds
    lgdtl AP_BASE + (ap_gdtr - ap_begin)
    mov %cr0, %eax
    or $1, %al
    mov %eax, %cr0
    ljmpl $24, $ap32
ap_gdtr: .word 64 * 8 - 1
    .long gdt
ap_end:
    .code32
ap32:
    mov $16, %eax
    mov %eax, %ds
    mov %eax, %ss
    mov $0xfee00020, %ebx /* its APIC id chooses the stack: 16 KiB for each */
    mov (%ebx), %ebx
    shr $24, %ebx
    mov %ebx, %esp
    shl $14, %esp
    add $ap_stacks + 16384, %esp
    call to_long
    ljmp $8, $1f
    .code64
1:  call segments
    mov %ebx, %edi
    call ap_main
    cli
    hlt
    .data
    .globl boot_eax, boot_ebx, gdt, gdtr, pml4, pdpt, pd
boot_eax: .long 0
boot_ebx: .long 0
    .align 8
gdt: /* null, code 64, data, code 32, user data, user code 64, TSS (2), code 16, data 16, free */
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cf9b000000ffff
    .quad 0x00cff3000000ffff, 0x00affb000000ffff, 0, 0, 0x00009b000000ffff, 0x000093000000ffff
    .fill 54, 8, 0
gdtr32: .word 64 * 8 - 1
    .long gdt
gdtr: .word 64 * 8 - 1
    .quad gdt
    .bss
    .align 4096
pml4: .skip 4096
pdpt: .skip 4096
pd: .skip 4 * 4096
    .skip 16384
    .globl stack_end, ap_stacks
stack_end:
ap_stacks: .skip 64 * 16384
