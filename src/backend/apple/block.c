/* See block.h. */
#include "backend/apple/block.h"

static const struct block_descriptor error_descriptor = {
    .size = sizeof(struct block),
    .signature = "v16@?0@\"NSError\"8",
};

static const struct block_descriptor connection_descriptor = {
    .size = sizeof(struct block),
    .signature = "v24@?0@\"VZVirtioSocketConnection\"8@\"NSError\"16",
};

static void error_invoke(struct block *b, id error)
{
    ((void (*)(void *, id))b->fn)(b->ctx, error);
}

static void connection_invoke(struct block *b, id connection, id error)
{
    ((void (*)(void *, id, id))b->fn)(b->ctx, connection, error);
}

struct block block_error(void (*fn)(void *ctx, id error), void *ctx)
{
    return (struct block){ .isa = (void *)_NSConcreteStackBlock,
                           .flags = BLOCK_HAS_SIGNATURE,
                           .invoke = (void (*)(void))error_invoke,
                           .descriptor = &error_descriptor,
                           .fn = (void (*)(void))fn,
                           .ctx = ctx };
}

struct block block_connection(void (*fn)(void *ctx, id connection, id error), void *ctx)
{
    return (struct block){ .isa = (void *)_NSConcreteStackBlock,
                           .flags = BLOCK_HAS_SIGNATURE,
                           .invoke = (void (*)(void))connection_invoke,
                           .descriptor = &connection_descriptor,
                           .fn = (void (*)(void))fn,
                           .ctx = ctx };
}
