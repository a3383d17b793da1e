/* Shared directories, and Rosetta. */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "backend/apple/apple.h"
#include "backend/apple/apple_priv.h"
#include "backend/apple/vz_values.h"

static id directory_make(const struct spec_directory *d, struct yado_error *err)
{
    struct stat st;
    id url;

    if (stat(d->path, &st)) {
        err_set_errno(err, YADO_ERR_FILE, errno, "%s", d->path);
        return NULL;
    }
    if (!S_ISDIR(st.st_mode)) {
        err_set(err, YADO_ERR_FILE, "%s: is not a directory", d->path);
        return NULL;
    }
    url = directory_url(d->path, err);
    return url ? pooled(VZSharedDirectory_initWithURL(ALLOC(VZSharedDirectory), url, d->read_only)) : NULL;
}

static id single_make(const struct spec_share *s, struct yado_error *err)
{
    id directory = directory_make(&s->directories[0], err);

    return directory
               ? pooled(VZSingleDirectoryShare_initWithDirectory(ALLOC(VZSingleDirectoryShare), directory))
               : NULL;
}

/* A name that the framework does not want would be an exception, which nobody here could catch. */
static id name_make(const char *name, struct yado_error *err)
{
    id string = string_of(name), error = NULL;

    if (!string)
        err_set(err, YADO_ERR_INVALID_CONFIG, "\"%s\" is not UTF-8", name);
    else if (VZMultipleDirectoryShare_validateName(vz_class(VZMultipleDirectoryShare), string, &error))
        return string;
    else
        error_from(err, error, name);
    return NULL;
}

static id multiple_make(const struct spec_share *s, struct yado_error *err)
{
    id *objects = calloc(2 * (s->directory_count + 1), sizeof(*objects)), *names, share = NULL;
    bool ok = objects || err_set(err, YADO_ERR_HOST, "out of memory");

    names = ok ? objects + s->directory_count + 1 : NULL;
    for (unsigned i = 0; ok && i < s->directory_count; i++) {
        names[i] = name_make(s->directories[i].name, err);
        objects[i] = names[i] ? directory_make(&s->directories[i], err) : NULL;
        ok = objects[i] || err_prepend(err, "directories[%u]", i);
    }
    if (ok)
        share = pooled(VZMultipleDirectoryShare_initWithDirectories(
            ALLOC(VZMultipleDirectoryShare), dictionary_of(objects, names, s->directory_count)));
    free(objects);
    return share;
}

static id rosetta_make(struct yado_error *err)
{
    id error = NULL, share;

    if (!NEEDED(VZLinuxRosettaDirectoryShare, init, err, "Rosetta"))
        return NULL;
    switch (apple_rosetta_availability()) {
    case VZ_ROSETTA_INSTALLED: break;
    case VZ_ROSETTA_NOT_INSTALLED:
        err_set(err, YADO_ERR_UNSUPPORTED,
                "Rosetta is not installed; install it (yado_rosetta_install, or softwareupdate "
                "--install-rosetta)");
        return NULL;
    default: err_set(err, YADO_ERR_UNSUPPORTED, "this Mac has no Rosetta for Linux"); return NULL;
    }
    share = VZLinuxRosettaDirectoryShare_init(ALLOC(VZLinuxRosettaDirectoryShare), &error);
    if (!share)
        error_from(err, error, "Rosetta");
    return pooled(share);
}

id directory_share_make(const struct spec_share *s, unsigned index, struct yado_error *err)
{
    id share = NULL;

    switch (s->kind) {
    case SPEC_SHARE_SINGLE: share = single_make(s, err); break;
    case SPEC_SHARE_MULTIPLE: share = multiple_make(s, err); break;
    case SPEC_SHARE_ROSETTA: share = rosetta_make(err); break;
    }
    if (!share)
        err_prepend(err, "shares[%u]", index);
    return share;
}

id share_make(const struct spec_share *s, unsigned index, struct yado_error *err)
{
    id tag = string_of(s->tag), error = NULL, share, device;

    /* The newest thing first, so that the version named is enough. */
    if ((s->kind == SPEC_SHARE_ROSETTA &&
         !NEEDED(VZLinuxRosettaDirectoryShare, init, err, "shares[%u]: Rosetta", index)) ||
        !NEEDED(VZVirtioFileSystemDeviceConfiguration, initWithTag, err, "shares[%u]: a shared directory",
                index))
        return NULL;
    if (!tag) {
        err_set(err, YADO_ERR_INVALID_CONFIG, "shares[%u].tag: it is not UTF-8", index);
        return NULL;
    }
    if (!VZVirtioFileSystemDeviceConfiguration_validateTag(vz_class(VZVirtioFileSystemDeviceConfiguration),
                                                           tag, &error)) {
        error_from(err, error, s->tag);
        err_prepend(err, "shares[%u].tag", index);
        return NULL;
    }
    share = directory_share_make(s, index, err);
    if (!share)
        return NULL;
    device = pooled(
        VZVirtioFileSystemDeviceConfiguration_initWithTag(ALLOC(VZVirtioFileSystemDeviceConfiguration), tag));
    VZVirtioFileSystemDeviceConfiguration_setShare(device, share);
    return device;
}

/* ---- Rosetta without a machine ---- */

int apple_rosetta_availability(void)
{
    if (!NEEDED(VZLinuxRosettaDirectoryShare, availability, NULL, "Rosetta"))
        return VZ_ROSETTA_NOT_SUPPORTED;
    return (int)VZLinuxRosettaDirectoryShare_availability(vz_class(VZLinuxRosettaDirectoryShare));
}

struct install {
    pthread_mutex_t lock;
    pthread_cond_t over;
    bool is_over, ok;
    struct yado_error *err;
};

static void installed(void *ctx, id error)
{
    struct install *i = ctx;
    void *pool = objc_autoreleasePoolPush();
    bool ok = !error || error_from(i->err, error, "Rosetta");

    objc_autoreleasePoolPop(pool);
    pthread_mutex_lock(&i->lock);
    i->ok = ok;
    i->is_over = true;
    pthread_cond_signal(&i->over);
    pthread_mutex_unlock(&i->lock);
}

bool apple_rosetta_install(struct yado_error *err)
{
    struct install i = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false, false, err };
    struct block done = block_error(installed, &i);
    void *pool = objc_autoreleasePoolPush();

    if (NEEDED(VZLinuxRosettaDirectoryShare, install, err, "Rosetta")) {
        VZLinuxRosettaDirectoryShare_install(vz_class(VZLinuxRosettaDirectoryShare), &done);
        pthread_mutex_lock(&i.lock);
        while (!i.is_over)
            pthread_cond_wait(&i.over, &i.lock);
        pthread_mutex_unlock(&i.lock);
    }
    objc_autoreleasePoolPop(pool);
    return i.ok;
}
