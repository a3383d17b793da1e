/* Features that CPUID offers, by their manual sections: XSAVE and XCR0 (Intel SDM volume 1 (2023-12), chapter
 * 13; volume 2, XGETBV, XSETBV, XRSTOR), UMIP (volume 3, 2.5; volume 2, SGDT, SIDT, SLDT, STR, SMSW), the TSC
 * and IA32_TSC_ADJUST (volume 3, 18.17.3). */
#include "trap64.h"

extern uint64_t pd[];

#define OSXSAVE (1ull << 18)
#define UMIP (1ull << 11)
#define X87 1u
#define SSE 2u
#define AVX 4u
#define AREA 832
#define XSTATE_BV 512
#define XCOMP_BV 520
#define MXCSR 24

static uint8_t area[2 * AREA] __attribute__((aligned(64)));
static uint32_t leaf1[4], leaf7[4], leafd1[4];

static void write_cr4(uint64_t v)
{
    __asm__ volatile("mov %0, %%cr4" : : "r"(v) : "memory");
}
static void write_cr0(uint64_t v)
{
    __asm__ volatile("mov %0, %%cr0" : : "r"(v) : "memory");
}
static uint64_t xgetbv(uint32_t n)
{
    uint32_t l, h;

    __asm__ volatile("xgetbv" : "=a"(l), "=d"(h) : "c"(n));
    return (uint64_t)h << 32 | l;
}
static void xsetbv(uint64_t v)
{
    __asm__ volatile("xsetbv" : : "c"(0), "a"((uint32_t)v), "d"((uint32_t)(v >> 32)));
}
static uint64_t word(unsigned at)
{
    return *(volatile uint64_t *)(area + at);
}
static void set_word(unsigned at, uint64_t v)
{
    *(volatile uint64_t *)(area + at) = v;
}
static void clear(uint8_t with)
{
    for (unsigned i = 0; i < sizeof(area); i++)
        ((volatile uint8_t *)area)[i] = with;
}
static void xsave(uint32_t mask)
{
    __asm__ volatile("xsave64 %0" : "+m"(area) : "a"(mask), "d"(0) : "memory");
}
static void xrstor(uint32_t mask)
{
    __asm__ volatile("xrstor64 %0" : : "m"(area), "a"(mask), "d"(0) : "memory");
}
#define XRSTOR_FAULTS(mask, text)                                                                            \
    do {                                                                                                     \
        TRY("xrstor64 %0", : : "m"(area), "a"(mask), "d"(0) : "memory");                                     \
        check(trapped(13, 0), text);                                                                         \
    } while (0)
#define XSETBV_FAULTS(n, low, high, text)                                                                    \
    do {                                                                                                     \
        TRY("xsetbv", : : "c"(n), "a"(low), "d"(high));                                                      \
        check(trapped(13, 0), text);                                                                         \
    } while (0)

static void set_xmm0(uint64_t v)
{
    __asm__ volatile("movq %0, %%xmm0" : : "r"(v));
}
static uint64_t xmm0(void)
{
    uint64_t v;

    __asm__ volatile("movq %%xmm0, %0" : "=r"(v));
    return v;
}
static void set_ymm0_high(uint64_t v)
{
    __asm__ volatile("vmovq %0, %%xmm1; vinsertf128 $1, %%xmm1, %%ymm0, %%ymm0" : : "r"(v));
}
static uint64_t ymm0_high(void)
{
    uint64_t v;

    __asm__ volatile("vextractf128 $1, %%ymm0, %%xmm1; vmovq %%xmm1, %0" : "=r"(v));
    return v;
}

