/* For tests that know nothing of the stand-in (those of tests/api): it is there when they begin, and what
 * they leave behind fails them when they end. */
#include "standin.h"

__attribute__((constructor)) static void begin(void)
{
    standin_init();
}

__attribute__((destructor)) static void end(void)
{
    standin_end();
}
