/* File services of macOS: see host/file.h. */
#include "host/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/disk.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

static int block_size_get(int fd, uint64_t *size)
{
    uint64_t count;
    uint32_t block;

    if (ioctl(fd, DKIOCGETBLOCKCOUNT, &count) || ioctl(fd, DKIOCGETBLOCKSIZE, &block))
        return errno;
    return __builtin_mul_overflow(count, block, size) ? EOVERFLOW : 0;
}

/* A whole disk has a block device (/dev/diskN) and a character device (/dev/rdiskN), which is the faster one;
 * other character devices have no block count. */
int file_facts_get(int fd, struct file_facts *out)
{
    const int flags = fcntl(fd, F_GETFL);
    struct stat st;

    *out = (struct file_facts){ .kind = FILE_KIND_OTHER };
    if (flags < 0 || fstat(fd, &st))
        return errno;
    out->can_read = (flags & O_ACCMODE) != O_WRONLY;
    out->can_write = (flags & O_ACCMODE) != O_RDONLY;
    if (S_ISREG(st.st_mode)) {
        out->kind = FILE_KIND_REGULAR;
        out->size = (uint64_t)st.st_size;
    } else if (S_ISDIR(st.st_mode)) {
        out->kind = FILE_KIND_DIRECTORY;
    } else if (S_ISBLK(st.st_mode) || S_ISCHR(st.st_mode)) {
        int error = block_size_get(fd, &out->size);

        if (!error)
            out->kind = FILE_KIND_BLOCK;
        else if (S_ISBLK(st.st_mode))
            return error;
    }
    return 0;
}

int file_path_get(int fd, char *buf, size_t room)
{
    char path[PATH_MAX];

    if (fcntl(fd, F_GETPATH, path) < 0)
        return errno;
    if (strlen(path) >= room)
        return ENAMETOOLONG;
    memcpy(buf, path, strlen(path) + 1);
    return 0;
}

/* flock belongs to the open file description; macOS keeps its description locks of the other kind to itself.
 */
int file_lock(int fd, bool exclusive)
{
    if (!flock(fd, (exclusive ? LOCK_EX : LOCK_SH) | LOCK_NB))
        return 0;
    if (errno == EWOULDBLOCK)
        return EAGAIN;
    return errno == EOPNOTSUPP || errno == EINVAL ? ENOTSUP : errno;
}

/* fsync of macOS stops at the drive's own cache; F_FULLFSYNC goes through it, where the file system can. */
int file_sync_data(int fd)
{
    int rc;

    do
        rc = fcntl(fd, F_FULLFSYNC);
    while (rc < 0 && errno == EINTR);
    if (rc >= 0)
        return 0;
    do
        rc = fsync(fd);
    while (rc && errno == EINTR);
    return rc ? errno : 0;
}

int file_punch_hole(int fd, uint64_t off, uint64_t len)
{
    struct fpunchhole hole = { .fp_offset = (off_t)off, .fp_length = (off_t)len };

    if (!len || fcntl(fd, F_PUNCHHOLE, &hole) >= 0)
        return 0;
    /* Ranges of whole file system blocks only. */
    return errno == EINVAL || errno == ENOTTY || errno == EOPNOTSUPP ? ENOTSUP : errno;
}

int file_zero_range(int fd, uint64_t off, uint64_t len)
{
    (void)fd;
    (void)off;
    return len ? ENOTSUP : 0; /* there is no such call; the caller writes zeroes */
}
