/* The version of the host's operating system, where parts of it came with a version (macOS). */
#ifndef HOST_OS_VERSION_H
#define HOST_OS_VERSION_H

#include "util/base.h"

struct os_version {
    unsigned major, minor;
};

/* 0.0 if it cannot be found out. Any thread. */
struct os_version os_version_get(void);

static inline bool os_version_at_least(struct os_version have, struct os_version want)
{
    return have.major != want.major ? have.major > want.major : have.minor >= want.minor;
}

#endif
