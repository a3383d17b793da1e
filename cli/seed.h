/* The seed options that `yado seed` and `yado run` share. */
#ifndef CLI_SEED_H
#define CLI_SEED_H

#include <yado/yado.h>

/* The files come first and in the order of enum yado_seed_part. */
enum seed_option {
    SEED_USER_DATA,
    SEED_META_DATA,
    SEED_NETWORK_CONFIG,
    SEED_NAME,
    SEED_FILE_COUNT = SEED_NAME
};

struct seed_options {
    const char *files[SEED_FILE_COUNT]; /* NULL: not given */
    const char *name;
};

void seed_options_set(struct seed_options *o, enum seed_option which, const char *value);
/* Reads the files. NULL and err on failure. */
struct yado_seed *seed_make(const struct seed_options *o, struct yado_error *err);

#endif
