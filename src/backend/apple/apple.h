/* What the backend over Virtualization.framework offers besides backend_apple: whether this host has it. */
#ifndef BACKEND_APPLE_APPLE_H
#define BACKEND_APPLE_APPLE_H

#include "util/err.h"

#define APPLE_ENGINE "apple" /* its only one */

/* Whether machines can run here at all; else why not (the Mac, the macOS version, the program's signature).
 */
bool apple_usable(struct yado_error *err);

/* Members of backend_apple that live with their nouns. */
bool apple_variable_store_create(const char *path, bool overwrite, struct yado_error *err);
bool apple_identifier_new(void (*take)(void *ctx, const void *data, size_t len), void *ctx,
                          struct yado_error *err);
bool apple_identifier_check(const void *data, size_t len, struct yado_error *err);
int apple_rosetta_availability(void);
bool apple_rosetta_install(struct yado_error *err);
unsigned apple_each_bridged_interface(void (*fn)(void *ctx, const char *name, const char *display_name),
                                      void *ctx);

#endif
