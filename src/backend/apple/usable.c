/* Whether machines can run here at all. */
#include "backend/apple/apple.h"
#include "backend/apple/apple_priv.h"

bool apple_usable(struct yado_error *err)
{
    void *pool = objc_autoreleasePoolPush();
    bool ok = NEEDED(VZVirtualMachine, isSupported, err, "engine apple");

    if (ok && !VZVirtualMachine_isSupported(vz_class(VZVirtualMachine)))
        ok = err_set(err, YADO_ERR_UNSUPPORTED, "engine apple: this Mac cannot run virtual machines");
    if (ok && !entitlement_has(ENTITLEMENT_VIRTUALIZATION))
        ok = err_set(
            err, YADO_ERR_UNSUPPORTED,
            "engine apple: this program is not signed with the entitlement " ENTITLEMENT_VIRTUALIZATION
            "; sign it (make sign, or codesign -f -s - --entitlements FILE PROGRAM)");
    objc_autoreleasePoolPop(pool);
    return ok;
}
