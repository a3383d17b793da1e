/* Serial ports: an attachment (where the bytes come from and go to) in a port (what the guest sees). */
#ifndef YADO_CONSOLE_H
#define YADO_CONSOLE_H

#include <yado/base.h>

#ifdef __cplusplus
extern "C" {
#endif

struct yado_serial;      /* attachment */
struct yado_serial_port; /* device */

/* What the guest reads comes from `read_fd`, what it writes goes to `write_fd`; either may be -1 for nothing,
 * and both may be the same. The descriptors are duplicated: the caller keeps, and may close, its own. The
 * library changes no flags and no terminal settings of them. End of file and errors on read_fd end the
 * guest's input and nothing else; when the reader of write_fd is gone, output is dropped (a writer to a pipe
 * should ignore SIGPIPE: the library blocks it on its own threads). Two ports may share descriptors. Returns
 * NULL when out of memory or descriptors, or when a descriptor is not open. */
struct yado_serial *yado_fd_serial_new(int read_fd, int write_fd);

/* For an attachment that was not given to a port. */
void yado_serial_free(struct yado_serial *serial);

/* A virtio console (virtio 1.2, 5.3): hvc0, hvc1 ... in the order of the configuration. Takes `serial` over.
 */
struct yado_serial_port *yado_virtio_console_port_new(struct yado_serial *serial);

/* The 16550 at port 0x3f8, which every machine has: ttyS0, and a kernel's earlyprintk. At most one
 * attachment; without one, what the guest writes there is dropped. Takes `serial` over. */
struct yado_serial_port *yado_uart_port_new(struct yado_serial *serial);

/* For a port that was not given to a configuration. */
void yado_serial_port_free(struct yado_serial_port *port);

#ifdef __cplusplus
}
#endif

#endif
