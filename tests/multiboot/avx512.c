/* AVX-512: what switches it on (Intel SDM volume 1 (2023-12), 13.3 and 15.2; volume 2, 2.8), its state in
 * XSAVE's area (volume 1, 13.4 to 13.8), and memory operands under a mask whose other elements are not there
 * (volume 2, 2.7.9), in 64-bit code and in 32-bit code through a segment. */
#include "trap64.h"

#define OSXSAVE (1ull << 18)
#define TS 8ull
#define LEGACY 7u
#define ALL 0xe7u
#define XSTATE_BV 512
#define FS_SMALL (10 * 8)
#define END 0x2200000ull /* nothing from here on */

extern uint64_t pd[], gdt[];
void load32(uint32_t offset), all32(uint32_t offset), bound32(uint32_t offset);
uint32_t value;

__asm__(IN32 "in32 load32, \"kmovw %eax, %k1; vmovdqu32 %fs:(%ebx), %zmm1{%k1}{z}; vmovd %xmm1, %eax\"\n"
             "in32 all32, \"vmovdqu32 %fs:(%ebx), %zmm1; vmovd %xmm1, %eax\"\n"
             "in32 bound32, \"mov $1, %eax; .byte 0x62, 0x03\"\n" /* BOUND eax, [ebx] */
        IN32_END);

static uint8_t area[4096] __attribute__((aligned(64)));
static uint32_t leaf7[4], d5[4], d6[4], d7[4];

static void xsetbv(uint64_t v)
{
    __asm__ volatile("xsetbv" : : "c"(0), "a"((uint32_t)v), "d"(0));
}
static uint64_t in_use(void)
{
    uint32_t l, h;

    __asm__ volatile("xgetbv" : "=a"(l), "=d"(h) : "c"(1));
    return l;
}
static uint64_t word(unsigned at)
{
    return *(volatile uint64_t *)(area + at);
}
static void refused(uint64_t v, const char *text)
{
    TRY("xsetbv", : : "c"(0), "a"((uint32_t)v), "d"(0));
    check(trapped(13, 0), text);
}
static uint64_t k1(void)
{
    uint64_t v;

    __asm__ volatile("kmovq %%k1, %0" : "=r"(v));
    return v;
}
static void set_k1(uint64_t v)
{
    __asm__ volatile("kmovq %0, %%k1" : : "r"(v));
}

/* #UD without all of XCR0's bits, before #NM; BOUND has EVEX's first byte. */
static void switched(void)
{
    uint32_t r[4];

    refused(0x27, "XCR0 with bit 5 alone of 7:5");
    refused(0xc7, "without bit 5");
    refused(0x67, "without bit 7");
    refused(0xe3, "AVX-512 without AVX");
    refused(0xe1, "AVX-512 with x87 alone");
    xsetbv(LEGACY);
    TRY("vpxord %%zmm16, %%zmm16, %%zmm16", : :);
    check(trap.vector == 6, "EVEX without XCR0[7:5]: #UD");
    TRY("kxorw %%k1, %%k1, %%k1", : :);
    check(trap.vector == 6, "a mask instruction too");
    TRY("vxorps %%ymm1, %%ymm1, %%ymm1", : :);
    check(trap.vector == ~0ull, "AVX goes on");
    cpuid(0xd, 0, r);
    check(r[0] == ALL && r[1] == 832, "XCR0 may have %x; the area for AVX: %u", r[0], r[1]);
    xsetbv(ALL);
    cpuid(0xd, 0, r);
    check(r[1] == r[2] && r[1] == d7[0] + d7[1], "the area with AVX-512: %u of %u", r[1], r[2]);
    TRY("vpxord %%zmm16, %%zmm16, %%zmm16", : :);
    check(trap.vector == ~0ull, "EVEX");
    TRY("kxorw %%k1, %%k1, %%k1", : :);
    check(trap.vector == ~0ull, "a mask instruction");
    __asm__ volatile("mov %0, %%cr0" : : "r"(read_cr0() | TS));
    TRY("vpxord %%xmm1, %%xmm16, %%xmm16", : :);
    check(trap.vector == 7, "EVEX with CR0.TS: #NM");
    TRY("kmovw %%k1, %%eax", : : : "eax");
    check(trap.vector == 7, "a mask instruction with CR0.TS: #NM");
    __asm__ volatile("mov %0, %%cr0" : : "r"(read_cr0() & ~TS));
    TRY(".byte 0xf0; vpxord %%zmm1, %%zmm1, %%zmm1", : :);
    check(trap.vector == 6, "LOCK before EVEX: #UD");
    TRY(".byte 0x66; vpxord %%zmm1, %%zmm1, %%zmm1", : :);
    check(trap.vector == 6, "66 before EVEX: #UD");
}

