/* Loading a kernel.
 *
 * Theory of operation
 *
 * Two steps. The first makes a plan from the files' headers, the command line and the size of memory alone:
 * what kind of kernel it is, where it goes, where the initrd goes. All that can be wrong with the user's
 * files is found here, so that it can be told before a machine exists. The second step copies bytes to where
 * the plan says and makes the state of the first vCPU; it can only fail if the layout of the machine is bad.
 *
 * - 0 .. 1 MiB: boot data at the addresses of the layout: GDT, boot parameters (or PVH start info), identity
 *   page tables, command line; a kernel copies what it wants to keep and takes the memory.
 * - The kernel. bzImage: unpacked, at an address by chance (vmlinux.c); if we do not know how, as it is at
 * its preferred address, where it unpacks itself and may move. ELF: where its segments say.
 * - The initrd, unpacked if the guest has memory to spare (initrd_unpack.c): as high as the kernel allows,
 *   below 4 GiB and inside low RAM, so that a kernel that grows or moves has the most room (multiboot: as it
 *   is, right behind the kernel).
 *
 * Another boot protocol is another pair of plan and load functions. */
#include "boot/boot.h"

#include <inttypes.h>
#include <string.h>

#include "boot/elf64.h"

struct magic {
    unsigned off, len;
    const char *bytes;
    const char *what;
};

/* Files that are given as kernels by mistake, by name. */
static const struct magic known_files[] = {
    { 0x38, 4, "ARM\x64", "an arm64 Image; this machine is x86-64" },
    { 0x38, 4, "RSC\x05", "a RISC-V Image; this machine is x86-64" },
    { 4, 4, "zimg", "a compressed EFI image; use the kernel inside it" },
    { 0, 2, "\x1f\x8b", "gzip data; unpack it first" },
    { 0, 6, "\xfd\x37zXZ\0", "xz data; unpack it first" },
    { 0, 4, "\x28\xb5\x2f\xfd", "zstd data; unpack it first" },
    { 0, 6, "070701", "a cpio archive: an initrd?" },
    { 0, 4, "QFI\xfb", "a qcow2 disk image" },
    { 0, 2, "#!", "a script" },
};

static const char *name_known_file(const struct boot_file *f)
{
    for (unsigned i = 0; i < array_size(known_files); i++) {
        const struct magic *m = &known_files[i];

        if (f->len >= m->off + m->len && !memcmp(f->data + m->off, m->bytes, m->len))
            return m->what;
    }
    return NULL;
}

bool boot_is_bzimage(const struct boot_file *kernel)
{
    return !boot_is_multiboot(kernel) && !elf64_is(kernel->data, kernel->len);
}

static bool plan_kernel(const struct boot_file *kernel, struct boot_plan *plan, struct yado_error *err)
{
    const char *what;

    if (!kernel->len)
        return err_set(err, YADO_ERR_IMAGE, "%s: not a Linux kernel: the file is empty", kernel->name);
    if (boot_is_multiboot(kernel))
        return multiboot_plan(kernel, plan, err);
    if (elf64_is(kernel->data, kernel->len))
        return pvh_plan(kernel, plan, err);
    what = name_known_file(kernel);
    if (what)
        return err_set(err, YADO_ERR_IMAGE, "%s: not an x86-64 Linux kernel but %s", kernel->name, what);
    return bzimage_plan(kernel, plan, err);
}

static uint64_t mib_up(uint64_t bytes)
{
    return align_up(bytes, MIB(1)) >> 20;
}

/* What the initrd contains is seen to in boot_check alone: it cannot harm the host, and looking takes time.
 */
static bool plan_initrd(const struct boot_file *initrd, struct boot_plan *plan, struct yado_error *err)
{
    uint64_t top = align_down(min_u64(plan->initrd_end_max, plan->low_ram_len), BOOT_PAGE);
    uint64_t end = align_up(plan->kernel_end, BOOT_PAGE), room = top > end ? top - end : 0;
    uint64_t need = align_up(initrd->len, BOOT_PAGE);

    if (need <= room) {
        plan->initrd_gpa = plan->initrd_low ? align_up(plan->kernel_end, BOOT_PAGE) : top - need;
        plan->initrd_len = initrd->len;
        return true;
    }
    if (plan->kernel_end + need > min_u64(plan->initrd_end_max, GIB(4)))
        return err_set(err, YADO_ERR_IMAGE,
                       "%s: initrd of %" PRIu64 " MiB is more than this kernel can be given", initrd->name,
                       mib_up(initrd->len));
    return err_set(err, YADO_ERR_MEMORY,
                   "memory: %" PRIu64 " MiB is too small for the kernel (%" PRIu64
                   " MiB) and the initrd %s (%" PRIu64 " MiB); use at least %" PRIu64 " MiB",
                   plan->low_ram_len >> 20, mib_up(plan->kernel_end), initrd->name, mib_up(initrd->len),
                   mib_up(plan->kernel_end + need));
}

static bool make_plan(const struct boot_input *in, uint64_t low_ram_len, struct boot_plan *plan,
                      struct yado_error *err)
{
    size_t len = strlen(boot_cmdline(in)), max;

    *plan = (struct boot_plan){ .low_ram_len = low_ram_len };
    if (!plan_kernel(&in->kernel, plan, err))
        return false;
    max = min_u64(plan->cmdline_max, in->layout.cmdline_room - 1);
    if (len > max)
        return err_set(err, YADO_ERR_INVALID_CONFIG,
                       "command line: %zu characters are too many; this kernel takes at most %zu", len, max);
    if (in->initrd.len && !plan_initrd(&in->initrd, plan, err))
        return false;
    return true;
}

