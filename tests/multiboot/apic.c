/* Local APIC, IPIs, NMI and several CPUs: Intel SDM volume 3 (2023-12), chapter 11 and 6.7. */
#include "trap64.h"

#define APIC 0xfee00000u

static volatile uint32_t count[256], ap_ids, nmi_count;
static volatile uint32_t cpus_up;

static void on_irq(struct trap_frame *f)
{
    count[f->vector]++;
    wr32(APIC + 0xb0, 0);
}
static void on_x2(struct trap_frame *f)
{
    count[f->vector]++;
    wrmsr(0x80b, 0);
}
static void on_nmi(struct trap_frame *f)
{
    (void)f;
    nmi_count++;
}

static void restarted(void) __attribute__((noreturn));

void ap_main(uint32_t id)
{
    traps_load();
    if (!id)
        restarted();
    wr32(APIC + 0xf0, 0x1ff);
    __atomic_fetch_or(&ap_ids, 1u << id, __ATOMIC_SEQ_CST);
    __atomic_fetch_add(&cpus_up, 1, __ATOMIC_SEQ_CST);
    for (;;)
        __asm__ volatile("sti; hlt" : : : "memory");
}

static void spin(unsigned us)
{
    /* The ACPI timer would do as well; counter 2 is everywhere. */
    while (us) {
        unsigned part = us > 10000 ? 10000 : us, n = part * 1193 / 1000 + 1;

        outb(0x61, (uint8_t)((inb(0x61) & 0xfc) | 1));
        outb(0x43, 0xb0);
        outb(0x42, (uint8_t)n);
        outb(0x42, (uint8_t)(n >> 8));
        while (!(inb(0x61) & 0x20))
            ;
        us -= part;
    }
}

static bool wait_for(volatile uint32_t *v, uint32_t what)
{
    for (unsigned i = 0; i < 5000 && *v != what; i++)
        spin(1000);
    return *v == what;
}

static void start_cpus(void)
{
    wr32(APIC + 0x310, 0);
    wr32(APIC + 0x300, 0xc4500); /* INIT, all but self */
    spin(10000);
    wr32(APIC + 0x300, 0xc4608); /* SIPI 8 */
    spin(200);
    wr32(APIC + 0x300, 0xc4608);
    check(wait_for(&cpus_up, 3), "three more CPUs by INIT and SIPI (%u)", cpus_up);
    check(ap_ids == 0xe, "APIC ids 1, 2, 3");
}

static void ipis(void)
{
    irq_hook[0x70] = on_irq;
    wr32(APIC + 0x300, 0x44070); /* self */
    check(count[0x70] == 0, "IPI waits for IF");
    sti_nops();
    cli();
    check(count[0x70] == 1, "self IPI");
    count[0x70] = 0;
    wr32(APIC + 0x300, 0xc4070); /* all but self */
    check(wait_for(&count[0x70], 3), "IPI to all but self");
    count[0x70] = 0;
    wr32(APIC + 0x300, 0x84070); /* all */
    sti_nops();
    check(wait_for(&count[0x70], 4), "IPI to all");
    cli();
    count[0x70] = 0;
    wr32(APIC + 0x310, 2u << 24);
    wr32(APIC + 0x300, 0x4070);
    check(wait_for(&count[0x70], 1), "IPI to one");
    count[0x70] = 0;
    wr32(APIC + 0x310, 0xffu << 24);
    wr32(APIC + 0x300, 0x4070);
    sti_nops();
    check(wait_for(&count[0x70], 4), "IPI to physical 0xff");
    cli();
    count[0x70] = 0;
    wr32(APIC + 0xd0, 1u << 24);
    wr32(APIC + 0x310, 1u << 24);
    wr32(APIC + 0x300, 0x4870); /* logical */
    sti_nops();
    cli();
    check(count[0x70] == 1, "logical IPI to self");
    wr32(APIC + 0x80, 0x80);
    wr32(APIC + 0x300, 0x44070);
    sti_nops();
    cli();
    check(count[0x70] == 1, "held back by TPR");
    check(rd32(APIC + 0x200 + 0x30) & 1u << 16, "and in IRR");
    wr32(APIC + 0x80, 0);
    sti_nops();
    cli();
    check(count[0x70] == 2, "let go");
    wr32(APIC + 0x280, 0);
    wr32(APIC + 0x300, 0x44001); /* vector 1 */
    wr32(APIC + 0x280, 0);
    check(rd32(APIC + 0x280) & 0x60, "illegal vector: ESR %x", rd32(APIC + 0x280));
    wr32(APIC + 0x280, 0);
}

/* ---- NMI ---- */

static volatile uint32_t nmi_nested, nmi_depth;

