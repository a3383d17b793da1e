/* Initrds that are unpacked: what comes out, and when one stays as it is. */
#include "image.h"

#include <archive.h>
#include <archive_entry.h>

#include "boot/boot_priv.h"

#define RAM MIB(256)
#define ROOM (RAM / 16)
#define AT MIB(64)

static struct image im;              /* the initrd */
static uint8_t plain[4 * IMAGE_MAX]; /* what it stands for */
static size_t plain_len;

/* A cpio archive with one file of `len` bytes, at `out`; returns its length. `seed`: what the file holds, 0
 * for zeros. */
static size_t cpio(uint8_t *out, size_t room, size_t len, uint64_t seed)
{
    struct archive *a = archive_write_new();
    struct archive_entry *e = archive_entry_new();
    uint8_t *data = calloc(1, len + 1);
    size_t used = 0;

    for (size_t i = 0; seed && i < len; i++)
        data[i] = (uint8_t)((seed = seed * 6364136223846793005ull + 1442695040888963407ull) >> 56);
    archive_write_set_format_cpio_newc(a);
    archive_write_set_bytes_per_block(a, 0);
    assert_int_equal(archive_write_open_memory(a, out, room, &used), ARCHIVE_OK);
    archive_entry_set_pathname(e, "init");
    archive_entry_set_size(e, (la_int64_t)len);
    archive_entry_set_filetype(e, AE_IFREG);
    archive_entry_set_perm(e, 0755);
    assert_int_equal(archive_write_header(a, e), ARCHIVE_OK);
    archive_write_data(a, data, len);
    archive_entry_free(e);
    assert_int_equal(archive_write_close(a), ARCHIVE_OK);
    archive_write_free(a);
    free(data);
    return used;
}

static void pack(int (*filter)(struct archive *), const uint8_t *bytes, size_t len)
{
    struct archive *a = archive_write_new();
    struct archive_entry *e = archive_entry_new();
    size_t used = 0;

    assert_int_equal(filter(a), ARCHIVE_OK);
    archive_write_set_format_raw(a);
    archive_write_set_bytes_per_block(a, 0);
    assert_int_equal(archive_write_open_memory(a, im.bytes + im.len, IMAGE_MAX - im.len, &used), ARCHIVE_OK);
    archive_entry_set_filetype(e, AE_IFREG);
    archive_entry_set_pathname(e, "x");
    assert_int_equal(archive_write_header(a, e), ARCHIVE_OK);
    assert_int_equal(archive_write_data(a, bytes, len), len);
    archive_entry_free(e);
    assert_int_equal(archive_write_close(a), ARCHIVE_OK);
    archive_write_free(a);
    im.len += used;
}

static void begin(void)
{
    memset(&im, 0, sizeof(im));
    plain_len = 0;
}

/* Where kernels want the next archive. */
static uint8_t *next_plain(void)
{
    while (plain_len % 4)
        plain[plain_len++] = 0;
    return plain + plain_len;
}

/* By the old format of lz4, a block of literals alone. */
static void pack_lz4(const uint8_t *bytes, size_t len)
{
    uint8_t *p = im.bytes + im.len, *block = p + 8, *q = block;
    size_t left = len - 15;

    put(p, 0x184c2102, 4);
    *q++ = 0xf0;
    for (; left >= 255; left -= 255)
        *q++ = 255;
    *q++ = (uint8_t)left;
    memcpy(q, bytes, len);
    q += len;
    put(p + 4, (uint64_t)(q - block), 4);
    im.len += (size_t)(q - p);
}

static void append(int (*filter)(struct archive *), size_t len, uint64_t seed)
{
    uint8_t *p = next_plain();
    size_t n = cpio(p, sizeof(plain) - plain_len, len, seed);

    if (filter) {
        pack(filter, p, n);
    } else {
        memcpy(im.bytes + im.len, p, n);
        im.len += n;
    }
    plain_len += n;
}

static bool run(struct gmem *mem, uint64_t room, uint64_t *len)
{
    struct initrd_job job = { .mem = mem, .gpa = AT, .room = room };

    job.packed = file_of(&im, "initrd.img");
    initrd_unpack_begin(&job);
    if (!initrd_unpack_end(&job))
        return false;
    *len = job.len;
    return true;
}