bool boot_check(const struct boot_input *in, uint64_t low_ram_len, struct yado_error *err)
{
    struct boot_plan plan;

    if (!make_plan(in, low_ram_len, &plan, err))
        return false;
    return !in->initrd.len || plan.initrd_low || initrd_check(&in->initrd, err);
}

static void map_add(struct boot_map *map, uint64_t gpa, uint64_t len, uint32_t type)
{
    BUG_ON(map->count == BOOT_MAP_MAX);
    if (len)
        map->entries[map->count++] = (struct boot_reserved){ gpa, len, type };
}

/* Overlaps are the kernel's to sort out: it takes the higher type, and all reserved types are higher than
 * RAM. */
void boot_map_build(const struct boot_layout *layout, const struct gmem *mem, struct boot_map *out)
{
    out->count = 0;
    for (unsigned i = 0; i < gmem_slot_count(mem); i++) {
        struct gmem_slot slot = gmem_slot_at(mem, i);

        if (slot.gpa) {
            map_add(out, slot.gpa, slot.len, BOOT_MAP_RAM);
            continue;
        }
        map_add(out, 0, layout->low_usable_end, BOOT_MAP_RAM);
        map_add(out, layout->low_usable_end, MIB(1) - layout->low_usable_end, BOOT_MAP_RESERVED);
        map_add(out, MIB(1), slot.len - MIB(1), BOOT_MAP_RAM);
    }
    for (unsigned i = 0; i < layout->reserved_count; i++)
        map_add(out, layout->reserved[i].gpa, layout->reserved[i].len, layout->reserved[i].type);
}

static uint64_t low_ram_of(const struct gmem *mem)
{
    for (unsigned i = 0; i < gmem_slot_count(mem); i++)
        if (!gmem_slot_at(mem, i).gpa)
            return gmem_slot_at(mem, i).len;
    return 0;
}

bool boot_place(const struct boot_file *f, uint64_t off, size_t len, uint64_t gpa, struct gmem *mem,
                struct yado_error *err)
{
    void *at;

    gmem_will_fill(mem, gpa, len);
    if (!len || !f->read)
        return !len || gmem_write(mem, gpa, f->data + off, len);
    at = gmem_span(mem, gpa, len, GMEM_WRITE);
    if (!at || !f->read(f, off, len, at, err))
        return false;
    gmem_written(mem, gpa, len);
    return true;
}

/* A guest that has memory to spare gets its initrd unpacked: until the kernel has copied the files out, they
 * may take another 1/16 of it. */
#define UNPACKED_SHARE 16

/* What it is unpacked from stays where it would be otherwise. False: there is no room. */
static bool begin_initrd(const struct boot_plan *plan, const struct boot_file *initrd, struct gmem *mem,
                         struct initrd_job *job)
{
    const uint64_t room = align_down(gmem_size(mem) / UNPACKED_SHARE, BOOT_PAGE);

    if (!plan->initrd_gpa || plan->initrd_low || plan->initrd_gpa < plan->kernel_end + room)
        return false;
    *job = (struct initrd_job){ .mem = mem, .gpa = plan->initrd_gpa - room, .room = room };
    job->packed = (struct boot_file){ .name = initrd->name, .len = initrd->len };
    job->packed.data = gmem_span(mem, plan->initrd_gpa, initrd->len, GMEM_READ);
    initrd_unpack_begin(job);
    return true;
}

/* Kernel and initrd, at the same time. */
static bool load_both(const struct boot_input *in, struct boot_plan *plan, struct gmem *mem,
                      struct yado_error *err)
{
    struct initrd_job job;
    bool ok, unpacks;

    if (!boot_place(&in->initrd, 0, in->initrd.len, plan->initrd_gpa, mem, err))
        return false;
    unpacks = begin_initrd(plan, &in->initrd, mem, &job);
    plan->ram_end = unpacks ? job.gpa : plan->initrd_gpa ? plan->initrd_gpa : plan->low_ram_len;
    ok = plan->kind != BOOT_BZIMAGE || bzimage_load_kernel(in, plan, mem, err);
    if (unpacks && initrd_unpack_end(&job)) {
        plan->initrd_gpa = job.gpa;
        plan->initrd_len = job.len;
    }
    return ok;
}

bool boot_load(const struct boot_input *in, struct gmem *mem, struct x86_state *out, struct yado_error *err)
{
    const char *cmdline = boot_cmdline(in);
    struct boot_plan plan;
    bool ok;

    if (!make_plan(in, low_ram_of(mem), &plan, err))
        return false;
    ok = gmem_write(mem, in->layout.cmdline, cmdline, strlen(cmdline) + 1) && load_both(in, &plan, mem, err);
    if (!ok)
        return err_set(err, YADO_ERR_INTERNAL, "boot data do not lie in guest memory");
    if (plan.kind == BOOT_MULTIBOOT)
        ok = multiboot_load(in, &plan, mem, err) && boot_cpu_multiboot(in, &plan, mem, out);
    else if (plan.kind == BOOT_PVH)
        ok = pvh_load(in, &plan, mem, err) && boot_cpu_protected_mode(in, &plan, mem, out);
    else
        ok = bzimage_load(in, &plan, mem, err) && boot_cpu_long_mode(in, &plan, mem, out);
    return ok || err_set(err, YADO_ERR_INTERNAL, "boot data do not lie in guest memory");
}
