/* Files and sockets of serial ports and consoles before there is a machine. */
#ifndef BACKEND_PORTS_CHECK_H
#define BACKEND_PORTS_CHECK_H

#include "backend/spec.h"

/* Whether they can be made, as far as that is known without making them. */
bool ports_check(const struct spec *spec, struct yado_error *err);

#endif
