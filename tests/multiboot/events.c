/* Delivery of exceptions and interrupts that goes wrong: Intel SDM volume 3 (2023-12), 6.12.1 (gates), 6.13
 * (error codes), 6.15 and table 6-5 (double faults), 6.7.1 and 6.8 (NMI, MOV SS and STI), 6.14.5 (IST). */
#include "trap64.h"

#define APIC 0xfee00000u
#define HOLE 0x7000000000ull /* nothing is mapped there */
#define IDT_EXT 3u           /* error code: IDT, during an event */
#define IDT_INT 2u           /* by INT n */

struct gate {
    uint64_t lo, hi;
};
struct table_register {
    uint16_t limit;
    uint64_t base;
} __attribute__((packed));
static struct table_register idtr;
static struct gate *idt, kept;
static uint8_t ist_stack[8192] __attribute__((aligned(16)));
static uint64_t saved_rsp __attribute__((used));
extern uint64_t gdt[];

enum { FREE = 12 }; /* a descriptor to play with */

static void spoil(unsigned v, uint64_t clear, uint64_t set)
{
    kept = idt[v];
    idt[v].lo = (kept.lo & ~clear) | set;
}
static void mend(unsigned v)
{
    idt[v] = kept;
}
#define PRESENT (1ull << 47)
#define TYPE (0xfull << 40)
#define SELECTOR (0xffffull << 16)
#define IST(n) ((uint64_t)(n) << 32)

#define EXPECT(insn, vec, err, text)                                                                         \
    do {                                                                                                     \
        TRY(insn, : : : "rax", "rcx", "rdx", "memory", "cc");                                                \
        check(trapped(vec, err), "%s (%X %X)", text, trap.vector, trap.error);                               \
    } while (0)

extern void user_int(void);
__asm__("user_int: int $0x91; ret\n");

static void gates(void)
{
    struct table_register small = { 0x90 * 16 - 1, (uint64_t)idt };

    __asm__ volatile("lidt %0" : : "m"(small));
    EXPECT("int $0x90", 13, 0x90 * 8 + IDT_INT, "INT beyond the IDT's limit");
    small.limit = 0x90 * 16 + 14;
    __asm__ volatile("lidt %0" : : "m"(small));
    EXPECT("int $0x90", 13, 0x90 * 8 + IDT_INT, "INT, one byte of its gate beyond the limit");
    __asm__ volatile("lidt %0" : : "m"(idtr));
    spoil(0x90, PRESENT, 0);
    EXPECT("int $0x90", 11, 0x90 * 8 + IDT_INT, "INT through an absent gate");
    mend(0x90);
    spoil(0x90, TYPE, 5ull << 40);
    EXPECT("int $0x90", 13, 0x90 * 8 + IDT_INT, "task gate");
    mend(0x90);
    spoil(0x90, TYPE | PRESENT, 0xcull << 40);
    EXPECT("int $0x90", 13, 0x90 * 8 + IDT_INT, "call gate, and absent: the type comes first");
    mend(0x90);
    spoil(6, PRESENT, 0);
    EXPECT("ud2", 11, 6 * 8 + IDT_EXT, "an exception's absent gate");
    mend(6);
    spoil(3, PRESENT, 0);
    EXPECT("int3", 11, 3 * 8 + IDT_INT, "INT3's absent gate");
    mend(3);
    spoil(1, PRESENT, 0);
    EXPECT(".byte 0xf1", 11, 1 * 8 + IDT_EXT, "INT1's absent gate");
    mend(1);
    trap_clear();
    run_user(user_int);
    check(trapped(13, 0x91 * 8 + IDT_INT), "INT from level 3 through a gate of level 0 (%X %X)", trap.vector,
          trap.error);
}