static void expect_unpacked(void)
{
    struct gmem *mem = gmem_new(RAM, GIB(3), false, NULL);
    uint8_t *ram = gmem_span(mem, 0, RAM, GMEM_WRITE);
    uint64_t len;

    memset(ram + AT, 0xee, ROOM);
    assert_true(run(mem, ROOM, &len));
    assert_int_equal(len, plain_len);
    assert_memory_equal(ram + AT, plain, plain_len);
    assert_int_equal(ram[AT + len], 0xee);
    /* Not one byte more room than it needs, and not one less. */
    assert_true(run(mem, plain_len, &len));
    assert_false(run(mem, plain_len - 1, &len));
    gmem_free(mem);
}

static void expect_left(void)
{
    struct gmem *mem = gmem_new(RAM, GIB(3), false, NULL);
    uint64_t len;

    assert_false(run(mem, ROOM, &len));
    gmem_free(mem);
}

static void each_packer(void **state)
{
    static int (*const filters[])(struct archive *) = {
        NULL,
        archive_write_add_filter_gzip,
        archive_write_add_filter_bzip2,
        archive_write_add_filter_xz,
        archive_write_add_filter_lzma,
        archive_write_add_filter_zstd,
    };

    (void)state;
    for (unsigned i = 0; i < array_size(filters); i++) {
        begin();
        append(filters[i], 300001, 5);
        expect_unpacked();
        begin();
        append(NULL, 1235, 7); /* as with microcode in front */
        append(filters[i], 3000000, 0);
        expect_unpacked();
    }
}

static void several_with_zeros_between(void **state)
{
    (void)state;
    begin();
    append(archive_write_add_filter_zstd, 5001, 1);
    im.len += 3;
    append(NULL, 999, 2);
    im.len = align_up(im.len, 512);
    append(archive_write_add_filter_xz, 70003, 3);
    im.len = align_up(im.len, 4096);
    append(archive_write_add_filter_zstd, 11, 4);
    append(archive_write_add_filter_gzip, 1, 4);
    im.len += 100;
    expect_unpacked();
}

static void packed_by_lz4(void **state)
{
    size_t len;

    (void)state;
    begin();
    append(NULL, 100, 1);
    for (unsigned i = 0; i < 2; i++) {
        uint8_t *p = next_plain();

        len = cpio(p, sizeof(plain) - plain_len, 70001 + i, 3);
        pack_lz4(p, len);
        plain_len += len;
    }
    append(archive_write_add_filter_zstd, 100, 1);
    expect_unpacked();
}

/* What is behind a packed archive whose end only the packer finds is not lost. */
static void more_behind(void **state)
{
    static int (*const filters[])(struct archive *) = {
        archive_write_add_filter_gzip,
        archive_write_add_filter_bzip2,
        archive_write_add_filter_lzma,
    };

    (void)state;
    for (unsigned i = 0; i < array_size(filters); i++) {
        begin();
        append(filters[i], 5003, 1);
        append(filters[i], 5003, 2);
        im.len += 5;
        append(filters[i], 77, 3);
        append(archive_write_add_filter_zstd, 5001, 4);
        im.len = align_up(im.len, 4);
        append(NULL, 3, 5);
        expect_unpacked();
        memcpy(im.bytes + im.len, "#BOOTCONFIG\n", 12);
        im.len += 12;
        expect_left();
    }
}

/* Members of a gzip file behind each other come out as one; kernels take each as an archive of its own, the
 * length of which need not be a multiple of 4. */
static void members_of_odd_length(void **state)
{
    static uint8_t bytes[4096]; /* with zeros behind the archive */
    const size_t len = cpio(bytes, sizeof(bytes), 100, 1);

    (void)state;
    for (size_t n = len - 3; n < len + 9; n++) {
        begin();
        pack(archive_write_add_filter_gzip, bytes, n);
        pack(archive_write_add_filter_gzip, bytes, len);
        if (n % 4) {
            expect_left();
            continue;
        }
        memcpy(plain, bytes, n);
        memcpy(plain + n, bytes, len);
        plain_len = n + len;
        expect_unpacked();
    }
}

