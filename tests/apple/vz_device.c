/* Devices of a running machine: sockets, balloon, networks, shares, consoles. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "rt.h"

id init_result(struct call *c);

#define VZ "VZErrorDomain"

/* ---- making them ---- */

static const struct {
    const char *config, *config_class, *key, *cls;
} kinds[] = {
    { "SocketDevices", "VZVirtioSocketDeviceConfiguration", "SocketDevices", "VZVirtioSocketDevice" },
    { "MemoryBalloonDevices", "VZVirtioTraditionalMemoryBalloonDeviceConfiguration", "MemoryBalloonDevices",
      "VZVirtioTraditionalMemoryBalloonDevice" },
    { "NetworkDevices", "VZVirtioNetworkDeviceConfiguration", "NetworkDevices", "VZNetworkDevice" },
    { "DirectorySharingDevices", "VZVirtioFileSystemDeviceConfiguration", "DirectorySharingDevices",
      "VZVirtioFileSystemDevice" },
    { "ConsoleDevices", "VZVirtioConsoleDeviceConfiguration", "ConsoleDevices", "VZVirtioConsoleDevice" },
};

/* The configured ports of a console as those of the running one. */
static void console_ports_make(id device, id vm)
{
    id from = property_object(device, "Ports"), ports = object_make_named("VZVirtioConsolePortArray", NULL);
    const int64_t queue = (int64_t)(uintptr_t)property_object(vm, "Queue");

    property_set_number(ports, VM_QUEUE, queue);
    property_set_number(ports, "MaximumPortCount", property_number(from, "MaximumPortCount"));
    for (int64_t i = 0; i < property_number(from, "count"); i++) {
        char key[24];
        id config, port;

        snprintf(key, sizeof(key), "%lld", (long long)i);
        config = property_object(from, key);
        if (!config)
            continue;
        port = object_make_named("VZVirtioConsolePort", NULL);
        properties_copy(port, config);
        property_set_number(port, VM_QUEUE, queue);
        property_set_object(ports, key, port);
        object_release(port, NULL);
    }
    property_set_object(device, "Ports", ports);
    object_release(ports, NULL);
}

static id device_make(id vm, id config, id from, const char *cls)
{
    id d = object_make_named(cls, NULL);

    properties_copy(d, from);
    property_set_number(d, VM_QUEUE, (int64_t)(uintptr_t)property_object(vm, "Queue"));
    property_set_number(d, "memory", property_number(config, "MemorySize"));
    property_set_number(d, "TargetVirtualMachineMemorySize", property_number(config, "MemorySize"));
    if (!strcmp(cls, "VZVirtioConsoleDevice"))
        console_ports_make(d, vm);
    return d;
}

void machine_devices_make(id vm, id config)
{
    for (size_t k = 0; k < array_size(kinds); k++) {
        id from = property_object(config, kinds[k].config), to[32], array;
        unsigned long n = array_count(from);

        if (!objc_lookUpClass(kinds[k].cls))
            continue;
        for (unsigned long i = 0; i < n; i++)
            to[i] = device_make(vm, config, array_at(from, i), kinds[k].cls);
        array = array_new(to, n);
        property_set_object(vm, kinds[k].key, array);
        object_release(array, NULL);
        for (unsigned long i = 0; i < n; i++)
            object_release(to[i], NULL);
    }
}

id machine_device(id vm, const char *key, unsigned long i)
{
    id array = property_object(vm, key);

    if (i >= array_count(array))
        standin_fail(NULL, "the machine has no %s[%lu]", key, i);
    return array_at(array, i);
}

/* ---- balloon ---- */

static void target_set(struct call *c)
{
    uint64_t memory = (uint64_t)property_number(c->self, "memory"), v = c->args[0] / MIB(1) * MIB(1);

    if (v < standin_world.memory_min)
        v = standin_world.memory_min;
    if (v > memory)
        v = memory;
    property_set_number(c->self, "TargetVirtualMachineMemorySize", (int64_t)v);
}

uint64_t standin_balloon_target(unsigned machine)
{
    return (uint64_t)property_number(machine_device(machine_at(machine), "MemoryBalloonDevices", 0),
                                     "TargetVirtualMachineMemorySize");
}

/* ---- shares ---- */

static void share_set(struct call *c)
{
    if ((arg_id(c, 0) && is_kind(arg_id(c, 0), "VZLinuxRosettaDirectoryShare")) ||
        is_kind(property_object(c->self, "Share"), "VZLinuxRosettaDirectoryShare"))
        standin_fail(c->caller, "-[VZVirtioFileSystemDevice setShare:]: Rosetta raises an exception");
    property_set_object(c->self, "Share", arg_id(c, 0));
}

/* ---- sockets ---- */

static void port_key(char key[32], const char *what, uint64_t port)
{
    snprintf(key, 32, "%s%u", what, (uint32_t)port);
}

static void listener_set(struct call *c)
{
    char key[32];

    port_key(key, "listener", c->args[1]);
    property_set_object(c->self, key, arg_id(c, 0));
}

