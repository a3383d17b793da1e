/* Reset by keyboard controller command; nothing else of the controller is there. */
#include "chip/i8042.h"

#include <stdlib.h>

#define COMMAND_PULSE_RESET 0xfe

struct i8042 {
    struct i8042_config cfg;
};

struct i8042 *i8042_new(const struct i8042_config *cfg, struct yado_error *err)
{
    struct i8042 *k = calloc(1, sizeof(*k));

    if (!k) {
        err_set(err, YADO_ERR_HOST, "keyboard controller: out of memory");
        return NULL;
    }
    k->cfg = *cfg;
    return k;
}

void i8042_free(struct i8042 *k)
{
    free(k);
}

static uint64_t i8042_read(void *ctx, uint64_t off, unsigned width)
{
    (void)ctx;
    (void)off;
    (void)width;
    return 0xff;
}

static void i8042_write(void *ctx, uint64_t off, unsigned width, uint64_t value)
{
    struct i8042 *k = ctx;

    (void)off;
    (void)width;
    if ((uint8_t)value == COMMAND_PULSE_RESET)
        k->cfg.reset(k->cfg.ctx);
}

const struct region_ops i8042_ops = {
    .name = "i8042",
    .min_width = 1,
    .max_width = 1,
    .read = i8042_read,
    .write = i8042_write,
};
