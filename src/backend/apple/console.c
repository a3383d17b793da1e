/* Serial ports. */
#include "backend/apple/apple_priv.h"

static id handle_make(int fd, bool *ok)
{
    id handle = fd >= 0 ? file_handle_of(fd) : NULL;

    *ok &= fd < 0 || handle;
    return handle;
}

id serial_make(const struct spec_serial *s, unsigned index, struct yado_error *err)
{
    bool ok = true;
    id in, out, port;

    if (s->kind == SPEC_SERIAL_UART) {
        err_set(err, YADO_ERR_UNSUPPORTED,
                "serial_ports[%u]: this engine's machines have no UART; use a virtio console (console=hvc0)",
                index);
        return NULL;
    }
    in = handle_make(s->read_fd, &ok);
    out = handle_make(s->write_fd, &ok);
    if (!ok) {
        err_set(err, YADO_ERR_HOST, "serial_ports[%u]: no descriptor to be had", index);
        return NULL;
    }
    port = NEW(VZVirtioConsoleDeviceSerialPortConfiguration);
    VZSerialPortConfiguration_setAttachment(port, pooled(VZFileHandleSerialPortAttachment_init(
                                                      ALLOC(VZFileHandleSerialPortAttachment), in, out)));
    return port;
}