/* 13.3, 13.5.3; volume 2: XSETBV, XGETBV */
static void xcr0(void)
{
    uint32_t r[4];

    write_cr4(read_cr4() & ~OSXSAVE);
    cpuid(1, 0, r);
    check(!(r[2] & 1u << 27), "without CR4.OSXSAVE CPUID.OSXSAVE is clear");
    TRY("xgetbv", : : "c"(0) : "eax", "edx");
    check(trap.vector == 6, "and XGETBV is #UD");
    TRY("xsetbv", : : "c"(0), "a"(1), "d"(0));
    check(trap.vector == 6, "XSETBV");
    TRY("xsave64 %0", : "+m"(area) : "a"(1), "d"(0));
    check(trap.vector == 6, "XSAVE");
    TRY("xrstor64 %0", : "+m"(area) : "a"(1), "d"(0));
    check(trap.vector == 6, "XRSTOR");
    write_cr4(read_cr4() | OSXSAVE);
    cpuid(1, 0, r);
    check(r[2] & 1u << 27, "with it CPUID says so");
    check(xgetbv(0) == X87, "XCR0 is 1 after reset");
    cpuid(0xd, 0, r);
    check(r[1] == 576, "the area for x87 alone: %u", r[1]);
    XSETBV_FAULTS(0, 0, 0, "XCR0 without x87");
    XSETBV_FAULTS(0, SSE, 0, "XCR0 of SSE alone");
    XSETBV_FAULTS(0, X87 | AVX, 0, "XCR0 with AVX and without SSE");
    XSETBV_FAULTS(0, 1u << 31 | X87, 0, "XCR0: a bit that CPUID does not offer");
    XSETBV_FAULTS(0, X87, 1u << 31, "XCR0: bit 63");
    XSETBV_FAULTS(1, X87, 0, "XSETBV of register 1");
    XSETBV_FAULTS(0x80000000, X87, 0, "XSETBV of register 0x80000000");
    check(xgetbv(0) == X87, "nothing has changed");
    TRY("xgetbv", : : "c"(2) : "eax", "edx");
    check(trapped(13, 0), "XGETBV of register 2");
    TRY("vxorps %%ymm0, %%ymm0, %%ymm0", : :);
    check(trap.vector == 6, "AVX without its bit in XCR0");
    xsetbv(X87 | SSE);
    TRY("vxorps %%xmm0, %%xmm0, %%xmm0", : :);
    check(trap.vector == 6, "nor with SSE's alone");
    xsetbv(X87 | SSE | AVX);
    cpuid(0xd, 0, r);
    check(r[1] == AREA && r[2] >= AREA, "the area with AVX: %u of %u", r[1], r[2]);
    TRY("vxorps %%ymm0, %%ymm0, %%ymm0", : :);
    check(trap.vector == ~0ull, "AVX");
}

static void user_xsetbv(void)
{
    __asm__ volatile("xsetbv" : : "c"(0), "a"(7), "d"(0));
}
static void user_xgetbv(void)
{
    __asm__ volatile("xgetbv" : : "c"(0) : "eax", "edx");
}

static void levels(void)
{
    trap_clear();
    run_user(user_xsetbv);
    check(trapped(13, 0), "XSETBV at level 3");
    trap_clear();
    run_user(user_xgetbv);
    check(trap.vector == ~0ull, "XGETBV at level 3");
    write_cr0(read_cr0() | 8);
    TRY("xsave64 %0", : "+m"(area) : "a"(1), "d"(0));
    check(trap.vector == 7, "XSAVE with CR0.TS: #NM");
    TRY("xrstor64 %0", : "+m"(area) : "a"(1), "d"(0));
    check(trap.vector == 7, "XRSTOR with CR0.TS: #NM");
    TRY("xgetbv", : : "c"(0) : "eax", "edx");
    check(trap.vector == ~0ull, "XGETBV does not mind");
    write_cr0(read_cr0() & ~8ull);
    TRY("xsave64 1+%0", : "+m"(area) : "a"(1), "d"(0));
    check(trapped(13, 0), "XSAVE to an area that is not aligned to 64 bytes");
    TRY(".byte 0xf0; xsave64 %0", : "+m"(area) : "a"(1), "d"(0));
    check(trap.vector == 6, "LOCK XSAVE");
    TRY(".byte 0x48, 0x0f, 0xc7, 0x20", : : "a"(area), "d"(0) : "memory"); /* xsavec64 (%rax) */
    check(leafd1[0] & 2 ? trap.vector == ~0ull : trap.vector == 6, "XSAVEC as CPUID says");
    TRY(".byte 0x48, 0x0f, 0xc7, 0x28", : : "a"(area), "d"(0) : "memory"); /* xsaves64 */
    check(leafd1[0] & 8 ? trap.vector == ~0ull : trap.vector == 6, "XSAVES as CPUID says");
    TRY(".byte 0x48, 0x0f, 0xc7, 0x18", : : "a"(area), "d"(0) : "memory"); /* xrstors64 */
    check(leafd1[0] & 8 ? true : trap.vector == 6, "XRSTORS as CPUID says");
}

