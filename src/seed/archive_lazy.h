/* Whether libarchive is there, which is loaded when first used (archive_lazy.c); on macOS it is linked. */
#ifndef SEED_ARCHIVE_LAZY_H
#define SEED_ARCHIVE_LAZY_H

#include "util/err.h"

/* Loads it, unless that was done. False and err (UNSUPPORTED), with what to install. Any thread. */
#ifdef __APPLE__
static inline bool archive_lazy_load(struct yado_error *err)
{
    (void)err;
    return true;
}
#else
bool archive_lazy_load(struct yado_error *err);
#endif

#endif
