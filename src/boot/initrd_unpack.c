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

/* Whether what an archive was unpacked to is what the kernel takes unpacked: several packed ones that come
 * out of the packer in one piece need not end at a multiple of 4 bytes. */
static bool is_sound(const struct unpacked *u)
{
    const struct boot_file all = { .data = u->ram + u->begin, .len = u->len - u->begin };
    struct initrd_archive a = { 0 };

    do {
        if (!initrd_next(&all, a.off + a.len, &a))
            return false;
        if (a.len && (!a.is_plain || a.off % 4))
            return false;
    } while (a.len);
    return true;
}

/* How many bytes of the file were taken. 0: not for us. */
static uint64_t put_archive(struct unpacked *u, const uint8_t *bytes, const struct initrd_archive *a)
{
    uint64_t used;

    if (!align(u))
        return 0;
    if (a->is_plain)
        return put(u, bytes, a->len) ? a->len : 0;
    used = unpack(bytes, a->len, put, u);
    return used && is_sound(u) ? used : 0;
}

static bool put_archives(struct unpacked *u, const struct boot_file *initrd)
{
    struct initrd_archive a;
    uint64_t used;

    for (uint64_t off = 0;; off = a.off + used) {
        if (!initrd_next(initrd, off, &a))
            return false;
        if (!a.len)
            return u->len > 0;
        used = a.is_empty ? a.len : put_archive(u, initrd->data + a.off, &a);
        if (!used)
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