/* 13.7: what XSAVE writes, and what it leaves */
static void save(void)
{
    __asm__ volatile("fninit; fldpi");
    set_xmm0(0x1111222233334444);
    set_ymm0_high(0x5555666677778888);
    clear(0xaa);
    set_word(XSTATE_BV, 0);
    xsave(SSE);
    check(word(160) == 0x1111222233334444, "XSAVE of SSE: XMM0");
    check(word(0) == 0xaaaaaaaaaaaaaaaa && word(576) == 0xaaaaaaaaaaaaaaaa, "leaves x87 and AVX");
    check(*(uint32_t *)(area + MXCSR) == 0x1f80, "has MXCSR");
    check(word(XSTATE_BV) == SSE, "XSTATE_BV: %X", word(XSTATE_BV));
    check(word(XCOMP_BV) == 0xaaaaaaaaaaaaaaaa, "the rest of the header stays");
    set_word(XSTATE_BV, 1ull << 62 | X87);
    xsave(AVX);
    check(word(576) == 0x5555666677778888 && word(XSTATE_BV) == (1ull << 62 | X87 | AVX),
          "XSAVE of AVX: other bits of XSTATE_BV stay (%X)", word(XSTATE_BV));
    xsave(0xffffffff);
    check((word(XSTATE_BV) & 0xff) == 7, "a mask beyond XCR0 counts as far as XCR0");
    __asm__ volatile("vzeroall");
    set_word(XSTATE_BV, 0);
    clear(0x55);
    set_word(XSTATE_BV, 0);
    if (leafd1[0] & 1) { /* 13.9: XSAVEOPT may leave out what is in its initial state or has not changed */
        set_xmm0(0x123456789abcdef);
        __asm__ volatile("xsaveopt64 %0" : "+m"(area) : "a"(7), "d"(0) : "memory");
        check(word(160) == 0x123456789abcdef && (word(XSTATE_BV) & SSE), "XSAVEOPT");
    }
    if (leafd1[0] & 4) {
        __asm__ volatile("vzeroall");
        set_ymm0_high(1);
        check((xgetbv(1) & ~7ull) == 0 && (xgetbv(1) & AVX), "XGETBV of register 1: what is in use (%X)",
              xgetbv(1));
    }
}

