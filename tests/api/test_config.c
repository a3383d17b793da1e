/* Configurations: what validation says, and that it names the field. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <yado/yado.h>

#include "../machine/tiny_kernel.h"
#include "overlap.h"

static char kernel[64];

static int kernel_make(void **state)
{
    static const uint8_t code[] = { TINY_HALT };

    (void)state;
    tiny_kernel_write(kernel, code, sizeof(code));
    return 0;
}

static int kernel_remove(void **state)
{
    (void)state;
    return unlink(kernel);
}

static struct yado_config *good(void)
{
    struct yado_config *c = yado_config_new();

    assert_non_null(c);
    yado_config_set_memory_size(c, 64 << 20);
    yado_config_set_boot_loader(c, yado_linux_boot_loader_new(kernel, NULL, NULL));
    return c;
}

/* Frees c. */
static void expect(struct yado_config *c, enum yado_error_code code, const char *starts, const char *has)
{
    struct yado_error err = YADO_ERROR_INIT;
    bool ok = yado_config_validate(c, &err);

    yado_config_free(c);
    if (err.code != code)
        fail_msg("code %d: %s", err.code, err.message);
    assert_true(ok == (code == YADO_OK));
    if (strncmp(err.message, starts, strlen(starts)) || !strstr(err.message, has))
        fail_msg("message is: %s", err.message);
    assert_null(strchr(err.message, '\n'));
}

static void test_good(void **state)
{
    struct yado_config *c = good();

    (void)state;
    yado_config_add_entropy(c, yado_virtio_entropy_new());
    yado_config_add_serial_port(c, yado_virtio_console_port_new(yado_fd_serial_new(-1, STDOUT_FILENO)));
    if (!on_apple()) /* its machines have no UART */
        yado_config_add_serial_port(c, yado_uart_port_new(yado_fd_serial_new(-1, -1)));
    expect(c, YADO_OK, "", "");
}

