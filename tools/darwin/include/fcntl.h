/* Files of macOS: opening and control. */
#ifndef DARWIN_FCNTL_H
#define DARWIN_FCNTL_H

#include <sys/types.h>

#define O_RDONLY 0
#define O_WRONLY 1
#define O_RDWR 2
#define O_ACCMODE 3
#define O_NONBLOCK 0x4
#define O_APPEND 0x8
#define O_NOFOLLOW 0x100
#define O_CREAT 0x200
#define O_TRUNC 0x400
#define O_EXCL 0x800
#define O_NOCTTY 0x20000
#define O_DIRECTORY 0x100000
#define O_CLOEXEC 0x1000000
#define F_DUPFD 0
#define F_GETFD 1
#define F_SETFD 2
#define F_GETFL 3
#define F_SETFL 4
#define F_GETPATH 50
#define F_FULLFSYNC 51
#define F_DUPFD_CLOEXEC 67
#define F_PUNCHHOLE 99
#define FD_CLOEXEC 1
#define AT_FDCWD (-2)

struct fpunchhole {
    unsigned fp_flags, reserved;
    off_t fp_offset, fp_length;
};

int open(const char *path, int flags, ...);
int openat(int dir, const char *path, int flags, ...);
int fcntl(int fd, int command, ...);

#endif
