/* See vsock_options.h. */
#include "vsock_options.h"

#include <string.h>
#include <sys/resource.h>

#include "args.h"
#include "cli.h"

int vsock_options_add(struct vsock_options *o, const char *value)
{
    static const char guest[] = "guest:";
    struct run_vsock v = { .to_guest = !strncmp(value, guest, sizeof(guest) - 1) };
    const char *text = v.to_guest ? value + sizeof(guest) - 1 : value, *equals = strchr(text, '=');
    char number[16];
    uint64_t port;
    size_t len = equals ? (size_t)(equals - text) : 0;

    if (!equals || !equals[1])
        return usage_error("--vsock: \"%s\" is not of the form PORT=SOCKET or guest:PORT=SOCKET", value);
    if (len < sizeof(number)) {
        memcpy(number, text, len);
        number[len] = '\0';
    }
    if (len >= sizeof(number) || !number_parse(number, 0, YADO_SOCKET_PORT_MAX, &port))
        return usage_error("--vsock %s: \"%.*s\" is not a port from 0 to %u", value, (int)len, text,
                           YADO_SOCKET_PORT_MAX);
    if (o->count == RUN_VSOCK_MAX)
        return usage_error("--vsock: more than %d", RUN_VSOCK_MAX);
    v.port = (uint32_t)port;
    v.path = equals + 1;
    o->paths[o->count++] = v;
    return EXIT_OK;
}

static void descriptors_allow(void)
{
    struct rlimit l;

    if (getrlimit(RLIMIT_NOFILE, &l) < 0 || l.rlim_cur == l.rlim_max)
        return;
    l.rlim_cur = l.rlim_max;
    setrlimit(RLIMIT_NOFILE, &l); /* if not, fewer connections are possible at a time */
}

void vsock_options_apply(const struct vsock_options *o, struct yado_config *cfg)
{
    struct yado_socket *s;

    if (!o->count)
        return;
    s = yado_virtio_socket_new();
    for (unsigned i = 0; i < o->count; i++) {
        if (o->paths[i].to_guest)
            yado_socket_add_path_to_guest(s, o->paths[i].path, o->paths[i].port);
        else
            yado_socket_add_path_to_host(s, o->paths[i].port, o->paths[i].path);
    }
    yado_config_add_socket(cfg, s);
    descriptors_allow();
}
