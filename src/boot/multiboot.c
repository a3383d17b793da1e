/* Multiboot kernels: Multiboot Specification 0.6.96, section 3. Test kernels and small systems, started as a
 * boot loader on a PC would leave them: 32-bit protected mode, an information structure in EBX.
 *
 * The file is ELF, 32 or 64 bits (the entry is 32-bit code in either), or anything whose header gives load
 * addresses (flag 16, which comes before ELF). The initrd is the one module, right behind the kernel as QEMU
 * puts it; its bytes are the kernel's business. The kernel's command line begins with its file name, as after
 * GRUB and QEMU, and the module's string is its file name. */
#include <inttypes.h>
#include <string.h>

#include "boot/boot_priv.h"

#define HEADER_MAGIC 0x1badb002u
#define HEADER_SEARCH BOOT_HEAD_LEN /* 3.1: contained completely in the first 8192 bytes, 4 byte aligned */
#define HEADER_LEN 12u
#define HEADER_ADDRESSES_END 32u
#define FLAG_PAGE_ALIGN (1u << 0)
#define FLAG_MEMORY (1u << 1)
#define FLAG_VIDEO (1u << 2) /* a wish (3.1.4); there is no display */
#define FLAG_ADDRESSES (1u << 16)
#define FLAGS_KNOWN (FLAG_PAGE_ALIGN | FLAG_MEMORY | FLAG_VIDEO)
#define FLAGS_REQUIRED 0xffffu /* 3.1.2: what of these is not understood, fails the boot */

/* 3.3: the information structure and which of its members are there. */
#define INFO_MEM (1u << 0)
#define INFO_BOOT_DEVICE (1u << 1)
#define INFO_CMDLINE (1u << 2)
#define INFO_MODULES (1u << 3)
#define INFO_MAP (1u << 6)
#define INFO_LOADER (1u << 9)
#define BOOT_DEVICE 0x8000ffffu /* the first hard disk's first partition: as QEMU says without one */
#define LOADER_NAME "yado"

/* Inside the page of boot parameters. */
#define INFO_LEN 120
#define NAME_OFF 0x80
#define MODULE_OFF 0xa0
#define MODULE_LEN 16
#define MAP_OFF 0xc0
#define MAP_ENTRY_LEN 24 /* the size word, which does not count itself, and 20 bytes */
_Static_assert(MAP_OFF + BOOT_MAP_MAX * MAP_ENTRY_LEN <= BOOT_PARAMS_LEN,
               "the information fits into its page");

/* Strings stand where other kernels have page tables: file names may be as long as a command line. */
#define TEXT_ROOM (BOOT_PAGE_TABLES_LEN / 2)

static const uint8_t *find_header(const struct boot_file *f)
{
    size_t end = f->len < HEADER_SEARCH ? f->len : HEADER_SEARCH;

    for (size_t off = 0; off + HEADER_LEN <= end; off += 4) {
        const uint8_t *p = f->data + off;

        if (load_le(p, 4) == HEADER_MAGIC &&
            (uint32_t)(load_le(p, 4) + load_le(p + 4, 4) + load_le(p + 8, 4)) == 0)
            return p;
    }
    return NULL;
}

bool boot_is_multiboot(const struct boot_file *kernel)
{
    return kernel->data && find_header(kernel) != NULL;
}

/* ---- what is loaded where ---- */

static bool segment_add(const struct boot_file *f, struct boot_plan *plan, const struct boot_segment *s,
                        struct yado_error *err)
{
    if (s->off > f->len || s->filesz > f->len - s->off)
        return err_set(err, YADO_ERR_IMAGE,
                       "%s: truncated kernel: %" PRIu64 " bytes to load at %#" PRIx64
                       " end past the end of the file",
                       f->name, s->filesz, s->gpa);
    if (s->filesz > s->memsz || s->gpa < MIB(1) || s->gpa > GIB(4) || s->memsz > GIB(4))
        return err_set(err, YADO_ERR_IMAGE,
                       "%s: damaged kernel: %" PRIu64 " bytes at %#" PRIx64
                       "; a multiboot kernel is loaded between 1 MiB and 4 GiB",
                       f->name, s->memsz, s->gpa);
    if (plan->segment_count == BOOT_SEGMENT_MAX)
        return err_set(err, YADO_ERR_IMAGE, "%s: more than %d segments to load", f->name, BOOT_SEGMENT_MAX);
    plan->segments[plan->segment_count++] = *s;
    plan->kernel_gpa = min_u64(plan->kernel_gpa, s->gpa);
    plan->kernel_end = max_u64(plan->kernel_end, s->gpa + s->memsz);
    return true;
}

/* 3.1.3: the address fields of the header. */
static bool plan_addresses(const struct boot_file *f, const uint8_t *header, struct boot_plan *plan,
                           struct yado_error *err)
{
    uint64_t at = (uint64_t)(header - f->data), header_addr, load, load_end, bss_end;
    struct boot_segment s;

