/* Makes the NoCloud seed: an ISO 9660 image, volume label "cidata", that tells cloud-init in the guest who it
 * is.
 *
 * cloud-init documentation, "NoCloud" data source: the files user-data, meta-data and (optionally)
 * network-config at the root of a volume labelled cidata. Names are exact through both Rock Ridge and Joliet.
 * The contents are passed through untouched, whatever they are. */
#ifndef SEED_SEED_H
#define SEED_SEED_H

#include "util/err.h"

#define SEED_INPUT_MAX MIB(16) /* bytes, each file */

struct seed_file {
    const void *data; /* NULL: absent. An empty file is any other pointer with len 0 */
    size_t len;       /* bytes */
};

/* Everything is borrowed for the time of the call. */
struct seed_input {
    struct seed_file user_data; /* required */
    /* When absent, made up from the host name and a hash of the other inputs, so that changed inputs are a
     * new instance to cloud-init and equal ones are not. */
    struct seed_file meta_data;
    struct seed_file network_config; /* optional */
    const char *hostname;            /* used when meta_data is absent; NULL: "yado" */
};

struct seed_image {
    int fd;        /* anonymous file that holds the image, at offset 0; close-on-exec; owned by the struct */
    uint64_t size; /* bytes, a multiple of 2048 */
};

/* Builds the image. Any thread; blocks for as long as it takes to write the inputs to memory. On failure
 * out->fd is -1. Errors: INVALID_CONFIG (user-data missing, an input over SEED_INPUT_MAX, a host name that is
 * none), UNSUPPORTED (no libarchive), HOST. */
bool seed_build(const struct seed_input *in, struct seed_image *out, struct yado_error *err);

/* Writes the whole image to fd from its present offset on. `name` is for messages. Error: FILE. */
bool seed_image_write(const struct seed_image *img, int fd, const char *name, struct yado_error *err);

/* Closes the fd if it is still there; to hand the fd on, take it and set out->fd to -1. */
void seed_image_close(struct seed_image *img);

#endif
