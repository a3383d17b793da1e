/* Saving and restoring through the public API, on the macOS that is played: Apple silicon from macOS 14 on,
 * and what is said elsewhere. The stand-in restores only to the configuration that it saved, as the framework
 * does: the same machine identifier and the same UUIDs of USB devices, which it makes up anew where none are
 * set. */
#include "api.h"

#define VZ "VZErrorDomain"

static bool save(struct yado_machine *m, yado_completion done, void *ctx)
{
    char path[80];

    snprintf(path, sizeof(path), "%s.saved", api_kernel);
    return yado_machine_save(m, path, done, ctx);
}

static bool restore(struct yado_machine *m, yado_completion done, void *ctx)
{
    char path[80];

    snprintf(path, sizeof(path), "%s.saved", api_kernel);
    return yado_machine_restore(m, path, done, ctx);
}

static bool save_nowhere(struct yado_machine *m, yado_completion done, void *ctx)
{
    return yado_machine_save(m, "/nonexistent/saved", done, ctx);
}

static bool save_to_no_text(struct yado_machine *m, yado_completion done, void *ctx)
{
    return yado_machine_save(m, "/tmp/\xff", done, ctx);
}

static bool restore_no_text(struct yado_machine *m, yado_completion done, void *ctx)
{
    return yado_machine_restore(m, "/tmp/\xff", done, ctx);
}

static void cannot_save(struct yado_machine *m, struct heard *h)
{
    struct yado_config *c = api_config();
    struct yado_error err = YADO_ERROR_INIT;

    assert_false(yado_config_validate_save_restore(c, &err));
    assert_int_equal(err.code, YADO_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "Apple silicon"));
    yado_config_free(c);
    api_do(m, h, restore);
    assert_int_equal(h->last.code, YADO_ERR_UNSUPPORTED);
    assert_non_null(strstr(h->last.message, api_plays(14, 0) ? "Apple silicon" : "macOS 14.0"));
    assert_int_equal(yado_machine_state(m), YADO_STATE_STOPPED);
    api_do(m, h, yado_machine_start);
    api_do(m, h, yado_machine_pause);
    api_do(m, h, save);
    assert_int_equal(h->last.code, YADO_ERR_UNSUPPORTED);
    assert_non_null(strstr(h->last.message, "saving a machine needs "));
    assert_non_null(strstr(h->last.message, "Apple silicon"));
    assert_int_equal(yado_machine_state(m), YADO_STATE_PAUSED);
}

static void saved_and_restored(struct yado_machine *m, struct heard *h)
{
    api_do(m, h, yado_machine_start);
    api_do(m, h, yado_machine_pause);
    h->text[0] = '\0';
    api_do(m, h, save_nowhere);
    assert_int_equal(h->last.code, YADO_ERR_FILE);
    assert_non_null(strstr(h->last.message, "/nonexistent/saved: The virtual machine could not be saved"));
    api_do(m, h, save);
    assert_string_equal(h->last.message, "");
    assert_string_equal(h->text, "paused>saving;saving>paused;failed;paused>saving;saving>paused;done;");
    api_do(m, h, save_to_no_text);
    assert_non_null(strstr(h->last.message, "not UTF-8"));
    api_do(m, h, yado_machine_stop);
    api_do(m, h, restore_no_text);
    assert_non_null(strstr(h->last.message, "not UTF-8"));
    h->text[0] = '\0';
    api_do(m, h, restore);
    assert_string_equal(h->last.message, "");
    assert_int_equal(standin_machine_state(0), YADO_STATE_PAUSED);
    api_do(m, h, yado_machine_resume);
    assert_string_equal(h->text,
                        "stopped>restoring;restoring>paused;done;paused>resuming;resuming>running;done;");
}

static struct yado_config *with_identifier(const struct yado_machine_identifier *id)
{
    struct yado_config *c = api_config();
    struct yado_platform *p = yado_generic_platform_new();

    if (id)
        yado_generic_platform_set_machine_identifier(p, id);
    yado_config_set_platform(c, p);
    for (int i = 0; i < 2; i++)
        yado_config_add_storage(
            c, yado_usb_storage_new(yado_disk_image_new(api_disk, YADO_DISK_RAW, YADO_DISK_READ_ONLY)));
    return c;
}

/* What one machine saved, another restores if it has the same identity; USB devices keep theirs by
 * themselves. */
static void restored_elsewhere(const struct yado_machine_identifier *id)
{
    struct heard h;
    struct yado_machine *m = api_machine(with_identifier(id), &h);

    api_do(m, &h, yado_machine_start);
    api_do(m, &h, yado_machine_pause);
    api_do(m, &h, save);
    assert_string_equal(h.last.message, "");
    yado_machine_free(m);
    m = api_machine(with_identifier(id), &h);
    api_do(m, &h, restore);
    if (id)
        assert_string_equal(h.last.message, "");
    else
        assert_non_null(strstr(h.last.message, "machine identifier included"));
    assert_int_equal(yado_machine_state(m), id ? YADO_STATE_PAUSED : YADO_STATE_STOPPED);
    yado_machine_free(m);
}

static void saving(void **state)
{
    struct yado_config *c = api_config();
    struct yado_error err = YADO_ERROR_INIT;
    struct yado_machine *m = api_machine(api_config(), &(struct heard){ .index = 0 });
    struct yado_machine_identifier *id;
    struct heard h;
    char path[80];

    (void)state;
    yado_machine_free(m);
    m = api_machine(api_config(), &h);
    if (!api_plays(14, 0) || !standin_world.is_arm64) {
        cannot_save(m, &h);
        yado_machine_free(m);
        yado_config_free(c);
        return;
    }
    assert_true(yado_config_validate_save_restore(c, &err));
    standin_fail_next("validateSaveRestoreSupportWithError:", VZ, 10, "Not supported.", "A screen.");
    assert_false(yado_config_validate_save_restore(c, &err));
    assert_non_null(strstr(err.message, "A screen"));
    yado_config_set_memory_size(c, 128 << 20);
    saved_and_restored(m, &h);
    yado_machine_free(m);
    m = api_machine(c, &h); /* another configuration */
    api_do(m, &h, restore);
    assert_int_equal(h.last.code, YADO_ERR_FILE);
    assert_non_null(strstr(h.last.message, "same configuration"));
    assert_int_equal(yado_machine_state(m), YADO_STATE_STOPPED);
    yado_machine_free(m);
    id = yado_machine_identifier_new(&err);
    restored_elsewhere(id);
    restored_elsewhere(NULL);
    yado_machine_identifier_free(id);
    snprintf(path, sizeof(path), "%s.saved", api_kernel);
    unlink(path);
}

#define T(f) cmocka_unit_test_setup_teardown(f, api_begin, api_end)

int main(void)
{
    const struct CMUnitTest tests[] = { T(saving) };

    standin_init();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
