/* What is attached to serial ports and consoles, opened: files, sockets, descriptors. The only place that
 * knows their paths. */
#ifndef BACKEND_NATIVE_PORTS_H
#define BACKEND_NATIVE_PORTS_H

#include "backend/spec.h"
#include "machine/machine.h"

struct native_ports;

/* Opens all and fills `out`, which is valid until the close. NULL and err on failure; nothing is left behind
 * but files that were made. */
struct native_ports *native_ports_open(const struct spec *spec, struct board_devices *out,
                                       struct yado_error *err);
void native_ports_close(struct native_ports *p); /* the machine has ended; NULL is fine */

/* Another attachment for a port of the running machine's console `device`; NONE is one. After a failure the
 * one before is still there. One thread at a time. */
bool native_ports_attach(struct native_ports *p, struct machine *m, unsigned device, unsigned port,
                         const struct spec_attachment *to, struct yado_error *err);

#endif
