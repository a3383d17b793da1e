/* Memory files by an unlinked temporary file, and memory facts by sysctl: see host/anonfile.h. */
#include "host/anonfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/sysctl.h>
#include <unistd.h>

int anonfile_open(const char *name, uint64_t size, bool executable)
{
    const char *dir = getenv("TMPDIR");
    char path[1024];
    int fd, saved;

    (void)executable; /* the mapping says what it may do; the file system has no such flag */
    if (size > INT64_MAX ||
        (size_t)snprintf(path, sizeof(path), "%s/%s-XXXXXX", dir ? dir : "/tmp", name) >= sizeof(path)) {
        errno = EFBIG;
        return -1;
    }
    fd = mkstemp(path);
    if (fd < 0)
        return -1;
    unlink(path);
    if (fcntl(fd, F_SETFD, FD_CLOEXEC) >= 0 && !ftruncate(fd, (off_t)size))
        return fd;
    saved = errno;
    close(fd);
    errno = saved;
    return -1;
}

struct memory_facts memory_facts_get(void)
{
    struct memory_facts facts = { 0 };
    uint64_t total = 0;
    size_t len = sizeof(total);

    /* What is free now macOS tells only through Mach, and it gives memory back by compressing: left unknown.
     */
    if (!sysctlbyname("hw.memsize", &total, &len, NULL, 0))
        facts.total = total;
    return facts;
}
