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

/* What the host keeps of the disk's contents in its memory. */
enum yado_disk_cache {
    YADO_CACHE_AUTO = 0,     /* as the engine does best */
    YADO_CACHE_UNCACHED = 1, /* nothing */
    YADO_CACHE_CACHED = 2,   /* what it likes */
};

#define YADO_NBD_TIMEOUT_DEFAULT_MS 5000u

struct yado_disk;    /* attachment */
struct yado_storage; /* device */

/* A disk image file or a block device. It is opened and locked when the machine starts, and closed when it
 * stops: two machines cannot write one disk, nor one write what another reads (YADO_ERR_IN_USE). The size is
 * a multiple of 512 and not zero. `flags` are YADO_DISK_*. Returns NULL only when out of memory. */
struct yado_disk *yado_disk_image_new(const char *path, enum yado_disk_format format, unsigned flags);

/* As above, on an open file. The descriptor is duplicated: the caller keeps, and may close, its own. `name`
 * is for messages. Returns NULL when out of memory or descriptors, or when fd is not open. */
struct yado_disk *yado_disk_fd_new(int fd, const char *name, enum yado_disk_format format, unsigned flags);

/* A whole disk of the host, such as /dev/sdb or /dev/rdisk4, as this user may open it. On Linux the same as
 * yado_disk_image_new; Apple's framework tells the two apart. Returns NULL only when out of memory. */
struct yado_disk *yado_block_device_new(const char *path, unsigned flags);

/* An export of an NBD server, by address (nbd://HOST[:PORT]/EXPORT, nbd+unix:///EXPORT?socket=PATH). It is
 * connected to when the machine starts, and again when the connection breaks. Apple's engine (macOS 14); the
 * process must be signed with the entitlement com.apple.security.network.client. Returns NULL only when out
 * of memory. */
struct yado_disk *yado_nbd_new(const char *url, unsigned flags);
/* How long a request may take before the connection counts as broken. Only for NBD; default
 * YADO_NBD_TIMEOUT_DEFAULT_MS. */
void yado_nbd_set_timeout(struct yado_disk *disk, unsigned milliseconds);

/* Default YADO_SYNC_FULL. */
void yado_disk_set_sync(struct yado_disk *disk, enum yado_disk_sync sync);
/* Default YADO_CACHE_AUTO. UNCACHED: Apple's engine. */
void yado_disk_set_cache(struct yado_disk *disk, enum yado_disk_cache cache);

/* For a disk that was not given to a device. */
void yado_disk_free(struct yado_disk *disk);

/* A virtio block device (virtio 1.2, 5.2): /dev/vda, /dev/vdb ... in the order of the configuration. Takes
 * `disk` over. */
struct yado_storage *yado_virtio_block_new(struct yado_disk *disk);

/* The only namespace of an NVM Express controller of its own: /dev/nvme0n1 ... Apple's engine (macOS 14).
 * Takes `disk` over. */
struct yado_storage *yado_nvme_new(struct yado_disk *disk);

/* A USB stick: /dev/sda ... Apple's engine (macOS 13). Takes `disk` over. */
struct yado_storage *yado_usb_storage_new(struct yado_disk *disk);

/* The serial number that the guest sees (/dev/disk/by-id/virtio-...): at most 20 bytes of printable ASCII.
 * Default none. For virtio block devices. Checked by yado_config_validate. */
void yado_storage_set_identifier(struct yado_storage *storage, const char *identifier);

/* For a device that was not given to a configuration. */
void yado_storage_free(struct yado_storage *storage);

#ifdef __cplusplus
}
#endif

#endif
