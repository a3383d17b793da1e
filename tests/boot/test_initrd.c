/* Initrd checks: archives of each kind made by libarchive, by a writer of our own where libarchive has none,
 * whole, joined and cut off at every byte. */
#include "image.h"

#include <archive.h>
#include <archive_entry.h>

#include "boot/boot_priv.h"

static struct image im;

static uint64_t bytes_read;
static uint64_t read_breaks_at = UINT64_MAX;

static bool read_part(const struct boot_file *f, uint64_t off, size_t len, void *at, struct yado_error *err)
{
    assert_true(off <= f->len && len <= f->len - off);
    if (off + len > read_breaks_at)
        return err_set(err, YADO_ERR_FILE, "%s: cannot read", f->name);
    memcpy(at, im.bytes + off, len);
    bytes_read += len;
    return true;
}

/* In memory and by parts of the file, which must say the same. */
static bool check(size_t len, struct yado_error *err)
{
    struct boot_file whole = { .name = "initrd.img", .data = im.bytes, .len = len };
    struct boot_file parts = { .name = "initrd.img", .len = len, .read = read_part };
    struct yado_error err2 = YADO_ERROR_INIT;
    bool ok;

    *err = (struct yado_error)YADO_ERROR_INIT;
    bytes_read = 0;
    ok = initrd_check(&whole, err);
    if (initrd_check(&parts, &err2) != ok || strcmp(err->message, err2.message))
        fail_msg("%zu bytes: \"%s\" in memory, \"%s\" by parts", len, err->message, err2.message);
    return ok;
}

static void good(size_t len)
{
    struct yado_error err;

    if (!check(len, &err))
        fail_msg("%zu bytes: %s", len, err.message);
}

static void bad(size_t len, const char *word)
{
    struct yado_error err;

    if (check(len, &err))
        fail_msg("%zu bytes of %zu: taken as whole", len, im.len);
    if (!strstr(err.message, "initrd.img: ") || !strstr(err.message, word))
        fail_msg("expected \"%s\" in: %s", word, err.message);
}

/* Appends an archive with two files, `noise` bytes of them hard to pack. */
static void append(int (*filter)(struct archive *), size_t noise)
{
    struct archive *a = archive_write_new();
    uint8_t *data = malloc(noise + 1);
    uint64_t x = 12345;
    size_t used = 0;

    for (size_t i = 0; i < noise; i++)
        data[i] = (uint8_t)((x = x * 6364136223846793005ull + 1442695040888963407ull) >> 56);
    archive_write_set_format_cpio_newc(a);
    if (filter && filter(a) != ARCHIVE_OK)
        fail_msg("%s", archive_error_string(a));
    assert_int_equal(archive_write_open_memory(a, im.bytes + im.len, IMAGE_MAX - im.len, &used), ARCHIVE_OK);
    for (unsigned i = 0; i < 2; i++) {
        struct archive_entry *e = archive_entry_new();

        archive_entry_set_pathname(e, i ? "etc/hostname" : "init");
        archive_entry_set_size(e, (la_int64_t)(i ? 7 : noise));
        archive_entry_set_filetype(e, AE_IFREG);
        archive_entry_set_perm(e, 0755);
        assert_int_equal(archive_write_header(a, e), ARCHIVE_OK);
        archive_write_data(a, i ? (const void *)"foobar\n" : data, i ? 7 : noise);
        archive_entry_free(e);
    }
    archive_write_close(a);
    archive_write_free(a);
    im.len += used;
    free(data);
}

static void begin(void)
{
    im.len = 0;
}

/* Frames are looked at, what they hold is not read; a file that cannot be read is an error of its own. */
static void by_parts(void **state)
{
    static int (*const filters[])(struct archive *) = { NULL, archive_write_add_filter_zstd,
                                                        archive_write_add_filter_xz };
    struct boot_file parts = { .name = "initrd.img", .read = read_part };

    (void)state;
    for (unsigned i = 0; i < array_size(filters); i++) {
        struct yado_error err = YADO_ERROR_INIT;

        begin();
        append(filters[i], 600000);
        assert_true(check(im.len, &err));
        assert_true(i == 2 || bytes_read < 80000);
        parts.len = im.len;
        for (read_breaks_at = 0; read_breaks_at < im.len; read_breaks_at += 200000) {
            err = (struct yado_error)YADO_ERROR_INIT;
            assert_false(initrd_check(&parts, &err));
            assert_int_equal(err.code, YADO_ERR_FILE);
        }
        read_breaks_at = UINT64_MAX;
    }
}

/* Where a plain archive ends for the kernel: the padding behind its trailer may go. */
static size_t cpio_end(void)
{
    const uint8_t *trailer = memmem(im.bytes, im.len, "TRAILER!!!", 11);

    assert_non_null(trailer);
    return (size_t)(trailer - im.bytes) + 11;
}

