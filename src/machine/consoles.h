/* The virtio consoles of a board: those with one port, and those with several. */
#ifndef MACHINE_CONSOLES_H
#define MACHINE_CONSOLES_H

#include "chip/pci_host.h"
#include "machine/board.h"

struct consoles;

struct consoles_config {
    const struct board_devices *devices; /* its consoles, and the consoles among its serial ports */
    struct pci_host *pci;
    struct gmem *mem;
    struct loop *loop;
    const struct log *log;
    /* A port of a console with several was opened or closed by the guest. vCPU or loop thread, a device's
     * lock held: does not block and calls nothing here. May be NULL. */
    void (*port_open)(void *ctx, unsigned device, unsigned port, bool is_open);
    void *ctx;
};

/* Makes the devices and plugs them in, those with one port first. NULL and err on failure. */
struct consoles *consoles_new(const struct consoles_config *cfg, struct yado_error *err);
bool consoles_start(struct consoles *c, struct yado_error *err);
void consoles_stop(struct consoles *c);  /* output is written out first. Idempotent */
void consoles_reset(struct consoles *c); /* no vCPU runs */
void consoles_free(struct consoles *c);  /* no vCPU runs; NULL is fine */

/* What does not exist is ignored. Any thread. */
void consoles_size(struct consoles *c, unsigned index, uint16_t columns, uint16_t rows); /* with one port */
void consoles_port_size(struct consoles *c, unsigned device, unsigned port, uint16_t columns, uint16_t rows);

/* Attaches something else to a port of a console with several, while it runs: see pump_attach. The port must
 * exist. */
bool consoles_attach(struct consoles *c, unsigned device, unsigned port, const struct pump_ends *ends,
                     struct yado_error *err);

#endif
