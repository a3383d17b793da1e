/* Serial ports and consoles: an attachment (where the bytes come from and go to) in a port (what the guest
 * sees), by itself or as one of several in a console device. */
#ifndef YADO_CONSOLE_H
#define YADO_CONSOLE_H

#include <yado/base.h>

#ifdef __cplusplus
extern "C" {
#endif

#define YADO_CONSOLE_PORTS_MAX 31u /* of one device */
#define YADO_PORT_NAME_MAX 63u     /* bytes */

struct yado_serial;       /* attachment */
struct yado_serial_port;  /* device with one port */
struct yado_console;      /* device with several ports */
struct yado_console_port; /* one of them */

/* ---- attachments ---- */

/* What the guest reads comes from `read_fd`, what it writes goes to `write_fd`; either may be -1 for nothing,
 * and both may be the same. The descriptors are duplicated: the caller keeps, and may close, its own. The
 * library changes no flags and no terminal settings of them. End of file and errors on read_fd end the
 * guest's input and nothing else; when the reader of write_fd is gone, output is dropped (a writer to a pipe
 * should ignore SIGPIPE: the library blocks it on its own threads). A reader that is there and does not read
 * holds the guest back; nothing is lost. Two ports may share descriptors. Returns NULL when out of memory or
 * descriptors, or when a descriptor is not open. */
struct yado_serial *yado_fd_serial_new(int read_fd, int write_fd);

/* What the guest writes goes to the file `path`, which is made if it is not there, when the machine starts
 * (each time), at its end or (`append` false) in place of what was in it. The guest reads nothing. Returns
 * NULL only when out of memory. */
struct yado_serial *yado_file_serial_new(const char *path, bool append);

/* A new pseudo terminal, made now; yado_serial_path says where programs open it. It is in raw mode, and lives
 * as long as this object and what was copied from it. Whoever opens it talks with the guest; while nobody has
 * it open, the guest's programs see that nobody is there (Linux lets them wait; a terminal's output goes on),
 * and output is dropped. The guest's terminal gets the window size that is set on it. Returns NULL when
 * out of memory or descriptors. */
struct yado_serial *yado_pty_serial_new(void);

/* A Unix stream socket at `path` (up to 107 bytes), made when the machine starts and removed when it stops; a
 * socket file that is there and that nobody listens at is replaced. One program at a time talks with the
 * guest; the next waits until it is gone. While none is connected, it is as with a pty. Our own engines.
 * Returns NULL only when out of memory. */
struct yado_serial *yado_socket_serial_new(const char *path);

/* Of a pty, file or socket; NULL for descriptors. Lives as long as the object. */
const char *yado_serial_path(const struct yado_serial *serial);

/* For an attachment that was not given to a port. */
void yado_serial_free(struct yado_serial *serial);

/* ---- devices with one port ---- */

/* A virtio console (virtio 1.2, 5.3): hvc0, hvc1 ... in the order of the configuration. Takes `serial` over.
 */
struct yado_serial_port *yado_virtio_console_port_new(struct yado_serial *serial);

/* The 16550 at port 0x3f8, which every machine has: ttyS0, and a kernel's earlyprintk. At most one
 * attachment; without one, what the guest writes there is dropped. Takes `serial` over. */
struct yado_serial_port *yado_uart_port_new(struct yado_serial *serial);

/* For a port that was not given to a configuration. */
void yado_serial_port_free(struct yado_serial_port *port);

/* ---- devices with several ports ---- */

/* A virtio console with ports (virtio 1.2, 5.3, VIRTIO_CONSOLE_F_MULTIPORT), none yet. Apple's engine: macOS
 * 13. NULL only when out of memory. */
struct yado_console *yado_virtio_console_new(void);

/* Puts a port at `index`, below YADO_CONSOLE_PORTS_MAX, which is its number in the guest. Takes `port` over.
 * Indexes in between may stay empty; port 0 is the one that a driver without MULTIPORT has. */
void yado_console_set_port(struct yado_console *console, unsigned index, struct yado_console_port *port);

/* For a console that was not given to a configuration. */
void yado_console_free(struct yado_console *console);

/* A port without name and attachment, which is no console. NULL only when out of memory. */
struct yado_console_port *yado_console_port_new(void);

/* What the guest calls it: /dev/virtio-ports/NAME, by udev. Up to YADO_PORT_NAME_MAX bytes of printable ASCII
 * without '/', and no other port's of the machine. */
void yado_console_port_set_name(struct yado_console_port *port, const char *name);

/* Whether the guest makes a terminal of it (hvcN, numbered after those of devices with one port; then it is
 * no character device of its own). Linux waits for a console's output with interrupts off, so that a reader
 * who is there and does not read stops the CPU that writes; on other ports such a reader stops the program.
 */
void yado_console_port_set_console(struct yado_console_port *port, bool is_console);

/* Takes `serial` over; an earlier attachment is freed. Default: none, as if nobody were there. */
void yado_console_port_set_attachment(struct yado_console_port *port, struct yado_serial *serial);

/* For a port that was not given to a console. */
void yado_console_port_free(struct yado_console_port *port);

#ifdef __cplusplus
}
#endif

#endif
