/* virtio-blk. virtio 1.2, section 5.2.
 *
 * Theory of operation
 *
 * A request is one chain: a header of 16 readable bytes, then data in one direction, and a status byte as the
 * last writable byte, however the driver cut that into descriptors (5.2.6, 2.7.4). The kicking vCPU thread
 * takes chains, checks them and hands them to the disk, which works on them asynchronously, any number at
 * once and in any order; the disk's thread writes the status, returns the chain and interrupts. Data goes
 * between disk and guest memory without a copy: the request's iovec points into guest memory.
 *
 * Checks. Without room for header and status the device is broken, as there is no way to answer. Everything
 * else is answered: IOERR for a range outside the disk, a length that is no multiple of 512, a write to a
 * read-only disk, a bad discard; UNSUPP for unknown types and flags. Ranges are compared by subtraction, so
 * that nothing can wrap.
 *
 * The used length names the bytes written from the start of the writable part without a gap (2.7.8.2): data
 * and status of a complete read; the status where there is no data; 0 where data was not (all) written but
 * the status after it was.
 *
 * Write-back. With FLUSH negotiated the disk may cache writes and the guest flushes. A driver that did not
 * negotiate FLUSH, or that turned writeback off through CONFIG_WCE, must find each completed write on stable
 * storage: then a write is followed by a flush of its own before it completes (5.2.5.2, 5.2.6.2).
 *
 * Limits. A request's memory is bounded by VIRTQ_CHAIN_MAX, and their number by the queues' sizes. Discard
 * and write-zeroes requests carry one range of at most 2 GiB, so that one cannot occupy the disk for ever.
 *
 * Threads and reset: see vdev.c. A request is freed by the completion that returns its chain, with the
 * device's lock held, so vdev's wait for held chains is the wait for the disk. vblk_free also drains the
 * disk, because the disk's thread may still be on its way out of our callback. */
#include "virtio/blk.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SECTOR 512u
#define QUEUE_SIZE 256
#define SEG_MAX (QUEUE_SIZE - 2)     /* room for header and status in a direct chain */
#define RANGE_SECTORS_MAX (1u << 22) /* 2 GiB */
#define SERIAL_LEN 20

/* 5.2.3 */
#define F_SEG_MAX (1ull << 2)
#define F_RO (1ull << 5)
#define F_BLK_SIZE (1ull << 6)
#define F_FLUSH (1ull << 9)
#define F_TOPOLOGY (1ull << 10)
#define F_CONFIG_WCE (1ull << 11)
#define F_MQ (1ull << 12)
#define F_DISCARD (1ull << 13)
#define F_WRITE_ZEROES (1ull << 14)

/* 5.2.6 */
enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_WRITE_ZEROES = 13 };
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2 };
#define RANGE_FLAG_UNMAP 1u

struct blk_header {
    uint32_t type;
    uint32_t reserved;
    uint64_t sector;
};

struct blk_range {
    uint64_t sector;
    uint32_t count; /* sectors */
    uint32_t flags;
};

/* 5.2.4. All fields lie at their natural places. */
struct blk_space {
    uint64_t capacity; /* sectors of 512 */
    uint32_t size_max;
    uint32_t seg_max;
    uint16_t cylinders;
    uint8_t heads, sectors;
    uint32_t blk_size;
    uint8_t physical_block_exp, alignment_offset;
    uint16_t min_io_size;
    uint32_t opt_io_size;
    uint8_t writeback;
    uint8_t unused0;
    uint16_t num_queues;
    uint32_t max_discard_sectors, max_discard_seg, discard_sector_alignment;
    uint32_t max_write_zeroes_sectors, max_write_zeroes_seg;
    uint8_t write_zeroes_may_unmap;
    uint8_t unused1[3];
};
_Static_assert(sizeof(struct blk_space) == 64 && offsetof(struct blk_space, num_queues) == 34 &&
                   offsetof(struct blk_space, write_zeroes_may_unmap) == 56,
               "virtio 1.2, 5.2.4");

struct vblk {
    struct vdev vd;
    struct disk *disk;
    struct blk_space space;
    char serial[SERIAL_LEN];
};

/* A request that the disk works on. Iovecs and, for reads, the guest addresses of the same pieces follow. */
struct blk_request {
    struct disk_request disk; /* first, so that done can find us */
    struct vblk *blk;
    unsigned queue;
    uint16_t head;
    bool flush_after;
    uint32_t used_ok, used_failed; /* what to put in the used ring */
    uint64_t status_gpa;
    uint64_t *gpas; /* per iovec; NULL unless the device writes the data */
    struct iovec iov[];
};

