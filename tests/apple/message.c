/* A message on its way: whether the receiver has such a method on the macOS that is played, and whether each
 * argument is what the method takes. */
#include <ctype.h>
#include <dlfcn.h>
#include <execinfo.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "backend/apple/block.h"
#include "rt.h"

/* ---- failing ---- */

/* "function file:line" of an address in this program, by the tool that reads debug information. */
void standin_place(const void *address)
{
    char command[256], line[256];
    Dl_info info;
    FILE *f;

    if (!dladdr(address, &info))
        return;
    snprintf(command, sizeof(command), "addr2line -f -s -p -i -e /proc/%d/exe %p 2>/dev/null", getpid(),
             (void *)((const char *)address - (const char *)info.dli_fbase - 1));
    f = popen(command, "r");
    while (f && fgets(line, sizeof(line), f))
        fprintf(stderr, "standin:   at %s", line);
    if (f)
        pclose(f);
}

void standin_fail(const void *caller, const char *fmt, ...)
{
    char text[1024];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    fprintf(stderr, "standin: %s\n", text);
    if (caller)
        standin_place(caller);
    abort();
}

/* ---- what a test scripts and counts ---- */

#define SCRIPT_MAX 32
#define COUNT_MAX 512

static struct {
    pthread_mutex_t lock;
    struct {
        char selector[96], domain[40], text[128], reason[128];
        long code;
        bool is_used;
    } script[SCRIPT_MAX];
    struct {
        const char *selector;
        unsigned count;
    } counts[COUNT_MAX];
} told = { .lock = PTHREAD_MUTEX_INITIALIZER };

void standin_fail_next(const char *selector, const char *domain, long code, const char *text,
                       const char *reason)
{
    for (unsigned i = 0; i < SCRIPT_MAX; i++) {
        if (told.script[i].is_used)
            continue;
        snprintf(told.script[i].selector, sizeof(told.script[i].selector), "%s", selector);
        snprintf(told.script[i].domain, sizeof(told.script[i].domain), "%s", domain);
        snprintf(told.script[i].text, sizeof(told.script[i].text), "%s", text);
        snprintf(told.script[i].reason, sizeof(told.script[i].reason), "%s", reason ? reason : "");
        told.script[i].code = code;
        told.script[i].is_used = true;
        return;
    }
    standin_fail(NULL, "too much is scripted");
}

id scripted_error(const char *selector)
{
    id error = NULL;

    pthread_mutex_lock(&told.lock);
    for (unsigned i = 0; i < SCRIPT_MAX && !error; i++) {
        if (!told.script[i].is_used || strcmp(told.script[i].selector, selector) != 0)
            continue;
        told.script[i].is_used = false;
        error = error_new(told.script[i].domain, told.script[i].code, told.script[i].text,
                          told.script[i].reason[0] ? told.script[i].reason : NULL);
    }
    pthread_mutex_unlock(&told.lock);
    return error;
}

static void count_message(const char *selector)
{
    unsigned i = 0;

    pthread_mutex_lock(&told.lock);
    while (i < COUNT_MAX && told.counts[i].selector && strcmp(told.counts[i].selector, selector) != 0)
        i++;
    if (i < COUNT_MAX) {
        told.counts[i].selector = selector;
        told.counts[i].count++;
    }
    pthread_mutex_unlock(&told.lock);
}

unsigned standin_count(const char *selector)
{
    unsigned count = 0;

    pthread_mutex_lock(&told.lock);
    for (unsigned i = 0; i < COUNT_MAX && told.counts[i].selector; i++) {
        if (!strcmp(told.counts[i].selector, selector))
            count = told.counts[i].count;
    }
    pthread_mutex_unlock(&told.lock);
    return count;
}

void standin_world_reset(void);

void standin_begin(void)
{
    standin_world_reset();
    pthread_mutex_lock(&told.lock);
    memset(told.script, 0, sizeof(told.script));
    memset(told.counts, 0, sizeof(told.counts));
    pthread_mutex_unlock(&told.lock);
}

void standin_end(void)
{
    for (unsigned i = 0; i < SCRIPT_MAX; i++) {
        if (told.script[i].is_used)
            standin_fail(NULL, "the scripted failure of \"%s\" was never asked for", told.script[i].selector);
    }
    leaks_check();
}

/* ---- encodings ---- */