static void nmi_self(void)
{
    wr32(APIC + 0x310, 0);
    wr32(APIC + 0x300, 0x4400);
}
static void on_nmi_twice(struct trap_frame *f)
{
    (void)f;
    nmi_count++;
    if (nmi_depth++)
        nmi_nested++;
    if (nmi_count == 1) {
        nmi_self();
        for (volatile unsigned i = 0; i < 10000; i++)
            ;
    }
    nmi_depth--;
}
static void on_nmi_twice_pending(struct trap_frame *f)
{
    (void)f;
    nmi_count++;
    if (nmi_count == 1) {
        nmi_self();
        nmi_self();
        for (volatile unsigned i = 0; i < 10000; i++)
            ;
    }
}
static volatile uint64_t nmi_rip;
static void on_nmi_rip(struct trap_frame *f)
{
    nmi_count++;
    nmi_rip = f->rip;
}

static void nmis(void)
{

    irq_hook[2] = on_nmi;
    nmi_self();
    for (volatile unsigned i = 0; i < 10000; i++)
        ;
    check(nmi_count == 1, "NMI to self");
    nmi_count = 0;
    irq_hook[2] = on_nmi_twice;
    nmi_self();
    for (volatile unsigned i = 0; i < 10000; i++)
        ;
    check(nmi_count == 2 && !nmi_nested, "an NMI in the handler waits for IRET (%u)", nmi_count);
    nmi_count = 0;
    irq_hook[2] = on_nmi_twice_pending;
    nmi_self();
    for (volatile unsigned i = 0; i < 10000; i++)
        ;
    check(nmi_count == 2, "one NMI waits, no more (%u)", nmi_count);
    nmi_count = 0;
    irq_hook[2] = on_nmi_rip;
    irq_hook[0x71] = on_irq;
    count[0x71] = 0;
    wr32(APIC + 0x300, 0x44071);
    __asm__ volatile("sti; movl $0x4400, (%0); nop; nop; cli" : : "r"(0xfee00300ull) : "memory");
    for (volatile unsigned i = 0; i < 10000; i++)
        ;
    check(nmi_count == 1 && count[0x71] == 1, "NMI and interrupt both come");
    nmi_count = 0;
    irq_hook[2] = on_nmi;
    wr32(APIC + 0x310, 1u << 24);
    wr32(APIC + 0x300, 0x4400); /* wakes a halted CPU */
    check(wait_for(&nmi_count, 1), "NMI to a halted CPU");
}

/* ---- where the APIC is ---- */

static void base(void)
{
    uint64_t old = rdmsr(0x1b);
    uint32_t r[4];

    check((old & 0xfffff900) == 0xfee00900, "APIC base: boot processor, on");
    TRY("wrmsr", : : "c"(0x1b), "a"((uint32_t)old | 1), "d"(0));
    check(trapped(13, 0), "APIC base: reserved low bits");
    TRY("wrmsr", : : "c"(0x1b), "a"((uint32_t)old), "d"(0x80000000));
    check(trapped(13, 0), "APIC base: beyond the physical address");
    TRY("wrmsr", : : "c"(0x1b), "a"(((uint32_t)old & ~0x800) | 0x400), "d"(0));
    check(trapped(13, 0), "APIC base: x2APIC without the APIC");
    wrmsr(0x1b, (old & ~0xfffff000ull) | 0x2000000);
    check((rd32(0x2000030) & 0xff) >= 0x10 && (rd32(0x2000030) & 0xff) <= 0x15, "APIC page moved (%x)",
          rd32(0x2000030));
    wrmsr(0x1b, old);
    *(volatile uint32_t *)0x2000030 = 0x12345678;
    check(rd32(0x2000030) == 0x12345678, "memory again where it was");
    check((rd32(APIC + 0x30) & 0xff) >= 0x10, "and back");
    wrmsr(0x1b, old & ~0x800ull);
    cpuid(1, 0, r);
    check(!(r[3] & 1u << 9), "APIC off: CPUID says so");
    wrmsr(0x1b, old);
    cpuid(1, 0, r);
    check(r[3] & 1u << 9, "APIC on again");
    check(!(rd32(APIC + 0xf0) & 0x100), "and off by software, as after reset");
    wr32(APIC + 0xf0, 0x1ff);
}

