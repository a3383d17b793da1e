/* ACPI tables for the board, made from a plain description that the machine fills. Pure: bytes out, no guest
 * memory, no address of its own. Source: ACPI 6.4; PCI Firmware 3.2, section 4.1 (MCFG). */
#ifndef ACPI_ACPI_H
#define ACPI_ACPI_H

#include "util/err.h"

struct acpi_window {
    uint64_t base, len; /* len 0: absent */
};

struct acpi_board {
    unsigned vcpu_count; /* local APIC ids 0 .. vcpu_count - 1, at least 1 */
    uint32_t lapic_base; /* guest physical */
    uint32_t ioapic_base;
    uint8_t ioapic_id; /* its pins are GSI 0 and up */

    uint8_t sci_gsi;                                  /* level, active high; below 16 */
    uint16_t pm1_evt_port, pm1_cnt_port, pm_tmr_port; /* chip/pm.h, base plus offset */
    uint16_t reset_port;
    uint8_t reset_value;
    uint8_t slp_typ_s5;

    struct acpi_window ecam; /* of bus 0 up; 1 MiB for each bus */
    struct acpi_window pci_mmio32, pci_mmio64;
    uint8_t pci_intx_gsi[4]; /* pin p of device d of bus 0 is pci_intx_gsi[(d + p) % 4], p is 0 for INTA */

    uint16_t uart_port;    /* 0: none */
    uint8_t uart_gsi;      /* edge, active high; below 16 */
    uint16_t rtc_port;     /* 0: none */
    uint8_t rtc_gsi;       /* below 16; 0: the clock raises no interrupts */
    uint8_t rtc_century;   /* CMOS index, 0: none */
    uint16_t pvpanic_port; /* 0: none */
    bool legacy_pic;       /* there are 8259s, an 8254 whose interrupt is GSI 2, and an 8042 */
};

struct acpi_tables {
    uint8_t *bytes;
    size_t len;
    uint64_t rsdp_gpa; /* the RSDP comes first, so this is the address asked for */
};

/* Builds the tables as they must stand at `gpa` (multiple of 64, below 4 GiB), at most `room` bytes. To be
 * found by a scan too, gpa should be in [0xe0000, 0x100000). Free with acpi_tables_free. Any thread. */
bool acpi_build(const struct acpi_board *board, uint64_t gpa, size_t room, struct acpi_tables *out,
                struct yado_error *err);
void acpi_tables_free(struct acpi_tables *t);

#endif
