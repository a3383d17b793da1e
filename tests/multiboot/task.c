/* Hardware task switches and virtual-8086 mode: Intel SDM volume 3 (2023-12), chapters 8 and 21. */
#include "trap32.h"

struct tss {
    uint32_t link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags;
    uint32_t eax, ecx, edx, ebx, esp, ebp, esi, edi, es, cs, ss, ds, fs, gs, ldt;
    uint16_t trap, iomap;
    uint8_t io[8192 + 1];
};
struct tss16 {
    uint16_t link, sp0, ss0, sp1, ss1, sp2, ss2, ip, flags, ax, cx, dx, bx, sp, bp, si, di, es, cs, ss, ds,
        ldt;
};
static struct tss main_tss, other, intr, fault_tss;
static struct tss16 small;
extern uint64_t gdt[];
extern char trap_entries[];
static uint8_t stack1[4096], stack2[4096], stack3[4096];

enum { G_MAIN = 5, G_OTHER, G_INTR, G_SMALL, G_GATE, G_UCODE, G_UDATA, G_FAULT, G_BAD, G_LDT };
#define SEL(i) ((i)*8)
static uint64_t ldt[4];

static unsigned type_of(unsigned i)
{
    return (unsigned)(gdt[i] >> 40) & 0xf;
}

static void tss_fill(struct tss *t, void (*entry)(void), uint8_t *stack_top)
{
    for (unsigned i = 0; i < sizeof(*t); i++)
        ((volatile uint8_t *)t)[i] = 0;
    t->eip = (uint32_t)entry;
    t->eflags = 2;
    t->esp = (uint32_t)stack_top;
    t->esp0 = (uint32_t)stack_top;
    t->ss0 = 16;
    t->cs = 8;
    t->es = t->ss = t->ds = t->fs = t->gs = 16;
    t->iomap = sizeof(*t);
    __asm__ volatile("mov %%cr3, %0" : "=r"(t->cr3));
}

static volatile uint32_t visits, seen_link, seen_flags, seen_error, seen_cr0, seen_esp;

/* A task that runs once around its loop for each switch to it. */
__asm__("other_task:\n"
        "  pushf; pop seen_flags\n"
        "  mov %cr0, %eax; mov %eax, seen_cr0\n"
        "  incl visits\n"
        "  mov $0x11223344, %ebx\n"
        "  iret\n"
        "  jmp other_task\n"
        "error_task:\n" /* for exceptions with an error code */
        "  pop seen_error\n"
        "  incl visits\n"
        "  movl resume_task, %eax; test %eax, %eax; jz 1f; mov %eax, main_tss+32\n"
        "1: iret\n"
        "  jmp error_task\n"
        "small_task:\n"
        "  incl visits\n"
        "  iret\n"
        "  jmp small_task\n"
        "fault_task:\n" /* the exception of a task that could not begin: goes back to the first one */
        "  pop seen_error\n"
        "  incl visits\n"
        "  movzwl fault_tss, %eax; mov %eax, seen_link\n"
        "  movw $5*8, fault_tss\n"
        "  iret\n"
        "  jmp fault_task\n"
        "jump_back:\n"
        "  incl visits\n"
        "  pushf; pop seen_flags\n"
        "  ljmp $5*8, $0\n"
        "  jmp jump_back\n");
extern void other_task(void), error_task(void), small_task(void), jump_back(void), fault_task(void);
volatile uint32_t resume_task;

#define CALL_FAR(sel) __asm__ volatile("lcall %0, $0" : : "i"(sel) : "memory", "cc")
#define JUMP_FAR(sel) __asm__ volatile("ljmp %0, $0" : : "i"(sel) : "memory", "cc")

static uint32_t cr0(void)
{
    uint32_t v;

    __asm__ volatile("mov %%cr0, %0" : "=r"(v));
    return v;
}

