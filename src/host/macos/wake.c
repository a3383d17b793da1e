/* Waking by a pipe: see host/wake.h. */
#include "host/wake.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

static bool flags_set(int fd)
{
    return fcntl(fd, F_SETFD, FD_CLOEXEC) >= 0 && fcntl(fd, F_SETFL, O_NONBLOCK) >= 0;
}

bool wake_open(struct wake *w, struct yado_error *err)
{
    int ends[2], saved;

    if (!pipe(ends)) {
        w->read_fd = ends[0];
        w->write_fd = ends[1];
        if (flags_set(ends[0]) && flags_set(ends[1]))
            return true;
        saved = errno;
        wake_close(w);
        errno = saved;
    }
    w->read_fd = w->write_fd = -1;
    return err_set_errno(err, YADO_ERR_HOST, errno, "cannot make a pipe");
}

void wake_close(struct wake *w)
{
    if (w->read_fd >= 0) {
        close(w->read_fd);
        close(w->write_fd);
    }
    w->read_fd = w->write_fd = -1;
}

void wake_set(const struct wake *w)
{
    const int saved = errno; /* a signal handler's caller does not expect another */
    const char byte = 0;

    /* Fails only when the pipe is full, and then it is readable anyway. */
    if (write(w->write_fd, &byte, 1) < 0)
        errno = saved;
}

void wake_clear(const struct wake *w)
{
    char ignored[64];

    while (read(w->read_fd, ignored, sizeof(ignored)) > 0)
        ;
}
