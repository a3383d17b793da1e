/* bzImage: what a good one becomes in memory, and an error for each way in which it can be bad (boot.rst). */
#include "image.h"

#define RAM MIB(64)
#define PAYLOAD_LEN 8192
#define INIT_SIZE MIB(4)
#define PREF MIB(16)

static struct image kernel, initrd;

static void kernel_make(void)
{
    memset(&kernel, 0, sizeof(kernel));
    kernel.len = SETUP_LEN + PAYLOAD_LEN;
    put_setup_header(&kernel, PREF, INIT_SIZE);
    for (unsigned i = 0; i < PAYLOAD_LEN; i++)
        kernel.bytes[SETUP_LEN + i] = (uint8_t)(i * 13);
}

static struct boot_input input_make(void)
{
    kernel_make();
    return (struct boot_input){ .kernel = file_of(&kernel, "vmlinuz"),
                                .cmdline = "console=hvc0",
                                .layout = layout_get() };
}

static void initrd_make(size_t len)
{
    assert_true(len <= IMAGE_MAX);
    memset(&initrd, 0x5a, sizeof(initrd));
    memcpy(initrd.bytes, "BZh9", 4); /* taken by its magic alone */
    initrd.len = len;
}

static void loads_where_it_should(void **state)
{
    struct boot_input in = input_make();
    struct gmem *mem = gmem_new(RAM, GIB(3), false, NULL);
    struct yado_error err = YADO_ERROR_INIT;
    struct x86_state *s = aligned_alloc(64, sizeof(*s));
    const uint8_t *ram, *zp;
    uint64_t initrd_gpa;

    (void)state;
    initrd_make(10000);
    in.initrd = file_of(&initrd, "initrd.img");
    if (!boot_load(&in, mem, s, &err))
        fail_msg("%s", err.message);
    ram = gmem_span(mem, 0, RAM, GMEM_READ);
    zp = ram + in.layout.params;
    assert_memory_equal(ram + PREF, kernel.bytes + SETUP_LEN, PAYLOAD_LEN);
    assert_string_equal((const char *)ram + in.layout.cmdline, "console=hvc0");
    assert_memory_equal(zp + 0x202, kernel.bytes + 0x202, 0x20e - 0x202);
    assert_int_equal(zp[0x210], 0xff);
    assert_int_equal(get(zp + 0x228, 4), in.layout.cmdline);
    assert_int_equal(get(zp + 0x70, 8), 0xe0000);
    initrd_gpa = get(zp + 0x218, 4);
    assert_int_equal(get(zp + 0x21c, 4), 10000);
    assert_int_equal(initrd_gpa, RAM - 3 * 4096);
    assert_memory_equal(ram + initrd_gpa, initrd.bytes, 10000);
    assert_int_equal(zp[0x1ef], 0); /* sentinel: the kernel must take the rest as written */

    assert_int_equal(s->rip, PREF + 0x200);
    assert_int_equal(s->gpr[R_SI], in.layout.params);
    assert_int_equal(s->cr3, in.layout.page_tables);
    assert_true(s->cr0 & CR0_PG);
    assert_true(s->cr0 & CR0_PE);
    assert_true(s->cr4 & CR4_PAE);
    assert_int_equal(s->efer & (EFER_LME | EFER_LMA), EFER_LME | EFER_LMA);
    assert_int_equal(s->rflags & FL_IF, 0);
    assert_int_equal(s->seg[S_CS].sel, 0x10);
    assert_int_equal(s->seg[S_DS].sel, 0x18);
    assert_int_equal(s->seg[S_CS].attr & (SEG_L | SEG_DB | SEG_P), SEG_L | SEG_P);
    assert_int_equal(s->mp_state, X86_MP_RUNNING);
    assert_int_equal(get(ram + s->gdt.base + 0x10, 8), 0x00af9b000000ffff);
    gmem_free(mem);
    free(s);
}

