/* Sockets of macOS: see host/socket_impl.h. Flags come after the making, since there are none for it, and a
 * peer that is gone is kept from raising SIGPIPE by the socket itself. */
#include "host/socket.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "host/socket_impl.h"

const int socket_send_flags = 0;

void socket_address_init(struct sockaddr_un *a)
{
    *a = (struct sockaddr_un){ .sun_family = AF_UNIX, .sun_len = sizeof(*a) };
}

static int signal_off(int fd)
{
    int on = 1;

    return setsockopt(fd, SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof(on)) < 0 ? errno : 0;
}

void socket_adopt(int fd)
{
    signal_off(fd); /* fails for one that is over already, and a send to that fails too */
}

static int flags_set(int fd, bool blocks)
{
    if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 || (!blocks && fcntl(fd, F_SETFL, O_NONBLOCK) < 0))
        return errno;
    return signal_off(fd);
}

int socket_new(int *out)
{
    int error;

    *out = socket(AF_UNIX, SOCK_STREAM, 0);
    if (*out < 0)
        return errno;
    error = flags_set(*out, false);
    if (error) {
        close(*out);
        *out = -1;
    }
    return error;
}

int socket_pair(int fds[2])
{
    int error;

    if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) < 0)
        return errno;
    error = flags_set(fds[0], true);
    if (!error)
        error = flags_set(fds[1], true);
    if (error) {
        close(fds[0]);
        close(fds[1]);
    }
    return error;
}

int socket_accept(int fd, int *out)
{
    int error;

    do {
        *out = accept(fd, NULL, NULL);
    } while (*out < 0 && (errno == EINTR || errno == ECONNABORTED));
    if (*out < 0)
        return errno;
    error = flags_set(*out, false);
    if (error) {
        close(*out);
        *out = -1;
    }
    return error;
}
