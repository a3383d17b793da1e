/* ACPI tables: structure and checksums by our own reader, and, where Debian's acpica-tools are installed,
 * disassembly of every table with no complaint (iasl) and the namespace loaded and evaluated (acpiexec). */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "acpi/acpi.h"
#include "acpi/aml.h"

#define BASE 0xe0000u
#define ROOM 0x20000u

static struct acpi_board board_get(unsigned vcpus)
{
    return (struct acpi_board){
        .vcpu_count = vcpus,
        .lapic_base = 0xfee00000,
        .ioapic_base = 0xfec00000,
        .ioapic_id = 0,
        .sci_gsi = 9,
        .pm1_evt_port = 0x600,
        .pm1_cnt_port = 0x604,
        .pm_tmr_port = 0x608,
        .reset_port = 0xcf9,
        .reset_value = 6,
        .slp_typ_s5 = 5,
        .ecam = { 0xe0000000, MIB(1) },
        .pci_mmio32 = { 0xc0000000, MIB(512) },
        .pci_mmio64 = { 0x800000000, GIB(16) },
        .pci_intx_gsi = { 16, 17, 18, 19 },
        .uart_port = 0x3f8,
        .uart_gsi = 4,
        .rtc_port = 0x70,
        .rtc_gsi = 8,
        .rtc_century = 0x32,
        .pvpanic_port = 0x505,
    };
}

static struct acpi_tables build(unsigned vcpus)
{
    struct acpi_board board = board_get(vcpus);
    struct yado_error err = YADO_ERROR_INIT;
    struct acpi_tables t;

    if (!acpi_build(&board, BASE, ROOM, &t, &err))
        fail_msg("%s", err.message);
    return t;
}

static uint64_t le(const uint8_t *p, unsigned n)
{
    uint64_t v = 0;

    for (unsigned i = 0; i < n; i++)
        v |= (uint64_t)p[i] << (8 * i);
    return v;
}

static unsigned sum(const uint8_t *p, size_t n)
{
    unsigned s = 0;

    while (n--)
        s += *p++;
    return s & 0xff;
}

static const uint8_t *at(const struct acpi_tables *t, uint64_t gpa)
{
    assert_in_range(gpa, BASE, BASE + t->len - 8);
    return t->bytes + (gpa - BASE);
}

/* Follows RSDP and XSDT as an operating system does. */
static const uint8_t *find_table(const struct acpi_tables *t, const char *signature)
{
    const uint8_t *rsdp = at(t, t->rsdp_gpa), *xsdt;

    assert_memory_equal(rsdp, "RSD PTR ", 8);
    assert_int_equal(t->rsdp_gpa % 16, 0);
    assert_int_equal(sum(rsdp, 20), 0);
    assert_int_equal(sum(rsdp, 36), 0);
    xsdt = at(t, le(rsdp + 24, 8));
    assert_memory_equal(xsdt, "XSDT", 4);
    { /* 5.2.5.3: the RSDT has the same tables */
        const uint8_t *rsdt = at(t, le(rsdp + 16, 4));

        assert_memory_equal(rsdt, "RSDT", 4);
        assert_int_equal(sum(rsdt, le(rsdt + 4, 4)), 0);
        assert_int_equal((le(rsdt + 4, 4) - 36) * 2, le(xsdt + 4, 4) - 36);
        for (unsigned i = 0; i < (le(rsdt + 4, 4) - 36) / 4; i++)
            assert_int_equal(le(rsdt + 36 + 4 * i, 4), le(xsdt + 36 + 8 * i, 8));
    }
    assert_int_equal(sum(xsdt, le(xsdt + 4, 4)), 0);
    for (unsigned off = 36; off < le(xsdt + 4, 4); off += 8) {
        const uint8_t *table = at(t, le(xsdt + off, 8));

        assert_int_equal(sum(table, le(table + 4, 4)), 0);
        if (!memcmp(table, signature, 4))
            return table;
    }
    return NULL;
}

