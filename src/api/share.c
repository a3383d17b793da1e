/* Shared directories: objects, and what is checked of them. */
#include <stdlib.h>
#include <string.h>

#include "api/config_priv.h"
#include "backend/backend.h"

#define NAME_LEN_MAX 255 /* bytes of a file name */

struct yado_shared_directory *yado_shared_directory_new(const char *path, unsigned flags)
{
    struct yado_shared_directory *d = calloc(1, sizeof(*d));

    if (!d)
        return NULL;
    d->directory.read_only = (flags & YADO_DIRECTORY_READ_ONLY) != 0;
    d->directory.path = strdup(path ? path : "");
    if (d->directory.path)
        return d;
    free(d);
    return NULL;
}

void yado_shared_directory_free(struct yado_shared_directory *directory)
{
    if (!directory)
        return;
    free(directory->directory.path);
    free(directory);
}

static struct yado_directory_share *share_new(enum spec_share_kind kind)
{
    struct yado_directory_share *s = calloc(1, sizeof(*s));

    if (s)
        s->share.kind = kind;
    return s;
}

static void directory_take(struct yado_directory_share *s, const char *name,
                           struct yado_shared_directory *directory)
{
    struct spec_directory d;

    if (!s) {
        yado_shared_directory_free(directory);
        return;
    }
    if (!directory) {
        s->out_of_memory = true;
        return;
    }
    d = directory->directory;
    d.name = (char *)(uintptr_t)name; /* copied */
    if (!spec_directory_add(&s->share, &d))
        s->out_of_memory = true;
    yado_shared_directory_free(directory);
}

struct yado_directory_share *yado_single_share_new(struct yado_shared_directory *directory)
{
    struct yado_directory_share *s = share_new(SPEC_SHARE_SINGLE);

    directory_take(s, NULL, directory);
    return s;
}

struct yado_directory_share *yado_multiple_share_new(void)
{
    return share_new(SPEC_SHARE_MULTIPLE);
}

void yado_multiple_share_add(struct yado_directory_share *share, const char *name,
                             struct yado_shared_directory *directory)
{
    directory_take(share, name ? name : "", directory);
}

struct yado_directory_share *yado_rosetta_share_new(void)
{
    return share_new(SPEC_SHARE_ROSETTA);
}

enum yado_rosetta yado_rosetta_availability(void)
{
    const struct backend_ops *ops = backend_here();

    return ops->rosetta_availability ? (enum yado_rosetta)ops->rosetta_availability()
                                     : YADO_ROSETTA_NOT_SUPPORTED;
}

bool yado_rosetta_install(struct yado_error *err)
{
    const struct backend_ops *ops = backend_here();

    if (!ops->rosetta_install)
        return err_set(err, YADO_ERR_UNSUPPORTED, "Rosetta is Apple's, for macOS 13 on Apple silicon");
    return ops->rosetta_install(err);
}

void yado_directory_share_free(struct yado_directory_share *share)
{
    if (!share)
        return;
    spec_share_clear(&share->share);
    free(share);
}

struct yado_share *yado_virtio_fs_new(const char *tag, struct yado_directory_share *share)
{
    struct yado_share *s = calloc(1, sizeof(*s));

    if (!s || !share) {
        yado_directory_share_free(share);
        free(s);
        return NULL;
    }
    s->share = share->share; /* moved */
    s->out_of_memory = share->out_of_memory;
    free(share);
    s->share.tag = strdup(tag ? tag : "");
    s->out_of_memory |= !s->share.tag;
    return s;
}

void yado_share_free(struct yado_share *share)
{
    if (!share)
        return;
    spec_share_clear(&share->share);
    free(share);
}

void yado_config_add_share(struct yado_config *config, struct yado_share *share)
{
    if (!share || share->out_of_memory) {
        config_lacks_device(config, "shares", config->spec.share_count);
        yado_share_free(share);
    } else if (!device_fits(config)) {
        yado_share_free(share);
    } else {
        config->spec.shares[config->spec.share_count++] = share->share; /* moved */
        free(share);
    }
}

/* ---- checks ---- */

static bool name_check(const struct spec_share *s, unsigned index, unsigned directory, struct yado_error *err)
{
    const char *name = s->directories[directory].name;

    if (!*name || strlen(name) > NAME_LEN_MAX || strchr(name, '/') || !strcmp(name, ".") ||
        !strcmp(name, ".."))
        return err_set(err, YADO_ERR_INVALID_CONFIG,
                       "shares[%u].directories[%u]: \"%.40s\" is not a file name of 1 to %d bytes", index,
                       directory, name, NAME_LEN_MAX);
    for (unsigned i = 0; i < directory; i++) {
        if (!strcmp(name, s->directories[i].name))
            return err_set(err, YADO_ERR_INVALID_CONFIG,
                           "shares[%u].directories[%u]: the name \"%.40s\" is that of directories[%u]", index,
                           directory, name, i);
    }
    return true;
}

bool share_check(const struct spec_share *s, unsigned index, struct yado_error *err)
{
    for (unsigned i = 0; i < s->directory_count; i++) {
        if (!s->directories[i].path[0])
            return err_set(err, YADO_ERR_INVALID_CONFIG, "shares[%u].directories[%u]: the path is empty",
                           index, i);
        if (s->kind == SPEC_SHARE_MULTIPLE && !name_check(s, index, i, err))
            return false;
    }
    if (s->kind != SPEC_SHARE_MULTIPLE && s->directory_count != (s->kind == SPEC_SHARE_SINGLE ? 1 : 0))
        return err_set(err, YADO_ERR_INVALID_CONFIG,
                       "shares[%u]: only a multiple share takes further directories", index);
    return true;
}

bool shares_check(const struct spec *s, struct yado_error *err)
{
    for (unsigned i = 0; i < s->share_count; i++) {
        const char *tag = s->shares[i].tag;

        if (!*tag || strlen(tag) > YADO_SHARE_TAG_MAX)
            return err_set(err, YADO_ERR_INVALID_CONFIG, "shares[%u].tag: \"%.40s\" has not 1 to %d bytes", i,
                           tag, YADO_SHARE_TAG_MAX);
        for (unsigned j = 0; j < i; j++) {
            if (!strcmp(tag, s->shares[j].tag))
                return err_set(err, YADO_ERR_INVALID_CONFIG, "shares[%u].tag: \"%s\" is that of shares[%u]",
                               i, tag, j);
        }
        if (!share_check(&s->shares[i], i, err))
            return false;
    }
    return true;
}
