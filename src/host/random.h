/* The host's random numbers. */
#ifndef HOST_RANDOM_H
#define HOST_RANDOM_H

#include "util/base.h"

/* Fills buf, fit for keys. Any thread. Cannot fail for up to 256 bytes, which is what it takes. */
void random_bytes(void *buf, size_t len);

#endif
