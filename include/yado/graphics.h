/* A screen, a keyboard and a pointer for the guest. Apple's engine: the framework shows the screen in a view
 * of its own (VZVirtualMachineView), which takes the keys and the pointer too; the library opens no window.
 */
#ifndef YADO_GRAPHICS_H
#define YADO_GRAPHICS_H

#include <yado/base.h>

#ifdef __cplusplus
extern "C" {
#endif

#define YADO_SCANOUT_COUNT_MAX 16u /* virtio 1.2, 5.7.4; Apple's engine has one */
#define YADO_SCANOUT_SIZE_MAX 16384u

struct yado_graphics;
struct yado_keyboard;
struct yado_pointing;

/* A virtio GPU (virtio 1.2, 5.7; macOS 13) without a screen. NULL only when out of memory. */
struct yado_graphics *yado_virtio_gpu_new(void);
/* Adds a screen: width and height in pixels, 1 to YADO_SCANOUT_SIZE_MAX. Checked by yado_config_validate. */
void yado_graphics_add_scanout(struct yado_graphics *graphics, unsigned width, unsigned height);

/* A USB keyboard, and a USB pointer with absolute coordinates (macOS 12). NULL only when out of memory. */
struct yado_keyboard *yado_usb_keyboard_new(void);
struct yado_pointing *yado_usb_pointing_new(void);

/* For devices that were not given to a configuration. */
void yado_graphics_free(struct yado_graphics *graphics);
void yado_keyboard_free(struct yado_keyboard *keyboard);
void yado_pointing_free(struct yado_pointing *pointing);

#ifdef __cplusplus
}
#endif

#endif
