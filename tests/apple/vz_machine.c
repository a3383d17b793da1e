/* VZVirtualMachine: states, verbs, delegate. Everything happens on its queue; a verb passes through its
 * transient state and ends in a later piece of work there, as the framework's do. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "rt.h"
#include "util/err.h"

id init_result(struct call *c);

#define VZ "VZErrorDomain"
#define SIGNATURE "v16@?0@\"NSError\"8"

enum { STOPPED, RUNNING, PAUSED, ERROR, STARTING, PAUSING, RESUMING, STOPPING, SAVING, RESTORING };
enum { E_INTERNAL = 1, E_STATE = 3, E_TRANSITION = 4, E_SAVE = 11, E_RESTORE = 12 };

#define MACHINES_MAX 64

static struct {
    pthread_mutex_t lock;
    id live[MACHINES_MAX];
    unsigned count;
    int64_t made; /* ever */
} machines = { .lock = PTHREAD_MUTEX_INITIALIZER };

static long state_of(id vm)
{
    return (long)property_number(vm, "State");
}

static void state_set(id vm, long state)
{
    property_set_number(vm, "State", state);
}

static id queue_of(id vm)
{
    return property_object(vm, "Queue");
}

static void machine_died(id vm, void *ctx)
{
    unsigned i = 0;

    (void)ctx;
    pthread_mutex_lock(&machines.lock);
    while (machines.live[i] != vm)
        i++;
    machines.count--;
    for (; i < machines.count; i++)
        machines.live[i] = machines.live[i + 1];
    pthread_mutex_unlock(&machines.lock);
    if (state_of(vm) >= STARTING)
        standin_fail(NULL, "a machine died between two states");
    guest_end(vm); /* its end, where there is no hard stop (macOS 11) */
}

static void machine_init(struct call *c)
{
    id config = arg_id(c, 0), own, vm;

    if (c->count < 2)
        standin_fail(c->caller, "-[VZVirtualMachine initWithConfiguration:]: there is no main queue here");
    if (!arg_id(c, 1) || !is_kind(arg_id(c, 1), "OS_dispatch_queue_serial"))
        standin_fail(c->caller, "-[VZVirtualMachine %s]: no queue", c->method->selector);
    if (!config_is_valid(config))
        standin_fail(c->caller, "-[VZVirtualMachine %s]: an invalid configuration raises an exception: %s",
                     c->method->selector, property_text(config, "why"));
    vm = init_result(c);
    own = object_make_named("VZVirtualMachineConfiguration", c->caller);
    properties_copy(own, config);
    property_set_object(vm, "Configuration", own);
    object_release(own, NULL);
    machine_devices_make(vm, own);
    property_set_number(vm, VM_QUEUE, (int64_t)(uintptr_t)queue_of(vm));
    pthread_mutex_lock(&machines.lock);
    if (machines.count == MACHINES_MAX)
        standin_fail(c->caller, "more than %d machines at once", MACHINES_MAX);
    machines.live[machines.count++] = vm;
    property_set_number(vm, "number", ++machines.made);
    pthread_mutex_unlock(&machines.lock);
    object_on_death(vm, machine_died, NULL);
    give(c, vm);
}

static void is_supported(struct call *c)
{
    c->ret = standin_world.is_supported;
}

/* ---- questions ---- */

static void can_start(struct call *c)
{
    c->ret = state_of(c->self) == STOPPED || state_of(c->self) == ERROR;
}

static void can_stop(struct call *c)
{
    c->ret = state_of(c->self) == RUNNING || state_of(c->self) == PAUSED;
}

static void is_running(struct call *c)
{
    c->ret = state_of(c->self) == RUNNING;
}

static void can_resume(struct call *c)
{
    c->ret = state_of(c->self) == PAUSED;
}

/* Weak. */
static void delegate_set(struct call *c)
{
    property_set_number(c->self, "delegate", (int64_t)c->args[0]);
}

static void delegate_get(struct call *c)
{
    give(c, (id)(uintptr_t)property_number(c->self, "delegate"));
}

/* ---- verbs ---- */

struct verb {
    id vm; /* retained */
    struct held_block *block;
    id error;          /* owned; NULL: it goes well */
    long failed, done; /* the state afterwards */
};