/* Past one type and the frame offset behind it. */
static const char *type_skip(const char *t)
{
    while (strchr("rnNoORV^", *t))
        t++;
    if (*t == '{') {
        while (*t != '}')
            t++;
    } else if (*t == '@' && t[1] == '?') {
        t++;
    }
    t++;
    while (isdigit((unsigned char)*t))
        t++;
    return t;
}

/* Copies the type alone, without the offset. */
static void type_copy(const char *t, char *out, size_t room)
{
    size_t len = (size_t)(type_skip(t) - t);

    while (len && isdigit((unsigned char)t[len - 1]))
        len--;
    snprintf(out, room, "%.*s", (int)len, t);
}

static bool is_readable(uint64_t address, size_t len)
{
    char buf[64];
    struct iovec to = { buf, len }, from = { (void *)(uintptr_t)address, len };

    return process_vm_readv(getpid(), &to, 1, &from, 1, 0) == (ssize_t)len;
}

static bool is_writable(uint64_t address, size_t len)
{
    char buf[64];
    struct iovec mine = { buf, len }, other = { (void *)(uintptr_t)address, len };

    return is_readable(address, len) && process_vm_readv(getpid(), &mine, 1, &other, 1, 0) == (ssize_t)len &&
           process_vm_writev(getpid(), &mine, 1, &other, 1, 0) == (ssize_t)len;
}

#define BAD(c, i, ...) bad_argument(c, i, __VA_ARGS__)

static _Noreturn void __attribute__((format(printf, 3, 4)))
bad_argument(const struct call *c, unsigned i, const char *fmt, ...)
{
    char text[256];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    standin_fail(c->caller, "%c[%s %s]: argument %u %s", c->method->is_class_method ? '+' : '-', c->cls->name,
                 c->method->selector, i + 1, text);
}

/* The class name in "VZBootLoader * _Nullable" or between < and > of an array. False: it says none. */
static bool class_named(const char *type, char *name, size_t room)
{
    size_t n = 0;

    while (n + 1 < room && (isalnum((unsigned char)type[n]) || type[n] == '_')) {
        name[n] = type[n];
        n++;
    }
    name[n] = '\0';
    return n > 0 && strcmp(name, "id") != 0 && fact_class_find(name) && objc_lookUpClass(name);
}

static void elements_check(const struct call *c, unsigned i, id array, const char *type)
{
    const char *of = strchr(type, '<');
    char name[96];

    if (!of || !class_named(of + 1, name, sizeof(name)))
        return;
    for (unsigned long k = 0; k < array_count(array); k++) {
        id e = array_at(array, k);

        if (!is_kind(e, name))
            BAD(c, i, "is an array with a %s, not of %s", object_class_name(object_find(e)), name);
    }
}

static void object_argument_check(const struct call *c, unsigned i)
{
    const char *type = c->method->arguments[i];
    id obj = arg_id(c, i);
    struct object *o;
    char name[96];

    if (!obj) {
        if (type && !strstr(type, "_Nullable"))
            BAD(c, i, "is nil, which a %s may not be", type);
        return;
    }
    o = object_find(obj);
    if (!o)
        BAD(c, i, "is no object: 0x%llx", (unsigned long long)c->args[i]);
    object_check(obj, c->caller, c->method->selector);
    if (object_is_raw(obj))
        BAD(c, i, "is a %s that was not initialized", object_class_name(o));
    if (!type || !class_named(type, name, sizeof(name)))
        return;
    if (!is_kind(obj, name))
        BAD(c, i, "is a %s, not a %s", object_class_name(o), name);
    if (!strcmp(name, "NSArray"))
        elements_check(c, i, obj, type);
    if (!strcmp(name, "NSURL") && !url_path(obj) && !strstr(c->cls->name, "NetworkBlockDevice"))
        BAD(c, i, "is not the URL of a file");
}

static void block_argument_check(const struct call *c, unsigned i)
{
    const struct block *b = (const struct block *)(uintptr_t)c->args[i];

    if (!is_readable(c->args[i], sizeof(*b)))
        BAD(c, i, "is no block: 0x%llx", (unsigned long long)c->args[i]);
    if (b->isa != (void *)_NSConcreteStackBlock)
        BAD(c, i, "is no block: its isa is not _NSConcreteStackBlock");
    if (b->flags & ~BLOCK_HAS_SIGNATURE)
        BAD(c, i, "is a block with flags 0x%x, which have helpers that it lacks", b->flags);
    if (!is_readable((uint64_t)(uintptr_t)b->descriptor, sizeof(*b->descriptor)) ||
        b->descriptor->size < 32 || b->descriptor->size > 4096)
        BAD(c, i, "is a block without a descriptor");
}

