/* See signals.h. A handler writes the signal's number into a pipe, which the main loop polls: that way is the
 * same on every system, and a signal that comes between two polls is not lost. The library's threads have all
 * these signals blocked, so the handler runs on the main thread. */
#include "signals.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include "cli.h"

/* A signal handler has no other way to know where to write. */
static int ends[2] = { -1, -1 };

static void on_signal(int signo)
{
    const int saved = errno;
    const unsigned char byte = (unsigned char)signo;

    /* A full pipe holds thousands of signals that nobody has looked at: one more says nothing new. */
    if (write(ends[1], &byte, 1) < 0)
        errno = saved;
}

bool signals_take(void)
{
    static const int wanted[] = { SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGTSTP, SIGCONT, SIGWINCH };
    struct sigaction act = { .sa_handler = on_signal, .sa_flags = SA_RESTART };

    if (pipe(ends) < 0)
        return false;
    for (int i = 0; i < 2; i++) {
        fcntl(ends[i], F_SETFD, FD_CLOEXEC);
        fcntl(ends[i], F_SETFL, O_NONBLOCK);
    }
    sigfillset(&act.sa_mask);
    for (size_t i = 0; i < count_of(wanted); i++)
        sigaction(wanted[i], &act, NULL);
    signal(SIGPIPE, SIG_IGN);
    return true;
}

int signals_fd(void)
{
    return ends[0];
}

int signals_next(void)
{
    unsigned char byte;

    return read(ends[0], &byte, 1) == 1 ? byte : 0;
}
