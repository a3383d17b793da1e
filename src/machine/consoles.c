/* See consoles.h. Each port has a pump; its thread and the device's callbacks meet in the functions below,
 * which hold no lock of their own: order is the device's lock, then the pump's. */
#include "machine/consoles.h"

#include <stdio.h>
#include <stdlib.h>

#include "host/loop.h"
#include "virtio/console.h"
#include "virtio/transport_pci.h"

_Static_assert(BOARD_PORTS_MAX == VCONSOLE_PORTS_MAX, "one limit, two names");

struct device;

struct port {
    struct device *device;
    unsigned id;
    struct pump *pump; /* NULL: an absent port */
};

struct device {
    struct consoles *all;
    unsigned index; /* among those of its kind */
    bool multiport;
    struct vconsole *console;
    struct virtio_pci *pci;
    struct port ports[BOARD_PORTS_MAX];
    unsigned port_count;
};

struct consoles {
    struct consoles_config cfg;
    unsigned single_count, count;
    struct device *devices[BOARD_DEVICE_MAX]; /* those with one port first */
};

/* ---- from the device; its lock is held ---- */

static size_t on_sink(void *ctx, unsigned port, const uint8_t *bytes, size_t len)
{
    struct device *d = ctx;

    return pump_write(d->ports[port].pump, bytes, len);
}

static void on_room(void *ctx, unsigned port)
{
    struct device *d = ctx;

    pump_room(d->ports[port].pump);
}

static void on_guest_open(void *ctx, unsigned port, bool is_open)
{
    struct device *d = ctx;
    const struct consoles_config *cfg = &d->all->cfg;

    pump_guest_open(d->ports[port].pump, is_open);
    if (d->multiport && cfg->port_open)
        cfg->port_open(cfg->ctx, d->index, port, is_open);
}

/* ---- from the pump's thread ---- */

static size_t on_receive(void *ctx, const uint8_t *bytes, size_t len)
{
    struct port *p = ctx;

    return vconsole_receive(p->device->console, p->id, bytes, len);
}

static void on_ready(void *ctx)
{
    struct port *p = ctx;

    vconsole_sink_ready(p->device->console, p->id);
}

static void on_connected(void *ctx, bool is_connected)
{
    struct port *p = ctx;

    vconsole_host_open(p->device->console, p->id, is_connected);
}

static void on_resized(void *ctx, uint16_t columns, uint16_t rows)
{
    struct port *p = ctx;

    vconsole_resize(p->device->console, p->id, columns, rows);
}

/* ---- making ---- */

static bool port_make(struct device *d, const struct board_port *from, struct vconsole_port_config *to,
                      struct yado_error *err)
{
    struct port *p = &d->ports[d->port_count];
    struct pump_config pump = { .name = "yado-console",
                                .ends = from->ends,
                                .guest_closed = true,
                                .receive = on_receive,
                                .ready = on_ready,
                                .connected = on_connected,
                                .resized = on_resized,
                                .ctx = p };

    *p = (struct port){ .device = d, .id = d->port_count++ };
    *to = (struct vconsole_port_config){ .is_present = from->is_present };
    if (!from->is_present)
        return true;
    p->pump = pump_new(&pump, err);
    if (!p->pump)
        return false;
    to->name = from->name;
    to->is_console = from->is_console;
    to->columns = from->columns;
    to->rows = from->rows;
    to->is_host_open = pump_is_connected(p->pump);
    return true;
}

static bool device_make(struct device *d, const struct board_port *ports, unsigned port_count,
                        struct yado_error *err)
{
    const struct consoles_config *all = &d->all->cfg;
    struct vconsole_port_config to[BOARD_PORTS_MAX];
    char label[16];
    struct vconsole_config cfg = { .multiport = d->multiport,
                                   .ports = to,
                                   .port_count = port_count,
                                   .sink = on_sink,
                                   .room = on_room,
                                   .guest_open = on_guest_open,
                                   .ctx = d,
                                   .label = label,
                                   .log = all->log,
                                   .loop = all->loop };

    snprintf(label, sizeof(label), "%s%u", d->multiport ? "ports " : "", d->index);
    for (unsigned i = 0; i < port_count; i++) {
        if (!port_make(d, &ports[i], &to[i], err))
            return false;
    }
    d->console = vconsole_new(&cfg, err);
    if (d->console)
        d->pci = virtio_pci_attach(all->pci, vconsole_vdev(d->console), all->mem, err);
    return d->pci != NULL;
}

