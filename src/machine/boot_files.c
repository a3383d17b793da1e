/* Reads a file whole before looking at it: the bytes that were checked are the bytes that are loaded, even if
 * someone writes the file meanwhile. The copies live only as long as the call, and outside of the heap, which
 * would keep their memory afterwards. What nobody looks at, all of a bzImage but its head, and an initrd,
 * goes from the file straight into guest memory. */
#include "machine/boot_files.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "boot/boot.h"
#include "machine/pc_layout.h"

_Static_assert(BOOT_GDT_LEN <= PC_BOOT_GDT_ROOM && BOOT_PARAMS_LEN <= PC_BOOT_PARAMS_ROOM &&
                   BOOT_PAGE_TABLES_LEN <= PC_BOOT_PAGE_TABLES_ROOM,
               "boot data have room");

struct copy {
    uint8_t *bytes;
    size_t len;
};
struct loaded {
    struct copy kernel;          /* of a kind that is looked at whole */
    uint8_t head[BOOT_HEAD_LEN]; /* of the kernel */
};

static void copy_free(struct copy *c)
{
    if (c->bytes)
        munmap(c->bytes, c->len);
}

static void loaded_free(struct loaded *l)
{
    copy_free(&l->kernel);
}

static bool bytes_read(const struct boot_open_file *f, uint64_t off, uint8_t *buf, size_t len,
                       struct yado_error *err)
{
    size_t done = 0;

    while (done < len) {
        ssize_t n = pread(f->fd, buf + done, len - done, (off_t)(off + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set_errno(err, YADO_ERR_FILE, errno, "%s: cannot read", f->name);
        if (n == 0)
            return err_set(err, YADO_ERR_FILE, "%s: became shorter while it was read", f->name);
        done += (size_t)n;
    }
    return true;
}

static bool straight_read(const struct boot_file *f, uint64_t off, size_t len, void *at,
                          struct yado_error *err)
{
    return bytes_read(f->ctx, off, at, len, err);
}

/* Name and length. `limit`: what could fit into the machine; a larger file is not read. */
static bool file_measure(const struct boot_open_file *f, uint64_t limit, struct boot_file *out,
                         struct yado_error *err)
{
    struct stat st;

    *out = (struct boot_file){ .name = f->name, .read = straight_read, .ctx = f };
    if (fstat(f->fd, &st) < 0)
        return err_set_errno(err, YADO_ERR_FILE, errno, "%s: cannot read", f->name);
    if (S_ISDIR(st.st_mode))
        return err_set(err, YADO_ERR_FILE, "%s: is a directory", f->name);
    if (!S_ISREG(st.st_mode))
        return err_set(err, YADO_ERR_FILE, "%s: is not a regular file", f->name);
    if (st.st_size == 0)
        return err_set(err, YADO_ERR_IMAGE, "%s: is empty", f->name);
    if ((uint64_t)st.st_size > limit)
        return err_set(
            err, YADO_ERR_MEMORY,
            "%s: has %llu MiB, more than the machine's memory of %llu MiB holds; give it more memory",
            f->name, (unsigned long long)st.st_size >> 20, (unsigned long long)limit >> 20);
    out->len = (size_t)st.st_size;
    return true;
}

static bool file_read(const struct boot_open_file *f, uint64_t limit, struct copy *copy,
                      struct boot_file *out, struct yado_error *err)
{
    void *p;

    if (!file_measure(f, limit, out, err))
        return false;
    p = mmap(NULL, out->len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return err_set(err, YADO_ERR_HOST, "%s: out of memory", f->name);
    madvise(p, out->len, MADV_HUGEPAGE); /* fewer faults; no harm if there is no such thing */
    *copy = (struct copy){ p, out->len };
    out->data = p;
    return bytes_read(f, 0, p, out->len, err);
}

/* The whole file if its kind asks for it. */
static bool kernel_read(const struct boot_open_file *f, uint64_t limit, struct loaded *l,
                        struct boot_file *out, struct yado_error *err)
{
    if (!file_measure(f, limit, out, err) ||
        !bytes_read(f, 0, l->head, min_u64(out->len, sizeof(l->head)), err))
        return false;
    out->data = l->head;
    return boot_is_bzimage(out) || file_read(f, limit, &l->kernel, out, err);
}

static bool input_read(const struct boot_files *files, uint64_t ram_size, struct boot_input *in,
                       struct loaded *l, struct yado_error *err)
{
    l->kernel = (struct copy){ 0 };
    *in = (struct boot_input){
        .cmdline = files->cmdline,
        .layout = {
            .gdt = PC_BOOT_GDT,
            .params = PC_BOOT_PARAMS,
            .page_tables = PC_BOOT_PAGE_TABLES,
            .cmdline = PC_BOOT_CMDLINE,
            .cmdline_room = PC_BOOT_CMDLINE_ROOM,
            .acpi_rsdp = PC_ACPI_BASE,
            .low_usable_end = PC_LOW_USABLE_END,
            .reserved = {
                { .gpa = PC_ACPI_BASE, .len = PC_ACPI_ROOM, .type = BOOT_MAP_ACPI },
                { .gpa = PC_ECAM_BASE, .len = PC_ECAM_LEN, .type = BOOT_MAP_RESERVED },
            },
            .reserved_count = 2,
        },
    };
    if (!kernel_read(&files->kernel, ram_size, l, &in->kernel, err))
        return false;
    if (boot_is_multiboot(&in->kernel)) {
        in->layout.acpi_rsdp = in->layout.reserved[0].gpa = PC_ACPI_LEGACY_BASE;
        in->layout.reserved[0].len = PC_BIOS_END - PC_ACPI_LEGACY_BASE;
    }
    if (files->initrd.fd < 0)
        return true;
    return file_measure(&files->initrd, ram_size, &in->initrd, err);
}

bool boot_files_multiboot(const struct boot_open_file *kernel)
{
    uint8_t head[BOOT_HEAD_LEN];
    ssize_t n = pread(kernel->fd, head, sizeof(head), 0);
    struct boot_file f = { .name = kernel->name, .data = head, .len = n > 0 ? (size_t)n : 0 };

    return boot_is_multiboot(&f);
}

bool boot_files_check(const struct boot_files *files, uint64_t ram_size, struct yado_error *err)
{
    struct boot_input in;
    struct loaded l;
    bool ok =
        input_read(files, ram_size, &in, &l, err) && boot_check(&in, min_u64(ram_size, PC_LOW_RAM_END), err);

    loaded_free(&l);
    return ok;
}

bool boot_files_load(const struct boot_files *files, struct gmem *mem, uint64_t acpi_len,
                     struct x86_state *out, struct yado_error *err)
{
    struct boot_input in;
    struct loaded l;
    bool ok = input_read(files, gmem_size(mem), &in, &l, err);

    in.layout.reserved[0].len = align_up(acpi_len, 0x1000);
    ok = ok && boot_load(&in, mem, out, err);
    loaded_free(&l);
    return ok;
}
