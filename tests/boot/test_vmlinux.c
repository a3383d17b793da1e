/* The kernel inside a bzImage: where it comes to lie and what becomes of its addresses, by any packer; and
 * the file as it is when anything about it is not as it should be. */
#include "image.h"

#include <archive.h>
#include <archive_entry.h>

#define RAM MIB(128)
#define CODE_LEN 0x400 /* of the program that would unpack it */
#define PREF MIB(16)
#define INIT_SIZE MIB(16)
#define ALIGN MIB(2)
#define KERNEL_MAP UINT64_C(0xffffffff80000000)

/* The ELF file: text, then data with a tail that is not in the file, then a segment that is linked to be at
 * 0. */
#define TEXT_OFF 0x1000
#define TEXT_LEN 0x3000
#define DATA_OFF 0x4000
#define DATA_LEN 0x1800
#define DATA_AT MIB(2)
#define DATA_MEM 0x9000
#define ZERO_OFF 0x6000
#define ZERO_LEN 0x800
#define ZERO_AT (MIB(2) + 0xa000)
#define SECTIONS_OFF 0x6800
#define SECTIONS 3
#define ELF_LEN (SECTIONS_OFF + SECTIONS * 64)
#define EXTENT (ZERO_AT + ZERO_LEN)
#define ENTRY 0x123
#define TABLE_MAX 64

enum packer { GZIP, BZIP2, XZ, LZMA, ZSTD, LZ4, PACKERS };

struct elf {
    uint8_t bytes[ELF_LEN + 4 * TABLE_MAX];
    size_t len;
};

static struct elf elf;
static struct image kernel;

/* Offsets in memory of values that hold addresses, by list. */
static const uint32_t at64[] = { 0x10, 0x2008, DATA_AT + 0x100 };
static const uint32_t at32_less[] = { ZERO_AT + 0x20 };
static const uint32_t at32[] = { 0x41, DATA_AT + 0x33, ZERO_AT + 0x40 };

static void put_segment(unsigned i, uint64_t off, uint64_t va, uint64_t at, uint64_t filesz, uint64_t memsz)
{
    uint8_t *p = elf.bytes + 64 + 56 * i;

    put(p, 1, 4);
    put(p + 8, off, 8);
    put(p + 16, va, 8);
    put(p + 24, PREF + at, 8);
    put(p + 32, filesz, 8);
    put(p + 40, memsz, 8);
}

static uint8_t *elf_at(uint32_t at)
{
    if (at >= ZERO_AT)
        return elf.bytes + ZERO_OFF + (at - ZERO_AT);
    return at >= DATA_AT ? elf.bytes + DATA_OFF + (at - DATA_AT) : elf.bytes + TEXT_OFF + at;
}

static void elf_make(void)
{
    memset(&elf, 0, sizeof(elf));
    for (unsigned i = TEXT_OFF; i < ELF_LEN; i++)
        elf.bytes[i] = (uint8_t)(i * 7 + (i >> 8));
    memcpy(elf.bytes,
           "\x7f"
           "ELF\x02\x01\x01",
           7);
    put(elf.bytes + 16, 2, 2);
    put(elf.bytes + 18, 62, 2);
    put(elf.bytes + 24, PREF + ENTRY, 8);
    put(elf.bytes + 32, 64, 8);
    put(elf.bytes + 40, SECTIONS_OFF, 8);
    put(elf.bytes + 54, 56, 2);
    put(elf.bytes + 56, 3, 2);
    put(elf.bytes + 58, 64, 2);
    put(elf.bytes + 60, SECTIONS, 2);
    put_segment(0, TEXT_OFF, KERNEL_MAP + PREF, 0, TEXT_LEN, TEXT_LEN);
    put_segment(1, DATA_OFF, KERNEL_MAP + PREF + DATA_AT, DATA_AT, DATA_LEN, DATA_MEM);
    put_segment(2, ZERO_OFF, 0, ZERO_AT, ZERO_LEN, ZERO_LEN);
    for (unsigned i = 0; i < array_size(at64); i++)
        put(elf_at(at64[i]), KERNEL_MAP + PREF + 0x1000 * i, 8);
    for (unsigned i = 0; i < array_size(at32_less); i++)
        put(elf_at(at32_less[i]), 0x80001234, 4);
    for (unsigned i = 0; i < array_size(at32); i++)
        put(elf_at(at32[i]), KERNEL_MAP + PREF + 0x2000 * i, 4);
    elf.len = ELF_LEN;
}