static bool device_add(struct consoles *c, bool multiport, const struct board_port *ports,
                       unsigned port_count, struct yado_error *err)
{
    struct device *d = calloc(1, sizeof(*d));

    if (!d)
        return err_set(err, YADO_ERR_MEMORY, "out of memory");
    d->all = c;
    d->multiport = multiport;
    d->index = multiport ? c->count - c->single_count : c->single_count++;
    c->devices[c->count++] = d;
    return device_make(d, ports, port_count, err);
}

static bool devices_add(struct consoles *c, struct yado_error *err)
{
    const struct board_devices *from = c->cfg.devices;

    for (unsigned i = 0; i < from->serial_count; i++) {
        const struct board_serial *s = &from->serials[i];
        const struct board_port port = {
            .is_present = true, .is_console = true, .ends = s->ends, .columns = s->columns, .rows = s->rows
        };

        if (s->kind == BOARD_VIRTIO_CONSOLE && !device_add(c, false, &port, 1, err))
            return false;
    }
    for (unsigned i = 0; i < from->console_count; i++) {
        if (!device_add(c, true, from->consoles[i].ports, from->consoles[i].port_count, err))
            return err_prepend(err, "consoles[%u]", i);
    }
    return true;
}

struct consoles *consoles_new(const struct consoles_config *cfg, struct yado_error *err)
{
    struct consoles *c = calloc(1, sizeof(*c));

    if (!c) {
        err_set(err, YADO_ERR_HOST, "out of memory");
        return NULL;
    }
    c->cfg = *cfg;
    if (!devices_add(c, err)) {
        consoles_free(c);
        return NULL;
    }
    c->cfg.devices = NULL; /* the caller's */
    return c;
}

/* ---- life ---- */

bool consoles_start(struct consoles *c, struct yado_error *err)
{
    for (unsigned i = 0; i < c->count; i++) {
        struct device *d = c->devices[i];

        for (unsigned j = 0; j < d->port_count; j++) {
            if (d->ports[j].pump && !pump_start(d->ports[j].pump, err))
                return false;
        }
    }
    return true;
}

static void pumps_each(struct consoles *c, void (*fn)(struct pump *p))
{
    for (unsigned i = 0; i < c->count; i++) {
        struct device *d = c->devices[i];

        for (unsigned j = 0; j < d->port_count; j++) {
            if (d->ports[j].pump)
                fn(d->ports[j].pump);
        }
    }
}

void consoles_stop(struct consoles *c)
{
    pumps_each(c, pump_ask_stop); /* so that they take their time at once */
    pumps_each(c, pump_stop);
}

void consoles_reset(struct consoles *c)
{
    for (unsigned i = 0; i < c->count; i++)
        virtio_pci_reset(c->devices[i]->pci);
}

void consoles_free(struct consoles *c)
{
    if (!c)
        return;
    consoles_stop(c);
    for (unsigned i = 0; i < c->count; i++) {
        virtio_pci_free(c->devices[i]->pci);
        vconsole_free(c->devices[i]->console);
    }
    pumps_each(c, pump_free);
    for (unsigned i = 0; i < c->count; i++)
        free(c->devices[i]);
    free(c);
}

/* ---- while it runs ---- */

static struct port *port_find(struct consoles *c, unsigned device, unsigned port)
{
    struct device *d = device < c->count - c->single_count ? c->devices[c->single_count + device] : NULL;

    return d && port < d->port_count && d->ports[port].pump ? &d->ports[port] : NULL;
}

void consoles_size(struct consoles *c, unsigned index, uint16_t columns, uint16_t rows)
{
    if (index < c->single_count)
        vconsole_resize(c->devices[index]->console, 0, columns, rows);
}

void consoles_port_size(struct consoles *c, unsigned device, unsigned port, uint16_t columns, uint16_t rows)
{
    struct port *p = port_find(c, device, port);

    if (p)
        vconsole_resize(p->device->console, port, columns, rows);
}

bool consoles_attach(struct consoles *c, unsigned device, unsigned port, const struct pump_ends *ends,
                     struct yado_error *err)
{
    struct port *p = port_find(c, device, port);

    if (!p)
        return err_set(err, YADO_ERR_INVALID_CONFIG, "consoles[%u].ports[%u]: there is no such port", device,
                       port);
    return pump_attach(p->pump, ends, err);
}
