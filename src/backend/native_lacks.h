/* What our own machine has not and other backends have. */
#ifndef BACKEND_NATIVE_LACKS_H
#define BACKEND_NATIVE_LACKS_H

#include "backend/spec.h"

/* True if there is nothing of that in the spec; else the first thing that is, by its field. */
bool native_lacks_nothing(const struct spec *spec, struct yado_error *err);
/* The same for an attachment that a running machine is to be plugged into. */
bool native_can_attach(const struct net_config *net, unsigned index, struct yado_error *err);

#endif