/* The guest, if there is one, does what the state says that the machine passes through. */
static id guest_follow(id vm, long through)
{
    struct yado_error err = YADO_ERROR_INIT;

    if (through == STARTING && guest_is_wanted() &&
        !guest_start(vm, property_object(vm, "Configuration"), &err))
        return error_new(VZ, E_INTERNAL, "The virtual machine failed to start.", err.message);
    if (through == PAUSING)
        guest_pause(vm);
    else if (through == RESUMING)
        guest_resume(vm);
    else if (through == STOPPING)
        guest_end(vm);
    return NULL;
}

static void verb_end(void *ctx)
{
    struct verb *v = ctx;

    if (!v->error)
        v->error = guest_follow(v->vm, state_of(v->vm));
    state_set(v->vm, v->error ? v->failed : v->done);
    block_call_error(v->block, v->error);
    if (v->error)
        object_release(v->error, NULL);
    object_release(v->vm, NULL);
    free(v);
}

/* Begins a verb, legal in `from` (bits); `error` is what fails it for another reason, owned. */
static void verb_begin(struct call *c, unsigned block_arg, unsigned from, long through, long failed,
                       long done, id error)
{
    struct verb *v = malloc(sizeof(*v));
    long state = state_of(c->self);
    bool is_legal = from >> state & 1;
    char text[96];

    *v = (struct verb){ c->self, block_hold(c->args[block_arg], SIGNATURE, c->caller), error, failed, done };
    object_retain(v->vm, NULL);
    if (is_legal && !v->error)
        v->error = scripted_error(c->method->selector);
    if (is_legal) {
        state_set(c->self, through);
    } else {
        if (v->error)
            object_release(v->error, NULL);
        snprintf(text, sizeof(text), "Invalid transition from state %ld.", state);
        v->error = error_new(VZ, done == PAUSED && failed == PAUSED ? E_STATE : E_TRANSITION, text, NULL);
        v->failed = state;
    }
    queue_async(queue_of(c->self), verb_end, v);
}

static void start(struct call *c)
{
    verb_begin(c, 0, 1 << STOPPED | 1 << ERROR, STARTING, ERROR, RUNNING, NULL);
}

static void stop(struct call *c)
{
    verb_begin(c, 0, 1 << RUNNING | 1 << PAUSED, STOPPING, ERROR, STOPPED, NULL);
}

static void verb_pause(struct call *c)
{
    verb_begin(c, 0, 1 << RUNNING, PAUSING, RUNNING, PAUSED, NULL);
}

static void resume(struct call *c)
{
    verb_begin(c, 0, 1 << PAUSED, RESUMING, PAUSED, RUNNING, NULL);
}

/* The identifier that was set; where none was, the framework makes one up for each configuration. */
static void identifier_add(id vm, id config, FILE *f)
{
    id platform = property_object(config, "Platform");
    id data = platform ? property_object(platform, "MachineIdentifier") : NULL;
    size_t len = 0;
    const char *bytes;

    data = data ? property_object(data, "DataRepresentation") : NULL;
    if (data) {
        bytes = data_get(data, &len);
        fprintf(f, " %.*s", (int)len, bytes);
    } else {
        fprintf(f, " made up %lld", (long long)property_number(vm, "number"));
    }
}

/* Likewise the UUIDs of USB devices, from macOS 15 on. */
static void storage_add(id vm, id config, FILE *f)
{
    id devices = property_object(config, "StorageDevices");

    for (unsigned long i = 0; i < array_count(devices); i++) {
        id device = array_at(devices, i), uuid = property_object(device, "Uuid");

        fprintf(f, " %s", object_class_name(object_find(device)));
        if (is_kind(device, "VZUSBMassStorageDeviceConfiguration") && standin_world.major >= 15)
            fprintf(f, " %s %lld", uuid ? property_text(uuid, "text") : "made up",
                    uuid ? 0 : (long long)property_number(vm, "number"));
    }
}

/* What is saved here: enough to tell whether it is the same configuration. */
static void summary(id vm, char *text, size_t room)
{
    id config = property_object(vm, "Configuration");
    FILE *f = fmemopen(text, room, "w");

    fprintf(f, "stand-in %lld %lld", (long long)property_number(config, "MemorySize"),
            (long long)property_number(config, "CPUCount"));
    identifier_add(vm, config, f);
    storage_add(vm, config, f);
    fputc('\n', f);
    if (fclose(f))
        standin_fail(NULL, "the summary of a configuration is too long");
}

