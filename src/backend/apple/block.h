/* Blocks from C: a completion handler as the framework wants it, laid out by hand (the Block ABI of Clang's
 * documentation), so that no compiler support is needed.
 *
 * A block here is on the caller's stack; the framework copies what it keeps, byte by byte, so `ctx` must live
 * until the handler has run. */
#ifndef BACKEND_APPLE_BLOCK_H
#define BACKEND_APPLE_BLOCK_H

#include "backend/apple/darwin_decls.h"

struct block;

struct block_descriptor {
    unsigned long reserved, size;
    const char *signature;
};

struct block {
    void *isa;
    int flags, reserved;
    void (*invoke)(void);
    const struct block_descriptor *descriptor;
    /* captured */
    void (*fn)(void);
    void *ctx;
};

/* void (^)(NSError *). `error` is NULL on success and borrowed. Any queue, once. */
struct block block_error(void (*fn)(void *ctx, id error), void *ctx);
/* void (^)(VZVirtioSocketConnection *, NSError *). Both are borrowed. */
struct block block_connection(void (*fn)(void *ctx, id connection, id error), void *ctx);

#endif
