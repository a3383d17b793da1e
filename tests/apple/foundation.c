/* What is used of Foundation. */
#include <ctype.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "rt.h"

id init_result(struct call *c);

/* ---- NSObject ---- */

static void alloc(struct call *c)
{
    bool is_class;
    id obj = object_make(class_of(c->self, &is_class), c->caller);

    object_set_raw(obj, true);
    give(c, obj);
}

static void new (struct call *c)
{
    bool is_class;

    give(c, object_make(class_of(c->self, &is_class), c->caller));
}

static void init(struct call *c)
{
    give(c, init_result(c));
}

static void retain(struct call *c)
{
    object_retain(c->self, c->caller);
    give(c, c->self);
}

static void release(struct call *c)
{
    object_release(c->self, c->caller);
}

static void autorelease(struct call *c)
{
    object_autorelease(c->self, c->caller);
    give(c, c->self);
}

static void copy(struct call *c)
{
    bool is_class;
    id to = object_make(class_of(c->self, &is_class), c->caller);

    properties_copy(to, c->self);
    give(c, to);
}

static void is_equal(struct call *c)
{
    c->ret = c->self == arg_id(c, 0);
}

static void is_kind_of_class(struct call *c)
{
    c->ret = is_kind(c->self, class_getName((Class)(void *)arg_id(c, 0)));
}

static void responds(struct call *c)
{
    c->ret = class_respondsToSelector(object_getClass(c->self), (SEL)(uintptr_t)c->args[0]) != 0;
}

static void class_get(struct call *c)
{
    bool is_class;

    c->ret = (uint64_t)(uintptr_t)class_of(c->self, &is_class);
}

/* ---- NSString ---- */

static bool is_utf8(const char *s)
{
    for (const unsigned char *p = (const unsigned char *)s; *p; p++) {
        int more = *p < 0x80 ? 0 : *p >= 0xf0 && *p < 0xf5 ? 3 : *p >= 0xe0 ? 2 : *p >= 0xc2 ? 1 : -1;

        if (more < 0 || (*p >= 0xf5))
            return false;
        while (more-- > 0) {
            if ((*++p & 0xc0) != 0x80)
                return false;
        }
    }
    return true;
}

id string_new(const char *text)
{
    id s = object_make_named("NSString", NULL);

    property_set_text(s, "text", text);
    return s;
}

const char *string_text(id string)
{
    if (!string)
        return NULL;
    if (!is_kind(string, "NSString"))
        standin_fail(NULL, "a %s is no NSString", object_class_name(object_find(string)));
    return property_text(string, "text");
}

static void string_with_utf8(struct call *c)
{
    const char *text = (const char *)(uintptr_t)c->args[0];

    if (!text)
        standin_fail(c->caller, "+[NSString stringWithUTF8String:]: NULL");
    if (is_utf8(text))
        give(c, object_pooled(string_new(text)));
}

static void bytes_die(id obj, void *ctx)
{
    (void)obj;
    memset(ctx, 'Z', strlen(ctx));
    free(ctx);
}

/* The bytes live as long as the innermost pool, and no longer. */
static void string_utf8(struct call *c)
{
    char *text = strdup(string_text(c->self));
    id holder = object_make_named("StandinBytes", c->caller);

    object_on_death(holder, bytes_die, text);
    object_pooled(holder);
    c->ret = (uint64_t)(uintptr_t)text;
}

/* ---- NSURL ---- */

static void url_file(struct call *c)
{
    id url = object_make_named("NSURL", c->caller);
    const char *path = string_text(arg_id(c, 0));

    if (!path)
        standin_fail(c->caller, "+[NSURL %s]: nil", c->method->selector);
    property_set_text(url, "path", path);
    if (c->count > 1)
        property_set_number(url, "isDirectory", (int64_t)c->args[1]);
    give(c, object_pooled(url));
}

/* RFC 3986 as far as it matters here: a scheme, and no blanks. */
static void url_with_string(struct call *c)
{
    const char *text = string_text(arg_id(c, 0));
    id url;

    if (!text)
        standin_fail(c->caller, "+[NSURL URLWithString:]: nil");
    if (!*text || strchr(text, ' '))
        return;
    url = object_make_named("NSURL", c->caller);
    property_set_text(url, "text", text);
    give(c, object_pooled(url));
}

const char *url_path(id url)
{
    return property_text(url, "path");
}

static void url_get_path(struct call *c)
{
    const char *path = url_path(c->self);

    give(c, path ? object_pooled(string_new(path)) : NULL);
}

/* ---- NSArray and NSDictionary ---- */

