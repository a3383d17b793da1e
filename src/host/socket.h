/* Stream sockets of the host that never block: pairs, Unix sockets by path, and moving bytes. Any thread.
 * Functions that return int give 0 or a positive errno, or say what else. Descriptors that are made here are
 * closed on exec. */
#ifndef HOST_SOCKET_H
#define HOST_SOCKET_H

#include <sys/types.h>
#include <sys/uio.h>

#include "util/err.h"

/* The longest path of a Unix socket, without the final zero. */
#define SOCKET_PATH_MAX 107

/* Two sockets that are connected with each other. They block; socket_send and socket_receive do not. */
int socket_pair(int fds[2]);

/* A socket connected to the Unix socket `path`. EAGAIN: the listener's queue is full, try again later.
 * ENAMETOOLONG for a path over SOCKET_PATH_MAX. */
int socket_connect_unix(const char *path, int *out);

/* A socket file that was made, so that only that one is removed at the end. */
struct socket_file {
    dev_t dev;
    ino_t ino;
};

/* Makes the Unix socket `path` and listens there. A socket file that is there and that nobody listens at is
 * replaced; EADDRINUSE if somebody does, or if it is another kind of file. */
int socket_listen_unix(const char *path, int *out, struct socket_file *file);
/* Removes the socket file, unless it was replaced meanwhile. */
void socket_file_remove(const char *path, const struct socket_file *file);

/* The next connection to a listener, EAGAIN if none waits. */
int socket_accept(int fd, int *out);

/* For a connected socket that was not made here: keeps it from raising SIGPIPE in socket_send. */
void socket_adopt(int fd);

/* As sendmsg and recvmsg without waiting: bytes moved (receive: 0 at the end), or a negative errno. No
 * signal. */
ssize_t socket_send(int fd, const struct iovec *iov, unsigned count);
ssize_t socket_receive(int fd, const struct iovec *iov, unsigned count);

void socket_shutdown_send(int fd);    /* the other side reads the end */
void socket_shutdown_receive(int fd); /* the other side cannot write any more */
/* Neither direction works any more: the other side is closed, or both are shut down. */
bool socket_is_over(int fd);

#endif