/* What a chain asks for, checked so far as it can be without knowing the type. */
struct blk_ask {
    const struct virtq_chain *chain;
    unsigned queue;
    struct blk_header header;
    uint64_t out_len, in_len; /* bytes of data: behind the header, before the status */
    uint64_t status_gpa;
};

static void status_write(struct vblk *b, uint64_t gpa, uint8_t status)
{
    gmem_write(b->vd.mem, gpa, &status, 1); /* cannot fail: the chain's segments were checked */
}

/* Answers on the spot. `filled`: bytes of data written without a gap from the start. */
static void answer(struct vblk *b, const struct blk_ask *ask, uint8_t status, uint64_t filled)
{
    status_write(b, ask->status_gpa, status);
    vdev_complete(&b->vd, ask->queue, ask->chain->head,
                  (uint32_t)(filled == ask->in_len ? filled + 1 : filled));
}

static void request_done(struct disk_request *dr, int error)
{
    struct blk_request *r = container_of(dr, struct blk_request, disk);
    struct vblk *b = r->blk;

    if (!error && r->flush_after) {
        r->flush_after = false;
        dr->op = DISK_FLUSH;
        dr->off = dr->len = 0;
        disk_submit(b->disk, dr);
        return;
    }
    for (unsigned i = 0; r->gpas && i < dr->iov_count; i++)
        gmem_written(b->vd.mem, r->gpas[i], r->iov[i].iov_len);
    status_write(b, r->status_gpa, error ? S_IOERR : S_OK);
    if (error)
        log_line(b->vd.log, LOG_DISK, "%s: request failed on the host: %s", b->vd.name, strerror(error));
    vdev_lock(&b->vd);
    vdev_complete(&b->vd, r->queue, r->head, error ? r->used_failed : r->used_ok);
    free(r);
    vdev_unlock(&b->vd);
}

/* Points the request's iovec to `len` bytes of data of the segments from byte `skip` on; joins neighbours.
 * Pieces may be neighbours on the host and not in the guest (the two ends of the PCI hole), which matters
 * where gpas are kept. */
static void iov_fill(struct blk_request *r, const struct virtq_seg *segs, unsigned count, uint64_t skip,
                     uint64_t len)
{
    unsigned n = 0;

    for (unsigned i = 0; i < count && len; i++) {
        if (skip >= segs[i].len) {
            skip -= segs[i].len;
            continue;
        }
        uint8_t *at = segs[i].hva + skip;
        uint64_t part = min_u64(segs[i].len - skip, len);

        if (n && (uint8_t *)r->iov[n - 1].iov_base + r->iov[n - 1].iov_len == at &&
            (!r->gpas || r->gpas[n - 1] + r->iov[n - 1].iov_len == segs[i].gpa + skip)) {
            r->iov[n - 1].iov_len += part;
        } else {
            r->iov[n] = (struct iovec){ .iov_base = at, .iov_len = part };
            if (r->gpas)
                r->gpas[n] = segs[i].gpa + skip;
            n++;
        }
        len -= part;
        skip = 0;
    }
    r->disk.iov = r->iov;
    r->disk.iov_count = n;
}

static struct blk_request *request_new(struct vblk *b, const struct blk_ask *ask, enum disk_op op,
                                       unsigned pieces)
{
    size_t iov_len = pieces * sizeof(struct iovec);
    size_t gpa_len = op == DISK_READ ? pieces * sizeof(uint64_t) : 0;
    struct blk_request *r = malloc(sizeof(*r) + iov_len + gpa_len);

    if (!r) {
        answer(b, ask, S_IOERR, 0);
        return NULL;
    }
    memset(r, 0, sizeof(*r));
    r->disk.op = op;
    r->disk.done = request_done;
    r->blk = b;
    r->queue = ask->queue;
    r->head = ask->chain->head;
    r->used_ok = op == DISK_READ || !ask->in_len ? (uint32_t)ask->in_len + 1 : 0;
    r->used_failed = ask->in_len ? 0 : 1;
    r->status_gpa = ask->status_gpa;
    r->gpas = op == DISK_READ ? (uint64_t *)(void *)&r->iov[pieces] : NULL;
    return r;
}

static bool range_fits(const struct vblk *b, uint64_t sector, uint64_t count)
{
    return sector <= b->space.capacity && count <= b->space.capacity - sector;
}

