/* virtio-blk: every request type, wrong requests, resets in the middle, and a random load against a model. */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "disk/format.h"
#include "driver.h"
#include "virtio/blk.h"

#define DISK_SECTORS 2048u
#define DISK_LEN (DISK_SECTORS * 512)

#define F_SEG_MAX (1u << 2)
#define F_RO (1u << 5)
#define F_FLUSH (1u << 9)
#define F_CONFIG_WCE (1u << 11)
#define F_MQ (1u << 12)
#define F_DISCARD (1u << 13)
#define F_WRITE_ZEROES (1u << 14)

enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_WRITE_ZEROES = 13 };
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2, S_NONE = 0xee };

/* A disk in memory whose requests can be held up and made to fail. */
struct memdisk {
    uint8_t bytes[DISK_LEN];
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool closed;      /* requests wait */
    unsigned waiting; /* that many do */
    unsigned ops[5];  /* done, by enum disk_op */
    int error;        /* what requests answer */
    bool last_unmap;
};

static int memdisk_enter(struct memdisk *m, enum disk_op op)
{
    pthread_mutex_lock(&m->lock);
    m->waiting++;
    while (m->closed)
        pthread_cond_wait(&m->changed, &m->lock);
    m->waiting--;
    m->ops[op]++;
    int error = m->error;
    pthread_mutex_unlock(&m->lock);
    return error;
}

static int memdisk_rw(void *ctx, const struct disk_request *req)
{
    struct memdisk *m = ctx;
    uint8_t *at = m->bytes + req->off;
    uint64_t sum = 0;
    int error = memdisk_enter(m, req->op);

    if (error)
        return error;
    for (unsigned i = 0; i < req->iov_count; i++) {
        sum += req->iov[i].iov_len;
        BUG_ON(req->off + sum > DISK_LEN);
        if (req->op == DISK_READ)
            memcpy(req->iov[i].iov_base, at, req->iov[i].iov_len);
        else
            memcpy(at, req->iov[i].iov_base, req->iov[i].iov_len);
        at += req->iov[i].iov_len;
    }
    BUG_ON(sum != req->len);
    return 0;
}

static int memdisk_flush(void *ctx)
{
    return memdisk_enter(ctx, DISK_FLUSH);
}

static int memdisk_discard(void *ctx, uint64_t off, uint64_t len)
{
    struct memdisk *m = ctx;
    int error = memdisk_enter(m, DISK_DISCARD);

    BUG_ON(off + len > DISK_LEN);
    if (!error)
        memset(m->bytes + off, 0xdd, len);
    return error;
}

static int memdisk_zero(void *ctx, uint64_t off, uint64_t len, bool unmap)
{
    struct memdisk *m = ctx;
    int error = memdisk_enter(m, DISK_WRITE_ZEROES);

    BUG_ON(off + len > DISK_LEN);
    m->last_unmap = unmap;
    if (!error)
        memset(m->bytes + off, 0, len);
    return error;
}

static void memdisk_close(void *ctx)
{
    (void)ctx;
}

static const struct disk_format_ops memdisk_ops = { "memory",      memdisk_rw,      memdisk_rw,
                                                    memdisk_flush, memdisk_discard, memdisk_zero,
                                                    memdisk_close };

struct rig {
    struct drv d;
    struct memdisk m;
    struct disk *disk;
    struct vblk *b;
    struct drv_queue *q;
    uint64_t header, data, status;
};

static void gate(struct rig *r, bool closed)
{
    pthread_mutex_lock(&r->m.lock);
    r->m.closed = closed;
    pthread_cond_broadcast(&r->m.changed);
    pthread_mutex_unlock(&r->m.lock);
}

static unsigned gate_waiting(struct rig *r)
{
    pthread_mutex_lock(&r->m.lock);
    unsigned n = r->m.waiting;
    pthread_mutex_unlock(&r->m.lock);
    return n;
}

static void open_with(struct rig *r, bool read_only, struct vblk_config cfg)
{
    struct yado_error err = YADO_ERROR_INIT;
    struct disk_options opt = { .read_only = read_only };

    drv_init(&r->d);
    pthread_mutex_init(&r->m.lock, NULL);
    pthread_cond_init(&r->m.changed, NULL);
    for (unsigned i = 0; i < DISK_LEN; i++)
        r->m.bytes[i] = (uint8_t)(i * 7 + i / 512);
    r->disk = disk_new(&memdisk_ops, &r->m, "memory", DISK_LEN, &opt, &err);
    assert_non_null(r->disk);
    cfg.disk = r->disk;
    cfg.log = &r->d.log;
    r->b = vblk_new(&cfg, &err);
    assert_non_null(r->b);
    drv_attach(&r->d, vblk_vdev(r->b));
    r->header = drv_alloc(&r->d, 16);
    r->data = drv_alloc(&r->d, 0x10000);
    r->status = drv_alloc(&r->d, 128);
    r->q = &r->d.queues[0];
}

