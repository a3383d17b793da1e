/* Directories of the host that the guest can mount: directories in a share, a share in a device with a tag.
 * In a Linux guest: mount -t virtiofs TAG DIRECTORY. Apple's engine (macOS 12). */
#ifndef YADO_SHARE_H
#define YADO_SHARE_H

#include <yado/base.h>

#ifdef __cplusplus
extern "C" {
#endif

#define YADO_SHARE_TAG_MAX 35 /* bytes without the final zero; virtio 1.2, 5.11.4 has 36 */

struct yado_shared_directory;
struct yado_directory_share;
struct yado_share; /* device */

enum {
    YADO_DIRECTORY_READ_ONLY = 1, /* the guest cannot change anything in it */
};

/* A directory that exists when the configuration is validated. `flags` are YADO_DIRECTORY_*. NULL only when
 * out of memory. */
struct yado_shared_directory *yado_shared_directory_new(const char *path, unsigned flags);
/* For a directory that was not given to a share. */
void yado_shared_directory_free(struct yado_shared_directory *directory);

/* The directory itself is what the guest mounts. Takes `directory` over. */
struct yado_directory_share *yado_single_share_new(struct yado_shared_directory *directory);

/* Several: the guest sees each under its name in the root of what it mounts. */
struct yado_directory_share *yado_multiple_share_new(void);
/* Adds one. Takes `directory` over. Names are not empty, are file names, and differ; checked by
 * yado_config_validate. */
void yado_multiple_share_add(struct yado_directory_share *share, const char *name,
                             struct yado_shared_directory *directory);

/* Apple's translator of x86-64 programs for arm64 Linux guests (macOS 13 on Apple silicon), which the guest
 * registers with binfmt_misc. It must be installed on the host. */
struct yado_directory_share *yado_rosetta_share_new(void);

enum yado_rosetta {
    YADO_ROSETTA_NOT_SUPPORTED = 0, /* this host has none */
    YADO_ROSETTA_NOT_INSTALLED = 1,
    YADO_ROSETTA_INSTALLED = 2,
};

/* Any thread. */
enum yado_rosetta yado_rosetta_availability(void);
/* Installs it; the system may ask the user. Blocks until that is done. Any thread. */
bool yado_rosetta_install(struct yado_error *err);

/* For a share that was not given to a device. */
void yado_directory_share_free(struct yado_directory_share *share);

/* A virtio file system device (virtio 1.2, 5.11). `tag` is what the guest mounts it by: 1 to
 * YADO_SHARE_TAG_MAX bytes, and no other device's; checked by yado_config_validate. Takes `share` over. */
struct yado_share *yado_virtio_fs_new(const char *tag, struct yado_directory_share *share);

/* For a device that was not given to a configuration. */
void yado_share_free(struct yado_share *share);

#ifdef __cplusplus
}
#endif

#endif
