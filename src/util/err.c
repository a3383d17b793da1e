/* Errors as values: see util/err.h. */
#include "util/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Longer than any path and what is said of it, so that the end of a message, which names the reason, is known
 * before the middle is left out. */
#define ERR_SCRATCH_SIZE 6144

const char *yado_error_code_name(enum yado_error_code code)
{
    switch (code) {
    case YADO_OK: return "ok";
    case YADO_ERR_INVALID_CONFIG: return "invalid configuration";
    case YADO_ERR_FILE: return "file";
    case YADO_ERR_IN_USE: return "in use";
    case YADO_ERR_IMAGE: return "image";
    case YADO_ERR_MEMORY: return "memory";
    case YADO_ERR_UNSUPPORTED: return "unsupported";
    case YADO_ERR_STATE: return "state";
    case YADO_ERR_HOST: return "host";
    case YADO_ERR_GUEST: return "guest";
    case YADO_ERR_ENGINE: return "engine";
    case YADO_ERR_INTERNAL: return "internal";
    case YADO_ERR_REFUSED: return "refused";
    case YADO_ERR_TIMEOUT: return "timeout";
    }
    return "unknown";
}

static bool is_utf8_continuation(char c)
{
    return ((unsigned char)c & 0xc0) == 0x80;
}

/* Copies text to the message as one line. What does not fit is left out of the middle, never inside a
 * character: the start names the thing and the end the reason. */
static void message_store(struct yado_error *err, const char *text)
{
    const size_t room = sizeof(err->message) - 1, len = strlen(text);

    if (len <= room) {
        memcpy(err->message, text, len + 1);
    } else {
        static const char gap[] = " ... ";
        const size_t gap_len = sizeof(gap) - 1;
        size_t head = (room - gap_len) / 2, tail = room - gap_len - head;

        while (head > 0 && is_utf8_continuation(text[head]))
            head--;
        while (tail > 0 && is_utf8_continuation(text[len - tail]))
            tail--;
        memcpy(err->message, text, head);
        memcpy(err->message + head, gap, gap_len);
        memcpy(err->message + head + gap_len, text + len - tail, tail + 1);
    }
    for (char *p = err->message; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = '?'; /* a file name may hold anything; the terminal of the reader must not act on it */
}

static void printf_like(2, 0)
    message_format(struct yado_error *err, const char *fmt, va_list args, const char *tail_text)
{
    char text[ERR_SCRATCH_SIZE];
    size_t len;

    if (vsnprintf(text, sizeof(text), fmt, args) < 0)
        text[0] = '\0';
    if (tail_text) {
        len = strlen(text);
        snprintf(text + len, sizeof(text) - len, ": %s", tail_text);
    }
    message_store(err, text);
}

bool err_set(struct yado_error *err, enum yado_error_code code, const char *fmt, ...)
{
    va_list args;

    if (!err || err->code != YADO_OK)
        return false;
    err->code = code;
    err->os_errno = 0;
    va_start(args, fmt);
    message_format(err, fmt, args, NULL);
    va_end(args);
    return false;
}

/* strerror_r returns the text where it is GNU's, and elsewhere a number, the text being in the buffer. */
static const char *gnu_text(const char *text, const char *buf)
{
    (void)buf;
    return text;
}

static const char *posix_text(int error, const char *buf)
{
    return error ? "unknown error" : buf;
}

#define ERRNO_TEXT(result, buf) _Generic((result), char * : gnu_text, int : posix_text)(result, buf)

bool err_set_errno(struct yado_error *err, enum yado_error_code code, int os_errno, const char *fmt, ...)
{
    char reason[128];
    va_list args;

    if (!err || err->code != YADO_OK)
        return false;
    err->code = code;
    err->os_errno = os_errno;
    va_start(args, fmt);
    message_format(err, fmt, args, ERRNO_TEXT(strerror_r(os_errno, reason, sizeof(reason)), reason));
    va_end(args);
    return false;
}

bool err_prepend(struct yado_error *err, const char *fmt, ...)
{
    char old[YADO_ERROR_MESSAGE_MAX];
    va_list args;

    if (!err || err->code == YADO_OK)
        return false;
    memcpy(old, err->message, sizeof(old));
    old[sizeof(old) - 1] = '\0'; /* the struct came from the caller */
    va_start(args, fmt);
    message_format(err, fmt, args, old);
    va_end(args);
    return false;
}
