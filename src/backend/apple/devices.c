/* What is asked of a running machine's devices, on its queue (machine.c). */
#include "backend/apple/run_priv.h"

static void net_attach(struct quick_call *q)
{
    id devices = VZVirtualMachine_networkDevices(q->b->machine), attachment = NULL, device;

    if (q->index >= NSArray_count(devices)) {
        err_set(&q->error, YADO_ERR_INVALID_CONFIG, "network[%u]: there is no such device", q->index);
        return;
    }
    device = NSArray_objectAtIndex(devices, q->index);
    VZNetworkDevice_setAttachment(device, NULL);
    if (!q->net)
        return;
    attachment = net_attachment_make(q->net, q->index, &q->error);
    if (attachment)
        VZNetworkDevice_setAttachment(device, attachment);
}

bool apple_net_attach(struct backend *b, unsigned index, const struct net_config *cfg, struct yado_error *err)
{
    struct quick_call q = { .b = b, .fn = net_attach, .index = index, .net = cfg };

    return NEEDED(VZNetworkDevice, setAttachment, err, "network[%u]: another attachment while running",
                  index) &&
           quick_do(&q, err);
}

static void share_set(struct quick_call *q)
{
    id devices = VZVirtualMachine_directorySharingDevices(q->b->machine), share;

    if (q->index >= NSArray_count(devices)) {
        err_set(&q->error, YADO_ERR_INVALID_CONFIG, "shares[%u]: there is no such device", q->index);
        return;
    }
    share = directory_share_make(q->share, q->index, &q->error);
    if (share)
        VZVirtioFileSystemDevice_setShare(NSArray_objectAtIndex(devices, q->index), share);
}

bool apple_share_set(struct backend *b, unsigned index, const struct spec_share *share,
                     struct yado_error *err)
{
    struct quick_call q = { .b = b, .fn = share_set, .index = index, .share = share };

    if (share->kind == SPEC_SHARE_ROSETTA ||
        (index < b->spec->share_count && b->spec->shares[index].kind == SPEC_SHARE_ROSETTA))
        return err_set(err, YADO_ERR_UNSUPPORTED, "shares[%u]: Rosetta cannot be changed while running",
                       index);
    return NEEDED(VZVirtioFileSystemDevice, setShare, err, "shares[%u]: another share while running",
                  index) &&
           quick_do(&q, err);
}

/* The framework rounds down to whole MiB and keeps to its own minimum. */
static void balloon_target(struct quick_call *q)
{
    id devices = VZVirtualMachine_memoryBalloonDevices(q->b->machine);

    if (NSArray_count(devices))
        VZVirtioTraditionalMemoryBalloonDevice_setTarget(NSArray_objectAtIndex(devices, 0), q->size);
}

void apple_balloon_target(struct backend *b, uint64_t size)
{
    struct quick_call q = { .b = b, .fn = balloon_target, .size = size };

    if (b->spec->balloon_count)
        quick_do(&q, NULL);
}
