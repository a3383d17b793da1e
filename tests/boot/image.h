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

#define SETUP_LEN (2 * 512) /* boot sector and one more */

/* The setup header (boot.rst, protocol 2.15) of a bzImage of k->len bytes, with 64-bit entry, relocatable in
 * steps of 2 MiB. */
static inline void put_setup_header(struct image *k, uint64_t pref_address, uint32_t init_size)
{
    k->bytes[0x1f1] = 1; /* setup sectors besides the boot sector */
    put(k->bytes + 0x1f4, (k->len - SETUP_LEN) / 16, 4);
    put(k->bytes + 0x1fe, 0xaa55, 2);
    k->bytes[0x200] = 0xeb;
    k->bytes[0x201] = 0x6a;
    memcpy(k->bytes + 0x202, "HdrS", 4);
    put(k->bytes + 0x206, 0x020f, 2);
    k->bytes[0x211] = 0x01;
    put(k->bytes + 0x22c, 0x7fffffff, 4);
    put(k->bytes + 0x230, MIB(2), 4);
    k->bytes[0x234] = 1;
    put(k->bytes + 0x236, 0x7f, 2);
    put(k->bytes + 0x238, 2047, 4);
    put(k->bytes + 0x258, pref_address, 8);
    put(k->bytes + 0x260, init_size, 4);
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
