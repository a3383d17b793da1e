/* Checking a configuration: every complaint names the field. */
#include "api/config_priv.h"

#include <inttypes.h>
#include <string.h>

#include "backend/backend.h"

_Static_assert(YADO_DEVICE_COUNT_MAX == SPEC_DEVICE_MAX, "one limit, two names");

static bool numbers_check(const struct spec *s, struct yado_error *err)
{
    if (s->cpu_count < YADO_CPU_COUNT_MIN || s->cpu_count > YADO_CPU_COUNT_MAX)
        return err_set(err, YADO_ERR_INVALID_CONFIG, "cpu_count: %u is not from %u to %u", s->cpu_count,
                       YADO_CPU_COUNT_MIN, YADO_CPU_COUNT_MAX);
    if (s->memory_size % YADO_MEMORY_SIZE_STEP)
        return err_set(err, YADO_ERR_INVALID_CONFIG,
                       "memory_size: %" PRIu64 " bytes is not a multiple of 1 MiB", s->memory_size);
    if (s->memory_size < YADO_MEMORY_SIZE_MIN)
        return err_set(err, YADO_ERR_INVALID_CONFIG,
                       "memory_size: %" PRIu64 " MiB is less than the %llu MiB that a machine needs",
                       s->memory_size >> 20, YADO_MEMORY_SIZE_MIN >> 20);
    if (s->memory_size > YADO_MEMORY_SIZE_MAX)
        return err_set(err, YADO_ERR_MEMORY,
                       "memory_size: %" PRIu64 " MiB is more than the %llu MiB that a machine can have",
                       s->memory_size >> 20, YADO_MEMORY_SIZE_MAX >> 20);
    return true;
}

static bool boot_loader_check(const struct spec_boot *b, struct yado_error *err)
{
    if (b->kind == SPEC_BOOT_NONE)
        return err_set(err, YADO_ERR_INVALID_CONFIG, "boot_loader: none is set; give a kernel");
    if (b->kind == SPEC_BOOT_EFI)
        return !b->variable_store || b->variable_store[0] ||
               err_set(err, YADO_ERR_INVALID_CONFIG, "boot_loader: the variable store's file name is empty");
    if (!b->kernel[0])
        return err_set(err, YADO_ERR_INVALID_CONFIG, "boot_loader: the kernel's file name is empty");
    if (b->initrd && !b->initrd[0])
        return err_set(err, YADO_ERR_INVALID_CONFIG, "boot_loader: the initrd's file name is empty");
    if (strlen(b->command_line) > YADO_COMMAND_LINE_MAX)
        return err_set(err, YADO_ERR_INVALID_CONFIG,
                       "boot_loader: the command line has %zu bytes, more than the %d allowed",
                       strlen(b->command_line), YADO_COMMAND_LINE_MAX);
    return true;
}

static bool disks_check(const struct spec *s, struct yado_error *err)
{
    for (unsigned i = 0; i < s->disk_count; i++) {
        const struct spec_disk *d = &s->disks[i];

        if (d->fd < 0 && !d->name[0])
            return err_set(err, YADO_ERR_INVALID_CONFIG, "storage[%u]: the %s is empty", i,
                           d->source == SPEC_SOURCE_NBD ? "address" : "file name");
        if (d->timeout_unfit)
            return err_set(err, YADO_ERR_INVALID_CONFIG, "storage[%u]: only an NBD export has a timeout", i);
        if (d->identifier && d->device != SPEC_DEVICE_VIRTIO_BLOCK)
            return err_set(err, YADO_ERR_INVALID_CONFIG,
                           "storage[%u]: only a virtio block device has an identifier", i);
        if (!d->identifier)
            continue;
        if (strlen(d->identifier) > SPEC_IDENTIFIER_MAX)
            return err_set(err, YADO_ERR_INVALID_CONFIG,
                           "storage[%u]: identifier \"%.40s\" has more than %d bytes", i, d->identifier,
                           SPEC_IDENTIFIER_MAX);
        for (const char *p = d->identifier; *p; p++) {
            if (*p <= ' ' || *p > '~')
                return err_set(err, YADO_ERR_INVALID_CONFIG,
                               "storage[%u]: the identifier has a byte that is not printable ASCII", i);
        }
    }
    return true;
}

static bool balloons_check(const struct spec *s, struct yado_error *err)
{
    return s->balloon_count <= 1 ||
           err_set(err, YADO_ERR_INVALID_CONFIG, "balloons[1]: a machine has one memory balloon at most");
}

bool config_check(const struct yado_config *config, struct yado_error *err)
{
    if (!config)
        return err_set(err, YADO_ERR_HOST, "configuration: there is none: out of memory");
    if (config->lacks[0])
        return err_set(err, YADO_ERR_HOST,
                       "%s: it, or a part of it, could not be made: out of memory or file descriptors, or it "
                       "was made of nothing (NULL, a bad descriptor)",
                       config->lacks);
    if (config->devices_over)
        return err_set(err, YADO_ERR_INVALID_CONFIG, "devices: %u are configured, at most %u are possible",
                       YADO_DEVICE_COUNT_MAX + config->devices_over, YADO_DEVICE_COUNT_MAX);
    return numbers_check(&config->spec, err) && boot_loader_check(&config->spec.boot, err) &&
           disks_check(&config->spec, err) && consoles_check(&config->spec, err) &&
           balloons_check(&config->spec, err) && networks_check(&config->spec, err) &&
           sockets_check(&config->spec, err) && shares_check(&config->spec, err) &&
           graphics_check(&config->spec, err) && sounds_check(&config->spec, err);
}

bool yado_config_validate_save_restore(const struct yado_config *config, struct yado_error *err)
{
    const struct backend_ops *ops = backend_here();

    if (!ops->validate_save_restore)
        return err_set(err, YADO_ERR_UNSUPPORTED, "machines cannot be saved and restored on this platform");
    return config_check(config, err) && ops->validate_save_restore(&config->spec, err);
}

bool yado_config_validate(const struct yado_config *config, struct yado_error *err)
{
    return config_check(config, err) && backend_here()->validate(&config->spec, err);
}
