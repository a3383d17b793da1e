/* macOS: Apple's framework, which is its own engine. */
#include <string.h>

#include "backend/apple/apple.h"
#include "backend/backend.h"

const struct backend_ops *backend_here(void)
{
    return &backend_apple;
}

unsigned backend_engine_count(void)
{
    return 1;
}

const char *backend_engine_name(unsigned index)
{
    return index == 0 ? APPLE_ENGINE : NULL;
}

bool backend_engine_usable(const char *name, struct yado_error *err)
{
    if (!name || strcmp(name, APPLE_ENGINE) != 0)
        return err_set(err, YADO_ERR_UNSUPPORTED, "engine: there is no \"%s\" on this platform",
                       name ? name : "");
    return apple_usable(err);
}

bool backend_engine_good(const char *name, struct yado_error *why)
{
    return backend_engine_usable(name, why);
}
