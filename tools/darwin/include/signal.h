/* Signals of macOS. */
#ifndef DARWIN_SIGNAL_H
#define DARWIN_SIGNAL_H

#include <sys/types.h>

typedef uint32_t sigset_t;
typedef int sig_atomic_t;
typedef struct darwin_siginfo siginfo_t;

struct sigaction {
    union {
        void (*handler)(int);
        void (*action)(int, siginfo_t *, void *);
    } u;
    sigset_t sa_mask;
    int sa_flags;
};
#define sa_handler u.handler
#define sa_sigaction u.action

#define SIG_DFL ((void (*)(int))0)
#define SIG_IGN ((void (*)(int))1)
#define SIG_ERR ((void (*)(int)) - 1)
#define SIG_BLOCK 1
#define SIG_UNBLOCK 2
#define SIG_SETMASK 3
#define SA_ONSTACK 0x1
#define SA_RESTART 0x2
#define SA_SIGINFO 0x40
#define SIGHUP 1
#define SIGINT 2
#define SIGQUIT 3
#define SIGILL 4
#define SIGTRAP 5
#define SIGABRT 6
#define SIGFPE 8
#define SIGKILL 9
#define SIGBUS 10
#define SIGSEGV 11
#define SIGSYS 12
#define SIGPIPE 13
#define SIGALRM 14
#define SIGTERM 15
#define SIGSTOP 17
#define SIGTSTP 18
#define SIGCONT 19
#define SIGCHLD 20
#define SIGTTIN 21
#define SIGTTOU 22
#define SIGXCPU 24
#define SIGXFSZ 25
#define SIGWINCH 28
#define SIGUSR1 30
#define SIGUSR2 31

int sigaction(int signo, const struct sigaction *act, struct sigaction *old);
void (*signal(int signo, void (*fn)(int)))(int);
int raise(int signo);
int kill(pid_t pid, int signo);
int sigemptyset(sigset_t *set);
int sigfillset(sigset_t *set);
int sigaddset(sigset_t *set, int signo);
int sigdelset(sigset_t *set, int signo);
int sigprocmask(int how, const sigset_t *set, sigset_t *old);

#endif
