/* AML writer. */
#include "acpi/aml.h"

#include <stdlib.h>
#include <string.h>

#define OP_ZERO 0x00
#define OP_ONE 0x01
#define OP_NAME 0x08
#define OP_BYTE 0x0a
#define OP_WORD 0x0b
#define OP_DWORD 0x0c
#define OP_STRING 0x0d
#define OP_QWORD 0x0e
#define OP_SCOPE 0x10
#define OP_BUFFER 0x11
#define OP_PACKAGE 0x12
#define OP_EXT 0x5b
#define OP_EXT_DEVICE 0x82

#define PKG_LENGTH_MAX 4 /* bytes of the longest encoding */

/* Resource descriptors: small ones carry their length in the tag. */
#define RES_IRQ_NO_FLAGS 0x22
#define RES_IO 0x47
#define RES_END 0x79
#define RES_MEMORY32_FIXED 0x86
#define RES_DWORD_SPACE 0x87
#define RES_WORD_SPACE 0x88
#define RES_QWORD_SPACE 0x8a

#define SPACE_MEMORY 0
#define SPACE_BUS 2
#define SPACE_FIXED 0x0c      /* minimum and maximum are fixed; positive decode, producer */
#define SPACE_READ_WRITE 0x01 /* memory, not cacheable */

void aml_free(struct aml *a)
{
    free(a->bytes);
    *a = (struct aml){ 0 };
}

bool aml_failed(const struct aml *a)
{
    return a->failed;
}

void aml_bytes(struct aml *a, const void *bytes, size_t len)
{
    if (a->failed || !len)
        return;
    if (len > a->room - a->len) {
        size_t room = (a->room + len) * 2;
        uint8_t *grown = realloc(a->bytes, room);

        if (!grown) {
            a->failed = true;
            return;
        }
        a->bytes = grown;
        a->room = room;
    }
    memcpy(a->bytes + a->len, bytes, len);
    a->len += len;
}

static void put_le(struct aml *a, uint64_t value, unsigned len)
{
    uint8_t b[8];

    for (unsigned i = 0; i < len; i++)
        b[i] = (uint8_t)(value >> (8 * i));
    aml_bytes(a, b, len);
}

static void put8(struct aml *a, unsigned value)
{
    put_le(a, value, 1);
}

static void put_name_string(struct aml *a, const char *name)
{
    char segment[4] = { '_', '_', '_', '_' };

    if (*name == '\\') {
        put8(a, '\\');
        name++;
    }
    BUG_ON(strlen(name) > sizeof(segment));
    memcpy(segment, name, strlen(name));
    aml_bytes(a, segment, sizeof(segment));
}

/* Leaves room for the package length; the mark is where it goes. */
static size_t package_mark(struct aml *a)
{
    size_t mark = a->len;

    put_le(a, 0, PKG_LENGTH_MAX);
    return mark;
}

/* Package length counts itself (ACPI 6.4, 20.2.4); the shortest encoding is used and the contents move up to
 * it. */
void aml_end(struct aml *a, size_t mark)
{
    uint8_t enc[PKG_LENGTH_MAX];
    size_t contents, total;
    unsigned n = 1;

    if (a->failed)
        return;
    contents = a->len - mark - PKG_LENGTH_MAX;
    while (contents + n >= (n == 1 ? 1u << 6 : 1u << (4 + 8 * (n - 1))))
        n++;
    BUG_ON(n > PKG_LENGTH_MAX);
    total = contents + n;
    if (n == 1) {
        enc[0] = (uint8_t)total;
    } else {
        enc[0] = (uint8_t)((n - 1) << 6 | (total & 0xf));
        for (unsigned i = 1; i < n; i++)
            enc[i] = (uint8_t)(total >> (4 + 8 * (i - 1)));
    }
    memcpy(a->bytes + mark, enc, n);
    memmove(a->bytes + mark + n, a->bytes + mark + PKG_LENGTH_MAX, contents);
    a->len = mark + total;
}

size_t aml_scope_begin(struct aml *a, const char *name)
{
    size_t mark;

    put8(a, OP_SCOPE);
    mark = package_mark(a);
    put_name_string(a, name);
    return mark;
}

size_t aml_device_begin(struct aml *a, const char *name)
{
    size_t mark;

    put8(a, OP_EXT);
    put8(a, OP_EXT_DEVICE);
    mark = package_mark(a);
    put_name_string(a, name);
    return mark;
}

size_t aml_package_begin(struct aml *a, uint8_t count)
{
    size_t mark;

    put8(a, OP_PACKAGE);
    mark = package_mark(a);
    put8(a, count);
    return mark;
}

