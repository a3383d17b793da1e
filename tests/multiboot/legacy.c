/* The older chips at work: 8259 pair, 8254, CMOS clock, I/O APIC and its pins, local APIC's LINT0, 8042. Data
 * sheets are named in the chips' headers. 32-bit, one CPU, interrupts by a table of entry points that count.
 */
#include "lib.h"

struct gate {
    uint16_t low, sel, type, high;
} __attribute__((packed));

static struct gate idt[256];
static struct {
    uint16_t limit;
    uint32_t base;
} __attribute__((packed)) idtr = { sizeof(idt) - 1, (uint32_t)idt };

volatile uint32_t came[256];
volatile uint32_t lapic_eoi, pic_eoi; /* which of them the handlers end */

__asm__(".macro entry n\n"
        "entry_\\n: pushl $\\n; jmp common\n"
        ".endm\n"
        ".altmacro\n"
        ".set i, 32\n"
        ".rept 128\n"
        "entry %i\n"
        ".balign 16, 0x90\n"
        ".set i, i+1\n"
        ".endr\n"
        ".noaltmacro\n"
        "common: pusha; mov 32(%esp), %eax; call on_interrupt; popa; add $4, %esp; iret\n");
extern char entry_32[];

void __attribute__((used, regparm(1))) on_interrupt(uint32_t vector)
{
    came[vector]++;
    if (vector == 0x28) /* IRQ 8: reading register C ends it */
        outb(0x70, 0x0c), inb(0x71);
    if (pic_eoi && vector >= 0x20 && vector < 0x30) {
        if (vector >= 0x28)
            outb(0xa0, 0x20);
        outb(0x20, 0x20);
    }
    if (lapic_eoi)
        wr32(0xfee000b0, 0);
}

static void idt_load(void)
{
    for (unsigned v = 32; v < 160; v++) {
        uint32_t at = (uint32_t)entry_32 + (v - 32) * 16;

        idt[v] = (struct gate){ (uint16_t)at, 8, 0x8e00, (uint16_t)(at >> 16) };
    }
    __asm__ volatile("lidt %0" : : "m"(idtr));
}

static void sti(void)
{
    __asm__ volatile("sti; nop; nop" : : : "memory");
}

static void cli(void)
{
    __asm__ volatile("cli" : : : "memory");
}

/* Lets interrupts in for so many milliseconds of counter 2. */
static void wait_ms(unsigned ms)
{
    while (ms--) {
        outb(0x61, (uint8_t)((inb(0x61) & 0xfc) | 1));
        outb(0x43, 0xb0); /* counter 2, mode 0 */
        outb(0x42, 1193 & 0xff);
        outb(0x42, 1193 >> 8);
        while (!(inb(0x61) & 0x20))
            ;
    }
}

/* How many interrupts of a timer come in so many milliseconds. Ticks that a busy host was late for are joined,
 * so with fewer than the least it gets more turns. */
static uint32_t ticks_in(unsigned vector, unsigned ms, uint32_t least)
{
    came[vector] = 0;
    sti();
    for (unsigned turn = 0; turn < 20 && came[vector] < least; turn++)
        wait_ms(ms);
    cli();
    return came[vector];
}

static void pic_program(uint8_t mask1, uint8_t mask2)
{
    outb(0x20, 0x11), outb(0xa0, 0x11);
    outb(0x21, 0x20), outb(0xa1, 0x28);
    outb(0x21, 4), outb(0xa1, 2);
    outb(0x21, 1), outb(0xa1, 1);
    outb(0x21, mask1), outb(0xa1, mask2);
}

static void pit_hz(unsigned hz)
{
    unsigned count = 1193182 / hz;

    outb(0x43, 0x34);
    outb(0x40, (uint8_t)count);
    outb(0x40, (uint8_t)(count >> 8));
}

static void timer_through_pic(void)
{
    uint64_t t0, ticks;
    uint32_t n;

    pic_eoi = 1;
    pic_program(0xfe, 0xff);
    pit_hz(200);
    t0 = rdtsc();
    wait_ms(20);
    ticks = rdtsc() - t0;
    check(ticks > 1000000, "counter 2 takes its time");
    check(came[0x20] == 0, "no interrupt while IF is clear");
    n = ticks_in(0x20, 100, 8);
    check(n >= 8 && n <= 200, "timer by the 8259: 200 Hz for 100 ms (%u)", n);
    came[0x20] = 0;
    for (unsigned i = 0; i < 3; i++) /* HLT wakes */
        __asm__ volatile("sti; hlt; cli" : : : "memory");
    check(came[0x20] >= 3, "HLT wakes for the 8259");
    outb(0x21, 0xff);
    came[0x20] = 0;
    sti();
    wait_ms(20);
    cli();
    check(came[0x20] == 0, "masked at the 8259");
}

/* Lines of the test device are ISA interrupts. */
static void pulse(unsigned line)
{
    outb((uint16_t)(0x2000 + line), 1);
    outb((uint16_t)(0x2000 + line), 0);
}

