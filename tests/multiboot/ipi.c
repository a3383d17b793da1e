/* Where an IPI arrives, on four CPUs: Intel SDM volume 3 (2023-12), 11.6.2 (destinations: physical, flat,
 * cluster), 11.6.2.4 (lowest priority), 11.12.9 and 11.12.10 (x2APIC). */
#include "trap64.h"

#define APIC 0xfee00000u
#define CPUS 4
#define SET_UP 0x60
#define HIT 0x61
#define X2APIC 0x62
#define FIXED 0u
#define LOWEST 0x100u
#define LOGICAL 0x800u
#define ALL 0x80000u
#define OTHERS 0xc0000u

static volatile uint32_t up, set_up, hits, hit_mask, format, logical[CPUS];

static bool is_x2(void)
{
    return rdmsr(0x1b) & 0x400;
}
static uint32_t id(void)
{
    return is_x2() ? (uint32_t)rdmsr(0x802) : rd32(APIC + 0x20) >> 24;
}
static void end_of_interrupt(void)
{
    if (is_x2())
        wrmsr(0x80b, 0);
    else
        wr32(APIC + 0xb0, 0);
}
static void on_set_up(struct trap_frame *f)
{
    (void)f;
    wr32(APIC + 0xe0, format);
    wr32(APIC + 0xd0, logical[id()] << 24);
    __atomic_fetch_add(&set_up, 1, __ATOMIC_SEQ_CST);
    end_of_interrupt();
}
static void on_hit(struct trap_frame *f)
{
    (void)f;
    __atomic_fetch_or(&hit_mask, 1u << id(), __ATOMIC_SEQ_CST);
    __atomic_fetch_add(&hits, 1, __ATOMIC_SEQ_CST);
    end_of_interrupt();
}
static void on_x2apic(struct trap_frame *f)
{
    (void)f;
    end_of_interrupt();
    wrmsr(0x1b, rdmsr(0x1b) | 0xc00);
    __atomic_fetch_add(&set_up, 1, __ATOMIC_SEQ_CST);
}

void ap_main(uint32_t n)
{
    (void)n;
    traps_load();
    wr32(APIC + 0xf0, 0x1ff);
    __atomic_fetch_add(&up, 1, __ATOMIC_SEQ_CST);
    for (;;)
        __asm__ volatile("sti; hlt" : : : "memory");
}

static void send(uint32_t to, uint32_t how)
{
    if (is_x2()) {
        wrmsr(0x830, (uint64_t)to << 32 | 0x4000 | how);
        return;
    }
    wr32(APIC + 0x310, to << 24);
    wr32(APIC + 0x300, 0x4000 | how);
}

/* With interrupts open; a quarter of a minute, or a moment when nothing is to come. */
static void wait_for(volatile uint32_t *v, uint32_t want)
{
    uint64_t start = rdtsc(), limit = want ? 40000000000ull : 40000000ull;

    __asm__ volatile("sti" : : : "memory");
    while ((*v != want || !want) && rdtsc() - start < limit)
        __asm__ volatile("pause");
    for (start = rdtsc(); rdtsc() - start < 2000000;) /* one too many would come now */
        __asm__ volatile("pause");
    __asm__ volatile("cli" : : : "memory");
}

static void arrives(uint32_t to, uint32_t how, uint32_t mask, const char *what)
{
    uint32_t n = 0;

    for (unsigned i = 0; i < CPUS; i++)
        n += mask >> i & 1;
    hits = hit_mask = 0;
    send(to, how | HIT);
    wait_for(&hits, n);
    check(hits == n && hit_mask == mask, "%s (%u arrived, at %x)", what, hits, hit_mask);
}

static void arrives_once(uint32_t to, uint32_t how, const char *what)
{
    hits = hit_mask = 0;
    for (unsigned i = 1; i <= 20; i++) {
        send(to, how | HIT);
        wait_for(&hits, i);
    }
    check(hits == 20, "%s (%u)", what, hits);
}

static void everywhere(uint32_t vector)
{
    set_up = 0;
    send(0, ALL | vector);
    wait_for(&set_up, CPUS);
    check(set_up == CPUS, "all CPUs do as told (%u)", set_up);
}

static void start_cpus(void)
{
    wr32(APIC + 0xf0, 0x1ff);
    wr32(APIC + 0x300, 0xc4500);
    for (uint64_t start = rdtsc(); rdtsc() - start < 30000000;)
        __asm__ volatile("pause");
    wr32(APIC + 0x300, 0xc4608);
    wait_for(&up, CPUS - 1);
    check(up == CPUS - 1, "CPUs started (%u)", up);
}

static void xapic(void)
{
    arrives(2, FIXED, 4, "physical");
    arrives(9, FIXED, 0, "physical, nobody there");
    arrives(0xff, FIXED, 15, "physical, to all");
    arrives(0, OTHERS, 14, "all but self");
    for (unsigned i = 0; i < CPUS; i++)
        logical[i] = 1u << i;
    format = 0xffffffff;
    everywhere(SET_UP);
    arrives(0x0a, LOGICAL, 10, "flat: two of them");
    arrives(0xff, LOGICAL, 15, "flat: all");
    arrives(0xf0, LOGICAL, 0, "flat: nobody");
    arrives_once(0x0e, LOGICAL | LOWEST, "flat: lowest priority, one of three");
    for (unsigned i = 0; i < CPUS; i++)
        logical[i] = i >> 1 << 4 | 1u << (i & 1);
    format = 0x0fffffff;
    everywhere(SET_UP);
    arrives(0x13, LOGICAL, 12, "cluster 1: both");
    arrives(0x02, LOGICAL, 2, "cluster 0: one");
    arrives(0x23, LOGICAL, 0, "cluster 2: nobody");
    arrives(0xff, LOGICAL, 15, "cluster: all");
    arrives_once(0x13, LOGICAL | LOWEST, "cluster 1: lowest priority, one of two");
}

static void x2apic(void)
{
    everywhere(X2APIC);
    check(is_x2() && rdmsr(0x80d) == 1, "logical id");
    arrives(3, FIXED, 8, "x2APIC: physical");
    arrives(0xff, FIXED, 0, "x2APIC: physical 0xff is a CPU like any other");
    arrives(0xffffffff, FIXED, 15, "x2APIC: physical, to all");
    arrives(0x0000000a, LOGICAL, 10, "x2APIC: logical, two of cluster 0");
    arrives(0x0001000f, LOGICAL, 0, "x2APIC: logical, cluster 1");
    arrives(0xffffffff, LOGICAL, 15, "x2APIC: logical, to all");
    arrives(0, OTHERS, 14, "x2APIC: all but self");
    arrives_once(0x0000000c, LOGICAL | LOWEST, "x2APIC: lowest priority, one of two");
    TRY("wrmsr", : : "a"(0x4000 | LOGICAL | HIT), "d"(1), "c"(0x830) : "memory");
    check(trap.vector == ~0ull, "x2APIC: ICR in one write");
    TRY("wrmsr", : : "a"(0), "d"(0), "c"(0x80d) : "memory");
    check(trapped(13, 0), "x2APIC: the logical id is read only");
}

uint32_t kernel_main(void)
{
    traps_init();
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
    irq_hook[SET_UP] = on_set_up;
    irq_hook[HIT] = on_hit;
    irq_hook[X2APIC] = on_x2apic;
    start_cpus();
    xapic();
    x2apic();
    return failures ? 0x20 : 0x10;
}
