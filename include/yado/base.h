/* Vocabulary of the public headers.
 *
 * Threads: unless a call says otherwise, different objects may be used on different threads at the same time,
 * and one object on one thread at a time. A machine (machine.h) may be used on any thread at any time. Names:
 * `_new` makes an object that the caller owns. A parameter described as "taken over" belongs to the callee
 * from then on, also when the call fails; NULL stands for an object that could not be made for lack of
 * memory, and is remembered and reported by yado_config_validate. `_free` accepts NULL. Strings are UTF-8,
 * copied by the callee. Sizes are bytes. */
#ifndef YADO_BASE_H
#define YADO_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <yado/error.h>

#ifdef __cplusplus
extern "C" {
#endif

#define YADO_VERSION_MAJOR 0
#define YADO_VERSION_MINOR 1
#define YADO_VERSION_PATCH 0

/* The version of the library that is running, such as "0.1.0". Any thread; never NULL. */
const char *yado_version(void);

#ifdef __cplusplus
}
#endif

#endif
