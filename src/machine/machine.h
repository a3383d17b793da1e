/* Our own machine: a PC board, memory and CPUs on an engine. One life cycle: new, start, (pause, resume,
 * service)*, free. All calls are for one thread (the owner's control thread) unless they say otherwise. */
#ifndef MACHINE_MACHINE_H
#define MACHINE_MACHINE_H

#include "engine/engine.h"
#include "machine/board.h"
#include "machine/boot_files.h"

struct machine;

enum machine_end {
    MACHINE_RUNS,
    MACHINE_POWER_OFF,
    MACHINE_RESET, /* only with stop_on_reset */
    MACHINE_PANIC,
    MACHINE_TRIPLE_FAULT,
    MACHINE_FAILURE,
    MACHINE_DEBUG_EXIT,
};

struct machine_config {
    const struct engine_ops *engine;
    struct engine_options engine_options;
    unsigned vcpu_count;    /* 1 to 64 */
    uint64_t ram_size;      /* multiple of 1 MiB */
    struct boot_files boot; /* what it points to must outlive the machine */
    const struct board_devices
        *devices; /* read by machine_new only; disks and descriptors must outlive the machine */
    const struct log *log;
    bool stop_on_reset;
    bool debug_exit; /* the guest may end itself through port 0xf4 */
    /* machine_service shall be called. Any thread of the machine, no lock held; does not block. */
    void (*attention)(void *ctx);
    /* A network attachment is gone for good. As attention. May be NULL. */
    void (*net_lost)(void *ctx, unsigned index, const struct yado_error *why);
    /* The guest opened or closed a port of a console: see board_config. May be NULL. */
    void (*port_open)(void *ctx, unsigned device, unsigned port, bool is_open);
    void *ctx;
};

struct machine_status {
    enum machine_end end;
    bool was_reset;      /* rebooted since the last call, and runs again */
    uint32_t exit_value; /* DEBUG_EXIT: what the guest wrote */
    struct yado_error error;
};

/* Makes everything and loads the kernel; nothing runs. NULL and err on failure. */
struct machine *machine_new(const struct machine_config *cfg, struct yado_error *err);
bool machine_start(struct machine *m, struct yado_error *err); /* once */
void machine_free(struct machine *m); /* ends it in whatever state it is; NULL is fine */

void machine_pause(struct machine *m); /* returns when no CPU runs guest code */
void machine_resume(struct machine *m);

/* Moves the guest's time ahead, all its clocks alike, as if it had been paused for `ns` more. While paused.
 * False and err if the engine cannot; then the guest is to be given up. */
bool machine_time_skip(struct machine *m, uint64_t ns, struct yado_error *err);

/* Looks at what the guest asked for since the last call: reboots it, or says how it ended. After an end only
 * machine_free is to be called. */
void machine_service(struct machine *m, struct machine_status *out);

/* Any thread, while the machine exists. */
void machine_press_power_button(struct machine *m);
void machine_console_size(struct machine *m, unsigned index, uint16_t columns, uint16_t rows);
void machine_port_size(struct machine *m, unsigned device, unsigned port, uint16_t columns, uint16_t rows);
/* After machine_start; one thread at a time: see board_port_attach. */
bool machine_port_attach(struct machine *m, unsigned device, unsigned port, const struct pump_ends *ends,
                         struct yado_error *err);
void machine_balloon_target(struct machine *m, uint64_t size); /* see board_balloon_target */
/* The socket device, which is there: see board_socket_answer. */
bool machine_socket_answer(struct machine *m, uint64_t id, int fd);
bool machine_socket_connect(struct machine *m, uint32_t guest_port, int fd, uint64_t tag,
                            struct yado_error *err);
bool machine_net_forward(struct machine *m, unsigned index, const struct net_forward *f, bool add,
                         struct yado_error *err);
bool machine_net_attach(struct machine *m, unsigned index, const struct net_config *cfg,
                        struct yado_error *err);
void machine_counters(struct machine *m, void (*fn)(void *ctx, const char *name, uint64_t value), void *ctx);

#endif