static void add_word(uint32_t word)
{
    assert_true(elf.len + 4 <= sizeof(elf.bytes));
    put(elf.bytes + elf.len, word, 4);
    elf.len += 4;
}

static void add_list(const uint32_t *at, unsigned n)
{
    add_word(0);
    for (unsigned i = 0; i < n; i++)
        add_word((uint32_t)(KERNEL_MAP + PREF + at[i]));
}

static void add_table(bool with_less)
{
    add_list(at64, array_size(at64));
    if (with_less)
        add_list(at32_less, array_size(at32_less));
    add_list(at32, array_size(at32));
}

/* ---- packing ---- */

static size_t pack_lz4(uint8_t *out)
{
    size_t n = 0, left = elf.len - 15;

    put(out, 0x184c2102, 4);
    n = 8;
    out[n++] = 0xf0; /* one sequence of literals alone, as the last one is */
    for (; left >= 255; left -= 255)
        out[n++] = 255;
    out[n++] = (uint8_t)left;
    memcpy(out + n, elf.bytes, elf.len);
    n += elf.len;
    put(out + 4, n - 8, 4);
    return n;
}

static size_t pack_by_library(enum packer packer, const void *bytes, size_t len, uint8_t *out, size_t room)
{
    struct archive *a = archive_write_new();
    struct archive_entry *e = archive_entry_new();
    size_t used = 0;
    int r;

    switch (packer) {
    case GZIP: r = archive_write_add_filter_gzip(a); break;
    case BZIP2: r = archive_write_add_filter_bzip2(a); break;
    case XZ: r = archive_write_add_filter_xz(a); break;
    case LZMA: r = archive_write_add_filter_lzma(a); break;
    default: r = archive_write_add_filter_zstd(a); break;
    }
    assert_int_equal(r, ARCHIVE_OK);
    archive_write_set_format_raw(a);
    archive_write_set_bytes_per_block(a, 0);
    assert_int_equal(archive_write_open_memory(a, out, room, &used), ARCHIVE_OK);
    archive_entry_set_filetype(e, AE_IFREG);
    archive_entry_set_pathname(e, "kernel");
    assert_int_equal(archive_write_header(a, e), ARCHIVE_OK);
    assert_int_equal(archive_write_data(a, bytes, len), len);
    archive_entry_free(e);
    assert_int_equal(archive_write_close(a), ARCHIVE_OK);
    archive_write_free(a);
    return used;
}

static uint8_t *packed(void)
{
    return kernel.bytes + SETUP_LEN + CODE_LEN;
}

static void kernel_make(enum packer packer)
{
    const size_t room = IMAGE_MAX - SETUP_LEN - CODE_LEN - 32;
    uint8_t *setup = kernel.bytes;
    size_t len;

    memset(&kernel, 0, sizeof(kernel));
    len = packer == LZ4 ? pack_lz4(packed()) : pack_by_library(packer, elf.bytes, elf.len, packed(), room);
    if (packer != GZIP) {
        put(packed() + len, elf.len, 4);
        len += 4;
    }
    for (unsigned i = 0; i < CODE_LEN; i++)
        kernel.bytes[SETUP_LEN + i] = (uint8_t)(i * 13 + 1);
    kernel.len = align_up(SETUP_LEN + CODE_LEN + len, 16);
    put_setup_header(&kernel, PREF, INIT_SIZE);
    put(setup + 0x248, CODE_LEN, 4);
    put(setup + 0x24c, len, 4);
}

/* ---- loading ---- */

struct loaded {
    struct gmem *mem;
    uint8_t *ram;
    struct x86_state *s;
    struct boot_input in;
};

