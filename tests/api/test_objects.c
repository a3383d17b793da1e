/* Configuration objects that only some backends have: what is checked of them, and that the native backend
 * says what it lacks instead of leaving it out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include <yado/yado.h>

#include "overlap.h"

static struct yado_config *config;

static int fresh(void **state)
{
    (void)state;
    config = yado_config_new();
    yado_config_set_boot_loader(config, yado_linux_boot_loader_new("/no/such/kernel", NULL, NULL));
    return 0;
}

static int gone(void **state)
{
    (void)state;
    yado_config_free(config);
    config = NULL;
    return 0;
}

static void refused(enum yado_error_code code, const char *field, const char *word)
{
    struct yado_error err = YADO_ERROR_INIT;

    assert_false(yado_config_validate(config, &err));
    if (err.code != code || strncmp(err.message, field, strlen(field)) || !strstr(err.message, word))
        fail_msg("%d: \"%s\", not %d: \"%s ... %s\"", err.code, err.message, code, field, word);
}

#define LACKS(field, word) refused(YADO_ERR_UNSUPPORTED, field, word)
#define WRONG(field, word) refused(YADO_ERR_INVALID_CONFIG, field, word)

/* The same configuration without the object fails for another reason, so it is the object that is refused. */
static void nothing_else(void **state)
{
    (void)state;
    refused(YADO_ERR_FILE, "boot_loader", "/no/such/kernel");
}

static void lacks_efi(void **state)
{
    SKIP_ON_APPLE();

    struct yado_error err = YADO_ERROR_INIT;

    (void)state;
    yado_config_set_boot_loader(config, yado_efi_boot_loader_new("store"));
    LACKS("boot_loader", "EFI");
    assert_false(yado_efi_variable_store_create("/no/such/store", false, &err));
    assert_int_equal(err.code, YADO_ERR_UNSUPPORTED);
}

static void lacks_nested(void **state)
{
    SKIP_ON_APPLE();

    struct yado_platform *p = yado_generic_platform_new();

    (void)state;
    yado_generic_platform_set_nested_virtualization(p, true);
    yado_config_set_platform(config, p);
    LACKS("platform.nested_virtualization", "guests");
}

static void lacks_identifier(void **state)
{
    SKIP_ON_APPLE();

    struct yado_error err = YADO_ERROR_INIT;

    (void)state;
    assert_null(yado_machine_identifier_new(&err));
    assert_int_equal(err.code, YADO_ERR_UNSUPPORTED);
    assert_null(yado_machine_identifier_from_data("x", 1, NULL));
}

static void lacks_storage(void **state)
{
    SKIP_ON_APPLE();
    (void)state;
    yado_config_add_storage(config, yado_virtio_block_new(yado_nbd_new("nbd://localhost/x", 0)));
    LACKS("storage[0]", "NBD");
}

static void lacks_nvme(void **state)
{
    SKIP_ON_APPLE();
    (void)state;
    yado_config_add_storage(config, yado_nvme_new(yado_disk_image_new("/dev/null", YADO_DISK_RAW, 0)));
    LACKS("storage[0]", "NVMe");
}

static void lacks_usb(void **state)
{
    SKIP_ON_APPLE();
    (void)state;
    yado_config_add_storage(config, yado_usb_storage_new(yado_block_device_new("/dev/null", 0)));
    LACKS("storage[0]", "USB");
}

static void lacks_uncached(void **state)
{
    SKIP_ON_APPLE();

    struct yado_disk *d = yado_disk_image_new("/dev/null", YADO_DISK_RAW, 0);

    (void)state;
    yado_disk_set_cache(d, YADO_CACHE_UNCACHED);
    yado_config_add_storage(config, yado_virtio_block_new(d));
    LACKS("storage[0].cache", "cache");
}

static void lacks_bridged(void **state)
{
    SKIP_ON_APPLE();
    (void)state;
    assert_int_equal(yado_each_bridged_interface(NULL, NULL), 0);
    yado_config_add_network(config, yado_virtio_net_new(yado_bridged_new("en0")));
    LACKS("network[0].attachment", "bridge");
}

static void lacks_share(void **state)
{
    SKIP_ON_APPLE();

    struct yado_error err = YADO_ERROR_INIT;

    (void)state;
    yado_config_add_share(
        config, yado_virtio_fs_new("home", yado_single_share_new(yado_shared_directory_new("/", 0))));
    LACKS("shares[0]", "file system");
    assert_int_equal(yado_rosetta_availability(), YADO_ROSETTA_NOT_SUPPORTED);
    assert_false(yado_rosetta_install(&err));
    assert_int_equal(err.code, YADO_ERR_UNSUPPORTED);
}

static void lacks_screen(void **state)
{
    SKIP_ON_APPLE();

    struct yado_graphics *g = yado_virtio_gpu_new();

    (void)state;
    yado_graphics_add_scanout(g, 800, 600);
    yado_config_add_graphics(config, g);
    LACKS("graphics[0]", "graphics");
}

static void lacks_keyboard(void **state)
{
    SKIP_ON_APPLE();
    (void)state;
    yado_config_add_keyboard(config, yado_usb_keyboard_new());
    LACKS("keyboards[0]", "keyboard");
}

static void lacks_pointing(void **state)
{
    SKIP_ON_APPLE();
    (void)state;
    yado_config_add_pointing(config, yado_usb_pointing_new());
    LACKS("pointing[0]", "pointing");
}

