/* Inside of the configuration objects. They are thin: each wraps the piece of struct spec that it becomes. */
#ifndef API_CONFIG_PRIV_H
#define API_CONFIG_PRIV_H

#include <yado/config.h>

#include "backend/spec.h"

struct yado_boot_loader {
    struct spec_boot boot;
};

struct yado_disk {
    struct spec_disk disk;
};

struct yado_storage {
    struct spec_disk disk;
    bool out_of_memory; /* one of the parts could not be made; reported by validate */
};

struct yado_serial {
    struct spec_serial serial;
};

struct yado_serial_port {
    struct spec_serial serial;
};

struct yado_entropy {
    char unused; /* no settings */
};

struct yado_network_attachment {
    struct spec_net net;
    bool out_of_memory;
};

struct yado_network {
    struct spec_net net;
    bool out_of_memory;
};

struct yado_config {
    struct spec spec;
    bool out_of_memory;    /* some object was NULL or incomplete */
    unsigned devices_over; /* devices that found no room */
};

struct net_forward forward_of(const struct yado_forward *f);
/* Whether a forward makes sense; the message begins with "forward". */
bool forward_check(const struct net_forward *f, struct yado_error *err);
/* The same for an attachment; the message begins with "network[index]". */
bool attachment_check(const struct spec_net *n, unsigned index, struct yado_error *err);
/* All network devices. */
bool networks_check(const struct spec *s, struct yado_error *err);

/* Everything of yado_config_validate but the backend's part. */
bool config_check(const struct yado_config *config, struct yado_error *err);

#endif
