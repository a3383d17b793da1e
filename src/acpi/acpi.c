/* The fixed tables and their assembly.
 *
 * Layout of the blob: RSDP, FACS (64-byte aligned), then DSDT, FADT, MADT, MCFG, RSDT, XSDT, each 16-byte
 * aligned. Every table is built in one growing buffer whose offset 0 stands at the address that the caller
 * gave, so that a table's address is known as soon as its offset is; tables come after those they point to,
 * and the RSDP is filled in last. */
#include "acpi/acpi.h"

#include <stdlib.h>
#include <string.h>

#include "acpi/aml.h"
#include "acpi/dsdt.h"

#define OEM_ID "YADO  "
#define OEM_TABLE_ID "YADOPC  "
#define CREATOR_ID "YADO"

#define RSDP_LEN 36
#define RSDP_V1_LEN 20
#define FACS_LEN 64
#define FADT_LEN 276 /* FADT 6.3 */
#define HEADER_LEN 36
#define HEADER_LENGTH_OFF 4
#define HEADER_CHECKSUM_OFF 9

#define TABLE_ALIGN 16
#define XSDT_ENTRIES 3

struct builder {
    struct aml out; /* only used as a growing buffer */
    uint64_t gpa;
    const struct acpi_board *board;
};

static void put_le(uint8_t *p, uint64_t value, unsigned len)
{
    for (unsigned i = 0; i < len; i++)
        p[i] = (uint8_t)(value >> (8 * i));
}

static uint8_t checksum(const uint8_t *p, size_t len)
{
    uint8_t sum = 0;

    while (len--)
        sum = (uint8_t)(sum + *p++);
    return (uint8_t)-sum;
}

static void append(struct builder *b, const void *bytes, size_t len)
{
    aml_bytes(&b->out, bytes, len);
}

static void append_le(struct builder *b, uint64_t value, unsigned len)
{
    uint8_t bytes[8];

    put_le(bytes, value, len);
    append(b, bytes, len);
}

static void align(struct builder *b, size_t to)
{
    static const uint8_t zeros[64];

    append(b, zeros, align_up(b->out.len, to) - b->out.len);
}

/* ACPI 6.4, 5.2.6. Length and checksum come with table_end. */
static size_t table_begin(struct builder *b, const char *signature, uint8_t revision)
{
    uint8_t header[HEADER_LEN] = { 0 };
    size_t start;

    align(b, TABLE_ALIGN);
    start = b->out.len;
    memcpy(header, signature, 4);
    header[8] = revision;
    memcpy(header + 10, OEM_ID, 6);
    memcpy(header + 16, OEM_TABLE_ID, 8);
    put_le(header + 24, 1, 4);
    memcpy(header + 28, CREATOR_ID, 4);
    put_le(header + 32, 1, 4);
    append(b, header, sizeof(header));
    return start;
}

/* Returns the table's address. */
static uint64_t table_end(struct builder *b, size_t start)
{
    if (!aml_failed(&b->out)) {
        uint8_t *p = b->out.bytes + start;
        size_t len = b->out.len - start;

        put_le(p + HEADER_LENGTH_OFF, len, 4);
        p[HEADER_CHECKSUM_OFF] = checksum(p, len);
    }
    return b->gpa + start;
}

/* ACPI 6.4, 5.2.10. No waking vector, no global lock owner. */
static uint64_t write_facs(struct builder *b)
{
    uint8_t facs[FACS_LEN] = { 0 };
    size_t start;

    align(b, 64);
    start = b->out.len;
    memcpy(facs, "FACS", 4);
    put_le(facs + 4, FACS_LEN, 4);
    facs[32] = 2; /* version */
    append(b, facs, sizeof(facs));
    return b->gpa + start;
}

static uint64_t write_dsdt(struct builder *b)
{
    size_t start = table_begin(b, "DSDT", 2);

    dsdt_write(&b->out, b->board);
    return table_end(b, start);
}

#define FADT_WBINVD (1u << 0)
#define FADT_PROC_C1 (1u << 2)
#define FADT_SLEEP_BUTTON_NOT_FIXED (1u << 5)
#define FADT_RTC_WAKE_NOT_FIXED (1u << 6)
#define FADT_TMR_VAL_EXT (1u << 8)
#define FADT_RESET_REG_SUP (1u << 10)
#define FADT_FLAGS                                                                                           \
    (FADT_WBINVD | FADT_PROC_C1 | FADT_SLEEP_BUTTON_NOT_FIXED | FADT_RTC_WAKE_NOT_FIXED | FADT_TMR_VAL_EXT | \
     FADT_RESET_REG_SUP)

#define BOOT_ARCH_LEGACY_DEVICES (1u << 0) /* a serial port on ISA addresses */
#define BOOT_ARCH_NO_VGA (1u << 2)
#define BOOT_ARCH_NO_ASPM (1u << 4)
#define BOOT_ARCH_NO_CMOS_RTC (1u << 5)
#define BOOT_ARCH_8042 (1u << 1)

