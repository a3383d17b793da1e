/* Terminals of macOS. */
#ifndef DARWIN_TERMIOS_H
#define DARWIN_TERMIOS_H

#include <sys/types.h>

typedef unsigned long tcflag_t, speed_t;
typedef unsigned char cc_t;

struct termios {
    tcflag_t c_iflag, c_oflag, c_cflag, c_lflag;
    cc_t c_cc[20];
    speed_t c_ispeed, c_ospeed;
};

#define ICRNL 0x00000100  /* c_iflag */
#define ECHO 0x00000008   /* c_lflag */
#define ICANON 0x00000100 /* c_lflag */

#define TCSANOW 0
#define TCSADRAIN 1
#define TCSAFLUSH 2

int tcgetattr(int fd, struct termios *t);
int tcsetattr(int fd, int when, const struct termios *t);
void cfmakeraw(struct termios *t);

#endif
