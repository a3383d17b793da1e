/* The engine "apple" through the public API, on the macOS that is played: life of a machine, what the
 * framework refuses and reports, what came with which version. */
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "api.h"
#include "util/base.h"

#define VZ "VZErrorDomain"

/* ---- life ---- */

static void a_machine_lives(void **state)
{
    struct heard h;
    struct yado_machine *m = api_machine(api_config(), &h);

    (void)state;
    assert_int_equal(standin_machine_count(), 0); /* made by start */
    api_do(m, &h, yado_machine_start);
    assert_string_equal(h.last.message, "");
    assert_int_equal(standin_machine_state(0), YADO_STATE_RUNNING);
    assert_int_equal(yado_machine_state(m), YADO_STATE_RUNNING);
    api_do(m, &h, yado_machine_pause);
    assert_int_equal(standin_machine_state(0), YADO_STATE_PAUSED);
    api_do(m, &h, yado_machine_resume);
    assert_int_equal(standin_machine_state(0), YADO_STATE_RUNNING);
    assert_true(yado_machine_request_stop(m, NULL));
    assert_int_equal(standin_count("requestStopWithError:"), 1);
    api_do(m, &h, yado_machine_stop);
    assert_string_equal(h.text,
                        "stopped>starting;starting>running;done;running>pausing;pausing>paused;done;"
                        "paused>resuming;resuming>running;done;running>stopping;stopping>stopped;done;");
    assert_int_equal(yado_machine_stop_reason(m), YADO_STOP_HOST);
    assert_int_equal(standin_machine_count(), 0);
    assert_int_equal(standin_count("stopWithCompletionHandler:"), api_plays(12, 0) ? 1 : 0);
    api_do(m, &h, yado_machine_start); /* and again, and gone while it runs */
    assert_int_equal(standin_machine_count(), 1);
    yado_machine_free(m);
}

/* The framework's machine may live on when ours is gone; nobody is told then. */
static void nothing_is_heard_after_the_end(void **state)
{
    struct heard h;
    struct yado_machine *m = api_machine(api_config(), &h);

    (void)state;
    api_do(m, &h, yado_machine_start);
    standin_machine_keep(0);
    api_do(m, &h, yado_machine_stop);
    h.text[0] = '\0';
    assert_false(standin_kept_machine_stops());
    assert_int_equal(yado_machine_state(m), YADO_STATE_STOPPED);
    assert_string_equal(h.text, "");
    yado_machine_free(m);
}

static void two_machines(void **state)
{
    struct heard h[2];
    struct yado_machine *m[2];

    (void)state;
    for (int i = 0; i < 2; i++) {
        m[i] = api_machine(api_config(), &h[i]);
        api_do(m[i], &h[i], yado_machine_start);
    }
    standin_guest_stops(0);
    api_hear(m[0], &h[0], "guest stopped: power off;");
    assert_int_equal(yado_machine_state(m[1]), YADO_STATE_RUNNING);
    assert_int_equal(yado_machine_state(m[0]), YADO_STATE_STOPPED);
    yado_machine_free(m[0]);
    yado_machine_free(m[1]);
}

static void the_guest_powers_off(void **state)
{
    struct heard h;
    struct yado_machine *m = api_machine(api_config(), &h);

    (void)state;
    api_do(m, &h, yado_machine_start);
    standin_guest_stops(0);
    assert_true(yado_machine_wait(m, 10000));
    assert_int_equal(yado_machine_state(m), YADO_STATE_STOPPED);
    assert_int_equal(yado_machine_stop_reason(m), YADO_STOP_POWER_OFF);
    assert_non_null(strstr(h.text, "running>stopped;guest stopped: power off;"));
    api_do(m, &h, yado_machine_start);
    assert_int_equal(yado_machine_state(m), YADO_STATE_RUNNING);
    yado_machine_free(m);
}

static void the_framework_gives_up(void **state)
{
    struct heard h;
    struct yado_machine *m = api_machine(api_config(), &h);

    (void)state;
    api_do(m, &h, yado_machine_start);
    standin_machine_fails(0, VZ, 1, "The virtual machine stopped unexpectedly.");
    api_hear(m, &h, "stopped: failure;");
    assert_int_equal(yado_machine_state(m), YADO_STATE_ERROR);
    assert_int_equal(h.last.code, YADO_ERR_ENGINE);
    assert_non_null(strstr(h.last.message, "stopped unexpectedly (VZErrorDomain 1)"));
    api_do(m, &h, yado_machine_start);
    assert_int_equal(yado_machine_state(m), YADO_STATE_RUNNING);
    yado_machine_free(m);
}

/* ---- errors of the framework, each number ---- */

