/* What process-context identifiers may keep and must forget, at random against a model that is written from
 * the Intel SDM volume 3 (2023-12): 4.10.1 (PCIDs), 4.10.2 (what is cached under them), 4.10.4.1 (what
 * invalidates it); volume 2, INVPCID. A changed entry may be used as it was until something invalidates it:
 * the model holds for each page of each PCID the frames that may be found there. Accesses are loads, stores,
 * and calls from level 3 to code in the page, which is rewritten now and then, or to an instruction that
 * begins in the page before. */
#include "trap64.h"

#define ROUNDS 400000
#define BIT(n) (1ull << (n))
#define ROOTS 12
#define PAGES 4
#define GLOBAL 3  /* this one */
#define ALL ROOTS /* whose page it is */
#define FRAMES 8
#define NONE FRAMES /* the entry is not present */
#define FRAME(f) (0x2000000ull + (uint64_t)(f)*4096)
#define VA(i) (BIT(39) + 7 * BIT(30) + (uint64_t)(i)*4096)
#define CR4_PGE BIT(7)
#define CR4_PCIDE BIT(17)
#define KEEP BIT(63)
#define ID 2048 /* in a frame: its number, then what the last store left */
#define STORE 2056
#define LAST 4095

struct root {
    uint64_t pml4[512], pdpt[512], pd[512], pt[512];
};
static struct root roots[ROOTS] __attribute__((aligned(4096)));
static unsigned now[ROOTS + 1][PAGES]; /* the frame in the entry, or NONE */
static uint16_t may[ROOTS + 1][PAGES]; /* frames that may be found as well */
static uint32_t version[FRAMES];       /* what the code there answers */
static unsigned loaded, stale, faults;
static uint64_t random_state = 88172645463325252ull;
volatile uint32_t answer;
extern uint64_t pml4[], pd[];

static unsigned below(unsigned n)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (unsigned)(random_state >> 20) % n;
}

/* PCIDs are not in the order of the roots, and the last root's is 0. */
static uint64_t pcid_of(unsigned r)
{
    return r == ROOTS - 1 ? 0 : 0xfff - 37 * r;
}

static unsigned owner(unsigned r, unsigned i)
{
    return i == GLOBAL ? ALL : r;
}

static void forget(unsigned r)
{
    for (unsigned i = 0; i < PAGES; i++)
        may[r][i] = 0;
}
static void forget_pcids(void)
{
    for (unsigned r = 0; r < ROOTS; r++)
        forget(r);
}
static void forget_all(void)
{
    forget_pcids();
    forget(ALL);
}

static void load(unsigned r, bool keep)
{
    uint64_t v = (uint64_t)roots[r].pml4 | pcid_of(r) | (keep ? KEEP : 0);

    __asm__ volatile("mov %0, %%cr3" : : "r"(v) : "memory");
    loaded = r;
    if (!keep)
        forget(r);
}

static void map(unsigned r, unsigned i, unsigned f)
{
    unsigned o = owner(r, i);

    if (now[o][i] != NONE)
        may[o][i] |= (uint16_t)(1u << now[o][i]);
    now[o][i] = f;
    for (unsigned k = 0; k < ROOTS; k++) {
        if (k == r || o == ALL)
            *(volatile uint64_t *)&roots[k].pt[i] = f == NONE ? 0 : FRAME(f) + 7 + (o == ALL ? BIT(8) : 0);
    }
}

static void invpcid(uint64_t type, uint64_t pcid, uint64_t at)
{
    struct {
        uint64_t pcid, at;
    } d = { pcid, at };

    __asm__ volatile("invpcid %1, %0" : : "r"(type), "m"(d) : "memory");
}

static void write_cr4(uint64_t v)
{
    __asm__ volatile("mov %0, %%cr4" : : "r"(v) : "memory");
}

/* mov $version, %eax; mov %eax, answer; ret. The last byte of a frame is a REX prefix, which makes one
 * instruction with the MOV of the next page. */
static void write_code(unsigned f)
{
    volatile uint8_t *p = (volatile uint8_t *)FRAME(f);
    uint32_t at = (uint32_t)(uint64_t)&answer;

    version[f] = version[f] + FRAMES;
    *(volatile uint32_t *)(p + 1) = version[f];
    p[0] = 0xb8;
    p[5] = 0x89;
    p[6] = 0x04;
    p[7] = 0x25;
    *(volatile uint32_t *)(p + 8) = at;
    p[12] = 0xc3;
}

static void invalidate(void)
{
    unsigned r = below(3) ? loaded : below(ROOTS), i = below(PAGES);

    switch (below(8)) {
    case 0: invpcid(0, pcid_of(r), VA(i)), may[r][i] = 0; break; /* global ones stay, here and in 1 and 3 */
    case 1: invpcid(1, pcid_of(r), 0), forget(r); break;
    case 2: invpcid(2, 0, 0), forget_all(); break;
    case 3:
        write_cr4(read_cr4() & ~CR4_PGE);
        write_cr4(read_cr4() | CR4_PGE);
        forget_all();
        break;
    case 4: invpcid(3, 0, 0), forget_pcids(); break;
    default: __asm__ volatile("invlpg (%0)" : : "r"(VA(i)) : "memory"); may[owner(loaded, i)][i] = 0;
    }
}

