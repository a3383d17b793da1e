/* virtio-vsock: stream sockets between guest and host (virtio 1.2, section 5.10). Theory of operation in
 * vsock.c.
 *
 * Every connection is a stream socket of the host on one side, given as a descriptor, and a pair of ports on
 * the other. Where descriptors come from is the owner's business. */
#ifndef VIRTIO_VSOCK_H
#define VIRTIO_VSOCK_H

#include "host/clock.h"
#include "virtio/vdev.h"

#define VSOCK_CID_HOST 2u
#define VSOCK_CID_GUEST 3u /* the first that a guest may have */
#define VSOCK_PORT_ANY UINT32_MAX

/* What a guest can make the host keep: so many connections, each with a window of bytes that the guest sent
 * and the host's program did not read yet. Windows are large until all of them together come to
 * VSOCK_WINDOWS_LARGE, and small from then on: at most 64 MiB + 4096 * 32 KiB = 192 MiB, taken only as bytes
 * wait. */
#define VSOCK_CONNECTIONS_MAX 4096u
#define VSOCK_WINDOW 262144u
#define VSOCK_WINDOW_SMALL 32768u
#define VSOCK_WINDOWS_LARGE MIB(64)

#define VSOCK_CONNECT_TIMEOUT_MS 10000 /* from vsock_connect to the guest's answer */

struct vsock;

enum { VSOCK_REFUSED = -1, VSOCK_LATER = -2 };

struct vsock_config {
    uint32_t guest_cid;
    /* A guest program connects to `host_port`. Returns a connected socket, which is taken over, or
     * VSOCK_REFUSED, or VSOCK_LATER: vsock_answer follows. Loop thread, with the device's lock held: calls
     * nothing here. */
    int (*asked)(void *ctx, uint64_t id, uint32_t guest_port, uint32_t host_port);
    /* What became of a vsock_connect whose tag is not 0: `why` NULL if the guest accepted. Called exactly
     * once for each such call that succeeded. Any thread, with the device's lock held: calls nothing here. */
    void (*connected)(void *ctx, uint64_t tag, uint32_t host_port, const struct yado_error *why);
    void *ctx;
    struct clock clock;
    const struct log *log; /* may be NULL */
    struct loop *loop;     /* required */
};

struct vsock *vsock_new(const struct vsock_config *cfg, struct yado_error *err);
void vsock_free(struct vsock *v); /* vCPUs and the loop are stopped. Closes all connections. NULL is fine */
struct vdev *vsock_vdev(struct vsock *v);

/* The rest from any thread, without the device's lock. */

/* The answer to an `asked` that was VSOCK_LATER: a connected socket, taken over in any case, or
 * VSOCK_REFUSED. False if the guest does not wait for it any more. */
bool vsock_answer(struct vsock *v, uint64_t id, int fd);
bool vsock_waits(struct vsock *v, uint64_t id); /* whether the guest waits for that answer */

/* Connects `fd`, taken over in any case, to a port of the guest. The guest's answer comes as `connected`;
 * without a tag (0) it shows as the end of the socket. Errors: STATE, the guest runs no driver; IN_USE, all
 * connections are in use; MEMORY. */
bool vsock_connect(struct vsock *v, uint32_t guest_port, int fd, uint64_t tag, struct yado_error *err);

/* Ends all connections and tells the guest that they are gone (5.10.6.7): for a guest that goes on elsewhere
 * than where it was saved. */
void vsock_transport_reset(struct vsock *v);

struct vsock_counters {
    uint64_t opened, refused;            /* connections; both ways */
    uint64_t resets;                     /* sent */
    uint64_t bad;                        /* packets that broke a rule */
    uint64_t sent_bytes, received_bytes; /* by the guest */
    unsigned connections, descriptors;   /* now */
    uint64_t buffered;                   /* bytes now */
};

struct vsock_counters vsock_counters_get(struct vsock *v);

#endif
