/* Seeds for cloud-init: the public face of src/seed. */
#include <yado/seed.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "seed/seed.h"

_Static_assert(YADO_SEED_PART_MAX == SEED_INPUT_MAX, "one limit, two names");

#define PART_COUNT 3
#define WRITER_WAIT_MS 5000 /* as seed.h says */

static const char *const part_names[PART_COUNT] = { "user-data", "meta-data", "network-config" };

struct yado_seed {
    struct seed_file parts[PART_COUNT]; /* own their bytes */
    char host_name[65];                 /* HOST_NAME_MAX and a zero */
};

struct yado_seed *yado_seed_new(void)
{
    struct yado_seed *s = calloc(1, sizeof(*s));

    if (s)
        strcpy(s->host_name, "yado");
    return s;
}

void yado_seed_free(struct yado_seed *seed)
{
    if (!seed)
        return;
    for (unsigned i = 0; i < PART_COUNT; i++)
        free((void *)(uintptr_t)seed->parts[i].data);
    free(seed);
}

/* Takes `bytes` over. */
static void part_put(struct yado_seed *seed, enum yado_seed_part part, void *bytes, size_t len)
{
    free((void *)(uintptr_t)seed->parts[part].data);
    seed->parts[part] = (struct seed_file){ .data = bytes, .len = len };
}

static bool part_is_too_large(const char *name, struct yado_error *err)
{
    return err_set(err, YADO_ERR_INVALID_CONFIG, "%s: larger than the %u MiB that a part of a seed may have",
                   name, YADO_SEED_PART_MAX >> 20);
}

bool yado_seed_set(struct yado_seed *seed, enum yado_seed_part part, const void *bytes, size_t len,
                   struct yado_error *err)
{
    void *copy;

    if ((unsigned)part >= PART_COUNT)
        return err_set(err, YADO_ERR_INVALID_CONFIG, "seed: there is no part %u", (unsigned)part);
    if (len > YADO_SEED_PART_MAX)
        return part_is_too_large(part_names[part], err);
    copy = malloc(len + 1);
    if (!copy)
        return err_set(err, YADO_ERR_HOST, "%s: out of memory", part_names[part]);
    if (len)
        memcpy(copy, bytes, len);
    part_put(seed, part, copy, len);
    return true;
}

/* Of a pipe by name that nobody has opened for writing, a read would wait without end and in silence; the
 * descriptor does not block for that reason, and a writer is waited for here, some seconds. Once there is
 * one, it may take its time, as on any pipe: it may be a program that asks for a password. `first` gets the
 * first byte, *len 1, if there is one by now. */
static bool writer_wait(int fd, char *first, size_t *len, const char *path, struct yado_error *err)
{
    struct pollfd p = { .fd = fd, .events = POLLIN };
    ssize_t n = read(fd, first, 1);

    /* The end of a pipe without a hang-up: there has been no writer yet. */
    if (n == 0 && poll(&p, 1, 0) == 0) {
        while (poll(&p, 1, WRITER_WAIT_MS) < 0 && errno == EINTR)
            ;
        n = read(fd, first, 1);
        if (n == 0 && !p.revents)
            return err_set(err, YADO_ERR_FILE, "%s: is a pipe that nobody writes to (waited %d s)", path,
                           WRITER_WAIT_MS / 1000);
    }
    *len = n > 0;
    return true;
}

/* Reads to the end of a file of any kind (a pipe too), at most `max` bytes and one more, of which `len` are
 * there. -1 and errno on failure. */
static ssize_t read_up_to(int fd, char *buf, size_t len, size_t max)
{
    while (len <= max) {
        ssize_t n = read(fd, buf + len, max + 1 - len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        if (n == 0)
            break;
        len += (size_t)n;
    }
    return (ssize_t)len;
}

static bool part_read(int fd, const char *path, char **bytes, size_t *len, struct yado_error *err)
{
    struct stat st = { 0 };
    size_t max = YADO_SEED_PART_MAX, begun = 0;
    ssize_t n;
    char *buf;

    if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode))
        return err_set(err, YADO_ERR_FILE, "%s: is a directory", path);
    if (S_ISREG(st.st_mode) && st.st_size > (off_t)max)
        return part_is_too_large(path, err);
    buf = malloc(max + 1);
    if (!buf)
        return err_set(err, YADO_ERR_HOST, "%s: out of memory", path);
    if (S_ISFIFO(st.st_mode) && !writer_wait(fd, buf, &begun, path, err)) {
        free(buf);
        return false;
    }
    fcntl(fd, F_SETFL, 0); /* from here on it may block */
    n = read_up_to(fd, buf, begun, max);
    if (n < 0 || (size_t)n > max) {
        int e = errno;

        free(buf);
        return n < 0 ? err_set_errno(err, YADO_ERR_FILE, e, "%s: cannot read", path)
                     : part_is_too_large(path, err);
    }
    *len = (size_t)n;
    *bytes = realloc(buf, *len + 1);
    if (!*bytes)
        *bytes = buf;
    return true;
}

