/* The delegates of a machine, of its consoles and of its socket listener: Objective-C classes made at run
 * time, whose methods are C functions here.
 *
 * A class is the process's and for ever, so each is made once, with one instance variable that leads to the
 * events of one machine. The framework asks an object which methods it has; a protocol that no loaded image
 * carries is left out, the methods are found anyway. */
#include <pthread.h>

#include "backend/apple/apple_priv.h"

#define MACHINE_CLASS "YadoMachineDelegate"
#define SOCKET_CLASS "YadoSocketDelegate"
#define CONSOLE_CLASS "YadoConsoleDelegate"
#define EVENTS "events"

static pthread_once_t once = PTHREAD_ONCE_INIT;

static const void *events_of(id self)
{
    void *events = NULL;

    object_getInstanceVariable(self, EVENTS, &events);
    return events;
}

static void guest_did_stop(id self, SEL cmd, id machine)
{
    const struct machine_events *e = events_of(self);
    void *pool = objc_autoreleasePoolPush();

    (void)cmd;
    (void)machine;
    e->guest_stopped(e->ctx);
    objc_autoreleasePoolPop(pool);
}

static void did_stop_with_error(id self, SEL cmd, id machine, id error)
{
    const struct machine_events *e = events_of(self);
    void *pool = objc_autoreleasePoolPush();

    (void)cmd;
    (void)machine;
    e->stopped_with_error(e->ctx, error);
    objc_autoreleasePoolPop(pool);
}

static void was_disconnected(id self, SEL cmd, id machine, id device, id error)
{
    const struct machine_events *e = events_of(self);
    void *pool = objc_autoreleasePoolPush();

    (void)cmd;
    e->net_disconnected(e->ctx, machine, device, error);
    objc_autoreleasePoolPop(pool);
}

static void method_add(Class cls, enum vz_callback which, IMP imp)
{
    const struct vz_callback_row *row = &vz_callbacks[which];

    class_addMethod(cls, sel_registerName(row->selector), imp, row->encoding);
}

static BOOL should_accept(id self, SEL cmd, id listener, id connection, id device)
{
    const struct socket_events *e = events_of(self);
    void *pool = objc_autoreleasePoolPush();
    bool ok = e->should_accept(e->ctx, connection);

    (void)cmd;
    (void)listener;
    (void)device;
    objc_autoreleasePoolPop(pool);
    return ok;
}

static void port_tell(id self, id device, id port, bool is_open)
{
    const struct console_events *e = events_of(self);
    void *pool = objc_autoreleasePoolPush();

    e->port_open(e->ctx, device, port, is_open);
    objc_autoreleasePoolPop(pool);
}

static void did_open_port(id self, SEL cmd, id device, id port)
{
    (void)cmd;
    port_tell(self, device, port, true);
}

static void did_close_port(id self, SEL cmd, id device, id port)
{
    (void)cmd;
    port_tell(self, device, port, false);
}

/* A class with the instance variable, not registered yet. NULL if the name is taken: by another copy of this
 * library in the process, whose class is the same. */
static Class class_begin(const char *name, enum vz_callback first)
{
    Class cls = objc_allocateClassPair(objc_getClass(vz_classes[VZ_CLASS_NSObject].name), name, 0);
    struct objc_protocol *protocol = objc_getProtocol(vz_callbacks[first].protocol);

    if (!cls)
        return NULL;
    class_addIvar(cls, EVENTS, sizeof(void *), 3, "^v");
    if (protocol)
        class_addProtocol(cls, protocol);
    return cls;
}

static void classes_make(void)
{
    Class cls = class_begin(MACHINE_CLASS, VZ_VZVirtualMachineDelegate_guestDidStop);

    if (cls) {
        method_add(cls, VZ_VZVirtualMachineDelegate_guestDidStop, (IMP)guest_did_stop);
        method_add(cls, VZ_VZVirtualMachineDelegate_didStopWithError, (IMP)did_stop_with_error);
        method_add(cls, VZ_VZVirtualMachineDelegate_attachmentWasDisconnected, (IMP)was_disconnected);
        objc_registerClassPair(cls);
    }
    cls = class_begin(SOCKET_CLASS, VZ_VZVirtioSocketListenerDelegate_shouldAcceptNewConnection);
    if (cls) {
        method_add(cls, VZ_VZVirtioSocketListenerDelegate_shouldAcceptNewConnection, (IMP)should_accept);
        objc_registerClassPair(cls);
    }
    cls = class_begin(CONSOLE_CLASS, VZ_VZVirtioConsoleDeviceDelegate_didOpenPort);
    if (cls) {
        method_add(cls, VZ_VZVirtioConsoleDeviceDelegate_didOpenPort, (IMP)did_open_port);
        method_add(cls, VZ_VZVirtioConsoleDeviceDelegate_didClosePort, (IMP)did_close_port);
        objc_registerClassPair(cls);
    }
}

static id instance_new(const char *cls, const void *events, struct yado_error *err)
{
    id delegate;

    pthread_once(&once, classes_make);
    delegate = NSObject_init(NSObject_alloc((id)(void *)objc_getClass(cls)));
    if (!delegate) {
        err_set(err, YADO_ERR_INTERNAL, "cannot make the class %s", cls);
        return NULL;
    }
    object_setInstanceVariable(delegate, EVENTS, (void *)(uintptr_t)events);
    return delegate;
}

id delegate_new(const struct machine_events *events, struct yado_error *err)
{
    return instance_new(MACHINE_CLASS, events, err);
}

id socket_delegate_new(const struct socket_events *events, struct yado_error *err)
{
    return instance_new(SOCKET_CLASS, events, err);
}

id console_delegate_new(const struct console_events *events, struct yado_error *err)
{
    return instance_new(CONSOLE_CLASS, events, err);
}
