/* Serial ports and consoles. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "backend/apple/apple_priv.h"

static id handle_make(int fd, bool *ok)
{
    id handle = fd >= 0 ? file_handle_of(fd) : NULL;

    *ok &= fd < 0 || handle;
    return handle;
}

static id handles_make(const struct spec_attachment *a, struct yado_error *err)
{
    bool ok = true;
    id in = handle_make(a->read_fd, &ok), out = handle_make(a->write_fd, &ok);

    if (ok)
        return pooled(
            VZFileHandleSerialPortAttachment_init(ALLOC(VZFileHandleSerialPortAttachment), in, out));
    err_set(err, YADO_ERR_HOST, "no descriptor to be had");
    return NULL;
}

static id file_make(const struct spec_attachment *a, struct yado_error *err)
{
    id error = NULL, url = file_url(a->path, err), file;

    if (!url)
        return NULL;
    file = VZFileSerialPortAttachment_init(ALLOC(VZFileSerialPortAttachment), url, a->append, &error);
    if (!file)
        error_from(err, error, a->path);
    return pooled(file);
}

/* As good as the file for a configuration that nothing is made of. */
static id file_check(const struct spec_attachment *a, struct yado_error *err)
{
    int fd = file_url(a->path, err) ? open("/dev/null", O_RDWR | O_CLOEXEC) : -1;
    id made = NULL;

    if (fd >= 0) {
        made = handles_make(&(struct spec_attachment){ .read_fd = -1, .write_fd = fd }, err);
        close(fd);
    } else {
        err_set_errno(err, YADO_ERR_HOST, errno, "/dev/null");
    }
    return made;
}

bool port_attachment_make(const struct spec_attachment *a, enum purpose purpose, id *out,
                          struct yado_error *err)
{
    *out = NULL;
    switch (a->kind) {
    case SPEC_ATTACH_NONE: return true;
    case SPEC_ATTACH_FDS:
    case SPEC_ATTACH_PTY: *out = handles_make(a, err); break;
    case SPEC_ATTACH_FILE: *out = purpose == TO_CHECK ? file_check(a, err) : file_make(a, err); break;
    case SPEC_ATTACH_SOCKET:
        err_set(err, YADO_ERR_UNSUPPORTED,
                "this engine has no Unix sockets for ports; give a pty, or a connected socket's descriptor");
        break;
    }
    return *out != NULL;
}

id serial_make(const struct spec_serial *s, unsigned index, enum purpose purpose, struct yado_error *err)
{
    id attachment, port;

    if (s->kind == SPEC_SERIAL_UART) {
        err_set(err, YADO_ERR_UNSUPPORTED,
                "serial_ports[%u]: this engine's machines have no UART; use a virtio console (console=hvc0)",
                index);
        return NULL;
    }
    if (!port_attachment_make(&s->attachment, purpose, &attachment, err)) {
        err_prepend(err, "serial_ports[%u].attachment", index);
        return NULL;
    }
    port = NEW(VZVirtioConsoleDeviceSerialPortConfiguration);
    VZSerialPortConfiguration_setAttachment(port, attachment);
    return port;
}

static id port_make(const struct spec_port *p, enum purpose purpose, struct yado_error *err)
{
    id attachment, port;

    if (!port_attachment_make(&p->attachment, purpose, &attachment, err))
        return NULL;
    port = NEW(VZVirtioConsolePortConfiguration);
    if (p->name)
        VZVirtioConsolePortConfiguration_setName(port, string_of(p->name));
    VZVirtioConsolePortConfiguration_setIsConsole(port, p->is_console);
    if (attachment)
        VZConsolePortConfiguration_setAttachment(port, attachment);
    return port;
}

/* The array is the device's own; its room is said first, so that no index is beyond it. */
id console_make(const struct spec_console *c, unsigned index, enum purpose purpose, struct yado_error *err)
{
    id console, ports;

    if (!NEEDED(VZVirtioConsoleDeviceConfiguration, init, err, "consoles[%u]: a console with several ports",
                index))
        return NULL;
    console = NEW(VZVirtioConsoleDeviceConfiguration);
    ports = VZVirtioConsoleDeviceConfiguration_ports(console);
    VZVirtioConsolePortConfigurationArray_setMaximumPortCount(ports, c->port_count);
    for (unsigned i = 0; i < c->port_count; i++) {
        id port = c->ports[i].is_present ? port_make(&c->ports[i], purpose, err) : NULL;

        if (!port && c->ports[i].is_present) {
            err_prepend(err, "consoles[%u].ports[%u].attachment", index, i);
            return NULL;
        }
        if (port)
            VZVirtioConsolePortConfigurationArray_setObject(ports, port, i);
    }
    return console;
}
