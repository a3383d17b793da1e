/* The classes of the played macOS, registered in GNU's runtime. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rt.h"

struct standin_world standin_world;

/* The macOS that is played, for the backend. */
struct os_version os_version_get(void)
{
    return (struct os_version){ standin_world.major, standin_world.minor };
}

static void world_default(void)
{
    const char *version = getenv("YADO_STANDIN_MACOS"), *arch = getenv("YADO_STANDIN_ARCH");
    const char *lacks = getenv("YADO_STANDIN_LACKS");
    struct standin_world w = { .major = 15,
                               .nested_supported = true,
                               .rosetta = 2,
                               .memory_min = MIB(4),
                               .memory_max = GIB(128),
                               .cpus_min = 1,
                               .cpus_max = 64 };

    if (version && sscanf(version, "%u.%u", &w.major, &w.minor) < 1)
        standin_fail(NULL, "YADO_STANDIN_MACOS=%s is no version", version);
    w.virtualization = lacks && !strcmp(lacks, "entitlement") ? ENTITLEMENT_ABSENT : ENTITLEMENT_TRUE;
    w.network_client = ENTITLEMENT_TRUE;
    w.is_supported = !lacks || strcmp(lacks, "support") != 0;
    w.is_arm64 = arch && !strcmp(arch, "arm64");
    standin_world = w;
}

bool world_has(struct os_version since, bool is_arm64_only)
{
    return os_version_at_least(os_version_get(), since) && (!is_arm64_only || standin_world.is_arm64);
}

const struct fact_class *fact_class_find(const char *name)
{
    for (const struct fact_class *c = fact_classes; c->name; c++) {
        if (!strcmp(c->name, name))
            return c;
    }
    return NULL;
}

static const struct fact_class *protocol_find(const char *name)
{
    for (const struct fact_class *c = fact_protocols; c->name; c++) {
        if (!strcmp(c->name, name))
            return c;
    }
    return NULL;
}

static const struct fact_method *method_in(const struct fact_class *c, bool is_class_method,
                                           const char *selector)
{
    for (const struct fact_method *m = c->methods; m->selector; m++) {
        if (m->is_class_method == is_class_method && !strcmp(m->selector, selector))
            return m;
    }
    for (size_t i = 0; i < array_size(c->conforms) && c->conforms[i]; i++) {
        const struct fact_class *p = protocol_find(c->conforms[i]);
        const struct fact_method *m = p ? method_in(p, is_class_method, selector) : NULL;

        if (m)
            return m;
    }
    return NULL;
}

const struct fact_method *fact_method_find(Class cls, bool is_class_method, const char *selector,
                                           const struct fact_class **owner)
{
    for (; cls; cls = class_getSuperclass(cls)) {
        const struct fact_class *c = fact_class_find(class_getName(cls));
        const struct fact_method *m = c ? method_in(c, is_class_method, selector) : NULL;

        if (m) {
            if (owner)
                *owner = c;
            return m;
        }
    }
    return NULL;
}

Class class_of(id obj, bool *is_class)
{
    Class isa = object_getClass(obj);

    *is_class = class_isMetaClass(isa);
    return *is_class ? (Class)(void *)obj : isa;
}

bool class_is(Class cls, const char *name)
{
    for (; cls; cls = class_getSuperclass(cls)) {
        if (!strcmp(class_getName(cls), name))
            return true;
    }
    return false;
}

bool is_kind(id obj, const char *name)
{
    bool is_class;

    return obj && class_is(class_of(obj, &is_class), name) && !is_class;
}

/* ---- registration ---- */

static void methods_add(Class cls, const struct fact_class *c)
{
    for (const struct fact_method *m = c->methods; m->selector; m++) {
        Class to = m->is_class_method ? object_getClass((id)(void *)cls) : cls;

        if (world_has(m->since, m->is_arm64_only) &&
            !class_addMethod(to, sel_registerName(m->selector), standin_imp, m->encoding))
            standin_fail(NULL, "cannot register [%s %s]", c->name, m->selector);
    }
    for (size_t i = 0; i < array_size(c->conforms) && c->conforms[i]; i++) {
        const struct fact_class *p = protocol_find(c->conforms[i]);

        if (p && world_has(p->since, p->is_arm64_only))
            methods_add(cls, p);
    }
}

static Class class_register(const struct fact_class *c);

