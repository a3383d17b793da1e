/* What the systems do differently under host/pty.h. */
#ifndef HOST_PTY_IMPL_H
#define HOST_PTY_IMPL_H

#include "util/base.h"

int pty_master_new(void);          /* closed on exec; -1 and errno */
extern const bool pty_holds_other; /* the other side stays open */

#endif