static void calls(void)
{
    uint32_t back;

    tss_fill(&other, other_task, stack1 + 4096);
    gdt_set(G_OTHER, (uint32_t)&other, sizeof(other) - 1, 0x89, 0);
    __asm__ volatile("clts");
    visits = 0;
    __asm__ volatile("mov $0x55667788, %%ebx; lcall %1, $0; mov %%ebx, %0"
                     : "=r"(back)
                     : "i"(SEL(G_OTHER))
                     : "ebx", "memory");
    check(visits == 1, "CALL to a TSS runs its task");
    check(seen_flags & 0x4000, "NT is set in it");
    check(seen_cr0 & 8, "and TS");
    check(back == 0x55667788, "IRET brings the old registers back");
    check(other.link == SEL(G_MAIN), "link field");
    check(type_of(G_OTHER) == 9 && type_of(G_MAIN) == 11, "busy bits after IRET");
    check(other.ebx == 0x11223344 && !(other.eflags & 0x4000), "IRET saved the task, NT clear");
    __asm__ volatile("pushf; popl %0" : "=r"(back));
    check(!(back & 0x4000), "NT clear again");
    CALL_FAR(SEL(G_OTHER));
    check(visits == 2, "again, from behind the IRET");
    gdt_set(G_GATE, 0, 0, 0, 0);
    gdt[G_GATE] = (uint64_t)0x8500 << 32 | SEL(G_OTHER) << 16;
    CALL_FAR(SEL(G_GATE));
    check(visits == 3, "CALL through a task gate");
    tss_fill(&other, jump_back, stack1 + 4096);
    JUMP_FAR(SEL(G_OTHER));
    check(visits == 4 && !(seen_flags & 0x4000), "JMP to a TSS and back, NT clear");
    check(type_of(G_OTHER) == 9 && type_of(G_MAIN) == 11, "busy bits after JMP");
    JUMP_FAR(SEL(G_GATE));
    check(visits == 5, "JMP through a task gate");
    check(cr0() & 8, "TS is set by each switch");
    __asm__ volatile("clts");
}

static void events(void)
{
    tss_fill(&intr, other_task, stack2 + 4096);
    gdt_set(G_INTR, (uint32_t)&intr, sizeof(intr) - 1, 0x89, 0);
    gate_set(0x66, SEL(G_INTR), 0, 0x8500);
    visits = 0;
    __asm__ volatile("int $0x66" : : : "memory");
    check(visits == 1 && intr.link == SEL(G_MAIN), "INT n through a task gate");
    tss_fill(&intr, error_task, stack2 + 4096);
    gate_set(13, SEL(G_INTR), 0, 0x8500);
    seen_error = 0xffff;
    resume_task = 0;
    __asm__ volatile("movl $1f, resume_task; mov $0x1238, %%eax; mov %%ax, %%fs\n1:" : : : "eax", "memory");
    check(visits == 2 && seen_error == 0x1238, "#GP through a task gate: error code on the new stack (%x)",
          seen_error);
    resume_task = 0;
    traps_init();
}

static void defects(void)
{
    tss_fill(&other, other_task, stack1 + 4096);
    gdt_set(G_OTHER, (uint32_t)&other, sizeof(other) - 1, 0x8b, 0); /* busy */
    TRY("lcall $6*8, $0", : : : "memory");
    check(trapped(13, SEL(G_OTHER)), "busy TSS: #GP(selector)");
    gdt_set(G_OTHER, (uint32_t)&other, sizeof(other) - 1, 0x09, 0);
    TRY("lcall $6*8, $0", : : : "memory");
    check(trapped(11, SEL(G_OTHER)), "absent TSS: #NP(selector)");
    gdt_set(G_OTHER, (uint32_t)&other, 0x66, 0x89, 0);
    TRY("lcall $6*8, $0", : : : "memory");
    check(trapped(10, SEL(G_OTHER)), "short TSS: #TS(selector)");
}