/* Generic address structure for ports (ACPI 6.4, 5.2.3.2). access: 1 byte, 2 word, 3 dword. */
static void put_gas(uint8_t *p, uint16_t port, unsigned bytes, unsigned access)
{
    p[0] = 1; /* system I/O */
    p[1] = (uint8_t)(bytes * 8);
    p[2] = 0;
    p[3] = (uint8_t)access;
    put_le(p + 4, port, 8);
}

/* ACPI 6.4, 5.2.9; offsets are those of table 5.9. SMI_CMD stays 0: always in ACPI mode. */
static uint64_t write_fadt(struct builder *b, uint64_t facs, uint64_t dsdt)
{
    const struct acpi_board *board = b->board;
    uint8_t fadt[FADT_LEN] = { 0 };
    unsigned arch = BOOT_ARCH_NO_VGA | BOOT_ARCH_NO_ASPM;
    size_t start = table_begin(b, "FACP", 6);

    if (board->uart_port)
        arch |= BOOT_ARCH_LEGACY_DEVICES;
    if (!board->rtc_port)
        arch |= BOOT_ARCH_NO_CMOS_RTC;
    if (board->legacy_pic)
        arch |= BOOT_ARCH_8042;
    put_le(fadt + 36, facs, 4);
    put_le(fadt + 40, dsdt, 4);
    put_le(fadt + 46, board->sci_gsi, 2);
    put_le(fadt + 56, board->pm1_evt_port, 4);
    put_le(fadt + 64, board->pm1_cnt_port, 4);
    put_le(fadt + 76, board->pm_tmr_port, 4);
    fadt[88] = 4;                 /* PM1_EVT_LEN */
    fadt[89] = 2;                 /* PM1_CNT_LEN */
    fadt[91] = 4;                 /* PM_TMR_LEN */
    put_le(fadt + 96, 0xffff, 2); /* no C2 */
    put_le(fadt + 98, 0xffff, 2); /* no C3 */
    fadt[108] = board->rtc_century;
    put_le(fadt + 109, arch, 2);
    put_le(fadt + 112, FADT_FLAGS, 4);
    put_gas(fadt + 116, board->reset_port, 1, 1);
    fadt[128] = board->reset_value;
    fadt[131] = 3; /* minor version */
    put_le(fadt + 132, facs, 8);
    put_le(fadt + 140, dsdt, 8);
    put_gas(fadt + 148, board->pm1_evt_port, 4, 2);
    put_gas(fadt + 172, board->pm1_cnt_port, 2, 2);
    put_gas(fadt + 208, board->pm_tmr_port, 4, 3);
    append(b, fadt + HEADER_LEN, sizeof(fadt) - HEADER_LEN);
    return table_end(b, start);
}

#define MADT_LOCAL_APIC 0
#define MADT_IO_APIC 1
#define MADT_OVERRIDE 2
#define MADT_LAPIC_NMI 4
#define MADT_LOCAL_X2APIC 9
#define MADT_X2APIC_NMI 10

#define MADT_ENABLED 1
#define MADT_LEVEL_HIGH 0x000d /* active high, level-triggered */
#define XAPIC_IDS 255          /* 255 is the broadcast id */

/* ACPI 6.4, 5.2.12.2 and 5.2.12.12. */
static void write_processor(struct builder *b, uint32_t id)
{
    if (id < XAPIC_IDS) {
        append_le(b, MADT_LOCAL_APIC, 1);
        append_le(b, 8, 1);
        append_le(b, id, 1); /* processor UID */
        append_le(b, id, 1);
        append_le(b, MADT_ENABLED, 4);
        return;
    }
    append_le(b, MADT_LOCAL_X2APIC, 1);
    append_le(b, 16, 1);
    append_le(b, 0, 2);
    append_le(b, id, 4);
    append_le(b, MADT_ENABLED, 4);
    append_le(b, id, 4); /* processor UID */
}

/* LINT1 of all processors is NMI, as on every PC (5.2.12.7 and 5.2.12.13). */
static void write_nmis(struct builder *b)
{
    append_le(b, MADT_LAPIC_NMI, 1);
    append_le(b, 6, 1);
    append_le(b, 0xff, 1); /* all */
    append_le(b, 0, 2);    /* polarity and trigger conform to the bus */
    append_le(b, 1, 1);    /* LINT1 */
    if (b->board->vcpu_count <= XAPIC_IDS)
        return;
    append_le(b, MADT_X2APIC_NMI, 1);
    append_le(b, 12, 1);
    append_le(b, 0, 2);
    append_le(b, 0xffffffff, 4);
    append_le(b, 1, 1);
    append_le(b, 0, 3);
}

#define MADT_PCAT_COMPAT 1

