/* NoCloud seeds: the small disk (label "cidata") from which cloud-init in the guest takes its first
 * instructions. */
#ifndef YADO_SEED_H
#define YADO_SEED_H

#include <yado/base.h>
#include <yado/storage.h>

#ifdef __cplusplus
extern "C" {
#endif

#define YADO_SEED_PART_MAX (16u << 20) /* bytes of each part */

struct yado_seed;

enum yado_seed_part {
    YADO_SEED_USER_DATA,      /* required */
    YADO_SEED_META_DATA,      /* made up if absent: an instance id from the contents, and the host name */
    YADO_SEED_NETWORK_CONFIG, /* left out if absent */
};

/* NULL only when out of memory. */
struct yado_seed *yado_seed_new(void);
void yado_seed_free(struct yado_seed *seed);

/* Sets a part from bytes, which are copied, or from a file or pipe, which is read now, to its end. Any bytes
 * are passed on as they are. False and err if it is too large or cannot be read, or if it is a pipe that
 * nobody has opened for writing 5 s later. */
bool yado_seed_set(struct yado_seed *seed, enum yado_seed_part part, const void *bytes, size_t len,
                   struct yado_error *err);
bool yado_seed_set_file(struct yado_seed *seed, enum yado_seed_part part, const char *path,
                        struct yado_error *err);

/* The host name in made-up meta-data. Default "yado". False if it is not a host name. */
bool yado_seed_set_host_name(struct yado_seed *seed, const char *name, struct yado_error *err);

/* Writes the image to `path`, whole or not at all: an existing file is replaced only by a finished one.
 * Blocks. */
bool yado_seed_write(const struct yado_seed *seed, const char *path, struct yado_error *err);

/* The image as a read-only disk in memory, for yado_virtio_block_new. NULL and err on failure. */
struct yado_disk *yado_seed_disk_new(const struct yado_seed *seed, struct yado_error *err);

#ifdef __cplusplus
}
#endif

#endif
