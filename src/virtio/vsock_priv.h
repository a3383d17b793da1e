/* virtio-vsock: what its files share. All fields are guarded by vd.lock. */
#ifndef VIRTIO_VSOCK_PRIV_H
#define VIRTIO_VSOCK_PRIV_H

#include "host/socket.h"
#include "virtio/vsock.h"

#define F_STREAM (1ull << 0) /* 5.10.3 */

enum { QUEUE_RX, QUEUE_TX, QUEUE_EVENT, QUEUE_COUNT }; /* 5.10.2 */

/* 5.10.6 */
struct vsock_header {
    uint64_t src_cid, dst_cid;
    uint32_t src_port, dst_port;
    uint32_t len;
    uint16_t type, op;
    uint32_t flags;
    uint32_t buf_alloc, fwd_cnt;
} __attribute__((packed));
_Static_assert(sizeof(struct vsock_header) == 44, "virtio 1.2, 5.10.6");

enum { TYPE_STREAM = 1 };
enum { OP_REQUEST = 1, OP_RESPONSE, OP_RST, OP_SHUTDOWN, OP_RW, OP_CREDIT_UPDATE, OP_CREDIT_REQUEST };
enum { NO_MORE_RECEIVE = 1, NO_MORE_SEND = 2, NO_MORE = 3 }; /* flags of OP_SHUTDOWN, 5.10.6.5 */
#define EVENT_TRANSPORT_RESET 0u                             /* 5.10.6.7 */

enum conn_state {
    CONN_GUEST_ASKS, /* the guest asked, the owner has not answered. No descriptor */
    CONN_HOST_ASKS,  /* we ask, the guest has not answered */
    CONN_OPEN,
    CONN_LINGERS, /* over for the guest; what it sent is still being written out. Not found by its ports */
    CONN_RESETS,  /* over; an OP_RST waits for room. No descriptor */
    CONN_DEAD,    /* waits for the loop thread to free it */
};

/* Packets that a connection wants to send, as bits, in this order. */
enum {
    WANT_RST = 1,
    WANT_REQUEST = 2,
    WANT_RESPONSE = 4,
    WANT_SHUTDOWN = 8,
    WANT_CREDIT_UPDATE = 16,
    WANT_CREDIT_REQUEST = 32,
};

struct vsock_conn {
    struct vsock *v;
    struct vsock_conn *hash_next; /* also the list of the dead */
    struct vsock_conn *pending_next, *pending_prev;
    bool is_pending;
    uint32_t guest_port, host_port;
    uint64_t id;          /* unique for the life of the device; id % VSOCK_CONNECTIONS_MAX is the slot */
    uint64_t tag;         /* of a vsock_connect that was not answered; else 0 */
    uint64_t deadline_ns; /* HOST_ASKS */
    enum conn_state state;
    unsigned want;

    int fd; /* -1: none, or not any more */
    struct loop_fd *watch;
    unsigned events; /* watched now */
    bool readable;   /* as far as we know */
    bool host_done;  /* the end was read from fd: SHUTDOWN says NO_MORE_SEND */
    bool host_deaf;  /* nobody reads there any more: NO_MORE_RECEIVE */
    bool host_broke; /* the host's side ended by an error: OP_RST in place of SHUTDOWN */
    bool guest_done; /* the guest said NO_MORE_SEND ... */
    bool guest_deaf; /* ... and NO_MORE_RECEIVE */

    /* From the guest: free-running counts of bytes (5.10.6.3). */
    uint32_t window;                    /* our buf_alloc */
    uint32_t received, forwarded, told; /* `told`: forwarded as the guest knows it */
    uint8_t *buffer;                    /* received and not forwarded */
    uint32_t buffer_room, buffer_off, buffer_len;

    /* To the guest. */
    uint32_t peer_alloc, peer_forwarded, sent;
    bool credit_asked;
};

/* A packet that belongs to no connection: the answer to one that the guest should not have sent. */
struct vsock_reply {
    uint64_t host_cid;
    uint32_t guest_port, host_port;
    uint16_t type;
};