static void machine_make(struct loaded *l, uint64_t size)
{
    l->mem = gmem_new(size, GIB(3), false, NULL);
    assert_non_null(l->mem);
    l->ram = gmem_span(l->mem, 0, size, GMEM_WRITE);
    l->s = aligned_alloc(64, sizeof(*l->s));
    l->in = (struct boot_input){ .cmdline = "console=hvc0", .layout = layout_get() };
    memset(l->ram + MIB(1), 0xee, size - MIB(1)); /* nothing is zero by itself */
}

static void machine_drop(struct loaded *l)
{
    gmem_free(l->mem);
    free(l->s);
}

static void load(struct loaded *l)
{
    struct yado_error err = YADO_ERROR_INIT;

    l->in.kernel = file_of(&kernel, "vmlinuz");
    if (!boot_load(&l->in, l->mem, l->s, &err))
        fail_msg("%s", err.message);
}

static bool is_moved(const struct loaded *l)
{
    return l->ram[l->in.layout.params + 0x211] & 2;
}

static void expect_as_it_is(const struct loaded *l)
{
    assert_int_equal(l->s->rip, PREF + 0x200);
    assert_false(is_moved(l));
    assert_memory_equal(l->ram + PREF, kernel.bytes + SETUP_LEN, kernel.len - SETUP_LEN);
}

/* All of the kernel is at `base`, with addresses that are `by` more. */
static void expect_kernel(const struct loaded *l, uint64_t base, uint64_t by, bool with_less)
{
    const uint8_t *k = l->ram + base;

    for (unsigned i = 0; i < array_size(at64); i++) {
        assert_int_equal(get(k + at64[i], 8), get(elf_at(at64[i]), 8) + by);
        put(l->ram + base + at64[i], get(elf_at(at64[i]), 8), 8);
    }
    for (unsigned i = 0; with_less && i < array_size(at32_less); i++) {
        assert_int_equal(get(k + at32_less[i], 4), (uint32_t)(get(elf_at(at32_less[i]), 4) - by));
        put(l->ram + base + at32_less[i], get(elf_at(at32_less[i]), 4), 4);
    }
    for (unsigned i = 0; i < array_size(at32); i++) {
        assert_int_equal(get(k + at32[i], 4), (uint32_t)(get(elf_at(at32[i]), 4) + by));
        put(l->ram + base + at32[i], get(elf_at(at32[i]), 4), 4);
    }
    assert_memory_equal(k, elf.bytes + TEXT_OFF, TEXT_LEN);
    assert_memory_equal(k + DATA_AT, elf.bytes + DATA_OFF, DATA_LEN);
    assert_memory_equal(k + ZERO_AT, elf.bytes + ZERO_OFF, ZERO_LEN);
    for (unsigned i = DATA_LEN; i < DATA_MEM; i++)
        assert_int_equal(k[DATA_AT + i], 0);
}

static uint64_t base_of(const struct loaded *l)
{
    return l->s->rip - ENTRY;
}

static uint64_t move_of(const struct loaded *l)
{
    return get(l->ram + base_of(l) + at64[0], 8) - get(elf_at(at64[0]), 8);
}

/* Loads, and checks what any load of a kernel with a table must be. */
static void load_moved(struct loaded *l, bool with_less, uint64_t *base, uint64_t *by)
{
    load(l);
    *base = base_of(l);
    *by = move_of(l);
    assert_true(is_moved(l));
    assert_true(*base >= PREF && *base % ALIGN == 0 && *base + EXTENT <= RAM);
    assert_true(*by % ALIGN == 0 && PREF + *by + EXTENT <= GIB(1));
    expect_kernel(l, *base, *by, with_less);
    assert_int_equal(l->s->gpr[R_SI], l->in.layout.params);
}

static void any_packer(void **state)
{
    struct loaded l;
    uint64_t base, by;

    (void)state;
    machine_make(&l, RAM);
    for (enum packer packer = 0; packer < PACKERS; packer++) {
        elf_make();
        add_table(true);
        kernel_make(packer);
        load_moved(&l, true, &base, &by);
    }
    machine_drop(&l);
}

