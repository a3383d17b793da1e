/* Disks: an attachment (where the bytes are) in a device (how the guest sees it). */
#ifndef YADO_STORAGE_H
#define YADO_STORAGE_H

#include <yado/base.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The format is always said by the caller, never guessed from the contents: a guest that can write a raw disk
 * could otherwise turn it into another format. */
enum yado_disk_format {
    YADO_DISK_RAW = 0,
};

enum {
    YADO_DISK_READ_ONLY = 1, /* the guest cannot write; the file is opened for reading only */
};

/* What a flush by the guest does before it completes. */
enum yado_disk_sync {
    YADO_SYNC_FULL = 0,  /* data is on stable storage */
    YADO_SYNC_FSYNC = 1, /* data was handed to the storage device (the same as FULL on Linux) */
    YADO_SYNC_NONE = 2,  /* nothing: a crash of the host may lose or tear data */
};

struct yado_disk;    /* attachment */
struct yado_storage; /* device */

/* A disk image file or a block device. It is opened and locked when the machine starts, and closed when it
 * stops: two machines cannot write one disk, nor one write what another reads (YADO_ERR_IN_USE). The size is
 * a multiple of 512 and not zero. `flags` are YADO_DISK_*. Returns NULL only when out of memory. */
struct yado_disk *yado_disk_image_new(const char *path, enum yado_disk_format format, unsigned flags);

/* As above, on an open file. The descriptor is duplicated: the caller keeps, and may close, its own. `name`
 * is for messages. Returns NULL when out of memory or descriptors, or when fd is not open. */
struct yado_disk *yado_disk_fd_new(int fd, const char *name, enum yado_disk_format format, unsigned flags);

/* Default YADO_SYNC_FULL. */
void yado_disk_set_sync(struct yado_disk *disk, enum yado_disk_sync sync);

/* For a disk that was not given to a device. */
void yado_disk_free(struct yado_disk *disk);

/* A virtio block device (virtio 1.2, 5.2): /dev/vda, /dev/vdb ... in the order of the configuration. Takes
 * `disk` over. */
struct yado_storage *yado_virtio_block_new(struct yado_disk *disk);

/* The serial number that the guest sees (/dev/disk/by-id/virtio-...): at most 20 bytes of printable ASCII.
 * Default none. Checked by yado_config_validate. */
void yado_storage_set_identifier(struct yado_storage *storage, const char *identifier);

/* For a device that was not given to a configuration. */
void yado_storage_free(struct yado_storage *storage);

#ifdef __cplusplus
}
#endif

#endif
