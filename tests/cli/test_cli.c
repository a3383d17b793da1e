/* The command's own logic: option parsing, the keys that leave, which device is the console. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "args.h"
#include "input.h"
#include "run_options.h"
#include "said.h"

static void test_sizes(void **state)
{
    static const struct {
        const char *text;
        bool ok;
        uint64_t value;
    } cases[] = {
        { "0", true, 0 },
        { "4096", true, 4096 },
        { "512K", true, 512 << 10 },
        { "512m", true, 512 << 20 },
        { "2G", true, 2ull << 30 },
        { "17179869183G", true, 17179869183ull << 30 },
        { "17179869184G", false, 0 }, /* 2^64 */
        { "18446744073709551616", false, 0 },
        { "", false, 0 },
        { "G", false, 0 },
        { "-1", false, 0 },
        { "1.5G", false, 0 },
        { "2 G", false, 0 },
        { "0x10", false, 0 },
        { "99999999999999999999999999999999", false, 0 },
    };

    (void)state;
    for (size_t i = 0; i < count_of(cases); i++) {
        uint64_t v = 1;
        bool ok = size_parse(cases[i].text, &v);

        if (ok != cases[i].ok || (ok && v != cases[i].value))
            fail_msg("%s", cases[i].text);
    }
}

/* Reads options given as words up to NULL. */
static int read_words(struct run_options *o, const char *const *words)
{
    char *argv[32];
    int argc = 0;

    while (words[argc]) {
        argv[argc] = (char *)(uintptr_t)words[argc];
        argc++;
    }
    said[0] = 0;
    return run_options_read(o, argc, argv);
}

#define WORDS(...) ((const char *const[]){ __VA_ARGS__, NULL })

static void test_options(void **state)
{
    struct run_options o;

    (void)state;
    assert_int_equal(
        read_words(&o, WORDS("--kernel", "vmlinuz", "--cpus=3", "--memory", "768M", "--disk",
                             "a.img,ro,sync=none", "--disk=b.img", "--timeout", "5", "--serial", "none")),
        EXIT_OK);
    assert_string_equal(o.kernel, "vmlinuz");
    assert_int_equal(o.cpus, 3);
    assert_int_equal(o.memory, 768ull << 20);
    assert_int_equal(o.disk_count, 2);
    assert_string_equal(o.disks[0].path, "a.img");
    assert_true(o.disks[0].read_only);
    assert_int_equal(o.disks[0].sync, YADO_SYNC_NONE);
    assert_string_equal(o.disks[1].path, "b.img");
    assert_false(o.disks[1].read_only);
    assert_int_equal(o.timeout, 5);
    assert_string_equal(o.cmdline, "console=hvc0");
    assert_int_equal(o.serial.serial_count, 1);
    run_options_free(&o);
}