void aml_name(struct aml *a, const char *name)
{
    put8(a, OP_NAME);
    put_name_string(a, name);
}

void aml_integer(struct aml *a, uint64_t value)
{
    if (value <= 1) {
        put8(a, value ? OP_ONE : OP_ZERO);
    } else if (value <= UINT8_MAX) {
        put8(a, OP_BYTE);
        put_le(a, value, 1);
    } else if (value <= UINT16_MAX) {
        put8(a, OP_WORD);
        put_le(a, value, 2);
    } else if (value <= UINT32_MAX) {
        put8(a, OP_DWORD);
        put_le(a, value, 4);
    } else {
        put8(a, OP_QWORD);
        put_le(a, value, 8);
    }
}

void aml_string(struct aml *a, const char *text)
{
    put8(a, OP_STRING);
    aml_bytes(a, text, strlen(text) + 1);
}

static unsigned hex_digit(char c)
{
    return (unsigned)(c <= '9' ? c - '0' : c - 'A' + 10);
}

/* Three letters of five bits, four hexadecimal digits, stored big-endian (ACPI 6.4, 19.3.4, EISAID). */
void aml_eisa_id(struct aml *a, const char *id)
{
    uint32_t v = 0;

    BUG_ON(strlen(id) != 7);
    for (unsigned i = 0; i < 3; i++)
        v = v << 5 | (uint32_t)(id[i] - '@');
    for (unsigned i = 3; i < 7; i++)
        v = v << 4 | hex_digit(id[i]);
    put8(a, OP_DWORD);
    for (unsigned i = 0; i < 4; i++)
        put8(a, v >> (24 - 8 * i) & 0xff);
}

/* The buffer's size is an integer before its bytes: a word, filled in at the end. */
size_t aml_resources_begin(struct aml *a)
{
    size_t mark;

    put8(a, OP_BUFFER);
    mark = package_mark(a);
    put8(a, OP_WORD);
    put_le(a, 0, 2);
    return mark;
}

void aml_resources_end(struct aml *a, size_t mark)
{
    size_t start = mark + PKG_LENGTH_MAX + 3, len;

    put8(a, RES_END);
    put8(a, 0); /* a checksum of zero is not checked */
    if (a->failed)
        return;
    len = a->len - start;
    BUG_ON(len > UINT16_MAX);
    a->bytes[start - 2] = (uint8_t)len;
    a->bytes[start - 1] = (uint8_t)(len >> 8);
    aml_end(a, mark);
}

void aml_io(struct aml *a, uint16_t port, uint8_t len)
{
    put8(a, RES_IO);
    put8(a, 1); /* 16-bit decode */
    put_le(a, port, 2);
    put_le(a, port, 2);
    put8(a, 1); /* alignment */
    put8(a, len);
}

void aml_irq(struct aml *a, unsigned gsi)
{
    BUG_ON(gsi >= 16);
    put8(a, RES_IRQ_NO_FLAGS);
    put_le(a, 1u << gsi, 2);
}

void aml_memory32_fixed(struct aml *a, uint32_t base, uint32_t len)
{
    put8(a, RES_MEMORY32_FIXED);
    put_le(a, 9, 2);
    put8(a, 1); /* read-write */
    put_le(a, base, 4);
    put_le(a, len, 4);
}

struct space {
    uint8_t tag, width; /* width: bytes of each number */
    uint8_t type, type_flags;
};

/* Address space descriptors differ in the width of their five numbers only (ACPI 6.4, 6.4.3.5). */
static void address_space(struct aml *a, struct space s, uint64_t first, uint64_t len)
{
    put8(a, s.tag);
    put_le(a, 3 + 5u * s.width, 2);
    put8(a, s.type);
    put8(a, SPACE_FIXED);
    put8(a, s.type_flags);
    put_le(a, 0, s.width); /* granularity */
    put_le(a, first, s.width);
    put_le(a, first + len - 1, s.width);
    put_le(a, 0, s.width); /* translation */
    put_le(a, len, s.width);
}

void aml_bus_range(struct aml *a, uint16_t first, uint16_t last)
{
    const struct space s = { RES_WORD_SPACE, 2, SPACE_BUS, 0 };

    address_space(a, s, first, last - first + 1u);
}

void aml_memory32_window(struct aml *a, uint32_t base, uint32_t len)
{
    const struct space s = { RES_DWORD_SPACE, 4, SPACE_MEMORY, SPACE_READ_WRITE };

    address_space(a, s, base, len);
}

void aml_memory64_window(struct aml *a, uint64_t base, uint64_t len)
{
    const struct space s = { RES_QWORD_SPACE, 8, SPACE_MEMORY, SPACE_READ_WRITE };

    address_space(a, s, base, len);
}
