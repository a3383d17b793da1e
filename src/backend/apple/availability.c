/* What came with which macOS.
 *
 * Two questions, because either alone misleads: the version of the system (a class of a later SDK may exist
 * under the same name but private, as VZEFIBootLoader's did on macOS 12), and whether the runtime knows class
 * and method (Apple silicon only, or taken out again). */
#include <stdarg.h>
#include <stdio.h>

#include "backend/apple/apple_priv.h"

static bool runtime_knows(const struct vz_method_row *row)
{
    Class cls = objc_getClass(vz_classes[row->cls].name);

    if (!cls)
        return false;
    if (row->is_class_method) /* the class object's class */
        cls = object_getClass((id)(void *)cls);
    return class_respondsToSelector(cls, sel_registerName(row->selector));
}

bool method_needed(enum vz_method method, struct yado_error *err, const char *what, ...)
{
    const struct vz_method_row *row = &vz_methods[method];
    const struct os_version have = os_version_get();
    char text[160];
    va_list ap;

    if (os_version_at_least(have, row->since) && runtime_knows(row))
        return true;
    va_start(ap, what);
    vsnprintf(text, sizeof(text), what, ap);
    va_end(ap);
    if (!os_version_at_least(have, row->since))
        return err_set(err, YADO_ERR_UNSUPPORTED, "%s needs macOS %u.%u%s; this is macOS %u.%u", text,
                       row->since.major, row->since.minor,
                       row->is_arm64_only ? " on a Mac with Apple silicon" : "", have.major, have.minor);
    if (row->is_arm64_only)
        return err_set(err, YADO_ERR_UNSUPPORTED, "%s needs a Mac with Apple silicon", text);
    return err_set(err, YADO_ERR_UNSUPPORTED, "%s is not in this macOS %u.%u: %s has no method \"%s\"", text,
                   have.major, have.minor, vz_classes[row->cls].name, row->selector);
}
