/* Pieces of data for sockets, as macOS has them. */
#ifndef DARWIN_SYS_UIO_H
#define DARWIN_SYS_UIO_H

#include <stddef.h>
#include <sys/types.h>

struct iovec {
    void *iov_base;
    size_t iov_len;
};

#endif
