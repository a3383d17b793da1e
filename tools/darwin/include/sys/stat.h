/* What macOS says of a file (the form with 64-bit inodes, which on x86-64 has names of its own). */
#ifndef DARWIN_SYS_STAT_H
#define DARWIN_SYS_STAT_H

#include <sys/types.h>
#include <time.h>

struct stat {
    dev_t st_dev;
    mode_t st_mode;
    nlink_t st_nlink;
    ino_t st_ino;
    uid_t st_uid;
    gid_t st_gid;
    dev_t st_rdev;
    struct timespec st_atimespec, st_mtimespec, st_ctimespec, st_birthtimespec;
    off_t st_size;
    blkcnt_t st_blocks;
    blksize_t st_blksize;
    uint32_t st_flags, st_gen;
    int32_t st_lspare;
    int64_t st_qspare[2];
};
_Static_assert(sizeof(struct stat) == 144, "macOS, both architectures");

#define S_IFMT 0170000
#define S_ISDIR(m) (((m)&S_IFMT) == 0040000)
#define S_ISCHR(m) (((m)&S_IFMT) == 0020000)
#define S_ISBLK(m) (((m)&S_IFMT) == 0060000)
#define S_ISREG(m) (((m)&S_IFMT) == 0100000)
#define S_ISFIFO(m) (((m)&S_IFMT) == 0010000)
#define S_ISSOCK(m) (((m)&S_IFMT) == 0140000)

#if defined(__x86_64__)
#define DARWIN_INODE64(name) __asm__("_" name "$INODE64")
#else
#define DARWIN_INODE64(name)
#endif
int stat(const char *path, struct stat *st) DARWIN_INODE64("stat");
int fstat(int fd, struct stat *st) DARWIN_INODE64("fstat");
int lstat(const char *path, struct stat *st) DARWIN_INODE64("lstat");
int fchmod(int fd, mode_t mode);
int chmod(const char *path, mode_t mode);
mode_t umask(mode_t mask);
int mkdir(const char *path, mode_t mode);

#endif
