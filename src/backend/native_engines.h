/* The engines of the native backend on this platform, in order of preference. */
#ifndef BACKEND_NATIVE_ENGINES_H
#define BACKEND_NATIVE_ENGINES_H

#include "engine/engine.h"

const struct engine_ops *native_engine_find(const char *name); /* NULL if there is none called that */
/* The first that is fit to be taken when nobody names one, else the last. */
const struct engine_ops *native_engine_default(void);

#endif
