/* The backend seam: a whole machine. Implementations: native (our own machine on an engine), apple
 * (Virtualization.framework).
 *
 * Threads: validate may come from any thread. start, pause, resume, service and stop come from one thread per
 * machine (its control thread), one at a time. request_stop, console_size, port_size, balloon_target and
 * counters come from any thread, between a start that succeeded and the stop that follows it. Calls may block
 * unless it says otherwise. */
#ifndef BACKEND_BACKEND_H
#define BACKEND_BACKEND_H

#include "backend/spec.h"
#include "util/log.h"

struct backend;

/* How a run of the guest ended. */
enum backend_end {
    BACKEND_RUNS, /* it has not */
    BACKEND_POWER_OFF,
    BACKEND_RESET, /* only with stop_on_reset */
    BACKEND_PANIC,
    BACKEND_TRIPLE_FAULT,
    BACKEND_FAILURE,    /* of the host or the engine */
    BACKEND_DEBUG_EXIT, /* only with spec.debug_exit */
};

/* What the backend's owner gives it. */
struct backend_host {
    /* Something happened that service() must see to. Any thread of the backend, with no lock of the backend
     * held; does not block. */
    void (*attention)(void *ctx);
    /* The attachment of a network device is gone for good. As attention. May be NULL. */
    void (*net_lost)(void *ctx, unsigned index, const struct yado_error *why);
    /* The guest opened or closed a port of console `device`. Any thread, maybe with a lock of the backend
     * held: neither blocks nor calls the backend. May be NULL. */
    void (*port_open)(void *ctx, unsigned device, unsigned port, bool is_open);
    /* A program of the guest connects to port `host_port` of the host: whether anyone listens there; if so,
     * socket_answer follows. And what became of a socket_connect: `why` NULL if the guest accepted. Exactly
     * once for each that succeeded. Any thread, maybe with a lock of the backend held: neither blocks nor
     * calls the backend. May be NULL. */
    bool (*socket_asked)(void *ctx, uint64_t id, uint32_t guest_port, uint32_t host_port);
    void (*socket_connected)(void *ctx, uint64_t tag, uint32_t host_port, const struct yado_error *why);
    void *ctx;
    const struct log *log; /* lives as long as the backend */
    bool stop_on_reset;
};

struct backend_status {
    enum backend_end end;
    bool was_reset;          /* the guest rebooted since the last call, and runs again */
    uint32_t exit_value;     /* DEBUG_EXIT: what the guest wrote */
    struct yado_error error; /* for PANIC, TRIPLE_FAULT and FAILURE */
};

/* The smallest and the largest that validate lets pass, if all else is right. */
struct backend_limits {
    uint64_t cpu_min, cpu_max;
    uint64_t memory_min, memory_max; /* bytes */
};

struct backend_ops {
    const char *name;
    bool cannot_stop_on_reset; /* it sees no reboots of the guest */
    /* False: nothing is known, since no machine can run here. Any thread. */
    bool (*limits)(struct backend_limits *out);
    /* What can be known of a spec without a machine. The ranges of numbers were checked. */
    bool (*validate)(const struct spec *spec, struct yado_error *err);
    /* Acquires everything and lets the guest run. `spec` lives until stop. On failure nothing is held. */
    bool (*start)(struct backend **out, const struct spec *spec, const struct backend_host *host,
                  struct yado_error *err);
    void (*stop)(struct backend *b); /* ends the run in whatever state it is and frees everything */
    bool (*pause)(struct backend *b, struct yado_error *err);
    bool (*resume)(struct backend *b, struct yado_error *err);
    /* After attention: reboots the guest if that is what it asked for, and says how things stand. After an
     * end other than BACKEND_RUNS only stop is called. */
    void (*service)(struct backend *b, struct backend_status *out);

