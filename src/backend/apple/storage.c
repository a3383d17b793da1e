/* Disks: an attachment of the framework in a device of the framework.
 *
 * A disk without a path. The framework opens images by URL, ours may be a descriptor (a seed in memory). If
 * the descriptor's file still has a name, that is used. Else, if it is read-only and small, its bytes go into
 * a temporary file that lives as long as the machine (struct scratch).
 *
 * Caching. The framework's "automatic" mode is not what YADO_CACHE_AUTO means here: other programs over this
 * framework (vfkit, Lima) chose "cached" after file systems of Linux guests were damaged under "automatic".
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/apple/apple_priv.h"
#include "backend/apple/vz_values.h"
#include "host/file.h"

#define SECTOR 512
#define SCRATCH_SIZE_MAX MIB(64)

/* ---- descriptors become paths ---- */

void scratch_clear(struct scratch *s)
{
    for (unsigned i = 0; i < s->count; i++) {
        unlink(s->paths[i]);
        free(s->paths[i]);
    }
    s->count = 0;
}

static bool bytes_copy(int from, int to, uint64_t size, const char *name, struct yado_error *err)
{
    static const size_t room = 64 << 10;
    char *buf = malloc(room);
    ssize_t got = 1;

    if (!buf)
        return err_set(err, YADO_ERR_HOST, "out of memory");
    for (uint64_t off = 0; off < size && got > 0; off += (uint64_t)got) {
        got = pread(from, buf, room, (off_t)off);
        if (got > 0 && write(to, buf, (size_t)got) != got)
            got = -1;
    }
    free(buf);
    return got > 0 ||
           err_set_errno(err, YADO_ERR_FILE, errno, "%s: cannot copy it to a temporary file", name);
}

/* A temporary file with the disk's bytes; its path belongs to `s`. */
static const char *copy_make(const struct spec_disk *d, uint64_t size, struct scratch *s,
                             struct yado_error *err)
{
    const char *dir = getenv("TMPDIR");
    char *path = NULL;
    int fd;
    bool ok;

    if (s->count == array_size(s->paths) || asprintf(&path, "%s/yado-disk-XXXXXX", dir ? dir : "/tmp") < 0) {
        err_set(err, YADO_ERR_HOST, "out of memory");
        return NULL;
    }
    fd = mkstemp(path);
    if (fd < 0) {
        err_set_errno(err, YADO_ERR_FILE, errno, "%s: cannot make a temporary file", path);
        free(path);
        return NULL;
    }
    s->paths[s->count++] = path;
    ok = bytes_copy(d->fd, fd, size, d->name, err);
    close(fd);
    return ok ? path : NULL;
}

static const char *path_of(const struct spec_disk *d, char *buf, size_t room, struct scratch *s,
                           struct yado_error *err)
{
    struct stat a, b;

    if (d->fd < 0)
        return d->name;
    if (fstat(d->fd, &a)) {
        err_set_errno(err, YADO_ERR_HOST, errno, "%s", d->name);
        return NULL;
    }
    if (!file_path_get(d->fd, buf, room) && !stat(buf, &b) && a.st_dev == b.st_dev && a.st_ino == b.st_ino)
        return buf;
    if (d->read_only && S_ISREG(a.st_mode) && (uint64_t)a.st_size <= SCRATCH_SIZE_MAX)
        return copy_make(d, (uint64_t)a.st_size, s, err);
    err_set(err, YADO_ERR_UNSUPPORTED,
            "%s: this engine opens disks by name, and this descriptor's file has none; give a path", d->name);
    return NULL;
}

/* ---- images ---- */

