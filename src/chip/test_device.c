/* Test device: see test_device.h. Tests of several CPUs may use it at once: memory is atomic bytes, as if
 * each byte was its own register. */
#include "chip/test_device.h"

#include <stdatomic.h>
#include <stdlib.h>

#define BYTE_REGISTER 8
#define REGISTER_LEN 4

struct test_device {
    struct test_device_config cfg;
    _Atomic uint8_t ports[TEST_DEVICE_PORT_LEN];
    _Atomic uint8_t memory[TEST_DEVICE_MEMORY_LEN];
};

struct test_device *test_device_new(const struct test_device_config *cfg, struct yado_error *err)
{
    struct test_device *t = calloc(1, sizeof(*t));

    if (!t) {
        err_set(err, YADO_ERR_HOST, "test device: out of memory");
        return NULL;
    }
    t->cfg = *cfg;
    return t;
}

void test_device_free(struct test_device *t)
{
    free(t);
}

static uint64_t bytes_read(_Atomic uint8_t *at, unsigned width)
{
    uint64_t v = 0;

    for (unsigned i = 0; i < width; i++)
        v |= (uint64_t)atomic_load(&at[i]) << (8 * i);
    return v;
}

static void bytes_write(_Atomic uint8_t *at, unsigned width, uint64_t v)
{
    for (unsigned i = 0; i < width; i++)
        atomic_store(&at[i], (uint8_t)(v >> (8 * i)));
}

static bool is_register(uint64_t off, unsigned width)
{
    return off + width <= REGISTER_LEN || (off == BYTE_REGISTER && width == 1);
}

static uint64_t port_read(void *ctx, uint64_t off, unsigned width)
{
    struct test_device *t = ctx;

    return is_register(off, width) ? bytes_read(&t->ports[off], width) : 0;
}

static void port_write(void *ctx, uint64_t off, unsigned width, uint64_t value)
{
    struct test_device *t = ctx;

    if (is_register(off, width))
        bytes_write(&t->ports[off], width, value);
}

static void line_write(void *ctx, uint64_t off, unsigned width, uint64_t value)
{
    struct test_device *t = ctx;

    (void)width;
    line_set(t->cfg.lines[off], value != 0);
}

static uint64_t line_read(void *ctx, uint64_t off, unsigned width)
{
    (void)ctx;
    (void)off;
    (void)width;
    return 0;
}

static uint64_t memory_read(void *ctx, uint64_t off, unsigned width)
{
    struct test_device *t = ctx;

    return bytes_read(&t->memory[off], width);
}

static void memory_write(void *ctx, uint64_t off, unsigned width, uint64_t value)
{
    struct test_device *t = ctx;

    bytes_write(&t->memory[off], width, value);
}

const struct region_ops test_device_port_ops = {
    .name = "test-ports", .min_width = 1, .max_width = 4, .read = port_read, .write = port_write
};
const struct region_ops test_device_line_ops = {
    .name = "test-lines", .min_width = 1, .max_width = 1, .read = line_read, .write = line_write
};
const struct region_ops test_device_memory_ops = {
    .name = "test-memory", .min_width = 1, .max_width = 8, .read = memory_read, .write = memory_write
};