static const struct {
    const char *domain;
    long code;
    enum yado_error_code ours;
    const char *hint;
} errors[] = {
    { VZ, 1, YADO_ERR_ENGINE, "" },
    { VZ, 2, YADO_ERR_INVALID_CONFIG, "" },
    { VZ, 3, YADO_ERR_STATE, "" },
    { VZ, 4, YADO_ERR_STATE, "" },
    { VZ, 5, YADO_ERR_IMAGE, "raw image" },
    { VZ, 6, YADO_ERR_IN_USE, "stop another machine" },
    { VZ, 7, YADO_ERR_HOST, "" },
    { VZ, 8, YADO_ERR_FILE, "make room" },
    { VZ, 9, YADO_ERR_STATE, "" },
    { VZ, 10, YADO_ERR_UNSUPPORTED, "" },
    { VZ, 11, YADO_ERR_FILE, "" },
    { VZ, 12, YADO_ERR_FILE, "from this Mac" },
    { VZ, 20001, YADO_ERR_HOST, "NBD" },
    { VZ, 20002, YADO_ERR_HOST, "" },
    { VZ, 30001, YADO_ERR_STATE, "" },
    { VZ, 30002, YADO_ERR_STATE, "" },
    { VZ, 30003, YADO_ERR_HOST, "" },
    { VZ, 30004, YADO_ERR_STATE, "" },
    { VZ, 99999, YADO_ERR_ENGINE, "" },
    { "NSPOSIXErrorDomain", 2, YADO_ERR_FILE, "" },
    { "NSPOSIXErrorDomain", 12, YADO_ERR_MEMORY, "" },
    { "NSPOSIXErrorDomain", 16, YADO_ERR_IN_USE, "" },
    { "NSCocoaErrorDomain", 260, YADO_ERR_FILE, "" },
    { "AnotherDomain", 7, YADO_ERR_HOST, "" },
};

static void a_start_fails(void **state)
{
    struct heard h;
    struct yado_machine *m = api_machine(api_config(), &h);
    char number[64];

    (void)state;
    for (size_t i = 0; i < array_size(errors); i++) {
        standin_fail_next("startWithCompletionHandler:", errors[i].domain, errors[i].code, "It went wrong.",
                          "For a reason.");
        api_do(m, &h, yado_machine_start);
        if (h.last.code != errors[i].ours)
            fail_msg("%s %ld: code %d: %s", errors[i].domain, errors[i].code, h.last.code, h.last.message);
        snprintf(number, sizeof(number), "(%s %ld)", errors[i].domain, errors[i].code);
        assert_non_null(strstr(h.last.message, "It went wrong: For a reason"));
        assert_non_null(strstr(h.last.message, number));
        assert_non_null(strstr(h.last.message, errors[i].hint));
        assert_null(strchr(h.last.message, '\n'));
        assert_int_equal(yado_machine_state(m), YADO_STATE_ERROR);
        assert_int_equal(standin_machine_count(), 0);
    }
    api_do(m, &h, yado_machine_start);
    assert_int_equal(yado_machine_state(m), YADO_STATE_RUNNING);
    yado_machine_free(m);
}

static void other_verbs_fail(void **state)
{
    struct heard h;
    struct yado_machine *m = api_machine(api_config(), &h);
    struct yado_error err = YADO_ERROR_INIT;

    (void)state;
    api_do(m, &h, yado_machine_start);
    standin_fail_next("pauseWithCompletionHandler:", VZ, 1, "Cannot pause.", NULL);
    api_do(m, &h, yado_machine_pause);
    assert_int_equal(h.last.code, YADO_ERR_ENGINE);
    assert_non_null(strstr(h.last.message, "pause: Cannot pause"));
    assert_int_equal(yado_machine_state(m), YADO_STATE_RUNNING);
    standin_fail_next("requestStopWithError:", VZ, 1, "No button.", NULL);
    assert_false(yado_machine_request_stop(m, &err));
    assert_non_null(strstr(err.message, "No button"));
    api_do(m, &h, yado_machine_pause);
    standin_fail_next("resumeWithCompletionHandler:", VZ, 1, "Cannot resume.", NULL);
    api_do(m, &h, yado_machine_resume);
    assert_non_null(strstr(h.last.message, "Cannot resume"));
    assert_int_equal(yado_machine_state(m), YADO_STATE_PAUSED);
    api_do(m, &h, yado_machine_resume);
    assert_int_equal(h.last.code, YADO_OK);
    if (api_plays(12, 0))
        standin_fail_next("stopWithCompletionHandler:", VZ, 4, "Too late.", NULL);
    api_do(m, &h, yado_machine_stop); /* ends it anyway */
    assert_int_equal(yado_machine_state(m), YADO_STATE_STOPPED);
    assert_int_equal(standin_machine_count(), 0);
    yado_machine_free(m);
}

static void the_framework_finds_it_invalid(void **state)
{
    (void)state;
    standin_fail_next("validateWithError:", VZ, 2, "Invalid virtual machine configuration.",
                      "The storage device is odd.");
    api_invalid(api_config(), YADO_ERR_INVALID_CONFIG, "configuration: Invalid virtual machine configuration",
                "The storage device is odd", NULL);
    api_valid(api_config());
}

/* ---- the cause is known before the framework is asked ---- */

