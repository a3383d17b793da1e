/* File services of Linux: see host/file.h. */
#include "host/file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

int file_facts_get(int fd, struct file_facts *out)
{
    const int flags = fcntl(fd, F_GETFL);
    struct stat st;

    *out = (struct file_facts){ .kind = FILE_KIND_OTHER };
    if (flags < 0 || fstat(fd, &st))
        return errno;
    out->can_read = (flags & O_ACCMODE) != O_WRONLY && !(flags & O_PATH);
    out->can_write = (flags & O_ACCMODE) != O_RDONLY && !(flags & O_PATH);
    if (S_ISREG(st.st_mode)) {
        out->kind = FILE_KIND_REGULAR;
        out->size = (uint64_t)st.st_size;
    } else if (S_ISBLK(st.st_mode)) {
        out->kind = FILE_KIND_BLOCK;
        if (ioctl(fd, BLKGETSIZE64, &out->size))
            return errno;
    } else if (S_ISDIR(st.st_mode)) {
        out->kind = FILE_KIND_DIRECTORY;
    }
    return 0;
}

int file_path_get(int fd, char *buf, size_t room)
{
    char link[32];
    ssize_t len;

    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    len = readlink(link, buf, room);
    if (len < 0)
        return errno;
    if ((size_t)len >= room)
        return ENAMETOOLONG;
    buf[len] = '\0';
    return 0;
}

/* Open file description locks where the file system has them, else flock, which belongs to the description as
 * well. POSIX process locks would not do: two machines of one process would not see each other. */
int file_lock(int fd, bool exclusive)
{
    struct flock whole = { .l_type = exclusive ? F_WRLCK : F_RDLCK, .l_whence = SEEK_SET };

    if (!fcntl(fd, F_OFD_SETLK, &whole))
        return 0;
    if (errno == EAGAIN || errno == EACCES)
        return EAGAIN;
    if (!flock(fd, (exclusive ? LOCK_EX : LOCK_SH) | LOCK_NB))
        return 0;
    if (errno == EWOULDBLOCK)
        return EAGAIN;
    return errno == ENOSYS || errno == EOPNOTSUPP || errno == ENOLCK || errno == EINVAL ? ENOTSUP : errno;
}

int file_sync_data(int fd)
{
    int rc;

    do
        rc = fdatasync(fd);
    while (rc && errno == EINTR);
    return rc ? errno : 0;
}

static int range_change(int fd, int mode, uint64_t off, uint64_t len)
{
    int rc;

    if (!len)
        return 0;
    do
        rc = fallocate(fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)off, (off_t)len);
    while (rc && errno == EINTR);
    if (!rc)
        return 0;
    return errno == EOPNOTSUPP || errno == ENOSYS || errno == ENODEV ? ENOTSUP : errno;
}

int file_punch_hole(int fd, uint64_t off, uint64_t len)
{
    return range_change(fd, FALLOC_FL_PUNCH_HOLE, off, len);
}

int file_zero_range(int fd, uint64_t off, uint64_t len)
{
    return range_change(fd, FALLOC_FL_ZERO_RANGE, off, len);
}
