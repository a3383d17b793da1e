/* A disk as the block device sees it: asynchronous reads, writes, flushes, discards at byte offsets.
 *
 * Requests may be submitted from any thread; `done` is called exactly once, on a thread of the disk's own
 * (never inside submit). Offsets and lengths are multiples of 512 and inside disk_size (the caller checked).
 * Formats get file descriptors, never paths. */
#ifndef DISK_DISK_H
#define DISK_DISK_H

#include <sys/uio.h>

#include "util/err.h"

enum disk_op { DISK_READ, DISK_WRITE, DISK_FLUSH, DISK_DISCARD, DISK_WRITE_ZEROES };

struct disk_request {
    enum disk_op op;
    uint64_t off, len;       /* bytes; 0 for flush */
    const struct iovec *iov; /* READ and WRITE: owned by the caller until done; sums to len */
    unsigned iov_count;
    bool unmap;                                        /* WRITE_ZEROES: may deallocate */
    void (*done)(struct disk_request *req, int error); /* error: 0 or a positive errno */
    struct disk_request *next;                         /* the disk's own */
};

enum disk_sync { DISK_SYNC_FULL, DISK_SYNC_FSYNC, DISK_SYNC_NONE };

struct disk_options {
    bool read_only;
    enum disk_sync sync; /* what FLUSH does: fdatasync (FULL and FSYNC on Linux), nothing */
};

struct disk;

/* Takes fd over, also on failure. The fd is a regular file or block device; size must be a non-zero multiple
 * of 512 (a raw file's odd tail is an error that says so). Takes an advisory whole-file lock: exclusive when
 * writable, shared when read-only (YADO_ERR_IN_USE if held by another machine, in this or another process:
 * OFD locks). `name` is for messages only. */
struct disk *disk_open_raw(int fd, const char *name, const struct disk_options *opt, struct yado_error *err);
void disk_close(struct disk *d); /* waits for requests in flight; NULL is fine */

uint64_t disk_size(const struct disk *d);
bool disk_read_only(const struct disk *d);
void disk_submit(struct disk *d, struct disk_request *req);
void disk_drain(struct disk *d); /* returns when no request is in flight */

#endif
