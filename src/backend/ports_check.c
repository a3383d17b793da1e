/* See ports_check.h. */
#include "backend/ports_check.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Whether a file can be made where `path` says. */
static bool folder_check(const char *path, struct yado_error *err)
{
    const char *slash = strrchr(path, '/');
    char *folder = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
    bool ok = folder && access(folder, W_OK | X_OK) == 0;

    if (!ok)
        err_set_errno(err, YADO_ERR_FILE, errno, "%s: cannot be made", path);
    free(folder);
    return ok;
}

static bool attachment_check(const struct spec_attachment *a, struct yado_error *err)
{
    struct stat st;
    bool is_there;

    if (a->kind != SPEC_ATTACH_FILE && a->kind != SPEC_ATTACH_SOCKET)
        return true;
    is_there = stat(a->path, &st) == 0;
    if (!is_there)
        return folder_check(a->path, err);
    if (a->kind == SPEC_ATTACH_SOCKET)
        return S_ISSOCK(st.st_mode) ||
               err_set(err, YADO_ERR_FILE, "%s: is there and no socket; give another name or remove it",
                       a->path);
    if (S_ISDIR(st.st_mode))
        return err_set(err, YADO_ERR_FILE, "%s: is a directory", a->path);
    return access(a->path, W_OK) == 0 ||
           err_set_errno(err, YADO_ERR_FILE, errno, "%s: cannot be written", a->path);
}

bool ports_check(const struct spec *spec, struct yado_error *err)
{
    for (unsigned i = 0; i < spec->serial_count; i++) {
        if (!attachment_check(&spec->serials[i].attachment, err))
            return err_prepend(err, "serial_ports[%u].attachment", i);
    }
    for (unsigned i = 0; i < spec->console_count; i++) {
        for (unsigned j = 0; j < spec->consoles[i].port_count; j++) {
            if (!attachment_check(&spec->consoles[i].ports[j].attachment, err))
                return err_prepend(err, "consoles[%u].ports[%u].attachment", i, j);
        }
    }
    return true;
}
