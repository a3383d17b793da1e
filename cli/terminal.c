/* See terminal.h.
 *
 * The one place of the program with state at file scope: a signal handler and an atexit function have no
 * other way to know what to put back. Signals that ask the program to end (TERM, INT ...) are handled in the
 * main loop (run.c); here are those after which nothing else runs. */
#include "terminal.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "cli.h"

static struct termios before;
static volatile sig_atomic_t is_raw;
static bool is_arranged;

void terminal_restore(void)
{
    if (!is_raw)
        return;
    is_raw = 0;
    /* A background process that changes a terminal is stopped by SIGTTOU unless it ignores or blocks it. */
    tcsetattr(STDIN_FILENO, TCSADRAIN, &before);
}

/* tcsetattr that cannot hang on output that nobody takes, then the signal's own effect. */
static void on_fatal(int signo)
{
    if (is_raw) {
        is_raw = 0;
        tcsetattr(STDIN_FILENO, TCSANOW, &before);
    }
    signal(signo, SIG_DFL);
    raise(signo);
}

static void arrange(void)
{
    static const int fatal[] = {
        SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS, SIGTRAP, SIGXCPU, SIGXFSZ
    };
    struct sigaction act = { .sa_handler = on_fatal };

    if (is_arranged)
        return;
    is_arranged = true;
    atexit(terminal_restore);
    signal(SIGTTOU, SIG_IGN);
    for (size_t i = 0; i < count_of(fatal); i++)
        sigaction(fatal[i], &act, NULL);
}

bool terminal_raw(void)
{
    struct termios raw;

    if (!isatty(STDIN_FILENO) || tcgetpgrp(STDIN_FILENO) != getpgrp() || tcgetattr(STDIN_FILENO, &raw) < 0)
        return false; /* in the background it is someone else's */
    if (is_raw)
        return true;
    arrange();
    before = raw;
    cfmakeraw(&raw);
    is_raw = 1;
    tcsetattr(STDIN_FILENO, TCSADRAIN, &raw);
    return true;
}

bool terminal_size(uint16_t *columns, uint16_t *rows)
{
    struct winsize size;

    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0 || !size.ws_col || !size.ws_row)
        return false;
    *columns = size.ws_col;
    *rows = size.ws_row;
    return true;
}
