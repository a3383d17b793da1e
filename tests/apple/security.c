/* What Security says of the process: its entitlements, as the world has them. */
#include <string.h>

#include "rt.h"

CFTypeRef SecTaskCreateFromSelf(CFTypeRef allocator)
{
    if (allocator)
        standin_fail(__builtin_return_address(0), "SecTaskCreateFromSelf: an allocator");
    return (CFTypeRef)object_make_named("StandinBytes", __builtin_return_address(0));
}

CFTypeRef SecTaskCopyValueForEntitlement(CFTypeRef task, CFTypeRef name, CFTypeRef *error)
{
    const struct {
        const char *name;
        const enum standin_entitlement *claim;
    } claims[] = {
        { "com.apple.security.virtualization", &standin_world.virtualization },
        { "com.apple.vm.networking", &standin_world.networking },
        { "com.apple.security.network.client", &standin_world.network_client },
    };
    const char *text = string_text((id)(uintptr_t)name);
    id value;

    object_check((id)(uintptr_t)task, __builtin_return_address(0), "SecTaskCopyValueForEntitlement");
    if (error)
        *error = NULL;
    for (size_t i = 0; i < array_size(claims); i++) {
        if (strcmp(text, claims[i].name) != 0 || *claims[i].claim == ENTITLEMENT_ABSENT)
            continue;
        value = object_make_named("NSNumber", __builtin_return_address(0));
        property_set_number(value, "boolean", *claims[i].claim == ENTITLEMENT_TRUE);
        return (CFTypeRef)value;
    }
    return NULL;
}

/* Types of Core Foundation: one for booleans, another for all else. */
unsigned long CFGetTypeID(CFTypeRef object)
{
    object_check((id)(uintptr_t)object, __builtin_return_address(0), "CFGetTypeID");
    return CFBooleanGetTypeID() + !property_has((id)(uintptr_t)object, "boolean");
}

unsigned long CFBooleanGetTypeID(void)
{
    return 21;
}

unsigned char CFBooleanGetValue(CFTypeRef boolean)
{
    if (CFGetTypeID(boolean) != CFBooleanGetTypeID())
        standin_fail(__builtin_return_address(0), "CFBooleanGetValue: of something else");
    return property_number((id)(uintptr_t)boolean, "boolean") != 0;
}

void CFRelease(CFTypeRef object)
{
    if (!object)
        standin_fail(__builtin_return_address(0), "CFRelease(NULL)");
    object_release((id)(uintptr_t)object, __builtin_return_address(0));
}