/* The numbers that this Mac allows, each by its field. */
static void limits(void **state)
{
    struct yado_config *c = api_config();

    (void)state;
    standin_world.cpus_min = 2;
    standin_world.cpus_max = 4;
    yado_config_set_cpu_count(c, 5);
    api_invalid(c, YADO_ERR_INVALID_CONFIG, "cpu_count: 5", "2 to 4", NULL);
    c = api_config();
    yado_config_set_cpu_count(c, 1);
    api_invalid(c, YADO_ERR_INVALID_CONFIG, "cpu_count: 1", "2 to 4", NULL);
    c = api_config();
    yado_config_set_cpu_count(c, 4);
    api_valid(c);
    assert_int_equal(yado_config_minimum_allowed_cpu_count(), 2);
    assert_int_equal(yado_config_maximum_allowed_cpu_count(), 4);
    assert_int_equal(standin_count("minimumAllowedCPUCount"), standin_count("maximumAllowedCPUCount"));
    standin_world.cpus_min = 1;
    standin_world.memory_min = 128ull << 20;
    standin_world.memory_max = 512ull << 20;
    api_invalid(api_config(), YADO_ERR_INVALID_CONFIG, "memory_size: 64 MiB", "128 to 512 MiB", NULL);
    c = api_config();
    yado_config_set_memory_size(c, 513ull << 20);
    api_invalid(c, YADO_ERR_MEMORY, "memory_size: 513 MiB", "128 to 512 MiB", NULL);
    c = api_config();
    yado_config_set_memory_size(c, 512ull << 20);
    api_valid(c);
    assert_int_equal(yado_config_minimum_allowed_memory_size(), 128ull << 20);
    assert_int_equal(yado_config_maximum_allowed_memory_size(), 512ull << 20);
    /* a framework that allows more than this library: the library's own range, in whole MiB */
    standin_world.cpus_max = 1000;
    standin_world.memory_min = (1ull << 20) + 1;
    standin_world.memory_max = 1ull << 40;
    assert_int_equal(yado_config_maximum_allowed_cpu_count(), YADO_CPU_COUNT_MAX);
    assert_int_equal(yado_config_minimum_allowed_memory_size(), YADO_MEMORY_SIZE_MIN);
    assert_int_equal(yado_config_maximum_allowed_memory_size(), YADO_MEMORY_SIZE_MAX);
}

static void unusable_hosts(void **state)
{
    struct yado_error err = YADO_ERROR_INIT;

    (void)state;
    assert_true(yado_engine_usable(YADO_ENGINE_APPLE, &err));
    assert_int_equal(yado_engine_count(), 1);
    assert_int_equal(yado_engine_choose(&err), YADO_ENGINE_APPLE);
    assert_false(yado_engine_usable(YADO_ENGINE_KVM, NULL));
    standin_world.virtualization = ENTITLEMENT_FALSE; /* it is there, and says no */
    assert_false(yado_engine_usable(YADO_ENGINE_APPLE, NULL));
    standin_world.virtualization = ENTITLEMENT_ABSENT;
    assert_false(yado_engine_usable(YADO_ENGINE_APPLE, &err));
    assert_non_null(strstr(err.message, "com.apple.security.virtualization"));
    assert_non_null(strstr(err.message, "codesign"));
    api_invalid(api_config(), YADO_ERR_UNSUPPORTED, "com.apple.security.virtualization", NULL);
    standin_world.virtualization = ENTITLEMENT_TRUE;
    standin_world.is_supported = false;
    api_invalid(api_config(), YADO_ERR_UNSUPPORTED, "this Mac cannot run virtual machines", NULL);
    assert_int_equal(standin_count("validateWithError:"), 0);
}

static struct yado_config *with_kernel(const char *path, const char *initrd)
{
    struct yado_config *c = api_config();

    yado_config_set_boot_loader(c, yado_linux_boot_loader_new(path, initrd, NULL));
    return c;
}

static void fifo_make(char path[80])
{
    snprintf(path, 80, "%s.fifo", api_kernel);
    assert_int_equal(mkfifo(path, 0600), 0);
}

static void kernels(void **state)
{
    FILE *f = fopen(api_kernel, "r+");
    char fifo[80];

    (void)state;
    fifo_make(fifo);
    assert_int_equal(fwrite("\177ELF", 1, 4, f), 4);
    fclose(f);
    api_valid(api_config());
    api_invalid(with_kernel(api_disk, NULL), YADO_ERR_IMAGE, "boot_loader: ", "not a Linux kernel", NULL);
    api_invalid(with_kernel("/nonexistent", NULL), YADO_ERR_FILE, "boot_loader: /nonexistent", NULL);
    api_invalid(with_kernel(api_kernel, "/nonexistent"), YADO_ERR_FILE, "boot_loader: /nonexistent", NULL);
    api_invalid(with_kernel("/tmp", NULL), YADO_ERR_FILE, "boot_loader: /tmp", "directory", NULL);
    api_invalid(with_kernel(api_kernel, "/tmp"), YADO_ERR_FILE, "boot_loader: /tmp: is a directory", NULL);
    api_invalid(with_kernel(fifo, NULL), YADO_ERR_FILE, fifo, "is not a regular file", NULL);
    api_invalid(with_kernel(api_kernel, fifo), YADO_ERR_FILE, fifo, "is not a regular file", NULL);
    unlink(fifo);
    assert_int_equal(standin_count("initWithKernelURL:"), 1);
}

/* ---- storage ---- */

static struct yado_config *with_storage(struct yado_storage *s)
{
    struct yado_config *c = api_config();