/* Each archive begins where kernels look for one. */
static void odd_lengths(void **state)
{
    static uint8_t bytes[4096];
    const size_t len = cpio(bytes, sizeof(bytes), 100, 1);

    (void)state;
    for (size_t n = len - 3; n < len + 9; n++) {
        begin();
        pack(archive_write_add_filter_zstd, bytes, n);
        memcpy(plain, bytes, n);
        plain_len = n;
        append(archive_write_add_filter_xz, 50, 2);
        expect_unpacked();
    }
}

/* The packer finds nothing wrong, but the kernel would. */
static void damaged_inside(void **state)
{
    static uint8_t bytes[8192];
    const size_t len = cpio(bytes, sizeof(bytes), 3000, 1);

    (void)state;
    begin();
    pack(archive_write_add_filter_zstd, bytes, len / 2);
    expect_left();
    begin();
    memcpy(bytes + len, "more", 4);
    pack(archive_write_add_filter_zstd, bytes, len + 4);
    expect_left();
    begin();
    bytes[54] = 'x'; /* the file's size */
    pack(archive_write_add_filter_zstd, bytes, len);
    expect_left();
}

static void frame_of_nothing(void **state)
{
    (void)state;
    begin();
    append(archive_write_add_filter_zstd, 501, 1);
    put(im.bytes + im.len, 0x184d2a53, 4);
    put(im.bytes + im.len + 4, 30, 4);
    im.len += 8 + 30;
    append(archive_write_add_filter_zstd, 100, 1);
    expect_unpacked();
}

static void stays_as_it_is(void **state)
{
    static uint8_t ext2[4096] = { [1080] = 0x53, [1081] = 0xef };

    (void)state;
    begin();
    pack(archive_write_add_filter_gzip, ext2, sizeof(ext2)); /* an image of a file system */
    expect_left();

    begin();
    append(archive_write_add_filter_zstd, 1000, 1);
    memcpy(im.bytes + im.len, "#BOOTCONFIG\n", 12);
    im.len += 12;
    expect_left();

    begin();
    append(NULL, 1000, 1);
    memcpy(im.bytes + im.len, "\x89LZO\0\r\n\x1a\nsomething", 18);
    im.len += 18;
    expect_left();

    begin();
    append(archive_write_add_filter_zstd, 3 * IMAGE_MAX, 0); /* a thousand times as much as it looks */
    append(archive_write_add_filter_zstd, IMAGE_MAX / 2, 0);
    pack(archive_write_add_filter_zstd, plain, plain_len); /* and as much again */
    assert_true(im.len < 20000);
    expect_left();
}

static void damaged(void **state)
{
    struct gmem *mem = gmem_new(RAM, GIB(3), false, NULL);
    uint64_t len;

    (void)state;
    begin();
    append(archive_write_add_filter_xz, 30000, 9);
    im.bytes[im.len / 2] ^= 4; /* its checksum tells */
    assert_false(run(mem, ROOM, &len));
    im.bytes[im.len / 2] ^= 4;
    for (size_t whole = im.len, n = 0; n < whole; n += 1 + n / 16) {
        im.len = n;
        assert_false(run(mem, ROOM, &len));
    }
    gmem_free(mem);
}

/* ---- where the loader puts it ---- */

static struct image kernel;

static void bzimage_make(void)
{
    memset(&kernel, 0, sizeof(kernel));
    kernel.len = SETUP_LEN + 8192;
    put_setup_header(&kernel, MIB(16), MIB(1));
}

