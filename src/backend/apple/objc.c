/* See objc.h. */
#include "backend/apple/objc.h"

#include <fcntl.h>
#include <unistd.h>

id object_alloc(enum vz_class cls)
{
    return NSObject_alloc(vz_class_named(cls));
}

id pooled(id owned)
{
    return owned ? objc_autorelease(owned) : NULL;
}

id object_new(enum vz_class cls)
{
    return pooled(NSObject_init(object_alloc(cls)));
}

id string_of(const char *text)
{
    return NSString_stringWithUTF8String(vz_class(NSString), text);
}

static id path_url(const char *path, bool is_directory, struct yado_error *err)
{
    id string = string_of(path);

    if (string)
        return NSURL_fileURLWithPath(vz_class(NSURL), string, is_directory);
    err_set(err, YADO_ERR_FILE, "%s: the name is not UTF-8, as names of files are on macOS", path);
    return NULL;
}

id file_url(const char *path, struct yado_error *err)
{
    return path_url(path, false, err);
}

id directory_url(const char *path, struct yado_error *err)
{
    return path_url(path, true, err);
}

id url_of(const char *text)
{
    id string = string_of(text);

    return string ? NSURL_URLWithString(vz_class(NSURL), string) : NULL;
}

id array_of(const id *objects, size_t count)
{
    return NSArray_arrayWithObjects(vz_class(NSArray), objects, count);
}

id dictionary_of(const id *objects, const id *keys, size_t count)
{
    return NSDictionary_dictionaryWithObjects(vz_class(NSDictionary), objects, keys, count);
}

id data_of(const void *bytes, size_t len)
{
    return NSData_dataWithBytes(vz_class(NSData), bytes, len);
}

id file_handle_of(int fd)
{
    int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    id handle = own >= 0 ? NSFileHandle_initWithFileDescriptor(ALLOC(NSFileHandle), own, true) : NULL;

    if (own >= 0 && !handle)
        close(own);
    return pooled(handle);
}

const char *text_of(id string)
{
    const char *text = string ? NSString_UTF8String(string) : NULL;

    return text ? text : "";
}