static void timer(void)
{
    uint32_t a, b;

    irq_hook[0x72] = on_irq;
    wr32(APIC + 0x3e0, 0xb);
    wr32(APIC + 0x320, 0x10072);
    wr32(APIC + 0x380, 0xffffffff);
    a = rd32(APIC + 0x390);
    spin(1000);
    b = rd32(APIC + 0x390);
    check(b < a && b, "count-down timer counts");
    wr32(APIC + 0x320, 0x72);
    wr32(APIC + 0x380, 100000);
    __asm__ volatile("sti" : : : "memory");
    check(wait_for(&count[0x72], 1), "one shot");
    cli();
    check(rd32(APIC + 0x390) == 0, "and stays at zero");
    wr32(APIC + 0x320, 0x20072);
    wr32(APIC + 0x380, 1000000);
    __asm__ volatile("sti" : : : "memory");
    spin(50000);
    cli();
    check(count[0x72] >= 4, "periodic (%u)", count[0x72]);
    wr32(APIC + 0x380, 0);
    /* 11.5.4: a change of mode while it counts */
    wr32(APIC + 0x320, 0x10072);
    wr32(APIC + 0x380, 100000000);
    spin(1000);
    a = rd32(APIC + 0x390);
    wr32(APIC + 0x320, 0x30072);
    b = rd32(APIC + 0x390);
    check(a > b || a == b || b == 0, "one shot to periodic goes on counting");
    wr32(APIC + 0x320, 0x10072);
    wr32(APIC + 0x380, 0);
}

/* Counts in a while, divided by how long it was; the host may take the CPU away at any time. */
static uint64_t rate(unsigned code)
{
    uint64_t best = 0, least = ~0ull;

    wr32(APIC + 0x3e0, code);
    for (unsigned i = 0; i < 20; i++) {
        uint64_t start, end;
        uint32_t left;

        wr32(APIC + 0x380, 0xffffffff);
        start = rdtsc();
        while (rdtsc() - start < 1000000)
            ;
        left = rd32(APIC + 0x390);
        end = rdtsc();
        if (end - start < least) {
            least = end - start;
            best = ((uint64_t)(0xffffffff - left) << 20) / least;
        }
    }
    return best;
}

/* Figure 11-10: divide configuration; 11.5.4: what changes of mode and count do */
static void timer_rules(void)
{
    static const uint8_t codes[] = { 0xb, 0, 1, 2, 3, 8, 9, 0xa };
    uint64_t whole = 0;
    uint32_t a, b;

    wr32(APIC + 0x320, 0x10072);
    for (unsigned i = 0; i < 8; i++) {
        uint64_t r = rate(codes[i]) << i;

        if (!i)
            whole = r;
        check(rd32(APIC + 0x3e0) == codes[i] && r > whole - whole / 8 && r < whole + whole / 8,
              "divided by %u", 1u << i);
    }
    wr32(APIC + 0x3e0, 0xa);
    wr32(APIC + 0x320, 0x30072);
    wr32(APIC + 0x380, 100000000);
    a = rd32(APIC + 0x390);
    wr32(APIC + 0x320, 0x10072);
    b = rd32(APIC + 0x390);
    check(a && b && b <= a && rd32(APIC + 0x380) == 100000000, "periodic to one shot goes on counting");
    wr32(APIC + 0x380, 0);
    check(rd32(APIC + 0x390) == 0, "an initial count of 0 stops it");
    wr32(APIC + 0x3e0, 0xb);
    wr32(APIC + 0x380, 1000);
    spin(1000);
    check(rd32(APIC + 0x390) == 0 && rd32(APIC + 0x380) == 1000, "one shot is over");
    wr32(APIC + 0x320, 0x30072);
    spin(1000);
    check(rd32(APIC + 0x390) == 0, "and does not begin anew in periodic mode");
    wr32(APIC + 0x320, 0x10072);
    sti_nops(); /* what came before */
    cli();
    count[0x72] = 0;
    wr32(APIC + 0x380, 1000);
    spin(1000);
    sti_nops();
    cli();
    check(count[0x72] == 0, "masked: no interrupt");
    wr32(APIC + 0x320, 0x72);
    sti_nops();
    cli();
    check(count[0x72] == 0, "nor when the mask is taken away");
}

static void deadline(void)
{
    uint32_t r[4];
    uint64_t t;

    cpuid(1, 0, r);
    if (!(r[2] & 1u << 24)) {
        print("no TSC deadline\n");
        return;
    }
    irq_hook[0x73] = on_irq;
    wr32(APIC + 0x320, 0x40073);
    wrmsr(0x6e0, rdtsc() + 1000000);
    __asm__ volatile("sti" : : : "memory");
    check(wait_for(&count[0x73], 1), "TSC deadline");
    cli();
    check(rdmsr(0x6e0) == 0, "and is zero then");
    wrmsr(0x6e0, 1); /* past */
    sti_nops();
    __asm__ volatile("sti" : : : "memory");
    check(wait_for(&count[0x73], 2), "a deadline that has passed");
    cli();
    t = rdtsc() + 100000000000ull;
    wrmsr(0x6e0, t);
    check(rdmsr(0x6e0) == t, "reads back");
    wr32(APIC + 0x380, 1000);
    check(rd32(APIC + 0x380) == 0 && rd32(APIC + 0x390) == 0, "no counts in this mode");
    cpuid(7, 0, r);
    if (r[1] & 2) { /* 18.17.3: the deadline is one of the TSC as software sees it */
        wrmsr(0x3b, rdmsr(0x3b) + 200000000000ull);
        __asm__ volatile("sti" : : : "memory");
        check(wait_for(&count[0x73], 3), "a TSC moved past the deadline");
        cli();
        check(rdmsr(0x6e0) == 0, "which is over");
        wrmsr(0x3b, rdmsr(0x3b) - 200000000000ull);
    }
    wrmsr(0x6e0, 0);
    wr32(APIC + 0x320, 0x10073);
    wrmsr(0x6e0, t);
    wr32(APIC + 0x320, 0x72);
    check(rdmsr(0x6e0) == 0, "zero in another mode");
}

