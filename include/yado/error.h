/* Errors of libyado: a code to branch on, and one line that a person can act on. */
#ifndef YADO_ERROR_H
#define YADO_ERROR_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What kind of thing went wrong. Codes are stable: new ones are added at the end. */
enum yado_error_code {
    YADO_OK = 0,
    YADO_ERR_INVALID_CONFIG, /* a field of the configuration has no legal value */
    YADO_ERR_FILE,           /* a file cannot be opened, read or written, or is of the wrong kind */
    YADO_ERR_IN_USE,         /* a resource is locked by another machine */
    YADO_ERR_IMAGE,          /* a kernel, initrd or disk image is malformed */
    YADO_ERR_MEMORY,         /* the host cannot give the memory that was asked for */
    YADO_ERR_UNSUPPORTED,    /* this host, engine or backend cannot do it */
    YADO_ERR_STATE,          /* the call is not legal in the machine's present state */
    YADO_ERR_HOST,           /* a system call of the host failed */
    YADO_ERR_GUEST,          /* the guest ended in a way that it should not (triple fault, panic) */
    YADO_ERR_ENGINE,         /* the engine could not go on executing the guest */
    YADO_ERR_INTERNAL,       /* a defect of libyado */
    YADO_ERR_REFUSED,        /* the guest refused a connection: no program listens there */
    YADO_ERR_TIMEOUT,        /* the guest did not answer in time */
};

#define YADO_ERROR_MESSAGE_MAX 512

/* Filled by the call that failed. Owned by the caller; holds no pointers, so it may be copied and dropped
 * freely. Every function that takes one accepts NULL. */
struct yado_error {
    enum yado_error_code code;
    int os_errno;                         /* errno of the failing system call, or 0 */
    char message[YADO_ERROR_MESSAGE_MAX]; /* "field or file: what is wrong; what to do", no newline */
};

#define YADO_ERROR_INIT                                                                                      \
    {                                                                                                        \
        YADO_OK, 0,                                                                                          \
        {                                                                                                    \
            0                                                                                                \
        }                                                                                                    \
    }

/* A fixed word for a code ("file", "in use" ...). Any thread; never NULL. */
const char *yado_error_code_name(enum yado_error_code code);

#ifdef __cplusplus
}
#endif

#endif
