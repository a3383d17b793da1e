/* A socket device with a guest and an owner that tests play, on a real event loop. */
#ifndef TESTS_VIRTIO_VSOCK_BENCH_H
#define TESTS_VIRTIO_VSOCK_BENCH_H

#include "driver.h"
#include "virtio/vsock_priv.h"

#define BENCH_QUEUE 64
#define RX_LEN 4096 /* data bytes in a receive buffer */
#define TX_LEN 65536

struct bench {
    struct drv d;
    struct loop *loop;
    struct vsock *v;
    uint64_t rx_gpa[BENCH_QUEUE], tx_gpa[BENCH_QUEUE];
    unsigned tx_next;
    bool keep_rx; /* used receive buffers are not given back */

    /* The owner: what it says to `asked`, and what it heard. */
    int answer;    /* VSOCK_..., or a descriptor for the next one alone */
    unsigned asks; /* atomic */
    uint64_t asked_id;
    unsigned answers; /* of `connected`; atomic */
    uint64_t tag;
    uint32_t host_port;
    struct yado_error why;
    uint64_t clock_behind_ns; /* atomic */
};

struct got {
    struct vsock_header h;
    uint8_t data[RX_LEN];
};

/* What the driver accepts beside VERSION_1; its kicks are those that the device asks for. */
extern uint64_t bench_features;

void bench_start(struct bench *b); /* without receive buffers */
void bench_end(struct bench *b);
/* The driver's start, or its next one after drv_reset. */
void guest_start(struct bench *b);
void guest_give(struct bench *b, unsigned first, unsigned count); /* receive buffers */
void guest_give_all(struct bench *b);

/* Sends a packet and waits until the device has taken it. */
void guest_send_header(struct bench *b, const struct vsock_header *h, const void *data, uint32_t len);
/* To a port of the host, with a large window and `forwarded` as fwd_cnt. */
void guest_send(struct bench *b, unsigned op, uint32_t guest_port, uint32_t host_port, const void *data,
                uint32_t len, uint32_t flags);
/* The next packet, if there is one within `ms`. */
bool guest_got(struct bench *b, struct got *g, unsigned ms);
/* The next packet must be this one; credit updates in between are passed over unless they are asked for. */
void guest_expect(struct bench *b, unsigned op, uint32_t guest_port, uint32_t host_port, struct got *g);
void guest_expect_none(struct bench *b, unsigned ms);
/* Connects and is accepted; returns the program's end of the socket. */
int guest_connect(struct bench *b, uint32_t guest_port, uint32_t host_port);
/* Connects from the host and accepts; returns the program's end and the host's port. */
int host_connect(struct bench *b, uint32_t guest_port, uint32_t *host_port);

/* Reads exactly `len` bytes; fails the test after 20 s. */
void program_read(int fd, void *data, size_t len);
bool program_at_end(int fd); /* waits for the end of the stream, or an error; false if there are bytes */

struct vsock_counters counters_wait(struct bench *b, unsigned connections); /* until there are so many */

#endif