static void fadt_fields(void **state) /* ACPI 6.4, table 5.9 */
{
    struct acpi_tables t = build(2);
    const uint8_t *f = find_table(&t, "FACP"), *facs, *dsdt;

    (void)state;
    assert_non_null(f);
    assert_int_equal(le(f + 4, 4), 276);
    facs = at(&t, le(f + 132, 8));
    dsdt = at(&t, le(f + 140, 8));
    assert_int_equal(le(f + 36, 4), le(f + 132, 8));
    assert_int_equal(le(f + 40, 4), le(f + 140, 8));
    assert_memory_equal(facs, "FACS", 4);
    assert_int_equal(le(f + 132, 8) % 64, 0);
    assert_memory_equal(dsdt, "DSDT", 4);
    assert_int_equal(sum(dsdt, le(dsdt + 4, 4)), 0);
    assert_int_equal(le(f + 48, 4), 0);            /* SMI_CMD */
    assert_int_equal(le(f + 112, 4) & 1 << 4, 0);  /* the power button is fixed hardware */
    assert_int_equal(le(f + 112, 4) & 1 << 20, 0); /* not hardware-reduced */
    assert_int_equal(le(f + 112, 4) & 1 << 10, 1 << 10);
    assert_int_equal(le(f + 109, 2) & 1 << 1, 0);      /* no 8042 */
    assert_int_equal(le(f + 109, 2) & 1 << 2, 1 << 2); /* no VGA */
    assert_int_equal(le(f + 120, 8), 0xcf9);
    assert_int_equal(f[128], 6);
    assert_int_equal(le(f + 152, 8), 0x600);
    assert_int_equal(le(f + 176, 8), 0x604);
    assert_int_equal(le(f + 212, 8), 0x608);
    acpi_tables_free(&t);
}

static void check_madt(unsigned vcpus)
{
    struct acpi_tables t = build(vcpus);
    const uint8_t *m = find_table(&t, "APIC");
    unsigned cpus = 0, ioapics = 0, nmis = 0, len = (unsigned)le(m + 4, 4), off;

    assert_int_equal(le(m + 40, 4), 0); /* no 8259s */
    for (off = 44; off < len; off += m[off + 1]) {
        const uint8_t *e = m + off;

        assert_true(e[1] >= 2);
        if (e[0] == 0) {
            assert_int_equal(e[3], cpus++);
            assert_int_equal(le(e + 4, 4), 1);
        } else if (e[0] == 9) {
            assert_true(cpus >= 255);
            assert_int_equal(le(e + 4, 4), cpus);
            assert_int_equal(le(e + 12, 4), cpus++);
            assert_int_equal(le(e + 8, 4), 1);
        } else if (e[0] == 1) {
            ioapics++;
            assert_int_equal(le(e + 4, 4), 0xfec00000);
            assert_int_equal(le(e + 8, 4), 0);
        } else if (e[0] == 2) {
            assert_int_equal(e[3], 9);
            assert_int_equal(le(e + 4, 4), 9);
            assert_int_equal(le(e + 8, 2), 0x0d);
        } else if (e[0] == 4 || e[0] == 10) {
            nmis++;
        } else {
            fail_msg("entry of type %u", e[0]);
        }
    }
    assert_int_equal(off, len);
    assert_int_equal(cpus, vcpus);
    assert_int_equal(ioapics, 1);
    assert_int_equal(nmis, vcpus > 255 ? 2 : 1);
    acpi_tables_free(&t);
}

static void madt_entries(void **state)
{
    (void)state;
    check_madt(1);
    check_madt(4);
    check_madt(255);
    check_madt(256);
    check_madt(1024);
}

