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

/* Starts a Linux kernel directly: a bzImage by the 64-bit boot protocol, an ELF vmlinux with a PVH entry, or
 * a multiboot (version 1) kernel, which finds the older chips of a PC and whose one module is the initrd.
 * `initrd` may be NULL (none), `command_line` NULL means "console=hvc0". The files are opened when the
 * machine starts, and read again when the guest reboots. The paths are used as they are, relative to the
 * working directory of that moment. Returns NULL only when out of memory. */
struct yado_boot_loader *yado_linux_boot_loader_new(const char *kernel, const char *initrd,
                                                    const char *command_line);

/* Whether the file is a multiboot kernel: its console is the UART. False for files that cannot be read, and
 * on Apple's engine. Any thread. */
bool yado_kernel_is_multiboot(const char *kernel);

/* Starts EFI firmware, which boots what it finds on the disks, as a PC does (Apple's engine, macOS 13). The
 * firmware keeps its variables in `variable_store`, a file made by yado_efi_variable_store_create; NULL: it
 * forgets them when the machine stops. Returns NULL only when out of memory. */
struct yado_boot_loader *yado_efi_boot_loader_new(const char *variable_store);

/* Makes an empty variable store, one for each machine. An existing file is left alone (YADO_ERR_FILE) unless
 * `overwrite`. Any thread; blocks while the file is written. YADO_ERR_UNSUPPORTED where no engine has EFI. */
bool yado_efi_variable_store_create(const char *path, bool overwrite, struct yado_error *err);

/* For a boot loader that was not given to a configuration. */
void yado_boot_loader_free(struct yado_boot_loader *loader);

#ifdef __cplusplus
}
#endif

#endif
