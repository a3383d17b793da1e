/* virtio-blk (virtio 1.2, section 5.2). Theory of operation in blk.c. */
#ifndef VIRTIO_BLK_H
#define VIRTIO_BLK_H

#include "disk/disk.h"
#include "virtio/vdev.h"

struct vblk;

struct vblk_config {
    struct disk *disk;     /* borrowed; must outlive the device */
    const char *label;     /* for messages, e.g. the disk's name; may be NULL */
    const char *serial;    /* what GET_ID answers, first 20 bytes; NULL: empty */
    unsigned queue_count;  /* 1 to 64, best the number of vCPUs; 0 means 1 */
    uint32_t block_size;   /* logical block size told to the guest: power of two, 512 to 4096; 0 means 512 */
    const struct log *log; /* may be NULL */
    struct loop *loop;     /* may be NULL in tests */
};

/* Read-only follows disk_read_only. NULL and err on failure. */
struct vblk *vblk_new(const struct vblk_config *cfg, struct yado_error *err);
/* vCPUs and the loop are stopped; waits for requests in flight. The disk may be closed afterwards. NULL is
 * fine. */
void vblk_free(struct vblk *b);
struct vdev *vblk_vdev(struct vblk *b);

#endif
