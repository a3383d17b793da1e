/* Signals as something to poll for. */
#ifndef CLI_SIGNALS_H
#define CLI_SIGNALS_H

#include <stdbool.h>

/* From now on TERM, INT, HUP, QUIT, TSTP, CONT and WINCH wait here, and PIPE is ignored. For the whole
 * process, once, before it has threads of its own. False: no descriptors. */
bool signals_take(void);
int signals_fd(void);   /* readable while some wait; -1 before signals_take */
int signals_next(void); /* the next one that waits; 0: none */

#endif
