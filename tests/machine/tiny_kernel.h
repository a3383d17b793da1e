/* A guest of a few instructions: an ELF file with a PVH entry (32-bit protected mode, flat segments, paging
 * off). */
#ifndef TEST_TINY_KERNEL_H
#define TEST_TINY_KERNEL_H

#include <elf.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TINY_ENTRY 0x100000u
#define TINY_MAGIC_OFF 0x202 /* "HdrS": so that it passes for a bzImage where nothing else is taken */

/* The file's name goes to path[]; the caller unlinks it. */
static inline void tiny_kernel_write(char path[64], const uint8_t *code, size_t len)
{
    struct {
        Elf64_Ehdr eh;
        Elf64_Phdr ph[2];
        Elf64_Nhdr note;
        char name[4];
        uint32_t entry;
        uint8_t code[TINY_MAGIC_OFF - 196];
        char magic[4];
    } f;
    int fd;

    _Static_assert(offsetof(__typeof__(f), magic) == TINY_MAGIC_OFF,
                   "it is a bzImage too, for who looks at its magic");

    memset(&f, 0, sizeof(f));
    memcpy(f.eh.e_ident, ELFMAG, SELFMAG);
    f.eh.e_ident[EI_CLASS] = ELFCLASS64;
    f.eh.e_ident[EI_DATA] = ELFDATA2LSB;
    f.eh.e_ident[EI_VERSION] = EV_CURRENT;
    f.eh.e_type = ET_EXEC;
    f.eh.e_machine = EM_X86_64;
    f.eh.e_version = EV_CURRENT;
    f.eh.e_entry = TINY_ENTRY;
    f.eh.e_phoff = offsetof(__typeof__(f), ph);
    f.eh.e_ehsize = sizeof(f.eh);
    f.eh.e_phentsize = sizeof(f.ph[0]);
    f.eh.e_phnum = 2;
    f.ph[0] = (Elf64_Phdr){ .p_type = PT_LOAD,
                            .p_flags = PF_R | PF_X,
                            .p_offset = offsetof(__typeof__(f), code),
                            .p_vaddr = TINY_ENTRY,
                            .p_paddr = TINY_ENTRY,
                            .p_filesz = sizeof(f.code),
                            .p_memsz = sizeof(f.code),
                            .p_align = 1 };
    f.ph[1] = (Elf64_Phdr){ .p_type = PT_NOTE,
                            .p_offset = offsetof(__typeof__(f), note),
                            .p_filesz = sizeof(f.note) + 8,
                            .p_memsz = sizeof(f.note) + 8,
                            .p_align = 4 };
    f.note = (Elf64_Nhdr){ .n_namesz = 4, .n_descsz = 4, .n_type = 18 }; /* XEN_ELFNOTE_PHYS32_ENTRY */
    memcpy(f.name, "Xen", 4);
    f.entry = TINY_ENTRY;
    memcpy(f.magic, "HdrS", 4);
    if (len > sizeof(f.code))
        abort();
    memcpy(f.code, code, len);
    strcpy(path, "/tmp/yado-test-kernel-XXXXXX");
    fd = mkstemp(path);
    if (fd < 0 || write(fd, &f, sizeof(f)) != (ssize_t)sizeof(f))
        abort();
    close(fd);
}

/* Building blocks. */
#define TINY_OUTB(port, value) 0x66, 0xba, (uint8_t)(port), (uint8_t)((port) >> 8), 0xb0, (value), 0xee
#define TINY_OUTW(port, value)                                                                               \
    0x66, 0xba, (uint8_t)(port), (uint8_t)((port) >> 8), 0x66, 0xb8, (uint8_t)(value),                       \
        (uint8_t)((value) >> 8), 0x66, 0xef
/* mov dword [address], value */
#define TINY_BYTES32(v) (uint8_t)(v), (uint8_t)((v) >> 8), (uint8_t)((v) >> 16), (uint8_t)((v) >> 24)
#define TINY_STORE(address, value) 0xc7, 0x05, TINY_BYTES32(address), TINY_BYTES32(value)

#define TINY_POWER_OFF TINY_OUTW(0x604, 0x3400)
#define TINY_RESET TINY_OUTB(0xcf9, 0x06)
#define TINY_HALT 0xfa, 0xf4, 0xeb, 0xfd /* cli; hlt; jmp back */
/* lidt of an empty table at the stack's place, then ud2 */
#define TINY_TRIPLE_FAULT                                                                                    \
    TINY_STORE(0x8000u, 0u), TINY_STORE(0x8004u, 0u), 0x0f, 0x01, 0x1d, TINY_BYTES32(0x8000u), 0x0f, 0x0b
/* opens pin 4 of the I/O APIC, masked again by TINY_MASK */
#define TINY_UNMASK TINY_STORE(0xfec00000u, 0x18u), TINY_STORE(0xfec00010u, 0x00000030u)
#define TINY_MASK TINY_STORE(0xfec00000u, 0x18u), TINY_STORE(0xfec00010u, 0x00010000u)

#endif
