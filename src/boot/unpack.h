/* Unpacking what kernels and initrds are packed by, faster than the guest can. Any bytes may come: the result
 * is the bytes that they stand for, or nothing. */
#ifndef BOOT_UNPACK_H
#define BOOT_UNPACK_H

#include "util/base.h"

/* Takes the next bytes; false: no more are wanted. */
typedef bool unpack_sink(void *ctx, const uint8_t *bytes, size_t len);

/* gzip, bzip2, lzma, xz, lz4 or zstd. Returns how many bytes of `packed` were unpacked: fewer than `len` if
 * something else is behind them. 0: another packer (LZO), damaged, cut off, refused by the sink, or the host
 * has no libarchive; some of it may have come to the sink by then. */
size_t unpack(const uint8_t *packed, size_t len, unpack_sink *sink, void *ctx);

#endif
