/* The ports of a machine's consoles while it runs. */
#ifndef API_PORTS_H
#define API_PORTS_H

#include <yado/machine.h>

#include "backend/spec.h"

struct ports;

/* `spec` is the machine's own. NULL: out of memory. */
struct ports *ports_new(struct yado_machine *machine, const struct spec *spec);
void ports_free(struct ports *p); /* after the last callback; NULL is fine */

/* What the backend tells, see backend.h. */
void ports_opened(struct ports *p, unsigned device, unsigned port, bool is_open);
/* Before a run: terminal sizes into the spec. */
void ports_to_spec(struct ports *p, struct spec *spec);
/* A run has begun: sizes that were set meanwhile are told. */
void ports_run_began(struct ports *p);
/* A run is over: nothing is open, and what was attached meanwhile is forgotten. */
void ports_run_ended(struct ports *p);

#endif
