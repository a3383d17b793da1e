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

/* ---- consoles ---- */

static void port_attach(struct quick_call *q)
{
    id device = NSArray_objectAtIndex(VZVirtualMachine_consoleDevices(q->b->machine), q->index);
    id port = VZVirtioConsolePortArray_objectAtIndexedSubscript(VZVirtioConsoleDevice_ports(device), q->port);
    id attachment;

    if (port_attachment_make(q->attachment, TO_RUN, &attachment, &q->error))
        VZVirtioConsolePort_setAttachment(port, attachment);
    else
        err_prepend(&q->error, "consoles[%u].ports[%u].attachment", q->index, q->port);
}

bool apple_port_attach(struct backend *b, unsigned device, unsigned port, const struct spec_attachment *to,
                       struct yado_error *err)
{
    struct quick_call q = { .b = b, .fn = port_attach, .index = device, .port = port, .attachment = to };

    return quick_do(&q, err);
}

/* The objects that the framework names, as numbers. */
static void port_opened(void *ctx, id device, id port, bool is_open)
{
    struct backend *b = ctx;
    id devices = VZVirtualMachine_consoleDevices(b->machine), ports;

    for (unsigned i = 0; i < b->spec->console_count; i++) {
        if (NSArray_objectAtIndex(devices, i) != device)
            continue;
        ports = VZVirtioConsoleDevice_ports(device);
        for (unsigned j = 0; j < b->spec->consoles[i].port_count; j++) {
            if (VZVirtioConsolePortArray_objectAtIndexedSubscript(ports, j) == port && b->host.port_open)
                b->host.port_open(b->host.ctx, i, j, is_open);
        }
    }
}

static void console_delegates_set(struct quick_call *q)
{
    id devices = VZVirtualMachine_consoleDevices(q->b->machine);

    for (unsigned i = 0; i < q->b->spec->console_count; i++)
        VZVirtioConsoleDevice_setDelegate(NSArray_objectAtIndex(devices, i), q->b->console_delegate);
}

bool consoles_watch(struct backend *b, struct yado_error *err)
{
    struct quick_call q = { .b = b, .fn = console_delegates_set };

    if (!b->spec->console_count)
        return true;
    b->console_events = (struct console_events){ .port_open = port_opened, .ctx = b };
    b->console_delegate = console_delegate_new(&b->console_events, err);
    return b->console_delegate && quick_do(&q, err);
}

void consoles_forget(struct backend *b)
{
    id devices = b->console_delegate ? VZVirtualMachine_consoleDevices(b->machine) : NULL;

    for (unsigned i = 0; devices && i < b->spec->console_count; i++)
        VZVirtioConsoleDevice_setDelegate(NSArray_objectAtIndex(devices, i), NULL);
}

/* ---- balloon ---- */

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
