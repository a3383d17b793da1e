/* virtio-balloon, the traditional memory balloon device (virtio 1.2, section 5.5), with free page reporting.
 */
#ifndef VIRTIO_BALLOON_H
#define VIRTIO_BALLOON_H

#include "virtio/vdev.h"

#define VBALLOON_PAGE 4096u /* bytes; the unit of the device whatever the guest's pages are */

struct vballoon;

struct vballoon_config {
    const struct log *log;
    struct loop *loop; /* may be NULL in tests */
};

struct vballoon_facts {
    uint32_t target;                       /* pages that the driver shall put into the balloon */
    uint32_t actual;                       /* pages that it says are there */
    uint64_t inflated, deflated, reported; /* bytes that went each way since the device was made */
};

struct vballoon *vballoon_new(const struct vballoon_config *cfg, struct yado_error *err);
void vballoon_free(struct vballoon *b); /* vCPUs and the loop are stopped; NULL is fine */
struct vdev *vballoon_vdev(struct vballoon *b);

/* How many pages the driver shall give up. A request: the driver follows at its own pace, as far as it can.
 * Kept over resets. Any thread, without the device's lock. */
void vballoon_set_target(struct vballoon *b, uint32_t pages);
struct vballoon_facts vballoon_facts_get(struct vballoon *b); /* any thread, likewise */

#endif
