/* ELF-64 of little-endian x86-64, as far as kernels need it: System V ABI, chapters 4 and 5. Fields of bytes
 * that the caller has checked to be there. */
#ifndef BOOT_ELF64_H
#define BOOT_ELF64_H

#include "boot/boot_priv.h"

#define EHDR_LEN 64
#define EHDR_CLASS 4
#define EHDR_DATA 5
#define EHDR_TYPE 16
#define EHDR_MACHINE 18
#define EHDR_ENTRY 24
#define EHDR_PHOFF 32
#define EHDR_SHOFF 40
#define EHDR_PHENTSIZE 54
#define EHDR_PHNUM 56
#define EHDR_SHENTSIZE 58
#define EHDR_SHNUM 60
#define ELF_CLASS_64 2
#define ELF_LITTLE_ENDIAN 1
#define ELF_EXECUTABLE 2
#define ELF_X86_64 62

#define PHDR_LEN 56
#define PT_LOAD 1
#define PT_NOTE 4

struct elf64_segment {
    uint32_t type;
    uint64_t off, paddr, filesz, memsz;
};

static inline bool elf64_is(const uint8_t *p, uint64_t len)
{
    return len >= 4 && p[0] == 0x7f && p[1] == 'E' && p[2] == 'L' && p[3] == 'F';
}

/* EHDR_LEN bytes at p. */
static inline bool elf64_is_x86_64(const uint8_t *p)
{
    return p[EHDR_CLASS] == ELF_CLASS_64 && p[EHDR_DATA] == ELF_LITTLE_ENDIAN &&
           load_le(p + EHDR_MACHINE, 2) == ELF_X86_64;
}

static inline unsigned elf64_segment_count(const uint8_t *p)
{
    return (unsigned)load_le(p + EHDR_PHNUM, 2);
}

/* Whether all program headers lie in the `len` bytes at p. */
static inline bool elf64_has_segments(const uint8_t *p, uint64_t len)
{
    const uint64_t phoff = load_le(p + EHDR_PHOFF, 8);

    return phoff <= len && (uint64_t)elf64_segment_count(p) * PHDR_LEN <= len - phoff;
}

static inline struct elf64_segment elf64_segment_at(const uint8_t *file, unsigned i)
{
    const uint8_t *p = file + load_le(file + EHDR_PHOFF, 8) + (size_t)i * PHDR_LEN;

    return (struct elf64_segment){
        .type = (uint32_t)load_le(p, 4),
        .off = load_le(p + 8, 8),
        .paddr = load_le(p + 24, 8),
        .filesz = load_le(p + 32, 8),
        .memsz = load_le(p + 40, 8),
    };
}

#endif