    yado_config_add_storage(c, s);
    return c;
}

static struct yado_disk *image(unsigned flags)
{
    return yado_disk_image_new(api_disk, YADO_DISK_RAW, flags);
}

static void storage_by_version(void **state)
{
    struct yado_disk *d = image(0);
    struct yado_storage *s;

    (void)state;
    api_valid(with_storage(yado_virtio_block_new(image(0))));
    yado_disk_set_sync(d, YADO_SYNC_FSYNC);
    api_needs(with_storage(yado_virtio_block_new(d)), 12, 0, false, "storage[0]");
    d = image(0);
    yado_disk_set_cache(d, YADO_CACHE_UNCACHED);
    api_needs(with_storage(yado_virtio_block_new(d)), 12, 0, false, "storage[0]");
    s = yado_virtio_block_new(image(0));
    yado_storage_set_identifier(s, "root");
    api_needs(with_storage(s), 12, 3, false, "storage[0]");
    api_needs(with_storage(yado_nvme_new(image(0))), 14, 0, false, "storage[0]");
    api_needs(with_storage(yado_usb_storage_new(image(YADO_DISK_READ_ONLY))), 13, 0, false, "storage[0]");
    api_needs(with_storage(yado_virtio_block_new(yado_nbd_new("nbd://localhost/x", 0))), 14, 0, false,
              "storage[0]");
}

static struct yado_config *with_nbd(void)
{
    return with_storage(yado_virtio_block_new(yado_nbd_new("nbd://localhost/x", 0)));
}

static void nbd_is_entitled(void **state)
{
    (void)state;
    if (!api_plays(14, 0))
        skip();
    api_valid(with_nbd());
    standin_world.network_client = ENTITLEMENT_FALSE;
    api_invalid(with_nbd(), YADO_ERR_UNSUPPORTED, "storage[0]: nbd://localhost/x",
                "com.apple.security.network.client", NULL);
    standin_world.network_client = ENTITLEMENT_ABSENT;
    api_invalid(with_nbd(), YADO_ERR_UNSUPPORTED, "com.apple.security.network.client", NULL);
    assert_int_equal(standin_count("initWithURL:timeout:forcedReadOnly:synchronizationMode:error:"), 1);
}

static void storage_is_refused(void **state)
{
    int fd = open(api_disk, O_RDWR | O_CLOEXEC);
    char fifo[80];

    (void)state;
    assert_int_equal(pwrite(fd, "QFI\xfb", 4, 0), 4);
    api_invalid(with_storage(yado_virtio_block_new(image(0))), YADO_ERR_IMAGE, "storage[0]", "qcow2", NULL);
    assert_int_equal(ftruncate(fd, 0), 0);
    assert_int_equal(ftruncate(fd, 1000), 0);
    api_invalid(with_storage(yado_virtio_block_new(image(0))), YADO_ERR_FILE, "storage[0]", "512", NULL);
    assert_int_equal(ftruncate(fd, 4096), 0);
    close(fd);
    standin_fail_next(api_plays(12, 0) ? "initWithURL:readOnly:cachingMode:synchronizationMode:error:"
                                       : "initWithURL:readOnly:error:",
                      VZ, 5, "Invalid disk image.", "It is odd.");
    api_invalid(with_storage(yado_virtio_block_new(image(0))), YADO_ERR_IMAGE, "storage[0]", "It is odd",
                NULL);
    api_invalid(with_storage(yado_virtio_block_new(yado_disk_image_new("/nonexistent", YADO_DISK_RAW, 0))),
                YADO_ERR_FILE, "storage[0]: /nonexistent", NULL);
    if (!api_plays(14, 0))
        return;
    api_invalid(with_storage(yado_virtio_block_new(yado_nbd_new("http://x/y", 0))), YADO_ERR_INVALID_CONFIG,
                "storage[0]", "http://x/y", NULL);
    api_invalid(with_storage(yado_virtio_block_new(yado_nbd_new("not an address", 0))),
                YADO_ERR_INVALID_CONFIG, "storage[0]", NULL);
    api_invalid(with_storage(yado_virtio_block_new(yado_block_device_new("/dev/null", 0))), YADO_ERR_FILE,
                "storage[0]: /dev/null", NULL);
    fifo_make(fifo);
    api_invalid(with_storage(yado_virtio_block_new(yado_block_device_new(fifo, YADO_DISK_READ_ONLY))),
                YADO_ERR_FILE, "storage[0]: ", "is not a block device", NULL);
    unlink(fifo);
}

/* Linux allows any bytes in a name. Foundation makes no string of these, and ends a program that passes none.
 */
