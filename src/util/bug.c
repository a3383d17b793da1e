/* The end of the road for a broken invariant of our own. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "util/base.h"

/* The one place that prints, since nobody is left to hand an error to. One write, no stdio: the heap or a
 * stdio lock may be what is broken. */
_Noreturn void bug_at(const char *file, int line, const char *what)
{
    char text[512];
    int len = snprintf(text, sizeof(text), "yado: BUG at %s:%d: %s\n", file, line, what);

    if (len > 0) {
        size_t count = (size_t)len < sizeof(text) ? (size_t)len : sizeof(text) - 1;

        if (write(STDERR_FILENO, text, count) < 0)
            abort();
    }
    abort();
}
