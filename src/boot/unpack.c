/* Packed bytes, by libarchive: what is unpacked goes from its own buffers to the sink, so nobody holds all of
 * it. */
#include "boot/unpack.h"

#include <archive.h>
#include <string.h>

struct packer {
    unsigned len;
    const char *magic;
    int (*support)(struct archive *a);
};

static const struct packer packers[] = {
    { 3, "\x1f\x8b\x08", archive_read_support_filter_gzip },     /* RFC 1952 */
    { 4, "\x28\xb5\x2f\xfd", archive_read_support_filter_zstd }, /* RFC 8878 */
    { 4, "\x02\x21\x4c\x18", archive_read_support_filter_lz4 },  /* its old format, which kernels use */
    { 6, "\xfd\x37zXZ\0", archive_read_support_filter_xz },
    { 3, "BZh", archive_read_support_filter_bzip2 },
    { 3, "\x5d\0\0", archive_read_support_filter_lzma },
};

static const struct packer *packer_of(const uint8_t *p, size_t len)
{
    for (unsigned i = 0; i < array_size(packers); i++)
        if (len >= packers[i].len && !memcmp(p, packers[i].magic, packers[i].len))
            return &packers[i];
    return NULL;
}

static bool pour(struct archive *a, unpack_sink *sink, void *ctx)
{
    struct archive_entry *entry;
    const void *bytes;
    la_int64_t off;
    size_t len;
    int r = archive_read_next_header(a, &entry);

    while (r == ARCHIVE_OK) {
        r = archive_read_data_block(a, &bytes, &len, &off);
        if (r == ARCHIVE_OK && !sink(ctx, bytes, len))
            return false;
    }
    return r == ARCHIVE_EOF;
}

size_t unpack(const uint8_t *packed, size_t len, unpack_sink *sink, void *ctx)
{
    const struct packer *packer = packer_of(packed, len);
    struct archive *a = packer ? archive_read_new() : NULL;
    la_int64_t used = 0;

    if (!a)
        return 0;
    /* A library that was built without a packer would call its program (ARCHIVE_WARN). */
    if (packer->support(a) == ARCHIVE_OK && archive_read_support_format_raw(a) == ARCHIVE_OK &&
        archive_read_open_memory(a, packed, len) == ARCHIVE_OK && pour(a, sink, ctx))
        used = archive_filter_bytes(a, -1);
    archive_read_free(a);
    return used > 0 ? (size_t)used : 0;
}