bool yado_seed_set_file(struct yado_seed *seed, enum yado_seed_part part, const char *path,
                        struct yado_error *err)
{
    char *bytes = NULL;
    size_t len = 0;
    bool ok;
    int fd;

    if ((unsigned)part >= PART_COUNT)
        return err_set(err, YADO_ERR_INVALID_CONFIG, "seed: there is no part %u", (unsigned)part);
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return err_set_errno(err, YADO_ERR_FILE, errno, "%s: cannot open %s", path, part_names[part]);
    ok = part_read(fd, path, &bytes, &len, err);
    close(fd);
    if (ok)
        part_put(seed, part, bytes, len);
    return ok;
}

/* RFC 1123 section 2.1: labels of letters, digits and inner hyphens. */
static bool is_host_name(const char *name)
{
    size_t len = strlen(name);
    char before = '.';

    if (!len || len > 64)
        return false;
    for (const char *p = name; *p; before = *p++) {
        bool alnum = (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9');

        if (!alnum && *p != '-' && *p != '.')
            return false;
        if (!alnum && before == '.')
            return false;
        if (*p == '.' && before == '-')
            return false;
    }
    return before != '-' && before != '.';
}

bool yado_seed_set_host_name(struct yado_seed *seed, const char *name, struct yado_error *err)
{
    if (!is_host_name(name))
        return err_set(err, YADO_ERR_INVALID_CONFIG,
                       "name: \"%.80s\" is not a host name (letters, digits and hyphens, at most 64)", name);
    snprintf(seed->host_name, sizeof(seed->host_name), "%s", name);
    return true;
}

static bool image_build(const struct yado_seed *seed, struct seed_image *img, struct yado_error *err)
{
    struct seed_input in = {
        .user_data = seed->parts[YADO_SEED_USER_DATA],
        .meta_data = seed->parts[YADO_SEED_META_DATA],
        .network_config = seed->parts[YADO_SEED_NETWORK_CONFIG],
        .hostname = seed->host_name,
    };

    return seed_build(&in, img, err);
}

/* Writes to a temporary file beside `path` and renames it. */
static bool image_store(const struct seed_image *img, const char *path, struct yado_error *err)
{
    char temp[PATH_MAX];
    bool ok;
    int fd;

    if (snprintf(temp, sizeof(temp), "%s.XXXXXX", path) >= (int)sizeof(temp))
        return err_set(err, YADO_ERR_FILE, "%s: the name is too long", path);
    fd = mkostemp(temp, O_CLOEXEC);
    if (fd < 0)
        return err_set_errno(err, YADO_ERR_FILE, errno, "%s: cannot create", path);
    ok = seed_image_write(img, fd, path, err);
    if (ok && (fchmod(fd, 0600) < 0 || fsync(fd) < 0))
        ok = err_set_errno(err, YADO_ERR_FILE, errno, "%s: cannot write", path);
    close(fd);
    if (ok && rename(temp, path) < 0)
        ok = err_set_errno(err, YADO_ERR_FILE, errno, "%s: cannot create", path);
    if (!ok)
        unlink(temp);
    return ok;
}

bool yado_seed_write(const struct yado_seed *seed, const char *path, struct yado_error *err)
{
    struct seed_image img;
    struct stat st;
    bool ok;

    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode))
        return err_set(err, YADO_ERR_FILE, "%s: exists and is not a regular file", path);
    if (!image_build(seed, &img, err))
        return false;
    ok = image_store(&img, path, err);
    seed_image_close(&img);
    return ok;
}

struct yado_disk *yado_seed_disk_new(const struct yado_seed *seed, struct yado_error *err)
{
    struct seed_image img;
    struct yado_disk *d;

    if (!image_build(seed, &img, err))
        return NULL;
    d = yado_disk_fd_new(img.fd, "seed", YADO_DISK_RAW, YADO_DISK_READ_ONLY);
    seed_image_close(&img);
    if (!d)
        err_set(err, YADO_ERR_HOST, "seed: out of memory or file descriptors");
    return d;
}
