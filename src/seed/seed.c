/* The NoCloud seed image: see seed/seed.h. The ISO 9660 writing is libarchive's. */
#include "seed/seed.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "host/anonfile.h"
#include "seed/archive_lazy.h"

#define SEED_LABEL "cidata"
#define SEED_DEFAULT_HOSTNAME "yado"
#define SEED_HOSTNAME_MAX 253 /* RFC 1035, 2.3.4, in text form */
#define SEED_OVERHEAD MIB(1)  /* more than all structures of the file system take */

/* ECMA-119, 8.4: the primary volume descriptor is in sector 16. */
#define ISO_PVD_OFFSET 0x8000
#define ISO_PVD_VOLUME_ID 40 /* offset in it, space padded */

static bool file_check(const struct seed_file *file, const char *what, struct yado_error *err)
{
    if (file->data && file->len > SEED_INPUT_MAX)
        return err_set(err, YADO_ERR_INVALID_CONFIG,
                       "%s: %zu bytes is over the limit of %d MiB; make it smaller", what, file->len,
                       (int)(SEED_INPUT_MAX >> 20));
    return true;
}

/* Names go into YAML and to the guest's hostname: letters, digits and hyphens in labels with dots between. */
static bool hostname_check(const char *name, struct yado_error *err)
{
    const size_t len = strlen(name);
    bool ok = len > 0 && len <= SEED_HOSTNAME_MAX;

    for (size_t i = 0; ok && i < len; i++) {
        const char c = name[i];
        const bool at_edge = i == 0 || i + 1 == len || name[i - 1] == '.' || name[i + 1] == '.';
        const bool is_alnum = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');

        ok = is_alnum || (!at_edge && (c == '-' || c == '.'));
    }
    if (ok)
        return true;
    return err_set(err, YADO_ERR_INVALID_CONFIG,
                   "host name: \"%s\" is not one; use letters, digits, hyphens and dots, %d bytes at most",
                   name, SEED_HOSTNAME_MAX);
}

static bool input_check(const struct seed_input *in, const char *hostname, struct yado_error *err)
{
    if (!in->user_data.data)
        return err_set(err, YADO_ERR_INVALID_CONFIG, "user-data: is missing; a seed needs one");
    return file_check(&in->user_data, "user-data", err) && file_check(&in->meta_data, "meta-data", err) &&
           file_check(&in->network_config, "network-config", err) &&
           (in->meta_data.data || hostname_check(hostname, err));
}

/* FNV-1a, 64 bits: it only has to tell one's own inputs apart. The length goes in first, so that bytes cannot
 * move between inputs unseen. */
static uint64_t hash_more(uint64_t hash, const void *data, size_t len)
{
    const uint8_t *p = data;
    uint64_t rest = len;

    for (unsigned i = 0; i < 8; i++, rest >>= 8)
        hash = (hash ^ (rest & 0xff)) * 0x100000001b3u;
    for (size_t i = 0; i < len; i++)
        hash = (hash ^ p[i]) * 0x100000001b3u;
    return hash;
}

static size_t file_len(const struct seed_file *file)
{
    return file->data ? file->len : 0;
}

/* Meta-data for those who gave none. A hash and not a random number: booting the same disk with the same seed
 * again must not look like a new instance, which would make cloud-init replace host keys and users. */
static int meta_data_make(const struct seed_input *in, const char *hostname, char *buf, size_t size)
{
    uint64_t hash = 0xcbf29ce484222325u;

    hash = hash_more(hash, hostname, strlen(hostname));
    hash = hash_more(hash, in->user_data.data, file_len(&in->user_data));
    hash = hash_more(hash, in->network_config.data, file_len(&in->network_config));
    return snprintf(buf, size, "instance-id: \"iid-%016" PRIx64 "\"\nlocal-hostname: \"%s\"\n", hash,
                    hostname);
}