/* 5.2.12.5 */
static void write_override(struct builder *b, unsigned irq, unsigned gsi, unsigned flags)
{
    append_le(b, MADT_OVERRIDE, 1);
    append_le(b, 10, 1);
    append_le(b, 0, 1); /* bus: ISA */
    append_le(b, irq, 1);
    append_le(b, gsi, 4);
    append_le(b, flags, 2);
}

static uint64_t write_madt(struct builder *b)
{
    const struct acpi_board *board = b->board;
    size_t start = table_begin(b, "APIC", 5);

    append_le(b, board->lapic_base, 4);
    append_le(b, board->legacy_pic ? MADT_PCAT_COMPAT : 0, 4);
    for (uint32_t id = 0; id < board->vcpu_count; id++)
        write_processor(b, id);

    append_le(b, MADT_IO_APIC, 1);
    append_le(b, 12, 1);
    append_le(b, board->ioapic_id, 1);
    append_le(b, 0, 1);
    append_le(b, board->ioapic_base, 4);
    append_le(b, 0, 4); /* first GSI */

    if (board->legacy_pic) /* the timer: pin 0 is the 8259s' by custom */
        write_override(b, 0, 2, 0);
    write_override(b, board->sci_gsi, board->sci_gsi, MADT_LEVEL_HIGH); /* the only one that is not edge */

    write_nmis(b);
    return table_end(b, start);
}

/* PCI Firmware 3.2, table 4-2 and 4-3. */
static uint64_t write_mcfg(struct builder *b)
{
    const struct acpi_window *ecam = &b->board->ecam;
    size_t start = table_begin(b, "MCFG", 1);

    append_le(b, 0, 8);
    append_le(b, ecam->base, 8);
    append_le(b, 0, 2); /* segment */
    append_le(b, 0, 1); /* first bus */
    append_le(b, ecam->len / MIB(1) - 1, 1);
    append_le(b, 0, 4);
    return table_end(b, start);
}

/* ACPI 6.4, 5.2.5.3. Readers of revision 1 take the RSDT, all others the XSDT. */
static void fill_rsdp(struct builder *b, uint64_t rsdt, uint64_t xsdt)
{
    uint8_t *p = b->out.bytes;

    memset(p, 0, RSDP_LEN);
    memcpy(p, "RSD PTR ", 8);
    memcpy(p + 9, OEM_ID, 6);
    p[15] = 2; /* revision */
    put_le(p + 16, rsdt, 4);
    put_le(p + 20, RSDP_LEN, 4);
    put_le(p + 24, xsdt, 8);
    p[8] = checksum(p, RSDP_V1_LEN);
    p[32] = checksum(p, RSDP_LEN);
}

static void write_tables(struct builder *b)
{
    static const uint8_t rsdp_room[RSDP_LEN];
    uint64_t facs, dsdt, tables[XSDT_ENTRIES], rsdt, xsdt;
    size_t start;

    append(b, rsdp_room, sizeof(rsdp_room));
    facs = write_facs(b);
    dsdt = write_dsdt(b);
    tables[0] = write_fadt(b, facs, dsdt);
    tables[1] = write_madt(b);
    tables[2] = write_mcfg(b);
    start = table_begin(b, "RSDT", 1);
    for (unsigned i = 0; i < XSDT_ENTRIES; i++)
        append_le(b, tables[i], 4);
    rsdt = table_end(b, start);
    start = table_begin(b, "XSDT", 1);
    for (unsigned i = 0; i < XSDT_ENTRIES; i++)
        append_le(b, tables[i], 8);
    xsdt = table_end(b, start);
    if (!aml_failed(&b->out))
        fill_rsdp(b, rsdt, xsdt);
}

bool acpi_build(const struct acpi_board *board, uint64_t gpa, size_t room, struct acpi_tables *out,
                struct yado_error *err)
{
    struct builder b = { .gpa = gpa, .board = board };

    /* The description is the machine's own; a slip in it is not the user's doing. */
    BUG_ON(!board->vcpu_count || gpa % 64 || gpa + room > GIB(4) || board->sci_gsi >= 16);
    BUG_ON(!board->ecam.len || board->ecam.len % MIB(1) || board->ecam.len > MIB(256));
    BUG_ON(board->ecam.base + board->ecam.len > GIB(4));
    BUG_ON(board->pci_mmio32.base + board->pci_mmio32.len > GIB(4));

    *out = (struct acpi_tables){ 0 };
    write_tables(&b);
    if (aml_failed(&b.out)) {
        aml_free(&b.out);
        return err_set(err, YADO_ERR_HOST, "ACPI tables: out of memory");
    }
    if (b.out.len > room) {
        size_t len = b.out.len;

        aml_free(&b.out);
        return err_set(err, YADO_ERR_INTERNAL, "ACPI tables: %zu bytes do not fit into %zu", len, room);
    }
    *out = (struct acpi_tables){ .bytes = b.out.bytes, .len = b.out.len, .rsdp_gpa = gpa };
    return true;
}

void acpi_tables_free(struct acpi_tables *t)
{
    free(t->bytes);
    *t = (struct acpi_tables){ 0 };
}
