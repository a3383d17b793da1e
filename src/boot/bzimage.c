/* bzImage by the 64-bit boot protocol (Linux Documentation/x86/boot.rst, protocol 2.12 or later). What it
 * unpacks is put into memory unpacked if we know how (vmlinux.c); the rest is the same, as the kernel inside
 * is entered the same way. */
#include <inttypes.h>
#include <string.h>

#include "boot/boot_priv.h"
#include "boot/vmlinux.h"

/* Setup header: the same offsets in the file and in the boot parameters. */
#define HDR_START 0x1f1
#define HDR_SETUP_SECTS 0x1f1
#define HDR_SYSSIZE 0x1f4
#define HDR_VID_MODE 0x1fa
#define HDR_BOOT_FLAG 0x1fe
#define HDR_JUMP_LEN 0x201 /* the jump over the header tells where it ends */
#define HDR_MAGIC 0x202
#define HDR_VERSION 0x206
#define HDR_LOADER_TYPE 0x210
#define HDR_LOADFLAGS 0x211
#define HDR_RAMDISK_IMAGE 0x218
#define HDR_RAMDISK_SIZE 0x21c
#define HDR_CMD_LINE_PTR 0x228
#define HDR_INITRD_ADDR_MAX 0x22c
#define HDR_ALIGNMENT 0x230
#define HDR_RELOCATABLE 0x234
#define HDR_XLOADFLAGS 0x236
#define HDR_CMDLINE_SIZE 0x238
#define HDR_PAYLOAD_OFFSET 0x248
#define HDR_PAYLOAD_LENGTH 0x24c
#define HDR_SETUP_DATA 0x250
#define HDR_PREF_ADDRESS 0x258
#define HDR_INIT_SIZE 0x260
#define HDR_MIN_END 0x264  /* what protocol 2.12 has */
#define HDR_ROOM_END 0x290 /* the boot parameters have no more room for it */

#define BOOT_FLAG 0xaa55
#define VERSION_MIN 0x020c
#define LOADED_HIGH 0x01
#define KASLR_DONE 0x02 /* KASLR_FLAG */
#define XLF_KERNEL_64 0x01
#define LOADER_TYPE_NONE 0xff /* no number assigned */
#define VIDEO_NORMAL 0xffff
#define SECTOR 512u
#define SETUP_SECTS_OLD 4 /* what 0 means */
#define ENTRY_64_OFF 0x200

/* Boot parameters besides the header (zero-page.rst). */
#define PARAM_ACPI_RSDP 0x070
#define PARAM_E820_COUNT 0x1e8
#define PARAM_E820 0x2d0
#define E820_ENTRY_LEN 20
#define E820_MAX 128
_Static_assert(BOOT_MAP_MAX <= E820_MAX, "the map fits into the boot parameters");

static bool check_identity(const struct boot_file *f, struct yado_error *err)
{
    unsigned version;

    if (f->len < HDR_VERSION + 2 || memcmp(f->data + HDR_MAGIC, "HdrS", 4))
        return err_set(err, YADO_ERR_IMAGE, "%s: not a Linux kernel (no 'HdrS' at 0x202)", f->name);
    if (load_le(f->data + HDR_BOOT_FLAG, 2) != BOOT_FLAG)
        return err_set(err, YADO_ERR_IMAGE, "%s: not a Linux kernel (no 0xaa55 at 0x1fe)", f->name);
    version = (unsigned)load_le(f->data + HDR_VERSION, 2);
    if (version < VERSION_MIN)
        return err_set(err, YADO_ERR_IMAGE,
                       "%s: kernel has boot protocol %u.%02u; at least 2.12 (Linux 3.8) is needed", f->name,
                       version >> 8, version & 0xff);
    if (f->len < HDR_MIN_END)
        return err_set(err, YADO_ERR_IMAGE, "%s: truncated kernel: the setup header is cut off", f->name);
    if (!(f->data[HDR_LOADFLAGS] & LOADED_HIGH))
        return err_set(err, YADO_ERR_IMAGE, "%s: kernel is a zImage, not a bzImage", f->name);
    if (!(load_le(f->data + HDR_XLOADFLAGS, 2) & XLF_KERNEL_64))
        return err_set(err, YADO_ERR_IMAGE, "%s: kernel has no 64-bit entry; a 64-bit kernel is needed",
                       f->name);
    return true;
}

/* Setup part and protected-mode part lie in the file. */
static bool check_size(const struct boot_file *f, struct boot_plan *plan, struct yado_error *err)
{
    unsigned sects = f->data[HDR_SETUP_SECTS] ? f->data[HDR_SETUP_SECTS] : SETUP_SECTS_OLD;
    uint64_t setup = (sects + 1) * SECTOR;
    uint64_t sys =
        load_le(f->data + HDR_SYSSIZE, 4) * 16; /* counted in 16-byte units, so up to 15 too many */

    plan->header_end = HDR_MAGIC + f->data[HDR_JUMP_LEN];
    if (plan->header_end < HDR_MIN_END || plan->header_end > HDR_ROOM_END)
        return err_set(err, YADO_ERR_IMAGE, "%s: damaged kernel: setup header ends at %#x", f->name,
                       plan->header_end);
    if (setup + sys > f->len + 15)
        return err_set(err, YADO_ERR_IMAGE,
                       "%s: truncated kernel: its header says %" PRIu64 " bytes, the file has %zu", f->name,
                       setup + sys, f->len);
    if (sys <= ENTRY_64_OFF || setup >= f->len || setup < plan->header_end)
        return err_set(err, YADO_ERR_IMAGE, "%s: damaged kernel: no code after the setup part", f->name);
    plan->payload_off = setup;
    plan->payload_len = min_u64(sys, f->len - setup);
    return true;
}

