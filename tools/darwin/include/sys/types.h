/* Types of macOS, arm64 and x86-64. */
#ifndef DARWIN_SYS_TYPES_H
#define DARWIN_SYS_TYPES_H

#include <stddef.h>
#include <stdint.h>

typedef int64_t off_t, blkcnt_t;
typedef uint64_t ino_t;
typedef int32_t dev_t, pid_t, blksize_t;
typedef uint16_t mode_t, nlink_t;
typedef uint32_t uid_t, gid_t, socklen_t, useconds_t;
typedef long ssize_t, time_t;
typedef int32_t suseconds_t;
typedef unsigned long clock_t;

#endif