static void test_bad_options(void **state)
{
    static const char *const cases[][6] = {
        /* words, then what must be said */
        { "--cpus", "0", NULL, "--cpus: \"0\"" },
        { "--cpus", "65", NULL, "--cpus: \"65\"" },
        { "--cpus", "two", NULL, "--cpus: \"two\"" },
        { "--memory", "1000000", NULL, "--memory: 1000000 is not a multiple of 1 MiB" },
        { "--memory", "0", NULL, "--memory: 0" },
        { "--memory", "8M", NULL, "--memory: 8M is less" },
        { "--memory", "lots", NULL, "--memory: \"lots\"" },
        { "--balloon", "lots", NULL, "--balloon: \"lots\"" },
        { "--balloon", "8M", NULL, "--balloon: 8M is not" },
        { "--balloon", "1000001K", NULL, "--balloon: 1000001K is not" },
        { "--balloon=2G", "--kernel=k", NULL,
          "--balloon: 2048 MiB is more than the guest's memory, 1024 MiB" },
        { "--engine", "warp", NULL, "--engine: there is no engine \"warp\"; it is one of auto, " },
        { "--timeout", "0", NULL, "--timeout: \"0\"" },
        { "--code-cache", "lots", NULL, "--code-cache: \"lots\"" },
        { "--code-cache", "1M", NULL, "--code-cache: 1M is not from 2M to 1024M" },
        { "--code-cache", "2G", NULL, "--code-cache: 2G is not" },
        { "--trace", "cpu,dusk", NULL, "--trace: there is no category \"dusk\"" },
        { "--trace-file=f", "--kernel=k", NULL, "--trace-file: nothing to write" },
        { "--debug-exit=1", NULL, "--debug-exit: takes no value" },
        { "--counters=yes", NULL, "--counters: takes no value" },
        { "--disk", "a,b", NULL, "--disk a: \"b\"" },
        { "--disk", ",ro", NULL, "--disk: the file name is missing" },
        { "--disk", "a,format=qcow2", NULL, "--disk a: \"format=qcow2\"" },
        { "--serial", "tcp:1", NULL, "--serial: \"tcp:1\"" },
        { "--serial", "file:", NULL, "--serial: \"file:\"" },
        { "--kernel", NULL, "--kernel: needs a value" },
        { "--colour=red", NULL, "--colour: there is no such option" },
        { "-x", NULL, "-x: there is no such option" },
        { "--user-data=a", NULL, "nothing to start" },
    };
    struct run_options o;

    (void)state;
    for (size_t i = 0; i < count_of(cases); i++) {
        const char *const *says = cases[i];

        while (*says)
            says++;
        assert_int_equal(read_words(&o, cases[i]), EXIT_USAGE);
        if (!strstr(said, says[1]))
            fail_msg("expected \"%s\", said \"%s\"", says[1], said);
        run_options_free(&o);
    }
    assert_int_equal(read_words(&o, WORDS("--kernel=k", "--meta-data=m")), EXIT_USAGE);
    assert_non_null(strstr(said, "--user-data"));
    run_options_free(&o);
    assert_int_equal(read_words(&o, WORDS("--kernel=k", "--name=n")), EXIT_USAGE);
    assert_non_null(strstr(said, "--name: is the host name in a seed; give --user-data"));
    run_options_free(&o);
    assert_int_equal(read_words(&o, WORDS("--kernel=k", "--name=n", "--user-data=u")), EXIT_OK);
    run_options_free(&o);
    assert_int_equal(read_words(&o, WORDS("--serial=stdio", "--serial=stdio", "--kernel=k")), EXIT_USAGE);
    run_options_free(&o);
    assert_int_equal(read_words(&o, WORDS("/nonexistent/image")), EXIT_FAILED);
    assert_non_null(strstr(said, "/nonexistent/image"));
    run_options_free(&o);
}

static void test_image(void **state)
{
    char dir[] = "/tmp/yado-test-image-XXXXXX", path[64];
    struct run_options o;
    FILE *f;

    (void)state;
    assert_non_null(mkdtemp(dir));
    assert_int_equal(read_words(&o, WORDS(dir, "--disk", "second.img")), EXIT_OK);
    snprintf(path, sizeof(path), "%s/vmlinuz", dir);
    assert_string_equal(o.kernel, path);
    assert_null(o.initrd);
    snprintf(path, sizeof(path), "%s/disk.img", dir);
    assert_string_equal(o.disks[0].path, path);
    assert_string_equal(o.disks[1].path, "second.img");
    assert_string_equal(o.cmdline, "console=hvc0 root=/dev/vda rw");
    run_options_free(&o);
    snprintf(path, sizeof(path), "%s/initrd.img", dir);
    f = fopen(path, "w");
    fclose(f);
    assert_int_equal(read_words(&o, WORDS("--cmdline", "quiet", "--", dir)), EXIT_OK);
    assert_string_equal(o.initrd, path);
    assert_string_equal(o.cmdline, "quiet");
    run_options_free(&o);
    /* a disk file */
    assert_int_equal(read_words(&o, WORDS(path)), EXIT_USAGE);
    run_options_free(&o);
    assert_int_equal(read_words(&o, WORDS(path, "--kernel=k")), EXIT_OK);
    assert_string_equal(o.disks[0].path, path);
    assert_string_equal(o.cmdline, "console=hvc0");
    run_options_free(&o);
    unlink(path);
    rmdir(dir);
}

/* A comma in a file's name is no end of it if there is such a file. */
static void test_disk_with_comma(void **state)
{
    char path[] = "/tmp/yado,test-XXXXXX";
    struct run_options o;
    int fd = mkstemp(path);

    (void)state;
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(read_words(&o, WORDS("--kernel=k", "--disk", path)), EXIT_OK);
    assert_string_equal(o.disks[0].path, path);
    run_options_free(&o);
    unlink(path);
}