static int setup(void **state)
{
    struct rig *r = test_calloc(1, sizeof(*r));

    open_with(r, false, (struct vblk_config){ .serial = "SERIAL-0123456789-too-long", .label = "vda" });
    *state = r;
    return 0;
}

static int teardown(void **state)
{
    struct rig *r = *state;

    vblk_free(r->b);
    disk_close(r->disk);
    drv_free(&r->d);
    test_free(r);
    return 0;
}

static void header_set(struct rig *r, uint32_t type, uint64_t sector)
{
    uint8_t h[16] = { 0 };

    memcpy(h, &type, 4);
    memcpy(h + 8, &sector, 8);
    memcpy(drv_at(&r->d, r->header, 16), h, 16);
    *(uint8_t *)drv_at(&r->d, r->status, 1) = S_NONE;
}

static uint8_t status_get(struct rig *r)
{
    return *(uint8_t *)drv_at(&r->d, r->status, 1);
}

/* Publishes segs, kicks, waits, returns the status byte and checks the used length. */
static uint8_t ask(struct rig *r, const struct drv_seg *segs, unsigned count, uint32_t want_len)
{
    uint32_t id, len;

    drv_add(r->q, 0, segs, count);
    vdev_kick(r->d.vd, 0);
    drv_wait_used(r->q, &id, &len);
    assert_int_equal(id, 0);
    assert_int_equal(len, want_len);
    return status_get(r);
}

/* A request of the usual framing with `len` bytes at r->data. */
static uint8_t request(struct rig *r, uint32_t type, uint64_t sector, uint32_t len, bool device_writes,
                       uint32_t want_len)
{
    struct drv_seg segs[] = { { r->header, 16, false },
                              { r->data, len, device_writes },
                              { r->status, 1, true } };

    header_set(r, type, sector);
    if (len)
        return ask(r, segs, 3, want_len);
    segs[1] = segs[2];
    return ask(r, segs, 2, want_len);
}

static void test_identity(void **state)
{
    struct rig *r = *state;
    struct vdev *vd = r->d.vd;

    vdev_lock(vd);
    assert_int_equal(vdev_config_read(vd, 0, 4), DISK_SECTORS);
    assert_int_equal(vdev_config_read(vd, 4, 4), 0);
    assert_int_equal(vdev_config_read(vd, 12, 4), 254); /* seg_max */
    assert_int_equal(vdev_config_read(vd, 20, 4), 512); /* blk_size */
    assert_int_equal(vdev_config_read(vd, 24, 1), 3);   /* physical blocks of 4096 */
    assert_int_equal(vdev_config_read(vd, 32, 1), 1);   /* writeback */
    assert_int_equal(vdev_config_read(vd, 34, 2), 1);   /* queues */
    assert_int_equal(vdev_config_read(vd, 40, 4), 1);   /* max_discard_seg */
    assert_int_equal(vdev_config_read(vd, 63, 4), 0);
    assert_int_equal(vdev_config_read(vd, 64, 4), 0);
    assert_int_equal(vdev_config_read(vd, 0xfff, 4), 0);
    vdev_unlock(vd);
    assert_true(vd->offered & F_DISCARD);
    assert_false(vd->offered & (F_RO | F_MQ));
}

static void test_read_write_flush(void **state)
{
    struct rig *r = *state;
    uint8_t *data = drv_at(&r->d, r->data, 0x10000);

    drv_start(&r->d, F_FLUSH, 0);
    assert_int_equal(request(r, T_IN, 5, 1024, true, 1025), S_OK);
    assert_memory_equal(data, r->m.bytes + 5 * 512, 1024);
    memset(data, 0x5a, 4096);
    assert_int_equal(request(r, T_OUT, DISK_SECTORS - 8, 4096, false, 1), S_OK);
    assert_memory_equal(data, r->m.bytes + DISK_LEN - 4096, 4096);
    assert_int_equal(r->m.ops[DISK_FLUSH], 0);
    assert_int_equal(request(r, T_FLUSH, 0, 0, false, 1), S_OK);
    assert_int_equal(r->m.ops[DISK_FLUSH], 1);
    assert_int_equal(request(r, T_IN, 0, 0, false, 1), S_OK); /* nothing is read without a disk request */
    assert_int_equal(r->m.ops[DISK_READ], 1);
    assert_true(r->d.queue_interrupts[0] >= 4);
}

