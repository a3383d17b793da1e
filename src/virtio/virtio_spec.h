/* Numbers of the virtio 1.2 specification that more than one file needs. Multi-byte fields are little-endian,
 * as is every host that we run on. */
#ifndef VIRTIO_VIRTIO_SPEC_H
#define VIRTIO_VIRTIO_SPEC_H

#include "util/base.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "virtio structures are read in host byte order");

/* Device ids, section 5. */
enum {
    VIRTIO_ID_NET = 1,
    VIRTIO_ID_BLOCK = 2,
    VIRTIO_ID_CONSOLE = 3,
    VIRTIO_ID_RNG = 4,
    VIRTIO_ID_BALLOON = 5,
    VIRTIO_ID_VSOCK = 19,
};

/* Device status bits, section 2.1. */
enum {
    VIRTIO_STATUS_ACKNOWLEDGE = 1,
    VIRTIO_STATUS_DRIVER = 2,
    VIRTIO_STATUS_DRIVER_OK = 4,
    VIRTIO_STATUS_FEATURES_OK = 8,
    VIRTIO_STATUS_NEEDS_RESET = 64,
    VIRTIO_STATUS_FAILED = 128,
};

/* Reserved feature bits, section 6. */
#define VIRTIO_F_INDIRECT_DESC (1ull << 28)
#define VIRTIO_F_EVENT_IDX (1ull << 29)
#define VIRTIO_F_VERSION_1 (1ull << 32)

/* Split ring descriptor, section 2.7.5. */
struct virtio_desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags;
    uint16_t next;
};
_Static_assert(sizeof(struct virtio_desc) == 16, "section 2.7.5");

enum { VIRTIO_DESC_NEXT = 1, VIRTIO_DESC_WRITE = 2, VIRTIO_DESC_INDIRECT = 4 };
enum { VIRTIO_AVAIL_NO_INTERRUPT = 1, VIRTIO_USED_NO_NOTIFY = 1 };

/* Used ring element, section 2.7.8. */
struct virtio_used_elem {
    uint32_t id;
    uint32_t len;
};

#endif
