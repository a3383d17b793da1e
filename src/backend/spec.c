/* Copying and freeing machine descriptions. */
#include "backend/spec.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void spec_init(struct spec *s)
{
    *s = (struct spec){ 0 };
}

static void fd_close(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

void spec_disk_clear(struct spec_disk *d)
{
    fd_close(&d->fd);
    free(d->name);
    free(d->identifier);
    d->name = d->identifier = NULL;
}

void spec_attachment_clear(struct spec_attachment *a)
{
    if (a->kind == SPEC_ATTACH_FDS || a->kind == SPEC_ATTACH_PTY) {
        fd_close(&a->read_fd);
        fd_close(&a->write_fd);
        fd_close(&a->hold_fd);
    }
    free(a->path);
    *a = (struct spec_attachment){ .read_fd = -1, .write_fd = -1, .hold_fd = -1 };
}

void spec_serial_clear(struct spec_serial *s)
{
    spec_attachment_clear(&s->attachment);
}

void spec_port_clear(struct spec_port *p)
{
    spec_attachment_clear(&p->attachment);
    free(p->name);
    *p = (struct spec_port){ .is_present = false };
}

void spec_console_clear(struct spec_console *c)
{
    for (unsigned i = 0; i < c->port_count; i++)
        spec_port_clear(&c->ports[i]);
    free(c->ports);
    *c = (struct spec_console){ .ports = NULL };
}

bool spec_console_set(struct spec_console *c, unsigned index, struct spec_port *p)
{
    if (!c->ports)
        c->ports = calloc(SPEC_PORTS_MAX, sizeof(*c->ports));
    if (!c->ports)
        return false;
    if (index < c->port_count)
        spec_port_clear(&c->ports[index]);
    else
        c->port_count = index + 1;
    c->ports[index] = *p;
    return true;
}

void spec_boot_clear(struct spec_boot *b)
{
    free(b->kernel);
    free(b->initrd);
    free(b->command_line);
    free(b->variable_store);
    *b = (struct spec_boot){ 0 };
}

void spec_platform_clear(struct spec_platform *p)
{
    free(p->identifier);
    *p = (struct spec_platform){ 0 };
}

void spec_share_clear(struct spec_share *s)
{
    for (unsigned i = 0; i < s->directory_count; i++) {
        free(s->directories[i].name);
        free(s->directories[i].path);
    }
    free(s->directories);
    free(s->tag);
    *s = (struct spec_share){ 0 };
}

void spec_socket_clear(struct spec_socket *s)
{
    for (unsigned i = 0; i < s->path_count; i++)
        free(s->paths[i].path);
    free(s->paths);
    *s = (struct spec_socket){ 0 };
}

bool spec_socket_path_add(struct spec_socket *s, const struct spec_socket_path *p)
{
    struct spec_socket_path *more = realloc(s->paths, (s->path_count + 1) * sizeof(*more));
    char *path = strdup(p->path);

    if (more)
        s->paths = more;
    if (!more || !path) {
        free(path);
        return false;
    }
    more[s->path_count] = *p;
    more[s->path_count++].path = path;
    return true;
}

void spec_net_clear(struct spec_net *n)
{
    if (!n->has_attachment)
        return;
    fd_close(&n->config.fd);
    free(n->config.name);
    free(n->config.forwards);
    *n = (struct spec_net){ .has_attachment = false };
}

bool spec_forward_add(struct net_config *c, const struct net_forward *f)
{
    struct net_forward *more = realloc(c->forwards, (c->forward_count + 1) * sizeof(*more));

    if (!more)
        return false;
    c->forwards = more;
    c->forwards[c->forward_count++] = *f;
    return true;
}

void spec_clear(struct spec *s)
{
    spec_boot_clear(&s->boot);
    for (unsigned i = 0; i < s->disk_count; i++)
        spec_disk_clear(&s->disks[i]);
    for (unsigned i = 0; i < s->serial_count; i++)
        spec_serial_clear(&s->serials[i]);
    for (unsigned i = 0; i < s->console_count; i++)
        spec_console_clear(&s->consoles[i]);
    for (unsigned i = 0; i < s->net_count; i++)
        spec_net_clear(&s->nets[i]);
    for (unsigned i = 0; i < s->share_count; i++)
        spec_share_clear(&s->shares[i]);
    spec_socket_clear(&s->socket);
    spec_platform_clear(&s->platform);
    spec_init(s);
}

bool spec_fd_dup(int fd, int *out)
{
    *out = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0);
    return fd < 0 || *out >= 0;
}

static bool string_copy(char **to, const char *from)
{
    *to = from ? strdup(from) : NULL;
    return !from || *to;
}

static bool boot_copy(struct spec_boot *to, const struct spec_boot *from)
{
    to->kind = from->kind;
    return string_copy(&to->kernel, from->kernel) && string_copy(&to->initrd, from->initrd) &&
           string_copy(&to->command_line, from->command_line) &&
           string_copy(&to->variable_store, from->variable_store);
}

static bool platform_copy(struct spec_platform *to, const struct spec_platform *from)
{
    to->nested_virtualization = from->nested_virtualization;
    if (!from->identifier)
        return true;
    to->identifier = malloc(from->identifier_len);
    if (!to->identifier)
        return false;
    memcpy(to->identifier, from->identifier, from->identifier_len);
    to->identifier_len = from->identifier_len;
    return true;
}

