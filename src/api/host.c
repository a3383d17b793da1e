/* Engines by their public numbers. */
#include <yado/host.h>

#include <string.h>

#include "backend/backend.h"

const char *yado_version(void)
{
#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)
    return TEXT(YADO_VERSION_MAJOR) "." TEXT(YADO_VERSION_MINOR) "." TEXT(YADO_VERSION_PATCH);
}

/* The words are those of the backends' engines. */
static const struct engine_name {
    enum yado_engine engine;
    const char *name;
} engine_names[] = {
    { YADO_ENGINE_AUTO, "auto" },
    { YADO_ENGINE_TRANSLATOR, "translator" },
    { YADO_ENGINE_KVM, "kvm" },
    { YADO_ENGINE_APPLE, "apple" },
};

const char *yado_engine_name(enum yado_engine engine)
{
    for (size_t i = 0; i < array_size(engine_names); i++) {
        if (engine_names[i].engine == engine)
            return engine_names[i].name;
    }
    return NULL;
}

bool yado_engine_from_name(const char *name, enum yado_engine *engine)
{
    for (size_t i = 0; i < array_size(engine_names); i++) {
        if (!strcmp(engine_names[i].name, name)) {
            *engine = engine_names[i].engine;
            return true;
        }
    }
    return false;
}

unsigned yado_engine_count(void)
{
    return backend_engine_count();
}

enum yado_engine yado_engine_at(unsigned index)
{
    const char *name = backend_engine_name(index);
    enum yado_engine engine = YADO_ENGINE_AUTO;

    if (name)
        yado_engine_from_name(name, &engine);
    return engine;
}

bool yado_engine_usable(enum yado_engine engine, struct yado_error *err)
{
    const char *name = yado_engine_name(engine);

    if (engine == YADO_ENGINE_AUTO)
        return yado_engine_choose(err) != YADO_ENGINE_AUTO;
    if (!name)
        return err_set(err, YADO_ERR_UNSUPPORTED, "engine: there is none with number %d", (int)engine);
    return backend_engine_usable(name, err);
}

bool yado_engine_good(enum yado_engine engine, struct yado_error *why)
{
    const char *name = yado_engine_name(engine);

    if (engine == YADO_ENGINE_AUTO || !name)
        return yado_engine_usable(engine, why);
    return backend_engine_good(name, why);
}

enum yado_engine yado_engine_choose(struct yado_error *err)
{
    struct yado_error why = YADO_ERROR_INIT;

    for (unsigned i = 0; i < yado_engine_count(); i++) {
        if (yado_engine_good(yado_engine_at(i), NULL))
            return yado_engine_at(i);
    }
    /* One that nobody would choose is better than none. */
    for (unsigned i = 0; i < yado_engine_count(); i++) {
        if (yado_engine_usable(yado_engine_at(i), &why))
            return yado_engine_at(i);
    }
    err_set(err, YADO_ERR_UNSUPPORTED, "engine: none can run here: %s", why.message);
    return YADO_ENGINE_AUTO;
}