static void save(struct call *c)
{
    char text[1024];
    id error = NULL;
    FILE *f = fopen(url_path(arg_id(c, 0)), "we");

    summary(c->self, text, sizeof(text));
    if (!f)
        error = error_new(VZ, E_SAVE, "The virtual machine could not be saved.", strerror(errno));
    else if (fputs(text, f) < 0 || fclose(f))
        standin_fail(c->caller, "cannot write the saved state");
    verb_begin(c, 1, 1 << PAUSED, SAVING, PAUSED, PAUSED, error);
}

static void restore(struct call *c)
{
    char text[1024], saved[1024] = "";
    id error = NULL;
    FILE *f = fopen(url_path(arg_id(c, 0)), "re");

    summary(c->self, text, sizeof(text));
    if (f && !fgets(saved, sizeof(saved), f))
        saved[0] = '\0';
    if (f)
        fclose(f);
    if (strcmp(text, saved) != 0)
        error = error_new(VZ, E_RESTORE, "The virtual machine could not be restored.",
                          f ? "Invalid argument" : "No such file");
    verb_begin(c, 1, 1 << STOPPED, RESTORING, STOPPED, PAUSED, error);
}

static void request_stop(struct call *c)
{
    id error = scripted_error(c->method->selector);

    if (!error && state_of(c->self) != RUNNING)
        error = error_new(VZ, E_TRANSITION, "The guest does not run.", NULL);
    if (error) {
        fail_with(c, 0, error);
        return;
    }
    error_trap(c, 0);
    guest_button(c->self);
    c->ret = 1;
}

/* ---- what happens by itself ---- */

unsigned standin_machine_count(void)
{
    unsigned n;

    pthread_mutex_lock(&machines.lock);
    n = machines.count;
    pthread_mutex_unlock(&machines.lock);
    return n;
}

id machine_at(unsigned number)
{
    id vm;

    pthread_mutex_lock(&machines.lock);
    vm = number < machines.count ? machines.live[number] : NULL;
    pthread_mutex_unlock(&machines.lock);
    if (!vm)
        standin_fail(NULL, "there is no machine %u", number);
    return vm;
}

long standin_machine_state(unsigned machine)
{
    return state_of(machine_at(machine));
}

struct happening {
    id vm, device, error;
};

static id delegate_of(id vm)
{
    return (id)(uintptr_t)property_number(vm, "delegate");
}

#define DELEGATE "VZVirtualMachineDelegate"

static void guest_stops(void *ctx)
{
    struct happening *h = ctx;
    id delegate = delegate_of(h->vm);
    IMP imp = delegate_method(delegate, DELEGATE, "guestDidStopVirtualMachine:");

    state_set(h->vm, STOPPED);
    if (imp)
        ((void (*)(id, SEL, id))imp)(delegate, sel_registerName("guestDidStopVirtualMachine:"), h->vm);
}

static void machine_fails(void *ctx)
{
    struct happening *h = ctx;
    id delegate = delegate_of(h->vm);
    IMP imp = delegate_method(delegate, DELEGATE, "virtualMachine:didStopWithError:");

    state_set(h->vm, ERROR);
    if (imp)
        ((void (*)(id, SEL, id, id))imp)(delegate, sel_registerName("virtualMachine:didStopWithError:"),
                                         h->vm, h->error);
}

void machine_guest_stopped(id vm)
{
    guest_stops(&(struct happening){ .vm = vm });
}

void machine_failed(id vm, const char *text)
{
    struct happening h = { .vm = vm,
                           .error = error_new(VZ, E_INTERNAL, "The virtual machine stopped.", text) };

    machine_fails(&h);
    object_release(h.error, NULL);
}

static void network_disconnects(void *ctx)
{
    static const char selector[] = "virtualMachine:networkDevice:attachmentWasDisconnectedWithError:";
    struct happening *h = ctx;
    id delegate = delegate_of(h->vm);
    IMP imp = delegate_method(delegate, DELEGATE, selector);

    property_set_object(h->device, "Attachment", NULL);
    if (imp)
        ((void (*)(id, SEL, id, id, id))imp)(delegate, sel_registerName(selector), h->vm, h->device,
                                             h->error);
}

static void happens(void (*fn)(void *ctx), struct happening h)
{
    id queue = queue_of(h.vm);

    object_retain(h.vm, NULL);
    object_retain(queue, NULL);
    queue_sync(queue, fn, &h);
    if (h.error)
        object_release(h.error, NULL);
    object_release(h.vm, NULL);
    object_release(queue, NULL);
}

