/* Blocks, as the framework treats the completion handlers that it is given: it copies them, calls them once,
 * and lets them go. */
#include <stdlib.h>
#include <string.h>

#include "backend/apple/block.h"
#include "rt.h"

void *_NSConcreteStackBlock[32];
static void *heap_block[32];

struct held_block {
    struct block *b; /* of b->descriptor->size bytes */
    bool was_called;
};

struct held_block *block_hold(uint64_t block, const char *signature, const void *caller)
{
    const struct block *from = (const struct block *)(uintptr_t)block;
    struct held_block *h = calloc(1, sizeof(*h));

    if ((from->flags & BLOCK_HAS_SIGNATURE) && strcmp(from->descriptor->signature, signature) != 0)
        standin_fail(caller, "a block of signature %s, not %s", from->descriptor->signature, signature);
    h->b = malloc(from->descriptor->size);
    memcpy(h->b, from, from->descriptor->size);
    h->b->isa = heap_block;
    return h;
}

static void block_let_go(struct held_block *h)
{
    memset(h->b, 0x5a, h->b->descriptor->size);
    free(h->b);
    free(h);
}

void block_call_error(struct held_block *h, id error)
{
    ((void (*)(struct block *, id))h->b->invoke)(h->b, error);
    block_let_go(h);
}

void block_call_connection(struct held_block *h, id connection, id error)
{
    ((void (*)(struct block *, id, id))h->b->invoke)(h->b, connection, error);
    block_let_go(h);
}
