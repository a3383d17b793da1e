/* A device for back ends under test: keeps the frames that they deliver and can refuse them; and frames made
 * by hand. */
#ifndef TESTS_NET_PEER_H
#define TESTS_NET_PEER_H

#include <pthread.h>

#include "net/net.h"

#define PEER_FRAMES 256

struct peer {
    struct loop *loop;
    struct net_backend *backend;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool refuse;          /* deliver says false */
    unsigned refused;     /* how often it did */
    unsigned count, seen; /* frames kept; frames that the test took */
    struct net_frame frames[PEER_FRAMES];
    bool writable;
    bool is_lost;
    struct yado_error why;
};

/* Makes the loop (not running) for a back end to be opened on. */
void peer_init(struct peer *p);
/* Starts the back end and the loop. */
void peer_start(struct peer *p, struct net_backend *b);
/* Ends the loop, frees the back end. */
void peer_end(struct peer *p);

/* Runs fn(ctx) on the loop thread and waits. */
void peer_call(struct peer *p, void (*fn)(void *ctx), void *ctx);
/* net_send on the loop thread of a copy of f, then net_sent. Its result. */
bool peer_send(struct peer *p, const struct net_frame *f);
bool peer_send_bytes(struct peer *p, const void *data, size_t len);
/* The device takes no frames from now on. */
void peer_refuse(struct peer *p);
unsigned peer_refused(struct peer *p); /* how often it did not */
/* Lets the device take frames again and tells the back end. */
void peer_resume(struct peer *p);

/* The next frame, waiting up to 10 s; fails the test. */
struct net_frame *peer_next(struct peer *p);
/* Whether one comes within ms milliseconds. */
bool peer_has(struct peer *p, unsigned ms);
void peer_wait_lost(struct peer *p);
bool peer_is_writable(struct peer *p); /* it was told so */
void peer_wait_writable(struct peer *p);

/* Big-endian fields. */
void put16(uint8_t *p, unsigned v);
void put32(uint8_t *p, uint32_t v);
unsigned get16(const uint8_t *p);
uint32_t get32(const uint8_t *p);

struct packet {
    uint8_t src[4], dst[4];
    uint16_t sport, dport;
    bool udp;
    uint32_t seq, ack;
    uint8_t flags;
    uint16_t window;
    unsigned mss; /* option; 0: none */
    const void *payload;
    size_t len;
};

/* An Ethernet frame with an IPv4 packet and right checksums. Returns its length. */
size_t packet_make(uint8_t *buf, const struct packet *p);
/* The Internet checksum of a TCP or UDP packet over IPv4 or IPv6 by the book, 0 if it is right. */
uint16_t packet_csum(const uint8_t *frame, size_t len);
/* The sum of its pseudo header, not complemented: what the field holds while the checksum is left undone. */
uint16_t packet_pseudo(const uint8_t *frame);

extern const uint8_t guest_mac[6];

#endif