static void pic_rules(void)
{
    pic_program(0xff, 0xff);
    pulse(5);
    outb(0x20, 0x0a);
    check(inb(0x20) & 0x20, "request register has the edge");
    outb(0x21, 0xdf);
    came[0x25] = 0;
    sti();
    cli();
    check(came[0x25] == 1, "taken when it is opened");
    outb(0x20, 0x0a);
    check(!(inb(0x20) & 0x20), "and gone then");
    pic_eoi = 0;
    outb(0x21, 0x1f); /* 5, 6, 7 open */
    pulse(6);
    sti();
    cli();
    check(came[0x26] == 1, "6 comes");
    pulse(7);
    sti();
    cli();
    check(came[0x27] == 0, "7 waits for 6's end");
    pulse(5);
    sti();
    cli();
    check(came[0x25] == 2, "5 does not");
    outb(0x20, 0x0b);
    check((inb(0x20) & 0x60) == 0x60, "both are in service");
    outb(0x20, 0x20);
    outb(0x20, 0x20);
    sti();
    cli();
    check(came[0x27] == 1, "7 comes after the ends");
    outb(0x20, 0x20);
    outb(0x21, 0xfb);
    outb(0xa1, 0xdf);
    pulse(13);
    sti();
    cli();
    check(came[0x2d] == 1, "13 through the second chip");
    outb(0xa0, 0x20);
    outb(0x20, 0x20);
    pic_eoi = 1;
}

static void clock_interrupt(void)
{
    uint32_t n;

    outb(0x70, 0x0a);
    outb(0x71, 0x26); /* 1024 Hz */
    outb(0x70, 0x0b);
    outb(0x71, 0x42); /* periodic interrupt, 24 h */
    outb(0x70, 0x0c);
    inb(0x71);
    pic_program(0xfb, 0xfe);
    n = ticks_in(0x28, 50, 10);
    check(n >= 10 && n <= 1000, "clock: periodic interrupt on 8");
    outb(0x70, 0x0b);
    outb(0x71, 0x02);
    outb(0x70, 0x0c);
    inb(0x71);
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
}

static uint32_t io_read(unsigned reg)
{
    wr32(0xfec00000, reg);
    return rd32(0xfec00010);
}

static void io_write(unsigned reg, uint32_t v)
{
    wr32(0xfec00000, reg);
    wr32(0xfec00010, v);
}

static void io_apic(void)
{
    uint32_t n;

    pic_program(0xff, 0xff);
    lapic_eoi = 1;
    wr32(0xfee000f0, 0x1ff);
    check((io_read(1) & 0xff) >= 0x11 && io_read(1) >> 16 == 23, "I/O APIC: 24 pins");
    io_write(0x11 + 2 * 2, 0);
    io_write(0x10 + 2 * 2, 0x50);
    pit_hz(200);
    n = ticks_in(0x50, 100, 8);
    check(n >= 8 && n <= 200, "timer by the I/O APIC's pin 2");
    io_write(0x10 + 2 * 2, 0x10000);
    came[0x51] = 0;
    io_write(0x10 + 14 * 2, 0x51);
    pulse(14);
    pulse(14);
    sti();
    cli();
    check(came[0x51] == 1 || came[0x51] == 2, "edges of pin 14");
    io_write(0x10 + 14 * 2, 0x8052);
    came[0x52] = 0;
    lapic_eoi = 0;
    outb(0x200e, 1);
    sti();
    cli();
    check(came[0x52] == 1 && (io_read(0x10 + 14 * 2) & 0x4000), "level of pin 14 sets remote IRR");
    outb(0x200e, 0);
    wr32(0xfee000b0, 0);
    check(!(io_read(0x10 + 14 * 2) & 0x4000), "EOI clears it");
    lapic_eoi = 1;
    io_write(0x10 + 14 * 2, 0x10000);
}

static void lint0(void)
{
    uint32_t old = rd32(0xfee00350);

    lapic_eoi = 0;
    check((old & 0x10700) == 0x700, "LINT0 is ExtINT");
    pic_program(0xdf, 0xff);
    came[0x25] = came[0x60] = 0;
    wr32(0xfee00350, 0x10700);
    pulse(5);
    sti();
    cli();
    check(came[0x25] == 0, "LINT0 masked");
    wr32(0xfee00350, 0x700);
    sti();
    cli();
    check(came[0x25] == 1, "and opened");
    lapic_eoi = 1;
    wr32(0xfee00350, old);
    outb(0x21, 0xff);
}

static void keyboard_controller(void)
{
    unsigned tries = 0;

    while ((inb(0x64) & 1) && tries++ < 1000) /* empties */
        inb(0x60);
    check(tries < 1000 && !(inb(0x64) & 2), "8042 takes commands");
    outb(0x64, 0xaa);
    for (tries = 0; !(inb(0x64) & 1) && tries < 1000000; tries++)
        ;
    check(inb(0x60) == 0x55, "8042 self test");
    check(inb(0x92) & 2, "A20 is open");
}

static void counters(void)
{
    uint16_t a, b;

    outb(0x61, (uint8_t)(inb(0x61) & 0xfc));
    outb(0x43, 0xb2); /* counter 2, mode 1 */
    outb(0x42, 0xff);
    outb(0x42, 0xff);
    check(inb(0x61) & 0x20, "mode 1 waits");
    outb(0x61, (uint8_t)(inb(0x61) | 1));
    check(!(inb(0x61) & 0x20), "and begins with its gate");
    outb(0x43, 0x34);
    outb(0x40, 0);
    outb(0x40, 0);
    outb(0x43, 0x00);
    a = inb(0x40);
    a = (uint16_t)(a | inb(0x40) << 8);
    outb(0x43, 0xc2);
    check((inb(0x40) & 0x3f) == 0x34, "read-back status");
    b = inb(0x40);
    b = (uint16_t)(b | inb(0x40) << 8);
    check((uint16_t)(a - b) < 20000, "counts down");
}

uint32_t kernel_main(void)
{
    idt_load();
    timer_through_pic();
    pic_rules();
    clock_interrupt();
    io_apic();
    lint0();
    keyboard_controller();
    counters();
    return failures ? 0x20 : 0x10;
}
