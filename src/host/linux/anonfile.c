/* Memory files by memfd_create, and memory facts from /proc and the cgroup files. */
#include "host/linux/anonfile_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010u
#endif
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008u
#endif

/* Kernels before 6.3 know neither of the two flags and take all files as executable; later ones may be set up
 * (vm.memfd_noexec) to take a call without them as a mistake. */
static int memfd_make(const char *name, bool executable)
{
    int fd = memfd_create(name, MFD_CLOEXEC | (executable ? MFD_EXEC : MFD_NOEXEC_SEAL));

    return fd < 0 && errno == EINVAL ? memfd_create(name, MFD_CLOEXEC) : fd;
}

int anonfile_open(const char *name, uint64_t size, bool executable)
{
    int fd = memfd_make(name, executable);

    return fd < 0 ? -1 : anonfile_give_size(fd, size);
}

int anonfile_give_size(int fd, uint64_t size)
{
    struct rlimit limit;
    bool fits = size <= INT64_MAX;

    /* Beyond the file size limit ftruncate would kill the process with SIGXFSZ, even for such files. */
    if (!getrlimit(RLIMIT_FSIZE, &limit) && limit.rlim_cur != RLIM_INFINITY && size > limit.rlim_cur)
        fits = false;
    if (fits && ftruncate(fd, (off_t)size) == 0)
        return fd;
    const int saved = fits ? errno : EFBIG;
    close(fd);
    errno = saved;
    return -1;
}

/* Reads a small text file whole. False if it cannot be read. */
static bool text_read(const char *path, char *buf, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n;

    if (fd < 0)
        return false;
    n = read(fd, buf, size - 1);
    close(fd);
    if (n < 0)
        return false;
    buf[n] = '\0';
    return true;
}

/* The number of KiB after `key` in the text of /proc/meminfo, in bytes; 0 if there is none. */
static uint64_t meminfo_bytes(const char *text, const char *key)
{
    const char *at = strstr(text, key);

    return at ? strtoull(at + strlen(key), NULL, 10) << 10 : 0;
}

/* A number in a cgroup file; UINT64_MAX for "max" or no such file. */
static uint64_t cgroup_number(const char *path)
{
    char text[64];

    if (!text_read(path, text, sizeof(text)) || text[0] < '0' || text[0] > '9')
        return UINT64_MAX;
    return strtoull(text, NULL, 10);
}

/* What the cgroup of a container leaves. A container sees its own group at the root of the mount, which is
 * the case that matters: elsewhere these files are missing or unlimited. */
static uint64_t cgroup_available(void)
{
    uint64_t limit = cgroup_number("/sys/fs/cgroup/memory.max");
    uint64_t used = cgroup_number("/sys/fs/cgroup/memory.current");

    if (limit == UINT64_MAX) {
        limit = cgroup_number("/sys/fs/cgroup/memory/memory.limit_in_bytes");
        used = cgroup_number("/sys/fs/cgroup/memory/memory.usage_in_bytes");
    }
    if (limit == UINT64_MAX || used == UINT64_MAX)
        return limit;
    return used < limit ? limit - used : 0;
}

struct memory_facts memory_facts_get(void)
{
    char text[4096];
    struct memory_facts facts = { 0 };

    if (!text_read("/proc/meminfo", text, sizeof(text)))
        return facts;
    facts.total = meminfo_bytes(text, "MemTotal:") + meminfo_bytes(text, "SwapTotal:");
    facts.available = min_u64(meminfo_bytes(text, "MemAvailable:"), cgroup_available());
    return facts;
}