/* What the framework would refuse with less to say. */
static bool image_check(const char *path, bool read_only, struct yado_error *err)
{
    int fd = open(path, (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK);
    char magic[4] = { 0 };
    struct stat st = { 0 };
    bool ok;

    if (fd < 0 && errno == EISDIR)
        return err_set(err, YADO_ERR_FILE, "%s: is a directory; a disk is an image file", path);
    if (fd < 0)
        return err_set_errno(err, YADO_ERR_FILE, errno, "%s: cannot open", path);
    ok = !fstat(fd, &st) && pread(fd, magic, sizeof(magic), 0) >= 0;
    close(fd);
    if (S_ISDIR(st.st_mode))
        return err_set(err, YADO_ERR_FILE, "%s: is a directory; a disk is an image file", path);
    if (!ok)
        return err_set_errno(err, YADO_ERR_FILE, errno, "%s: cannot read", path);
    if (!memcmp(magic, "QFI\xfb", sizeof(magic)))
        return err_set(err, YADO_ERR_IMAGE,
                       "%s: is a qcow2 image; this engine wants a raw one (qemu-img convert -O raw)", path);
    if (!S_ISREG(st.st_mode))
        return err_set(err, YADO_ERR_FILE,
                       "%s: is not an image file; a whole disk is given as a block device", path);
    if (!st.st_size)
        return err_set(err, YADO_ERR_FILE, "%s: is empty; a disk image has the size of the disk", path);
    if (st.st_size % SECTOR)
        return err_set(err, YADO_ERR_FILE, "%s: its %lld bytes are not a number of whole %d-byte blocks",
                       path, (long long)st.st_size, SECTOR);
    return true;
}

static enum vz_image_sync image_sync(enum spec_disk_sync sync)
{
    return sync == SPEC_SYNC_NONE    ? VZ_IMAGE_SYNC_NONE
           : sync == SPEC_SYNC_FSYNC ? VZ_IMAGE_SYNC_FSYNC
                                     : VZ_IMAGE_SYNC_FULL;
}

static id image_make(const struct spec_disk *d, struct scratch *s, struct yado_error *err)
{
    char buf[1024];
    const char *path = path_of(d, buf, sizeof(buf), s, err);
    id error = NULL, url, attachment;

    if (!path || !image_check(path, d->read_only, err))
        return NULL;
    url = file_url(path, err);
    if (!url)
        return NULL;
    /* macOS 11 has its own modes and no others. */
    if (d->cache == SPEC_CACHE_AUTO && d->sync == SPEC_SYNC_FULL &&
        !NEEDED(VZDiskImageStorageDeviceAttachment, initWithURLAndModes, NULL, "modes"))
        attachment = VZDiskImageStorageDeviceAttachment_initWithURL(ALLOC(VZDiskImageStorageDeviceAttachment),
                                                                    url, d->read_only, &error);
    else if (NEEDED(VZDiskImageStorageDeviceAttachment, initWithURLAndModes, err, "%s: a cache or sync mode",
                    path))
        attachment = VZDiskImageStorageDeviceAttachment_initWithURLAndModes(
            ALLOC(VZDiskImageStorageDeviceAttachment), url, d->read_only,
            d->cache == SPEC_CACHE_UNCACHED ? VZ_CACHE_UNCACHED : VZ_CACHE_CACHED, image_sync(d->sync),
            &error);
    else
        return NULL;
    if (!attachment)
        error_from(err, error, path);
    return pooled(attachment);
}

/* ---- block devices and NBD ---- */

/* These two know full and none alone. */
static bool disk_sync(const struct spec_disk *d, enum vz_disk_sync *out, struct yado_error *err)
{
    if (d->sync == SPEC_SYNC_FSYNC)
        return err_set(err, YADO_ERR_UNSUPPORTED, "%s: such a disk is synchronized fully or not at all",
                       d->name);
    *out = d->sync == SPEC_SYNC_NONE ? VZ_DISK_SYNC_NONE : VZ_DISK_SYNC_FULL;
    if (d->cache != SPEC_CACHE_AUTO)
        return err_set(err, YADO_ERR_UNSUPPORTED, "%s: such a disk has no cache modes", d->name);
    return true;
}

static id block_device_make(const struct spec_disk *d, struct yado_error *err)
{
    enum vz_disk_sync sync;
    id error = NULL, attachment, handle;
    struct file_facts facts;
    struct stat st;
    int fd;

    if (!NEEDED(VZDiskBlockDeviceStorageDeviceAttachment, initWithFileHandle, err, "%s: a block device",
                d->name) ||
        !disk_sync(d, &sync, err))
        return NULL;
    if (!stat(d->name, &st) && S_ISFIFO(st.st_mode)) { /* would be waited for */
        err_set(err, YADO_ERR_FILE, "%s: is not a block device", d->name);
        return NULL;
    }
    fd = open(d->name, (d->read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC);
    if (fd < 0) {
        err_set_errno(err, YADO_ERR_FILE, errno, "%s: cannot open", d->name);
        return NULL;
    }
    handle = !file_facts_get(fd, &facts) && facts.kind == FILE_KIND_BLOCK ? file_handle_of(fd) : NULL;
    close(fd);
    if (!handle) {
        err_set(err, YADO_ERR_FILE, "%s: is not a block device", d->name);
        return NULL;
    }
    attachment = VZDiskBlockDeviceStorageDeviceAttachment_initWithFileHandle(
        ALLOC(VZDiskBlockDeviceStorageDeviceAttachment), handle, d->read_only, sync, &error);
    if (!attachment)
        error_from(err, error, d->name);
    return pooled(attachment);
}

static id nbd_make(const struct spec_disk *d, struct yado_error *err)
{
    id url = url_of(d->name), error = NULL, attachment;
    enum vz_disk_sync sync;

    if (!NEEDED(VZNetworkBlockDeviceStorageDeviceAttachment, initWithURL, err, "%s: an NBD export",
                d->name) ||
        !disk_sync(d, &sync, err))
        return NULL;
    if (!entitlement_has(ENTITLEMENT_NETWORK_CLIENT)) {
        err_set(err, YADO_ERR_UNSUPPORTED,
                "%s: an NBD export needs the entitlement " ENTITLEMENT_NETWORK_CLIENT
                " in the program's signature; sign it with that too (make sign does)",
                d->name);
        return NULL;
    }
    if (!url) {
        err_set(err, YADO_ERR_INVALID_CONFIG, "%s: is not an address of the form nbd://HOST/EXPORT", d->name);
        return NULL;
    }
    if (!VZNetworkBlockDeviceStorageDeviceAttachment_validateURL(
            vz_class(VZNetworkBlockDeviceStorageDeviceAttachment), url, &error)) {
        error_from(err, error, d->name);
        return NULL;
    }
    attachment = VZNetworkBlockDeviceStorageDeviceAttachment_initWithURL(
        ALLOC(VZNetworkBlockDeviceStorageDeviceAttachment), url, d->timeout_ms / 1000.0, d->read_only, sync,
        &error);
    if (!attachment)
        error_from(err, error, d->name);
    return pooled(attachment);
}

/* ---- devices ---- */

static id virtio_make(const struct spec_disk *d, id attachment, struct yado_error *err)
{
    id device;

    if (d->identifier &&
        !NEEDED(VZVirtioBlockDeviceConfiguration, setBlockDeviceIdentifier, err, "an identifier"))
        return NULL;
    device = pooled(VZVirtioBlockDeviceConfiguration_initWithAttachment(
        ALLOC(VZVirtioBlockDeviceConfiguration), attachment));
    if (d->identifier)
        VZVirtioBlockDeviceConfiguration_setBlockDeviceIdentifier(device, string_of(d->identifier));
    return device;
}

/* A saved machine is restored only to USB devices with the UUIDs that it had, and the framework makes new
 * ones up for each configuration: ours follow from the place, which is the same whenever the configuration
 * is. One machine's devices are told apart by them, no more (macOS 15; RFC 9562, version 8). */
static id usb_make(id attachment, unsigned index, struct yado_error *err)
{
    char uuid[37];
    id device;

    if (!NEEDED(VZUSBMassStorageDeviceConfiguration, initWithAttachment, err, "USB storage"))
        return NULL;
    device = pooled(VZUSBMassStorageDeviceConfiguration_initWithAttachment(
        ALLOC(VZUSBMassStorageDeviceConfiguration), attachment));
    if (NEEDED(VZUSBMassStorageDeviceConfiguration, setUuid, NULL, "a UUID")) {
        snprintf(uuid, sizeof(uuid), "7961646f-7573-8062-8000-%012x", index);
        VZUSBMassStorageDeviceConfiguration_setUuid(
            device, pooled(NSUUID_initWithUUIDString(ALLOC(NSUUID), string_of(uuid))));
    }
    return device;
}

static id device_make(const struct spec_disk *d, id attachment, unsigned index, struct yado_error *err)
{
    switch (d->device) {
    case SPEC_DEVICE_VIRTIO_BLOCK: return virtio_make(d, attachment, err);
    case SPEC_DEVICE_NVME:
        if (!NEEDED(VZNVMExpressControllerDeviceConfiguration, initWithAttachment, err, "an NVMe controller"))
            return NULL;
        return pooled(VZNVMExpressControllerDeviceConfiguration_initWithAttachment(
            ALLOC(VZNVMExpressControllerDeviceConfiguration), attachment));
    case SPEC_DEVICE_USB_STORAGE: return usb_make(attachment, index, err);
    }
    err_set(err, YADO_ERR_INTERNAL, "there is no storage device of kind %d", (int)d->device);
    return NULL;
}

static id attachment_make(const struct spec_disk *d, struct scratch *s, struct yado_error *err)
{
    switch (d->source) {
    case SPEC_SOURCE_FILE: return image_make(d, s, err);
    case SPEC_SOURCE_BLOCK_DEVICE: return block_device_make(d, err);
    case SPEC_SOURCE_NBD: return nbd_make(d, err);
    }
    err_set(err, YADO_ERR_INTERNAL, "there is no disk of kind %d", (int)d->source);
    return NULL;
}

id storage_make(const struct spec_disk *d, unsigned index, struct scratch *s, struct yado_error *err)
{
    id attachment = attachment_make(d, s, err);
    id device = attachment ? device_make(d, attachment, index, err) : NULL;

    if (!device)
        err_prepend(err, "storage[%u]", index);
    return device;
}
