#include "trap32.h"

volatile struct trap trap;
volatile uint32_t resume;
void (*volatile trap_hook)(struct trap_frame *f);

static struct {
    uint32_t lo, hi;
} idt[256] __attribute__((aligned(8)));
static struct {
    uint16_t limit;
    uint32_t base;
} __attribute__((packed)) idtr = { sizeof(idt) - 1, (uint32_t)idt };
extern uint64_t gdt[];

__asm__(".macro trap_entry n, has\n"
        ".balign 16\n"
        ".if \\has == 0\n pushl $0\n.endif\n"
        "pushl $\\n; jmp trap_common\n"
        ".endm\n"
        ".altmacro\n.balign 16\n .globl trap_entries\n trap_entries:\n.set i, 0\n"
        ".rept 256\n"
        ".if i == 8 || (i >= 10 && i <= 14) || i == 17 || i == 21\n trap_entry %i, 1\n.else\n trap_entry %i, "
        "0\n.endif\n"
        ".set i, i+1\n.endr\n.noaltmacro\n"
        "trap_common: pusha; mov $16, %eax; mov %eax, %ds; mov %eax, %es; cld; mov %esp, %eax; call trap_c; "
        "popa; add $8, %esp; iretl\n");
extern char trap_entries[];

void __attribute__((used, regparm(1))) trap_c(struct trap_frame *f)
{
    uint32_t dr6, cr2;

    __asm__ volatile("mov %%dr6, %0; mov %%cr2, %1" : "=r"(dr6), "=r"(cr2));
    trap.vector = f->vector;
    trap.error = f->error;
    trap.eip = f->eip;
    trap.cs = f->cs;
    trap.eflags = f->eflags;
    trap.dr6 = dr6;
    trap.cr2 = cr2;
    trap.count++;
    if (trap_hook) {
        trap_hook(f);
    } else if (resume) {
        f->eip = resume;
        resume = 0;
    } else if (f->vector < 32 && f->vector != 1 && f->vector != 3 && f->vector != 4 && f->vector != 2) {
        print("NOT ok unexpected vector %u error %x at %x\n", f->vector, f->error, f->eip);
        finish(0x30);
    }
}

void trap_clear(void)
{
    trap.vector = 0xffffffff;
    trap.error = trap.eip = trap.count = 0;
    __asm__ volatile("" : : : "memory");
}

void gate_set(unsigned vector, uint32_t sel, uint32_t off, unsigned type)
{
    idt[vector].lo = sel << 16 | (off & 0xffff);
    idt[vector].hi = (off & 0xffff0000) | type;
}

void gdt_set(unsigned i, uint32_t base, uint32_t limit, unsigned access, unsigned flags)
{
    uint32_t lo = (limit & 0xffff) | base << 16;
    uint32_t hi = (base >> 16 & 0xff) | access << 8 | (limit & 0xf0000) | flags << 20 | (base & 0xff000000);

    gdt[i] = (uint64_t)hi << 32 | lo;
}

void traps_init(void)
{
    for (unsigned v = 0; v < 256; v++)
        gate_set(v, 8, (uint32_t)trap_entries + 16 * v, 0x8e00);
    __asm__ volatile("lidt %0" : : "m"(idtr));
    trap_clear();
}
