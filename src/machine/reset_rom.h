/* The last page below 4 GiB: what stands at the reset vector of a PC whose firmware is none. For kernels that
 * are started by multiboot. */
#ifndef MACHINE_RESET_ROM_H
#define MACHINE_RESET_ROM_H

#include <stdint.h>

#include <yado/error.h>

#define RESET_ROM_LEN 4096

uint8_t *reset_rom_new(struct yado_error *err); /* page aligned; filled already */
void reset_rom_free(uint8_t *rom);              /* NULL is fine */
/* As it was: guests can write to it. */
void reset_rom_fill(uint8_t *rom);

#endif