static void state(void)
{
    unsigned zmm1 = d6[1] + 32, zmm17 = d7[1] + 64, k = d5[1] + 8;

    __asm__ volatile("vzeroall");
    for (unsigned i = 0; i < sizeof(area); i++)
        ((volatile uint8_t *)area)[i] = 0;
    __asm__ volatile("xrstor64 %0" : : "m"(area), "a"(0xe6), "d"(0) : "memory");
    check((in_use() & 0xe0) == 0, "nothing is in use (%X)", in_use());
    set_k1(0x1122334455667788);
    __asm__ volatile("vpbroadcastq %0, %%zmm1; vpbroadcastq %1, %%zmm17" : : "r"(0x77ull), "r"(0x88ull));
    check((in_use() & 0xe0) == 0xe0, "all is in use (%X)", in_use());
    __asm__ volatile("xsave64 %0" : "+m"(area) : "a"(-1), "d"(-1) : "memory");
    check((word(XSTATE_BV) & 0xe0) == 0xe0 && word(k) == 0x1122334455667788, "XSAVE: k1 %X", word(k));
    check(word(zmm1) == 0x77 && word(zmm1 + 24) == 0x77 && word(zmm1 + 32) == 0, "zmm1's upper half");
    check(word(zmm17) == 0x88 && word(zmm17 + 56) == 0x88 && word(zmm17 - 8) == 0, "zmm17");
    *(volatile uint64_t *)(area + zmm17) = 0x99;
    set_k1(5);
    __asm__ volatile("xrstor64 %0" : : "m"(area), "a"(0x80), "d"(0) : "memory");
    __asm__ volatile("vmovdqu64 %%zmm17, %0" : "=m"(area));
    check(word(0) == 0x99 && word(8) == 0x88 && k1() == 5, "XRSTOR of zmm16 to 31 leaves the masks");
    __asm__ volatile("vpbroadcastq %0, %%zmm1; vpaddq %%ymm1, %%ymm1, %%ymm1; vmovdqu64 %%zmm1, %1"
                     :
                     : "r"(1ull), "m"(area)
                     : "memory");
    check(word(24) == 2 && word(32) == 0, "VEX clears the upper half");
    xsetbv(LEGACY);
    *(volatile uint64_t *)(area + XSTATE_BV) = 0x80;
    TRY("xrstor64 %0", : : "m"(area), "a"(1), "d"(0) : "memory");
    check(trapped(13, 0), "XRSTOR: XSTATE_BV has AVX-512, XCR0 no more");
    xsetbv(ALL);
    check(k1() == 5, "the state is what it was");
    /* 13.4: the area ends with the last component that is asked for */
    TRY("xsave64 (%0)", : : "r"(END - 832), "a"(LEGACY), "d"(-1) : "memory");
    check(trap.vector == ~0ull, "XSAVE without AVX-512 in the mask: 832 bytes");
    TRY("xsave64 (%0)", : : "r"(END - 832), "a"(0x27), "d"(-1) : "memory");
    check(trap.vector == 14 && trap.cr2 >> 12 == END >> 12, "with the masks there is more (%X)", trap.cr2);
    TRY("xsave64 (%0)", : : "r"(END - d7[0] - d7[1]), "a"(-1), "d"(-1) : "memory");
    check(trap.vector == ~0ull, "all of it");
}

