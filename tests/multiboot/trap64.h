/* Exceptions in 64-bit test kernels: each is recorded, and execution goes on at `resume`. */
#ifndef MULTIBOOT_TRAP64_H
#define MULTIBOOT_TRAP64_H

#include "lib.h"

struct trap_frame {
    uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
    uint64_t vector, error, rip, cs, rflags, rsp, ss;
};
struct trap {
    uint64_t vector, error, rip, cs, rflags, rsp, cr2, dr6, count;
};
extern volatile struct trap trap; /* the last one of the first CPU; vector ~0: none since trap_clear */
extern volatile uint64_t resume;
extern void (*volatile trap_hook)(struct trap_frame *f);     /* exceptions */
extern void (*volatile irq_hook[256])(struct trap_frame *f); /* this vector, on any CPU */

void traps_init(void); /* IDT and TSS of the first CPU */
void traps_load(void); /* the IDT, on another CPU */
void trap_clear(void);
/* Runs fn at level 3 until it returns or faults; the fault is in `trap`. */
void run_user(void (*fn)(void));

#define TRY(insn, ...)                                                                                       \
    do {                                                                                                     \
        trap_clear();                                                                                        \
        __asm__ volatile("movq $77f, resume\n\t" insn "\n77:\n\tmovq $0, resume" __VA_ARGS__);               \
    } while (0)

static inline bool trapped(uint64_t vector, uint64_t error)
{
    return trap.vector == vector && trap.error == error;
}
static inline uint64_t read_cr0(void)
{
    uint64_t v;
    __asm__ volatile("mov %%cr0, %0" : "=r"(v));
    return v;
}
static inline uint64_t read_cr3(void)
{
    uint64_t v;
    __asm__ volatile("mov %%cr3, %0" : "=r"(v));
    return v;
}
static inline uint64_t read_cr4(void)
{
    uint64_t v;
    __asm__ volatile("mov %%cr4, %0" : "=r"(v));
    return v;
}
static inline void cpuid(uint32_t leaf, uint32_t sub, uint32_t *r)
{
    __asm__ volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(sub));
}
static inline void sti_nops(void)
{
    __asm__ volatile("sti; nop; nop; nop; nop" : : : "memory");
}
static inline void cli(void)
{
    __asm__ volatile("cli" : : : "memory");
}
/* in32 NAME, INSTRUCTIONS makes a function that is called from 64-bit code, does its work in 32-bit code with
 * EBX as the offset, and goes on behind it when that faults. */
#define IN32                                                                                                 \
    ".macro in32 name, insn\n"                                                                               \
    ".globl \\name\n"                                                                                        \
    "\\name: push %rbx; mov %edi, %ebx; movq $2f, resume; movl $1f, far32; lcall *far32; pop %rbx\n"         \
    " movq $0, resume; ret\n"                                                                                \
    ".code32\n"                                                                                              \
    "1: mov $16, %eax; mov %eax, %ds; mov %eax, %es; mov value, %eax\n"                                      \
    " \\insn\n"                                                                                              \
    "2: mov %eax, value; lret\n"                                                                             \
    ".code64\n"                                                                                              \
    ".endm\n"
#define IN32_END ".data\nfar32: .long 0\n .word 24\n.text\n"

#endif
