/* The configuration of a machine: every object of the spec in its array, and what the framework says of the
 * whole. */
#include <inttypes.h>

#include "backend/apple/apple.h"
#include "backend/apple/apple_priv.h"
#include "backend/ports_check.h"

/* Objects of one kind on their way into an array. */
struct list {
    id objects[SPEC_DEVICE_MAX];
    unsigned count;
};

static bool list_add(struct list *l, id object)
{
    if (!object)
        return false;
    l->objects[l->count++] = object;
    return true;
}

static id list_array(const struct list *l)
{
    return array_of(l->objects, l->count);
}

static bool storage_set(id config, const struct spec *s, struct scratch *scratch, struct yado_error *err)
{
    struct list l = { .count = 0 };

    for (unsigned i = 0; i < s->disk_count; i++) {
        if (!list_add(&l, storage_make(&s->disks[i], i, scratch, err)))
            return false;
    }
    VZVirtualMachineConfiguration_setStorageDevices(config, list_array(&l));
    return true;
}

static bool serial_set(id config, const struct spec *s, enum purpose purpose, struct yado_error *err)
{
    struct list l = { .count = 0 };

    for (unsigned i = 0; i < s->serial_count; i++) {
        if (!list_add(&l, serial_make(&s->serials[i], i, purpose, err)))
            return false;
    }
    VZVirtualMachineConfiguration_setSerialPorts(config, list_array(&l));
    return true;
}

/* macOS 11 and 12 have no setter. */
static bool consoles_set(id config, const struct spec *s, enum purpose purpose, struct yado_error *err)
{
    struct list l = { .count = 0 };

    for (unsigned i = 0; i < s->console_count; i++) {
        if (!list_add(&l, console_make(&s->consoles[i], i, purpose, err)))
            return false;
    }
    if (l.count)
        VZVirtualMachineConfiguration_setConsoleDevices(config, list_array(&l));
    return true;
}

static bool network_set(id config, const struct spec *s, struct yado_error *err)
{
    struct list l = { .count = 0 };

    for (unsigned i = 0; i < s->net_count; i++) {
        if (!list_add(&l, network_make(&s->nets[i], i, err)))
            return false;
    }
    VZVirtualMachineConfiguration_setNetworkDevices(config, list_array(&l));
    return true;
}

static void entropy_set(id config, const struct spec *s)
{
    struct list l = { .count = 0 };

    for (unsigned i = 0; i < s->entropy_count; i++)
        list_add(&l, NEW(VZVirtioEntropyDeviceConfiguration));
    VZVirtualMachineConfiguration_setEntropyDevices(config, list_array(&l));
}

static void balloon_set(id config, const struct spec *s)
{
    struct list l = { .count = 0 };

    for (unsigned i = 0; i < s->balloon_count; i++)
        list_add(&l, NEW(VZVirtioTraditionalMemoryBalloonDeviceConfiguration));
    VZVirtualMachineConfiguration_setMemoryBalloonDevices(config, list_array(&l));
}

static void sockets_set(id config, const struct spec *s)
{
    struct list l = { .count = 0 };

    for (unsigned i = 0; i < s->socket_count; i++)
        list_add(&l, NEW(VZVirtioSocketDeviceConfiguration));
    VZVirtualMachineConfiguration_setSocketDevices(config, list_array(&l));
}

static bool shares_set(id config, const struct spec *s, struct yado_error *err)
{
    struct list l = { .count = 0 };

    for (unsigned i = 0; i < s->share_count; i++) {
        if (!list_add(&l, share_make(&s->shares[i], i, err)))
            return false;
    }
    if (l.count)
        VZVirtualMachineConfiguration_setDirectorySharingDevices(config, list_array(&l));
    return true;
}

/* Kinds that came with later versions: macOS 11 has no setter for them, so none is called without need. */
static bool screen_set(id config, const struct spec *s, struct yado_error *err)
{
    struct list graphics = { .count = 0 }, keyboards = { .count = 0 }, pointing = { .count = 0 };

    for (unsigned i = 0; i < s->graphics_count; i++) {
        if (!list_add(&graphics, graphics_make(&s->graphics[i], i, err)))
            return false;
    }
    for (unsigned i = 0; i < s->keyboard_count; i++) {
        if (!list_add(&keyboards, keyboard_make(i, err)))
            return false;
    }
    for (unsigned i = 0; i < s->pointing_count; i++) {
        if (!list_add(&pointing, pointing_make(i, err)))
            return false;
    }
    if (graphics.count)
        VZVirtualMachineConfiguration_setGraphicsDevices(config, list_array(&graphics));
    if (keyboards.count)
        VZVirtualMachineConfiguration_setKeyboards(config, list_array(&keyboards));
    if (pointing.count)
        VZVirtualMachineConfiguration_setPointingDevices(config, list_array(&pointing));
    return true;
}

static bool sounds_set(id config, const struct spec *s, struct yado_error *err)
{
    struct list l = { .count = 0 };

    for (unsigned i = 0; i < s->sound_count; i++) {
        if (!list_add(&l, sound_make(&s->sounds[i], i, err)))
            return false;
    }
    if (l.count)
        VZVirtualMachineConfiguration_setAudioDevices(config, list_array(&l));
    return true;
}

