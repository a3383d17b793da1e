/* Everything of the PC but its CPUs and memory: buses, chips, PCI devices, and the pumps behind serial ports.
 */
#ifndef MACHINE_BOARD_H
#define MACHINE_BOARD_H

#include "bus/doorbell.h"
#include "bus/line.h"
#include "disk/disk.h"
#include "engine/exit.h"
#include "host/clock.h"
#include "machine/pump.h"
#include "mem/gmem.h"
#include "net/net.h"
#include "util/log.h"

#define BOARD_DEVICE_MAX 24
#define BOARD_PORTS_MAX 31 /* of one console */

enum board_request { BOARD_POWER_OFF, BOARD_RESET, BOARD_PANIC };

struct board_disk {
    struct disk *disk;      /* borrowed */
    const char *name;       /* for messages */
    const char *identifier; /* NULL: none */
};

enum board_serial_kind { BOARD_VIRTIO_CONSOLE, BOARD_UART };

struct board_serial {
    enum board_serial_kind kind;
    struct pump_ends ends;
    uint16_t columns, rows; /* of the terminal; 0: not known. Consoles only */
};

/* A port of a console with several. */
struct board_port {
    bool is_present;
    const char *name; /* NULL: none */
    bool is_console;  /* a terminal for the guest */
    struct pump_ends ends;
    uint16_t columns, rows; /* of the terminal; 0: not known */
};

struct board_console {
    const struct board_port *ports; /* borrowed */
    unsigned port_count;            /* 1 to BOARD_PORTS_MAX, absent ones included */
};

struct board_net {
    struct net_config config; /* what it points to is borrowed */
    uint8_t mac[6];
};

/* What `asked` returns instead of a descriptor. */
enum { BOARD_SOCKET_REFUSED = -1, BOARD_SOCKET_LATER = -2, BOARD_SOCKET_BUSY = -3 };

struct board_socket_listener {
    int fd; /* a listening stream socket; borrowed */
    uint32_t guest_port;
};

/* The socket device's other side. */
struct board_sockets {
    bool present;
    const struct board_socket_listener
        *listeners; /* what comes in there goes to a port of the guest; borrowed */
    unsigned listener_count;
    /* A program of the guest connects to port `host_port` of the host. Returns a connected socket, which is
     * taken over, or REFUSED; LATER: board_socket_answer follows; BUSY: ask again soon. `connected` tells
     * what became of a board_socket_connect. Event loop thread (connected: any), with a lock of the device
     * held: they do not block, and call nothing here. */
    int (*asked)(void *ctx, uint64_t id, uint32_t guest_port, uint32_t host_port);
    void (*connected)(void *ctx, uint64_t tag, uint32_t host_port, const struct yado_error *why);
    void *ctx;
};

struct board_devices {
    struct board_disk disks[BOARD_DEVICE_MAX];
    unsigned disk_count;
    struct board_serial serials[BOARD_DEVICE_MAX]; /* at most one is a BOARD_UART */
    unsigned serial_count;
    struct board_console consoles[BOARD_DEVICE_MAX];
    unsigned console_count;
    unsigned entropy_count;
    bool balloon;
    struct board_sockets sockets;
    struct board_net nets[BOARD_DEVICE_MAX];
    unsigned net_count;
};

struct board_config {
    unsigned vcpu_count;
    struct gmem *mem;
    struct msi_sink msi;
    bool legacy;      /* with the older chips of a PC (legacy.h) */
    bool debug_exit;  /* with the port whose writes end the guest */
    struct line intr; /* output of the 8259s, with `legacy`. Called with a chip's lock held */
    struct clock clock;
    const struct log *log;
    const struct board_devices *devices; /* read by board_new only */
    /* The guest asks for something that concerns the whole machine. vCPU thread, no chip's lock held. */
    void (*request)(void *ctx, enum board_request what);
    /* The guest wrote to the debug exit port. vCPU thread, no chip's lock held. */
    void (*debug_exited)(void *ctx, uint32_t value);
    /* A network attachment is gone for good. Event loop thread, no lock held. May be NULL. */
    void (*net_lost)(void *ctx, unsigned index, const struct yado_error *why);
    /* The guest opened or closed a port of a console. vCPU or loop thread, a device's lock held: does not
     * block and calls nothing here. May be NULL. */
    void (*port_open)(void *ctx, unsigned device, unsigned port, bool is_open);
    void *ctx;
};

struct board;

/* Built and reset, device threads not running. NULL and err on failure. */
struct board *board_new(const struct board_config *cfg, struct yado_error *err);
bool board_start(struct board *b, struct yado_error *err); /* starts event loop and pumps */
void board_stop(struct board *b); /* ends them; output of the guest is written out first. Idempotent */
void board_free(struct board *b); /* no vCPU runs; stops; NULL is fine */

/* Where doorbells of devices go from now on. Once, before vCPUs run. */
void board_set_doorbell_sink(struct board *b, struct doorbell_sink sink);

/* As after power-on. No vCPU runs; device threads may. Waits for disk requests in flight. */
bool board_reset(struct board *b, struct yado_error *err);

/* Writes the ACPI tables to their place and returns their length, 0 on failure. */
uint64_t board_write_acpi(struct board *b, struct yado_error *err);

/* vCPU threads; ctx is the board. These are what engine_host wants. */
void board_io(void *ctx, unsigned vcpu, struct exit *access);
void board_eoi(void *ctx, unsigned vector);
uint8_t board_acknowledge(void *ctx); /* a board with `legacy` */

/* After BOARD_RESET, before board_reset: whether it was a reboot, not a crash. No vCPU runs. */
bool board_reset_was_orderly(struct board *b);

/* While set, no vCPU thread waits for a slow terminal. Any thread. */
void board_hurry(struct board *b, bool hurry);
void board_press_power_button(struct board *b);                                            /* any thread */
void board_console_size(struct board *b, unsigned index, uint16_t columns, uint16_t rows); /* any thread */
void board_port_size(struct board *b, unsigned device, unsigned port, uint16_t columns,
                     uint16_t rows); /* any thread */

/* Attaches something else to a port of console `device`, while the board runs. One thread at a time, not the
 * board's own. See machine/pump.h. */
bool board_port_attach(struct board *b, unsigned device, unsigned port, const struct pump_ends *ends,
                       struct yado_error *err);

/* How much memory the guest shall have, in bytes, whole pages; more than there is means all. Nothing without
 * a balloon. Any thread. */
void board_balloon_target(struct board *b, uint64_t size);

/* The socket device, which is there; any thread. See virtio/vsock.h. */
bool board_socket_answer(struct board *b, uint64_t id, int fd);
bool board_socket_connect(struct board *b, uint32_t guest_port, int fd, uint64_t tag, struct yado_error *err);

/* Network device `index`, while the board runs; any thread but the board's own. See machine/nets.h. */
bool board_net_forward(struct board *b, unsigned index, const struct net_forward *f, bool add,
                       struct yado_error *err);
bool board_net_attach(struct board *b, unsigned index, const struct net_config *cfg, struct yado_error *err);

#endif