static void test_numbers(void **state)
{
    static const struct {
        unsigned cpus;
        uint64_t memory;
        enum yado_error_code code;
        const char *starts;
    } cases[] = {
        { 0, 64 << 20, YADO_ERR_INVALID_CONFIG, "cpu_count: 0" },
        { 65, 64 << 20, YADO_ERR_INVALID_CONFIG, "cpu_count: 65" },
        { 64, 64 << 20, YADO_OK, "" },
        { 1, (64 << 20) + 4096, YADO_ERR_INVALID_CONFIG, "memory_size: " },
        { 1, 0, YADO_ERR_INVALID_CONFIG, "memory_size: 0 MiB" },
        { 1, 300ull << 30, YADO_ERR_MEMORY, "memory_size: 307200 MiB" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct yado_config *c = good();

        yado_config_set_cpu_count(c, cases[i].cpus);
        yado_config_set_memory_size(c, cases[i].memory);
        expect(c, cases[i].code, cases[i].starts, "");
    }
}

/* What the limits say is what validation lets pass, to the number. */
static void test_limits(void **state)
{
    unsigned cpus[] = { yado_config_minimum_allowed_cpu_count(), yado_config_maximum_allowed_cpu_count() };
    uint64_t memory[] = { yado_config_minimum_allowed_memory_size(),
                          yado_config_maximum_allowed_memory_size() };

    (void)state;
    assert_in_range(cpus[0], YADO_CPU_COUNT_MIN, cpus[1]);
    assert_in_range(cpus[1], cpus[0], YADO_CPU_COUNT_MAX);
    assert_in_range(memory[0], YADO_MEMORY_SIZE_MIN, memory[1]);
    assert_in_range(memory[1], memory[0], YADO_MEMORY_SIZE_MAX);
    for (int i = 0; i < 2; i++) {
        struct yado_config *c = good();

        assert_int_equal(memory[i] % YADO_MEMORY_SIZE_STEP, 0);
        yado_config_set_cpu_count(c, cpus[i]);
        yado_config_set_memory_size(c, memory[i]);
        expect(c, YADO_OK, "", "");
        c = good();
        yado_config_set_cpu_count(c, i ? cpus[i] + 1 : cpus[i] - 1);
        expect(c, YADO_ERR_INVALID_CONFIG, "cpu_count: ", "not from");
        c = good();
        yado_config_set_memory_size(c, i ? memory[i] + YADO_MEMORY_SIZE_STEP
                                         : memory[i] - YADO_MEMORY_SIZE_STEP);
        expect(c, i ? YADO_ERR_MEMORY : YADO_ERR_INVALID_CONFIG, "memory_size: ", "MiB");
    }
}

/* An object that could not be made is named by its field. */
static void test_missing_parts(void **state)
{
    struct yado_config *c = good();

    (void)state;
    yado_config_add_storage(c, yado_virtio_block_new(NULL));
    yado_config_add_network(c, yado_virtio_net_new(NULL)); /* the first is told */
    expect(c, YADO_ERR_HOST, "storage[0]: ", "NULL");
    c = good();
    yado_config_add_network(c, yado_virtio_net_new(yado_nat_new()));
    yado_config_add_network(c, yado_virtio_net_new(NULL));
    expect(c, YADO_ERR_HOST, "network[1]: ", "NULL");
    c = good();
    yado_config_add_serial_port(c, yado_virtio_console_port_new(NULL));
    expect(c, YADO_ERR_HOST, "serial_ports[0]: ", "NULL");
    c = good();
    yado_config_add_share(c, yado_virtio_fs_new("tag", NULL));
    expect(c, YADO_ERR_HOST, "shares[0]: ", "NULL");
    c = good();
    yado_config_add_entropy(c, NULL);
    expect(c, YADO_ERR_HOST, "entropy[0]: ", "NULL");
    c = good();
    yado_config_add_balloon(c, NULL);
    expect(c, YADO_ERR_HOST, "balloons[0]: ", "NULL");
    c = good();
    yado_config_add_socket(c, NULL);
    expect(c, YADO_ERR_HOST, "sockets[0]: ", "NULL");
    c = good();
    yado_config_set_platform(c, NULL);
    expect(c, YADO_ERR_HOST, "platform: ", "NULL");
    expect(NULL, YADO_ERR_HOST, "configuration: ", "none");
}

static void test_boot_loader(void **state)
{
    struct yado_config *c = yado_config_new();
    static char line[YADO_COMMAND_LINE_MAX + 2];

    (void)state;
    expect(c, YADO_ERR_INVALID_CONFIG, "boot_loader: ", "kernel");
    c = good();
    yado_config_set_boot_loader(c, yado_linux_boot_loader_new("/nonexistent/vmlinuz", NULL, NULL));
    expect(c, YADO_ERR_FILE, "boot_loader: /nonexistent/vmlinuz: ", "No such file");
    c = good();
    yado_config_set_boot_loader(c, yado_linux_boot_loader_new(kernel, "/nonexistent/initrd", NULL));
    expect(c, YADO_ERR_FILE, "boot_loader: /nonexistent/initrd: ", "No such file");
    c = good();
    yado_config_set_boot_loader(c, yado_linux_boot_loader_new("/tmp", NULL, NULL));
    expect(c, YADO_ERR_FILE, "boot_loader: /tmp: ", "directory");
    c = good();
    yado_config_set_boot_loader(c, yado_linux_boot_loader_new("/proc/self/exe", NULL, NULL));
    expect(c, YADO_ERR_IMAGE, "boot_loader: /proc/self/exe: ", "");
    c = good();
    memset(line, 'x', sizeof(line) - 1);
    yado_config_set_boot_loader(c, yado_linux_boot_loader_new(kernel, NULL, line));
    expect(c, YADO_ERR_INVALID_CONFIG, "boot_loader: the command line", "4096");
    c = good();
    yado_config_set_boot_loader(c, NULL);
    expect(c, YADO_ERR_HOST, "boot_loader: ", "out of memory");
}

static void disk_file(char path[64], off_t size)
{
    int fd;

    strcpy(path, "/tmp/yado-test-disk-XXXXXX");
    fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, size), 0);
    close(fd);
}