static void selectors(void)
{
    spoil(0x90, SELECTOR, 0);
    EXPECT("int $0x90", 13, 0, "a gate without a selector");
    mend(0x90);
    spoil(6, SELECTOR, 0);
    EXPECT("ud2", 13, 1, "an exception's gate without a selector");
    mend(6);
    spoil(0x90, SELECTOR, 16 << 16);
    EXPECT("int $0x90", 13, 16, "a gate to data");
    spoil(6, SELECTOR, 16 << 16);
    EXPECT("ud2", 13, 17, "an exception's gate to data");
    idt[6] = kept;
    spoil(0x90, SELECTOR, FREE * 8 << 16);
    gdt[FREE] = gdt[1] & ~(1ull << 47);
    EXPECT("int $0x90", 11, FREE * 8, "a gate to absent code");
    gdt[FREE] = gdt[1] & ~(1ull << 53);
    EXPECT("int $0x90", 13, FREE * 8, "a gate to 16-bit code");
    gdt[FREE] = gdt[1] | 1ull << 54;
    EXPECT("int $0x90", 13, FREE * 8, "a gate to code with L and D");
    gdt[FREE] = gdt[5];
    EXPECT("int $0x90", 13, FREE * 8, "a gate to level 3");
    idt[0x90].lo = (idt[0x90].lo & ~SELECTOR) | 0xfff8ull << 16;
    EXPECT("int $0x90", 13, 0xfff8, "a gate beyond the GDT");
    idt[0x90].lo = (idt[0x90].lo & ~SELECTOR) | 0xcull << 16;
    EXPECT("int $0x90", 13, 0xc, "a gate to an LDT that is not there");
    idt[0x90].lo = (idt[0x90].lo & ~SELECTOR) | 8ull << 16;
}

static void double_faults(void)
{
    spoil(13, PRESENT, 0);
    EXPECT("mov $0xfff8, %%eax; mov %%eax, %%fs", 8, 0, "#GP, #NP: #DF");
    mend(13);
    spoil(0, PRESENT, 0);
    EXPECT("xor %%ecx, %%ecx; div %%ecx", 8, 0, "#DE, #NP: #DF");
    mend(0);
    spoil(14, PRESENT, 0);
    EXPECT("movabs $0x7000000000, %%rax; mov (%%rax), %%al", 8, 0, "#PF, #NP: #DF");
    mend(14);
    spoil(5, PRESENT, 0);
    EXPECT("int $5", 11, 5 * 8 + IDT_INT, "INT 5 is no #BR");
    mend(5);
}

/* Runs insn with a stack that is not there; RSP is put back. #PF and #DF have stacks of their own. */
#define ON_HOLE(insn, vec, err, text)                                                                        \
    do {                                                                                                     \
        trap_clear();                                                                                        \
        __asm__ volatile("movq $77f, resume; mov %%rsp, saved_rsp; mov %0, %%rsp\n76: " insn                 \
                         "\n77: mov saved_rsp, %%rsp; movq $0, resume"                                       \
                         :                                                                                   \
                         : "r"(HOLE + 4096)                                                                  \
                         : "rax", "rcx", "rdx", "memory", "cc");                                             \
        check(trapped(vec, err) && trap.cr2 == HOLE + 4096 - 8, "%s (%X %X cr2 %X)", text, trap.vector,      \
              trap.error, trap.cr2);                                                                         \
    } while (0)

static volatile uint32_t *tss_ist1(void)
{
    uint64_t base = (gdt[6] >> 16 & 0xffffff) | (gdt[6] >> 32 & 0xff000000) | gdt[7] << 32;

    return (volatile uint32_t *)(base + 36);
}

static uint64_t frame_at;
static void on_frame(struct trap_frame *f)
{
    frame_at = (uint64_t)&f->rip;
}

static void stacks(void)
{
    uint64_t top = (uint64_t)ist_stack + 4096, pf = idt[14].lo, df = idt[8].lo;

    tss_ist1()[0] = (uint32_t)top + 8; /* is aligned down to 16 */
    tss_ist1()[1] = 0;
    tss_ist1()[2] = (uint32_t)top + 4096;
    tss_ist1()[3] = 0;
    spoil(0x90, 0, IST(1));
    irq_hook[0x90] = on_frame;
    __asm__ volatile("int $0x90" : : : "memory");
    check(frame_at == top - 40, "IST's stack, aligned (%X)", top - frame_at);
    irq_hook[0x90] = 0;
    mend(0x90);
    idt[14].lo |= IST(1);
    idt[8].lo |= IST(2);
    ON_HOLE("int $0x90", 14, 2, "INT without a stack: #PF");
    ON_HOLE("ud2", 14, 2, "#UD without a stack: #PF");
    ON_HOLE("mov $0xfff8, %%eax; mov %%eax, %%fs", 14, 2, "#GP without a stack: #PF, one after the other");
    ON_HOLE("call 77f", 14, 2, "CALL without a stack");
    idt[14].lo = pf;
    ON_HOLE("push %%rax", 8, 0, "PUSH without a stack, nor #PF: #DF");
    check((uint64_t)trap.rsp == HOLE + 4096, "#DF has the old stack pointer");
    idt[14].lo = pf | IST(1);
    tss_ist1()[0] = 0;
    tss_ist1()[1] = 0x8000; /* not canonical: 8000'00000000 */
    EXPECT("movabs $0x7000000000, %%rax; mov (%%rax), %%al", 8, 0, "#PF, IST not canonical: #DF");
    idt[14].lo = pf;
    idt[8].lo = df;
}

