/* The host's side of the guest's serial ports and consoles. */
#ifndef CLI_SERIAL_H
#define CLI_SERIAL_H

#include "run_options.h"

/* What a run holds open for them. */
struct serial_files {
    int fds[3 * RUN_SERIAL_MAX + 3]; /* to be closed at the end */
    unsigned fd_count;
    int keyboard; /* what is written here is the guest's input from standard input; -1: nobody reads it */
};

/* Adds the ports of `o` to `cfg`: --serial in order as hvc0, hvc1 ... and, if the kernel's command line
 * speaks of it, the UART, which shares the first --serial: both write there, and input goes to the one that
 * is the kernel's console; and --console as ports of one device. EXIT_OK, or the status to end with after the
 * reason was said. serial_close in any case. */
int serial_open(struct serial_files *s, const struct run_options *o, struct yado_config *cfg);
void serial_close(struct serial_files *s);

/* Tells the guest the size of the terminal, if it is on standard output. */
void serial_size(const struct serial_options *o, struct yado_machine *machine, uint16_t columns,
                 uint16_t rows);

#endif
