/* See host/pty.h. The other side is opened once and closed again: only then does the master tell by a hang-up
 * that nobody has it open. The terminal's mode stays. */
#include "host/pty.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

static bool raw_set(const char *path)
{
    int fd = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
    struct termios raw;
    bool ok = fd >= 0 && tcgetattr(fd, &raw) == 0;

    if (ok) {
        cfmakeraw(&raw);
        ok = tcsetattr(fd, TCSANOW, &raw) == 0;
    }
    if (fd >= 0)
        close(fd);
    return ok;
}

bool pty_open(struct pty *p, struct yado_error *err)
{
    *p = (struct pty){ .master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC), .other = -1 };
    if (p->master >= 0 && grantpt(p->master) == 0 && unlockpt(p->master) == 0 &&
        ptsname_r(p->master, p->path, sizeof(p->path)) == 0 && raw_set(p->path) &&
        fcntl(p->master, F_SETFL, O_RDWR | O_NONBLOCK) == 0)
        return true;
    err_set_errno(err, YADO_ERR_HOST, errno, "cannot make a pseudo terminal");
    pty_close(p);
    return false;
}

void pty_close(struct pty *p)
{
    if (p->master >= 0)
        close(p->master);
    if (p->other >= 0)
        close(p->other);
    p->master = p->other = -1;
}