static void table_without_the_middle_list(void **state)
{
    struct loaded l;
    uint64_t base, by;

    (void)state;
    machine_make(&l, RAM);
    elf_make();
    add_table(false);
    kernel_make(ZSTD);
    load_moved(&l, false, &base, &by);
    assert_int_equal(get(l.ram + base + at32_less[0], 4), get(elf_at(at32_less[0]), 4));
    machine_drop(&l);
}

static void addresses_are_by_chance(void **state)
{
    struct loaded l;
    uint64_t bases = 0, moves = 0;

    (void)state;
    machine_make(&l, RAM);
    elf_make();
    add_table(true);
    kernel_make(LZ4);
    for (unsigned i = 0; i < 40; i++) { /* on the same memory, as after resets */
        uint64_t base, by;

        load_moved(&l, true, &base, &by);
        bases |= 1ull << base / ALIGN % 64;
        moves |= 1ull << by / ALIGN % 64;
    }
    /* 54 and 503 places: fewer than 5 different ones in 40 will not come by chance. */
    assert_true(__builtin_popcountll(bases) >= 5);
    assert_true(__builtin_popcountll(moves) >= 5);
    machine_drop(&l);
}

/* A machine so small that a kernel that may lie anywhere would soon lie over the initrd. */
#define SMALL_RAM (PREF + INIT_SIZE + MIB(8))

static void initrd_is_left_alone(void **state)
{
    static struct image initrd;
    struct loaded l;
    uint64_t base, by;

    (void)state;
    machine_make(&l, SMALL_RAM);
    elf_make();
    add_table(true);
    kernel_make(GZIP);
    memset(initrd.bytes, 0x5a, sizeof(initrd.bytes));
    memcpy(initrd.bytes, "BZh9", 4); /* and is no such thing: it stays as it is */
    initrd.len = MIB(4);
    l.in.initrd = file_of(&initrd, "initrd.img");
    for (unsigned i = 0; i < 100; i++) {
        load_moved(&l, true, &base, &by);
        assert_true(base + EXTENT <= SMALL_RAM - MIB(4));
        assert_memory_equal(l.ram + SMALL_RAM - MIB(4), initrd.bytes, initrd.len);
    }
    machine_drop(&l);
}

/* One member and the end. */
static size_t cpio(uint8_t *out, uint32_t file_len)
{
    static const char form[] = "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s";
    size_t len =
        (size_t)sprintf((char *)out, form, 1, 0100755, 0, 0, 1, 0, file_len, 0, 0, 0, 0, 2, 0, "a") + 1;

    len = align_up(len, 4);
    memset(out + len, 0x77, file_len);
    len = align_up(len + file_len, 4);
    return len +
           (size_t)sprintf((char *)out + len, form, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 11, 0, "TRAILER!!!") + 1;
}

static void unpacked_initrd_is_left_alone(void **state)
{
    static struct image initrd, plain;
    struct loaded l;
    uint64_t base, by;

    (void)state;
    machine_make(&l, SMALL_RAM);
    elf_make();
    add_table(true);
    kernel_make(GZIP);
    plain.len = cpio(plain.bytes, MIB(2));
    initrd.len = pack_by_library(ZSTD, plain.bytes, plain.len, initrd.bytes, IMAGE_MAX);
    l.in.initrd = file_of(&initrd, "initrd.img");
    for (unsigned i = 0; i < 100; i++) {
        uint64_t gpa;

        load_moved(&l, true, &base, &by);
        gpa = get(l.ram + l.in.layout.params + 0x218, 4);
        assert_int_equal(get(l.ram + l.in.layout.params + 0x21c, 4), plain.len);
        assert_memory_equal(l.ram + gpa, plain.bytes, plain.len);
    }
    machine_drop(&l);
}

