/* What this host's instructions do to undefined flags. Theory in flags_probe.c. */
#ifndef TRANSLATOR_FLAGS_PROBE_H
#define TRANSLATOR_FLAGS_PROBE_H

#include "util/base.h"

/* Whether the flags behind SHL, SHR and SAR by a count that is not 0, and behind MUL and IMUL, are the same
 * whatever they were before, and those behind AND, OR and XOR are what TEST of the result makes. Any thread;
 * takes some microseconds. */
bool flags_probe_independent(void);

#endif