    if (at + HEADER_ADDRESSES_END > f->len)
        return err_set(err, YADO_ERR_IMAGE, "%s: truncated kernel: the multiboot header is cut off", f->name);
    header_addr = load_le(header + 12, 4);
    load = load_le(header + 16, 4);
    load_end = load_le(header + 20, 4);
    bss_end = load_le(header + 24, 4);
    plan->entry = load_le(header + 28, 4);
    if (load > header_addr || header_addr - load > at || (load_end && load_end < load))
        return err_set(err, YADO_ERR_IMAGE,
                       "%s: damaged kernel: multiboot header at %#" PRIx64 ", load address %#" PRIx64
                       ", load end %#" PRIx64,
                       f->name, header_addr, load, load_end);
    s = (struct boot_segment){ .off = at - (header_addr - load), .gpa = load };
    s.filesz = load_end ? load_end - load : f->len - s.off; /* 0: all of the file */
    s.memsz = bss_end > load + s.filesz ? bss_end - load : s.filesz;
    return segment_add(f, plan, &s, err);
}

#define ELF_CLASS_32 1
#define ELF_CLASS_64 2
#define EHDR32_LEN 52
#define EHDR64_LEN 64
#define PHDR32_LEN 32
#define PHDR64_LEN 56
#define PT_LOAD 1

struct elf {
    bool is64;
    uint64_t entry, phoff;
    unsigned phnum;
};

static bool elf_header(const struct boot_file *f, struct elf *e, struct yado_error *err)
{
    const uint8_t *p = f->data;
    unsigned phentsize, machine;

    if (f->len < EHDR64_LEN ||
        memcmp(p,
               "\x7f"
               "ELF",
               4) ||
        (p[4] != ELF_CLASS_32 && p[4] != ELF_CLASS_64))
        return err_set(
            err, YADO_ERR_IMAGE,
            "%s: a multiboot kernel is an ELF file or has load addresses in its header; this one is "
            "neither",
            f->name);
    e->is64 = p[4] == ELF_CLASS_64;
    machine = (unsigned)load_le(p + 18, 2);
    if (p[5] != 1 || machine != (e->is64 ? 62 : 3))
        return err_set(err, YADO_ERR_IMAGE, "%s: an ELF file for machine %u; this one is x86", f->name,
                       machine);
    e->entry = load_le(p + 24, e->is64 ? 8 : 4);
    e->phoff = e->is64 ? load_le(p + 32, 8) : load_le(p + 28, 4);
    phentsize = (unsigned)load_le(p + (e->is64 ? 54 : 42), 2);
    e->phnum = (unsigned)load_le(p + (e->is64 ? 56 : 44), 2);
    if (phentsize != (e->is64 ? PHDR64_LEN : PHDR32_LEN) || e->phoff > f->len ||
        e->phnum > (f->len - e->phoff) / phentsize)
        return err_set(err, YADO_ERR_IMAGE, "%s: truncated kernel: no room for its ELF program headers",
                       f->name);
    return true;
}

/* Segments go to their physical addresses; an entry that is a virtual address is moved with its segment. */
static bool plan_elf(const struct boot_file *f, struct boot_plan *plan, struct yado_error *err)
{
    struct elf e = { 0 };

    if (!elf_header(f, &e, err))
        return false;
    plan->entry = e.entry;
    for (unsigned i = 0; i < e.phnum; i++) {
        const uint8_t *p = f->data + e.phoff + (size_t)i * (e.is64 ? PHDR64_LEN : PHDR32_LEN);
        unsigned n = e.is64 ? 8 : 4;
        uint64_t vaddr = load_le(p + (e.is64 ? 16 : 8), n);
        struct boot_segment s = {
            .off = load_le(p + (e.is64 ? 8 : 4), n),
            .gpa = load_le(p + (e.is64 ? 24 : 12), n),
            .filesz = load_le(p + (e.is64 ? 32 : 16), n),
            .memsz = load_le(p + (e.is64 ? 40 : 20), n),
        };

        if (load_le(p, 4) != PT_LOAD || !s.memsz)
            continue;
        if (!segment_add(f, plan, &s, err))
            return false;
        if (e.entry - vaddr < s.memsz)
            plan->entry = e.entry - vaddr + s.gpa;
    }
    return plan->segment_count ||
           err_set(err, YADO_ERR_IMAGE, "%s: damaged kernel: the ELF file has nothing to load", f->name);
}

