/* Code that runs to the end of a page or across it, and is changed: an instruction whose second page is not
 * there becomes one that fits, and one that lies at both ends of the same frame is written to at either. */
#include "trap64.h"

#define FRAME 0x2000000ull
#define VA (1ull << 39)
#define END (VA + 4096)
#define CR4_OSFXSR 0x200ull

static uint64_t table[3][512] __attribute__((aligned(4096)));
static volatile uint8_t *const code = (volatile uint8_t *)FRAME;
volatile uint32_t answer;
extern uint64_t pml4[];

static void put(unsigned at, const uint8_t *from, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        code[at + i] = from[i];
}

/* ADDPS from memory needs three bytes more than there are; XORPS xmm0, xmm0 and RET are all. */
static void fits_now(void)
{
    static const uint8_t across[4] = { 0x0f, 0x58, 0x05, 0 }, fits[4] = { 0x0f, 0x57, 0xc0, 0xc3 };

    for (unsigned k = 0; k < 8; k++) {
        put(4092, k & 1 ? fits : across, 4);
        trap_clear();
        run_user((void (*)(void))(END - 4));
        check(k & 1 ? trap.vector == ~0ull : trap.vector == 14 && trap.cr2 == END && trap.rip == END - 4,
              "%u: code that %s", k, k & 1 ? "fits" : "runs into a page that is not there");
    }
}

/* MOV $imm32, %eax with two bytes of the immediate in either page; MOV %eax, answer; RET. */
static void both_ends(void)
{
    uint32_t at = (uint32_t)(uint64_t)&answer;
    const uint8_t tail[] = {
        0, 0, 0x89, 4, 0x25, (uint8_t)at, (uint8_t)(at >> 8), (uint8_t)(at >> 16), (uint8_t)(at >> 24), 0xc3
    };
    static const uint8_t head[] = { 0xb8, 0, 0 };

    table[2][1] = FRAME + 7;
    put(4093, head, sizeof head);
    put(0, tail, sizeof tail);
    for (uint32_t k = 0; k < 8; k++) {
        code[k & 1 ? 0 : 4094] = (uint8_t)(k + 1);
        run_user((void (*)(void))(END - 3));
        check(answer == (uint32_t)(code[0] << 16 | code[4094]), "%u: written in its %s: %x", k,
              k & 1 ? "second page" : "first page", answer);
    }
}

uint32_t kernel_main(void)
{
    traps_init();
    __asm__ volatile("mov %0, %%cr4" : : "r"(read_cr4() | CR4_OSFXSR));
    pml4[1] = (uint64_t)table[0] + 7;
    table[0][0] = (uint64_t)table[1] + 7;
    table[1][0] = (uint64_t)table[2] + 7;
    table[2][0] = FRAME + 7;
    fits_now();
    both_ends();
    return failures ? 0x20 : 0x10;
}
