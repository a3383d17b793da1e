#include "peer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

const uint8_t guest_mac[6] = { 0x52, 0x54, 0, 1, 2, 3 };

/* ---- the device ---- */

static bool deliver(void *ctx, struct net_frame *f)
{
    struct peer *p = ctx;
    bool take;

    pthread_mutex_lock(&p->lock);
    take = !p->refuse && p->count < PEER_FRAMES;
    if (take) {
        struct net_frame *to = &p->frames[p->count++];

        *to = *f;
        to->data = malloc(f->len);
        memcpy(to->data, f->data, f->len);
    } else {
        p->refused++;
    }
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
    return take;
}

static void flush(void *ctx)
{
    (void)ctx;
}

static void writable(void *ctx)
{
    struct peer *p = ctx;

    pthread_mutex_lock(&p->lock);
    p->writable = true;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
}

static void lost(void *ctx, const struct yado_error *why)
{
    struct peer *p = ctx;

    pthread_mutex_lock(&p->lock);
    p->is_lost = true;
    p->why = *why;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
}

void peer_init(struct peer *p)
{
    struct yado_error err = YADO_ERROR_INIT;
    pthread_condattr_t attr;

    memset(p, 0, sizeof(*p));
    pthread_mutex_init(&p->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&p->changed, &attr);
    pthread_condattr_destroy(&attr);
    p->loop = loop_new(&err);
    assert_non_null(p->loop);
}

void peer_start(struct peer *p, struct net_backend *b)
{
    struct net_port port = {
        .deliver = deliver, .flush = flush, .writable = writable, .lost = lost, .ctx = p
    };
    struct yado_error err = YADO_ERROR_INIT;

    assert_non_null(b);
    p->backend = b;
    assert_true(net_start(b, &port, &err));
    assert_true(loop_start(p->loop, "test-net", &err));
}

void peer_end(struct peer *p)
{
    loop_stop(p->loop);
    net_free(p->backend);
    loop_free(p->loop);
    for (unsigned i = 0; i < p->count; i++)
        free(p->frames[i].data);
    pthread_cond_destroy(&p->changed);
    pthread_mutex_destroy(&p->lock);
}

struct call {
    struct peer *peer;
    void (*fn)(void *ctx);
    void *ctx;
    bool done;
};

static void call_run(void *ctx)
{
    struct call *c = ctx;

    c->fn(c->ctx);
    pthread_mutex_lock(&c->peer->lock);
    c->done = true;
    pthread_cond_broadcast(&c->peer->changed);
    pthread_mutex_unlock(&c->peer->lock);
}

void peer_call(struct peer *p, void (*fn)(void *ctx), void *ctx)
{
    struct call c = { .peer = p, .fn = fn, .ctx = ctx };

    assert_true(loop_post(p->loop, call_run, &c));
    pthread_mutex_lock(&p->lock);
    while (!c.done)
        pthread_cond_wait(&p->changed, &p->lock);
    pthread_mutex_unlock(&p->lock);
}

struct sending {
    struct peer *peer;
    struct net_frame frame;
    bool taken;
};

static void send_run(void *ctx)
{
    struct sending *s = ctx;

    s->taken = net_send(s->peer->backend, &s->frame);
    net_sent(s->peer->backend);
}

bool peer_send(struct peer *p, const struct net_frame *f)
{
    struct sending s = { .peer = p, .frame = *f };

    s.frame.data = malloc(f->len);
    memcpy(s.frame.data, f->data, f->len);
    peer_call(p, send_run, &s);
    free(s.frame.data);
    return s.taken;
}

bool peer_send_bytes(struct peer *p, const void *data, size_t len)
{
    struct net_frame f = { .data = (uint8_t *)(uintptr_t)data, .len = len };

    return peer_send(p, &f);
}

static void resume_run(void *ctx)
{
    struct peer *p = ctx;

    p->backend->ops->resume(p->backend);
}

void peer_refuse(struct peer *p)
{
    pthread_mutex_lock(&p->lock);
    p->refuse = true;
    pthread_mutex_unlock(&p->lock);
}

unsigned peer_refused(struct peer *p)
{
    unsigned n;

    pthread_mutex_lock(&p->lock);
    n = p->refused;
    pthread_mutex_unlock(&p->lock);
    return n;
}

void peer_resume(struct peer *p)
{
    pthread_mutex_lock(&p->lock);
    p->refuse = false;
    pthread_mutex_unlock(&p->lock);
    peer_call(p, resume_run, p);
}

/* Waits with the lock held until *flag or so many ms. */
static bool wait_for(struct peer *p, bool (*is_so)(const struct peer *p), unsigned ms)
{
    struct timespec t;
    bool late = false, so;

    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_nsec += (long)(ms % 1000) * 1000000;
    t.tv_sec += ms / 1000 + t.tv_nsec / 1000000000;
    t.tv_nsec %= 1000000000;
    pthread_mutex_lock(&p->lock);
    while (!(so = is_so(p)) && !late)
        late = pthread_cond_timedwait(&p->changed, &p->lock, &t) != 0;
    pthread_mutex_unlock(&p->lock);
    return so;
}