static struct yado_config *with_disk(const char *path, unsigned flags)
{
    struct yado_config *c = good();

    yado_config_add_storage(c, yado_virtio_block_new(yado_disk_image_new(path, YADO_DISK_RAW, flags)));
    return c;
}

static void test_storage(void **state)
{
    struct yado_config *c;
    struct yado_storage *s;
    char path[64];

    (void)state;
    expect(with_disk("/nonexistent/disk", 0), YADO_ERR_FILE,
           "storage[0]: /nonexistent/disk: ", "No such file");
    expect(with_disk("/tmp", 0), YADO_ERR_FILE, "storage[0]: /tmp: ", "directory");
    expect(with_disk("/tmp", YADO_DISK_READ_ONLY), YADO_ERR_FILE, "storage[0]: /tmp: ", "directory");
    expect(with_disk("/dev/null", 0), YADO_ERR_FILE, "storage[0]: /dev/null: ", "");
    expect(with_disk("", 0), YADO_ERR_INVALID_CONFIG, "storage[0]: ", "empty");
    disk_file(path, 0);
    c = with_disk(path, 0);
    expect(c, YADO_ERR_FILE, "storage[0]: /tmp/yado-test-disk-", "empty");
    unlink(path);
    disk_file(path, 1000);
    expect(with_disk(path, 0), YADO_ERR_FILE, "storage[0]: /tmp/yado-test-disk-", "512");
    unlink(path);
    disk_file(path, 1 << 20);
    expect(with_disk(path, 0), YADO_OK, "", "");
    s = yado_virtio_block_new(yado_disk_image_new(path, YADO_DISK_RAW, 0));
    yado_storage_set_identifier(s, "123456789012345678901");
    c = good();
    yado_config_add_storage(c, s);
    expect(c, YADO_ERR_INVALID_CONFIG, "storage[0]: identifier", "20 bytes");
    unlink(path);
    /* the second disk is named by its place */
    c = with_disk("/nonexistent/a", 0);
    disk_file(path, 1 << 20);
    yado_config_free(c);
    c = with_disk(path, 0);
    yado_config_add_storage(c,
                            yado_virtio_block_new(yado_disk_image_new("/nonexistent/b", YADO_DISK_RAW, 0)));
    expect(c, YADO_ERR_FILE, "storage[1]: /nonexistent/b: ", "");
    unlink(path);
}

static void test_devices(void **state)
{
    struct yado_config *c = good();

    (void)state;
    for (unsigned i = 0; i <= YADO_DEVICE_COUNT_MAX; i++)
        yado_config_add_entropy(c, yado_virtio_entropy_new());
    expect(c, YADO_ERR_INVALID_CONFIG, "devices: 25", "24");
    c = good();
    yado_config_add_serial_port(c, yado_uart_port_new(yado_fd_serial_new(-1, -1)));
    yado_config_add_serial_port(c, yado_uart_port_new(yado_fd_serial_new(-1, -1)));
    expect(c, YADO_ERR_INVALID_CONFIG, "serial_ports[1]: ", "UART");
    c = good();
    yado_config_add_balloon(c, yado_virtio_balloon_new());
    yado_config_add_balloon(c, yado_virtio_balloon_new());
    expect(c, YADO_ERR_INVALID_CONFIG, "balloons[1]: ", "one memory balloon");
    c = good();
    yado_config_add_serial_port(c, yado_virtio_console_port_new(yado_fd_serial_new(12345, -1)));
    expect(c, YADO_ERR_HOST, "serial_ports[0]: ", "bad descriptor");
}

