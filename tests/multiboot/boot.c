/* What a multiboot kernel finds: machine state and information of Multiboot 0.6.96, section 3.2 and 3.3; and
 * the parts of a PC as QEMU has it. Run with --cmdline "one two" and a module of the bytes "hello\n". */
#include "lib.h"

extern uint32_t boot_eax, boot_ebx, boot_eflags;

static bool equal(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

static bool ends_with(const char *a, const char *b)
{
    for (; *a; a++)
        if (equal(a, b))
            return true;
    return false;
}

static void information(void)
{
    const uint32_t *i = (const uint32_t *)boot_ebx;
    uint32_t cr0, mod, *m, ram_end = 0;

    __asm__ volatile("mov %%cr0, %0" : "=r"(cr0));
    check(boot_eax == 0x2badb002, "magic");
    check((cr0 & 0x80000001) == 1, "protected mode without paging");
    check(!(boot_eflags & 0x20200), "interrupts and vm86 off");
    check((i[0] & 0x4f) == 0x4f, "flags");
    check(i[1] == 639, "lower memory");
    check(ends_with((const char *)i[4], " one two"), "command line");
    check(i[5] == 1, "one module");
    m = (uint32_t *)i[6];
    mod = m[0];
    check(m[1] - mod == 6 && *(char *)mod == 'h' && *(char *)(mod + 5) == '\n', "module");
    check(!(mod & 0xfff) && mod >= 0x100000, "module page aligned and above the kernel");
    for (uint32_t p = i[12]; p < i[12] + i[11]; p += 4 + *(uint32_t *)p) {
        const uint64_t *e = (const uint64_t *)(p + 4);

        if ((uint32_t)e[2] == 1 && e[0] == 0x100000)
            ram_end = (uint32_t)(e[0] + e[1]);
    }
    check(ram_end == (i[2] + 1024) * 1024, "memory map and upper memory agree");
    check(*(const char *)i[16] != 0, "loader name");
}

static uint64_t fw(uint16_t key, unsigned bytes)
{
    uint64_t v = 0;

    outw(0x510, key);
    for (unsigned i = 0; i < bytes; i++)
        v |= (uint64_t)inb(0x511) << (8 * i);
    return v;
}

static void firmware(void)
{
    uint32_t rsdp = 0, facp = 0, apic = 0, *rsdt;
    uint8_t sum = 0;

    check(fw(0, 4) == 0x554d4551, "fw_cfg signature");
    check(fw(1, 4) & 1, "fw_cfg interface");
    check(fw(3, 8) == 64 << 20, "fw_cfg RAM size %X", fw(3, 8));
    check(fw(5, 2) == 2 && fw(15, 2) >= 2, "fw_cfg CPUs");
    for (uint32_t a = 0xf0000; a < 0x100000 && !rsdp; a += 16)
        if (*(volatile uint64_t *)a == 0x2052545020445352)
            rsdp = a;
    check(rsdp != 0, "RSDP");
    for (unsigned i = 0; rsdp && i < 20; i++)
        sum = (uint8_t)(sum + *(uint8_t *)(rsdp + i));
    check(!sum, "RSDP checksum");
    rsdt = (uint32_t *)rd32(rsdp + 16);
    for (unsigned i = 9; rsdp && i < rsdt[1] / 4; i++) {
        if (rd32(rsdt[i]) == 0x50434146)
            facp = rsdt[i];
        if (rd32(rsdt[i]) == 0x43495041)
            apic = rsdt[i];
    }
    check(facp && apic, "RSDT has FADT and MADT");
    check(apic && (rd32(apic + 40) & 1), "MADT: there are 8259s");
    check(facp && rd32(facp + 76), "FADT: timer port");
    if (facp && rd32(facp + 76)) {
        uint32_t a = inl((uint16_t)rd32(facp + 76)), b = a;

        for (unsigned i = 0; i < 1000000 && a == b; i++)
            b = inl((uint16_t)rd32(facp + 76));
        check(a != b, "the ACPI timer runs");
    }
}

static void devices(void)
{
    outl(0xcf8, 0x80000008);
    check(inl(0xcfc) >> 16 == 0x0600, "PCI host bridge");
    outl(0xcf8, 0x80000000 | 31 << 11 | 7 << 8);
    check(inl(0xcfc) == 0xffffffff, "no PCI device");
    outl(0xe0, 0x12345678);
    check(inl(0xe0) == 0x12345678 && inw(0xe2) == 0x1234 && inb(0xe1) == 0x56, "test device register");
    outb(0xe3, 0xab);
    check(inl(0xe0) == 0xab345678, "test device register, byte");
    wr32(0xff000000, 0xdeadbeef);
    check(rd32(0xff000000) == 0xdeadbeef && *(volatile uint8_t *)0xff000001 == 0xbe, "test device memory");
    check(inw(0x1234) == 0xffff, "nothing there");
    outb(0x70, 0x0d);
    check(inb(0x71) & 0x80, "CMOS battery");
}

uint32_t kernel_main(void)
{
    information();
    firmware();
    devices();
    return failures ? 0x20 : 0x10;
}
