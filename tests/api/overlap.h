/* Where the tests of the public API differ between the engines of this project and Apple's framework (which
 * they run over on a stand-in: tests/apple). */
#ifndef TESTS_API_OVERLAP_H
#define TESTS_API_OVERLAP_H

#include <yado/yado.h>

static inline bool on_apple(void)
{
    return yado_engine_at(0) == YADO_ENGINE_APPLE;
}

/* For what the framework does not have at all. */
#define SKIP_ON_APPLE()                                                                                      \
    do {                                                                                                     \
        if (on_apple())                                                                                      \
            skip();                                                                                          \
    } while (0)

#endif