/* The nearest superclass that the played macOS has: some were put between later. */
static Class super_register(const struct fact_class *c)
{
    const struct fact_class *s = c->super ? fact_class_find(c->super) : NULL;

    if (!s)
        return NULL;
    return world_has(s->since, s->is_arm64_only) ? class_register(s) : super_register(s);
}

static Class class_register(const struct fact_class *c)
{
    Class cls = objc_lookUpClass(c->name), super;

    if (cls)
        return cls;
    super = super_register(c);
    if (c->super && !super && strcmp(c->super, "NSObject") != 0)
        return NULL; /* of another framework (NSView): not played */
    cls = objc_allocateClassPair(super, c->name, 0);
    if (!cls)
        standin_fail(NULL, "cannot make class %s", c->name);
    if (!super && !class_addIvar(cls, "isa", sizeof(void *), 3, "#"))
        standin_fail(NULL, "cannot make the root class");
    methods_add(cls, c);
    objc_registerClassPair(cls);
    return cls;
}

/* Classes of the runtime itself. */
static void helper_register(const char *name)
{
    Class cls = objc_allocateClassPair(objc_lookUpClass("NSObject"), name, 0);

    objc_registerClassPair(cls);
}

id VZErrorDomain;

void standin_init(void)
{
    world_default();
    for (const struct fact_class *c = fact_classes; c->name; c++) {
        if (world_has(c->since, c->is_arm64_only))
            class_register(c);
    }
    helper_register("OS_dispatch_queue_serial");
    helper_register("StandinTrap");
    helper_register("StandinBytes");
    VZErrorDomain = string_new("VZErrorDomain");
    object_set_immortal(VZErrorDomain);
}

void standin_world_reset(void);

void standin_world_reset(void)
{
    world_default();
}

/* ---- what the backend asks of the runtime: GNU's functions, with a look first (linked with --wrap) ---- */

Class __real_objc_getClass(const char *name);
Class __wrap_objc_getClass(const char *name);

Class __wrap_objc_getClass(const char *name)
{
    if (!strncmp(name, "VZ", 2) && !fact_class_find(name))
        standin_fail(__builtin_return_address(0), "objc_getClass(\"%s\"): no macOS has such a class", name);
    return __real_objc_getClass(name);
}

static void delegate_method_check(const char *selector, const char *types, const void *caller)
{
    bool is_known = false;

    for (const struct fact_class *p = fact_protocols; p->name; p++) {
        const struct fact_method *m = method_in(p, false, selector);

        if (!m)
            continue;
        is_known = true;
        if (strcmp(m->encoding, types) != 0)
            standin_fail(caller, "class_addMethod(\"%s\"): encoding \"%s\", protocol %s has \"%s\"", selector,
                         types, p->name, m->encoding);
    }
    if (!is_known)
        standin_fail(caller, "class_addMethod(\"%s\"): no delegate protocol has it", selector);
}

BOOL __real_class_addMethod(Class cls, SEL sel, IMP imp, const char *types);
BOOL __wrap_class_addMethod(Class cls, SEL sel, IMP imp, const char *types);

BOOL __wrap_class_addMethod(Class cls, SEL sel, IMP imp, const char *types)
{
    if (imp != standin_imp)
        delegate_method_check(sel_getName(sel), types, __builtin_return_address(0));
    return __real_class_addMethod(cls, sel, imp, types);
}

IMP delegate_method(id delegate, const char *protocol, const char *selector)
{
    const struct fact_class *p = protocol_find(protocol);
    const struct fact_method *m = p ? method_in(p, false, selector) : NULL;
    bool is_class;
    void *method;

    if (!m)
        standin_fail(NULL, "protocol %s has no method \"%s\"", protocol, selector);
    if (!delegate || !world_has(m->since, m->is_arm64_only))
        return NULL;
    object_check(delegate, NULL, selector);
    method = class_getInstanceMethod(class_of(delegate, &is_class), sel_registerName(selector));
    return method ? method_getImplementation(method) : NULL;
}

/* GNU's headers have it as an inline function. */
Class object_getClass(id obj)
{
    return obj ? *(Class *)(void *)obj : NULL;
}

/* For the leak sanitizer, where there is one: GNU's runtime keeps the names of what it registers for ever, in
 * tables that the sanitizer does not see. */
const char *__lsan_default_suppressions(void);

const char *__lsan_default_suppressions(void)
{
    return "leak:objc_malloc\nleak:objc_calloc\n";
}