/* Gates that lead nowhere: 8.2.5; volume 2, CALL. */
static void gates(void)
{
    tss_fill(&other, other_task, stack1 + 4096);
    gdt_set(G_OTHER, (uint32_t)&other, sizeof(other) - 1, 0x89, 0);
    gdt[G_GATE] = (uint64_t)0x0500 << 32 | SEL(G_OTHER) << 16;
    TRY("lcall $9*8, $0", : : : "memory");
    check(trapped(11, SEL(G_GATE)), "absent task gate: #NP(gate)");
    gdt[G_GATE] = (uint64_t)0x8500 << 32 | 16u << 16;
    TRY("lcall $9*8, $0", : : : "memory");
    check(trapped(13, 16), "task gate to a data segment: #GP(selector)");
    gdt[G_GATE] = (uint64_t)0x8500 << 32 | (SEL(G_OTHER) | 4u) << 16;
    TRY("lcall $9*8, $0", : : : "memory");
    check(trapped(13, SEL(G_OTHER) | 4), "task gate to a TSS in the LDT: #GP(selector)");
    gdt[G_GATE] = (uint64_t)0x8500 << 32 | SEL(G_OTHER) << 16;
    gdt_set(G_OTHER, (uint32_t)&other, sizeof(other) - 1, 0x8b, 0);
    TRY("ljmp $9*8, $0", : : : "memory");
    check(trapped(13, SEL(G_OTHER)), "task gate to a busy TSS: #GP(selector)");
    gdt_set(G_OTHER, (uint32_t)&other, sizeof(other) - 1, 0x09, 0);
    TRY("lcall $9*8, $0", : : : "memory");
    check(trapped(11, SEL(G_OTHER)), "task gate to an absent TSS: #NP(selector)");
    gdt_set(G_OTHER, (uint32_t)&other, 0x66, 0x89, 0);
    TRY("lcall $9*8, $0", : : : "memory");
    check(trapped(10, SEL(G_OTHER)), "task gate to a short TSS: #TS(selector)");
    gate_set(0x66, SEL(G_OTHER), 0, 0x0500);
    TRY("int $0x66", : : : "memory");
    check(trapped(11, 0x66 * 8 + 2), "INT n through an absent task gate: #NP(n * 8 + 2)");
    gate_set(0x66, 16, 0, 0x8500);
    TRY("int $0x66", : : : "memory");
    check(trapped(13, 16), "INT n through a task gate to a data segment: #GP(selector)");
    traps_init();
}

static void return_to(uint32_t link, uint32_t vector, const char *text)
{
    main_tss.link = link;
    TRY("pushf; orl $0x4000, (%%esp); popf; iret", : : : "memory", "cc");
    __asm__ volatile("pushf; andl $~0x4000, (%%esp); popf" : : : "memory", "cc");
    check(trapped(vector, link), "IRET with NT to %s (%u %x)", text, trap.vector, trap.error);
}

/* Volume 2, IRET: TASK-RETURN */
static void returns(void)
{
    tss_fill(&other, other_task, stack1 + 4096);
    gdt_set(G_OTHER, (uint32_t)&other, sizeof(other) - 1, 0x89, 0);
    return_to(SEL(G_OTHER), 10, "a TSS that is not busy: #TS");
    return_to(16, 10, "a data segment: #TS");
    return_to(SEL(G_OTHER) | 4, 10, "a selector of the LDT: #TS");
    return_to(0xfff8, 10, "beyond the GDT: #TS");
    gdt_set(G_OTHER, (uint32_t)&other, sizeof(other) - 1, 0x0b, 0);
    return_to(SEL(G_OTHER), 11, "an absent TSS: #NP");
    gdt_set(G_OTHER, (uint32_t)&other, 0x66, 0x8b, 0);
    return_to(SEL(G_OTHER), 10, "a short TSS: #TS");
    check(type_of(G_MAIN) == 11, "the task is busy still");
    main_tss.link = 0;
}

/* Calls `other`, whose registers must raise this exception before its first instruction: a task of its own
 * sees to that. */