/* 2.7.4.1: no assumption on framing. */
static void test_framing(void **state)
{
    struct rig *r = *state;
    uint8_t *data = drv_at(&r->d, r->data, 0x10000);

    drv_start(&r->d, F_FLUSH, 0);
    /* header in three pieces; data and status in two odd ones */
    struct drv_seg in[] = { { r->header, 3, false },
                            { r->header + 3, 6, false },
                            { r->header + 9, 7, false },
                            { r->data, 511, true },
                            { r->data + 511, 514, true } };
    header_set(r, T_IN, 7);
    data[1024] = S_NONE;
    ask(r, in, 5, 1025);
    assert_int_equal(data[1024], S_OK);
    assert_memory_equal(data, r->m.bytes + 7 * 512, 1024);
    /* header and data in one piece */
    struct drv_seg out[] = { { r->data, 16 + 512, false }, { r->status, 1, true } };
    header_set(r, T_OUT, 9);
    memcpy(data, drv_at(&r->d, r->header, 16), 16);
    memset(data + 16, 0xc3, 512);
    assert_int_equal(ask(r, out, 2, 1), S_OK);
    assert_memory_equal(data + 16, r->m.bytes + 9 * 512, 512);
    /* header and data in one piece, more data in another */
    struct drv_seg mixed[] = { { r->data, 16 + 512, false },
                               { r->data + 4096, 512, false },
                               { r->status, 1, true } };
    memset(data + 4096, 0x3c, 512);
    header_set(r, T_OUT, 20);
    memcpy(data, drv_at(&r->d, r->header, 16), 16);
    assert_int_equal(ask(r, mixed, 3, 1), S_OK);
    assert_memory_equal(data + 16, r->m.bytes + 20 * 512, 512);
    assert_memory_equal(data + 4096, r->m.bytes + 21 * 512, 512);
    /* data in many pieces that are no neighbours */
    struct drv_seg many[130] = { { r->header, 16, false } };
    for (unsigned i = 0; i < 128; i++)
        many[1 + i] = (struct drv_seg){ r->data + 0x8000 - i * 64, 32, true };
    many[129] = (struct drv_seg){ r->status, 1, true };
    header_set(r, T_IN, 11);
    assert_int_equal(ask(r, many, 130, 4097), S_OK);
    for (unsigned i = 0; i < 128; i++)
        assert_memory_equal(data + 0x8000 - i * 64, r->m.bytes + 11 * 512 + i * 32, 32);
}

static void test_get_id(void **state)
{
    struct rig *r = *state;
    uint8_t *data = drv_at(&r->d, r->data, 32);

    drv_start(&r->d, F_FLUSH, 0);
    assert_int_equal(request(r, T_GET_ID, 0, 20, true, 21), S_OK);
    assert_memory_equal(data, "SERIAL-0123456789-to", 20);
    memset(data, 0, 32);
    assert_int_equal(request(r, T_GET_ID, 0, 6, true, 7), S_OK);
    assert_memory_equal(data, "SERIAL\0\0", 8);
    assert_int_equal(request(r, T_GET_ID, 0, 32, true, 20), S_OK);
}

static uint8_t range(struct rig *r, uint32_t type, uint64_t sector, uint32_t count, uint32_t flags)
{
    uint8_t *data = drv_at(&r->d, r->data, 16);

    memcpy(data, &sector, 8);
    memcpy(data + 8, &count, 4);
    memcpy(data + 12, &flags, 4);
    return request(r, type, 0, 16, false, 1);
}