/* ---- what holds interrupts back ---- */

static volatile uint32_t irqs, nmis;
static volatile uint64_t irq_rip;
static void on_irq(struct trap_frame *f)
{
    irqs++;
    irq_rip = f->rip;
    wr32(APIC + 0xb0, 0);
}
static void on_nmi(struct trap_frame *f)
{
    irq_rip = f->rip;
    if (++nmis != 1)
        return;
    /* an IRET that faults lets the next NMI in (6.7.1) */
    trap_clear();
    __asm__ volatile(
        "mov %%rsp, %%rbx; movq $77f, resume; push $0; push $0; push $2; push $0xfff8; push $0; iretq\n"
        "77: mov %%rbx, %%rsp; movq $0, resume"
        :
        :
        : "rbx", "memory", "cc");
}

static void shadows(void)
{
    uint64_t at;

    wr32(APIC + 0xf0, 0x1ff);
    irq_hook[0x70] = on_irq;
    __asm__ volatile("cli; mov $0xfee00300, %%ecx; movl $0x44070, (%%rcx); sti; cli; nop; nop"
                     :
                     :
                     : "rcx", "memory");
    check(irqs == 0, "STI, CLI: nothing comes between");
    __asm__ volatile("lea 1f(%%rip), %0; sti; nop; 1: cli" : "=r"(at) : : "memory");
    check(irqs == 1 && irq_rip == at, "STI, another: it comes behind that");
    __asm__ volatile("mov $0xfee00300, %%ecx; movl $0x44070, (%%rcx); mov %%ss, %%eax; lea 1f(%%rip), %0\n"
                     "sti; mov %%eax, %%ss; nop; 1: nop; cli"
                     : "=r"(at)
                     :
                     : "rax", "rcx", "memory");
    check(irqs == 2 && irq_rip - at <= 1, "STI, MOV SS, another (%X)", irq_rip - at);
    __asm__ volatile(
        "mov $0xfee00300, %%ecx; movl $0x44070, (%%rcx); pushf; orl $0x200, (%%rsp); lea 1f(%%rip), %0\n"
        "popf; 1: nop; cli"
        : "=r"(at)
        :
        : "rcx", "memory", "cc");
    check(irqs == 3 && irq_rip == at, "POPF has no shadow");
    __asm__ volatile("mov $0xfee00300, %%ecx; movl $0x44070, (%%rcx); sti; hlt; cli" : : : "rcx", "memory");
    check(irqs == 4, "STI, HLT");
}

static void nmi_and_iret(void)
{
    irq_hook[2] = on_nmi;
    wr32(APIC + 0x310, 0);
    wr32(APIC + 0x300, 0x4400);
    for (volatile unsigned i = 0; i < 1000; i++)
        ;
    check(nmis == 1 && trap.vector == 13 && trap.error == 0xfff8, "an IRET in the NMI handler that faults");
    wr32(APIC + 0x300, 0x4400);
    for (volatile unsigned i = 0; i < 1000; i++)
        ;
    check(nmis == 2, "and the next NMI (%u)", nmis);
}

uint32_t kernel_main(void)
{
    traps_init();
    outb(0x21, 0xff); /* the timer's interrupt would come as vector 8 */
    outb(0xa1, 0xff);
    __asm__ volatile("sidt %0" : "=m"(idtr));
    idt = (struct gate *)idtr.base;
    gates();
    selectors();
    double_faults();
    stacks();
    shadows();
    nmi_and_iret();
    return failures ? 0x20 : 0x10;
}
