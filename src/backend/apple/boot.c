/* Boot loaders. */
#include "backend/apple/apple_priv.h"

#if defined(__aarch64__)
#define HOST_ARCH KERNEL_ARM64
#else
#define HOST_ARCH KERNEL_X86_64
#endif

static id linux_make(const struct spec_boot *b, struct yado_error *err)
{
    id command_line = string_of(b->command_line), loader;

    if (!kernel_check(b->kernel, HOST_ARCH, err)) {
        err_prepend(err, "boot_loader");
        return NULL;
    }
    if (!command_line) {
        err_set(err, YADO_ERR_INVALID_CONFIG, "boot_loader: the command line is not UTF-8");
        return NULL;
    }
    loader = pooled(VZLinuxBootLoader_initWithKernelURL(ALLOC(VZLinuxBootLoader), file_url(b->kernel)));
    VZLinuxBootLoader_setCommandLine(loader, command_line);
    if (b->initrd)
        VZLinuxBootLoader_setInitialRamdiskURL(loader, file_url(b->initrd));
    return loader;
}

id boot_make(const struct spec *s, struct yado_error *err)
{
    return linux_make(&s->boot, err);
}