static void test_ranges(void **state)
{
    struct rig *r = *state;

    drv_start(&r->d, F_FLUSH | F_DISCARD | F_WRITE_ZEROES, 0);
    assert_int_equal(range(r, T_DISCARD, 8, 8, 0), S_OK);
    assert_int_equal(r->m.bytes[8 * 512], 0xdd);
    assert_int_equal(r->m.bytes[16 * 512 - 1], 0xdd);
    assert_int_equal(range(r, T_WRITE_ZEROES, 10, 2, 0), S_OK);
    assert_false(r->m.last_unmap);
    assert_int_equal(r->m.bytes[10 * 512], 0);
    assert_int_equal(r->m.bytes[12 * 512], 0xdd);
    assert_int_equal(range(r, T_WRITE_ZEROES, 10, 3, 1), S_OK);
    assert_true(r->m.last_unmap);
    assert_int_equal(range(r, T_DISCARD, 0, 0, 0), S_OK);
    unsigned before = r->m.ops[DISK_DISCARD] + r->m.ops[DISK_WRITE_ZEROES];
    assert_int_equal(range(r, T_DISCARD, 8, 8, 1), S_UNSUPP);
    assert_int_equal(range(r, T_WRITE_ZEROES, 8, 8, 2), S_UNSUPP);
    assert_int_equal(range(r, T_WRITE_ZEROES, 8, 8, 0x80000001), S_UNSUPP);
    assert_int_equal(range(r, T_DISCARD, DISK_SECTORS - 1, 2, 0), S_IOERR);
    assert_int_equal(range(r, T_DISCARD, ~0ull, 2, 0), S_IOERR);
    assert_int_equal(range(r, T_DISCARD, ~0ull / 512, 512, 0), S_IOERR);
    assert_int_equal(range(r, T_WRITE_ZEROES, 0, ~0u, 0), S_IOERR);
    assert_int_equal(request(r, T_DISCARD, 0, 15, false, 1), S_IOERR);
    assert_int_equal(request(r, T_DISCARD, 0, 32, false, 1), S_IOERR);
    assert_int_equal(request(r, T_DISCARD, 0, 0, false, 1), S_IOERR);
    assert_int_equal(r->m.ops[DISK_DISCARD] + r->m.ops[DISK_WRITE_ZEROES], before);
    drv_reset(&r->d);
    drv_start(&r->d, F_FLUSH, 0);
    assert_int_equal(range(r, T_DISCARD, 8, 8, 0), S_UNSUPP);
    assert_int_equal(range(r, T_WRITE_ZEROES, 8, 8, 0), S_UNSUPP);
}

static void test_refused(void **state)
{
    struct rig *r = *state;
    static const struct {
        uint32_t type;
        uint64_t sector;
        uint32_t len;
        uint8_t status;
    } cases[] = {
        { T_IN, DISK_SECTORS, 512, S_IOERR },
        { T_IN, DISK_SECTORS - 1, 1024, S_IOERR },
        { T_IN, ~0ull, 512, S_IOERR },
        { T_IN, ~0ull - 1, 2048, S_IOERR },
        { T_IN, 1ull << 55, 512, S_IOERR },
        { T_IN, 0, 511, S_IOERR },
        { T_IN, 0, 513, S_IOERR },
        { T_IN, 0, 1, S_IOERR },
        { 2, 0, 512, S_UNSUPP },
        { 0xffffffff, 0, 512, S_UNSUPP },
        { 0x100, 0, 512, S_UNSUPP },
        { 14, 0, 512, S_UNSUPP },
        { 10, 0, 512, S_UNSUPP },
    };

    drv_start(&r->d, F_FLUSH, 0);
    for (unsigned i = 0; i < array_size(cases); i++)
        assert_int_equal(request(r, cases[i].type, cases[i].sector, cases[i].len, true, 0), cases[i].status);
    assert_int_equal(request(r, T_OUT, DISK_SECTORS, 512, false, 1), S_IOERR);
    assert_int_equal(request(r, T_OUT, 0, 513, false, 1), S_IOERR);
    for (unsigned i = 0; i < array_size(r->m.ops); i++)
        assert_int_equal(r->m.ops[i], 0);
    assert_int_equal(drv_status(&r->d) & VIRTIO_STATUS_NEEDS_RESET, 0);
}