static void listener_remove(struct call *c)
{
    char key[32];

    port_key(key, "listener", c->args[0]);
    property_set_object(c->self, key, NULL);
}

static void delegate_set(struct call *c)
{
    property_set_number(c->self, "delegate", (int64_t)c->args[0]);
}

static void connection_close(id conn)
{
    int fd = (int)property_number(conn, "FileDescriptor");

    if (fd >= 0 && close(fd))
        standin_fail(NULL, "the descriptor of a VZVirtioSocketConnection was closed by somebody else");
    property_set_number(conn, "FileDescriptor", -1);
}

static void connection_died(id conn, void *ctx)
{
    (void)ctx;
    connection_close(conn);
}

static void connection_closed(struct call *c)
{
    connection_close(c->self);
}

static id connection_new(uint64_t source, uint64_t destination, int *guest_end)
{
    id conn = object_make_named("VZVirtioSocketConnection", NULL);
    int fds[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds))
        standin_fail(NULL, "no socket pair");
    property_set_number(conn, "FileDescriptor", fds[0]);
    property_set_number(conn, "SourcePort", (int64_t)source);
    property_set_number(conn, "DestinationPort", (int64_t)destination);
    object_on_death(conn, connection_died, NULL);
    *guest_end = fds[1];
    return conn;
}

/* A guest's end that no program of the guest has taken. */
static void guest_end_close(id device, void *ctx)
{
    char key[32];
    int fd;

    port_key(key, "guest end", (uintptr_t)ctx);
    fd = (int)property_number(device, key);
    property_set_number(device, key, -1);
    if (fd >= 0)
        close(fd);
}

struct connect {
    struct connect *next; /* of those that are held */
    id device, queue;     /* retained */
    uint64_t port;
    struct held_block *block;
    id error;
};

static struct {
    pthread_mutex_t lock;
    bool holds;
    struct connect *held;
} connects = { .lock = PTHREAD_MUTEX_INITIALIZER };

static void connect_end(void *ctx)
{
    struct connect *k = ctx;
    char key[32];
    id conn = NULL;
    int fd;

    port_key(key, "guest listens", k->port);
    if (!k->error && !property_number(k->device, key))
        k->error = error_new("NSPOSIXErrorDomain", ECONNRESET, "Connection reset by peer", NULL);
    if (!k->error) {
        conn = connection_new(1024, k->port, &fd);
        port_key(key, "guest end", k->port);
        property_set_number(k->device, key, fd);
        object_on_death(k->device, guest_end_close, (void *)(uintptr_t)k->port);
    }
    block_call_connection(k->block, conn, k->error);
    if (conn)
        object_release(conn, NULL);
    if (k->error)
        object_release(k->error, NULL);
    object_release(k->device, NULL);
    object_release(k->queue, NULL);
    free(k);
}

static void connect_to(struct call *c)
{
    struct connect *k = malloc(sizeof(*k));

    *k = (struct connect){ NULL,
                           c->self,
                           (id)(uintptr_t)property_number(c->self, VM_QUEUE),
                           c->args[0],
                           block_hold(c->args[1], "v24@?0@\"VZVirtioSocketConnection\"8@\"NSError\"16",
                                      c->caller),
                           scripted_error(c->method->selector) };
    object_retain(k->device, NULL);
    object_retain(k->queue, NULL);
    pthread_mutex_lock(&connects.lock);
    if (connects.holds) {
        k->next = connects.held;
        connects.held = k;
    } else {
        queue_async(k->queue, connect_end, k);
    }
    pthread_mutex_unlock(&connects.lock);
}

void standin_connects_hold(void)
{
    pthread_mutex_lock(&connects.lock);
    connects.holds = true;
    pthread_mutex_unlock(&connects.lock);
}

void standin_connects_answer(void)
{
    struct connect *k;

    pthread_mutex_lock(&connects.lock);
    connects.holds = false;
    while ((k = connects.held)) {
        id queue = k->queue;

        connects.held = k->next;
        object_retain(queue, NULL);
        queue_sync(queue, connect_end, k);
        object_release(queue, NULL);
    }
    pthread_mutex_unlock(&connects.lock);
}

/* ---- what the guest does ---- */

struct guest_connect {
    id device, queue, conn; /* retained, as is the listener; the connection is our own */
    id listener;            /* NULL: nobody listened */
    uint32_t port;
    bool is_taken;
};

static void listener_find(void *ctx)
{
    struct guest_connect *g = ctx;
    char key[32];

    port_key(key, "listener", g->port);
    g->listener = property_object(g->device, key);
    if (g->listener)
        object_retain(g->listener, NULL);
}

static void delegate_ask(void *ctx)
{
    static const char selector[] = "listener:shouldAcceptNewConnection:fromSocketDevice:";
    struct guest_connect *g = ctx;
    id delegate = g->listener ? (id)(uintptr_t)property_number(g->listener, "delegate") : NULL;
    IMP imp = delegate_method(delegate, "VZVirtioSocketListenerDelegate", selector);

    if (imp)
        g->is_taken = ((BOOL(*)(id, SEL, id, id, id))imp)(delegate, sel_registerName(selector), g->listener,
                                                          g->conn, g->device);
}

