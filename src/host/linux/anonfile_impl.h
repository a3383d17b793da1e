/* What the ways to a memory file share. */
#ifndef HOST_LINUX_ANONFILE_IMPL_H
#define HOST_LINUX_ANONFILE_IMPL_H

#include "host/anonfile.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif

/* Returns fd; -1 and errno, with fd closed, if it may not be so large. */
int anonfile_give_size(int fd, uint64_t size);

/* Makes the 2 MiB at `at`, which mappings of a memory file have at a multiple of that, a large page. False
 * and errno if the host does not. */
bool anonfile_make_large(void *at);

#endif