static bool write_through(const struct vblk *b)
{
    if (vdev_has(&b->vd, F_CONFIG_WCE))
        return !b->space.writeback;
    return !vdev_has(&b->vd, F_FLUSH);
}

static void read_write(struct vblk *b, const struct blk_ask *ask)
{
    const struct virtq_chain *c = ask->chain;
    bool write = ask->header.type == T_OUT;
    uint64_t len = write ? ask->out_len : ask->in_len;
    struct blk_request *r;

    if (len % SECTOR || !range_fits(b, ask->header.sector, len / SECTOR) ||
        (write && disk_read_only(b->disk))) {
        answer(b, ask, S_IOERR, 0);
        return;
    }
    if (len == 0) {
        answer(b, ask, S_OK, 0);
        return;
    }
    r = request_new(b, ask, write ? DISK_WRITE : DISK_READ, write ? c->out_count : c->in_count);
    if (!r)
        return;
    r->disk.off = ask->header.sector * SECTOR;
    r->disk.len = len;
    r->flush_after = write && write_through(b);
    if (write)
        iov_fill(r, b->vd.segs, c->out_count, sizeof(struct blk_header), len);
    else
        iov_fill(r, b->vd.segs + c->out_count, c->in_count, 0, len);
    disk_submit(b->disk, &r->disk);
}

static void flush(struct vblk *b, const struct blk_ask *ask)
{
    struct blk_request *r = request_new(b, ask, DISK_FLUSH, 0);

    if (r)
        disk_submit(b->disk, &r->disk);
}

static void get_id(struct vblk *b, const struct blk_ask *ask)
{
    const struct virtq_chain *c = ask->chain;
    size_t n = min_u64(ask->in_len, SERIAL_LEN);

    virtq_segs_write(b->vd.mem, b->vd.segs + c->out_count, c->in_count, 0, b->serial, n);
    answer(b, ask, S_OK, n);
}

/* DISCARD and WRITE_ZEROES, 5.2.6.2: one range each, as max_discard_seg and max_write_zeroes_seg say. */
static void range_request(struct vblk *b, const struct blk_ask *ask)
{
    const struct virtq_chain *c = ask->chain;
    bool discard = ask->header.type == T_DISCARD;
    struct blk_range range;
    struct blk_request *r;

    if (!vdev_has(&b->vd, discard ? F_DISCARD : F_WRITE_ZEROES)) {
        answer(b, ask, S_UNSUPP, 0);
        return;
    }
    if (ask->out_len != sizeof(range)) {
        answer(b, ask, S_IOERR, 0);
        return;
    }
    virtq_segs_read(b->vd.segs, c->out_count, sizeof(struct blk_header), &range, sizeof(range));
    if (range.flags & ~(discard ? 0 : RANGE_FLAG_UNMAP)) {
        answer(b, ask, S_UNSUPP, 0);
        return;
    }
    if (range.count > RANGE_SECTORS_MAX || !range_fits(b, range.sector, range.count)) {
        answer(b, ask, S_IOERR, 0);
        return;
    }
    if (range.count == 0) {
        answer(b, ask, S_OK, 0);
        return;
    }
    r = request_new(b, ask, discard ? DISK_DISCARD : DISK_WRITE_ZEROES, 0);
    if (!r)
        return;
    r->disk.off = range.sector * SECTOR;
    r->disk.len = (uint64_t)range.count * SECTOR;
    r->disk.unmap = (range.flags & RANGE_FLAG_UNMAP) != 0;
    r->flush_after = write_through(b);
    disk_submit(b->disk, &r->disk);
}

/* Guest address of the chain's last writable byte. */
static uint64_t last_byte_gpa(const struct vblk *b, const struct virtq_chain *c)
{
    const struct virtq_seg *s = &b->vd.segs[c->out_count + c->in_count - 1];

    return s->gpa + s->len - 1;
}

static bool handle(struct vdev *vd, unsigned queue, const struct virtq_chain *c)
{
    struct vblk *b = container_of(vd, struct vblk, vd);
    struct blk_ask ask = { .chain = c, .queue = queue };

    if (c->out_len < sizeof(ask.header) || c->in_len < 1) {
        vdev_broken(vd, "queue %u: request without a whole header or without a status byte", queue);
        vdev_drop(vd, queue, c->head);
        return false;
    }
    virtq_segs_read(vd->segs, c->out_count, 0, &ask.header, sizeof(ask.header));
    ask.out_len = c->out_len - sizeof(ask.header);
    ask.in_len = c->in_len - 1;
    ask.status_gpa = last_byte_gpa(b, c);
    switch (ask.header.type) {
    case T_IN:
    case T_OUT: read_write(b, &ask); break;
    case T_FLUSH: flush(b, &ask); break;
    case T_GET_ID: get_id(b, &ask); break;
    case T_DISCARD:
    case T_WRITE_ZEROES: range_request(b, &ask); break;
    default: answer(b, &ask, S_UNSUPP, 0); break;
    }
    return true;
}

