/* What a machine tells of its inner workings, by category. */
#include <string.h>

#include "api/machine_priv.h"

static void trace_sink(void *ctx, enum log_category cat, const char *line)
{
    const struct yado_machine_options *o = ctx;

    o->trace(o->trace_ctx, log_category_name(cat), line);
}

const char *yado_trace_category(unsigned index)
{
    return index < LOG_CATEGORY_COUNT ? log_category_name((enum log_category)index) : NULL;
}

static bool category_enable(struct log *log, const char *name, size_t len, struct yado_error *err)
{
    if (len == 3 && !memcmp(name, "all", 3)) {
        log->enabled = (1u << LOG_CATEGORY_COUNT) - 1;
        return true;
    }
    for (unsigned i = 0; i < LOG_CATEGORY_COUNT; i++) {
        const char *known = log_category_name((enum log_category)i);

        if (strlen(known) == len && !memcmp(known, name, len)) {
            log->enabled |= 1u << i;
            return true;
        }
    }
    return err_set(err, YADO_ERR_INVALID_CONFIG, "trace_categories: there is no category \"%.*s\"", (int)len,
                   name);
}

bool trace_setup(struct log *log, struct yado_machine_options *options, struct yado_error *err)
{
    const char *p = options->trace_categories;

    *log = (struct log){ .sink = options->trace ? trace_sink : NULL, .ctx = options };
    while (p && *p) {
        size_t len = strcspn(p, ",");

        if (len && !category_enable(log, p, len, err))
            return false;
        p += len + (p[len] == ',');
    }
    options->trace_categories = NULL; /* the caller's string */
    return true;
}