void standin_guest_stops(unsigned machine)
{
    happens(guest_stops, (struct happening){ machine_at(machine), NULL, NULL });
}

static id kept;

void standin_machine_keep(unsigned machine)
{
    kept = machine_at(machine);
    object_retain(kept, NULL);
}

bool standin_kept_machine_stops(void)
{
    id vm = kept;
    bool has_delegate = delegate_of(vm) != NULL;

    kept = NULL;
    happens(guest_stops, (struct happening){ vm, NULL, NULL });
    object_release(vm, NULL);
    return has_delegate;
}

void standin_machine_fails(unsigned machine, const char *domain, long code, const char *text)
{
    happens(machine_fails,
            (struct happening){ machine_at(machine), NULL, error_new(domain, code, text, NULL) });
}

void standin_network_disconnects(unsigned machine, unsigned device, const char *text)
{
    id vm = machine_at(machine);

    happens(network_disconnects, (struct happening){ vm, machine_device(vm, "NetworkDevices", device),
                                                     error_new(VZ, 7, text, NULL) });
}

/* ---- what a test reads ---- */

static id step(id obj, const char *name, size_t len)
{
    char key[64];

    snprintf(key, sizeof(key), "%.*s", (int)len, name);
    if (key[0] >= 'a' && key[0] <= 'z')
        key[0] = (char)(key[0] - 'a' + 'A');
    return property_object(obj, key);
}

/* Up to the last part of the path, which is left in *last. */
static id walk(unsigned machine, const char *path, const char **last)
{
    id obj = property_object(machine_at(machine), "Configuration");
    const char *dot;

    for (dot = strchr(path, '.'); obj && dot; dot = strchr(path, '.')) {
        obj = step(obj, path, (size_t)(dot - path));
        path = dot + 1;
    }
    *last = path;
    return obj;
}

/* The object that has the last part of the path; the key of its property goes to `key`. */
static id config_owner(unsigned machine, const char *path, char *key, size_t size)
{
    const char *last;
    id obj = walk(machine, path, &last);

    if (!obj)
        standin_fail(NULL, "the configuration has no %s", path);
    if (!strcmp(last, "count")) /* an array's own, of no property's name */
        snprintf(key, size, "%s", last);
    else
        property_key(last, key, size);
    return obj;
}

long standin_config_number(unsigned machine, const char *path)
{
    char key[64];
    id obj = config_owner(machine, path, key, sizeof(key));

    return (long)property_number(obj, key);
}

double standin_config_double(unsigned machine, const char *path)
{
    char key[64];
    id obj = config_owner(machine, path, key, sizeof(key));

    return property_double(obj, key);
}

const char *standin_config_text(unsigned machine, const char *path)
{
    const char *last;
    id obj = walk(machine, path, &last);

    if (!obj)
        return NULL;
    if (!strcmp(last, "class"))
        return object_class_name(object_find(obj));
    obj = step(obj, last, strlen(last));
    if (!obj)
        return NULL;
    return property_text(obj, property_has(obj, "path") ? "path" : "text");
}

const struct behaviour_row machine_behaviour[] = {
    { "VZVirtualMachine", "-initWithConfiguration:", machine_init },
    { "VZVirtualMachine", "-initWithConfiguration:queue:", machine_init },
    { "VZVirtualMachine", "+isSupported", is_supported },
    { "VZVirtualMachine", "-canStart", can_start },
    { "VZVirtualMachine", "-canStop", can_stop },
    { "VZVirtualMachine", "-canPause", is_running },
    { "VZVirtualMachine", "-canResume", can_resume },
    { "VZVirtualMachine", "-canRequestStop", is_running },
    { "VZVirtualMachine", "-setDelegate:", delegate_set },
    { "VZVirtualMachine", "-delegate", delegate_get },
    { "VZVirtualMachine", "-startWithCompletionHandler:", start },
    { "VZVirtualMachine", "-stopWithCompletionHandler:", stop },
    { "VZVirtualMachine", "-pauseWithCompletionHandler:", verb_pause },
    { "VZVirtualMachine", "-resumeWithCompletionHandler:", resume },
    { "VZVirtualMachine", "-saveMachineStateToURL:completionHandler:", save },
    { "VZVirtualMachine", "-restoreMachineStateFromURL:completionHandler:", restore },
    { "VZVirtualMachine", "-requestStopWithError:", request_stop },
    { NULL, NULL, NULL },
};