bool spec_directory_add(struct spec_share *s, const struct spec_directory *d)
{
    struct spec_directory *more = realloc(s->directories, (s->directory_count + 1) * sizeof(*more)), *to;

    if (!more)
        return false;
    s->directories = more;
    to = &more[s->directory_count++];
    *to = (struct spec_directory){ .read_only = d->read_only };
    return string_copy(&to->name, d->name) && string_copy(&to->path, d->path);
}

bool spec_share_copy(struct spec_share *to, const struct spec_share *from)
{
    *to = (struct spec_share){ .kind = from->kind };
    if (!string_copy(&to->tag, from->tag))
        return false;
    for (unsigned i = 0; i < from->directory_count; i++) {
        if (!spec_directory_add(to, &from->directories[i]))
            return false;
    }
    return true;
}

static bool disk_copy(struct spec_disk *to, const struct spec_disk *from)
{
    *to = *from;
    to->name = to->identifier = NULL;
    return spec_fd_dup(from->fd, &to->fd) && string_copy(&to->name, from->name) &&
           string_copy(&to->identifier, from->identifier);
}

bool spec_attachment_copy(struct spec_attachment *to, const struct spec_attachment *from)
{
    *to = (struct spec_attachment){
        .kind = from->kind, .read_fd = -1, .write_fd = -1, .hold_fd = -1, .append = from->append
    };
    if (from->kind == SPEC_ATTACH_NONE)
        return true;
    return spec_fd_dup(from->read_fd, &to->read_fd) && spec_fd_dup(from->write_fd, &to->write_fd) &&
           spec_fd_dup(from->hold_fd, &to->hold_fd) && string_copy(&to->path, from->path);
}

static bool serial_copy(struct spec_serial *to, const struct spec_serial *from)
{
    *to = *from;
    return spec_attachment_copy(&to->attachment, &from->attachment);
}

static bool console_copy(struct spec_console *to, const struct spec_console *from)
{
    for (unsigned i = 0; i < from->port_count; i++) {
        struct spec_port port = from->ports[i];

        port.name = NULL;
        port.attachment = (struct spec_attachment){ .kind = SPEC_ATTACH_NONE };
        if (!spec_console_set(to, i, &port) || !string_copy(&to->ports[i].name, from->ports[i].name) ||
            !spec_attachment_copy(&to->ports[i].attachment, &from->ports[i].attachment))
            return false;
    }
    return true;
}

static bool net_copy(struct spec_net *to, const struct spec_net *from)
{
    *to = *from;
    to->config.name = NULL;
    to->config.forwards = NULL;
    to->config.forward_count = 0;
    to->config.fd = -1;
    if (!from->has_attachment)
        return true;
    for (unsigned i = 0; i < from->config.forward_count; i++) {
        if (!spec_forward_add(&to->config, &from->config.forwards[i]))
            return false;
    }
    return spec_fd_dup(from->config.fd, &to->config.fd) && string_copy(&to->config.name, from->config.name);
}

/* Everything that is no pointer or descriptor. */
static void plain_copy(struct spec *to, const struct spec *from)
{
    to->cpu_count = from->cpu_count;
    to->memory_size = from->memory_size;
    to->engine = from->engine;
    to->engine_options = from->engine_options;
    to->debug_exit = from->debug_exit;
    to->entropy_count = from->entropy_count;
    to->balloon_count = from->balloon_count;
    to->socket_count = from->socket_count;
    memcpy(to->graphics, from->graphics, sizeof(to->graphics));
    to->graphics_count = from->graphics_count;
    memcpy(to->sounds, from->sounds, sizeof(to->sounds));
    to->sound_count = from->sound_count;
    to->keyboard_count = from->keyboard_count;
    to->pointing_count = from->pointing_count;
}

bool spec_copy(struct spec *to, const struct spec *from, struct yado_error *err)
{
    bool ok;

    spec_init(to);
    plain_copy(to, from);
    ok = boot_copy(&to->boot, &from->boot) && platform_copy(&to->platform, &from->platform);
    for (unsigned i = 0; ok && i < from->disk_count; i++)
        ok = disk_copy(&to->disks[to->disk_count++], &from->disks[i]);
    for (unsigned i = 0; ok && i < from->serial_count; i++)
        ok = serial_copy(&to->serials[to->serial_count++], &from->serials[i]);
    for (unsigned i = 0; ok && i < from->console_count; i++)
        ok = console_copy(&to->consoles[to->console_count++], &from->consoles[i]);
    for (unsigned i = 0; ok && i < from->net_count; i++)
        ok = net_copy(&to->nets[to->net_count++], &from->nets[i]);
    for (unsigned i = 0; ok && i < from->share_count; i++)
        ok = spec_share_copy(&to->shares[to->share_count++], &from->shares[i]);
    for (unsigned i = 0; ok && i < from->socket.path_count; i++)
        ok = spec_socket_path_add(&to->socket, &from->socket.paths[i]);
    if (!ok) {
        int e = errno;

        spec_clear(to);
        return err_set_errno(err, YADO_ERR_HOST, e, "cannot copy the configuration");
    }
    return true;
}
