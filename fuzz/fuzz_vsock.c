/* Fuzz target: the socket device against packets and buffers that are the input, with a host that answers at
 * random.
 *
 * Input: steps of one kind byte and what that kind takes. Packets are sent with headers from the input whose
 * ports and CID are mostly narrowed down, so that connections come about; receive buffers of input length are
 * given; programs write, read, shut or close their ends; the host connects and answers; the device is reset.
 * Between the steps the loop thread gets no turn of its own: the queues are worked on it, and each step waits
 * until it is idle. What must hold is checked with BUG_ON at the end: nothing is left after a reset. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "virtio/vsock_priv.h"

#define MEM_SIZE MIB(1)
#define QUEUE_LEN 16
#define PROGRAMS 8
#define STEPS_MAX 200
#define DATA_GPA 0x20000u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

struct input {
    const uint8_t *at, *end;
};

struct world {
    struct gmem *mem;
    struct loop *loop;
    struct vsock *v;
    uint16_t avail[QUEUE_COUNT];
    int programs[PROGRAMS];
    unsigned next_program;
    int answer; /* what `asked` says: 0 refuse, 1 later, else a socket */
    uint64_t asked_id;
};

static unsigned byte(struct input *in)
{
    return in->at < in->end ? *in->at++ : 0;
}

static void bytes(struct input *in, void *to, size_t len)
{
    size_t n = min_u64(len, (size_t)(in->end - in->at));

    memset(to, 0, len);
    memcpy(to, in->at, n);
    in->at += n;
}

/* ---- the owner ---- */

static int program_new(struct world *w)
{
    int *at = &w->programs[w->next_program++ % PROGRAMS], fds[2];

    if (socket_pair(fds))
        return -1;
    if (*at >= 0)
        close(*at);
    *at = fds[1];
    return fds[0];
}

static int on_asked(void *ctx, uint64_t id, uint32_t guest_port, uint32_t host_port)
{
    struct world *w = ctx;

    (void)guest_port;
    (void)host_port;
    w->asked_id = id;
    return w->answer == 0 ? VSOCK_REFUSED : w->answer == 1 ? VSOCK_LATER : program_new(w);
}

static void on_connected(void *ctx, uint64_t tag, uint32_t host_port, const struct yado_error *why)
{
    (void)ctx;
    (void)tag;
    (void)host_port;
    (void)why;
}

/* ---- the transport and the driver ---- */

static void on_interrupt(void *ctx, int queue)
{
    (void)ctx;
    (void)queue;
}

static void on_reset(void *ctx)
{
    (void)ctx;
}

static bool on_may_dma(void *ctx)
{
    (void)ctx;
    return true;
}

static const struct vdev_transport_ops transport = { on_interrupt, on_reset, on_may_dma };

static uint64_t ring_gpa(unsigned queue)
{
    return 0x1000 + queue * 0x1000ull;
}

static void driver_start(struct world *w)
{
    struct vdev *vd = vsock_vdev(w->v);
    uint8_t status = VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER;
    static const uint8_t zeros[0x4000];

    gmem_write(w->mem, 0, zeros, sizeof(zeros));
    memset(w->avail, 0, sizeof(w->avail));
    vdev_lock(vd);
    vdev_set_status(vd, status);
    vdev_set_features(vd, 1, (uint32_t)(VIRTIO_F_VERSION_1 >> 32));
    vdev_set_status(vd, status |= VIRTIO_STATUS_FEATURES_OK);
    for (unsigned i = 0; i < QUEUE_COUNT; i++) {
        vd->queues[i].size = QUEUE_LEN;
        vd->queues[i].desc_gpa = ring_gpa(i);
        vd->queues[i].avail_gpa = ring_gpa(i) + 0x400;
        vd->queues[i].used_gpa = ring_gpa(i) + 0x800;
        vdev_enable_queue(vd, i);
    }
    vdev_set_status(vd, status | VIRTIO_STATUS_DRIVER_OK);
    vdev_unlock(vd);
}

static void chain_add(struct world *w, unsigned queue, uint64_t gpa, uint32_t len, bool writes)
{
    struct virtio_desc d = { .addr = gpa, .len = len, .flags = writes ? VIRTIO_DESC_WRITE : 0 };
    uint16_t slot = w->avail[queue]++ % QUEUE_LEN, index = w->avail[queue];

    gmem_write(w->mem, ring_gpa(queue) + slot * 16u, &d, sizeof(d));
    gmem_write(w->mem, ring_gpa(queue) + 0x404 + slot * 2u, &slot, 2);
    gmem_write(w->mem, ring_gpa(queue) + 0x402, &index, 2);
    vdev_kick(vsock_vdev(w->v), queue);
}

