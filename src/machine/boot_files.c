/* Reads kernel and initrd whole before looking at them: the bytes that were checked are the bytes that are
 * loaded, even if someone writes the files meanwhile. The copies live only as long as the call, and outside
 * of the heap, which would keep their memory afterwards. */
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
    struct copy kernel, initrd;
};

static void copy_free(struct copy *c)
{
    if (c->bytes)
        munmap(c->bytes, c->len);
}

static void loaded_free(struct loaded *l)
{
    copy_free(&l->kernel);
    copy_free(&l->initrd);
}

static bool bytes_read(const struct boot_open_file *f, uint8_t *buf, size_t len, struct yado_error *err)
{
    size_t done = 0;

    while (done < len) {
        ssize_t n = pread(f->fd, buf + done, len - done, (off_t)done);

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

/* `limit`: what could fit into the machine; a larger file is not read. */
static bool file_read(const struct boot_open_file *f, uint64_t limit, struct copy *copy,
                      struct boot_file *out, struct yado_error *err)
{
    struct stat st;

    *copy = (struct copy){ 0 };
    out->name = f->name;
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
    void *p = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return err_set(err, YADO_ERR_HOST, "%s: out of memory", f->name);
    *copy = (struct copy){ p, (size_t)st.st_size };
    out->data = p;
    out->len = copy->len;
    return bytes_read(f, p, out->len, err);
}

static bool input_read(const struct boot_files *files, uint64_t ram_size, struct boot_input *in,
                       struct loaded *l, struct yado_error *err)
{
    *l = (struct loaded){ 0 };
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
    return file_read(&files->kernel, ram_size, &l->kernel, &in->kernel, err) &&
           (files->initrd.fd < 0 || file_read(&files->initrd, ram_size, &l->initrd, &in->initrd, err));
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
