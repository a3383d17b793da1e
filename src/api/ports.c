/* Console ports at run time.
 *
 * Theory of operation. The backend tells of each opening and closing of a port by the guest, on any thread. A
 * guest can open and close as fast as it likes, so what waits for the program is bounded: each port has one
 * callback, in here, that is in the queue once at most. When it runs it compares how the port stands with
 * what the program was told last: another state is one event; the same state after changes is two, that there
 * was such a thing. So events of a port always alternate, and the last one is how it stands.
 *
 * Attachments that were given to a running machine are known by kind and path until the run is over; the
 * backend owns them.
 *
 * Locks: `lock` guards all of it; the queue's is taken inside. It is taken with a lock of the backend held
 * (ports_opened), so a backend is never called with it. The order of attachments is kept by the machine's
 * live_lock (machine_backend_enter). */
#include "api/ports.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/config_priv.h"
#include "api/machine_priv.h"
#include "api/queue.h"

struct port {
    struct callback callback; /* while is_queued, the queue's */
    struct ports *all;
    unsigned device, index;
    bool is_queued;
    bool is_open, was_told_open, has_changed;
    uint16_t columns, rows;
    bool is_replaced; /* the attachment is not the configured one */
    enum spec_attachment_kind kind;
    char *path;
};

struct ports {
    struct yado_machine *machine;
    const struct spec *spec;
    pthread_mutex_t lock;
    struct port *ports[SPEC_DEVICE_MAX]; /* as many as the console has */
};

/* ---- events ---- */

static void event_deliver(const struct port *p, bool is_open)
{
    struct yado_machine *m = p->all->machine;
    const struct callback_queue *q = machine_queue(m);
    const enum yado_state state = yado_machine_state(m);
    const struct yado_event event = { .kind = is_open ? YADO_EVENT_CONSOLE_PORT_OPENED
                                                      : YADO_EVENT_CONSOLE_PORT_CLOSED,
                                      .old_state = state,
                                      .state = state,
                                      .reason = yado_machine_stop_reason(m),
                                      .index = p->device,
                                      .port = p->index };

    q->on_event(q->event_ctx, &event);
}

static void port_run(struct callback *callback, bool deliver)
{
    struct port *p = container_of(callback, struct port, callback);
    struct ports *all = p->all;
    bool is_open, is_other, has_changed;

    pthread_mutex_lock(&all->lock);
    is_open = p->is_open;
    is_other = is_open != p->was_told_open;
    has_changed = p->has_changed;
    p->was_told_open = is_open;
    p->has_changed = p->is_queued = false;
    pthread_mutex_unlock(&all->lock);
    if (!deliver || !has_changed)
        return;
    if (!is_other)
        event_deliver(p, !is_open);
    event_deliver(p, is_open);
}

/* Lock held. */
static void port_open_set(struct port *p, bool is_open)
{
    struct callback_queue *q = machine_queue(p->all->machine);

    if (p->is_open == is_open)
        return;
    p->is_open = is_open;
    p->has_changed = true;
    if (p->is_queued || !q->on_event)
        return;
    p->is_queued = true;
    p->callback = (struct callback){ .run = port_run };
    queue_push(q, &p->callback);
}

/* NULL: there is no such port. */
static struct port *port_find(struct ports *all, unsigned device, unsigned index)
{
    const struct spec *s = all->spec;

    return device < s->console_count && index < s->consoles[device].port_count &&
                   s->consoles[device].ports[index].is_present
               ? &all->ports[device][index]
               : NULL;
}

void ports_opened(struct ports *all, unsigned device, unsigned index, bool is_open)
{
    struct port *p = port_find(all, device, index);

    if (!p)
        return;
    pthread_mutex_lock(&all->lock);
    port_open_set(p, is_open);
    pthread_mutex_unlock(&all->lock);
}

/* ---- runs ---- */

static void each(struct ports *all, void (*fn)(struct port *p, void *ctx), void *ctx)
{
    for (unsigned i = 0; i < all->spec->console_count; i++) {
        for (unsigned j = 0; j < all->spec->consoles[i].port_count; j++)
            fn(&all->ports[i][j], ctx);
    }
}

static void size_to_spec(struct port *p, void *ctx)
{
    struct spec *s = ctx;

    s->consoles[p->device].ports[p->index].columns = p->columns;
    s->consoles[p->device].ports[p->index].rows = p->rows;
}

void ports_to_spec(struct ports *all, struct spec *spec)
{
    pthread_mutex_lock(&all->lock);
    each(all, size_to_spec, spec);
    pthread_mutex_unlock(&all->lock);
}

/* live_lock keeps the order of sizes. */
static void size_tell(struct port *p)
{
    struct ports *all = p->all;
    const struct backend_ops *ops;
    struct backend *b = machine_backend_enter(all->machine, &ops);
    uint16_t columns, rows;

    pthread_mutex_lock(&all->lock);
    columns = p->columns;
    rows = p->rows;
    pthread_mutex_unlock(&all->lock);
    if (b && columns && rows)
        ops->port_size(b, p->device, p->index, columns, rows);
    machine_backend_leave(all->machine);
}

static void size_tell_each(struct port *p, void *ctx)
{
    (void)ctx;
    size_tell(p);
}

void ports_run_began(struct ports *all)
{
    each(all, size_tell_each, NULL);
}

static void port_run_ended(struct port *p, void *ctx)
{
    (void)ctx;
    port_open_set(p, false);
    p->is_replaced = false;
    free(p->path);
    p->path = NULL;
}