static void mcfg_entry(void **state)
{
    struct acpi_tables t = build(1);
    const uint8_t *m = find_table(&t, "MCFG");

    (void)state;
    assert_int_equal(le(m + 4, 4), 60);
    assert_int_equal(le(m + 44, 8), 0xe0000000);
    assert_int_equal(m[54], 0);
    assert_int_equal(m[55], 0);
    acpi_tables_free(&t);
}

/* With 8259s: 5.2.12 (PCAT_COMPAT), 5.2.12.5 (the timer's override), table 5.10 (8042). */
static void older_chips(void **state)
{
    struct acpi_board board = board_get(2);
    struct yado_error err = YADO_ERROR_INIT;
    const uint8_t override[10] = { 2, 10, 0, 0, 2 };
    struct acpi_tables t;
    const uint8_t *m, *f;
    unsigned found = 0;

    (void)state;
    board.legacy_pic = true;
    assert_true(acpi_build(&board, BASE, ROOM, &t, &err));
    f = find_table(&t, "FACP");
    assert_int_equal(le(f + 109, 2) & 1 << 1, 1 << 1);
    m = find_table(&t, "APIC");
    assert_int_equal(le(m + 40, 4), 1);
    for (unsigned off = 44; off < le(m + 4, 4); off += m[off + 1])
        found += !memcmp(m + off, override, sizeof(override));
    assert_int_equal(found, 1);
    acpi_tables_free(&t);
}

static void too_little_room(void **state)
{
    struct acpi_board board = board_get(4);
    struct yado_error err = YADO_ERROR_INIT;
    struct acpi_tables t;

    (void)state;
    assert_false(acpi_build(&board, BASE, 1000, &t, &err));
    assert_int_equal(err.code, YADO_ERR_INTERNAL);
    acpi_tables_free(&t);
}

/* Package lengths at the borders of their encodings (20.2.4). */
static void package_lengths(void **state)
{
    static const struct {
        size_t contents;
        unsigned enc_len;
    } cases[] = {
        { 62, 1 }, { 63, 2 }, { 4093, 2 }, { 4094, 3 }, { 1048572, 3 }, { 1048573, 4 },
    };

    (void)state;
    for (unsigned i = 0; i < array_size(cases); i++) {
        struct aml a = { 0 };
        size_t mark = aml_package_begin(&a, 7), total;
        uint8_t b = 0xa5;

        while (a.len - mark - 4 < cases[i].contents)
            aml_bytes(&a, &b, 1);
        aml_end(&a, mark);
        assert_false(aml_failed(&a));
        assert_int_equal((a.bytes[1] >> 6) + 1, cases[i].enc_len);
        total = cases[i].enc_len == 1 ? a.bytes[1] & 0x3fu
                                      : (a.bytes[1] & 0xfu) | le(a.bytes + 2, cases[i].enc_len - 1) << 4;
        assert_int_equal(total, cases[i].contents + cases[i].enc_len);
        assert_int_equal(a.len, 1 + total);
        assert_int_equal(a.bytes[1 + cases[i].enc_len], 7);
        aml_free(&a);
    }
}

static void eisa_ids(void **state)
{
    struct aml a = { 0 };

    (void)state;
    aml_eisa_id(&a, "PNP0A08");
    assert_int_equal(a.len, 5);
    assert_memory_equal(a.bytes, "\x0c\x41\xd0\x0a\x08", 5);
    aml_free(&a);
}

/* ---- the oracles ---- */

static char dir[64];

static bool have(const char *tool)
{
    char command[128];

    snprintf(command, sizeof(command), "command -v %s >/dev/null 2>&1", tool);
    return system(command) == 0;
}

static void write_table(const uint8_t *table, const char *name)
{
    char path[128];
    FILE *f;

    snprintf(path, sizeof(path), "%s/%s.aml", dir, name);
    f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(table, 1, le(table + 4, 4), f), le(table + 4, 4));
    fclose(f);
}

