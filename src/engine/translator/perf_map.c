/* See perf_map.h. */
#include "engine/translator/perf_map.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

struct perf_map {
    int fd;
};

static int own_plain_file(const char *path, struct yado_error *err)
{
    int fd = open(path, O_WRONLY | O_APPEND | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    struct stat st;

    if (fd < 0) {
        err_set_errno(err, YADO_ERR_FILE, errno, "perf_map: %s: is there and cannot be opened", path);
        return -1;
    }
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_uid == geteuid() && st.st_nlink == 1)
        return fd;
    close(fd);
    err_set(err, YADO_ERR_FILE, "perf_map: %s: is there and is not this user's own plain file; remove it",
            path);
    return -1;
}

struct perf_map *perf_map_open(struct yado_error *err)
{
    struct perf_map *p = malloc(sizeof(*p));
    char path[64];

    if (!p) {
        err_set(err, YADO_ERR_MEMORY, "perf_map: out of memory");
        return NULL;
    }
    snprintf(path, sizeof(path), "/tmp/perf-%ld.map", (long)getpid());
    p->fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (p->fd < 0 && errno == EEXIST)
        p->fd = own_plain_file(path, err);
    else if (p->fd < 0)
        err_set_errno(err, YADO_ERR_FILE, errno, "perf_map: %s: cannot be made", path);
    if (p->fd >= 0)
        return p;
    free(p);
    return NULL;
}

void perf_map_close(struct perf_map *p)
{
    if (!p)
        return;
    close(p->fd);
    free(p);
}

/* One write a line: threads do not cut each other's. A full disk costs lines, nothing else. */
void perf_map_add(struct perf_map *p, const void *host, uint32_t len, uint64_t rip)
{
    char line[80];
    int n = snprintf(line, sizeof(line), "%llx %x guest:0x%llx\n", (unsigned long long)(uintptr_t)host, len,
                     (unsigned long long)rip);

    if (n > 0 && write(p->fd, line, (size_t)n) < 0)
        return;
}
