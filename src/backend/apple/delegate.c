/* The delegate of a machine: an Objective-C class made at run time, whose methods are C functions here.
 *
 * A class is the process's and for ever, so it is made once, with one instance variable that leads to the
 * machine's events. The framework asks an object which methods it has; a protocol that no loaded image
 * carries is left out, the methods are found anyway. */
#include <pthread.h>

#include "backend/apple/apple_priv.h"

#define CLASS_NAME "YadoMachineDelegate"
#define EVENTS "events"

static pthread_once_t once = PTHREAD_ONCE_INIT;

static const struct machine_events *events_of(id self)
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

static void class_make(void)
{
    Class cls = objc_allocateClassPair(objc_getClass(vz_classes[VZ_CLASS_NSObject].name), CLASS_NAME, 0);
    struct objc_protocol *protocol;

    if (!cls) /* taken: by another copy of this library in the process, whose class is the same */
        return;
    protocol = objc_getProtocol(vz_callbacks[VZ_VZVirtualMachineDelegate_guestDidStop].protocol);
    class_addIvar(cls, EVENTS, sizeof(void *), 3, "^v");
    method_add(cls, VZ_VZVirtualMachineDelegate_guestDidStop, (IMP)guest_did_stop);
    method_add(cls, VZ_VZVirtualMachineDelegate_didStopWithError, (IMP)did_stop_with_error);
    method_add(cls, VZ_VZVirtualMachineDelegate_attachmentWasDisconnected, (IMP)was_disconnected);
    if (protocol)
        class_addProtocol(cls, protocol);
    objc_registerClassPair(cls);
}

id delegate_new(const struct machine_events *events, struct yado_error *err)
{
    id delegate;

    pthread_once(&once, class_make);
    delegate = NSObject_init(NSObject_alloc((id)(void *)objc_getClass(CLASS_NAME)));
    if (!delegate) {
        err_set(err, YADO_ERR_INTERNAL, "cannot make the class of the machine's delegate");
        return NULL;
    }
    object_setInstanceVariable(delegate, EVENTS, (void *)(uintptr_t)events);
    return delegate;
}