/* Requests that cannot even be answered. */
static void test_broken(void **state)
{
    struct rig *r = *state;
    const struct drv_seg cases[][2] = {
        { { r->header, 16, false }, { 0 } },                     /* no status */
        { { r->status, 1, true }, { 0 } },                       /* no header */
        { { r->header, 15, false }, { r->status, 1, true } },    /* short header */
        { { DRV_MEM_SIZE, 16, false }, { r->status, 1, true } }, /* outside RAM */
        { { r->header, 16, false }, { DRV_MEM_SIZE - 1, 2, true } },
    };

    for (unsigned i = 0; i < array_size(cases); i++) {
        uint32_t id, len;
        unsigned before = r->d.config_interrupts;

        drv_start(&r->d, F_FLUSH, 0);
        drv_add(r->q, 0, cases[i], cases[i][1].len ? 2 : 1);
        vdev_kick(r->d.vd, 0);
        assert_true(drv_status(&r->d) & VIRTIO_STATUS_NEEDS_RESET);
        assert_int_equal(r->d.config_interrupts, before + 1);
        assert_non_null(strstr(r->d.fault, "virtio-blk vda"));
        assert_false(drv_used(r->q, &id, &len));
        vdev_kick(r->d.vd, 0);
        assert_int_equal(r->d.config_interrupts, before + 1);
        drv_reset(&r->d);
    }
    drv_start(&r->d, F_FLUSH, 0);
    assert_int_equal(request(r, T_IN, 5, 512, true, 513), S_OK);
}

static void test_host_error(void **state)
{
    struct rig *r = *state;

    drv_start(&r->d, F_FLUSH, 0);
    r->m.error = EIO;
    assert_int_equal(request(r, T_IN, 5, 512, true, 0), S_IOERR);
    assert_int_equal(request(r, T_OUT, 5, 512, false, 1), S_IOERR);
    assert_int_equal(request(r, T_FLUSH, 5, 0, false, 1), S_IOERR);
    r->m.error = 0;
    assert_int_equal(request(r, T_IN, 5, 512, true, 513), S_OK);
}

static void test_write_through(void **state)
{
    struct rig *r = *state;

    drv_start(&r->d, 0, 0); /* no FLUSH negotiated */
    assert_int_equal(request(r, T_OUT, 5, 512, false, 1), S_OK);
    assert_int_equal(r->m.ops[DISK_FLUSH], 1);
    drv_reset(&r->d);
    drv_start(&r->d, F_FLUSH | F_CONFIG_WCE, 0);
    assert_int_equal(request(r, T_OUT, 5, 512, false, 1), S_OK);
    assert_int_equal(r->m.ops[DISK_FLUSH], 1);
    vdev_lock(r->d.vd);
    vdev_config_write(r->d.vd, 32, 1, 0);
    assert_int_equal(vdev_config_read(r->d.vd, 32, 1), 0);
    vdev_config_write(r->d.vd, 0, 4, 77); /* read-only field */
    assert_int_equal(vdev_config_read(r->d.vd, 0, 4), DISK_SECTORS);
    vdev_unlock(r->d.vd);
    assert_int_equal(request(r, T_OUT, 5, 512, false, 1), S_OK);
    assert_int_equal(r->m.ops[DISK_FLUSH], 2);
    assert_int_equal(request(r, T_IN, 5, 512, true, 513), S_OK);
    assert_int_equal(r->m.ops[DISK_FLUSH], 2);
    drv_reset(&r->d); /* back to writeback */
    drv_start(&r->d, F_FLUSH | F_CONFIG_WCE, 0);
    assert_int_equal(request(r, T_OUT, 5, 512, false, 1), S_OK);
    assert_int_equal(r->m.ops[DISK_FLUSH], 2);
}

static void test_read_only(void **state)
{
    struct rig *r = test_calloc(1, sizeof(*r));

    (void)state;
    open_with(r, true, (struct vblk_config){ .block_size = 4096 });
    assert_true(r->d.vd->offered & F_RO);
    assert_false(r->d.vd->offered & (F_DISCARD | F_WRITE_ZEROES));
    drv_start(&r->d, F_RO | F_FLUSH, 0);
    assert_int_equal(request(r, T_OUT, 5, 512, false, 1), S_IOERR);
    assert_int_equal(request(r, T_IN, 5, 512, true, 513), S_OK);
    assert_int_equal(request(r, T_FLUSH, 0, 0, false, 1), S_OK);
    assert_int_equal(r->m.ops[DISK_WRITE], 0);
    vdev_lock(r->d.vd);
    assert_int_equal(vdev_config_read(r->d.vd, 20, 4), 4096);
    vdev_unlock(r->d.vd);
    void *p = r;
    teardown(&p);
}

/* Fills the queue with reads that the disk holds up. Returns how many. */
static unsigned reads_publish(struct rig *r, unsigned count)
{
    header_set(r, T_IN, 5);
    for (unsigned i = 0; i < count; i++) {
        struct drv_seg segs[] = { { r->header, 16, false },
                                  { r->data + i * 512, 512, true },
                                  { r->status + i, 1, true } };
        drv_add(r->q, i * 3, segs, 3);
    }
    return count;
}

