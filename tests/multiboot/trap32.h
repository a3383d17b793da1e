/* Exceptions in 32-bit test kernels: each is recorded, and execution goes on at `resume`. */
#ifndef MULTIBOOT_TRAP32_H
#define MULTIBOOT_TRAP32_H

#include "lib.h"

struct trap_frame {
    uint32_t edi, esi, ebp, esp0, ebx, edx, ecx, eax;
    uint32_t vector, error, eip, cs, eflags, esp, ss; /* the last two only from another privilege level */
    uint32_t es, ds, fs, gs;                          /* from vm86 */
};

struct trap {
    uint32_t vector, error, eip, cs, eflags, count, dr6, cr2;
};
extern volatile struct trap trap; /* the last one; vector 0xffffffff: none since trap_clear */
extern volatile uint32_t resume;  /* 0: go on at the interrupted instruction */
extern void (*volatile trap_hook)(struct trap_frame *f); /* instead of the resume */

void traps_init(void);
void trap_clear(void);
void gate_set(unsigned vector, uint32_t sel, uint32_t off,
              unsigned type); /* type: 0x8e00, 0x8500 for a task ... */
void gdt_set(unsigned index, uint32_t base, uint32_t limit, unsigned access, unsigned flags);

/* Runs an instruction; what it raised is in `trap`. */
#define TRY(insn, ...)                                                                                       \
    do {                                                                                                     \
        trap_clear();                                                                                        \
        __asm__ volatile("movl $77f, resume\n\t" insn "\n77:\n\tmovl $0, resume" __VA_ARGS__);               \
    } while (0)

static inline bool trapped(uint32_t vector, uint32_t error)
{
    return trap.vector == vector && trap.error == error;
}
#endif