static void pointer_argument_check(const struct call *c, unsigned i, const char *t)
{
    uint64_t v = c->args[i];

    if (t[0] == 'r') {
        if (v && !is_readable(v, 1))
            BAD(c, i, "(%s) points nowhere: 0x%llx", t, (unsigned long long)v);
    } else if (v && !is_writable(v, sizeof(void *))) {
        BAD(c, i, "(%s) points to nothing that can be written: 0x%llx", t, (unsigned long long)v);
    } else if (!v && !strcmp(t, "^@")) {
        BAD(c, i, "is NULL: the reason of a failure would be lost");
    }
}

static void argument_check(const struct call *c, unsigned i, const char *t)
{
    bool is_class;

    if (!strcmp(t, "@"))
        object_argument_check(c, i);
    else if (!strcmp(t, "@?"))
        block_argument_check(c, i);
    else if (!strcmp(t, "#") && c->args[i])
        class_of(arg_id(c, i), &is_class);
    else if (!strcmp(t, "c") && c->args[i] > 1)
        BAD(c, i, "is a BOOL of value %lld", (long long)c->args[i]);
    else if (t[0] == 'r' || t[0] == '^')
        pointer_argument_check(c, i, t);
}

static uint64_t narrowed(uint64_t v, char type)
{
    switch (type) {
    case 'c':
    case 'C': return (uint8_t)v;
    case 'S': return (uint16_t)v;
    case 'i': return (uint64_t)(int64_t)(int32_t)v;
    case 'I': return (uint32_t)v;
    default: return v;
    }
}

/* Takes the arguments out of registers and stack as the encoding says, and checks them. */
static void arguments_read(struct call *c, const struct frame *f)
{
    unsigned gpr = 2, sse = 0, stack = 0;
    const char *t = c->method->encoding;

    t = type_skip(type_skip(type_skip(t))); /* what is returned, self, _cmd */
    for (; *t && c->count < FACT_ARGUMENTS_MAX; t = type_skip(t)) {
        char type[64];

        type_copy(t, type, sizeof(type));
        if (type[0] == 'd') {
            c->dargs[sse] = f->xmm[sse][0];
            c->args[c->count++] = 0;
            sse++;
        } else if (type[0] == '{') {
            standin_fail(c->caller, "[%s %s]: structures by value are not played", c->cls->name,
                         c->method->selector);
        } else {
            uint64_t v = gpr < 6 ? f->gpr[gpr++] : f->stack[stack++];

            c->args[c->count++] = narrowed(v, type[0]);
            argument_check(c, c->count - 1, type);
        }
    }
}

/* ---- receivers ---- */

static _Noreturn void no_method(id self, const char *selector, const void *caller)
{
    bool is_class;
    Class cls = class_of(self, &is_class);
    char kind = is_class ? '+' : '-';
    const struct fact_method *m = fact_method_find(cls, is_class, selector, NULL);

    if (m)
        standin_fail(caller, "%c[%s %s] needs macOS %u.%u%s; macOS %u.%u on %s is played", kind,
                     class_getName(cls), selector, m->since.major, m->since.minor,
                     m->is_arm64_only ? " on Apple silicon" : "", standin_world.major, standin_world.minor,
                     standin_world.is_arm64 ? "Apple silicon" : "Intel");
    if (fact_method_find(cls, !is_class, selector, NULL))
        standin_fail(caller, "%c[%s %s]: it is %s method", kind, class_getName(cls), selector,
                     is_class ? "an instance" : "a class");
    standin_fail(caller, "%c[%s %s]: there is no such method", kind, class_getName(cls), selector);
}

/* -init where the framework says it is unavailable: in the class or above it, with no init of its own nearer.
 */
static bool init_unavailable(Class cls)
{
    for (; cls; cls = class_getSuperclass(cls)) {
        const struct fact_class *c = fact_class_find(class_getName(cls));

        if (!c || !strcmp(c->name, "NSObject"))
            continue;
        for (const struct fact_method *m = c->methods; m->selector; m++) {
            if (!strcmp(m->selector, "init"))
                return false;
        }
        if (c->new_unavailable || c->not_created)
            return true;
    }
    return false;
}

