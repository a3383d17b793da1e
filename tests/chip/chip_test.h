/* What chip tests share: a fake clock, a fake interrupt line, and register access through a chip's
 * region_ops. */
#ifndef TESTS_CHIP_TEST_H
#define TESTS_CHIP_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bus/line.h"
#include "bus/region.h"
#include "host/clock.h"

struct fake_clock {
    uint64_t ns;
    int64_t wall, wall_part_ns; /* seconds, and what is beyond them */
};

static inline uint64_t fake_now_ns(void *ctx)
{
    return ((struct fake_clock *)ctx)->ns;
}

static inline int64_t fake_wall_ns(void *ctx)
{
    struct fake_clock *c = ctx;

    return c->wall * 1000000000 + c->wall_part_ns;
}

static inline struct clock fake_clock_get(struct fake_clock *c)
{
    return (struct clock){ .now_ns = fake_now_ns, .wall_ns = fake_wall_ns, .ctx = c };
}

struct fake_line {
    bool level;
    unsigned rises, falls;
};

static inline void fake_line_set(void *ctx, unsigned n, bool level)
{
    struct fake_line *l = ctx;

    assert_int_equal(n, 0);
    if (level && !l->level)
        l->rises++;
    if (!level && l->level)
        l->falls++;
    l->level = level;
}

static inline struct line fake_line_get(struct fake_line *l)
{
    return (struct line){ .set = fake_line_set, .ctx = l };
}

static inline uint64_t reg_read(const struct region_ops *ops, void *chip, uint64_t off, unsigned width)
{
    assert_true(width >= ops->min_width && width <= ops->max_width);
    return ops->read(chip, off, width);
}

static inline void reg_write(const struct region_ops *ops, void *chip, uint64_t off, unsigned width,
                             uint64_t value)
{
    assert_true(width >= ops->min_width && width <= ops->max_width);
    ops->write(chip, off, width, value);
}

#endif
