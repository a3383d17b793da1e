/* MSI-X: capability, table and pending bits of a function (PCI Local Bus 3.0, 6.8.2 and 6.8.3).
 *
 * The table is at the start of the BAR and the pending bits in its upper half. A vector that is raised while
 * it or the function is masked, or while the function may not master the bus, is remembered and sent as soon
 * as it may be. */
#include "chip/pci_priv.h"

#include <stdlib.h>
#include <string.h>

#define PBA_OFF_MIN 2048
#define BAR_LEN_MIN 4096

static bool vector_is_pending(const struct msix *x, unsigned v)
{
    return x->pending[v / 32] >> (v % 32) & 1;
}

static void vector_set_pending(struct msix *x, unsigned v, bool pending)
{
    uint32_t bit = 1u << (v % 32);

    x->pending[v / 32] = pending ? x->pending[v / 32] | bit : x->pending[v / 32] & ~bit;
}

static bool vector_may_send(const struct msix *x, unsigned v)
{
    return x->enabled && !x->mask_all && x->master && !(x->table[v].control & MSIX_ENTRY_MASKED);
}

/* Sends vector v if it is pending and allowed. Releases the lock around sending. */
static void send_if_pending(struct pci_function *fn, unsigned v)
{
    struct msix *x = &fn->msix;
    struct msix_entry e;
    bool send;

    pthread_mutex_lock(&x->lock);
    send = vector_is_pending(x, v) && vector_may_send(x, v);
    e = x->table[v];
    if (send)
        vector_set_pending(x, v, false);
    pthread_mutex_unlock(&x->lock);
    if (send)
        msi_send_from(fn->host->cfg.msi, &x->sources[v], e.addr, e.data);
}

void pci_function_msix_raise(struct pci_function *fn, unsigned v)
{
    struct msix *x = &fn->msix;

    if (v >= x->vectors)
        return;
    pthread_mutex_lock(&x->lock);
    if (x->enabled)
        vector_set_pending(x, v, true);
    pthread_mutex_unlock(&x->lock);
    send_if_pending(fn, v);
}

bool pci_function_msix_enabled(struct pci_function *fn)
{
    bool enabled;

    if (!fn->msix.vectors)
        return false;
    pthread_mutex_lock(&fn->msix.lock);
    enabled = fn->msix.enabled;
    pthread_mutex_unlock(&fn->msix.lock);
    return enabled;
}

bool pci_msix_enabled_locked(const struct pci_function *fn)
{
    return fn->msix.vectors && (fn->config[fn->msix.cap + MSIX_CONTROL + 1] & (MSIX_CONTROL_ENABLE >> 8));
}

void pci_msix_config_changed(struct pci_function *fn)
{
    struct msix *x = &fn->msix;
    unsigned control;

    if (!x->vectors)
        return;
    control = fn->config[x->cap + MSIX_CONTROL + 1] * 256u;
    pthread_mutex_lock(&x->lock);
    x->enabled = control & MSIX_CONTROL_ENABLE;
    x->mask_all = control & MSIX_CONTROL_MASK_ALL;
    x->master = fn->config[PCI_COMMAND] & PCI_COMMAND_MASTER;
    if (!x->enabled)
        memset(x->pending, 0, (x->vectors + 31) / 32 * sizeof(x->pending[0]));
    pthread_mutex_unlock(&x->lock);
    for (unsigned v = 0; v < x->vectors; v++)
        send_if_pending(fn, v);
}

static uint32_t table_read(const struct msix *x, uint64_t off)
{
    const struct msix_entry *e = &x->table[off / MSIX_ENTRY_LEN];

    switch (off % MSIX_ENTRY_LEN) {
    case 0: return (uint32_t)e->addr;
    case 4: return (uint32_t)(e->addr >> 32);
    case 8: return e->data;
    default: return e->control;
    }
}

static void table_write(struct msix *x, uint64_t off, uint32_t value)
{
    struct msix_entry *e = &x->table[off / MSIX_ENTRY_LEN];

    switch (off % MSIX_ENTRY_LEN) {
    case 0: e->addr = (e->addr & 0xffffffff00000000) | (value & ~3u); break;
    case 4: e->addr = (e->addr & 0xffffffff) | (uint64_t)value << 32; break;
    case 8: e->data = value; break;
    default: e->control = value & MSIX_ENTRY_MASKED; break;
    }
}

