/* See api.h. */
#include <dirent.h>

#include "api.h"

char api_kernel[64], api_disk[64];

static void file_make(char path[64], const char *pattern, size_t size)
{
    int fd;

    strcpy(path, pattern);
    fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    close(fd);
}

static unsigned descriptors_open(void)
{
    DIR *d = opendir("/proc/self/fd");
    unsigned n = 0;

    assert_non_null(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static unsigned descriptors;

int api_begin(void **state)
{
    FILE *f;

    (void)state;
    standin_begin();
    descriptors = descriptors_open();
    file_make(api_kernel, "/tmp/yado-test-kernel-XXXXXX", 4096);
    file_make(api_disk, "/tmp/yado-test-disk-XXXXXX", 1 << 20);
    f = fopen(api_kernel, "r+");
    assert_int_equal(fseek(f, 0x202, SEEK_SET), 0);
    assert_int_equal(fwrite("HdrS", 1, 4, f), 4);
    fclose(f);
    return 0;
}

int api_end(void **state)
{
    (void)state;
    unlink(api_kernel);
    unlink(api_disk);
    standin_end();
    assert_int_equal(standin_machine_count(), 0);
    assert_int_equal(descriptors_open(), descriptors);
    return 0;
}

struct yado_config *api_config(void)
{
    struct yado_config *c = yado_config_new();

    assert_non_null(c);
    yado_config_set_cpu_count(c, 2);
    yado_config_set_memory_size(c, 64 << 20);
    yado_config_set_boot_loader(c, yado_linux_boot_loader_new(api_kernel, NULL, "console=hvc0"));
    return c;
}

static void hear(struct heard *h, const char *what)
{
    strncat(h->text, what, sizeof(h->text) - strlen(h->text) - 1);
    strncat(h->text, ";", sizeof(h->text) - strlen(h->text) - 1);
}

static void on_event(void *ctx, const struct yado_event *e)
{
    struct heard *h = ctx;
    char line[256];

    if (e->kind == YADO_EVENT_STATE_CHANGED)
        snprintf(line, sizeof(line), "%s>%s", yado_state_name(e->old_state), yado_state_name(e->state));
    else if (e->kind == YADO_EVENT_GUEST_STOPPED)
        snprintf(line, sizeof(line), "guest stopped: %s", yado_stop_reason_name(e->reason));
    else if (e->kind == YADO_EVENT_STOPPED_WITH_ERROR)
        snprintf(line, sizeof(line), "stopped: %s", yado_stop_reason_name(e->reason));
    else if (e->kind == YADO_EVENT_NETWORK_DISCONNECTED)
        snprintf(line, sizeof(line), "network %u is gone", e->index);
    else if (e->kind == YADO_EVENT_CONSOLE_PORT_OPENED || e->kind == YADO_EVENT_CONSOLE_PORT_CLOSED)
        snprintf(line, sizeof(line), "port %u.%u is %s", e->index, e->port,
                 e->kind == YADO_EVENT_CONSOLE_PORT_OPENED ? "open" : "closed");
    else
        snprintf(line, sizeof(line), "event %d", (int)e->kind);
    if (e->error.code != YADO_OK)
        h->last = e->error;
    h->index = e->index;
    hear(h, line);
}

void api_on_done(void *ctx, const struct yado_error *err)
{
    struct heard *h = ctx;

    h->completions++;
    h->last = err ? *err : (struct yado_error)YADO_ERROR_INIT;
    hear(h, err ? "failed" : "done");
}

struct yado_machine *api_machine(struct yado_config *c, struct heard *h)
{
    struct yado_machine_options o = { .engine = YADO_ENGINE_APPLE, .on_event = on_event, .event_ctx = h };
    struct yado_error err = YADO_ERROR_INIT;
    struct yado_machine *m;

    memset(h, 0, sizeof(*h));
    m = yado_machine_new(c, &o, &err);
    yado_config_free(c);
    if (!m)
        fail_msg("%s", err.message);
    assert_int_equal(yado_machine_engine(m), YADO_ENGINE_APPLE);
    return m;
}

static void sleep_ms(long ms)
{
    struct timespec t = { .tv_nsec = ms * 1000000 };

    nanosleep(&t, NULL);
}

void api_completions_wait(struct yado_machine *m, struct heard *h, unsigned count)
{
    for (int i = 0; i < 20000 && h->completions < count; i++) {
        yado_machine_dispatch(m);
        if (h->completions < count)
            sleep_ms(1);
    }
    assert_int_equal(h->completions, count);
}

void api_do(struct yado_machine *m, struct heard *h, api_verb verb)
{
    unsigned count = h->completions;

    assert_true(verb(m, api_on_done, h));
    api_completions_wait(m, h, count + 1);
}

void api_hear(struct yado_machine *m, struct heard *h, const char *text)
{
    for (int i = 0; i < 20000 && !strstr(h->text, text); i++) {
        yado_machine_dispatch(m);
        if (!strstr(h->text, text))
            sleep_ms(1);
    }
    if (!strstr(h->text, text))
        fail_msg("heard \"%s\", not \"%s\"", h->text, text);
}

void api_valid(struct yado_config *c)
{
    struct yado_error err = YADO_ERROR_INIT;
    bool ok = yado_config_validate(c, &err);

    yado_config_free(c);
    if (!ok || err.code != YADO_OK)
        fail_msg("%s", err.message);
}

void api_invalid(struct yado_config *c, enum yado_error_code code, ...)
{
    struct yado_error err = YADO_ERROR_INIT;
    bool ok = yado_config_validate(c, &err);
    const char *word;
    va_list ap;

    yado_config_free(c);
    if (ok || err.code != code)
        fail_msg("%s with code %d, not %d: %s", ok ? "valid" : "invalid", err.code, code, err.message);
    va_start(ap, code);
    while ((word = va_arg(ap, const char *))) {
        if (!strstr(err.message, word))
            fail_msg("\"%s\" does not say \"%s\"", err.message, word);
    }
    va_end(ap);
}

bool api_plays(unsigned major, unsigned minor)
{
    return standin_world.major > major || (standin_world.major == major && standin_world.minor >= minor);
}

void api_needs(struct yado_config *c, unsigned major, unsigned minor, bool is_arm64_only, const char *field)
{
    char version[32];

    snprintf(version, sizeof(version), "macOS %u.%u", major, minor);
    if (!api_plays(major, minor))
        api_invalid(c, YADO_ERR_UNSUPPORTED, field, "needs", version, NULL);
    else if (is_arm64_only && !standin_world.is_arm64)
        api_invalid(c, YADO_ERR_UNSUPPORTED, field, "Apple silicon", NULL);
    else
        api_valid(c);
}