static void key_at(char key[24], const char *what, unsigned long i)
{
    snprintf(key, 24, "%s%lu", what, i);
}

id array_new(const id *objects, unsigned long count)
{
    id a = object_make_named("NSArray", NULL);
    char key[24];

    for (unsigned long i = 0; i < count; i++) {
        key_at(key, "", i);
        property_set_object(a, key, objects[i]);
    }
    property_set_number(a, "count", (int64_t)count);
    return a;
}

unsigned long array_count(id array)
{
    return array ? (unsigned long)property_number(array, "count") : 0;
}

id array_at(id array, unsigned long i)
{
    char key[24];

    key_at(key, "", i);
    return property_object(array, key);
}

static void elements_check(struct call *c, const id *objects, unsigned long count)
{
    for (unsigned long i = 0; i < count; i++) {
        if (!objects[i])
            standin_fail(c->caller, "+[%s %s]: element %lu is nil", c->cls->name, c->method->selector, i);
        object_check(objects[i], c->caller, c->method->selector);
        if (object_is_raw(objects[i]))
            standin_fail(c->caller, "+[%s %s]: element %lu was not initialized", c->cls->name,
                         c->method->selector, i);
    }
}

static void array_with(struct call *c)
{
    const id *objects = (const id *)(uintptr_t)c->args[0];

    elements_check(c, objects, c->args[1]);
    give(c, object_pooled(array_new(objects, c->args[1])));
}

static void array_get_count(struct call *c)
{
    c->ret = array_count(c->self);
}

static void array_object_at(struct call *c)
{
    id e;

    if (c->args[0] >= array_count(c->self))
        standin_fail(c->caller, "-[NSArray objectAtIndex:]: %llu of %lu", (unsigned long long)c->args[0],
                     array_count(c->self));
    e = array_at(c->self, c->args[0]);
    object_retain(e, c->caller);
    give(c, object_pooled(e));
}

static void dictionary_with(struct call *c)
{
    const id *objects = (const id *)(uintptr_t)c->args[0], *keys = (const id *)(uintptr_t)c->args[1];
    id d = object_make_named("NSDictionary", c->caller);
    char key[24];

    elements_check(c, objects, c->args[2]);
    elements_check(c, keys, c->args[2]);
    for (unsigned long i = 0; i < c->args[2]; i++) {
        key_at(key, "k", i);
        property_set_object(d, key, keys[i]);
        key_at(key, "v", i);
        property_set_object(d, key, objects[i]);
    }
    property_set_number(d, "count", (int64_t)c->args[2]);
    give(c, object_pooled(d));
}

id dictionary_key_at(id dictionary, unsigned long i)
{
    char key[24];

    key_at(key, "k", i);
    return property_object(dictionary, key);
}

static void dictionary_object(struct call *c)
{
    const char *want = string_text(arg_id(c, 0));
    unsigned long count = (unsigned long)property_number(c->self, "count");
    char key[24];

    for (unsigned long i = 0; i < count; i++) {
        if (strcmp(string_text(dictionary_key_at(c->self, i)), want) != 0)
            continue;
        key_at(key, "v", i);
        object_retain(property_object(c->self, key), c->caller);
        give(c, object_pooled(property_object(c->self, key)));
        return;
    }
}

/* ---- NSError ---- */

/* The debug description is where a failed validation says why. */
static id user_info_new(const char *debug)
{
    id d = object_make_named("NSDictionary", NULL), key = string_new("NSDebugDescription"),
       value = string_new(debug);

    property_set_object(d, "k0", key);
    property_set_object(d, "v0", value);
    property_set_number(d, "count", 1);
    object_release(key, NULL);
    object_release(value, NULL);
    return d;
}

static void owned_set(id obj, const char *key, id value)
{
    property_set_object(obj, key, value);
    if (value)
        object_release(value, NULL);
}

id error_new(const char *domain, long code, const char *text, const char *reason)
{
    id e = object_make_named("NSError", NULL);

    owned_set(e, "Domain", string_new(domain));
    property_set_number(e, "Code", code);
    owned_set(e, "LocalizedDescription", string_new(text));
    owned_set(e, "LocalizedFailureReason", reason ? string_new(reason) : NULL);
    owned_set(e, "UserInfo", user_info_new(reason ? reason : text));
    return e;
}

/* ---- NSFileHandle and NSData ---- */

static void handle_die(id obj, void *ctx)
{
    int fd = (int)property_number(obj, "FileDescriptor");

    (void)ctx;
    if (close(fd))
        standin_fail(NULL, "an NSFileHandle closes descriptor %d, which somebody else has closed", fd);
}