/* Where it wants to be. A relocatable kernel could be put lower, but on x86-64 it would then move itself up
 * to that address before it unpacks, so the memory is needed all the same. */
static bool choose_address(const struct boot_file *f, struct boot_plan *plan, struct yado_error *err)
{
    uint64_t pref = load_le(f->data + HDR_PREF_ADDRESS, 8);
    uint64_t need = max_u64(load_le(f->data + HDR_INIT_SIZE, 4), plan->payload_len);

    if (pref < MIB(1) || pref > GIB(4) || pref % BOOT_PAGE)
        return err_set(err, YADO_ERR_IMAGE, "%s: damaged kernel: load address %#" PRIx64, f->name, pref);
    if (pref + need > plan->low_ram_len)
        return err_set(err, YADO_ERR_MEMORY,
                       "memory: %" PRIu64 " MiB is too small for the kernel %s; use at least %" PRIu64 " MiB",
                       plan->low_ram_len >> 20, f->name, align_up(pref + need, MIB(1)) >> 20);
    plan->kernel_gpa = pref;
    plan->kernel_end = pref + need;
    plan->entry = pref + ENTRY_64_OFF;
    return true;
}

bool bzimage_plan(const struct boot_file *kernel, struct boot_plan *plan, struct yado_error *err)
{
    plan->kind = BOOT_BZIMAGE;
    if (!check_identity(kernel, err) || !check_size(kernel, plan, err) || !choose_address(kernel, plan, err))
        return false;
    plan->initrd_end_max =
        load_le(kernel->data + HDR_INITRD_ADDR_MAX, 4) + 1; /* the field is the last byte */
    plan->cmdline_max = (uint32_t)load_le(kernel->data + HDR_CMDLINE_SIZE, 4);
    return true;
}

static void fill_map(uint8_t *params, const struct boot_layout *layout, const struct gmem *mem)
{
    struct boot_map map;

    boot_map_build(layout, mem, &map);
    for (unsigned i = 0; i < map.count; i++) {
        uint8_t *e = params + PARAM_E820 + i * E820_ENTRY_LEN;

        store_le(e, map.entries[i].gpa, 8);
        store_le(e + 8, map.entries[i].len, 8);
        store_le(e + 16, map.entries[i].type, 4);
    }
    params[PARAM_E820_COUNT] = (uint8_t)map.count;
}

/* What is packed in the file, or else the file, which unpacks it. */
bool bzimage_load_kernel(const struct boot_input *in, struct boot_plan *plan, struct gmem *mem,
                         struct yado_error *err)
{
    const struct boot_file *f = &in->kernel;
    const struct vmlinux_place place = {
        .payload_off = plan->payload_off + load_le(f->data + HDR_PAYLOAD_OFFSET, 4),
        .payload_len = load_le(f->data + HDR_PAYLOAD_LENGTH, 4),
        .linked = plan->kernel_gpa,
        .room = plan->kernel_end - plan->kernel_gpa,
        .end = plan->ram_end,
        .align = load_le(f->data + HDR_ALIGNMENT, 4),
        .fixed = !f->data[HDR_RELOCATABLE],
    };
    struct vmlinux_at at;

    if (vmlinux_load(f, &place, boot_cmdline(in), mem, &at)) {
        plan->entry = at.entry;
        plan->kernel_moved = at.moved;
        return true;
    }
    return boot_place(f, plan->payload_off, plan->payload_len, plan->kernel_gpa, mem, err) ||
           err_set(err, YADO_ERR_INTERNAL, "%s: kernel does not lie in guest memory", f->name);
}

bool bzimage_load(const struct boot_input *in, const struct boot_plan *plan, struct gmem *mem,
                  struct yado_error *err)
{
    const struct boot_file *f = &in->kernel;
    uint8_t params[BOOT_PARAMS_LEN] = { 0 };

    memcpy(params + HDR_START, f->data + HDR_START, plan->header_end - HDR_START);
    store_le(params + HDR_VID_MODE, VIDEO_NORMAL, 2);
    params[HDR_LOADER_TYPE] = LOADER_TYPE_NONE;
    params[HDR_LOADFLAGS] =
        LOADED_HIGH | (plan->kernel_moved ? KASLR_DONE : 0); /* no heap, messages allowed */
    store_le(params + HDR_RAMDISK_IMAGE, plan->initrd_gpa, 4);
    store_le(params + HDR_RAMDISK_SIZE, plan->initrd_len, 4);
    store_le(params + HDR_CMD_LINE_PTR, in->layout.cmdline, 4);
    store_le(params + HDR_SETUP_DATA, 0, 8);
    store_le(params + PARAM_ACPI_RSDP, in->layout.acpi_rsdp, 8);
    fill_map(params, &in->layout, mem);
    return gmem_write(mem, in->layout.params, params, sizeof(params)) ||
           err_set(err, YADO_ERR_INTERNAL, "%s: boot parameters do not lie in guest memory", f->name);
}
