/* DSDT: PCI root with its windows and interrupt routing, serial port, clock, reserved motherboard resources,
 * S5. */
#include "acpi/dsdt.h"

#define PCI_DEVICES 32
#define PCI_PINS 4
#define ROUTE_ANY_FUNCTION 0xffff

/* _PRT (ACPI 6.4, 6.2.13): the interrupts are fixed, so each entry names its GSI and no link device. */
static void write_routing(struct aml *a, const struct acpi_board *board)
{
    size_t table, entry;

    aml_name(a, "_PRT");
    table = aml_package_begin(a, PCI_DEVICES * PCI_PINS);
    for (unsigned device = 0; device < PCI_DEVICES; device++) {
        for (unsigned pin = 0; pin < PCI_PINS; pin++) {
            entry = aml_package_begin(a, 4);
            aml_integer(a, device << 16 | ROUTE_ANY_FUNCTION);
            aml_integer(a, pin);
            aml_integer(a, 0);
            aml_integer(a, board->pci_intx_gsi[(device + pin) % 4]);
            aml_end(a, entry);
        }
    }
    aml_end(a, table);
}

static void write_pci_root(struct aml *a, const struct acpi_board *board)
{
    size_t device = aml_device_begin(a, "PCI0"), res;

    aml_name(a, "_HID");
    aml_eisa_id(a, "PNP0A08");
    aml_name(a, "_CID");
    aml_eisa_id(a, "PNP0A03");
    aml_name(a, "_UID");
    aml_integer(a, 0);
    aml_name(a, "_SEG");
    aml_integer(a, 0);
    aml_name(a, "_BBN");
    aml_integer(a, 0);

    aml_name(a, "_CRS");
    res = aml_resources_begin(a);
    aml_bus_range(a, 0, (uint16_t)(board->ecam.len / MIB(1) - 1));
    aml_io(a, 0xcf8, 8); /* the bridge's own configuration ports */
    if (board->pci_mmio32.len)
        aml_memory32_window(a, (uint32_t)board->pci_mmio32.base, (uint32_t)board->pci_mmio32.len);
    if (board->pci_mmio64.len)
        aml_memory64_window(a, board->pci_mmio64.base, board->pci_mmio64.len);
    aml_resources_end(a, res);

    write_routing(a, board);
    aml_end(a, device);
}

/* Kernels use ECAM only if a motherboard device reserves it. */
static void write_motherboard(struct aml *a, const struct acpi_board *board)
{
    size_t device = aml_device_begin(a, "MBRD"), res;

    aml_name(a, "_HID");
    aml_eisa_id(a, "PNP0C02");
    aml_name(a, "_UID");
    aml_integer(a, 0);
    aml_name(a, "_CRS");
    res = aml_resources_begin(a);
    aml_memory32_fixed(a, (uint32_t)board->ecam.base, (uint32_t)board->ecam.len);
    aml_resources_end(a, res);
    aml_end(a, device);
}

/* A device that is a few ports and perhaps an interrupt. */
struct isa_device {
    const char *name, *hid;
    bool is_eisa_id;
    uint16_t port;
    uint8_t port_len;
    uint8_t gsi; /* 0: none */
    uint8_t uid;
};

static void write_isa_device(struct aml *a, const struct isa_device *d)
{
    size_t device = aml_device_begin(a, d->name), res;

    aml_name(a, "_HID");
    if (d->is_eisa_id)
        aml_eisa_id(a, d->hid);
    else
        aml_string(a, d->hid);
    aml_name(a, "_UID");
    aml_integer(a, d->uid);
    aml_name(a, "_STA");
    aml_integer(a, 0xf); /* present, enabled, shown, working */
    aml_name(a, "_CRS");
    res = aml_resources_begin(a);
    aml_io(a, d->port, d->port_len);
    if (d->gsi)
        aml_irq(a, d->gsi);
    aml_resources_end(a, res);
    aml_end(a, device);
}

static void write_isa_devices(struct aml *a, const struct acpi_board *board)
{
    const struct isa_device devices[] = {
        { "COM1", "PNP0501", true, board->uart_port, 8, board->uart_gsi, 1 },
        { "RTC0", "PNP0B00", true, board->rtc_port, 2, board->rtc_gsi, 0 },
        { "PEVT", "QEMU0001", false, board->pvpanic_port, 1, 0, 0 },
    };

    for (unsigned i = 0; i < array_size(devices); i++)
        if (devices[i].port)
            write_isa_device(a, &devices[i]);
}

void dsdt_write(struct aml *a, const struct acpi_board *board)
{
    size_t scope, s5;

    scope = aml_scope_begin(a, "\\_SB");
    write_pci_root(a, board);
    write_motherboard(a, board);
    write_isa_devices(a, board);
    aml_end(a, scope);

    aml_name(a, "\\_S5"); /* ACPI 6.4, 7.4.2: values for PM1a and PM1b control */
    s5 = aml_package_begin(a, 4);
    aml_integer(a, board->slp_typ_s5);
    aml_integer(a, board->slp_typ_s5);
    aml_integer(a, 0);
    aml_integer(a, 0);
    aml_end(a, s5);
}
