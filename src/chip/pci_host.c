/* PCI host bridge and bus 0.
 *
 * Theory of operation
 *
 * Configuration space of a function is three byte arrays: present values, bits the guest may change, and
 * power-on values. An access through ECAM or the two ports comes down to config_read / config_write of one
 * function, which move bytes under the host lock and then see what the bytes touched:
 *
 *   BARs and the memory bit of the command register: each BAR of the function is unmapped or mapped anew on
 * the memory bus, as PCI 6.2.5.1 says. A driver sizes a BAR by writing ones; no special case is needed, as
 * the bits below the size are not writable. What the guest places where it may not be (over another device)
 * stays unmapped and is logged: the guest's own loss.
 *
 *   the interrupt disable bit and MSI-X enable: whether the function drives its INTx line. A line is the OR
 * of all functions on it, by a count.
 *
 *   a capability of the function: its callback, after the lock is released, as it may call back into here.
 *
 * Functions sit at devices 1 and up of bus 0, function 0 only; the bridge is device 0. There are no bridges
 * to other buses, no I/O BARs and no hot plug. Functions are conventional PCI devices with no PCI Express
 * capability, so extended configuration space (offsets 256 and up) reads as all ones. */
#include "chip/pci_priv.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Identity of the bridge: an id pair that kernels attach no chipset quirks to. */
#define BRIDGE_VENDOR 0x1b36
#define BRIDGE_DEVICE 0x0008
#define BRIDGE_CLASS 0x060000

#define ADDRESS_ENABLE 0x80000000u
#define RESET_CONTROL_OFF 1 /* 0xcf9 */
#define DATA_OFF 4          /* 0xcfc */

#define BAR_ALIGN 4096 /* each BAR gets pages of its own */

static uint32_t get_bytes(const uint8_t *p, unsigned n)
{
    uint32_t v = 0;

    for (unsigned i = 0; i < n; i++)
        v |= (uint32_t)p[i] << (8 * i);
    return v;
}