static bool devices_set(id config, const struct spec *s, enum purpose purpose, struct scratch *scratch,
                        struct yado_error *err)
{
    entropy_set(config, s);
    balloon_set(config, s);
    sockets_set(config, s);
    return storage_set(config, s, scratch, err) && serial_set(config, s, purpose, err) &&
           consoles_set(config, s, purpose, err) && network_set(config, s, err) &&
           shares_set(config, s, err) && screen_set(config, s, err) && sounds_set(config, s, err);
}

static bool framework_agrees(id config, struct yado_error *err)
{
    id error = NULL;

    /* What it returns decides; the error object is only then worth a look. */
    if (VZVirtualMachineConfiguration_validate(config, &error))
        return true;
    return error_from(err, error, "configuration");
}

/* A class that is not there answers nothing, which would be no memory and no CPUs. */
bool apple_limits(struct backend_limits *out)
{
    void *pool = objc_autoreleasePoolPush();
    id cls = vz_class(VZVirtualMachineConfiguration);
    bool ok = NEEDED(VZVirtualMachineConfiguration, maximumAllowedMemorySize, NULL, "limits");

    if (ok)
        *out = (struct backend_limits){
            .cpu_min = VZVirtualMachineConfiguration_minimumAllowedCPUCount(cls),
            .cpu_max = VZVirtualMachineConfiguration_maximumAllowedCPUCount(cls),
            .memory_min = VZVirtualMachineConfiguration_minimumAllowedMemorySize(cls),
            .memory_max = VZVirtualMachineConfiguration_maximumAllowedMemorySize(cls),
        };
    objc_autoreleasePoolPop(pool);
    return ok;
}

/* The framework would call the configuration invalid, and not say which number it minds. */
static bool numbers_check(const struct spec *s, struct yado_error *err)
{
    struct backend_limits l;

    if (!apple_limits(&l))
        return true;
    if (s->cpu_count < l.cpu_min || s->cpu_count > l.cpu_max)
        return err_set(err, YADO_ERR_INVALID_CONFIG,
                       "cpu_count: %u is not from %" PRIu64 " to %" PRIu64 ", as this Mac allows",
                       s->cpu_count, l.cpu_min, l.cpu_max);
    if (s->memory_size < l.memory_min || s->memory_size > l.memory_max)
        return err_set(err, s->memory_size > l.memory_max ? YADO_ERR_MEMORY : YADO_ERR_INVALID_CONFIG,
                       "memory_size: %" PRIu64 " MiB is not from %" PRIu64 " to %" PRIu64
                       " MiB, as this Mac allows",
                       s->memory_size >> 20, l.memory_min >> 20, l.memory_max >> 20);
    return true;
}

id configuration_make(const struct spec *s, enum purpose purpose, struct scratch *scratch,
                      struct yado_error *err)
{
    id config, loader;

    if (!apple_usable(err))
        return NULL;
    if (!numbers_check(s, err))
        return NULL;
    config = NEW(VZVirtualMachineConfiguration);
    loader = boot_make(&s->boot, err);
    if (!loader)
        return NULL;
    VZVirtualMachineConfiguration_setBootLoader(config, loader);
    VZVirtualMachineConfiguration_setCPUCount(config, s->cpu_count);
    VZVirtualMachineConfiguration_setMemorySize(config, s->memory_size);
    if (s->engine_options.code_cache_size || s->engine_options.perf_map || s->engine_options.shadow) {
        err_set(err, YADO_ERR_UNSUPPORTED, "engine_options: Apple's engine translates nothing");
        return NULL;
    }
    if (s->debug_exit) {
        err_set(err, YADO_ERR_UNSUPPORTED, "debug_exit: Apple's machines have no such port");
        return NULL;
    }
    if (!platform_set(config, &s->platform, err) || !devices_set(config, s, purpose, scratch, err) ||
        !framework_agrees(config, err))
        return NULL;
    return config;
}

bool apple_validate(const struct spec *s, struct yado_error *err)
{
    struct scratch scratch = { .count = 0 };
    void *pool = objc_autoreleasePoolPush();
    bool ok = ports_check(s, err) && configuration_make(s, TO_CHECK, &scratch, err);

    objc_autoreleasePoolPop(pool);
    scratch_clear(&scratch);
    return ok;
}

bool apple_validate_save_restore(const struct spec *s, struct yado_error *err)
{
    struct scratch scratch = { .count = 0 };
    void *pool = objc_autoreleasePoolPush();
    id config = NULL, error = NULL;
    bool ok = NEEDED(VZVirtualMachineConfiguration, validateSaveRestoreSupport, err, "saving a machine");

    if (ok)
        config = ports_check(s, err) ? configuration_make(s, TO_CHECK, &scratch, err) : NULL;
    ok = config && (VZVirtualMachineConfiguration_validateSaveRestoreSupport(config, &error) ||
                    error_from(err, error, "saving a machine"));
    objc_autoreleasePoolPop(pool);
    scratch_clear(&scratch);
    return ok;
}
