/* virtio-balloon. virtio 1.2, section 5.5.
 *
 * Theory of operation
 *
 * Two ways for memory to go back to the host. The balloon proper: the host sets a target, the driver
 * allocates that many pages inside the guest and names them on the inflate queue; it takes some back through
 * the deflate queue when the target falls, or by itself when the guest runs out of memory (DEFLATE_ON_OOM).
 * And free page reporting, which nobody asks for: the driver puts ranges that are free at the moment on the
 * reporting queue and holds them until the device has answered; from then on it may use them again without a
 * word. To the device both are one thing, gmem_discard; pages that come back are zero when they are touched
 * first. Deflating needs no work at all.
 *
 * Work is done on the kicking vCPU thread, under the device's lock. It is bounded: page numbers in one buffer
 * by PFNS_MAX (Linux uses 256, FreeBSD 1024), buffers in one turn by the queue's size, both by vdev_drain.
 * Page numbers that follow each other are given back together; Linux hands them out in falling runs, so that
 * runs count in either direction.
 *
 * Queue numbers. The specification gives the reporting queue number 4, behind those for statistics and free
 * page hints, which are not offered here. Linux before 6.11 counts only the queues that it uses, and so has
 * number 2. Both are right here: without the other two features, queues 2, 3 and 4 all take reports.
 *
 * What a guest can break. A page that is not RAM, a length that is no whole number of page numbers, a buffer
 * of the wrong direction: the device is broken. A guest that gives up a page that it uses loses what was in
 * it, which concerns nobody else.
 *
 * Poison (5.5.6.4.2). A guest that fills free pages with a pattern wants to find it again. Discarded pages
 * are zero, so for any other pattern reports are answered and nothing is given back. */
#include "virtio/balloon.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define QUEUE_SIZE 32 /* Linux reports no pages to a device with less */
#define PFNS_MAX 4096u
#define PFN_SHIFT 12

/* 5.5.3 */
#define F_DEFLATE_ON_OOM (1ull << 2)
#define F_PAGE_POISON (1ull << 4)
#define F_REPORTING (1ull << 5)

/* 5.5.2 */
enum { Q_INFLATE = 0, Q_DEFLATE = 1, Q_REPORTING_FIRST = 2, QUEUE_COUNT = 5 };

/* 5.5.4 */
struct balloon_space {
    uint32_t num_pages; /* the driver shall give up so many */
    uint32_t actual;    /* written by the driver */
    uint32_t free_page_hint_cmd_id;
    uint32_t poison_val; /* written by the driver */
};
_Static_assert(sizeof(struct balloon_space) == 16, "5.5.4");

struct vballoon {
    struct vdev vd;
    struct balloon_space space;
    uint64_t inflated, deflated, reported; /* bytes; under vd.lock */
};

static struct vballoon *balloon_of(struct vdev *vd)
{
    return container_of(vd, struct vballoon, vd);
}

/* ---- page numbers ---- */

/* Consecutive pages, in the order that the driver named them. */
struct run {
    uint64_t first, count; /* page numbers */
};

static bool run_extend(struct run *r, uint64_t pfn)
{
    if (r->count && pfn == r->first + r->count) {
        r->count++;
        return true;
    }
    if (r->count && pfn + 1 == r->first) {
        r->first--;
        r->count++;
        return true;
    }
    return false;
}

static bool is_ram(const struct vdev *vd, uint64_t pfn)
{
    return gmem_span(vd->mem, pfn << PFN_SHIFT, VBALLOON_PAGE, GMEM_READ) != NULL;
}

/* Gives a run back. RAM ends where a slot ends, and a run may cross from one into the next only where their
 * addresses meet, which they do not, so a run of RAM pages is in one slot. */
static void run_discard(struct vdev *vd, const struct run *r)
{
    if (r->count && !gmem_discard(vd->mem, r->first << PFN_SHIFT, r->count << PFN_SHIFT))
        log_line(vd->log, LOG_VIRTIO, "%s: the host does not take %llu pages at %#llx", vd->name,
                 (unsigned long long)r->count, (unsigned long long)(r->first << PFN_SHIFT));
}

/* Reads the page numbers of a chain into pfns[PFNS_MAX]. False, and the device is broken, if it is no list of
 * them. */
static bool pfns_read(struct vdev *vd, unsigned queue, const struct virtq_chain *c, uint32_t *pfns)
{
    if (c->in_count)
        vdev_broken(vd, "queue %u: a buffer of page numbers that the device shall write", queue);
    else if (c->out_len % sizeof(*pfns))
        vdev_broken(vd, "queue %u: %llu bytes are no whole page numbers", queue,
                    (unsigned long long)c->out_len);
    else if (c->out_len > PFNS_MAX * sizeof(*pfns))
        vdev_broken(vd, "queue %u: more than %u page numbers in one buffer", queue, PFNS_MAX);
    else
        return virtq_segs_read(vd->segs, c->out_count, 0, pfns, (size_t)c->out_len) == c->out_len;
    return false;
}