static void family_check(id self, const char *selector, const void *caller)
{
    bool is_class, is_init = !strncmp(selector, "init", 4) && !islower((unsigned char)selector[4]);
    Class cls = class_of(self, &is_class);

    if ((!strcmp(selector, "new") || !strcmp(selector, "init")) && init_unavailable(cls))
        standin_fail(caller, "%c[%s %s]: it is unavailable", is_class ? '+' : '-', class_getName(cls),
                     selector);
    if (is_class)
        return;
    if (object_is_raw(self) && !is_init && strcmp(selector, "release") != 0)
        standin_fail(caller, "-[%s %s]: the object was not initialized", class_getName(cls), selector);
    if (!object_is_raw(self) && is_init)
        standin_fail(caller, "-[%s %s]: the object is already initialized", class_getName(cls), selector);
}

static bool is_class_object(id obj)
{
    Class list[1024]; /* each thread its own: a class that comes meanwhile moves the others */
    int n = objc_getClassList(list, array_size(list));

    for (int i = 0; i < n && i < (int)array_size(list); i++) {
        if (list[i] == (Class)(void *)obj)
            return true;
    }
    return false;
}

/* What only some objects can tell: those that may not be looked at, and those that belong to a queue. */
static void place_check(id self, const char *selector, const void *caller)
{
    static const char *const anywhere[] = { "retain", "release", "autorelease" };
    const char *cls = object_class_name(object_find(self));
    id queue = (id)(uintptr_t)property_number(self, VM_QUEUE);

    if (!strcmp(cls, "StandinTrap"))
        standin_fail(caller, "\"%s\" to the NSError of a call that succeeded", selector);
    for (size_t i = 0; i < array_size(anywhere); i++) {
        if (!strcmp(selector, anywhere[i]))
            return;
    }
    if (queue && !queue_is_current(queue))
        standin_fail(caller, "-[%s %s]: not on the machine's queue", cls, selector);
}

IMP standin_message(struct frame *f);

IMP standin_message(struct frame *f)
{
    id self = (id)(uintptr_t)f->gpr[0];
    SEL sel = (SEL)(uintptr_t)f->gpr[1];
    const char *selector = sel ? sel_getName(sel) : "(null)";
    bool is_class;

    count_message(selector);
    if (!self) {
        if (!strcmp(selector, "alloc") || !strcmp(selector, "new") || !strncmp(selector, "init", 4))
            standin_fail(f->caller, "[nil %s]: of a class that macOS %u.%u on %s does not have?", selector,
                         standin_world.major, standin_world.minor,
                         standin_world.is_arm64 ? "Apple silicon" : "Intel");
        return NULL;
    }
    if (!object_find(self) && !is_class_object(self))
        standin_fail(f->caller, "%s to 0x%llx, which is no object", selector, (unsigned long long)f->gpr[0]);
    if (object_find(self)) {
        object_check(self, f->caller, selector);
        place_check(self, selector, f->caller);
    }
    family_check(self, selector, f->caller);
    /* By name: GNU's runtime answers an unknown selector with a forwarding function. */
    if (!class_respondsToSelector(object_getClass(self), sel))
        no_method(self, selector, f->caller);
    class_of(self, &is_class);
    return objc_msg_lookup(self, sel);
}

/* ---- behaviour ---- */

static behaviour behaviour_in(const struct behaviour_row *rows, const struct call *c)
{
    for (; rows->cls; rows++) {
        if (!strcmp(rows->cls, c->cls->name) && !strcmp(rows->selector + 1, c->method->selector) &&
            (rows->selector[0] == '+') == c->method->is_class_method)
            return rows->fn;
    }
    return NULL;
}

static behaviour behaviour_find(const struct call *c)
{
    const struct behaviour_row *all[] = { foundation_behaviour, config_behaviour, machine_behaviour,
                                          device_behaviour };
    behaviour fn = NULL;

    for (size_t i = 0; i < array_size(all) && !fn; i++)
        fn = behaviour_in(all[i], c);
    return fn;
}

