/* Limits of a process on macOS. */
#ifndef DARWIN_SYS_RESOURCE_H
#define DARWIN_SYS_RESOURCE_H

#include <stdint.h>

#define RLIMIT_NOFILE 8

typedef uint64_t rlim_t;
struct rlimit {
    rlim_t rlim_cur, rlim_max;
};

int getrlimit(int resource, struct rlimit *limit);
int setrlimit(int resource, const struct rlimit *limit);

#endif