static void x2apic(void)
{
    uint32_t r[4];

    cpuid(1, 0, r);
    TRY("rdmsr", : : "c"(0x802) : "eax", "edx");
    check(trapped(13, 0), "x2APIC registers in xAPIC mode: #GP");
    if (!(r[2] & 1u << 21)) {
        print("no x2APIC\n");
        return;
    }
    wrmsr(0x1b, rdmsr(0x1b) | 0x400);
    check(rdmsr(0x802) == 0 && rdmsr(0x80d) == 1, "x2APIC: id and logical id");
    irq_hook[0x74] = on_x2;
    wrmsr(0x83f, 0x74);
    sti_nops();
    cli();
    check(count[0x74] == 1, "self IPI register");
    TRY("wrmsr", : : "c"(0x80b), "a"(1), "d"(0));
    check(trapped(13, 0), "x2APIC: EOI takes zero only");
    TRY("wrmsr", : : "c"(0x802), "a"(1), "d"(0));
    check(trapped(13, 0), "x2APIC: id is read only");
    TRY("rdmsr", : : "c"(0x80e) : "eax", "edx");
    check(trapped(13, 0), "x2APIC: no DFR");
    TRY("rdmsr", : : "c"(0x831) : "eax", "edx");
    check(trapped(13, 0), "x2APIC: no ICR2");
    TRY("wrmsr", : : "c"(0x1b), "a"(0xfee00900), "d"(0));
    check(trapped(13, 0), "x2APIC to xAPIC in one step: #GP");
    wrmsr(0x1b, 0xfee00100);
    TRY("wrmsr", : : "c"(0x1b), "a"(0xfee00d00), "d"(0));
    check(trapped(13, 0), "off to x2APIC in one step: #GP");
    wrmsr(0x1b, 0xfee00900);
    wr32(APIC + 0xf0, 0x1ff);
}

/* ---- INIT of the boot processor ---- */

static uint64_t tsc_before;
static uint32_t others_before;

/* It goes on at the reset vector (9.4; 11.4.7.3 for its APIC). As on any PC the firmware there looks at the
 * CMOS's shutdown byte, and 0x0a means to go on at the address in 40:67: where the other processors begin. */
static void init_self(void)
{
    outb(0x70, 0x0f);
    outb(0x71, 0x0a);
    *(volatile uint32_t *)0x467 = 0x800u << 16;
    wr32(APIC + 0x320, 0x10072);
    wr32(APIC + 0x80, 0x20);
    __asm__ volatile("mov %0, %%dr0; mov %1, %%dr7" : : "r"(0x1234ull), "r"(0x2ull));
    tsc_before = rdtsc();
    others_before = cpus_up;
    wr32(APIC + 0x310, 0);
    wr32(APIC + 0x300, 0x4500);
    for (;;)
        __asm__ volatile("pause");
}

static void restarted(void)
{
    uint64_t dr0, dr7;

    __asm__ volatile("mov %%dr0, %0; mov %%dr7, %1" : "=r"(dr0), "=r"(dr7));
    check(cpus_up == others_before,
          "INIT of the boot processor: begins at the reset vector, waits for no message");
    check(dr0 == 0 && dr7 == 0x400, "debug registers are reset");
    check(rdtsc() > tsc_before, "the TSC goes on");
    check((rdmsr(0x1b) & 0xfffff900) == 0xfee00900, "APIC base is what it was");
    check(rd32(APIC + 0xf0) == 0xff && rd32(APIC + 0x80) == 0 && rd32(APIC + 0x320) == 0x10000,
          "the APIC is reset (%x %x %x)", rd32(APIC + 0xf0), rd32(APIC + 0x80), rd32(APIC + 0x320));
    outb(0x70, 0x0f);
    check(inb(0x71) == 0, "the shutdown byte was for once");
    finish(failures ? 0x20 : 0x10);
}

uint32_t kernel_main(void)
{
    traps_init();
    wr32(APIC + 0xf0, 0x1ff);
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
    base();
    start_cpus();
    ipis();
    nmis();
    timer();
    timer_rules();
    deadline();
    x2apic();
    init_self();
    return 0x20; /* not reached */
}
