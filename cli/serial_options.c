/* See serial_options.h. */
#include "serial_options.h"

#include <stdlib.h>
#include <string.h>

#include "args.h"
#include "cli.h"

#define KINDS "stdio, pty, none, file:PATH, append:PATH, socket:PATH, fd:N"

static const struct {
    const char *prefix;
    enum run_serial_kind kind;
} path_kinds[] = { { "file:", RUN_SERIAL_FILE },
                   { "append:", RUN_SERIAL_APPEND },
                   { "socket:", RUN_SERIAL_SOCKET } };

static bool kind_read(const char *text, struct run_serial *s)
{
    uint64_t fd;

    for (size_t i = 0; i < count_of(path_kinds); i++) {
        size_t len = strlen(path_kinds[i].prefix);

        if (strncmp(text, path_kinds[i].prefix, len) != 0)
            continue;
        *s = (struct run_serial){ .kind = path_kinds[i].kind, .path = text + len };
        return text[len] != '\0';
    }
    if (!strncmp(text, "fd:", 3) && number_parse(text + 3, 0, INT32_MAX, &fd))
        *s = (struct run_serial){ .kind = RUN_SERIAL_FD, .fd = (int)fd };
    else if (!strcmp(text, "pty"))
        s->kind = RUN_SERIAL_PTY;
    else if (!strcmp(text, "none"))
        s->kind = RUN_SERIAL_NONE;
    else if (!strcmp(text, "stdio"))
        s->kind = RUN_SERIAL_STDIO;
    else
        return false;
    return true;
}

static bool stdio_is_taken(const struct serial_options *o)
{
    for (unsigned i = 0; i < o->serial_count; i++) {
        if (o->serials[i].kind == RUN_SERIAL_STDIO)
            return true;
    }
    for (unsigned i = 0; i < o->port_count; i++) {
        if (o->ports[i].serial.kind == RUN_SERIAL_STDIO)
            return true;
    }
    return false;
}

/* `option` for messages. */
static int serial_read(const struct serial_options *o, const char *option, const char *text,
                       struct run_serial *s)
{
    *s = (struct run_serial){ .kind = RUN_SERIAL_STDIO };
    if (!kind_read(text, s))
        return usage_error("%s: \"%s\" is none of " KINDS, option, text);
    if (s->kind == RUN_SERIAL_STDIO && stdio_is_taken(o))
        return usage_error("%s: stdio can be given once only", option);
    return EXIT_OK;
}

int serial_options_add(struct serial_options *o, const char *value)
{
    struct run_serial s;
    int status = serial_read(o, "--serial", value, &s);

    if (status != EXIT_OK)
        return status;
    if (o->serial_count == RUN_SERIAL_MAX)
        return usage_error("--serial: more than %d", RUN_SERIAL_MAX);
    o->serials[o->serial_count++] = s;
    return EXIT_OK;
}

/* The words before the kind, which may have commas in its path. Returns where the kind begins. */
static const char *words_read(struct run_port *p, const char *value)
{
    static const char name[] = "name=";

    for (;;) {
        size_t len = strcspn(value, ",");

        if (!strncmp(value, name, sizeof(name) - 1)) {
            free(p->name);
            p->name = strndup(value + sizeof(name) - 1, len - (sizeof(name) - 1));
        } else if (len == 3 && !memcmp(value, "hvc", 3)) {
            p->is_hvc = true;
        } else {
            return value;
        }
        value += len;
        value += *value == ',';
    }
}

int console_options_add(struct serial_options *o, const char *value)
{
    struct run_port p = { .name = NULL };
    const char *kind = words_read(&p, value);
    int status;

    if (!*kind)
        status = usage_error("--console %s: say what it is attached to: " KINDS, value);
    else
        status = serial_read(o, "--console", kind, &p.serial);
    if (status == EXIT_OK && o->port_count == YADO_CONSOLE_PORTS_MAX)
        status = usage_error("--console: more than %u", YADO_CONSOLE_PORTS_MAX);
    if (status != EXIT_OK) {
        free(p.name);
        return status;
    }
    o->ports[o->port_count++] = p;
    return EXIT_OK;
}

void serial_options_complete(struct serial_options *o)
{
    if (!o->serial_count && !stdio_is_taken(o))
        o->serials[o->serial_count++] = (struct run_serial){ .kind = RUN_SERIAL_STDIO };
}

void serial_options_free(struct serial_options *o)
{
    for (unsigned i = 0; i < o->port_count; i++)
        free(o->ports[i].name);
    o->port_count = 0;
}
