/* Raw disk images and block devices: guest byte n is file byte n. */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "disk/format.h"
#include "host/file.h"

#define RAW_IOV_MAX 64 /* segments in one system call; longer requests take several */
#define RAW_SECTOR 512
#define RAW_ZERO_SIZE 4096 /* bytes of zeroes that write_zeroes repeats RAW_IOV_MAX times per call */

struct raw {
    int fd;
    /* What the file turned out not to do, so that it is asked once. Relaxed: a late view costs one call. */
    atomic_bool no_punch_hole, no_zero_range;
};

/* Where a transfer stands in the caller's segments, which stay unchanged. */
struct iov_cursor {
    const struct iovec *iov;
    unsigned count;
    size_t skip; /* bytes of iov[0] that are done */
};

/* Lists what is to be transferred next, at most `left` bytes; returns the number of segments. */
static int cursor_segments(const struct iov_cursor *c, uint64_t left, struct iovec out[RAW_IOV_MAX])
{
    size_t skip = c->skip;
    int n = 0;

    for (unsigned i = 0; i < c->count && n < RAW_IOV_MAX && left; i++, skip = 0) {
        const size_t len = (size_t)min_u64(c->iov[i].iov_len - skip, left);

        if (!len)
            continue;
        out[n++] = (struct iovec){ .iov_base = (char *)c->iov[i].iov_base + skip, .iov_len = len };
        left -= len;
    }
    return n;
}

static void cursor_advance(struct iov_cursor *c, size_t n)
{
    while (c->count && n >= c->iov->iov_len - c->skip) {
        n -= c->iov->iov_len - c->skip;
        c->iov++;
        c->count--;
        c->skip = 0;
    }
    if (c->count)
        c->skip += n;
}

