/* Linux: our own machine, its CPUs run by KVM or by the translator. */
#include <string.h>

#include "backend/backend.h"
#include "backend/native_engines.h"

static const struct engine_ops *const engines[] = {
    &engine_kvm,
    &engine_translator,
};

const struct backend_ops *backend_here(void)
{
    return &backend_native;
}

unsigned backend_engine_count(void)
{
    return array_size(engines);
}

const char *backend_engine_name(unsigned index)
{
    return index < array_size(engines) ? engines[index]->name : NULL;
}

const struct engine_ops *native_engine_find(const char *name)
{
    for (size_t i = 0; i < array_size(engines); i++) {
        if (name && !strcmp(engines[i]->name, name))
            return engines[i];
    }
    return NULL;
}

const struct engine_ops *native_engine_default(void)
{
    for (size_t i = 0; i < array_size(engines); i++) {
        if (engines[i]->available(NULL) && (!engines[i]->good || engines[i]->good(NULL)))
            return engines[i];
    }
    return engines[array_size(engines) - 1];
}

bool backend_engine_usable(const char *name, struct yado_error *err)
{
    const struct engine_ops *ops = native_engine_find(name);

    if (!ops)
        return err_set(err, YADO_ERR_UNSUPPORTED, "engine: there is no \"%s\" on this platform",
                       name ? name : "");
    return ops->available(err);
}

bool backend_engine_good(const char *name, struct yado_error *why)
{
    const struct engine_ops *ops = native_engine_find(name);

    return backend_engine_usable(name, why) && (!ops->good || ops->good(why));
}