static void names_that_are_no_text(void **state)
{
    struct yado_error err = YADO_ERROR_INIT;
    struct yado_config *c;
    char path[96], dir[96];
    FILE *f;

    (void)state;
    snprintf(path, sizeof(path), "%s\xff", api_kernel);
    snprintf(dir, sizeof(dir), "%s\xfe", api_kernel);
    assert_int_equal(link(api_kernel, path), 0);
    assert_int_equal(mkdir(dir, 0700), 0);
    api_invalid(with_kernel(path, NULL), YADO_ERR_FILE, "boot_loader: ", "not UTF-8", NULL);
    api_invalid(with_kernel(api_kernel, path), YADO_ERR_FILE, "boot_loader: ", "not UTF-8", NULL);
    f = fopen(path, "r+");
    assert_int_equal(ftruncate(fileno(f), 4096), 0);
    fclose(f);
    api_invalid(with_storage(yado_virtio_block_new(yado_disk_image_new(path, YADO_DISK_RAW, 0))),
                YADO_ERR_FILE, "storage[0]: ", "not UTF-8", NULL);
    c = api_config();
    yado_config_add_serial_port(c, yado_virtio_console_port_new(yado_file_serial_new(path, true)));
    api_invalid(c, YADO_ERR_FILE, "serial_ports[0].attachment: ", "not UTF-8", NULL);
    c = api_config();
    yado_config_set_boot_loader(c, yado_linux_boot_loader_new(api_kernel, NULL, "quiet \xff"));
    api_invalid(c, YADO_ERR_INVALID_CONFIG, "boot_loader: the command line is not UTF-8", NULL);
    if (api_plays(12, 0)) {
        c = api_config();
        yado_config_add_share(
            c, yado_virtio_fs_new("tag", yado_single_share_new(yado_shared_directory_new(dir, 0))));
        api_invalid(c, YADO_ERR_FILE, "shares[0]: ", "not UTF-8", NULL);
        c = api_config();
        yado_config_add_share(
            c, yado_virtio_fs_new("t\xff", yado_single_share_new(yado_shared_directory_new("/tmp", 0))));
        api_invalid(c, YADO_ERR_INVALID_CONFIG, "shares[0].tag: it is not UTF-8", NULL);
    }
    if (api_plays(13, 0)) {
        assert_false(yado_efi_variable_store_create(path, true, &err));
        assert_non_null(strstr(err.message, "not UTF-8"));
        c = api_config();
        yado_config_set_boot_loader(c, yado_efi_boot_loader_new(path));
        api_invalid(c, YADO_ERR_FILE, "boot_loader: ", "not UTF-8", NULL);
    }
    unlink(path);
    rmdir(dir);
}

/* ---- networks ---- */

static struct yado_config *with_network(struct yado_network_attachment *a)
{
    struct yado_config *c = api_config();

    yado_config_add_network(c, yado_virtio_net_new(a));
    return c;
}

static void networks(void **state)
{
    struct yado_network_attachment *a = yado_nat_new();
    struct yado_forward f = { .host_port = 8080, .guest_port = 80 };
    int fds[2], stream[2];

    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM, 0, fds), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, stream), 0);
    api_valid(with_network(yado_nat_new()));
    yado_nat_add_forward(a, &f);
    api_invalid(with_network(a), YADO_ERR_UNSUPPORTED, "network[0]", "forward", NULL);
    api_valid(with_network(yado_fd_network_new(fds[0])));
    a = yado_fd_network_new(fds[0]);
    yado_fd_network_set_mtu(a, 9000);
    api_needs(with_network(a), 13, 0, false, "network[0]");
    api_invalid(with_network(yado_fd_network_new(stream[0])), YADO_ERR_UNSUPPORTED, "network[0]", "datagram",
                NULL);
    api_invalid(with_network(yado_tap_new("tap0")), YADO_ERR_UNSUPPORTED, "network[0]", NULL);
    api_invalid(with_network(yado_bridged_new("en0")), YADO_ERR_UNSUPPORTED, "network[0]",
                "com.apple.vm.networking", NULL);
    standin_world.networking = ENTITLEMENT_TRUE;
    api_valid(with_network(yado_bridged_new("en0")));
    api_invalid(with_network(yado_bridged_new("en1")), YADO_ERR_FILE, "network[0]", "\"en1\"", NULL);
    for (int i = 0; i < 2; i++) {
        close(fds[i]);
        close(stream[i]);
    }
}

static void interface_hear(void *ctx, const char *name, const char *display_name)
{
    char *text = ctx;

    sprintf(text + strlen(text), "%s (%s) ", name, display_name);
}

static void interfaces_are_listed(void **state)
{
    char text[64] = "";

    (void)state;
    assert_int_equal(yado_each_bridged_interface(interface_hear, text), 2);
    assert_string_equal(text, "en0 (Wi-Fi) en7 () ");
}

static void a_network_is_lost(void **state)
{
    struct yado_config *c = api_config();
    struct yado_error err = YADO_ERROR_INIT;
    struct yado_machine *m;
    struct heard h;

    (void)state;
    yado_config_add_network(c, yado_virtio_net_new(yado_nat_new()));
    yado_config_add_network(c, yado_virtio_net_new(yado_nat_new()));
    m = api_machine(c, &h);
    api_do(m, &h, yado_machine_start);
    if (!api_plays(12, 0)) {
        assert_false(yado_machine_set_network_attachment(m, 1, yado_nat_new(), &err));
        assert_non_null(strstr(err.message, "macOS 12.0"));
        yado_machine_free(m);
        return;
    }
    standin_network_disconnects(0, 1, "The interface is gone.");
    api_hear(m, &h, "network 1 is gone;");
    assert_int_equal(h.last.code, YADO_ERR_HOST);
    assert_non_null(strstr(h.last.message, "The interface is gone"));
    assert_int_equal(yado_machine_state(m), YADO_STATE_RUNNING);
    assert_true(yado_machine_set_network_attachment(m, 1, yado_nat_new(), &err));
    assert_true(yado_machine_set_network_attachment(m, 1, NULL, &err));
    assert_int_equal(standin_alive("VZNATNetworkDeviceAttachment"), 2); /* network 0's, and configured */
    assert_false(yado_machine_set_network_attachment(m, 2, yado_nat_new(), &err));
    yado_machine_free(m);
}