static void property_put(id obj, const char *key, const struct call *c, unsigned i, const char *t,
                         unsigned *doubles)
{
    if (!strcmp(t, "@"))
        property_set_object(obj, key, arg_id(c, i));
    else if (t[0] == 'd')
        property_set_double(obj, key, c->dargs[(*doubles)++]);
    else if (t[0] != '^' && t[0] != 'r')
        property_set_number(obj, key, (int64_t)c->args[i]);
}

/* initWithURL:readOnly:error: sets URL and ReadOnly. */
void init_properties(id obj, const struct call *c);

void init_properties(id obj, const struct call *c)
{
    const char *s = c->method->selector, *t = type_skip(type_skip(type_skip(c->method->encoding)));
    unsigned doubles = 0;
    char type[64], key[64];

    if (!strncmp(s, "initWith", 8))
        s += 8;
    for (unsigned i = 0; i < c->count; i++, t = type_skip(t)) {
        size_t len = strcspn(s, ":");

        snprintf(key, sizeof(key), "%.*s", (int)len, s);
        key[0] = (char)toupper((unsigned char)key[0]);
        s += len + 1;
        type_copy(t, type, sizeof(type));
        property_put(obj, key, c, i, type, &doubles);
    }
}

/* An initialized object of self's class, which is not self: who goes on with what alloc gave is found out. */
id init_result(struct call *c);

id init_result(struct call *c)
{
    bool is_class;
    id obj = object_make(class_of(c->self, &is_class), c->caller);

    init_properties(obj, c);
    object_release(c->self, c->caller);
    return obj;
}

static void generic_get(struct call *c, char type)
{
    char key[64];

    property_key(c->method->selector, key, sizeof(key));
    if (type == '@') {
        id value = property_object(c->self, key);

        if (!value && c->method->returns && !strncmp(c->method->returns, "NSArray", 7))
            value = array_new(NULL, 0);
        else if (value)
            object_retain(value, c->caller);
        give(c, object_pooled(value));
    } else if (type == 'd') {
        c->fret[0] = property_double(c->self, key);
    } else {
        c->ret = (uint64_t)(property_has(c->self, key) ? property_number(c->self, key) : c->method->value);
    }
}

static void generic_set(struct call *c)
{
    char key[64], type[64];
    unsigned doubles = 0;

    property_key(c->method->selector, key, sizeof(key));
    type_copy(type_skip(type_skip(type_skip(c->method->encoding))), type, sizeof(type));
    property_put(c->self, key, c, 0, type, &doubles);
}

static void generic(struct call *c)
{
    const char *s = c->method->selector;
    char type = c->method->encoding[0];

    if (!strncmp(s, "init", 4) && type == '@')
        give(c, init_result(c));
    else if (!c->method->is_class_method && c->count == 0 && type != 'v' && type != '{')
        generic_get(c, type);
    else if (!c->method->is_class_method && c->count == 1 && type == 'v' && !strncmp(s, "set", 3))
        generic_set(c);
    else
        standin_fail(c->caller, "%c[%s %s] is not played by this stand-in",
                     c->method->is_class_method ? '+' : '-', c->cls->name, s);
}

void standin_perform(struct frame *f);

void standin_perform(struct frame *f)
{
    id self = (id)(uintptr_t)f->gpr[0];
    bool is_class;
    Class cls = class_of(self, &is_class);
    struct call c = { .self = self, .caller = f->caller };
    const char *selector = sel_getName((SEL)(uintptr_t)f->gpr[1]);
    behaviour fn;

    c.method = fact_method_find(cls, is_class, selector, &c.cls);
    arguments_read(&c, f);
    fn = behaviour_find(&c);
    if (fn)
        fn(&c);
    else
        generic(&c);
    f->ret = c.ret;
    f->ret2 = 0;
    f->fret[0] = c.fret[0];
    f->fret[1] = c.fret[1];
}

void fail_with(struct call *c, unsigned error_arg, id error)
{
    *(id *)(uintptr_t)c->args[error_arg] = object_pooled(error);
    if (c->method->encoding[0] == '@' && !c->method->is_class_method &&
        !strncmp(c->method->selector, "init", 4))
        object_release(c->self, c->caller);
    c->ret = 0;
}

void error_trap(struct call *c, unsigned error_arg)
{
    *(id *)(uintptr_t)c->args[error_arg] = object_pooled(object_make_named("StandinTrap", c->caller));
}