static void refused(uint32_t vector, uint32_t error, const char *text)
{
    tss_fill(&fault_tss, fault_task, stack2 + 4096);
    gdt_set(G_FAULT, (uint32_t)&fault_tss, sizeof(fault_tss) - 1, 0x89, 0);
    gate_set(vector, SEL(G_FAULT), 0, 0x8500);
    gdt_set(G_OTHER, (uint32_t)&other, sizeof(other) - 1, 0x89, 0);
    visits = 0;
    seen_error = seen_link = 0xffffffff;
    CALL_FAR(SEL(G_OTHER));
    check(visits == 1 && seen_error == error && seen_link == SEL(G_OTHER),
          "%s in the task that it came to (error %x)", text, seen_error);
    check(type_of(G_OTHER) == 11 && other.link == SEL(G_MAIN), "which is busy and linked");
    traps_init();
    tss_fill(&other, other_task, stack1 + 4096);
}
#define REFUSED(field, value, vector, error, text)                                                           \
    do {                                                                                                     \
        other.field = value;                                                                                 \
        refused(vector, error, text);                                                                        \
    } while (0)

/* Table 8-1: what is asked of the new task's selectors, after the switch */
static void selectors(void)
{
    tss_fill(&other, other_task, stack1 + 4096);
    REFUSED(ldt, 16, 10, 16, "LDT that is none: #TS");
    REFUSED(ldt, SEL(G_LDT) | 4, 10, SEL(G_LDT) | 4, "LDT in the LDT: #TS");
    gdt_set(G_LDT, (uint32_t)ldt, sizeof(ldt) - 1, 0x02, 0);
    REFUSED(ldt, SEL(G_LDT), 10, SEL(G_LDT), "absent LDT: #TS");
    REFUSED(cs, 0, 10, 0, "null CS: #TS");
    REFUSED(cs, 16, 10, 16, "CS of data: #TS");
    REFUSED(cs, 0xfff8, 10, 0xfff8, "CS beyond the GDT: #TS");
    REFUSED(cs, 8 | 3, 10, 8, "CS with another RPL than DPL: #TS");
    gdt_set(G_BAD, 0, 0xfffff, 0x1b, 0xc);
    REFUSED(cs, SEL(G_BAD), 11, SEL(G_BAD), "absent CS: #NP");
    REFUSED(ss, 0, 10, 0, "null SS: #TS");
    REFUSED(ss, 8, 10, 8, "SS of code: #TS");
    REFUSED(ss, 16 | 3, 10, 16, "SS with RPL 3 at level 0: #TS");
    gdt_set(G_BAD, 0, 0xfffff, 0x91, 0xc);
    REFUSED(ss, SEL(G_BAD), 10, SEL(G_BAD), "SS that is not writable: #TS");
    gdt_set(G_BAD, 0, 0xfffff, 0x13, 0xc);
    REFUSED(ss, SEL(G_BAD), 12, SEL(G_BAD), "absent SS: #SS");
    REFUSED(ds, SEL(G_BAD), 11, SEL(G_BAD), "absent DS: #NP");
    REFUSED(ds, 16 | 3, 10, 16, "DS with RPL 3 of level 0: #TS");
    REFUSED(es, SEL(G_MAIN), 10, SEL(G_MAIN), "ES of a TSS: #TS");
    gdt_set(G_BAD, 0, 0xfffff, 0x99, 0xc);
    REFUSED(fs, SEL(G_BAD), 10, SEL(G_BAD), "FS of code that cannot be read: #TS");
    REFUSED(gs, 0xfff8, 10, 0xfff8, "GS beyond the GDT: #TS");
    gdt_set(G_BAD, 0, 0, 0x9b, 0x4);
    REFUSED(cs, SEL(G_BAD), 13, 0, "EIP beyond the limit: #GP(0)");
}

static void short_tss(void)
{
    for (unsigned i = 0; i < sizeof(small); i++)
        ((volatile uint8_t *)&small)[i] = 0;
    gdt_set(3, 0, 0xfffff, 0x9b, 0xc);
    small.ip = 0x1000;
    small.flags = 2;
    small.sp = 0x8000;
    small.cs = 8;
    small.ss = small.ds = small.es = 16;
    *(volatile uint8_t *)0x1000 = 0xff; /* incl visits; iret; */
    *(volatile uint8_t *)0x1001 = 0x05;
    *(volatile uint32_t *)0x1002 = (uint32_t)&visits;
    *(volatile uint8_t *)0x1006 = 0xcf;
    gdt_set(G_SMALL, (uint32_t)&small, sizeof(small) - 1, 0x81, 0);
    visits = 0;
    CALL_FAR(SEL(G_SMALL));
    check(visits == 1 && small.link == SEL(G_MAIN) && small.ip == 0x1007, "16-bit TSS");
}

