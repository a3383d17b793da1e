/* What kind of kernel a file is, told from its first bytes before the framework tries it: a compressed kernel
 * on Apple silicon does not fail there, it hangs. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/apple/apple_priv.h"

#define HEAD_LEN 0x210

struct magic {
    size_t off, len;
    const char *bytes;
};

/* Linux, Documentation/arch/x86/boot.rst ("HdrS") and Documentation/arch/arm64/booting.rst ("ARM\x64"). */
static const struct magic x86_image = { 0x202, 4, "HdrS" };
static const struct magic arm64_image = { 56, 4, "ARM\x64" };
static const struct magic zboot_image = { 4, 4, "zimg" }; /* drivers/firmware/efi/libstub/zboot-header.S */
static const struct magic elf = { 0, 4, "\177ELF" };

static const struct {
    struct magic magic;
    const char *name, *tool;
} compressors[] = {
    { { 0, 2, "\x1f\x8b" }, "gzip", "gunzip" },
    { { 0, 4, "\x28\xb5\x2f\xfd" }, "zstd", "unzstd" },
    { { 0, 6,
        "\xfd"
        "7zXZ"
        "\0" },
      "xz",
      "unxz" },
    { { 0, 4, "\x02\x21\x4c\x18" }, "lz4", "unlz4" },
    { { 0, 3, "BZh" }, "bzip2", "bunzip2" },
};

static bool has(const uint8_t *head, size_t len, const struct magic *m)
{
    return m->off + m->len <= len && !memcmp(head + m->off, m->bytes, m->len);
}

/* How many bytes of the file's beginning there are; -1 and err if it cannot be read. */
static ssize_t head_read(const char *path, uint8_t head[HEAD_LEN], struct yado_error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* not to wait for a FIFO's writer */
    ssize_t got = -1;
    struct stat st;

    if (fd < 0) {
        err_set_errno(err, YADO_ERR_FILE, errno, "%s: cannot open", path);
        return -1;
    }
    if (!fstat(fd, &st) && !S_ISREG(st.st_mode)) {
        err_set(err, YADO_ERR_FILE, "%s: is %s", path,
                S_ISDIR(st.st_mode) ? "a directory" : "not a regular file");
    } else {
        got = read(fd, head, HEAD_LEN);
        if (got < 0)
            err_set_errno(err, YADO_ERR_FILE, errno, "%s: cannot read", path);
    }
    close(fd);
    return got;
}

static bool arm64_check(const char *path, const uint8_t *head, size_t len, struct yado_error *err)
{
    if (has(head, len, &arm64_image))
        return true;
    for (size_t i = 0; i < array_size(compressors); i++) {
        if (has(head, len, &compressors[i].magic))
            return err_set(err, YADO_ERR_IMAGE,
                           "%s: is compressed with %s; Apple silicon starts an uncompressed arm64 Image: "
                           "decompress it with %s",
                           path, compressors[i].name, compressors[i].tool);
    }
    if (has(head, len, &zboot_image))
        return err_set(err, YADO_ERR_IMAGE,
                       "%s: is a compressed EFI (zboot) kernel; Apple silicon starts an uncompressed arm64 "
                       "Image, or boot it with the EFI boot loader",
                       path);
    if (has(head, len, &x86_image))
        return err_set(err, YADO_ERR_IMAGE, "%s: is a kernel for x86; this Mac runs arm64 guests", path);
    return err_set(err, YADO_ERR_IMAGE, "%s: is not an arm64 Linux kernel (an uncompressed Image)", path);
}

static bool x86_check(const char *path, const uint8_t *head, size_t len, struct yado_error *err)
{
    if (has(head, len, &x86_image))
        return true;
    if (has(head, len, &arm64_image) || has(head, len, &zboot_image))
        return err_set(err, YADO_ERR_IMAGE, "%s: is a kernel for arm64; this Mac runs x86-64 guests", path);
    if (has(head, len, &elf))
        return err_set(err, YADO_ERR_IMAGE, "%s: is an ELF file; this engine starts a bzImage (vmlinuz)",
                       path);
    return err_set(err, YADO_ERR_IMAGE, "%s: is not a Linux kernel (a bzImage)", path);
}

bool kernel_check(const char *path, enum kernel_arch arch, struct yado_error *err)
{
    uint8_t head[HEAD_LEN];
    ssize_t len = head_read(path, head, err);

    if (len < 0)
        return false;
    return arch == KERNEL_ARM64 ? arm64_check(path, head, (size_t)len, err)
                                : x86_check(path, head, (size_t)len, err);
}
