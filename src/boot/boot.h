/* Loading a Linux kernel straight into guest memory, as a boot loader would leave it: bzImage by the 64-bit
 * boot protocol, ELF vmlinux through PVH, and multiboot kernels. Files are untrusted bytes: every field is
 * checked before use and an error names the file and what is wrong with it. Sources: Linux
 * Documentation/x86/boot.rst and zero-page.rst (6.1); Xen docs/misc/pvh.pandoc and
 * public/arch-x86/hvm/start_info.h; System V ABI (ELF-64); Multiboot Specification 0.6.96. */
#ifndef BOOT_BOOT_H
#define BOOT_BOOT_H

#include "mem/gmem.h"
#include "x86/state.h"

/* A file's bytes. They may be a private mapping of the file and stay the caller's. */
struct boot_file {
    const char *name; /* for messages */
    /* With `read`: NULL for an initrd; for a bzImage only its first BOOT_HEAD_LEN bytes. */
    const uint8_t *data;
    size_t len; /* of the file */
    /* NULL, or puts `len` bytes of the file from `off` at `at`: what nobody looks at need not be copied
     * twice. */
    bool (*read)(const struct boot_file *f, uint64_t off, size_t len, void *at, struct yado_error *err);
    const void *ctx;
};

/* An extra entry of the memory map: something that is not usable RAM. */
struct boot_reserved {
    uint64_t gpa, len;
    uint32_t type; /* BOOT_MAP_* */
};

#define BOOT_MAP_RAM 1
#define BOOT_MAP_RESERVED 2
#define BOOT_MAP_ACPI 3

#define BOOT_GDT_LEN 0x40
#define BOOT_PARAMS_LEN 0x1000      /* "zero page"; PVH puts its start info there too */
#define BOOT_PAGE_TABLES_LEN 0x6000 /* identity map of the first 4 GiB in 2 MiB pages */
#define BOOT_RESERVED_MAX 16

/* Where the boot data go. All in RAM below `low_usable_end`, page aligned, not overlapping. */
struct boot_layout {
    uint64_t gdt;         /* BOOT_GDT_LEN bytes */
    uint64_t params;      /* BOOT_PARAMS_LEN */
    uint64_t page_tables; /* BOOT_PAGE_TABLES_LEN */
    uint64_t cmdline;
    uint64_t cmdline_room;   /* bytes with the final NUL */
    uint64_t acpi_rsdp;      /* 0: none */
    uint64_t low_usable_end; /* RAM from here to 1 MiB is kept from the guest (0x9fc00 on a PC) */
    /* What else the map must say: ACPI tables (BOOT_MAP_ACPI), ECAM (BOOT_MAP_RESERVED). May overlap RAM. */
    struct boot_reserved reserved[BOOT_RESERVED_MAX];
    unsigned reserved_count;
};

struct boot_input {
    struct boot_file kernel;
    struct boot_file initrd; /* len 0: none */
    const char *cmdline;     /* NULL is "" */
    struct boot_layout layout;
};

/* Whether the file can only be a bzImage, for which its head is enough. */
bool boot_is_bzimage(const struct boot_file *kernel);

/* Whether the file has a multiboot header (3.1): such a kernel wants a PC with its older chips. Any thread.
 */
#define BOOT_HEAD_LEN 8192 /* bytes of the file that tell */
bool boot_is_multiboot(const struct boot_file *kernel);

/* Checks everything that can be known before a machine exists: both files, the command line, and that kernel
 * and initrd fit into a machine whose RAM below the PCI hole is [0, low_ram_len). Any thread. Takes
 * milliseconds, with an initrd packed by gzip some tenths of a second. */
bool boot_check(const struct boot_input *in, uint64_t low_ram_len, struct yado_error *err);

/* Checks again all but the initrd's contents, then loads into mem and fills the boot vCPU's state
 * (x86_state_reset done inside, APIC id 0). No vCPU runs. On failure guest memory may be partly written. May
 * be called again after a machine reset. */
bool boot_load(const struct boot_input *in, struct gmem *mem, struct x86_state *out, struct yado_error *err);

#endif
