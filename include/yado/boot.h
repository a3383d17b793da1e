/* How a guest starts. */
#ifndef YADO_BOOT_H
#define YADO_BOOT_H

#include <yado/base.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The longest kernel command line, bytes without the final zero. A kernel may allow less. */
#define YADO_COMMAND_LINE_MAX 4095

struct yado_boot_loader;

/* Starts a Linux kernel directly: a bzImage by the 64-bit boot protocol, or an ELF vmlinux with a PVH entry.
 * `initrd` may be NULL (none), `command_line` NULL means "console=hvc0". The files are opened when the
 * machine starts, and read again when the guest reboots. The paths are used as they are, relative to the
 * working directory of that moment. Returns NULL only when out of memory. */
struct yado_boot_loader *yado_linux_boot_loader_new(const char *kernel, const char *initrd,
                                                    const char *command_line);

/* For a boot loader that was not given to a configuration. */
void yado_boot_loader_free(struct yado_boot_loader *loader);

#ifdef __cplusplus
}
#endif

#endif