static void test_many_in_flight(void **state)
{
    struct rig *r = *state;
    uint32_t id, len;

    drv_start(&r->d, F_FLUSH, 0);
    gate(r, true);
    unsigned n = reads_publish(r, 80);
    vdev_kick(r->d.vd, 0);
    vdev_lock(r->d.vd);
    assert_int_equal(r->d.vd->queues[0].held, n); /* none waits for another */
    vdev_unlock(r->d.vd);
    assert_false(drv_used(r->q, &id, &len));
    gate(r, false);
    for (unsigned i = 0; i < n; i++)
        drv_wait_used(r->q, &id, &len);
    for (unsigned i = 0; i < n; i++)
        assert_memory_equal(drv_at(&r->d, r->data + i * 512, 512), r->m.bytes + 5 * 512, 512);
}

struct resetter {
    struct rig *r;
    int done; /* atomic */
};

static void *reset_main(void *ctx)
{
    struct resetter *w = ctx;

    vdev_reset(w->r->d.vd);
    __atomic_store_n(&w->done, 1, __ATOMIC_SEQ_CST);
    return NULL;
}

static void test_reset_in_flight(void **state)
{
    struct rig *r = *state;
    struct resetter w[2] = { { r, 0 }, { r, 0 } };
    pthread_t t[2];
    uint32_t id, len;

    drv_start(&r->d, F_FLUSH, 0);
    gate(r, true);
    reads_publish(r, 20);
    vdev_kick(r->d.vd, 0);
    while (gate_waiting(r) == 0)
        sched_yield();
    for (unsigned i = 0; i < 2; i++) /* two vCPUs at once */
        assert_int_equal(pthread_create(&t[i], NULL, reset_main, &w[i]), 0);
    usleep(50000);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(__atomic_load_n(&w[i].done, __ATOMIC_SEQ_CST), 0);
    assert_true(drv_status(&r->d) & VIRTIO_STATUS_DRIVER_OK); /* reset has not ended */
    vdev_kick(r->d.vd, 0);
    gate(r, false);
    for (unsigned i = 0; i < 2; i++)
        pthread_join(t[i], NULL);
    assert_int_equal(drv_status(&r->d), 0);
    assert_false(drv_used(r->q, &id, &len)); /* not published */
    /* memory is the driver's own again */
    memset(drv_at(&r->d, r->data, 20 * 512), 0x77, 20 * 512);
    usleep(20000);
    for (unsigned i = 0; i < 20 * 512; i++)
        assert_int_equal(((uint8_t *)drv_at(&r->d, r->data, 20 * 512))[i], 0x77);
    drv_start(&r->d, F_FLUSH, 0);
    assert_int_equal(request(r, T_IN, 5, 512, true, 513), S_OK);
}

static void test_broken_in_flight(void **state)
{
    struct rig *r = *state;
    uint32_t id, len;

    drv_start(&r->d, F_FLUSH, 0);
    gate(r, true);
    reads_publish(r, 5);
    vdev_kick(r->d.vd, 0);
    drv_publish(r->q, 0); /* held already */
    vdev_kick(r->d.vd, 0);
    assert_true(drv_status(&r->d) & VIRTIO_STATUS_NEEDS_RESET);
    gate(r, false);
    disk_drain(r->disk);
    assert_false(drv_used(r->q, &id, &len));
    drv_reset(&r->d);
    drv_start(&r->d, F_FLUSH, 0);
    assert_int_equal(request(r, T_IN, 5, 512, true, 513), S_OK);
}

static void *gate_opener(void *ctx)
{
    usleep(30000);
    gate(ctx, false);
    return NULL;
}

static void test_free_in_flight(void **state)
{
    struct rig *r = *state;
    pthread_t t;

    drv_start(&r->d, F_FLUSH, 0);
    gate(r, true);
    reads_publish(r, 5);
    vdev_kick(r->d.vd, 0);
    assert_int_equal(pthread_create(&t, NULL, gate_opener, r), 0);
    vblk_free(r->b);
    r->b = NULL;
    pthread_join(t, NULL);
    assert_int_equal(r->m.ops[DISK_READ], 5);
}

