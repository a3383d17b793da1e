/* See host/socket.h. Only what is used above the backends: the others are the native backend's, which is
 * Linux's. */
#include "host/socket.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>

int socket_pair(int fds[2])
{
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) < 0)
        return errno;
    fcntl(fds[0], F_SETFD, FD_CLOEXEC);
    fcntl(fds[1], F_SETFD, FD_CLOEXEC);
    return 0;
}