static void handle_init(struct call *c)
{
    int fd = (int)c->args[0];
    id h;

    if (fcntl(fd, F_GETFD) < 0)
        standin_fail(c->caller, "-[NSFileHandle %s]: descriptor %d is not open", c->method->selector, fd);
    h = init_result(c);
    property_set_number(h, "FileDescriptor", fd);
    if (c->count > 1 && c->args[1])
        object_on_death(h, handle_die, NULL);
    give(c, h);
}

int handle_fd(id handle)
{
    int fd = handle ? (int)property_number(handle, "FileDescriptor") : -1;

    if (fd >= 0 && fcntl(fd, F_GETFD) < 0)
        standin_fail(NULL, "the descriptor %d of an NSFileHandle was closed", fd);
    return fd;
}

struct bytes {
    size_t len;
    uint8_t data[];
};

static void data_die(id obj, void *ctx)
{
    (void)obj;
    memset(ctx, 0x5a, sizeof(struct bytes));
    free(ctx);
}

id data_new(const void *bytes, size_t len)
{
    struct bytes *b = malloc(sizeof(*b) + len);
    id d = object_make_named("NSData", NULL);

    b->len = len;
    if (len)
        memcpy(b->data, bytes, len);
    property_set_number(d, "bytes", (int64_t)(uintptr_t)b);
    object_on_death(d, data_die, b);
    return d;
}

static struct bytes *data_of_object(id data)
{
    return (struct bytes *)(uintptr_t)property_number(data, "bytes");
}

const void *data_get(id data, size_t *len)
{
    struct bytes *b = data_of_object(data);

    *len = b->len;
    return b->data;
}

static void data_with(struct call *c)
{
    give(c, object_pooled(data_new((const void *)(uintptr_t)c->args[0], c->args[1])));
}

static void data_bytes(struct call *c)
{
    c->ret = (uint64_t)(uintptr_t)data_of_object(c->self)->data;
}

static void data_length(struct call *c)
{
    c->ret = data_of_object(c->self)->len;
}

/* ---- NSUUID ---- */

static bool is_uuid(const char *text)
{
    size_t i = 0;

    for (; text[i]; i++) {
        if (i == 8 || i == 13 || i == 18 || i == 23 ? text[i] != '-' : !isxdigit((unsigned char)text[i]))
            return false;
    }
    return i == 36;
}

static void uuid_init(struct call *c)
{
    const char *text = string_text(arg_id(c, 0));
    id uuid = init_result(c);

    if (!text || !is_uuid(text)) {
        object_release(uuid, c->caller);
        return;
    }
    property_set_text(uuid, "text", text);
    give(c, uuid);
}

static void uuid_string(struct call *c)
{
    give(c, object_pooled(string_new(property_text(c->self, "text"))));
}

const struct behaviour_row foundation_behaviour[] = {
    { "NSObject", "+alloc", alloc },
    { "NSObject", "+new", new },
    { "NSObject", "-init", init },
    { "NSObject", "-retain", retain },
    { "NSObject", "-release", release },
    { "NSObject", "-autorelease", autorelease },
    { "NSObject", "-copy", copy },
    { "NSObject", "-isEqual:", is_equal },
    { "NSObject", "-isKindOfClass:", is_kind_of_class },
    { "NSObject", "-respondsToSelector:", responds },
    { "NSObject", "-class", class_get },
    { "NSObject", "+class", class_get },
    { "NSString", "+stringWithUTF8String:", string_with_utf8 },
    { "NSString", "-UTF8String", string_utf8 },
    { "NSURL", "+fileURLWithPath:", url_file },
    { "NSURL", "+fileURLWithPath:isDirectory:", url_file },
    { "NSURL", "+URLWithString:", url_with_string },
    { "NSURL", "-path", url_get_path },
    { "NSArray", "+arrayWithObjects:count:", array_with },
    { "NSArray", "-count", array_get_count },
    { "NSArray", "-objectAtIndex:", array_object_at },
    { "NSDictionary", "+dictionaryWithObjects:forKeys:count:", dictionary_with },
    { "NSDictionary", "-objectForKey:", dictionary_object },
    { "NSFileHandle", "-initWithFileDescriptor:", handle_init },
    { "NSFileHandle", "-initWithFileDescriptor:closeOnDealloc:", handle_init },
    { "NSData", "+dataWithBytes:length:", data_with },
    { "NSData", "-bytes", data_bytes },
    { "NSData", "-length", data_length },
    { "NSUUID", "-initWithUUIDString:", uuid_init },
    { "NSUUID", "-UUIDString", uuid_string },
    { NULL, NULL, NULL },
};
