/* Limits of macOS beside those of the compiler. */
#ifndef DARWIN_LIMITS_H
#define DARWIN_LIMITS_H

#include_next <limits.h>

#define PATH_MAX 1024

#endif
