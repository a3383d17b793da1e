/* Makes small kernels and initrds for the loader's tests. */
#ifndef TESTS_BOOT_IMAGE_H
#define TESTS_BOOT_IMAGE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "boot/boot.h"

#define IMAGE_MAX MIB(4)

struct image {
    uint8_t bytes[IMAGE_MAX];
    size_t len;
};

static inline void put(uint8_t *p, uint64_t v, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

static inline uint64_t get(const uint8_t *p, unsigned n)
{
    uint64_t v = 0;

    for (unsigned i = 0; i < n; i++)
        v |= (uint64_t)p[i] << (8 * i);
    return v;
}

static inline struct boot_layout layout_get(void)
{
    return (struct boot_layout){
        .gdt = 0x1000,
        .params = 0x2000,
        .cmdline = 0x3000,
        .cmdline_room = 0x1000,
        .page_tables = 0x4000,
        .acpi_rsdp = 0xe0000,
        .low_usable_end = 0x9fc00,
        .reserved = { { 0xe0000, 0x20000, BOOT_MAP_ACPI }, { 0xe0000000, MIB(1), BOOT_MAP_RESERVED } },
        .reserved_count = 2,
    };
}

static inline struct boot_file file_of(const struct image *im, const char *name)
{
    return (struct boot_file){ .name = name, .data = im->bytes, .len = im->len };
}

/* Expects failure with a message of one line that has all the words, first of which is the thing's name. */
static inline void expect_error(const struct boot_input *in, uint64_t ram, const char *name, const char *word)
{
    struct yado_error err = YADO_ERROR_INIT;

    assert_false(boot_check(in, ram, &err));
    if (!strstr(err.message, name) || !strstr(err.message, word))
        fail_msg("expected \"%s\" and \"%s\" in: %s", name, word, err.message);
    assert_null(strchr(err.message, '\n'));
}

static inline void expect_good(const struct boot_input *in, uint64_t ram)
{
    struct yado_error err = YADO_ERROR_INIT;

    if (!boot_check(in, ram, &err))
        fail_msg("%s", err.message);
}

#endif
