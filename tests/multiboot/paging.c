/* Rights, reserved bits, error codes, accessed and dirty bits of 4-level paging, at random against a model
 * that is written from the Intel SDM volume 3 (2023-12): 4.5.4 (entries), 4.6 (access rights), 4.7 (error
 * codes), 4.8 (accessed and dirty). */
#include "trap64.h"

#define ROUNDS 60000
#define BIT(n) (1ull << (n))
#define P BIT(0)
#define W BIT(1)
#define U BIT(2)
#define A BIT(5)
#define D BIT(6)
#define PS BIT(7)
#define NX BIT(63)
#define CR0_WP BIT(16)
#define CR4_SMEP BIT(20)
#define CR4_SMAP BIT(21)
#define EFER 0xc0000080u
#define NXE BIT(11)
#define PF_P 1u
#define PF_W 2u
#define PF_U 4u
#define PF_RSVD 8u
#define PF_I 16u
#define FRAME 0x2000000ull   /* 32 MiB: holds a RET */
#define VA (BIT(39) + FRAME) /* the page under test */
#define ALIAS (2 * BIT(39))  /* the kernel once more, for level 3 */

enum access { READ, WRITE, FETCH };
struct setting {
    uint64_t e[4]; /* PML4E to PTE */
    unsigned leaf; /* which of them maps the page: 1 to 3 */
    bool wp, smep, smap, nxe, user, ac;
    enum access access;
};

extern uint64_t pml4[], pdpt[], pd[];
static uint64_t alias_pdpt[512] __attribute__((aligned(4096))), alias_pd[512] __attribute__((aligned(4096)));
static uint64_t table[3][512] __attribute__((aligned(4096)));
static uint8_t user_stack[512] __attribute__((aligned(16), used));
static uint64_t random_state = 88172645463325252ull, reserved_bit;
static bool has_smep, has_smap;

/* rdi: code for level 3, rsi: address under test, rdx: stack */
__asm__(
    ".globl user_enter\nuser_enter: push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15; pushf\n"
    "mov %rsp, user_back; mov %rsi, %rax; push $0x23; push %rdx; push $2; push $0x2b; push %rdi; iretq\n"
    "user_read: mov (%rax), %cl; int $0xf0\n"
    "user_write: movb $0xc3, (%rax); int $0xf0\n"
    "user_fetch: call *%rax; int $0xf0\n");
extern void user_enter(uint64_t code, uint64_t at, uint64_t stack);
extern char user_read[], user_write[], user_fetch[];

static uint64_t next(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}
static bool one_in(unsigned n)
{
    return next() % n == 0;
}

static uint64_t entry(const struct setting *s, unsigned level)
{
    static const unsigned shift[4] = { 39, 30, 21, 12 };
    uint64_t e = level == s->leaf ? FRAME & ~(BIT(shift[level]) - 1) : (uint64_t)table[level];
    bool large = level == s->leaf && level < 3;

    e |= next() & (A | BIT(9) | BIT(10) | BIT(11) | 0x7f0ull << 52);
    e |= (one_in(12) ? 0 : P) | (one_in(4) ? 0 : W) | (one_in(3) ? 0 : U) | (one_in(8) ? NX : 0);
    if (level == s->leaf)
        e |= next() & (D | BIT(8));
    if (large)
        e |= PS;
    if (one_in(20))
        e |= large && one_in(2) ? BIT(13 + next() % (shift[level] - 13)) : reserved_bit;
    if (level == 0 && one_in(40))
        e |= PS;
    return e;
}

static bool is_reserved(const struct setting *s, unsigned level)
{
    static const unsigned shift[4] = { 39, 30, 21, 12 };
    uint64_t e = s->e[level], bad = reserved_bit | (s->nxe ? 0 : NX);

    if (level == 0)
        bad |= PS;
    if (level == s->leaf && level < 3)
        bad |= BIT(shift[level]) - BIT(13);
    return e & bad;
}