/* ---- serial ports and consoles ---- */

static struct yado_config *with_serial(struct yado_serial *serial)
{
    struct yado_config *c = api_config();

    yado_config_add_serial_port(c, yado_virtio_console_port_new(serial));
    return c;
}

static void serial_attachments(void **state)
{
    struct yado_config *c = api_config();

    (void)state;
    api_valid(with_serial(yado_fd_serial_new(0, -1)));
    api_valid(with_serial(yado_pty_serial_new()));
    api_valid(with_serial(yado_file_serial_new("/dev/null", true)));
    api_invalid(with_serial(yado_file_serial_new("/nonexistent/file", false)), YADO_ERR_FILE,
                "serial_ports[0].attachment", "/nonexistent/file", NULL);
    api_invalid(with_serial(yado_socket_serial_new("/tmp/s")), YADO_ERR_UNSUPPORTED,
                "serial_ports[0].attachment", "Unix sockets", NULL);
    yado_config_add_serial_port(c, yado_uart_port_new(yado_fd_serial_new(0, 1)));
    api_invalid(c, YADO_ERR_UNSUPPORTED, "serial_ports[0]", "no UART", NULL);
}

/* Ports 0 and 3 of console 0, port 1 of console 1. */
static struct yado_config *with_consoles(struct yado_serial *serial)
{
    struct yado_config *c = api_config();

    for (unsigned i = 0; i < 2; i++) {
        struct yado_console *console = yado_virtio_console_new();
        struct yado_console_port *p = yado_console_port_new();

        yado_console_port_set_name(p, i ? "agent" : "screen");
        yado_console_port_set_console(p, i == 0);
        if (i == 0)
            yado_console_port_set_attachment(p, serial);
        yado_console_set_port(console, i, p);
        if (i == 0)
            yado_console_set_port(console, 3, yado_console_port_new());
        yado_config_add_console(c, console);
    }
    return c;
}

static void consoles_by_version(void **state)
{
    (void)state;
    api_needs(with_consoles(yado_fd_serial_new(0, 1)), 13, 0, false, "consoles[0]");
    if (!api_plays(13, 0))
        return;
    api_invalid(with_consoles(yado_socket_serial_new("/tmp/s")), YADO_ERR_UNSUPPORTED,
                "consoles[0].ports[0].attachment", "Unix sockets", NULL);
    api_invalid(with_consoles(yado_file_serial_new("/nonexistent/file", false)), YADO_ERR_FILE,
                "consoles[0].ports[0].attachment", "/nonexistent/file", NULL);
}

static void port_is(const char *path, const char *want)
{
    const char *have = standin_config_text(0, path);

    if (!have || strcmp(have, want))
        fail_msg("%s is %s, not %s", path, have ? have : "nothing", want);
}

static void consoles_run(void **state)
{
    struct yado_error err = YADO_ERROR_INIT;
    struct yado_console_port_info info;
    struct yado_machine *m;
    struct heard h;

    (void)state;
    if (!api_plays(13, 0))
        skip();
    m = api_machine(with_consoles(yado_file_serial_new("/dev/null", true)), &h);
    api_do(m, &h, yado_machine_start);
    assert_int_equal(standin_config_number(0, "consoleDevices.0.ports.maximumPortCount"), 4);
    assert_int_equal(standin_config_number(0, "consoleDevices.1.ports.maximumPortCount"), 2);
    assert_int_equal(standin_config_number(0, "consoleDevices.0.ports.0.isConsole"), 1);
    assert_int_equal(standin_config_number(0, "consoleDevices.1.ports.1.isConsole"), 0);
    port_is("consoleDevices.0.ports.0.name", "screen");
    port_is("consoleDevices.1.ports.1.name", "agent");
    port_is("consoleDevices.0.ports.0.attachment.class", "VZFileSerialPortAttachment");
    assert_null(standin_config_text(0, "consoleDevices.0.ports.3.name"));
    standin_guest_opens_port(0, 1, 1, true);
    api_hear(m, &h, "port 1.1 is open;");
    assert_true(yado_machine_console_port(m, 1, 1, &info) && info.is_open);
    standin_guest_opens_port(0, 0, 3, true);
    api_hear(m, &h, "port 0.3 is open;");
    standin_guest_opens_port(0, 1, 1, false);
    api_hear(m, &h, "port 1.1 is closed;");
    assert_null(standin_port_attachment(0, 1, 1));
    assert_true(yado_machine_set_console_attachment(m, 1, 1, yado_pty_serial_new(), &err));
    assert_string_equal(standin_port_attachment(0, 1, 1), "VZFileHandleSerialPortAttachment");
    assert_false(yado_machine_set_console_attachment(m, 1, 1, yado_socket_serial_new("/tmp/s"), &err));
    assert_non_null(strstr(err.message, "consoles[1].ports[1].attachment: "));
    assert_string_equal(standin_port_attachment(0, 1, 1), "VZFileHandleSerialPortAttachment");
    assert_true(yado_machine_set_console_attachment(m, 1, 1, NULL, &err));
    assert_null(standin_port_attachment(0, 1, 1));
    yado_machine_set_console_port_size(m, 0, 0, 80, 24); /* the framework cannot pass it on */
    api_do(m, &h, yado_machine_stop);
    api_hear(m, &h, "port 0.3 is closed;");
    yado_machine_free(m);
}

