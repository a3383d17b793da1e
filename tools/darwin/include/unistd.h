/* System calls of macOS. */
#ifndef DARWIN_UNISTD_H
#define DARWIN_UNISTD_H

#include <sys/types.h>

#define STDIN_FILENO 0
#define STDOUT_FILENO 1
#define STDERR_FILENO 2
#define F_OK 0
#define X_OK 1
#define W_OK 2
#define R_OK 4
#define _SC_PAGESIZE 29
#define _SC_NPROCESSORS_ONLN 58

ssize_t read(int fd, void *buf, size_t len);
ssize_t write(int fd, const void *buf, size_t len);
ssize_t pread(int fd, void *buf, size_t len, off_t off);
ssize_t pwrite(int fd, const void *buf, size_t len, off_t off);
off_t lseek(int fd, off_t off, int whence);
int close(int fd);
int dup(int fd);
int dup2(int fd, int to);
int pipe(int ends[2]);
int fsync(int fd);
int ftruncate(int fd, off_t size);
int unlink(const char *path);
int rmdir(const char *path);
int access(const char *path, int mode);
int isatty(int fd);
pid_t getpid(void);
pid_t getpgrp(void);
pid_t tcgetpgrp(int fd);
uid_t getuid(void);
uid_t geteuid(void);
long sysconf(int name);
unsigned sleep(unsigned seconds);
int usleep(useconds_t us);
char *getcwd(char *buf, size_t size);

#endif
