/* Is it an initrd, and is it whole?
 *
 * An initrd is one or more archives behind each other: plain cpio (often the CPU microcode), and cpio packed
 * by one of seven programs, with zero bytes between them (Linux
 * Documentation/driver-api/early-userspace/buffer-format.rst). A kernel that meets a cut-off archive boots on
 * and dies much later without a root file system, so it is worth finding out here. The archives are walked by
 * their own framing: cpio by members, zstd and lz4 by blocks. xz has an end mark. gzip has no framing that
 * can be followed without unpacking, so it is unpacked and thrown away (0.1 s for each 15 MiB that come out;
 * its checksum is left to the kernel); bzip2, lzma and lzo are taken by their magic alone.
 *
 * The framing is read from the file a window at a time, so what lies between is not read at all; archives
 * without framing are read whole.
 *
 * What follows a whole archive and is no archive (a boot configuration, a signature) is left to the kernel.
 */
#include <archive.h>
#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "boot/boot_priv.h"

#define CPIO_HEADER_LEN 110
#define CPIO_FILESIZE_OFF 54
#define CPIO_NAMESIZE_OFF 94
#define CPIO_TRAILER "TRAILER!!!"

#define LZ4_MAGIC 0x184c2102u /* the old format, the one that kernels know */
#define ZSTD_MAGIC 0xfd2fb528u
#define ZSTD_SKIPPABLE 0x184d2a50u
#define XZ_BLOCK_END "YZ"

#define LOOK_LEN 128u /* the most that is looked at in one place: a cpio header and the trailer's name */

struct window {
    uint64_t off;
    size_t len;
    bool failed; /* to read; the error is told already */
    struct yado_error *err;
    uint8_t bytes[4096];
};

struct cursor {
    const struct boot_file *file;
    uint64_t off;
    struct window *window; /* of a file with `read` */
};

_Static_assert(CPIO_HEADER_LEN + sizeof(CPIO_TRAILER) <= LOOK_LEN, "what is looked at");

enum walk_result { WALK_OK, WALK_TRUNCATED, WALK_DAMAGED };

static uint64_t left_of(const struct cursor *c)
{
    return c->file->len - c->off;
}

static void window_move(const struct cursor *c)
{
    struct window *w = c->window;

    w->off = c->off;
    w->len = min_u64(left_of(c), sizeof(w->bytes));
    if (w->failed || !c->file->read(c->file, w->off, w->len, w->bytes, w->err)) {
        w->failed = true;
        memset(w->bytes, 0, sizeof(w->bytes));
    }
}

/* LOOK_LEN bytes, or those that are left. */
static const uint8_t *at(const struct cursor *c)
{
    const struct window *w = c->window;

    if (!w)
        return c->file->data + c->off;
    if (c->off < w->off || c->off + min_u64(left_of(c), LOOK_LEN) > w->off + w->len)
        window_move(c);
    return w->bytes + (c->off - w->off);
}

static void skip_zeros(struct cursor *c)
{
    while (left_of(c) && !*at(c))
        c->off++;
}

/* ---- cpio, "newc" format: cpio(5) ---- */

static bool parse_hex(const uint8_t *p, uint32_t *value)
{
    *value = 0;
    for (unsigned i = 0; i < 8; i++) {
        if (!isxdigit(p[i]))
            return false;
        *value = *value << 4 | (uint32_t)(isdigit(p[i]) ? p[i] - '0' : (p[i] | 0x20) - 'a' + 10);
    }
    return true;
}

static bool is_cpio(const uint8_t *p, uint64_t len)
{
    return len >= 6 && (!memcmp(p, "070701", 6) || !memcmp(p, "070702", 6));
}

/* One member, padded to 4 bytes after its name and after its data. */
static enum walk_result walk_member(struct cursor *c, bool *is_trailer)
{
    uint32_t file_size, name_size;
    uint64_t data, end;

    if (left_of(c) < CPIO_HEADER_LEN)
        return WALK_TRUNCATED;
    if (!is_cpio(at(c), left_of(c)) || !parse_hex(at(c) + CPIO_FILESIZE_OFF, &file_size) ||
        !parse_hex(at(c) + CPIO_NAMESIZE_OFF, &name_size) || !name_size)
        return WALK_DAMAGED;
    data = align_up(CPIO_HEADER_LEN + (uint64_t)name_size, 4);
    end = data + file_size;
    *is_trailer = name_size == sizeof(CPIO_TRAILER) && left_of(c) >= CPIO_HEADER_LEN + sizeof(CPIO_TRAILER) &&
                  !memcmp(at(c) + CPIO_HEADER_LEN, CPIO_TRAILER, sizeof(CPIO_TRAILER));
    if (*is_trailer) {
        c->off += min_u64(align_up(end, 4), left_of(c)); /* its padding may be missing */
        return WALK_OK;
    }
    if (end > left_of(c))
        return WALK_TRUNCATED;
    c->off += min_u64(align_up(end, 4), left_of(c));
    return WALK_OK;
}