static volatile uint32_t dr6_seen;

static void db_hook(struct trap_frame *f)
{
    (void)f;
    dr6_seen = trap.dr6;
}

static void trap_bit(void)
{
    tss_fill(&other, other_task, stack1 + 4096);
    gdt_set(G_OTHER, (uint32_t)&other, sizeof(other) - 1, 0x89, 0);
    other.trap = 1;
    __asm__ volatile("mov %0, %%dr6" : : "r"(0xffff0ff0));
    dr6_seen = 0;
    trap_hook = db_hook;
    visits = 0;
    trap_clear();
    CALL_FAR(SEL(G_OTHER));
    trap_hook = 0;
    check(trap.vector == 1 && (dr6_seen & 0x8000) && trap.eip == (uint32_t)other_task && visits == 1,
          "T bit: #DB with BT before the task's first instruction");
}

static void local_breakpoints(void)
{
    uint32_t dr7;

    tss_fill(&other, other_task, stack1 + 4096);
    gdt_set(G_OTHER, (uint32_t)&other, sizeof(other) - 1, 0x89, 0);
    __asm__ volatile("mov %0, %%dr0; mov %1, %%dr7" : : "r"(0x12345678), "r"(0x403));
    CALL_FAR(SEL(G_OTHER));
    __asm__ volatile("mov %%dr7, %0" : "=r"(dr7));
    check((dr7 & 3) == 2, "a task switch clears local breakpoint enables (%x)", dr7);
    __asm__ volatile("mov %0, %%dr7" : : "r"(0x400));
}

static void ldt_of_the_task(void)
{
    ldt[1] = gdt[2];
    gdt_set(G_LDT, (uint32_t)ldt, sizeof(ldt) - 1, 0x82, 0);
    tss_fill(&other, other_task, stack1 + 4096);
    gdt_set(G_OTHER, (uint32_t)&other, sizeof(other) - 1, 0x89, 0);
    other.ldt = SEL(G_LDT);
    other.fs = 8 | 4;
    visits = 0;
    CALL_FAR(SEL(G_OTHER));
    check(visits == 1 && other.fs == 12, "the task's LDT is loaded before its segments");
    main_tss.ldt = 0;
}

static void nmi_gate(void)
{
    tss_fill(&intr, other_task, stack2 + 4096);
    gdt_set(G_INTR, (uint32_t)&intr, sizeof(intr) - 1, 0x89, 0);
    gate_set(2, SEL(G_INTR), 0, 0x8500);
    visits = 0;
    wr32(0xfee00310, 0);
    wr32(0xfee00300, 0x4400); /* NMI to APIC id 0 */
    for (volatile unsigned i = 0; i < 1000; i++)
        ;
    check(visits == 1, "NMI through a task gate");
    wr32(0xfee00300, 0x4400);
    for (volatile unsigned i = 0; i < 1000; i++)
        ;
    check(visits == 2, "IRET lets the next NMI in");
    traps_init();
}

/* ---- privilege levels: a task at level 3 ---- */

__asm__("user_task: movl $0x77, seen_error; int $0x70; jmp user_task\n");
extern void user_task(void);

static void user_hook(struct trap_frame *f)
{
    seen_esp = f->esp;
    seen_flags = f->cs;
    trap_hook = 0;
    JUMP_FAR(SEL(G_MAIN));
}

