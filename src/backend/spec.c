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

void spec_serial_clear(struct spec_serial *s)
{
    fd_close(&s->read_fd);
    fd_close(&s->write_fd);
}

void spec_boot_clear(struct spec_boot *b)
{
    free(b->kernel);
    free(b->initrd);
    free(b->command_line);
    *b = (struct spec_boot){ 0 };
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
    for (unsigned i = 0; i < s->net_count; i++)
        spec_net_clear(&s->nets[i]);
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

static bool disk_copy(struct spec_disk *to, const struct spec_disk *from)
{
    *to = *from;
    to->name = to->identifier = NULL;
    return spec_fd_dup(from->fd, &to->fd) && string_copy(&to->name, from->name) &&
           string_copy(&to->identifier, from->identifier);
}

static bool serial_copy(struct spec_serial *to, const struct spec_serial *from)
{
    *to = *from;
    to->write_fd = -1;
    return spec_fd_dup(from->read_fd, &to->read_fd) && spec_fd_dup(from->write_fd, &to->write_fd);
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

bool spec_copy(struct spec *to, const struct spec *from, struct yado_error *err)
{
    bool ok;

    spec_init(to);
    to->cpu_count = from->cpu_count;
    to->memory_size = from->memory_size;
    to->engine = from->engine;
    to->entropy_count = from->entropy_count;
    ok = string_copy(&to->boot.kernel, from->boot.kernel) &&
         string_copy(&to->boot.initrd, from->boot.initrd) &&
         string_copy(&to->boot.command_line, from->boot.command_line);
    for (unsigned i = 0; ok && i < from->disk_count; i++)
        ok = disk_copy(&to->disks[to->disk_count++], &from->disks[i]);
    for (unsigned i = 0; ok && i < from->serial_count; i++)
        ok = serial_copy(&to->serials[to->serial_count++], &from->serials[i]);
    for (unsigned i = 0; ok && i < from->net_count; i++)
        ok = net_copy(&to->nets[to->net_count++], &from->nets[i]);
    if (!ok) {
        int e = errno;

        spec_clear(to);
        return err_set_errno(err, YADO_ERR_HOST, e, "cannot copy the configuration");
    }
    return true;
}