static void as_linked(void **state)
{
    static const char *const cmdlines[] = { "nokaslr", "quiet nokaslr x", "console=hvc0\tnokaslr", "quiet" };
    struct loaded l;

    (void)state;
    machine_make(&l, RAM);
    for (unsigned i = 0; i < array_size(cmdlines); i++) {
        elf_make();
        if (i < array_size(cmdlines) - 1) /* the last one has no table */
            add_table(true);
        kernel_make(ZSTD);
        l.in.cmdline = cmdlines[i];
        load(&l);
        assert_false(is_moved(&l));
        assert_int_equal(base_of(&l), PREF);
        expect_kernel(&l, PREF, 0, true);
    }
    elf_make();
    add_table(true);
    kernel_make(ZSTD);
    kernel.bytes[0x234] = 0; /* not relocatable */
    l.in.cmdline = "";
    load(&l);
    assert_false(is_moved(&l));
    expect_kernel(&l, PREF, 0, true);
    machine_drop(&l);
}

static void words_that_are_not_nokaslr(void **state)
{
    static const char *const cmdlines[] = { "xnokaslr", "nokaslr=1", "nokasl", "", "a=nokaslr" };
    struct loaded l;
    uint64_t base, by;

    (void)state;
    machine_make(&l, RAM);
    elf_make();
    add_table(true);
    kernel_make(ZSTD);
    for (unsigned i = 0; i < array_size(cmdlines); i++) {
        l.in.cmdline = cmdlines[i];
        load_moved(&l, true, &base, &by);
    }
    machine_drop(&l);
}

static void options_about_ram(void **state)
{
    static const char *const cmdlines[] = { "mem=64M",       "quiet memmap=1M$16M", "hugepages=3",
                                            "hugepagesz=1G", "quiet \"mem=64M\"",   "efi_fake_mem=1M@16M:1" };
    struct loaded l;

    (void)state;
    machine_make(&l, RAM);
    elf_make();
    add_table(true);
    kernel_make(ZSTD);
    for (unsigned i = 0; i < array_size(cmdlines); i++) {
        l.in.cmdline = cmdlines[i];
        load(&l);
        expect_as_it_is(&l);
    }
    machine_drop(&l);
}

static bool read_part(const struct boot_file *f, uint64_t off, size_t len, void *at, struct yado_error *err)
{
    const struct image *im = f->ctx;

    (void)err;
    assert_true(off <= im->len && len <= im->len - off);
    memcpy(at, im->bytes + off, len);
    return true;
}

/* A file that is read where it goes, in RAM that just holds the kernel and what it is packed in. */
static void read_from_the_file(void **state)
{
    struct loaded l;
    struct yado_error err = YADO_ERROR_INIT;

    (void)state;
    elf_make();
    add_table(true);
    kernel_make(XZ);
    for (unsigned mib = 32; mib <= 34; mib++) {
        machine_make(&l, MIB(mib));
        l.in.kernel = file_of(&kernel, "vmlinuz");
        l.in.kernel.read = read_part;
        l.in.kernel.ctx = &kernel;
        if (!boot_load(&l.in, l.mem, l.s, &err))
            fail_msg("%s", err.message);
        if (mib == 32) { /* init_size fits, the packed kernel does not fit beside it */
            expect_as_it_is(&l);
        } else {
            assert_true(is_moved(&l));
            expect_kernel(&l, base_of(&l), move_of(&l), true);
        }
        machine_drop(&l);
    }
}

/* ---- what is not as it should be ---- */

static void damaged_headers(void **state)
{
    static const struct {
        unsigned off, len;
        uint64_t value;
    } cases[] = {
        { 0x248, 4, 0xffffffff }, { 0x24c, 4, 0xffffffff },   { 0x24c, 4, 0 },          { 0x24c, 4, 4 },
        { 0x24c, 4, 100 },        { 0x248, 4, CODE_LEN + 1 }, { 0x230, 4, 0 },          { 0x230, 4, MIB(1) },
        { 0x230, 4, MIB(6) },     { 0x230, 4, MIB(64) },      { 0x260, 4, EXTENT - 1 },
    };
    struct loaded l;

    (void)state;
    machine_make(&l, RAM);
    for (unsigned i = 0; i < array_size(cases); i++) {
        elf_make();
        add_table(true);
        kernel_make(ZSTD);
        put(kernel.bytes + cases[i].off, cases[i].value, cases[i].len);
        load(&l);
        expect_as_it_is(&l);
    }
    machine_drop(&l);
}

