/* The network devices of a board: each a virtio-net device and its attachment. */
#include "machine/nets.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/net.h"
#include "virtio/transport_pci.h"

struct net_device {
    struct nets *all;
    unsigned index;
    struct vnet *net;
    struct virtio_pci *pci;
};

struct nets {
    struct loop *loop;
    void (*lost)(void *ctx, unsigned index, const struct yado_error *why);
    void *ctx;
    unsigned count;
    struct net_device devices[BOARD_DEVICE_MAX];
};

static void on_lost(void *ctx, const struct yado_error *why)
{
    const struct net_device *d = ctx;

    if (d->all->lost)
        d->all->lost(d->all->ctx, d->index, why);
}

/* Queues for several CPUs pay where the host's side has several flows to tell apart, and cost interrupts
 * elsewhere. */
static unsigned pairs_for(const struct net_config *cfg, unsigned vcpu_count)
{
    return cfg->kind == NET_TAP ? (unsigned)min_u64(vcpu_count, VNET_PAIRS_MAX) : 1;
}

static bool device_build(struct nets *n, const struct nets_config *cfg, unsigned index,
                         struct yado_error *err)
{
    const struct board_net *from = &cfg->nets[index];
    struct net_device *d = &n->devices[n->count++];
    struct net_backend *backend = net_open(&from->config, cfg->loop, err);
    char label[12];
    struct vnet_config vc = {
        .mtu = backend ? backend->mtu : 0,
        .queue_pairs = pairs_for(&from->config, cfg->vcpu_count),
        .lost = on_lost,
        .ctx = d,
        .label = label,
        .log = cfg->log,
        .loop = cfg->loop,
    };

    if (!backend)
        return false;
    *d = (struct net_device){ .all = n, .index = index };
    snprintf(label, sizeof(label), "%u", index);
    memcpy(vc.mac, from->mac, sizeof(vc.mac));
    d->net = vnet_new(&vc, err);
    if (!d->net) {
        net_free(backend);
        return false;
    }
    if (!vnet_attach(d->net, backend, err))
        return false;
    d->pci = virtio_pci_attach(cfg->pci, vnet_vdev(d->net), cfg->mem, err);
    return d->pci != NULL;
}

struct nets *nets_new(const struct nets_config *cfg, struct yado_error *err)
{
    struct nets *n = calloc(1, sizeof(*n));

    if (!n) {
        err_set(err, YADO_ERR_HOST, "out of memory");
        return NULL;
    }
    n->loop = cfg->loop;
    n->lost = cfg->lost;
    n->ctx = cfg->ctx;
    for (unsigned i = 0; i < cfg->count; i++) {
        if (!device_build(n, cfg, i, err)) {
            err_prepend(err, "network[%u]", i);
            nets_free(n);
            return NULL;
        }
    }
    return n;
}

void nets_reset(struct nets *n)
{
    for (unsigned i = 0; i < n->count; i++)
        virtio_pci_reset(n->devices[i].pci);
}

void nets_free(struct nets *n)
{
    if (!n)
        return;
    for (unsigned i = 0; i < n->count; i++) {
        virtio_pci_free(n->devices[i].pci);
        vnet_free(n->devices[i].net);
    }
    free(n);
}

/* ---- while it runs: asked on one thread, done on the loop's ---- */

struct errand {
    struct net_device *device;
    bool (*fn)(struct errand *e, struct yado_error *err);
    const struct net_forward *forward;
    bool add;
    const struct net_config *config;
    struct yado_error err;

    pthread_mutex_t lock;
    pthread_cond_t done_cond;
    bool done, ok;
};

static void errand_run(void *ctx)
{
    struct errand *e = ctx;
    bool ok = e->fn(e, &e->err);

    pthread_mutex_lock(&e->lock);
    e->ok = ok;
    e->done = true;
    pthread_cond_signal(&e->done_cond);
    pthread_mutex_unlock(&e->lock);
}

static bool errand_do(struct nets *n, unsigned index, struct errand *e, struct yado_error *err)
{
    if (index >= n->count)
        return err_set(err, YADO_ERR_INVALID_CONFIG, "network[%u]: there is no such device", index);
    e->device = &n->devices[index];
    pthread_mutex_init(&e->lock, NULL);
    pthread_cond_init(&e->done_cond, NULL);
    if (loop_post(n->loop, errand_run, e)) {
        pthread_mutex_lock(&e->lock);
        while (!e->done)
            pthread_cond_wait(&e->done_cond, &e->lock);
        pthread_mutex_unlock(&e->lock);
    } else {
        err_set(&e->err, YADO_ERR_MEMORY, "out of memory");
    }
    pthread_cond_destroy(&e->done_cond);
    pthread_mutex_destroy(&e->lock);
    if (e->ok)
        return true;
    err_prepend(&e->err, "network[%u]", index);
    if (err && err->code == YADO_OK)
        *err = e->err;
    return false;
}

static bool forward_do(struct errand *e, struct yado_error *err)
{
    struct net_backend *b = vnet_attachment(e->device->net);

    if (!b || !b->ops->forward)
        return err_set(err, YADO_ERR_UNSUPPORTED, "forward: only NAT has forwards");
    return b->ops->forward(b, e->forward, e->add, err);
}

bool nets_forward(struct nets *n, unsigned index, const struct net_forward *f, bool add,
                  struct yado_error *err)
{
    struct errand e = { .fn = forward_do, .forward = f, .add = add };

    return errand_do(n, index, &e, err);
}

static bool attach_do(struct errand *e, struct yado_error *err)
{
    struct net_backend *b = NULL;

    if (!e->config)
        return vnet_attach(e->device->net, NULL, err);
    b = net_open(e->config, e->device->all->loop, err);
    return b && vnet_attach(e->device->net, b, err);
}

/* The old one goes first, all the way (the second errand comes after its end): what it holds, a tap or ports
 * that forwards listen on, may be what the new one or the caller wants. */
bool nets_attach(struct nets *n, unsigned index, const struct net_config *cfg, struct yado_error *err)
{
    struct errand off = { .fn = attach_do }, on = { .fn = attach_do, .config = cfg };

    return errand_do(n, index, &off, err) && errand_do(n, index, &on, err);
}
