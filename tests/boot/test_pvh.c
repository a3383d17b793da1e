/* ELF kernels through PVH (Xen pvh.pandoc, start_info.h). */
#include "image.h"

#define RAM MIB(64)
#define CODE_OFF 0x1000
#define CODE_LEN 0x2000
#define CODE_GPA MIB(16)
#define BSS_LEN 0x5000
#define NOTE_OFF 0x400
#define ENTRY (CODE_GPA + 0x123)

static struct image kernel, initrd;

static void segment(unsigned i, uint32_t type, uint64_t off, uint64_t paddr, uint64_t filesz, uint64_t memsz)
{
    uint8_t *p = kernel.bytes + 64 + 56 * i;

    put(p, type, 4);
    put(p + 8, off, 8);
    put(p + 16, 0xffffffff80000000 + paddr, 8);
    put(p + 24, paddr, 8);
    put(p + 32, filesz, 8);
    put(p + 40, memsz, 8);
}

static unsigned note(uint8_t *p, const char *name, uint32_t type, const void *desc, unsigned desc_len)
{
    unsigned name_len = (unsigned)strlen(name) + 1, name_room = (name_len + 3) & ~3u;

    put(p, name_len, 4);
    put(p + 4, desc_len, 4);
    put(p + 8, type, 4);
    memcpy(p + 12, name, name_len);
    memcpy(p + 12 + name_room, desc, desc_len);
    return 12 + name_room + ((desc_len + 3) & ~3u);
}

static struct boot_input input_make(void)
{
    uint64_t entry = ENTRY;
    unsigned len = 0;

    memset(&kernel, 0, sizeof(kernel));
    kernel.len = CODE_OFF + CODE_LEN;
    memcpy(kernel.bytes,
           "\x7f"
           "ELF\2\1\1",
           7);
    put(kernel.bytes + 16, 2, 2);
    put(kernel.bytes + 18, 62, 2);
    put(kernel.bytes + 32, 64, 8);
    put(kernel.bytes + 54, 56, 2);
    put(kernel.bytes + 56, 3, 2);
    len += note(kernel.bytes + NOTE_OFF + len, "Linux", 257, "xyz", 3);
    len += note(kernel.bytes + NOTE_OFF + len, "Xen", 6, "linux", 6);
    len += note(kernel.bytes + NOTE_OFF + len, "Xen", 18, &entry, 8);
    segment(0, 1, CODE_OFF, CODE_GPA, CODE_LEN, CODE_LEN + BSS_LEN);
    segment(1, 1, 0, 0, 0, 0); /* empty, as the per-CPU segment may be */
    segment(2, 4, NOTE_OFF, 0, len, len);
    for (unsigned i = 0; i < CODE_LEN; i++)
        kernel.bytes[CODE_OFF + i] = (uint8_t)(i * 7 + 1);
    return (struct boot_input){ .kernel = file_of(&kernel, "vmlinux"),
                                .cmdline = "quiet",
                                .layout = layout_get() };
}

static void loads_where_it_should(void **state)
{
    struct boot_input in = input_make();
    struct gmem *mem = gmem_new(RAM, GIB(3), false, NULL);
    struct yado_error err = YADO_ERROR_INIT;
    struct x86_state *s = aligned_alloc(64, sizeof(*s));
    uint8_t *ram = gmem_span(mem, 0, RAM, GMEM_WRITE);
    const uint8_t *info, *mod, *map;

    (void)state;
    initrd.len = 6000;
    memcpy(initrd.bytes, "BZh9", 4);
    in.initrd = file_of(&initrd, "initrd.img");
    memset(ram + CODE_GPA + CODE_LEN, 0xee, BSS_LEN); /* what a kernel before a reboot left */
    if (!boot_load(&in, mem, s, &err))
        fail_msg("%s", err.message);
    assert_memory_equal(ram + CODE_GPA, kernel.bytes + CODE_OFF, CODE_LEN);
    for (unsigned i = 0; i < BSS_LEN; i++)
        assert_int_equal(ram[CODE_GPA + CODE_LEN + i], 0);

    assert_int_equal(s->rip, ENTRY);
    assert_int_equal(s->gpr[R_BX], in.layout.params);
    assert_int_equal(s->cr0 & (CR0_PE | CR0_PG), CR0_PE);
    assert_int_equal(s->efer, 0);
    assert_int_equal(s->seg[S_CS].attr & (SEG_L | SEG_DB), SEG_DB);
    assert_int_equal(s->seg[S_CS].limit, 0xffffffff);
    assert_int_equal(s->seg[S_TR].limit, 0x67);
    assert_int_equal(s->rflags, 2);

    info = ram + s->gpr[R_BX];
    assert_int_equal(get(info, 4), 0x336ec578);
    assert_int_equal(get(info + 4, 4), 1);
    assert_int_equal(get(info + 12, 4), 1);
    mod = ram + get(info + 16, 8);
    assert_int_equal(get(mod + 8, 8), 6000);
    assert_memory_equal(ram + get(mod, 8), initrd.bytes, 6000);
    assert_string_equal((const char *)ram + get(info + 24, 8), "quiet");
    assert_int_equal(get(info + 32, 8), 0xe0000);
    map = ram + get(info + 40, 8);
    assert_int_equal(get(info + 48, 4), 5);
    assert_int_equal(get(map + 24 * 2, 8), MIB(1));
    assert_int_equal(get(map + 24 * 2 + 8, 8), RAM - MIB(1));
    assert_int_equal(get(map + 24 * 2 + 16, 4), 1);
    gmem_free(mem);
    free(s);
}

