/* Random numbers by getrandom: see host/random.h. */
#include "host/random.h"

#include <errno.h>
#include <sys/random.h>

void random_bytes(void *buf, size_t len)
{
    ssize_t got;

    BUG_ON(len > 256);
    do {
        got = getrandom(buf, len, 0);
    } while (got < 0 && errno == EINTR);
    BUG_ON(got != (ssize_t)len); /* so few are never refused or cut short */
}