/* ---- everything else by version ---- */

static struct yado_config *with_share(struct yado_directory_share *s)
{
    struct yado_config *c = api_config();

    yado_config_add_share(c, yado_virtio_fs_new("tag", s));
    return c;
}

static struct yado_directory_share *two_directories(void)
{
    struct yado_directory_share *s = yado_multiple_share_new();

    yado_multiple_share_add(s, "tmp", yado_shared_directory_new("/tmp", 0));
    yado_multiple_share_add(s, "usr", yado_shared_directory_new("/usr", YADO_DIRECTORY_READ_ONLY));
    return s;
}

static void shares_by_version(void **state)
{
    (void)state;
    api_needs(with_share(yado_single_share_new(yado_shared_directory_new("/tmp", 0))), 12, 0, false,
              "shares[0]");
    api_needs(with_share(two_directories()), 12, 0, false, "shares[0]");
    api_needs(with_share(yado_rosetta_share_new()), 13, 0, true, "shares[0]");
    if (!api_plays(12, 0))
        return;
    api_invalid(with_share(yado_single_share_new(yado_shared_directory_new("/nonexistent", 0))),
                YADO_ERR_FILE, "shares[0]", "/nonexistent", NULL);
}

static void rosetta(void **state)
{
    struct yado_error err = YADO_ERROR_INIT;

    (void)state;
    if (!api_plays(13, 0) || !standin_world.is_arm64) {
        assert_int_equal(yado_rosetta_availability(), YADO_ROSETTA_NOT_SUPPORTED);
        assert_false(yado_rosetta_install(&err));
        assert_int_equal(err.code, YADO_ERR_UNSUPPORTED);
        return;
    }
    assert_int_equal(yado_rosetta_availability(), YADO_ROSETTA_INSTALLED);
    standin_world.rosetta = 1;
    assert_int_equal(yado_rosetta_availability(), YADO_ROSETTA_NOT_INSTALLED);
    api_invalid(with_share(yado_rosetta_share_new()), YADO_ERR_UNSUPPORTED, "shares[0]", "Rosetta", NULL);
    standin_fail_next("installRosettaWithCompletionHandler:", VZ, 9, "The user said no.", NULL);
    assert_false(yado_rosetta_install(&err));
    assert_non_null(strstr(err.message, "The user said no"));
    assert_true(yado_rosetta_install(&err));
    api_valid(with_share(yado_rosetta_share_new()));
}

static void screens_and_sound_by_version(void **state)
{
    struct yado_graphics *g = yado_virtio_gpu_new();
    struct yado_sound *s = yado_virtio_sound_new();
    struct yado_config *c = api_config();

    (void)state;
    yado_graphics_add_scanout(g, 800, 600);
    yado_config_add_graphics(c, g);
    api_needs(c, 13, 0, false, "graphics[0]");
    c = api_config();
    yado_config_add_keyboard(c, yado_usb_keyboard_new());
    api_needs(c, 12, 0, false, "keyboards[0]");
    c = api_config();
    yado_config_add_pointing(c, yado_usb_pointing_new());
    api_needs(c, 12, 0, false, "pointing[0]");
    c = api_config();
    yado_sound_add_output(s, true);
    yado_sound_add_input(s, false);
    yado_config_add_sound(c, s);
    api_needs(c, 12, 0, false, "sound[0]");
    g = yado_virtio_gpu_new();
    yado_graphics_add_scanout(g, 800, 600);
    yado_graphics_add_scanout(g, 800, 600);
    c = api_config();
    yado_config_add_graphics(c, g);
    api_invalid(c, YADO_ERR_UNSUPPORTED, "graphics[0]", NULL);
}

static void efi(void **state)
{
    struct yado_error err = YADO_ERROR_INIT;
    struct yado_config *c = api_config();
    char store[80];

    (void)state;
    snprintf(store, sizeof(store), "%s.store", api_kernel);
    if (!api_plays(13, 0)) {
        assert_false(yado_efi_variable_store_create(store, false, &err));
        assert_non_null(strstr(err.message, "macOS 13.0"));
        yado_config_set_boot_loader(c, yado_efi_boot_loader_new(NULL));
        api_needs(c, 13, 0, false, "boot_loader");
        return;
    }
    assert_true(yado_efi_variable_store_create(store, false, &err));
    assert_false(yado_efi_variable_store_create(store, false, &err)); /* it is there */
    assert_int_equal(err.code, YADO_ERR_FILE);
    assert_true(yado_efi_variable_store_create(store, true, &err));
    yado_config_set_boot_loader(c, yado_efi_boot_loader_new(store));
    api_valid(c);
    unlink(store);
    c = api_config();
    yado_config_set_boot_loader(c, yado_efi_boot_loader_new(store));
    api_invalid(c, YADO_ERR_FILE, "boot_loader", store, NULL);
    c = api_config();
    yado_config_set_boot_loader(c, yado_efi_boot_loader_new("/tmp"));
    api_invalid(c, YADO_ERR_FILE, "boot_loader: /tmp: is a directory", NULL);
    c = api_config();
    yado_config_set_boot_loader(c, yado_efi_boot_loader_new(NULL));
    api_valid(c);
}

