/* Sockets of Linux: see host/socket_impl.h. */
#include "host/socket.h"

#include <errno.h>
#include <sys/socket.h>

#include "host/socket_impl.h"

_Static_assert(SOCKET_PATH_MAX + 1 == sizeof(((struct sockaddr_un *)NULL)->sun_path),
               "the kernel's own fact");

const int socket_send_flags = MSG_NOSIGNAL;

void socket_address_init(struct sockaddr_un *a)
{
    *a = (struct sockaddr_un){ .sun_family = AF_UNIX };
}

int socket_new(int *out)
{
    *out = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    return *out < 0 ? errno : 0;
}

void socket_adopt(int fd)
{
    (void)fd; /* socket_send_flags do it */
}

int socket_pair(int fds[2])
{
    return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0 ? errno : 0;
}

int socket_accept(int fd, int *out)
{
    do {
        *out = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    } while (*out < 0 && (errno == EINTR || errno == ECONNABORTED));
    return *out < 0 ? errno : 0;
}