/* 13.8.1: what XRSTOR loads, initialises, leaves; and what it refuses */
static void restore(void)
{
    clear(0);
    set_xmm0(0x1111);
    set_ymm0_high(0x2222);
    *(uint32_t *)(area + MXCSR) = 0x1f80;
    xsave(7);
    set_xmm0(0x3333);
    set_ymm0_high(0x4444);
    xrstor(SSE);
    check(xmm0() == 0x1111 && ymm0_high() == 0x4444, "XRSTOR of SSE leaves AVX");
    set_xmm0(0x3333);
    xrstor(AVX);
    check(xmm0() == 0x3333 && ymm0_high() == 0x2222, "XRSTOR of AVX leaves SSE");
    set_word(XSTATE_BV, SSE);
    xrstor(7);
    check(xmm0() == 0x1111 && ymm0_high() == 0, "a clear bit in XSTATE_BV: the initial state");
    set_word(XSTATE_BV, 0);
    *(uint32_t *)(area + MXCSR) = 0x1fa0;
    xrstor(SSE);
    {
        uint32_t v;

        __asm__ volatile("stmxcsr %0" : "=m"(v));
        check(xmm0() == 0 && v == 0x1fa0, "MXCSR is loaded all the same (%x)", v);
    }
    *(uint32_t *)(area + MXCSR) = 0x1f80;
    set_xmm0(0x77);
    xrstor(0);
    check(xmm0() == 0x77, "a mask of zero does nothing");
    *(uint32_t *)(area + MXCSR) = 0x10000;
    XRSTOR_FAULTS(SSE, "XRSTOR: reserved bit of MXCSR");
    XRSTOR_FAULTS(AVX, "with AVX too");
    xrstor(X87);
    check(xmm0() == 0x77, "not with x87");
    *(uint32_t *)(area + MXCSR) = 0x1f80;
    set_word(XSTATE_BV, 1ull << 9);
    XRSTOR_FAULTS(X87, "XRSTOR: XSTATE_BV beyond XCR0");
    set_word(XSTATE_BV, 1ull << 63);
    XRSTOR_FAULTS(X87, "XRSTOR: bit 63 of XSTATE_BV");
    set_word(XSTATE_BV, 7);
    set_word(XCOMP_BV, 1);
    XRSTOR_FAULTS(X87, "XRSTOR: XCOMP_BV in the standard form");
    if (!(leafd1[0] & 2)) {
        set_word(XCOMP_BV, 1ull << 63 | 7);
        XRSTOR_FAULTS(X87, "XRSTOR: compacted form without XSAVEC");
    }
    set_word(XCOMP_BV, 0);
    set_word(XCOMP_BV + 8, 1);
    XRSTOR_FAULTS(X87, "XRSTOR: bytes 16 to 23 of the header");
    set_word(XCOMP_BV + 8, 0);
    set_word(XCOMP_BV + 16, 1);
    TRY("xrstor64 %0", : : "m"(area), "a"(X87), "d"(0) : "memory");
    check(trap.vector == ~0ull, "the rest of the header is not looked at");
    set_word(XCOMP_BV + 16, 0);
    TRY("xrstor64 8+%0", : : "m"(area), "a"(X87), "d"(0) : "memory");
    check(trapped(13, 0), "XRSTOR from an area that is not aligned to 64 bytes");
    xsetbv(X87 | SSE);
    set_word(XSTATE_BV, 7);
    XRSTOR_FAULTS(X87, "XRSTOR: XSTATE_BV has AVX, XCR0 no more");
    xsetbv(7);
    check(ymm0_high() == 0, "AVX state is what it was");
}

/* 13.4: how long the area is, against a page that is not there */
static void length(void)
{
    const uint32_t end = 0x2200000, size = 576;

    pd[end >> 21] &= ~1ull;
    __asm__ volatile("invlpg (%0)" : : "r"((uint64_t)end) : "memory");
    for (unsigned i = 0; i < size; i += 8)
        *(volatile uint64_t *)(uint64_t)(end - size + i) = 0;
    xsetbv(X87 | SSE);
    TRY("xsave64 (%0)", : : "r"((uint64_t)(end - size)), "a"(-1), "d"(-1) : "memory");
    check(trap.vector == ~0ull, "XSAVE without AVX in XCR0 is done with 576 bytes (%X %X)", trap.vector,
          trap.cr2);
    TRY("xrstor64 (%0)", : : "r"((uint64_t)(end - size)), "a"(-1), "d"(-1) : "memory");
    check(trap.vector == ~0ull, "so is XRSTOR");
    xsetbv(X87 | SSE | AVX);
    set_ymm0_high(1);
    TRY("xsave64 (%0)", : : "r"((uint64_t)(end - size)), "a"(-1), "d"(-1) : "memory");
    check(trap.vector == 14 && trap.cr2 >> 12 == end >> 12 && trap.error == 2,
          "with AVX the rest is not there (%X %X)", trap.error, trap.cr2);
    TRY("xsave64 (%0)", : : "r"((uint64_t)(end - size)), "a"(X87 | SSE), "d"(-1) : "memory");
    check(trap.vector == ~0ull, "nor is it looked at without AVX in the mask");
    TRY("xrstor64 (%0)", : : "r"((uint64_t)(end - size)), "a"(X87 | SSE), "d"(-1) : "memory");
    check(trap.vector == ~0ull, "by XRSTOR too");
    TRY("xsave64 (%0)", : : "r"((uint64_t)(end - AREA)), "a"(-1), "d"(-1) : "memory");
    check(trap.vector == ~0ull, "832 bytes are enough");
    pd[end >> 21] |= 1;
}

/* ---- UMIP ---- */

static uint8_t table[16];

