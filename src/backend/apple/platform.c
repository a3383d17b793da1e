/* The platform, and machine identifiers. */
#include "backend/apple/apple.h"
#include "backend/apple/apple_priv.h"

static id identifier_make(const void *data, size_t len, struct yado_error *err)
{
    id identifier;

    if (!NEEDED(VZGenericMachineIdentifier, initWithData, err, "platform: a machine identifier"))
        return NULL;
    identifier = pooled(
        VZGenericMachineIdentifier_initWithData(ALLOC(VZGenericMachineIdentifier), data_of(data, len)));
    if (!identifier)
        err_set(err, YADO_ERR_INVALID_CONFIG,
                "platform.machine_identifier: these %zu bytes are none of this framework's", len);
    return identifier;
}

static bool nested_set(id platform, struct yado_error *err)
{
    if (!VZGenericPlatformConfiguration_isNestedVirtualizationSupported(
            vz_class(VZGenericPlatformConfiguration)))
        return err_set(err, YADO_ERR_UNSUPPORTED,
                       "platform.nested_virtualization: this Mac's processor does not have it (an M3 or "
                       "later has)");
    VZGenericPlatformConfiguration_setNestedVirtualizationEnabled(platform, true);
    return true;
}

bool platform_set(id config, const struct spec_platform *p, struct yado_error *err)
{
    id platform, identifier;

    /* The default is a generic one, and macOS 11 has no other. */
    if (!p->identifier && !p->nested_virtualization)
        return true;
    /* Either is newer than setting a platform, and the version named must be enough. */
    if ((p->nested_virtualization && !NEEDED(VZGenericPlatformConfiguration, setNestedVirtualizationEnabled,
                                             err, "platform.nested_virtualization: this")) ||
        (p->identifier && !NEEDED(VZGenericPlatformConfiguration, setMachineIdentifier, err,
                                  "platform.machine_identifier: this")))
        return false;
    platform = NEW(VZGenericPlatformConfiguration);
    if (p->identifier) {
        identifier = identifier_make(p->identifier, p->identifier_len, err);
        if (!identifier)
            return false;
        VZGenericPlatformConfiguration_setMachineIdentifier(platform, identifier);
    }
    if (p->nested_virtualization && !nested_set(platform, err))
        return false;
    VZVirtualMachineConfiguration_setPlatform(config, platform);
    return true;
}

bool apple_identifier_new(void (*take)(void *ctx, const void *data, size_t len), void *ctx,
                          struct yado_error *err)
{
    void *pool = objc_autoreleasePoolPush();
    bool ok = NEEDED(VZGenericMachineIdentifier, data, err, "platform: a machine identifier");

    if (ok) {
        id data = VZGenericMachineIdentifier_data(NEW(VZGenericMachineIdentifier));

        take(ctx, NSData_bytes(data), NSData_length(data));
    }
    objc_autoreleasePoolPop(pool);
    return ok;
}

bool apple_identifier_check(const void *data, size_t len, struct yado_error *err)
{
    void *pool = objc_autoreleasePoolPush();
    bool ok = identifier_make(data, len, err) != NULL;

    objc_autoreleasePoolPop(pool);
    return ok;
}
