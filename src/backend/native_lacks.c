/* What our own machine has not and Apple's framework has: each is an error that says so, in this one place. A
 * line goes when the machine learns the thing. */
#include "backend/native_lacks.h"

#define LACKS(err, ...) err_set(err, YADO_ERR_UNSUPPORTED, __VA_ARGS__)

static bool platform_lacks_nothing(const struct spec *s, struct yado_error *err)
{
    if (s->boot.kind == SPEC_BOOT_EFI)
        return LACKS(err, "boot_loader: this engine has no EFI firmware; give a kernel");
    if (s->platform.identifier)
        return LACKS(err, "platform.machine_identifier: machines of this engine have none");
    if (s->platform.nested_virtualization)
        return LACKS(err, "platform.nested_virtualization: this engine cannot give it to guests");
    return true;
}

static bool disk_lacks_nothing(const struct spec_disk *d, unsigned index, struct yado_error *err)
{
    if (d->source == SPEC_SOURCE_NBD)
        return LACKS(err, "storage[%u]: this engine does not speak NBD; give a file or a block device",
                     index);
    if (d->device == SPEC_DEVICE_NVME)
        return LACKS(err, "storage[%u]: this engine has no NVMe controller; use a virtio block device",
                     index);
    if (d->device == SPEC_DEVICE_USB_STORAGE)
        return LACKS(err, "storage[%u]: this engine has no USB storage; use a virtio block device", index);
    if (d->cache == SPEC_CACHE_UNCACHED)
        return LACKS(err, "storage[%u].cache: this engine always uses the host's cache", index);
    return true;
}

bool native_can_attach(const struct net_config *net, unsigned index, struct yado_error *err)
{
    if (net->kind == NET_BRIDGED)
        return LACKS(err,
                     "network[%u].attachment: this engine does not bridge; make a bridge with a tap and "
                     "attach that",
                     index);
    return true;
}

bool native_lacks_nothing(const struct spec *s, struct yado_error *err)
{
    if (!platform_lacks_nothing(s, err))
        return false;
    for (unsigned i = 0; i < s->disk_count; i++) {
        if (!disk_lacks_nothing(&s->disks[i], i, err))
            return false;
    }
    for (unsigned i = 0; i < s->net_count; i++) {
        if (!native_can_attach(&s->nets[i].config, i, err))
            return false;
    }
    if (s->share_count)
        return LACKS(err, "shares[0]: this engine has no file system device");
    if (s->graphics_count)
        return LACKS(err, "graphics[0]: this engine has no graphics device");
    if (s->keyboard_count)
        return LACKS(err, "keyboards[0]: this engine has no keyboard");
    if (s->pointing_count)
        return LACKS(err, "pointing[0]: this engine has no pointing device");
    if (s->sound_count)
        return LACKS(err, "sound[0]: this engine has no sound device");
    return true;
}
