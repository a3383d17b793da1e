/* Screens, keyboards and pointers. */
#include "backend/apple/apple_priv.h"

id graphics_make(const struct spec_graphics *g, unsigned index, struct yado_error *err)
{
    id scanout, device;

    if (!NEEDED(VZVirtioGraphicsDeviceConfiguration, setScanouts, err, "graphics[%u]: a virtio GPU", index))
        return NULL;
    if (g->scanout_count > 1) {
        err_set(err, YADO_ERR_UNSUPPORTED, "graphics[%u]: this engine has one screen for each device", index);
        return NULL;
    }
    device = NEW(VZVirtioGraphicsDeviceConfiguration);
    if (g->scanout_count) {
        scanout = pooled(VZVirtioGraphicsScanoutConfiguration_init(
            ALLOC(VZVirtioGraphicsScanoutConfiguration), (long)g->scanouts[0].width,
            (long)g->scanouts[0].height));
        VZVirtioGraphicsDeviceConfiguration_setScanouts(device, array_of(&scanout, 1));
    }
    return device;
}

id keyboard_make(unsigned index, struct yado_error *err)
{
    if (!NEEDED(VZUSBKeyboardConfiguration, init, err, "keyboards[%u]: a keyboard", index))
        return NULL;
    return NEW(VZUSBKeyboardConfiguration);
}

id pointing_make(unsigned index, struct yado_error *err)
{
    if (!NEEDED(VZUSBScreenCoordinatePointingDeviceConfiguration, init, err,
                "pointing[%u]: a pointing device", index))
        return NULL;
    return NEW(VZUSBScreenCoordinatePointingDeviceConfiguration);
}