/* The tables, walked as the processor does, map each of the first 4 GiB to itself. */
static void page_tables_are_identity(void **state)
{
    struct boot_input in = input_make();
    struct gmem *mem = gmem_new(RAM, GIB(3), false, NULL);
    struct x86_state *s = aligned_alloc(64, sizeof(*s));
    const uint8_t *ram;

    (void)state;
    assert_true(boot_load(&in, mem, s, NULL));
    ram = gmem_span(mem, 0, RAM, GMEM_READ);
    for (uint64_t va = 0; va < GIB(4); va += MIB(1)) {
        uint64_t e = get(ram + s->cr3 + 8 * (va >> 39 & 511), 8);

        assert_int_equal(e & 0x83, 3);
        e = get(ram + (e & ~0xfffull) + 8 * (va >> 30 & 511), 8);
        assert_int_equal(e & 0x83, 3);
        e = get(ram + (e & ~0xfffull) + 8 * (va >> 21 & 511), 8);
        assert_int_equal(e & 0x83, 0x83);
        assert_int_equal((e & ~0x1fffffull) + (va & 0x1fffff), va);
    }
    gmem_free(mem);
    free(s);
}

static void memory_map(void **state)
{
    struct boot_input in = input_make();
    struct gmem *mem = gmem_new(GIB(4), GIB(3), false, NULL);
    struct x86_state *s = aligned_alloc(64, sizeof(*s));
    const struct boot_reserved expect[] = {
        { 0, 0x9fc00, BOOT_MAP_RAM },
        { 0x9fc00, MIB(1) - 0x9fc00, BOOT_MAP_RESERVED },
        { MIB(1), GIB(3) - MIB(1), BOOT_MAP_RAM },
        { GIB(4), GIB(1), BOOT_MAP_RAM },
        { 0xe0000, 0x20000, BOOT_MAP_ACPI },
        { 0xe0000000, MIB(1), BOOT_MAP_RESERVED },
    };
    uint8_t zp[4096];

    (void)state;
    if (!mem) {
        free(s);
        skip(); /* the host cannot give 4 GiB */
    }
    assert_true(boot_load(&in, mem, s, NULL));
    assert_true(gmem_read(mem, in.layout.params, zp, sizeof(zp)));
    assert_int_equal(zp[0x1e8], array_size(expect));
    for (unsigned i = 0; i < array_size(expect); i++) {
        assert_int_equal(get(zp + 0x2d0 + 20 * i, 8), expect[i].gpa);
        assert_int_equal(get(zp + 0x2d0 + 20 * i + 8, 8), expect[i].len);
        assert_int_equal(get(zp + 0x2d0 + 20 * i + 16, 4), expect[i].type);
    }
    gmem_free(mem);
    free(s);
}

static void initrd_obeys_the_kernels_limit(void **state)
{
    struct boot_input in = input_make();
    struct gmem *mem = gmem_new(RAM, GIB(3), false, NULL);
    struct x86_state *s = aligned_alloc(64, sizeof(*s));
    const uint8_t *ram = gmem_span(mem, 0, RAM, GMEM_READ);

    (void)state;
    initrd_make(5000);
    in.initrd = file_of(&initrd, "initrd.img");
    put(kernel.bytes + 0x22c, MIB(32) - 1, 4);
    assert_true(boot_load(&in, mem, s, NULL));
    assert_int_equal(get(ram + in.layout.params + 0x218, 4), MIB(32) - 2 * 4096);
    put(kernel.bytes + 0x22c, PREF + INIT_SIZE + 4095, 4); /* one page is left */
    expect_error(&in, RAM, "initrd.img", "more than this kernel can be given");
    gmem_free(mem);
    free(s);
}

static void memory_too_small(void **state)
{
    struct boot_input in = input_make();

    (void)state;
    expect_good(&in, PREF + INIT_SIZE);
    expect_error(&in, PREF + INIT_SIZE - MIB(1), "memory: 19 MiB is too small", "use at least 20 MiB");
    initrd_make(MIB(3));
    in.initrd = file_of(&initrd, "initrd.img");
    expect_good(&in, MIB(23));
    expect_error(&in, MIB(22), "memory: 22 MiB is too small", "initrd.img (3 MiB); use at least 23 MiB");
}

