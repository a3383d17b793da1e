/* Boot loaders, and the files in which EFI keeps its variables. */
#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/apple/apple.h"
#include "backend/apple/apple_priv.h"
#include "backend/apple/vz_values.h"

#if defined(__aarch64__)
#define HOST_ARCH KERNEL_ARM64
#else
#define HOST_ARCH KERNEL_X86_64
#endif

/* The framework would say less of another kind of file, and wait for the writer of a FIFO. `mode` as for
 * access. */
static bool regular_check(const char *path, int mode, const char *cannot, struct yado_error *err)
{
    struct stat st;

    if (stat(path, &st) || access(path, mode))
        return err_set_errno(err, YADO_ERR_FILE, errno, "%s: %s", path, cannot);
    return S_ISREG(st.st_mode) || err_set(err, YADO_ERR_FILE, "%s: is %s", path,
                                          S_ISDIR(st.st_mode) ? "a directory" : "not a regular file");
}

static id linux_make(const struct spec_boot *b, struct yado_error *err)
{
    id command_line = string_of(b->command_line), kernel, initrd = NULL, loader;

    if (!kernel_check(b->kernel, HOST_ARCH, err))
        return NULL;
    if (b->initrd && !regular_check(b->initrd, R_OK, "cannot open", err))
        return NULL;
    if (!command_line) {
        err_set(err, YADO_ERR_INVALID_CONFIG, "the command line is not UTF-8");
        return NULL;
    }
    kernel = file_url(b->kernel, err);
    if (b->initrd)
        initrd = file_url(b->initrd, err);
    if (!kernel || (b->initrd && !initrd))
        return NULL;
    loader = pooled(VZLinuxBootLoader_initWithKernelURL(ALLOC(VZLinuxBootLoader), kernel));
    VZLinuxBootLoader_setCommandLine(loader, command_line);
    if (initrd)
        VZLinuxBootLoader_setInitialRamdiskURL(loader, initrd);
    return loader;
}

static id efi_make(const struct spec_boot *b, struct yado_error *err)
{
    id loader, store;

    if (!NEEDED(VZEFIBootLoader, init, err, "EFI"))
        return NULL;
    loader = NEW(VZEFIBootLoader);
    if (!b->variable_store)
        return loader;
    if (!regular_check(b->variable_store, R_OK | W_OK, "cannot open the variable store for writing", err))
        return NULL;
    store = file_url(b->variable_store, err);
    if (!store)
        return NULL;
    VZEFIBootLoader_setVariableStore(
        loader, pooled(VZEFIVariableStore_initWithURL(ALLOC(VZEFIVariableStore), store)));
    return loader;
}

id boot_make(const struct spec_boot *b, struct yado_error *err)
{
    id loader = b->kind == SPEC_BOOT_EFI ? efi_make(b, err) : linux_make(b, err);

    if (!loader)
        err_prepend(err, "boot_loader");
    return loader;
}

bool apple_variable_store_create(const char *path, bool overwrite, struct yado_error *err)
{
    void *pool = objc_autoreleasePoolPush();
    id error = NULL, url = NULL, store;
    bool ok = NEEDED(VZEFIVariableStore, initCreating, err, "%s: an EFI variable store", path) &&
              (url = file_url(path, err));

    if (ok) {
        store = VZEFIVariableStore_initCreating(ALLOC(VZEFIVariableStore), url,
                                                overwrite ? VZ_EFI_STORE_ALLOW_OVERWRITE : 0, &error);
        ok = pooled(store) || error_from(err, error, path);
    }
    objc_autoreleasePoolPop(pool);
    return ok;
}