void ports_run_ended(struct ports *all)
{
    pthread_mutex_lock(&all->lock);
    each(all, port_run_ended, NULL);
    pthread_mutex_unlock(&all->lock);
}

/* ---- making ---- */

struct ports *ports_new(struct yado_machine *machine, const struct spec *spec)
{
    struct ports *all = calloc(1, sizeof(*all));

    if (!all)
        return NULL;
    all->machine = machine;
    all->spec = spec;
    pthread_mutex_init(&all->lock, NULL);
    for (unsigned i = 0; i < spec->console_count; i++) {
        all->ports[i] = calloc(spec->consoles[i].port_count, sizeof(struct port));
        if (!all->ports[i]) {
            ports_free(all);
            return NULL;
        }
        for (unsigned j = 0; j < spec->consoles[i].port_count; j++)
            all->ports[i][j] = (struct port){ .all = all, .device = i, .index = j };
    }
    return all;
}

void ports_free(struct ports *all)
{
    if (!all)
        return;
    for (unsigned i = 0; i < SPEC_DEVICE_MAX; i++) {
        for (unsigned j = 0; all->ports[i] && j < all->spec->consoles[i].port_count; j++)
            free(all->ports[i][j].path);
        free(all->ports[i]);
    }
    pthread_mutex_destroy(&all->lock);
    free(all);
}

/* ---- the program ---- */

void yado_machine_set_console_port_size(struct yado_machine *machine, unsigned device, unsigned port,
                                        uint16_t columns, uint16_t rows)
{
    struct ports *all = machine_ports(machine);
    struct port *p = port_find(all, device, port);

    if (!p)
        return;
    pthread_mutex_lock(&all->lock);
    p->columns = columns;
    p->rows = rows;
    pthread_mutex_unlock(&all->lock);
    size_tell(p);
}

static void attached_note(struct port *p, const struct spec_attachment *to)
{
    char *path = to->path ? strdup(to->path) : NULL; /* without memory it has none to tell */

    pthread_mutex_lock(&p->all->lock);
    free(p->path);
    p->path = path;
    p->kind = to->kind;
    p->is_replaced = true;
    pthread_mutex_unlock(&p->all->lock);
}

static bool attach(struct port *p, const struct spec_attachment *to, struct yado_error *err)
{
    struct yado_machine *m = p->all->machine;
    const struct backend_ops *ops;
    struct backend *b = machine_backend_enter(m, &ops);
    bool ok;

    if (!b)
        ok = err_set(err, YADO_ERR_STATE,
                     "consoles[%u].ports[%u].attachment: can be changed while the machine runs or is paused",
                     p->device, p->index);
    else
        ok = ops->port_attach(b, p->device, p->index, to, err);
    if (ok)
        attached_note(p, to);
    machine_backend_leave(m);
    return ok;
}

bool yado_machine_set_console_attachment(struct yado_machine *machine, unsigned device, unsigned port,
                                         struct yado_serial *serial, struct yado_error *err)
{
    static const struct spec_attachment none = { .read_fd = -1, .write_fd = -1, .hold_fd = -1 };
    const struct spec_attachment *to = serial ? &serial->attachment : &none;
    struct port *p = port_find(machine_ports(machine), device, port);
    bool ok;

    if (!p)
        ok = err_set(err, YADO_ERR_INVALID_CONFIG, "consoles[%u].ports[%u]: there is no such port", device,
                     port);
    else if (!serial_attachment_check(to, err))
        ok = err_prepend(err, "consoles[%u].ports[%u].attachment", device, port);
    else
        ok = attach(p, to, err);
    yado_serial_free(serial);
    return ok;
}

static enum yado_serial_kind kind_of(enum spec_attachment_kind kind)
{
    switch (kind) {
    case SPEC_ATTACH_FDS: return YADO_SERIAL_FDS;
    case SPEC_ATTACH_FILE: return YADO_SERIAL_FILE;
    case SPEC_ATTACH_PTY: return YADO_SERIAL_PTY;
    case SPEC_ATTACH_SOCKET: return YADO_SERIAL_SOCKET;
    case SPEC_ATTACH_NONE: break;
    }
    return YADO_SERIAL_NONE;
}

bool yado_machine_console_port(struct yado_machine *machine, unsigned device, unsigned port,
                               struct yado_console_port_info *info)
{
    struct ports *all = machine_ports(machine);
    struct port *p = port_find(all, device, port);
    const struct spec_port *s;

    if (!p)
        return false;
    s = &all->spec->consoles[device].ports[port];
    pthread_mutex_lock(&all->lock);
    *info = (struct yado_console_port_info){ .name = s->name,
                                             .is_console = s->is_console,
                                             .is_open = p->is_open,
                                             .attachment =
                                                 kind_of(p->is_replaced ? p->kind : s->attachment.kind) };
    pthread_mutex_unlock(&all->lock);
    return true;
}

size_t yado_machine_console_port_path(struct yado_machine *machine, unsigned device, unsigned port,
                                      char *path, size_t size)
{
    struct ports *all = machine_ports(machine);
    struct port *p = port_find(all, device, port);
    const char *text;
    size_t len;

    if (size)
        path[0] = '\0';
    if (!p)
        return 0;
    pthread_mutex_lock(&all->lock);
    text = p->is_replaced ? p->path : all->spec->consoles[device].ports[port].attachment.path;
    len = (size_t)snprintf(path, size, "%s", text ? text : "");
    pthread_mutex_unlock(&all->lock);
    return len;
}
