/* Random numbers of libSystem: see host/random.h. */
#include "host/random.h"

#include <stdlib.h>

void random_bytes(void *buf, size_t len)
{
    BUG_ON(len > 256);
    arc4random_buf(buf, len);
}
