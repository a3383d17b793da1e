/* Stream sockets between guest and host (AF_VSOCK in the guest, where the host is CID 2 and the guest CID 3).
 *
 * Either side connects to a port of the other. On the host a connection is a descriptor: the program's end of
 * a connected stream socket, which blocks until it is told otherwise and is closed on exec. It belongs to the
 * program, which closes it; closing it, or one half with shutdown(2), is seen in the guest, and so the other
 * way round. It outlives the machine: when that ends, it reads the end of the stream. Writing to a connection
 * whose other side is gone raises SIGPIPE, as on any socket.
 *
 * Ports are numbers up to YADO_SOCKET_PORT_MAX, and the host's have nothing to do with the guest's. At most
 * YADO_SOCKET_CONNECTIONS_MAX connections are possible at a time, and for each the library keeps at most 256
 * KiB that the program has not read yet (32 KiB each beyond the first 256): the guest's program waits then.
 */
#ifndef YADO_SOCKET_H
#define YADO_SOCKET_H

#include <yado/base.h>

#ifdef __cplusplus
extern "C" {
#endif

#define YADO_SOCKET_PORT_MAX 0xfffffffeu
#define YADO_SOCKET_CONNECTIONS_MAX 4096u
#define YADO_SOCKET_BACKLOG 1024u /* connections of the guest that may wait for accept callbacks to run */

struct yado_machine;
struct yado_socket; /* device */

/* A virtio socket device (virtio 1.2, 5.10), for yado_config_add_socket. A machine has one at most. NULL only
 * when out of memory. */
struct yado_socket *yado_virtio_socket_new(void);

/* Programs of the guest that connect to `port` of the host reach whatever listens at the Unix socket `path`
 * when they do; nobody there: they are refused. The bytes do not pass through the program. */
void yado_socket_add_path_to_host(struct yado_socket *socket, uint32_t port, const char *path);

/* The other way: the machine makes the Unix socket `path` when it starts and removes it when it stops, and
 * programs of the host that connect there reach `port` of the guest. If nobody listens in the guest, or it
 * runs no driver yet, they read the end of the stream. A socket that a killed process has left at `path` is
 * replaced; any other file is an error of the start. Who may connect is up to the process's umask and the
 * directory. */
void yado_socket_add_path_to_guest(struct yado_socket *socket, const char *path, uint32_t port);

/* For a device that was not given to a configuration. */
void yado_socket_free(struct yado_socket *socket);

/* ---- connections, at any time in a machine's life ---- */

struct yado_socket_connection {
    int fd;
    uint32_t source_port, destination_port; /* of the side that connected, and of the other */
};

/* A program of the guest connects to a port of the host. True accepts: connection->fd is the program's from
 * now on. False refuses it, and the library closes the descriptor. On the machine's queue (machine.h); the
 * guest's program waits meanwhile, on Linux for two seconds unless it says otherwise. */
typedef bool (*yado_socket_accept)(void *ctx, const struct yado_socket_connection *connection);

/* Listens at a port of the host, in place of an earlier listener of that port; one function may serve many
 * ports. A path (above) comes before a listener. Works in any state of the machine and stays over stops and
 * starts. False and `err` if the machine has no socket device or `port` is too large, or out of memory. Any
 * thread. */
bool yado_machine_set_socket_listener(struct yado_machine *machine, uint32_t port, yado_socket_accept accept,
                                      void *ctx, struct yado_error *err);

/* New connections are refused from now on; those that exist go on. Nothing if there is no listener. Any
 * thread; on the machine's queue, or with none of its callbacks running, `accept` is not called any more
 * after it returns. */
void yado_machine_remove_socket_listener(struct yado_machine *machine, uint32_t port);

/* How a yado_machine_connect_socket ended: `err` is NULL and connection->fd is the program's, or else
 * `connection` is NULL. Codes: REFUSED, nobody listens in the guest; TIMEOUT, no answer within 10 s; STATE,
 * the machine does not run, was stopped or rebooted meanwhile, or the guest runs no driver (yet); IN_USE, too
 * many connections; INVALID_CONFIG, no device or no such port. On the machine's queue; both are valid until
 * it returns. */
typedef void (*yado_socket_connected)(void *ctx, const struct yado_socket_connection *connection,
                                      const struct yado_error *err);

/* Connects to a port of the guest. `done` is called exactly once, unless the return value is false (out of
 * memory) or the machine is freed first. Any thread; does not block. */
bool yado_machine_connect_socket(struct yado_machine *machine, uint32_t port, yado_socket_connected done,
                                 void *ctx);

#ifdef __cplusplus
}
#endif

#endif
