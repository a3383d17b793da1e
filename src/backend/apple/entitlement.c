/* What the code signature of this process claims. Asked before a configuration is validated, because the
 * framework says no more than that the configuration is invalid. */
#include "backend/apple/apple_priv.h"

bool entitlement_has(const char *name)
{
    void *pool = objc_autoreleasePoolPush();
    CFTypeRef task = SecTaskCreateFromSelf(NULL);
    /* An NSString is a CFString. */
    CFTypeRef value = task ? SecTaskCopyValueForEntitlement(task, (CFTypeRef)string_of(name), NULL) : NULL;
    bool has = value && CFGetTypeID(value) == CFBooleanGetTypeID() && CFBooleanGetValue(value);

    if (value)
        CFRelease(value);
    if (task)
        CFRelease(task);
    objc_autoreleasePoolPop(pool);
    return has;
}
