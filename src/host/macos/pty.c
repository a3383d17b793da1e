/* See host/pty.h. The framework reads the master, and would take a hang-up for the end. */
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "host/pty_impl.h"

const bool pty_holds_other = true;

int pty_master_new(void)
{
    int fd = posix_openpt(O_RDWR | O_NOCTTY); /* which takes no O_CLOEXEC there */

    if (fd >= 0 && fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}
