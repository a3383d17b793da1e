/* ELF kernels (vmlinux) through the PVH entry: Xen docs/misc/pvh.pandoc and public/arch-x86/hvm/start_info.h;
 * ELF-64 as in the System V ABI, chapters 4 and 5. */
#include <inttypes.h>
#include <string.h>

#include "boot/elf64.h"

#define NOTE_HEADER_LEN 12
#define NOTE_PHYS32_ENTRY 18 /* XEN_ELFNOTE_PHYS32_ENTRY */

#define PVH_CMDLINE_MAX 2047      /* COMMAND_LINE_SIZE of x86 Linux, less the final NUL */
#define PVH_INITRD_END_MAX GIB(2) /* kernels expect it where 32-bit code reaches it */

/* struct hvm_start_info, version 1, and what follows it here. */
#define START_MAGIC 0x336ec578u
#define START_INFO_LEN 56
#define MODULE_OFF 64
#define MODULE_LEN 32
#define MAP_OFF 128
#define MAP_ENTRY_LEN 24
_Static_assert(MAP_OFF + BOOT_MAP_MAX * MAP_ENTRY_LEN <= BOOT_PARAMS_LEN,
               "the start info fits into its page");

static bool check_header(const struct boot_file *f, struct yado_error *err)
{
    if (f->len < EHDR_LEN)
        return err_set(err, YADO_ERR_IMAGE, "%s: truncated kernel: the ELF header is cut off", f->name);
    if (!elf64_is_x86_64(f->data))
        return err_set(err, YADO_ERR_IMAGE, "%s: not an x86-64 Linux kernel but ELF code for another machine",
                       f->name);
    if (load_le(f->data + EHDR_TYPE, 2) != ELF_EXECUTABLE)
        return err_set(err, YADO_ERR_IMAGE, "%s: not a Linux kernel: the ELF file is not of type EXEC",
                       f->name);
    if (load_le(f->data + EHDR_PHENTSIZE, 2) != PHDR_LEN || !elf64_segment_count(f->data))
        return err_set(err, YADO_ERR_IMAGE, "%s: not a Linux kernel: the ELF file has no program headers",
                       f->name);
    if (!elf64_has_segments(f->data, f->len))
        return err_set(err, YADO_ERR_IMAGE, "%s: truncated kernel: the ELF program headers are cut off",
                       f->name);
    return true;
}

/* Bounds of the segments in file and memory, and the extent of all of them. */
static bool check_segments(const struct boot_file *f, struct boot_plan *plan, struct yado_error *err)
{
    plan->kernel_gpa = UINT64_MAX;
    plan->kernel_end = 0;
    for (unsigned i = 0; i < elf64_segment_count(f->data); i++) {
        struct elf64_segment s = elf64_segment_at(f->data, i);

        if (s.type != PT_LOAD && s.type != PT_NOTE)
            continue;
        if (s.off > f->len || s.filesz > f->len - s.off)
            return err_set(err, YADO_ERR_IMAGE,
                           "%s: truncated kernel: ELF segment %u ends past the end of the file", f->name, i);
        if (s.type != PT_LOAD || !s.memsz)
            continue;
        if (s.filesz > s.memsz || s.paddr < MIB(1) || s.paddr > GIB(4) || s.memsz > GIB(4))
            return err_set(err, YADO_ERR_IMAGE,
                           "%s: damaged kernel: ELF segment %u at %#" PRIx64 " of %" PRIu64 " bytes", f->name,
                           i, s.paddr, s.memsz);
        plan->kernel_gpa = min_u64(plan->kernel_gpa, s.paddr);
        plan->kernel_end = max_u64(plan->kernel_end, s.paddr + s.memsz);
    }
    if (!plan->kernel_end)
        return err_set(err, YADO_ERR_IMAGE, "%s: not a Linux kernel: the ELF file has nothing to load",
                       f->name);
    if (plan->kernel_end > plan->low_ram_len)
        return err_set(err, YADO_ERR_MEMORY,
                       "memory: %" PRIu64 " MiB is too small for the kernel %s; use at least %" PRIu64 " MiB",
                       plan->low_ram_len >> 20, f->name, align_up(plan->kernel_end, MIB(1)) >> 20);
    return true;
}

/* Looks through one note segment (inside the file, as checked). Names and descriptors are padded to 4 bytes.
 */