/* At the end of what is there. */
static void masked(void)
{
    volatile uint32_t *last = (volatile uint32_t *)(END - 16);
    uint32_t v;

    for (unsigned i = 0; i < 4; i++)
        last[i] = 0x11111111 * (i + 1);
    set_k1(0xf);
    TRY("vmovdqu32 (%0), %%zmm20%{%%k1%}%{z%}", : : "r"(last) : "memory");
    check(trap.vector == ~0ull, "a load of what is there (%X)", trap.cr2);
    __asm__ volatile("vpextrd $3, %%xmm2, %0" : "=r"(v));
    __asm__ volatile("vextracti32x4 $0, %%zmm20, %%xmm2; vpextrd $3, %%xmm2, %0" : "=r"(v));
    check(v == 0x44444444, "the fourth element: %x", v);
    TRY("vmovdqu32 (%0), %%zmm20", : : "r"(last) : "memory");
    check(trap.vector == 14 && trap.cr2 == END && trap.error == 0, "without a mask (%X)", trap.cr2);
    set_k1(0x10);
    TRY("vmovdqu32 (%0), %%zmm20%{%%k1%}", : : "r"(last) : "memory");
    check(trap.vector == 14 && trap.cr2 == END, "the fifth is not there (%X)", trap.cr2);
    set_k1(0xa);
    __asm__ volatile("vpternlogd $0xff, %%zmm3, %%zmm3, %%zmm3" : :);
    TRY("vmovdqu32 %%zmm3, (%0)%{%%k1%}", : : "r"(last) : "memory");
    check(trap.vector == ~0ull && last[0] == 0x11111111 && last[1] == ~0u && last[2] == 0x33333333 &&
              last[3] == ~0u,
          "a store of two elements");
    set_k1(0x11);
    TRY("vmovdqu32 %%zmm3, (%0)%{%%k1%}", : : "r"(last) : "memory");
    check(trap.vector == 14 && trap.error == 2 && last[0] == 0x11111111,
          "a store that faults stores nothing");
    set_k1(0);
    TRY("vaddps (%0)%{1to16%}, %%zmm3, %%zmm4%{%%k1%}", : : "r"(END) : "memory");
    check(trap.vector == ~0ull, "a broadcast to no element");
    set_k1(0x8421);
    TRY("vpcompressd %%zmm3, (%0)%{%%k1%}", : : "r"(last) : "memory");
    check(trap.vector == ~0ull && last[0] == ~0u && last[2] == ~0u, "VPCOMPRESSD of four elements");
    set_k1(0x3);
    TRY("vmovdqa32 %%zmm3, 4(%0)%{%%k1%}", : : "r"(last) : "memory");
    check(trapped(13, 0), "an aligned move that is not: #GP(0)");
}

/* Of 32-bit code through FS of 4 KiB; and EVEX's first byte is BOUND's. */
static void segment(void)
{
    static volatile int32_t bounds[2] = { 0, 2 };

    gdt[FS_SMALL / 8] = 0x0040930000000fff;
    __asm__ volatile("mov %w0, %%fs" : : "r"(FS_SMALL));
    *(volatile uint32_t *)0xffc = 0x12345678;
    trap_clear();
    value = 1;
    load32(0xffc);
    check(trap.vector == ~0ull && value == 0x12345678, "one element at the end of a segment: %x (%X %X)",
          value, trap.vector, trap.rip);
    value = 3;
    load32(0xffc);
    check(trapped(13, 0), "two: #GP(0)");
    trap_clear();
    all32(0xffc);
    check(trapped(13, 0), "all of it: #GP(0)");
    trap_clear();
    all32(0xfc0);
    check(trap.vector == ~0ull, "64 bytes up to the end");
    trap_clear();
    bound32((uint32_t)(uint64_t)bounds);
    check(trap.vector == ~0ull, "BOUND");
    bounds[1] = 0;
    bound32((uint32_t)(uint64_t)bounds);
    check(trap.vector == 5, "BOUND: #BR (%X)", trap.vector);
}

uint32_t kernel_main(void)
{
    uint32_t leaf1[4];

    traps_init();
    cpuid(1, 0, leaf1);
    cpuid(7, 0, leaf7);
    if (leaf1[2] & 1u << 26)
        __asm__ volatile("mov %0, %%cr4" : : "r"(read_cr4() | 0x600 | OSXSAVE));
    if (!(leaf7[1] & 1u << 16)) {
        TRY("vpxord %%zmm16, %%zmm16, %%zmm16", : :);
        check(trap.vector == 6, "no AVX-512");
        return failures ? 0x20 : 0x10;
    }
    cpuid(0xd, 5, d5);
    cpuid(0xd, 6, d6);
    cpuid(0xd, 7, d7);
    check(d5[0] == 64 && d6[0] == 512 && d7[0] == 1024, "sizes of the components");
    pd[END >> 21] &= ~1ull;
    __asm__ volatile("invlpg (%0)" : : "r"(END) : "memory");
    switched();
    state();
    masked();
    segment();
    return failures ? 0x20 : 0x10;
}
