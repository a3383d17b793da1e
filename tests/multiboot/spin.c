/* How a CPU waits, by the command line: "long" in one PAUSE loop at CPL 0, "short" in many with work in
 * between, "user" in one at CPL 3. How often the engine puts the CPU to sleep meanwhile is run.py's to judge;
 * here, that time goes on, that the flags stand, and that an interrupt reaches a CPU that spins with
 * interrupts open. */
#include "trap64.h"

#define APIC 0xfee00000u
#define VECTOR 0x60
#define LONG 400000000ull /* ticks of the TSC: at least 80 ms on any host */
#define WORK 100000ull

extern uint32_t boot_ebx;
static volatile uint32_t up, heard, leave;

static void on_irq(struct trap_frame *f)
{
    (void)f;
    heard++;
    wr32(APIC + 0xb0, 0);
}

/* Spins with interrupts open until it has heard one. */
void ap_main(uint32_t n)
{
    (void)n;
    traps_load();
    wr32(APIC + 0xf0, 0x1ff);
    up = 1;
    __asm__ volatile("sti" : : : "memory");
    while (!heard)
        __asm__ volatile("pause");
    leave = 1;
    for (;;)
        __asm__ volatile("cli; hlt" : : : "memory");
}

static void spin(void)
{
    uint64_t start = rdtsc();

    while (rdtsc() - start < LONG)
        __asm__ volatile("pause");
}

static void wait_for(const volatile uint32_t *flag, const char *what)
{
    for (uint64_t start = rdtsc(); !*flag && rdtsc() - start < 100 * LONG;)
        __asm__ volatile("pause");
    check(*flag, "%s", what);
}

static void spins_long(void)
{
    irq_hook[VECTOR] = on_irq;
    wr32(APIC + 0xf0, 0x1ff);
    wr32(APIC + 0x300, 0xc4500);
    spin();
    wr32(APIC + 0x300, 0xc4608);
    wait_for(&up, "the other CPU has started");
    spin();
    wr32(APIC + 0x310, 1u << 24);
    wr32(APIC + 0x300, 0x4000 | VECTOR);
    wait_for(&leave, "an interrupt reaches a CPU that spins");
}

/* Each far from long enough; all together long. */
static void spins_short(void)
{
    for (unsigned i = 0; i < 2000; i++) {
        for (unsigned k = 0; k < 40; k++)
            __asm__ volatile("pause");
        for (uint64_t start = rdtsc(); rdtsc() - start < WORK;)
            ;
    }
    check(true, "short waits");
}

/* CF and ZF differ from what the counting of PAUSEs leaves. */
static void flags_stand(void)
{
    uint64_t bad = 0;

    for (unsigned i = 0; i < 200; i++) {
        uint64_t got;

        __asm__ volatile("cmp %%eax, %%eax; stc; pause; pushfq; pop %0" : "=r"(got) : : "cc", "memory");
        bad += (got & 0x41) != 0x41;
    }
    check(!bad, "flags over PAUSE (%u times not)", (uint32_t)bad);
}

/* Whether the command line ends so. */
static bool is_asked(const char *mode, uint32_t len)
{
    const uint32_t *info = (const uint32_t *)(uintptr_t)boot_ebx;
    const char *line = (const char *)(uintptr_t)info[4];
    uint32_t n = 0;

    while (line[n])
        n++;
    if (n < len)
        return false;
    for (uint32_t i = 0; i < len; i++) {
        if (line[n - len + i] != mode[i])
            return false;
    }
    return true;
}

uint32_t kernel_main(void)
{
    traps_init();
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
    flags_stand();
    if (is_asked("long", 4)) {
        spins_long();
    } else if (is_asked("short", 5)) {
        spins_short();
    } else {
        run_user(spin);
        check(trap.vector == ~0ull, "back from CPL 3");
    }
    return failures ? 0x20 : 0x10;
}
