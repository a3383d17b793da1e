/* The command: what its files share. They see <yado/...> only. */
#ifndef CLI_CLI_H
#define CLI_CLI_H

#include <yado/yado.h>

/* Exit status, all verbs. A guest cut off because of a signal gives 128 plus its number. */
enum {
    EXIT_OK = 0,       /* run: the guest powered off, or the user left */
    EXIT_FAILED = 1,   /* run: could not start */
    EXIT_USAGE = 2,    /* the command line or a setting in it is wrong */
    EXIT_CRASHED = 3,  /* the guest crashed */
    EXIT_TIME_OUT = 4, /* --timeout ended it */
};

#define printf_like(fmt, args) __attribute__((format(printf, fmt, args)))
#define count_of(a) (sizeof(a) / sizeof((a)[0]))

int cli_run(int argc, char **argv);
int cli_seed(int argc, char **argv);
int cli_doctor(int argc, char **argv);

/* Says "yado: ..." on standard error, one line, after putting the terminal back. */
void say(const char *fmt, ...) printf_like(1, 2);
/* say() and EXIT_USAGE. */
int usage_error(const char *fmt, ...) printf_like(1, 2);
/* say() what err says; EXIT_USAGE if it is about a setting, else EXIT_FAILED. */
int report(const struct yado_error *err);

#endif
