/* The values of --vsock. */
#ifndef CLI_VSOCK_OPTIONS_H
#define CLI_VSOCK_OPTIONS_H

#include <yado/yado.h>

#define RUN_VSOCK_MAX 64

struct run_vsock {
    bool to_guest; /* programs of the host connect to `path` and reach `port` of the guest; else the other way
                    */
    uint32_t port;
    const char *path;
};

struct vsock_options {
    struct run_vsock paths[RUN_VSOCK_MAX];
    unsigned count;
};

/* Reads one --vsock, PORT=SOCKET or guest:PORT=SOCKET. EXIT_OK or EXIT_USAGE after the reason was said. */
int vsock_options_add(struct vsock_options *o, const char *value);

/* Adds the device to the configuration, if there was one --vsock at least; and lets the process have as many
 * descriptors as it may, since each connection is one. */
void vsock_options_apply(const struct vsock_options *o, struct yado_config *cfg);

#endif
