/* See host/pty.h. */
#include "host/pty.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

#include "host/pty_impl.h"

static bool names_get(struct pty *p)
{
    return grantpt(p->master) == 0 && unlockpt(p->master) == 0 &&
           ptsname_r(p->master, p->path, sizeof(p->path)) == 0;
}

/* The terminal's mode stays when this side is closed again. */
static bool raw_set(int fd)
{
    struct termios raw;

    if (tcgetattr(fd, &raw) < 0)
        return false;
    cfmakeraw(&raw);
    return tcsetattr(fd, TCSANOW, &raw) == 0;
}

bool pty_open(struct pty *p, struct yado_error *err)
{
    *p = (struct pty){ .master = pty_master_new(), .other = -1 };
    if (p->master >= 0 && names_get(p))
        p->other = open(p->path, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (p->other < 0 || !raw_set(p->other) || fcntl(p->master, F_SETFL, O_RDWR | O_NONBLOCK) < 0) {
        err_set_errno(err, YADO_ERR_HOST, errno, "cannot make a pseudo terminal");
        pty_close(p);
        return false;
    }
    if (!pty_holds_other) {
        close(p->other);
        p->other = -1;
    }
    return true;
}

void pty_close(struct pty *p)
{
    if (p->master >= 0)
        close(p->master);
    if (p->other >= 0)
        close(p->other);
    p->master = p->other = -1;
}