static void every_truncation(void **state)
{
    struct boot_input in = input_make();

    (void)state;
    for (size_t len = 0; len < kernel.len; len++) {
        in.kernel.len = len;
        assert_false(boot_check(&in, RAM, NULL));
    }
    in.kernel.len = 100;
    expect_error(&in, RAM, "vmlinux", "truncated kernel");
    in.kernel.len = kernel.len - 1;
    expect_error(&in, RAM, "vmlinux", "truncated kernel: ELF segment 0");
    in.kernel.len = kernel.len;
    expect_good(&in, RAM);
}

static void bad_headers(void **state)
{
    static const struct {
        unsigned off, len;
        uint64_t value;
        const char *word;
    } cases[] = {
        { 4, 1, 1, "another machine" },    /* 32-bit */
        { 18, 2, 183, "another machine" }, /* arm64 */
        { 16, 2, 3, "EXEC" },
        { 54, 2, 32, "program headers" },
        { 56, 2, 0, "program headers" },
        { 56, 2, 0xffff, "truncated" },
        { 32, 8, UINT64_MAX - 8, "truncated" },
        { 64 + 8, 8, UINT64_MAX - 8, "truncated" },
        { 64 + 32, 8, UINT64_MAX, "truncated" },
        { 64 + 40, 8, CODE_LEN - 1, "damaged" }, /* memory smaller than file */
        { 64 + 40, 8, UINT64_MAX, "damaged" },
        { 64 + 24, 8, 0x9000, "damaged" }, /* over the boot data */
        { 64 + 24, 8, UINT64_MAX - 0x1000, "damaged" },
        { 64 + 24, 8, RAM, "too small" },
        { 64, 4, 7, "nothing to load" },
        { 64 + 2 * 56, 4, 7, "without a PVH entry" },
        { NOTE_OFF, 4, 0xfffffff0, "without a PVH entry" },
        { NOTE_OFF + 4, 4, 0xffffffff, "without a PVH entry" },
    };

    (void)state;
    for (unsigned i = 0; i < array_size(cases); i++) {
        struct boot_input in = input_make();

        put(kernel.bytes + cases[i].off, cases[i].value, cases[i].len);
        expect_error(&in, RAM, i == 13 ? "memory" : "vmlinux", cases[i].word);
    }
}

static void entry_outside(void **state)
{
    struct boot_input in = input_make();
    uint64_t entry = ENTRY;
    uint8_t *p = memmem(kernel.bytes + NOTE_OFF, 0x200, &entry, 8);

    (void)state;
    assert_non_null(p);
    put(p, CODE_GPA - 1, 8);
    expect_error(&in, RAM, "vmlinux", "PVH entry");
    put(p, CODE_GPA + CODE_LEN + BSS_LEN, 8);
    expect_error(&in, RAM, "vmlinux", "PVH entry");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loads_where_it_should),
        cmocka_unit_test(every_truncation),
        cmocka_unit_test(bad_headers),
        cmocka_unit_test(entry_outside),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