static void packet_send(struct world *w, struct input *in)
{
    struct vsock_header h;
    unsigned how = byte(in);

    bytes(in, &h, sizeof(h));
    if (how & 1)
        h.src_cid = 3;
    if (how & 2)
        h.dst_cid = VSOCK_CID_HOST;
    if (how & 4)
        h.type = TYPE_STREAM;
    if (how & 8) {
        h.src_port %= 4;
        h.dst_port %= 2;
        h.op %= 9;
        h.flags %= 5;
    }
    if (how & 16)
        h.len %= 8192;
    gmem_write(w->mem, DATA_GPA, &h, sizeof(h));
    chain_add(w, QUEUE_TX, DATA_GPA, how & 32 ? byte(in) + 1 : (uint32_t)sizeof(h) + (h.len & 0xffff), false);
}

/* ---- steps ---- */

struct turn {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool done;
};

static void turn_over(void *ctx)
{
    struct turn *t = ctx;

    pthread_mutex_lock(&t->lock);
    t->done = true;
    pthread_cond_signal(&t->cond);
    pthread_mutex_unlock(&t->lock);
}

static void loop_turn(struct world *w)
{
    struct turn t = { .done = false };

    pthread_mutex_init(&t.lock, NULL);
    pthread_cond_init(&t.cond, NULL);
    BUG_ON(!loop_post(w->loop, turn_over, &t));
    pthread_mutex_lock(&t.lock);
    while (!t.done)
        pthread_cond_wait(&t.cond, &t.lock);
    pthread_mutex_unlock(&t.lock);
    pthread_cond_destroy(&t.cond);
    pthread_mutex_destroy(&t.lock);
}

static void program_step(struct world *w, struct input *in)
{
    static char text[5000];
    unsigned what = byte(in);
    int *fd = &w->programs[byte(in) % PROGRAMS];

    if (*fd < 0)
        return;
    switch (what % 5) {
    case 0: send(*fd, text, byte(in) * 19u + 1, MSG_DONTWAIT | MSG_NOSIGNAL); break;
    case 1:
        if (recv(*fd, text, sizeof(text), MSG_DONTWAIT) > 0)
            return;
        break;
    case 2: shutdown(*fd, SHUT_WR); break;
    case 3: shutdown(*fd, SHUT_RD); break;
    default:
        close(*fd);
        *fd = -1;
        break;
    }
}

static void host_step(struct world *w, struct input *in)
{
    unsigned what = byte(in);
    int fd;

    vdev_lock(&w->v->vd);
    fd = program_new(w);
    vdev_unlock(&w->v->vd);
    if (fd < 0)
        return;
    if (what % 2)
        vsock_answer(w->v, w->asked_id, fd);
    else
        vsock_connect(w->v, what % 4, fd, what, NULL);
}

static void step(struct world *w, struct input *in)
{
    switch (byte(in) % 8) {
    case 0:
    case 1: packet_send(w, in); break;
    case 2: chain_add(w, QUEUE_RX, DATA_GPA + 0x10000 + byte(in) * 64u, byte(in) * 16u + 40, true); break;
    case 3: program_step(w, in); break;
    case 4: host_step(w, in); break;
    case 5:
        vdev_lock(&w->v->vd);
        w->answer = (int)byte(in) % 3;
        vdev_unlock(&w->v->vd);
        break;
    case 6:
        vdev_lock(&w->v->vd);
        vdev_set_status(&w->v->vd, 0);
        vdev_unlock(&w->v->vd);
        driver_start(w);
        break;
    default:
        vsock_transport_reset(w->v);
        chain_add(w, QUEUE_EVENT, DATA_GPA + 0x1000, byte(in), true);
        break;
    }
    loop_turn(w);
}

static void world_check(struct world *w)
{
    struct vsock_counters c;

    vdev_lock(&w->v->vd);
    vdev_set_status(&w->v->vd, 0);
    vdev_unlock(&w->v->vd);
    loop_turn(w);
    c = vsock_counters_get(w->v);
    BUG_ON(c.connections || c.descriptors || c.buffered || w->v->windows || w->v->pending_first);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static struct world w; /* made once: threads and memory cost more than a run */
    struct input in = { data, data + len };

    if (!w.mem) {
        w.mem = gmem_new(MEM_SIZE, GIB(3), false, NULL);
        w.loop = loop_new(NULL);
        struct vsock_config cfg = { .guest_cid = 3,
                                    .asked = on_asked,
                                    .connected = on_connected,
                                    .ctx = &w,
                                    .clock = clock_host(),
                                    .loop = w.loop };
        w.v = vsock_new(&cfg, NULL);
        vdev_attach(vsock_vdev(w.v), w.mem, &transport, &w);
        BUG_ON(!loop_start(w.loop, "fuzz", NULL));
        memset(w.programs, -1, sizeof(w.programs));
    }
    w.answer = 2;
    driver_start(&w);
    for (unsigned i = 0; i < STEPS_MAX && in.at < in.end; i++)
        step(&w, &in);
    world_check(&w);
    for (unsigned i = 0; i < PROGRAMS; i++) {
        if (w.programs[i] >= 0)
            close(w.programs[i]);
        w.programs[i] = -1;
    }
    return 0;
}
