#include "trap64.h"

volatile struct trap trap;
volatile uint64_t resume;
void (*volatile trap_hook)(struct trap_frame *f);
void (*volatile irq_hook[256])(struct trap_frame *f);
uint64_t user_back;

static struct {
    uint64_t lo, hi;
} idt[256] __attribute__((aligned(16)));
static struct {
    uint16_t limit;
    uint64_t base;
} __attribute__((packed)) idtr = { sizeof(idt) - 1, (uint64_t)idt };
static uint32_t tss[26];
static uint8_t tss_stack[16384], user_stack[16384] __attribute__((used));
extern uint64_t gdt[], pml4[], pdpt[], pd[];

__asm__(".altmacro\n.macro entry64 n, has\n.balign 16\n.if \\has == 0\n push $0\n.endif\n push $\\n; jmp "
        "trap_common\n.endm\n"
        ".balign 16\ntrap_entries:\n.set i, 0\n.rept 256\n"
        ".if i == 8 || (i >= 10 && i <= 14) || i == 17 || i == 21\n entry64 %i, 1\n.else\n entry64 %i, "
        "0\n.endif\n"
        ".set i, i+1\n.endr\n.noaltmacro\n"
        "trap_common: push %rax; push %rcx; push %rdx; push %rbx; push %rbp; push %rsi; push %rdi; push %r8; "
        "push %r9; push %r10; push %r11; push %r12; push %r13; push %r14; push %r15\n"
        "mov %rsp, %rdi; mov %rsp, %rbx; and $-16, %rsp; cld; call trap_c; mov %rbx, %rsp\n"
        "pop %r15; pop %r14; pop %r13; pop %r12; pop %r11; pop %r10; pop %r9; pop %r8; pop %rdi; pop %rsi; "
        "pop %rbp; pop %rbx; pop %rdx; pop %rcx; pop %rax; add $16, %rsp; iretq\n"
        ".globl run_user\nrun_user: push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15; pushf\n"
        "mov %rsp, user_back; push $0x23; pushq $user_stack+16376; push $0x202-0x200; push $0x2b; push %rdi\n"
        "movq $user_return, user_stack+16376; iretq\n"
        "user_return: int $0xf0\n"
        "user_done: mov user_back, %rsp; popf; pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp; "
        "ret\n");
extern char trap_entries[], user_done[];

void __attribute__((used)) trap_c(struct trap_frame *f)
{
    if (f->vector >= 32 && f->vector != 0xf0) {
        if (irq_hook[f->vector])
            irq_hook[f->vector](f);
        return;
    }
    if (irq_hook[f->vector]) {
        irq_hook[f->vector](f);
        return;
    }
    if (f->vector != 0xf0) {
        trap.vector = f->vector;
        trap.error = f->error;
        trap.rip = f->rip;
        trap.cs = f->cs;
        trap.rflags = f->rflags;
        trap.rsp = f->rsp;
        __asm__ volatile("mov %%cr2, %0" : "=r"(trap.cr2));
        __asm__ volatile("mov %%dr6, %0" : "=r"(trap.dr6));
        trap.count++;
    }
    if (trap_hook) {
        trap_hook(f);
    } else if (f->cs & 3) {
        f->rip = (uint64_t)user_done;
        f->cs = 8;
        f->ss = 16;
        f->rsp = user_back;
        f->rflags = 2;
    } else if (resume) {
        f->rip = resume;
        resume = 0;
    } else if (f->vector > 4 || f->vector == 0) {
        print("NOT ok unexpected vector %X error %X at %X cr2 %X\n", f->vector, f->error, f->rip, trap.cr2);
        finish(0x30);
    }
}

void trap_clear(void)
{
    trap.vector = ~0ull;
    trap.error = trap.rip = trap.count = 0;
    __asm__ volatile("" : : : "memory");
}

void traps_load(void)
{
    __asm__ volatile("lidt %0" : : "m"(idtr));
}

void traps_init(void)
{
    uint64_t base = (uint64_t)tss, top = (uint64_t)tss_stack + sizeof(tss_stack);

    for (unsigned v = 0; v < 256; v++) {
        uint64_t at = (uint64_t)trap_entries + 16 * v;

        idt[v].lo =
            (at & 0xffff) | 8 << 16 | (v == 0xf0 ? 0xee00ull : 0x8e00ull) << 32 | (at >> 16 & 0xffff) << 48;
        idt[v].hi = at >> 32;
    }
    traps_load();
    tss[1] = (uint32_t)top;
    tss[25] = 104 << 16;
    gdt[6] = 103 | (base & 0xffffff) << 16 | 0x89ull << 40 | (base >> 24 & 0xff) << 56;
    gdt[7] = base >> 32;
    __asm__ volatile("ltr %w0" : : "r"(0x30));
    trap_clear();
}

/* Kernels of one CPU have none of their own. */
void __attribute__((weak)) ap_main(uint32_t id)
{
    (void)id;
}