static void plain_cpio(void **state)
{
    (void)state;
    begin();
    append(NULL, 3000);
    good(im.len);
    for (size_t len = 6; len < cpio_end(); len++)
        bad(len, "truncated");
    for (size_t len = cpio_end(); len <= im.len; len++)
        good(len);
    im.bytes[0] = '1';
    bad(im.len, "not an initrd");
    im.bytes[0] = '0';
    memset(im.bytes + 54, 'f', 8); /* file size */
    bad(im.len, "truncated");
    memset(im.bytes + 54, 'g', 8);
    bad(im.len, "damaged");
}

static void packed_by_zstd(void **state)
{
    (void)state;
    begin();
    append(archive_write_add_filter_zstd, 300000);
    good(im.len);
    for (size_t len = 4; len < im.len; len += len < 64 || len + 64 > im.len ? 1 : 997)
        bad(len, "truncated");
}

static void packed_by_gzip(void **state)
{
    (void)state;
    begin();
    append(archive_write_add_filter_gzip, 100000);
    good(im.len);
    for (size_t len = 18; len < im.len; len += len < 64 || len + 64 > im.len ? 1 : 997) {
        struct yado_error err;

        assert_false(check(len, &err));
    }
    bad(im.len / 2, "truncated");
    im.bytes[10] |= 0x06; /* a block type that does not exist (RFC 1951, 3.2.3) */
    bad(im.len, "damaged");
}

static void packed_by_xz(void **state)
{
    (void)state;
    begin();
    append(archive_write_add_filter_xz, 100000);
    good(im.len);
    for (size_t len = 6; len < im.len; len += len < 64 || len + 64 > im.len ? 1 : 997)
        bad(len, "truncated");
}

/* The old lz4 format, which libarchive does not write. */
static void packed_by_lz4(void **state)
{
    (void)state;
    memset(im.bytes, 0xaa, 4096);
    put(im.bytes, 0x184c2102, 4);
    put(im.bytes + 4, 1000, 4);
    put(im.bytes + 8 + 1000, 500, 4);
    im.len = 8 + 1000 + 4 + 500;
    good(im.len);
    good(8 + 1000); /* cut between blocks: cannot be seen */
    bad(im.len - 1, "truncated");
    bad(8 + 1000 + 2, "truncated");
}

static void taken_by_magic(void **state)
{
    static const struct {
        const char *bytes;
        unsigned len;
    } cases[] = {
        { "BZh9", 4 },
        { "\x5d\0\0\x80", 4 },
        { "\x89LZO\0\r\n\x1a\n", 9 },
    };

    (void)state;
    for (unsigned i = 0; i < array_size(cases); i++) {
        memset(im.bytes, 0x33, 100);
        memcpy(im.bytes, cases[i].bytes, cases[i].len);
        im.len = 100;
        good(100);
    }
}

static void microcode_before_packed(void **state)
{
    size_t first;

    (void)state;
    begin();
    append(NULL, 5000);
    first = im.len;
    append(archive_write_add_filter_zstd, 50000);
    good(im.len);
    bad(im.len - 1, "truncated initrd: the zstd archive that begins at byte");
    bad(first + 100, "zstd");
    good(first); /* nothing says that more should follow */
    bad(cpio_end() - 20, "cpio");
}

static void more_after_xz(void **state)
{
    (void)state;
    begin();
    append(archive_write_add_filter_xz, 20000);
    append(NULL, 100);
    good(im.len);
    bad(im.len - 600, "truncated");
}

static void something_else_behind(void **state)
{
    (void)state;
    begin();
    append(archive_write_add_filter_zstd, 1000);
    memcpy(im.bytes + im.len, "#BOOTCONFIG\n", 12);
    good(im.len + 12);
}

static void no_initrd_at_all(void **state)
{
    (void)state;
    begin();
    bad(0, "empty");
    memcpy(im.bytes, "hello, world", 12);
    bad(12, "not an initrd");
    memset(im.bytes, 0, 4096);
    bad(4096, "not an initrd");
    memcpy(im.bytes, "07070", 5);
    bad(5, "not an initrd");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(by_parts),         cmocka_unit_test(plain_cpio),
        cmocka_unit_test(packed_by_zstd),   cmocka_unit_test(packed_by_gzip),
        cmocka_unit_test(packed_by_xz),     cmocka_unit_test(packed_by_lz4),
        cmocka_unit_test(taken_by_magic),   cmocka_unit_test(microcode_before_packed),
        cmocka_unit_test(more_after_xz),    cmocka_unit_test(something_else_behind),
        cmocka_unit_test(no_initrd_at_all),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