#define BUCKETS 1024u
#define REPLIES_MAX 64u /* with so many waiting, no more of the guest's packets are looked at (5.10.6.1) */

struct vsock {
    struct vdev vd;
    struct vsock_config cfg;
    struct {
        uint64_t guest_cid;
    } space; /* 5.10.4 */

    struct vsock_conn *buckets[BUCKETS]; /* by ports */
    struct vsock_conn *slots[VSOCK_CONNECTIONS_MAX];
    uint16_t free_slots[VSOCK_CONNECTIONS_MAX];
    unsigned free_count;
    uint64_t serial;                                 /* of the last connection */
    uint32_t next_port;                              /* to try first for a connection of ours */
    uint64_t windows;                                /* sum of those that are large */
    struct vsock_conn *pending_first, *pending_last; /* connections that can send, in turn */
    struct vsock_conn *dead;
    bool work_posted;
    struct loop_timer *timer; /* for HOST_ASKS */
    bool timer_armed;

    struct vsock_reply replies[REPLIES_MAX];
    unsigned reply_first, reply_count;
    bool tx_stalled;    /* replies were full */
    bool rx_starved;    /* something to send found no buffer */
    bool event_pending; /* transport reset */

    struct vsock_counters counters;
    struct iovec iov[VIRTQ_CHAIN_MAX];
};

static inline struct vsock *vsock_of(struct vdev *vd)
{
    return container_of(vd, struct vsock, vd);
}

/* ---- vsock_conn.c: connections ---- */

/* NULL if there are too many, or out of memory. */
struct vsock_conn *conn_new(struct vsock *v, uint32_t guest_port, uint32_t host_port, enum conn_state state);
struct vsock_conn *conn_find(struct vsock *v, uint32_t guest_port, uint32_t host_port);
struct vsock_conn *conn_by_id(struct vsock *v, uint64_t id); /* NULL if it is dead */
/* Gives it its socket. */
void conn_open(struct vsock_conn *c, int fd);
/* Over at once: never found again, nothing more is sent. Memory and descriptor go when the loop thread comes
 * by. */
void conn_kill(struct vsock_conn *c);
/* Over, and the guest shall hear of it. Loop thread, or without a descriptor. */
void conn_reset(struct vsock_conn *c);
/* Over for the guest; what it sent is written out first. Loop thread. */
void conn_linger(struct vsock_conn *c);
/* If it is one of ours that was not answered: the answer. */
void conn_answered(struct vsock_conn *c, enum yado_error_code code, const char *text);
void conns_bury(struct vsock *v); /* frees the dead. Loop thread, or the loop has ended */

/* `len` bytes at `off` of the chain that was taken last go to the socket, or to the buffer. The window was
 * checked. */
void conn_receive(struct vsock_conn *c, const struct virtq_chain *chain, uint32_t off, uint32_t len);
/* The guest sends no more: so does the socket when it is all written. */
void conn_guest_done(struct vsock_conn *c);
/* Nobody will read the socket any more. */
void conn_host_deaf(struct vsock_conn *c);

/* Bytes that the guest has room for. */
uint32_t conn_credit(const struct vsock_conn *c);
void conn_want(struct vsock_conn *c, unsigned want);
/* After any change: is it in turn to send, and what is the socket watched for. */
void conn_settle(struct vsock_conn *c);

/* ---- vsock_rx.c: to the guest ---- */

/* Sends what there is to send, as long as there are buffers, and not more than a share. Loop thread. */
void vsock_send(struct vsock *v);
void pending_remove(struct vsock_conn *c);
void pending_add(struct vsock_conn *c);
void reply_add(struct vsock *v, const struct vsock_header *to); /* there is room */
static inline bool reply_room(const struct vsock *v)
{
    return v->reply_count < REPLIES_MAX;
}

/* ---- vsock_tx.c: from the guest ---- */

/* A share of the guest's packets. True: there may be more. Loop thread. */
bool vsock_take_packets(struct vsock *v);

/* ---- vsock.c ---- */

/* Has the loop thread look for work. */
void vsock_post(struct vsock *v);
/* On the loop thread, after anything. */
void vsock_work(struct vsock *v);

#endif