static void test_not_started(void **state)
{
    struct rig *r = *state;
    uint32_t id, len;

    drv_start(&r->d, F_FLUSH, 0);
    reads_publish(r, 1);
    r->d.no_bus_master = true;
    vdev_kick(r->d.vd, 0);
    vdev_kick(r->d.vd, 1);
    vdev_kick(r->d.vd, 12345);
    assert_int_equal(r->m.ops[DISK_READ], 0);
    r->d.no_bus_master = false;
    vdev_kick(r->d.vd, 0);
    drv_wait_used(r->q, &id, &len);
    drv_reset(&r->d);
    vdev_kick(r->d.vd, 0);
    assert_int_equal(r->m.ops[DISK_READ], 1);
}

/* Random requests in random order over several queues, checked against a copy of the disk. Every slot owns a
 * range of the disk, so that requests in flight never touch the same sectors. */
#define SLOTS 16
#define SLOT_SECTORS (DISK_SECTORS / 64)

struct slot {
    bool busy;
    uint32_t type;
    unsigned sector, count; /* in its range */
    uint64_t header, data, status;
};

static void slot_start(struct rig *r, struct slot *s, unsigned queue, unsigned index)
{
    unsigned base = (queue * SLOTS + index) * SLOT_SECTORS;
    uint32_t kind = (uint32_t)random() % 8;
    uint64_t sector;
    struct drv_seg segs[5];
    unsigned n = 0;
    uint32_t len;

    s->type = kind == 0 ? T_FLUSH : kind < 4 ? T_IN : T_OUT;
    s->count = 1 + (unsigned)random() % 8;
    s->sector = base + (unsigned)random() % (SLOT_SECTORS - 8);
    sector = s->sector;
    memset(drv_at(&r->d, s->header, 16), 0, 16);
    memcpy(drv_at(&r->d, s->header, 16), &s->type, 4);
    memcpy(drv_at(&r->d, s->header + 8, 8), &sector, 8);
    *(uint8_t *)drv_at(&r->d, s->status, 1) = S_NONE;
    len = s->type == T_FLUSH ? 0 : s->count * 512;
    if (s->type == T_OUT) {
        uint8_t *p = drv_at(&r->d, s->data, len);
        for (unsigned i = 0; i < len; i++)
            p[i] = (uint8_t)random();
    }
    segs[n++] = (struct drv_seg){ s->header, 16, false };
    if (len) { /* in two pieces */
        uint32_t cut = 1 + (uint32_t)random() % (len - 1);
        segs[n++] = (struct drv_seg){ s->data, cut, s->type == T_IN };
        segs[n++] = (struct drv_seg){ s->data + cut, len - cut, s->type == T_IN };
    }
    segs[n++] = (struct drv_seg){ s->status, 1, true };
    s->busy = true;
    drv_add(&r->d.queues[queue], index * 4, segs, n);
}

static void slot_finish(struct rig *r, struct slot *s, uint8_t *model)
{
    uint32_t len = s->count * 512;
    uint8_t *p = drv_at(&r->d, s->data, len);

    assert_true(s->busy);
    s->busy = false;
    assert_int_equal(*(uint8_t *)drv_at(&r->d, s->status, 1), S_OK);
    if (s->type == T_IN)
        assert_memory_equal(p, model + s->sector * 512, len);
    else if (s->type == T_OUT)
        memcpy(model + s->sector * 512, p, len);
}

static unsigned interrupts(struct rig *r, unsigned queue)
{
    return __atomic_load_n(&r->d.queue_interrupts[queue], __ATOMIC_SEQ_CST);
}

/* A driver that sleeps until it is told: a lost interrupt shows. */
static void wait_interrupt(struct rig *r, unsigned queue, unsigned seen)
{
    time_t end = time(NULL) + 20;

    while (interrupts(r, queue) == seen) {
        if (time(NULL) > end)
            fail_msg("no interrupt came");
        sched_yield();
    }
}