struct guest_connect *standin_guest_connect_hold(unsigned machine, uint32_t port, int *fd)
{
    struct guest_connect *g = malloc(sizeof(*g));
    id vm = machine_at(machine);

    *g = (struct guest_connect){ .device = machine_device(vm, "SocketDevices", 0),
                                 .queue = property_object(vm, "Queue"),
                                 .conn = connection_new(49152, port, fd),
                                 .port = port };
    object_retain(g->device, NULL);
    object_retain(g->queue, NULL);
    queue_sync(g->queue, listener_find, g);
    return g;
}

bool standin_guest_connect_release(struct guest_connect *g)
{
    bool is_taken;

    queue_sync(g->queue, delegate_ask, g);
    is_taken = g->is_taken;
    if (g->listener)
        object_release(g->listener, NULL);
    object_release(g->conn, NULL);
    object_release(g->device, NULL);
    object_release(g->queue, NULL);
    free(g);
    return is_taken;
}

bool standin_guest_connects(unsigned machine, uint32_t port, int *fd)
{
    return standin_guest_connect_release(standin_guest_connect_hold(machine, port, fd));
}

void standin_guest_listens(unsigned machine, uint32_t port)
{
    char key[32];

    port_key(key, "guest listens", port);
    property_set_number(machine_device(machine_at(machine), "SocketDevices", 0), key, 1);
}

int standin_guest_accepts(unsigned machine, uint32_t port)
{
    id device = machine_device(machine_at(machine), "SocketDevices", 0);
    char key[32];
    int fd;

    port_key(key, "guest end", port);
    if (!property_has(device, key))
        return -1;
    fd = (int)property_number(device, key);
    property_set_number(device, key, -1);
    return fd;
}

/* ---- consoles ---- */

static id port_at(id ports, uint64_t index)
{
    char key[24];

    snprintf(key, sizeof(key), "%llu", (unsigned long long)index);
    return property_object(ports, key);
}

static void port_get(struct call *c)
{
    id port;

    if ((int64_t)c->args[0] >= property_number(c->self, "MaximumPortCount"))
        standin_fail(c->caller, "-[VZVirtioConsolePortArray objectAtIndexedSubscript:]: %llu is out of range",
                     (unsigned long long)c->args[0]);
    port = port_at(c->self, c->args[0]);
    if (!port)
        return;
    object_retain(port, c->caller);
    give(c, object_pooled(port));
}

struct port_opens {
    id device, port;
    const char *selector;
};

static void port_opens(void *ctx)
{
    struct port_opens *o = ctx;
    id delegate = (id)(uintptr_t)property_number(o->device, "delegate");
    IMP imp = delegate_method(delegate, "VZVirtioConsoleDeviceDelegate", o->selector);

    if (imp)
        ((void (*)(id, SEL, id, id))imp)(delegate, sel_registerName(o->selector), o->device, o->port);
}

void standin_guest_opens_port(unsigned machine, unsigned device, unsigned port, bool is_open)
{
    id vm = machine_at(machine);
    struct port_opens o = { .device = machine_device(vm, "ConsoleDevices", device),
                            .selector =
                                is_open ? "consoleDevice:didOpenPort:" : "consoleDevice:didClosePort:" };

    o.port = port_at(property_object(o.device, "Ports"), port);
    if (!o.port)
        standin_fail(NULL, "the machine has no port %u", port);
    queue_sync(property_object(vm, "Queue"), port_opens, &o);
}

const char *standin_port_attachment(unsigned machine, unsigned device, unsigned port)
{
    id ports = property_object(machine_device(machine_at(machine), "ConsoleDevices", device), "Ports");
    id attachment = property_object(port_at(ports, port), "Attachment");

    return attachment ? object_class_name(object_find(attachment)) : NULL;
}

/* ---- networks ---- */

static void attachment_set(struct call *c)
{
    property_set_object(c->self, "Attachment", arg_id(c, 0));
}

const struct behaviour_row device_behaviour[] = {
    { "VZVirtioTraditionalMemoryBalloonDevice", "-setTargetVirtualMachineMemorySize:", target_set },
    { "VZVirtioFileSystemDevice", "-setShare:", share_set },
    { "VZVirtioSocketDevice", "-setSocketListener:forPort:", listener_set },
    { "VZVirtioSocketDevice", "-removeSocketListenerForPort:", listener_remove },
    { "VZVirtioSocketDevice", "-connectToPort:completionHandler:", connect_to },
    { "VZVirtioSocketListener", "-setDelegate:", delegate_set },
    { "VZVirtioSocketConnection", "-close", connection_closed },
    { "VZNetworkDevice", "-setAttachment:", attachment_set },
    { "VZVirtioConsoleDevice", "-setDelegate:", delegate_set },
    { "VZVirtioConsolePortArray", "-objectAtIndexedSubscript:", port_get },
    { "VZVirtioConsolePort", "-setAttachment:", attachment_set },
    { NULL, NULL, NULL },
};
