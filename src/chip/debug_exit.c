/* Debug exit port. */
#include "chip/debug_exit.h"

#include <stdlib.h>

struct debug_exit {
    struct debug_exit_config cfg;
};

struct debug_exit *debug_exit_new(const struct debug_exit_config *cfg, struct yado_error *err)
{
    struct debug_exit *d = calloc(1, sizeof(*d));

    if (!d) {
        err_set(err, YADO_ERR_HOST, "debug exit port: out of memory");
        return NULL;
    }
    d->cfg = *cfg;
    return d;
}

void debug_exit_free(struct debug_exit *d)
{
    free(d);
}

static uint64_t debug_exit_read(void *ctx, uint64_t off, unsigned width)
{
    (void)ctx;
    (void)off;
    (void)width;
    return 0;
}

static void debug_exit_write(void *ctx, uint64_t off, unsigned width, uint64_t value)
{
    struct debug_exit *d = ctx;

    (void)off;
    (void)width;
    d->cfg.ended(d->cfg.ctx, (uint32_t)value);
}

const struct region_ops debug_exit_ops = {
    .name = "debug-exit",
    .min_width = 1,
    .max_width = 4,
    .read = debug_exit_read,
    .write = debug_exit_write,
};
