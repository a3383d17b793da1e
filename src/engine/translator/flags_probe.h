/* What this host's instructions do to undefined flags. Theory in flags_probe.c. */
#ifndef TRANSLATOR_FLAGS_PROBE_H
#define TRANSLATOR_FLAGS_PROBE_H

#include "util/base.h"

struct flags_probe {
    bool logic;    /* the flags behind AND, OR and XOR are what TEST of the result makes */
    bool shifts;   /* those behind SHL, SHR and SAR by a count that is not 0 do not depend on earlier ones */
    bool products; /* nor do those behind MUL and IMUL (AMD's leave SF, ZF, AF and PF as they were) */
};

/* Any thread; takes some microseconds. */
struct flags_probe flags_probe(void);

#endif
