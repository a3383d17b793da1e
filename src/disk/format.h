/* What a disk format gives to the request engine in disk.c. */
#ifndef DISK_FORMAT_H
#define DISK_FORMAT_H

#include "disk/disk.h"

struct disk_format_ops {
    const char *name;
    /* Each carries out one request and returns 0 or a positive errno. Blocking; called by several worker
     * threads at once, for overlapping ranges too. READ and WRITE transfer all of req->len. Not called on a
     * read-only disk with anything that writes. */
    int (*read)(void *format, const struct disk_request *req);
    int (*write)(void *format, const struct disk_request *req);
    int (*flush)(void *format);
    int (*discard)(void *format, uint64_t off, uint64_t len);
    int (*write_zeroes)(void *format, uint64_t off, uint64_t len, bool unmap);
    void (*close)(void *format); /* no request runs; frees everything */
};

/* Starts the workers over an opened format, which it takes over, also on failure. `size` is in bytes. */
struct disk *disk_new(const struct disk_format_ops *ops, void *format, const char *name, uint64_t size,
                      const struct disk_options *opt, struct yado_error *err);

#endif