static void command_line_length(void **state)
{
    struct boot_input in = input_make();
    char text[4200];

    (void)state;
    memset(text, 'a', sizeof(text));
    in.cmdline = text;
    text[2047] = 0;
    expect_good(&in, RAM);
    text[2047] = 'a';
    text[2048] = 0;
    expect_error(&in, RAM, "command line: 2048", "at most 2047");
    put(kernel.bytes + 0x238, 100000, 4);
    text[2048] = 'a';
    text[4095] = 0;
    expect_good(&in, RAM);
    text[4095] = 'a';
    text[4096] = 0;
    expect_error(&in, RAM, "command line: 4096", "at most 4095"); /* the room that the machine has */
    in.cmdline = NULL;
    expect_good(&in, RAM);
}

static void bad_headers(void **state)
{
    static const struct {
        unsigned off, len;
        uint64_t value;
        const char *word;
    } cases[] = {
        { 0x202, 4, 0, "not a Linux kernel (no 'HdrS' at 0x202)" },
        { 0x1fe, 2, 0, "0xaa55" },
        { 0x206, 2, 0x020b, "protocol 2.11" },
        { 0x211, 1, 0, "zImage" },
        { 0x236, 2, 0x7e, "64-bit" },
        { 0x201, 1, 0x10, "setup header" },
        { 0x201, 1, 0xff, "setup header" },
        { 0x1f1, 1, 0xff, "truncated" },
        { 0x1f4, 4, PAYLOAD_LEN / 16 + 1, "truncated" },
        { 0x1f4, 4, 0xffffffff, "truncated" },
        { 0x1f4, 4, 0, "no code" },
        { 0x258, 8, 0, "load address" },
        { 0x258, 8, UINT64_MAX, "load address" },
        { 0x258, 8, PREF + 1, "load address" },
        { 0x260, 4, 0xffffffff, "too small for the kernel" },
    };

    (void)state;
    for (unsigned i = 0; i < array_size(cases); i++) {
        struct boot_input in = input_make();

        put(kernel.bytes + cases[i].off, cases[i].value, cases[i].len);
        expect_error(&in, RAM, "vmlinuz", cases[i].word);
    }
}

static void every_truncation(void **state)
{
    struct boot_input in = input_make();

    (void)state;
    for (size_t len = 0; len < kernel.len; len++) {
        struct yado_error err = YADO_ERROR_INIT;

        in.kernel.len = len;
        if (boot_check(&in, RAM, &err) != (len + 15 >= kernel.len))
            fail_msg("%zu bytes: %s", len, err.message);
    }
}

static void other_files_by_name(void **state)
{
    static const struct {
        unsigned off, len;
        const char *bytes, *word;
    } cases[] = {
        { 0x38, 4, "ARM\x64", "arm64" }, { 0, 2, "\x1f\x8b", "gzip" },
        { 0, 6, "\xfd\x37zXZ\0", "xz" }, { 0, 4, "\x28\xb5\x2f\xfd", "zstd" },
        { 0, 6, "070701", "cpio" },      { 0, 4, "QFI\xfb", "qcow2" },
        { 0, 2, "#!", "script" },        { 0x38, 4, "RSC\x05", "RISC-V" },
    };

    (void)state;
    for (unsigned i = 0; i < array_size(cases); i++) {
        struct boot_input in = input_make();

        memset(kernel.bytes, 0, 0x400);
        memcpy(kernel.bytes + cases[i].off, cases[i].bytes, cases[i].len);
        expect_error(&in, RAM, "vmlinuz", cases[i].word);
    }
    struct boot_input in = input_make();

    in.kernel.len = 0;
    expect_error(&in, RAM, "vmlinuz", "empty");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loads_where_it_should),
        cmocka_unit_test(page_tables_are_identity),
        cmocka_unit_test(memory_map),
        cmocka_unit_test(initrd_obeys_the_kernels_limit),
        cmocka_unit_test(memory_too_small),
        cmocka_unit_test(command_line_length),
        cmocka_unit_test(bad_headers),
        cmocka_unit_test(every_truncation),
        cmocka_unit_test(other_files_by_name),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