static int raw_transfer(struct raw *raw, const struct disk_request *req, bool is_write)
{
    struct iov_cursor cursor = { .iov = req->iov, .count = req->iov_count };
    uint64_t done = 0;

    while (done < req->len) {
        struct iovec part[RAW_IOV_MAX];
        const int count = cursor_segments(&cursor, req->len - done, part);
        const off_t at = (off_t)(req->off + done);
        ssize_t n;

        BUG_ON(!count); /* segments sum to len */
        n = is_write ? pwritev(raw->fd, part, count, at) : preadv(raw->fd, part, count, at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno;
        if (!n)
            return EIO; /* the file was cut while in use, or takes no more */
        cursor_advance(&cursor, (size_t)n);
        done += (uint64_t)n;
    }
    return 0;
}

static int raw_read(void *format, const struct disk_request *req)
{
    return raw_transfer(format, req, false);
}

static int raw_write(void *format, const struct disk_request *req)
{
    return raw_transfer(format, req, true);
}

static int raw_flush(void *format)
{
    const struct raw *raw = format;

    return file_sync_data(raw->fd);
}

/* Runs a range operation unless the file is known not to have it. ENOTSUP is remembered. */
static int raw_range(struct raw *raw, atomic_bool *missing, int (*change)(int fd, uint64_t off, uint64_t len),
                     uint64_t off, uint64_t len)
{
    int error;

    if (atomic_load_explicit(missing, memory_order_relaxed))
        return ENOTSUP;
    error = change(raw->fd, off, len);
    if (error == ENOTSUP)
        atomic_store_explicit(missing, true, memory_order_relaxed);
    /* A block device refuses ranges that are not whole blocks of its own, which may be larger than the
     * guest's. */
    return error == EINVAL ? ENOTSUP : error;
}

/* A discard is a hint: what cannot be given back stays. */
static int raw_discard(void *format, uint64_t off, uint64_t len)
{
    struct raw *raw = format;
    const int error = raw_range(raw, &raw->no_punch_hole, file_punch_hole, off, len);

    return error == ENOTSUP ? 0 : error;
}

static int raw_write_zeroes_by_hand(struct raw *raw, uint64_t off, uint64_t len)
{
    static const char zeroes[RAW_ZERO_SIZE];
    struct iovec iov[RAW_IOV_MAX];

    for (unsigned i = 0; i < RAW_IOV_MAX; i++)
        iov[i] = (struct iovec){ .iov_base = (void *)(uintptr_t)zeroes, .iov_len = RAW_ZERO_SIZE };
    while (len) {
        const struct disk_request part = { .op = DISK_WRITE,
                                           .off = off,
                                           .len = min_u64(len, sizeof(zeroes) * RAW_IOV_MAX),
                                           .iov = iov,
                                           .iov_count = RAW_IOV_MAX };
        const int error = raw_transfer(raw, &part, true);

        if (error)
            return error;
        off += part.len;
        len -= part.len;
    }
    return 0;
}

static int raw_write_zeroes(void *format, uint64_t off, uint64_t len, bool unmap)
{
    struct raw *raw = format;
    int error = ENOTSUP;

    if (unmap)
        error = raw_range(raw, &raw->no_punch_hole, file_punch_hole, off, len);
    if (error == ENOTSUP)
        error = raw_range(raw, &raw->no_zero_range, file_zero_range, off, len);
    if (error == ENOTSUP)
        error = raw_write_zeroes_by_hand(raw, off, len);
    return error;
}

static void raw_close(void *format)
{
    struct raw *raw = format;

    close(raw->fd);
    free(raw);
}

static const struct disk_format_ops raw_ops = {
    .name = "raw",
    .read = raw_read,
    .write = raw_write,
    .flush = raw_flush,
    .discard = raw_discard,
    .write_zeroes = raw_write_zeroes,
    .close = raw_close,
};

static bool raw_kind_check(const char *name, const struct file_facts *facts, bool read_only,
                           struct yado_error *err)
{
    if (facts->kind == FILE_KIND_DIRECTORY)
        return err_set(err, YADO_ERR_FILE, "%s: is a directory; name a disk image file", name);
    if (facts->kind == FILE_KIND_OTHER)
        return err_set(err, YADO_ERR_FILE, "%s: is neither a regular file nor a block device", name);
    if (!facts->can_read)
        return err_set(err, YADO_ERR_FILE, "%s: is not open for reading", name);
    if (!read_only && !facts->can_write)
        return err_set(err, YADO_ERR_FILE,
                       "%s: is not open for writing; make it writable or attach it read-only", name);
    if (!facts->size)
        return err_set(err, YADO_ERR_FILE, "%s: is empty; a disk image has at least %d bytes", name,
                       RAW_SECTOR);
    if (facts->size % RAW_SECTOR)
        return err_set(
            err, YADO_ERR_FILE,
            "%s: its size, %llu bytes, is not a multiple of %d; it is cut short or is no raw disk image",
            name, (unsigned long long)facts->size, RAW_SECTOR);
    return true;
}

static bool raw_lock(int fd, const char *name, bool read_only, struct yado_error *err)
{
    const int error = file_lock(fd, !read_only);

    if (!error || error == ENOTSUP) /* a file system without locks: the user guards it */
        return true;
    if (error == EAGAIN)
        return err_set(err, YADO_ERR_IN_USE,
                       "%s: is in use by another machine, or twice by this one; stop that one or use a copy",
                       name);
    return err_set_errno(err, YADO_ERR_FILE, error, "%s: cannot lock", name);
}

static bool raw_open(int fd, const char *name, bool read_only, uint64_t *size, struct yado_error *err)
{
    struct file_facts facts;
    const int error = file_facts_get(fd, &facts);

    if (error)
        return err_set_errno(err, YADO_ERR_FILE, error, "%s: cannot find out its size", name);
    *size = facts.size;
    return raw_kind_check(name, &facts, read_only, err) && raw_lock(fd, name, read_only, err);
}

struct disk *disk_open_raw(int fd, const char *name, const struct disk_options *opt, struct yado_error *err)
{
    struct raw *raw;
    uint64_t size = 0;

    if (!raw_open(fd, name, opt->read_only, &size, err)) {
        close(fd);
        return NULL;
    }
    raw = calloc(1, sizeof(*raw));
    if (!raw) {
        close(fd);
        err_set(err, YADO_ERR_HOST, "%s: out of memory", name);
        return NULL;
    }
    raw->fd = fd;
    /* With O_APPEND Linux's pwrite ignores the offset. */
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_APPEND);
    return disk_new(&raw_ops, raw, name, size, opt, err);
}
