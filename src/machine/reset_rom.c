/* The reset vector's code: see reset_rom.h.
 *
 * The boot processor comes here after an INIT (Intel SDM volume 3 (2023-12), 9.1.4 and 9.4; the others wait
 * for a start-up message). What a PC's firmware does then the shutdown byte of the CMOS says, as on the AT:
 * 0x0a goes on at the address in 40:67, 5 does so behind an end of interrupt to the 8259s; anything else is a
 * cold start, which is the reset register's business. */
#include "machine/reset_rom.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "util/err.h"

#define ENTRY 0xff0 /* f000:fff0, the page being f000:f000 up */

static const uint8_t code[] = {
    0xfa,                   /* 00 cli */
    0xb0, 0x0f, 0xe6, 0x70, /* 01 shutdown byte: mov al, 0xf; out 0x70, al */
    0xe4, 0x71,             /* 05 in al, 0x71 */
    0x88, 0xc4,             /* 07 mov ah, al */
    0xb0, 0x0f, 0xe6, 0x70, /* 09 for this once: mov al, 0xf; out 0x70, al */
    0x30, 0xc0, 0xe6, 0x71, /* 0d xor al, al; out 0x71, al */
    0x31, 0xdb, 0x8e, 0xdb, /* 11 xor bx, bx; mov ds, bx */
    0x80, 0xfc, 0x0a,       /* 15 cmp ah, 0xa */
    0x74, 0x0b,             /* 18 je 25 */
    0x80, 0xfc, 0x05,       /* 1a cmp ah, 5 */
    0x75, 0x0a,             /* 1d jne 29 */
    0xb0, 0x20, 0xe6, 0xa0, /* 1f mov al, 0x20; out 0xa0, al */
    0xe6, 0x20,             /* 23 out 0x20, al */
    0xff, 0x2e, 0x67, 0x04, /* 25 jmp dword ptr [0x467] */
    0xba, 0xf9, 0x0c,       /* 29 mov dx, 0xcf9 */
    0xb0, 0x06, 0xee,       /* 2c mov al, 6; out dx, al */
    0xf4, 0xeb, 0xfd,       /* 2f hlt; jmp 2f */
};
static const uint8_t entry[] = { 0xe9, 0x0d, 0xf0 }; /* jmp f000:f000 */

void reset_rom_fill(uint8_t *rom)
{
    memset(rom, 0, RESET_ROM_LEN);
    memcpy(rom, code, sizeof(code));
    memcpy(rom + ENTRY, entry, sizeof(entry));
}

uint8_t *reset_rom_new(struct yado_error *err)
{
    void *rom = mmap(NULL, RESET_ROM_LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (rom == MAP_FAILED) {
        err_set_errno(err, YADO_ERR_MEMORY, errno, "the reset vector's page");
        return NULL;
    }
    reset_rom_fill(rom);
    return rom;
}

void reset_rom_free(uint8_t *rom)
{
    if (rom)
        munmap(rom, RESET_ROM_LEN);
}