static bool has_frame(const struct peer *p)
{
    return p->seen < p->count;
}

static bool has_lost(const struct peer *p)
{
    return p->is_lost;
}

static bool has_writable(const struct peer *p)
{
    return p->writable;
}

bool peer_has(struct peer *p, unsigned ms)
{
    return wait_for(p, has_frame, ms);
}

struct net_frame *peer_next(struct peer *p)
{
    if (!peer_has(p, 10000))
        fail_msg("no frame came");
    return &p->frames[p->seen++];
}

void peer_wait_lost(struct peer *p)
{
    if (!wait_for(p, has_lost, 10000))
        fail_msg("the loss was not told");
}

bool peer_is_writable(struct peer *p)
{
    return wait_for(p, has_writable, 0);
}

void peer_wait_writable(struct peer *p)
{
    if (!wait_for(p, has_writable, 10000))
        fail_msg("the back end did not say that it takes frames again");
}

/* ---- packets ---- */

void put16(uint8_t *p, unsigned v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

void put32(uint8_t *p, uint32_t v)
{
    put16(p, v >> 16);
    put16(p + 2, v & 0xffff);
}

unsigned get16(const uint8_t *p)
{
    return (unsigned)p[0] << 8 | p[1];
}

uint32_t get32(const uint8_t *p)
{
    return (uint32_t)get16(p) << 16 | get16(p + 2);
}

static uint32_t sum(const uint8_t *p, size_t len, uint32_t s)
{
    for (size_t i = 0; i < len; i++) {
        s += i % 2 ? p[i] : (uint32_t)p[i] << 8;
        s = (s & 0xffff) + (s >> 16);
    }
    return s;
}

uint16_t packet_csum(const uint8_t *frame, size_t len)
{
    const uint8_t *ip = frame + NET_ETH_LEN;
    bool v6 = ip[0] >> 4 == 6;
    size_t header = v6 ? 40 : (size_t)(ip[0] & 15) * 4, l4 = v6 ? get16(ip + 4) : get16(ip + 2) - header;
    uint32_t s = (uint32_t)(v6 ? ip[6] : ip[9]) + (uint32_t)l4;

    assert_true(NET_ETH_LEN + header + l4 <= len);
    s = sum(ip + (v6 ? 8 : 12), v6 ? 32 : 8, s);
    return (uint16_t)~sum(ip + header, l4, s);
}

uint16_t packet_pseudo(const uint8_t *frame)
{
    const uint8_t *ip = frame + NET_ETH_LEN;
    bool v6 = ip[0] >> 4 == 6;
    uint32_t len = v6 ? get16(ip + 4) : get16(ip + 2) - (ip[0] & 15u) * 4;

    return (uint16_t)sum(ip + (v6 ? 8 : 12), v6 ? 32 : 8, (v6 ? ip[6] : ip[9]) + len);
}

size_t packet_make(uint8_t *buf, const struct packet *p)
{
    static const uint8_t router[6] = { 0x52, 0x55, 10, 0, 2, 2 };
    uint8_t *ip = buf + NET_ETH_LEN, *l4 = ip + 20;
    size_t header = p->udp ? 8 : p->mss ? 24 : 20, total = 20 + header + p->len;

    memset(buf, 0, NET_ETH_LEN + 20 + header);
    memcpy(buf, router, 6);
    memcpy(buf + 6, guest_mac, 6);
    put16(buf + 12, 0x0800);
    ip[0] = 0x45;
    put16(ip + 2, (unsigned)total);
    ip[8] = 64;
    ip[9] = p->udp ? 17 : 6;
    memcpy(ip + 12, p->src, 4);
    memcpy(ip + 16, p->dst, 4);
    put16(ip + 10, (uint16_t)~sum(ip, 20, 0));
    put16(l4, p->sport);
    put16(l4 + 2, p->dport);
    if (p->udp) {
        put16(l4 + 4, (unsigned)(8 + p->len));
    } else {
        put32(l4 + 4, p->seq);
        put32(l4 + 8, p->ack);
        l4[12] = (uint8_t)(header / 4 << 4);
        l4[13] = p->flags;
        put16(l4 + 14, p->window);
        if (p->mss) {
            l4[20] = 2;
            l4[21] = 4;
            put16(l4 + 22, p->mss);
        }
    }
    if (p->len)
        memcpy(l4 + header, p->payload, p->len);
    put16(l4 + (p->udp ? 6 : 16), packet_csum(buf, NET_ETH_LEN + total));
    return NET_ETH_LEN + total;
}
