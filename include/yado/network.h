/* Network devices: an attachment (where frames go) in a device (what the guest sees). */
#ifndef YADO_NETWORK_H
#define YADO_NETWORK_H

#include <yado/base.h>

#ifdef __cplusplus
extern "C" {
#endif

#define YADO_MTU_MIN 1500u
#define YADO_MTU_MAX 65535u
#define YADO_MAC_TEXT_LEN 18 /* bytes of "10:ab:..." with the final zero */

struct yado_network_attachment;
struct yado_network; /* device */

/* ---- addresses ---- */

struct yado_mac {
    uint8_t octet[6];
};

/* Six pairs of hexadecimal digits with colons, in any case. False if it is anything else. */
bool yado_mac_parse(const char *text, struct yado_mac *mac);
/* Lower case. */
void yado_mac_format(const struct yado_mac *mac, char text[YADO_MAC_TEXT_LEN]);
/* A random unicast address of the locally administered kind. Any thread. */
struct yado_mac yado_mac_random(void);

/* ---- NAT ---- */

enum yado_protocol { YADO_TCP = 0, YADO_UDP = 1 };

/* A port of the host whose connections or datagrams go to a port of the guest. */
struct yado_forward {
    enum yado_protocol protocol;
    const char
        *host_address; /* IPv4 or IPv6 in text; NULL: 127.0.0.1, this host alone. "0.0.0.0": everyone */
    uint16_t host_port, guest_port; /* not 0 */
};

/* A network of the guest's own behind this process: no privileges, nothing of the host's network is changed.
 * The guest is 10.0.2.15 by DHCP, the router and the host itself are 10.0.2.2 (a guest that connects there
 * reaches services that listen on the host's loopback), and 10.0.2.3 asks the host's name servers. IPv6 is
 * fd79:6164:6f::/64 by router advertisement, with ::2 and ::3. The guest's TCP, UDP and ICMP echo become
 * sockets of this process. Returns NULL only when out of memory. */
struct yado_network_attachment *yado_nat_new(void);

/* Adds a forward, which listens as soon as the machine starts. An IPv6 host address leads to the guest's IPv6
 * address. Only for NAT. Checked by yado_config_validate; a port that is taken is found out at the start. */
void yado_nat_add_forward(struct yado_network_attachment *nat, const struct yado_forward *forward);

/* ---- others ---- */

/* A tap interface of the host (Linux), which exists already and belongs to this user, or can be made
 * (CAP_NET_ADMIN). The MTU is the interface's. Returns NULL only when out of memory. */
struct yado_network_attachment *yado_tap_new(const char *name);

/* The host's own network: frames go out by interface `name` ("en0") of the host, and the guest is one more
 * machine there. Apple's engine; the process must be signed with the restricted entitlement
 * com.apple.vm.networking, which Apple grants on request. Returns NULL only when out of memory. */
struct yado_network_attachment *yado_bridged_new(const char *name);

/* Calls fn for each interface of the host that can be bridged: its name, and what people call it ("" if they
 * do not). Returns how many there are; 0 where no engine can bridge. Any thread. fn may be NULL. */
unsigned yado_each_bridged_interface(void (*fn)(void *ctx, const char *name, const char *display_name),
                                     void *ctx);

/* A connected socket. A datagram socket carries one Ethernet frame in each datagram; a stream socket carries
 * each frame behind its length (4 bytes, most significant first), as passt and QEMU speak. The descriptor is
 * duplicated: the caller keeps, and may close, its own. No flags of it are changed. A datagram socket works
 * best with SO_RCVBUF several times SO_SNDBUF. Returns NULL when out of memory or descriptors, or when fd is
 * not open. */
struct yado_network_attachment *yado_fd_network_new(int fd);

/* The largest IP packet, YADO_MTU_MIN to YADO_MTU_MAX; default 1500. For yado_fd_network_new alone. */
void yado_fd_network_set_mtu(struct yado_network_attachment *attachment, unsigned mtu);

/* For an attachment that was not given to a device. */
void yado_network_attachment_free(struct yado_network_attachment *attachment);

/* ---- the device ---- */

/* A virtio network device (virtio 1.2, 5.1) with a random MAC address. Takes `attachment` over. */
struct yado_network *yado_virtio_net_new(struct yado_network_attachment *attachment);

/* A unicast address, and no other device's of this machine. */
void yado_network_set_mac(struct yado_network *network, const struct yado_mac *mac);
struct yado_mac yado_network_mac(const struct yado_network *network);

/* For a device that was not given to a configuration. */
void yado_network_free(struct yado_network *network);

#ifdef __cplusplus
}
#endif

#endif
