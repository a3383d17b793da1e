/* The rows of vz_table.h by number, and what this host has of them. */
#ifndef BACKEND_APPLE_VZ_H
#define BACKEND_APPLE_VZ_H

#include "backend/apple/objc_rt.h"
#include "backend/apple/vz_table.h"
#include "host/os_version.h"

#define VZ_NUMBER(name, arch, major, minor) VZ_CLASS_##name,
enum vz_class { VZ_CLASSES(VZ_NUMBER) VZ_CLASS_COUNT };
#undef VZ_NUMBER

#define VZ_NUMBER(cls, name, kind, selector, shape, arch, major, minor) VZ_##cls##_##name,
enum vz_method { VZ_METHODS(VZ_NUMBER) VZ_METHOD_COUNT };
#undef VZ_NUMBER

#define VZ_NUMBER(protocol, name, selector, shape, major, minor) VZ_##protocol##_##name,
enum vz_callback { VZ_CALLBACKS(VZ_NUMBER) VZ_CALLBACK_COUNT };
#undef VZ_NUMBER

struct vz_class_row {
    const char *name;
    bool is_arm64_only;
    struct os_version since;
};

struct vz_method_row {
    enum vz_class cls;
    const char *selector, *encoding;
    bool is_class_method, is_arm64_only;
    struct os_version since;
};

struct vz_callback_row {
    const char *protocol, *selector, *encoding;
    struct os_version since;
};

extern const struct vz_class_row vz_classes[VZ_CLASS_COUNT];
extern const struct vz_method_row vz_methods[VZ_METHOD_COUNT];
extern const struct vz_callback_row vz_callbacks[VZ_CALLBACK_COUNT];

/* The class object, for class methods; NULL if this host has no such class. */
id vz_class_named(enum vz_class cls);
#define vz_class(name) vz_class_named(VZ_CLASS_##name)

#endif
