/* Platforms and machine identifiers. */
#include <stdlib.h>
#include <string.h>

#include "api/config_priv.h"
#include "backend/backend.h"

struct yado_platform *yado_generic_platform_new(void)
{
    return calloc(1, sizeof(struct yado_platform));
}

void yado_generic_platform_set_machine_identifier(struct yado_platform *platform,
                                                  const struct yado_machine_identifier *identifier)
{
    struct spec_platform *p;

    if (!platform)
        return;
    p = &platform->platform;
    free(p->identifier);
    p->identifier = NULL;
    p->identifier_len = 0;
    if (identifier)
        p->identifier = malloc(identifier->len);
    if (!p->identifier) {
        platform->out_of_memory = true; /* or the identifier could not be made for lack of it */
        return;
    }
    memcpy(p->identifier, identifier->data, identifier->len);
    p->identifier_len = identifier->len;
}

void yado_generic_platform_set_nested_virtualization(struct yado_platform *platform, bool enabled)
{
    if (platform)
        platform->platform.nested_virtualization = enabled;
}

void yado_platform_free(struct yado_platform *platform)
{
    if (!platform)
        return;
    spec_platform_clear(&platform->platform);
    free(platform);
}

void yado_config_set_platform(struct yado_config *config, struct yado_platform *platform)
{
    spec_platform_clear(&config->spec.platform);
    if (!platform || platform->out_of_memory) {
        config_lacks(config, "platform");
        yado_platform_free(platform);
        return;
    }
    config->spec.platform = platform->platform; /* moved */
    free(platform);
}

/* ---- machine identifiers ---- */

static struct yado_machine_identifier *identifier_of(const void *data, size_t len, struct yado_error *err)
{
    struct yado_machine_identifier *id = malloc(sizeof(*id) + len);

    if (!id) {
        err_set(err, YADO_ERR_HOST, "out of memory");
        return NULL;
    }
    id->len = len;
    memcpy(id->data, data, len);
    return id;
}

/* The backend gives the bytes; they are copied out of its hands at once. */
struct made {
    struct yado_machine_identifier *identifier;
    struct yado_error *err;
};

static void take(void *ctx, const void *data, size_t len)
{
    struct made *m = ctx;

    m->identifier = identifier_of(data, len, m->err);
}

struct yado_machine_identifier *yado_machine_identifier_new(struct yado_error *err)
{
    const struct backend_ops *ops = backend_here();
    struct made m = { NULL, err };

    if (!ops->identifier_new)
        err_set(err, YADO_ERR_UNSUPPORTED, "machine identifiers are for Apple's engine only");
    else
        ops->identifier_new(take, &m, err);
    return m.identifier;
}

struct yado_machine_identifier *yado_machine_identifier_from_data(const void *data, size_t len,
                                                                  struct yado_error *err)
{
    const struct backend_ops *ops = backend_here();

    if (!ops->identifier_check) {
        err_set(err, YADO_ERR_UNSUPPORTED, "machine identifiers are for Apple's engine only");
        return NULL;
    }
    return ops->identifier_check(data, len, err) ? identifier_of(data, len, err) : NULL;
}

static void take_for_platform(void *ctx, const void *data, size_t len)
{
    struct spec_platform *p = ctx;

    p->identifier = malloc(len);
    p->identifier_len = p->identifier ? len : 0;
    if (p->identifier)
        memcpy(p->identifier, data, len);
}

/* An older system has no identifiers, and nothing that would ask for them either. */
void platform_identify(struct spec_platform *p, const struct backend_ops *ops)
{
    if (!p->identifier && ops->identifier_new)
        ops->identifier_new(take_for_platform, p, NULL);
}

const void *yado_machine_identifier_data(const struct yado_machine_identifier *identifier, size_t *len)
{
    *len = identifier->len;
    return identifier->data;
}

void yado_machine_identifier_free(struct yado_machine_identifier *identifier)
{
    free(identifier);
}