static void platforms(void **state)
{
    struct yado_platform *p = yado_generic_platform_new();
    struct yado_error err = YADO_ERROR_INIT;
    struct yado_machine_identifier *id = yado_machine_identifier_new(&err), *same;
    struct yado_config *c = api_config();
    const void *data;
    size_t len;

    (void)state;
    yado_generic_platform_set_nested_virtualization(p, true);
    yado_config_set_platform(c, p);
    api_needs(c, 15, 0, false, "platform.nested_virtualization");
    if (!api_plays(13, 0)) {
        assert_null(id);
        assert_non_null(strstr(err.message, "macOS 13.0"));
        return;
    }
    assert_non_null(id);
    data = yado_machine_identifier_data(id, &len);
    same = yado_machine_identifier_from_data(data, len, &err);
    assert_non_null(same);
    assert_null(yado_machine_identifier_from_data("x", 1, &err));
    assert_int_equal(err.code, YADO_ERR_INVALID_CONFIG);
    p = yado_generic_platform_new();
    yado_generic_platform_set_machine_identifier(p, same);
    c = api_config();
    yado_config_set_platform(c, p);
    api_valid(c);
    yado_machine_identifier_free(id);
    yado_machine_identifier_free(same);
    if (!api_plays(15, 0))
        return;
    standin_world.nested_supported = false;
    p = yado_generic_platform_new();
    yado_generic_platform_set_nested_virtualization(p, true);
    c = api_config();
    yado_config_set_platform(c, p);
    api_invalid(c, YADO_ERR_UNSUPPORTED, "platform.nested_virtualization", "processor", NULL);
}

static void no_uart(void **state)
{
    struct yado_config *c = api_config();

    (void)state;
    yado_config_add_serial_port(c, yado_uart_port_new(yado_fd_serial_new(-1, -1)));
    api_invalid(c, YADO_ERR_UNSUPPORTED, "serial_ports[0]", "UART", NULL);
}

/* ---- running devices ---- */

static void a_balloon_follows(void **state)
{
    struct yado_config *c = api_config();
    struct yado_machine *m;
    struct heard h;

    (void)state;
    yado_config_add_balloon(c, yado_virtio_balloon_new());
    m = api_machine(c, &h);
    yado_machine_set_balloon_target(m, 48 << 20); /* remembered until it starts */
    api_do(m, &h, yado_machine_start);
    yado_machine_set_balloon_target(m, 32 << 20);
    assert_int_equal(standin_balloon_target(0), 32 << 20);
    yado_machine_set_balloon_target(m, 64 << 20);
    assert_int_equal(standin_balloon_target(0), 64 << 20);
    yado_machine_free(m);
}

static void a_share_is_changed(void **state)
{
    struct yado_error err = YADO_ERROR_INIT;
    struct yado_machine *m;
    struct heard h;

    (void)state;
    if (!api_plays(12, 0))
        return;
    m = api_machine(with_share(yado_single_share_new(yado_shared_directory_new("/tmp", 0))), &h);
    api_do(m, &h, yado_machine_start);
    assert_true(yado_machine_set_share(m, 0, two_directories(), &err));
    assert_int_equal(standin_alive("VZMultipleDirectoryShare"), 1);
    assert_false(yado_machine_set_share(m, 0, yado_rosetta_share_new(), &err));
    assert_int_equal(err.code, YADO_ERR_UNSUPPORTED);
    assert_false(yado_machine_set_share(m, 1, two_directories(), &err));
    yado_machine_free(m);
}

#define T(f) cmocka_unit_test_setup_teardown(f, api_begin, api_end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(a_machine_lives),
        T(nothing_is_heard_after_the_end),
        T(two_machines),
        T(the_guest_powers_off),
        T(the_framework_gives_up),
        T(a_start_fails),
        T(other_verbs_fail),
        T(limits),
        T(unusable_hosts),
        T(the_framework_finds_it_invalid),
        T(kernels),
        T(storage_by_version),
        T(nbd_is_entitled),
        T(storage_is_refused),
        T(names_that_are_no_text),
        T(networks),
        T(interfaces_are_listed),
        T(a_network_is_lost),
        T(serial_attachments),
        T(consoles_by_version),
        T(consoles_run),
        T(shares_by_version),
        T(rosetta),
        T(efi),
        T(screens_and_sound_by_version),
        T(platforms),
        T(no_uart),
        T(a_balloon_follows),
        T(a_share_is_changed),
    };

    standin_init();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
