/* What Apple's framework would start, and what is said of files that it would not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/apple/apple_priv.h"

static char path[64];

/* A file of `size` bytes with `len` bytes of `bytes` at `off`. */
static void file_make(size_t size, size_t off, const char *bytes, size_t len)
{
    int fd;

    snprintf(path, sizeof(path), "/tmp/yado-kernel-XXXXXX");
    fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    assert_int_equal(pwrite(fd, bytes, len, (off_t)off), (ssize_t)len);
    close(fd);
}

static void fits(enum kernel_arch arch)
{
    struct yado_error err = YADO_ERROR_INIT;

    if (!kernel_check(path, arch, &err))
        fail_msg("%s", err.message);
}

static void refused(enum kernel_arch arch, const char *word)
{
    struct yado_error err = YADO_ERROR_INIT;

    assert_false(kernel_check(path, arch, &err));
    assert_int_equal(err.code, YADO_ERR_IMAGE);
    assert_int_equal(strncmp(err.message, path, strlen(path)), 0);
    if (!strstr(err.message, word))
        fail_msg("\"%s\" does not say \"%s\"", err.message, word);
}

static void images(void **state)
{
    (void)state;
    file_make(4096, 56, "ARM\x64", 4);
    fits(KERNEL_ARM64);
    refused(KERNEL_X86_64, "for arm64");
    unlink(path);
    file_make(4096, 0x202, "HdrS", 4);
    fits(KERNEL_X86_64);
    refused(KERNEL_ARM64, "for x86");
    unlink(path);
}

/* They hang on Apple silicon, so each is named with what takes it apart. */
static void compressed(void **state)
{
    static const struct {
        const char *bytes;
        size_t len;
        const char *tool;
    } files[] = {
        { "\x1f\x8b\x08", 3, "gunzip" },
        { "\x28\xb5\x2f\xfd", 4, "unzstd" },
        { "\xfd"
          "7zXZ\0",
          6, "unxz" },
        { "\x02\x21\x4c\x18", 4, "unlz4" },
        { "BZh9", 4, "bunzip2" },
    };

    (void)state;
    for (size_t i = 0; i < array_size(files); i++) {
        file_make(4096, 0, files[i].bytes, files[i].len);
        refused(KERNEL_ARM64, files[i].tool);
        refused(KERNEL_X86_64, "not a Linux kernel");
        unlink(path);
    }
    file_make(4096, 4, "zimg", 4);
    refused(KERNEL_ARM64, "zboot");
    unlink(path);
}

static void others(void **state)
{
    struct yado_error err = YADO_ERROR_INIT;

    (void)state;
    file_make(4096, 0, "\177ELF", 4);
    refused(KERNEL_X86_64, "ELF");
    refused(KERNEL_ARM64, "not an arm64 Linux kernel");
    unlink(path);
    file_make(3, 0, "ARM", 3); /* shorter than any magic is far in */
    refused(KERNEL_ARM64, "not an arm64");
    unlink(path);
    assert_false(kernel_check(path, KERNEL_ARM64, &err));
    assert_int_equal(err.code, YADO_ERR_FILE);
    err = (struct yado_error)YADO_ERROR_INIT;
    assert_false(kernel_check("/", KERNEL_ARM64, &err));
    assert_int_equal(err.code, YADO_ERR_FILE);
    assert_non_null(strstr(err.message, "directory"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(images),
        cmocka_unit_test(compressed),
        cmocka_unit_test(others),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
