/* Kernel and initrd parsers: any bytes must give a plan that stays inside memory, or one line of error.
 *
 * The first byte chooses what the rest is: a kernel, an initrd, or both halves. What the check accepts is
 * also loaded, so that the copying is exercised. */
#include <stdlib.h>
#include <string.h>

#include "boot/boot.h"

#define RAM MIB(64)

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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
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

    if (!size)
        return 0;
    good_kernel(good);
    in.kernel = (struct boot_file){ .name = "kernel", .data = data + 1, .len = size - 1 };
    if (data[0] % 3 == 1) {
        in.kernel = (struct boot_file){ .name = "kernel", .data = good, .len = sizeof(good) };
        in.initrd = (struct boot_file){ .name = "initrd", .data = data + 1, .len = size - 1 };
    } else if (data[0] % 3 == 2) {
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