static bool find_entry_note(const uint8_t *p, uint64_t len, uint64_t *entry)
{
    while (len >= NOTE_HEADER_LEN) {
        uint64_t name = load_le(p, 4), desc = load_le(p + 4, 4), type = load_le(p + 8, 4);
        uint64_t name_room = align_up(name, 4), desc_room = align_up(desc, 4);

        p += NOTE_HEADER_LEN;
        len -= NOTE_HEADER_LEN;
        if (name_room > len || desc > len - name_room)
            return false;
        if (type == NOTE_PHYS32_ENTRY && name == 4 && !memcmp(p, "Xen", 4) && (desc == 4 || desc == 8)) {
            *entry = load_le(p + name_room, (unsigned)desc);
            return true;
        }
        desc_room = min_u64(desc_room, len - name_room); /* the last one may lack its padding */
        p += name_room + desc_room;
        len -= name_room + desc_room;
    }
    return false;
}

static bool find_entry(const struct boot_file *f, struct boot_plan *plan, struct yado_error *err)
{
    for (unsigned i = 0; i < elf64_segment_count(f->data); i++) {
        struct elf64_segment s = elf64_segment_at(f->data, i);

        if (s.type != PT_NOTE || !find_entry_note(f->data + s.off, s.filesz, &plan->entry))
            continue;
        if (plan->entry >= plan->kernel_gpa && plan->entry < plan->kernel_end)
            return true;
        return err_set(err, YADO_ERR_IMAGE,
                       "%s: damaged kernel: PVH entry %#" PRIx64 " is outside of the kernel", f->name,
                       plan->entry);
    }
    return err_set(err, YADO_ERR_IMAGE,
                   "%s: ELF kernel without a PVH entry (built without CONFIG_PVH); use its bzImage (vmlinuz)",
                   f->name);
}

bool pvh_plan(const struct boot_file *kernel, struct boot_plan *plan, struct yado_error *err)
{
    plan->kind = BOOT_PVH;
    if (!check_header(kernel, err) || !check_segments(kernel, plan, err) || !find_entry(kernel, plan, err))
        return false;
    plan->initrd_end_max = PVH_INITRD_END_MAX;
    plan->cmdline_max = PVH_CMDLINE_MAX;
    return true;
}

static bool load_segments(const struct boot_file *f, struct gmem *mem)
{
    for (unsigned i = 0; i < elf64_segment_count(f->data); i++) {
        struct elf64_segment s = elf64_segment_at(f->data, i);
        uint8_t *p;

        if (s.type != PT_LOAD || !s.memsz)
            continue;
        p = gmem_span(mem, s.paddr, s.memsz, GMEM_WRITE);
        if (!p)
            return false;
        gmem_will_fill(mem, s.paddr, s.memsz);
        memcpy(p, f->data + s.off, s.filesz);
        memset(p + s.filesz, 0, s.memsz - s.filesz);
        gmem_written(mem, s.paddr, s.memsz);
    }
    return true;
}

bool pvh_load(const struct boot_input *in, const struct boot_plan *plan, struct gmem *mem,
              struct yado_error *err)
{
    const struct boot_layout *layout = &in->layout;
    uint8_t info[BOOT_PARAMS_LEN] = { 0 };
    struct boot_map map;

    boot_map_build(layout, mem, &map);
    store_le(info, START_MAGIC, 4);
    store_le(info + 4, 1, 4); /* version */
    if (plan->initrd_gpa) {
        store_le(info + 12, 1, 4);
        store_le(info + 16, layout->params + MODULE_OFF, 8);
        store_le(info + MODULE_OFF, plan->initrd_gpa, 8);
        store_le(info + MODULE_OFF + 8, plan->initrd_len, 8);
    }
    store_le(info + 24, layout->cmdline, 8);
    store_le(info + 32, layout->acpi_rsdp, 8);
    store_le(info + 40, layout->params + MAP_OFF, 8);
    store_le(info + 48, map.count, 4);
    for (unsigned i = 0; i < map.count; i++) {
        uint8_t *e = info + MAP_OFF + i * MAP_ENTRY_LEN;

        store_le(e, map.entries[i].gpa, 8);
        store_le(e + 8, map.entries[i].len, 8);
        store_le(e + 16, map.entries[i].type, 4);
    }
    if (!load_segments(&in->kernel, mem) || !gmem_write(mem, layout->params, info, sizeof(info)))
        return err_set(err, YADO_ERR_INTERNAL, "%s: kernel does not lie in guest memory", in->kernel.name);
    return true;
}