static void damaged_elf(void **state)
{
    static const struct {
        unsigned off, len;
        uint64_t value;
    } cases[] = {
        { 0, 1, 0 },                /* magic */
        { 4, 1, 1 },                /* 32-bit */
        { 5, 1, 2 },                /* big-endian */
        { 16, 2, 3 },               /* a shared object */
        { 18, 2, 183 },             /* arm64 */
        { 24, 8, PREF - 1 },        /* entry */
        { 24, 8, PREF + EXTENT },   /* entry */
        { 24, 8, UINT64_MAX },      /* entry */
        { 32, 8, UINT64_MAX - 10 }, /* program headers */
        { 32, 8, MIB(1) },
        { 54, 2, 32 },
        { 56, 2, 0 },
        { 56, 2, 0xffff },
        { 40, 8, UINT64_MAX - 100 }, /* sections */
        { 40, 8, ELF_LEN },
        { 60, 2, 0xffff },
        { 64 + 8, 8, UINT64_MAX - 0x100 }, /* first segment: offset */
        { 64 + 24, 8, PREF - 1 },          /* address */
        { 64 + 24, 8, PREF + INIT_SIZE },
        { 64 + 24, 8, UINT64_MAX - 0x100 },
        { 64 + 32, 8, TEXT_LEN + 1 }, /* more in the file than in memory */
        { 64 + 32, 8, UINT64_MAX },
        { 64 + 40, 8, UINT64_MAX },
        { 64 + 40, 8, INIT_SIZE + 1 },
    };
    struct loaded l;

    (void)state;
    machine_make(&l, RAM);
    for (unsigned i = 0; i < array_size(cases); i++) {
        elf_make();
        add_table(true);
        put(elf.bytes + cases[i].off, cases[i].value, cases[i].len);
        kernel_make(ZSTD);
        load(&l);
        if (l.s->rip != PREF + 0x200)
            fail_msg("case %u was taken", i);
        expect_as_it_is(&l);
    }
    machine_drop(&l);
}

static void damaged_tables(void **state)
{
    struct loaded l;

    (void)state;
    machine_make(&l, RAM);
    for (unsigned i = 0; i < 7; i++) {
        elf_make();
        switch (i) {
        case 0: add_list(at32, array_size(at32)); break; /* one list */
        case 1:                                          /* four */
            add_table(true);
            add_list(at32, array_size(at32));
            break;
        case 2: /* something in front of the first */
            add_word(0x81000010);
            add_table(true);
            break;
        case 3: /* outside, below */
            add_table(true);
            add_word(0x80ffffff);
            break;
        case 4: /* outside, above */
            add_table(true);
            add_word((uint32_t)(KERNEL_MAP + PREF + EXTENT - 3));
            break;
        case 5: /* a positive address */
            add_table(true);
            add_word(0x1000010);
            break;
        default: /* a length that is no number of words */
            add_table(true);
            elf.len += 2;
            break;
        }
        kernel_make(ZSTD);
        load(&l);
        expect_as_it_is(&l);
    }
    machine_drop(&l);
}

/* Any bit of what is packed, and any length; checksums do not find everything, so it may be loaded after all.
 */
static void damaged_bytes(void **state)
{
    struct loaded l;

    (void)state;
    machine_make(&l, RAM);
    elf_make();
    add_table(true);
    for (enum packer packer = 0; packer < PACKERS; packer++) {
        kernel_make(packer);
        for (size_t off = 0; off < get(kernel.bytes + 0x24c, 4); off += 1 + off / 8) {
            packed()[off] ^= (uint8_t)(1 << off % 8);
            load(&l);
            if (l.s->rip == PREF + 0x200)
                expect_as_it_is(&l);
            else if (packer == XZ || packer == BZIP2) /* whose checksums are looked at */
                expect_kernel(&l, base_of(&l), move_of(&l), true);
            packed()[off] ^= (uint8_t)(1 << off % 8);
        }
    }
    machine_drop(&l);
}

