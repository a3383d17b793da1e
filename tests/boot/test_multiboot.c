/* Multiboot kernels: Multiboot Specification 0.6.96. */
#include "image.h"

#define RAM MIB(64)
#define CODE_OFF 0x1000
#define CODE_LEN 0x2000
#define CODE_GPA MIB(4)
#define BSS_LEN 0x5000

static struct image kernel, initrd;

static void header_put(unsigned off, uint32_t flags)
{
    put(kernel.bytes + off, 0x1badb002, 4);
    put(kernel.bytes + off + 4, flags, 4);
    put(kernel.bytes + off + 8, 0u - (0x1badb002 + flags), 4);
}

static void code_put(void)
{
    for (unsigned i = 0x40; i < CODE_LEN; i++)
        kernel.bytes[CODE_OFF + i] = (uint8_t)(i * 7 + 1);
}

static struct boot_input input_of(void)
{
    return (struct boot_input){ .kernel = file_of(&kernel, "dir/test.flat"),
                                .cmdline = "one two",
                                .layout = layout_get() };
}

/* One segment whose virtual address is not its physical one; the entry is virtual. */
static struct boot_input elf_make(bool is64, uint64_t vaddr)
{
    uint8_t *ph = kernel.bytes + (is64 ? 64 : 52);
    unsigned n = is64 ? 8 : 4;
    const unsigned at[] = { is64 ? 8 : 4, is64 ? 16 : 8, is64 ? 24 : 12, is64 ? 32 : 16, is64 ? 40 : 20 };
    const uint64_t v[] = { CODE_OFF, vaddr, CODE_GPA, CODE_LEN, CODE_LEN + BSS_LEN };

    memset(&kernel, 0, sizeof(kernel));
    kernel.len = CODE_OFF + CODE_LEN;
    memcpy(kernel.bytes,
           "\x7f"
           "ELF",
           4);
    kernel.bytes[4] = is64 ? 2 : 1;
    kernel.bytes[5] = kernel.bytes[6] = 1;
    put(kernel.bytes + 16, 2, 2);
    put(kernel.bytes + 18, is64 ? 62 : 3, 2);
    put(kernel.bytes + 24, vaddr + 0x123, n);
    put(kernel.bytes + (is64 ? 32 : 28), is64 ? 64 : 52, n);
    put(kernel.bytes + (is64 ? 54 : 42), is64 ? 56 : 32, 2);
    put(kernel.bytes + (is64 ? 56 : 44), 1, 2);
    put(ph, 1, 4);
    for (unsigned i = 0; i < 5; i++)
        put(ph + at[i], v[i], n);
    code_put();
    header_put(CODE_OFF, 3);
    return input_of();
}

static void expect_loaded(const struct boot_input *in, uint64_t entry)
{
    struct gmem *mem = gmem_new(RAM, GIB(3), false, NULL);
    struct yado_error err = YADO_ERROR_INIT;
    struct x86_state *s = aligned_alloc(64, sizeof(*s));
    uint8_t *ram = gmem_span(mem, 0, RAM, GMEM_WRITE);
    const uint8_t *info, *mod, *map;

    ram[CODE_GPA + CODE_LEN] = 0xaa;
    if (!boot_load(in, mem, s, &err))
        fail_msg("%s", err.message);
    assert_memory_equal(ram + CODE_GPA + 0x40, kernel.bytes + CODE_OFF + 0x40, CODE_LEN - 0x40);
    for (unsigned i = 0; i < BSS_LEN; i++)
        assert_int_equal(ram[CODE_GPA + CODE_LEN + i], 0);

    /* 3.2: machine state */
    assert_int_equal(s->rip, entry);
    assert_int_equal(s->gpr[R_AX], 0x2badb002);
    assert_int_equal(s->cr0 & (CR0_PE | CR0_PG), CR0_PE);
    assert_int_equal(s->rflags & (FL_IF | FL_VM), 0);
    for (unsigned i = 0; i <= S_GS; i++) {
        assert_int_equal(s->seg[i].base, 0);
        assert_int_equal(s->seg[i].limit, 0xffffffff);
    }

    /* 3.3: information */
    info = ram + s->gpr[R_BX];
    assert_int_equal(get(info, 4), 0x24f);
    assert_int_equal(get(info + 4, 4), 639);
    assert_int_equal(get(info + 8, 4), (RAM - MIB(1)) / 1024);
    assert_string_equal((char *)ram + get(info + 16, 4), "dir/test.flat one two");
    assert_string_equal((char *)ram + get(info + 64, 4), "yado");
    map = ram + get(info + 48, 4);
    assert_int_equal(get(info + 44, 4) % 24, 0);
    assert_int_equal(get(map, 4), 20);
    assert_int_equal(get(map + 4, 8), 0);
    assert_int_equal(get(map + 12, 8), 0x9fc00);
    assert_int_equal(get(map + 20, 4), 1);
    assert_int_equal(get(info + 20, 4), in->initrd.len ? 1 : 0);
    if (in->initrd.len) {
        mod = ram + get(info + 24, 4);
        assert_int_equal(get(mod, 4), CODE_GPA + CODE_LEN + BSS_LEN);
        assert_int_equal(get(mod + 4, 4), CODE_GPA + CODE_LEN + BSS_LEN + in->initrd.len);
        assert_memory_equal(ram + get(mod, 4), initrd.bytes, initrd.len);
        assert_string_equal((char *)ram + get(mod + 8, 4), "env");
    }
    free(s);
    gmem_free(mem);
}

