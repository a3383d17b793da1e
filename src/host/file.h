/* What the disks need of the host's files beyond POSIX. Any thread. Functions that return int give 0 or a
 * positive errno; ENOTSUP means that this file can never do it. */
#ifndef HOST_FILE_H
#define HOST_FILE_H

#include "util/err.h"

enum file_kind { FILE_KIND_REGULAR, FILE_KIND_BLOCK, FILE_KIND_DIRECTORY, FILE_KIND_OTHER };

struct file_facts {
    enum file_kind kind;
    uint64_t size;            /* bytes; regular files and block devices */
    bool can_read, can_write; /* by this descriptor */
};

int file_facts_get(int fd, struct file_facts *out);

/* A path that led to the open file, ENAMETOOLONG if it does not fit. It may be gone or name another file by
 * now. */
int file_path_get(int fd, char *buf, size_t room);

/* Advisory lock of the whole file that belongs to the open file description: it conflicts with any other
 * description, of this process too, and goes with the last descriptor. EAGAIN: someone else holds it. */
int file_lock(int fd, bool exclusive);

int file_sync_data(int fd);
/* Deallocates [off, off + len), which reads as zeroes afterwards. */
int file_punch_hole(int fd, uint64_t off, uint64_t len);
/* Makes [off, off + len) read as zeroes, keeping or making it allocated. */
int file_zero_range(int fd, uint64_t off, uint64_t len);

#endif