static bool blk_process(struct vdev *vd, unsigned queue)
{
    return vdev_drain(vd, queue, handle);
}

static void blk_reset(struct vdev *vd)
{
    container_of(vd, struct vblk, vd)->space.writeback = 1;
}

static void blk_config_write(struct vdev *vd, unsigned off, unsigned width, uint32_t value)
{
    struct vblk *b = container_of(vd, struct vblk, vd);

    if (off == offsetof(struct blk_space, writeback) && width == 1 && vdev_has(vd, F_CONFIG_WCE))
        b->space.writeback = value & 1;
}

static const struct vdev_ops blk_ops = {
    .name = "virtio-blk",
    .id = VIRTIO_ID_BLOCK,
    .process = blk_process,
    .reset = blk_reset,
    .config_write = blk_config_write,
};

static void space_fill(struct vblk *b, const struct vblk_config *cfg, unsigned queues)
{
    struct blk_space *s = &b->space;

    s->capacity = disk_size(b->disk) / SECTOR;
    s->seg_max = SEG_MAX;
    s->blk_size = cfg->block_size ? cfg->block_size : SECTOR;
    while (s->blk_size << s->physical_block_exp < 4096) /* what host file systems and SSDs like */
        s->physical_block_exp++;
    s->min_io_size = (uint16_t)(4096 / s->blk_size);
    s->writeback = 1;
    s->num_queues = (uint16_t)queues;
    if (disk_read_only(b->disk))
        return;
    s->max_discard_sectors = RANGE_SECTORS_MAX;
    s->max_discard_seg = 1;
    s->discard_sector_alignment = 4096 / SECTOR;
    s->max_write_zeroes_sectors = RANGE_SECTORS_MAX;
    s->max_write_zeroes_seg = 1;
    s->write_zeroes_may_unmap = 1;
}

struct vblk *vblk_new(const struct vblk_config *cfg, struct yado_error *err)
{
    unsigned queues = cfg->queue_count ? cfg->queue_count : 1;
    bool ro = disk_read_only(cfg->disk);
    struct vdev_params p = {
        .label = cfg->label,
        .features = F_SEG_MAX | F_BLK_SIZE | F_FLUSH | F_TOPOLOGY | F_CONFIG_WCE | (queues > 1 ? F_MQ : 0) |
                    (ro ? F_RO : F_DISCARD | F_WRITE_ZEROES),
        .queue_count = queues,
        .queue_size = QUEUE_SIZE,
        .config_len = sizeof(struct blk_space),
        .log = cfg->log,
        .loop = cfg->loop,
    };
    struct vblk *b;

    BUG_ON(cfg->block_size &&
           (cfg->block_size < SECTOR || cfg->block_size > 4096 || (cfg->block_size & (cfg->block_size - 1))));
    if (disk_size(cfg->disk) % (cfg->block_size ? cfg->block_size : SECTOR)) {
        err_set(err, YADO_ERR_IMAGE, "%s: its size is not a multiple of the block size of %u bytes",
                cfg->label ? cfg->label : "disk", cfg->block_size);
        return NULL;
    }
    b = calloc(1, sizeof(*b));
    if (!b) {
        err_set(err, YADO_ERR_MEMORY, "virtio-blk: no memory for the device");
        return NULL;
    }
    b->disk = cfg->disk;
    if (cfg->serial)
        memcpy(b->serial, cfg->serial, strnlen(cfg->serial, SERIAL_LEN));
    space_fill(b, cfg, queues);
    p.config = &b->space;
    if (!vdev_init(&b->vd, &blk_ops, &p, err)) {
        vblk_free(b);
        return NULL;
    }
    return b;
}

void vblk_free(struct vblk *b)
{
    if (!b)
        return;
    if (b->vd.queues)
        disk_drain(b->disk);
    vdev_destroy(&b->vd);
    free(b);
}

struct vdev *vblk_vdev(struct vblk *b)
{
    return &b->vd;
}
