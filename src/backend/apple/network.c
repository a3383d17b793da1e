/* Network devices and what they are attached to. */
#include <string.h>
#include <sys/socket.h>

#include "backend/apple/apple.h"
#include "backend/apple/apple_priv.h"

static id nat_make(const struct net_config *c, struct yado_error *err)
{
    if (c->forward_count) {
        err_set(err, YADO_ERR_UNSUPPORTED,
                "this engine's NAT has no forwards: the guest has an address of its own that the host "
                "reaches");
        return NULL;
    }
    return NEW(VZNATNetworkDeviceAttachment);
}

static id interfaces(void)
{
    return VZBridgedNetworkInterface_networkInterfaces(vz_class(VZBridgedNetworkInterface));
}

static id bridged_make(const struct net_config *c, struct yado_error *err)
{
    id list = interfaces();
    unsigned long count = NSArray_count(list);

    if (!entitlement_has(ENTITLEMENT_NETWORKING)) {
        err_set(err, YADO_ERR_UNSUPPORTED,
                "bridging needs the entitlement " ENTITLEMENT_NETWORKING
                " in the program's signature, which Apple grants on request; use NAT");
        return NULL;
    }
    for (unsigned long i = 0; i < count; i++) {
        id interface = NSArray_objectAtIndex(list, i);

        if (!strcmp(text_of(VZBridgedNetworkInterface_identifier(interface)), c->name))
            return pooled(VZBridgedNetworkDeviceAttachment_initWithInterface(
                ALLOC(VZBridgedNetworkDeviceAttachment), interface));
    }
    err_set(err, YADO_ERR_FILE, "there is no interface \"%s\" that can be bridged", c->name);
    return NULL;
}

static id socket_make(const struct net_config *c, struct yado_error *err)
{
    int type = 0;
    socklen_t len = sizeof(type);
    id handle, attachment;

    if (getsockopt(c->fd, SOL_SOCKET, SO_TYPE, &type, &len) || type != SOCK_DGRAM) {
        err_set(err, YADO_ERR_UNSUPPORTED, "descriptor %d is not a datagram socket, which this engine wants",
                c->fd);
        return NULL;
    }
    if (c->mtu != NET_MTU_DEFAULT && !NEEDED(VZFileHandleNetworkDeviceAttachment, setMaximumTransmissionUnit,
                                             err, "an MTU other than %d", NET_MTU_DEFAULT))
        return NULL;
    handle = file_handle_of(c->fd);
    if (!handle) {
        err_set(err, YADO_ERR_HOST, "no descriptor to be had for the socket");
        return NULL;
    }
    attachment = pooled(VZFileHandleNetworkDeviceAttachment_initWithFileHandle(
        ALLOC(VZFileHandleNetworkDeviceAttachment), handle));
    if (c->mtu != NET_MTU_DEFAULT)
        VZFileHandleNetworkDeviceAttachment_setMaximumTransmissionUnit(attachment, (long)c->mtu);
    return attachment;
}

id net_attachment_make(const struct net_config *c, unsigned index, struct yado_error *err)
{
    id attachment = NULL;

    switch (c->kind) {
    case NET_NAT: attachment = nat_make(c, err); break;
    case NET_BRIDGED: attachment = bridged_make(c, err); break;
    case NET_FD: attachment = socket_make(c, err); break;
    case NET_TAP:
        err_set(err, YADO_ERR_UNSUPPORTED, "tap interfaces are for Linux; use NAT or bridge");
        break;
    }
    if (!attachment)
        err_prepend(err, "network[%u].attachment", index);
    return attachment;
}

id network_make(const struct spec_net *n, unsigned index, struct yado_error *err)
{
    id attachment = net_attachment_make(&n->config, index, err), device, mac;
    char text[18];

    if (!attachment)
        return NULL;
    net_mac_format(n->mac, text);
    mac = pooled(VZMACAddress_initWithString(ALLOC(VZMACAddress), string_of(text)));
    device = NEW(VZVirtioNetworkDeviceConfiguration);
    VZNetworkDeviceConfiguration_setMACAddress(device, mac);
    VZNetworkDeviceConfiguration_setAttachment(device, attachment);
    return device;
}

unsigned apple_each_bridged_interface(void (*fn)(void *ctx, const char *name, const char *display_name),
                                      void *ctx)
{
    void *pool = objc_autoreleasePoolPush();
    id list = interfaces();
    unsigned long count = NSArray_count(list);

    for (unsigned long i = 0; fn && i < count; i++) {
        id interface = NSArray_objectAtIndex(list, i);

        fn(ctx, text_of(VZBridgedNetworkInterface_identifier(interface)),
           text_of(VZBridgedNetworkInterface_localizedDisplayName(interface)));
    }
    objc_autoreleasePoolPop(pool);
    return (unsigned)count;
}
