/* Unix sockets by path, and moving bytes: what all POSIX systems do alike. See host/socket.h. */
#include "host/socket.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "host/socket_impl.h"

#define BACKLOG 1024
#define PATH_LEN_MAX (sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1) /* of this system */

_Static_assert(PATH_LEN_MAX <= SOCKET_PATH_MAX, "checked here");

static int address_fill(struct sockaddr_un *a, const char *path)
{
    size_t len = strlen(path);

    socket_address_init(a);
    if (len == 0)
        return ENOENT;
    if (len > PATH_LEN_MAX)
        return ENAMETOOLONG;
    memcpy(a->sun_path, path, len);
    return 0;
}

int socket_connect_unix(const char *path, int *out)
{
    struct sockaddr_un a;
    int error = address_fill(&a, path);

    *out = -1;
    if (!error)
        error = socket_new(out);
    if (error)
        return error;
    if (connect(*out, (struct sockaddr *)&a, sizeof(a)) == 0)
        return 0;
    error = errno;
    close(*out);
    *out = -1;
    return error;
}

/* Whether the socket file was left behind by a process that is gone. */
static bool is_stale(const char *path)
{
    struct stat st;
    int fd, error;

    if (lstat(path, &st) < 0 || !S_ISSOCK(st.st_mode))
        return false;
    error = socket_connect_unix(path, &fd);
    if (!error)
        close(fd);
    return error == ECONNREFUSED;
}

static int listen_at(int fd, const char *path, struct sockaddr_un *a, struct socket_file *file)
{
    struct stat st;

    if (bind(fd, (struct sockaddr *)a, sizeof(*a)) < 0 &&
        (errno != EADDRINUSE || !is_stale(path) || unlink(path) < 0 ||
         bind(fd, (struct sockaddr *)a, sizeof(*a)) < 0))
        return errno;
    if (listen(fd, BACKLOG) < 0 || stat(path, &st) < 0) {
        int error = errno;

        unlink(path);
        return error;
    }
    *file = (struct socket_file){ .dev = st.st_dev, .ino = st.st_ino };
    return 0;
}

int socket_listen_unix(const char *path, int *out, struct socket_file *file)
{
    struct sockaddr_un a;
    int error = address_fill(&a, path);

    *out = -1;
    if (!error)
        error = socket_new(out);
    if (error)
        return error;
    error = listen_at(*out, path, &a, file);
    if (error) {
        close(*out);
        *out = -1;
    }
    return error;
}

void socket_file_remove(const char *path, const struct socket_file *file)
{
    struct stat st;

    if (lstat(path, &st) == 0 && st.st_dev == file->dev && st.st_ino == file->ino)
        unlink(path);
}

/* The count's type is not the same everywhere. */
static struct msghdr message_of(const struct iovec *iov, unsigned count)
{
    struct msghdr m = { .msg_iov = (struct iovec *)(uintptr_t)iov };

    m.msg_iovlen = (__typeof__(m.msg_iovlen))count;
    return m;
}

ssize_t socket_send(int fd, const struct iovec *iov, unsigned count)
{
    struct msghdr m = message_of(iov, count);
    ssize_t n;

    do {
        n = sendmsg(fd, &m, MSG_DONTWAIT | socket_send_flags);
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

ssize_t socket_receive(int fd, const struct iovec *iov, unsigned count)
{
    struct msghdr m = message_of(iov, count);
    ssize_t n;

    do {
        n = recvmsg(fd, &m, MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

void socket_shutdown_send(int fd)
{
    shutdown(fd, SHUT_WR);
}

void socket_shutdown_receive(int fd)
{
    shutdown(fd, SHUT_RD);
}

bool socket_is_over(int fd)
{
    struct pollfd p = { .fd = fd };

    return poll(&p, 1, 0) > 0 && (p.revents & (POLLHUP | POLLERR));
}
