/* An initrd as the archives that it holds, unpacked. Kernels take plain archives and packed ones alike, in
 * any order, each at a multiple of 4 bytes (Linux
 * Documentation/driver-api/early-userspace/buffer-format.rst), but to unpack takes a guest several times as
 * long. What is packed and no cpio archive (an image of a file system, as initrds once were) stays packed. */
#include <string.h>

#include "boot/boot_priv.h"
#include "boot/unpack.h"
#include "host/thread.h"

#define CPIO_MAGIC_LEN 5
#define CPIO_MAGIC "07070"
#define FILL_AHEAD MIB(2)

struct unpacked {
    struct gmem *mem;
    uint8_t *ram;
    uint64_t gpa, room, len;
    uint64_t filled; /* memory up to there has been asked for */
    uint64_t begin;  /* of the archive */
};

static bool put(void *ctx, const uint8_t *bytes, size_t len)
{
    struct unpacked *u = ctx;

    if (len > u->room - u->len)
        return false;
    if (u->len == u->begin && (len < CPIO_MAGIC_LEN || memcmp(bytes, CPIO_MAGIC, CPIO_MAGIC_LEN)))
        return false;
    while (u->filled < u->len + len) {
        gmem_will_fill(u->mem, u->gpa + u->filled, min_u64(FILL_AHEAD, u->room - u->filled));
        u->filled += min_u64(FILL_AHEAD, u->room - u->filled);
    }
    memcpy(u->ram + u->len, bytes, len);
    u->len += len;
    return true;
}

static bool align(struct unpacked *u)
{
    const uint64_t to = align_up(u->len, 4);

    if (to > u->room)
        return false;
    memset(u->ram + u->len, 0, to - u->len);
    u->begin = u->len = to;
    return true;
}

static bool put_archives(struct unpacked *u, const struct boot_file *initrd)
{
    struct initrd_archive a;

    for (uint64_t off = 0;; off = a.off + a.len) {
        const uint8_t *bytes = initrd->data + off;
        bool ok;

        if (!initrd_next(initrd, off, &a))
            return false;
        if (!a.len)
            return u->len > 0;
        if (a.is_empty)
            continue;
        bytes = initrd->data + a.off;
        ok = align(u) && (a.is_plain ? put(u, bytes, a.len) : unpack(bytes, a.len, put, u));
        if (!ok)
            return false;
    }
}

static void *unpack_main(void *arg)
{
    struct initrd_job *job = arg;
    struct unpacked u = { .mem = job->mem, .gpa = job->gpa, .room = job->room };

    u.ram = gmem_span(job->mem, job->gpa, job->room, GMEM_WRITE);
    job->ok = u.ram && put_archives(&u, &job->packed);
    job->len = u.len;
    return NULL;
}

void initrd_unpack_begin(struct initrd_job *job)
{
    job->is_apart = thread_start(&job->thread, "yado-initrd", unpack_main, job, NULL);
    if (!job->is_apart)
        unpack_main(job);
}

bool initrd_unpack_end(struct initrd_job *job)
{
    if (job->is_apart)
        pthread_join(job->thread, NULL);
    if (job->len)
        gmem_written(job->mem, job->gpa, job->len);
    return job->ok;
}