static void user(void)
{
    gdt_set(G_UCODE, 0, 0xfffff, 0xfb, 0xc);
    gdt_set(G_UDATA, 0, 0xfffff, 0xf3, 0xc);
    tss_fill(&other, user_task, stack1 + 4096);
    other.esp0 = (uint32_t)stack3 + 4096;
    other.cs = SEL(G_UCODE) | 3;
    other.ss = other.ds = other.es = SEL(G_UDATA) | 3;
    other.fs = other.gs = 0;
    gdt_set(G_OTHER, (uint32_t)&other, sizeof(other) - 1, 0x89, 0);
    traps_init();
    {
        gate_set(0x70, 8, (uint32_t)trap_entries + 16 * 0x70, 0xee00);
    }
    trap_hook = user_hook;
    trap_clear();
    JUMP_FAR(SEL(G_OTHER));
    check(trap.vector == 0x70 && seen_flags == (SEL(G_UCODE) | 3) && seen_esp == (uint32_t)stack1 + 4096,
          "a task at level 3, and an interrupt from it on its level 0 stack");
    traps_init();
}

/* ---- virtual-8086 mode ---- */

static volatile uint32_t v86_vector, v86_error, v86_eip, v86_cs, v86_flags, v86_es, v86_ax, v86_count;
static uint32_t back_esp, back_ebp;

static void v86_hook(struct trap_frame *f)
{
    v86_vector = f->vector;
    v86_error = f->error;
    v86_eip = f->eip;
    v86_cs = f->cs;
    v86_flags = f->eflags;
    v86_es = f->es;
    v86_ax = f->eax;
    v86_count++;
    __asm__ volatile("mov %0, %%esp; mov %1, %%ebp; mov $16, %%eax; mov %%eax, %%ds; mov %%eax, %%es; mov "
                     "%%eax, %%fs; mov %%eax, %%gs; jmp v86_done"
                     :
                     : "m"(back_esp), "m"(back_ebp));
}

__asm__("v86_enter: pushal\n"
        "  mov %esp, back_esp; mov %ebp, back_ebp\n"
        "  mov 36(%esp), %eax\n"                                         /* flags */
        "  pushl $0x3000; pushl $0x3000; pushl $0x3000; pushl $0x4000\n" /* GS FS DS ES */
        "  pushl $0x2000; pushl $0xff0\n"                                /* SS ESP */
        "  pushl %eax; pushl $0x1000; pushl $0\n"
        "  mov $0xabcd, %eax\n"
        "  iret\n"
        "v86_done: popal; ret\n");
extern void v86_enter(uint32_t flags);

static void v86_code(const void *code, unsigned len)
{
    for (unsigned i = 0; i < len; i++)
        ((volatile uint8_t *)0x10000)[i] = ((const uint8_t *)code)[i];
}

static void v86_run(const char *code, unsigned len, uint32_t flags)
{
    v86_code(code, len);
    v86_vector = v86_error = v86_eip = 0xffffffff;
    trap_hook = v86_hook;
    v86_enter(0x20002 | flags);
    trap_hook = 0;
}
#define V86(bytes, flags) v86_run(bytes, sizeof(bytes) - 1, flags)

