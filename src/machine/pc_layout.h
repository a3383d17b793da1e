/* Every guest address, port and interrupt number of the PC board, with its reason. Includes nothing. */
#ifndef MACHINE_PC_LAYOUT_H
#define MACHINE_PC_LAYOUT_H

/* ---- RAM ---- */

/* RAM below 4 GiB ends here; what is more goes on at 4 GiB. 1 GiB is left for devices: as on Q35-like PCs,
 * and far more than virtio needs. */
#define PC_LOW_RAM_END 0xc0000000ull
#define PC_HIGH_RAM_BASE 0x100000000ull
/* RAM from here to 1 MiB is kept from the guest kernel as on any PC: the last KiB under 640 KiB was the
 * extended BIOS data area, and the ACPI tables are above. */
#define PC_LOW_USABLE_END 0x9fc00ull

/* ---- boot data: below 1 MiB, page aligned, free again once the kernel has read them ---- */

#define PC_BOOT_GDT 0x1000ull
#define PC_BOOT_GDT_ROOM 0x1000ull
#define PC_BOOT_PARAMS 0x2000ull
#define PC_BOOT_PARAMS_ROOM 0x1000ull
#define PC_BOOT_CMDLINE 0x3000ull
#define PC_BOOT_CMDLINE_ROOM 0x1000ull
#define PC_BOOT_PAGE_TABLES 0x4000ull
#define PC_BOOT_PAGE_TABLES_ROOM 0x6000ull

/* In the range that ACPI 6.4, 5.2.5.1 has a kernel search for the RSDP, so that one without a boot loader's
 * hint finds it too. 64 CPUs need less than 4 KiB of it. */
#define PC_ACPI_BASE 0xe0000ull
#define PC_ACPI_ROOM 0x20000ull
/* With the older chips: kernels written for BIOS machines may search the last 64 KiB only. */
#define PC_ACPI_LEGACY_BASE 0xf0000ull
#define PC_BIOS_END 0x100000ull

/* ---- memory-mapped devices below 4 GiB ---- */

#define PC_PCI_MMIO32_BASE PC_LOW_RAM_END
#define PC_PCI_MMIO32_LEN 0x20000000ull
#define PC_ECAM_BASE                                                                                         \
    0xe0000000ull /* bus 0 alone: 1 MiB. After the window, naturally aligned for 256 buses                   \
                   */
#define PC_ECAM_LEN 0x100000ull
#define PC_IOAPIC_BASE 0xfec00000ull /* where every PC has it */
#define PC_IOAPIC_LEN 0x1000ull
#define PC_LAPIC_BASE 0xfee00000ull /* architectural reset value; inside the engine */
#define PC_LAPIC_LEN 0x100000ull    /* with the window for interrupt messages */
#define PC_RESET_ROM_BASE                                                                                    \
    0xfffff000ull /* the page of the architectural reset vector; with the older chips                        \
                   */

/* The 64-bit PCI window begins at the first multiple of its alignment above RAM; with the most RAM that is
 * allowed, it ends below 2^39, which every x86-64 CPU of the last decade can address. */
#define PC_PCI_MMIO64_ALIGN 0x40000000ull
#define PC_PCI_MMIO64_LEN 0x400000000ull
#define PC_PHYS_END_MAX 0x8000000000ull
#define PC_RAM_MAX 0x4000000000ull /* 256 GiB */

/* ---- ports ---- */

#define PC_RTC_PORT 0x70
#define PC_I8042_PORT 0x64    /* command and status port alone, for resets */
#define PC_UART_PORT 0x3f8    /* COM1 */
#define PC_PVPANIC_PORT 0x505 /* by custom; found through ACPI */
#define PC_PM_PORT 0x600      /* free on PCs; told by the FADT */
#define PC_PCI_CONFIG_PORT 0xcf8
#define PC_RESET_PORT 0xcf9 /* inside the PCI address port, byte accesses only; told by the FADT */

/* ---- interrupts: pins of the I/O APIC, number = GSI ---- */

#define PC_UART_GSI 4      /* ISA, edge: what an 8250 driver expects of COM1 */
#define PC_RTC_GSI 8       /* ISA, edge */
#define PC_SCI_GSI 9       /* ACPI, level, active high; by custom */
#define PC_PCI_INTX_GSI 16 /* four pins, level: the first above the ISA range */

/* ---- checks ---- */

#define PC_APART(a, a_len, b, b_len) ((a) + (a_len) <= (b) || (b) + (b_len) <= (a))

_Static_assert(PC_BOOT_GDT + PC_BOOT_GDT_ROOM <= PC_BOOT_PARAMS, "GDT and boot parameters overlap");
_Static_assert(PC_BOOT_PARAMS + PC_BOOT_PARAMS_ROOM <= PC_BOOT_CMDLINE,
               "parameters and command line overlap");
_Static_assert(PC_BOOT_CMDLINE + PC_BOOT_CMDLINE_ROOM <= PC_BOOT_PAGE_TABLES,
               "command line and page tables overlap");
_Static_assert(PC_BOOT_PAGE_TABLES + PC_BOOT_PAGE_TABLES_ROOM <= PC_LOW_USABLE_END,
               "boot data beyond low RAM");
_Static_assert(PC_ACPI_BASE >= 0xe0000 && PC_ACPI_BASE + PC_ACPI_ROOM <= 0x100000,
               "RSDP outside the search range");
_Static_assert(PC_PCI_MMIO32_BASE + PC_PCI_MMIO32_LEN <= PC_ECAM_BASE, "PCI window and ECAM overlap");
_Static_assert(PC_ECAM_BASE % 0x10000000 == 0, "ECAM is aligned to 256 buses");
_Static_assert(PC_ECAM_BASE + PC_ECAM_LEN <= PC_IOAPIC_BASE, "ECAM and I/O APIC overlap");
_Static_assert(PC_APART(PC_IOAPIC_BASE, PC_IOAPIC_LEN, PC_LAPIC_BASE, PC_LAPIC_LEN), "APICs overlap");
_Static_assert(PC_LAPIC_BASE + PC_LAPIC_LEN <= PC_RESET_ROM_BASE, "APICs and the reset vector overlap");
_Static_assert(PC_LAPIC_BASE + PC_LAPIC_LEN <= PC_HIGH_RAM_BASE, "local APIC above 4 GiB");
_Static_assert(PC_HIGH_RAM_BASE + PC_RAM_MAX + PC_PCI_MMIO64_ALIGN + PC_PCI_MMIO64_LEN <= PC_PHYS_END_MAX,
               "the 64-bit window must be addressable");
_Static_assert(PC_UART_GSI < 16 && PC_RTC_GSI < 16 && PC_SCI_GSI < 16, "ISA interrupts are below 16");
_Static_assert(PC_PCI_INTX_GSI >= 16 && PC_PCI_INTX_GSI + 4 <= 24,
               "INTx pins lie outside the ISA range and inside the chip");

#endif
