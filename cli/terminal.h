/* The user's terminal: raw while a guest has it, put back however the process ends. */
#ifndef CLI_TERMINAL_H
#define CLI_TERMINAL_H

#include <stdbool.h>
#include <stdint.h>

/* Makes standard input's terminal raw, remembering how it was. The first call arranges for terminal_restore
 * at exit and on fatal signals. False, and nothing done: it is no terminal, or we are in the background. */
bool terminal_raw(void);
/* As it was before. Async-signal safe, idempotent. */
void terminal_restore(void);

/* Size of the terminal on standard output. False if there is none. */
bool terminal_size(uint16_t *columns, uint16_t *rows);

#endif
