/* The inside of the stand-in (standin.h). */
#ifndef TESTS_APPLE_RT_H
#define TESTS_APPLE_RT_H

#include <pthread.h>

#include "backend/apple/darwin_decls.h"
#include "manifest.h"
#include "standin.h"

/* GNU's runtime, beside what objc_rt.h declares. */
const char *sel_getName(SEL sel);
const char *class_getName(Class cls);
Class class_getSuperclass(Class cls);
BOOL class_isMetaClass(Class cls);
id class_createInstance(Class cls, size_t extra);
int objc_getClassList(Class *list, int room);
Class objc_lookUpClass(const char *name);
IMP objc_msg_lookup(id obj, SEL sel);
void *class_getInstanceMethod(Class cls, SEL sel);
const char *method_getTypeEncoding(void *method);
IMP method_getImplementation(void *method);

/* One line on standard error, where the backend's caller is told as file and line, and the end of the
 * process. `caller` may be NULL. */
_Noreturn void standin_fail(const void *caller, const char *fmt, ...) printf_like(2, 3);
void standin_place(const void *address); /* prints function and line of it */

/* ---- messages (message.c, send.S) ---- */

/* What send.S saves of a call and gives back; it knows the offsets. */
struct frame {
    uint64_t gpr[6]; /* rdi rsi rdx rcx r8 r9 */
    uint64_t al;
    const uint64_t *stack; /* arguments beyond the registers */
    const void *caller;
    uint64_t pad;
    double xmm[8][2];
    uint64_t ret, ret2;
    double fret[2];
};

/* A message that was found right, as the method's behaviour sees it. */
struct call {
    id self;
    const struct fact_class *cls; /* that declares the method */
    const struct fact_method *method;
    const void *caller;
    unsigned count;
    uint64_t args[FACT_ARGUMENTS_MAX]; /* integers zero- or sign-extended, pointers */
    double dargs[2];                   /* doubles, in order */
    uint64_t ret;
    double fret[2];
};

static inline id arg_id(const struct call *c, unsigned i)
{
    return (id)(uintptr_t)c->args[i];
}

static inline void give(struct call *c, id obj)
{
    c->ret = (uint64_t)(uintptr_t)obj;
}

typedef void (*behaviour)(struct call *c);

struct behaviour_row {
    const char *cls, *selector; /* with "+" or "-" before */
    behaviour fn;
};

/* Each ends with a row without class. */
extern const struct behaviour_row foundation_behaviour[], config_behaviour[], machine_behaviour[],
    device_behaviour[];

void standin_imp(void); /* the one method of all stand-in classes (send.S) */

/* Whether the played macOS on the played Mac has it. */
bool world_has(struct os_version since, bool is_arm64_only);
const struct fact_class *fact_class_find(const char *name);
/* The method as obj's class (or a superclass) declares it; NULL: none. */
const struct fact_method *fact_method_find(Class cls, bool is_class_method, const char *selector,
                                           const struct fact_class **owner);
/* obj's class object; for a class object itself, that. */
Class class_of(id obj, bool *is_class);
bool class_is(Class cls, const char *name); /* it or a subclass */
bool is_kind(id obj, const char *name);

/* Messages of the stand-in's own to delegates: NULL if it has no such method. The encoding must be the
 * protocol's. */
IMP delegate_method(id delegate, const char *protocol, const char *selector);

/* A failure that the test scripted for this selector, as an owned error; NULL: none. Each once. */
id scripted_error(const char *selector);
/* The behaviour's answer of NO or nil with an error: consumes it. error: "NSError **", may be NULL. */
void fail_with(struct call *c, unsigned error_arg, id error);
/* On success of such a method: leaves something in *error that may not be looked at. */
void error_trap(struct call *c, unsigned error_arg);

/* ---- ownership (object.c) ---- */

struct object;

/* A new object with count 1. */
id object_make(Class cls, const void *caller);
id object_make_named(const char *cls, const void *caller);
struct object *object_find(id obj); /* NULL: none of ours */
const char *object_class_name(const struct object *o);
/* Fails unless obj is alive. `what` the message or role. */
struct object *object_check(id obj, const void *caller, const char *what);
void object_retain(id obj, const void *caller);
void object_release(id obj, const void *caller);
void object_autorelease(id obj, const void *caller);
/* Owned by the pool; what getters and convenience constructors return. NULL stays NULL. */
id object_pooled(id owned);
bool object_is_raw(id obj); /* after alloc, before init */
void object_set_raw(id obj, bool raw);
void object_set_immortal(id obj); /* constants */
/* When it dies, after its properties. */
void object_on_death(id obj, void (*fn)(id obj, void *ctx), void *ctx);

/* Properties: numbers, and objects that are retained. */
void property_set_number(id obj, const char *key, int64_t value);
void property_set_double(id obj, const char *key, double value);
void property_set_object(id obj, const char *key, id value);
void property_set_text(id obj, const char *key, const char *value); /* copied; not an object */
bool property_has(id obj, const char *key);
int64_t property_number(id obj, const char *key); /* 0: none */
double property_double(id obj, const char *key);
id property_object(id obj, const char *key); /* borrowed; NULL: none */
const char *property_text(id obj, const char *key);
void properties_copy(id to, id from);
/* The key of a getter or setter: "setIsConsole:" and "isConsole" are "Console". */
void property_key(const char *selector, char *key, size_t room);

void leaks_check(void);
unsigned objects_alive(const char *cls);

/* ---- Foundation (foundation.c); all owned by the pool, those named ..._new by the caller ---- */

id string_new(const char *text);
const char *string_text(id string);
id error_new(const char *domain, long code, const char *text, const char *reason);
id array_new(const id *objects, unsigned long count);
unsigned long array_count(id array);
id array_at(id array, unsigned long i);
id data_new(const void *bytes, size_t len);
const void *data_get(id data, size_t *len);
const char *url_path(id url); /* NULL: it is no file URL */
id dictionary_key_at(id dictionary, unsigned long i);
int handle_fd(id handle); /* NSFileHandle: -1 if closed */

/* ---- blocks (block.c) ---- */

struct held_block;

/* A copy of a completion handler, checked; freed when it has been called. */
struct held_block *block_hold(uint64_t block, const char *signature, const void *caller);
void block_call_error(struct held_block *b, id error); /* borrowed */
void block_call_connection(struct held_block *b, id connection, id error);

/* ---- queues (dispatch.c) ---- */

void queue_async(id queue, void (*fn)(void *ctx), void *ctx); /* as the stand-in's own work */
void queue_sync(id queue, void (*fn)(void *ctx), void *ctx);
bool queue_is_current(id queue);

/* ---- machines (vz_machine.c) ---- */

/* Marks an object of a running machine: messages to it belong on the machine's queue. */
#define VM_QUEUE "vm queue"
bool config_is_valid(id config); /* else property "why" */
/* The live machine of this number; fails if there is none. */
id machine_at(unsigned number);
/* A runtime device of a machine, by the key of its array. */
id machine_device(id vm, const char *key, unsigned long i);
void machine_devices_make(id vm, id config); /* vz_device.c */
/* On the queue: the state changes and the delegate is told. */
void machine_guest_stopped(id vm);
void machine_failed(id vm, const char *text);

/* ---- real guests (guest.c), on the machine's queue; without one, nothing happens ---- */

struct yado_error;
bool guest_is_wanted(void);
bool guest_start(id vm, id config, struct yado_error *err);
void guest_end(id vm);
void guest_pause(id vm);
void guest_resume(id vm);
void guest_button(id vm);

#endif