/* Objects that never reached a configuration are the caller's. */
static void test_orphans(void **state)
{
    (void)state;
    yado_boot_loader_free(yado_linux_boot_loader_new("a", "b", "c"));
    yado_disk_free(yado_disk_fd_new(STDIN_FILENO, "x", YADO_DISK_RAW, 0));
    yado_storage_free(yado_virtio_block_new(yado_disk_image_new("x", YADO_DISK_RAW, 0)));
    yado_serial_free(yado_fd_serial_new(0, 1));
    yado_serial_port_free(yado_uart_port_new(yado_fd_serial_new(0, 1)));
    yado_entropy_free(yado_virtio_entropy_new());
    yado_balloon_free(yado_virtio_balloon_new());
    yado_config_free(NULL);
    assert_null(yado_disk_fd_new(-1, "x", YADO_DISK_RAW, 0));
}

static void test_engines(void **state)
{
    enum yado_engine e = YADO_ENGINE_TRANSLATOR;
    struct yado_error err = YADO_ERROR_INIT;

    (void)state;
    assert_true(yado_engine_from_name("auto", &e));
    assert_int_equal(e, YADO_ENGINE_AUTO);
    assert_true(yado_engine_from_name("translator", &e));
    assert_int_equal(e, YADO_ENGINE_TRANSLATOR);
    assert_false(yado_engine_from_name("qemu", &e));
    assert_false(yado_engine_usable((enum yado_engine)99, &err));
    assert_int_equal(err.code, YADO_ERR_UNSUPPORTED);
    for (unsigned i = 0; i < yado_engine_count(); i++)
        assert_int_not_equal(yado_engine_at(i), YADO_ENGINE_AUTO);
}

static void test_seed(void **state)
{
    struct yado_seed *s = yado_seed_new();
    struct yado_error err = YADO_ERROR_INIT;
    char path[64], label[7] = { 0 }, *big;
    struct yado_disk *d;
    struct stat st;
    FILE *f;

    (void)state;
    assert_null(yado_seed_disk_new(s, &err)); /* no user-data */
    assert_non_null(strstr(err.message, "user-data"));
    err = (struct yado_error)YADO_ERROR_INIT;
    big = malloc(YADO_SEED_PART_MAX + 1);
    assert_false(yado_seed_set(s, YADO_SEED_USER_DATA, big, YADO_SEED_PART_MAX + 1, &err));
    assert_int_equal(err.code, YADO_ERR_INVALID_CONFIG);
    free(big);
    assert_true(yado_seed_set(s, YADO_SEED_USER_DATA, "#cloud-config\n", 14, NULL));
    assert_false(yado_seed_set_host_name(s, "-x", NULL));
    assert_false(yado_seed_set_host_name(s, "a..b", NULL));
    assert_false(yado_seed_set_host_name(s, "", NULL));
    assert_true(yado_seed_set_host_name(s, "my-host.example", NULL));
    assert_false(yado_seed_set_file(s, YADO_SEED_META_DATA, "/nonexistent/x", NULL));
    strcpy(path, "/tmp/yado-test-seed-XXXXXX");
    close(mkstemp(path));
    assert_true(yado_seed_write(s, path, NULL)); /* replaces */
    f = fopen(path, "r");
    assert_int_equal(fseek(f, 0x8028, SEEK_SET), 0); /* ECMA-119, 8.4.7: volume identifier */
    assert_int_equal(fread(label, 1, 6, f), 6);
    assert_string_equal(label, "cidata");
    fclose(f);
    unlink(path);
    assert_false(yado_seed_write(s, "/nonexistent/dir/seed.img", NULL));
    assert_false(yado_seed_write(s, "/tmp", NULL));
    assert_int_equal(stat(path, &st), -1);
    d = yado_seed_disk_new(s, NULL);
    assert_non_null(d);
    yado_disk_free(d);
    yado_seed_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_boot_loader), cmocka_unit_test(test_storage),
        cmocka_unit_test(test_devices),     cmocka_unit_test(test_orphans),
        cmocka_unit_test(test_engines),     cmocka_unit_test(test_seed),
        cmocka_unit_test(test_limits),      cmocka_unit_test(test_missing_parts),
    };

    return cmocka_run_group_tests(tests, kernel_make, kernel_remove);
}