static void virtual_8086(void)
{

    tss_fill(&main_tss, 0, 0);
    main_tss.esp0 = (uint32_t)stack3 + 4096;
    main_tss.ss0 = 16;
    main_tss.iomap = 104;
    main_tss.io[8192] = 0xff;
    gate_set(0x70, 8, (uint32_t)trap_entries + 16 * 0x70, 0xee00);
    V86("\xb8\x34\x12\xcd\x70", 0x3000); /* mov ax, 0x1234; int 0x70 with IOPL 3 */
    check(v86_vector == 0x70 && v86_cs == 0x1000 && v86_eip == 5 && (v86_flags & 0x20000) &&
              v86_es == 0x4000 && (v86_ax & 0xffff) == 0x1234,
          "vm86: INT n with IOPL 3 goes through the IDT");
    V86("\xcd\x70", 0);
    check(v86_vector == 13 && v86_error == 0 && v86_eip == 0, "vm86: INT n with IOPL 0 is #GP(0)");
    V86("\xfa", 0);
    check(v86_vector == 13 && v86_eip == 0, "vm86: CLI with IOPL 0");
    V86("\x9c", 0);
    check(v86_vector == 13 && v86_eip == 0, "vm86: PUSHF with IOPL 0");
    V86("\x9d", 0);
    check(v86_vector == 13 && v86_eip == 0, "vm86: POPF with IOPL 0");
    V86("\xcf", 0);
    check(v86_vector == 13 && v86_eip == 0, "vm86: IRET with IOPL 0");
    V86("\xf4", 0x3000);
    check(v86_vector == 13 && v86_eip == 0, "vm86: HLT");
    V86("\x0f\x20\xc0", 0x3000);
    check(v86_vector == 13 && v86_eip == 0, "vm86: MOV from CR0");
    V86("\x0f\x00\xd8", 0x3000);
    check(v86_vector == 6 && v86_eip == 0, "vm86: LTR is #UD");
    V86("\x0f\x02\xc0", 0x3000);
    check(v86_vector == 6, "vm86: LAR is #UD");
    V86("\x63\xc0", 0x3000);
    check(v86_vector == 6, "vm86: ARPL is #UD");
    V86("\x9c\x58\xcd\x70", 0x3000); /* pushf; pop ax; int */
    check(v86_vector == 0x70 && (v86_ax & 0x3000) == 0x3000, "vm86: PUSHF with IOPL 3");
    V86("\xb8\x00\x50\x8e\xd8\x8c\xd8\xcd\x70", 0x3000); /* mov ax,5000; mov ds,ax; mov ax,ds; int */
    check(v86_vector == 0x70 && (v86_ax & 0xffff) == 0x5000, "vm86: segment loads are real mode's");
    *(volatile uint16_t *)0x30010 = 0xbeef;
    V86("\xa1\x10\x00\xcd\x70", 0x3000);
    check(v86_vector == 0x70 && (v86_ax & 0xffff) == 0xbeef, "vm86: memory by segment");
    V86("\x67\x66\xa1\x00\x00\x01\x00\xcd\x70", 0x3000); /* mov eax, [0x10000] */
    check(v86_vector == 13 && v86_error == 0 && v86_eip == 0, "vm86: limit of 64 KiB");
    V86("\xa1\xff\xff", 0x3000);
    check(v86_vector == 13 && v86_eip == 0, "vm86: word at the limit");
    V86("\x36\xa1\xff\xff", 0x3000);
    check(v86_vector == 12 && v86_error == 0, "vm86: word at the stack's limit is #SS");
    V86("\x9a\x06\x00\x00\x10\x90\xcd\x70", 0x3000); /* lcall 1000:6; at 6 int */
    check(v86_vector == 0x70 && v86_eip == 8 && v86_cs == 0x1000, "vm86: far call");
    V86("\x0f\x0b", 0x3000);
    check(v86_vector == 6 && v86_eip == 0, "vm86: UD2");
    V86("\x31\xc9\xf7\xf1", 0x3000);
    check(v86_vector == 0 && v86_eip == 2, "vm86: #DE");
    main_tss.io[0xe0 / 8] = 0;
    V86("\xb0\x5a\xe6\xe8\xe4\xe8\xcd\x70", 0x3000);
    check(v86_vector == 0x70 && (v86_ax & 0xff) == 0x5a, "vm86: port that the I/O map allows");
    main_tss.io[0xe8 / 8] = 1;
    V86("\xe4\xe8\xcd\x70", 0x3000);
    check(v86_vector == 13 && v86_eip == 0, "vm86: port that it denies, whatever IOPL");
    main_tss.io[0xe8 / 8] = 0;
}

uint32_t kernel_main(void)
{
    traps_init();
    gdt_set(G_MAIN, (uint32_t)&main_tss, sizeof(main_tss) - 1, 0x89, 0);
    main_tss.iomap = sizeof(main_tss);
    __asm__ volatile("ltr %w0" : : "r"(SEL(G_MAIN)));
    calls();
    events();
    defects();
    gates();
    returns();
    selectors();
    trap_bit();
    local_breakpoints();
    ldt_of_the_task();
    short_tss();
    nmi_gate();
    user();
    virtual_8086();
    return failures ? 0x20 : 0x10;
}