static enum walk_result walk_cpio(struct cursor *c)
{
    bool is_trailer = false;

    while (!is_trailer) {
        enum walk_result r = walk_member(c, &is_trailer);

        if (r != WALK_OK)
            return r;
    }
    return WALK_OK;
}

/* ---- zstd: RFC 8878, sections 3.1.1 and 3.1.2 ---- */

static uint64_t zstd_header_len(uint8_t descriptor)
{
    static const uint8_t dictionary[] = { 0, 1, 2, 4 };
    static const uint8_t content[] = { 0, 2, 4, 8 };
    bool single = descriptor & 0x20;
    unsigned content_len = content[descriptor >> 6];

    if (single && !content_len)
        content_len = 1;
    return 5u + (single ? 0 : 1) + dictionary[descriptor & 3] + content_len;
}

static enum walk_result walk_zstd(struct cursor *c)
{
    uint8_t descriptor;
    bool last = false;

    if (left_of(c) < 5)
        return WALK_TRUNCATED;
    descriptor = at(c)[4];
    if (zstd_header_len(descriptor) > left_of(c))
        return WALK_TRUNCATED;
    c->off += zstd_header_len(descriptor);
    while (!last) {
        uint64_t block, len;
        unsigned type;

        if (left_of(c) < 3)
            return WALK_TRUNCATED;
        block = load_le(at(c), 3);
        last = block & 1;
        type = block >> 1 & 3;
        len = type == 1 ? 1 : block >> 3; /* one repeated byte, or as many as it says */
        if (type == 3)
            return WALK_DAMAGED;
        if (len > left_of(c) - 3)
            return WALK_TRUNCATED;
        c->off += 3 + len;
    }
    if (descriptor & 4) { /* checksum */
        if (left_of(c) < 4)
            return WALK_TRUNCATED;
        c->off += 4;
    }
    return WALK_OK;
}

static enum walk_result walk_zstd_skippable(struct cursor *c)
{
    uint64_t len;

    if (left_of(c) < 8)
        return WALK_TRUNCATED;
    len = load_le(at(c) + 4, 4);
    if (len > left_of(c) - 8)
        return WALK_TRUNCATED;
    c->off += 8 + len;
    return WALK_OK;
}

/* ---- lz4, old format: blocks with a length before each, until the end or another magic ---- */

static bool is_archive(const uint8_t *p, uint64_t len);

static enum walk_result walk_lz4(struct cursor *c)
{
    c->off += 4;
    while (left_of(c)) {
        uint64_t len;

        if (is_archive(at(c), left_of(c)))
            return WALK_OK;
        if (left_of(c) < 4)
            return WALK_TRUNCATED;
        len = load_le(at(c), 4);
        if (!len)
            return WALK_OK;
        if (len > left_of(c) - 4)
            return WALK_TRUNCATED;
        c->off += 4 + len;
    }
    return WALK_OK;
}

/* ---- xz: the stream footer ends in "YZ" (xz file format 1.1, 2.1.2) ---- */

/* Goes to the first end mark after which the file ends or another archive begins. */
static enum walk_result walk_xz(struct cursor *c)
{
    struct cursor next;
    const uint8_t *hit;

    for (;;) {
        hit = memmem(at(c), left_of(c), XZ_BLOCK_END, 2);
        if (!hit)
            return WALK_TRUNCATED;
        c->off = (uint64_t)(hit - c->file->data) + 2;
        next = *c;
        skip_zeros(&next);
        if (!left_of(&next) || is_archive(at(&next), left_of(&next))) {
            *c = next;
            return WALK_OK;
        }
    }
}

/* ---- gzip: RFC 1952 ---- */

/* Unpacks to the end. Where in the file that was is not known after, so a gzip archive is taken as the last
 * one. */
static enum walk_result walk_gzip(struct cursor *c)
{
    struct archive *a = archive_read_new();
    struct archive_entry *entry;
    enum walk_result result = WALK_OK;
    const uint8_t *packed = at(c);
    const size_t packed_len = left_of(c);
    const void *block;
    size_t len;
    la_int64_t off;
    int r;

    c->off = c->file->len;
    if (!a) /* no libarchive: the guest's kernel will see */
        return WALK_OK;
    archive_read_support_filter_gzip(a);
    archive_read_support_format_raw(a);
    r = archive_read_open_memory(a, packed, packed_len);
    if (r == ARCHIVE_OK)
        r = archive_read_next_header(a, &entry);
    while (r == ARCHIVE_OK)
        r = archive_read_data_block(a, &block, &len, &off);
    if (r != ARCHIVE_EOF)
        result = strstr(archive_error_string(a) ? archive_error_string(a) : "", "truncated") ? WALK_TRUNCATED
                                                                                             : WALK_DAMAGED;
    archive_read_free(a);
    return result;
}

