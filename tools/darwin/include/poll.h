/* poll of macOS. */
#ifndef DARWIN_POLL_H
#define DARWIN_POLL_H

typedef unsigned int nfds_t;

struct pollfd {
    int fd;
    short events, revents;
};

#define POLLIN 0x1
#define POLLPRI 0x2
#define POLLOUT 0x4
#define POLLERR 0x8
#define POLLHUP 0x10
#define POLLNVAL 0x20

int poll(struct pollfd *fds, nfds_t count, int timeout_ms);

#endif
