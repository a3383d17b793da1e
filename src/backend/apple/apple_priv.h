/* Between the files of this folder: from the plain description of a machine to the framework's objects.
 *
 * Every ..._make gives an object that belongs to the pool, or NULL and err. Messages name the field as the
 * rest of the library does. They are called with a pool open, on any thread. */
#ifndef BACKEND_APPLE_APPLE_PRIV_H
#define BACKEND_APPLE_APPLE_PRIV_H

#include "backend/apple/objc.h"
#include "backend/backend.h"

/* ---- availability.c ---- */

/* Whether this host has the method (and its class), and if not, which macOS or Mac has it. `what` is the
 * field and the thing, as in "storage[0]: an NVMe controller". */
bool method_needed(enum vz_method method, struct yado_error *err, const char *what, ...) printf_like(3, 4);
#define NEEDED(cls, name, err, ...) method_needed(VZ_##cls##_##name, err, __VA_ARGS__)

/* ---- error.c ---- */

/* Fills err from an NSError: our code for its domain and code, its words, and what to do about it where that
 * is known. NULL: `what` alone. Returns false. */
bool error_from(struct yado_error *err, id error, const char *what);

/* ---- entitlement.c ---- */

#define ENTITLEMENT_VIRTUALIZATION "com.apple.security.virtualization"
#define ENTITLEMENT_NETWORKING "com.apple.vm.networking"
#define ENTITLEMENT_NETWORK_CLIENT "com.apple.security.network.client"

/* Whether the code signature of this process claims it (true; not false). Opens its own pool. */
bool entitlement_has(const char *name);

/* ---- kernel.c ---- */

enum kernel_arch { KERNEL_X86_64, KERNEL_ARM64 };

/* Whether the file is a Linux kernel that the framework starts on such a host: a bzImage for x86-64, an
 * uncompressed Image for arm64. Else what it is, and what to do. */
bool kernel_check(const char *path, enum kernel_arch arch, struct yado_error *err);

/* ---- temporary files of one machine (storage.c) ---- */

struct scratch {
    char *paths[SPEC_DEVICE_MAX]; /* owned */
    unsigned count;
};

void scratch_clear(struct scratch *s); /* removes the files */

/* ---- one noun each ---- */

id boot_make(const struct spec_boot *b, struct yado_error *err);
/* Gives `config` its platform if it is not the default one. */
bool platform_set(id config, const struct spec_platform *p, struct yado_error *err);
id storage_make(const struct spec_disk *d, unsigned index, struct scratch *s, struct yado_error *err);
/* What objects are made for. The framework opens, makes and empties a port's file when its object is made: to
 * be checked alone, the file is looked at (ports_check), and the object is another. */
enum purpose { TO_CHECK, TO_RUN };

/* *out NULL and true: there is none. The message does not name the port. */
bool port_attachment_make(const struct spec_attachment *a, enum purpose purpose, id *out,
                          struct yado_error *err);
id serial_make(const struct spec_serial *s, unsigned index, enum purpose purpose, struct yado_error *err);
id console_make(const struct spec_console *c, unsigned index, enum purpose purpose, struct yado_error *err);
id net_attachment_make(const struct net_config *c, unsigned index, struct yado_error *err);
id network_make(const struct spec_net *n, unsigned index, struct yado_error *err);
id directory_share_make(const struct spec_share *s, unsigned index, struct yado_error *err);
id share_make(const struct spec_share *s, unsigned index, struct yado_error *err);
id graphics_make(const struct spec_graphics *g, unsigned index, struct yado_error *err);
id keyboard_make(unsigned index, struct yado_error *err);
id pointing_make(unsigned index, struct yado_error *err);
id sound_make(const struct spec_sound *s, unsigned index, struct yado_error *err);

/* ---- configuration.c ---- */

/* The whole configuration, found valid by the framework. */
id configuration_make(const struct spec *s, enum purpose purpose, struct scratch *scratch,
                      struct yado_error *err);
bool apple_limits(struct backend_limits *out);
bool apple_validate(const struct spec *s, struct yado_error *err);
bool apple_validate_save_restore(const struct spec *s, struct yado_error *err);

/* ---- delegate.c ---- */

/* What a machine hears from the framework, on the machine's queue with a pool open. */
struct machine_events {
    void (*guest_stopped)(void *ctx);
    void (*stopped_with_error)(void *ctx, id error);
    void (*net_disconnected)(void *ctx, id machine, id device, id error);
    void *ctx;
};

/* An owned object that passes on to `events` what a VZVirtualMachine tells its delegate. `events` must live
 * until the machine has let go of it. NULL and err: the runtime would not make the class. */
id delegate_new(const struct machine_events *events, struct yado_error *err);

/* What the guest does with ports of consoles, as above. */
struct console_events {
    void (*port_open)(void *ctx, id device, id port, bool is_open);
    void *ctx;
};

id console_delegate_new(const struct console_events *events, struct yado_error *err);

/* What a socket listener asks, as above: whether a connection of the guest is taken. */
struct socket_events {
    bool (*should_accept)(void *ctx, id connection);
    void *ctx;
};

id socket_delegate_new(const struct socket_events *events, struct yado_error *err);

#endif