/* Nothing to check. */
static enum walk_result walk_blind(struct cursor *c)
{
    c->off = c->file->len;
    return WALK_OK;
}

struct kind {
    const char *name;
    unsigned len;
    const char *magic;
    enum walk_result (*walk)(struct cursor *c);
    bool wants_all; /* bytes, not just LOOK_LEN at a time */
};

static const struct kind kinds[] = {
    { "cpio", 6, "070701", walk_cpio, false },
    { "cpio", 6, "070702", walk_cpio, false },
    { "zstd", 4, "\x28\xb5\x2f\xfd", walk_zstd, false },
    { "gzip", 3, "\x1f\x8b\x08", walk_gzip, true },
    { "xz", 6, "\xfd\x37zXZ\0", walk_xz, true },
    { "lz4", 4, "\x02\x21\x4c\x18", walk_lz4, false },
    { "bzip2", 3, "BZh", walk_blind, false },
    { "lzma", 3, "\x5d\0\0", walk_blind, false },
    { "lzo", 9, "\x89LZO\0\r\n\x1a\n", walk_blind, false },
};

static const struct kind zstd_skippable = { "zstd", 4, NULL, walk_zstd_skippable, false };

static const struct kind *kind_of(const uint8_t *p, uint64_t len)
{
    for (unsigned i = 0; i < array_size(kinds); i++)
        if (len >= kinds[i].len && !memcmp(p, kinds[i].magic, kinds[i].len))
            return &kinds[i];
    if (len >= 4 && (load_le(p, 4) & ~0xfull) == ZSTD_SKIPPABLE)
        return &zstd_skippable;
    return NULL;
}

static bool is_archive(const uint8_t *p, uint64_t len)
{
    return kind_of(p, len) != NULL;
}

/* The walk on all that is left of the file, in memory. */
static enum walk_result walk_all(const struct kind *kind, struct cursor *c)
{
    struct boot_file rest = { .name = c->file->name, .len = left_of(c) };
    struct cursor there = { .file = &rest };
    enum walk_result result = WALK_OK;
    uint8_t *bytes = malloc(rest.len);

    rest.data = bytes;
    if (!bytes)
        err_set(c->window->err, YADO_ERR_HOST, "%s: out of memory", rest.name);
    if (!bytes || !c->file->read(c->file, c->off, rest.len, bytes, c->window->err))
        c->window->failed = true;
    else
        result = kind->walk(&there);
    free(bytes);
    c->off += there.off;
    return result;
}

static bool archives_check(struct cursor *c, struct yado_error *err)
{
    const struct boot_file *initrd = c->file;
    const struct kind *kind;

    if (!is_archive(at(c), initrd->len))
        return err_set(err, YADO_ERR_IMAGE, "%s: not an initrd: neither a cpio archive nor a packed one",
                       initrd->name);
    while ((kind = kind_of(at(c), left_of(c)))) {
        uint64_t start = c->off;

        switch (c->window && kind->wants_all ? walk_all(kind, c) : kind->walk(c)) {
        case WALK_OK: break;
        case WALK_TRUNCATED:
            return err_set(err, YADO_ERR_IMAGE,
                           "%s: truncated initrd: the %s archive that begins at byte %" PRIu64
                           " goes on after the end of the file (%zu bytes)",
                           initrd->name, kind->name, start, initrd->len);
        case WALK_DAMAGED:
            return err_set(err, YADO_ERR_IMAGE,
                           "%s: damaged initrd: the %s archive that begins at byte %" PRIu64
                           " cannot be read",
                           initrd->name, kind->name, start);
        }
        if (c->window && c->window->failed)
            return false;
        skip_zeros(c);
    }
    return true;
}

bool initrd_next(const struct boot_file *initrd, uint64_t off, struct initrd_archive *out)
{
    struct cursor c = { .file = initrd, .off = off };
    const struct kind *kind;

    skip_zeros(&c);
    *out = (struct initrd_archive){ .off = c.off };
    if (!left_of(&c))
        return true;
    kind = kind_of(at(&c), left_of(&c));
    if (!kind)
        return false;
    out->is_plain = kind->walk == walk_cpio;
    out->is_empty = kind == &zstd_skippable;
    if ((kind->walk == walk_gzip ? walk_blind : kind->walk)(&c) != WALK_OK)
        return false;
    out->len = c.off - out->off;
    return true;
}

bool initrd_check(const struct boot_file *initrd, struct yado_error *err)
{
    struct window *w = NULL;
    struct cursor c = { .file = initrd };
    bool ok;

    if (!initrd->len)
        return err_set(err, YADO_ERR_IMAGE, "%s: not an initrd: the file is empty", initrd->name);
    if (initrd->data)
        return archives_check(&c, err);
    w = calloc(1, sizeof(*w));
    if (!w)
        return err_set(err, YADO_ERR_HOST, "%s: out of memory", initrd->name);
    w->err = err;
    c.window = w;
    ok = archives_check(&c, err) && !w->failed;
    free(w);
    return ok;
}
