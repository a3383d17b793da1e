/* Objects of Foundation from C, with ownership in one rule: everything here, and everything that the files of
 * this folder make, belongs to the autorelease pool of the entry point that is running; what must live longer
 * is retained by name (objc_retain) and released by name. So an error return leaks nothing, and nothing is
 * released twice.
 *
 * Every function that the rest of the library calls, and every callback of the framework, opens a pool first
 * (pool_open) and closes it last. Any thread; each has its own pools. */
#ifndef BACKEND_APPLE_OBJC_H
#define BACKEND_APPLE_OBJC_H

#include "backend/apple/vz_calls.h"
#include "util/err.h"

/* void *pool = objc_autoreleasePoolPush(); ... objc_autoreleasePoolPop(pool); */

/* A class's instance after alloc, to be handed to an init... call at once, which consumes it. NULL if this
 * host has no such class. */
id object_alloc(enum vz_class cls);
/* alloc and init. */
id object_new(enum vz_class cls);
/* Makes the pool the owner of what init... returned. NULL stays NULL. */
id pooled(id owned);

#define NEW(name) object_new(VZ_CLASS_##name)
#define ALLOC(name) object_alloc(VZ_CLASS_##name)

/* NULL if `text` is not UTF-8. */
id string_of(const char *text);
/* A file URL; the path is made absolute by the framework. NULL and err if it is not UTF-8, which Foundation
 * takes for a mistake of the program's: an exception, which nobody here could catch. */
id file_url(const char *path, struct yado_error *err);
id directory_url(const char *path, struct yado_error *err);
/* NULL if it is malformed. */
id url_of(const char *text);
id array_of(const id *objects, size_t count);
id dictionary_of(const id *objects, const id *keys, size_t count);
id data_of(const void *bytes, size_t len);
/* A handle of a duplicate of fd, which it closes when it dies. NULL: no descriptor to be had. */
id file_handle_of(int fd);

/* The text of an NSString; "" for NULL. Lives as long as the pool. */
const char *text_of(id string);

#endif