static void user_sgdt(void)
{
    __asm__ volatile("sgdt %0" : "=m"(table));
}
static void user_sidt(void)
{
    __asm__ volatile("sidt %0" : "=m"(table));
}
static void user_sldt(void)
{
    uint32_t v;

    __asm__ volatile("sldt %0" : "=r"(v));
}
static void user_str(void)
{
    uint16_t v;

    __asm__ volatile("str %0" : "=m"(v));
}
static void user_smsw(void)
{
    uint32_t v;

    __asm__ volatile("smsw %0" : "=r"(v));
}
static void user_lgdt(void)
{
    __asm__ volatile("lgdt %0" : : "m"(table));
}
static void user_sgdt_nowhere(void)
{
    __asm__ volatile("sgdt (%0)" : : "r"(0x600000000000ull) : "memory");
}

static void umip(void)
{
    static void (*const all[])(void) = { user_sgdt, user_sidt, user_sldt, user_str, user_smsw };
    static const char *const names[] = { "SGDT", "SIDT", "SLDT", "STR", "SMSW" };

    for (unsigned on = 0; on < 2; on++) {
        if (on && !(leaf7[2] & 1u << 2)) {
            TRY("mov %0, %%cr4", : : "r"(read_cr4() | UMIP));
            check(trapped(13, 0), "CR4.UMIP where CPUID does not offer it");
            return;
        }
        write_cr4(on ? read_cr4() | UMIP : read_cr4() & ~UMIP);
        for (unsigned i = 0; i < 5; i++) {
            trap_clear();
            run_user(all[i]);
            check(on ? trapped(13, 0) : trap.vector == ~0ull,
                  on ? "%s at level 3 with UMIP: #GP" : "%s at level 3", names[i]);
            trap_clear();
            all[i]();
            check(trap.vector == ~0ull, "%s at level 0", names[i]);
        }
        trap_clear();
        run_user(user_sgdt_nowhere);
        check(on ? trapped(13, 0) : trap.vector == 14, "SGDT to a page that is not there, level 3");
    }
    write_cr4(read_cr4() & ~UMIP);
    trap_clear();
    run_user(user_lgdt);
    check(trapped(13, 0), "LGDT at level 3");
}

/* ---- the TSC ---- */

#define TSC 0x10
#define TSC_ADJUST 0x3b
#define MUCH 1000000000000ull /* minutes */

static void tsc_adjust(void)
{
    uint64_t before, offset;

    if (!(leaf7[1] & 2)) {
        TRY("rdmsr", : : "c"(TSC_ADJUST) : "eax", "edx");
        check(trapped(13, 0), "no TSC_ADJUST");
        return;
    }
    offset = rdmsr(TSC_ADJUST);
    before = rdtsc();
    wrmsr(TSC_ADJUST, offset + MUCH);
    check(rdmsr(TSC_ADJUST) == offset + MUCH, "TSC_ADJUST reads back");
    check(rdtsc() - before >= MUCH && rdtsc() - before < 2 * MUCH, "and the TSC has moved by as much");
    wrmsr(TSC_ADJUST, offset);
    check(rdtsc() - before < MUCH, "and back");
    before = rdtsc();
    wrmsr(TSC, before + MUCH);
    check(rdmsr(TSC_ADJUST) - offset <= MUCH && rdmsr(TSC_ADJUST) - offset > MUCH / 2,
          "a write to the TSC shows in TSC_ADJUST (%X)", rdmsr(TSC_ADJUST) - offset);
    wrmsr(TSC_ADJUST, offset);
    check(rdtsc() - before < MUCH, "which takes it back");
    wrmsr(TSC, 0);
    check(rdtsc() < MUCH, "a TSC of 0");
    check(rdmsr(TSC) < MUCH, "also as an MSR");
}

uint32_t kernel_main(void)
{
    traps_init();
    cpuid(1, 0, leaf1);
    cpuid(7, 0, leaf7);
    cpuid(0xd, 1, leafd1);
    write_cr4(read_cr4() | 0x600); /* OSFXSR, OSXMMEXCPT */
    if (leaf1[2] & 1u << 26) {
        xcr0();
        levels();
        save();
        restore();
        length();
    } else {
        TRY("xgetbv", : : "c"(0) : "eax", "edx");
        check(trap.vector == 6, "no XSAVE");
    }
    umip();
    tsc_adjust();
    return failures ? 0x20 : 0x10;
}
