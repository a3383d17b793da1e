/* Filling struct yado_error. The first cause wins; callers may prepend context. */
#ifndef UTIL_ERR_H
#define UTIL_ERR_H

#include <yado/error.h>

#include "util/base.h"

/* Fills err unless it already holds an error or is NULL. Always returns false, so that a failing function
 * can end with `return err_set(...)`. */
bool err_set(struct yado_error *err, enum yado_error_code code, const char *fmt, ...) printf_like(3, 4);

/* As err_set, and appends ": " and the text of errno `os_errno`. */
bool err_set_errno(struct yado_error *err, enum yado_error_code code, int os_errno, const char *fmt, ...)
    printf_like(4, 5);

/* Puts "context: " before the message that err holds. Returns false. */
bool err_prepend(struct yado_error *err, const char *fmt, ...) printf_like(2, 3);

#endif