    bool (*request_stop)(struct backend *b, struct yado_error *err); /* power button. Does not block */
    void (*console_size)(struct backend *b, unsigned index, uint16_t columns, uint16_t rows);
    /* The same for a port of a console with several. Ignored if there is none such. */
    void (*port_size)(struct backend *b, unsigned device, unsigned port, uint16_t columns, uint16_t rows);
    /* How much memory the guest shall have, in bytes: whole MiB, in the allowed range. Nothing happens
     * without a balloon. Any thread. */
    void (*balloon_target)(struct backend *b, uint64_t size);
    /* While it runs, from any thread but the backend's own; they wait for its event loop. */
    bool (*net_forward)(struct backend *b, unsigned index, const struct net_forward *f, bool add,
                        struct yado_error *err);
    /* cfg NULL: unplugs. After a failure nothing is attached. */
    bool (*net_attach)(struct backend *b, unsigned index, const struct net_config *cfg,
                       struct yado_error *err);
    /* Another attachment (NONE: nothing) for a port of a console, as net_forward, one thread at a time. After
     * a failure the one before is still there. The port exists. */
    bool (*port_attach)(struct backend *b, unsigned device, unsigned port, const struct spec_attachment *to,
                        struct yado_error *err);
    void (*counters)(struct backend *b, void (*fn)(void *ctx, const char *name, uint64_t value), void *ctx);

    /* What follows is absent (NULL) in a backend that cannot do it. */

    /* Moves all clocks of a paused guest ahead, as if it had been paused for so much longer. */
    bool (*time_skip)(struct backend *b, uint64_t ns, struct yado_error *err);

    /* Sockets, while it runs and has a socket device, from any thread but the backend's own. The descriptor,
     * a connected stream socket, is taken over in any case. socket_answer: -1 refuses. */
    void (*socket_answer)(struct backend *b, uint64_t id, int fd);
    bool (*socket_connect)(struct backend *b, uint32_t guest_port, int fd, uint64_t tag,
                           struct yado_error *err);
    /* For a backend that must be told where to listen: the program listens at this port of the host from now
     * on, or does not any more. Also called after each start, for the ports that are there already. As
     * socket_answer. */
    void (*socket_listen)(struct backend *b, uint32_t host_port, bool listens);
    /* Another directory share for a device, while it runs. As net_attach. */
    bool (*share_set)(struct backend *b, unsigned index, const struct spec_share *share,
                      struct yado_error *err);
    /* Writes a paused machine to a file. The machine stays paused. Control thread. */
    bool (*save)(struct backend *b, const char *path, struct yado_error *err);
    /* As start, from a file that save wrote; the guest is paused then. */
    bool (*restore)(struct backend **out, const struct spec *spec, const struct backend_host *host,
                    const char *path, struct yado_error *err);
    bool (*validate_save_restore)(const struct spec *spec, struct yado_error *err);

    /* Without a machine, from any thread. */
    bool (*kernel_is_multiboot)(const char *path);
    bool (*variable_store_create)(const char *path, bool overwrite, struct yado_error *err);
    /* Gives the bytes of a new machine identifier to `take` before it returns. */
    bool (*identifier_new)(void (*take)(void *ctx, const void *data, size_t len), void *ctx,
                           struct yado_error *err);
    bool (*identifier_check)(const void *data, size_t len, struct yado_error *err);
    int (*rosetta_availability)(void); /* of enum yado_rosetta */
    bool (*rosetta_install)(struct yado_error *err);
    unsigned (*each_bridged_interface)(void (*fn)(void *ctx, const char *name, const char *display_name),
                                       void *ctx);
};

extern const struct backend_ops backend_native; /* Linux */
extern const struct backend_ops backend_apple;  /* macOS */

/* The backend of this platform and its engines, by name, in order of preference: linux/engines.c,
 * macos/engines.c. Any thread. */
const struct backend_ops *backend_here(void);
unsigned backend_engine_count(void);
const char *backend_engine_name(unsigned index);
bool backend_engine_usable(const char *name, struct yado_error *err); /* an unknown name is unusable */
/* Usable, and fit to be taken when nobody names an engine. May take some milliseconds. */
bool backend_engine_good(const char *name, struct yado_error *why);

#endif
