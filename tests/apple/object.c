/* Ownership: objects with their counts, pools, properties. The dead are kept, to be recognized. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "rt.h"

#define BUCKETS 4096

struct property {
    struct property *next;
    char key[64];
    int64_t number;
    double real;
    char *text;
    id object; /* retained */
};

struct death_call {
    struct death_call *next;
    void (*fn)(id obj, void *ctx);
    void *ctx;
};

struct object {
    struct object *next; /* in its bucket */
    id obj;
    const char *cls;
    long refs; /* 0: dead */
    bool is_raw, is_immortal;
    const void *made_by, *died_by;
    struct property *properties;
    struct death_call *deaths;
};

static struct {
    pthread_mutex_t lock; /* recursive: a death releases others */
    struct object *buckets[BUCKETS];
    unsigned long made;
} all;

static pthread_once_t once = PTHREAD_ONCE_INIT;

static void lock_make(void)
{
    pthread_mutexattr_t a;

    pthread_mutexattr_init(&a);
    pthread_mutexattr_settype(&a, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&all.lock, &a);
}

static void lock(void)
{
    pthread_once(&once, lock_make);
    pthread_mutex_lock(&all.lock);
}

static void unlock(void)
{
    pthread_mutex_unlock(&all.lock);
}

static struct object **bucket_of(id obj)
{
    return &all.buckets[((uintptr_t)obj >> 4) % BUCKETS];
}

struct object *object_find(id obj)
{
    struct object *o;

    lock();
    for (o = *bucket_of(obj); o && o->obj != obj; o = o->next)
        ;
    unlock();
    return o;
}

const char *object_class_name(const struct object *o)
{
    return o->cls;
}

id object_make(Class cls, const void *caller)
{
    struct object *o = calloc(1, sizeof(*o));
    struct object **b;

    if (!cls)
        standin_fail(caller, "an object of a class that is not there");
    o->obj = class_createInstance(cls, 0);
    o->cls = class_getName(cls);
    o->refs = 1;
    o->made_by = caller;
    lock();
    b = bucket_of(o->obj);
    o->next = *b;
    *b = o;
    all.made++;
    unlock();
    return o->obj;
}

id object_make_named(const char *cls, const void *caller)
{
    return object_make(objc_lookUpClass(cls), caller);
}

/* Twice the line: what is wrong, and where the object came from. */
static _Noreturn void dead(const struct object *o, const void *caller, const char *what)
{
    fprintf(stderr, "standin: %s to a %s that is dead (released too often?)\n", what, o->cls);
    if (o->made_by) {
        fprintf(stderr, "standin:  it was made here\n");
        standin_place(o->made_by);
    }
    if (o->died_by) {
        fprintf(stderr, "standin:  it died here\n");
        standin_place(o->died_by);
    }
    standin_fail(caller, "%s to a dead %s", what, o->cls);
}

struct object *object_check(id obj, const void *caller, const char *what)
{
    struct object *o;

    lock();
    o = object_find(obj);
    if (!o)
        standin_fail(caller, "%s to %p, which is no object", what, (void *)obj);
    if (!o->refs)
        dead(o, caller, what);
    unlock();
    return o;
}

void object_retain(id obj, const void *caller)
{
    lock();
    object_check(obj, caller, "retain")->refs++;
    unlock();
}

static void properties_free(struct object *o)
{
    while (o->properties) {
        struct property *p = o->properties;

        o->properties = p->next;
        if (p->object)
            object_release(p->object, NULL);
        free(p->text);
        free(p);
    }
}

static void die(struct object *o, const void *caller)
{
    o->died_by = caller;
    while (o->deaths) {
        struct death_call *d = o->deaths;

        o->deaths = d->next;
        d->fn(o->obj, d->ctx);
        free(d);
    }
    properties_free(o);
}

void object_release(id obj, const void *caller)
{
    struct object *o;
    bool dies;

    lock();
    o = object_check(obj, caller, "release");
    dies = !o->is_immortal && --o->refs == 0;
    unlock();
    if (dies) /* without the lock: a machine waits for its guest's threads */
        die(o, caller);
}

bool object_is_raw(id obj)
{
    struct object *o = object_find(obj);

    return o && o->is_raw;
}

void object_set_raw(id obj, bool raw)
{
    object_find(obj)->is_raw = raw;
}

void object_set_immortal(id obj)
{
    object_find(obj)->is_immortal = true;
}

void object_on_death(id obj, void (*fn)(id obj, void *ctx), void *ctx)
{
    struct death_call *d = calloc(1, sizeof(*d));

    *d = (struct death_call){ object_find(obj)->deaths, fn, ctx };
    object_find(obj)->deaths = d;
}

/* ---- pools: a stack of each thread ---- */

struct pool {
    struct pool *below;
    id *objects;
    size_t count, room;
};

static _Thread_local struct pool *top;

void *objc_autoreleasePoolPush(void)
{
    struct pool *p = calloc(1, sizeof(*p));

    p->below = top;
    top = p;
    return p;
}

void objc_autoreleasePoolPop(void *pool)
{
    const void *caller = __builtin_return_address(0);
    struct pool *p = top;

    if (!p || p != pool)
        standin_fail(caller, "objc_autoreleasePoolPop: it is not the innermost pool of this thread");
    top = p->below;
    for (size_t i = p->count; i-- > 0;)
        object_release(p->objects[i], caller);
    free(p->objects);
    free(p);
}

