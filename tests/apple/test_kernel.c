/* What kind of kernel a file is, for both kinds of Mac: the one that this is compiled for shows only half of
 * it. */
#include "api.h"
#include "backend/apple/apple_priv.h"

static void put(const char *bytes, size_t off, size_t len, size_t size)
{
    FILE *f = fopen(api_kernel, "w");

    assert_int_equal(fseek(f, (long)off, SEEK_SET), 0);
    assert_int_equal(fwrite(bytes, 1, len, f), len);
    fclose(f);
    assert_int_equal(truncate(api_kernel, (off_t)size), 0);
}

static const struct {
    const char *bytes;
    size_t off, len;
    const char *arm64, *x86; /* what must be said; NULL: it is taken */
} kernels[] = {
    { "ARM\x64", 56, 4, NULL, "is a kernel for arm64" },
    { "HdrS", 0x202, 4, "is a kernel for x86", NULL },
    { "\x1f\x8b\x08\x00", 0, 4, "is compressed with gzip", "is not a Linux kernel" },
    { "\x28\xb5\x2f\xfd", 0, 4, "is compressed with zstd", "is not a Linux kernel" },
    { "\xfd"
      "7zXZ\0",
      0, 6, "is compressed with xz", "is not a Linux kernel" },
    { "\x02\x21\x4c\x18", 0, 4, "is compressed with lz4", "is not a Linux kernel" },
    { "BZh9", 0, 4, "is compressed with bzip2", "is not a Linux kernel" },
    { "zimg", 4, 4, "zboot", "is a kernel for arm64" },
    { "\177ELF", 0, 4, "is not an arm64 Linux kernel", "is an ELF file" },
    { "#!/bin/sh", 0, 9, "is not an arm64 Linux kernel", "is not a Linux kernel" },
    { "", 0, 0, "is not an arm64 Linux kernel", "is not a Linux kernel" },
};

static void expect(enum kernel_arch arch, const char *text)
{
    struct yado_error err = YADO_ERROR_INIT;
    bool ok = kernel_check(api_kernel, arch, &err);

    if (ok != !text || (text && (err.code != YADO_ERR_IMAGE || !strstr(err.message, text) ||
                                 strncmp(err.message, api_kernel, strlen(api_kernel)) != 0)))
        fail_msg("%d: \"%s\", not \"%s\"", ok, err.message, text ? text : "");
}

static void kinds_of_kernels(void **state)
{
    static const size_t sizes[] = { 0x210, 1 << 20 };

    (void)state;
    for (size_t i = 0; i < array_size(kernels); i++) {
        for (size_t s = 0; s < array_size(sizes); s++) {
            put(kernels[i].bytes, kernels[i].off, kernels[i].len, sizes[s]);
            expect(KERNEL_ARM64, kernels[i].arm64);
            expect(KERNEL_X86_64, kernels[i].x86);
        }
    }
}

/* Cut off before the magic. */
static void short_files(void **state)
{
    (void)state;
    for (size_t size = 0; size < 0x206; size++) {
        put("", 0, 0, size);
        expect(KERNEL_ARM64, "is not an arm64 Linux kernel");
        expect(KERNEL_X86_64, "is not a Linux kernel");
    }
    put("ARM\x64", 56, 3, 59);
    expect(KERNEL_ARM64, "is not an arm64 Linux kernel");
}

#define T(f) cmocka_unit_test_setup_teardown(f, api_begin, api_end)

int main(void)
{
    const struct CMUnitTest tests[] = { T(kinds_of_kernels), T(short_files) };

    standin_init();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
