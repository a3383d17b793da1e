#include "said.h"

#include <stdarg.h>
#include <stdio.h>

#include "cli.h"

char said[1024];

static void __attribute__((format(printf, 1, 0))) keep(const char *fmt, va_list ap)
{
    vsnprintf(said, sizeof(said), fmt, ap);
}

void say(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    keep(fmt, ap);
    va_end(ap);
}

int usage_error(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    keep(fmt, ap);
    va_end(ap);
    return EXIT_USAGE;
}

int report(const struct yado_error *err)
{
    say("%s", err->message);
    return err->code == YADO_ERR_INVALID_CONFIG ? EXIT_USAGE : EXIT_FAILED;
}
