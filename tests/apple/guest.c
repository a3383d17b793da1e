/* A guest in the stand-in's machines: what its configuration describes runs on our own machine (the native
 * backend with the translator), so that a test of the public API sees a guest start, talk and end. With
 * YADO_STANDIN_GUEST=1 in the environment; else machines only play their states.
 *
 * The first serial port is a UART for the guest, because the tests' guests are a few instructions and no
 * virtio driver. Everything here runs on the queue of the machine. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "backend/native_engines.h"
#include "rt.h"

struct guest {
    id vm; /* not retained: it ends before it dies */
    id queue;
    struct spec spec;
    struct backend *b;
    struct log log;
    atomic_bool ends; /* nothing that its threads say matters any more */
};

/* In place of the platform's, which would bring its own backend along. */
const struct engine_ops *native_engine_find(const char *name)
{
    return name && !strcmp(name, engine_translator.name) ? &engine_translator : NULL;
}

const struct engine_ops *native_engine_default(void)
{
    return &engine_translator;
}

bool guest_is_wanted(void)
{
    const char *text = getenv("YADO_STANDIN_GUEST");

    return text && *text == '1';
}

static struct guest *guest_of(id vm)
{
    return (struct guest *)(uintptr_t)property_number(vm, "guest");
}

void guest_end(id vm)
{
    struct guest *g = guest_of(vm);

    if (!g)
        return;
    property_set_number(vm, "guest", 0);
    atomic_store(&g->ends, true);
    backend_native.stop(g->b);
    spec_clear(&g->spec);
    object_release(g->queue, NULL);
    free(g);
}

static void ended(id vm, const struct backend_status *s)
{
    guest_end(vm);
    if (s->end == BACKEND_POWER_OFF)
        machine_guest_stopped(vm);
    else
        machine_failed(vm, s->error.message);
}

/* The machine is retained for this. */
static void service(void *ctx)
{
    id vm = ctx;
    struct guest *g = guest_of(vm);
    struct backend_status s = { .end = BACKEND_RUNS };

    if (g)
        backend_native.service(g->b, &s);
    if (s.end != BACKEND_RUNS)
        ended(vm, &s);
    object_release(vm, NULL);
}

static void attention(void *ctx)
{
    struct guest *g = ctx;

    if (atomic_load(&g->ends))
        return;
    object_retain(g->vm, NULL);
    queue_async(g->queue, service, g->vm);
}

static char *text_of_property(id obj, const char *key)
{
    id value = property_object(obj, key);

    return value ? strdup(property_text(value, property_has(value, "path") ? "path" : "text")) : NULL;
}

static bool attachment_set(struct spec_attachment *to, id a)
{
    *to = (struct spec_attachment){ .kind = SPEC_ATTACH_NONE, .read_fd = -1, .write_fd = -1, .hold_fd = -1 };
    if (!a)
        return true;
    if (is_kind(a, "VZFileSerialPortAttachment")) {
        to->kind = SPEC_ATTACH_FILE;
        to->path = text_of_property(a, "URL");
        to->append = property_number(a, "Append") != 0;
        return true;
    }
    to->kind = SPEC_ATTACH_FDS;
    return spec_fd_dup(handle_fd(property_object(a, "FileHandleForReading")), &to->read_fd) &&
           spec_fd_dup(handle_fd(property_object(a, "FileHandleForWriting")), &to->write_fd);
}

static bool serials_set(struct spec *s, id config)
{
    id ports = property_object(config, "SerialPorts");

    for (unsigned long i = 0; i < array_count(ports); i++) {
        id a = property_object(array_at(ports, i), "Attachment");
        struct spec_serial *to = &s->serials[s->serial_count++];

        to->kind = i ? SPEC_SERIAL_VIRTIO_CONSOLE : SPEC_SERIAL_UART;
        if (!attachment_set(&to->attachment, a))
            return false;
    }
    return true;
}

static void disks_set(struct spec *s, id config)
{
    id devices = property_object(config, "StorageDevices");

    for (unsigned long i = 0; i < array_count(devices); i++) {
        id a = property_object(array_at(devices, i), "Attachment");

        s->disks[s->disk_count++] = (struct spec_disk){ .name = text_of_property(a, "URL"),
                                                        .fd = -1,
                                                        .read_only = property_number(a, "ReadOnly") != 0 };
    }
}

bool guest_start(id vm, id config, struct yado_error *err)
{
    struct guest *g = calloc(1, sizeof(*g));
    struct backend_host host = { .attention = attention, .ctx = g, .log = &g->log };
    id loader = property_object(config, "BootLoader");

    spec_init(&g->spec);
    g->vm = vm;
    g->queue = property_object(vm, "Queue");
    g->spec.cpu_count = (unsigned)property_number(config, "CPUCount");
    g->spec.memory_size = (uint64_t)property_number(config, "MemorySize");
    g->spec.boot = (struct spec_boot){ .kind = SPEC_BOOT_LINUX,
                                       .kernel = text_of_property(loader, "KernelURL"),
                                       .initrd = text_of_property(loader, "InitialRamdiskURL"),
                                       .command_line = text_of_property(loader, "CommandLine") };
    disks_set(&g->spec, config);
    object_retain(g->queue, NULL);
    property_set_number(vm, "guest", (int64_t)(uintptr_t)g);
    if (serials_set(&g->spec, config) && backend_native.start(&g->b, &g->spec, &host, err))
        return true;
    property_set_number(vm, "guest", 0);
    spec_clear(&g->spec);
    object_release(g->queue, NULL);
    free(g);
    return false;
}

void guest_pause(id vm)
{
    struct yado_error err = YADO_ERROR_INIT;

    if (guest_of(vm) && !backend_native.pause(guest_of(vm)->b, &err))
        standin_fail(NULL, "the guest does not pause: %s", err.message);
}

void guest_resume(id vm)
{
    struct yado_error err = YADO_ERROR_INIT;

    if (guest_of(vm) && !backend_native.resume(guest_of(vm)->b, &err))
        standin_fail(NULL, "the guest does not go on: %s", err.message);
}

void guest_button(id vm)
{
    if (guest_of(vm))
        backend_native.request_stop(guest_of(vm)->b, NULL);
}
