/* See args.h. */
#include "args.h"

#include <string.h>

#include "cli.h"

enum args_item args_next(struct args *a, const char *const *names, int *index, const char **value)
{
    const char *arg, *equals;
    size_t len;

    if (a->next >= a->argc)
        return ARGS_END;
    arg = a->argv[a->next++];
    *value = arg;
    if (a->only_words || arg[0] != '-' || !arg[1])
        return ARGS_WORD;
    if (!strcmp(arg, "--")) {
        a->only_words = true;
        return args_next(a, names, index, value);
    }
    equals = strncmp(arg, "--", 2) ? NULL : strchr(arg, '=');
    len = equals ? (size_t)(equals - arg) : strlen(arg);
    for (int i = 0; names[i]; i++) {
        size_t name_len = strlen(names[i]);
        bool is_flag = names[i][name_len - 1] == '!';

        if (name_len - is_flag != len || memcmp(names[i], arg, len))
            continue;
        *index = i;
        if (is_flag && equals) {
            usage_error("%.*s: takes no value", (int)len, arg);
            return ARGS_ERROR;
        }
        if (is_flag) {
            *value = "";
        } else if (equals) {
            *value = equals + 1;
        } else if (a->next < a->argc) {
            *value = a->argv[a->next++];
        } else {
            usage_error("%s: needs a value; see yado --help", arg);
            return ARGS_ERROR;
        }
        return ARGS_OPTION;
    }
    usage_error("%.*s: there is no such option; see yado --help", (int)len, arg);
    return ARGS_ERROR;
}

bool number_parse(const char *text, uint64_t min, uint64_t max, uint64_t *out)
{
    uint64_t v = 0;

    if (!*text)
        return false;
    for (const char *p = text; *p; p++) {
        uint64_t digit = (uint64_t)*p - '0';

        if (*p < '0' || *p > '9' || __builtin_mul_overflow(v, 10u, &v) ||
            __builtin_add_overflow(v, digit, &v))
            return false;
    }
    *out = v;
    return v >= min && v <= max;
}

bool size_parse(const char *text, uint64_t *out)
{
    char digits[24];
    size_t len = strlen(text);
    unsigned shift = 0;

    if (len && strchr("kKmMgG", text[len - 1])) {
        char unit = text[--len];

        shift = unit == 'k' || unit == 'K' ? 10 : unit == 'm' || unit == 'M' ? 20 : 30;
    }
    if (len >= sizeof(digits))
        return false;
    memcpy(digits, text, len);
    digits[len] = 0;
    if (!number_parse(digits, 0, UINT64_MAX >> shift, out))
        return false;
    *out <<= shift;
    return true;
}