/* The error code, or -1. */
static int expected(const struct setting *s)
{
    unsigned err = (s->access == WRITE ? PF_W : 0) | (s->user ? PF_U : 0) |
                   (s->access == FETCH && (s->nxe || s->smep) ? PF_I : 0);
    bool w = true, u = true, nx = false, ok;

    for (unsigned i = 0; i <= s->leaf; i++) {
        if (!(s->e[i] & P))
            return (int)err;
        if (is_reserved(s, i))
            return (int)(err | PF_P | PF_RSVD);
        w = w && (s->e[i] & W);
        u = u && (s->e[i] & U);
        nx = nx || (s->e[i] & NX);
    }
    if (s->user)
        ok = u && (s->access != WRITE || w);
    else if (s->access == FETCH)
        ok = !(u && s->smep);
    else
        ok = !(u && s->smap && !s->ac) && (s->access == READ || w || !s->wp);
    if (s->access == FETCH && nx)
        ok = false;
    return ok ? -1 : (int)(err | PF_P);
}

static void apply(const struct setting *s)
{
    uint64_t cr4 = read_cr4() & ~(CR4_SMEP | CR4_SMAP), efer = rdmsr(EFER) & ~NXE;

    pml4[1] = s->e[0];
    for (unsigned i = 1; i <= s->leaf; i++)
        table[i - 1][i == 2 ? FRAME >> 21 & 511 : 0] = s->e[i];
    __asm__ volatile("mov %0, %%cr0" : : "r"((read_cr0() & ~CR0_WP) | (s->wp ? CR0_WP : 0)));
    __asm__ volatile("mov %0, %%cr4" : : "r"(cr4 | (s->smep ? CR4_SMEP : 0) | (s->smap ? CR4_SMAP : 0)));
    wrmsr(EFER, efer | (s->nxe ? NXE : 0));
    __asm__ volatile("invlpg (%0)" : : "r"(VA) : "memory");
}

static void touch(const struct setting *s)
{
    static const char *const code[3] = { user_read, user_write, user_fetch };
    uint64_t flags = s->ac ? 0x40002 : 2;

    trap_clear();
    if (s->user) {
        user_enter(ALIAS + (uint64_t)code[s->access], VA, ALIAS + (uint64_t)user_stack + sizeof(user_stack));
        return;
    }
    __asm__ volatile("push %0; popf" : : "r"(flags) : "memory", "cc");
    if (s->access == READ)
        TRY("mov (%0), %%al", : : "r"(VA) : "rax", "memory");
    else if (s->access == WRITE)
        TRY("movb $0xc3, (%0)", : : "r"(VA) : "memory");
    else
        __asm__ volatile(
            "mov %%rsp, %%rbx; movq $78f, resume; call *%0; 78: mov %%rbx, %%rsp; movq $0, resume"
            :
            : "r"(VA)
            : "rbx", "memory");
    __asm__ volatile("push $2; popf" : : : "memory", "cc");
}

static uint64_t entry_now(unsigned level)
{
    return level == 0 ? pml4[1] : table[level - 1][level == 2 ? FRAME >> 21 & 511 : 0];
}

/* 4.8; what a fault leaves in entries above the last is the processor's own. */
static bool bits_ok(const struct setting *s, bool fault)
{
    for (unsigned i = 0; i <= s->leaf; i++) {
        uint64_t want = s->e[i], now = entry_now(i);

        if (!fault)
            want |= A | (i == s->leaf && s->access == WRITE ? D : 0);
        else if (i < s->leaf)
            now = (now & ~A) | (want & A);
        if (now != want)
            return false;
    }
    return true;
}

static void show(const struct setting *s, int want)
{
    print("NOT ok %s %s%s wp %u smep %u smap %u nxe %u: vector %X error %X cr2 %X, expected %d\n",
          s->user ? "user" : "kernel",
          s->access == READ    ? "read"
          : s->access == WRITE ? "write"
                               : "fetch",
          s->ac ? " AC" : "", s->wp, s->smep, s->smap, s->nxe, trap.vector, trap.error, trap.cr2, want);
    for (unsigned i = 0; i <= s->leaf; i++)
        print("  %X, now %X\n", s->e[i], entry_now(i));
}

