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
    const char *text = string_text((id)(uintptr_t)name);

    object_check((id)(uintptr_t)task, __builtin_return_address(0), "SecTaskCopyValueForEntitlement");
    if (error)
        *error = NULL;
    if ((!strcmp(text, "com.apple.security.virtualization") && standin_world.can_virtualize) ||
        (!strcmp(text, "com.apple.vm.networking") && standin_world.can_network))
        return (CFTypeRef)object_make_named("NSNumber", __builtin_return_address(0));
    return NULL;
}

void CFRelease(CFTypeRef object)
{
    if (!object)
        standin_fail(__builtin_return_address(0), "CFRelease(NULL)");
    object_release((id)(uintptr_t)object, __builtin_return_address(0));
}
