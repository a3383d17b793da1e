/* What the files of the loader share. */
#ifndef BOOT_BOOT_PRIV_H
#define BOOT_BOOT_PRIV_H

#include <pthread.h>

#include "boot/boot.h"

#define BOOT_PAGE 4096u

enum boot_kind { BOOT_BZIMAGE, BOOT_PVH, BOOT_MULTIBOOT };

#define BOOT_SEGMENT_MAX 16

/* A piece of the kernel file: `filesz` bytes at `off` go to `gpa`, zeros follow up to `memsz`. */
struct boot_segment {
    uint64_t off, gpa, filesz, memsz;
};

/* Where everything goes, decided from the files and the size of memory alone. */
struct boot_plan {
    enum boot_kind kind;
    uint64_t low_ram_len;
    uint64_t kernel_gpa; /* lowest address that the kernel uses from the start */
    uint64_t kernel_end; /* and the first after that */
    uint64_t entry;
    uint64_t initrd_end_max; /* the initrd must end here or below */
    bool initrd_low;         /* it goes right behind the kernel, and its contents are not ours to judge */
    uint64_t initrd_gpa;     /* 0: none */
    uint64_t initrd_len;
    uint64_t ram_end;                               /* loading: the kernel may lie below this */
    bool kernel_moved;                              /* loading: bzImage: it is at an address by chance */
    uint32_t cmdline_max;                           /* characters that the kernel takes */
    size_t payload_off, payload_len;                /* bzImage: the protected-mode part in the file */
    struct boot_segment segments[BOOT_SEGMENT_MAX]; /* multiboot */
    unsigned segment_count;
    unsigned header_end; /* bzImage: end of the setup header, in the file and in the boot parameters */
};

static inline uint64_t load_le(const uint8_t *p, unsigned len)
{
    uint64_t v = 0;

    for (unsigned i = 0; i < len; i++)
        v |= (uint64_t)p[i] << (8 * i);
    return v;
}

static inline void store_le(uint8_t *p, uint64_t v, unsigned len)
{
    for (unsigned i = 0; i < len; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

static inline const char *boot_cmdline(const struct boot_input *in)
{
    return in->cmdline ? in->cmdline : "";
}

/* Puts a part of a file into guest memory. */
bool boot_place(const struct boot_file *f, uint64_t off, size_t len, uint64_t gpa, struct gmem *mem,
                struct yado_error *err);

/* Each fills the kernel's part of the plan. */
bool bzimage_plan(const struct boot_file *kernel, struct boot_plan *plan, struct yado_error *err);
bool pvh_plan(const struct boot_file *kernel, struct boot_plan *plan, struct yado_error *err);
bool multiboot_plan(const struct boot_file *kernel, struct boot_plan *plan, struct yado_error *err);

/* Copies the kernel of a bzImage, and decides where it is entered. */
bool bzimage_load_kernel(const struct boot_input *in, struct boot_plan *plan, struct gmem *mem,
                         struct yado_error *err);

/* Each copies its boot data, and the kernel if it is not there yet. Initrd and command line are in memory. */
bool bzimage_load(const struct boot_input *in, const struct boot_plan *plan, struct gmem *mem,
                  struct yado_error *err);
bool pvh_load(const struct boot_input *in, const struct boot_plan *plan, struct gmem *mem,
              struct yado_error *err);
bool multiboot_load(const struct boot_input *in, const struct boot_plan *plan, struct gmem *mem,
                    struct yado_error *err);

/* Whether the bytes are something that a kernel unpacks, and whole as far as that shows without unpacking. */
bool initrd_check(const struct boot_file *initrd, struct yado_error *err);

/* An archive of an initrd whose bytes are in memory. `len` 0: there are no more. */
struct initrd_archive {
    uint64_t off, len; /* packed by a packer that has no framing: up to the end of the file */
    bool is_plain;     /* cpio as it is */
    bool is_empty;     /* stands for nothing */
};

/* The one at or after `off`. False if what is there is no archive, or a damaged one. */
bool initrd_next(const struct boot_file *initrd, uint64_t off, struct initrd_archive *out);

/* Puts an initrd, unpacked, into guest memory, on a thread of its own. */
struct initrd_job {
    struct boot_file packed; /* bytes in memory; they are the caller's and stay until the end */
    struct gmem *mem;
    uint64_t gpa, room; /* where to, and how many bytes it may have */
    uint64_t len;       /* that it has */
    bool ok;
    bool is_apart; /* from the caller's thread */
    pthread_t thread;
};

void initrd_unpack_begin(struct initrd_job *job);
/* False if it has more than `room` bytes, or anything in it is not for us to unpack; that memory may have
 * been written. */
bool initrd_unpack_end(struct initrd_job *job);

/* The memory map that the kernel is told. */
#define BOOT_MAP_MAX (BOOT_RESERVED_MAX + 8)

struct boot_map {
    unsigned count;
    struct boot_reserved entries[BOOT_MAP_MAX];
};

void boot_map_build(const struct boot_layout *layout, const struct gmem *mem, struct boot_map *out);

/* State of the boot vCPU at the kernel's entry, and what it needs in memory (GDT, page tables). */
bool boot_cpu_long_mode(const struct boot_input *in, const struct boot_plan *plan, struct gmem *mem,
                        struct x86_state *out);
bool boot_cpu_protected_mode(const struct boot_input *in, const struct boot_plan *plan, struct gmem *mem,
                             struct x86_state *out);
bool boot_cpu_multiboot(const struct boot_input *in, const struct boot_plan *plan, struct gmem *mem,
                        struct x86_state *out);

#endif