static void put_bytes(uint8_t *p, unsigned n, uint32_t v)
{
    for (unsigned i = 0; i < n; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

static uint32_t ones(unsigned width)
{
    return width >= 4 ? UINT32_MAX : (1u << (8 * width)) - 1;
}

/* ---- INTx ---- */

static void update_intx_locked(struct pci_function *fn)
{
    struct pci_host *host = fn->host;
    unsigned n = fn->device % 4; /* pin INTA */
    bool off = get_bytes(fn->config + PCI_COMMAND, 2) & PCI_COMMAND_INTX_OFF;
    bool drive = fn->intx && !off && !pci_msix_enabled_locked(fn);

    if (fn->intx)
        fn->config[PCI_STATUS] |= PCI_STATUS_INTX;
    else
        fn->config[PCI_STATUS] &= (uint8_t)~PCI_STATUS_INTX;
    if (drive == fn->intx_drive)
        return;
    fn->intx_drive = drive;
    host->intx_count[n] += drive ? 1 : -1u;
    if (host->intx_count[n] == (drive ? 1 : 0))
        line_set(host->cfg.intx[n], drive);
}

void pci_function_intx(struct pci_function *fn, bool level)
{
    pthread_mutex_lock(&fn->host->lock);
    fn->intx = level;
    update_intx_locked(fn);
    pthread_mutex_unlock(&fn->host->lock);
}

/* ---- BARs ---- */

static uint64_t bar_address(const struct pci_function *fn, unsigned i)
{
    uint64_t addr = get_bytes(fn->config + PCI_BAR0 + 4 * i, 4) & ~0xfu;

    if (fn->bars[i].is_64bit)
        addr |= (uint64_t)get_bytes(fn->config + PCI_BAR0 + 4 * (i + 1), 4) << 32;
    return addr;
}

static void place_bar_locked(struct pci_function *fn, unsigned i)
{
    struct pci_bar_state *bar = &fn->bars[i];
    bool decode = get_bytes(fn->config + PCI_COMMAND, 2) & PCI_COMMAND_MEMORY;
    uint64_t addr = bar_address(fn, i);
    struct yado_error why = YADO_ERROR_INIT;

    if (bar->region.mapped && decode && bar->region.base == addr)
        return;
    region_unmap(fn->host->cfg.mmio, &bar->region);
    if (!decode || !addr)
        return;
    if (!region_map(fn->host->cfg.mmio, &bar->region, addr, bar->len, &why))
        log_line(fn->host->cfg.log, LOG_GUEST_FAULT, "pci %s: BAR %u stays unmapped: %s", fn->desc.name, i,
                 why.message);
    else
        log_line(fn->host->cfg.log, LOG_PCI, "pci %s: BAR %u at %#" PRIx64, fn->desc.name, i, addr);
}

static void place_bars_locked(struct pci_function *fn)
{
    for (unsigned i = 0; i < PCI_BAR_COUNT; i++)
        if (fn->bars[i].len)
            place_bar_locked(fn, i);
}

static void init_bar_config(struct pci_function *fn, unsigned i)
{
    struct pci_bar_state *bar = &fn->bars[i];
    uint64_t mask = ~(bar->len - 1);
    unsigned off = PCI_BAR0 + 4 * i;

    BUG_ON(bar->len < 16 || (bar->len & (bar->len - 1)) || (!bar->is_64bit && bar->len > GIB(2)));
    put_bytes(fn->writable + off, 4, (uint32_t)mask);
    put_bytes(fn->power_on + off, 4, bar->is_64bit ? PCI_BAR_64BIT : 0);
    if (bar->is_64bit) {
        BUG_ON(i + 1 >= PCI_BAR_COUNT || fn->bars[i + 1].len);
        put_bytes(fn->writable + off + 4, 4, (uint32_t)(mask >> 32));
    }
}

/* ---- configuration space ---- */

static bool in_own_caps(const struct pci_function *fn, unsigned off)
{
    bool in_msix = fn->msix.vectors && off >= fn->msix.cap && off < fn->msix.cap + MSIX_CAP_LEN;

    return off >= PCI_FIRST_CAP && off < fn->caps_end && !in_msix;
}

static bool touches(unsigned off, unsigned width, unsigned start, unsigned len)
{
    return off < start + len && start < off + width;
}

/* off is a multiple of width and below PCI_CONFIG_LEN, as the bus splits accesses. */
static uint32_t config_read(struct pci_function *fn, unsigned off, unsigned width)
{
    if (fn->desc.ops && fn->desc.ops->config_reading && in_own_caps(fn, off))
        fn->desc.ops->config_reading(fn->desc.ctx, off, width);
    return pci_function_config_read(fn, off, width);
}

static void config_write(struct pci_function *fn, unsigned off, unsigned width, uint32_t value)
{
    pthread_mutex_lock(&fn->host->lock);
    for (unsigned i = off; i < off + width; i++, value >>= 8)
        fn->config[i] = (uint8_t)((fn->config[i] & ~fn->writable[i]) | (value & fn->writable[i]));
    if (touches(off, width, PCI_COMMAND, 2) || touches(off, width, PCI_BAR0, 4 * PCI_BAR_COUNT))
        place_bars_locked(fn);
    if (touches(off, width, PCI_COMMAND, 2) || touches(off, width, fn->msix.cap + MSIX_CONTROL, 2)) {
        pci_msix_config_changed(fn);
        update_intx_locked(fn);
    }
    pthread_mutex_unlock(&fn->host->lock);
    if (fn->desc.ops && fn->desc.ops->config_written && in_own_caps(fn, off))
        fn->desc.ops->config_written(fn->desc.ctx, off, width);
}

uint32_t pci_function_config_read(struct pci_function *fn, unsigned off, unsigned width)
{
    uint32_t value;

    BUG_ON(width > 4 || off > PCI_CONFIG_LEN - width);
    pthread_mutex_lock(&fn->host->lock);
    value = get_bytes(fn->config + off, width);
    pthread_mutex_unlock(&fn->host->lock);
    return value;
}

void pci_function_config_write(struct pci_function *fn, unsigned off, unsigned width, uint32_t value)
{
    BUG_ON(width > 4 || off > PCI_CONFIG_LEN - width);
    pthread_mutex_lock(&fn->host->lock);
    put_bytes(fn->config + off, width, value);
    pthread_mutex_unlock(&fn->host->lock);
}

bool pci_function_bus_master(struct pci_function *fn)
{
    return pci_function_config_read(fn, PCI_COMMAND, 2) & PCI_COMMAND_MASTER;
}

unsigned pci_function_add_cap(struct pci_function *fn, uint8_t id, const uint8_t *body,
                              const uint8_t *writable, unsigned len)
{
    unsigned off = (unsigned)align_up(fn->caps_end, 4);

    if (len > PCI_CONFIG_LEN || off + 2 + len > PCI_CONFIG_LEN)
        return 0;
    fn->power_on[off] = id;
    memcpy(fn->power_on + off + 2, body, len);
    if (writable)
        memcpy(fn->writable + off + 2, writable, len);
    fn->power_on[fn->last_cap ? fn->last_cap + 1 : PCI_CAP_POINTER] = (uint8_t)off;
    fn->power_on[PCI_STATUS] |= PCI_STATUS_CAPS;
    fn->last_cap = off;
    fn->caps_end = off + 2 + len;
    memcpy(fn->config, fn->power_on, PCI_CONFIG_LEN);
    return off;
}

unsigned pci_function_add_vendor_cap(struct pci_function *fn, const void *body, unsigned len,
                                     const void *writable)
{
    uint8_t bytes[PCI_CONFIG_LEN], mask[PCI_CONFIG_LEN] = { 0 };
    unsigned off;

    if (len > PCI_CONFIG_LEN - 3)
        return 0;
    bytes[0] = (uint8_t)(len + 3);
    memcpy(bytes + 1, body, len);
    if (writable)
        memcpy(mask + 1, writable, len);
    pthread_mutex_lock(&fn->host->lock);
    off = pci_function_add_cap(fn, PCI_CAP_VENDOR, bytes, mask, len + 1);
    pthread_mutex_unlock(&fn->host->lock);
    return off;
}

/* ---- access to a BAR from the function's own side ---- */

/* The width to use at off: at most what the region takes. 0 if the access is not legal there. */
static unsigned bar_step(const struct pci_bar_state *bar, uint64_t off, unsigned width)
{
    if (!bar->len || off >= bar->len || width > bar->len - off || (off & (width - 1)) || !bar->region.ops ||
        width < bar->region.ops->min_width)
        return 0;
    return (unsigned)min_u64(width, bar->region.ops->max_width);
}

uint64_t pci_function_bar_read(struct pci_function *fn, unsigned bar_index, uint64_t off, unsigned width)
{
    struct pci_bar_state *bar = &fn->bars[bar_index];
    unsigned step = bar_step(bar, off, width);
    uint64_t value = 0;

    if (!step)
        return UINT64_MAX;
    for (unsigned done = 0; done < width; done += step)
        value |= bar->region.ops->read(bar->region.ctx, off + done, step) << (8 * done);
    return value;
}

void pci_function_bar_write(struct pci_function *fn, unsigned bar_index, uint64_t off, unsigned width,
                            uint64_t value)
{
    struct pci_bar_state *bar = &fn->bars[bar_index];
    unsigned step = bar_step(bar, off, width);

    if (!step)
        return;
    for (unsigned done = 0; done < width; done += step) {
        uint64_t part = value >> (8 * done);

        if (step < 8)
            part &= ((uint64_t)1 << (8 * step)) - 1;
        bar->region.ops->write(bar->region.ctx, off + done, step, part);
    }
}

void pci_function_doorbells(struct pci_function *fn, unsigned bar, struct doorbell *bells, unsigned count)
{
    region_set_doorbells(fn->host->cfg.mmio, &fn->bars[bar].region, bells, count);
}

/* ---- making and unmaking ---- */

static void init_header(struct pci_function *fn)
{
    const struct pci_ident *id = &fn->desc.ident;
    uint8_t *c = fn->power_on;
    unsigned command = PCI_COMMAND_MASTER | PCI_COMMAND_INTX_OFF;

    put_bytes(c + PCI_VENDOR, 2, id->vendor);
    put_bytes(c + PCI_DEVICE, 2, id->device);
    c[PCI_REVISION] = id->revision;
    put_bytes(c + PCI_CLASS, 3, id->class_code);
    put_bytes(c + PCI_SUBSYSTEM_VENDOR, 2, id->subsystem_vendor);
    put_bytes(c + PCI_SUBSYSTEM, 2, id->subsystem);
    for (unsigned i = 0; i < PCI_BAR_COUNT; i++) {
        if (fn->bars[i].len) {
            init_bar_config(fn, i);
            command |= PCI_COMMAND_MEMORY;
        }
    }
    put_bytes(fn->writable + PCI_COMMAND, 2, command);
    fn->writable[PCI_CACHE_LINE] = 0xff;
    if (fn->device) {
        c[PCI_INTERRUPT_PIN] = 1; /* INTA */
        fn->writable[PCI_INTERRUPT_LINE] = 0xff;
    }
    memcpy(fn->config, fn->power_on, PCI_CONFIG_LEN);
}

static void function_free(struct pci_function *fn)
{
    if (!fn)
        return;
    for (unsigned i = 0; i < PCI_BAR_COUNT; i++)
        region_unmap(fn->host->cfg.mmio, &fn->bars[i].region);
    pci_msix_free(fn);
    pthread_mutex_destroy(&fn->msix.lock);
    free(fn);
}

static struct pci_function *function_new(struct pci_host *host, unsigned device,
                                         const struct pci_function_desc *desc, struct yado_error *err)
{
    struct pci_function *fn = calloc(1, sizeof(*fn));

    if (!fn) {
        err_set(err, YADO_ERR_HOST, "PCI device %s: out of memory", desc->name);
        return NULL;
    }
    fn->host = host;
    fn->device = device;
    fn->desc = *desc;
    fn->caps_end = PCI_FIRST_CAP;
    pthread_mutex_init(&fn->msix.lock, NULL);
    for (unsigned i = 0; i < PCI_BAR_COUNT; i++) {
        fn->bars[i].len = desc->bars[i].len;
        fn->bars[i].is_64bit = desc->bars[i].is_64bit;
        fn->bars[i].region = (struct region){ .ops = desc->bars[i].ops, .ctx = desc->bars[i].ctx };
    }
    if (!pci_msix_init(fn, err)) {
        function_free(fn);
        return NULL;
    }
    init_header(fn);
    return fn;
}

struct pci_function *pci_host_add(struct pci_host *host, const struct pci_function_desc *desc,
                                  struct yado_error *err)
{
    unsigned device = 0;

    while (device < PCI_HOST_DEVICES && host->functions[device])
        device++;
    if (device == PCI_HOST_DEVICES) {
        err_set(err, YADO_ERR_INVALID_CONFIG, "%s: too many devices: the PCI bus has room for %u", desc->name,
                PCI_HOST_DEVICES - 1);
        return NULL;
    }
    host->functions[device] = function_new(host, device, desc, err);
    return host->functions[device];
}

struct pci_host *pci_host_new(const struct pci_host_config *cfg, struct yado_error *err)
{
    static const struct pci_function_desc bridge = {
        .name = "host-bridge",
        .ident = { .vendor = BRIDGE_VENDOR, .device = BRIDGE_DEVICE, .class_code = BRIDGE_CLASS },
    };
    struct pci_host *host = calloc(1, sizeof(*host));

    if (!host) {
        err_set(err, YADO_ERR_HOST, "PCI host bridge: out of memory");
        return NULL;
    }
    host->cfg = *cfg;
    pthread_mutex_init(&host->lock, NULL);
    if (!pci_host_add(host, &bridge, err)) {
        pci_host_free(host);
        return NULL;
    }
    return host;
}

void pci_host_free(struct pci_host *host)
{
    if (!host)
        return;
    for (unsigned d = 0; d < PCI_HOST_DEVICES; d++)
        function_free(host->functions[d]);
    pthread_mutex_destroy(&host->lock);
    free(host);
}

void pci_host_reset(struct pci_host *host)
{
    pthread_mutex_lock(&host->lock);
    host->address = 0;
    for (unsigned d = 0; d < PCI_HOST_DEVICES; d++) {
        struct pci_function *fn = host->functions[d];

        if (!fn)
            continue;
        memcpy(fn->config, fn->power_on, PCI_CONFIG_LEN);
        fn->intx = false;
        place_bars_locked(fn);
        pci_msix_reset(fn);
        update_intx_locked(fn);
    }
    pthread_mutex_unlock(&host->lock);
}

void pci_host_each(struct pci_host *host, void (*fn)(void *ctx, unsigned device, const char *name), void *ctx)
{
    for (unsigned d = 0; d < PCI_HOST_DEVICES; d++)
        if (host->functions[d])
            fn(ctx, d, host->functions[d]->desc.name);
}

/* ---- what firmware does ---- */

struct window {
    uint64_t next, end;
};

static bool window_take(struct window *w, uint64_t len, uint64_t *addr)
{
    uint64_t at = align_up(w->next, max_u64(len, BAR_ALIGN));

    if (at < w->next || at > w->end || len > w->end - at)
        return false;
    *addr = at;
    w->next = at + len;
    return true;
}

static bool assign_function(struct pci_function *fn, struct window *low, struct window *high,
                            struct yado_error *err)
{
    bool any = false;

    for (unsigned i = 0; i < PCI_BAR_COUNT; i++) {
        struct pci_bar_state *bar = &fn->bars[i];
        bool use_high = bar->is_64bit && high->end > high->next;
        uint64_t addr = 0;

        if (!bar->len)
            continue;
        if (!window_take(use_high ? high : low, bar->len, &addr))
            return err_set(err, YADO_ERR_INVALID_CONFIG,
                           "PCI device %s: BAR %u of %" PRIu64
                           " bytes does not fit into the device memory window",
                           fn->desc.name, i, bar->len);
        put_bytes(fn->config + PCI_BAR0 + 4 * i, 4, (uint32_t)addr | (bar->is_64bit ? PCI_BAR_64BIT : 0));
        if (bar->is_64bit)
            put_bytes(fn->config + PCI_BAR0 + 4 * (i + 1), 4, (uint32_t)(addr >> 32));
        any = true;
    }
    if (any)
        fn->config[PCI_COMMAND] |= PCI_COMMAND_MEMORY;
    place_bars_locked(fn);
    return true;
}

bool pci_host_assign_bars(struct pci_host *host, uint64_t mmio32_base, uint64_t mmio32_len,
                          uint64_t mmio64_base, uint64_t mmio64_len, struct yado_error *err)
{
    struct window low = { mmio32_base, mmio32_base + mmio32_len };
    struct window high = { mmio64_base, mmio64_base + mmio64_len };
    bool ok = true;

    pthread_mutex_lock(&host->lock);
    for (unsigned d = 0; d < PCI_HOST_DEVICES && ok; d++)
        if (host->functions[d])
            ok = assign_function(host->functions[d], &low, &high, err);
    pthread_mutex_unlock(&host->lock);
    return ok;
}

/* ---- the two ways in ---- */

/* The function at `devfn` (device and function number), if reg is in the space it has. */
static struct pci_function *find_function(struct pci_host *host, unsigned bus, unsigned devfn, unsigned reg)
{
    if (bus || devfn & 7 || reg >= PCI_CONFIG_LEN)
        return NULL;
    return host->functions[devfn >> 3];
}

static uint64_t ecam_read(void *ctx, uint64_t off, unsigned width)
{
    struct pci_function *fn =
        find_function(ctx, (unsigned)(off >> 20), (unsigned)(off >> 12) & 0xff, (unsigned)off & 0xfff);

    return fn ? config_read(fn, (unsigned)off & 0xfff, width) : ones(width);
}

static void ecam_write(void *ctx, uint64_t off, unsigned width, uint64_t value)
{
    struct pci_function *fn =
        find_function(ctx, (unsigned)(off >> 20), (unsigned)(off >> 12) & 0xff, (unsigned)off & 0xfff);

    if (fn)
        config_write(fn, (unsigned)off & 0xfff, width, (uint32_t)value);
}

const struct region_ops pci_host_ecam_ops = {
    .name = "pci-ecam",
    .min_width = 1,
    .max_width = 4,
    .read = ecam_read,
    .write = ecam_write,
};

/* What the data port at `off` of the region stands for, by the address latch. */
static struct pci_function *latched_function(struct pci_host *host, uint64_t off, unsigned *reg)
{
    uint32_t address;

    pthread_mutex_lock(&host->lock);
    address = host->address;
    pthread_mutex_unlock(&host->lock);
    if (!(address & ADDRESS_ENABLE))
        return NULL;
    *reg = (address & 0xfc) + (unsigned)(off - DATA_OFF);
    return find_function(host, (address >> 16) & 0xff, (address >> 8) & 0xff, *reg);
}

static uint64_t port_read(void *ctx, uint64_t off, unsigned width)
{
    struct pci_host *host = ctx;
    struct pci_function *fn;
    uint64_t value = ones(width);
    unsigned reg;

    if (off >= DATA_OFF) {
        fn = latched_function(host, off, &reg);
        return fn ? config_read(fn, reg, width) : value;
    }
    if (off == 0 && width == 4) {
        pthread_mutex_lock(&host->lock);
        value = host->address;
        pthread_mutex_unlock(&host->lock);
    } else if (off == RESET_CONTROL_OFF && width == 1 && host->cfg.reset_ops) {
        value = host->cfg.reset_ops->read(host->cfg.reset_ctx, 0, 1);
    }
    return value;
}

static void port_write(void *ctx, uint64_t off, unsigned width, uint64_t value)
{
    struct pci_host *host = ctx;
    struct pci_function *fn;
    unsigned reg;

    if (off >= DATA_OFF) {
        fn = latched_function(host, off, &reg);
        if (fn)
            config_write(fn, reg, width, (uint32_t)value);
    } else if (off == 0 && width == 4) {
        pthread_mutex_lock(&host->lock);
        host->address = (uint32_t)value;
        pthread_mutex_unlock(&host->lock);
    } else if (off == RESET_CONTROL_OFF && width == 1 && host->cfg.reset_ops) {
        host->cfg.reset_ops->write(host->cfg.reset_ctx, 0, 1, value);
    }
}

const struct region_ops pci_host_port_ops = {
    .name = "pci-ports",
    .min_width = 1,
    .max_width = 4,
    .read = port_read,
    .write = port_write,
};