static void write_head(const char *path, size_t off, const char *bytes, size_t len)
{
    FILE *f = fopen(path, "w");

    assert_non_null(f);
    assert_int_equal(ftruncate(fileno(f), 4096), 0);
    assert_int_equal(fseek(f, (long)off, SEEK_SET), 0);
    assert_int_equal(fwrite(bytes, 1, len, f), len);
    fclose(f);
}

/* An image of another format is refused with its name, unless it is said to be raw. */
static void test_disk_formats(void **state)
{
    static const struct {
        size_t off;
        const char *bytes, *name;
    } cases[] = {
        { 0, "QFI\xfb", "a qcow2 image" },
        { 0, "KDMV", "a VMDK image" },
        { 0, "# Disk DescriptorFile\n", "a VMDK image" },
        { 0, "conectix", "a VHD image" },
        { 0, "vhdxfile", "a VHDX image" },
        { 0x40, "\x7f\x10\xda\xbe", "a VDI image" },
        { 1, "QFI\xfb", NULL },
    };
    char path[] = "/tmp/yado-test-disk-XXXXXX", raw[64];
    struct run_options o;
    int fd = mkstemp(path);

    (void)state;
    assert_true(fd >= 0);
    close(fd);
    snprintf(raw, sizeof(raw), "%s,ro,format=raw", path);
    for (size_t i = 0; i < count_of(cases); i++) {
        write_head(path, cases[i].off, cases[i].bytes, strlen(cases[i].bytes));
        assert_int_equal(read_words(&o, WORDS("--kernel=k", "--disk", path)),
                         cases[i].name ? EXIT_FAILED : EXIT_OK);
        assert_true(!cases[i].name || (strstr(said, path) && strstr(said, cases[i].name)));
        run_options_free(&o);
        assert_int_equal(read_words(&o, WORDS("--kernel=k", "--disk", raw)), EXIT_OK);
        run_options_free(&o);
    }
    unlink(path);
}

static void test_console(void **state)
{
    (void)state;
    assert_int_equal(run_console_of("quiet"), RUN_CONSOLE_HVC);
    assert_int_equal(run_console_of("console=hvc0"), RUN_CONSOLE_HVC);
    assert_int_equal(run_console_of("console=ttyS0"), RUN_CONSOLE_UART);
    assert_int_equal(run_console_of("console=ttyS0,115200n8 root=/dev/vda"), RUN_CONSOLE_UART);
    assert_int_equal(run_console_of("console=hvc0 console=ttyS0"), RUN_CONSOLE_UART);
    assert_int_equal(run_console_of("console=ttyS0 console=hvc0"), RUN_CONSOLE_HVC);
    assert_int_equal(run_console_of("netconsole=ttyS0"), RUN_CONSOLE_HVC);
    assert_true(run_uses_uart("console=hvc0 earlyprintk=serial,ttyS0"));
    assert_false(run_uses_uart("console=hvc0"));
}

static void expect_keys(struct input *in, const char *typed, size_t len, const char *passed, bool leaves)
{
    uint8_t bytes[64];
    bool leave;
    size_t n;

    memcpy(bytes, typed, len);
    n = input_filter(in, bytes, len, &leave);
    assert_int_equal(leave, leaves);
    assert_int_equal(n, strlen(passed));
    assert_memory_equal(bytes, passed, n);
}

static void test_keys(void **state)
{
    struct input in;

    (void)state;
    input_init(&in, 1);
    expect_keys(&in, "abc\x03\r", 5, "abc\x03\r", false);
    expect_keys(&in,
                "ab\x1d"
                "cd",
                5, "ab", true);
    expect_keys(&in, "\x01x", 2, "", true);
    expect_keys(&in, "\x01\x01x", 3, "\x01x", false);
    expect_keys(&in,
                "\x01"
                "d",
                2,
                "\x01"
                "d",
                false);
    expect_keys(&in, "a\x01", 2, "a", false); /* held back ... */
    expect_keys(&in, "q", 1, "\x01q", false); /* ... until the next key */
    expect_keys(&in, "\x01", 1, "", false);
    expect_keys(&in, "x", 1, "", true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),           cmocka_unit_test(test_options),
        cmocka_unit_test(test_bad_options),     cmocka_unit_test(test_image),
        cmocka_unit_test(test_disk_with_comma), cmocka_unit_test(test_disk_formats),
        cmocka_unit_test(test_console),         cmocka_unit_test(test_keys),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