static void tables(void)
{
    *(volatile uint8_t *)FRAME = 0xc3;
    for (unsigned i = 0; i < 512; i++) {
        alias_pd[i] = pd[i];
        pd[i] &= ~U;
        pd[512 + i] &= ~U;
        pd[1024 + i] &= ~U;
        pd[1536 + i] &= ~U;
    }
    alias_pdpt[0] = (uint64_t)alias_pd + 7;
    pml4[2] = (uint64_t)alias_pdpt + 7;
    __asm__ volatile("mov %0, %%cr3" : : "r"(read_cr3()) : "memory");
}

static void features(void)
{
    uint32_t r[4];

    cpuid(0x80000008, 0, r);
    reserved_bit = (r[0] & 0xff) < 52 ? BIT(51) : 0;
    cpuid(7, 0, r);
    has_smep = r[1] >> 7 & 1;
    has_smap = r[1] >> 20 & 1;
    check(has_smep && has_smap && reserved_bit, "SMEP, SMAP and a reserved bit");
}

/* 4.6: what the processor reads of its own accord is a supervisor access that EFLAGS.AC does not help. The
 * LDT's descriptors are read so. */
static void implicit(void)
{
    struct setting s = { .leaf = 3, .wp = true, .smap = has_smap, .nxe = true };
    extern uint64_t gdt[];

    s.e[0] = (uint64_t)table[0] + 7;
    s.e[1] = (uint64_t)table[1] + 7;
    s.e[2] = (uint64_t)table[2] + 7;
    s.e[3] = FRAME + 7;
    *(volatile uint64_t *)(FRAME + 8) = gdt[2];
    gdt[12] = 0xfff | (VA & 0xffffff) << 16 | 0x82ull << 40 | (VA >> 24 & 0xff) << 56;
    gdt[13] = VA >> 32;
    apply(&s);
    __asm__ volatile("lldt %w0" : : "r"(12 * 8));
    TRY("pushf; orl $0x40000, (%%rsp); popf; mov $0xc, %%eax; mov %%eax, %%fs", : : : "rax", "memory", "cc");
    __asm__ volatile("push $2; popf" : : : "memory", "cc");
    check(trapped(14, 1) && trap.cr2 == VA + 8, "LDT in a user page: SMAP whatever AC (%X %X)", trap.vector,
          trap.error);
    s.smap = false;
    apply(&s);
    TRY("mov $0xc, %%eax; mov %%eax, %%fs", : : : "rax", "memory", "cc");
    check(trap.vector == ~0ull, "and without SMAP not");
    __asm__ volatile("mov %w0, %%fs; lldt %w0" : : "r"(0));
    *(volatile uint8_t *)FRAME = 0xc3;
}

uint32_t kernel_main(void)
{
    unsigned faults = 0, wrong = 0;

    traps_init();
    tables();
    features();
    for (unsigned n = 0; n < ROUNDS && wrong < 8; n++) {
        struct setting s = { 0 };
        int want;

        s.leaf = 1 + (unsigned)(next() % 3);
        for (unsigned i = 0; i <= s.leaf; i++)
            s.e[i] = entry(&s, i);
        s.wp = next() & 1;
        s.smep = has_smep && (next() & 1);
        s.smap = has_smap && (next() & 1);
        s.nxe = !one_in(4);
        s.user = next() & 1;
        s.access = (enum access)(next() % 3);
        s.ac = !s.user && (next() & 1);
        want = expected(&s);
        apply(&s);
        touch(&s);
        if (want < 0 ? trap.vector != ~0ull
                     : trap.vector != 14 || trap.error != (unsigned)want || trap.cr2 != VA)
            wrong++, show(&s, want);
        else if (!bits_ok(&s, want >= 0))
            wrong++, print("A and D: "), show(&s, want);
        faults += want >= 0;
    }
    check(!wrong && faults > ROUNDS / 10, "%u random settings, %u of them faults", ROUNDS, faults);
    implicit();
    return failures ? 0x20 : 0x10;
}