static void elf32(void **state)
{
    struct boot_input in = elf_make(false, CODE_GPA);

    (void)state;
    assert_true(boot_is_multiboot(&in.kernel));
    expect_good(&in, RAM);
    expect_loaded(&in, CODE_GPA + 0x123);
}

static void elf64_at_a_virtual_address(void **state)
{
    struct boot_input in = elf_make(true, 0xffffffff80000000ull);

    (void)state;
    expect_good(&in, RAM);
    expect_loaded(&in, CODE_GPA + 0x123);
}

static void module_of_any_bytes(void **state)
{
    struct boot_input in = elf_make(false, CODE_GPA);

    (void)state;
    initrd.len = 5;
    memcpy(initrd.bytes, "A=1\nB", 5);
    in.initrd = file_of(&initrd, "env");
    expect_good(&in, RAM);
    expect_loaded(&in, CODE_GPA + 0x123);
    expect_error(&in, CODE_GPA + MIB(0) + 0x7000, "memory", "at least");
}

/* 3.1.3: a file of any format. */
static struct boot_input addresses_make(uint32_t load_end, uint32_t bss_end)
{
    memset(&kernel, 0, sizeof(kernel));
    kernel.len = CODE_OFF + CODE_LEN;
    code_put();
    header_put(CODE_OFF + 0x10, 0x10003);
    put(kernel.bytes + CODE_OFF + 0x1c, CODE_GPA + 0x10, 4);
    put(kernel.bytes + CODE_OFF + 0x20, CODE_GPA, 4);
    put(kernel.bytes + CODE_OFF + 0x24, load_end, 4);
    put(kernel.bytes + CODE_OFF + 0x28, bss_end, 4);
    put(kernel.bytes + CODE_OFF + 0x2c, CODE_GPA + 0x80, 4);
    return input_of();
}

static void addresses(void **state)
{
    struct boot_input in = addresses_make(CODE_GPA + CODE_LEN, CODE_GPA + CODE_LEN + BSS_LEN);

    (void)state;
    expect_good(&in, RAM);
    expect_loaded(&in, CODE_GPA + 0x80);
    in = addresses_make(0, CODE_GPA + CODE_LEN + BSS_LEN); /* all of the file */
    expect_loaded(&in, CODE_GPA + 0x80);
    in = addresses_make(CODE_GPA + CODE_LEN + 1, 0);
    expect_error(&in, RAM, "test.flat", "truncated");
    in = addresses_make(CODE_GPA - 1, 0);
    expect_error(&in, RAM, "test.flat", "load end");
    in = addresses_make(CODE_GPA + 0x40, 0);
    expect_error(&in, RAM, "test.flat", "entry");
}

static void bad_files(void **state)
{
    struct boot_input in = elf_make(false, CODE_GPA);

    (void)state;
    header_put(CODE_OFF, 0x23);
    expect_error(&in, RAM, "test.flat", "0x20");
    in = elf_make(false, CODE_GPA);
    kernel.len = CODE_OFF + 0x100;
    in.kernel.len = kernel.len;
    expect_error(&in, RAM, "test.flat", "truncated");
    in = elf_make(false, CODE_GPA);
    put(kernel.bytes + 18, 40, 2);
    expect_error(&in, RAM, "test.flat", "machine 40");
    in = elf_make(false, CODE_GPA);
    put(kernel.bytes + 52 + 12, 0x8000, 4);
    expect_error(&in, RAM, "test.flat", "1 MiB");
    in = elf_make(false, CODE_GPA);
    kernel.bytes[0] = 0;
    expect_error(&in, RAM, "test.flat", "neither");
    in = elf_make(false, CODE_GPA);
    put(kernel.bytes + 24, 0x100, 4);
    expect_error(&in, RAM, "test.flat", "entry");
    in = elf_make(false, CODE_GPA);
    expect_error(&in, MIB(4), "memory", "at least 5 MiB");
}

/* 3.1: wholly in the first 8192 bytes, aligned, sums to zero. */
static void where_the_header_is_looked_for(void **state)
{
    struct boot_file f = file_of(&kernel, "k");

    (void)state;
    memset(&kernel, 0, sizeof(kernel));
    f.len = kernel.len = 16384;
    header_put(8192 - 12, 0);
    assert_true(boot_is_multiboot(&f));
    put(kernel.bytes + 8192 - 4, 1, 4);
    assert_false(boot_is_multiboot(&f));
    memset(&kernel, 0, sizeof(kernel));
    header_put(8192 - 8, 0);
    assert_false(boot_is_multiboot(&f));
    memset(&kernel, 0, sizeof(kernel));
    header_put(2, 0);
    assert_false(boot_is_multiboot(&f));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(elf32),
        cmocka_unit_test(elf64_at_a_virtual_address),
        cmocka_unit_test(module_of_any_bytes),
        cmocka_unit_test(addresses),
        cmocka_unit_test(bad_files),
        cmocka_unit_test(where_the_header_is_looked_for),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