static void lacks_sound(void **state)
{
    SKIP_ON_APPLE();

    struct yado_sound *s = yado_virtio_sound_new();

    (void)state;
    yado_sound_add_output(s, true);
    yado_sound_add_input(s, false);
    yado_config_add_sound(config, s);
    LACKS("sound[0]", "sound");
}

static void lacks_save(void **state)
{
    SKIP_ON_APPLE();

    struct yado_error err = YADO_ERROR_INIT;

    (void)state;
    assert_false(yado_config_validate_save_restore(config, &err));
    assert_int_equal(err.code, YADO_ERR_UNSUPPORTED);
}

/* ---- what is wrong everywhere ---- */

static void wrong_store(void **state)
{
    (void)state;
    yado_config_set_boot_loader(config, yado_efi_boot_loader_new(""));
    WRONG("boot_loader", "variable store");
}

static void wrong_timeout(void **state)
{
    struct yado_disk *d = yado_disk_image_new("/dev/null", YADO_DISK_RAW, 0);

    (void)state;
    yado_nbd_set_timeout(d, 7);
    yado_config_add_storage(config, yado_virtio_block_new(d));
    WRONG("storage[0]", "timeout");
}

static void wrong_identifier(void **state)
{
    struct yado_storage *s = yado_nvme_new(yado_disk_image_new("/dev/null", YADO_DISK_RAW, 0));

    (void)state;
    yado_storage_set_identifier(s, "root");
    yado_config_add_storage(config, s);
    WRONG("storage[0]", "identifier");
}

static void share_add(const char *tag, struct yado_directory_share *share)
{
    yado_config_add_share(config, yado_virtio_fs_new(tag, share));
}

static struct yado_directory_share *single(const char *path)
{
    return yado_single_share_new(yado_shared_directory_new(path, YADO_DIRECTORY_READ_ONLY));
}

static void wrong_tags(void **state)
{
    (void)state;
    share_add("", single("/"));
    WRONG("shares[0].tag", "bytes");
    gone(NULL);
    fresh(NULL);
    share_add("123456789012345678901234567890123456", single("/"));
    WRONG("shares[0].tag", "bytes");
    gone(NULL);
    fresh(NULL);
    share_add("a", single("/"));
    share_add("a", single("/"));
    WRONG("shares[1].tag", "shares[0]");
}

static void wrong_names(void **state)
{
    static const char *const bad[] = { "", "a/b", ".", ".." };
    struct yado_directory_share *m;

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        m = yado_multiple_share_new();
        yado_multiple_share_add(m, "good", yado_shared_directory_new("/", 0));
        yado_multiple_share_add(m, bad[i], yado_shared_directory_new("/", 0));
        share_add("t", m);
        WRONG("shares[0].directories[1]", "file name");
        gone(NULL);
        fresh(NULL);
    }
    m = yado_multiple_share_new();
    yado_multiple_share_add(m, "x", yado_shared_directory_new("/", 0));
    yado_multiple_share_add(m, "x", yado_shared_directory_new("/", 0));
    share_add("t", m);
    WRONG("shares[0].directories[1]", "directories[0]");
}

static void wrong_single(void **state)
{
    struct yado_directory_share *s = single("/");

    (void)state;
    yado_multiple_share_add(s, "x", yado_shared_directory_new("/", 0));
    share_add("t", s);
    WRONG("shares[0]", "multiple");
    gone(NULL);
    fresh(NULL);
    share_add("t", single(""));
    WRONG("shares[0].directories[0]", "empty");
}

static void wrong_screens(void **state)
{
    struct yado_graphics *g = yado_virtio_gpu_new();

    (void)state;
    for (unsigned i = 0; i <= YADO_SCANOUT_COUNT_MAX; i++)
        yado_graphics_add_scanout(g, 1, 1);
    yado_config_add_graphics(config, g);
    WRONG("graphics[0]", "17 screens");
    gone(NULL);
    fresh(NULL);
    g = yado_virtio_gpu_new();
    yado_graphics_add_scanout(g, 800, 0);
    yado_config_add_graphics(config, g);
    WRONG("graphics[0].scanouts[0]", "800 x 0");
}

static void wrong_streams(void **state)
{
    struct yado_sound *s = yado_virtio_sound_new();

    (void)state;
    for (unsigned i = 0; i <= YADO_SOUND_STREAM_COUNT_MAX; i++)
        yado_sound_add_output(s, false);
    yado_config_add_sound(config, s);
    WRONG("sound[0]", "17 streams");
}

/* They count as devices, and missing ones are remembered. */
static void counted(void **state)
{
    (void)state;
    for (unsigned i = 0; i <= YADO_DEVICE_COUNT_MAX; i++)
        yado_config_add_keyboard(config, yado_usb_keyboard_new());
    WRONG("devices", "25");
    gone(NULL);
    fresh(NULL);
    yado_config_add_share(config, yado_virtio_fs_new("t", NULL));
    refused(YADO_ERR_HOST, "", "out of memory");
}

#define T(f) cmocka_unit_test_setup_teardown(f, fresh, gone)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(nothing_else), T(lacks_efi),      T(lacks_nested),     T(lacks_identifier), T(lacks_storage),
        T(lacks_nvme),   T(lacks_usb),      T(lacks_uncached),   T(lacks_bridged),    T(lacks_share),
        T(lacks_screen), T(lacks_keyboard), T(lacks_pointing),   T(lacks_sound),      T(lacks_save),
        T(wrong_store),  T(wrong_timeout),  T(wrong_identifier), T(wrong_tags),       T(wrong_names),
        T(wrong_single), T(wrong_screens),  T(wrong_streams),    T(counted),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