static bool allowed(unsigned i, unsigned f)
{
    unsigned o = owner(loaded, i);

    stale += f != now[o][i];
    return f < FRAMES && (f == now[o][i] || (may[o][i] & 1u << f));
}

static bool faulted(unsigned i)
{
    faults++;
    return now[owner(loaded, i)][i] == NONE && trap.vector == 14;
}

static bool try_load(unsigned i)
{
    uint32_t f = FRAMES;

    TRY("mov (%1), %0", : "+r"(f) : "r"(VA(i) + ID) : "memory");
    return trap.vector == ~0ull ? allowed(i, f) : faulted(i);
}

static bool try_store(unsigned i)
{
    static uint32_t mark;

    mark++;
    TRY("mov %0, (%1)", : : "r"(mark), "r"(VA(i) + STORE) : "memory");
    if (trap.vector != ~0ull)
        return faulted(i);
    for (unsigned f = 0; f < FRAMES; f++) {
        if (*(volatile uint32_t *)(FRAME(f) + STORE) == mark)
            return allowed(i, f);
    }
    return false;
}

static bool try_call(unsigned i)
{
    answer = 0;
    trap_clear();
    run_user((void (*)(void))VA(i));
    if (trap.vector != ~0ull)
        return faulted(i);
    return version[answer % FRAMES] == answer && allowed(i, answer % FRAMES);
}

/* From the last byte of the page before. */
static bool try_call_across(unsigned i)
{
    answer = 0;
    trap_clear();
    run_user((void (*)(void))(VA(i) - 1));
    if (trap.vector != ~0ull)
        return faulted(i - 1) || faulted(i);
    return version[answer % FRAMES] == answer && allowed(i, answer % FRAMES);
}

static bool step(void)
{
    unsigned i = below(PAGES);

    switch (below(16)) {
    case 0 ... 3: load(below(ROOTS), below(8) != 0); break;
    case 4: map(loaded, i, below(12) ? below(FRAMES) : NONE); break;
    case 5: map(below(ROOTS), i, below(12) ? below(FRAMES) : NONE); break;
    case 6: invalidate(); break;
    case 7: write_code(below(FRAMES)); break;
    default: break;
    }
    i = below(PAGES);
    switch (below(4)) {
    case 0: return try_load(i);
    case 1: return try_store(i);
    case 2: return try_call_across(i ? i : 1);
    default: return try_call(i);
    }
}

static void tables(void)
{
    for (unsigned f = 0; f < FRAMES; f++) {
        version[f] = f;
        write_code(f);
        *(volatile uint32_t *)(FRAME(f) + ID) = f;
        *(volatile uint8_t *)(FRAME(f) + LAST) = 0x40;
    }
    for (unsigned r = 0; r < ROOTS; r++) {
        roots[r].pml4[0] = pml4[0];
        roots[r].pml4[1] = (uint64_t)roots[r].pdpt + 7;
        roots[r].pdpt[7] = (uint64_t)roots[r].pd + 7;
        roots[r].pd[0] = (uint64_t)roots[r].pt + 7;
        for (unsigned i = 0; i < PAGES; i++)
            now[owner(r, i)][i] = NONE, map(r, i, below(FRAMES));
    }
}

static unsigned run(const char *what)
{
    unsigned wrong = 0;

    stale = faults = 0;
    for (unsigned n = 0; n < ROUNDS && !wrong; n++) {
        wrong += !step();
        if (wrong)
            print("NOT ok step %u: PCID %X, vector %X, answer %x\n", n, pcid_of(loaded), trap.vector, answer);
    }
    check(!wrong, "%s: %u accesses, %u by entries that had changed, %u faults", what, ROUNDS, stale, faults);
    return wrong;
}

uint32_t kernel_main(void)
{
    uint32_t r1[4], r7[4];

    traps_init();
    cpuid(1, 0, r1);
    cpuid(7, 0, r7);
    if (!(r1[2] & BIT(17)) || !(r7[1] & BIT(10))) {
        print("no PCID or no INVPCID: nothing to test\n");
        return 0x10;
    }
    tables();
    __asm__ volatile("mov %0, %%cr3" : : "r"(roots[ROOTS - 1].pml4) : "memory");
    loaded = ROOTS - 1;
    write_cr4(read_cr4() | CR4_PGE);
    write_cr4(read_cr4() | CR4_PCIDE);
    forget_all();
    run("the kernel's pages are each PCID's own");
    for (unsigned i = 0; i < 2048; i++)
        pd[i] |= BIT(8);
    invpcid(2, 0, 0);
    forget_all();
    run("the kernel's pages are global");
    return failures ? 0x20 : 0x10;
}
