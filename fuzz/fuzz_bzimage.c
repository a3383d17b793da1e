/* Kernel and initrd parsers: any bytes must give a plan that stays inside memory, or one line of error.
 *
 * The first byte chooses what the rest is: a kernel, an initrd, both halves, changes to a good ELF kernel
 * that a bzImage holds packed, or what an initrd is unpacked. What the check accepts is also loaded, so that
 * the copying is exercised. */
#include <stdlib.h>
#include <string.h>

#include "boot/boot.h"

#define RAM MIB(64)
#define SETUP_LEN 1024
#define PACKED_OFF 0x240 /* behind the 64-bit entry */
#define PREF MIB(16)
#define TEXT_OFF 0x100
#define TEXT_LEN 0x400
#define ELF_LEN (TEXT_OFF + TEXT_LEN + 9 * 4) /* with the table of relocations */
#define PACKED_MAX (1u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A kernel that is fine, for the initrd's sake (boot.rst offsets). */
static void good_kernel(uint8_t k[2048])
{
    static const struct {
        unsigned off;
        uint8_t byte;
    } bytes[] = {
        { 0x1f1, 1 },    { 0x1f4, 0x40 }, { 0x1fe, 0x55 }, { 0x1ff, 0xaa }, { 0x200, 0xeb },
        { 0x201, 0x6a }, { 0x202, 'H' },  { 0x203, 'd' },  { 0x204, 'r' },  { 0x205, 'S' },
        { 0x206, 0x0f }, { 0x207, 0x02 }, { 0x211, 1 },    { 0x22e, 0xff }, { 0x22f, 0x7f },
        { 0x236, 1 },    { 0x239, 8 },    { 0x25b, 1 },    { 0x262, 0x10 },
    };

    memset(k, 0, 2048);
    for (unsigned i = 0; i < array_size(bytes); i++)
        k[bytes[i].off] = bytes[i].byte;
}

static void put(uint8_t *p, uint64_t v, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

/* One block of lz4's old format, literals alone. */
static size_t pack(const uint8_t *bytes, size_t len, uint8_t *out)
{
    uint8_t *p = out + 8;

    put(out, 0x184c2102, 4);
    *p++ = (uint8_t)(min_u64(len, 15) << 4);
    if (len >= 15) {
        size_t left = len - 15;

        for (; left >= 255; left -= 255)
            *p++ = 255;
        *p++ = (uint8_t)left;
    }
    memcpy(p, bytes, len);
    p += len;
    put(out + 4, (uint64_t)(p - out - 8), 4);
    return (size_t)(p - out);
}

/* One segment, and three lists of two addresses in it. */
static void good_elf(uint8_t elf[ELF_LEN])
{
    memset(elf, 0, ELF_LEN);
    memcpy(elf,
           "\x7f"
           "ELF\2\1\1",
           7);
    put(elf + 16, 2, 2);
    put(elf + 18, 62, 2);
    put(elf + 24, PREF, 8);
    put(elf + 32, 64, 8);
    put(elf + 54, 56, 2);
    put(elf + 56, 1, 2);
    put(elf + 64, 1, 4);
    put(elf + 64 + 8, TEXT_OFF, 8);
    put(elf + 64 + 24, PREF, 8);
    put(elf + 64 + 32, TEXT_LEN, 8);
    put(elf + 64 + 40, 0x2000, 8);
    for (unsigned i = 0; i < 9; i++)
        put(elf + TEXT_OFF + TEXT_LEN + 4 * i, i % 3 ? 0x81000000 + 8 * i : 0, 4);
}

/* A bzImage with a packed kernel that `changes` are made to: offset, offset, value. */
static size_t packed_kernel(uint8_t *k, const uint8_t *changes, size_t size)
{
    uint8_t elf[ELF_LEN];

    good_elf(elf);
    for (size_t i = 0; i + 3 <= size; i += 3)
        elf[(changes[i] | changes[i + 1] << 8) % ELF_LEN] = changes[i + 2];
    good_kernel(k);
    put(k + 0x230, MIB(2), 4);
    k[0x234] = 1;
    memset(k + SETUP_LEN, 0, PACKED_OFF);
    k[SETUP_LEN] = 1;
    size = pack(elf, ELF_LEN, k + SETUP_LEN + PACKED_OFF);
    put(k + SETUP_LEN + PACKED_OFF + size, ELF_LEN, 4);
    put(k + 0x248, PACKED_OFF, 4);
    put(k + 0x24c, size + 4, 4);
    put(k + 0x1f4, (PACKED_OFF + size + 4) / 16, 4);
    return SETUP_LEN + PACKED_OFF + size + 4;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t packed[PACKED_MAX];
    struct boot_input in = {
        .cmdline = "console=hvc0",
        .layout = { .gdt = 0x1000,
                    .params = 0x2000,
                    .cmdline = 0x3000,
                    .cmdline_room = 0x1000,
                    .page_tables = 0x4000,
                    .acpi_rsdp = 0xe0000,
                    .low_usable_end = 0x9fc00 },
    };
    struct yado_error err = YADO_ERROR_INIT;
    struct x86_state *state;
    struct gmem *mem;
    uint8_t good[2048];

    if (!size || size > PACKED_MAX / 2)
        return 0;
    good_kernel(good);
    in.kernel = (struct boot_file){ .name = "kernel", .data = data + 1, .len = size - 1 };
    if (data[0] % 5 == 1) {
        in.kernel = (struct boot_file){ .name = "kernel", .data = good, .len = sizeof(good) };
        in.initrd = (struct boot_file){ .name = "initrd", .data = data + 1, .len = size - 1 };
    } else if (data[0] % 5 == 3) {
        in.kernel.data = packed;
        in.kernel.len = packed_kernel(packed, data + 1, size - 1);
    } else if (data[0] % 5 == 4) {
        in.kernel = (struct boot_file){ .name = "kernel", .data = good, .len = sizeof(good) };
        in.initrd = (struct boot_file){ .name = "initrd", .data = packed };
        in.initrd.len = pack(data + 1, size - 1, packed);
    } else if (data[0] % 5 == 2) {
        in.kernel.len = (size - 1) / 2;
        in.initrd = (struct boot_file){ .name = "initrd",
                                        .data = data + 1 + in.kernel.len,
                                        .len = size - 1 - in.kernel.len };
    }
    if (!boot_check(&in, RAM, &err)) {
        BUG_ON(!err.message[0] || strchr(err.message, '\n'));
        return 0;
    }
    mem = gmem_new(RAM, GIB(3), false, NULL);
    state = aligned_alloc(64, sizeof(*state));
    BUG_ON(!mem || !state);
    BUG_ON(!boot_load(&in, mem, state, NULL)); /* what the check takes must load */
    gmem_free(mem);
    free(state);
    return 0;
}
