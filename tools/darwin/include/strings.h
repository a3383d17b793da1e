/* Comparisons without case. */
#ifndef DARWIN_STRINGS_H
#define DARWIN_STRINGS_H

#include <stddef.h>

int strcasecmp(const char *a, const char *b);
int strncasecmp(const char *a, const char *b, size_t len);

#endif