void object_autorelease(id obj, const void *caller)
{
    struct object *o = object_check(obj, caller, "autorelease");

    if (!top)
        standin_fail(caller, "a %s is autoreleased without a pool: it would leak", o->cls);
    if (top->count == top->room) {
        top->room = top->room ? 2 * top->room : 16;
        top->objects = realloc(top->objects, top->room * sizeof(id));
    }
    top->objects[top->count++] = obj;
}

id object_pooled(id owned)
{
    if (owned)
        object_autorelease(owned, NULL);
    return owned;
}

/* ---- the runtime's functions ---- */

id objc_retain(id obj)
{
    if (obj)
        object_retain(obj, __builtin_return_address(0));
    return obj;
}

void objc_release(id obj)
{
    if (obj)
        object_release(obj, __builtin_return_address(0));
}

id objc_autorelease(id obj)
{
    if (obj)
        object_autorelease(obj, __builtin_return_address(0));
    return obj;
}

/* ---- properties ---- */

void property_key(const char *selector, char *key, size_t room)
{
    size_t len;

    if (!strncmp(selector, "set", 3) && isupper((unsigned char)selector[3]))
        selector += 3;
    if ((!strncmp(selector, "is", 2) || !strncmp(selector, "Is", 2)) && isupper((unsigned char)selector[2]))
        selector += 2;
    len = strcspn(selector, ":");
    snprintf(key, room, "%.*s", (int)len, selector);
    key[0] = (char)toupper((unsigned char)key[0]);
}

static struct property *property_find(id obj, const char *key)
{
    struct object *o = object_find(obj);
    struct property *p = o ? o->properties : NULL;

    while (p && strcmp(p->key, key) != 0)
        p = p->next;
    return p;
}

static struct property *property_make(id obj, const char *key)
{
    struct property *p = property_find(obj, key);
    struct object *o = object_find(obj);

    if (!p) {
        p = calloc(1, sizeof(*p));
        snprintf(p->key, sizeof(p->key), "%s", key);
        p->next = o->properties;
        o->properties = p;
    }
    return p;
}

void property_set_number(id obj, const char *key, int64_t value)
{
    lock();
    property_make(obj, key)->number = value;
    unlock();
}

void property_set_double(id obj, const char *key, double value)
{
    lock();
    property_make(obj, key)->real = value;
    unlock();
}

void property_set_object(id obj, const char *key, id value)
{
    struct property *p;
    id old;

    lock();
    if (value)
        object_retain(value, NULL);
    p = property_make(obj, key);
    old = p->object;
    p->object = value;
    if (old)
        object_release(old, NULL);
    unlock();
}

void property_set_text(id obj, const char *key, const char *value)
{
    struct property *p;

    lock();
    p = property_make(obj, key);
    free(p->text);
    p->text = value ? strdup(value) : NULL;
    unlock();
}

bool property_has(id obj, const char *key)
{
    bool has;

    lock();
    has = property_find(obj, key) != NULL;
    unlock();
    return has;
}

int64_t property_number(id obj, const char *key)
{
    struct property *p;
    int64_t v;

    lock();
    p = property_find(obj, key);
    v = p ? p->number : 0;
    unlock();
    return v;
}

double property_double(id obj, const char *key)
{
    struct property *p;
    double v;

    lock();
    p = property_find(obj, key);
    v = p ? p->real : 0;
    unlock();
    return v;
}

id property_object(id obj, const char *key)
{
    struct property *p;
    id v;

    lock();
    p = property_find(obj, key);
    v = p ? p->object : NULL;
    unlock();
    return v;
}

const char *property_text(id obj, const char *key)
{
    struct property *p;
    const char *v;

    lock();
    p = property_find(obj, key);
    v = p ? p->text : NULL;
    unlock();
    return v;
}

void properties_copy(id to, id from)
{
    lock();
    for (struct property *p = object_find(from)->properties; p; p = p->next) {
        property_set_number(to, p->key, p->number);
        property_set_double(to, p->key, p->real);
        property_set_text(to, p->key, p->text);
        property_set_object(to, p->key, p->object);
    }
    unlock();
}

/* ---- what is left ---- */

unsigned objects_alive(const char *cls)
{
    unsigned n = 0;

    lock();
    for (size_t i = 0; i < BUCKETS; i++) {
        for (struct object *o = all.buckets[i]; o; o = o->next)
            n += o->refs && !o->is_immortal && (!cls || is_kind(o->obj, cls));
    }
    unlock();
    return n;
}

unsigned standin_alive(const char *cls)
{
    return objects_alive(cls);
}

void leaks_check(void)
{
    unsigned n = 0;

    if (top)
        standin_fail(NULL, "an autorelease pool is still open");
    /* The framework's own threads let go of what they passed on a moment after the callback. */
    for (int i = 0; i < 1000 && objects_alive(NULL); i++)
        usleep(1000);
    lock();
    for (size_t i = 0; i < BUCKETS; i++) {
        for (struct object *o = all.buckets[i]; o; o = o->next) {
            if (!o->refs || o->is_immortal)
                continue;
            n++;
            fprintf(stderr, "standin: a %s is left over with %ld owners; made here:\n", o->cls, o->refs);
            if (o->made_by)
                standin_place(o->made_by);
        }
    }
    unlock();
    if (n)
        standin_fail(NULL, "%u objects leaked", n);
}
