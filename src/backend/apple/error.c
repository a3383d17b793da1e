/* From the framework's errors to ours.
 *
 * An NSError is worth reading only after the call said no (by NO or nil), which is the caller's business;
 * here it is taken apart. Its texts go into ours; its number becomes one of our codes; and where the number
 * has one usual cause that was not caught before, a hint follows. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "backend/apple/apple_priv.h"
#include "backend/apple/vz_values.h"

static const struct {
    long code;
    enum yado_error_code ours;
    const char *hint; /* NULL: the framework's own words are enough */
} errors[] = {
    { VZ_ERROR_INTERNAL, YADO_ERR_ENGINE, NULL },
    { VZ_ERROR_INVALID_CONFIGURATION, YADO_ERR_INVALID_CONFIG, NULL },
    { VZ_ERROR_INVALID_STATE, YADO_ERR_STATE, NULL },
    { VZ_ERROR_INVALID_STATE_TRANSITION, YADO_ERR_STATE, NULL },
    { VZ_ERROR_INVALID_DISK_IMAGE, YADO_ERR_IMAGE, "the disk must be a raw image of whole 512-byte blocks" },
    { VZ_ERROR_LIMIT_EXCEEDED, YADO_ERR_IN_USE, "stop another machine first" },
    { VZ_ERROR_NETWORK, YADO_ERR_HOST, NULL },
    { VZ_ERROR_OUT_OF_DISK_SPACE, YADO_ERR_FILE, "make room on the disk" },
    { VZ_ERROR_OPERATION_CANCELLED, YADO_ERR_STATE, NULL },
    { VZ_ERROR_NOT_SUPPORTED, YADO_ERR_UNSUPPORTED, NULL },
    { VZ_ERROR_SAVE, YADO_ERR_FILE, NULL },
    { VZ_ERROR_RESTORE, YADO_ERR_FILE,
      "the file must come from this Mac and from the same configuration, machine identifier included" },
    { VZ_ERROR_NBD_NEGOTIATION_FAILED, YADO_ERR_HOST,
      "check that the server speaks NBD and has this export" },
    { VZ_ERROR_NBD_DISCONNECTED, YADO_ERR_HOST, NULL },
    { VZ_ERROR_USB_CONTROLLER_NOT_FOUND, YADO_ERR_STATE, NULL },
    { VZ_ERROR_DEVICE_ALREADY_ATTACHED, YADO_ERR_STATE, NULL },
    { VZ_ERROR_DEVICE_INITIALIZATION_FAILURE, YADO_ERR_HOST, NULL },
    { VZ_ERROR_DEVICE_NOT_FOUND, YADO_ERR_STATE, NULL },
};

/* NSCocoaErrorDomain: 4 and 256 to 640 and 512 to 639 are about files (FoundationErrors.h). */
static bool cocoa_is_file(long code)
{
    return code == 4 || (code >= 255 && code < 1024);
}

static enum yado_error_code posix_code(long code)
{
    switch (code) {
    case ENOENT:
    case EEXIST:
    case EACCES:
    case EPERM:
    case ENOTDIR:
    case EISDIR:
    case EROFS:
    case ENOSPC:
    case ELOOP:
    case ENAMETOOLONG: return YADO_ERR_FILE;
    case EBUSY:
    case EAGAIN:
    case EADDRINUSE: return YADO_ERR_IN_USE;
    case ENOMEM: return YADO_ERR_MEMORY;
    case ENOTSUP: return YADO_ERR_UNSUPPORTED;
    default: return YADO_ERR_HOST;
    }
}

static enum yado_error_code code_of(const char *domain, long code, const char **hint)
{
    *hint = NULL;
    if (!strcmp(domain, text_of(VZErrorDomain))) {
        for (size_t i = 0; i < array_size(errors); i++) {
            if (errors[i].code != code)
                continue;
            *hint = errors[i].hint;
            return errors[i].ours;
        }
        return YADO_ERR_ENGINE;
    }
    if (!strcmp(domain, "NSPOSIXErrorDomain"))
        return posix_code(code);
    if (!strcmp(domain, "NSCocoaErrorDomain") && cocoa_is_file(code))
        return YADO_ERR_FILE;
    return YADO_ERR_HOST;
}

/* Appends ": more" unless it says nothing new. */
static void text_add(char *to, size_t room, const char *more)
{
    size_t len = strlen(to);

    if (!*more || strstr(to, more) || len + 3 >= room)
        return;
    snprintf(to + len, room - len, "%s%s", len ? ": " : "", more);
}

/* One line without a final full stop, as our messages are. */
static void text_tidy(char *text)
{
    size_t len;

    for (char *p = text; *p; p++) {
        if (*p == '\n' || *p == '\r')
            *p = ' ';
    }
    len = strlen(text);
    while (len && (text[len - 1] == '.' || text[len - 1] == ' '))
        text[--len] = '\0';
}

static void words_of(id error, char *text, size_t room)
{
    id info = NSError_userInfo(error);

    text[0] = '\0';
    text_add(text, room, text_of(NSError_localizedDescription(error)));
    text_tidy(text);
    text_add(text, room, text_of(NSError_localizedFailureReason(error)));
    text_tidy(text);
    text_add(text, room, text_of(NSDictionary_objectForKey(info, string_of("NSDebugDescription"))));
    text_tidy(text);
}

bool error_from(struct yado_error *err, id error, const char *what)
{
    char text[YADO_ERROR_MESSAGE_MAX];
    enum yado_error_code code;
    const char *domain, *hint;
    long number;

    if (!error)
        return err_set(err, YADO_ERR_ENGINE, "%s: the framework gave no reason", what);
    domain = text_of(NSError_domain(error));
    number = NSError_code(error);
    code = code_of(domain, number, &hint);
    words_of(error, text, sizeof(text));
    if (err && err->code == YADO_OK && !strcmp(domain, "NSPOSIXErrorDomain"))
        err->os_errno = (int)number;
    return err_set(err, code, "%s: %s%s%s (%s %ld)", what, text, hint ? "; " : "", hint ? hint : "", domain,
                   number);
}
