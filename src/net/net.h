/* Ethernet frames between a network device and what it is attached to.
 *
 * Two sides, both living on the machine's event loop. The back end is the outside: user.c (NAT in this
 * process), tap.c, dgram.c, stream.c. The port is the device: virtio/net.c. Frames carry the offload state
 * that virtio-net and Linux's tap devices share (virtio 1.2, 5.1.6), so that work which nobody needs is not
 * done: a packet may be 64 KiB long with a checksum that nobody has computed. net_send does in software what
 * a back end cannot, so a device need not care which back end it has, and back ends can be swapped under a
 * running guest.
 *
 * Threads: everything here is called on the loop thread, except that a back end is made (net_open) and
 * started before the loop runs or on it, and freed after the loop has ended or on it. Back-pressure: either
 * side may refuse a frame, and then says when it can take more. A refused frame stays with the one who
 * offered it. */
#ifndef NET_NET_H
#define NET_NET_H

#include "host/loop.h"
#include "util/err.h"

#define NET_ETH_LEN 14
#define NET_FRAME_MAX (65535 + 18) /* an IP packet of the largest size, Ethernet header, VLAN tag */
#define NET_MTU_DEFAULT 1500
#define NET_MTU_MIN 1500
#define NET_MTU_MAX 65535

/* struct virtio_net_hdr without num_buffers; little-endian, as is the host. */
struct net_offload {
    uint8_t flags, gso_type;
    uint16_t hdr_len;  /* a hint of the sender; not trusted */
    uint16_t gso_size; /* bytes of payload in each packet that it stands for */
    uint16_t csum_start, csum_offset;
};
_Static_assert(sizeof(struct net_offload) == 10, "virtio 1.2, 5.1.6");

enum { NET_NEEDS_CSUM = 1, NET_DATA_VALID = 2 };
enum { NET_GSO_NONE = 0, NET_GSO_TCPV4 = 1, NET_GSO_TCPV6 = 4, NET_GSO_UDP_L4 = 5, NET_GSO_ECN = 0x80 };

/* What a back end takes undone from the guest. */
enum { NET_CAN_CSUM = 1, NET_CAN_TSO4 = 2, NET_CAN_TSO6 = 4, NET_CAN_USO = 8 };

/* A frame on its way. Whoever is offered it may change the bytes (finish a checksum), the caller's copy of
 * them. */
struct net_frame {
    uint8_t *data;
    size_t len; /* NET_ETH_LEN to NET_FRAME_MAX */
    struct net_offload off;
};

/* The device, as the back end sees it. The device takes its own lock in each. */
struct net_port {
    /* A frame for the guest. False: no room; offer it again when `resume` is called. Frames that the guest
     * does not want are taken and dropped. */
    bool (*deliver)(void *ctx, struct net_frame *f);
    void (*flush)(void *ctx);    /* after a number of deliver: tells the guest */
    void (*writable)(void *ctx); /* after `send` refused: it would take a frame now */
    /* The attachment is gone for good; nothing is to be expected of it. */
    void (*lost)(void *ctx, const struct yado_error *why);
    void *ctx;
};

struct net_backend;

struct net_forward {
    bool udp;
    char host[46]; /* address in text, IPv4 or IPv6 */
    uint16_t host_port, guest_port;
};

struct net_backend_ops {
    const char *name;
    bool (*start)(struct net_backend *b, struct yado_error *err); /* port is set: begin to watch */
    /* A frame of the guest, checked: its offload state is one that the back end said it can do. False: no
     * room now; port.writable follows. The device's lock is held: it must not call the port. Frames that
     * cannot go out for another reason are taken and dropped. */
    bool (*send)(struct net_backend *b, const struct net_frame *f);
    void (*sent)(struct net_backend *b);   /* after a number of send, the device's lock held. Optional */
    void (*resume)(struct net_backend *b); /* the device has room again. No lock held */
    /* Unplugged: from now on it posts nothing to the loop and reports nothing. Loop thread. */
    void (*stop)(struct net_backend *b);
    void (*free)(struct net_backend *b);
    /* Adds or removes a forward, on the loop thread or before it runs. Absent: the back end has none. */
    bool (*forward)(struct net_backend *b, const struct net_forward *f, bool add, struct yado_error *err);
};

/* Base of every back end. */
struct net_backend {
    const struct net_backend_ops *ops;
    struct loop *loop;
    struct net_port port;
    unsigned can;   /* NET_CAN_* */
    uint16_t mtu;   /* largest IP packet, bytes */
    bool must_take; /* the frame is a further piece of a packet whose first piece was taken: do not refuse it
                     */
};

/* BRIDGED is a whole-machine framework's own; net_open refuses it. */
enum net_kind { NET_NAT, NET_TAP, NET_FD, NET_BRIDGED };

/* Which back end. Plain data; who made it owns it. */
struct net_config {
    enum net_kind kind;
    char *name;                   /* TAP and BRIDGED: of the interface. Others: NULL */
    int fd;                       /* FD: a connected datagram or stream socket; -1 for others */
    unsigned mtu;                 /* FD: NET_MTU_MIN to NET_MTU_MAX */
    struct net_forward *forwards; /* NAT */
    unsigned forward_count;
};

/* Opens an attachment; the descriptor is duplicated. NULL and err on failure. */
struct net_backend *net_open(const struct net_config *cfg, struct loop *loop, struct yado_error *err);
bool net_start(struct net_backend *b, const struct net_port *port, struct yado_error *err);
/* Unplugs it while the loop runs, on the loop thread: takes the port away and frees it once everything that
 * it has posted to the loop has run. */
void net_retire(struct net_backend *b);
void net_free(struct net_backend *b); /* NULL is fine */

/* Sends a frame of the guest: checks its offload state against its bytes (a frame that lies is dropped), does
 * in software what the back end cannot. False as `send`. */
bool net_send(struct net_backend *b, struct net_frame *f);
void net_sent(struct net_backend *b);

/* "10:ab:..." in lower case; text has room for 18 bytes. */
void net_mac_format(const uint8_t mac[6], char *text);

#endif
