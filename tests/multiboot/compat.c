/* Compatibility mode's data through FS: Intel SDM volume 3 (2023-12), 3.3.7 (linear addresses of 32
 * bits), 3.4.4 (bases beyond the descriptor's 32 bits are 64-bit mode's), 5.3 (limits), 5.4.1 (null
 * selectors). */
#include "trap64.h"

#define FS_BASE 0xc0000100
#define DATA 16
#define SMALL (10 * 8)
#define TOP 0xfffffffe /* two bytes there, two at 0 */

extern uint64_t gdt[];
void load32(uint32_t offset), store32(uint32_t offset), vector32(uint32_t offset);
uint32_t value;

__asm__(IN32 "in32 load32, \"mov %fs:(%ebx), %eax\"\n"
             "in32 store32, \"mov %eax, %fs:(%ebx)\"\n"
             "in32 vector32, \"movd %fs:(%ebx), %xmm0; movd %xmm0, %eax\"\n" IN32_END);

static uint32_t low(void)
{
    return *(volatile uint32_t *)0;
}

/* The offset is inside the segment, the sum passes 4 GiB, or the operand does. */
static void wraps(uint64_t base)
{
    wrmsr(FS_BASE, base);
    *(volatile uint32_t *)0 = 0xaabbccdd;
    trap_clear();
    value = 0;
    load32((uint32_t)(0 - base));
    check(trap.vector == ~0ull && value == 0xaabbccdd, "FS base %X: the sum is 0 (%x)", base, value);
    load32((uint32_t)(TOP - base));
    check(trap.vector == ~0ull && value >> 16 == 0xccdd, "a load across the end (%x)", value);
    vector32((uint32_t)(TOP - base));
    check(trap.vector == ~0ull && value >> 16 == 0xccdd, "SSE's too (%x)", value);
    value = 0x11223344;
    store32((uint32_t)(TOP - base));
    check(trap.vector == ~0ull && low() == 0xaabb1122, "a store across the end (%x)", low());
}

static void refused(uint32_t offset, const char *text)
{
    static void (*const all[])(uint32_t) = { load32, store32, vector32 };

    for (unsigned i = 0; i < 3; i++) {
        trap_clear();
        all[i](offset);
        check(trapped(13, 0) && trap.cs == 24, "%s: #GP(0) (%u)", text, i);
    }
}

static void set_fs(unsigned sel)
{
    __asm__ volatile("mov %w0, %%fs" : : "r"(sel));
}

uint32_t kernel_main(void)
{
    traps_init();
    __asm__ volatile("mov %0, %%cr4" : : "r"(read_cr4() | 0x600)); /* OSFXSR, OSXMMEXCPT */
    set_fs(DATA);
    wraps(0x10000);
    wraps(0xfffff800);
    wraps(0x7fff00010008);
    set_fs(0);
    refused(0, "null selector");
    gdt[SMALL / 8] = 0x0040930000000fff; /* 4 KiB at 0 */
    set_fs(SMALL);
    trap_clear();
    load32(0xffc);
    check(trap.vector == ~0ull, "the last word of 4 KiB");
    refused(0xffd, "a byte beyond");
    refused(0xfffffffc, "far beyond");
    gdt[SMALL / 8] = 0x0040970000000fff; /* expands down */
    set_fs(SMALL);
    refused(0xffc, "in the hole of a segment that expands down");
    trap_clear();
    load32(0x1000);
    check(trap.vector == ~0ull, "above it");
    gdt[SMALL / 8] = 0x00cf91000000ffff;
    set_fs(SMALL);
    trap_clear();
    load32(0x1000);
    check(trap.vector == ~0ull, "a load through a segment that is not writable");
    store32(0x1000);
    check(trapped(13, 0), "a store: #GP(0)");
    return failures ? 0x20 : 0x10;
}
