/* Files that live in memory only, and what the host says of its memory. */
#ifndef HOST_ANONFILE_H
#define HOST_ANONFILE_H

#include "util/err.h"

/* A zero-filled file of `size` bytes without a name in any directory (`name` shows in /proc only).
 * Read-write, close-on-exec, pages are taken as they are touched. Returns the descriptor, which is the
 * caller's, or -1 and errno. With `executable` its pages may be mapped executable where the host allows that
 * at all. */
int anonfile_open(const char *name, uint64_t size, bool executable);

/* The same, executable, of which the host gives 2 MiB at once where it is mapped at a multiple of that, as
 * far as it has them. -1 and errno if it does no such thing for this process. */
int anonfile_open_large(const char *name, uint64_t size);

struct memory_facts {
    uint64_t total;     /* bytes of RAM and swap that the host has; 0: not known */
    uint64_t available; /* bytes that can be had now without hurting, cgroup limit included; 0: not known */
};

struct memory_facts memory_facts_get(void);

#endif