static void random_load(unsigned seed, uint64_t features)
{
    enum { QUEUES = 2, ROUNDS = 4000 };
    struct rig *r = test_calloc(1, sizeof(*r));
    struct slot(*slots)[SLOTS] = test_calloc(QUEUES * SLOTS, sizeof(**slots));
    uint8_t *model = test_malloc(DISK_LEN);
    unsigned done = 0;

    print_message("seed %u\n", seed);
    srandom(seed);
    open_with(r, false, (struct vblk_config){ .queue_count = QUEUES });
    assert_true(r->d.vd->offered & F_MQ);
    memcpy(model, r->m.bytes, DISK_LEN);
    drv_start(&r->d, F_FLUSH | F_MQ | features, 64);
    for (unsigned i = 0; i < QUEUES * SLOTS; i++) {
        struct slot *s = &slots[i / SLOTS][i % SLOTS];
        s->header = drv_alloc(&r->d, 16);
        s->data = drv_alloc(&r->d, 4096);
        s->status = drv_alloc(&r->d, 1);
    }
    while (done < ROUNDS) {
        unsigned queue = (unsigned)random() % QUEUES;
        struct drv_queue *q = &r->d.queues[queue];
        uint16_t old = q->avail_idx;
        uint32_t id, len;
        unsigned seen, before = done;

        for (unsigned i = 0; i < SLOTS; i++)
            if (!slots[queue][i].busy && random() % 2)
                slot_start(r, &slots[queue][i], queue, i);
        if (q->avail_idx != old && drv_kick_wanted(q, old))
            vdev_kick(r->d.vd, queue);
        seen = interrupts(r, queue);
        while (drv_used(q, &id, &len)) {
            slot_finish(r, &slots[queue][id / 4], model);
            done++;
        }
        if (done == before && q->avail_idx != q->used_idx)
            wait_interrupt(r, queue, seen);
    }
    for (unsigned i = 0; i < QUEUES * SLOTS; i++)
        while (slots[i / SLOTS][i % SLOTS].busy) {
            uint32_t id, len;
            drv_wait_used(&r->d.queues[i / SLOTS], &id, &len);
            slot_finish(r, &slots[i / SLOTS][id / 4], model);
        }
    assert_memory_equal(model, r->m.bytes, DISK_LEN);
    void *p = r;
    teardown(&p);
    test_free(model);
    test_free(slots);
}

static void test_random_load(void **state)
{
    (void)state;
    random_load(1, 0);
    random_load(2, VIRTIO_F_EVENT_IDX);
}

/* The real thing under it: a raw image file. */
static void test_raw_file(void **state)
{
    struct rig *r = test_calloc(1, sizeof(*r));
    struct yado_error err = YADO_ERROR_INIT;
    struct disk_options opt = { 0 };
    int fd = memfd_create("disk", MFD_CLOEXEC);
    uint8_t got[512];

    (void)state;
    assert_int_equal(ftruncate(fd, DISK_LEN), 0);
    drv_init(&r->d);
    r->disk = disk_open_raw(dup(fd), "memfd", &opt, &err);
    assert_non_null(r->disk);
    r->b = vblk_new(&(struct vblk_config){ .disk = r->disk }, &err);
    assert_non_null(r->b);
    drv_attach(&r->d, vblk_vdev(r->b));
    r->header = drv_alloc(&r->d, 16);
    r->data = drv_alloc(&r->d, 4096);
    r->status = drv_alloc(&r->d, 128);
    r->q = &r->d.queues[0];
    drv_start(&r->d, F_FLUSH | F_DISCARD | F_WRITE_ZEROES, 0);
    memset(drv_at(&r->d, r->data, 4096), 0xa5, 4096);
    assert_int_equal(request(r, T_OUT, 8, 4096, false, 1), S_OK);
    assert_int_equal(request(r, T_FLUSH, 0, 0, false, 1), S_OK);
    assert_int_equal(pread(fd, got, 512, 8 * 512), 512);
    assert_memory_equal(got, drv_at(&r->d, r->data, 512), 512);
    assert_int_equal(range(r, T_WRITE_ZEROES, 8, 1, 0), S_OK);
    assert_int_equal(request(r, T_IN, 8, 1024, true, 1025), S_OK);
    memset(got, 0, 512);
    assert_memory_equal(got, drv_at(&r->d, r->data, 512), 512);
    assert_int_equal(*(uint8_t *)drv_at(&r->d, r->data + 512, 1), 0xa5);
    assert_int_equal(range(r, T_DISCARD, 8, 8, 0), S_OK);
    close(fd);
    void *p = r;
    teardown(&p);
}

#define T(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(identity),
        T(read_write_flush),
        T(framing),
        T(get_id),
        T(ranges),
        T(refused),
        T(broken),
        T(host_error),
        T(write_through),
        T(many_in_flight),
        T(reset_in_flight),
        T(broken_in_flight),
        T(free_in_flight),
        T(not_started),
        cmocka_unit_test(test_read_only),
        cmocka_unit_test(test_random_load),
        cmocka_unit_test(test_raw_file),
    };

    return cmocka_run_group_tests_name("virtio blk", tests, NULL, NULL);
}