static char *slurp(const char *name)
{
    static char text[1 << 20];
    char path[128];
    FILE *f;
    size_t n;

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    f = fopen(path, "rb");
    assert_non_null(f);
    n = fread(text, 1, sizeof(text) - 1, f);
    text[n] = 0;
    fclose(f);
    return text;
}

static int make_dir(void **state)
{
    struct acpi_tables t = build(2);

    (void)state;
    strcpy(dir, "/tmp/yado-acpi-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    write_table(find_table(&t, "FACP"), "facp");
    write_table(find_table(&t, "APIC"), "apic");
    write_table(find_table(&t, "MCFG"), "mcfg");
    write_table(at(&t, le(find_table(&t, "FACP") + 140, 8)), "dsdt");
    acpi_tables_free(&t);
    return 0;
}

static int remove_dir(void **state)
{
    char command[128];

    (void)state;
    snprintf(command, sizeof(command), "rm -rf %s", dir);
    return system(command);
}

static void iasl_reads_all(void **state)
{
    static const struct {
        const char *table, *expect;
    } cases[] = {
        { "dsdt", "EisaId (\"PNP0A08\")" },
        { "facp", "SCI Interrupt : 0009" },
        { "apic", "[I/O APIC]" },
        { "mcfg", "00000000E0000000" },
    };

    (void)state;
    if (!have("iasl")) {
        print_message("iasl (Debian acpica-tools) is not installed: skipped\n");
        skip();
    }
    for (unsigned i = 0; i < array_size(cases); i++) {
        char command[256], name[32], *text;

        snprintf(command, sizeof(command), "cd %s && iasl -d %s.aml > %s.log 2>&1", dir, cases[i].table,
                 cases[i].table);
        assert_int_equal(system(command), 0);
        snprintf(name, sizeof(name), "%s.log", cases[i].table);
        text = slurp(name);
        if (strcasestr(text, "error") || strcasestr(text, "warning"))
            fail_msg("%s", text);
        snprintf(name, sizeof(name), "%s.dsl", cases[i].table);
        text = slurp(name);
        if (!strstr(text, cases[i].expect))
            fail_msg("no \"%s\" in:\n%s", cases[i].expect, text);
        if (strstr(text, "Invalid") || strstr(text, "Incorrect"))
            fail_msg("%s", text);
    }
}

/* The disassembly compiles again without errors or warnings of its own. */
static void iasl_compiles_it_again(void **state)
{
    char command[256], *text;

    (void)state;
    if (!have("iasl"))
        skip();
    snprintf(command, sizeof(command),
             "cd %s && iasl -d dsdt.aml > /dev/null 2>&1 && iasl -p again dsdt.dsl > c.log 2>&1", dir);
    assert_int_equal(system(command), 0);
    text = slurp("c.log");
    if (!strstr(text, " 0 Errors, 0 Warnings"))
        fail_msg("%s", text);
}

static void acpiexec_evaluates(void **state)
{
    char command[256], *text;

    (void)state;
    if (!have("acpiexec"))
        skip();
    snprintf(command, sizeof(command),
             "cd %s && acpiexec -b 'evaluate \\_S5;evaluate \\_SB.PCI0._BBN;resources \\_SB.PCI0;resources "
             "\\_SB.COM1;quit' dsdt.aml > e.log 2>&1",
             dir);
    assert_int_equal(system(command), 0);
    text = slurp("e.log");
    if (!strstr(text, "Contains 4 Elements") || strstr(text, "AE_AML") || strstr(text, "Error"))
        fail_msg("%s", text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fadt_fields),
        cmocka_unit_test(madt_entries),
        cmocka_unit_test(older_chips),
        cmocka_unit_test(mcfg_entry),
        cmocka_unit_test(too_little_room),
        cmocka_unit_test(package_lengths),
        cmocka_unit_test(eisa_ids),
        cmocka_unit_test(iasl_reads_all),
        cmocka_unit_test(iasl_compiles_it_again),
        cmocka_unit_test(acpiexec_evaluates),
    };

    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