bool multiboot_plan(const struct boot_file *kernel, struct boot_plan *plan, struct yado_error *err)
{
    const uint8_t *header = find_header(kernel);
    uint32_t flags = (uint32_t)load_le(header + 4, 4);

    plan->kind = BOOT_MULTIBOOT;
    plan->kernel_gpa = UINT64_MAX;
    if (flags & FLAGS_REQUIRED & ~FLAGS_KNOWN)
        return err_set(err, YADO_ERR_UNSUPPORTED,
                       "%s: the multiboot header asks for features (flags %#x) that are unknown",
                       kernel->name, flags & FLAGS_REQUIRED & ~FLAGS_KNOWN);
    if (!(flags & FLAG_ADDRESSES ? plan_addresses(kernel, header, plan, err) : plan_elf(kernel, plan, err)))
        return false;
    if (plan->entry < plan->kernel_gpa || plan->entry >= plan->kernel_end)
        return err_set(err, YADO_ERR_IMAGE, "%s: damaged kernel: entry %#" PRIx64 " is outside of the kernel",
                       kernel->name, plan->entry);
    if (plan->kernel_end > plan->low_ram_len)
        return err_set(err, YADO_ERR_MEMORY,
                       "memory: %" PRIu64 " MiB is too small for the kernel %s; use at least %" PRIu64 " MiB",
                       plan->low_ram_len >> 20, kernel->name, align_up(plan->kernel_end, MIB(1)) >> 20);
    plan->initrd_end_max = GIB(4);
    plan->initrd_low = true;
    plan->cmdline_max = TEXT_ROOM / 2;
    return true;
}

/* ---- loading ---- */

static bool load_segments(const struct boot_file *f, const struct boot_plan *plan, struct gmem *mem)
{
    for (unsigned i = 0; i < plan->segment_count; i++) {
        const struct boot_segment *s = &plan->segments[i];
        uint8_t *p = gmem_span(mem, s->gpa, s->memsz, GMEM_WRITE);

        if (!p)
            return false;
        gmem_will_fill(mem, s->gpa, s->memsz);
        memcpy(p, f->data + s->off, s->filesz);
        memset(p + s->filesz, 0, s->memsz - s->filesz);
        gmem_written(mem, s->gpa, s->memsz);
    }
    return true;
}

/* "name" or "name text", cut to its room. */
static bool write_text(struct gmem *mem, uint64_t gpa, const char *name, const char *text)
{
    char line[TEXT_ROOM];
    size_t name_len = strnlen(name, TEXT_ROOM / 2 - 2), text_len = strnlen(text, TEXT_ROOM / 2);

    memcpy(line, name, name_len);
    line[name_len] = ' ';
    memcpy(line + name_len + 1, text, text_len);
    line[name_len + 1 + text_len] = '\0';
    if (!text_len)
        line[name_len] = '\0';
    return gmem_write(mem, gpa, line, name_len + text_len + 2);
}

static void write_map(uint8_t *info, const struct boot_map *map)
{
    for (unsigned i = 0; i < map->count; i++) {
        uint8_t *e = info + MAP_OFF + i * MAP_ENTRY_LEN;

        store_le(e, MAP_ENTRY_LEN - 4, 4);
        store_le(e + 4, map->entries[i].gpa, 8);
        store_le(e + 12, map->entries[i].len, 8);
        store_le(e + 20, map->entries[i].type, 4);
    }
}

bool multiboot_load(const struct boot_input *in, const struct boot_plan *plan, struct gmem *mem,
                    struct yado_error *err)
{
    const struct boot_layout *layout = &in->layout;
    uint64_t kernel_text = layout->page_tables, module_text = layout->page_tables + TEXT_ROOM;
    uint32_t flags = INFO_MEM | INFO_BOOT_DEVICE | INFO_CMDLINE | INFO_MODULES | INFO_MAP | INFO_LOADER;
    uint8_t info[BOOT_PARAMS_LEN] = { 0 };
    struct boot_map map;

    boot_map_build(layout, mem, &map);
    store_le(info, flags, 4);
    store_le(info + 4, layout->low_usable_end >> 10, 4); /* mem_lower, KiB */
    store_le(info + 8, (plan->low_ram_len - MIB(1)) >> 10,
             4); /* mem_upper, KiB from 1 MiB to the first hole */
    store_le(info + 12, BOOT_DEVICE, 4);
    store_le(info + 16, kernel_text, 4);
    if (plan->initrd_gpa) {
        store_le(info + 20, 1, 4);
        store_le(info + 24, layout->params + MODULE_OFF, 4);
        store_le(info + MODULE_OFF, plan->initrd_gpa, 4);
        store_le(info + MODULE_OFF + 4, plan->initrd_gpa + plan->initrd_len, 4);
        store_le(info + MODULE_OFF + 8, module_text, 4);
    }
    store_le(info + 44, map.count * MAP_ENTRY_LEN, 4);
    store_le(info + 48, layout->params + MAP_OFF, 4);
    write_map(info, &map);
    store_le(info + 64, layout->params + NAME_OFF, 4);
    memcpy(info + NAME_OFF, LOADER_NAME, sizeof(LOADER_NAME));
    if (!load_segments(&in->kernel, plan, mem) || !gmem_write(mem, layout->params, info, sizeof(info)) ||
        !write_text(mem, kernel_text, in->kernel.name, boot_cmdline(in)) ||
        (plan->initrd_gpa && !write_text(mem, module_text, in->initrd.name, "")))
        return err_set(err, YADO_ERR_INTERNAL, "%s: kernel does not lie in guest memory", in->kernel.name);
    return true;
}
