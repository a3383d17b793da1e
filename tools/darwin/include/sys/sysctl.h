/* Facts of the macOS kernel by name. */
#ifndef DARWIN_SYS_SYSCTL_H
#define DARWIN_SYS_SYSCTL_H

#include <sys/types.h>

int sysctlbyname(const char *name, void *old, size_t *old_len, void *new_value, size_t new_len);

#endif