static void pvh_make(void)
{
    memset(&kernel, 0, sizeof(kernel));
    kernel.len = 0x1100;
    memcpy(kernel.bytes,
           "\x7f"
           "ELF\x02\x01\x01",
           7);
    put(kernel.bytes + 16, 2, 2);
    put(kernel.bytes + 18, 62, 2);
    put(kernel.bytes + 32, 64, 8);
    put(kernel.bytes + 54, 56, 2);
    put(kernel.bytes + 56, 2, 2);
    put(kernel.bytes + 64, 1, 4); /* a segment */
    put(kernel.bytes + 64 + 8, 0x1000, 8);
    put(kernel.bytes + 64 + 24, MIB(16), 8);
    put(kernel.bytes + 64 + 32, 0x100, 8);
    put(kernel.bytes + 64 + 40, 0x100, 8);
    put(kernel.bytes + 120, 4, 4); /* and the note in it */
    put(kernel.bytes + 120 + 8, 0x1000, 8);
    put(kernel.bytes + 120 + 32, 0x20, 8);
    put(kernel.bytes + 0x1000, 4, 4);
    put(kernel.bytes + 0x1004, 4, 4);
    put(kernel.bytes + 0x1008, 18, 4);
    memcpy(kernel.bytes + 0x100c, "Xen", 4);
    put(kernel.bytes + 0x1010, MIB(16), 4);
}

/* Loads, and gives what the kernel is told. */
static void load(struct gmem *mem, bool is_pvh, uint64_t *gpa, uint64_t *len)
{
    struct x86_state *s = aligned_alloc(64, sizeof(*s));
    struct boot_input in = { .layout = layout_get() };
    struct yado_error err = YADO_ERROR_INIT;
    const uint8_t *params = gmem_span(mem, in.layout.params, 4096, GMEM_READ);

    in.kernel = file_of(&kernel, "vmlinuz");
    in.initrd = file_of(&im, "initrd.img");
    if (!boot_load(&in, mem, s, &err))
        fail_msg("%s", err.message);
    if (is_pvh) {
        const uint8_t *module = gmem_span(mem, get(params + 16, 8), 32, GMEM_READ);

        *gpa = get(module, 8);
        *len = get(module + 8, 8);
    } else {
        *gpa = get(params + 0x218, 4);
        *len = get(params + 0x21c, 4);
    }
    free(s);
}

static void placed_by_room(void **state)
{
    (void)state;
    begin();
    append(archive_write_add_filter_zstd, MIB(3), 0); /* unpacked it is more than 1/16 of 40 MiB */
    for (unsigned is_pvh = 0; is_pvh < 2; is_pvh++) {
        for (unsigned i = 0; i < 3; i++) {
            const uint64_t size = i == 0 ? MIB(40) : i == 1 ? MIB(64) : GIB(1);
            struct gmem *mem = gmem_new(size, GIB(3), false, NULL);
            const uint8_t *ram = gmem_span(mem, 0, size, GMEM_READ);
            uint64_t gpa, len;

            if (is_pvh)
                pvh_make();
            else
                bzimage_make();
            load(mem, is_pvh, &gpa, &len);
            assert_true(gpa % 4096 == 0 && gpa >= MIB(17) && gpa + len <= size);
            assert_int_equal(len, i ? plain_len : im.len);
            assert_memory_equal(ram + gpa, i ? plain : im.bytes, len);
            gmem_free(mem);
        }
    }
}

/* It may end nowhere above what the kernel allows. */
static void below_the_kernels_limit(void **state)
{
    struct gmem *mem = gmem_new(RAM, GIB(3), false, NULL);
    uint64_t gpa, len;

    (void)state;
    begin();
    append(archive_write_add_filter_zstd, MIB(3), 0);
    bzimage_make();
    put(kernel.bytes + 0x22c, MIB(48) - 1, 4);
    load(mem, false, &gpa, &len);
    assert_int_equal(len, plain_len);
    assert_true(gpa >= MIB(17) && gpa + len <= MIB(48));
    put(kernel.bytes + 0x22c, MIB(24) - 1, 4); /* no room for 1/16 of RAM */
    load(mem, false, &gpa, &len);
    assert_int_equal(len, im.len);
    assert_true(gpa >= MIB(17) && gpa + len <= MIB(24));
    gmem_free(mem);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_packer),           cmocka_unit_test(several_with_zeros_between),
        cmocka_unit_test(packed_by_lz4),         cmocka_unit_test(more_behind),
        cmocka_unit_test(members_of_odd_length), cmocka_unit_test(odd_lengths),
        cmocka_unit_test(damaged_inside),        cmocka_unit_test(frame_of_nothing),
        cmocka_unit_test(stays_as_it_is),        cmocka_unit_test(damaged),
        cmocka_unit_test(placed_by_room),        cmocka_unit_test(below_the_kernels_limit),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