static bool bytes_write(int fd, const void *data, size_t len)
{
    const char *p = data;

    while (len) {
        const ssize_t n = write(fd, p, len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return false;
        p += n;
        len -= (size_t)n;
    }
    return true;
}

static la_ssize_t image_sink(struct archive *a, void *ctx, const void *data, size_t len)
{
    const int *fd = ctx;

    if (bytes_write(*fd, data, len))
        return (la_ssize_t)len;
    archive_set_error(a, errno, "%s", strerror(errno));
    return -1;
}

static bool archive_add(struct archive *a, struct archive_entry *entry, const char *name,
                        const struct seed_file *file)
{
    archive_entry_clear(entry);
    archive_entry_set_pathname(entry, name);
    archive_entry_set_filetype(entry, AE_IFREG);
    archive_entry_set_perm(entry, 0444);
    archive_entry_set_size(entry, (la_int64_t)file->len);
    archive_entry_set_mtime(entry, time(NULL), 0);
    if (archive_write_header(a, entry) != ARCHIVE_OK)
        return false;
    return !file->len || archive_write_data(a, file->data, file->len) == (la_ssize_t)file->len;
}

static bool archive_fill(struct archive *a, const struct seed_input *in, int *fd)
{
    struct archive_entry *entry = archive_entry_new();
    bool ok;

    if (!entry)
        return false;
    ok = archive_write_set_format_iso9660(a) == ARCHIVE_OK &&
         archive_write_set_options(a,
                                   "iso9660:volume-id=" SEED_LABEL ",iso9660:joliet,iso9660:rockridge=useful,"
                                   "iso9660:!pad") == ARCHIVE_OK &&
         archive_write_set_bytes_per_block(a, 0) == ARCHIVE_OK &&
         archive_write_open(a, fd, NULL, image_sink, NULL) == ARCHIVE_OK &&
         archive_add(a, entry, "user-data", &in->user_data) &&
         archive_add(a, entry, "meta-data", &in->meta_data) &&
         (!in->network_config.data || archive_add(a, entry, "network-config", &in->network_config)) &&
         archive_write_close(a) == ARCHIVE_OK;
    archive_entry_free(entry);
    return ok;
}

/* ECMA-119 allows capitals only in a volume identifier, and libarchive makes it so in the primary descriptor
 * (not in Joliet's). The label that NoCloud documents is in small letters, which all systems read. */
static bool label_put(int fd, struct yado_error *err)
{
    static const char wanted[] = SEED_LABEL "  ";
    char descriptor[ISO_PVD_VOLUME_ID + sizeof(wanted) - 1];

    if (pread(fd, descriptor, sizeof(descriptor), ISO_PVD_OFFSET) != sizeof(descriptor) ||
        memcmp(descriptor, "\1CD001", 6) ||
        strncasecmp(descriptor + ISO_PVD_VOLUME_ID, wanted, sizeof(wanted) - 1))
        return err_set(err, YADO_ERR_INTERNAL, "seed: the image has no volume label where it should be");
    if (pwrite(fd, wanted, sizeof(wanted) - 1, ISO_PVD_OFFSET + ISO_PVD_VOLUME_ID) != sizeof(wanted) - 1)
        return err_set_errno(err, YADO_ERR_HOST, errno, "seed: cannot write the volume label");
    return true;
}

/* Writes the file system of complete inputs to the empty file out->fd. */
static bool image_fill(const struct seed_input *in, struct seed_image *out, struct yado_error *err)
{
    struct archive *a;
    struct stat st;
    bool ok;

    if (!archive_lazy_load(err))
        return err_prepend(err, "seed");
    a = archive_write_new();
    if (!a)
        return err_set(err, YADO_ERR_HOST, "seed: out of memory");
    ok = archive_fill(a, in, &out->fd);
    if (!ok) {
        const char *why = archive_error_string(a);

        err_set(err, YADO_ERR_HOST,
                "seed: cannot make the image (it needs a temporary file in $TMPDIR or /tmp): %s",
                why ? why : "out of memory");
    }
    archive_write_free(a);
    if (!ok || !label_put(out->fd, err))
        return false;
    if (fstat(out->fd, &st) || lseek(out->fd, 0, SEEK_SET))
        return err_set_errno(err, YADO_ERR_HOST, errno, "seed: cannot find out the size of the image");
    out->size = (uint64_t)st.st_size;
    return true;
}

bool seed_build(const struct seed_input *in, struct seed_image *out, struct yado_error *err)
{
    const char *hostname = in->hostname ? in->hostname : SEED_DEFAULT_HOSTNAME;
    struct seed_input full = *in;
    char meta_data[128 + SEED_HOSTNAME_MAX];
    uint64_t most;

    *out = (struct seed_image){ .fd = -1 };
    if (!input_check(in, hostname, err))
        return false;
    if (!in->meta_data.data) {
        const int len = meta_data_make(in, hostname, meta_data, sizeof(meta_data));

        BUG_ON(len < 0 || (size_t)len >= sizeof(meta_data));
        full.meta_data = (struct seed_file){ .data = meta_data, .len = (size_t)len };
    }
    /* The greatest size is tried first: over a file size limit, writing would kill the process. */
    most = file_len(&full.user_data) + file_len(&full.meta_data) + file_len(&full.network_config) +
           SEED_OVERHEAD;
    out->fd = anonfile_open("yado-seed", most, false);
    if (out->fd < 0 || ftruncate(out->fd, 0))
        err_set_errno(err, YADO_ERR_HOST, errno, "seed: the host gives no memory for the image");
    else if (image_fill(&full, out, err))
        return true;
    seed_image_close(out);
    return false;
}

bool seed_image_write(const struct seed_image *img, int fd, const char *name, struct yado_error *err)
{
    char buf[KIB(64)];

    for (uint64_t off = 0; off < img->size;) {
        const ssize_t n = pread(img->fd, buf, sizeof(buf), (off_t)off);

        if (n <= 0)
            return err_set_errno(err, YADO_ERR_HOST, n ? errno : EIO, "seed: cannot read the image");
        if (!bytes_write(fd, buf, (size_t)n))
            return err_set_errno(err, YADO_ERR_FILE, errno, "%s: cannot write the seed", name);
        off += (uint64_t)n;
    }
    return true;
}

void seed_image_close(struct seed_image *img)
{
    if (img->fd >= 0)
        close(img->fd);
    *img = (struct seed_image){ .fd = -1 };
}
