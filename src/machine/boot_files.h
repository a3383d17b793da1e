/* The kernel and initrd as open files, and loading them into the PC's memory. */
#ifndef MACHINE_BOOT_FILES_H
#define MACHINE_BOOT_FILES_H

#include "mem/gmem.h"
#include "x86/state.h"

struct boot_open_file {
    const char *name; /* for messages */
    int fd;           /* -1: none (initrd only). Read by position from 0, so the offset does not matter */
};

/* Everything is borrowed. */
struct boot_files {
    struct boot_open_file kernel, initrd;
    const char *cmdline;
};

/* Whether the kernel is a multiboot kernel, which wants a board with older chips. False if it cannot be read.
 * Any thread. */
bool boot_files_multiboot(const struct boot_open_file *kernel);

/* Whether they would boot a machine with `ram_size` bytes. Reads the files. Any thread. */
bool boot_files_check(const struct boot_files *files, uint64_t ram_size, struct yado_error *err);

/* Reads the files and loads them. `acpi_len` bytes of ACPI tables are at PC_ACPI_BASE, or for a
 * multiboot kernel at PC_ACPI_LEGACY_BASE. `out`: the state in
 * which CPU 0 starts. No vCPU runs. May be repeated after a reset. */
bool boot_files_load(const struct boot_files *files, struct gmem *mem, uint64_t acpi_len,
                     struct x86_state *out, struct yado_error *err);

#endif