static uint64_t bar_read(void *ctx, uint64_t off, unsigned width)
{
    struct pci_function *fn = ctx;
    struct msix *x = &fn->msix;
    uint64_t value = 0;

    (void)width;
    pthread_mutex_lock(&x->lock);
    if (off < (uint64_t)x->vectors * MSIX_ENTRY_LEN)
        value = table_read(x, off);
    else if (off >= x->pba_off && off - x->pba_off < (x->vectors + 31) / 32 * sizeof(x->pending[0]))
        value = x->pending[(off - x->pba_off) / 4];
    pthread_mutex_unlock(&x->lock);
    return value;
}

static void bar_write(void *ctx, uint64_t off, unsigned width, uint64_t value)
{
    struct pci_function *fn = ctx;
    struct msix *x = &fn->msix;

    (void)width;
    if (off >= (uint64_t)x->vectors * MSIX_ENTRY_LEN)
        return;
    pthread_mutex_lock(&x->lock);
    table_write(x, off, (uint32_t)value);
    pthread_mutex_unlock(&x->lock);
    send_if_pending(fn, (unsigned)(off / MSIX_ENTRY_LEN));
}

static const struct region_ops msix_ops = {
    .name = "msi-x",
    .min_width = 4,
    .max_width = 4,
    .read = bar_read,
    .write = bar_write,
};

void pci_msix_reset(struct pci_function *fn)
{
    struct msix *x = &fn->msix;

    if (!x->vectors)
        return;
    pthread_mutex_lock(&x->lock);
    x->enabled = false;
    x->mask_all = false;
    x->master = false;
    for (unsigned v = 0; v < x->vectors; v++)
        x->table[v] = (struct msix_entry){ .control = MSIX_ENTRY_MASKED };
    memset(x->pending, 0, (x->vectors + 31) / 32 * sizeof(x->pending[0]));
    pthread_mutex_unlock(&x->lock);
}

static void put32(uint8_t *p, uint32_t v)
{
    for (unsigned i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

static bool capability_add(struct pci_function *fn)
{
    uint8_t body[MSIX_CAP_LEN - 2] = { 0 }, writable[MSIX_CAP_LEN - 2] = { 0 };
    unsigned bir = fn->desc.msix_bar;

    body[MSIX_CONTROL - 2] = (uint8_t)(fn->msix.vectors - 1);
    body[MSIX_CONTROL - 1] = (uint8_t)((fn->msix.vectors - 1) >> 8);
    writable[MSIX_CONTROL - 1] = (MSIX_CONTROL_ENABLE | MSIX_CONTROL_MASK_ALL) >> 8;
    put32(body + MSIX_TABLE - 2, bir);
    put32(body + MSIX_PBA - 2, (uint32_t)fn->msix.pba_off | bir);
    fn->msix.cap = pci_function_add_cap(fn, PCI_CAP_MSIX, body, writable, sizeof(body));
    return fn->msix.cap != 0;
}

bool pci_msix_init(struct pci_function *fn, struct yado_error *err)
{
    struct msix *x = &fn->msix;
    unsigned n = fn->desc.msix_vectors;

    if (!n)
        return true;
    BUG_ON(n > MSIX_VECTORS_MAX || fn->desc.msix_bar >= PCI_BAR_COUNT || fn->bars[fn->desc.msix_bar].len);
    x->table = calloc(n, sizeof(*x->table));
    x->pending = calloc((n + 31) / 32, sizeof(*x->pending));
    x->sources = calloc(n, sizeof(*x->sources));
    if (!x->table || !x->pending || !x->sources)
        return err_set(err, YADO_ERR_HOST, "PCI device %s: out of memory", fn->desc.name);
    x->vectors = n;
    x->pba_off = PBA_OFF_MIN;
    while (x->pba_off < (uint64_t)n * MSIX_ENTRY_LEN)
        x->pba_off *= 2;
    fn->bars[fn->desc.msix_bar].len = max_u64(2 * x->pba_off, BAR_LEN_MIN);
    fn->bars[fn->desc.msix_bar].region = (struct region){ .ops = &msix_ops, .ctx = fn };
    if (!capability_add(fn))
        return err_set(err, YADO_ERR_INTERNAL, "PCI device %s: no room for the MSI-X capability",
                       fn->desc.name);
    pci_msix_reset(fn);
    return true;
}

void pci_msix_free(struct pci_function *fn)
{
    for (unsigned v = 0; v < fn->msix.vectors; v++)
        msi_forget(fn->host->cfg.msi, &fn->msix.sources[v]);
    free(fn->msix.table);
    free(fn->msix.pending);
    free(fn->msix.sources);
}
