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
    struct spec_attachment attachment;
};

struct yado_serial_port {
    struct spec_serial serial;
};

struct yado_console_port {
    struct spec_port port;
    bool out_of_memory;
};

struct yado_console {
    struct spec_console console;
    bool out_of_memory;
};

struct yado_entropy {
    char unused; /* no settings */
};

struct yado_balloon {
    char unused; /* no settings */
};

struct yado_socket {
    struct spec_socket socket;
    bool out_of_memory;
};

struct yado_platform {
    struct spec_platform platform;
    bool out_of_memory;
};

struct yado_machine_identifier {
    size_t len;
    uint8_t data[];
};

struct yado_shared_directory {
    struct spec_directory directory;
};

struct yado_directory_share {
    struct spec_share share; /* without a tag */
    bool out_of_memory;
};

struct yado_share {
    struct spec_share share;
    bool out_of_memory;
};

struct yado_graphics {
    struct spec_graphics graphics;
};

struct yado_keyboard {
    char unused; /* no settings */
};

struct yado_pointing {
    char unused; /* no settings */
};

struct yado_sound {
    struct spec_sound sound;
};

struct yado_network_attachment {
    struct spec_net net;
    bool out_of_memory;
};

struct yado_network {
    struct spec_net net;
    bool out_of_memory;
};

struct backend_ops;

struct yado_config {
    struct spec spec;
    char lacks[32];        /* the first object that was NULL or incomplete ("storage[1]"); "": none */
    unsigned devices_over; /* devices that found no room */
};

/* Gives a machine's platform an identifier of its own unless it has one, if the backend knows such things. */
void platform_identify(struct spec_platform *p, const struct backend_ops *ops);
struct net_forward forward_of(const struct yado_forward *f);
/* Whether a forward makes sense; the message begins with "forward". */
bool forward_check(const struct net_forward *f, struct yado_error *err);
/* The same for an attachment; the message begins with "network[index]". */
bool attachment_check(const struct spec_net *n, unsigned index, struct yado_error *err);
/* All network devices. */
bool networks_check(const struct spec *s, struct yado_error *err);
/* A directory share; the message begins with "shares[index]". */
bool share_check(const struct spec_share *s, unsigned index, struct yado_error *err);
/* All shares, and graphics and sound devices. */
bool shares_check(const struct spec *s, struct yado_error *err);
bool graphics_check(const struct spec *s, struct yado_error *err);
bool sounds_check(const struct spec *s, struct yado_error *err);

/* An attachment of a port; the message begins with what is wrong. */
bool serial_attachment_check(const struct spec_attachment *a, struct yado_error *err);
/* All serial ports and consoles. */
bool consoles_check(const struct spec *s, struct yado_error *err);

bool sockets_check(const struct spec *s, struct yado_error *err);

/* Remembers that what was given for a field (or for the device that would be `list`[`index`]) could not be
 * made. The first such complaint stays. */
void config_lacks(struct yado_config *c, const char *field);
void config_lacks_device(struct yado_config *c, const char *list, unsigned index);

/* Counts a device in, unless there is no room for it. */
bool device_fits(struct yado_config *c);

/* Everything of yado_config_validate but the backend's part. */
bool config_check(const struct yado_config *config, struct yado_error *err);

#endif
