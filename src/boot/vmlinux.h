/* The kernel inside a bzImage, loaded as its own unpacker would. */
#ifndef BOOT_VMLINUX_H
#define BOOT_VMLINUX_H

#include "boot/boot.h"

/* From the setup header (boot.rst) and the plan. */
struct vmlinux_place {
    uint64_t payload_off, payload_len; /* the packed kernel, in the file */
    uint64_t linked;                   /* pref_address */
    uint64_t room;                     /* init_size: all that it may use */
    uint64_t end;                      /* of the RAM where it may lie */
    uint64_t align;                    /* kernel_alignment */
    bool fixed;                        /* it is not relocatable_kernel */
};

struct vmlinux_at {
    uint64_t entry; /* 64-bit: startup_64 */
    bool moved;     /* to addresses by chance: the kernel is to be told (KASLR_FLAG) */
};

/* False: it is to be loaded as it is; guest memory in [linked, end) may have been written. */
bool vmlinux_load(const struct boot_file *f, const struct vmlinux_place *where, const char *cmdline,
                  struct gmem *mem, struct vmlinux_at *at);

#endif
