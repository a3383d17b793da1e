/* Multiboot 0.6.96, 3.1 and 3.2: header and 32-bit entry. Stays in 32-bit mode. */
    .section .multiboot, "a"
    .align 4
    .long 0x1badb002, 3, -(0x1badb002 + 3)
    .text
    .globl start
start:
    pushfl /* the boot loader's ESP is not to be relied on; overwritten below */
    mov $stack_end, %esp
    movl %eax, boot_eax
    movl %ebx, boot_ebx
    pushfl
    popl boot_eflags
    mov %cs, boot_cs
    mov %ss, boot_ss
    mov %ds, boot_ds
    lgdt gdtr
    ljmp $8, $1f
1:  mov $16, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    xor %eax, %eax
    mov %eax, %fs
    mov %eax, %gs
    call kernel_main
    push %eax
    call finish
    .data
    .globl boot_eax, boot_ebx, boot_eflags, boot_cs, boot_ss, boot_ds, gdt, gdtr
boot_eax: .long 0
boot_ebx: .long 0
boot_eflags: .long 0
boot_cs: .long 0
boot_ss: .long 0
boot_ds: .long 0
    .align 8
gdt: /* null, code 32, data, code 16, data 16, TSS slots and what a kernel puts there */
    .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00009b000000ffff, 0x000093000000ffff
    .fill 59, 8, 0
gdtr: .word 64 * 8 - 1
    .long gdt
    .bss
    .align 16
    .skip 16384
    .globl stack_end
stack_end:
