/* The rows of vz_table.h as data. */
#include "backend/apple/vz.h"

#define ARCH_ANY false
#define ARCH_ARM64 true
#define KIND_I false
#define KIND_C true

#define ROW(name, arch, major, minor) { #name, ARCH_##arch, { major, minor } },
const struct vz_class_row vz_classes[VZ_CLASS_COUNT] = { VZ_CLASSES(ROW) };
#undef ROW

#define ROW(cls, name, kind, selector, shape, arch, major, minor)                                            \
    { VZ_CLASS_##cls, selector, VZ_SHAPE_##shape, KIND_##kind, ARCH_##arch, { major, minor } },
const struct vz_method_row vz_methods[VZ_METHOD_COUNT] = { VZ_METHODS(ROW) };
#undef ROW

#define ROW(protocol, name, selector, shape, major, minor)                                                   \
    { #protocol, selector, VZ_SHAPE_##shape, { major, minor } },
const struct vz_callback_row vz_callbacks[VZ_CALLBACK_COUNT] = { VZ_CALLBACKS(ROW) };
#undef ROW

id vz_class_named(enum vz_class cls)
{
    return (id)(void *)objc_getClass(vz_classes[cls].name);
}