static bool list_handle(struct vdev *vd, unsigned queue, const struct virtq_chain *c)
{
    struct vballoon *b = balloon_of(vd);
    uint32_t pfns[PFNS_MAX];
    const size_t count = (size_t)c->out_len / sizeof(pfns[0]);
    struct run run = { 0 };
    bool ok = pfns_read(vd, queue, c, pfns);

    for (size_t i = 0; ok && i < count; i++) {
        if (!is_ram(vd, pfns[i])) {
            vdev_broken(vd, "queue %u: page %#x is not RAM", queue, pfns[i]);
            ok = false;
        }
    }
    if (!ok) {
        vdev_drop(vd, queue, c->head);
        return false;
    }
    for (size_t i = 0; queue == Q_INFLATE && i < count; i++) {
        if (run_extend(&run, pfns[i]))
            continue;
        run_discard(vd, &run);
        run = (struct run){ .first = pfns[i], .count = 1 };
    }
    run_discard(vd, &run);
    *(queue == Q_INFLATE ? &b->inflated : &b->deflated) += (uint64_t)count << PFN_SHIFT;
    vdev_complete(vd, queue, c->head, 0);
    return true;
}

/* ---- free page reporting, 5.5.6.7 ---- */

static bool report_handle(struct vdev *vd, unsigned queue, const struct virtq_chain *c)
{
    struct vballoon *b = balloon_of(vd);

    if (!vdev_has(vd, F_REPORTING) || c->out_count) {
        vdev_broken(vd, "queue %u: %s", queue,
                    c->out_count ? "a report with a buffer that the device shall read"
                                 : "reports were not agreed on");
        vdev_drop(vd, queue, c->head);
        return false;
    }
    for (unsigned i = 0; i < c->in_count; i++) {
        if (vdev_has(vd, F_PAGE_POISON) && b->space.poison_val)
            continue;
        if (gmem_discard(vd->mem, vd->segs[i].gpa, vd->segs[i].len))
            b->reported += vd->segs[i].len;
    }
    vdev_complete(vd, queue, c->head, 0);
    return true;
}

/* ---- the device ---- */

static bool balloon_process(struct vdev *vd, unsigned queue)
{
    return vdev_drain(vd, queue, queue < Q_REPORTING_FIRST ? list_handle : report_handle);
}

/* `actual` and `poison_val` are the driver's; it may write them in pieces. */
static void balloon_config_write(struct vdev *vd, unsigned off, unsigned width, uint32_t value)
{
    struct vballoon *b = balloon_of(vd);
    const unsigned field = off & ~3u;

    if (field == offsetof(struct balloon_space, actual) ||
        (field == offsetof(struct balloon_space, poison_val) && vdev_has(vd, F_PAGE_POISON)))
        memcpy((uint8_t *)&b->space + off, &value, min_u64(width, field + 4 - off));
}

static void balloon_reset(struct vdev *vd)
{
    struct vballoon *b = balloon_of(vd);

    b->space.actual = 0; /* the guest's memory starts anew; the target stays */
    b->space.poison_val = 0;
}

static const struct vdev_ops balloon_ops = {
    .name = "virtio-balloon",
    .id = VIRTIO_ID_BALLOON,
    .process = balloon_process,
    .reset = balloon_reset,
    .config_write = balloon_config_write,
};

struct vballoon *vballoon_new(const struct vballoon_config *cfg, struct yado_error *err)
{
    struct vballoon *b = calloc(1, sizeof(*b));
    struct vdev_params p = {
        .features = F_DEFLATE_ON_OOM | F_PAGE_POISON | F_REPORTING,
        .queue_count = QUEUE_COUNT,
        .queue_size = QUEUE_SIZE,
        .config_len = sizeof(b->space),
        .log = cfg->log,
        .loop = cfg->loop,
    };

    if (!b) {
        err_set(err, YADO_ERR_MEMORY, "virtio-balloon: no memory for the device");
        return NULL;
    }
    p.config = &b->space;
    if (!vdev_init(&b->vd, &balloon_ops, &p, err)) {
        vballoon_free(b);
        return NULL;
    }
    return b;
}

void vballoon_free(struct vballoon *b)
{
    if (!b)
        return;
    vdev_destroy(&b->vd);
    free(b);
}

struct vdev *vballoon_vdev(struct vballoon *b)
{
    return &b->vd;
}

void vballoon_set_target(struct vballoon *b, uint32_t pages)
{
    vdev_lock(&b->vd);
    if (b->space.num_pages != pages) {
        b->space.num_pages = pages;
        vdev_config_changed(&b->vd);
    }
    vdev_unlock(&b->vd);
}

struct vballoon_facts vballoon_facts_get(struct vballoon *b)
{
    struct vballoon_facts f;

    vdev_lock(&b->vd);
    f = (struct vballoon_facts){ .target = b->space.num_pages,
                                 .actual = b->space.actual,
                                 .inflated = b->inflated,
                                 .deflated = b->deflated,
                                 .reported = b->reported };
    vdev_unlock(&b->vd);
    return f;
}