/* `more` zeros in front of the size of what is packed, or as many bytes less. */
static void stretch(int more)
{
    size_t len = get(kernel.bytes + 0x24c, 4);

    for (int i = 0; i < more; i++)
        packed()[len - 4 + i] = 0;
    len += more;
    put(packed() + len - 4, elf.len, 4);
    put(kernel.bytes + 0x24c, len, 4);
    kernel.len = align_up(SETUP_LEN + CODE_LEN + len, 16);
    put(kernel.bytes + 0x1f4, (kernel.len - SETUP_LEN) / 16, 4);
}

/* The packed kernel is all that its header says, and nothing else. */
static void wrong_lengths(void **state)
{
    static const int more[] = { -100, -8, -1, 1, 4, 16 };
    struct loaded l;

    (void)state;
    machine_make(&l, RAM);
    elf_make();
    add_table(true);
    for (enum packer packer = 0; packer < PACKERS; packer++) {
        for (unsigned i = 0; i < array_size(more); i++) {
            if (packer == XZ && more[i] > 0 && more[i] % 4 == 0)
                continue; /* it may have such padding */
            kernel_make(packer);
            stretch(more[i]);
            load(&l);
            if (l.s->rip != PREF + 0x200)
                fail_msg("packer %d, %d bytes more: was taken", packer, more[i]);
            expect_as_it_is(&l);
        }
    }
    machine_drop(&l);
}

/* What is packed goes on where the file has ended. */
static void beyond_the_file(void **state)
{
    struct loaded l;

    (void)state;
    machine_make(&l, RAM);
    elf_make();
    add_table(true);
    kernel_make(LZ4);
    kernel.len -= 64;
    put(kernel.bytes + 0x1f4, (kernel.len - SETUP_LEN) / 16, 4);
    load(&l);
    expect_as_it_is(&l);
    machine_drop(&l);
}

static void wrong_sizes(void **state)
{
    static const uint64_t sizes[] = { 0, 1, ELF_LEN, sizeof(elf.bytes), 0xffffffff };
    struct loaded l;

    (void)state;
    machine_make(&l, RAM);
    elf_make();
    add_table(true);
    for (enum packer packer = 0; packer < PACKERS; packer++) {
        for (unsigned i = 0; i < array_size(sizes); i++) {
            kernel_make(packer);
            put(packed() + get(kernel.bytes + 0x24c, 4) - 4, sizes[i], 4);
            l.in.cmdline = "";
            load(&l);
            expect_as_it_is(&l);
            l.in.cmdline = "nokaslr"; /* the table is not looked at */
            load(&l);
            expect_as_it_is(&l);
        }
    }
    machine_drop(&l);
}

static void unknown_packer(void **state)
{
    struct loaded l;

    (void)state;
    machine_make(&l, RAM);
    elf_make();
    add_table(true);
    kernel_make(ZSTD);
    memcpy(packed(), "\x89LZO\0\r\n\x1a\n", 9);
    load(&l);
    expect_as_it_is(&l);
    memcpy(packed(), elf.bytes, 4096); /* not packed at all */
    load(&l);
    expect_as_it_is(&l);
    machine_drop(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_packer),
        cmocka_unit_test(table_without_the_middle_list),
        cmocka_unit_test(addresses_are_by_chance),
        cmocka_unit_test(initrd_is_left_alone),
        cmocka_unit_test(unpacked_initrd_is_left_alone),
        cmocka_unit_test(as_linked),
        cmocka_unit_test(words_that_are_not_nokaslr),
        cmocka_unit_test(options_about_ram),
        cmocka_unit_test(read_from_the_file),
        cmocka_unit_test(damaged_headers),
        cmocka_unit_test(damaged_elf),
        cmocka_unit_test(damaged_tables),
        cmocka_unit_test(damaged_bytes),
        cmocka_unit_test(wrong_lengths),
        cmocka_unit_test(beyond_the_file),
        cmocka_unit_test(wrong_sizes),
        cmocka_unit_test(unknown_packer),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
